//! The way back to a client while its request runs: what is said and asked meanwhile, and how it cancels.
//!
//! A [`Wire`] is the gate's side, a [`Flight`] the surface's. Who holds the flight decides what becomes of it: a stream
//! passes things on, a parked flight waits for the client's next request, a dropped one ends the waiting.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use async_trait::async_trait;
use countersign_domain::UpstreamName;
use countersign_gate::upstream::{Answers, Ask, AskError, AskKind, Client, Notice};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};
use uuid::Uuid;

use super::message::RpcError;
use super::session::Session;

/// Notices that wait for a slow reader; further ones are dropped.
const UNREAD: usize = 256;
/// Log levels, least severe first (RFC 5424 names, as MCP spells them).
const LEVELS: [&str; 8] = ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"];

/// The extension under whose name tasks are declared.
pub(crate) const TASKS: &str = "io.modelcontextprotocol/tasks";
const KNOWS_TASKS: u8 = 16;

/// What a client declared that it answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Abilities(pub u8);

impl Abilities {
    /// Reads a `ClientCapabilities` object.
    pub fn of(capabilities: Option<&str>) -> Self {
        let value: Value = capabilities.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        let elicitation = value.get("elicitation").and_then(Value::as_object);
        let has = |mode: &str| elicitation.is_some_and(|modes| modes.contains_key(mode));
        let mut found = 0;
        // An empty object stands for forms (2025-11-25 and 2026-07-28, `client/elicitation`).
        if has("form") || elicitation.is_some_and(|modes| !modes.contains_key("url")) {
            found |= bit(AskKind::ElicitForm);
        }
        if has("url") {
            found |= bit(AskKind::ElicitUrl);
        }
        if value.get("sampling").is_some_and(Value::is_object) {
            found |= bit(AskKind::Sample);
        }
        if value.get("roots").is_some_and(Value::is_object) {
            found |= bit(AskKind::ListRoots);
        }
        if value.get("extensions").and_then(|all| all.get(TASKS)).is_some_and(Value::is_object) {
            found |= KNOWS_TASKS;
        }
        Self(found)
    }

    /// The same without questions of this kind.
    #[must_use]
    pub fn without(self, kind: AskKind) -> Self {
        Self(self.0 & !bit(kind))
    }

    /// The same for what cannot be answered with a task.
    #[must_use]
    pub fn without_tasks(self) -> Self {
        Self(self.0 & !KNOWS_TASKS)
    }

    /// Whether a call may be answered with a task (2026-07-28, the extension).
    pub fn knows_tasks(self) -> bool {
        self.0 & KNOWS_TASKS != 0
    }

    /// Whether questions of this kind may be asked.
    pub fn answers(self, kind: AskKind) -> bool {
        self.0 & bit(kind) != 0
    }
}

fn bit(kind: AskKind) -> u8 {
    match kind {
        AskKind::ElicitForm => 1,
        AskKind::ElicitUrl => 2,
        AskKind::Sample => 4,
        AskKind::ListRoots => 8,
    }
}

/// A level's place, if it is one.
pub(crate) fn level(name: &str) -> Option<&'static str> {
    LEVELS.iter().find(|known| **known == name).copied()
}

/// Whether a message of this level is to be heard by whoever asked for at least `wanted`.
pub(crate) fn is_heard(level: &str, wanted: &str) -> bool {
    let place = |name: &str| LEVELS.iter().position(|known| *known == name);
    place(level) >= place(wanted)
}

/// An id that nobody can guess.
pub(crate) fn random_id() -> Uuid {
    let mut bytes = [0; 16];
    if aws_lc_rs::rand::fill(&mut bytes).is_err() {
        // The library's own generator does not fail once the process runs; should it, ids stay unique at least.
        return Uuid::now_v7();
    }
    Uuid::from_bytes(bytes)
}

/// What comes back while a request runs.
#[derive(Debug)]
pub(crate) enum Said {
    /// Something to pass on.
    Notice(Notice),
    /// Questions to put to the client.
    Ask(Vec<Question>),
}

/// A question with the place for its answer.
#[derive(Debug)]
pub(crate) struct Question {
    pub ask: Ask,
    pub answer: oneshot::Sender<Result<Box<serde_json::value::RawValue>, AskError>>,
}

/// The gate's side.
#[derive(Debug)]
pub(crate) struct Wire {
    says: mpsc::Sender<Said>,
    abilities: Arc<AtomicU8>,
    wants_progress: bool,
    log_level: Option<&'static str>,
    cancelled: watch::Receiver<bool>,
    session: Option<Arc<Session>>,
}

/// What the work of a request comes to: a result's bytes, or an error.
pub(crate) type Outcome = Result<Vec<u8>, RpcError>;
/// The work itself.
pub(crate) type Running = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// The surface's side.
pub(crate) struct Flight {
    pub running: Running,
    pub says: mpsc::Receiver<Said>,
    /// Cancels when it is dropped, where the client's era takes a closed stream for that.
    pub cancel: Canceller,
    abilities: Arc<AtomicU8>,
}

impl Flight {
    /// A retry may declare other abilities than the request before.
    pub fn set_abilities(&self, abilities: Abilities) {
        self.abilities.store(abilities.0, Ordering::Release);
    }
}

/// Tells the call that its caller has gone.
#[derive(Debug)]
pub(crate) struct Canceller {
    sender: watch::Sender<bool>,
    on_drop: bool,
}

impl Canceller {
    /// The means to cancel from elsewhere.
    pub fn handle(&self) -> watch::Sender<bool> {
        self.sender.clone()
    }
}

impl Drop for Canceller {
    fn drop(&mut self) {
        if self.on_drop {
            self.sender.send_replace(true);
        }
    }
}

/// What a request says of the way back.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Hearing {
    pub abilities: Abilities,
    pub wants_progress: bool,
    pub log_level: Option<&'static str>,
    /// Whether a dropped flight cancels the call.
    pub cancels_on_drop: bool,
}

/// A wire, and the flight of the work that `run` makes of it. Without a session nothing is heard of after the call.
pub(crate) fn open(hearing: Hearing, session: Option<Arc<Session>>, run: impl FnOnce(Arc<Wire>) -> Running) -> Flight {
    let (says, heard) = mpsc::channel(UNREAD);
    let (sender, cancelled) = watch::channel(false);
    let abilities = Arc::new(AtomicU8::new(hearing.abilities.0));
    let wire = Arc::new(Wire {
        says,
        abilities: Arc::clone(&abilities),
        wants_progress: hearing.wants_progress,
        log_level: hearing.log_level,
        cancelled,
        session,
    });
    let cancel = Canceller { sender, on_drop: hearing.cancels_on_drop };
    Flight { running: run(wire), says: heard, cancel, abilities }
}

impl Wire {
    /// Whether the client knows tasks.
    pub fn knows_tasks(&self) -> bool {
        Abilities(self.abilities.load(Ordering::Acquire)).knows_tasks()
    }
}

#[async_trait]
impl Client for Wire {
    fn notify(&self, notice: Notice) {
        // A reader that is behind loses notices, never an answer.
        let _ = self.says.try_send(Said::Notice(notice));
    }

    async fn ask(&self, asks: Vec<Ask>) -> Answers {
        let mut waiting = Vec::with_capacity(asks.len());
        let mut questions = Vec::with_capacity(asks.len());
        for ask in asks {
            let (answer, came) = oneshot::channel();
            waiting.push(came);
            questions.push(Question { ask, answer });
        }
        // If nobody is there any more, the questions are dropped, and with them the places for their answers.
        let _ = self.says.send(Said::Ask(questions)).await;
        let mut answers = Answers::with_capacity(waiting.len());
        for came in waiting {
            answers.push(came.await.unwrap_or(Err(AskError::Gone)));
        }
        answers
    }

    fn led(&self, upstream: &UpstreamName, elicitation: String) {
        if let Some(session) = &self.session {
            session.led(upstream, elicitation);
        }
    }

    fn answers(&self, kind: AskKind) -> bool {
        Abilities(self.abilities.load(Ordering::Acquire)).answers(kind)
    }

    fn wants_progress(&self) -> bool {
        self.wants_progress
    }

    fn log_level(&self) -> Option<&str> {
        self.log_level
    }

    fn knows_tasks(&self) -> bool {
        Wire::knows_tasks(self)
    }

    async fn cancelled(&self) {
        // The other end may be gone without having cancelled: then nobody ever will.
        if self.cancelled.clone().wait_for(|cancelled| *cancelled).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn abilities_are_what_was_declared() {
        use AskKind::{ElicitForm, ElicitUrl, ListRoots, Sample};
        for (declared, expected) in [
            (None, vec![]),
            (Some("{}"), vec![]),
            (Some(r#"{"elicitation":{}}"#), vec![ElicitForm]),
            (Some(r#"{"elicitation":{"url":{}}}"#), vec![ElicitUrl]),
            (Some(r#"{"elicitation":{"form":{},"url":{}},"roots":{}}"#), vec![ElicitForm, ElicitUrl, ListRoots]),
            (Some(r#"{"sampling":{},"elicitation":true}"#), vec![Sample]),
            (Some(r#"{"extensions":{"io.modelcontextprotocol/tasks":{}}}"#), vec![]),
            (Some("nonsense"), vec![]),
        ] {
            let abilities = Abilities::of(declared);
            let all = [ElicitForm, ElicitUrl, Sample, ListRoots];
            let found: Vec<_> = all.into_iter().filter(|kind| abilities.answers(*kind)).collect();
            assert_eq!(found, expected, "{declared:?}");
            let tasks = declared.is_some_and(|text| text.contains(TASKS));
            assert_eq!(abilities.knows_tasks(), tasks, "{declared:?}");
        }
    }

    #[test]
    fn levels_are_ordered() {
        assert!(is_heard("error", "warning") && is_heard("info", "info") && !is_heard("debug", "info"));
        assert_eq!((level("notice"), level("loud")), (Some("notice"), None));
        assert!(!is_heard("loud", "debug"), "what is no level is not heard");
    }

    #[tokio::test]
    async fn a_flight_that_is_dropped_cancels_if_its_era_says_so() {
        for cancels in [true, false] {
            let (sender, receiver) = oneshot::channel();
            let hearing = Hearing { cancels_on_drop: cancels, ..Hearing::default() };
            let flight = open(hearing, None, |wire| {
                let _ = sender.send(wire);
                Box::pin(async { Ok(Vec::new()) })
            });
            let wire = receiver.await.expect("a wire");
            drop(flight);
            let heard = tokio::time::timeout(std::time::Duration::from_millis(50), wire.cancelled()).await;
            assert_eq!(heard.is_ok(), cancels);
        }
    }
}
