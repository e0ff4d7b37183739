//! Schemas of OpenAPI into JSON Schema 2020-12, whose references lead to `#/$defs/NAME`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::document::{Document, lost};

/// How often a reference that is no component is replaced by what it leads to, one inside the other.
const MAX_INLINE: usize = 8;
/// The keywords whose values are schemas, lists of schemas, or schemas by name.
const ONE: &[&str] = &[
    "items",
    "additionalProperties",
    "not",
    "if",
    "then",
    "else",
    "contains",
    "propertyNames",
    "unevaluatedItems",
    "unevaluatedProperties",
];
const MANY: &[&str] = &["allOf", "oneOf", "anyOf", "prefixItems"];
const NAMED: &[&str] = &["properties", "patternProperties", "dependentSchemas"];
/// The keywords that are kept as they are.
const KEPT: &[&str] = &[
    "type",
    "title",
    "description",
    "enum",
    "const",
    "default",
    "format",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "uniqueItems",
    "minContains",
    "maxContains",
    "minProperties",
    "maxProperties",
    "required",
    "dependentRequired",
    "deprecated",
    "examples",
];
/// The keywords that say nothing about values, or were dealt with otherwise.
const SILENT: &[&str] = &["nullable", "readOnly", "writeOnly", "example", "xml", "externalDocs", "$comment"];

/// Which side of a request a schema describes: servers set `readOnly` properties, callers set `writeOnly` ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Side {
    Request,
    Response,
}

/// Translates schemas and collects the components that they need.
pub(super) struct Schemas<'a> {
    document: &'a Document,
    /// Components that differ between the sides, directly or by what they refer to.
    sided: BTreeSet<String>,
    /// Under its name in the manifest: the translation; `None` until it is made.
    made: BTreeMap<String, Option<Value>>,
    /// Components whose turn comes: one after the other, so that a long chain of them needs no deep stack.
    waiting: Vec<(String, Value, Side)>,
    /// What could not be translated, for whoever asks next.
    pub lost: Vec<String>,
}

impl<'a> Schemas<'a> {
    pub(super) fn new(document: &'a Document) -> Self {
        Self { document, sided: sided(document), made: BTreeMap::new(), waiting: Vec::new(), lost: Vec::new() }
    }

    /// A schema for one side.
    pub(super) fn translate(&mut self, schema: &Value, side: Side) -> Value {
        let translated = self.walk(schema, side, 0);
        while let Some((name, component, side)) = self.waiting.pop() {
            let schema = self.walk(&component, side, 0);
            self.made.insert(name, Some(schema));
        }
        translated
    }

    /// The components that were needed.
    pub(super) fn finish(self) -> BTreeMap<String, Value> {
        self.made.into_iter().filter_map(|(name, schema)| Some((name, schema?))).collect()
    }

    fn walk(&mut self, schema: &Value, side: Side, inlined: usize) -> Value {
        let Value::Object(members) = schema else {
            // `true` and `false` are schemas of 3.1.
            return if schema.is_boolean() { schema.clone() } else { json!({}) };
        };
        let mut out = Map::new();
        if let Some(reference) = members.get("$ref").and_then(Value::as_str) {
            let target = self.reference(reference, side, inlined);
            // 3.0 ignores what stands beside a reference, except that everyone writes descriptions there.
            let beside = |key: &String| if self.document.old_schemas { key == "description" } else { key != "$ref" };
            let rest: Map<_, _> =
                members.iter().filter(|(k, _)| beside(k)).map(|(k, v)| (k.clone(), v.clone())).collect();
            if rest.is_empty() {
                return target;
            }
            out = self.keywords(&rest, side, inlined);
            match target {
                Value::Object(target) if target.len() == 1 && target.contains_key("$ref") => out.extend(target),
                other => {
                    out.insert("allOf".into(), json!([other]));
                }
            }
            return out.into();
        }
        out.extend(self.keywords(members, side, inlined));
        hide_other_side(&mut out, members, side);
        if self.document.old_schemas && members.get("nullable") == Some(&Value::Bool(true)) {
            return nullable(out);
        }
        out.into()
    }

    fn keywords(&mut self, members: &Map<String, Value>, side: Side, inlined: usize) -> Map<String, Value> {
        let mut out = Map::new();
        for (key, value) in members {
            let translated = match key.as_str() {
                key if ONE.contains(&key) => self.walk(value, side, inlined),
                key if MANY.contains(&key) => {
                    value.as_array().into_iter().flatten().map(|s| self.walk(s, side, inlined)).collect()
                }
                key if NAMED.contains(&key) => {
                    let named = value.as_object().into_iter().flatten();
                    Value::Object(named.map(|(name, s)| (name.clone(), self.walk(s, side, inlined))).collect())
                }
                "exclusiveMinimum" | "exclusiveMaximum" if value.is_boolean() => continue,
                "pattern" if !usable_pattern(value) => {
                    self.lost.push(format!("the pattern {value} cannot be used"));
                    continue;
                }
                "pattern" => value.clone(),
                key if KEPT.contains(&key) && !exact(value) => {
                    self.lost.push(format!("`{key}: {value}` has numbers that not all readers agree on"));
                    continue;
                }
                key if KEPT.contains(&key) => value.clone(),
                key if SILENT.contains(&key) || key.starts_with("x-") => continue,
                _ => {
                    self.lost.push(format!("`{key}` of a schema"));
                    continue;
                }
            };
            out.insert(key.clone(), translated);
        }
        if let Some(example) = members.get("example").filter(|e| exact(e) && !out.contains_key("examples")) {
            out.insert("examples".into(), json!([example]));
        }
        exclusive_bounds(&mut out, members);
        out
    }

    fn reference(&mut self, reference: &str, side: Side, inlined: usize) -> Value {
        let component = reference.strip_prefix("#/components/schemas/").filter(|name| !name.contains('/'));
        let Some(target) = self.document.at(reference) else {
            self.lost.push(lost(reference));
            return json!({});
        };
        let target = target.clone();
        let Some(component) = component else {
            if inlined == MAX_INLINE {
                self.lost.push(format!("the reference {reference:?} leads into itself"));
                return json!({});
            }
            return self.walk(&target, side, inlined + 1);
        };
        let name = self.name(component, side);
        if !self.made.contains_key(&name) {
            self.made.insert(name.clone(), None);
            self.waiting.push((name.clone(), target, side));
        }
        json!({ "$ref": format!("#/$defs/{name}") })
    }

    fn name(&self, component: &str, side: Side) -> String {
        let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
        let mut name: String = component.chars().map(plain).take(110).collect();
        if side == Side::Response && self.sided.contains(component) {
            name.push_str(".response");
        }
        name
    }
}

/// The components that hold `readOnly` or `writeOnly` properties, and those that refer to them.
fn sided(document: &Document) -> BTreeSet<String> {
    let Some(components) = document.root["components"]["schemas"].as_object() else { return BTreeSet::new() };
    let mut found: BTreeSet<String> =
        components.iter().filter(|(_, schema)| has_side(schema)).map(|(name, _)| name.clone()).collect();
    loop {
        let more: Vec<String> = components
            .iter()
            .filter(|(name, schema)| !found.contains(*name) && refers_to(schema, &found))
            .map(|(name, _)| name.clone())
            .collect();
        if more.is_empty() {
            return found;
        }
        found.extend(more);
    }
}

fn has_side(schema: &Value) -> bool {
    match schema {
        Value::Object(members) => {
            let own = |key: &str| members.get(key) == Some(&Value::Bool(true));
            own("readOnly") || own("writeOnly") || members.values().any(has_side)
        }
        Value::Array(items) => items.iter().any(has_side),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

fn refers_to(schema: &Value, names: &BTreeSet<String>) -> bool {
    match schema {
        Value::Object(members) => {
            let reference = members.get("$ref").and_then(Value::as_str);
            let named = reference.and_then(|r| r.strip_prefix("#/components/schemas/"));
            named.is_some_and(|n| names.contains(n)) || members.values().any(|v| refers_to(v, names))
        }
        Value::Array(items) => items.iter().any(|v| refers_to(v, names)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

/// Properties that the other side sets are neither described nor required.
fn hide_other_side(out: &mut Map<String, Value>, members: &Map<String, Value>, side: Side) {
    let mark = match side {
        Side::Request => "readOnly",
        Side::Response => "writeOnly",
    };
    let properties = members.get("properties").and_then(Value::as_object);
    let hidden: Vec<&String> =
        properties.into_iter().flatten().filter(|(_, p)| p[mark] == true).map(|(name, _)| name).collect();
    if let Some(Value::Object(properties)) = out.get_mut("properties") {
        properties.retain(|name, _| !hidden.contains(&name));
    }
    if let Some(Value::Array(required)) = out.get_mut("required") {
        required.retain(|name| !hidden.iter().any(|h| name == h.as_str()));
        if required.is_empty() {
            out.remove("required");
        }
    }
}

/// 3.0's `nullable: true`.
fn nullable(mut schema: Map<String, Value>) -> Value {
    match schema.get_mut("type") {
        Some(Value::String(one)) => {
            let both = json!([one, "null"]);
            schema.insert("type".into(), both);
            if let Some(Value::Array(values)) = schema.get_mut("enum")
                && !values.contains(&Value::Null)
            {
                values.push(Value::Null);
            }
            schema.into()
        }
        _ => json!({"anyOf": [schema, {"type": "null"}]}),
    }
}

/// 3.0's `exclusiveMinimum: true` beside `minimum`.
fn exclusive_bounds(out: &mut Map<String, Value>, members: &Map<String, Value>) {
    for (flag, bound) in [("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")] {
        if members.get(flag) == Some(&Value::Bool(true))
            && let Some(value) = out.shift_remove(bound)
        {
            out.insert(flag.into(), value);
        }
    }
}

fn usable_pattern(pattern: &Value) -> bool {
    pattern.is_string() && jsonschema::validator_for(&json!({ "pattern": pattern })).is_ok()
}

/// Whether every number in a value is one that all readers of JSON agree on (RFC 8785: I-JSON).
fn exact(value: &Value) -> bool {
    const SAFE: u64 = (1 << 53) - 1;
    match value {
        Value::Number(n) => match (n.as_u64(), n.as_i64()) {
            (Some(whole), _) => whole <= SAFE,
            (None, Some(whole)) => whole.unsigned_abs() <= SAFE,
            (None, None) => n.as_f64().is_some_and(|f| f.is_finite() && (f.fract() != 0.0 || f.abs() <= SAFE as f64)),
        },
        Value::Array(items) => items.iter().all(exact),
        Value::Object(members) => members.values().all(exact),
        Value::Null | Value::Bool(_) | Value::String(_) => true,
    }
}
