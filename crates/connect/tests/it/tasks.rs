//! Upstreams that answer with tasks: followed for callers who don't know tasks, passed on to those who do.

use std::sync::atomic::{AtomicUsize, Ordering};

use countersign_gate::upstream::{Answers, Ask, AskError, AskKind, Exchange};
use serde_json::json;

use super::http::{Seen, Server, json_result, modern, reply};
use super::*;

const TASKS: &str = "io.modelcontextprotocol/tasks";
const ASKS: &str = r#","inputRequests":{"n":{"method":"elicitation/create","params":{"message":"?","requestedSchema":{"type":"object","properties":{}}}},"m":{"method":"sampling/createMessage","params":{}}}"#;

/// A caller who answers, or follows tasks and is shown forms.
struct Caller {
    follows: bool,
}

#[async_trait::async_trait]
impl Exchange for Caller {
    async fn ask(&self, asks: Vec<Ask>) -> Answers {
        let answer = json!({"action": "accept", "content": {"n": 1}}).to_string();
        asks.iter().map(|_| Ok(RawValue::from_string(answer.clone()).expect("JSON"))).collect()
    }
    async fn show(&self, asks: Vec<Ask>) -> Answers {
        let shown = |ask: Ask| match ask.kind {
            AskKind::ElicitForm => Ok(ask.params),
            _ => Err(AskError::Refused("no".into())),
        };
        asks.into_iter().map(shown).collect()
    }
    fn answers(&self, kind: AskKind) -> bool {
        kind == AskKind::ElicitForm || kind == AskKind::Sample
    }
    fn knows_tasks(&self) -> bool {
        self.follows
    }
}

fn task(kind: &str, status: &str, more: &str) -> String {
    format!(
        r#"{{"resultType":"{kind}","taskId":"t-1","status":"{status}","createdAt":"2026-11-21T00:00:00Z","lastUpdatedAt":"2026-11-21T00:00:00Z","ttlMs":null,"pollIntervalMs":1{more}}}"#
    )
}

fn declares(seen: &Seen) -> bool {
    let declared = &seen.json()["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"];
    declared["extensions"][TASKS].is_object()
}

/// An upstream that serves no client without tasks; `steps` are what `tasks/get` says one after another.
async fn upstream_of(steps: &'static [(&'static str, &'static str)]) -> Server {
    let step = AtomicUsize::new(0);
    modern(move |seen| match seen.rpc().as_str() {
        "tools/call" if !declares(seen) => {
            let error =
                json!({"code": -32021, "message": "m", "data": {"requiredCapabilities": {"extensions": {TASKS: {}}}}});
            let body = json!({"jsonrpc": "2.0", "id": seen.json()["id"], "error": error}).to_string();
            reply("400 Bad Request", "application/json", "", &body)
        }
        "tools/call" => json_result(seen, &task("task", "working", "")),
        "tasks/get" => {
            let (status, more) = steps[step.fetch_add(1, Ordering::SeqCst).min(steps.len() - 1)];
            json_result(seen, &task("complete", status, more))
        }
        _ => json_result(seen, r#"{"resultType":"complete"}"#),
    })
    .await
}

#[tokio::test]
async fn a_task_is_followed_to_its_end_for_who_does_not_know_tasks() {
    const DONE: &str = r#","result":{"content":[],"isError":true,"x":{"n":1.0}}"#;
    let server = upstream_of(&[("working", ""), ("input_required", ASKS), ("completed", DONE)]).await;
    let caller = Caller { follows: false };
    let result = server.upstream("").dispatch(permit("x", "{}", 20_000), &caller).await.expect("its result");
    assert_eq!((result.raw.get(), result.is_error), (r#"{"content":[],"isError":true,"x":{"n":1.0}}"#, true));
    assert_eq!(server.seen("tools/call").len(), 2, "once more, with tasks declared, after it was refused");
    let got = server.seen("tasks/get");
    assert_eq!((got[0].header("mcp-name"), got[0].header("mcp-method")), ("t-1", "tasks/get"));
    assert_eq!(got[0].json()["params"]["taskId"], "t-1");
    let updated = server.seen("tasks/update");
    assert_eq!(updated.len(), 1);
    assert_eq!(updated[0].json()["params"]["inputResponses"]["n"]["content"]["n"], 1);
}

#[tokio::test]
async fn a_task_ends_as_its_upstream_says_or_at_the_deadline() {
    const FAILED: &str = r#","error":{"code":-32050,"message":"broken"}"#;
    let server = upstream_of(&[("failed", FAILED)]).await;
    let error = call(&server.upstream(""), "x", "{}", 20_000).await.expect_err("failed");
    assert!(matches!(&error, DispatchError::Rpc { code: -32050, message, .. } if message == "broken"), "{error:?}");
    let server = upstream_of(&[("cancelled", "")]).await;
    let error = call(&server.upstream(""), "x", "{}", 20_000).await.expect_err("cancelled");
    assert!(matches!(&error, DispatchError::Rpc { code: -1, .. }), "{error:?}");
    let server = upstream_of(&[("working", "")]).await;
    let error = call(&server.upstream(""), "x", "{}", 1_500).await.expect_err("late");
    assert!(matches!(error, DispatchError::Timeout), "{error:?}");
    assert_eq!(server.seen("tasks/cancel").len(), 1, "the upstream is told");
    let server = upstream_of(&[("asleep", "")]).await;
    let error = call(&server.upstream(""), "x", "{}", 20_000).await.expect_err("no such status");
    assert!(matches!(error, DispatchError::Protocol(_)), "{error:?}");
}

#[tokio::test]
async fn who_knows_tasks_gets_the_task_and_is_shown_what_may_be_asked() {
    let server = upstream_of(&[("input_required", ASKS)]).await;
    let (upstream, caller) = (server.upstream(""), Caller { follows: true });
    let created = upstream.dispatch(permit("x", "{}", 20_000), &caller).await.expect("a task");
    assert_eq!(created.raw.get(), task("task", "working", ""));
    assert_eq!((server.seen("tools/call").len(), server.seen("tasks/get").len()), (1, 0));
    let of = r#"{"taskId":"t-1","tool":"x"}"#;
    let got = json(&upstream.dispatch(permit("tasks/get", of, 20_000), &caller).await.expect("the task").raw);
    assert_eq!(
        got["inputRequests"].as_object().map(|asks| asks.keys().collect::<Vec<_>>()),
        Some(vec![&"n".to_owned()])
    );
    let sent = &server.seen("tasks/get")[0].json()["params"];
    assert!(sent["taskId"] == "t-1" && sent["tool"].is_null(), "{sent}");
    let given = r#"{"taskId":"t-1","tool":"x","inputResponses":{"n":{"action":"accept","content":{"n":1.50}}}}"#;
    upstream.dispatch(permit("tasks/update", given, 20_000), &caller).await.expect("taken");
    assert!(server.seen("tasks/update")[0].json()["params"]["inputResponses"]["n"]["content"]["n"] == 1.5);
    upstream.dispatch(permit("tasks/cancel", of, 20_000), &caller).await.expect("acknowledged");
    assert_eq!(server.seen("tasks/cancel")[0].header("mcp-name"), "t-1");
    // Who may be shown nothing sees a task that goes on, and its person's form is dismissed.
    let got = json(&upstream.dispatch(permit("tasks/get", of, 20_000), &Mute).await.expect("the task").raw);
    assert!(got["status"] == "working" && got["inputRequests"].is_null(), "{got}");
    let dismissed = &server.seen("tasks/update")[1].json()["params"]["inputResponses"];
    assert_eq!(*dismissed, json!({"n": {"action": "cancel"}}));
}
