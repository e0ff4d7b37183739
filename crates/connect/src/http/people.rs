//! Sessions of callers, for upstreams of the session era whose credential depends on who calls: one caller's session is never
//! another's, nor is what the upstream asks in it. Made with the first call, and ended when they were idle for long or when there
//! are too many.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use countersign_domain::Principal;
use countersign_gate::upstream::DispatchError;
use http::Method;

use super::{COURTESY, HttpLink, Session};

/// Most sessions of one upstream.
const MAX_SESSIONS: usize = 1_000;
/// How long one is kept that nobody uses.
const IDLE: Duration = Duration::from_secs(900);

/// By caller.
#[derive(Default)]
pub(super) struct People(Mutex<HashMap<String, Arc<Seat>>>);

/// A caller's.
struct Seat {
    starting: tokio::sync::Mutex<()>,
    held: Mutex<Held>,
}

struct Held {
    session: Option<Arc<Session>>,
    used: Instant,
}

/// Callers of different workspaces are different callers, whatever they are called.
fn key(caller: &Principal) -> String {
    format!("{}\n{}", caller.workspace, caller.caller_key())
}

impl Seat {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The session, which is in use as of now.
    fn session(&self) -> Option<Arc<Session>> {
        let mut held = self.held();
        held.used = Instant::now();
        held.session.clone()
    }

    /// Since when nobody has used it; `None` while somebody does.
    fn idle_since(self: &Arc<Self>) -> Option<Instant> {
        let held = self.held();
        let busy = Arc::strong_count(self) > 1 || held.session.as_ref().is_some_and(|s| Arc::strong_count(s) > 1);
        (!busy).then_some(held.used)
    }
}

impl People {
    fn seats(&self) -> MutexGuard<'_, HashMap<String, Arc<Seat>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The caller's place, and the sessions that had to go for it.
    fn seat(&self, caller: &Principal) -> Result<(Arc<Seat>, Vec<Arc<Session>>), DispatchError> {
        let (key, mut seats) = (key(caller), self.seats());
        if let Some(seat) = seats.get(&key) {
            return Ok((Arc::clone(seat), Vec::new()));
        }
        let mut idle: Vec<(Instant, String)> =
            seats.iter().filter_map(|(key, seat)| Some((seat.idle_since()?, key.clone()))).collect();
        idle.sort_unstable();
        let old = idle.iter().take_while(|(since, _)| since.elapsed() > IDLE).count();
        let excess = (seats.len() + 1).saturating_sub(MAX_SESSIONS);
        let ended: Vec<_> = idle.iter().take(old.max(excess)).filter_map(|(_, key)| seats.remove(key)).collect();
        if seats.len() >= MAX_SESSIONS {
            return Err(DispatchError::Busy(format!("{MAX_SESSIONS} callers have calls under way there")));
        }
        let held = Mutex::new(Held { session: None, used: Instant::now() });
        let seat = Arc::new(Seat { starting: tokio::sync::Mutex::new(()), held });
        seats.insert(key, Arc::clone(&seat));
        Ok((seat, ended.iter().filter_map(|seat| seat.held().session.take()).collect()))
    }

    /// Forgets this session, unless another has taken its place.
    pub(super) fn forget(&self, caller: &Principal, session: &Arc<Session>) {
        if let Some(seat) = self.seats().get(&key(caller)) {
            seat.held().session.take_if(|held| Arc::ptr_eq(held, session));
        }
    }

    /// All sessions, which are nobody's any more.
    pub(super) fn take_all(&self) -> Vec<Arc<Session>> {
        self.seats().drain().filter_map(|(_, seat)| seat.held().session.take()).collect()
    }
}

impl HttpLink {
    /// The session of this caller's own.
    pub(super) async fn own(&self, caller: &Principal, deadline: Instant) -> Result<Arc<Session>, DispatchError> {
        let (seat, ended) = self.people.seat(caller)?;
        for session in ended {
            let this = self.this.clone();
            tokio::spawn(async move {
                if let Some(link) = this.upgrade() {
                    link.end(session).await;
                }
            });
        }
        let not_ready = || DispatchError::NotSent("its session was not ready before the deadline".into());
        let starting = tokio::time::timeout_at(deadline.into(), seat.starting.lock()).await;
        let _starting = starting.map_err(|_| not_ready())?;
        if let Some(session) = seat.session() {
            return Ok(session);
        }
        let until = deadline.min(Instant::now() + self.start_timeout);
        let session = self.initialize(Some(caller), until).await.map_err(DispatchError::NotSent)?;
        let session = Arc::new(session);
        seat.held().session = Some(Arc::clone(&session));
        self.attend(&session).await;
        Ok(session)
    }

    /// Tells the upstream that a session is over.
    pub(super) async fn end(&self, session: Arc<Session>) {
        if session.id.is_some() {
            let headers = self.session_headers(&session);
            let until = Instant::now() + COURTESY;
            let _ = self.send(session.caller.as_ref(), Method::DELETE, headers, Vec::new(), until).await;
        }
    }
}
