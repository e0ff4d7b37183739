//! What the command line knows without asking a node: configuration, who runs on the data directory, tokens of the
//! development issuer. [`data`] works on the data itself while no node runs.

pub mod data;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use countersign_server::{Config, ConfigError, DevIssuer, MintRequest, NodeFile, Overrides};
use serde_json::Value;

pub use data::{checkpoint, export, fsck, logs, receipt, tools, verify_export};

use crate::cli::Global;
use crate::exit::{Exit, Failure};
use crate::output;

/// How long a token of the CLI's own is good for.
const OWN_TOKEN: Duration = Duration::from_secs(300);

/// The outcome of a check, with the report that it rests on.
#[derive(Debug)]
pub struct Checked {
    /// Whether everything holds.
    pub ok: bool,
    /// The whole report.
    pub details: Value,
}

impl Checked {
    /// Reads `ok` out of a report; a report without it does not hold.
    pub fn of(details: Value) -> Self {
        Self { ok: details["ok"] == true, details }
    }
}

/// Whom a development token is for.
#[derive(Debug, Clone)]
pub struct Claims {
    /// The subject; with `act`, the person behind the agent.
    pub sub: String,
    /// `person`, `agent` or `service`.
    pub kind: String,
    /// The agent that acts for the subject.
    pub act: Option<String>,
    /// The workspace.
    pub workspace: String,
    /// Roles.
    pub roles: Vec<String>,
    /// Scopes.
    pub scopes: Vec<String>,
    /// A mail address, said to be verified.
    pub mail: Option<String>,
    /// The audience; the node's own without.
    pub audience: Option<String>,
    /// How long it is good for, milliseconds.
    pub ttl_ms: i64,
}

impl Claims {
    /// A person of the default workspace, for a short while.
    pub fn person(name: &str, roles: &[&str]) -> Self {
        Self {
            sub: name.to_owned(),
            kind: "person".to_owned(),
            act: None,
            workspace: "default".to_owned(),
            roles: roles.iter().map(|role| (*role).to_owned()).collect(),
            scopes: Vec::new(),
            mail: None,
            audience: None,
            ttl_ms: i64::try_from(OWN_TOKEN.as_millis()).unwrap_or(i64::MAX),
        }
    }
}

/// The flags that the server's configuration takes from us.
pub fn overrides(global: &Global) -> anyhow::Result<Overrides> {
    let home = global.home.as_ref().map(std::path::absolute).transpose().context("--home")?;
    Ok(Overrides { home, ..Overrides::default() })
}

/// The configuration of this home.
///
/// # Errors
/// [`Exit::Usage`], with file and line, if it cannot be used.
pub fn config(global: &Global) -> anyhow::Result<Config> {
    Config::load(&overrides(global)?).map_err(|error| unusable(&error).into())
}

/// A configuration that cannot be used, as a failure.
pub fn unusable(error: &ConfigError) -> Failure {
    Failure::new(Exit::Usage, error.to_string())
        .advise("the settings are described in docs/http.md; `countersign doctor` checks them")
}

/// What the node that runs on this data directory says of itself.
///
/// # Errors
/// If the configuration cannot be read.
pub fn node_file(global: &Global) -> anyhow::Result<Option<NodeFile>> {
    Ok(NodeFile::read(&config(global)?.data_dir))
}

/// The URL of the node that runs on this data directory.
///
/// # Errors
/// If the configuration cannot be read.
pub fn running_node(global: &Global) -> anyhow::Result<Option<String>> {
    Ok(node_file(global)?.map(|node| node.url))
}

/// The token to authenticate with: the one given, or a short-lived development token for `--as` or the system's user.
///
/// # Errors
/// If there is none and none can be made.
pub fn token(global: &Global) -> anyhow::Result<String> {
    if let (Some(token), None) = (&global.token, &global.act_as) {
        return Ok(token.clone());
    }
    let claims = match &global.act_as {
        Some(text) => {
            let mut parts = text.split(',').map(str::trim);
            let name = parts.next().filter(|name| !name.is_empty());
            let name = name.ok_or_else(|| Failure::new(Exit::Usage, "--as wants NAME or NAME,ROLE,…"))?;
            Claims::person(name, &parts.filter(|role| !role.is_empty()).collect::<Vec<_>>())
        }
        None => Claims::person(&user(), &["operator", "auditor"]),
    };
    mint(global, &claims)
}

/// Signs a development token.
///
/// # Errors
/// If this data directory has no development issuer.
pub fn mint(global: &Global, claims: &Claims) -> anyhow::Result<String> {
    let config = config(global)?;
    let no_issuer = |why: String| {
        Failure::new(Exit::Failed, format!("no development token can be made: {why}")).advise(
            "give a token of your identity provider with --token or COUNTERSIGN_TOKEN, or run `countersign up` once",
        )
    };
    if !config.development_issuer {
        return Err(no_issuer("the development issuer is off".into()).into());
    }
    let issuer = DevIssuer::open(&config.keys_dir).map_err(|error| no_issuer(error.to_string()))?;
    let request = MintRequest {
        sub: claims.sub.clone(),
        kind: if claims.act.is_some() { None } else { Some(claims.kind.clone()) },
        act: claims.act.clone(),
        workspace: Some(claims.workspace.clone()),
        roles: claims.roles.clone(),
        scopes: claims.scopes.clone(),
        mail: claims.mail.clone(),
        audience: claims.audience.clone().unwrap_or(config.audience),
        ttl: Duration::from_millis(u64::try_from(claims.ttl_ms).unwrap_or(0)),
    };
    let now = u64::try_from(output::now_ms() / 1000).unwrap_or(0);
    Ok(issuer.mint(&request, now)?)
}

/// The name of the operating system's user.
pub fn user() -> String {
    let by_id = nix::unistd::User::from_uid(nix::unistd::getuid()).ok().flatten().map(|user| user.name);
    by_id.unwrap_or_else(|| format!("uid-{}", nix::unistd::getuid()))
}

/// The directory of the configuration file: the home.
pub fn home(config: &Config) -> PathBuf {
    config.config_file.parent().map_or_else(|| PathBuf::from("."), PathBuf::from)
}
