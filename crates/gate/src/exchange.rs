//! The caller's side of a running call, as the gate lets upstreams use it.
//!
//! Notices pass. A question is an operation of its own: checked, decided by policy (denied unless a policy says otherwise),
//! labelled with its origin, relayed, and its outcome is an event before the upstream gets the answer.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use countersign_domain::{EventType, Principal, Refusal, RefusalKind, ToolRef, UpstreamName};
use countersign_ledger::Append;
use countersign_proof::canonical::to_canonical;
use serde_json::Map;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::gate::{AppendFailure, Gate};
use crate::questions::{self, Question};
use crate::record::Facts;
use crate::stages::{self, Limited, Resolved, Validated};
use crate::upstream::{
    Answers, Ask, AskError, AskKind, Client, DispatchError, Exchange, Notice, ToolResult, elicitation_of,
};

/// The most questions during one call.
pub const MAX_ASKS: u32 = 16;
/// The longest time that one call may spend waiting for people and models, beyond its own deadline.
pub const MAX_ASKING: Duration = Duration::from_secs(600);
/// How long an upstream may take to acknowledge that a call was cancelled.
const CANCEL_GRACE: Duration = Duration::from_secs(2);
/// Room for an upstream that overruns the permit's deadline while giving up.
const DISPATCH_GRACE: Duration = Duration::from_secs(2);

/// One call's way back to its caller.
pub(crate) struct Way {
    gate: Arc<Gate>,
    client: Arc<dyn Client>,
    principal: Arc<Principal>,
    upstream: UpstreamName,
    call: Uuid,
    correlation: String,
    /// The call's intent, where there is one.
    parent: Option<Uuid>,
    asked: AtomicU32,
    clock: Mutex<Waiting>,
}

/// How long the call has waited for answers.
#[derive(Default)]
struct Waiting {
    before: Duration,
    open: u32,
    since: Option<Instant>,
}

impl Way {
    pub fn new(gate: &Arc<Gate>, limited: &Limited, client: Arc<dyn Client>, parent: Option<Uuid>) -> Self {
        let resolved = limited.resolved();
        Self {
            gate: Arc::clone(gate),
            client,
            principal: Arc::clone(&resolved.principal),
            upstream: resolved.tool.tool.upstream.clone(),
            call: resolved.facts.call,
            correlation: resolved.facts.correlation.clone(),
            parent,
            asked: AtomicU32::new(0),
            clock: Mutex::default(),
        }
    }

    /// By when an upstream must have given up: later, where it may come to wait for people.
    pub fn permit_deadline(&self, base: Instant) -> Instant {
        if self.may_be_asked() { base + MAX_ASKING } else { base }
    }

    fn may_be_asked(&self) -> bool {
        use AskKind::{ElicitForm, ElicitUrl, ListRoots, Sample};
        [ElicitForm, ElicitUrl, Sample, ListRoots].into_iter().any(|kind| self.client.answers(kind))
    }

    /// The dispatch's end, or its cancellation, or the call's own deadline: time spent waiting for answers does not count.
    pub async fn watch(
        &self,
        dispatch: impl Future<Output = Result<ToolResult, DispatchError>>,
        base: Instant,
    ) -> Result<ToolResult, DispatchError> {
        let mut dispatch = std::pin::pin!(dispatch);
        let mut cancelled = self.client.cancelled();
        let grace = if self.may_be_asked() { Duration::ZERO } else { DISPATCH_GRACE };
        let mut cancelled_until = None;
        loop {
            let stop = cancelled_until.unwrap_or_else(|| base + self.waited() + grace);
            tokio::select! {
                biased;
                ended = &mut dispatch => return ended,
                () = &mut cancelled, if cancelled_until.is_none() => {
                    cancelled_until = Some(Instant::now() + CANCEL_GRACE);
                }
                () = tokio::time::sleep_until(stop.max(Instant::now() + Duration::from_millis(10)).into()) => {
                    if cancelled_until.is_some() {
                        return Err(DispatchError::Cancelled);
                    }
                    if Instant::now() >= base + self.waited() + grace {
                        return Err(DispatchError::Timeout);
                    }
                }
            }
        }
    }

    fn waited(&self) -> Duration {
        let Ok(clock) = self.clock.lock() else { return Duration::ZERO };
        let now = clock.since.map_or(Duration::ZERO, |since| since.elapsed());
        (clock.before + now).min(MAX_ASKING)
    }

    fn waits(&self, begins: bool) {
        let Ok(mut clock) = self.clock.lock() else { return };
        clock.open = if begins { clock.open + 1 } else { clock.open.saturating_sub(1) };
        match (begins, clock.open) {
            (true, 1) => clock.since = Some(Instant::now()),
            (false, 0) => {
                let spent = clock.since.take().map_or(Duration::ZERO, |since| since.elapsed());
                clock.before += spent;
            }
            _ => {}
        }
    }

    /// Checks, authorises and limits a question.
    async fn admit(&self, ask: &Ask) -> Result<(Limited, Question), AskError> {
        let tool = ToolRef { upstream: self.upstream.clone(), tool: ask.kind.operation().to_owned() };
        let facts = Facts::new(self.call, &self.principal, &tool, &self.correlation);
        let number = self.asked.fetch_add(1, Ordering::AcqRel);
        if number >= MAX_ASKS {
            let refusal = Refusal::new(RefusalKind::RateLimited, format!("one call may ask {MAX_ASKS} times at most"));
            // One event says it; an upstream cannot fill the log by asking on.
            return Err(if number == MAX_ASKS { self.refuse(&facts, refusal).await } else { refused(&refusal) });
        }
        match self.authorised(ask, &tool, facts) {
            Err(denied) => Err(self.refuse(&denied.0, denied.1).await),
            Ok((authorised, question)) => match self.gate.limit(authorised).await {
                Ok(limited) => Ok((limited, question)),
                Err(refusal) => Err(refused(&refusal)),
            },
        }
    }

    fn authorised(
        &self,
        ask: &Ask,
        name: &ToolRef,
        mut facts: Facts,
    ) -> Result<(stages::Authorised, Question), stages::Denied> {
        let view = self.gate.registry.peek();
        let Some(tool) = view.tool(name).filter(|tool| tool.visible_to(&self.principal)).cloned() else {
            let refusal = Refusal::new(RefusalKind::UnknownTool, format!("{} may not ask for that", self.upstream));
            return Err(Box::new((facts, refusal)));
        };
        facts.effect = Some(tool.effect);
        facts.pin = tool.pin();
        let checked = self
            .gate
            .frozen
            .load()
            .check(&self.principal, name)
            .and_then(|()| questions::check(ask, &self.upstream, self.call, |host| tool.may_send_to(host)));
        let question = match checked {
            Ok(question) => question,
            Err(refusal) => return Err(Box::new((facts, refusal))),
        };
        let Ok(canonical) = to_canonical(&question.input) else {
            let refusal = Refusal::new(RefusalKind::InvalidArguments, "the question has no canonical form");
            return Err(Box::new((facts, refusal)));
        };
        facts.canonical_input = Some(canonical.clone().into());
        let resolved = Resolved { principal: Arc::clone(&self.principal), tool, raw: Vec::new(), facts };
        let validated = Validated { resolved, input: question.input.clone(), canonical: canonical.into() };
        match stages::authorise(validated, self.gate.policies.current().as_deref(), self.gate.now()) {
            Ok(authorised) if authorised.owed.is_empty() => Ok((authorised, question)),
            Ok(authorised) => {
                let why =
                    "the approval policies want people to agree to this question, which can't be done during a call";
                let refusal = Refusal::new(RefusalKind::ObligationUnmeetable, why);
                Err(Box::new((authorised.validated.resolved.facts, refusal)))
            }
            Err(denied) => Err(denied),
        }
    }

    async fn refuse(&self, facts: &Facts, refusal: Refusal) -> AskError {
        refused(&self.gate.refuse(facts, refusal, self.parent).await)
    }

    /// Puts admitted questions to the caller's side; the time that takes is not the call's.
    async fn relay(&self, asks: Vec<Ask>) -> Answers {
        if asks.is_empty() {
            return Answers::new();
        }
        for ask in asks.iter().filter(|ask| ask.kind == AskKind::ElicitUrl) {
            if let Some(id) = elicitation_of(&ask.params) {
                self.client.led(&self.upstream, id);
            }
        }
        self.waits(true);
        let relayed = tokio::time::timeout(MAX_ASKING, self.client.ask(asks)).await;
        self.waits(false);
        relayed.unwrap_or_default()
    }

    /// Checks an answer and records what came of the question.
    async fn conclude(
        &self,
        facts: &Facts,
        kind: AskKind,
        question: &Question,
        answer: Result<Box<RawValue>, AskError>,
        spent: Duration,
    ) -> Result<Box<RawValue>, AskError> {
        let answer = answer.and_then(|answer| match questions::answer(kind, question, &answer) {
            Ok(action) => Ok((answer, action)),
            Err(message) => Err(AskError::Rpc { code: -32602, message }),
        });
        let (status, action, raw) = match &answer {
            Ok((raw, action)) => ("ok", Some(*action), Some(&**raw)),
            Err(AskError::Unsupported) => ("unsupported", None, None),
            Err(AskError::Refused(_)) => ("refused", None, None),
            Err(AskError::Rpc { .. }) => ("client_error", None, None),
            Err(AskError::Gone) => ("gone", None, None),
        };
        self.record(facts, status, action, spent, raw).await?;
        answer.map(|(raw, _)| raw)
    }

    /// Writes down how the question ended. An answer that can't be recorded does not reach the upstream.
    async fn record(
        &self,
        facts: &Facts,
        status: &str,
        action: Option<&str>,
        duration: Duration,
        answer: Option<&RawValue>,
    ) -> Result<(), AskError> {
        let mut outcome = Map::new();
        outcome.insert("status".into(), status.into());
        outcome.insert("duration_ms".into(), (duration.as_millis() as u64).into());
        if let Some(action) = action {
            outcome.insert("action".into(), action.into());
        }
        let mut draft = facts.draft(EventType::CallCompleted, self.gate.now(), self.parent);
        let entry = match answer {
            Some(answer) => facts.entry(draft, Some((&mut outcome, answer.get().as_bytes()))),
            None => {
                draft = draft.with("outcome", outcome);
                facts.entry(draft, None)
            }
        };
        let entry = entry.map_err(|refusal| refused(&refusal))?;
        match self.gate.append(Append { events: vec![entry], ops: vec![], ..Append::default() }).await {
            Ok(_) => Ok(()),
            Err(AppendFailure::Refused(refusal)) => Err(refused(&refusal)),
            Err(failure @ AppendFailure::Conflict(_)) => Err(refused(&failure.unexpected())),
        }
    }
}

fn refused(refusal: &Refusal) -> AskError {
    AskError::Refused(refusal.to_string().chars().take(1_000).collect())
}

#[async_trait]
impl Exchange for Way {
    fn notify(&self, notice: Notice) {
        self.client.notify(notice);
    }

    async fn ask(&self, asks: Vec<Ask>) -> Answers {
        let mut answers: Vec<Option<Result<Box<RawValue>, AskError>>> = Vec::with_capacity(asks.len());
        let (mut admitted, mut relayed) = (Vec::new(), Vec::new());
        for (place, ask) in asks.into_iter().enumerate() {
            let checked = match self.client.answers(ask.kind) {
                true => self.admit(&ask).await,
                false => Err(AskError::Unsupported),
            };
            answers.push(match checked {
                Ok((limited, question)) => {
                    relayed.push(Ask { kind: ask.kind, key: ask.key, params: question.params.clone() });
                    admitted.push((place, ask.kind, limited, question));
                    None
                }
                Err(error) => Some(Err(error)),
            });
        }
        let started = Instant::now();
        let mut came = self.relay(relayed).await.into_iter();
        for (place, kind, limited, question) in admitted {
            let answer = came.next().unwrap_or(Err(AskError::Gone));
            let facts = &limited.resolved().facts;
            answers[place] = Some(self.conclude(facts, kind, &question, answer, started.elapsed()).await);
        }
        answers.into_iter().map(|answer| answer.unwrap_or(Err(AskError::Gone))).collect()
    }

    fn answers(&self, kind: AskKind) -> bool {
        self.client.answers(kind)
    }
    fn wants_progress(&self) -> bool {
        self.client.wants_progress()
    }
    fn log_level(&self) -> Option<&str> {
        self.client.log_level()
    }
    fn knows_tasks(&self) -> bool {
        self.client.knows_tasks()
    }
    async fn show(&self, asks: Vec<Ask>) -> Answers {
        let mut shown = Answers::with_capacity(asks.len());
        for ask in asks {
            shown.push(match self.client.answers(ask.kind) {
                false => Err(AskError::Unsupported),
                true => match self.admit(&ask).await {
                    Err(error) => Err(error),
                    Ok((limited, question)) => {
                        let facts = &limited.resolved().facts;
                        self.record(facts, "shown", None, Duration::ZERO, None).await.map(|()| question.params)
                    }
                },
            });
        }
        shown
    }
    async fn cancelled(&self) {
        self.client.cancelled().await;
    }
}
