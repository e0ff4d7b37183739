//! The way of a call, from request to outcome, with the ledger's word at each point that must be durable.
//!
//! What is true if the process dies:
//! - before the intent: nothing happened, nothing is recorded but refusals;
//! - after the intent, before the outcome: the write is `unknown` when the node comes back, and is shown to a person;
//! - after the outcome, before the answer: the event, and with an idempotency key the answer, are there to be asked for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use countersign_domain::{Effect, EventType, Principal, Refusal, RefusalKind, ToolRef};
use countersign_ledger::Append;
use countersign_ledger::state::{
    Conflict, Fingerprint, IdempotencyRow, IdempotencyState, IntentRow, IntentState, RequestRow, StateOp,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::api::{Answer, CallOutcome, CallRequest, Redeem, WaitOutcome};
use crate::breakers::{Pass, health};
use crate::budgets::Uses;
use crate::conflicts::{self, already_redeemed, denied_by, in_flight, unknown, withdrawn};
use crate::exchange::Way;
use crate::frozen;
use crate::gate::{AppendFailure, Gate};
use crate::keyring::WorkspaceKeys;
use crate::limits::{Bucket, Rate};
use crate::load::Place;
use crate::meter::Stage;
use crate::permit::Permit;
use crate::record::{Facts, reason, remarked};
use crate::stages::{self, Authorised, Claim, Cleared, Denied, Limited, Redeemed};
use crate::trace;
use crate::upstream::{Client, DispatchError, Remarks, ToolResult};

/// How long a second redeemer waits for the first one's answer.
const REPLAY_WAIT: Duration = Duration::from_secs(30);
/// How long a credential for a call may take to come.
const CREDENTIAL_WAIT: Duration = Duration::from_secs(15);

impl Gate {
    /// Makes a call: executes it, or says that people have to agree first.
    ///
    /// Once an intent is durable the call goes on to its outcome even if the returned future is dropped.
    ///
    /// # Errors
    /// A typed refusal; recorded as an event wherever the caller is authenticated and a limit does not say otherwise.
    pub async fn call(self: &Arc<Self>, request: CallRequest) -> Result<CallOutcome, Refusal> {
        let _timed = self.meter.time(Stage::Call);
        let tool = request.tool.clone();
        self.counted(&tool, self.call_uncounted(request).await)
    }

    async fn call_uncounted(self: &Arc<Self>, request: CallRequest) -> Result<CallOutcome, Refusal> {
        let mut facts = Facts::new(Uuid::now_v7(), &request.principal, &request.tool, &request.correlation);
        facts.keep = self.keeps_decisions();
        // The caller's own limit comes first: otherwise refusals by later stages could be made without bound.
        let place = self.enter_call(&request.principal, &facts).await?;
        let deadline = request.timeout.map(|timeout| Instant::now() + timeout);
        if let Err(refusal) = check_key(request.idempotency_key.as_deref()) {
            return Err(self.refuse(&facts, refusal, None).await);
        }
        let authorised = match self.authorise_call(request.principal, &request.tool, request.arguments, facts).await {
            Ok(authorised) => authorised,
            Err(denied) => return Err(self.refuse_denied(denied, None).await),
        };
        let limited = self.limit(authorised).await?;
        let keys = self.keys(&limited.resolved().principal.workspace).await?;
        let idempotency = request.idempotency_key.map(|key| scope_of(&keys, &limited, &key));
        if let Some(scope) = idempotency
            && let Some(outcome) = self.repeated(&limited, &keys, scope).await?
        {
            return Ok(outcome);
        }
        let uses = self.uses(&limited, &keys).await?;
        if !limited.0.owed.is_empty() {
            return self.open_request(limited, &keys, idempotency).await;
        }
        let claim = Claim { request: None, idempotency, uses, place: Some(place), deadline };
        let cleared = Cleared { limited, claim };
        self.execute(cleared, keys, request.client).await.map(CallOutcome::Done)
    }

    /// Refuses a request that could not be read from the wire (too large, too slow, broken off, not the protocol), with its
    /// event. The tool is named where the request said it before it broke.
    pub async fn refuse_unread(
        &self,
        principal: &Arc<Principal>,
        tool: Option<&ToolRef>,
        correlation: &str,
        refusal: Refusal,
    ) -> Refusal {
        let own = || ToolRef { upstream: own_upstream(), tool: "request".into() };
        let facts = Facts::new(Uuid::now_v7(), principal, &tool.cloned().unwrap_or_else(own), correlation);
        let refusal = match self.limiter.take(&self.own_bucket(principal)).await {
            Ok(()) => self.refuse(&facts, refusal, None).await,
            Err(limited) => self.refuse_limited(&facts, limited, &principal.key()).await,
        };
        self.meter.refused(&refusal);
        refusal
    }

    /// Counts how a call was answered. What was dispatched has been counted where its outcome became durable.
    fn counted(&self, tool: &ToolRef, answered: Result<CallOutcome, Refusal>) -> Result<CallOutcome, Refusal> {
        let effect = || self.registry.peek().tool(tool).map_or_else(Effect::default, |tool| tool.effect);
        match &answered {
            Ok(CallOutcome::Done(answer)) if answer.replayed => self.meter.ended(&tool.upstream, effect(), "replayed"),
            Ok(CallOutcome::Done(_)) => {}
            Ok(CallOutcome::Pending(_)) => self.meter.ended(&tool.upstream, effect(), "pending"),
            Err(refusal) => self.meter.refused(refusal),
        }
        answered
    }

    /// Resolve, validate and authorise.
    pub(crate) async fn authorise_call(
        self: &Arc<Self>,
        principal: Arc<Principal>,
        tool: &ToolRef,
        arguments: Vec<u8>,
        facts: Facts,
    ) -> Result<Authorised, Denied> {
        let _timed = self.meter.time(Stage::Decide);
        let known = self.registry.peek().tool(tool).is_some_and(|t| t.visible_to(&principal));
        // Who may not see a tool does not learn either how it stands.
        let spared = if known { self.breakers.look(tool, Instant::now()) } else { Ok(()) };
        if let Err(refusal) = spared {
            return Err(Box::new((facts, refusal)));
        }
        if let Err(refusal) = self.registry.verify(&tool.upstream).await {
            self.unverified(tool, &refusal);
            return Err(Box::new((facts, refusal)));
        }
        if let Err(refusal) = self.peers.require_sight() {
            return Err(Box::new((facts, refusal)));
        }
        self.policies_know_the_catalog().await;
        let view = self.registry.peek();
        let resolved = stages::resolve(principal, view.tool(tool).cloned(), &self.frozen.load(), arguments, facts)?;
        let validated = stages::validate(resolved, &self.settings.arguments, &view).await?;
        stages::authorise(validated, self.policies.current().as_deref(), self.now())
    }

    /// A principal's own bucket.
    fn own_bucket(&self, principal: &Principal) -> [Bucket; 1] {
        [Bucket { what: "principal", key: format!("p {}", principal.key()), rate: self.settings.rates.per_principal }]
    }

    /// The caller's own rate, and then a place among the calls under way.
    pub(crate) async fn enter_call(&self, principal: &Principal, facts: &Facts) -> Result<Place, Refusal> {
        let admitted = match self.limiter.take(&self.own_bucket(principal)).await {
            Ok(()) => self.load.enter(&principal.workspace),
            Err(refusal) => Err(refusal),
        };
        match admitted {
            Ok(place) => Ok(place),
            Err(refusal) => Err(self.refuse_limited(facts, refusal, &principal.key()).await),
        }
    }

    pub(crate) async fn limit(&self, authorised: Authorised) -> Result<Limited, Refusal> {
        let resolved = &authorised.validated.resolved;
        let (key, name) = (resolved.principal.key(), resolved.tool.tool.to_string());
        let rates = &self.settings.rates;
        let of = |what, key: String, rate: Option<Rate>| rate.map(|rate| Bucket { what, key, rate });
        let both = format!("{key} {name}");
        let workspace = format!("w {}", resolved.principal.workspace);
        let buckets = [
            of("tool's caller", format!("m {both}"), resolved.tool.limit),
            of("principal with this tool", format!("b {both}"), rates.per_principal_and_tool),
            of("tool", format!("t {name}"), Some(rates.per_tool)),
            of("workspace", workspace, rates.per_workspace),
            of("node", "g".to_owned(), rates.global),
        ];
        let buckets: Vec<Bucket> = buckets.into_iter().flatten().collect();
        match self.limiter.take(&buckets).await {
            Ok(()) => Ok(Limited(authorised)),
            Err(refusal) => Err(self.refuse_limited(&resolved.facts, refusal, &both).await),
        }
    }

    /// What of budgets and pauses the call will use up; refused if there is not enough by what is known now.
    async fn uses(&self, limited: &Limited, keys: &WorkspaceKeys) -> Result<Uses, Refusal> {
        let resolved = limited.resolved();
        let (tool, now) = (&resolved.tool, self.now());
        let input = &limited.validated().input;
        let uses = match Uses::of(&self.settings.budgets, &resolved.principal, tool, input, keys, now) {
            Ok(uses) if uses.is_nothing() => return Ok(uses),
            Ok(uses) => uses,
            Err(refusal) => return Err(self.refuse(&resolved.facts, refusal, None).await),
        };
        let asked = uses.clone();
        match self.read(move |reader| asked.standing(reader, now)).await? {
            None => Ok(uses),
            Some(refusal) => {
                let key = format!("{} {} {}", resolved.principal.key(), tool.tool, refusal.kind.slug());
                Err(self.refuse_limited(&resolved.facts, refusal, &key).await)
            }
        }
    }

    /// An upstream whose tools can't be listed is as ill as one whose calls fail.
    fn unverified(self: &Arc<Self>, tool: &ToolRef, refusal: &Refusal) {
        if refusal.kind == RefusalKind::UpstreamUnavailable {
            self.record_breakers(self.breakers.unverified(&tool.upstream, Instant::now()));
        }
    }

    /// Records what a stage refused; what passes by itself once in a window.
    pub(crate) async fn refuse_denied(&self, denied: Denied, parent: Option<Uuid>) -> Refusal {
        let (facts, refusal) = *denied;
        if refusal.kind == RefusalKind::CircuitOpen {
            let key = format!("{} {} {}", facts.principal.id, facts.tool, refusal.kind.slug());
            return self.refuse_limited(&facts, refusal, &key).await;
        }
        self.refuse(&facts, refusal, parent).await
    }

    /// Records a refusal and names its event in it. A refusal that can't be recorded is still a refusal.
    pub(crate) async fn refuse(&self, facts: &Facts, refusal: Refusal, parent: Option<Uuid>) -> Refusal {
        let draft = facts.draft(EventType::CallDenied, self.now(), parent).with("reason", reason(&refusal));
        let id = draft.id;
        let entry = match facts.entry(draft, None) {
            Ok(entry) => entry,
            Err(internal) => return internal,
        };
        let ops = self.kept_with_refusal(facts, id).await;
        match self.append(Append { events: vec![entry], ops, ..Append::default() }).await {
            Ok(_) => refusal.recorded_as(id),
            Err(failure) => {
                tracing::error!(refusal = %refusal, failure = ?failure, "a refusal could not be recorded");
                refusal
            }
        }
    }

    async fn refuse_limited(&self, facts: &Facts, refusal: Refusal, key: &str) -> Refusal {
        if self.suppressed.note(facts.workspace.as_str(), key) {
            self.refuse(facts, refusal, None).await
        } else {
            refusal
        }
    }

    /// What an earlier call with the same idempotency key means for this one.
    async fn repeated(
        self: &Arc<Self>,
        limited: &Limited,
        keys: &WorkspaceKeys,
        (scope, fingerprint): (Fingerprint, Fingerprint),
    ) -> Result<Option<CallOutcome>, Refusal> {
        let Some(row) = self.read(move |r| r.idempotency(&scope)).await? else { return Ok(None) };
        let facts = &limited.resolved().facts;
        if row.expires <= self.now() && matches!(row.state, IdempotencyState::Done | IdempotencyState::Pending) {
            return Ok(None);
        }
        if row.fingerprint != fingerprint {
            let refusal = Refusal::new(
                RefusalKind::IdempotencyMismatch,
                "this Idempotency-Key was used with other arguments; use a new key for a new call",
            );
            return Err(self.refuse(facts, refusal, None).await);
        }
        match row.state {
            IdempotencyState::Done => self.replay(facts, keys, &row).await.map(|a| Some(CallOutcome::Done(a))),
            IdempotencyState::InFlight => Err(self.refuse(facts, in_flight(row.call), None).await),
            IdempotencyState::Unknown => Err(self.refuse(facts, unknown(row.call), None).await),
            IdempotencyState::Pending => self.repeated_pending(limited, keys, row.call).await,
        }
    }

    async fn repeated_pending(
        self: &Arc<Self>,
        limited: &Limited,
        keys: &WorkspaceKeys,
        id: Uuid,
    ) -> Result<Option<CallOutcome>, Refusal> {
        let Some(row) = self.read(move |r| r.request(id)).await? else { return Ok(None) };
        match self.standing(&row) {
            Standing::Open => Ok(Some(CallOutcome::Pending(self.pending_call(&row, keys)))),
            Standing::Redeemed => {
                self.replay_request(&limited.resolved().facts, keys, &row).await.map(|a| Some(CallOutcome::Done(a)))
            }
            Standing::Over(refusal) => Err(self.refuse(&limited.resolved().facts, refusal, Some(row.event)).await),
        }
    }

    /// Hands out a recorded answer again, and records that it did.
    async fn replay(&self, facts: &Facts, keys: &WorkspaceKeys, row: &IdempotencyRow) -> Result<Answer, Refusal> {
        let sealed = row.answer.as_deref().ok_or_else(crate::gate::ledger_away)?;
        let plain = keys.open(&answer_purpose(&row.scope), sealed).map_err(|e| {
            tracing::error!(error = %e, call = %row.call, "a recorded answer does not open");
            Refusal::new(RefusalKind::Internal, "the recorded answer can't be read")
        })?;
        let recorded: Recorded = serde_json::from_slice(&plain)
            .map_err(|_| Refusal::new(RefusalKind::Internal, "the recorded answer can't be read"))?;
        let draft =
            facts.draft(EventType::CallReplayed, self.now(), Some(recorded.event)).with("of", row.call.to_string());
        let entry = facts.entry(draft, None)?;
        self.append(Append { events: vec![entry], ops: vec![], ..Append::default() })
            .await
            .map_err(AppendFailure::unexpected)?;
        match recorded.body {
            RecordedBody::Result { result, is_error } => {
                Ok(Answer { call: row.call, event: recorded.event, result, is_error, replayed: true })
            }
            RecordedBody::Refusal { kind, detail, extra } => {
                let refusal = Refusal { extra, ..Refusal::new(kind, detail) };
                Err(refusal.recorded_as(recorded.event).with("replayed", true))
            }
        }
    }

    /// The recorded answer of a redeemed request; waits while the first redeemer is still executing.
    async fn replay_request(
        &self,
        facts: &Facts,
        keys: &WorkspaceKeys,
        request: &RequestRow,
    ) -> Result<Answer, Refusal> {
        let scope = request_scope(keys, request.id);
        let until = Instant::now() + REPLAY_WAIT;
        loop {
            let row = self.read(move |r| r.idempotency(&scope)).await?;
            match row {
                Some(row) if row.state == IdempotencyState::Done => return self.replay(facts, keys, &row).await,
                Some(row) if row.state == IdempotencyState::Unknown => return Err(unknown(request.id)),
                Some(_) if Instant::now() < until => tokio::time::sleep(Duration::from_millis(50)).await,
                Some(_) => return Err(in_flight(request.id)),
                None => return Err(already_redeemed(request)),
            }
        }
    }

    /// Redeems a request whose obligations may be met: executes it, or says what is still owed.
    ///
    /// The call is resolved, validated and authorised again by the definition and the policies of now.
    ///
    /// # Errors
    /// A typed refusal; an approval is only consumed by the transaction that also records the intent.
    pub async fn redeem(
        self: &Arc<Self>,
        principal: &Arc<Principal>,
        what: Redeem,
        correlation: &str,
        client: Arc<dyn Client>,
    ) -> Result<CallOutcome, Refusal> {
        self.redeem_within(principal, what, correlation, client, None).await
    }

    /// The same for a caller who waits for the upstream no longer than this.
    ///
    /// # Errors
    /// As [`Gate::redeem`].
    pub async fn redeem_within(
        self: &Arc<Self>,
        principal: &Arc<Principal>,
        what: Redeem,
        correlation: &str,
        client: Arc<dyn Client>,
        timeout: Option<Duration>,
    ) -> Result<CallOutcome, Refusal> {
        let _timed = self.meter.time(Stage::Call);
        let tool = match &what {
            Redeem::Token { tool, .. } => tool.clone(),
            Redeem::Request(_) => ToolRef { upstream: own_upstream(), tool: "await_approval".into() },
        };
        self.counted(&tool, self.redeem_uncounted(principal, what, correlation, client, timeout).await)
    }

    async fn redeem_uncounted(
        self: &Arc<Self>,
        principal: &Arc<Principal>,
        what: Redeem,
        correlation: &str,
        client: Arc<dyn Client>,
        timeout: Option<Duration>,
    ) -> Result<CallOutcome, Refusal> {
        let keys = self.keys(&principal.workspace).await?;
        let placeholder = match &what {
            Redeem::Token { tool, .. } => tool.clone(),
            Redeem::Request(_) => ToolRef { upstream: own_upstream(), tool: "await_approval".into() },
        };
        let facts = Facts::new(Uuid::now_v7(), principal, &placeholder, correlation);
        let place = self.enter_call(principal, &facts).await?;
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        let by_id = matches!(what, Redeem::Request(_));
        let row = match self.presented(principal, &keys, &what).await {
            Ok(row) => row,
            Err(refusal) => return Err(self.refuse(&facts, refusal, None).await),
        };
        let mut facts = Facts::new(row.id, principal, &row.tool, correlation);
        facts.effect = Some(row.effect);
        facts.pin = Some(row.pin);
        match self.standing(&row) {
            Standing::Open if row.is_met() => {}
            Standing::Open => return Ok(CallOutcome::Pending(self.pending_call(&row, &keys))),
            Standing::Redeemed if by_id => {
                return self.replay_request(&facts, &keys, &row).await.map(CallOutcome::Done);
            }
            Standing::Redeemed => return Err(self.refuse(&facts, already_redeemed(&row), Some(row.event)).await),
            Standing::Over(refusal) => return Err(self.refuse(&facts, refusal, Some(row.event)).await),
        }
        match self.redeem_met(principal, &row, facts, &keys, client, (place, deadline)).await {
            // Somebody else redeemed it in between.
            Err(refusal) if refusal.kind == RefusalKind::AlreadyRedeemed && by_id => {
                let facts = Facts::new(row.id, principal, &row.tool, correlation);
                self.replay_request(&facts, &keys, &row).await.map(CallOutcome::Done)
            }
            other => other.map(CallOutcome::Done),
        }
    }

    /// The request that a redeemer means, if it may redeem it.
    async fn presented(
        &self,
        principal: &Principal,
        keys: &WorkspaceKeys,
        what: &Redeem,
    ) -> Result<RequestRow, Refusal> {
        let bad_token = || {
            Refusal::new(
                RefusalKind::InvalidActionToken,
                "the action token is not one that was given to you for this tool",
            )
        };
        let id = match what {
            Redeem::Request(id) => *id,
            Redeem::Token { token, .. } => token_request(token).ok_or_else(bad_token)?,
        };
        let row = self.read(move |r| r.request(id)).await?;
        let row = row.filter(|row| row.workspace == principal.workspace && row.requester == principal.caller_key());
        let Redeem::Token { tool, token, arguments } = what else {
            return row.ok_or_else(|| Refusal::new(RefusalKind::NotFound, "you have no such request"));
        };
        let row = row.ok_or_else(bad_token)?;
        let genuine = action_token(keys, &row);
        // The secret half is compared in constant time.
        let same = aws_lc_rs::constant_time::verify_slices_are_equal(genuine.as_bytes(), token.as_bytes()).is_ok();
        if !same || row.tool != *tool {
            return Err(bad_token());
        }
        if let Some(arguments) = arguments {
            let (_, canonical) = stages::read_arguments(arguments, &self.settings.arguments)?;
            if call_fingerprint(keys, &row.requester, &row.tool, &row.pin, &canonical) != row.fingerprint {
                return Err(Refusal::new(
                    RefusalKind::ArgumentsChanged,
                    "the arguments differ from those that people agreed to; invoke the tool again to ask anew",
                ));
            }
        }
        Ok(row)
    }

    async fn redeem_met(
        self: &Arc<Self>,
        principal: &Arc<Principal>,
        row: &RequestRow,
        facts: Facts,
        keys: &Arc<WorkspaceKeys>,
        client: Arc<dyn Client>,
        (place, deadline): (Place, Option<Instant>),
    ) -> Result<Answer, Refusal> {
        let parent = Some(row.event);
        // What people agreed to must be what the upstream offers at this moment, not a minute ago.
        if let Err(refusal) = self.breakers.look(&row.tool, Instant::now()) {
            return Err(self.refuse_denied(Box::new((facts, refusal)), parent).await);
        }
        if let Err(refusal) = self.registry.refresh_now(&row.tool.upstream).await {
            self.unverified(&row.tool, &refusal);
            return Err(self.refuse(&facts, refusal, parent).await);
        }
        let kept = self.kept(row, keys)?;
        if self.pin_now(&row.tool, kept.arguments.get(), principal) != Some(row.pin) {
            let refusal = Refusal::new(
                RefusalKind::DefinitionChanged,
                "the tool's definition changed after people agreed; once it is reviewed, invoke the tool again to ask anew",
            );
            return Err(self.refuse(&facts, refusal, parent).await);
        }
        let authorised = match self
            .authorise_call(Arc::clone(principal), &row.tool, kept.arguments.get().as_bytes().to_vec(), facts)
            .await
        {
            Ok(authorised) => authorised,
            Err(denied) => return Err(self.refuse_denied(denied, parent).await),
        };
        if !row.owed.covers(&authorised.owed) {
            let refusal = Refusal::new(
                RefusalKind::PolicyDenied,
                "the policies now ask for more than people gave; wait for this request's expiry, or change the arguments, and ask anew",
            );
            return Err(self.refuse(&authorised.validated.resolved.facts, refusal, parent).await);
        }
        let limited = self.limit(authorised).await?;
        let uses = self.uses(&limited, keys).await?;
        let answers = row.answers.iter().map(|a| a.event).collect();
        let redeemed = Redeemed { id: row.id, event: row.event, answers };
        let idempotency = Some((request_scope(keys, row.id), row.fingerprint));
        let claim = Claim { request: Some(redeemed), idempotency, uses, place: Some(place), deadline };
        let cleared = Cleared { limited, claim };
        self.execute(cleared, Arc::clone(keys), client).await
    }

    /// The pin by which this call would go now; `None` if it could not be made.
    fn pin_now(
        &self,
        tool: &ToolRef,
        arguments: &str,
        principal: &Principal,
    ) -> Option<countersign_proof::digest::Digest> {
        let view = self.registry.peek();
        let found = view.tool(tool).filter(|t| t.callable().is_ok())?;
        let input: Value = serde_json::from_str(arguments).ok()?;
        view.pin_of_call(found, &input, principal).ok().flatten()
    }

    /// Waits until everything owed is given, the request ends, or the time is up.
    ///
    /// # Errors
    /// If the caller has no such request, or the ledger is away.
    pub async fn wait(&self, principal: &Principal, request: Uuid, at_most: Duration) -> Result<WaitOutcome, Refusal> {
        let until = tokio::time::Instant::now() + at_most;
        let mut wake = self.waiters.subscribe(request);
        let outcome = loop {
            wake.mark_unchanged();
            let row = match self.read(move |r| r.request(request)).await {
                Ok(row) => {
                    row.filter(|row| row.workspace == principal.workspace && row.requester == principal.caller_key())
                }
                Err(refusal) => break Err(refusal),
            };
            let Some(row) = row else { break Err(Refusal::new(RefusalKind::NotFound, "you have no such request")) };
            match self.standing(&row) {
                Standing::Open if row.is_met() => break Ok(WaitOutcome::Met),
                Standing::Open => {}
                Standing::Redeemed | Standing::Over(_) => break Ok(WaitOutcome::Closed),
            }
            let expiry =
                tokio::time::Instant::now() + Duration::from_millis(row.expires.saturating_sub(self.now()) + 1);
            if tokio::time::timeout_at(until.min(expiry), wake.changed()).await.is_err()
                && tokio::time::Instant::now() >= until
            {
                break Ok(WaitOutcome::StillPending);
            }
        };
        self.waiters.leave(request, wake);
        outcome
    }

    /// Executes a cleared call on a task of its own, so that a caller who goes away can't leave it half done.
    async fn execute(
        self: &Arc<Self>,
        cleared: Cleared,
        keys: Arc<WorkspaceKeys>,
        client: Arc<dyn Client>,
    ) -> Result<Answer, Refusal> {
        let gate = Arc::clone(self);
        let run = tokio::spawn(trace::scope(trace::current(), async move {
            let _counted = gate.enter(cleared.limited.resolved().facts.call);
            gate.run(cleared, &keys, client).await
        }));
        run.await.unwrap_or_else(|e| {
            tracing::error!(error = %e, "a call's task ended early");
            Err(Refusal::new(RefusalKind::Internal, "the call ended early; look for its event before trying again"))
        })
    }

    async fn run(
        self: &Arc<Self>,
        cleared: Cleared,
        keys: &WorkspaceKeys,
        client: Arc<dyn Client>,
    ) -> Result<Answer, Refusal> {
        let Cleared { limited, claim } = cleared;
        let effect = limited.resolved().tool.effect;
        {
            // Before anything is recorded as about to happen: a call without a credential is refused, not attempted.
            let resolved = limited.resolved();
            let until = Instant::now() + resolved.tool.timeout.min(CREDENTIAL_WAIT);
            if let Err(refusal) = resolved.tool.upstream.ready(&resolved.principal, until).await {
                let parent = claim.request.as_ref().map(|r| r.event);
                return Err(self.refuse(&resolved.facts, refusal, parent).await);
            }
        }
        let needs_intent = effect.needs_intent() || claim.request.is_some() || claim.uses.needs_intent();
        let pass = self.let_through(&limited, &claim).await?;
        let intent = if needs_intent { Some(self.record_intent(&limited, &claim, keys).await?) } else { None };
        let resolved = limited.resolved();
        let started = Instant::now();
        let timed = self.meter.time(Stage::Dispatch);
        let dispatched = match RawValue::from_string(text_of(&resolved.raw)?) {
            Err(_) => Err(DispatchError::NotSent("the arguments are not JSON".into())),
            Ok(arguments) => {
                let deadline = stages::deadline(&resolved.tool, claim.deadline);
                let way = Way::new(self, &limited, client, intent);
                let pin =
                    resolved.facts.pin.ok_or_else(|| Refusal::new(RefusalKind::Internal, "the tool has no pin"))?;
                let permit = Permit::grant(
                    resolved.facts.call,
                    Arc::clone(&resolved.principal),
                    resolved.tool.tool.clone(),
                    arguments,
                    pin,
                    way.permit_deadline(deadline),
                    resolved.facts.correlation.clone(),
                );
                way.watch(resolved.tool.upstream.dispatch(permit, &way), deadline).await
            }
        };
        drop(timed);
        let hurried = claim.deadline.is_some_and(|deadline| deadline < started + resolved.tool.timeout);
        if let Some(health) = health(&dispatched, hurried) {
            self.record_breakers(pass.tell(health, Instant::now()));
        }
        let ended = Ended { dispatched, duration_ms: started.elapsed().as_millis() as u64, intent };
        self.record_outcome(&limited, &claim, keys, ended).await
    }

    /// The last look before the intent: is there time left, and is the upstream not left alone?
    async fn let_through(&self, limited: &Limited, claim: &Claim) -> Result<Pass, Refusal> {
        let resolved = limited.resolved();
        let parent = claim.request.as_ref().map(|r| r.event);
        let now = Instant::now();
        let admitted = if claim.deadline.is_some_and(|deadline| deadline <= now) {
            let detail = "the time that the caller gave was over before anything could be sent; nothing was sent";
            Err(Refusal::new(RefusalKind::DeadlineExceeded, detail))
        } else {
            self.breakers.enter(&resolved.tool.tool, now)
        };
        match admitted {
            Ok(pass) => Ok(pass),
            Err(refusal) => Err(self.refuse_denied(Box::new((resolved.facts.clone(), refusal)), parent).await),
        }
    }

    /// The durable point before anything happens: intent, consumed approval and idempotency key in one transaction.
    async fn record_intent(&self, limited: &Limited, claim: &Claim, keys: &WorkspaceKeys) -> Result<Uuid, Refusal> {
        let resolved = limited.resolved();
        let facts = &resolved.facts;
        let now = self.now();
        let parent = claim.request.as_ref().map(|r| r.answers.last().copied().unwrap_or(r.event));
        let mut draft = facts.draft(EventType::CallIntent, now, parent);
        if let Some(request) = &claim.request {
            draft = draft.with("request", request.event.to_string());
            draft = draft.with("approvals", json!(request.answers.iter().map(Uuid::to_string).collect::<Vec<_>>()));
        }
        let event = draft.id;
        let fingerprint = call_fingerprint(
            keys,
            &resolved.principal.caller_key(),
            &resolved.tool.tool,
            &pin_of(facts)?,
            &limited.validated().canonical,
        );
        let mut ops =
            vec![StateOp::RequireNotFrozen { targets: frozen::targets(&resolved.principal, &resolved.tool.tool) }];
        ops.extend(Self::keep_decision(facts, event, keys));
        ops.extend(claim.uses.claim());
        ops.extend(claim.request.as_ref().map(|r| StateOp::Redeem { request: r.id }));
        if let Some((scope, fingerprint)) = claim.idempotency {
            let row = IdempotencyRow {
                scope,
                fingerprint,
                state: IdempotencyState::InFlight,
                call: facts.call,
                answer: None,
                expires: self.keep_until(),
            };
            ops.push(StateOp::IdempotencyBegin { row });
        }
        ops.push(StateOp::IntentOpen {
            row: Box::new(IntentRow {
                call: facts.call,
                workspace: facts.workspace.clone(),
                principal: facts.principal.clone(),
                tool: facts.tool.clone(),
                pin: pin_of(facts)?,
                effect: resolved.tool.effect,
                fingerprint,
                event,
                state: IntentState::Open,
                at: now,
                idempotency: claim.idempotency.map(|(scope, _)| scope),
            }),
        });
        let entry = facts.entry(draft, None)?;
        match self.append(Append { events: vec![entry], ops, ..Append::default() }).await {
            Ok(_) => Ok(event),
            Err(AppendFailure::Refused(refusal)) => Err(refusal),
            Err(AppendFailure::Conflict(conflict)) => {
                let refusal = conflicts::refusal(conflict);
                Err(self.refuse(facts, refusal, parent).await)
            }
        }
    }

    /// The durable point before the answer is released.
    async fn record_outcome(
        &self,
        limited: &Limited,
        claim: &Claim,
        keys: &WorkspaceKeys,
        ended: Ended,
    ) -> Result<Answer, Refusal> {
        let facts = &limited.resolved().facts;
        let judged = judge(ended, facts.call);
        let parent = judged.intent;
        // What the capability knows now stands for what it could tell before.
        let mut draft = facts.draft(judged.kind, self.now(), parent);
        for name in judged.remarks.keys().filter(|name| facts.remarks.members.contains_key(*name)) {
            draft.members.remove(name);
        }
        draft = remarked(draft, &judged.remarks);
        let event = draft.id;
        let mut outcome = judged.outcome;
        let status = outcome.get("status").and_then(Value::as_str).unwrap_or_default();
        self.meter.ended(&facts.tool.upstream, facts.effect.unwrap_or_default(), status);
        let entry = match &judged.body {
            RecordedBody::Result { result, .. } => facts.entry(draft, Some((&mut outcome, result.get().as_bytes())))?,
            RecordedBody::Refusal { .. } => {
                draft = draft.with("outcome", outcome);
                facts.entry(draft, None)?
            }
        };
        let mut ops = Vec::new();
        if parent.is_none() {
            ops.extend(Self::keep_decision(facts, event, keys));
        }
        if parent.is_some() {
            let call = facts.call;
            ops.push(if judged.kind == EventType::CallUnknown {
                StateOp::IntentUnknown { call }
            } else {
                StateOp::IntentClose { call }
            });
        }
        ops.extend(claim.request.as_ref().map(|r| StateOp::CloseRequest { request: r.id, closed_by: event }));
        match (parent.is_some(), judged.untouched) {
            // What was claimed with the intent comes back.
            (true, true) => ops.extend(claim.uses.give_back()),
            (false, false) => ops.extend(claim.uses.claim()),
            (true, false) | (false, true) => {}
        }
        let recorded = Recorded { event, body: judged.body };
        if let Some((scope, fingerprint)) = claim.idempotency {
            ops.extend(self.remember(
                &judged.memory,
                scope,
                fingerprint,
                facts.call,
                keys,
                &recorded,
                parent.is_some(),
            )?);
        }
        if let Err(failure) = self.append(Append { events: vec![entry], ops, ..Append::default() }).await {
            return Err(self.unrecorded(facts, (judged.kind, parent), recorded.body, failure).await);
        }
        match recorded.body {
            RecordedBody::Result { result, is_error } => {
                Ok(Answer { call: facts.call, event, result, is_error, replayed: false })
            }
            RecordedBody::Refusal { kind, detail, extra } => {
                Err(Refusal { extra, ..Refusal::new(kind, detail) }.recorded_as(event))
            }
        }
    }

    /// What the caller learns where the outcome could not be recorded as it was.
    async fn unrecorded(
        &self,
        facts: &Facts,
        (kind, parent): (EventType, Option<Uuid>),
        body: RecordedBody,
        failure: AppendFailure,
    ) -> Refusal {
        match failure {
            // Two reads with one key ran at the same time: the other one's answer is kept, this one's is still true.
            AppendFailure::Conflict(Conflict::IdempotencyExists(_)) if parent.is_none() => in_flight(facts.call),
            // Another read used the budget's rest while this one was under way: its answer is withheld.
            AppendFailure::Conflict(conflict @ (Conflict::BudgetSpent { .. } | Conflict::CoolingDown { .. }))
                if parent.is_none() =>
            {
                self.refuse(facts, conflicts::refusal(conflict), None).await
            }
            // Another node took this one for dead, and has said already that the outcome is unknown.
            AppendFailure::Conflict(Conflict::NotFound) if kind == EventType::CallUnknown => {
                let call = facts.call;
                let events = match self.read(move |r| r.events_of_call(call)).await {
                    Ok(events) => events,
                    Err(refusal) => return refusal,
                };
                let said = events.iter().rfind(|row| row.kind == EventType::CallUnknown.as_str());
                match (body, said) {
                    (RecordedBody::Refusal { kind, detail, .. }, Some(row)) => {
                        Refusal::new(kind, detail).recorded_as(row.id)
                    }
                    (_, _) => Refusal::new(RefusalKind::Internal, "the call was resolved while it ran"),
                }
            }
            failure => {
                let mut refusal = failure.unexpected();
                if parent.is_some() && refusal.kind == RefusalKind::LedgerUnavailable {
                    let detail = "the call was made, and what became of it cannot be recorded right now: whether it acted is NOT known";
                    detail.clone_into(&mut refusal.detail);
                }
                refusal
            }
        }
    }

    /// What becomes of the idempotency key.
    #[allow(clippy::too_many_arguments)] // one call site; a struct would only rename the arguments
    fn remember(
        &self,
        memory: &Memory,
        scope: Fingerprint,
        fingerprint: Fingerprint,
        call: Uuid,
        keys: &WorkspaceKeys,
        recorded: &Recorded,
        begun: bool,
    ) -> Result<Vec<StateOp>, Refusal> {
        let internal = |_| Refusal::new(RefusalKind::Internal, "the answer could not be kept");
        match memory {
            // `IntentUnknown` has moved the key already.
            Memory::Unknown => Ok(vec![]),
            Memory::Forget if begun => Ok(vec![StateOp::IdempotencyDrop { scope }]),
            Memory::Forget => Ok(vec![]),
            Memory::Keep => {
                let plain = serde_json::to_vec(recorded)
                    .map_err(|_| Refusal::new(RefusalKind::Internal, "the answer could not be kept"))?;
                let answer = Some(keys.seal(&answer_purpose(&scope), &plain).map_err(internal)?);
                let row = IdempotencyRow {
                    scope,
                    fingerprint,
                    state: IdempotencyState::InFlight,
                    call,
                    answer: None,
                    expires: self.keep_until(),
                };
                let begin = (!begun).then_some(StateOp::IdempotencyBegin { row });
                let set = StateOp::IdempotencySet { scope, state: IdempotencyState::Done, answer };
                Ok(begin.into_iter().chain([set]).collect())
            }
        }
    }

    pub(crate) fn keep_until(&self) -> u64 {
        self.now() + self.settings.idempotency_ttl.as_millis() as u64
    }

    /// At the start and from time to time: an open intent of a process that died. Its outcome is unknown.
    pub(crate) async fn recover(self: &Arc<Self>) -> Result<(), Refusal> {
        let intents = {
            let running = self.running();
            self.read(move |r| r.abandoned(&running)).await?
        };
        // A call that began since is running now; one that ended since has closed its intent, which is no conflict here.
        let running = self.running();
        for intent in intents.into_iter().filter(|intent| !running.contains(&intent.call)) {
            let facts = Facts {
                call: intent.call,
                workspace: intent.workspace.clone(),
                principal: intent.principal.clone(),
                tool: intent.tool.clone(),
                effect: Some(intent.effect),
                pin: Some(intent.pin),
                correlation: String::new(),
                policy: None,
                canonical_input: None,
                keep: false,
                decided: None,
                remarks: Remarks::default(),
            };
            let outcome = json!({"status": "crashed", "duration_ms": 0});
            let draft = facts.draft(EventType::CallUnknown, self.now(), Some(intent.event)).with("outcome", outcome);
            let entry = facts.entry(draft, None)?;
            let append = Append {
                events: vec![entry],
                ops: vec![StateOp::IntentUnknown { call: intent.call }],
                ..Append::default()
            };
            match self.append(append).await {
                Ok(_) => {}
                Err(AppendFailure::Conflict(Conflict::NotFound)) => continue,
                Err(failure) => return Err(failure.unexpected()),
            }
            tracing::warn!(call = %intent.call, tool = %intent.tool, "a write of unknown outcome waits for a person: `countersign unknown list`");
        }
        Ok(())
    }

    /// How a request stands at this moment, for its requester.
    pub(crate) fn standing(&self, row: &RequestRow) -> Standing {
        use countersign_ledger::state::RequestStatus as S;
        match row.status {
            S::Pending if row.expires > self.now() => Standing::Open,
            S::Pending | S::Expired => Standing::Over(Refusal::new(
                RefusalKind::ApprovalExpired,
                "nobody agreed in time; invoke the tool again to ask anew",
            )),
            S::Redeemed => Standing::Redeemed,
            S::Denied => Standing::Over(denied_by(row)),
            S::Revoked => Standing::Over(Refusal::new(RefusalKind::Frozen, "the request was revoked by a freeze")),
            S::Withdrawn => Standing::Over(withdrawn()),
        }
    }
}

/// How a request stands for its requester.
pub(crate) enum Standing {
    Open,
    Redeemed,
    Over(Refusal),
}

struct Ended {
    dispatched: Result<ToolResult, DispatchError>,
    duration_ms: u64,
    intent: Option<Uuid>,
}

struct Judged {
    kind: EventType,
    outcome: Map<String, Value>,
    body: RecordedBody,
    memory: Memory,
    intent: Option<Uuid>,
    /// What a capability of the node adds.
    remarks: Map<String, Value>,
    /// Certainly nothing reached the upstream.
    untouched: bool,
}

enum Memory {
    Keep,
    Forget,
    Unknown,
}

/// An answer as it is kept, sealed, for replays. Externally tagged: raw JSON survives neither flattening nor untagged enums.
#[derive(Serialize, Deserialize)]
struct Recorded {
    event: Uuid,
    body: RecordedBody,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RecordedBody {
    Result {
        result: Box<RawValue>,
        is_error: bool,
    },
    Refusal {
        kind: RefusalKind,
        detail: String,
        #[serde(default, skip_serializing_if = "Map::is_empty")]
        extra: Map<String, Value>,
    },
}

/// What a dispatch's end means: for a write, everything after sending without an answer is unknown.
fn judge(ended: Ended, call: Uuid) -> Judged {
    use DispatchError::{Busy, NotSent, Undone};
    let Ended { dispatched, duration_ms, intent } = ended;
    let untouched = matches!(dispatched, Err(NotSent(_) | Busy(_) | Undone(_)));
    let remarks = dispatched.as_ref().map(|result| result.remarks.clone()).unwrap_or_default();
    let refusal = |kind, detail: String| RecordedBody::Refusal { kind, detail, extra: Map::new() };
    let (status, error, body, known) = match dispatched {
        Ok(result) => {
            let status = if result.is_error {
                "tool_error"
            } else if is_task(&result) {
                "task"
            } else {
                "ok"
            };
            (status, None, RecordedBody::Result { result: result.raw, is_error: result.is_error }, true)
        }
        Err(DispatchError::Rpc { code, message, raw }) => {
            ("upstream_error", Some(code.to_string()), rpc_result(&message, &raw), true)
        }
        // It looked at the credential and at nothing else.
        Err(DispatchError::Unauthorised(why)) => {
            let body = RecordedBody::Refusal { kind: why.kind, detail: why.detail, extra: why.extra };
            ("unauthorised", None, body, true)
        }
        Err(NotSent(why)) => {
            tracing::warn!(%call, why, "not sent");
            (
                "not_sent",
                None,
                refusal(RefusalKind::UpstreamUnavailable, format!("nothing was sent to the upstream: {why}")),
                true,
            )
        }
        Err(Busy(why)) => ("busy", None, refusal(RefusalKind::Overloaded, why), true),
        Err(Undone(why)) => {
            tracing::warn!(%call, why, "undone");
            ("undone", None, refusal(RefusalKind::UpstreamUnavailable, why), true)
        }
        Err(DispatchError::Timeout) => (
            "timeout",
            None,
            refusal(RefusalKind::UpstreamTimeout, "the upstream did not answer in time".into()),
            false,
        ),
        Err(DispatchError::Cancelled) => {
            ("cancelled", None, refusal(RefusalKind::Cancelled, "the caller cancelled the call".into()), false)
        }
        Err(DispatchError::Lost(why)) => (
            "lost",
            Some(why),
            refusal(RefusalKind::UpstreamUnavailable, "the upstream was lost during the call".into()),
            false,
        ),
        Err(DispatchError::Protocol(why)) => (
            "protocol_error",
            Some(why),
            refusal(RefusalKind::UpstreamProtocol, "the upstream's answer is not the protocol".into()),
            false,
        ),
    };
    let mut outcome = Map::new();
    outcome.insert("status".into(), status.into());
    outcome.insert("duration_ms".into(), duration_ms.into());
    if let Some(error) = error {
        outcome.insert("error".into(), error.chars().take(300).collect::<String>().into());
    }
    let is_unknown = !known && intent.is_some();
    let (kind, memory) = match &body {
        _ if is_unknown => (EventType::CallUnknown, Memory::Unknown),
        RecordedBody::Result { .. } => (EventType::CallCompleted, Memory::Keep),
        RecordedBody::Refusal { .. } => (EventType::CallCompleted, Memory::Forget),
    };
    let body = match body {
        RecordedBody::Refusal { kind, detail, extra } if is_unknown => RecordedBody::Refusal {
            kind,
            extra,
            detail: format!(
                "{detail}; whether it acted is NOT known. It will not be retried, and an identical call is refused until an operator has looked (call {call})"
            ),
        },
        other => other,
    };
    Judged { kind, outcome, body, memory, intent, remarks, untouched }
}

/// Whether the upstream answered that it works on it: the call has an answer, and its end is still to come.
fn is_task(result: &ToolResult) -> bool {
    #[derive(Deserialize)]
    struct Head {
        #[serde(rename = "resultType", default)]
        kind: Option<String>,
    }
    serde_json::from_str::<Head>(result.raw.get()).is_ok_and(|head| head.kind.as_deref() == Some("task"))
}

/// A JSON-RPC error as the tool result that a client can show, with the upstream's own error kept in `_meta`.
fn rpc_result(message: &str, raw: &RawValue) -> RecordedBody {
    let text = format!("The upstream refused the call: {message}");
    let value = json!({"content": [{"type": "text", "text": text}], "isError": true, "_meta": {"dev.countersign/upstream-error": raw}});
    let result = serde_json::value::to_raw_value(&value).unwrap_or_else(|_| RawValue::NULL.to_owned());
    RecordedBody::Result { result, is_error: true }
}

fn text_of(raw: &[u8]) -> Result<String, Refusal> {
    String::from_utf8(raw.to_vec())
        .map_err(|_| Refusal::new(RefusalKind::MalformedRequest, "the arguments are not UTF-8"))
}

fn pin_of(facts: &Facts) -> Result<countersign_proof::digest::Digest, Refusal> {
    facts.pin.ok_or_else(|| Refusal::new(RefusalKind::Internal, "the tool has no pin"))
}

fn check_key(key: Option<&str>) -> Result<(), Refusal> {
    match key {
        Some(key) if key.is_empty() || key.len() > 255 || !key.bytes().all(|b| b.is_ascii_graphic() || b == b' ') => {
            Err(Refusal::new(RefusalKind::MalformedRequest, "an Idempotency-Key is 1 to 255 visible ASCII characters"))
        }
        _ => Ok(()),
    }
}

fn scope_of(keys: &WorkspaceKeys, limited: &Limited, key: &str) -> (Fingerprint, Fingerprint) {
    let resolved = limited.resolved();
    let scope = keys.fingerprint(
        "idempotency-key",
        &[resolved.principal.caller_key().as_bytes(), resolved.tool.tool.to_string().as_bytes(), key.as_bytes()],
    );
    (scope, keys.fingerprint("arguments", &[&limited.validated().canonical]))
}

/// Under which a redeemed request's answer is kept.
pub(crate) fn request_scope(keys: &WorkspaceKeys, request: Uuid) -> Fingerprint {
    keys.fingerprint("request-answer", &[request.as_bytes()])
}

/// The identity of a call: who, which tool by which definition, which arguments.
pub(crate) fn call_fingerprint(
    keys: &WorkspaceKeys,
    requester: &str,
    tool: &ToolRef,
    pin: &countersign_proof::digest::Digest,
    canonical: &[u8],
) -> Fingerprint {
    keys.fingerprint("call", &[requester.as_bytes(), tool.to_string().as_bytes(), &pin.0, canonical])
}

fn answer_purpose(scope: &Fingerprint) -> Vec<u8> {
    [b"answer|".as_slice(), scope].concat()
}

/// `cst_` and the request's id and an HMAC in base64url: nothing to store, and worthless for anything else.
pub(crate) fn action_token(keys: &WorkspaceKeys, row: &RequestRow) -> String {
    use base64::Engine as _;
    let secret = keys.action_token(row.id.as_bytes(), &row.requester);
    let bytes = [row.id.as_bytes().as_slice(), &secret].concat();
    format!("cst_{}", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes))
}

fn token_request(token: &str) -> Option<Uuid> {
    use base64::Engine as _;
    let text = token.strip_prefix("cst_").filter(|t| t.len() == 64)?;
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text).ok()?;
    Uuid::from_slice(bytes.get(..16)?).ok()
}

/// The reserved name under which requests without a tool are recorded.
pub(crate) fn own_upstream() -> countersign_domain::UpstreamName {
    "countersign".parse().unwrap_or_else(|_| unreachable!("a constant that fits its rule"))
}
