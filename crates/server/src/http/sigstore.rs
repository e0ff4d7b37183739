//! The services that Sigstore's own clients sign with, under the paths that those clients know: a certificate authority's (Fulcio), a log's
//! (Rekor v2) and a timestamp authority's. `docs/trust.md` says who may do what.
//!
//! Certificates and log entries are calls through the gate. Timestamps are for anybody, as RFC 3161 has it, at a pace.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use countersign_domain::{Refusal, RefusalKind};
use countersign_trust::root::AuthorityInstance;
use countersign_trust::{hashedrekord, issuing, pem, timestamp};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::{Value, json};

use super::capability::{called, instead};
use super::problem::Refused;
use super::request::{Caller, Correlation, InBody, read_body_within};
use super::{Answered, json, json_bytes};
use crate::app::App;
use crate::artifacts::keys::refusal;
use crate::trust::{Clients, NAME, NotAdmitted, Trust};

/// As for trusted roots: a new authority signs nothing that an old copy has to verify within a minute.
const CACHED: &str = "public, max-age=60";
const QUERY: &str = "application/timestamp-query";
const REPLY: &str = "application/timestamp-reply";
/// How refusals before authentication are counted.
const SURFACE: &str = "sigstore";

/// The routes.
pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/api/v2/signingCert", post(certificate))
        .route("/api/v2/trustBundle", get(trust_bundle))
        .route("/api/v2/log/entries", post(log))
        .route("/api/v1/timestamp", post(stamp))
        .route("/api/v1/timestamp/certchain", get(stamp_chain))
}

fn served(app: &App) -> Result<(&Trust, &Clients), Refusal> {
    let off = "this node serves no clients of Sigstore's; see [trust.clients] in docs/trust.md";
    let trust = app.trust.as_deref();
    trust.and_then(|trust| Some((trust, trust.clients()?))).ok_or_else(|| Refusal::new(RefusalKind::NotFound, off))
}

/// The token stands in the body, with some clients in the header, too.
async fn certificate(State(app): State<Arc<App>>, request: Request) -> Answered {
    let (_, clients) = served(&app)?;
    let (parts, body) = request.into_parts();
    let body = read_body_within(&app, &parts.headers, body, issuing::MAX_REQUEST_BYTES).await?;
    let malformed = |error: issuing::IssuingError| Refusal::new(RefusalKind::MalformedRequest, error.to_string());
    let wanted = issuing::SigningCertificateRequest::parse(&body).map_err(malformed)?;
    let in_body = InBody { token: wanted.token.as_deref(), audiences: &clients.audiences };
    let principal = Caller::authenticate_with(&app, &parts, &in_body, SURFACE).await?;
    let correlation = Correlation::of(&parts.headers).0;
    let mut arguments = json!({});
    if let Some(request) = wanted.request {
        arguments["certificate_signing_request"] = json!(request);
    }
    if let Some((key, proof)) = wanted.key {
        arguments["public_key"] = json!(key);
        arguments["proof_of_possession"] = json!(proof);
    }
    let caller = Caller { principal, correlation };
    let arguments = arguments.to_string().into_bytes();
    let (response, issued) = called(&app, caller, (NAME, "issue_certificate"), arguments, &parts.headers).await?;
    let Some(issued) = issued else { return Ok(response) };
    let chain = issued["certificate_chain"].as_array().into_iter().flatten();
    let chain: Vec<String> = chain.filter_map(Value::as_str).map(str::to_owned).collect();
    Ok(instead(&response, json_bytes(issuing::answer(&chain))))
}

/// No token: the certificate in the entry says who it is, and the signature shows it.
async fn log(State(app): State<Arc<App>>, headers: HeaderMap, body: Body) -> Answered {
    let (trust, clients) = served(&app)?;
    let body = read_body_within(&app, &headers, body, hashedrekord::MAX_REQUEST_BYTES).await?;
    let (record, holder) = clients.admit(&body).await.map_err(|error| {
        let (kind, cause) = match error {
            NotAdmitted::Failed(failure) => return refusal(failure),
            NotAdmitted::Entry(_) => (RefusalKind::MalformedRequest, "malformed"),
            NotAdmitted::Stranger(_) => (RefusalKind::Unauthenticated, "stranger"),
        };
        app.gate.note_refusal(SURFACE, cause);
        Refusal::new(kind, error.to_string()).with("cause", cause)
    })?;
    if let Some(entry) = trust.logged_already(&record, &holder).await.map_err(refusal)? {
        return Ok((StatusCode::CREATED, json(&entry)?).into_response());
    }
    let principal = app.gate.admit(Arc::new(holder.principal))?;
    crate::telemetry::exchange::caller(&principal);
    let caller = Caller { principal, correlation: Correlation::of(&headers).0 };
    let (mut response, entry) = called(&app, caller, (NAME, "log_entry"), body.to_vec(), &headers).await?;
    if entry.is_some() {
        *response.status_mut() = StatusCode::CREATED;
    }
    Ok(response)
}

/// RFC 3161 section 3.4, and the JSON that Sigstore's timestamp authority takes besides.
async fn stamp(State(app): State<Arc<App>>, headers: HeaderMap, body: Body) -> Answered {
    let (_, clients) = served(&app)?;
    if let Err(wait) = clients.pace() {
        app.gate.note_refusal(SURFACE, "pace");
        return Err(too_fast(wait));
    }
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    let is_json = match kind {
        QUERY => false,
        "application/json" => true,
        _ => {
            let detail = format!("send a timestamp request as {QUERY} (RFC 3161), or as application/json");
            return Err(Refused(Refusal::new(RefusalKind::MalformedRequest, detail)));
        }
    };
    let body = read_body_within(&app, &headers, body, timestamp::MAX_REQUEST_BYTES).await?;
    let reply = clients.stamp(&body, is_json).await.map_err(refusal)?;
    Ok(([(CONTENT_TYPE, REPLY), (CACHE_CONTROL, "no-store")], reply).into_response())
}

fn too_fast(wait: std::time::Duration) -> Refused {
    let detail = "the node makes so many timestamps a minute, for everybody together; try again a little later";
    let mut refusal = Refusal::new(RefusalKind::RateLimited, detail);
    refusal.retry_after = Some(wait.as_secs() + 1);
    Refused(refusal)
}

/// Fulcio's: the issuers' certificates.
async fn trust_bundle(State(app): State<Arc<App>>) -> Answered {
    let root = super::trust::published(&app).await?.trusted_root;
    let chains = root.certificate_authorities.iter().map(|authority| {
        let chain = authority.chain.iter().map(|c| pem::encode(c.der(), pem::CERTIFICATE)).collect::<Vec<_>>();
        json!({ "certificates": chain })
    });
    Ok(cached(json(&json!({ "chains": chains.collect::<Vec<_>>() }))?))
}

/// The certificates of the timestamp authority that stamps now, leaf first.
async fn stamp_chain(State(app): State<Arc<App>>) -> Answered {
    let root = super::trust::published(&app).await?.trusted_root;
    // Outside authorities may be listed beside the node's own.
    let issuer = super::trust::custody(&app)?.issuer();
    let is_ours = |authority: &&AuthorityInstance| authority.uri == issuer && authority.window.end.is_none();
    let current = root.timestamp_authorities.iter().rev().find(is_ours);
    let chain = current.map(|authority| authority.chain.as_slice()).unwrap_or_default();
    let text: String = chain.iter().map(|c| pem::encode(c.der(), pem::CERTIFICATE)).collect();
    Ok(cached(([(CONTENT_TYPE, "application/pem-certificate-chain")], text).into_response()))
}

fn cached(mut response: Response) -> Response {
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static(CACHED));
    response
}
