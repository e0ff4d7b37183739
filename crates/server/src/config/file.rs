//! The configuration file as it is written; unknown keys are refused. Values that can be wrong keep their place.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;
use toml::Spanned;

use super::operations::{FileDrain, FileLog, FileTelemetry};

use super::issuers::FileIssuer;
use super::tls::FileTls;
use super::witness::{FileWitness, FileWitnessFor};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub listen: Option<Spanned<String>>,
    pub log_domain: Option<Spanned<String>>,
    pub public_url: Option<Spanned<String>>,
    #[serde(default)]
    pub allowed_hosts: Vec<String>,
    pub audience: Option<String>,
    pub workspaces: Option<Spanned<String>>,
    pub trusted_proxies: Option<Spanned<Vec<String>>>,
    pub forwarded_header: Option<Spanned<String>>,
    pub scopes_supported: Option<Spanned<Vec<String>>>,
    pub required_scopes: Option<Spanned<Vec<String>>>,
    pub tls: Option<FileTls>,
    pub manifests: Option<PathBuf>,
    pub policies: Option<PathBuf>,
    pub data_dir: Option<PathBuf>,
    pub head_file: Option<PathBuf>,
    pub database_url: Option<Spanned<String>>,
    pub keys_dir: Option<PathBuf>,
    pub join: Option<bool>,
    pub development: Option<FileDevelopment>,
    #[serde(default)]
    pub issuers: Vec<FileIssuer>,
    pub limits: Option<FileLimits>,
    pub approval: Option<FileApproval>,
    pub log: Option<FileLog>,
    pub telemetry: Option<FileTelemetry>,
    pub drain: Option<FileDrain>,
    pub scan: Option<FileScan>,
    pub policy: Option<FilePolicy>,
    pub trust: Option<FileTrust>,
    pub keys: Option<FileKeys>,
    #[serde(default)]
    pub witnesses: Vec<FileWitness>,
    pub witness_for: Option<FileWitnessFor>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileTrust {
    pub enabled: bool,
    pub artifact_types: Option<PathBuf>,
    pub objects: Option<Spanned<PathBuf>>,
    pub s3: Option<FileS3>,
    pub key_rotation: Option<Spanned<String>>,
    pub scenarios: Option<Spanned<bool>>,
    #[serde(default)]
    pub teams: Vec<FileTeam>,
    pub mail: Option<super::mail::FileMail>,
    #[serde(default)]
    pub packages: FilePackages,
    #[serde(default)]
    pub registries: Vec<FileRegistry>,
    pub clients: Option<FileClients>,
    pub authority_rotation: Option<Spanned<String>>,
    #[serde(default)]
    pub identities: BTreeMap<String, Spanned<String>>,
    #[serde(default)]
    pub expected: BTreeMap<String, Spanned<FileExpected>>,
    pub timestamping: Option<super::outside::FileTimestamping>,
    pub forward: Option<super::outside::FileForward>,
    #[serde(default)]
    pub logs: Vec<super::outside::FileReadLog>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileExpected {
    pub identity: String,
    pub issuer: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileClients {
    pub audiences: Option<Vec<String>>,
    pub timestamps_per_minute: Option<Spanned<u32>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileS3 {
    pub bucket: Spanned<String>,
    pub region: String,
    pub endpoint: Option<Spanned<String>>,
    #[serde(default)]
    pub prefix: String,
    pub retention: Option<Spanned<String>>,
    pub mode: Option<Spanned<String>>,
    pub encryption: Option<Spanned<String>>,
    pub kms_key: Option<String>,
    pub access_key_id_file: Option<PathBuf>,
    pub secret_access_key_file: Option<PathBuf>,
    pub session_token_file: Option<PathBuf>,
    pub timeout: Option<Spanned<String>>,
    pub networks: Option<Spanned<Vec<String>>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileRegistry {
    pub host: String,
    #[serde(default)]
    pub plain_http: bool,
    pub username: Option<String>,
    pub password_file: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileKeys {
    pub provider: Spanned<String>,
    #[serde(default)]
    pub wrap_root: bool,
    pub timeout: Option<Spanned<String>>,
    pub module: Option<PathBuf>,
    pub token: Option<String>,
    pub slot: Option<u64>,
    pub pin_file: Option<PathBuf>,
    pub pin_env: Option<String>,
    pub region: Option<String>,
    pub endpoint: Option<Spanned<String>>,
    pub root_key: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FilePackages {
    pub lists: Option<PathBuf>,
    #[serde(default)]
    pub sources: countersign_trust::package::source::Sources,
    pub trusted_root: Option<PathBuf>,
    pub npm_keys: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileTeam {
    pub name: Spanned<String>,
    pub webhook: Option<Spanned<String>>,
    #[serde(default)]
    pub mail: Vec<Spanned<String>>,
    #[serde(default)]
    pub style: Option<FileTeamStyle>,
    pub secret_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum FileTeamStyle {
    Webhook,
    Slack,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FilePolicy {
    pub replay_days: Option<Spanned<u32>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileScan {
    pub quarantine_at: Option<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileDevelopment {
    pub issuer: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileLimits {
    pub per_principal: Option<FileRate>,
    pub per_tool: Option<FileRate>,
    pub per_principal_and_tool: Option<FileRate>,
    pub per_workspace: Option<FileRate>,
    pub global: Option<FileRate>,
    pub redis: Option<FileRedis>,
    pub in_flight: Option<Spanned<usize>>,
    pub in_flight_per_workspace: Option<Spanned<usize>>,
    pub breakers: Option<FileBreakers>,
    #[serde(default)]
    pub budgets: Vec<FileBudget>,
    pub open_requests: Option<Spanned<usize>>,
    pub body_bytes: Option<Spanned<usize>>,
    pub depth: Option<Spanned<usize>>,
    pub connections: Option<Spanned<usize>>,
    pub header_timeout: Option<Spanned<String>>,
    pub body_timeout: Option<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileRate {
    pub calls: Spanned<u32>,
    pub per: Spanned<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileRedis {
    pub url: Option<Spanned<String>>,
    pub url_file: Option<PathBuf>,
    pub when_away: Option<Spanned<String>>,
    pub timeout: Option<Spanned<String>>,
}

impl std::fmt::Debug for FileRedis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The URL may hold a password.
        write!(f, "FileRedis({:?})", self.when_away)
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileBreakers {
    pub enabled: Option<bool>,
    pub consecutive: Option<Spanned<usize>>,
    pub failures: Option<Spanned<usize>>,
    pub of: Option<Spanned<usize>>,
    pub open_for: Option<Spanned<String>>,
    pub open_at_most: Option<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileBudget {
    pub name: Spanned<String>,
    pub per: Spanned<String>,
    pub calls: Option<Spanned<u64>>,
    pub cost: Option<Spanned<u64>>,
    pub workspace: Option<Spanned<String>>,
    pub principal: Option<String>,
    pub role: Option<String>,
    pub upstream: Option<Spanned<String>>,
    pub tool: Option<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileApproval {
    pub wait_seconds: Option<Spanned<u64>>,
}
