//! Calling tools: to the gate, and where people have to agree first, waiting for them within the client's patience.

use std::sync::Arc;
use std::time::Duration;

use countersign_domain::{Principal, Refusal, RefusalKind, ToolRef};
use countersign_gate::api::{CallOutcome, CallRequest, Redeem, WaitOutcome};
use countersign_gate::trace::{self, Context, Trace, Value as TraceValue};
use countersign_gate::upstream::Mute;
use serde::Deserialize;
use tokio::time::Instant;
use uuid::Uuid;

use super::era::{self, Era};
use super::message::{self, INVALID_PARAMS, Params, RpcError};
use super::{AWAIT_APPROVAL, Scope, result};
use crate::app::App;
use crate::http::request::is_idempotency_key;

/// Redeeming can find that more is owed by now; after so many rounds the caller is told.
const MAX_ROUNDS: usize = 8;

/// A `tools/call` that is ready to run.
pub(crate) struct Job {
    /// The request's id as it was written.
    pub id: String,
    /// How to answer.
    pub era: Era,
    /// Under which token progress is reported, as it was written.
    pub progress_token: Option<String>,
    /// The tool as it was named.
    name: String,
    /// The trace that the message belongs to.
    context: Option<Context>,
    what: What,
}

enum What {
    Call { tool: ToolRef, arguments: Vec<u8>, idempotency_key: Option<String> },
    Await(Uuid),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AwaitArguments {
    request_id: Uuid,
}

/// Reads a `tools/call`.
///
/// # Errors
/// Where the request itself is wrong, or there is no such tool.
pub(crate) fn prepare(
    app: &App,
    scope: &Scope,
    id: &str,
    params: &Params<'_>,
    era: Era,
    headers: &http::HeaderMap,
) -> Result<Job, RpcError> {
    let Some(name) = params.name.as_ref().map(|name| name.0.as_ref()) else {
        return Err(RpcError::new(INVALID_PARAMS, "tools/call needs a name"));
    };
    let arguments = params.arguments.map_or("{}", |raw| raw.get());
    let meta = params.meta.as_ref();
    let progress = meta.and_then(|meta| meta.progress_token).map(|raw| raw.get());
    let progress_token = progress.filter(|raw| raw.len() <= 512 && !raw.starts_with(['{', '['])).map(str::to_owned);
    let what = if name == AWAIT_APPROVAL {
        let arguments: AwaitArguments = serde_json::from_str(arguments).map_err(|_| {
            RpcError::new(INVALID_PARAMS, "await_approval takes a request_id, the UUID in the earlier answer")
        })?;
        What::Await(arguments.request_id)
    } else {
        let tool = match scope {
            Scope::All => app.gate.tool_by_mcp_name(name),
            Scope::Upstream(upstream) => app.gate.tool_by_own_name(upstream, name),
        };
        let tool = tool.ok_or_else(|| RpcError::new(INVALID_PARAMS, format!("Unknown tool: {}", shown(name))))?;
        if era == Era::Modern {
            era::check_params(&app.listings.param_headers(app, &tool), arguments, headers)?;
        }
        let key = meta.and_then(|meta| meta.idempotency_key.as_ref()).map(|key| key.0.as_ref());
        if key.is_some_and(|key| !is_idempotency_key(key)) {
            let message = "dev.countersign/idempotency-key takes 1 to 255 visible ASCII characters";
            return Err(RpcError::new(INVALID_PARAMS, message));
        }
        let idempotency_key = key.map(str::to_owned);
        What::Call { tool, arguments: arguments.as_bytes().to_vec(), idempotency_key }
    };
    let context = meta.and_then(|meta| {
        let state = meta.tracestate.as_ref().map(|state| state.0.as_ref());
        Context::parse(&meta.traceparent.as_ref()?.0, state)
    });
    Ok(Job { id: id.to_owned(), era, progress_token, name: name.to_owned(), context, what })
}

/// Runs the call to its answer, a JSON-RPC response.
///
/// The gate keeps a call that has reached the upstream going even if this future is dropped; what is dropped then is only
/// the waiting.
pub(crate) async fn run(app: Arc<App>, principal: Arc<Principal>, correlation: Arc<str>, mut job: Job) -> Vec<u8> {
    let trace = Trace::message(job.context.take(), "tools/call");
    trace::scope(trace.clone(), async {
        if let Some(trace) = trace {
            describe(&trace, &job);
        }
        run_traced(app, principal, correlation, job).await
    })
    .await
}

/// The message by OpenTelemetry's conventions for MCP.
fn describe(trace: &Trace, job: &Job) {
    let text = |text: &str| TraceValue::Text(text.to_owned().into());
    trace.rename(format!("tools/call {}", job.name));
    trace.note("mcp.method.name", TraceValue::Text("tools/call".into()));
    trace.note("gen_ai.operation.name", TraceValue::Text("execute_tool".into()));
    trace.note("gen_ai.tool.name", text(&job.name));
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

async fn run_traced(app: Arc<App>, principal: Arc<Principal>, correlation: Arc<str>, job: Job) -> Vec<u8> {
    let outcome = run_to_outcome(&app, &principal, &correlation, job.what).await;
    conclude(&outcome);
    let result = match &outcome {
        Ok(CallOutcome::Done(answer)) => result::of_answer(answer, job.era),
        Ok(CallOutcome::Pending(pending)) => Ok(result::of_pending(pending, job.era)),
        Err(refusal) => result::of_refusal(refusal, &correlation, job.era),
    };
    match result {
        Ok(result) => message::response(&job.id, &result),
        Err(error) => error.response(Some(&job.id)),
    }
}

async fn run_to_outcome(
    app: &App,
    principal: &Arc<Principal>,
    correlation: &Arc<str>,
    what: What,
) -> Result<CallOutcome, Refusal> {
    let until = Instant::now() + app.config.approval_wait;
    let outcome = match what {
        What::Call { tool, arguments, idempotency_key } => {
            let correlation = correlation.to_string();
            let principal = Arc::clone(principal);
            let (client, timeout) = (Arc::new(Mute), None);
            let request = CallRequest { principal, tool, arguments, idempotency_key, correlation, client, timeout };
            app.gate.call(request).await?
        }
        What::Await(id) => app.gate.redeem(principal, Redeem::Request(id), correlation, Arc::new(Mute)).await?,
    };
    settle(app, principal, correlation, outcome, until).await
}

/// Waits for people and redeems, until the call is done, refused, or the time is up.
async fn settle(
    app: &App,
    principal: &Arc<Principal>,
    correlation: &Arc<str>,
    mut outcome: CallOutcome,
    until: Instant,
) -> Result<CallOutcome, Refusal> {
    for _ in 0..MAX_ROUNDS {
        let CallOutcome::Pending(pending) = &outcome else { return Ok(outcome) };
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
        };
        match waited {
            WaitOutcome::StillPending => break,
            WaitOutcome::Met | WaitOutcome::Closed => {
                outcome = app.gate.redeem(principal, Redeem::Request(id), correlation, Arc::new(Mute)).await?;
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
