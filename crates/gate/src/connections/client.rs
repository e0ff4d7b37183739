//! The node as a client of an authorization server that was found: registered by hand, by the address of its own metadata document,
//! or by registration (RFC 7591), in this order (MCP, Client Registration).
//!
//! A registration belongs to its issuer, its workspace and the node's URL. It lies beside people's connections, with its secret
//! sealed, so that all nodes share it; a pause of the database keeps two nodes from registering at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use countersign_catalog::manifest::OauthSettings;
use countersign_catalog::manifest::credential::ClientAuth;
use countersign_domain::{Millis, Refusal, RefusalKind, UpstreamName, WorkspaceName};
use countersign_ledger::connections::{ConnectionKey, ConnectionRow};
use countersign_ledger::state::{Conflict, StateOp};
use countersign_ledger::{Append, AppendError};
use serde::{Deserialize, Serialize};
use serde_json::json;
use url::Url;

use super::finder::{Finder, Server};
use super::metadata::{Method, Registered};
use super::{Connections, Known, Provider, Way, connected};
use crate::broker::Secret;
use crate::broker::oauth::TokenClient;

/// Where the node's own metadata document is, below its URL.
pub const DOCUMENT: &str = "/client-metadata.json";
/// What people read at the authorization server.
const NAME: &str = "Countersign";
/// How long a server has to register a client.
const ANSWER: Duration = Duration::from_secs(10);
/// How long a node keeps others from registering.
const LEASE: Millis = 20_000;
/// How long a node waits for another's registration, and how often it looks.
const WAIT: Duration = Duration::from_secs(15);
const LOOK: Duration = Duration::from_millis(200);
/// A secret that ends so soon is not begun with.
const MARGIN: Millis = 3_600_000;

/// What is known of a registration, beside its secret.
#[derive(Debug, Serialize, Deserialize)]
struct Registration {
    issuer: String,
    client_id: String,
    method: Method,
    redirect: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ends: Option<Millis>,
}

/// The node as a client.
struct Client {
    id: String,
    secret: Option<Secret>,
    method: Method,
}

/// Whether a client may be registered where there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Newcomer {
    /// It may.
    Registers,
    /// It may not: what is asked for was begun with a client.
    Stays,
}

impl Connections {
    /// What the node says of itself to authorization servers that ask (draft-ietf-oauth-client-id-metadata-document); only where its
    /// own URL can be an id.
    pub fn document(&self) -> Option<serde_json::Value> {
        let id = self.document_id()?;
        let mut document = self.description(Method::None);
        document["client_id"] = id.into();
        document["client_uri"] = self.base.clone().into();
        Some(document)
    }

    fn document_id(&self) -> Option<String> {
        Url::parse(&self.base).is_ok_and(|url| url.scheme() == "https").then(|| format!("{}{DOCUMENT}", self.base))
    }

    /// RFC 7591, 2; OpenID Connect Dynamic Client Registration 1.0, 2.
    fn description(&self, method: Method) -> serde_json::Value {
        let is_public =
            Url::parse(&self.base).is_ok_and(|url| url.scheme() == "https" && url.host_str() != Some("localhost"));
        json!({
            "client_name": NAME,
            "redirect_uris": [self.redirect()],
            "grant_types": ["authorization_code", "refresh_token"],
            "response_types": ["code"],
            "token_endpoint_auth_method": method.as_str(),
            "application_type": if is_public { "web" } else { "native" },
        })
    }

    /// The authorization server of an upstream with the node as its client, for people of this workspace. `issuer` is the one that
    /// something was begun with.
    ///
    /// # Errors
    /// [`RefusalKind::CredentialUnavailable`], with the reason.
    pub(super) async fn known(
        &self,
        provider: &Provider,
        workspace: &WorkspaceName,
        issuer: Option<&str>,
        newcomer: Newcomer,
    ) -> Result<Arc<Known>, Refusal> {
        let finder = match &provider.way {
            Way::Stated(known) => return Ok(Arc::clone(known)),
            Way::Found(finder) => finder,
        };
        let server = finder.find().await?;
        let upstream = &provider.manifest.upstream;
        if issuer.is_some_and(|issuer| issuer != server.metadata.issuer) {
            return Err(unavailable(upstream, "it names another authorization server than when this was begun"));
        }
        let client = match self.without_registering(provider, finder, &server)? {
            Some(client) => client,
            None => self.registered(finder, &server, upstream, workspace, newcomer).await?,
        };
        let metadata = &server.metadata;
        let settings = OauthSettings {
            token_url: metadata.token.clone(),
            authorization_url: Some(metadata.authorization.clone()),
            revocation_url: metadata.revocation.clone(),
            issuer: Some(metadata.issuer.clone()),
            client_id: client.id,
            client_secret: None,
            client_auth: if client.method == Method::Post { ClientAuth::Post } else { ClientAuth::Basic },
            scopes: server.scopes.clone(),
            resource: Some(server.resource.clone()),
            audience: None,
        };
        let client = TokenClient::with_secret(settings, client.secret, Arc::clone(&provider.http));
        Ok(Arc::new(Known { client, names_itself: metadata.names_itself }))
    }

    fn without_registering(
        &self,
        provider: &Provider,
        finder: &Finder,
        server: &Server,
    ) -> Result<Option<Client>, Refusal> {
        let (settings, methods) = (finder.settings(), server.metadata.methods.as_deref());
        let upstream = &provider.manifest.upstream;
        if let Some(id) = &settings.client_id {
            let secret = provider.secret.clone();
            let method = match (&secret, settings.client_auth) {
                (None, _) => Some(Method::None),
                (Some(_), Some(ClientAuth::Basic)) => Some(Method::Basic),
                (Some(_), Some(ClientAuth::Post)) => Some(Method::Post),
                (Some(_), None) => Method::choose(methods, true),
            };
            let method = method.ok_or_else(|| unavailable(upstream, "it takes no client_secret"))?;
            return Ok(Some(Client { id: id.clone(), secret, method }));
        }
        let document = self.document_id().filter(|_| server.metadata.takes_documents);
        // Such a client has no secret; where that is not taken, it has to register.
        let document = document.filter(|_| Method::choose(methods, false).is_some());
        Ok(document.map(|id| Client { id, secret: None, method: Method::None }))
    }

    async fn registered(
        &self,
        finder: &Finder,
        server: &Server,
        upstream: &UpstreamName,
        workspace: &WorkspaceName,
        newcomer: Newcomer,
    ) -> Result<Client, Refusal> {
        let key = registration_key(workspace, upstream);
        let issuer = server.metadata.issuer.as_str();
        if let Some(client) = self.registration(&key, issuer).await? {
            return Ok(client);
        }
        if newcomer == Newcomer::Stays {
            return Err(unavailable(
                upstream,
                "the node is not registered there any more; the account has to be connected anew",
            ));
        }
        let Some(url) = &server.metadata.registration else {
            let why = "its authorization server registers no clients: register the node there by hand, and write its \
                       `client_id` and `authorization_servers` into the manifest";
            return Err(unavailable(upstream, why));
        };
        let keys = self.keys(workspace).await?;
        let lease = keys.fingerprint("client-registration", &[upstream.as_str().as_bytes()]);
        let until = Instant::now() + WAIT;
        loop {
            let take = StateOp::CooldownBegin { key: lease, pause: LEASE };
            match self.ledger.append(Append { events: vec![], ops: vec![take], ..Append::default() }).await {
                Ok(_) => break,
                Err(AppendError::Conflict(Conflict::CoolingDown { .. })) if Instant::now() < until => {}
                Err(AppendError::Conflict(_)) => {
                    return Err(unavailable(upstream, "another node is registering; try again"));
                }
                Err(error) => return Err(away(&error)),
            }
            tokio::time::sleep(LOOK).await;
            if let Some(client) = self.registration(&key, issuer).await? {
                return Ok(client);
            }
        }
        let client = match self.registration(&key, issuer).await {
            Ok(None) => self.register(finder, server, url, key).await,
            Ok(Some(client)) => Ok(client),
            Err(refusal) => Err(refusal),
        };
        let give_back = StateOp::CooldownDrop { key: lease };
        if let Err(error) =
            self.ledger.append(Append { events: vec![], ops: vec![give_back], ..Append::default() }).await
        {
            tracing::warn!(%error, "a lease was not given back; it ends by itself");
        }
        client
    }

    /// Registers the node, and stores what it was given before it is used.
    async fn register(
        &self,
        finder: &Finder,
        server: &Server,
        url: &Url,
        key: ConnectionKey,
    ) -> Result<Client, Refusal> {
        let upstream = key.upstream.clone();
        let methods = server.metadata.methods.as_deref();
        let method = Method::choose(methods, true).or_else(|| Method::choose(methods, false));
        let method = method.ok_or_else(|| unavailable(&upstream, "it takes no authentication that is spoken here"))?;
        let mut asked = self.description(method);
        if !server.scopes.is_empty() {
            asked["scope"] = server.scopes.join(" ").into();
        }
        let answer = finder.web().register(url, asked.to_string(), Instant::now() + ANSWER).await;
        let read = answer.and_then(|(status, body)| Registered::read(status, &body, method));
        let given = read.map_err(|why| {
            tracing::warn!(%upstream, %url, why, "the node was not registered");
            unavailable(&upstream, &format!("its authorization server did not register the node ({why})"))
        })?;
        let registration = Registration {
            issuer: server.metadata.issuer.clone(),
            client_id: given.client_id.clone(),
            method: given.method,
            redirect: self.redirect(),
            ends: given.ends.map(|seconds| seconds.saturating_mul(1_000)),
        };
        let secret = given.secret.as_ref().map(Secret::expose).unwrap_or_default();
        let row = self.sealed(key, crate::entropy::<32>(), &registration, secret.as_bytes(), None).await?;
        let put = StateOp::ConnectionPut { row: Box::new(row), from: None };
        self.ledger
            .append(Append { events: vec![], ops: vec![put], ..Append::default() })
            .await
            .map_err(|error| away(&error))?;
        tracing::info!(%upstream, issuer = registration.issuer, client = registration.client_id, "the node is registered");
        Ok(Client { id: given.client_id, secret: given.secret, method: given.method })
    }

    /// What is stored, if it is still of use.
    async fn registration(&self, key: &ConnectionKey, issuer: &str) -> Result<Option<Client>, Refusal> {
        let Some(row) = self.row(key).await? else { return Ok(None) };
        let Ok(known) = serde_json::from_str::<Registration>(&row.body) else { return Ok(None) };
        let over = known.ends.is_some_and(|ends| ends < self.now().saturating_add(MARGIN));
        if over || known.issuer != issuer || known.redirect != self.redirect() {
            return Ok(None);
        }
        let opened = self.opened(&row).await?;
        let secret = std::str::from_utf8(&opened).ok().filter(|text| !text.is_empty());
        let secret = secret.map(|text| Secret::new(text.to_owned()));
        Ok(Some(Client { id: known.client_id, secret, method: known.method }))
    }

    /// The server does not know this client any more: who connects next has it registered anew.
    pub(super) async fn unregister(&self, provider: &Provider, workspace: &WorkspaceName, known: &Known) {
        if matches!(provider.way, Way::Stated(_)) {
            return;
        }
        let key = registration_key(workspace, &provider.manifest.upstream);
        let row: Option<ConnectionRow> = self.row(&key).await.unwrap_or_default();
        let same = |row: &ConnectionRow| {
            let settings = known.client.settings();
            serde_json::from_str::<Registration>(&row.body).is_ok_and(|registration| {
                registration.client_id == settings.client_id && Some(&registration.issuer) == settings.issuer.as_ref()
            })
        };
        let Some(row) = row.filter(same) else { return };
        tracing::warn!(upstream = %key.upstream, "the authorization server does not know the node any more");
        let take = StateOp::ConnectionTake { key, version: row.version };
        if let Err(error) = self.ledger.append(Append { events: vec![], ops: vec![take], ..Append::default() }).await {
            tracing::warn!(%error, "a registration was not forgotten");
        }
    }
}

/// Beside people's connections; a person's key begins with a digit. One for each upstream, so that those that name ever new issuers
/// fill nothing.
fn registration_key(workspace: &WorkspaceName, upstream: &UpstreamName) -> ConnectionKey {
    connected(workspace, upstream, "client".to_owned())
}

fn unavailable(upstream: &UpstreamName, why: &str) -> Refusal {
    Refusal::new(
        RefusalKind::CredentialUnavailable,
        format!("the authorization server of {upstream} can't be used: {why}"),
    )
}

fn away(error: &AppendError) -> Refusal {
    tracing::error!(%error, "a registration could not be stored");
    crate::gate::ledger_away()
}
