//! Past calls decided again: by the set in force, to explain one of them, or by an edited set, to see what it would change.
//!
//! A call's decision stands in its first event, with who, which tool and what the policies said; the rest was kept beside it
//! ([`crate::decisions`]). Whatever can't be decided again is counted with the reason, so that nothing is left out silently.
//! Nothing here changes what is in force, and no arguments are shown.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use countersign_domain::principal::PrincipalRecord;
use countersign_domain::{
    Effect, EventType, Millis, Operation, Principal, Refusal, RefusalKind, ToolRef, WorkspaceName,
};
use countersign_ledger::contract::{EventPage, EventQuery, EventRow};
use countersign_ledger::state::{DecisionRow, first_id_at};
pub use countersign_policy::{Change, RecordedDecision, SetKind, SourceFile};
use countersign_policy::{Explanation, Facts as PolicyFacts, Policies};
use countersign_proof::canonical::parse_strict;
use countersign_proof::commitment::salted_digest;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::admin::require;
use crate::approvals::{AUDITOR, OPERATOR, READ_BACK};
use crate::decisions::{self, KeptFacts};
use crate::gate::Gate;
use crate::keyring::WorkspaceKeys;

/// The most events that one page looks at.
pub const MAX_PAGE: u32 = 500;
/// Clocks of nodes that share a log may differ by this much; events are filtered by their time afterwards.
const SKEW: Millis = 10 * 60_000;
/// The most problems of a set that a refusal lists.
const MAX_PROBLEMS: usize = 20;

/// One page of past calls to decide again.
#[derive(Debug, Clone)]
pub struct ReplayRequest {
    /// The edited set.
    pub files: Vec<SourceFile>,
    /// Whose calls; the caller's own workspace by default.
    pub workspace: Option<WorkspaceName>,
    /// Calls decided since then.
    pub since: Millis,
    /// And before then; now by default.
    pub until: Option<Millis>,
    /// Where the page before ended.
    pub cursor: Option<u64>,
    /// At most this many events, up to [`MAX_PAGE`].
    pub limit: u32,
}

/// What a page of past calls would have come to.
#[derive(Debug, Clone, Serialize)]
pub struct ReplayPage {
    /// The edited set.
    pub version: String,
    /// The workspace.
    pub workspace: WorkspaceName,
    /// Events were looked at up to this time; to be repeated with the next page.
    pub until: Millis,
    /// Calls decided again.
    pub replayed: u64,
    /// Those of them that would have been decided otherwise.
    pub differences: Vec<Difference>,
    /// Calls that could not be decided again, by the reason.
    pub not_replayed: BTreeMap<&'static str, u64>,
    /// Where the next page begins, if there is one.
    pub next: Option<u64>,
}

/// A call that the edited set decides otherwise.
#[derive(Debug, Clone, Serialize)]
pub struct Difference {
    /// The call.
    pub call: Uuid,
    /// The event with the decision.
    pub event: Uuid,
    /// When.
    pub time: Millis,
    /// Who called.
    pub principal: PrincipalRecord,
    /// Which tool.
    pub tool: ToolRef,
    /// How the decision differs.
    pub change: Change,
    /// What was decided.
    pub before: RecordedDecision,
    /// What would be decided.
    pub after: RecordedDecision,
}

/// Why a past call can't be decided again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum NotReplayed {
    /// One of its events was erased, and what was kept with it.
    Erased,
    /// It is older than what is kept.
    Swept,
    /// Nothing was kept of it: that was off, or not there yet.
    NotKept,
    /// Its arguments were too long to be kept.
    TooLarge,
    /// Its tool is gone, does something else now, or takes other arguments.
    ToolChanged,
    /// What was kept does not open, or is not what the event says.
    Unreadable,
}

impl NotReplayed {
    /// The name in replies.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Erased => "erased",
            Self::Swept => "swept",
            Self::NotKept => "not-kept",
            Self::TooLarge => "too-large",
            Self::ToolChanged => "tool-changed",
            Self::Unreadable => "unreadable",
        }
    }
}

/// A past call: what was decided then, and what would be today.
#[derive(Debug, Clone, Serialize)]
pub struct PastCall {
    /// The call.
    pub call: Uuid,
    /// Who called.
    pub principal: Option<PrincipalRecord>,
    /// Which tool.
    pub tool: Option<String>,
    /// Each decision on it, oldest first: when it was asked for, and again when an approved call was executed.
    pub decisions: Vec<PastDecision>,
    /// What the set in force says of the first decision's facts.
    pub now: Option<Explanation>,
    /// How that differs from the first decision.
    pub change: Option<Change>,
    /// Why it can't be decided again, if it can't.
    pub not_replayed: Option<NotReplayed>,
}

/// A decision as an event records it.
#[derive(Debug, Clone, Serialize)]
pub struct PastDecision {
    /// The event.
    pub event: Uuid,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// When.
    pub time: Millis,
    /// What was decided.
    #[serde(flatten)]
    pub decision: RecordedDecision,
    /// Why the call was refused, if it was.
    pub refused: Option<String>,
}

/// What an event says of a decision.
#[derive(Deserialize)]
struct Stated {
    principal: PrincipalRecord,
    tool: StatedTool,
    policy: Option<RecordedDecision>,
    input_digest: Option<String>,
    #[serde(default)]
    reason: Option<StatedReason>,
    #[serde(default)]
    parent: Option<Uuid>,
}

#[derive(Deserialize)]
struct StatedTool {
    upstream: String,
    name: String,
    effect: Option<Effect>,
}

#[derive(Deserialize)]
struct StatedReason {
    kind: String,
    detail: String,
}

/// A decision's facts, put together again.
struct Again {
    principal: Principal,
    tool: ToolRef,
    effect: Effect,
    input: Value,
    at: Millis,
    before: RecordedDecision,
}

impl Again {
    fn facts(&self) -> PolicyFacts<'_> {
        PolicyFacts {
            principal: &self.principal,
            tool: &self.tool,
            effect: self.effect,
            input: &self.input,
            now_ms: self.at,
        }
    }
}

/// What becomes of one event in a replay.
enum Looked {
    /// It states no decision, or one that another event stated first.
    Skipped,
    Missing(NotReplayed),
    Same,
    Differs(Box<Difference>),
}

/// Everything that a page's events are looked at with.
struct Looking {
    policies: Arc<Policies>,
    keys: Arc<WorkspaceKeys>,
    kept: HashMap<Uuid, DecisionRow>,
    /// The events of calls of which nothing is kept.
    calls: HashMap<Uuid, Vec<EventRow>>,
    /// Calls before then were swept.
    since: Millis,
}

/// The events that state a decision, once for each call.
fn states_decision(row: &EventRow) -> bool {
    let kinds = [EventType::CallDenied, EventType::CallPending, EventType::CallIntent, EventType::CallCompleted];
    // Questions that upstreams ask are decided within a call, and not kept.
    let asked = |tool: &String| {
        tool.split_once(':').is_some_and(|(_, operation)| Operation::of(operation).is_asked_by_upstream())
    };
    kinds.iter().any(|kind| kind.as_str() == row.kind) && !row.tool.as_ref().is_none_or(asked)
}

fn stated(row: &EventRow) -> Option<Stated> {
    serde_json::from_slice(&row.opening.as_ref()?.event).ok()
}

impl Gate {
    /// Decides a page of past calls again by a set that is not in force.
    ///
    /// The first page, and the first with another set, is an event: whoever tries sets on past calls learns something about
    /// their arguments.
    ///
    /// # Errors
    /// [`RefusalKind::Forbidden`] unless the caller is an operator or auditor of that workspace; a set that would not load is
    /// [`RefusalKind::MalformedRequest`].
    pub async fn replay_decisions(&self, principal: &Principal, request: ReplayRequest) -> Result<ReplayPage, Refusal> {
        require(principal, &[OPERATOR, AUDITOR])?;
        let workspace = own_workspace(principal, request.workspace)?;
        let until = request.until.unwrap_or_else(|| self.now());
        let (policies, is_new) = self.on_trial(request.files).await?;
        if is_new || request.cursor.is_none() {
            let draft = self
                .node_draft(EventType::PolicyReplayed, principal)
                .with("policy", json!({"version": policies.version()}))
                .with("of_workspace", workspace.as_str())
                .with("since", request.since)
                .with("until", until);
            self.record_change(draft, principal, None, vec![]).await?;
        }
        let (page, kept, calls) =
            self.past_page(&workspace, request.since, until, request.cursor, request.limit.clamp(1, MAX_PAGE)).await?;
        let next = page.more.then(|| page.rows.last().map(|(position, _)| *position)).flatten();
        let looking = Looking {
            keys: self.keys(&workspace).await?,
            policies: Arc::clone(&policies),
            kept,
            calls,
            since: if self.keeps_decisions() { self.decisions_since() } else { 0 },
        };
        // Deciding hundreds of calls takes long enough to be in the way of others.
        let looked =
            tokio::task::spawn_blocking(move || page.rows.iter().map(|(_, row)| looking.look(row)).collect::<Vec<_>>());
        let looked = looked.await.map_err(|_| Refusal::new(RefusalKind::Internal, "the replay ended early"))?;
        let version = policies.version().to_owned();
        Ok(ReplayPage::new(version, workspace, until, next, looked))
    }

    async fn on_trial(&self, files: Vec<SourceFile>) -> Result<(Arc<Policies>, bool), Refusal> {
        let (store, tools) = (Arc::clone(&self.policies), self.registry.view().descriptions());
        let loaded = tokio::task::spawn_blocking(move || store.on_trial(&files, &tools)).await;
        loaded.map_err(|_| Refusal::new(RefusalKind::Internal, "the set could not be loaded"))?.map_err(|problems| {
            let texts: Vec<String> = problems.iter().take(MAX_PROBLEMS).map(ToString::to_string).collect();
            let detail = format!("this set would be refused: {}", texts.join("; "));
            Refusal::new(RefusalKind::MalformedRequest, detail).with("problems", json!(texts))
        })
    }

    /// A page of events of calls, what is kept of them, and, where nothing is, all events of the call.
    async fn past_page(
        &self,
        workspace: &WorkspaceName,
        since: Millis,
        until: Millis,
        cursor: Option<u64>,
        limit: u32,
    ) -> Result<(EventPage, HashMap<Uuid, DecisionRow>, HashMap<Uuid, Vec<EventRow>>), Refusal> {
        let mut query = EventQuery {
            workspace: Some(workspace.clone()),
            kind: Some("call.".into()),
            since: Some(since),
            until: Some(until),
            cursor,
            limit,
            ..EventQuery::default()
        };
        self.read(move |reader| {
            if query.cursor.is_none() {
                let Some(first) = reader.position_at(since.saturating_sub(SKEW))? else {
                    return Ok((EventPage::default(), HashMap::new(), HashMap::new()));
                };
                query.cursor = first.checked_sub(1);
            }
            let page = reader.events(&query)?;
            let mut ids: Vec<Uuid> = page.rows.iter().filter_map(|(_, row)| row.call).collect();
            ids.sort_unstable();
            ids.dedup();
            let kept: HashMap<_, _> = reader.decisions(&ids)?.into_iter().map(|row| (row.call, row)).collect();
            ids.retain(|call| !kept.contains_key(call));
            let calls = ids.into_iter().map(|call| Ok((call, reader.events_of_call(call)?)));
            let calls = calls.collect::<Result<HashMap<_, _>, countersign_ledger::StoreError>>()?;
            Ok((page, kept, calls))
        })
        .await
    }

    /// Why a call of the past was decided as it was, and what the set in force says of it today.
    ///
    /// # Errors
    /// [`RefusalKind::Forbidden`] unless the caller is an operator or auditor; [`RefusalKind::NotFound`] if no call or event of
    /// its workspace has this id, or the policies had no say in it.
    pub async fn explain_past(&self, principal: &Principal, id: Uuid) -> Result<PastCall, Refusal> {
        require(principal, &[OPERATOR, AUDITOR])?;
        let (call, events, kept) = self
            .read(move |reader| {
                let call = reader.event(id)?.map_or(Some(id), |row| row.call);
                let Some(call) = call else { return Ok((id, Vec::new(), None)) };
                Ok((call, reader.events_of_call(call)?, reader.decisions(&[call])?.pop()))
            })
            .await?;
        let events: Vec<EventRow> =
            events.into_iter().filter(|row| row.workspace == principal.workspace && states_decision(row)).collect();
        let Some(first) = events.first() else {
            let detail = "no call of your workspace has this id, and no event of one; give a call's id or a receipt's";
            return Err(Refusal::new(RefusalKind::NotFound, detail));
        };
        let decisions: Vec<PastDecision> = events.iter().filter_map(past_decision).collect();
        let keys = self.keys(&principal.workspace).await?;
        let again = self.again(first, &events, kept.as_ref(), &keys);
        let policies = self.policies.current();
        let (now, not_replayed) = match (&again, &policies) {
            (Ok(again), Some(policies)) => match policies.fits(&again.facts()) {
                Ok(()) => (Some(policies.explain(&again.facts())), None),
                Err(_) => (None, Some(NotReplayed::ToolChanged)),
            },
            (Ok(_), None) => (None, None),
            (Err(why), _) => (None, Some(*why)),
        };
        if decisions.is_empty() && not_replayed != Some(NotReplayed::Erased) {
            let detail = "the policies had no say in this call: it was refused before they were asked";
            return Err(Refusal::new(RefusalKind::NotFound, detail));
        }
        let change = now
            .as_ref()
            .zip(again.ok())
            .map(|(now, again)| again.before.change_to(&RecordedDecision::of(&now.version, &now.decision)));
        let stated = events.iter().find_map(stated);
        Ok(PastCall {
            call,
            principal: stated.map(|stated| stated.principal),
            tool: first.tool.clone(),
            decisions,
            now,
            change,
            not_replayed,
        })
    }

    fn again(
        &self,
        first: &EventRow,
        events: &[EventRow],
        kept: Option<&DecisionRow>,
        keys: &WorkspaceKeys,
    ) -> Result<Again, NotReplayed> {
        let since = if self.keeps_decisions() { self.decisions_since() } else { 0 };
        let Some(kept) = kept else { return Err(why_not_kept(first, events, since)) };
        // Kept with the first event that states a decision, whichever that was.
        let (event, plain) = decisions::open(kept, keys).map_err(|_| NotReplayed::Unreadable)?;
        let row = events.iter().find(|row| row.id == event).ok_or(NotReplayed::Unreadable)?;
        put_together(row, &plain)
    }
}

fn own_workspace(principal: &Principal, asked: Option<WorkspaceName>) -> Result<WorkspaceName, Refusal> {
    match asked {
        Some(other) if other != principal.workspace => Err(Refusal::new(
            RefusalKind::Forbidden,
            "the calls of another workspace are not yours to decide again; use a token of that workspace",
        )),
        _ => Ok(principal.workspace.clone()),
    }
}

/// A decision that this event states; an outcome repeats its intent's.
fn past_decision(row: &EventRow) -> Option<PastDecision> {
    let stated = stated(row)?;
    let repeats = row.kind == EventType::CallCompleted.as_str() && stated.parent.is_some();
    let decision = stated.policy.filter(|_| !repeats)?;
    let refused = stated.reason.map(|reason| format!("{}: {}", reason.kind, reason.detail));
    Some(PastDecision { event: row.id, kind: row.kind.clone(), time: row.time, decision, refused })
}

fn why_not_kept(first: &EventRow, events: &[EventRow], since: Millis) -> NotReplayed {
    if events.iter().any(|row| row.opening.is_none()) {
        NotReplayed::Erased
    } else if first.call.is_some_and(|call| call < first_id_at(since)) {
        NotReplayed::Swept
    } else {
        NotReplayed::NotKept
    }
}

/// The facts of a decision, out of its event and what was kept beside it.
fn put_together(row: &EventRow, plain: &[u8]) -> Result<Again, NotReplayed> {
    let opening = row.opening.as_ref().ok_or(NotReplayed::Erased)?;
    let kept: KeptFacts<'_> = serde_json::from_slice(plain).map_err(|_| NotReplayed::Unreadable)?;
    let stated = stated(row).ok_or(NotReplayed::Unreadable)?;
    let input = kept.input.as_ref().ok_or(NotReplayed::TooLarge)?.get().as_bytes();
    let digest = opening.detail_salt.as_ref().map(|salt| salted_digest("input", salt, input).to_string());
    if digest.is_none() || digest != stated.input_digest {
        return Err(NotReplayed::Unreadable);
    }
    let tool = format!("{}:{}", stated.tool.upstream, stated.tool.name);
    let PrincipalRecord { kind, id, issuer, on_behalf_of, development } = stated.principal;
    Ok(Again {
        principal: Principal {
            kind,
            id,
            issuer,
            on_behalf_of,
            development,
            workspace: row.workspace.clone(),
            roles: kept.roles.into_owned(),
            scopes: kept.scopes.into_owned(),
            attributes: kept.attributes.into_owned(),
        },
        tool: tool.parse().map_err(|_| NotReplayed::Unreadable)?,
        effect: stated.tool.effect.ok_or(NotReplayed::Unreadable)?,
        input: parse_strict(input, &READ_BACK).map_err(|_| NotReplayed::Unreadable)?,
        at: kept.at,
        before: stated.policy.ok_or(NotReplayed::Unreadable)?,
    })
}

impl Looking {
    fn look(&self, row: &EventRow) -> Looked {
        let Some(call) = row.call.filter(|_| states_decision(row)) else { return Looked::Skipped };
        let Some(kept) = self.kept.get(&call) else { return self.look_at_unkept(call, row) };
        let Ok((event, plain)) = decisions::open(kept, &self.keys) else {
            return Looked::Missing(NotReplayed::Unreadable);
        };
        if event != row.id {
            return Looked::Skipped;
        }
        match put_together(row, &plain) {
            Ok(again) => self.decide(call, row, again),
            Err(why) => Looked::Missing(why),
        }
    }

    fn decide(&self, call: Uuid, row: &EventRow, again: Again) -> Looked {
        if self.policies.fits(&again.facts()).is_err() {
            return Looked::Missing(NotReplayed::ToolChanged);
        }
        let after = RecordedDecision::of(self.policies.version(), &self.policies.decide(&again.facts()));
        let change = again.before.change_to(&after);
        if change == Change::Same {
            return Looked::Same;
        }
        let principal = again.principal.record();
        let Again { tool, before, .. } = again;
        Looked::Differs(Box::new(Difference {
            call,
            event: row.id,
            time: row.time,
            principal,
            tool,
            change,
            before,
            after,
        }))
    }

    /// Counted once for each call, with its first event; calls that the policies had no say in are no loss.
    fn look_at_unkept(&self, call: Uuid, row: &EventRow) -> Looked {
        let events = self.calls.get(&call).map_or(&[][..], Vec::as_slice);
        let first = events.iter().find(|row| states_decision(row));
        let undecided = row.opening.is_some() && stated(row).is_none_or(|stated| stated.policy.is_none());
        if first.is_none_or(|first| first.id != row.id) || undecided {
            return Looked::Skipped;
        }
        Looked::Missing(why_not_kept(row, events, self.since))
    }
}

impl ReplayPage {
    fn new(version: String, workspace: WorkspaceName, until: Millis, next: Option<u64>, looked: Vec<Looked>) -> Self {
        let (differences, not_replayed) = (Vec::new(), BTreeMap::new());
        let mut page = Self { version, workspace, until, replayed: 0, differences, not_replayed, next };
        for looked in looked {
            match looked {
                Looked::Skipped => {}
                Looked::Missing(why) => *page.not_replayed.entry(why.as_str()).or_insert(0) += 1,
                Looked::Same => page.replayed += 1,
                Looked::Differs(difference) => {
                    page.replayed += 1;
                    page.differences.push(*difference);
                }
            }
        }
        page
    }
}

impl fmt::Display for PastCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "call {}", self.call)?;
        if let (Some(tool), Some(who)) = (&self.tool, &self.principal) {
            let behalf = who.on_behalf_of.as_ref().map(|person| format!(" for {person:?}")).unwrap_or_default();
            writeln!(f, "  {tool} by {} {:?}{behalf}", who.kind.as_str(), who.id)?;
        }
        for past in &self.decisions {
            let decision = &past.decision;
            writeln!(f, "\nThen ({}, event {}): {}", past.kind, past.event, in_words(decision))?;
            writeln!(f, "  policies   {}", decision.version)?;
            past.refused.iter().try_for_each(|why| writeln!(f, "  refused    {why}"))?;
        }
        match (&self.now, self.not_replayed) {
            (Some(now), _) => {
                let same = if self.change == Some(Change::Same) { "the same" } else { "OTHERWISE" };
                writeln!(f, "\nToday, upon the same facts, it would be decided {same}.\n{now}")
            }
            (None, Some(why)) => writeln!(f, "\nWhat today's policies say of it is not known: {}.", why.in_words()),
            (None, None) => writeln!(f, "\nNo policy set is in force today."),
        }
    }
}

impl NotReplayed {
    /// For people.
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Erased => "an event of the call was erased, and what was kept with it",
            Self::Swept => "the call is older than decisions are kept ([policy] replay_days)",
            Self::NotKept => "nothing was kept of the call's decision",
            Self::TooLarge => "its arguments were too long to be kept",
            Self::ToolChanged => "the tool is gone, does something else now, or takes other arguments",
            Self::Unreadable => "what was kept can't be read, or is not what the event says",
        }
    }
}

fn in_words(decision: &RecordedDecision) -> String {
    let by = if decision.determining.is_empty() {
        "no policy permits it".to_owned()
    } else {
        format!("by {}", decision.determining.join(", "))
    };
    let owed = &decision.owed;
    let owed = match (owed.confirm, owed.approvals) {
        (false, 0) => String::new(),
        (true, 0) => "; the person behind it has to confirm".to_owned(),
        (false, n) => format!("; {n} to approve"),
        (true, n) => format!("; the person behind it has to confirm, {n} others to approve"),
    };
    let asked = if decision.owed.policies.is_empty() {
        String::new()
    } else {
        format!(" ({})", decision.owed.policies.join(", "))
    };
    format!("{} {by}{owed}{asked}", decision.decision.as_str())
}
