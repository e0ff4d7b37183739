//! Requests for approval: listed, shown, answered. A GET never answers one; links in mail and chat get prefetched.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use countersign_domain::{Refusal, RefusalKind};
use countersign_ledger::state::RequestStatus;
use http::header::LINK;
use http::{HeaderMap, HeaderValue, Uri};
use serde::Deserialize;
use uuid::Uuid;

use super::request::{Caller, parsed, parsed_value, query, value};
use super::{Answered, json};
use crate::app::App;

const DEFAULT_LIMIT: u32 = 100;
const MAX_LIMIT: u32 = 1000;
const MAX_REASON_CHARS: usize = 2000;

pub(super) async fn list(State(app): State<Arc<App>>, caller: Caller, uri: Uri) -> Answered {
    let pairs = query(&uri, &["status", "limit", "before"])?;
    let status = value(&pairs, "status").map(status_named).transpose()?;
    let limit = parsed_value(&pairs, "limit", "a number from 1 to 1000")?.unwrap_or(DEFAULT_LIMIT).clamp(1, MAX_LIMIT);
    let before = parsed_value(&pairs, "before", "a request's id")?;
    let found = app.gate.approvals(&caller.principal, status, before, limit).await?;
    let mut response = json(&found)?;
    if let (Some(last), true) = (found.last(), found.len() >= limit as usize) {
        let status = value(&pairs, "status").map(|s| format!("status={s}&")).unwrap_or_default();
        let link = format!("</approvals?{status}limit={limit}&before={}>; rel=\"next\"", last.id);
        response.headers_mut().extend(HeaderValue::try_from(link).ok().map(|link| (LINK, link)));
    }
    Ok(response)
}

pub(super) async fn show(State(app): State<Arc<App>>, caller: Caller, Path(id): Path<String>) -> Answered {
    json(&app.gate.approval(&caller.principal, request_id(&id)?).await?)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Decision {
    decision: Verdict,
    reason: Option<String>,
}

#[derive(Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Approve,
    Deny,
}

pub(super) async fn answer(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answered {
    let id = request_id(&id)?;
    let decision: Decision = super::admin::body_of(&app, &headers, body).await?;
    if decision.reason.as_ref().is_some_and(|reason| reason.chars().count() > MAX_REASON_CHARS) {
        let detail = format!("a reason has at most {MAX_REASON_CHARS} characters");
        return Err(Refusal::new(RefusalKind::TooLarge, detail).into());
    }
    let grant = decision.decision == Verdict::Approve;
    json(&app.gate.answer(&caller.principal, id, grant, decision.reason).await?)
}

fn request_id(text: &str) -> Result<Uuid, Refusal> {
    parsed("request id", text, "a UUID")
}

fn status_named(name: &str) -> Result<RequestStatus, Refusal> {
    match name {
        "pending" => Ok(RequestStatus::Pending),
        "redeemed" => Ok(RequestStatus::Redeemed),
        "denied" => Ok(RequestStatus::Denied),
        "expired" => Ok(RequestStatus::Expired),
        "revoked" => Ok(RequestStatus::Revoked),
        "withdrawn" => Ok(RequestStatus::Withdrawn),
        _ => {
            let detail = "status: expected pending, redeemed, denied, expired, revoked or withdrawn";
            Err(Refusal::new(RefusalKind::MalformedRequest, detail))
        }
    }
}
