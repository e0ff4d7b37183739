//! A definition as its upstream sent it, and the pin by which a person accepted it.
//!
//! The pin covers the whole raw object, members that we do not know included: whatever a client is shown is pinned.
//! (MCP, `Tool`, `Prompt`, `Resource`, `ResourceTemplate`.)

use countersign_domain::operation::{Operation, PROMPT_PREFIX, RESOURCE_PREFIX, is_reserved};
use countersign_proof::canonical::{CanonicalError, JsonError, Limits, parse_strict, to_canonical};
use countersign_proof::digest::Digest;
use serde_json::{Map, Value, json};

use crate::names::name_problem;
use crate::visible::{is_hidden, visible_line};

/// Bounds of one definition: 256 KiB and 64 levels.
pub const LIMITS: Limits = Limits { max_bytes: 256 << 10, max_depth: 64 };

/// Longest URI or URI template, in characters: an operation's name has room for it.
pub const MAX_URI: usize = 2_000;
/// Most arguments of a prompt.
const MAX_PROMPT_ARGUMENTS: usize = 100;

/// What a definition is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Something that can be called.
    Tool,
    /// Messages made from arguments.
    Prompt,
    /// Something to be read, by its URI.
    Resource,
    /// Things to be read, by URIs of one form (RFC 6570).
    Template,
}

impl Kind {
    /// What a stored definition under this operation's name is of. Only a template's URI holds a brace (RFC 3986).
    pub fn of(operation: &str) -> Self {
        match Operation::of(operation) {
            Operation::Prompt(_) => Self::Prompt,
            Operation::Resource(uri) if uri.contains('{') => Self::Template,
            Operation::Resource(_) => Self::Resource,
            Operation::Tool(_)
            | Operation::ReadResource
            | Operation::Subscribe
            | Operation::Complete
            | Operation::GetTask
            | Operation::UpdateTask
            | Operation::CancelTask
            | Operation::Elicit
            | Operation::Sample
            | Operation::ListRoots
            | Operation::Connect => Self::Tool,
        }
    }

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tool => "tool",
            Self::Prompt => "prompt",
            Self::Resource => "resource",
            Self::Template => "template",
        }
    }
}

/// Why a definition cannot be pinned; such a tool stays quarantined, with this reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PinError {
    /// Not JSON on which all readers agree.
    #[error("the definition is not acceptable JSON: {0}")]
    Json(#[from] JsonError),
    /// It has no canonical form.
    #[error("the definition has no canonical form: {0}")]
    Canonical(#[from] CanonicalError),
    /// It is JSON, but not a tool.
    #[error("the definition cannot be used: {0}")]
    Shape(&'static str),
    /// Its name cannot be used.
    #[error("its name cannot be used: {0}")]
    Name(String),
}

/// The pin of a raw definition: SHA-256 over its RFC 8785 form.
///
/// # Errors
/// [`PinError::Json`] or [`PinError::Canonical`], where two readers could disagree about what the definition says.
pub fn pin(raw: &str) -> Result<Digest, PinError> {
    Ok(Digest::of(&to_canonical(&parse_strict(raw.as_bytes(), &LIMITS)?)?))
}

/// What we read of a definition. The raw text stays the truth; this is a view.
#[derive(Debug, Clone, PartialEq)]
pub struct Definition {
    /// The operation's name: a tool's own, `prompts/NAME`, `resources/URI`.
    pub name: String,
    /// A name for people.
    pub title: Option<String>,
    /// What the tool does, in the upstream's words: untrusted.
    pub description: Option<String>,
    /// JSON Schema of the arguments; always an object.
    pub input_schema: Value,
    /// JSON Schema of `structuredContent`, if stated.
    pub output_schema: Option<Value>,
    /// The upstream's hints, never believed.
    pub annotations: Option<Value>,
    /// The whole definition, unknown members included.
    pub members: Map<String, Value>,
    /// The definition's pin.
    pub pin: Digest,
}

impl Definition {
    /// Reads a raw definition.
    ///
    /// # Errors
    /// As [`pin`]; also if it lacks a usable name or an `inputSchema` object.
    pub fn parse(raw: &str) -> Result<Self, PinError> {
        let value = parse_strict(raw.as_bytes(), &LIMITS)?;
        Self::of(Kind::Tool, value)
    }

    /// Reads a raw definition of this kind.
    ///
    /// # Errors
    /// As [`pin`]; also if it lacks what a definition of its kind has.
    pub fn read(kind: Kind, raw: &str) -> Result<Self, PinError> {
        Self::of(kind, parse_strict(raw.as_bytes(), &LIMITS)?)
    }

    fn of(kind: Kind, value: Value) -> Result<Self, PinError> {
        let pin = Digest::of(&to_canonical(&value)?);
        let Value::Object(members) = value else { return Err(PinError::Shape("it is not an object")) };
        let (name, input_schema) = match kind {
            Kind::Tool => {
                let name = named(&members)?;
                if is_reserved(name) {
                    return Err(PinError::Name(format!("{name} would be taken for a method of the protocol")));
                }
                let schema = members.get("inputSchema").filter(|schema| schema.is_object());
                (name.to_owned(), schema.ok_or(PinError::Shape("it has no inputSchema object"))?.clone())
            }
            Kind::Prompt => (format!("{PROMPT_PREFIX}{}", named(&members)?), prompt_schema(&members)?),
            Kind::Resource => {
                (format!("{RESOURCE_PREFIX}{}", located(&members, "uri", false)?), json!({"type": "object"}))
            }
            Kind::Template => {
                (format!("{RESOURCE_PREFIX}{}", located(&members, "uriTemplate", true)?), json!({"type": "object"}))
            }
        };
        let text = |key: &str| members.get(key).and_then(Value::as_str).map(str::to_owned);
        Ok(Self {
            name,
            title: text("title"),
            description: text("description"),
            input_schema,
            output_schema: members.get("outputSchema").cloned(),
            annotations: members.get("annotations").cloned(),
            pin,
            members,
        })
    }
}

fn named(members: &Map<String, Value>) -> Result<&str, PinError> {
    let name = members.get("name").and_then(Value::as_str).ok_or(PinError::Shape("it has no name"))?;
    name_problem(name).map_or(Ok(name), |problem| Err(PinError::Name(problem)))
}

/// The URI or URI template of a resource.
fn located<'a>(members: &'a Map<String, Value>, member: &str, template: bool) -> Result<&'a str, PinError> {
    let uri = members.get(member).and_then(Value::as_str).ok_or(PinError::Shape("it has no URI"))?;
    if !(1..=MAX_URI).contains(&uri.chars().count()) {
        return Err(PinError::Shape("its URI is empty or longer than 2,000 characters"));
    }
    if uri.chars().any(|c| is_hidden(c) || c == ' ') {
        return Err(PinError::Name(format!("its URI has spaces or hidden characters: {}", visible_line(uri))));
    }
    if !uri.contains(':') {
        return Err(PinError::Shape("its URI has no scheme"));
    }
    match (uri.contains(['{', '}']), template) {
        (true, false) => Err(PinError::Shape("its URI holds braces, as only a template may")),
        (false, true) => Err(PinError::Shape("its URI template has no variable; a resource has a URI")),
        (true, true) | (false, false) => Ok(uri),
    }
}

/// The schema of a prompt's arguments: strings all, those required that say so, and no others.
fn prompt_schema(members: &Map<String, Value>) -> Result<Value, PinError> {
    let declared = match members.get("arguments") {
        None | Some(Value::Null) => &[][..],
        Some(Value::Array(arguments)) if arguments.len() <= MAX_PROMPT_ARGUMENTS => arguments,
        Some(_) => return Err(PinError::Shape("its arguments are not a list of at most 100")),
    };
    let (mut properties, mut required) = (Map::new(), Vec::new());
    for argument in declared {
        let name = argument.get("name").and_then(Value::as_str).filter(|name| name_problem(name).is_none());
        let name = name.ok_or(PinError::Shape("an argument has no usable name"))?;
        if properties.insert(name.to_owned(), json!({"type": "string"})).is_some() {
            return Err(PinError::Shape("it declares an argument twice"));
        }
        match argument.get("required") {
            None | Some(Value::Null | Value::Bool(false)) => {}
            Some(Value::Bool(true)) => required.push(Value::from(name)),
            Some(_) => return Err(PinError::Shape("an argument's `required` is not true or false")),
        }
    }
    Ok(json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false}))
}

/// The name in a raw definition that may be broken otherwise, for messages; hidden characters made visible.
pub fn name_for_messages(raw: &str) -> String {
    #[derive(serde::Deserialize)]
    struct Named {
        name: String,
    }
    let name = serde_json::from_str::<Named>(raw).map_or_else(|_| "(no name)".to_owned(), |named| named.name);
    visible_line(&name.chars().take(128).collect::<String>()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOOL: &str = r#"{"name":"echo","description":"Says it again","inputSchema":{"type":"object"}}"#;

    #[test]
    fn a_pin_ignores_spelling_and_sees_every_member() {
        let reordered = r#" { "inputSchema" : { "type":"object" }, "description":"Says it \u0061gain","name":"echo"} "#;
        assert_eq!(pin(TOOL), pin(reordered));
        // From `printf '%s' CANONICAL | sha256sum`.
        let independent = "sha256:d62715e16a6dd246a17868628990bca7614476fa13c33c07af793cd37fac22b9";
        assert_eq!(pin(TOOL).map(|p| p.to_string()), Ok(independent.to_owned()));
        let extended = TOOL.replace("\"name\"", "\"x-unknown\":1,\"name\"");
        assert_ne!(pin(TOOL), pin(&extended));
        assert_ne!(pin(TOOL), pin(&TOOL.replace("again", "again ")));
    }

    #[test]
    fn a_view_keeps_what_it_does_not_know() {
        let raw = r#"{"name":"n","inputSchema":{"type":"object"},"icons":[1],"annotations":{"readOnlyHint":true}}"#;
        let definition = Definition::parse(raw).expect("a tool");
        assert_eq!(definition.members["icons"], serde_json::json!([1]));
        assert_eq!(definition.annotations, Some(serde_json::json!({"readOnlyHint": true})));
        assert_eq!(Ok(definition.pin), pin(raw));
    }

    #[test]
    fn prompts_and_resources_are_definitions_too() {
        let prompt = r#"{"name":"greet","arguments":[{"name":"who","required":true},{"name":"tone"}]}"#;
        let read = Definition::read(Kind::Prompt, prompt).expect("a prompt");
        assert_eq!((read.name.as_str(), Kind::of(&read.name)), ("prompts/greet", Kind::Prompt));
        assert_eq!(read.input_schema["required"], serde_json::json!(["who"]));
        assert_eq!(read.input_schema["properties"]["tone"]["type"], "string");
        let resource = Definition::read(Kind::Resource, r#"{"uri":"file:///a","name":"a"}"#).expect("a resource");
        assert_eq!((resource.name.as_str(), Kind::of(&resource.name)), ("resources/file:///a", Kind::Resource));
        let template = r#"{"uriTemplate":"file:///{path}","name":"files"}"#;
        let template = Definition::read(Kind::Template, template).expect("a template");
        assert_eq!((template.name.as_str(), Kind::of(&template.name)), ("resources/file:///{path}", Kind::Template));
        for (kind, raw) in [
            (Kind::Prompt, r#"{"name":"a","arguments":[{"name":"x"},{"name":"x"}]}"#),
            (Kind::Prompt, r#"{"name":"a","arguments":{"x":1}}"#),
            (Kind::Prompt, r#"{"arguments":[]}"#),
            (Kind::Resource, r#"{"uri":"file:///{a}"}"#),
            (Kind::Resource, r#"{"uri":"no scheme"}"#),
            (Kind::Resource, "{\"uri\":\"file:///a\\u202eb\"}"),
            (Kind::Template, r#"{"uriTemplate":"file:///a"}"#),
            (Kind::Tool, r#"{"name":"prompts/x","inputSchema":{}}"#),
            (Kind::Tool, r#"{"name":"asks","inputSchema":{}}"#),
        ] {
            assert!(Definition::read(kind, raw).is_err(), "{raw}");
        }
    }

    #[test]
    fn ambiguous_or_shapeless_definitions_are_refused_with_the_reason() {
        for (raw, reason) in [
            (r#"{"name":"a","name":"b","inputSchema":{}}"#, "duplicate name"),
            (r#"{"name":"a","inputSchema":{"maximum":9007199254740993}}"#, "out of range"),
            (r#"{"name":"a","inputSchema":{"maximum":1e999}}"#, "out of range"),
            (r#"{"name":"a"}"#, "inputSchema"),
            (r#"{"name":"a","inputSchema":true}"#, "inputSchema"),
            (r#"{"inputSchema":{}}"#, "no name"),
            (r#"{"name":"","inputSchema":{}}"#, "1 to 128"),
            ("{\"name\":\"a\\u202eb\",\"inputSchema\":{}}", "⟨U+202E⟩"),
            ("[]", "not an object"),
        ] {
            let error = Definition::parse(raw).expect_err(raw).to_string();
            assert!(error.contains(reason), "{raw}: {error}");
        }
    }
}
