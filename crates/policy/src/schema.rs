//! The Cedar schema that policies are checked against, generated from the accepted tools.
//!
//! ```text
//! entity Principal in [Role] { kind, id, issuer, workspace, scopes, development, on_behalf_of? } tags String;
//! entity Tool in [Upstream] { name, effect };
//! action "ads:createCampaign" in ["write", "ads:*"] appliesTo { principal: Principal, resource: Tool, context: {
//!     input: {…the arguments…}, time: Long, hour: Long, weekday: Long } };
//! ```
//!
//! The action groups are `read`, `write` and `destructive` (which is in `write`), and `<upstream>:*`. What an upstream asks of
//! callers is in none of them, but in `asks` and `<upstream>:asks`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use cedar_policy::{Schema, SchemaFragment};
use countersign_domain::operation::{ASKS, CONNECT, FIXED, Operation, fixed_definition};
use countersign_domain::{Effect, ToolRef, UpstreamName};
use serde_json::{Map, Value, json};

use crate::shape::{ArgType, Omission, RecordType, input_type};

/// How many tools one schema may hold.
const MAX_TOOLS: usize = 10_000;

/// An accepted tool: what policies may say about it.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolDescription {
    /// Upstream and name.
    pub tool: ToolRef,
    /// What it does to the world, by the manifest.
    pub effect: Effect,
    /// The JSON Schema of its arguments, out of the accepted pin.
    pub input_schema: Value,
}

impl ToolDescription {
    /// The operations that every MCP upstream has, whatever it offers.
    pub fn fixed(upstream: &UpstreamName) -> Vec<Self> {
        let effect = |name| Operation::of(name).fixed_effect().unwrap_or_default();
        FIXED.iter().map(|name| Self::of_constant(upstream, name, effect(name))).collect()
    }

    /// The operation by which people connect accounts for an upstream that takes them.
    pub fn connect(upstream: &UpstreamName) -> Self {
        Self::of_constant(upstream, CONNECT, Effect::Write)
    }

    fn of_constant(upstream: &UpstreamName, name: &str, effect: Effect) -> Self {
        // Constants of ours; what could not be read would have no arguments that policies can name.
        let definition: Value = serde_json::from_str(fixed_definition(name)).unwrap_or_default();
        let input_schema = definition.get("inputSchema").cloned().unwrap_or_default();
        let tool = ToolRef { upstream: upstream.clone(), tool: name.to_owned() };
        Self { tool, effect, input_schema }
    }
}

/// Why no schema can be made of a set of tools.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// The same tool twice.
    #[error("the tool {0} is described twice")]
    Duplicate(ToolRef),
    /// `upstream:*` names the group of an upstream's tools.
    #[error("the tool {0} can't be named in policies: \"*\" stands for every tool of an upstream")]
    Reserved(ToolRef),
    /// Too many tools.
    #[error("{0} tools; at most {MAX_TOOLS} can be loaded")]
    TooMany(usize),
    /// Cedar refused the generated schema: a defect of this crate.
    #[error("the generated schema is not valid Cedar: {0}")]
    Cedar(String),
}

/// The generated schema, with what it can't express.
#[derive(Debug, Clone)]
pub struct CedarSchema {
    pub(crate) cedar: Schema,
    pub(crate) tools: BTreeMap<ToolRef, ToolType>,
    json: Value,
    omitted: Vec<Omission>,
}

/// What is known of one tool.
#[derive(Debug, Clone)]
pub(crate) struct ToolType {
    pub effect: Effect,
    pub input: RecordType,
}

impl CedarSchema {
    /// The schema of these tools; an empty slice is fine.
    ///
    /// # Errors
    /// When a tool comes twice or can't be named, see [`SchemaError`].
    pub fn generate(tools: &[ToolDescription]) -> Result<Self, SchemaError> {
        if tools.len() > MAX_TOOLS {
            return Err(SchemaError::TooMany(tools.len()));
        }
        let mut types = BTreeMap::new();
        let mut omitted = Vec::new();
        for description in tools {
            if description.tool.tool == "*" {
                return Err(SchemaError::Reserved(description.tool.clone()));
            }
            let (input, notes) = input_type(&description.tool, &description.input_schema);
            omitted.extend(notes);
            let known = ToolType { effect: description.effect, input };
            if types.insert(description.tool.clone(), known).is_some() {
                return Err(SchemaError::Duplicate(description.tool.clone()));
            }
        }
        let json = json!({"": {"entityTypes": entity_types(), "actions": actions(&types)}});
        let cedar = Schema::from_json_value(json.clone()).map_err(|e| SchemaError::Cedar(e.to_string()))?;
        Ok(Self { cedar, tools: types, json, omitted })
    }

    /// The schema in Cedar's own syntax, for editors and people, with a comment for each argument that is left out.
    pub fn to_cedar_text(&self) -> String {
        let mut text = String::from("// Generated from the accepted tools. Changes are lost.\n");
        for note in &self.omitted {
            let line = format!("{} {:?} is left out: {}", note.tool, note.argument, note.reason);
            let line: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            // Writing to a String can't fail.
            let _ = writeln!(text, "// {line}");
        }
        let rendered = SchemaFragment::from_json_value(self.json.clone()).ok().and_then(|f| f.to_cedarschema().ok());
        text.push_str(&rendered.unwrap_or_else(|| self.json.to_string()));
        text
    }

    /// The arguments that policies can't name, and why.
    pub fn omitted(&self) -> &[Omission] {
        &self.omitted
    }

    /// Every action that a policy may name.
    pub(crate) fn action_names(&self) -> impl Iterator<Item = String> {
        let upstreams: BTreeSet<_> = self.tools.keys().map(|t| &t.upstream).collect();
        let asking: BTreeSet<_> =
            self.tools.keys().filter(|t| is_asked(t)).map(|t| format!("{}:{ASKS}", t.upstream)).collect();
        let groups = EFFECTS.iter().map(|e| e.as_str().to_owned()).chain([ASKS.to_owned()]).chain(asking);
        groups.chain(upstreams.into_iter().map(|u| format!("{u}:*"))).chain(self.tools.keys().map(ToString::to_string))
    }
}

pub(crate) const EFFECTS: [Effect; 3] = [Effect::Read, Effect::Write, Effect::Destructive];

/// The attributes of `principal`, `resource` and `context`, for messages.
pub(crate) const PRINCIPAL_ATTRIBUTES: [&str; 7] =
    ["kind", "id", "issuer", "workspace", "scopes", "development", "on_behalf_of"];
pub(crate) const TOOL_ATTRIBUTES: [&str; 2] = ["name", "effect"];
pub(crate) const CONTEXT_ATTRIBUTES: [&str; 4] = ["input", "time", "hour", "weekday"];

/// Whether the upstream asks it of callers. A permit that names no action does not cover it.
pub(crate) fn is_asked(tool: &ToolRef) -> bool {
    Operation::of(&tool.tool).is_asked_by_upstream()
}

/// Every group that a tool's action is in, whether directly or not.
pub(crate) fn groups(tool: &ToolRef, effect: Effect) -> Vec<String> {
    if is_asked(tool) {
        return vec![ASKS.to_owned(), format!("{}:{ASKS}", tool.upstream)];
    }
    let mut groups = vec![effect.as_str().to_owned(), format!("{}:*", tool.upstream)];
    if effect == Effect::Destructive {
        groups.push(Effect::Write.as_str().to_owned());
    }
    groups
}

fn entity_types() -> Value {
    json!({
        "Role": {},
        "Upstream": {},
        "Principal": {
            "memberOfTypes": ["Role"],
            "shape": {"type": "Record", "attributes": {
                "kind": {"type": "String"},
                "id": {"type": "String"},
                "issuer": {"type": "String"},
                "workspace": {"type": "String"},
                "scopes": {"type": "Set", "element": {"type": "String"}},
                "development": {"type": "Boolean"},
                "on_behalf_of": {"type": "String", "required": false},
            }},
            "tags": {"type": "String"},
        },
        "Tool": {
            "memberOfTypes": ["Upstream"],
            "shape": {"type": "Record", "attributes": {"name": {"type": "String"}, "effect": {"type": "String"}}},
        },
    })
}

fn actions(tools: &BTreeMap<ToolRef, ToolType>) -> Value {
    let mut actions = Map::new();
    for effect in EFFECTS {
        let parents = if effect == Effect::Destructive { json!([{"id": Effect::Write.as_str()}]) } else { json!([]) };
        actions.insert(effect.as_str().to_owned(), json!({"memberOf": parents}));
    }
    actions.insert(ASKS.to_owned(), json!({}));
    for (tool, known) in tools {
        let (of_all, group) = match is_asked(tool) {
            true => (ASKS, format!("{}:{ASKS}", tool.upstream)),
            false => (known.effect.as_str(), format!("{}:*", tool.upstream)),
        };
        let action = json!({
            "memberOf": [{"id": of_all}, {"id": group}],
            "appliesTo": {
                "principalTypes": ["Principal"],
                "resourceTypes": ["Tool"],
                "context": {"type": "Record", "attributes": {
                    "input": record_type(&known.input),
                    "time": {"type": "Long"},
                    "hour": {"type": "Long"},
                    "weekday": {"type": "Long"},
                }},
            },
        });
        actions.insert(tool.to_string(), action);
        actions.entry(group).or_insert_with(|| json!({}));
    }
    Value::Object(actions)
}

fn record_type(record: &RecordType) -> Value {
    let attributes: Map<String, Value> = record
        .fields
        .iter()
        .map(|(name, field)| {
            let mut ty = cedar_type(&field.ty);
            ty["required"] = Value::Bool(field.always_present());
            (name.clone(), ty)
        })
        .collect();
    json!({"type": "Record", "attributes": attributes})
}

fn cedar_type(ty: &ArgType) -> Value {
    match ty {
        ArgType::Long => json!({"type": "Long"}),
        ArgType::Decimal => json!({"type": "Extension", "name": "decimal"}),
        ArgType::String => json!({"type": "String"}),
        ArgType::Bool => json!({"type": "Boolean"}),
        ArgType::Set(element) => json!({"type": "Set", "element": cedar_type(element)}),
        ArgType::Record(record) => record_type(record),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tool(name: &str, effect: Effect, properties: Value) -> ToolDescription {
        let input_schema = json!({"type": "object", "properties": properties});
        ToolDescription { tool: name.parse().expect("tool"), effect, input_schema }
    }

    #[test]
    fn no_tools_make_a_schema_too() {
        let schema = CedarSchema::generate(&[]).expect("schema");
        assert_eq!(schema.action_names().collect::<Vec<_>>(), ["read", "write", "destructive", "asks"]);
        assert!(Schema::from_cedarschema_str(&schema.to_cedar_text()).is_ok());
    }

    #[test]
    fn what_upstreams_ask_is_in_groups_of_its_own() {
        let upstream = "ads".parse().expect("a name");
        let schema = CedarSchema::generate(&ToolDescription::fixed(&upstream)).expect("schema");
        assert!(
            schema.omitted().iter().all(|o| ["context", "inputResponses"].contains(&o.argument.as_str())),
            "{:?}",
            schema.omitted()
        );
        let names: Vec<_> = schema.action_names().collect();
        for name in ["asks", "ads:asks", "ads:*", "ads:resources/read", "ads:elicitation/create"] {
            assert!(names.iter().any(|n| n == name), "{name}: {names:?}");
        }
        let of = |name: &str| groups(&name.parse().expect("a name"), Effect::Read);
        assert_eq!(of("ads:roots/list"), ["asks", "ads:asks"]);
        assert_eq!(of("ads:resources/read"), ["read", "ads:*"]);
    }

    #[test]
    fn awkward_names_survive_and_the_text_is_valid_cedar() {
        let awkward = json!({
            "__entity": {"type": "string"}, "__extn": {"type": "integer"}, "__cedar": {"type": "boolean"},
            "in": {"type": "string"}, "a b\"c\\\n": {"type": "number"}, "ключ": {"type": "string"}, "": {"type": "string"},
            "required": {"type": "boolean"}, "type": {"type": "string"},
        });
        let tools = [
            tool("ads:we\"ird\\name // }", Effect::Destructive, awkward.clone()),
            tool("ads:left\u{2028}out", Effect::Read, json!({"x": {}})),
            tool("read:read", Effect::Read, json!({})),
        ];
        let schema = CedarSchema::generate(&tools).expect("schema");
        let known = &schema.tools[&tools[0].tool];
        assert_eq!(known.input.fields.len(), awkward.as_object().map_or(0, Map::len));
        let text = schema.to_cedar_text();
        assert!(Schema::from_cedarschema_str(&text).is_ok(), "{text}");
        assert!(text.contains("is left out: its schema names no type"), "{text}");
    }

    #[test]
    fn names_that_would_be_ambiguous_are_refused() {
        let star = [tool("ads:*", Effect::Read, json!({}))];
        assert!(matches!(CedarSchema::generate(&star), Err(SchemaError::Reserved(_))));
        let twice = [tool("ads:x", Effect::Read, json!({})), tool("ads:x", Effect::Write, json!({}))];
        assert!(matches!(CedarSchema::generate(&twice), Err(SchemaError::Duplicate(_))));
    }
}
