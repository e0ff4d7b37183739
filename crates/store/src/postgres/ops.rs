//! Checks and changes, one of each for every operation; what a conflict means stands at [`StateOp`].
//!
//! Whoever applies operations holds the head's lock, so that nothing changes between a check and its change. That lets a
//! group's checks all go to the server at once, and nobody waits for its changes: one round trip instead of two for each
//! operation. Appends that could see one another's changes are kept in separate waves.

use std::collections::HashSet;

use countersign_domain::obligation::ObligationKind;
use countersign_domain::{Millis, WorkspaceName};
use countersign_ledger::artifacts::ArtifactRow;
use countersign_ledger::connections::{ConnectionKey, ConnectionRow};
use countersign_ledger::contract::StoreError;
use countersign_ledger::directory::{DirectoryKind, DirectoryRow};
use countersign_ledger::objects::ObjectRef;
use countersign_ledger::state::{
    AnswerRow, BudgetKey, CLOCK_SLACK, Conflict, FreezeRow, IdempotencyRow, IdempotencyState, IntentRow, PinRow,
    RequestRow, RequestStatus, StateOp, first_id_at,
};
use countersign_ledger::trust::TrustRow;
use countersign_ledger::witness::{CosignatureRow, KEPT, WitnessedRow};
use futures_util::future::{join_all, try_join, try_join_all};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::rows::{self, Result, big, request_sql, time, to_json, to_word};
use super::sent::Sent;
use super::session::{Session, error};
use super::witness;

macro_rules! statements {
    ($($name:ident = $sql:expr;)*) => {
        $(const $name: &str = $sql;)*
        /// Every statement of a group's operations, to be prepared before the first one runs.
        pub(super) const STATEMENTS: &[&str] = &[$($name),*];
    };
}

statements! {
    REQUEST = request_sql!("WHERE r.id = $1");
    LIVE = request_sql!("WHERE fingerprint = $1 AND status IN ('pending', 'denied') AND expires > $2 ORDER BY created DESC LIMIT 1");
    OPEN_COUNT = "SELECT count(*) FROM request WHERE status = 'pending' AND requester = $1 AND expires > $2";
    OPEN_REQUEST = "INSERT INTO request (id, workspace, requester, requester_keys, person_key, principal, tool, effect, pin, \
        fingerprint, arguments, owed, policy_version, status, created, expires, event, closed_by, execute_on_approval) \
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)";
    ANSWER = "INSERT INTO answer (request, n, person, body) \
        VALUES ($1, (SELECT count(*) FROM answer WHERE request = $1), $2, $3)";
    SET_STATUS = "UPDATE request SET status = $2, closed_by = coalesce($3, closed_by) WHERE id = $1";
    CLOSE_REQUEST = "UPDATE request SET closed_by = $2 WHERE id = $1";
    IDEMPOTENCY = "SELECT scope, fingerprint, state, call, answer, expires FROM idempotency WHERE scope = $1";
    IDEMPOTENCY_BEGIN = "INSERT INTO idempotency (scope, fingerprint, state, call, answer, expires) \
        VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (scope) DO UPDATE SET fingerprint = excluded.fingerprint, \
        state = excluded.state, call = excluded.call, answer = excluded.answer, expires = excluded.expires";
    IDEMPOTENCY_SET = "UPDATE idempotency SET state = $2, answer = $3 WHERE scope = $1";
    IDEMPOTENCY_DROP = "DELETE FROM idempotency WHERE scope = $1";
    IDEMPOTENCY_UNKNOWN = "UPDATE idempotency SET state = 'unknown' \
        WHERE scope = (SELECT idempotency FROM intent WHERE call = $1)";
    UNKNOWN_TWIN = "SELECT call FROM intent WHERE fingerprint = $1 AND state = 'unknown' LIMIT 1";
    INTENT_EXISTS = "SELECT 1 FROM intent WHERE call = $1";
    INTENT_IS_OPEN = "SELECT 1 FROM intent WHERE call = $1 AND state = 'open'";
    INTENT_OPEN = "INSERT INTO intent (call, workspace, principal, tool, pin, effect, fingerprint, event, state, at, \
        idempotency, owner) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)";
    INTENT_CLOSE = "DELETE FROM intent WHERE call = $1";
    INTENT_UNKNOWN = "UPDATE intent SET state = 'unknown' WHERE call = $1";
    FROZEN = "SELECT f.body FROM unnest($1::text[], $2::text[]) WITH ORDINALITY t (kind, name, n) \
        JOIN frozen f USING (kind, name) ORDER BY n LIMIT 1";
    FREEZE = "INSERT INTO frozen (kind, name, body) VALUES ($1, $2, $3) \
        ON CONFLICT (kind, name) DO UPDATE SET body = excluded.body";
    FREEZE_EXISTS = "SELECT 1 FROM frozen WHERE kind = $1 AND name = $2";
    UNFREEZE = "DELETE FROM frozen WHERE kind = $1 AND name = $2";
    PIN_KNOWN = "SELECT 1 FROM pin WHERE tool = $1 AND pin = $2";
    PIN_PUT = "INSERT INTO pin (tool, status, pin, definition, at, accepted_by) VALUES ($1, $2, $3, $4, $5, $6) \
        ON CONFLICT (tool, status) DO UPDATE SET pin = excluded.pin, definition = excluded.definition, \
        at = excluded.at, accepted_by = excluded.accepted_by";
    PIN_WITHDRAW = "DELETE FROM pin WHERE tool = $1 AND status = 'proposed'";
    ERASABLE = "SELECT 1 FROM event WHERE id = $1 AND body IS NOT NULL AND kind NOT IN ('log.opened', 'event.erased')";
    ERASE = "UPDATE event SET salt = NULL, detail_salt = NULL, body = NULL WHERE id = $1";
    ERASE_DECISION = "DELETE FROM decision WHERE call = (SELECT call FROM event WHERE id = $1)";
    FORGET_DECISIONS = "DELETE FROM decision WHERE call IN (SELECT call FROM decision WHERE call < $1 ORDER BY call LIMIT $2)";
    WORKSPACE_KEY = "INSERT INTO workspace_key (workspace, wrapped) VALUES ($1, $2) ON CONFLICT DO NOTHING";
    BUDGET_USED = rows::BUDGET_USED;
    BUDGET_SPEND = "INSERT INTO budget (budget, workspace, principal, start, ends, used) VALUES ($1, $2, $3, $4, $5, $6) \
        ON CONFLICT (budget, workspace, principal, start) DO UPDATE SET used = budget.used + excluded.used";
    BUDGET_RETURN = "UPDATE budget SET used = greatest(used - $5, 0) \
        WHERE budget = $1 AND workspace = $2 AND principal = $3 AND start = $4";
    COOLDOWN = rows::COOLDOWN;
    COOLDOWN_BEGIN = "INSERT INTO cooldown (key, until) VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET until = excluded.until";
    COOLDOWN_DROP = "DELETE FROM cooldown WHERE key = $1";
    DIRECTORY_EXISTS = "SELECT 1 FROM directory WHERE kind = $1 AND workspace = $2 AND name = $3";
    DIRECTORY_FROM = "SELECT 1 FROM directory WHERE kind = $1 AND workspace = $2 AND name = $3 AND event = $4";
    DIRECTORY_COUNT = "SELECT count(*) FROM directory WHERE kind = $1";
    DIRECTORY_PUT = "INSERT INTO directory (kind, workspace, name, body, at, event, used) VALUES ($1, $2, $3, $4, $5, $6, $7) \
        ON CONFLICT (kind, workspace, name) DO UPDATE SET body = excluded.body, at = excluded.at, event = excluded.event";
    DIRECTORY_REMOVE = "DELETE FROM directory WHERE kind = $1 AND workspace = $2 AND name = $3";
    DIRECTORY_USED = "UPDATE directory SET used = greatest(coalesce(used, 0), $4) \
        WHERE kind = $1 AND workspace = $2 AND name = $3";
    DIRECTORY_CHANGED = "UPDATE directory_version SET n = n + 1";
    CONNECTION_THERE = "SELECT 1 FROM connection WHERE workspace = $1 AND upstream = $2 AND person = $3 AND stage = $4 \
        AND version = $5";
    CONNECTION_LIVE = "SELECT 1 FROM connection WHERE workspace = $1 AND upstream = $2 AND person = $3 AND stage = $4 \
        AND version = $5 AND (expires IS NULL OR expires > $6)";
    CONNECTION_PUT = "INSERT INTO connection (workspace, upstream, person, stage, version, body, sealed, expires, at, event) \
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT (workspace, person, upstream, stage) DO UPDATE SET \
        version = excluded.version, body = excluded.body, sealed = excluded.sealed, expires = excluded.expires, \
        at = excluded.at, event = excluded.event";
    CONNECTION_DROP = "DELETE FROM connection WHERE workspace = $1 AND upstream = $2 AND person = $3 AND stage = $4";
    TRUST = "INSERT INTO trust (id, workspace, kind, at, artifact, artifact_type, subject, chain, signer, valid, body) \
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)";
    ARTIFACT_NEWEST = "SELECT version, object FROM artifact WHERE workspace = $1 AND id = $2 ORDER BY version DESC LIMIT 1";
    ARTIFACT = "INSERT INTO artifact (entry, workspace, id, version, artifact_type, created, at, digest, kid, object, \
        compliance, sources) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)";
    ARTIFACT_EXISTS = "SELECT 1 FROM artifact WHERE entry = $1";
    ARTIFACT_HOLD = "UPDATE artifact SET object = (object::jsonb || jsonb_build_object('held', $2::boolean))::text \
        WHERE entry = $1";
    WITNESSED = witness::ONE;
    WITNESS = witness::PUT;
    WITNESS_FORK = witness::FORK;
    COSIGNATURE = witness::COSIGNATURE;
    FORGET_COSIGNATURES = witness::FORGET;
    REFUSAL = "INSERT INTO refusal (minute, name, count) \
        SELECT $1, name, sum(n)::bigint FROM unnest($2::text[], $3::bigint[]) t (name, n) GROUP BY name \
        ON CONFLICT (minute, name) DO UPDATE SET count = refusal.count + excluded.count";
    CHANGE = "INSERT INTO change (at, kind, request) VALUES ($1, $2, $3)";
}

/// What an append was found to be: fit, or in conflict.
pub(super) type Verdict = std::result::Result<(), Conflict>;

/// Who applies, and when.
#[derive(Clone, Copy)]
pub(super) struct Applier<'a> {
    pub(super) session: &'a Session,
    /// The database's time at the start of the group.
    pub(super) now: Millis,
    /// This process's row in `node`, if it serves.
    pub(super) owner: Option<Uuid>,
}

impl<'a> Applier<'a> {
    /// Applies the appends of a group, each whole or not at all. The changes are on their way when this returns.
    pub(super) fn apply_all(&self, appends: &[&[StateOp]], sent: &mut Sent<'a>) -> Result<Vec<Verdict>> {
        let mut verdicts = Vec::with_capacity(appends.len());
        let mut rest = appends;
        while !rest.is_empty() {
            let wave = wave(rest);
            if wave == 0 {
                verdicts.push(self.one_by_one(rest[0], sent)?);
            } else {
                verdicts.extend(self.together(&rest[..wave], sent)?);
            }
            rest = &rest[wave.max(1)..];
        }
        Ok(verdicts)
    }

    /// Appends that do not touch what another of them touches: all checks, then all changes of those that passed.
    fn together(&self, appends: &[&[StateOp]], sent: &mut Sent<'a>) -> Result<Vec<Verdict>> {
        let checks = appends.iter().map(|ops| async move {
            for verdict in join_all(ops.iter().map(|op| self.check(op))).await {
                if let Err(conflict) = verdict? {
                    return Ok(Err(conflict));
                }
            }
            Ok::<Verdict, StoreError>(Ok(()))
        });
        let verdicts = sent.wait(try_join_all(checks))?;
        let fit = appends.iter().zip(&verdicts).filter(|(_, verdict)| verdict.is_ok());
        fit.flat_map(|(ops, _)| ops.iter()).for_each(|op| self.send(op, sent));
        Ok(verdicts)
    }

    /// One append whose operations may depend on one another, with a place to go back to.
    fn one_by_one(&self, ops: &[StateOp], sent: &mut Sent<'a>) -> Result<Verdict> {
        let client = self.session.client();
        let nested = ops.len() > 1;
        let mark = |sql: &'static str, sent: &mut Sent<'a>| {
            if nested {
                sent.send(async move { client.batch_execute(sql).await.map_err(error) });
            }
        };
        mark("SAVEPOINT append", sent);
        for op in ops {
            if let Err(conflict) = sent.wait(self.check(op))? {
                mark("ROLLBACK TO append; RELEASE append", sent);
                return Ok(Err(conflict));
            }
            self.send(op, sent);
        }
        mark("RELEASE append", sent);
        Ok(Ok(()))
    }

    /// Sends a change, if there is one to be made.
    fn send(&self, op: &StateOp, sent: &mut Sent<'a>) {
        if !matches!(op, StateOp::RequireNotFrozen { .. } | StateOp::KeepDecision { .. }) {
            let (this, op) = (*self, op.clone());
            sent.send(async move { this.change(&op).await });
        }
    }

    async fn rows(&self, sql: &'static str, params: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>> {
        let statement = self.session.statement(sql).await?;
        self.session.client().query(&statement, params).await.map_err(error)
    }

    async fn run(&self, sql: &'static str, params: &[&(dyn ToSql + Sync)]) -> Result<()> {
        let statement = self.session.statement(sql).await?;
        self.session.client().execute(&statement, params).await.map(drop).map_err(error)
    }

    async fn exists(&self, sql: &'static str, params: &[&(dyn ToSql + Sync)]) -> Result<Verdict> {
        Ok(if self.rows(sql, params).await?.is_empty() { Err(Conflict::NotFound) } else { Ok(()) })
    }

    async fn request(&self, id: Uuid) -> Result<Option<RequestRow>> {
        self.rows(REQUEST, &[&id]).await?.first().map(rows::request).transpose()
    }

    async fn check(&self, op: &StateOp) -> Result<Verdict> {
        let now = self.now;
        match op {
            StateOp::OpenRequest { row, cap } => self.check_open(row, *cap).await,
            StateOp::Answer { request, answer } => self.check_answer(*request, answer).await,
            StateOp::Redeem { request } => {
                self.check_request(*request, |r| is_pending(r) && now < r.expires && r.is_met()).await
            }
            StateOp::Expire { request, .. } => {
                self.check_request(*request, |r| is_pending(r) && now >= r.expires).await
            }
            StateOp::Revoke { request, .. } | StateOp::Withdraw { request, .. } => {
                self.check_request(*request, is_pending).await
            }
            StateOp::CloseRequest { request, .. } => self.check_request(*request, |_| true).await,
            StateOp::IdempotencyBegin { row } => self.check_key(row).await,
            StateOp::IntentOpen { row } => self.check_twin(row).await,
            StateOp::IntentClose { call } => self.exists(INTENT_EXISTS, &[call]).await,
            StateOp::IntentUnknown { call } => self.exists(INTENT_IS_OPEN, &[call]).await,
            StateOp::RequireNotFrozen { targets } => {
                let (kinds, names): (Vec<_>, Vec<_>) = targets.iter().map(rows::target).unzip();
                let found = self.rows(FROZEN, &[&kinds, &names]).await?;
                found.first().map(rows::freeze).map_or(Ok(Ok(())), |row| Ok(Err(Conflict::Frozen(row?))))
            }
            StateOp::Unfreeze { target } => {
                let (kind, name) = rows::target(target);
                self.exists(FREEZE_EXISTS, &[&kind, &name]).await
            }
            StateOp::PinAccept { row } => self.exists(PIN_KNOWN, &[&row.tool.to_string(), &row.pin.0.as_slice()]).await,
            StateOp::Erase { event } => self.exists(ERASABLE, &[event]).await,
            StateOp::BudgetSpend { key, start, end, amount, limit } => {
                let used = self.budget_used(key, *start).await?;
                let current = *start <= now.saturating_add(CLOCK_SLACK) && now < end.saturating_add(CLOCK_SLACK);
                let fits = used.checked_add(*amount).is_some_and(|sum| sum <= *limit) && current;
                let spent = || Conflict::BudgetSpent { key: key.clone(), used, limit: *limit, until: *end };
                Ok(if fits { Ok(()) } else { Err(spent()) })
            }
            StateOp::CooldownBegin { key, .. } => {
                let found = self.rows(COOLDOWN, &[&key.as_slice()]).await?;
                let until = found.first().map(|row| rows::unsigned(row, 0)).transpose()?;
                Ok(until.filter(|until| now < *until).map_or(Ok(()), |until| Err(Conflict::CoolingDown { until })))
            }
            StateOp::DirectoryAdd { row, cap } => self.check_add(row, *cap).await,
            StateOp::DirectorySet { row, from: Some(from) } => self.check_row_from(row, *from).await,
            StateOp::DirectorySet { row, from: None } => self.check_row(row.kind, &row.workspace, &row.name).await,
            StateOp::DirectoryRemove { kind, workspace, name } => self.check_row(*kind, workspace, name).await,
            StateOp::ConnectionPut { row, from: Some(from) } => self.check_connection(&row.key, from).await,
            StateOp::ConnectionTake { key, version } => {
                let (workspace, upstream, stage) = connection_key(key)?;
                let live = [&workspace as &(dyn ToSql + Sync), &upstream, &key.person, &stage];
                let version = version.as_slice();
                self.exists(CONNECTION_LIVE, &[&live[..], &[&version, &time(now)]].concat()).await
            }
            StateOp::ArtifactAdd { row } => {
                let newest = self.rows(ARTIFACT_NEWEST, &[&row.workspace.as_str(), &row.id]).await?;
                let read = |newest: &Row| -> Result<(u64, bool)> {
                    Ok((rows::unsigned(newest, 0)?, rows::json::<ObjectRef>(newest, 1)?.held))
                };
                Ok(row.follows(newest.first().map(read).transpose()?))
            }
            StateOp::ArtifactHold { entry, .. } => self.exists(ARTIFACT_EXISTS, &[entry]).await,
            StateOp::Witness { row, from } => {
                let latest = self.witnessed(&row.origin).await?.map(|latest| latest.head);
                Ok(if latest == *from { Ok(()) } else { Err(Conflict::Witnessed) })
            }
            StateOp::WitnessFork { origin, size } => {
                let latest = self.witnessed(origin).await?.filter(|latest| latest.head.size == *size);
                Ok(match latest {
                    Some(latest) if latest.forked == Some(*size) => Err(Conflict::Exists),
                    Some(_) => Ok(()),
                    None => Err(Conflict::NotFound),
                })
            }
            StateOp::ConnectionPut { from: None, .. }
            | StateOp::DirectoryUsed { .. }
            | StateOp::BudgetReturn { .. }
            | StateOp::CooldownDrop { .. }
            | StateOp::IdempotencySet { .. }
            | StateOp::IdempotencyDrop { .. }
            | StateOp::Freeze { .. }
            | StateOp::PinPropose { .. }
            | StateOp::PinWithdraw { .. }
            | StateOp::KeepDecision { .. }
            | StateOp::ForgetDecisions { .. }
            | StateOp::WorkspaceKey { .. }
            | StateOp::TrustRecord { .. }
            | StateOp::Cosignature { .. }
            | StateOp::CountRefusals { .. } => Ok(Ok(())),
        }
    }

    async fn check_open(&self, row: &RequestRow, cap: u32) -> Result<Verdict> {
        let now = time(self.now);
        if let Some(existing) = self.rows(LIVE, &[&row.fingerprint.as_slice(), &now]).await?.first() {
            return Ok(Err(Conflict::RequestExists(Box::new(rows::request(existing)?))));
        }
        let count = self.rows(OPEN_COUNT, &[&row.requester, &now]).await?;
        let open = count.first().map_or(Ok(0), |row| rows::unsigned(row, 0))?;
        let open = u32::try_from(open).unwrap_or(u32::MAX);
        Ok(if open >= cap { Err(Conflict::TooManyOpen { open }) } else { Ok(()) })
    }

    async fn check_answer(&self, request: Uuid, answer: &AnswerRow) -> Result<Verdict> {
        let Some(request) = self.request(request).await? else { return Ok(Err(Conflict::NotFound)) };
        if !is_pending(&request) || self.now >= request.expires {
            return Ok(Err(Conflict::RequestState(Box::new(request))));
        }
        if answer.kind == ObligationKind::Approval && request.requester_keys.contains(&answer.person) {
            return Ok(Err(Conflict::SelfApproval));
        }
        let again = request.answers.iter().any(|given| given.person == answer.person);
        Ok(if again { Err(Conflict::AlreadyAnswered) } else { Ok(()) })
    }

    async fn check_request(&self, id: Uuid, ready: impl Fn(&RequestRow) -> bool) -> Result<Verdict> {
        Ok(match self.request(id).await? {
            None => Err(Conflict::NotFound),
            Some(request) if !ready(&request) => Err(Conflict::RequestState(Box::new(request))),
            Some(_) => Ok(()),
        })
    }

    async fn check_key(&self, row: &IdempotencyRow) -> Result<Verdict> {
        let found = self.rows(IDEMPOTENCY, &[&row.scope.as_slice()]).await?;
        let Some(first) = found.first().map(rows::idempotency).transpose()? else { return Ok(Ok(())) };
        let settled = matches!(first.state, IdempotencyState::Done | IdempotencyState::Pending);
        let taken = !settled || self.now < first.expires;
        Ok(if taken { Err(Conflict::IdempotencyExists(Box::new(first))) } else { Ok(()) })
    }

    async fn budget_used(&self, key: &BudgetKey, start: Millis) -> Result<u64> {
        let (workspace, start) = (key.workspace.as_str(), time(start));
        let found = self.rows(BUDGET_USED, &[&key.budget, &workspace, &key.principal, &start]).await?;
        found.first().map_or(Ok(0), |row| rows::unsigned(row, 0))
    }

    async fn check_row(&self, kind: DirectoryKind, workspace: &WorkspaceName, name: &str) -> Result<Verdict> {
        self.exists(DIRECTORY_EXISTS, &[&to_word(&kind)?, &workspace.as_str(), &name]).await
    }

    /// Whether the row is still the one that this event explains.
    async fn check_row_from(&self, row: &DirectoryRow, from: Uuid) -> Result<Verdict> {
        self.exists(DIRECTORY_FROM, &[&to_word(&row.kind)?, &row.workspace.as_str(), &row.name, &from]).await
    }

    async fn check_add(&self, row: &DirectoryRow, cap: u32) -> Result<Verdict> {
        if self.check_row(row.kind, &row.workspace, &row.name).await?.is_ok() {
            return Ok(Err(Conflict::Exists));
        }
        let count = self.rows(DIRECTORY_COUNT, &[&to_word(&row.kind)?]).await?;
        let there = count.first().map_or(Ok(0), |row| rows::unsigned(row, 0))?;
        Ok(if there >= u64::from(cap) { Err(Conflict::Full { cap }) } else { Ok(()) })
    }

    async fn check_connection(&self, key: &ConnectionKey, version: &[u8; 32]) -> Result<Verdict> {
        let (workspace, upstream, stage) = connection_key(key)?;
        self.exists(CONNECTION_THERE, &[&workspace, &upstream, &key.person, &stage, &version.as_slice()]).await
    }

    async fn check_twin(&self, row: &IntentRow) -> Result<Verdict> {
        let found = self.rows(UNKNOWN_TWIN, &[&row.fingerprint.as_slice()]).await?;
        let call = rows::ids(found.iter())?.first().copied();
        Ok(call.map_or(Ok(()), |call| Err(Conflict::OutcomeUnknown { call })))
    }

    /// All of a change's statements go out at once, in the order in which they stand here.
    async fn change(&self, op: &StateOp) -> Result<()> {
        match op {
            StateOp::OpenRequest { row, .. } => self.open_request(row).await,
            StateOp::Answer { request, answer } => {
                let given = AnswerRow { at: self.now, ..answer.clone() };
                let body = to_json(&given)?;
                let params: [&(dyn ToSql + Sync); 3] = [request, &given.person, &body];
                if answer.granted {
                    return both(self.run(ANSWER, &params), self.changed("request", Some(*request))).await;
                }
                let denied = self.set_status(*request, RequestStatus::Denied, Some(answer.event));
                both(self.run(ANSWER, &params), denied).await
            }
            StateOp::Redeem { request } => self.set_status(*request, RequestStatus::Redeemed, None).await,
            StateOp::Expire { request, closed_by } => {
                self.set_status(*request, RequestStatus::Expired, Some(*closed_by)).await
            }
            StateOp::Revoke { request, closed_by } => {
                self.set_status(*request, RequestStatus::Revoked, Some(*closed_by)).await
            }
            StateOp::Withdraw { request, closed_by } => {
                self.set_status(*request, RequestStatus::Withdrawn, Some(*closed_by)).await
            }
            StateOp::CloseRequest { request, closed_by } => {
                both(self.run(CLOSE_REQUEST, &[request, closed_by]), self.changed("request", Some(*request))).await
            }
            StateOp::IdempotencyBegin { row } => self.idempotency_begin(row).await,
            StateOp::IdempotencySet { scope, state, answer } => {
                self.run(IDEMPOTENCY_SET, &[&scope.as_slice(), &to_word(state)?, answer]).await
            }
            StateOp::IdempotencyDrop { scope } => self.run(IDEMPOTENCY_DROP, &[&scope.as_slice()]).await,
            StateOp::IntentOpen { row } => self.intent_open(row).await,
            StateOp::IntentClose { call } => self.run(INTENT_CLOSE, &[call]).await,
            StateOp::IntentUnknown { call } => {
                both(self.run(INTENT_UNKNOWN, &[call]), self.run(IDEMPOTENCY_UNKNOWN, &[call])).await
            }
            StateOp::BudgetSpend { key, start, end, amount, .. } => {
                let (workspace, start, end) = (key.workspace.as_str(), time(*start), time(*end));
                let amount = big(*amount);
                self.run(BUDGET_SPEND, &[&key.budget, &workspace, &key.principal, &start, &end, &amount]).await
            }
            StateOp::BudgetReturn { key, start, amount } => {
                let (workspace, start, amount) = (key.workspace.as_str(), time(*start), big(*amount));
                self.run(BUDGET_RETURN, &[&key.budget, &workspace, &key.principal, &start, &amount]).await
            }
            StateOp::CooldownBegin { key, pause } => {
                self.run(COOLDOWN_BEGIN, &[&key.as_slice(), &time(self.now.saturating_add(*pause))]).await
            }
            StateOp::CooldownDrop { key } => self.run(COOLDOWN_DROP, &[&key.as_slice()]).await,
            StateOp::RequireNotFrozen { .. } => Ok(()),
            StateOp::Freeze { row } => self.freeze(row).await,
            StateOp::Unfreeze { target } => {
                let (kind, name) = rows::target(target);
                both(self.run(UNFREEZE, &[&kind, &name]), self.changed("freeze", None)).await
            }
            StateOp::PinPropose { row } => self.put_pin(row, "proposed").await,
            StateOp::PinAccept { row } => {
                both(self.run(PIN_WITHDRAW, &[&row.tool.to_string()]), self.put_pin(row, "accepted")).await
            }
            StateOp::PinWithdraw { tool } => {
                both(self.run(PIN_WITHDRAW, &[&tool.to_string()]), self.changed("pin", None)).await
            }
            StateOp::Erase { event } => both(self.run(ERASE, &[event]), self.run(ERASE_DECISION, &[event])).await,
            // The group stores them with its events.
            StateOp::KeepDecision { .. } => Ok(()),
            StateOp::ForgetDecisions { before, limit } => {
                self.run(FORGET_DECISIONS, &[&first_id_at(*before), &i64::from(*limit)]).await
            }
            StateOp::WorkspaceKey { workspace, wrapped } => {
                self.run(WORKSPACE_KEY, &[&workspace.as_str(), wrapped]).await
            }
            StateOp::DirectoryAdd { row, .. } | StateOp::DirectorySet { row, .. } => self.put_row(row).await,
            StateOp::DirectoryRemove { kind, workspace, name } => {
                both(
                    self.run(DIRECTORY_REMOVE, &[&to_word(kind)?, &workspace.as_str(), name]),
                    self.run(DIRECTORY_CHANGED, &[]),
                )
                .await
            }
            StateOp::DirectoryUsed { kind, workspace, name, at } => {
                self.run(DIRECTORY_USED, &[&to_word(kind)?, &workspace.as_str(), name, &time(*at)]).await
            }
            StateOp::ConnectionPut { row, .. } => self.put_connection(row).await,
            StateOp::ConnectionTake { key, .. } => {
                let (workspace, upstream, stage) = connection_key(key)?;
                self.run(CONNECTION_DROP, &[&workspace, &upstream, &key.person, &stage]).await
            }
            StateOp::TrustRecord { row } => self.record_trust(row).await,
            StateOp::ArtifactAdd { row } => self.add_artifact(row).await,
            // The reference is the row's: it says what the object is asked to be. One statement, so that whoever asks next sees it.
            StateOp::ArtifactHold { entry, held } => self.run(ARTIFACT_HOLD, &[entry, held]).await,
            StateOp::Witness { row, .. } => self.witness(row).await,
            StateOp::WitnessFork { origin, .. } => self.run(WITNESS_FORK, &[origin]).await,
            StateOp::Cosignature { row } => self.keep_cosignature(row).await,
            StateOp::CountRefusals { minute, counts } => {
                let (names, counts): (Vec<_>, Vec<_>) = counts.iter().map(|(name, n)| (name, big(*n))).unzip();
                self.run(REFUSAL, &[&big(*minute), &names, &counts]).await
            }
        }
    }

    async fn witnessed(&self, origin: &str) -> Result<Option<WitnessedRow>> {
        self.rows(WITNESSED, &[&origin]).await?.first().map(witness::witnessed).transpose()
    }

    async fn witness(&self, row: &WitnessedRow) -> Result<()> {
        let (size, root, at) = (big(row.head.size), row.head.root.as_slice(), time(row.at));
        let forked = row.forked.map(big);
        self.run(WITNESS, &[&row.origin, &size, &root, &row.checkpoint, &at, &forked]).await
    }

    async fn keep_cosignature(&self, row: &CosignatureRow) -> Result<()> {
        let (shard, size, at) = (rows::shard_number(row.shard)?, big(row.size), time(row.at));
        let kept = i64::from(KEPT);
        let values: [&(dyn ToSql + Sync); 6] = [&shard, &size, &row.witness, &row.line, &row.checkpoint, &at];
        both(self.run(COSIGNATURE, &values), self.run(FORGET_COSIGNATURES, &[&shard, &row.witness, &kept])).await
    }

    async fn record_trust(&self, row: &TrustRow) -> Result<()> {
        let (workspace, kind, at) = (row.workspace.as_str(), to_word(&row.kind)?, time(row.at));
        let place: [&(dyn ToSql + Sync); 4] = [&row.id, &workspace, &kind, &at];
        let what: [&(dyn ToSql + Sync); 4] = [&row.artifact, &row.artifact_type, &row.subject, &row.chain];
        self.run(TRUST, &[&place[..], &what, &[&row.signer, &row.valid, &row.body]].concat()).await
    }

    async fn add_artifact(&self, row: &ArtifactRow) -> Result<()> {
        let (workspace, version, at) = (row.workspace.as_str(), big(row.version), time(row.at));
        let (digest, object) = (row.digest.0.as_slice(), to_json(&row.object)?);
        let place: [&(dyn ToSql + Sync); 4] = [&row.entry, &workspace, &row.id, &version];
        let what: [&(dyn ToSql + Sync); 4] = [&row.artifact_type, &row.created, &at, &digest];
        let rest: [&(dyn ToSql + Sync); 4] = [&row.kid, &object, &row.compliance, &row.sources];
        self.run(ARTIFACT, &[place, what, rest].concat()).await
    }

    async fn open_request(&self, row: &RequestRow) -> Result<()> {
        let (keys, principal, owed) = (to_json(&row.requester_keys)?, to_json(&row.principal)?, to_json(&row.owed)?);
        self.run(
            OPEN_REQUEST,
            &[
                &row.id,
                &row.workspace.as_str(),
                &row.requester,
                &keys,
                &row.person_key,
                &principal,
                &row.tool.to_string(),
                &row.effect.as_str(),
                &row.pin.0.as_slice(),
                &row.fingerprint.as_slice(),
                &row.arguments,
                &owed,
                &row.policy_version,
                &to_word(&row.status)?,
                &time(row.created),
                &time(row.expires),
                &row.event,
                &row.closed_by,
                &row.execute_on_approval,
            ],
        )
        .await
    }

    async fn set_status(&self, id: Uuid, status: RequestStatus, closed_by: Option<Uuid>) -> Result<()> {
        both(self.run(SET_STATUS, &[&id, &to_word(&status)?, &closed_by]), self.changed("request", Some(id))).await
    }

    async fn idempotency_begin(&self, row: &IdempotencyRow) -> Result<()> {
        let state = to_word(&row.state)?;
        let (scope, fingerprint) = (row.scope.as_slice(), row.fingerprint.as_slice());
        self.run(IDEMPOTENCY_BEGIN, &[&scope, &fingerprint, &state, &row.call, &row.answer, &time(row.expires)]).await
    }

    async fn intent_open(&self, row: &IntentRow) -> Result<()> {
        let idempotency = row.idempotency.as_ref().map(<[u8; 32]>::as_slice);
        self.run(
            INTENT_OPEN,
            &[
                &row.call,
                &row.workspace.as_str(),
                &to_json(&row.principal)?,
                &row.tool.to_string(),
                &row.pin.0.as_slice(),
                &row.effect.as_str(),
                &row.fingerprint.as_slice(),
                &row.event,
                &to_word(&row.state)?,
                &time(row.at),
                &idempotency,
                &self.owner,
            ],
        )
        .await
    }

    async fn freeze(&self, row: &FreezeRow) -> Result<()> {
        let (kind, name) = rows::target(&row.target);
        both(self.run(FREEZE, &[&kind, &name, &to_json(row)?]), self.changed("freeze", None)).await
    }

    async fn put_row(&self, row: &DirectoryRow) -> Result<()> {
        let (kind, workspace) = (to_word(&row.kind)?, row.workspace.as_str());
        let used = row.used.map(time);
        both(
            self.run(DIRECTORY_PUT, &[&kind, &workspace, &row.name, &row.body, &time(row.at), &row.event, &used]),
            self.run(DIRECTORY_CHANGED, &[]),
        )
        .await
    }

    async fn put_connection(&self, row: &ConnectionRow) -> Result<()> {
        let (workspace, upstream, stage) = connection_key(&row.key)?;
        let (version, expires, at) = (row.version.as_slice(), row.expires.map(time), time(row.at));
        let (person, event) = (&row.key.person, &row.event);
        self.run(
            CONNECTION_PUT,
            &[&workspace, &upstream, person, &stage, &version, &row.body, &row.sealed, &expires, &at, event],
        )
        .await
    }

    async fn put_pin(&self, row: &PinRow, status: &str) -> Result<()> {
        let (tool, pin) = (row.tool.to_string(), row.pin.0.as_slice());
        both(
            self.run(PIN_PUT, &[&tool, &status, &pin, &row.definition, &time(row.at), &row.by]),
            self.changed("pin", None),
        )
        .await
    }

    /// Tells the other nodes to look again.
    async fn changed(&self, kind: &str, request: Option<Uuid>) -> Result<()> {
        self.run(CHANGE, &[&time(self.now), &kind, &request]).await
    }
}

fn connection_key(key: &ConnectionKey) -> Result<(&str, &str, String)> {
    Ok((key.workspace.as_str(), key.upstream.as_str(), to_word(&key.stage)?))
}

/// Two statements, sent in this order and at once.
async fn both(first: impl Future<Output = Result<()>>, second: impl Future<Output = Result<()>>) -> Result<()> {
    try_join(first, second).await.map(drop)
}

fn is_pending(request: &RequestRow) -> bool {
    request.status == RequestStatus::Pending
}

/// What an operation of the common path touches.
#[derive(PartialEq, Eq, Hash, Clone, Copy)]
enum Key<'a> {
    Request(Uuid),
    Scope([u8; 32]),
    Intent(Uuid),
    Budget(&'a BudgetKey, Millis),
    Cooldown([u8; 32]),
}

/// How many appends from the front can be checked at once and then changed at once; 0 if the first one cannot be among
/// others.
fn wave(appends: &[&[StateOp]]) -> usize {
    let mut touched = HashSet::new();
    for (n, ops) in appends.iter().enumerate() {
        let mut own = HashSet::new();
        let mut closes = false;
        for op in *ops {
            let (key, checked) = match op {
                StateOp::RequireNotFrozen { .. }
                | StateOp::WorkspaceKey { .. }
                | StateOp::KeepDecision { .. }
                | StateOp::ForgetDecisions { .. } => continue,
                StateOp::Redeem { request } | StateOp::CloseRequest { request, .. } => (Key::Request(*request), true),
                StateOp::IdempotencyBegin { row } => (Key::Scope(row.scope), true),
                StateOp::IdempotencySet { scope, .. } | StateOp::IdempotencyDrop { scope } => {
                    (Key::Scope(*scope), false)
                }
                // An intent may be opened again in the append that closes its unknown twin.
                StateOp::IntentOpen { .. } if closes => return n,
                StateOp::IntentOpen { row } => (Key::Intent(row.call), true),
                StateOp::IntentClose { call } => {
                    closes = true;
                    (Key::Intent(*call), true)
                }
                StateOp::BudgetSpend { key, start, .. } => (Key::Budget(key, *start), true),
                StateOp::BudgetReturn { key, start, .. } => (Key::Budget(key, *start), false),
                StateOp::CooldownBegin { key, .. } => (Key::Cooldown(*key), true),
                StateOp::CooldownDrop { key } => (Key::Cooldown(*key), false),
                // Seldom, or with an effect on what others check.
                StateOp::OpenRequest { .. }
                | StateOp::Answer { .. }
                | StateOp::Expire { .. }
                | StateOp::Revoke { .. }
                | StateOp::Withdraw { .. }
                | StateOp::IntentUnknown { .. }
                | StateOp::Freeze { .. }
                | StateOp::Unfreeze { .. }
                | StateOp::PinPropose { .. }
                | StateOp::PinAccept { .. }
                | StateOp::PinWithdraw { .. }
                | StateOp::Erase { .. }
                | StateOp::DirectoryAdd { .. }
                | StateOp::DirectorySet { .. }
                | StateOp::DirectoryRemove { .. }
                | StateOp::DirectoryUsed { .. }
                | StateOp::ConnectionPut { .. }
                | StateOp::ConnectionTake { .. }
                | StateOp::TrustRecord { .. }
                | StateOp::ArtifactAdd { .. }
                | StateOp::ArtifactHold { .. }
                | StateOp::Witness { .. }
                | StateOp::WitnessFork { .. }
                | StateOp::Cosignature { .. }
                | StateOp::CountRefusals { .. } => return n,
            };
            if touched.contains(&key) || checked && own.contains(&key) {
                return n;
            }
            own.insert(key);
        }
        touched.extend(own);
    }
    appends.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn appends_that_could_see_one_another_are_kept_apart() {
        let drop = |n: u8| StateOp::IdempotencyDrop { scope: [n; 32] };
        let close = |n: u8| StateOp::IntentClose { call: Uuid::from_bytes([n; 16]) };
        let erase = StateOp::Erase { event: Uuid::nil() };
        for (appends, expected) in [
            (vec![vec![drop(1), close(1)], vec![drop(2), close(2)], vec![]], 3),
            (vec![vec![drop(1)], vec![close(1), drop(1)]], 1),
            (vec![vec![close(1), close(1)]], 0),
            (vec![vec![drop(1), drop(1)], vec![drop(1)]], 1),
            (vec![vec![drop(1)], vec![erase.clone()], vec![drop(2)]], 1),
            (vec![vec![erase], vec![drop(2)]], 0),
        ] {
            let appends: Vec<&[StateOp]> = appends.iter().map(Vec::as_slice).collect();
            assert_eq!(wave(&appends), expected);
        }
    }
}
