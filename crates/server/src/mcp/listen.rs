//! Streams that last: `subscriptions/listen` (2026-07-28) and the GET stream of sessions before it.

use std::convert::Infallible;
use std::sync::Arc;

use axum::response::Response;
use bytes::Bytes;
use countersign_domain::{Principal, UpstreamName};
use countersign_gate::api::{CallOutcome, CallRequest};
use countersign_gate::hearing::Hearing;
use countersign_gate::upstream::Mute;
use futures_util::stream;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

use super::changes::{Ear, Filter, Lists, News, Seat};
use super::era::Era;
use super::message::{self, INVALID_PARAMS, RpcError};
use super::session::Session;
use super::talk::{KEEP_ALIVE, event, event_stream};
use super::tasks::{self, Follows, Handle};
use super::wire::Abilities;
use super::{Scope, offers, result};
use crate::app::App;
use crate::rawjson::ObjectWriter;

/// Most resources that one request can ask to hear of.
const MAX_URIS: usize = 100;
/// Most tasks that one request can ask to hear of.
const MAX_TASKS: usize = 32;
const SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";

/// Who listens, and where.
#[derive(Clone)]
pub(crate) struct Listener {
    pub app: Arc<App>,
    pub principal: Arc<Principal>,
    pub scope: Scope,
    pub correlation: Arc<str>,
}

impl Listener {
    /// Subscribes to one resource: a call like any other, with its own decision and event.
    ///
    /// # Errors
    /// Why not, for the client.
    pub async fn subscribe(&self, uri: &str, era: Era) -> Result<Hearing, RpcError> {
        let (upstream, own) = offers::locate(&self.app, &self.principal, &self.scope, uri, era)?;
        let (tool, arguments) = offers::resource(upstream.clone(), &own, true);
        let hearing = self.app.gate.hear_of(upstream, own);
        let outcome = self
            .app
            .gate
            .call(CallRequest {
                principal: Arc::clone(&self.principal),
                tool,
                arguments,
                idempotency_key: None,
                correlation: self.correlation.to_string(),
                client: Arc::new(Mute),
                timeout: None,
            })
            .await;
        match outcome {
            Ok(CallOutcome::Done(answer)) => match result::upstream_error(&answer, era) {
                Some(error) => Err(error),
                None => Ok(hearing),
            },
            Ok(CallOutcome::Pending(pending)) => Err(result::pending_error(&pending)),
            Err(refusal) => Err(result::refusal_error(&refusal, &self.correlation, era)),
        }
    }

    /// `subscriptions/listen`: the acknowledgement, and then what changes.
    ///
    /// # Errors
    /// If the request is not one, or too many streams are open.
    pub async fn listen(self, id: &str, filter: Option<&str>, abilities: Abilities) -> Result<Response, RpcError> {
        let fits = |filter: &Filter| filter.uris.len() <= MAX_URIS && filter.tasks.len() <= MAX_TASKS;
        let filter = filter.and_then(Filter::of).filter(fits);
        let mut filter = filter.ok_or_else(|| {
            RpcError::new(
                INVALID_PARAMS,
                format!(
                    "subscriptions/listen needs a notifications filter of at most {MAX_URIS} resources and {MAX_TASKS} tasks"
                ),
            )
        })?;
        if !filter.tasks.is_empty() && !abilities.knows_tasks() {
            return Err(tasks::not_declared());
        }
        let seat = self.seat()?;
        // Listening starts before subscribing, so that nothing falls between.
        let ear = Ear::new(Arc::clone(&self.app), Arc::clone(&self.principal), self.scope.clone(), filter.lists);
        let mut heard = Vec::new();
        let mut uris = std::mem::take(&mut filter.uris);
        uris.dedup();
        for uri in uris {
            // What is refused is left out of the acknowledgement; its event says why.
            if let Ok(hearing) = self.subscribe(&uri, Era::Modern).await {
                filter.uris.push(uri.clone());
                heard.push((hearing, uri));
            }
        }
        let followed = self.follow(&mut filter, abilities).await?;
        let meta = Meta { subscription: id.to_owned() };
        let ack = Map::from_iter([("notifications".to_owned(), filter.acknowledged())]);
        let first = event(meta.notification("notifications/subscriptions/acknowledged", ack));
        let names = Names::Fixed(heard);
        Ok(lasting(Lasting {
            ear,
            names,
            meta: Some(meta),
            first: Some(first),
            ended: None,
            tasks: followed,
            _seat: seat,
        }))
    }

    /// Follows those of the tasks that are this caller's, each on a task of its own, which ends with the stream.
    async fn follow(
        &self,
        filter: &mut Filter,
        abilities: Abilities,
    ) -> Result<Option<mpsc::Receiver<ObjectWriter>>, RpcError> {
        let mut ids = std::mem::take(&mut filter.tasks);
        ids.dedup();
        let (sender, told) = mpsc::channel(MAX_TASKS);
        for id in ids {
            // What is left out of the acknowledgement is not there, or another's.
            let Some(Handle::Request(request)) = tasks::handle(&self.app, &self.principal, &id).await? else {
                continue;
            };
            filter.tasks.push(id.clone());
            let (listener, sender) = (self.clone(), sender.clone());
            tokio::spawn(async move {
                let Listener { app, principal, correlation, .. } = &listener;
                Follows { app, principal, correlation, abilities }.tell_the_end(&id, request, &sender).await;
            });
        }
        Ok((!filter.tasks.is_empty()).then_some(told))
    }

    /// The GET stream of a session: everything that it subscribed to, and every list.
    ///
    /// # Errors
    /// If too many streams are open.
    pub fn stream(self, session: Arc<Session>) -> Result<Response, RpcError> {
        let seat = self.seat()?;
        let lists = Lists { tools: true, prompts: true, resources: true };
        let ear = Ear::new(Arc::clone(&self.app), Arc::clone(&self.principal), self.scope.clone(), lists);
        let ended = Some(session.ended());
        let first = Some(b": listening\n\n".to_vec());
        Ok(lasting(Lasting { ear, names: Names::Session(session), meta: None, first, ended, tasks: None, _seat: seat }))
    }

    fn seat(&self) -> Result<Seat, RpcError> {
        let taken = Seat::take(&self.app, &self.principal);
        taken.ok_or_else(|| RpcError::new(message::REFUSED, "too many streams are open; close one first"))
    }
}

/// What the client calls resources.
enum Names {
    Fixed(Vec<(Hearing, String)>),
    Session(Arc<Session>),
}

impl Names {
    fn of(&self, upstream: &UpstreamName, uri: &str) -> Option<String> {
        match self {
            Self::Fixed(known) => {
                let fits = |(of, _): &&(Hearing, String)| of.upstream() == upstream && of.uri() == uri;
                known.iter().find(fits).map(|(_, name)| name.clone())
            }
            Self::Session(session) => session.hears_of(upstream, uri),
        }
    }

    fn all(&self) -> Vec<String> {
        match self {
            Self::Fixed(known) => known.iter().map(|(_, name)| name.clone()).collect(),
            Self::Session(session) => session.subscriptions(),
        }
    }
}

/// Every notification on a stream of 2026-07-28 names the request that opened it.
struct Meta {
    subscription: String,
}

impl Meta {
    fn notification(&self, method: &str, mut params: Map<String, Value>) -> Vec<u8> {
        let id: Value = serde_json::from_str(&self.subscription).unwrap_or_default();
        params.insert("_meta".to_owned(), json!({ SUBSCRIPTION: id }));
        message::notification(method, Value::Object(params).to_string().as_bytes())
    }

    fn task(&self, mut task: ObjectWriter) -> Vec<u8> {
        let id: Value = serde_json::from_str(&self.subscription).unwrap_or_default();
        task.member("_meta", json!({ SUBSCRIPTION: id }).to_string().as_bytes());
        message::notification("notifications/tasks", &task.finish())
    }

    fn end(&self) -> Vec<u8> {
        let id: Value = serde_json::from_str(&self.subscription).unwrap_or_default();
        let members = Map::from_iter([("_meta".to_owned(), json!({ SUBSCRIPTION: id }))]);
        message::response(&self.subscription, &result::of_value(members, Era::Modern))
    }
}

struct Lasting {
    ear: Ear,
    names: Names,
    meta: Option<Meta>,
    first: Option<Vec<u8>>,
    ended: Option<tokio::sync::watch::Receiver<bool>>,
    /// How tasks that are followed have ended.
    tasks: Option<mpsc::Receiver<ObjectWriter>>,
    _seat: Seat,
}

impl Lasting {
    /// The events of what was heard; the flag says whether that was all.
    async fn next(&mut self) -> (Vec<u8>, bool) {
        loop {
            let ended = self.ended.clone();
            let over = async move {
                match ended {
                    Some(mut ended) => drop(ended.wait_for(|ended| *ended).await.map(|_| ())),
                    None => std::future::pending().await,
                }
            };
            let task = async {
                match self.tasks.as_mut() {
                    Some(told) => told.recv().await,
                    None => std::future::pending().await,
                }
            };
            let news = tokio::select! {
                news = self.ear.next() => news,
                task = task => match task.zip(self.meta.as_ref()) {
                    Some((task, meta)) => return (event(meta.task(task)), false),
                    // All that were followed have ended.
                    None => { self.tasks = None; continue }
                },
                () = over => vec![News::Over],
                () = tokio::time::sleep(KEEP_ALIVE) => return (b": listening\n\n".to_vec(), false),
            };
            let is_over = news.contains(&News::Over);
            let events: Vec<u8> = news.into_iter().flat_map(|news| self.events(news)).collect();
            if is_over || !events.is_empty() {
                return (events, is_over);
            }
        }
    }

    fn events(&self, news: News) -> Vec<u8> {
        match news {
            News::List(method) => self.told(method, Map::new()),
            News::Resource(upstream, uri) => match self.names.of(&upstream, &uri) {
                Some(name) => self.told("notifications/resources/updated", updated(name)),
                None => Vec::new(),
            },
            News::Elicited(upstream, id) => match &self.names {
                Names::Session(session) if session.was_led(&upstream, &id) => {
                    let params = Map::from_iter([("elicitationId".to_owned(), Value::from(id))]);
                    self.told("notifications/elicitation/complete", params)
                }
                // 2026-07-28 has no such notification: a client that was sent to a page comes back by itself.
                Names::Session(_) | Names::Fixed(_) => Vec::new(),
            },
            // Rather once too often than never.
            News::Missed => {
                let all = self.names.all().into_iter();
                all.flat_map(|name| self.told("notifications/resources/updated", updated(name))).collect()
            }
            News::Over => self.meta.as_ref().map(|meta| event(meta.end())).unwrap_or_default(),
        }
    }

    fn told(&self, method: &str, params: Map<String, Value>) -> Vec<u8> {
        event(match &self.meta {
            Some(meta) => meta.notification(method, params),
            None if params.is_empty() => message::notification(method, b""),
            None => message::notification(method, Value::Object(params).to_string().as_bytes()),
        })
    }
}

fn updated(uri: String) -> Map<String, Value> {
    Map::from_iter([("uri".to_owned(), Value::from(uri))])
}

fn lasting(state: Lasting) -> Response {
    event_stream(stream::unfold(Some(state), |state| async move {
        let mut state = state?;
        if let Some(first) = state.first.take() {
            return Some((Ok::<_, Infallible>(Bytes::from(first)), Some(state)));
        }
        let (events, is_over) = state.next().await;
        Some((Ok(Bytes::from(events)), (!is_over).then_some(state)))
    }))
}
