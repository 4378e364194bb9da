//! The states of a runtime and of its extensions, and what each may do in them.
//!
//! Pure: nothing waits here, nothing is sent, no time passes. Each call of an API is one step; what is refused is
//! refused in the platform's words.

use std::fmt;

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::lambda::sandbox::Exit;

/// The most extensions of an environment, external and internal together.
pub(super) const MAX_EXTENSIONS: usize = 10;

/// The state of the runtime.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Runtime {
    /// It was not started.
    #[default]
    Absent,
    /// It was started, and has not asked for an event yet.
    Started,
    /// It said that it cannot start.
    InitError(Posted),
    /// It waits for an event.
    Ready,
    /// It has the event.
    Running,
    /// Its answer is on the way.
    Answering,
    /// Its answer is here.
    Answered,
    /// Its process ended.
    Exited(Exit),
}

impl Runtime {
    fn name(&self) -> &'static str {
        match self {
            Self::Absent => "Absent",
            Self::Started => "Started",
            Self::InitError(_) => "InitError",
            Self::Ready => "Ready",
            Self::Running => "Running",
            Self::Answering => "InvocationResponse",
            Self::Answered => "ResponseSent",
            Self::Exited(_) => "Exited",
        }
    }
}

/// An error as a runtime posts it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Posted {
    /// Its type, as far as the platform knows it.
    pub error_type: String,
    /// Its document.
    pub document: Bytes,
}

/// What a runtime answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// A response.
    Response {
        /// What it says.
        payload: Bytes,
        /// In which form.
        content_type: Option<String>,
    },
    /// An error.
    Error(Posted),
    /// A response that its caller was given piece by piece, of so many bytes.
    Streamed(usize),
    /// A response that broke off when its caller had been given pieces of it.
    Truncated,
    /// A response of more bytes than may be.
    TooLarge {
        /// How many may be.
        limit: usize,
    },
}

/// A call on its way through an environment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Call {
    /// The identifier of the request.
    pub request_id: String,
    /// The identifier of this attempt at it.
    pub invocation_id: String,
    /// The event.
    pub event: Bytes,
    /// When its time is over, in milliseconds of the epoch.
    pub deadline_ms: u64,
    /// X-Ray's header.
    pub trace_id: String,
    /// The client's context.
    pub client_context: Option<String>,
    /// Cognito's identity.
    pub cognito_identity: Option<String>,
    /// The tenant.
    pub tenant_id: Option<String>,
}

/// What an extension can subscribe to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Events {
    /// Each call.
    pub invoke: bool,
    /// The end.
    pub shutdown: bool,
}

impl fmt::Display for Events {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.names().join(", "))
    }
}

impl Events {
    /// Their names.
    pub(super) fn names(self) -> Vec<&'static str> {
        let named = [(self.invoke, "INVOKE"), (self.shutdown, "SHUTDOWN")];
        let subscribed = named.iter().filter(|(subscribed, _)| *subscribed);
        subscribed.map(|(_, name)| *name).collect()
    }
}

/// The state of an extension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Phase {
    /// It was started, and has not registered.
    Started,
    /// It registered, and has not asked for an event yet.
    Registered,
    /// It waits for an event.
    Ready,
    /// It has an event.
    Running,
    /// It said that it cannot start.
    InitError(String),
    /// It said that it ends.
    ExitError(String),
    /// It could not be executed.
    LaunchError(String),
    /// Its process ended.
    Exited(Exit),
}

impl Phase {
    /// The platform's name of it.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Started => "Started",
            Self::Registered => "Registered",
            Self::Ready => "Ready",
            Self::Running => "Running",
            Self::InitError(_) => "InitError",
            Self::ExitError(_) => "ExitError",
            Self::LaunchError(_) => "LaunchError",
            Self::Exited(_) => "Exited",
        }
    }

    fn is_over(&self) -> bool {
        matches!(
            self,
            Self::InitError(_) | Self::ExitError(_) | Self::LaunchError(_) | Self::Exited(_)
        )
    }
}

/// An extension.
#[derive(Debug, Clone)]
pub(super) struct Extension {
    /// Its name: an external one's is that of its file.
    pub name: String,
    /// What it names itself by.
    pub identifier: String,
    /// Whether it is a process of its own.
    pub external: bool,
    /// What it subscribed to.
    pub events: Events,
    /// How far it is.
    pub phase: Phase,
    /// What it is to be told next.
    told_next: Option<Event>,
}

/// What an extension is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    /// A call began.
    Invoke,
    /// The environment ends: until when it may take, in milliseconds of the epoch, and why.
    Shutdown(u64, Reason),
}

/// Why an environment ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// Nobody needs it any more.
    Spindown,
    /// A call took too long.
    Timeout,
    /// The runtime or an extension failed.
    Failure,
}

impl Reason {
    /// The word for it in events.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Spindown => "spindown",
            Self::Timeout => "timeout",
            Self::Failure => "failure",
        }
    }
}

/// What cannot be recovered from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fatal {
    /// The runtime said that it cannot start.
    InitError(Posted),
    /// The runtime's process ended.
    RuntimeExit(Exit),
    /// An extension said that it cannot start.
    ExtensionInit(String),
    /// An extension said that it ends.
    ExtensionExit(String),
    /// An extension could not be executed.
    ExtensionLaunch(String),
    /// An extension's process ended.
    ExtensionCrash(Exit),
}

/// A step that is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    #[error(
        "State transition from {from} to {to} failed for runtime. Error: State transition is not allowed"
    )]
    Runtime {
        from: &'static str,
        to: &'static str,
    },
    #[error("Invalid request ID")]
    RequestId,
    #[error("Invoke timeout")]
    Stale,
    #[error(
        "State transition from {from} to {to} failed for extension {name}. Error: State transition is not allowed"
    )]
    Extension {
        from: &'static str,
        to: &'static str,
        name: String,
    },
    #[error("Extension with this name already registered")]
    NameTaken,
    #[error("Extension registration closed already")]
    RegistrationClosed,
    #[error("Extension limit ({MAX_EXTENSIONS}) reached")]
    TooManyExtensions,
    #[error("{0}")]
    EventType(String),
    #[error("Unknown Lambda-Extension-Identifier")]
    UnknownExtension,
}

/// What a runtime says to which call it answers by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Claim<'a> {
    /// The request's identifier, from the address.
    pub request_id: &'a str,
    /// The attempt's identifier, where the runtime repeats it.
    pub invocation_id: Option<&'a str>,
}

/// All states of an environment between one INIT and its end.
#[derive(Debug, Default)]
pub(super) struct States {
    runtime: Runtime,
    extensions: Vec<Extension>,
    call: Option<Call>,
    /// Whether the runtime has yet to be given the call.
    to_give: bool,
    answer: Option<Answer>,
    /// Takes pieces of the call's response.
    pieces: Option<mpsc::Sender<Bytes>>,
    registration_closed: bool,
    /// Whether processes may end now.
    ending: bool,
}

impl States {
    /// What the runtime does.
    #[cfg(test)]
    pub(super) fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// All extensions, in the order they came.
    pub(super) fn extensions(&self) -> &[Extension] {
        &self.extensions
    }

    /// An external extension that is about to be executed.
    pub(super) fn expect_extension(&mut self, name: String, identifier: String) {
        self.extensions.push(Extension {
            name,
            identifier,
            external: true,
            events: Events::default(),
            phase: Phase::Started,
            told_next: None,
        });
    }

    /// The runtime is about to be executed.
    pub(super) fn runtime_started(&mut self) {
        self.runtime = Runtime::Started;
    }

    /// The runtime asks for an event.
    pub(super) fn runtime_next(&mut self) -> Result<(), Refused> {
        match self.runtime {
            Runtime::Started | Runtime::Ready | Runtime::Answered => {
                self.registration_closed = true;
                self.runtime = Runtime::Ready;
                Ok(())
            }
            // Who asks again before it answered is given the same event again.
            Runtime::Running => {
                self.to_give = true;
                self.runtime = Runtime::Ready;
                Ok(())
            }
            _ => Err(self.runtime_refused("Ready")),
        }
    }

    /// The event for a runtime that waits, where there is one.
    pub(super) fn runtime_takes(&mut self) -> Option<Call> {
        if self.runtime != Runtime::Ready || !self.to_give {
            return None;
        }
        self.to_give = false;
        self.runtime = Runtime::Running;
        self.call.clone()
    }

    /// The runtime begins to answer.
    pub(super) fn runtime_answers(&mut self, claim: Claim<'_>) -> Result<(), Refused> {
        let call = self.call.as_ref().ok_or(Refused::RequestId)?;
        if claim
            .invocation_id
            .is_some_and(|identifier| identifier != call.invocation_id)
        {
            return Err(Refused::Stale);
        }
        if claim.request_id != call.request_id {
            return Err(Refused::RequestId);
        }
        if self.runtime != Runtime::Running {
            return Err(self.runtime_refused("InvocationResponse"));
        }
        self.runtime = Runtime::Answering;
        Ok(())
    }

    /// The runtime's answer is here; none where it broke off, and then it may answer again.
    pub(super) fn runtime_answered(&mut self, answer: Option<Answer>) {
        if self.runtime != Runtime::Answering {
            return;
        }
        self.runtime = match answer {
            Some(_) => Runtime::Answered,
            None => Runtime::Running,
        };
        self.answer = answer;
    }

    /// The runtime says that it cannot start.
    pub(super) fn runtime_init_error(&mut self, posted: Posted) -> Result<(), Refused> {
        if self.runtime != Runtime::Started {
            return Err(self.runtime_refused("InitError"));
        }
        self.runtime = Runtime::InitError(posted);
        Ok(())
    }

    fn runtime_refused(&self, to: &'static str) -> Refused {
        Refused::Runtime {
            from: self.runtime.name(),
            to,
        }
    }

    /// The runtime's process ended. What it said before is kept.
    pub(super) fn runtime_exited(&mut self, exit: Exit) {
        if !matches!(self.runtime, Runtime::InitError(_)) {
            self.runtime = Runtime::Exited(exit);
        }
    }

    /// An extension registers; `identifier` is what it will be known by if it is an internal one.
    pub(super) fn register(
        &mut self,
        name: &str,
        events: &[String],
        identifier: String,
    ) -> Result<&Extension, Refused> {
        let known = self.extensions.iter().position(|one| one.name == name);
        let external = known.is_some_and(|place| self.extensions[place].external);
        let events = subscribed(events, external)?;
        let place = match known {
            Some(place) if external => {
                let extension = &mut self.extensions[place];
                if extension.phase != Phase::Started {
                    return Err(refused(extension, "Registered"));
                }
                extension.phase = Phase::Registered;
                extension.events = events;
                place
            }
            _ if self.registration_closed => return Err(Refused::RegistrationClosed),
            Some(_) => return Err(Refused::NameTaken),
            None if self.extensions.len() >= MAX_EXTENSIONS => {
                return Err(Refused::TooManyExtensions);
            }
            None => {
                self.extensions.push(Extension {
                    name: name.to_owned(),
                    identifier,
                    external: false,
                    events,
                    phase: Phase::Registered,
                    told_next: None,
                });
                self.extensions.len() - 1
            }
        };
        Ok(&self.extensions[place])
    }

    /// The extension of an identifier.
    pub(super) fn extension(&mut self, identifier: &str) -> Result<&mut Extension, Refused> {
        self.extensions
            .iter_mut()
            .find(|one| one.identifier == identifier)
            .ok_or(Refused::UnknownExtension)
    }

    /// An extension asks for an event.
    pub(super) fn extension_next(&mut self, identifier: &str) -> Result<(), Refused> {
        let extension = self.extension(identifier)?;
        match extension.phase {
            Phase::Registered | Phase::Running => {
                extension.phase = Phase::Ready;
                Ok(())
            }
            _ => Err(refused(extension, "Ready")),
        }
    }

    /// The event for an extension that waits, where there is one.
    pub(super) fn extension_takes(&mut self, identifier: &str) -> Option<(Event, Option<Call>)> {
        let extension = self.extension(identifier).ok()?;
        if extension.phase != Phase::Ready {
            return None;
        }
        let event = extension.told_next.take()?;
        extension.phase = Phase::Running;
        Some((event, self.call.clone()))
    }

    /// An extension says that it cannot start.
    pub(super) fn extension_init_error(
        &mut self,
        identifier: &str,
        error_type: String,
    ) -> Result<(), Refused> {
        let extension = self.extension(identifier)?;
        match extension.phase {
            Phase::Registered => extension.phase = Phase::InitError(error_type),
            // The first word counts.
            Phase::InitError(_) => {}
            _ => return Err(refused(extension, "InitError")),
        }
        Ok(())
    }

    /// An extension says that it ends.
    pub(super) fn extension_exit_error(
        &mut self,
        identifier: &str,
        error_type: String,
    ) -> Result<(), Refused> {
        let extension = self.extension(identifier)?;
        match extension.phase {
            Phase::Registered | Phase::Ready | Phase::Running => {
                extension.phase = Phase::ExitError(error_type);
            }
            Phase::ExitError(_) => {}
            _ => return Err(refused(extension, "ExitError")),
        }
        Ok(())
    }

    /// An external extension could not be executed.
    pub(super) fn extension_not_launched(&mut self, name: &str, error: String) {
        self.external(name, |extension| {
            extension.phase = Phase::LaunchError(error);
        });
    }

    /// An external extension's process ended. What it said before is kept.
    pub(super) fn extension_exited(&mut self, name: &str, exit: Exit) {
        self.external(name, |extension| {
            if !extension.phase.is_over() {
                extension.phase = Phase::Exited(exit);
            }
        });
    }

    fn external(&mut self, name: &str, change: impl FnOnce(&mut Extension)) {
        let mut all = self.extensions.iter_mut();
        if let Some(extension) = all.find(|one| one.external && one.name == name) {
            change(extension);
        }
    }

    /// Whether all external extensions registered.
    pub(super) fn all_registered(&self) -> bool {
        let mut external = self.extensions.iter().filter(|one| one.external);
        external.all(|one| one.phase != Phase::Started)
    }

    /// Whether the runtime and all extensions wait for their first event.
    pub(super) fn init_is_done(&self) -> bool {
        let ready = |one: &Extension| one.phase == Phase::Ready;
        self.runtime == Runtime::Ready && self.extensions.iter().all(ready)
    }

    /// Gives a call to the runtime, and tells the extensions that asked for that.
    pub(super) fn begin(&mut self, call: Call) {
        self.call = Some(call);
        self.to_give = true;
        self.answer = None;
        self.pieces = None;
        for extension in self.extensions.iter_mut().filter(|one| one.events.invoke) {
            extension.told_next = Some(Event::Invoke);
        }
    }

    /// Has the call's response passed on in pieces, where the runtime streams it.
    pub(super) fn pass_on(&mut self, pieces: Option<mpsc::Sender<Bytes>>) {
        self.pieces = pieces;
    }

    /// What takes pieces of the call's response.
    pub(super) fn pieces(&self) -> Option<mpsc::Sender<Bytes>> {
        self.pieces.clone()
    }

    /// Whether the runtime is through with the call.
    pub(super) fn runtime_is_done(&self) -> bool {
        self.runtime == Runtime::Ready && self.answer.is_some()
    }

    /// Whether the runtime and all extensions are through with the call.
    pub(super) fn call_is_done(&self) -> bool {
        let through = |one: &Extension| {
            !one.events.invoke || (one.phase == Phase::Ready && one.told_next.is_none())
        };
        self.runtime_is_done() && self.extensions.iter().all(through)
    }

    /// The runtime's answer, where it is here.
    pub(super) fn answer(&self) -> Option<&Answer> {
        self.answer.as_ref()
    }

    /// What ends the environment, where something does. The runtime's own word goes before its end, and an
    /// extension's failure before the end of the runtime that it brings about.
    pub(super) fn fatal(&self) -> Option<Fatal> {
        if self.ending {
            return None;
        }
        if let Runtime::InitError(posted) = &self.runtime {
            return Some(Fatal::InitError(posted.clone()));
        }
        let mut failures = self.extensions.iter().filter_map(|one| match &one.phase {
            Phase::InitError(error_type) => Some(Fatal::ExtensionInit(error_type.clone())),
            Phase::ExitError(error_type) => Some(Fatal::ExtensionExit(error_type.clone())),
            Phase::LaunchError(error) => Some(Fatal::ExtensionLaunch(error.clone())),
            Phase::Exited(exit) => Some(Fatal::ExtensionCrash(*exit)),
            _ => None,
        });
        failures.next().or(match self.runtime {
            Runtime::Exited(exit) => Some(Fatal::RuntimeExit(exit)),
            _ => None,
        })
    }

    /// From now on processes may end.
    pub(super) fn ends(&mut self) {
        self.ending = true;
        self.registration_closed = true;
    }

    /// Tells the extensions that asked for it that the environment ends; gives the names of those who did not ask.
    pub(super) fn shut_down(&mut self, deadline_ms: u64, reason: Reason) -> Vec<String> {
        let mut others = Vec::new();
        for extension in self.extensions.iter_mut().filter(|one| one.external) {
            if extension.events.shutdown {
                extension.told_next = Some(Event::Shutdown(deadline_ms, reason));
            } else {
                others.push(extension.name.clone());
            }
        }
        others
    }
}

fn refused(extension: &Extension, to: &'static str) -> Refused {
    Refused::Extension {
        from: extension.phase.name(),
        to,
        name: extension.name.clone(),
    }
}

/// What the names of events stand for.
fn subscribed(names: &[String], external: bool) -> Result<Events, Refused> {
    let mut events = Events::default();
    for name in names {
        match name.as_str() {
            "INVOKE" => events.invoke = true,
            "SHUTDOWN" if external => events.shutdown = true,
            "SHUTDOWN" => {
                return Err(Refused::EventType(
                    "SHUTDOWN: ShutdownEventNotSupportedForInternalExtension".to_owned(),
                ));
            }
            other => return Err(Refused::EventType(format!("{other}: InvalidEventType"))),
        }
    }
    Ok(events)
}

#[cfg(test)]
mod tests;
