//! What a policy names: arguments, attributes, tools, upstreams and principals that don't exist.
//!
//! Cedar's validator finds an access to an unknown argument, but takes `context.input has tpyo` for a plain `false`, and
//! knows nothing of which entities exist. Either would leave a forbid that silently never applies.

use std::collections::BTreeSet;

use cedar_policy::{ActionConstraint, Policy};
use cedar_policy_core::ast::{Expr, ExprKind, Literal, Var};

use crate::annotations::Finding;
use crate::problem::near;
use crate::schema::{CONTEXT_ATTRIBUTES, CedarSchema, PRINCIPAL_ATTRIBUTES, TOOL_ATTRIBUTES, ToolType, groups};

/// Whether a policy's scope covers an action with these names: its own and those of its groups.
pub(crate) fn covers(policy: &Policy, names: &[String]) -> bool {
    let named = |uid: &cedar_policy::EntityUid| names.iter().any(|n| n == uid.id().unescaped());
    match policy.action_constraint() {
        ActionConstraint::Any => true,
        ActionConstraint::Eq(uid) => named(&uid),
        ActionConstraint::In(uids) => uids.iter().any(named),
    }
}

/// Names that lead nowhere, in one policy.
pub(crate) fn check(policy: &Policy, schema: &CedarSchema, findings: &mut Vec<Finding>) {
    let covered: Vec<(String, &ToolType)> = schema
        .tools
        .iter()
        .filter(|(tool, known)| {
            let mut names = groups(tool, known.effect);
            names.push(tool.to_string());
            covers(policy, &names)
        })
        .map(|(tool, known)| (tool.to_string(), known))
        .collect();
    let start = policy.as_ref().loc().map_or(0, |loc| loc.start());
    let condition = policy.as_ref().non_scope_constraints();
    for expr in condition.into_iter().flat_map(Expr::subexpressions) {
        let offset = expr.source_loc().map_or(start, |loc| loc.start());
        for path in tested_paths(expr) {
            findings.extend(check_path(&path, &covered, schema).map(|f| Finding { offset, ..f }));
        }
    }
    check_entities(policy, schema, start, findings);
}

/// The attribute paths that `has` asks for, with the variable in front: `["context", "input", "budget"]`.
fn tested_paths(expr: &Expr) -> Vec<Vec<String>> {
    match expr.expr_kind() {
        ExprKind::HasAttr { expr, attr } => path_of(expr).map(|path| vec![extend(&path, attr)]).unwrap_or_default(),
        ExprKind::ExtHasAttr { expr, attrs } => {
            let Some(mut path) = path_of(expr) else { return Vec::new() };
            let step = |attr: &_| {
                path = extend(&path, attr);
                path.clone()
            };
            attrs.iter().map(step).collect()
        }
        _ => Vec::new(),
    }
}

fn path_of(expr: &Expr) -> Option<Vec<String>> {
    match expr.expr_kind() {
        ExprKind::Var(variable) => Some(vec![
            match variable {
                Var::Principal => "principal",
                Var::Action => "action",
                Var::Resource => "resource",
                Var::Context => "context",
            }
            .to_owned(),
        ]),
        ExprKind::GetAttr { expr, attr } => path_of(expr).map(|path| extend(&path, attr)),
        _ => None,
    }
}

fn extend(path: &[String], attr: &impl ToString) -> Vec<String> {
    path.iter().cloned().chain([attr.to_string()]).collect()
}

fn check_path(path: &[String], covered: &[(String, &ToolType)], schema: &CedarSchema) -> Option<Finding> {
    let words: Vec<&str> = path.iter().map(String::as_str).collect();
    let known: &[&str] = match words[..] {
        ["principal", _] => &PRINCIPAL_ATTRIBUTES,
        ["resource", _] => &TOOL_ATTRIBUTES,
        ["context", _] => &CONTEXT_ATTRIBUTES,
        ["context", "input", ref argument @ ..] => return check_argument(argument, covered, schema),
        _ => return None,
    };
    let last = words.last().filter(|name| !known.contains(name))?;
    let help = format!("{} has: {}", words[0], known.join(", "));
    let tags = " (further claims are tags: principal.hasTag(\"…\") && principal.getTag(\"…\") == \"…\")";
    let help = if words[0] == "principal" { help + tags } else { help };
    Some(Finding { offset: 0, message: format!("attribute {last:?} of {} does not exist", words[0]), help: Some(help) })
}

fn check_argument(argument: &[&str], covered: &[(String, &ToolType)], schema: &CedarSchema) -> Option<Finding> {
    // With no tool in its scope a policy can't match anything; whether that is meant, Cedar's own warning asks.
    if covered.is_empty() || covered.iter().any(|(_, tool)| tool.input.at(argument).is_some()) {
        return None;
    }
    let path = argument.join(".");
    let message = match covered {
        [(only, _)] => format!("{only} has no argument {path:?}"),
        _ => format!("none of the {} tools in this policy's scope has an argument {path:?}", covered.len()),
    };
    Some(Finding { offset: 0, message, help: argument_help(&path, covered, schema) })
}

/// Why an argument can't be named, or what else was meant.
fn argument_help(path: &str, covered: &[(String, &ToolType)], schema: &CedarSchema) -> Option<String> {
    let left_out = schema.omitted().iter().find(|o| {
        let within = path.strip_prefix(&o.argument).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        within && covered.iter().any(|(tool, _)| *tool == o.tool.to_string())
    });
    if let Some(note) = left_out {
        return Some(format!(
            "{} declares {:?}, but policies can't name it: {}",
            note.tool, note.argument, note.reason
        ));
    }
    let paths: BTreeSet<String> = covered.iter().flat_map(|(_, tool)| tool.input.paths()).collect();
    let near = near(path, paths.iter().map(String::as_str));
    (!near.is_empty()).then(|| format!("did you mean {}?", near.join(" or ")))
}

/// The help for an access to an argument that Cedar's validator found unknown; `None` if the path isn't an argument's.
pub(crate) fn help_for_access(policy: &Policy, schema: &CedarSchema, path: &str) -> Option<String> {
    let path = path.strip_prefix("input.")?;
    let covered: Vec<(String, &ToolType)> = schema
        .tools
        .iter()
        .map(|(tool, known)| (tool, known, [groups(tool, known.effect), vec![tool.to_string()]].concat()))
        .filter(|(_, _, names)| covers(policy, names))
        .map(|(tool, known, _)| (tool.to_string(), known))
        .collect();
    argument_help(path, &covered, schema)
}

fn check_entities(policy: &Policy, schema: &CedarSchema, start: usize, findings: &mut Vec<Finding>) {
    let mut seen = BTreeSet::new();
    for uid in policy.entity_literals() {
        let (kind, id) = (uid.type_name().to_string(), uid.id().unescaped().to_owned());
        if seen.insert((kind.clone(), id.clone()))
            && let Some((message, help)) = unknown_entity(&kind, &id, schema)
        {
            let offset = literal_offset(policy, &kind, &id).unwrap_or(start);
            findings.push(Finding { offset, message, help });
        }
    }
}

fn unknown_entity(kind: &str, id: &str, schema: &CedarSchema) -> Option<(String, Option<String>)> {
    let (known, what): (Vec<String>, _) = match kind {
        "Action" => (schema.action_names().collect(), "no accepted tool or group of tools"),
        "Tool" => (schema.tools.keys().map(ToString::to_string).collect(), "no accepted tool"),
        "Upstream" => {
            (schema.tools.keys().map(|t| t.upstream.to_string()).collect(), "no upstream with accepted tools")
        }
        "Principal" if !is_party_key(id) => {
            let help = format!("write: principal.id == {id:?} && principal.issuer == \"…\"");
            return Some((
                format!("Principal::{id:?} names nobody: the same id may come from several issuers"),
                Some(help),
            ));
        }
        _ => return None,
    };
    if known.iter().any(|name| name == id) {
        return None;
    }
    let near = near(id, known.iter().map(String::as_str));
    let help = match near.is_empty() {
        false => format!("did you mean {}?", near.join(" or ")),
        true if schema.tools.is_empty() => "no tools are accepted yet".to_owned(),
        true => "a tool can be named once its definition is accepted".to_owned(),
    };
    Some((format!("{kind}::{id:?}: {what} has this name"), Some(help)))
}

/// Whether an id has the form of [`countersign_domain::Principal::key`].
fn is_party_key(id: &str) -> bool {
    let Some((length, rest)) = id.split_once(':') else { return false };
    let length: Option<usize> = length.parse().ok();
    length.and_then(|n| rest.get(n..)).is_some_and(|subject| subject.starts_with('|'))
}

fn literal_offset(policy: &Policy, kind: &str, id: &str) -> Option<usize> {
    let ast = policy.as_ref();
    let in_condition = ast.non_scope_constraints().into_iter().flat_map(Expr::subexpressions).find_map(|expr| {
        let ExprKind::Lit(Literal::EntityUID(uid)) = expr.expr_kind() else { return None };
        let (eid, loc): (&str, _) = (uid.eid().as_ref(), expr.source_loc()?);
        (eid == id && uid.entity_type().to_string() == kind).then(|| loc.start())
    });
    // Scope constraints carry no position of their own through the public interface, but their text is the literal's.
    in_condition.or_else(|| {
        let loc = ast.loc()?;
        loc.snippet()?.find(&format!("{kind}::{id:?}")).map(|at| loc.start() + at)
    })
}
