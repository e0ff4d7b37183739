//! Responses into results, and what they say about the effect.

use std::collections::HashMap;
use std::time::Instant;

use base64::Engine as _;
use countersign_catalog::manifest::rest::{BodyKind, RESULT_MEMBER};
use countersign_domain::{Effect, UpstreamName};
use countersign_egress::Response;
use countersign_gate::upstream::{DispatchError, ToolResult};
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, StatusCode};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value, json};

use super::{Endpoint, body_error};
use crate::depth::{is_too_deep, too_deep};
use crate::http::media_type;
use crate::rpc::shorten;

/// How much of an error's body is passed on, in bytes.
const MAX_ERROR_TEXT: usize = 8 << 10;
/// Longest header value that is passed on.
const MAX_HEADER: usize = 2_000;
/// The member of `_meta` with status and headers.
const HTTP_META: &str = "dev.countersign/http";

/// A `CallToolResult` (MCP), in the order in which people read it.
#[derive(Serialize)]
struct CallResult<'a> {
    content: &'a [Content<'a>],
    #[serde(rename = "structuredContent", skip_serializing_if = "Option::is_none")]
    structured: Option<Structured<'a>>,
    #[serde(rename = "isError")]
    is_error: bool,
    #[serde(rename = "_meta", skip_serializing_if = "Map::is_empty")]
    meta: Map<String, Value>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Content<'a> {
    Text {
        text: &'a str,
    },
    Image {
        data: String,
        #[serde(rename = "mimeType")]
        mime: &'a str,
    },
    Audio {
        data: String,
        #[serde(rename = "mimeType")]
        mime: &'a str,
    },
    Resource {
        resource: Blob<'a>,
    },
}

#[derive(Serialize)]
struct Blob<'a> {
    uri: String,
    #[serde(rename = "mimeType")]
    mime: &'a str,
    blob: String,
}

/// Raw JSON, as it is or in an object of its own.
#[derive(Serialize)]
#[serde(untagged)]
enum Structured<'a> {
    Whole(&'a RawValue),
    Wrapped(HashMap<&'static str, &'a RawValue>),
}

impl Endpoint {
    /// What this response means.
    pub(super) async fn result(
        &self,
        response: Response,
        deadline: Instant,
        upstream: &UpstreamName,
    ) -> Result<ToolResult, DispatchError> {
        let status = response.status();
        let headers = response.headers().clone();
        let meta = self.meta(status, &headers);
        if !self.succeeds(status) {
            return self.failure(response, meta, deadline).await;
        }
        if headers.get(CONTENT_ENCODING).is_some_and(|e| e.as_bytes() != b"identity") {
            return Err(DispatchError::Protocol("its answer is compressed, which was not asked for".into()));
        }
        let limit = self.request.response.max_bytes as usize;
        let body = response.bytes(limit, deadline).await.map_err(body_error)?;
        let mime = media_type(&headers).unwrap_or("application/octet-stream");
        self.read_body(status, mime, &body, meta, upstream)
    }

    /// What a body with a status of success means.
    pub(crate) fn read_body(
        &self,
        status: StatusCode,
        mime: &str,
        body: &[u8],
        meta: Map<String, Value>,
        upstream: &UpstreamName,
    ) -> Result<ToolResult, DispatchError> {
        if body.is_empty() {
            return self.without_body(status, meta);
        }
        let mime = mime.to_ascii_lowercase();
        match self.kind(&mime)? {
            BodyKind::Json => self.structured(body, status, meta),
            BodyKind::Text => render(&[Content::Text { text: text(body)? }], None, false, meta),
            BodyKind::Binary | BodyKind::Auto => render(&[blob(body, &mime, upstream)], None, false, meta),
        }
    }

    /// What kind of body this is, if it is one that the manifest expects.
    fn kind(&self, mime: &str) -> Result<BodyKind, DispatchError> {
        let json = mime == "application/json" || mime.ends_with("+json");
        let textual = json || mime.starts_with("text/") || mime.ends_with("+xml") || TEXTUAL.contains(&mime);
        let wrong = || {
            let shown = shorten(mime, 80);
            Err(DispatchError::Protocol(format!("it answered with {shown}, which the manifest does not expect")))
        };
        match self.request.response.kind {
            BodyKind::Json if json => Ok(BodyKind::Json),
            BodyKind::Text if textual => Ok(BodyKind::Text),
            BodyKind::Json | BodyKind::Text => wrong(),
            BodyKind::Binary => Ok(BodyKind::Binary),
            BodyKind::Auto if json => Ok(BodyKind::Json),
            BodyKind::Auto if textual => Ok(BodyKind::Text),
            BodyKind::Auto => Ok(BodyKind::Binary),
        }
    }

    fn structured(
        &self,
        body: &[u8],
        status: StatusCode,
        meta: Map<String, Value>,
    ) -> Result<ToolResult, DispatchError> {
        let unreadable = |e: serde_json::Error| DispatchError::Protocol(format!("its JSON cannot be read: {e}"));
        if is_too_deep(body) {
            return Err(too_deep());
        }
        let whole: &RawValue = serde_json::from_slice(body).map_err(unreadable)?;
        let pointer = self.request.response.select.as_deref().unwrap_or_default();
        let Some(selected) = select(whole, pointer) else {
            return misfit(status, &format!("there is nothing at {pointer}"), whole.get(), meta);
        };
        if let Some(validator) = &self.result {
            let value: Value = serde_json::from_str(selected.get()).map_err(unreadable)?;
            if let Some(error) = validator.iter_errors(&value).next() {
                let place = error.instance_path().to_string();
                let why = format!(
                    "{}: {}",
                    if place.is_empty() { "/" } else { &place },
                    shorten(&error.masked().to_string(), 300)
                );
                return misfit(status, &why, selected.get(), meta);
            }
        }
        let wrapped = match &self.request.response.schema {
            Some(_) => self.request.wraps_result(&self.schemas),
            None => !selected.get().starts_with('{'),
        };
        let structured =
            if wrapped { Structured::Wrapped([(RESULT_MEMBER, selected)].into()) } else { Structured::Whole(selected) };
        render(&[Content::Text { text: selected.get() }], Some(structured), false, meta)
    }

    fn without_body(&self, status: StatusCode, meta: Map<String, Value>) -> Result<ToolResult, DispatchError> {
        if self.result.is_some() {
            return misfit(status, "it is empty", "", meta);
        }
        render(&[Content::Text { text: &format!("HTTP {status}") }], None, false, meta)
    }

    /// A status that does not mean success.
    async fn failure(
        &self,
        response: Response,
        meta: Map<String, Value>,
        deadline: Instant,
    ) -> Result<ToolResult, DispatchError> {
        let status = response.status();
        if !self.is_refusal(status) {
            return Err(DispatchError::Protocol(format!("it answered HTTP {}", status.as_u16())));
        }
        let shown = error_text(response, deadline).await;
        let text = format!("The upstream answered HTTP {status}.{}{shown}", if shown.is_empty() { "" } else { "\n" });
        render(&[Content::Text { text: &text }], None, true, meta)
    }

    /// Whether it is known that nothing was done: a client error is the API's refusal (RFC 9110, 15.5), and a read does
    /// nothing in any case. After a timeout at a proxy, a redirect or a server's error, a write may have happened.
    fn is_refusal(&self, status: StatusCode) -> bool {
        let refused = status.is_client_error() && status != StatusCode::REQUEST_TIMEOUT;
        self.effect == Effect::Read || refused || self.request.not_done.contains(&status.as_u16())
    }

    fn meta(&self, status: StatusCode, headers: &HeaderMap) -> Map<String, Value> {
        let wanted = self.request.response.headers.iter().map(String::as_str);
        let wanted = wanted.chain(headers.contains_key(RETRY_AFTER).then_some(RETRY_AFTER.as_str()));
        let shown: Map<String, Value> = wanted
            .filter_map(|name| {
                let value = headers.get(name)?.to_str().ok()?;
                Some((name.to_ascii_lowercase(), shorten(value, MAX_HEADER).into()))
            })
            .collect();
        let mut http = json!({ "status": status.as_u16() });
        if !shown.is_empty() {
            http["headers"] = shown.into();
        }
        [(HTTP_META.to_owned(), http)].into_iter().collect()
    }
}

/// Types that are text, though their names don't say so.
const TEXTUAL: &[&str] = &["application/xml", "application/yaml", "application/x-yaml", "application/javascript"];

/// The caller's arguments make no request; nothing was sent.
pub(super) fn refused_arguments(why: &str) -> Result<ToolResult, DispatchError> {
    render(&[Content::Text { text: &format!("Nothing was sent to the upstream: {why}.") }], None, true, Map::new())
}

/// Done, but not answered as the manifest says: the caller must not take it for a failed request.
fn misfit(status: StatusCode, why: &str, body: &str, meta: Map<String, Value>) -> Result<ToolResult, DispatchError> {
    let text = format!(
        "The request WAS executed (HTTP {status}), but its answer is not what the manifest describes: {why}. Do not repeat it because of this. The answer:\n{body}"
    );
    render(&[Content::Text { text: &text }], None, true, meta)
}

fn render(
    content: &[Content<'_>],
    structured: Option<Structured<'_>>,
    is_error: bool,
    meta: Map<String, Value>,
) -> Result<ToolResult, DispatchError> {
    let result = to_raw_value(&CallResult { content, structured, is_error, meta });
    let raw = result.map_err(|e| DispatchError::Protocol(format!("its answer cannot be passed on: {e}")))?;
    Ok(ToolResult { raw, is_error, remarks: Map::new() })
}

fn text(body: &[u8]) -> Result<&str, DispatchError> {
    std::str::from_utf8(body).map_err(|_| DispatchError::Protocol("its text is not UTF-8".into()))
}

fn blob<'a>(body: &[u8], mime: &'a str, upstream: &UpstreamName) -> Content<'a> {
    let data = base64::engine::general_purpose::STANDARD.encode(body);
    if mime.starts_with("image/") {
        Content::Image { data, mime }
    } else if mime.starts_with("audio/") {
        Content::Audio { data, mime }
    } else {
        // A name for this one answer; it can't be fetched.
        let uri = format!("countersign:{upstream}/response");
        Content::Resource { resource: Blob { uri, mime, blob: data } }
    }
}

/// The part of a JSON text that a pointer names (RFC 6901), as it is written there.
fn select<'a>(whole: &'a RawValue, pointer: &str) -> Option<&'a RawValue> {
    let mut at = whole;
    for token in pointer.split('/').skip(1) {
        let token = token.replace("~1", "/").replace("~0", "~");
        at = match at.get().as_bytes().first() {
            Some(b'{') => *serde_json::from_str::<HashMap<String, &RawValue>>(at.get()).ok()?.get(&token)?,
            Some(b'[') => {
                let index: usize = token.parse().ok().filter(|i: &usize| i.to_string() == token)?;
                serde_json::from_str::<Vec<&RawValue>>(at.get()).ok()?.get(index).copied()?
            }
            _ => return None,
        };
    }
    Some(at)
}

/// As much of an error's body as is passed on, if it is text.
async fn error_text(mut response: Response, deadline: Instant) -> String {
    let encoded = response.headers().get(CONTENT_ENCODING).is_some_and(|e| e.as_bytes() != b"identity");
    let mime = response.headers().get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if encoded || !(mime.contains("json") || mime.starts_with("text/plain") || mime.contains("xml")) {
        return String::new();
    }
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = response.chunk(deadline).await {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_ERROR_TEXT {
            body.truncate(MAX_ERROR_TEXT);
            break;
        }
    }
    String::from_utf8_lossy(&body).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_select_what_is_written_there() {
        let whole = RawValue::from_string(r#"{"a":{"b":[1.0,{"c/d":"x"}],"":7},"~":null}"#.into()).expect("JSON");
        for (pointer, found) in [
            ("", Some(whole.get())),
            ("/a/b/0", Some("1.0")),
            ("/a/b/1/c~1d", Some("\"x\"")),
            ("/a/", Some("7")),
            ("/~0", Some("null")),
            ("/a/b/2", None),
            ("/a/b/00", None),
            ("/a/b/-", None),
            ("/x", None),
            ("/a/b/0/y", None),
        ] {
            assert_eq!(select(&whole, pointer).map(RawValue::get), found, "{pointer}");
        }
    }
}
