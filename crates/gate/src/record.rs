//! Events about calls: drafts with their salts, ready for the ledger.

use countersign_domain::principal::PrincipalRecord;
use countersign_domain::{
    Effect, EventDraft, EventType, Millis, Principal, Refusal, RefusalKind, ToolRef, WorkspaceName,
};
use countersign_ledger::Entry;
use countersign_proof::canonical::{Limits, parse_strict, to_canonical};
use countersign_proof::commitment::{Salt, salted_digest};
use countersign_proof::digest::Digest;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::entropy;
use crate::upstream::Remarks;

/// What every event of a call says of it. Filled in as the stages learn it.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    pub call: Uuid,
    pub workspace: WorkspaceName,
    pub principal: PrincipalRecord,
    pub tool: ToolRef,
    pub effect: Option<Effect>,
    pub pin: Option<Digest>,
    pub correlation: String,
    /// The policy's word: version, decision, determining policies.
    pub policy: Option<Value>,
    /// The arguments in RFC 8785 form, once they are known to be JSON.
    pub canonical_input: Option<std::sync::Arc<[u8]>>,
    /// Whether what the call is decided upon is to be kept.
    pub keep: bool,
    /// What it was decided upon, if that is to be kept.
    pub decided: Option<Decided>,
    /// What the capability that is called says of the call.
    pub remarks: Remarks,
}

/// Who was decided upon, and when. The rest of a decision's facts is in its event, or beside it here.
#[derive(Debug, Clone)]
pub(crate) struct Decided {
    pub principal: std::sync::Arc<Principal>,
    pub at: Millis,
}

impl Facts {
    pub fn new(call: Uuid, principal: &Principal, tool: &ToolRef, correlation: &str) -> Self {
        Self {
            call,
            workspace: principal.workspace.clone(),
            principal: principal.record(),
            tool: tool.clone(),
            effect: None,
            pin: None,
            correlation: correlation.to_owned(),
            policy: None,
            canonical_input: None,
            keep: false,
            decided: None,
            remarks: Remarks::default(),
        }
    }

    /// An event of this call.
    pub fn draft(&self, kind: EventType, now: Millis, parent: Option<Uuid>) -> EventDraft {
        let mut tool = Map::new();
        tool.insert("upstream".into(), self.tool.upstream.as_str().into());
        tool.insert("name".into(), self.tool.tool.as_str().into());
        if let Some(pin) = &self.pin {
            tool.insert("pin".into(), pin.to_string().into());
        }
        if let Some(effect) = self.effect {
            tool.insert("effect".into(), effect.as_str().into());
        }
        let draft = EventDraft::new(event_id(), self.workspace.clone(), kind, now)
            .by_record(&self.principal)
            .parent(parent)
            .with("call", self.call.to_string())
            .with("correlation_id", Some(self.correlation.as_str()).filter(|c| !c.is_empty()))
            .with("tool", tool)
            .with("policy", self.policy.clone().unwrap_or(Value::Null));
        remarked(draft, &self.remarks.members)
    }

    /// Gives the draft its salts and digests. The argument digest is salted apart from the event, so that a receipt alone
    /// confirms no guess.
    pub fn entry(
        &self,
        mut draft: EventDraft,
        output: Option<(&mut Map<String, Value>, &[u8])>,
    ) -> Result<Entry, Refusal> {
        let detail_salt = entropy::<32>();
        if let Some(input) = &self.canonical_input {
            draft = draft.with("input_digest", salted_digest("input", &detail_salt, input).to_string());
        }
        if let Some((outcome, bytes)) = output {
            let (member, digest) = output_digest(&detail_salt, bytes);
            outcome.insert(member.into(), digest.to_string().into());
            draft = draft.with("outcome", std::mem::take(outcome));
        }
        let mut entry = entry(draft, Some(self.call), Some(self.principal.id.clone()), Some(self.tool.to_string()))?;
        entry.detail_salt = Some(detail_salt);
        entry.subject.clone_from(&self.remarks.subject);
        Ok(entry)
    }
}

/// Adds what a capability says. What the gate says itself stands.
pub(crate) fn remarked(draft: EventDraft, members: &Map<String, Value>) -> EventDraft {
    members.iter().fold(
        draft,
        |draft, (name, value)| {
            if draft.members.contains_key(name) { draft } else { draft.with(name, value.clone()) }
        },
    )
}

/// Bounds within which a result is canonicalised.
const OUTPUT: Limits = Limits { max_bytes: 16 << 20, max_depth: 128 };

/// A result's salted digest: over its canonical form, so that it can be disclosed as a value; a result without one (numbers
/// beyond 2^53, duplicate keys) is digested as the bytes that were relayed.
fn output_digest(salt: &Salt, raw: &[u8]) -> (&'static str, Digest) {
    let canonical = parse_strict(raw, &OUTPUT).ok().and_then(|value| to_canonical(&value).ok());
    match canonical {
        Some(canonical) => ("output_digest", salted_digest("output", salt, &canonical)),
        None => ("output_raw_digest", salted_digest("output-raw", salt, raw)),
    }
}

/// An event of no call.
pub(crate) fn entry(
    draft: EventDraft,
    call: Option<Uuid>,
    principal: Option<String>,
    tool: Option<String>,
) -> Result<Entry, Refusal> {
    let event = draft.prepare().map_err(|e| {
        tracing::error!(error = %e, "an event has no canonical form");
        Refusal::new(RefusalKind::Internal, "the event could not be recorded")
    })?;
    Ok(Entry { event, salt: entropy::<32>(), detail_salt: None, call, principal, tool, subject: None })
}

/// A new event id: time-ordered, so that index pages stay warm.
pub(crate) fn event_id() -> Uuid {
    Uuid::now_v7()
}

/// A refusal as an event records it.
pub(crate) fn reason(refusal: &Refusal) -> Value {
    json!({"kind": refusal.kind.slug(), "detail": refusal.detail})
}
