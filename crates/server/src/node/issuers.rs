//! Issuers and where their keys come from.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use countersign_domain::WorkspaceName;
use countersign_egress::{Egress, Purpose, PurposeClient};
use countersign_gate::identity::{ClaimNames, IssuerConfig, KeySource};
use http::header::ACCEPT;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use url::Url;

use super::StartError;
use crate::config::{Config, IssuerSettings, JwksSource};
use crate::dev_issuer::{DEV_ISSUER, DevIssuer};

/// Largest JWKS document that is read.
const MAX_JWKS: usize = 256 * 1024;
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);

/// All issuers of the configuration, the development issuer among them if it is on.
pub(super) fn all(config: &Config, keys_dir: &Path, egress: &Egress) -> Result<Vec<IssuerConfig>, StartError> {
    let mut issuers = Vec::with_capacity(config.issuers.len() + 1);
    for settings in &config.issuers {
        issuers.push(configured(settings, egress)?);
    }
    if config.development_issuer {
        let issuer = DevIssuer::open_or_create(keys_dir)?;
        issuers.push(IssuerConfig {
            issuer: DEV_ISSUER.to_owned(),
            audience: config.audience.clone(),
            claims: ClaimNames::default(),
            default_workspace: Some(WorkspaceName::default_workspace()),
            development: true,
            keys: Box::new(Fixed(issuer.jwks())),
        });
    }
    Ok(issuers)
}

fn configured(settings: &IssuerSettings, egress: &Egress) -> Result<IssuerConfig, StartError> {
    let setup = |error: String| StartError::Setup(format!("issuer {}: {error}", settings.issuer));
    let keys: Box<dyn KeySource> = match &settings.jwks {
        JwksSource::File(path) => Box::new(InFile(path.clone())),
        JwksSource::Url(text) => {
            let url = Url::parse(text).map_err(|error| setup(format!("jwks_url: {error}")))?;
            let local = matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
            if url.scheme() != "https" && !local {
                return Err(setup("jwks_url must be https: whoever answers it decides who everybody is".to_owned()));
            }
            let client = egress.client_for(Purpose::Jwks, &url).map_err(|error| setup(error.to_string()))?;
            Box::new(AtUrl { client, url })
        }
    };
    let default_workspace = settings.default_workspace.as_ref().map(|name| name.parse::<WorkspaceName>());
    Ok(IssuerConfig {
        issuer: settings.issuer.clone(),
        audience: settings.audience.clone(),
        claims: ClaimNames {
            workspace: settings.tenant_claim.clone(),
            roles: settings.roles_claim.clone(),
            kind: settings.kind_claim.clone(),
        },
        default_workspace: default_workspace.transpose().map_err(|error| setup(error.to_string()))?,
        development: false,
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
        let deadline = Instant::now() + FETCH_TIMEOUT;
        let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static("application/json"))]);
        let sent = self.client.send(Method::GET, &self.url, headers, Bytes::new(), deadline).await;
        let response = sent.map_err(|error| error.to_string())?;
        if response.status() != StatusCode::OK {
            return Err(format!("{} answered {}", self.url, response.status()));
        }
        let body = response.bytes(MAX_JWKS, deadline).await.map_err(|error| error.to_string())?;
        Ok(body.to_vec())
    }
}
