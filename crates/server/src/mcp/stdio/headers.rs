//! The headers that the node wants beside a message: who calls, the revision, the session, and what 2026-07-28 repeats of the body.

use std::sync::PoisonError;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;

use super::node::{Proxy, SESSION};
use crate::mcp::era::{self, MODERN};

/// Whether a message belongs to the session: those that name their revision themselves need none.
pub(super) fn in_session(message: &Value) -> bool {
    let declared = &message["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"];
    declared.as_str().is_none() && message["method"] != "initialize"
}

impl Proxy {
    /// Which arguments are mirrored, as a list that passes by says.
    pub(super) fn remember_headers(&self, answer: &[u8]) {
        let value: Value = serde_json::from_slice(answer).unwrap_or_default();
        let mut known = self.headers.lock().unwrap_or_else(PoisonError::into_inner);
        for tool in value["result"]["tools"].as_array().into_iter().flatten() {
            let params = era::param_headers(tool);
            match (tool["name"].as_str(), params.is_empty()) {
                (Some(name), false) => drop(known.insert(name.to_owned(), params)),
                (Some(name), true) => drop(known.remove(name)),
                (None, _) => {}
            }
        }
    }

    /// The headers of a request with this body, or of one without.
    ///
    /// # Errors
    /// If there is no token.
    pub(super) fn headers_for(&self, message: &Value) -> Result<HeaderMap, String> {
        let token = (self.token)()?;
        let mut headers = HeaderMap::new();
        let bearer = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| "the token is not one".to_owned())?;
        headers.insert(AUTHORIZATION, bearer);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        let declared = message["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"].as_str();
        let negotiated = self.negotiated.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let revision = declared.map(str::to_owned).or(negotiated);
        let mut set = |name: &'static str, text: &str| headers.insert(HeaderName::from_static(name), encoded(text));
        if let Some(revision) = &revision {
            set("mcp-protocol-version", revision);
        }
        if in_session(message)
            && let Some(session) = self.session()
        {
            set(SESSION, &session);
        }
        if declared.is_some_and(|revision| revision == MODERN) {
            set("mcp-method", message["method"].as_str().unwrap_or_default());
            let params = &message["params"];
            let named = match message["method"].as_str().unwrap_or_default() {
                "resources/read" => &params["uri"],
                "tasks/get" | "tasks/update" | "tasks/cancel" => &params["taskId"],
                _ => &Value::Null,
            };
            if let Some(named) = named.as_str() {
                set("mcp-name", named);
            }
            if let Some(name) = message["params"]["name"].as_str() {
                set("mcp-name", name);
                self.mirror(name, &message["params"]["arguments"], &mut headers);
            }
        }
        Ok(headers)
    }

    fn mirror(&self, tool: &str, arguments: &Value, headers: &mut HeaderMap) {
        let known = self.headers.lock().unwrap_or_else(PoisonError::into_inner);
        for param in known.get(tool).into_iter().flatten() {
            let value = param.path.iter().try_fold(arguments, |value, name| value.get(name));
            match value {
                Some(Value::String(text)) => drop(headers.insert(param.header.clone(), encoded(text))),
                Some(value @ (Value::Number(_) | Value::Bool(_))) => {
                    drop(headers.insert(param.header.clone(), encoded(&value.to_string())));
                }
                Some(Value::Null | Value::Array(_) | Value::Object(_)) | None => {}
            }
        }
    }
}

/// A header value as 2026-07-28 wants it ("Value Encoding").
fn encoded(text: &str) -> HeaderValue {
    let looks_encoded = text.starts_with("=?base64?") && text.ends_with("?=");
    let plain = text.bytes().all(|b| b.is_ascii_graphic() || b == b' ') && text.trim() == text && !looks_encoded;
    let value = if plain { text.to_owned() } else { format!("=?base64?{}?=", STANDARD.encode(text)) };
    HeaderValue::try_from(value).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_values_are_encoded_as_the_specification_says() {
        let cases = [
            ("us-west1", "us-west1"),
            ("Hello, 世界", "=?base64?SGVsbG8sIOS4lueVjA==?="),
            (" padded ", "=?base64?IHBhZGRlZCA=?="),
            ("line1\nline2", "=?base64?bGluZTEKbGluZTI=?="),
            ("=?base64?literal?=", "=?base64?PT9iYXNlNjQ/bGl0ZXJhbD89?="),
        ];
        for (text, expected) in cases {
            assert_eq!(encoded(text), expected);
        }
    }
}
