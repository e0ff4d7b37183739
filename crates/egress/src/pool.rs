//! Connections that wait for their next request.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use crate::connection::Connection;
use crate::rules::Origin;

/// Idle connections are dropped before common servers drop theirs (5 s in Node.js): a request on a connection that is
/// just being closed would leave a write with an unknown outcome.
const IDLE: Duration = Duration::from_secs(4);
/// Idle connections kept for one origin.
const PER_ORIGIN: usize = 64;

#[derive(Debug, Default)]
pub(crate) struct Pool {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    idle: HashMap<Origin, Vec<(Connection, Instant)>>,
    /// Whether a task is there that drops what has waited too long. It ends with the last connection.
    swept: bool,
}

impl Pool {
    /// The connection to an origin that was used last, if it is still open.
    pub(crate) fn take(&self, origin: &Origin) -> Option<Connection> {
        loop {
            let (mut connection, since) = self.lock().idle.get_mut(origin)?.pop()?;
            // Nobody is to be woken: a connection that is open is used at once.
            if since.elapsed() < IDLE && connection.is_open(&mut Context::from_waker(Waker::noop())) {
                return Some(connection);
            }
        }
    }

    /// Keeps a connection for the next request.
    pub(crate) fn put(self: &Arc<Self>, origin: &Origin, connection: Connection) {
        let mut kept = self.lock();
        let waiting = match kept.idle.get_mut(origin) {
            Some(waiting) => waiting,
            None => kept.idle.entry(origin.clone()).or_default(),
        };
        if waiting.len() < PER_ORIGIN {
            waiting.push((connection, Instant::now()));
        }
        if !std::mem::replace(&mut kept.swept, true) {
            tokio::spawn(sweep(Arc::downgrade(self)));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops what has waited too long. Returns whether anything is left.
    fn drop_idle(&self) -> bool {
        let mut kept = self.lock();
        kept.idle.retain(|_, waiting| {
            waiting.retain(|(_, since)| since.elapsed() < IDLE);
            !waiting.is_empty()
        });
        kept.swept = !kept.idle.is_empty();
        kept.swept
    }
}

async fn sweep(pool: Weak<Pool>) {
    loop {
        tokio::time::sleep(IDLE / 4).await;
        if !pool.upgrade().is_some_and(|pool| pool.drop_idle()) {
            return;
        }
    }
}
