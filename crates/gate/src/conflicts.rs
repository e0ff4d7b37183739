//! What callers learn of a conflict: somebody else was there first, or what they rely on is not so any more.

use countersign_domain::{Refusal, RefusalKind};
use countersign_ledger::state::{Conflict, IdempotencyState, RequestRow};
use uuid::Uuid;

use crate::{budgets, frozen};

pub(crate) fn in_flight(call: Uuid) -> Refusal {
    let mut refusal = Refusal::new(
        RefusalKind::IdempotencyInFlight,
        "the first call with this key is still running; ask again shortly",
    );
    refusal.retry_after = Some(1);
    refusal.with("call", call.to_string())
}

pub(crate) fn unknown(call: Uuid) -> Refusal {
    let detail = format!(
        "an identical call ({call}) was sent and its outcome is not known; an operator settles it with `countersign unknown resolve {call}`"
    );
    Refusal::new(RefusalKind::OutcomeUnknown, detail).with("call", call.to_string())
}

pub(crate) fn already_redeemed(row: &RequestRow) -> Refusal {
    let refusal = Refusal::new(
        RefusalKind::AlreadyRedeemed,
        "this request was executed already; its outcome is in the event that `executed_as` names",
    );
    match row.closed_by {
        Some(event) => refusal.with("executed_as", event.to_string()),
        None => refusal,
    }
}

pub(crate) fn withdrawn() -> Refusal {
    Refusal::new(RefusalKind::Cancelled, "the caller withdrew this request; invoke the tool again to ask anew")
}

pub(crate) fn denied_by(row: &RequestRow) -> Refusal {
    let no = row.answers.iter().find(|a| !a.granted);
    let who = no.map_or("a person", |a| a.principal.id.as_str());
    let why = no.and_then(|a| a.reason.as_deref()).map(|r| format!(": {r}")).unwrap_or_default();
    Refusal::new(RefusalKind::ApprovalDenied, format!("{who} denied this call{why}")).with("denied_until", row.expires)
}

/// A conflict of the intent's transaction, as the caller learns it.
pub(crate) fn refusal(conflict: Conflict) -> Refusal {
    use countersign_ledger::state::RequestStatus as S;
    match conflict {
        Conflict::OutcomeUnknown { call } => unknown(call),
        Conflict::Frozen(row) => frozen::refusal(&row),
        Conflict::IdempotencyExists(row) if row.state == IdempotencyState::Unknown => unknown(row.call),
        Conflict::IdempotencyExists(row) => in_flight(row.call),
        Conflict::RequestState(row) | Conflict::RequestExists(row) => match row.status {
            S::Redeemed => already_redeemed(&row),
            S::Denied => denied_by(&row),
            S::Pending | S::Expired => {
                Refusal::new(RefusalKind::ApprovalExpired, "nobody agreed in time; invoke the tool again to ask anew")
            }
            S::Revoked => Refusal::new(RefusalKind::Frozen, "the request was revoked by a freeze"),
            S::Withdrawn => withdrawn(),
        },
        Conflict::TooManyOpen { open } => {
            let detail = format!("{open} of your requests wait for people; let them be answered, or expire, first");
            Refusal::new(RefusalKind::TooManyPending, detail)
        }
        Conflict::BudgetSpent { key, used, limit, until } => budgets::exhausted(&key.budget, used, limit, until),
        Conflict::CoolingDown { until } => budgets::cooling_down(until),
        Conflict::AlreadyAnswered => Refusal::new(RefusalKind::NotOpen, "you have answered this request already"),
        Conflict::SelfApproval => {
            Refusal::new(RefusalKind::SelfApproval, "who asks can't approve; another person has to")
        }
        Conflict::NotFound | Conflict::Witnessed => Refusal::new(RefusalKind::NotFound, "there is no such thing"),
        Conflict::Exists => Refusal::new(RefusalKind::AlreadyExists, "there is one of that name already"),
        Conflict::HoldChanged => Refusal::new(
            RefusalKind::AlreadyExists,
            "the legal hold of the version before was changed meanwhile; send it again",
        ),
        Conflict::Full { cap } => {
            Refusal::new(RefusalKind::TooMany, format!("there are {cap} already, the most there may be"))
        }
    }
}
