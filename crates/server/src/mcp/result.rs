//! Tool results on their way to a client: the upstream's raw object with our `_meta`, refusals, and calls that wait.

use countersign_domain::{Refusal, RefusalKind};
use countersign_gate::api::{Answer, PendingCall};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::era::Era;
use super::message::{INTERNAL_ERROR, INVALID_PARAMS, PENDING as PENDING_CODE, REFUSED, RESOURCE_NOT_FOUND, RpcError};
use crate::app::VERSION;
use crate::http::problem;
use crate::http::tools::Owed;
use crate::rawjson::{self, ObjectWriter};
use crate::time::rfc3339;

const OURS: &str = "dev.countersign/";
pub(super) const RECEIPT: &str = "dev.countersign/receipt";
pub(super) const CALL: &str = "dev.countersign/call";
const REPLAYED: &str = "dev.countersign/replayed";
pub(super) const PENDING: &str = "dev.countersign/pending";
const PROBLEM: &str = "dev.countersign/problem";
/// Put there by the gate, not by the upstream.
const UPSTREAM_ERROR: &str = "dev.countersign/upstream-error";
pub(super) const SERVER_INFO: &str = "io.modelcontextprotocol/serverInfo";

/// Who we are, for `initialize` and for every result of 2026-07-28.
pub(crate) fn server_info() -> Value {
    json!({ "name": "countersign", "title": "Countersign", "version": VERSION })
}

/// Makes a value of ours a result of the era.
pub(crate) fn of_value(mut members: Map<String, Value>, era: Era) -> Vec<u8> {
    if era == Era::Modern {
        members.entry("resultType").or_insert_with(|| "complete".into());
        let meta = members.entry("_meta").or_insert_with(|| Value::Object(Map::new()));
        if let Some(meta) = meta.as_object_mut() {
            meta.insert(SERVER_INFO.to_owned(), server_info());
        }
    }
    Value::Object(members).to_string().into_bytes()
}

/// The upstream's result as it sent it, with the receipt in `_meta`. An upstream cannot speak in our name: members of
/// `_meta` under our prefix are not its to set.
///
/// # Errors
/// If the recorded result is not an object, which the gate's upstreams rule out.
pub(crate) fn of_answer(answer: &Answer, era: Era, caches: bool) -> Result<Vec<u8>, RpcError> {
    let text = answer.result.get();
    let members = rawjson::members(text).map_err(|error| {
        tracing::error!(%error, call = %answer.call, "a recorded result is not an object");
        RpcError::new(INTERNAL_ERROR, "the upstream's result is not an object")
    })?;
    let mut out = ObjectWriter::new(Vec::with_capacity(text.len() + 384));
    let mut meta = None;
    let (mut typed, mut timed) = (false, false);
    for (name, value) in &members {
        match name.as_ref() {
            "_meta" => meta = Some(*value),
            // What one caller may read is not for others to be served from a cache.
            "cacheScope" if caches => {}
            // A revision's own words; older ones do not have them.
            "resultType" if era == Era::Legacy => {}
            name => {
                typed |= name == "resultType";
                timed |= name == "ttlMs";
                out.member(name, value.get().as_bytes());
            }
        }
    }
    if era == Era::Modern && !typed {
        out.plain("resultType", "complete");
    }
    if era == Era::Modern && caches {
        if !timed {
            out.member("ttlMs", b"0");
        }
        out.plain("cacheScope", "private");
    }
    let meta = merged_meta(meta, answer, era);
    out.member("_meta", &meta);
    Ok(out.finish())
}

/// An upstream's JSON-RPC error as one, for requests whose results have no place for it.
pub(crate) fn upstream_error(answer: &Answer, era: Era) -> Option<RpcError> {
    if !answer.is_error {
        return None;
    }
    let value: Value = serde_json::from_str(answer.result.get()).ok()?;
    let error = value.get("_meta")?.get(UPSTREAM_ERROR)?;
    let code = match (error["code"].as_i64().unwrap_or(INTERNAL_ERROR), era) {
        // 2026-07-28 gave "resource not found" another code, and forbids the old one.
        (RESOURCE_NOT_FOUND, Era::Modern) => INVALID_PARAMS,
        (code, _) => code,
    };
    let message = error["message"].as_str().unwrap_or("the upstream refused the request");
    let mut data = match error.get("data") {
        Some(Value::Object(data)) => data.clone(),
        Some(other) => Map::from_iter([("data".to_owned(), other.clone())]),
        None => Map::new(),
    };
    data.insert(RECEIPT.to_owned(), json!(answer.event));
    Some(RpcError::new(code, message).with(Value::Object(data)))
}

/// A refusal as a JSON-RPC error, for requests whose results have no place for it.
pub(crate) fn refusal_error(refusal: &Refusal, correlation: &str, era: Era) -> RpcError {
    let problem = Value::Object(problem::members(refusal, correlation, None));
    let code = match (refusal.kind, era) {
        (RefusalKind::UnlistedResource, Era::Legacy) => RESOURCE_NOT_FOUND,
        (
            RefusalKind::UnlistedResource
            | RefusalKind::UnknownTool
            | RefusalKind::MalformedRequest
            | RefusalKind::TooLarge
            | RefusalKind::InvalidArguments,
            _,
        ) => INVALID_PARAMS,
        (RefusalKind::Internal, _) => INTERNAL_ERROR,
        _ => REFUSED,
    };
    RpcError::new(code, format!("Refused ({}): {}", refusal.kind.slug(), refusal.detail)).with(problem)
}

/// A request that waits for people, where only tools have results that can say so.
pub(crate) fn pending_error(pending: &PendingCall) -> RpcError {
    let message = format!(
        "NOT executed; awaiting approval until {}; make the identical request again then, or call `await_approval`, or stop",
        rfc3339(pending.expires_at)
    );
    RpcError::new(PENDING_CODE, message).with(json!({ PENDING: pending_details(pending), RECEIPT: pending.receipt }))
}

pub(super) fn pending_details(pending: &PendingCall) -> Value {
    json!({
        "request_id": pending.request_id,
        "expires_at": pending.expires_at,
        "owed": Owed::from(&pending.owed),
        "given": pending.given,
        "confirmed": pending.confirmed,
        "action_token": pending.action_token,
    })
}

fn merged_meta(theirs: Option<&RawValue>, answer: &Answer, era: Era) -> Vec<u8> {
    let mut meta = ObjectWriter::new(Vec::with_capacity(256));
    let members = theirs.and_then(|raw| rawjson::members(raw.get()).ok()).unwrap_or_default();
    for (name, value) in &members {
        let reserved = name.starts_with(OURS) && name != UPSTREAM_ERROR;
        if !reserved && (name != SERVER_INFO || era == Era::Legacy) {
            meta.member(name, value.get().as_bytes());
        }
    }
    let mut buffer = Uuid::encode_buffer();
    meta.plain(RECEIPT, answer.event.hyphenated().encode_lower(&mut buffer));
    meta.plain(CALL, answer.call.hyphenated().encode_lower(&mut buffer));
    if answer.replayed {
        meta.member(REPLAYED, b"true");
    }
    if era == Era::Modern {
        meta.member(SERVER_INFO, server_info().to_string().as_bytes());
    }
    meta.finish()
}

/// A call that waits for people. An error result, so that no client and no model takes it for done.
pub(crate) fn of_pending(pending: &PendingCall, era: Era) -> Vec<u8> {
    let until = rfc3339(pending.expires_at);
    let text = format!(
        "NOT executed; awaiting approval until {until}; call `await_approval` with this id, or stop.\nid: {}\n{}",
        pending.request_id,
        owed_in_words(pending),
    );
    error_result(
        text,
        [(PENDING, pending_details(pending)), (RECEIPT, json!(pending.receipt)), (CALL, json!(pending.request_id))],
        era,
    )
}

pub(super) fn owed_in_words(pending: &PendingCall) -> String {
    let owed = &pending.owed;
    let mut parts = Vec::new();
    if owed.confirm && !pending.confirmed {
        parts.push("the person behind this agent has to confirm".to_owned());
    }
    let missing = owed.approvals.saturating_sub(pending.given);
    if missing > 0 {
        let roles: Vec<&str> = owed.approver_roles.iter().flatten().map(String::as_str).collect();
        let of = if roles.is_empty() { String::new() } else { format!(" (role {})", roles.join(" or ")) };
        parts.push(format!("{missing} more approval{} owed{of}", if missing == 1 { " is" } else { "s are" }));
    }
    parts.extend(owed.reasons.iter().cloned());
    format!("Owed: {}.", parts.join("; ").trim_end_matches('.'))
}

/// A refusal: a result that the model can read where it can do something about it, a JSON-RPC error where the request
/// itself was wrong.
///
/// # Errors
/// The JSON-RPC error.
pub(crate) fn of_refusal(refusal: &Refusal, correlation: &str, era: Era) -> Result<Vec<u8>, RpcError> {
    let problem = Value::Object(problem::members(refusal, correlation, None));
    let code = match refusal.kind {
        RefusalKind::UnknownTool | RefusalKind::MalformedRequest | RefusalKind::TooLarge => INVALID_PARAMS,
        RefusalKind::Internal => INTERNAL_ERROR,
        _ => {
            let text = format!("Refused ({}): {}", refusal.kind.slug(), refusal.detail);
            let receipt = refusal.event.map(|event| (RECEIPT, json!(event)));
            return Ok(error_result(text, [(PROBLEM, problem)].into_iter().chain(receipt), era));
        }
    };
    Err(RpcError::new(code, format!("{}: {}", refusal.kind.title(), refusal.detail)).with(problem))
}

fn error_result(text: String, meta: impl IntoIterator<Item = (&'static str, Value)>, era: Era) -> Vec<u8> {
    let meta: Map<String, Value> = meta.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let members = Map::from_iter([
        ("content".to_owned(), json!([{ "type": "text", "text": text }])),
        ("isError".to_owned(), Value::Bool(true)),
        ("_meta".to_owned(), Value::Object(meta)),
    ]);
    of_value(members, era)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(result: &str) -> Answer {
        let result = RawValue::from_string(result.to_owned()).expect("JSON");
        Answer { call: Uuid::from_u128(1), event: Uuid::from_u128(2), result, is_error: false, replayed: false }
    }

    fn json_of(bytes: &[u8]) -> Value {
        serde_json::from_slice(bytes).expect("JSON")
    }

    #[test]
    fn a_result_passes_untouched_but_for_our_meta() {
        let raw = r#"{"content":[{"type":"text","text":"1.10"}],"x-new":{"n":1.10},"_meta":{"a/b":[1],"dev.countersign/receipt":"forged"}}"#;
        let out = of_answer(&answer(raw), Era::Legacy, false).expect("an object");
        let text = String::from_utf8(out.clone()).expect("text");
        assert!(text.contains(r#""x-new":{"n":1.10}"#), "{text}");
        let meta = &json_of(&out)["_meta"];
        assert_eq!(meta["a/b"], json!([1]));
        assert_eq!(meta[RECEIPT], Uuid::from_u128(2).to_string());
        assert_eq!(meta[CALL], Uuid::from_u128(1).to_string());
        assert_eq!(text.matches(RECEIPT).count(), 1, "an upstream cannot set our members: {text}");
        assert!(json_of(&out).get("resultType").is_none());
        let modern = json_of(&of_answer(&answer(raw), Era::Modern, false).expect("an object"));
        assert_eq!(modern["resultType"], "complete");
        assert_eq!(modern["_meta"][SERVER_INFO]["name"], "countersign");
    }

    #[test]
    fn a_pending_call_cannot_be_taken_for_done() {
        let pending = PendingCall {
            request_id: Uuid::from_u128(5),
            action_token: "cst_x".into(),
            expires_at: 1_795_228_200_000,
            owed: countersign_domain::Obligations {
                approvals: 2,
                approver_roles: vec![["treasurer".to_owned()].into()],
                reasons: vec!["It costs more than 1,000.".into()],
                ..Default::default()
            },
            given: 1,
            confirmed: false,
            receipt: Uuid::from_u128(6),
        };
        let value = json_of(&of_pending(&pending, Era::Modern));
        assert_eq!(value["isError"], true);
        let text = value["content"][0]["text"].as_str().expect("text");
        assert!(text.starts_with(
            "NOT executed; awaiting approval until 2026-11-21T02:30:00Z; call `await_approval` with this id, or stop"
        ));
        assert!(
            text.contains(&Uuid::from_u128(5).to_string()) && text.contains("1 more approval is owed (role treasurer)"),
            "{text}"
        );
        assert_eq!(value["_meta"][PENDING]["action_token"], "cst_x");
        assert_eq!(value["_meta"][PENDING]["owed"]["approver_roles"], json!(["treasurer"]));
    }

    #[test]
    fn refusals_are_results_and_wrong_requests_are_errors() {
        let denied = Refusal::new(RefusalKind::PolicyDenied, "no").recorded_as(Uuid::from_u128(9));
        let value = json_of(&of_refusal(&denied, "c", Era::Legacy).expect("a result"));
        assert_eq!(value["content"][0]["text"], "Refused (policy-denied): no");
        assert_eq!(value["_meta"][PROBLEM]["status"], 403);
        assert_eq!(value["_meta"][RECEIPT], Uuid::from_u128(9).to_string());
        let unknown = of_refusal(&Refusal::new(RefusalKind::UnknownTool, "x"), "c", Era::Legacy).expect_err("an error");
        assert_eq!(unknown.code, INVALID_PARAMS);
    }
}
