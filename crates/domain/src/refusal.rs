//! Why a call was not executed: one stable kind each, mapped to the wire in one place.

use serde::{Deserialize, Serialize};

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident = $slug:literal, $status:literal, $title:literal;)*) => {
        /// A stable kind of refusal. The slug is the last part of the RFC 9457 problem `type`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum RefusalKind { $($(#[$doc])* $variant,)* }

        impl RefusalKind {
            /// Every kind, for documentation and tests.
            pub const ALL: &'static [RefusalKind] = &[$(RefusalKind::$variant,)*];
            /// The stable machine name.
            pub fn slug(self) -> &'static str { match self { $(Self::$variant => $slug,)* } }
            /// The HTTP status that carries it.
            pub fn status(self) -> u16 { match self { $(Self::$variant => $status,)* } }
            /// A short title for people.
            pub fn title(self) -> &'static str { match self { $(Self::$variant => $title,)* } }
        }
    };
}

kinds! {
    /// The request is not JSON, or JSON that we refuse (duplicate keys, too deep, inexact numbers).
    MalformedRequest = "malformed-request", 400, "The request could not be read";
    /// A body, or a part of it, is over its bound.
    TooLarge = "too-large", 413, "The request is too large";
    /// No credential, or one that does not verify.
    Unauthenticated = "unauthenticated", 401, "Authentication failed";
    /// Authenticated, but not allowed to do this (administration, another's request).
    Forbidden = "forbidden", 403, "Not allowed";
    /// The resource exists, but not for this method.
    MethodNotAllowed = "method-not-allowed", 405, "Method not allowed";
    /// The request did not arrive in time.
    RequestTimeout = "request-timeout", 408, "The request took too long to arrive";
    /// No such tool, or none that this caller may see.
    UnknownTool = "unknown-tool", 404, "No such tool";
    /// The upstream lists no such resource or prompt, or none that this caller may use.
    UnlistedResource = "unlisted-resource", 404, "No such resource";
    /// No such event, request or other thing.
    NotFound = "not-found", 404, "Not found";
    /// A thing of that name is there already.
    AlreadyExists = "already-exists", 409, "Exists already";
    /// As many as there may be.
    TooMany = "too-many", 409, "Too many of these";
    /// The tool waits for a person's review (new, or its definition changed).
    Quarantined = "tool-quarantined", 409, "The tool is quarantined";
    /// The arguments do not fit the tool's input schema.
    InvalidArguments = "invalid-arguments", 422, "The arguments do not fit the tool's schema";
    /// Policy says no.
    PolicyDenied = "policy-denied", 403, "Denied by policy";
    /// The policies could not be evaluated: denied.
    PolicyError = "policy-error", 403, "Denied: a policy failed";
    /// Principal, tool, upstream or workspace is frozen.
    Frozen = "frozen", 403, "Frozen";
    /// A rate limit was reached.
    RateLimited = "rate-limited", 429, "Too many calls";
    /// A budget of the principal is used up for its period.
    BudgetExhausted = "budget-exhausted", 429, "The budget is used up";
    /// The same call was made a short while ago, and its tool wants a pause between.
    CoolingDown = "cooling-down", 429, "Too soon after the last such call";
    /// More calls are under way than the node, the workspace or the upstream takes.
    Overloaded = "overloaded", 503, "Too many calls are under way";
    /// The upstream or the tool failed again and again; it is left alone for a while.
    CircuitOpen = "circuit-open", 503, "The upstream is left alone after failures";
    /// The time that the caller gave was over before the call could be sent.
    DeadlineExceeded = "deadline-exceeded", 504, "The caller's deadline passed";
    /// Too many requests of this principal wait for approval.
    TooManyPending = "too-many-pending", 429, "Too many pending approvals";
    /// An obligation that nobody could meet (confirm without a person).
    ObligationUnmeetable = "obligation-unmeetable", 403, "Nobody can meet what is owed";
    /// A person said no; sticky until the request's expiry.
    ApprovalDenied = "approval-denied", 403, "A person denied this call";
    /// The request for approval expired unanswered.
    ApprovalExpired = "approval-expired", 410, "The approval expired";
    /// The action token is not one of ours, or already used.
    InvalidActionToken = "invalid-action-token", 403, "The action token is not valid";
    /// Confirmed arguments differ from the requested ones.
    ArgumentsChanged = "arguments-changed", 409, "The arguments differ from those agreed to";
    /// The tool's definition changed between the request and now.
    DefinitionChanged = "definition-changed", 409, "The tool's definition changed";
    /// The request was already redeemed.
    AlreadyRedeemed = "already-redeemed", 409, "Already executed";
    /// An approver answered twice, or answers a request that is no longer open.
    NotOpen = "not-open", 409, "The request is no longer open";
    /// The requester, or the person behind it, tried to approve.
    SelfApproval = "self-approval", 403, "The requester cannot approve";
    /// The Idempotency-Key was used with other arguments.
    IdempotencyMismatch = "idempotency-mismatch", 422, "The Idempotency-Key was used for another call";
    /// The first call with this Idempotency-Key is still running.
    IdempotencyInFlight = "idempotency-in-flight", 409, "The first call with this key is still running";
    /// An identical write ended without a known outcome; a person has to look first.
    OutcomeUnknown = "outcome-unknown", 409, "An identical call has an unknown outcome";
    /// No credential for the upstream was to be had; nothing was sent.
    CredentialUnavailable = "credential-unavailable", 502, "No credential for the upstream";
    /// The person behind the call has to connect an account first, or again; nothing was sent.
    ConnectionNeeded = "connection-needed", 403, "An account has to be connected first";
    /// The upstream failed before it could have acted.
    UpstreamUnavailable = "upstream-unavailable", 502, "The upstream is not available";
    /// The upstream answered something that is not the protocol.
    UpstreamProtocol = "upstream-protocol", 502, "The upstream broke the protocol";
    /// The upstream did not answer within the deadline.
    UpstreamTimeout = "upstream-timeout", 504, "The upstream did not answer in time";
    /// The caller cancelled the call after it was sent, or withdrew it while it waited for people.
    Cancelled = "cancelled", 499, "The caller cancelled the call";
    /// The ledger could not record: nothing may happen.
    LedgerUnavailable = "ledger-unavailable", 503, "The ledger cannot record";
    /// The node is shutting down or overloaded.
    Unavailable = "unavailable", 503, "Not available right now";
    /// Something that should not happen did; the log has the detail.
    Internal = "internal", 500, "Internal error";
}

impl Serialize for RefusalKind {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.slug())
    }
}

impl<'de> Deserialize<'de> for RefusalKind {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let slug = String::deserialize(d)?;
        let found = Self::ALL.iter().copied().find(|k| k.slug() == slug);
        found.ok_or_else(|| serde::de::Error::custom(format!("unknown refusal kind {slug:?}")))
    }
}

/// A refusal as it reaches the caller: what, why in words that say what to do, and what else is known.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{}: {detail}", kind.slug())]
pub struct Refusal {
    /// The stable kind.
    pub kind: RefusalKind,
    /// What happened and what to do, for the caller; never internals.
    pub detail: String,
    /// The event that records the refusal, where there is one; its receipt is proof of the "no".
    pub event: Option<uuid::Uuid>,
    /// Seconds after which trying again makes sense.
    pub retry_after: Option<u64>,
    /// Further machine-readable members of the problem document.
    pub extra: serde_json::Map<String, serde_json::Value>,
}

impl Refusal {
    /// A refusal with a message and nothing else yet.
    pub fn new(kind: RefusalKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), event: None, retry_after: None, extra: serde_json::Map::new() }
    }

    /// Adds a machine-readable member.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<serde_json::Value>) -> Self {
        self.extra.insert(key.to_owned(), value.into());
        self
    }

    /// Names the event that records the refusal.
    #[must_use]
    pub fn recorded_as(mut self, event: uuid::Uuid) -> Self {
        self.event = Some(event);
        self
    }
}
