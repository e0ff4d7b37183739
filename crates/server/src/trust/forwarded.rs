//! What is kept of what was forwarded to somebody else's log: a row for each entry and checkpoint, in the node's own workspace, so that
//! all nodes of a database see it. The newest row says up to which place of this log everything is settled: there is no other queue.

use countersign_domain::{Millis, WorkspaceName};
use countersign_ledger::leaf::EntryRow;
use countersign_ledger::trust::{TrustKind, TrustQuery, TrustRow};
use countersign_ledger::{Head, Reader, StoreError};
use countersign_proof::digest::Digest;
use countersign_trust::entry::LogEntry;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::time::rfc3339;

/// The most that waits and is still counted.
pub(super) const MOST_COUNTED: u64 = 1000;
/// Rows of other logs that one entry may have besides: the log can have been another before.
const MOST_LOGS: u32 = 16;

/// What a row is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum About {
    /// From where on entries are forwarded.
    Start,
    /// A public entry of this log.
    Entry,
    /// A checkpoint of this log.
    Checkpoint,
}

impl About {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Entry => "entry",
            Self::Checkpoint => "checkpoint",
        }
    }
}

/// A place in this log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub(super) struct Place {
    pub shard: u32,
    pub index: u64,
}

impl Place {
    pub fn end_of(head: &Head) -> Self {
        Self { shard: head.shard, index: head.size }
    }
    pub fn after(row: &EntryRow) -> Self {
        Self { shard: row.shard, index: row.index + 1 }
    }
}

/// A row's body.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Kept {
    /// Everything before this is settled; of a checkpoint, how large its tree is.
    pub after: Place,
    /// Whether a start is from the first entry on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub backlog: bool,
    /// As the log answered it, and as it was verified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<Value>,
    /// Why the log does not have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// A checkpoint: the note.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<String>,
    /// A checkpoint's signature: a Sigstore bundle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle: Option<Value>,
}

/// How something ended.
#[derive(Debug, Clone)]
pub(super) enum Settled {
    /// The log has it.
    Logged(Box<LogEntry>),
    /// It will not have it, and why.
    Refused(String),
}

impl Settled {
    pub fn into_kept(self, after: Place) -> (bool, Kept) {
        match self {
            Self::Logged(entry) => {
                let entry = serde_json::from_slice(&entry.to_json()).ok();
                (true, Kept { after, entry, ..Kept::default() })
            }
            Self::Refused(reason) => (false, Kept { after, reason: Some(reason), ..Kept::default() }),
        }
    }
}

/// A row, whose body is still to be filled in by [`row`].
pub(super) struct Draft<'a> {
    pub log: &'a str,
    pub about: About,
    pub of: Option<Uuid>,
    pub artifact: Digest,
    pub at: Millis,
}

pub(super) fn row(draft: &Draft<'_>, logged: Option<bool>, kept: &Kept) -> TrustRow {
    TrustRow {
        id: Uuid::now_v7(),
        workspace: WorkspaceName::node(),
        kind: TrustKind::Forward,
        at: draft.at,
        artifact: draft.artifact.to_string(),
        artifact_type: draft.about.as_str().to_owned(),
        subject: None,
        chain: draft.of.map(|id| id.to_string()),
        signer: draft.log.to_owned(),
        valid: logged,
        body: json!(kept).to_string(),
    }
}

/// What is kept of an entry.
pub(super) fn entry_row(log: &str, entry: &EntryRow, settled: Settled, after: Place, at: Millis) -> TrustRow {
    let draft = Draft { log, about: About::Entry, of: Some(entry.id), artifact: Digest::of(&entry.body), at };
    let (logged, kept) = settled.into_kept(after);
    row(&draft, Some(logged), &kept)
}

fn of_log(log: &str, about: About) -> TrustQuery {
    TrustQuery {
        kind: Some(TrustKind::Forward),
        signer: Some(log.to_owned()),
        artifact_type: Some(about.as_str().to_owned()),
        limit: 1,
        ..TrustQuery::of(WorkspaceName::node())
    }
}

pub(super) fn read(row: &TrustRow) -> Result<Kept, StoreError> {
    serde_json::from_str(&row.body).map_err(|error| StoreError::Corrupt(format!("row {}: {error}", row.id)))
}

/// The newest row about something.
pub(super) fn newest(reader: &dyn Reader, log: &str, about: About) -> Result<Option<(TrustRow, Kept)>, StoreError> {
    let row = reader.trust_rows(&of_log(log, about))?.rows.pop();
    row.map(|row| read(&row).map(|kept| (row, kept))).transpose()
}

/// Up to where everything is settled, by the newest row.
pub(super) fn cursor(reader: &dyn Reader, log: &str) -> Result<Option<Place>, StoreError> {
    let (start, entry) = (newest(reader, log, About::Start)?, newest(reader, log, About::Entry)?);
    let newest = start.into_iter().chain(entry).max_by_key(|(row, _)| row.id);
    Ok(newest.map(|(_, kept)| kept.after))
}

/// What is known of an entry in logs of others, newest first.
pub(super) fn about_entry(reader: &dyn Reader, id: Uuid) -> Result<Vec<(TrustRow, Kept)>, StoreError> {
    let query = TrustQuery {
        kind: Some(TrustKind::Forward),
        about: Some(id.to_string()),
        limit: MOST_LOGS,
        ..TrustQuery::of(WorkspaceName::node())
    };
    reader.trust_rows(&query)?.rows.into_iter().map(|row| read(&row).map(|kept| (row, kept))).collect()
}

/// The next public entries under the published head from a place on, and the place behind them.
pub(super) fn next(
    reader: &dyn Reader,
    head: &Head,
    from: Place,
    limit: u32,
) -> Result<(Vec<EntryRow>, Place), StoreError> {
    let mut at = from;
    while at.shard < head.shard {
        let rows = reader.public_entries(at.shard, at.index, limit)?;
        if let Some(last) = rows.last() {
            let after = Place::after(last);
            return Ok((rows, after));
        }
        at = Place { shard: at.shard + 1, index: 0 };
    }
    let mut rows = reader.public_entries(at.shard, at.index, limit)?;
    rows.retain(|row| row.shard == head.shard && row.index < head.size);
    let after = rows.last().map_or(at, Place::after);
    Ok((rows, after))
}

/// How many entries wait, as far as they are counted.
pub(super) fn waiting(reader: &dyn Reader, head: &Head, log: &str) -> Result<u64, StoreError> {
    let Some(mut at) = cursor(reader, log)? else { return Ok(0) };
    let mut count = 0;
    while count < MOST_COUNTED {
        let (rows, after) = next(reader, head, at, 256)?;
        if rows.is_empty() {
            break;
        }
        for row in rows {
            let settled = about_entry(reader, row.id)?.iter().any(|(known, _)| known.signer == log);
            count += u64::from(!settled);
        }
        at = after;
    }
    Ok(count)
}

/// An entry in somebody else's log, as callers see it.
pub(super) fn shown(row: &TrustRow, kept: &Kept) -> Value {
    json!({
        "log": row.signer,
        "logged": row.valid == Some(true),
        "index": kept.entry.as_ref().map(|entry| entry["logIndex"].clone()),
        "at": rfc3339(row.at),
        "reason": kept.reason,
        "entry": kept.entry,
    })
}
