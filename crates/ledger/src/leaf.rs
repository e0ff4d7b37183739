//! What the log's leaves are: commitments to events, and public entries.
//!
//! The first byte of a leaf's data tells them apart: 0x01 before a commitment, `{` where a public entry begins
//! (`docs/receipt.md`, section 4). A public entry is what a signature is logged as: the body of a Sigstore `hashedrekord`
//! in RFC 8785 form. Everybody may read it, and it is never erased.

use countersign_domain::{Millis, WorkspaceName};
use countersign_proof::canonical::{JsonError, Limits, parse_strict, to_canonical};
use countersign_proof::commitment::event_entry;
use countersign_proof::digest::Digest;
use countersign_proof::merkle::{self, Hash};
use uuid::Uuid;

use crate::contract::{EventRow, Reader, StoreError};

/// The longest body of a public entry in bytes: C2SP tlog-tiles writes an entry's length in 16 bits.
pub const MAX_BODY: usize = u16::MAX as usize;
/// The most leaves of one read.
pub const MAX_LEAVES: usize = 65_536;
/// The most public entries of one read: 16 MiB of them, and as many as a tile is wide.
pub const MAX_PUBLIC: usize = 256;

const BODY_LIMITS: Limits = Limits { max_bytes: MAX_BODY, max_depth: 64 };
/// Events read at once by [`Walk`].
const PAGE: u32 = 500;

/// Why something cannot be a public entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublicEntryError {
    /// The id is not a UUIDv7, whose order is that of time.
    #[error("the id {0} of a public entry is not a UUIDv7")]
    Id(Uuid),
    /// It does not begin with `{`, and could be taken for another kind of leaf.
    #[error("a public entry begins with an opening brace")]
    NotAnObject,
    /// It is too long, not UTF-8, or not JSON on which every reader agrees.
    #[error("the body of a public entry: {0}")]
    Json(#[from] JsonError),
    /// It is written otherwise than RFC 8785 says.
    #[error("the body of a public entry is not in RFC 8785 form")]
    NotCanonical,
}

/// A leaf that everybody may read, to be given its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicEntry {
    id: Uuid,
    workspace: WorkspaceName,
    body: Vec<u8>,
}

impl PublicEntry {
    /// An entry whose leaf data is `body`: the RFC 8785 form of a JSON object, at most [`MAX_BODY`] bytes.
    ///
    /// # Errors
    /// [`PublicEntryError`].
    pub fn new(id: Uuid, workspace: WorkspaceName, body: Vec<u8>) -> Result<Self, PublicEntryError> {
        if id.get_version_num() != 7 {
            return Err(PublicEntryError::Id(id));
        }
        check_body(&body)?;
        Ok(Self { id, workspace, body })
    }

    /// Its id.
    pub fn id(&self) -> Uuid {
        self.id
    }

    pub(crate) fn row(&self, shard: u32, index: u64) -> EntryRow {
        EntryRow { shard, index, id: self.id, workspace: self.workspace.clone(), body: self.body.clone() }
    }
}

/// What every public entry's body must be.
pub(crate) fn check_body(body: &[u8]) -> Result<(), PublicEntryError> {
    if !body.starts_with(b"{") {
        return Err(PublicEntryError::NotAnObject);
    }
    let value = parse_strict(body, &BODY_LIMITS)?;
    if to_canonical(&value).is_ok_and(|canonical| canonical == body) {
        Ok(())
    } else {
        Err(PublicEntryError::NotCanonical)
    }
}

/// A public entry with its place. Nothing commits to id and workspace, which are for look-ups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryRow {
    /// Number of the shard.
    pub shard: u32,
    /// Leaf index in the shard.
    pub index: u64,
    /// Its id.
    pub id: Uuid,
    /// The workspace that it belongs to.
    pub workspace: WorkspaceName,
    /// The leaf data.
    pub body: Vec<u8>,
}

impl EntryRow {
    /// RFC 6962 hash of the leaf.
    pub fn leaf_hash(&self) -> Hash {
        merkle::leaf_hash(&self.body)
    }

    /// When the id was made: a UUIDv7 begins with the time.
    pub fn made_at(&self) -> Millis {
        self.id.as_bytes()[..6].iter().fold(0, |time, byte| time << 8 | Millis::from(*byte))
    }
}

/// A leaf as the log publishes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogEntry {
    /// The commitment of an event.
    Event(Digest),
    /// The body of a public entry.
    Public(Vec<u8>),
}

impl LogEntry {
    /// What the tree hashes and an entry bundle holds.
    pub fn data(&self) -> LeafData<'_> {
        match self {
            Self::Event(commitment) => LeafData::Event(event_entry(commitment)),
            Self::Public(body) => LeafData::Public(body),
        }
    }

    /// RFC 6962 hash of the leaf.
    pub fn leaf_hash(&self) -> Hash {
        merkle::leaf_hash(self.data().as_ref())
    }
}

/// A leaf's data. That of an event is made on the spot, without allocating.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeafData<'a> {
    /// 0x01 and the commitment.
    Event([u8; 33]),
    /// The body.
    Public(&'a [u8]),
}

impl AsRef<[u8]> for LeafData<'_> {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Event(data) => data,
            Self::Public(body) => body,
        }
    }
}

/// Puts what a store has of a shard's leaves from an index on into their order, each kind given by index in its own: what
/// [`Reader::entries`] promises. Ends before the first leaf that is missing, and where enough are read.
///
/// # Errors
/// `Corrupt`, if both kinds stand at one index.
pub fn merge(
    shard: u32,
    from: u64,
    events: impl IntoIterator<Item = (u64, Digest)>,
    public: impl IntoIterator<Item = (u64, Vec<u8>)>,
) -> Result<Vec<LogEntry>, StoreError> {
    let events = events.into_iter();
    let mut entries = Vec::with_capacity(events.size_hint().0.min(MAX_LEAVES));
    let mut public = public.into_iter().peekable();
    let mut left = MAX_PUBLIC;
    let mut take_public = |upto: u64, entries: &mut Vec<LogEntry>| {
        while left > 0
            && let Some((_, body)) = public.next_if(|(at, _)| *at < upto && *at == from + entries.len() as u64)
        {
            entries.push(LogEntry::Public(body));
            left -= 1;
        }
        public.peek().map(|(at, _)| *at)
    };
    for (index, commitment) in events {
        if take_public(index, &mut entries) == Some(index) {
            return Err(StoreError::Corrupt(format!("leaf {index} of shard {shard} is stored twice")));
        }
        if index != from + entries.len() as u64 || entries.len() >= MAX_LEAVES {
            return Ok(entries);
        }
        entries.push(LogEntry::Event(commitment));
    }
    take_public(u64::MAX, &mut entries);
    Ok(entries)
}

/// A leaf with everything that is stored of it.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one at a time, and nearly all are the large ones")]
pub(crate) enum Leaf {
    Event(EventRow),
    Public(EntryRow),
}

impl Leaf {
    pub(crate) fn hash(&self) -> Hash {
        match self {
            Self::Event(row) => merkle::leaf_hash(&event_entry(&row.commitment)),
            Self::Public(row) => row.leaf_hash(),
        }
    }
}

/// What stands at the next place of a shard.
#[derive(Debug)]
pub(crate) enum Step {
    Leaf(Leaf),
    /// Both kinds.
    Doubled(EventRow, EntryRow),
    /// Nothing.
    Missing,
}

/// Every leaf of a shard in order, read in pages: for audits and exports, which want bodies and salts.
pub(crate) struct Walk<'a> {
    reader: &'a dyn Reader,
    shard: u32,
    next: u64,
    events: Page<EventRow>,
    public: Page<EntryRow>,
}

/// Rows that were read ahead, and whether there are more of them.
struct Page<T> {
    rows: std::vec::IntoIter<T>,
    more: bool,
}

impl<T> Page<T> {
    fn unread() -> Self {
        Self { rows: Vec::new().into_iter(), more: true }
    }

    /// Reads on where nothing is left of the last page. A kind of which there is no more is not asked for again.
    fn fill(&mut self, limit: u32, read: impl FnOnce() -> Result<Vec<T>, StoreError>) -> Result<(), StoreError> {
        if self.rows.as_slice().is_empty() && self.more {
            let rows = read()?;
            self.more = rows.len() >= limit as usize;
            self.rows = rows.into_iter();
        }
        Ok(())
    }

    fn take_if(&mut self, stands_here: impl FnOnce(&T) -> bool) -> Option<T> {
        if self.rows.as_slice().first().is_some_and(stands_here) { self.rows.next() } else { None }
    }
}

impl<'a> Walk<'a> {
    /// The caller knows the size of the shard, and asks for no place beyond it.
    pub(crate) fn new(reader: &'a dyn Reader, shard: u32, from: u64) -> Self {
        Self { reader, shard, next: from, events: Page::unread(), public: Page::unread() }
    }

    /// What stands at the next place. After a missing leaf the same place is asked for again.
    pub(crate) fn step(&mut self) -> Result<Step, StoreError> {
        let (reader, shard, next) = (self.reader, self.shard, self.next);
        self.events.fill(PAGE, || reader.leaves(shard, next, PAGE))?;
        // The cast cannot lose anything: the bound is 256.
        self.public.fill(MAX_PUBLIC as u32, || reader.public_entries(shard, next, MAX_PUBLIC as u32))?;
        let event = self.events.take_if(|row| row.index == next);
        let public = self.public.take_if(|row| row.index == next);
        let step = match (event, public) {
            (Some(event), None) => Step::Leaf(Leaf::Event(event)),
            (None, Some(public)) => Step::Leaf(Leaf::Public(public)),
            (Some(event), Some(public)) => Step::Doubled(event, public),
            (None, None) => return Ok(Step::Missing),
        };
        self.next += 1;
        Ok(step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_entry_is_a_canonical_object_within_bounds() {
        let new = |body: &[u8]| PublicEntry::new(Uuid::now_v7(), WorkspaceName::node(), body.to_vec()).map(|_| ());
        let padded = |bytes: usize| format!("{{\"a\":\"{}\"}}", "x".repeat(bytes - 8)).into_bytes();
        assert_eq!(new(br#"{"a":1,"b":"\u00e9"}"#), Err(PublicEntryError::NotCanonical));
        assert_eq!(new(r#"{"a":1,"b":"é"}"#.as_bytes()), Ok(()));
        assert_eq!(new(&padded(MAX_BODY)), Ok(()));
        assert!(matches!(new(&padded(MAX_BODY + 1)), Err(PublicEntryError::Json(JsonError::TooLarge { .. }))));
        assert!(matches!(new(b"{\"a\":\"\xff\"}"), Err(PublicEntryError::Json(JsonError::InvalidUtf8 { .. }))));
        assert!(matches!(new(b"{\"a\":1,\"a\":1}"), Err(PublicEntryError::Json(JsonError::DuplicateName { .. }))));
        assert_eq!(new(br#"{"a": 1}"#), Err(PublicEntryError::NotCanonical));
        for other in [b"[]".as_slice(), b" {}", b"\x01{}", b""] {
            assert_eq!(new(other), Err(PublicEntryError::NotAnObject), "{other:?}");
        }
        let id = Uuid::nil();
        let refused = PublicEntry::new(id, WorkspaceName::node(), b"{}".to_vec());
        assert_eq!(refused, Err(PublicEntryError::Id(id)));
    }

    #[test]
    fn leaves_end_before_the_first_that_is_missing_and_where_enough_are_read() {
        let event = |index: u64| (index, Digest([index as u8; 32]));
        let public = |index: u64| (index, index.to_string().into_bytes());
        let check = |events: &[u64], entries: &[u64], expected: &str| {
            let events = events.iter().map(|index| event(*index));
            let merged = merge(0, 5, events, entries.iter().map(|index| public(*index)));
            let kind = |(at, leaf): (usize, &LogEntry)| match leaf {
                LogEntry::Event(digest) if *digest == event(at as u64 + 5).1 => 'e',
                LogEntry::Public(body) if *body == public(at as u64 + 5).1 => 'p',
                LogEntry::Event(_) | LogEntry::Public(_) => '?',
            };
            let found = merged.map(|leaves| leaves.iter().enumerate().map(kind).collect::<String>());
            assert_eq!(found.unwrap_or_else(|_| "twice".into()), expected);
        };
        check(&[], &[], "");
        check(&[5, 6, 7], &[], "eee");
        check(&[], &[5, 6], "pp");
        check(&[5, 8], &[6, 7, 9], "eppep");
        check(&[7], &[5, 6], "ppe");
        check(&[5, 6, 8], &[9], "ee");
        check(&[6], &[], "");
        check(&[5], &[7], "e");
        check(&[5, 6], &[6], "twice");
        check(&[5, 6], &[5], "twice");
        let many: Vec<u64> = (5..1000).collect();
        check(&[], &many, &"p".repeat(MAX_PUBLIC));
        check(
            &[5, 5 + 1 + MAX_PUBLIC as u64],
            &(6..6 + MAX_PUBLIC as u64).collect::<Vec<_>>(),
            &format!("e{}e", "p".repeat(MAX_PUBLIC)),
        );
    }
}
