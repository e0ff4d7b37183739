//! What goes into the gate and what comes out: plain data for the surfaces.

use countersign_catalog::scan::{Finding, Rule};
use countersign_domain::principal::PrincipalRecord;
use countersign_domain::{Effect, Millis, ObligationKind, Obligations, Principal, ToolRef};
use countersign_ledger::state::{BudgetRow, RequestStatus};
use countersign_proof::digest::Digest;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use std::sync::Arc;
use uuid::Uuid;

use crate::upstream::Client;

/// A request to use one tool.
#[derive(Debug, Clone)]
pub struct CallRequest {
    /// The authenticated caller.
    pub principal: Arc<Principal>,
    /// The tool.
    pub tool: ToolRef,
    /// The arguments as they came: bytes of a JSON object, not yet parsed.
    pub arguments: Vec<u8>,
    /// The caller's `Idempotency-Key`, 1 to 255 visible ASCII characters.
    pub idempotency_key: Option<String>,
    /// For logs and events across systems.
    pub correlation: String,
    /// The way back to the caller while the call runs.
    pub client: Arc<dyn Client>,
    /// How long the caller wants to wait for the upstream. It shortens the tool's own time and never lengthens it.
    pub timeout: Option<std::time::Duration>,
}

/// How a call ended, or that it waits.
#[derive(Debug)]
pub enum CallOutcome {
    /// The upstream answered; the outcome is durable.
    Done(Answer),
    /// People have to agree first.
    Pending(PendingCall),
}

/// An executed call's answer.
#[derive(Debug)]
pub struct Answer {
    /// The call.
    pub call: Uuid,
    /// The outcome's event; its receipt proves the call.
    pub event: Uuid,
    /// The raw MCP `CallToolResult`.
    pub result: Box<RawValue>,
    /// Whether the tool reported an error.
    pub is_error: bool,
    /// Whether this is a recorded answer of an earlier call with the same key.
    pub replayed: bool,
}

/// A call that waits for people.
#[derive(Debug, Clone, Serialize)]
pub struct PendingCall {
    /// The request (also the call's id).
    pub request_id: Uuid,
    /// What `confirm` redeems; valid for the requester and these arguments only.
    pub action_token: String,
    /// When an unanswered request counts as denied, ms since the epoch.
    pub expires_at: Millis,
    /// What is owed.
    pub owed: Obligations,
    /// How many approvals have been given.
    pub given: u32,
    /// Whether `confirm`, if owed, has been given.
    pub confirmed: bool,
    /// The `call.pending` event.
    pub receipt: Uuid,
}

/// How the requester redeems a request.
#[derive(Debug, Clone)]
pub enum Redeem {
    /// By the action token, with the tool that it is presented for and the arguments, if repeated.
    Token {
        /// The tool in the request's path.
        tool: ToolRef,
        /// The action token.
        token: String,
        /// The repeated arguments; `None` if the caller sent none.
        arguments: Option<Vec<u8>>,
    },
    /// By the request's id (the caller is authenticated as the requester).
    Request(Uuid),
}

/// A tool as the caller may see it.
#[derive(Debug, Clone)]
pub struct VisibleTool {
    /// The tool.
    pub tool: ToolRef,
    /// Its name on `/mcp`.
    pub mcp_name: String,
    /// Its name on `/mcp/{upstream}`.
    pub own_name: String,
    /// Its effect by our manifest.
    pub effect: Effect,
    /// The accepted pin.
    pub pin: Digest,
    /// The accepted raw definition.
    pub definition: Arc<Value>,
}

/// A prompt, resource or resource template as the caller may see it.
#[derive(Debug, Clone)]
pub struct Offered {
    /// The operation under whose name it was reviewed.
    pub name: ToolRef,
    /// Its name on `/mcp`, for prompts.
    pub mcp_name: Option<String>,
    /// The accepted pin.
    pub pin: Digest,
    /// The accepted raw definition.
    pub definition: Arc<Value>,
}

/// A tool as the operator sees it.
#[derive(Debug, Clone, Serialize)]
pub struct ToolReport {
    /// `upstream:tool`.
    pub name: String,
    /// `tool`, `prompt`, `resource` or `template`.
    pub kind: &'static str,
    /// What its upstream speaks: `mcp`, or `other`.
    pub protocol: &'static str,
    /// Whether people connect accounts for its upstream.
    pub accounts: bool,
    /// JSON Schema of the arguments by the accepted definition.
    pub input_schema: Option<Value>,
    /// Its name on `/mcp`.
    pub mcp_name: Option<String>,
    /// Its effect by our manifest.
    pub effect: Effect,
    /// `accepted`, `new` (never reviewed) or `changed` (differs from the accepted one).
    pub status: &'static str,
    /// The accepted pin.
    pub accepted: Option<Digest>,
    /// The pin that waits for review.
    pub proposed: Option<Digest>,
    /// The accepted raw definition.
    pub definition: Option<Value>,
    /// The raw definition that waits for review.
    pub proposal: Option<Value>,
    /// What speaks against it besides its text (a name that looks like another, a schema that can't be used).
    pub findings: Vec<String>,
    /// What the scan found in the definition that waits for review, otherwise in the accepted one.
    pub scan: Vec<Finding>,
    /// The rules that have to be named to accept the definition that waits for review.
    pub despite: Vec<Rule>,
}

/// A request for approval as a person sees it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ApprovalView {
    /// The request.
    pub id: Uuid,
    /// How it stands.
    pub status: RequestStatus,
    /// `upstream:tool`.
    pub tool: String,
    /// Its effect by our manifest.
    pub effect: Effect,
    /// The pin of the definition that was agreed on.
    pub pin: Digest,
    /// Who asks.
    pub principal: PrincipalRecord,
    /// The exact arguments; `null` once they are no longer kept.
    pub arguments: Value,
    /// The arguments as text for a person: one line per member, control characters made visible.
    pub preview: String,
    /// What is owed.
    pub owed: Obligations,
    /// Who answered what.
    pub answers: Vec<AnswerView>,
    /// When it was asked.
    pub created_at: Millis,
    /// When it expires.
    pub expires_at: Millis,
    /// Which answers the viewer could give now.
    pub can_answer: Vec<ObligationKind>,
    /// Why the viewer cannot answer, if it cannot.
    pub cannot_answer: Option<String>,
    /// The `call.pending` event.
    pub receipt: Uuid,
    /// The event that ended it.
    pub closed_by: Option<Uuid>,
}

/// One answer as a person sees it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AnswerView {
    /// Who.
    pub principal: PrincipalRecord,
    /// Which obligation.
    pub kind: ObligationKind,
    /// Yes or no.
    pub granted: bool,
    /// When.
    pub at: Millis,
    /// Why, in the person's words.
    pub reason: Option<String>,
    /// Its event.
    pub receipt: Uuid,
}

/// What was used of a budget, for the operator.
#[derive(Debug, Clone, Serialize)]
pub struct BudgetReport {
    /// Whose, which, and how much.
    #[serde(flatten)]
    pub row: BudgetRow,
    /// What the period has; absent once the budget is no longer configured.
    pub limit: Option<u64>,
}

/// A write of unknown outcome, for the operator.
#[derive(Debug, Clone, Serialize)]
pub struct UnknownCall {
    /// The call.
    pub call: Uuid,
    /// `upstream:tool`.
    pub tool: String,
    /// Who called.
    pub principal: PrincipalRecord,
    /// Since when.
    pub at: Millis,
    /// The intent's event.
    pub intent: Uuid,
}

/// What a waiting requester learns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitOutcome {
    /// Everything owed is given: redeem now.
    Met,
    /// Denied, expired, revoked or redeemed: redeeming says how.
    Closed,
    /// The time ran out; still pending.
    StillPending,
}
