//! An MCP server as the gate sees it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use countersign_catalog::{Manifest, Transport};
use countersign_domain::UpstreamName;
use countersign_egress::{Egress, EgressError};
use countersign_gate::permit::Permit;
use countersign_gate::upstream::{
    DiscoverError, Discovered, DispatchError, Exchange, ToolResult, Upstream, UpstreamStatus,
};
use tokio::sync::{Semaphore, watch};

use crate::http::HttpLink;
use crate::link::{Board, Link, list_tools};
use crate::rest::RestUpstream;
use crate::rpc::{quote, tool_result};
use crate::stdio::StdioLink;

/// Why an upstream cannot be set up from its manifest.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The manifest refers to an environment variable that is not set, or whose value cannot be used.
    #[error("{upstream}: {problem}")]
    Manifest {
        /// The upstream.
        upstream: UpstreamName,
        /// What is wrong.
        problem: String,
    },
    /// The network client refused.
    #[error("{upstream}: {error}")]
    Egress {
        /// The upstream.
        upstream: UpstreamName,
        /// Why.
        error: EgressError,
    },
}

/// What a link needs to know of its manifest.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The upstream's name.
    pub name: UpstreamName,
    /// How long it may take to start and to agree on a revision.
    pub start_timeout: Duration,
    /// How long a listing of tools may take, start included.
    pub discover_timeout: Duration,
    /// How many calls it is given at once.
    pub max_concurrency: usize,
}

/// An MCP server behind one link.
pub struct McpUpstream {
    settings: Settings,
    board: Arc<Board>,
    link: Arc<dyn Link>,
    slots: Semaphore,
}

impl McpUpstream {
    /// Sets an upstream up; nothing is started or connected before it is needed. Environment variables that the manifest
    /// refers to are read now.
    ///
    /// # Errors
    /// [`ConnectError`], if a variable is missing or the network client cannot be set up.
    pub fn new(manifest: &Manifest, egress: &Egress) -> Result<Arc<Self>, ConnectError> {
        let settings = Settings {
            name: manifest.upstream.clone(),
            start_timeout: manifest.start_timeout,
            discover_timeout: manifest.start_timeout + manifest.timeout,
            max_concurrency: manifest.max_concurrency as usize,
        };
        let board = Arc::new(Board::new());
        let link: Arc<dyn Link> = match &manifest.transport {
            Transport::Stdio(stdio) => StdioLink::new(stdio, &settings, Arc::clone(&board))?,
            Transport::Http(http) => HttpLink::new(http, &settings, egress, Arc::clone(&board))?,
            Transport::Rest(_) => {
                let problem = "a REST API is no MCP server".to_owned();
                return Err(ConnectError::Manifest { upstream: settings.name, problem });
            }
        };
        let slots = Semaphore::new(settings.max_concurrency);
        Ok(Arc::new(Self { settings, board, link, slots }))
    }
}

/// The upstream of a manifest, whatever it is.
///
/// # Errors
/// As [`McpUpstream::new`] and [`RestUpstream::new`].
pub fn connect(manifest: &Manifest, egress: &Egress) -> Result<Arc<dyn Upstream>, ConnectError> {
    match &manifest.transport {
        Transport::Stdio(_) | Transport::Http(_) => Ok(McpUpstream::new(manifest, egress)?),
        Transport::Rest(_) => Ok(RestUpstream::new(manifest, egress)?),
    }
}

#[async_trait]
impl Upstream for McpUpstream {
    fn name(&self) -> &UpstreamName {
        &self.settings.name
    }

    async fn dispatch(&self, permit: Permit, _exchange: &dyn Exchange) -> Result<ToolResult, DispatchError> {
        let deadline = permit.deadline();
        let slot = tokio::time::timeout_at(deadline.into(), self.slots.acquire()).await;
        let _slot = match slot {
            Ok(Ok(slot)) => slot,
            Ok(Err(_)) => return Err(DispatchError::NotSent("the upstream is shut down".into())),
            Err(_) => return Err(DispatchError::NotSent("it was busy with other calls until the deadline".into())),
        };
        let tool = &permit.tool().tool;
        let members = format!("\"name\":{},\"arguments\":{}", quote(tool), permit.arguments().get());
        tool_result(self.link.ask("tools/call", Some(tool), &members, deadline).await?)
    }

    async fn discover(&self) -> Result<Discovered, DiscoverError> {
        let tools = list_tools(&*self.link, Instant::now() + self.settings.discover_timeout).await?;
        Ok(Discovered { tools, ..Discovered::default() })
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.board.changes()
    }

    fn status(&self) -> UpstreamStatus {
        self.board.status()
    }

    async fn shutdown(&self) {
        self.slots.close();
        self.link.close().await;
    }
}
