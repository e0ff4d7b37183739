//! A pending call as something that its requester follows and may withdraw: what the tasks of MCP show of it.
//!
//! Nothing is kept for it. The request, and after it the recorded answer, are all there is, so any node can say how it stands.

use std::sync::Arc;

use countersign_domain::{EventType, Millis, Principal, Refusal, RefusalKind, ToolRef};
use countersign_ledger::Append;
use countersign_ledger::state::{Conflict, IdempotencyState, RequestRow, RequestStatus, StateOp};
use uuid::Uuid;

use crate::api::PendingCall;
use crate::conflicts::{already_redeemed, unknown};
use crate::flow::{Standing, request_scope};
use crate::gate::{AppendFailure, Gate};
use crate::record::{Facts, reason};

/// How a pending call stands for its requester.
#[derive(Debug)]
pub enum TaskState {
    /// People have to agree first.
    Waiting(Box<PendingCall>),
    /// Nothing is owed any more: it can be redeemed.
    Met(Box<PendingCall>),
    /// It was redeemed and has no outcome yet.
    Running,
    /// Its answer is recorded; redeeming it again gives that.
    Done,
    /// Denied, expired, frozen, or without a known outcome.
    Over(Refusal),
    /// Withdrawn by its requester.
    Withdrawn,
}

/// A pending call with its times.
#[derive(Debug)]
pub struct TaskView {
    /// The request.
    pub id: Uuid,
    /// How it stands.
    pub state: TaskState,
    /// When it was asked.
    pub created: Millis,
    /// When it last changed, as far as that can be told.
    pub updated: Millis,
    /// Until when an answer would be kept.
    pub kept_until: Millis,
}

impl Gate {
    /// How this caller's request stands; `None` if it has no such request. Counts against the caller's own rate, and is no
    /// event: nothing is asked of anybody.
    ///
    /// # Errors
    /// A limit, or the ledger is away.
    pub async fn task(
        self: &Arc<Self>,
        principal: &Principal,
        id: Uuid,
        correlation: &str,
    ) -> Result<Option<TaskView>, Refusal> {
        let facts = Facts::new(id, principal, &asked(), correlation);
        let _place = self.enter_call(principal, &facts).await?;
        let Some(row) = self.own_request(principal, id).await? else { return Ok(None) };
        let keys = self.keys(&principal.workspace).await?;
        let state = match self.standing(&row) {
            Standing::Open => {
                let pending = Box::new(self.pending_call(&row, &keys));
                if row.is_met() { TaskState::Met(pending) } else { TaskState::Waiting(pending) }
            }
            Standing::Over(_) if row.status == RequestStatus::Withdrawn => TaskState::Withdrawn,
            Standing::Over(refusal) => TaskState::Over(refusal),
            Standing::Redeemed => {
                let scope = request_scope(&keys, row.id);
                match self.read(move |r| r.idempotency(&scope)).await?.map(|kept| kept.state) {
                    Some(IdempotencyState::Done) => TaskState::Done,
                    Some(IdempotencyState::InFlight | IdempotencyState::Pending) => TaskState::Running,
                    Some(IdempotencyState::Unknown) => TaskState::Over(unknown(row.id)),
                    None => TaskState::Over(already_redeemed(&row)),
                }
            }
        };
        let answered = row.answers.iter().map(|answer| answer.at);
        let updated = answered.chain(row.closed_by.and_then(time_of)).fold(row.created, Millis::max);
        let kept_until = row.expires + self.settings.idempotency_ttl.as_millis() as Millis;
        Ok(Some(TaskView { id, state, created: row.created, updated, kept_until }))
    }

    /// Ends a pending request in its requester's name. Nobody can answer or redeem it afterwards.
    ///
    /// # Errors
    /// [`RefusalKind::NotFound`], [`RefusalKind::NotOpen`], or the ledger is away.
    pub async fn withdraw(self: &Arc<Self>, principal: &Principal, id: Uuid, correlation: &str) -> Result<(), Refusal> {
        let facts = Facts::new(id, principal, &asked(), correlation);
        let _place = self.enter_call(principal, &facts).await?;
        let row = self.own_request(principal, id).await?;
        let row = row.ok_or_else(|| Refusal::new(RefusalKind::NotFound, "you have no such request"))?;
        let over = || Refusal::new(RefusalKind::NotOpen, "the request is over already");
        let facts = Facts { tool: row.tool.clone(), effect: Some(row.effect), pin: Some(row.pin), ..facts };
        if !matches!(self.standing(&row), Standing::Open) {
            return Err(over());
        }
        let why = Refusal::new(RefusalKind::Cancelled, "its requester withdrew it");
        let draft = facts.draft(EventType::ApprovalWithdrawn, self.now(), Some(row.event)).with("reason", reason(&why));
        let op = StateOp::Withdraw { request: id, closed_by: draft.id };
        let entry = facts.entry(draft, None)?;
        match self.append(Append { events: vec![entry], ops: vec![op], ..Append::default() }).await {
            Ok(_) => {
                self.waiters.notify(id);
                Ok(())
            }
            Err(AppendFailure::Conflict(Conflict::RequestState(_))) => Err(over()),
            Err(failure) => Err(failure.unexpected()),
        }
    }

    async fn own_request(&self, principal: &Principal, id: Uuid) -> Result<Option<RequestRow>, Refusal> {
        let row = self.read(move |r| r.request(id)).await?;
        Ok(row.filter(|row| row.workspace == principal.workspace && row.requester == principal.caller_key()))
    }
}

/// What a limit's event names before the request is known.
fn asked() -> ToolRef {
    ToolRef { upstream: crate::flow::own_upstream(), tool: "tasks".into() }
}

/// The time in an event's id.
fn time_of(event: Uuid) -> Option<Millis> {
    let (seconds, nanos) = event.get_timestamp()?.to_unix();
    Some(seconds * 1_000 + u64::from(nanos) / 1_000_000)
}
