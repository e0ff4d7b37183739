//! The credential broker: what requests to upstreams carry, got when it is needed and known to nobody else.
//!
//! An upstream is given a [`CredentialSource`] when it is built and asks it at dispatch. Secrets live in [`Secret`], which
//! prints nothing and is wiped when dropped; they are in no permit, event, refusal or log, and what an upstream echoes is
//! [redacted](redact) before it is recorded or relayed. The caller's own token is never among them: it is checked and left
//! behind at the wire. (RFC 6749, RFC 7523, RFC 8693; `docs/credentials.md`.)

pub mod assertion;
mod cache;
mod fixed;
pub mod oauth;
pub mod redact;
mod split;

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use countersign_catalog::Manifest;
use countersign_catalog::manifest::credential::{Credential as Stated, SecretSource};
use countersign_catalog::manifest::{FoundSettings, Transport};
use countersign_domain::{Millis, Principal, Refusal};
use zeroize::Zeroizing;

use assertion::AssertionKey;
use oauth::{Exchanged, OwnToken, TokenClient, TokenEndpoint};
use redact::Redactor;

use crate::connections::Connections;
use crate::connections::finder::{Finder, MetadataWeb};

/// Longest secret that is read, in bytes.
const MAX_SECRET: usize = 16 << 10;

/// A text that is never printed and is wiped when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes a text over.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text, for the one place that sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl<'de> serde::Deserialize<'de> for Secret {
    fn deserialize<D: serde::Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        String::deserialize(input).map(Self::new)
    }
}

/// Where a credential goes in a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placement {
    /// Nothing is sent.
    Nowhere,
    /// Into a header.
    Header {
        /// Its name.
        name: String,
    },
    /// Into a query parameter.
    Query {
        /// Its name.
        name: String,
    },
}

/// What a request carries.
pub struct Credential {
    placement: Placement,
    value: Secret,
    redactor: Redactor,
}

impl Credential {
    /// A credential whose value holds, beside the secrets, what the protocol wants around them (`Bearer `).
    fn new(placement: Placement, value: String, secrets: &[&str]) -> Self {
        Self { placement, value: Secret::new(value), redactor: Redactor::new(secrets.iter().copied()) }
    }

    /// Nothing.
    fn nothing() -> Self {
        Self::new(Placement::Nowhere, String::new(), &[])
    }

    /// A bearer token (RFC 6750).
    pub(crate) fn bearer(token: &Secret) -> Self {
        let placement = Placement::Header { name: "authorization".to_owned() };
        Self::new(placement, format!("Bearer {}", token.expose()), &[token.expose()])
    }

    /// Where it goes.
    pub fn placement(&self) -> &Placement {
        &self.placement
    }

    /// What goes there.
    pub fn value(&self) -> &Secret {
        &self.value
    }

    /// What takes it out of texts.
    pub fn redactor(&self) -> &Redactor {
        &self.redactor
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").field("placement", &self.placement).finish_non_exhaustive()
    }
}

/// Where the requests to one upstream get their credentials.
#[async_trait]
pub trait CredentialSource: Send + Sync {
    /// The credential for a caller; `None` is the node itself, which some sources have nothing for.
    ///
    /// # Errors
    /// A typed refusal that names no secret.
    async fn get(&self, caller: Option<&Principal>, deadline: Instant) -> Result<Arc<Credential>, Refusal>;

    /// The upstream did not accept it (401): it is not handed out again.
    fn reject(&self, caller: Option<&Principal>, credential: &Arc<Credential>);

    /// The upstream wants more scopes than the credential has (403, RFC 6750, 3.1): what to tell the caller, if somebody can grant
    /// them.
    async fn insufficient(&self, _caller: Option<&Principal>, _scopes: &[String]) -> Option<Refusal> {
        None
    }
}

/// What sources are made with.
pub struct Parts {
    /// The way to token endpoints.
    pub http: Arc<dyn TokenEndpoint>,
    /// Signs what the node says of callers.
    pub assertion: Arc<AssertionKey>,
    /// The node's name as an issuer of such assertions.
    pub issuer: String,
    /// Milliseconds since the epoch.
    pub clock: fn() -> Millis,
    /// Accounts that people connect.
    pub connections: Option<Arc<Connections>>,
    /// The way to what upstreams and authorization servers say of themselves.
    pub web: Option<Arc<dyn MetadataWeb>>,
    /// The node's environment.
    pub environment: fn(&str) -> Option<String>,
}

impl Parts {
    /// The source that a manifest describes, if it describes one. Secrets are read now, so that a missing one is found at
    /// the start.
    ///
    /// # Errors
    /// In words, naming the variable or file.
    pub fn source(&self, manifest: &Manifest) -> Result<Option<Arc<dyn CredentialSource>>, String> {
        let Some(stated) = manifest.credential() else { return Ok(None) };
        let source = self.stated(manifest, stated)?;
        // REST tools are described by the manifest: the node asks such an upstream nothing of its own.
        if !stated.is_personal() || !manifest.speaks_mcp() {
            return Ok(Some(source));
        }
        let own = match manifest.discovery_credential() {
            Some(Stated::Account(of)) => {
                Some(Arc::new(split::Lent::new(of, Arc::clone(&source))) as Arc<dyn CredentialSource>)
            }
            Some(own) => Some(self.stated(manifest, own)?),
            None => None,
        };
        Ok(Some(Arc::new(split::Split { callers: source, own })))
    }

    fn stated(&self, manifest: &Manifest, stated: &Stated) -> Result<Arc<dyn CredentialSource>, String> {
        let client = |settings| TokenClient::new(settings, Arc::clone(&self.http), self.environment);
        Ok(match stated {
            Stated::Static(stated) => Arc::new(fixed::Fixed::new(stated.clone(), self.environment)?),
            Stated::OauthClientCredentials(settings) => Arc::new(OwnToken::new(client(settings)?)),
            Stated::TokenExchange(settings) => {
                let key = Arc::clone(&self.assertion);
                Arc::new(Exchanged::new(client(settings)?, key, self.issuer.clone(), self.clock))
            }
            Stated::User(settings) => {
                let connections = self.connections.as_ref();
                let connections = connections.ok_or("accounts of people can't be connected here")?;
                connections.source(manifest, client(settings)?, Arc::clone(&self.http))
            }
            Stated::UserFound(settings) => self.found(manifest, settings)?,
            Stated::Account(_) => return Err("`type: account` stands beside a credential of people".to_owned()),
        })
    }
}

impl Parts {
    /// Accounts at an authorization server that the upstream names.
    fn found(&self, manifest: &Manifest, settings: &FoundSettings) -> Result<Arc<dyn CredentialSource>, String> {
        let connections = self.connections.as_ref().ok_or("accounts of people can't be connected here")?;
        let web = self.web.as_ref().ok_or("authorization servers can't be looked for here")?;
        let Transport::Http(http) = &manifest.transport else {
            return Err("an authorization server is only found for an MCP server over HTTP".to_owned());
        };
        let mut headers = Vec::new();
        for (name, value) in &http.headers {
            let value = value.resolve(self.environment).map_err(|error| error.to_string())?;
            headers.push((name.clone(), Secret::new(value)));
        }
        let secret = settings.client_secret.as_ref();
        let secret = secret.map(|source| read_secret(source, self.environment)).transpose()?;
        let upstream = manifest.upstream.clone();
        let finder = Finder::new(upstream, http.url.clone(), headers, settings.clone(), Arc::clone(web));
        Ok(connections.source_found(manifest, finder, secret, Arc::clone(&self.http)))
    }
}

/// Reads a secret from where a manifest says that it is.
///
/// # Errors
/// In words, naming the place and never the content.
fn read_secret(source: &SecretSource, environment: fn(&str) -> Option<String>) -> Result<Secret, String> {
    let (place, text) = match (&source.env, &source.file) {
        (Some(name), _) => {
            let text = environment(name).ok_or_else(|| format!("the environment variable {name} is not set"))?;
            (format!("the environment variable {name}"), text)
        }
        (None, Some(path)) => {
            let place = path.display().to_string();
            (place.clone(), std::fs::read_to_string(path).map_err(|e| format!("{place}: {e}"))?)
        }
        (None, None) => return Err("a secret has no source".to_owned()),
    };
    let text = Zeroizing::new(text);
    let secret = text.strip_suffix('\n').map_or(text.as_str(), |t| t.strip_suffix('\r').unwrap_or(t));
    if secret.is_empty() || secret.len() > MAX_SECRET || !secret.bytes().all(|b| (0x20..0x7f).contains(&b)) {
        return Err(format!("{place} must hold 1 to {MAX_SECRET} printable ASCII characters"));
    }
    Ok(Secret::new(secret.to_owned()))
}

#[cfg(test)]
mod tests;
