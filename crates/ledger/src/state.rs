//! State that changes in the same transaction as the events that explain it.
//!
//! Every operation is a check and a change: if its precondition does not hold it yields a [`Conflict`] and its whole append
//! leaves nothing behind. That is how "consumed once" and "never twice" hold without locks outside the database, on one
//! node or on many. Times are compared with the database's clock, inside the transaction.

use countersign_domain::obligation::ObligationKind;
use countersign_domain::principal::PrincipalRecord;
use countersign_domain::{Effect, Millis, Obligations, ToolRef, UpstreamName, WorkspaceName};
use countersign_proof::digest::Digest;
use countersign_proof::witness::TreeHead;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::artifacts::ArtifactRow;
use crate::connections::{ConnectionKey, ConnectionRow};
use crate::directory::{DirectoryKind, DirectoryRow};
use crate::trust::TrustRow;
use crate::witness::{CosignatureRow, WitnessedRow};

/// A workspace HMAC over something that must be compared but not revealed.
pub type Fingerprint = [u8; 32];

/// How a pending request stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RequestStatus {
    /// Waits for people, or is fully approved and waits to be redeemed.
    Pending,
    /// Redeemed; the call was executed (or refused at execution).
    Redeemed,
    /// A person said no; identical calls are refused until the expiry.
    Denied,
    /// Nobody answered in time, or nobody redeemed it in time.
    Expired,
    /// Revoked by a freeze.
    Revoked,
    /// Withdrawn by its requester.
    Withdrawn,
}

/// A request for approval, as stored.
#[derive(Debug, Clone, PartialEq)]
pub struct RequestRow {
    /// The call's id, which is also the request's.
    pub id: Uuid,
    /// The workspace of the requester.
    pub workspace: WorkspaceName,
    /// The requester (see `Principal::caller_key`).
    pub requester: String,
    /// Everyone who counts as the requester and so may not approve.
    pub requester_keys: Vec<String>,
    /// The person whose `confirm` is owed, if a person stands behind the call.
    pub person_key: Option<String>,
    /// The requester as events record it.
    pub principal: PrincipalRecord,
    /// The tool.
    pub tool: ToolRef,
    /// Its effect by our manifest.
    pub effect: Effect,
    /// Its pin at the time of the request.
    pub pin: Digest,
    /// Identity of the call: principal, tool, pin and arguments.
    pub fingerprint: Fingerprint,
    /// The arguments, sealed under the workspace's key.
    pub arguments: Vec<u8>,
    /// What was owed when the call was requested.
    pub owed: Obligations,
    /// The policy set that said so.
    pub policy_version: String,
    /// How it stands. `Pending` past `expires` counts as expired whoever looks.
    pub status: RequestStatus,
    /// When it was made.
    pub created: Millis,
    /// When an unanswered request counts as denied.
    pub expires: Millis,
    /// The `call.pending` event.
    pub event: Uuid,
    /// The answers so far, oldest first.
    pub answers: Vec<AnswerRow>,
    /// The event that ended it (denial, outcome), once there is one.
    pub closed_by: Option<Uuid>,
    /// Whether the call executes as soon as nothing is owed (a manifest's opt-in).
    pub execute_on_approval: bool,
}

/// One person's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnswerRow {
    /// Who answered (see `Principal::key`).
    pub person: String,
    /// Who answered, as events record it.
    pub principal: PrincipalRecord,
    /// Which obligation it answers.
    pub kind: ObligationKind,
    /// Yes or no.
    pub granted: bool,
    /// When.
    pub at: Millis,
    /// The event that records it.
    pub event: Uuid,
    /// The person's own words.
    pub reason: Option<String>,
}

impl RequestRow {
    /// Whether everything owed has been given.
    pub fn is_met(&self) -> bool {
        let given = |kind| self.answers.iter().filter(|a| a.granted && a.kind == kind).count() as u64;
        (!self.owed.confirm || given(ObligationKind::Confirm) > 0)
            && given(ObligationKind::Approval) >= u64::from(self.owed.approvals)
    }
}

/// How the first use of an idempotency key stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IdempotencyState {
    /// Being executed by a live process.
    InFlight,
    /// Waits for people under the request of the same call id.
    Pending,
    /// Finished; the sealed answer can be replayed.
    Done,
    /// The process died after dispatch; a person has to look.
    Unknown,
}

/// A use of an idempotency key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyRow {
    /// HMAC over workspace, principal, tool and key.
    pub scope: Fingerprint,
    /// HMAC over the canonical arguments.
    pub fingerprint: Fingerprint,
    /// How it stands.
    pub state: IdempotencyState,
    /// The first call.
    pub call: Uuid,
    /// The sealed answer, once done.
    pub answer: Option<Vec<u8>>,
    /// When the row may be forgotten.
    pub expires: Millis,
}

/// How a write that was about to be dispatched stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IntentState {
    /// Dispatched, or about to be, by a live process.
    Open,
    /// Its outcome is not known.
    Unknown,
}

/// A write between intent and outcome. Rows of known outcome are removed.
#[derive(Debug, Clone, PartialEq)]
pub struct IntentRow {
    /// The call.
    pub call: Uuid,
    /// Its workspace.
    pub workspace: WorkspaceName,
    /// Who called.
    pub principal: PrincipalRecord,
    /// The tool.
    pub tool: ToolRef,
    /// Its pin.
    pub pin: Digest,
    /// Its effect.
    pub effect: Effect,
    /// Identity of the call; an identical write is refused while this one is unknown.
    pub fingerprint: Fingerprint,
    /// The `call.intent` event.
    pub event: Uuid,
    /// How it stands.
    pub state: IntentState,
    /// When the intent was recorded.
    pub at: Millis,
    /// The idempotency scope of the call, if it had a key.
    pub idempotency: Option<Fingerprint>,
}

/// What can be frozen.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "kind", content = "name", rename_all = "lowercase")]
pub enum FreezeTarget {
    /// A principal by its key or its plain id.
    Principal(String),
    /// One tool.
    Tool(ToolRef),
    /// A whole upstream.
    Upstream(UpstreamName),
    /// A whole workspace.
    Workspace(WorkspaceName),
}

/// A freeze in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FreezeRow {
    /// What is frozen.
    pub target: FreezeTarget,
    /// Why, in the operator's words.
    pub reason: String,
    /// Since when.
    pub at: Millis,
    /// The event that records it.
    pub event: Uuid,
}

/// How a tool definition stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PinStatus {
    /// Reviewed; calls go by this definition.
    Accepted,
    /// Seen at the upstream, not reviewed; waits beside the accepted one, if any.
    Proposed,
}

/// A tool definition that was seen, by upstream and tool: at most one accepted and one proposed each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinRow {
    /// The tool.
    pub tool: ToolRef,
    /// SHA-256 over the RFC 8785 bytes of the raw definition.
    pub pin: Digest,
    /// The raw definition as the upstream sent it, unknown members included.
    pub definition: String,
    /// How it stands.
    pub status: PinStatus,
    /// When it reached that status.
    pub at: Millis,
    /// Who accepted it, as `Principal::key`, or `manifest`.
    pub by: Option<String>,
}

/// Whose use of which budget.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BudgetKey {
    /// The budget's name with what it counts, such as `daily.cost`.
    pub budget: String,
    /// The workspace of the principal.
    pub workspace: WorkspaceName,
    /// Who spends (see `Principal::key`).
    pub principal: String,
}

/// What was used of a budget in one period.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BudgetRow {
    /// Whose, and which.
    pub key: BudgetKey,
    /// When the period began.
    pub start: Millis,
    /// When it ends.
    pub end: Millis,
    /// What was used, in the budget's own unit.
    pub used: u64,
}

/// What a call was decided upon, kept for a while so that it can be explained and decided again. Only what the event does
/// not say, and sealed: these are argument values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecisionRow {
    /// The call. Its id is a UUIDv7: ids sort by time, so that the oldest are found without an index of their own.
    pub call: Uuid,
    /// Sealed under the workspace's key.
    pub sealed: Vec<u8>,
}

/// The least UUIDv7 of a millisecond: ids made from then on are not less.
pub fn first_id_at(time: Millis) -> Uuid {
    let time = time.min((1 << 48) - 1).to_be_bytes();
    let mut bytes = [0; 16];
    bytes[..6].copy_from_slice(&time[2..]);
    Uuid::from_bytes(bytes)
}

/// How far a node's clock and the database's may be apart before budgets refuse to be spent by a period of the node's clock.
pub const CLOCK_SLACK: Millis = 60_000;

/// A check and a change. Checks use the state inside the transaction.
#[derive(Debug, Clone)]
pub enum StateOp {
    /// Opens a request. Conflicts: [`Conflict::RequestExists`] if one with the same fingerprint is pending, or denied and not
    /// past its expiry; [`Conflict::TooManyOpen`] if the requester has `cap` open ones.
    OpenRequest {
        /// The request; `answers` empty, `status` pending.
        row: Box<RequestRow>,
        /// The most open requests of one requester.
        cap: u32,
    },
    /// Records an answer. Conflicts: [`Conflict::NotFound`], [`Conflict::RequestState`] unless pending and not expired,
    /// [`Conflict::SelfApproval`] for an approval by a requester key, [`Conflict::AlreadyAnswered`]. A refusal makes the
    /// request denied and sets `closed_by`.
    Answer {
        /// The request.
        request: Uuid,
        /// The answer; `at` is overwritten with the database's time.
        answer: AnswerRow,
    },
    /// Consumes a met request. Conflicts: [`Conflict::NotFound`], [`Conflict::RequestState`] unless pending, unexpired and met.
    Redeem {
        /// The request.
        request: Uuid,
    },
    /// Marks an expired request as such. Conflicts: [`Conflict::RequestState`] unless pending and past its expiry.
    Expire {
        /// The request.
        request: Uuid,
        /// The `approval.expired` event.
        closed_by: Uuid,
    },
    /// Revokes one pending request (freeze). Conflicts: [`Conflict::RequestState`] unless pending.
    Revoke {
        /// The request.
        request: Uuid,
        /// The `approval.revoked` event.
        closed_by: Uuid,
    },
    /// Ends one pending request because its requester no longer wants it. Conflicts: [`Conflict::RequestState`] unless pending.
    Withdraw {
        /// The request.
        request: Uuid,
        /// The `approval.withdrawn` event.
        closed_by: Uuid,
    },
    /// Sets `closed_by` of a redeemed request to its outcome event.
    CloseRequest {
        /// The request.
        request: Uuid,
        /// The outcome's event.
        closed_by: Uuid,
    },
    /// Takes an idempotency key. Conflict: [`Conflict::IdempotencyExists`] with the row of the first use; expired rows are
    /// replaced (never those `InFlight` or `Unknown`).
    IdempotencyBegin {
        /// The new row; `state` is `InFlight` or `Pending`, `answer` is `None`.
        row: IdempotencyRow,
    },
    /// Moves a key to a state, with the sealed answer when done. A key that was forgotten meanwhile is no conflict: it must
    /// not stand in the way of an outcome.
    IdempotencySet {
        /// Which key.
        scope: Fingerprint,
        /// The new state.
        state: IdempotencyState,
        /// The sealed answer.
        answer: Option<Vec<u8>>,
    },
    /// Forgets a key whose call never reached the upstream.
    IdempotencyDrop {
        /// Which key.
        scope: Fingerprint,
    },
    /// Records that a write is about to be dispatched. Conflict: [`Conflict::OutcomeUnknown`] if an identical one is unknown.
    IntentOpen {
        /// The intent; `state` open.
        row: Box<IntentRow>,
    },
    /// The write's outcome is known: its intent goes. Conflict: [`Conflict::NotFound`].
    IntentClose {
        /// The call.
        call: Uuid,
    },
    /// The write's outcome is not known. Conflict: [`Conflict::NotFound`], also if somebody said so before: the event that
    /// says it is there once, however many nodes look. Its idempotency key becomes unknown too.
    IntentUnknown {
        /// The call.
        call: Uuid,
    },
    /// Uses some of a budget. Conflicts: [`Conflict::BudgetSpent`] if the period's use would pass the limit, also if the
    /// period is not the current one by the database's clock, with [`CLOCK_SLACK`] to spare.
    BudgetSpend {
        /// Whose, and which.
        key: BudgetKey,
        /// When the period began; tells one period from another.
        start: Millis,
        /// When it ends; the row may be forgotten some time after.
        end: Millis,
        /// How much, in the budget's own unit.
        amount: u64,
        /// How much the period has.
        limit: u64,
    },
    /// Gives back what a call used that certainly never reached its upstream. What is not there is no conflict.
    BudgetReturn {
        /// Whose, and which.
        key: BudgetKey,
        /// The period that it was spent in.
        start: Millis,
        /// How much.
        amount: u64,
    },
    /// Starts a pause. Conflict: [`Conflict::CoolingDown`] while an earlier one lasts.
    CooldownBegin {
        /// HMAC over what the pause is about.
        key: Fingerprint,
        /// How long it lasts, in ms.
        pause: u64,
    },
    /// Ends a pause whose call certainly never reached its upstream. What is not there is no conflict.
    CooldownDrop {
        /// HMAC over what the pause is about.
        key: Fingerprint,
    },
    /// Refuses the append if any of these is frozen. Conflict: [`Conflict::Frozen`].
    RequireNotFrozen {
        /// All that the call touches.
        targets: Vec<FreezeTarget>,
    },
    /// Freezes. Freezing twice replaces the reason.
    Freeze {
        /// What, why and since when.
        row: FreezeRow,
    },
    /// Lifts a freeze. Conflict: [`Conflict::NotFound`].
    Unfreeze {
        /// What.
        target: FreezeTarget,
    },
    /// Stores a definition as proposed, replacing an earlier proposal.
    PinPropose {
        /// The definition; `status` proposed.
        row: PinRow,
    },
    /// Makes a proposed (or given) definition the accepted one and drops the proposal. Conflict: [`Conflict::NotFound`] if
    /// neither the proposal nor the accepted row has this pin.
    PinAccept {
        /// The definition; `status` accepted.
        row: PinRow,
    },
    /// Drops a proposal (the upstream went back to the accepted definition).
    PinWithdraw {
        /// The tool.
        tool: ToolRef,
    },
    /// Erases body, salt and detail salt of an event, and what was kept of the call's decision; the commitment stays. Conflict: [`Conflict::NotFound`], also if it was
    /// erased before, and for `log.opened` and `event.erased` events, without which nobody could tell an erasure from a loss.
    Erase {
        /// The event.
        event: Uuid,
    },
    /// Keeps what a call was decided upon. A second one for the same call is ignored.
    KeepDecision {
        /// The row.
        row: DecisionRow,
    },
    /// Forgets decisions of calls made before a time, the oldest first.
    ForgetDecisions {
        /// Calls from then on stay.
        before: Millis,
        /// At most this many rows, so that nobody waits long for it.
        limit: u32,
    },
    /// Stores a workspace's wrapped key if it has none yet; a second one is ignored.
    WorkspaceKey {
        /// The workspace.
        workspace: WorkspaceName,
        /// The key, wrapped under the root.
        wrapped: Vec<u8>,
    },
    /// Adds a row to the directory. Conflicts: [`Conflict::Exists`], or [`Conflict::Full`] if it has `cap` rows of the kind.
    DirectoryAdd {
        /// The row.
        row: DirectoryRow,
        /// The most rows of its kind.
        cap: u32,
    },
    /// Replaces what is known of a row; `used` stays. Conflict: [`Conflict::NotFound`], also if `from` is given and another event
    /// explains the row by now: what was to be written says nothing of that change, and would undo it.
    DirectorySet {
        /// The row.
        row: DirectoryRow,
        /// The event of the row that it follows, as it was read; `None` takes the place of any.
        from: Option<Uuid>,
    },
    /// Removes a row. Conflict: [`Conflict::NotFound`].
    DirectoryRemove {
        /// What it is about.
        kind: DirectoryKind,
        /// Its workspace.
        workspace: WorkspaceName,
        /// Its name.
        name: String,
    },
    /// Notes that a row was used; one that is gone is no conflict. No change of the directory's number.
    DirectoryUsed {
        /// What it is about.
        kind: DirectoryKind,
        /// Its workspace.
        workspace: WorkspaceName,
        /// Its name.
        name: String,
        /// When.
        at: Millis,
    },
    /// Stores a connection in the place of the one with its key. Conflict: [`Conflict::NotFound`] if `from` is given and there
    /// is none of that version.
    ConnectionPut {
        /// The row.
        row: Box<ConnectionRow>,
        /// The version that it follows; `None` takes the place of any.
        from: Option<Fingerprint>,
    },
    /// Removes a connection, once. Conflict: [`Conflict::NotFound`] unless there is one of that version that has not expired.
    ConnectionTake {
        /// Which one.
        key: ConnectionKey,
        /// The version that was read.
        version: Fingerprint,
    },
    /// Records a signature or verification, to be found again. The id is new.
    TrustRecord {
        /// The row.
        row: Box<TrustRow>,
    },
    /// Adds a version of an artifact. Conflicts: those of [`ArtifactRow::follows`].
    ArtifactAdd {
        /// The row.
        row: Box<ArtifactRow>,
    },
    /// Notes that a version's object is under legal hold, or is no longer. Conflict: [`Conflict::NotFound`].
    ArtifactHold {
        /// The version's entry.
        entry: Uuid,
        /// Whether it is.
        held: bool,
    },
    /// Makes a checkpoint the latest one of another log that this node cosigned. Conflict: [`Conflict::Witnessed`], unless the
    /// latest one is the one that was decided upon.
    Witness {
        /// The row; `forked` counts only for a log that is new here.
        row: Box<WitnessedRow>,
        /// The latest one, as it was read; `None` if there was none.
        from: Option<TreeHead>,
    },
    /// Notes that the latest cosigned checkpoint of another log was contradicted. Conflicts: [`Conflict::NotFound`] if the latest one
    /// has another size, [`Conflict::Exists`] if that was noted before: the event that says it is there once.
    WitnessFork {
        /// The log.
        origin: String,
        /// Size of the latest one.
        size: u64,
    },
    /// Keeps a witness's cosignature in the place of an earlier one on the same checkpoint, and forgets what
    /// [`crate::witness`] says.
    Cosignature {
        /// The row.
        row: Box<CosignatureRow>,
    },
    /// Adds to a per-minute aggregate of refusals before authentication. Not an event; kept 30 days at most.
    CountRefusals {
        /// Minutes since the epoch.
        minute: u64,
        /// A refusal slug and a short cause, from closed sets of ours.
        counts: Vec<(String, u64)>,
    },
}

/// Why an append was not made. Nothing of it was stored.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Conflict {
    /// The idempotency key is taken.
    #[error("the idempotency key is taken")]
    IdempotencyExists(Box<IdempotencyRow>),
    /// An identical request is open, or denied and not past its expiry.
    #[error("an identical request exists")]
    RequestExists(Box<RequestRow>),
    /// The requester has too many open requests.
    #[error("{open} requests are open")]
    TooManyOpen {
        /// How many are open.
        open: u32,
    },
    /// The request is not in the state that the operation needs.
    #[error("the request is {:?}", .0.status)]
    RequestState(Box<RequestRow>),
    /// The person already answered.
    #[error("already answered")]
    AlreadyAnswered,
    /// The approver counts as the requester.
    #[error("the requester cannot approve")]
    SelfApproval,
    /// An identical write has an unknown outcome.
    #[error("an identical write ({call}) has an unknown outcome")]
    OutcomeUnknown {
        /// The earlier call.
        call: Uuid,
    },
    /// The budget's period has not enough left.
    #[error("the budget {} is used up until {until}", key.budget)]
    BudgetSpent {
        /// Whose, and which.
        key: BudgetKey,
        /// What was used already.
        used: u64,
        /// What the period has.
        limit: u64,
        /// When the period ends.
        until: Millis,
    },
    /// An earlier pause lasts.
    #[error("a pause lasts until {until}")]
    CoolingDown {
        /// Until when.
        until: Millis,
    },
    /// Something that the call touches is frozen.
    #[error("frozen")]
    Frozen(FreezeRow),
    /// Another checkpoint of the log was cosigned meanwhile.
    #[error("another checkpoint was cosigned meanwhile")]
    Witnessed,
    /// No such row.
    #[error("not found")]
    NotFound,
    /// A row of that name is there already.
    #[error("exists already")]
    Exists,
    /// The version before was put under legal hold, or taken off it, since somebody looked.
    #[error("the legal hold of the version before was changed meanwhile")]
    HoldChanged,
    /// There are as many rows as there may be.
    #[error("there are {cap} already")]
    Full {
        /// The most.
        cap: u32,
    },
}
