//! The load: connections that each send a request when the answer to the last one is there (a closed loop).
//!
//! Written on bare sockets so that it takes little from the two cores that it shares with what it measures. One thread.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const RECEIPT: &[u8] = b"\"dev.countersign/receipt\":\"";
const ID_BYTES: usize = 36;

/// What is sent, where, by how many, for how long.
#[derive(Debug, Clone)]
pub struct Load {
    /// Where to.
    pub address: SocketAddr,
    /// The whole request, head and body.
    pub request: Vec<u8>,
    /// How many connections.
    pub connections: usize,
    /// How long.
    pub duration: Duration,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Of every answered call, in microseconds, sorted.
    pub latencies: Vec<u32>,
    /// Receipts' ids, as the answers named them.
    pub receipts: Vec<[u8; ID_BYTES]>,
    /// From the first request to the last answer.
    pub elapsed: Duration,
}

impl Outcome {
    /// Answers a second.
    pub fn rate(&self) -> f64 {
        self.latencies.len() as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// A percentile in microseconds.
    pub fn percentile(&self, percent: f64) -> u32 {
        let last = self.latencies.len().saturating_sub(1);
        let index = (percent / 100.0 * last as f64).round() as usize;
        self.latencies.get(index.min(last)).copied().unwrap_or_default()
    }
}

/// An MCP request of the handshake era that calls `tool` with a short text.
pub fn echo_request(address: SocketAddr, path: &str, tool: &str, bearer: Option<&str>) -> Vec<u8> {
    let params = json!({"name": tool, "arguments": {"text": "the quick brown fox jumps over the lazy dog"}});
    let body = json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params}).to_string();
    let bearer = bearer.map(|token| format!("authorization: Bearer {token}\r\n")).unwrap_or_default();
    format!(
        "POST {path} HTTP/1.1\r\nhost: {address}\r\n{bearer}content-type: application/json\r\n\
         accept: application/json, text/event-stream\r\nmcp-protocol-version: 2025-11-25\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// Runs the load. A call that is not answered with a result is an error of the whole measurement.
///
/// # Errors
/// If a connection fails or a call is refused.
pub fn run(load: &Load) -> Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let start = Instant::now();
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..load.connections {
            tasks.spawn(connection(load.clone(), start));
        }
        let mut outcome = Outcome::default();
        while let Some(joined) = tasks.join_next().await {
            let one = joined.context("a connection's task")??;
            outcome.latencies.extend(one.latencies);
            outcome.receipts.extend(one.receipts);
        }
        outcome.elapsed = start.elapsed();
        outcome.latencies.sort_unstable();
        Ok(outcome)
    })
}

async fn connection(load: Load, start: Instant) -> Result<Outcome> {
    let mut stream = TcpStream::connect(load.address).await?;
    stream.set_nodelay(true)?;
    let mut outcome = Outcome::default();
    let mut buffer = Vec::with_capacity(16 * 1024);
    while start.elapsed() < load.duration {
        let sent = Instant::now();
        stream.write_all(&load.request).await?;
        buffer.clear();
        let body = read_answer(&mut stream, &mut buffer).await?;
        outcome.latencies.push(u32::try_from(sent.elapsed().as_micros()).unwrap_or(u32::MAX));
        check(body, &mut outcome)?;
    }
    Ok(outcome)
}

fn check(body: &[u8], outcome: &mut Outcome) -> Result<()> {
    let has = |needle: &[u8]| find(body, needle).is_some();
    if !has(b"\"result\"") || has(b"\"isError\":true") {
        bail!("refused: {}", String::from_utf8_lossy(body));
    }
    if let Some(at) = find(body, RECEIPT) {
        let id = body.get(at + RECEIPT.len()..at + RECEIPT.len() + ID_BYTES).context("a receipt's id is cut short")?;
        outcome.receipts.push(id.try_into()?);
    }
    Ok(())
}

/// Reads one answer with a content length; returns its body.
///
/// # Errors
/// If it is not 200, or the connection breaks.
pub async fn read_answer<'a>(stream: &mut TcpStream, buffer: &'a mut Vec<u8>) -> Result<&'a [u8]> {
    let mut whole = None;
    loop {
        if whole.is_none()
            && let Some(end) = find(buffer, b"\r\n\r\n")
        {
            ensure!(buffer.starts_with(b"HTTP/1.1 200"), "answered {}", String::from_utf8_lossy(buffer));
            whole = Some((end + 4, end + 4 + content_length(&buffer[..end])?));
        }
        match whole {
            Some((start, end)) if buffer.len() >= end => return Ok(&buffer[start..end]),
            _ => ensure!(stream.read_buf(buffer).await? > 0, "the connection was closed"),
        }
    }
}

/// The content length in a head.
///
/// # Errors
/// If there is none.
pub fn content_length(head: &[u8]) -> Result<usize> {
    let text = std::str::from_utf8(head)?;
    for line in text.split("\r\n").skip(1) {
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            return Ok(value.trim().parse()?);
        }
    }
    bail!("no content-length: {text}")
}

/// Where a needle starts.
pub fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    let first = *needle.first()?;
    let mut from = 0;
    while let Some(at) = haystack.get(from..)?.iter().position(|b| *b == first) {
        if haystack[from + at..].starts_with(needle) {
            return Some(from + at);
        }
        from += at + 1;
    }
    None
}

/// A measured row as JSON.
pub fn as_json(outcome: &Outcome) -> Value {
    json!({
        "calls": outcome.latencies.len(),
        "seconds": outcome.elapsed.as_secs_f64(),
        "requests_per_second": outcome.rate().round(),
        "p50_us": outcome.percentile(50.0),
        "p99_us": outcome.percentile(99.0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_come_from_the_sorted_latencies() {
        let outcome = Outcome { latencies: (1..=101).collect(), elapsed: Duration::from_secs(1), ..Outcome::default() };
        assert_eq!((outcome.percentile(50.0), outcome.percentile(99.0), outcome.percentile(100.0)), (51, 100, 101));
        assert_eq!(outcome.rate().round() as u32, 101);
    }

    #[test]
    fn a_refused_call_is_not_a_measurement() {
        let mut outcome = Outcome::default();
        let id = "0198c0de-0000-7000-8000-000000000000";
        let good = format!("{{\"result\":{{\"_meta\":{{\"dev.countersign/receipt\":\"{id}\"}}}}}}");
        assert!(check(good.as_bytes(), &mut outcome).is_ok());
        assert_eq!(outcome.receipts, [id.as_bytes()]);
        assert!(check(br#"{"result":{"isError":true}}"#, &mut outcome).is_err());
        assert!(check(br#"{"error":{}}"#, &mut outcome).is_err());
        assert_eq!(find(b"aab", b"ab"), Some(1));
    }
}
