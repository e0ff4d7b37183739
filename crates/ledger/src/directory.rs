//! Who is known to the node: workspaces, roles granted beyond what tokens say, API keys, its own authorities. Small, and read
//! whole.
//!
//! Rows change by [`StateOp::DirectoryAdd`](crate::state::StateOp::DirectoryAdd) and its siblings, in the transaction of the
//! event that explains the change; each change raises a number by which every node notices it. That event is also the row's version:
//! who writes what it worked out from a row says from which one, so that a change in between is not undone.

use countersign_domain::{Millis, WorkspaceName};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// What a row of the directory is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DirectoryKind {
    /// A registered workspace; its name is the workspace's.
    Workspace,
    /// A role granted to a principal; its name is the role, a line break, and the principal's key.
    Role,
    /// An API key; its name is the key's id.
    ApiKey,
    /// An authority that issues certificates for signatures; its name is the digest of its root certificate.
    Authority,
    /// A key with which a workspace's artifacts are signed; its name is the key's thumbprint (RFC 7638).
    SigningKey,
}

/// A row of the directory; kind, workspace and name tell it from others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryRow {
    /// What it is about.
    pub kind: DirectoryKind,
    /// The workspace that it belongs to.
    pub workspace: WorkspaceName,
    /// Its name within kind and workspace.
    pub name: String,
    /// What is known of it: a JSON object that whoever uses the row reads and writes. A secret in it is sealed.
    pub body: String,
    /// When it was last changed.
    pub at: Millis,
    /// The event that explains the last change; no two changes have the same.
    pub event: Uuid,
    /// When it was last used, to the minute or so.
    pub used: Option<Millis>,
}

/// Everything in the directory, with the number of its last change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Directory {
    /// Grows with each change, except of `used`.
    pub version: u64,
    /// All rows, by kind, workspace and name.
    pub rows: Vec<DirectoryRow>,
}
