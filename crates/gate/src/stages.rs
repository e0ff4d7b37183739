//! The stages of a call as types. Each holds the one before, so a later stage can't be reached around an earlier one:
//! [`Resolved`] → [`Validated`] → [`Authorised`] → [`Limited`] → [`Cleared`] → `Permit`.
//!
//! The functions here are the pure part: facts in, a stronger type or a refusal out. Who asks the ledger is `flow`.

use std::sync::Arc;
use std::time::Instant;

use countersign_domain::{Obligations, Principal, Refusal, RefusalKind};
use countersign_ledger::state::Fingerprint;
use countersign_policy::{Decision, Facts as PolicyFacts, Policies, Verdict};
use countersign_proof::canonical::{Limits, parse_strict, to_canonical};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::budgets::Uses;
use crate::frozen::FrozenSet;
use crate::load::Place;
use crate::operations;
use crate::record::{Decided, Facts};
use crate::registry::{Tool, ToolState, View};

/// The tool is known, visible to the caller, reviewed, and nothing involved is frozen.
pub struct Resolved {
    pub(crate) principal: Arc<Principal>,
    pub(crate) tool: Arc<Tool>,
    pub(crate) raw: Vec<u8>,
    pub(crate) facts: Facts,
}

/// The arguments are a JSON object on which all readers agree, and fit the tool's schema.
pub struct Validated {
    pub(crate) resolved: Resolved,
    pub(crate) input: Value,
    pub(crate) canonical: Arc<[u8]>,
}

/// The policies allow the call, and say what is owed.
pub struct Authorised {
    pub(crate) validated: Validated,
    pub(crate) owed: Obligations,
    pub(crate) policy_version: String,
}

/// The caller is within its limits.
pub struct Limited(pub(crate) Authorised);

/// Nothing is owed any more, by what is known outside the database; the intent's transaction has the last word.
pub struct Cleared {
    pub(crate) limited: Limited,
    pub(crate) claim: Claim,
}

/// What the intent's transaction must take, once, for the call to go on.
#[derive(Default)]
pub(crate) struct Claim {
    /// The request that is redeemed, with its event and the answers' events.
    pub request: Option<Redeemed>,
    /// The idempotency scope under which the answer is kept, with the arguments' fingerprint.
    pub idempotency: Option<(Fingerprint, Fingerprint)>,
    /// What of budgets and pauses the call uses up.
    pub uses: Uses,
    /// The call's place among those under way.
    #[expect(dead_code, reason = "held until the call has ended")]
    pub place: Option<Place>,
    /// When the caller stops waiting, if it said so.
    pub deadline: Option<Instant>,
}

/// A request about to be consumed.
pub(crate) struct Redeemed {
    pub id: Uuid,
    pub event: Uuid,
    pub answers: Vec<Uuid>,
}

/// A refusal with what was known of the call by then; boxed, since the way of most calls should not carry its size.
pub(crate) type Denied = Box<(Facts, Refusal)>;

/// Resolves: which tool, is its reviewed definition intact, may anyone use it right now?
pub(crate) fn resolve(
    principal: Arc<Principal>,
    tool: Option<Arc<Tool>>,
    frozen: &FrozenSet,
    raw: Vec<u8>,
    mut facts: Facts,
) -> Result<Resolved, Denied> {
    let visible = tool.filter(|t| t.visible_to(&principal));
    let Some(tool) = visible else {
        let detail = format!("there is no tool {} that you may see; GET /tool-catalog lists yours", facts.tool);
        return Err(Box::new((facts, Refusal::new(RefusalKind::UnknownTool, detail))));
    };
    facts.effect = Some(tool.effect);
    facts.pin = tool.pin();
    let checked = operations::check_callable(&facts.tool)
        .and_then(|()| frozen.check(&principal, &facts.tool))
        .and_then(|()| tool.callable());
    match checked {
        Ok(()) => Ok(Resolved { principal, tool, raw, facts }),
        Err(refusal) => Err(Box::new((facts, refusal))),
    }
}

/// Validates: strict JSON, one meaning, and the tool's own schema.
///
/// Where the arguments name a prompt or resource, its definition is the one that counts: it has to be reviewed, too.
pub(crate) async fn validate(mut resolved: Resolved, limits: &Limits, view: &View) -> Result<Validated, Denied> {
    let read = read_arguments(&resolved.raw, limits);
    if let Ok((input, _)) = &read {
        let remarks = resolved.tool.upstream.remarks(&resolved.principal, &resolved.tool.tool.tool, input);
        resolved.facts.remarks = remarks.await;
    }
    let checked = read.and_then(|(input, canonical)| {
        check_schema(&resolved, &input)?;
        let pin = view.pin_of_call(&resolved.tool, &input, &resolved.principal)?;
        Ok((input, canonical, pin))
    });
    match checked {
        Ok((input, canonical, pin)) => {
            resolved.facts.pin = pin;
            let canonical: Arc<[u8]> = canonical.into();
            resolved.facts.canonical_input = Some(Arc::clone(&canonical));
            Ok(Validated { resolved, input, canonical })
        }
        Err(refusal) => Err(Box::new((resolved.facts, refusal))),
    }
}

fn check_schema(resolved: &Resolved, input: &Value) -> Result<(), Refusal> {
    if let ToolState::Accepted(accepted) = &resolved.tool.state
        && let Some(problems) = accepted.schema_problems(input)
    {
        let detail = format!("the arguments do not fit the schema of {}: {}", resolved.tool.tool, problems.join("; "));
        return Err(Refusal::new(RefusalKind::InvalidArguments, detail).with("errors", json!(problems)));
    }
    Ok(())
}

/// Arguments as a value and in canonical form.
pub(crate) fn read_arguments(raw: &[u8], limits: &Limits) -> Result<(Value, Vec<u8>), Refusal> {
    if raw.len() > limits.max_bytes {
        let detail = format!("the arguments are {} bytes long; at most {} are read", raw.len(), limits.max_bytes);
        return Err(Refusal::new(RefusalKind::TooLarge, detail));
    }
    let malformed =
        |e: String| Refusal::new(RefusalKind::MalformedRequest, format!("the arguments are not usable JSON: {e}"));
    let input = parse_strict(raw, limits).map_err(|e| malformed(e.to_string()))?;
    if !input.is_object() {
        return Err(Refusal::new(RefusalKind::MalformedRequest, "the arguments must be a JSON object"));
    }
    let canonical = to_canonical(&input).map_err(|e| malformed(e.to_string()))?;
    Ok((input, canonical))
}

/// Authorises: what the policies in force say. None in force, or one that fails: denied.
pub(crate) fn authorise(
    mut validated: Validated,
    policies: Option<&Policies>,
    now_ms: u64,
) -> Result<Authorised, Denied> {
    let Some(policies) = policies else {
        let refusal = Refusal::new(
            RefusalKind::PolicyError,
            "no policy set is in force; the operator can see why with `countersign policy check`",
        );
        return Err(Box::new((validated.resolved.facts, refusal)));
    };
    let tool = &validated.resolved.tool;
    let decision = policies.decide(&PolicyFacts {
        principal: &validated.resolved.principal,
        tool: &tool.tool,
        effect: tool.effect,
        input: &validated.input,
        now_ms,
    });
    validated.resolved.facts.policy = Some(policy_record(policies.version(), &decision));
    let principal = &validated.resolved.principal;
    let decided = || Decided { principal: Arc::clone(principal), at: now_ms };
    validated.resolved.facts.decided = validated.resolved.facts.keep.then(decided);
    match verdict(&decision, &validated.resolved.principal) {
        Ok(()) => Ok(Authorised { validated, owed: decision.owed, policy_version: policies.version().to_owned() }),
        Err(refusal) => Err(Box::new((validated.resolved.facts, refusal))),
    }
}

fn verdict(decision: &Decision, principal: &Principal) -> Result<(), Refusal> {
    match decision.verdict {
        Verdict::Allow if decision.owed.confirm && principal.person_key().is_none() => Err(Refusal::new(
            RefusalKind::ObligationUnmeetable,
            "the policies want the person behind this call to confirm it, and no person is: use a token that names one (sub with act)",
        )),
        Verdict::Allow => Ok(()),
        Verdict::Deny => Err(denied(decision)),
        Verdict::Error => {
            let detail = format!("a policy failed, so the call is denied: {}", decision.errors.join("; "));
            Err(Refusal::new(RefusalKind::PolicyError, detail))
        }
    }
}

fn denied(decision: &Decision) -> Refusal {
    let named: Vec<String> = decision
        .determining
        .iter()
        .map(|p| p.reason.as_ref().map_or_else(|| p.id.clone(), |reason| format!("{} ({reason})", p.id)))
        .collect();
    let detail = if named.is_empty() {
        "no policy permits this call".to_owned()
    } else {
        format!("denied by {}", named.join(", "))
    };
    let policies: Vec<&str> = decision.determining.iter().map(|p| p.id.as_str()).collect();
    Refusal::new(RefusalKind::PolicyDenied, detail).with("policies", json!(policies))
}

fn policy_record(version: &str, decision: &Decision) -> Value {
    let word = match decision.verdict {
        Verdict::Allow => "allow",
        Verdict::Deny => "deny",
        Verdict::Error => "error",
    };
    let mut record = json!({
        "version": version,
        "decision": word,
        "determining": decision.determining.iter().map(|p| p.id.as_str()).collect::<Vec<_>>(),
    });
    if !decision.owed.is_empty() {
        record["owed"] = json!(decision.owed);
    }
    record
}

impl Limited {
    pub(crate) fn validated(&self) -> &Validated {
        &self.0.validated
    }
    pub(crate) fn resolved(&self) -> &Resolved {
        &self.0.validated.resolved
    }
}

/// The moment by which a call must be answered: the tool's own, or the caller's if that is sooner.
pub(crate) fn deadline(tool: &Tool, callers: Option<Instant>) -> Instant {
    let own = Instant::now() + tool.timeout;
    callers.map_or(own, |callers| own.min(callers))
}
