//! A request as API Gateway, function URLs and load balancers hand it to a function.
//!
//! Each has its own words for the same: [payload formats of API Gateway], [of load balancers].
//!
//! [payload formats of API Gateway]: https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-develop-integrations-lambda.html
//! [of load balancers]: https://docs.aws.amazon.com/elasticloadbalancing/latest/application/lambda-functions.html

use reqwest::Url;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::lambda::event::Changes;

/// A request through a REST API: payload format 1.0.
pub(super) fn change_rest_api(event: &mut Value, changes: &Changes) {
    if let Some(method) = method(changes) {
        event["httpMethod"] = method.as_str().into();
        event["requestContext"]["httpMethod"] = method.into();
    }
    if let Some((path, query)) = path_and_query(changes) {
        let stage = event["requestContext"]["stage"]
            .as_str()
            .unwrap_or_default();
        event["requestContext"]["path"] = format!("/{stage}{path}").into();
        event["pathParameters"] = match path.trim_start_matches('/') {
            "" => Value::Null,
            proxy => json!({"proxy": proxy}),
        };
        event["path"] = path.into();
        let pairs = decoded(&query);
        let all = lists(&pairs);
        let last = pairs.into_iter().map(|(name, value)| (name, value.into()));
        event["queryStringParameters"] = or_null(last.collect());
        event["multiValueQueryStringParameters"] = or_null(all);
    }
    change_body(event, changes, Some(Value::Null));
    for (name, value) in &changes.headers {
        for field in ["headers", "multiValueHeaders"] {
            remove(&mut event[field], name);
        }
        event["headers"][name] = value.as_str().into();
        let same = changes.headers.iter();
        let same = same.filter(|(other, _)| other.eq_ignore_ascii_case(name));
        event["multiValueHeaders"][name] = same.map(|(_, value)| value.as_str()).collect();
    }
}

/// A request through an HTTP API or a function URL: payload format 2.0.
pub(super) fn change_http_api(event: &mut Value, changes: &Changes) {
    if let Some(method) = method(changes) {
        event["requestContext"]["http"]["method"] = method.into();
    }
    if let Some((path, query)) = path_and_query(changes) {
        event["requestContext"]["http"]["path"] = path.as_str().into();
        event["rawPath"] = path.into();
        let joined = lists(&decoded(&query))
            .into_iter()
            .map(|(name, values)| (name, join(&values)));
        // Where there is no query, there is no such field.
        change_field(event, "queryStringParameters", joined.collect());
        event["rawQueryString"] = query.into();
    }
    change_body(event, changes, None);
    let (cookies, headers): (Vec<_>, Vec<_>) = changes
        .headers
        .iter()
        .partition(|(name, _)| name.eq_ignore_ascii_case("cookie"));
    if !cookies.is_empty() {
        let cookies = cookies.iter().flat_map(|(_, value)| value.split(';'));
        event["cookies"] = cookies.map(str::trim).collect();
    }
    let headers: Vec<_> = headers
        .into_iter()
        .cloned()
        .map(|(name, value)| (name.to_ascii_lowercase(), value))
        .collect();
    for (name, values) in lists(&headers) {
        event["headers"][name] = join(&values);
    }
}

/// A request through a load balancer, which decodes nothing of a query.
pub(super) fn change_alb(event: &mut Value, changes: &Changes) {
    if let Some(method) = method(changes) {
        event["httpMethod"] = method.into();
    }
    if let Some((path, query)) = path_and_query(changes) {
        event["path"] = path.into();
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        let pairs = pairs.map(|(name, value)| (name.to_owned(), value.into()));
        event["queryStringParameters"] = Value::Object(pairs.collect());
    }
    change_body(event, changes, Some("".into()));
    for (name, value) in &changes.headers {
        event["headers"][name.to_ascii_lowercase()] = value.as_str().into();
    }
}

fn method(changes: &Changes) -> Option<String> {
    changes.method.as_ref().map(|method| method.to_uppercase())
}

/// The path, which begins with a slash, and the query as it is written.
fn path_and_query(changes: &Changes) -> Option<(String, String)> {
    let written = changes.path.as_ref()?;
    let (path, query) = written.split_once('?').unwrap_or((written, ""));
    Some((
        format!("/{}", path.trim_start_matches('/')),
        query.to_owned(),
    ))
}

/// The body, its length and its type. A method that has no body takes the sample's away, and leaves `none`.
fn change_body(event: &mut Value, changes: &Changes, none: Option<Value>) {
    let has_none = method(changes)
        .is_some_and(|method| ["GET", "HEAD", "DELETE", "OPTIONS"].contains(&method.as_str()));
    match &changes.body {
        Some(body) => {
            event["body"] = body.as_str().into();
            if let Some(length) = event["headers"].get_mut("content-length") {
                *length = body.len().to_string().into();
            }
        }
        None if has_none => {
            for name in ["content-type", "content-length"] {
                remove(&mut event["headers"], name);
                if let Some(headers) = event.get_mut("multiValueHeaders") {
                    remove(headers, name);
                }
            }
            match (none, event.as_object_mut()) {
                (Some(none), _) => event["body"] = none,
                (None, Some(fields)) => drop(fields.remove("body")),
                (None, None) => {}
            }
        }
        None => {}
    }
}

/// Removes a header, whatever the letters' case.
fn remove(headers: &mut Value, name: &str) {
    if let Some(headers) = headers.as_object_mut() {
        headers.retain(|other, _| !other.eq_ignore_ascii_case(name));
    }
}

/// Names and values of a query, with what is escaped in them.
fn decoded(query: &str) -> Vec<(String, String)> {
    let url = Url::parse(&format!("http://localhost/?{query}"));
    let url = url.iter();
    let pairs = url.flat_map(Url::query_pairs);
    pairs
        .map(|(name, value)| (name.into_owned(), value.into_owned()))
        .collect()
}

/// All values of each name.
fn lists(pairs: &[(String, String)]) -> Map<String, Value> {
    let mut lists = Map::new();
    for (name, value) in pairs {
        let list = lists.entry(name).or_insert_with(|| json!([]));
        list.as_array_mut()
            .into_iter()
            .for_each(|list| list.push(value.as_str().into()));
    }
    lists
}

/// Values as the format 2.0 has them: with commas between.
fn join(values: &Value) -> Value {
    let values = values
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str);
    values.collect::<Vec<_>>().join(",").into()
}

fn or_null(fields: Map<String, Value>) -> Value {
    if fields.is_empty() {
        Value::Null
    } else {
        Value::Object(fields)
    }
}

fn change_field(event: &mut Value, name: &str, fields: Map<String, Value>) {
    let Some(event) = event.as_object_mut() else {
        return;
    };
    if fields.is_empty() {
        event.remove(name);
    } else {
        event.insert(name.to_owned(), Value::Object(fields));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lambda::event::Source;

    fn event(name: &str, changes: &Changes) -> Value {
        name.parse::<&Source>().unwrap().event(changes).unwrap()
    }

    fn get(path: &str) -> Changes {
        Changes {
            method: Some("get".to_owned()),
            path: Some(path.to_owned()),
            headers: [
                ("Accept", "a"),
                ("X-Two", "1"),
                ("X-Two", "2"),
                ("Cookie", "a=1; b=2"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec(),
            ..Changes::default()
        }
    }

    #[test]
    fn a_rest_apis_request() {
        let event = event("apigateway", &get("/a%20b/c?x=1&x=%C3%A9&y"));
        assert_eq!(event["httpMethod"], "GET");
        assert_eq!(event["requestContext"]["httpMethod"], "GET");
        assert_eq!(event["path"], "/a%20b/c");
        assert_eq!(event["requestContext"]["path"], "/prod/a%20b/c");
        assert_eq!(event["pathParameters"], json!({"proxy": "a%20b/c"}));
        assert_eq!(event["queryStringParameters"], json!({"x": "é", "y": ""}));
        assert_eq!(
            event["multiValueQueryStringParameters"],
            json!({"x": ["1", "é"], "y": [""]})
        );
        assert_eq!(
            (&event["body"], event.get("body").is_some()),
            (&Value::Null, true)
        );
        assert_eq!(event["headers"]["X-Two"], "2");
        assert_eq!(event["multiValueHeaders"]["X-Two"], json!(["1", "2"]));
        assert_eq!(event["multiValueHeaders"]["Accept"], json!(["a"]));
        assert_eq!(event["headers"].get("Content-Type"), None);
    }

    #[test]
    fn a_request_in_format_2() {
        for name in ["apigateway-v2", "function-url"] {
            let event = event(name, &get("a/b?x=1&x=%C3%A9"));
            assert_eq!(event["requestContext"]["http"]["method"], "GET");
            assert_eq!(event["requestContext"]["http"]["path"], "/a/b");
            assert_eq!(event["rawPath"], "/a/b");
            assert_eq!(event["rawQueryString"], "x=1&x=%C3%A9");
            assert_eq!(event["queryStringParameters"], json!({"x": "1,é"}));
            assert_eq!(event["headers"]["x-two"], "1,2");
            assert_eq!(event["headers"].get("cookie"), None);
            assert_eq!(event["cookies"], json!(["a=1", "b=2"]));
            assert_eq!(event.get("body"), None);
        }
        let event = event(
            "apigateway-v2",
            &Changes {
                path: Some("/".to_owned()),
                ..Changes::default()
            },
        );
        assert_eq!(
            (&event["rawQueryString"], event.get("queryStringParameters")),
            (&json!(""), None)
        );
    }

    #[test]
    fn a_load_balancers_request() {
        let event = event("alb", &get("/a?x=%C3%A9&y"));
        assert_eq!(event["httpMethod"], "GET");
        assert_eq!(event["path"], "/a");
        assert_eq!(
            event["queryStringParameters"],
            json!({"x": "%C3%A9", "y": ""})
        );
        assert_eq!(event["body"], "");
        assert_eq!(event["headers"]["x-two"], "2");
        assert_eq!(event["headers"].get("content-length"), None);
    }

    #[test]
    fn a_body_has_its_length() {
        let body = || Changes {
            body: Some("é".to_owned()),
            ..Changes::default()
        };
        let event = event("alb", &body());
        assert_eq!(
            (&event["body"], &event["headers"]["content-length"]),
            (&json!("é"), &json!("2"))
        );
    }
}
