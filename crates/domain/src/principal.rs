//! Who acts, and on whose behalf.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::WorkspaceName;

/// What kind of party acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PrincipalKind {
    /// A program that decides for itself what to do next.
    Agent,
    /// A human being.
    Person,
    /// A program with a fixed job.
    Service,
    /// A partner's node.
    Peer,
    /// This node itself.
    Node,
}

impl PrincipalKind {
    /// The name used in events, tokens and policies.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Person => "person",
            Self::Service => "service",
            Self::Peer => "peer",
            Self::Node => "node",
        }
    }
}

/// An authenticated party with what its token, workspace and configuration say of it.
///
/// With a person behind an agent (RFC 8693 `act`), `id` is the agent and `on_behalf_of` the person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// What kind of party acts.
    pub kind: PrincipalKind,
    /// The subject within its issuer.
    pub id: String,
    /// Who vouches for the subject.
    pub issuer: String,
    /// The person on whose behalf the principal acts (same issuer).
    pub on_behalf_of: Option<String>,
    /// The workspace in which everything that it does is accounted.
    pub workspace: WorkspaceName,
    /// Roles by the token and the workspace.
    pub roles: BTreeSet<String>,
    /// OAuth scopes of the token.
    pub scopes: BTreeSet<String>,
    /// Whether a development issuer vouches, which anyone with a shell on the node could have used.
    pub development: bool,
    /// Further string claims that policies may read.
    pub attributes: BTreeMap<String, String>,
}

/// The part of a principal that an event records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrincipalRecord {
    /// What kind of party acts.
    pub kind: PrincipalKind,
    /// The subject within its issuer.
    pub id: String,
    /// Who vouches for the subject.
    pub issuer: String,
    /// The person on whose behalf the principal acts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_behalf_of: Option<String>,
    /// Whether a development issuer vouches.
    pub development: bool,
}

impl Principal {
    /// The node itself, for what it does without being asked.
    pub fn node() -> Self {
        Self {
            kind: PrincipalKind::Node,
            id: "node".into(),
            issuer: "countersign".into(),
            on_behalf_of: None,
            workspace: WorkspaceName::node(),
            roles: BTreeSet::new(),
            scopes: BTreeSet::new(),
            development: false,
            attributes: BTreeMap::new(),
        }
    }

    /// Tells principals apart across issuers; a separator that neither part can hold keeps it injective.
    pub fn key(&self) -> String {
        party_key(&self.issuer, &self.id)
    }

    /// Tells callers apart: one agent that acts for two people is two callers, so that neither gets what was agreed to for,
    /// or answered to, the other. A plain key starts with a digit, so the two forms never meet.
    pub fn caller_key(&self) -> String {
        let key = self.key();
        match &self.on_behalf_of {
            Some(person) => format!("for:{}:{key}{}", key.len(), party_key(&self.issuer, person)),
            None => key,
        }
    }

    /// Everyone who counts as the requester of this principal's calls: itself, and the person behind it.
    pub fn requester_keys(&self) -> Vec<String> {
        let person = self.on_behalf_of.as_ref().map(|p| party_key(&self.issuer, p));
        std::iter::once(self.key()).chain(person).collect()
    }

    /// The key of the person who can meet a `confirm` obligation: the person behind the agent, or the caller if a person.
    pub fn person_key(&self) -> Option<String> {
        match (&self.on_behalf_of, self.kind) {
            (Some(person), _) => Some(party_key(&self.issuer, person)),
            (None, PrincipalKind::Person) => Some(self.key()),
            (None, _) => None,
        }
    }

    /// What an event records of this principal.
    pub fn record(&self) -> PrincipalRecord {
        PrincipalRecord {
            kind: self.kind,
            id: self.id.clone(),
            issuer: self.issuer.clone(),
            on_behalf_of: self.on_behalf_of.clone(),
            development: self.development,
        }
    }
}

/// One string for an issuer's subject. The length prefix keeps it injective for any content.
pub fn party_key(issuer: &str, id: &str) -> String {
    format!("{}:{issuer}|{id}", issuer.len())
}

/// Issuer and subject of a [`party_key`]; nothing if it is none.
pub fn party_of(key: &str) -> Option<(&str, &str)> {
    let (length, rest) = key.split_once(':')?;
    let (issuer, id) = rest.split_at_checked(length.parse().ok()?)?;
    Some((issuer, id.strip_prefix('|')?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_party_is_read_back_from_its_key() {
        for (issuer, id) in
            [("https://idp.example", "ada"), ("", ""), ("1:|", "|2:"), ("https://idp.example/ü|x", "ada|for:bot")]
        {
            assert_eq!(party_of(&party_key(issuer, id)), Some((issuer, id)));
        }
        for wrong in ["", "ada", "3:ab|c", "99:ab|c", "-1:|c", "1:ü|c", "for:5:1:a|b2:c|d"] {
            assert_eq!(party_of(wrong), None, "{wrong}");
        }
    }
}
