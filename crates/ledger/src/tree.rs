//! The stored tree: hashes of complete subtrees out of tiles (C2SP tlog-tiles) and leaves.
//!
//! A complete tile is stored once and never changes. The incomplete ones, at most one a level, are kept in memory by
//! whoever writes ([`Tree`]) and are made again out of stored leaves and tiles by whoever only reads.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use countersign_proof::merkle::{Frontier, Hash, HashReader, node_hash};

use crate::contract::{EventRow, Head, Reader, StoreError};
use crate::leaf::LogEntry;

/// Hashes in a complete tile.
pub const TILE: usize = 256;
/// Tree levels in a tile.
const LEVELS: u8 = 8;
/// Complete tiles kept in memory, 8 KiB each.
const CACHED_TILES: usize = 64;

/// A tile that became complete: level (of tiles), index, hashes.
pub type FullTile = (u8, u64, Vec<Hash>);

/// A tree that grows: its frontier and the incomplete tile of every level.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    frontier: Frontier,
    edge: Vec<Vec<Hash>>,
}

impl Tree {
    /// The empty tree.
    pub fn new() -> Self {
        Self::default()
    }

    /// The tree of the first `size` leaves of a stored shard.
    ///
    /// # Errors
    /// Those of the reader, and `Corrupt` if tiles or leaves are missing.
    pub fn load(reader: &dyn Reader, shard: u32, size: u64) -> Result<Self, StoreError> {
        let stored = TreeReader::new(reader, shard, size);
        let mut edge = Vec::new();
        for level in 0..LEVELS {
            let count = partial_width(size, level);
            if level > 0 && subtrees(size, level) == 0 {
                break;
            }
            edge.push(stored.partial(level, subtrees(size, level) / TILE as u64, count)?);
        }
        // With the edge at hand only complete tiles are read from here on.
        let known = Self { frontier: Frontier::new(), edge };
        let frontier = Frontier::from_reader(&stored.with_edge(&known.edge), size)?;
        Ok(Self { frontier, edge: known.edge })
    }

    /// Appends a leaf and adds the tiles that it completes to `full`.
    pub fn append(&mut self, leaf: Hash, full: &mut Vec<FullTile>) {
        let edge = &mut self.edge;
        self.frontier.append_with(leaf, |level, index, hash| {
            if level % LEVELS != 0 {
                return;
            }
            let row = usize::from(level / LEVELS);
            if edge.len() <= row {
                edge.resize_with(row + 1, Vec::new);
            }
            edge[row].push(*hash);
            if edge[row].len() == TILE {
                full.push((level / LEVELS, index / TILE as u64, std::mem::take(&mut edge[row])));
            }
        });
    }

    /// Leaves.
    pub fn size(&self) -> u64 {
        self.frontier.size()
    }

    /// RFC 6962 root.
    pub fn root(&self) -> Hash {
        self.frontier.root()
    }

    /// The compact range.
    pub fn frontier(&self) -> &Frontier {
        &self.frontier
    }

    /// The hashes of the incomplete tile of a level (of tiles); empty if there is none.
    pub fn partial_tile(&self, level: u8) -> &[Hash] {
        self.edge.get(usize::from(level)).map_or(&[], Vec::as_slice)
    }
}

/// A published head with the tree under it.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The head, durable in the database and outside it.
    pub head: Arc<Head>,
    /// Its tree.
    pub tree: Arc<Tree>,
}

impl Snapshot {
    /// Whether an event lies under this head or in a closed shard.
    pub fn covers(&self, row: &EventRow) -> bool {
        row.shard < self.head.shard || row.shard == self.head.shard && row.index < self.head.size
    }

    /// The hashes of a tile of the open shard, whole or partial, exactly `width` of them; `None` beyond the tree.
    ///
    /// # Errors
    /// Those of the reader.
    pub fn tile(
        &self,
        reader: &dyn Reader,
        level: u8,
        index: u64,
        width: usize,
    ) -> Result<Option<Vec<Hash>>, StoreError> {
        tile(&TreeReader::new(reader, self.head.shard, self.head.size).with_snapshot(self), level, index, width)
    }
}

/// The hashes of a tile of any shard at the size that the database has of it, exactly `width` of them; `None` beyond the tree.
///
/// # Errors
/// Those of the reader.
pub fn tile(tree: &TreeReader<'_>, level: u8, index: u64, width: usize) -> Result<Option<Vec<Hash>>, StoreError> {
    if level >= LEVELS || width == 0 || width > TILE {
        return Ok(None);
    }
    let end = index.checked_mul(TILE as u64).and_then(|first| first.checked_add(width as u64));
    if end.is_none_or(|end| end > subtrees(tree.size, level)) {
        return Ok(None);
    }
    let mut row = tree.row(level, index)?.to_vec();
    row.truncate(width);
    Ok(Some(row))
}

/// The most recently used complete tiles. They never change, so that nothing is ever invalidated.
#[derive(Debug, Default)]
pub struct TileCache {
    tiles: Mutex<VecDeque<(TileKey, Arc<[Hash]>)>>,
}

type TileKey = (u32, u8, u64);

impl TileCache {
    fn get(&self, key: TileKey) -> Option<Arc<[Hash]>> {
        let mut tiles = self.tiles.lock().unwrap_or_else(PoisonError::into_inner);
        let at = tiles.iter().position(|(known, _)| *known == key)?;
        let hit = tiles.remove(at)?;
        let hashes = Arc::clone(&hit.1);
        tiles.push_front(hit);
        Some(hashes)
    }

    fn put(&self, key: TileKey, hashes: &Arc<[Hash]>) {
        let mut tiles = self.tiles.lock().unwrap_or_else(PoisonError::into_inner);
        tiles.push_front((key, Arc::clone(hashes)));
        tiles.truncate(CACHED_TILES);
    }
}

/// Subtree hashes of one shard at one size.
pub struct TreeReader<'a> {
    reader: &'a dyn Reader,
    shard: u32,
    size: u64,
    edge: Option<&'a [Vec<Hash>]>,
    cache: Option<&'a TileCache>,
}

impl<'a> TreeReader<'a> {
    /// Reads the first `size` leaves of a shard.
    pub fn new(reader: &'a dyn Reader, shard: u32, size: u64) -> Self {
        Self { reader, shard, size, edge: None, cache: None }
    }

    /// Keeps complete tiles in a cache.
    #[must_use]
    pub fn cached(mut self, cache: &'a TileCache) -> Self {
        self.cache = Some(cache);
        self
    }

    /// Takes incomplete tiles from a snapshot, if it is of the same tree.
    #[must_use]
    pub fn with_snapshot(self, snapshot: &'a Snapshot) -> Self {
        if snapshot.head.shard == self.shard && snapshot.head.size == self.size {
            self.with_edge(&snapshot.tree.edge)
        } else {
            self
        }
    }

    fn with_edge(mut self, edge: &'a [Vec<Hash>]) -> Self {
        self.edge = Some(edge);
        self
    }

    /// All hashes of a tile at this size: 256, or fewer if it is the incomplete one.
    fn row(&self, level: u8, index: u64) -> Result<Arc<[Hash]>, StoreError> {
        let complete = subtrees(self.size, level) / TILE as u64;
        if index >= complete {
            return match self.edge {
                Some(edge) => Ok(edge.get(usize::from(level)).map_or_else(|| Arc::from([]), |row| Arc::from(&row[..]))),
                None => self.partial(level, index, partial_width(self.size, level)).map(Arc::from),
            };
        }
        let key = (self.shard, level, index);
        if let Some(hit) = self.cache.and_then(|cache| cache.get(key)) {
            return Ok(hit);
        }
        let missing = || StoreError::Corrupt(format!("tile {level}/{index} of shard {} is missing", self.shard));
        let hashes: Arc<[Hash]> = self.reader.tile(self.shard, level, index)?.ok_or_else(missing)?.into();
        if hashes.len() != TILE {
            return Err(StoreError::Corrupt(format!("tile {level}/{index} has {} hashes", hashes.len())));
        }
        if let Some(cache) = self.cache {
            cache.put(key, &hashes);
        }
        Ok(hashes)
    }

    /// The first `count` hashes of a tile that is not stored: leaves, or the roots of the complete tiles below.
    fn partial(&self, level: u8, index: u64, count: usize) -> Result<Vec<Hash>, StoreError> {
        let first = index * TILE as u64;
        if level == 0 {
            let leaves = self.reader.entries(self.shard, first, first + count as u64)?;
            if leaves.len() != count {
                return Err(StoreError::Corrupt(format!("leaves after {first} of shard {} are missing", self.shard)));
            }
            return Ok(leaves.iter().map(LogEntry::leaf_hash).collect());
        }
        (first..first + count as u64).map(|below| Ok(perfect_root(&self.row(level - 1, below)?))).collect()
    }
}

impl HashReader for TreeReader<'_> {
    type Error = StoreError;

    fn hash(&self, level: u8, index: u64) -> Result<Hash, StoreError> {
        let (row, within) = (level / LEVELS, level % LEVELS);
        let first = index << within;
        let offset = (first % TILE as u64) as usize;
        let hashes = self.row(row, first / TILE as u64)?;
        let range = offset..offset + (1 << within);
        let beyond = || StoreError::Corrupt(format!("subtree {level}/{index} of shard {} is missing", self.shard));
        Ok(perfect_root(hashes.get(range).ok_or_else(beyond)?))
    }
}

/// Complete subtrees of 256^`level` leaves in a tree.
fn subtrees(size: u64, level: u8) -> u64 {
    size.checked_shr(u32::from(level * LEVELS)).unwrap_or(0)
}

fn partial_width(size: u64, level: u8) -> usize {
    (subtrees(size, level) % TILE as u64) as usize
}

/// The root over a power of two of hashes, at least one.
fn perfect_root(hashes: &[Hash]) -> Hash {
    let mut row = hashes.to_vec();
    while row.len() > 1 {
        row = row.chunks_exact(2).map(|pair| node_hash(&pair[0], &pair[1])).collect();
    }
    row.first().copied().unwrap_or_default()
}
