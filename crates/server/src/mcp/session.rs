//! Sessions of clients before 2026-07-28.
//!
//! A session's id is a sealed statement of who shook hands and what the client declared, so that a node that did not see the
//! handshake (another one, or this one after a restart) can serve it all the same. What a node keeps in memory is what only
//! concerns it: running requests, questions that wait for answers, the log level, subscriptions. Bounded, and forgotten
//! after a while without use.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use countersign_domain::{Millis, Principal, UpstreamName};
use countersign_gate::hearing::Hearing;
use countersign_gate::upstream::AskError;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::{oneshot, watch};
use uuid::Uuid;

use super::wire::random_id;
use super::wire::{Abilities, Question};
use crate::app::App;

/// How long a session's id is taken.
const LIFE_MS: Millis = 24 * 3_600_000;
/// After so long without use a node forgets what it keeps of a session.
const IDLE_MS: Millis = 3_600_000;
/// Sessions that one node keeps something of.
const MAX_SESSIONS: usize = 10_000;
/// Those of one caller.
const MAX_OF_CALLER: usize = 64;
/// Requests of one session that can be cancelled.
const MAX_RUNNING: usize = 256;
/// Questions of one session that wait for answers.
const MAX_ASKED: usize = 64;
/// Resources that one session hears of.
const MAX_SUBSCRIPTIONS: usize = 256;
/// Pages to which one session's person was led; of more, the oldest is forgotten.
const MAX_LED: usize = 64;
/// What a session's id is sealed for.
const PURPOSE: &str = "mcp-session";
/// The level of log messages until `logging/setLevel` names another.
pub(crate) const DEFAULT_LEVEL: &str = "info";

/// What the id says.
#[derive(Debug, Serialize, Deserialize)]
struct Statement {
    /// Tells sessions apart.
    k: Uuid,
    /// [`Abilities`].
    a: u8,
    /// Taken until.
    t: Millis,
}

/// One session, as far as this node is concerned.
#[derive(Debug)]
pub(crate) struct Session {
    pub abilities: Abilities,
    caller: String,
    used: AtomicU64,
    state: Mutex<State>,
    ended: watch::Sender<bool>,
}

#[derive(Debug)]
struct State {
    level: &'static str,
    running: HashMap<String, watch::Sender<bool>>,
    asked: HashMap<String, Waiting>,
    /// By upstream and the upstream's own URI: the URI as the client knows it.
    subscriptions: BTreeMap<(UpstreamName, String), (Hearing, String)>,
    /// Pages to which its person was led, by upstream and the elicitation's id.
    led: VecDeque<(UpstreamName, String)>,
}

/// The place for an answer.
type Waiting = oneshot::Sender<Result<Box<RawValue>, AskError>>;

/// Why there is no session for a request that names one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoSession {
    /// Not ours, another's, or over: the client has to shake hands again.
    Unknown,
    /// More than this node keeps.
    TooMany,
}

/// The sessions of a node.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    known: Mutex<HashMap<Uuid, Arc<Session>>>,
    /// Ended before their time; kept until that time.
    over: Mutex<HashMap<Uuid, Millis>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn now() -> Millis {
    countersign_ledger::handle::system_clock()
}

impl Sessions {
    /// A new session's id; `None` if it could not be sealed.
    pub async fn begin(&self, app: &App, principal: &Principal, abilities: Abilities) -> Option<String> {
        let statement = Statement { k: random_id(), a: abilities.0, t: now() + LIFE_MS };
        let plain = serde_json::to_vec(&statement).ok()?;
        app.gate.seal(principal, PURPOSE, &plain).await.ok()
    }

    async fn read(app: &App, principal: &Principal, id: &str) -> Option<Statement> {
        let plain = app.gate.unseal(principal, PURPOSE, id).await.ok().flatten()?;
        serde_json::from_slice::<Statement>(&plain).ok().filter(|statement| statement.t > now())
    }

    /// The session of this id, for the caller who began it and nobody else.
    ///
    /// # Errors
    /// [`NoSession`].
    pub async fn find(&self, app: &App, principal: &Principal, id: &str) -> Result<Arc<Session>, NoSession> {
        let statement = Self::read(app, principal, id).await.ok_or(NoSession::Unknown)?;
        if lock(&self.over).contains_key(&statement.k) {
            return Err(NoSession::Unknown);
        }
        let caller = principal.caller_key();
        let mut known = lock(&self.known);
        if let Some(session) = known.get(&statement.k) {
            session.used.store(now(), Ordering::Relaxed);
            return Ok(Arc::clone(session));
        }
        if known.len() >= MAX_SESSIONS {
            let idle = now().saturating_sub(IDLE_MS);
            known.retain(|_, session| session.used.load(Ordering::Relaxed) > idle);
        }
        let own = known.iter().filter(|(_, session)| session.caller == caller);
        let oldest = own.clone().min_by_key(|(_, session)| session.used.load(Ordering::Relaxed)).map(|(key, _)| *key);
        // What is forgotten of a caller's oldest session are its subscriptions and level; its id is still good.
        match (own.count() >= MAX_OF_CALLER, oldest) {
            (true, Some(oldest)) => drop(known.remove(&oldest)),
            _ if known.len() >= MAX_SESSIONS => return Err(NoSession::TooMany),
            _ => {}
        }
        let session = Arc::new(Session::new(Abilities(statement.a), caller));
        known.insert(statement.k, Arc::clone(&session));
        Ok(session)
    }

    /// Ends a session for good, on this node.
    ///
    /// # Errors
    /// [`NoSession::Unknown`].
    pub async fn end(&self, app: &App, principal: &Principal, id: &str) -> Result<(), NoSession> {
        let statement = Self::read(app, principal, id).await.ok_or(NoSession::Unknown)?;
        let mut over = lock(&self.over);
        if over.len() >= MAX_SESSIONS {
            let time = now();
            over.retain(|_, until| *until > time);
        }
        if over.len() >= MAX_SESSIONS {
            return Err(NoSession::TooMany);
        }
        over.insert(statement.k, statement.t);
        drop(over);
        if let Some(session) = lock(&self.known).remove(&statement.k) {
            session.ended.send_replace(true);
        }
        Ok(())
    }
}

impl Session {
    fn new(abilities: Abilities, caller: String) -> Self {
        let state = State {
            level: DEFAULT_LEVEL,
            running: HashMap::new(),
            asked: HashMap::new(),
            subscriptions: BTreeMap::new(),
            led: VecDeque::new(),
        };
        Self {
            abilities,
            caller,
            used: AtomicU64::new(now()),
            state: Mutex::new(state),
            ended: watch::channel(false).0,
        }
    }

    /// Turns true when the client has ended the session.
    pub fn ended(&self) -> watch::Receiver<bool> {
        self.ended.subscribe()
    }

    /// The least severe log messages that the client wants.
    pub fn level(&self) -> &'static str {
        lock(&self.state).level
    }

    /// Sets it.
    pub fn set_level(&self, level: &'static str) {
        lock(&self.state).level = level;
    }

    /// Notes a running request, so that the client can cancel it.
    pub fn runs(&self, request: &str, cancel: watch::Sender<bool>) {
        let mut state = lock(&self.state);
        // Whoever has nobody listening any more has ended.
        state.running.retain(|_, sender| sender.receiver_count() > 0);
        if state.running.len() < MAX_RUNNING {
            state.running.insert(request.to_owned(), cancel);
        }
    }

    /// `notifications/cancelled`.
    pub fn cancel(&self, request: &str) {
        if let Some(sender) = lock(&self.state).running.remove(request) {
            sender.send_replace(true);
        }
    }

    /// Keeps the place for an answer, and gives the question an id that nobody can guess.
    pub fn asks(&self, question: Question) -> Option<(String, countersign_gate::upstream::Ask)> {
        let mut state = lock(&self.state);
        state.asked.retain(|_, sender| !sender.is_closed());
        if state.asked.len() >= MAX_ASKED {
            let _ = question.answer.send(Err(AskError::Refused("too many questions wait for this client".into())));
            return None;
        }
        let id = random_id().simple().to_string();
        state.asked.insert(id.clone(), question.answer);
        Some((id, question.ask))
    }

    /// The client's answer to the question of this id. False if there is none.
    pub fn answers(&self, id: &str, outcome: Result<&RawValue, &RawValue>) -> bool {
        let Some(sender) = lock(&self.state).asked.remove(id) else { return false };
        sender.send(outcome.map(ToOwned::to_owned).map_err(refusal)).is_ok()
    }

    /// From now on the client hears of this resource. False if it hears of too many.
    pub fn subscribe(&self, hearing: Hearing, known_as: String) -> bool {
        let key = (hearing.upstream().clone(), hearing.uri().to_owned());
        let mut state = lock(&self.state);
        if state.subscriptions.len() >= MAX_SUBSCRIPTIONS && !state.subscriptions.contains_key(&key) {
            return false;
        }
        state.subscriptions.insert(key, (hearing, known_as));
        true
    }

    /// The client's person is led to a page of the upstream's.
    pub fn led(&self, upstream: &UpstreamName, elicitation: String) {
        let mut state = lock(&self.state);
        if state.led.len() >= MAX_LED {
            state.led.pop_front();
        }
        state.led.push_back((upstream.clone(), elicitation));
    }

    /// Whether its person was led to that page; said once, to whoever tells the client that this is over.
    pub fn was_led(&self, upstream: &UpstreamName, elicitation: &str) -> bool {
        let mut state = lock(&self.state);
        let place = state.led.iter().position(|(of, id)| of == upstream && id == elicitation);
        place.is_some_and(|place| state.led.remove(place).is_some())
    }

    /// It no longer does.
    pub fn unsubscribe(&self, upstream: &UpstreamName, uri: &str) {
        lock(&self.state).subscriptions.remove(&(upstream.clone(), uri.to_owned()));
    }

    /// Every resource of which the client wants to hear, under the names that the client knows.
    pub fn subscriptions(&self) -> Vec<String> {
        lock(&self.state).subscriptions.values().map(|(_, known_as)| known_as.clone()).collect()
    }

    /// What the client calls a resource of which it wants to hear.
    pub fn hears_of(&self, upstream: &UpstreamName, uri: &str) -> Option<String> {
        let state = lock(&self.state);
        state.subscriptions.get(&(upstream.clone(), uri.to_owned())).map(|(_, known_as)| known_as.clone())
    }
}

/// A client's JSON-RPC error as the answer to a question.
pub(crate) fn refusal(error: &RawValue) -> AskError {
    #[derive(Deserialize)]
    struct Parts {
        #[serde(default)]
        code: i64,
        #[serde(default)]
        message: String,
    }
    let parts: Parts = serde_json::from_str(error.get()).unwrap_or(Parts { code: 0, message: String::new() });
    AskError::Rpc { code: parts.code, message: parts.message.chars().take(500).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use countersign_gate::upstream::{Ask, AskKind};

    fn question() -> (Question, oneshot::Receiver<Result<Box<RawValue>, AskError>>) {
        let (answer, came) = oneshot::channel();
        let ask =
            Ask { kind: AskKind::ElicitForm, key: None, params: RawValue::from_string("{}".into()).expect("JSON") };
        (Question { ask, answer }, came)
    }

    #[test]
    fn an_answer_finds_its_question_once() {
        let session = Session::new(Abilities(1), "ada".into());
        let (asked, mut came) = question();
        let (id, _) = session.asks(asked).expect("room");
        let raw = RawValue::from_string("{\"action\":\"accept\"}".into()).expect("JSON");
        assert!(!session.answers("another", Ok(&raw)));
        assert!(session.answers(&id, Ok(&raw)));
        assert!(!session.answers(&id, Ok(&raw)), "used up");
        assert_eq!(came.try_recv().expect("answered").expect("accepted").get(), raw.get());
        let error = RawValue::from_string("{\"code\":-1,\"message\":\"no\"}".into()).expect("JSON");
        let (asked, mut came) = question();
        let (id, _) = session.asks(asked).expect("room");
        assert!(session.answers(&id, Err(&error)));
        assert_eq!(
            came.try_recv().expect("answered").expect_err("refused"),
            AskError::Rpc { code: -1, message: "no".into() }
        );
    }

    #[test]
    fn what_nobody_waits_for_makes_room() {
        let session = Session::new(Abilities(1), "ada".into());
        let mut waiting = Vec::new();
        for _ in 0..MAX_ASKED {
            let (asked, came) = question();
            assert!(session.asks(asked).is_some());
            waiting.push(came);
        }
        assert!(session.asks(question().0).is_none());
        waiting.clear();
        assert!(session.asks(question().0).is_some());
        let (cancel, heard) = watch::channel(false);
        session.runs("7", cancel);
        session.cancel("8");
        assert!(!*heard.borrow());
        session.cancel("7");
        assert!(*heard.borrow());
    }
}
