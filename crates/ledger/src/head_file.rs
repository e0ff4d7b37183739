//! The newest signed head, outside the database: what a restored backup is recognised by.
//!
//! A file of two slots of 4096 bytes that are written in turn, in place, and synced. A write that is torn leaves the
//! other slot whole, which holds the head before it; the database is then ahead by one group, which is the normal state
//! after a crash. The layout is specified in `docs/ledger.md`.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use countersign_proof::checkpoint::Checkpoint;
use countersign_proof::digest::Digest;
use countersign_proof::note::SignedNote;

use crate::durable;

const MAGIC: &[u8; 8] = b"CSHEAD1\n";
const SLOT: usize = 4096;
const PREFIX: usize = 8 + 8 + 4 + 2;
/// The longest checkpoint that fits a slot, in bytes.
pub const MAX_CHECKPOINT: usize = SLOT - PREFIX - 32;

/// What the file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeadRecord {
    /// There is no file.
    Missing,
    /// There is a file and no slot of it is whole.
    Damaged,
    /// The newest whole slot.
    Known(KnownHead),
}

/// A head that was signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownHead {
    /// Number of the shard.
    pub shard: u32,
    /// The signed note.
    pub note: String,
    /// What the note says. Its signature is not verified here.
    pub checkpoint: Checkpoint,
}

/// Why the file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum HeadFileError {
    /// Reading, writing or syncing failed.
    #[error("head file {}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What failed.
        error: io::Error,
    },
    /// Another process has it open.
    #[error("head file {} is in use by another process", .0.display())]
    InUse(PathBuf),
    /// A checkpoint that does not fit a slot.
    #[error("a checkpoint of {0} bytes does not fit the head file")]
    TooLong(usize),
}

/// The file, locked for as long as this value lives.
#[derive(Debug)]
pub struct HeadFile {
    path: PathBuf,
    file: Option<File>,
    counter: u64,
}

/// Reads the file without locking it, for `fsck`.
///
/// # Errors
/// [`HeadFileError::Io`].
pub fn read(path: &Path) -> Result<HeadRecord, HeadFileError> {
    let fail = |error| HeadFileError::Io { path: path.to_owned(), error };
    match File::open(path) {
        Ok(mut file) => {
            Ok(newest(&mut file).map_err(fail)?.map_or(HeadRecord::Damaged, |(_, head)| HeadRecord::Known(head)))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(HeadRecord::Missing),
        Err(error) => Err(fail(error)),
    }
}

impl HeadFile {
    /// Opens and locks the file, if there is one, and reads it. Nothing is created before the first [`Self::write`].
    ///
    /// # Errors
    /// [`HeadFileError`]: unreadable, or in use by another process.
    pub fn open(path: &Path) -> Result<(Self, HeadRecord), HeadFileError> {
        let fail = |error| HeadFileError::Io { path: path.to_owned(), error };
        let mut this = Self { path: path.to_owned(), file: None, counter: 0 };
        let mut file = match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((this, HeadRecord::Missing)),
            Err(error) => return Err(fail(error)),
        };
        lock(&file, path)?;
        let record = match newest(&mut file).map_err(fail)? {
            Some((counter, head)) => {
                this.counter = counter;
                HeadRecord::Known(head)
            }
            None => HeadRecord::Damaged,
        };
        this.file = Some(file);
        Ok((this, record))
    }

    /// Writes a head over the older slot and syncs it. When this returns `Ok`, the head survives the loss of power.
    ///
    /// # Errors
    /// [`HeadFileError`]. The head before is still there; writing may be tried again.
    pub fn write(&mut self, shard: u32, note: &str) -> Result<(), HeadFileError> {
        let record = encode(self.counter + 1, shard, note)?;
        let slot = (self.counter + 1) % 2 * SLOT as u64;
        let fail = |error| HeadFileError::Io { path: self.path.clone(), error };
        match &self.file {
            Some(file) => {
                file.write_all_at(&record, slot).map_err(fail)?;
                // The size never changes, so that there is no metadata to wait for.
                file.sync_data().map_err(fail)?;
            }
            None => self.file = Some(create(&self.path, &record, slot)?),
        }
        self.counter += 1;
        Ok(())
    }
}

/// Creates the file with its first record and its full size, so that a later write changes nothing but its slot. It
/// appears under its name only when it is whole.
fn create(path: &Path, record: &[u8], slot: u64) -> Result<File, HeadFileError> {
    let fail = |error| HeadFileError::Io { path: path.to_owned(), error };
    durable::create_dir_all(durable::parent(path)).map_err(fail)?;
    let fresh = path.with_extension("new");
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(true).mode(0o600).open(&fresh).map_err(fail)?;
    lock(&file, path)?;
    file.write_all_at(&[0; 2 * SLOT], 0).map_err(fail)?;
    file.write_all_at(record, slot).map_err(fail)?;
    file.sync_all().map_err(fail)?;
    std::fs::rename(&fresh, path).map_err(fail)?;
    durable::sync_parent(path).map_err(fail)?;
    Ok(file)
}

fn lock(file: &File, path: &Path) -> Result<(), HeadFileError> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(std::fs::TryLockError::WouldBlock) => Err(HeadFileError::InUse(path.to_owned())),
        Err(std::fs::TryLockError::Error(error)) => Err(HeadFileError::Io { path: path.to_owned(), error }),
    }
}

fn encode(counter: u64, shard: u32, note: &str) -> Result<Vec<u8>, HeadFileError> {
    if note.len() > MAX_CHECKPOINT {
        return Err(HeadFileError::TooLong(note.len()));
    }
    let mut record = Vec::with_capacity(PREFIX + note.len() + 32);
    record.extend_from_slice(MAGIC);
    record.extend_from_slice(&counter.to_be_bytes());
    record.extend_from_slice(&shard.to_be_bytes());
    // Bounded above, so that the length fits.
    record.extend_from_slice(&(note.len() as u16).to_be_bytes());
    record.extend_from_slice(note.as_bytes());
    let sum = Digest::of(&record);
    record.extend_from_slice(sum.as_bytes());
    Ok(record)
}

fn decode(slot: &[u8]) -> Option<(u64, KnownHead)> {
    let rest = slot.strip_prefix(MAGIC)?;
    let (counter, rest) = rest.split_first_chunk::<8>()?;
    let (shard, rest) = rest.split_first_chunk::<4>()?;
    let (length, rest) = rest.split_first_chunk::<2>()?;
    let length = usize::from(u16::from_be_bytes(*length));
    let note = rest.get(..length)?;
    let sum = rest.get(length..length + 32)?;
    if Digest::of(slot.get(..PREFIX + length)?).as_bytes() != sum {
        return None;
    }
    let note = std::str::from_utf8(note).ok()?.to_owned();
    let checkpoint = Checkpoint::parse(SignedNote::parse(&note).ok()?.text()).ok()?;
    Some((u64::from_be_bytes(*counter), KnownHead { shard: u32::from_be_bytes(*shard), note, checkpoint }))
}

/// For the fuzz targets: what a slot says is written back as the same bytes.
#[cfg(fuzzing)]
pub fn fuzz(slot: &[u8]) {
    if let Some((counter, head)) = decode(slot) {
        assert!(encode(counter, head.shard, &head.note).is_ok_and(|again| slot.starts_with(&again)));
    }
}

fn newest(file: &mut File) -> io::Result<Option<(u64, KnownHead)>> {
    let mut bytes = Vec::with_capacity(2 * SLOT);
    file.take(2 * SLOT as u64).read_to_end(&mut bytes)?;
    Ok(bytes.chunks(SLOT).filter_map(decode).max_by_key(|(counter, _)| *counter))
}

#[cfg(test)]
mod tests {
    use super::*;
    use countersign_proof::note::NoteSigner;

    fn note(size: u64) -> String {
        let signer = NoteSigner::from_seed("log.example", [1; 32]).expect("a key name");
        Checkpoint::new("log.example", size, [9; 32]).sign(&signer).expect("signs")
    }

    fn size_of(record: &HeadRecord) -> Option<u64> {
        match record {
            HeadRecord::Known(head) => Some(head.checkpoint.size),
            HeadRecord::Missing | HeadRecord::Damaged => None,
        }
    }

    #[test]
    fn the_newest_head_is_read_back_and_a_torn_write_leaves_the_one_before() {
        let dir = std::env::temp_dir().join(format!("countersign-head-{}", rand::random::<u64>()));
        let path = dir.join("head");
        assert_eq!(read(&path).expect("reads"), HeadRecord::Missing);
        let (mut file, _) = HeadFile::open(&path).expect("opens");
        for size in 1..=5 {
            file.write(3, &note(size)).expect("writes");
            assert_eq!(size_of(&read(&path).expect("reads")), Some(size));
        }
        assert!(matches!(HeadFile::open(&path), Err(HeadFileError::InUse(_))));
        drop(file);
        // Size 5 went to slot 1: tear it at every byte that matters.
        let whole = std::fs::read(&path).expect("reads");
        for cut in [0, 7, 20, 60, 200] {
            let mut torn = whole.clone();
            torn[SLOT + cut..].fill(0);
            std::fs::write(&path, &torn).expect("writes");
            assert_eq!(size_of(&read(&path).expect("reads")), Some(4), "torn at {cut}");
        }
        let (mut file, record) = HeadFile::open(&path).expect("opens");
        assert_eq!(size_of(&record), Some(4));
        file.write(3, &note(6)).expect("writes");
        assert_eq!(size_of(&read(&path).expect("reads")), Some(6));
        std::fs::write(&path, b"not a head file").expect("writes");
        assert_eq!(read(&path).expect("reads"), HeadRecord::Damaged);
        std::fs::remove_dir_all(&dir).expect("removes");
    }
}
