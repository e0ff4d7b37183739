//! A small HTTP service of a test's own on a loopback port: it answers each request with what a function says, keeps what it was
//! asked, and ends when it is dropped.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};

/// The largest request that is read.
const MAX_REQUEST: usize = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(30);

/// A request.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Request line and headers.
    pub head: String,
    /// The body.
    pub body: Vec<u8>,
}

/// What becomes of it.
#[derive(Debug, Clone)]
pub enum Reply {
    /// An answer.
    Http {
        /// Its status.
        status: u16,
        /// Its type.
        content_type: &'static str,
        /// Its body.
        body: Vec<u8>,
    },
    /// JSON with a header of its own.
    With {
        /// Its status.
        status: u16,
        /// Name and value.
        header: String,
        /// Its body.
        body: Vec<u8>,
    },
    /// Nothing for this long, and then the end.
    Silence(Duration),
    /// The connection ends at once.
    Close,
}

impl Reply {
    /// JSON with a status.
    pub fn json(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self::Http { status, content_type: "application/json", body: body.into() }
    }
}

/// A running service.
pub struct Service {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Service {
    /// Starts one on a free port.
    ///
    /// # Errors
    /// If there is none.
    pub fn start(answer: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Result<Self> {
        Self::start_on(([127, 0, 0, 1], 0).into(), answer)
    }

    /// Starts one at an address.
    ///
    /// # Errors
    /// If it is taken.
    pub fn start_on(address: SocketAddr, answer: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Result<Self> {
        let listener = TcpListener::bind(address).with_context(|| address.to_string())?;
        let address = listener.local_addr()?;
        let (asked, stop) = (Arc::<Mutex<Vec<Asked>>>::default(), Arc::<AtomicBool>::default());
        let (kept, stopped, answer) = (Arc::clone(&asked), Arc::clone(&stop), Arc::new(answer));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stopped.load(Ordering::Acquire) {
                    return;
                }
                let (kept, answer) = (Arc::clone(&kept), Arc::clone(&answer));
                std::thread::spawn(move || serve(stream, &kept, &*answer));
            }
        });
        Ok(Self { address, asked, stop, thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL, without a trailing slash.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What it was asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // Wakes the thread; if it cannot be reached, it has ended.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(mut stream: TcpStream, kept: &Mutex<Vec<Asked>>, answer: &dyn Fn(&Asked) -> Reply) {
    let _ = stream.set_read_timeout(Some(PATIENCE));
    let Some(asked) = read(&mut stream) else { return };
    kept.lock().unwrap_or_else(PoisonError::into_inner).push(asked.clone());
    match answer(&asked) {
        Reply::Close => {}
        Reply::Silence(time) => std::thread::sleep(time),
        Reply::Http { status, content_type, body } => {
            send(stream, status, &format!("content-type: {content_type}"), &body)
        }
        Reply::With { status, header, body } => {
            send(stream, status, &format!("content-type: application/json\r\n{header}"), &body);
        }
    }
}

fn send(mut stream: TcpStream, status: u16, headers: &str, body: &[u8]) {
    let length = body.len();
    let head = format!("HTTP/1.1 {status} X\r\n{headers}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
    // Whoever asked may be gone.
    let _ = stream.write_all(&[head.as_bytes(), body].concat());
}

fn read(stream: &mut TcpStream) -> Option<Asked> {
    let mut all = Vec::new();
    let mut buffer = [0; 8192];
    loop {
        let read = stream.read(&mut buffer).ok().filter(|read| *read > 0)?;
        all.extend_from_slice(&buffer[..read]);
        let Some(end) = all.windows(4).position(|window| window == b"\r\n\r\n") else {
            if all.len() > MAX_REQUEST {
                return None;
            }
            continue;
        };
        let head = String::from_utf8_lossy(&all[..end]).into_owned();
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
        });
        let length = length.unwrap_or(0);
        if length > MAX_REQUEST {
            return None;
        }
        if all.len() >= end + 4 + length {
            let mut words = head.split(' ').map(str::to_owned);
            let (method, path) = (words.next()?, words.next()?);
            return Some(Asked { method, path, head, body: all[end + 4..end + 4 + length].to_vec() });
        }
    }
}
