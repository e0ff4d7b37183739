//! An MCP server with everything that the official conformance suite calls: its tools, resources, prompts and their exact answers,
//! over streamable HTTP, in the session era (2025-11-25) or in the modern one (2026-07-28).
//!
//! It shares no code with the gateway that stands before it in the tests, and keeps a journal of every request that it was sent,
//! so that what the gateway says it forwarded can be counted.
#![forbid(unsafe_code)]

mod definitions;
mod http;
mod journal;
mod legacy;
mod modern;
mod resources;
mod results;
mod tools;
mod world;

use std::path::Path;
use std::sync::Arc;

pub use journal::{ASKED, Entry, read};
use world::World;

/// Which revision the server speaks. It refuses the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Era {
    /// 2026-07-28.
    Modern,
    /// 2025-11-25.
    Legacy,
}

impl Era {
    /// The revision's name.
    pub fn revision(self) -> &'static str {
        match self {
            Era::Modern => "2026-07-28",
            Era::Legacy => "2025-11-25",
        }
    }
}

/// The names of its tools.
pub fn tools() -> Vec<&'static str> {
    definitions::tool_names()
}

/// Serves the endpoint `/mcp` until the process ends.
///
/// # Errors
/// If the journal cannot be written or the socket fails.
pub async fn serve(listener: tokio::net::TcpListener, era: Era, journal: &Path) -> std::io::Result<()> {
    let world = Arc::new(World::new(era, journal)?);
    axum::serve(listener, http::router(world)).await
}
