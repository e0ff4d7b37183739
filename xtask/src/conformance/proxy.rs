//! The suite cannot send credentials, so they are added on the way: one header on every request, and one request for each
//! connection, so that no body has to be understood. Nothing else is changed.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;

/// Listens until it is dropped.
pub struct Proxy {
    address: SocketAddr,
    ended: Arc<AtomicBool>,
}

impl Proxy {
    /// Forwards to `to` with this bearer token.
    ///
    /// # Errors
    /// If it cannot listen.
    pub fn start(to: SocketAddr, token: &str) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let ended = Arc::new(AtomicBool::new(false));
        let (over, token) = (Arc::clone(&ended), token.to_owned());
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                let token = token.clone();
                // A connection that breaks is the suite's to notice.
                std::thread::spawn(move || drop(forward(socket, to, &token)));
            }
        });
        Ok(Self { address, ended })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        // Wakes the listener, which looks at the flag.
        let _ = TcpStream::connect(self.address);
    }
}

fn forward(socket: TcpStream, to: SocketAddr, token: &str) -> Result<()> {
    let mut reader = BufReader::new(socket.try_clone()?);
    let mut head = String::new();
    loop {
        let mut line = String::new();
        if reader.by_ref().take(64 << 10).read_line(&mut line)? == 0 {
            return Ok(());
        }
        if line == "\r\n" {
            break;
        }
        if !line.to_ascii_lowercase().starts_with("connection:") {
            head.push_str(&line);
        }
    }
    head.push_str(&format!("authorization: Bearer {token}\r\nconnection: close\r\n\r\n"));
    let mut upstream = TcpStream::connect(to)?;
    upstream.set_nodelay(true)?;
    socket.set_nodelay(true)?;
    upstream.write_all(head.as_bytes())?;
    let mut up = upstream.try_clone()?;
    std::thread::spawn(move || {
        // The client's end is the upstream's: a closed stream is a cancelled request.
        let _ = std::io::copy(&mut reader, &mut up);
        let _ = up.shutdown(Shutdown::Both);
    });
    let mut down = socket;
    std::io::copy(&mut upstream, &mut down)?;
    down.shutdown(Shutdown::Both)?;
    Ok(())
}
