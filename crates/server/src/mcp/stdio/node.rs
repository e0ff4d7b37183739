//! The node behind the proxy, which may go away and come back.
//!
//! Nothing is sent twice: a request is tried again only if certainly no byte of it was sent, or if the node said that it is
//! of no session. What was lost on the way is answered with what is known of it.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use countersign_egress::{EgressError, PurposeClient, Response};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use url::Url;

use super::events::Events;
use super::headers::in_session;
use super::{Forwarded, MAX_ANSWER, TokenSource};
use crate::http::request::parse_timeout;
use crate::mcp::era::ParamHeader;
use crate::mcp::message::{INTERNAL_ERROR, RpcError, TIMEOUT};
use crate::mcp::wire::random_id;

/// How long the head of an answer may take that the node gives in one piece.
const PATIENCE: Duration = Duration::from_secs(600);
/// A node that runs a call says something every ten seconds; one that is silent for so long hangs.
const SILENCE: Duration = Duration::from_secs(60);
/// How long a stream may last; the node ends it earlier.
const STREAM_LIFE: Duration = Duration::from_secs(2 * 3_600);
/// How long a request waits for a node that is away. Clients give up after 60 s.
const RECONNECT: Duration = Duration::from_secs(20);
/// The first wait before a node that is away is tried again; each further one is twice as long, up to the longest.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// The longest wait before the session's stream is opened again.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// Subscriptions that are made again; the node has the same bound for a session.
const MAX_SUBSCRIPTIONS: usize = 256;

pub(super) const SESSION: &str = "mcp-session-id";
const CORRELATION: HeaderName = HeaderName::from_static("x-correlation-id");
const REQUEST_TIMEOUT: HeaderName = HeaderName::from_static("request-timeout");

/// One client's node.
pub(super) struct Proxy {
    client: PurposeClient,
    endpoint: Url,
    pub(super) token: TokenSource,
    answers: mpsc::Sender<Vec<u8>>,
    /// The revision that `initialize` settled on.
    pub(super) negotiated: Mutex<Option<String>>,
    /// Which arguments of which tool are mirrored into headers, as the lists that passed by said.
    pub(super) headers: Mutex<HashMap<String, Vec<ParamHeader>>>,
    /// The session that the handshake began.
    session: watch::Sender<Option<String>>,
    /// The client's handshake, to begin the session anew with.
    greeting: Mutex<Option<Forwarded>>,
    renewing: tokio::sync::Mutex<()>,
    kept: Mutex<Kept>,
}

/// What a node keeps of a session in its memory, and has to be told again after it was away.
#[derive(Default)]
struct Kept {
    level: Option<String>,
    subscriptions: BTreeSet<String>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How a stream of the session ended.
enum Heard {
    /// It was there, and ended or broke.
    Ended,
    /// The node did not answer.
    Away,
    /// There is no stream to be had.
    Nothing,
}

impl Proxy {
    pub(super) fn new(
        client: PurposeClient,
        endpoint: Url,
        token: TokenSource,
        answers: mpsc::Sender<Vec<u8>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            client,
            endpoint,
            token,
            answers,
            negotiated: Mutex::default(),
            headers: Mutex::default(),
            session: watch::Sender::new(None),
            greeting: Mutex::default(),
            renewing: tokio::sync::Mutex::default(),
            kept: Mutex::default(),
        })
    }

    pub(super) fn session(&self) -> Option<String> {
        self.session.borrow().clone()
    }

    /// Writes a line to the client.
    pub(super) async fn say(&self, line: Vec<u8>) {
        // If nobody reads any more, the loop over the input ends as well.
        let _ = self.answers.send(line).await;
    }

    /// Forwards a message, and answers it whatever happens.
    pub(super) async fn forward(&self, message: &Forwarded) {
        let answered = self.exchange(message).await;
        let (Err(error), Some(id)) = (answered, &message.id) else { return };
        self.say(error.response(Some(id))).await;
    }

    async fn exchange(&self, message: &Forwarded) -> Result<(), RpcError> {
        let correlation = format!("stdio-{}", random_id().simple());
        let lost = |error: &EgressError| lost(message, &correlation, error);
        let session = self.session();
        let mut response = self.post(message, &correlation).await?;
        if is_of_no_session(&response) && in_session(&message.value) && session.is_some() {
            self.renew(session).await?;
            response = self.post(message, &correlation).await?;
        }
        let (status, kind) = (response.status(), content_type(response.headers()));
        if message.is_initialize() && status == StatusCode::OK {
            self.begun(&response);
            *lock(&self.kept) = Kept::default();
            *lock(&self.greeting) = Some(message.clone());
        }
        if status == StatusCode::ACCEPTED {
            return Ok(());
        }
        if kind == "text/event-stream" {
            return self.relay_events(message, &mut response, &lost).await;
        }
        let body = response.bytes(MAX_ANSWER, Instant::now() + SILENCE).await.map_err(|error| lost(&error))?;
        if kind != "application/json" {
            return Err(problem(status, &body));
        }
        self.relay(message, body.to_vec()).await;
        Ok(())
    }

    /// Sends a message once. A node that cannot be reached is tried again for a while.
    async fn post(&self, message: &Forwarded, correlation: &str) -> Result<Response, RpcError> {
        let start = Instant::now();
        let stated = message.timeout();
        let give_up = start + stated.unwrap_or(RECONNECT).min(RECONNECT);
        let mut wait = FIRST_WAIT;
        loop {
            let mut headers = self.headers_for(&message.value).map_err(|why| RpcError::new(INTERNAL_ERROR, why))?;
            if let Ok(value) = HeaderValue::try_from(correlation) {
                headers.insert(CORRELATION, value);
            }
            // What was waited for the node is part of the time that the client gave.
            let left = stated.map(|stated| stated.saturating_sub(start.elapsed()).as_millis().max(1));
            if let Some(Ok(value)) = left.map(|left| HeaderValue::try_from(format!("{left}ms"))) {
                headers.insert(REQUEST_TIMEOUT, value);
            }
            let deadline = Instant::now() + if message.is_call() { SILENCE } else { PATIENCE };
            let body = Bytes::copy_from_slice(message.line.trim_ascii());
            let error = match self.client.send(Method::POST, &self.endpoint, headers, body, deadline).await {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            let pause = jittered(wait);
            if !matches!(error, EgressError::Unreachable(_)) || Instant::now() + pause >= give_up {
                return Err(lost(message, correlation, &error));
            }
            tokio::time::sleep(pause).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    async fn relay_events(
        &self,
        message: &Forwarded,
        response: &mut Response,
        lost: &(dyn Fn(&EgressError) -> RpcError + Sync),
    ) -> Result<(), RpcError> {
        let mut events = Events::default();
        let end = Instant::now() + STREAM_LIFE;
        loop {
            let chunk = response.chunk(end.min(Instant::now() + SILENCE)).await.map_err(|error| lost(&error))?;
            let Some(chunk) = chunk else { break };
            for event in events.push(&chunk).map_err(|why| RpcError::new(INTERNAL_ERROR, why))? {
                self.relay(message, event).await;
            }
        }
        match events.answered {
            true => Ok(()),
            false => Err(lost(&EgressError::Lost("the answer broke off".into()))),
        }
    }

    async fn relay(&self, message: &Forwarded, answer: Vec<u8>) {
        match message.method() {
            "initialize" => {
                let value: Value = serde_json::from_slice(&answer).unwrap_or_default();
                *lock(&self.negotiated) = value["result"]["protocolVersion"].as_str().map(str::to_owned);
            }
            "tools/list" => self.remember_headers(&answer),
            "resources/subscribe" | "resources/unsubscribe" | "logging/setLevel" if in_session(&message.value) => {
                self.keep(message, &answer);
            }
            _ => {}
        }
        self.say(answer).await;
    }

    /// Notes what a node that was away has to be told again.
    fn keep(&self, message: &Forwarded, answer: &[u8]) {
        let value: Value = serde_json::from_slice(answer).unwrap_or_default();
        if value.get("result").is_none() {
            return;
        }
        let (params, mut kept) = (&message.value["params"], lock(&self.kept));
        match (message.method(), params["uri"].as_str(), params["level"].as_str()) {
            ("resources/subscribe", Some(uri), _) if kept.subscriptions.len() < MAX_SUBSCRIPTIONS => {
                kept.subscriptions.insert(uri.to_owned());
            }
            ("resources/unsubscribe", Some(uri), _) => drop(kept.subscriptions.remove(uri)),
            ("logging/setLevel", _, Some(level)) => kept.level = Some(level.to_owned()),
            _ => {}
        }
    }

    fn begun(&self, response: &Response) {
        let session = response.headers().get(SESSION).and_then(|value| value.to_str().ok()).map(str::to_owned);
        self.session.send_replace(session);
    }

    /// Begins the session anew where the node no longer knows it: with the client's own words, whose answer it has had.
    async fn renew(&self, used: Option<String>) -> Result<(), RpcError> {
        let _one = self.renewing.lock().await;
        if self.session() != used {
            return Ok(());
        }
        let failed = |why: &str| {
            let data = json!({ "executed": "no" });
            RpcError::new(
                INTERNAL_ERROR,
                format!("the node no longer knows the session, and {why}; nothing was executed"),
            )
            .with(data)
        };
        let greeting = lock(&self.greeting).clone().ok_or_else(|| failed("there was no handshake"))?;
        let response = self.post(&greeting, "stdio-renewal").await?;
        let id = response.headers().get(SESSION).is_some();
        if response.status() != StatusCode::OK || !id {
            return Err(failed("would not begin another one"));
        }
        self.begun(&response);
        drop(response);
        let initialized = Forwarded::own(json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }));
        self.post(&initialized, "stdio-renewal").await?;
        Ok(())
    }

    /// Passes on what the session hears, for as long as the client is there.
    pub(super) async fn hear(&self) {
        let (mut pause, mut was_heard) = (FIRST_WAIT, false);
        loop {
            match self.hear_once(was_heard).await {
                Heard::Ended => (pause, was_heard) = (FIRST_WAIT, true),
                Heard::Away => pause = (pause * 2).min(LONGEST_PAUSE),
                Heard::Nothing => return,
            }
            tokio::time::sleep(jittered(pause)).await;
        }
    }

    /// One stream to its end. After one that ended, the node may be another, which knows only what the session's id says.
    async fn hear_once(&self, again: bool) -> Heard {
        let mut renewed = self.session.subscribe();
        let session = renewed.borrow_and_update().clone();
        let (Some(_), Ok(headers)) = (&session, self.headers_for(&Value::Null)) else { return Heard::Nothing };
        let deadline = Instant::now() + SILENCE;
        let Ok(mut response) = self.client.send(Method::GET, &self.endpoint, headers, Bytes::new(), deadline).await
        else {
            return Heard::Away;
        };
        if is_of_no_session(&response) {
            return if self.renew(session).await.is_ok() { Heard::Ended } else { Heard::Away };
        }
        if content_type(response.headers()) != "text/event-stream" {
            let away = response.status().is_server_error() || response.status() == StatusCode::TOO_MANY_REQUESTS;
            return if away { Heard::Away } else { Heard::Nothing };
        }
        if again {
            self.restore().await;
        }
        let (mut events, end) = (Events::default(), Instant::now() + STREAM_LIFE);
        loop {
            let chunk = tokio::select! {
                chunk = response.chunk(end.min(Instant::now() + SILENCE)) => chunk,
                _ = renewed.changed() => return Heard::Ended,
            };
            let found = match chunk {
                Ok(Some(chunk)) => events.push(&chunk),
                Ok(None) | Err(_) => return Heard::Ended,
            };
            let Ok(found) = found else { return Heard::Ended };
            for event in found {
                self.say(event).await;
            }
        }
    }

    /// Tells the node again what it keeps in memory alone. Nobody knows what changed meanwhile, so the client is told that
    /// each resource may have.
    async fn restore(&self) {
        let (level, uris) = {
            let kept = lock(&self.kept);
            (kept.level.clone(), kept.subscriptions.clone())
        };
        let level = level.map(|level| ("logging/setLevel", json!({ "level": level })));
        let uris = uris.into_iter().map(|uri| ("resources/subscribe", json!({ "uri": uri })));
        for (method, params) in level.into_iter().chain(uris) {
            let request = json!({ "jsonrpc": "2.0", "id": "countersign", "method": method, "params": params });
            let Ok(response) = self.post(&Forwarded::own(request), "stdio-renewal").await else { return };
            let body = response.bytes(MAX_ANSWER, Instant::now() + SILENCE).await.unwrap_or_default();
            let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
            if method == "resources/subscribe" && answer.get("result").is_some() {
                let told = json!({ "jsonrpc": "2.0", "method": "notifications/resources/updated", "params": params });
                self.say(told.to_string().into_bytes()).await;
            }
        }
    }

    /// The client has gone, and its session with it.
    pub(super) async fn end(&self) {
        let (Some(_), Ok(headers)) = (self.session(), self.headers_for(&Value::Null)) else { return };
        let deadline = Instant::now() + Duration::from_secs(2);
        let _ = self.client.send(Method::DELETE, &self.endpoint, headers, Bytes::new(), deadline).await;
    }
}

impl Forwarded {
    /// A message of the proxy's own.
    fn own(value: Value) -> Self {
        Self { line: value.to_string().into_bytes(), id: None, cancels: None, value }
    }

    pub(super) fn method(&self) -> &str {
        self.value["method"].as_str().unwrap_or_default()
    }

    pub(super) fn is_initialize(&self) -> bool {
        self.method() == "initialize"
    }

    /// Whether the node says something at least every ten seconds while it works on it.
    fn is_call(&self) -> bool {
        matches!(self.method(), "tools/call" | "prompts/get" | "resources/read" | "completion/complete")
    }

    /// Whether something may have happened if its answer is lost.
    fn may_act(&self) -> bool {
        self.is_call() || matches!(self.method(), "tasks/get" | "tasks/update" | "tasks/cancel")
    }

    /// How long the client waits, if it says so and makes sense; the node complains of what makes none.
    fn timeout(&self) -> Option<Duration> {
        match &self.value["params"]["_meta"][TIMEOUT] {
            Value::String(text) => parse_timeout(text),
            Value::Number(number) => parse_timeout(&number.to_string()),
            _ => None,
        }
    }
}

/// Half of it to all of it: many clients must not knock at the same moment.
fn jittered(wait: Duration) -> Duration {
    let part = u32::from(random_id().as_bytes()[0]);
    wait / 2 + wait / 2 * part / 255
}

fn content_type(headers: &HeaderMap) -> String {
    let text = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// The session is over; an endpoint that is not there answers with a problem instead.
fn is_of_no_session(response: &Response) -> bool {
    response.status() == StatusCode::NOT_FOUND && content_type(response.headers()) == "application/json"
}

/// What to tell the client when there is no answer: whether the call may have happened, and how to find out.
fn lost(message: &Forwarded, correlation: &str, error: &EgressError) -> RpcError {
    if error.not_sent() {
        let words = format!("the node cannot be reached; nothing was sent, and nothing was executed: {error}");
        return RpcError::new(INTERNAL_ERROR, words).with(json!({ "executed": "no" }));
    }
    if !message.may_act() {
        let words = format!("the node went away before it answered; ask again, nothing is executed by this: {error}");
        return RpcError::new(INTERNAL_ERROR, words).with(json!({ "executed": "no" }));
    }
    let find_out = format!(
        "once the node is back, `countersign audit list --type call. --json` has what became of it under the correlation_id {correlation}, \
         and `countersign unknown list` has writes that a person must settle; a call that is repeated with the same \
         _meta[\"dev.countersign/idempotency-key\"] is not executed twice"
    );
    let words = format!(
        "the node went away before it answered ({error}); the call may have been executed. To find out: {find_out}"
    );
    let data = json!({ "executed": "unknown", "correlation_id": correlation, "find_out": find_out });
    RpcError::new(INTERNAL_ERROR, words).with(data)
}

fn problem(status: StatusCode, body: &[u8]) -> RpcError {
    let problem: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    let words = problem["detail"].as_str().or_else(|| problem["title"].as_str()).unwrap_or("no reason given");
    let error = RpcError::new(INTERNAL_ERROR, format!("the node answered {}: {words}", status.as_u16()));
    if problem.is_object() { error.with(json!({ "problem": problem })) } else { error }
}
