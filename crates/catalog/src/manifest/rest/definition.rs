//! The MCP tool definition that follows from a request: the same manifest always gives the same bytes, hence the same pin.

use std::collections::{BTreeMap, BTreeSet};

use countersign_domain::Effect;
use countersign_proof::canonical::to_canonical;
use countersign_proof::digest::Digest;
use serde_json::{Map, Value, json};

use super::{RestRequest, RestTransport};
use crate::manifest::{Manifest, Transport};

/// The member of `structuredContent` that holds what is not an object.
pub const RESULT_MEMBER: &str = "result";
/// The member of `_meta` that says which request a tool is.
const REQUEST_META: &str = "dev.countersign/request";
/// How many references in a row are followed to learn whether a schema is an object's.
const MAX_HOPS: usize = 16;

impl Manifest {
    /// The definitions of the tools of a REST upstream, in the order of their names; `None` for other transports.
    pub fn rest_definitions(&self) -> Option<Vec<Value>> {
        let Transport::Rest(transport) = &self.transport else { return None };
        let tools = self.tools.iter().filter_map(|(name, entry)| Some((name, entry, entry.request.as_deref()?)));
        Some(
            tools
                .map(|(name, entry, request)| {
                    let effect = entry.effect.unwrap_or(self.effects);
                    definition(name, entry.description.as_deref(), effect, request, transport)
                })
                .collect(),
        )
    }
}

fn definition(
    name: &str,
    description: Option<&str>,
    effect: Effect,
    request: &RestRequest,
    transport: &RestTransport,
) -> Value {
    let mut tool = Map::new();
    tool.insert("name".into(), name.into());
    if let Some(title) = &request.title {
        tool.insert("title".into(), title.as_str().into());
    }
    if let Some(description) = description {
        tool.insert("description".into(), description.into());
    }
    tool.insert("inputSchema".into(), input_schema(request, &transport.schemas));
    if let Some(schema) = output_schema(request, &transport.schemas) {
        tool.insert("outputSchema".into(), schema);
    }
    let hints = json!({"readOnlyHint": effect == Effect::Read, "destructiveHint": effect == Effect::Destructive});
    tool.insert("annotations".into(), hints);
    tool.insert("_meta".into(), json!({ REQUEST_META: request_meta(request, transport) }));
    tool.into()
}

/// Which request a tool is, as far as agents may know: method, path, and a digest over everything that decides what is
/// sent where. Without it, a tool could come to mean another request under the same pin.
pub fn request_meta(request: &RestRequest, transport: &RestTransport) -> Value {
    let whole = json!({
        "url": transport.url.as_str(),
        // Values may be secrets, and secrets change.
        "headers": transport.headers.keys().collect::<Vec<_>>(),
        "request": request,
    });
    // What has no canonical form is refused when the definition is pinned: it holds the same schemas.
    let digest = to_canonical(&whole).map(|bytes| Digest::of(&bytes).to_string()).unwrap_or_default();
    json!({"method": request.method.as_str(), "path": request.path, "digest": digest})
}

fn input_schema(request: &RestRequest, schemas: &BTreeMap<String, Value>) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for (name, argument) in &request.arguments {
        let mut schema = argument.schema.clone();
        if let (Some(description), Value::Object(members)) = (&argument.description, &mut schema) {
            members.insert("description".into(), description.as_str().into());
        }
        properties.insert(name.clone(), schema);
        if argument.is_required() {
            required.push(Value::from(name.as_str()));
        }
    }
    let mut schema = json!({"type": "object", "properties": properties, "additionalProperties": false});
    if !required.is_empty() {
        schema["required"] = required.into();
    }
    with_definitions(schema, schemas)
}

fn output_schema(request: &RestRequest, schemas: &BTreeMap<String, Value>) -> Option<Value> {
    let stated = request.response.schema.as_ref()?;
    let mut schema = stated.clone();
    if request.wraps_result(schemas) {
        schema = json!({"type": "object", "properties": {RESULT_MEMBER: stated}, "required": [RESULT_MEMBER]});
    } else if let Value::Object(members) = &mut schema {
        // MCP wants the word at the root, where a reference alone would not show it.
        members.insert("type".into(), "object".into());
    }
    Some(with_definitions(schema, schemas))
}

impl RestRequest {
    /// Whether the stated schema is not an object's, so that its value goes into [`RESULT_MEMBER`].
    pub fn wraps_result(&self, schemas: &BTreeMap<String, Value>) -> bool {
        let mut schema = self.response.schema.as_ref();
        for _ in 0..MAX_HOPS {
            let Some(members) = schema else { break };
            if members["type"] == "object" {
                return false;
            }
            schema = members["$ref"].as_str().and_then(defined_name).and_then(|name| schemas.get(name));
        }
        true
    }

    /// The schema of the selected part of a response, complete with what it refers to.
    pub fn result_schema(&self, schemas: &BTreeMap<String, Value>) -> Option<Value> {
        self.response.schema.clone().map(|schema| with_definitions(schema, schemas))
    }
}

/// The schema with `$defs` of everything that it refers to, directly or not.
fn with_definitions(mut schema: Value, schemas: &BTreeMap<String, Value>) -> Value {
    let mut wanted = BTreeSet::new();
    let mut waiting = references(&schema);
    while let Some(name) = waiting.pop() {
        if let Some(found) = schemas.get(name.as_str())
            && wanted.insert(name)
        {
            waiting.extend(references(found));
        }
    }
    if let (false, Value::Object(members)) = (wanted.is_empty(), &mut schema) {
        let definitions = wanted.iter().filter_map(|name| Some((name.clone(), schemas.get(name)?.clone())));
        members.insert("$defs".into(), Value::Object(definitions.collect()));
    }
    schema
}

fn defined_name(reference: &str) -> Option<&str> {
    reference.strip_prefix("#/$defs/")
}

fn references(schema: &Value) -> Vec<String> {
    let mut found = Vec::new();
    each_reference(schema, &mut |reference| found.extend(defined_name(reference).map(str::to_owned)));
    found
}

/// Every `$ref` and `$dynamicRef` of a schema. Values that are data, not schemas, are left alone.
pub(super) fn each_reference(schema: &Value, see: &mut impl FnMut(&str)) {
    match schema {
        Value::Array(items) => items.iter().for_each(|item| each_reference(item, see)),
        Value::Object(members) => {
            for (key, value) in members {
                match (key.as_str(), value) {
                    ("$ref" | "$dynamicRef", Value::String(reference)) => see(reference),
                    ("enum" | "const" | "default" | "examples", _) => {}
                    (_, value) => each_reference(value, see),
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
