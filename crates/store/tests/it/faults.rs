//! Every write of the ledger, failed in two ways: not persisted, and persisted but reported as failed. Whatever happens,
//! what was acknowledged is there afterwards, what was refused is not, and the log is sound.

use std::sync::{Arc, Mutex};

use countersign_domain::{Millis, WorkspaceName};
use countersign_ledger::contract::{
    CommitError, EventRow, Group, Head, Place, Reader, ShardRow, Store, StoreError, Tail,
};
use countersign_ledger::state::{Conflict, StateOp};
use countersign_ledger::{Append, AppendError, Appended, EntryRow, Ledger, LedgerOptions};
use countersign_proof::merkle::Hash;
use countersign_store::SqliteStore;

use crate::support::{Node, SEED, entry, public, with_ops};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// The call fails and does nothing.
    Lost,
    /// The call does its work and reports a failure.
    Kept,
}

/// Fails the write call number `at`, or the next of a name, then as many `begin`s as told.
#[derive(Debug)]
pub(crate) struct Plan {
    mode: Mode,
    at: Option<u64>,
    next: Option<&'static str>,
    begins_after: u64,
    calls: u64,
    pub(crate) fired: Option<&'static str>,
}

pub(crate) type Shared = Arc<Mutex<Plan>>;

pub(crate) fn plan(mode: Mode, at: Option<u64>, begins_after: u64) -> Shared {
    Arc::new(Mutex::new(Plan { mode, at, next: None, begins_after, calls: 0, fired: None }))
}

/// From now on, the next call of this name fails.
pub(crate) fn arm(plan: &Shared, name: &'static str) {
    plan.lock().unwrap().next = Some(name);
}

fn failure() -> StoreError {
    StoreError::Database("injected".into())
}

/// The mode, if this call is the one to fail.
fn due(plan: &Shared, name: &'static str) -> Option<Mode> {
    let mut plan = plan.lock().unwrap();
    plan.calls += 1;
    let due = plan.fired.is_none() && (plan.at.is_some_and(|at| plan.calls > at) || plan.next == Some(name));
    due.then(|| {
        plan.fired = Some(name);
        plan.mode
    })
}

pub(crate) struct Faulty<S>(pub(crate) S, pub(crate) Shared);

impl<S: Store> Store for Faulty<S> {
    fn begin(&mut self) -> Result<Box<dyn Group + '_>, StoreError> {
        {
            let mut plan = self.1.lock().unwrap();
            if plan.fired.is_some() && plan.begins_after > 0 {
                plan.begins_after -= 1;
                return Err(failure());
            }
        }
        Ok(Box::new(FaultyGroup(self.0.begin()?, Arc::clone(&self.1))))
    }
    fn reader(&self) -> Arc<dyn Reader> {
        self.0.reader()
    }
    fn maintain(&mut self) -> Result<(), StoreError> {
        self.0.maintain()
    }
    fn is_shared(&self) -> bool {
        self.0.is_shared()
    }
    fn peek(&mut self) -> Result<Option<Place>, StoreError> {
        self.0.peek()
    }
}

struct FaultyGroup<'a>(Box<dyn Group + 'a>, Shared);

impl FaultyGroup<'_> {
    fn write<T>(
        &mut self,
        name: &'static str,
        work: impl FnOnce(&mut dyn Group) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        match due(&self.1, name) {
            None => work(&mut *self.0),
            Some(Mode::Lost) => Err(failure()),
            Some(Mode::Kept) => work(&mut *self.0).and(Err(failure())),
        }
    }
}

impl Group for FaultyGroup<'_> {
    fn now(&mut self) -> Result<Millis, StoreError> {
        self.0.now()
    }
    fn head(&mut self) -> Result<Option<Head>, StoreError> {
        self.0.head()
    }
    fn tail(&mut self, workspace: &WorkspaceName) -> Result<Option<Tail>, StoreError> {
        self.0.tail(workspace)
    }
    fn apply(&mut self, ops: &[StateOp]) -> Result<Result<(), Conflict>, StoreError> {
        self.write("apply", |g| g.apply(ops))
    }
    fn insert(&mut self, row: &EventRow) -> Result<(), StoreError> {
        self.write("insert", |g| g.insert(row))
    }
    fn insert_entry(&mut self, row: &EntryRow) -> Result<(), StoreError> {
        self.write("insert_entry", |g| g.insert_entry(row))
    }
    fn put_tile(&mut self, shard: u32, level: u8, index: u64, hashes: &[Hash]) -> Result<(), StoreError> {
        self.write("put_tile", |g| g.put_tile(shard, level, index, hashes))
    }
    fn open_shard(&mut self, row: &ShardRow) -> Result<(), StoreError> {
        self.write("open_shard", |g| g.open_shard(row))
    }
    fn set_head(&mut self, head: &Head) -> Result<(), StoreError> {
        self.write("set_head", |g| g.set_head(head))
    }
    fn expect(&mut self, workspaces: &[&WorkspaceName]) -> Result<(), StoreError> {
        self.0.expect(workspaces)
    }
    fn vouch(&mut self) -> Result<(), StoreError> {
        self.0.vouch()
    }
    fn contest(&mut self, why: &str) -> Result<(), StoreError> {
        self.0.contest(why)
    }
    fn commit(self: Box<Self>) -> Result<(), CommitError> {
        let this = *self;
        match due(&this.1, "commit") {
            None => this.0.commit(),
            Some(Mode::Lost) => Err(CommitError::Unknown(failure())),
            Some(Mode::Kept) => this.0.commit().and(Err(CommitError::Unknown(failure()))),
        }
    }
}

/// Runs appends with one fault, then opens the ledger again without, and compares what callers were told with what is there.
/// Returns which call failed, if the run was long enough to reach it.
fn run(base: &Node, dir: &std::path::Path, shared: &Shared) -> Option<&'static str> {
    let node = Node::at(dir.join("ledger.db"), dir.join("head"));
    if base.database.exists() {
        countersign_store::sqlite::backup(&base.database, &node.database).unwrap();
        std::fs::copy(&base.head, &node.head).unwrap();
    }
    let store = Faulty(SqliteStore::open(&node.database).unwrap(), Arc::clone(shared));
    let mut options = LedgerOptions::new(&node.domain, SEED, &node.head);
    options.undecided_wait = std::time::Duration::from_millis(50);
    let (mut stored, mut refused) = (Vec::new(), Vec::new());
    if let Ok((ledger, _)) = Ledger::open(store, options) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        for n in 0..4 {
            let entry = entry(["a", "b"][n % 2]);
            let id = entry.event.id;
            let workspace = format!("key-{n}").parse().unwrap();
            let ops = vec![StateOp::WorkspaceKey { workspace, wrapped: vec![1] }];
            let public = public("a");
            let public_id = public.id();
            let append = Append { entries: vec![public], ..with_ops(entry, ops) };
            match runtime.block_on(ledger.append(append)) {
                Ok(appended) => stored.push((n, appended)),
                Err(AppendError::Unavailable(_)) => refused.push((id, public_id, n)),
                Err(AppendError::Undecided) => {}
                Err(error) => panic!("{error}"),
            }
        }
        runtime.block_on(ledger.shutdown());
    }
    let running = node.open();
    let reader = running.ledger.reader();
    let has_key = |n: usize| reader.workspace_key(&format!("key-{n}").parse().unwrap()).unwrap().is_some();
    for (n, Appended { events, entries }) in stored {
        let (placed, entry) = (&events[0], &entries[0]);
        let row = reader.public_entry(entry.id).unwrap().expect("acknowledged, and so found");
        assert_eq!((row.shard, row.index, row.leaf_hash()), (entry.shard, entry.index, entry.leaf));
        let row = reader.event(placed.id).unwrap().expect("acknowledged, and so found");
        assert_eq!(
            (row.shard, row.index, row.seq, row.commitment),
            (placed.shard, placed.index, placed.seq, placed.commitment)
        );
        assert!(has_key(n), "state moves with its events");
    }
    for (id, public, n) in refused {
        assert_eq!(reader.event(id).unwrap(), None, "refused, and so nothing was stored");
        assert_eq!(reader.public_entry(public).unwrap(), None);
        assert!(!has_key(n));
    }
    running.append_n("a", 1);
    drop(reader);
    drop(running);
    node.assert_sound();
    shared.lock().unwrap().fired
}

/// All the calls that a fault was tried at, for every step of a run.
fn every_step(base: &Node, begins_after: u64) -> Vec<(Mode, &'static str)> {
    let mut tried = Vec::new();
    for mode in [Mode::Lost, Mode::Kept] {
        for step in 0.. {
            let dir = tempfile::tempdir().unwrap();
            match run(base, dir.path(), &plan(mode, Some(step), begins_after)) {
                Some(call) => tried.push((mode, call)),
                None => break,
            }
        }
    }
    tried
}

fn assert_tried(tried: &[(Mode, &'static str)], calls: &[&str]) {
    for mode in [Mode::Lost, Mode::Kept] {
        for call in calls {
            assert!(tried.iter().any(|(m, c)| m == &mode && c == call), "{call} was never failed as {mode:?}");
        }
    }
}

#[test]
fn a_first_start_survives_every_fault() {
    let nowhere = Node::at("/nonexistent".into(), "/nonexistent".into());
    assert_tried(&every_step(&nowhere, 0), &["open_shard", "insert", "set_head", "commit", "apply"]);
}

#[test]
fn every_write_of_a_group_survives_every_fault() {
    let dir = tempfile::tempdir().unwrap();
    let base = Node::at(dir.path().join("base.db"), dir.path().join("head"));
    // Two leaves short of a complete tile.
    base.open().append_n("a", 253);
    for begins_after in [0, 1000] {
        let tried = every_step(&base, begins_after);
        assert_tried(&tried, &["apply", "insert", "insert_entry", "put_tile", "set_head", "commit"]);
    }
}

#[test]
fn an_undecided_group_is_answered_by_what_the_database_says_later() {
    for (mode, stored) in [(Mode::Lost, false), (Mode::Kept, true)] {
        let dir = tempfile::tempdir().unwrap();
        let node = Node::at(dir.path().join("ledger.db"), dir.path().join("head"));
        node.open().append_n("a", 1);
        // apply, insert, set_head, commit: the fourth call is the commit.
        let store = Faulty(SqliteStore::open(&node.database).unwrap(), plan(mode, Some(3), 3));
        let running = node.open_store(store);
        let first = entry("a");
        let id = first.event.id;
        let result = running.append(with_ops(first, Vec::new()));
        match (stored, result) {
            (true, Ok(appended)) => assert_eq!(appended.events[0].id, id),
            (false, Err(AppendError::Unavailable(_))) => {}
            (_, other) => panic!("{mode:?}: {other:?}"),
        }
        assert_eq!(running.ledger.reader().event(id).unwrap().is_some(), stored);
        assert!(!running.ledger.stats().undecided);
        running.append_n("a", 1);
    }
}

#[test]
fn an_undecided_group_of_public_entries_is_found_by_its_first() {
    for (mode, stored) in [(Mode::Lost, false), (Mode::Kept, true)] {
        let dir = tempfile::tempdir().unwrap();
        let node = Node::at(dir.path().join("ledger.db"), dir.path().join("head"));
        node.open().append_n("a", 1);
        // apply, insert_entry, set_head, commit.
        let store = Faulty(SqliteStore::open(&node.database).unwrap(), plan(mode, Some(3), 3));
        let running = node.open_store(store);
        let entry = public("a");
        let id = entry.id();
        let result = running.append(Append { entries: vec![entry], ..Append::default() });
        match (stored, result) {
            (true, Ok(appended)) => assert_eq!(appended.entries[0].id, id),
            (false, Err(AppendError::Unavailable(_))) => {}
            (_, other) => panic!("{mode:?}: {other:?}"),
        }
        assert_eq!(running.ledger.reader().public_entry(id).unwrap().is_some(), stored);
        running.append_n("a", 1);
        drop(running);
        assert_eq!(node.assert_sound().entries, u64::from(stored));
    }
}

#[test]
fn nothing_is_acknowledged_while_the_head_cannot_be_written_outside() {
    let dir = tempfile::tempdir().unwrap();
    // The head file's directory cannot be made, since a file has its name.
    std::fs::write(dir.path().join("outside"), b"").unwrap();
    let node = Node::at(dir.path().join("ledger.db"), dir.path().join("outside/head"));
    let store = SqliteStore::open(&node.database).unwrap();
    assert!(Ledger::open(store, LedgerOptions::new("log.example", SEED, &node.head)).is_err());
}
