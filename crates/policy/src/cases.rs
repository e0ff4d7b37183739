//! `policy test`: cases with an expectation each. The format is whatever serde reads; `docs/policy.md` shows YAML.

use std::collections::{BTreeMap, BTreeSet};

use countersign_domain::{Millis, Obligations, Principal, PrincipalKind, ToolRef, WorkspaceName};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::decide::{Decision, Facts, Verdict};
use crate::load::Policies;

/// One call and what should come of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// What the case shows.
    pub name: String,
    /// Who asks; everything has a default.
    #[serde(default)]
    pub principal: CasePrincipal,
    /// For which tool, `upstream:tool`. Its effect is that of the accepted tool.
    pub tool: ToolRef,
    /// The arguments.
    #[serde(default = "empty_object")]
    pub input: Value,
    /// When, in milliseconds since the epoch; the default is 2026-01-05 12:00 UTC, a Monday.
    #[serde(default = "a_monday_noon")]
    pub now_ms: Millis,
    /// What should come of it.
    pub expect: Expect,
}

/// A principal as a case writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CasePrincipal {
    /// What kind of party; an agent unless said otherwise.
    pub kind: PrincipalKind,
    /// The subject.
    pub id: String,
    /// Who vouches.
    pub issuer: String,
    /// The person behind.
    pub on_behalf_of: Option<String>,
    /// The workspace.
    pub workspace: WorkspaceName,
    /// Roles.
    pub roles: BTreeSet<String>,
    /// Scopes.
    pub scopes: BTreeSet<String>,
    /// Whether a development issuer vouches.
    pub development: bool,
    /// Further claims (tags in policies).
    pub attributes: BTreeMap<String, String>,
}

impl Default for CasePrincipal {
    fn default() -> Self {
        Self {
            kind: PrincipalKind::Agent,
            id: "case-agent".into(),
            issuer: "case".into(),
            on_behalf_of: None,
            workspace: WorkspaceName::default_workspace(),
            roles: BTreeSet::new(),
            scopes: BTreeSet::new(),
            development: false,
            attributes: BTreeMap::new(),
        }
    }
}

/// What should come of a call. A bare `allow` means: allowed, and nothing owed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Expect {
    /// Just the verdict.
    Verdict(Verdict),
    /// The verdict and parts of what is owed; what isn't named isn't checked.
    Detailed(ExpectDetails),
}

/// Parts of a decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExpectDetails {
    /// `allow` unless said otherwise.
    #[serde(default = "allow")]
    pub verdict: Verdict,
    /// Whether the person behind the agent must agree.
    #[serde(default)]
    pub confirm: Option<bool>,
    /// How many others must agree.
    #[serde(default)]
    pub approvals: Option<u32>,
    /// A person with exactly these roles may (`true`) or may not (`false`) give an approval.
    #[serde(default)]
    pub approver: Option<ExpectApprover>,
    /// Seconds until expiry.
    #[serde(default)]
    pub expires_seconds: Option<u64>,
    /// A policy that must be among the determining or the owing ones: `access/finance.cedar#budget-ceiling`.
    #[serde(default)]
    pub policy: Option<String>,
}

/// Whether roles suffice for an approval.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExpectApprover {
    /// The approver's roles.
    pub roles: BTreeSet<String>,
    /// Whether they suffice.
    pub accepted: bool,
}

/// How a case came out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaseResult {
    /// The case's name.
    pub name: String,
    /// Whether it came out as expected.
    pub passed: bool,
    /// What differs: one line each; empty if passed.
    pub differences: Vec<String>,
    /// The whole explanation, rendered, if not passed.
    pub explanation: Option<String>,
    /// What was decided.
    pub decision: Decision,
}

/// Runs every case against the policies.
pub fn run(policies: &Policies, cases: &[Case]) -> Vec<CaseResult> {
    cases.iter().map(|case| run_one(policies, case)).collect()
}

fn run_one(policies: &Policies, case: &Case) -> CaseResult {
    let principal = case.principal.to_principal();
    let effect = policies.schema.tools.get(&case.tool).map(|t| t.effect).unwrap_or_default();
    let facts = Facts { principal: &principal, tool: &case.tool, effect, input: &case.input, now_ms: case.now_ms };
    let decision = policies.decide(&facts);
    let differences = case.expect.differences(&decision);
    let passed = differences.is_empty();
    let explanation = (!passed).then(|| policies.explain(&facts).to_string());
    CaseResult { name: case.name.clone(), passed, differences, explanation, decision }
}

impl CasePrincipal {
    fn to_principal(&self) -> Principal {
        let own = self.clone();
        Principal {
            kind: own.kind,
            id: own.id,
            issuer: own.issuer,
            on_behalf_of: own.on_behalf_of,
            workspace: own.workspace,
            roles: own.roles,
            scopes: own.scopes,
            development: own.development,
            attributes: own.attributes,
        }
    }
}

impl Expect {
    fn differences(&self, decision: &Decision) -> Vec<String> {
        let mut found = Differences(Vec::new());
        let owed = &decision.owed;
        match self {
            Self::Verdict(verdict) => {
                found.compare("verdict", verdict.as_str(), decision.verdict.as_str());
                found.compare("owed", "nothing", &if owed.is_empty() { "nothing".into() } else { in_short(owed) });
            }
            Self::Detailed(details) => details.differences(decision, &mut found),
        }
        found.0
    }
}

impl ExpectDetails {
    fn differences(&self, decision: &Decision, found: &mut Differences) {
        let owed = &decision.owed;
        found.compare("verdict", self.verdict.as_str(), decision.verdict.as_str());
        found.compare_if("confirm", self.confirm, owed.confirm);
        found.compare_if("approvals", self.approvals, owed.approvals);
        found.compare_if("expires_seconds", self.expires_seconds, owed.expires_seconds);
        if let Some(approver) = &self.approver {
            found.compare_if("approver accepted", Some(approver.accepted), owed.accepts_roles(&approver.roles));
        }
        let named: Vec<&str> = decision
            .determining
            .iter()
            .map(|p| p.id.as_str())
            .chain(owed.policies.iter().map(String::as_str))
            .collect();
        if let Some(policy) = self.policy.as_deref().filter(|p| !named.contains(p)) {
            found.compare("policy", policy, &named.join(", "));
        }
    }
}

struct Differences(Vec<String>);

impl Differences {
    fn compare(&mut self, what: &str, expected: &str, got: &str) {
        if expected != got {
            self.0.push(format!("{what}: expected {expected}, got {got}"));
        }
    }

    fn compare_if<T: ToString>(&mut self, what: &str, expected: Option<T>, got: T) {
        if let Some(expected) = expected {
            self.compare(what, &expected.to_string(), &got.to_string());
        }
    }
}

fn in_short(owed: &Obligations) -> String {
    let confirm = if owed.confirm { "confirm, " } else { "" };
    format!("{confirm}{} approvals", owed.approvals)
}

fn empty_object() -> Value {
    Value::Object(serde_json::Map::new())
}

fn a_monday_noon() -> Millis {
    1_767_614_400_000
}

fn allow() -> Verdict {
    Verdict::Allow
}
