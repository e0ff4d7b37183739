//! The ledger: events into the log, in groups, durable before anyone is told.
//!
//! What lives here is logic: no SQL (that is `countersign-store`), no sockets. The formats and the commit points are
//! written down in `docs/ledger.md`.
//!
//! - [`contract`]: what a store must promise.
//! - [`leaf`]: the two kinds of leaves, commitments to events and public entries.
//! - [`state`]: the facts that change together with events (requests, answers, idempotency, intents, freezes, pins).
//! - [`directory`]: workspaces, granted roles and API keys, which change likewise.
//! - [`connections`]: accounts that people connected, sealed.
//! - [`trust`]: what was signed and verified, to be found again.
//! - [`artifacts`], [`objects`]: signed artifacts, and the contract of the store that keeps their bytes.
//! - [`witness`]: what was cosigned of other logs, and by others of this one.
//! - [`handle`]: the [`Ledger`] that everybody else holds: append, read, receipts, shutdown.
//! - `sequencer`: the one thread that writes; its commit points and what happens when a commit fails.
//! - `outside`: the thread that writes the head outside the database, and then answers.
//! - `following`: what other nodes of a shared log wrote, and when the database is not the newest.
//! - `opening`: recovery, and when a new shard is opened instead of signing on.
//! - [`head_file`]: the newest signed head, kept outside the database.
//! - [`tree`]: RFC 6962 hashes out of stored tiles and leaves.
//! - [`fsck`]: rebuilds everything from the leaves and says what does not fit.
//! - [`export`]: the chained JSONL files, and their verification.

pub mod artifacts;
pub mod connections;
pub mod contract;
pub mod directory;
pub mod durable;
pub mod export;
mod following;
pub mod fsck;
pub mod handle;
pub mod head_file;
pub mod leaf;
pub mod objects;
mod opening;
mod outside;
mod receipts;
mod sequencer;
pub mod state;
pub mod tree;
pub mod trust;
pub mod witness;

pub use contract::{Head, Reader, Store, StoreError};
pub use fsck::{FsckOptions, FsckReport, fsck};
pub use handle::{Append, AppendError, Appended, Entry, Ledger, LedgerOptions, Placed, PlacedEntry, Stats};
pub use leaf::{EntryRow, LogEntry, PublicEntry, PublicEntryError};
pub use opening::{OpenError, OpenReason, Opened, Predecessor};
pub use receipts::{Disclose, Inclusion, ReceiptError};
