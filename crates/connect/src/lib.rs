//! Upstreams: MCP servers as child processes and over streamable HTTP, and REST APIs by their manifest ([`RestUpstream`]).
//!
//! A thin JSON-RPC client of our own, since what passes through must stay what it was: arguments go out and results come
//! back as raw JSON, members that nobody here knows included. It speaks 2026-07-28 and, where an upstream doesn't, the
//! handshake era back to 2024-11-05; the newest is tried first. What an upstream says and asks during a call goes to the call's
//! [`Exchange`](countersign_gate::upstream::Exchange), whatever era it is said in.
//!
//! Nothing here calls a tool without a [`Permit`](countersign_gate::permit::Permit), and nothing is retried unless it is
//! certain that it was not received.

mod call;
mod depth;
mod discover;
#[cfg(fuzzing)]
pub mod fuzzing;
mod guarded;
mod headers;
mod http;
mod link;
mod rest;
mod rpc;
mod slots;
mod sse;
mod stdio;
mod talk;
mod tasks;
mod traced;
mod upstream;

pub use http::knock;
pub use rest::RestUpstream;
pub use upstream::{ConnectError, McpUpstream, Settings, connect};
