//! MCP over standard input and output: a proxy to a running node's endpoint, in both eras.
//!
//! Every line goes to the node as a POST of its own, several at a time; every answer, whether JSON or a stream of events,
//! comes back as one line. The era's headers are written here from the message itself.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use countersign_egress::{Egress, EgressConfig, EgressError, Purpose, PurposeClient};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use url::Url;

use super::era::{self, MODERN, ParamHeader};
use super::message::{INTERNAL_ERROR, INVALID_REQUEST, PARSE_ERROR, RpcError};
use crate::rawjson::on_one_line;

/// Requests that are under way at a time; further lines wait.
const CONCURRENT: usize = 64;
/// Answers that wait for a slow reader.
const UNWRITTEN: usize = 64;
/// Longest line from the client.
const MAX_LINE: usize = 8 << 20;
/// Longest answer of the node.
const MAX_ANSWER: usize = 64 << 20;
/// The node answers within its own limits; this is for a node that hangs.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long a stream of notifications may last before it is opened anew; the node ends it earlier.
const STREAM_LIFE: Duration = Duration::from_secs(2 * 3_600);
/// Before a stream that ended is opened anew.
const REOPEN: Duration = Duration::from_secs(1);
const SESSION: &str = "mcp-session-id";
/// How long running requests may take after the input has ended.
const AFTER_END: Duration = Duration::from_secs(10);

/// Gives the bearer token for the next request, so that a short-lived one can be renewed.
pub type TokenSource = Arc<dyn Fn() -> Result<String, String> + Send + Sync>;

/// Why the proxy ended early.
#[derive(Debug, thiserror::Error)]
pub enum StdioError {
    /// The URL is not one.
    #[error("{0} is not the URL of a node's MCP endpoint")]
    Url(String),
    /// The network client could not be set up.
    #[error(transparent)]
    Network(#[from] EgressError),
    /// Reading or writing failed.
    #[error("standard input or output: {0}")]
    Io(#[from] std::io::Error),
}

/// Serves standard input and output with one token, until the input ends.
///
/// # Errors
/// [`StdioError`].
pub async fn proxy(url: &str, token: &str) -> Result<(), StdioError> {
    let token = token.to_owned();
    let input = tokio::io::BufReader::new(tokio::io::stdin());
    serve_stdio(url, Arc::new(move || Ok(token.clone())), input, tokio::io::stdout()).await
}

/// Serves a line-delimited JSON-RPC stream from the endpoint at `url`, until the input ends.
///
/// # Errors
/// [`StdioError`]; whatever concerns a single message is answered as a JSON-RPC error instead.
pub async fn serve_stdio<R, W>(url: &str, token: TokenSource, mut input: R, output: W) -> Result<(), StdioError>
where
    R: AsyncBufRead + Unpin,
    W: AsyncWrite + Unpin + Send + 'static,
{
    let endpoint = Url::parse(url).map_err(|_| StdioError::Url(url.to_owned()))?;
    let client = Egress::new(EgressConfig::default()).client_for(Purpose::Admin, &endpoint)?;
    let (answers, unwritten) = mpsc::channel(UNWRITTEN);
    let writer = tokio::spawn(write_lines(unwritten, output));
    let proxy = Arc::new(Proxy {
        client,
        endpoint,
        token,
        answers,
        negotiated: Mutex::default(),
        headers: Mutex::default(),
        session: Mutex::default(),
    });
    let mut hearing: Option<AbortHandle> = None;
    let free = Arc::new(Semaphore::new(CONCURRENT));
    let mut running = JoinSet::new();
    let mut by_id: HashMap<String, AbortHandle> = HashMap::new();
    while let Some(line) = read_line(&mut input).await? {
        while running.try_join_next().is_some() {}
        by_id.retain(|_, handle| !handle.is_finished());
        let Some(message) = proxy.understood(line).await else { continue };
        // The proxy is where the client's stream ends: cancelling means to stop waiting (2026-07-28, stdio).
        if let Some(handle) = message.cancels.as_ref().and_then(|id| by_id.remove(id)) {
            handle.abort();
        }
        let Ok(place) = Arc::clone(&free).acquire_owned().await else { break };
        let (proxy, id) = (Arc::clone(&proxy), message.id.clone());
        // Until the handshake is answered nobody knows which revision the next line speaks.
        if message.is_initialize {
            proxy.forward(message).await;
            // What the session hears between requests comes on a stream of its own.
            if let Some(before) = hearing.take() {
                before.abort();
            }
            if proxy.session().is_some() {
                let proxy = Arc::clone(&proxy);
                hearing = Some(tokio::spawn(async move { proxy.hear().await }).abort_handle());
            }
            continue;
        }
        let handle = running.spawn(async move {
            proxy.forward(message).await;
            drop(place);
        });
        if let Some(id) = id {
            by_id.insert(id, handle);
        }
    }
    let ended = async { while running.join_next().await.is_some() {} };
    if tokio::time::timeout(AFTER_END, ended).await.is_err() {
        running.abort_all();
        while running.join_next().await.is_some() {}
    }
    if let Some(hearing) = hearing {
        hearing.abort();
    }
    proxy.end().await;
    drop(proxy);
    writer.await.map_err(|e| std::io::Error::other(e.to_string()))?.map_err(StdioError::Io)
}

async fn read_line<R: AsyncBufRead + Unpin>(input: &mut R) -> std::io::Result<Option<Vec<u8>>> {
    loop {
        let mut line = Vec::new();
        let read = (&mut *input).take(MAX_LINE as u64 + 1).read_until(b'\n', &mut line).await?;
        if read == 0 {
            return Ok(None);
        }
        if !line.trim_ascii().is_empty() {
            return Ok(Some(line));
        }
    }
}

async fn write_lines<W: AsyncWrite + Unpin>(mut lines: mpsc::Receiver<Vec<u8>>, mut output: W) -> std::io::Result<()> {
    while let Some(mut line) = lines.recv().await {
        on_one_line(&mut line);
        line.push(b'\n');
        output.write_all(&line).await?;
        output.flush().await?;
    }
    Ok(())
}

struct Proxy {
    client: PurposeClient,
    endpoint: Url,
    token: TokenSource,
    answers: mpsc::Sender<Vec<u8>>,
    /// The revision that `initialize` settled on.
    negotiated: Mutex<Option<String>>,
    /// Which arguments of which tool are mirrored into headers, as the lists that passed by said.
    headers: Mutex<HashMap<String, Vec<ParamHeader>>>,
    /// The session that the handshake began.
    session: Mutex<Option<String>>,
}

/// A line from the client with what is needed to forward it.
struct Forwarded {
    line: Vec<u8>,
    /// The id as JSON; `None` for notifications.
    id: Option<String>,
    value: Value,
    is_initialize: bool,
    cancels: Option<String>,
}

impl Proxy {
    /// Reads a line; what cannot be read is answered here.
    async fn understood(&self, line: Vec<u8>) -> Option<Forwarded> {
        let error = match serde_json::from_slice::<Value>(&line) {
            Ok(value) if value.is_object() => {
                let method = value.get("method").and_then(Value::as_str).unwrap_or_default();
                let cancels = (method == "notifications/cancelled").then(|| value["params"]["requestId"].to_string());
                // An answer of the client's has an id, too, but is not answered.
                let id = value.get("id").filter(|_| value.get("method").is_some()).map(Value::to_string);
                let is_initialize = method == "initialize";
                return Some(Forwarded { line, id, is_initialize, cancels, value });
            }
            Ok(_) => RpcError::new(INVALID_REQUEST, "a line is one JSON-RPC message"),
            Err(error) => RpcError::new(PARSE_ERROR, format!("not JSON: {error}")),
        };
        self.say(error.response(Some("null"))).await;
        None
    }

    async fn say(&self, line: Vec<u8>) {
        // If nobody reads any more, the loop over the input ends as well.
        let _ = self.answers.send(line).await;
    }

    async fn forward(&self, message: Forwarded) {
        let answered = self.exchange(&message).await;
        let (Err(error), Some(id)) = (answered, &message.id) else { return };
        self.say(error.response(Some(id))).await;
    }

    async fn exchange(&self, message: &Forwarded) -> Result<(), RpcError> {
        let headers = self.headers_for(&message.value).map_err(|why| RpcError::new(INTERNAL_ERROR, why))?;
        let lasts = message.value["method"] == "subscriptions/listen";
        let deadline = Instant::now() + if lasts { STREAM_LIFE } else { PATIENCE };
        let body = Bytes::copy_from_slice(message.line.trim_ascii());
        let sent = self.client.send(Method::POST, &self.endpoint, headers, body, deadline).await;
        let mut response = sent.map_err(|error| unreachable_node(&error))?;
        let (status, kind) = (response.status(), content_type(response.headers()));
        if message.is_initialize {
            let session = response.headers().get(SESSION).and_then(|value| value.to_str().ok()).map(str::to_owned);
            *self.session.lock().unwrap_or_else(PoisonError::into_inner) = session;
        }
        if status == StatusCode::ACCEPTED {
            return Ok(());
        }
        if kind == "text/event-stream" {
            return self.relay_events(message, &mut response, deadline).await;
        }
        let body = response.bytes(MAX_ANSWER, deadline).await.map_err(|error| unreachable_node(&error))?;
        if kind != "application/json" {
            return Err(problem(status, &body));
        }
        self.relay(message, body.to_vec()).await;
        Ok(())
    }

    async fn relay_events(
        &self,
        message: &Forwarded,
        response: &mut countersign_egress::Response,
        deadline: Instant,
    ) -> Result<(), RpcError> {
        let mut events = Events::default();
        while let Some(chunk) = response.chunk(deadline).await.map_err(|error| unreachable_node(&error))? {
            for event in events.push(&chunk).map_err(|why| RpcError::new(INTERNAL_ERROR, why))? {
                self.relay(message, event).await;
            }
        }
        if events.answered {
            Ok(())
        } else {
            Err(RpcError::new(INTERNAL_ERROR, "the node's answer broke off; the call may have been executed"))
        }
    }

    fn session(&self) -> Option<String> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Passes on what the session hears, for as long as there is one.
    async fn hear(&self) {
        loop {
            let heard = self.hear_once().await;
            if !heard.unwrap_or(false) {
                return;
            }
            tokio::time::sleep(REOPEN).await;
        }
    }

    /// One stream to its end. False where the node has none to offer.
    async fn hear_once(&self) -> Result<bool, RpcError> {
        let headers = self.headers_for(&Value::Null).map_err(|why| RpcError::new(INTERNAL_ERROR, why))?;
        let deadline = Instant::now() + STREAM_LIFE;
        let sent = self.client.send(Method::GET, &self.endpoint, headers, Bytes::new(), deadline).await;
        let mut response = sent.map_err(|error| unreachable_node(&error))?;
        if content_type(response.headers()) != "text/event-stream" {
            return Ok(false);
        }
        let mut events = Events::default();
        while let Some(chunk) = response.chunk(deadline).await.map_err(|error| unreachable_node(&error))? {
            for event in events.push(&chunk).map_err(|why| RpcError::new(INTERNAL_ERROR, why))? {
                self.say(event).await;
            }
        }
        Ok(true)
    }

    /// The client has gone, and its session with it.
    async fn end(&self) {
        let (Some(_), Ok(headers)) = (self.session(), self.headers_for(&Value::Null)) else { return };
        let deadline = Instant::now() + Duration::from_secs(2);
        let _ = self.client.send(Method::DELETE, &self.endpoint, headers, Bytes::new(), deadline).await;
    }

    async fn relay(&self, message: &Forwarded, answer: Vec<u8>) {
        if message.is_initialize {
            self.remember_revision(&answer);
        }
        if message.value["method"] == "tools/list" {
            self.remember_headers(&answer);
        }
        self.say(answer).await;
    }

    fn remember_revision(&self, answer: &[u8]) {
        let value: Value = serde_json::from_slice(answer).unwrap_or_default();
        let version = value["result"]["protocolVersion"].as_str().map(str::to_owned);
        *self.negotiated.lock().unwrap_or_else(PoisonError::into_inner) = version;
    }

    fn remember_headers(&self, answer: &[u8]) {
        let value: Value = serde_json::from_slice(answer).unwrap_or_default();
        let mut known = self.headers.lock().unwrap_or_else(PoisonError::into_inner);
        for tool in value["result"]["tools"].as_array().into_iter().flatten() {
            let params = era::param_headers(tool);
            match (tool["name"].as_str(), params.is_empty()) {
                (Some(name), false) => drop(known.insert(name.to_owned(), params)),
                (Some(name), true) => drop(known.remove(name)),
                (None, _) => {}
            }
        }
    }

    fn headers_for(&self, message: &Value) -> Result<HeaderMap, String> {
        let token = (self.token)()?;
        let mut headers = HeaderMap::new();
        let bearer = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| "the token is not one".to_owned())?;
        headers.insert(AUTHORIZATION, bearer);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        let declared = message["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"].as_str();
        let negotiated = self.negotiated.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let revision = declared.map(str::to_owned).or(negotiated);
        let mut set = |name: &'static str, text: &str| headers.insert(HeaderName::from_static(name), encoded(text));
        if let Some(revision) = &revision {
            set("mcp-protocol-version", revision);
        }
        if declared.is_none()
            && message["method"] != "initialize"
            && let Some(session) = self.session()
        {
            set("mcp-session-id", &session);
        }
        if declared.is_some_and(|revision| revision == MODERN) {
            set("mcp-method", message["method"].as_str().unwrap_or_default());
            if let ("resources/read", Some(uri)) =
                (message["method"].as_str().unwrap_or_default(), message["params"]["uri"].as_str())
            {
                set("mcp-name", uri);
            }
            if let Some(name) = message["params"]["name"].as_str() {
                set("mcp-name", name);
                self.mirror(name, &message["params"]["arguments"], &mut headers);
            }
        }
        Ok(headers)
    }

    fn mirror(&self, tool: &str, arguments: &Value, headers: &mut HeaderMap) {
        let known = self.headers.lock().unwrap_or_else(PoisonError::into_inner);
        for param in known.get(tool).into_iter().flatten() {
            let value = param.path.iter().try_fold(arguments, |value, name| value.get(name));
            match value {
                Some(Value::String(text)) => drop(headers.insert(param.header.clone(), encoded(text))),
                Some(value @ (Value::Number(_) | Value::Bool(_))) => {
                    drop(headers.insert(param.header.clone(), encoded(&value.to_string())));
                }
                Some(Value::Null | Value::Array(_) | Value::Object(_)) | None => {}
            }
        }
    }
}

/// A header value as 2026-07-28 wants it ("Value Encoding").
fn encoded(text: &str) -> HeaderValue {
    let looks_encoded = text.starts_with("=?base64?") && text.ends_with("?=");
    let plain = text.bytes().all(|b| b.is_ascii_graphic() || b == b' ') && text.trim() == text && !looks_encoded;
    let value = if plain { text.to_owned() } else { format!("=?base64?{}?=", STANDARD.encode(text)) };
    HeaderValue::try_from(value).unwrap_or_else(|_| HeaderValue::from_static(""))
}

fn content_type(headers: &HeaderMap) -> String {
    let text = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

fn unreachable_node(error: &EgressError) -> RpcError {
    let known = if error.not_sent() { "nothing was sent" } else { "the call may have been executed" };
    RpcError::new(INTERNAL_ERROR, format!("the node does not answer ({known}): {error}"))
}

fn problem(status: StatusCode, body: &[u8]) -> RpcError {
    let problem: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    let words = problem["detail"].as_str().or_else(|| problem["title"].as_str()).unwrap_or("no reason given");
    let error = RpcError::new(INTERNAL_ERROR, format!("the node answered {}: {words}", status.as_u16()));
    if problem.is_object() { error.with(json!({ "problem": problem })) } else { error }
}

/// Takes server-sent events out of pieces of a stream.
#[derive(Default)]
struct Events {
    buffer: Vec<u8>,
    data: Vec<u8>,
    answered: bool,
}

impl Events {
    fn push(&mut self, chunk: &[u8]) -> Result<Vec<Vec<u8>>, String> {
        self.buffer.extend_from_slice(chunk);
        if self.buffer.len() + self.data.len() > MAX_ANSWER {
            return Err("the node's answer is too long".to_owned());
        }
        let mut found = Vec::new();
        while let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.buffer.drain(..=end).collect();
            let line = line.trim_ascii_end();
            if let Some(data) = line.strip_prefix(b"data:") {
                if !self.data.is_empty() {
                    self.data.push(b'\n');
                }
                self.data.extend_from_slice(data.strip_prefix(b" ").unwrap_or(data));
            } else if line.is_empty() && !self.data.is_empty() {
                let event = std::mem::take(&mut self.data);
                // Notifications have a method; what has none is the answer.
                self.answered |=
                    serde_json::from_slice::<Value>(&event).is_ok_and(|value| value.get("method").is_none());
                found.push(event);
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_out_whole_however_the_stream_is_cut() {
        let stream = b": waiting\n\nevent: message\ndata: {\"method\":\"x\"}\n\nevent: message\ndata: {\"id\":1,\ndata: \"result\":{}}\n\n";
        for size in 1..stream.len() {
            let mut events = Events::default();
            let found: Vec<Vec<u8>> =
                stream.chunks(size).flat_map(|chunk| events.push(chunk).expect("short")).collect();
            assert_eq!(found.len(), 2, "cut every {size} bytes");
            assert_eq!(found[1], b"{\"id\":1,\n\"result\":{}}");
            assert!(events.answered);
        }
    }

    #[test]
    fn header_values_are_encoded_as_the_specification_says() {
        let cases = [
            ("us-west1", "us-west1"),
            ("Hello, 世界", "=?base64?SGVsbG8sIOS4lueVjA==?="),
            (" padded ", "=?base64?IHBhZGRlZCA=?="),
            ("line1\nline2", "=?base64?bGluZTEKbGluZTI=?="),
            ("=?base64?literal?=", "=?base64?PT9iYXNlNjQ/bGl0ZXJhbD89?="),
        ];
        for (text, expected) in cases {
            assert_eq!(encoded(text), expected);
        }
    }
}
