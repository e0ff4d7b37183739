//! Decisions: default deny, absolute forbids, errors that deny, what is owed, and arguments that pose as something else.

use countersign_domain::{Effect, Obligations};
use countersign_policy::{Facts, Policies, PolicyEffect, Verdict, cases};
use serde_json::{Value, json};

use crate::support::{NOW, access, agent, approval, decide, load, tool};

const CREATE: &str = "ads:createCampaign";

fn campaign(budget: impl Into<Value>) -> Value {
    json!({"name": "Spring", "budget": budget.into()})
}

#[test]
fn nothing_is_allowed_by_default_and_forbid_is_absolute() {
    let none = decide(&load(&[]), &agent(&[]), CREATE, campaign(1));
    assert_eq!((none.verdict, none.determining.len()), (Verdict::Deny, 0));

    let policies = load(&[access(
        "permit(principal, action, resource);\n@id(\"no\") @reason(\"because\") forbid(principal, action in Action::\"write\", resource);",
    )]);
    let denied = decide(&policies, &agent(&[]), CREATE, campaign(1));
    assert_eq!(denied.verdict, Verdict::Deny);
    let policy = &denied.determining[0];
    assert_eq!((policy.id.as_str(), policy.line, policy.effect), ("access/x.cedar#no", 2, PolicyEffect::Forbid));
    assert_eq!(policy.reason.as_deref(), Some("because"));

    let allowed = decide(&policies, &agent(&[]), "ads:getCampaign", json!({"id": "1"}));
    assert_eq!(allowed.verdict, Verdict::Allow);
    assert_eq!(allowed.determining[0].id, "access/x.cedar#policy0");
}

#[test]
fn groups_attributes_tags_and_time_can_be_named() {
    for (condition, holds) in [
        ("action in Action::\"write\"", true),
        ("action in Action::\"destructive\"", true),
        ("action in Action::\"read\"", false),
        ("action in Action::\"ads:*\"", true),
        ("resource in Upstream::\"ads\" && resource.name like \"delete*\" && resource.effect == \"destructive\"", true),
        ("principal in Role::\"staff\"", true),
        ("principal in Role::\"other\"", false),
        ("principal.kind == \"agent\" && principal.id == \"agent-7\" && principal.issuer like \"https://*\"", true),
        ("principal.scopes.contains(\"tools:call\") && !principal.development", true),
        ("principal has on_behalf_of", false),
        ("principal.workspace == \"default\"", true),
        ("principal.hasTag(\"department\") && principal.getTag(\"department\") == \"marketing\"", true),
        ("principal.hasTag(\"team\")", false),
        ("context.time == 1767614400000 && context.hour == 12 && context.weekday == 1", true),
        ("principal == Principal::\"22:https://id.example.com|agent-7\"", true),
    ] {
        let policies = load(&[access(&format!("permit(principal, action, resource) when {{ {condition} }};"))]);
        let decision = decide(&policies, &agent(&["staff"]), "ads:deleteCampaign", json!({"id": "1"}));
        assert_eq!(decision.verdict == Verdict::Allow, holds, "{condition}: {decision:?}");
    }
}

#[test]
fn a_policy_that_cannot_be_evaluated_denies() {
    let count = tool(
        "ads:count",
        Effect::Read,
        json!({"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}}),
    );
    let name = count.tool.clone();
    let overflow = "when { context.input.n * 2 > 0 };";
    let permit = "permit(principal, action, resource);";
    for files in [
        vec![access(&format!("{permit} forbid(principal, action, resource) {overflow}"))],
        vec![access(&format!("{permit} permit(principal, action, resource) {overflow}"))],
        vec![access(permit), approval(&format!("@confirm permit(principal, action, resource) {overflow}"))],
    ] {
        let policies = Policies::load(&files, std::slice::from_ref(&count)).expect("loads");
        let decide = |n: i64| {
            let input = json!({"n": n});
            let (principal, now_ms) = (agent(&[]), NOW);
            policies.decide(&Facts { principal: &principal, tool: &name, effect: Effect::Read, input: &input, now_ms })
        };
        let failed = decide(i64::MAX);
        assert_eq!((failed.verdict, failed.owed), (Verdict::Error, Obligations::default()));
        assert_eq!(failed.errors.len(), 1);
        assert!(failed.errors[0].contains("beyond 64 bits"), "{:?}", failed.errors);
        assert!(!failed.errors[0].contains("9223372036854775807"), "a value leaks: {:?}", failed.errors);
        assert_ne!(decide(1).verdict, Verdict::Error);
    }
}

#[test]
fn calls_that_do_not_fit_the_loaded_tools_deny() {
    let policies = load(&[access("permit(principal, action, resource);")]);
    for (tool, effect, input, message) in [
        ("ads:unknown", Effect::Read, json!({}), "was not accepted"),
        (CREATE, Effect::Read, campaign(1), "is read now but was write"),
        (CREATE, Effect::Write, json!({"name": "x"}), "\"budget\": missing"),
        (CREATE, Effect::Write, campaign("many"), "\"budget\": expected a number"),
        (CREATE, Effect::Write, campaign(0.12345), "more than four decimal places"),
        (CREATE, Effect::Write, campaign(1e15), "beyond decimal's range"),
        (CREATE, Effect::Write, json!([]), "expected an object"),
    ] {
        let (principal, name) = (agent(&[]), tool.parse().expect("tool"));
        let decision =
            policies.decide(&Facts { principal: &principal, tool: &name, effect, input: &input, now_ms: NOW });
        assert_eq!(decision.verdict, Verdict::Error, "{tool} {input}");
        assert!(decision.errors[0].contains(message), "{:?}", decision.errors);
    }
}

#[test]
fn the_strictest_of_all_matching_approval_policies_is_owed() {
    let owing = approval(
        r#"
@id("t") @approvals("1") @approver_role("treasurer, cfo") @expires("1h") @reason("money")
permit(principal, action == Action::"ads:createCampaign", resource) when { context.input.budget.greaterThan(decimal("1000.0")) };
@approvals("2") @expires("5m") @reason("much money")
permit(principal, action, resource) when { context.input has budget && context.input.budget.greaterThan(decimal("10000.0")) };
@confirm
permit(principal, action in Action::"write", resource);
@confirm
permit(principal, action in Action::"destructive", resource);
"#,
    );
    let policies = load(&[access("permit(principal, action, resource);"), owing.clone()]);
    let roles: std::collections::BTreeSet<_> = ["treasurer".to_owned(), "cfo".to_owned()].into();
    let small = decide(&policies, &agent(&[]), CREATE, campaign(1000)).owed;
    assert_eq!((small.confirm, small.approvals, small.expires_seconds), (true, 0, 900));
    let large = decide(&policies, &agent(&[]), CREATE, campaign(10000.0001)).owed;
    let expected = Obligations {
        confirm: true,
        approvals: 2,
        approver_roles: vec![roles],
        expires_seconds: 300,
        reasons: vec!["money".into(), "much money".into()],
        policies: vec![
            "approval/y.cedar#t".into(),
            "approval/y.cedar#policy1".into(),
            "approval/y.cedar#policy2".into(),
        ],
    };
    assert_eq!(large, expected);
    assert!(large.covers(&small) && !small.covers(&large));
    assert!(decide(&policies, &agent(&[]), "ads:listCampaigns", json!({})).owed.is_empty());

    let denied = decide(&load(&[owing]), &agent(&[]), CREATE, campaign(20_000));
    assert_eq!((denied.verdict, denied.owed), (Verdict::Deny, Obligations::default()), "what is denied owes nothing");
}

/// Cedar's JSON form would read these as an admin role and a decimal. Here they are what they look like.
#[test]
fn arguments_cannot_pose_as_entities_or_decimals() {
    let properties = json!({
        "who": {"type": "string"},
        "what": {"type": "object", "required": ["__entity"], "properties": {"__entity": {"type": "object", "required": ["type", "id"],
            "properties": {"type": {"type": "string"}, "id": {"type": "string"}}}}},
        "list": {"type": "array", "items": {"type": "string"}},
    });
    let tool = tool("u:t", Effect::Write, json!({"type": "object", "properties": properties}));
    let policy = "permit(principal, action, resource) when {\n\
                  context.input has what && context.input.what[\"__entity\"][\"id\"] == \"admin\" && !(principal in Role::\"admin\") };";
    let policies = Policies::load(&[access(policy)], std::slice::from_ref(&tool))
        .unwrap_or_else(|p| panic!("{}", crate::support::render(&p)));
    let entity = json!({"__entity": {"type": "Role", "id": "admin"}});
    let extension = json!({"__extn": {"fn": "decimal", "arg": "1.0"}});
    for (input, verdict) in [
        (json!({"what": entity}), Verdict::Allow),
        (json!({"who": entity}), Verdict::Error),
        (json!({"list": [extension]}), Verdict::Error),
        (json!({"what": extension}), Verdict::Error),
        (json!({"__entity": {"type": "Role", "id": "admin"}}), Verdict::Deny),
        (json!({"__extn": {"fn": "ip", "arg": "::1"}, "who": "__entity"}), Verdict::Deny),
        (json!({"undeclared": vec![1; 100_000]}), Verdict::Deny),
    ] {
        let principal = agent(&[]);
        let facts =
            Facts { principal: &principal, tool: &tool.tool, effect: Effect::Write, input: &input, now_ms: NOW };
        assert_eq!(policies.decide(&facts).verdict, verdict, "{input}");
    }
}

#[test]
fn a_role_or_tool_name_cannot_pose_as_another() {
    let awkward = tool("ads:x\"];permit", Effect::Read, json!({"type": "object"}));
    let policies = Policies::load(
        &[access("permit(principal in Role::\"admin\", action == Action::\"ads:x\\\"];permit\", resource);")],
        std::slice::from_ref(&awkward),
    )
    .unwrap_or_else(|p| panic!("{}", crate::support::render(&p)));
    for (roles, verdict) in
        [(["admin"], Verdict::Allow), (["admin\""], Verdict::Deny), (["Role::\"admin\""], Verdict::Deny)]
    {
        let principal = agent(&roles);
        let facts =
            Facts { principal: &principal, tool: &awkward.tool, effect: Effect::Read, input: &json!({}), now_ms: NOW };
        assert_eq!(policies.decide(&facts).verdict, verdict, "{roles:?}");
    }
}

#[test]
fn an_explanation_names_what_held_and_what_was_lacking() {
    let policies = load(&[
        access(
            "@id(\"writers\") @reason(\"Writers write.\") permit(principal in Role::\"writer\", action == Action::\"ads:createCampaign\", resource);\n\
             @id(\"cheap\") permit(principal, action in Action::\"write\", resource) when { context.input has name && context.input.name == \"cheap\" };\n\
             @id(\"frozen\") forbid(principal, action, resource) when { principal.development };\n\
             permit(principal in Role::\"reader\", action in Action::\"read\", resource);",
        ),
        approval(
            "@id(\"two\") @approvals(\"2\") @approver_role(\"cfo\") permit(principal, action in Action::\"write\", resource);",
        ),
    ]);
    let name = CREATE.parse().expect("tool");
    let input = campaign(5);
    let explain = |principal: &countersign_domain::Principal| {
        policies.explain(&Facts { principal, tool: &name, effect: Effect::Write, input: &input, now_ms: NOW })
    };

    let lacking = explain(&agent(&["reader"]));
    let whys: Vec<_> = lacking.unsatisfied.iter().map(|u| (u.policy.policy.id.as_str(), u.why.as_str())).collect();
    assert_eq!(
        whys,
        [
            ("access/x.cedar#writers", "it asks for the role \"writer\", which the principal doesn't have"),
            ("access/x.cedar#cheap", "its condition doesn't hold"),
        ]
    );
    let text = lacking.to_string();
    for part in [
        "DENY: no permit holds",
        "with reader",
        "Writers write.",
        "| @id(\"writers\")",
        "\"targeting\": an object without",
    ] {
        assert!(text.contains(part), "{part} is absent from\n{text}");
    }

    let allowed = explain(&agent(&["writer"]));
    assert_eq!(allowed.owing[0].policy.policy.id, "approval/y.cedar#two");
    assert!(allowed.to_string().contains("Owed before it happens: 2 approvals by cfo, within 900 s"), "{allowed}");

    let mut developer = agent(&["writer"]);
    developer.development = true;
    let forbidden = explain(&developer);
    assert_eq!(forbidden.satisfied.len(), 2, "the permit that held is shown beside the forbid");
    assert!(forbidden.to_string().contains("DENY: forbidden by access/x.cedar#frozen"), "{forbidden}");
    assert!(forbidden.unsatisfied.is_empty() && forbidden.owing.is_empty());

    let json = serde_json::to_value(&allowed).expect("serialises");
    assert_eq!(json["decision"]["verdict"], "allow");
}

#[test]
fn cases_tell_passed_from_failed() {
    let policies = load(&[
        access("permit(principal in Role::\"writer\", action, resource);"),
        approval("@approvals(\"1\") @approver_role(\"cfo\") permit(principal, action in Action::\"write\", resource);"),
    ]);
    let cases: Vec<cases::Case> = serde_json::from_value(json!([
        {"name": "strangers", "tool": CREATE, "input": {"name": "x", "budget": 1}, "expect": "deny"},
        {"name": "readers", "principal": {"roles": ["writer"]}, "tool": "ads:listCampaigns", "expect": "allow"},
        {"name": "owed", "principal": {"roles": ["writer"]}, "tool": CREATE, "input": {"name": "x", "budget": 1},
         "expect": {"approvals": 1, "confirm": false, "approver": {"roles": ["cfo"], "accepted": true}, "policy": "approval/y.cedar#policy0"}},
        {"name": "not free", "principal": {"roles": ["writer"]}, "tool": CREATE, "input": {"name": "x", "budget": 1}, "expect": "allow"},
        {"name": "wrong", "principal": {"roles": ["writer"]}, "tool": CREATE, "input": {"name": "x", "budget": 1},
         "expect": {"approvals": 2, "approver": {"roles": ["clerk"], "accepted": true}, "policy": "access/x.cedar#other"}},
        {"name": "unknown", "tool": "ads:none", "expect": "error"},
    ]))
    .expect("cases");
    let results = cases::run(&policies, &cases);
    let passed: Vec<_> = results.iter().map(|r| (r.name.as_str(), r.passed)).collect();
    let expected = [
        ("strangers", true),
        ("readers", true),
        ("owed", true),
        ("not free", false),
        ("wrong", false),
        ("unknown", true),
    ];
    assert_eq!(passed, expected);
    assert_eq!(results[3].differences, ["owed: expected nothing, got 1 approvals"]);
    assert_eq!(results[4].differences.len(), 3, "{:?}", results[4].differences);
    assert!(results[4].explanation.as_deref().is_some_and(|e| e.starts_with("ALLOW")));
    let unknown_key = json!({"name": "x", "tool": CREATE, "expect": "deny", "inptu": {}});
    assert!(serde_json::from_value::<cases::Case>(unknown_key).is_err());
}

#[test]
fn being_asked_by_an_upstream_needs_a_permit_that_says_so() {
    let upstream = "ads".parse().expect("a name");
    let tools = countersign_policy::ToolDescription::fixed(&upstream);
    let decide = |policy: &str, name: &str, input: Value| {
        let policies = Policies::load(&[access(policy)], &tools).expect("policies");
        let principal = agent(&[]);
        let tool = name.parse().expect("a name");
        let facts = Facts { principal: &principal, tool: &tool, effect: Effect::Read, input: &input, now_ms: NOW };
        policies.decide(&facts).verdict
    };
    use Verdict::{Allow, Deny};
    let read = json!({"uri": "file:///a"});
    let ask = json!({"mode": "url", "message": "m", "fields": [], "host": "pay.example"});
    let general = "permit (principal, action, resource);";
    assert_eq!(decide(general, "ads:resources/read", read.clone()), Allow);
    assert_eq!(decide(general, "ads:elicitation/create", ask.clone()), Deny);
    for group in ["read", "ads:*"] {
        let policy = format!("permit (principal, action in Action::{group:?}, resource);");
        assert_eq!(decide(&policy, "ads:elicitation/create", ask.clone()), Deny, "{group}");
        assert_eq!(decide(&policy, "ads:resources/read", read.clone()), Allow, "{group}");
    }
    for group in ["asks", "ads:asks", "ads:elicitation/create"] {
        let policy = format!("permit (principal, action in Action::{group:?}, resource);");
        assert_eq!(decide(&policy, "ads:elicitation/create", ask.clone()), Allow, "{group}");
        assert_eq!(decide(&policy, "ads:resources/read", read.clone()), Deny, "{group}");
    }
    let by_host = r#"permit (principal, action == Action::"ads:elicitation/create", resource)
        when { context.input has host && context.input.host == "pay.example" };"#;
    assert_eq!(decide(by_host, "ads:elicitation/create", ask.clone()), Allow);
    let forbid = format!("{by_host} forbid (principal, action, resource);");
    assert_eq!(decide(&forbid, "ads:elicitation/create", ask), Deny, "a general forbid does cover it");
}
