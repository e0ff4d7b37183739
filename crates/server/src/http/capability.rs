//! What the routes of built-in upstreams share: each request is a call of a tool through the gate, and its answer is what the tool gives.

use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use countersign_domain::{Refusal, RefusalKind, ToolRef};
use countersign_gate::api::{CallOutcome, CallRequest};
use countersign_gate::upstream::Mute;
use http::header::LINK;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::problem::Refused;
use super::request::{Caller, idempotency_key, read_body, request_timeout};
use super::tools::{invoked, unread};
use super::{Answered, json};
use crate::app::App;
use crate::capability::PROBLEM;

/// The event of the call, whose receipt can be fetched.
const RECEIPT: HeaderName = HeaderName::from_static("countersign-receipt");

/// An upstream and its tool.
pub(super) type Name<'a> = (&'a str, &'a str);
/// Name and value, as they stand in a query.
pub(super) type Pairs = Vec<(String, String)>;

/// A call whose arguments are the body.
pub(super) async fn posted(
    app: &Arc<App>,
    caller: Caller,
    name: Name<'_>,
    headers: &HeaderMap,
    body: Body,
) -> Answered {
    let mut arguments = arguments_in(app, &caller, name, headers, body).await?;
    if arguments.is_empty() {
        arguments.extend(b"{}");
    }
    called(app, caller, name, arguments, headers).await.map(|(response, _)| response)
}

/// The body as a call's arguments. What cannot be read is a call that was refused, with an event.
pub(super) async fn arguments_in(
    app: &Arc<App>,
    caller: &Caller,
    name: Name<'_>,
    headers: &HeaderMap,
    body: Body,
) -> Result<Vec<u8>, Refused> {
    match read_body(app, headers, body).await {
        Ok(body) => Ok(Vec::from(body)),
        Err(refusal) => Err(unread(app, caller, &tool(name)?, refusal).await),
    }
}

/// A call with these arguments, and what the tool gave; nothing, where people have to agree first.
pub(super) async fn asked(
    app: &Arc<App>,
    caller: Caller,
    name: Name<'_>,
    arguments: Value,
    headers: &HeaderMap,
) -> Result<(Response, Option<Value>), Refused> {
    called(app, caller, name, arguments.to_string().into_bytes(), headers).await
}

fn tool((upstream, name): Name<'_>) -> Result<ToolRef, Refusal> {
    format!("{upstream}:{name}").parse().map_err(|_| Refusal::new(RefusalKind::UnknownTool, "there is no such tool"))
}

/// Makes the call. What the tool gives is the answer's body; where people have to agree first, it is the same `202` as for any
/// tool.
pub(super) async fn called(
    app: &Arc<App>,
    caller: Caller,
    name: Name<'_>,
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
        #[serde(default, rename = "_meta")]
        meta: Map<String, Value>,
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
        let slug = result.meta.get(PROBLEM).and_then(Value::as_str);
        let known = [RefusalKind::NotFound, RefusalKind::AlreadyExists, RefusalKind::UpstreamUnavailable];
        let kind = known.into_iter().find(|kind| Some(kind.slug()) == slug).unwrap_or(RefusalKind::InvalidArguments);
        return Err(Refused(Refusal::new(kind, why).recorded_as(answer.event)));
    }
    let value = result.structured_content.unwrap_or_default();
    let mut response = json(&value)?;
    if let Ok(event) = HeaderValue::from_str(&answer.event.to_string()) {
        response.headers_mut().insert(RECEIPT, event);
    }
    Ok((response, Some(value)))
}

/// The answer in other bytes, about the same call.
pub(super) fn instead(of: &Response, mut response: Response) -> Response {
    response.headers_mut().extend(of.headers().get(RECEIPT).cloned().map(|receipt| (RECEIPT, receipt)));
    response
}

/// A query's pairs, and the same as arguments. The named ones are numbers.
pub(super) fn arguments_of(query: Option<&str>, numbers: &[&str]) -> Result<(Pairs, Value), Refused> {
    let pairs: Pairs = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()).into_owned().collect();
    let mut arguments = Map::new();
    for (name, value) in &pairs {
        let value = match numbers.contains(&name.as_str()) {
            true => value.parse::<u64>().map_or_else(|_| json!(value), Value::from),
            false => json!(value),
        };
        // Of two, the gate would see one and the caller might mean the other.
        if arguments.insert(name.clone(), value).is_some() {
            return Err(Refused(Refusal::new(RefusalKind::MalformedRequest, format!("{name} is given twice"))));
        }
    }
    Ok((pairs, Value::Object(arguments)))
}

/// The entries alone; the next page is led to by a `Link`.
pub(super) fn page_of(response: Response, found: Option<Value>, path: &str, pairs: &Pairs) -> Answered {
    let Some(found) = found else { return Ok(response) };
    let mut page = instead(&response, json(&found["entries"])?);
    if let Some(next) = found["next"].as_str().and_then(|next| next_page(path, pairs, next)) {
        page.headers_mut().insert(LINK, next);
    }
    Ok(page)
}

fn next_page(path: &str, pairs: &Pairs, cursor: &str) -> Option<HeaderValue> {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(pairs.iter().filter(|(name, _)| name != "cursor"));
    query.append_pair("cursor", cursor);
    HeaderValue::try_from(format!("<{path}?{}>; rel=\"next\"", query.finish())).ok()
}
