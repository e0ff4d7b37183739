//! Using tools: the catalog, `invoke` and `confirm`, in the shapes that the clients of the earlier systems know.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use bytes::Bytes;
use countersign_domain::{Obligations, Refusal, RefusalKind, ToolRef};
use countersign_gate::api::{CallOutcome, CallRequest, PendingCall, Redeem};
use countersign_gate::upstream::Mute;
use http::header::LOCATION;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use uuid::Uuid;

use super::problem::Refused;
use super::request::{Caller, idempotency_key, read_body, request_timeout};
use super::{Answered, json};
use crate::app::App;
use crate::rawjson;

const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

pub(super) async fn catalog(State(app): State<Arc<App>>, caller: Caller) -> Answered {
    let tools = app.gate.tools(&caller.principal);
    let entries = tools.iter().map(|tool| {
        let of = |name: &str| tool.definition.get(name).cloned();
        let mut entry = json!({
            "name": tool.tool.to_string(),
            "mcp_name": tool.mcp_name,
            "title": of("title"),
            "description": of("description"),
            "effect": tool.effect.as_str(),
            "input_schema": of("inputSchema"),
            "pin": tool.pin.to_string(),
        });
        if let (Some(schema), Some(entry)) = (of("outputSchema"), entry.as_object_mut()) {
            entry.insert("output_schema".to_owned(), schema);
        }
        entry
    });
    json(&Value::Array(entries.collect()))
}

pub(super) async fn invoke(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answered {
    let tool = tool_named(&name)?;
    let said = idempotency_key(&headers).and_then(|key| Ok((key, request_timeout(&headers)?)));
    let read = match said {
        Ok((key, timeout)) => read_body(&app, &headers, body).await.map(|body| (key, timeout, body)),
        Err(refusal) => Err(refusal),
    };
    let (idempotency_key, timeout, body) = match read {
        Ok(read) => read,
        Err(refusal) => return Err(unread(&app, &caller, &tool, refusal).await),
    };
    let arguments = if body.is_empty() { b"{}".to_vec() } else { Vec::from(body) };
    let correlation = caller.correlation.to_string();
    let request = CallRequest {
        principal: caller.principal,
        tool,
        arguments,
        idempotency_key,
        correlation,
        client: Arc::new(Mute),
        timeout,
    };
    invoked(app.gate.call(request).await?)
}

pub(super) async fn confirm(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answered {
    let tool = tool_named(&name)?;
    let read = match request_timeout(&headers) {
        Ok(timeout) => read_body(&app, &headers, body)
            .await
            .and_then(|body| split_confirmation(&body))
            .map(|(token, arguments)| (token, arguments, timeout)),
        Err(refusal) => Err(refusal),
    };
    let (token, arguments, timeout) = match read {
        Ok(read) => read,
        Err(refusal) => return Err(unread(&app, &caller, &tool, refusal).await),
    };
    let what = Redeem::Token { tool, token, arguments };
    let client = Arc::new(Mute);
    invoked(app.gate.redeem_within(&caller.principal, what, &caller.correlation, client, timeout).await?)
}

/// The refusal of an authenticated caller's request that could not be read; it is an event like any other.
pub(super) async fn unread(app: &App, caller: &Caller, tool: &ToolRef, refusal: Refusal) -> Refused {
    app.gate.refuse_unread(&caller.principal, Some(tool), &caller.correlation, refusal).await.into()
}

/// `upstream:tool` of a path. What is no such name cannot be a tool's: 404, not 400, as for any tool that is not there.
pub(super) fn tool_named(name: &str) -> Result<ToolRef, Refusal> {
    name.parse().map_err(|_| Refusal::new(RefusalKind::UnknownTool, "tools are named upstream:tool; see /tool-catalog"))
}

/// The action token of a `confirm` body, and the arguments beside it: `None` if there are none.
fn split_confirmation(body: &Bytes) -> Result<(String, Option<Vec<u8>>), Refusal> {
    let malformed = |detail: &str| Refusal::new(RefusalKind::MalformedRequest, detail);
    let text = std::str::from_utf8(body).map_err(|_| malformed("the body is not UTF-8"))?;
    let members =
        rawjson::members(text).map_err(|_| malformed("the body must be a JSON object with an action_token"))?;
    let mut tokens = members.iter().filter(|(name, _)| name == "action_token");
    let (Some((_, token)), None) = (tokens.next(), tokens.next()) else {
        return Err(malformed("send the action_token of the 202 answer, once"));
    };
    let token: String =
        serde_json::from_str(token.get()).map_err(|_| malformed("the action_token must be a string"))?;
    let others: Vec<_> = members.iter().filter(|(name, _)| name != "action_token").collect();
    let arguments = (!others.is_empty()).then(|| rawjson::object(others.iter().map(|(n, v)| (n.as_ref(), v.get()))));
    Ok((token, arguments))
}

#[derive(Serialize)]
struct DoneBody<'a> {
    status: &'static str,
    result: &'a RawValue,
    receipt: Uuid,
    call: Uuid,
}

#[derive(Serialize)]
struct PendingBody<'a> {
    status: &'static str,
    action_token: &'a str,
    request_id: Uuid,
    expires_at: u64,
    owed: Owed<'a>,
    given: u32,
    confirmed: bool,
    receipt: Uuid,
}

/// What is owed, in the terms of the wire: role names instead of the policies' sets.
#[derive(Serialize)]
pub(crate) struct Owed<'a> {
    confirm: bool,
    approvals: u32,
    approver_roles: Vec<&'a str>,
    reasons: &'a [String],
}

impl<'a> From<&'a Obligations> for Owed<'a> {
    fn from(owed: &'a Obligations) -> Self {
        let mut approver_roles: Vec<&str> = owed.approver_roles.iter().flatten().map(String::as_str).collect();
        approver_roles.sort_unstable();
        approver_roles.dedup();
        Self { confirm: owed.confirm, approvals: owed.approvals, approver_roles, reasons: &owed.reasons }
    }
}

/// A call's answer, or what is owed before there is one.
pub(super) fn invoked(outcome: CallOutcome) -> Answered {
    match outcome {
        CallOutcome::Pending(pending) => pending_response(&pending),
        CallOutcome::Done(answer) => {
            let status = if answer.is_error { "tool_error" } else { "ok" };
            let body = DoneBody { status, result: &answer.result, receipt: answer.event, call: answer.call };
            let mut response = json(&body)?;
            if answer.replayed {
                response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
            }
            Ok(response)
        }
    }
}

fn pending_response(pending: &PendingCall) -> Answered {
    let mut response = json(&PendingBody {
        status: "pending",
        action_token: &pending.action_token,
        request_id: pending.request_id,
        expires_at: pending.expires_at,
        owed: Owed::from(&pending.owed),
        given: pending.given,
        confirmed: pending.confirmed,
        receipt: pending.receipt,
    })?;
    *response.status_mut() = StatusCode::ACCEPTED;
    if let Ok(location) = HeaderValue::from_str(&format!("/approvals/{}", pending.request_id)) {
        response.headers_mut().insert(LOCATION, location);
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_confirmation_is_a_token_and_maybe_the_same_arguments() {
        let split = |text: &'static str| split_confirmation(&Bytes::from_static(text.as_bytes()));
        assert_eq!(split(r#"{"action_token":"t"}"#).expect("a token"), ("t".to_owned(), None));
        let (token, arguments) =
            split(r#"{"b": 1.50, "action_token":"t", "a": {"x" : [1, 2]}}"#).expect("with arguments");
        assert_eq!(token, "t");
        assert_eq!(arguments.as_deref(), Some(br#"{"b":1.50,"a":{"x" : [1, 2]}}"#.as_slice()));
        for text in ["", "[]", "{}", r#"{"action_token":1}"#, r#"{"action_token":"a","action_token":"b"}"#] {
            assert_eq!(split(text).expect_err(text).kind, RefusalKind::MalformedRequest);
        }
    }

    #[test]
    fn names_that_are_no_tool_references_are_unknown_tools() {
        assert_eq!(tool_named("ads:createCampaign").expect("a name").tool, "createCampaign");
        for name in ["", "ads", "ads:", "ADS:x", "ads:a\nb"] {
            assert_eq!(tool_named(name).expect_err(name).kind, RefusalKind::UnknownTool);
        }
    }
}
