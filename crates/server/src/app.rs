//! What the surfaces share: the gate, the ledger behind it, and what was worked out once at the start.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use countersign_domain::UpstreamName;
use countersign_gate::Gate;
use countersign_gate::broker::assertion::AssertionKey;
use countersign_ledger::Ledger;
use serde_json::{Value, json};

use crate::artifacts::Artifacts;
use crate::config::Config;
use crate::http::guard::HostGuard;
use crate::http::resource::Resource;
use crate::mcp::catalog::Listings;
use crate::mcp::changes::Seats;
use crate::mcp::parked::Parking;
use crate::mcp::session::Sessions;
use crate::mcp::tasks::Executions;
use crate::telemetry::Telemetry;
use crate::tls::Tls;
use crate::trust::{Custody, Forwarding, Trust};
use crate::witness::{Asking, Witness};

/// The product's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Shared by all requests.
pub(crate) struct App {
    pub gate: Arc<Gate>,
    pub ledger: Ledger,
    pub config: Config,
    pub guard: HostGuard,
    pub resource: Resource,
    pub tls: Option<Arc<Tls>>,
    pub upstreams: BTreeSet<UpstreamName>,
    /// The key that the node vouches for callers with, towards authorization servers.
    pub assertion: Arc<AssertionKey>,
    /// The authorities behind the node's signatures, if it signs.
    pub custody: Option<Arc<Custody>>,
    /// The node's signing and verifying, if it signs.
    pub trust: Option<Arc<Trust>>,
    /// The node's artifacts and the keys that sign them, if it keeps any.
    pub artifacts: Option<Arc<Artifacts>>,
    /// What hands this log's entries on to another log, if that is configured.
    pub forwarding: Option<Arc<Forwarding>>,
    /// The witness of other logs, if this node is one.
    pub witness: Option<Witness>,
    /// The witnesses of this log, if it has any.
    pub asking: Option<Arc<Asking>>,
    pub listings: Listings,
    pub sessions: Sessions,
    pub parking: Parking,
    pub seats: Seats,
    pub executions: Executions,
    pub started: Instant,
    pub telemetry: Telemetry,
    /// Turns true when the node stops: waits for people end early then.
    pub stopping: tokio::sync::watch::Receiver<bool>,
}

impl App {
    /// Whether the node ends.
    pub fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    /// What anyone may know without authenticating: that the node answers, which version it is, and whether it can record.
    pub fn health(&self) -> Value {
        let status = match (self.is_stopping(), self.ledger.stats().can_record()) {
            (true, _) => "draining",
            (false, false) => "degraded",
            (false, true) => "ok",
        };
        json!({ "status": status, "version": VERSION, "uptime_seconds": self.started.elapsed().as_secs() })
    }
}
