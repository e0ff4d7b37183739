//! `[[issuers]]`: whose tokens are believed, and what they may say. What the keys mean stands in `docs/identity.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use countersign_domain::{PrincipalKind, WorkspaceName};
use countersign_gate::identity::claims::NODE_ROLES;
use countersign_gate::identity::{ClaimRules, KeyPolicy, TokenType, Workspaces, algorithm_named, default_algorithms};
use serde::Deserialize;
use toml::Spanned;

use super::{ConfigError, Source, parse_duration};

/// Where an issuer's keys come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JwksSource {
    /// A file.
    File(PathBuf),
    /// An HTTPS URL (plain HTTP on loopback).
    Url(String),
    /// The issuer's own metadata (OpenID Connect Discovery 1.0, RFC 8414).
    Discovery,
}

/// An issuer whose tokens are accepted.
#[derive(Debug, Clone)]
pub struct IssuerSettings {
    /// The exact `iss`.
    pub issuer: String,
    /// Where its keys come from.
    pub jwks: JwksSource,
    /// The `aud`s of which its tokens must carry one.
    pub audiences: BTreeSet<String>,
    /// JWA names of accepted algorithms.
    pub algorithms: Vec<jsonwebtoken::Algorithm>,
    /// What its tokens may call themselves.
    pub token_types: BTreeSet<TokenType>,
    /// Which claims carry what, and what the issuer may say.
    pub claims: ClaimRules,
    /// How long its keys are believed.
    pub key_policy: KeyPolicy,
}

/// One text or several.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(super) enum OneOrMore {
    One(String),
    More(Vec<String>),
}

impl OneOrMore {
    fn all(self) -> Vec<String> {
        match self {
            Self::One(text) => vec![text],
            Self::More(texts) => texts,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileIssuer {
    pub issuer: Spanned<String>,
    #[serde(default)]
    discovery: bool,
    jwks_file: Option<PathBuf>,
    jwks_url: Option<String>,
    audience: Option<OneOrMore>,
    algorithms: Option<Spanned<Vec<String>>>,
    token_types: Option<Spanned<Vec<String>>>,
    key_ttl: Option<Spanned<String>>,
    key_stale: Option<Spanned<String>>,
    key_grace: Option<Spanned<String>>,
    key_pause: Option<Spanned<String>>,
    subject_claim: Option<String>,
    tenant_claim: Option<String>,
    fixed_workspace: Option<Spanned<String>>,
    default_workspace: Option<Spanned<String>>,
    workspaces: Option<Spanned<Vec<String>>>,
    roles_claim: Option<OneOrMore>,
    role_prefix: Option<String>,
    #[serde(default)]
    role_map: BTreeMap<String, String>,
    #[serde(default)]
    add_roles: BTreeSet<String>,
    node_roles: Option<Spanned<BTreeSet<String>>>,
    scopes_claim: Option<OneOrMore>,
    kind_claim: Option<String>,
    kind_map: Option<Spanned<BTreeMap<String, String>>>,
    default_kind: Option<Spanned<String>>,
    #[serde(default)]
    attributes: BTreeMap<String, String>,
}

/// All issuers, checked.
pub(super) fn settings(
    issuers: Vec<FileIssuer>,
    source: &Source,
    base: &Path,
    audience: &str,
) -> Result<Vec<IssuerSettings>, ConfigError> {
    let mut names = BTreeSet::new();
    let mut all = Vec::with_capacity(issuers.len());
    for issuer in issuers {
        if !names.insert(issuer.issuer.get_ref().clone()) {
            return Err(source.complain(&issuer.issuer, "this issuer is configured twice".to_owned()));
        }
        all.push(one(issuer, source, base, audience)?);
    }
    Ok(all)
}

fn one(file: FileIssuer, source: &Source, base: &Path, audience: &str) -> Result<IssuerSettings, ConfigError> {
    let name = file.issuer.get_ref();
    if name == "countersign" || name.starts_with("countersign-") {
        return Err(source.complain(&file.issuer, format!("{name:?} is a name of the node's own")));
    }
    let jwks = match (&file.jwks_file, &file.jwks_url, file.discovery) {
        (Some(file), None, false) => JwksSource::File(base.join(file)),
        (None, Some(url), false) => JwksSource::Url(url.clone()),
        (None, None, true) => JwksSource::Discovery,
        _ => {
            let message = "give one of jwks_file, jwks_url and discovery = true".to_owned();
            return Err(source.complain(&file.issuer, message));
        }
    };
    let (issuer, key_policy) = (name.clone(), key_policy(&file, source)?);
    let audiences: BTreeSet<String> =
        file.audience.clone().map_or_else(|| vec![audience.to_owned()], OneOrMore::all).into_iter().collect();
    if audiences.is_empty() || audiences.contains("") {
        return Err(source.complain(&file.issuer, "audience must name at least one audience".to_owned()));
    }
    let algorithms = match &file.algorithms {
        None => default_algorithms(),
        Some(names) => {
            each(names, source, |name| {
                algorithm_named(name).ok_or_else(|| {
                format!("{name:?} is not an accepted algorithm; write ES256, ES384, EdDSA, RS256 … RS512 or PS256 … PS512")
            })
            })?
        }
    };
    let token_types = match &file.token_types {
        None => BTreeSet::from([TokenType::Access, TokenType::Plain]),
        Some(names) => each(names, source, |name| match name {
            "at+jwt" => Ok(TokenType::Access),
            "jwt" => Ok(TokenType::Plain),
            "id" => Ok(TokenType::Id),
            _ => Err(format!("{name:?} is not a token type; write at+jwt, jwt or id")),
        })?
        .into_iter()
        .collect(),
    };
    let claims = claim_rules(file, source)?;
    Ok(IssuerSettings { issuer, jwks, audiences, algorithms, token_types, claims, key_policy })
}

/// Reads each text of a list; the first that cannot be read is the complaint.
fn each<T>(
    list: &Spanned<Vec<String>>,
    source: &Source,
    read: impl Fn(&str) -> Result<T, String>,
) -> Result<Vec<T>, ConfigError> {
    let all: Result<Vec<T>, String> = list.get_ref().iter().map(|text| read(text)).collect();
    all.map_err(|message| source.complain(list, message))
}

fn key_policy(file: &FileIssuer, source: &Source) -> Result<KeyPolicy, ConfigError> {
    let usual = KeyPolicy::default();
    let time = |given: &Option<Spanned<String>>, usual, at_most_hours: u64| match given {
        None => Ok(usual),
        Some(text) => match parse_duration(text.get_ref()) {
            Ok(time) if time.as_secs() <= at_most_hours * 3600 => Ok(time),
            Ok(_) => Err(source.complain(text, format!("at most {at_most_hours}h"))),
            Err(message) => Err(source.complain(text, message)),
        },
    };
    Ok(KeyPolicy {
        ttl: time(&file.key_ttl, usual.ttl, 24)?,
        stale: time(&file.key_stale, usual.stale, 7 * 24)?,
        grace: time(&file.key_grace, usual.grace, 24)?,
        // Without a pause, any stranger's token would be a request to the issuer.
        pause: time(&file.key_pause, usual.pause, 1)?.max(std::time::Duration::from_secs(1)),
    })
}

fn claim_rules(file: FileIssuer, source: &Source) -> Result<ClaimRules, ConfigError> {
    let usual = ClaimRules::default();
    let workspace = |text: &Spanned<String>| match text.get_ref().parse::<WorkspaceName>() {
        Ok(name) if name != WorkspaceName::node() => Ok(name),
        Ok(_) => Err(source.complain(text, "_node is the node's own".to_owned())),
        Err(error) => Err(source.complain(text, error.to_string())),
    };
    let fixed_workspace = file.fixed_workspace.as_ref().map(workspace).transpose()?;
    let default_workspace = match &file.default_workspace {
        None => usual.default_workspace,
        Some(text) if text.get_ref().is_empty() => None,
        Some(text) => Some(workspace(text)?),
    };
    let workspaces = match &file.workspaces {
        Some(names) if names.get_ref().iter().any(|name| name == "*") => Workspaces::Any,
        Some(names) => Workspaces::Only(
            each(names, source, |name| name.parse::<WorkspaceName>().map_err(|error| error.to_string()))?
                .into_iter()
                .collect(),
        ),
        None => Workspaces::Only(fixed_workspace.iter().chain(&default_workspace).cloned().collect()),
    };
    let node_roles = match file.node_roles {
        None => BTreeSet::new(),
        Some(roles) => match roles.get_ref().iter().find(|role| !NODE_ROLES.contains(&role.as_str())) {
            Some(other) => {
                let message = format!("{other:?} is not a role of the node; these are {}", NODE_ROLES.join(" and "));
                return Err(source.complain(&roles, message));
            }
            None => roles.into_inner(),
        },
    };
    let kind_map = match file.kind_map {
        None => BTreeMap::new(),
        Some(map) => {
            let kinds = map.get_ref().iter().map(|(word, kind)| Ok((word.clone(), kind_named(kind)?)));
            kinds.collect::<Result<_, String>>().map_err(|message| source.complain(&map, message))?
        }
    };
    let default_kind = match &file.default_kind {
        None => usual.default_kind,
        Some(kind) => kind_named(kind.get_ref()).map_err(|message| source.complain(kind, message))?,
    };
    let list = |given: Option<OneOrMore>, usual| given.map_or(usual, OneOrMore::all);
    Ok(ClaimRules {
        subject: file.subject_claim.unwrap_or(usual.subject),
        workspace: file.tenant_claim.unwrap_or(usual.workspace),
        fixed_workspace,
        default_workspace,
        workspaces,
        roles: list(file.roles_claim, usual.roles),
        role_prefix: file.role_prefix.filter(|prefix| !prefix.is_empty()),
        role_map: file.role_map,
        add_roles: file.add_roles,
        node_roles,
        scopes: list(file.scopes_claim, usual.scopes),
        kind: file.kind_claim.unwrap_or(usual.kind),
        kind_map,
        default_kind,
        attributes: file.attributes,
    })
}

fn kind_named(name: &str) -> Result<PrincipalKind, String> {
    match name {
        "agent" => Ok(PrincipalKind::Agent),
        "person" => Ok(PrincipalKind::Person),
        "service" => Ok(PrincipalKind::Service),
        _ => Err(format!("{name:?} is not a kind; write agent, person or service")),
    }
}
