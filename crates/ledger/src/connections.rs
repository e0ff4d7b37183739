//! Accounts at the providers behind upstreams that people connected, and those about to be: one row for each person, upstream
//! and stage. What is secret in a row is sealed by the gate; a store sees none of it.
//!
//! Rows change by [`StateOp::ConnectionPut`](crate::state::StateOp::ConnectionPut) and
//! [`StateOp::ConnectionTake`](crate::state::StateOp::ConnectionTake), each against the version that was read: of two nodes that
//! renew or use up the same row, one does.

use countersign_domain::{Millis, UpstreamName, WorkspaceName};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::state::Fingerprint;

/// The most rows that are read at a time.
pub const MAX_CONNECTIONS: u32 = 10_000;

/// How far a person's connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConnectionStage {
    /// The person was sent to the provider. Its version is a digest of the `state` that has to come back.
    Started,
    /// The provider gave tokens; the person has yet to say that it was them. Its version is a fingerprint of the code to say.
    Consented,
    /// In use. Its version is random, and new with every change.
    Connected,
}

/// Tells one row from others.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionKey {
    /// The workspace in which the person acts.
    pub workspace: WorkspaceName,
    /// The upstream.
    pub upstream: UpstreamName,
    /// The person (see `Principal::person_key`).
    pub person: String,
    /// The stage.
    pub stage: ConnectionStage,
}

/// A connection at one stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionRow {
    /// Whose, where to, at which stage.
    pub key: ConnectionKey,
    /// What a change is checked against.
    pub version: Fingerprint,
    /// What is known of it: a JSON object that the gate reads and writes. It holds no secret.
    pub body: String,
    /// The secrets, sealed under the workspace's key.
    pub sealed: Vec<u8>,
    /// From when on it counts as gone, by the database's clock; rows of connections in use have none.
    pub expires: Option<Millis>,
    /// When it was last changed.
    pub at: Millis,
    /// The event that explains the last change, if there is one.
    pub event: Option<Uuid>,
}
