//! Rows to values and back. A stored value that does not fit its type is corruption, not a panic.

use std::str::FromStr;

use countersign_domain::principal::PrincipalRecord;
use countersign_domain::{Obligations, WorkspaceName};
use countersign_ledger::EntryRow;
use countersign_ledger::contract::{EventRow, Head, Opening, ShardRow};
use countersign_ledger::state::{
    AnswerRow, BudgetKey, BudgetRow, FreezeRow, FreezeTarget, IdempotencyRow, IntentRow, PinRow, RequestRow,
};
use countersign_proof::digest::Digest;
use countersign_proof::merkle::Hash;
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

/// Leaves of a shard: 2^40. `position = shard << SHARD_BITS | index`.
pub(super) const SHARD_BITS: u32 = 40;

pub(super) fn position(shard: u32, index: u64) -> u64 {
    (u64::from(shard) << SHARD_BITS) | index.min((1 << SHARD_BITS) - 1)
}

/// Shard and leaf index of a position, which has 63 bits, 40 of them the index.
pub(super) fn place(position: u64) -> (u32, u64) {
    ((position >> SHARD_BITS) as u32, position & ((1 << SHARD_BITS) - 1))
}

pub(super) const EVENT: &str =
    "position, id, workspace, seq, kind, time, commitment, call, principal, tool, salt, detail_salt, body, subject";
pub(super) const PUBLIC_ENTRY: &str = "position, id, workspace, body";
pub(super) const REQUEST: &str = "id, workspace, requester, requester_keys, person_key, principal, tool, effect, pin, \
     fingerprint, arguments, owed, policy_version, status, created, expires, event, closed_by, execute_on_approval";
pub(super) const INTENT: &str =
    "call, workspace, principal, tool, pin, effect, fingerprint, event, state, at, idempotency";

pub(super) type Result<T> = rusqlite::Result<T>;

fn conversion(column: usize, error: impl std::error::Error + Send + Sync + 'static) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error))
}

pub(super) fn uuid(row: &Row<'_>, column: usize) -> Result<Uuid> {
    row.get::<_, [u8; 16]>(column).map(Uuid::from_bytes)
}

pub(super) fn maybe_uuid(row: &Row<'_>, column: usize) -> Result<Option<Uuid>> {
    row.get::<_, Option<[u8; 16]>>(column).map(|bytes| bytes.map(Uuid::from_bytes))
}

pub(super) fn parsed<T: FromStr<Err: std::error::Error + Send + Sync + 'static>>(
    row: &Row<'_>,
    column: usize,
) -> Result<T> {
    row.get_ref(column)?.as_str()?.parse().map_err(|e| conversion(column, e))
}

pub(super) fn json<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> Result<T> {
    serde_json::from_str(row.get_ref(column)?.as_str()?).map_err(|e| conversion(column, e))
}

/// A closed set's value by its `serde` name.
pub(super) fn word<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> Result<T> {
    let text: String = row.get(column)?;
    serde_json::from_value(serde_json::Value::String(text)).map_err(|e| conversion(column, e))
}

pub(super) fn to_json<T: Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|e| rusqlite::Error::ToSqlConversionFailure(Box::new(e)))
}

/// The `serde` name of a closed set's value.
pub(super) fn to_word<T: Serialize>(value: &T) -> Result<String> {
    let json = to_json(value)?;
    Ok(json.trim_matches('"').to_owned())
}

pub(super) fn event(row: &Row<'_>) -> Result<(u64, EventRow)> {
    let position: u64 = row.get(0)?;
    let opening = match (row.get(10)?, row.get(12)?) {
        (Some(salt), Some(event)) => Some(Opening { salt, event, detail_salt: row.get(11)? }),
        _ => None,
    };
    let (shard, index) = place(position);
    let event = EventRow {
        shard,
        index,
        id: uuid(row, 1)?,
        workspace: parsed(row, 2)?,
        seq: row.get(3)?,
        kind: row.get(4)?,
        time: row.get(5)?,
        commitment: Digest(row.get(6)?),
        opening,
        call: maybe_uuid(row, 7)?,
        principal: row.get(8)?,
        tool: row.get(9)?,
        subject: row.get(13)?,
    };
    Ok((position, event))
}

/// Columns of [`PUBLIC_ENTRY`].
pub(super) fn public_entry(row: &Row<'_>) -> Result<EntryRow> {
    let (shard, index) = place(row.get(0)?);
    Ok(EntryRow { shard, index, id: uuid(row, 1)?, workspace: parsed(row, 2)?, body: row.get(3)? })
}

pub(super) fn head(connection: &Connection) -> Result<Option<Head>> {
    let sql = "SELECT shard, origin, size, root, frontier, checkpoint FROM head";
    connection
        .prepare_cached(sql)?
        .query_row([], |row| {
            Ok(Head {
                shard: row.get(0)?,
                origin: row.get(1)?,
                size: row.get(2)?,
                root: row.get(3)?,
                frontier: hashes(row.get_ref(4)?.as_blob()?),
                checkpoint: row.get(5)?,
            })
        })
        .optional()
}

/// The lengths are held to multiples of 32 by the schema.
pub(super) fn hashes(blob: &[u8]) -> Vec<Hash> {
    blob.as_chunks::<32>().0.to_vec()
}

pub(super) fn shard(row: &Row<'_>) -> Result<ShardRow> {
    Ok(ShardRow {
        shard: row.get(0)?,
        origin: row.get(1)?,
        vkey: row.get(2)?,
        checkpoint: row.get(3)?,
        size: row.get(4)?,
    })
}

pub(super) fn tail(
    connection: &Connection,
    workspace: &WorkspaceName,
) -> Result<Option<countersign_ledger::contract::Tail>> {
    let sql = "SELECT seq, commitment FROM event WHERE workspace = ?1 ORDER BY position DESC LIMIT 1";
    connection
        .prepare_cached(sql)?
        .query_row([workspace.as_str()], |row| {
            Ok(countersign_ledger::contract::Tail { seq: row.get(0)?, commitment: Digest(row.get(1)?) })
        })
        .optional()
}

fn bare_request(row: &Row<'_>) -> Result<RequestRow> {
    Ok(RequestRow {
        id: uuid(row, 0)?,
        workspace: parsed(row, 1)?,
        requester: row.get(2)?,
        requester_keys: json(row, 3)?,
        person_key: row.get(4)?,
        principal: json::<PrincipalRecord>(row, 5)?,
        tool: parsed(row, 6)?,
        effect: word(row, 7)?,
        pin: Digest(row.get(8)?),
        fingerprint: row.get(9)?,
        arguments: row.get(10)?,
        owed: json::<Obligations>(row, 11)?,
        policy_version: row.get(12)?,
        status: word(row, 13)?,
        created: row.get(14)?,
        expires: row.get(15)?,
        event: uuid(row, 16)?,
        answers: Vec::new(),
        closed_by: maybe_uuid(row, 17)?,
        execute_on_approval: row.get(18)?,
    })
}

/// Requests by a query that selects [`REQUEST`], with their answers.
pub(super) fn requests(connection: &Connection, sql: &str, params: impl rusqlite::Params) -> Result<Vec<RequestRow>> {
    let mut found = connection.prepare_cached(sql)?.query_map(params, bare_request)?.collect::<Result<Vec<_>>>()?;
    for request in &mut found {
        request.answers = answers(connection, request.id)?;
    }
    Ok(found)
}

pub(super) fn request(connection: &Connection, id: Uuid) -> Result<Option<RequestRow>> {
    Ok(requests(connection, &format!("SELECT {REQUEST} FROM request WHERE id = ?1"), [id.as_bytes()])?.pop())
}

fn answers(connection: &Connection, request: Uuid) -> Result<Vec<AnswerRow>> {
    let sql = "SELECT person, principal, kind, granted, at, event, reason FROM answer WHERE request = ?1 ORDER BY n";
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement.query_map([request.as_bytes()], |row| {
        Ok(AnswerRow {
            person: row.get(0)?,
            principal: json(row, 1)?,
            kind: word(row, 2)?,
            granted: row.get(3)?,
            at: row.get(4)?,
            event: uuid(row, 5)?,
            reason: row.get(6)?,
        })
    })?;
    rows.collect()
}

pub(super) fn idempotency(connection: &Connection, scope: &[u8; 32]) -> Result<Option<IdempotencyRow>> {
    let sql = "SELECT scope, fingerprint, state, call, answer, expires FROM idempotency WHERE scope = ?1";
    let read = |row: &Row<'_>| {
        Ok(IdempotencyRow {
            scope: row.get(0)?,
            fingerprint: row.get(1)?,
            state: word(row, 2)?,
            call: uuid(row, 3)?,
            answer: row.get(4)?,
            expires: row.get(5)?,
        })
    };
    connection.prepare_cached(sql)?.query_row(params![scope], read).optional()
}

pub(super) fn intent(row: &Row<'_>) -> Result<IntentRow> {
    Ok(IntentRow {
        call: uuid(row, 0)?,
        workspace: parsed(row, 1)?,
        principal: json(row, 2)?,
        tool: parsed(row, 3)?,
        pin: Digest(row.get(4)?),
        effect: word(row, 5)?,
        fingerprint: row.get(6)?,
        event: uuid(row, 7)?,
        state: word(row, 8)?,
        at: row.get(9)?,
        idempotency: row.get(10)?,
    })
}

/// The two columns of a freeze's target.
pub(super) fn target(target: &FreezeTarget) -> (&'static str, String) {
    match target {
        FreezeTarget::Principal(key) => ("principal", key.clone()),
        FreezeTarget::Tool(tool) => ("tool", tool.to_string()),
        FreezeTarget::Upstream(upstream) => ("upstream", upstream.to_string()),
        FreezeTarget::Workspace(workspace) => ("workspace", workspace.to_string()),
    }
}

/// Columns kind, name, reason, at, event.
pub(super) fn freeze(row: &Row<'_>) -> Result<FreezeRow> {
    let kind: String = row.get(0)?;
    let target = match kind.as_str() {
        "principal" => FreezeTarget::Principal(row.get(1)?),
        "tool" => FreezeTarget::Tool(parsed(row, 1)?),
        "upstream" => FreezeTarget::Upstream(parsed(row, 1)?),
        "workspace" => FreezeTarget::Workspace(parsed(row, 1)?),
        _ => return Err(rusqlite::Error::InvalidColumnType(0, kind, Type::Text)),
    };
    Ok(FreezeRow { target, reason: row.get(2)?, at: row.get(3)?, event: uuid(row, 4)? })
}

/// Columns tool, pin, definition, status, at, accepted_by.
pub(super) fn pin(row: &Row<'_>) -> Result<PinRow> {
    Ok(PinRow {
        tool: parsed(row, 0)?,
        pin: Digest(row.get(1)?),
        definition: row.get(2)?,
        status: word(row, 3)?,
        at: row.get(4)?,
        by: row.get(5)?,
    })
}

/// Columns budget, workspace, principal, start, ends, used.
pub(super) fn budget(row: &Row<'_>) -> Result<BudgetRow> {
    let key = BudgetKey { budget: row.get(0)?, workspace: parsed(row, 1)?, principal: row.get(2)? };
    Ok(BudgetRow { key, start: row.get(3)?, end: row.get(4)?, used: row.get(5)? })
}
