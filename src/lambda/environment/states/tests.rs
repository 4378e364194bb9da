//! The states alone: which step is allowed when.

use super::*;

fn call(number: u32) -> Call {
    Call {
        request_id: format!("request {number}"),
        invocation_id: format!("attempt {number}"),
        ..Call::default()
    }
}

fn claim<'a>(request_id: &'a str, invocation_id: Option<&'a str>) -> Claim<'a> {
    Claim {
        request_id,
        invocation_id,
    }
}

fn response() -> Answer {
    Answer::Response {
        payload: Bytes::from("1"),
        content_type: None,
    }
}

fn events(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

fn running() -> States {
    let mut states = States::default();
    states.runtime_started();
    states.runtime_next().unwrap();
    states.begin(call(1));
    states.runtime_takes().unwrap();
    states
}

#[test]
fn a_runtime_takes_an_event_and_answers_it_once() {
    let mut states = running();
    assert!(states.runtime_takes().is_none());
    assert!(!states.runtime_is_done());
    states.runtime_answers(claim("request 1", None)).unwrap();
    states.runtime_answered(Some(response()));
    assert!(!states.call_is_done(), "it has not asked for the next");
    let again = states.runtime_answers(claim("request 1", Some("attempt 1")));
    assert!(matches!(
        again,
        Err(Refused::Runtime {
            from: "ResponseSent",
            ..
        })
    ));
    states.runtime_next().unwrap();
    assert!(states.call_is_done());
    assert!(states.runtime_takes().is_none(), "nothing is to be done");
}

#[test]
fn an_answer_says_which_call_it_is_for() {
    let mut states = running();
    let wrong = states.runtime_answers(claim("request 0", None));
    assert_eq!(wrong, Err(Refused::RequestId));
    let stale = states.runtime_answers(claim("request 1", Some("attempt 0")));
    assert_eq!(stale, Err(Refused::Stale));
    states
        .runtime_answers(claim("request 1", Some("attempt 1")))
        .unwrap();
    states.runtime_answered(None);
    states
        .runtime_answers(claim("request 1", None))
        .expect("an answer that broke off may be given again");
}

#[test]
fn an_event_that_was_not_answered_is_given_again() {
    let mut states = running();
    states.runtime_next().unwrap();
    assert!(!states.runtime_is_done());
    assert_eq!(states.runtime_takes(), Some(call(1)));
}

#[test]
fn a_runtime_fails_to_start_only_before_it_has_started() {
    let posted = || Posted {
        error_type: "Runtime.Unknown".to_owned(),
        document: Bytes::from("{}"),
    };
    assert!(running().runtime_init_error(posted()).is_err());
    let mut states = States::default();
    states.runtime_started();
    states.runtime_init_error(posted()).unwrap();
    assert!(states.runtime_next().is_err());
    states.runtime_exited(Exit::Code(1));
    assert_eq!(states.fatal(), Some(Fatal::InitError(posted())));
    states.ends();
    assert_eq!(states.fatal(), None);
}

#[test]
fn external_extensions_register_by_their_names_and_once() {
    let mut states = States::default();
    states.expect_extension("watch".to_owned(), "its id".to_owned());
    assert!(!states.all_registered());
    let both = events(&["INVOKE", "SHUTDOWN"]);
    let registered = states.register("watch", &both, "other".to_owned()).unwrap();
    assert_eq!(registered.identifier, "its id");
    assert!(states.all_registered());
    let again = states.register("watch", &both, "other".to_owned());
    assert!(matches!(
        again,
        Err(Refused::Extension {
            from: "Registered",
            ..
        })
    ));
}

#[test]
fn internal_extensions_are_ten_at_most_and_never_told_the_end() {
    let mut states = States::default();
    let shutdown = states.register("a", &events(&["SHUTDOWN"]), "id".to_owned());
    assert!(matches!(shutdown, Err(Refused::EventType(_))));
    let unknown = states.register("a", &events(&["OTHER"]), "id".to_owned());
    assert!(matches!(unknown, Err(Refused::EventType(_))));
    for number in 0..MAX_EXTENSIONS {
        let name = format!("internal {number}");
        states
            .register(&name, &events(&["INVOKE"]), name.clone())
            .unwrap();
    }
    let taken = states.register("internal 0", &[], "id".to_owned());
    assert_eq!(taken.map(drop), Err(Refused::NameTaken));
    let full = states.register("one more", &[], "id".to_owned());
    assert_eq!(full.map(drop), Err(Refused::TooManyExtensions));
    states.runtime_started();
    states.runtime_next().unwrap();
    let late = states.register("late", &[], "id".to_owned());
    assert_eq!(late.map(drop), Err(Refused::RegistrationClosed));
}

#[test]
fn a_call_lasts_until_the_extensions_that_asked_for_it_are_through() {
    let mut states = States::default();
    for (name, asked) in [("told", &["INVOKE"][..]), ("untold", &[])] {
        states
            .register(name, &events(asked), name.to_owned())
            .unwrap();
    }
    states.runtime_started();
    states.runtime_next().unwrap();
    assert!(!states.init_is_done());
    states.extension_next("told").unwrap();
    states.extension_next("untold").unwrap();
    assert!(states.init_is_done());
    let twice = states.extension_next("told");
    assert!(matches!(
        twice,
        Err(Refused::Extension { from: "Ready", .. })
    ));
    assert!(states.extension_takes("told").is_none());

    states.begin(call(1));
    let (event, given) = states.extension_takes("told").unwrap();
    assert_eq!((event, given), (Event::Invoke, Some(call(1))));
    assert!(states.extension_takes("untold").is_none());
    states.runtime_takes().unwrap();
    states.runtime_answers(claim("request 1", None)).unwrap();
    states.runtime_answered(Some(response()));
    states.runtime_next().unwrap();
    assert!(states.runtime_is_done() && !states.call_is_done());
    states.extension_next("told").unwrap();
    assert!(states.call_is_done());
}

#[test]
fn an_extension_says_its_first_error_alone() {
    let mut states = States::default();
    states.register("one", &[], "one".to_owned()).unwrap();
    for word in ["Extension.First", "Extension.Second"] {
        states.extension_init_error("one", word.to_owned()).unwrap();
    }
    let first = Fatal::ExtensionInit("Extension.First".to_owned());
    assert_eq!(states.fatal(), Some(first));
    assert!(
        states
            .extension_exit_error("one", "Extension.X".to_owned())
            .is_err()
    );
    assert!(states.extension_next("one").is_err());
    let nobody = states.extension_next("nobody");
    assert_eq!(nobody, Err(Refused::UnknownExtension));
}

#[test]
fn the_end_is_told_to_those_who_asked_for_it() {
    let mut states = States::default();
    for (name, asked) in [("told", &["SHUTDOWN"][..]), ("untold", &["INVOKE"])] {
        states.expect_extension(name.to_owned(), name.to_owned());
        states
            .register(name, &events(asked), String::new())
            .unwrap();
        states.extension_next(name).unwrap();
    }
    states.ends();
    assert_eq!(states.shut_down(7, Reason::Timeout), ["untold"]);
    let (event, _) = states.extension_takes("told").unwrap();
    assert_eq!(event, Event::Shutdown(7, Reason::Timeout));
    assert!(states.extension_takes("untold").is_none());
    states.extension_exited("told", Exit::Code(0));
    assert_eq!(states.fatal(), None);
}
