//! Accounts that people connected.

use countersign_domain::{Millis, UpstreamName, WorkspaceName};
use countersign_ledger::connections::{ConnectionKey, ConnectionRow, ConnectionStage, MAX_CONNECTIONS};
use countersign_ledger::state::{Conflict, Fingerprint};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::ops::{Outcome, found, refused, run};
use super::rows::{Result, maybe_uuid, parsed, to_word, word};

const COLUMNS: &str = "workspace, upstream, person, stage, version, body, sealed, expires, at, event";

pub(super) fn put(c: &Connection, row: &ConnectionRow, from: Option<&Fingerprint>) -> Result<Outcome> {
    if let Some(from) = from
        && get(c, &row.key)?.is_none_or(|there| there.version != *from)
    {
        return refused(Conflict::NotFound);
    }
    let sql = format!("INSERT OR REPLACE INTO connection ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)");
    let values = params![
        row.key.workspace.as_str(),
        row.key.upstream.as_str(),
        row.key.person,
        to_word(&row.key.stage)?,
        row.version,
        row.body,
        row.sealed,
        row.expires,
        row.at,
        row.event.as_ref().map(|id| id.as_bytes()),
    ];
    run(c, &sql, values).map(|_| Outcome::Done)
}

pub(super) fn take(c: &Connection, key: &ConnectionKey, version: &Fingerprint, now: Millis) -> Result<Outcome> {
    let sql = "DELETE FROM connection WHERE workspace = ?1 AND upstream = ?2 AND person = ?3 AND stage = ?4 \
               AND version = ?5 AND (expires IS NULL OR expires > ?6)";
    let values = params![key.workspace.as_str(), key.upstream.as_str(), key.person, to_word(&key.stage)?, version, now];
    found(run(c, sql, values)?)
}

pub(super) fn get(c: &Connection, key: &ConnectionKey) -> Result<Option<ConnectionRow>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM connection WHERE workspace = ?1 AND upstream = ?2 AND person = ?3 AND stage = ?4"
    );
    let values = params![key.workspace.as_str(), key.upstream.as_str(), key.person, to_word(&key.stage)?];
    c.prepare_cached(&sql)?.query_row(values, read).optional()
}

pub(super) fn of_version(
    c: &Connection,
    stage: ConnectionStage,
    version: &Fingerprint,
) -> Result<Option<ConnectionRow>> {
    let sql = format!("SELECT {COLUMNS} FROM connection WHERE version = ?1 AND stage = ?2 LIMIT 1");
    c.prepare_cached(&sql)?.query_row(params![version, to_word(&stage)?], read).optional()
}

pub(super) fn of_person(c: &Connection, workspace: &WorkspaceName, person: &str) -> Result<Vec<ConnectionRow>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM connection WHERE workspace = ?1 AND person = ?2 ORDER BY upstream, stage LIMIT 1000"
    );
    c.prepare_cached(&sql)?.query_map(params![workspace.as_str(), person], read)?.collect()
}

pub(super) fn of_workspace(
    c: &Connection,
    workspace: &WorkspaceName,
    behind: Option<(&str, &UpstreamName)>,
    limit: u32,
) -> Result<Vec<ConnectionRow>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM connection WHERE workspace = ?1 AND (person, upstream) > (?2, ?3) \
         ORDER BY person, upstream, stage LIMIT ?4"
    );
    // Nobody's name is empty.
    let (person, upstream) = behind.map_or(("", ""), |(person, upstream)| (person, upstream.as_str()));
    let values = params![workspace.as_str(), person, upstream, limit.min(MAX_CONNECTIONS)];
    c.prepare_cached(&sql)?.query_map(values, read)?.collect()
}

fn read(row: &Row<'_>) -> Result<ConnectionRow> {
    let key = ConnectionKey {
        workspace: parsed(row, 0)?,
        upstream: parsed(row, 1)?,
        person: row.get(2)?,
        stage: word(row, 3)?,
    };
    Ok(ConnectionRow {
        key,
        version: row.get(4)?,
        body: row.get(5)?,
        sealed: row.get(6)?,
        expires: row.get(7)?,
        at: row.get(8)?,
        event: maybe_uuid(row, 9)?,
    })
}
