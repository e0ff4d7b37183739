//! The directory: workspaces, granted roles, API keys.

use countersign_domain::{Millis, WorkspaceName};
use countersign_ledger::directory::{Directory, DirectoryKind, DirectoryRow};
use countersign_ledger::state::Conflict;
use rusqlite::{Connection, params};
use uuid::Uuid;

use super::ops::{Outcome, found, refused, run};
use super::rows::{Result, parsed, to_word, uuid, word};

pub(super) fn add(c: &Connection, row: &DirectoryRow, cap: u32) -> Result<Outcome> {
    let kind = to_word(&row.kind)?;
    let exists = "SELECT 1 FROM directory WHERE kind = ?1 AND workspace = ?2 AND name = ?3";
    if c.prepare_cached(exists)?.exists(params![kind, row.workspace.as_str(), row.name])? {
        return refused(Conflict::Exists);
    }
    let count = "SELECT count(*) FROM directory WHERE kind = ?1";
    let there: u32 = c.prepare_cached(count)?.query_row([&kind], |r| r.get(0))?;
    if there >= cap {
        return refused(Conflict::Full { cap });
    }
    let sql =
        "INSERT INTO directory (kind, workspace, name, body, at, event, used) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
    let values = params![kind, row.workspace.as_str(), row.name, row.body, row.at, row.event.as_bytes(), row.used];
    run(c, sql, values)?;
    changed(c)
}

pub(super) fn set(c: &Connection, row: &DirectoryRow, from: Option<Uuid>) -> Result<Outcome> {
    let sql = "UPDATE directory SET body = ?4, at = ?5, event = ?6 \
               WHERE kind = ?1 AND workspace = ?2 AND name = ?3 AND (?7 IS NULL OR event = ?7)";
    let kind = to_word(&row.kind)?;
    let from = from.as_ref().map(Uuid::as_bytes);
    let values = params![kind, row.workspace.as_str(), row.name, row.body, row.at, row.event.as_bytes(), from];
    after(c, run(c, sql, values)?)
}

pub(super) fn remove(c: &Connection, kind: DirectoryKind, workspace: &WorkspaceName, name: &str) -> Result<Outcome> {
    let sql = "DELETE FROM directory WHERE kind = ?1 AND workspace = ?2 AND name = ?3";
    after(c, run(c, sql, params![to_word(&kind)?, workspace.as_str(), name])?)
}

pub(super) fn used(
    c: &Connection,
    kind: DirectoryKind,
    workspace: &WorkspaceName,
    name: &str,
    at: Millis,
) -> Result<Outcome> {
    let sql = "UPDATE directory SET used = max(coalesce(used, 0), ?4) WHERE kind = ?1 AND workspace = ?2 AND name = ?3";
    // What was removed meanwhile is no conflict: it must not stand in the way of the other counts.
    run(c, sql, params![to_word(&kind)?, workspace.as_str(), name, at]).map(|_| Outcome::Done)
}

fn after(c: &Connection, rows: usize) -> Result<Outcome> {
    if rows == 0 { found(0) } else { changed(c) }
}

fn changed(c: &Connection) -> Result<Outcome> {
    run(c, "UPDATE directory_version SET n = n + 1", []).map(|_| Outcome::Done)
}

pub(super) fn version(c: &Connection) -> Result<u64> {
    c.prepare_cached("SELECT n FROM directory_version")?.query_row([], |r| r.get(0))
}

pub(super) fn all(c: &Connection) -> Result<Directory> {
    let sql = "SELECT kind, workspace, name, body, at, event, used FROM directory ORDER BY kind, workspace, name";
    let mut statement = c.prepare_cached(sql)?;
    let rows = statement.query_map([], |row| {
        Ok(DirectoryRow {
            kind: word(row, 0)?,
            workspace: parsed(row, 1)?,
            name: row.get(2)?,
            body: row.get(3)?,
            at: row.get(4)?,
            event: uuid(row, 5)?,
            used: row.get(6)?,
        })
    })?;
    Ok(Directory { version: version(c)?, rows: rows.collect::<Result<_>>()? })
}
