//! Checks and changes, one function for each operation. Every one checks before it changes, so that a refusal leaves
//! nothing behind; what a conflict means stands at [`StateOp`].

use countersign_domain::Millis;
use countersign_domain::obligation::ObligationKind;
use countersign_ledger::state::{
    AnswerRow, BudgetKey, CLOCK_SLACK, Conflict, Fingerprint, FreezeTarget, IdempotencyRow, IdempotencyState,
    IntentRow, PinRow, RequestRow, RequestStatus, StateOp, first_id_at,
};
use rusqlite::{Connection, OptionalExtension, Params, params};
use uuid::Uuid;

use super::rows::{self, Result, to_json, to_word};
use super::{artifacts, connections, directory, trust, witness};

pub(super) enum Outcome {
    Done,
    Refused(Box<Conflict>),
}

pub(super) fn refused(conflict: Conflict) -> Result<Outcome> {
    Ok(Outcome::Refused(Box::new(conflict)))
}

pub(super) fn apply(c: &Connection, op: &StateOp, now: Millis) -> Result<Outcome> {
    match op {
        StateOp::OpenRequest { row, cap } => open_request(c, row, *cap, now),
        StateOp::Answer { request, answer } => answer_request(c, *request, answer, now),
        StateOp::Redeem { request } => {
            let ready = |r: &RequestRow| is_pending(r) && now < r.expires && r.is_met();
            end_request(c, *request, ready, RequestStatus::Redeemed, None)
        }
        StateOp::Expire { request, closed_by } => {
            let ready = |r: &RequestRow| is_pending(r) && now >= r.expires;
            end_request(c, *request, ready, RequestStatus::Expired, Some(*closed_by))
        }
        StateOp::Revoke { request, closed_by } => {
            end_request(c, *request, is_pending, RequestStatus::Revoked, Some(*closed_by))
        }
        StateOp::Withdraw { request, closed_by } => {
            end_request(c, *request, is_pending, RequestStatus::Withdrawn, Some(*closed_by))
        }
        StateOp::CloseRequest { request, closed_by } => close_request(c, *request, *closed_by),
        StateOp::IdempotencyBegin { row } => idempotency_begin(c, row, now),
        StateOp::IdempotencySet { scope, state, answer } => {
            let sql = "UPDATE idempotency SET state = ?2, answer = ?3 WHERE scope = ?1";
            // A key that was forgotten meanwhile must not stand in the way of an outcome.
            run(c, sql, params![scope, to_word(state)?, answer]).map(|_| Outcome::Done)
        }
        StateOp::IdempotencyDrop { scope } => {
            run(c, "DELETE FROM idempotency WHERE scope = ?1", params![scope]).map(|_| Outcome::Done)
        }
        StateOp::IntentOpen { row } => intent_open(c, row),
        StateOp::IntentClose { call } => found(run(c, "DELETE FROM intent WHERE call = ?1", params![call.as_bytes()])?),
        StateOp::IntentUnknown { call } => intent_unknown(c, *call),
        StateOp::BudgetSpend { key, start, end, amount, limit } => {
            budget_spend(c, key, (*start, *end), *amount, *limit, now)
        }
        StateOp::BudgetReturn { key, start, amount } => {
            let sql = "UPDATE budget SET used = max(used - ?5, 0) \
                       WHERE budget = ?1 AND workspace = ?2 AND principal = ?3 AND start = ?4";
            let values = params![key.budget, key.workspace.as_str(), key.principal, start, amount];
            run(c, sql, values).map(|_| Outcome::Done)
        }
        StateOp::CooldownBegin { key, pause } => cooldown_begin(c, key, *pause, now),
        StateOp::CooldownDrop { key } => {
            run(c, "DELETE FROM cooldown WHERE key = ?1", params![key]).map(|_| Outcome::Done)
        }
        StateOp::RequireNotFrozen { targets } => require_not_frozen(c, targets),
        StateOp::Freeze { row } => {
            let (kind, name) = rows::target(&row.target);
            let sql = "INSERT INTO freeze (kind, name, reason, at, event) VALUES (?1, ?2, ?3, ?4, ?5)
                       ON CONFLICT (kind, name) DO UPDATE SET reason = ?3, at = ?4, event = ?5";
            run(c, sql, params![kind, name, row.reason, row.at, row.event.as_bytes()]).map(|_| Outcome::Done)
        }
        StateOp::Unfreeze { target } => {
            let (kind, name) = rows::target(target);
            found(run(c, "DELETE FROM freeze WHERE kind = ?1 AND name = ?2", params![kind, name])?)
        }
        StateOp::PinPropose { row } => put_pin(c, row, "proposed"),
        StateOp::PinAccept { row } => pin_accept(c, row),
        StateOp::PinWithdraw { tool } => drop_proposal(c, &tool.to_string()),
        StateOp::Erase { event } => erase(c, *event),
        StateOp::KeepDecision { row } => {
            let sql = "INSERT INTO decision (call, sealed) VALUES (?1, ?2) ON CONFLICT DO NOTHING";
            run(c, sql, params![row.call.as_bytes(), row.sealed]).map(|_| Outcome::Done)
        }
        StateOp::ForgetDecisions { before, limit } => {
            let sql = "DELETE FROM decision WHERE call IN \
                       (SELECT call FROM decision WHERE call < ?1 ORDER BY call LIMIT ?2)";
            run(c, sql, params![first_id_at(*before).as_bytes(), limit]).map(|_| Outcome::Done)
        }
        StateOp::WorkspaceKey { workspace, wrapped } => {
            let sql = "INSERT INTO workspace_key (workspace, wrapped) VALUES (?1, ?2) ON CONFLICT DO NOTHING";
            run(c, sql, params![workspace.as_str(), wrapped]).map(|_| Outcome::Done)
        }
        StateOp::DirectoryAdd { row, cap } => directory::add(c, row, *cap),
        StateOp::DirectorySet { row, from } => directory::set(c, row, *from),
        StateOp::DirectoryRemove { kind, workspace, name } => directory::remove(c, *kind, workspace, name),
        StateOp::DirectoryUsed { kind, workspace, name, at } => directory::used(c, *kind, workspace, name, *at),
        StateOp::ConnectionPut { row, from } => connections::put(c, row, from.as_ref()),
        StateOp::ConnectionTake { key, version } => connections::take(c, key, version, now),
        StateOp::TrustRecord { row } => trust::record(c, row),
        StateOp::ArtifactAdd { row } => artifacts::add(c, row),
        StateOp::ArtifactHold { entry, held } => artifacts::hold(c, *entry, *held),
        StateOp::Witness { row, from } => witness::put(c, row, from.as_ref()),
        StateOp::WitnessFork { origin, size } => witness::fork(c, origin, *size),
        StateOp::Cosignature { row } => witness::cosignature(c, row),
        StateOp::CountRefusals { minute, counts } => count_refusals(c, *minute, counts),
    }
}

pub(super) fn run(c: &Connection, sql: &str, params: impl Params) -> Result<usize> {
    c.prepare_cached(sql)?.execute(params)
}

pub(super) fn found(rows: usize) -> Result<Outcome> {
    if rows == 0 { refused(Conflict::NotFound) } else { Ok(Outcome::Done) }
}

fn is_pending(request: &RequestRow) -> bool {
    request.status == RequestStatus::Pending
}

fn open_request(c: &Connection, row: &RequestRow, cap: u32, now: Millis) -> Result<Outcome> {
    if let Some(existing) = live_request(c, &row.fingerprint, now)? {
        return refused(Conflict::RequestExists(Box::new(existing)));
    }
    let sql = "SELECT count(*) FROM request WHERE status = 'pending' AND requester = ?1 AND expires > ?2";
    let open: u32 = c.prepare_cached(sql)?.query_row(params![row.requester, now], |r| r.get(0))?;
    if open >= cap {
        return refused(Conflict::TooManyOpen { open });
    }
    let sql = "INSERT INTO request (id, workspace, requester, requester_keys, person_key, principal, tool, effect, pin, \
               fingerprint, arguments, owed, policy_version, status, created, expires, event, closed_by, \
               execute_on_approval) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, \
               ?18, ?19)";
    let values = params![
        row.id.as_bytes(),
        row.workspace.as_str(),
        row.requester,
        to_json(&row.requester_keys)?,
        row.person_key,
        to_json(&row.principal)?,
        row.tool.to_string(),
        row.effect.as_str(),
        row.pin.0,
        row.fingerprint,
        row.arguments,
        to_json(&row.owed)?,
        row.policy_version,
        to_word(&row.status)?,
        row.created,
        row.expires,
        row.event.as_bytes(),
        row.closed_by.as_ref().map(|id| id.as_bytes()),
        row.execute_on_approval,
    ];
    run(c, sql, values).map(|_| Outcome::Done)
}

/// The pending or denied request with this fingerprint that has not expired: there is at most one.
pub(super) fn live_request(c: &Connection, fingerprint: &[u8; 32], now: Millis) -> Result<Option<RequestRow>> {
    let sql = format!(
        "SELECT {} FROM request WHERE fingerprint = ?1 AND status IN ('pending', 'denied') AND expires > ?2
         ORDER BY created DESC LIMIT 1",
        rows::REQUEST
    );
    Ok(rows::requests(c, &sql, params![fingerprint, now])?.pop())
}

fn answer_request(c: &Connection, id: Uuid, answer: &AnswerRow, now: Millis) -> Result<Outcome> {
    let Some(request) = rows::request(c, id)? else { return refused(Conflict::NotFound) };
    if !is_pending(&request) || now >= request.expires {
        return refused(Conflict::RequestState(Box::new(request)));
    }
    if answer.kind == ObligationKind::Approval && request.requester_keys.contains(&answer.person) {
        return refused(Conflict::SelfApproval);
    }
    if request.answers.iter().any(|given| given.person == answer.person) {
        return refused(Conflict::AlreadyAnswered);
    }
    let sql = "INSERT INTO answer (request, n, person, principal, kind, granted, at, event, reason) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
    let values = params![
        id.as_bytes(),
        request.answers.len() as i64,
        answer.person,
        to_json(&answer.principal)?,
        to_word(&answer.kind)?,
        answer.granted,
        now,
        answer.event.as_bytes(),
        answer.reason,
    ];
    run(c, sql, values)?;
    if !answer.granted {
        set_status(c, id, RequestStatus::Denied, Some(answer.event))?;
    }
    Ok(Outcome::Done)
}

/// Ends a request that is ready for it.
fn end_request(
    c: &Connection,
    id: Uuid,
    ready: impl Fn(&RequestRow) -> bool,
    status: RequestStatus,
    closed_by: Option<Uuid>,
) -> Result<Outcome> {
    match rows::request(c, id)? {
        None => refused(Conflict::NotFound),
        Some(request) if !ready(&request) => refused(Conflict::RequestState(Box::new(request))),
        Some(_) => set_status(c, id, status, closed_by).map(|()| Outcome::Done),
    }
}

fn set_status(c: &Connection, id: Uuid, status: RequestStatus, closed_by: Option<Uuid>) -> Result<()> {
    let sql = "UPDATE request SET status = ?2, closed_by = coalesce(?3, closed_by) WHERE id = ?1";
    run(c, sql, params![id.as_bytes(), to_word(&status)?, closed_by.as_ref().map(|id| id.as_bytes())]).map(drop)
}

fn close_request(c: &Connection, id: Uuid, closed_by: Uuid) -> Result<Outcome> {
    found(run(c, "UPDATE request SET closed_by = ?2 WHERE id = ?1", params![id.as_bytes(), closed_by.as_bytes()])?)
}

fn idempotency_begin(c: &Connection, row: &IdempotencyRow, now: Millis) -> Result<Outcome> {
    if let Some(first) = rows::idempotency(c, &row.scope)? {
        let settled = matches!(first.state, IdempotencyState::Done | IdempotencyState::Pending);
        if !settled || now < first.expires {
            return refused(Conflict::IdempotencyExists(Box::new(first)));
        }
    }
    let sql = "INSERT OR REPLACE INTO idempotency (scope, fingerprint, state, call, answer, expires) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    let values =
        params![row.scope, row.fingerprint, to_word(&row.state)?, row.call.as_bytes(), row.answer, row.expires];
    run(c, sql, values).map(|_| Outcome::Done)
}

fn intent_open(c: &Connection, row: &IntentRow) -> Result<Outcome> {
    let sql = "SELECT call FROM intent WHERE fingerprint = ?1 AND state = 'unknown' LIMIT 1";
    let earlier = c.prepare_cached(sql)?.query_row(params![row.fingerprint], |r| rows::uuid(r, 0)).optional()?;
    if let Some(call) = earlier {
        return refused(Conflict::OutcomeUnknown { call });
    }
    let sql = "INSERT INTO intent (call, workspace, principal, tool, pin, effect, fingerprint, event, state, at, \
               idempotency) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";
    let values = params![
        row.call.as_bytes(),
        row.workspace.as_str(),
        to_json(&row.principal)?,
        row.tool.to_string(),
        row.pin.0,
        row.effect.as_str(),
        row.fingerprint,
        row.event.as_bytes(),
        to_word(&row.state)?,
        row.at,
        row.idempotency,
    ];
    run(c, sql, values).map(|_| Outcome::Done)
}

fn intent_unknown(c: &Connection, call: Uuid) -> Result<Outcome> {
    if run(c, "UPDATE intent SET state = 'unknown' WHERE call = ?1 AND state = 'open'", params![call.as_bytes()])? == 0
    {
        return refused(Conflict::NotFound);
    }
    let sql = "UPDATE idempotency SET state = 'unknown' WHERE scope = (SELECT idempotency FROM intent WHERE call = ?1)";
    run(c, sql, params![call.as_bytes()]).map(|_| Outcome::Done)
}

/// What was used of a budget in the period that began then.
pub(super) fn budget_used(c: &Connection, key: &BudgetKey, start: Millis) -> Result<u64> {
    let sql = "SELECT used FROM budget WHERE budget = ?1 AND workspace = ?2 AND principal = ?3 AND start = ?4";
    let values = params![key.budget, key.workspace.as_str(), key.principal, start];
    Ok(c.prepare_cached(sql)?.query_row(values, |r| r.get(0)).optional()?.unwrap_or(0))
}

fn budget_spend(
    c: &Connection,
    key: &BudgetKey,
    (start, end): (Millis, Millis),
    amount: u64,
    limit: u64,
    now: Millis,
) -> Result<Outcome> {
    let used = budget_used(c, key, start)?;
    let current = start <= now.saturating_add(CLOCK_SLACK) && now < end.saturating_add(CLOCK_SLACK);
    let sum = used.checked_add(amount).filter(|sum| *sum <= limit && current);
    let Some(sum) = sum else {
        return refused(Conflict::BudgetSpent { key: key.clone(), used, limit, until: end });
    };
    let sql = "INSERT INTO budget (budget, workspace, principal, start, ends, used) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
               ON CONFLICT (budget, workspace, principal, start) DO UPDATE SET used = ?6";
    let values = params![key.budget, key.workspace.as_str(), key.principal, start, end, sum];
    run(c, sql, values).map(|_| Outcome::Done)
}

/// Until when a pause lasts, if there is or was one.
pub(super) fn cooldown(c: &Connection, key: &Fingerprint) -> Result<Option<Millis>> {
    let sql = "SELECT until FROM cooldown WHERE key = ?1";
    c.prepare_cached(sql)?.query_row(params![key], |r| r.get(0)).optional()
}

fn cooldown_begin(c: &Connection, key: &Fingerprint, pause: u64, now: Millis) -> Result<Outcome> {
    if let Some(until) = cooldown(c, key)?.filter(|until| now < *until) {
        return refused(Conflict::CoolingDown { until });
    }
    let sql = "INSERT OR REPLACE INTO cooldown (key, until) VALUES (?1, ?2)";
    run(c, sql, params![key, now.saturating_add(pause)]).map(|_| Outcome::Done)
}

fn require_not_frozen(c: &Connection, targets: &[FreezeTarget]) -> Result<Outcome> {
    // Nearly always nothing is frozen: one look instead of one for each target.
    if !c.prepare_cached("SELECT 1 FROM freeze LIMIT 1")?.exists([])? {
        return Ok(Outcome::Done);
    }
    let mut statement =
        c.prepare_cached("SELECT kind, name, reason, at, event FROM freeze WHERE kind = ?1 AND name = ?2")?;
    for target in targets {
        let (kind, name) = rows::target(target);
        if let Some(row) = statement.query_row(params![kind, name], rows::freeze).optional()? {
            return refused(Conflict::Frozen(row));
        }
    }
    Ok(Outcome::Done)
}

fn put_pin(c: &Connection, row: &PinRow, status: &str) -> Result<Outcome> {
    let sql = "INSERT INTO pin (tool, status, pin, definition, at, accepted_by) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
               ON CONFLICT (tool, status) DO UPDATE SET pin = ?3, definition = ?4, at = ?5, accepted_by = ?6";
    let values = params![row.tool.to_string(), status, row.pin.0, row.definition, row.at, row.by];
    run(c, sql, values).map(|_| Outcome::Done)
}

fn pin_accept(c: &Connection, row: &PinRow) -> Result<Outcome> {
    let tool = row.tool.to_string();
    let known = c.prepare_cached("SELECT 1 FROM pin WHERE tool = ?1 AND pin = ?2")?.exists(params![tool, row.pin.0])?;
    if !known {
        return refused(Conflict::NotFound);
    }
    put_pin(c, row, "accepted")?;
    drop_proposal(c, &tool)
}

fn drop_proposal(c: &Connection, tool: &str) -> Result<Outcome> {
    run(c, "DELETE FROM pin WHERE tool = ?1 AND status = 'proposed'", params![tool]).map(|_| Outcome::Done)
}

/// The events that explain shards and erasures stay: without them nobody could tell an erasure from a loss.
fn erase(c: &Connection, event: Uuid) -> Result<Outcome> {
    let sql = "UPDATE event SET salt = NULL, detail_salt = NULL, body = NULL \
               WHERE id = ?1 AND body IS NOT NULL AND kind NOT IN ('log.opened', 'event.erased')";
    if run(c, sql, params![event.as_bytes()])? == 0 {
        return refused(Conflict::NotFound);
    }
    let sql = "DELETE FROM decision WHERE call = (SELECT call FROM event WHERE id = ?1)";
    run(c, sql, params![event.as_bytes()]).map(|_| Outcome::Done)
}

fn count_refusals(c: &Connection, minute: u64, counts: &[(String, u64)]) -> Result<Outcome> {
    let sql = "INSERT INTO refusal (minute, name, count) VALUES (?1, ?2, ?3)
               ON CONFLICT (minute, name) DO UPDATE SET count = count + ?3";
    for (name, count) in counts {
        run(c, sql, params![minute, name, count])?;
    }
    Ok(Outcome::Done)
}
