//! What a store promises to the ledger, and what the ledger may ask of it.
//!
//! **Durability.** [`Group::commit`] returns `Ok` only when everything that the group wrote survives the loss of power
//! (SQLite: `synchronous=FULL` in WAL mode; Postgres: `fsync` and `synchronous_commit` on, refused otherwise).
//! **Failure.** After [`CommitError::Unknown`] the group may or may not be stored. The caller must read the head again in a new
//! group before it says anything to anyone: that read decides. The store never retries by itself.
//! **Isolation.** One group at a time over all processes: [`Store::begin`] takes the writer's lock and sees the newest head.
//! **Several nodes** may share a store ([`Store::is_shared`]). Each looks at the newest head at the beginning of every group, takes
//! over what others wrote only if it goes on from what it signed itself, and otherwise contests the database.
//! **Readers** see only committed groups, whole ones, and may lag behind the newest.

use countersign_domain::{Millis, UpstreamName, WorkspaceName};
use countersign_proof::commitment::Salt;
use countersign_proof::digest::Digest;
use countersign_proof::merkle::Hash;
use uuid::Uuid;

use crate::artifacts::{ArtifactPage, ArtifactQuery, ArtifactRow};
use crate::connections::{ConnectionKey, ConnectionRow, ConnectionStage};
use crate::directory::Directory;
use crate::leaf::{EntryRow, LogEntry};
use crate::state::{
    BudgetKey, BudgetRow, Conflict, DecisionRow, Fingerprint, FreezeRow, IdempotencyRow, IntentRow, PinRow, RequestRow,
    RequestStatus, StateOp,
};
use crate::trust::{TrustCount, TrustPage, TrustQuery, TrustRow};
use crate::witness::{CosignatureRow, WitnessedRow};

/// A failing store. The detail is for the log, not for callers.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The driver reported an error.
    #[error("database: {0}")]
    Database(String),
    /// The disk is full or a quota was reached.
    #[error("no space left: {0}")]
    Full(String),
    /// Stored data is not what was written.
    #[error("corrupt data: {0}")]
    Corrupt(String),
    /// The server would forget what it committed, or is not one that can be used.
    #[error("the database is not safe to use: {0}")]
    Unsafe(String),
    /// The database does not have what was signed: an old one stands in the place of the newer. Nothing may be appended.
    #[error("the database is behind what was signed, so nothing is signed on it: {0}")]
    Stale(String),
    /// The database was started anew, and not every node has said yet that it is the newest. Passes by itself.
    #[error("the database is not yet known to be the newest: {0}")]
    Unsettled(String),
    /// The data was written by a newer version, or an older one that is no longer read.
    #[error("schema version {found} is not supported (this build reads up to {supported})")]
    Version {
        /// What the database says.
        found: i64,
        /// What this build knows.
        supported: i64,
    },
}

/// Why a group was not made durable, as far as is known.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Certainly nothing of the group is stored: something before the commit failed.
    #[error(transparent)]
    Undone(StoreError),
    /// The group is stored whole or not at all.
    #[error(transparent)]
    Unknown(StoreError),
}

impl CommitError {
    /// What went wrong, for those who begin anew in either case.
    pub fn cause(self) -> StoreError {
        match self {
            Self::Undone(error) | Self::Unknown(error) => error,
        }
    }
}

/// The newest state of the open shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Number of the shard, from 0.
    pub shard: u32,
    /// Its origin (C2SP checkpoint line 1).
    pub origin: String,
    /// Leaves.
    pub size: u64,
    /// RFC 6962 root over them.
    pub root: Hash,
    /// The compact range (hashes of the perfect subtrees, largest first).
    pub frontier: Vec<Hash>,
    /// The signed checkpoint of exactly this size, a C2SP signed note.
    pub checkpoint: String,
}

/// An event with its place and its openings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventRow {
    /// Number of the shard.
    pub shard: u32,
    /// Leaf index in the shard.
    pub index: u64,
    /// The event's id.
    pub id: Uuid,
    /// Its workspace.
    pub workspace: WorkspaceName,
    /// Its number in the workspace's gapless sequence, from 1, across shards.
    pub seq: u64,
    /// The event's `type`.
    pub kind: String,
    /// The event's `time`.
    pub time: Millis,
    /// The commitment; survives erasure.
    pub commitment: Digest,
    /// The event's canonical JSON and salt, unless erased.
    pub opening: Option<Opening>,
    /// For look-ups: the call, if the event belongs to one.
    pub call: Option<Uuid>,
    /// For filters: `Principal` id.
    pub principal: Option<String>,
    /// For filters: `upstream:tool`.
    pub tool: Option<String>,
    /// For filters: what the event is about, such as an artifact's id.
    pub subject: Option<String>,
}

/// What opens a commitment. Erased as one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opening {
    /// The event's salt.
    pub salt: Salt,
    /// The event as RFC 8785 bytes.
    pub event: Vec<u8>,
    /// Salt of the argument and result digests inside the event; not part of a receipt unless disclosed.
    pub detail_salt: Option<Salt>,
}

/// The newest place in a workspace's sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tail {
    /// The last number given.
    pub seq: u64,
    /// The commitment of that event.
    pub commitment: Digest,
}

/// A leaf that another process wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// An event, as its workspace's tail at that leaf.
    Event(WorkspaceName, Tail),
    /// The body of a public entry, which moves no workspace's tail.
    Public(Vec<u8>),
}

/// A filter over events; all given parts must match. Pages go by `(workspace, seq)`.
#[derive(Debug, Clone, Default)]
pub struct EventQuery {
    /// Only this workspace (a caller's own, unless an auditor of the node).
    pub workspace: Option<WorkspaceName>,
    /// Only this `type`, or a prefix ending in `.`.
    pub kind: Option<String>,
    /// Only this principal id.
    pub principal: Option<String>,
    /// Only this `upstream:tool`.
    pub tool: Option<String>,
    /// Only about this.
    pub subject: Option<String>,
    /// Only this call.
    pub call: Option<Uuid>,
    /// `time >= since`.
    pub since: Option<Millis>,
    /// `time < until`.
    pub until: Option<Millis>,
    /// Global positions after (ascending) or before (descending) this one; opaque to callers.
    pub cursor: Option<u64>,
    /// Newest first.
    pub descending: bool,
    /// At most this many, 1 to 1000.
    pub limit: u32,
}

/// A page of events: each with its global position, which is the cursor that continues after it.
#[derive(Debug, Clone, Default)]
pub struct EventPage {
    /// The events with their global positions.
    pub rows: Vec<(u64, EventRow)>,
    /// Whether more match.
    pub more: bool,
}

/// A shard in the order of opening.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardRow {
    /// Number, from 0.
    pub shard: u32,
    /// Its origin.
    pub origin: String,
    /// Its verifier key (C2SP vkey text).
    pub vkey: String,
    /// The newest signed checkpoint that this database has of it.
    pub checkpoint: Option<String>,
    /// Leaves.
    pub size: u64,
}

/// Where a log stands, as far as can be seen without waiting for its writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Number of the open shard.
    pub shard: u32,
    /// Leaves.
    pub size: u64,
    /// Whether this connection's database is known to be the newest (see [`Group::vouch`]).
    pub settled: bool,
}

/// What other nodes changed that this one may keep in memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Where to go on from the next time.
    pub next: u64,
    /// Too much to tell, or too long ago: look at everything again.
    pub everything: bool,
    /// Freezes were made or lifted.
    pub freezes: bool,
    /// Definitions were proposed, accepted or withdrawn.
    pub pins: bool,
    /// Requests that were answered, redeemed or closed.
    pub requests: Vec<Uuid>,
}

/// Where the ledger keeps itself. One writer; any number of readers.
pub trait Store: Send + 'static {
    /// Starts a group: takes the writer's lock, sees the newest state. Dropping the group rolls back.
    ///
    /// # Errors
    /// If the database does not answer.
    fn begin(&mut self) -> Result<Box<dyn Group + '_>, StoreError>;

    /// A handle for reading, usable from any thread.
    fn reader(&self) -> std::sync::Arc<dyn Reader>;

    /// Housekeeping off the request path (moving the write-ahead log into the database, forgetting expired rows).
    ///
    /// # Errors
    /// If the database does not answer; harmless to the data.
    fn maintain(&mut self) -> Result<(), StoreError>;

    /// Whether other processes append to the same log.
    fn is_shared(&self) -> bool {
        false
    }

    /// Where the log stands, without waiting for a writer; `None` if there is no log, or nobody to share it with.
    ///
    /// # Errors
    /// If the database does not answer.
    fn peek(&mut self) -> Result<Option<Place>, StoreError> {
        Ok(None)
    }
}

impl Store for Box<dyn Store> {
    fn begin(&mut self) -> Result<Box<dyn Group + '_>, StoreError> {
        (**self).begin()
    }
    fn reader(&self) -> std::sync::Arc<dyn Reader> {
        (**self).reader()
    }
    fn maintain(&mut self) -> Result<(), StoreError> {
        (**self).maintain()
    }
    fn is_shared(&self) -> bool {
        (**self).is_shared()
    }
    fn peek(&mut self) -> Result<Option<Place>, StoreError> {
        (**self).peek()
    }
}

/// One durable transaction: many appends, then tree growth and a new head. A store that is asked over a network may send what it
/// is told and go on: what fails is then reported by a later call, by the commit at the latest.
pub trait Group {
    /// The database's time: what expiry is compared with.
    fn now(&mut self) -> Result<Millis, StoreError>;
    /// The open shard's head; `None` before the first shard is opened.
    fn head(&mut self) -> Result<Option<Head>, StoreError>;
    /// The newest place in a workspace's sequence, including this group's own inserts.
    fn tail(&mut self, workspace: &WorkspaceName) -> Result<Option<Tail>, StoreError>;
    /// Applies one append's operations, all or nothing. A conflict leaves the group as it was before the call.
    fn apply(&mut self, ops: &[StateOp]) -> Result<Result<(), Conflict>, StoreError>;
    /// The same for the appends of a group, in their order, before any of its events: for stores that are asked over a
    /// network.
    fn apply_all(&mut self, appends: &[&[StateOp]]) -> Result<Vec<Result<(), Conflict>>, StoreError> {
        appends.iter().map(|ops| self.apply(ops)).collect()
    }
    /// A hint that the tails of these workspaces are going to be asked for.
    fn expect(&mut self, workspaces: &[&WorkspaceName]) -> Result<(), StoreError> {
        let _ = workspaces;
        Ok(())
    }
    /// The leaves from one index up to another, if the group has all of them at hand; the reader has them in any case.
    fn news(&mut self, shard: u32, from: u64, to: u64) -> Result<Option<Vec<News>>, StoreError> {
        let _ = (shard, from, to);
        Ok(None)
    }
    /// Says that the head does not speak against what this process signed. Where the log is shared: `Unsettled` while other
    /// nodes have not yet said the same since the database was started, `Stale` if one contests it. Commit the group
    /// nevertheless, so that the others hear of it.
    fn vouch(&mut self) -> Result<(), StoreError> {
        Ok(())
    }
    /// Says, for all nodes, that the database does not have what this process knows to be signed. Stands until a new shard
    /// is opened.
    fn contest(&mut self, why: &str) -> Result<(), StoreError> {
        let _ = why;
        Ok(())
    }
    /// Adds an event at its place. The id is new (UUIDv7); a duplicate is `Corrupt`, here or later.
    fn insert(&mut self, row: &EventRow) -> Result<(), StoreError>;
    /// Adds a public entry at its place, which no event has. The id is new (UUIDv7); a duplicate is `Corrupt`, here or later.
    fn insert_entry(&mut self, row: &EntryRow) -> Result<(), StoreError>;
    /// Stores the hash row of a complete tile: level (of tiles, 8 tree levels each), index, 256 hashes.
    fn put_tile(&mut self, shard: u32, level: u8, index: u64, hashes: &[Hash]) -> Result<(), StoreError>;
    /// Registers a shard before its first head.
    fn open_shard(&mut self, row: &ShardRow) -> Result<(), StoreError>;
    /// Replaces the head.
    fn set_head(&mut self, head: &Head) -> Result<(), StoreError>;
    /// Makes the group durable. See the module's words on failure.
    fn commit(self: Box<Self>) -> Result<(), CommitError>;
}

/// Reads of committed state. Calls block; run them off the async threads.
pub trait Reader: Send + Sync {
    /// The newest committed head.
    fn head(&self) -> Result<Option<Head>, StoreError>;
    /// All shards, oldest first.
    fn shards(&self) -> Result<Vec<ShardRow>, StoreError>;
    /// One event by its id.
    fn event(&self, id: Uuid) -> Result<Option<EventRow>, StoreError>;
    /// The events of a call, oldest first.
    fn events_of_call(&self, call: Uuid) -> Result<Vec<EventRow>, StoreError>;
    /// A page of events.
    fn events(&self, query: &EventQuery) -> Result<EventPage, StoreError>;
    /// A shard's leaves `from..to` of both kinds, in order, up to the first that is missing; at most
    /// [`crate::leaf::MAX_LEAVES`], among them at most [`crate::leaf::MAX_PUBLIC`] public entries. See [`crate::leaf::merge`].
    fn entries(&self, shard: u32, from: u64, to: u64) -> Result<Vec<LogEntry>, StoreError>;
    /// One public entry by its id.
    fn public_entry(&self, id: Uuid) -> Result<Option<EntryRow>, StoreError>;
    /// The public entry at a place, if one stands there.
    fn public_entry_at(&self, shard: u32, index: u64) -> Result<Option<EntryRow>, StoreError> {
        let next = self.public_entries(shard, index, 1)?.pop();
        Ok(next.filter(|row| row.index == index))
    }
    /// Public entries of a shard from a leaf index on, in order; at most `limit` (1 to [`crate::leaf::MAX_PUBLIC`]).
    fn public_entries(&self, shard: u32, from: u64, limit: u32) -> Result<Vec<EntryRow>, StoreError>;
    /// Events of a shard from a leaf index on, in order; at most `limit` (1 to 1000).
    fn leaves(&self, shard: u32, from: u64, limit: u32) -> Result<Vec<EventRow>, StoreError>;
    /// The hashes of a complete tile.
    fn tile(&self, shard: u32, level: u8, index: u64) -> Result<Option<Vec<Hash>>, StoreError>;
    /// The newest place in a workspace's sequence.
    fn tail(&self, workspace: &WorkspaceName) -> Result<Option<Tail>, StoreError>;
    /// All workspaces that have events or a key.
    fn workspaces(&self) -> Result<Vec<WorkspaceName>, StoreError>;
    /// A workspace's wrapped key.
    fn workspace_key(&self, workspace: &WorkspaceName) -> Result<Option<Vec<u8>>, StoreError>;
    /// A request by its id. A pending one past its expiry is reported as it is stored.
    fn request(&self, id: Uuid) -> Result<Option<RequestRow>, StoreError>;
    /// Requests, newest first; of one workspace, of one status, at most `limit` (1 to 1000).
    fn requests(
        &self,
        workspace: Option<&WorkspaceName>,
        status: Option<RequestStatus>,
        before: Option<Uuid>,
        limit: u32,
    ) -> Result<Vec<RequestRow>, StoreError>;
    /// Pending requests past their expiry, oldest first, at most `limit`.
    fn expired_requests(&self, now: Millis, limit: u32) -> Result<Vec<RequestRow>, StoreError>;
    /// The pending or sticky-denied request with this fingerprint.
    fn request_by_fingerprint(&self, fingerprint: &Fingerprint) -> Result<Option<RequestRow>, StoreError>;
    /// A use of an idempotency key.
    fn idempotency(&self, scope: &Fingerprint) -> Result<Option<IdempotencyRow>, StoreError>;
    /// Intents that are open or unknown, oldest first, at most 10,000.
    fn intents(&self) -> Result<Vec<IntentRow>, StoreError>;
    /// Open intents that no living process will close, oldest first, at most 1000: those of dead processes, and of this one
    /// those whose calls do not run any more, because their outcome could not be recorded.
    fn abandoned(&self, running: &[Uuid]) -> Result<Vec<IntentRow>, StoreError>;
    /// What other nodes changed since; `None` to begin.
    fn changes(&self, since: Option<u64>) -> Result<Changes, StoreError> {
        Ok(Changes { next: since.unwrap_or(0), ..Changes::default() })
    }
    /// Everything frozen.
    fn freezes(&self) -> Result<Vec<FreezeRow>, StoreError>;
    /// What was used of a budget in the period that began then.
    fn budget(&self, key: &BudgetKey, start: Millis) -> Result<u64, StoreError>;
    /// Budgets in use in periods that have not ended by `now`, by key, at most 1000.
    fn budgets(&self, now: Millis) -> Result<Vec<BudgetRow>, StoreError>;
    /// Until when a pause lasts, if there is or was one.
    fn cooldown(&self, key: &Fingerprint) -> Result<Option<Millis>, StoreError>;
    /// Every known tool definition.
    fn pins(&self) -> Result<Vec<PinRow>, StoreError>;
    /// What is kept of the decisions of these calls, at most 1000, in no particular order.
    fn decisions(&self, calls: &[Uuid]) -> Result<Vec<DecisionRow>, StoreError>;
    /// The oldest call of which a decision is kept.
    fn oldest_decision(&self) -> Result<Option<Uuid>, StoreError>;
    /// The global position of the first event, by id, that was made at this time or later.
    fn position_at(&self, time: Millis) -> Result<Option<u64>, StoreError>;
    /// The whole directory, in one consistent state.
    fn directory(&self) -> Result<Directory, StoreError>;
    /// The number of the directory's last change: cheap enough to be asked several times a second.
    fn directory_version(&self) -> Result<u64, StoreError>;
    /// A connection, whether it has expired or not.
    fn connection(&self, key: &ConnectionKey) -> Result<Option<ConnectionRow>, StoreError>;
    /// The connection of a stage with this version, whether it has expired or not.
    fn connection_of(&self, stage: ConnectionStage, version: &Fingerprint)
    -> Result<Option<ConnectionRow>, StoreError>;
    /// A person's connections in a workspace, of all stages, by upstream and stage, at most 1000.
    fn connections(&self, workspace: &WorkspaceName, person: &str) -> Result<Vec<ConnectionRow>, StoreError>;
    /// A signature or verification by its id.
    fn trust_row(&self, id: Uuid) -> Result<Option<TrustRow>, StoreError>;
    /// A page of signatures and verifications.
    fn trust_rows(&self, query: &TrustQuery) -> Result<TrustPage, StoreError>;
    /// How many there are in a workspace that are alike, at most 10,000 kinds.
    fn trust_counts(&self, workspace: &WorkspaceName) -> Result<Vec<TrustCount>, StoreError>;
    /// A version of an artifact, the newest if none is named.
    fn artifact(
        &self,
        workspace: &WorkspaceName,
        id: Uuid,
        version: Option<u64>,
    ) -> Result<Option<ArtifactRow>, StoreError>;
    /// A page of artifacts.
    fn artifacts(&self, query: &ArtifactQuery) -> Result<ArtifactPage, StoreError>;
    /// Artifacts of all workspaces, oldest first, behind an entry; at most `limit` (1 to 1000).
    fn artifacts_behind(&self, entry: Option<Uuid>, limit: u32) -> Result<Vec<ArtifactRow>, StoreError>;
    /// The latest checkpoint of another log that this node cosigned.
    fn witnessed(&self, origin: &str) -> Result<Option<WitnessedRow>, StoreError>;
    /// The same of all logs, by origin, at most [`MAX_ROWS`](crate::witness::MAX_ROWS).
    fn all_witnessed(&self) -> Result<Vec<WitnessedRow>, StoreError>;
    /// The cosignatures on one checkpoint of a shard, by witness: of those with more than `above` and at most `up_to` leaves, the
    /// one that most witnesses cosigned, and of several such the newest. Empty if there is none.
    fn cosignatures(&self, shard: u32, above: u64, up_to: u64) -> Result<Vec<CosignatureRow>, StoreError>;
    /// The newest cosignature of each witness in a shard, by witness, at most [`MAX_ROWS`](crate::witness::MAX_ROWS).
    fn newest_cosignatures(&self, shard: u32) -> Result<Vec<CosignatureRow>, StoreError>;
    /// Everybody's connections in a workspace, of all stages, by person, upstream and stage, from behind all those of a person at
    /// an upstream on, at most `limit` and
    /// [`MAX_CONNECTIONS`](crate::connections::MAX_CONNECTIONS).
    fn connections_in(
        &self,
        workspace: &WorkspaceName,
        behind: Option<(&str, &UpstreamName)>,
        limit: u32,
    ) -> Result<Vec<ConnectionRow>, StoreError>;
    /// Refusal aggregates since a minute: minute, name, count.
    fn refusals(&self, since_minute: u64) -> Result<Vec<(u64, String, u64)>, StoreError>;
}
