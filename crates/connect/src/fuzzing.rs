//! Doors for the fuzz targets (`--cfg fuzzing`, see `docs/fuzzing.md`): what upstreams say, and the requests that callers' arguments
//! become. No build of the product has them. Each panics where something does not hold that others rely on.

use std::sync::Mutex;
use std::time::Instant;

use async_trait::async_trait;
use countersign_catalog::{Manifest, Transport};
use countersign_domain::{Effect, Principal, UpstreamName};
use countersign_gate::upstream::{DispatchError, Mute, ToolResult};
use futures_util::FutureExt as _;
use http::{HeaderMap, StatusCode};
use serde_json::value::RawValue;
use url::Url;
use uuid::Uuid;

use crate::link::{Facts, Link, Question};
use crate::rest::Endpoint;
use crate::rpc::{self, Answer, Incoming, Outcome};
use crate::sse::Parser;
use crate::{call, discover, headers, talk};

/// A message from an upstream: whatever it is, our answer to it is one line of JSON.
pub fn message(bytes: &[u8]) {
    match rpc::parse(bytes) {
        Ok(Incoming::Response(_, answer)) => result(answer),
        Ok(Incoming::Unrelated(error)) => drop(rpc::error_parts(error)),
        Ok(Incoming::Request(id, method, params)) => {
            drop(talk::question(&method, None, params));
            line(&rpc::refusal(id, &method));
            line(&rpc::error_response(id, 1, &method));
        }
        Ok(Incoming::Notification(method, params)) => {
            drop(talk::notice(&method, params));
            params.map(talk::subscription_of);
        }
        Err(why) => assert!(!why.is_empty()),
    }
}

fn result(answer: Answer) {
    match rpc::outcome(answer) {
        Ok(Outcome::Done(result)) => assert!(result.raw.get().starts_with('{')),
        Ok(Outcome::Input(raw)) => {
            let asked = call::ask(&raw, &Mute).now_or_never();
            // Nobody answers here, so that nothing waits; what comes back are members for the next request.
            if let Some(Ok(members)) = asked {
                let request = rpc::request(1, "tools/call", &format!("\"name\":\"x\"{members}"), None);
                line(&request);
            }
        }
        Err(_) => {}
    }
}

fn line(message: &[u8]) {
    assert!(!message.contains(&b'\n') && !message.contains(&b'\r'));
    // Raw: what is echoed may hold numbers and escapes that are JSON and yet have no value here.
    let raw: Result<&RawValue, _> = serde_json::from_slice(message);
    assert!(raw.is_ok() && message.starts_with(br#"{"jsonrpc":"2.0","#));
}

/// A stream of events: cut anywhere, it says the same, and no event is longer than the bound.
pub fn events(stream: &[u8], cut: usize) {
    const LIMIT: usize = 64;
    let mut whole = Parser::new(LIMIT);
    let expected = whole.feed(stream);
    let (mut parser, mut found) = (Parser::new(LIMIT), Ok(Vec::new()));
    for piece in stream.chunks(cut.max(1)) {
        match (parser.feed(piece), &mut found) {
            (Ok(events), Ok(found)) => found.extend(events),
            (Err(error), found) => *found = Err(error),
            (Ok(_), Err(_)) => {}
        }
        if found.is_err() {
            break;
        }
    }
    assert_eq!(found, expected);
    if let Ok(events) = found {
        assert!(events.iter().all(|event| event.len() <= LIMIT));
        assert_eq!((parser.last_id(), parser.retry()), (whole.last_id(), whole.retry()));
        let (id, again) = (parser.last_id().map(str::to_owned), parser.resumed());
        assert_eq!(again.last_id(), id.as_deref());
    }
}

/// Pages of lists, in the order in which they are given out.
struct Pages(Mutex<Vec<Box<RawValue>>>);

#[async_trait]
impl Link for Pages {
    async fn facts(&self, _: Instant) -> Result<Facts, DispatchError> {
        Ok(Facts { tools: true, prompts: true, resources: true, ..Facts::default() })
    }
    async fn ask_for(&self, _: Option<&Principal>, question: &Question<'_>) -> Result<Answer, DispatchError> {
        line(&rpc::request(1, question.method, question.members, None));
        let page = self.0.lock().ok().and_then(|mut pages| pages.pop());
        page.map(Answer::Result).ok_or(DispatchError::Timeout)
    }
    async fn subscribe(&self, _: &str, _: Instant) -> Result<Answer, DispatchError> {
        Err(DispatchError::Timeout)
    }
    fn unsubscribe(&self, _: &str) {}
    async fn close(&self) {}
}

/// Lists of tools, prompts and resources: what is found is what was sent, and marks for headers are read or refused.
pub fn lists(text: &str) {
    let pages: Vec<_> = text.lines().filter_map(|line| RawValue::from_string(line.to_owned()).ok()).collect();
    let link = Pages(Mutex::new(pages));
    let Some(Ok(found)) = discover::discover(&link, Instant::now()).now_or_never() else { return };
    let all = found.tools.iter().chain(&found.prompts).chain(&found.resources).chain(&found.resource_templates);
    for entry in all {
        assert!(text.contains(entry.get()));
        drop(headers::marked(entry.get()));
    }
}

/// The headers that go with these arguments of a tool with this definition; `None` if the definition's marks are refused.
pub fn mirrored(definition: &str, arguments: &str) -> Option<HeaderMap> {
    let marked = headers::marked(definition).ok()?;
    let mut map = HeaderMap::new();
    headers::mirror(&marked, arguments, &mut map);
    Some(map)
}

/// One tool of a REST API.
pub struct Rest(Endpoint, Url);

impl Rest {
    /// By its manifest; `None` if there is no such tool in it.
    pub fn new(manifest: &str, tool: &str) -> Option<Self> {
        let manifest = Manifest::parse(manifest, "fuzz.yaml").ok()?;
        let Transport::Rest(transport) = &manifest.transport else { return None };
        let request = manifest.tools.get(tool)?.request.as_deref()?;
        let endpoint = Endpoint::new(request, transport, &HeaderMap::new(), Effect::Read).ok()?;
        Some(Self(endpoint, transport.url.clone()))
    }

    /// The request that arguments become, if they become one: to the manifest's host, below its base.
    pub fn request(&self, arguments: &str) -> Option<(Url, HeaderMap, Vec<u8>)> {
        let raw = RawValue::from_string(arguments.to_owned()).ok()?;
        let prepared = self.0.prepare(&raw, Uuid::nil()).ok()?;
        assert_eq!(prepared.url.origin(), self.1.origin());
        assert!(prepared.url.path().starts_with(self.1.path()));
        assert!(prepared.url.fragment().is_none() && prepared.url.username().is_empty());
        Some((prepared.url, prepared.headers, prepared.body.to_vec()))
    }

    /// What a body of this media type becomes.
    pub fn response(&self, mime: &str, body: &[u8]) -> Option<ToolResult> {
        let upstream: UpstreamName = "api".parse().ok()?;
        self.0.read_body(StatusCode::OK, mime, body, serde_json::Map::new(), &upstream).ok()
    }
}
