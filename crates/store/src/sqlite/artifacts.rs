//! Signed artifacts.

use countersign_domain::WorkspaceName;
use countersign_ledger::artifacts::{ArtifactQuery, ArtifactRow};
use countersign_ledger::objects::ObjectRef;
use countersign_ledger::state::{Conflict, first_id_at};
use countersign_proof::digest::Digest;
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Row, params, params_from_iter};
use uuid::Uuid;

use super::ops::{Outcome, found, refused, run};
use super::rows::{Result, json, parsed, to_json, uuid};

const COLUMNS: &str =
    "entry, workspace, id, version, artifact_type, created, at, digest, kid, object, compliance, sources";

pub(super) fn add(c: &Connection, row: &ArtifactRow) -> Result<Outcome> {
    let (workspace, entry) = (row.workspace.as_str(), row.entry.as_bytes());
    let sql = "SELECT version, object FROM artifact WHERE workspace = ?1 AND id = ?2 ORDER BY version DESC LIMIT 1";
    let newest = |r: &Row<'_>| -> Result<(u64, bool)> { Ok((r.get(0)?, json::<ObjectRef>(r, 1)?.held)) };
    let newest = c.prepare_cached(sql)?.query_row(params![workspace, row.id.as_bytes()], newest).optional()?;
    if let Err(conflict) = row.follows(newest) {
        return refused(conflict);
    }
    let values = params![
        entry,
        workspace,
        row.id.as_bytes(),
        row.version,
        row.artifact_type,
        row.created,
        row.at,
        row.digest.0,
        row.kid,
        to_json(&row.object)?,
        to_json(&row.compliance)?,
        to_json(&row.sources)?,
    ];
    let sql = format!("INSERT INTO artifact ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)");
    run(c, &sql, values)?;
    for tag in &row.compliance {
        let sql = "INSERT INTO artifact_tag (workspace, tag, entry) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING";
        run(c, sql, params![workspace, tag, entry])?;
    }
    for source in &row.sources {
        let sql = "INSERT INTO artifact_source (workspace, source, entry) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING";
        run(c, sql, params![workspace, source.as_bytes(), entry])?;
    }
    Ok(Outcome::Done)
}

/// The reference is the row's: it says what the object is asked to be.
pub(super) fn hold(c: &Connection, entry: Uuid, held: bool) -> Result<Outcome> {
    let sql = "SELECT object FROM artifact WHERE entry = ?1";
    let object =
        c.prepare_cached(sql)?.query_row(params![entry.as_bytes()], |row| json::<ObjectRef>(row, 0)).optional()?;
    let Some(object) = object else { return refused(Conflict::NotFound) };
    let object = to_json(&ObjectRef { held, ..object })?;
    found(run(c, "UPDATE artifact SET object = ?2 WHERE entry = ?1", params![entry.as_bytes(), object])?)
}

pub(super) fn one(
    c: &Connection,
    workspace: &WorkspaceName,
    id: Uuid,
    version: Option<u64>,
) -> Result<Option<ArtifactRow>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM artifact WHERE workspace = ?1 AND id = ?2 AND (?3 IS NULL OR version = ?3) \
         ORDER BY version DESC LIMIT 1"
    );
    let version = version.map(|version| i64::try_from(version).unwrap_or(i64::MAX));
    c.prepare_cached(&sql)?.query_row(params![workspace.as_str(), id.as_bytes(), version], read).optional()
}

/// One more than the limit, where there are more.
pub(super) fn find(c: &Connection, query: &ArtifactQuery, limit: u32) -> Result<Vec<ArtifactRow>> {
    let mut sql = format!("SELECT {COLUMNS} FROM artifact WHERE workspace = ?");
    let workspace = || Value::Text(query.workspace.as_str().to_owned());
    let mut values = vec![workspace()];
    let mut and = |condition: &str, given: Vec<Value>| {
        sql.push_str(condition);
        values.extend(given);
    };
    let blob = |id: &Uuid| Value::Blob(id.as_bytes().to_vec());
    let clamp = |time: u64| Value::Integer(i64::try_from(time).unwrap_or(i64::MAX));
    query.id.iter().for_each(|id| and(" AND id = ?", vec![blob(id)]));
    query.artifact_type.iter().for_each(|name| and(" AND artifact_type = ?", vec![Value::Text(name.clone())]));
    for tag in &query.compliance {
        let tagged = " AND entry IN (SELECT entry FROM artifact_tag WHERE workspace = ? AND tag = ?)";
        and(tagged, vec![workspace(), Value::Text(tag.clone())]);
    }
    if let Some(source) = &query.source {
        let made = " AND entry IN (SELECT entry FROM artifact_source WHERE workspace = ? AND source = ?)";
        and(made, vec![workspace(), blob(source)]);
    }
    if let Some(since) = query.since {
        // Entries are made after the time that the row says: nothing of it lies before.
        and(" AND at >= ? AND entry >= ?", vec![clamp(since), blob(&first_id_at(since))]);
    }
    query.until.iter().for_each(|until| and(" AND at < ?", vec![clamp(*until)]));
    query.before.iter().for_each(|entry| and(" AND entry < ?", vec![blob(entry)]));
    and(" ORDER BY entry DESC LIMIT ?", vec![Value::Integer(i64::from(limit) + 1)]);
    c.prepare_cached(&sql)?.query_map(params_from_iter(values), read)?.collect()
}

pub(super) fn behind(c: &Connection, entry: Option<Uuid>, limit: u32) -> Result<Vec<ArtifactRow>> {
    let sql = format!("SELECT {COLUMNS} FROM artifact WHERE entry > ?1 ORDER BY entry LIMIT ?2");
    let entry = entry.unwrap_or_default();
    c.prepare_cached(&sql)?.query_map(params![entry.as_bytes(), limit], read)?.collect()
}

fn read(row: &Row<'_>) -> Result<ArtifactRow> {
    Ok(ArtifactRow {
        entry: uuid(row, 0)?,
        workspace: parsed(row, 1)?,
        id: uuid(row, 2)?,
        version: row.get(3)?,
        artifact_type: row.get(4)?,
        created: row.get(5)?,
        at: row.get(6)?,
        digest: Digest(row.get(7)?),
        kid: row.get(8)?,
        object: json(row, 9)?,
        compliance: json(row, 10)?,
        sources: json(row, 11)?,
    })
}
