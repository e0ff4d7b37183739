//! Events and receipts.

use std::collections::HashMap;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use countersign_domain::{Refusal, RefusalKind};
use countersign_ledger::contract::{EventQuery, EventRow};
use countersign_proof::canonical::{Limits, parse_strict};
use countersign_proof::receipt::Label;
use http::header::{CACHE_CONTROL, LINK};
use http::{HeaderMap, HeaderValue, Uri};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::request::{Caller, parsed, parsed_value, query, value};
use super::{Answered, json, json_bytes};
use crate::app::App;
use crate::rawjson::{self, ObjectWriter};

const DEFAULT_LIMIT: u32 = 100;
const MAX_LIMIT: u32 = 1000;
const FILTERS: &[&str] =
    &["type", "principal", "tool", "call", "workspace", "since", "until", "limit", "cursor", "order"];

pub(super) async fn events(State(app): State<Arc<App>>, caller: Caller, uri: Uri) -> Answered {
    let pairs = query(&uri, FILTERS)?;
    let page = app.gate.events(&caller.principal, event_query(&pairs)?).await?;
    let origins = origins(&app).await?;
    let mut body = vec![b'['];
    for (number, (_, row)) in page.rows.iter().enumerate() {
        if number > 0 {
            body.push(b',');
        }
        body = write_event(body, row, origins.get(&row.shard).map_or("", String::as_str));
    }
    body.push(b']');
    let mut response = json_bytes(body);
    if let (Some((position, _)), true) = (page.rows.last(), page.more) {
        response.headers_mut().extend(next_page(&pairs, *position).map(|link| (LINK, link)));
    }
    Ok(response)
}

pub(super) async fn receipt(State(app): State<Arc<App>>, caller: Caller, Path(id): Path<String>, uri: Uri) -> Answered {
    let advice =
        "the node does not keep values: POST {\"input\": …, \"output\": …} here to have yours disclosed in the receipt";
    if value(&query(&uri, &["disclose"])?, "disclose").is_some() {
        return Err(Refusal::new(RefusalKind::MalformedRequest, advice).into());
    }
    receipt_with(&app, &caller, &id, Vec::new()).await
}

/// Values that the caller has and wants to show inside the receipt; the node did not keep them.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Disclosure {
    input: Option<Box<RawValue>>,
    output: Option<Box<RawValue>>,
}

pub(super) async fn receipt_disclosing(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answered {
    let given: Disclosure = super::admin::body_of(&app, &headers, body).await?;
    let limits = Limits { max_bytes: app.config.limits.body_bytes, max_depth: app.config.limits.depth };
    let mut disclose = Vec::new();
    for (label, raw) in [(Label::Input, given.input), (Label::Output, given.output)] {
        let Some(raw) = raw else { continue };
        let value = parse_strict(raw.get().as_bytes(), &limits);
        let wrong = |error| Refusal::new(RefusalKind::MalformedRequest, format!("{}: {error}", label.as_str()));
        disclose.push((label, value.map_err(wrong)?));
    }
    receipt_with(&app, &caller, &id, disclose).await
}

async fn receipt_with(app: &App, caller: &Caller, id: &str, disclose: Vec<(Label, Value)>) -> Answered {
    let id = parsed("receipt id", id, "a UUID")?;
    let mut response = json(&app.gate.receipt(&caller.principal, id, disclose).await?)?;
    // A receipt may hold what only its owner should see.
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
    Ok(response)
}

fn event_query(pairs: &[(String, String)]) -> Result<EventQuery, Refusal> {
    let text = |name: &str| value(pairs, name).map(str::to_owned);
    let descending = match value(pairs, "order") {
        None | Some("asc") => false,
        Some("desc") => true,
        Some(_) => return Err(Refusal::new(RefusalKind::MalformedRequest, "order: expected asc or desc")),
    };
    let limit: u32 = parsed_value(pairs, "limit", "a number from 1 to 1000")?.unwrap_or(DEFAULT_LIMIT);
    Ok(EventQuery {
        workspace: parsed_value(pairs, "workspace", "a workspace's name")?,
        kind: text("type"),
        principal: text("principal"),
        tool: text("tool"),
        call: parsed_value(pairs, "call", "a UUID")?,
        since: parsed_value(pairs, "since", "milliseconds since the epoch")?,
        until: parsed_value(pairs, "until", "milliseconds since the epoch")?,
        cursor: parsed_value(pairs, "cursor", "the cursor of a Link header")?,
        descending,
        limit: limit.clamp(1, MAX_LIMIT),
    })
}

/// The event's own members, then where its receipt is and where it stands in the log. Of an erased event only the place
/// and what the log needs are left.
fn write_event(out: Vec<u8>, row: &EventRow, origin: &str) -> Vec<u8> {
    let mut writer = ObjectWriter::new(out);
    let body = row.opening.as_ref().and_then(|opening| std::str::from_utf8(&opening.event).ok());
    match body.and_then(|text| rawjson::members(text).ok()) {
        Some(members) => members.iter().for_each(|(name, value)| writer.member(name, value.get().as_bytes())),
        None => {
            writer.plain("id", &row.id.to_string());
            writer.plain("type", &row.kind);
            writer.plain("workspace", row.workspace.as_str());
            writer.member("seq", row.seq.to_string().as_bytes());
            writer.member("time", row.time.to_string().as_bytes());
            writer.member("erased", b"true");
        }
    }
    writer.plain("receipt", &row.id.to_string());
    writer.plain("commitment", &row.commitment.to_string());
    writer.member("log", serde_json::json!({ "origin": origin, "index": row.index }).to_string().as_bytes());
    writer.finish()
}

async fn origins(app: &App) -> Result<HashMap<u32, String>, Refusal> {
    let shards = app.ledger.read(|reader| reader.shards()).await.map_err(super::log::away)?;
    Ok(shards.into_iter().map(|shard| (shard.shard, shard.origin)).collect())
}

fn next_page(pairs: &[(String, String)], position: u64) -> Option<HeaderValue> {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(pairs.iter().filter(|(name, _)| name != "cursor"));
    query.append_pair("cursor", &position.to_string());
    HeaderValue::try_from(format!("</audit/events?{}>; rel=\"next\"", query.finish())).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_keeps_the_filters_and_moves_the_cursor() {
        let pairs =
            [("type", "call."), ("cursor", "5"), ("principal", "a b")].map(|(n, v)| (n.to_owned(), v.to_owned()));
        let link = next_page(&pairs, 9).expect("a header");
        assert_eq!(link, "</audit/events?type=call.&principal=a+b&cursor=9>; rel=\"next\"");
    }
}
