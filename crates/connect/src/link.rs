//! What both transports share: one way to ask, how eras are told apart, what an upstream announces and what it tells.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use countersign_domain::Principal;
use countersign_gate::upstream::{DispatchError, Exchange, Told, UpstreamStatus, elicitation_of};
use http::HeaderMap;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::{broadcast, watch};

use crate::rpc::{self, Answer, Era, HEADER_MISMATCH, LEGACY, MISSING_CAPABILITY, MODERN, UNSUPPORTED_VERSION, quote};
use crate::talk;

/// Longest message that an upstream may send, in bytes.
pub(crate) const MAX_MESSAGE: usize = 16 << 20;
/// Most resources of one upstream that are watched.
const MAX_WATCHED: usize = 1_000;
/// Resource updates that a slow reader may leave unread.
const UPDATES: usize = 1_024;

/// One request to an upstream.
pub(crate) struct Question<'a> {
    pub(crate) method: &'a str,
    /// `params.name` or `params.uri`, where the method has one: the `Mcp-Name` header.
    pub(crate) name: Option<&'a str>,
    /// The members of `params`, without `_meta`.
    pub(crate) members: &'a str,
    /// Further headers, for the modern era over HTTP.
    pub(crate) headers: HeaderMap,
    /// The caller's side.
    pub(crate) exchange: &'a dyn Exchange,
    pub(crate) deadline: Instant,
}

impl<'a> Question<'a> {
    /// The parts that all questions have; the method is to be filled in.
    pub(crate) fn plain(exchange: &'a dyn Exchange, deadline: Instant) -> Self {
        Self { method: "", name: None, members: "", headers: HeaderMap::new(), exchange, deadline }
    }

    /// Whether it is a caller's, to which the upstream may say and ask things.
    pub(crate) fn is_call(&self) -> bool {
        matches!(self.method, "tools/call" | "prompts/get" | "resources/read" | "completion/complete")
    }
}

/// What is known of an upstream once an era is agreed on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Whether it speaks the modern era.
    pub(crate) modern: bool,
    /// Whether arguments have to be mirrored into headers.
    pub(crate) mirrors: bool,
    pub(crate) tools: bool,
    pub(crate) prompts: bool,
    pub(crate) resources: bool,
    pub(crate) completions: bool,
    pub(crate) logging: bool,
    /// Whether it tells of changed resources.
    pub(crate) subscriptions: bool,
    /// Whether it tells of changed lists: tools, prompts, resources.
    pub(crate) list_changed: [bool; 3],
}

impl Facts {
    /// Whether there is anything to listen for.
    pub(crate) fn tells(&self) -> bool {
        self.subscriptions || self.list_changed.contains(&true)
    }
}

/// A connection to an upstream, made when it is needed.
#[async_trait]
pub(crate) trait Link: Send + Sync {
    /// What is known of the upstream, which is started if need be.
    async fn facts(&self, deadline: Instant) -> Result<Facts, DispatchError>;

    /// Asks and waits for the answer; what is said and asked meanwhile goes through the question's exchange. Without a caller
    /// it is the node that asks.
    async fn ask_for(&self, caller: Option<&Principal>, question: &Question<'_>) -> Result<Answer, DispatchError>;

    /// The same for whom this link is.
    async fn ask(&self, question: &Question<'_>) -> Result<Answer, DispatchError> {
        self.ask_for(None, question).await
    }

    /// Has the upstream tell of changes of this resource.
    async fn subscribe(&self, uri: &str, deadline: Instant) -> Result<Answer, DispatchError>;

    /// Tells the upstream that this resource is not watched any more, if it has been told to watch it. Never waits.
    fn unsubscribe(&self, uri: &str);

    /// Ends it, for good.
    async fn close(&self);
}

/// A link as one caller's: its questions are asked in that caller's name, where the upstream is told who calls.
pub(crate) struct OnBehalf<'a> {
    pub(crate) link: &'a dyn Link,
    pub(crate) caller: &'a Principal,
}

#[async_trait]
impl Link for OnBehalf<'_> {
    async fn facts(&self, deadline: Instant) -> Result<Facts, DispatchError> {
        self.link.facts(deadline).await
    }

    async fn ask_for(&self, caller: Option<&Principal>, question: &Question<'_>) -> Result<Answer, DispatchError> {
        self.link.ask_for(caller.or(Some(self.caller)), question).await
    }

    async fn subscribe(&self, uri: &str, deadline: Instant) -> Result<Answer, DispatchError> {
        self.link.subscribe(uri, deadline).await
    }

    fn unsubscribe(&self, uri: &str) {
        self.link.unsubscribe(uri);
    }

    async fn close(&self) {
        self.link.close().await;
    }
}

/// What others may see of a link.
#[derive(Debug)]
pub(crate) struct Board {
    status: Mutex<UpstreamStatus>,
    changes: watch::Sender<u64>,
    updates: broadcast::Sender<Told>,
    watched: Mutex<BTreeSet<String>>,
    /// Counts up when more or less is watched.
    wanted: watch::Sender<u64>,
    /// The highest count that the upstream has acknowledged (modern era).
    acknowledged: watch::Sender<u64>,
}

impl Board {
    pub(crate) fn new() -> Self {
        let status = UpstreamStatus { state: "idle".into(), protocol: None, error: None };
        Self {
            status: Mutex::new(status),
            changes: watch::Sender::new(0),
            updates: broadcast::channel(UPDATES).0,
            watched: Mutex::default(),
            wanted: watch::Sender::new(0),
            acknowledged: watch::Sender::new(0),
        }
    }

    pub(crate) fn updates(&self) -> broadcast::Receiver<Told> {
        self.updates.subscribe()
    }

    /// A notification that belongs to no call.
    pub(crate) fn told(&self, method: &str, params: Option<&RawValue>) {
        #[derive(Deserialize)]
        struct Updated {
            uri: String,
        }
        match method {
            "notifications/tools/list_changed"
            | "notifications/prompts/list_changed"
            | "notifications/resources/list_changed" => self.changed(),
            "notifications/resources/updated" => {
                if let Some(Ok(updated)) = params.map(|p| serde_json::from_str::<Updated>(p.get())) {
                    // Nobody may be listening.
                    let _ = self.updates.send(Told::Resource(updated.uri));
                }
            }
            talk::ELICITED => {
                if let Some(id) = params.and_then(elicitation_of) {
                    let _ = self.updates.send(Told::Elicited(id));
                }
            }
            _ => {}
        }
    }

    /// Watches one more resource; the answer is the count to wait for.
    pub(crate) fn watch(&self, uri: &str) -> Result<u64, DispatchError> {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        if watched.len() >= MAX_WATCHED && !watched.contains(uri) {
            return Err(DispatchError::NotSent(format!("{MAX_WATCHED} of its resources are watched already")));
        }
        if watched.insert(uri.to_owned()) {
            self.wanted.send_modify(|count| *count += 1);
        }
        Ok(*self.wanted.borrow())
    }

    /// Watches it no longer; whether it did.
    pub(crate) fn unwatch(&self, uri: &str) -> bool {
        let removed = self.watched.lock().unwrap_or_else(PoisonError::into_inner).remove(uri);
        if removed {
            self.wanted.send_modify(|count| *count += 1);
        }
        removed
    }

    /// What is watched.
    pub(crate) fn watched(&self) -> Vec<String> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    pub(crate) fn wanted(&self) -> watch::Receiver<u64> {
        self.wanted.subscribe()
    }

    /// The upstream serves all that was watched up to this count.
    pub(crate) fn acknowledge(&self, count: u64) {
        self.acknowledged.send_modify(|acknowledged| *acknowledged = count.max(*acknowledged));
    }

    /// Waits until the upstream serves what was watched up to this count.
    pub(crate) async fn acknowledged(&self, count: u64, deadline: Instant) -> Result<(), DispatchError> {
        let mut acknowledged = self.acknowledged.subscribe();
        let wait = acknowledged.wait_for(|acknowledged| *acknowledged >= count);
        match tokio::time::timeout_at(deadline.into(), wait).await {
            Ok(_) => Ok(()),
            Err(_) => Err(DispatchError::Timeout),
        }
    }

    /// The members of `subscriptions/listen`: everything that the upstream can tell.
    pub(crate) fn filter(&self, facts: &Facts) -> String {
        let [tools, prompts, resources] = facts.list_changed;
        let mut parts: Vec<String> =
            [(tools, "toolsListChanged"), (prompts, "promptsListChanged"), (resources, "resourcesListChanged")]
                .into_iter()
                .filter(|(tells, _)| *tells)
                .map(|(_, name)| format!("\"{name}\":true"))
                .collect();
        let watched = self.watched();
        if facts.subscriptions && !watched.is_empty() {
            let uris: Vec<String> = watched.iter().map(|uri| quote(uri)).collect();
            parts.push(format!("\"resourceSubscriptions\":[{}]", uris.join(",")));
        }
        format!("\"notifications\":{{{}}}", parts.join(","))
    }

    pub(crate) fn status(&self) -> UpstreamStatus {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The upstream's tools may have changed.
    pub(crate) fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    pub(crate) fn ready(&self, revision: &str) {
        self.set("ready", |status| {
            status.protocol = Some(revision.to_owned());
            status.error = None;
        });
    }

    /// In this state because of this error.
    pub(crate) fn trouble(&self, state: &str, error: &str) {
        self.set(state, |status| status.error = Some(error.to_owned()));
    }

    pub(crate) fn state(&self, state: &str) {
        self.set(state, |_| {});
    }

    fn set(&self, state: &str, change: impl FnOnce(&mut UpstreamStatus)) {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        state.clone_into(&mut status.state);
        change(&mut status);
    }
}

/// What the answer to `server/discover` says about an upstream.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Probe {
    /// It speaks our modern revision, and this is known of it.
    Modern(Facts),
    /// It refused our revision and lists it among its own: to be asked once more.
    Again,
    /// It wants a handshake.
    Legacy,
    /// It is modern, and we have no revision in common.
    Incompatible(String),
}

#[derive(Deserialize, Default)]
struct Capabilities {
    #[serde(default)]
    tools: Option<Capability>,
    #[serde(default)]
    prompts: Option<Capability>,
    #[serde(default)]
    resources: Option<Capability>,
    #[serde(default)]
    completions: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    logging: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize, Default, Clone, Copy)]
struct Capability {
    #[serde(default, rename = "listChanged")]
    list_changed: bool,
    #[serde(default)]
    subscribe: bool,
}

impl Capabilities {
    fn facts(&self, era: Era) -> Facts {
        let changes = |capability: &Option<Capability>| capability.is_some_and(|c| c.list_changed);
        Facts {
            modern: era == Era::Modern,
            mirrors: false,
            tools: self.tools.is_some(),
            prompts: self.prompts.is_some(),
            resources: self.resources.is_some(),
            completions: self.completions.is_some(),
            logging: self.logging.is_some(),
            subscriptions: self.resources.is_some_and(|r| r.subscribe),
            list_changed: [changes(&self.tools), changes(&self.prompts), changes(&self.resources)],
        }
    }
}

/// 2026-07-28, Versioning: a recognised modern answer stays modern, anything else is the handshake era.
pub(crate) fn judge_probe(answer: &Answer) -> Probe {
    #[derive(Deserialize)]
    struct Discovered {
        #[serde(rename = "supportedVersions")]
        supported: Vec<String>,
        #[serde(default)]
        capabilities: Capabilities,
    }
    #[derive(Deserialize)]
    struct Refused {
        #[serde(default)]
        data: Supported,
    }
    #[derive(Deserialize, Default)]
    struct Supported {
        #[serde(default)]
        supported: Vec<String>,
    }
    match answer {
        Answer::Result(raw) => match serde_json::from_str::<Discovered>(raw.get()) {
            Ok(found) => choose(&found.supported, found.capabilities.facts(Era::Modern)),
            Err(_) => Probe::Legacy,
        },
        Answer::Error(raw) => match rpc::error_parts(raw) {
            Some((UNSUPPORTED_VERSION, _)) => {
                let refused = serde_json::from_str::<Refused>(raw.get()).map(|r| r.data.supported);
                match choose(&refused.unwrap_or_default(), Facts::default()) {
                    Probe::Modern(_) => Probe::Again,
                    other => other,
                }
            }
            Some((HEADER_MISMATCH | MISSING_CAPABILITY, message)) => Probe::Incompatible(message),
            _ => Probe::Legacy,
        },
        Answer::TooDeep => Probe::Incompatible("its answer to server/discover is nested too deeply".to_owned()),
    }
}

fn choose(supported: &[String], facts: Facts) -> Probe {
    if supported.iter().any(|v| v == MODERN) {
        Probe::Modern(facts)
    } else if supported.iter().any(|v| LEGACY.contains(&v.as_str())) {
        Probe::Legacy
    } else {
        let list: Vec<_> = supported.iter().take(10).map(|v| rpc::shorten(v, 20)).collect();
        Probe::Incompatible(format!("it speaks only {}", list.join(", ")))
    }
}

/// The revision that a handshake agreed on, and what is known of the upstream.
pub(crate) fn judge_initialize(answer: Answer) -> Result<(&'static str, Facts), String> {
    #[derive(Deserialize)]
    struct Initialized {
        #[serde(rename = "protocolVersion")]
        version: String,
        #[serde(default)]
        capabilities: Capabilities,
    }
    let raw = rpc::result_of(answer).map_err(|e| e.to_string())?;
    let agreed: Initialized =
        serde_json::from_str(raw.get()).map_err(|e| format!("its answer to initialize cannot be read: {e}"))?;
    let known = LEGACY.iter().find(|v| **v == agreed.version);
    let revision = known
        .ok_or_else(|| format!("it wants to speak {}, which is not known here", rpc::shorten(&agreed.version, 20)))?;
    Ok((revision, agreed.capabilities.facts(Era::Legacy(revision))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).expect("JSON")
    }

    #[test]
    fn a_probe_is_judged_as_the_specification_says() {
        let ok = |text: &str| judge_probe(&Answer::Result(raw(text)));
        let error = |text: &str| judge_probe(&Answer::Error(raw(text)));
        let modern = r#"{"supportedVersions":["2026-07-28"],"capabilities":{"tools":{"listChanged":true}}}"#;
        let facts = Facts { modern: true, tools: true, list_changed: [true, false, false], ..Facts::default() };
        assert_eq!(ok(modern), Probe::Modern(facts));
        assert_eq!(ok(r#"{"supportedVersions":["2025-11-25"]}"#), Probe::Legacy);
        assert!(matches!(ok(r#"{"supportedVersions":["2031-01-01"]}"#), Probe::Incompatible(_)));
        assert_eq!(ok("{}"), Probe::Legacy);
        assert_eq!(error(r#"{"code":-32601,"message":"Method not found"}"#), Probe::Legacy);
        assert_eq!(error(r#"{"code":-32602,"message":"Invalid request parameters"}"#), Probe::Legacy);
        assert_eq!(error("7"), Probe::Legacy);
        let supported = |list: &str| error(&format!(r#"{{"code":-32022,"message":"","data":{{"supported":{list}}}}}"#));
        assert_eq!(supported(r#"["2025-06-18"]"#), Probe::Legacy);
        assert_eq!(supported(r#"["2026-07-28"]"#), Probe::Again);
        assert!(matches!(supported(r#"["2031-01-01"]"#), Probe::Incompatible(_)));
    }

    #[test]
    fn only_known_revisions_are_agreed_on() {
        let answer = |version: &str| {
            judge_initialize(Answer::Result(raw(&format!(r#"{{"protocolVersion":"{version}","capabilities":{{}}}}"#))))
        };
        assert_eq!(answer("2024-11-05"), Ok(("2024-11-05", Facts::default())));
        assert!(answer("2023-01-01").is_err());
    }

    #[tokio::test]
    async fn what_is_watched_is_bounded_asked_for_and_told() {
        let board = Board::new();
        let facts = Facts { subscriptions: true, list_changed: [true, false, true], ..Facts::default() };
        assert_eq!(board.watch("a:\"1").expect("room"), 1);
        assert_eq!(board.watch("a:\"1").expect("again"), 1);
        assert_eq!(board.watch("b:2").expect("room"), 2);
        assert!(board.unwatch("b:2") && !board.unwatch("b:2"));
        assert_eq!(*board.wanted().borrow(), 3, "the upstream is asked for less");
        let filter = r#""notifications":{"toolsListChanged":true,"resourcesListChanged":true,"resourceSubscriptions":["a:\"1"]}"#;
        assert_eq!(board.filter(&facts), filter);
        let soon = || Instant::now() + std::time::Duration::from_millis(20);
        assert!(board.acknowledged(1, soon()).await.is_err());
        board.acknowledge(3);
        assert!(board.acknowledged(1, soon()).await.is_ok());
        for n in 1..MAX_WATCHED {
            board.watch(&n.to_string()).expect("room");
        }
        assert!(matches!(board.watch("one more"), Err(DispatchError::NotSent(_))));
        let mut updates = board.updates();
        board.told("notifications/resources/updated", Some(&raw(r#"{"uri":"a:b"}"#)));
        board.told("notifications/resources/updated", Some(&raw("{}")));
        assert_eq!(updates.try_recv().expect("told"), Told::Resource("a:b".into()));
        board.told(talk::ELICITED, Some(&raw(r#"{"elicitationId":"e"}"#)));
        assert_eq!(updates.try_recv().expect("told"), Told::Elicited("e".into()));
        assert!(updates.try_recv().is_err());
        board.told("notifications/prompts/list_changed", None);
        assert_eq!(*board.changes().borrow(), 1);
    }
}
