//! Tasks (the extension `io.modelcontextprotocol/tasks` of 2026-07-28): a call that waits for people, as something that its client
//! follows instead of waiting.
//!
//! Such a task is the pending request and nothing more. Its id is a sealed statement, good for the caller who got it, on any
//! node; so is that of a task which an upstream made, whose requests are calls of their own. Whoever asks for a task whose approvals are there has it executed; a client that asks no more, executes nothing.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use countersign_domain::operation::{CANCEL_TASK, GET_TASK, UPDATE_TASK};
use countersign_domain::{Principal, Refusal, RefusalKind, ToolRef, UpstreamName};
use countersign_gate::api::{Answer, CallOutcome, CallRequest, PendingCall, Redeem, WaitOutcome};
use countersign_gate::tasks::{TaskState, TaskView};
use countersign_gate::upstream::{AskKind, Client, Mute};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use tokio::sync::{mpsc, watch};
use uuid::Uuid;

use super::era::Era;
use super::invite;
use super::message::{INVALID_PARAMS, MISSING_CAPABILITY, RpcError};
use super::result::{self, CALL, PENDING, RECEIPT, SERVER_INFO};
use super::wire::{Abilities, TASKS};
use crate::app::App;
use crate::rawjson::{self, ObjectWriter, write_string};
use crate::time::rfc3339;

/// How often a client should ask.
const POLL_MS: u64 = 3_000;
/// How long `tasks/get` waits for an execution that it started: most are over by then.
const PATIENCE: Duration = Duration::from_secs(2);
/// Executions that one node runs for tasks at a time.
const MAX_RUNNING: usize = 1_024;
/// Requests of which one node remembers that somebody was led to their page.
const MAX_INVITED: usize = 4_096;
/// How often at most a task that is followed is looked at, and how long one wait for people lasts.
const BREATH: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_secs(60);
const PURPOSE: &str = "mcp-task";

/// What a task's id says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Handle {
    /// A request for approval.
    #[serde(rename = "r")]
    Request(Uuid),
    /// A task of an upstream: which upstream, by which of its tools, its own id.
    #[serde(rename = "u")]
    Upstream(UpstreamName, String, String),
}

/// The executions under way for tasks, with the means to cancel them.
#[derive(Debug, Default)]
pub(crate) struct Executions {
    running: Mutex<HashMap<Uuid, watch::Sender<bool>>>,
    /// Requests to whose page a client has led somebody. Forgotten, a client is asked again, which it can tell by the name.
    invited: Mutex<HashSet<Uuid>>,
}

impl Executions {
    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, watch::Sender<bool>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for this execution; `None` if it runs already, or too many do.
    fn enter(&self, id: Uuid) -> Option<watch::Receiver<bool>> {
        let mut running = self.lock();
        if running.contains_key(&id) || running.len() >= MAX_RUNNING {
            return None;
        }
        let (sender, receiver) = watch::channel(false);
        running.insert(id, sender);
        Some(receiver)
    }

    fn invited(&self, id: Uuid) {
        let mut invited = self.invited.lock().unwrap_or_else(PoisonError::into_inner);
        if invited.len() >= MAX_INVITED {
            invited.clear();
        }
        invited.insert(id);
    }

    fn was_invited(&self, id: Uuid) -> bool {
        self.invited.lock().unwrap_or_else(PoisonError::into_inner).contains(&id)
    }

    fn leave(&self, id: Uuid) {
        self.lock().remove(&id);
    }

    fn cancel(&self, id: Uuid) {
        if let Some(sender) = self.lock().get(&id) {
            sender.send_replace(true);
        }
    }
}

/// The caller's side of an execution that nobody is connected to.
#[derive(Debug)]
struct Follower {
    cancelled: watch::Receiver<bool>,
}

#[async_trait]
impl Client for Follower {
    async fn cancelled(&self) {
        if self.cancelled.clone().wait_for(|cancelled| *cancelled).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// What can be asked of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    Get,
    Update,
    Cancel,
}

impl Method {
    /// The method of this name.
    pub fn of(name: &str) -> Option<Self> {
        match name {
            "tasks/get" => Some(Self::Get),
            "tasks/update" => Some(Self::Update),
            "tasks/cancel" => Some(Self::Cancel),
            _ => None,
        }
    }
}

/// One request about a task.
pub(crate) struct Asked {
    pub method: Method,
    /// The task's id, as the client has it.
    pub task: String,
    /// What the client declared with this request.
    pub abilities: Abilities,
    /// `tasks/update`: the answers.
    pub responses: Option<Box<RawValue>>,
}

/// Whoever did not declare the extension may not use it.
pub(crate) fn not_declared() -> RpcError {
    let required = json!({ "requiredCapabilities": { "extensions": { TASKS: {} } } });
    RpcError::new(MISSING_CAPABILITY, "this request needs a client that declares the tasks extension").with(required)
}

fn no_task() -> RpcError {
    RpcError::new(INVALID_PARAMS, "there is no such task of yours: its time is over, or it never was")
}

fn failed(refusal: Refusal, correlation: &str) -> RpcError {
    match refusal.kind {
        RefusalKind::NotFound => no_task(),
        _ => result::refusal_error(&refusal, correlation, Era::Modern),
    }
}

/// `CreateTaskResult` for a call that waits for people.
///
/// # Errors
/// If the id could not be sealed.
pub(crate) async fn created(app: &App, principal: &Principal, pending: &PendingCall) -> Result<Vec<u8>, RpcError> {
    let id = sealed(app, principal, &Handle::Request(pending.request_id)).await?;
    let view = app.gate.task(principal, pending.request_id, "").await.map_err(|refusal| failed(refusal, ""))?;
    let view = view.ok_or_else(no_task)?;
    let mut out = ObjectWriter::new(Vec::with_capacity(1_024));
    out.plain("resultType", "task");
    members(&mut out, &id, &view, "working", Some(&awaiting(pending)));
    let meta = json!({
        PENDING: result::pending_details(pending),
        RECEIPT: pending.receipt,
        CALL: pending.request_id,
        SERVER_INFO: result::server_info(),
    });
    out.member("_meta", meta.to_string().as_bytes());
    Ok(out.finish())
}

async fn sealed(app: &App, principal: &Principal, handle: &Handle) -> Result<String, RpcError> {
    let plain = serde_json::to_vec(handle).unwrap_or_default();
    app.gate.seal(principal, PURPOSE, &plain).await.map_err(|refusal| failed(refusal, ""))
}

/// What an id of ours means; nothing, for another caller's or no id at all.
///
/// # Errors
/// If the workspace's key can't be had.
pub(crate) async fn handle(app: &App, principal: &Principal, id: &str) -> Result<Option<Handle>, RpcError> {
    let plain = app.gate.unseal(principal, PURPOSE, id).await.map_err(|refusal| failed(refusal, ""))?;
    Ok(plain.and_then(|plain| serde_json::from_slice(&plain).ok()))
}

/// Answers `tasks/get`, `tasks/update` or `tasks/cancel`.
///
/// # Errors
/// The error for the client.
pub(crate) async fn answer(
    app: &Arc<App>,
    principal: &Arc<Principal>,
    correlation: &Arc<str>,
    asked: &Asked,
) -> Result<Vec<u8>, RpcError> {
    let id = asked.task.as_str();
    let request = match handle(app, principal, id).await?.ok_or_else(no_task)? {
        Handle::Request(request) => request,
        Handle::Upstream(upstream, tool, own) => {
            return of_upstream(app, principal, correlation, asked, (upstream, &tool, &own)).await;
        }
    };
    match asked.method {
        Method::Get => {
            let who = Follows { app, principal, correlation, abilities: asked.abilities };
            let (members, _) = who.detailed(id, request).await?;
            Ok(result_of(members))
        }
        // The decision is made on the page; all that a client can say is that it led somebody there.
        Method::Update => {
            let known = app.gate.task(principal, request, correlation).await;
            known.map_err(|refusal| failed(refusal, correlation))?.ok_or_else(no_task)?;
            let members = asked.responses.as_ref().and_then(|raw| rawjson::members(raw.get()).ok()).unwrap_or_default();
            if members.iter().any(|(name, _)| name == invite::KEY) {
                app.executions.invited(request);
            }
            Ok(result::of_value(Map::new(), Era::Modern))
        }
        Method::Cancel => {
            app.executions.cancel(request);
            match app.gate.withdraw(principal, request, correlation).await {
                // What is over, or on its way, is acknowledged all the same.
                Err(refusal) if refusal.kind != RefusalKind::NotOpen => Err(failed(refusal, correlation)),
                Ok(()) | Err(_) => Ok(result::of_value(Map::new(), Era::Modern)),
            }
        }
    }
}

/// The answer of an upstream that works on a call as a task: with an id that is good for this caller alone. For clients that
/// would not know what to do with it, the call has an answer that says so.
///
/// # Errors
/// If the id could not be sealed.
pub(crate) async fn relayed(
    app: &App,
    principal: &Principal,
    tool: Option<&ToolRef>,
    answer: &Answer,
    known: bool,
) -> Result<Option<Answer>, RpcError> {
    let Some(own) = task_in(answer) else { return Ok(None) };
    let Some(tool) = tool.filter(|_| known) else {
        let text = "The upstream works on this call as a task, which only a client that knows tasks can follow.";
        return Ok(Some(with(answer, json!({ "content": [{ "type": "text", "text": text }], "isError": true }))));
    };
    let id = sealed(app, principal, &Handle::Upstream(tool.upstream.clone(), tool.tool.clone(), own)).await?;
    Ok(Some(renamed(answer, &id)))
}

/// The upstream's id of the task that a call was answered with.
fn task_in(answer: &Answer) -> Option<String> {
    #[derive(Deserialize)]
    struct Head {
        #[serde(rename = "resultType", default)]
        kind: Option<String>,
        #[serde(rename = "taskId", default)]
        id: Option<String>,
    }
    let head: Head = serde_json::from_str(answer.result.get()).ok()?;
    head.id.filter(|_| head.kind.as_deref() == Some("task"))
}

fn with(answer: &Answer, result: Value) -> Answer {
    let result = serde_json::value::to_raw_value(&result).unwrap_or_else(|_| RawValue::NULL.to_owned());
    Answer { call: answer.call, event: answer.event, result, is_error: answer.is_error, replayed: answer.replayed }
}

/// The same answer about a task of this id.
fn renamed(answer: &Answer, id: &str) -> Answer {
    let mut out = ObjectWriter::new(Vec::with_capacity(answer.result.get().len() + 256));
    for (name, value) in rawjson::members(answer.result.get()).unwrap_or_default() {
        match name.as_ref() {
            "taskId" => out.plain("taskId", id),
            name => out.member(name, value.get().as_bytes()),
        }
    }
    let text = String::from_utf8(out.finish()).unwrap_or_default();
    let result = RawValue::from_string(text).unwrap_or_else(|_| RawValue::NULL.to_owned());
    Answer { call: answer.call, event: answer.event, result, is_error: answer.is_error, replayed: answer.replayed }
}

/// What is asked of an upstream's task is a call like any other: decided, recorded, and then sent.
async fn of_upstream(
    app: &Arc<App>,
    principal: &Arc<Principal>,
    correlation: &Arc<str>,
    asked: &Asked,
    (upstream, tool, own): (UpstreamName, &str, &str),
) -> Result<Vec<u8>, RpcError> {
    let mut input = ObjectWriter::new(Vec::with_capacity(256));
    write_string(input.name("taskId"), own);
    write_string(input.name("tool"), tool);
    let operation = match asked.method {
        Method::Get => GET_TASK,
        Method::Cancel => CANCEL_TASK,
        Method::Update => {
            let needs = || RpcError::new(INVALID_PARAMS, "tasks/update needs inputResponses");
            input.member("inputResponses", asked.responses.as_ref().ok_or_else(needs)?.get().as_bytes());
            UPDATE_TASK
        }
    };
    let request = CallRequest {
        principal: Arc::clone(principal),
        tool: ToolRef { upstream, tool: operation.to_owned() },
        arguments: input.finish(),
        idempotency_key: None,
        correlation: correlation.to_string(),
        client: Arc::new(Onlooker(asked.abilities)),
        timeout: None,
    };
    match app.gate.call(request).await {
        Ok(CallOutcome::Done(answer)) => match result::upstream_error(&answer, Era::Modern) {
            Some(error) => Err(error),
            None => result::of_answer(&renamed(&answer, &asked.task), Era::Modern, false),
        },
        Ok(CallOutcome::Pending(pending)) => Err(result::pending_error(&pending)),
        Err(refusal) => Err(failed(refusal, correlation)),
    }
}

/// The caller's side of one look at a task: what the task asks is shown, and answered another time.
#[derive(Debug)]
struct Onlooker(Abilities);

#[async_trait]
impl Client for Onlooker {
    fn answers(&self, kind: AskKind) -> bool {
        self.0.answers(kind)
    }
}

fn result_of(mut out: ObjectWriter) -> Vec<u8> {
    out.plain("resultType", "complete");
    out.member("_meta", json!({ SERVER_INFO: result::server_info() }).to_string().as_bytes());
    out.finish()
}

/// Who follows a task.
#[derive(Clone, Copy)]
pub(crate) struct Follows<'a> {
    pub app: &'a Arc<App>,
    pub principal: &'a Arc<Principal>,
    pub correlation: &'a Arc<str>,
    pub abilities: Abilities,
}

impl Follows<'_> {
    /// A task as it stands, with what there is of its end; executed first, if nothing is owed any more. The flag says whether
    /// it has ended.
    ///
    /// # Errors
    /// If there is no such task, or a limit was reached.
    pub(crate) async fn detailed(&self, id: &str, request: Uuid) -> Result<(ObjectWriter, bool), RpcError> {
        let Self { app, principal, correlation, .. } = *self;
        let refused = |refusal| failed(refusal, correlation);
        let view = app.gate.task(principal, request, correlation).await.map_err(refused)?.ok_or_else(no_task)?;
        let mut out = ObjectWriter::new(Vec::with_capacity(1_024));
        let ended = match &view.state {
            TaskState::Waiting(pending) => {
                let invites = self.abilities.answers(AskKind::ElicitUrl) && !app.executions.was_invited(request);
                let status = if invites { "input_required" } else { "working" };
                members(&mut out, id, &view, status, Some(&awaiting(pending)));
                if invites {
                    let page = json!({ "method": "elicitation/create", "params": invite::params(app, pending) });
                    out.member("inputRequests", json!({ invite::KEY: page }).to_string().as_bytes());
                }
                false
            }
            TaskState::Running => {
                members(&mut out, id, &view, "working", Some("people have agreed; the call is being executed"));
                false
            }
            TaskState::Withdrawn => {
                members(&mut out, id, &view, "cancelled", Some("withdrawn; nothing was executed"));
                true
            }
            TaskState::Over(refusal) => {
                fail(&mut out, id, &view, &result::refusal_error(refusal, correlation, Era::Modern));
                true
            }
            TaskState::Done => {
                let replayed = app.gate.redeem(principal, Redeem::Request(request), correlation, Arc::new(Mute)).await;
                executed_as(&mut out, id, &view, Some(replayed), correlation)?
            }
            TaskState::Met(_) => {
                let executed = execute(app, principal, correlation, request).await;
                // What the execution changed is to be seen in the times.
                let view =
                    app.gate.task(principal, request, correlation).await.map_err(refused)?.ok_or_else(no_task)?;
                executed_as(&mut out, id, &view, executed, correlation)?
            }
        };
        Ok((out, ended))
    }

    /// Waits for the task's end and tells of it, as long as anybody listens. Executes it, once people have agreed.
    pub(crate) async fn tell_the_end(&self, id: &str, request: Uuid, told: &mpsc::Sender<ObjectWriter>) {
        loop {
            let Ok((task, ended)) = self.detailed(id, request).await else { return };
            if ended {
                let _ = told.send(task).await;
                return;
            }
            let changed = async {
                tokio::time::sleep(BREATH).await;
                while let Ok(WaitOutcome::StillPending) = self.app.gate.wait(self.principal, request, LOOK).await {}
            };
            tokio::select! {
                () = changed => {}
                () = told.closed() => return,
            }
        }
    }
}

/// Redeems the request, on a task of its own: an execution goes on when nobody waits for it. `None` while it does.
async fn execute(
    app: &Arc<App>,
    principal: &Arc<Principal>,
    correlation: &Arc<str>,
    request: Uuid,
) -> Option<Result<CallOutcome, Refusal>> {
    let client = Arc::new(Follower { cancelled: app.executions.enter(request)? });
    let (app, principal, correlation) = (Arc::clone(app), Arc::clone(principal), Arc::clone(correlation));
    let run = tokio::spawn(async move {
        let outcome = app.gate.redeem(&principal, Redeem::Request(request), &correlation, client).await;
        app.executions.leave(request);
        outcome
    });
    tokio::time::timeout(PATIENCE, run).await.ok()?.ok()
}

fn executed_as(
    out: &mut ObjectWriter,
    id: &str,
    view: &TaskView,
    executed: Option<Result<CallOutcome, Refusal>>,
    correlation: &str,
) -> Result<bool, RpcError> {
    match executed {
        None => members(out, id, view, "working", Some("people have agreed; the call is being executed")),
        Some(Ok(CallOutcome::Pending(pending))) => members(out, id, view, "working", Some(&awaiting(&pending))),
        Some(Ok(CallOutcome::Done(answer))) => {
            complete(out, id, view, &answer)?;
            return Ok(true);
        }
        Some(Err(refusal)) if passes(&refusal) && matches!(view.state, TaskState::Met(_)) => {
            let why = format!("people have agreed, but for now: {}", refusal.detail);
            members(out, id, view, "working", Some(&why));
        }
        Some(Err(refusal)) => {
            fail(out, id, view, &result::refusal_error(&refusal, correlation, Era::Modern));
            return Ok(true);
        }
    }
    Ok(false)
}

fn complete(out: &mut ObjectWriter, id: &str, view: &TaskView, answer: &Answer) -> Result<(), RpcError> {
    match result::upstream_error(answer, Era::Modern) {
        Some(error) if error.code == MISSING_CAPABILITY => fail(out, id, view, &error),
        Some(_) | None => {
            let result = result::of_answer(answer, Era::Modern, false)?;
            members(out, id, view, "completed", None);
            out.member("result", &result);
        }
    }
    Ok(())
}

/// Whether a refusal may be another one, or none, a while later.
fn passes(refusal: &Refusal) -> bool {
    matches!(
        refusal.kind,
        RefusalKind::RateLimited
            | RefusalKind::BudgetExhausted
            | RefusalKind::CoolingDown
            | RefusalKind::Overloaded
            | RefusalKind::CircuitOpen
            | RefusalKind::Frozen
            | RefusalKind::Quarantined
            | RefusalKind::CredentialUnavailable
            | RefusalKind::UpstreamUnavailable
            | RefusalKind::LedgerUnavailable
            | RefusalKind::Unavailable
    )
}

fn awaiting(pending: &PendingCall) -> String {
    let until = rfc3339(pending.expires_at);
    format!("NOT executed; awaiting approval until {until}. {}", result::owed_in_words(pending))
}

/// The members that all tasks have.
fn members(out: &mut ObjectWriter, id: &str, view: &TaskView, status: &str, message: Option<&str>) {
    out.plain("taskId", id);
    out.plain("status", status);
    if let Some(message) = message {
        write_string(out.name("statusMessage"), message);
    }
    out.plain("createdAt", &rfc3339(view.created));
    out.plain("lastUpdatedAt", &rfc3339(view.updated));
    out.member("ttlMs", view.kept_until.saturating_sub(view.created).to_string().as_bytes());
    out.member("pollIntervalMs", POLL_MS.to_string().as_bytes());
}

fn fail(out: &mut ObjectWriter, id: &str, view: &TaskView, error: &RpcError) {
    members(out, id, view, "failed", Some(&error.message));
    let mut members = Map::from_iter([
        ("code".to_owned(), json!(error.code)),
        ("message".to_owned(), Value::from(error.message.as_str())),
    ]);
    members.extend(error.data.clone().map(|data| ("data".to_owned(), data)));
    out.member("error", Value::Object(members).to_string().as_bytes());
}
