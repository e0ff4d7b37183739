//! Stand-ins for the HTTP servers of others: a test says how they answer.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// The requests that were seen: first line and headers, and the body.
pub type Log = Arc<Mutex<Vec<(String, String)>>>;

/// An answer: status, further headers, each with its line's end, and the body, which is JSON if no header says otherwise.
pub type Reply = (&'static str, String, String);

/// Answers one connection's requests, of HTTP/1.1 with a length, as they come; each is in the log before it is answered.
fn serve(socket: TcpStream, log: &Log, answer: &impl Fn(&str, &str) -> Reply) -> Option<()> {
    let mut reader = BufReader::new(socket);
    loop {
        let (mut head, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length: ") {
                length = value.trim().parse().ok()?;
            }
            if line == "\r\n" {
                break;
            }
            head.push_str(&line);
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        let body = String::from_utf8(body).ok()?;
        log.lock().unwrap().push((head.clone(), body.clone()));
        let (status, headers, text) = answer(&head, &body);
        let kind = if headers.contains("content-type: ") { "" } else { "content-type: application/json\r\n" };
        let head = format!("HTTP/1.1 {status}\r\n{headers}{kind}content-length: {}\r\n\r\n", text.len());
        reader.get_mut().write_all(format!("{head}{text}").as_bytes()).ok()?;
    }
}

/// Serves on a free port until the test ends, and tells the answers its URL; the URL, and what was asked.
pub fn serve_each(answer: impl Fn(&str, &str, &str) -> Reply + Send + Sync + 'static) -> (String, Log) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (base, log) = (format!("http://{}", listener.local_addr().unwrap()), Log::default());
    let (answer, origin, record) = (Arc::new(answer), base.clone(), Arc::clone(&log));
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let (answer, log, base) = (Arc::clone(&answer), Arc::clone(&record), origin.clone());
            std::thread::spawn(move || serve(socket, &log, &|head: &str, body: &str| answer(head, body, &base)));
        }
    });
    (base, log)
}
