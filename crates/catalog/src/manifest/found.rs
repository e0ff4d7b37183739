//! `type: user` without endpoints: what an operator says of an authorization server that the node finds by itself, and whose
//! account the node's own requests may carry. (MCP, Authorization; RFC 9728, RFC 8414.)

use countersign_domain::WorkspaceName;
use schemars::JsonSchema;

use super::credential::{ClientAuth, SecretSource, endpoint};

/// Most issuers that a manifest names.
const MAX_ISSUERS: usize = 16;

/// An authorization server that the upstream names, and this node as its client.
#[derive(Debug, Clone, Default, PartialEq, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct FoundSettings {
    /// The issuers that are trusted, exactly as they call themselves; any that the upstream names, if there are none.
    #[schemars(default)]
    pub authorization_servers: Vec<String>,
    /// The id under which the node was registered by hand; needs exactly one of `authorization_servers`. Without it, the node
    /// names its own metadata document, or registers itself.
    #[schemars(default)]
    pub client_id: Option<String>,
    /// The secret that belongs to it, if there is one.
    #[schemars(default)]
    pub client_secret: Option<SecretSource>,
    /// How the client authenticates, if not as the authorization server's metadata say.
    #[schemars(default)]
    pub client_auth: Option<ClientAuth>,
    /// The scopes to ask for first, instead of those that the upstream names.
    #[schemars(default)]
    pub scopes: Option<Vec<String>>,
    /// The resource that the upstream has to say that it is, if not its URL or that URL's origin.
    #[schemars(default)]
    pub resource: Option<String>,
}

impl FoundSettings {
    /// What cannot be said with a type.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.authorization_servers.len() > MAX_ISSUERS {
            return Err(format!("at most {MAX_ISSUERS} `authorization_servers`"));
        }
        for issuer in &self.authorization_servers {
            let url = endpoint(issuer)?;
            if url.query().is_some() {
                return Err(format!("{issuer:?}: an issuer has no query (RFC 8414, section 2)"));
            }
        }
        match &self.client_id {
            Some(id) if id.is_empty() => return Err("`client_id` is empty".to_owned()),
            // A secret would go to whatever server the upstream names.
            Some(_) if self.authorization_servers.len() != 1 => {
                return Err(
                    "`client_id` is that of one server: name it as the only one of `authorization_servers`".to_owned()
                );
            }
            None if self.client_secret.is_some() || self.client_auth.is_some() => {
                return Err("`client_secret` and `client_auth` belong to a `client_id`".to_owned());
            }
            Some(_) | None => {}
        }
        self.resource.as_deref().map_or(Ok(()), |resource| endpoint(resource).map(drop))
    }
}

/// Whose connected account the node's own requests carry.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct AccountRef {
    /// The workspace in which it was connected.
    #[schemars(with = "String")]
    pub workspace: WorkspaceName,
    /// The issuer of the person's tokens for this node.
    pub issuer: String,
    /// The person: the subject of those tokens.
    pub person: String,
}

impl AccountRef {
    pub(super) fn new(workspace: Option<&str>, issuer: Option<String>, person: Option<String>) -> Result<Self, String> {
        let full = "`type: account` needs a `workspace`, an `issuer` and a `person`";
        let workspace = workspace.ok_or(full)?;
        let workspace = workspace.parse().map_err(|_| format!("{workspace:?} is not a workspace"))?;
        let (issuer, person) = (issuer.filter(|i| !i.is_empty()), person.filter(|p| !p.is_empty()));
        Ok(Self { workspace, issuer: issuer.ok_or(full)?, person: person.ok_or(full)? })
    }
}
