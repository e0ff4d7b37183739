//! What a policy says is owed before a call may be executed.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// The longest life of a pending request: a day.
pub const MAX_EXPIRY_SECONDS: u64 = 86_400;
/// The life of a pending request where no policy names one: fifteen minutes.
pub const DEFAULT_EXPIRY_SECONDS: u64 = 900;

/// Which answer a person gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ObligationKind {
    /// The person on whose behalf the agent acts agrees.
    Confirm,
    /// Another person of a role agrees.
    Approval,
}

/// What is owed: the strictest of everything that the matching policies state.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Obligations {
    /// The person behind the agent must agree.
    #[serde(default)]
    pub confirm: bool,
    /// How many other people must agree.
    #[serde(default)]
    pub approvals: u32,
    /// Every approver must hold one of these roles; empty means any person of the workspace.
    /// Several matching policies each add their set, see [`Obligations::accepts_roles`].
    #[serde(default)]
    pub approver_roles: Vec<BTreeSet<String>>,
    /// Seconds from the request until an unanswered request counts as denied.
    #[serde(default)]
    pub expires_seconds: u64,
    /// Why, in the policies' own words.
    #[serde(default)]
    pub reasons: Vec<String>,
    /// The approval policies that matched, as `file#id`.
    #[serde(default)]
    pub policies: Vec<String>,
}

impl Obligations {
    /// Whether nothing is owed.
    pub fn is_empty(&self) -> bool {
        !self.confirm && self.approvals == 0
    }

    /// Whether a person with these roles may give one of the owed approvals: one role out of each policy's set.
    pub fn accepts_roles(&self, roles: &BTreeSet<String>) -> bool {
        self.approver_roles.iter().all(|set| set.is_empty() || !set.is_disjoint(roles))
    }

    /// Whether meeting `self` also meets `other`: used when a call is authorised again at execution.
    pub fn covers(&self, other: &Obligations) -> bool {
        (self.confirm || !other.confirm)
            && self.approvals >= other.approvals
            && other.approver_roles.iter().all(|set| other.approvals == 0 || self.approver_roles.contains(set))
    }
}
