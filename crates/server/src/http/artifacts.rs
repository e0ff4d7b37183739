//! Signed artifacts over HTTP, in the shapes of FedMCP's server. Each request is a call of an `artifacts` tool through the gate.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use countersign_domain::{Refusal, RefusalKind, WorkspaceName};
use countersign_proof::jws::Jws;
use countersign_trust::artifact::schema;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, LOCATION};
use http::{HeaderMap, HeaderValue, StatusCode, Uri};
use serde::Deserialize;
use serde_json::{Value, json};

use super::admin::body_of;
use super::capability::{Name, arguments_in, arguments_of, asked, called, instead, page_of, posted};
use super::problem::Refused;
use super::request::{Caller, parsed, parsed_value, query};
use super::{Answered, json};
use crate::app::App;
use crate::artifacts::keys::refusal;
use crate::artifacts::{Artifacts, NAME};
use crate::rawjson;

const JOSE: &str = "application/jose";
const JOSE_JSON: &str = "application/jose+json";
/// A key that was revoked is refused by those who fetch the set within this time.
const KEYS_CACHED: &str = "public, max-age=300";

/// The routes.
pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/artifacts", post(create).get(list))
        .route("/artifacts/{id}", get(show))
        .route("/artifacts/{id}/verify", post(verify))
        .route("/artifacts/{id}/provenance", get(provenance))
        .route("/artifacts/{id}/hold", post(hold))
        .route("/jwks/{workspace}", get(key_set))
        .route("/schemas/artifact.json", get(envelope_schema))
        .route("/schemas/artifact-types.json", get(types))
        .route("/admin/keys", get(keys))
        .route("/admin/keys/rotate", post(rotate))
        .route("/admin/keys/{kid}/revoke", post(revoke))
        .route("/admin/artifacts/scrub", post(scrub))
}

fn artifacts(app: &App) -> Result<&Arc<Artifacts>, Refusal> {
    let off = || Refusal::new(RefusalKind::NotFound, "this node keeps no artifacts; see [trust] in docs/trust.md");
    app.artifacts.as_ref().ok_or_else(off)
}

/// The artifact alone in the body; the JWS in the answer.
async fn create(State(app): State<Arc<App>>, caller: Caller, headers: HeaderMap, body: Body) -> Answered {
    let name: Name<'_> = (NAME, "create");
    let arguments = arguments_in(&app, &caller, name, &headers, body).await?;
    let (response, made) = called(&app, caller, name, arguments, &headers).await?;
    let Some(made) = made else { return Ok(response) };
    let mut answer = instead(&response, signed(&made, &headers)?);
    *answer.status_mut() = StatusCode::CREATED;
    let (id, version) = (made["id"].as_str().unwrap_or_default(), &made["version"]);
    if let Ok(location) = HeaderValue::from_str(&format!("/artifacts/{id}?version={version}")) {
        answer.headers_mut().insert(LOCATION, location);
    }
    Ok(answer)
}

async fn show(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Answered {
    let (response, found) = asked(&app, caller, (NAME, "get"), about(&id, query.as_deref())?, &headers).await?;
    let Some(found) = found else { return Ok(response) };
    let mut answer = instead(&response, signed(&found, &headers)?);
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
    Ok(answer)
}

async fn verify(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Answered {
    let arguments = about(&id, query.as_deref())?;
    asked(&app, caller, (NAME, "verify"), arguments, &headers).await.map(|(response, _)| response)
}

async fn provenance(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Answered {
    let arguments = about(&id, query.as_deref())?;
    asked(&app, caller, (NAME, "provenance"), arguments, &headers).await.map(|(response, _)| response)
}

/// The body says which way and why; the id stands in the path.
async fn hold(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answered {
    let name: Name<'_> = (NAME, "hold");
    let mut arguments = arguments_in(&app, &caller, name, &headers, body).await?;
    let id = json!(id).to_string();
    // What is no object, or names an id of its own, the gate refuses, with an event.
    if let Some(members) = std::str::from_utf8(&arguments).ok().and_then(|text| rawjson::members(text).ok()) {
        let named = members.iter().map(|(name, value)| (name.as_ref(), value.get()));
        arguments = rawjson::object(named.chain([("id", id.as_str())]));
    }
    called(&app, caller, name, arguments, &headers).await.map(|(response, _)| response)
}

/// Filters as a query: `compliance` is a list with commas.
async fn list(State(app): State<Arc<App>>, caller: Caller, RawQuery(query): RawQuery, headers: HeaderMap) -> Answered {
    let (pairs, mut arguments) = arguments_of(query.as_deref(), &["limit"])?;
    if let Some(tags) = arguments["compliance"].as_str() {
        arguments["compliance"] = tags.split(',').map(str::trim).filter(|tag| !tag.is_empty()).collect();
    }
    let (response, found) = asked(&app, caller, (NAME, "list"), arguments, &headers).await?;
    page_of(response, found, "/artifacts", &pairs)
}

/// The JWS of what a tool gave, in the form that is asked for.
fn signed(found: &Value, headers: &HeaderMap) -> Result<Response, Refused> {
    let flattened = found["jws"].to_string();
    let compact = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).is_some_and(|accept| {
        accept.split(',').any(|one| one.split(';').next().is_some_and(|name| name.trim() == JOSE))
    });
    if !compact {
        return Ok(([(CONTENT_TYPE, JOSE_JSON)], flattened).into_response());
    }
    let unreadable = |_| Refusal::new(RefusalKind::Internal, "the artifact's JWS cannot be read");
    let jws = Jws::parse(flattened.as_bytes()).map_err(unreadable)?;
    Ok(([(CONTENT_TYPE, JOSE)], jws.to_compact()).into_response())
}

fn about(id: &str, query: Option<&str>) -> Result<Value, Refused> {
    let (_, mut arguments) = arguments_of(query, &["version"])?;
    arguments["id"] = json!(id);
    Ok(arguments)
}

/// Public: what verifiers need. Retired keys are marked, revoked ones left out unless `?revoked=true` asks for them.
async fn key_set(State(app): State<Arc<App>>, Path(workspace): Path<String>, uri: Uri) -> Answered {
    let workspace: WorkspaceName = parsed("workspace", &workspace, "a workspace's name")?;
    let pairs = query(&uri, &["revoked"])?;
    let with_revoked = parsed_value(&pairs, "revoked", "true or false")?.unwrap_or(false);
    let keys = artifacts(&app)?.keys.key_set(&workspace, with_revoked).await.map_err(refusal)?;
    let headers = [(CONTENT_TYPE, "application/jwk-set+json"), (CACHE_CONTROL, KEYS_CACHED)];
    Ok((headers, keys.to_string()).into_response())
}

async fn envelope_schema() -> Response {
    schema_of(&schema::envelope())
}

/// The types that this node knows, with the schemas of their bodies.
async fn types(State(app): State<Arc<App>>) -> Answered {
    let known = artifacts(&app)?.types.iter().map(|known| {
        json!({
            "name": known.name(), "title": known.title(), "description": known.description(),
            "compliance_flags": { "create": known.compliance().create, "read": known.compliance().read },
            "body": known.body_schema(),
        })
    });
    Ok(schema_of(&known.collect()))
}

fn schema_of(value: &Value) -> Response {
    let headers = [(CONTENT_TYPE, "application/schema+json"), (CACHE_CONTROL, "public, max-age=3600")];
    (headers, value.to_string()).into_response()
}

async fn keys(State(app): State<Arc<App>>, caller: Caller, uri: Uri) -> Answered {
    let pairs = query(&uri, &["workspace"])?;
    let workspace = parsed_value(&pairs, "workspace", "a workspace's name")?;
    let workspace = workspace.unwrap_or_else(|| caller.principal.workspace.clone());
    app.gate.require_administrator(&caller.principal, &workspace)?;
    let keys = artifacts(&app)?.keys.of(&workspace).await.map_err(refusal)?;
    json(&keys.iter().map(crate::artifacts::keys::Key::shown).collect::<Vec<_>>())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    #[serde(default)]
    workspace: Option<WorkspaceName>,
    #[serde(default)]
    reason: String,
}

async fn rotate(State(app): State<Arc<App>>, caller: Caller, headers: HeaderMap, body: Body) -> Answered {
    let order: Order = body_of(&app, &headers, body).await?;
    let workspace = order.workspace.unwrap_or_else(|| caller.principal.workspace.clone());
    app.gate.require_administrator(&caller.principal, &workspace)?;
    let made = artifacts(&app)?.keys.replace(&caller.principal, &workspace, &order.reason).await.map_err(refusal)?;
    json(&made.shown())
}

async fn revoke(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(kid): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answered {
    let order: Order = body_of(&app, &headers, body).await?;
    let workspace = order.workspace.unwrap_or_else(|| caller.principal.workspace.clone());
    app.gate.require_administrator(&caller.principal, &workspace)?;
    let keys = &artifacts(&app)?.keys;
    let event = keys.revoke(&caller.principal, &workspace, &kid, &order.reason).await.map_err(refusal)?;
    json(&json!({ "event": event, "receipt": event }))
}

async fn scrub(State(app): State<Arc<App>>, caller: Caller) -> Answered {
    app.gate.require_operator(&caller.principal)?;
    let scrubbed = artifacts(&app)?.scrub(&caller.principal).await.map_err(refusal)?;
    json(&scrubbed)
}

/// What a client says that it did, marked as declared.
pub(super) async fn declare(State(app): State<Arc<App>>, caller: Caller, headers: HeaderMap, body: Body) -> Answered {
    artifacts(&app)?;
    posted(&app, caller, (NAME, "declare"), &headers, body).await
}
