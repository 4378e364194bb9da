//! A place in an event, as people write it: `Records.0.s3.object.key`, and what is put there.
//!
//! What the event is of is not known here.

use serde_json::Map;
use serde_json::Value;

use crate::lambda::event::Error;

/// Puts what was written at a place: JSON where it is some, else text. Where a text stands, text stays, so that a
/// key of digits does not become a number; `null` and a text in quotes are what they say.
pub(super) fn set(event: &mut Value, place: &str, written: &str) -> Result<(), Error> {
    let target = reach(event, place)?;
    let read = serde_json::from_str(written);
    *target = match read {
        Ok(value @ (Value::String(_) | Value::Null)) => value,
        Ok(value) if !target.is_string() => value,
        _ => written.into(),
    };
    Ok(())
}

/// Puts a value at a place.
pub(super) fn put(event: &mut Value, place: &str, value: Value) -> Result<(), Error> {
    *reach(event, place)? = value;
    Ok(())
}

/// What stands at a place; objects and the next element of an array are made on the way there.
fn reach<'event>(event: &'event mut Value, place: &str) -> Result<&'event mut Value, Error> {
    let mut here = event;
    for step in steps(place) {
        let nowhere = |why| Error::Nowhere {
            place: place.to_owned(),
            step: step.clone(),
            why,
        };
        if here.is_null() {
            *here = Value::Object(Map::new());
        }
        here = match here {
            Value::Object(_) if step.is_empty() => return Err(nowhere("names nothing")),
            Value::Object(fields) => fields.entry(step).or_insert(Value::Null),
            Value::Array(elements) => {
                let index = step.parse::<usize>();
                let index = index.map_err(|_| nowhere("is no number, and the place is a list"))?;
                if index == elements.len() {
                    elements.push(Value::Null);
                }
                let element = elements.get_mut(index);
                element.ok_or_else(|| nowhere("is beyond the end of the list"))?
            }
            _ => return Err(nowhere("is below what is neither an object nor a list")),
        };
    }
    Ok(here)
}

/// The parts between dots; `\.` is a dot in a name, and `[0]` is `.0`.
fn steps(place: &str) -> Vec<String> {
    let mut steps = vec![String::new()];
    let mut letters = place.chars().peekable();
    while let Some(letter) = letters.next() {
        let last = steps.last_mut();
        match letter {
            '\\' => last
                .into_iter()
                .for_each(|step| step.extend(letters.next())),
            '.' => steps.push(String::new()),
            '[' if letters.peek().is_some_and(char::is_ascii_digit) => steps.push(String::new()),
            ']' if last
                .as_ref()
                .is_some_and(|step| step.parse::<usize>().is_ok()) => {}
            _ => last.into_iter().for_each(|step| step.push(letter)),
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn changed(place: &str, written: &str) -> Result<Value, Error> {
        let mut event = json!({"list": [{"key": "a", "n": 1}], "object": {"a.b": null}});
        set(&mut event, place, written).map(|()| event)
    }

    #[test]
    fn places_are_reached_or_made() {
        for (place, pointer) in [
            ("list.0.n", "/list/0/n"),
            ("list[0].n", "/list/0/n"),
            ("list.1.new.er", "/list/1/new/er"),
            ("object.a\\.b", "/object/a.b"),
            ("object.a\\.b.c", "/object/a.b/c"),
            ("detail-type", "/detail-type"),
        ] {
            let event = changed(place, "[2]").unwrap();
            assert_eq!(event.pointer(pointer), Some(&json!([2])), "{place}");
        }
    }

    #[test]
    fn values_are_json_or_text() {
        let value = |place: &str, written: &str| {
            let event = changed(place, written).unwrap();
            let pointer = format!("/{}", place.replace('.', "/"));
            event.pointer(&pointer).unwrap().clone()
        };
        for (written, wanted) in [
            ("2", json!(2)),
            ("true", json!(true)),
            ("null", json!(null)),
            (r#""2""#, json!("2")),
            ("two words", json!("two words")),
            ("{broken", json!("{broken")),
            ("", json!("")),
        ] {
            assert_eq!(value("list.0.n", written), wanted, "{written}");
        }
        // A text stays one.
        for (written, wanted) in [
            ("2", json!("2")),
            (r#"{"a":1}"#, json!(r#"{"a":1}"#)),
            ("null", json!(null)),
            (r#""b""#, json!("b")),
        ] {
            assert_eq!(value("list.0.key", written), wanted, "{written}");
        }
    }

    #[test]
    fn places_that_lead_nowhere() {
        let error = |place: &str| changed(place, "1").unwrap_err().to_string();
        insta::assert_snapshot!(error("list.x"), @"`list.x` leads nowhere in this event: `x` is no number, and the place is a list");
        insta::assert_snapshot!(error("list.5.a"), @"`list.5.a` leads nowhere in this event: `5` is beyond the end of the list");
        insta::assert_snapshot!(error("list.0.n.a"), @"`list.0.n.a` leads nowhere in this event: `a` is below what is neither an object nor a list");
        insta::assert_snapshot!(error("object..a"), @"`object..a` leads nowhere in this event: `` names nothing");
    }
}
