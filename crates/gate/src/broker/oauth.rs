//! Access tokens from authorization servers: the node's own, and those exchanged for an assertion about the caller.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use base64::Engine as _;
use countersign_catalog::manifest::credential::{ClientAuth, OauthSettings};
use countersign_domain::{Millis, Principal, Refusal, RefusalKind};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::assertion::AssertionKey;
use super::cache::TokenCache;
use super::redact::percent;
use super::{Credential, CredentialSource, Secret, read_secret};

/// Longest answer of a token endpoint that is read, in bytes.
pub const MAX_TOKEN_ANSWER: usize = 64 << 10;
/// The life of a token whose server does not say.
const UNSTATED_LIFE: Duration = Duration::from_secs(300);
/// The longest life that is believed.
const MAX_LIFE: Duration = Duration::from_secs(24 * 3600);
const JWT_TYPE: &str = "urn:ietf:params:oauth:token-type:jwt";
const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";

/// The way to token endpoints; the gate itself opens no connection.
#[async_trait]
pub trait TokenEndpoint: Send + Sync {
    /// Posts a form and returns the status and at most [`MAX_TOKEN_ANSWER`] bytes of the answer. Neither the form nor the
    /// authorization may be logged or be part of an error.
    ///
    /// # Errors
    /// In words, if there is no answer.
    async fn post(
        &self,
        url: &str,
        authorization: Option<&Secret>,
        form: Secret,
        deadline: Instant,
    ) -> Result<(u16, Zeroizing<Vec<u8>>), String>;
}

/// A token as it came.
pub struct Token {
    /// What upstreams take.
    pub access: Secret,
    /// How long it is good for.
    pub life: Duration,
    /// What gets the next one.
    pub refresh: Option<Secret>,
    /// What was granted, where the server says so.
    pub scopes: Option<Vec<String>>,
}

/// Why there is no token. Nothing in it comes from the server but a short code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// No answer.
    #[error("the token endpoint did not answer")]
    Unreachable,
    /// An error by RFC 6749, 5.2, or none that can be read.
    #[error("the token endpoint refused ({status}, {code})")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The `error` code, if it is one.
        code: String,
    },
    /// Success, but no usable token.
    #[error("the token endpoint's answer has no usable bearer token")]
    Unusable,
}

impl TokenError {
    /// The refusal of a call that needs the token.
    pub fn refusal(&self) -> Refusal {
        let detail = format!("{self}; nothing was sent to the upstream");
        Refusal::new(RefusalKind::CredentialUnavailable, detail)
    }
}

/// The node as a client of an authorization server.
pub struct TokenClient {
    settings: OauthSettings,
    secret: Option<Secret>,
    http: Arc<dyn TokenEndpoint>,
}

#[derive(Deserialize)]
struct Answer {
    access_token: Secret,
    #[serde(default)]
    token_type: String,
    #[serde(default)]
    expires_in: Option<u64>,
    #[serde(default)]
    refresh_token: Option<Secret>,
    #[serde(default)]
    scope: Option<String>,
}

impl TokenClient {
    /// Reads the client's secret.
    ///
    /// # Errors
    /// In words, naming the variable or file.
    pub fn new(
        settings: &OauthSettings,
        http: Arc<dyn TokenEndpoint>,
        environment: fn(&str) -> Option<String>,
    ) -> Result<Self, String> {
        let secret = settings.client_secret.as_ref().map(|source| read_secret(source, environment)).transpose()?;
        Ok(Self { settings: settings.clone(), secret, http })
    }

    /// A client whose secret is known.
    pub(crate) fn with_secret(settings: OauthSettings, secret: Option<Secret>, http: Arc<dyn TokenEndpoint>) -> Self {
        Self { settings, secret, http }
    }

    /// The settings.
    pub fn settings(&self) -> &OauthSettings {
        &self.settings
    }

    /// Asks for a token with these parameters beside those of the client and the settings.
    ///
    /// # Errors
    /// [`TokenError`].
    pub async fn ask(&self, parameters: &[(&str, &str)], deadline: Instant) -> Result<Token, TokenError> {
        let mut form = Zeroizing::new(String::new());
        for (name, value) in parameters {
            add(&mut form, name, value);
        }
        let scopes = self.settings.scopes.join(" ");
        let stated = [("resource", &self.settings.resource), ("audience", &self.settings.audience)];
        for (name, value) in stated {
            value.iter().for_each(|value| add(&mut form, name, value));
        }
        // What a person consented to stands, whatever the manifest says by now (RFC 6749, 4.1.3 and 6).
        let consented = [("grant_type", "authorization_code"), ("grant_type", "refresh_token")];
        if !scopes.is_empty() && !parameters.iter().any(|parameter| consented.contains(parameter)) {
            add(&mut form, "scope", &scopes);
        }
        let authorization = self.authenticate(&mut form);
        let form = Secret(form);
        let url = self.settings.token_url.as_str();
        let answer = self.http.post(url, authorization.as_ref(), form, deadline).await;
        let (status, body) = answer.map_err(|why| {
            tracing::warn!(url, why, "a token endpoint did not answer");
            TokenError::Unreachable
        })?;
        read_answer(status, &body)
    }

    /// Has the server withdraw a token (RFC 7009); whether it did.
    pub async fn revoke(&self, token: &Secret, kind: &str, deadline: Instant) -> bool {
        let Some(url) = &self.settings.revocation_url else { return false };
        let mut form = Zeroizing::new(String::new());
        add(&mut form, "token", token.expose());
        add(&mut form, "token_type_hint", kind);
        let authorization = self.authenticate(&mut form);
        match self.http.post(url.as_str(), authorization.as_ref(), Secret(form), deadline).await {
            Ok((status, _)) => status == 200,
            Err(why) => {
                tracing::warn!(%url, why, "a token could not be withdrawn");
                false
            }
        }
    }

    /// RFC 6749, 2.3.1: both parts are form-encoded before they are joined.
    fn authenticate(&self, form: &mut String) -> Option<Secret> {
        match (&self.secret, self.settings.client_auth) {
            (Some(secret), ClientAuth::Basic) => {
                let pair = format!("{}:{}", percent(&self.settings.client_id, true), percent(secret.expose(), true));
                let encoded = base64::engine::general_purpose::STANDARD.encode(Zeroizing::new(pair).as_bytes());
                Some(Secret::new(format!("Basic {encoded}")))
            }
            (Some(secret), ClientAuth::Post) => {
                add(form, "client_id", &self.settings.client_id);
                add(form, "client_secret", secret.expose());
                None
            }
            (None, _) => {
                add(form, "client_id", &self.settings.client_id);
                None
            }
        }
    }
}

pub(crate) fn read_answer(status: u16, body: &[u8]) -> Result<Token, TokenError> {
    if status != 200 {
        #[derive(Deserialize)]
        struct Problem {
            error: String,
        }
        let code = serde_json::from_slice::<Problem>(body).map(|p| p.error).unwrap_or_default();
        // The description is the server's free text, and may echo what it was sent.
        let known = !code.is_empty() && code.len() <= 40 && code.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        return Err(TokenError::Refused { status, code: if known { code } else { "no code".to_owned() } });
    }
    let answer: Answer = serde_json::from_slice(body).map_err(|_| TokenError::Unusable)?;
    let printable = |token: &str| {
        !token.is_empty() && token.len() <= MAX_TOKEN_ANSWER && token.bytes().all(|b| b.is_ascii_graphic())
    };
    let bearer = answer.token_type.is_empty() || answer.token_type.eq_ignore_ascii_case("bearer");
    if !bearer
        || !printable(answer.access_token.expose())
        || !answer.refresh_token.iter().all(|t| printable(t.expose()))
    {
        return Err(TokenError::Unusable);
    }
    Ok(Token {
        access: answer.access_token,
        life: answer.expires_in.map_or(UNSTATED_LIFE, Duration::from_secs).min(MAX_LIFE),
        refresh: answer.refresh_token,
        scopes: answer.scope.map(|text| scopes_of(&text)),
    })
}

/// RFC 6749, 3.3. They are shown to people: printable ones, and not without bound.
fn scopes_of(text: &str) -> Vec<String> {
    let good = |scope: &&str| scope.len() <= 200 && scope.bytes().all(|b| b.is_ascii_graphic());
    text.split(' ').filter(|scope| !scope.is_empty()).filter(good).take(100).map(str::to_owned).collect()
}

fn add(form: &mut String, name: &str, value: &str) {
    if !form.is_empty() {
        form.push('&');
    }
    form.push_str(name);
    form.push('=');
    form.push_str(&Zeroizing::new(percent(value, true)));
}

/// The node's own token (`type: oauth_client_credentials`).
pub(super) struct OwnToken {
    client: TokenClient,
    cache: TokenCache,
}

impl OwnToken {
    pub(super) fn new(client: TokenClient) -> Self {
        Self { client, cache: TokenCache::default() }
    }
}

#[async_trait]
impl CredentialSource for OwnToken {
    async fn get(&self, _caller: Option<&Principal>, deadline: Instant) -> Result<Arc<Credential>, Refusal> {
        let fetch = async {
            let token = self.client.ask(&[("grant_type", "client_credentials")], deadline).await;
            token.map_err(|e| e.refusal())
        };
        self.cache.get("", deadline, fetch).await
    }

    fn reject(&self, _caller: Option<&Principal>, credential: &Arc<Credential>) {
        self.cache.reject("", credential);
    }
}

/// A token for each caller, exchanged for what the node says of it (`type: token_exchange`).
pub(super) struct Exchanged {
    client: TokenClient,
    key: Arc<AssertionKey>,
    issuer: String,
    clock: fn() -> Millis,
    cache: TokenCache,
}

impl Exchanged {
    pub(super) fn new(client: TokenClient, key: Arc<AssertionKey>, issuer: String, clock: fn() -> Millis) -> Self {
        Self { client, key, issuer, clock, cache: TokenCache::default() }
    }

    async fn exchange(&self, caller: &Principal, deadline: Instant) -> Result<Token, Refusal> {
        let audience = self.client.settings().token_url.as_str();
        let assertion = self.key.assert(caller, &self.issuer, audience, (self.clock)()).map_err(|why| {
            tracing::error!(why, "an assertion could not be signed");
            Refusal::new(RefusalKind::Internal, "the node could not vouch for the caller")
        })?;
        let parameters =
            [("grant_type", EXCHANGE), ("subject_token", assertion.expose()), ("subject_token_type", JWT_TYPE)];
        self.client.ask(&parameters, deadline).await.map_err(|e| e.refusal())
    }
}

/// Callers of different workspaces are different callers, whatever they are called.
pub(super) fn caller_key(caller: &Principal) -> String {
    format!("{}\n{}", caller.workspace, caller.caller_key())
}

#[async_trait]
impl CredentialSource for Exchanged {
    async fn get(&self, caller: Option<&Principal>, deadline: Instant) -> Result<Arc<Credential>, Refusal> {
        let caller = caller.ok_or_else(|| {
            Refusal::new(RefusalKind::CredentialUnavailable, "this upstream is only reached on behalf of a caller")
        })?;
        self.cache.get(&caller_key(caller), deadline, self.exchange(caller, deadline)).await
    }

    fn reject(&self, caller: Option<&Principal>, credential: &Arc<Credential>) {
        if let Some(caller) = caller {
            self.cache.reject(&caller_key(caller), credential);
        }
    }
}
