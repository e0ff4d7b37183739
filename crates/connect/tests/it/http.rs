//! Streamable HTTP against a server of a few lines, which says exactly what a test wants.

use std::collections::HashMap;
use std::sync::Mutex;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// A request as the server saw it. Header names are lower case.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    pub(super) method: String,
    headers: HashMap<String, String>,
    body: String,
}

impl Seen {
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }
    pub(super) fn rpc(&self) -> String {
        self.json()["method"].as_str().unwrap_or_default().to_owned()
    }
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

pub(super) struct Server {
    pub(super) url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    /// Answers each request with the bytes that `answer` gives; `None` closes the connection.
    pub(super) async fn start(answer: impl Fn(&Seen) -> Option<String> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let url = format!("http://{}/mcp", listener.local_addr().expect("an address"));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (record, answer) = (Arc::clone(&seen), Arc::new(answer));
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(serve(socket, Arc::clone(&record), Arc::clone(&answer)));
            }
        });
        Self { url, seen }
    }

    pub(super) fn upstream(&self, rest: &str) -> Arc<McpUpstream> {
        connect(&format!("{{ type: http, url: {:?}, headers: {{ X-Key: secret }} }}", self.url), rest)
    }

    pub(super) fn all(&self) -> Vec<Seen> {
        self.seen.lock().expect("not poisoned").clone()
    }

    pub(super) fn seen(&self, rpc: &str) -> Vec<Seen> {
        self.all().into_iter().filter(|s| s.rpc() == rpc).collect()
    }
}

async fn serve(mut socket: TcpStream, record: Arc<Mutex<Vec<Seen>>>, answer: Arc<impl Fn(&Seen) -> Option<String>>) {
    let mut buffer = Vec::new();
    loop {
        let head = loop {
            if let Some(at) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
            if socket.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
                return;
            }
        };
        let text = String::from_utf8_lossy(&buffer[..head]).into_owned();
        let mut lines = text.lines();
        let method = lines.next().and_then(|l| l.split(' ').next()).unwrap_or_default().to_owned();
        let headers: HashMap<String, String> =
            lines.filter_map(|l| l.split_once(": ")).map(|(n, v)| (n.to_ascii_lowercase(), v.to_owned())).collect();
        let length: usize = headers.get("content-length").and_then(|l| l.parse().ok()).unwrap_or(0);
        while buffer.len() < head + length {
            if socket.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
                return;
            }
        }
        let body = String::from_utf8_lossy(&buffer[head..head + length]).into_owned();
        buffer.drain(..head + length);
        let seen = Seen { method, headers, body };
        record.lock().expect("not poisoned").push(seen.clone());
        let Some(bytes) = answer(&seen) else { return };
        if bytes == HANG {
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
        if socket.write_all(bytes.as_bytes()).await.is_err() || bytes.contains("connection: close") {
            return;
        }
    }
}

pub(super) const HANG: &str = "hang";

pub(super) fn reply(status: &str, content_type: &str, extra: &str, body: &str) -> Option<String> {
    let length = body.len();
    Some(format!("HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {length}\r\n{extra}\r\n{body}"))
}

pub(super) fn result(seen: &Seen, result: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{},"result":{result}}}"#, seen.json()["id"])
}

pub(super) fn json_result(seen: &Seen, text: &str) -> Option<String> {
    reply("200 OK", "application/json", "", &result(seen, text))
}

const DISCOVERED: &str = r#"{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"tools":{}}}"#;
const RESULT: &str = r#"{ "content":[], "x-unknown":{"n":1.0}, "resultType":"complete" }"#;

/// A modern server that answers calls in its own way.
pub(super) async fn modern(answer: impl Fn(&Seen) -> Option<String> + Send + Sync + 'static) -> Server {
    Server::start(move |seen| match seen.rpc().as_str() {
        "server/discover" => json_result(seen, DISCOVERED),
        _ => answer(seen),
    })
    .await
}

/// A server of the session era that answers calls in its own way.
pub(super) async fn legacy(answer: impl Fn(&Seen) -> Option<String> + Send + Sync + 'static) -> Server {
    let session = std::sync::atomic::AtomicU64::new(0);
    Server::start(move |seen| match (seen.method.as_str(), seen.rpc().as_str()) {
        ("POST", "server/discover") => {
            let error =
                r#"{"jsonrpc":"2.0","error":{"code":-32000,"message":"Bad Request: No valid session ID"},"id":null}"#;
            reply("400 Bad Request", "application/json", "", error)
        }
        ("POST", "initialize") => {
            let number = session.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let text =
                r#"{"protocolVersion":"2025-06-18","capabilities":{"tools":{"listChanged":true}},"serverInfo":{}}"#;
            let event = format!("event: message\ndata: {}\n\n", result(seen, text));
            reply("200 OK", "text/event-stream", &format!("mcp-session-id: s{number}\r\n"), &event)
        }
        ("POST", "notifications/initialized" | "notifications/cancelled") => {
            reply("202 Accepted", "text/plain", "", "")
        }
        ("POST", "") => reply("202 Accepted", "text/plain", "", ""),
        ("GET", _) => {
            let event = "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/tools/list_changed\"}\n\n";
            Some(format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n{event}"))
        }
        ("DELETE", _) => reply("200 OK", "text/plain", "", ""),
        _ => answer(seen),
    })
    .await
}

#[tokio::test]
async fn a_modern_request_mirrors_its_metadata_and_carries_the_very_bytes() {
    let server = modern(|seen| json_result(seen, RESULT)).await;
    let upstream = server.upstream("");
    let arguments = "{ \"b\":1.0,\n\"a\":\"\\u00e9\" }";
    let answer = call(&upstream, "größe", arguments, 5_000).await.expect("a result");
    assert_eq!(answer.raw.get(), RESULT);
    let seen = &server.seen("tools/call")[0];
    assert!(seen.body.contains("{ \"b\":1.0, \"a\":\"\\u00e9\" }"), "{}", seen.body);
    assert_eq!(seen.header("mcp-protocol-version"), "2026-07-28");
    assert_eq!(seen.header("mcp-method"), "tools/call");
    assert_eq!(seen.header("mcp-name"), "=?base64?Z3LDtsOfZQ==?=");
    assert_eq!(seen.header("accept"), "application/json, text/event-stream");
    assert_eq!(seen.header("x-key"), "secret");
    assert_eq!(seen.header("accept-encoding"), "");
    assert_eq!(seen.header("mcp-session-id"), "");
    assert_eq!(seen.json()["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"], "2026-07-28");
    assert_eq!(upstream.status().protocol.as_deref(), Some("2026-07-28"));
}

#[tokio::test]
async fn an_event_stream_answers_after_its_notifications() {
    let server = modern(|seen| {
        let progress = r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{}}"#;
        let answer = result(seen, RESULT);
        reply(
            "200 OK",
            "text/event-stream; charset=utf-8",
            "",
            &format!(": hi\n\ndata: {progress}\n\ndata: {answer}\n\n"),
        )
    })
    .await;
    assert_eq!(call(&server.upstream(""), "x", "{}", 5_000).await.expect("a result").raw.get(), RESULT);
}

#[tokio::test]
async fn an_old_server_gets_a_handshake_and_a_session() {
    let server = legacy(|seen| json_result(seen, RESULT)).await;
    let upstream = server.upstream("");
    let mut changes = upstream.changes();
    call(&upstream, "x", "{}", 5_000).await.expect("a result");
    assert_eq!(upstream.status().protocol.as_deref(), Some("2025-06-18"));
    let seen = &server.seen("tools/call")[0];
    assert_eq!((seen.header("mcp-session-id"), seen.header("mcp-protocol-version")), ("s0", "2025-06-18"));
    assert_eq!(seen.header("mcp-method"), "");
    assert!(seen.json()["params"].get("_meta").is_none());
    assert_eq!(server.seen("notifications/initialized").len(), 1);
    tokio::time::timeout(Duration::from_secs(5), changes.changed()).await.expect("in time").expect("told by GET");
    let all = server.all();
    let first = |is: fn(&Seen) -> bool| all.iter().position(is).expect("was sent");
    assert!(first(|s| s.method == "GET") < first(|s| s.rpc() == "tools/call"), "it may ask as soon as it is called");
    upstream.shutdown().await;
    let ended = server.seen("").into_iter().find(|s| s.method == "DELETE").expect("the session is ended");
    assert_eq!(ended.header("mcp-session-id"), "s0");
}

#[tokio::test]
async fn a_session_that_is_over_is_renewed_and_the_call_sent_once_more() {
    let server = legacy(|seen| match seen.header("mcp-session-id") {
        "s0" => reply("404 Not Found", "text/plain", "", "no such session"),
        _ => json_result(seen, RESULT),
    })
    .await;
    call(&server.upstream(""), "x", "{}", 5_000).await.expect("a result");
    let sessions: Vec<_> = server.seen("tools/call").iter().map(|s| s.header("mcp-session-id").to_owned()).collect();
    assert_eq!(sessions, ["s0", "s1"]);
}

#[tokio::test]
async fn a_bad_request_in_a_session_is_not_sent_again_but_ends_the_session() {
    let server = legacy(|seen| match seen.header("mcp-session-id") {
        "s0" => reply(
            "400 Bad Request",
            "application/json",
            "",
            r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"no session"}}"#,
        ),
        _ => json_result(seen, RESULT),
    })
    .await;
    let upstream = server.upstream("");
    let error = call(&upstream, "x", "{}", 5_000).await.expect_err("refused");
    assert!(matches!(error, DispatchError::Rpc { code: -32000, .. }), "{error:?}");
    call(&upstream, "x", "{}", 5_000).await.expect("a result");
    assert_eq!(server.seen("tools/call").len(), 2);
}

#[tokio::test]
async fn what_an_old_server_asks_of_us_is_denied() {
    let server = legacy(|seen| {
        let ask = r#"{"jsonrpc":"2.0","id":"q1","method":"sampling/createMessage","params":{}}"#;
        reply("200 OK", "text/event-stream", "", &format!("data: {ask}\n\ndata: {}\n\n", result(seen, RESULT)))
    })
    .await;
    call(&server.upstream(""), "x", "{}", 5_000).await.expect("a result");
    let denied = || server.seen("").iter().any(|s| s.json()["id"] == "q1" && s.json()["error"]["code"] == -32601);
    eventually("the request is denied", denied).await;
}

#[tokio::test]
async fn each_failure_says_what_is_known() {
    type Check = fn(&DispatchError) -> bool;
    let cases: Vec<(&str, Option<String>, Check)> = vec![
        (
            "an HTTP refusal",
            reply("429 Too Many Requests", "text/plain", "", "slow"),
            |e| matches!(e, DispatchError::Rpc { code: -32000, message, .. } if message.contains("429")),
        ),
        (
            "a JSON-RPC refusal",
            reply(
                "400 Bad Request",
                "application/json",
                "",
                r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32021,"message":"no"}}"#,
            ),
            |e| matches!(e, DispatchError::Rpc { code: -32021, .. }),
        ),
        ("a server error", reply("502 Bad Gateway", "text/html", "", "<h1>"), |e| {
            matches!(e, DispatchError::Protocol(_))
        }),
        ("a redirect", reply("307 Temporary Redirect", "text/plain", "location: http://127.0.0.1:1/\r\n", ""), |e| {
            matches!(e, DispatchError::Protocol(_))
        }),
        (
            "a web page",
            reply("200 OK", "text/html", "", "<h1>"),
            |e| matches!(e, DispatchError::Protocol(w) if w.contains("text/html")),
        ),
        ("not JSON", reply("200 OK", "application/json", "", "{"), |e| matches!(e, DispatchError::Protocol(_))),
        (
            "another's answer",
            reply("200 OK", "application/json", "", r#"{"jsonrpc":"2.0","id":99,"result":{}}"#),
            |e| matches!(e, DispatchError::Protocol(_)),
        ),
        ("a compressed answer", reply("200 OK", "application/json", "content-encoding: gzip\r\n", "{}"), |e| {
            matches!(e, DispatchError::Protocol(_))
        }),
        (
            "too much",
            Some("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99999999\r\n\r\n".into()),
            |e| matches!(e, DispatchError::Protocol(_)),
        ),
        ("a stream cut short", reply("200 OK", "text/event-stream", "", "data: {\"jsonrpc\":"), |e| {
            matches!(e, DispatchError::Lost(_))
        }),
        ("a broken connection", None, |e| matches!(e, DispatchError::Lost(_))),
        ("silence", Some(HANG.into()), |e| matches!(e, DispatchError::Timeout)),
    ];
    for (what, answer, check) in cases {
        let server = modern(move |_| answer.clone()).await;
        let start = Instant::now();
        let error = call(&server.upstream(""), "x", "{}", 1_000).await.expect_err(what);
        assert!(check(&error), "{what}: {error:?}");
        assert!(start.elapsed() < Duration::from_secs(3), "{what}");
        assert_eq!(server.seen("tools/call").len(), 1, "{what}: never sent twice");
    }
}

#[tokio::test]
async fn answers_of_128_levels_are_relayed_and_deeper_ones_are_refused() {
    let by_name = |seen: &Seen| seen.json()["params"]["name"].as_str().unwrap_or_default().to_owned();
    let answer = move |seen: &Seen| {
        let name = by_name(seen);
        let levels = name.trim_start_matches(|c: char| !c.is_ascii_digit()).parse().expect("a number");
        let message = result(seen, &nested(levels));
        match name.starts_with("stream") {
            true => reply("200 OK", "text/event-stream", "", &format!("data: {message}\n\n")),
            false => reply("200 OK", "application/json", "", &message),
        }
    };
    for server in [modern(answer).await, legacy(answer).await] {
        let upstream = server.upstream("");
        for way in ["body", "stream"] {
            let result = call(&upstream, &format!("{way}128"), "{}", 5_000).await.expect("a result");
            assert_eq!(result.raw.get(), nested(128));
            for levels in [129, 200_000] {
                let outcome = call(&upstream, &format!("{way}{levels}"), "{}", 5_000).await;
                assert!(is_too_deep(&outcome), "{way} {levels}: {outcome:?}");
            }
        }
        upstream.shutdown().await;
    }
}

#[tokio::test]
async fn input_required_is_not_a_result() {
    let server = modern(|seen| json_result(seen, r#"{"resultType":"input_required","inputRequests":{}}"#)).await;
    let error = call(&server.upstream(""), "x", "{}", 2_000).await.expect_err("asks back");
    assert!(matches!(&error, DispatchError::Protocol(why) if why.contains("input")), "{error:?}");
}

#[tokio::test]
async fn nobody_there_means_not_sent() {
    let closed = TcpListener::bind("127.0.0.1:0").await.expect("binds").local_addr().expect("an address");
    let upstream = connect(&format!("{{ type: http, url: 'http://{closed}/mcp' }}"), "");
    let error = call(&upstream, "x", "{}", 2_000).await.expect_err("nobody");
    assert!(matches!(error, DispatchError::NotSent(_)), "{error:?}");
    assert_eq!(upstream.status().state, "failed");
}

#[tokio::test]
async fn missing_credentials_are_named() {
    let server = Server::start(|_| reply("401 Unauthorized", "text/plain", "", "")).await;
    let error = server.upstream("").discover().await.expect_err("refused").to_string();
    assert!(error.contains("401") && error.contains("headers"), "{error}");
    assert!(server.seen("initialize").is_empty());
}

#[tokio::test]
async fn a_cancelled_call_of_the_session_era_is_announced() {
    let server = legacy(|_| Some(HANG.into())).await;
    let error = call(&server.upstream(""), "x", "{}", 500).await.expect_err("late");
    assert!(matches!(error, DispatchError::Timeout), "{error:?}");
    eventually("the upstream was told", || server.seen("notifications/cancelled").len() == 1).await;
}
