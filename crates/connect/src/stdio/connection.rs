//! One life of a child process: many requests at once, told apart by number.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use countersign_domain::UpstreamName;
use countersign_gate::upstream::{DispatchError, Mute};
use serde_json::value::RawValue;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWriteExt, BufReader};
use tokio::process::{ChildStderr, ChildStdin, ChildStdout};
use tokio::sync::{mpsc, oneshot, watch};

use super::process::{Command, Process};
use crate::link::{Board, Facts, MAX_MESSAGE, Question};
use crate::rpc::{self, Answer, Era, Incoming};
use crate::talk::{self, Aside, Floor, Talk};

/// Messages that wait for the child to read them.
const QUEUE: usize = 1_024;
/// Lines that are not messages, after which a child is given up.
const MAX_GARBAGE: u32 = 16;
/// Longest line of standard error that is logged.
const MAX_LOG_LINE: usize = 2_000;
/// Lines of standard error a second, and how many may come at once.
const LOG_RATE: f64 = 10.0;
const LOG_BURST: f64 = 50.0;

const QUEUED: u8 = 0;
const WRITING: u8 = 1;
const WITHDRAWN: u8 = 2;

/// What is known of the calls in flight when a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The process died or closed its output.
    Lost,
    /// It wrote something that is not the protocol.
    Protocol,
}

type Reply = oneshot::Sender<Result<Answer, DispatchError>>;

/// One life of a child process.
pub(crate) struct Connection {
    pub(crate) started: Instant,
    upstream: UpstreamName,
    board: Arc<Board>,
    era: OnceLock<(Era, Facts)>,
    next_id: AtomicU64,
    floor: Arc<Floor>,
    /// The subscription in force, and the count of what is watched that it covers.
    listening: Mutex<Option<(u64, u64)>>,
    state: Mutex<State>,
    outbox: mpsc::Sender<Outgoing>,
    last_words: Mutex<String>,
    garbage: AtomicU64,
    /// Turns true when the process is gone and reaped.
    gone: watch::Receiver<bool>,
    end: watch::Sender<bool>,
}

#[derive(Default)]
struct State {
    pending: HashMap<u64, Reply>,
    obituary: Option<String>,
}

struct Outgoing {
    bytes: Vec<u8>,
    progress: Arc<AtomicU8>,
}

impl Connection {
    /// Starts the process and the tasks that serve its streams.
    pub(crate) fn open(command: &Command, board: Arc<Board>) -> Result<Arc<Self>, String> {
        let running = command.spawn()?;
        let (outbox, inbox) = mpsc::channel(QUEUE);
        let (gone_sender, gone) = watch::channel(false);
        let connection = Arc::new(Self {
            started: Instant::now(),
            upstream: command.upstream.clone(),
            board,
            era: OnceLock::new(),
            next_id: AtomicU64::new(1),
            floor: Arc::default(),
            listening: Mutex::default(),
            state: Mutex::default(),
            outbox,
            last_words: Mutex::default(),
            garbage: AtomicU64::new(0),
            gone,
            end: watch::Sender::new(false),
        });
        let writer = tokio::spawn(write(Arc::clone(&connection), running.stdin, inbox));
        let reader = tokio::spawn(read(Arc::clone(&connection), running.stdout));
        let logger = tokio::spawn(log(Arc::clone(&connection), running.stderr));
        tokio::spawn(supervise(Arc::clone(&connection), running.process, writer, reader, logger, gone_sender));
        Ok(connection)
    }

    /// The handshake is over.
    pub(crate) fn ready(&self, era: Era, facts: Facts) {
        let _ = self.era.set((era, facts));
    }

    pub(crate) fn era(&self) -> Era {
        self.era.get().map_or(Era::Modern, |(era, _)| *era)
    }

    pub(crate) fn facts(&self) -> Facts {
        self.era.get().map(|(_, facts)| *facts).unwrap_or_default()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.state().obituary.is_some()
    }

    /// Why it ended, if it did.
    pub(crate) fn obituary(&self) -> Option<String> {
        self.state().obituary.clone()
    }

    /// The last line on standard error.
    pub(crate) fn last_words(&self) -> String {
        self.last_words.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until the process is gone and reaped.
    pub(crate) async fn ended(&self) {
        let _ = self.gone.clone().wait_for(|gone| *gone).await;
    }

    /// Asks, and waits for the answer until the deadline; what is said and asked meanwhile goes through the exchange.
    pub(crate) async fn ask(&self, question: &Question<'_>, era: Era) -> Result<Answer, DispatchError> {
        let deadline = question.deadline;
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let meta = rpc::meta(id, era, question.exchange);
        let bytes = rpc::request(id, question.method, question.members, meta.as_deref());
        let (reply, mut answer) = oneshot::channel();
        {
            let mut state = self.state();
            if let Some(obituary) = &state.obituary {
                return Err(DispatchError::NotSent(obituary.clone()));
            }
            state.pending.insert(id, reply);
        }
        let place = question.is_call().then(|| self.floor.enter(id));
        let mut talk = Talk::new(question.exchange, place, |reply| self.tell(reply));
        let progress = Arc::new(AtomicU8::new(QUEUED));
        let mut asked = Asked { connection: self, id, progress: Arc::clone(&progress), open: true };
        let queued = self.outbox.send(Outgoing { bytes, progress });
        match tokio::time::timeout_at(deadline.into(), queued).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(asked.settle(DispatchError::NotSent("its input is closed".into()))),
            Err(_) => return Err(asked.settle(DispatchError::NotSent("it did not read its input".into()))),
        }
        match talk.during(tokio::time::timeout_at(deadline.into(), &mut answer)).await {
            Ok(Ok(Err(error))) => Err(asked.settle(error)),
            Ok(Ok(Ok(answer))) => {
                asked.open = false;
                Ok(answer)
            }
            Ok(Err(_)) => Err(asked.settle(DispatchError::Lost("it ended".into()))),
            // Dropping `asked` withdraws what was not written, and tells the upstream where it was.
            Err(_) if asked.withdraw() => Err(DispatchError::NotSent("it did not read its input".into())),
            Err(_) => Err(DispatchError::Timeout),
        }
    }

    /// Sends something that is not answered; dropped where the queue is full.
    pub(crate) fn tell(&self, bytes: Vec<u8>) {
        let _ = self.outbox.try_send(Outgoing { bytes, progress: Arc::new(AtomicU8::new(QUEUED)) });
    }

    /// Sends a request whose answer nobody waits for, and gives its number.
    pub(crate) fn tell_request(&self, method: &str, members: &str) -> u64 {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let meta = rpc::meta(id, self.era(), &Mute);
        self.tell(rpc::request(id, method, members, meta.as_deref()));
        id
    }

    /// Modern era: subscribes to all that the upstream can tell, in place of an earlier subscription.
    pub(crate) fn listen(&self) {
        let mut listening = self.listening.lock().unwrap_or_else(PoisonError::into_inner);
        let count = *self.board.wanted().borrow();
        let before = listening.take();
        let id = self.tell_request("subscriptions/listen", &self.board.filter(&self.facts()));
        *listening = Some((id, count));
        if let Some((before, _)) = before {
            self.tell(rpc::notification("notifications/cancelled", &format!("\"requestId\":{before}")));
        }
    }

    /// Ends the connection and every call in flight; the process follows.
    pub(crate) fn fail(&self, fault: Fault, reason: &str) {
        let mut state = self.state();
        state.obituary.get_or_insert_with(|| reason.to_owned());
        self.fail_pending(state, fault, reason);
        self.end.send_replace(true);
    }

    fn fail_pending(&self, mut state: MutexGuard<'_, State>, fault: Fault, reason: &str) {
        let pending = std::mem::take(&mut state.pending);
        drop(state);
        for (_, reply) in pending {
            let _ = reply.send(Err(match fault {
                Fault::Lost => DispatchError::Lost(reason.to_owned()),
                Fault::Protocol => DispatchError::Protocol(reason.to_owned()),
            }));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn receive(&self, line: &[u8]) {
        match rpc::parse(line) {
            Ok(Incoming::Response(id, answer)) => {
                // An answer that nobody waits for any more (cancelled, timed out, a subscription's) is dropped.
                let reply = self.state().pending.remove(&id);
                if let Some(reply) = reply {
                    let _ = reply.send(Ok(answer));
                }
            }
            Ok(Incoming::Request(id, method, params)) => {
                tracing::debug!(upstream = %self.upstream, method = %rpc::shorten(&method, 80), "the upstream asks");
                // Modern servers may not ask, and modern clients may not answer.
                if self.era.get().is_none_or(|(era, _)| *era != Era::Modern) {
                    self.asked(id, &method, params);
                }
            }
            Ok(Incoming::Notification(method, params)) => self.told(&method, params),
            Ok(Incoming::Unrelated(error)) => {
                let error = rpc::shorten(error.get(), 200);
                tracing::warn!(upstream = %self.upstream, %error, "the upstream reports an error");
            }
            Err(why) => self.garbage(line, &why),
        }
    }

    fn asked(&self, id: &RawValue, method: &str, params: Option<&RawValue>) {
        let Some(ask) = talk::question(method, None, params) else { return self.tell(rpc::refusal(id, method)) };
        if self.floor.hand(None, Aside::Question(id.to_owned(), ask)).is_err() {
            self.tell(rpc::error_response(id, rpc::INTERNAL_ERROR, rpc::NOT_ATTRIBUTABLE));
        }
    }

    fn told(&self, method: &str, params: Option<&RawValue>) {
        if method == "notifications/subscriptions/acknowledged" {
            let listening = *self.listening.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((id, count)) = listening
                && params.and_then(talk::subscription_of) == Some(id)
            {
                self.board.acknowledge(count);
            }
            return;
        }
        if method == talk::ELICITED && params.is_some_and(|params| self.floor.hand_elicited(params)) {
            return;
        }
        match talk::notice(method, params) {
            // What no call waits for is dropped.
            Some((call, notice)) => drop(self.floor.hand(call, Aside::Notice(notice))),
            None => self.board.told(method, params),
        }
    }

    /// What cannot be read may have been any call's answer, so all calls in flight end here. Before the handshake is over
    /// nothing is lost yet: some servers greet on standard output.
    fn garbage(&self, line: &[u8], why: &str) {
        let shown = rpc::shorten(&String::from_utf8_lossy(line), 200);
        tracing::warn!(upstream = %self.upstream, line = %shown, "the upstream wrote something that is not a message");
        let count = self.garbage.fetch_add(1, Ordering::Relaxed) + 1;
        if count >= u64::from(MAX_GARBAGE) {
            self.fail(Fault::Protocol, &format!("it wrote {count} lines that are not messages"));
        } else if self.era.get().is_some() {
            self.fail_pending(self.state(), Fault::Protocol, why);
        }
    }
}

/// A request under way. Dropped early, it is withdrawn or cancelled.
struct Asked<'a> {
    connection: &'a Connection,
    id: u64,
    progress: Arc<AtomicU8>,
    open: bool,
}

impl Asked<'_> {
    /// The request has ended with this error; what is known to be unwritten was certainly not sent.
    fn settle(&mut self, error: DispatchError) -> DispatchError {
        let withdrawn = self.withdraw();
        self.open = false;
        self.connection.state().pending.remove(&self.id);
        match error {
            DispatchError::Lost(why) | DispatchError::Protocol(why) if withdrawn => DispatchError::NotSent(why),
            other => other,
        }
    }

    /// Whether the writer had not taken it yet; it never will.
    fn withdraw(&self) -> bool {
        let taken = self.progress.compare_exchange(QUEUED, WITHDRAWN, Ordering::AcqRel, Ordering::Acquire);
        taken.is_ok() || taken == Err(WITHDRAWN)
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if !self.open {
            return;
        }
        self.connection.state().pending.remove(&self.id);
        if !self.withdraw() {
            let members = format!("\"requestId\":{},\"reason\":\"no longer waited for\"", self.id);
            self.connection.tell(rpc::notification("notifications/cancelled", &members));
        }
    }
}

/// Writes whole lines, several at once where several wait.
async fn write(connection: Arc<Connection>, mut stdin: ChildStdin, mut inbox: mpsc::Receiver<Outgoing>) {
    let mut batch = Vec::new();
    while let Some(first) = inbox.recv().await {
        let mut next = Some(first);
        while let Some(outgoing) = next {
            let take = outgoing.progress.compare_exchange(QUEUED, WRITING, Ordering::AcqRel, Ordering::Acquire);
            if take.is_ok() {
                batch.extend_from_slice(&outgoing.bytes);
                batch.push(b'\n');
            }
            next = if batch.len() < 64 << 10 { inbox.try_recv().ok() } else { None };
        }
        if let Err(error) = stdin.write_all(&batch).await {
            // The reader sees the end of output, with the reason; this only makes sure that there is an end.
            tracing::debug!(upstream = %connection.upstream, %error, "the upstream's input is closed");
            return;
        }
        batch.clear();
    }
}

async fn read(connection: Arc<Connection>, stdout: ChildStdout) {
    let mut lines = Lines::new(stdout, MAX_MESSAGE / 2);
    loop {
        match lines.next().await {
            Ok(Some(line)) if line.trim_ascii().is_empty() => {}
            Ok(Some(line)) => connection.receive(line),
            Ok(None) => return,
            Err(why) => return connection.fail(Fault::Protocol, why),
        }
    }
}

/// Standard error goes to the log: bounded, made visible, and not faster than anyone can read.
async fn log(connection: Arc<Connection>, stderr: ChildStderr) {
    let mut lines = Lines::new(stderr, 64 << 10);
    let (mut tokens, mut last, mut dropped) = (LOG_BURST, Instant::now(), 0_u64);
    while let Ok(Some(line)) = lines.next().await {
        let text = rpc::shorten(String::from_utf8_lossy(line).trim_end(), MAX_LOG_LINE);
        if text.is_empty() {
            continue;
        }
        tokens = (tokens + last.elapsed().as_secs_f64() * LOG_RATE).min(LOG_BURST);
        last = Instant::now();
        if tokens >= 1.0 {
            tokens -= 1.0;
            tracing::info!(target: "countersign::upstream", upstream = %connection.upstream, dropped, "{text}");
            dropped = 0;
        } else {
            dropped += 1;
        }
        *connection.last_words.lock().unwrap_or_else(PoisonError::into_inner) = text.chars().take(200).collect();
    }
}

/// Sees the process to its end: by its own doing, or because the connection failed.
async fn supervise(
    connection: Arc<Connection>,
    process: Process,
    writer: tokio::task::JoinHandle<()>,
    mut reader: tokio::task::JoinHandle<()>,
    logger: tokio::task::JoinHandle<()>,
    gone: watch::Sender<bool>,
) {
    let mut end = connection.end.subscribe();
    tokio::select! {
        _ = &mut reader => {}
        _ = end.wait_for(|end| *end) => {}
    }
    // No further call may be queued; those in flight are kept until it is known how the process ended.
    connection.state().obituary.get_or_insert_with(|| "it ended".to_owned());
    // Closing its input is the first and friendliest signal.
    writer.abort();
    let _ = writer.await;
    let status = process.end().await;
    reader.abort();
    // What it said last is worth a moment, though a grandchild may hold the stream open.
    let _ = tokio::time::timeout(Duration::from_millis(100), logger).await;
    let words = connection.last_words();
    let obituary = if words.is_empty() { status } else { format!("{status}; its last words: {words}") };
    {
        let mut state = connection.state();
        if state.obituary.as_deref() == Some("it ended") {
            tracing::warn!(upstream = %connection.upstream, "{obituary}");
            state.obituary = Some(obituary.clone());
        }
        connection.fail_pending(state, Fault::Lost, &obituary);
    }
    gone.send_replace(true);
}

/// Lines of at most so many bytes.
struct Lines<R> {
    input: BufReader<R>,
    line: Vec<u8>,
    limit: usize,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    fn new(input: R, limit: usize) -> Self {
        Self { input: BufReader::with_capacity(64 << 10, input), line: Vec::new(), limit }
    }

    /// The next line without its line feed; `None` at the end, where an unfinished line is dropped.
    async fn next(&mut self) -> Result<Option<&[u8]>, &'static str> {
        self.line.clear();
        loop {
            let available = self.input.fill_buf().await.map_err(|_| "its output cannot be read")?;
            if available.is_empty() {
                return Ok(None);
            }
            let end = available.iter().position(|&b| b == b'\n');
            let taken = end.unwrap_or(available.len());
            if self.line.len() + taken > self.limit {
                return Err("it wrote a line that is too long");
            }
            self.line.extend_from_slice(&available[..taken]);
            self.input.consume(end.map_or(taken, |at| at + 1));
            if end.is_some() {
                return Ok(Some(&self.line));
            }
        }
    }
}
