//! What was signed and verified.

use countersign_domain::WorkspaceName;
use countersign_ledger::state::first_id_at;
use countersign_ledger::trust::{TrustCount, TrustQuery, TrustRow};
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Row, params, params_from_iter};
use uuid::Uuid;

use super::ops::{Outcome, run};
use super::rows::{Result, parsed, to_word, uuid, word};

const COLUMNS: &str = "id, workspace, kind, at, artifact, artifact_type, subject, chain, signer, valid, body";

pub(super) fn record(c: &Connection, row: &TrustRow) -> Result<Outcome> {
    let sql = format!("INSERT INTO trust ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)");
    let values = params![
        row.id.as_bytes(),
        row.workspace.as_str(),
        to_word(&row.kind)?,
        row.at,
        row.artifact,
        row.artifact_type,
        row.subject,
        row.chain,
        row.signer,
        row.valid,
        row.body,
    ];
    run(c, &sql, values).map(|_| Outcome::Done)
}

pub(super) fn one(c: &Connection, id: Uuid) -> Result<Option<TrustRow>> {
    let sql = format!("SELECT {COLUMNS} FROM trust WHERE id = ?1");
    c.prepare_cached(&sql)?.query_row([id.as_bytes()], read).optional()
}

/// One more than the limit, where there are more.
pub(super) fn find(c: &Connection, query: &TrustQuery, limit: u32) -> Result<Vec<TrustRow>> {
    let mut sql = format!("SELECT {COLUMNS} FROM trust WHERE workspace = ?");
    let mut values = vec![Value::Text(query.workspace.as_str().to_owned())];
    let mut and = |condition: &str, value: Value| {
        sql.push_str(condition);
        values.push(value);
    };
    if let Some(kind) = query.kind {
        and(" AND kind = ?", Value::Text(to_word(&kind)?));
    }
    for (condition, text) in [
        (" AND artifact = ?", &query.artifact),
        (" AND artifact_type = ?", &query.artifact_type),
        (" AND signer = ?", &query.signer),
    ] {
        text.iter().for_each(|text| and(condition, Value::Text(text.clone())));
    }
    query.valid.iter().for_each(|valid| and(" AND valid = ?", Value::Integer(i64::from(*valid))));
    let clamp = |time: u64| Value::Integer(i64::try_from(time).unwrap_or(i64::MAX));
    if let Some(since) = query.since {
        and(" AND at >= ?", clamp(since));
        // Ids are made after the time that the row says: nothing of it lies before.
        and(" AND id >= ?", Value::Blob(first_id_at(since).as_bytes().to_vec()));
    }
    query.until.iter().for_each(|until| and(" AND at < ?", clamp(*until)));
    query.before.iter().for_each(|id| and(" AND id < ?", Value::Blob(id.as_bytes().to_vec())));
    if let Some(about) = &query.about {
        // Each part has an index of its own.
        let parts = ["artifact", "subject", "chain"]
            .map(|column| format!("SELECT id FROM trust WHERE workspace = ? AND {column} = ?"));
        sql.push_str(&format!(" AND id IN ({})", parts.join(" UNION ")));
        for _ in parts {
            values.push(Value::Text(query.workspace.as_str().to_owned()));
            values.push(Value::Text(about.clone()));
        }
    }
    sql.push_str(" ORDER BY id DESC LIMIT ?");
    values.push(Value::Integer(i64::from(limit) + 1));
    c.prepare_cached(&sql)?.query_map(params_from_iter(values), read)?.collect()
}

pub(super) fn counts(c: &Connection, workspace: &WorkspaceName) -> Result<Vec<TrustCount>> {
    let sql = "SELECT kind, artifact_type, signer, valid, count(*) FROM trust WHERE workspace = ?1 \
               GROUP BY kind, artifact_type, signer, valid ORDER BY kind, artifact_type, signer, valid LIMIT 10000";
    let read = |row: &Row<'_>| {
        Ok(TrustCount {
            kind: word(row, 0)?,
            artifact_type: row.get(1)?,
            signer: row.get(2)?,
            valid: row.get(3)?,
            count: row.get(4)?,
        })
    };
    c.prepare_cached(sql)?.query_map([workspace.as_str()], read)?.collect()
}

fn read(row: &Row<'_>) -> Result<TrustRow> {
    Ok(TrustRow {
        id: uuid(row, 0)?,
        workspace: parsed(row, 1)?,
        kind: word(row, 2)?,
        at: row.get(3)?,
        artifact: row.get(4)?,
        artifact_type: row.get(5)?,
        subject: row.get(6)?,
        chain: row.get(7)?,
        signer: row.get(8)?,
        valid: row.get(9)?,
        body: row.get(10)?,
    })
}
