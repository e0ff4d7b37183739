//! Writing the files, and going on where they end.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use countersign_proof::digest::Digest;

use super::{ENTRY_LINE, EVENT_LINE, FIRST_PREV, Line, MAX_LINE, day_of, files, hash_of};
use crate::contract::{EventRow, Head, Reader, ShardRow, StoreError};
use crate::leaf::{EntryRow, Leaf, LogEntry, Step, Walk};
use crate::opening::named_predecessor;

/// Why an export ended early. What was written before stays and is gone on from.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// A file or the directory.
    #[error("{}: {error}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What failed.
        error: io::Error,
    },
    /// The store fails.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The last line of the files cannot be read: they must be looked at first.
    #[error("{}: the last line cannot be read: {why}", path.display())]
    LastLine {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The files are not an export of this ledger.
    #[error("the files end with leaf {index} of {origin}, which this ledger does not have")]
    Foreign {
        /// Origin in the last line.
        origin: String,
        /// Index in the last line.
        index: u64,
    },
}

/// What was written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExportReport {
    /// Lines added.
    pub lines: u64,
    /// Hash of the last line in the files; `None` if there is none.
    pub last_line: Option<Digest>,
    /// Origin and index of the last line.
    pub last: Option<(String, u64)>,
}

impl ExportReport {
    /// The report for programs: what `POST /admin/export` and `audit export --json` answer.
    pub fn to_json(&self) -> serde_json::Value {
        let (origin, index) = self.last.clone().unzip();
        serde_json::json!({ "lines": self.lines, "last_line": self.last_line, "origin": origin, "index": index })
    }
}

/// Adds to the files in `directory` whatever the ledger has up to `head` that they lack.
///
/// A line goes into the file of the UTC day of its event, or of its entry's id, but never into an earlier file than the line before it: log order is
/// what counts. Files are synced before this returns.
///
/// # Errors
/// [`ExportError`].
pub fn export(reader: &dyn Reader, head: &Head, directory: &Path) -> Result<ExportReport, ExportError> {
    crate::durable::create_dir_all(directory).map_err(|error| ExportError::Io { path: directory.to_owned(), error })?;
    let mut files = Files::open(directory)?;
    let shards = reader.shards()?;
    let Some(mut at) = resume(reader, head, &shards, files.last.as_ref())? else {
        return Ok(files.report);
    };
    loop {
        let size = if at.shard.shard == head.shard { head.size } else { at.shard.size };
        let (origin, mut walk) = (&at.shard.origin, Walk::new(reader, at.shard.shard, at.index));
        for index in at.index..size {
            match walk.step()? {
                Step::Leaf(leaf) => files.add(origin, index, leaf)?,
                Step::Missing => {
                    return Err(StoreError::Corrupt(format!("leaf {index} of {origin} is missing")).into());
                }
                Step::Doubled(..) => {
                    return Err(StoreError::Corrupt(format!("leaf {index} of {origin} is stored twice")).into());
                }
            }
        }
        match shards.iter().find(|s| s.shard > at.shard.shard && s.shard <= head.shard) {
            Some(next) => at = Place { shard: next, index: 0 },
            None => return files.finish(),
        }
    }
}

struct Place<'a> {
    shard: &'a ShardRow,
    index: u64,
}

/// Where the next line comes from; `None` if there is nothing to export.
fn resume<'a>(
    reader: &dyn Reader,
    head: &Head,
    shards: &'a [ShardRow],
    last: Option<&Line>,
) -> Result<Option<Place<'a>>, ExportError> {
    let Some(last) = last else { return Ok(shards.first().map(|shard| Place { shard, index: 0 })) };
    let foreign = || ExportError::Foreign { origin: last.origin.clone(), index: last.index };
    if let Some(shard) = shards.iter().find(|s| s.origin == last.origin) {
        let size = if shard.shard == head.shard { head.size } else { shard.size };
        // A restored database ends before the files do: what they have of that log stays, and the next shard follows.
        if last.index < size {
            let stored = reader.entries(shard.shard, last.index, last.index + 1)?;
            if stored.first() != Some(&last.entry()) {
                return Err(foreign());
            }
        }
        return Ok(Some(Place { shard, index: last.index + 1 }));
    }
    // The whole log of the last line was lost; the one that names it as its predecessor goes on.
    for shard in shards {
        if named_predecessor(reader, shard)?.is_some_and(|named| named.origin == last.origin) {
            return Ok(Some(Place { shard, index: 0 }));
        }
    }
    Err(foreign())
}

struct Files {
    directory: PathBuf,
    day: String,
    open: Option<(PathBuf, io::BufWriter<File>)>,
    last: Option<Line>,
    report: ExportReport,
}

impl Files {
    fn open(directory: &Path) -> Result<Self, ExportError> {
        let fail = |error| ExportError::Io { path: directory.to_owned(), error };
        let mut this = Self {
            directory: directory.to_owned(),
            day: String::new(),
            open: None,
            last: None,
            report: ExportReport::default(),
        };
        for (day, path) in files(directory).map_err(fail)?.into_iter().rev() {
            if this.day.is_empty() {
                this.day = day;
            }
            if let Some(line) = last_line(&path)? {
                this.report.last_line = Some(line.hash());
                this.report.last = Some((line.origin.clone(), line.index));
                this.last = Some(line);
                break;
            }
        }
        Ok(this)
    }

    fn add(&mut self, origin: &str, index: u64, leaf: Leaf) -> Result<(), ExportError> {
        let time = match &leaf {
            Leaf::Event(row) => row.time,
            Leaf::Public(row) => row.made_at(),
        };
        let day = day_of(time).max(self.day.clone());
        if self.open.is_none() || day != self.day {
            self.sync()?;
            let path = self.directory.join(format!("audit-{day}.jsonl"));
            let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path);
            let file = file.map_err(|error| ExportError::Io { path: path.clone(), error })?;
            self.open = Some((path, io::BufWriter::new(file)));
            self.day = day;
        }
        let prev = self.report.last_line.unwrap_or(FIRST_PREV);
        if let Some((path, file)) = &mut self.open {
            let line = match &leaf {
                Leaf::Event(row) => encode_event(origin, row, &prev),
                Leaf::Public(row) => encode_entry(origin, row, &prev),
            };
            let written = file.write_all(&line);
            written.map_err(|error| ExportError::Io { path: path.clone(), error })?;
        }
        let entry = match leaf {
            Leaf::Event(row) => LogEntry::Event(row.commitment),
            Leaf::Public(row) => LogEntry::Public(row.body),
        };
        self.report.last_line = Some(hash_of(&entry, &prev, origin, index));
        self.report.last = Some((origin.to_owned(), index));
        self.report.lines += 1;
        Ok(())
    }

    fn sync(&mut self) -> Result<(), ExportError> {
        let Some((path, mut file)) = self.open.take() else { return Ok(()) };
        file.flush().and_then(|()| file.get_ref().sync_all()).map_err(|error| ExportError::Io { path, error })
    }

    fn finish(mut self) -> Result<ExportReport, ExportError> {
        self.sync()?;
        let synced = File::open(&self.directory).and_then(|dir| dir.sync_all());
        synced.map_err(|error| ExportError::Io { path: self.directory.clone(), error })?;
        Ok(self.report)
    }
}

/// One line in RFC 8785 form, with its newline. All values but the event are hexadecimal, numbers, names or hostnames, none
/// of which needs escaping.
fn encode_event(origin: &str, row: &EventRow, prev: &Digest) -> Vec<u8> {
    let mut line = format!("{{\"commitment\":\"{}\",", row.commitment).into_bytes();
    match &row.opening {
        Some(opening) => {
            line.extend_from_slice(b"\"event\":");
            line.extend_from_slice(&opening.event);
            line.push(b',');
        }
        None => line.extend_from_slice(b"\"erased\":true,"),
    }
    let rest =
        format!("\"id\":\"{}\",\"index\":{},\"origin\":\"{origin}\",\"prev_line\":\"{prev}\",", row.id, row.index);
    line.extend_from_slice(rest.as_bytes());
    if let Some(opening) = &row.opening {
        line.extend_from_slice(format!("\"salt\":\"{}\",", Digest(opening.salt).hex()).as_bytes());
    }
    let rest = format!("\"seq\":{},\"v\":{EVENT_LINE},\"workspace\":\"{}\"}}\n", row.seq, row.workspace);
    line.extend_from_slice(rest.as_bytes());
    line
}

/// The same for a public entry, whose body is in RFC 8785 form.
fn encode_entry(origin: &str, row: &EntryRow, prev: &Digest) -> Vec<u8> {
    let (id, index, leaf, workspace) = (row.id, row.index, Digest(row.leaf_hash()), &row.workspace);
    let mut line = b"{\"entry\":".to_vec();
    line.extend_from_slice(&row.body);
    let rest = format!(
        ",\"id\":\"{id}\",\"index\":{index},\"leaf\":\"{leaf}\",\"origin\":\"{origin}\",\"prev_line\":\"{prev}\",\
         \"v\":{ENTRY_LINE},\"workspace\":\"{workspace}\"}}\n"
    );
    line.extend_from_slice(rest.as_bytes());
    line
}

/// The last whole line of a file. A line that a crash cut short is cut away: it will be written again.
fn last_line(path: &Path) -> Result<Option<Line>, ExportError> {
    let fail = |error| ExportError::Io { path: path.to_owned(), error };
    let mut file = OpenOptions::new().read(true).write(true).open(path).map_err(fail)?;
    let size = file.metadata().map_err(fail)?.len();
    let from = size.saturating_sub(2 * MAX_LINE as u64);
    file.seek(SeekFrom::Start(from)).map_err(fail)?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail).map_err(fail)?;
    let whole = tail.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
    if whole < tail.len() {
        file.set_len(from + whole as u64).and_then(|()| file.sync_all()).map_err(fail)?;
        tail.truncate(whole);
    }
    let Some(body) = tail.strip_suffix(b"\n") else { return Ok(None) };
    let start = body.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
    let line = Line::parse(&body[start..]);
    line.map(Some).map_err(|why| ExportError::LastLine { path: path.to_owned(), why })
}
