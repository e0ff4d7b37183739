//! One connection: opened with everything that durability asks for, and waited on with a deadline.
//!
//! The driver is asynchronous and the contract is not. Sockets are served by one thread of the store's own runtime;
//! callers wait by parking, which works on any thread, also on one that belongs to another runtime.

use std::collections::HashMap;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use countersign_ledger::contract::StoreError;
use tokio::runtime::Runtime;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Statement};

use super::address::{Address, CONNECT};

/// How long anything but a commit may take. The server's own limits are below it.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);
/// What a session asks of the server. A node that vanishes in the middle of a group holds the head's lock for as long as
/// the server lets it: five seconds.
const LIMITS: &str = "SET idle_in_transaction_session_timeout = '5s'; SET lock_timeout = '10s'; \
     SET statement_timeout = '12s'; SET client_min_messages = warning; SET TimeZone = 'UTC'";
/// The oldest server that is supported.
const OLDEST: i32 = 150_000;

/// The store's runtime. Dropping it does not wait, so that it may happen on any thread.
pub(super) struct Io(Option<Runtime>);

impl Io {
    pub(super) fn start() -> Result<Arc<Self>, StoreError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("postgres-io")
            .enable_all()
            .build();
        runtime.map(|r| Arc::new(Self(Some(r)))).map_err(|e| StoreError::Database(format!("a runtime: {e}")))
    }

    pub(super) fn spawn<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Result<tokio::task::JoinHandle<T>, StoreError> {
        let runtime = self.0.as_ref().ok_or_else(|| StoreError::Database("the store is closed".into()))?;
        Ok(runtime.spawn(future))
    }
}

impl Drop for Io {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Waits on this thread; `None` when the time is over.
fn wait<F: Future>(future: F, patience: Duration) -> Option<F::Output> {
    let deadline = Instant::now() + patience;
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return Some(value);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        std::thread::park_timeout(left);
    }
}

/// A connection.
pub(super) struct Session {
    client: Client,
    statements: Mutex<HashMap<String, Statement>>,
    broken: AtomicBool,
    /// Position of the next leaf after those that were last seen here.
    seen: AtomicI64,
    /// Whether every node that could speak against this incarnation has spoken.
    settled: AtomicBool,
    /// Which start of which server this is.
    pub(super) incarnation: String,
}

impl Session {
    /// Connects and checks that the server keeps what it commits.
    pub(super) fn open(io: &Io, address: &Address, read_only: bool) -> Result<Self, StoreError> {
        let address = address.clone();
        let opening = io.spawn(async move { connect(&address, read_only).await })?;
        match wait(opening, CONNECT * 2) {
            Some(opened) => opened.unwrap_or_else(|e| Err(StoreError::Database(format!("connecting: {e}")))),
            None => Err(StoreError::Database("connecting took too long".into())),
        }
    }

    /// The same, where waiting is not by parking.
    pub(super) async fn open_async(address: &Address) -> Result<Self, StoreError> {
        connect(address, false).await
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Whether it can still be used.
    pub(super) fn is_usable(&self) -> bool {
        !self.client.is_closed() && !self.broken.load(Ordering::Relaxed)
    }

    /// From which position on leaves are news.
    pub(super) fn seen(&self) -> i64 {
        self.seen.load(Ordering::Relaxed)
    }

    pub(super) fn set_seen(&self, position: i64) {
        self.seen.store(position, Ordering::Relaxed);
    }

    pub(super) fn is_settled(&self) -> bool {
        self.settled.load(Ordering::Relaxed)
    }

    pub(super) fn settle(&self) {
        self.settled.store(true, Ordering::Relaxed);
    }

    /// Runs queries to their end. One that takes too long leaves the session unusable: its answers could be taken for
    /// those of the next query.
    pub(super) fn wait<T>(&self, future: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        self.wait_for(PATIENCE, future)
    }

    /// The same, with less patience.
    pub(super) fn wait_for<T>(
        &self,
        patience: Duration,
        future: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        wait(future, patience).unwrap_or_else(|| {
            self.broken.store(true, Ordering::Relaxed);
            Err(StoreError::Database(format!("no answer within {} s", patience.as_secs())))
        })
    }

    /// Prepares statements ahead, all at once: one that is prepared is sent the moment its future is first polled, so that
    /// statements run in the order in which they are written down.
    pub(super) async fn prepare_all(&self, all: &[&'static str]) -> Result<(), StoreError> {
        let prepared = futures_util::future::join_all(all.iter().map(|sql| self.client.prepare(sql))).await;
        let mut statements = self.statements.lock().unwrap_or_else(PoisonError::into_inner);
        for (sql, statement) in all.iter().zip(prepared) {
            statements.insert((*sql).to_owned(), statement.map_err(error)?);
        }
        Ok(())
    }

    /// A statement of ours, prepared once. There are some tens of them: those of filters differ by which parts are given.
    pub(super) async fn statement(&self, sql: &str) -> Result<Statement, StoreError> {
        if let Some(statement) = self.statements.lock().unwrap_or_else(PoisonError::into_inner).get(sql) {
            return Ok(statement.clone());
        }
        let statement = self.client.prepare(sql).await.map_err(error)?;
        self.statements.lock().unwrap_or_else(PoisonError::into_inner).insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }
}

async fn connect(address: &Address, read_only: bool) -> Result<Session, StoreError> {
    let (client, connection) = tokio::time::timeout(CONNECT, address.config.connect(address.tls.clone()))
        .await
        .map_err(|_| StoreError::Database("the database does not answer".into()))?
        .map_err(error)?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a database connection ended");
        }
    });
    let check = check(&client, read_only);
    let incarnation = tokio::time::timeout(CONNECT, check)
        .await
        .map_err(|_| StoreError::Database("the database does not answer".into()))??;
    Ok(Session {
        client,
        statements: Mutex::default(),
        broken: false.into(),
        settled: false.into(),
        seen: i64::MAX.into(),
        incarnation,
    })
}

/// Refuses a server that forgets commits, and makes this session's durable whatever the defaults become later.
async fn check(client: &Client, read_only: bool) -> Result<String, StoreError> {
    client.batch_execute(LIMITS).await.map_err(error)?;
    let sql = "SELECT current_setting('server_version_num')::int, current_setting('fsync'), \
               current_setting('full_page_writes'), current_setting('synchronous_commit'), \
               current_setting('server_encoding'), \
               (SELECT system_identifier FROM pg_control_system())::text || '/' || \
               (SELECT timeline_id FROM pg_control_checkpoint())::text || '/' || \
               (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint::text";
    let row = client.query_one(sql, &[]).await.map_err(error)?;
    let text = |column| row.try_get::<_, String>(column).map_err(error);
    let version: i32 = row.try_get(0).map_err(error)?;
    let refuse = |what: String| Err(StoreError::Unsafe(what));
    if version < OLDEST {
        return refuse(format!("Postgres {} is too old; 15 is the oldest that is supported", version / 10_000));
    }
    for (column, name) in [(1, "fsync"), (2, "full_page_writes"), (3, "synchronous_commit")] {
        if text(column)? == "off" {
            return refuse(format!("{name} is off on the server: it would forget what it committed; set {name} = on"));
        }
    }
    if text(4)? != "UTF8" {
        return refuse(format!("the database's encoding is {}; create it with UTF8", text(4)?));
    }
    let mut settings = String::new();
    // `remote_apply` is more than `on`; everything else is less.
    if text(3)? != "remote_apply" {
        settings.push_str("SET synchronous_commit = on;");
    }
    if read_only {
        settings.push_str("SET default_transaction_read_only = on;");
    }
    client.batch_execute(&settings).await.map_err(error)?;
    text(5)
}

/// What the driver's error means to the ledger.
pub(super) fn error(error: tokio_postgres::Error) -> StoreError {
    let text = match error.as_db_error() {
        Some(db) => format!("{} ({})", db.message(), db.code().code()),
        None => match std::error::Error::source(&error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        },
    };
    match error.code() {
        Some(&SqlState::DISK_FULL) => StoreError::Full(text),
        // Integrity and data exceptions: what was to be written cannot be, whoever asks and however often.
        Some(code) if code.code().starts_with("22") || code.code().starts_with("23") => StoreError::Corrupt(text),
        Some(_) | None => StoreError::Database(text),
    }
}
