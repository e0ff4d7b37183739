//! MCP over standard input and output: a proxy to a running node's endpoint, in both eras.
//!
//! Every line goes to the node as a POST of its own, several at a time; every answer, whether JSON or a stream of events,
//! comes back as one line. The era's headers are written here from the message itself. A node that goes away and comes back is
//! found again ([`node`]).

mod events;
mod headers;
mod node;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use countersign_egress::{Egress, EgressConfig, EgressError, Purpose};
use serde_json::Value;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use url::Url;

use super::message::{INVALID_REQUEST, PARSE_ERROR, RpcError};
use crate::rawjson::on_one_line;
use node::Proxy;

/// Requests that are under way at a time; further lines wait.
const CONCURRENT: usize = 64;
/// Answers that wait for a slow reader.
const UNWRITTEN: usize = 64;
/// Longest line from the client.
const MAX_LINE: usize = 8 << 20;
/// Longest answer of the node.
const MAX_ANSWER: usize = 64 << 20;
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
    let proxy = Proxy::new(client, endpoint, token, answers);
    let mut hearing: Option<AbortHandle> = None;
    let free = Arc::new(Semaphore::new(CONCURRENT));
    let mut running = JoinSet::new();
    let mut by_id: HashMap<String, AbortHandle> = HashMap::new();
    while let Some(line) = read_line(&mut input).await? {
        while running.try_join_next().is_some() {}
        by_id.retain(|_, handle| !handle.is_finished());
        let message = match understood(line) {
            Ok(message) => message,
            Err(error) => {
                proxy.say(error.response(Some("null"))).await;
                continue;
            }
        };
        // The proxy is where the client's stream ends: cancelling means to stop waiting (2026-07-28, stdio).
        if let Some(handle) = message.cancels.as_ref().and_then(|id| by_id.remove(id)) {
            handle.abort();
        }
        let Ok(place) = Arc::clone(&free).acquire_owned().await else { break };
        let (proxy, id) = (Arc::clone(&proxy), message.id.clone());
        // Until the handshake is answered nobody knows which revision the next line speaks.
        if message.is_initialize() {
            proxy.forward(&message).await;
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
            proxy.forward(&message).await;
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

/// A line from the client with what is needed to forward it.
#[derive(Clone)]
struct Forwarded {
    line: Vec<u8>,
    /// The id as JSON; `None` for notifications.
    id: Option<String>,
    value: Value,
    cancels: Option<String>,
}

fn understood(line: Vec<u8>) -> Result<Forwarded, RpcError> {
    match serde_json::from_slice::<Value>(&line) {
        Ok(value) if value.is_object() => {
            let cancelled = value["method"] == "notifications/cancelled";
            let cancels = cancelled.then(|| value["params"]["requestId"].to_string());
            // An answer of the client's has an id, too, but is not answered.
            let id = value.get("id").filter(|_| value.get("method").is_some()).map(Value::to_string);
            Ok(Forwarded { line, id, cancels, value })
        }
        Ok(_) => Err(RpcError::new(INVALID_REQUEST, "a line is one JSON-RPC message")),
        Err(error) => Err(RpcError::new(PARSE_ERROR, format!("not JSON: {error}"))),
    }
}
