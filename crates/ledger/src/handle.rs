//! The ledger's handle: cheap to clone, usable from any task.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use countersign_domain::histogram::Histogram;
use countersign_domain::{Millis, PreparedEvent};
use countersign_proof::commitment::Salt;
use countersign_proof::digest::Digest;
use countersign_proof::merkle::Hash;
use countersign_proof::receipt::Receipt;
use tokio::sync::{Semaphore, oneshot};
use uuid::Uuid;

use crate::contract::{Head, Reader, Store, StoreError};
use crate::leaf::PublicEntry;
use crate::opening::{self, OpenError, Opened};
use crate::receipts::{self, Disclose, Inclusion, ReceiptError};
use crate::sequencer::Job;
use crate::state::{Conflict, StateOp};
use crate::tree::{Snapshot, TileCache};
use crate::witness;

/// Whether events are recorded. False only in a build for measuring what recording costs, which forgets every event that
/// changes no state; a node of such a build says so loudly and must never be used for anything else.
pub const COMMITS: bool = !cfg!(feature = "bench-no-commit");

/// How a ledger is opened. See [`LedgerOptions::new`] for the usual values.
#[derive(Clone)]
pub struct LedgerOptions {
    /// Every shard's origin is `<16 hex digits>.<log_domain>`.
    pub log_domain: String,
    /// Seed of the log's Ed25519 key (RFC 8032, 5.1.5).
    pub seed: [u8; 32],
    /// Where the newest signed head is kept, outside the database's directory.
    pub head_file: PathBuf,
    /// The most appends in one group.
    pub max_group: usize,
    /// The most appends that wait for the writer; beyond it they are refused as overloaded.
    pub queue: usize,
    /// The most reads at a time.
    pub readers: usize,
    /// How long the appends of a group whose fate is not known are kept waiting.
    pub undecided_wait: Duration,
    /// The node's clock, for the ledger's own events.
    pub clock: fn() -> Millis,
    /// On a shared log, without a head file of its own: take the database's word for what was signed, and go on. Safe where
    /// other nodes keep theirs.
    pub join: bool,
    /// On a shared log: open a new shard where the database is behind what was signed. An operator's decision; a store of
    /// one process does so by itself.
    pub reopen: bool,
}

impl LedgerOptions {
    /// The usual values: groups of 512, a queue of 4096, 8 reads at a time, 10 s for an undecided group, the system clock.
    pub fn new(log_domain: impl Into<String>, seed: [u8; 32], head_file: impl Into<PathBuf>) -> Self {
        Self {
            log_domain: log_domain.into(),
            seed,
            head_file: head_file.into(),
            max_group: 512,
            queue: 4096,
            readers: 8,
            undecided_wait: Duration::from_secs(10),
            clock: system_clock,
            join: false,
            reopen: false,
        }
    }
}

impl std::fmt::Debug for LedgerOptions {
    /// Never shows the seed.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LedgerOptions").field("log_domain", &self.log_domain).finish_non_exhaustive()
    }
}

/// Milliseconds since the Unix epoch by the system's clock.
pub fn system_clock() -> Millis {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Events, public entries and changes of state that become durable together, or not at all.
#[derive(Debug, Default)]
pub struct Append {
    /// The events, in order.
    pub events: Vec<Entry>,
    /// Public entries, which get the places after the events'. Without either no leaf is added and the head does not move.
    pub entries: Vec<PublicEntry>,
    /// Checks and changes, applied before anything is placed.
    pub ops: Vec<StateOp>,
}

/// An event to be given its place.
#[derive(Debug)]
pub struct Entry {
    /// The event.
    pub event: PreparedEvent,
    /// Salt of its commitment: 32 bytes from a cryptographic source, fresh for this event.
    pub salt: Salt,
    /// Salt of the argument and result digests inside the event.
    pub detail_salt: Option<Salt>,
    /// For look-ups: the call that the event belongs to.
    pub call: Option<Uuid>,
    /// For filters: the principal's id.
    pub principal: Option<String>,
    /// For filters: `upstream:tool`.
    pub tool: Option<String>,
    /// For filters: what the event is about.
    pub subject: Option<String>,
}

impl Entry {
    /// An event with a fresh salt and nothing to look it up by.
    pub fn new(event: PreparedEvent) -> Self {
        Self { event, salt: rand::random(), detail_salt: None, call: None, principal: None, tool: None, subject: None }
    }
}

/// Where an event stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// The event's id.
    pub id: Uuid,
    /// Its number in the workspace's sequence, from 1.
    pub seq: u64,
    /// Number of the shard.
    pub shard: u32,
    /// Leaf index in the shard.
    pub index: u64,
    /// The commitment.
    pub commitment: Digest,
}

/// Where a public entry stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacedEntry {
    /// The entry's id.
    pub id: Uuid,
    /// Number of the shard.
    pub shard: u32,
    /// Leaf index in the shard.
    pub index: u64,
    /// RFC 6962 hash of the leaf.
    pub leaf: Hash,
}

/// A durable append.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Appended {
    /// The events' places, in the order given.
    pub events: Vec<Placed>,
    /// The public entries' places, in the order given.
    pub entries: Vec<PlacedEntry>,
}

/// Why an append was not acknowledged.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum AppendError {
    /// A precondition did not hold. Nothing of the append was stored.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// Too many appends wait. Nothing was stored; try again later.
    #[error("the ledger's queue is full")]
    Overloaded,
    /// The ledger cannot record. Nothing was stored.
    #[error("the ledger cannot record: {0}")]
    Unavailable(String),
    /// The database did not say in time whether it stored the append: it may be found there later, whole, or never.
    #[error("the ledger does not know whether the append was stored")]
    Undecided,
    /// The ledger was shut down. Nothing was stored.
    #[error("the ledger is closed")]
    Closed,
}

/// Counters since the ledger was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Groups that became durable.
    pub groups: u64,
    /// Events that became durable.
    pub events: u64,
    /// Appends that wait for the writer now.
    pub queued: u64,
    /// Appends refused because of a conflict.
    pub conflicts: u64,
    /// Groups that failed, whatever was found of them afterwards.
    pub failures: u64,
    /// Microseconds that the newest group took from its start to its answers.
    pub last_group_us: u64,
    /// Whether the writer waits for the database to say what became of a group, or for the head to be written outside it.
    /// Appends are refused meanwhile.
    pub undecided: bool,
    /// Whether the database is behind what was signed, or not yet known not to be. Appends are refused meanwhile.
    pub stale: bool,
    /// Whether the newest group could not be stored: the disk is full, say, or the database is away. Appends are still tried.
    pub failing: bool,
}

impl Stats {
    /// Whether an append can be expected to be stored.
    pub fn can_record(&self) -> bool {
        !(self.undecided || self.stale || self.failing)
    }
}

#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) groups: AtomicU64,
    pub(crate) events: AtomicU64,
    pub(crate) queued: AtomicU64,
    pub(crate) conflicts: AtomicU64,
    pub(crate) failures: AtomicU64,
    pub(crate) last_group_us: AtomicU64,
    pub(crate) undecided: AtomicBool,
    pub(crate) stale: AtomicBool,
    pub(crate) failing: AtomicBool,
    /// Whether the head outside the database could not be written the last time.
    pub(crate) head_stuck: AtomicBool,
    pub(crate) meters: Meters,
}

/// How the writer works, since the ledger was opened.
#[derive(Debug)]
pub struct Meters {
    /// A group, from its beginning to its answers; microseconds.
    pub group_time: Histogram,
    /// The durable write of a head outside the database; microseconds.
    pub head_time: Histogram,
    /// Events in a group.
    pub group_size: Histogram,
}

impl Default for Meters {
    fn default() -> Self {
        let durations = Histogram::of_durations;
        Self { group_time: durations(), head_time: durations(), group_size: Histogram::of_counts() }
    }
}

/// A handle on the ledger. The writer ends when every handle is gone or after [`Ledger::shutdown`].
#[derive(Clone)]
pub struct Ledger {
    inner: Arc<Inner>,
}

struct Inner {
    jobs: SyncSender<Job>,
    reader: Arc<dyn Reader>,
    published: Arc<ArcSwap<Snapshot>>,
    tiles: TileCache,
    shared: bool,
    permits: Arc<Semaphore>,
    counters: Arc<Counters>,
    closing: AtomicBool,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl Ledger {
    /// Opens the ledger: reads the head, compares it with the head outside the database, opens a new shard where it must
    /// not sign on, and starts the writer. Blocks; call it before the node serves.
    ///
    /// # Errors
    /// [`OpenError`]: the ledger must not be used.
    pub fn open(store: impl Store, options: LedgerOptions) -> Result<(Self, Opened), OpenError> {
        let (jobs, queue) = std::sync::mpsc::sync_channel(options.queue.max(1));
        let permits = Arc::new(Semaphore::new(options.readers.max(1)));
        let (reader, shared) = (store.reader(), store.is_shared());
        let counters = Arc::new(Counters::default());
        let (sequencer, published, opened) = opening::open(store, options, Arc::clone(&counters))?;
        let writer = std::thread::Builder::new()
            .name("ledger-writer".into())
            .spawn(move || sequencer.run(&queue))
            .map_err(|e| OpenError::Thread(e.to_string()))?;
        let inner = Inner {
            jobs,
            reader,
            published,
            tiles: TileCache::default(),
            shared,
            permits,
            counters,
            closing: AtomicBool::new(false),
            writer: Mutex::new(Some(writer)),
        };
        Ok((Self { inner: Arc::new(inner) }, opened))
    }

    /// Makes an append durable; returns when it is. Dropping the future does not take the append back.
    ///
    /// # Errors
    /// [`AppendError`]. Only after `Undecided` may something have been stored.
    pub async fn append(&self, append: Append) -> Result<Appended, AppendError> {
        if self.inner.closing.load(Ordering::Acquire) {
            return Err(AppendError::Closed);
        }
        if !COMMITS && append.ops.is_empty() && append.entries.is_empty() {
            return Ok(Appended::default());
        }
        let (answer, answered) = oneshot::channel();
        // Counted before it is sent, so that the writer never subtracts what was not yet added.
        self.inner.counters.queued.fetch_add(1, Ordering::Relaxed);
        if let Err(refused) = self.inner.jobs.try_send(Job::Append { append, answer }) {
            self.inner.counters.queued.fetch_sub(1, Ordering::Relaxed);
            return Err(match refused {
                TrySendError::Full(_) => AppendError::Overloaded,
                TrySendError::Disconnected(_) => AppendError::Closed,
            });
        }
        // A writer that died without an answer leaves it open what it had stored.
        answered.await.unwrap_or(Err(AppendError::Undecided))
    }

    /// Runs a read on a blocking thread; at most [`LedgerOptions::readers`] at a time, the others wait.
    ///
    /// # Errors
    /// Those of the read; a panicking read is reported as [`StoreError::Database`].
    pub async fn read<T, F>(&self, read: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&dyn Reader) -> Result<T, StoreError> + Send + 'static,
    {
        let closed = |_| StoreError::Database("the ledger is closed".into());
        let permit = Arc::clone(&self.inner.permits).acquire_owned().await.map_err(closed)?;
        let reader = Arc::clone(&self.inner.reader);
        let run = move || {
            let _permit = permit;
            read(&*reader)
        };
        tokio::task::spawn_blocking(run).await.map_err(|e| StoreError::Database(format!("a read ended early: {e}")))?
    }

    /// Whether other nodes append to the same log, so that what is kept in memory must be looked at again
    /// ([`Reader::changes`]).
    pub fn is_shared(&self) -> bool {
        self.inner.shared
    }

    /// The store's reader. Its calls block.
    pub fn reader(&self) -> Arc<dyn Reader> {
        Arc::clone(&self.inner.reader)
    }

    /// The newest head that is durable in the database and outside it. Only this one may be shown to anyone.
    pub fn head(&self) -> Arc<Head> {
        Arc::clone(&self.inner.published.load().head)
    }

    /// The tree under the newest head, for proofs.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.inner.published.load_full()
    }

    /// The receipt of an event: the event itself, the events that it follows from (its `parent` links and its call's
    /// events up to it), and their proofs under one checkpoint of each one's shard: of those that cover the events, the one that
    /// most witnesses cosigned, the newest of several such, or without any the newest. `None` if there is no such event.
    ///
    /// # Errors
    /// [`ReceiptError`]: the event was erased, a disclosure does not fit, or the store fails.
    pub async fn receipt(&self, id: Uuid, disclose: Vec<Disclose>) -> Result<Option<Receipt>, ReceiptError> {
        let this = self.clone();
        let made = self
            .read(move |reader| Ok(receipts::receipt(reader, &this.snapshot(), &this.inner.tiles, id, &disclose)))
            .await;
        made.map_err(ReceiptError::Store)?
    }

    /// Proof that the leaf at a place is in the log, under the newest durable checkpoint of its shard. `None` if there is no
    /// such shard, or no such leaf under that checkpoint.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn inclusion(&self, shard: u32, index: u64) -> Result<Option<Inclusion>, StoreError> {
        let this = self.clone();
        self.read(move |reader| {
            let shards = reader.shards()?;
            let Some(row) = shards.iter().find(|row| row.shard == shard) else { return Ok(None) };
            receipts::inclusion(reader, &this.snapshot(), &this.inner.tiles, row, index)
        })
        .await
    }

    /// Proof that the first `new` leaves of a shard extend its first `old` ones. `None` if there is no such shard, or not that
    /// much under its newest durable checkpoint.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn consistency(&self, shard: u32, old: u64, new: u64) -> Result<Option<Vec<Hash>>, StoreError> {
        let this = self.clone();
        self.read(move |reader| {
            let shards = reader.shards()?;
            let Some(row) = shards.iter().find(|row| row.shard == shard) else { return Ok(None) };
            receipts::consistency(reader, &this.snapshot(), &this.inner.tiles, row, (old, new))
        })
        .await
    }

    /// The newest durable checkpoint with the cosignatures that witnesses gave for exactly this one.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn cosigned_checkpoint(&self) -> Result<String, StoreError> {
        let head = self.head();
        self.read(move |reader| {
            let rows = reader.cosignatures(head.shard, head.size.saturating_sub(1), head.size)?;
            witness::cosigned(&head.checkpoint, &rows)
        })
        .await
    }

    /// Stops the writer after everything that was queued before. Later appends are refused as closed.
    pub async fn shutdown(&self) {
        self.inner.closing.store(true, Ordering::Release);
        let this = self.clone();
        let stop = move || {
            let writer = this.inner.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
            // The queue may be full: this waits for room. A writer that is gone already needs no word.
            let _ = this.inner.jobs.send(Job::Stop);
            if let Some(writer) = writer
                && writer.join().is_err()
            {
                tracing::error!("the ledger's writer had panicked");
            }
        };
        if tokio::task::spawn_blocking(stop).await.is_err() {
            tracing::error!("the ledger was not shut down in order");
        }
    }

    /// How the writer works.
    pub fn meters(&self) -> &Meters {
        &self.inner.counters.meters
    }

    /// Counters since the ledger was opened.
    pub fn stats(&self) -> Stats {
        let counters = &self.inner.counters;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            groups: get(&counters.groups),
            events: get(&counters.events),
            queued: get(&counters.queued),
            conflicts: get(&counters.conflicts),
            failures: get(&counters.failures),
            last_group_us: get(&counters.last_group_us),
            stale: counters.stale.load(Ordering::Relaxed),
            failing: counters.failing.load(Ordering::Relaxed),
            undecided: counters.undecided.load(Ordering::Relaxed) || counters.head_stuck.load(Ordering::Relaxed),
        }
    }
}
