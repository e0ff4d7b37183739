//! Keys by the issuer's own metadata: OpenID Connect Discovery 1.0 and RFC 8414.
//!
//! The metadata must name exactly the configured issuer (RFC 8414, section 3.3), and where it sends us for keys must be a place
//! that the issuer could reach on the public Internet, or the issuer's own host: metadata is no way into our network.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use countersign_egress::{Egress, Purpose, PurposeClient};
use countersign_gate::identity::KeySource;
use http::header::ACCEPT;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use serde_json::Value;
use tokio::sync::Mutex;
use url::Url;

/// Largest metadata document that is read, bytes.
const MAX_METADATA: usize = 128 * 1024;
/// How long metadata is believed without asking again.
const METADATA_TTL: Duration = Duration::from_secs(3600);
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);

/// Keys found by metadata.
pub(super) struct Discovered {
    issuer: Url,
    /// As configured: compared as text, since that is how `iss` is compared.
    name: String,
    egress: Egress,
    client: PurposeClient,
    found: Mutex<Option<Found>>,
}

struct Found {
    jwks: Url,
    client: PurposeClient,
    at: Instant,
}

impl Discovered {
    /// For an issuer whose name is its URL.
    ///
    /// # Errors
    /// In words, if the name is not an `https` URL (plain `http` on loopback).
    pub fn new(name: &str, egress: &Egress) -> Result<Self, String> {
        let issuer = secure_url(name).map_err(|why| format!("discovery: the issuer {why}"))?;
        if issuer.query().is_some() || issuer.fragment().is_some() {
            return Err("discovery: an issuer has neither query nor fragment (RFC 8414, section 2)".to_owned());
        }
        let client = egress.client_for(Purpose::Jwks, &issuer).map_err(|error| error.to_string())?;
        Ok(Self { issuer, name: name.to_owned(), egress: egress.clone(), client, found: Mutex::default() })
    }

    /// Where the keys are, by metadata that is not older than [`METADATA_TTL`].
    async fn locate(&self) -> Result<Found, String> {
        let mut problems = Vec::new();
        for url in places(&self.issuer) {
            match self.metadata(&url).await {
                Ok(jwks) => {
                    let client = self.egress.client_for(Purpose::Jwks, &jwks).map_err(|error| error.to_string())?;
                    return Ok(Found { jwks, client, at: Instant::now() });
                }
                Err(why) => problems.push(format!("{url}: {why}")),
            }
        }
        Err(problems.join("; "))
    }

    async fn metadata(&self, url: &Url) -> Result<Url, String> {
        let body = get(&self.client, url, MAX_METADATA).await?;
        keys_at(&body, &self.name, &self.issuer)
    }
}

/// Where the metadata of this issuer says that its keys are.
pub(crate) fn keys_at(metadata: &[u8], name: &str, issuer: &Url) -> Result<Url, String> {
    let metadata: Value = serde_json::from_slice(metadata).map_err(|error| error.to_string())?;
    if metadata["issuer"].as_str() != Some(name) {
        return Err(format!("the metadata is not of {name} but of {}", metadata["issuer"]));
    }
    let jwks = metadata["jwks_uri"].as_str().ok_or("the metadata has no jwks_uri")?;
    let jwks = secure_url(jwks).map_err(|why| format!("jwks_uri {why}"))?;
    if is_inside(&jwks) && jwks.host() != issuer.host() {
        return Err("jwks_uri leads to an address that only we could reach".to_owned());
    }
    Ok(jwks)
}

#[async_trait]
impl KeySource for Discovered {
    async fn fetch(&self) -> Result<Vec<u8>, String> {
        let mut found = self.found.lock().await;
        if let Some(known) = found.as_ref().filter(|known| known.at.elapsed() < METADATA_TTL)
            && let Ok(keys) = get(&known.client, &known.jwks, super::issuers::MAX_JWKS).await
        {
            return Ok(keys.to_vec());
        }
        // The keys moved, or it is time to ask where they are.
        let known = found.insert(self.locate().await?);
        get(&known.client, &known.jwks, super::issuers::MAX_JWKS).await.map(|keys| keys.to_vec())
    }
}

/// Where an issuer's metadata may be, in the order of MCP 2025-11-25, "Authorization Server Metadata Discovery".
fn places(issuer: &Url) -> Vec<Url> {
    let path = issuer.path().trim_end_matches('/').to_owned();
    let at = |path: String| {
        let mut url = issuer.clone();
        url.set_path(&path);
        url
    };
    let mut all = vec![at(format!("{path}/.well-known/openid-configuration"))];
    all.push(at(format!("/.well-known/oauth-authorization-server{path}")));
    if !path.is_empty() {
        all.push(at(format!("/.well-known/openid-configuration{path}")));
    }
    all
}

/// `https`, or `http` on loopback: whoever answers decides who everybody is.
pub(super) fn secure_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("is not a URL: {error}"))?;
    let local = matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
    if url.scheme() == "https" || (url.scheme() == "http" && local) {
        return Ok(url);
    }
    Err("must be https: whoever answers it decides who everybody is".to_owned())
}

/// Literal addresses that are not public, and names of this machine. Other names are checked where they are resolved.
pub(super) fn is_inside(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Ipv4(address)) => !countersign_egress::is_public(address.into()),
        Some(url::Host::Ipv6(address)) => !countersign_egress::is_public(address.into()),
        Some(url::Host::Domain(name)) => {
            let name = name.trim_end_matches('.');
            name.eq_ignore_ascii_case("localhost") || name.to_ascii_lowercase().ends_with(".localhost")
        }
        None => true,
    }
}

/// One document.
pub(super) async fn get(client: &PurposeClient, url: &Url, limit: usize) -> Result<Bytes, String> {
    let deadline = Instant::now() + FETCH_TIMEOUT;
    let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static("application/json"))]);
    let sent = client.send(Method::GET, url, headers, Bytes::new(), deadline).await;
    let response = sent.map_err(|error| error.to_string())?;
    if response.status() != StatusCode::OK {
        return Err(format!("HTTP {}", response.status()));
    }
    response.bytes(limit, deadline).await.map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_looked_for_where_the_standards_say() {
        let all = |issuer: &str| {
            places(&Url::parse(issuer).expect("a URL")).into_iter().map(String::from).collect::<Vec<_>>()
        };
        assert_eq!(
            all("https://idp.example"),
            [
                "https://idp.example/.well-known/openid-configuration",
                "https://idp.example/.well-known/oauth-authorization-server"
            ]
        );
        assert_eq!(
            all("https://idp.example/realms/a"),
            [
                "https://idp.example/realms/a/.well-known/openid-configuration",
                "https://idp.example/.well-known/oauth-authorization-server/realms/a",
                "https://idp.example/.well-known/openid-configuration/realms/a",
            ]
        );
    }

    #[test]
    fn keys_are_not_fetched_in_the_clear_or_from_inside() {
        for (text, ok) in [
            ("https://idp.example/x", true),
            ("http://127.0.0.1:9/x", true),
            ("http://localhost/x", true),
            ("http://idp.example/x", false),
            ("http://localhost.evil.example", false),
            ("file:///etc/passwd", false),
            ("ftp://idp.example", false),
            ("idp", false),
        ] {
            assert_eq!(secure_url(text).is_ok(), ok, "{text}");
        }
        for (text, inside) in [
            ("https://169.254.169.254/x", true),
            ("https://[::ffff:10.0.0.1]/x", true),
            ("https://localhost./x", true),
            ("https://a.localhost/x", true),
            ("https://idp.example/x", false),
        ] {
            assert_eq!(is_inside(&Url::parse(text).expect("a URL")), inside, "{text}");
        }
    }
}
