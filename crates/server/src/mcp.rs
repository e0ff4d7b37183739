//! MCP at `/mcp` (everything that the caller may see) and `/mcp/{upstream}` (one upstream, own names).
//!
//! Written for this gateway rather than on an SDK, so that definitions and results pass as the raw JSON that was pinned and
//! recorded.
//!
//! - [`message`]: JSON-RPC envelopes; [`era`]: which revision a request speaks, and the header checks of 2026-07-28.
//! - [`catalog`], [`offers`]: listing tools, prompts and resources; [`call`]: calling, and waiting for people; [`result`]: results
//!   with our `_meta`.
//! - [`wire`]: the way back to a client while its request runs; [`talk`]: what of it goes out, as JSON or a stream.
//! - [`invite`]: the person at the client, led to the page where an approval is decided.
//! - [`session`]: clients before 2026-07-28; [`parked`]: calls that wait for a retry with answers, since.
//! - [`changes`], [`listen`]: what clients hear of between their requests.
//! - [`http`]: the streamable HTTP transport; [`stdio`]: a proxy from standard input and output to it.
//! - [`tasks`]: calls that wait for people, for clients that follow them instead of waiting.

pub(crate) mod call;
pub(crate) mod catalog;
pub(crate) mod changes;
pub(crate) mod era;
pub(crate) mod http;
pub(crate) mod invite;
pub(crate) mod listen;
pub(crate) mod message;
pub(crate) mod offers;
pub(crate) mod parked;
pub(crate) mod result;
pub(crate) mod session;
pub mod stdio;
pub(crate) mod talk;
pub(crate) mod tasks;
pub(crate) mod wire;

use countersign_domain::UpstreamName;

/// Which tools an endpoint offers, and under which names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Scope {
    /// `/mcp`: `upstream_tool`.
    All,
    /// `/mcp/{upstream}`: the tool's own name.
    Upstream(UpstreamName),
}

/// The name of the tool that the gateway itself adds.
pub(crate) const AWAIT_APPROVAL: &str = "await_approval";

/// What a model should know before it calls anything here.
pub(crate) const INSTRUCTIONS: &str = "Calls to these tools are decided by policy and recorded. A result that says \
`NOT executed; awaiting approval` means that people have to agree first: call `await_approval` with the id in it, or stop. \
Never report such a call as done. A result that starts with `Refused` was not executed; the reason says what would have to \
change. Repeating an identical call while it waits does not ask anybody twice.";
