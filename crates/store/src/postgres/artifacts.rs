//! Signed artifacts.

use countersign_ledger::artifacts::{ArtifactQuery, ArtifactRow};
use countersign_ledger::state::first_id_at;
use countersign_proof::digest::Digest;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::rows::{Result, big, fixed, get, json, parsed, unsigned};

const COLUMNS: &str =
    "entry, workspace, id, version, artifact_type, created, at, digest, kid, object, compliance, sources";
pub(super) const ONE: &str = "SELECT entry, workspace, id, version, artifact_type, created, at, digest, kid, object, \
    compliance, sources FROM artifact WHERE workspace = $1 AND id = $2 AND ($3::bigint IS NULL OR version = $3) \
    ORDER BY version DESC LIMIT 1";
pub(super) const BEHIND: &str = "SELECT entry, workspace, id, version, artifact_type, created, at, digest, kid, object, \
    compliance, sources FROM artifact WHERE entry > $1 ORDER BY entry LIMIT $2";

/// The query; one more than the limit is asked for.
pub(super) fn sql(query: &ArtifactQuery, limit: u32) -> (String, Vec<Box<dyn ToSql + Sync>>) {
    let mut sql = format!("SELECT {COLUMNS} FROM artifact WHERE true");
    let mut values: Vec<Box<dyn ToSql + Sync>> = Vec::new();
    let mut and = |condition: &str, value: Box<dyn ToSql + Sync>| {
        values.push(value);
        sql.push_str(&condition.replace('?', &format!("${}", values.len())));
    };
    and(" AND workspace = ?", Box::new(query.workspace.as_str().to_owned()));
    if let Some(id) = query.id {
        and(" AND id = ?", Box::new(id));
    }
    if let Some(name) = &query.artifact_type {
        and(" AND artifact_type = ?", Box::new(name.clone()));
    }
    if !query.compliance.is_empty() {
        and(" AND compliance @> ?::text[]", Box::new(query.compliance.clone()));
    }
    if let Some(source) = query.source {
        and(" AND sources @> ARRAY[?::uuid]", Box::new(source));
    }
    if let Some(since) = query.since {
        and(" AND at >= ?", Box::new(big(since)));
        // Entries are made after the time that the row says: nothing of it lies before.
        and(" AND entry >= ?", Box::new(first_id_at(since)));
    }
    if let Some(until) = query.until {
        and(" AND at < ?", Box::new(big(until)));
    }
    if let Some(before) = query.before {
        and(" AND entry < ?", Box::new(before));
    }
    and(" ORDER BY entry DESC LIMIT ?", Box::new(i64::from(limit) + 1));
    (sql, values)
}

pub(super) fn row(row: &Row) -> Result<ArtifactRow> {
    Ok(ArtifactRow {
        entry: get(row, 0)?,
        workspace: parsed(row, 1)?,
        id: get(row, 2)?,
        version: unsigned(row, 3)?,
        artifact_type: get(row, 4)?,
        created: get(row, 5)?,
        at: unsigned(row, 6)?,
        digest: Digest(fixed(row, 7)?),
        kid: get(row, 8)?,
        object: json(row, 9)?,
        compliance: get(row, 10)?,
        sources: get(row, 11)?,
    })
}
