//! Past decisions: one of them explained, and all of a time decided again by an edited set.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::routing::{get, post};
use countersign_domain::{Millis, WorkspaceName};
use countersign_gate::replay::{MAX_PAGE, ReplayRequest, SetKind, SourceFile};
use http::HeaderMap;
use serde::Deserialize;
use serde_json::json;

use super::admin::body_of;
use super::request::{Caller, parsed};
use super::{Answered, json};
use crate::app::App;

/// The routes, all under `/admin`.
pub(super) fn routes() -> Router<Arc<App>> {
    Router::new().route("/admin/policy/calls/{id}", get(explain_past)).route("/admin/policy/replay", post(replay))
}

async fn explain_past(State(app): State<Arc<App>>, caller: Caller, Path(id): Path<String>) -> Answered {
    let id = parsed("id", &id, "the UUID of a call or of one of its events")?;
    let past = app.gate.explain_past(&caller.principal, id).await?;
    json(&json!({ "text": past.to_string(), "past": past }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Replay {
    files: Vec<File>,
    #[serde(default)]
    workspace: Option<WorkspaceName>,
    since: Millis,
    #[serde(default)]
    until: Option<Millis>,
    #[serde(default)]
    cursor: Option<u64>,
    #[serde(default = "most")]
    limit: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    path: String,
    kind: SetKind,
    text: String,
}

fn most() -> u32 {
    MAX_PAGE
}

async fn replay(State(app): State<Arc<App>>, caller: Caller, headers: HeaderMap, body: Body) -> Answered {
    let Replay { files, workspace, since, until, cursor, limit } = body_of(&app, &headers, body).await?;
    let files = files.into_iter().map(|File { path, kind, text }| SourceFile { path, text, kind }).collect();
    let request = ReplayRequest { files, workspace, since, until, cursor, limit };
    json(&app.gate.replay_decisions(&caller.principal, request).await?)
}
