//! REST APIs, against a server of a few lines that says exactly what a test wants.

use std::sync::Mutex;

use countersign_connect::{ConnectError, RestUpstream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// The requests that a server saw: first line, headers and body as they came.
type Log = Arc<Mutex<Vec<String>>>;

/// What a server does with a request.
enum Reply {
    /// Answers with these bytes.
    Bytes(Vec<u8>),
    /// Answers with this much, and then nothing.
    Stall(Vec<u8>),
    /// Sends this again and again, until the other side goes away.
    Endless(Vec<u8>),
    /// Closes the connection.
    Hangup,
}

struct Api {
    address: String,
    log: Log,
}

impl Api {
    async fn start(answer: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("an address").to_string();
        let log = Log::default();
        let (record, answer) = (Arc::clone(&log), Arc::new(answer));
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(serve(socket, Arc::clone(&record), Arc::clone(&answer)));
            }
        });
        Self { address, log }
    }

    /// An upstream with the tools of `tools`, which may be called for whatever the effect.
    fn upstream(&self, tools: &str) -> Arc<RestUpstream> {
        set_up(&self.address, tools).unwrap_or_else(|e| panic!("{e}"))
    }

    fn seen(&self) -> Vec<String> {
        self.log.lock().expect("not poisoned").clone()
    }

    fn only(&self) -> String {
        let seen = self.seen();
        assert_eq!(seen.len(), 1, "{seen:?}");
        seen.into_iter().next().expect("one")
    }
}

fn set_up(address: &str, tools: &str) -> Result<Arc<RestUpstream>, ConnectError> {
    let yaml = format!(
        "version: 1\nupstream: ads\ntransport: {{ type: rest, url: \"http://{address}/v1/\", headers: {{ X-Key: planted }} }}\ntools:\n{tools}"
    );
    let manifest = Manifest::parse(&yaml, "test.yaml").unwrap_or_else(|e| panic!("{e}"));
    RestUpstream::new(&manifest, &Egress::new(EgressConfig::default()), None)
}

async fn serve(mut socket: TcpStream, record: Log, answer: Arc<impl Fn(&str) -> Reply>) {
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
        let text = String::from_utf8_lossy(&buffer[..head]).to_ascii_lowercase();
        let length =
            text.lines().find_map(|l| l.strip_prefix("content-length: ")).and_then(|l| l.parse().ok()).unwrap_or(0);
        while buffer.len() < head + length {
            if socket.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
                return;
            }
        }
        let seen = String::from_utf8_lossy(&buffer[..head + length]).into_owned();
        buffer.drain(..head + length);
        record.lock().expect("not poisoned").push(seen.clone());
        match answer(&seen) {
            Reply::Bytes(bytes) => socket.write_all(&bytes).await.expect("a reader"),
            Reply::Stall(bytes) => {
                socket.write_all(&bytes).await.expect("a reader");
                tokio::time::sleep(Duration::from_secs(60)).await;
            }
            Reply::Endless(piece) => while socket.write_all(&piece).await.is_ok() {},
            Reply::Hangup => return,
        }
    }
}

fn reply(status: &str, content_type: &str, body: &str) -> Reply {
    reply_with(status, &format!("content-type: {content_type}\r\n"), body.as_bytes())
}

fn reply_with(status: &str, headers: &str, body: &[u8]) -> Reply {
    let head = format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n", body.len());
    Reply::Bytes([head.as_bytes(), body].concat())
}

fn ok_json(body: &str) -> Reply {
    reply("200 OK", "application/json; charset=utf-8", body)
}

async fn ask(upstream: &RestUpstream, tool: &str, arguments: &str) -> Result<ToolResult, DispatchError> {
    upstream.dispatch(permit(tool, arguments, 3_000), &Mute).await
}

async fn answered(upstream: &RestUpstream, tool: &str, arguments: &str) -> Value {
    let result = ask(upstream, tool, arguments).await.unwrap_or_else(|e| panic!("{e:?}"));
    let value = json(&result.raw);
    assert_eq!(value["isError"], result.is_error, "{value}");
    value
}

const ORDERS: &str = r#"
  find:
    effect: read
    request:
      method: GET
      path: /patients/{patient}/orders
      arguments:
        patient: { in: path, schema: { type: string } }
        status: { in: query, schema: { type: array } }
        ids: { in: query, explode: false }
        piped: { in: query, style: pipeDelimited }
        filter: { in: query, style: deepObject }
        as_json: { in: query, name: j, style: json }
        trace: { in: header, name: X-Trace }
      query: { api-version: "2 beta" }
      headers: { Accept: application/vnd.api+json }
      response: { select: /data, headers: [ETag] }
  create:
    effect: write
    request:
      method: POST
      path: /patients/{patient}/orders
      arguments:
        patient: { in: path }
        drug: { in: body, name: "drug name" }
        dose: { in: body }
      idempotency_header: Idempotency-Key
      expect: [201, 204]
  replace:
    effect: write
    request: { method: PUT, path: /raw, arguments: { value: { in: whole_body } }, not_done: [503] }
  form:
    effect: write
    request:
      { method: POST, path: /form, body: form, arguments: { a: { in: body }, list: { in: body } }, response: { as: auto } }
  project:
    effect: read
    request: { method: GET, path: "/projects/{id}:get", arguments: { id: { in: path, allow_slash: true } } }
  text: { effect: read, request: { method: GET, path: /text, response: { as: text, max_bytes: 1000 } } }
  blob: { effect: read, request: { method: GET, path: /blob, response: { as: binary } } }
  checked:
    effect: read
    request:
      method: GET
      path: /checked
      response: { schema: { type: array, items: { type: integer } } }
"#;

#[tokio::test]
async fn arguments_go_where_the_manifest_says() {
    let api = Api::start(|_| {
        let headers = "content-type: application/vnd.api+json\r\netag: \"7\"\r\nx-secret: no\r\n";
        reply_with("200 OK", headers, br#"{ "data" : {"n":1.0, "big":12345678901234567890} }"#)
    })
    .await;
    let upstream = api.upstream(ORDERS);
    let arguments = r#"{"patient":"P 1/2?","status":["a&b","c"],"ids":[1,2.50],"piped":["x|y","z"],
        "filter":{"from":"é","to":null},"as_json":{"k":[1]},"trace":"abc","unknown":"dropped"}"#;
    // A slash in a path is refused, see below; everything else is encoded.
    let value = answered(&upstream, "find", &arguments.replace("1/2", "1+2")).await;
    let seen = api.only();
    let line = "GET /v1/patients/P%201%2B2%3F/orders?api-version=2%20beta&j=%7B%22k%22%3A%5B1%5D%7D&filter%5Bfrom%5D=%C3%A9&ids=1,2.50&piped=x%7Cy%7Cz&status=a%26b&status=c HTTP/1.1";
    assert!(seen.starts_with(line), "{seen}");
    for header in ["x-trace: abc", "accept: application/vnd.api+json", "x-key: planted"] {
        assert!(seen.to_ascii_lowercase().contains(&format!("{header}\r\n")), "{header}: {seen}");
    }
    // The selected part stays what it was, byte for byte; only the headers that were asked for come along.
    assert_eq!(value["content"][0]["text"], r#"{"n":1.0, "big":12345678901234567890}"#);
    assert_eq!(value["structuredContent"]["n"], 1.0);
    assert_eq!(
        value["_meta"]["dev.countersign/http"],
        serde_json::json!({"status": 200, "headers": {"etag": "\"7\""}})
    );
}

#[tokio::test]
async fn bodies_are_made_of_the_callers_own_json() {
    let api = Api::start(|seen| match seen.split(' ').nth(1) {
        Some("/v1/form") => reply("200 OK", "text/plain", "done"),
        Some("/v1/raw") => ok_json("[1]"),
        _ => reply_with("204 No Content", "", b""),
    })
    .await;
    let upstream = api.upstream(ORDERS);
    let created = answered(&upstream, "create", r#"{"patient":"p","dose": {"mg": 1.50}, "drug":"a\u0062"}"#).await;
    assert_eq!(created["content"][0]["text"], "HTTP 204 No Content");
    answered(&upstream, "create", r#"{"patient":"p"}"#).await;
    let listed = answered(&upstream, "replace", r#"{"value": [1, 2.0] }"#).await;
    assert_eq!(listed["structuredContent"], serde_json::json!({"result": [1]}));
    let form = answered(&upstream, "form", r#"{"a":"x y&z=ü","list":[1,true]}"#).await;
    assert_eq!(form["content"][0]["text"], "done");
    let seen = api.seen();
    assert!(seen[0].ends_with("\r\n\r\n{\"dose\":{\"mg\": 1.50},\"drug name\":\"a\\u0062\"}"), "{}", seen[0]);
    assert!(seen[1].ends_with("\r\n\r\n{}"), "{}", seen[1]);
    assert!(seen[2].ends_with("\r\n\r\n[1, 2.0]"), "{}", seen[2]);
    assert!(seen[3].ends_with("\r\n\r\na=x%20y%26z%3D%C3%BC&list=1&list=true"), "{}", seen[3]);
    assert!(seen[3].contains("application/x-www-form-urlencoded"), "{}", seen[3]);
    let key = |text: &str| text.lines().find_map(|l| l.strip_prefix("idempotency-key: ").map(str::to_owned));
    let (first, second) = (key(&seen[0]).expect("a key"), key(&seen[1]).expect("a key"));
    assert!(first.len() == 36 && first != second, "{first} {second}");
}

/// Values that would name another path, another header or another request are the caller's mistake: nothing is sent.
#[tokio::test]
async fn arguments_cannot_leave_their_place() {
    let api = Api::start(|_| ok_json("{\"data\":1}")).await;
    let upstream = api.upstream(ORDERS);
    for patient in [
        "..",
        ".",
        "",
        "a/b",
        "a\\b",
        "../admin",
        "%2e%2e",
        "%2E%2e%2Fadmin",
        "%252e%252e",
        "..;x",
        "a\nb",
        "a%0d%0aX: y",
        "a\u{0}",
    ] {
        let arguments = serde_json::json!({ "patient": patient }).to_string();
        let value = answered(&upstream, "find", &arguments).await;
        assert!(value["isError"] == true, "{patient}: {value}");
        assert!(value["content"][0]["text"].as_str().is_some_and(|t| t.starts_with("Nothing was sent")), "{value}");
    }
    for (arguments, part) in [
        (r#"{"patient":"p","trace":"a\r\nX-Admin: 1"}"#, "printable"),
        (r#"{"patient":"p","trace":"é"}"#, "printable"),
        (r#"{"patient":"p","status":{"a":1}}"#, "cannot be sent here"),
        (r#"{"patient":"p","status":[["a"]]}"#, "cannot be sent here"),
        (r#"{"patient":"p","filter":[1]}"#, "only an object"),
        (r#"{"patient":{"a":1}}"#, "cannot be sent here"),
        (r#"{"patient":null}"#, "another path"),
        (r#"{}"#, "missing"),
    ] {
        let value = answered(&upstream, "find", arguments).await;
        assert!(value["content"][0]["text"].as_str().is_some_and(|t| t.contains(part)), "{arguments}: {value}");
    }
    let long = serde_json::json!({"patient": "p", "status": "x".repeat(9_000)}).to_string();
    assert_eq!(answered(&upstream, "find", &long).await["isError"], true);
    for id in ["g/..", "../g", "g/%2e%2e/h"] {
        let arguments = serde_json::json!({ "id": id }).to_string();
        assert_eq!(answered(&upstream, "project", &arguments).await["isError"], true, "{id}");
    }
    assert_eq!(api.seen(), Vec::<String>::new());
    answered(&upstream, "project", r#"{"id":"group/pro.ject"}"#).await;
    assert!(api.only().starts_with("GET /v1/projects/group%2Fpro.ject:get HTTP/1.1"), "{:?}", api.seen());
}

/// (what the server does, what a read is told, what a write is told)
#[tokio::test]
async fn what_is_known_of_the_effect_follows_from_the_response() {
    type Case = (&'static str, fn() -> Reply, &'static str, &'static str);
    let moved: fn() -> Reply = || reply_with("302 Found", "location: http://127.0.0.1:1/v1/x\r\n", b"");
    let cases: Vec<Case> = vec![
        ("refused", || reply("422 Unprocessable Content", "application/json", r#"{"why":"dose"}"#), "dose", "dose"),
        ("missing", || reply("404 Not Found", "text/html", "<p>x"), "404", "404"),
        ("broken", || reply("500 Internal Server Error", "text/plain", "oops"), "oops", "protocol HTTP 500"),
        ("timeout at a proxy", || reply("408 Request Timeout", "text/plain", ""), "408", "protocol HTTP 408"),
        ("moved elsewhere", moved, "302", "protocol HTTP 302"),
        ("a page", || reply("200 OK", "text/html", "<h1>Log in"), "protocol text/html", "protocol text/html"),
        ("no type", || reply_with("200 OK", "", b"{}"), "protocol octet-stream", "protocol octet-stream"),
        ("broken JSON", || ok_json("{\"a\":"), "protocol JSON", "protocol JSON"),
        (
            "compressed",
            || reply_with("200 OK", "content-type: application/json\r\ncontent-encoding: gzip\r\n", b"x"),
            "protocol compressed",
            "protocol compressed",
        ),
        ("hung up", || Reply::Hangup, "lost", "lost"),
        (
            "half a body",
            || {
                Reply::Bytes(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 9\r\nconnection: close\r\n\r\n{}".into())
            },
            "timeout",
            "timeout",
        ),
        ("silence", || Reply::Stall(Vec::new()), "timeout", "timeout"),
    ];
    for (name, respond, read, write) in cases {
        let api = Api::start(move |_| respond()).await;
        let upstream = api.upstream("  get: { effect: read, request: { method: GET, path: /x } }\n  put: { effect: write, request: { method: PUT, path: /x } }\n");
        for (tool, expected) in [("get", read), ("put", write)] {
            let outcome = upstream.dispatch(permit(tool, "{}", 400), &Mute).await;
            let shown = match &outcome {
                Ok(result) => format!("{} error: {}", result.is_error, result.raw.get()),
                Err(DispatchError::Protocol(why)) => format!("protocol {why}"),
                Err(DispatchError::Lost(_)) => "lost".to_owned(),
                Err(DispatchError::Timeout) => "timeout".to_owned(),
                Err(other) => format!("{other:?}"),
            };
            let all = expected.split(' ').all(|word| shown.contains(word));
            assert!(all && !shown.starts_with("false"), "{name}, {tool}: expected {expected}, got {shown}");
        }
        assert_eq!(api.seen().len(), 2, "{name}: nothing is repeated, nothing is followed");
    }
}

#[tokio::test]
async fn statuses_mean_what_the_manifest_says() {
    let api = Api::start(|seen| match seen.split(' ').nth(1) {
        Some("/v1/raw") => reply_with("503 Service Unavailable", "retry-after: 7\r\n", b""),
        Some("/v1/checked") => ok_json(r#"[1,"two"]"#),
        Some(path) if path.starts_with("/v1/patients") => reply("200 OK", "application/json", "{}"),
        _ => Reply::Hangup,
    })
    .await;
    let upstream = api.upstream(ORDERS);
    // By the operator's word, 503 means that nothing was done.
    let busy = answered(&upstream, "replace", r#"{"value":1}"#).await;
    assert_eq!(
        (&busy["isError"], &busy["_meta"]["dev.countersign/http"]["headers"]["retry-after"]),
        (&true.into(), &"7".into())
    );
    // 200 is a success, but not one that `expect` lists.
    let error = ask(&upstream, "create", r#"{"patient":"p"}"#).await.expect_err("unexpected");
    assert!(matches!(error, DispatchError::Protocol(_)), "{error:?}");
    // Executed, though not as described: said so, and nothing structured is claimed.
    let misfit = answered(&upstream, "checked", "{}").await;
    assert!(misfit["isError"] == true && misfit.get("structuredContent").is_none(), "{misfit}");
    assert!(
        misfit["content"][0]["text"].as_str().is_some_and(|t| t.contains("WAS executed") && t.contains("/1")),
        "{misfit}"
    );
    let gone = answered(&upstream, "find", r#"{"patient":"p"}"#).await;
    assert!(gone["content"][0]["text"].as_str().is_some_and(|t| t.contains("nothing at /data")), "{gone}");
}

#[tokio::test]
async fn reads_follow_redirects_below_their_base_only() {
    let elsewhere = Api::start(|_| ok_json("{\"leaked\":true}")).await;
    let other = elsewhere.address.clone();
    let api = Api::start(move |seen| {
        let to = |location: &str| reply_with("307 Temporary Redirect", &format!("location: {location}\r\n"), b"");
        match seen.split(' ').nth(1).unwrap_or_default() {
            "/v1/near" => to("/v1/arrived?x=1"),
            "/v1/arrived?x=1" => ok_json("{\"arrived\":true}"),
            "/v1/outside" => to("/v2/admin"),
            "/v1/up" => to("/v1/../v2/admin"),
            "/v1/far" => to(&format!("http://{other}/v1/arrived")),
            "/v1/circle" => to("/v1/circle"),
            _ => ok_json("{}"),
        }
    })
    .await;
    let tools: String = ["near", "outside", "up", "far", "circle"]
        .map(|t| format!("  {t}: {{ effect: read, request: {{ method: GET, path: /{t} }} }}\n"))
        .concat();
    let upstream = api.upstream(&format!("{tools}  write: {{ request: {{ method: POST, path: /near }} }}\n"));
    assert_eq!(answered(&upstream, "near", "{}").await["structuredContent"]["arrived"], true);
    for tool in ["outside", "up", "far"] {
        let value = answered(&upstream, tool, "{}").await;
        assert!(value["isError"] == true && value["_meta"]["dev.countersign/http"]["status"] == 307, "{tool}: {value}");
    }
    let circle = ask(&upstream, "circle", "{}").await.expect_err("endless");
    assert!(matches!(&circle, DispatchError::Protocol(why) if why.contains("circles")), "{circle:?}");
    let write = ask(&upstream, "write", "{}").await.expect_err("never followed");
    assert!(matches!(write, DispatchError::Protocol(_)), "{write:?}");
    assert_eq!(elsewhere.seen(), Vec::<String>::new());
    assert!(!api.seen().iter().any(|seen| seen.contains("/v2/")), "{:?}", api.seen());
}

#[tokio::test]
async fn texts_and_blobs_are_bounded() {
    let api = Api::start(|seen| match seen.split(' ').nth(1).unwrap_or_default() {
        "/v1/text" => reply("200 OK", "text/csv", "a,b\n1,ü\n"),
        "/v1/blob" => reply_with("200 OK", "content-type: application/pdf\r\n", &[0, 159, 146, 150]),
        _ => Reply::Hangup,
    })
    .await;
    let upstream = api.upstream(ORDERS);
    assert_eq!(answered(&upstream, "text", "{}").await["content"][0]["text"], "a,b\n1,ü\n");
    let blob = &answered(&upstream, "blob", "{}").await["content"][0];
    assert_eq!((&blob["type"], &blob["resource"]["blob"]), (&"resource".into(), &"AJ+Slg==".into()));
    assert_eq!(blob["resource"]["mimeType"], "application/pdf");

    let image = Api::start(|_| reply_with("200 OK", "content-type: image/png\r\n", b"png")).await;
    let shown = &answered(&image.upstream(ORDERS), "blob", "{}").await["content"][0];
    assert_eq!((&shown["type"], &shown["data"]), (&"image".into(), &"cG5n".into()));

    let endless = Api::start(|_| {
        Reply::Endless(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\n"
                .iter()
                .chain([b'x'; 4_000].iter())
                .copied()
                .collect(),
        )
    })
    .await;
    let error = ask(&endless.upstream(ORDERS), "text", "{}").await.expect_err("too long");
    assert!(matches!(&error, DispatchError::Protocol(why) if why.contains("1000 bytes")), "{error:?}");
    let latin = Api::start(|_| reply_with("200 OK", "content-type: text/plain\r\n", b"\xfcber")).await;
    assert!(ask(&latin.upstream(ORDERS), "text", "{}").await.is_err());
    // The endless body of an error is cut.
    let failing = Api::start(|_| {
        Reply::Endless(
            b"HTTP/1.1 404 Not Found\r\ncontent-type: text/plain\r\n\r\n"
                .iter()
                .chain([b'x'; 4_000].iter())
                .copied()
                .collect(),
        )
    })
    .await;
    let value = answered(&failing.upstream(ORDERS), "text", "{}").await;
    let length = value["content"][0]["text"].as_str().expect("text").len();
    assert!(value["isError"] == true && (8_000..9_000).contains(&length), "{length}");
}

#[tokio::test]
async fn nobody_there_and_nobody_free_mean_not_sent() {
    let closed = TcpListener::bind("127.0.0.1:0").await.expect("binds").local_addr().expect("an address").to_string();
    let upstream = set_up(&closed, ORDERS).expect("sets up");
    for tool in ["text", "create"] {
        let error = ask(&upstream, tool, r#"{"patient":"p"}"#).await.expect_err("nobody");
        assert!(matches!(error, DispatchError::NotSent(_)), "{error:?}");
    }
    assert_eq!(upstream.status().state, "failed");
    let error = ask(&upstream, "other", "{}").await.expect_err("not described");
    assert!(matches!(error, DispatchError::NotSent(_)), "{error:?}");

    let slow = Api::start(|_| Reply::Stall(Vec::new())).await;
    let busy = slow.upstream(&format!("{ORDERS}max_concurrency: 1\n"));
    let (first, second) = tokio::join!(busy.dispatch(permit("text", "{}", 600), &Mute), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        busy.dispatch(permit("text", "{}", 200), &Mute).await
    });
    assert!(matches!(first, Err(DispatchError::Timeout)), "{first:?}");
    assert!(matches!(second, Err(DispatchError::Busy(_))), "{second:?}");
}

#[tokio::test]
async fn missing_secrets_are_named() {
    let yaml = "version: 1\nupstream: ads\ntransport: { type: rest, url: \"http://localhost:1\", headers: { A: \"${COUNTERSIGN_TEST_NOT_SET}\" } }\n";
    let manifest = Manifest::parse(yaml, "test.yaml").expect("valid");
    let error =
        RestUpstream::new(&manifest, &Egress::new(EgressConfig::default()), None).err().expect("refused").to_string();
    assert!(error.contains("COUNTERSIGN_TEST_NOT_SET"), "{error}");
}
