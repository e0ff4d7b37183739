//! A small pool of connections that only read, each opened when it is first needed and again when it was lost. Every read
//! is one statement, which sees one committed state.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use countersign_domain::{Millis, UpstreamName, WorkspaceName};
use countersign_ledger::artifacts::{ArtifactPage, ArtifactQuery, ArtifactRow};
use countersign_ledger::connections::{ConnectionKey, ConnectionRow, ConnectionStage, MAX_CONNECTIONS};
use countersign_ledger::contract::{
    Changes, EventPage, EventQuery, EventRow, Head, Reader, ShardRow, StoreError, Tail,
};
use countersign_ledger::directory::Directory;
use countersign_ledger::leaf::{EntryRow, LogEntry, MAX_LEAVES, MAX_PUBLIC, merge};
use countersign_ledger::state::{
    BudgetKey, BudgetRow, DecisionRow, Fingerprint, FreezeRow, IdempotencyRow, IntentRow, PinRow, RequestRow,
    RequestStatus, first_id_at,
};
use countersign_ledger::trust::{TrustCount, TrustPage, TrustQuery, TrustRow};
use countersign_ledger::witness::{CosignatureRow, MAX_ROWS, WitnessedRow};
use countersign_proof::merkle::Hash;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::address::Address;
use super::fence::LEASE;
use super::rows::{
    self, Result, SHARD_BITS, big, connection_sql, get, now_sql, position, request_sql, shard_number, to_word,
};
use super::session::{Io, Session, error};
use super::{artifacts, trust, witness};

/// How long a read waits for a connection of the pool.
const WAIT: Duration = Duration::from_secs(10);
/// How long a read may take: pages are small.
const READ: Duration = Duration::from_secs(8);
/// The most changes reported at once; more than that, and everything is looked at again.
const MAX_CHANGES: i64 = 1000;

/// Both kinds of leaves in one round trip and one state. They are sorted here, which costs little, since they come in order as
/// a rule. The bound on public entries is [`MAX_PUBLIC`].
const ENTRIES: &str = "SELECT position, commitment, NULL::bytea FROM event WHERE position >= $1 AND position < $2 \
    UNION ALL (SELECT position, NULL::bytea, body FROM public_entry WHERE position >= $1 AND position < $2 \
    ORDER BY position LIMIT 256)";

pub(super) struct ReadPool {
    io: Arc<Io>,
    address: Address,
    idle: Mutex<Vec<Option<Session>>>,
    returned: Condvar,
    /// Whoever follows the other nodes must not wait for readers.
    follower: Mutex<Option<Session>>,
    /// This process's row in `node`, if it serves.
    own: Option<Uuid>,
}

impl ReadPool {
    pub(super) fn new(io: Arc<Io>, address: Address, connections: usize, own: Option<Uuid>) -> Self {
        let idle = (0..connections.max(1)).map(|_| None).collect();
        Self { io, address, idle: Mutex::new(idle), returned: Condvar::new(), follower: Mutex::new(None), own }
    }

    /// Runs one statement on an idle connection. One that turns out to be lost is replaced once: reading twice does no harm.
    fn rows(&self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>> {
        let mut slot = self.take()?;
        let result = self.rows_on(&mut slot.session, sql, params);
        drop(slot);
        result
    }

    fn rows_on(&self, slot: &mut Option<Session>, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>> {
        let was_open = slot.as_ref().is_some_and(Session::is_usable);
        match self.try_rows(slot, sql, params) {
            Err(StoreError::Database(_)) if was_open && !slot.as_ref().is_some_and(Session::is_usable) => {
                self.try_rows(slot, sql, params)
            }
            result => result,
        }
    }

    fn try_rows(&self, slot: &mut Option<Session>, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>> {
        if !slot.as_ref().is_some_and(Session::is_usable) {
            *slot = None;
        }
        let session = match slot {
            Some(session) => session,
            None => slot.insert(Session::open(&self.io, &self.address, true)?),
        };
        session.wait_for(READ, async {
            let statement = session.statement(sql).await?;
            session.client().query(&statement, params).await.map_err(error)
        })
    }

    fn first<T>(
        &self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
        read: impl Fn(&Row) -> Result<T>,
    ) -> Result<Option<T>> {
        self.rows(sql, params)?.first().map(read).transpose()
    }

    fn all<T>(&self, sql: &str, params: &[&(dyn ToSql + Sync)], read: impl Fn(&Row) -> Result<T>) -> Result<Vec<T>> {
        self.rows(sql, params)?.iter().map(read).collect()
    }

    fn take(&self) -> Result<Borrowed<'_>> {
        let deadline = Instant::now() + WAIT;
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            // An open one first.
            let open = idle.iter().rposition(Option::is_some).or(idle.len().checked_sub(1));
            if let Some(open) = open {
                return Ok(Borrowed { pool: self, session: idle.swap_remove(open) });
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(StoreError::Database("every reading connection is busy".into()));
            }
            idle = self.returned.wait_timeout(idle, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Gives the place in the pool back even if the read panics.
struct Borrowed<'a> {
    pool: &'a ReadPool,
    session: Option<Session>,
}

impl Drop for Borrowed<'_> {
    fn drop(&mut self) {
        self.pool.idle.lock().unwrap_or_else(PoisonError::into_inner).push(self.session.take());
        self.pool.returned.notify_one();
    }
}

/// The first position after a shard's.
fn end_of(shard: u32) -> i64 {
    big((u64::from(shard) + 1) << SHARD_BITS)
}

impl Reader for ReadPool {
    fn head(&self) -> Result<Option<Head>> {
        let sql = "SELECT shard, origin, size, root, frontier, checkpoint, contested FROM head";
        Ok(self.first(sql, &[], rows::head)?.flatten())
    }

    fn shards(&self) -> Result<Vec<ShardRow>> {
        let sql = "SELECT s.shard, s.origin, s.vkey, coalesce(h.checkpoint, s.checkpoint), coalesce(h.size, s.size) \
                   FROM shard s LEFT JOIN head h ON h.shard = s.shard ORDER BY s.shard";
        self.all(sql, &[], rows::shard)
    }

    fn event(&self, id: Uuid) -> Result<Option<EventRow>> {
        let found = self.first(&format!("SELECT {} FROM event WHERE id = $1", rows::EVENT), &[&id], rows::event)?;
        Ok(found.map(|(_, row)| row))
    }

    fn events_of_call(&self, call: Uuid) -> Result<Vec<EventRow>> {
        let sql = format!("SELECT {} FROM event WHERE call = $1 ORDER BY position LIMIT 1000", rows::EVENT);
        self.all(&sql, &[&call], |row| Ok(rows::event(row)?.1))
    }

    fn events(&self, query: &EventQuery) -> Result<EventPage> {
        let limit = query.limit.clamp(1, 1000);
        let (sql, values) = events_sql(query, limit);
        let params: Vec<&(dyn ToSql + Sync)> = values.iter().map(|v| &**v as &(dyn ToSql + Sync)).collect();
        let mut rows = self.all(&sql, &params, rows::event)?;
        let more = rows.len() > limit as usize;
        rows.truncate(limit as usize);
        Ok(EventPage { rows, more })
    }

    fn entries(&self, shard: u32, from: u64, to: u64) -> Result<Vec<LogEntry>> {
        let to = to.min(from.saturating_add(MAX_LEAVES as u64));
        let params: [&(dyn ToSql + Sync); 2] = [&position(shard, from), &position(shard, to)];
        let (mut events, mut public) = (Vec::new(), Vec::new());
        for row in self.rows(ENTRIES, &params)? {
            let (_, index) = rows::place(rows::unsigned(&row, 0)?)?;
            match rows::maybe_digest(&row, 1)? {
                Some(commitment) => events.push((index, commitment)),
                None => public.push((index, get::<Vec<u8>>(&row, 2)?)),
            }
        }
        events.sort_unstable_by_key(|(index, _)| *index);
        public.sort_unstable_by_key(|(index, _)| *index);
        if public.len() == MAX_PUBLIC {
            let last = public.last().map_or(to, |(last, _)| *last);
            events.retain(|(index, _)| *index < last);
        }
        merge(shard, from, events, public)
    }

    fn public_entry(&self, id: Uuid) -> Result<Option<EntryRow>> {
        let sql = format!("SELECT {} FROM public_entry WHERE id = $1", rows::PUBLIC_ENTRY);
        self.first(&sql, &[&id], rows::public_entry)
    }

    fn public_entries(&self, shard: u32, from: u64, limit: u32) -> Result<Vec<EntryRow>> {
        let sql = format!(
            "SELECT {} FROM public_entry WHERE position >= $1 AND position < $2 ORDER BY position LIMIT $3",
            rows::PUBLIC_ENTRY
        );
        let limit = i64::from(limit.clamp(1, MAX_PUBLIC as u32));
        self.all(&sql, &[&position(shard, from), &end_of(shard), &limit], rows::public_entry)
    }

    fn leaves(&self, shard: u32, from: u64, limit: u32) -> Result<Vec<EventRow>> {
        let sql = format!(
            "SELECT {} FROM event WHERE position >= $1 AND position < $2 ORDER BY position LIMIT $3",
            rows::EVENT
        );
        self.all(&sql, &[&position(shard, from), &end_of(shard), &i64::from(limit.clamp(1, 1000))], |row| {
            Ok(rows::event(row)?.1)
        })
    }

    fn tile(&self, shard: u32, level: u8, index: u64) -> Result<Option<Vec<Hash>>> {
        let sql = "SELECT hashes FROM tile WHERE shard = $1 AND level = $2 AND n = $3";
        let key: [&(dyn ToSql + Sync); 3] = [&shard_number(shard)?, &i16::from(level), &big(index)];
        self.first(sql, &key, |row| Ok(rows::hashes(get(row, 0)?)))
    }

    fn tail(&self, workspace: &WorkspaceName) -> Result<Option<Tail>> {
        let sql = "SELECT seq, commitment FROM event WHERE workspace = $1 ORDER BY position DESC LIMIT 1";
        self.first(sql, &[&workspace.as_str()], |row| rows::tail(row, 0))
    }

    fn workspaces(&self) -> Result<Vec<WorkspaceName>> {
        // The recursive part hops from name to name in the index, instead of reading every entry of it.
        let sql = "WITH RECURSIVE hop (name) AS (
                     (SELECT workspace FROM event ORDER BY workspace LIMIT 1)
                     UNION ALL
                     SELECT (SELECT workspace FROM event WHERE workspace > name ORDER BY workspace LIMIT 1)
                     FROM hop WHERE name IS NOT NULL)
                   SELECT name FROM hop WHERE name IS NOT NULL UNION SELECT workspace FROM workspace_key ORDER BY 1";
        self.all(sql, &[], |row| rows::parsed(row, 0))
    }

    fn workspace_key(&self, workspace: &WorkspaceName) -> Result<Option<Vec<u8>>> {
        let sql = "SELECT wrapped FROM workspace_key WHERE workspace = $1";
        self.first(sql, &[&workspace.as_str()], |row| get(row, 0))
    }

    fn request(&self, id: Uuid) -> Result<Option<RequestRow>> {
        self.first(request_sql!("WHERE r.id = $1"), &[&id], rows::request)
    }

    fn requests(
        &self,
        workspace: Option<&WorkspaceName>,
        status: Option<RequestStatus>,
        before: Option<Uuid>,
        limit: u32,
    ) -> Result<Vec<RequestRow>> {
        // Ids are UUIDv7: their order is the order of time.
        let mut sql = request_sql!("WHERE true").to_owned();
        let mut values: Vec<Box<dyn ToSql + Sync>> = Vec::new();
        let mut and = |condition: &str, value: Box<dyn ToSql + Sync>| {
            values.push(value);
            sql.push_str(&format!(" AND {condition} ${}", values.len()));
        };
        if let Some(workspace) = workspace {
            and("workspace =", Box::new(workspace.as_str().to_owned()));
        }
        if let Some(status) = status {
            and("status =", Box::new(to_word(&status)?));
        }
        if let Some(before) = before {
            and("id <", Box::new(before));
        }
        values.push(Box::new(i64::from(limit.clamp(1, 1000))));
        sql.push_str(&format!(" ORDER BY id DESC LIMIT ${}", values.len()));
        let params: Vec<&(dyn ToSql + Sync)> = values.iter().map(|v| &**v as &(dyn ToSql + Sync)).collect();
        self.all(&sql, &params, rows::request)
    }

    fn expired_requests(&self, now: Millis, limit: u32) -> Result<Vec<RequestRow>> {
        let sql = request_sql!("WHERE status = 'pending' AND expires <= $1 ORDER BY expires LIMIT $2");
        self.all(sql, &[&big(now), &i64::from(limit)], rows::request)
    }

    fn request_by_fingerprint(&self, fingerprint: &Fingerprint) -> Result<Option<RequestRow>> {
        let sql = concat!(
            request_sql!("WHERE fingerprint = $1 AND status IN ('pending', 'denied') AND expires > "),
            now_sql!(),
            " ORDER BY created DESC LIMIT 1"
        );
        self.first(sql, &[&fingerprint.as_slice()], rows::request)
    }

    fn idempotency(&self, scope: &Fingerprint) -> Result<Option<IdempotencyRow>> {
        let sql = "SELECT scope, fingerprint, state, call, answer, expires FROM idempotency WHERE scope = $1";
        self.first(sql, &[&scope.as_slice()], rows::idempotency)
    }

    fn intents(&self) -> Result<Vec<IntentRow>> {
        let sql = "SELECT call, workspace, principal, tool, pin, effect, fingerprint, event, state, at, idempotency \
                   FROM intent ORDER BY at, call LIMIT 10000";
        self.all(sql, &[], rows::intent)
    }

    fn abandoned(&self, running: &[Uuid]) -> Result<Vec<IntentRow>> {
        let sql = concat!(
            "SELECT call, workspace, principal, tool, pin, effect, fingerprint, event, state, at, idempotency FROM intent i ",
            "WHERE state = 'open' AND (NOT EXISTS (SELECT 1 FROM node n WHERE n.id = i.owner AND n.seen > ",
            now_sql!(),
            " - $1) OR owner = $2 AND call <> ALL ($3)) ORDER BY at, call LIMIT 1000"
        );
        self.all(sql, &[&LEASE, &self.own, &running], rows::intent)
    }

    fn freezes(&self) -> Result<Vec<FreezeRow>> {
        self.all("SELECT body FROM frozen ORDER BY kind, name", &[], rows::freeze)
    }

    fn budget(&self, key: &BudgetKey, start: Millis) -> Result<u64> {
        let params: [&(dyn ToSql + Sync); 4] = [&key.budget, &key.workspace.as_str(), &key.principal, &big(start)];
        Ok(self.first(rows::BUDGET_USED, &params, |row| rows::unsigned(row, 0))?.unwrap_or(0))
    }

    fn budgets(&self, now: Millis) -> Result<Vec<BudgetRow>> {
        let sql = "SELECT budget, workspace, principal, start, ends, used FROM budget WHERE ends > $1 \
                   ORDER BY budget, workspace, principal, start LIMIT 1000";
        self.all(sql, &[&big(now)], rows::budget)
    }

    fn cooldown(&self, key: &Fingerprint) -> Result<Option<Millis>> {
        self.first(rows::COOLDOWN, &[&key.as_slice()], |row| rows::unsigned(row, 0))
    }

    fn pins(&self) -> Result<Vec<PinRow>> {
        self.all("SELECT tool, pin, definition, status, at, accepted_by FROM pin ORDER BY tool, status", &[], rows::pin)
    }

    fn decisions(&self, calls: &[Uuid]) -> Result<Vec<DecisionRow>> {
        let calls = &calls[..calls.len().min(1000)];
        let read = |row: &Row| Ok(DecisionRow { call: get(row, 0)?, sealed: get(row, 1)? });
        self.all("SELECT call, sealed FROM decision WHERE call = ANY ($1)", &[&calls], read)
    }

    fn oldest_decision(&self) -> Result<Option<Uuid>> {
        self.first("SELECT call FROM decision ORDER BY call LIMIT 1", &[], |row| get(row, 0))
    }

    fn position_at(&self, time: Millis) -> Result<Option<u64>> {
        let sql = "SELECT position FROM event WHERE id >= $1 ORDER BY id LIMIT 1";
        self.first(sql, &[&first_id_at(time)], |row| rows::unsigned(row, 0))
    }

    fn directory(&self) -> Result<Directory> {
        let sql = "SELECT v.n, d.kind, d.workspace, d.name, d.body, d.at, d.event, d.used FROM directory_version v \
                   LEFT JOIN directory d ON true ORDER BY d.kind, d.workspace, d.name";
        let found = self.rows(sql, &[])?;
        let version = found.first().map_or(Ok(0), |row| rows::unsigned(row, 0))?;
        Ok(Directory {
            version,
            rows: found.iter().filter_map(|row| rows::directory(row).transpose()).collect::<Result<_>>()?,
        })
    }

    fn directory_version(&self) -> Result<u64> {
        Ok(self.first("SELECT n FROM directory_version", &[], |row| rows::unsigned(row, 0))?.unwrap_or(0))
    }

    fn connection(&self, key: &ConnectionKey) -> Result<Option<ConnectionRow>> {
        let sql = connection_sql!("WHERE workspace = $1 AND upstream = $2 AND person = $3 AND stage = $4");
        let (workspace, upstream, stage) = (key.workspace.as_str(), key.upstream.as_str(), to_word(&key.stage)?);
        self.first(sql, &[&workspace, &upstream, &key.person, &stage], rows::connection)
    }

    fn connection_of(&self, stage: ConnectionStage, version: &Fingerprint) -> Result<Option<ConnectionRow>> {
        let sql = connection_sql!("WHERE version = $1 AND stage = $2 LIMIT 1");
        self.first(sql, &[&version.as_slice(), &to_word(&stage)?], rows::connection)
    }

    fn connections(&self, workspace: &WorkspaceName, person: &str) -> Result<Vec<ConnectionRow>> {
        let sql = connection_sql!("WHERE workspace = $1 AND person = $2 ORDER BY upstream, stage LIMIT 1000");
        self.all(sql, &[&workspace.as_str(), &person], rows::connection)
    }

    fn trust_row(&self, id: Uuid) -> Result<Option<TrustRow>> {
        self.first(trust::ONE, &[&id], trust::row)
    }

    fn trust_rows(&self, query: &TrustQuery) -> Result<TrustPage> {
        let limit = query.limit.clamp(1, 1000);
        let (sql, values) = trust::sql(query, limit)?;
        let params: Vec<&(dyn ToSql + Sync)> = values.iter().map(|v| &**v as &(dyn ToSql + Sync)).collect();
        let mut rows = self.all(&sql, &params, trust::row)?;
        let more = rows.len() > limit as usize;
        rows.truncate(limit as usize);
        Ok(TrustPage { rows, more })
    }

    fn trust_counts(&self, workspace: &WorkspaceName) -> Result<Vec<TrustCount>> {
        self.all(trust::COUNTS, &[&workspace.as_str()], trust::count)
    }

    fn artifact(&self, workspace: &WorkspaceName, id: Uuid, version: Option<u64>) -> Result<Option<ArtifactRow>> {
        self.first(artifacts::ONE, &[&workspace.as_str(), &id, &version.map(big)], artifacts::row)
    }

    fn artifacts(&self, query: &ArtifactQuery) -> Result<ArtifactPage> {
        let limit = query.limit.clamp(1, 1000);
        let (sql, values) = artifacts::sql(query, limit);
        let params: Vec<&(dyn ToSql + Sync)> = values.iter().map(|v| &**v as &(dyn ToSql + Sync)).collect();
        let mut rows = self.all(&sql, &params, artifacts::row)?;
        let more = rows.len() > limit as usize;
        rows.truncate(limit as usize);
        Ok(ArtifactPage { rows, more })
    }

    fn artifacts_behind(&self, entry: Option<Uuid>, limit: u32) -> Result<Vec<ArtifactRow>> {
        let limit = i64::from(limit.clamp(1, 1000));
        self.all(artifacts::BEHIND, &[&entry.unwrap_or_default(), &limit], artifacts::row)
    }

    fn witnessed(&self, origin: &str) -> Result<Option<WitnessedRow>> {
        self.first(witness::ONE, &[&origin], witness::witnessed)
    }

    fn all_witnessed(&self) -> Result<Vec<WitnessedRow>> {
        self.all(witness::ALL, &[&i64::from(MAX_ROWS)], witness::witnessed)
    }

    fn cosignatures(&self, shard: u32, above: u64, up_to: u64) -> Result<Vec<CosignatureRow>> {
        let range: [&(dyn ToSql + Sync); 4] = [&shard_number(shard)?, &big(above), &big(up_to), &i64::from(MAX_ROWS)];
        self.all(witness::BEST, &range, witness::cosignature)
    }

    fn newest_cosignatures(&self, shard: u32) -> Result<Vec<CosignatureRow>> {
        self.all(witness::NEWEST, &[&shard_number(shard)?, &i64::from(MAX_ROWS)], witness::cosignature)
    }

    fn connections_in(
        &self,
        workspace: &WorkspaceName,
        behind: Option<(&str, &UpstreamName)>,
        limit: u32,
    ) -> Result<Vec<ConnectionRow>> {
        let sql = connection_sql!(
            "WHERE workspace = $1 AND (person, upstream) > ($2, $3) ORDER BY person, upstream, stage LIMIT $4"
        );
        // Nobody's name is empty.
        let (person, upstream) = behind.map_or(("", ""), |(person, upstream)| (person, upstream.as_str()));
        let limit = i64::from(limit.min(MAX_CONNECTIONS));
        self.all(sql, &[&workspace.as_str(), &person, &upstream, &limit], rows::connection)
    }

    fn refusals(&self, since_minute: u64) -> Result<Vec<(u64, String, u64)>> {
        let sql = "SELECT minute, name, count FROM refusal WHERE minute >= $1 ORDER BY minute, name";
        let read = |row: &Row| Ok((rows::unsigned(row, 0)?, get(row, 1)?, rows::unsigned(row, 2)?));
        self.all(sql, &[&big(since_minute)], read)
    }

    fn changes(&self, since: Option<u64>) -> Result<Changes> {
        let mut slot = self.follower.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(since) = since else {
            let rows = self.rows_on(&mut slot, "SELECT coalesce(max(n), 0) FROM change", &[])?;
            let next = rows.first().map_or(Ok(0), |row| rows::unsigned(row, 0))?;
            return Ok(Changes { next, everything: true, ..Changes::default() });
        };
        // The row of `since` itself comes too, if it is still there: one that is not tells that more may be missing.
        let sql = "SELECT n, kind, request FROM change WHERE n >= $1 ORDER BY n LIMIT $2";
        let rows = self.rows_on(&mut slot, sql, &[&big(since), &MAX_CHANGES])?;
        let mut changes = Changes { next: since, ..Changes::default() };
        for row in &rows {
            let n = rows::unsigned(row, 0)?;
            if n == since {
                continue;
            }
            changes.next = n;
            match get::<&str>(row, 1)? {
                "freeze" => changes.freezes = true,
                "pin" => changes.pins = true,
                _ => changes.requests.extend(get::<Option<Uuid>>(row, 2)?),
            }
        }
        let lost = rows.first().is_some_and(|row| since > 0 && !matches!(rows::unsigned(row, 0), Ok(n) if n == since));
        changes.everything = lost;
        Ok(changes)
    }
}

/// One more row than asked for tells whether there are more.
fn events_sql(query: &EventQuery, limit: u32) -> (String, Vec<Box<dyn ToSql + Sync>>) {
    let mut sql = format!("SELECT {} FROM event WHERE true", rows::EVENT);
    let mut values: Vec<Box<dyn ToSql + Sync>> = Vec::new();
    let mut and = |condition: &str, value: Box<dyn ToSql + Sync>| {
        values.push(value);
        sql.push_str(&format!(" AND {condition} ${}", values.len()));
    };
    if let Some(workspace) = &query.workspace {
        and("workspace =", Box::new(workspace.as_str().to_owned()));
    }
    match &query.kind {
        Some(prefix) if prefix.ends_with('.') => {
            // A half-open range, since no kind has a character beyond the last of ASCII.
            and("kind >=", Box::new(prefix.clone()));
            and("kind <", Box::new(format!("{prefix}\u{7f}")));
        }
        Some(kind) => and("kind =", Box::new(kind.clone())),
        None => {}
    }
    for (column, value) in [("principal =", &query.principal), ("tool =", &query.tool), ("subject =", &query.subject)] {
        if let Some(value) = value {
            and(column, Box::new(value.clone()));
        }
    }
    if let Some(call) = query.call {
        and("call =", Box::new(call));
    }
    if let Some(since) = query.since {
        and("time >=", Box::new(big(since)));
    }
    if let Some(until) = query.until {
        and("time <", Box::new(big(until)));
    }
    if let Some(cursor) = query.cursor {
        and(if query.descending { "position <" } else { "position >" }, Box::new(big(cursor)));
    }
    let order = if query.descending { "DESC" } else { "ASC" };
    values.push(Box::new(i64::from(limit + 1)));
    sql.push_str(&format!(" ORDER BY position {order} LIMIT ${}", values.len()));
    (sql, values)
}
