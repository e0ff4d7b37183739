//! What operators and auditors do: review tools, freeze, settle unknown outcomes, erase, explain, read the ledger.
//!
//! Each change is an event in the same transaction. Reading is bounded to the caller's workspace; the node's own events are
//! for auditors and operators.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use countersign_catalog::scan::Rule;
use countersign_domain::principal::PrincipalRecord;
use countersign_domain::{Effect, EventDraft, EventType, Principal, Refusal, RefusalKind, ToolRef, WorkspaceName};
use countersign_ledger::contract::{EventPage, EventQuery, EventRow};
use countersign_ledger::state::{
    FreezeRow, FreezeTarget, IdempotencyState, IntentState, PinRow, PinStatus, RequestRow, StateOp,
};
use countersign_ledger::{Append, Disclose, ReceiptError};
use countersign_policy::{Explanation, Facts as PolicyFacts};
use countersign_proof::digest::Digest;
use countersign_proof::receipt::{Label, Receipt};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::api::{BudgetReport, ToolReport, UnknownCall};
use crate::approvals::{AUDITOR, METRICS, OPERATOR, READ_BACK};
use crate::breakers::BreakerReport;
use crate::findings::{standing, summary};
use crate::gate::{AppendFailure, Gate};
use crate::record;
use crate::registry::View;
use crate::stages;

const MAX_NOTE_CHARS: usize = 1_000;

impl Gate {
    /// Refuses unless the caller administers the node.
    ///
    /// # Errors
    /// [`RefusalKind::Forbidden`].
    pub fn require_operator(&self, principal: &Principal) -> Result<(), Refusal> {
        require(principal, &[OPERATOR])
    }

    /// Whether this principal may see what the node reports of itself: an operator, an auditor, or a collector of metrics.
    ///
    /// # Errors
    /// [`RefusalKind::Forbidden`].
    pub fn require_observer(&self, principal: &Principal) -> Result<(), Refusal> {
        require(principal, &[OPERATOR, AUDITOR, METRICS])
    }

    pub(crate) fn node_draft(&self, kind: EventType, principal: &Principal) -> EventDraft {
        EventDraft::new(record::event_id(), WorkspaceName::node(), kind, self.now()).by(principal)
    }

    pub(crate) async fn record_change(
        &self,
        draft: EventDraft,
        principal: &Principal,
        tool: Option<String>,
        ops: Vec<StateOp>,
    ) -> Result<Uuid, Refusal> {
        let id = draft.id;
        let entry = record::entry(draft, None, Some(principal.id.clone()), tool)?;
        match self.append(Append { events: vec![entry], ops, ..Append::default() }).await {
            Ok(_) => Ok(id),
            Err(AppendFailure::Conflict(conflict)) => Err(crate::conflicts::refusal(conflict)),
            Err(AppendFailure::Refused(refusal)) => Err(refusal),
        }
    }

    /// All tools with what waits for review.
    ///
    /// # Errors
    /// [`RefusalKind::Forbidden`] unless the caller is an operator or auditor.
    pub async fn tool_reports(&self, principal: &Principal) -> Result<Vec<ToolReport>, Refusal> {
        require(principal, &[OPERATOR, AUDITOR])?;
        let view = self.registry.view();
        let mut names: Vec<&ToolRef> = view.pins.iter().map(|p| &p.tool).collect();
        names.sort();
        names.dedup();
        let report = |tool: &ToolRef| {
            let row = |status| view.pins.iter().find(|p| p.tool == *tool && p.status == status);
            let (accepted, proposed) = (row(PinStatus::Accepted), row(PinStatus::Proposed));
            let value = |row: Option<&PinRow>| row.and_then(|p| serde_json::from_str(&p.definition).ok());
            ToolReport {
                name: tool.to_string(),
                kind: countersign_catalog::Kind::of(&tool.tool).as_str(),
                protocol: self.registry.protocol(&tool.upstream),
                accounts: self.registry.has_accounts(&tool.upstream),
                input_schema: accepted.and_then(|row| crate::registry::schema_of(tool, &row.definition)),
                mcp_name: view.mcp_name(tool).map(str::to_owned),
                effect: self.registry.settings(tool).map_or(Effect::Write, |s| s.effect),
                status: match (accepted, proposed) {
                    (Some(_), None) => "accepted",
                    (Some(_), Some(_)) => "changed",
                    (None, _) => "new",
                },
                accepted: accepted.map(|p| p.pin),
                proposed: proposed.map(|p| p.pin),
                definition: value(accepted),
                proposal: value(proposed),
                findings: view.findings.get(tool).cloned().unwrap_or_default(),
                scan: view.scanned.of_tool(tool).to_vec(),
                despite: match proposed {
                    Some(_) => self.unnamed_rules(&view, tool, &[]).into_iter().collect(),
                    None => Vec::new(),
                },
            }
        };
        Ok(names.into_iter().map(report).collect())
    }

    /// Lists an upstream's tools again, because an operator asks.
    ///
    /// # Errors
    /// As [`crate::registry::Registry::refresh_now`].
    pub async fn refresh_upstream(
        self: &Arc<Self>,
        principal: &Principal,
        upstream: &countersign_domain::UpstreamName,
    ) -> Result<(), Refusal> {
        self.require_operator(principal)?;
        let before = self.catalog_version();
        self.registry.refresh_now(upstream).await?;
        if self.catalog_version() != before {
            self.reload_policies().await;
        }
        Ok(())
    }

    /// The rules whose findings keep a tool's newest definition from being accepted, given those that were named.
    fn unnamed_rules(&self, view: &View, tool: &ToolRef, despite: &[Rule]) -> BTreeSet<Rule> {
        standing(view.scanned.of_tool(tool), self.registry.quarantine_at(), despite)
    }

    /// Accepts a tool's proposed definition by its pin, so that what was looked at is what is accepted. Grave findings of
    /// the scan have to be named in `despite`.
    ///
    /// # Errors
    /// If the pin is not the proposed one, if a grave finding is not named, or if the policies in force would no longer load
    /// with the new definition.
    pub async fn accept_tool(
        self: &Arc<Self>,
        principal: &Principal,
        tool: &ToolRef,
        pin: &Digest,
        despite: &[Rule],
    ) -> Result<Uuid, Refusal> {
        self.require_operator(principal)?;
        let view = self.registry.view();
        let row =
            view.pins.iter().find(|p| p.tool == *tool && p.status == PinStatus::Proposed && p.pin == *pin).cloned();
        let Some(mut row) = row else {
            let detail = format!(
                "{tool} has no proposed definition with the pin {pin}; look again with `countersign tools diff {tool}`"
            );
            return Err(Refusal::new(RefusalKind::NotFound, detail));
        };
        let unnamed: Vec<&str> = self.unnamed_rules(&view, tool, despite).into_iter().map(Rule::id).collect();
        if !unnamed.is_empty() {
            let detail = format!(
                "the definition of {tool} has grave findings that were not named: {}. Read them with `countersign tools show {tool}`; \
                 to accept it all the same, name each with `--despite RULE`",
                unnamed.join(", ")
            );
            return Err(Refusal::new(RefusalKind::Quarantined, detail).with("rules", json!(unnamed)));
        }
        let effect = self.registry.settings(tool).map_or(Effect::Write, |s| s.effect);
        self.check_policies_with(tool, effect, &row).await?;
        let before =
            view.pins.iter().find(|p| p.tool == *tool && p.status == PinStatus::Accepted).map(|p| p.pin.to_string());
        row.status = PinStatus::Accepted;
        row.at = self.now();
        row.by = Some(principal.key());
        let draft = self
            .node_draft(EventType::ToolAccepted, principal)
            .tool(tool, Some(pin), effect)
            .with("accepted_pin_before", before)
            .with("findings", summary(view.scanned.of_tool(tool)))
            .with("despite", (!despite.is_empty()).then(|| json!(despite)));
        let id = self.record_change(draft, principal, Some(tool.to_string()), vec![StateOp::PinAccept { row }]).await?;
        if let Err(why) = self.registry.rebuild().await {
            tracing::error!(%why, "the catalog could not be rebuilt");
        }
        self.reload_policies().await;
        Ok(id)
    }

    /// A set that is in force must still load; where none is, accepting tools is the way to get there.
    async fn check_policies_with(&self, tool: &ToolRef, effect: Effect, row: &PinRow) -> Result<(), Refusal> {
        if self.policies.current().is_none() {
            return Ok(());
        }
        let descriptions = self.registry.view().descriptions_with(tool, effect, &row.definition);
        let policies = Arc::clone(&self.policies);
        let checked = tokio::task::spawn_blocking(move || policies.would_load(&descriptions)).await;
        let Ok(Err(problems)) = checked else { return Ok(()) };
        let texts: Vec<String> = problems.iter().take(20).map(ToString::to_string).collect();
        let detail =
            format!("the policies would no longer load with this definition; change them first: {}", texts.join("; "));
        Err(Refusal::new(RefusalKind::PolicyError, detail).with("problems", json!(texts)))
    }

    /// Stops a principal, tool, upstream or workspace at once, and revokes its pending approvals.
    ///
    /// # Errors
    /// [`RefusalKind::Forbidden`] unless the caller is an operator.
    pub async fn freeze(&self, principal: &Principal, target: FreezeTarget, reason: &str) -> Result<Uuid, Refusal> {
        self.require_operator(principal)?;
        let reason: String = reason.chars().take(MAX_NOTE_CHARS).collect();
        let draft = self
            .node_draft(EventType::Frozen, principal)
            .with("target", json!(target))
            .with("reason_given", reason.as_str());
        let row = FreezeRow { target: target.clone(), reason, at: self.now(), event: draft.id };
        let id = self.record_change(draft, principal, None, vec![StateOp::Freeze { row }]).await?;
        self.reload_freezes().await?;
        let revoked = self.revoke_requests(|row| touches(&target, row)).await?;
        tracing::warn!(target = %crate::frozen::describe(&target), revoked, "frozen");
        Ok(id)
    }

    /// Lifts a freeze.
    ///
    /// # Errors
    /// [`RefusalKind::NotFound`] if it isn't frozen.
    pub async fn unfreeze(&self, principal: &Principal, target: FreezeTarget, reason: &str) -> Result<Uuid, Refusal> {
        self.require_operator(principal)?;
        let reason: String = reason.chars().take(MAX_NOTE_CHARS).collect();
        let draft =
            self.node_draft(EventType::Unfrozen, principal).with("target", json!(target)).with("reason_given", reason);
        let id = self.record_change(draft, principal, None, vec![StateOp::Unfreeze { target }]).await?;
        self.reload_freezes().await?;
        Ok(id)
    }

    /// Everything frozen.
    ///
    /// # Errors
    /// [`RefusalKind::Forbidden`] unless the caller is an operator or auditor.
    pub async fn freezes(&self, principal: &Principal) -> Result<Vec<FreezeRow>, Refusal> {
        require(principal, &[OPERATOR, AUDITOR])?;
        self.read(|r| r.freezes()).await
    }

    /// How the breakers stand that have seen a call.
    ///
    /// # Errors
    /// [`RefusalKind::Forbidden`] unless the caller is an operator or auditor.
    pub fn breakers(&self, principal: &Principal) -> Result<Vec<BreakerReport>, Refusal> {
        require(principal, &[OPERATOR, AUDITOR])?;
        Ok(self.breakers.reports(std::time::Instant::now()))
    }

    /// How many breakers of each upstream stand how, those of its tools apart: for the node's own accounts, without names of
    /// tools.
    pub fn breaker_counts(&self) -> BTreeMap<(String, bool, &'static str), u64> {
        let mut counts = BTreeMap::new();
        for report in self.breakers.reports(std::time::Instant::now()) {
            let (upstream, of_tool) = match report.name.split_once(':') {
                Some((upstream, _)) => (upstream.to_owned(), true),
                None => (report.name, false),
            };
            *counts.entry((upstream, of_tool, report.state)).or_insert(0) += 1;
        }
        counts
    }

    /// Which share of each budget the principal has used that used the most of it, in the periods that run now.
    ///
    /// # Errors
    /// If the ledger is away.
    pub async fn budget_shares(&self) -> Result<BTreeMap<String, f64>, Refusal> {
        let now = self.now();
        let names = self.settings.budgets.iter().flat_map(|budget| {
            let units = [("calls", budget.calls), ("cost", budget.cost)];
            units.into_iter().filter_map(|(unit, limit)| Some((format!("{}.{unit}", budget.name), limit?)))
        });
        let limits: BTreeMap<String, u64> = names.collect();
        let mut shares: BTreeMap<String, f64> = limits.keys().map(|name| (name.clone(), 0.0)).collect();
        if limits.is_empty() {
            return Ok(shares);
        }
        for row in self.read(move |r| r.budgets(now)).await? {
            if let (Some(limit), Some(share)) = (limits.get(&row.key.budget), shares.get_mut(&row.key.budget)) {
                // A share of a number beyond 2^53 need not be exact.
                *share = share.max(row.used as f64 / (*limit).max(1) as f64);
            }
        }
        Ok(shares)
    }

    /// Closes a breaker of this node: the next call is let through.
    ///
    /// # Errors
    /// [`RefusalKind::NotFound`] if no call went through it.
    pub async fn reset_breaker(&self, principal: &Principal, name: &str, reason: &str) -> Result<Uuid, Refusal> {
        self.require_operator(principal)?;
        if !self.breakers.reset(name) {
            let detail = "there is no such breaker; `countersign breakers list` shows them";
            return Err(Refusal::new(RefusalKind::NotFound, detail));
        }
        let reason: String = reason.chars().take(MAX_NOTE_CHARS).collect();
        let draft =
            self.node_draft(EventType::BreakerReset, principal).with("breaker", name).with("reason_given", reason);
        self.record_change(draft, principal, None, vec![]).await
    }

    /// What was used of budgets in the periods that run now.
    ///
    /// # Errors
    /// [`RefusalKind::Forbidden`] unless the caller is an operator or auditor.
    pub async fn budgets(&self, principal: &Principal) -> Result<Vec<BudgetReport>, Refusal> {
        require(principal, &[OPERATOR, AUDITOR])?;
        let now = self.now();
        let rows = self.read(move |r| r.budgets(now)).await?;
        let limit = |name: &str| {
            self.settings.budgets.iter().find_map(|budget| {
                let unit = name.strip_prefix(&budget.name)?.strip_prefix('.')?;
                let limit = if unit == "calls" { budget.calls } else { budget.cost };
                limit.filter(|_| matches!(unit, "calls" | "cost"))
            })
        };
        Ok(rows.into_iter().map(|row| BudgetReport { limit: limit(&row.key.budget), row }).collect())
    }

    /// Writes whose outcome a person has to find out.
    ///
    /// # Errors
    /// [`RefusalKind::Forbidden`] unless the caller is an operator or auditor.
    pub async fn unknown_calls(&self, principal: &Principal) -> Result<Vec<UnknownCall>, Refusal> {
        require(principal, &[OPERATOR, AUDITOR])?;
        let rows = self.read(|r| r.intents()).await?;
        let unknown = rows.into_iter().filter(|row| row.state == IntentState::Unknown);
        let view = |row: countersign_ledger::state::IntentRow| UnknownCall {
            call: row.call,
            tool: row.tool.to_string(),
            principal: row.principal,
            at: row.at,
            intent: row.event,
        };
        Ok(unknown.map(view).collect())
    }

    /// Settles an unknown outcome after a person has looked. If it was not executed, the call may be made again.
    ///
    /// # Errors
    /// [`RefusalKind::NotFound`] if the call is not unknown.
    pub async fn resolve_unknown(
        &self,
        principal: &Principal,
        call: Uuid,
        executed: bool,
        note: &str,
    ) -> Result<Uuid, Refusal> {
        self.require_operator(principal)?;
        let rows = self.read(|r| r.intents()).await?;
        let found = rows.into_iter().find(|row| row.call == call && row.state == IntentState::Unknown);
        let intent =
            found.ok_or_else(|| Refusal::new(RefusalKind::NotFound, "no call of that id has an unknown outcome"))?;
        let note: String = note.chars().take(MAX_NOTE_CHARS).collect();
        let draft = EventDraft::new(record::event_id(), intent.workspace.clone(), EventType::CallResolved, self.now())
            .by(principal)
            .tool(&intent.tool, Some(&intent.pin), intent.effect)
            .parent(Some(intent.event))
            .with("call", call.to_string())
            .with("resolution", if executed { "executed" } else { "not-executed" })
            .with("reason_given", note);
        let id = draft.id;
        let mut ops = vec![StateOp::IntentClose { call }];
        if let Some(scope) = intent.idempotency {
            ops.push(if executed {
                // The result itself is lost; the key stays taken, so that nobody executes it a second time by repeating.
                StateOp::IdempotencySet { scope, state: IdempotencyState::Unknown, answer: None }
            } else {
                StateOp::IdempotencyDrop { scope }
            });
        }
        let entry = record::entry(draft, Some(call), Some(principal.id.clone()), Some(intent.tool.to_string()))?;
        self.append(Append { events: vec![entry], ops, ..Append::default() })
            .await
            .map_err(AppendFailure::unexpected)?;
        Ok(id)
    }

    /// Erases an event's body and salts; its commitment stays in the tree, and the erasure is an event.
    ///
    /// # Errors
    /// [`RefusalKind::NotFound`] if there is no such event or it is erased already; erasures themselves can't be erased.
    pub async fn erase(&self, principal: &Principal, event: Uuid, reason: &str) -> Result<Uuid, Refusal> {
        self.require_operator(principal)?;
        let row = self.read(move |r| r.event(event)).await?;
        let row = row.filter(|row| row.opening.is_some());
        let row =
            row.ok_or_else(|| Refusal::new(RefusalKind::NotFound, "there is no such event, or it was erased before"))?;
        if [EventType::EventErased.as_str(), EventType::LogOpened.as_str()].contains(&row.kind.as_str()) {
            return Err(Refusal::new(
                RefusalKind::Forbidden,
                "erasures and log openings hold the record together and can't be erased",
            ));
        }
        let reason: String = reason.chars().take(MAX_NOTE_CHARS).collect();
        let draft = EventDraft::new(record::event_id(), row.workspace, EventType::EventErased, self.now())
            .by(principal)
            .with("erased", event.to_string())
            .with("commitment", row.commitment.to_string())
            .with("reason_given", reason);
        self.record_change(draft, principal, None, vec![StateOp::Erase { event }]).await
    }

    /// What the policies in force say of a call, imagined or real, and why.
    ///
    /// # Errors
    /// If no set is in force, or there is no such tool.
    pub async fn explain(
        &self,
        principal: &Principal,
        subject: &Principal,
        tool: &ToolRef,
        arguments: &[u8],
    ) -> Result<Explanation, Refusal> {
        require(principal, &[OPERATOR, AUDITOR])?;
        let (input, _) = stages::read_arguments(arguments, &READ_BACK)?;
        let view = self.registry.view();
        let found = view
            .tool(tool)
            .ok_or_else(|| Refusal::new(RefusalKind::UnknownTool, format!("there is no tool {tool}")))?;
        let none =
            || Refusal::new(RefusalKind::PolicyError, "no policy set is in force; see `countersign policy check`");
        let policies = self.policies.current().ok_or_else(none)?;
        Ok(policies.explain(&PolicyFacts {
            principal: subject,
            tool,
            effect: found.effect,
            input: &input,
            now_ms: self.now(),
        }))
    }

    /// Events of the caller's workspace: its own for everyone, all of them for auditors and operators (who may also ask for
    /// the node's, `_node`).
    ///
    /// # Errors
    /// [`RefusalKind::Forbidden`] for somebody else's workspace.
    pub async fn events(&self, principal: &Principal, mut query: EventQuery) -> Result<EventPage, Refusal> {
        let is_staff = require(principal, &[OPERATOR, AUDITOR]).is_ok();
        let asked = query.workspace.take().unwrap_or_else(|| principal.workspace.clone());
        let is_node = asked == WorkspaceName::node() && is_staff;
        if asked != principal.workspace && !is_node {
            return Err(Refusal::new(RefusalKind::Forbidden, "the events of another workspace are not yours to read"));
        }
        query.workspace = Some(asked);
        if !is_staff {
            query.principal = Some(principal.id.clone());
        }
        query.limit = query.limit.clamp(1, 1000);
        let mut page = self.read(move |r| r.events(&query)).await?;
        if !is_staff {
            page.rows.retain(|(_, row)| is_of(principal, row));
        }
        Ok(page)
    }

    /// The receipt of an event, with values disclosed that the caller supplies and the event's digests confirm.
    ///
    /// # Errors
    /// [`RefusalKind::NotFound`] if there is none that the caller may read, or its event was erased.
    pub async fn receipt(
        &self,
        principal: &Principal,
        id: Uuid,
        disclose: Vec<(Label, Value)>,
    ) -> Result<Receipt, Refusal> {
        let row = self.read(move |r| r.event(id)).await?;
        let not_found = || Refusal::new(RefusalKind::NotFound, "there is no such event that you may read");
        let row = row.ok_or_else(not_found)?;
        if !self.may_read(principal, &row).await? {
            return Err(not_found());
        }
        let disclose = disclose.into_iter().map(|(label, value)| Disclose { event: id, label, value }).collect();
        match self.ledger.receipt(id, disclose).await {
            Ok(Some(receipt)) => Ok(receipt),
            Ok(None) => Err(not_found()),
            Err(ReceiptError::Erased) => {
                Err(Refusal::new(RefusalKind::NotFound, "the event was erased; only its commitment is left"))
            }
            Err(ReceiptError::Disclosure(..)) => Err(Refusal::new(
                RefusalKind::ArgumentsChanged,
                "a value to disclose is not the one whose digest the event holds",
            )),
            Err(other) => {
                tracing::error!(error = %other, event = %id, "no receipt");
                Err(crate::gate::ledger_away())
            }
        }
    }

    async fn may_read(&self, principal: &Principal, row: &EventRow) -> Result<bool, Refusal> {
        let is_staff = require(principal, &[OPERATOR, AUDITOR]).is_ok();
        if row.workspace == WorkspaceName::node() {
            return Ok(is_staff);
        }
        if row.workspace != principal.workspace {
            return Ok(false);
        }
        if is_staff || is_of(principal, row) {
            return Ok(true);
        }
        // Who may see the request may read the events of its call.
        match row.call {
            Some(call) => Ok(self.approval(principal, call).await.is_ok()),
            None => Ok(false),
        }
    }
}

/// Whether an event is about what this very caller did: the same subject of the same issuer, for the same person.
fn is_of(principal: &Principal, row: &EventRow) -> bool {
    let event = row.opening.as_ref().and_then(|o| serde_json::from_slice::<Value>(&o.event).ok());
    let who = event.and_then(|mut e| serde_json::from_value::<PrincipalRecord>(e["principal"].take()).ok());
    who.is_some_and(|who| who == principal.record())
}

pub(crate) fn require(principal: &Principal, roles: &[&str]) -> Result<(), Refusal> {
    // An agent that acts for an operator is not the operator.
    if principal.on_behalf_of.is_none() && roles.iter().any(|role| principal.roles.contains(*role)) {
        return Ok(());
    }
    Err(Refusal::new(RefusalKind::Forbidden, format!("this needs the role {}", roles.join(" or "))))
}

fn touches(target: &FreezeTarget, row: &RequestRow) -> bool {
    match target {
        FreezeTarget::Principal(name) => {
            row.principal.id == *name
                || row.principal.on_behalf_of.as_ref() == Some(name)
                || row.requester_keys.contains(name)
        }
        FreezeTarget::Tool(tool) => row.tool == *tool,
        FreezeTarget::Upstream(upstream) => row.tool.upstream == *upstream,
        FreezeTarget::Workspace(workspace) => row.workspace == *workspace,
    }
}
