//! JSON-RPC 2.0 as MCP uses it: messages in and out, results left raw.

use std::borrow::Cow;

use countersign_gate::upstream::{DispatchError, ToolResult};
use serde::Deserialize;
use serde_json::value::RawValue;

/// The newest revision.
pub(crate) const MODERN: &str = "2026-07-28";
/// Revisions of the handshake era that we speak, newest first.
pub(crate) const LEGACY: &[&str] = &["2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"];

/// 2026-07-28, Error Codes.
pub(crate) const HEADER_MISMATCH: i64 = -32020;
pub(crate) const MISSING_CAPABILITY: i64 = -32021;
pub(crate) const UNSUPPORTED_VERSION: i64 = -32022;

/// `_meta` of every request in the modern era. We declare no capabilities: what an upstream might ask for (sampling,
/// elicitation, roots) is thereby denied.
pub(crate) const META: &str = concat!(
    r#"{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"countersign","version":""#,
    env!("CARGO_PKG_VERSION"),
    r#""},"io.modelcontextprotocol/clientCapabilities":{}}"#
);

/// `params` of `initialize`, offering the newest revision of its era.
pub(crate) const INITIALIZE: &str = concat!(
    r#""protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"countersign","version":""#,
    env!("CARGO_PKG_VERSION"),
    r#""}"#
);

/// How an upstream is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Era {
    /// 2026-07-28: metadata with every request.
    Modern,
    /// A revision agreed on by handshake.
    Legacy(&'static str),
}

impl Era {
    pub(crate) fn revision(self) -> &'static str {
        match self {
            Era::Modern => MODERN,
            Era::Legacy(revision) => revision,
        }
    }
}

/// A request as one line without a line feed. `members` are those of `params`, without braces.
pub(crate) fn request(id: u64, method: &str, members: &str, era: Era) -> Vec<u8> {
    let separator = if members.is_empty() { "" } else { "," };
    let traced = crate::traced::meta();
    let text = match era {
        Era::Modern => {
            let meta = META.strip_suffix('}').unwrap_or(META);
            let comma = if traced.is_empty() { "" } else { "," };
            format!(
                r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{{{members}{separator}"_meta":{meta}{comma}{traced}}}}}}}"#
            )
        }
        // Members with a `_meta` of their own, or with that word anywhere, go as they are: a name twice would be refused.
        Era::Legacy(_) if !traced.is_empty() && !members.contains("\"_meta\"") => {
            format!(
                r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{{{members}{separator}"_meta":{{{traced}}}}}}}"#
            )
        }
        Era::Legacy(_) => format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{{{members}}}}}"#),
    };
    let mut bytes = text.into_bytes();
    // Inside JSON strings line breaks are escaped; where they stand between tokens a space says the same.
    bytes.iter_mut().filter(|b| matches!(b, b'\n' | b'\r')).for_each(|b| *b = b' ');
    bytes
}

/// A notification as one line without a line feed.
pub(crate) fn notification(method: &str, members: &str) -> Vec<u8> {
    format!(r#"{{"jsonrpc":"2.0","method":"{method}","params":{{{members}}}}}"#).into_bytes()
}

/// The answer to what an upstream asks of us: a `ping` is answered, everything else was never offered.
pub(crate) fn refusal(id: &RawValue, method: &str) -> Vec<u8> {
    let answer = match method {
        "ping" => r#""result":{}"#,
        _ => r#""error":{"code":-32601,"message":"Method not found"}"#,
    };
    format!(r#"{{"jsonrpc":"2.0","id":{},{answer}}}"#, id.get()).into_bytes()
}

/// A JSON string.
pub(crate) fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// What a request was answered with.
#[derive(Debug)]
pub(crate) enum Answer {
    /// The `result` member.
    Result(Box<RawValue>),
    /// The `error` member.
    Error(Box<RawValue>),
}

/// A message from an upstream.
#[derive(Debug)]
pub(crate) enum Incoming<'a> {
    /// The answer to the request of this number.
    Response(u64, Answer),
    /// An error that answers no request in particular.
    Unrelated(&'a RawValue),
    /// The upstream asks us.
    Request(&'a RawValue, Cow<'a, str>),
    /// The upstream tells us.
    Notification(Cow<'a, str>),
}

#[derive(Deserialize)]
struct Message<'a> {
    jsonrpc: Cow<'a, str>,
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    method: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    result: Option<&'a RawValue>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

/// Reads one message.
///
/// # Errors
/// In words, if it is not one.
pub(crate) fn parse(bytes: &[u8]) -> Result<Incoming<'_>, String> {
    let message: Message<'_> = serde_json::from_slice(bytes).map_err(|e| format!("not a JSON-RPC message: {e}"))?;
    if message.jsonrpc != "2.0" {
        return Err("not JSON-RPC 2.0".to_owned());
    }
    if let Some(method) = message.method {
        return Ok(match message.id {
            Some(id) => Incoming::Request(id, method),
            None => Incoming::Notification(method),
        });
    }
    let answer = match (message.result, message.error) {
        (Some(result), None) => Answer::Result(result.to_owned()),
        (None, Some(error)) => Answer::Error(error.to_owned()),
        _ => return Err("neither a request nor a response".to_owned()),
    };
    match (message.id, answer) {
        (Some(id), answer) => {
            let number =
                id.get().parse().map_err(|_| format!("an answer to {}, which nobody asked", shorten(id.get(), 40)))?;
            Ok(Incoming::Response(number, answer))
        }
        (None, Answer::Error(_)) => message.error.map(Incoming::Unrelated).ok_or_else(String::new),
        (None, Answer::Result(_)) => Err("a result without an id".to_owned()),
    }
}

#[derive(Deserialize)]
struct RpcError<'a> {
    code: i64,
    #[serde(borrow, default)]
    message: Cow<'a, str>,
}

/// The code and message of an `error` member.
pub(crate) fn error_parts(raw: &RawValue) -> Option<(i64, String)> {
    let error: RpcError<'_> = serde_json::from_str(raw.get()).ok()?;
    Some((error.code, shorten(&error.message, 2_000)))
}

/// The `result` of any answer, or the error in the gate's terms.
pub(crate) fn result_of(answer: Answer) -> Result<Box<RawValue>, DispatchError> {
    match answer {
        Answer::Result(raw) => Ok(raw),
        Answer::Error(raw) => match error_parts(&raw) {
            Some((code, message)) => Err(DispatchError::Rpc { code, message, raw }),
            None => Err(DispatchError::Protocol("its error has no code".into())),
        },
    }
}

#[derive(Deserialize)]
struct ToolResultHead<'a> {
    #[serde(rename = "isError", default)]
    is_error: Option<bool>,
    #[serde(rename = "resultType", borrow, default)]
    result_type: Option<Cow<'a, str>>,
}

/// A `CallToolResult`, looked at and left as it is.
pub(crate) fn tool_result(answer: Answer) -> Result<ToolResult, DispatchError> {
    let raw = result_of(answer)?;
    if !raw.get().starts_with('{') {
        return Err(DispatchError::Protocol("its result is not an object".into()));
    }
    let head: ToolResultHead<'_> = serde_json::from_str(raw.get())
        .map_err(|e| DispatchError::Protocol(format!("its result is not a tool's: {e}")))?;
    match head.result_type.as_deref() {
        // Absent in the handshake era: complete (2026-07-28, ResultType).
        None | Some("complete") => {}
        Some("input_required") => {
            return Err(DispatchError::Protocol(
                "it asked for input, which this node does not offer to upstreams".into(),
            ));
        }
        Some(other) => return Err(DispatchError::Protocol(format!("unknown result type {:?}", shorten(other, 40)))),
    }
    let is_error = head.is_error.unwrap_or(false);
    Ok(ToolResult { raw, is_error })
}

/// At most `most` characters, with hidden ones made visible.
pub(crate) fn shorten(text: &str, most: usize) -> String {
    let short: String = text.chars().take(most).collect();
    countersign_catalog::visible_line(&short).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_one_line_and_keep_what_they_carry() {
        let line =
            request(7, "tools/call", "\"name\":\"x\",\"arguments\":{\n \"a\" : 1.0 , \"b\":\"\\n\"}", Era::Modern);
        let text = String::from_utf8(line).expect("UTF-8");
        assert!(!text.contains('\n') && text.contains(r#"{  "a" : 1.0 , "b":"\n"}"#), "{text}");
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(value["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"], MODERN);
        let legacy = request(8, "tools/list", "", Era::Legacy(LEGACY[0]));
        assert_eq!(legacy, br#"{"jsonrpc":"2.0","id":8,"method":"tools/list","params":{}}"#);
    }

    #[test]
    fn messages_are_told_apart() {
        let kind = |text: &str| match parse(text.as_bytes()) {
            Ok(Incoming::Response(id, Answer::Result(raw))) => format!("{id} {}", raw.get()),
            Ok(Incoming::Response(id, Answer::Error(raw))) => format!("{id} error {}", raw.get()),
            Ok(Incoming::Unrelated(_)) => "unrelated".into(),
            Ok(Incoming::Request(id, method)) => format!("{method} asked as {}", id.get()),
            Ok(Incoming::Notification(method)) => method.into_owned(),
            Err(_) => "refused".into(),
        };
        for (text, expected) in [
            (r#"{"jsonrpc":"2.0","id":1,"result":{ "x" : 1.50 }}"#, "1 { \"x\" : 1.50 }"),
            (r#"{"jsonrpc":"2.0","id":1,"error":{"code":-1,"message":""}}"#, r#"1 error {"code":-1,"message":""}"#),
            (r#"{"jsonrpc":"2.0","id":null,"error":{}}"#, "unrelated"),
            (r#"{"jsonrpc":"2.0","id":"a","method":"ping"}"#, "ping asked as \"a\""),
            (r#"{"jsonrpc":"2.0","method":"n/x","params":{}}"#, "n/x"),
            (r#"{"jsonrpc":"2.0","id":1,"result":{},"error":{}}"#, "refused"),
            (r#"{"jsonrpc":"2.0","id":1,"result":{},"result":{}}"#, "refused"),
            (r#"{"jsonrpc":"2.0","id":"1","result":{}}"#, "refused"),
            (r#"{"jsonrpc":"1.0","id":1,"result":{}}"#, "refused"),
            (r#"[{"jsonrpc":"2.0","id":1,"result":{}}]"#, "refused"),
            ("listening on stdio", "refused"),
        ] {
            assert_eq!(kind(text), expected, "{text}");
        }
    }

    #[test]
    fn a_tool_result_comes_back_as_it_was_sent() {
        let raw = |text: &str| Answer::Result(RawValue::from_string(text.to_owned()).expect("JSON"));
        let text = r#"{"content":[],"isError":true,"x-unknown":{"n":1.0},"resultType":"complete"}"#;
        let result = tool_result(raw(text)).expect("a result");
        assert_eq!((result.raw.get(), result.is_error), (text, true));
        for wrong in
            ["[]", "3", r#"{"isError":"no"}"#, r#"{"resultType":"input_required"}"#, r#"{"resultType":"task"}"#]
        {
            assert!(matches!(tool_result(raw(wrong)), Err(DispatchError::Protocol(_))), "{wrong}");
        }
    }
}
