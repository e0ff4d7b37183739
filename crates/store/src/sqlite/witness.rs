//! What was cosigned of other logs, and by others of this one.

use countersign_ledger::state::Conflict;
use countersign_ledger::witness::{CosignatureRow, KEPT, MAX_ROWS, WitnessedRow};
use countersign_proof::witness::TreeHead;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::ops::{Outcome, refused, run};
use super::reader::clamp;
use super::rows::Result;

const WITNESSED: &str = "origin, size, root, checkpoint, at, forked";
const COSIGNATURE: &str = "shard, size, witness, line, checkpoint, at";

pub(super) fn put(c: &Connection, row: &WitnessedRow, from: Option<&TreeHead>) -> Result<Outcome> {
    if one(c, &row.origin)?.map(|latest| latest.head).as_ref() != from {
        return refused(Conflict::Witnessed);
    }
    // What was found out about a log is never forgotten.
    let sql = "INSERT INTO witnessed (origin, size, root, checkpoint, at, forked) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
               ON CONFLICT (origin) DO UPDATE SET size = ?2, root = ?3, checkpoint = ?4, at = ?5";
    let values = params![row.origin, row.head.size, row.head.root, row.checkpoint, row.at, row.forked];
    run(c, sql, values).map(|_| Outcome::Done)
}

pub(super) fn fork(c: &Connection, origin: &str, size: u64) -> Result<Outcome> {
    match one(c, origin)? {
        Some(latest) if latest.head.size == size && latest.forked == Some(size) => refused(Conflict::Exists),
        Some(latest) if latest.head.size == size => {
            run(c, "UPDATE witnessed SET forked = size WHERE origin = ?1", [origin]).map(|_| Outcome::Done)
        }
        Some(_) | None => refused(Conflict::NotFound),
    }
}

pub(super) fn cosignature(c: &Connection, row: &CosignatureRow) -> Result<Outcome> {
    let sql = "INSERT OR REPLACE INTO cosignature (shard, size, witness, line, checkpoint, at) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    run(c, sql, params![row.shard, row.size, row.witness, row.line, row.checkpoint, row.at])?;
    let sql = "DELETE FROM cosignature WHERE shard = ?1 AND witness = ?2 AND size <= \
               (SELECT size FROM cosignature WHERE shard = ?1 AND witness = ?2 ORDER BY size DESC LIMIT 1 OFFSET ?3) \
               AND size <> \
               (SELECT size FROM cosignature WHERE shard = ?1 GROUP BY size ORDER BY count(*) DESC, size DESC LIMIT 1)";
    run(c, sql, params![row.shard, row.witness, KEPT]).map(|_| Outcome::Done)
}

pub(super) fn one(c: &Connection, origin: &str) -> Result<Option<WitnessedRow>> {
    let sql = format!("SELECT {WITNESSED} FROM witnessed WHERE origin = ?1");
    c.prepare_cached(&sql)?.query_row([origin], witnessed).optional()
}

pub(super) fn all(c: &Connection) -> Result<Vec<WitnessedRow>> {
    let sql = format!("SELECT {WITNESSED} FROM witnessed ORDER BY origin LIMIT ?1");
    c.prepare_cached(&sql)?.query_map([MAX_ROWS], witnessed)?.collect()
}

pub(super) fn best(c: &Connection, shard: u32, above: u64, up_to: u64) -> Result<Vec<CosignatureRow>> {
    let sql = format!(
        "SELECT {COSIGNATURE} FROM cosignature WHERE shard = ?1 AND size = \
         (SELECT size FROM cosignature WHERE shard = ?1 AND size > ?2 AND size <= ?3 \
         GROUP BY size ORDER BY count(*) DESC, size DESC LIMIT 1) ORDER BY witness LIMIT ?4"
    );
    let values = params![shard, clamp(above), clamp(up_to), MAX_ROWS];
    c.prepare_cached(&sql)?.query_map(values, row)?.collect()
}

pub(super) fn newest(c: &Connection, shard: u32) -> Result<Vec<CosignatureRow>> {
    let sql = format!(
        "SELECT {COSIGNATURE} FROM cosignature AS one WHERE shard = ?1 AND size = \
         (SELECT max(size) FROM cosignature WHERE shard = ?1 AND witness = one.witness) ORDER BY witness LIMIT ?2"
    );
    c.prepare_cached(&sql)?.query_map(params![shard, MAX_ROWS], row)?.collect()
}

fn witnessed(row: &Row<'_>) -> Result<WitnessedRow> {
    Ok(WitnessedRow {
        origin: row.get(0)?,
        head: TreeHead { size: row.get(1)?, root: row.get(2)? },
        checkpoint: row.get(3)?,
        at: row.get(4)?,
        forked: row.get(5)?,
    })
}

fn row(row: &Row<'_>) -> Result<CosignatureRow> {
    Ok(CosignatureRow {
        shard: row.get(0)?,
        size: row.get(1)?,
        witness: row.get(2)?,
        line: row.get(3)?,
        checkpoint: row.get(4)?,
        at: row.get(5)?,
    })
}
