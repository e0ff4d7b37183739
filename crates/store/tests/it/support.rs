//! A ledger on disk that tests open, use, close and open again.

use std::path::PathBuf;

use countersign_domain::{EventDraft, EventType, WorkspaceName};
use countersign_ledger::state::StateOp;
use countersign_ledger::{
    Append, AppendError, Appended, Entry, FsckOptions, FsckReport, Ledger, LedgerOptions, Opened, Placed, PublicEntry,
    Store, fsck,
};
use countersign_proof::TrustAnchors;
use countersign_proof::note::VerifierKey;
use countersign_store::SqliteStore;
use uuid::Uuid;

pub const SEED: [u8; 32] = [42; 32];

/// Where a ledger lives and how it is opened.
#[derive(Clone)]
pub struct Node {
    pub database: PathBuf,
    pub head: PathBuf,
    pub domain: String,
    pub seed: [u8; 32],
}

impl Node {
    pub fn at(database: PathBuf, head: PathBuf) -> Self {
        Self { database, head, domain: "log.example".into(), seed: SEED }
    }

    pub fn open(&self) -> Running {
        self.open_store(SqliteStore::open(&self.database).unwrap())
    }

    pub fn open_store(&self, store: impl Store) -> Running {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let mut options = LedgerOptions::new(&self.domain, self.seed, &self.head);
        options.undecided_wait = std::time::Duration::from_millis(300);
        let (ledger, opened) = Ledger::open(store, options).unwrap();
        Running { runtime, ledger, opened }
    }

    /// Checks everything, the head file included.
    pub fn fsck(&self) -> FsckReport {
        let store = SqliteStore::open(&self.database).unwrap();
        fsck(&*store.reader(), &FsckOptions { head_file: Some(self.head.clone()), anchors: Vec::new() })
    }

    pub fn assert_sound(&self) -> FsckReport {
        let report = self.fsck();
        assert!(report.is_ok(), "{:#?}", report.findings);
        report
    }
}

/// An open ledger. Dropping it shuts it down and waits for that.
pub struct Running {
    pub runtime: tokio::runtime::Runtime,
    pub ledger: Ledger,
    pub opened: Opened,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.runtime.block_on(self.ledger.shutdown());
    }
}

impl Running {
    pub fn append(&self, append: Append) -> Result<Appended, AppendError> {
        self.runtime.block_on(self.ledger.append(append))
    }

    /// Appends events one group after another and returns their places.
    pub fn append_n(&self, workspace: &str, n: u64) -> Vec<Placed> {
        (0..n).map(|_| self.append(one(entry(workspace))).unwrap().events.remove(0)).collect()
    }

    pub fn receipt(&self, id: Uuid) -> Vec<u8> {
        self.runtime.block_on(self.ledger.receipt(id, Vec::new())).unwrap().unwrap().to_bytes().unwrap()
    }
}

pub fn one(entry: Entry) -> Append {
    Append { events: vec![entry], ..Append::default() }
}

pub fn with_ops(entry: Entry, ops: Vec<StateOp>) -> Append {
    Append { events: vec![entry], ops, ..Append::default() }
}

pub fn new_id() -> Uuid {
    Uuid::now_v7()
}

pub fn draft(workspace: &str, kind: EventType) -> EventDraft {
    let workspace: WorkspaceName = workspace.parse().unwrap();
    EventDraft::new(new_id(), workspace, kind, countersign_ledger::handle::system_clock())
}

pub fn entry(workspace: &str) -> Entry {
    let filler = "x".repeat(600);
    Entry::new(draft(workspace, EventType::CallCompleted).with("filler", filler).prepare().unwrap())
}

/// A public entry as signatures have them, unlike every other.
pub fn public(workspace: &str) -> PublicEntry {
    let id = new_id();
    let digest = countersign_proof::digest::Digest::of(id.as_bytes()).to_base64();
    let body = format!(
        r#"{{"apiVersion":"0.0.2","kind":"hashedrekord","spec":{{"hashedRekordV002":{{"data":{{"algorithm":"SHA2_256","digest":"{digest}"}}}}}}}}"#
    );
    PublicEntry::new(id, workspace.parse().unwrap(), body.into_bytes()).unwrap()
}

pub fn with_public(entry: Entry, entries: Vec<PublicEntry>) -> Append {
    Append { events: vec![entry], entries, ..Append::default() }
}

/// Whether a receipt verifies with this key.
pub fn verifies(receipt: &[u8], vkey: &str) -> bool {
    let key: VerifierKey = vkey.parse().unwrap();
    countersign_proof::receipt::verify(receipt, &TrustAnchors::new().with(key)).is_valid()
}
