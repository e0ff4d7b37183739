//! What is refused at load, and where the finger points.

use countersign_policy::{CedarSchema, Policies, PolicyProblem, Severity};

use crate::support::{access, ads_tools, approval, load, render};

/// (policies, line, column, part of the message, part of the help)
const REFUSED: &[(&str, usize, usize, &str, &str)] = &[
    ("permit(principal, action, resource", 1, 35, "unexpected end of input", ""),
    (
        "// comment\npermit(principal, action == Action::\"ads:createCampaign\", resource)\nwhen { context.input.budgt.greaterThan(decimal(\"1.0\")) };",
        3,
        8,
        "`input.budgt`",
        "did you mean budget?",
    ),
    (
        "permit(principal, action == Action::\"ads:createCampaign\", resource)\nwhen { true &&\n   context.input has budgt };",
        3,
        4,
        "ads:createCampaign has no argument \"budgt\"",
        "did you mean budget?",
    ),
    ("forbid(principal, action, resource) when { context.input has nothing };", 1, 44, "none of the 4 tools", ""),
    (
        "forbid(principal, action, resource) unless { context has inputs };",
        1,
        46,
        "\"inputs\" of context",
        "input, time",
    ),
    ("forbid(principal, action, resource) unless { principal has role };", 1, 46, "\"role\" of principal", "hasTag"),
    (
        "permit(principal, action == Action::\"ads:createCampaign\", resource) when { context.input.targeting == \"x\" };",
        1,
        76,
        "`input.targeting`",
        "policies can't name it: an object without declared properties",
    ),
    (
        "permit(principal, action == Action::\"ads:createCampaign\", resource) when { context.input has targeting };",
        1,
        76,
        "has no argument \"targeting\"",
        "policies can't name it",
    ),
    (
        "permit(principal, action == Action::\"ads:createCampaign\", resource) when { context.input.startDate == \"x\" };",
        1,
        76,
        "optional attribute `input.startDate`",
        "has",
    ),
    (
        "permit(principal, action == Action::\"ads:createCampaign\", resource) when { context.input.budget > 5 };",
        1,
        76,
        "unexpected type: expected",
        "",
    ),
    (
        "permit(principal, action == Action::\"ads:createCampain\", resource);",
        1,
        29,
        "no accepted tool",
        "did you mean ads:createCampaign",
    ),
    ("permit(principal, action, resource) when { action == Action::\"ads:nothing\" };", 1, 54, "no accepted tool", ""),
    ("permit(principal, action in Action::\"writes\", resource);", 1, 29, "no accepted tool", "did you mean write"),
    ("permit(principal, action == Other::Action::\"read\", resource);", 1, 29, "unrecognized action", ""),
    ("permit(principal, action, resource in Upstream::\"ad\");", 1, 39, "no upstream", "did you mean ads?"),
    ("permit(principal, action, resource == Tool::\"ads:x\");", 1, 39, "no accepted tool", ""),
    (
        "forbid(principal == Principal::\"mallory\", action, resource);",
        1,
        21,
        "names nobody",
        "principal.id == \"mallory\"",
    ),
    ("permit(principal in Group::\"x\", action, resource);", 1, 21, "unrecognized entity type", ""),
    ("permit(principal in ?principal, action, resource);", 1, 1, "templates", ""),
    (
        "permit(principal, action, resource);\n  @confirm\npermit(principal, action, resource);",
        2,
        3,
        "@confirm means nothing",
        "approval set",
    ),
    ("@idd(\"x\")\npermit(principal, action, resource);", 1, 1, "unknown annotation @idd", "did you mean @id?"),
    (
        "@id(\"a\") permit(principal, action, resource);\n@id(\"a\") forbid(principal, action, resource);",
        2,
        1,
        "already used by access/x.cedar#a in line 1",
        "",
    ),
    ("// ünïcödé\n/**/forbid(principal, action, resource);", 2, 1, "unexpected token", ""),
];

#[test]
fn slips_are_refused_with_file_line_and_column() {
    for &(text, line, column, message, help) in REFUSED {
        let problems = Policies::load(&[access(text)], &ads_tools()).expect_err(text);
        let errors: Vec<_> = problems.iter().filter(|p| p.severity == Severity::Error).collect();
        assert_eq!(errors.len(), 1, "{text}\n{}", render(&problems));
        let problem = errors[0];
        assert!(problem.message.contains(message), "{text}\n{problem:#}");
        assert!(problem.help.as_deref().unwrap_or_default().contains(help), "{text}\n{problem:#}");
        assert_eq!((problem.line, problem.column), (line, column), "{problem:#}");
        assert!(problem.to_string().starts_with(&format!("access/x.cedar:{line}:{column}: ")), "{problem}");
        assert_eq!(problem.excerpt.as_deref(), text.lines().nth(line - 1).map(str::trim_end));
    }
}

#[test]
fn the_rendered_problem_points_at_the_place() {
    let text = "permit(principal, action == Action::\"ads:createCampaign\", resource)\nwhen { context.input.budgt.greaterThan(decimal(\"1.0\")) };";
    let problems = Policies::load(&[access(text)], &ads_tools()).expect_err("refused");
    let rendered = format!("{:#}", problems[0]);
    let expected = "access/x.cedar:2:8: attribute `input.budgt` in context for Action::\"ads:createCampaign\" not found\n  \
                    | when { context.input.budgt.greaterThan(decimal(\"1.0\")) };\n  \
                    |        ^\n  \
                    = did you mean budget?";
    assert_eq!(rendered, expected);
}

#[test]
fn ids_are_unique_across_files_and_sets() {
    let files = [
        access("@id(\"a\") permit(principal, action, resource);"),
        approval("permit(principal, action, resource);\n@id(\"a\") @confirm permit(principal, action, resource);"),
    ];
    let problems = Policies::load(&files, &ads_tools()).expect_err("refused");
    let shown: Vec<_> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        shown,
        [
            "approval/y.cedar:1:1: an approval policy that states nothing owed",
            "approval/y.cedar:2:1: @id(\"a\") is already used by access/x.cedar#a in line 1",
        ]
    );
}

#[test]
fn every_problem_of_every_file_is_reported_at_once() {
    let files = [
        access("permit(principal, action == Action::\"ads:a\", resource);\n@x permit(principal, action, resource);"),
        approval("forbid(principal, action, resource);"),
    ];
    let problems = Policies::load(&files, &ads_tools()).expect_err("refused");
    let places: Vec<_> = problems.iter().map(|p| (p.file.as_str(), p.line)).collect();
    assert_eq!(places, [("access/x.cedar", 1), ("access/x.cedar", 2), ("approval/y.cedar", 1)]);
}

#[test]
fn deep_and_long_texts_are_refused_or_loaded_but_never_crash() {
    // (a condition of this depth, the depth from which it is refused for it)
    let nested = |open: &str, close: &str, n| format!("{}1{} == 1", open.repeat(n), close.repeat(n));
    let chained = |part: &str, n| format!("{}true", part.repeat(n));
    for depth in [35, 480, 20_000] {
        for (condition, limit) in [
            (nested("(", ")", depth), 40),
            (nested("[", "]", depth), 40),
            (nested("{x: ", "}", depth), 40),
            (chained("if true then true else ", depth), 40),
            (chained("if ", depth), 40),
            (chained("!", depth), 1_000),
            (chained("true && ", depth), 1_000),
            (chained("true || ", depth), 1_000),
            (chained("1 + ", depth), 1_000),
            (chained("- ", depth), 1_000),
            (format!("context{} == 1", ".input".repeat(depth)), 1_000),
            (format!("context{} == 1", "[\"input\"]".repeat(depth)), 1_000),
            (format!("context.input has {}a", "a.".repeat(depth)), 1_000),
            (format!("principal in {}principal", "principal in ".repeat(depth)), 1_000),
        ] {
            let text = format!("permit(principal, action, resource) when {{ {condition} }};");
            let problems = Policies::load(&[access(&text)], &ads_tools()).err().unwrap_or_default();
            let bounded = |p: &PolicyProblem| {
                p.message.starts_with("more than 1000") || p.message.contains("nested more than 40")
            };
            assert_eq!(problems.iter().any(bounded), depth > limit, "{depth} {text:.80}: {}", render(&problems));
        }
    }
}

#[test]
fn files_are_bounded_and_named_once() {
    let twice = [access(""), access("")];
    assert!(Policies::load(&twice, &[]).expect_err("refused")[0].message.contains("given twice"));
    let large = [access(&" ".repeat((1 << 20) + 1))];
    assert_eq!(
        Policies::load(&large, &[]).expect_err("refused")[0].to_string(),
        "access/x.cedar: longer than 1048576 bytes"
    );
}

#[test]
fn nothing_loads_without_tools_but_general_policies() {
    let general = "permit(principal in Role::\"operator\", action in Action::\"read\", resource);\n\
                   forbid(principal, action, resource) when { context.input has budget };";
    let policies = Policies::load(&[access(general)], &[]).unwrap_or_else(|p| panic!("{}", render(&p)));
    assert_eq!(policies.warnings(), []);
    let specific = "permit(principal, action == Action::\"ads:createCampaign\", resource);";
    let problems = Policies::load(&[access(specific)], &[]).expect_err("refused");
    assert_eq!(problems[0].help.as_deref(), Some("no tools are accepted yet"));
}

#[test]
fn a_policy_that_can_never_apply_is_a_warning() {
    let policies =
        load(&[access("\nforbid(principal, action, resource) when { principal.kind == \"agent\" && false };")]);
    let shown: Vec<_> = policies.warnings().iter().map(ToString::to_string).collect();
    assert_eq!(shown.len(), 1, "{shown:?}");
    assert!(shown[0].starts_with("access/x.cedar:2:1: warning: "), "{shown:?}");
}

#[test]
fn the_version_names_the_texts_and_not_their_order() {
    let (a, b) =
        (access("permit(principal, action, resource);"), approval("@confirm permit(principal, action, resource);"));
    let version = load(&[a.clone(), b.clone()]).version().to_owned();
    assert!(version.starts_with("sha256:") && version.len() == 71, "{version}");
    assert_eq!(load(&[b.clone(), a.clone()]).version(), version);
    let changed = access("permit(principal, action, resource); ");
    assert_ne!(load(&[changed, b]).version(), version);
}

#[test]
fn what_is_left_out_of_the_schema_is_known() {
    let schema = CedarSchema::generate(&ads_tools()).expect("schema");
    let omitted: Vec<_> = schema.omitted().iter().map(|o| (o.tool.to_string(), o.argument.as_str())).collect();
    assert_eq!(omitted, [("ads:createCampaign".to_owned(), "targeting")]);
    assert!(schema.to_cedar_text().contains("// ads:createCampaign \"targeting\" is left out"));
}
