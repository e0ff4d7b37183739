//! One request and everything that comes back for it: an answer as JSON, or a stream of events that ends with the answer.
//!
//! What is said meanwhile goes out at once. What is asked goes out as the client's era wants it: before 2026-07-28 as a
//! request on the stream, whose answer comes with another POST; since then as the result `input_required`, whose answers
//! come with the retry.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use countersign_domain::Principal;
use countersign_gate::upstream::{Ask, AskKind, Notice};
use countersign_proof::digest::Digest;
use futures_util::stream;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderName, HeaderValue};
use serde_json::Value;
use serde_json::value::RawValue;

use super::era::Era;
use super::http::answered;
use super::message;
use super::parked;
use super::session::Session;
use super::wire::{Flight, Outcome, Question, Said, is_heard};
use crate::app::App;
use crate::rawjson::{self, ObjectWriter, on_one_line};

/// An answer that takes longer than this becomes a stream, so that nothing on the way takes the silence for death.
const STREAM_AFTER: Duration = Duration::from_secs(5);
/// How often a stream shows that it lives.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(10);

const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// A request on its way to its answer.
pub(crate) struct Talk {
    pub app: Arc<App>,
    pub principal: Arc<Principal>,
    /// The request's id as it was written.
    pub id: String,
    pub era: Era,
    /// Under which token progress is reported, as it was written.
    pub token: Option<String>,
    /// The least severe log messages to pass on.
    pub level: Option<&'static str>,
    pub session: Option<Arc<Session>>,
    /// Whether the client reads streams.
    pub streams: bool,
    /// What a retry has to be; `None` where no retry is possible.
    pub identity: Option<Digest>,
    /// `None` once it is parked.
    pub flight: Option<Flight>,
    /// Whether the upstream reports progress itself.
    pub progressed: bool,
    /// The status of an answer that comes as JSON.
    pub status: http::StatusCode,
}

/// What comes next.
enum Next {
    /// Events for the stream.
    Say(Vec<u8>),
    /// The answer, and events that were said before it.
    Done(Vec<u8>, Vec<u8>),
    /// Nothing for a while.
    Quiet,
}

impl Talk {
    /// Answers: as JSON, unless there is something to say before.
    pub async fn answer(mut self) -> Response {
        loop {
            match (self.next(STREAM_AFTER).await, self.streams) {
                (Next::Done(body, before), true) if !before.is_empty() => {
                    let events = [before, event(body)].concat();
                    return event_stream(stream::once(async move { Ok(Bytes::from(events)) }));
                }
                (Next::Done(body, _), _) => return answered(self.status, body),
                (Next::Say(events), true) => return self.stream(events),
                (Next::Quiet, true) => {
                    let beat = self.beat(0);
                    return self.stream(beat);
                }
                (Next::Say(_) | Next::Quiet, false) => {}
            }
        }
    }

    /// Asks again what a retry left open, before anything else.
    pub async fn ask_again(&mut self, missing: Vec<(String, Question)>) -> Option<Vec<u8>> {
        if missing.is_empty() {
            return None;
        }
        self.park(missing).await
    }

    fn stream(self, first: Vec<u8>) -> Response {
        let state = (Some(self), Some(first), 0_u64);
        event_stream(stream::unfold(state, |(talk, first, beats)| async move {
            let mut talk = talk?;
            if let Some(first) = first {
                return Some((Ok::<_, Infallible>(Bytes::from(first)), (Some(talk), None, beats)));
            }
            Some(match talk.next(KEEP_ALIVE).await {
                Next::Say(events) => (Ok(Bytes::from(events)), (Some(talk), None, beats)),
                Next::Done(body, before) => (Ok(Bytes::from([before, event(body)].concat())), (None, None, beats)),
                Next::Quiet => {
                    let beat = talk.beat(beats + 1);
                    (Ok(Bytes::from(beat)), (Some(talk), None, beats + 1))
                }
            })
        }))
    }

    /// A sign of life: a comment, or progress where the request asked for such and the upstream reports none itself.
    fn beat(&self, beats: u64) -> Vec<u8> {
        match &self.token {
            Some(token) if !self.progressed => {
                let params =
                    format!("{{\"progressToken\":{token},\"progress\":{},\"message\":\"waiting\"}}", beats + 1);
                event(message::notification("notifications/progress", params.as_bytes()))
            }
            Some(_) | None => b": waiting\n\n".to_vec(),
        }
    }

    async fn next(&mut self, patience: Duration) -> Next {
        let quiet = tokio::time::sleep(patience);
        let mut quiet = std::pin::pin!(quiet);
        loop {
            let Some(flight) = self.flight.as_mut() else { return Next::Quiet };
            tokio::select! {
                biased;
                // Everything said before the answer goes out before it.
                Some(said) = flight.says.recv() => match said {
                    Said::Notice(notice) => {
                        if let Some(events) = self.passed_on(notice) {
                            return Next::Say(events);
                        }
                    }
                    Said::Ask(questions) => {
                        if let Some(next) = self.put(questions).await {
                            return next;
                        }
                    }
                },
                outcome = &mut flight.running => {
                    let before = self.left_over();
                    return Next::Done(self.response(outcome), before);
                }
                () = &mut quiet => return Next::Quiet,
            }
        }
    }

    /// What was said at the very end, while the answer came in.
    fn left_over(&mut self) -> Vec<u8> {
        let mut events = Vec::new();
        while let Some(Ok(said)) = self.flight.as_mut().map(|flight| flight.says.try_recv()) {
            match said {
                Said::Notice(notice) => events.extend(self.passed_on(notice).unwrap_or_default()),
                Said::Ask(questions) => questions.into_iter().for_each(parked::unsupported),
            }
        }
        events
    }

    fn response(&mut self, outcome: Outcome) -> Vec<u8> {
        match outcome {
            Ok(result) => message::response(&self.id, &result),
            Err(error) => {
                // 2026-07-28, MissingRequiredClientCapabilityError.
                if self.era == Era::Modern && error.code == message::MISSING_CAPABILITY {
                    self.status = http::StatusCode::BAD_REQUEST;
                }
                error.response(Some(&self.id))
            }
        }
    }

    fn passed_on(&mut self, notice: Notice) -> Option<Vec<u8>> {
        let message = match notice {
            Notice::Progress(params) => {
                let params = with_token(&params, self.token.as_deref()?)?;
                self.progressed = true;
                message::notification("notifications/progress", &params)
            }
            Notice::Log(params) => {
                let value: Value = serde_json::from_str(params.get()).ok()?;
                let heard = self
                    .level
                    .is_some_and(|wanted| value["level"].as_str().is_some_and(|level| is_heard(level, wanted)));
                if !heard {
                    return None;
                }
                message::notification("notifications/message", params.get().as_bytes())
            }
            // Ended with 2026-07-28, where a client that was sent to a page comes back by itself.
            Notice::Elicited(_) if self.era == Era::Modern => return None,
            Notice::Elicited(params) => {
                message::notification("notifications/elicitation/complete", params.get().as_bytes())
            }
        };
        Some(event(message))
    }

    /// Puts questions to the client.
    async fn put(&mut self, questions: Vec<Question>) -> Option<Next> {
        match (self.era, &self.session, self.identity) {
            (Era::Modern, _, Some(_)) => {
                let named = parked::named(questions);
                self.park(named).await.map(|body| Next::Done(body, Vec::new()))
            }
            (Era::Legacy, Some(session), _) if self.streams => {
                let asked = questions.into_iter().filter_map(|question| session.asks(question));
                let events: Vec<u8> = asked.flat_map(|(id, ask)| event(request_of(&id, &ask))).collect();
                (!events.is_empty()).then_some(Next::Say(events))
            }
            (Era::Modern, _, None) | (Era::Legacy, _, _) => {
                questions.into_iter().for_each(parked::unsupported);
                None
            }
        }
    }

    async fn park(&mut self, named: Vec<(String, Question)>) -> Option<Vec<u8>> {
        let (Some(flight), Some(identity)) = (self.flight.take(), self.identity) else { return None };
        match parked::park(&self.app, &self.principal, &identity, flight, named).await {
            Ok(result) => Some(message::response(&self.id, &result)),
            Err(flight) => {
                self.flight = Some(flight);
                None
            }
        }
    }
}

/// A question as a request of the revisions before 2026-07-28.
fn request_of(id: &str, ask: &Ask) -> Vec<u8> {
    let params = match ask.kind {
        // 2025-11-25 wants an id of its own for what happens out of band.
        AskKind::ElicitUrl => with_member(&ask.params, "elicitationId", &format!("\"{id}\"")),
        AskKind::ElicitForm | AskKind::Sample | AskKind::ListRoots => None,
    };
    let params = params.unwrap_or_else(|| ask.params.get().as_bytes().to_vec());
    message::request(id, ask.kind.operation(), &params)
}

/// The object with a member more; `None` if it has it already.
fn with_member(raw: &RawValue, name: &str, value: &str) -> Option<Vec<u8>> {
    let members = rawjson::members(raw.get()).ok()?;
    if members.iter().any(|(known, _)| known == name) {
        return None;
    }
    let mut out = ObjectWriter::new(Vec::with_capacity(raw.get().len() + 64));
    for (known, value) in &members {
        out.member(known, value.get().as_bytes());
    }
    out.member(name, value.as_bytes());
    Some(out.finish())
}

/// Progress under the client's own token.
pub(crate) fn with_token(raw: &RawValue, token: &str) -> Option<Vec<u8>> {
    let members = rawjson::members(raw.get()).ok()?;
    let mut out = ObjectWriter::new(Vec::with_capacity(raw.get().len() + 32));
    out.member("progressToken", token.as_bytes());
    for (name, value) in members.iter().filter(|(name, _)| name != "progressToken") {
        out.member(name, value.get().as_bytes());
    }
    Some(out.finish())
}

/// An answer that is a stream. Dropping it, as hyper does when the client goes away, drops what feeds it.
pub(crate) fn event_stream(
    events: impl futures_util::Stream<Item = Result<Bytes, Infallible>> + Send + 'static,
) -> Response {
    let mut response = Response::new(Body::from_stream(events));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(ACCEL_BUFFERING, HeaderValue::from_static("no"));
    response
}

/// A message as an event.
pub(crate) fn event(mut json: Vec<u8>) -> Vec<u8> {
    on_one_line(&mut json);
    let mut out = Vec::with_capacity(json.len() + 24);
    out.extend_from_slice(b"event: message\ndata: ");
    out.extend_from_slice(&json);
    out.extend_from_slice(b"\n\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).expect("JSON")
    }

    #[test]
    fn progress_is_told_under_the_clients_token() {
        let told = with_token(&raw(r#"{"progress":1.50,"progressToken":"theirs","x":[1]}"#), "7").expect("an object");
        assert_eq!(told, br#"{"progressToken":7,"progress":1.50,"x":[1]}"#);
    }

    #[test]
    fn a_page_that_opens_has_an_id_in_2025() {
        let ask = |kind, params| Ask { kind, key: None, params: raw(params) };
        let text = request_of("abc", &ask(AskKind::ElicitUrl, r#"{"url":"https://x/"}"#));
        let expected = br#"{"jsonrpc":"2.0","id":"abc","method":"elicitation/create","params":{"url":"https://x/","elicitationId":"abc"}}"#;
        assert_eq!(text, expected);
        let kept = request_of("abc", &ask(AskKind::ElicitUrl, r#"{"url":"https://x/","elicitationId":"own"}"#));
        assert!(String::from_utf8_lossy(&kept).contains(r#""elicitationId":"own""#));
        let form = request_of("abc", &ask(AskKind::ElicitForm, r#"{"message":"m"}"#));
        assert!(!String::from_utf8_lossy(&form).contains("elicitationId"));
    }
}
