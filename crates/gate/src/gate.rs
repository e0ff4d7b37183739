//! The gate's parts, put together, and what it does in the background.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign_catalog::Kind;
use countersign_domain::{
    EventDraft, EventType, Millis, Principal, Refusal, RefusalKind, ToolRef, UpstreamName, WorkspaceName,
};
use countersign_ledger::state::StateOp;
use countersign_ledger::{Append, AppendError, Appended, Ledger};
use countersign_proof::canonical::Limits;
use serde_json::json;
use tokio::sync::broadcast;
use uuid::Uuid;

use crate::api::{Offered, VisibleTool};
use crate::breakers::{BreakerRule, Breakers, Change};
use crate::budgets::Budget;
use crate::connections::Connections;
use crate::directory::{Known, WorkspaceMode};
use crate::frozen::FrozenSet;
use crate::hearing::Heard;
use crate::identity::Authenticator;
use crate::keyring::{Keyring, WorkspaceKeys};
use crate::limits::{Limiter, Rates, Sharing, SharingStatus, Suppressed};
use crate::load::{Load, LoadRule};
use crate::meter::{Meter, Stage};
use crate::peers::Peers;
use crate::policies::{PolicyStore, Reloaded};
use crate::record;
use crate::registry::{Registry, ToolState, View};
use crate::upstream::Told;
use crate::waiters::Waiters;

/// How the gate is set.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Accounts that people connect, if any upstream takes them.
    pub connections: Option<Arc<Connections>>,
    /// How often calls may start.
    pub rates: Rates,
    /// Buckets that nodes share, if there are any.
    pub sharing: Option<Sharing>,
    /// How many calls may be under way at a time.
    pub load: LoadRule,
    /// When upstreams and tools are left alone; `None` never does.
    pub breakers: Option<BreakerRule>,
    /// The most open requests of one principal.
    pub open_requests: u32,
    /// What each principal may use up in a period.
    pub budgets: Vec<Budget>,
    /// Bounds of a call's arguments.
    pub arguments: Limits,
    /// How long a recorded answer can be replayed.
    pub idempotency_ttl: Duration,
    /// How long what calls were decided upon is kept, sealed, to be explained and decided again; zero keeps none.
    pub decisions_kept: Duration,
    /// Whether a workspace has to be registered before anyone can act in it.
    pub workspaces: WorkspaceMode,
    /// The clock.
    pub clock: fn() -> Millis,
}

/// What an upstream tells outside of calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Updated {
    /// Whose word it is.
    pub upstream: UpstreamName,
    /// What it says.
    pub told: Told,
}

/// Changes of resources that wait for slow listeners; beyond it, the oldest are lost, and the listener knows.
const UNHEARD: usize = 1_024;

fn seal_purpose(principal: &Principal, purpose: &str) -> Vec<u8> {
    format!("surface|{purpose}|{}", principal.caller_key()).into_bytes()
}

/// The gate. One per node, shared.
pub struct Gate {
    pub(crate) ledger: Ledger,
    pub(crate) registry: Arc<Registry>,
    pub(crate) policies: Arc<PolicyStore>,
    pub(crate) keyring: Arc<Keyring>,
    pub(crate) authenticator: Authenticator,
    pub(crate) settings: Settings,
    pub(crate) limiter: Limiter,
    pub(crate) load: Arc<Load>,
    pub(crate) breakers: Arc<Breakers>,
    pub(crate) suppressed: Suppressed,
    pub(crate) frozen: ArcSwap<FrozenSet>,
    pub(crate) waiters: Waiters,
    updates: broadcast::Sender<Updated>,
    pub(crate) heard: Heard,
    pub(crate) peers: Peers,
    pub(crate) meter: Meter,
    pub(crate) directory: ArcSwap<Known>,
    pub(crate) used_keys: std::sync::Mutex<std::collections::HashMap<String, (WorkspaceName, Millis)>>,
    unauthenticated: std::sync::Mutex<std::collections::BTreeMap<(&'static str, String), u64>>,
    in_flight: AtomicU64,
    /// Calls between intent and outcome.
    running: std::sync::Mutex<std::collections::HashSet<Uuid>>,
}

/// The most different names in one minute's account of refusals before authentication.
const MAX_CAUSES: usize = 64;

impl Gate {
    /// Puts the gate together: marks writes of a dead process as unknown, loads freezes and policies.
    ///
    /// # Errors
    /// If the ledger can't be read or written.
    pub async fn open(
        ledger: Ledger,
        registry: Arc<Registry>,
        policies: Arc<PolicyStore>,
        keyring: impl Into<Arc<Keyring>>,
        authenticator: Authenticator,
        settings: Settings,
    ) -> Result<Arc<Self>, Refusal> {
        let gate = Arc::new(Self {
            limiter: Limiter::new(settings.sharing.clone()),
            load: Load::new(settings.load),
            breakers: Breakers::new(settings.breakers.clone()),
            meter: Meter::new(registry.upstreams().map(|(manifest, _)| manifest.upstream.clone())),
            peers: Peers::new(ledger.is_shared()),
            ledger,
            registry,
            policies,
            keyring: keyring.into(),
            authenticator,
            settings,
            suppressed: Suppressed::default(),
            frozen: ArcSwap::default(),
            waiters: Waiters::default(),
            updates: broadcast::channel(UNHEARD).0,
            heard: Heard::default(),
            directory: ArcSwap::default(),
            used_keys: std::sync::Mutex::default(),
            unauthenticated: std::sync::Mutex::default(),
            in_flight: AtomicU64::new(0),
            running: std::sync::Mutex::default(),
        });
        gate.recover().await?;
        gate.reload_freezes().await?;
        gate.reload_directory().await?;
        gate.reload_policies().await;
        Ok(gate)
    }

    pub(crate) fn now(&self) -> Millis {
        (self.settings.clock)()
    }

    /// The ledger behind the gate, for surfaces that serve the log itself.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The tools, for surfaces that list them.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// The policy sets, for the operator's pages.
    pub fn policies(&self) -> &Arc<PolicyStore> {
        &self.policies
    }

    /// What was counted about calls.
    pub fn meter(&self) -> &Meter {
        &self.meter
    }

    /// Counts a refusal before authentication: no event, one number a minute and cause.
    pub fn note_refusal(&self, surface: &'static str, cause: &str) {
        self.meter.unauthenticated(surface, cause);
        if let Ok(mut counts) = self.unauthenticated.lock() {
            let cause = if counts.len() < MAX_CAUSES { cause.chars().take(40).collect() } else { "other".to_owned() };
            *counts.entry((surface, cause)).or_insert(0) += 1;
        }
    }

    /// How the buckets that nodes share stand, if there are any.
    pub fn sharing(&self) -> Option<SharingStatus> {
        self.limiter.status()
    }

    /// Records that breakers opened or closed, in its own time: no call waits for it.
    pub(crate) fn record_breakers(self: &Arc<Self>, changes: Vec<Change>) {
        for change in changes {
            let kind = if change.opened { EventType::BreakerOpened } else { EventType::BreakerClosed };
            if change.opened {
                self.meter.opened(&change.name);
            }
            tracing::warn!(name = %change.name, opened = change.opened, failure = change.failure, "a breaker changed");
            let draft = EventDraft::new(record::event_id(), WorkspaceName::node(), kind, self.now())
                .by(&Principal::node())
                .with("breaker", change.name.as_str())
                .with("failure", change.failure)
                .with("open_ms", change.opened.then_some(change.open_for.as_millis() as u64));
            let gate = Arc::clone(self);
            tokio::spawn(async move {
                let Ok(entry) = record::entry(draft, None, None, None) else { return };
                if let Err(failure) =
                    gate.append(Append { events: vec![entry], ops: vec![], ..Append::default() }).await
                {
                    tracing::error!(?failure, "a breaker's change could not be recorded");
                }
            });
        }
    }

    /// Calls between intent and outcome right now: what a graceful stop waits for.
    pub fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Acquire)
    }

    pub(crate) fn enter(self: &Arc<Self>, call: Uuid) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::AcqRel);
        self.running.lock().unwrap_or_else(PoisonError::into_inner).insert(call);
        InFlight(Arc::clone(self), call)
    }

    /// The calls that may have an open intent: none of them is abandoned.
    pub(crate) fn running(&self) -> Vec<Uuid> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }

    /// The tools that this caller may see and call, sorted by name.
    pub fn tools(&self, principal: &Principal) -> Vec<VisibleTool> {
        let view = self.registry.peek();
        view.listed(Kind::Tool, principal).into_iter().filter_map(|t| visible(&view, t)).collect()
    }

    /// The prompts, resources or resource templates that this caller may see, sorted by name.
    pub fn offered(&self, kind: Kind, principal: &Principal) -> Vec<Offered> {
        let view = self.registry.peek();
        let offered = |tool: &Arc<crate::registry::Tool>| match &tool.state {
            ToolState::Accepted(accepted) => Some(Offered {
                name: tool.tool.clone(),
                mcp_name: view.mcp_name(&tool.tool).map(str::to_owned),
                pin: accepted.pin,
                definition: Arc::clone(&accepted.definition),
            }),
            ToolState::Quarantined { .. } => None,
        };
        view.listed(kind, principal).into_iter().filter_map(offered).collect()
    }

    /// The prompt with this name on `/mcp`.
    pub fn prompt_by_mcp_name(&self, name: &str) -> Option<ToolRef> {
        let view = self.registry.peek();
        let own = view.prompt_names.tool(name)?;
        let tool = format!("{}{}", countersign_domain::operation::PROMPT_PREFIX, own.tool);
        Some(ToolRef { upstream: own.upstream.clone(), tool })
    }

    /// Whether this caller could read this URI at this upstream, as far as reviews go.
    pub fn has_resource(&self, upstream: &UpstreamName, uri: &str, principal: &Principal) -> bool {
        let view = self.registry.peek();
        view.resource(upstream, uri).is_some_and(|tool| tool.visible_to(principal))
    }

    /// Whether a call of this caller would find what it needs at its upstream beforehand, such as an account that a person has
    /// to connect. Asks no policy and records nothing.
    pub async fn finds_its_credential(&self, principal: &Principal, tool: &ToolRef, until: std::time::Instant) -> bool {
        let upstream = self.registry.peek().tool(tool).map(|tool| Arc::clone(&tool.upstream));
        match upstream {
            Some(upstream) => upstream.ready(principal, until).await.is_ok(),
            None => false,
        }
    }

    /// Whether this caller may read resources of this upstream that nobody listed.
    pub fn reads_unlisted(&self, upstream: &UpstreamName, principal: &Principal) -> bool {
        let name =
            ToolRef { upstream: upstream.clone(), tool: countersign_domain::operation::READ_RESOURCE.to_owned() };
        let view = self.registry.peek();
        view.tool(&name).is_some_and(|tool| tool.reads_unlisted() && tool.visible_to(principal))
    }

    /// Resources that upstreams say have changed, from now on.
    pub fn updates(&self) -> broadcast::Receiver<Updated> {
        self.updates.subscribe()
    }

    /// Seals bytes that a surface gives out, for a purpose and to be taken back from this caller alone. Any node of the
    /// workspace opens it again.
    ///
    /// # Errors
    /// If the workspace's key can't be had.
    pub async fn seal(&self, principal: &Principal, purpose: &str, plain: &[u8]) -> Result<String, Refusal> {
        let keys = self.keys(&principal.workspace).await?;
        let sealed = keys
            .seal(&seal_purpose(principal, purpose), plain)
            .map_err(|_| Refusal::new(RefusalKind::Internal, "the state could not be sealed"))?;
        Ok(URL_SAFE_NO_PAD.encode(sealed))
    }

    /// Opens what [`Gate::seal`] sealed for the same purpose and caller; `None` for anything else.
    ///
    /// # Errors
    /// If the workspace's key can't be had.
    pub async fn unseal(&self, principal: &Principal, purpose: &str, sealed: &str) -> Result<Option<Vec<u8>>, Refusal> {
        let keys = self.keys(&principal.workspace).await?;
        let bytes = URL_SAFE_NO_PAD.decode(sealed).ok();
        Ok(bytes.and_then(|bytes| keys.open(&seal_purpose(principal, purpose), &bytes).ok()))
    }

    /// Grows whenever [`Gate::tools`] may answer differently.
    pub fn catalog_version(&self) -> u64 {
        self.registry.peek().version
    }

    /// The tool with this name on `/mcp`.
    pub fn tool_by_mcp_name(&self, name: &str) -> Option<ToolRef> {
        self.registry.peek().mcp_names.tool(name).cloned()
    }

    /// The tool with this name on `/mcp/{upstream}`.
    pub fn tool_by_own_name(&self, upstream: &UpstreamName, name: &str) -> Option<ToolRef> {
        self.registry.peek().own_names.get(upstream)?.tool(name).cloned()
    }

    pub(crate) async fn keys(&self, workspace: &WorkspaceName) -> Result<Arc<WorkspaceKeys>, Refusal> {
        self.keyring.workspace(workspace).await.map_err(|e| {
            tracing::error!(error = %e, %workspace, "workspace key");
            ledger_away()
        })
    }

    /// Appends, with everything but conflicts turned into the one refusal that callers get when the ledger can't record.
    pub(crate) async fn append(&self, append: Append) -> Result<Appended, AppendFailure> {
        let _timed = self.meter.time(Stage::Commit);
        self.ledger.append(append).await.map_err(|e| match e {
            AppendError::Conflict(conflict) => AppendFailure::Conflict(conflict),
            other => {
                tracing::error!(error = %other, "append failed");
                AppendFailure::Refused(ledger_away())
            }
        })
    }

    pub(crate) async fn read<T, F>(&self, read: F) -> Result<T, Refusal>
    where
        T: Send + 'static,
        F: FnOnce(&dyn countersign_ledger::Reader) -> Result<T, countersign_ledger::StoreError> + Send + 'static,
    {
        self.ledger.read(read).await.map_err(|e| {
            tracing::error!(error = %e, "ledger read failed");
            ledger_away()
        })
    }

    pub(crate) async fn reload_freezes(&self) -> Result<(), Refusal> {
        let rows = self.read(|r| r.freezes()).await?;
        self.frozen.store(Arc::new(FrozenSet::new(rows)));
        Ok(())
    }

    /// The policies have been tried against the catalog of now: whoever sees a tool listed is not refused because the set
    /// in force has not heard of it yet.
    pub(crate) async fn policies_know_the_catalog(&self) {
        if self.policies.catalog() < self.registry.peek().version {
            self.reload_policies().await;
        }
    }

    /// Reads the policies again. A set that does not load leaves the old one in force and says so in the log and the ledger.
    pub async fn reload_policies(&self) -> Reloaded {
        let (policies, registry) = (Arc::clone(&self.policies), Arc::clone(&self.registry));
        let tools = move || {
            let view = registry.view();
            (view.version, view.descriptions())
        };
        let reloaded = tokio::task::spawn_blocking(move || policies.reload(tools)).await.unwrap_or(Reloaded::Unchanged);
        let draft =
            |kind| EventDraft::new(record::event_id(), WorkspaceName::node(), kind, self.now()).by(&Principal::node());
        let draft = match &reloaded {
            Reloaded::Unchanged => return reloaded,
            Reloaded::InForce(version) => {
                tracing::info!(version, "policies in force");
                draft(EventType::PolicyLoaded).with("policy", json!({"version": version}))
            }
            Reloaded::Refused(problems) => {
                if self.policies.current().is_some() {
                    for problem in problems {
                        tracing::error!(%problem, "policy refused; the set before it stays in force");
                    }
                } else if let Some(first) = problems.first() {
                    // Before the first tools are accepted, every policy that names one is refused: once is enough.
                    tracing::warn!(problems = problems.len(), %first, "no policies are in force, so every call is denied");
                }
                let texts: Vec<String> = problems.iter().take(20).map(ToString::to_string).collect();
                draft(EventType::PolicyRejected).with("problems", json!(texts))
            }
        };
        if let Ok(entry) = record::entry(draft, None, None, None)
            && let Err(AppendFailure::Refused(why)) =
                self.append(Append { events: vec![entry], ops: vec![], ..Append::default() }).await
        {
            tracing::error!(%why, "a policy change could not be recorded");
        }
        reloaded
    }

    /// What runs beside the calls: upstream watching, expiry, aggregates, limiter sweeps. Ends when the handles are aborted.
    pub fn run_background(self: &Arc<Self>) -> Vec<tokio::task::JoinHandle<()>> {
        let gate = Arc::clone(self);
        let mut handles = self.registry.watch(move || {
            let gate = Arc::clone(&gate);
            tokio::spawn(async move { gate.reload_policies().await });
        });
        for (manifest, upstream) in self.registry.upstreams() {
            let (name, mut heard, gate) = (manifest.upstream.clone(), upstream.updates(), Arc::clone(self));
            handles.push(tokio::spawn(async move {
                loop {
                    match heard.recv().await {
                        // Without listeners there is nobody to tell.
                        Ok(told) => drop(gate.updates.send(Updated { upstream: name.clone(), told })),
                        Err(broadcast::error::RecvError::Lagged(_)) => {}
                        Err(broadcast::error::RecvError::Closed) => return,
                    }
                }
            }));
        }
        let gate = Arc::clone(self);
        handles.push(tokio::spawn(async move { gate.housekeeping().await }));
        handles.push(tokio::spawn(Arc::clone(self).follow_directory()));
        if self.ledger.is_shared() {
            handles.push(tokio::spawn(Arc::clone(self).follow_peers()));
        }
        handles
    }

    async fn housekeeping(self: Arc<Self>) {
        let mut tick = tokio::time::interval(Duration::from_secs(5));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for round in 0_u64.. {
            tick.tick().await;
            if let Err(why) = self.expire_requests().await {
                tracing::warn!(%why, "expired requests could not be closed");
            }
            if let Err(why) = self.recover().await {
                tracing::warn!(%why, "writes of nodes that died could not be marked as unknown");
            }
            if let Err(why) = self.forget_decisions().await {
                tracing::warn!(%why, "decisions that have had their time could not be forgotten");
            }
            if round % 12 == 11 {
                self.flush_aggregates().await;
                self.limiter.sweep();
            }
        }
    }

    /// Writes down what was only counted: refusals before authentication, and refusals by limits beyond the first.
    pub async fn flush_aggregates(&self) {
        let now = self.now();
        let counts = self.unauthenticated.lock().map(|mut c| std::mem::take(&mut *c)).unwrap_or_default();
        let mut append = Append { ops: self.drain_used_keys(), ..Append::default() };
        if !counts.is_empty() {
            let counts = counts.into_iter().map(|((surface, cause), n)| (format!("{surface}/{cause}"), n)).collect();
            append.ops.push(StateOp::CountRefusals { minute: now / 60_000, counts });
        }
        for (workspace, key, more) in self.suppressed.drain() {
            let Ok(workspace) = workspace.parse::<WorkspaceName>() else { continue };
            let draft = EventDraft::new(record::event_id(), workspace, EventType::CallDenied, now)
                .by(&Principal::node())
                .with(
                    "reason",
                    json!({"kind": RefusalKind::RateLimited.slug(), "detail": "further refusals of the last window"}),
                )
                .with("limited", key)
                .with("count", more);
            append.events.extend(record::entry(draft, None, None, None));
        }
        if append.events.is_empty() && append.ops.is_empty() {
            return;
        }
        if let Err(AppendFailure::Refused(why)) = self.append(append).await {
            tracing::warn!(%why, "aggregates were lost");
        }
    }
}

/// Counts a call as in flight until it is dropped.
pub(crate) struct InFlight(Arc<Gate>, Uuid);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.1);
        self.0.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Why an append did not happen.
#[derive(Debug)]
pub(crate) enum AppendFailure {
    Conflict(countersign_ledger::state::Conflict),
    Refused(Refusal),
}

impl AppendFailure {
    /// For appends whose operations can't conflict with anything that a caller did.
    pub fn unexpected(self) -> Refusal {
        match self {
            AppendFailure::Refused(refusal) => refusal,
            AppendFailure::Conflict(conflict) => {
                tracing::error!(%conflict, "unexpected conflict");
                Refusal::new(RefusalKind::Internal, "the state changed underneath this request; try again")
            }
        }
    }
}

pub(crate) fn ledger_away() -> Refusal {
    let mut refusal = Refusal::new(
        RefusalKind::LedgerUnavailable,
        "the ledger cannot record right now, so nothing is allowed to happen; try again later",
    );
    refusal.retry_after = Some(5);
    refusal
}

fn visible(view: &View, tool: &crate::registry::Tool) -> Option<VisibleTool> {
    let ToolState::Accepted(accepted) = &tool.state else { return None };
    Some(VisibleTool {
        mcp_name: view.mcp_names.name(&tool.tool)?.to_owned(),
        own_name: view.own_names.get(&tool.tool.upstream)?.name(&tool.tool)?.to_owned(),
        tool: tool.tool.clone(),
        effect: tool.effect,
        pin: accepted.pin,
        definition: Arc::clone(&accepted.definition),
    })
}
