//! Prints how long one decision takes: `cargo run --release -p countersign-policy --example decide_bench`.
//!
//! The example sets with the advertising tools, and the same among many other tools and policies.

use std::hint::black_box;
use std::time::Instant;

use countersign_domain::{Effect, Principal, PrincipalKind, WorkspaceName};
use countersign_policy::{Facts, Policies, SetKind, SourceFile, ToolDescription};
use serde_json::json;

const BATCHES: u32 = 40;
const ROUNDS: u32 = 1_000;

fn main() {
    let (files, tools) = (files(), tools());
    measure("example sets (10 policies, 4 tools)", &files, &tools);
    let (mut many_files, mut many_tools) = (files, tools);
    let mut text = String::new();
    for n in 0..200 {
        let description = ToolDescription {
            tool: format!("other:tool{n}").parse().expect("tool"),
            effect: Effect::Write,
            input_schema: json!({"type": "object", "properties": {"n": {"type": "integer"}}}),
        };
        many_tools.push(description);
        text += &format!(
            "permit(principal in Role::\"r{n}\", action == Action::\"other:tool{n}\", resource) when {{ context.input has n && context.input.n < {n} }};\n"
        );
    }
    many_files.push(SourceFile { path: "access/other.cedar".into(), text, kind: SetKind::Access });
    measure("among 210 policies and 204 tools", &many_files, &many_tools);
}

fn measure(name: &str, files: &[SourceFile], tools: &[ToolDescription]) {
    let started = Instant::now();
    let policies = Policies::load(files, tools).expect("the sets load");
    println!("{name}: loaded in {:.1} ms", started.elapsed().as_secs_f64() * 1e3);
    let principal = principal();
    for (tool, effect, input) in [
        ("ads:listCampaigns", Effect::Read, json!({})),
        ("ads:createCampaign", Effect::Write, json!({"name": "Spring", "budget": 12000.5, "startDate": "2026-03-01"})),
        ("ads:deleteCampaign", Effect::Destructive, json!({"id": "c-1"})),
    ] {
        let tool = tool.parse().expect("tool");
        let facts = Facts { principal: &principal, tool: &tool, effect, input: &input, now_ms: 1_767_614_400_000 };
        let decide = |rounds| (0..rounds).for_each(|_| drop(black_box(policies.decide(black_box(&facts)))));
        // The fastest of many batches, since other work on the machine only ever adds.
        let batch = || {
            let started = Instant::now();
            decide(ROUNDS);
            started.elapsed().as_secs_f64() * 1e6 / f64::from(ROUNDS)
        };
        let micros = (0..BATCHES).map(|_| batch()).fold(f64::INFINITY, f64::min);
        println!("  {tool}: {micros:.1} µs per decision ({})", policies.decide(&facts).verdict.as_str());
    }
}

fn principal() -> Principal {
    Principal {
        kind: PrincipalKind::Agent,
        id: "agent-7".into(),
        issuer: "https://id.example.com".into(),
        on_behalf_of: Some("alice".into()),
        workspace: WorkspaceName::default_workspace(),
        roles: ["finance-write", "staff"].map(str::to_owned).into(),
        scopes: ["tools:call", "tools:list"].map(str::to_owned).into(),
        development: false,
        attributes: [("department".to_owned(), "marketing".to_owned())].into(),
    }
}

fn files() -> Vec<SourceFile> {
    let file = |path: &str, text: &str, kind| SourceFile { path: path.into(), text: text.into(), kind };
    vec![
        file("access/ads.cedar", include_str!("../../../examples/policies/access/ads.cedar"), SetKind::Access),
        file(
            "access/operators.cedar",
            include_str!("../../../examples/policies/access/operators.cedar"),
            SetKind::Access,
        ),
        file("approval/ads.cedar", include_str!("../../../examples/policies/approval/ads.cedar"), SetKind::Approval),
    ]
}

fn tools() -> Vec<ToolDescription> {
    let campaign = json!({"type": "object", "required": ["name", "budget"], "additionalProperties": false, "properties": {
        "name": {"type": "string"}, "budget": {"type": "number"}, "startDate": {"type": "string", "format": "date"}}});
    let id = json!({"type": "object", "required": ["id"], "properties": {"id": {"type": "string"}}});
    [
        ("ads:listCampaigns", Effect::Read, json!({"type": "object", "properties": {}})),
        ("ads:getCampaign", Effect::Read, id.clone()),
        ("ads:createCampaign", Effect::Write, campaign),
        ("ads:deleteCampaign", Effect::Destructive, id),
    ]
    .map(|(tool, effect, input_schema)| ToolDescription { tool: tool.parse().expect("tool"), effect, input_schema })
    .into()
}
