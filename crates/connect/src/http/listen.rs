//! What an upstream tells outside of calls: a GET stream in the session era, a subscription in the modern one. Opened again with
//! growing waits when it ends, and at once when more resources are watched.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use countersign_gate::upstream::Mute;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderValue, Method};
use tokio::sync::oneshot;

use super::answer::{LAST_EVENT, check_encoding, media_type};
use super::{HttpLink, METHOD, Session};
use crate::link::{Link as _, Question};
use crate::rpc::{self, Era, Incoming, quote};
use crate::sse::Parser;
use crate::talk::{self, Aside};

/// How long a stream is listened to before it is opened anew.
const LISTEN: Duration = Duration::from_secs(3_600);
/// Waits between two attempts.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Longest message outside of calls.
const MAX_TOLD: usize = 1 << 20;
/// How long watching a resource in a new session may take.
const WATCH_AGAIN: Duration = Duration::from_secs(10);

/// How listening ended.
enum Ended {
    /// It is not worth trying again.
    Forever,
    /// To be tried again, later.
    ForNow,
    /// More is watched: to be tried again at once.
    ForMore,
}

impl HttpLink {
    /// Listens for as long as the session is in use. The receiver hears, if only by its sender's end, that the upstream has
    /// answered the first attempt.
    pub(super) fn listen(&self, session: &Arc<Session>) -> oneshot::Receiver<()> {
        let (link, weak) = (self.this.clone(), Arc::downgrade(session));
        let (opened, is_opened) = oneshot::channel();
        let mut first = Some(opened);
        let listener = tokio::spawn(async move {
            let (mut wait, mut last) = (AGAIN.0, None);
            loop {
                let (Some(link), Some(session)) = (link.upgrade(), weak.upgrade()) else { return };
                let opened = Instant::now();
                match link.listen_once(session, &mut last, first.take()).await {
                    Ended::Forever => return,
                    Ended::ForMore => continue,
                    Ended::ForNow => {}
                }
                wait = if opened.elapsed() > AGAIN.1 { AGAIN.0 } else { (wait * 2).min(AGAIN.1) };
                drop(link);
                tokio::time::sleep(wait).await;
            }
        });
        *session.listener.lock().unwrap_or_else(PoisonError::into_inner) = Some(listener);
        is_opened
    }

    async fn listen_once(
        &self,
        session: Arc<Session>,
        last: &mut Option<String>,
        opened: Option<oneshot::Sender<()>>,
    ) -> Ended {
        let mut wanted = self.board.wanted();
        let count = *wanted.borrow_and_update();
        let mut headers = self.session_headers(&session);
        let (method, body) = match session.era {
            Era::Modern => {
                headers.insert(METHOD, HeaderValue::from_static("subscriptions/listen"));
                let id = self.next_id.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                let meta = rpc::meta(id, session.era, &Mute);
                let filter = self.board.filter(&session.facts);
                (Method::POST, rpc::request(id, "subscriptions/listen", &filter, meta.as_deref()))
            }
            Era::Legacy(_) => {
                headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
                headers.remove(CONTENT_TYPE);
                if let Some(last) = last.as_deref().and_then(|last| HeaderValue::from_str(last).ok()) {
                    headers.insert(LAST_EVENT, last);
                }
                (Method::GET, Vec::new())
            }
        };
        let until = Instant::now() + LISTEN;
        let answered =
            self.send(session.caller.as_ref(), method, headers, body, Instant::now() + self.start_timeout).await;
        drop(opened);
        let mut response = match answered {
            Ok(response) if response.status().is_success() => response,
            // 405: it offers no such stream. 404: the session is over, and the next call finds that out.
            Ok(response) if response.status().is_server_error() => return Ended::ForNow,
            Ok(_) => return Ended::Forever,
            Err(_) => return Ended::ForNow,
        };
        if media_type(response.headers()) != Some("text/event-stream") || check_encoding(&response).is_err() {
            return Ended::Forever;
        }
        let is_modern = session.era == Era::Modern;
        let weak = Arc::downgrade(&session);
        drop(session);
        let mut parser = Parser::new(MAX_TOLD);
        loop {
            let chunk = tokio::select! {
                chunk = response.chunk(until) => chunk,
                _ = wanted.changed(), if is_modern => return Ended::ForMore,
            };
            let Ok(Some(chunk)) = chunk else { return Ended::ForNow };
            let (Ok(events), Some(session)) = (parser.feed(&chunk), weak.upgrade()) else { return Ended::ForNow };
            for event in events {
                self.overhear(&session, &event, count);
            }
            *last = parser.last_id().map(str::to_owned);
        }
    }

    /// A message outside of calls; `count` is what an acknowledgement acknowledges.
    fn overhear(&self, session: &Session, event: &[u8], count: u64) {
        match rpc::parse(event) {
            Ok(Incoming::Notification(method, _)) if method == "notifications/subscriptions/acknowledged" => {
                self.board.acknowledge(count);
            }
            Ok(Incoming::Notification(method, Some(params)))
                if method == talk::ELICITED && session.floor.hand_elicited(params) => {}
            Ok(Incoming::Notification(method, params)) => match talk::notice(&method, params) {
                // What no call waits for is dropped.
                Some((call, notice)) => drop(session.floor.hand(call, Aside::Notice(notice))),
                None => self.board.told(&method, params),
            },
            Ok(Incoming::Request(id, method, params)) if session.era != Era::Modern => {
                let Some(ask) = talk::question(&method, None, params) else {
                    return self.deliver(session, rpc::refusal(id, &method));
                };
                if session.floor.hand(None, Aside::Question(id.to_owned(), ask)).is_err() {
                    self.deliver(session, rpc::error_response(id, rpc::INTERNAL_ERROR, rpc::NOT_ATTRIBUTABLE));
                }
            }
            // Answers are not expected here; what cannot be read is none of a call's.
            Ok(Incoming::Request(..) | Incoming::Response(..) | Incoming::Unrelated(_)) | Err(_) => {}
        }
    }

    /// A new session knows nothing of what the one before watched.
    pub(super) async fn watch_again(&self, session: &Arc<Session>) {
        let watched = self.board.watched();
        let Some(link) = self.this.upgrade().filter(|_| !watched.is_empty() && session.facts.subscriptions) else {
            return;
        };
        tokio::spawn(async move {
            for uri in watched {
                let members = format!("\"uri\":{}", quote(&uri));
                let deadline = Instant::now() + WATCH_AGAIN;
                let question =
                    Question { method: "resources/subscribe", members: &members, ..Question::plain(&Mute, deadline) };
                if link.ask(&question).await.is_err() {
                    return;
                }
            }
        });
    }
}
