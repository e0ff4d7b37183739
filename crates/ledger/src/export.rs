//! The audit stream: JSON lines, one file a day, each line chained to the one before.
//!
//! Because the chain runs over commitments and not over bodies, an event's body may be erased from an exported file (member
//! `event` and `salt` replaced by `"erased":true`) and the chain still holds. Public entries have lines of their own, since
//! the tree cannot be rebuilt without them. The format is specified in `docs/ledger.md`. Exporting goes on where the files
//! end; verifying needs nothing but the files.

mod verify;
mod write;

use std::io;
use std::path::{Path, PathBuf};

use countersign_proof::canonical::{Limits, parse_strict, to_canonical};
use countersign_proof::commitment::Salt;
use countersign_proof::digest::Digest;
use serde_json::Value;

use crate::leaf::{LogEntry, check_body};

pub use verify::{Issue, IssueKind, VerifyOptions, VerifyReport, verify};
pub use write::{ExportError, ExportReport, export};

/// Version of an event's line.
pub const EVENT_LINE: u64 = 1;
/// Version of a public entry's line: a reader that knows events alone says that it does not know the version.
pub const ENTRY_LINE: u64 = 2;
/// Opens the hash input of an event's line.
pub const EVENT_LINE_TAG: &[u8] = b"countersign/export-line/v1\0";
/// Opens the hash input of a public entry's line.
pub const ENTRY_LINE_TAG: &[u8] = b"countersign/export-entry/v1\0";
/// `prev_line` of the very first line.
pub const FIRST_PREV: Digest = Digest([0; 32]);
/// The longest line that is read, in bytes.
pub const MAX_LINE: usize = 5 << 20;
const LIMITS: Limits = Limits { max_bytes: MAX_LINE, max_depth: 66 };

/// SHA-256(tag ‖ previous line's hash ‖ length of origin as one byte ‖ origin ‖ index as u64, big-endian ‖ 32 bytes). An
/// event's line has [`EVENT_LINE_TAG`] and the commitment, a public entry's [`ENTRY_LINE_TAG`] and the leaf hash.
pub fn line_hash(tag: &[u8], prev_line: &Digest, origin: &str, index: u64, leaf: &[u8; 32]) -> Digest {
    // An origin is a hostname of at most 253 bytes.
    let length = [u8::try_from(origin.len()).unwrap_or(u8::MAX)];
    Digest::of_parts(&[tag, prev_line.as_bytes(), &length, origin.as_bytes(), &index.to_be_bytes(), leaf])
}

/// The hash of the line of a leaf.
fn hash_of(entry: &LogEntry, prev_line: &Digest, origin: &str, index: u64) -> Digest {
    match entry {
        LogEntry::Event(commitment) => line_hash(EVENT_LINE_TAG, prev_line, origin, index, commitment.as_bytes()),
        LogEntry::Public(_) => line_hash(ENTRY_LINE_TAG, prev_line, origin, index, &entry.leaf_hash()),
    }
}

/// A line, taken apart.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// Origin of the log.
    pub origin: String,
    /// Leaf index there.
    pub index: u64,
    /// The id of the event or the public entry.
    pub id: String,
    /// Its workspace.
    pub workspace: String,
    /// Hash of the line before.
    pub prev_line: Digest,
    /// The leaf, and what else the line has of it.
    pub content: Content,
}

/// What a line is about.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// An event.
    Event(EventLine),
    /// A public entry.
    Public {
        /// The leaf data.
        body: Vec<u8>,
        /// The leaf hash as the line has it.
        leaf: Digest,
    },
}

/// What a line has of an event.
#[derive(Debug, Clone, PartialEq)]
pub struct EventLine {
    /// The commitment.
    pub commitment: Digest,
    /// Its number in the workspace's sequence.
    pub seq: u64,
    /// The event's canonical bytes and salt, unless erased.
    pub opening: Option<(Vec<u8>, Salt)>,
    /// The event as JSON, unless erased.
    pub event: Option<Value>,
}

impl Line {
    /// Reads a line.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let value = parse_strict(bytes, &LIMITS).map_err(|e| e.to_string())?;
        let content = match number(&value, "v")? {
            EVENT_LINE => parse_event(&value)?,
            ENTRY_LINE => parse_entry(&value)?,
            other => return Err(format!("an unknown version, {other}")),
        };
        Ok(Self {
            origin: text(&value, "origin")?.to_owned(),
            index: number(&value, "index")?,
            id: text(&value, "id")?.to_owned(),
            workspace: text(&value, "workspace")?.to_owned(),
            prev_line: digest(&value, "prev_line")?,
            content,
        })
    }

    /// The hash that the next line names.
    pub fn hash(&self) -> Digest {
        hash_of(&self.entry(), &self.prev_line, &self.origin, self.index)
    }

    /// The leaf that the line is about.
    pub fn entry(&self) -> LogEntry {
        match &self.content {
            Content::Event(event) => LogEntry::Event(event.commitment),
            Content::Public { body, .. } => LogEntry::Public(body.clone()),
        }
    }
}

fn parse_event(value: &Value) -> Result<Content, String> {
    let event = value.get("event").cloned();
    let opening = match &event {
        None if value.get("erased") == Some(&Value::Bool(true)) => None,
        None => return Err("neither an event nor erased".into()),
        Some(event) => {
            let salt: Digest =
                format!("sha256:{}", text(value, "salt")?).parse().map_err(|_| "the salt is not hexadecimal")?;
            Some((to_canonical(event).map_err(|e| e.to_string())?, salt.0))
        }
    };
    let (commitment, seq) = (digest(value, "commitment")?, number(value, "seq")?);
    Ok(Content::Event(EventLine { commitment, seq, opening, event }))
}

fn parse_entry(value: &Value) -> Result<Content, String> {
    let entry = value.get("entry").ok_or("member entry is missing")?;
    let body = to_canonical(entry).map_err(|e| e.to_string())?;
    check_body(&body).map_err(|e| e.to_string())?;
    Ok(Content::Public { body, leaf: digest(value, "leaf")? })
}

fn text<'v>(value: &'v Value, name: &str) -> Result<&'v str, String> {
    value.get(name).and_then(Value::as_str).ok_or_else(|| format!("member {name} is missing"))
}

fn number(value: &Value, name: &str) -> Result<u64, String> {
    value.get(name).and_then(Value::as_u64).ok_or_else(|| format!("member {name} is missing"))
}

fn digest(value: &Value, name: &str) -> Result<Digest, String> {
    text(value, name)?.parse().map_err(|e| format!("member {name}: {e}"))
}

/// The export's files, oldest first, with their days (`YYYYMMDD`).
fn files(directory: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let day = name.strip_prefix("audit-").and_then(|n| n.strip_suffix(".jsonl"));
        if let Some(day) = day
            && day.len() == 8
            && day.bytes().all(|b| b.is_ascii_digit())
        {
            found.push((day.to_owned(), path.clone()));
        }
    }
    found.sort();
    Ok(found)
}

/// The UTC day of a time in milliseconds, `YYYYMMDD` (proleptic Gregorian calendar).
fn day_of(millis: u64) -> String {
    // Days are counted from 1 March of year 0, so that leap days end a year; 719,468 lie before the Unix epoch.
    let days = millis / 86_400_000 + 719_468;
    let era = days / 146_097;
    let of_era = days % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{:04}{month:02}{day:02}", year.min(9999))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_those_of_the_calendar() {
        for (millis, day) in [
            (0, "19700101"),
            (86_399_999, "19700101"),
            (86_400_000, "19700102"),
            (951_782_400_000, "20000229"),
            (1_709_164_800_000, "20240229"),
            (1_709_251_200_000, "20240301"),
            (1_767_225_599_999, "20251231"),
            (4_107_542_400_000, "21000301"),
        ] {
            assert_eq!(day_of(millis), day, "{millis}");
        }
    }

    #[test]
    fn a_line_hash_follows_the_document() {
        let prev = Digest([1; 32]);
        let by_hand = |tag: &[u8], leaf: &[u8]| {
            Digest::of(&[tag, &[1; 32], b"\x03a.b", &[0, 0, 0, 0, 0, 0, 1, 2], leaf].concat())
        };
        let event = LogEntry::Event(Digest([2; 32]));
        assert_eq!(hash_of(&event, &prev, "a.b", 258), by_hand(b"countersign/export-line/v1\0", &[2; 32]));
        let leaf = Digest::of(b"\0{}");
        let entry = LogEntry::Public(b"{}".to_vec());
        assert_eq!(hash_of(&entry, &prev, "a.b", 258), by_hand(b"countersign/export-entry/v1\0", leaf.as_bytes()));
    }
}
