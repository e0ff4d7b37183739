//! The strings of a definition, each with its place and the role in which it is read.

use serde_json::{Map, Value};

use super::Kind;

/// At most this many strings of one definition are looked at; a definition has at most 256 KiB anyway.
const MAX_FIELDS: usize = 20_000;

/// As what a string is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The name by which it is called.
    Name,
    /// A title for people.
    Title,
    /// What it does.
    Description,
    /// What to put into a parameter: asking is what it is for.
    Parameter,
    /// The name of a parameter.
    ParameterName,
    /// What a result holds.
    Result,
    /// A value: enum, const, example.
    Value,
    /// A value that is used when nothing else is said.
    Default,
    /// A member that forms don't show: `$comment`, `x-…`, `_meta`, whatever the protocol does not know.
    Unlisted,
    /// An address.
    Uri,
    /// A message of a prompt: speaking to the model is what it is for.
    Message,
    /// What the server says of itself.
    Instructions,
    /// For machines: types, patterns, references. Only hidden characters are looked for.
    Machine,
}

impl Role {
    /// Whether a noun alone asks for that thing.
    pub(super) fn asks(self) -> bool {
        matches!(self, Self::Parameter | Self::ParameterName)
    }

    /// Whether only data belongs there, no word to the model.
    pub(super) fn is_data(self) -> bool {
        matches!(self, Self::Value | Self::Default | Self::Unlisted)
    }
}

/// One string.
#[derive(Debug, Clone)]
pub(super) struct Field<'a> {
    /// JSON Pointer in the definition.
    pub pointer: String,
    pub role: Role,
    pub text: &'a str,
}

pub(super) fn of(kind: Kind, definition: &Value) -> Vec<Field<'_>> {
    let mut walk = Walk { fields: Vec::new() };
    if let Value::Object(members) = definition {
        walk.definition(kind, members);
    }
    walk.fields
}

struct Walk<'a> {
    fields: Vec<Field<'a>>,
}

fn below(pointer: &str, key: &str) -> String {
    format!("{pointer}/{}", key.replace('~', "~0").replace('/', "~1"))
}

impl<'a> Walk<'a> {
    fn push(&mut self, pointer: String, role: Role, text: &'a str) {
        if self.fields.len() < MAX_FIELDS && !text.is_empty() {
            self.fields.push(Field { pointer, role, text });
        }
    }

    fn definition(&mut self, kind: Kind, members: &'a Map<String, Value>) {
        for (key, value) in members {
            let at = below("", key);
            match (key.as_str(), kind) {
                ("name", _) => self.all(at, Role::Name, value),
                ("title", _) => self.all(at, Role::Title, value),
                ("description", _) => self.all(at, Role::Description, value),
                ("inputSchema", Kind::Tool) => self.schema(at, value, Role::Parameter),
                ("outputSchema", Kind::Tool) => self.schema(at, value, Role::Result),
                ("annotations", _) => self.annotations(at, value),
                ("icons", _) => self.icons(at, value),
                ("uri", Kind::Resource) | ("uriTemplate", Kind::Template) => self.all(at, Role::Uri, value),
                ("mimeType", _) => self.all(at, Role::Machine, value),
                ("arguments", Kind::Prompt) => self.arguments(at, value),
                ("messages", Kind::Prompt) => self.all(at, Role::Message, value),
                _ => {
                    self.push(at.clone(), Role::Unlisted, key);
                    self.all(at, Role::Unlisted, value);
                }
            }
        }
    }

    /// Every string in a value, in one role. Names of members count too.
    fn all(&mut self, at: String, role: Role, value: &'a Value) {
        match value {
            Value::String(text) => self.push(at, role, text),
            Value::Array(items) => {
                items.iter().enumerate().for_each(|(i, item)| self.all(format!("{at}/{i}"), role, item));
            }
            Value::Object(members) => members.iter().for_each(|(key, value)| {
                let inner = below(&at, key);
                self.push(inner.clone(), Role::Machine, key);
                self.all(inner, role, value);
            }),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    fn annotations(&mut self, at: String, value: &'a Value) {
        let Value::Object(members) = value else { return self.all(at, Role::Unlisted, value) };
        for (key, value) in members {
            let role = if key == "title" { Role::Title } else { Role::Unlisted };
            self.all(below(&at, key), role, value);
        }
    }

    fn icons(&mut self, at: String, value: &'a Value) {
        for (i, icon) in value.as_array().into_iter().flatten().enumerate() {
            for (key, value) in icon.as_object().into_iter().flatten() {
                let role = if key == "src" { Role::Uri } else { Role::Machine };
                self.all(below(&format!("{at}/{i}"), key), role, value);
            }
        }
    }

    fn arguments(&mut self, at: String, value: &'a Value) {
        for (i, argument) in value.as_array().into_iter().flatten().enumerate() {
            for (key, value) in argument.as_object().into_iter().flatten() {
                let role = match key.as_str() {
                    "name" => Role::ParameterName,
                    "title" => Role::Title,
                    "description" => Role::Parameter,
                    _ => Role::Unlisted,
                };
                self.all(below(&format!("{at}/{i}"), key), role, value);
            }
        }
    }

    /// A JSON Schema; `role` is that of its descriptions. Depth is bounded by the parser.
    fn schema(&mut self, at: String, value: &'a Value, role: Role) {
        let members = match value {
            Value::Object(members) => members,
            Value::Array(items) => {
                items.iter().enumerate().for_each(|(i, item)| self.schema(format!("{at}/{i}"), item, role));
                return;
            }
            Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) => return,
        };
        for (key, value) in members {
            let inner = below(&at, key);
            match key.as_str() {
                "description" => self.all(inner, role, value),
                "title" => self.all(inner, Role::Title, value),
                "default" => self.all(inner, Role::Default, value),
                "enum" | "const" | "examples" | "example" => self.all(inner, Role::Value, value),
                "properties" | "patternProperties" | "$defs" | "definitions" | "dependentSchemas" => {
                    for (name, value) in value.as_object().into_iter().flatten() {
                        let each = below(&inner, name);
                        let named = if role == Role::Parameter && key == "properties" {
                            Role::ParameterName
                        } else {
                            Role::Machine
                        };
                        self.push(each.clone(), named, name);
                        self.schema(each, value, role);
                    }
                }
                "items"
                | "prefixItems"
                | "additionalProperties"
                | "unevaluatedProperties"
                | "propertyNames"
                | "contains"
                | "not"
                | "if"
                | "then"
                | "else"
                | "allOf"
                | "anyOf"
                | "oneOf"
                | "additionalItems"
                | "unevaluatedItems" => {
                    self.schema(inner, value, role);
                }
                "type" | "format" | "pattern" | "$ref" | "$id" | "$schema" | "$anchor" | "$dynamicRef"
                | "$dynamicAnchor" | "contentEncoding" | "contentMediaType" | "required" | "dependentRequired" => {
                    self.all(inner, Role::Machine, value);
                }
                _ => {
                    self.push(inner.clone(), Role::Machine, key);
                    self.all(inner, Role::Unlisted, value);
                }
            }
        }
    }
}
