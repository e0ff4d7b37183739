//! MCP over a child process's standard streams: started on demand, restarted with back-off, ended with its whole group.

mod connection;
mod process;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use countersign_catalog::manifest::{Protocol, SELF_COMMAND, StdioTransport};
use countersign_domain::Principal;
use countersign_gate::upstream::{DispatchError, Mute};

use crate::link::{Board, Facts, Link, Probe, Question, judge_initialize, judge_probe};
use crate::rpc::{self, Answer, Era, LEGACY, notification, quote};
use crate::upstream::{ConnectError, Settings};
use connection::Connection;
use process::Command;

/// How long an answer to the probe is waited for before the handshake is tried, too. Silence is one of the ways in which
/// old servers answer what they don't know.
const PROBE_WAIT: Duration = Duration::from_secs(5);
/// The first wait after a failure; it doubles with each further one.
const BACK_OFF: Duration = Duration::from_millis(200);
/// The longest wait after a failure.
const MAX_BACK_OFF: Duration = Duration::from_secs(30);
/// A process that lived this long owes its failures nothing.
const HEALTHY: Duration = Duration::from_secs(10);
/// A call waits for a restart that is due within this time; a longer wait is refused at once.
const PATIENCE: Duration = Duration::from_secs(1);

/// A child process, whichever incarnation is alive.
pub(crate) struct StdioLink {
    this: Weak<StdioLink>,
    command: Command,
    protocol: Protocol,
    start_timeout: Duration,
    board: Arc<Board>,
    current: Mutex<Option<Arc<Connection>>>,
    starting: tokio::sync::Mutex<Failures>,
    closed: AtomicBool,
    incarnations: AtomicU64,
}

/// How often in a row it failed, and when it may be started again.
#[derive(Debug, Default)]
struct Failures {
    count: u32,
    not_before: Option<Instant>,
    last: String,
}

impl StdioLink {
    pub(crate) fn new(
        transport: &StdioTransport,
        settings: &Settings,
        board: Arc<Board>,
    ) -> Result<Arc<Self>, ConnectError> {
        let command = command(transport, settings)?;
        Ok(Arc::new_cyclic(|this| Self {
            this: this.clone(),
            command,
            protocol: transport.protocol,
            start_timeout: settings.start_timeout,
            board,
            current: Mutex::new(None),
            starting: tokio::sync::Mutex::default(),
            closed: AtomicBool::new(false),
            incarnations: AtomicU64::new(0),
        }))
    }

    fn alive(&self) -> Option<Arc<Connection>> {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.as_ref().filter(|connection| !connection.is_closed()).map(Arc::clone)
    }

    /// The living process, started if there is none. A start goes on when its caller's deadline has passed: a slow server
    /// would otherwise never come up for impatient callers.
    async fn connection(&self, deadline: Instant) -> Result<Arc<Connection>, DispatchError> {
        if let Some(connection) = self.alive() {
            return Ok(connection);
        }
        let this = self.this.upgrade().ok_or_else(|| DispatchError::NotSent("the upstream is gone".into()))?;
        let start = tokio::spawn(async move { this.start(deadline).await });
        match tokio::time::timeout_at(deadline.into(), start).await {
            Ok(Ok(started)) => started.map_err(DispatchError::NotSent),
            Ok(Err(_)) => Err(DispatchError::NotSent("its start was interrupted".into())),
            Err(_) => Err(DispatchError::NotSent("it did not start before the deadline".into())),
        }
    }

    /// One start at a time; whoever waited finds the started process.
    async fn start(self: Arc<Self>, deadline: Instant) -> Result<Arc<Connection>, String> {
        let mut failures = self.starting.lock().await;
        if let Some(connection) = self.alive() {
            return Ok(connection);
        }
        if self.closed.load(Ordering::Acquire) {
            return Err("it was shut down".to_owned());
        }
        self.account_for_the_dead(&mut failures);
        if let Some(wait) = failures.not_before.and_then(|t| t.checked_duration_since(Instant::now())) {
            if wait > PATIENCE || Instant::now() + wait >= deadline {
                return Err(format!("it is started again in {:.1} s, after: {}", wait.as_secs_f64(), failures.last));
            }
            tokio::time::sleep(wait).await;
        }
        self.board.state("starting");
        match self.launch().await {
            Ok(connection) => {
                *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&connection));
                if self.incarnations.fetch_add(1, Ordering::Relaxed) > 0 {
                    self.board.changed();
                }
                self.watch_again(&connection);
                Ok(connection)
            }
            Err(error) => {
                tracing::warn!(upstream = %self.command.upstream, %error, "the upstream did not start");
                self.board.trouble("failed", &error);
                failures.add(error.clone());
                Err(error)
            }
        }
    }

    /// A process that died counts as a failure, unless it had lived for a while.
    fn account_for_the_dead(&self, failures: &mut Failures) {
        let dead = self.current.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(dead) = dead else { return };
        if dead.started.elapsed() >= HEALTHY {
            failures.count = 0;
        }
        failures.add(dead.obituary().unwrap_or_else(|| "it ended".to_owned()));
        self.board.trouble("backing-off", &failures.last);
    }

    async fn launch(&self) -> Result<Arc<Connection>, String> {
        let deadline = Instant::now() + self.start_timeout;
        let connection = Connection::open(&self.command, Arc::clone(&self.board))?;
        // The inner deadline is later, so that a late start is told in one way.
        let agreed = agree(&connection, self.protocol, deadline + Duration::from_secs(1));
        let agreed = tokio::time::timeout_at(deadline.into(), agreed).await;
        let outcome = agreed.unwrap_or_else(|_| Err(format!("it was not ready after {:?}", self.start_timeout)));
        match outcome {
            Ok((era, facts)) => {
                connection.ready(era, facts);
                self.board.ready(era.revision());
                if facts.tells() && era == Era::Modern {
                    connection.listen();
                }
                Ok(connection)
            }
            Err(error) => {
                connection.fail(connection::Fault::Lost, &error);
                let words = connection.last_words();
                Err(if words.is_empty() { error } else { format!("{error}; its last words: {words}") })
            }
        }
    }
}

impl StdioLink {
    /// A new process of the session era knows nothing of what the one before watched; a modern one was told when it was
    /// asked to tell of changes.
    fn watch_again(&self, connection: &Connection) {
        if connection.facts().subscriptions && connection.era() != Era::Modern {
            for uri in self.board.watched() {
                connection.tell_request("resources/subscribe", &format!("\"uri\":{}", quote(&uri)));
            }
        }
    }
}

#[async_trait]
impl Link for StdioLink {
    async fn facts(&self, deadline: Instant) -> Result<Facts, DispatchError> {
        Ok(self.connection(deadline).await?.facts())
    }

    async fn ask_for(&self, _: Option<&Principal>, question: &Question<'_>) -> Result<Answer, DispatchError> {
        let connection = self.connection(question.deadline).await?;
        let answer = connection.ask(question, connection.era()).await;
        if answer.is_err() && connection.is_closed() {
            self.board.trouble("backing-off", &connection.obituary().unwrap_or_default());
        }
        answer
    }

    async fn subscribe(&self, uri: &str, deadline: Instant) -> Result<Answer, DispatchError> {
        let connection = self.connection(deadline).await?;
        if !connection.facts().subscriptions {
            return Err(DispatchError::NotSent("it does not tell of changed resources".into()));
        }
        let count = self.board.watch(uri)?;
        if connection.era() == Era::Modern {
            connection.listen();
            self.board.acknowledged(count, deadline).await?;
            return rpc::complete();
        }
        let members = format!("\"uri\":{}", quote(uri));
        let question =
            Question { method: "resources/subscribe", members: &members, ..Question::plain(&Mute, deadline) };
        connection.ask(&question, connection.era()).await
    }

    fn unsubscribe(&self, uri: &str) {
        let connection = self.current.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(connection) = connection.filter(|connection| connection.facts().subscriptions) else { return };
        match connection.era() {
            Era::Modern => connection.listen(),
            Era::Legacy(_) => {
                let members = format!("\"uri\":{}", quote(uri));
                connection.tell_request("resources/unsubscribe", &members);
            }
        }
    }

    async fn close(&self) {
        self.closed.store(true, Ordering::Release);
        // A start under way is waited for, so that no process outlives this.
        let _no_start = self.starting.lock().await;
        let connection = self.current.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(connection) = connection {
            connection.fail(connection::Fault::Lost, "it was shut down");
            connection.ended().await;
        }
        self.board.state("idle");
    }
}

impl Failures {
    fn add(&mut self, error: String) {
        self.count = self.count.saturating_add(1);
        let wait = BACK_OFF.saturating_mul(1 << (self.count - 1).min(10)).min(MAX_BACK_OFF);
        // Jitter: many nodes must not knock at the same moment.
        self.not_before = Some(Instant::now() + wait.mul_f64(0.5 + rand::random::<f64>() / 2.0));
        self.last = error;
    }
}

/// Finds the era: 2026-07-28, stdio, Backward Compatibility.
async fn agree(connection: &Connection, protocol: Protocol, deadline: Instant) -> Result<(Era, Facts), String> {
    if protocol == Protocol::V2025_11_25 {
        return initialize(connection, deadline).await;
    }
    let question = Question { method: "server/discover", ..Question::plain(&Mute, deadline) };
    let discover = connection.ask(&question, Era::Modern);
    tokio::pin!(discover);
    let answer = match tokio::time::timeout(PROBE_WAIT, &mut discover).await {
        Ok(answer) => answer,
        Err(_) if protocol == Protocol::V2026_07_28 => discover.await,
        // Silent so far: an old server, or one that is slow to start. Whichever answer comes first decides.
        Err(_) => tokio::select! {
            answer = &mut discover => answer,
            agreed = initialize(connection, deadline) => return agreed,
        },
    };
    match judge_probe(&answer.map_err(|e| e.to_string())?) {
        Probe::Modern(facts) => Ok((Era::Modern, facts)),
        Probe::Again => Err("it refuses a revision that it says it speaks".to_owned()),
        Probe::Legacy if protocol == Protocol::V2026_07_28 => Err("it does not speak 2026-07-28".to_owned()),
        Probe::Legacy => initialize(connection, deadline).await,
        Probe::Incompatible(why) => Err(why),
    }
}

async fn initialize(connection: &Connection, deadline: Instant) -> Result<(Era, Facts), String> {
    let members = rpc::initialize();
    let question = Question { method: "initialize", members: &members, ..Question::plain(&Mute, deadline) };
    let answer = connection.ask(&question, Era::Legacy(LEGACY[0])).await;
    let (revision, facts) = judge_initialize(answer.map_err(|e| e.to_string())?)?;
    connection.tell(notification("notifications/initialized", ""));
    Ok((Era::Legacy(revision), facts))
}

fn command(transport: &StdioTransport, settings: &Settings) -> Result<Command, ConnectError> {
    let problem = |problem: String| ConnectError::Manifest { upstream: settings.name.clone(), problem };
    let program = if transport.command == SELF_COMMAND {
        std::env::current_exe().map_err(|e| problem(format!("the running executable cannot be found: {e}")))?
    } else {
        transport.command.clone().into()
    };
    let mut env = BTreeMap::new();
    for (name, value) in &transport.env {
        let value = value.resolve(|variable| std::env::var(variable).ok()).map_err(|e| problem(e.to_string()))?;
        if value.contains('\0') {
            return Err(problem(format!("the value of {name} holds a NUL character")));
        }
        env.insert(name.clone(), value);
    }
    let (args, cwd) = (transport.args.clone(), transport.cwd.clone());
    Ok(Command { upstream: settings.name.clone(), program, args, env, cwd })
}
