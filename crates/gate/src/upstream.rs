//! What the gate needs of an upstream. Implemented by `countersign-connect` and by built-in capabilities.

use async_trait::async_trait;
use countersign_domain::UpstreamName;
use serde_json::value::RawValue;

use crate::permit::Permit;

/// An upstream's answer to a call, as it sent it.
#[derive(Debug)]
pub struct ToolResult {
    /// The raw MCP `CallToolResult` object, unknown members included.
    pub raw: Box<RawValue>,
    /// Whether the tool reported an error (`isError`).
    pub is_error: bool,
}

/// Why there is no result. The variants differ in what is known of the effect, which decides what a write becomes.
#[derive(Debug, thiserror::Error)]
pub enum DispatchError {
    /// Certain: the upstream did not receive the call.
    #[error("the upstream could not be reached: {0}")]
    NotSent(String),
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
    /// Sent, and no answer before the deadline.
    #[error("no answer before the deadline")]
    Timeout,
    /// Sent, and then the upstream died or the connection broke.
    #[error("the upstream was lost during the call: {0}")]
    Lost(String),
    /// Sent, and answered with something that is not the protocol.
    #[error("the upstream broke the protocol: {0}")]
    Protocol(String),
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

/// A place where tools live.
#[async_trait]
pub trait Upstream: Send + Sync {
    /// Its name in manifests and tool references.
    fn name(&self) -> &UpstreamName;

    /// Executes the permitted call. Must return by the permit's deadline.
    ///
    /// # Errors
    /// See [`DispatchError`]; `NotSent` only when it is certain that nothing reached the upstream.
    async fn dispatch(&self, permit: Permit) -> Result<ToolResult, DispatchError>;

    /// The raw definitions of all its tools right now (every page), each the object that the upstream sent.
    ///
    /// # Errors
    /// If it cannot be reached or breaks the protocol.
    async fn discover(&self) -> Result<Vec<Box<RawValue>>, DiscoverError>;

    /// Counts up whenever the upstream may have changed its tools (list-changed notification, reconnect).
    fn changes(&self) -> tokio::sync::watch::Receiver<u64>;

    /// How it stands.
    fn status(&self) -> UpstreamStatus;

    /// Stops it: processes end with their whole group. Safe to call twice.
    async fn shutdown(&self);
}
