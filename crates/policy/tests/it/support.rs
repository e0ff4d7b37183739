//! Tools, principals and shorthands that the tests share.

use countersign_domain::{Effect, Principal, PrincipalKind, WorkspaceName};
use countersign_policy::{Decision, Facts, Policies, PolicyProblem, SetKind, SourceFile, ToolDescription};
use serde_json::{Value, json};

/// 2026-01-05 12:00 UTC, a Monday.
pub const NOW: u64 = 1_767_614_400_000;

pub fn tool(name: &str, effect: Effect, input_schema: Value) -> ToolDescription {
    ToolDescription { tool: name.parse().expect("tool"), effect, input_schema }
}

pub fn ads_tools() -> Vec<ToolDescription> {
    let campaign = json!({
        "type": "object", "required": ["name", "budget"], "additionalProperties": false,
        "properties": {
            "name": {"type": "string"},
            "budget": {"type": "number", "minimum": 0},
            "startDate": {"type": "string", "format": "date"},
            "targeting": {"type": "object", "additionalProperties": {"type": "string"}},
        },
    });
    let id = json!({"type": "object", "required": ["id"], "properties": {"id": {"type": "string"}}});
    vec![
        tool("ads:listCampaigns", Effect::Read, json!({"type": "object", "properties": {}})),
        tool("ads:getCampaign", Effect::Read, id.clone()),
        tool("ads:createCampaign", Effect::Write, campaign),
        tool("ads:deleteCampaign", Effect::Destructive, id),
    ]
}

pub fn access(text: &str) -> SourceFile {
    SourceFile { path: "access/x.cedar".into(), text: text.into(), kind: SetKind::Access }
}

pub fn approval(text: &str) -> SourceFile {
    SourceFile { path: "approval/y.cedar".into(), text: text.into(), kind: SetKind::Approval }
}

pub fn load(files: &[SourceFile]) -> Policies {
    Policies::load(files, &ads_tools()).unwrap_or_else(|problems| panic!("{}", render(&problems)))
}

pub fn render(problems: &[PolicyProblem]) -> String {
    problems.iter().map(|p| format!("{p:#}\n")).collect()
}

pub fn agent(roles: &[&str]) -> Principal {
    Principal {
        kind: PrincipalKind::Agent,
        id: "agent-7".into(),
        issuer: "https://id.example.com".into(),
        on_behalf_of: None,
        workspace: WorkspaceName::default_workspace(),
        roles: roles.iter().map(|r| (*r).to_owned()).collect(),
        scopes: ["tools:call".to_owned()].into(),
        development: false,
        attributes: [("department".to_owned(), "marketing".to_owned())].into(),
    }
}

pub fn effect_of(tool: &str) -> Effect {
    ads_tools().into_iter().find(|t| t.tool.to_string() == tool).map(|t| t.effect).unwrap_or_default()
}

pub fn decide(policies: &Policies, principal: &Principal, tool: &str, input: Value) -> Decision {
    let name = tool.parse().expect("tool");
    policies.decide(&Facts { principal, tool: &name, effect: effect_of(tool), input: &input, now_ms: NOW })
}
