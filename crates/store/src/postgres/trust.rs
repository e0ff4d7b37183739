//! What was signed and verified.

use countersign_ledger::state::first_id_at;
use countersign_ledger::trust::{TrustCount, TrustQuery, TrustRow};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::rows::{Result, big, get, parsed, to_word, unsigned, word};

pub(super) const COLUMNS: &str =
    "id, workspace, kind, at, artifact, artifact_type, subject, chain, signer, valid, body";
pub(super) const ONE: &str = "SELECT id, workspace, kind, at, artifact, artifact_type, subject, chain, signer, valid, body FROM trust WHERE id = $1";
pub(super) const COUNTS: &str = "SELECT kind, artifact_type, signer, valid, count(*) FROM trust WHERE workspace = $1 \
    GROUP BY kind, artifact_type, signer, valid ORDER BY kind, artifact_type, signer, valid LIMIT 10000";

/// The query, and what it is about; one more than the limit is asked for.
pub(super) fn sql(query: &TrustQuery, limit: u32) -> Result<(String, Vec<Box<dyn ToSql + Sync>>)> {
    let mut sql = format!("SELECT {COLUMNS} FROM trust WHERE true");
    let mut values: Vec<Box<dyn ToSql + Sync>> = Vec::new();
    let mut and = |condition: &str, value: Box<dyn ToSql + Sync>| {
        values.push(value);
        sql.push_str(&condition.replace('?', &format!("${}", values.len())));
    };
    and(" AND workspace = ?", Box::new(query.workspace.as_str().to_owned()));
    if let Some(kind) = &query.kind {
        and(" AND kind = ?", Box::new(to_word(kind)?));
    }
    for (condition, text) in [
        (" AND artifact = ?", &query.artifact),
        (" AND artifact_type = ?", &query.artifact_type),
        (" AND signer = ?", &query.signer),
        (" AND (artifact = ? OR subject = ? OR chain = ?)", &query.about),
    ] {
        if let Some(text) = text {
            and(condition, Box::new(text.clone()));
        }
    }
    if let Some(valid) = query.valid {
        and(" AND valid = ?", Box::new(valid));
    }
    if let Some(since) = query.since {
        and(" AND at >= ?", Box::new(big(since)));
        // Ids are made after the time that the row says: nothing of it lies before.
        and(" AND id >= ?", Box::new(first_id_at(since)));
    }
    if let Some(until) = query.until {
        and(" AND at < ?", Box::new(big(until)));
    }
    if let Some(before) = query.before {
        and(" AND id < ?", Box::new(before));
    }
    and(" ORDER BY id DESC LIMIT ?", Box::new(i64::from(limit) + 1));
    Ok((sql, values))
}

pub(super) fn row(row: &Row) -> Result<TrustRow> {
    Ok(TrustRow {
        id: get(row, 0)?,
        workspace: parsed(row, 1)?,
        kind: word(row, 2)?,
        at: unsigned(row, 3)?,
        artifact: get(row, 4)?,
        artifact_type: get(row, 5)?,
        subject: get(row, 6)?,
        chain: get(row, 7)?,
        signer: get(row, 8)?,
        valid: get(row, 9)?,
        body: get(row, 10)?,
    })
}

pub(super) fn count(row: &Row) -> Result<TrustCount> {
    Ok(TrustCount {
        kind: word(row, 0)?,
        artifact_type: get(row, 1)?,
        signer: get(row, 2)?,
        valid: get(row, 3)?,
        count: unsigned(row, 4)?,
    })
}
