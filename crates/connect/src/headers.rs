//! Arguments that a tool's schema marks with `x-mcp-header`, mirrored into headers (2026-07-28, Streamable HTTP, Custom Headers from
//! Tool Parameters).

use std::collections::HashSet;

use base64::Engine as _;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Map, Value};

const MARK: &str = "x-mcp-header";
/// Integers beyond this are not mirrored: JavaScript could not read them back.
const MAX_SAFE: i64 = (1 << 53) - 1;
/// Marks of one tool.
const MAX_MARKS: usize = 64;

/// One argument that goes into a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ParamHeader {
    name: HeaderName,
    /// The names of the properties that lead to it.
    path: Vec<String>,
}

/// The marked arguments of a tool's definition.
///
/// # Errors
/// In words, if a mark breaks the rules, by which the whole definition is invalid.
pub(crate) fn marked(tool: &str) -> Result<Vec<ParamHeader>, String> {
    if !tool.contains(MARK) {
        return Ok(Vec::new());
    }
    let tool: Value = serde_json::from_str(tool).map_err(|e| e.to_string())?;
    let mut walk = Walk { found: Vec::new(), names: HashSet::new() };
    walk.schema(&tool["inputSchema"], Some(&mut Vec::new()))?;
    Ok(walk.found)
}

struct Walk {
    found: Vec<ParamHeader>,
    names: HashSet<String>,
}

impl Walk {
    /// `path` is how the schema is reached from the root through `properties` alone, if it is.
    fn schema(&mut self, schema: &Value, mut path: Option<&mut Vec<String>>) -> Result<(), String> {
        let members = match schema {
            Value::Object(members) => members,
            Value::Array(list) => return list.iter().try_for_each(|part| self.schema(part, None)),
            _ => return Ok(()),
        };
        if let Some(mark) = members.get(MARK) {
            self.mark(mark, members, path.as_deref().map(Vec::as_slice))?;
        }
        for (keyword, value) in members {
            match (keyword.as_str(), value) {
                (MARK | "const" | "default" | "enum" | "example" | "examples", _) => {}
                ("properties", Value::Object(properties)) => {
                    for (name, property) in properties {
                        match path.as_deref_mut() {
                            Some(path) => {
                                path.push(name.clone());
                                let walked = self.schema(property, Some(&mut *path));
                                path.pop();
                                walked?;
                            }
                            None => self.schema(property, None)?,
                        }
                    }
                }
                ("$defs" | "definitions" | "patternProperties" | "dependentSchemas", Value::Object(schemas)) => {
                    schemas.values().try_for_each(|schema| self.schema(schema, None))?;
                }
                (_, value) => self.schema(value, None)?,
            }
        }
        Ok(())
    }

    fn mark(&mut self, mark: &Value, schema: &Map<String, Value>, path: Option<&[String]>) -> Result<(), String> {
        let Some(path) = path.filter(|path| !path.is_empty()) else {
            return Err(format!("{MARK} stands where no argument is"));
        };
        let at = path.join(".");
        let name = mark.as_str().filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| format!("{MARK} of {at} is not a name"))?;
        if !matches!(schema.get("type").and_then(Value::as_str), Some("string" | "integer" | "boolean")) {
            return Err(format!("{MARK} of {at} is not on a string, an integer or a boolean"));
        }
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if !name.bytes().all(token) {
            return Err(format!("{MARK} of {at} is not a header's name"));
        }
        if !self.names.insert(name.to_ascii_lowercase()) {
            return Err(format!("{MARK} of {at} is there twice"));
        }
        if self.found.len() >= MAX_MARKS {
            return Err(format!("more than {MAX_MARKS} arguments have {MARK}"));
        }
        let name = HeaderName::try_from(format!("mcp-param-{name}")).map_err(|e| format!("{MARK} of {at}: {e}"))?;
        self.found.push(ParamHeader { name, path: path.to_vec() });
        Ok(())
    }
}

/// Adds the headers that these arguments ask for.
pub(crate) fn mirror(marked: &[ParamHeader], arguments: &str, headers: &mut HeaderMap) {
    if marked.is_empty() {
        return;
    }
    let Ok(arguments) = serde_json::from_str::<Value>(arguments) else { return };
    for header in marked {
        let value = header.path.iter().try_fold(&arguments, |value, name| value.get(name));
        if let Some(text) = value.and_then(text) {
            headers.insert(header.name.clone(), header_value(&text));
        }
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(yes) => Some(yes.to_string()),
        Value::Number(number) => number.as_i64().filter(|n| (-MAX_SAFE..=MAX_SAFE).contains(n)).map(|n| n.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// 2026-07-28, Value Encoding: what a header cannot hold as it is goes in base64 between marks.
pub(crate) fn header_value(text: &str) -> HeaderValue {
    let plain = text.bytes().all(|b| (0x20..0x7f).contains(&b))
        && text.trim() == text
        && !(text.starts_with("=?base64?") && text.ends_with("?="));
    let encoded = || format!("=?base64?{}?=", base64::engine::general_purpose::STANDARD.encode(text));
    let value = if plain { HeaderValue::from_str(text) } else { HeaderValue::from_str(&encoded()) };
    // Both forms are printable ASCII.
    value.unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_values_are_encoded_as_in_the_specification() {
        for (text, value) in [
            ("us-west1", "us-west1"),
            ("Hello, 世界", "=?base64?SGVsbG8sIOS4lueVjA==?="),
            (" padded ", "=?base64?IHBhZGRlZCA=?="),
            ("line1\nline2", "=?base64?bGluZTEKbGluZTI=?="),
            ("=?base64?literal?=", "=?base64?PT9iYXNlNjQ/bGl0ZXJhbD89?="),
        ] {
            assert_eq!(header_value(text), value, "{text}");
        }
    }

    fn tool(schema: &str) -> String {
        format!(r#"{{"name":"t","inputSchema":{{"type":"object",{schema}}}}}"#)
    }

    #[test]
    fn marked_arguments_become_headers() {
        let marks = marked(&tool(
            r#""properties":{"region":{"type":"string","x-mcp-header":"Region"},"n":{"type":"integer","x-mcp-header":"N"},
            "deep":{"type":"object","properties":{"flag":{"type":"boolean","x-mcp-header":"Method"}}},
            "x-mcp-header":{"type":"string"},"plain":{"type":"string"}}"#,
        ))
        .expect("a good schema");
        let mut headers = HeaderMap::new();
        let arguments = r#"{"region":"日本","n":-7,"deep":{"flag":true},"plain":"x","x-mcp-header":"y"}"#;
        mirror(&marks, arguments, &mut headers);
        let get = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
        assert_eq!(get("mcp-param-region"), Some("=?base64?5pel5pys?="));
        assert_eq!((get("mcp-param-n"), get("mcp-param-method")), (Some("-7"), Some("true")));
        assert_eq!(headers.len(), 3);
        let mut none = HeaderMap::new();
        mirror(&marks, r#"{"region":null,"n":9007199254740992,"deep":7}"#, &mut none);
        assert!(none.is_empty(), "{none:?}");
    }

    #[test]
    fn marks_that_break_the_rules_make_the_definition_invalid() {
        for schema in [
            r#""properties":{"a":{"type":"string","x-mcp-header":""}}"#,
            r#""properties":{"a":{"type":"string","x-mcp-header":null}}"#,
            r#""properties":{"a":{"type":"number","x-mcp-header":"A"}}"#,
            r#""properties":{"a":{"type":"object","x-mcp-header":"A"}}"#,
            r#""properties":{"a":{"type":["string","null"],"x-mcp-header":"A"}}"#,
            r#""properties":{"a":{"type":"string","x-mcp-header":"A B"}}"#,
            r#""properties":{"a":{"type":"string","x-mcp-header":"A:"}}"#,
            r#""properties":{"a":{"type":"string","x-mcp-header":"A\r\nEvil"}}"#,
            r#""properties":{"a":{"type":"string","x-mcp-header":"A"},"b":{"type":"string","x-mcp-header":"a"}}"#,
            r#""properties":{"a":{"type":"array","items":{"type":"string","x-mcp-header":"A"}}}"#,
            r#""anyOf":[{"properties":{"a":{"type":"string","x-mcp-header":"A"}}}]"#,
            r#""$defs":{"d":{"type":"string","x-mcp-header":"A"}}"#,
            r#""x-mcp-header":"A""#,
        ] {
            assert!(marked(&tool(schema)).is_err(), "{schema}");
        }
        assert_eq!(marked(&tool(r#""properties":{"a":{"const":{"x-mcp-header":"A"}}}"#)), Ok(Vec::new()));
    }
}
