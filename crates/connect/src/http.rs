//! MCP over streamable HTTP, with JSON or event-stream answers, in both eras.
//!
//! 2026-07-28: every request stands alone, its metadata mirrored into headers. Earlier: a session after a handshake, named
//! by `Mcp-Session-Id`; a `404` for a session means that it is over and that the request was not processed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use base64::Engine as _;
use bytes::Bytes;
use countersign_catalog::manifest::{HttpTransport, Protocol};
use countersign_egress::{Egress, EgressError, Purpose, PurposeClient, Response};
use countersign_gate::upstream::DispatchError;
use http::header::{ACCEPT, CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use serde_json::value::RawValue;
use tokio::task::JoinHandle;
use url::Url;

use crate::link::{Board, Link, MAX_MESSAGE, Probe, judge_initialize, judge_probe};
use crate::rpc::{self, Answer, Era, INITIALIZE, Incoming, LEGACY};
use crate::sse::Parser;
use crate::upstream::{ConnectError, Settings};

const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
const VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
const METHOD: HeaderName = HeaderName::from_static("mcp-method");
const NAME: HeaderName = HeaderName::from_static("mcp-name");

/// How long the probe may take before the handshake is tried.
const PROBE_WAIT: Duration = Duration::from_secs(10);
/// How long a courtesy (a cancellation, the end of a session) may take.
const COURTESY: Duration = Duration::from_secs(2);
/// How long a stream of notifications is listened to before it is opened anew.
const LISTEN: Duration = Duration::from_secs(3_600);
/// Waits between two attempts to listen.
const LISTEN_AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Longest error body that is read.
const MAX_ERROR_BODY: usize = 64 << 10;

/// An MCP endpoint.
pub(crate) struct HttpLink {
    this: Weak<HttpLink>,
    upstream: String,
    client: PurposeClient,
    url: Url,
    headers: HeaderMap,
    protocol: Protocol,
    start_timeout: Duration,
    board: Arc<Board>,
    next_id: AtomicU64,
    session: Mutex<Option<Arc<Session>>>,
    starting: tokio::sync::Mutex<u64>,
}

/// What was agreed on with the endpoint.
struct Session {
    era: Era,
    id: Option<HeaderValue>,
    listener: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Session {
    fn drop(&mut self) {
        let listener = self.listener.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(listener) = listener {
            listener.abort();
        }
    }
}

/// What came of one POST.
enum Posted {
    Answered(Answer),
    /// A status that says no, and the JSON-RPC error in its body, if there was one.
    Refused(StatusCode, Option<Box<RawValue>>),
}

impl HttpLink {
    pub(crate) fn new(
        transport: &HttpTransport,
        settings: &Settings,
        egress: &Egress,
        board: Arc<Board>,
    ) -> Result<Arc<Self>, ConnectError> {
        let problem = |problem: String| ConnectError::Manifest { upstream: settings.name.clone(), problem };
        let mut headers = HeaderMap::new();
        for (name, value) in &transport.headers {
            let value = value.resolve(|variable| std::env::var(variable).ok()).map_err(|e| problem(e.to_string()))?;
            let mut value = HeaderValue::from_str(&value)
                .map_err(|_| problem(format!("the value of the header {name} cannot be sent")))?;
            value.set_sensitive(true);
            let name = HeaderName::try_from(name.as_str()).map_err(|e| problem(e.to_string()))?;
            headers.insert(name, value);
        }
        let client = egress.client_for(Purpose::Upstream, &transport.url);
        let client = client.map_err(|error| ConnectError::Egress { upstream: settings.name.clone(), error })?;
        Ok(Arc::new_cyclic(|this| Self {
            this: this.clone(),
            upstream: settings.name.to_string(),
            client,
            url: transport.url.clone(),
            headers,
            protocol: transport.protocol,
            start_timeout: settings.start_timeout,
            board,
            next_id: AtomicU64::new(1),
            session: Mutex::new(None),
            starting: tokio::sync::Mutex::new(0),
        }))
    }

    fn current(&self) -> Option<Arc<Session>> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Forgets this session, unless another has taken its place.
    fn forget(&self, session: &Arc<Session>) {
        let mut current = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_some_and(|c| Arc::ptr_eq(c, session)) {
            *current = None;
        }
    }

    async fn session(&self, deadline: Instant) -> Result<Arc<Session>, DispatchError> {
        if let Some(session) = self.current() {
            return Ok(session);
        }
        let this = self.this.upgrade().ok_or_else(|| DispatchError::NotSent("the upstream is gone".into()))?;
        let start = tokio::spawn(async move { this.start().await });
        match tokio::time::timeout_at(deadline.into(), start).await {
            Ok(Ok(started)) => started.map_err(DispatchError::NotSent),
            Ok(Err(_)) => Err(DispatchError::NotSent("its start was interrupted".into())),
            Err(_) => Err(DispatchError::NotSent("it was not ready before the deadline".into())),
        }
    }

    async fn start(&self) -> Result<Arc<Session>, String> {
        let mut started = self.starting.lock().await;
        if let Some(session) = self.current() {
            return Ok(session);
        }
        self.board.state("starting");
        match self.agree(Instant::now() + self.start_timeout).await {
            Ok((session, list_changed)) => {
                let session = Arc::new(session);
                *self.session.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&session));
                self.board.ready(session.era.revision());
                if list_changed {
                    self.listen(&session);
                }
                *started += 1;
                if *started > 1 {
                    self.board.changed();
                }
                Ok(session)
            }
            Err(error) => {
                tracing::warn!(upstream = %self.upstream, %error, "the upstream is not available");
                self.board.trouble("failed", &error);
                Err(error)
            }
        }
    }

    /// 2026-07-28, Streamable HTTP, Backward Compatibility.
    async fn agree(&self, deadline: Instant) -> Result<(Session, bool), String> {
        if self.protocol == Protocol::V2025_11_25 {
            return self.initialize(deadline).await;
        }
        let modern = Session { era: Era::Modern, id: None, listener: Mutex::default() };
        let probe_deadline = deadline.min(Instant::now() + PROBE_WAIT);
        let probe = match self.post_request(&modern, "server/discover", None, "", probe_deadline).await {
            Ok(Posted::Answered(answer)) => judge_probe(&answer),
            Ok(Posted::Refused(_, Some(error))) => judge_probe(&Answer::Error(error)),
            Ok(Posted::Refused(status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN), None)) => {
                return Err(format!("it answered {status}; check the manifest's headers"));
            }
            Ok(Posted::Refused(status, None)) if status.is_redirection() => {
                return Err(format!("it answered {status}; redirects are not followed, name the final URL"));
            }
            Ok(Posted::Refused(_, None)) => Probe::Legacy,
            Err(error @ DispatchError::NotSent(_)) => return Err(error.to_string()),
            Err(_) => Probe::Legacy,
        };
        match probe {
            Probe::Modern { list_changed } => Ok((modern, list_changed)),
            Probe::Legacy if self.protocol == Protocol::V2026_07_28 => Err("it does not speak 2026-07-28".to_owned()),
            Probe::Legacy => self.initialize(deadline).await,
            Probe::Incompatible(why) => Err(why),
        }
    }

    async fn initialize(&self, deadline: Instant) -> Result<(Session, bool), String> {
        let mut session = Session { era: Era::Legacy(LEGACY[0]), id: None, listener: Mutex::default() };
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let body = rpc::request(id, "initialize", INITIALIZE, session.era);
        let mut headers = self.headers.clone();
        accept_both(&mut headers);
        let response = self.send(Method::POST, headers, body, deadline).await.map_err(|e| e.to_string())?;
        let given = response.headers().get(SESSION).cloned();
        let answer = match self.read(&session, response, id, deadline).await.map_err(|e| e.to_string())? {
            Posted::Answered(answer) => answer,
            Posted::Refused(status, error) => {
                let words =
                    error.and_then(|e| rpc::error_parts(&e)).map_or_else(String::new, |(_, m)| format!(": {m}"));
                return Err(format!("it answered {status} to initialize{words}"));
            }
        };
        let (revision, list_changed) = judge_initialize(answer)?;
        session.era = Era::Legacy(revision);
        session.id = given;
        let initialized = rpc::notification("notifications/initialized", "");
        self.post(&session, initialized, deadline).await.map_err(|e| e.to_string())?;
        Ok((session, list_changed))
    }

    async fn post_request(
        &self,
        session: &Session,
        method: &str,
        name: Option<&str>,
        members: &str,
        deadline: Instant,
    ) -> Result<Posted, DispatchError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let mut headers = self.session_headers(session);
        if session.era == Era::Modern {
            headers.insert(METHOD, header_value(method));
            if let Some(name) = name {
                headers.insert(NAME, header_value(name));
            }
        }
        let body = rpc::request(id, method, members, session.era);
        let cancel = Cancel { link: self, session, id, armed: method != "server/discover" };
        let response = self.send(Method::POST, headers, body, deadline).await;
        let posted = match response {
            Ok(response) => self.read(session, response, id, deadline).await,
            Err(error) => Err(error),
        };
        cancel.unless(!matches!(posted, Err(DispatchError::Timeout)));
        posted
    }

    /// A message that is not a request.
    async fn post(&self, session: &Session, body: Vec<u8>, deadline: Instant) -> Result<(), DispatchError> {
        let response = self.send(Method::POST, self.session_headers(session), body, deadline).await?;
        match response.status() {
            status if status.is_success() => Ok(()),
            status => Err(DispatchError::Protocol(format!("it answered {status} to a notification"))),
        }
    }

    fn session_headers(&self, session: &Session) -> HeaderMap {
        let mut headers = self.headers.clone();
        accept_both(&mut headers);
        headers.insert(VERSION, HeaderValue::from_static(session.era.revision()));
        crate::traced::headers(&mut headers);
        if let Some(id) = &session.id {
            headers.insert(SESSION, id.clone());
        }
        headers
    }

    async fn send(
        &self,
        method: Method,
        headers: HeaderMap,
        body: Vec<u8>,
        deadline: Instant,
    ) -> Result<Response, DispatchError> {
        self.client.send(method, &self.url, headers, Bytes::from(body), deadline).await.map_err(dispatch_error)
    }

    async fn read(
        &self,
        session: &Session,
        response: Response,
        id: u64,
        deadline: Instant,
    ) -> Result<Posted, DispatchError> {
        let status = response.status();
        let encoded = response.headers().get(CONTENT_ENCODING).is_some_and(|e| e.as_bytes() != b"identity");
        if encoded {
            return Err(DispatchError::Protocol("its answer is compressed, which was not asked for".into()));
        }
        if !status.is_success() {
            let body = response.bytes(MAX_ERROR_BODY, deadline).await.unwrap_or_default();
            let error = match rpc::parse(&body) {
                Ok(Incoming::Response(_, Answer::Error(error))) => Some(error),
                Ok(Incoming::Unrelated(error)) => Some(error.to_owned()),
                _ => None,
            };
            return Ok(Posted::Refused(status, error));
        }
        match media_type(response.headers()) {
            Some("application/json") => {
                let body = response.bytes(MAX_MESSAGE, deadline).await.map_err(dispatch_error)?;
                match rpc::parse(&body) {
                    Ok(Incoming::Response(number, answer)) if number == id => Ok(Posted::Answered(answer)),
                    Ok(Incoming::Unrelated(error)) => Ok(Posted::Answered(Answer::Error(error.to_owned()))),
                    Ok(_) => Err(DispatchError::Protocol("it answered another question".into())),
                    Err(why) => Err(DispatchError::Protocol(why)),
                }
            }
            Some("text/event-stream") => self.read_stream(session, response, id, deadline).await.map(Posted::Answered),
            other => {
                let shown = rpc::shorten(other.unwrap_or("no content type"), 80);
                Err(DispatchError::Protocol(format!("it answered {status} with {shown}")))
            }
        }
    }

    async fn read_stream(
        &self,
        session: &Session,
        mut response: Response,
        id: u64,
        deadline: Instant,
    ) -> Result<Answer, DispatchError> {
        let mut parser = Parser::new(MAX_MESSAGE);
        while let Some(chunk) = response.chunk(deadline).await.map_err(dispatch_error)? {
            let events = parser.feed(&chunk).map_err(|_| DispatchError::Protocol("its event is too long".into()))?;
            for event in events.iter().filter(|event| !event.is_empty()) {
                match rpc::parse(event).map_err(DispatchError::Protocol)? {
                    Incoming::Response(number, answer) if number == id => return Ok(answer),
                    Incoming::Unrelated(error) => return Ok(Answer::Error(error.to_owned())),
                    other => self.aside(session, &other),
                }
            }
        }
        Err(DispatchError::Lost("its stream ended without an answer".into()))
    }

    /// What else comes along on a stream.
    fn aside(&self, session: &Session, incoming: &Incoming<'_>) {
        match incoming {
            Incoming::Notification(method) if method == "notifications/tools/list_changed" => self.board.changed(),
            // Modern servers may not ask, and modern clients may not answer.
            Incoming::Request(id, method) if session.era != Era::Modern => {
                self.courtesy(session, Method::POST, rpc::refusal(id, method));
            }
            _ => {}
        }
    }

    /// Sends something whose failure harms nobody, without waiting for it.
    fn courtesy(&self, session: &Session, method: Method, body: Vec<u8>) {
        let (client, url, headers) = (self.client.clone(), self.url.clone(), self.session_headers(session));
        tokio::spawn(async move {
            let _ = client.send(method, &url, headers, Bytes::from(body), Instant::now() + COURTESY).await;
        });
    }

    /// Listens for changed tools: a GET stream in the session era, a subscription in the modern one.
    fn listen(&self, session: &Arc<Session>) {
        let (link, weak) = (self.this.clone(), Arc::downgrade(session));
        let listener = tokio::spawn(async move {
            let mut wait = LISTEN_AGAIN.0;
            loop {
                let (Some(link), Some(session)) = (link.upgrade(), weak.upgrade()) else { return };
                let opened = Instant::now();
                if !link.listen_once(session).await {
                    return;
                }
                wait = if opened.elapsed() > LISTEN_AGAIN.1 { LISTEN_AGAIN.0 } else { (wait * 2).min(LISTEN_AGAIN.1) };
                drop(link);
                tokio::time::sleep(wait).await;
            }
        });
        *session.listener.lock().unwrap_or_else(PoisonError::into_inner) = Some(listener);
    }

    /// Whether it is worth trying again.
    async fn listen_once(&self, session: Arc<Session>) -> bool {
        let mut headers = self.session_headers(&session);
        let (method, body) = match session.era {
            Era::Modern => {
                headers.insert(METHOD, HeaderValue::from_static("subscriptions/listen"));
                let id = self.next_id.fetch_add(1, Ordering::Relaxed);
                let members = "\"notifications\":{\"toolsListChanged\":true}";
                (Method::POST, rpc::request(id, "subscriptions/listen", members, session.era))
            }
            Era::Legacy(_) => {
                headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
                headers.remove(CONTENT_TYPE);
                (Method::GET, Vec::new())
            }
        };
        let until = Instant::now() + LISTEN;
        let mut response = match self.send(method, headers, body, Instant::now() + self.start_timeout).await {
            Ok(response) if response.status().is_success() => response,
            // 405: it offers no such stream. 404: the session is over, and the next call finds that out.
            Ok(response) => return response.status().is_server_error(),
            Err(_) => return true,
        };
        if media_type(response.headers()) != Some("text/event-stream") {
            return false;
        }
        let weak = Arc::downgrade(&session);
        drop(session);
        let mut parser = Parser::new(MAX_MESSAGE);
        while let Ok(Some(chunk)) = response.chunk(until).await {
            let (Ok(events), Some(session)) = (parser.feed(&chunk), weak.upgrade()) else { return true };
            for event in events {
                if let Ok(incoming) = rpc::parse(&event) {
                    self.aside(&session, &incoming);
                }
            }
        }
        true
    }
}

#[async_trait]
impl Link for HttpLink {
    async fn ask(
        &self,
        method: &str,
        name: Option<&str>,
        members: &str,
        deadline: Instant,
    ) -> Result<Answer, DispatchError> {
        let mut resumed = false;
        loop {
            let session = self.session(deadline).await?;
            match self.post_request(&session, method, name, members, deadline).await {
                Ok(Posted::Answered(answer)) => return Ok(answer),
                // 2025-11-25, Session Management: the session is over and the request was not processed, so that sending
                // it again in a new session executes it once.
                Ok(Posted::Refused(StatusCode::NOT_FOUND, _)) if session.id.is_some() && !resumed => {
                    self.forget(&session);
                    resumed = true;
                }
                Ok(Posted::Refused(status, error)) => {
                    // Some servers say 400 to a session that they don't know. That is not certain enough to send the call
                    // again, but the next one gets a new session.
                    if status == StatusCode::BAD_REQUEST && session.id.is_some() {
                        self.forget(&session);
                    }
                    return refused(status, error);
                }
                Err(error) => {
                    if matches!(error, DispatchError::NotSent(_)) {
                        // Whoever comes next may find another server there.
                        self.forget(&session);
                        self.board.trouble("failed", &error.to_string());
                    }
                    return Err(error);
                }
            }
        }
    }

    async fn close(&self) {
        let session = self.session.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.board.state("idle");
        if let Some(session) = session.filter(|s| s.id.is_some()) {
            let headers = self.session_headers(&session);
            let _ = self.client.send(Method::DELETE, &self.url, headers, Bytes::new(), Instant::now() + COURTESY).await;
        }
    }
}

/// Cancels a request of the session era whose answer is not waited for any more. In the modern era closing the stream says
/// the same.
struct Cancel<'a> {
    link: &'a HttpLink,
    session: &'a Session,
    id: u64,
    armed: bool,
}

impl Cancel<'_> {
    fn unless(mut self, settled: bool) {
        self.armed &= !settled;
    }
}

impl Drop for Cancel<'_> {
    fn drop(&mut self) {
        if self.armed && self.session.era != Era::Modern {
            let members = format!("\"requestId\":{},\"reason\":\"no longer waited for\"", self.id);
            self.link.courtesy(self.session, Method::POST, rpc::notification("notifications/cancelled", &members));
        }
    }
}

/// A status that says no. With a JSON-RPC error it is that error. Otherwise a client error (RFC 9110, 15.5) is the
/// upstream's refusal of the call, while a timeout at a proxy, a redirect or a server's error leaves open what happened.
fn refused(status: StatusCode, error: Option<Box<RawValue>>) -> Result<Answer, DispatchError> {
    if let Some(error) = error {
        return Ok(Answer::Error(error));
    }
    if status.is_client_error() && status != StatusCode::REQUEST_TIMEOUT {
        let text = format!(r#"{{"code":-32000,"message":"the upstream answered HTTP {}"}}"#, status.as_u16());
        return RawValue::from_string(text).map(Answer::Error).map_err(|e| DispatchError::Protocol(e.to_string()));
    }
    Err(DispatchError::Protocol(format!("it answered HTTP {}", status.as_u16())))
}

pub(crate) fn dispatch_error(error: EgressError) -> DispatchError {
    match error {
        EgressError::Timeout { sent: true } => DispatchError::Timeout,
        EgressError::Lost(why) => DispatchError::Lost(why),
        EgressError::TooLarge { .. } => DispatchError::Protocol(error.to_string()),
        EgressError::Timeout { sent: false }
        | EgressError::Setup(_)
        | EgressError::Refused(_)
        | EgressError::Unreachable(_) => DispatchError::NotSent(error.to_string()),
    }
}

fn accept_both(headers: &mut HeaderMap) {
    headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
}

pub(crate) fn media_type(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    Some(value.split(';').next().unwrap_or(value).trim())
}

/// 2026-07-28, Value Encoding: what a header cannot hold as it is goes in base64 between marks.
fn header_value(text: &str) -> HeaderValue {
    let plain = text.bytes().all(|b| (0x20..0x7f).contains(&b))
        && text.trim() == text
        && !(text.starts_with("=?base64?") && text.ends_with("?="));
    let encoded = || format!("=?base64?{}?=", base64::engine::general_purpose::STANDARD.encode(text));
    let value = if plain { HeaderValue::from_str(text) } else { HeaderValue::from_str(&encoded()) };
    // Both forms are printable ASCII.
    value.unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_values_are_encoded_as_in_the_specification() {
        for (text, value) in [
            ("us-west1", "us-west1"),
            ("Hello, 世界", "=?base64?SGVsbG8sIOS4lueVjA==?="),
            (" padded ", "=?base64?IHBhZGRlZCA=?="),
            ("line1\nline2", "=?base64?bGluZTEKbGluZTI=?="),
            ("=?base64?literal?=", "=?base64?PT9iYXNlNjQ/bGl0ZXJhbD89?="),
        ] {
            assert_eq!(header_value(text), value, "{text}");
        }
    }
}
