//! Configuration: one `countersign.toml`, `COUNTERSIGN_*` variables over it, flags over both. Parsed whole before anything
//! is bound or opened. Unknown keys are refused, and every complaint about the file names its line.
//!
//! The format is documented in `docs/http.md` ("Configuration"). Nothing here opens a socket or a database.

mod database;
mod file;
mod issuers;
mod keys;
mod limits;
mod mail;
mod objects;
mod operations;
mod outside;
mod reach;
mod starter;
mod tls;
mod witness;

pub use database::DatabaseUrl;
pub use issuers::{IssuerSettings, JwksSource};
pub use keys::{KeeperSettings, KeySettings};
pub use mail::{MailLogin, MailSettings, MailTls};
pub use objects::{ObjectSettings, S3Settings};
pub use operations::{DrainSettings, LogFormat, LogSettings, TelemetrySettings};
pub use outside::{ForwardSettings, ReadLogSettings, TimestampingSettings};
pub use reach::{ForwardedHeader, ProxySettings, unsettled};
pub use starter::{starter_files, write_starter};
pub use tls::{ClientAuth, ClientRule, SubjectName, TlsSettings};
pub use witness::{WitnessForSettings, WitnessSettings};

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use countersign_catalog::scan::Severity;
use countersign_domain::WorkspaceName;
use countersign_gate::breakers::BreakerRule;
use countersign_gate::budgets::Budget;
use countersign_gate::directory::WorkspaceMode;
use countersign_gate::limits::WhenAway;
use file::File;
use url::Url;

/// A setting that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Something in the configuration file.
    #[error("{}:{line}: {message}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// One-based line.
        line: usize,
        /// What is wrong, and what to write instead.
        message: String,
    },
    /// A variable or a flag.
    #[error("{source_name}: {message}")]
    Value {
        /// Where the value came from, e.g. `COUNTERSIGN_LISTEN`.
        source_name: String,
        /// What is wrong.
        message: String,
    },
    /// A combination that is refused.
    #[error("{0}")]
    Refused(String),
    /// A file that cannot be read or written.
    #[error("{}: {error}", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// The system's words.
        error: std::io::Error,
    },
}

/// Settings from flags. What is `None` comes from the environment, the file or the defaults, in this order.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// Keep configuration and data here instead of in the XDG directories.
    pub home: Option<PathBuf>,
    /// The configuration file.
    pub config: Option<PathBuf>,
    /// Address to listen on.
    pub listen: Option<SocketAddr>,
    /// The data directory.
    pub data_dir: Option<PathBuf>,
    /// The bare hostname that names the log.
    pub log_domain: Option<String>,
    /// The URL by which clients reach the node.
    pub public_url: Option<String>,
    /// Whether the development issuer is on.
    pub development_issuer: Option<bool>,
    /// The Postgres database.
    pub database_url: Option<String>,
    /// Directory of the log's keys.
    pub keys_dir: Option<PathBuf>,
    /// Whether a node without a head file may join a shared log.
    pub join: Option<bool>,
    /// From which severity on a finding of the scan keeps a definition from being accepted: its name, or `never`.
    pub quarantine_at: Option<String>,
    /// For how many days decisions are kept for replays.
    pub replay_days: Option<u32>,
}

/// A number of calls in a stretch of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    /// Calls.
    pub calls: NonZeroU32,
    /// In this time.
    pub per: Duration,
}

/// A Redis or Valkey server in which nodes share their rate limits.
#[derive(Clone)]
pub struct RedisSettings {
    /// `redis://[user:password@]host[:port][/db]`.
    pub url: String,
    /// What happens to calls while it is away.
    pub when_away: WhenAway,
    /// How long a call waits for it.
    pub timeout: Duration,
}

impl std::fmt::Debug for RedisSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The URL may hold a password.
        write!(f, "RedisSettings({:?}, {:?})", self.when_away, self.timeout)
    }
}

/// Bounds of what callers may send and do.
#[derive(Debug, Clone)]
pub struct LimitSettings {
    /// Calls of one principal.
    pub per_principal: RateLimit,
    /// Calls of one tool.
    pub per_tool: RateLimit,
    /// Calls of one principal to one tool; no limit by default.
    pub per_principal_and_tool: Option<RateLimit>,
    /// Calls of one workspace; no limit by default.
    pub per_workspace: Option<RateLimit>,
    /// All calls; no limit by default.
    pub global: Option<RateLimit>,
    /// Buckets that nodes share.
    pub redis: Option<RedisSettings>,
    /// Calls under way at a time on this node.
    pub in_flight: usize,
    /// Of them, those of one workspace.
    pub in_flight_per_workspace: usize,
    /// When upstreams and tools are left alone; `None` never does.
    pub breakers: Option<BreakerRule>,
    /// What each principal may use up in a period.
    pub budgets: Vec<Budget>,
    /// Requests of one principal that may wait for approval at a time.
    pub open_requests: u32,
    /// Largest request body, bytes.
    pub body_bytes: usize,
    /// Deepest nesting of arguments.
    pub depth: usize,
    /// Connections at a time; more wait in the kernel's queue.
    pub connections: usize,
    /// How long a connection may take to send the next request's head (also the longest idle keep-alive).
    pub header_timeout: Duration,
    /// How long a request may take to send its body.
    pub body_timeout: Duration,
}

/// How the node signs and keeps artifacts.
#[derive(Debug, Clone)]
pub struct TrustSettings {
    /// Directory of further types of artifacts (`*.yaml`, `*.json`); the built-in ones alone without.
    pub artifact_types: Option<PathBuf>,
    /// Where artifacts are kept.
    pub objects: ObjectSettings,
    /// For how long a workspace's key signs.
    pub key_rotation: Duration,
    /// For how long the node's authority issues certificates.
    pub authority_rotation: Duration,
    /// Teams that can be told about artifacts.
    pub teams: Vec<TeamSettings>,
    /// The server that takes mail for them.
    pub mail: Option<MailSettings>,
    /// Whom to ask about packages.
    pub packages: PackageSettings,
    /// Registries in which images are signed.
    pub registries: Vec<RegistrySettings>,
    /// Whether answers may be asked for that a scenario makes up.
    pub scenarios: bool,
    /// What clients of Sigstore's may do; nothing, without.
    pub clients: Option<ClientSettings>,
    /// How workspaces name their signers, where it is said of them.
    pub identities: BTreeMap<WorkspaceName, Naming>,
    /// How all others do.
    pub other_identities: Naming,
    /// Whom workspaces expect to have signed, where a call does not say; under no name, what all others do.
    pub expected: BTreeMap<Option<WorkspaceName>, ExpectedSigner>,
    /// A timestamp authority besides the node's own.
    pub timestamping: Option<TimestampingSettings>,
    /// A log of somebody else to which is forwarded.
    pub forward: Option<ForwardSettings>,
    /// Logs of others that are read.
    pub logs: Vec<ReadLogSettings>,
}

/// Who is expected to have signed: exactly, or with `*` within and `**` across slashes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpectedSigner {
    /// The identity in the certificate.
    pub identity: String,
    /// Who vouches for it; the node itself, if nothing is said.
    pub issuer: Option<String>,
}

/// What clients of Sigstore's may do.
#[derive(Debug, Clone)]
pub struct ClientSettings {
    /// Audiences of identity tokens that are good for a certificate, and for nothing else.
    pub audiences: Vec<String>,
    /// Timestamps for anybody, in a minute.
    pub timestamps_per_minute: u32,
}

/// How signers are named in certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Naming {
    /// By a URI that says nothing.
    #[default]
    Pseudonym,
    /// People by their verified mail address.
    Mail,
    /// By the subject of their token.
    Subject,
}

/// A registry of images.
#[derive(Debug, Clone)]
pub struct RegistrySettings {
    /// Its name and port.
    pub host: String,
    /// Spoken to without TLS.
    pub plain_http: bool,
    /// Who the node is there.
    pub username: Option<String>,
    /// The password's file.
    pub password_file: Option<PathBuf>,
}

/// Whom to ask about packages of public registries.
#[derive(Debug, Clone, Default)]
pub struct PackageSettings {
    /// Directory of the workspaces' lists, `WORKSPACE.yaml`.
    pub lists: Option<PathBuf>,
    /// Where each service is reached.
    pub sources: countersign_trust::package::source::Sources,
    /// A Sigstore trusted root for what registries attest.
    pub trusted_root: Option<PathBuf>,
    /// The keys of npm's registry.
    pub npm_keys: Option<PathBuf>,
}

/// How a team is told: by a webhook, by mail, or by both.
#[derive(Debug, Clone)]
pub struct TeamSettings {
    /// Its name.
    pub name: String,
    /// Where it is told.
    pub webhook: Option<WebhookSettings>,
    /// Addresses to which a mail goes.
    pub mail: Vec<String>,
}

/// A team's webhook.
#[derive(Debug, Clone)]
pub struct WebhookSettings {
    /// Where.
    pub url: Url,
    /// In which shape.
    pub style: TeamStyle,
    /// File with the secret that signs what is sent (Standard Webhooks, `whsec_…`).
    pub secret_file: Option<PathBuf>,
}

/// The shapes of a notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TeamStyle {
    /// JSON of ours.
    Webhook,
    /// An incoming webhook of Slack.
    Slack,
}

/// Everything that a node needs to know before it starts.
#[derive(Debug, Clone)]
pub struct Config {
    /// The configuration file, whether it exists or not.
    pub config_file: PathBuf,
    /// Address to listen on.
    pub listen: SocketAddr,
    /// The bare hostname that names the log: every shard's origin is `<random>.<log_domain>`.
    pub log_domain: String,
    /// The URL by which clients reach the node, without a trailing slash.
    pub public_url: Option<String>,
    /// Further host names that requests may name in `Host` and `Origin`.
    pub allowed_hosts: Vec<String>,
    /// The `aud` that tokens must carry.
    pub audience: String,
    /// Directory of upstream manifests (`*.yaml`).
    pub manifests: PathBuf,
    /// Directory of policies (`access/*.cedar`, `approval/*.cedar`).
    pub policies: PathBuf,
    /// The data directory.
    pub data_dir: PathBuf,
    /// File that keeps the newest signed head outside the database.
    pub head_file: PathBuf,
    /// The Postgres database that several nodes share; `None` for SQLite in the data directory.
    pub database: Option<DatabaseUrl>,
    /// Directory of this log's keys. Nodes that share a log have the same.
    pub keys_dir: PathBuf,
    /// Whether a node without a head file takes a shared database's word for what was signed.
    pub join: bool,
    /// Whether the development issuer is on.
    pub development_issuer: bool,
    /// Issuers whose tokens are accepted.
    pub issuers: Vec<IssuerSettings>,
    /// Whether a workspace has to be registered before anyone can act in it.
    pub workspaces: WorkspaceMode,
    /// The proxies whose word about a request's origin counts.
    pub proxies: ProxySettings,
    /// The listener's TLS; plain HTTP without.
    pub tls: Option<TlsSettings>,
    /// Scopes that clients may ask for (RFC 9728 `scopes_supported`).
    pub scopes_supported: Vec<String>,
    /// Scopes without which no credential is good for anything.
    pub required_scopes: Vec<String>,
    /// Bounds.
    pub limits: LimitSettings,
    /// From which severity on a finding of the scan keeps a definition from being accepted unless its rule is named.
    pub quarantine_at: Option<Severity>,
    /// How long what calls were decided upon is kept for replays; zero keeps none.
    pub decisions_kept: Duration,
    /// Who keeps the keys that must not lie in a file or the database; nobody else, without.
    pub keys: Option<KeySettings>,
    /// The built-in upstreams `trust` and `artifacts`; off without.
    pub trust: Option<TrustSettings>,
    /// Whom this node asks to cosign its checkpoints.
    pub witnesses: Vec<WitnessSettings>,
    /// Whose checkpoints this node cosigns.
    pub witness_for: Option<WitnessForSettings>,
    /// How long an MCP call waits for people before it answers that it was not executed. At most 50 s.
    pub approval_wait: Duration,
    /// The log.
    pub log: LogSettings,
    /// Metrics and spans.
    pub telemetry: TelemetrySettings,
    /// The end.
    pub drain: DrainSettings,
}

impl Config {
    /// Reads the file (a missing one means defaults), the environment and the flags.
    ///
    /// # Errors
    /// [`ConfigError`]; nothing was bound, opened or written.
    pub fn load(overrides: &Overrides) -> Result<Self, ConfigError> {
        Self::load_with(overrides, &|name| std::env::var(name).ok().filter(|v| !v.is_empty()))
    }

    /// As [`Config::load`], with the environment as an argument.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_with(overrides: &Overrides, env: &dyn Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let overrides = with_environment(overrides, env)?;
        let places = Places::new(&overrides, env)?;
        let source = Source::read(&places.config_file)?;
        let file = source.parse()?;
        build(file, &source, places, overrides, env)
    }

    /// For the fuzz targets: a file with this text.
    #[cfg(fuzzing)]
    pub(crate) fn from_text(text: &str) -> Result<Self, ConfigError> {
        let overrides = Overrides { home: Some(PathBuf::from("/nowhere")), ..Overrides::default() };
        let places = Places::new(&overrides, &|_| None)?;
        let source = Source { path: places.config_file.clone(), text: text.to_owned() };
        build(source.parse()?, &source, places, overrides, &|_| None)
    }

    /// The node's base URL, without a trailing slash: the public one, or the address that it listens on.
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        self.public_url.clone().unwrap_or_else(|| format!("{scheme}://{}", self.listen))
    }
}

/// Whether only this machine can connect to the address.
pub fn is_loopback(address: &SocketAddr) -> bool {
    match address.ip() {
        IpAddr::V4(ip) => ip.is_loopback(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.to_ipv4_mapped().is_some_and(|v4| v4.is_loopback()),
    }
}

/// `500ms`, `30s`, `15m`, `12h` or `7d`.
///
/// # Errors
/// In words, for anything else.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a duration; write for example 30s, 15m or 12h");
    let split = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let millis_per_unit = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(wrong()),
    };
    number.checked_mul(millis_per_unit).map(Duration::from_millis).ok_or_else(wrong)
}

/// Where things are by default.
struct Places {
    config_file: PathBuf,
    base: PathBuf,
    data_dir: PathBuf,
    head_file: PathBuf,
}

impl Places {
    fn new(overrides: &Overrides, env: &dyn Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let (base, data_dir, head_file) = match &overrides.home {
            Some(home) => (home.clone(), home.join("data"), home.join("state/head")),
            None => {
                let dir = |variable, below| xdg(env, variable, below);
                let state = dir("XDG_STATE_HOME", ".local/state")?.join("head");
                (dir("XDG_CONFIG_HOME", ".config")?, dir("XDG_DATA_HOME", ".local/share")?, state)
            }
        };
        let config_file = overrides.config.clone().unwrap_or_else(|| base.join("countersign.toml"));
        Ok(Self { config_file, base, data_dir, head_file })
    }
}

fn xdg(env: &dyn Fn(&str) -> Option<String>, variable: &str, below: &str) -> Result<PathBuf, ConfigError> {
    let absolute = env(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    let from_home = || env("HOME").map(|home| PathBuf::from(home).join(below));
    let dir = absolute.or_else(from_home);
    let missing = || ConfigError::Refused(format!("neither {variable} nor HOME is set; use --home DIR"));
    dir.map(|dir| dir.join("countersign")).ok_or_else(missing)
}

fn with_environment(flags: &Overrides, env: &dyn Fn(&str) -> Option<String>) -> Result<Overrides, ConfigError> {
    let wrong = |name: &str, message: String| ConfigError::Value { source_name: name.to_owned(), message };
    let mut out = flags.clone();
    let path = |slot: &mut Option<PathBuf>, name| *slot = slot.take().or_else(|| env(name).map(PathBuf::from));
    path(&mut out.home, "COUNTERSIGN_HOME");
    path(&mut out.config, "COUNTERSIGN_CONFIG");
    path(&mut out.data_dir, "COUNTERSIGN_DATA_DIR");
    out.log_domain = out.log_domain.or_else(|| env("COUNTERSIGN_LOG_DOMAIN"));
    out.public_url = out.public_url.or_else(|| env("COUNTERSIGN_PUBLIC_URL"));
    out.quarantine_at = out.quarantine_at.or_else(|| env("COUNTERSIGN_SCAN_QUARANTINE_AT"));
    if let (None, Some(text)) = (out.listen, env("COUNTERSIGN_LISTEN")) {
        out.listen = Some(parse_listen(&text).map_err(|m| wrong("COUNTERSIGN_LISTEN", m))?);
    }
    if let (None, Some(text)) = (out.development_issuer, env("COUNTERSIGN_DEVELOPMENT_ISSUER")) {
        let message = || wrong("COUNTERSIGN_DEVELOPMENT_ISSUER", format!("{text:?} is neither true nor false"));
        out.development_issuer = Some(text.parse().map_err(|_| message())?);
    }
    if let (None, Some(text)) = (out.replay_days, env("COUNTERSIGN_POLICY_REPLAY_DAYS")) {
        let message = || wrong("COUNTERSIGN_POLICY_REPLAY_DAYS", format!("{text:?} is not a number of days"));
        out.replay_days = Some(text.parse().map_err(|_| message())?);
    }
    out.database_url = out.database_url.or_else(|| env("COUNTERSIGN_DATABASE_URL")).or_else(|| env("DATABASE_URL"));
    path(&mut out.keys_dir, "COUNTERSIGN_KEYS_DIR");
    if let (None, Some(text)) = (out.join, env("COUNTERSIGN_JOIN")) {
        let message = || wrong("COUNTERSIGN_JOIN", format!("{text:?} is neither true nor false"));
        out.join = Some(text.parse().map_err(|_| message())?);
    }
    Ok(out)
}

fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("{text:?} is not an address and port, such as 127.0.0.1:8000 or [::1]:8000"))
}

/// The text of the configuration file, for saying where something stands.
struct Source {
    path: PathBuf,
    text: String,
}

impl Source {
    fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(ConfigError::Io { path: path.to_owned(), error }),
        };
        Ok(Self { path: path.to_owned(), text })
    }

    fn parse(&self) -> Result<File, ConfigError> {
        toml::from_str(&self.text)
            .map_err(|error| self.at_offset(error.span().map_or(0, |span| span.start), error.message().to_owned()))
    }

    fn at_offset(&self, offset: usize, message: String) -> ConfigError {
        let before = self.text.as_bytes().iter().take(offset);
        let line = 1 + before.filter(|byte| **byte == b'\n').count();
        ConfigError::File { file: self.path.clone(), line, message }
    }

    /// A complaint about a value that was parsed: the span says where it stood.
    fn complain<T>(&self, value: &toml::Spanned<T>, message: String) -> ConfigError {
        self.at_offset(value.span().start, message)
    }
}

fn build(
    file: File,
    source: &Source,
    places: Places,
    over: Overrides,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Config, ConfigError> {
    let listen = match (over.listen, &file.listen) {
        (Some(address), _) => address,
        (None, Some(text)) => parse_listen(text.get_ref()).map_err(|m| source.complain(text, m))?,
        (None, None) => SocketAddr::from(([127, 0, 0, 1], 8000)),
    };
    let audience = file.audience.unwrap_or_else(|| "countersign".to_owned());
    let issuers = issuers::settings(file.issuers, source, &places.base, &audience)?;
    let development_issuer = development_issuer(&over, &file.development, &listen)?;
    if issuers.is_empty() && !development_issuer {
        let message = "no [[issuers]] and no development issuer: nobody could authenticate";
        return Err(ConfigError::Refused(format!("{}: {message}", source.path.display())));
    }
    let below = |path: Option<PathBuf>, name: &str| places.base.join(path.unwrap_or_else(|| PathBuf::from(name)));
    let data_dir = over.data_dir.or_else(|| file.data_dir.map(|p| places.base.join(p))).unwrap_or(places.data_dir);
    let keys_dir = over.keys_dir.or_else(|| file.keys_dir.map(|p| places.base.join(p)));
    let trust = trust(file.trust, source, &places.base, &data_dir, development_issuer)?;
    // An artifact has up to 1 MiB in its canonical form, and more in others.
    let body_bytes = if trust.is_some() { 2 << 20 } else { 1 << 20 };
    let log_domain = log_domain(over.log_domain, file.log_domain.as_ref(), source, &listen)?;
    Ok(Config {
        database: database::url(over.database_url, file.database_url.as_ref(), source)?,
        keys_dir: keys_dir.unwrap_or_else(|| data_dir.join("keys")),
        join: over.join.or(file.join).unwrap_or(false),
        data_dir,
        witnesses: witness::witnesses(file.witnesses, source)?,
        witness_for: file.witness_for.map(|section| witness::witness_for(section, source, &log_domain)).transpose()?,
        log_domain,
        public_url: public_url(over.public_url, file.public_url.as_ref(), source)?,
        limits: limits::settings(file.limits.unwrap_or_default(), body_bytes, source, env)?,
        trust,
        keys: file.keys.map(|section| keys::settings(section, source, &places.base)).transpose()?,
        approval_wait: approval_wait(file.approval.and_then(|a| a.wait_seconds), source)?,
        quarantine_at: quarantine_at(over.quarantine_at, file.scan.as_ref(), source)?,
        decisions_kept: operations::decisions_kept(over.replay_days, file.policy.unwrap_or_default(), source)?,
        workspaces: workspaces(file.workspaces.as_ref(), source, &listen)?,
        log: operations::log(file.log, env)?,
        telemetry: operations::telemetry(file.telemetry, source, env)?,
        drain: operations::drain(file.drain, source)?,
        proxies: reach::proxies(file.trusted_proxies, file.forwarded_header, source)?,
        tls: file.tls.map(|section| tls::settings(section, source, &places.base)).transpose()?,
        scopes_supported: reach::scopes(file.scopes_supported, source)?,
        required_scopes: reach::scopes(file.required_scopes, source)?,
        allowed_hosts: file.allowed_hosts,
        manifests: below(file.manifests, "manifests"),
        policies: below(file.policies, "policies"),
        head_file: file.head_file.map_or(places.head_file, |path| places.base.join(path)),
        config_file: places.config_file,
        listen,
        audience,
        development_issuer,
        issuers,
    })
}

fn trust(
    file: Option<file::FileTrust>,
    source: &Source,
    base: &Path,
    data_dir: &Path,
    development: bool,
) -> Result<Option<TrustSettings>, ConfigError> {
    let Some(section) = file.filter(|section| section.enabled) else { return Ok(None) };
    let scenarios = section.scenarios.as_ref().filter(|wanted| *wanted.get_ref());
    if let Some(wanted) = scenarios.filter(|_| !development) {
        // The development issuer is refused off loopback, so that nobody else's verdicts come from such a node.
        let message = "scenarios make answers up: they need the development issuer, and with it a listener on loopback";
        return Err(source.complain(wanted, message.to_owned()));
    }
    let scenarios = scenarios.is_some();
    let key_rotation = rotation(section.key_rotation.as_ref(), (180, 30), source)?;
    let authority_rotation = rotation(section.authority_rotation.as_ref(), (365, 90), source)?;
    let mail = section.mail.map(|mail| mail::settings(mail, source, base)).transpose()?;
    if let (None, Some(address)) = (&mail, section.teams.iter().find_map(|team| team.mail.first())) {
        return Err(source.complain(address, "mail needs a server: [trust.mail] with host and from".to_owned()));
    }
    let timestamping = section.timestamping.map(|file| outside::timestamping(file, source, base)).transpose()?;
    let forward = section.forward.map(|file| outside::forward(file, source, base)).transpose()?;
    let teams = section.teams.into_iter().map(|team| team_of(team, source, base)).collect::<Result<_, _>>()?;
    let (identities, other_identities) = identities(&section.identities, source)?;
    Ok(Some(TrustSettings {
        clients: section.clients.map(|clients| clients_of(clients, source)).transpose()?,
        identities,
        other_identities,
        expected: expected(section.expected, source)?,
        teams,
        mail,
        timestamping,
        forward,
        logs: outside::logs(section.logs, source, base)?,
        registries: section
            .registries
            .into_iter()
            .map(|registry| RegistrySettings {
                host: registry.host,
                plain_http: registry.plain_http,
                username: registry.username,
                password_file: registry.password_file.map(|path| base.join(path)),
            })
            .collect(),
        packages: PackageSettings {
            lists: section.packages.lists.map(|path| base.join(path)),
            sources: section.packages.sources,
            trusted_root: section.packages.trusted_root.map(|path| base.join(path)),
            npm_keys: section.packages.npm_keys.map(|path| base.join(path)),
        },
        artifact_types: section.artifact_types.map(|path| base.join(path)),
        objects: objects::settings(section.objects, section.s3, source, base, data_dir)?,
        key_rotation,
        authority_rotation,
        scenarios,
    }))
}

/// For how long something signs until another takes over: so many days if nothing is said, and so many at least. Those that signed
/// stay known for what they signed, and there is an end to how many can be.
fn rotation(
    given: Option<&toml::Spanned<String>>,
    (usual_days, least_days): (u64, u64),
    source: &Source,
) -> Result<Duration, ConfigError> {
    const DAY: u64 = 24 * 3600;
    let Some(text) = given else { return Ok(Duration::from_secs(usual_days * DAY)) };
    let duration = parse_duration(text.get_ref()).map_err(|m| source.complain(text, m))?;
    // The longest leaves an authority of ten years with years to spare.
    if !(least_days * DAY..=5 * 365 * DAY).contains(&duration.as_secs()) {
        return Err(source.complain(text, format!("from {least_days}d to five years (1825d)")));
    }
    Ok(duration)
}

/// `[trust.clients]`
fn clients_of(section: file::FileClients, source: &Source) -> Result<ClientSettings, ConfigError> {
    let audiences = section.audiences.unwrap_or_else(|| vec!["sigstore".to_owned()]);
    let per_minute = section.timestamps_per_minute;
    if let Some(number) = per_minute.as_ref().filter(|number| !(1..=60_000).contains(number.get_ref())) {
        return Err(source.complain(number, "timestamps_per_minute is from 1 to 60000".to_owned()));
    }
    let timestamps_per_minute = per_minute.map_or(600, toml::Spanned::into_inner);
    Ok(ClientSettings { audiences, timestamps_per_minute })
}

/// `[trust.identities]`: by workspace, and `"*"` for all others.
fn identities(
    section: &BTreeMap<String, toml::Spanned<String>>,
    source: &Source,
) -> Result<(BTreeMap<WorkspaceName, Naming>, Naming), ConfigError> {
    let (mut known, mut others) = (BTreeMap::new(), Naming::default());
    for (workspace, word) in section {
        let naming = match word.get_ref().as_str() {
            "pseudonym" => Naming::Pseudonym,
            "mail" => Naming::Mail,
            "subject" => Naming::Subject,
            other => {
                return Err(source.complain(word, format!("{other:?} is none of pseudonym, mail and subject")));
            }
        };
        match workspace.as_str() {
            "*" => others = naming,
            name => {
                let name =
                    name.parse().map_err(|_| source.complain(word, format!("{name:?} is no workspace's name")))?;
                known.insert(name, naming);
            }
        }
    }
    Ok((known, others))
}

/// `[trust.expected]`: by workspace, and `"*"` for all others.
fn expected(
    section: BTreeMap<String, toml::Spanned<file::FileExpected>>,
    source: &Source,
) -> Result<BTreeMap<Option<WorkspaceName>, ExpectedSigner>, ConfigError> {
    let of = |(name, signer): (String, toml::Spanned<file::FileExpected>)| {
        let complain = |message: String| source.complain(&signer, message);
        let given = signer.get_ref();
        if given.identity.is_empty() || given.issuer.as_ref().is_some_and(String::is_empty) {
            return Err(complain("an empty pattern expects nobody; ** expects anybody".to_owned()));
        }
        let workspace = match name.as_str() {
            "*" => None,
            name => Some(name.parse().map_err(|_| complain(format!("{name:?} is no workspace's name")))?),
        };
        Ok((workspace, ExpectedSigner { identity: given.identity.clone(), issuer: given.issuer.clone() }))
    };
    section.into_iter().map(of).collect()
}

fn team_of(team: file::FileTeam, source: &Source, base: &Path) -> Result<TeamSettings, ConfigError> {
    let name = team.name.get_ref().clone();
    let complain = |message: &str| source.complain(&team.name, message.to_owned());
    if !countersign_trust::review::is_team(&name) {
        return Err(complain(&format!("{name:?} is no team's name; write for example security")));
    }
    if team.webhook.is_none() && (team.style.is_some() || team.secret_file.is_some()) {
        return Err(complain("style and secret_file are about a webhook, and this team has none"));
    }
    let style = match team.style {
        None | Some(file::FileTeamStyle::Webhook) => TeamStyle::Webhook,
        Some(file::FileTeamStyle::Slack) => TeamStyle::Slack,
    };
    let secret_file = team.secret_file.map(|path| base.join(path));
    let webhook = match team.webhook {
        None => None,
        Some(text) => {
            let url = Url::parse(text.get_ref()).ok().filter(|url| matches!(url.scheme(), "https" | "http"));
            let wrong = || source.complain(&text, "webhook is an http or https URL".to_owned());
            Some(WebhookSettings { url: url.ok_or_else(wrong)?, style, secret_file })
        }
    };
    let mail = mail::recipients(&team.mail, source)?;
    if webhook.is_none() && mail.is_empty() {
        return Err(source.complain(&team.name, "a team has a webhook, mail addresses, or both".to_owned()));
    }
    Ok(TeamSettings { name, webhook, mail })
}

/// `[scan] quarantine_at`: a severity, or `never`; `high` where nothing is said.
fn quarantine_at(
    over: Option<String>,
    section: Option<&file::FileScan>,
    source: &Source,
) -> Result<Option<Severity>, ConfigError> {
    let read = |text: &str| match text {
        "never" => Ok(None),
        _ => text.parse().map(Some).map_err(|why: String| format!("{why}; or never")),
    };
    if let Some(text) = over {
        let source_name = "COUNTERSIGN_SCAN_QUARANTINE_AT".into();
        return read(&text).map_err(|message| ConfigError::Value { source_name, message });
    }
    match section.and_then(|section| section.quarantine_at.as_ref()) {
        None => Ok(Some(Severity::High)),
        Some(text) => read(text.get_ref()).map_err(|message| source.complain(text, message)),
    }
}

fn development_issuer(
    over: &Overrides,
    section: &Option<file::FileDevelopment>,
    listen: &SocketAddr,
) -> Result<bool, ConfigError> {
    let asked = over.development_issuer.or_else(|| section.as_ref().and_then(|d| d.issuer));
    if asked == Some(true) && !is_loopback(listen) {
        let message = "the development issuer is refused off loopback: anyone with a shell here could be anybody";
        return Err(ConfigError::Refused(format!("{message} (listen is {listen})")));
    }
    Ok(asked.unwrap_or_else(|| is_loopback(listen)))
}

fn log_domain(
    over: Option<String>,
    file: Option<&toml::Spanned<String>>,
    source: &Source,
    listen: &SocketAddr,
) -> Result<String, ConfigError> {
    let bad =
        |name: &str| format!("log_domain {name:?} is not a bare hostname (letters, digits, '-' and '.', no port)");
    match (over, file) {
        (Some(name), _) if is_hostname(&name) => Ok(name),
        (Some(name), _) => Err(ConfigError::Value {
            source_name: "COUNTERSIGN_LOG_DOMAIN or --log-domain".into(),
            message: bad(&name),
        }),
        (None, Some(name)) if is_hostname(name.get_ref()) => Ok(name.get_ref().clone()),
        (None, Some(name)) => Err(source.complain(name, bad(name.get_ref()))),
        (None, None) if is_loopback(listen) => Ok("localhost".to_owned()),
        (None, None) => Err(ConfigError::Refused(format!(
            "log_domain is required when listening on {listen}: the log's name must mean something to others"
        ))),
    }
}

/// Whoever may name any workspace makes it: fine on one's own machine.
fn workspaces(
    file: Option<&toml::Spanned<String>>,
    source: &Source,
    listen: &SocketAddr,
) -> Result<WorkspaceMode, ConfigError> {
    match file.map(|text| (text, text.get_ref().as_str())) {
        None if is_loopback(listen) => Ok(WorkspaceMode::Open),
        None | Some((_, "registered")) => Ok(WorkspaceMode::Registered),
        Some((_, "open")) => Ok(WorkspaceMode::Open),
        Some((text, other)) => {
            Err(source.complain(text, format!("workspaces is \"open\" or \"registered\", not {other:?}")))
        }
    }
}

fn is_hostname(name: &str) -> bool {
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    name.len() <= 200 && name.split('.').all(label)
}

fn public_url(
    over: Option<String>,
    file: Option<&toml::Spanned<String>>,
    source: &Source,
) -> Result<Option<String>, ConfigError> {
    let check = |text: &str| match Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() && url.query().is_none() => {
            Ok(Some(text.trim_end_matches('/').to_owned()))
        }
        _ => Err(format!("public_url {text:?} is not an http or https URL")),
    };
    match (over, file) {
        (Some(text), _) => check(&text).map_err(|message| ConfigError::Value {
            source_name: "COUNTERSIGN_PUBLIC_URL or --public-url".into(),
            message,
        }),
        (None, Some(text)) => check(text.get_ref()).map_err(|message| source.complain(text, message)),
        (None, None) => Ok(None),
    }
}

/// Clients give up after 60 s, so a longer wait would lose answers.
const LONGEST_APPROVAL_WAIT: u64 = 50;

fn approval_wait(seconds: Option<toml::Spanned<u64>>, source: &Source) -> Result<Duration, ConfigError> {
    let Some(seconds) = seconds else { return Ok(Duration::from_secs(45)) };
    if *seconds.get_ref() > LONGEST_APPROVAL_WAIT {
        let message = format!("wait_seconds is at most {LONGEST_APPROVAL_WAIT}: MCP clients give up after 60");
        return Err(source.complain(&seconds, message));
    }
    Ok(Duration::from_secs(seconds.into_inner()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, flags: Overrides, env: &[(&str, &str)]) -> Result<Config, String> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(dir.path().join("countersign.toml"), text).expect("writable");
        let flags = Overrides { home: Some(dir.path().to_owned()), ..flags };
        let env = |name: &str| env.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        Config::load_with(&flags, &env).map_err(|e| e.to_string().replace(&format!("{}/", dir.path().display()), ""))
    }

    #[test]
    fn an_empty_file_means_the_documented_defaults() {
        let config = load("", Overrides::default(), &[]).expect("defaults are valid");
        assert_eq!(config.url(), "http://127.0.0.1:8000");
        assert_eq!(config.log_domain, "localhost");
        assert!(config.development_issuer);
        assert!(config.data_dir.ends_with("data") && config.head_file.ends_with("state/head"));
        assert_eq!(config.approval_wait, Duration::from_secs(45));
        assert_eq!(config.limits.body_bytes, 1_048_576);
        assert_eq!(config.decisions_kept, Duration::from_secs(30 * 86_400));
    }

    #[test]
    fn mistakes_name_file_line_and_remedy() {
        let idp = |line: &str| format!("[[issuers]]\nissuer = \"https://idp\"\njwks_file = \"jwks.json\"\n{line}\n");
        let signer = countersign_proof::note::NoteSigner::from_seed("w.example", [1; 32]).expect("a name");
        let (log, cosigner) = (signer.verifier_key().to_string(), signer.cosignature_key().to_string());
        let witness =
            |url: &str, key: &str, line: &str| format!("[[witnesses]]\nurl = \"{url}\"\nvkey = \"{key}\"\n{line}");
        let s3 = |line: &str| {
            format!("[trust]\nenabled = true\n[trust.s3]\nbucket = \"kept\"\nregion = \"eu-central-1\"\n{line}\n")
        };
        let tls = |line: &str| format!("[tls]\ncertificate = \"c.pem\"\nkey = \"k.pem\"\n{line}\n");
        let mail = |line: &str| {
            format!("[trust]\nenabled = true\n[trust.mail]\nhost = \"h.example\"\nfrom = \"a@b.example\"\n{line}\n")
        };
        let team = |line: &str| format!("[trust]\nenabled = true\n[[trust.teams]]\nname = \"ops\"\n{line}\n");
        let cases: &[(&str, &str)] = &[
            (&mail("tls = \"none\""), "countersign.toml:6: mail is sent without TLS to this machine alone"),
            (&mail("tls = \"maybe\""), "countersign.toml:6: tls is \"starttls\", \"implicit\" or \"none\""),
            (&mail("port = 0"), "countersign.toml:6: port 0 is nobody's"),
            (&mail("password = \"x\""), "countersign.toml:6: unknown field `password`"),
            (&mail("username = \"x\""), "countersign.toml:4: username and password_file go together"),
            (&mail("networks = [\"10.0.0.0/40\"]"), "countersign.toml:6: \"10.0.0.0/40\" is not a network"),
            (&mail("").replace("h.example", "smtp://h"), "countersign.toml:4: \"smtp://h\" is neither"),
            (&mail("").replace("a@b", "A <a@b"), "countersign.toml:5: \"A <a@b.example\" is not a plain mail address"),
            (&team(""), "countersign.toml:4: a team has a webhook, mail addresses, or both"),
            (&team("mail = []"), "countersign.toml:4: a team has a webhook, mail addresses, or both"),
            (&team("mail = [\"a@b.example\"]"), "countersign.toml:5: mail needs a server"),
            (&team("style = \"slack\""), "countersign.toml:4: style and secret_file are about a webhook"),
            (&mail("[[trust.teams]]\nname = \"x\"\nmail = [\"ops\"]"), "countersign.toml:8: \"ops\" is not a plain"),
            (
                &mail("[[trust.teams]]\nname = \"x\"\nmail = [\"a@b.c\", \"a@b.c\"]"),
                "countersign.toml:8: a@b.c is there twice",
            ),
            ("listen = \"127.0.0.1:8000\"\nlisten_on = 1\n", "countersign.toml:2: unknown field `listen_on`"),
            ("\nlisten = \"localhost\"\n", "countersign.toml:2: \"localhost\" is not an address and port"),
            ("trusted_proxies = [\"10.0.0.0/40\"]\n", "countersign.toml:1: \"10.0.0.0/40\" is not a network"),
            (
                "forwarded_header = \"x-real-ip\"\n",
                "countersign.toml:1: forwarded_header is x-forwarded-for or forwarded",
            ),
            ("required_scopes = [\"a b\"]\n", "countersign.toml:1: \"a b\" is not a scope"),
            (&tls("client_auth = \"maybe\""), "countersign.toml:4: client_auth is none, optional or required"),
            (&tls("client_auth = \"required\""), "countersign.toml:4: client_ca must name the authorities"),
            (&tls("clients = [{ uri = \"*\" }]"), "a name that fits anything is no name"),
            (&tls("clients = [{ uri = \"a:*b\" }]"), "a name that fits anything is no name"),
            (&tls("clients = [{ uri = \"a:*\", principal = \"x\" }]"), "several certificates would be one principal"),
            (&tls("clients = [{ dns = \"x\", kind = \"person\" }]"), "a certificate is no person"),
            (&tls("clients = [{ dns = \"x\", workspace = \"_node\" }]"), "_node is the node's own"),
            (&tls("clients = [{ principal = \"x\" }]"), "give one of uri and dns"),
            ("[witness_for]\nlogs = []\n", "countersign.toml:2: give 1 to 256 keys of logs"),
            ("[witness_for]\nlogs = [\"x\"]\n", "countersign.toml:2: malformed verifier key"),
            (&format!("[witness_for]\nlogs = [\"{cosigner}\"]\n"), "countersign.toml:2: this is a witness's key"),
            (&witness("http://w.example", &log, ""), "countersign.toml:3: this is a log's key"),
            (&witness("w.example", &cosigner, ""), "countersign.toml:2: \"w.example\" is not an http or https URL"),
            (&witness("http://w.example/?a", &cosigner, ""), "is not an http or https URL without a query"),
            (
                &witness("http://w.example", &cosigner, &witness("http://v.example", &cosigner, "")),
                "countersign.toml:6: this witness is configured twice",
            ),
            ("workspaces = \"all\"\n", "countersign.toml:1: workspaces is \"open\" or \"registered\""),
            ("log_domain = \"https://x\"\n", "countersign.toml:1: log_domain \"https://x\" is not a bare hostname"),
            ("[limits]\nper_tool = { calls = 0, per = \"1m\" }\n", "countersign.toml:2: calls must be at least 1"),
            ("[limits]\nper_tool = { calls = 1, per = \"1x\" }\n", "countersign.toml:2: \"1x\" is not a duration"),
            (
                "[[limits.budgets]]\nname = \"a\"\nper = \"week\"\n",
                "countersign.toml:3: per must be hour, day or month",
            ),
            (
                "[[limits.budgets]]\nname = \"a\"\nper = \"day\"\n",
                "countersign.toml:2: a budget counts calls, cost or both",
            ),
            (
                "[trust]\nenabled = true\n[trust.timestamping]\nurl = \"tsa\"\nchain = \"c.pem\"\n",
                "countersign.toml:4: write an http or https URL",
            ),
            (
                "[trust]\nenabled = true\n[trust.timestamping]\nurl = \"https://t\"\nchain = \"c\"\ntimeout = \"1m\"\n",
                "countersign.toml:6: write a time from 100ms to 10s",
            ),
            (
                "[trust]\nenabled = true\n[trust.forward]\nurl = \"https://r\"\ntrusted_root = \"r\"\nwhat = []\n",
                "countersign.toml:6: write entries, checkpoints, or both",
            ),
            (
                "[trust]\nenabled = true\n[[trust.logs]]\nname = \"own\"\nurl = \"https://r\"\ntrusted_root = \"r\"\n",
                "countersign.toml:4: a log's name is 1 to 64",
            ),
            ("[policy]\nreplay_days = 9999\n", "countersign.toml:2: replay_days is at most"),
            ("[approval]\nwait_seconds = 90\n", "countersign.toml:2: wait_seconds is at most 50"),
            (
                "[[issuers]]\nissuer = \"https://idp\"\n",
                "countersign.toml:2: give one of jwks_file, jwks_url and discovery",
            ),
            ("a = \"\n", "countersign.toml:1: "),
            (&idp("algorithms = [\"HS256\"]"), "countersign.toml:4: \"HS256\" is not an accepted algorithm"),
            (&idp("algorithms = [\"none\"]"), "\"none\" is not an accepted algorithm"),
            (&idp("token_types = [\"any\"]"), "countersign.toml:4: \"any\" is not a token type"),
            (&idp("workspaces = [\"A b\"]"), "countersign.toml:4: workspace name \"A b\" is not valid"),
            (&idp("fixed_workspace = \"_node\""), "countersign.toml:4: _node is the node's own"),
            (&idp("node_roles = [\"treasurer\"]"), "countersign.toml:4: \"treasurer\" is not a role of the node"),
            (&idp("kind_map = { x = \"node\" }"), "countersign.toml:4: \"node\" is not a kind"),
            (&idp("key_ttl = \"2d\""), "countersign.toml:4: at most 24h"),
            (&idp("audience = []"), "audience must name at least one"),
            (&idp("discovery = true"), "give one of jwks_file, jwks_url and discovery"),
            (&idp("[[issuers]]\nissuer = \"https://idp\"\ndiscovery = true"), "this issuer is configured twice"),
            ("[development]\nissuer = false\n", "nobody could authenticate"),
            (
                "[trust]\nenabled = true\nobjects = \"here\"\n[trust.s3]\nbucket = \"kept\"\nregion = \"x\"\n",
                "countersign.toml:3: artifacts are kept in a directory (objects) or in a bucket ([trust.s3]), not in both",
            ),
            (&s3("retention = \"1h\""), "countersign.toml:6: retention is from 1d to 36500d"),
            (&s3("mode = \"strict\""), "countersign.toml:6: mode is \"compliance\" or \"governance\""),
            (&s3("encryption = \"aes\""), "countersign.toml:6: encryption is \"AES256\" or \"aws:kms\""),
            (&s3("kms_key = \"k\""), "countersign.toml:4: kms_key needs encryption"),
            (&s3("timeout = \"5m\""), "countersign.toml:6: timeout is from 100ms to 60s"),
            (&s3("endpoint = \"http://minio.example\""), "countersign.toml:4: endpoint must be https"),
            (&s3("prefix = \"../x\""), "countersign.toml:4: prefix"),
            (&s3("networks = [\"x\"]"), "countersign.toml:6: \"x\" is not a network"),
            (&s3("acl = \"private\""), "countersign.toml:6: unknown field `acl`"),
            ("listen = \"0.0.0.0:80\"\n", "nobody could authenticate"),
        ];
        for (text, expected) in cases {
            let error = load(text, Overrides::default(), &[]).expect_err(text);
            assert!(error.contains(*expected), "{text:?} gave {error:?}, expected {expected:?}");
        }
    }

    #[test]
    fn a_bucket_takes_the_place_of_the_directory() {
        let text = "[trust]\nenabled = true\n[trust.s3]\nbucket = \"kept\"\nregion = \"eu-central-1\"\nprefix = \"node-1/\"\n\
            retention = \"2190d\"\nmode = \"governance\"\nencryption = \"aws:kms\"\nkms_key = \"alias/kept\"\n\
            endpoint = \"https://minio.example:9000\"\nnetworks = [\"10.0.0.0/8\"]\nsecret_access_key_file = \"secret\"\n";
        let config = load(text, Overrides::default(), &[]).expect("valid");
        let ObjectSettings::S3(s3) = config.trust.expect("on").objects else { panic!("a bucket") };
        let day = Duration::from_secs(86_400);
        assert_eq!(s3.store.retention, Some((countersign_ledger::objects::RetentionMode::Governance, 2190 * day)));
        assert_eq!((s3.store.prefix.as_str(), s3.networks.len()), ("node-1", 1));
        let sources = format!("{:?}", s3.credentials);
        assert!(sources.contains("AWS_ACCESS_KEY_ID") && sources.contains("/secret"), "{sources}");
        let plain = load("[trust]\nenabled = true\n", Overrides::default(), &[]).expect("valid");
        assert!(
            matches!(plain.trust.expect("on").objects, ObjectSettings::Directory(path) if path.ends_with("data/objects"))
        );
    }

    #[test]
    fn off_loopback_needs_a_log_domain_and_refuses_the_development_issuer() {
        let idp = "[[issuers]]\nissuer = \"https://idp\"\njwks_file = \"jwks.json\"\n";
        let open = format!("listen = \"0.0.0.0:80\"\n{idp}");
        assert!(load(&open, Overrides::default(), &[]).expect_err("no log domain").contains("log_domain is required"));
        let named = format!("log_domain = \"log.example.org\"\n{open}");
        let config = load(&named, Overrides::default(), &[]).expect("complete");
        assert!(!config.development_issuer);
        let asked = Overrides { development_issuer: Some(true), ..Overrides::default() };
        assert!(load(&named, asked, &[]).expect_err("refused").contains("refused off loopback"));
    }

    #[test]
    fn flags_win_over_the_environment_and_the_environment_over_the_file() {
        let text = "listen = \"127.0.0.1:1\"\nlog_domain = \"file.example\"\n";
        let env = [("COUNTERSIGN_LISTEN", "127.0.0.1:2"), ("COUNTERSIGN_LOG_DOMAIN", "env.example")];
        let flags = Overrides { log_domain: Some("flag.example".into()), ..Overrides::default() };
        let config = load(text, flags, &env).expect("valid");
        assert_eq!((config.listen.port(), config.log_domain.as_str()), (2, "flag.example"));
        let none =
            load("[policy]\nreplay_days = 5\n", Overrides::default(), &[("COUNTERSIGN_POLICY_REPLAY_DAYS", "0")]);
        assert!(none.expect("valid").decisions_kept.is_zero());
        let bad = load(text, Overrides::default(), &[("COUNTERSIGN_LISTEN", "x")]).expect_err("not an address");
        assert!(bad.starts_with("COUNTERSIGN_LISTEN: "), "{bad}");
    }

    #[test]
    fn durations_have_a_unit() {
        for (text, millis) in
            [("500ms", 500), ("30s", 30_000), ("15m", 900_000), ("12h", 43_200_000), ("1d", 86_400_000)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)));
        }
        for text in ["", "5", "s", "-1s", "1 s", "99999999999999999999d", "18446744073709551615d"] {
            assert!(parse_duration(text).is_err(), "{text:?}");
        }
    }
}
