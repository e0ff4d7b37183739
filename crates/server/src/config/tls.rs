//! `[tls]`: the listener's certificate, and whom client certificates name. What the keys mean stands in `docs/identity.md`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use countersign_domain::{PrincipalKind, WorkspaceName};
use serde::Deserialize;
use toml::Spanned;

use super::{ConfigError, Source};

/// Whether clients have to present a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuth {
    /// None is asked for.
    None,
    /// One is checked if it is presented.
    Optional,
    /// Nobody connects without one.
    Required,
}

/// The listener's TLS.
#[derive(Debug, Clone)]
pub struct TlsSettings {
    /// The certificate chain, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// Whether clients have to present a certificate.
    pub client_auth: ClientAuth,
    /// The authorities that certify clients, PEM.
    pub client_ca: Option<PathBuf>,
    /// Whom client certificates name; the first rule that fits counts.
    pub clients: Vec<ClientRule>,
}

/// A name in a certificate's `subjectAltName`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SubjectName {
    /// A URI, such as a SPIFFE id.
    Uri(String),
    /// A DNS name.
    Dns(String),
}

/// Whom a certificate names.
#[derive(Debug, Clone)]
pub struct ClientRule {
    /// The name, or its beginning followed by `*`.
    pub name: SubjectName,
    /// The principal; the name itself if not given.
    pub principal: Option<String>,
    /// `peer`, `service` or `agent`.
    pub kind: PrincipalKind,
    /// The workspace.
    pub workspace: WorkspaceName,
    /// Roles.
    pub roles: BTreeSet<String>,
    /// Scopes.
    pub scopes: BTreeSet<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileTls {
    certificate: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
    client_auth: Option<Spanned<String>>,
    #[serde(default)]
    clients: Vec<Spanned<FileClient>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileClient {
    uri: Option<String>,
    dns: Option<String>,
    principal: Option<String>,
    kind: Option<String>,
    workspace: Option<WorkspaceName>,
    #[serde(default)]
    roles: BTreeSet<String>,
    #[serde(default)]
    scopes: BTreeSet<String>,
}

/// The section, checked; files are read when the node starts.
pub(super) fn settings(file: FileTls, source: &Source, base: &Path) -> Result<TlsSettings, ConfigError> {
    let client_auth = match file.client_auth.as_ref().map(|text| (text, text.get_ref().as_str())) {
        None if file.client_ca.is_some() => ClientAuth::Optional,
        None | Some((_, "none")) => ClientAuth::None,
        Some((_, "optional")) => ClientAuth::Optional,
        Some((_, "required")) => ClientAuth::Required,
        Some((text, other)) => {
            return Err(source.complain(text, format!("client_auth is none, optional or required, not {other:?}")));
        }
    };
    if let (Some(text), None, true) = (&file.client_auth, &file.client_ca, client_auth != ClientAuth::None) {
        return Err(source.complain(text, "client_ca must name the authorities that certify clients".to_owned()));
    }
    let clients = file.clients.into_iter().map(|client| rule(client, source)).collect::<Result<_, _>>()?;
    Ok(TlsSettings {
        certificate: base.join(file.certificate),
        key: base.join(file.key),
        client_auth,
        client_ca: file.client_ca.map(|path| base.join(path)),
        clients,
    })
}

fn rule(client: Spanned<FileClient>, source: &Source) -> Result<ClientRule, ConfigError> {
    let complain = |message: &str| Err(source.complain(&client, message.to_owned()));
    let file = client.get_ref();
    let name = match (&file.uri, &file.dns) {
        (Some(uri), None) => SubjectName::Uri(uri.clone()),
        (None, Some(dns)) => SubjectName::Dns(dns.to_ascii_lowercase()),
        _ => return complain("give one of uri and dns"),
    };
    let (SubjectName::Uri(text) | SubjectName::Dns(text)) = &name;
    if text.trim_end_matches('*').is_empty() || text.trim_end_matches('*').contains('*') {
        return complain("a name that fits anything is no name; * stands at the end alone");
    }
    if file.principal.is_some() && text.ends_with('*') {
        return complain("several certificates would be one principal; leave principal out, or * away");
    }
    let kind = match file.kind.as_deref() {
        None | Some("service") => PrincipalKind::Service,
        Some("peer") => PrincipalKind::Peer,
        Some("agent") => PrincipalKind::Agent,
        Some(_) => return complain("kind is service, peer or agent: a certificate is no person"),
    };
    let workspace = file.workspace.clone().unwrap_or_else(WorkspaceName::default_workspace);
    if workspace == WorkspaceName::node() {
        return complain("_node is the node's own");
    }
    let (roles, scopes) = (file.roles.clone(), file.scopes.clone());
    Ok(ClientRule { principal: file.principal.clone(), name, kind, workspace, roles, scopes })
}
