//! A tool's definition as its upstream sent it, and the pin by which a person accepted it.
//!
//! The pin covers the whole raw object, members that we do not know included: whatever a client is shown is pinned.
//! (MCP, `Tool`.)

use countersign_proof::canonical::{CanonicalError, JsonError, Limits, parse_strict, to_canonical};
use countersign_proof::digest::Digest;
use serde_json::{Map, Value};

use crate::names::name_problem;

/// Bounds of one definition: 256 KiB and 64 levels.
pub const LIMITS: Limits = Limits { max_bytes: 256 << 10, max_depth: 64 };

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
    #[error("the definition is not a tool: {0}")]
    Shape(&'static str),
    /// Its name cannot be used.
    #[error("the tool's name cannot be used: {0}")]
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
    /// The upstream's own name for the tool.
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
        let pin = Digest::of(&to_canonical(&value)?);
        let Value::Object(members) = value else { return Err(PinError::Shape("it is not an object")) };
        let name = members.get("name").and_then(Value::as_str).ok_or(PinError::Shape("it has no name"))?;
        if let Some(problem) = name_problem(name) {
            return Err(PinError::Name(problem));
        }
        if countersign_domain::operation::is_reserved(name) {
            return Err(PinError::Name(format!("{name} would be taken for a method of the protocol")));
        }
        let input_schema = members.get("inputSchema").filter(|schema| schema.is_object());
        let text = |key: &str| members.get(key).and_then(Value::as_str).map(str::to_owned);
        Ok(Self {
            name: name.to_owned(),
            title: text("title"),
            description: text("description"),
            input_schema: input_schema.ok_or(PinError::Shape("it has no inputSchema object"))?.clone(),
            output_schema: members.get("outputSchema").cloned(),
            annotations: members.get("annotations").cloned(),
            pin,
            members,
        })
    }
}

/// The name in a raw definition that may be broken otherwise, for messages; hidden characters made visible.
pub fn name_for_messages(raw: &str) -> String {
    #[derive(serde::Deserialize)]
    struct Named {
        name: String,
    }
    let name = serde_json::from_str::<Named>(raw).map_or_else(|_| "(no name)".to_owned(), |named| named.name);
    crate::visible::visible_line(&name.chars().take(128).collect::<String>()).into_owned()
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
