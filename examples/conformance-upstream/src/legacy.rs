//! 2025-11-25: a handshake, sessions, a GET stream, and requests to the client in the middle of a call.

use std::sync::{Arc, PoisonError};

use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::http::{error, json_response, respond, result, stream, text};
use crate::tools::Talk;
use crate::world::{Change, Out, Session, World};
use crate::{Era, definitions, results};

const SESSION: &str = "mcp-session-id";

pub(crate) async fn post(world: Arc<World>, headers: &HeaderMap, body: &[u8]) -> Response {
    let Ok(message) = serde_json::from_slice::<Value>(body) else {
        return json_response(400, &error(&Value::Null, -32700, "not JSON", Value::Null));
    };
    let (id, params) = (&message["id"], &message["params"]);
    let method = message["method"].as_str();
    if let Some(method) = method.filter(|_| !id.is_null()) {
        world.journal.note(method, params);
    }
    if method == Some("initialize") {
        return initialize(&world, id, params);
    }
    let session = match find(&world, headers) {
        Ok(session) => session,
        Err(status) => return json_response(status, &error(id, -32000, "no such session", Value::Null)),
    };
    let revision = text(headers, "mcp-protocol-version");
    if !revision.is_empty() && !["2025-11-25", "2025-06-18", "2025-03-26"].contains(&revision) {
        return json_response(400, &error(id, -32000, "unsupported protocol version", Value::Null));
    }
    match (method, id) {
        (Some(method), id) if !id.is_null() => request(world, session, method, id, params).await,
        (Some(_), _) => StatusCode::ACCEPTED.into_response(),
        (None, _) => {
            answer(&session, &message);
            StatusCode::ACCEPTED.into_response()
        }
    }
}

fn find(world: &World, headers: &HeaderMap) -> Result<Arc<Session>, u16> {
    match text(headers, SESSION) {
        "" => Err(400),
        id => world.session(id).ok_or(404),
    }
}

fn initialize(world: &World, id: &Value, params: &Value) -> Response {
    let asked = params["protocolVersion"].as_str().unwrap_or_default();
    let revision = if ["2025-06-18", "2025-03-26"].contains(&asked) { asked } else { Era::Legacy.revision() };
    let session = world.open_session(params["capabilities"].clone());
    let answer = result(
        id,
        json!({
            "protocolVersion": revision,
            "capabilities": definitions::capabilities(),
            "serverInfo": definitions::server_info(),
        }),
    );
    let mut response = json_response(200, &answer);
    if let Ok(session) = HeaderValue::from_str(&session) {
        response.headers_mut().insert(SESSION, session);
    }
    response
}

/// What the client says to a question of ours.
fn answer(session: &Session, message: &Value) {
    let id = message["id"].as_str().unwrap_or_default();
    let waiting = session.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    if let Some(waiting) = waiting {
        // The call that asked may be over.
        let _ = waiting.send(message.clone());
    }
}

async fn request(world: Arc<World>, session: Arc<Session>, method: &str, id: &Value, params: &Value) -> Response {
    let (outbox, inbox) = mpsc::unbounded_channel();
    let subscribed = || session.subscribed.lock().unwrap_or_else(PoisonError::into_inner);
    let uri = params["uri"].as_str().unwrap_or_default().to_owned();
    let given = match method {
        "ping" => json!({}),
        "logging/setLevel" => {
            *session.level.lock().unwrap_or_else(PoisonError::into_inner) = params["level"].as_str().map(str::to_owned);
            json!({})
        }
        "resources/subscribe" => {
            subscribed().insert(uri);
            json!({})
        }
        "resources/unsubscribe" => {
            subscribed().remove(&uri);
            json!({})
        }
        "tools/call" | "prompts/get" | "resources/read" | "completion/complete" => {
            let talk = Talk::legacy(Arc::clone(&world), session, outbox.clone(), params);
            let (method, id, params) = (method.to_owned(), id.clone(), params.clone());
            tokio::spawn(async move {
                let last = match results::of(&talk, &method, &params).await {
                    Ok(given) => result(&id, given),
                    Err(stop) => stop.legacy(&id),
                };
                let _ = outbox.send(Out::Last(last, 200));
            });
            return respond(inbox).await;
        }
        _ => match definitions::list(&world, method) {
            Some(list) => list,
            None => return json_response(200, &error(id, -32601, "Method not found", Value::Null)),
        },
    };
    json_response(200, &result(id, given))
}

pub(crate) fn get(world: &Arc<World>, headers: &HeaderMap) -> Response {
    let session = match find(world, headers) {
        Ok(session) => session,
        Err(status) => return json_response(status, &error(&Value::Null, -32000, "no such session", Value::Null)),
    };
    let (outbox, inbox) = mpsc::unbounded_channel();
    let mut changes = world.changes.subscribe();
    tokio::spawn(async move {
        while let Ok(change) = changes.recv().await {
            let message = match change {
                Change::Tools => json!({ "jsonrpc": "2.0", "method": "notifications/tools/list_changed" }),
                Change::Prompts => json!({ "jsonrpc": "2.0", "method": "notifications/prompts/list_changed" }),
                Change::Resource(uri) => {
                    if !session.subscribed.lock().unwrap_or_else(PoisonError::into_inner).contains(&uri) {
                        continue;
                    }
                    json!({ "jsonrpc": "2.0", "method": "notifications/resources/updated", "params": { "uri": uri } })
                }
            };
            if outbox.send(Out::Message(message)).is_err() {
                return;
            }
        }
    });
    stream(None, inbox)
}

pub(crate) fn delete(world: &World, headers: &HeaderMap) -> Response {
    match world.close_session(text(headers, SESSION)) {
        true => StatusCode::NO_CONTENT.into_response(),
        false => StatusCode::NOT_FOUND.into_response(),
    }
}
