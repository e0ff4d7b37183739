//! A stretch of network between a node and its database, which can be cut, or led to another server.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Result;

const LOOK: Duration = Duration::from_millis(20);
const OPEN: u8 = 0;
const HALTED: u8 = 1;
const CUT: u8 = 2;

/// Forwards connections until it is told not to. It ends with the process.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    to: Arc<AtomicU16>,
    state: Arc<AtomicU8>,
}

impl Proxy {
    /// From a free loopback port to this one.
    ///
    /// # Errors
    /// If it cannot listen.
    pub fn start(to: u16) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let state = Arc::new(AtomicU8::new(OPEN));
        let to = Arc::new(AtomicU16::new(to));
        let (of_thread, target) = (Arc::clone(&state), Arc::clone(&to));
        thread::spawn(move || {
            for from in listener.incoming().flatten() {
                if of_thread.load(Ordering::SeqCst) == CUT {
                    continue;
                }
                // A server that is down looks like one: the connection ends.
                let Ok(to) = TcpStream::connect((Ipv4Addr::LOCALHOST, target.load(Ordering::SeqCst))) else { continue };
                for (a, b) in [(&from, &to), (&to, &from)] {
                    if let (Ok(a), Ok(b)) = (a.try_clone(), b.try_clone()) {
                        let state = Arc::clone(&of_thread);
                        thread::spawn(move || copy(a, b, &state));
                    }
                }
            }
        });
        Ok(Self { port, to, state })
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where connections that are made from now on lead, as when an address moves to another server.
    pub fn lead_to(&self, port: u16) {
        self.to.store(port, Ordering::SeqCst);
    }

    /// Lets everything through.
    pub fn open(&self) {
        self.state.store(OPEN, Ordering::SeqCst);
    }

    /// Holds everything back, as a network does that loses packets: nobody is told.
    pub fn halt(&self) {
        self.state.store(HALTED, Ordering::SeqCst);
    }

    /// Ends every connection and takes no new ones.
    pub fn cut(&self) {
        self.state.store(CUT, Ordering::SeqCst);
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream, state: &AtomicU8) {
    let mut buffer = vec![0; 64 << 10];
    let ready =
        from.set_read_timeout(Some(LOOK)).and_then(|()| from.set_nodelay(true)).and_then(|()| to.set_nodelay(true));
    while ready.is_ok() {
        match state.load(Ordering::SeqCst) {
            CUT => break,
            HALTED => {
                thread::sleep(LOOK);
                continue;
            }
            _ => {}
        }
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => {
                // What was read before a halt stays here until it is over.
                while state.load(Ordering::SeqCst) == HALTED {
                    thread::sleep(LOOK);
                }
                if state.load(Ordering::SeqCst) == CUT || to.write_all(&buffer[..n]).is_err() {
                    break;
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => break,
        }
    }
    // Either side may be gone already.
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
