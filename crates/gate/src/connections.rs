//! Accounts that people have with the provider behind an upstream: connected once by the person, used on every call made for
//! them, seen by no agent. (RFC 6749, 4.1 with RFC 7636 and RFC 9207; `docs/credentials.md`.)
//!
//! The authorization code comes back in a browser of which the node knows nothing. So the tokens are put aside until the person,
//! signed in, repeats a code that only that browser was shown: a link that somebody else opened connects nothing.
//!
//! - [`flow`]: from the person's wish to the connection, and back.
//! - [`renew`]: the token for a call; renewed by one node at a time, and stored before it is used.
//! - [`operators`]: what operators see of it, and how they drop it.
//! - [`finder`], [`metadata`] and [`client`]: which authorization server it is, where the upstream itself says so, and the node as
//!   its client.

pub mod client;
pub mod finder;
pub mod flow;
pub mod metadata;
pub mod operators;
mod renew;
mod step_up;

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use countersign_catalog::Manifest;
use countersign_domain::principal::PrincipalRecord;
use countersign_domain::{Millis, Principal, Refusal, RefusalKind, UpstreamName, WorkspaceName};
use countersign_ledger::Ledger;
use countersign_ledger::connections::{ConnectionKey, ConnectionRow, ConnectionStage};
use countersign_ledger::state::Fingerprint;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use finder::Finder;

use crate::broker::oauth::{Token, TokenClient, TokenEndpoint};
use crate::broker::{CredentialSource, Secret};
use crate::keyring::{Keyring, WorkspaceKeys};

/// Where providers send people back to, below the node's URL.
pub const CALLBACK: &str = "/oauth/callback";
/// How long before its end a token is not handed out any more, at most; short-lived ones keep three quarters of their life.
const MARGIN: Millis = 30_000;

/// What all connections share.
pub struct Connections {
    ledger: Ledger,
    keyring: Arc<Keyring>,
    /// The node's URL, without a slash at the end.
    base: String,
    clock: fn() -> Millis,
    providers: RwLock<BTreeMap<UpstreamName, Arc<Provider>>>,
}

impl std::fmt::Debug for Connections {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connections").field("base", &self.base).finish_non_exhaustive()
    }
}

/// How one upstream's people connect accounts.
pub(crate) struct Provider {
    manifest: Manifest,
    way: Way,
    http: Arc<dyn TokenEndpoint>,
    /// The secret of a client that was registered by hand, where the server is found.
    secret: Option<Secret>,
}

/// Where its authorization server is known from.
enum Way {
    /// The manifest.
    Stated(Arc<Known>),
    /// The upstream.
    Found(Box<Finder>),
}

/// An authorization server, and the node as its client.
struct Known {
    client: TokenClient,
    /// Whether every answer has to name the issuer.
    names_itself: bool,
}

impl Known {
    fn issuer(&self) -> Option<&str> {
        self.client.settings().issuer.as_deref()
    }
}

impl Provider {
    /// What is asked for first, as far as it is known.
    fn scopes(&self) -> Vec<String> {
        match &self.way {
            Way::Stated(known) => known.client.settings().scopes.clone(),
            Way::Found(finder) => match (&finder.settings().scopes, finder.last()) {
                (Some(stated), _) => stated.clone(),
                (None, Some(server)) => server.scopes.clone(),
                (None, None) => Vec::new(),
            },
        }
    }

    /// Whether an account is of another authorization server than the one that counts now.
    fn is_foreign(&self, account: &Account) -> bool {
        match &self.way {
            Way::Stated(known) => {
                account.issuer.as_deref().zip(known.issuer()).is_some_and(|(theirs, ours)| theirs != ours)
            }
            Way::Found(finder) => match finder.last() {
                Some(server) => account.issuer.as_ref() != Some(&server.metadata.issuer),
                None => account.issuer.is_none(),
            },
        }
    }
}

/// What is known of an account, beside its secrets.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Account {
    principal: PrincipalRecord,
    /// What the provider granted.
    scopes: Vec<String>,
    connected: Millis,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    renewed: Option<Millis>,
    /// When the access token ends by the provider's word.
    ends: Millis,
    /// Until when it is handed out.
    usable: Millis,
    /// Whether the provider gave something to renew it with.
    renewable: bool,
    /// Why it cannot be used any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    broken: Option<String>,
    /// The authorization server's issuer, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    issuer: Option<String>,
    /// The host of the page on which it was consented to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    host: Option<String>,
    /// What was asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    asked: Vec<String>,
    /// What the upstream wanted beside it since then.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    wanted: Vec<String>,
}

/// The secrets of an account.
#[derive(Deserialize)]
struct Tokens {
    access: Secret,
    #[serde(default)]
    refresh: Option<Secret>,
}

impl Tokens {
    fn bytes(&self) -> Zeroizing<Vec<u8>> {
        #[derive(Serialize)]
        struct Shown<'a> {
            access: &'a str,
            refresh: Option<&'a str>,
        }
        let shown = Shown { access: self.access.expose(), refresh: self.refresh.as_ref().map(Secret::expose) };
        Zeroizing::new(serde_json::to_vec(&shown).unwrap_or_default())
    }
}

impl Account {
    /// What a token says of itself, at this time.
    fn of(principal: PrincipalRecord, asked: Vec<String>, known: &Known, token: &Token, now: Millis) -> Self {
        let settings = known.client.settings();
        let host = settings.authorization_url.as_ref().and_then(|url| url.host_str());
        let mut account = Self {
            principal,
            scopes: asked.clone(),
            issuer: settings.issuer.clone(),
            host: host.map(str::to_owned),
            asked,
            wanted: Vec::new(),
            connected: now,
            renewed: None,
            ends: now,
            usable: now,
            renewable: false,
            broken: None,
        };
        account.take(token, now);
        account
    }

    /// Goes on with a newer token.
    fn take(&mut self, token: &Token, now: Millis) {
        let life = u64::try_from(token.life.as_millis()).unwrap_or(u64::MAX);
        self.ends = now.saturating_add(life);
        self.usable = now.saturating_add(life.saturating_sub(MARGIN.min(life / 4)));
        self.renewable |= token.refresh.is_some();
        if let Some(scopes) = &token.scopes {
            self.scopes.clone_from(scopes);
        }
    }
}

impl Connections {
    /// Over the ledger and its keys; `base` is the node's URL.
    pub fn new(ledger: Ledger, keyring: Arc<Keyring>, base: &str, clock: fn() -> Millis) -> Arc<Self> {
        let base = base.trim_end_matches('/').to_owned();
        Arc::new(Self { ledger, keyring, base, clock, providers: RwLock::default() })
    }

    /// The source of an upstream's credentials, whose people connect accounts from now on.
    pub(crate) fn source(
        self: &Arc<Self>,
        manifest: &Manifest,
        client: TokenClient,
        http: Arc<dyn TokenEndpoint>,
    ) -> Arc<dyn CredentialSource> {
        let names_itself = client.settings().issuer.is_some();
        let way = Way::Stated(Arc::new(Known { client, names_itself }));
        self.provide(Provider { manifest: manifest.clone(), way, http, secret: None })
    }

    /// The same, with an authorization server that the upstream names itself.
    pub(crate) fn source_found(
        self: &Arc<Self>,
        manifest: &Manifest,
        finder: Finder,
        secret: Option<Secret>,
        http: Arc<dyn TokenEndpoint>,
    ) -> Arc<dyn CredentialSource> {
        self.provide(Provider { manifest: manifest.clone(), way: Way::Found(Box::new(finder)), http, secret })
    }

    fn provide(self: &Arc<Self>, provider: Provider) -> Arc<dyn CredentialSource> {
        let (manifest, provider) = (provider.manifest.clone(), Arc::new(provider));
        let mut providers = self.providers.write().unwrap_or_else(PoisonError::into_inner);
        providers.insert(manifest.upstream.clone(), Arc::clone(&provider));
        Arc::new(renew::UserTokens::new(Arc::clone(self), provider))
    }

    fn provider(&self, upstream: &UpstreamName) -> Option<Arc<Provider>> {
        self.providers.read().unwrap_or_else(PoisonError::into_inner).get(upstream).cloned()
    }

    /// Those of a workspace.
    fn visible(&self, workspace: &WorkspaceName) -> Vec<Arc<Provider>> {
        let providers = self.providers.read().unwrap_or_else(PoisonError::into_inner);
        providers.values().filter(|provider| provider.manifest.visible_to(workspace)).cloned().collect()
    }

    fn now(&self) -> Millis {
        (self.clock)()
    }

    fn redirect(&self) -> String {
        format!("{}{CALLBACK}", self.base)
    }

    async fn keys(&self, workspace: &WorkspaceName) -> Result<Arc<WorkspaceKeys>, Refusal> {
        self.keyring.workspace(workspace).await.map_err(|error| {
            tracing::error!(%error, %workspace, "workspace key");
            crate::gate::ledger_away()
        })
    }

    async fn row(&self, key: &ConnectionKey) -> Result<Option<ConnectionRow>, Refusal> {
        let key = key.clone();
        self.ledger.read(move |reader| reader.connection(&key)).await.map_err(|error| {
            tracing::error!(%error, "a connection could not be read");
            crate::gate::ledger_away()
        })
    }

    /// A row with its secrets sealed.
    async fn sealed(
        &self,
        key: ConnectionKey,
        version: Fingerprint,
        body: &impl Serialize,
        secret: &[u8],
        expires: Option<Millis>,
    ) -> Result<ConnectionRow, Refusal> {
        let keys = self.keys(&key.workspace).await?;
        let sealed = keys.seal(&purpose(&key), secret).map_err(|_| internal("it could not be sealed"))?;
        let body = serde_json::to_string(body).map_err(|_| internal("it could not be written"))?;
        Ok(ConnectionRow { key, version, body, sealed, expires, at: self.now(), event: None })
    }

    async fn opened(&self, row: &ConnectionRow) -> Result<Zeroizing<Vec<u8>>, Refusal> {
        let keys = self.keys(&row.key.workspace).await?;
        let opened = keys.open(&purpose(&row.key), &row.sealed);
        opened.map(Zeroizing::new).map_err(|error| {
            tracing::error!(%error, upstream = %row.key.upstream, "the secrets of a connection do not open");
            internal("its secrets do not open")
        })
    }

    async fn tokens(&self, row: &ConnectionRow) -> Result<Tokens, Refusal> {
        serde_json::from_slice(&self.opened(row).await?).map_err(|_| internal("its secrets cannot be read"))
    }

    /// The refusal that tells a caller what the person has to do first.
    fn needed(&self, upstream: &UpstreamName, caller: &Principal, why: &str) -> Refusal {
        let person = caller.on_behalf_of.as_deref().unwrap_or(&caller.id);
        let page = format!("{}/connections/{upstream}/page", self.base);
        let detail = format!(
            "{upstream} is used with an account of the person's own, and {why}. {person} connects it on {page} or with \
             `countersign connections connect {upstream}`; nothing was sent to the upstream"
        );
        Refusal::new(RefusalKind::ConnectionNeeded, detail)
            .with("upstream", upstream.as_str())
            .with("connect_url", page)
    }
}

fn account(row: &ConnectionRow) -> Result<Account, Refusal> {
    serde_json::from_str(&row.body).map_err(|_| internal("what is known of it cannot be read"))
}

fn connected(workspace: &WorkspaceName, upstream: &UpstreamName, person: String) -> ConnectionKey {
    let (workspace, upstream) = (workspace.clone(), upstream.clone());
    ConnectionKey { workspace, upstream, person, stage: ConnectionStage::Connected }
}

/// What is sealed for one person, upstream and stage opens for no other.
fn purpose(key: &ConnectionKey) -> Vec<u8> {
    let stage = match key.stage {
        ConnectionStage::Started => "started",
        ConnectionStage::Consented => "consented",
        ConnectionStage::Connected => "connected",
    };
    // Neither stage nor upstream can hold the separator, and the person comes last.
    format!("connection|{stage}|{}|{}", key.upstream, key.person).into_bytes()
}

fn internal(why: &str) -> Refusal {
    Refusal::new(RefusalKind::Internal, format!("the connection can't be used: {why}"))
}
