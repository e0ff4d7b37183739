//! JSON-RPC 2.0 as MCP uses it: messages in and out, results left raw.

use std::borrow::Cow;

use countersign_gate::upstream::{AskKind, DispatchError, Exchange, ToolResult};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::depth::{is_too_deep, too_deep};

/// The newest revision.
pub(crate) const MODERN: &str = "2026-07-28";
/// Revisions of the handshake era that we speak, newest first.
pub(crate) const LEGACY: &[&str] = &["2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"];

/// 2026-07-28, Error Codes.
pub(crate) const HEADER_MISMATCH: i64 = -32020;
pub(crate) const MISSING_CAPABILITY: i64 = -32021;
pub(crate) const UNSUPPORTED_VERSION: i64 = -32022;
/// JSON-RPC 2.0, 5.1.
pub(crate) const METHOD_NOT_FOUND: i64 = -32601;
pub(crate) const INTERNAL_ERROR: i64 = -32603;

/// Why a question on a shared channel is refused.
pub(crate) const NOT_ATTRIBUTABLE: &str = "exactly one call must be in flight, so that it is known whom to ask";

const CLIENT_INFO: &str = concat!(r#"{"name":"countersign","version":""#, env!("CARGO_PKG_VERSION"), r#""}"#);

/// `params` of `initialize`, offering the newest revision of its era. The connection serves many callers, so it declares all
/// that any of them might answer; what a caller does not answer, and what policy refuses, is answered with an error.
pub(crate) fn initialize() -> String {
    format!(
        r#""protocolVersion":"2025-11-25","capabilities":{{"elicitation":{{"form":{{}},"url":{{}}}},"sampling":{{}},"roots":{{}}}},"clientInfo":{CLIENT_INFO}"#
    )
}

/// The `_meta` of a request, if it has one. In the modern era it declares what this call's caller answers, and nothing else.
pub(crate) fn meta(id: u64, era: Era, exchange: &dyn Exchange) -> Option<String> {
    let progress = exchange.wants_progress().then(|| format!("\"progressToken\":{id}"));
    let traced = Some(crate::traced::meta()).filter(|traced| !traced.is_empty());
    match era {
        Era::Legacy(_) => {
            let parts: Vec<String> = progress.into_iter().chain(traced).collect();
            (!parts.is_empty()).then(|| format!("{{{}}}", parts.join(",")))
        }
        Era::Modern => {
            let mut meta = format!(
                r#"{{"io.modelcontextprotocol/protocolVersion":"{MODERN}","io.modelcontextprotocol/clientInfo":{CLIENT_INFO},"io.modelcontextprotocol/clientCapabilities":{}"#,
                capabilities(exchange)
            );
            if let Some(level) = exchange.log_level() {
                meta.push_str(",\"io.modelcontextprotocol/logLevel\":");
                meta.push_str(&quote(level));
            }
            for part in progress.into_iter().chain(traced) {
                meta.push(',');
                meta.push_str(&part);
            }
            meta.push('}');
            Some(meta)
        }
    }
}

fn capabilities(exchange: &dyn Exchange) -> String {
    let modes: Vec<&str> = [(AskKind::ElicitForm, "\"form\":{}"), (AskKind::ElicitUrl, "\"url\":{}")]
        .into_iter()
        .filter_map(|(kind, text)| exchange.answers(kind).then_some(text))
        .collect();
    let mut declared = Vec::new();
    if !modes.is_empty() {
        declared.push(format!("\"elicitation\":{{{}}}", modes.join(",")));
    }
    if exchange.answers(AskKind::Sample) {
        declared.push("\"sampling\":{}".to_owned());
    }
    if exchange.answers(AskKind::ListRoots) {
        declared.push("\"roots\":{}".to_owned());
    }
    if exchange.knows_tasks() {
        declared.push("\"extensions\":{\"io.modelcontextprotocol/tasks\":{}}".to_owned());
    }
    format!("{{{}}}", declared.join(","))
}

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
pub(crate) fn request(id: u64, method: &str, members: &str, meta: Option<&str>) -> Vec<u8> {
    let separator = if members.is_empty() { "" } else { "," };
    let text = match meta {
        Some(meta) => {
            format!(
                r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{{{members}{separator}"_meta":{meta}}}}}"#
            )
        }
        None => format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{{{members}}}}}"#),
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

/// The answer to what an upstream asks outside of any call: a `ping` is answered, everything else is refused.
pub(crate) fn refusal(id: &RawValue, method: &str) -> Vec<u8> {
    match method {
        "ping" => response(id, "\"result\":{}"),
        _ => error_response(id, METHOD_NOT_FOUND, "Method not found"),
    }
}

/// A response with this member.
pub(crate) fn response(id: &RawValue, member: &str) -> Vec<u8> {
    let mut bytes = format!(r#"{{"jsonrpc":"2.0","id":{},{member}}}"#, id.get()).into_bytes();
    bytes.iter_mut().filter(|b| matches!(b, b'\n' | b'\r')).for_each(|b| *b = b' ');
    bytes
}

/// A response that says no.
pub(crate) fn error_response(id: &RawValue, code: i64, message: &str) -> Vec<u8> {
    response(id, &format!("\"error\":{{\"code\":{code},\"message\":{}}}", quote(message)))
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
    /// Either, nested deeper than what is handed on. Only whose it is was read: it ends no call but its own.
    TooDeep,
}

/// A message from an upstream.
#[derive(Debug)]
pub(crate) enum Incoming<'a> {
    /// The answer to the request of this number.
    Response(u64, Answer),
    /// An error that answers no request in particular.
    Unrelated(&'a RawValue),
    /// The upstream asks us: id, method, `params`.
    Request(&'a RawValue, Cow<'a, str>, Option<&'a RawValue>),
    /// The upstream tells us: method, `params`.
    Notification(Cow<'a, str>, Option<&'a RawValue>),
}

#[derive(Deserialize)]
struct Message<'a> {
    jsonrpc: Cow<'a, str>,
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    method: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    params: Option<&'a RawValue>,
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
            Some(id) => Incoming::Request(id, method, message.params),
            None => Incoming::Notification(method, message.params),
        });
    }
    let answer = match (message.result, message.error) {
        (Some(raw), None) | (None, Some(raw)) if is_too_deep(raw.get().as_bytes()) => Answer::TooDeep,
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
        (None, Answer::Result(_) | Answer::TooDeep) => Err("an answer without an id".to_owned()),
    }
}

/// The result that says nothing but that all went well (2026-07-28, Result).
pub(crate) fn complete() -> Result<Answer, DispatchError> {
    let raw = RawValue::from_string(r#"{"resultType":"complete"}"#.to_owned());
    raw.map(Answer::Result).map_err(|e| DispatchError::Protocol(e.to_string()))
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
        Answer::TooDeep => Err(too_deep()),
    }
}

#[derive(Deserialize)]
struct ResultHead<'a> {
    #[serde(rename = "isError", default)]
    is_error: Option<bool>,
    #[serde(rename = "resultType", borrow, default)]
    result_type: Option<Cow<'a, str>>,
}

/// What a call's answer is.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The operation's result, as it was sent.
    Done(ToolResult),
    /// An `InputRequiredResult`: the call has to be made again with answers to what it asks.
    Input(Box<RawValue>),
}

/// A result, looked at and left as it is.
pub(crate) fn outcome(answer: Answer) -> Result<Outcome, DispatchError> {
    let raw = result_of(answer)?;
    if !raw.get().starts_with('{') {
        return Err(DispatchError::Protocol("its result is not an object".into()));
    }
    let head: ResultHead<'_> = serde_json::from_str(raw.get())
        .map_err(|e| DispatchError::Protocol(format!("its result cannot be read: {e}")))?;
    match head.result_type.as_deref() {
        // Absent in the handshake era: complete (2026-07-28, ResultType). A task is for the caller to follow, or for `tasks`.
        None | Some("complete" | "task") => Ok(Outcome::Done(ToolResult {
            is_error: head.is_error.unwrap_or(false),
            raw,
            remarks: serde_json::Map::new(),
        })),
        Some("input_required") => Ok(Outcome::Input(raw)),
        Some(other) => Err(DispatchError::Protocol(format!("unknown result type {:?}", shorten(other, 40)))),
    }
}

/// At most `most` characters, with hidden ones made visible.
pub(crate) fn shorten(text: &str, most: usize) -> String {
    let short: String = text.chars().take(most).collect();
    countersign_catalog::visible_line(&short).into_owned()
}

#[cfg(test)]
mod tests {
    use countersign_gate::upstream::Mute;

    use super::*;

    #[test]
    fn requests_are_one_line_and_keep_what_they_carry() {
        let line = request(
            7,
            "tools/call",
            "\"name\":\"x\",\"arguments\":{\n \"a\" : 1.0 , \"b\":\"\\n\"}",
            meta(7, Era::Modern, &Mute).as_deref(),
        );
        let text = String::from_utf8(line).expect("UTF-8");
        assert!(!text.contains('\n') && text.contains(r#"{  "a" : 1.0 , "b":"\n"}"#), "{text}");
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(value["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"], MODERN);
        let legacy = request(8, "tools/list", "", meta(8, Era::Legacy(LEGACY[0]), &Mute).as_deref());
        assert_eq!(legacy, br#"{"jsonrpc":"2.0","id":8,"method":"tools/list","params":{}}"#);
    }

    #[test]
    fn messages_are_told_apart() {
        let kind = |text: &str| match parse(text.as_bytes()) {
            Ok(Incoming::Response(id, Answer::Result(raw))) => format!("{id} {}", raw.get()),
            Ok(Incoming::Response(id, Answer::Error(raw))) => format!("{id} error {}", raw.get()),
            Ok(Incoming::Response(id, Answer::TooDeep)) => format!("{id} too deep"),
            Ok(Incoming::Unrelated(_)) => "unrelated".into(),
            Ok(Incoming::Request(id, method, _)) => format!("{method} asked as {}", id.get()),
            Ok(Incoming::Notification(method, _)) => method.into_owned(),
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
    fn an_answer_is_nested_128_levels_deep_at_most_and_is_known_by_its_id_all_the_same() {
        let nested = |levels: usize| format!(r#"{{"x":{}{}}}"#, "[".repeat(levels - 1), "]".repeat(levels - 1));
        for member in ["result", "error"] {
            let read = |levels: usize| {
                let text = format!(r#"{{"jsonrpc":"2.0","id":7,"{member}":{}}}"#, nested(levels));
                match parse(text.as_bytes()) {
                    Ok(Incoming::Response(7, answer)) => result_of(answer),
                    other => panic!("{levels}: {other:?}"),
                }
            };
            match (member, read(128)) {
                ("result", Ok(raw)) => assert_eq!(raw.get(), nested(128)),
                // An error without a code is no error, but its depth is nothing to complain about.
                ("error", Err(DispatchError::Protocol(why))) => assert!(why.contains("no code"), "{why}"),
                (_, other) => panic!("{other:?}"),
            }
            for levels in [129, 200_000] {
                let error = read(levels).expect_err("too deep");
                assert!(matches!(&error, DispatchError::Protocol(why) if why.contains("128 levels")), "{error:?}");
            }
        }
        let nobodys = format!(r#"{{"jsonrpc":"2.0","id":null,"error":{}}}"#, nested(200_000));
        assert!(parse(nobodys.as_bytes()).is_err());
    }

    #[test]
    fn a_result_comes_back_as_it_was_sent() {
        let raw = |text: &str| Answer::Result(RawValue::from_string(text.to_owned()).expect("JSON"));
        for (text, is_error) in [
            (r#"{"content":[],"isError":true,"x-unknown":{"n":1.0},"resultType":"complete"}"#, true),
            (r#"{"resultType":"task","task":{"taskId":"7","ttl":1}}"#, false),
        ] {
            let Ok(Outcome::Done(result)) = outcome(raw(text)) else { panic!("no result: {text}") };
            assert_eq!((result.raw.get(), result.is_error), (text, is_error));
        }
        assert!(matches!(outcome(raw(r#"{"resultType":"input_required"}"#)), Ok(Outcome::Input(_))));
        for wrong in ["[]", "3", r#"{"isError":"no"}"#, r#"{"resultType":"surprise"}"#] {
            assert!(matches!(outcome(raw(wrong)), Err(DispatchError::Protocol(_))), "{wrong}");
        }
    }
}
