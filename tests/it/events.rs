//! Sample events as their users get them.

use serde_json::Value;

use crate::support::project::Project;
use crate::support::project::assert_said;

/// The event that these arguments give.
fn event(arguments: &[&str]) -> Value {
    let project = Project::new();
    let said = project.lambimg(["event"].iter().chain(arguments)).succeed();
    serde_json::from_str(&said).expect("an event is JSON")
}

#[test]
fn sources_of_events() {
    assert_said!(Project::new().lambimg(["event"]).run());
}

#[test]
fn samples() {
    let project = Project::new();
    let list = project.lambimg(["event"]).succeed();
    for line in list.lines().skip(1) {
        let name = line.split(' ').next().expect("a line begins with a name");
        let outcome = project.lambimg(["event", name]).run();
        as_they_are()
            .bind(|| insta::assert_snapshot!(format!("event_{name}"), outcome.rendering()));
    }
}

#[test]
fn what_is_sent_can_be_given() {
    let said = event(&[
        "sqs",
        "--body",
        "hello",
        "--set",
        "Records.0.attributes.MessageGroupId=1",
    ]);
    assert_eq!(said["Records"][0]["body"], "hello");
    assert_eq!(said["Records"][0]["attributes"]["MessageGroupId"], 1);
    let said = event(&[
        "function-url",
        "--method",
        "put",
        "--path",
        "/a?b=c",
        "--header",
        "X-One: 1:2",
        "--body",
        "é",
    ]);
    assert_eq!(said["requestContext"]["http"]["method"], "PUT");
    assert_eq!(said["queryStringParameters"]["b"], "c");
    assert_eq!(said["headers"]["x-one"], "1:2");
    assert_eq!(said["headers"]["content-length"], "2");

    let project = Project::new();
    project.file("order.json", r#"{"order": 17}"#);
    let said = project
        .lambimg(["event", "eventbridge", "--body", "@order.json"])
        .succeed();
    let said: Value = serde_json::from_str(&said).expect("an event is JSON");
    assert_eq!(said["detail"]["order"], 17);
}

#[test]
fn what_cannot_be_given() {
    let project = Project::new();
    let mut said = String::new();
    for arguments in [
        &["event", "apigatewayv2"][..],
        &["event", "s3", "--body", "x"],
        &["event", "schedule", "--body", "x"],
        &["event", "sqs", "--body", "@absent"],
        &["event", "sqs", "--set", "Records.4.body=x"],
        &["event", "sqs", "--set", "Records"],
        &["event", "alb", "--header", "no colon"],
        &["event", "--body", "x"],
    ] {
        let outcome = project.lambimg(arguments).run();
        assert_eq!(outcome.code, Some(2), "{}", outcome.rendering());
        assert_eq!(outcome.stdout, "");
        let typed = arguments.join(" ");
        said.extend(["$ lambimg ", &typed, "\n", &outcome.stderr, "\n"]);
    }
    as_they_are().bind(|| insta::assert_snapshot!("what_cannot_be_given_in_an_event", said));
}

/// Nothing in an event is of the day or of the machine.
fn as_they_are() -> insta::Settings {
    let mut settings = insta::Settings::clone_current();
    settings.set_omit_expression(true);
    settings.set_prepend_module_to_snapshot(false);
    settings
}
