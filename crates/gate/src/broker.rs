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
use countersign_domain::{Millis, Principal, Refusal};
use zeroize::Zeroizing;

use assertion::AssertionKey;
use oauth::{Exchanged, OwnToken, TokenClient, TokenEndpoint};
use redact::Redactor;

use crate::connections::Connections;

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
        let own = manifest.discovery_credential().map(|own| self.stated(manifest, own)).transpose()?;
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
                connections.source(manifest, client(settings)?)
            }
        })
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
