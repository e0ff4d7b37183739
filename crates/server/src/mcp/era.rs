//! Which revision of MCP a request speaks, and the checks that 2026-07-28 asks of HTTP headers.
//!
//! Sources: 2026-07-28 `basic/versioning`, `basic/transports/streamable-http` ("Server Validation"); 2025-11-25
//! `basic/transports` ("Protocol Version Header").

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName};
use serde_json::{Value, json};

use super::message::{HEADER_MISMATCH, INVALID_PARAMS, Params, RpcError, UNSUPPORTED_VERSION};

/// The revision without handshake.
pub(crate) const MODERN: &str = "2026-07-28";
/// Revisions with a handshake, newest first.
pub(crate) const LEGACY: &[&str] = &["2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"];
/// What a request without version header speaks (2025-11-25, "Protocol Version Header").
pub(crate) const UNSAID: &str = "2025-03-26";

const VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
const METHOD: HeaderName = HeaderName::from_static("mcp-method");
const NAME: HeaderName = HeaderName::from_static("mcp-name");

/// How a request is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Era {
    /// 2025-11-25 and earlier.
    Legacy,
    /// 2026-07-28.
    Modern,
}

/// The revision that a legacy client gets: the one it asked for, or our newest.
pub(crate) fn negotiate(requested: &str) -> &'static str {
    LEGACY.iter().find(|known| **known == requested).copied().unwrap_or(LEGACY[0])
}

/// The revision that the headers alone name; for messages whose body could not be read, and for batches.
pub(crate) fn by_header(headers: &HeaderMap) -> &str {
    headers.get(VERSION).and_then(|value| value.to_str().ok()).unwrap_or(UNSAID)
}

/// Decides the era of a request and checks what that era demands of it.
///
/// # Errors
/// The error of the specification; over HTTP its status is 400.
pub(crate) fn of(method: &str, params: &Params<'_>, headers: &HeaderMap) -> Result<Era, RpcError> {
    let header = headers.get(VERSION).map(|value| value.to_str().unwrap_or("?"));
    let declared = params.meta.as_ref().and_then(|meta| meta.protocol_version.as_ref()).map(|text| text.0.as_ref());
    // `initialize` always selects the handshake; the header of a first request is not settled yet.
    if method == "initialize" && declared.is_none() {
        return Ok(Era::Legacy);
    }
    let is_legacy = |version: &str| LEGACY.contains(&version);
    match (declared, header) {
        (None, None) => Ok(Era::Legacy),
        (None, Some(version)) if is_legacy(version) => Ok(Era::Legacy),
        (None, Some(MODERN)) => Err(RpcError::new(
            INVALID_PARAMS,
            "_meta needs io.modelcontextprotocol/protocolVersion and io.modelcontextprotocol/clientCapabilities",
        )),
        (None, Some(other)) => Err(unsupported(other)),
        (Some(_), None) => Err(mismatch("the MCP-Protocol-Version header is missing")),
        (Some(body), Some(header)) if body != header => {
            Err(mismatch(&format!("MCP-Protocol-Version says {}, the body {}", shown(header), shown(body))))
        }
        (Some(version), Some(_)) if is_legacy(version) => Ok(Era::Legacy),
        (Some(MODERN), Some(_)) => modern(method, params, headers).map(|()| Era::Modern),
        (Some(other), Some(_)) => Err(unsupported(other)),
    }
}

fn modern(method: &str, params: &Params<'_>, headers: &HeaderMap) -> Result<(), RpcError> {
    let capabilities = params.meta.as_ref().and_then(|meta| meta.client_capabilities);
    if !capabilities.is_some_and(|raw| raw.get().starts_with('{')) {
        let message = "_meta needs io.modelcontextprotocol/clientCapabilities, an object (it may be empty)";
        return Err(RpcError::new(INVALID_PARAMS, message));
    }
    match single(headers, &METHOD)? {
        Some(value) if value == method => {}
        Some(value) => return Err(mismatch(&format!("Mcp-Method says {}, the body {}", shown(value), shown(method)))),
        None => return Err(mismatch("the Mcp-Method header is missing")),
    }
    let named = match method {
        "tools/call" | "prompts/get" => &params.name,
        "resources/read" => &params.uri,
        "tasks/get" | "tasks/update" | "tasks/cancel" => &params.task_id,
        _ => return Ok(()),
    };
    let body = named.as_ref().map(|name| name.0.as_ref()).unwrap_or_default();
    match single(headers, &NAME)? {
        Some(value) if decoded(value).as_deref() == Some(body) => Ok(()),
        Some(value) => Err(mismatch(&format!("Mcp-Name says {}, the body {}", shown(value), shown(body)))),
        None => Err(mismatch("the Mcp-Name header is missing")),
    }
}

/// A header that must not come twice: two readers could believe different ones.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, RpcError> {
    let mut values = headers.get_all(name).iter();
    let (first, second) = (values.next(), values.next());
    if second.is_some() {
        return Err(mismatch(&format!("the header {name} came twice")));
    }
    let text = |value: &'a http::HeaderValue| value.to_str();
    first.map(text).transpose().map_err(|_| mismatch(&format!("the header {name} has characters that need Base64")))
}

/// A header value as the body would have it ("Value Encoding"); `None` if the Base64 form is broken.
fn decoded(value: &str) -> Option<String> {
    match value.strip_prefix("=?base64?").and_then(|rest| rest.strip_suffix("?=")) {
        Some(encoded) => STANDARD.decode(encoded).ok().and_then(|bytes| String::from_utf8(bytes).ok()),
        None => Some(value.to_owned()),
    }
}

fn mismatch(what: &str) -> RpcError {
    RpcError::new(HEADER_MISMATCH, format!("Header mismatch: {what}"))
}

/// The error that names the revisions spoken here.
pub(crate) fn unsupported(requested: &str) -> RpcError {
    let supported: Vec<&str> = std::iter::once(MODERN).chain(LEGACY.iter().copied()).collect();
    let data = json!({ "supported": supported, "requested": shown(requested) });
    RpcError::new(UNSUPPORTED_VERSION, "Unsupported protocol version").with(data)
}

fn shown(text: &str) -> String {
    text.chars().take(80).filter(|c| !c.is_control()).collect()
}

/// An argument that a client mirrors into a header (`x-mcp-header`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ParamHeader {
    /// `mcp-param-<name>`, lower case.
    pub header: HeaderName,
    /// The chain of properties that leads to it.
    pub path: Vec<String>,
}

/// Deepest property chain that is followed.
const MAX_PARAM_DEPTH: usize = 16;

/// The arguments that a definition mirrors into headers: annotated, primitive, reachable over `properties` alone.
pub(crate) fn param_headers(definition: &Value) -> Vec<ParamHeader> {
    let mut found = Vec::new();
    if let Some(schema) = definition.get("inputSchema") {
        collect_headers(schema, &mut Vec::new(), &mut found);
    }
    found
}

fn collect_headers(schema: &Value, path: &mut Vec<String>, found: &mut Vec<ParamHeader>) {
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return };
    for (name, property) in properties {
        path.push(name.clone());
        let annotated = property.get("x-mcp-header").and_then(Value::as_str).filter(|name| !name.is_empty());
        let primitive = matches!(property.get("type").and_then(Value::as_str), Some("string" | "integer" | "boolean"));
        let header = annotated.and_then(|name| HeaderName::try_from(format!("mcp-param-{name}").to_lowercase()).ok());
        if let (Some(header), true) = (header, primitive) {
            found.push(ParamHeader { header, path: path.clone() });
        } else if path.len() < MAX_PARAM_DEPTH {
            collect_headers(property, path, found);
        }
        path.pop();
    }
}

/// Compares mirrored headers with the arguments.
///
/// # Errors
/// `HeaderMismatch`.
pub(crate) fn check_params(expected: &[ParamHeader], arguments: &str, headers: &HeaderMap) -> Result<(), RpcError> {
    if expected.is_empty() {
        return Ok(());
    }
    // What is no JSON is refused by the gate, with its own words.
    let Ok(arguments) = serde_json::from_str::<Value>(arguments) else { return Ok(()) };
    for param in expected {
        let value = param.path.iter().try_fold(&arguments, |value, name| value.get(name)).filter(|v| !v.is_null());
        let header = single(headers, &param.header)?.map(decoded);
        let agree = match (value, header) {
            (None, None) => true,
            (Some(value), Some(Some(header))) => same(value, &header),
            _ => false,
        };
        if !agree {
            return Err(mismatch(&format!(
                "{} does not match the argument {}",
                param.header,
                shown(&param.path.join("."))
            )));
        }
    }
    Ok(())
}

fn same(value: &Value, header: &str) -> bool {
    match value {
        Value::String(text) => text == header,
        Value::Bool(truth) => header == if *truth { "true" } else { "false" },
        // Whole numbers as such: two of them may have the same double.
        Value::Number(number) if number.as_i64().is_some() && header.parse::<i64>().is_ok() => {
            header.parse().ok() == number.as_i64()
        }
        Value::Number(number) => header.parse::<f64>().ok().is_some_and(|header| number.as_f64() == Some(header)),
        Value::Null | Value::Array(_) | Value::Object(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let value = |text: &str| http::HeaderValue::from_str(text).expect("a header value");
        pairs.iter().map(|(name, text)| (HeaderName::from_static(name), value(text))).collect()
    }

    fn check(method: &str, params: &str, pairs: &[(&'static str, &str)]) -> Result<Era, i64> {
        let params: Params<'_> = serde_json::from_str(params).expect("params");
        of(method, &params, &headers(pairs)).map_err(|error| error.code)
    }

    const META: &str = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}"#;

    #[test]
    fn a_request_selects_its_era() {
        let meta = format!("{{{META}}}");
        let call = format!(r#"{{"name":"x",{META}}}"#);
        let version = ("mcp-protocol-version", MODERN);
        type Case<'a> = (&'a str, &'a str, &'a [(&'static str, &'a str)], Result<Era, i64>);
        let cases: &[Case<'_>] = &[
            ("initialize", "{}", &[], Ok(Era::Legacy)),
            ("initialize", "{}", &[version], Ok(Era::Legacy)),
            ("tools/list", "{}", &[], Ok(Era::Legacy)),
            ("tools/list", "{}", &[("mcp-protocol-version", "2025-06-18")], Ok(Era::Legacy)),
            ("tools/list", "{}", &[("mcp-protocol-version", "1999-01-01")], Err(UNSUPPORTED_VERSION)),
            ("tools/list", "{}", &[version], Err(INVALID_PARAMS)),
            ("tools/list", &meta, &[version, ("mcp-method", "tools/list")], Ok(Era::Modern)),
            ("tools/list", &meta, &[("mcp-method", "tools/list")], Err(HEADER_MISMATCH)),
            ("tools/list", &meta, &[version], Err(HEADER_MISMATCH)),
            ("tools/list", &meta, &[version, ("mcp-method", "tools/call")], Err(HEADER_MISMATCH)),
            ("tools/list", &meta, &[("mcp-protocol-version", "2025-11-25")], Err(HEADER_MISMATCH)),
            ("tools/call", &call, &[version, ("mcp-method", "tools/call"), ("mcp-name", "x")], Ok(Era::Modern)),
            (
                "tools/call",
                &call,
                &[version, ("mcp-method", "tools/call"), ("mcp-name", "=?base64?eA==?=")],
                Ok(Era::Modern),
            ),
            ("tools/call", &call, &[version, ("mcp-method", "tools/call"), ("mcp-name", "y")], Err(HEADER_MISMATCH)),
            ("tools/call", &call, &[version, ("mcp-method", "tools/call")], Err(HEADER_MISMATCH)),
        ];
        for (method, params, pairs, expected) in cases {
            assert_eq!(check(method, params, pairs), *expected, "{method} {params} {pairs:?}");
        }
        let future = r#"{"_meta":{"io.modelcontextprotocol/protocolVersion":"2099-01-01","io.modelcontextprotocol/clientCapabilities":{}}}"#;
        assert_eq!(check("tools/list", future, &[("mcp-protocol-version", "2099-01-01")]), Err(UNSUPPORTED_VERSION));
        let bare = r#"{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}"#;
        assert_eq!(check("tools/list", bare, &[version, ("mcp-method", "tools/list")]), Err(INVALID_PARAMS));
    }

    #[test]
    fn mirrored_arguments_must_agree_with_the_body() {
        let definition = json!({"inputSchema": {"properties": {
            "region": {"type": "string", "x-mcp-header": "Region"},
            "deep": {"type": "object", "properties": {"n": {"type": "integer", "x-mcp-header": "N"}}},
            "list": {"type": "array", "items": {"type": "string", "x-mcp-header": "No"}},
            "plain": {"type": "string"},
        }}});
        let expected = param_headers(&definition);
        assert_eq!(expected.len(), 2);
        let check = |arguments: &str, pairs: &[(&'static str, &str)]| {
            check_params(&expected, arguments, &headers(pairs)).is_ok()
        };
        assert!(check(r#"{"plain":"x"}"#, &[]));
        assert!(check(r#"{"region":"eu","deep":{"n":42}}"#, &[("mcp-param-region", "eu"), ("mcp-param-n", "42.0")]));
        assert!(check(r#"{"region":"日"}"#, &[("mcp-param-region", "=?base64?5pel?=")]));
        assert!(check(r#"{"region":null}"#, &[]));
        assert!(!check(r#"{"region":"eu"}"#, &[]));
        let beyond = |header| check(r#"{"deep":{"n":9007199254740993}}"#, &[("mcp-param-n", header)]);
        assert!(beyond("9007199254740993") && !beyond("9007199254740992"));
        assert!(!check(r#"{"region":"eu"}"#, &[("mcp-param-region", "us")]));
        assert!(!check(r#"{}"#, &[("mcp-param-region", "us")]));
        assert!(!check(r#"{"region":"eu"}"#, &[("mcp-param-region", "eu"), ("mcp-param-region", "us")]));
    }
}
