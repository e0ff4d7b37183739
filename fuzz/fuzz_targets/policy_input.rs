//! Arguments as policies see them: every decision is one of three, an error is never an allowance, and what the forbid names is denied.
#![no_main]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use countersign_domain::{Effect, Principal, PrincipalKind, ToolRef, WorkspaceName};
use countersign_policy::{Facts, Policies, SetKind, SourceFile, ToolDescription, Verdict};
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

const ACCESS: &str = r#"@id("all") permit (principal, action, resource);
@id("limit") forbid (principal, action == Action::"up:pay", resource) when { context.input.amount > 100 };
@id("place") forbid (principal, action == Action::"up:pay", resource)
    when { context.input has to && context.input.to has country && context.input.to.country == "xx" };"#;

static POLICIES: LazyLock<(Policies, ToolRef, Principal)> = LazyLock::new(|| {
    let tool: ToolRef = "up:pay".parse().expect("a tool");
    let schema = json!({"type": "object", "required": ["amount"], "properties": {
        "amount": {"type": "integer"}, "rate": {"type": "number"}, "note": {"type": ["string", "null"]},
        "to": {"type": "object", "properties": {"country": {"type": "string"}}},
        "tags": {"type": "array", "items": {"type": "string"}}}});
    let tools = [ToolDescription { tool: tool.clone(), effect: Effect::Write, input_schema: schema }];
    let file = SourceFile { path: "access/fuzz.cedar".into(), text: ACCESS.into(), kind: SetKind::Access };
    let principal = Principal {
        kind: PrincipalKind::Agent,
        id: "a".into(),
        issuer: "i".into(),
        on_behalf_of: None,
        workspace: WorkspaceName::default_workspace(),
        roles: BTreeSet::new(),
        scopes: BTreeSet::new(),
        development: false,
        attributes: BTreeMap::new(),
    };
    (Policies::load(&[file], &tools).expect("they load"), tool, principal)
});

fuzz_target!(|data: &[u8]| {
    let Ok(input) = serde_json::from_slice::<Value>(data) else { return };
    let (policies, tool, principal) = &*POLICIES;
    let facts = Facts { principal, tool, effect: Effect::Write, input: &input, now_ms: 1_800_000_000_000 };
    let decision = policies.decide(&facts);
    assert_eq!(decision.verdict == Verdict::Error, !decision.errors.is_empty());
    let amount = input.get("amount").and_then(Value::as_f64);
    if amount.is_none_or(|amount| amount > 100.0) || input["to"]["country"] == "xx" {
        assert_ne!(decision.verdict, Verdict::Allow, "{input}");
    }
    drop(policies.explain(&facts).to_string());
});
