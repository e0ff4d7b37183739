//! Workspaces, granted roles and API keys. The gate says who may, and records each change as an event.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::routing::{get, post};
use countersign_domain::{PrincipalKind, Refusal, RefusalKind, WorkspaceName};
use countersign_gate::directory::Network;
use countersign_gate::members::{ApiKeyRequest, Grant};
use http::{HeaderMap, Uri};
use serde::Deserialize;
use serde_json::json;
use uuid::Uuid;

use super::admin::body_of;
use super::request::{Caller, parsed, parsed_value, query};
use super::{Answered, json};
use crate::app::App;

/// The routes, all under `/admin`.
pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/admin/workspaces", get(workspaces).post(create_workspace))
        .route("/admin/workspaces/{name}", get(workspace))
        .route("/admin/workspaces/{name}/archive", post(archive_workspace))
        .route("/admin/roles", get(roles))
        .route("/admin/roles/grant", post(grant))
        .route("/admin/roles/revoke", post(revoke))
        .route("/admin/apikeys", get(api_keys).post(create_api_key))
        .route("/admin/apikeys/{id}/revoke", post(revoke_api_key))
}

fn event(id: Uuid) -> Answered {
    json(&json!({ "event": id, "receipt": id }))
}

async fn workspaces(State(app): State<Arc<App>>, caller: Caller) -> Answered {
    json(&app.gate.workspaces(&caller.principal).await?)
}

async fn workspace(State(app): State<Arc<App>>, caller: Caller, Path(name): Path<String>) -> Answered {
    let all = app.gate.workspaces(&caller.principal).await?;
    let found = all.into_iter().find(|workspace| workspace.name.as_str() == name);
    json(
        &found.ok_or_else(|| {
            Refusal::new(RefusalKind::NotFound, "there is no workspace of that name that you may see")
        })?,
    )
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewWorkspace {
    name: WorkspaceName,
    #[serde(default)]
    title: String,
}

async fn create_workspace(State(app): State<Arc<App>>, caller: Caller, headers: HeaderMap, body: Body) -> Answered {
    let request: NewWorkspace = body_of(&app, &headers, body).await?;
    event(app.gate.create_workspace(&caller.principal, request.name, &request.title).await?)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Reason {
    #[serde(default)]
    reason: String,
}

async fn archive_workspace(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answered {
    let name: WorkspaceName = parsed("name", &name, "a workspace's name")?;
    let request: Reason = body_of(&app, &headers, body).await?;
    event(app.gate.archive_workspace(&caller.principal, name, &request.reason).await?)
}

/// The workspace that a query names, or the caller's own.
fn asked(caller: &Caller, uri: &Uri) -> Result<WorkspaceName, Refusal> {
    let pairs = query(uri, &["workspace"])?;
    let asked = parsed_value(&pairs, "workspace", "a workspace's name")?;
    Ok(asked.unwrap_or_else(|| caller.principal.workspace.clone()))
}

async fn roles(State(app): State<Arc<App>>, caller: Caller, uri: Uri) -> Answered {
    json(&app.gate.grants(&caller.principal, &asked(&caller, &uri)?).await?)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GrantBody {
    issuer: String,
    id: String,
    role: String,
    #[serde(default)]
    workspace: Option<WorkspaceName>,
    #[serde(default)]
    reason: String,
}

impl GrantBody {
    fn of(self, caller: &Caller) -> (Grant, String) {
        let workspace = self.workspace.unwrap_or_else(|| caller.principal.workspace.clone());
        (Grant { workspace, issuer: self.issuer, id: self.id, role: self.role }, self.reason)
    }
}

async fn grant(State(app): State<Arc<App>>, caller: Caller, headers: HeaderMap, body: Body) -> Answered {
    let (grant, reason) = body_of::<GrantBody>(&app, &headers, body).await?.of(&caller);
    event(app.gate.grant_role(&caller.principal, grant, &reason).await?)
}

async fn revoke(State(app): State<Arc<App>>, caller: Caller, headers: HeaderMap, body: Body) -> Answered {
    let (grant, reason) = body_of::<GrantBody>(&app, &headers, body).await?.of(&caller);
    event(app.gate.revoke_role(&caller.principal, grant, &reason).await?)
}

async fn api_keys(State(app): State<Arc<App>>, caller: Caller, uri: Uri) -> Answered {
    json(&app.gate.api_keys(&caller.principal, &asked(&caller, &uri)?).await?)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewKey {
    principal: String,
    #[serde(default = "service")]
    kind: PrincipalKind,
    #[serde(default)]
    workspace: Option<WorkspaceName>,
    #[serde(default)]
    roles: BTreeSet<String>,
    #[serde(default)]
    scopes: BTreeSet<String>,
    #[serde(default)]
    expires: Option<u64>,
    #[serde(default)]
    networks: Vec<Network>,
    #[serde(default)]
    note: String,
}

fn service() -> PrincipalKind {
    PrincipalKind::Service
}

async fn create_api_key(State(app): State<Arc<App>>, caller: Caller, headers: HeaderMap, body: Body) -> Answered {
    let request: NewKey = body_of(&app, &headers, body).await?;
    let request = ApiKeyRequest {
        workspace: request.workspace.unwrap_or_else(|| caller.principal.workspace.clone()),
        principal: request.principal,
        kind: request.kind,
        roles: request.roles,
        scopes: request.scopes,
        expires: request.expires,
        networks: request.networks,
        note: request.note,
    };
    let made = app.gate.create_api_key(&caller.principal, request).await?;
    let mut response = json(&json!({ "id": made.id, "key": made.key, "event": made.event, "receipt": made.event }))?;
    // The one answer of the node that holds a secret.
    response.headers_mut().insert(http::header::CACHE_CONTROL, http::HeaderValue::from_static("no-store"));
    Ok(response)
}

async fn revoke_api_key(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answered {
    let request: Reason = body_of(&app, &headers, body).await?;
    event(app.gate.revoke_api_key(&caller.principal, &id, &request.reason).await?)
}
