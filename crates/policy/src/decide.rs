//! One decision: facts in, a verdict and what is owed out. Anything that goes wrong on the way is a denial.
//!
//! Values, entities and the evaluator are those of `cedar-policy-core`, which the public crate wraps: going through
//! expressions that are evaluated into values takes several times as long. Both are pinned to one exact version.

use std::collections::HashSet;
use std::sync::{Arc, LazyLock};

use cedar_policy_core::ast::{
    Context, Eid, Entity, EntityType, EntityUID, EntityUIDEntry, Literal, Request, Value, ValueKind,
};
use cedar_policy_core::entities::{Entities, NoEntitiesSchema, TCComputation};
use cedar_policy_core::evaluator::{EvaluationError, Evaluator};
use cedar_policy_core::extensions::Extensions;
use countersign_domain::{Effect, Millis, Obligations, Principal, ToolRef};
use serde::{Deserialize, Serialize};

use crate::annotations::strictest;
use crate::convert;
use crate::load::{LoadedPolicy, Policies};
use crate::schema::ToolType;
use crate::shape::RecordType;

/// What is known of a call.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// Who asks.
    pub principal: &'a Principal,
    /// For which tool.
    pub tool: &'a ToolRef,
    /// What it does, by the catalog in force now.
    pub effect: Effect,
    /// The arguments, valid by the tool's schema.
    pub input: &'a serde_json::Value,
    /// When, in milliseconds since the epoch (UTC).
    pub now_ms: Millis,
}

/// May it happen?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Some permit holds and no forbid does.
    Allow,
    /// A forbid holds, or no permit does.
    Deny,
    /// The policies could not be evaluated. To be treated as a denial.
    Error,
}

impl Verdict {
    /// The name used in events and cases.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Error => "error",
        }
    }
}

/// Whether a policy permits or forbids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PolicyEffect {
    /// `permit`
    Permit,
    /// `forbid`
    Forbid,
}

/// Names a policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyRef {
    /// The file and the `@id`, or the position in the file counted from 0: `access/finance.cedar#budget-ceiling`,
    /// `access/finance.cedar#policy2`.
    pub id: String,
    /// Where it begins, counted from 1.
    pub line: usize,
    /// Its `@reason`.
    pub reason: Option<String>,
    /// Whether it permits or forbids.
    pub effect: PolicyEffect,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// May it happen?
    pub verdict: Verdict,
    /// Allowed: the satisfied permits. Denied: the satisfied forbids; none means that nothing permits it.
    pub determining: Vec<PolicyRef>,
    /// What went wrong, without any value out of the arguments.
    pub errors: Vec<String>,
    /// What is owed before it happens; empty unless allowed.
    pub owed: Obligations,
}

impl Decision {
    fn error(errors: Vec<String>) -> Self {
        Self { verdict: Verdict::Error, determining: Vec::new(), errors, owed: Obligations::default() }
    }
}

/// What is prepared for a tool when policies are loaded.
#[derive(Debug)]
pub(crate) struct ToolEntry {
    effect: Effect,
    input: RecordType,
    action: Arc<EntityUID>,
    resource: Arc<EntityUID>,
    /// The tool and its action; the principal joins them per request.
    entities: Entities,
    /// The policies whose scope covers the tool's action, as indices into [`Policies::policies`].
    pub access: Arc<[usize]>,
    pub approval: Arc<[usize]>,
}

impl ToolEntry {
    pub fn new(
        tool: &ToolRef,
        known: &ToolType,
        groups: &[String],
        access: Arc<[usize]>,
        approval: Arc<[usize]>,
    ) -> Result<Self, String> {
        let name = tool.to_string();
        let (action, resource) = (uid(&TYPES.action, &name), uid(&TYPES.tool, &name));
        // All ancestors are direct parents here, so that the groups themselves need not be looked at per request.
        let groups = groups.iter().map(|g| uid(&TYPES.action, g)).collect();
        let action_entity = entity(action.clone(), Vec::new(), groups);
        let attributes = vec![("name", text(&tool.tool)), ("effect", text(known.effect.as_str()))];
        let upstream = HashSet::from([uid(&TYPES.upstream, tool.upstream.as_str())]);
        let tool_entity = entity(resource.clone(), attributes, upstream);
        let entities = join(Entities::new(), [action_entity, tool_entity])?;
        let (action, resource) = (Arc::new(action), Arc::new(resource));
        Ok(Self { effect: known.effect, input: known.input.clone(), action, resource, entities, access, approval })
    }
}

/// A call in Cedar's terms.
pub(crate) struct Prepared<'p> {
    pub tool: &'p ToolEntry,
    principal: Arc<EntityUID>,
    context: Context,
    entities: Entities,
}

/// Which policies of a set hold.
#[derive(Default)]
struct Evaluated {
    permits: Vec<usize>,
    forbids: Vec<usize>,
    errors: Vec<String>,
}

impl Policies {
    /// Decides one call. Never panics; whatever can't be evaluated is [`Verdict::Error`].
    pub fn decide(&self, facts: &Facts<'_>) -> Decision {
        match self.prepare(facts) {
            Ok(prepared) => self.decide_prepared(&prepared),
            Err(error) => Decision::error(vec![error]),
        }
    }

    fn decide_prepared(&self, prepared: &Prepared<'_>) -> Decision {
        let evaluator = prepared.evaluator();
        let access = self.evaluate(&prepared.tool.access, &evaluator);
        let (verdict, determining) = match &access {
            Evaluated { errors, .. } if !errors.is_empty() => return Decision::error(access.errors),
            Evaluated { forbids, .. } if !forbids.is_empty() => (Verdict::Deny, forbids),
            Evaluated { permits, .. } if permits.is_empty() => (Verdict::Deny, permits),
            Evaluated { permits, .. } => (Verdict::Allow, permits),
        };
        let determining = determining.iter().map(|&i| self.policies[i].reference.clone()).collect();
        if verdict == Verdict::Deny {
            return Decision { verdict, determining, errors: Vec::new(), owed: Obligations::default() };
        }
        let approval = self.evaluate(&prepared.tool.approval, &evaluator);
        if !approval.errors.is_empty() {
            return Decision::error(approval.errors);
        }
        Decision { verdict, determining, errors: Vec::new(), owed: self.owed(&approval.permits) }
    }

    /// Evaluates every policy: unlike Cedar's authorizer, which skips a policy that fails, the caller must see each error.
    /// A test holds the outcome against that authorizer.
    fn evaluate(&self, members: &[usize], evaluator: &Evaluator<'_>) -> Evaluated {
        let mut evaluated = Evaluated::default();
        for &index in members {
            let policy = &self.policies[index];
            match (holds(policy, evaluator), policy.reference.effect) {
                (Ok(true), PolicyEffect::Permit) => evaluated.permits.push(index),
                (Ok(true), PolicyEffect::Forbid) => evaluated.forbids.push(index),
                (Ok(false), _) => {}
                (Err(error), _) => evaluated.errors.push(describe(&policy.reference, &error)),
            }
        }
        evaluated
    }

    fn owed(&self, satisfied: &[usize]) -> Obligations {
        strictest(satisfied.iter().map(|&i| {
            let policy = &self.policies[i];
            (policy.reference.id.as_str(), policy.reference.reason.as_deref(), &policy.owed)
        }))
    }

    /// A call as Cedar's public types, for checks against Cedar's own validation and authorizer.
    ///
    /// # Errors
    /// What would make the decision [`Verdict::Error`].
    pub fn cedar_request(&self, facts: &Facts<'_>) -> Result<(cedar_policy::Request, cedar_policy::Entities), String> {
        let prepared = self.prepare(facts)?;
        let entities = prepared.entities.clone().into();
        Ok((prepared.request().into(), entities))
    }

    pub(crate) fn prepare(&self, facts: &Facts<'_>) -> Result<Prepared<'_>, String> {
        let Some(tool) = self.tools.get(facts.tool) else {
            return Err(format!("the tool {} was not accepted when the policies were loaded", facts.tool));
        };
        if tool.effect != facts.effect {
            let (now, then) = (facts.effect.as_str(), tool.effect.as_str());
            return Err(format!("the tool {} is {now} now but was {then} when the policies were loaded", facts.tool));
        }
        let input = convert::arguments(&tool.input, facts.input).map_err(|e| e.to_string())?;
        let principal = uid(&TYPES.principal, &facts.principal.key());
        let entities = join(tool.entities.clone(), [principal_entity(&principal, facts.principal)])?;
        // Not validated against the schema again: the conversion is typed by it (a property test holds it to that).
        Ok(Prepared { tool, principal: Arc::new(principal), context: context(input, facts.now_ms), entities })
    }
}

impl Prepared<'_> {
    pub fn evaluator(&self) -> Evaluator<'_> {
        Evaluator::new(self.request(), &self.entities, Extensions::all_available())
    }

    fn request(&self) -> Request {
        let known = |uid: &Arc<EntityUID>| EntityUIDEntry::Known { euid: Arc::clone(uid), loc: None };
        let (action, resource) = (known(&self.tool.action), known(&self.tool.resource));
        Request::new_unchecked(known(&self.principal), action, resource, Some(self.context.clone()))
    }
}

/// Whether one policy's scope and conditions hold.
// The error is Cedar's, and rare; boxing it would gain nothing.
#[allow(clippy::result_large_err)]
pub(crate) fn holds(policy: &LoadedPolicy, evaluator: &Evaluator<'_>) -> Result<bool, EvaluationError> {
    let policy_in_cedar = policy.cedar.as_ref();
    match evaluator.interpret(&policy.condition, policy_in_cedar.env())?.value_kind() {
        ValueKind::Lit(Literal::Bool(holds)) => Ok(*holds),
        // Excluded by strict validation; Cedar's own way gives the error.
        _ => evaluator.evaluate(policy_in_cedar),
    }
}

/// Cedar's own text may quote values of the arguments, which must not reach an event.
fn describe(policy: &PolicyRef, error: &EvaluationError) -> String {
    let what = match error {
        EvaluationError::IntegerOverflow(_) => "a sum, difference or product beyond 64 bits",
        EvaluationError::RecordAttrDoesNotExist(_) | EvaluationError::EntityAttrDoesNotExist(_) => {
            "an absent attribute"
        }
        EvaluationError::FailedExtensionFunctionExecution(_) => "a decimal, address or date that can't be read",
        EvaluationError::RecursionLimit(_) => "nested too deeply",
        _ => "a value of the wrong kind",
    };
    format!("{} can't be evaluated: {what}", policy.id)
}

fn context(input: Value, now_ms: Millis) -> Context {
    const HOUR: Millis = 3_600_000;
    let number = |n: Millis| Value::from(i64::try_from(n).unwrap_or(i64::MAX));
    // The epoch was a Thursday; Monday is 1, as in ISO 8601.
    let weekday = (now_ms / (24 * HOUR) + 3) % 7 + 1;
    let pairs = [
        ("input", input),
        ("time", number(now_ms)),
        ("hour", number(now_ms / HOUR % 24)),
        ("weekday", number(weekday)),
    ];
    Context::Value(Arc::new(pairs.into_iter().map(|(name, value)| (name.into(), value)).collect()))
}

fn principal_entity(uid: &EntityUID, principal: &Principal) -> Entity {
    let mut attributes = vec![
        ("kind", text(principal.kind.as_str())),
        ("id", text(&principal.id)),
        ("issuer", text(&principal.issuer)),
        ("workspace", text(principal.workspace.as_str())),
        ("scopes", Value::set(principal.scopes.iter().map(|s| text(s)), None)),
        ("development", Value::from(principal.development)),
    ];
    attributes.extend(principal.on_behalf_of.as_ref().map(|person| ("on_behalf_of", text(person))));
    let attributes = attributes.into_iter().map(|(name, value)| (name.into(), value.into()));
    let tags = principal.attributes.iter().map(|(name, value)| (name.as_str().into(), text(value).into()));
    let roles = principal.roles.iter().map(|role| self::uid(&TYPES.role, role)).collect();
    Entity::new_with_attr_partial_value(uid.clone(), attributes, HashSet::new(), roles, tags)
}

fn entity(uid: EntityUID, attributes: Vec<(&str, Value)>, parents: HashSet<EntityUID>) -> Entity {
    let attributes = attributes.into_iter().map(|(name, value)| (name.into(), value.into()));
    Entity::new_with_attr_partial_value(uid, attributes, HashSet::new(), parents, [])
}

/// Every entity here names all of its ancestors as parents, so that there is no closure to compute.
fn join(known: Entities, more: impl IntoIterator<Item = Entity>) -> Result<Entities, String> {
    let more = more.into_iter().map(Arc::new);
    let closed = TCComputation::AssumeAlreadyComputed;
    known.add_entities(more, None::<&NoEntitiesSchema>, closed, Extensions::all_available()).map_err(|e| e.to_string())
}

fn text(text: &str) -> Value {
    Value::from(text)
}

fn uid(kind: &EntityType, id: &str) -> EntityUID {
    EntityUID::from_components(kind.clone(), Eid::new(id), None)
}

/// The names of the entity types, parsed once.
struct Types {
    principal: EntityType,
    role: EntityType,
    tool: EntityType,
    upstream: EntityType,
    action: EntityType,
}

static TYPES: LazyLock<Types> = LazyLock::new(|| {
    // Constants of this file, not outside input.
    let name = |name: &str| name.parse().expect("a valid entity type name");
    Types {
        principal: name("Principal"),
        role: name("Role"),
        tool: name("Tool"),
        upstream: name("Upstream"),
        action: name("Action"),
    }
});
