//! The ledger's own audit: rebuilds every tree from the stored leaves and says what does not fit.
//!
//! It reads in pages and keeps, for each tree, one incomplete tile a level; beyond that, memory grows with the number of
//! workspaces and of erasures. It changes nothing and may run beside a working node. The findings are listed in
//! `docs/ledger.md`.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::PathBuf;

use countersign_domain::{EventType, WorkspaceName};
use countersign_proof::canonical::{parse_strict, to_canonical};
use countersign_proof::checkpoint::Checkpoint;
use countersign_proof::commitment::commit;
use countersign_proof::digest::Digest;
use countersign_proof::merkle::{self, Hash};
use countersign_proof::note::VerifierKey;
use serde_json::Value;
use uuid::Uuid;

use crate::contract::{EventRow, Head, Reader, ShardRow, StoreError, Tail};
use crate::head_file::{self, HeadRecord};
use crate::leaf::{EntryRow, Leaf, Step, Walk, check_body};
use crate::opening::{OpenReason, predecessor_of};
use crate::receipts::EVENT_LIMITS;
use crate::tree::{FullTile, TILE, Tree, TreeReader};

/// The most findings that are kept; the others are counted.
pub const MAX_FINDINGS: usize = 1000;
/// Progress is told after so many leaves.
const PAGE: u64 = 500;

/// What to check against, beyond the database itself.
#[derive(Debug, Clone, Default)]
pub struct FsckOptions {
    /// The head outside the database.
    pub head_file: Option<PathBuf>,
    /// If not empty, every shard's key must be one of these public keys, whatever its name.
    pub anchors: Vec<VerifierKey>,
}

macro_rules! findings {
    ($($(#[$doc:meta])* $variant:ident = $name:literal;)*) => {
        /// What does not fit.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum FindingKind { $($(#[$doc])* $variant,)* }
        impl FindingKind {
            /// Every kind.
            pub const ALL: &'static [FindingKind] = &[$(FindingKind::$variant,)*];
            /// Its stable name.
            pub fn as_str(self) -> &'static str { match self { $(Self::$variant => $name,)* } }
        }
    };
}

findings! {
    /// Something could not be read; what depends on it was not checked.
    Unreadable = "unreadable";
    /// There are events or shards and no head, or a head of no shard.
    HeadMissing = "head-missing";
    /// A leaf is missing before the end of its shard.
    LeafMissing = "leaf-missing";
    /// An event and a public entry stand at the same leaf.
    LeafDoubled = "leaf-doubled";
    /// The body of a public entry is not the RFC 8785 form of a JSON object, or too long.
    EntryMalformed = "entry-malformed";
    /// A stored body and salt do not lead to the commitment.
    CommitmentMismatch = "commitment-mismatch";
    /// A stored body is not the RFC 8785 form of a JSON object.
    EventMalformed = "event-malformed";
    /// What the row says for look-ups is not what the event says.
    EventMismatch = "event-mismatch";
    /// A body is gone and no `event.erased` event names it.
    ErasureUnlogged = "erasure-unlogged";
    /// An `event.erased` event names an event whose body is still there.
    ErasedBodyPresent = "erased-body-present";
    /// A workspace's numbers leave one out or repeat one.
    SequenceGap = "sequence-gap";
    /// An event's `prev` is not the commitment of the one before.
    PrevMismatch = "prev-mismatch";
    /// The stored end of a workspace's sequence is not the one found.
    TailMismatch = "tail-mismatch";
    /// The row of a complete tile is not stored.
    TileMissing = "tile-missing";
    /// A stored tile is not the one that the leaves lead to.
    TileMismatch = "tile-mismatch";
    /// The leaves lead to another root than the head or the shard's checkpoint says.
    RootMismatch = "root-mismatch";
    /// The stored frontier is not the one that the leaves lead to.
    FrontierMismatch = "frontier-mismatch";
    /// A checkpoint says another size or origin than the row beside it.
    CheckpointMismatch = "checkpoint-mismatch";
    /// A checkpoint is not signed by its shard's key.
    CheckpointSignature = "checkpoint-signature";
    /// A shard's key is none of the anchors.
    KeyUnknown = "key-unknown";
    /// A shard does not begin with its own `log.opened` event.
    OpeningMissing = "opening-missing";
    /// A `log.opened` event does not name the shard before it as the database has it.
    PredecessorMismatch = "predecessor-mismatch";
    /// The head outside the database is missing.
    HeadFileMissing = "head-file-missing";
    /// The head outside the database cannot be read.
    HeadFileDamaged = "head-file-damaged";
    /// The head outside is newer than the database.
    HeadFileAhead = "head-file-ahead";
    /// The head outside is of another tree than the database's.
    HeadFileContradicts = "head-file-contradicts";
}

/// One thing that does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What kind of thing.
    pub kind: FindingKind,
    /// In which shard, if in one.
    pub shard: Option<u32>,
    /// At which leaf, if at one.
    pub index: Option<u64>,
    /// More words for a person.
    pub detail: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.as_str())?;
        if let Some(shard) = self.shard {
            write!(f, " shard {shard}")?;
        }
        if let Some(index) = self.index {
            write!(f, " leaf {index}")?;
        }
        write!(f, ": {}", self.detail)
    }
}

/// What was looked at and what was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FsckReport {
    /// Shards rebuilt.
    pub shards: u64,
    /// Events read.
    pub events: u64,
    /// Public entries read.
    pub entries: u64,
    /// Commitments computed again from stored bodies.
    pub recomputed: u64,
    /// Events without a body, each named by an `event.erased` event unless a finding says otherwise.
    pub erased: u64,
    /// Complete tiles compared.
    pub tiles: u64,
    /// What does not fit, at most [`MAX_FINDINGS`].
    pub findings: Vec<Finding>,
    /// Findings beyond that.
    pub more_findings: u64,
}

impl FsckReport {
    /// The report for programs: what `POST /admin/fsck` and `log fsck --json` answer.
    pub fn to_json(&self) -> Value {
        serde_json::json!({
            "ok": self.is_ok(),
            "shards": self.shards,
            "events": self.events,
            "entries": self.entries,
            "recomputed": self.recomputed,
            "erased": self.erased,
            "tiles": self.tiles,
            "findings": self.findings.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "more_findings": self.more_findings,
        })
    }

    /// Whether everything fits.
    pub fn is_ok(&self) -> bool {
        self.findings.is_empty() && self.more_findings == 0
    }

    fn add(&mut self, kind: FindingKind, shard: Option<u32>, index: Option<u64>, detail: impl Into<String>) {
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(Finding { kind, shard, index, detail: detail.into() });
        } else {
            self.more_findings += 1;
        }
    }
}

/// Checks the whole ledger up to the head that it has when this begins.
pub fn fsck(reader: &dyn Reader, options: &FsckOptions) -> FsckReport {
    fsck_with(reader, options, &mut |_, _| {})
}

/// Like [`fsck`], and tells after every page how many leaves were read, of how many.
pub fn fsck_with(reader: &dyn Reader, options: &FsckOptions, progress: &mut dyn FnMut(u64, u64)) -> FsckReport {
    let mut audit = Audit {
        reader,
        options,
        report: FsckReport::default(),
        tails: HashMap::new(),
        missing: HashMap::new(),
        pardoned: HashSet::new(),
    };
    if let Err(error) = audit.run(progress) {
        audit.report.add(FindingKind::Unreadable, None, None, error.to_string());
    }
    audit.report
}

struct Audit<'a> {
    reader: &'a dyn Reader,
    options: &'a FsckOptions,
    report: FsckReport,
    tails: HashMap<WorkspaceName, Tail>,
    /// Events without a body that no `event.erased` event has named yet.
    missing: HashMap<Uuid, (u32, u64)>,
    /// Named by an `event.erased` event before they were met, which a restored shard can bring about.
    pardoned: HashSet<Uuid>,
}

impl Audit<'_> {
    fn run(&mut self, progress: &mut dyn FnMut(u64, u64)) -> Result<(), StoreError> {
        // Read before the head, so that a working node makes the database newer than this, never older.
        let outside = self.options.head_file.as_deref().map(head_file::read);
        let head = self.reader.head()?;
        let shards = self.reader.shards()?;
        let sizes = |s: &ShardRow| head.as_ref().filter(|h| h.shard == s.shard).map_or(s.size, |h| h.size);
        let total = shards.iter().map(sizes).sum();
        // A shard opened while this runs is not of interest.
        let known = |s: &&ShardRow| head.as_ref().is_none_or(|h| s.shard <= h.shard);
        let mut before: Option<(&ShardRow, u64, Hash)> = None;
        for shard in shards.iter().filter(known) {
            let size = sizes(shard);
            let tree = self.leaves(shard, size, before, &mut |done| progress(done, total))?;
            let open = head.as_ref().filter(|h| h.shard == shard.shard);
            self.check_shard(shard, size, &tree, open);
            before = Some((shard, size, tree.root()));
            self.report.shards += 1;
        }
        self.check_head(head.as_ref(), &shards);
        self.check_tails()?;
        for (id, (shard, index)) in std::mem::take(&mut self.missing) {
            let detail = format!("event {id} has no body and no erasure event");
            self.report.add(FindingKind::ErasureUnlogged, Some(shard), Some(index), detail);
        }
        match outside {
            Some(Ok(record)) => self.check_outside(&record, head.as_ref(), &shards),
            Some(Err(error)) => {
                self.report.add(FindingKind::HeadFileDamaged, None, None, error.to_string());
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Rebuilds a shard's tree, leaf by leaf.
    fn leaves(
        &mut self,
        shard: &ShardRow,
        size: u64,
        before: Option<(&ShardRow, u64, Hash)>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Tree, StoreError> {
        let mut tree = Tree::new();
        let mut full = Vec::new();
        let mut walk = Walk::new(self.reader, shard.shard, 0);
        while tree.size() < size {
            let Some(leaf) = self.next_leaf(&mut walk, shard.shard, tree.size(), size)? else { break };
            if tree.size() == 0 {
                self.check_opening(shard, &leaf, before);
            }
            match &leaf {
                Leaf::Event(row) => self.check_event(row),
                Leaf::Public(row) => self.check_entry(row),
            }
            tree.append(leaf.hash(), &mut full);
            self.check_tiles(shard.shard, &mut full)?;
            if tree.size().is_multiple_of(PAGE) || tree.size() == size {
                progress(self.report.events + self.report.entries);
            }
        }
        Ok(tree)
    }

    /// The leaf at an index of a shard; none if it is missing, after which nothing of the shard can be hashed.
    fn next_leaf(
        &mut self,
        walk: &mut Walk<'_>,
        shard: u32,
        index: u64,
        size: u64,
    ) -> Result<Option<Leaf>, StoreError> {
        match walk.step()? {
            Step::Leaf(leaf) => Ok(Some(leaf)),
            Step::Doubled(event, entry) => {
                let detail = format!("event {} and public entry {}", event.id, entry.id);
                self.report.add(FindingKind::LeafDoubled, Some(shard), Some(index), detail);
                // Which of the two was signed is told by the root, which the other does not lead to.
                Ok(Some(Leaf::Event(event)))
            }
            Step::Missing => {
                let detail = format!("{size} leaves are to be there, and this one is not");
                self.report.add(FindingKind::LeafMissing, Some(shard), Some(index), detail);
                Ok(None)
            }
        }
    }

    fn check_entry(&mut self, row: &EntryRow) {
        self.report.entries += 1;
        if let Err(error) = check_body(&row.body) {
            self.report.add(FindingKind::EntryMalformed, Some(row.shard), Some(row.index), error.to_string());
        }
    }

    fn check_tiles(&mut self, shard: u32, full: &mut Vec<FullTile>) -> Result<(), StoreError> {
        for (level, index, hashes) in full.drain(..) {
            self.report.tiles += 1;
            let tile = format!("tile {level}/{index}");
            match self.reader.tile(shard, level, index)? {
                Some(stored) if stored == hashes => {}
                Some(stored) => {
                    // In the lowest row, the first hash that differs is that of a leaf.
                    let differs = hashes.iter().zip(&stored).position(|(ours, stored)| ours != stored);
                    let leaf = differs.filter(|_| level == 0).map(|at| index * TILE as u64 + at as u64);
                    self.report.add(FindingKind::TileMismatch, Some(shard), leaf, tile);
                }
                None => self.report.add(FindingKind::TileMissing, Some(shard), None, tile),
            }
        }
        Ok(())
    }

    fn check_event(&mut self, row: &EventRow) {
        self.report.events += 1;
        let at = |kind, detail: &str| (kind, Some(row.shard), Some(row.index), detail.to_owned());
        let last = self.tails.insert(row.workspace.clone(), Tail { seq: row.seq, commitment: row.commitment });
        let mut found = Vec::new();
        if row.seq != last.map_or(1, |tail| tail.seq + 1) {
            let after = last.map_or(0, |tail| tail.seq);
            let detail = format!("number {} follows {after} in workspace {}", row.seq, row.workspace);
            found.push(at(FindingKind::SequenceGap, &detail));
        }
        match &row.opening {
            None => self.note_erased(row),
            Some(opening) => {
                self.report.recomputed += 1;
                if commit(&opening.salt, &opening.event) != row.commitment {
                    found.push(at(FindingKind::CommitmentMismatch, "body and salt lead to another commitment"));
                }
                match parse_strict(&opening.event, &EVENT_LIMITS) {
                    Ok(event) => {
                        if to_canonical(&event).ok().as_ref() != Some(&opening.event) {
                            found.push(at(FindingKind::EventMalformed, "the body is not in canonical form"));
                        }
                        if let Some(member) = mismatch(row, &event) {
                            found.push(at(FindingKind::EventMismatch, &format!("{member} differs from the event's")));
                        }
                        let prev = last.map(|tail| tail.commitment.to_string());
                        if event.get("prev").and_then(Value::as_str) != prev.as_deref() {
                            found.push(at(FindingKind::PrevMismatch, "prev is not the commitment of the event before"));
                        }
                        self.note_erasures(row, &event);
                    }
                    Err(error) => found.push(at(FindingKind::EventMalformed, &error.to_string())),
                }
            }
        }
        for (kind, shard, index, detail) in found {
            self.report.add(kind, shard, index, detail);
        }
    }

    fn note_erased(&mut self, row: &EventRow) {
        self.report.erased += 1;
        if !self.pardoned.remove(&row.id) {
            self.missing.insert(row.id, (row.shard, row.index));
        }
    }

    fn note_erasures(&mut self, row: &EventRow, event: &Value) {
        if row.kind != EventType::EventErased.as_str() {
            return;
        }
        let ids: Vec<Uuid> = match event.get("erased") {
            Some(Value::Array(ids)) => ids.iter().filter_map(|id| id.as_str()?.parse().ok()).collect(),
            Some(id) => id.as_str().and_then(|id| id.parse().ok()).into_iter().collect(),
            None => Vec::new(),
        };
        for id in ids {
            if self.missing.remove(&id).is_some() {
                continue;
            }
            match self.reader.event(id) {
                Ok(Some(named)) if named.opening.is_some() => {
                    let detail = format!("event {id} was erased by the log and is still readable");
                    self.report.add(FindingKind::ErasedBodyPresent, Some(named.shard), Some(named.index), detail);
                }
                Ok(Some(_)) => {
                    self.pardoned.insert(id);
                }
                // An event of a log that the database no longer has.
                Ok(None) => {}
                Err(error) => {
                    self.report.add(FindingKind::Unreadable, Some(row.shard), Some(row.index), error.to_string());
                }
            }
        }
    }

    fn check_opening(&mut self, shard: &ShardRow, leaf: &Leaf, before: Option<(&ShardRow, u64, Hash)>) {
        let row = match leaf {
            Leaf::Event(row) if row.kind == EventType::LogOpened.as_str() => Some(row),
            Leaf::Event(_) | Leaf::Public(_) => None,
        };
        let opening = row.and_then(|row| row.opening.as_ref());
        let event = opening.and_then(|o| serde_json::from_slice::<Value>(&o.event).ok());
        let text = |name: &str| event.as_ref().and_then(|e| e.get(name)).and_then(Value::as_str);
        let own = text("origin") == Some(&shard.origin) && text("vkey") == Some(&shard.vkey);
        let Some(row) = row.filter(|_| own) else {
            let detail = "the first leaf is not the log.opened event of this shard";
            return self.report.add(FindingKind::OpeningMissing, Some(shard.shard), Some(0), detail);
        };
        let reason = text("reason").unwrap_or_default();
        let named = predecessor_of(row);
        let fits = match (&named, before) {
            (None, None) => reason == OpenReason::FirstStart.as_str() || reason == OpenReason::HeadFileDamaged.as_str(),
            (None, Some(_)) => false,
            // A database that was lost or replaced does not have the log before.
            (Some(_), None) => reason == OpenReason::Restored.as_str(),
            (Some(named), Some((before, size, root))) => follows(named, reason, before, size, &root),
        };
        if !fits {
            let detail = format!("opened as {reason:?} after {}", named.map_or("no log".into(), |n| n.origin));
            self.report.add(FindingKind::PredecessorMismatch, Some(shard.shard), Some(0), detail);
        }
    }

    fn check_shard(&mut self, shard: &ShardRow, size: u64, tree: &Tree, head: Option<&Head>) {
        if tree.size() != size {
            // Reported as a missing leaf; roots cannot be compared.
            return;
        }
        let number = Some(shard.shard);
        let key = match shard.vkey.parse::<VerifierKey>() {
            Ok(key) => key,
            Err(error) => {
                return self.report.add(FindingKind::CheckpointSignature, number, None, format!("vkey: {error}"));
            }
        };
        let anchors = &self.options.anchors;
        if !anchors.is_empty() && !anchors.iter().any(|anchor| anchor.public_key() == key.public_key()) {
            self.report.add(FindingKind::KeyUnknown, number, None, shard.vkey.clone());
        }
        if let Some(head) = head {
            if head.root != tree.root() {
                self.report.add(
                    FindingKind::RootMismatch,
                    number,
                    None,
                    "the leaves lead to another root than the head's",
                );
            }
            if head.frontier != tree.frontier().hashes() {
                self.report.add(FindingKind::FrontierMismatch, number, None, "the stored frontier is another");
            }
        }
        // The open shard's row may be newer than the head that was read first.
        let note = head.map(|h| h.checkpoint.as_str()).or(shard.checkpoint.as_deref());
        match note.map(|note| Checkpoint::open(note, &key)) {
            None => self.report.add(FindingKind::CheckpointSignature, number, None, "there is no checkpoint"),
            Some(Err(error)) => self.report.add(FindingKind::CheckpointSignature, number, None, error.to_string()),
            Some(Ok(signed)) if signed.size != size || signed.origin != shard.origin => {
                let detail = format!("the checkpoint is of {} leaves, {size} are stored", signed.size);
                self.report.add(FindingKind::CheckpointMismatch, number, None, detail);
            }
            Some(Ok(signed)) if signed.root != tree.root() => {
                self.report.add(
                    FindingKind::RootMismatch,
                    number,
                    None,
                    "the leaves lead to another root than was signed",
                );
            }
            Some(Ok(_)) => {}
        }
    }

    fn check_head(&mut self, head: Option<&Head>, shards: &[ShardRow]) {
        let fits = match head {
            None => shards.is_empty(),
            Some(head) => shards.iter().any(|s| s.shard == head.shard && s.origin == head.origin),
        };
        if !fits {
            self.report.add(FindingKind::HeadMissing, None, None, "shards and head do not belong together");
        }
    }

    fn check_tails(&mut self) -> Result<(), StoreError> {
        for (workspace, found) in &self.tails {
            // A working node may have added events since; it never takes any away.
            let stored = self.reader.tail(workspace)?;
            if stored.is_none_or(|s| s.seq < found.seq || s.seq == found.seq && s.commitment != found.commitment) {
                self.report.add(FindingKind::TailMismatch, None, None, format!("workspace {workspace}"));
            }
        }
        Ok(())
    }

    fn check_outside(
        &mut self,
        record: &HeadRecord,
        head: Option<&Head>,
        shards: &[ShardRow],
    ) -> Result<(), StoreError> {
        let known = match record {
            HeadRecord::Missing if head.is_none() => return Ok(()),
            HeadRecord::Missing => {
                self.report.add(FindingKind::HeadFileMissing, None, None, "nobody knows what was signed");
                return Ok(());
            }
            HeadRecord::Damaged => {
                self.report.add(FindingKind::HeadFileDamaged, None, None, "no slot is whole");
                return Ok(());
            }
            HeadRecord::Known(known) => &known.checkpoint,
        };
        let shard = shards.iter().find(|s| s.origin == known.origin);
        let size = shard.map_or(0, |s| head.filter(|h| h.shard == s.shard).map_or(s.size, |h| h.size));
        match shard {
            Some(shard) if known.size <= size => {
                let root = merkle::root(&TreeReader::new(self.reader, shard.shard, size), known.size)?;
                if root != known.root {
                    let detail = format!("another root at {} leaves", known.size);
                    self.report.add(FindingKind::HeadFileContradicts, Some(shard.shard), None, detail);
                }
            }
            _ => {
                let detail = format!("it knows {} at {} leaves, the database has {size}", known.origin, known.size);
                self.report.add(FindingKind::HeadFileAhead, shard.map(|s| s.shard), None, detail);
            }
        }
        Ok(())
    }
}

/// Whether a named predecessor is the shard before, as far as the reason lets it differ.
fn follows(named: &Checkpoint, reason: &str, before: &ShardRow, size: u64, root: &Hash) -> bool {
    let same = named.origin == before.origin;
    let restored = reason == OpenReason::Restored.as_str();
    same && named.size == size && named.root == *root
        || restored && (!same || named.size > size)
        || reason == OpenReason::Forked.as_str()
}

/// The first member of the row that is not what the event says.
fn mismatch(row: &EventRow, event: &Value) -> Option<&'static str> {
    let text = |name: &str| event.get(name).and_then(Value::as_str);
    let number = |name: &str| event.get(name).and_then(Value::as_u64);
    let pairs = [
        ("id", text("id") == Some(&row.id.to_string())),
        ("workspace", text("workspace") == Some(row.workspace.as_str())),
        ("type", text("type") == Some(&row.kind)),
        ("time", number("time") == Some(row.time)),
        ("seq", number("seq") == Some(row.seq)),
    ];
    pairs.iter().find(|(_, same)| !same).map(|(name, _)| *name)
}

/// Used by the export's verification too.
pub(crate) fn opening_fits(commitment: &Digest, salt: &[u8; 32], event: &[u8]) -> bool {
    commit(salt, event) == *commitment
}
