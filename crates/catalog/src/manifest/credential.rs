//! How an upstream is authenticated to, and where the secrets for it come from. A manifest names secrets and holds none
//! (`docs/credentials.md`; RFC 6749, RFC 7636, RFC 8693, RFC 9207).

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, de::Error as _};
use url::{Host, Url};

use super::found::{AccountRef, FoundSettings};
use super::text::is_variable;
use super::transport::{Sender, check_header, check_url};

/// What a request to the upstream carries.
#[derive(Debug, Clone, PartialEq, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Credential {
    /// A secret that the operator provides.
    Static(StaticCredential),
    /// An access token of the node's own (RFC 6749, 4.4).
    OauthClientCredentials(OauthSettings),
    /// An access token for the caller, exchanged for an assertion of the node (RFC 8693).
    TokenExchange(OauthSettings),
    /// An access token of the person behind the call, who has connected an account once (RFC 6749, 4.1 with RFC 7636).
    User(OauthSettings),
    /// The same, with an authorization server that the node finds by itself (RFC 9728); only with `type: http`.
    #[serde(rename = "user")]
    UserFound(FoundSettings),
    /// The account that one person has connected, for what the node asks in its own name; only as `discovery_credential`.
    Account(AccountRef),
}

/// A secret that the operator provides.
#[derive(Debug, Clone, PartialEq, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StaticCredential {
    /// Where the secret comes from.
    pub secret: SecretSource,
    /// Where it goes.
    #[serde(default, rename = "in")]
    pub place: CredentialPlace,
    /// The name of the header (`Authorization` by default) or of the query parameter.
    #[serde(default)]
    pub name: Option<String>,
    /// What stands before it in the header: `Bearer ` by default for `Authorization`, nothing for others.
    #[serde(default)]
    pub prefix: Option<String>,
    /// With `in: basic`, the user name; the secret is the password.
    #[serde(default)]
    pub username: Option<String>,
}

/// Where a secret goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CredentialPlace {
    /// Into a header.
    #[default]
    Header,
    /// Into a query parameter; only with `type: rest`.
    Query,
    /// Into `Authorization`, with a user name (RFC 7617).
    Basic,
}

/// Where a secret comes from: exactly one of these.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SecretSource {
    /// A variable of the node's environment.
    #[serde(default)]
    pub env: Option<String>,
    /// A file; a line break at its end does not count. It is read again after the upstream has refused the secret.
    #[serde(default)]
    pub file: Option<PathBuf>,
}

/// An authorization server, and this node as its client.
#[derive(Debug, Clone, PartialEq, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OauthSettings {
    /// The token endpoint: `https`, or `http` on this machine.
    #[schemars(schema_with = "super::transport::url_schema")]
    pub token_url: Url,
    /// With `type: user`: where a person consents.
    #[serde(default)]
    #[schemars(schema_with = "super::transport::url_schema")]
    pub authorization_url: Option<Url>,
    /// With `type: user`: where tokens are withdrawn when a person disconnects (RFC 7009).
    #[serde(default)]
    #[schemars(schema_with = "super::transport::url_schema")]
    pub revocation_url: Option<Url>,
    /// With `type: user`: the server's issuer; an answer that does not name it is refused (RFC 9207).
    #[serde(default)]
    pub issuer: Option<String>,
    /// The client's id.
    pub client_id: String,
    /// The client's secret; public clients of `type: user` have none.
    #[serde(default)]
    pub client_secret: Option<SecretSource>,
    /// How the client authenticates: `basic` (the default) or `post` (in the form).
    #[serde(default)]
    pub client_auth: ClientAuth,
    /// The scopes to ask for.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// The resource that the token is for (RFC 8707). With `type: user` for an MCP server, its URL if nothing else is said.
    #[serde(default)]
    pub resource: Option<String>,
    /// The audience that the token is for (RFC 8693, and some servers' own).
    #[serde(default)]
    pub audience: Option<String>,
}

/// How a client authenticates to a token endpoint (RFC 6749, 2.3.1).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ClientAuth {
    /// By HTTP Basic authentication.
    #[default]
    Basic,
    /// By `client_id` and `client_secret` in the form.
    Post,
}

impl Credential {
    /// Whether it depends on who calls.
    pub fn is_personal(&self) -> bool {
        match self {
            Credential::Static(_) | Credential::OauthClientCredentials(_) | Credential::Account(_) => false,
            Credential::TokenExchange(_) | Credential::User(_) | Credential::UserFound(_) => true,
        }
    }

    /// The header that it fills, in lower case; `None` for a query parameter.
    pub(super) fn header(&self) -> Option<String> {
        match self {
            Credential::Static(fixed) => match fixed.place {
                CredentialPlace::Query => None,
                CredentialPlace::Basic => Some("authorization".to_owned()),
                CredentialPlace::Header => Some(fixed.name.as_deref().unwrap_or("authorization").to_ascii_lowercase()),
            },
            Credential::OauthClientCredentials(_)
            | Credential::TokenExchange(_)
            | Credential::User(_)
            | Credential::UserFound(_)
            | Credential::Account(_) => Some("authorization".to_owned()),
        }
    }

    /// Whether people connect accounts for it.
    pub(super) fn is_connected(&self) -> bool {
        matches!(self, Credential::User(_) | Credential::UserFound(_))
    }
}

/// All keys read flat and sorted out, so that a mistake has its place in the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Flat {
    #[serde(rename = "type")]
    kind: Kind,
    #[serde(default)]
    secret: Option<SecretSource>,
    #[serde(default, rename = "in")]
    place: Option<CredentialPlace>,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    prefix: Option<String>,
    #[serde(default)]
    username: Option<String>,
    #[serde(default)]
    token_url: Option<String>,
    #[serde(default)]
    authorization_url: Option<String>,
    #[serde(default)]
    revocation_url: Option<String>,
    #[serde(default)]
    issuer: Option<String>,
    #[serde(default)]
    client_id: Option<String>,
    #[serde(default)]
    client_secret: Option<SecretSource>,
    #[serde(default)]
    client_auth: Option<ClientAuth>,
    #[serde(default)]
    scopes: Option<Vec<String>>,
    #[serde(default)]
    resource: Option<String>,
    #[serde(default)]
    audience: Option<String>,
    #[serde(default)]
    authorization_servers: Option<Vec<String>>,
    #[serde(default)]
    workspace: Option<String>,
    #[serde(default)]
    person: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Static,
    OauthClientCredentials,
    TokenExchange,
    User,
    Account,
}

impl<'de> Deserialize<'de> for Credential {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        Flat::deserialize(input)?.sort_out().map_err(D::Error::custom)
    }
}

impl Flat {
    fn sort_out(self) -> Result<Credential, String> {
        let of_account = self.workspace.is_some() || self.person.is_some();
        if of_account && self.kind != Kind::Account {
            return Err("`workspace` and `person` belong to `type: account`".to_owned());
        }
        let is_found = self.kind == Kind::User && self.token_url.is_none() && self.authorization_url.is_none();
        if self.authorization_servers.is_some() && !is_found {
            return Err(
                "`authorization_servers` belong to `type: user` without `authorization_url` and `token_url`".to_owned()
            );
        }
        match self.kind {
            Kind::User if is_found => self.found().map(Credential::UserFound),
            Kind::Account => self.account().map(Credential::Account),
            Kind::Static => self.fixed().map(Credential::Static),
            Kind::OauthClientCredentials => self.oauth(true).map(Credential::OauthClientCredentials),
            Kind::TokenExchange => self.oauth(true).map(Credential::TokenExchange),
            Kind::User => self.oauth(false).map(Credential::User),
        }
    }

    fn fixed(self) -> Result<StaticCredential, String> {
        if self.token_url.is_some() || self.client_id.is_some() || self.client_secret.is_some() {
            return Err("`token_url`, `client_id` and `client_secret` belong to the OAuth types".to_owned());
        }
        let secret = self.secret.ok_or("`type: static` needs a `secret`")?;
        check_source(&secret)?;
        let place = self.place.unwrap_or_default();
        if (place == CredentialPlace::Basic) != self.username.is_some() {
            return Err("`username` and `in: basic` belong together".to_owned());
        }
        match (place, &self.name) {
            (CredentialPlace::Header, Some(name)) => check_header(name, Sender::Mcp)?,
            (CredentialPlace::Query, None) => return Err("`in: query` needs a `name`".to_owned()),
            (CredentialPlace::Basic, Some(_)) => return Err("`in: basic` has no `name`".to_owned()),
            (CredentialPlace::Header | CredentialPlace::Basic, None) | (CredentialPlace::Query, Some(_)) => {}
        }
        let printable = |text: &String| text.bytes().all(|b| (0x20..0x7f).contains(&b));
        if !self.prefix.iter().chain(&self.username).all(printable) {
            return Err("`prefix` and `username` must be printable ASCII".to_owned());
        }
        Ok(StaticCredential { secret, place, name: self.name, prefix: self.prefix, username: self.username })
    }

    fn not_static(&self) -> Result<(), String> {
        let fixed = self.secret.is_some() || self.place.is_some() || self.name.is_some();
        if fixed || self.prefix.is_some() || self.username.is_some() {
            return Err("`secret`, `in`, `name`, `prefix` and `username` belong to `type: static`".to_owned());
        }
        Ok(())
    }

    fn found(self) -> Result<FoundSettings, String> {
        self.not_static()?;
        if self.issuer.is_some() || self.revocation_url.is_some() || self.audience.is_some() {
            return Err("`issuer`, `revocation_url` and `audience` stand beside `authorization_url` and `token_url`; \
                        without these, `authorization_servers` names the issuers that are trusted"
                .to_owned());
        }
        self.client_secret.as_ref().map_or(Ok(()), check_source)?;
        let settings = FoundSettings {
            authorization_servers: self.authorization_servers.unwrap_or_default(),
            client_id: self.client_id,
            client_secret: self.client_secret,
            client_auth: self.client_auth,
            scopes: self.scopes.map(check_scopes).transpose()?,
            resource: self.resource,
        };
        settings.check()?;
        Ok(settings)
    }

    fn account(self) -> Result<AccountRef, String> {
        self.not_static()?;
        let oauth = self.token_url.is_some() || self.authorization_url.is_some() || self.revocation_url.is_some();
        let client = self.client_id.is_some() || self.client_secret.is_some() || self.client_auth.is_some();
        if oauth || client || self.scopes.is_some() || self.resource.is_some() || self.audience.is_some() {
            return Err("`type: account` has a `workspace`, an `issuer` and a `person`, and nothing else".to_owned());
        }
        AccountRef::new(self.workspace.as_deref(), self.issuer, self.person)
    }

    fn oauth(self, confidential: bool) -> Result<OauthSettings, String> {
        self.not_static()?;
        let token_url = endpoint(&self.token_url.ok_or("a `token_url` is needed")?)?;
        let authorization_url = self.authorization_url.as_deref().map(endpoint).transpose()?;
        if (self.kind == Kind::User) != authorization_url.is_some() {
            return Err("`authorization_url` and `type: user` belong together".to_owned());
        }
        let revocation_url = self.revocation_url.as_deref().map(endpoint).transpose()?;
        if (self.issuer.is_some() || revocation_url.is_some()) && self.kind != Kind::User {
            return Err("`issuer` and `revocation_url` belong to `type: user`".to_owned());
        }
        if confidential && self.client_secret.is_none() {
            return Err("a `client_secret` is needed".to_owned());
        }
        self.client_secret.as_ref().map_or(Ok(()), check_source)?;
        let client_id = self.client_id.filter(|id| !id.is_empty()).ok_or("a `client_id` is needed")?;
        let scopes = check_scopes(self.scopes.unwrap_or_default())?;
        Ok(OauthSettings {
            token_url,
            authorization_url,
            revocation_url,
            issuer: self.issuer,
            client_id,
            client_secret: self.client_secret,
            client_auth: self.client_auth.unwrap_or_default(),
            scopes,
            resource: self.resource,
            audience: self.audience,
        })
    }
}

fn check_scopes(scopes: Vec<String>) -> Result<Vec<String>, String> {
    match scopes.iter().find(|s| s.is_empty() || !s.bytes().all(|b| b.is_ascii_graphic())) {
        Some(wrong) => Err(format!("{wrong:?} is not a scope")),
        None => Ok(scopes),
    }
}

fn check_source(source: &SecretSource) -> Result<(), String> {
    match (&source.env, &source.file) {
        (Some(name), None) if is_variable(name) => Ok(()),
        (Some(name), None) => Err(format!("{name:?} is not a name for an environment variable")),
        (None, Some(_)) => Ok(()),
        _ => Err("a secret comes from either `env: VARIABLE` or `file: PATH`".to_owned()),
    }
}

/// Secrets go there, so they go over TLS, unless they stay on this machine.
pub(super) fn endpoint(text: &str) -> Result<Url, String> {
    let url = check_url(text)?;
    let local = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    if url.scheme() == "https" || local { Ok(url) } else { Err(format!("{text:?} must be https")) }
}

#[cfg(test)]
mod tests {
    use crate::Manifest;

    fn parse(credential: &str) -> Result<Manifest, String> {
        let yaml = format!(
            "version: 1\nupstream: a\ntransport:\n  type: rest\n  url: https://a.example\n  credential: {credential}\ntools: {{}}\n"
        );
        Manifest::parse(&yaml, "a.yaml").map_err(|e| e.to_string())
    }

    #[test]
    fn credentials_are_read_strictly() {
        let oauth = "token_url: https://idp.example/token, client_id: c, client_secret: { env: S }";
        for good in [
            "{ type: static, secret: { env: KEY } }".to_owned(),
            "{ type: static, secret: { file: /run/key }, in: query, name: key }".to_owned(),
            "{ type: static, secret: { env: KEY }, in: basic, username: u }".to_owned(),
            format!("{{ type: oauth_client_credentials, {oauth}, scopes: [a, b], client_auth: post }}"),
            format!("{{ type: token_exchange, {oauth}, audience: x }}"),
            "{ type: user, token_url: 'http://127.0.0.1:1/t', authorization_url: 'http://localhost:1/a', client_id: c }".to_owned(),
        ] {
            parse(&good).unwrap_or_else(|e| panic!("{e}"));
        }
        for (wrong, part) in [
            ("{ type: static }".to_owned(), "needs a `secret`"),
            ("{ type: static, secret: { env: A, file: b } }".to_owned(), "either"),
            ("{ type: static, secret: { env: 'a b' } }".to_owned(), "environment variable"),
            ("{ type: static, secret: hunter2 }".to_owned(), "expected mapping"),
            ("{ type: static, secret: { env: A }, in: query }".to_owned(), "needs a `name`"),
            ("{ type: static, secret: { env: A }, username: u }".to_owned(), "belong together"),
            ("{ type: static, secret: { env: A }, name: Host }".to_owned(), "set by the protocol"),
            ("{ type: static, secret: { env: A }, token: x }".to_owned(), "unknown field"),
            (format!("{{ type: oauth_client_credentials, {oauth}, issuer: x }}"), "belong to `type: user`"),
            (format!("{{ type: user, {oauth} }}"), "belong together"),
            (
                "{ type: token_exchange, token_url: https://i.example/, client_id: c }".to_owned(),
                "`client_secret` is needed",
            ),
            (format!("{{ type: token_exchange, {} }}", oauth.replace("https:", "http:")), "must be https"),
            (format!("{{ type: token_exchange, {oauth}, scopes: ['a b'] }}"), "not a scope"),
        ] {
            let error = parse(&wrong).expect_err(&wrong);
            assert!(error.contains(part), "{wrong}: {error}");
        }
        for (wrong, part) in [
            ("{ type: user }", "with `type: rest`"),
            ("{ type: account, workspace: w, issuer: i, person: p }", "belongs to `type: http`"),
            ("{ type: static, secret: { env: A }, person: p }", "`type: account`"),
        ] {
            let error = parse(wrong).expect_err(wrong);
            assert!(error.contains(part), "{wrong}: {error}");
        }
        let mcp = |rest: &str| {
            let yaml =
                format!("version: 1\nupstream: a\ntransport: {{ type: http, url: 'https://a.example/', {rest} }}\n");
            Manifest::parse(&yaml, "a.yaml").map_err(|e| e.to_string())
        };
        let user = "credential: { type: user, token_url: 'https://i.example/t', authorization_url: 'https://i.example/a', client_id: c }";
        let of_node = "discovery_credential: { type: static, secret: { env: KEY } }";
        let manifest = mcp(&format!("{user}, {of_node}")).unwrap_or_else(|e| panic!("{e}"));
        assert!(manifest.has_accounts() && manifest.discovery_credential().is_some());
        let Some(super::Credential::User(account)) = manifest.credential() else { panic!("an account") };
        assert_eq!(account.resource.as_deref(), Some("https://a.example"));
        let lent = "discovery_credential: { type: account, workspace: main, issuer: 'https://idp', person: lists }";
        for good in [
            "credential: { type: user }".to_owned(),
            format!("credential: {{ type: user, scopes: [a], authorization_servers: ['https://i.example/t'] }}, {lent}"),
            "credential: { type: user, authorization_servers: ['https://i.example'], client_id: c, client_secret: { env: S } }".to_owned(),
        ] {
            let manifest = mcp(&good).unwrap_or_else(|e| panic!("{e}"));
            assert!(manifest.has_accounts() && manifest.credential().is_some_and(super::Credential::is_personal));
        }
        for (wrong, part) in [
            ("credential: { type: user, client_id: c }", "the only one of `authorization_servers`"),
            ("credential: { type: user, client_secret: { env: S } }", "belong to a `client_id`"),
            ("credential: { type: user, authorization_servers: ['http://i.example'] }", "must be https"),
            ("credential: { type: user, issuer: 'https://i.example' }", "stand beside"),
            ("credential: { type: user, token_url: 'https://i.example/t', client_id: c }", "belong together"),
            (lent, "beside a `credential`"),
            ("credential: { type: account, workspace: main, issuer: i, person: p }", "is for `discovery_credential`"),
        ] {
            let error = mcp(wrong).expect_err(wrong);
            assert!(error.contains(part), "{wrong}: {error}");
        }
        for (wrong, part) in [
            (of_node.to_owned(), "stands beside"),
            (format!("{user}, {}", user.replace("credential:", "discovery_credential:")), "the node's own"),
            ("credential: { type: static, secret: { env: KEY }, in: query, name: key }".to_owned(), "into a header"),
        ] {
            let error = mcp(&wrong).expect_err(&wrong);
            assert!(error.contains(part), "{wrong}: {error}");
        }
        let twice =
            parse("{ type: static, secret: { env: KEY } }\n  headers: { authorization: x }").expect_err("twice");
        assert!(twice.contains("both"), "{twice}");
    }
}
