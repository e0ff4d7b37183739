//! A small pool of connections that only read. Each read sees one committed state.

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Condvar, Mutex, PoisonError};

use countersign_domain::{Millis, UpstreamName, WorkspaceName};
use countersign_ledger::artifacts::{ArtifactPage, ArtifactQuery, ArtifactRow};
use countersign_ledger::connections::{ConnectionKey, ConnectionRow, ConnectionStage};
use countersign_ledger::contract::{EventPage, EventQuery, EventRow, Head, Reader, ShardRow, StoreError, Tail};
use countersign_ledger::directory::Directory;
use countersign_ledger::leaf::{EntryRow, LogEntry, MAX_LEAVES, MAX_PUBLIC, merge};
use countersign_ledger::state::{
    BudgetKey, BudgetRow, DecisionRow, Fingerprint, FreezeRow, IdempotencyRow, IntentRow, IntentState, PinRow,
    RequestRow, RequestStatus, first_id_at,
};
use countersign_ledger::trust::{TrustCount, TrustPage, TrustQuery, TrustRow};
use countersign_ledger::witness::{CosignatureRow, WitnessedRow};
use countersign_proof::digest::Digest;
use countersign_proof::merkle::Hash;
use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags, OptionalExtension, params, params_from_iter};
use uuid::Uuid;

use super::{BUSY, STATEMENTS, artifacts, connections, directory, error, ops, rows, trust, witness};

pub(super) struct ReadPool {
    idle: Mutex<Vec<Connection>>,
    returned: Condvar,
    clock: fn() -> Millis,
}

impl ReadPool {
    pub(super) fn open(path: &Path, connections: usize, clock: fn() -> Millis) -> Result<Self, StoreError> {
        let idle = (0..connections).map(|_| connect(path)).collect::<Result<_, _>>()?;
        Ok(Self { idle: Mutex::new(idle), returned: Condvar::new(), clock })
    }

    /// Runs a read on an idle connection; waits for one if all are busy.
    pub(super) fn with<T>(&self, read: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        let borrowed = Borrowed { pool: self, connection: Some(self.take()) };
        borrowed
            .connection
            .as_ref()
            .map_or_else(|| Err(StoreError::Database("no connection".into())), |c| read(c).map_err(error))
    }

    fn take(&self) -> Connection {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match idle.pop() {
                Some(connection) => return connection,
                None => idle = self.returned.wait(idle).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

/// Gives the connection back even if the read panics.
struct Borrowed<'a> {
    pool: &'a ReadPool,
    connection: Option<Connection>,
}

impl Drop for Borrowed<'_> {
    fn drop(&mut self) {
        self.pool.idle.lock().unwrap_or_else(PoisonError::into_inner).extend(self.connection.take());
        self.pool.returned.notify_one();
    }
}

fn connect(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(error)?;
    connection.busy_timeout(BUSY).map_err(error)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection
        .execute_batch("PRAGMA query_only = ON; PRAGMA trusted_schema = OFF; PRAGMA cache_size = -1024;")
        .map_err(error)?;
    Ok(connection)
}

/// `position` must stay within SQLite's integers whatever a caller sends.
pub(super) fn clamp(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// The first position after a shard's.
fn end_of(shard: u32) -> i64 {
    clamp((u64::from(shard) + 1) << rows::SHARD_BITS)
}

impl Reader for ReadPool {
    fn head(&self) -> Result<Option<Head>, StoreError> {
        self.with(rows::head)
    }

    fn shards(&self) -> Result<Vec<ShardRow>, StoreError> {
        let sql = "SELECT shard, origin, vkey, checkpoint, size FROM shard ORDER BY shard";
        self.with(|c| c.prepare_cached(sql)?.query_map([], rows::shard)?.collect())
    }

    fn event(&self, id: Uuid) -> Result<Option<EventRow>, StoreError> {
        let sql = format!("SELECT {} FROM event WHERE id = ?1", rows::EVENT);
        let found = self.with(|c| c.prepare_cached(&sql)?.query_row([id.as_bytes()], rows::event).optional())?;
        Ok(found.map(|(_, row)| row))
    }

    fn events_of_call(&self, call: Uuid) -> Result<Vec<EventRow>, StoreError> {
        let sql = format!("SELECT {} FROM event WHERE call = ?1 ORDER BY position LIMIT 1000", rows::EVENT);
        self.with(|c| c.prepare_cached(&sql)?.query_map([call.as_bytes()], |r| Ok(rows::event(r)?.1))?.collect())
    }

    fn events(&self, query: &EventQuery) -> Result<EventPage, StoreError> {
        let limit = query.limit.clamp(1, 1000);
        let (sql, values) = events_sql(query, limit);
        let mut rows = self.with(|c| {
            let mut statement = c.prepare_cached(&sql)?;
            statement.query_map(params_from_iter(values), rows::event)?.collect::<rusqlite::Result<Vec<_>>>()
        })?;
        let more = rows.len() > limit as usize;
        rows.truncate(limit as usize);
        Ok(EventPage { rows, more })
    }

    fn entries(&self, shard: u32, from: u64, to: u64) -> Result<Vec<LogEntry>, StoreError> {
        let mut to = to.min(from.saturating_add(MAX_LEAVES as u64));
        // Public entries are read first: a leaf that is added in between is then missing, and ends the read. That their
        // range is empty, as it usually is, costs one look into an index.
        let public_sql = "SELECT position, body FROM public_entry WHERE position >= ?1 AND position < ?2 \
                          ORDER BY position LIMIT ?3";
        let sql = "SELECT position, commitment FROM event WHERE position >= ?1 AND position < ?2 ORDER BY position";
        let index = |r: &rusqlite::Row<'_>| r.get(0).map(|position| rows::place(position).1);
        let (events, public) = self.with(|c| {
            let range = params![rows::position(shard, from), rows::position(shard, to), MAX_PUBLIC];
            let read = |r: &rusqlite::Row<'_>| Ok((index(r)?, r.get(1)?));
            let public: Vec<(u64, Vec<u8>)> =
                c.prepare_cached(public_sql)?.query_map(range, read)?.collect::<Result<_, _>>()?;
            if public.len() == MAX_PUBLIC {
                to = public.last().map_or(to, |(last, _)| *last);
            }
            let range = params![rows::position(shard, from), rows::position(shard, to)];
            let read = |r: &rusqlite::Row<'_>| Ok((index(r)?, Digest(r.get(1)?)));
            let events: Vec<(u64, Digest)> =
                c.prepare_cached(sql)?.query_map(range, read)?.collect::<Result<_, _>>()?;
            Ok((events, public))
        })?;
        merge(shard, from, events, public)
    }

    fn public_entry(&self, id: Uuid) -> Result<Option<EntryRow>, StoreError> {
        let sql = format!("SELECT {} FROM public_entry WHERE id = ?1", rows::PUBLIC_ENTRY);
        self.with(|c| c.prepare_cached(&sql)?.query_row([id.as_bytes()], rows::public_entry).optional())
    }

    fn public_entries(&self, shard: u32, from: u64, limit: u32) -> Result<Vec<EntryRow>, StoreError> {
        let sql = format!(
            "SELECT {} FROM public_entry WHERE position >= ?1 AND position < ?2 ORDER BY position LIMIT ?3",
            rows::PUBLIC_ENTRY
        );
        let range = params![rows::position(shard, from), end_of(shard), limit.clamp(1, MAX_PUBLIC as u32)];
        self.with(|c| c.prepare_cached(&sql)?.query_map(range, rows::public_entry)?.collect())
    }

    fn leaves(&self, shard: u32, from: u64, limit: u32) -> Result<Vec<EventRow>, StoreError> {
        let sql = format!(
            "SELECT {} FROM event WHERE position >= ?1 AND position < ?2 ORDER BY position LIMIT ?3",
            rows::EVENT
        );
        let range = params![rows::position(shard, from), end_of(shard), limit.clamp(1, 1000)];
        self.with(|c| c.prepare_cached(&sql)?.query_map(range, |r| Ok(rows::event(r)?.1))?.collect())
    }

    fn tile(&self, shard: u32, level: u8, index: u64) -> Result<Option<Vec<Hash>>, StoreError> {
        let sql = "SELECT hashes FROM tile WHERE shard = ?1 AND level = ?2 AND n = ?3";
        let key = params![shard, level, clamp(index)];
        self.with(|c| c.prepare_cached(sql)?.query_row(key, |r| Ok(rows::hashes(r.get_ref(0)?.as_blob()?))).optional())
    }

    fn tail(&self, workspace: &WorkspaceName) -> Result<Option<Tail>, StoreError> {
        self.with(|c| rows::tail(c, workspace))
    }

    fn workspaces(&self) -> Result<Vec<WorkspaceName>, StoreError> {
        // The recursive part hops from name to name in the index, instead of reading every entry of it.
        let sql = "WITH RECURSIVE hop (name) AS (
                     SELECT min(workspace) FROM event
                     UNION ALL
                     SELECT (SELECT min(workspace) FROM event WHERE workspace > name) FROM hop WHERE name IS NOT NULL)
                   SELECT name FROM hop WHERE name IS NOT NULL UNION SELECT workspace FROM workspace_key ORDER BY 1";
        self.with(|c| c.prepare_cached(sql)?.query_map([], |r| rows::parsed(r, 0))?.collect())
    }

    fn workspace_key(&self, workspace: &WorkspaceName) -> Result<Option<Vec<u8>>, StoreError> {
        let sql = "SELECT wrapped FROM workspace_key WHERE workspace = ?1";
        self.with(|c| c.prepare_cached(sql)?.query_row([workspace.as_str()], |r| r.get(0)).optional())
    }

    fn request(&self, id: Uuid) -> Result<Option<RequestRow>, StoreError> {
        self.with(|c| consistent(c, |c| rows::request(c, id)))
    }

    fn requests(
        &self,
        workspace: Option<&WorkspaceName>,
        status: Option<RequestStatus>,
        before: Option<Uuid>,
        limit: u32,
    ) -> Result<Vec<RequestRow>, StoreError> {
        let mut sql = format!("SELECT {} FROM request WHERE true", rows::REQUEST);
        let mut values: Vec<Value> = Vec::new();
        if let Some(workspace) = workspace {
            sql.push_str(" AND workspace = ?");
            values.push(workspace.as_str().to_owned().into());
        }
        if let Some(status) = status {
            sql.push_str(" AND status = ?");
            values.push(rows::to_word(&status).map_err(error)?.into());
        }
        if let Some(before) = before {
            sql.push_str(" AND id < ?");
            values.push(before.as_bytes().to_vec().into());
        }
        // Ids are UUIDv7: their order is the order of time.
        sql.push_str(" ORDER BY id DESC LIMIT ?");
        values.push(i64::from(limit.clamp(1, 1000)).into());
        self.with(|c| consistent(c, |c| rows::requests(c, &sql, params_from_iter(values))))
    }

    fn expired_requests(&self, now: Millis, limit: u32) -> Result<Vec<RequestRow>, StoreError> {
        let sql = format!(
            "SELECT {} FROM request WHERE status = 'pending' AND expires <= ?1 ORDER BY expires LIMIT ?2",
            rows::REQUEST
        );
        self.with(|c| consistent(c, |c| rows::requests(c, &sql, params![clamp(now), limit])))
    }

    fn request_by_fingerprint(&self, fingerprint: &Fingerprint) -> Result<Option<RequestRow>, StoreError> {
        let now = (self.clock)();
        self.with(|c| consistent(c, |c| ops::live_request(c, fingerprint, now)))
    }

    fn idempotency(&self, scope: &Fingerprint) -> Result<Option<IdempotencyRow>, StoreError> {
        self.with(|c| rows::idempotency(c, scope))
    }

    fn intents(&self) -> Result<Vec<IntentRow>, StoreError> {
        let sql = format!("SELECT {} FROM intent ORDER BY at, call LIMIT 10000", rows::INTENT);
        self.with(|c| c.prepare_cached(&sql)?.query_map([], rows::intent)?.collect())
    }

    fn abandoned(&self, running: &[Uuid]) -> Result<Vec<IntentRow>, StoreError> {
        // There is no other process.
        let running: HashSet<&Uuid> = running.iter().collect();
        let mut rows = self.intents()?;
        rows.retain(|row| row.state == IntentState::Open && !running.contains(&row.call));
        rows.truncate(1000);
        Ok(rows)
    }

    fn freezes(&self) -> Result<Vec<FreezeRow>, StoreError> {
        let sql = "SELECT kind, name, reason, at, event FROM freeze ORDER BY kind, name";
        self.with(|c| c.prepare_cached(sql)?.query_map([], rows::freeze)?.collect())
    }

    fn budget(&self, key: &BudgetKey, start: Millis) -> Result<u64, StoreError> {
        self.with(|c| ops::budget_used(c, key, start))
    }

    fn budgets(&self, now: Millis) -> Result<Vec<BudgetRow>, StoreError> {
        let sql = "SELECT budget, workspace, principal, start, ends, used FROM budget WHERE ends > ?1
                   ORDER BY budget, workspace, principal, start LIMIT 1000";
        self.with(|c| c.prepare_cached(sql)?.query_map([clamp(now)], rows::budget)?.collect())
    }

    fn cooldown(&self, key: &Fingerprint) -> Result<Option<Millis>, StoreError> {
        self.with(|c| ops::cooldown(c, key))
    }

    fn pins(&self) -> Result<Vec<PinRow>, StoreError> {
        let sql = "SELECT tool, pin, definition, status, at, accepted_by FROM pin ORDER BY tool, status";
        self.with(|c| c.prepare_cached(sql)?.query_map([], rows::pin)?.collect())
    }

    fn decisions(&self, calls: &[Uuid]) -> Result<Vec<DecisionRow>, StoreError> {
        let read = |r: &rusqlite::Row<'_>| Ok(DecisionRow { call: rows::uuid(r, 0)?, sealed: r.get(1)? });
        self.with(|c| {
            let mut statement = c.prepare_cached("SELECT call, sealed FROM decision WHERE call = ?1")?;
            let found = calls.iter().take(1000).map(|call| statement.query_row([call.as_bytes()], read).optional());
            found.filter_map(rusqlite::Result::transpose).collect()
        })
    }

    fn oldest_decision(&self) -> Result<Option<Uuid>, StoreError> {
        let sql = "SELECT call FROM decision ORDER BY call LIMIT 1";
        self.with(|c| c.prepare_cached(sql)?.query_row([], |r| rows::uuid(r, 0)).optional())
    }

    fn position_at(&self, time: Millis) -> Result<Option<u64>, StoreError> {
        let sql = "SELECT position FROM event WHERE id >= ?1 ORDER BY id LIMIT 1";
        self.with(|c| c.prepare_cached(sql)?.query_row([first_id_at(time).as_bytes()], |r| r.get(0)).optional())
    }

    fn directory(&self) -> Result<Directory, StoreError> {
        self.with(|c| consistent(c, directory::all))
    }

    fn directory_version(&self) -> Result<u64, StoreError> {
        self.with(directory::version)
    }

    fn connection(&self, key: &ConnectionKey) -> Result<Option<ConnectionRow>, StoreError> {
        self.with(|c| connections::get(c, key))
    }

    fn connection_of(
        &self,
        stage: ConnectionStage,
        version: &Fingerprint,
    ) -> Result<Option<ConnectionRow>, StoreError> {
        self.with(|c| connections::of_version(c, stage, version))
    }

    fn connections(&self, workspace: &WorkspaceName, person: &str) -> Result<Vec<ConnectionRow>, StoreError> {
        self.with(|c| connections::of_person(c, workspace, person))
    }

    fn trust_row(&self, id: Uuid) -> Result<Option<TrustRow>, StoreError> {
        self.with(|c| trust::one(c, id))
    }

    fn trust_rows(&self, query: &TrustQuery) -> Result<TrustPage, StoreError> {
        let limit = query.limit.clamp(1, 1000);
        let mut rows = self.with(|c| trust::find(c, query, limit))?;
        let more = rows.len() > limit as usize;
        rows.truncate(limit as usize);
        Ok(TrustPage { rows, more })
    }

    fn trust_counts(&self, workspace: &WorkspaceName) -> Result<Vec<TrustCount>, StoreError> {
        self.with(|c| trust::counts(c, workspace))
    }

    fn artifact(
        &self,
        workspace: &WorkspaceName,
        id: Uuid,
        version: Option<u64>,
    ) -> Result<Option<ArtifactRow>, StoreError> {
        self.with(|c| artifacts::one(c, workspace, id, version))
    }

    fn artifacts(&self, query: &ArtifactQuery) -> Result<ArtifactPage, StoreError> {
        let limit = query.limit.clamp(1, 1000);
        let mut rows = self.with(|c| artifacts::find(c, query, limit))?;
        let more = rows.len() > limit as usize;
        rows.truncate(limit as usize);
        Ok(ArtifactPage { rows, more })
    }

    fn artifacts_behind(&self, entry: Option<Uuid>, limit: u32) -> Result<Vec<ArtifactRow>, StoreError> {
        self.with(|c| artifacts::behind(c, entry, limit.clamp(1, 1000)))
    }

    fn witnessed(&self, origin: &str) -> Result<Option<WitnessedRow>, StoreError> {
        self.with(|c| witness::one(c, origin))
    }

    fn all_witnessed(&self) -> Result<Vec<WitnessedRow>, StoreError> {
        self.with(witness::all)
    }

    fn cosignatures(&self, shard: u32, above: u64, up_to: u64) -> Result<Vec<CosignatureRow>, StoreError> {
        self.with(|c| witness::best(c, shard, above, up_to))
    }

    fn newest_cosignatures(&self, shard: u32) -> Result<Vec<CosignatureRow>, StoreError> {
        self.with(|c| witness::newest(c, shard))
    }

    fn connections_in(
        &self,
        workspace: &WorkspaceName,
        behind: Option<(&str, &UpstreamName)>,
        limit: u32,
    ) -> Result<Vec<ConnectionRow>, StoreError> {
        self.with(|c| connections::of_workspace(c, workspace, behind, limit))
    }

    fn refusals(&self, since_minute: u64) -> Result<Vec<(u64, String, u64)>, StoreError> {
        let sql = "SELECT minute, name, count FROM refusal WHERE minute >= ?1 ORDER BY minute, name";
        let read = |r: &rusqlite::Row<'_>| Ok((r.get(0)?, r.get(1)?, r.get(2)?));
        self.with(|c| c.prepare_cached(sql)?.query_map([clamp(since_minute)], read)?.collect())
    }
}

/// Several statements that see one state.
fn consistent<T>(c: &Connection, read: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> rusqlite::Result<T> {
    let transaction = c.unchecked_transaction()?;
    read(&transaction)
}

/// One more row than asked for tells whether there are more.
fn events_sql(query: &EventQuery, limit: u32) -> (String, Vec<Value>) {
    let mut sql = format!("SELECT {} FROM event WHERE true", rows::EVENT);
    let mut values: Vec<Value> = Vec::new();
    let mut and = |condition: &str, value: Value| {
        sql.push_str(" AND ");
        sql.push_str(condition);
        values.push(value);
    };
    if let Some(workspace) = &query.workspace {
        and("workspace = ?", workspace.as_str().to_owned().into());
    }
    match &query.kind {
        Some(prefix) if prefix.ends_with('.') => {
            // A half-open range, since no kind has a character beyond the last of ASCII.
            and("kind >= ?", prefix.clone().into());
            and("kind < ?", format!("{prefix}\u{7f}").into());
        }
        Some(kind) => and("kind = ?", kind.clone().into()),
        None => {}
    }
    for (column, value) in
        [("principal = ?", &query.principal), ("tool = ?", &query.tool), ("subject = ?", &query.subject)]
    {
        if let Some(value) = value {
            and(column, value.clone().into());
        }
    }
    if let Some(call) = query.call {
        and("call = ?", call.as_bytes().to_vec().into());
    }
    if let Some(since) = query.since {
        and("time >= ?", clamp(since).into());
    }
    if let Some(until) = query.until {
        and("time < ?", clamp(until).into());
    }
    if let Some(cursor) = query.cursor {
        and(if query.descending { "position < ?" } else { "position > ?" }, clamp(cursor).into());
    }
    sql.push_str(if query.descending { " ORDER BY position DESC LIMIT ?" } else { " ORDER BY position LIMIT ?" });
    values.push(i64::from(limit + 1).into());
    (sql, values)
}
