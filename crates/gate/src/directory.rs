//! Who the node knows beside its issuers: workspaces, granted roles, API keys. Read whole, kept in memory, changed through the
//! ledger; [`members`](crate::members) has what administrators do with it.
//!
//! A change counts at once on the node that makes it, and on the others as soon as they see the directory's number change, which
//! they look at several times a second.

mod admission;
mod network;

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use countersign_domain::principal::PrincipalRecord;
use countersign_domain::{Millis, Principal, PrincipalKind, WorkspaceName};
use countersign_ledger::directory::{Directory, DirectoryKind, DirectoryRow};
use countersign_proof::digest::Digest;
use serde::{Deserialize, Serialize};

pub use network::Network;

/// Who vouches for the principal of an API key.
pub const API_KEY_ISSUER: &str = "countersign-apikey";
/// What every API key starts with.
pub const API_KEY_PREFIX: &str = "csk_";
const ID_DIGITS: usize = 16;
const SECRET_DIGITS: usize = 64;
/// Keeps the digest of an API key apart from every other digest.
const HASH_TAG: &[u8] = b"countersign-api-key v1\0";

/// Whether a workspace has to be registered before anyone can act in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkspaceMode {
    /// A workspace exists as soon as a credential names it.
    Open,
    /// Only `default`, and those that an operator registered.
    Registered,
}

/// What is stored of a workspace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkspaceFacts {
    /// What people call it.
    #[serde(default)]
    pub title: String,
    /// When it was registered.
    pub created: Millis,
    /// When it was archived, if it was: nobody acts in it any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archived: Option<Millis>,
}

/// What is stored of a granted role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantFacts {
    /// The role.
    pub role: String,
    /// The subject's issuer.
    pub issuer: String,
    /// The subject.
    pub id: String,
    /// Who granted it.
    pub by: PrincipalRecord,
}

/// What is stored of an API key. The key itself is not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKeyFacts {
    /// The principal's name.
    pub principal: String,
    /// `agent` or `service`; never a person, who would have to be there.
    pub kind: PrincipalKind,
    /// Roles.
    pub roles: BTreeSet<String>,
    /// Scopes.
    pub scopes: BTreeSet<String>,
    /// When it stops working.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Millis>,
    /// From where alone it works; empty: from anywhere.
    #[serde(default)]
    pub networks: Vec<Network>,
    /// What people call it.
    #[serde(default)]
    pub note: String,
    /// Who made it.
    pub by: PrincipalRecord,
    /// When.
    pub created: Millis,
    /// SHA-256 over a tag and the secret: 256 random bits need no slower hash.
    pub hash: Digest,
}

/// An API key with its place.
#[derive(Debug, Clone)]
pub(crate) struct ApiKey {
    pub workspace: WorkspaceName,
    pub facts: ApiKeyFacts,
}

/// The directory as the gate asks it.
#[derive(Debug, Default)]
pub(crate) struct Known {
    pub version: u64,
    pub workspaces: HashMap<WorkspaceName, WorkspaceFacts>,
    grants: HashMap<WorkspaceName, HashMap<String, BTreeSet<String>>>,
    keys: HashMap<String, ApiKey>,
}

impl Known {
    pub fn of(directory: &Directory) -> Self {
        let mut known = Self { version: directory.version, ..Self::default() };
        for row in &directory.rows {
            if let Err(error) = known.take(row) {
                // A row that cannot be read grants nothing.
                tracing::error!(%error, kind = ?row.kind, workspace = %row.workspace, "a row of the directory is unreadable");
            }
        }
        known
    }

    fn take(&mut self, row: &DirectoryRow) -> Result<(), serde_json::Error> {
        match row.kind {
            DirectoryKind::Workspace => {
                self.workspaces.insert(row.workspace.clone(), serde_json::from_str(&row.body)?);
            }
            DirectoryKind::Role => {
                let grant: GrantFacts = serde_json::from_str(&row.body)?;
                let key = countersign_domain::principal::party_key(&grant.issuer, &grant.id);
                let of_workspace = self.grants.entry(row.workspace.clone()).or_default();
                of_workspace.entry(key).or_default().insert(grant.role);
            }
            DirectoryKind::ApiKey => {
                let facts = serde_json::from_str(&row.body)?;
                self.keys.insert(row.name.clone(), ApiKey { workspace: row.workspace.clone(), facts });
            }
            // Whoever signs reads it for itself.
            DirectoryKind::Authority | DirectoryKind::SigningKey => {}
        }
        Ok(())
    }

    /// The roles granted to this very party in its workspace. What is granted to a person is not its agent's.
    pub fn roles_of(&self, principal: &Principal) -> Option<&BTreeSet<String>> {
        self.grants.get(&principal.workspace)?.get(&principal.key())
    }

    /// Whether anyone may act in the workspace.
    pub fn admits(&self, workspace: &WorkspaceName, mode: WorkspaceMode) -> Result<(), &'static str> {
        match self.workspaces.get(workspace) {
            Some(facts) if facts.archived.is_some() => Err("the workspace is archived"),
            Some(_) => Ok(()),
            None if mode == WorkspaceMode::Open || *workspace == WorkspaceName::default_workspace() => Ok(()),
            None => Err("the workspace is not registered; an operator can, with `countersign workspace create`"),
        }
    }

    pub fn is_archived(&self, workspace: &WorkspaceName) -> bool {
        self.workspaces.get(workspace).is_some_and(|facts| facts.archived.is_some())
    }

    /// Where an API key belongs.
    pub fn workspace_of_key(&self, id: &str) -> Option<&WorkspaceName> {
        self.keys.get(id).map(|key| &key.workspace)
    }

    /// The principal of an API key: its id, and who it is.
    pub fn by_api_key(
        &self,
        key: &str,
        client: Option<IpAddr>,
        now: Millis,
    ) -> Result<(String, Principal), (&'static str, &'static str)> {
        let malformed = ("malformed", "this is not an API key");
        let (id, secret) = split(key).ok_or(malformed)?;
        let found = self.keys.get(id);
        // The same work whether there is such a key or not.
        let expected = found.map_or([0; 32], |key| key.facts.hash.0);
        let same = verify_slices_are_equal(&hash(secret).0, &expected).is_ok();
        let key = found.filter(|_| same).ok_or(("api-key", "there is no such API key, or it was revoked"))?;
        if key.facts.expires.is_some_and(|expires| now >= expires) {
            return Err(("expired", "the API key has expired; make a new one"));
        }
        let networks = &key.facts.networks;
        if !networks.is_empty() && !client.is_some_and(|client| networks.iter().any(|network| network.contains(client)))
        {
            return Err(("network", "the API key is not good from this address"));
        }
        Ok((id.to_owned(), principal(key)))
    }
}

fn principal(key: &ApiKey) -> Principal {
    Principal {
        kind: key.facts.kind,
        id: key.facts.principal.clone(),
        issuer: API_KEY_ISSUER.to_owned(),
        on_behalf_of: None,
        workspace: key.workspace.clone(),
        roles: key.facts.roles.clone(),
        scopes: key.facts.scopes.clone(),
        development: false,
        attributes: Default::default(),
    }
}

/// `csk_<id>_<secret>`, both in lower-case hexadecimal.
fn split(key: &str) -> Option<(&str, &str)> {
    let (id, secret) = key.strip_prefix(API_KEY_PREFIX)?.split_once('_')?;
    let hexadecimal = |text: &str, digits| {
        text.len() == digits && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    (hexadecimal(id, ID_DIGITS) && hexadecimal(secret, SECRET_DIGITS)).then_some((id, secret))
}

fn hash(secret: &str) -> Digest {
    Digest::of(&[HASH_TAG, secret.as_bytes()].concat())
}

/// A new API key: its id, the key as it is shown once, and what is stored of its secret.
pub(crate) fn new_api_key() -> (String, String, Digest) {
    let hexadecimal = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let id = hexadecimal(&crate::entropy::<{ ID_DIGITS / 2 }>());
    let secret = hexadecimal(&crate::entropy::<{ SECRET_DIGITS / 2 }>());
    let hash = hash(&secret);
    (id.clone(), format!("{API_KEY_PREFIX}{id}_{secret}"), hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(change: impl FnOnce(&mut ApiKeyFacts)) -> (Known, String) {
        let (id, key, hash) = new_api_key();
        let mut facts = ApiKeyFacts {
            principal: "ci".into(),
            kind: PrincipalKind::Service,
            roles: BTreeSet::new(),
            scopes: BTreeSet::new(),
            expires: None,
            networks: Vec::new(),
            note: String::new(),
            by: Principal::node().record(),
            created: 0,
            hash,
        };
        change(&mut facts);
        let keys = HashMap::from([(id, ApiKey { workspace: WorkspaceName::default_workspace(), facts })]);
        (Known { keys, ..Known::default() }, key)
    }

    #[test]
    fn only_the_very_key_is_one() {
        let (directory, key) = known(|_| {});
        let cause = |key: &str| directory.by_api_key(key, None, 1).map_err(|(cause, _)| cause).map(|(_, who)| who.id);
        assert_eq!(cause(&key), Ok("ci".to_owned()));
        let (_, other) = known(|_| {});
        let mixed = format!("{}{}", &key[..21], &other[21..]);
        let mut flipped = key.clone();
        flipped.replace_range(84.., if key.ends_with('0') { "1" } else { "0" });
        for wrong in [other.as_str(), &mixed, &flipped] {
            assert_eq!(cause(wrong), Err("api-key"), "{wrong}");
        }
        for odd in
            ["", "csk_", "csk__", &key[..84], &format!("{key}0"), &key.to_uppercase(), &key.replace("csk_", "sk_")]
        {
            assert_eq!(cause(odd), Err("malformed"), "{odd}");
        }
    }

    #[test]
    fn a_key_ends_and_stays_at_home() {
        let (directory, key) = known(|facts| facts.expires = Some(100));
        assert!(directory.by_api_key(&key, None, 99).is_ok());
        assert_eq!(directory.by_api_key(&key, None, 100).expect_err("over").0, "expired");
        let (directory, key) = known(|facts| facts.networks = vec!["10.1.0.0/16".parse().expect("a network")]);
        let from = |address: Option<&str>| {
            directory
                .by_api_key(&key, address.map(|a| a.parse().expect("an address")), 1)
                .map_err(|(cause, _)| cause)
                .is_ok()
        };
        assert!(from(Some("10.1.2.3")) && from(Some("::ffff:10.1.2.3")));
        assert!(!from(Some("10.2.0.1")) && !from(Some("::1")) && !from(None), "not even when nobody knows from where");
    }
}
