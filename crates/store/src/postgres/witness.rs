//! What was cosigned of other logs, and by others of this one.

use countersign_ledger::witness::{CosignatureRow, WitnessedRow};
use countersign_proof::witness::TreeHead;
use tokio_postgres::Row;

use super::rows::{Result, fixed, get, shard_of, unsigned};

pub(super) const ONE: &str = "SELECT origin, size, root, checkpoint, at, forked FROM witnessed WHERE origin = $1";
pub(super) const ALL: &str =
    "SELECT origin, size, root, checkpoint, at, forked FROM witnessed ORDER BY origin COLLATE \"C\" LIMIT $1";
pub(super) const PUT: &str = "INSERT INTO witnessed (origin, size, root, checkpoint, at, forked) \
    VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (origin) DO UPDATE SET size = excluded.size, root = excluded.root, \
    checkpoint = excluded.checkpoint, at = excluded.at";
pub(super) const FORK: &str = "UPDATE witnessed SET forked = size WHERE origin = $1";
pub(super) const COSIGNATURE: &str = "INSERT INTO cosignature (shard, size, witness, line, checkpoint, at) \
    VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (shard, size, witness) DO UPDATE SET line = excluded.line, \
    checkpoint = excluded.checkpoint, at = excluded.at";
pub(super) const FORGET: &str = "DELETE FROM cosignature WHERE shard = $1 AND witness = $2 AND size <= \
    (SELECT size FROM cosignature WHERE shard = $1 AND witness = $2 ORDER BY size DESC LIMIT 1 OFFSET $3) AND size <> \
    (SELECT size FROM cosignature WHERE shard = $1 GROUP BY size ORDER BY count(*) DESC, size DESC LIMIT 1)";
pub(super) const BEST: &str = "SELECT shard, size, witness, line, checkpoint, at FROM cosignature WHERE shard = $1 \
    AND size = (SELECT size FROM cosignature WHERE shard = $1 AND size > $2 AND size <= $3 \
    GROUP BY size ORDER BY count(*) DESC, size DESC LIMIT 1) ORDER BY witness COLLATE \"C\" LIMIT $4";
pub(super) const NEWEST: &str = "SELECT shard, size, witness, line, checkpoint, at FROM cosignature one \
    WHERE shard = $1 AND size = (SELECT max(size) FROM cosignature WHERE shard = $1 AND witness = one.witness) \
    ORDER BY witness COLLATE \"C\" LIMIT $2";

pub(super) fn witnessed(row: &Row) -> Result<WitnessedRow> {
    Ok(WitnessedRow {
        origin: get(row, 0)?,
        head: TreeHead { size: unsigned(row, 1)?, root: fixed(row, 2)? },
        checkpoint: get(row, 3)?,
        at: unsigned(row, 4)?,
        forked: get::<Option<i64>>(row, 5)?.and_then(|size| size.try_into().ok()),
    })
}

pub(super) fn cosignature(row: &Row) -> Result<CosignatureRow> {
    Ok(CosignatureRow {
        shard: shard_of(row, 0)?,
        size: unsigned(row, 1)?,
        witness: get(row, 2)?,
        line: get(row, 3)?,
        checkpoint: get(row, 4)?,
        at: unsigned(row, 5)?,
    })
}
