//! Statements of a group that are on their way: sent one behind the other, answered later.
//!
//! The server runs a connection's statements in the order in which they were sent, so that whoever asks next sees what was
//! sent before. What failed on the way is found at the next answer, and before the commit at the latest: a transaction in
//! which a statement failed is rolled back by the server whatever comes after it.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use countersign_ledger::contract::StoreError;
use futures_util::StreamExt as _;
use futures_util::future::LocalBoxFuture;
use futures_util::stream::FuturesOrdered;

use super::rows::Result;
use super::session::Session;

/// What was sent on a session and not yet answered.
pub(super) struct Sent<'a> {
    session: &'a Session,
    waiting: FuturesOrdered<LocalBoxFuture<'a, Result<()>>>,
    failed: Option<StoreError>,
}

impl<'a> Sent<'a> {
    pub(super) fn on(session: &'a Session) -> Self {
        Self { session, waiting: FuturesOrdered::new(), failed: None }
    }

    /// Sends statements without waiting for their answers. All that the future sends must go out when it is first polled:
    /// the statements are prepared, and none waits for another's answer. What it does with the answers must not fail.
    pub(super) fn send(&mut self, statements: impl Future<Output = Result<()>> + 'a) {
        let mut statements: LocalBoxFuture<'a, Result<()>> = Box::pin(statements);
        match statements.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => self.fail(error),
            Poll::Pending => self.waiting.push_back(statements),
        }
    }

    /// Waits for the answer to something that is asked now. The first statement that failed is the one that is reported.
    pub(super) fn wait<T>(&mut self, asked: impl Future<Output = Result<T>>) -> Result<T> {
        let session = self.session;
        let mut asked = pin!(asked);
        // Answers come in order, and one that nobody takes holds up those behind it.
        let answered = session.wait(poll_fn(|context| {
            self.poll(context);
            asked.as_mut().poll(context)
        }));
        match answered {
            Ok(_) | Err(_) if self.failed.is_some() => Err(self.take_failure()),
            // A session that was given up on has nothing more to say.
            Err(error) if !session.is_usable() => Err(error),
            Err(error) => Err(self.all().err().unwrap_or(error)),
            Ok(value) => Ok(value),
        }
    }

    /// Waits for all answers.
    pub(super) fn all(&mut self) -> Result<()> {
        let session = self.session;
        let waited = session.wait(poll_fn(|context| {
            self.poll(context);
            if self.waiting.is_empty() { Poll::Ready(Ok(())) } else { Poll::Pending }
        }));
        if self.failed.is_some() { Err(self.take_failure()) } else { waited }
    }

    /// Whether something that was sent is known to have failed.
    pub(super) fn check(&mut self) -> Result<()> {
        self.poll(&mut Context::from_waker(Waker::noop()));
        if self.failed.is_some() { Err(self.take_failure()) } else { Ok(()) }
    }

    /// Forgets what nobody needs to know any more.
    pub(super) fn clear(&mut self) {
        self.waiting = FuturesOrdered::new();
    }

    fn poll(&mut self, context: &mut Context<'_>) {
        while let Poll::Ready(Some(answer)) = self.waiting.poll_next_unpin(context) {
            if let Err(error) = answer {
                self.fail(error);
            }
        }
    }

    fn fail(&mut self, error: StoreError) {
        self.failed.get_or_insert(error);
    }

    fn take_failure(&mut self) -> StoreError {
        self.failed.take().unwrap_or_else(|| StoreError::Database("a statement failed".into()))
    }
}
