//! People's part: opening a request, showing it to those who may answer, taking their answers, ending it.

use std::collections::BTreeMap;
use std::sync::Arc;

use countersign_catalog::visible_line;
use countersign_domain::{EventType, ObligationKind, Obligations, Principal, PrincipalKind, Refusal, RefusalKind};
use countersign_ledger::Append;
use countersign_ledger::state::{
    AnswerRow, Conflict, Fingerprint, IdempotencyRow, IdempotencyState, RequestRow, RequestStatus, StateOp,
};
use countersign_proof::canonical::Limits;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::api::{AnswerView, ApprovalView, CallOutcome, PendingCall, Redeem};
use crate::conflicts::{self, denied_by};
use crate::flow::{Standing, action_token, call_fingerprint};
use crate::frozen;
use crate::gate::{AppendFailure, Gate};
use crate::keyring::WorkspaceKeys;
use crate::record::{Facts, reason};
use crate::stages::Limited;
use crate::upstream::Mute;

/// The longest reason that a person may give.
const MAX_REASON_CHARS: usize = 1_000;
/// The role that may look at every request and event of its workspace.
pub const AUDITOR: &str = "auditor";
/// May read the node's metrics, and nothing else.
pub const METRICS: &str = "metrics";
/// The role that administers the node.
pub const OPERATOR: &str = "operator";

/// What is kept, sealed, of a pending call: the exact argument bytes, and what is needed to authorise it again.
#[derive(Serialize, Deserialize)]
pub(crate) struct Kept {
    pub arguments: Box<RawValue>,
    kind: PrincipalKind,
    roles: Vec<String>,
    scopes: Vec<String>,
    attributes: BTreeMap<String, String>,
}

fn kept_purpose(request: Uuid) -> Vec<u8> {
    [b"pending|".as_slice(), request.as_bytes()].concat()
}

impl Gate {
    /// Opens a request for what is owed, or attaches to the identical one that is open.
    pub(crate) async fn open_request(
        &self,
        limited: Limited,
        keys: &WorkspaceKeys,
        idempotency: Option<(Fingerprint, Fingerprint)>,
    ) -> Result<CallOutcome, Refusal> {
        let facts = &limited.resolved().facts;
        let row = self.new_request(&limited, keys)?;
        let draft = facts
            .draft(EventType::CallPending, row.created, None)
            .with("owed", json!(row.owed))
            .with("expires", row.expires);
        let mut row = row;
        row.event = draft.id;
        let mut ops =
            vec![StateOp::RequireNotFrozen { targets: frozen::targets(&limited.resolved().principal, &row.tool) }];
        ops.extend(Self::keep_decision(facts, row.event, keys));
        ops.push(StateOp::OpenRequest { row: Box::new(row.clone()), cap: self.settings.open_requests });
        ops.extend(self.take_key(idempotency, row.id, row.expires));
        let entry = facts.entry(draft, None)?;
        match self.append(Append { events: vec![entry], ops, ..Append::default() }).await {
            Ok(_) => Ok(CallOutcome::Pending(self.pending_call(&row, keys))),
            Err(AppendFailure::Refused(refusal)) => Err(refusal),
            Err(AppendFailure::Conflict(Conflict::RequestExists(existing))) => {
                self.attach(facts, *existing, keys, idempotency).await
            }
            Err(AppendFailure::Conflict(conflict)) => Err(self.refuse(facts, conflicts::refusal(conflict), None).await),
        }
    }

    /// An identical request is there already: the caller waits for that one.
    async fn attach(
        &self,
        facts: &Facts,
        existing: RequestRow,
        keys: &WorkspaceKeys,
        idempotency: Option<(Fingerprint, Fingerprint)>,
    ) -> Result<CallOutcome, Refusal> {
        if existing.status == RequestStatus::Denied {
            return Err(self.refuse(facts, denied_by(&existing), Some(existing.event)).await);
        }
        let ops: Vec<StateOp> = self.take_key(idempotency, existing.id, existing.expires).collect();
        if !ops.is_empty() {
            match self.append(Append { events: vec![], ops, ..Append::default() }).await {
                // The same key for the same request: a repetition.
                Ok(_) | Err(AppendFailure::Conflict(Conflict::IdempotencyExists(_))) => {}
                Err(failure) => return Err(failure.unexpected()),
            }
        }
        Ok(CallOutcome::Pending(self.pending_call(&existing, keys)))
    }

    fn take_key(
        &self,
        idempotency: Option<(Fingerprint, Fingerprint)>,
        call: Uuid,
        until: u64,
    ) -> impl Iterator<Item = StateOp> {
        let expires = until.max(self.keep_until());
        let row = idempotency.map(|(scope, fingerprint)| IdempotencyRow {
            scope,
            fingerprint,
            state: IdempotencyState::Pending,
            call,
            answer: None,
            expires,
        });
        row.map(|row| StateOp::IdempotencyBegin { row }).into_iter()
    }

    fn new_request(&self, limited: &Limited, keys: &WorkspaceKeys) -> Result<RequestRow, Refusal> {
        let authorised = &limited.0;
        let resolved = limited.resolved();
        let (facts, principal) = (&resolved.facts, &resolved.principal);
        let internal = || Refusal::new(RefusalKind::Internal, "the request could not be kept");
        let text = String::from_utf8(resolved.raw.clone()).map_err(|_| internal())?;
        let kept = Kept {
            arguments: RawValue::from_string(text).map_err(|_| internal())?,
            kind: principal.kind,
            roles: principal.roles.iter().cloned().collect(),
            scopes: principal.scopes.iter().cloned().collect(),
            attributes: principal.attributes.clone(),
        };
        let plain = serde_json::to_vec(&kept).map_err(|_| internal())?;
        let pin = facts.pin.ok_or_else(internal)?;
        let created = self.now();
        Ok(RequestRow {
            id: facts.call,
            workspace: facts.workspace.clone(),
            requester: principal.caller_key(),
            requester_keys: principal.requester_keys(),
            person_key: principal.person_key(),
            principal: facts.principal.clone(),
            tool: facts.tool.clone(),
            effect: resolved.tool.effect,
            pin,
            fingerprint: call_fingerprint(
                keys,
                &principal.caller_key(),
                &facts.tool,
                &pin,
                &limited.validated().canonical,
            ),
            arguments: keys.seal(&kept_purpose(facts.call), &plain).map_err(|_| internal())?,
            owed: authorised.owed.clone(),
            policy_version: authorised.policy_version.clone(),
            status: RequestStatus::Pending,
            created,
            expires: created + authorised.owed.expires_seconds * 1000,
            event: Uuid::nil(),
            answers: vec![],
            closed_by: None,
            execute_on_approval: resolved.tool.execute_on_approval,
        })
    }

    pub(crate) fn kept(&self, row: &RequestRow, keys: &WorkspaceKeys) -> Result<Kept, Refusal> {
        let gone =
            || Refusal::new(RefusalKind::Internal, "the request's arguments can't be read; invoke the tool again");
        let plain = keys.open(&kept_purpose(row.id), &row.arguments).map_err(|e| {
            tracing::error!(error = %e, request = %row.id, "sealed arguments do not open");
            gone()
        })?;
        serde_json::from_slice(&plain).map_err(|_| gone())
    }

    pub(crate) fn pending_call(&self, row: &RequestRow, keys: &WorkspaceKeys) -> PendingCall {
        let given = |kind| row.answers.iter().filter(|a| a.granted && a.kind == kind).count() as u32;
        PendingCall {
            request_id: row.id,
            action_token: action_token(keys, row),
            expires_at: row.expires,
            owed: row.owed.clone(),
            given: given(ObligationKind::Approval),
            confirmed: given(ObligationKind::Confirm) > 0,
            receipt: row.event,
        }
    }

    /// The requests that this caller may see, newest first: its own, those that it could answer, and for auditors and
    /// operators all of the workspace.
    ///
    /// # Errors
    /// If the ledger is away.
    pub async fn approvals(
        &self,
        principal: &Principal,
        status: Option<RequestStatus>,
        before: Option<Uuid>,
        limit: u32,
    ) -> Result<Vec<ApprovalView>, Refusal> {
        let workspace = principal.workspace.clone();
        let rows = self.read(move |r| r.requests(Some(&workspace), status, before, limit.clamp(1, 1000))).await?;
        let keys = self.keys(&principal.workspace).await?;
        let seen = rows.into_iter().filter(|row| may_see(principal, row));
        Ok(seen.map(|row| self.view(principal, &row, &keys)).collect())
    }

    /// One request.
    ///
    /// # Errors
    /// [`RefusalKind::NotFound`] where there is none that the caller may see.
    pub async fn approval(&self, principal: &Principal, id: Uuid) -> Result<ApprovalView, Refusal> {
        let row = self.seen_request(principal, id).await?;
        let keys = self.keys(&principal.workspace).await?;
        Ok(self.view(principal, &row, &keys))
    }

    async fn seen_request(&self, principal: &Principal, id: Uuid) -> Result<RequestRow, Refusal> {
        let row = self.read(move |r| r.request(id)).await?;
        let row = row.filter(|row| row.workspace == principal.workspace && may_see(principal, row));
        row.ok_or_else(|| Refusal::new(RefusalKind::NotFound, "there is no such request that you may see"))
    }

    fn view(&self, principal: &Principal, row: &RequestRow, keys: &WorkspaceKeys) -> ApprovalView {
        let arguments =
            self.kept(row, keys).ok().and_then(|kept| serde_json::from_str::<Value>(kept.arguments.get()).ok());
        let arguments = arguments.unwrap_or(Value::Null);
        let (can_answer, cannot_answer) = match self.answerable(principal, row) {
            Ok(kinds) => (kinds, None),
            Err(refusal) => (vec![], Some(refusal.detail)),
        };
        let expired = row.status == RequestStatus::Pending && row.expires <= self.now();
        ApprovalView {
            id: row.id,
            status: if expired { RequestStatus::Expired } else { row.status },
            tool: row.tool.to_string(),
            effect: row.effect,
            pin: row.pin,
            principal: row.principal.clone(),
            preview: preview(&arguments),
            arguments,
            owed: row.owed.clone(),
            answers: row.answers.iter().map(answer_view).collect(),
            created_at: row.created,
            expires_at: row.expires,
            can_answer,
            cannot_answer,
            receipt: row.event,
            closed_by: row.closed_by,
        }
    }

    /// Which obligations of this request the caller could answer now.
    fn answerable(&self, principal: &Principal, row: &RequestRow) -> Result<Vec<ObligationKind>, Refusal> {
        // An agent acting for a person never answers: the answer would be something that the agent could have typed.
        if principal.kind != PrincipalKind::Person || principal.on_behalf_of.is_some() {
            return Err(Refusal::new(RefusalKind::Forbidden, "only a person, with a token of their own, can answer"));
        }
        match self.standing(row) {
            Standing::Open => {}
            Standing::Redeemed => return Err(Refusal::new(RefusalKind::NotOpen, "the call was executed already")),
            Standing::Over(refusal) => return Err(Refusal::new(RefusalKind::NotOpen, refusal.detail)),
        }
        let key = principal.key();
        if row.answers.iter().any(|a| a.person == key) {
            return Err(Refusal::new(RefusalKind::NotOpen, "you have answered this request already"));
        }
        let mut kinds = Vec::new();
        if row.owed.confirm && row.person_key.as_ref() == Some(&key) {
            kinds.push(ObligationKind::Confirm);
        }
        let is_requester = row.requester_keys.contains(&key);
        if row.owed.approvals > 0 && !is_requester && row.owed.accepts_roles(&principal.roles) {
            kinds.push(ObligationKind::Approval);
        }
        match (kinds.is_empty(), is_requester) {
            (false, _) => Ok(kinds),
            (true, true) => {
                Err(Refusal::new(RefusalKind::SelfApproval, "who asks can't approve; another person has to"))
            }
            (true, false) => Err(Refusal::new(RefusalKind::Forbidden, needed_roles(&row.owed))),
        }
    }

    /// Records a person's answer; a refusal ends the request, the last missing agreement wakes the requester.
    ///
    /// # Errors
    /// A typed refusal, itself recorded.
    pub async fn answer(
        self: &Arc<Self>,
        principal: &Arc<Principal>,
        id: Uuid,
        grant: bool,
        why: Option<String>,
    ) -> Result<ApprovalView, Refusal> {
        let row = self.seen_request(principal, id).await?;
        let facts = self.facts_of(principal, &row);
        if why.as_ref().is_some_and(|w| w.chars().count() > MAX_REASON_CHARS) {
            return Err(Refusal::new(
                RefusalKind::TooLarge,
                format!("a reason has at most {MAX_REASON_CHARS} characters"),
            ));
        }
        let kinds = match self.answerable(principal, &row) {
            Ok(kinds) => kinds,
            Err(refusal) => return Err(self.refuse(&facts, refusal, Some(row.event)).await),
        };
        let kind = kinds[0];
        let event_type = if grant { EventType::ApprovalGranted } else { EventType::ApprovalDenied };
        let draft = facts
            .draft(event_type, self.now(), Some(row.event))
            .with("obligation", json!(kind))
            .with("reason_given", why.clone());
        let answer = AnswerRow {
            person: principal.key(),
            principal: principal.record(),
            kind,
            granted: grant,
            at: self.now(),
            event: draft.id,
            reason: why,
        };
        let entry = facts.entry(draft, None)?;
        match self
            .append(Append {
                events: vec![entry],
                ops: vec![StateOp::Answer { request: id, answer }],
                ..Append::default()
            })
            .await
        {
            Ok(_) => {}
            Err(AppendFailure::Refused(refusal)) => return Err(refusal),
            Err(AppendFailure::Conflict(conflict)) => {
                return Err(self.refuse(&facts, conflicts::refusal(conflict), Some(row.event)).await);
            }
        }
        self.waiters.notify(id);
        let row = self.seen_request(principal, id).await?;
        if row.execute_on_approval && row.is_met() && row.status == RequestStatus::Pending {
            self.execute_approved(&row).await;
        }
        let keys = self.keys(&principal.workspace).await?;
        Ok(self.view(principal, &row, &keys))
    }

    /// The manifest's opt-in: the call executes as soon as nothing is owed, in the requester's name.
    async fn execute_approved(self: &Arc<Self>, row: &RequestRow) {
        let Ok(keys) = self.keys(&row.workspace).await else { return };
        let Ok(kept) = self.kept(row, &keys) else { return };
        let requester = Arc::new(Principal {
            kind: kept.kind,
            id: row.principal.id.clone(),
            issuer: row.principal.issuer.clone(),
            on_behalf_of: row.principal.on_behalf_of.clone(),
            workspace: row.workspace.clone(),
            roles: kept.roles.into_iter().collect(),
            scopes: kept.scopes.into_iter().collect(),
            development: row.principal.development,
            attributes: kept.attributes,
        });
        let (gate, id) = (Arc::clone(self), row.id);
        tokio::spawn(async move {
            let outcome = gate.redeem(&requester, Redeem::Request(id), "execute-on-approval", Arc::new(Mute)).await;
            if let Err(refusal) = outcome {
                tracing::warn!(request = %id, %refusal, "an approved call was not executed");
            }
            gate.waiters.notify(id);
        });
    }

    /// What an event about somebody's answer says of the request: the answerer is the principal, the call is the request.
    fn facts_of(&self, principal: &Principal, row: &RequestRow) -> Facts {
        let mut facts = Facts::new(row.id, principal, &row.tool, "");
        facts.workspace = row.workspace.clone();
        facts.effect = Some(row.effect);
        facts.pin = Some(row.pin);
        facts
    }

    /// Closes what nobody answered in time.
    pub(crate) async fn expire_requests(&self) -> Result<(), Refusal> {
        let now = self.now();
        let rows = self.read(move |r| r.expired_requests(now, 500)).await?;
        for row in rows {
            let refusal = Refusal::new(RefusalKind::ApprovalExpired, "nobody agreed in time");
            self.close(&row, EventType::ApprovalExpired, &refusal, |closed_by| StateOp::Expire {
                request: row.id,
                closed_by,
            })
            .await?;
        }
        Ok(())
    }

    /// Revokes the open requests that a freeze touches.
    pub(crate) async fn revoke_requests(&self, touched: impl Fn(&RequestRow) -> bool) -> Result<u64, Refusal> {
        let (mut revoked, mut before) = (0, None);
        loop {
            let page = self.read(move |r| r.requests(None, Some(RequestStatus::Pending), before, 500)).await?;
            before = page.last().map(|row| row.id);
            for row in page.iter().filter(|row| touched(row)) {
                let refusal = Refusal::new(RefusalKind::Frozen, "revoked by a freeze");
                self.close(row, EventType::ApprovalRevoked, &refusal, |closed_by| StateOp::Revoke {
                    request: row.id,
                    closed_by,
                })
                .await?;
                revoked += 1;
            }
            if page.len() < 500 {
                return Ok(revoked);
            }
        }
    }

    async fn close(
        &self,
        row: &RequestRow,
        kind: EventType,
        why: &Refusal,
        op: impl Fn(Uuid) -> StateOp,
    ) -> Result<(), Refusal> {
        let facts = self.facts_of(&Principal::node(), row);
        let draft = facts.draft(kind, self.now(), Some(row.event)).with("reason", reason(why));
        let op = op(draft.id);
        let entry = facts.entry(draft, None)?;
        match self.append(Append { events: vec![entry], ops: vec![op], ..Append::default() }).await {
            // Answered, redeemed or closed in between: that stands.
            Ok(_) | Err(AppendFailure::Conflict(_)) => {}
            Err(AppendFailure::Refused(refusal)) => return Err(refusal),
        }
        self.waiters.notify(row.id);
        Ok(())
    }
}

fn may_see(principal: &Principal, row: &RequestRow) -> bool {
    let key = principal.key();
    // An agent that acts for an operator is not the operator.
    let holds = |role: &str| principal.on_behalf_of.is_none() && principal.roles.contains(role);
    let is_staff = holds(AUDITOR) || holds(OPERATOR);
    let is_person = principal.kind == PrincipalKind::Person && principal.on_behalf_of.is_none();
    is_staff
        || row.requester == principal.caller_key()
        || row.person_key.as_ref() == Some(&key)
        || row.answers.iter().any(|a| a.person == key)
        || (is_person && row.owed.approvals > 0 && row.owed.accepts_roles(&principal.roles))
}

fn needed_roles(owed: &Obligations) -> String {
    if owed.approvals == 0 {
        return "only the person on whose behalf the call is made can confirm it".to_owned();
    }
    let sets = owed.approver_roles.iter().filter(|set| !set.is_empty());
    let words: Vec<String> = sets.map(|set| set.iter().cloned().collect::<Vec<_>>().join(" or ")).collect();
    format!("an approver needs the role {}", words.join(", and "))
}

fn answer_view(answer: &AnswerRow) -> AnswerView {
    AnswerView {
        principal: answer.principal.clone(),
        kind: answer.kind,
        granted: answer.granted,
        at: answer.at,
        reason: answer.reason.clone(),
        receipt: answer.event,
    }
}

/// The arguments for a person: a line per member, everything hidden made visible, nothing shortened.
pub fn preview(arguments: &Value) -> String {
    let Value::Object(members) = arguments else { return visible_line(&arguments.to_string()).into_owned() };
    let line = |(name, value): (&String, &Value)| {
        let value = match value {
            Value::String(text) => format!("\"{}\"", visible_line(text)),
            other => visible_line(&other.to_string()).into_owned(),
        };
        format!("{}: {value}", visible_line(name))
    };
    members.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Bounds on stored argument values when they are read back for a person.
pub(crate) const READ_BACK: Limits = Limits { max_bytes: 4 << 20, max_depth: 128 };
