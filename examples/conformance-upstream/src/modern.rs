//! 2026-07-28: every request stands alone, with its metadata in `_meta` and in headers; input is asked for by returning.

use std::sync::Arc;

use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::http::{error, json_response, respond, result, stream, text};
use crate::journal::ASKED;
use crate::tools::Talk;
use crate::world::{Change, Out, World};
use crate::{Era, definitions, results};

const VERSION: &str = "io.modelcontextprotocol/protocolVersion";
const CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
const SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";

const INVALID_PARAMS: i64 = -32602;
const HEADER_MISMATCH: i64 = -32020;
const UNSUPPORTED_VERSION: i64 = -32022;

pub(crate) async fn post(world: Arc<World>, headers: &HeaderMap, body: &[u8]) -> Response {
    let Ok(message) = serde_json::from_slice::<Value>(body) else {
        return json_response(400, &error(&Value::Null, -32700, "not JSON", Value::Null));
    };
    let (id, params) = (&message["id"], &message["params"]);
    let Some(method) = message["method"].as_str() else {
        return json_response(400, &error(id, -32600, "not a request", Value::Null));
    };
    if id.is_null() {
        return StatusCode::ACCEPTED.into_response();
    }
    world.journal.note(method, params);
    if let Err(refused) = check(&world, headers, method, id, params) {
        return json_response(400, &refused);
    }
    match method {
        "server/discover" => json_response(200, &result(id, discovered())),
        "subscriptions/listen" => listen(&world, id, params),
        "tools/call" | "prompts/get" | "resources/read" | "completion/complete" => {
            call(world, method, id, params).await
        }
        _ => match definitions::list(&world, method) {
            Some(list) => json_response(200, &result(id, cacheable(complete(list)))),
            None => json_response(404, &error(id, -32601, "Method not found", Value::Null)),
        },
    }
}

/// What every request must bring.
fn check(world: &World, headers: &HeaderMap, method: &str, id: &Value, params: &Value) -> Result<(), Value> {
    let meta = &params["_meta"];
    let invalid = |what: &str| Err(error(id, INVALID_PARAMS, &format!("_meta lacks {what}"), Value::Null));
    let Some(version) = meta[VERSION].as_str() else { return invalid(VERSION) };
    if !meta[CAPABILITIES].is_object() {
        return invalid(CAPABILITIES);
    }
    let mismatch = |what: &str| Err(error(id, HEADER_MISMATCH, &format!("{what} does not fit the body"), Value::Null));
    if text(headers, "mcp-protocol-version") != version {
        return mismatch("MCP-Protocol-Version");
    }
    if version != Era::Modern.revision() {
        let data = json!({ "supported": [Era::Modern.revision()], "requested": version });
        return Err(error(id, UNSUPPORTED_VERSION, "Unsupported protocol version", data));
    }
    if text(headers, "mcp-method") != method {
        return mismatch("Mcp-Method");
    }
    let name = match method {
        "tools/call" | "prompts/get" => params["name"].as_str(),
        "resources/read" => params["uri"].as_str(),
        _ => None,
    };
    if let Some(name) = name
        && decoded(text(headers, "mcp-name")).as_deref() != Some(name)
    {
        return mismatch("Mcp-Name");
    }
    if method == "tools/call" {
        for (header, value) in definitions::mirrored(world, params) {
            let header = format!("mcp-param-{}", header.to_ascii_lowercase());
            if headers.get(&header).and_then(|v| v.to_str().ok()).and_then(decoded) != value {
                return mismatch(&header);
            }
        }
    }
    Ok(())
}

fn decoded(value: &str) -> Option<String> {
    match value.strip_prefix("=?base64?").and_then(|rest| rest.strip_suffix("?=")) {
        None => Some(value.to_owned()),
        Some(base64) => {
            let bytes = base64::engine::general_purpose::STANDARD.decode(base64).ok()?;
            String::from_utf8(bytes).ok()
        }
    }
}

fn discovered() -> Value {
    cacheable(complete(json!({
        "supportedVersions": [Era::Modern.revision()],
        "capabilities": definitions::capabilities(),
    })))
}

/// What every result of this revision has.
fn complete(mut result: Value) -> Value {
    if result.get("resultType").is_none() {
        result["resultType"] = "complete".into();
    }
    result["_meta"]["io.modelcontextprotocol/serverInfo"] = definitions::server_info();
    result
}

fn cacheable(mut result: Value) -> Value {
    result["ttlMs"] = 0.into();
    result["cacheScope"] = "private".into();
    result
}

async fn call(world: Arc<World>, method: &str, id: &Value, params: &Value) -> Response {
    let (outbox, inbox) = mpsc::unbounded_channel();
    let talk = match Talk::modern(world, outbox.clone(), params) {
        Ok(talk) => talk,
        Err(why) => return json_response(200, &error(id, INVALID_PARAMS, why, Value::Null)),
    };
    let (method, id, params) = (method.to_owned(), id.clone(), params.clone());
    tokio::spawn(async move {
        let last = match results::of(&talk, &method, &params).await {
            Ok(given) if method == "resources/read" => (result(&id, cacheable(complete(given))), 200),
            Ok(given) => (result(&id, complete(given)), 200),
            Err(stop) => match stop.modern(&talk) {
                Ok(input) => {
                    talk.world.journal.note(ASKED, &Value::Null);
                    (result(&id, complete(input)), 200)
                }
                Err((code, message, data)) => {
                    let status = if code == -32021 { 400 } else { 200 };
                    (error(&id, code, &message, data), status)
                }
            },
        };
        let _ = outbox.send(Out::Last(last.0, last.1));
    });
    respond(inbox).await
}

/// A stream of the notifications that were asked for, and no others.
fn listen(world: &Arc<World>, id: &Value, params: &Value) -> Response {
    let asked = params["notifications"].clone();
    let (outbox, inbox) = mpsc::unbounded_channel();
    let mut changes = world.changes.subscribe();
    let id = id.clone();
    let message = move |method: &str, mut params: Value| {
        params["_meta"] = json!({ SUBSCRIPTION: id });
        json!({ "jsonrpc": "2.0", "method": method, "params": params })
    };
    let acknowledged = message("notifications/subscriptions/acknowledged", json!({ "notifications": asked }));
    tokio::spawn(async move {
        while let Ok(change) = changes.recv().await {
            let (wanted, told) = match change {
                Change::Tools => {
                    (asked["toolsListChanged"] == true, message("notifications/tools/list_changed", json!({})))
                }
                Change::Prompts => {
                    (asked["promptsListChanged"] == true, message("notifications/prompts/list_changed", json!({})))
                }
                Change::Resource(uri) => {
                    let watched =
                        asked["resourceSubscriptions"].as_array().is_some_and(|l| l.iter().any(|u| *u == uri));
                    (watched, message("notifications/resources/updated", json!({ "uri": uri })))
                }
            };
            if wanted && outbox.send(Out::Message(told)).is_err() {
                return;
            }
        }
    });
    stream(Some(acknowledged), inbox)
}
