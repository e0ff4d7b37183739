//! Tiles and entry bundles, per C2SP tlog-tiles: how a log publishes its tree as static files.
//!
//! A tile holds up to 256 consecutive hashes of tree level 8·L, concatenated. An entry bundle holds the entries under a
//! tile of level 0, each after its length as a big-endian 16-bit number.

use crate::checkpoint::parse_decimal;
use crate::merkle::{Hash, leaf_hash, node_hash};

/// Hashes in a full tile.
pub const TILE_WIDTH: u64 = 256;
/// Largest tile level of the specification.
pub const MAX_LEVEL: u8 = 63;

/// What was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TileError {
    /// Level above 63, or width not in 1 to 256.
    #[error("a tile's level is at most 63 and its width 1 to 256")]
    Coordinates,
    /// The path is not a tile's or a bundle's.
    #[error("not the path of a tile or an entry bundle")]
    Path,
    /// A bundle ends within an entry, or has too many or too few.
    #[error("the entry bundle does not hold the promised entries")]
    Bundle,
    /// An entry has more than 65,535 bytes.
    #[error("an entry has more than 65,535 bytes")]
    EntryTooLarge,
    /// The bytes are not as many hashes as the tile is wide, or the subtree lies beyond them.
    #[error("the tile does not hold the promised hashes")]
    Hashes,
}

/// Coordinates of a tile, or with [`Tile::entries_path`] of an entry bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tile {
    /// Tile level: level 0 holds leaf hashes, level L hashes of subtrees of 256^L leaves.
    pub level: u8,
    /// Which tile of the level.
    pub index: u64,
    /// Number of hashes, 1 to 256; below 256 the tile is partial.
    pub width: u16,
}

/// What a path leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Resource {
    /// `tile/<L>/<N>[.p/<W>]`
    Hashes(Tile),
    /// `tile/entries/<N>[.p/<W>]`; the level is 0.
    Entries(Tile),
}

impl Tile {
    /// A tile, if its coordinates are within the specification.
    ///
    /// # Errors
    /// [`TileError::Coordinates`].
    pub fn new(level: u8, index: u64, width: u16) -> Result<Self, TileError> {
        let good = level <= MAX_LEVEL && (1..=256).contains(&width);
        if good { Ok(Self { level, index, width }) } else { Err(TileError::Coordinates) }
    }

    /// `tile/<L>/<N>[.p/<W>]`
    pub fn path(&self) -> String {
        format!("tile/{}/{}", self.level, self.tail())
    }

    /// `tile/entries/<N>[.p/<W>]`
    pub fn entries_path(&self) -> String {
        format!("tile/entries/{}", self.tail())
    }

    /// Reads the path of a tile of hashes, as [`Self::path`] writes it and in no other spelling.
    ///
    /// # Errors
    /// [`TileError::Path`].
    pub fn parse_path(path: &str) -> Result<Self, TileError> {
        match Resource::parse_path(path)? {
            Resource::Hashes(tile) => Ok(tile),
            Resource::Entries(_) => Err(TileError::Path),
        }
    }

    /// The tiles that a log must add when its tree grows from `old` to `new` leaves: every tile of the new tree that is
    /// not already whole in the old one, partial ones included. Entry bundles are those of level 0.
    pub fn added(old: u64, new: u64) -> Vec<Self> {
        let mut tiles = Vec::new();
        for level in 0..8 {
            // Hashes on this tile level before and after.
            let (before, after) = (old >> (8 * u32::from(level)), new >> (8 * u32::from(level)));
            if before >= after {
                break;
            }
            let first = before / TILE_WIDTH;
            tiles.extend((first..after.div_ceil(TILE_WIDTH)).filter_map(|index| {
                let width = (after - index * TILE_WIDTH).min(TILE_WIDTH) as u16;
                (before < index * TILE_WIDTH + u64::from(width)).then_some(Self { level, index, width })
            }));
        }
        tiles
    }

    /// The tile, in a tree of `size` leaves, that holds or yields the hash of the complete subtree `index` of tree level
    /// `level`; with it the arguments for [`subtree_hash`]: level and index of the subtree within the tile.
    /// `None`, if the subtree is not complete in that tree.
    pub fn containing(level: u8, index: u64, size: u64) -> Option<(Self, u8, u64)> {
        let leaves = size.checked_shr(level.into())?;
        if index >= leaves {
            return None;
        }
        let (tile_level, within) = (level / 8, level % 8);
        let first_hash = index << within;
        let tile_index = first_hash / TILE_WIDTH;
        let width = ((size >> (8 * u32::from(tile_level))) - tile_index * TILE_WIDTH).min(TILE_WIDTH) as u16;
        Some((Self { level: tile_level, index: tile_index, width }, within, (first_hash % TILE_WIDTH) >> within))
    }

    /// `<N>[.p/<W>]`: the index in groups of three digits, all but the last marked with `x`.
    fn tail(&self) -> String {
        let mut text = format!("{:03}", self.index % 1000);
        let mut rest = self.index / 1000;
        while rest > 0 {
            text = format!("x{:03}/{text}", rest % 1000);
            rest /= 1000;
        }
        if u64::from(self.width) < TILE_WIDTH {
            text.push_str(&format!(".p/{}", self.width));
        }
        text
    }
}

impl Resource {
    /// Reads a path in its one spelling.
    ///
    /// # Errors
    /// [`TileError::Path`].
    pub fn parse_path(path: &str) -> Result<Self, TileError> {
        // The longest possible path has seven groups; anything much longer is not worth looking at.
        let rest = path.strip_prefix("tile/").filter(|rest| rest.len() < 64).ok_or(TileError::Path)?;
        let (level, tail) = rest.split_once('/').ok_or(TileError::Path)?;
        let (index, width) = match tail.split_once(".p/") {
            Some((index, width)) => (index, parse_decimal(width).filter(|w| *w < TILE_WIDTH).ok_or(TileError::Path)?),
            None => (tail, TILE_WIDTH),
        };
        let number = match level {
            "entries" => 0,
            _ => parse_decimal(level).and_then(|l| u8::try_from(l).ok()).ok_or(TileError::Path)?,
        };
        let index = parse_index(index).ok_or(TileError::Path)?;
        let width = u16::try_from(width).map_err(|_| TileError::Path)?;
        let tile = Tile::new(number, index, width).map_err(|_| TileError::Path)?;
        Ok(if level == "entries" { Self::Entries(tile) } else { Self::Hashes(tile) })
    }
}

/// The bytes of a tile.
pub fn encode_tile(hashes: &[Hash]) -> Vec<u8> {
    hashes.concat()
}

/// The hashes in a tile of the given width.
///
/// # Errors
/// [`TileError::Hashes`].
pub fn decode_tile(bytes: &[u8], width: u16) -> Result<Vec<Hash>, TileError> {
    let (hashes, rest) = bytes.as_chunks::<32>();
    let good = rest.is_empty() && hashes.len() == usize::from(width);
    if good { Ok(hashes.to_vec()) } else { Err(TileError::Hashes) }
}

/// The hash of subtree `index` at `level` (0 to 8) above a tile's own hashes.
///
/// # Errors
/// [`TileError::Hashes`], if the tile does not hold all of the subtree.
pub fn subtree_hash(tile: &[Hash], level: u8, index: u64) -> Result<Hash, TileError> {
    let width = 1usize.checked_shl(level.into()).filter(|w| *w <= 256).ok_or(TileError::Hashes)?;
    let start = usize::try_from(index).ok().and_then(|i| i.checked_mul(width)).ok_or(TileError::Hashes)?;
    let end = start.checked_add(width).ok_or(TileError::Hashes)?;
    let mut row = tile.get(start..end).ok_or(TileError::Hashes)?.to_vec();
    while row.len() > 1 {
        row = row.chunks_exact(2).map(|pair| node_hash(&pair[0], &pair[1])).collect();
    }
    row.first().copied().ok_or(TileError::Hashes)
}

/// An entry bundle.
///
/// # Errors
/// [`TileError::EntryTooLarge`]; [`TileError::Bundle`] for no entries or more than 256.
pub fn encode_bundle<E: AsRef<[u8]>>(entries: &[E]) -> Result<Vec<u8>, TileError> {
    if entries.is_empty() || entries.len() > 256 {
        return Err(TileError::Bundle);
    }
    let mut out = Vec::new();
    for entry in entries {
        let entry = entry.as_ref();
        let length = u16::try_from(entry.len()).map_err(|_| TileError::EntryTooLarge)?;
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(entry);
    }
    Ok(out)
}

/// The entries of a bundle of the given width.
///
/// # Errors
/// [`TileError::Bundle`].
pub fn decode_bundle(bytes: &[u8], width: u16) -> Result<Vec<&[u8]>, TileError> {
    let mut rest = bytes;
    let mut entries = Vec::new();
    while let Some((length, tail)) = rest.split_first_chunk::<2>() {
        let (entry, tail) = tail.split_at_checked(u16::from_be_bytes(*length).into()).ok_or(TileError::Bundle)?;
        entries.push(entry);
        rest = tail;
        if entries.len() > usize::from(width) {
            return Err(TileError::Bundle);
        }
    }
    let good = rest.is_empty() && entries.len() == usize::from(width) && (1..=256).contains(&width);
    if good { Ok(entries) } else { Err(TileError::Bundle) }
}

/// The level-0 tile that belongs to a bundle's entries.
pub fn hash_bundle<E: AsRef<[u8]>>(entries: &[E]) -> Vec<Hash> {
    entries.iter().map(|entry| leaf_hash(entry.as_ref())).collect()
}

fn parse_index(text: &str) -> Option<u64> {
    let groups: Vec<&str> = text.split('/').collect();
    let last = groups.len() - 1;
    let mut index = 0u64;
    for (i, group) in groups.iter().enumerate() {
        let digits = if i == last { *group } else { group.strip_prefix('x')? };
        let leading_zero_group = i == 0 && last > 0 && digits == "000";
        if digits.len() != 3 || !digits.bytes().all(|b| b.is_ascii_digit()) || leading_zero_group {
            return None;
        }
        index = index.checked_mul(1000)?.checked_add(digits.parse().ok()?)?;
    }
    Some(index)
}
