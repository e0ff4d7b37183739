//! Upstreams that answer with a task (the extension `io.modelcontextprotocol/tasks` of 2026-07-28).
//!
//! For a caller who knows tasks, the task is passed on, and what it asks of it later are calls of their own. For all others its
//! end is waited for here, within the call's deadline.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use async_trait::async_trait;
use countersign_gate::upstream::{Answers, Ask, AskError, AskKind, DispatchError, Exchange, Notice, ToolResult};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::call::{MAX_ASKS, given_for};
use crate::link::{Link, Question};
use crate::rpc::{self, Answer, MISSING_CAPABILITY, Outcome, quote};
use crate::talk;

/// Longest id of a task, in bytes.
pub(crate) const MAX_ID: usize = 512;
/// How often an upstream is asked, whatever it wishes for.
const SOONEST: Duration = Duration::from_millis(50);
const LATEST: Duration = Duration::from_secs(10);
const USUAL: Duration = Duration::from_secs(1);
/// How long a courtesy (a cancellation) may take.
const COURTESY: Duration = Duration::from_secs(1);
/// The code of a call whose task the upstream gave up.
const GIVEN_UP: i64 = -1;

/// What is looked at of a task.
#[derive(Deserialize)]
pub(crate) struct Task {
    #[serde(rename = "taskId")]
    pub id: String,
    status: Status,
    #[serde(rename = "statusMessage", default)]
    message: Option<String>,
    #[serde(rename = "pollIntervalMs", default)]
    poll: Option<u64>,
    #[serde(default)]
    result: Option<Box<RawValue>>,
    #[serde(default)]
    error: Option<Box<RawValue>>,
    #[serde(rename = "inputRequests", default)]
    requests: BTreeMap<String, InputRequest>,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum Status {
    Working,
    InputRequired,
    Completed,
    Failed,
    Cancelled,
}

#[derive(Deserialize)]
struct InputRequest {
    method: String,
    #[serde(default)]
    params: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
struct Head {
    #[serde(rename = "resultType", default)]
    kind: Option<String>,
}

impl Task {
    fn read(raw: &RawValue) -> Result<Self, DispatchError> {
        let protocol = |why: String| DispatchError::Protocol(why);
        let task: Self =
            serde_json::from_str(raw.get()).map_err(|e| protocol(format!("its task cannot be read: {e}")))?;
        let usable = (1..=MAX_ID).contains(&task.id.len()) && task.id.bytes().all(|b| (0x21..0x7f).contains(&b));
        if !usable || task.requests.len() > MAX_ASKS {
            return Err(protocol("its task has an unusable id, or asks for too much".into()));
        }
        Ok(task)
    }

    /// The task that a call was answered with, if it was.
    pub fn created(raw: &RawValue) -> Result<Option<Self>, DispatchError> {
        match serde_json::from_str::<Head>(raw.get()) {
            Ok(Head { kind: Some(kind) }) if kind == "task" => Self::read(raw).map(Some),
            Ok(_) | Err(_) => Ok(None),
        }
    }

    /// What it asks for, in the order of the names.
    fn asks(&mut self, but: &BTreeSet<String>) -> Result<Vec<Ask>, DispatchError> {
        let requests = std::mem::take(&mut self.requests).into_iter().filter(|(key, _)| !but.contains(key));
        let ask = |(key, request): (String, InputRequest)| {
            let unknown = || {
                let method = rpc::shorten(&request.method, 80);
                DispatchError::Protocol(format!("it asked for {method:?}, which is no input"))
            };
            talk::question(&request.method, Some(key), request.params.as_deref()).ok_or_else(unknown)
        };
        requests.map(ask).collect()
    }
}

/// Whether an upstream wants its client to know tasks, and so certainly did nothing yet.
pub(crate) fn wants_tasks(answer: &Answer) -> bool {
    let Answer::Error(raw) = answer else { return false };
    rpc::error_parts(raw).is_some_and(|(code, _)| code == MISSING_CAPABILITY)
        && raw.get().contains("\"io.modelcontextprotocol/tasks\"")
}

/// A caller's side on whose behalf tasks are followed here.
pub(crate) struct Following<'a>(pub &'a dyn Exchange);

#[async_trait]
impl Exchange for Following<'_> {
    fn notify(&self, notice: Notice) {
        self.0.notify(notice);
    }
    async fn ask(&self, asks: Vec<Ask>) -> Answers {
        self.0.ask(asks).await
    }
    fn answers(&self, kind: AskKind) -> bool {
        self.0.answers(kind)
    }
    fn wants_progress(&self) -> bool {
        self.0.wants_progress()
    }
    fn log_level(&self) -> Option<&str> {
        self.0.log_level()
    }
    fn knows_tasks(&self) -> bool {
        true
    }
    async fn cancelled(&self) {
        self.0.cancelled().await;
    }
}

/// Waits for a task's end, and answers what it asks for meanwhile.
pub(crate) async fn finish(
    link: &dyn Link,
    mut task: Task,
    exchange: &dyn Exchange,
    deadline: std::time::Instant,
) -> Result<ToolResult, DispatchError> {
    let id = task.id.clone();
    let mut answered = BTreeSet::new();
    loop {
        match task.status {
            Status::Completed => {
                let raw =
                    task.result.ok_or_else(|| DispatchError::Protocol("its task ended without a result".into()))?;
                return match rpc::outcome(Answer::Result(raw))? {
                    Outcome::Done(result) => Ok(result),
                    Outcome::Input(_) => Err(DispatchError::Protocol("its task's result is no result".into())),
                };
            }
            Status::Failed => {
                let raw =
                    task.error.ok_or_else(|| DispatchError::Protocol("its task failed without an error".into()))?;
                return rpc::result_of(Answer::Error(raw)).and(Err(DispatchError::Protocol("its task failed".into())));
            }
            Status::Cancelled => return Err(given_up(task.message.as_deref())),
            Status::InputRequired => {
                let asks = task.asks(&answered)?;
                if !asks.is_empty()
                    && let Err(error) = give(link, &id, asks, &mut answered, exchange, deadline).await
                {
                    cancel(link, &id).await;
                    return Err(error);
                }
            }
            Status::Working => {}
        }
        let pause = task.poll.map_or(USUAL, Duration::from_millis).clamp(SOONEST, LATEST);
        let now = std::time::Instant::now();
        if now + pause >= deadline {
            tokio::time::sleep_until(deadline.into()).await;
            cancel(link, &id).await;
            return Err(DispatchError::Timeout);
        }
        tokio::time::sleep(pause).await;
        let raw = ask(link, "tasks/get", &id, "", exchange, deadline).await?;
        let next = Task::read(&raw)?;
        if next.id != id {
            return Err(DispatchError::Protocol("it answered about another task".into()));
        }
        task = next;
    }
}

/// Tells the upstream that nobody waits for the task any more.
pub(crate) async fn cancel(link: &dyn Link, id: &str) {
    let until = std::time::Instant::now() + COURTESY;
    let nobody = countersign_gate::upstream::Mute;
    // Whatever comes of it: the call is over.
    let _ = ask(link, "tasks/cancel", id, "", &nobody, until).await;
}

fn given_up(message: Option<&str>) -> DispatchError {
    let message =
        format!("the upstream cancelled its task: {}", rpc::shorten(message.unwrap_or("no reason given"), 500));
    match RawValue::from_string(format!("{{\"code\":{GIVEN_UP},\"message\":{}}}", quote(&message))) {
        Ok(raw) => DispatchError::Rpc { code: GIVEN_UP, message, raw },
        Err(error) => DispatchError::Protocol(error.to_string()),
    }
}

/// Has the caller's side answer, and brings the answers.
async fn give(
    link: &dyn Link,
    id: &str,
    asks: Vec<Ask>,
    answered: &mut BTreeSet<String>,
    exchange: &dyn Exchange,
    deadline: std::time::Instant,
) -> Result<(), DispatchError> {
    let names: Vec<(String, AskKind)> = asks.iter().map(|a| (a.key.clone().unwrap_or_default(), a.kind)).collect();
    let answers = exchange.ask(asks).await;
    let mut given = Vec::new();
    for ((key, kind), answer) in
        names.into_iter().zip(answers.into_iter().chain(std::iter::repeat(Err(AskError::Gone))))
    {
        given.push(format!("{}:{}", quote(&key), given_for(kind, answer)?.get()));
        answered.insert(key);
    }
    let members = format!(",\"inputResponses\":{{{}}}", given.join(","));
    ask(link, "tasks/update", id, &members, exchange, deadline).await.map(drop)
}

async fn ask(
    link: &dyn Link,
    method: &str,
    id: &str,
    more: &str,
    exchange: &dyn Exchange,
    deadline: std::time::Instant,
) -> Result<Box<RawValue>, DispatchError> {
    let members = format!("\"taskId\":{}{more}", quote(id));
    let following = Following(exchange);
    let mut question = Question::plain(&following, deadline);
    (question.method, question.name, question.members) = (method, Some(id), &members);
    // After the task was made, an upstream that can't be reached has been lost with it.
    let lost = |error| match error {
        DispatchError::NotSent(why) | DispatchError::Busy(why) => DispatchError::Lost(why),
        other => other,
    };
    rpc::result_of(link.ask(&question).await.map_err(lost)?)
}

/// `tasks/get` for a caller who follows the task: what it asks for is decided, recorded and labelled before it is shown, and
/// what may not be asked is left out and dismissed.
pub(crate) async fn shown(
    link: &dyn Link,
    result: ToolResult,
    exchange: &dyn Exchange,
    deadline: std::time::Instant,
) -> Result<ToolResult, DispatchError> {
    let mut task = Task::read(&result.raw)?;
    if task.status != Status::InputRequired {
        return Ok(result);
    }
    let asks = task.asks(&BTreeSet::new())?;
    let asked: Vec<Ask> = asks.clone();
    let (mut shown, mut dismissed) = (serde_json::Map::new(), Vec::new());
    let params = exchange.show(asks).await.into_iter().chain(std::iter::repeat(Err(AskError::Gone)));
    for (ask, params) in asked.into_iter().zip(params) {
        let key = ask.key.unwrap_or_default();
        match params {
            Ok(params) => {
                let params: serde_json::Value = serde_json::from_str(params.get()).unwrap_or_default();
                shown.insert(key, serde_json::json!({ "method": ask.kind.operation(), "params": params }));
            }
            Err(_) if matches!(ask.kind, AskKind::ElicitForm | AskKind::ElicitUrl) => dismissed.push(key),
            Err(_) => {}
        }
    }
    if !dismissed.is_empty() {
        let given: Vec<String> =
            dismissed.iter().map(|key| format!("{}:{{\"action\":\"cancel\"}}", quote(key))).collect();
        let members = format!(",\"inputResponses\":{{{}}}", given.join(","));
        let _ = ask(link, "tasks/update", &task.id, &members, exchange, deadline).await;
    }
    let mut members: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(result.raw.get()).map_err(|e| DispatchError::Protocol(e.to_string()))?;
    if shown.is_empty() {
        members.remove("inputRequests");
        members.insert("status".into(), "working".into());
        members.insert("statusMessage".into(), "the upstream asked for something that was refused".into());
    } else {
        members.insert("inputRequests".into(), shown.into());
    }
    let raw = serde_json::value::to_raw_value(&members).map_err(|e| DispatchError::Protocol(e.to_string()))?;
    Ok(ToolResult { raw, is_error: false, remarks: serde_json::Map::new() })
}
