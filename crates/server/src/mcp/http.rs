//! The streamable HTTP transport: POST for every message, GET and DELETE for the sessions of clients before 2026-07-28.
//!
//! Both eras at the same endpoints (2026-07-28 `basic/transports/streamable-http`, 2025-11-25 `basic/transports`). Streams
//! are not resumed.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use bytes::Bytes;
use countersign_catalog::Kind;
use countersign_domain::{Principal, Refusal, RefusalKind};
use countersign_gate::upstream::AskKind;
use countersign_proof::digest::Digest;
use futures_util::future::join_all;
use http::header::ACCEPT;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::call::{self, Job};
use super::era::{self, Era, LEGACY, MODERN};
use super::listen::Listener;
use super::message::{
    self, HEADER_MISMATCH, INVALID_PARAMS, INVALID_REQUEST, METHOD_NOT_FOUND, MISSING_CAPABILITY, Message, PARSE_ERROR,
    Params, REFUSED, RpcError, UNSUPPORTED_VERSION,
};
use super::session::{DEFAULT_LEVEL, NoSession, Session};
use super::talk::Talk;
use super::wire::{self, Abilities, Flight, Hearing, Running};
use super::{INSTRUCTIONS, Scope, catalog, offers, parked, result, tasks};
use crate::app::App;
use crate::http::problem::Refused;
use crate::http::request::{Caller, Correlation, read_body};
use crate::http::{Answered, json_bytes};

/// Most messages in a batch (2025-03-26 only).
const MAX_BATCH: usize = 32;

/// What is a call of the gate's.
const CALLS: [&str; 4] = ["tools/call", "prompts/get", "resources/read", "completion/complete"];

const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");

/// `POST /mcp`
pub(crate) async fn all(State(app): State<Arc<App>>, request: Request) -> Answered {
    post(app, Scope::All, request).await
}

/// `POST /mcp/{upstream}`
pub(crate) async fn one(State(app): State<Arc<App>>, Path(name): Path<String>, request: Request) -> Answered {
    let scope = scope_of(&app, &name)?;
    post(app, scope, request).await
}

/// `GET /mcp`: what a session hears between its requests.
pub(crate) async fn all_stream(State(app): State<Arc<App>>, request: Request) -> Answered {
    get(app, Scope::All, request).await
}

/// `GET /mcp/{upstream}`
pub(crate) async fn one_stream(State(app): State<Arc<App>>, Path(name): Path<String>, request: Request) -> Answered {
    let scope = scope_of(&app, &name)?;
    get(app, scope, request).await
}

/// `DELETE /mcp` and `DELETE /mcp/{upstream}`: the session is over.
pub(crate) async fn end(State(app): State<Arc<App>>, request: Request) -> Answered {
    let (parts, _) = request.into_parts();
    let principal = Caller::authenticate(&app, &parts, "mcp").await?;
    let id = session_id(&parts.headers).ok_or_else(no_stream)?;
    match app.sessions.end(&app, &principal, id).await {
        Ok(()) => Ok(empty(StatusCode::NO_CONTENT)),
        Err(why) => Ok(session_error(why)),
    }
}

fn scope_of(app: &App, name: &str) -> Result<Scope, Refused> {
    let upstream = name.parse().ok().filter(|name| app.upstreams.contains(name));
    upstream.map(Scope::Upstream).ok_or_else(|| Refused(call::no_upstream()))
}

fn session_id(headers: &HeaderMap) -> Option<&str> {
    headers.get(SESSION).and_then(|value| value.to_str().ok())
}

fn no_stream() -> Refused {
    Refused(Refusal::new(
        RefusalKind::MethodNotAllowed,
        "without an Mcp-Session-Id there is only POST; see docs/mcp.md",
    ))
}

/// A session that is over has to be begun anew (2025-11-25, "Session Management").
fn session_error(why: NoSession) -> Response {
    let (status, error) = match why {
        NoSession::Unknown => {
            (StatusCode::NOT_FOUND, RpcError::new(INVALID_REQUEST, "there is no such session; initialize again"))
        }
        NoSession::TooMany => {
            (StatusCode::SERVICE_UNAVAILABLE, RpcError::new(REFUSED, "too many sessions; try again later"))
        }
    };
    answered(status, error.response(Some("null")))
}

async fn get(app: Arc<App>, scope: Scope, request: Request) -> Answered {
    let (parts, _) = request.into_parts();
    let principal = Caller::authenticate(&app, &parts, "mcp").await?;
    let id = session_id(&parts.headers).filter(|_| accepts_stream(&parts.headers)).ok_or_else(no_stream)?;
    let session = match app.sessions.find(&app, &principal, id).await {
        Ok(session) => session,
        Err(why) => return Ok(session_error(why)),
    };
    let correlation = parts.extensions.get::<Correlation>().cloned().unwrap_or_else(|| Correlation::of(&parts.headers));
    let listener = Listener { app, principal, scope, correlation: correlation.0 };
    Ok(listener
        .stream(session)
        .unwrap_or_else(|error| answered(StatusCode::TOO_MANY_REQUESTS, error.response(Some("null")))))
}

async fn post(app: Arc<App>, scope: Scope, request: Request) -> Answered {
    let (parts, body) = request.into_parts();
    let principal = Caller::authenticate(&app, &parts, "mcp").await?;
    let correlation = parts.extensions.get::<Correlation>().cloned().unwrap_or_else(|| Correlation::of(&parts.headers));
    let body = match read_body(&app, &parts.headers, body).await {
        Ok(body) => body,
        Err(refusal) => return Err(Refused(app.gate.refuse_unread(&principal, None, &correlation.0, refusal).await)),
    };
    // Sessions were ended with 2026-07-28; what its clients send under that name means nothing.
    let session = match session_id(&parts.headers).filter(|_| era::by_header(&parts.headers) != MODERN) {
        None => None,
        Some(id) => match app.sessions.find(&app, &principal, id).await {
            Ok(session) => Some(session),
            Err(why) => return Ok(session_error(why)),
        },
    };
    let exchange = Exchange { app, scope, principal, correlation: correlation.0, headers: parts.headers, session };
    Ok(exchange.answer(&body).await)
}

/// What all messages of one POST have in common.
struct Exchange {
    app: Arc<App>,
    scope: Scope,
    principal: Arc<Principal>,
    correlation: Arc<str>,
    headers: HeaderMap,
    session: Option<Arc<Session>>,
}

/// What one message comes to.
enum Step {
    /// Nothing to answer.
    Accepted,
    /// Answered at once.
    Answer(StatusCode, Vec<u8>),
    /// Not the protocol: answered, and recorded.
    Malformed(RpcError, Vec<u8>),
    /// A handshake, with what the client declared.
    Greeting(Vec<u8>, Abilities),
    /// A call.
    Call(Box<Called>),
    /// A retry of a call, with answers.
    Resume(Box<Called>, String, Option<Box<RawValue>>),
    /// `subscriptions/listen`, with its id and filter, and what its client declared.
    Listen(String, Option<String>, Abilities),
    /// `resources/subscribe`, with its id and URI.
    Subscribe(String, String),
    /// `tasks/*`, with its id.
    Task(String, tasks::Asked),
}

/// A call with what its request says of the way back.
struct Called {
    id: String,
    job: Job,
    token: Option<String>,
    hearing: Hearing,
    identity: Option<Digest>,
}

impl Exchange {
    async fn answer(self, body: &Bytes) -> Response {
        let step = match std::str::from_utf8(body) {
            Ok(text) if text.trim_ascii_start().starts_with('[') => return self.batch(text).await,
            Ok(text) => self.step(text),
            Err(_) => self.malformed(RpcError::new(PARSE_ERROR, "the body is not UTF-8"), None),
        };
        match step {
            Step::Accepted => empty(StatusCode::ACCEPTED),
            Step::Answer(status, body) => answered(status, body),
            Step::Malformed(error, body) => {
                record(&self.app, &self.principal, &self.correlation, &error).await;
                answered(StatusCode::BAD_REQUEST, body)
            }
            Step::Greeting(body, abilities) => self.greet(body, abilities).await,
            Step::Call(called) => self.call(*called).await,
            Step::Resume(called, state, responses) => self.resume(*called, &state, responses.as_deref()).await,
            Step::Listen(id, filter, abilities) => self.listen(&id, filter.as_deref(), abilities).await,
            Step::Task(id, asked) => {
                let body = self.task(&id, &asked).await;
                answered(StatusCode::OK, body)
            }
            Step::Subscribe(id, uri) => {
                let body = self.subscribe(&id, &uri).await;
                answered(StatusCode::OK, body)
            }
        }
    }

    fn step(&self, text: &str) -> Step {
        match message::parse(text) {
            Err((error, id)) => self.malformed(error, id),
            Ok(Message::Notification { method, about }) => {
                if let (Some(session), "notifications/cancelled", Some(request)) =
                    (&self.session, method.as_ref(), about)
                {
                    session.cancel(request);
                }
                Step::Accepted
            }
            Ok(Message::Response { .. }) if era::by_header(&self.headers) == MODERN => {
                let error = RpcError::new(INVALID_REQUEST, "nothing was asked, so there is nothing to answer");
                self.refusal(&error, None, StatusCode::BAD_REQUEST)
            }
            Ok(Message::Response { id, outcome }) => {
                let id = id.and_then(|raw| serde_json::from_str::<String>(raw).ok());
                if let (Some(session), Some(id)) = (&self.session, id) {
                    session.answers(&id, outcome);
                }
                Step::Accepted
            }
            Ok(Message::Request { id, method, params }) => self.request(id, &method, &params),
        }
    }

    fn request(&self, id: &str, method: &str, params: &Params<'_>) -> Step {
        let era = match era::of(method, params, &self.headers) {
            Ok(era) => era,
            Err(error) => return Step::Answer(StatusCode::BAD_REQUEST, error.response(Some(id))),
        };
        let cursor = params.cursor.as_ref().map(|cursor| cursor.0.as_ref());
        let list = |kind| offers::list(&self.app, &self.principal, &self.scope, kind, cursor, era);
        let result = match (method, era) {
            ("tools/call" | "prompts/get" | "resources/read" | "completion/complete", _) => {
                let method = CALLS.iter().find(|known| **known == method).copied().unwrap_or(CALLS[0]);
                match self.called(id, method, params, era) {
                    Ok(step) => return step,
                    Err(error) => Err(error),
                }
            }
            ("tools/list", _) => catalog::list(&self.app, &self.principal, &self.scope, cursor, era),
            ("prompts/list", _) => list(Kind::Prompt),
            ("resources/list", _) => list(Kind::Resource),
            ("resources/templates/list", _) => list(Kind::Template),
            ("initialize", Era::Legacy) => match self.initialize(params) {
                Ok(result) => {
                    let abilities = Abilities::of(params.capabilities.map(RawValue::get));
                    return Step::Greeting(message::response(id, &result), abilities);
                }
                Err(error) => Err(error),
            },
            ("ping", Era::Legacy) => Ok(b"{}".to_vec()),
            ("logging/setLevel", Era::Legacy) => self.set_level(params),
            ("resources/subscribe", Era::Legacy) => match &params.uri {
                Some(uri) => return Step::Subscribe(id.to_owned(), uri.0.clone().into_owned()),
                None => Err(RpcError::new(INVALID_PARAMS, "resources/subscribe needs a uri")),
            },
            ("resources/unsubscribe", Era::Legacy) => self.unsubscribe(params),
            ("tasks/get" | "tasks/update" | "tasks/cancel", Era::Modern) => match task_of(method, params) {
                Ok(asked) => return Step::Task(id.to_owned(), asked),
                Err(error) => Err(error),
            },
            ("server/discover", Era::Modern) => Ok(self.discover()),
            ("subscriptions/listen", Era::Modern) => {
                let declared = params.meta.as_ref().and_then(|meta| meta.client_capabilities).map(RawValue::get);
                let filter = params.notifications.map(|raw| raw.get().to_owned());
                return Step::Listen(id.to_owned(), filter, Abilities::of(declared));
            }
            _ => Err(RpcError::new(METHOD_NOT_FOUND, format!("the method is not offered here: {}", short(method)))),
        };
        match result {
            Ok(result) => Step::Answer(StatusCode::OK, message::response(id, &result)),
            Err(error) => Step::Answer(status_of(&error, era), error.response(Some(id))),
        }
    }

    /// A call, or the retry of one.
    fn called(&self, id: &str, method: &'static str, params: &Params<'_>, era: Era) -> Result<Step, RpcError> {
        let job = call::prepare(&self.app, &self.principal, &self.scope, (id, method), params, era, &self.headers)?;
        let meta = params.meta.as_ref();
        let token = meta.and_then(|meta| meta.progress_token).map(RawValue::get);
        let token = token.filter(|raw| raw.len() <= 512 && !raw.starts_with(['{', '['])).map(str::to_owned);
        let abilities = match (&self.session, era) {
            (_, Era::Modern) => Abilities::of(meta.and_then(|meta| meta.client_capabilities).map(RawValue::get)),
            // Without a stream, or a session to bring the answers to, nobody can be asked.
            (Some(session), Era::Legacy) if accepts_stream(&self.headers) => session.abilities,
            (_, Era::Legacy) => Abilities::default(),
        };
        let log_level = match (&self.session, era) {
            (_, Era::Modern) => meta.and_then(|meta| meta.log_level.as_ref()).and_then(|level| wire::level(&level.0)),
            (Some(session), Era::Legacy) => Some(session.level()),
            (None, Era::Legacy) => Some(DEFAULT_LEVEL),
        };
        // Completions are not asked back about (2026-07-28, "Supported Requests").
        let can_retry = era == Era::Modern && method != "completion/complete";
        let abilities = if era == Era::Modern && !can_retry { Abilities::default() } else { abilities };
        let abilities = if era == Era::Modern && job.follows_tasks() { abilities } else { abilities.without_tasks() };
        let may_retry = can_retry && (abilities != Abilities::default() || params.request_state.is_some());
        let identity = may_retry.then(|| self.identity(method, params));
        let hearing =
            Hearing { abilities, wants_progress: token.is_some(), log_level, cancels_on_drop: era == Era::Modern };
        let called = Box::new(Called { id: id.to_owned(), job, token, hearing, identity });
        Ok(match (&params.request_state, can_retry) {
            (Some(state), true) => {
                Step::Resume(called, state.0.clone().into_owned(), params.input_responses.map(ToOwned::to_owned))
            }
            (Some(_), false) | (None, _) => Step::Call(called),
        })
    }

    fn identity(&self, method: &str, params: &Params<'_>) -> Digest {
        let endpoint = match &self.scope {
            Scope::All => "/mcp".to_owned(),
            Scope::Upstream(upstream) => format!("/mcp/{upstream}"),
        };
        let name = params.name.as_ref().or(params.uri.as_ref()).map(|name| name.0.as_ref()).unwrap_or_default();
        parked::identity(&endpoint, method, name, params.arguments.map_or("{}", RawValue::get))
    }

    /// An error about a message that could not be read as a request. Older clients expect a null id.
    fn refusal(&self, error: &RpcError, id: Option<&str>, status: StatusCode) -> Step {
        let modern = era::by_header(&self.headers) == MODERN;
        Step::Answer(status, error.response(id.or(if modern { None } else { Some("null") })))
    }

    /// The answer to what is not the protocol, whatever its revision.
    fn malformed(&self, error: RpcError, id: Option<&str>) -> Step {
        let modern = era::by_header(&self.headers) == MODERN;
        let body = error.response(id.or(if modern { None } else { Some("null") }));
        Step::Malformed(error, body)
    }

    /// Batches were part of 2025-03-26 alone.
    async fn batch(self, text: &str) -> Response {
        let refused = async |message: &str| {
            let error = RpcError::new(INVALID_REQUEST, message);
            record(&self.app, &self.principal, &self.correlation, &error).await;
            answered(StatusCode::BAD_REQUEST, error.response(Some("null")))
        };
        if era::by_header(&self.headers) != era::UNSAID {
            return refused("batches are not part of this protocol revision").await;
        }
        let Ok(messages) = serde_json::from_str::<Vec<&RawValue>>(text) else {
            return refused("the batch is not a JSON array of messages").await;
        };
        if messages.is_empty() || messages.len() > MAX_BATCH {
            return refused("a batch has 1 to 32 messages").await;
        }
        let run = |message: &&RawValue| self.in_batch(self.step(message.get()));
        let answers: Vec<Vec<u8>> = join_all(messages.iter().map(run)).await.into_iter().flatten().collect();
        if answers.is_empty() {
            return empty(StatusCode::ACCEPTED);
        }
        let body = [b"[".as_slice(), &answers.join(b",".as_slice()), b"]"].concat();
        answered(StatusCode::OK, body)
    }

    /// One message of a batch: nothing is streamed and nobody is asked.
    async fn in_batch(&self, step: Step) -> Option<Vec<u8>> {
        match step {
            Step::Accepted => None,
            Step::Answer(_, body) | Step::Greeting(body, _) => Some(body),
            Step::Malformed(error, body) => {
                record(&self.app, &self.principal, &self.correlation, &error).await;
                Some(body)
            }
            Step::Subscribe(id, uri) => Some(self.subscribe(&id, &uri).await),
            Step::Call(called) => {
                let id = called.id.clone();
                let mut flight = self.take_off(Called { hearing: Hearing::default(), ..*called });
                Some(match (&mut flight.running).await {
                    Ok(result) => message::response(&id, &result),
                    Err(error) => error.response(Some(&id)),
                })
            }
            // Of 2026-07-28 alone, which has no batches.
            Step::Resume(called, ..) => Some(not_in_batches(&called.id)),
            Step::Listen(id, ..) | Step::Task(id, _) => Some(not_in_batches(&id)),
        }
    }

    fn take_off(&self, called: Called) -> Flight {
        let (app, principal, correlation) =
            (Arc::clone(&self.app), Arc::clone(&self.principal), Arc::clone(&self.correlation));
        let job = called.job;
        wire::open(called.hearing, self.session.clone(), |wire| {
            let running: Running = Box::pin(call::run(app, principal, correlation, job, wire));
            running
        })
    }

    async fn call(self, called: Called) -> Response {
        let (id, token, identity) = (called.id.clone(), called.token.clone(), called.identity);
        let (era, level) = (called.job.era, called.hearing.log_level);
        let flight = self.take_off(called);
        if let Some(session) = &self.session {
            session.runs(&id, flight.cancel.handle());
        }
        let streams = accepts_stream(&self.headers);
        let Self { app, principal, session, .. } = self;
        let flight = Some(flight);
        Talk {
            app,
            principal,
            id,
            era,
            token,
            level,
            session,
            streams,
            identity,
            flight,
            progressed: false,
            status: StatusCode::OK,
        }
        .answer()
        .await
    }

    async fn resume(self, called: Called, state: &str, responses: Option<&RawValue>) -> Response {
        let Called { id, token, hearing, identity, job } = called;
        let Some(request) = identity else {
            let error = RpcError::new(INVALID_PARAMS, "this request is not retried");
            return answered(StatusCode::OK, error.response(Some(&id)));
        };
        let resumed = match parked::resume(&self.app, &self.principal, &request, state, responses).await {
            Ok(resumed) => resumed,
            Err(parked::Lost::Over(error)) => return answered(StatusCode::OK, error.response(Some(&id))),
            Err(parked::Lost::Anew) => {
                let abilities = hearing.abilities.without(AskKind::ElicitUrl);
                let hearing = Hearing { abilities, ..hearing };
                return self.call(Called { id, token, hearing, identity, job }).await;
            }
        };
        resumed.flight.set_abilities(hearing.abilities);
        let (still, lost): (Vec<_>, Vec<_>) =
            resumed.missing.into_iter().partition(|(_, question)| hearing.abilities.answers(question.ask.kind));
        lost.into_iter().for_each(|(_, question)| parked::unsupported(question));
        let streams = accepts_stream(&self.headers);
        let Self { app, principal, .. } = self;
        let (era, level, flight) = (job.era, hearing.log_level, Some(resumed.flight));
        let mut talk = Talk {
            app,
            principal,
            id,
            era,
            token,
            level,
            session: None,
            streams,
            identity,
            flight,
            progressed: false,
            status: StatusCode::OK,
        };
        match talk.ask_again(still).await {
            Some(body) => answered(StatusCode::OK, body),
            None => talk.answer().await,
        }
    }

    async fn greet(self, body: Vec<u8>, abilities: Abilities) -> Response {
        let id = self.app.sessions.begin(&self.app, &self.principal, abilities).await;
        let mut response = answered(StatusCode::OK, body);
        // Without a session the client is served all the same; it just cannot be asked or told anything.
        if let Some(value) = id.and_then(|id| HeaderValue::try_from(id).ok()) {
            response.headers_mut().insert(SESSION, value);
        }
        response
    }

    fn listener(&self) -> Listener {
        Listener {
            app: Arc::clone(&self.app),
            principal: Arc::clone(&self.principal),
            scope: self.scope.clone(),
            correlation: Arc::clone(&self.correlation),
        }
    }

    async fn listen(self, id: &str, filter: Option<&str>, abilities: Abilities) -> Response {
        if !accepts_stream(&self.headers) {
            let error = RpcError::new(
                INVALID_REQUEST,
                "subscriptions/listen is answered with a stream, which Accept leaves out",
            );
            return answered(StatusCode::NOT_ACCEPTABLE, error.response(Some(id)));
        }
        let listened = self.listener().listen(id, filter, abilities).await;
        listened.unwrap_or_else(|error| answered(status_of(&error, Era::Modern), error.response(Some(id))))
    }

    async fn subscribe(&self, id: &str, uri: &str) -> Vec<u8> {
        let Some(session) = &self.session else {
            let error =
                RpcError::new(INVALID_REQUEST, "subscribing needs a session: initialize, and send its Mcp-Session-Id");
            return error.response(Some(id));
        };
        match self.listener().subscribe(uri, Era::Legacy).await {
            Ok(hearing) => match session.subscribe(hearing, uri.to_owned()) {
                true => message::response(id, b"{}"),
                false => RpcError::new(REFUSED, "this session hears of too many resources").response(Some(id)),
            },
            Err(error) => error.response(Some(id)),
        }
    }

    async fn task(&self, id: &str, asked: &tasks::Asked) -> Vec<u8> {
        match tasks::answer(&self.app, &self.principal, &self.correlation, asked).await {
            Ok(result) => message::response(id, &result),
            Err(error) => error.response(Some(id)),
        }
    }

    fn unsubscribe(&self, params: &Params<'_>) -> Result<Vec<u8>, RpcError> {
        let uri =
            params.uri.as_ref().ok_or_else(|| RpcError::new(INVALID_PARAMS, "resources/unsubscribe needs a uri"))?;
        if let Some(session) = &self.session {
            let (upstream, own) = offers::locate(&self.app, &self.principal, &self.scope, &uri.0, Era::Legacy)?;
            session.unsubscribe(&upstream, &own);
        }
        Ok(b"{}".to_vec())
    }

    fn set_level(&self, params: &Params<'_>) -> Result<Vec<u8>, RpcError> {
        let level = params.level.as_ref().and_then(|level| wire::level(&level.0));
        let level = level.ok_or_else(|| RpcError::new(INVALID_PARAMS, "the level is one of debug to emergency"))?;
        if let Some(session) = &self.session {
            session.set_level(level);
        }
        Ok(b"{}".to_vec())
    }

    /// What can be done at this endpoint, as far as this caller may know.
    fn capabilities(&self, era: Era) -> Value {
        let has = |kind| !offers::offered(&self.app, &self.principal, &self.scope, kind).is_empty();
        // Before 2026-07-28 changes are told to sessions alone, which every handshake begins.
        let mut capabilities = json!({ "tools": { "listChanged": true }, "logging": {} });
        let (prompts, resources, templates) = (has(Kind::Prompt), has(Kind::Resource), has(Kind::Template));
        if prompts {
            capabilities["prompts"] = json!({ "listChanged": true });
        }
        if resources || templates || self.reads_unlisted() {
            capabilities["resources"] = json!({ "listChanged": true, "subscribe": true });
        }
        if prompts || templates {
            capabilities["completions"] = json!({});
        }
        if era == Era::Modern {
            capabilities["extensions"] = json!({ wire::TASKS: {} });
        }
        capabilities
    }

    fn reads_unlisted(&self) -> bool {
        match &self.scope {
            Scope::All => {
                self.app.upstreams.iter().any(|upstream| self.app.gate.reads_unlisted(upstream, &self.principal))
            }
            Scope::Upstream(upstream) => self.app.gate.reads_unlisted(upstream, &self.principal),
        }
    }

    fn initialize(&self, params: &Params<'_>) -> Result<Vec<u8>, RpcError> {
        let Some(requested) = params.protocol_version.as_ref() else {
            return Err(RpcError::new(INVALID_PARAMS, "initialize needs a protocolVersion"));
        };
        let result = json!({
            "protocolVersion": era::negotiate(&requested.0),
            "capabilities": self.capabilities(Era::Legacy),
            "serverInfo": result::server_info(),
            "instructions": INSTRUCTIONS,
        });
        Ok(result.to_string().into_bytes())
    }

    fn discover(&self) -> Vec<u8> {
        let versions: Vec<&str> = std::iter::once(MODERN).chain(LEGACY.iter().copied()).collect();
        let members = Map::from_iter([
            ("supportedVersions".to_owned(), json!(versions)),
            ("capabilities".to_owned(), self.capabilities(Era::Modern)),
            ("instructions".to_owned(), Value::from(INSTRUCTIONS)),
            ("ttlMs".to_owned(), json!(catalog::TTL_MS)),
            // What is offered depends on who asks.
            ("cacheScope".to_owned(), json!("private")),
        ]);
        result::of_value(members, Era::Modern)
    }
}

/// What is asked of which task.
fn task_of(method: &str, params: &Params<'_>) -> Result<tasks::Asked, RpcError> {
    let abilities = Abilities::of(params.meta.as_ref().and_then(|meta| meta.client_capabilities).map(RawValue::get));
    if !abilities.knows_tasks() {
        return Err(tasks::not_declared());
    }
    let needs = || RpcError::new(INVALID_PARAMS, format!("{} needs a taskId", short(method)));
    let task = params.task_id.as_ref().ok_or_else(needs)?;
    let method = tasks::Method::of(method).ok_or_else(needs)?;
    let responses = params.input_responses.map(ToOwned::to_owned);
    Ok(tasks::Asked { method, task: task.0.clone().into_owned(), abilities, responses })
}

fn not_in_batches(id: &str) -> Vec<u8> {
    RpcError::new(INVALID_REQUEST, "this request is not made in a batch").response(Some(id))
}

/// 2026-07-28 gives some errors an HTTP status; before, a JSON-RPC error was a successful POST.
fn status_of(error: &RpcError, era: Era) -> StatusCode {
    match (era, error.code) {
        (Era::Modern, METHOD_NOT_FOUND) => StatusCode::NOT_FOUND,
        (Era::Modern, HEADER_MISMATCH | UNSUPPORTED_VERSION | MISSING_CAPABILITY) => StatusCode::BAD_REQUEST,
        _ => StatusCode::OK,
    }
}

/// Clients must accept both forms; one that says it does not gets JSON, however long it takes.
fn accepts_stream(headers: &HeaderMap) -> bool {
    let Some(accept) = headers.get(ACCEPT) else { return true };
    let text = accept.to_str().unwrap_or_default();
    ["text/event-stream", "text/*", "*/*"].iter().any(|kind| text.contains(kind))
}

/// A JSON answer.
pub(crate) fn answered(status: StatusCode, body: Vec<u8>) -> Response {
    let mut response = json_bytes(body);
    *response.status_mut() = status;
    response
}

fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

fn short(text: &str) -> String {
    text.chars().take(80).filter(|c| !c.is_control()).collect()
}

/// What an authenticated caller sends and we cannot read is an event, as any refusal is.
async fn record(app: &App, principal: &Arc<Principal>, correlation: &str, error: &RpcError) {
    let refusal = Refusal::new(RefusalKind::MalformedRequest, error.message.clone());
    app.gate.refuse_unread(principal, None, correlation, refusal).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_get_a_stream_unless_they_cannot_read_one() {
        let accepts =
            |text: &'static str| accepts_stream(&HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(text))]));
        assert!(accepts("application/json, text/event-stream"));
        assert!(accepts("*/*"));
        assert!(!accepts("application/json"));
        assert!(accepts_stream(&HeaderMap::new()));
    }
}
