//! MCP over streamable HTTP, with JSON or event-stream answers, in both eras.
//!
//! 2026-07-28: every request stands alone, its metadata mirrored into headers. Earlier: a session after a handshake, named
//! by `Mcp-Session-Id`; a `404` for a session means that it is over and that the request was not processed.
//!
//! Where the credential depends on the caller, the node's own requests go as the node; each caller's carry that caller's, in a
//! [session of that caller's own](people) where there are sessions.

mod answer;
mod listen;
mod people;

pub(crate) use answer::media_type;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use countersign_catalog::manifest::{Credential as Stated, HttpTransport, Protocol};
use countersign_domain::Principal;
use countersign_egress::{Egress, EgressError, Purpose, PurposeClient, Response};
use countersign_gate::broker::{Credential, CredentialSource, Placement};
use countersign_gate::connections::metadata::Challenge;
use countersign_gate::upstream::{DispatchError, Mute};
use http::header::{ACCEPT, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use serde_json::value::RawValue;
use tokio::task::JoinHandle;
use url::Url;

use people::People;

use crate::headers::header_value;
use crate::link::{Board, Facts, Link, Probe, Question, judge_initialize, judge_probe};
use crate::rpc::{self, Answer, Era, LEGACY, quote};
use crate::talk::{Floor, Talk};
use crate::upstream::{ConnectError, Settings};

const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
const VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
const METHOD: HeaderName = HeaderName::from_static("mcp-method");
const NAME: HeaderName = HeaderName::from_static("mcp-name");

/// How long the probe may take before the handshake is tried.
const PROBE_WAIT: Duration = Duration::from_secs(10);
/// How long calls wait until the stream is there on which the upstream may ask.
const LISTENING: Duration = Duration::from_secs(1);
/// How long a courtesy (a cancellation, the end of a session) may take.
const COURTESY: Duration = Duration::from_secs(2);
/// How long the delivery of what the upstream asked for may take.
const DELIVERY: Duration = Duration::from_secs(10);

/// An MCP endpoint.
pub(crate) struct HttpLink {
    this: Weak<HttpLink>,
    upstream: String,
    client: PurposeClient,
    url: Url,
    headers: HeaderMap,
    credentials: Option<Arc<dyn CredentialSource>>,
    /// Whether the credential depends on the caller.
    personal: bool,
    protocol: Protocol,
    start_timeout: Duration,
    board: Arc<Board>,
    next_id: AtomicU64,
    /// The node's own, which all callers share unless the credential depends on the caller.
    session: Mutex<Option<Arc<Session>>>,
    people: People,
    starting: tokio::sync::Mutex<u64>,
}

/// What was agreed on with the endpoint.
struct Session {
    /// Whose it is; the node's without one.
    caller: Option<Principal>,
    era: Era,
    id: Option<HeaderValue>,
    facts: Facts,
    /// The calls in flight, for what comes on the session's GET stream.
    floor: Arc<Floor>,
    listener: Mutex<Option<JoinHandle<()>>>,
}

impl Session {
    fn new(caller: Option<&Principal>, era: Era, id: Option<HeaderValue>, facts: Facts) -> Self {
        Self { caller: caller.cloned(), era, id, facts, floor: Arc::default(), listener: Mutex::default() }
    }
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
        credentials: Option<Arc<dyn CredentialSource>>,
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
            credentials,
            personal: transport.credential.as_deref().is_some_and(Stated::is_personal),
            protocol: transport.protocol,
            start_timeout: settings.start_timeout,
            board,
            next_id: AtomicU64::new(1),
            session: Mutex::new(None),
            people: People::default(),
            starting: tokio::sync::Mutex::new(0),
        }))
    }

    fn current(&self) -> Option<Arc<Session>> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Forgets this session, unless another has taken its place.
    fn forget(&self, session: &Arc<Session>) {
        if let Some(caller) = &session.caller {
            return self.people.forget(caller, session);
        }
        let mut current = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_some_and(|c| Arc::ptr_eq(c, session)) {
            *current = None;
        }
    }

    /// The session in which this caller's questions are asked.
    async fn session(&self, caller: Option<&Principal>, deadline: Instant) -> Result<Arc<Session>, DispatchError> {
        let shared = self.shared(deadline).await?;
        match caller.filter(|_| self.personal && shared.era != Era::Modern) {
            Some(caller) => self.own(caller, deadline).await,
            None => Ok(shared),
        }
    }

    async fn shared(&self, deadline: Instant) -> Result<Arc<Session>, DispatchError> {
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
            Ok(session) => {
                let session = Arc::new(session);
                *self.session.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&session));
                self.board.ready(session.era.revision());
                self.attend(&session).await;
                if session.era != Era::Modern {
                    self.watch_again(&session).await;
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

    /// Listens, where there may be something to hear. Many servers of the session era ask on the GET stream, whatever they
    /// announce, and lose what they ask before it is there. Some answer it only when they have something to say: so it is
    /// waited for, but not long.
    async fn attend(&self, session: &Arc<Session>) {
        if session.facts.tells() || session.id.is_some() {
            let opened = self.listen(session);
            if session.era != Era::Modern {
                let _ = tokio::time::timeout(LISTENING, opened).await;
            }
        }
    }

    /// 2026-07-28, Streamable HTTP, Backward Compatibility.
    async fn agree(&self, deadline: Instant) -> Result<Session, String> {
        if self.protocol == Protocol::V2025_11_25 {
            return self.initialize(None, deadline).await;
        }
        let modern = Session::new(None, Era::Modern, None, Facts::default());
        let probe_deadline = deadline.min(Instant::now() + PROBE_WAIT);
        let discover = Question { method: "server/discover", ..Question::plain(&Mute, probe_deadline) };
        let probe = match self.post_request(None, &modern, &discover).await {
            Ok(Posted::Answered(answer)) => self.judge(&modern, &discover, &answer).await,
            Ok(Posted::Refused(_, Some(error))) => self.judge(&modern, &discover, &Answer::Error(error)).await,
            Ok(Posted::Refused(status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN), None)) => {
                return Err(format!(
                    "it answered {status}; check `headers`, `credential` and `discovery_credential` in the manifest"
                ));
            }
            Ok(Posted::Refused(status, None)) if status.is_redirection() => {
                return Err(format!("it answered {status}; redirects are not followed, name the final URL"));
            }
            Ok(Posted::Refused(_, None)) => Probe::Legacy,
            Err(error @ (DispatchError::NotSent(_) | DispatchError::Unauthorised(_))) => return Err(error.to_string()),
            Err(_) => Probe::Legacy,
        };
        match probe {
            Probe::Modern(facts) => Ok(Session::new(None, Era::Modern, None, Facts { mirrors: true, ..facts })),
            Probe::Again => Err("it refuses a revision that it says it speaks".to_owned()),
            Probe::Legacy if self.protocol == Protocol::V2026_07_28 => Err("it does not speak 2026-07-28".to_owned()),
            Probe::Legacy => self.initialize(None, deadline).await,
            Probe::Incompatible(why) => Err(why),
        }
    }

    /// What the answer to the probe means; a server that refused what it speaks is asked once more.
    async fn judge(&self, modern: &Session, discover: &Question<'_>, answer: &Answer) -> Probe {
        match judge_probe(answer) {
            Probe::Again => match self.post_request(None, modern, discover).await {
                Ok(Posted::Answered(answer)) => judge_probe(&answer),
                Ok(Posted::Refused(..)) | Err(_) => Probe::Again,
            },
            probe => probe,
        }
    }

    async fn initialize(&self, caller: Option<&Principal>, deadline: Instant) -> Result<Session, String> {
        let offered = Session::new(caller, Era::Legacy(LEGACY[0]), None, Facts::default());
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let members = rpc::initialize();
        let body = rpc::request(id, "initialize", &members, None);
        let mut headers = self.headers.clone();
        accept_both(&mut headers);
        let response = self.send(caller, Method::POST, headers, body, deadline).await.map_err(|e| e.to_string())?;
        let given = response.headers().get(SESSION).cloned();
        let mut talk = Talk::new(&Mute, None, |reply| self.deliver(&offered, reply));
        let answer = match self.read(&offered, response, id, deadline, &mut talk).await.map_err(|e| e.to_string())? {
            Posted::Answered(answer) => answer,
            Posted::Refused(status, error) => {
                let words =
                    error.and_then(|e| rpc::error_parts(&e)).map_or_else(String::new, |(_, m)| format!(": {m}"));
                return Err(format!("it answered {status} to initialize{words}"));
            }
        };
        let (revision, facts) = judge_initialize(answer)?;
        let session = Session::new(caller, Era::Legacy(revision), given, facts);
        let initialized = rpc::notification("notifications/initialized", "");
        self.post(&session, initialized, deadline).await.map_err(|e| e.to_string())?;
        Ok(session)
    }

    async fn post_request(
        &self,
        caller: Option<&Principal>,
        session: &Session,
        question: &Question<'_>,
    ) -> Result<Posted, DispatchError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let mut headers = self.session_headers(session);
        if session.era == Era::Modern {
            headers.extend(question.headers.iter().map(|(name, value)| (name.clone(), value.clone())));
            headers.insert(METHOD, header_value(question.method));
            if let Some(name) = question.name {
                headers.insert(NAME, header_value(name));
            }
        }
        let meta = rpc::meta(id, session.era, question.exchange);
        let body = rpc::request(id, question.method, question.members, meta.as_deref());
        let cancel = Cancel { link: self, session, id, armed: question.method != "server/discover" };
        let place = question.is_call().then(|| session.floor.enter(id));
        let mut talk = Talk::new(question.exchange, place, |reply| self.deliver(session, reply));
        let response = talk.during(self.send(caller, Method::POST, headers, body, question.deadline)).await;
        let posted = match response {
            Ok(response) => self.read(session, response, id, question.deadline, &mut talk).await,
            Err(error) => Err(error),
        };
        cancel.unless(!matches!(posted, Err(DispatchError::Timeout)));
        posted
    }

    /// A message that is not a request.
    async fn post(&self, session: &Session, body: Vec<u8>, deadline: Instant) -> Result<(), DispatchError> {
        let caller = session.caller.as_ref();
        let response = self.send(caller, Method::POST, self.session_headers(session), body, deadline).await?;
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
        caller: Option<&Principal>,
        method: Method,
        mut headers: HeaderMap,
        body: Vec<u8>,
        deadline: Instant,
    ) -> Result<Response, DispatchError> {
        let Some(source) = &self.credentials else {
            return self
                .client
                .send(method, &self.url, headers, Bytes::from(body), deadline)
                .await
                .map_err(dispatch_error);
        };
        let caller = caller.filter(|_| self.personal);
        let credential =
            source.get(caller, deadline).await.map_err(|refusal| DispatchError::NotSent(refusal.detail))?;
        authenticate(&credential, &mut headers, &mut self.url.clone())?;
        let sent = self.client.send(method, &self.url, headers, Bytes::from(body), deadline).await;
        match sent.as_ref().map(Response::status) {
            Ok(StatusCode::UNAUTHORIZED) => source.reject(caller, &credential),
            Ok(StatusCode::FORBIDDEN) => {
                let wanted = sent.as_ref().ok().and_then(|response| wanted_scopes(response.headers()));
                if let Some(scopes) = wanted
                    && let Some(refusal) = source.insufficient(caller, &scopes).await
                {
                    return Err(DispatchError::Unauthorised(Box::new(refusal)));
                }
            }
            Ok(_) | Err(_) => {}
        }
        sent.map_err(dispatch_error)
    }

    /// Sends something whose failure harms nobody, without waiting for it.
    fn courtesy(&self, session: &Session, body: Vec<u8>, patience: Duration) {
        let (client, url, mut headers) = (self.client.clone(), self.url.clone(), self.session_headers(session));
        let (source, caller) = (self.credentials.clone(), session.caller.clone());
        tokio::spawn(async move {
            if let Some(source) = source {
                let Ok(credential) = source.get(caller.as_ref(), Instant::now() + patience).await else { return };
                if authenticate(&credential, &mut headers, &mut url.clone()).is_err() {
                    return;
                }
            }
            let _ = client.send(Method::POST, &url, headers, Bytes::from(body), Instant::now() + patience).await;
        });
    }
}

#[async_trait]
impl Link for HttpLink {
    async fn facts(&self, deadline: Instant) -> Result<Facts, DispatchError> {
        Ok(self.shared(deadline).await?.facts)
    }

    async fn ask_for(&self, caller: Option<&Principal>, question: &Question<'_>) -> Result<Answer, DispatchError> {
        let mut resumed = false;
        loop {
            let session = self.session(caller, question.deadline).await?;
            match self.post_request(caller, &session, question).await {
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
                        if session.caller.is_none() {
                            self.board.trouble("failed", &error.to_string());
                        }
                    }
                    return Err(error);
                }
            }
        }
    }

    async fn subscribe(&self, uri: &str, deadline: Instant) -> Result<Answer, DispatchError> {
        let session = self.shared(deadline).await?;
        if !session.facts.subscriptions {
            return Err(DispatchError::NotSent("it does not tell of changed resources".into()));
        }
        let count = self.board.watch(uri)?;
        if session.era == Era::Modern {
            self.board.acknowledged(count, deadline).await?;
            return rpc::complete();
        }
        let members = format!("\"uri\":{}", quote(uri));
        let question =
            Question { method: "resources/subscribe", members: &members, ..Question::plain(&Mute, deadline) };
        self.ask(&question).await
    }

    fn unsubscribe(&self, uri: &str) {
        // In the modern era the subscription is asked for anew, with what is left. At the end of the process nobody is told.
        let told = |session: &Arc<Session>| session.era != Era::Modern && session.facts.subscriptions;
        let Some(session) = self.current().filter(told).filter(|_| tokio::runtime::Handle::try_current().is_ok())
        else {
            return;
        };
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let members = format!("\"uri\":{}", quote(uri));
        self.courtesy(&session, rpc::request(id, "resources/unsubscribe", &members, None), COURTESY);
    }

    async fn close(&self) {
        let session = self.session.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.board.state("idle");
        let sessions = session.into_iter().chain(self.people.take_all());
        futures_util::future::join_all(sessions.map(|session| self.end(session))).await;
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
            self.link.courtesy(self.session, rpc::notification("notifications/cancelled", &members), COURTESY);
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

/// What an upstream wants of a credential that is good, but not for this (RFC 6750, 3.1).
fn wanted_scopes(headers: &HeaderMap) -> Option<Vec<String>> {
    let values = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
    Challenge::read(values).filter(Challenge::wants_more)?.scopes
}

/// A request without credentials, well formed in the newest revision: servers that protect themselves answer it with a challenge,
/// whatever they speak. Its headers and body.
pub fn knock() -> (HeaderMap, Vec<u8>) {
    let mut headers = HeaderMap::new();
    accept_both(&mut headers);
    headers.insert(VERSION, HeaderValue::from_static(Era::Modern.revision()));
    headers.insert(METHOD, HeaderValue::from_static("server/discover"));
    let meta = rpc::meta(1, Era::Modern, &Mute);
    (headers, rpc::request(1, "server/discover", "", meta.as_deref()))
}

/// Puts a credential where it goes.
pub(crate) fn authenticate(
    credential: &Credential,
    headers: &mut HeaderMap,
    url: &mut Url,
) -> Result<(), DispatchError> {
    let value = credential.value().expose();
    match credential.placement() {
        Placement::Nowhere => {}
        Placement::Header { name } => {
            let unusable = || DispatchError::NotSent("the credential cannot be sent in a header".into());
            let mut header = HeaderValue::from_str(value).map_err(|_| unusable())?;
            header.set_sensitive(true);
            headers.insert(HeaderName::try_from(name).map_err(|_| unusable())?, header);
        }
        Placement::Query { name } => {
            url.query_pairs_mut().append_pair(name, value);
        }
    }
    Ok(())
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
