//! Receipts and inclusion proofs out of the ledger.

use countersign_domain::EventType;
use countersign_proof::canonical::{Limits, parse_strict};
use countersign_proof::checkpoint::Checkpoint;
use countersign_proof::merkle::{self, Hash, TreeError};
use countersign_proof::note::SignedNote;
use countersign_proof::receipt::{self, Disclosure, InclusionProof, Label, Receipt, ReceiptBuilder, ReceiptEvent};
use serde_json::Value;
use uuid::Uuid;

use crate::contract::{EventRow, Reader, ShardRow, StoreError};
use crate::tree::{Snapshot, TileCache, TreeReader};
use crate::witness;

/// The most parents that a receipt follows, one `parent` link after another.
const MAX_PARENTS: usize = 16;
/// Bounds on stored events: wide, since they were bounded when they were made.
pub(crate) const EVENT_LIMITS: Limits = Limits { max_bytes: 4 << 20, max_depth: 64 };

/// A value to be shown inside a receipt next to the salted digest that stands in the event.
#[derive(Debug, Clone, PartialEq)]
pub struct Disclose {
    /// The event that holds the digest.
    pub event: Uuid,
    /// Which digest.
    pub label: Label,
    /// The value.
    pub value: Value,
}

/// Why a receipt was not made.
#[derive(Debug, thiserror::Error)]
pub enum ReceiptError {
    /// The event's body and salt were erased; only its commitment is left.
    #[error("the event was erased")]
    Erased,
    /// A value to disclose is not the one whose digest the event holds, or its salt is gone.
    #[error("the disclosed {0} is not what event {1} holds the digest of")]
    Disclosure(&'static str, Uuid),
    /// The store fails.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The stored event or the receipt breaks a bound of the format.
    #[error("no receipt could be made: {0}")]
    Format(String),
}

/// Proof that a leaf is in a log (RFC 9162, section 2.1.3), with the checkpoint that it leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inclusion {
    /// Origin of the log.
    pub origin: String,
    /// The log's verifier key (C2SP vkey text).
    pub vkey: String,
    /// Leaf index.
    pub index: u64,
    /// Leaves of the tree.
    pub size: u64,
    /// The tree's root.
    pub root: Hash,
    /// From the leaf's sibling upwards.
    pub hashes: Vec<Hash>,
    /// The signed checkpoint of exactly this size, a C2SP signed note.
    pub checkpoint: String,
}

/// A checkpoint of a shard.
#[derive(Debug, Clone)]
struct Under {
    size: u64,
    root: Hash,
    note: String,
}

/// The newest checkpoint of a shard that may be shown; `None` if the shard is newer than the snapshot.
fn newest(snapshot: &Snapshot, shard: &ShardRow) -> Result<Option<Under>, StoreError> {
    let head = &snapshot.head;
    // The open shard's row may be newer than the snapshot: what is shown is the head that is also kept outside.
    if shard.shard == head.shard {
        return Ok(Some(Under { size: head.size, root: head.root, note: head.checkpoint.clone() }));
    }
    if shard.shard > head.shard {
        return Ok(None);
    }
    let unsigned = || StoreError::Corrupt(format!("shard {} has no checkpoint", shard.shard));
    let note = shard.checkpoint.clone().ok_or_else(unsigned)?;
    Ok(Some(Under { size: shard.size, root: root_of(&note)?, note }))
}

/// The checkpoint that leaves up to `index` are best proved under. Whoever demands m of n witnesses wants as many as there are on
/// one checkpoint, and nobody needs a newer one than covers the event: so it is the one that most witnesses cosigned, the
/// newest of several such, and only without any the newest of all.
fn best(reader: &dyn Reader, snapshot: &Snapshot, shard: &ShardRow, index: u64) -> Result<Option<Under>, StoreError> {
    let Some(newest) = newest(snapshot, shard)? else { return Ok(None) };
    let rows = reader.cosignatures(shard.shard, index, newest.size)?;
    let Some(first) = rows.first() else { return Ok(Some(newest)) };
    let note = witness::cosigned(&first.checkpoint, &rows)?;
    Ok(Some(Under { size: first.size, root: root_of(&note)?, note }))
}

/// See [`crate::Ledger::inclusion`].
pub(crate) fn inclusion(
    reader: &dyn Reader,
    snapshot: &Snapshot,
    tiles: &TileCache,
    shard: &ShardRow,
    index: u64,
) -> Result<Option<Inclusion>, StoreError> {
    let Some(under) = newest(snapshot, shard)? else { return Ok(None) };
    let Some(hashes) = prove(reader, snapshot, tiles, shard, index, under.size)? else { return Ok(None) };
    let (origin, vkey) = (shard.origin.clone(), shard.vkey.clone());
    let Under { size, root, note: checkpoint } = under;
    Ok(Some(Inclusion { origin, vkey, index, size, root, hashes, checkpoint }))
}

/// The proof that a leaf is among the first `size` of a shard; `None` if it is not.
fn prove(
    reader: &dyn Reader,
    snapshot: &Snapshot,
    tiles: &TileCache,
    shard: &ShardRow,
    index: u64,
    size: u64,
) -> Result<Option<Vec<Hash>>, StoreError> {
    let tree = tree_of(reader, snapshot, tiles, shard);
    match merkle::inclusion_proof(&tree, index, size) {
        Ok(hashes) => Ok(Some(hashes)),
        Err(TreeError::Reader(error)) => Err(error),
        Err(TreeError::OutOfRange { .. }) => Ok(None),
    }
}

/// The whole tree of a shard as the snapshot shows it. Smaller trees are proved out of it: their complete subtrees are its own.
fn tree_of<'a>(
    reader: &'a dyn Reader,
    snapshot: &'a Snapshot,
    tiles: &'a TileCache,
    shard: &ShardRow,
) -> TreeReader<'a> {
    let open = shard.shard == snapshot.head.shard;
    let size = if open { snapshot.head.size } else { shard.size };
    TreeReader::new(reader, shard.shard, size).cached(tiles).with_snapshot(snapshot)
}

/// See [`crate::Ledger::consistency`].
pub(crate) fn consistency(
    reader: &dyn Reader,
    snapshot: &Snapshot,
    tiles: &TileCache,
    shard: &ShardRow,
    sizes: (u64, u64),
) -> Result<Option<Vec<Hash>>, StoreError> {
    if newest(snapshot, shard)?.is_none_or(|newest| sizes.1 > newest.size) {
        return Ok(None);
    }
    match merkle::consistency_proof(&tree_of(reader, snapshot, tiles, shard), sizes.0, sizes.1) {
        Ok(hashes) => Ok(Some(hashes)),
        Err(TreeError::Reader(error)) => Err(error),
        Err(TreeError::OutOfRange { .. }) => Ok(None),
    }
}

/// The root that a stored checkpoint names.
fn root_of(note: &str) -> Result<Hash, StoreError> {
    let corrupt = |error: &dyn std::fmt::Display| StoreError::Corrupt(format!("a stored checkpoint: {error}"));
    let note = SignedNote::parse(note).map_err(|e| corrupt(&e))?;
    Checkpoint::parse(note.text()).map(|checkpoint| checkpoint.root).map_err(|e| corrupt(&e))
}

/// See [`crate::Ledger::receipt`]. Ancestors that were erased are named as such; those newer than the snapshot are left out.
pub(crate) fn receipt(
    reader: &dyn Reader,
    snapshot: &Snapshot,
    tiles: &TileCache,
    id: Uuid,
    disclose: &[Disclose],
) -> Result<Option<Receipt>, ReceiptError> {
    let Some(subject) = reader.event(id)?.filter(|row| snapshot.covers(row)) else { return Ok(None) };
    if subject.opening.is_none() {
        return Err(ReceiptError::Erased);
    }
    let mut rows = ancestors(reader, &subject)?;
    let erased: Vec<Uuid> = rows.iter().filter(|row| row.opening.is_none()).map(|row| row.id).collect();
    rows.retain(|row| row.opening.is_some() && snapshot.covers(row));
    // The newest are the ones that matter most, should there be too many.
    let surplus = (rows.len() + 1).saturating_sub(receipt::MAX_EVENTS);
    rows.drain(..surplus);
    rows.push(subject);
    let shards = reader.shards()?;
    let mut builder = ReceiptBuilder::new(id.to_string());
    for id in erased {
        builder = builder.erased(id.to_string());
    }
    let mut proved = Vec::with_capacity(rows.len());
    // One checkpoint for each shard, which covers the last of its events.
    let mut under: Option<(u32, Under)> = None;
    for row in rows.iter().rev() {
        let corrupt = || StoreError::Corrupt(format!("event {} stands in the unknown shard {}", row.id, row.shard));
        let shard = shards.iter().find(|s| s.shard == row.shard).ok_or_else(corrupt)?;
        let beyond = || StoreError::Corrupt(format!("event {} lies beyond its log", row.id));
        let checkpoint = match &under {
            Some((of, checkpoint)) if *of == row.shard => checkpoint,
            Some(_) | None => {
                let best = best(reader, snapshot, shard, row.index)?.ok_or_else(beyond)?;
                &under.insert((row.shard, best)).1
            }
        };
        let size = checkpoint.size;
        let hashes = prove(reader, snapshot, tiles, shard, row.index, size)?.ok_or_else(beyond)?;
        proved.push((row, shard, InclusionProof { size, hashes }, checkpoint.note.clone()));
    }
    for (row, shard, proof, note) in proved.into_iter().rev() {
        builder = builder.event(receipt_event(row, &shard.origin, proof)?);
        builder = builder.checkpoint(note);
        builder = builder.key(&shard.vkey);
    }
    for wanted in disclose {
        builder = builder.disclosure(disclosure(&rows, wanted)?);
    }
    builder.build().map(Some).map_err(|e| ReceiptError::Format(e.to_string()))
}

fn receipt_event(row: &EventRow, origin: &str, proof: InclusionProof) -> Result<ReceiptEvent, ReceiptError> {
    let opening = row.opening.as_ref().ok_or(ReceiptError::Erased)?;
    let event = parse_strict(&opening.event, &EVENT_LIMITS)
        .map_err(|e| StoreError::Corrupt(format!("the body of event {}: {e}", row.id)))?;
    let made = ReceiptEvent::new(event, opening.salt, origin, row.index, proof);
    let made = made.map_err(|e| ReceiptError::Format(e.to_string()))?;
    if made.commitment != row.commitment {
        return Err(StoreError::Corrupt(format!("the body of event {} does not fit its commitment", row.id)).into());
    }
    Ok(made)
}

/// The events that the subject follows from, in log order, each once, without the subject.
fn ancestors(reader: &dyn Reader, subject: &EventRow) -> Result<Vec<EventRow>, StoreError> {
    let before = |row: &EventRow| (row.shard, row.index) < (subject.shard, subject.index);
    let mut rows: Vec<EventRow> = Vec::new();
    if let Some(call) = subject.call {
        rows.extend(reader.events_of_call(call)?.into_iter().filter(before).filter(leads_on));
    }
    let mut next = parent(subject);
    for _ in 0..MAX_PARENTS {
        let Some(id) = next else { break };
        let row = match rows.iter().find(|row| row.id == id) {
            Some(row) => row.clone(),
            None => match reader.event(id)?.filter(before) {
                Some(row) => row,
                None => break,
            },
        };
        next = parent(&row);
        if !rows.iter().any(|known| known.id == row.id) {
            rows.push(row);
        }
    }
    rows.sort_by_key(|row| (row.shard, row.index));
    Ok(rows)
}

/// Whether an event of the call is a step towards its outcome. Refusals and replays beside the way are not: a caller can
/// make many of them, and they would crowd out what the receipt is about.
fn leads_on(row: &EventRow) -> bool {
    ![EventType::CallDenied.as_str(), EventType::CallReplayed.as_str()].contains(&row.kind.as_str())
}

fn parent(row: &EventRow) -> Option<Uuid> {
    let event: Value = serde_json::from_slice(&row.opening.as_ref()?.event).ok()?;
    event.get("parent")?.as_str()?.parse().ok()
}

fn disclosure(rows: &[EventRow], wanted: &Disclose) -> Result<Disclosure, ReceiptError> {
    let refused = || ReceiptError::Disclosure(wanted.label.as_str(), wanted.event);
    let row = rows.iter().find(|row| row.id == wanted.event).ok_or_else(refused)?;
    let opening = row.opening.as_ref().ok_or_else(refused)?;
    let salt = opening.detail_salt.ok_or_else(refused)?;
    let made = Disclosure::new(wanted.event.to_string(), wanted.label, salt, wanted.value.clone());
    let digest = made.digest().map_err(|e| ReceiptError::Format(e.to_string()))?.to_string();
    let event: Value = serde_json::from_slice(&opening.event).map_err(|_| refused())?;
    let held = match wanted.label {
        Label::Input => event.get("input_digest"),
        Label::Output => event.pointer("/outcome/output_digest"),
    };
    if held.and_then(Value::as_str) == Some(digest.as_str()) { Ok(made) } else { Err(refused()) }
}
