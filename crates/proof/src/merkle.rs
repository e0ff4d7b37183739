//! The Merkle tree of RFC 6962 section 2.1 over SHA-256: roots, inclusion proofs and consistency proofs.
//!
//! Nothing is stored here. Whoever keeps the hashes of complete subtrees implements [`HashReader`]; whoever only appends
//! keeps a [`Frontier`]. Verification follows RFC 9162 sections 2.1.3.2 and 2.1.4.2.

use crate::digest::Digest;

/// A tree hash.
pub type Hash = [u8; 32];

/// An inclusion or consistency proof never needs more hashes than this in a tree of at most 2^64 - 1 leaves.
pub const MAX_PROOF_HASHES: usize = 65;

/// Read access to the hashes of complete subtrees.
pub trait HashReader {
    /// What can go wrong when reading.
    type Error;

    /// The hash of the complete subtree of 2^`level` leaves that starts at leaf `index` << `level`.
    ///
    /// Asked only for subtrees that lie whole within the size given to the function that reads.
    fn hash(&self, level: u8, index: u64) -> Result<Hash, Self::Error>;
}

impl<R: HashReader + ?Sized> HashReader for &R {
    type Error = R::Error;

    fn hash(&self, level: u8, index: u64) -> Result<Hash, Self::Error> {
        (**self).hash(level, index)
    }
}

/// Why a proof could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreeError<E> {
    /// The leaf or the older size lies beyond the tree.
    #[error("{asked} lies beyond a tree of {size} leaves")]
    OutOfRange {
        /// Leaf index or older size.
        asked: u64,
        /// Size of the tree.
        size: u64,
    },
    /// The hashes could not be read.
    #[error(transparent)]
    Reader(E),
}

/// Why a proof does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// Index and size, or the two sizes, contradict one another.
    #[error("the proof is about a leaf or size beyond the tree")]
    OutOfRange,
    /// The proof has too few or too many hashes for its sizes.
    #[error("the proof has the wrong number of hashes")]
    Length,
    /// The hashes lead to another root.
    #[error("the proof leads to another root")]
    Root,
}

/// The hash of a leaf: SHA-256(0x00 ‖ entry).
pub fn leaf_hash(entry: &[u8]) -> Hash {
    Digest::of_parts(&[&[0], entry]).0
}

/// The hash of an inner node: SHA-256(0x01 ‖ left ‖ right).
pub fn node_hash(l: &Hash, r: &Hash) -> Hash {
    Digest::of_parts(&[&[1], l, r]).0
}

/// The root of the empty tree: SHA-256 of nothing.
pub fn empty_root() -> Hash {
    Digest::of(b"").0
}

/// The root of the first `size` leaves.
///
/// # Errors
/// Those of the reader.
pub fn root<R: HashReader>(reader: &R, size: u64) -> Result<Hash, R::Error> {
    if size == 0 { Ok(empty_root()) } else { range_hash(reader, 0, size) }
}

/// The proof that leaf `index` is in the tree of `size` leaves, from the leaf's sibling upwards.
///
/// # Errors
/// [`TreeError`]: the index lies beyond the tree, or a hash could not be read.
pub fn inclusion_proof<R: HashReader>(reader: &R, index: u64, size: u64) -> Result<Vec<Hash>, TreeError<R::Error>> {
    if index >= size {
        return Err(TreeError::OutOfRange { asked: index, size });
    }
    // RFC 6962 section 2.1.1, walked from the root down; the proof is written from the leaf up.
    let (mut start, mut end) = (0, size);
    let mut proof = Vec::new();
    while end - start > 1 {
        let middle = start + split(end - start);
        let sibling = if index < middle { (middle, end) } else { (start, middle) };
        proof.push(range_hash(reader, sibling.0, sibling.1).map_err(TreeError::Reader)?);
        (start, end) = if index < middle { (start, middle) } else { (middle, end) };
    }
    proof.reverse();
    Ok(proof)
}

/// The proof that the tree of `new` leaves extends the tree of `old` leaves. Empty if `old` is 0 or equals `new`.
///
/// # Errors
/// [`TreeError`]: `old` exceeds `new`, or a hash could not be read.
pub fn consistency_proof<R: HashReader>(reader: &R, old: u64, new: u64) -> Result<Vec<Hash>, TreeError<R::Error>> {
    if old > new {
        return Err(TreeError::OutOfRange { asked: old, size: new });
    }
    if old == 0 || old == new {
        return Ok(Vec::new());
    }
    // RFC 6962 section 2.1.2, walked from the root down to the node where the old tree ends.
    let (mut start, mut end) = (0, new);
    let mut proof = Vec::new();
    while end != old {
        let middle = start + split(end - start);
        let sibling = if old <= middle { (middle, end) } else { (start, middle) };
        proof.push(range_hash(reader, sibling.0, sibling.1).map_err(TreeError::Reader)?);
        (start, end) = if old <= middle { (start, middle) } else { (middle, end) };
    }
    // Where that node is the whole old tree, the verifier knows its hash already: it is the old root.
    if start > 0 {
        proof.push(range_hash(reader, start, end).map_err(TreeError::Reader)?);
    }
    proof.reverse();
    Ok(proof)
}

/// Checks that the leaf with hash `leaf` stands at `index` in the tree of `size` leaves with root `root`.
///
/// # Errors
/// [`ProofError`], if it does not.
pub fn verify_inclusion(leaf: &Hash, index: u64, size: u64, proof: &[Hash], root: &Hash) -> Result<(), ProofError> {
    if index >= size {
        return Err(ProofError::OutOfRange);
    }
    let (mut node, mut last) = (index, size - 1);
    let mut hash = *leaf;
    for sibling in proof {
        if last == 0 {
            return Err(ProofError::Length);
        }
        if node & 1 == 1 || node == last {
            hash = node_hash(sibling, &hash);
            // A right-most node without a right sibling moves up unchanged until it is a right child.
            let up = if node & 1 == 0 { node.trailing_zeros().min(63) } else { 0 };
            (node, last) = (node >> up, last >> up);
        } else {
            hash = node_hash(&hash, sibling);
        }
        (node, last) = (node >> 1, last >> 1);
    }
    finish(last, &[(hash, *root)])
}

/// Checks that the tree of `new` leaves with root `new_root` extends the tree of `old` leaves with root `old_root`.
///
/// # Errors
/// [`ProofError`], if it does not.
pub fn verify_consistency(
    old: u64,
    new: u64,
    old_root: &Hash,
    new_root: &Hash,
    proof: &[Hash],
) -> Result<(), ProofError> {
    if old > new {
        return Err(ProofError::OutOfRange);
    }
    if old == new || old == 0 {
        let expected = if old == new { *new_root } else { empty_root() };
        return if proof.is_empty() { finish(0, &[(*old_root, expected)]) } else { Err(ProofError::Length) };
    }
    // If the old tree is one complete subtree, its root opens the proof and is left out of it.
    let (seed, rest) = if old.is_power_of_two() {
        (*old_root, proof)
    } else {
        let (first, rest) = proof.split_first().ok_or(ProofError::Length)?;
        (*first, rest)
    };
    let skip = (old - 1).trailing_ones();
    let (mut node, mut last) = (shift(old - 1, skip), shift(new - 1, skip));
    let (mut old_hash, mut new_hash) = (seed, seed);
    for sibling in rest {
        if last == 0 {
            return Err(ProofError::Length);
        }
        if node & 1 == 1 || node == last {
            old_hash = node_hash(sibling, &old_hash);
            new_hash = node_hash(sibling, &new_hash);
            let up = if node & 1 == 0 { node.trailing_zeros().min(63) } else { 0 };
            (node, last) = (node >> up, last >> up);
        } else {
            new_hash = node_hash(&new_hash, sibling);
        }
        (node, last) = (node >> 1, last >> 1);
    }
    finish(last, &[(old_hash, *old_root), (new_hash, *new_root)])
}

/// The roots of the complete subtrees that make up a tree, largest first: all that is needed to append to it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Frontier {
    size: u64,
    hashes: Vec<Hash>,
}

/// The number of hashes does not fit the size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a tree of {size} leaves has {expected} frontier hashes, not {actual}")]
pub struct FrontierError {
    /// Leaves.
    pub size: u64,
    /// Hashes that such a tree has.
    pub expected: usize,
    /// Hashes given.
    pub actual: usize,
}

impl Frontier {
    /// The frontier of the empty tree.
    pub fn new() -> Self {
        Self::default()
    }

    /// A frontier from its stored parts, as [`Self::size`] and [`Self::hashes`] gave them.
    ///
    /// # Errors
    /// [`FrontierError`], if there are too few or too many hashes. Whether they are the right ones shows in the root.
    pub fn from_parts(size: u64, hashes: Vec<Hash>) -> Result<Self, FrontierError> {
        // Casts of a bit count (at most 64) lose nothing.
        let expected = size.count_ones() as usize;
        if hashes.len() == expected {
            Ok(Self { size, hashes })
        } else {
            Err(FrontierError { size, expected, actual: hashes.len() })
        }
    }

    /// The frontier of the first `size` leaves of a stored tree.
    ///
    /// # Errors
    /// Those of the reader.
    pub fn from_reader<R: HashReader>(reader: &R, size: u64) -> Result<Self, R::Error> {
        let hashes = subtrees(0, size).map(|(level, index)| reader.hash(level, index)).collect::<Result<_, _>>()?;
        Ok(Self { size, hashes })
    }

    /// Appends one leaf by its hash.
    pub fn append(&mut self, leaf_hash: Hash) {
        self.append_with(leaf_hash, |_, _, _| {});
    }

    /// Appends one leaf and reports every subtree that it completes, the leaf itself first: level, index, hash, in the
    /// coordinates of [`HashReader::hash`]. A store keeps exactly these.
    pub fn append_with(&mut self, leaf_hash: Hash, mut completed: impl FnMut(u8, u64, &Hash)) {
        let mut hash = leaf_hash;
        completed(0, self.size, &hash);
        for level in 0..self.size.trailing_ones() {
            // As many hashes are kept as bits are set, so that one is there for each trailing one.
            let Some(left) = self.hashes.pop() else { break };
            hash = node_hash(&left, &hash);
            completed(level as u8 + 1, self.size >> (level + 1), &hash);
        }
        self.hashes.push(hash);
        self.size += 1;
    }

    /// Number of leaves.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The root of the tree.
    pub fn root(&self) -> Hash {
        fold_right(self.hashes.iter().copied()).unwrap_or_else(empty_root)
    }

    /// The roots of the complete subtrees, largest (left-most) first.
    pub fn hashes(&self) -> &[Hash] {
        &self.hashes
    }
}

/// The largest power of two below `n`, for `n` > 1 (RFC 6962 section 2.1).
fn split(n: u64) -> u64 {
    1 << (63 - (n - 1).leading_zeros())
}

/// The complete subtrees that leaves `start..end` consist of, left to right, as (level, index). `start` must be a
/// multiple of the largest of their sizes, which holds for every range that RFC 6962's recursion reaches.
fn subtrees(start: u64, end: u64) -> impl Iterator<Item = (u8, u64)> {
    let mut at = start;
    std::iter::from_fn(move || {
        let level = (end - at).checked_ilog2()? as u8;
        let subtree = (level, at >> level);
        at += 1 << level;
        Some(subtree)
    })
}

/// The hash over leaves `start..end`, which must not be empty.
fn range_hash<R: HashReader>(reader: &R, start: u64, end: u64) -> Result<Hash, R::Error> {
    let hashes = subtrees(start, end).map(|(level, index)| reader.hash(level, index)).collect::<Result<Vec<_>, _>>()?;
    Ok(fold_right(hashes.into_iter()).unwrap_or_else(empty_root))
}

fn fold_right(hashes: impl DoubleEndedIterator<Item = Hash>) -> Option<Hash> {
    hashes.rev().reduce(|right, left| node_hash(&left, &right))
}

/// A shift by 64 or more is 0, not a panic.
fn shift(value: u64, by: u32) -> u64 {
    value.checked_shr(by).unwrap_or(0)
}

fn finish(last: u64, expected: &[(Hash, Hash)]) -> Result<(), ProofError> {
    if last != 0 {
        return Err(ProofError::Length);
    }
    if expected.iter().all(|(computed, given)| computed == given) { Ok(()) } else { Err(ProofError::Root) }
}
