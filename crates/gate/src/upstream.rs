//! What the gate needs of an upstream. Implemented by `countersign-connect` and by built-in capabilities.

use std::time::Instant;

use async_trait::async_trait;
use countersign_domain::{Principal, Refusal, UpstreamName};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::permit::Permit;

/// An upstream's answer to a call, as it sent it.
#[derive(Debug)]
pub struct ToolResult {
    /// The raw result object of the operation's method (`CallToolResult`, `ReadResourceResult`, …), unknown members included.
    pub raw: Box<RawValue>,
    /// Whether the tool reported an error (`isError`).
    pub is_error: bool,
    /// What a capability of the node adds to the event of the outcome; nothing, for upstreams elsewhere.
    pub remarks: Map<String, Value>,
}

/// What a capability of the node says of a call before it is decided: members of all its events. Never from upstreams elsewhere, whose
/// words are not the node's.
#[derive(Debug, Clone, Default)]
pub struct Remarks {
    /// What the call is about, by which its events are found.
    pub subject: Option<String>,
    /// Members, under names of the capability's own.
    pub members: Map<String, Value>,
}

/// What an upstream offers right now (every page of every list), each the object that the upstream sent.
#[derive(Debug, Default)]
pub struct Discovered {
    /// `Tool` objects.
    pub tools: Vec<Box<RawValue>>,
    /// `Prompt` objects.
    pub prompts: Vec<Box<RawValue>>,
    /// `Resource` objects.
    pub resources: Vec<Box<RawValue>>,
    /// `ResourceTemplate` objects.
    pub resource_templates: Vec<Box<RawValue>>,
    /// Whether it completes arguments.
    pub completions: bool,
    /// Whether it tells subscribers about changed resources.
    pub subscriptions: bool,
}

/// Why there is no result. The variants differ in what is known of the effect, which decides what a write becomes.
#[derive(Debug, thiserror::Error)]
pub enum DispatchError {
    /// Certain: the upstream did not receive the call.
    #[error("the upstream could not be reached: {0}")]
    NotSent(String),
    /// Certain: the upstream did not receive the call, because this node gives it as many as it takes. Says nothing about
    /// the upstream's health.
    #[error("{0}")]
    Busy(String),
    /// Certain: the upstream did nothing of it, and says why: somebody on whom it relies was away, say. Says nothing about the
    /// upstream's health, whose other tools may do without them.
    #[error("nothing was done: {0}")]
    Undone(String),
    /// The upstream answered the call with a JSON-RPC error: a known outcome.
    #[error("the upstream refused the call: {message} ({code})")]
    Rpc {
        /// JSON-RPC error code.
        code: i64,
        /// The upstream's message, shortened to 2,000 characters.
        message: String,
        /// The upstream's `error` member as it sent it.
        raw: Box<RawValue>,
    },
    /// Certain: the upstream turned the call away, since the caller's credential is not good for it. What the caller can do about
    /// it.
    #[error("{}", .0.detail)]
    Unauthorised(Box<Refusal>),
    /// Sent, and no answer before the deadline.
    #[error("no answer before the deadline")]
    Timeout,
    /// Sent, and then the upstream died or the connection broke.
    #[error("the upstream was lost during the call: {0}")]
    Lost(String),
    /// Sent, and answered with something that is not the protocol.
    #[error("the upstream broke the protocol: {0}")]
    Protocol(String),
    /// Sent, and cancelled by the caller, of which the upstream was told; whether it acted is not known.
    #[error("the caller cancelled the call")]
    Cancelled,
}

/// Why an upstream's tools could not be listed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct DiscoverError(pub String);

/// How an upstream stands, for `doctor`, the health page and the operator's table.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct UpstreamStatus {
    /// `idle` (not started yet), `ready`, `starting`, `backing-off` or `failed`.
    pub state: String,
    /// The protocol revision that it speaks, once known.
    pub protocol: Option<String>,
    /// The last error, in words.
    pub error: Option<String>,
}

/// What an upstream says during a call that is no answer. Relayed to the caller's side, never trusted.
#[derive(Debug, Clone)]
pub enum Notice {
    /// `notifications/progress`: the raw `params`, whose `progressToken` is the upstream's and has to be replaced by the caller's.
    Progress(Box<RawValue>),
    /// `notifications/message`: the raw `params` of a log message.
    Log(Box<RawValue>),
    /// `notifications/elicitation/complete`: the raw `params`. What a person was sent to a page for is over (2025-11-25).
    Elicited(Box<RawValue>),
}

/// What an upstream tells outside of calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// The resource of this URI has changed.
    Resource(String),
    /// What a person was led to a page for under this id is over (2025-11-25).
    Elicited(String),
}

/// Longest id of an elicitation that is remembered, in bytes.
const MAX_ELICITATION: usize = 256;

/// The id under which a person is led to a page (`elicitationId`, 2025-11-25, URL mode), unless it is longer than 256 bytes.
pub fn elicitation_of(params: &RawValue) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Params {
        #[serde(rename = "elicitationId")]
        id: String,
    }
    let id = serde_json::from_str::<Params>(params.get()).ok()?.id;
    (id.len() <= MAX_ELICITATION).then_some(id)
}

/// What an upstream asks of the caller's side during a call.
#[derive(Debug, Clone)]
pub struct Ask {
    /// `elicitation/create`, `sampling/createMessage` or `roots/list`.
    pub kind: AskKind,
    /// The upstream's own name for the question (a key of `inputRequests`), where its revision has such names.
    pub key: Option<String>,
    /// The raw `params` of the request.
    pub params: Box<RawValue>,
}

/// What came of each question, in their order.
pub type Answers = Vec<Result<Box<RawValue>, AskError>>;

/// The kinds of [`Ask`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AskKind {
    /// `elicitation/create` with a form.
    ElicitForm,
    /// `elicitation/create` with a URL that a person opens.
    ElicitUrl,
    /// `sampling/createMessage`.
    Sample,
    /// `roots/list`.
    ListRoots,
}

impl AskKind {
    /// The operation's name, as in policies and events.
    pub fn operation(self) -> &'static str {
        match self {
            Self::ElicitForm | Self::ElicitUrl => countersign_domain::operation::ELICIT,
            Self::Sample => countersign_domain::operation::SAMPLE,
            Self::ListRoots => countersign_domain::operation::LIST_ROOTS,
        }
    }
}

/// Why an upstream's question has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// The caller's side did not declare that it answers such questions.
    #[error("the client does not answer such requests")]
    Unsupported,
    /// Policy, a limit or a check on the question refused it; recorded as an event.
    #[error("refused: {0}")]
    Refused(String),
    /// The caller's side answered with a JSON-RPC error.
    #[error("the client refused: {message} ({code})")]
    Rpc {
        /// JSON-RPC error code.
        code: i64,
        /// Its message, shortened.
        message: String,
    },
    /// The caller's side went away, or did not answer before the call's deadline.
    #[error("the client did not answer")]
    Gone,
}

/// The caller's side of a running call, as the upstream's connection may use it. Implemented by the gate, which decides and
/// records every question, over a [`Client`] that a surface brings. Who says nothing of a matter hears nothing and answers nothing.
#[async_trait]
pub trait Exchange: Send + Sync {
    /// Passes a notice on, or drops it where nobody wants it. Never waits.
    fn notify(&self, _notice: Notice) {}
    /// Asks the caller's side what the upstream asks at one time: each decided by policy, recorded, labelled with its origin,
    /// then relayed together.
    async fn ask(&self, asks: Vec<Ask>) -> Answers {
        unsupported(&asks)
    }
    /// Whether the caller's side answers questions of this kind (before policy).
    fn answers(&self, _kind: AskKind) -> bool {
        false
    }
    /// Whether the caller asked to hear of progress.
    fn wants_progress(&self) -> bool {
        false
    }
    /// The least severe log level that the caller wants to hear (`debug` … `emergency`), if any.
    fn log_level(&self) -> Option<&str> {
        None
    }
    /// Whether the caller follows tasks, so that a call may be answered with one.
    fn knows_tasks(&self) -> bool {
        false
    }
    /// Decides, records and labels questions that the caller is shown and answers later (those of a task): the `params` to
    /// show.
    async fn show(&self, asks: Vec<Ask>) -> Answers {
        unsupported(&asks)
    }
    /// Resolves when the caller has cancelled the call; never, if it doesn't.
    async fn cancelled(&self) {
        std::future::pending().await
    }
}

/// What a surface brings for the time of a call: a way back to the caller. The gate wraps it in its own [`Exchange`].
/// Who says nothing of a matter hears nothing and answers nothing.
#[async_trait]
pub trait Client: Send + Sync + std::fmt::Debug {
    /// Passes a notice on. Never waits.
    fn notify(&self, _notice: Notice) {}
    /// Relays questions that policy has allowed, and waits for the answers (the raw results).
    async fn ask(&self, asks: Vec<Ask>) -> Answers {
        unsupported(&asks)
    }
    /// The client is about to be asked to lead its person to a page, under this id of the upstream's; it may want to hear, even
    /// after the call, when that is over.
    fn led(&self, _upstream: &UpstreamName, _elicitation: String) {}
    /// Whether the client declared that it answers such questions.
    fn answers(&self, _kind: AskKind) -> bool {
        false
    }
    /// Whether it asked to hear of progress.
    fn wants_progress(&self) -> bool {
        false
    }
    /// The least severe log level that it wants to hear.
    fn log_level(&self) -> Option<&str> {
        None
    }
    /// Whether it follows tasks, so that a call may be answered with one.
    fn knows_tasks(&self) -> bool {
        false
    }
    /// Resolves when the caller has cancelled the call; never, if it doesn't.
    async fn cancelled(&self) {
        std::future::pending().await
    }
}

/// A caller that hears nothing and answers nothing during its call: plain HTTP, the command line.
#[derive(Debug, Clone, Copy, Default)]
pub struct Mute;

impl Client for Mute {}

impl Exchange for Mute {}

fn unsupported(asks: &[Ask]) -> Answers {
    asks.iter().map(|_| Err(AskError::Unsupported)).collect()
}

/// A place where tools live.
#[async_trait]
pub trait Upstream: Send + Sync {
    /// Its name in manifests and tool references.
    fn name(&self) -> &UpstreamName;

    /// What a capability of the node says of a call with these arguments, which are JSON but not yet held against the schema.
    async fn remarks(&self, _principal: &Principal, _tool: &str, _input: &Value) -> Remarks {
        Remarks::default()
    }

    /// Makes sure that a call of this principal could be authenticated to the upstream. Asked before a call's intent is
    /// recorded.
    ///
    /// # Errors
    /// A typed refusal for the caller: an account that has to be connected first, a token that is not to be had.
    async fn ready(&self, _principal: &Principal, _deadline: Instant) -> Result<(), Refusal> {
        Ok(())
    }

    /// Executes the permitted call. Must return by the permit's deadline, and soon after [`Exchange::cancelled`]. What the
    /// upstream says or asks meanwhile goes through `exchange`; a revision that asks by returning (`input_required`) is
    /// asked again with the answers within the same call.
    ///
    /// # Errors
    /// See [`DispatchError`]; `NotSent` only when it is certain that nothing reached the upstream.
    async fn dispatch(&self, permit: Permit, exchange: &dyn Exchange) -> Result<ToolResult, DispatchError>;

    /// What it offers right now.
    ///
    /// # Errors
    /// If it cannot be reached or breaks the protocol.
    async fn discover(&self) -> Result<Discovered, DiscoverError>;

    /// Counts up whenever the upstream may have changed what it offers (list-changed notification, reconnect).
    fn changes(&self) -> tokio::sync::watch::Receiver<u64>;

    /// What the upstream tells outside of calls. Slow readers lose the oldest.
    fn updates(&self) -> tokio::sync::broadcast::Receiver<Told> {
        tokio::sync::broadcast::channel(1).1
    }

    /// Nobody here wants to hear of this resource any more. Never waits.
    fn unwatch(&self, _uri: &str) {}

    /// How it stands.
    fn status(&self) -> UpstreamStatus;

    /// Stops it: processes end with their whole group. Safe to call twice.
    async fn shutdown(&self);
}
