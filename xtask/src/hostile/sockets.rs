//! Connections that never end, break off, or say two things at once.

use std::io::{BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use countersign_testkit::http::read_response;
use serde_json::json;

use super::{Case, World};

pub const CASES: &[Case] = &[
    ("slow-loris: headers that never end", slow_headers),
    ("slow-loris: a body that never ends", slow_body),
    ("a body that breaks off", broken_body),
    ("a body shorter than announced", short_body),
    ("two lengths for one body", two_lengths),
    ("a request smuggled behind a length and chunks", length_and_chunks),
    ("headers of a megabyte", large_headers),
    ("a thousand headers", many_headers),
    ("a page of another origin", other_origin),
    ("a name that was rebound to loopback", rebound_name),
    ("a rebound name behind one of ours", two_names),
    ("a body that never ends", endless_body),
    ("a body that unpacks to a thousandfold", packed_body),
    ("a chunk whose size never ends", endless_chunk_size),
];

fn connect(world: &World) -> Result<TcpStream> {
    let stream = TcpStream::connect(world.node.home().address())?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.set_write_timeout(Some(Duration::from_secs(20)))?;
    Ok(stream)
}

fn head(world: &World, more: &str) -> String {
    let token = world.node.home().agent("mallory", &["tester"]);
    let host = world.node.home().address();
    format!(
        "POST /tools/evil:write/invoke HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\n{more}\r\n"
    )
}

fn twin(world: &mut World) -> Result<()> {
    let mut agent = world.agent();
    let answer = world.invoke(&mut agent, "echo", &json!({"text": "twin"}))?;
    world.harmless(&answer)?;
    Ok(())
}

/// Many connections that send a byte a second: each is closed soon, and others are served meanwhile.
fn slow_headers(world: &mut World) -> Result<()> {
    twin(world)?;
    let mut slow: Vec<TcpStream> = (0..100).map(|_| connect(world)).collect::<Result<_>>()?;
    for stream in &mut slow {
        stream.write_all(b"POST /tools/evil:write/invoke HTTP/1.1\r\nhost: x\r\n")?;
    }
    let start = Instant::now();
    let mut closed = 0;
    while closed < slow.len() {
        ensure!(
            start.elapsed() < Duration::from_secs(15),
            "{} of {} are still open after 15 s",
            slow.len() - closed,
            slow.len()
        );
        std::thread::sleep(Duration::from_secs(1));
        twin(world).context("while others are slow")?;
        closed = slow.iter_mut().filter_map(|s| is_closed(s).then_some(())).count();
    }
    Ok(())
}

/// Writes a byte and sees whether the other side is still there.
fn is_closed(stream: &mut TcpStream) -> bool {
    if stream.write_all(b"x").is_err() {
        return true;
    }
    let _ = stream.set_read_timeout(Some(Duration::from_millis(1)));
    let mut buffer = [0; 1024];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => {
                return !matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut);
            }
        }
    }
}

fn slow_body(world: &mut World) -> Result<()> {
    twin(world)?;
    let before = world.executions("")?;
    let mut stream = connect(world)?;
    stream.write_all(head(world, "content-length: 1000\r\n").as_bytes())?;
    stream.write_all(b"{\"text\":\"")?;
    let start = Instant::now();
    let response = read_response(&mut BufReader::new(stream)).context("the connection was not answered")?;
    ensure!(start.elapsed() < Duration::from_secs(15), "answered after {:?}", start.elapsed());
    ensure!(world.executions("")? == before, "it was executed");
    ensure!(response.status == 408, "HTTP {} {:?}", response.status, response.problem());
    Ok(())
}

fn broken_body(world: &mut World) -> Result<()> {
    twin(world)?;
    let before = world.executions("")?;
    for _ in 0..20 {
        let mut stream = connect(world)?;
        stream.write_all(head(world, "content-length: 1000\r\n").as_bytes())?;
        stream.write_all(br#"{"text":"broken"}"#)?;
        drop(stream);
    }
    std::thread::sleep(Duration::from_millis(300));
    ensure!(world.executions("")? == before, "it was executed");
    twin(world)
}

fn short_body(world: &mut World) -> Result<()> {
    twin(world)?;
    let before = world.executions("")?;
    let mut stream = connect(world)?;
    stream.write_all(head(world, "content-length: 40\r\n").as_bytes())?;
    stream.write_all(br#"{"text":"short"}"#)?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    ensure!(world.executions("")? == before, "it was executed");
    let text = String::from_utf8_lossy(&answer);
    ensure!(answer.is_empty() || text.starts_with("HTTP/1.1 400"), "answered {:?}", text.lines().next());
    Ok(())
}

/// What two readers would split differently must be read by nobody.
fn ambiguous(world: &mut World, headers: &str, body: &str) -> Result<()> {
    twin(world)?;
    let before = world.executions("")?;
    let mut stream = connect(world)?;
    stream.write_all(head(world, headers).as_bytes())?;
    stream.write_all(body.as_bytes())?;
    let response = read_response(&mut BufReader::new(stream))?;
    ensure!(world.executions("")? == before, "it was executed");
    ensure!(response.status == 400, "HTTP {} {:?}", response.status, response.problem());
    Ok(())
}

fn two_lengths(world: &mut World) -> Result<()> {
    ambiguous(world, "content-length: 12\r\ncontent-length: 20\r\n", "{\"text\":\"a\"}{\"text\":\"b\"}")
}

/// RFC 9112 section 6.3: the chunks count, the length does not. What the length would have covered is then another request,
/// which has to prove by itself who sends it; nothing rides along on the first one's credential.
fn length_and_chunks(world: &mut World) -> Result<()> {
    twin(world)?;
    let smuggled = format!(
        "POST /tools/evil:write/invoke HTTP/1.1\r\nhost: {}\r\ncontent-length: 19\r\n\r\n{{\"text\":\"smuggled\"}}",
        world.node.home().address()
    );
    let first = world.unique("chunked");
    let body = format!("{{\"text\":\"{first}\"}}");
    let chunks = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    let length = chunks.len() + smuggled.len();
    let mut stream = connect(world)?;
    stream.write_all(head(world, &format!("content-length: {length}\r\ntransfer-encoding: chunked\r\n")).as_bytes())?;
    stream.write_all(format!("{chunks}{smuggled}").as_bytes())?;
    let mut stream = BufReader::new(stream);
    let one = read_response(&mut stream)?;
    ensure!([200, 400].contains(&one.status), "HTTP {}", one.status);
    ensure!(world.executions(&first)? == usize::from(one.status == 200), "the first was not executed once");
    if let Ok(two) = read_response(&mut stream) {
        world.refused_without_event(&two, 401, "unauthenticated")?;
    }
    ensure!(world.executions("smuggled")? == 0, "it was executed");
    Ok(())
}

fn large_headers(world: &mut World) -> Result<()> {
    rejected_head(world, &format!("x-large: {}\r\n", "a".repeat(1 << 20)))
}

fn many_headers(world: &mut World) -> Result<()> {
    let headers: String = (0..1_000).map(|i| format!("x-{i}: a\r\n")).collect();
    rejected_head(world, &headers)
}

fn rejected_head(world: &mut World, headers: &str) -> Result<()> {
    twin(world)?;
    let before = world.executions("")?;
    let mut stream = connect(world)?;
    let request = head(world, &format!("{headers}content-length: 12\r\n")) + r#"{"text":"a"}"#;
    // The node may close before it has read everything; what it answered until then counts.
    let written = stream.write_all(request.as_bytes());
    let response = read_response(&mut BufReader::new(stream));
    ensure!(world.executions("")? == before, "it was executed");
    match (written, response) {
        (_, Ok(response)) => ensure!(response.status == 431, "HTTP {}", response.status),
        (Err(_), Err(_)) => {}
        (Ok(()), Err(error)) => {
            let reset = error.root_cause().to_string().contains("reset");
            ensure!(reset, "neither refused nor closed: {error:#}");
        }
    }
    Ok(())
}

fn other_origin(world: &mut World) -> Result<()> {
    twin(world)?;
    let body = json!({"text": "cross"}).to_string();
    for path in ["/tools/evil:write/invoke", "/mcp"] {
        let answer =
            world.agent().send("POST", path, &[("origin", "https://attacker.example")], Some(body.as_bytes()))?;
        world.refused_without_event(&answer, 403, "forbidden")?;
    }
    ensure!(world.executions("cross")? == 0, "it was executed");
    Ok(())
}

fn two_names(world: &mut World) -> Result<()> {
    twin(world)?;
    let body = r#"{"text":"two names"}"#;
    let more = format!("host: attacker.example\r\ncontent-length: {}\r\n", body.len());
    let mut stream = connect(world)?;
    stream.write_all((head(world, &more) + body).as_bytes())?;
    let response = read_response(&mut BufReader::new(stream))?;
    ensure!(world.executions("two names")? == 0, "it was executed");
    ensure!([400, 403].contains(&response.status), "HTTP {}", response.status);
    Ok(())
}

/// The node stops reading at its bound, or at its time, whatever comes.
fn endless_body(world: &mut World) -> Result<()> {
    twin(world)?;
    let before = world.executions("")?;
    let mut stream = connect(world)?;
    stream.write_all(head(world, "transfer-encoding: chunked\r\n").as_bytes())?;
    let chunk = [b"10000\r\n".as_slice(), &[b' '; 65_536], b"\r\n"].concat();
    let mut sent = 0_usize;
    while sent < 64 << 20 && stream.write_all(&chunk).is_ok() {
        sent += chunk.len();
    }
    ensure!(sent < 64 << 20, "it read {sent} bytes");
    ensure!(world.executions("")? == before, "it was executed");
    Ok(())
}

/// Bodies are read as they are; a packed one is no JSON.
fn packed_body(world: &mut World) -> Result<()> {
    twin(world)?;
    let before = world.executions("")?;
    let packed = [&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3][..], &[0; 100_000]].concat();
    let headers = [("content-encoding", "gzip")];
    let answer = world.agent().send("POST", "/tools/evil:write/invoke", &headers, Some(&packed))?;
    ensure!(world.executions("")? == before, "it was executed");
    ensure!([400, 415].contains(&answer.status), "HTTP {}", answer.status);
    Ok(())
}

fn endless_chunk_size(world: &mut World) -> Result<()> {
    twin(world)?;
    let mut stream = connect(world)?;
    stream.write_all(head(world, "transfer-encoding: chunked\r\n").as_bytes())?;
    let start = Instant::now();
    while stream.write_all(&[b'0'; 1_024]).is_ok() {
        ensure!(start.elapsed() < Duration::from_secs(15), "it still reads after 15 s");
        std::thread::sleep(Duration::from_millis(20));
    }
    twin(world)
}

/// DNS rebinding: a page's own name leads to loopback, and the browser sends that name.
fn rebound_name(world: &mut World) -> Result<()> {
    twin(world)?;
    let token = world.node.home().agent("mallory", &["tester"]);
    let body = r#"{"text":"rebound"}"#;
    let request = format!(
        "POST /tools/evil:write/invoke HTTP/1.1\r\nhost: attacker.example\r\nauthorization: Bearer {token}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = connect(world)?;
    stream.write_all(request.as_bytes())?;
    let response = read_response(&mut BufReader::new(stream))?;
    ensure!(world.executions("rebound")? == 0, "it was executed");
    world.refused_without_event(&response, 403, "forbidden").map(|_| ())
}
