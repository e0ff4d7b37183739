//! The one thread that writes: events in groups, tree growth and the new checkpoint in one durable transaction.
//!
//! It takes whatever waits and commits as soon as it is idle, never on a timer. Nobody is answered before the group is
//! durable in the database and its head is durable outside, which `outside` sees to while the next group commits. Where a
//! commit fails, the database's own head decides what happened; until it does, appends are refused and the group's own
//! callers wait.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use countersign_domain::WorkspaceName;
use countersign_proof::checkpoint::Checkpoint;
use countersign_proof::commitment::{commit, event_entry};
use countersign_proof::digest::Digest;
use countersign_proof::merkle::leaf_hash;
use countersign_proof::note::NoteSigner;
use uuid::Uuid;

use crate::contract::{CommitError, EventRow, Group, Head, Opening, Reader, Store, StoreError, Tail};
use crate::following::{contest, newest};
use crate::handle::{Append, AppendError, Appended, Counters, Entry, LedgerOptions, Placed, PlacedEntry};
use crate::leaf::{LogEntry, PublicEntry};
use crate::outside::{Answer, Answers, Durable, Outside, reply};
use crate::state::StateOp;
use crate::tree::{FullTile, Snapshot, Tree};

/// Housekeeping is asked for after this much idleness, and after this many groups.
const IDLE: Duration = Duration::from_secs(1);
const GROUPS_BETWEEN_HOUSEKEEPING: u64 = 64;
/// An undecided group is looked at again after this long, doubling up to the longest.
const FIRST_RETRY: Duration = Duration::from_millis(10);
const LAST_RETRY: Duration = Duration::from_secs(1);
/// How often an idle node looks at what others wrote to a shared log.
const FOLLOW: Duration = Duration::from_millis(200);
/// The same trouble is written down at most this often.
const REMIND: Duration = Duration::from_secs(10);
/// How often a node whose groups fail finds out by itself whether they still would.
const PROBE: Duration = Duration::from_secs(1);
/// The most workspace tails kept in memory.
const MAX_TAILS: usize = 16_384;

pub(crate) enum Job {
    Append { append: Append, answer: Answer },
    Stop,
}

type Tails = HashMap<WorkspaceName, Tail>;

pub(crate) struct Sequencer<S> {
    pub(crate) store: S,
    pub(crate) signer: NoteSigner,
    outside: Outside,
    pub(crate) options: LedgerOptions,
    pub(crate) counters: Arc<Counters>,
    /// The newest head that this process knows to be durable in the database, with its tree.
    pub(crate) current: Snapshot,
    tails: Tails,
    pending: Option<Pending>,
    /// Whether other processes append to the same log.
    shared: bool,
    /// Whether others' heads were taken over that did not go outside yet.
    ahead: bool,
    /// When trouble was last written down.
    reminded: Option<Instant>,
    /// When storing was last tried without anything to store.
    probed: Option<Instant>,
}

/// A group whose commit failed; the database has not yet said what it stored.
struct Pending {
    grown: Box<Grown>,
    answers: Answers,
    started: Instant,
    retry_at: Instant,
    backoff: Duration,
}

/// What a group makes of the ledger.
pub(crate) struct Grown {
    pub(crate) snapshot: Snapshot,
    tails: Tails,
    events: u64,
    /// Events and public entries.
    leaves: u64,
    /// The group's first leaf, to recognise it by.
    first: Option<First>,
}

/// The first leaf of a group: its index, and what nobody else has.
struct First {
    index: u64,
    mark: Mark,
}

enum Mark {
    /// Its salt makes it unique.
    Commitment(Digest),
    /// Another process may log the same body.
    EntryId(Uuid),
}

impl First {
    /// Whether it is what the database has at its place.
    fn is_stored(&self, reader: &dyn Reader, shard: u32) -> Result<bool, StoreError> {
        match self.mark {
            Mark::Commitment(commitment) => {
                let stored = reader.entries(shard, self.index, self.index + 1)?;
                Ok(stored.first() == Some(&LogEntry::Event(commitment)))
            }
            Mark::EntryId(id) => Ok(reader.public_entry_at(shard, self.index)?.is_some_and(|row| row.id == id)),
        }
    }
}

impl<S: Store> Sequencer<S> {
    pub(crate) fn new(
        store: S,
        signer: NoteSigner,
        outside: Outside,
        options: LedgerOptions,
        counters: Arc<Counters>,
        current: Snapshot,
    ) -> Self {
        let (shared, ahead, tails) = (store.is_shared(), false, Tails::new());
        let (pending, reminded, probed) = (None, None, None);
        Self { store, signer, outside, options, counters, current, tails, pending, shared, ahead, reminded, probed }
    }

    /// Runs until told to stop or until every handle is gone.
    pub(crate) fn run(mut self, queue: &Receiver<Job>) {
        let mut groups = 0;
        let mut stop = false;
        while !stop {
            let idle = if self.shared { FOLLOW } else { IDLE };
            let wait = self.pending.as_ref().map_or(idle, |p| p.retry_at.saturating_duration_since(Instant::now()));
            let first = match queue.recv_timeout(wait) {
                Ok(job) => Some(job),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            self.settle();
            let Some(first) = first else {
                self.follow();
                self.probe();
                self.maintain();
                continue;
            };
            let mut jobs = Vec::new();
            stop = self.collect(first, queue, &mut jobs);
            self.write(jobs);
            groups += 1;
            if groups % GROUPS_BETWEEN_HOUSEKEEPING == 0 {
                self.maintain();
            }
        }
        self.finish(queue);
    }

    /// Takes what waits, up to a group. Returns whether to stop after it.
    fn collect(&self, first: Job, queue: &Receiver<Job>, jobs: &mut Vec<(Append, Answer)>) -> bool {
        let mut next = Some(first);
        while let Some(job) = next {
            match job {
                Job::Append { append, answer } => {
                    self.counters.queued.fetch_sub(1, Ordering::Relaxed);
                    jobs.push((append, answer));
                }
                Job::Stop => return true,
            }
            next = if jobs.len() < self.options.max_group.max(1) { queue.try_recv().ok() } else { None };
        }
        false
    }

    /// Settles an undecided group if it can be, within the time that its callers are kept waiting, and refuses the rest.
    fn finish(mut self, queue: &Receiver<Job>) {
        while let Some(pending) = &self.pending
            && !pending.answers.is_empty()
        {
            std::thread::sleep(pending.retry_at.saturating_duration_since(Instant::now()));
            self.settle();
        }
        for job in queue.try_iter() {
            if let Job::Append { answer, .. } = job {
                self.counters.queued.fetch_sub(1, Ordering::Relaxed);
                reply(answer, Err(AppendError::Closed));
            }
        }
        self.outside.finish();
    }

    fn maintain(&mut self) {
        if let Err(error) = self.store.maintain() {
            tracing::warn!(%error, "housekeeping failed");
        }
    }

    /// Writes one group and answers it, or puts it aside as undecided.
    fn write(&mut self, jobs: Vec<(Append, Answer)>) {
        if jobs.is_empty() {
            return;
        }
        if self.pending.is_some() {
            return refuse(jobs, "the fate of an earlier group is not known yet");
        }
        if self.counters.head_stuck.load(Ordering::Acquire) {
            return refuse(jobs, "the head outside the database can't be written");
        }
        let started = Instant::now();
        match self.try_write(&jobs) {
            Ok(Written::Nothing(verdicts)) => {
                // What they conflict with may be in a group whose head is not outside yet: they are answered in their turn.
                let answers = pair(jobs, verdicts);
                let (snapshot, moves) = (self.current.clone(), std::mem::take(&mut self.ahead));
                self.outside.hand_over(Durable { snapshot, moves, leaves: 0, events: 0, answers, started });
            }
            Ok(Written::Durable(grown, verdicts)) => self.durable(grown, pair(jobs, verdicts), started),
            Ok(Written::Failed(grown, verdicts, error)) => {
                self.failed();
                tracing::error!(%error, "a commit failed; asking the database what it stored");
                self.undecided(grown, pair(jobs, verdicts), started);
            }
            Err(StoreError::Corrupt(error)) if jobs.len() > 1 => {
                // Nothing is stored. One append that the store cannot take (an id used twice, say) must not refuse those
                // that happened to share its group.
                self.tails.clear();
                tracing::error!(%error, "a group failed; its appends are tried one by one");
                jobs.into_iter().for_each(|job| self.write(vec![job]));
            }
            Err(error) => {
                // The transaction was rolled back before anything was committed: nothing of the group is stored.
                match error {
                    // One that could never be stored says nothing about the next one.
                    StoreError::Corrupt(_) => _ = self.counters.failures.fetch_add(1, Ordering::Relaxed),
                    StoreError::Database(_)
                    | StoreError::Full(_)
                    | StoreError::Unsafe(_)
                    | StoreError::Stale(_)
                    | StoreError::Unsettled(_)
                    | StoreError::Version { .. } => self.failed(),
                }
                self.tails.clear();
                self.trouble(&error);
                refuse(jobs, &error.to_string());
            }
        }
    }

    fn try_write(&mut self, jobs: &[(Append, Answer)]) -> Result<Written, StoreError> {
        let reader = self.store.reader();
        // COMMIT POINT 0: nothing is committed yet; if the process dies anywhere before `commit`, the database rolls the
        // whole group back, and nobody has been answered.
        let (mut group, adopted) = newest(self.store.begin()?, &self.current, &*reader, &self.signer)?;
        self.counters.stale.store(false, Ordering::Relaxed);
        if let Some(adopted) = adopted {
            (self.current, self.ahead) = (adopted.snapshot, true);
            go_on(&mut self.tails, adopted.tails);
        }
        let events = jobs.iter().flat_map(|(append, _)| &append.events);
        let unknown: HashSet<&WorkspaceName> =
            events.map(|entry| &entry.event.workspace).filter(|name| !self.tails.contains_key(*name)).collect();
        group.expect(&unknown.into_iter().collect::<Vec<_>>())?;
        let ops: Vec<&[StateOp]> = jobs.iter().map(|(append, _)| append.ops.as_slice()).collect();
        let outcomes = group.apply_all(&ops)?;
        let mut draft = Draft::new(&self.current, &self.tails);
        let mut verdicts = Vec::with_capacity(jobs.len());
        let mut changed = false;
        for ((append, _), outcome) in jobs.iter().zip(outcomes) {
            match outcome {
                Ok(()) => {
                    changed |= !(append.ops.is_empty() && append.events.is_empty() && append.entries.is_empty());
                    verdicts.push(Ok(draft.place(&mut *group, &append.events, &append.entries)?));
                }
                Err(conflict) => verdicts.push(Err(AppendError::Conflict(conflict))),
            }
        }
        if !changed {
            return Ok(Written::Nothing(verdicts));
        }
        let grown = draft.finish(&mut *group, &self.signer)?;
        // COMMIT POINT 1: if the process dies inside `commit`, the group is stored whole or not at all. Nobody was answered;
        // if it is stored, the next start finds the database one group ahead of the head file, which is in order.
        match group.commit() {
            Ok(()) => Ok(Written::Durable(grown, verdicts)),
            Err(CommitError::Undone(error)) => Err(error),
            Err(CommitError::Unknown(error)) => Ok(Written::Failed(grown, verdicts, error)),
        }
    }

    fn failed(&self) {
        self.counters.failures.fetch_add(1, Ordering::Relaxed);
        self.counters.failing.store(true, Ordering::Relaxed);
    }

    /// After a group that could not be stored, or a database that did not answer, an idle node tries for itself whether one could be: a balancer that sends no
    /// calls to a node which is not ready would otherwise never find it ready.
    fn probe(&mut self) {
        let failing = self.counters.failing.load(Ordering::Relaxed) && self.pending.is_none();
        if !failing || self.probed.is_some_and(|at| at.elapsed() < PROBE) {
            return;
        }
        self.probed = Some(Instant::now());
        match self.store_nothing() {
            Ok(()) => {
                self.counters.failing.store(false, Ordering::Relaxed);
                tracing::info!("the ledger can record again");
            }
            Err(error) => self.trouble(&error),
        }
    }

    /// A durable transaction that changes nothing: the head is written as it is.
    fn store_nothing(&mut self) -> Result<(), StoreError> {
        let reader = self.store.reader();
        let (mut group, adopted) = newest(self.store.begin()?, &self.current, &*reader, &self.signer)?;
        if let Some(adopted) = adopted {
            (self.current, self.ahead) = (adopted.snapshot, true);
            go_on(&mut self.tails, adopted.tails);
        }
        group.set_head(&self.current.head)?;
        group.commit().map_err(CommitError::cause)
    }

    /// The group is durable in the database: its head goes outside, then its callers are answered.
    fn durable(&mut self, grown: Grown, answers: Answers, started: Instant) {
        self.counters.failing.store(false, Ordering::Relaxed);
        if self.tails.len() > MAX_TAILS {
            self.tails.clear();
        }
        self.tails.extend(grown.tails);
        self.current = grown.snapshot;
        let moves = grown.leaves > 0 || std::mem::take(&mut self.ahead);
        self.ahead = false;
        let snapshot = self.current.clone();
        self.outside.hand_over(Durable {
            snapshot,
            moves,
            leaves: grown.leaves,
            events: grown.events,
            answers,
            started,
        });
    }

    /// Looks at what other nodes wrote, also while there is nothing to write: so that receipts are of the newest head, that
    /// this node's memory of what was signed is as new as it can be, and that it says in time whether a database that was
    /// started anew is the newest.
    fn follow(&mut self) {
        if !self.shared || self.pending.is_some() {
            return;
        }
        if let Err(error) = self.try_follow() {
            self.counters.failing.store(true, Ordering::Relaxed);
            self.trouble(&error);
        }
    }

    fn try_follow(&mut self) -> Result<(), StoreError> {
        let seen = self.store.peek()?;
        if seen.is_none_or(|p| !p.settled || (p.shard, p.size) != place(&self.current)) {
            let reader = self.store.reader();
            let (group, adopted) = newest(self.store.begin()?, &self.current, &*reader, &self.signer)?;
            group.commit().map_err(CommitError::cause)?;
            if let Some(adopted) = adopted {
                (self.current, self.ahead) = (adopted.snapshot, true);
                go_on(&mut self.tails, adopted.tails);
            }
        }
        self.counters.stale.store(false, Ordering::Relaxed);
        if std::mem::take(&mut self.ahead) {
            // As a group that others wrote, which nobody here waits for.
            let (snapshot, started) = (self.current.clone(), Instant::now());
            self.outside.hand_over(Durable {
                snapshot,
                moves: true,
                leaves: 0,
                events: 0,
                answers: Vec::new(),
                started,
            });
        }
        Ok(())
    }

    /// Says loudly, but not for every append, that nothing can be recorded.
    fn trouble(&mut self, error: &StoreError) {
        let stale = matches!(error, StoreError::Stale(_) | StoreError::Unsettled(_));
        let before = self.counters.stale.swap(stale, Ordering::Relaxed);
        if before != stale || self.reminded.is_none_or(|at| at.elapsed() >= REMIND) {
            self.reminded = Some(Instant::now());
            tracing::error!(%error, "the ledger cannot record");
        }
    }

    fn undecided(&mut self, grown: Grown, answers: Answers, started: Instant) {
        self.tails.clear();
        if grown.leaves == 0 {
            // Changes of state alone move no head, so that nothing would tell a stored group from a lost one.
            for (answer, _) in answers {
                reply(answer, Err(AppendError::Undecided));
            }
            return;
        }
        self.counters.undecided.store(true, Ordering::Relaxed);
        let grown = Box::new(grown);
        self.pending = Some(Pending { grown, answers, started, retry_at: Instant::now(), backoff: FIRST_RETRY });
        self.settle();
    }

    /// Finds out what became of the group that was put aside, if it is time to look.
    fn settle(&mut self) {
        let Some(mut pending) = self.pending.take_if(|p| p.retry_at <= Instant::now()) else { return };
        let found = self.look_for(&pending.grown);
        self.counters.undecided.store(found.is_err(), Ordering::Relaxed);
        match found {
            Ok(true) => self.durable(*pending.grown, pending.answers, pending.started),
            Ok(false) => {
                for (answer, _) in pending.answers {
                    reply(answer, Err(AppendError::Unavailable("the database did not store the group".into())));
                }
            }
            Err(error) => {
                tracing::error!(%error, "still undecided");
                if pending.started.elapsed() >= self.options.undecided_wait {
                    pending.answers.drain(..).for_each(|(answer, _)| reply(answer, Err(AppendError::Undecided)));
                }
                pending.retry_at = Instant::now() + pending.backoff;
                pending.backoff = (pending.backoff * 2).min(LAST_RETRY);
                self.pending = Some(pending);
            }
        }
    }

    /// Whether the database has the group, by its head in a new transaction.
    fn look_for(&mut self, grown: &Grown) -> Result<bool, StoreError> {
        let reader = self.store.reader();
        let mut group = self.store.begin()?;
        let head = group.head()?;
        // No salt makes a public entry unique: another process may have come to the same head with the same bodies.
        let unmistakable = grown.events > 0;
        let stored = if unmistakable && head.as_ref() == Some(&*grown.snapshot.head) {
            true
        } else if head.as_ref() == Some(&*self.current.head) {
            false
        } else {
            // The head is ours or, if another process has written, past it; and the leaf at our place is ours or not.
            let (same, first) = (&self.current.head, &grown.first);
            let past = head.filter(|h| h.shard > same.shard || h.shard == same.shard && h.size > same.size);
            let (Some(_), Some(first)) = (past, first) else {
                return Err(contest(group, same, "it lacks what was signed before a group of unknown fate"));
            };
            first.is_stored(&*reader, same.shard)?
        };
        // What an old database does not have may be in the newer one.
        let vouched = group.vouch();
        // Committed, so that a store which waits for its standbys has waited before anyone is told.
        group.commit().map_err(CommitError::cause)?;
        vouched.map(|()| stored)
    }
}

enum Written {
    /// Every append conflicted: nothing to commit.
    Nothing(Vec<Result<Appended, AppendError>>),
    Durable(Grown, Vec<Result<Appended, AppendError>>),
    /// The commit failed; what is stored is not known.
    Failed(Grown, Vec<Result<Appended, AppendError>>, StoreError),
}

/// A group being written: a tree that nobody else sees yet.
pub(crate) struct Draft<'a> {
    before: &'a Snapshot,
    known: &'a Tails,
    tree: Tree,
    tails: Tails,
    full: Vec<FullTile>,
    events: u64,
    first: Option<First>,
}

impl<'a> Draft<'a> {
    pub(crate) fn new(before: &'a Snapshot, known: &'a Tails) -> Self {
        let tree = (*before.tree).clone();
        Self { before, known, tree, tails: Tails::new(), full: Vec::new(), events: 0, first: None }
    }

    /// Gives events and, after them, public entries their places: sequence numbers, commitments, leaves.
    pub(crate) fn place(
        &mut self,
        group: &mut dyn Group,
        events: &[Entry],
        entries: &[PublicEntry],
    ) -> Result<Appended, StoreError> {
        Ok(Appended {
            events: events.iter().map(|event| self.place_event(group, event)).collect::<Result<_, _>>()?,
            entries: entries.iter().map(|entry| self.place_entry(group, entry)).collect::<Result<_, _>>()?,
        })
    }

    fn place_entry(&mut self, group: &mut dyn Group, entry: &PublicEntry) -> Result<PlacedEntry, StoreError> {
        let (shard, index) = (self.before.head.shard, self.tree.size());
        let row = entry.row(shard, index);
        group.insert_entry(&row)?;
        let (id, leaf) = (row.id, row.leaf_hash());
        self.tree.append(leaf, &mut self.full);
        self.first.get_or_insert(First { index, mark: Mark::EntryId(id) });
        Ok(PlacedEntry { id, shard, index, leaf })
    }

    fn place_event(&mut self, group: &mut dyn Group, entry: &Entry) -> Result<Placed, StoreError> {
        let event = &entry.event;
        let tail = match self.tails.get(&event.workspace).or_else(|| self.known.get(&event.workspace)) {
            Some(tail) => Some(*tail),
            None => group.tail(&event.workspace)?,
        };
        let seq = tail.map_or(1, |tail| tail.seq + 1);
        let body = event.seal(seq, tail.map(|tail| tail.commitment).as_ref());
        let commitment = commit(&entry.salt, &body);
        let (shard, index) = (self.before.head.shard, self.tree.size());
        let row = EventRow {
            shard,
            index,
            id: event.id,
            workspace: event.workspace.clone(),
            seq,
            kind: event.kind.as_str().to_owned(),
            time: event.time,
            commitment,
            opening: Some(Opening { salt: entry.salt, event: body, detail_salt: entry.detail_salt }),
            call: entry.call,
            principal: entry.principal.clone(),
            tool: entry.tool.clone(),
            subject: entry.subject.clone(),
        };
        group.insert(&row)?;
        self.tree.append(leaf_hash(&event_entry(&commitment)), &mut self.full);
        self.tails.insert(row.workspace, Tail { seq, commitment });
        self.events += 1;
        self.first.get_or_insert(First { index, mark: Mark::Commitment(commitment) });
        Ok(Placed { id: event.id, seq, shard, index, commitment })
    }

    /// Stores the tiles that became complete and the new head. A group without leaves leaves the head where it is.
    pub(crate) fn finish(self, group: &mut dyn Group, signer: &NoteSigner) -> Result<Grown, StoreError> {
        let before = &self.before.head;
        let (events, leaves) = (self.events, self.tree.size() - before.size);
        if leaves == 0 {
            return Ok(Grown { snapshot: self.before.clone(), tails: self.tails, events, leaves, first: None });
        }
        for (level, index, hashes) in &self.full {
            group.put_tile(before.shard, *level, *index, hashes)?;
        }
        let head = head_of(before.shard, &before.origin, &self.tree, signer)?;
        group.set_head(&head)?;
        let snapshot = Snapshot { head: Arc::new(head), tree: Arc::new(self.tree) };
        Ok(Grown { snapshot, tails: self.tails, events, leaves, first: self.first })
    }
}

/// The signed head of a tree.
pub(crate) fn head_of(shard: u32, origin: &str, tree: &Tree, signer: &NoteSigner) -> Result<Head, StoreError> {
    let (size, root) = (tree.size(), tree.root());
    let checkpoint = Checkpoint::new(origin, size, root).sign(signer);
    let checkpoint = checkpoint.map_err(|e| StoreError::Corrupt(format!("the head cannot be signed: {e}")))?;
    Ok(Head { shard, origin: origin.to_owned(), size, root, frontier: tree.frontier().hashes().to_vec(), checkpoint })
}

/// Tails that others moved on; all are forgotten where it is not known which.
fn go_on(tails: &mut Tails, moved: Option<Vec<(WorkspaceName, Tail)>>) {
    match moved {
        Some(moved) if tails.len() <= MAX_TAILS => tails.extend(moved),
        Some(_) | None => tails.clear(),
    }
}

fn place(snapshot: &Snapshot) -> (u32, u64) {
    (snapshot.head.shard, snapshot.head.size)
}

fn pair(jobs: Vec<(Append, Answer)>, verdicts: Vec<Result<Appended, AppendError>>) -> Answers {
    jobs.into_iter().map(|(_, answer)| answer).zip(verdicts).collect()
}

fn refuse(jobs: Vec<(Append, Answer)>, why: &str) {
    for (_, answer) in jobs {
        reply(answer, Err(AppendError::Unavailable(why.to_owned())));
    }
}
