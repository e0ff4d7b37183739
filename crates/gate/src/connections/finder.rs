//! Finds the authorization server of an upstream that names it by itself: challenge, protected resource metadata, authorization
//! server metadata. (MCP 2025-11-25 and 2026-07-28, Authorization; RFC 9728, RFC 8414.)
//!
//! An upstream is trusted with nothing but its own address: it chooses where the node goes next, so that each of its URLs has to be
//! one that the node's way out admits, and the issuer one of those that the operator trusts, if any were named. What was found is
//! believed for a few minutes; what a caller's refused token calls in question is looked for again.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use countersign_catalog::manifest::FoundSettings;
use countersign_domain::{Refusal, RefusalKind, UpstreamName};
use url::Url;
use zeroize::Zeroizing;

use super::metadata::{self, Challenge, ResourceMetadata, ServerMetadata};
use crate::broker::Secret;

/// Longest document that is read, in bytes.
pub const MAX_DOCUMENT: usize = 64 << 10;
/// How long what was found is believed.
const BELIEVED: Duration = Duration::from_secs(300);
/// How long it is believed whatever upstreams answer: callers cannot have it looked for all the time.
const SETTLED: Duration = Duration::from_secs(5);
/// How long a failure is remembered.
const FAILURE: Duration = Duration::from_secs(2);
/// How long all of it may take.
const SEARCH: Duration = Duration::from_secs(20);
/// How long one request may take.
const ONE: Duration = Duration::from_secs(5);

/// The way to documents that upstreams and authorization servers name; the gate itself opens no connection. No redirects are
/// followed, and at most [`MAX_DOCUMENT`] bytes are read of an answer.
#[async_trait]
pub trait MetadataWeb: Send + Sync {
    /// Whether the node would go to a URL that a stranger named. One that leads to this machine or network by its own words is only
    /// admitted on a host that the operator named.
    ///
    /// # Errors
    /// In words.
    fn admits(&self, url: &Url, named: &[Url]) -> Result<(), String>;

    /// What an MCP server says to a request without credentials: the values of `WWW-Authenticate`, if it answers 401.
    ///
    /// # Errors
    /// In words, if there is no answer.
    async fn challenge(
        &self,
        url: &Url,
        headers: &[(String, Secret)],
        deadline: Instant,
    ) -> Result<Vec<String>, String>;

    /// A document, with its status. `upstream` is the address that the operator gave the upstream.
    ///
    /// # Errors
    /// In words, if there is no answer.
    async fn document(&self, url: &Url, upstream: &Url, deadline: Instant) -> Result<(u16, Vec<u8>), String>;

    /// Posts a registration (RFC 7591), and returns status and answer.
    ///
    /// # Errors
    /// In words, if there is no answer.
    async fn register(&self, url: &Url, body: String, deadline: Instant) -> Result<(u16, Zeroizing<Vec<u8>>), String>;
}

/// What was found.
#[derive(Debug)]
pub(crate) struct Server {
    pub metadata: ServerMetadata,
    /// What the upstream calls itself.
    pub resource: String,
    /// What is asked for first.
    pub scopes: Vec<String>,
    at: Instant,
}

/// Looks for the authorization server of one upstream.
pub(crate) struct Finder {
    upstream: UpstreamName,
    url: Url,
    headers: Vec<(String, Secret)>,
    settings: FoundSettings,
    web: Arc<dyn MetadataWeb>,
    searching: tokio::sync::Mutex<()>,
    held: Mutex<Held>,
    doubted: AtomicBool,
}

#[derive(Default)]
struct Held {
    server: Option<Arc<Server>>,
    failed: Option<(String, Instant)>,
}

impl Finder {
    pub(crate) fn new(
        upstream: UpstreamName,
        url: Url,
        headers: Vec<(String, Secret)>,
        settings: FoundSettings,
        web: Arc<dyn MetadataWeb>,
    ) -> Self {
        let (searching, held, doubted) = (tokio::sync::Mutex::default(), Mutex::default(), AtomicBool::new(false));
        Self { upstream, url, headers, settings, web, searching, held, doubted }
    }

    pub(crate) fn settings(&self) -> &FoundSettings {
        &self.settings
    }

    pub(crate) fn web(&self) -> &Arc<dyn MetadataWeb> {
        &self.web
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was found last, however long ago.
    pub(crate) fn last(&self) -> Option<Arc<Server>> {
        self.held().server.clone()
    }

    /// A token of a server that was found is refused: perhaps it is another server by now.
    pub(crate) fn doubt(&self) {
        self.doubted.store(true, Ordering::Release);
    }

    pub(crate) fn is_doubted(&self) -> bool {
        self.doubted.load(Ordering::Acquire)
    }

    fn known(&self) -> Option<Result<Arc<Server>, String>> {
        let held = self.held();
        let believed = if self.is_doubted() { SETTLED } else { BELIEVED };
        if let Some(server) = held.server.as_ref().filter(|server| server.at.elapsed() < believed) {
            return Some(Ok(Arc::clone(server)));
        }
        held.failed.as_ref().filter(|(_, until)| *until > Instant::now()).map(|(why, _)| Err(why.clone()))
    }

    /// The server, looked for if it has to be; by one caller at a time.
    ///
    /// # Errors
    /// [`RefusalKind::CredentialUnavailable`], with the reason.
    pub(crate) async fn find(&self) -> Result<Arc<Server>, Refusal> {
        let refusal = |why: String| {
            let detail = format!("the authorization server of {} was not found: {why}", self.upstream);
            Refusal::new(RefusalKind::CredentialUnavailable, detail)
        };
        if let Some(known) = self.known() {
            return known.map_err(refusal);
        }
        let _one_at_a_time = self.searching.lock().await;
        if let Some(known) = self.known() {
            return known.map_err(refusal);
        }
        let found = tokio::time::timeout(SEARCH, self.search()).await;
        let found = found.unwrap_or_else(|_| Err(format!("it took longer than {} seconds", SEARCH.as_secs())));
        let mut held = self.held();
        match found {
            Ok(server) => {
                let server = Arc::new(server);
                let (old, new) = (held.server.as_ref().map(|old| &old.metadata.issuer), &server.metadata.issuer);
                if old.is_some_and(|old| old != new) {
                    tracing::warn!(upstream = %self.upstream, ?old, new, "the upstream names another authorization server");
                }
                *held = Held { server: Some(Arc::clone(&server)), failed: None };
                self.doubted.store(false, Ordering::Release);
                Ok(server)
            }
            Err(why) => {
                tracing::warn!(upstream = %self.upstream, why, "an authorization server was not found");
                held.failed = Some((why.clone(), Instant::now() + FAILURE));
                Err(refusal(why))
            }
        }
    }

    async fn search(&self) -> Result<Server, String> {
        let said = self.web.challenge(&self.url, &self.headers, Instant::now() + ONE).await;
        // An upstream that is not there is not there for the next request either.
        let said = said.inspect_err(|why| tracing::debug!(upstream = %self.upstream, why, "no challenge"));
        let challenge = Challenge::read(said.iter().flatten().map(String::as_str)).unwrap_or_default();
        let resource = self.resource(&challenge).await?;
        let issuer = self.issuer(&resource)?;
        let metadata = self.server(&issuer).await?;
        let named = self.named();
        metadata.endpoints().try_for_each(|url| self.web.admits(url, &named))?;
        let scopes = match (&self.settings.scopes, challenge.scopes, resource.scopes) {
            (Some(stated), _, _) => stated.clone(),
            (None, Some(challenged), _) => renewable(challenged, &metadata),
            (None, None, supported) => renewable(supported.unwrap_or_default(), &metadata),
        };
        Ok(Server { metadata, resource: resource.resource, scopes, at: Instant::now() })
    }

    /// What the operator named, whose hosts may be inside.
    fn named(&self) -> Vec<Url> {
        let issuers = self.settings.authorization_servers.iter().filter_map(|issuer| Url::parse(issuer).ok());
        std::iter::once(self.url.clone()).chain(issuers).collect()
    }

    /// By the challenge's word if it has one, else where the standard says, the most specific place first.
    async fn resource(&self, challenge: &Challenge) -> Result<ResourceMetadata, String> {
        let places = match &challenge.resource_metadata {
            Some(stated) => vec![metadata::secure(stated).or_else(|why| self.own(stated).ok_or(why))?],
            None => metadata::resource_places(&self.url),
        };
        let mut problems = Vec::new();
        for place in places {
            match self.get(&place).await? {
                (200, document) => {
                    let read = ResourceMetadata::read(&document, &self.url, self.settings.resource.as_deref());
                    return read.map_err(|why| format!("{place}: {why}"));
                }
                (status, _) => problems.push(format!("{place}: HTTP {status}")),
            }
        }
        Err(format!("it has no protected resource metadata (RFC 9728): {}", problems.join("; ")))
    }

    /// A place at the upstream's own origin is as good as the upstream: its operator chose the scheme.
    fn own(&self, text: &str) -> Option<Url> {
        Url::parse(text).ok().filter(|url| url.origin() == self.url.origin())
    }

    /// The first that is trusted.
    fn issuer(&self, resource: &ResourceMetadata) -> Result<String, String> {
        let trusted = &self.settings.authorization_servers;
        let chosen = resource.servers.iter().find(|issuer| trusted.is_empty() || trusted.contains(issuer));
        match (chosen, resource.servers.first()) {
            (Some(issuer), _) => Ok(issuer.clone()),
            (None, Some(first)) => {
                Err(format!("it names {}, which is none of `authorization_servers`", metadata::shown(first)))
            }
            (None, None) => Err("its metadata name no authorization server".to_owned()),
        }
    }

    async fn server(&self, issuer: &str) -> Result<ServerMetadata, String> {
        let url = metadata::issuer_url(issuer)?;
        let mut problems = Vec::new();
        for place in metadata::server_places(&url) {
            match self.get(&place).await? {
                (200, document) => {
                    return ServerMetadata::read(&document, issuer).map_err(|why| format!("{place}: {why}"));
                }
                (status, _) => problems.push(format!("{place}: HTTP {status}")),
            }
        }
        Err(format!("{} has no metadata: {}", metadata::shown(issuer), problems.join("; ")))
    }

    async fn get(&self, url: &Url) -> Result<(u16, Vec<u8>), String> {
        self.web.admits(url, &self.named())?;
        let answer = self.web.document(url, &self.url, Instant::now() + ONE).await;
        answer.map_err(|why| format!("{url}: {why}"))
    }
}

/// With what keeps a connection going without its person, where the server has that (MCP, Authorization, Refresh Tokens). Where
/// nothing is asked for, the server decides, and goes on doing so.
fn renewable(mut scopes: Vec<String>, server: &ServerMetadata) -> Vec<String> {
    if server.offline && !scopes.is_empty() && !scopes.iter().any(|scope| scope == OFFLINE) {
        scopes.push(OFFLINE.to_owned());
    }
    scopes
}

/// OpenID Connect Core 1.0, 11.
pub(crate) const OFFLINE: &str = "offline_access";
