//! The configuration file as it is written; unknown keys are refused. Values that can be wrong keep their place.

use std::path::PathBuf;

use serde::Deserialize;
use toml::Spanned;

use super::operations::{FileDrain, FileLog, FileTelemetry};

use super::issuers::FileIssuer;
use super::tls::FileTls;

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
