//! What clients hear of between their requests: changed lists, and changed resources that they asked about.
//!
//! Told is only who may see it: a list counts as changed when this caller's list differs.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use countersign_catalog::Kind;
use countersign_domain::{Principal, UpstreamName};
use countersign_gate::Updated;
use countersign_gate::upstream::Told;
use serde_json::{Map, Value, json};
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;

use super::{Scope, offers};
use crate::app::App;

/// How long a stream lasts; a client that wants more opens another, with a token that is still good.
const LIFE: Duration = Duration::from_secs(3_600);
/// Several changes of lists in one moment are one.
const SETTLE: Duration = Duration::from_millis(50);

/// Which lists a client wants to hear of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Lists {
    pub tools: bool,
    pub prompts: bool,
    pub resources: bool,
}

/// One client's ear.
pub(crate) struct Ear {
    app: Arc<App>,
    principal: Arc<Principal>,
    scope: Scope,
    lists: Lists,
    versions: watch::Receiver<u64>,
    updates: broadcast::Receiver<Updated>,
    known: [u64; 3],
    unsettled: bool,
    until: Instant,
}

/// Something to tell.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// This list has changed: the notification's method.
    List(&'static str),
    /// This resource of this upstream, by the upstream's own URI.
    Resource(UpstreamName, String),
    /// What somebody was led to a page of this upstream's for is over, by the elicitation's id.
    Elicited(UpstreamName, String),
    /// Some resources may have changed without anybody having heard which.
    Missed,
    /// There will be no more.
    Over,
}

impl Ear {
    /// Listens from now on.
    pub fn new(app: Arc<App>, principal: Arc<Principal>, scope: Scope, lists: Lists) -> Self {
        let (versions, updates) = (app.gate.registry().versions(), app.gate.updates());
        let mut ear = Self {
            app,
            principal,
            scope,
            lists,
            versions,
            updates,
            known: [0; 3],
            unsettled: false,
            until: Instant::now() + LIFE,
        };
        ear.known = ear.fingerprints();
        ear
    }

    fn fingerprints(&self) -> [u64; 3] {
        let of = |kinds: &[Kind]| {
            let mut hasher = DefaultHasher::new();
            for offer in kinds.iter().flat_map(|kind| offers::offered(&self.app, &self.principal, &self.scope, *kind)) {
                (offer.name, offer.pin.0).hash(&mut hasher);
            }
            hasher.finish()
        };
        [of(&[Kind::Tool]), of(&[Kind::Prompt]), of(&[Kind::Resource, Kind::Template])]
    }

    /// The next thing to tell.
    pub async fn next(&mut self) -> Vec<News> {
        let mut stopping = self.app.stopping.clone();
        loop {
            if self.unsettled {
                tokio::time::sleep(SETTLE).await;
                self.unsettled = false;
                self.versions.mark_unchanged();
                let news = self.changed_lists();
                if !news.is_empty() {
                    return news;
                }
            }
            tokio::select! {
                biased;
                _ = stopping.wait_for(|stop| *stop) => return vec![News::Over],
                () = tokio::time::sleep_until(self.until) => return vec![News::Over],
                updated = self.updates.recv() => match updated {
                    Ok(Updated { upstream, told }) if self.is_here(&upstream) => return vec![match told {
                        Told::Resource(uri) => News::Resource(upstream, uri),
                        Told::Elicited(id) => News::Elicited(upstream, id),
                    }],
                    Ok(_) => {}
                    Err(broadcast::error::RecvError::Lagged(_)) => return vec![News::Missed],
                    Err(broadcast::error::RecvError::Closed) => return vec![News::Over],
                },
                changed = self.versions.changed() => {
                    if changed.is_err() {
                        return vec![News::Over];
                    }
                    // Remembered, in case this future is dropped before the change has settled.
                    self.unsettled = true;
                }
            }
        }
    }

    fn is_here(&self, upstream: &UpstreamName) -> bool {
        match &self.scope {
            Scope::All => true,
            Scope::Upstream(own) => own == upstream,
        }
    }

    fn changed_lists(&mut self) -> Vec<News> {
        let now = self.fingerprints();
        let before = std::mem::replace(&mut self.known, now);
        let wanted = [
            (self.lists.tools, "notifications/tools/list_changed"),
            (self.lists.prompts, "notifications/prompts/list_changed"),
            (self.lists.resources, "notifications/resources/list_changed"),
        ];
        let changed = wanted.iter().zip(before.iter().zip(&self.known));
        changed
            .filter(|((wanted, _), (old, new))| *wanted && old != new)
            .map(|((_, method), _)| News::List(method))
            .collect()
    }
}

/// The places of open streams, so that nobody opens them without end.
#[derive(Debug, Default)]
pub(crate) struct Seats {
    taken: Mutex<HashMap<String, usize>>,
}

/// Open streams of one caller, and of a node.
const MAX_OF_CALLER: usize = 32;
const MAX_STREAMS: usize = 4_096;

/// A place that is free again when it is dropped.
pub(crate) struct Seat {
    app: Arc<App>,
    caller: String,
}

impl Seat {
    /// Takes a place; `None` if too many are taken.
    pub fn take(app: &Arc<App>, principal: &Principal) -> Option<Self> {
        let caller = principal.caller_key();
        let mut taken = app.seats.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let own = taken.get(&caller).copied().unwrap_or(0);
        if own >= MAX_OF_CALLER || taken.values().sum::<usize>() >= MAX_STREAMS {
            return None;
        }
        taken.insert(caller.clone(), own + 1);
        Some(Self { app: Arc::clone(app), caller })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.app.seats.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = taken.get_mut(&self.caller) {
            *own -= 1;
            if *own == 0 {
                taken.remove(&self.caller);
            }
        }
    }
}

/// What a client asks to hear of with `subscriptions/listen`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    pub lists: Lists,
    pub uris: Vec<String>,
    /// Tasks by their ids (the extension).
    pub tasks: Vec<String>,
}

impl Filter {
    /// Reads the filter; `None` if it is not one.
    pub fn of(raw: &str) -> Option<Self> {
        let value: Map<String, Value> = serde_json::from_str(raw).ok()?;
        let wants = |name: &str| value.get(name).and_then(Value::as_bool).unwrap_or(false);
        let texts = |name: &str| match value.get(name) {
            None | Some(Value::Null) => Some(Vec::new()),
            Some(Value::Array(texts)) => texts.iter().map(|text| text.as_str().map(str::to_owned)).collect(),
            Some(_) => None,
        };
        let (uris, tasks) = (texts("resourceSubscriptions")?, texts("taskIds")?);
        let lists = Lists {
            tools: wants("toolsListChanged"),
            prompts: wants("promptsListChanged"),
            resources: wants("resourcesListChanged"),
        };
        Some(Self { lists, uris, tasks })
    }

    /// The filter as it is honoured.
    pub fn acknowledged(&self) -> Value {
        let mut out = Map::new();
        let flags = [
            ("toolsListChanged", self.lists.tools),
            ("promptsListChanged", self.lists.prompts),
            ("resourcesListChanged", self.lists.resources),
        ];
        out.extend(flags.into_iter().filter(|(_, wanted)| *wanted).map(|(name, _)| (name.to_owned(), json!(true))));
        if !self.uris.is_empty() {
            out.insert("resourceSubscriptions".to_owned(), json!(self.uris));
        }
        if !self.tasks.is_empty() {
            out.insert("taskIds".to_owned(), json!(self.tasks));
        }
        Value::Object(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_acknowledged_as_it_was_understood() {
        let text = r#"{"toolsListChanged":true,"promptsListChanged":false,"resourceSubscriptions":["a:b"],"new":1}"#;
        let filter = Filter::of(text).expect("a filter");
        assert_eq!(filter.acknowledged(), json!({"toolsListChanged": true, "resourceSubscriptions": ["a:b"]}));
        assert_eq!(Filter::of(r#"{"resourceSubscriptions":[1]}"#), None);
        assert_eq!(Filter::of("[]"), None);
    }
}
