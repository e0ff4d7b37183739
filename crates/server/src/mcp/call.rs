//! Calling: tools, prompts, resources, completion. To the gate, and where people have to agree first, waiting for them within
//! the client's patience.

use std::sync::Arc;
use std::time::Duration;

use countersign_domain::{Principal, Refusal, RefusalKind, ToolRef};
use countersign_gate::api::{CallOutcome, CallRequest, Redeem, WaitOutcome};
use countersign_gate::trace::{self, Context, Trace, Value as TraceValue};
use countersign_gate::upstream::{AskKind, Client};
use serde::Deserialize;
use tokio::time::Instant;
use uuid::Uuid;

use super::era::{self, Era};
use super::invite::{self, Invitation};
use super::message::{INVALID_PARAMS, MISSING_CAPABILITY, Params, RpcError, TIMEOUT};
use super::wire::{Outcome, Wire};
use super::{AWAIT_APPROVAL, Scope, offers, result, tasks};
use crate::app::App;
use crate::http::request::{is_idempotency_key, parse_timeout, request_timeout};

/// Redeeming can find that more is owed by now; after so many rounds the caller is told.
const MAX_ROUNDS: usize = 8;

/// What is called.
#[derive(Debug)]
pub(crate) enum What {
    /// An operation of an upstream.
    Call { tool: ToolRef, arguments: Vec<u8>, idempotency_key: Option<String> },
    /// A request of before, for which people may have agreed.
    Await(Uuid),
}

/// A call that is ready to run.
pub(crate) struct Job {
    /// The request's id as it was written.
    id: String,
    /// The method, and what it names.
    method: &'static str,
    name: String,
    /// The trace that the message belongs to.
    context: Option<Context>,
    /// How to answer.
    pub era: Era,
    /// What is called.
    pub what: What,
    /// Whether refusals are results that a model can read, as those of tools are, or errors.
    pub is_tool: bool,
    /// How long the caller waits for the upstream.
    timeout: Option<Duration>,
}

impl Job {
    /// Whether it may be answered with a task: calls of upstreams' tools may.
    pub fn follows_tasks(&self) -> bool {
        self.is_tool && matches!(self.what, What::Call { .. })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AwaitArguments {
    request_id: Uuid,
}

/// Reads a `tools/call`, `prompts/get`, `resources/read` or `completion/complete`.
///
/// # Errors
/// Where the request itself is wrong, or there is nothing of this name.
pub(crate) fn prepare(
    app: &App,
    principal: &Principal,
    scope: &Scope,
    (id, method): (&str, &'static str),
    params: &Params<'_>,
    era: Era,
    headers: &http::HeaderMap,
) -> Result<Job, RpcError> {
    let context = params.meta.as_ref().and_then(|meta| {
        let state = meta.tracestate.as_ref().map(|state| state.0.as_ref());
        Context::parse(&meta.traceparent.as_ref()?.0, state)
    });
    let named = params.name.as_ref().or(params.uri.as_ref()).map(|name| name.0.as_ref()).unwrap_or_default().to_owned();
    let timeout = timeout(params, headers)?;
    let job = |what, is_tool| Job { id: id.to_owned(), method, name: named, context, era, what, is_tool, timeout };
    let name = params.name.as_ref().map(|name| name.0.as_ref());
    let arguments = params.arguments.map_or("{}", |raw| raw.get());
    let needs = |what: &str| RpcError::new(INVALID_PARAMS, format!("{method} needs a {what}"));
    let is_tool = method == "tools/call";
    let (tool, arguments) = match method {
        "tools/call" => match name.ok_or_else(|| needs("name"))? {
            AWAIT_APPROVAL => {
                let arguments: AwaitArguments = serde_json::from_str(arguments).map_err(|_| {
                    RpcError::new(INVALID_PARAMS, "await_approval takes a request_id, the UUID in the earlier answer")
                })?;
                return Ok(job(What::Await(arguments.request_id), is_tool));
            }
            name => (tool_named(app, scope, name, arguments, era, headers)?, arguments.as_bytes().to_vec()),
        },
        "prompts/get" => {
            (offers::prompt(app, scope, name.ok_or_else(|| needs("name"))?)?, arguments.as_bytes().to_vec())
        }
        "resources/read" => {
            let uri = params.uri.as_ref().ok_or_else(|| needs("uri"))?;
            let (upstream, uri) = offers::locate(app, principal, scope, &uri.0, era)?;
            offers::resource(upstream, &uri, false)
        }
        _ => offers::completion(app, principal, scope, params, era)?,
    };
    let key = params.meta.as_ref().and_then(|meta| meta.idempotency_key.as_ref()).map(|key| key.0.as_ref());
    if key.is_some_and(|key| !is_idempotency_key(key)) {
        let message = "dev.countersign/idempotency-key takes 1 to 255 visible ASCII characters";
        return Err(RpcError::new(INVALID_PARAMS, message));
    }
    Ok(job(What::Call { tool, arguments, idempotency_key: key.map(str::to_owned) }, is_tool))
}

/// How long the caller waits: by the header, or by the message, which reaches us over any transport. The shorter counts.
fn timeout(params: &Params<'_>, headers: &http::HeaderMap) -> Result<Option<Duration>, RpcError> {
    let header = request_timeout(headers).map_err(|refusal| RpcError::new(INVALID_PARAMS, refusal.detail))?;
    let Some(raw) = params.meta.as_ref().and_then(|meta| meta.timeout) else { return Ok(header) };
    let text = serde_json::from_str::<String>(raw.get()).unwrap_or_else(|_| raw.get().to_owned());
    let message = || format!("{TIMEOUT} takes seconds, such as 5 or 0.25, or a text such as \"250ms\"");
    let stated = parse_timeout(&text).ok_or_else(|| RpcError::new(INVALID_PARAMS, message()))?;
    Ok(Some(header.map_or(stated, |header| header.min(stated))))
}

fn tool_named(
    app: &App,
    scope: &Scope,
    name: &str,
    arguments: &str,
    era: Era,
    headers: &http::HeaderMap,
) -> Result<ToolRef, RpcError> {
    let tool = match scope {
        Scope::All => app.gate.tool_by_mcp_name(name),
        Scope::Upstream(upstream) => app.gate.tool_by_own_name(upstream, name),
    };
    let tool = tool.ok_or_else(|| RpcError::new(INVALID_PARAMS, format!("Unknown tool: {}", shown(name))))?;
    if era == Era::Modern {
        era::check_params(&app.listings.param_headers(app, &tool), arguments, headers)?;
    }
    Ok(tool)
}

/// Runs the call to its result.
///
/// The gate keeps a call that has reached the upstream going even if this future is dropped; what is dropped then is only
/// the waiting.
pub(crate) async fn run(
    app: Arc<App>,
    principal: Arc<Principal>,
    correlation: Arc<str>,
    job: Job,
    wire: Arc<Wire>,
) -> Outcome {
    let mut job = job;
    let trace = Trace::message(job.context.take(), job.method);
    trace::scope(trace.clone(), async {
        if let Some(trace) = trace {
            describe(&trace, &job);
        }
        run_traced(app, principal, correlation, job, wire).await
    })
    .await
}

/// The message by OpenTelemetry's conventions for MCP.
fn describe(trace: &Trace, job: &Job) {
    let text = |text: &str| TraceValue::Text(text.to_owned().into());
    trace.note("mcp.method.name", TraceValue::Text(job.method.into()));
    if job.is_tool {
        trace.rename(format!("{} {}", job.method, job.name));
        trace.note("gen_ai.operation.name", TraceValue::Text("execute_tool".into()));
        trace.note("gen_ai.tool.name", text(&job.name));
    }
    trace.note("jsonrpc.request.id", text(job.id.trim_matches('"')));
    trace.note("network.transport", TraceValue::Text("tcp".into()));
    if job.era == Era::Modern {
        trace.note("mcp.protocol.version", TraceValue::Text(era::MODERN.into()));
    }
}

/// What became of it: the receipt's id, and why not where it did not.
fn conclude(outcome: &Result<CallOutcome, Refusal>) {
    let event = match outcome {
        Ok(CallOutcome::Done(answer)) => {
            if answer.is_error {
                trace::fail("tool_error");
            }
            Some(answer.event)
        }
        Ok(CallOutcome::Pending(pending)) => Some(pending.receipt),
        Err(refusal) => {
            trace::fail(refusal.kind.slug());
            refusal.event
        }
    };
    if let Some(event) = event {
        trace::note("countersign.receipt", TraceValue::Text(event.to_string().into()));
    }
}

async fn run_traced(
    app: Arc<App>,
    principal: Arc<Principal>,
    correlation: Arc<str>,
    job: Job,
    wire: Arc<Wire>,
) -> Outcome {
    let Job { era, what, is_tool, timeout, .. } = job;
    let reads = matches!(&what, What::Call { tool, .. } if tool.tool == countersign_domain::operation::READ_RESOURCE);
    let gives_task = wire.knows_tasks();
    let called = match &what {
        What::Call { tool, .. } => Some(tool.clone()),
        What::Await(_) => None,
    };
    let outcome = run_to_outcome(&app, &principal, &correlation, what, wire, (timeout, gives_task, era)).await;
    conclude(&outcome);
    match outcome {
        Ok(CallOutcome::Done(answer)) => match result::upstream_error(&answer, era) {
            Some(error) if !is_tool => Err(error),
            // The client's to mend, not the model's: it has to declare the capability (2026-07-28).
            Some(error) if era == Era::Modern && error.code == MISSING_CAPABILITY => Err(error),
            Some(_) | None => match tasks::relayed(&app, &principal, called.as_ref(), &answer, gives_task).await? {
                Some(answer) => result::of_answer(&answer, era, reads),
                None => result::of_answer(&answer, era, reads),
            },
        },
        Ok(CallOutcome::Pending(pending)) if gives_task => tasks::created(&app, &principal, &pending).await,
        Ok(CallOutcome::Pending(pending)) if is_tool => Ok(result::of_pending(&pending, era)),
        Ok(CallOutcome::Pending(pending)) => Err(result::pending_error(&pending)),
        Err(refusal) if is_tool => result::of_refusal(&refusal, &correlation, era),
        Err(refusal) => Err(result::refusal_error(&refusal, &correlation, era)),
    }
}

async fn run_to_outcome(
    app: &App,
    principal: &Arc<Principal>,
    correlation: &Arc<str>,
    what: What,
    wire: Arc<Wire>,
    (timeout, follows, era): (Option<Duration>, bool, Era),
) -> Result<CallOutcome, Refusal> {
    let client: Arc<dyn Client> = wire.clone();
    let outcome = match what {
        What::Call { tool, arguments, idempotency_key } => {
            let correlation = correlation.to_string();
            let caller = Arc::clone(principal);
            let request =
                CallRequest { principal: caller, tool, arguments, idempotency_key, correlation, client, timeout };
            // Kept only for who could be led to the page on which an account is connected.
            let again = wire.answers(AskKind::ElicitUrl).then(|| request.clone());
            match (app.gate.call(request).await, again) {
                // One that wants more scopes found its account: waiting for that would not wait.
                (Err(refusal), Some(again))
                    if refusal.kind == RefusalKind::ConnectionNeeded && !refusal.extra.contains_key("scopes") =>
                {
                    if !invite::connected(app, principal, &again.tool, &refusal, &wire, era).await {
                        return Err(refusal);
                    }
                    app.gate.call(again).await?
                }
                (outcome, _) => outcome?,
            }
        }
        What::Await(id) => app.gate.redeem_within(principal, Redeem::Request(id), correlation, client, timeout).await?,
    };
    // Who follows a task need not be kept waiting.
    if follows {
        return Ok(outcome);
    }
    settle(app, principal, correlation, outcome, &wire, era).await
}

/// Waits for people and redeems, until the call is done, refused, or the time is up.
async fn settle(
    app: &App,
    principal: &Arc<Principal>,
    correlation: &Arc<str>,
    mut outcome: CallOutcome,
    wire: &Arc<Wire>,
    era: Era,
) -> Result<CallOutcome, Refusal> {
    let mut until = Instant::now() + app.config.approval_wait;
    let mut invitation = Invitation::of(app, &outcome, wire, era);
    for _ in 0..MAX_ROUNDS {
        let CallOutcome::Pending(pending) = &outcome else { break };
        let id = pending.request_id;
        let left = until.saturating_duration_since(Instant::now());
        if left < Duration::from_millis(1) || *app.stopping.borrow() {
            break;
        }
        let mut stopping = app.stopping.clone();
        let waited = tokio::select! {
            waited = app.gate.wait(principal, id, left) => waited?,
            // The node stops: the client is told while there is time to tell it.
            _ = stopping.wait_for(|stop| *stop) => WaitOutcome::StillPending,
            // Nobody waits for the answer any more; the request stays open.
            () = wire.cancelled() => WaitOutcome::StillPending,
            came = invitation.answered() => match came {
                // The person may only now have begun to read.
                true => { until = Instant::now() + app.config.approval_wait; continue }
                false => WaitOutcome::StillPending,
            },
        };
        match waited {
            WaitOutcome::StillPending => break,
            WaitOutcome::Met | WaitOutcome::Closed => {
                invitation.over();
                outcome = app.gate.redeem(principal, Redeem::Request(id), correlation, wire.clone()).await?;
            }
        }
    }
    Ok(outcome)
}

fn shown(name: &str) -> String {
    name.chars().take(80).filter(|c| !c.is_control()).collect()
}

/// The refusal for a principal's request to an endpoint of an upstream that is not there.
pub(crate) fn no_upstream() -> Refusal {
    Refusal::new(RefusalKind::NotFound, "there is no upstream of this name; /mcp offers the tools of all of them")
}
