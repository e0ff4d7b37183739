//! The surfaces (HTTP and MCP) and the composition root: the one place that knows all the parts and puts them together.
//!
//! Nothing here decides about a call; that is the gate. Nothing imports this crate but the binary.
//!
//! - [`config`]: `countersign.toml`, environment and flags, checked whole before anything is opened.
//! - [`node`]: the parts put together, on a listener that is handed in.
//! - `http`, [`mcp`]: requests in, answers out.
//! - `capability`: what the built-in upstreams share; `trust` signs and verifies, `artifacts` keeps signed documents.
//! - `mail`: mail to the operator's server.
//! - `rounds`: work in the background that one of several nodes does at a time.
//! - `tls`: the listener's certificate, and whom client certificates name.
//! - [`probe`]: an upstream for a moment, to look at what it lists.
//! - [`keys`], [`dev_issuer`]: key files of the data directory.
#![forbid(unsafe_code)]

mod app;
mod artifacts;
mod capability;
pub mod config;
pub mod dev_issuer;
#[cfg(fuzzing)]
pub mod fuzzing;
mod http;
pub mod keys;
mod mail;
pub mod mcp;
pub mod node;
pub mod probe;
mod rawjson;
mod rounds;
mod telemetry;
mod time;
mod tls;
mod trust;
mod witness;

pub use app::VERSION;
pub use config::{Config, ConfigError, Overrides};
pub use dev_issuer::{DEV_ISSUER, DevIssuer, MintRequest};
pub use mcp::stdio::{StdioError, TokenSource, serve_stdio};
pub use node::{Ended, Node, NodeFile, StartError};
