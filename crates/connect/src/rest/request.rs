//! Arguments into a request. Callers fill places and can't make new ones: values in paths and queries are percent-encoded
//! but for RFC 3986's unreserved characters, a path value is never empty and never climbs, a header value is printable ASCII.

use std::collections::BTreeMap;

use bytes::Bytes;
use countersign_catalog::manifest::rest::{Argument, BodyFormat, BodyKind, PathTemplate, Piece, Place, Style};
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde_json::value::RawValue;
use url::Url;
use uuid::Uuid;

use super::Endpoint;
use crate::rpc::quote;

/// Longest URL that is sent, in bytes; common servers refuse longer ones.
const MAX_URL: usize = 8 << 10;
/// Longest header value that a caller may fill in, in bytes.
const MAX_HEADER: usize = 4 << 10;
/// How often a value is decoded to see whether it climbs.
const MAX_DECODINGS: usize = 4;

/// A request, ready to be sent.
pub(crate) struct Prepared {
    pub method: Method,
    pub url: Url,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// Arguments by their name, each as the caller wrote it.
type Given<'a> = BTreeMap<String, &'a RawValue>;

impl Endpoint {
    /// The request for these arguments.
    ///
    /// # Errors
    /// In words for the caller: which argument cannot be sent, and why.
    pub(crate) fn prepare(&self, arguments: &RawValue, call: Uuid) -> Result<Prepared, String> {
        let given: Given<'_> = serde_json::from_str(arguments.get()).map_err(|e| e.to_string())?;
        let given: Given<'_> =
            given.into_iter().filter(|(name, _)| self.request.arguments.contains_key(name)).collect();
        let url = self.url(&given)?;
        let body = self.body(&given)?;
        let mut headers = self.headers.clone();
        for (own, argument, raw) in self.placed(&given, Place::Header) {
            let Some(value) = header_value(raw).map_err(|why| format!("the argument {own}: {why}"))? else { continue };
            let name = HeaderName::try_from(argument.wire_name(own))
                .map_err(|_| format!("the argument {own} is no header"))?;
            headers.insert(name, value);
        }
        if let (Some(name), Ok(value)) = (&self.request.idempotency_header, HeaderValue::try_from(call.to_string())) {
            headers.insert(HeaderName::try_from(name).map_err(|e| e.to_string())?, value);
        }
        if body.is_some() && !headers.contains_key(CONTENT_TYPE) {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type(self.request.body)));
        }
        if !headers.contains_key(ACCEPT) {
            headers.insert(ACCEPT, HeaderValue::from_static(accept(self.request.response.kind)));
        }
        let method = Method::from_bytes(self.request.method.as_str().as_bytes()).map_err(|e| e.to_string())?;
        Ok(Prepared { method, url, headers, body: Bytes::from(body.unwrap_or_default()) })
    }

    /// The given arguments of one place, in the order of their names.
    fn placed<'a>(
        &'a self,
        given: &'a Given<'a>,
        place: Place,
    ) -> impl Iterator<Item = (&'a str, &'a Argument, &'a RawValue)> {
        let stated = self.request.arguments.iter().filter(move |(_, argument)| argument.place == place);
        stated.filter_map(|(own, argument)| Some((own.as_str(), argument, *given.get(own)?)))
    }

    fn url(&self, given: &Given<'_>) -> Result<Url, String> {
        let template = PathTemplate::parse(&self.request.path)?;
        let mut path = self.base.path().trim_end_matches('/').to_owned();
        for segment in template.segments() {
            path.push('/');
            path.push_str(&self.segment(segment, given)?);
        }
        let query = self.query(given)?;
        let separator = if query.is_empty() { "" } else { "?" };
        let origin = self.base.origin().ascii_serialization();
        let text = format!("{origin}{path}{separator}{query}");
        if text.len() > MAX_URL {
            return Err(format!("the URL would be longer than {MAX_URL} bytes"));
        }
        let url = Url::parse(&text).map_err(|e| format!("no URL results: {e}"))?;
        // Nothing that was put in may have been understood as something else.
        if url.path() != path || url.origin() != self.base.origin() || url.fragment().is_some() {
            return Err("the arguments would lead to another path".to_owned());
        }
        Ok(url)
    }

    fn segment(&self, pieces: &[Piece], given: &Given<'_>) -> Result<String, String> {
        let (mut encoded, mut plain) = (String::new(), String::new());
        let mut slashes = false;
        for piece in pieces {
            match piece {
                Piece::Literal(text) => {
                    encoded.push_str(text);
                    plain.push_str(text);
                }
                Piece::Place(wire) => {
                    let found =
                        self.placed(given, Place::Path).find(|(own, argument, _)| argument.wire_name(own) == wire);
                    let (own, argument, raw) =
                        found.ok_or_else(|| format!("the argument for {{{wire}}} is missing"))?;
                    let value = path_value(raw).map_err(|why| format!("the argument {own}: {why}"))?;
                    if let Some(why) = climbs(&value, argument.allow_slash) {
                        return Err(format!("the argument {own} {why}"));
                    }
                    encode(&value, &mut encoded);
                    plain.push_str(&value);
                    slashes |= argument.allow_slash;
                }
            }
        }
        match climbs(&plain, slashes) {
            Some(why) => Err(format!("a segment of the path {why}")),
            None => Ok(encoded),
        }
    }

    fn query(&self, given: &Given<'_>) -> Result<String, String> {
        let mut pairs: Vec<String> = self.request.query.iter().map(|(name, value)| pair(name, value)).collect();
        for (own, argument, raw) in self.placed(given, Place::Query) {
            let name = argument.wire_name(own);
            pairs.extend(query_pairs(name, argument, raw).map_err(|why| format!("the argument {own}: {why}"))?);
        }
        Ok(pairs.join("&"))
    }

    /// The body; `None` where there is none. JSON values stay as the caller wrote them.
    fn body(&self, given: &Given<'_>) -> Result<Option<String>, String> {
        if let Some((own, _, raw)) = self.placed(given, Place::WholeBody).next() {
            return match self.request.body {
                BodyFormat::Text => match scalar(raw) {
                    Ok(Some(text)) => Ok(Some(text)),
                    Ok(None) | Err(_) => Err(format!("the argument {own} must be a text")),
                },
                BodyFormat::Json | BodyFormat::Form => Ok(Some(raw.get().to_owned())),
            };
        }
        if !self.request.arguments.values().any(|argument| argument.place == Place::Body) {
            return Ok(None);
        }
        let members = self.placed(given, Place::Body);
        if self.request.body == BodyFormat::Form {
            let mut pairs = Vec::new();
            for (own, argument, raw) in members {
                let name = argument.wire_name(own);
                pairs.extend(query_pairs(name, argument, raw).map_err(|why| format!("the argument {own}: {why}"))?);
            }
            return Ok(Some(pairs.join("&")));
        }
        let members = members.map(|(own, argument, raw)| format!("{}:{}", quote(argument.wire_name(own)), raw.get()));
        Ok(Some(format!("{{{}}}", members.collect::<Vec<_>>().join(","))))
    }
}

fn content_type(body: BodyFormat) -> &'static str {
    match body {
        BodyFormat::Json => "application/json",
        BodyFormat::Form => "application/x-www-form-urlencoded",
        BodyFormat::Text => "text/plain; charset=utf-8",
    }
}

fn accept(kind: BodyKind) -> &'static str {
    match kind {
        BodyKind::Json => "application/json",
        BodyKind::Text => "text/*, application/json;q=0.9, */*;q=0.5",
        BodyKind::Binary | BodyKind::Auto => "*/*",
    }
}

/// The text of a string, a number (as it was written) or a boolean; nothing for `null`.
fn scalar(raw: &RawValue) -> Result<Option<String>, String> {
    match raw.get().as_bytes().first() {
        Some(b'"') => serde_json::from_str(raw.get()).map(Some).map_err(|e| e.to_string()),
        Some(b'n') => Ok(None),
        Some(b'{' | b'[') => Err("a list or an object cannot be sent here".to_owned()),
        _ => Ok(Some(raw.get().to_owned())),
    }
}

/// The items of a list as text, or one text in a list.
fn items(raw: &RawValue) -> Result<Vec<String>, String> {
    if !raw.get().starts_with('[') {
        return Ok(scalar(raw)?.into_iter().collect());
    }
    let list: Vec<&RawValue> = serde_json::from_str(raw.get()).map_err(|e| e.to_string())?;
    let texts = list.into_iter().map(|item| scalar(item).map(Option::unwrap_or_default));
    texts.collect()
}

fn path_value(raw: &RawValue) -> Result<String, String> {
    let text = items(raw)?.join(",");
    if text.is_empty() {
        return Err("an empty value would name another path".to_owned());
    }
    if text.chars().any(char::is_control) {
        return Err("control characters cannot be sent in a path".to_owned());
    }
    Ok(text)
}

/// Why a segment could be taken for another path, by whatever number of decodings on the way; `None` if it can't.
fn climbs(segment: &str, slashes: bool) -> Option<&'static str> {
    let mut text = segment.as_bytes().to_vec();
    for _ in 0..MAX_DECODINGS {
        if text.iter().any(u8::is_ascii_control) {
            return Some("holds an encoded control character");
        }
        let mut parts = text.split(|b| matches!(b, b'/' | b'\\'));
        // Some servers drop ";parameters" before they look at dots.
        if parts.any(|part| matches!(part.split(|b| *b == b';').next(), Some(b"." | b".."))) {
            return Some("is '.' or '..', which would lead to another path");
        }
        if !slashes && text.iter().any(|b| matches!(b, b'/' | b'\\')) {
            return Some("holds a slash, which some servers take for another path");
        }
        let decoded = decode(&text);
        if decoded == text {
            return None;
        }
        text = decoded;
    }
    Some("is encoded too many times")
}

fn query_pairs(name: &str, argument: &Argument, raw: &RawValue) -> Result<Vec<String>, String> {
    let joined = |separator: &str| -> Result<Vec<String>, String> {
        let list = items(raw)?;
        let texts: Vec<String> = list.iter().map(|item| encoded(item)).collect();
        Ok(if texts.is_empty() { Vec::new() } else { vec![format!("{}={}", encoded(name), texts.join(separator))] })
    };
    match argument.style {
        Style::Json => Ok(vec![pair(name, raw.get())]),
        Style::Form if argument.explode => Ok(items(raw)?.iter().map(|item| pair(name, item)).collect()),
        Style::Form => joined(","),
        Style::SpaceDelimited => joined("%20"),
        Style::PipeDelimited => joined("%7C"),
        Style::DeepObject => {
            let members: BTreeMap<String, &RawValue> = serde_json::from_str(raw.get())
                .map_err(|_| "only an object can be sent with `style: deepObject`".to_owned())?;
            let mut pairs = Vec::new();
            for (key, value) in members {
                pairs.extend(scalar(value)?.map(|text| pair(&format!("{name}[{key}]"), &text)));
            }
            Ok(pairs)
        }
    }
}

fn header_value(raw: &RawValue) -> Result<Option<HeaderValue>, String> {
    let texts = items(raw)?;
    if texts.is_empty() {
        return Ok(None);
    }
    let text = texts.join(",");
    if text.len() > MAX_HEADER || !text.bytes().all(|b| (0x20..0x7f).contains(&b)) {
        return Err(format!("a header holds at most {MAX_HEADER} printable ASCII characters"));
    }
    HeaderValue::from_str(text.trim()).map(Some).map_err(|e| e.to_string())
}

fn pair(name: &str, value: &str) -> String {
    format!("{}={}", encoded(name), encoded(value))
}

fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    encode(text, &mut out);
    out
}

fn encode(text: &str, out: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
}

fn decode(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        let hex = |b: u8| char::from(b).to_digit(16).map(|d| d as u8);
        match (first, after) {
            (b'%', [high, low, tail @ ..]) => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => {
                    out.push(high << 4 | low);
                    rest = tail;
                }
                _ => {
                    out.push(first);
                    rest = after;
                }
            },
            _ => {
                out.push(first);
                rest = after;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_could_name_another_path_are_found() {
        for value in [
            ".",
            "..",
            "../x",
            "a/..",
            "..\\x",
            "%2e%2e",
            "%2E%2e%2fadmin",
            "%252e%252e%252f",
            "..;a=b",
            "a/..;/b",
            "%252525252e",
            "a%00",
            "a%0d%0ab",
            "..%2f",
            "%5c..%5c",
        ] {
            assert!(climbs(value, true).is_some(), "{value}");
            assert!(climbs(value, false).is_some(), "{value}");
        }
        for value in ["a", "a.b", "...", "a..b", "100%", "%zz", "a;b", "Zoë", "..a", "a%20b"] {
            assert_eq!(climbs(value, false), None, "{value}");
        }
        for value in ["group/project", "a%2Fb", "a\\b"] {
            assert!(climbs(value, false).is_some() && climbs(value, true).is_none(), "{value}");
        }
    }

    #[test]
    fn texts_are_encoded_but_for_unreserved_characters() {
        assert_eq!(encoded("a-b_c.d~e/?#&=+ %é"), "a-b_c.d~e%2F%3F%23%26%3D%2B%20%25%C3%A9");
    }
}
