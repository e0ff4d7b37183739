//! A small blocking HTTP/1.1 client (RFC 9112) that keeps its connection: content-length and chunked answers, no redirects,
//! no TLS. Small on purpose: a test sees every byte that it sends, and the product's own client is not on both sides.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

const MAX_BODY: usize = 256 * 1024 * 1024;

/// A connection to one server, opened when needed, with headers that go with every request.
#[derive(Debug)]
pub struct Client {
    address: SocketAddr,
    headers: Vec<(String, String)>,
    timeout: Duration,
    stream: Option<BufReader<TcpStream>>,
}

/// An answer, read to its end.
#[derive(Debug, Clone)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Header names in lower case, with their values.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Client {
    /// A client without credentials; requests time out after 70 s.
    pub fn new(address: SocketAddr) -> Self {
        Self { address, headers: Vec::new(), timeout: Duration::from_secs(70), stream: None }
    }

    /// The same with a bearer token.
    #[must_use]
    pub fn bearer(mut self, token: &str) -> Self {
        self.headers.push(("authorization".into(), format!("Bearer {token}")));
        self
    }

    /// The same with another time-out for each read.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sends `GET path`.
    ///
    /// # Errors
    /// If the connection fails; any status is an answer.
    pub fn get(&mut self, path: &str) -> Result<Response> {
        self.send("GET", path, &[], None)
    }

    /// Sends `POST path` with a JSON body.
    ///
    /// # Errors
    /// If the connection fails; any status is an answer.
    pub fn post(&mut self, path: &str, body: &Value) -> Result<Response> {
        self.send("POST", path, &[], Some(body.to_string().as_bytes()))
    }

    /// Sends any request; a body is declared as JSON unless `headers` say otherwise.
    ///
    /// A kept connection that the server has closed meanwhile is replaced once, but only if nothing of the answer was read
    /// and the request is a `GET`: anything else may have been executed, and repeating is the caller's decision.
    ///
    /// # Errors
    /// If the connection fails; any status is an answer.
    pub fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&[u8]>,
    ) -> Result<Response> {
        let reused = self.stream.is_some();
        match self.attempt(method, path, headers, body) {
            Err(_) if reused && method == "GET" => self.attempt(method, path, headers, body),
            outcome => outcome,
        }
    }

    fn attempt(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&[u8]>) -> Result<Response> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.connect()?,
        };
        let mut request = format!("{method} {path} HTTP/1.1\r\nhost: {}\r\n", self.address);
        let own = self.headers.iter().map(|(n, v)| (n.as_str(), v.as_str()));
        for (name, value) in
            own.filter(|(n, _)| !headers.iter().any(|(other, _)| other == n)).chain(headers.iter().copied())
        {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        if let Some(body) = body {
            if !headers.iter().any(|(n, _)| n.eq_ignore_ascii_case("content-type")) {
                request.push_str("content-type: application/json\r\n");
            }
            request.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        request.push_str("\r\n");
        let mut bytes = request.into_bytes();
        bytes.extend_from_slice(body.unwrap_or_default());
        stream.get_mut().write_all(&bytes).context("sending the request")?;
        let response = read_response(&mut stream)?;
        if response.header("connection") != Some("close") {
            self.stream = Some(stream);
        }
        Ok(response)
    }

    fn connect(&self) -> Result<BufReader<TcpStream>> {
        let stream = TcpStream::connect_timeout(&self.address, Duration::from_secs(5)).context("connecting")?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(self.timeout))?;
        stream.set_write_timeout(Some(self.timeout))?;
        Ok(BufReader::new(stream))
    }
}

impl Response {
    /// A header by its lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// The body as JSON; an event stream yields its first message's data.
    ///
    /// # Errors
    /// If it is not JSON.
    pub fn json(&self) -> Result<Value> {
        let text = std::str::from_utf8(&self.body).context("the answer is not UTF-8")?;
        let event_stream = self.header("content-type").is_some_and(|t| t.starts_with("text/event-stream"));
        let text = match event_stream {
            true => text.lines().filter_map(|l| l.strip_prefix("data:")).map(str::trim).find(|d| !d.is_empty()),
            false => Some(text),
        };
        let text = text.context("an event stream without data")?;
        serde_json::from_str(text).with_context(|| format!("HTTP {}: not JSON: {}", self.status, shorten(text)))
    }

    /// The body as JSON if the status is as expected.
    ///
    /// # Errors
    /// If it is another status, with the start of the body.
    pub fn expect(&self, status: u16) -> Result<Value> {
        ensure!(
            self.status == status,
            "HTTP {} instead of {status}: {}",
            self.status,
            shorten(&String::from_utf8_lossy(&self.body))
        );
        if self.body.is_empty() { Ok(Value::Null) } else { self.json() }
    }

    /// The slug of the RFC 9457 problem that the body is, if it is one.
    pub fn problem(&self) -> Option<String> {
        let body = self.json().ok()?;
        Some(body.get("type")?.as_str()?.rsplit('/').next()?.to_owned())
    }
}

/// Reads one answer from a buffered stream.
///
/// # Errors
/// If the stream ends before the answer does, or the answer is not HTTP/1.1.
pub fn read_response(stream: &mut BufReader<TcpStream>) -> Result<Response> {
    loop {
        let (status, headers) = read_head(stream)?;
        // 1xx answers announce, they do not answer (RFC 9110 section 15.2).
        if (100..200).contains(&status) {
            continue;
        }
        let header = |name: &str| headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
        let body = if status == 204 || status == 304 {
            Vec::new()
        } else if header("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked")) {
            read_chunked(stream)?
        } else if let Some(length) = header("content-length") {
            let length: usize = length.parse().context("content-length")?;
            ensure!(length <= MAX_BODY, "an answer of {length} bytes");
            let mut body = vec![0; length];
            stream.read_exact(&mut body).context("reading the body")?;
            body
        } else {
            let mut body = Vec::new();
            stream.take(MAX_BODY as u64).read_to_end(&mut body)?;
            body
        };
        return Ok(Response { status, headers, body });
    }
}

fn read_head(stream: &mut BufReader<TcpStream>) -> Result<(u16, Vec<(String, String)>)> {
    let line = read_line(stream)?;
    let status = line.strip_prefix("HTTP/1.1 ").or_else(|| line.strip_prefix("HTTP/1.0 "));
    let status = status.and_then(|rest| rest.get(..3)?.parse().ok());
    let status = status.with_context(|| format!("not an HTTP answer: {}", shorten(&line)))?;
    let mut headers = Vec::new();
    loop {
        let line = read_line(stream)?;
        if line.is_empty() {
            return Ok((status, headers));
        }
        let (name, value) = line.split_once(':').context("a header without a colon")?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
}

fn read_chunked(stream: &mut BufReader<TcpStream>) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = read_line(stream)?;
        let size = line.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(size, 16).context("a chunk's size")?;
        ensure!(body.len() + size <= MAX_BODY, "an answer of more than {MAX_BODY} bytes");
        let start = body.len();
        body.resize(start + size, 0);
        stream.read_exact(&mut body[start..]).context("reading a chunk")?;
        let end = read_line(stream)?;
        ensure!(end.is_empty(), "a chunk without its end");
        if size == 0 {
            return Ok(body);
        }
    }
}

fn read_line(stream: &mut BufReader<TcpStream>) -> Result<String> {
    let mut line = Vec::new();
    stream.take(64 * 1024).read_until(b'\n', &mut line).context("reading the answer")?;
    if line.pop() != Some(b'\n') {
        bail!("the connection ended within an answer");
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    String::from_utf8(line).context("an answer's head is not UTF-8")
}

fn shorten(text: &str) -> String {
    text.chars().take(600).collect()
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use super::Client;

    fn serve(answers: Vec<&'static str>) -> std::net::SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            for answer in answers {
                let mut buffer = [0; 4096];
                let _ = stream.read(&mut buffer).unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        address
    }

    #[test]
    fn answers_of_every_framing_are_read_on_one_connection() {
        let address = serve(vec![
            "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n{\"a\":1}",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"typ\r\n6\r\ne\":\"x/\r\n6\r\nslug\"}\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 22\r\n\r\n: hi\ndata: {\"b\":2}\n\n\n\n",
        ]);
        let mut client = Client::new(address);
        assert_eq!(client.get("/").unwrap().expect(200).unwrap()["a"], 1);
        assert_eq!(client.get("/").unwrap().problem().as_deref(), Some("slug"));
        assert_eq!(client.get("/").unwrap().json().unwrap()["b"], 2);
    }

    #[test]
    fn an_answer_cut_short_is_an_error() {
        let address = serve(vec!["HTTP/1.1 200 OK\r\nContent-Length: 70\r\n\r\n{\"a\":1}"]);
        assert!(Client::new(address).post("/", &serde_json::json!({})).is_err());
    }
}
