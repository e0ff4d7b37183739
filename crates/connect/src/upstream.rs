//! An MCP server as the gate sees it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use countersign_catalog::manifest::{Credential, EnvText};
use countersign_catalog::{Manifest, Transport};
use countersign_domain::UpstreamName;
use countersign_egress::{Egress, EgressError};
use countersign_gate::broker::CredentialSource;
use countersign_gate::broker::redact::Redactor;
use countersign_gate::permit::Permit;
use countersign_gate::upstream::{
    DiscoverError, Discovered, DispatchError, Exchange, Mute, Told, ToolResult, Upstream, UpstreamStatus,
};
use serde_json::value::RawValue;
use tokio::sync::{broadcast, watch};

use crate::call::call;
use crate::discover::{discover, list_tools};
use crate::guarded::Guarded;
use crate::headers::{ParamHeader, marked, mirror};
use crate::http::HttpLink;
use crate::link::{Board, Link, OnBehalf, Question};
use crate::rest::RestUpstream;
use crate::rpc::quote;
use crate::slots::Slots;
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
    mirror: Mirror,
    slots: Slots,
}

/// What calls need to know of earlier answers: which arguments go into headers, and which log level was asked for.
#[derive(Default)]
pub(crate) struct Mirror {
    /// By tool; `None` until the tools were listed.
    marks: Mutex<Option<HashMap<String, Arc<[ParamHeader]>>>>,
    level: tokio::sync::Mutex<Option<usize>>,
}

/// RFC 5424, least severe first.
const LEVELS: &[&str] = &["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"];

impl Mirror {
    /// Takes the marks of these tools, and gives the tools without those whose marks are invalid (2026-07-28: the client must
    /// leave them out).
    fn learn(&self, upstream: &UpstreamName, tools: Vec<Box<RawValue>>) -> Vec<Box<RawValue>> {
        let mut all = HashMap::new();
        let kept = tools.into_iter().filter(|tool| match (tool_name(tool), marked(tool.get())) {
            (Some(name), Ok(marks)) => {
                all.insert(name, marks.into());
                true
            }
            (None, Ok(_)) => true,
            (name, Err(why)) => {
                let name = crate::rpc::shorten(&name.unwrap_or_default(), 128);
                tracing::warn!(%upstream, tool = %name, %why, "the tool is left out: its header annotations are invalid");
                false
            }
        });
        let kept = kept.collect();
        *self.marks.lock().unwrap_or_else(PoisonError::into_inner) = Some(all);
        kept
    }

    /// Sets the headers that the tool's arguments ask for, as far as the tools were listed: an upstream that wants others
    /// says so, and the tools are listed again.
    pub(crate) fn headers(&self, tool: &str, arguments: &str, question: &mut Question<'_>) {
        let marks = {
            let all = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
            all.as_ref().and_then(|all| all.get(tool).cloned())
        };
        question.headers.clear();
        if let Some(marks) = marks {
            mirror(&marks, arguments, &mut question.headers);
        }
    }

    /// Lists the tools again, for their marks.
    pub(crate) async fn renew(&self, link: &dyn Link, deadline: Instant) -> Result<(), DispatchError> {
        let tools = list_tools(link, deadline).await.map_err(|e| DispatchError::NotSent(e.0))?;
        let mut all = HashMap::new();
        for tool in tools {
            if let (Some(name), Ok(marks)) = (tool_name(&tool), marked(tool.get())) {
                all.insert(name, marks.into());
            }
        }
        *self.marks.lock().unwrap_or_else(PoisonError::into_inner) = Some(all);
        Ok(())
    }

    /// Session era: asks for messages of this level on, if no lower one was asked for. The session is shared, so that levels
    /// only go down; whoever wants less gets less from the gate. A server that refuses keeps its own level.
    pub(crate) async fn log_level(&self, link: &dyn Link, level: &str, deadline: Instant) {
        let Some(rank) = LEVELS.iter().position(|known| *known == level) else { return };
        let mut asked = self.level.lock().await;
        if asked.is_some_and(|asked| asked <= rank) {
            return;
        }
        *asked = Some(rank);
        let members = format!("\"level\":{}", quote(level));
        let question = Question { method: "logging/setLevel", members: &members, ..Question::plain(&Mute, deadline) };
        let _ = link.ask(&question).await;
    }
}

fn tool_name(tool: &RawValue) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Named {
        name: String,
    }
    serde_json::from_str::<Named>(tool.get()).ok().map(|named| named.name)
}

impl McpUpstream {
    /// Sets an upstream up; nothing is started or connected before it is needed. Environment variables that the manifest
    /// refers to are read now.
    ///
    /// # Errors
    /// [`ConnectError`], if a variable is missing or the network client cannot be set up.
    pub fn new(manifest: &Manifest, egress: &Egress) -> Result<Arc<Self>, ConnectError> {
        Self::with_credentials(manifest, egress, None)
    }

    /// The same with a source of credentials.
    ///
    /// # Errors
    /// As [`McpUpstream::new`].
    pub fn with_credentials(
        manifest: &Manifest,
        egress: &Egress,
        credentials: Option<Arc<dyn CredentialSource>>,
    ) -> Result<Arc<Self>, ConnectError> {
        let settings = Settings {
            name: manifest.upstream.clone(),
            start_timeout: manifest.start_timeout,
            discover_timeout: manifest.start_timeout + manifest.timeout,
            max_concurrency: manifest.max_concurrency as usize,
        };
        let board = Arc::new(Board::new());
        let link: Arc<dyn Link> = match &manifest.transport {
            Transport::Stdio(stdio) => StdioLink::new(stdio, &settings, Arc::clone(&board))?,
            Transport::Http(http) => {
                let credentials = needed(manifest, http.credential.as_deref(), credentials)?;
                HttpLink::new(http, &settings, egress, Arc::clone(&board), credentials)?
            }
            Transport::Rest(_) | Transport::BuiltIn => {
                let problem = "this is no MCP server".to_owned();
                return Err(ConnectError::Manifest { upstream: settings.name, problem });
            }
        };
        let slots = Slots::new(manifest);
        Ok(Arc::new(Self { settings, board, link, mirror: Mirror::default(), slots }))
    }
}

/// The upstream of a manifest, whatever it is, with the source of its credentials if it has one.
///
/// # Errors
/// As [`McpUpstream::new`] and [`RestUpstream::new`].
pub fn connect(
    manifest: &Manifest,
    egress: &Egress,
    credentials: Option<Arc<dyn CredentialSource>>,
) -> Result<Arc<dyn Upstream>, ConnectError> {
    let source = credentials.clone();
    let inner: Arc<dyn Upstream> = match &manifest.transport {
        Transport::Stdio(_) | Transport::Http(_) => McpUpstream::with_credentials(manifest, egress, source)?,
        Transport::Rest(_) | Transport::BuiltIn => RestUpstream::new(manifest, egress, source)?,
    };
    let no_texts = Default::default();
    let (texts, stated) = match &manifest.transport {
        Transport::Stdio(stdio) => (&stdio.env, None),
        Transport::Http(http) => (&http.headers, http.credential.as_deref()),
        Transport::Rest(rest) => (&rest.headers, rest.credential.as_deref()),
        Transport::BuiltIn => (&no_texts, None),
    };
    let variables = texts.values().flat_map(EnvText::variables).filter_map(|name| std::env::var(name).ok());
    let variables = variables.fold(Redactor::default(), |mut redactor, value| {
        redactor.add(&value);
        redactor
    });
    let personal = stated.is_some_and(Credential::is_personal);
    Ok(Arc::new(Guarded { inner, credentials, variables, personal }))
}

/// A source where the manifest wants one.
pub(crate) fn needed(
    manifest: &Manifest,
    stated: Option<&Credential>,
    credentials: Option<Arc<dyn CredentialSource>>,
) -> Result<Option<Arc<dyn CredentialSource>>, ConnectError> {
    if stated.is_some() && credentials.is_none() {
        let problem = "nothing brings the credential that the manifest wants".to_owned();
        return Err(ConnectError::Manifest { upstream: manifest.upstream.clone(), problem });
    }
    Ok(credentials)
}

#[async_trait]
impl Upstream for McpUpstream {
    fn name(&self) -> &UpstreamName {
        &self.settings.name
    }

    async fn dispatch(&self, permit: Permit, exchange: &dyn Exchange) -> Result<ToolResult, DispatchError> {
        let _slot = tokio::select! {
            slot = self.slots.enter(permit.deadline()) => slot?,
            () = exchange.cancelled() => return Err(DispatchError::Busy("cancelled before it was sent".into())),
        };
        let link = OnBehalf { link: &*self.link, caller: permit.principal() };
        // Dropping the call tells the upstream, in the way of its era and transport.
        tokio::select! {
            biased;
            result = call(&link, &self.mirror, &permit, exchange) => result,
            () = exchange.cancelled() => Err(DispatchError::Cancelled),
        }
    }

    async fn discover(&self) -> Result<Discovered, DiscoverError> {
        let deadline = Instant::now() + self.settings.discover_timeout;
        let mut found = discover(&*self.link, deadline).await?;
        let facts = self.link.facts(deadline).await.map_err(|e| DiscoverError(e.to_string()))?;
        if facts.mirrors {
            found.tools = self.mirror.learn(&self.settings.name, found.tools);
        }
        Ok(found)
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.board.changes()
    }

    fn updates(&self) -> broadcast::Receiver<Told> {
        self.board.updates()
    }

    fn unwatch(&self, uri: &str) {
        if self.board.unwatch(uri) {
            self.link.unsubscribe(uri);
        }
    }

    fn status(&self) -> UpstreamStatus {
        self.board.status()
    }

    async fn shutdown(&self) {
        self.slots.close();
        self.link.close().await;
    }
}
