//! What both transports share: one way to ask, how eras are told apart, and how tools are listed.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use countersign_gate::upstream::{DiscoverError, DispatchError, UpstreamStatus};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::watch;

use crate::rpc::{self, Answer, HEADER_MISMATCH, LEGACY, MISSING_CAPABILITY, MODERN, UNSUPPORTED_VERSION, quote};

/// Longest message that an upstream may send, in bytes.
pub(crate) const MAX_MESSAGE: usize = 16 << 20;
/// Most pages of one list.
const MAX_PAGES: usize = 100;
/// Most tools of one upstream.
const MAX_TOOLS: usize = 2_000;

/// A connection to an upstream, made when it is needed.
#[async_trait]
pub(crate) trait Link: Send + Sync {
    /// Asks and waits for the answer. `name` is `params.name`, where there is one; `members` are those of `params`.
    async fn ask(
        &self,
        method: &str,
        name: Option<&str>,
        members: &str,
        deadline: Instant,
    ) -> Result<Answer, DispatchError>;

    /// Ends it, for good.
    async fn close(&self);
}

/// What others may see of a link.
#[derive(Debug)]
pub(crate) struct Board {
    status: Mutex<UpstreamStatus>,
    changes: watch::Sender<u64>,
}

impl Board {
    pub(crate) fn new() -> Self {
        let status = UpstreamStatus { state: "idle".into(), protocol: None, error: None };
        Self { status: Mutex::new(status), changes: watch::Sender::new(0) }
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
    /// It speaks our modern revision; and whether it announces changed tools.
    Modern { list_changed: bool },
    /// It wants a handshake.
    Legacy,
    /// It is modern, and we have no revision in common.
    Incompatible(String),
}

#[derive(Deserialize, Default)]
struct Capabilities {
    #[serde(default)]
    tools: ToolsCapability,
}

#[derive(Deserialize, Default)]
struct ToolsCapability {
    #[serde(default, rename = "listChanged")]
    list_changed: bool,
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
            Ok(found) => choose(&found.supported, found.capabilities.tools.list_changed),
            Err(_) => Probe::Legacy,
        },
        Answer::Error(raw) => match rpc::error_parts(raw) {
            Some((UNSUPPORTED_VERSION, _)) => {
                let refused = serde_json::from_str::<Refused>(raw.get()).map(|r| r.data.supported);
                choose(&refused.unwrap_or_default(), false)
            }
            Some((HEADER_MISMATCH | MISSING_CAPABILITY, message)) => Probe::Incompatible(message),
            _ => Probe::Legacy,
        },
    }
}

fn choose(supported: &[String], list_changed: bool) -> Probe {
    if supported.iter().any(|v| v == MODERN) {
        Probe::Modern { list_changed }
    } else if supported.iter().any(|v| LEGACY.contains(&v.as_str())) {
        Probe::Legacy
    } else {
        let list: Vec<_> = supported.iter().take(10).map(|v| rpc::shorten(v, 20)).collect();
        Probe::Incompatible(format!("it speaks only {}", list.join(", ")))
    }
}

/// The revision that a handshake agreed on, and whether the upstream announces changed tools.
pub(crate) fn judge_initialize(answer: Answer) -> Result<(&'static str, bool), String> {
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
    Ok((revision, agreed.capabilities.tools.list_changed))
}

/// Every page of `tools/list`.
pub(crate) async fn list_tools(link: &dyn Link, deadline: Instant) -> Result<Vec<Box<RawValue>>, DiscoverError> {
    #[derive(Deserialize)]
    struct Page {
        tools: Vec<Box<RawValue>>,
        #[serde(default, rename = "nextCursor")]
        next: Option<String>,
    }
    let mut tools = Vec::new();
    let mut seen = HashSet::new();
    let mut members = String::new();
    for _ in 0..MAX_PAGES {
        let answer =
            link.ask("tools/list", None, &members, deadline).await.map_err(|e| DiscoverError(e.to_string()))?;
        let raw = rpc::result_of(answer).map_err(|e| DiscoverError(e.to_string()))?;
        let page: Page = serde_json::from_str(raw.get())
            .map_err(|e| DiscoverError(format!("its list of tools cannot be read: {e}")))?;
        tools.extend(page.tools);
        if tools.len() > MAX_TOOLS {
            return Err(DiscoverError(format!("it lists more than {MAX_TOOLS} tools")));
        }
        let Some(next) = page.next else { return Ok(tools) };
        members = format!("\"cursor\":{}", quote(&next));
        if !seen.insert(next) {
            return Err(DiscoverError("its list of tools goes in circles: a cursor came twice".into()));
        }
    }
    Err(DiscoverError(format!("its list of tools has more than {MAX_PAGES} pages")))
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
        assert_eq!(ok(modern), Probe::Modern { list_changed: true });
        assert_eq!(ok(r#"{"supportedVersions":["2025-11-25"]}"#), Probe::Legacy);
        assert!(matches!(ok(r#"{"supportedVersions":["2031-01-01"]}"#), Probe::Incompatible(_)));
        assert_eq!(ok("{}"), Probe::Legacy);
        assert_eq!(error(r#"{"code":-32601,"message":"Method not found"}"#), Probe::Legacy);
        assert_eq!(error(r#"{"code":-32602,"message":"Invalid request parameters"}"#), Probe::Legacy);
        assert_eq!(error("7"), Probe::Legacy);
        let supported = |list: &str| error(&format!(r#"{{"code":-32022,"message":"","data":{{"supported":{list}}}}}"#));
        assert_eq!(supported(r#"["2025-06-18"]"#), Probe::Legacy);
        assert!(matches!(supported(r#"["2031-01-01"]"#), Probe::Incompatible(_)));
    }

    #[test]
    fn only_known_revisions_are_agreed_on() {
        let answer = |version: &str| {
            judge_initialize(Answer::Result(raw(&format!(r#"{{"protocolVersion":"{version}","capabilities":{{}}}}"#))))
        };
        assert_eq!(answer("2024-11-05"), Ok(("2024-11-05", false)));
        assert!(answer("2023-01-01").is_err());
    }

    /// A cursor that never comes twice.
    fn fresh() -> String {
        static COUNT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed).to_string()
    }

    struct Pages(fn(&str) -> String);

    #[async_trait]
    impl Link for Pages {
        async fn ask(&self, _: &str, _: Option<&str>, members: &str, _: Instant) -> Result<Answer, DispatchError> {
            Ok(Answer::Result(raw(&self.0(members))))
        }
        async fn close(&self) {}
    }

    #[tokio::test]
    async fn lists_are_followed_and_bounded() {
        let list = |pages| async move {
            list_tools(&Pages(pages), Instant::now()).await.map(|tools| tools.len()).map_err(|e| e.0)
        };
        let two = |members: &str| match members {
            "" => r#"{"tools":[{"name":"a"}],"nextCursor":"2\""}"#.to_owned(),
            r#""cursor":"2\"""# => r#"{"tools":[{"name":"b"}]}"#.to_owned(),
            other => panic!("unexpected {other}"),
        };
        assert_eq!(list(two).await, Ok(2));
        let circle = list(|_| r#"{"tools":[],"nextCursor":"x"}"#.into()).await;
        assert!(circle.is_err_and(|e| e.contains("circles")));
        let endless = list(|_| format!(r#"{{"tools":[],"nextCursor":"{}"}}"#, fresh())).await;
        assert!(endless.is_err_and(|e| e.contains("100 pages")));
        let many = list(|_| format!(r#"{{"tools":[{}]}}"#, vec!["{}"; 2_001].join(","))).await;
        assert!(many.is_err_and(|e| e.contains("2000 tools")));
    }
}
