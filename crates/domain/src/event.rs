//! Events: facts that the log commits to, one JSON object each.
//!
//! A draft knows everything but its place. The sequencer adds `seq` and `prev` under the writer's lock, so a draft is
//! prepared beforehand into canonical fragments between which those two members are spliced: the serial part of an append
//! is a copy and one SHA-256.

use countersign_proof::canonical::{CanonicalError, to_canonical};
use countersign_proof::digest::Digest;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::principal::PrincipalRecord;
use crate::{Effect, Millis, Principal, ToolRef, WorkspaceName};

/// The version of the event format.
pub const EVENT_VERSION: u64 = 1;

macro_rules! event_types {
    ($($(#[$doc:meta])* $variant:ident = $name:literal;)*) => {
        /// What kind of fact an event states.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum EventType { $($(#[$doc])* $variant,)* }
        impl EventType {
            /// Every type.
            pub const ALL: &'static [EventType] = &[$(EventType::$variant,)*];
            /// The name in the event's `type` member.
            pub fn as_str(self) -> &'static str { match self { $(Self::$variant => $name,)* } }
        }
    };
}

event_types! {
    /// The first leaf of a log (shard): its origin, why it was opened and its predecessor's last known checkpoint.
    LogOpened = "log.opened";
    /// A person accepted a tool's definition.
    ToolAccepted = "tool.accepted";
    /// A tool's definition is new or changed; it cannot be called until a person accepts it.
    ToolQuarantined = "tool.quarantined";
    /// A policy set came into force.
    PolicyLoaded = "policy.loaded";
    /// A policy set was refused; the old one stays in force.
    PolicyRejected = "policy.rejected";
    /// Somebody had kept decisions decided again by another policy set, which is not in force.
    PolicyReplayed = "policy.replayed";
    /// A call was refused before anything reached the upstream.
    CallDenied = "call.denied";
    /// A call waits for people.
    CallPending = "call.pending";
    /// A person met an obligation of a pending call.
    ApprovalGranted = "approval.granted";
    /// A person refused a pending call.
    ApprovalDenied = "approval.denied";
    /// A pending call expired unanswered.
    ApprovalExpired = "approval.expired";
    /// A pending call was revoked (freeze).
    ApprovalRevoked = "approval.revoked";
    /// A pending call was withdrawn by its requester.
    ApprovalWithdrawn = "approval.withdrawn";
    /// A write is about to be dispatched.
    CallIntent = "call.intent";
    /// A call ended with a known outcome.
    CallCompleted = "call.completed";
    /// A dispatched write ended without a known outcome.
    CallUnknown = "call.unknown";
    /// A person looked at an unknown outcome and settled it.
    CallResolved = "call.resolved";
    /// A recorded answer was handed out again for the same idempotency key.
    CallReplayed = "call.replayed";
    /// An upstream or tool failed so often that it is left alone for a while.
    BreakerOpened = "breaker.opened";
    /// An upstream or tool that was left alone answered again.
    BreakerClosed = "breaker.closed";
    /// An operator had a breaker closed.
    BreakerReset = "breaker.reset";
    /// Something was frozen.
    Frozen = "freeze.set";
    /// Something was unfrozen.
    Unfrozen = "freeze.lifted";
    /// An event's body and salt were erased.
    EventErased = "event.erased";
    /// A workspace was registered.
    WorkspaceCreated = "workspace.created";
    /// A workspace was archived: nobody acts in it any more.
    WorkspaceArchived = "workspace.archived";
    /// A role was granted to a principal of a workspace.
    RoleGranted = "role.granted";
    /// A granted role was taken back.
    RoleRevoked = "role.revoked";
    /// An API key was made.
    ApiKeyCreated = "apikey.created";
    /// An API key was revoked.
    ApiKeyRevoked = "apikey.revoked";
    /// A person connected an account at an upstream's provider.
    ConnectionMade = "connection.made";
    /// A person's connection came to be of no use: the provider does not renew it.
    ConnectionBroken = "connection.broken";
    /// A person took a connection back, or an operator dropped it.
    ConnectionRemoved = "connection.removed";
    /// An authority was made that issues certificates for signatures.
    AuthorityCreated = "authority.created";
    /// An authority was retired: another issues certificates now. With a time from which on nothing of it is believed, if it leaked.
    AuthorityRetired = "authority.retired";
    /// A key was made that signs a workspace's artifacts.
    KeyCreated = "key.created";
    /// A signing key was retired: it signs no more, and what it signed stays good.
    KeyRetired = "key.retired";
    /// A signing key was revoked: somebody else may have it.
    KeyRevoked = "key.revoked";
    /// The stored artifacts were held against what is known of them.
    ArtifactsScrubbed = "artifact.scrubbed";
    /// Another log was caught with two different trees of one size: a checkpoint that this node, its witness, did not cosign.
    WitnessFork = "witness.fork";
    /// An administrative action that has no type of its own.
    Administered = "node.administered";
}

/// An event as read back: known members typed, unknown ones kept.
pub type Event = Value;

/// Everything that an event says except its place in the workspace's sequence.
#[derive(Debug, Clone)]
pub struct EventDraft {
    /// The event's id, which is also its receipt's.
    pub id: Uuid,
    /// The workspace whose sequence it extends.
    pub workspace: WorkspaceName,
    /// What kind of fact.
    pub kind: EventType,
    /// When, by the node's clock.
    pub time: Millis,
    /// The other members, by name.
    pub members: Map<String, Value>,
}

/// How a call ended, as an event records it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// `ok`, `tool_error`, `upstream_error`, `unauthorised`, `timeout`, `cancelled`, `crashed`.
    pub status: String,
    /// Salted digest of the result, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_digest: Option<Digest>,
    /// From dispatch to answer.
    pub duration_ms: u64,
    /// A short machine-readable word on failures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl EventDraft {
    /// A draft without members.
    pub fn new(id: Uuid, workspace: WorkspaceName, kind: EventType, time: Millis) -> Self {
        Self { id, workspace, kind, time, members: Map::new() }
    }

    /// Adds a member; `null` is left out.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        let value = value.into();
        if !value.is_null() {
            self.members.insert(key.to_owned(), value);
        }
        self
    }

    /// Adds who acted.
    #[must_use]
    pub fn by(self, principal: &Principal) -> Self {
        self.by_record(&principal.record())
    }

    /// Adds who acted, from a record.
    #[must_use]
    pub fn by_record(self, record: &PrincipalRecord) -> Self {
        let mut value = Map::new();
        value.insert("kind".into(), record.kind.as_str().into());
        value.insert("id".into(), record.id.as_str().into());
        value.insert("issuer".into(), record.issuer.as_str().into());
        if let Some(person) = &record.on_behalf_of {
            value.insert("on_behalf_of".into(), person.as_str().into());
        }
        value.insert("development".into(), record.development.into());
        self.with("principal", value)
    }

    /// Adds the tool with its pin and effect.
    #[must_use]
    pub fn tool(self, tool: &ToolRef, pin: Option<&Digest>, effect: Effect) -> Self {
        let mut value = Map::new();
        value.insert("upstream".into(), tool.upstream.as_str().into());
        value.insert("name".into(), tool.tool.as_str().into());
        if let Some(pin) = pin {
            value.insert("pin".into(), pin.to_string().into());
        }
        value.insert("effect".into(), effect.as_str().into());
        self.with("tool", value)
    }

    /// Names the event that this one follows from (a request, an intent).
    #[must_use]
    pub fn parent(self, parent: Option<Uuid>) -> Self {
        self.with("parent", parent.map(|p| p.to_string()))
    }

    /// Canonicalises everything but `seq` and `prev`.
    ///
    /// # Errors
    /// If a member holds a number that RFC 8785 cannot carry.
    pub fn prepare(self) -> Result<PreparedEvent, CanonicalError> {
        let mut members = self.members;
        members.insert("v".into(), EVENT_VERSION.into());
        members.insert("type".into(), self.kind.as_str().into());
        members.insert("id".into(), self.id.to_string().into());
        members.insert("workspace".into(), self.workspace.as_str().into());
        members.insert("time".into(), self.time.into());
        let mut sorted: Vec<_> = members.iter().collect();
        // All member names of an event are ASCII, where UTF-16 order (RFC 8785, 3.2.3) is byte order.
        sorted.sort_by_key(|(key, _)| key.as_bytes());
        let mut fragments = [Vec::with_capacity(512), Vec::new(), Vec::new()];
        for (key, value) in sorted {
            let slot = usize::from(key.as_str() > "prev") + usize::from(key.as_str() > "seq");
            let out = &mut fragments[slot];
            out.extend_from_slice(&to_canonical(&Value::String(key.clone()))?);
            out.push(b':');
            out.extend_from_slice(&to_canonical(value)?);
            out.push(b',');
        }
        Ok(PreparedEvent { id: self.id, workspace: self.workspace, kind: self.kind, time: self.time, fragments })
    }
}

/// A draft in canonical fragments, ready to be given its place.
#[derive(Debug, Clone)]
pub struct PreparedEvent {
    /// The event's id.
    pub id: Uuid,
    /// The workspace whose sequence it extends.
    pub workspace: WorkspaceName,
    /// What kind of fact.
    pub kind: EventType,
    /// When, by the node's clock.
    pub time: Millis,
    fragments: [Vec<u8>; 3],
}

impl PreparedEvent {
    /// The RFC 8785 bytes of the event at this place. `prev` is the commitment of the workspace's previous event, absent
    /// for the first.
    pub fn seal(&self, seq: u64, prev: Option<&Digest>) -> Vec<u8> {
        let [head, middle, tail] = &self.fragments;
        let mut out = Vec::with_capacity(head.len() + middle.len() + tail.len() + 128);
        out.push(b'{');
        out.extend_from_slice(head);
        if let Some(prev) = prev {
            out.extend_from_slice(format!("\"prev\":\"{prev}\",").as_bytes());
        }
        out.extend_from_slice(middle);
        out.extend_from_slice(format!("\"seq\":{seq},").as_bytes());
        out.extend_from_slice(tail);
        // `v` and `workspace` always follow `seq`, so there is a trailing comma to replace.
        out.pop();
        out.push(b'}');
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_event_is_its_own_canonical_form() {
        let draft = EventDraft::new(Uuid::nil(), WorkspaceName::default_workspace(), EventType::CallDenied, 7)
            .with("reason", serde_json::json!({"kind": "policy-denied", "detail": "no \u{1f600}"}))
            .with("absent", Value::Null)
            .with("zeta", 1)
            .with("property", "between prev and seq");
        let prepared = draft.prepare().expect("no numbers that do not fit");
        for prev in [None, Some(Digest::of(b"x"))] {
            let sealed = prepared.seal(3, prev.as_ref());
            let value: Value = serde_json::from_slice(&sealed).expect("sealed events are JSON");
            assert_eq!(to_canonical(&value).expect("canonical"), sealed);
            assert_eq!(value["seq"], 3);
            assert_eq!(value.get("prev").is_some(), prev.is_some());
            assert!(value.get("absent").is_none());
        }
    }
}
