//! Signing and verifying over HTTP: each request is a call of a `trust` tool through the gate, and its answer is what the tool gives.
//! What verifiers need to trust is public.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use countersign_domain::{Refusal, RefusalKind, ToolRef};
use countersign_gate::api::{CallOutcome, CallRequest};
use countersign_gate::upstream::Mute;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, LINK};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::problem::Refused;
use super::request::{Caller, idempotency_key, read_body, request_timeout};
use super::tools::{invoked, unread};
use super::{Answered, json};
use crate::app::App;
use crate::trust::{CustodyError, NAME, Published};

/// The event of the call, whose receipt can be fetched.
const RECEIPT: HeaderName = HeaderName::from_static("countersign-receipt");
/// Verifiers fetch it seldom, and a new authority signs nothing that an old copy has to verify within a minute.
const CACHED: &str = "public, max-age=60";

/// The routes.
pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/v1/sign", post(sign))
        .route("/v1/verify", post(verify))
        .route("/v1/provenance/{scan_id}", get(provenance))
        .route("/v1/transparency", get(transparency))
        .route("/v1/signatures/{entry_id}", get(signature))
        .route("/v1/stats", get(stats))
        .route("/trust/trusted_root.json", get(trusted_root))
        .route("/trust/trustconfig.json", get(trust_config))
}

async fn sign(State(app): State<Arc<App>>, caller: Caller, headers: HeaderMap, body: Body) -> Answered {
    posted(&app, caller, "sign", &headers, body).await
}

async fn verify(State(app): State<Arc<App>>, caller: Caller, headers: HeaderMap, body: Body) -> Answered {
    posted(&app, caller, "verify", &headers, body).await
}

async fn provenance(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(scan): Path<String>,
    headers: HeaderMap,
) -> Answered {
    asked(&app, caller, "get_provenance", json!({ "scan_id": scan }), &headers).await.map(|(response, _)| response)
}

async fn signature(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Answered {
    asked(&app, caller, "get_signature", json!({ "entry_id": id }), &headers).await.map(|(response, _)| response)
}

async fn stats(State(app): State<Arc<App>>, caller: Caller, headers: HeaderMap) -> Answered {
    asked(&app, caller, "get_stats", json!({}), &headers).await.map(|(response, _)| response)
}

/// The entries alone; the next page is led to by a `Link`.
async fn transparency(
    State(app): State<Arc<App>>,
    caller: Caller,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Answered {
    let pairs: Vec<(String, String)> =
        url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()).into_owned().collect();
    let mut arguments = Map::new();
    for (name, value) in &pairs {
        // Of two, the gate would see one and the caller might mean the other.
        let value = if name == "limit" {
            value.parse::<u32>().map_or_else(|_| json!(value), Value::from)
        } else {
            json!(value)
        };
        if arguments.insert(name.clone(), value).is_some() {
            return Err(Refused(Refusal::new(RefusalKind::MalformedRequest, format!("{name} is given twice"))));
        }
    }
    let (mut response, found) = asked(&app, caller, "query_transparency", Value::Object(arguments), &headers).await?;
    let Some(found) = found else { return Ok(response) };
    let receipt = response.headers_mut().remove(RECEIPT);
    let mut page = json(&found["entries"])?;
    if let Some(next) = found["next"].as_str().and_then(|next| next_page(&pairs, next)) {
        page.headers_mut().insert(LINK, next);
    }
    page.headers_mut().extend(receipt.map(|receipt| (RECEIPT, receipt)));
    Ok(page)
}

fn next_page(pairs: &[(String, String)], cursor: &str) -> Option<HeaderValue> {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(pairs.iter().filter(|(name, _)| name != "cursor"));
    query.append_pair("cursor", cursor);
    HeaderValue::try_from(format!("</v1/transparency?{}>; rel=\"next\"", query.finish())).ok()
}

async fn posted(app: &Arc<App>, caller: Caller, name: &str, headers: &HeaderMap, body: Body) -> Answered {
    let arguments = match read_body(app, headers, body).await {
        Ok(body) => Vec::from(body),
        Err(refusal) => return Err(unread(app, &caller, &tool(name)?, refusal).await),
    };
    called(app, caller, name, arguments, headers).await.map(|(response, _)| response)
}

async fn asked(
    app: &Arc<App>,
    caller: Caller,
    name: &str,
    arguments: Value,
    headers: &HeaderMap,
) -> Result<(Response, Option<Value>), Refused> {
    called(app, caller, name, arguments.to_string().into_bytes(), headers).await
}

fn tool(name: &str) -> Result<ToolRef, Refusal> {
    format!("{NAME}:{name}").parse().map_err(|_| Refusal::new(RefusalKind::UnknownTool, "there is no such tool"))
}

/// Makes the call. What the tool gives is the answer's body; where people have to agree first, it is the same `202` as for any
/// tool.
async fn called(
    app: &Arc<App>,
    caller: Caller,
    name: &str,
    arguments: Vec<u8>,
    headers: &HeaderMap,
) -> Result<(Response, Option<Value>), Refused> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Result {
        #[serde(default)]
        structured_content: Option<Value>,
        #[serde(default)]
        content: Vec<Text>,
    }
    #[derive(Deserialize)]
    struct Text {
        text: String,
    }
    let request = CallRequest {
        principal: caller.principal,
        tool: tool(name)?,
        arguments,
        idempotency_key: idempotency_key(headers)?,
        correlation: caller.correlation.to_string(),
        client: Arc::new(Mute),
        timeout: request_timeout(headers)?,
    };
    let answer = match app.gate.call(request).await? {
        CallOutcome::Done(answer) => answer,
        pending @ CallOutcome::Pending(_) => return Ok((invoked(pending)?, None)),
    };
    let unreadable = |_| Refusal::new(RefusalKind::Internal, "the tool's answer cannot be read");
    let result: Result = serde_json::from_str(answer.result.get()).map_err(unreadable)?;
    if answer.is_error {
        let why = result.content.into_iter().map(|part| part.text).collect::<Vec<_>>().join(" ");
        return Err(Refused(Refusal::new(RefusalKind::InvalidArguments, why).recorded_as(answer.event)));
    }
    let value = result.structured_content.unwrap_or_default();
    let mut response = json(&value)?;
    if let Ok(event) = HeaderValue::from_str(&answer.event.to_string()) {
        response.headers_mut().insert(RECEIPT, event);
    }
    Ok((response, Some(value)))
}

async fn trusted_root(State(app): State<Arc<App>>) -> Answered {
    Ok(public(published(&app).await?.trusted_root.to_json()))
}

async fn trust_config(State(app): State<Arc<App>>) -> Answered {
    Ok(public(published(&app).await?.trust_config))
}

async fn published(app: &App) -> Result<Published, Refused> {
    let off = || Refusal::new(RefusalKind::NotFound, "this node does not sign; see [trust] in docs/trust.md");
    let custody = app.custody.as_ref().ok_or_else(off)?;
    custody.published().await.map_err(|error: CustodyError| {
        tracing::error!(%error, "what verifiers need cannot be told");
        Refused(Refusal::new(RefusalKind::LedgerUnavailable, "the ledger cannot be used right now; try again later"))
    })
}

fn public(body: Vec<u8>) -> Response {
    ([(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, CACHED)], body).into_response()
}
