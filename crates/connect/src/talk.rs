//! What an upstream says and asks while a call runs, and how it finds the call that it belongs to.
//!
//! Over HTTP a call has a stream of its own. Over standard streams, and on the GET stream of the session era, everything
//! shares one channel: progress is told apart by its token, while a log message or a question belongs to a call only if exactly
//! one call is in flight there. Otherwise the message is dropped and the question is refused: whom it is meant for would be a guess.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use countersign_gate::upstream::{Answers, Ask, AskError, AskKind, Exchange, Notice, elicitation_of};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use crate::depth::is_too_deep;
use crate::rpc::{self, INTERNAL_ERROR, METHOD_NOT_FOUND};

/// Notices of one call that are passed on; further ones are dropped.
const MAX_NOTICES: u32 = 10_000;
/// Questions of one call; further ones are refused.
const MAX_ASKS: u32 = 32;
/// Questions of one call that wait for an answer at a time; further ones are refused.
const MAX_ASKS_AT_ONCE: usize = 8;
/// Pages that one call is remembered to have led to; of more, the call is not told.
const MAX_LED: usize = 64;
/// Messages that wait for a call to look at them.
const QUEUE: usize = 64;

/// MCP 2025-11-25, Sampling, Error Handling: what a client says for its person.
const REFUSED: i64 = -1;

/// A message that belongs to a running call.
#[derive(Debug)]
pub(crate) enum Aside {
    Notice(Notice),
    /// A request of the upstream: its id, and what it asks.
    Question(Box<RawValue>, Ask),
}

/// A notification that belongs to the call of this number, or to whichever call it comes with. One that is nested deeper than an
/// answer may be is none.
pub(crate) fn notice(method: &str, params: Option<&RawValue>) -> Option<(Option<u64>, Notice)> {
    #[derive(Deserialize)]
    struct Progress {
        #[serde(rename = "progressToken")]
        token: u64,
    }
    let params = params.filter(|params| !is_too_deep(params.get().as_bytes()))?;
    match method {
        "notifications/progress" => {
            let progress: Progress = serde_json::from_str(params.get()).ok()?;
            Some((Some(progress.token), Notice::Progress(params.to_owned())))
        }
        "notifications/message" => Some((None, Notice::Log(params.to_owned()))),
        _ => None,
    }
}

/// That what a person was led to a page for is over.
pub(crate) const ELICITED: &str = "notifications/elicitation/complete";

/// What a request of an upstream asks, if it is one of those that callers may answer, nested no deeper than an answer may be.
pub(crate) fn question(method: &str, key: Option<String>, params: Option<&RawValue>) -> Option<Ask> {
    #[derive(Deserialize)]
    struct Mode {
        #[serde(default)]
        mode: Option<String>,
    }
    let params = params.map_or_else(|| RawValue::from_string("{}".to_owned()).ok(), |p| Some(p.to_owned()))?;
    if is_too_deep(params.get().as_bytes()) {
        return None;
    }
    let kind = match method {
        "elicitation/create" => match serde_json::from_str::<Mode>(params.get()).ok()?.mode.as_deref() {
            None | Some("form") => AskKind::ElicitForm,
            Some("url") => AskKind::ElicitUrl,
            Some(_) => return None,
        },
        "sampling/createMessage" => AskKind::Sample,
        "roots/list" => AskKind::ListRoots,
        _ => return None,
    };
    Some(Ask { kind, key, params })
}

/// The subscription that a message belongs to.
pub(crate) fn subscription_of(params: &RawValue) -> Option<u64> {
    #[derive(Deserialize)]
    struct Params {
        #[serde(rename = "_meta")]
        meta: Meta,
    }
    #[derive(Deserialize)]
    struct Meta {
        #[serde(rename = "io.modelcontextprotocol/subscriptionId")]
        id: u64,
    }
    serde_json::from_str::<Params>(params.get()).ok().map(|params| params.meta.id)
}

type Reply<'a> = Pin<Box<dyn Future<Output = (Box<RawValue>, Answers)> + Send + 'a>>;

/// A running call's side of the conversation. It begins before the call is sent: what the upstream asks on a shared channel may
/// overtake the beginning of its answer.
pub(crate) struct Talk<'a, D> {
    exchange: &'a dyn Exchange,
    /// Where it is found on a shared channel; a request that is no call has none.
    place: Option<Place>,
    /// Sends an answer to the upstream. Never waits.
    deliver: D,
    notices: u32,
    asked: u32,
    waiting: FuturesUnordered<Reply<'a>>,
}

impl<'a, D: Fn(Vec<u8>)> Talk<'a, D> {
    pub(crate) fn new(exchange: &'a dyn Exchange, place: Option<Place>, deliver: D) -> Self {
        Self { exchange, place, deliver, notices: 0, asked: 0, waiting: FuturesUnordered::new() }
    }

    /// Does this, and meanwhile hears what comes for the call and sends what its caller answers.
    pub(crate) async fn during<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            let aside = tokio::select! {
                done = &mut work => {
                    self.catch_up();
                    return done;
                }
                aside = next(&mut self.place) => aside,
                (id, answers) = reply(&mut self.waiting) => {
                    self.answer(&id, answers);
                    continue;
                }
            };
            self.hear(aside);
        }
    }

    /// Takes a message. What the caller's side answers later is sent [during](Self::during) the wait for the call's answer.
    pub(crate) fn hear(&mut self, aside: Aside) {
        match aside {
            Aside::Notice(notice) => {
                if self.notices < MAX_NOTICES {
                    self.notices += 1;
                    self.exchange.notify(notice);
                }
            }
            Aside::Question(id, _) if self.asked >= MAX_ASKS || self.waiting.len() >= MAX_ASKS_AT_ONCE => {
                (self.deliver)(rpc::error_response(&id, INTERNAL_ERROR, "too many requests during one call"));
            }
            Aside::Question(id, ask) => {
                self.asked += 1;
                let exchange = self.exchange;
                self.waiting.push(Box::pin(async move { (id, exchange.ask(vec![ask]).await) }));
                // What is refused at once is said at once, even if the call's answer comes next.
                if let Some((id, answers)) = reply(&mut self.waiting).now_or_never() {
                    self.answer(&id, answers);
                }
            }
        }
    }

    /// Hears what came before the work was done, of which the call's answer may be the last.
    fn catch_up(&mut self) {
        for _ in 0..QUEUE {
            let Some(Ok(aside)) = self.place.as_mut().map(|place| place.inbox.try_recv()) else { return };
            self.hear(aside);
        }
    }

    /// Whether it was this call that led its person to that page.
    pub(crate) fn has_led(&self, params: &RawValue) -> bool {
        let id = elicitation_of(params);
        let led = |place: &Place| id.and_then(|id| place.floor.calls().led.get(&id).copied()) == Some(place.id);
        self.place.as_ref().is_some_and(led)
    }

    /// Takes a question from the call's own stream.
    pub(crate) fn hear_own(&mut self, question: Aside) {
        if let Some(place) = &self.place {
            place.floor.calls().notes(place.id, &question);
        }
        self.hear(question);
    }

    /// Refuses what callers are never asked.
    pub(crate) fn refuse(&self, id: &RawValue, method: &str) {
        (self.deliver)(rpc::refusal(id, method));
    }

    fn answer(&self, id: &RawValue, mut answers: Answers) {
        (self.deliver)(response(id, answers.pop().unwrap_or(Err(AskError::Gone))));
    }
}

/// The next answer of the caller's side, and to which request. Never, if it was asked nothing.
async fn reply(waiting: &mut FuturesUnordered<Reply<'_>>) -> (Box<RawValue>, Answers) {
    match waiting.next().await {
        Some(reply) => reply,
        None => std::future::pending().await,
    }
}

fn response(id: &RawValue, answer: Result<Box<RawValue>, AskError>) -> Vec<u8> {
    match answer {
        Ok(result) => rpc::response(id, &format!("\"result\":{}", result.get())),
        Err(error) => {
            let code = match &error {
                AskError::Unsupported => METHOD_NOT_FOUND,
                AskError::Refused(_) => REFUSED,
                AskError::Rpc { code, .. } => *code,
                AskError::Gone => INTERNAL_ERROR,
            };
            rpc::error_response(id, code, &error.to_string())
        }
    }
}

/// The calls in flight on one channel.
#[derive(Debug, Default)]
pub(crate) struct Floor(Mutex<Calls>);

#[derive(Debug, Default)]
struct Calls {
    inboxes: HashMap<u64, mpsc::Sender<Aside>>,
    /// During which call a person was led to a page, by the elicitation's id.
    led: HashMap<String, u64>,
}

impl Calls {
    fn notes(&mut self, call: u64, aside: &Aside) {
        if let Aside::Question(_, ask) = aside
            && ask.kind == AskKind::ElicitUrl
            && let Some(id) = elicitation_of(&ask.params)
            && self.led.values().filter(|led| **led == call).count() < MAX_LED
        {
            self.led.insert(id, call);
        }
    }
}

/// A call's place on the floor, for as long as it is kept.
#[derive(Debug)]
pub(crate) struct Place {
    floor: Arc<Floor>,
    id: u64,
    inbox: mpsc::Receiver<Aside>,
}

impl Floor {
    /// A call begins.
    pub(crate) fn enter(self: &Arc<Self>, id: u64) -> Place {
        let (sender, inbox) = mpsc::channel(QUEUE);
        self.calls().inboxes.insert(id, sender);
        Place { floor: Arc::clone(self), id, inbox }
    }

    /// Hands a message to the call that it belongs to: the one of this number, or the only one. Gives it back where there is
    /// none, or where the call doesn't keep up.
    pub(crate) fn hand(&self, call: Option<u64>, aside: Aside) -> Result<(), Aside> {
        let mut calls = self.calls();
        let found = match call {
            Some(id) => calls.inboxes.get_key_value(&id),
            None if calls.inboxes.len() == 1 => calls.inboxes.iter().next(),
            None => None,
        };
        let Some((id, sender)) = found.map(|(id, sender)| (*id, sender.clone())) else { return Err(aside) };
        calls.notes(id, &aside);
        sender.try_send(aside).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(aside) | mpsc::error::TrySendError::Closed(aside) => aside,
        })
    }

    /// Hands on that a page is done with, if a call in flight led its person there. Nobody else hears of it.
    pub(crate) fn hand_elicited(&self, params: &RawValue) -> bool {
        let call = elicitation_of(params).and_then(|id| self.calls().led.get(&id).copied());
        call.is_some_and(|call| self.hand(Some(call), Aside::Notice(Notice::Elicited(params.to_owned()))).is_ok())
    }

    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The next message for this call. Never, if it has no place.
async fn next(place: &mut Option<Place>) -> Aside {
    match place {
        Some(place) => match place.inbox.recv().await {
            Some(aside) => aside,
            None => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut calls = self.floor.calls();
        calls.inboxes.remove(&self.id);
        calls.led.retain(|_, call| *call != self.id);
    }
}

#[cfg(test)]
mod tests {
    use countersign_gate::upstream::Mute;

    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).expect("JSON")
    }

    #[test]
    fn what_is_nested_too_deeply_is_neither_passed_on_nor_asked() {
        let nested = |levels: usize| {
            raw(&format!(r#"{{"progressToken":1,"x":{}{}}}"#, "[".repeat(levels - 1), "]".repeat(levels - 1)))
        };
        for (levels, heard) in [(128, true), (129, false), (200_000, false)] {
            let params = nested(levels);
            for method in ["notifications/progress", "notifications/message"] {
                assert_eq!(notice(method, Some(&params)).is_some(), heard, "{method}, {levels}");
            }
            for method in ["elicitation/create", "sampling/createMessage", "roots/list"] {
                assert_eq!(question(method, None, Some(&params)).is_some(), heard, "{method}, {levels}");
            }
        }
    }

    #[test]
    fn what_is_meant_for_nobody_in_particular_goes_to_the_only_call() {
        let floor = Arc::new(Floor::default());
        let log = || Aside::Notice(Notice::Log(raw("{}")));
        assert!(floor.hand(None, log()).is_err(), "nobody is there");
        let one = floor.enter(1);
        assert!(floor.hand(None, log()).is_ok() && floor.hand(Some(2), log()).is_err());
        let two = floor.enter(2);
        assert!(floor.hand(None, log()).is_err(), "it would be a guess");
        assert!(floor.hand(Some(2), log()).is_ok());
        drop(one);
        assert!(floor.hand(None, log()).is_ok());
        drop(two);
        assert!(floor.hand(Some(2), log()).is_err());
    }

    #[test]
    fn that_a_page_is_done_with_is_told_to_the_call_that_led_there() {
        let floor = Arc::new(Floor::default());
        let over = |id: &str| floor.hand_elicited(&raw(&format!("{{\"elicitationId\":\"{id}\"}}")));
        let mut one = floor.enter(1);
        let ask = question("elicitation/create", None, Some(&raw(r#"{"mode":"url","elicitationId":"e1"}"#)));
        floor.hand(None, Aside::Question(raw("1"), ask.expect("a question"))).expect("handed");
        let two = floor.enter(2);
        assert!(over("e1") && !over("e2"));
        assert!(matches!(one.inbox.try_recv(), Ok(Aside::Question(..))));
        assert!(matches!(one.inbox.try_recv(), Ok(Aside::Notice(Notice::Elicited(_)))));
        drop(one);
        assert!(!over("e1"), "the only call left led nobody there");
        drop(two);
    }

    #[test]
    fn a_call_that_does_not_keep_up_is_not_waited_for() {
        let floor = Arc::new(Floor::default());
        let _place = floor.enter(1);
        let handed = (0..QUEUE + 5).filter(|_| floor.hand(None, Aside::Notice(Notice::Log(raw("{}")))).is_ok()).count();
        assert_eq!(handed, QUEUE);
    }

    #[test]
    fn a_flood_of_questions_is_refused() {
        let replies = Mutex::new(Vec::new());
        let mut talk = Talk::new(&Mute, None, |reply| replies.lock().expect("not poisoned").push(reply));
        let ask = || question("roots/list", None, None).expect("a question");
        (0..100).for_each(|_| talk.hear(Aside::Question(raw("\"q\""), ask())));
        let replies = replies.lock().expect("not poisoned");
        let codes: Vec<_> =
            replies.iter().map(|r| serde_json::from_slice::<serde_json::Value>(r).expect("JSON")).collect();
        assert_eq!((codes.len(), &codes[0]["id"]), (100, &"q".into()));
        assert_eq!(codes.iter().filter(|r| r["error"]["code"] == METHOD_NOT_FOUND).count(), MAX_ASKS as usize);
        assert!(codes[99]["error"]["message"].as_str().is_some_and(|m| m.contains("too many")));
    }

    #[test]
    fn questions_are_told_apart() {
        let kind = |method: &str, params: &str| question(method, None, Some(&raw(params))).map(|ask| ask.kind);
        assert_eq!(kind("elicitation/create", "{\"message\":\"\"}"), Some(AskKind::ElicitForm));
        assert_eq!(kind("elicitation/create", "{\"mode\":\"url\"}"), Some(AskKind::ElicitUrl));
        assert_eq!(kind("elicitation/create", "{\"mode\":\"mail\"}"), None);
        assert_eq!(kind("sampling/createMessage", "{}"), Some(AskKind::Sample));
        assert_eq!(kind("tools/call", "{}"), None);
    }
}
