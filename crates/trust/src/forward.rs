//! A log of Rekor's second version that somebody else runs: what it is asked, which of its answers count as a logged entry, and
//! how an entry that it has already is proved from its tiles.
//!
//! Nothing that it says is believed: an entry counts when its leaf is the one that was asked for, and is in a tree whose head
//! the log signed with the key that the operator was given.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use countersign_proof::checkpoint::Checkpoint;
use countersign_proof::merkle::{Hash, HashReader, inclusion_proof};
use countersign_proof::note::{MAX_NOTE_BYTES, SignedNote};
use countersign_proof::tile::{Tile, decode_tile, subtree_hash};

use crate::entry::{InclusionProof, LogEntry};
use crate::hashedrekord::{KIND, VERSION};
use crate::report::{Code, LogPlace};
use crate::root::{LogInstance, TrustedRoot};
use crate::verify::check_logged;

/// Where entries are asked for, beneath a log's URL.
pub const ENTRIES_PATH: &str = "api/v2/log/entries";
/// Beneath which a log's checkpoint and tiles are read.
pub const TILES_PATH: &str = "api/v2/";
/// The largest answer that is read, in bytes: a leaf in base64, a proof and a checkpoint.
pub const MAX_ANSWER_BYTES: usize = 256 * 1024;
/// The largest checkpoint and tile that are read, in bytes.
pub const MAX_TILE_BYTES: usize = 256 * 32;
/// The header by which the log says where it has an entry already.
pub const INDEX_HEADER: &str = "x-log-index";
/// The longest that is kept of a log's own words, in characters.
const MAX_WORDS: usize = 300;

/// Why a trusted root names no log to forward to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PickError {
    /// None has this origin, or several have.
    #[error("the trusted root names {found} logs with the origin {origin:?}; they are: {known}")]
    Origin {
        /// The origin.
        origin: String,
        /// How many there are.
        found: usize,
        /// Those that there are.
        known: String,
    },
    /// Its key is none, or of a kind that is not supported.
    #[error("the log's key: {0}")]
    Key(#[from] crate::keys::KeyError),
}

/// The log of a trusted root with an origin.
///
/// # Errors
/// [`PickError`].
pub fn pick<'a>(root: &'a TrustedRoot, origin: &str) -> Result<&'a LogInstance, PickError> {
    let named: Vec<_> = root.logs.iter().filter(|log| log.origin() == origin).collect();
    let [log] = named[..] else {
        let known = root.logs.iter().map(LogInstance::origin).collect::<Vec<_>>().join(", ");
        return Err(PickError::Origin { origin: origin.to_owned(), found: named.len(), known });
    };
    crate::keys::PublicKey::from_spki(&log.public_key)?;
    Ok(log)
}

/// What a log answered to a request for an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The entry, proved.
    Logged(Box<LogEntry>, LogPlace),
    /// It has the entry already, at this index.
    Exists(u64),
    /// It will never take the entry.
    Refused(String),
    /// It cannot answer now.
    Away(String),
    /// It answered something that is no proof that the entry is logged.
    Unusable(String),
}

/// Reads the answer to a request for the entry whose leaf this is.
pub fn read_answer(status: u16, index: Option<&str>, body: &[u8], leaf: &[u8], log: &LogInstance) -> Answer {
    match status {
        200 | 201 => match LogEntry::parse(body) {
            Ok(entry) => match check(&entry, leaf, log) {
                Ok(place) => Answer::Logged(Box::new(entry), place),
                Err(error) => Answer::Unusable(error.to_string()),
            },
            Err(error) => Answer::Unusable(error.to_string()),
        },
        409 => match index.and_then(|text| text.parse().ok()) {
            Some(index) => Answer::Exists(index),
            None => Answer::Unusable("it has the entry already, and does not say where".to_owned()),
        },
        // Timeouts, "too early", "too many" and the gateway's "the client left" pass, and so may faults of the log's. That
        // somebody may not ask, that nothing is there, or that the log is frozen, is about the log and not about the entry.
        401 | 403 | 404 | 405 | 408 | 410 | 425 | 429 | 499 | 500.. => {
            Answer::Away(format!("status {status}{}", words(body)))
        }
        400..500 => Answer::Refused(format!("status {status}{}", words(body))),
        _ => Answer::Unusable(format!("status {status}")),
    }
}

/// What a log says for people, made harmless.
fn words(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let message = serde_json::from_str::<serde_json::Value>(&text).ok();
    let message = message.as_ref().and_then(|value| value["message"].as_str()).unwrap_or(text.trim());
    let shown: String = message.chars().take(MAX_WORDS).collect();
    let shown = crate::text::visible_line(&shown).into_owned();
    if shown.is_empty() { shown } else { format!(": {shown}") }
}

/// Why an entry is not proved to be logged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// It is about something else, or its proof or the log's signature does not hold.
    #[error("{detail} ({code})")]
    Wrong {
        /// The stable name.
        code: Code,
        /// For people.
        detail: String,
    },
    /// The checkpoint cannot be read, or its tree has no such leaf.
    #[error("the log's checkpoint: {0}")]
    Checkpoint(String),
    /// A tile is missing or not one.
    #[error("the log's tile {0} is missing or broken")]
    Tile(String),
}

/// Whether an entry is this leaf in this log.
///
/// # Errors
/// [`ProofError::Wrong`].
pub fn check(entry: &LogEntry, leaf: &[u8], log: &LogInstance) -> Result<LogPlace, ProofError> {
    check_logged(entry, leaf, log).map_err(|(code, detail)| ProofError::Wrong { code, detail })
}

/// How the proof of an entry comes out of tiles, for a log that has it already.
#[derive(Debug)]
pub struct FromTiles {
    index: u64,
    note: String,
    checkpoint: Checkpoint,
}

impl FromTiles {
    /// From the log's checkpoint. Its signature is verified with the proof.
    ///
    /// # Errors
    /// [`ProofError::Checkpoint`].
    pub fn new(index: u64, note: &[u8]) -> Result<Self, ProofError> {
        let wrong = |why: &dyn ToString| ProofError::Checkpoint(why.to_string());
        let note = std::str::from_utf8(note).ok().filter(|note| note.len() <= MAX_NOTE_BYTES);
        let note = note.ok_or_else(|| wrong(&"it is no note"))?;
        let signed = SignedNote::parse(note).map_err(|e| wrong(&e))?;
        let checkpoint = Checkpoint::parse(signed.text()).map_err(|e| wrong(&e))?;
        if index >= checkpoint.size {
            return Err(wrong(&format!("it has {} leaves, and {index} is not among them", checkpoint.size)));
        }
        Ok(Self { index, note: note.to_owned(), checkpoint })
    }

    /// The tiles that the proof needs: a few for each of the tree's levels.
    pub fn tiles(&self) -> Vec<Tile> {
        let wanted = Wanted { size: self.checkpoint.size, tiles: RefCell::default() };
        // Its reader never fails.
        let _ = inclusion_proof(&wanted, self.index, self.checkpoint.size);
        wanted.tiles.into_inner().into_iter().collect()
    }

    /// The entry, from the bytes of these tiles.
    ///
    /// # Errors
    /// [`ProofError`].
    pub fn finish(
        self,
        tiles: &BTreeMap<Tile, Vec<u8>>,
        leaf: &[u8],
        log: &LogInstance,
    ) -> Result<(LogEntry, LogPlace), ProofError> {
        let Self { index, note, checkpoint } = self;
        let mut hashes = BTreeMap::new();
        for (tile, bytes) in tiles {
            let row = decode_tile(bytes, tile.width).map_err(|_| ProofError::Tile(tile.path()))?;
            hashes.insert(*tile, row);
        }
        let read = Read { size: checkpoint.size, hashes };
        let hashes = inclusion_proof(&read, index, checkpoint.size).map_err(|error| match error {
            countersign_proof::merkle::TreeError::Reader(error) => error,
            other => ProofError::Checkpoint(other.to_string()),
        })?;
        let proof = InclusionProof { index, root: checkpoint.root, size: checkpoint.size, hashes, checkpoint: note };
        let entry = LogEntry {
            log_index: index,
            log_id: log.log_id.clone(),
            kind: KIND.to_owned(),
            version: VERSION.to_owned(),
            integrated_time: None,
            promise: None,
            proof: Some(proof),
            body: leaf.to_vec(),
        };
        let place = check(&entry, leaf, log)?;
        Ok((entry, place))
    }
}

/// Notes which tiles a proof looks into.
struct Wanted {
    size: u64,
    tiles: RefCell<BTreeSet<Tile>>,
}

impl HashReader for Wanted {
    type Error = std::convert::Infallible;

    fn hash(&self, level: u8, index: u64) -> Result<Hash, Self::Error> {
        self.tiles.borrow_mut().extend(Tile::containing(level, index, self.size).map(|(tile, _, _)| tile));
        Ok([0; 32])
    }
}

struct Read {
    size: u64,
    hashes: BTreeMap<Tile, Vec<Hash>>,
}

impl HashReader for Read {
    type Error = ProofError;

    fn hash(&self, level: u8, index: u64) -> Result<Hash, ProofError> {
        let missing = || ProofError::Tile(format!("of subtree {index} at level {level}"));
        let (tile, level, index) = Tile::containing(level, index, self.size).ok_or_else(missing)?;
        let row = self.hashes.get(&tile).ok_or_else(|| ProofError::Tile(tile.path()))?;
        subtree_hash(row, level, index).map_err(|_| ProofError::Tile(tile.path()))
    }
}
