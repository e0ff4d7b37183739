//! The type of a tool's arguments: the part of its JSON Schema (draft 2020-12 and its predecessors) that Cedar can
//! express, and a note on each part that it can't.
//!
//! What is kept here decides both the generated schema and the conversion of arguments, so that the two can't differ.

use std::collections::BTreeMap;

use countersign_domain::ToolRef;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// How deep arguments may nest before the rest is left out.
const MAX_DEPTH: usize = 12;
/// How many types one tool's schema may unfold to (references can multiply) before the rest is left out.
const MAX_NODES: usize = 2_000;

/// An argument that policies can't name, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Omission {
    /// The tool whose argument it is.
    pub tool: ToolRef,
    /// Where: `targeting.age`, `items[].price`; empty for the arguments as a whole.
    pub argument: String,
    /// What the schema says that Cedar can't.
    pub reason: String,
}

/// The Cedar type of one argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ArgType {
    Long,
    Decimal,
    String,
    Bool,
    Set(Box<ArgType>),
    Record(RecordType),
}

/// The Cedar type of an object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RecordType {
    pub fields: BTreeMap<String, Field>,
}

/// One property of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Field {
    pub ty: ArgType,
    /// Whether the tool's schema demands it.
    pub required: bool,
    /// Whether `null` is valid; it counts as absent.
    pub nullable: bool,
}

impl Field {
    /// Whether a policy may rely on it without asking `has`.
    pub fn always_present(&self) -> bool {
        self.required && !self.nullable
    }
}

impl RecordType {
    /// The field at this path; `None` where some step isn't a declared property of an object.
    pub fn at<S: AsRef<str>>(&self, path: &[S]) -> Option<&Field> {
        let (first, rest) = path.split_first()?;
        let field = self.fields.get(first.as_ref())?;
        match (&field.ty, rest) {
            (_, []) => Some(field),
            (ArgType::Record(inner), rest) => inner.at(rest),
            _ => None,
        }
    }

    /// Every path that a policy may name, for suggestions.
    pub fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        for (name, field) in &self.fields {
            paths.push(name.clone());
            if let ArgType::Record(inner) = &field.ty {
                paths.extend(inner.paths().into_iter().map(|p| format!("{name}.{p}")));
            }
        }
        paths
    }
}

/// The type of a tool's arguments by its input schema, and what had to be left out.
pub(crate) fn input_type(tool: &ToolRef, schema: &Value) -> (RecordType, Vec<Omission>) {
    let mut lowering = Lowering { root: schema, tool, omitted: Vec::new(), nodes: 0, following: Vec::new() };
    let record = match lowering.lower(schema, "", 0) {
        Ok(Lowered { ty: ArgType::Record(record), .. }) => record,
        Ok(_) => lowering.omit_all("arguments are not an object"),
        Err(reason) => lowering.omit_all(&reason),
    };
    (record, lowering.omitted)
}

struct Lowered {
    ty: ArgType,
    nullable: bool,
}

struct Lowering<'a> {
    root: &'a Value,
    tool: &'a ToolRef,
    omitted: Vec<Omission>,
    nodes: usize,
    /// References being resolved, to notice a schema that contains itself.
    following: Vec<String>,
}

impl<'a> Lowering<'a> {
    fn omit(&mut self, argument: &str, reason: &str) {
        let (argument, reason) = (argument.to_owned(), reason.to_owned());
        self.omitted.push(Omission { tool: self.tool.clone(), argument, reason });
    }

    fn omit_all(&mut self, reason: &str) -> RecordType {
        self.omit("", reason);
        RecordType::default()
    }

    fn lower(&mut self, schema: &'a Value, path: &str, depth: usize) -> Result<Lowered, String> {
        self.nodes += 1;
        if depth > MAX_DEPTH {
            return Err(format!("nested deeper than {MAX_DEPTH} levels"));
        }
        if self.nodes > MAX_NODES {
            return Err(format!("the schema unfolds to more than {MAX_NODES} types"));
        }
        let Some(schema) = schema.as_object() else {
            return Err("its schema accepts anything or nothing".into());
        };
        // Keywords are conjunctive: a `type` holds whatever combinators stand beside it, so it goes first. A bare
        // `type: object` beside a reference says less than the reference does.
        let describes_itself = schema.contains_key("properties") || schema.contains_key("items");
        if let (Some(Value::String(target)), false) = (schema.get("$ref"), describes_itself) {
            return self.lower_reference(target, path, depth);
        }
        if let Some(named) = schema.get("type") {
            let (name, nullable) = single_type(named)?;
            return Ok(Lowered { ty: self.lower_type(name, schema, path, depth)?, nullable });
        }
        if schema.contains_key("properties") {
            return Ok(Lowered { ty: self.lower_object(schema, path, depth)?, nullable: false });
        }
        if let Some(values) = schema.get("enum").and_then(Value::as_array) {
            return type_of_values(values);
        }
        if let Some(value) = schema.get("const") {
            return type_of_values(std::slice::from_ref(value));
        }
        self.lower_combinator(schema, path, depth)
    }

    fn lower_type(
        &mut self,
        name: &str,
        schema: &'a Map<String, Value>,
        path: &str,
        depth: usize,
    ) -> Result<ArgType, String> {
        match name {
            "string" => Ok(ArgType::String),
            "integer" => Ok(ArgType::Long),
            "number" => Ok(ArgType::Decimal),
            "boolean" => Ok(ArgType::Bool),
            "array" => self.lower_array(schema, path, depth),
            "object" => self.lower_object(schema, path, depth),
            other => Err(format!("values of type {other:?} have no counterpart in Cedar")),
        }
    }

    fn lower_array(&mut self, schema: &'a Map<String, Value>, path: &str, depth: usize) -> Result<ArgType, String> {
        if schema.contains_key("prefixItems") || schema.get("items").is_some_and(Value::is_array) {
            return Err("a list whose elements differ by position (prefixItems)".into());
        }
        let Some(items) = schema.get("items") else {
            return Err("a list whose elements have no declared type".into());
        };
        let element = self.lower(items, &format!("{path}[]"), depth + 1)?;
        if element.nullable {
            return Err("a list whose elements may be null".into());
        }
        Ok(ArgType::Set(Box::new(element.ty)))
    }

    fn lower_object(&mut self, schema: &'a Map<String, Value>, path: &str, depth: usize) -> Result<ArgType, String> {
        let closed = schema.get("additionalProperties") == Some(&Value::Bool(false));
        let properties = schema.get("properties").and_then(Value::as_object);
        if properties.is_none() && !closed && depth > 0 {
            return Err("an object without declared properties".into());
        }
        let open = schema.get("additionalProperties").is_some_and(|more| !closed && *more != Value::Bool(true));
        if open || schema.contains_key("patternProperties") {
            self.omit(
                &join(path, "*"),
                "properties beyond the declared ones (additionalProperties, patternProperties)",
            );
        }
        let required: Vec<&str> =
            schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
        let mut record = RecordType::default();
        for (name, property) in properties.into_iter().flatten() {
            let at = join(path, name);
            match self.lower(property, &at, depth + 1) {
                Ok(Lowered { ty, nullable }) => {
                    let required = required.contains(&name.as_str());
                    record.fields.insert(name.clone(), Field { ty, required, nullable });
                }
                Err(reason) => self.omit(&at, &reason),
            }
        }
        Ok(ArgType::Record(record))
    }

    fn lower_reference(&mut self, target: &str, path: &str, depth: usize) -> Result<Lowered, String> {
        let pointer = target.strip_prefix('#').filter(|p| p.is_empty() || p.starts_with('/'));
        let Some(pointer) = pointer.filter(|p| !p.contains('%')) else {
            return Err(format!("$ref {target:?} does not point into the same schema"));
        };
        if self.following.iter().any(|seen| seen == target) {
            return Err(format!("$ref {target:?} contains itself"));
        }
        let Some(found) = self.root.pointer(pointer) else {
            return Err(format!("$ref {target:?} points nowhere"));
        };
        self.following.push(target.to_owned());
        let lowered = self.lower(found, path, depth + 1);
        self.following.pop();
        lowered
    }

    /// `anyOf: [T, null]` (how many generators write an optional argument) is a T that may be absent.
    fn lower_combinator(
        &mut self,
        schema: &'a Map<String, Value>,
        path: &str,
        depth: usize,
    ) -> Result<Lowered, String> {
        for keyword in ["anyOf", "oneOf", "allOf"] {
            let Some(branches) = schema.get(keyword).and_then(Value::as_array) else { continue };
            let is_null = |b: &&Value| b.get("type").is_some_and(|t| t == "null");
            let mut others = branches.iter().filter(|b| !is_null(b));
            return match (others.next(), others.next()) {
                (Some(only), None) if keyword != "allOf" || branches.len() == 1 => {
                    let lowered = self.lower(only, path, depth + 1)?;
                    Ok(Lowered { nullable: lowered.nullable || branches.len() > 1, ..lowered })
                }
                _ => Err(format!("alternatives or combinations ({keyword})")),
            };
        }
        Err("its schema names no type".into())
    }
}

/// The one type that a `type` keyword names, and whether null is allowed beside it.
fn single_type(named: &Value) -> Result<(&str, bool), String> {
    let names: Vec<&str> = match named {
        Value::String(name) => vec![name.as_str()],
        Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let nullable = names.contains(&"null");
    let mut others: Vec<&str> = names.into_iter().filter(|n| *n != "null").collect();
    others.sort_unstable();
    match others[..] {
        [name] => Ok((name, nullable)),
        ["integer", "number"] => Ok(("number", nullable)),
        [] => Err("only null is valid".into()),
        _ => Err(format!("several types ({})", others.join(", "))),
    }
}

fn type_of_values(values: &[Value]) -> Result<Lowered, String> {
    let nullable = values.iter().any(Value::is_null);
    let mut types = values.iter().filter(|v| !v.is_null()).map(|value| match value {
        Value::String(_) => Some(ArgType::String),
        Value::Bool(_) => Some(ArgType::Bool),
        Value::Number(n) if n.is_i64() => Some(ArgType::Long),
        _ => None,
    });
    match types.next().flatten() {
        Some(first) if types.all(|t| t.as_ref() == Some(&first)) => Ok(Lowered { ty: first, nullable }),
        _ => Err("listed values (enum, const) of mixed or structured types".into()),
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn lower(property: Value) -> (Option<Field>, Vec<Omission>) {
        let schema = json!({
            "type": "object",
            "properties": {"x": property},
            "required": ["x"],
            "$defs": {
                "Money": {"type": "object", "properties": {"amount": {"type": "number"}}, "required": ["amount"]},
                "Tree": {"type": "object", "properties": {"kids": {"type": "array", "items": {"$ref": "#/$defs/Tree"}}, "n": {"type": "integer"}}},
                "a/b": {"type": "string"},
            },
        });
        let (mut record, omitted) = input_type(&"u:t".parse().expect("tool"), &schema);
        (record.fields.remove("x"), omitted)
    }

    #[test]
    fn what_cedar_can_say_is_kept() {
        let set = |t| ArgType::Set(Box::new(t));
        for (property, ty, nullable) in [
            (json!({"type": "string", "format": "date"}), ArgType::String, false),
            (json!({"type": "integer"}), ArgType::Long, false),
            (json!({"type": "number", "minimum": 0}), ArgType::Decimal, false),
            (json!({"type": ["integer", "number"]}), ArgType::Decimal, false),
            (json!({"type": "boolean"}), ArgType::Bool, false),
            (json!({"enum": ["a", "b"]}), ArgType::String, false),
            (json!({"enum": ["a", null]}), ArgType::String, true),
            (json!({"const": 3}), ArgType::Long, false),
            (json!({"type": ["string", "null"]}), ArgType::String, true),
            (json!({"anyOf": [{"type": "integer"}, {"type": "null"}]}), ArgType::Long, true),
            (json!({"allOf": [{"type": "integer"}]}), ArgType::Long, false),
            (json!({"type": "string", "oneOf": [{"format": "uri"}, {"format": "email"}]}), ArgType::String, false),
            (json!({"type": "array", "items": {"type": "string"}}), set(ArgType::String), false),
            (json!({"$ref": "#/$defs/a~1b"}), ArgType::String, false),
        ] {
            let (field, omitted) = lower(property.clone());
            let field = field.unwrap_or_else(|| panic!("{property} was left out: {omitted:?}"));
            assert_eq!((&field.ty, field.nullable), (&ty, nullable), "{property}");
            assert_eq!(omitted, [], "{property}");
        }
        let (field, _) = lower(json!({"$ref": "#/$defs/Money"}));
        assert!(matches!(field.expect("kept").ty, ArgType::Record(r) if r.fields["amount"].ty == ArgType::Decimal));
    }

    #[test]
    fn what_cedar_cannot_say_is_left_out_with_a_reason() {
        for (property, path, reason) in [
            (json!({}), "x", "names no type"),
            (json!(true), "x", "accepts anything"),
            (json!({"type": "null"}), "x", "only null"),
            (json!({"type": ["string", "integer"]}), "x", "several types (integer, string)"),
            (json!({"anyOf": [{"type": "string"}, {"type": "integer"}]}), "x", "anyOf"),
            (json!({"oneOf": [{"type": "string"}, {"type": "integer"}]}), "x", "oneOf"),
            (json!({"allOf": [{"type": "string"}, {"minLength": 1}]}), "x", "allOf"),
            (json!({"type": "object"}), "x", "without declared properties"),
            (json!({"type": "object", "additionalProperties": {"type": "string"}}), "x", "without declared properties"),
            (json!({"type": "array"}), "x", "no declared type"),
            (json!({"type": "array", "prefixItems": [{"type": "string"}]}), "x", "by position"),
            (json!({"type": "array", "items": {"type": ["string", "null"]}}), "x", "may be null"),
            (json!({"enum": ["a", 1]}), "x", "mixed"),
            (json!({"$ref": "https://example.com/s.json"}), "x", "same schema"),
            (json!({"$ref": "#anchor"}), "x", "same schema"),
            (json!({"$ref": "#/$defs/None"}), "x", "points nowhere"),
        ] {
            let (field, omitted) = lower(property.clone());
            assert_eq!(field, None, "{property}");
            assert_eq!(omitted.len(), 1, "{property}");
            assert_eq!(omitted[0].argument, path);
            assert!(omitted[0].reason.contains(reason), "{property}: {}", omitted[0].reason);
        }
    }

    #[test]
    fn recursion_keeps_what_comes_before_it() {
        let (field, omitted) = lower(json!({"$ref": "#/$defs/Tree"}));
        let ArgType::Record(tree) = field.expect("kept").ty else { panic!("not a record") };
        assert_eq!(tree.fields.keys().collect::<Vec<_>>(), ["n"]);
        assert_eq!(omitted[0].argument, "x.kids");
        assert!(omitted[0].reason.contains("contains itself"));
    }

    #[test]
    fn references_cannot_multiply_without_bound() {
        let mut defs = Map::new();
        for level in 0..10 {
            let next = json!({"$ref": format!("#/$defs/l{}", level + 1)});
            let properties: Map<String, Value> = (0..10).map(|i| (format!("p{i}"), next.clone())).collect();
            defs.insert(format!("l{level}"), json!({"type": "object", "properties": properties}));
        }
        defs.insert("l10".into(), json!({"type": "string"}));
        let schema = json!({"$defs": defs, "$ref": "#/$defs/l0"});
        let (_, omitted) = input_type(&"u:t".parse().expect("tool"), &schema);
        assert!(omitted.len() <= MAX_NODES * 11, "{}", omitted.len());
        assert!(omitted.iter().any(|o| o.reason.contains("unfolds") || o.reason.contains("deeper")));
    }
}
