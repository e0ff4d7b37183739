//! Rows to values and back. A stored value that does not fit its type is corruption, not a panic.

use std::fmt::Display;
use std::str::FromStr;

use countersign_domain::Millis;
use countersign_ledger::EntryRow;
use countersign_ledger::connections::{ConnectionKey, ConnectionRow};
use countersign_ledger::contract::{EventRow, Head, Opening, ShardRow, StoreError, Tail};
use countersign_ledger::directory::DirectoryRow;
use countersign_ledger::state::{
    BudgetKey, BudgetRow, FreezeRow, FreezeTarget, IdempotencyRow, IntentRow, PinRow, RequestRow,
};
use countersign_proof::digest::Digest;
use countersign_proof::merkle::Hash;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_postgres::Row;
use tokio_postgres::types::FromSql;
use uuid::Uuid;

use super::session::error;

pub(super) type Result<T> = std::result::Result<T, StoreError>;

/// Leaves of a shard: 2^40. `position = shard << SHARD_BITS | index`, as in SQLite.
pub(super) const SHARD_BITS: u32 = 40;

/// The server's clock, in milliseconds since the epoch.
macro_rules! now_sql {
    () => {
        "(extract(epoch FROM clock_timestamp()) * 1000)::bigint"
    };
}
pub(super) use now_sql;

macro_rules! request_sql {
    ($rest:literal) => {
        concat!(
            "SELECT r.id, r.workspace, r.requester, r.requester_keys, r.person_key, r.principal, r.tool, r.effect, r.pin, ",
            "r.fingerprint, r.arguments, r.owed, r.policy_version, r.status, r.created, r.expires, r.event, r.closed_by, ",
            "r.execute_on_approval, ARRAY(SELECT body FROM answer a WHERE a.request = r.id ORDER BY n) FROM request r ",
            $rest
        )
    };
}
pub(super) use request_sql;

pub(super) const EVENT: &str =
    "position, id, workspace, seq, kind, time, commitment, call, principal, tool, salt, detail_salt, body, subject";

pub(super) const PUBLIC_ENTRY: &str = "position, id, workspace, body";

pub(super) const BUDGET_USED: &str =
    "SELECT used FROM budget WHERE budget = $1 AND workspace = $2 AND principal = $3 AND start = $4";
macro_rules! connection_sql {
    ($rest:literal) => {
        concat!(
            "SELECT workspace, upstream, person, stage, version, body, sealed, expires, at, event FROM connection ",
            $rest
        )
    };
}
pub(super) use connection_sql;

pub(super) const COOLDOWN: &str = "SELECT until FROM cooldown WHERE key = $1";

pub(super) fn position(shard: u32, index: u64) -> i64 {
    big((u64::from(shard) << SHARD_BITS) | index.min((1 << SHARD_BITS) - 1))
}

/// Shard and leaf index of a position.
pub(super) fn place(position: u64) -> Result<(u32, u64)> {
    Ok((u32::try_from(position >> SHARD_BITS).map_err(corrupt)?, position & ((1 << SHARD_BITS) - 1)))
}

/// Whatever a caller sends must stay within Postgres' integers.
pub(super) fn big(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(super) fn shard_number(shard: u32) -> Result<i32> {
    i32::try_from(shard).map_err(corrupt)
}

pub(super) fn shard_of(row: &Row, column: usize) -> Result<u32> {
    get::<i32>(row, column)?.try_into().map_err(corrupt)
}

fn corrupt(error: impl Display) -> StoreError {
    StoreError::Corrupt(error.to_string())
}

pub(super) fn get<'a, T: FromSql<'a>>(row: &'a Row, column: usize) -> Result<T> {
    row.try_get(column).map_err(error)
}

pub(super) fn unsigned(row: &Row, column: usize) -> Result<u64> {
    get::<i64>(row, column)?.try_into().map_err(corrupt)
}

pub(super) fn fixed<const N: usize>(row: &Row, column: usize) -> Result<[u8; N]> {
    get::<&[u8]>(row, column)?.try_into().map_err(corrupt)
}

fn maybe_fixed<const N: usize>(row: &Row, column: usize) -> Result<Option<[u8; N]>> {
    get::<Option<&[u8]>>(row, column)?.map(|bytes| bytes.try_into().map_err(corrupt)).transpose()
}

pub(super) fn parsed<T: FromStr<Err: Display>>(row: &Row, column: usize) -> Result<T> {
    get::<&str>(row, column)?.parse().map_err(corrupt)
}

pub(super) fn json<T: DeserializeOwned>(row: &Row, column: usize) -> Result<T> {
    serde_json::from_str(get(row, column)?).map_err(corrupt)
}

/// A closed set's value by its `serde` name.
pub(super) fn word<T: DeserializeOwned>(row: &Row, column: usize) -> Result<T> {
    serde_json::from_value(serde_json::Value::String(get(row, column)?)).map_err(corrupt)
}

pub(super) fn to_json<T: Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(corrupt)
}

/// The `serde` name of a closed set's value.
pub(super) fn to_word<T: Serialize>(value: &T) -> Result<String> {
    Ok(to_json(value)?.trim_matches('"').to_owned())
}

/// The lengths are held to multiples of 32 by the schema.
pub(super) fn hashes(bytes: &[u8]) -> Vec<Hash> {
    bytes.as_chunks::<32>().0.to_vec()
}

/// Columns of [`EVENT`].
pub(super) fn event(row: &Row) -> Result<(u64, EventRow)> {
    let position = unsigned(row, 0)?;
    let opening = match (maybe_fixed(row, 10)?, get::<Option<Vec<u8>>>(row, 12)?) {
        (Some(salt), Some(event)) => Some(Opening { salt, event, detail_salt: maybe_fixed(row, 11)? }),
        _ => None,
    };
    let (shard, index) = place(position)?;
    let event = EventRow {
        shard,
        index,
        id: get(row, 1)?,
        workspace: parsed(row, 2)?,
        seq: unsigned(row, 3)?,
        kind: get(row, 4)?,
        time: unsigned(row, 5)?,
        commitment: Digest(fixed(row, 6)?),
        opening,
        call: get(row, 7)?,
        principal: get(row, 8)?,
        tool: get(row, 9)?,
        subject: get(row, 13)?,
    };
    Ok((position, event))
}

/// Columns of [`PUBLIC_ENTRY`].
pub(super) fn public_entry(row: &Row) -> Result<EntryRow> {
    let (shard, index) = place(unsigned(row, 0)?)?;
    Ok(EntryRow { shard, index, id: get(row, 1)?, workspace: parsed(row, 2)?, body: get(row, 3)? })
}

/// A column of 32 bytes, if there is something in it.
pub(super) fn maybe_digest(row: &Row, column: usize) -> Result<Option<Digest>> {
    Ok(maybe_fixed(row, column)?.map(Digest))
}

/// Columns shard, origin, size, root, frontier, checkpoint; `None` before the first shard.
pub(super) fn head(row: &Row) -> Result<Option<Head>> {
    let Some(shard) = get::<Option<i32>>(row, 0)? else { return Ok(None) };
    Ok(Some(Head {
        shard: u32::try_from(shard).map_err(corrupt)?,
        origin: get(row, 1)?,
        size: unsigned(row, 2)?,
        root: fixed(row, 3)?,
        frontier: hashes(get(row, 4)?),
        checkpoint: get(row, 5)?,
    }))
}

/// Columns shard, origin, vkey, checkpoint, size.
pub(super) fn shard(row: &Row) -> Result<ShardRow> {
    Ok(ShardRow {
        shard: shard_of(row, 0)?,
        origin: get(row, 1)?,
        vkey: get(row, 2)?,
        checkpoint: get(row, 3)?,
        size: unsigned(row, 4)?,
    })
}

/// Columns seq, commitment, from `column` on.
pub(super) fn tail(row: &Row, column: usize) -> Result<Tail> {
    Ok(Tail { seq: unsigned(row, column)?, commitment: Digest(fixed(row, column + 1)?) })
}

/// Columns of `request_sql!`.
pub(super) fn request(row: &Row) -> Result<RequestRow> {
    let answers: Vec<&str> = get(row, 19)?;
    Ok(RequestRow {
        id: get(row, 0)?,
        workspace: parsed(row, 1)?,
        requester: get(row, 2)?,
        requester_keys: json(row, 3)?,
        person_key: get(row, 4)?,
        principal: json(row, 5)?,
        tool: parsed(row, 6)?,
        effect: word(row, 7)?,
        pin: Digest(fixed(row, 8)?),
        fingerprint: fixed(row, 9)?,
        arguments: get(row, 10)?,
        owed: json(row, 11)?,
        policy_version: get(row, 12)?,
        status: word(row, 13)?,
        created: unsigned(row, 14)?,
        expires: unsigned(row, 15)?,
        event: get(row, 16)?,
        answers: answers.iter().map(|body| serde_json::from_str(body).map_err(corrupt)).collect::<Result<_>>()?,
        closed_by: get(row, 17)?,
        execute_on_approval: get(row, 18)?,
    })
}

/// Columns scope, fingerprint, state, call, answer, expires.
pub(super) fn idempotency(row: &Row) -> Result<IdempotencyRow> {
    Ok(IdempotencyRow {
        scope: fixed(row, 0)?,
        fingerprint: fixed(row, 1)?,
        state: word(row, 2)?,
        call: get(row, 3)?,
        answer: get(row, 4)?,
        expires: unsigned(row, 5)?,
    })
}

/// Columns call, workspace, principal, tool, pin, effect, fingerprint, event, state, at, idempotency.
pub(super) fn intent(row: &Row) -> Result<IntentRow> {
    Ok(IntentRow {
        call: get(row, 0)?,
        workspace: parsed(row, 1)?,
        principal: json(row, 2)?,
        tool: parsed(row, 3)?,
        pin: Digest(fixed(row, 4)?),
        effect: word(row, 5)?,
        fingerprint: fixed(row, 6)?,
        event: get(row, 7)?,
        state: word(row, 8)?,
        at: unsigned(row, 9)?,
        idempotency: maybe_fixed(row, 10)?,
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

/// Column body.
pub(super) fn freeze(row: &Row) -> Result<FreezeRow> {
    json(row, 0)
}

/// Columns tool, pin, definition, status, at, accepted_by.
pub(super) fn pin(row: &Row) -> Result<PinRow> {
    Ok(PinRow {
        tool: parsed(row, 0)?,
        pin: Digest(fixed(row, 1)?),
        definition: get(row, 2)?,
        status: word(row, 3)?,
        at: unsigned(row, 4)?,
        by: get(row, 5)?,
    })
}

/// Columns kind, workspace, name, body, at, event, used, from the second on; `None` where there is no row.
pub(super) fn directory(row: &Row) -> Result<Option<DirectoryRow>> {
    if get::<Option<&str>>(row, 1)?.is_none() {
        return Ok(None);
    }
    Ok(Some(DirectoryRow {
        kind: word(row, 1)?,
        workspace: parsed(row, 2)?,
        name: get(row, 3)?,
        body: get(row, 4)?,
        at: unsigned(row, 5)?,
        event: get(row, 6)?,
        used: get::<Option<i64>>(row, 7)?.map(|at| at.try_into().map_err(corrupt)).transpose()?,
    }))
}

/// The columns of `connection_sql`.
pub(super) fn connection(row: &Row) -> Result<ConnectionRow> {
    let key = ConnectionKey {
        workspace: parsed(row, 0)?,
        upstream: parsed(row, 1)?,
        person: get(row, 2)?,
        stage: word(row, 3)?,
    };
    Ok(ConnectionRow {
        key,
        version: fixed(row, 4)?,
        body: get(row, 5)?,
        sealed: get(row, 6)?,
        expires: get::<Option<i64>>(row, 7)?.map(|at| at.try_into().map_err(corrupt)).transpose()?,
        at: unsigned(row, 8)?,
        event: get(row, 9)?,
    })
}

/// Columns budget, workspace, principal, start, ends, used.
pub(super) fn budget(row: &Row) -> Result<BudgetRow> {
    let key = BudgetKey { budget: get(row, 0)?, workspace: parsed(row, 1)?, principal: get(row, 2)? };
    Ok(BudgetRow { key, start: unsigned(row, 3)?, end: unsigned(row, 4)?, used: unsigned(row, 5)? })
}

/// The ids of a list; a driver's array of them.
pub(super) fn ids<'a>(rows: impl Iterator<Item = &'a Row>) -> Result<Vec<Uuid>> {
    rows.map(|row| get(row, 0)).collect()
}

/// A time as the database keeps it.
pub(super) fn time(time: Millis) -> i64 {
    big(time)
}
