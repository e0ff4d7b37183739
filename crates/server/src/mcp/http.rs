//! The streamable HTTP transport: one POST, one answer, as JSON or, when it takes long, as a stream of server-sent events.
//!
//! Both eras at the same endpoints (2026-07-28 `basic/transports/streamable-http`, 2025-11-25 `basic/transports`). No
//! sessions, no GET stream, no resumption.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use bytes::Bytes;
use countersign_domain::{Principal, Refusal, RefusalKind};
use futures_util::future::join_all;
use futures_util::stream;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::call::{self, Job};
use super::era::{self, Era, LEGACY, MODERN};
use super::message::{
    self, HEADER_MISMATCH, INVALID_PARAMS, INVALID_REQUEST, METHOD_NOT_FOUND, Message, PARSE_ERROR, Params, RpcError,
    UNSUPPORTED_VERSION,
};
use super::{INSTRUCTIONS, Scope, catalog, result};
use crate::app::App;
use crate::http::problem::Refused;
use crate::http::request::{Caller, Correlation, read_body};
use crate::http::{Answered, json_bytes};
use crate::rawjson::on_one_line;

/// An answer that takes longer than this becomes a stream, so that nothing on the way takes the silence for death.
const STREAM_AFTER: Duration = Duration::from_secs(5);
/// How often a stream shows that it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Most messages in a batch (2025-03-26 only).
const MAX_BATCH: usize = 32;

const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// `POST /mcp`
pub(crate) async fn all(State(app): State<Arc<App>>, request: Request) -> Answered {
    post(app, Scope::All, request).await
}

/// `POST /mcp/{upstream}`
pub(crate) async fn one(State(app): State<Arc<App>>, Path(name): Path<String>, request: Request) -> Answered {
    let upstream = name.parse().ok().filter(|name| app.upstreams.contains(name));
    let Some(upstream) = upstream else { return Err(Refused(call::no_upstream())) };
    post(app, Scope::Upstream(upstream), request).await
}

async fn post(app: Arc<App>, scope: Scope, request: Request) -> Answered {
    let (parts, body) = request.into_parts();
    let principal = Caller::authenticate(&app, &parts, "mcp").await?;
    let correlation = parts.extensions.get::<Correlation>().cloned().unwrap_or_else(|| Correlation::of(&parts.headers));
    let body = match read_body(&app, &parts.headers, body).await {
        Ok(body) => body,
        Err(refusal) => return Err(Refused(app.gate.refuse_unread(&principal, None, &correlation.0, refusal).await)),
    };
    let session = Session { app, scope, principal, correlation: correlation.0, headers: parts.headers };
    Ok(session.answer(&body).await)
}

/// What all messages of one POST have in common.
struct Session {
    app: Arc<App>,
    scope: Scope,
    principal: Arc<Principal>,
    correlation: Arc<str>,
    headers: HeaderMap,
}

/// What one message comes to.
enum Step {
    /// Nothing to answer.
    Accepted,
    /// Answered at once.
    Answer(StatusCode, Vec<u8>),
    /// Not the protocol: answered, and recorded.
    Malformed(RpcError, Vec<u8>),
    /// A tool call.
    Call(Job),
}

impl Session {
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
            Step::Call(job) => self.call(job).await,
        }
    }

    fn step(&self, text: &str) -> Step {
        match message::parse(text) {
            Err((error, id)) => self.malformed(error, id),
            Ok(Message::Notification) => Step::Accepted,
            Ok(Message::Response) if era::by_header(&self.headers) == MODERN => {
                let error = RpcError::new(INVALID_REQUEST, "nothing was asked, so there is nothing to answer");
                self.refusal(&error, None, StatusCode::BAD_REQUEST)
            }
            Ok(Message::Response) => Step::Accepted,
            Ok(Message::Request { id, method, params }) => self.request(id, &method, &params),
        }
    }

    fn request(&self, id: &str, method: &str, params: &Params<'_>) -> Step {
        let era = match era::of(method, params, &self.headers) {
            Ok(era) => era,
            Err(error) => return Step::Answer(StatusCode::BAD_REQUEST, error.response(Some(id))),
        };
        let result = match (method, era) {
            ("tools/call", _) => match call::prepare(&self.app, &self.scope, id, params, era, &self.headers) {
                Ok(job) => return Step::Call(job),
                Err(error) => Err(error),
            },
            ("tools/list", _) => {
                let cursor = params.cursor.as_ref().map(|cursor| cursor.0.as_ref());
                catalog::list(&self.app, &self.principal, &self.scope, cursor, era)
            }
            ("initialize", Era::Legacy) => initialize(params),
            ("ping", Era::Legacy) => Ok(b"{}".to_vec()),
            ("server/discover", Era::Modern) => Ok(discover()),
            _ => Err(RpcError::new(METHOD_NOT_FOUND, format!("the method is not offered here: {}", short(method)))),
        };
        match result {
            Ok(result) => Step::Answer(StatusCode::OK, message::response(id, &result)),
            Err(error) => Step::Answer(status_of(&error, era), error.response(Some(id))),
        }
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
        let run = |message: &&RawValue| {
            let step = self.step(message.get());
            let (app, principal, correlation) =
                (Arc::clone(&self.app), Arc::clone(&self.principal), Arc::clone(&self.correlation));
            async move {
                match step {
                    Step::Accepted => None,
                    Step::Answer(_, body) => Some(body),
                    Step::Malformed(error, body) => {
                        record(&app, &principal, &correlation, &error).await;
                        Some(body)
                    }
                    Step::Call(job) => Some(call::run(app, principal, correlation, job).await),
                }
            }
        };
        let answers: Vec<Vec<u8>> = join_all(messages.iter().map(run)).await.into_iter().flatten().collect();
        if answers.is_empty() {
            return empty(StatusCode::ACCEPTED);
        }
        let body = [b"[".as_slice(), &answers.join(b",".as_slice()), b"]"].concat();
        answered(StatusCode::OK, body)
    }

    async fn call(self, job: Job) -> Response {
        let streams = accepts_stream(&self.headers);
        let progress = job.progress_token.clone();
        let mut running: Running = Box::pin(call::run(self.app, self.principal, self.correlation, job));
        if !streams {
            return answered(StatusCode::OK, running.await);
        }
        tokio::select! {
            biased;
            body = &mut running => answered(StatusCode::OK, body),
            () = tokio::time::sleep(STREAM_AFTER) => stream_of(running, progress),
        }
    }
}

type Running = Pin<Box<dyn Future<Output = Vec<u8>> + Send>>;

fn initialize(params: &Params<'_>) -> Result<Vec<u8>, RpcError> {
    let Some(requested) = params.protocol_version.as_ref() else {
        return Err(RpcError::new(INVALID_PARAMS, "initialize needs a protocolVersion"));
    };
    let result = json!({
        "protocolVersion": era::negotiate(&requested.0),
        "capabilities": { "tools": {} },
        "serverInfo": result::server_info(),
        "instructions": INSTRUCTIONS,
    });
    Ok(result.to_string().into_bytes())
}

fn discover() -> Vec<u8> {
    let versions: Vec<&str> = std::iter::once(MODERN).chain(LEGACY.iter().copied()).collect();
    let members = Map::from_iter([
        ("supportedVersions".to_owned(), json!(versions)),
        ("capabilities".to_owned(), json!({ "tools": {} })),
        ("instructions".to_owned(), Value::from(INSTRUCTIONS)),
        ("ttlMs".to_owned(), json!(3_600_000)),
        ("cacheScope".to_owned(), json!("public")),
    ]);
    result::of_value(members, Era::Modern)
}

/// 2026-07-28 gives some errors an HTTP status; before, a JSON-RPC error was a successful POST.
fn status_of(error: &RpcError, era: Era) -> StatusCode {
    match (era, error.code) {
        (Era::Modern, METHOD_NOT_FOUND) => StatusCode::NOT_FOUND,
        (Era::Modern, HEADER_MISMATCH | UNSUPPORTED_VERSION) => StatusCode::BAD_REQUEST,
        _ => StatusCode::OK,
    }
}

/// Clients must accept both forms; one that says it does not gets JSON, however long it takes.
fn accepts_stream(headers: &HeaderMap) -> bool {
    let Some(accept) = headers.get(ACCEPT) else { return true };
    let text = accept.to_str().unwrap_or_default();
    ["text/event-stream", "text/*", "*/*"].iter().any(|kind| text.contains(kind))
}

/// A stream that shows signs of life until the answer is there. Dropping it, as hyper does when the client goes away,
/// ends the waiting; the gate sees a call that was sent through to its end.
fn stream_of(running: Running, progress: Option<String>) -> Response {
    let first = (Some(running), progress, 0_u64);
    let events = stream::unfold(first, |(running, progress, beats)| async move {
        let mut running = running?;
        let chunk = tokio::select! {
            biased;
            body = &mut running => return Some((Ok::<_, std::convert::Infallible>(event(body)), (None, progress, beats))),
            () = tokio::time::sleep(if beats == 0 { Duration::ZERO } else { KEEP_ALIVE }) => beat(progress.as_deref(), beats),
        };
        Some((Ok(chunk), (Some(running), progress, beats + 1)))
    });
    let mut response = Response::new(Body::from_stream(events));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(ACCEL_BUFFERING, HeaderValue::from_static("no"));
    response
}

/// A comment, and a progress notification where the request asked for such.
fn beat(progress_token: Option<&str>, beats: u64) -> Bytes {
    let Some(token) = progress_token else { return Bytes::from_static(b": waiting\n\n") };
    let text = format!(
        "{{\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{{\"progressToken\":{token},\"progress\":{},\
         \"message\":\"waiting\"}}}}",
        beats + 1
    );
    event(text.into_bytes())
}

fn event(mut json: Vec<u8>) -> Bytes {
    on_one_line(&mut json);
    let mut out = Vec::with_capacity(json.len() + 24);
    out.extend_from_slice(b"event: message\ndata: ");
    out.extend_from_slice(&json);
    out.extend_from_slice(b"\n\n");
    Bytes::from(out)
}

fn answered(status: StatusCode, body: Vec<u8>) -> Response {
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

    #[test]
    fn initialize_answers_with_the_asked_revision_or_our_newest() {
        for (asked, given) in [
            ("2025-06-18", "2025-06-18"),
            ("2024-11-05", "2024-11-05"),
            ("2026-07-28", "2025-11-25"),
            ("1", "2025-11-25"),
        ] {
            let text = format!("{{\"protocolVersion\":\"{asked}\"}}");
            let params: Params<'_> = serde_json::from_str(&text).expect("params");
            let result: Value = serde_json::from_slice(&initialize(&params).expect("a result")).expect("JSON");
            assert_eq!(result["protocolVersion"], given);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_answer_streams_signs_of_life_and_then_the_answer() {
        let running: Running = Box::pin(async {
            tokio::time::sleep(Duration::from_secs(25)).await;
            b"{\"id\":1,\n\"result\":{}}".to_vec()
        });
        let response = stream_of(running, Some("\"p\"".to_owned()));
        let body = axum::body::to_bytes(response.into_body(), 1 << 16).await.expect("a body");
        let text = String::from_utf8(body.to_vec()).expect("text");
        let events: Vec<&str> = text.trim_end().split("\n\n").collect();
        assert_eq!(events.len(), 4, "{text}");
        assert!(events[0].contains("\"progressToken\":\"p\",\"progress\":1"), "{text}");
        assert!(events[2].contains("\"progress\":3"), "{text}");
        assert_eq!(events[3], "event: message\ndata: {\"id\":1, \"result\":{}}");
    }
}
