//! JSON-RPC 2.0 envelopes as MCP narrows them: ids are strings or integers, never null. Values stay raw.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::rawjson::{ObjectWriter, write_string};

/// The text was not JSON.
pub(crate) const PARSE_ERROR: i64 = -32700;
/// Not a request that JSON-RPC or MCP know.
pub(crate) const INVALID_REQUEST: i64 = -32600;
/// No such method here.
pub(crate) const METHOD_NOT_FOUND: i64 = -32601;
/// The parameters do not fit.
pub(crate) const INVALID_PARAMS: i64 = -32602;
/// Something failed here.
pub(crate) const INTERNAL_ERROR: i64 = -32603;
/// Before 2026-07-28: no such resource.
pub(crate) const RESOURCE_NOT_FOUND: i64 = -32002;
/// Ours: refused by policy, a limit, a person or the state of things; `data` is the problem.
pub(crate) const REFUSED: i64 = 4030;
/// Ours: people have to agree first; `data` says how to go on.
pub(crate) const PENDING: i64 = 4020;
/// 2026-07-28: headers and body say different things.
pub(crate) const HEADER_MISMATCH: i64 = -32020;
/// 2026-07-28: a revision that is not spoken here.
pub(crate) const UNSUPPORTED_VERSION: i64 = -32022;
/// 2026-07-28, MissingRequiredClientCapabilityError.
pub(crate) const MISSING_CAPABILITY: i64 = -32021;

/// The member of `_meta` with which a caller says how long it waits.
pub(crate) const TIMEOUT: &str = "dev.countersign/timeout";

/// Longest id that is echoed, in bytes of JSON.
const MAX_ID: usize = 512;
/// Longest method name that is looked at.
const MAX_METHOD: usize = 128;

/// A message from a client. One lives at a time, on the stack of the request that it came with.
#[allow(clippy::large_enum_variant)]
#[derive(Debug)]
pub(crate) enum Message<'a> {
    /// Wants an answer.
    Request {
        /// The id as it was written.
        id: &'a str,
        /// The method.
        method: Cow<'a, str>,
        /// The parameters; empty if there were none.
        params: Params<'a>,
    },
    /// Wants none.
    Notification {
        /// The method.
        method: Cow<'a, str>,
        /// Which request it is about (`notifications/cancelled`), as it was written.
        about: Option<&'a str>,
    },
    /// An answer to something that was asked.
    Response {
        /// The question's id as it was written.
        id: Option<&'a str>,
        /// The answer.
        outcome: Result<&'a RawValue, &'a RawValue>,
    },
}

/// The parameters that the methods served here look at; others are left alone.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Params<'a> {
    /// Request metadata.
    #[serde(borrow, default, rename = "_meta", deserialize_with = "meta_object")]
    pub meta: Option<Meta<'a>>,
    /// `tools/call`: the tool.
    #[serde(borrow, default)]
    pub name: Option<Text<'a>>,
    /// `tools/call`: the arguments.
    #[serde(borrow, default)]
    pub arguments: Option<&'a RawValue>,
    /// `tools/list`: where to go on.
    #[serde(borrow, default)]
    pub cursor: Option<Text<'a>>,
    /// `tasks/*`: which one.
    #[serde(borrow, default, rename = "taskId")]
    pub task_id: Option<Text<'a>>,
    /// Resources: which one.
    #[serde(borrow, default)]
    pub uri: Option<Text<'a>>,
    /// `completion/complete`: what is completed.
    #[serde(borrow, default, rename = "ref")]
    pub reference: Option<&'a RawValue>,
    /// `completion/complete`: the argument so far.
    #[serde(borrow, default)]
    pub argument: Option<&'a RawValue>,
    /// `completion/complete`: the other arguments.
    #[serde(borrow, default)]
    pub context: Option<&'a RawValue>,
    /// `logging/setLevel`: the level.
    #[serde(borrow, default)]
    pub level: Option<Text<'a>>,
    /// `initialize`: what the client can do.
    #[serde(borrow, default)]
    pub capabilities: Option<&'a RawValue>,
    /// `subscriptions/listen`: what the client wants to hear of.
    #[serde(borrow, default)]
    pub notifications: Option<&'a RawValue>,
    /// A retry with answers (2026-07-28): what was given out with the questions.
    #[serde(borrow, default, rename = "requestState")]
    pub request_state: Option<Text<'a>>,
    /// A retry with answers: the answers.
    #[serde(borrow, default, rename = "inputResponses")]
    pub input_responses: Option<&'a RawValue>,
    /// `initialize`: the revision that the client wants.
    #[serde(borrow, default, rename = "protocolVersion")]
    pub protocol_version: Option<Text<'a>>,
}

/// The members of `_meta` that mean something here.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Meta<'a> {
    /// The revision of this request (2026-07-28).
    #[serde(borrow, default, rename = "io.modelcontextprotocol/protocolVersion")]
    pub protocol_version: Option<Text<'a>>,
    /// What the client can do (2026-07-28).
    #[serde(borrow, default, rename = "io.modelcontextprotocol/clientCapabilities")]
    pub client_capabilities: Option<&'a RawValue>,
    /// The least severe log messages that the client wants to hear of (2026-07-28).
    #[serde(borrow, default, rename = "io.modelcontextprotocol/logLevel")]
    pub log_level: Option<Text<'a>>,
    /// The trace that this message belongs to (W3C Trace Context).
    #[serde(borrow, default)]
    pub traceparent: Option<Text<'a>>,
    /// Beside it, what its vendors want to know.
    #[serde(borrow, default)]
    pub tracestate: Option<Text<'a>>,
    /// Opts into progress notifications.
    #[serde(borrow, default, rename = "progressToken")]
    pub progress_token: Option<&'a RawValue>,
    /// Our own: what `Idempotency-Key` is over HTTP.
    #[serde(borrow, default, rename = "dev.countersign/idempotency-key")]
    pub idempotency_key: Option<Text<'a>>,
    /// Our own ([`TIMEOUT`]): what `Request-Timeout` is over HTTP.
    #[serde(borrow, default, rename = "dev.countersign/timeout")]
    pub timeout: Option<&'a RawValue>,
}

/// A string, borrowed where it has no escapes.
#[derive(Debug, Deserialize)]
pub(crate) struct Text<'a>(#[serde(borrow)] pub Cow<'a, str>);

/// A JSON-RPC error on its way out.
#[derive(Debug)]
pub(crate) struct RpcError {
    /// The code.
    pub code: i64,
    /// One sentence.
    pub message: String,
    /// More, for programs.
    pub data: Option<Value>,
}

impl RpcError {
    /// An error without data.
    pub fn new(code: i64, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), data: None }
    }

    /// Adds data.
    #[must_use]
    pub fn with(mut self, data: Value) -> Self {
        self.data = Some(data);
        self
    }

    /// The response. The id is left out where it could not be read, or is null for those who expect that.
    pub fn response(&self, id: Option<&str>) -> Vec<u8> {
        let mut error = ObjectWriter::new(Vec::with_capacity(128));
        error.member("code", self.code.to_string().as_bytes());
        write_string(error.name("message"), &self.message);
        if let Some(data) = &self.data {
            error.member("data", data.to_string().as_bytes());
        }
        let error = error.finish();
        let mut response = ObjectWriter::new(Vec::with_capacity(error.len() + 64));
        response.member("jsonrpc", b"\"2.0\"");
        if let Some(id) = id {
            response.member("id", id.as_bytes());
        }
        response.member("error", &error);
        response.finish()
    }
}

/// A successful response.
pub(crate) fn response(id: &str, result: &[u8]) -> Vec<u8> {
    let mut response = ObjectWriter::new(Vec::with_capacity(result.len() + id.len() + 40));
    response.member("jsonrpc", b"\"2.0\"");
    response.member("id", id.as_bytes());
    response.member("result", result);
    response.finish()
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, default)]
    jsonrpc: Option<Text<'a>>,
    /// `null` is not the same as absent.
    #[serde(borrow, default, deserialize_with = "even_null")]
    id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    method: Option<Text<'a>>,
    #[serde(borrow, default)]
    params: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "even_null")]
    result: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "even_null")]
    error: Option<&'a RawValue>,
}

/// `notifications/cancelled`.
#[derive(Default, Deserialize)]
struct About<'a> {
    #[serde(borrow, default, rename = "requestId")]
    request: Option<&'a RawValue>,
}

/// A notification on its way out.
pub(crate) fn notification(method: &str, params: &[u8]) -> Vec<u8> {
    let mut out = ObjectWriter::new(Vec::with_capacity(params.len() + 64));
    out.member("jsonrpc", b"\"2.0\"");
    out.plain("method", method);
    if !params.is_empty() {
        out.member("params", params);
    }
    out.finish()
}

/// A request on its way out. The id is one of ours: nothing in it needs an escape.
pub(crate) fn request(id: &str, method: &str, params: &[u8]) -> Vec<u8> {
    let mut out = ObjectWriter::new(Vec::with_capacity(params.len() + 96));
    out.member("jsonrpc", b"\"2.0\"");
    out.plain("id", id);
    out.plain("method", method);
    out.member("params", params);
    out.finish()
}

/// An object and nothing else: serde would also take the fields from an array.
fn object_of<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, serde_json::Error> {
    if text.trim_ascii_start().starts_with(['[', '"']) {
        return Err(serde::de::Error::custom("expected an object"));
    }
    serde_json::from_str(text)
}

fn meta_object<'de: 'a, 'a, D: Deserializer<'de>>(d: D) -> Result<Option<Meta<'a>>, D::Error> {
    let raw = Option::<&'a RawValue>::deserialize(d)?;
    raw.map(|raw| object_of(raw.get()).map_err(serde::de::Error::custom)).transpose()
}

fn even_null<'de: 'a, 'a, D: Deserializer<'de>>(d: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&'a RawValue>::deserialize(d).map(Some)
}

/// Reads one message.
///
/// # Errors
/// The error to answer with, and the id to answer to where it could be read.
pub(crate) fn parse(text: &str) -> Result<Message<'_>, (RpcError, Option<&str>)> {
    let envelope: Envelope<'_> = object_of(text).map_err(|error| (envelope_error(&error), None))?;
    let id = envelope.id.map(RawValue::get).filter(|id| is_request_id(id));
    let invalid = |message: &str| (RpcError::new(INVALID_REQUEST, message), id);
    if envelope.jsonrpc.is_none_or(|version| version.0 != "2.0") {
        return Err(invalid("jsonrpc must be \"2.0\""));
    }
    let Some(method) = envelope.method else {
        return match (envelope.result, envelope.error) {
            (Some(result), None) => Ok(Message::Response { id, outcome: Ok(result) }),
            (None, Some(error)) => Ok(Message::Response { id, outcome: Err(error) }),
            (Some(_), Some(_)) => Err(invalid("an answer is a result or an error, not both")),
            (None, None) => Err(invalid("a request needs a method")),
        };
    };
    if envelope.id.is_none() {
        let about = envelope.params.and_then(|params| object_of::<About<'_>>(params.get()).ok());
        let about = about.and_then(|about| about.request).map(RawValue::get).filter(|id| is_request_id(id));
        return Ok(Message::Notification { method: method.0, about });
    }
    let Some(id) = id else { return Err(invalid("an id is a string or an integer")) };
    if method.0.len() > MAX_METHOD {
        return Err(invalid("the method's name is too long"));
    }
    let params = match envelope.params.map(|params| object_of(params.get())) {
        None => Params::default(),
        Some(Ok(params)) => params,
        Some(Err(error)) => return Err((RpcError::new(INVALID_PARAMS, format!("params: {error}")), Some(id))),
    };
    Ok(Message::Request { id, method: method.0, params })
}

/// Text that is no JSON and JSON that is no envelope have different codes.
fn envelope_error(error: &serde_json::Error) -> RpcError {
    match error.classify() {
        serde_json::error::Category::Data => RpcError::new(INVALID_REQUEST, format!("not a JSON-RPC message: {error}")),
        _ => RpcError::new(PARSE_ERROR, format!("not JSON: {error}")),
    }
}

fn is_request_id(raw: &str) -> bool {
    let integer = |text: &str| {
        let digits = text.strip_prefix('-').unwrap_or(text);
        !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
    };
    raw.len() <= MAX_ID && (raw.starts_with('"') || integer(raw))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> i64 {
        parse(text).expect_err(text).0.code
    }

    #[test]
    fn messages_are_told_apart() {
        let text =
            r#"{"jsonrpc":"2.0","id":"a","method":"tools/call","params":{"name":"x","arguments":{"n":1.0},"other":1}}"#;
        let Ok(Message::Request { id, method, params }) = parse(text) else { panic!("a request") };
        assert_eq!((id, method.as_ref(), params.name.expect("named").0.as_ref()), ("\"a\"", "tools/call", "x"));
        assert_eq!(params.arguments.expect("there").get(), r#"{"n":1.0}"#);
        let cancelled = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"a"}}"#;
        let Ok(Message::Notification { about: Some("\"a\""), .. }) = parse(cancelled) else {
            panic!("about a request")
        };
        assert!(matches!(
            parse(r#"{"jsonrpc":"2.0","id":1,"result":null}"#),
            Ok(Message::Response { id: Some("1"), outcome: Ok(_) })
        ));
        assert_eq!(code(r#"{"jsonrpc":"2.0","id":1,"result":{},"error":{}}"#), INVALID_REQUEST);
    }

    #[test]
    fn what_is_no_message_is_refused_with_the_right_code() {
        let cases = [
            ("{", PARSE_ERROR),
            ("", PARSE_ERROR),
            ("{} x", PARSE_ERROR),
            ("[]", INVALID_REQUEST),
            ("1", INVALID_REQUEST),
            ("{}", INVALID_REQUEST),
            (r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#, INVALID_REQUEST),
            (r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#, INVALID_REQUEST),
            (r#"{"jsonrpc":"2.0","id":1.5,"method":"ping"}"#, INVALID_REQUEST),
            (r#"{"jsonrpc":"2.0","id":{},"method":"ping"}"#, INVALID_REQUEST),
            (r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}"#, INVALID_REQUEST),
            (r#"{"jsonrpc":"2.0","id":1}"#, INVALID_REQUEST),
            (r#"["2.0",1,"tools/call",{}]"#, INVALID_REQUEST),
            (r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":[]}"#, INVALID_PARAMS),
            (r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"_meta":["2026-07-28",{}]}}"#, INVALID_PARAMS),
            (r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":1}}"#, INVALID_PARAMS),
            (r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","name":"b"}}"#, INVALID_PARAMS),
        ];
        for (text, expected) in cases {
            assert_eq!(code(text), expected, "{text}");
        }
        let deep = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"_meta":{}1{}}}}}"#,
            "[".repeat(500),
            "]".repeat(500)
        );
        assert_eq!(code(&deep), INVALID_PARAMS);
    }

    #[test]
    fn an_error_is_answered_to_its_id() {
        let text =
            RpcError::new(METHOD_NOT_FOUND, "no \"x\"").with(serde_json::json!({"a": 1})).response(Some("\"7\""));
        let value: Value = serde_json::from_slice(&text).expect("JSON");
        let expected = serde_json::json!({"jsonrpc": "2.0", "id": "7", "error": {"code": -32601, "message": "no \"x\"", "data": {"a": 1}}});
        assert_eq!(value, expected);
    }
}
