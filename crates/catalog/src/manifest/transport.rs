//! How an upstream is reached.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::Value;
use url::Url;

use super::credential::{Credential, CredentialPlace};
use super::rest::RestTransport;
use super::text::{EnvText, is_variable};

/// The `command` that stands for the running executable itself, wherever it is installed.
pub const SELF_COMMAND: &str = "@self";

/// Headers that the protocol or the network client writes.
const OWN_HEADERS: &[&str] = &[
    "accept",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "host",
    "last-event-id",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// How an upstream is reached.
#[derive(Debug, Clone, PartialEq, JsonSchema)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Transport {
    /// A child process that speaks MCP on its standard input and output.
    Stdio(StdioTransport),
    /// An MCP endpoint over streamable HTTP.
    Http(HttpTransport),
    /// A REST API; each tool says which request it is.
    Rest(RestTransport),
    /// Nothing to be reached: a capability of this node's own. No manifest file can say so.
    #[schemars(skip)]
    BuiltIn,
}

/// A child process.
#[derive(Debug, Clone, PartialEq, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StdioTransport {
    /// The program: a path, a name looked up in PATH, or `@self` for the running executable.
    pub command: String,
    /// Its arguments, passed as they are, without a shell.
    #[serde(default)]
    pub args: Vec<String>,
    /// Environment variables on top of the few that are passed on (PATH, HOME, LANG, …).
    #[serde(default)]
    pub env: BTreeMap<String, EnvText>,
    /// Its working directory; the node's own by default.
    #[serde(default)]
    pub cwd: Option<PathBuf>,
    /// Which protocol revision to speak.
    #[serde(default)]
    pub protocol: Protocol,
}

/// An HTTP endpoint.
#[derive(Debug, Clone, PartialEq, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpTransport {
    /// The MCP endpoint: `http` or `https`, without user name and fragment.
    #[schemars(schema_with = "url_schema")]
    pub url: Url,
    /// Headers to send with every request, such as `Authorization`.
    #[serde(default)]
    pub headers: BTreeMap<String, EnvText>,
    /// What requests carry to authenticate.
    #[serde(default)]
    pub credential: Option<Box<Credential>>,
    /// Where the credential depends on who calls: what the node's own requests carry, such as those that list tools. They
    /// carry none without it.
    #[serde(default)]
    pub discovery_credential: Option<Box<Credential>>,
    /// Which protocol revision to speak.
    #[serde(default)]
    pub protocol: Protocol,
}

/// Which protocol revision to speak with an upstream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum Protocol {
    /// Find out: the newest first, then the older handshake.
    #[default]
    #[serde(rename = "auto")]
    Auto,
    /// The handshake era (2025-11-25, or an older one if the upstream answers so).
    #[serde(rename = "2025-11-25")]
    V2025_11_25,
    /// Per-request metadata, without handshake or session.
    #[serde(rename = "2026-07-28")]
    V2026_07_28,
}

pub(super) fn url_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "string", "format": "uri", "pattern": "^https?://" })
}

/// serde's own reading of a tagged enum forgets where a key stood in the file, so all keys are read flat and sorted out.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Flat {
    #[serde(rename = "type")]
    kind: Kind,
    #[serde(default)]
    command: Option<String>,
    #[serde(default)]
    args: Option<Vec<String>>,
    #[serde(default)]
    env: Option<BTreeMap<String, EnvText>>,
    #[serde(default)]
    cwd: Option<PathBuf>,
    #[serde(default)]
    url: Option<String>,
    #[serde(default)]
    headers: Option<BTreeMap<String, EnvText>>,
    #[serde(default)]
    schemas: Option<BTreeMap<String, Value>>,
    #[serde(default)]
    credential: Option<Box<Credential>>,
    #[serde(default)]
    discovery_credential: Option<Box<Credential>>,
    #[serde(default)]
    protocol: Option<Protocol>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Stdio,
    Http,
    Rest,
}

impl<'de> Deserialize<'de> for Transport {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        Flat::deserialize(input)?.sort_out().map_err(D::Error::custom)
    }
}

impl Flat {
    fn sort_out(self) -> Result<Transport, String> {
        match self.kind {
            Kind::Stdio => self.stdio().map(Transport::Stdio),
            Kind::Http => self.http().map(Transport::Http),
            Kind::Rest => self.rest().map(Transport::Rest),
        }
    }

    fn stdio(self) -> Result<StdioTransport, String> {
        if self.url.is_some() || self.headers.is_some() || self.credential.is_some() {
            return Err("`url`, `headers` and `credential` belong to `type: http`".to_owned());
        }
        self.no_discovery()?;
        self.no_schemas()?;
        let command = self.command.filter(|c| !c.is_empty()).ok_or("`type: stdio` needs a `command`")?;
        let args = self.args.unwrap_or_default();
        if command.contains('\0') || args.iter().any(|arg| arg.contains('\0')) {
            return Err("a NUL character cannot be passed to a program".to_owned());
        }
        let env = self.env.unwrap_or_default();
        if let Some(name) = env.keys().find(|name| !is_variable(name)) {
            return Err(format!("{name:?} is not a name for an environment variable"));
        }
        Ok(StdioTransport { command, args, env, cwd: self.cwd, protocol: self.protocol.unwrap_or_default() })
    }

    fn http(self) -> Result<HttpTransport, String> {
        self.no_process()?;
        self.no_schemas()?;
        let url = check_url(&self.url.ok_or("`type: http` needs a `url`")?)?;
        let headers = self.headers.unwrap_or_default();
        headers.keys().try_for_each(|name| check_header(name, Sender::Mcp))?;
        let (mut credential, discovery_credential) = (self.credential, self.discovery_credential);
        if let Some(Credential::User(account)) = credential.as_deref_mut() {
            // MCP 2025-11-25, Authorization, Resource Parameter: the server's own URI, and without the slash that is implied.
            let own =
                || url.as_str().strip_suffix('/').filter(|_| url.path() == "/").unwrap_or(url.as_str()).to_owned();
            account.resource.get_or_insert_with(own);
        }
        let belongs = "`type: account` is for `discovery_credential`, beside a `credential` of `type: user`";
        let of_account = |stated: &Option<Box<Credential>>| matches!(stated.as_deref(), Some(Credential::Account(_)));
        let has_accounts = credential.as_deref().is_some_and(Credential::is_connected);
        if of_account(&credential) || (of_account(&discovery_credential) && !has_accounts) {
            return Err(belongs.to_owned());
        }
        for stated in credential.iter().chain(&discovery_credential) {
            check_credential(Some(stated), &headers)?;
            if matches!(&**stated, Credential::Static(fixed) if fixed.place == CredentialPlace::Query) {
                return Err("with `type: http`, a credential goes into a header".to_owned());
            }
        }
        if let Some(stated) = &discovery_credential {
            if !credential.as_deref().is_some_and(Credential::is_personal) {
                return Err("`discovery_credential` stands beside a `credential` that depends on the caller".to_owned());
            }
            if stated.is_personal() {
                return Err(
                    "`discovery_credential` is the node's own: `static`, `oauth_client_credentials` or `account`"
                        .to_owned(),
                );
            }
        }
        let protocol = self.protocol.unwrap_or_default();
        Ok(HttpTransport { url, headers, credential, discovery_credential, protocol })
    }

    fn rest(self) -> Result<RestTransport, String> {
        self.no_process()?;
        self.no_discovery()?;
        if self.protocol.is_some() {
            return Err("`protocol` belongs to MCP".to_owned());
        }
        let url = check_url(&self.url.ok_or("`type: rest` needs a `url`")?)?;
        if url.query().is_some() {
            return Err(
                "the base URL has no query; parameters that are always sent go into each tool's `query`".to_owned()
            );
        }
        let headers = self.headers.unwrap_or_default();
        headers.keys().try_for_each(|name| check_header(name, Sender::Rest))?;
        check_credential(self.credential.as_deref(), &headers)?;
        match self.credential.as_deref() {
            Some(Credential::UserFound(_)) => {
                return Err("with `type: rest`, `type: user` needs `authorization_url` and `token_url`".to_owned());
            }
            Some(Credential::Account(_)) => return Err("`type: account` belongs to `type: http`".to_owned()),
            Some(_) | None => {}
        }
        let schemas = self.schemas.unwrap_or_default();
        Ok(RestTransport { url, headers, credential: self.credential, schemas })
    }

    fn no_process(&self) -> Result<(), String> {
        if self.command.is_some() || self.args.is_some() || self.env.is_some() || self.cwd.is_some() {
            return Err("`command`, `args`, `env` and `cwd` belong to `type: stdio`".to_owned());
        }
        Ok(())
    }

    fn no_discovery(&self) -> Result<(), String> {
        let belongs = "`discovery_credential` belongs to `type: http`";
        self.discovery_credential.as_ref().map_or(Ok(()), |_| Err(belongs.to_owned()))
    }

    fn no_schemas(&self) -> Result<(), String> {
        self.schemas.as_ref().map_or(Ok(()), |_| Err("`schemas` belong to `type: rest`".to_owned()))
    }
}

fn check_credential(credential: Option<&Credential>, headers: &BTreeMap<String, EnvText>) -> Result<(), String> {
    let Some(header) = credential.and_then(Credential::header) else { return Ok(()) };
    match headers.keys().find(|name| name.eq_ignore_ascii_case(&header)) {
        Some(name) => Err(format!("both `headers` and `credential` set {name}")),
        None => Ok(()),
    }
}

pub(super) fn check_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|e| format!("{text:?} is not a URL: {e}"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return Err(format!("{text:?} must be an http or https URL"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("put credentials into `headers`, not into the URL".to_owned());
    }
    if url.fragment().is_some() {
        return Err("an endpoint's URL has no fragment".to_owned());
    }
    Ok(url)
}

/// Who writes the headers beside those of a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sender {
    /// The MCP client.
    Mcp,
    /// The REST client, whose content types a manifest may state.
    Rest,
}

pub(super) fn check_header(name: &str, sender: Sender) -> Result<(), String> {
    let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    if name.is_empty() || !name.chars().all(token) {
        return Err(format!("{name:?} is not a header name"));
    }
    let lower = name.to_ascii_lowercase();
    if sender == Sender::Rest && matches!(lower.as_str(), "accept" | "content-type") {
        return Ok(());
    }
    if OWN_HEADERS.contains(&lower.as_str()) || lower.starts_with("mcp-") {
        return Err(format!("the header {name} is set by the protocol"));
    }
    Ok(())
}
