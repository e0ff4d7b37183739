//! What the built-in upstreams share: how their tools fail, what their answers look like, and how they compute.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use countersign_catalog::manifest::ToolEntry;
use countersign_catalog::{Definition, Kind, Manifest};
use countersign_domain::{Effect, Millis, RefusalKind};
use countersign_gate::upstream::{DispatchError, Exchange, ToolResult};
use countersign_ledger::objects::ObjectError;
use countersign_ledger::{AppendError, StoreError};
use countersign_trust::time::parse_rfc3339;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use tokio::sync::Semaphore;

/// The member of a failed result's `_meta` that names the kind of problem, for those who answer over HTTP.
pub(crate) const PROBLEM: &str = "dev.countersign/problem";

const DAY: Millis = 24 * 3600 * 1000;

/// Why a tool gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// What the caller can mend. A result, marked as an error.
    #[error("{0}")]
    Input(String),
    /// There is no such thing. A result, marked as an error.
    #[error("{0}")]
    NotFound(String),
    /// There is something else already. A result, marked as an error.
    #[error("{0}")]
    Exists(String),
    /// Nothing was done, because somebody outside did not do their part, which the caller may know.
    #[error("{0}")]
    Outside(String),
    /// Nothing was done: something of this node's is away or damaged.
    #[error("{0}")]
    Undone(String),
    /// Some of it was done, the rest certainly not; the same call again does the rest. A result, marked as an error.
    #[error("{0}")]
    Partly(String),
    /// It may have been done.
    #[error("{0}")]
    Unknown(String),
}

impl Failure {
    /// For something that is done already: only showing it failed.
    pub fn after_the_fact(self) -> Self {
        match self {
            Self::Undone(why) | Self::Outside(why) | Self::Partly(why) | Self::Unknown(why) => Self::Unknown(why),
            Self::Input(why) | Self::NotFound(why) | Self::Exists(why) => Self::Unknown(why),
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Undone(format!("the ledger cannot be read: {error}"))
    }
}

impl From<AppendError> for Failure {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Undecided => Self::Unknown(error.to_string()),
            AppendError::Conflict(_) | AppendError::Overloaded | AppendError::Unavailable(_) | AppendError::Closed => {
                Self::Undone(error.to_string())
            }
        }
    }
}

impl From<ObjectError> for Failure {
    fn from(error: ObjectError) -> Self {
        Self::Undone(error.to_string())
    }
}

/// What a tool gives.
pub(crate) struct Told {
    pub value: Value,
    /// What the event of the call says besides.
    pub remarks: Map<String, Value>,
}

impl From<Value> for Told {
    fn from(value: Value) -> Self {
        Self { value, remarks: Map::new() }
    }
}

/// What is answered to the gate.
fn answer(told: Result<Told, Failure>) -> Result<ToolResult, DispatchError> {
    match told {
        Ok(told) => result(&told.value, None, told.remarks),
        Err(Failure::Input(why)) => result(&json!(why), Some(RefusalKind::InvalidArguments), Map::new()),
        Err(Failure::NotFound(why)) => result(&json!(why), Some(RefusalKind::NotFound), Map::new()),
        Err(Failure::Exists(why)) => result(&json!(why), Some(RefusalKind::AlreadyExists), Map::new()),
        Err(Failure::Partly(why)) => result(&json!(why), Some(RefusalKind::UpstreamUnavailable), Map::new()),
        // It says nothing of the other tools, which stay in use.
        Err(Failure::Outside(why) | Failure::Undone(why)) => Err(DispatchError::Undone(why)),
        Err(Failure::Unknown(why)) => Err(DispatchError::Lost(why)),
    }
}

/// A `CallToolResult` with structured content and the same as text, as older clients read it.
fn result(
    value: &Value,
    problem: Option<RefusalKind>,
    remarks: Map<String, Value>,
) -> Result<ToolResult, DispatchError> {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let is_error = problem.is_some();
    let mut whole = json!({ "content": [{ "type": "text", "text": text }], "isError": is_error });
    match problem {
        None => whole["structuredContent"] = value.clone(),
        Some(kind) => whole["_meta"] = json!({ PROBLEM: kind.slug() }),
    }
    let raw = serde_json::value::to_raw_value(&whole).map_err(|e| DispatchError::Protocol(e.to_string()))?;
    Ok(ToolResult { raw, is_error, remarks })
}

/// Does a tool's work within its call's deadline, and answers the gate. Work that `finishes` goes on when the caller leaves.
pub(crate) async fn worked(
    deadline: Instant,
    exchange: &dyn Exchange,
    finishes: bool,
    work: impl Future<Output = Result<Told, Failure>>,
) -> Result<ToolResult, DispatchError> {
    let told = tokio::select! {
        biased;
        told = tokio::time::timeout_at(deadline.into(), work) => told,
        () = exchange.cancelled(), if !finishes => return Err(DispatchError::Cancelled),
    };
    told.map_or(Err(DispatchError::Timeout), answer)
}

/// Reads a tool's arguments. The gate has checked them against the schema already; this is the same once more, as types.
pub(crate) fn read<T: DeserializeOwned>(arguments: &str) -> Result<T, Failure> {
    serde_json::from_str(arguments).map_err(|error| Failure::Input(format!("the arguments: {error}")))
}

/// A built-in upstream's manifest, with the pin of each definition, and the definitions.
///
/// # Errors
/// In words, if one of them cannot be pinned.
pub(crate) fn described(
    name: &str,
    title: &str,
    definitions: Vec<(Effect, Value)>,
) -> Result<(Manifest, Vec<Box<RawValue>>), String> {
    let (mut entries, mut raw) = (BTreeMap::new(), Vec::new());
    for (effect, definition) in definitions {
        let text = definition.to_string();
        let read = Definition::read(Kind::Tool, &text).map_err(|why| format!("{}: {why}", definition["name"]))?;
        entries.insert(read.name, ToolEntry { effect: Some(effect), pin: Some(read.pin), ..ToolEntry::default() });
        raw.push(RawValue::from_string(text).map_err(|why| why.to_string())?);
    }
    let name = name.parse().map_err(|_| format!("{name} is no upstream's name"))?;
    Ok((Manifest::built_in(name, title, entries), raw))
}

/// A definition. Of the results, the members that are always there are named; more may come.
pub(crate) fn tool(name: &str, description: &str, properties: &Value, required: &[&str], gives: &[&str]) -> Value {
    json!({
        "name": name,
        "description": description,
        "inputSchema": {
            "type": "object", "properties": properties, "required": required, "additionalProperties": false
        },
        "outputSchema": { "type": "object", "required": gives },
    })
}

pub(crate) fn clipped(text: &str) -> String {
    text.chars().take(80).collect()
}

/// A moment; a mere date is its beginning, or the beginning of the next day where an end is meant.
pub(crate) fn moment(text: &str, name: &str, is_end: bool) -> Result<Millis, Failure> {
    let wrong = || Failure::Input(format!("{name}: {:?} is neither an RFC 3339 time nor a date", clipped(text)));
    let parse = |text: &str| parse_rfc3339(text).and_then(|millis| Millis::try_from(millis).ok());
    match text.len() {
        10 => {
            let start = parse(&format!("{text}T00:00:00Z")).ok_or_else(wrong)?;
            Ok(if is_end { start + DAY } else { start })
        }
        // `until` is exclusive, and a moment that was named belongs to the range.
        _ => parse(text).map(|at| if is_end { at + 1 } else { at }).ok_or_else(wrong),
    }
}

/// Runs what takes milliseconds of computing apart from the threads that serve requests: as many at a time as there are cores; the
/// others wait, within their calls' deadlines.
pub(crate) struct Computing(Arc<Semaphore>);

impl Computing {
    pub fn new() -> Self {
        Self(Arc::new(Semaphore::new(std::thread::available_parallelism().map_or(1, usize::from))))
    }

    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
        let undone = |why: String| Failure::Undone(format!("it could not be computed: {why}"));
        let turn = Arc::clone(&self.0).acquire_owned().await.map_err(|e| undone(e.to_string()))?;
        // Work whose caller has left still has its turn.
        let work = move || {
            let done = work();
            drop(turn);
            done
        };
        tokio::task::spawn_blocking(work).await.map_err(|e| undone(e.to_string()))
    }
}
