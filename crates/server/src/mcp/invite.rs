//! Leading the person at the client to the page where an approval is decided, or an account connected (URL elicitation).
//!
//! What comes back from the client is only that somebody went there, or did not want to: it is never an approval, since the
//! agent's own client sends it. The decision is made on the page, by whoever signs in there. For the same reason an approval is
//! never asked for with a form.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use countersign_domain::{Principal, Refusal, ToolRef};
use countersign_gate::api::{CallOutcome, PendingCall};
use countersign_gate::upstream::{Answers, Ask, AskError, AskKind, Client as _, Notice};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};
use uuid::Uuid;

use super::era::Era;
use super::wire::Wire;
use crate::app::App;
use crate::http::page;
use crate::time::rfc3339;

/// Under which name the question stands among a request's inputs.
pub(crate) const KEY: &str = "approval";

/// How often it is looked whether an account is connected by now.
const LOOK: Duration = Duration::from_secs(1);

/// A question that is out, or was.
pub(crate) struct Invitation {
    asked: Option<Pin<Box<dyn Future<Output = Answers> + Send>>>,
    /// Whom to tell when it is over, and under which id.
    over: Option<(Arc<Wire>, Box<RawValue>)>,
}

impl Invitation {
    /// For a call that waits for people and a client that can lead somebody to a page.
    pub fn of(app: &App, outcome: &CallOutcome, wire: &Arc<Wire>, era: Era) -> Self {
        let none = Self { asked: None, over: None };
        let CallOutcome::Pending(pending) = outcome else { return none };
        if !wire.answers(AskKind::ElicitUrl) {
            return none;
        }
        let mut params = params(app, pending);
        let id = (era == Era::Legacy).then(|| pending.request_id.to_string());
        if let (Some(id), Some(members)) = (&id, params.as_object_mut()) {
            members.insert("elicitationId".to_owned(), Value::from(id.as_str()));
        }
        let Ok(params) = to_raw_value(&params) else { return none };
        let ask = Ask { kind: AskKind::ElicitUrl, key: Some(KEY.to_owned()), params };
        let told = id.and_then(|id| to_raw_value(&json!({ "elicitationId": id })).ok());
        let asking = Arc::clone(wire);
        Self {
            asked: Some(Box::pin(async move { asking.ask(vec![ask]).await })),
            over: told.map(|told| (Arc::clone(wire), told)),
        }
    }

    /// What the client says: whether waiting goes on. Never, if it was not asked, or has answered.
    pub async fn answered(&mut self) -> bool {
        let Some(asked) = self.asked.as_mut() else { return std::future::pending().await };
        let answer = asked.await.pop();
        self.asked = None;
        match answer {
            // A client that could not ask leaves it to others to decide.
            Some(Err(_)) | None => true,
            answer => accepted(answer),
        }
    }

    /// It is decided: a client that keeps the page open may close it.
    pub fn over(&mut self) {
        if let Some((wire, told)) = self.over.take() {
            wire.notify(Notice::Elicited(told));
        }
    }
}

/// Leads the person to the page on which the account is connected that the call was refused for, and waits until it is there,
/// as long as for an approval. What the client answers only says whether it is worth waiting.
pub(crate) async fn connected(
    app: &App,
    principal: &Principal,
    tool: &ToolRef,
    refusal: &Refusal,
    wire: &Wire,
    era: Era,
) -> bool {
    let Some(url) = refusal.extra.get("connect_url") else { return false };
    let message = format!(
        "[asked by Countersign] {} is used with an account of your own, which is not connected yet. Open the page, sign in with \
         your own token and connect it; the agent never sees it.",
        tool.upstream
    );
    let mut params = json!({ "mode": "url", "message": message, "url": url });
    let id = (era == Era::Legacy).then(|| Uuid::now_v7().to_string());
    if let Some(id) = &id {
        params["elicitationId"] = json!(id);
    }
    let Ok(params) = to_raw_value(&params) else { return false };
    let ask = Ask { kind: AskKind::ElicitUrl, key: Some("connect".to_owned()), params };
    let went = tokio::select! {
        mut answers = wire.ask(vec![ask]) => accepted(answers.pop()),
        () = tokio::time::sleep(app.config.approval_wait) => false,
        () = wire.cancelled() => false,
    };
    if !went {
        return false;
    }
    // The person may only now have begun to read.
    let until = Instant::now() + app.config.approval_wait;
    let mut stopping = app.stopping.clone();
    while Instant::now() < until {
        if app.gate.finds_its_credential(principal, tool, until).await {
            if let Some(told) = id.as_ref().and_then(|id| to_raw_value(&json!({ "elicitationId": id })).ok()) {
                wire.notify(Notice::Elicited(told));
            }
            return true;
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            _ = stopping.wait_for(|stop| *stop) => return false,
            () = wire.cancelled() => return false,
        }
    }
    false
}

/// Whether the client says that somebody went there. One that could not ask does not.
fn accepted(answer: Option<Result<Box<RawValue>, AskError>>) -> bool {
    let Some(Ok(answer)) = answer else { return false };
    let answer: Value = serde_json::from_str(answer.get()).unwrap_or_default();
    answer["action"] == "accept"
}

/// The question, without the id that one era wants.
pub(crate) fn params(app: &App, pending: &PendingCall) -> Value {
    let reasons = pending.owed.reasons.join(" ");
    let message = format!(
        "[asked by Countersign] This call has to be approved by a person before {}. {reasons} \
         Open the page and sign in with your own token to see exactly what is asked, and to decide.",
        rfc3339(pending.expires_at)
    );
    json!({ "mode": "url", "message": message.trim(), "url": page::address(app, pending.request_id) })
}
