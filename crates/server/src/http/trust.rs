//! Signing and verifying over HTTP: each request is a call of a `trust` tool through the gate, and its answer is what the tool gives.
//! What verifiers need to trust is public.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use countersign_domain::{Refusal, RefusalKind};
use countersign_proof::digest::Digest;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use serde_json::json;

use super::admin::body_of;
use super::capability::{arguments_of, asked, instead, page_of, posted};
use super::problem::Refused;
use super::request::Caller;
use super::{Answered, json};
use crate::app::App;
use crate::artifacts::keys::refusal;
use crate::capability::moment;
use crate::trust::{Custody, CustodyError, NAME, Published};

/// Verifiers fetch it seldom, and a new authority signs nothing that an old copy has to verify within a minute.
const CACHED: &str = "public, max-age=60";
/// RFC 9530.
const REPR_DIGEST: HeaderName = HeaderName::from_static("repr-digest");

/// The routes.
pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/v1/sign", post(sign))
        .route("/v1/verify", post(verify))
        .route("/v1/provenance/{scan_id}", get(provenance))
        .route("/v1/transparency", get(transparency))
        .route("/v1/signatures/{entry_id}", get(signature))
        .route("/v1/stats", get(stats))
        .route("/v1/scans", post(add_scan))
        .route("/v1/scans/check", post(check_scans))
        .route("/v1/scans/{digest}", get(scan))
        .route("/v1/reviews", post(review))
        .route("/v1/readiness", post(readiness))
        .route("/v1/anomalies", post(anomalies))
        .route("/v1/compliance", post(compliance))
        .route("/v1/notifications", post(notify))
        .route("/v1/packages/verify", post(package))
        .route("/trust/trusted_root.json", get(trusted_root))
        .route("/trust/trustconfig.json", get(trust_config))
        .route("/admin/authorities", get(authorities))
        .route("/admin/authorities/rotate", post(rotate))
}

async fn sign(State(app): State<Arc<App>>, caller: Caller, headers: HeaderMap, body: Body) -> Answered {
    posted(&app, caller, (NAME, "sign"), &headers, body).await
}

async fn verify(State(app): State<Arc<App>>, caller: Caller, headers: HeaderMap, body: Body) -> Answered {
    posted(&app, caller, (NAME, "verify"), &headers, body).await
}

async fn add_scan(State(app): State<Arc<App>>, caller: Caller, headers: HeaderMap, body: Body) -> Answered {
    posted(&app, caller, (NAME, "add_scan"), &headers, body).await
}

async fn check_scans(State(app): State<Arc<App>>, caller: Caller, headers: HeaderMap, body: Body) -> Answered {
    posted(&app, caller, (NAME, "check_scans"), &headers, body).await
}

async fn review(State(app): State<Arc<App>>, caller: Caller, headers: HeaderMap, body: Body) -> Answered {
    posted(&app, caller, (NAME, "record_review"), &headers, body).await
}

async fn readiness(State(app): State<Arc<App>>, caller: Caller, headers: HeaderMap, body: Body) -> Answered {
    posted(&app, caller, (NAME, "deployment_readiness"), &headers, body).await
}

async fn anomalies(State(app): State<Arc<App>>, caller: Caller, headers: HeaderMap, body: Body) -> Answered {
    posted(&app, caller, (NAME, "detect_anomalies"), &headers, body).await
}

async fn compliance(State(app): State<Arc<App>>, caller: Caller, headers: HeaderMap, body: Body) -> Answered {
    posted(&app, caller, (NAME, "compliance_report"), &headers, body).await
}

async fn package(State(app): State<Arc<App>>, caller: Caller, headers: HeaderMap, body: Body) -> Answered {
    posted(&app, caller, (NAME, "verify_package"), &headers, body).await
}

async fn notify(State(app): State<Arc<App>>, caller: Caller, headers: HeaderMap, body: Body) -> Answered {
    posted(&app, caller, (NAME, "notify_team"), &headers, body).await
}

async fn provenance(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(scan): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Answered {
    let (_, mut arguments) = arguments_of(query.as_deref(), &[])?;
    if let Some(wanted) = arguments["include_verification_trail"].as_str().and_then(|text| text.parse::<bool>().ok()) {
        arguments["include_verification_trail"] = json!(wanted);
    }
    if arguments.get("scan_id").is_some() {
        return Err(Refused(Refusal::new(RefusalKind::MalformedRequest, "scan_id stands in the path")));
    }
    arguments["scan_id"] = json!(scan);
    asked(&app, caller, (NAME, "get_provenance"), arguments, &headers).await.map(|(response, _)| response)
}

/// The document alone, byte for byte, with its digest as RFC 9530 has it.
async fn scan(State(app): State<Arc<App>>, caller: Caller, Path(digest): Path<String>, headers: HeaderMap) -> Answered {
    let (response, found) = asked(&app, caller, (NAME, "get_scan"), json!({ "document": digest }), &headers).await?;
    let Some(found) = found else { return Ok(response) };
    let text = found["text"].as_str().unwrap_or_default().to_owned();
    let digest: Digest = found["document"].as_str().unwrap_or_default().parse().map_err(|_| unreadable())?;
    let media_type =
        HeaderValue::from_str(found["media_type"].as_str().unwrap_or_default()).map_err(|_| unreadable())?;
    let repr = HeaderValue::from_str(&format!("sha-256=:{}:", digest.to_base64())).map_err(|_| unreadable())?;
    let mut document = ([(CONTENT_TYPE, media_type)], text).into_response();
    document.headers_mut().insert(REPR_DIGEST, repr);
    Ok(instead(&response, document))
}

fn unreadable() -> Refused {
    Refused(Refusal::new(RefusalKind::Internal, "the tool's answer cannot be read"))
}

async fn signature(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Answered {
    let (_, mut arguments) = arguments_of(query.as_deref(), &[])?;
    arguments["entry_id"] = serde_json::json!(id);
    asked(&app, caller, (NAME, "get_signature"), arguments, &headers).await.map(|(response, _)| response)
}

async fn stats(State(app): State<Arc<App>>, caller: Caller, headers: HeaderMap) -> Answered {
    asked(&app, caller, (NAME, "get_stats"), serde_json::json!({}), &headers).await.map(|(response, _)| response)
}

/// The entries alone; the next page is led to by a `Link`.
async fn transparency(
    State(app): State<Arc<App>>,
    caller: Caller,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Answered {
    let (pairs, arguments) = arguments_of(query.as_deref(), &["limit"])?;
    let (response, found) = asked(&app, caller, (NAME, "query_transparency"), arguments, &headers).await?;
    page_of(response, found, "/v1/transparency", &pairs)
}

async fn trusted_root(State(app): State<Arc<App>>) -> Answered {
    Ok(public(published(&app).await?.trusted_root.to_json()))
}

async fn trust_config(State(app): State<Arc<App>>) -> Answered {
    Ok(public(published(&app).await?.trust_config))
}

async fn authorities(State(app): State<Arc<App>>, caller: Caller) -> Answered {
    app.gate.require_operator(&caller.principal)?;
    json(&custody(&app)?.shown().await.map_err(away)?)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rotation {
    reason: String,
    /// Since when somebody else may have had the authorities: RFC 3339, or a date. Those that were retired before are meant, too.
    #[serde(default)]
    leaked_since: Option<String>,
}

async fn rotate(State(app): State<Arc<App>>, caller: Caller, headers: HeaderMap, body: Body) -> Answered {
    app.gate.require_operator(&caller.principal)?;
    let order: Rotation = body_of(&app, &headers, body).await?;
    let custody = custody(&app)?;
    let leaked = order.leaked_since.as_deref().map(|text| moment(text, "leaked_since", false)).transpose();
    let leaked = leaked.map_err(refusal)?;
    if leaked.is_some_and(|since| since > countersign_ledger::handle::system_clock()) {
        return Err(Refused(Refusal::new(RefusalKind::MalformedRequest, "leaked_since is in the future")));
    }
    json(&custody.rotate(&caller.principal, &order.reason, leaked).await.map_err(away)?)
}

pub(super) fn custody(app: &App) -> Result<&Arc<Custody>, Refused> {
    let off = || Refused(Refusal::new(RefusalKind::NotFound, "this node does not sign; see [trust] in docs/trust.md"));
    app.custody.as_ref().ok_or_else(off)
}

fn away(error: CustodyError) -> Refused {
    Refused(match error {
        CustodyError::TooMany => Refusal::new(RefusalKind::TooMany, error.to_string()),
        CustodyError::Store(_) | CustodyError::Append(_) | CustodyError::Unusable(_) => {
            tracing::error!(%error, "the authorities cannot be used");
            Refusal::new(RefusalKind::LedgerUnavailable, "the ledger cannot be used right now; try again later")
        }
    })
}

pub(super) async fn published(app: &App) -> Result<Published, Refused> {
    custody(app)?.published().await.map_err(away)
}

fn public(body: Vec<u8>) -> Response {
    ([(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, CACHED)], body).into_response()
}
