//! Events and receipts.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{Path, State};
use bytes::Bytes;
use countersign_domain::{Principal, Refusal, RefusalKind};
use countersign_ledger::contract::{EventQuery, EventRow};
use countersign_proof::canonical::{Limits, parse_strict};
use countersign_proof::receipt::Label;
use http::header::{CACHE_CONTROL, LINK};
use http::{HeaderMap, HeaderValue, Uri};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::request::{Caller, parsed, parsed_value, query, value};
use super::{Answered, json, json_bytes};
use crate::app::App;
use crate::mcp::talk::event_stream;
use crate::rawjson::{self, ObjectWriter};

const DEFAULT_LIMIT: u32 = 100;
const MAX_LIMIT: u32 = 1000;
const FILTERS: &[&str] = &[
    "type",
    "principal",
    "tool",
    "call",
    "workspace",
    "workspace_id",
    "artifact_id",
    "since",
    "until",
    "limit",
    "cursor",
    "order",
];
/// How often a stream looks for events where nobody says that there are some.
const LOOK: Duration = Duration::from_millis(500);
/// How long a stream says nothing.
const QUIET: Duration = Duration::from_secs(15);
/// How long a stream lasts: who goes on presents its credential again.
const LASTS: Duration = Duration::from_secs(300);
/// The most streams at a time.
static STREAMS: Semaphore = Semaphore::const_new(128);

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

/// The same events as they come (`text/event-stream`), from now on or behind the `Last-Event-ID`.
pub(super) async fn stream(State(app): State<Arc<App>>, caller: Caller, headers: HeaderMap, uri: Uri) -> Answered {
    let pairs = query(&uri, FILTERS)?;
    let mut wanted = event_query(&pairs)?;
    let (false, None) = (wanted.descending, wanted.until) else {
        return Err(Refusal::new(RefusalKind::MalformedRequest, "a stream goes on: no order, and no until").into());
    };
    if let Some(last) = headers.get("last-event-id") {
        let last = last.to_str().ok().and_then(|text| text.parse().ok());
        let wrong =
            || Refusal::new(RefusalKind::MalformedRequest, "Last-Event-ID: expected the id of an event of this stream");
        wanted.cursor = Some(last.ok_or_else(wrong)?);
    }
    let Ok(place) = STREAMS.try_acquire() else {
        return Err(Refusal::new(RefusalKind::Overloaded, "too many streams are open; try again later").into());
    };
    if wanted.cursor.is_none() && wanted.since.is_none() {
        let newest = EventQuery { descending: true, limit: 1, ..EventQuery::default() };
        let page = app.ledger.read(move |reader| reader.events(&newest)).await.map_err(super::log::away)?;
        wanted.cursor = page.rows.first().map(|(position, _)| *position);
    }
    // Who may not read is told so, instead of being given a stream that says nothing.
    app.gate.events(&caller.principal, EventQuery { limit: 1, ..wanted.clone() }).await?;
    let ends = Instant::now() + LASTS;
    let following =
        Following { app, principal: caller.principal, wanted, ends, quiet: Instant::now(), seen: None, _place: place };
    Ok(event_stream(futures_util::stream::unfold(following, Following::next)))
}

/// A stream that is being read.
struct Following {
    app: Arc<App>,
    principal: Arc<Principal>,
    wanted: EventQuery,
    ends: Instant,
    /// When it last said something.
    quiet: Instant,
    /// The head at which there was nothing more.
    seen: Option<(u32, u64)>,
    _place: SemaphorePermit<'static>,
}

impl Following {
    /// What is said next: a page of events, or a sign of life. Nothing more once the time is over or the node stops.
    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        while Instant::now() < self.ends && !self.app.is_stopping() {
            let said = self.look().await?;
            if !said.is_empty() {
                self.quiet = Instant::now();
                return Some((Ok(said.into()), self));
            }
            if self.quiet.elapsed() >= QUIET {
                self.quiet = Instant::now();
                return Some((Ok(Bytes::from_static(b": nothing new\n\n")), self));
            }
            tokio::time::sleep(LOOK).await;
        }
        None
    }

    /// The events that came since, none if nothing was written. The stream ends where its reader may not read any more.
    async fn look(&mut self) -> Option<Vec<u8>> {
        let head = self.app.ledger.head();
        let head = (head.shard, head.size);
        // Of what other nodes wrote this one hears later than it can be read.
        if self.seen == Some(head) && !self.app.ledger.is_shared() {
            return Some(Vec::new());
        }
        let page = match self.app.gate.events(&self.principal, self.wanted.clone()).await {
            Ok(page) => page,
            Err(refusal) if refusal.kind == RefusalKind::Forbidden => return None,
            Err(_) => return Some(Vec::new()),
        };
        self.seen = (!page.more).then_some(head);
        let origins = origins(&self.app).await.unwrap_or_default();
        let mut out = Vec::new();
        for (position, row) in &page.rows {
            out.extend_from_slice(format!("id: {position}\nevent: {}\ndata: ", row.kind).as_bytes());
            // An event's members are canonical JSON, which has no line breaks.
            out = write_event(out, row, origins.get(&row.shard).map_or("", String::as_str));
            out.extend_from_slice(b"\n\n");
            self.wanted.cursor = Some(*position);
        }
        Some(out)
    }
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
    // The name that FedMCP's server has for it.
    let workspace = if value(pairs, "workspace").is_some() { "workspace" } else { "workspace_id" };
    let descending = match value(pairs, "order") {
        None | Some("asc") => false,
        Some("desc") => true,
        Some(_) => return Err(Refusal::new(RefusalKind::MalformedRequest, "order: expected asc or desc")),
    };
    let limit: u32 = parsed_value(pairs, "limit", "a number from 1 to 1000")?.unwrap_or(DEFAULT_LIMIT);
    Ok(EventQuery {
        workspace: parsed_value(pairs, workspace, "a workspace's name")?,
        kind: text("type"),
        principal: text("principal"),
        tool: text("tool"),
        subject: text("artifact_id"),
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
