//! Why a call is decided as it is, for people: which policies hold, what is owed by which, and what would be missing.

use std::fmt;

use cedar_policy::{EntityUid, PrincipalConstraint};
use countersign_domain::{Principal, ToolRef};
use serde::{Deserialize, Serialize};

use crate::decide::{Decision, Facts, PolicyEffect, PolicyRef, Prepared, Verdict, holds};
use crate::load::{LoadedPolicy, Policies};
use crate::schema::groups;
use crate::shape::Omission;

/// A decision with everything that led to it. `Display` renders it for a terminal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The tool called.
    pub tool: ToolRef,
    /// The action and the groups that policies may name it by.
    pub actions: Vec<String>,
    /// Who asks, as kind and id.
    pub principal: String,
    /// The roles that the principal has.
    pub roles: Vec<String>,
    /// The version of the policies.
    pub version: String,
    /// The decision, as [`Policies::decide`] gives it.
    pub decision: Decision,
    /// Every satisfied access policy with its text, also those that didn't decide (a permit beside a forbid).
    pub satisfied: Vec<ExplainedPolicy>,
    /// What is owed, policy by policy; empty unless allowed.
    pub owing: Vec<Owing>,
    /// Denied because nothing permits: the permits that cover this action, and what each lacked.
    pub unsatisfied: Vec<Unsatisfied>,
    /// Arguments of this tool that policies can't see.
    pub omitted: Vec<Omission>,
}

/// A policy with its text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainedPolicy {
    /// Which one.
    pub policy: PolicyRef,
    /// Its Cedar text.
    pub text: String,
}

/// What one approval policy asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owing {
    /// Which policy, with its text.
    pub policy: ExplainedPolicy,
    /// The person behind the agent must agree.
    pub confirm: bool,
    /// How many others must agree.
    pub approvals: u32,
    /// Each of them must have one of these roles.
    pub approver_roles: Vec<String>,
    /// Seconds until an unanswered request counts as denied, if this policy says so.
    pub expires_seconds: Option<u64>,
}

/// A permit that could have allowed the call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unsatisfied {
    /// Which policy, with its text.
    pub policy: ExplainedPolicy,
    /// What it lacked.
    pub why: String,
}

impl Policies {
    /// Decides like [`Policies::decide`] and says why. Not for the hot path.
    pub fn explain(&self, facts: &Facts<'_>) -> Explanation {
        let mut explanation = self.outline(facts);
        let Ok(prepared) = self.prepare(facts) else { return explanation };
        let access = self.hold(&prepared.tool.access, &prepared);
        explanation.satisfied = access.iter().filter(|(_, holds)| *holds).map(|(p, _)| explained(p)).collect();
        if explanation.decision.verdict == Verdict::Deny && explanation.decision.determining.is_empty() {
            let lacking = access.iter().filter(|(p, holds)| !holds && p.reference.effect == PolicyEffect::Permit);
            explanation.unsatisfied = lacking
                .map(|(policy, _)| Unsatisfied { policy: explained(policy), why: why_not(policy, facts.principal) })
                .collect();
        }
        if explanation.decision.verdict == Verdict::Allow {
            let approval = self.hold(&prepared.tool.approval, &prepared);
            explanation.owing = approval.iter().filter(|(_, holds)| *holds).map(|(p, _)| owing(p)).collect();
        }
        explanation
    }

    fn outline(&self, facts: &Facts<'_>) -> Explanation {
        let omitted = self.schema.omitted().iter().filter(|o| o.tool == *facts.tool).cloned().collect();
        let actions = [vec![facts.tool.to_string()], groups(facts.tool, facts.effect)].concat();
        Explanation {
            tool: facts.tool.clone(),
            actions,
            principal: format!("{} {:?}", facts.principal.kind.as_str(), facts.principal.id),
            roles: facts.principal.roles.iter().cloned().collect(),
            version: self.version().to_owned(),
            decision: self.decide(facts),
            satisfied: Vec::new(),
            owing: Vec::new(),
            unsatisfied: Vec::new(),
            omitted,
        }
    }

    /// Which of these policies hold. One that can't be evaluated doesn't; the decision already says so.
    fn hold(&self, members: &[usize], prepared: &Prepared<'_>) -> Vec<(&LoadedPolicy, bool)> {
        let evaluator = prepared.evaluator();
        let policies = members.iter().map(|&i| &self.policies[i]);
        policies.map(|policy| (policy, holds(policy, &evaluator).unwrap_or(false))).collect()
    }
}

fn why_not(policy: &LoadedPolicy, principal: &Principal) -> String {
    let role = |uid: &EntityUid| {
        let id = uid.id().unescaped();
        (uid.type_name().to_string() == "Role" && !principal.roles.contains(id)).then(|| id.to_owned())
    };
    match policy.cedar.principal_constraint() {
        PrincipalConstraint::In(uid) | PrincipalConstraint::IsIn(_, uid) => match role(&uid) {
            Some(missing) => format!("it asks for the role {missing:?}, which the principal doesn't have"),
            None => "its condition doesn't hold".into(),
        },
        PrincipalConstraint::Eq(_) => "it names another principal, or its condition doesn't hold".into(),
        PrincipalConstraint::Any | PrincipalConstraint::Is(_) => "its condition doesn't hold".into(),
    }
}

fn explained(policy: &LoadedPolicy) -> ExplainedPolicy {
    ExplainedPolicy { policy: policy.reference.clone(), text: policy.text.clone() }
}

fn owing(policy: &LoadedPolicy) -> Owing {
    Owing {
        policy: explained(policy),
        confirm: policy.owed.confirm,
        approvals: policy.owed.approvals,
        approver_roles: policy.owed.approver_roles.iter().cloned().collect(),
        expires_seconds: policy.owed.expires_seconds,
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", self.decision.verdict.as_str().to_uppercase(), self.headline())?;
        writeln!(f, "  call       {} (also {})", self.tool, self.actions[1..].join(", "))?;
        let roles = if self.roles.is_empty() { "no roles".to_owned() } else { self.roles.join(", ") };
        writeln!(f, "  principal  {} with {roles}", self.principal)?;
        writeln!(f, "  policies   {}", self.version)?;
        self.decision.errors.iter().try_for_each(|error| writeln!(f, "  error      {error}"))?;
        if !self.satisfied.is_empty() {
            writeln!(f, "\nAccess policies that hold:")?;
        }
        self.satisfied.iter().try_for_each(|policy| write_policy(f, policy))?;
        if !self.owing.is_empty() {
            writeln!(f, "\nOwed before it happens: {}", self.owed_in_words())?;
        }
        self.owing.iter().try_for_each(|owing| write_policy(f, &owing.policy))?;
        if !self.unsatisfied.is_empty() {
            writeln!(f, "\nPermits that cover this call but don't hold:")?;
        }
        for lacking in &self.unsatisfied {
            write_policy(f, &lacking.policy)?;
            writeln!(f, "    -> {}", lacking.why)?;
        }
        if !self.omitted.is_empty() {
            writeln!(f, "\nArguments that policies can't see:")?;
        }
        self.omitted.iter().try_for_each(|o| writeln!(f, "  {:?}: {}", o.argument, o.reason))
    }
}

impl Explanation {
    fn headline(&self) -> String {
        let by = |policies: &[PolicyRef]| policies.iter().map(|p| p.id.as_str()).collect::<Vec<_>>().join(", ");
        match (self.decision.verdict, self.decision.determining.as_slice()) {
            (Verdict::Allow, permits) if self.decision.owed.is_empty() => format!("permitted by {}", by(permits)),
            (Verdict::Allow, permits) => format!("permitted by {}, once what is owed is met", by(permits)),
            (Verdict::Deny, []) if self.unsatisfied.is_empty() => "no permit covers this call".into(),
            (Verdict::Deny, []) => "no permit holds".into(),
            (Verdict::Deny, forbids) => format!("forbidden by {}", by(forbids)),
            (Verdict::Error, _) => "denied, because the policies can't be evaluated".into(),
        }
    }

    fn owed_in_words(&self) -> String {
        let owed = &self.decision.owed;
        let mut parts = Vec::new();
        if owed.confirm {
            parts.push("confirmation by the person behind the agent".to_owned());
        }
        if owed.approvals > 0 {
            let roles = owed.approver_roles.iter().map(|set| set.iter().cloned().collect::<Vec<_>>().join(" or "));
            let roles = roles.collect::<Vec<_>>().join(", and ");
            let of = if roles.is_empty() { String::new() } else { format!(" by {roles}") };
            let plural = if owed.approvals == 1 { "approval" } else { "approvals" };
            parts.push(format!("{} {plural}{of}", owed.approvals));
        }
        format!("{}, within {} s", parts.join(" and "), owed.expires_seconds)
    }
}

fn write_policy(f: &mut fmt::Formatter<'_>, explained: &ExplainedPolicy) -> fmt::Result {
    let policy = &explained.policy;
    writeln!(f, "  {} (line {})", policy.id, policy.line)?;
    policy.reason.iter().try_for_each(|reason| writeln!(f, "    {reason}"))?;
    explained.text.lines().try_for_each(|line| writeln!(f, "    | {line}"))
}
