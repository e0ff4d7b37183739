//! Whatever is valid by a JSON Schema becomes a context that Cedar's own validation accepts. `decide` relies on that.

use cedar_policy::{Authorizer, EntityUid, PolicySet, Schema};
use countersign_domain::Effect;
use countersign_policy::{CedarSchema, Facts, Policies, Verdict};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::support::{NOW, access, agent, effect_of, load, tool};

/// A schema and a value that is valid by it. The second is generated from the first, branch by branch.
fn typed_value(depth: u32) -> BoxedStrategy<(Value, Value)> {
    let leaf = prop_oneof![
        any::<String>().prop_map(|s| (json!({"type": "string"}), json!(s))),
        any::<i64>().prop_map(|n| (json!({"type": "integer"}), json!(n))),
        (-1_000_000_000i64..1_000_000_000).prop_map(|n| (json!({"type": "number"}), json!(n as f64 / 10_000.0))),
        (-900_000_000_000i64..900_000_000_000).prop_map(|n| (json!({"type": "number"}), json!(n))),
        any::<bool>().prop_map(|b| (json!({"type": "boolean"}), json!(b))),
        Just((json!({"enum": ["a", "b"]}), json!("b"))),
        Just((json!({"anyOf": [{"type": "integer"}, {"type": "null"}]}), Value::Null)),
        Just((json!({"type": ["string", "null"]}), Value::Null)),
        Just((json!({"anyOf": [{"type": "integer"}, {"type": "string"}]}), json!("left out"))),
        Just((json!({"type": "object"}), json!({"__entity": {"type": "Role", "id": "admin"}}))),
        Just((json!({"$ref": "#/$defs/named"}), json!({"__extn": "x"}))),
    ];
    if depth == 0 {
        return leaf.boxed();
    }
    prop_oneof![
        2 => leaf,
        1 => object(depth - 1),
        1 => (typed_value(depth - 1), 0usize..3).prop_map(|((schema, value), n)| {
            (json!({"type": "array", "items": schema}), Value::Array(vec![value; n]))
        }),
    ]
    .boxed()
}

fn object(depth: u32) -> BoxedStrategy<(Value, Value)> {
    let name = prop_oneof![
        "[a-z]{1,4}",
        Just("__entity".to_owned()),
        Just("__extn".to_owned()),
        Just("__cedar".to_owned()),
        Just("like".to_owned()),
        any::<String>(),
    ];
    // (name, (schema, value), required, present)
    let property = (name, typed_value(depth), any::<bool>(), any::<bool>());
    (prop::collection::vec(property, 0..5), any::<bool>())
        .prop_map(|(properties, extra)| {
            let (mut schemas, mut values, mut required) = (Map::new(), Map::new(), Vec::new());
            for (name, (schema, value), is_required, present) in properties {
                if schemas.insert(name.clone(), schema).is_some() {
                    values.remove(&name);
                    required.retain(|r| *r != name);
                }
                if is_required || present {
                    values.insert(name.clone(), value);
                }
                if is_required {
                    required.push(name);
                }
            }
            if extra && !schemas.contains_key("undeclared") {
                values.insert("undeclared".into(), json!([1, {"x": null}]));
            }
            (json!({"type": "object", "properties": schemas, "required": required}), Value::Object(values))
        })
        .boxed()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]
    #[test]
    fn valid_arguments_fit_the_generated_schema((mut schema, input) in object(2)) {
        schema["$defs"] = json!({"named": {"type": "object", "properties": {"__extn": {"type": "string"}}}});
        let tools = [tool("u:t", Effect::Write, schema)];
        let generated = CedarSchema::generate(&tools).expect("schema");
        let text = generated.to_cedar_text();
        let (cedar, _) = Schema::from_cedarschema_str(&text).map_err(|e| TestCaseError::fail(format!("{e}\n{text}")))?;

        let policies = Policies::load(&[access("permit(principal, action, resource);")], &tools).expect("loads");
        let principal = agent(&["r"]);
        let facts = Facts { principal: &principal, tool: &tools[0].tool, effect: Effect::Write, input: &input, now_ms: NOW };
        let decision = policies.decide(&facts);
        prop_assert_eq!(decision.verdict, Verdict::Allow, "{:?} for {}", decision.errors, input);

        let (request, _) = policies.cedar_request(&facts).map_err(TestCaseError::fail)?;
        let context = request.context().expect("a context");
        let action: EntityUid = "Action::\"u:t\"".parse().expect("uid");
        context.validate(&cedar, &action).map_err(|e| TestCaseError::fail(format!("{e}\n{input}\n{text}")))?;
    }

    /// The principal that is built per request fits the schema as well.
    #[test]
    fn every_principal_fits_the_generated_schema(id in any::<String>(), role in any::<String>(), person in any::<Option<String>>(), claim in any::<(String, String)>()) {
        let tools = [tool("u:t", Effect::Destructive, json!({"type": "object"}))];
        let policies = Policies::load(&[access("permit(principal, action, resource);")], &tools).expect("loads");
        let (cedar, _) = Schema::from_cedarschema_str(&policies.schema().to_cedar_text()).expect("schema");
        let mut principal = agent(&[&role]);
        (principal.id, principal.on_behalf_of, principal.attributes) = (id, person, [claim].into());
        let facts = Facts { principal: &principal, tool: &tools[0].tool, effect: Effect::Destructive, input: &json!({}), now_ms: NOW };
        let (_, entities) = policies.cedar_request(&facts).map_err(TestCaseError::fail)?;
        // The action's parents are flattened here; the schema knows actions itself and checks only the rest.
        let others = entities.into_iter().filter(|e| e.uid().type_name().to_string() != "Action");
        cedar_policy::Entities::from_entities(others, Some(&cedar)).map_err(|e| TestCaseError::fail(e.to_string()))?;
    }

    /// Our evaluation of a slice of the policies against Cedar's authorizer on the whole set.
    #[test]
    fn decisions_agree_with_cedars_authorizer(
        chosen in prop::collection::vec(prop::sample::select(POLICIES), 0..6),
        tool in prop::sample::select(&["ads:listCampaigns", "ads:getCampaign", "ads:createCampaign", "ads:deleteCampaign"][..]),
        roles in prop::collection::vec(prop::sample::select(&["a", "b"][..]), 0..3),
        budget in 0i64..20,
    ) {
        let text = chosen.join("\n");
        let policies = load(&[access(&text)]);
        let principal = agent(&roles);
        let (name, input) = (tool.parse().expect("tool"), json!({"name": "n", "budget": budget, "id": "i"}));
        let facts = Facts { principal: &principal, tool: &name, effect: effect_of(tool), input: &input, now_ms: NOW };
        let decision = policies.decide(&facts);

        let (request, entities) = policies.cedar_request(&facts).map_err(TestCaseError::fail)?;
        let set: PolicySet = text.parse().expect("policies");
        let oracle = Authorizer::new().is_authorized(&request, &set, &entities);
        let expected = match (oracle.diagnostics().errors().next(), oracle.decision()) {
            (Some(_), _) => Verdict::Error,
            (None, cedar_policy::Decision::Allow) => Verdict::Allow,
            (None, cedar_policy::Decision::Deny) => Verdict::Deny,
        };
        prop_assert_eq!(decision.verdict, expected, "{}", text);
        if expected != Verdict::Error {
            let mut named: Vec<String> = oracle.diagnostics().reason().map(|id| format!("access/x.cedar#{id}")).collect();
            let mut ours: Vec<String> = decision.determining.into_iter().map(|p| p.id).collect();
            named.sort();
            ours.sort();
            prop_assert_eq!(ours, named);
        }
    }
}

/// Policies over the advertising tools that hold for some calls; one can overflow.
const POLICIES: &[&str] = &[
    "permit(principal, action, resource);",
    "permit(principal in Role::\"a\", action in Action::\"read\", resource);",
    "permit(principal in Role::\"b\", action in Action::\"write\", resource in Upstream::\"ads\");",
    "permit(principal, action in [Action::\"ads:getCampaign\", Action::\"destructive\"], resource == Tool::\"ads:deleteCampaign\");",
    "permit(principal is Principal in Role::\"a\", action in Action::\"ads:*\", resource) unless { resource.effect == \"read\" };",
    "forbid(principal in Role::\"b\", action == Action::\"ads:listCampaigns\", resource);",
    "forbid(principal, action in Action::\"destructive\", resource) when { !(principal in Role::\"b\") };",
    "forbid(principal, action == Action::\"ads:createCampaign\", resource) when { context.input.budget.greaterThan(decimal(\"10.0\")) };",
    "forbid(principal in Role::\"a\", action == Action::\"ads:getCampaign\", resource) when { context.time * 9223372036854775807 > 0 };",
];
