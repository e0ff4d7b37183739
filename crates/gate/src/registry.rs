//! Which tools there are: manifests, accepted pins and what the upstreams say right now.
//!
//! Calls go by accepted pins alone. Before the first call to an upstream, and after every hint that its tools may have
//! changed, its definitions are listed again and compared; a tool whose definition differs is quarantined until a person
//! accepts the new one. The view is swapped as a whole, so a call sees one state of the catalog from start to end.

use std::cell::LazyCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use countersign_catalog::manifest::{Cooldown, CostRule};
use countersign_catalog::names::Cause;
use countersign_catalog::scan::{Severity, Surroundings, scan};
use countersign_catalog::{
    Definition, Kind, Manifest, NameMap, Review, ToolSettings, UriTemplate, confusable_key, mcp_names, own_names,
};
use countersign_domain::{
    Effect, EventDraft, EventType, Millis, Operation, Principal, Refusal, RefusalKind, ToolRef, UpstreamName,
    WorkspaceName,
};
use countersign_ledger::state::{PinRow, PinStatus, StateOp};
use countersign_ledger::{Append, Ledger};
use countersign_policy::ToolDescription;
use countersign_proof::digest::Digest;
use serde_json::{Value, json};
use tokio::sync::{Mutex, watch};

use crate::findings::{Scanned, needs_a_look, standing, summary, surroundings};
use crate::limits::Rate;
use crate::operations::{self, Template};
use crate::record;
use crate::upstream::{Discovered, Upstream};

/// How long a re-listing before a call may take.
const VERIFY_TIMEOUT: Duration = Duration::from_secs(20);
/// The most definitions of prompts and resources that are kept of one upstream; further ones are not looked at.
const MAX_OFFERED: usize = 10_000;
/// The most schema problems that a refusal names.
const MAX_PROBLEMS: usize = 8;

/// A tool in the current view.
pub struct Tool {
    /// Its name.
    pub tool: ToolRef,
    /// Its effect by our manifest.
    pub effect: Effect,
    /// How long a call may take.
    pub timeout: Duration,
    /// Whether it executes as soon as nothing is owed.
    pub execute_on_approval: bool,
    /// The manifest's own limit, per principal.
    pub limit: Option<Rate>,
    /// What a call costs, for budgets.
    pub cost: Option<CostRule>,
    /// The pause between calls of one principal.
    pub cooldown: Option<Cooldown>,
    /// Whether calls can be made, and by which definition.
    pub state: ToolState,
    /// Where it lives.
    pub upstream: Arc<dyn Upstream>,
    hidden: bool,
    listed: bool,
    manifest: Arc<Manifest>,
}

/// How a tool stands.
pub enum ToolState {
    /// Reviewed and unchanged as far as is known.
    Accepted(Accepted),
    /// Not callable until a person accepts it.
    Quarantined {
        /// The definition that was accepted before, if any.
        accepted: Option<Digest>,
        /// Why.
        reason: String,
    },
}

/// A reviewed definition, ready for use.
pub struct Accepted {
    /// Its pin.
    pub pin: Digest,
    /// The raw definition as a value, unknown members included.
    pub definition: Arc<Value>,
    /// JSON Schema of the arguments.
    pub input_schema: Value,
    validator: jsonschema::Validator,
}

impl Accepted {
    /// What is wrong with these arguments, or nothing.
    pub fn schema_problems(&self, input: &Value) -> Option<Vec<String>> {
        if self.validator.is_valid(input) {
            return None;
        }
        let problem = |e: jsonschema::ValidationError<'_>| {
            let place = e.instance_path().to_string();
            let place = if place.is_empty() { "arguments".to_owned() } else { place };
            let text: String = e.masked().to_string().chars().take(300).collect();
            format!("{place}: {text}")
        };
        Some(self.validator.iter_errors(input).take(MAX_PROBLEMS).map(problem).collect())
    }
}

impl Tool {
    /// The accepted pin, if any.
    pub fn pin(&self) -> Option<Digest> {
        match &self.state {
            ToolState::Accepted(accepted) => Some(accepted.pin),
            ToolState::Quarantined { accepted, .. } => *accepted,
        }
    }

    /// Whether this caller may know of the tool.
    pub fn visible_to(&self, principal: &Principal) -> bool {
        !self.hidden && self.manifest.visible_to(&principal.workspace)
    }

    /// Whether the upstream listed it when it was last asked; what was never asked about counts as listed.
    pub fn is_listed(&self) -> bool {
        self.listed
    }

    /// Whether resources may be read that nobody listed.
    pub(crate) fn reads_unlisted(&self) -> bool {
        self.manifest.resources.unlisted
    }

    /// Whether the upstream may send people to this host.
    pub(crate) fn may_send_to(&self, host: &str) -> bool {
        self.manifest.elicitation.allows(host)
    }

    /// Whether calls can be made.
    ///
    /// # Errors
    /// [`RefusalKind::Quarantined`], with why and what to do.
    pub fn callable(&self) -> Result<(), Refusal> {
        match &self.state {
            ToolState::Accepted(_) => Ok(()),
            ToolState::Quarantined { reason, .. } => {
                let detail = format!(
                    "{} is quarantined: {reason}. An operator reviews it with `countersign tools diff {0}` and `tools accept {0}`",
                    self.tool,
                );
                Err(Refusal::new(RefusalKind::Quarantined, detail))
            }
        }
    }
}

/// The catalog at one moment.
#[derive(Default)]
pub struct View {
    tools: HashMap<ToolRef, Arc<Tool>>,
    /// Names on `/mcp`.
    pub mcp_names: NameMap,
    /// Names on `/mcp/{upstream}`.
    pub own_names: BTreeMap<UpstreamName, NameMap>,
    /// Names of prompts on `/mcp`.
    pub prompt_names: NameMap,
    /// Resource templates by upstream, in the order of their names.
    pub(crate) templates: BTreeMap<UpstreamName, Vec<Template>>,
    /// All rows behind it, for reports.
    pub pins: Vec<PinRow>,
    /// Findings by tool.
    pub findings: BTreeMap<ToolRef, Vec<String>>,
    /// What the scan found in the newest definitions.
    pub scanned: Arc<Scanned>,
    /// Grows with every change, so that surfaces can cache what they render.
    pub version: u64,
}

impl View {
    /// A tool by its name.
    pub fn tool(&self, tool: &ToolRef) -> Option<&Arc<Tool>> {
        self.tools.get(tool)
    }
    /// The name on `/mcp` of a tool or prompt.
    pub fn mcp_name(&self, tool: &ToolRef) -> Option<&str> {
        match Operation::of(&tool.tool) {
            Operation::Prompt(own) => {
                self.prompt_names.name(&ToolRef { upstream: tool.upstream.clone(), tool: own.to_owned() })
            }
            _ => self.mcp_names.name(tool),
        }
    }
    /// All tools and other operations, in no order.
    pub fn tools(&self) -> impl Iterator<Item = &Arc<Tool>> {
        self.tools.values()
    }
    /// What the policies' schema is made of: the accepted definitions, sorted.
    pub fn descriptions(&self) -> Vec<ToolDescription> {
        let actions = self.tools.values().filter(|t| is_action(&t.tool));
        let described = actions.filter_map(|t| {
            let input_schema = match &t.state {
                ToolState::Accepted(accepted) => accepted.input_schema.clone(),
                // A quarantined tool keeps its accepted definition in the schema: policies about it stay loadable.
                ToolState::Quarantined { .. } => self.accepted_schema(&t.tool)?,
            };
            Some(ToolDescription { tool: t.tool.clone(), effect: t.effect, input_schema })
        });
        let mut all: Vec<_> = described.collect();
        all.sort_by(|a, b| a.tool.cmp(&b.tool));
        all
    }

    fn accepted_schema(&self, tool: &ToolRef) -> Option<Value> {
        let row = self.pins.iter().find(|p| p.tool == *tool && p.status == PinStatus::Accepted)?;
        schema_of(tool, &row.definition)
    }

    /// The same with one tool's definition replaced: what would be if it were accepted.
    pub fn descriptions_with(&self, tool: &ToolRef, effect: Effect, definition: &str) -> Vec<ToolDescription> {
        let mut all = self.descriptions();
        if is_action(tool) {
            all.retain(|d| d.tool != *tool);
            let input_schema = schema_of(tool, definition).unwrap_or_else(|| json!({"type": "object"}));
            all.push(ToolDescription { tool: tool.clone(), effect, input_schema });
            all.sort_by(|a, b| a.tool.cmp(&b.tool));
        }
        all
    }
}

/// Resources are reviewed, but not acted upon by themselves.
fn is_action(tool: &ToolRef) -> bool {
    !matches!(Operation::of(&tool.tool), Operation::Resource(_))
}

/// The schema of a call's arguments by a stored definition.
pub(crate) fn schema_of(tool: &ToolRef, definition: &str) -> Option<Value> {
    Definition::read(Kind::of(&tool.tool), definition).ok().map(|d| d.input_schema)
}

struct Source {
    manifest: Arc<Manifest>,
    upstream: Arc<dyn Upstream>,
    /// `changes()` value up to which the definitions were verified, plus one; 0 is never.
    verified: AtomicU64,
    refreshing: Mutex<()>,
    /// The names of the prompts and resources that it last listed; `None` until it was asked.
    offered: ArcSwap<Option<HashSet<String>>>,
}

/// Keeps the view true.
pub struct Registry {
    sources: BTreeMap<UpstreamName, Source>,
    view: ArcSwap<View>,
    ledger: Ledger,
    clock: fn() -> Millis,
    rebuilding: Mutex<()>,
    versions: watch::Sender<u64>,
    /// Definitions with a finding of this severity or above are not accepted unless the rule is named.
    quarantine_at: Option<Severity>,
}

/// Why a refresh failed.
#[derive(Debug, thiserror::Error)]
pub enum RefreshError {
    /// The upstream did not list its tools.
    #[error("{0}")]
    Upstream(String),
    /// The ledger could not record what was found.
    #[error("the ledger cannot record: {0}")]
    Ledger(String),
    /// No such upstream.
    #[error("there is no upstream of that name")]
    Unknown,
}

impl Registry {
    /// A registry over manifests with their upstreams; the view starts from the stored pins.
    ///
    /// # Errors
    /// If the stored pins can't be read.
    pub async fn open(
        upstreams: Vec<(Manifest, Arc<dyn Upstream>)>,
        ledger: Ledger,
        clock: fn() -> Millis,
    ) -> Result<Self, RefreshError> {
        let sources = upstreams.into_iter().map(|(manifest, upstream)| {
            let name = manifest.upstream.clone();
            let manifest = Arc::new(manifest);
            let (verified, refreshing, offered) = (AtomicU64::new(0), Mutex::new(()), ArcSwap::default());
            (name, Source { manifest, upstream, verified, refreshing, offered })
        });
        let registry = Self {
            sources: sources.collect(),
            view: ArcSwap::from_pointee(View::default()),
            ledger,
            clock,
            rebuilding: Mutex::new(()),
            versions: watch::channel(0).0,
            quarantine_at: Some(Severity::High),
        };
        registry.rebuild().await?;
        Ok(registry)
    }

    /// Sets from which severity on a finding keeps a definition from being accepted; `None` is never. `high` otherwise.
    #[must_use]
    pub fn with_quarantine_at(mut self, severity: Option<Severity>) -> Self {
        self.quarantine_at = severity;
        self
    }

    /// From which severity on a finding keeps a definition from being accepted.
    pub fn quarantine_at(&self) -> Option<Severity> {
        self.quarantine_at
    }

    /// The catalog right now.
    pub fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// Follows the catalog's version, for those who tell others that it changed.
    pub fn versions(&self) -> watch::Receiver<u64> {
        self.versions.subscribe()
    }

    /// The catalog right now, for a short look.
    pub(crate) fn peek(&self) -> arc_swap::Guard<Arc<View>> {
        self.view.load()
    }

    /// All upstreams with their manifests.
    pub fn upstreams(&self) -> impl Iterator<Item = (&Manifest, &Arc<dyn Upstream>)> {
        self.sources.values().map(|s| (&*s.manifest, &s.upstream))
    }

    /// Whether an upstream's definitions were compared since it last may have changed.
    fn is_verified(&self, source: &Source) -> bool {
        source.verified.load(Ordering::Acquire) == *source.upstream.changes().borrow() + 1
    }

    /// Makes sure that an upstream's definitions have been compared since they last may have changed.
    ///
    /// # Errors
    /// [`RefusalKind::UpstreamUnavailable`]: a call by an unverified definition is not made.
    pub async fn verify(&self, upstream: &UpstreamName) -> Result<(), Refusal> {
        let Some(source) = self.sources.get(upstream) else { return Ok(()) };
        if self.is_verified(source) {
            return Ok(());
        }
        self.refresh_now(upstream).await
    }

    /// Lists an upstream's tools again, whatever is known of them: before an approved call is executed.
    ///
    /// # Errors
    /// As [`Registry::verify`].
    pub async fn refresh_now(&self, upstream: &UpstreamName) -> Result<(), Refusal> {
        let refreshed = tokio::time::timeout(VERIFY_TIMEOUT, self.refresh(upstream)).await;
        let why = match refreshed {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(RefreshError::Ledger(why))) => {
                tracing::error!(why, "could not record a refresh");
                return Err(Refusal::new(
                    RefusalKind::LedgerUnavailable,
                    "the ledger cannot record right now; nothing was done",
                ));
            }
            Ok(Err(why)) => why.to_string(),
            Err(_) => format!("it did not list its tools within {} s", VERIFY_TIMEOUT.as_secs()),
        };
        let detail = format!("the upstream {upstream} can't be verified, so nothing was sent to it: {why}");
        Err(Refusal::new(RefusalKind::UpstreamUnavailable, detail))
    }

    /// Lists an upstream's tools, records what is new or changed, and swaps the view if anything is.
    ///
    /// # Errors
    /// If the upstream or the ledger does not do its part; the view stays.
    pub async fn refresh(&self, name: &UpstreamName) -> Result<(), RefreshError> {
        let source = self.sources.get(name).ok_or(RefreshError::Unknown)?;
        let _single_flight = source.refreshing.lock().await;
        // Read before listing: a change during the listing makes the next call verify again.
        let seen = *source.upstream.changes().borrow();
        let offer = source.upstream.discover().await.map_err(|e| RefreshError::Upstream(e.to_string()))?;
        let stored = self.ledger.read(|r| r.pins()).await.map_err(|e| RefreshError::Ledger(e.to_string()))?;
        let (append, names) = self.compare(source, &offer, &stored)?;
        let is_same = source.offered.load().as_ref().as_ref() == Some(&names);
        if !is_same {
            source.offered.store(Arc::new(Some(names)));
        }
        let is_changed = !append.ops.is_empty();
        if is_changed {
            self.ledger.append(append).await.map_err(|e| RefreshError::Ledger(e.to_string()))?;
        }
        if is_changed || !is_same {
            self.rebuild().await?;
        }
        source.verified.store(seen + 1, Ordering::Release);
        Ok(())
    }

    /// What is new or changed, and the names of the prompts and resources in the offer.
    fn compare(
        &self,
        source: &Source,
        offer: &Discovered,
        stored: &[PinRow],
    ) -> Result<(Append, HashSet<String>), RefreshError> {
        let upstream = &source.manifest.upstream;
        // Only what is new or changed is scanned, so mostly nothing has to be gathered.
        let around = LazyCell::new(|| surroundings(stored, upstream.as_str(), &offer.tools));
        let stored: HashMap<(&str, bool), Digest> = stored
            .iter()
            .filter(|p| p.tool.upstream == *upstream)
            .map(|p| ((p.tool.tool.as_str(), p.status == PinStatus::Accepted), p.pin))
            .collect();
        let lists = [
            (Kind::Tool, &offer.tools),
            (Kind::Prompt, &offer.prompts),
            (Kind::Resource, &offer.resources),
            (Kind::Template, &offer.resource_templates),
        ];
        let mut append = Append::default();
        let (mut seen, mut names) = (HashSet::new(), HashSet::new());
        for (kind, raw) in lists.iter().flat_map(|(kind, list)| list.iter().map(|raw| (*kind, raw.get()))) {
            let definition = match Definition::read(kind, raw) {
                Ok(definition) => definition,
                Err(why) => {
                    let (name, kind) = (countersign_catalog::definition::name_for_messages(raw), kind.as_str());
                    tracing::warn!(%upstream, kind, name, %why, "a definition can't be pinned, so it can't be used");
                    continue;
                }
            };
            if kind != Kind::Tool && names.len() == MAX_OFFERED {
                tracing::warn!(%upstream, "it offers more prompts and resources than {MAX_OFFERED}; the rest can't be used");
                break;
            }
            if !seen.insert(definition.name.clone()) {
                tracing::warn!(%upstream, name = definition.name, "listed twice; only the first counts");
                continue;
            }
            if kind != Kind::Tool {
                names.insert(definition.name.clone());
            }
            let known = |accepted| stored.get(&(definition.name.as_str(), accepted)).copied();
            let standing = (known(true), known(false));
            self.compare_one(source, (kind, raw, &definition), standing, &around, &mut append)?;
        }
        Ok((append, names))
    }

    /// One definition against what is accepted and proposed under its name.
    fn compare_one(
        &self,
        source: &Source,
        (kind, raw, definition): (Kind, &str, &Definition),
        (accepted, proposed): (Option<Digest>, Option<Digest>),
        around: &Surroundings,
        append: &mut Append,
    ) -> Result<(), RefreshError> {
        let now = (self.clock)();
        let tool = ToolRef { upstream: source.manifest.upstream.clone(), tool: definition.name.clone() };
        let settings = source.manifest.tool(&definition.name);
        let pin_row = |status, by| PinRow {
            tool: tool.clone(),
            pin: definition.pin,
            definition: raw.to_owned(),
            status,
            at: now,
            by,
        };
        let draft = |kind| {
            EventDraft::new(record::event_id(), WorkspaceName::node(), kind, now).by(&Principal::node()).tool(
                &tool,
                Some(&definition.pin),
                settings.effect,
            )
        };
        if accepted == Some(definition.pin) {
            if proposed.is_some() {
                append.ops.push(StateOp::PinWithdraw { tool });
            }
            return Ok(());
        }
        let members = Value::Object(definition.members.clone());
        let found = scan(kind, tool.upstream.as_str(), &members, around);
        let blocked = !standing(&found, self.quarantine_at, &settings.despite).is_empty();
        // A manifest that asserts a pin leaves nothing to the checks.
        let checked = source.manifest.review(kind) == Review::Scanned && !needs_a_look(&found);
        let by_checks = settings.pin.is_none() && checked;
        let accepting = match settings.pin {
            // What is grave is not accepted by itself, whoever asserts it, unless the manifest names it.
            _ if blocked => None,
            Some(pin) if pin == definition.pin => Some("manifest"),
            // The definition is the manifest's own text and nothing was accepted before. A later change of that text is a
            // change like any other: policies and people relied on the old one.
            None if accepted.is_none() && source.manifest.describes_its_tools() => Some("manifest"),
            _ if by_checks => Some("checks"),
            _ => None,
        };
        if let Some(by) = accepting {
            append.ops.push(StateOp::PinPropose { row: pin_row(PinStatus::Proposed, None) });
            append.ops.push(StateOp::PinAccept { row: pin_row(PinStatus::Accepted, Some(by.into())) });
            let draft = draft(EventType::ToolAccepted).with("by", by).with("findings", summary(&found));
            self.push(append, draft, &tool)?;
        } else if proposed != Some(definition.pin) {
            append.ops.push(StateOp::PinPropose { row: pin_row(PinStatus::Proposed, None) });
            let why = if accepted.is_some() { "changed" } else { "new" };
            let before = accepted.map(|p| p.to_string());
            let draft = draft(EventType::ToolQuarantined)
                .with("cause", why)
                .with("accepted_pin", before)
                .with("findings", summary(&found));
            self.push(append, draft, &tool)?;
        }
        Ok(())
    }

    fn push(&self, append: &mut Append, draft: EventDraft, tool: &ToolRef) -> Result<(), RefreshError> {
        let entry =
            record::entry(draft, None, None, Some(tool.to_string())).map_err(|e| RefreshError::Ledger(e.detail))?;
        append.events.push(entry);
        Ok(())
    }

    /// Builds the view anew from the stored pins.
    ///
    /// # Errors
    /// If the pins can't be read; the old view stays.
    pub async fn rebuild(&self) -> Result<(), RefreshError> {
        let _one_at_a_time = self.rebuilding.lock().await;
        let pins = self.ledger.read(|r| r.pins()).await.map_err(|e| RefreshError::Ledger(e.to_string()))?;
        let version = self.view.load().version + 1;
        let before = Arc::clone(&self.view.load().scanned);
        let scanned = Scanned::of(&pins, &before).map_or(before, Arc::new);
        self.view.store(Arc::new(self.build(pins, version, scanned)));
        self.versions.send_replace(version);
        Ok(())
    }

    fn build(&self, pins: Vec<PinRow>, version: u64, scanned: Arc<Scanned>) -> View {
        let mut by_tool: BTreeMap<ToolRef, (Option<&PinRow>, Option<&PinRow>)> = BTreeMap::new();
        for row in &pins {
            let slot = by_tool.entry(row.tool.clone()).or_default();
            match row.status {
                PinStatus::Accepted => slot.0 = Some(row),
                PinStatus::Proposed => slot.1 = Some(row),
            }
        }
        let mut tools = HashMap::new();
        let mut findings: BTreeMap<ToolRef, Vec<String>> = BTreeMap::new();
        // Alike names mislead where they are chosen by name; resources go by their URIs.
        let by_name = by_tool.iter().filter(|(t, _)| is_action(t));
        let confusable = confusables(by_name.map(|(t, (a, _))| (t, a.is_some())));
        let mut templates: BTreeMap<UpstreamName, Vec<Template>> = BTreeMap::new();
        for (tool, (accepted, proposed)) in &by_tool {
            let Some(source) = self.sources.get(&tool.upstream) else { continue };
            let (state, mut found) = state_of(*accepted, *proposed, confusable.get(tool));
            if Kind::of(&tool.tool) == Kind::Template {
                let form = Operation::of(&tool.tool);
                match form_of(form) {
                    Some(form) => {
                        templates.entry(tool.upstream.clone()).or_default().push(Template { name: tool.clone(), form })
                    }
                    None => found.push("its form cannot be matched, so nothing is read by it".to_owned()),
                }
            }
            if !found.is_empty() {
                findings.insert(tool.clone(), found);
            }
            tools.insert(tool.clone(), Arc::new(make_tool(source, tool, state)));
        }
        for source in self.sources.values() {
            let own = source.manifest.speaks_mcp().then(|| operations::fixed(&source.manifest.upstream));
            let connect = source.manifest.has_accounts().then(|| operations::connect(&source.manifest.upstream));
            for (tool, raw) in own.into_iter().flatten().chain(connect) {
                let state = match fixed_state(raw) {
                    Ok(accepted) => ToolState::Accepted(accepted),
                    Err(reason) => ToolState::Quarantined { accepted: None, reason },
                };
                let made = make_tool(source, &tool, state);
                tools.insert(tool, Arc::new(made));
            }
        }
        let is_tool = |name: &&ToolRef| matches!(Operation::of(&name.tool), Operation::Tool(_));
        let mut names: Vec<ToolRef> = tools.keys().filter(is_tool).cloned().collect();
        names.sort();
        let prompt = |name: &ToolRef| match Operation::of(&name.tool) {
            Operation::Prompt(own) => Some(ToolRef { upstream: name.upstream.clone(), tool: own.to_owned() }),
            _ => None,
        };
        let prompts: Vec<ToolRef> = tools.keys().filter_map(prompt).collect();
        let mut own: BTreeMap<UpstreamName, Vec<ToolRef>> = BTreeMap::new();
        for tool in &names {
            own.entry(tool.upstream.clone()).or_default().push(tool.clone());
        }
        let prompt_names = mcp_names(&prompts);
        let mcp_names = mcp_names(&names);
        for altered in mcp_names.collisions() {
            let words = match altered.cause {
                Cause::Replaced => "it has characters that MCP clients refuse",
                Cause::Truncated => "it is too long for MCP clients",
                Cause::Reserved => "its own name is reserved",
                Cause::Collides => "another tool has its name",
            };
            let finding = format!("over MCP it is called {}: {words}", altered.name);
            findings.entry(altered.tool.clone()).or_default().push(finding);
        }
        View {
            tools,
            mcp_names,
            own_names: own.into_iter().map(|(upstream, tools)| (upstream, own_names(&tools))).collect(),
            prompt_names,
            templates,
            pins,
            findings,
            scanned,
            version,
        }
    }

    /// What the upstream speaks: `mcp` or something of its own.
    pub fn protocol(&self, upstream: &UpstreamName) -> &'static str {
        match self.sources.get(upstream) {
            Some(source) if source.manifest.speaks_mcp() => "mcp",
            Some(_) | None => "other",
        }
    }

    /// Whether people connect accounts for an upstream.
    pub fn has_accounts(&self, upstream: &UpstreamName) -> bool {
        self.sources.get(upstream).is_some_and(|source| source.manifest.has_accounts())
    }

    /// Settings of a tool by its manifest.
    pub fn settings(&self, tool: &ToolRef) -> Option<ToolSettings> {
        self.sources.get(&tool.upstream).map(|s| s.manifest.tool(&tool.tool))
    }

    /// Verifies each upstream when it says that it changed, and lists those again that run, at their manifest's interval.
    /// Runs until the returned handles are aborted.
    pub fn watch(self: &Arc<Self>, after: impl Fn() + Clone + Send + 'static) -> Vec<tokio::task::JoinHandle<()>> {
        let names: Vec<_> = self.sources.keys().cloned().collect();
        let watch = |name: UpstreamName| {
            let registry = Arc::clone(self);
            let after = after.clone();
            tokio::spawn(async move { registry.watch_one(&name, after).await })
        };
        names.into_iter().map(watch).collect()
    }

    async fn watch_one(&self, name: &UpstreamName, after: impl Fn()) {
        let Some(source) = self.sources.get(name) else { return };
        let mut changes = source.upstream.changes();
        let mut first = true;
        loop {
            let version = self.view.load().version;
            // An upstream that is idle is not started for the sake of looking; its first call verifies it. One that is
            // not known at all is looked at once, so that the operator has something to review.
            let known = self.view.load().pins.iter().any(|p| p.tool.upstream == *name);
            if (first && !known) || source.upstream.status().state == "ready" {
                if let Err(why) = self.refresh(name).await {
                    tracing::warn!(upstream = %name, %why, "could not list the upstream's tools");
                }
                if self.view.load().version != version {
                    after();
                }
            }
            first = false;
            let pause = tokio::time::sleep(source.manifest.refresh);
            tokio::select! {
                () = pause => {}
                changed = changes.changed() => if changed.is_err() { return },
            }
        }
    }
}

fn make_tool(source: &Source, tool: &ToolRef, state: ToolState) -> Tool {
    let settings = source.manifest.tool(&tool.tool);
    let limit = settings.rate_limit.map(|l| Rate { calls: l.calls, per: l.per });
    Tool {
        tool: tool.clone(),
        effect: settings.effect,
        timeout: settings.timeout,
        execute_on_approval: settings.execute_on_approval,
        limit,
        cost: settings.cost,
        cooldown: settings.cooldown,
        state,
        upstream: Arc::clone(&source.upstream),
        hidden: settings.hidden,
        listed: source
            .offered
            .load()
            .as_ref()
            .as_ref()
            .is_none_or(|names| names.contains(&tool.tool) || !is_offered(tool)),
        manifest: Arc::clone(&source.manifest),
    }
}

/// Whether its presence in the upstream's lists says something: tools that are gone are refused by the upstream itself.
fn is_offered(tool: &ToolRef) -> bool {
    matches!(Operation::of(&tool.tool), Operation::Prompt(_) | Operation::Resource(_))
}

fn form_of(operation: Operation<'_>) -> Option<UriTemplate> {
    match operation {
        Operation::Resource(form) => UriTemplate::parse(form),
        Operation::Tool(_)
        | Operation::Prompt(_)
        | Operation::ReadResource
        | Operation::Subscribe
        | Operation::Complete
        | Operation::GetTask
        | Operation::UpdateTask
        | Operation::CancelTask
        | Operation::Elicit
        | Operation::Sample
        | Operation::ListRoots
        | Operation::Connect => None,
    }
}

/// A fixed operation's definition, which nobody reviews: it is part of this program.
fn fixed_state(raw: &str) -> Result<Accepted, String> {
    let definition: Value = serde_json::from_str(raw).map_err(|e| e.to_string())?;
    let pin = countersign_catalog::pin(raw).map_err(|e| e.to_string())?;
    usable(pin, definition.get("inputSchema").cloned().unwrap_or_default(), definition)
}

fn state_of(
    accepted: Option<&PinRow>,
    proposed: Option<&PinRow>,
    confusable: Option<&String>,
) -> (ToolState, Vec<String>) {
    let quarantined = |reason: String| ToolState::Quarantined { accepted: accepted.map(|p| p.pin), reason };
    let mut findings = Vec::new();
    if let Some(other) = confusable {
        findings.push(format!("its name looks like that of {other}"));
    }
    let state = match (accepted, proposed) {
        (None, _) if confusable.is_some() => quarantined(format!("nobody has reviewed it, and {}", findings[0])),
        (None, _) => quarantined("nobody has reviewed it yet".into()),
        (Some(_), Some(_)) => quarantined("its definition changed since it was reviewed".into()),
        (Some(row), None) => match accept(row) {
            Ok(accepted) => ToolState::Accepted(accepted),
            Err(why) => {
                findings.push(why.clone());
                quarantined(why)
            }
        },
    };
    (state, findings)
}

fn accept(row: &PinRow) -> Result<Accepted, String> {
    let definition = Definition::read(Kind::of(&row.tool.tool), &row.definition).map_err(|e| e.to_string())?;
    // A stored definition that no longer has its pin was changed behind our back.
    if definition.pin != row.pin {
        return Err("its stored definition does not have the accepted pin".into());
    }
    usable(row.pin, definition.input_schema, Value::Object(definition.members))
}

fn usable(pin: Digest, input_schema: Value, definition: Value) -> Result<Accepted, String> {
    let validator =
        jsonschema::validator_for(&input_schema).map_err(|e| format!("its inputSchema can't be used: {e}"))?;
    Ok(Accepted { pin, definition: Arc::new(definition), input_schema, validator })
}

/// Tools of one upstream whose names look alike; the reviewed one keeps its good name, later ones point at it.
fn confusables<'a>(tools: impl Iterator<Item = (&'a ToolRef, bool)>) -> BTreeMap<ToolRef, String> {
    let mut groups: BTreeMap<(UpstreamName, String), Vec<(&ToolRef, bool)>> = BTreeMap::new();
    for (tool, accepted) in tools {
        groups.entry((tool.upstream.clone(), confusable_key(&tool.tool))).or_default().push((tool, accepted));
    }
    let mut found = BTreeMap::new();
    for mut group in groups.into_values().filter(|g| g.len() > 1) {
        group.sort_by_key(|(tool, accepted)| (!accepted, (*tool).clone()));
        let first = group[0].0.to_string();
        found.extend(group[1..].iter().map(|(tool, _)| ((*tool).clone(), first.clone())));
    }
    found
}
