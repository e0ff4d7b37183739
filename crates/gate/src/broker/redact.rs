//! Taking secrets out of what upstreams say: an echo of a credential is neither recorded nor relayed.

use serde_json::Value;
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use crate::upstream::{DispatchError, ToolResult};

/// What stands where a secret stood.
pub const REDACTED: &str = "[redacted]";
/// Shorter secrets are not looked for: they would be found in everything.
const MIN_LENGTH: usize = 6;

/// Finds secrets in texts, as they are and as JSON and URLs write them.
#[derive(Default)]
pub struct Redactor {
    forms: Vec<Zeroizing<String>>,
}

impl Redactor {
    /// Over these secrets.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a str>) -> Self {
        let mut redactor = Self::default();
        secrets.into_iter().for_each(|secret| redactor.add(secret));
        redactor
    }

    /// Another secret.
    pub fn add(&mut self, secret: &str) {
        if secret.len() < MIN_LENGTH {
            return;
        }
        let json = Zeroizing::new(Value::from(secret).to_string());
        // One quotation mark at each end is JSON's; more are the secret's own.
        let quoted = json.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(&json).to_owned();
        // As JSON in a text of JSON has it: an API's error, say, that is passed on as text.
        let twice = quoted.replace('\\', "\\\\").replace('"', "\\\"");
        for form in [secret.to_owned(), quoted, twice, percent(secret, true), percent(secret, false)] {
            if !self.forms.iter().any(|known| **known == form) {
                self.forms.push(Zeroizing::new(form));
            }
        }
        // Longer forms first: one may hold another.
        self.forms.sort_by_key(|form| std::cmp::Reverse(form.len()));
    }

    /// The text without the secrets.
    pub fn text(&self, text: &str) -> String {
        self.forms.iter().fold(text.to_owned(), |text, form| {
            if text.contains(form.as_str()) { text.replace(form.as_str(), REDACTED) } else { text }
        })
    }

    /// What a call gave back, without the secrets. JSON without an echo stays what it was, byte for byte.
    ///
    /// # Errors
    /// What was given, redacted; or that no JSON is left, where a secret was part of its structure.
    pub fn outcome(&self, outcome: Result<ToolResult, DispatchError>) -> Result<ToolResult, DispatchError> {
        match outcome {
            Ok(result) => {
                Ok(ToolResult { raw: self.raw(result.raw)?, is_error: result.is_error, remarks: result.remarks })
            }
            Err(DispatchError::Rpc { code, message, raw }) => {
                Err(DispatchError::Rpc { code, message: self.text(&message), raw: self.raw(raw)? })
            }
            Err(DispatchError::NotSent(why)) => Err(DispatchError::NotSent(self.text(&why))),
            Err(DispatchError::Busy(why)) => Err(DispatchError::Busy(self.text(&why))),
            Err(DispatchError::Undone(why)) => Err(DispatchError::Undone(self.text(&why))),
            Err(DispatchError::Lost(why)) => Err(DispatchError::Lost(self.text(&why))),
            Err(DispatchError::Protocol(why)) => Err(DispatchError::Protocol(self.text(&why))),
            Err(error @ (DispatchError::Unauthorised(_) | DispatchError::Timeout | DispatchError::Cancelled)) => {
                Err(error)
            }
        }
    }

    fn raw(&self, raw: Box<RawValue>) -> Result<Box<RawValue>, DispatchError> {
        let broken = |_| DispatchError::Protocol("its answer echoes a credential".to_owned());
        let found = self.forms.iter().any(|form| raw.get().contains(form.as_str()));
        let raw = if found { RawValue::from_string(self.text(raw.get())).map_err(broken)? } else { raw };
        // Escapes can hide a secret from a look at the text; then the strings themselves are looked at.
        if !raw.get().contains('\\') {
            return Ok(raw);
        }
        let mut value: Value = serde_json::from_str(raw.get()).map_err(broken)?;
        if self.strings(&mut value) { serde_json::value::to_raw_value(&value).map_err(broken) } else { Ok(raw) }
    }

    /// Whether a string had to be changed.
    fn strings(&self, value: &mut Value) -> bool {
        match value {
            Value::String(text) => {
                let found = self.forms.iter().any(|form| text.contains(form.as_str()));
                if found {
                    *text = self.text(text);
                }
                found
            }
            Value::Array(items) => items.iter_mut().fold(false, |found, item| self.strings(item) | found),
            Value::Object(members) => {
                let named = members.keys().any(|name| self.forms.iter().any(|form| name.contains(form.as_str())));
                if named {
                    *members = std::mem::take(members).into_iter().map(|(name, v)| (self.text(&name), v)).collect();
                }
                members.values_mut().fold(named, |found, member| self.strings(member) | found)
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => false,
        }
    }
}

/// Percent-encoded but for RFC 3986's unreserved characters.
pub(crate) fn percent(text: &str, upper: bool) -> String {
    let mut out = String::with_capacity(text.len() * 3);
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else if upper {
            out.push_str(&format!("%{byte:02X}"));
        } else {
            out.push_str(&format!("%{byte:02x}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "s3/cr\"et+\\7";

    fn raw(text: &str) -> Result<String, String> {
        let result = ToolResult {
            raw: RawValue::from_string(text.to_owned()).expect("JSON"),
            is_error: false,
            remarks: serde_json::Map::new(),
        };
        Redactor::new([SECRET, "123456"]).outcome(Ok(result)).map(|r| r.raw.get().to_owned()).map_err(|e| e.to_string())
    }

    #[test]
    fn echoes_are_found_however_they_are_written() {
        let untouched = r#"{"a": 1.50, "b":"\u00e9", "big":98765432109876543210}"#;
        assert_eq!(raw(untouched).as_deref(), Ok(untouched));
        for echo in [
            r#"{"a":"x s3/cr\"et+\\7 y","n":1.50}"#,
            r#"{"a":"x s3%2Fcr%22et%2B%5C7 y","n":1.50}"#,
            r#"{"a":"x s3%2fcr%22et%2b%5c7 y","n":1.50}"#,
            r#"{"a":"x s3/cr\\\"et+\\\\7 y","n":1.50}"#,
        ] {
            assert_eq!(raw(echo).as_deref(), Ok(r#"{"a":"x [redacted] y","n":1.50}"#), "{echo}");
        }
        for echo in [r#"{"a":["\u00733\/cr\u0022et+\u005c7"]}"#, r#"{"\u00733/cr\"et+\\7":[]}"#] {
            let clean = raw(echo).expect("JSON");
            assert!(clean.contains(REDACTED) && !clean.contains("cr"), "{clean}");
        }
        let result = ToolResult {
            raw: RawValue::from_string(r#"["x \"quoted\""]"#.to_owned()).expect("JSON"),
            is_error: false,
            remarks: serde_json::Map::new(),
        };
        let clean = Redactor::new(["\"quoted\""]).outcome(Ok(result)).map(|r| r.raw.get().to_owned());
        assert!(clean.is_ok_and(|text| text == r#"["x [redacted]"]"#), "a secret with quotation marks at its ends");
        assert!(raw(r#"{"a":12345678}"#).is_err_and(|why| !why.contains("123456")));
    }
}
