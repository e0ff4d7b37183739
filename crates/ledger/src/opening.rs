//! Opening the ledger: sign on where the head outside the database agrees, open a new shard where it does not.
//!
//! A node never signs a tree that is not an extension of everything that it signed before. A restored backup, a lost head
//! file, a new key or a new domain therefore open a new shard (a new log with a new origin), whose first leaf says why and
//! names the last known checkpoint of its predecessor.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use countersign_domain::{EventDraft, EventType, WorkspaceName};
use countersign_proof::checkpoint::Checkpoint;
use countersign_proof::digest::Digest;
use countersign_proof::merkle::{self, Hash};
use countersign_proof::note::{NoteError, NoteSigner, SignedNote, VerifierKey};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::contract::{CommitError, EventRow, Group, Head, Reader, ShardRow, Store, StoreError};
use crate::following;
use crate::handle::{Counters, Entry, LedgerOptions};
use crate::head_file::{HeadFile, HeadFileError, HeadRecord, KnownHead};
use crate::outside::Outside;
use crate::sequencer::{Draft, Sequencer};
use crate::tree::{Snapshot, Tree, TreeReader};

/// How long a start waits for other nodes to speak for a database that was started anew.
const SETTLING: Duration = Duration::from_secs(20);

/// Why a shard was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenReason {
    /// There was no log.
    FirstStart,
    /// The database is behind a head that was signed: a backup was restored.
    Restored,
    /// The database has a log and the head outside is gone, so that nobody knows what was signed.
    HeadFileMissing,
    /// The head outside cannot be read.
    HeadFileDamaged,
    /// Database and head outside contradict one another.
    Forked,
    /// The log's key is another one.
    KeyChanged,
    /// The log's domain is another one.
    DomainChanged,
}

impl OpenReason {
    /// The word in the `log.opened` event.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::FirstStart => "first-start",
            Self::Restored => "restored",
            Self::HeadFileMissing => "head-file-missing",
            Self::HeadFileDamaged => "head-file-damaged",
            Self::Forked => "forked",
            Self::KeyChanged => "key-changed",
            Self::DomainChanged => "domain-changed",
        }
    }

    /// Whether events may be missing from the database that were signed before, so that numbers of a workspace's sequence
    /// may be given a second time.
    pub fn may_repeat_numbers(self) -> bool {
        match self {
            Self::FirstStart | Self::KeyChanged | Self::DomainChanged => false,
            Self::Restored | Self::HeadFileMissing | Self::HeadFileDamaged | Self::Forked => true,
        }
    }
}

/// The last known head of the log before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Predecessor {
    /// Its origin.
    pub origin: String,
    /// Leaves.
    pub size: u64,
    /// Root.
    pub root: Hash,
    /// The signed note.
    pub checkpoint: String,
}

/// How the ledger was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// Number of the open shard.
    pub shard: u32,
    /// Its origin.
    pub origin: String,
    /// Its verifier key (C2SP vkey).
    pub vkey: String,
    /// Leaves.
    pub size: u64,
    /// Why a shard was opened just now; `None` if an existing one goes on.
    pub reason: Option<OpenReason>,
    /// What a shard that was opened just now names as its predecessor.
    pub predecessor: Option<Predecessor>,
    /// The `log.opened` event of a shard that was opened just now.
    pub event: Option<Uuid>,
}

/// Why the ledger must not be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The store fails, or its data is damaged: run `fsck`.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The head outside the database cannot be used.
    #[error(transparent)]
    HeadFile(#[from] HeadFileError),
    /// The domain cannot be part of an origin.
    #[error("the log's domain cannot be used: {0}")]
    Domain(#[from] NoteError),
    /// The log is shared, and the database is behind what this node signed.
    #[error(
        "the database is behind what was signed, so this node does not sign on it: {0}. Bring the newer database back; if it \
         is lost, `countersign log reopen` opens a new shard that says so"
    )]
    Stale(String),
    /// The log is shared, and this node does not know what was signed.
    #[error(
        "the database has a log, and this node has no head file that says what was signed: bring it back, or let the node \
         join (join = true, or --join) if other nodes keep theirs"
    )]
    NotJoined,
    /// The log is shared, and its key or its domain is not this node's.
    #[error(
        "{what} of the log in the database is not this node's ({theirs}): all nodes of a log have the same; {advice}"
    )]
    NotOurs {
        /// Which of them.
        what: &'static str,
        /// The database's.
        theirs: String,
        /// What to do.
        advice: &'static str,
    },
    /// The writer could not be started.
    #[error("the writer's thread: {0}")]
    Thread(String),
}

/// Where the newest head is shown.
type Published = Arc<ArcSwap<Snapshot>>;

/// Compares, decides, opens a shard if needed, and hands out a sequencer that is ready to run and the place where it
/// publishes its heads.
pub(crate) fn open<S: Store>(
    mut store: S,
    options: LedgerOptions,
    counters: Arc<Counters>,
) -> Result<(Sequencer<S>, Published, Opened), OpenError> {
    check_domain(&options.log_domain)?;
    let (mut head_file, record) = HeadFile::open(&options.head_file)?;
    let (reader, store_is_shared) = (store.reader(), store.is_shared());
    // One group from the look to the new shard: no other process can write in between.
    let mut group = store.begin()?;
    let head = group.head()?;
    let plan = plan(&*reader, head.as_ref(), &record, &options)?;
    let (plan, mut group) = match (store_is_shared && !options.reopen, plan) {
        (true, plan) => permitted(plan, group, &*reader, head.as_ref(), &record, &options)?,
        (false, plan) => (plan, group),
    };
    let (signer, current, opened) = match plan {
        Plan::GoOn(head) => {
            if store_is_shared {
                let settled = group.vouch();
                group.commit().map_err(CommitError::cause)?;
                if let Err(error) = settled {
                    wait_until_settled(&mut store, error)?;
                }
            } else {
                drop(group);
            }
            let signer = NoteSigner::from_seed(head.origin.clone(), options.seed)?;
            let tree = load(&*reader, &head)?;
            (signer, Snapshot { head: Arc::new(head), tree: Arc::new(tree) }, None)
        }
        Plan::NewShard { reason, number, predecessor } => {
            let origin = format!("{}.{}", hex16(), options.log_domain);
            let signer = NoteSigner::from_seed(origin, options.seed)?;
            let held = head.as_ref();
            let (event, current) = new_shard(group, &signer, &options, number, reason, predecessor.as_ref(), held)?;
            (signer, current, Some((reason, predecessor, event)))
        }
    };
    // The same as after any group: the head goes outside before anyone is told. If the process dies before this, the next
    // start finds the database ahead of the head file, in this shard or in one that names the file's head as predecessor.
    head_file.write(current.head.shard, &current.head.checkpoint)?;
    let (reason, predecessor, event) = match opened {
        Some((reason, predecessor, event)) => (Some(reason), predecessor, Some(event)),
        None => (None, None, None),
    };
    let opened = Opened {
        shard: current.head.shard,
        origin: current.head.origin.clone(),
        vkey: signer.verifier_key().to_string(),
        size: current.head.size,
        reason,
        predecessor,
        event,
    };
    let published = Arc::new(ArcSwap::from_pointee(current.clone()));
    let write = move |shard, note: &str| head_file.write(shard, note);
    let outside = Outside::start(write, Arc::clone(&published), Arc::clone(&counters), options.undecided_wait)
        .map_err(|e| OpenError::Thread(e.to_string()))?;
    Ok((Sequencer::new(store, signer, outside, options, counters, current), published, opened))
}

/// On a shared log a new shard is an operator's decision: another node may just know more than this one.
fn permitted<'g>(
    plan: Plan,
    mut group: Box<dyn Group + 'g>,
    reader: &dyn Reader,
    head: Option<&Head>,
    record: &HeadRecord,
    options: &LedgerOptions,
) -> Result<(Plan, Box<dyn Group + 'g>), OpenError> {
    let reason = match plan {
        Plan::GoOn(_) => return Ok((plan, group)),
        Plan::NewShard { reason, .. } => reason,
    };
    match (reason, head) {
        (OpenReason::FirstStart, _) => {
            // Somebody may know better than an empty database.
            group.vouch()?;
            Ok((plan, group))
        }
        (OpenReason::HeadFileMissing | OpenReason::HeadFileDamaged, Some(head)) if options.join => {
            match another(&reader.shards()?, head, options)? {
                None => Ok((Plan::GoOn(head.clone()), group)),
                Some(reason) => Err(not_ours(reason, head)),
            }
        }
        (OpenReason::HeadFileMissing | OpenReason::HeadFileDamaged, _) => Err(OpenError::NotJoined),
        (OpenReason::Restored | OpenReason::Forked, _) => Err(OpenError::Stale(match record {
            HeadRecord::Known(known) => contest_known(group, known, options),
            HeadRecord::Missing | HeadRecord::Damaged => reason.as_str().to_owned(),
        })),
        (OpenReason::KeyChanged | OpenReason::DomainChanged, Some(head)) => Err(not_ours(reason, head)),
        (OpenReason::KeyChanged | OpenReason::DomainChanged, None) => Err(OpenError::NotJoined),
    }
}

fn not_ours(reason: OpenReason, head: &Head) -> OpenError {
    let (what, advice) = match reason {
        OpenReason::DomainChanged => ("the domain", "set log_domain"),
        _ => ("the key", "copy the keys directory of the first node, or name it in keys_dir"),
    };
    OpenError::NotOurs { what, theirs: head.origin.clone(), advice }
}

/// Contests the database, if the head outside was signed by this log's key: a damaged or foreign file must not stop the
/// other nodes.
fn contest_known(group: Box<dyn Group + '_>, known: &KnownHead, options: &LedgerOptions) -> String {
    let Checkpoint { origin, size, root, .. } = known.checkpoint.clone();
    let key = NoteSigner::from_seed(origin.clone(), options.seed).map(|signer| signer.verifier_key());
    let head = Head { shard: known.shard, origin, size, root, frontier: Vec::new(), checkpoint: known.note.clone() };
    match key {
        Ok(key) if Checkpoint::open(&known.note, &key).is_ok() => {
            following::contest(group, &head, "a node that starts has a newer head").to_string()
        }
        Ok(_) | Err(_) => format!("the head file has {} at {} leaves, signed by another key", head.origin, head.size),
    }
}

/// Waits for the other nodes to say that the database is the newest: a moment, or the time after which they count as dead.
fn wait_until_settled(store: &mut impl Store, mut why: StoreError) -> Result<(), OpenError> {
    let end = Instant::now() + SETTLING;
    while matches!(why, StoreError::Unsettled(_)) && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(100));
        let mut group = store.begin()?;
        let settled = group.vouch();
        group.commit().map_err(CommitError::cause)?;
        match settled {
            Ok(()) => return Ok(()),
            Err(error) => why = error,
        }
    }
    Err(why.into())
}

/// An origin is a hostname, and every line of a checkpoint that fits the head file.
fn check_domain(domain: &str) -> Result<(), NoteError> {
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && l.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    if domain.len() <= 236 && domain.split('.').all(label) { Ok(()) } else { Err(NoteError::KeyName) }
}

fn hex16() -> String {
    format!("{:016x}", rand::random::<u64>())
}

#[allow(clippy::large_enum_variant, reason = "made once per start")]
enum Plan {
    GoOn(Head),
    NewShard { reason: OpenReason, number: u32, predecessor: Option<Predecessor> },
}

/// What the head in the database and the head outside say together. See the table in `docs/ledger.md`.
fn plan(
    reader: &dyn Reader,
    head: Option<&Head>,
    record: &HeadRecord,
    options: &LedgerOptions,
) -> Result<Plan, StoreError> {
    let shards = reader.shards()?;
    let outside = match record {
        HeadRecord::Known(known) => Some(known),
        HeadRecord::Missing | HeadRecord::Damaged => None,
    };
    // Neither the database's numbers nor those that a lost database gave are used again.
    let used = shards.iter().map(|s| s.shard).chain(outside.map(|k| k.shard)).max();
    let number = used.map_or(0, |n| n + 1);
    let new = |reason, predecessor| Ok(Plan::NewShard { reason, number, predecessor });
    let Some(head) = head else {
        return match record {
            HeadRecord::Missing => new(OpenReason::FirstStart, None),
            HeadRecord::Damaged => new(OpenReason::HeadFileDamaged, None),
            HeadRecord::Known(known) => new(OpenReason::Restored, Some(from_outside(known))),
        };
    };
    let known = match record {
        HeadRecord::Missing => return new(OpenReason::HeadFileMissing, Some(from_database(head))),
        HeadRecord::Damaged => return new(OpenReason::HeadFileDamaged, Some(from_database(head))),
        HeadRecord::Known(known) => known,
    };
    match compare(reader, head, known, &shards)? {
        Standing::Extends => {}
        Standing::Behind => return new(OpenReason::Restored, Some(from_outside(known))),
        Standing::Contradicts => return new(OpenReason::Forked, Some(from_outside(known))),
    }
    if let Some(reason) = another(&shards, head, options)? {
        return new(reason, Some(from_database(head)));
    }
    Ok(Plan::GoOn(head.clone()))
}

/// Why the open shard is not one that this key and domain go on with.
fn another(shards: &[ShardRow], head: &Head, options: &LedgerOptions) -> Result<Option<OpenReason>, StoreError> {
    let ours = NoteSigner::from_seed(head.origin.clone(), options.seed);
    let ours = ours.map_err(|e| StoreError::Corrupt(format!("origin {:?}: {e}", head.origin)))?.verifier_key();
    let stored = shards.iter().find(|s| s.shard == head.shard).map(|s| s.vkey.as_str());
    if stored != Some(ours.to_string().as_str()) {
        return Ok(Some(OpenReason::KeyChanged));
    }
    if head.origin.split_once('.').map(|(_, domain)| domain) != Some(options.log_domain.as_str()) {
        return Ok(Some(OpenReason::DomainChanged));
    }
    check_signature(head, &ours)?;
    Ok(None)
}

enum Standing {
    /// The database holds everything that the head outside stands for.
    Extends,
    /// The head outside is newer.
    Behind,
    /// Neither extends the other.
    Contradicts,
}

fn compare(reader: &dyn Reader, head: &Head, known: &KnownHead, shards: &[ShardRow]) -> Result<Standing, StoreError> {
    let outside = &known.checkpoint;
    let Some(shard) = shards.iter().find(|s| s.origin == outside.origin) else { return Ok(Standing::Behind) };
    let size = if shard.shard == head.shard { head.size } else { shard.size };
    if outside.size <= size {
        let root = merkle::root(&TreeReader::new(reader, shard.shard, size), outside.size)?;
        return Ok(if root == outside.root { Standing::Extends } else { Standing::Contradicts });
    }
    // The database lacks leaves of that shard. That is in order only if the next shard was opened because of it, and the
    // process died before the new shard's head went outside.
    let next = shards.iter().filter(|s| s.shard > shard.shard).min_by_key(|s| s.shard);
    let named = match next {
        Some(next) => named_predecessor(reader, next)?,
        None => None,
    };
    let covers = |p: &Checkpoint| {
        p.origin == outside.origin && (p.size > outside.size || p.size == outside.size && p.root == outside.root)
    };
    Ok(if named.as_ref().is_some_and(covers) { Standing::Extends } else { Standing::Behind })
}

/// What a shard's `log.opened` event says of its predecessor.
pub(crate) fn named_predecessor(reader: &dyn Reader, shard: &ShardRow) -> Result<Option<Checkpoint>, StoreError> {
    let first = reader.leaves(shard.shard, 0, 1)?.into_iter().next();
    Ok(first.as_ref().and_then(predecessor_of))
}

/// The predecessor that a `log.opened` event names, by the signed note inside.
pub(crate) fn predecessor_of(row: &EventRow) -> Option<Checkpoint> {
    let event: Value = serde_json::from_slice(&row.opening.as_ref()?.event).ok()?;
    let note = event.pointer("/predecessor/checkpoint")?.as_str()?;
    Checkpoint::parse(SignedNote::parse(note).ok()?.text()).ok()
}

fn check_signature(head: &Head, key: &VerifierKey) -> Result<(), StoreError> {
    match Checkpoint::open(&head.checkpoint, key) {
        Ok(signed) if signed.size == head.size && signed.root == head.root => Ok(()),
        Ok(_) => Err(StoreError::Corrupt("the head is not what its checkpoint says".into())),
        Err(error) => Err(StoreError::Corrupt(format!("the head's checkpoint: {error}"))),
    }
}

/// The tree under a head, which must lead to the head's root.
fn load(reader: &dyn Reader, head: &Head) -> Result<Tree, StoreError> {
    let tree = Tree::load(reader, head.shard, head.size)?;
    if tree.root() == head.root && tree.frontier().hashes() == head.frontier {
        Ok(tree)
    } else {
        Err(StoreError::Corrupt("the stored tree does not lead to the head's root".into()))
    }
}

fn from_outside(known: &KnownHead) -> Predecessor {
    let Checkpoint { origin, size, root, .. } = known.checkpoint.clone();
    Predecessor { origin, size, root, checkpoint: known.note.clone() }
}

fn from_database(head: &Head) -> Predecessor {
    let Head { origin, size, root, checkpoint, .. } = head.clone();
    Predecessor { origin, size, root, checkpoint }
}

/// Opens a shard with its first leaf, in the group given.
fn new_shard(
    mut group: Box<dyn Group + '_>,
    signer: &NoteSigner,
    options: &LedgerOptions,
    number: u32,
    reason: OpenReason,
    predecessor: Option<&Predecessor>,
    held: Option<&Head>,
) -> Result<(Uuid, Snapshot), OpenError> {
    let (origin, vkey) = (signer.name().to_owned(), signer.verifier_key().to_string());
    let entry = opening_entry(options, &origin, &vkey, number, reason, predecessor, held)?;
    let id = entry.event.id;
    group.open_shard(&ShardRow { shard: number, origin: origin.clone(), vkey, checkpoint: None, size: 0 })?;
    let tree = Tree::new();
    let empty =
        Head { shard: number, origin, size: 0, root: tree.root(), frontier: Vec::new(), checkpoint: String::new() };
    let before = Snapshot { head: Arc::new(empty), tree: Arc::new(tree) };
    let nothing = std::collections::HashMap::new();
    let mut draft = Draft::new(&before, &nothing);
    draft.place(&mut *group, &[entry], &[])?;
    let grown = draft.finish(&mut *group, signer)?;
    // COMMIT POINT: if this fails, or the process dies here, the next start decides again from what is stored.
    group.commit().map_err(CommitError::cause)?;
    Ok((id, grown.snapshot))
}

fn opening_entry(
    options: &LedgerOptions,
    origin: &str,
    vkey: &str,
    number: u32,
    reason: OpenReason,
    predecessor: Option<&Predecessor>,
    held: Option<&Head>,
) -> Result<Entry, StoreError> {
    let now = (options.clock)();
    let id = uuid::Builder::from_unix_timestamp_millis(now, &rand::random()).into_uuid();
    let checkpoint = |origin: &str, size: u64, root: &Hash| json!({"origin": origin, "size": size, "root": Digest(*root).to_base64()});
    let predecessor = predecessor.map(|p| {
        let mut value = checkpoint(&p.origin, p.size, &p.root);
        value["checkpoint"] = p.checkpoint.as_str().into();
        value
    });
    let event = EventDraft::new(id, WorkspaceName::node(), EventType::LogOpened, now)
        .with("origin", origin)
        .with("vkey", vkey)
        .with("shard", number)
        .with("reason", reason.as_str())
        .with("predecessor", predecessor)
        .with("database", held.map(|h| checkpoint(&h.origin, h.size, &h.root)))
        .with("sequences", if reason.may_repeat_numbers() { "may-repeat" } else { "continue" });
    let event = event.prepare().map_err(|e| StoreError::Corrupt(format!("the opening event: {e}")))?;
    Ok(Entry::new(event))
}
