//! Issuers and where their keys come from.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use countersign_domain::WorkspaceName;
use countersign_egress::{Egress, Purpose, PurposeClient};
use countersign_gate::identity::claims::NODE_ROLES;
use countersign_gate::identity::{ClaimRules, IssuerConfig, KeySource, Workspaces};
use url::Url;

use super::StartError;
use super::discovery::{Discovered, get, secure_url};
use crate::config::{Config, IssuerSettings, JwksSource};
use crate::dev_issuer::{DEV_ISSUER, DevIssuer};

/// Largest JWKS document that is read.
pub(super) const MAX_JWKS: usize = countersign_gate::identity::keys::MAX_JWKS_BYTES;

/// All issuers of the configuration, the development issuer among them if it is on.
pub(super) fn all(config: &Config, keys_dir: &Path, egress: &Egress) -> Result<Vec<IssuerConfig>, StartError> {
    let mut issuers = Vec::with_capacity(config.issuers.len() + 1);
    for settings in &config.issuers {
        issuers.push(configured(settings, egress)?);
    }
    if config.development_issuer {
        let issuer = DevIssuer::open_or_create(keys_dir)?;
        let claims = ClaimRules {
            default_workspace: Some(WorkspaceName::default_workspace()),
            workspaces: Workspaces::Any,
            node_roles: NODE_ROLES.iter().map(|role| (*role).to_owned()).collect(),
            ..ClaimRules::default()
        };
        let keys = Box::new(Fixed(issuer.jwks()));
        issuers.push(IssuerConfig {
            claims,
            development: true,
            ..IssuerConfig::new(DEV_ISSUER, &config.audience, keys)
        });
    }
    Ok(issuers)
}

fn configured(settings: &IssuerSettings, egress: &Egress) -> Result<IssuerConfig, StartError> {
    let setup = |error: String| StartError::Setup(format!("issuer {}: {error}", settings.issuer));
    let keys: Box<dyn KeySource> = match &settings.jwks {
        JwksSource::File(path) => Box::new(InFile(path.clone())),
        JwksSource::Url(text) => {
            let url = secure_url(text).map_err(|why| setup(format!("jwks_url {why}")))?;
            let client = egress.client_for(Purpose::Jwks, &url).map_err(|error| setup(error.to_string()))?;
            Box::new(AtUrl { client, url })
        }
        JwksSource::Discovery => Box::new(Discovered::new(&settings.issuer, egress).map_err(setup)?),
    };
    Ok(IssuerConfig {
        issuer: settings.issuer.clone(),
        audiences: settings.audiences.clone(),
        algorithms: settings.algorithms.clone(),
        token_types: settings.token_types.clone(),
        claims: settings.claims.clone(),
        development: false,
        key_policy: settings.key_policy,
        keys,
    })
}

/// Keys that are known.
struct Fixed(Vec<u8>);

#[async_trait]
impl KeySource for Fixed {
    async fn fetch(&self) -> Result<Vec<u8>, String> {
        Ok(self.0.clone())
    }
}

/// Keys in a file that may be replaced.
struct InFile(PathBuf);

#[async_trait]
impl KeySource for InFile {
    async fn fetch(&self) -> Result<Vec<u8>, String> {
        let shown = |error: std::io::Error| format!("{}: {error}", self.0.display());
        let length = tokio::fs::metadata(&self.0).await.map_err(shown)?.len();
        if length > MAX_JWKS as u64 {
            return Err(format!("{} has more than {MAX_JWKS} bytes", self.0.display()));
        }
        tokio::fs::read(&self.0).await.map_err(shown)
    }
}

/// Keys at a URL.
struct AtUrl {
    client: PurposeClient,
    url: Url,
}

#[async_trait]
impl KeySource for AtUrl {
    async fn fetch(&self) -> Result<Vec<u8>, String> {
        let keys = get(&self.client, &self.url, MAX_JWKS).await;
        keys.map(|keys| keys.to_vec()).map_err(|why| format!("{}: {why}", self.url))
    }
}
