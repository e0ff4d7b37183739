//! The answer to one POST: a JSON message, or a stream of events with everything that is said and asked before the answer.

use std::time::{Duration, Instant};

use countersign_egress::Response;
use countersign_gate::upstream::{DispatchError, Notice};
use http::header::{ACCEPT, CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::{DELIVERY, HttpLink, Posted, Session, dispatch_error};
use crate::link::MAX_MESSAGE;
use crate::rpc::{self, Answer, Era, Incoming};
use crate::sse::Parser;
use crate::talk::{self, Aside, Talk};

/// Longest error body that is read.
const MAX_ERROR_BODY: usize = 64 << 10;
/// Most bytes of one call's stream.
const MAX_STREAM: usize = 64 << 20;
/// How often a stream that ended before its answer is gone on with.
const MAX_RESUMES: u32 = 5;
/// How long to wait before that, where the server doesn't say.
const RESUME_AFTER: Duration = Duration::from_secs(1);

pub(super) const LAST_EVENT: HeaderName = HeaderName::from_static("last-event-id");

impl HttpLink {
    pub(super) async fn read(
        &self,
        session: &Session,
        response: Response,
        id: u64,
        deadline: Instant,
        talk: &mut Talk<'_, impl Fn(Vec<u8>)>,
    ) -> Result<Posted, DispatchError> {
        let status = response.status();
        check_encoding(&response)?;
        if !status.is_success() {
            let body = response.bytes(MAX_ERROR_BODY, deadline).await.unwrap_or_default();
            let error = match rpc::parse(&body) {
                Ok(Incoming::Response(_, Answer::Error(error))) => Some(error),
                Ok(Incoming::Unrelated(error)) => Some(error.to_owned()),
                _ => None,
            };
            return Ok(Posted::Refused(status, error));
        }
        match media_type(response.headers()) {
            Some("application/json") => {
                let body = talk.during(response.bytes(MAX_MESSAGE, deadline)).await.map_err(dispatch_error)?;
                match rpc::parse(&body) {
                    Ok(Incoming::Response(number, answer)) if number == id => Ok(Posted::Answered(answer)),
                    Ok(Incoming::Unrelated(error)) => Ok(Posted::Answered(Answer::Error(error.to_owned()))),
                    Ok(_) => Err(DispatchError::Protocol("it answered another question".into())),
                    Err(why) => Err(DispatchError::Protocol(why)),
                }
            }
            Some("text/event-stream") => {
                self.read_stream(session, response, id, deadline, talk).await.map(Posted::Answered)
            }
            other => {
                let shown = rpc::shorten(other.unwrap_or("no content type"), 80);
                Err(DispatchError::Protocol(format!("it answered {status} with {shown}")))
            }
        }
    }

    async fn read_stream(
        &self,
        session: &Session,
        mut response: Response,
        id: u64,
        deadline: Instant,
        talk: &mut Talk<'_, impl Fn(Vec<u8>)>,
    ) -> Result<Answer, DispatchError> {
        let mut parser = Parser::new(MAX_MESSAGE);
        let (mut bytes, mut resumes) = (0, 0);
        loop {
            let ended = match talk.during(response.chunk(deadline)).await {
                Ok(Some(chunk)) => {
                    bytes += chunk.len();
                    if bytes > MAX_STREAM {
                        return Err(DispatchError::Protocol(format!("its stream is longer than {MAX_STREAM} bytes")));
                    }
                    let events = parser.feed(&chunk);
                    for event in events.map_err(|_| DispatchError::Protocol("its event is too long".into()))? {
                        if let Some(answer) = self.event(session, &event, id, talk)? {
                            return Ok(answer);
                        }
                    }
                    continue;
                }
                Ok(None) => DispatchError::Lost("its stream ended without an answer".into()),
                Err(error) => dispatch_error(error),
            };
            // Only the session era goes on with a stream (2025-11-25, Resumability and Redelivery); the request is not sent again.
            if session.era == Era::Modern || !matches!(ended, DispatchError::Lost(_)) || resumes >= MAX_RESUMES {
                return Err(ended);
            }
            resumes += 1;
            let wait = parser.retry().unwrap_or(RESUME_AFTER);
            response = match parser.last_id() {
                Some(last) => talk.during(self.resume(session, last, wait, deadline)).await.ok_or(ended)?,
                None => return Err(ended),
            };
            parser = parser.resumed();
        }
    }

    /// What one event of a call's stream is; the answer, if it is that.
    fn event(
        &self,
        session: &Session,
        event: &[u8],
        id: u64,
        talk: &mut Talk<'_, impl Fn(Vec<u8>)>,
    ) -> Result<Option<Answer>, DispatchError> {
        if event.is_empty() {
            return Ok(None);
        }
        match rpc::parse(event).map_err(DispatchError::Protocol)? {
            Incoming::Response(number, answer) if number == id => return Ok(Some(answer)),
            // An answer to something else: nobody asked for it here.
            Incoming::Response(..) => {}
            Incoming::Unrelated(error) => return Ok(Some(Answer::Error(error.to_owned()))),
            // At once: the answer may come next.
            Incoming::Notification(method, Some(params)) if method == talk::ELICITED && talk.has_led(params) => {
                talk.hear(Aside::Notice(Notice::Elicited(params.to_owned())));
            }
            Incoming::Notification(method, Some(params))
                if method == talk::ELICITED && session.floor.hand_elicited(params) => {}
            Incoming::Notification(method, params) => match talk::notice(&method, params) {
                Some((Some(token), _)) if token != id => {}
                Some((_, notice)) => talk.hear(Aside::Notice(notice)),
                None => self.board.told(&method, params),
            },
            // Modern servers may not ask, and modern clients may not answer.
            Incoming::Request(..) if session.era == Era::Modern => {}
            Incoming::Request(asked, method, params) => match talk::question(&method, None, params) {
                Some(ask) => talk.hear_own(Aside::Question(asked.to_owned(), ask)),
                None => talk.refuse(asked, &method),
            },
        }
        Ok(None)
    }

    /// Sends our answer to what the upstream asked.
    pub(super) fn deliver(&self, session: &Session, reply: Vec<u8>) {
        self.courtesy(session, reply, DELIVERY);
    }

    /// The rest of a stream after the event of this id.
    async fn resume(&self, session: &Session, last: &str, wait: Duration, deadline: Instant) -> Option<Response> {
        let again = Instant::now() + wait;
        if again >= deadline {
            return None;
        }
        tokio::time::sleep_until(again.into()).await;
        let mut headers = self.session_headers(session);
        headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        headers.remove(CONTENT_TYPE);
        headers.insert(LAST_EVENT, HeaderValue::from_str(last).ok()?);
        let response = self.send(session.caller.as_ref(), Method::GET, headers, Vec::new(), deadline).await.ok()?;
        let is_stream = response.status().is_success() && media_type(response.headers()) == Some("text/event-stream");
        (is_stream && check_encoding(&response).is_ok()).then_some(response)
    }
}

/// Nothing is decompressed, and nothing compressed was asked for.
pub(super) fn check_encoding(response: &Response) -> Result<(), DispatchError> {
    match response.headers().get(CONTENT_ENCODING) {
        Some(encoding) if encoding.as_bytes() != b"identity" => {
            Err(DispatchError::Protocol("its answer is compressed, which was not asked for".into()))
        }
        _ => Ok(()),
    }
}

pub(crate) fn media_type(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    Some(value.split(';').next().unwrap_or(value).trim())
}
