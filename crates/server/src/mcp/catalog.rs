//! Listing tools: the accepted raw definitions under the endpoint's names, rendered once for each version of the catalog.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use countersign_domain::{Principal, ToolRef};
use countersign_gate::api::VisibleTool;
use countersign_gate::registry::ToolState;
use serde_json::{Map, Value, json};

use super::era::{Era, ParamHeader, param_headers};
use super::message::{INVALID_PARAMS, RpcError};
use super::result::server_info;
use super::{AWAIT_APPROVAL, Scope};
use crate::app::App;
use crate::rawjson::{ObjectWriter, write_string};

/// Tools on one page.
const PAGE_TOOLS: usize = 1000;
/// Bytes of definitions on one page; a page has at least one tool.
const PAGE_BYTES: usize = 4 << 20;
/// 2026-07-28: how long a client may take the list for true. Reviews and reloads should show soon.
pub(crate) const TTL_MS: u64 = 30_000;
/// Sorts behind every `upstream:tool`.
const LAST: &str = "~";

/// What was rendered for the catalog's current version.
#[derive(Default)]
pub(crate) struct Listings {
    rendered: Mutex<Rendered>,
}

#[derive(Default)]
struct Rendered {
    version: u64,
    definitions: HashMap<(bool, ToolRef), Bytes>,
    headers: HashMap<ToolRef, Arc<[ParamHeader]>>,
}

impl Listings {
    fn with<T>(&self, version: u64, look: impl FnOnce(&mut Rendered) -> T) -> T {
        let mut rendered = self.rendered.lock().unwrap_or_else(PoisonError::into_inner);
        if rendered.version != version {
            *rendered = Rendered { version, ..Rendered::default() };
        }
        look(&mut rendered)
    }

    fn definition(&self, version: u64, tool: &VisibleTool, own: bool) -> Bytes {
        self.with(version, |rendered| {
            let made = || render(tool, if own { &tool.own_name } else { &tool.mcp_name });
            rendered.definitions.entry((own, tool.tool.clone())).or_insert_with(made).clone()
        })
    }

    /// The arguments that the tool's definition mirrors into headers.
    pub fn param_headers(&self, app: &App, tool: &ToolRef) -> Arc<[ParamHeader]> {
        let view = app.gate.registry().view();
        self.with(view.version, |rendered| {
            let read = || match view.tool(tool).map(|tool| &tool.state) {
                Some(ToolState::Accepted(accepted)) => param_headers(&accepted.definition).into(),
                _ => Arc::from([]),
            };
            Arc::clone(rendered.headers.entry(tool.clone()).or_insert_with(read))
        })
    }
}

/// A page of `tools/list`.
///
/// # Errors
/// If the cursor is not one of ours.
pub(crate) fn list(
    app: &App,
    principal: &Principal,
    scope: &Scope,
    cursor: Option<&str>,
    era: Era,
) -> Result<Vec<u8>, RpcError> {
    let after = cursor.map(decode_cursor).transpose()?;
    let version = app.gate.catalog_version();
    let mut tools: Vec<(String, Bytes)> = app
        .gate
        .tools(principal)
        .iter()
        .filter(|tool| matches!(scope, Scope::All) || matches!(scope, Scope::Upstream(u) if *u == tool.tool.upstream))
        .map(|tool| (tool.tool.to_string(), app.listings.definition(version, tool, *scope != Scope::All)))
        .collect();
    tools.push((LAST.to_owned(), Bytes::from(await_approval().to_string())));
    tools.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    let rest = tools.into_iter().filter(|(key, _)| after.as_ref().is_none_or(|after| key > after));
    Ok(page("tools", rest, era))
}

/// A page of a list, with where to go on.
pub(crate) fn page(member: &str, mut rest: impl Iterator<Item = (String, Bytes)>, era: Era) -> Vec<u8> {
    let mut out = ObjectWriter::new(Vec::with_capacity(16 * 1024));
    let list = out.name(member);
    list.push(b'[');
    let (mut count, mut bytes, mut last) = (0, 0, String::new());
    let mut more = false;
    for (key, definition) in rest.by_ref() {
        if count > 0 && (count == PAGE_TOOLS || bytes + definition.len() > PAGE_BYTES) {
            more = true;
            break;
        }
        if count > 0 {
            list.push(b',');
        }
        list.extend_from_slice(&definition);
        (count, bytes, last) = (count + 1, bytes + definition.len(), key);
    }
    list.push(b']');
    if more {
        out.plain("nextCursor", &URL_SAFE_NO_PAD.encode(last));
    }
    if era == Era::Modern {
        out.plain("resultType", "complete");
        out.member("ttlMs", TTL_MS.to_string().as_bytes());
        // What a caller may see is the caller's own.
        out.plain("cacheScope", "private");
        out.member("_meta", json!({ "io.modelcontextprotocol/serverInfo": server_info() }).to_string().as_bytes());
    }
    out.finish()
}

/// The key after which a page begins.
///
/// # Errors
/// If the cursor is not one of ours.
pub(crate) fn decode_cursor(cursor: &str) -> Result<String, RpcError> {
    let bytes = URL_SAFE_NO_PAD.decode(cursor).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    bytes.ok_or_else(|| RpcError::new(INVALID_PARAMS, "the cursor is not one that was given out here"))
}

/// The definition as reviewed, with the endpoint's name and, in `_meta`, our own effect and the pin: an upstream's hints
/// are only its own word.
fn render(tool: &VisibleTool, name: &str) -> Bytes {
    let mut out = ObjectWriter::new(Vec::with_capacity(1024));
    write_string(out.name("name"), name);
    let empty = Map::new();
    for (member, value) in tool.definition.as_object().unwrap_or(&empty) {
        if member != "name" && member != "_meta" {
            out.member(member, value.to_string().as_bytes());
        }
    }
    let theirs = tool.definition.get("_meta").and_then(Value::as_object).unwrap_or(&empty);
    let mut meta: Map<String, Value> = theirs
        .iter()
        .filter(|(name, _)| !name.starts_with("dev.countersign/"))
        .map(|(n, v)| (n.clone(), v.clone()))
        .collect();
    meta.insert("dev.countersign/effect".to_owned(), tool.effect.as_str().into());
    meta.insert("dev.countersign/pin".to_owned(), tool.pin.to_string().into());
    out.member("_meta", Value::Object(meta).to_string().as_bytes());
    Bytes::from(out.finish())
}

fn await_approval() -> Value {
    json!({
        "name": AWAIT_APPROVAL,
        "title": "Wait for an approval",
        "description": "Waits, for less than a minute, for the people who have to agree to an earlier call that answered \
            'NOT executed; awaiting approval'. Once they have agreed it executes that call, exactly once, and returns its \
            result. Otherwise it says what is still owed: call it again, or stop.",
        "inputSchema": {
            "type": "object",
            "properties": {
                "request_id": { "type": "string", "format": "uuid", "description": "The id in the earlier answer." },
            },
            "required": ["request_id"],
            "additionalProperties": false,
        },
        "annotations": { "readOnlyHint": false, "idempotentHint": true, "openWorldHint": false },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_cover_everything_once() {
        let all: Vec<(String, Bytes)> =
            (0..2500).map(|n| (format!("u:t{n:05}"), Bytes::from(format!("{{\"name\":\"t{n:05}\"}}")))).collect();
        let (mut after, mut names): (Option<String>, Vec<String>) = (None, Vec::new());
        loop {
            let rest = all.iter().filter(|(key, _)| after.as_ref().is_none_or(|after| key > after)).cloned();
            let value: Value = serde_json::from_slice(&page("tools", rest, Era::Modern)).expect("JSON");
            names.extend(
                value["tools"].as_array().expect("tools").iter().map(|t| t["name"].as_str().expect("name").to_owned()),
            );
            assert_eq!(value["cacheScope"], "private");
            match value["nextCursor"].as_str() {
                Some(cursor) => after = Some(decode_cursor(cursor).expect("ours")),
                None => break,
            }
        }
        let expected: Vec<String> = (0..2500).map(|n| format!("t{n:05}")).collect();
        assert_eq!(names, expected);
        assert!(decode_cursor("%%%").is_err());
    }

    #[test]
    fn a_definition_keeps_unknown_members_and_takes_our_name() {
        let definition = json!({"name": "x", "inputSchema": {"type": "object"}, "x-vendor": [1], "_meta": {"a": 1, "dev.countersign/pin": "forged"}});
        let tool = VisibleTool {
            tool: "ads:x".parse().expect("a name"),
            mcp_name: "ads_x".into(),
            own_name: "x".into(),
            effect: countersign_domain::Effect::Write,
            pin: countersign_proof::digest::Digest::of(b"d"),
            definition: Arc::new(definition),
        };
        let value: Value = serde_json::from_slice(&render(&tool, &tool.mcp_name)).expect("JSON");
        assert_eq!(value["name"], "ads_x");
        assert_eq!(value["x-vendor"], json!([1]));
        assert_eq!(value["_meta"]["a"], 1);
        assert_eq!(value["_meta"]["dev.countersign/effect"], "write");
        assert_eq!(value["_meta"]["dev.countersign/pin"], tool.pin.to_string());
    }
}
