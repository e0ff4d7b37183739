//! What the surfaces share: the gate, the ledger behind it, and what was worked out once at the start.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use countersign_domain::UpstreamName;
use countersign_gate::Gate;
use countersign_ledger::Ledger;
use serde_json::{Value, json};

use crate::config::Config;
use crate::http::guard::HostGuard;
use crate::mcp::catalog::Listings;

/// The product's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Shared by all requests.
pub(crate) struct App {
    pub gate: Arc<Gate>,
    pub ledger: Ledger,
    pub config: Config,
    pub guard: HostGuard,
    pub upstreams: BTreeSet<UpstreamName>,
    pub listings: Listings,
    pub started: Instant,
    /// Turns true when the node stops: waits for people end early then.
    pub stopping: tokio::sync::watch::Receiver<bool>,
}

impl App {
    /// What anyone may know without authenticating: that the node answers, which version it is, and whether it can record.
    pub fn health(&self) -> Value {
        let status = if self.ledger.stats().undecided { "degraded" } else { "ok" };
        json!({ "status": status, "version": VERSION, "uptime_seconds": self.started.elapsed().as_secs() })
    }
}
