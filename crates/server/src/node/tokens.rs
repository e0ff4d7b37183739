//! What the credential broker is given: the way to token endpoints, and the key that the node vouches for callers with.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use countersign_egress::{Egress, Purpose, PurposeClient};
use countersign_gate::broker::assertion::AssertionKey;
use countersign_gate::broker::oauth::{MAX_TOKEN_ANSWER, TokenEndpoint};
use countersign_gate::broker::{Parts, Secret};
use countersign_gate::connections::Connections;
use countersign_gate::connections::finder::{MAX_DOCUMENT, MetadataWeb};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use url::Url;
use zeroize::Zeroizing;

use super::{StartError, clock};
use crate::config::Config;
use crate::keys::{KeyFileError, read_private, write_private};

const KEY_FILE: &str = "assertion.key";
const KEY_PREFIX: &str = "countersign-key v1 assertion ";

/// The broker's parts; the assertion key is made on the first start.
pub(super) fn parts(config: &Config, egress: &Egress, connections: &Arc<Connections>) -> Result<Parts, StartError> {
    let assertion = Arc::new(assertion_key(&config.keys_dir)?);
    let http = Arc::new(Endpoints { egress: egress.clone(), clients: Mutex::default() });
    let environment = |name: &str| std::env::var(name).ok();
    let connections = Some(Arc::clone(connections));
    let web: Option<Arc<dyn MetadataWeb>> = Some(Arc::clone(&http) as Arc<dyn MetadataWeb>);
    Ok(Parts { http, assertion, issuer: config.url(), clock: clock(), connections, web, environment })
}

fn assertion_key(keys: &Path) -> Result<AssertionKey, KeyFileError> {
    let path = keys.join(KEY_FILE);
    let wrong = |message: &str| KeyFileError::Format { path: path.clone(), message: message.to_owned() };
    let text = match read_private(&path) {
        Err(KeyFileError::Io { error, .. }) if error.kind() == std::io::ErrorKind::NotFound => {
            let key = Zeroizing::new(AssertionKey::generate().map_err(KeyFileError::Crypto)?);
            write_private(&path, format!("{KEY_PREFIX}{}\n", STANDARD.encode(&key[..])).as_bytes())?;
            read_private(&path)?
        }
        other => other?,
    };
    let encoded = text.trim_end().strip_prefix(KEY_PREFIX).ok_or_else(|| wrong("this is not an assertion key"))?;
    let bytes = Zeroizing::new(STANDARD.decode(encoded).map_err(|_| wrong("the key is not base64"))?);
    AssertionKey::from_pkcs8(&bytes).map_err(KeyFileError::Crypto)
}

/// Token endpoints over the node's one way out. Redirects are answers like any other, so no secret follows one.
struct Endpoints {
    egress: Egress,
    clients: Mutex<HashMap<String, PurposeClient>>,
}

/// Most endpoints whose connections are kept: what upstreams name must not add up.
const MAX_CLIENTS: usize = 256;

impl Endpoints {
    fn client(&self, url: &Url) -> Result<PurposeClient, String> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(url.as_str()) {
            return Ok(client.clone());
        }
        let client = self.egress.client_for(Purpose::Tokens, url).map_err(|error| error.to_string())?;
        if clients.len() >= MAX_CLIENTS {
            clients.clear();
        }
        clients.insert(url.as_str().to_owned(), client.clone());
        Ok(client)
    }
}

#[async_trait]
impl TokenEndpoint for Endpoints {
    async fn post(
        &self,
        url: &str,
        authorization: Option<&Secret>,
        form: Secret,
        deadline: Instant,
    ) -> Result<(u16, Zeroizing<Vec<u8>>), String> {
        let url = Url::parse(url).map_err(|error| error.to_string())?;
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        if let Some(authorization) = authorization {
            let value = HeaderValue::from_str(authorization.expose());
            let mut value = value.map_err(|_| "the client's secret cannot be sent in a header".to_owned())?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let body = Bytes::from(form.expose().as_bytes().to_vec());
        let response = self.client(&url)?.send(Method::POST, &url, headers, body, deadline).await;
        let response = response.map_err(|error| error.to_string())?;
        let status = response.status().as_u16();
        let body = response.bytes(MAX_TOKEN_ANSWER, deadline).await.map_err(|error| error.to_string())?;
        Ok((status, Zeroizing::new(body.to_vec())))
    }
}

/// Documents of strangers: as they are, without redirects, and not long.
#[async_trait]
impl MetadataWeb for Endpoints {
    fn admits(&self, url: &Url, named: &[Url]) -> Result<(), String> {
        if super::discovery::is_inside(url) && !named.iter().any(|known| known.host() == url.host()) {
            return Err(format!(
                "{url} leads to an address that only this node could reach, on a host that no operator named"
            ));
        }
        Ok(())
    }

    async fn challenge(
        &self,
        url: &Url,
        headers: &[(String, Secret)],
        deadline: Instant,
    ) -> Result<Vec<String>, String> {
        let (mut all, body) = countersign_connect::knock();
        for (name, value) in headers {
            let name = HeaderName::try_from(name.as_str()).map_err(|error| error.to_string())?;
            let mut value =
                HeaderValue::from_str(value.expose()).map_err(|_| format!("the value of {name} cannot be sent"))?;
            value.set_sensitive(true);
            // Where the operator writes credentials by hand, the challenge is not for people.
            all.insert(name, value);
        }
        let client = self.egress.client_for(Purpose::Upstream, url).map_err(|error| error.to_string())?;
        let response = client.send(Method::POST, url, all, Bytes::from(body), deadline).await;
        let response = response.map_err(|error| error.to_string())?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(Vec::new());
        }
        let values = response.headers().get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        Ok(values.map(str::to_owned).collect())
    }

    async fn document(&self, url: &Url, upstream: &Url, deadline: Instant) -> Result<(u16, Vec<u8>), String> {
        // What the upstream is reached by, its own documents are.
        let client = match url.origin() == upstream.origin() {
            true => self.egress.client_for(Purpose::Upstream, url).map_err(|error| error.to_string())?,
            false => self.client(url)?,
        };
        let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static("application/json"))]);
        let response = client.send(Method::GET, url, headers, Bytes::new(), deadline).await;
        let response = response.map_err(|error| error.to_string())?;
        let status = response.status().as_u16();
        if status != 200 {
            return Ok((status, Vec::new()));
        }
        let body = response.bytes(MAX_DOCUMENT, deadline).await.map_err(|error| error.to_string())?;
        Ok((status, body.to_vec()))
    }

    async fn register(&self, url: &Url, body: String, deadline: Instant) -> Result<(u16, Zeroizing<Vec<u8>>), String> {
        let json = HeaderValue::from_static("application/json");
        let headers = HeaderMap::from_iter([(ACCEPT, json.clone()), (CONTENT_TYPE, json)]);
        let response = self.client(url)?.send(Method::POST, url, headers, Bytes::from(body), deadline).await;
        let response = response.map_err(|error| error.to_string())?;
        let status = response.status().as_u16();
        let body = response.bytes(MAX_DOCUMENT, deadline).await.map_err(|error| error.to_string())?;
        Ok((status, Zeroizing::new(body.to_vec())))
    }
}
