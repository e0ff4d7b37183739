//! What an upstream says and asks during calls, against the conformance upstream in both eras and against servers that overdo it.

use async_trait::async_trait;
use countersign_example_conformance::{Era, serve};
use countersign_gate::upstream::{Answers, Ask, AskError, AskKind, Exchange, Notice, Told};
use serde_json::json;
use tokio::sync::Notify;

use super::http::{HANG, Server, json_result, legacy, modern, reply, result};
use super::*;

/// A caller that answers what it is asked, and remembers it.
#[derive(Default)]
struct Caller {
    refuses: bool,
    asked: std::sync::Mutex<Vec<Vec<Ask>>>,
    noticed: std::sync::Mutex<Vec<Notice>>,
    cancel: Notify,
}

impl Caller {
    /// The kinds of what was asked, one list for each time.
    fn kinds(&self) -> Vec<Vec<AskKind>> {
        self.asked.lock().expect("not poisoned").iter().map(|asks| asks.iter().map(|a| a.kind).collect()).collect()
    }

    fn keys(&self) -> Vec<Option<String>> {
        self.asked.lock().expect("not poisoned").iter().flatten().map(|ask| ask.key.clone()).collect()
    }
}

#[async_trait]
impl Exchange for Caller {
    fn notify(&self, notice: Notice) {
        self.noticed.lock().expect("not poisoned").push(notice);
    }
    async fn ask(&self, asks: Vec<Ask>) -> Answers {
        self.asked.lock().expect("not poisoned").push(asks.clone());
        let answer = |ask: &Ask| {
            if self.refuses {
                return Err(AskError::Refused("not today".into()));
            }
            let given = match ask.kind {
                AskKind::ElicitForm => {
                    json!({"action": "accept", "content": {"name": "Ada", "color": "blue", "x-new": 1.5}})
                }
                AskKind::ElicitUrl => json!({"action": "accept"}),
                AskKind::Sample => {
                    json!({"role": "assistant", "content": {"type": "text", "text": "Paris"}, "model": "m"})
                }
                AskKind::ListRoots => json!({"roots": [{"uri": "file:///r"}]}),
            };
            Ok(RawValue::from_string(given.to_string()).expect("JSON"))
        };
        asks.iter().map(answer).collect()
    }
    fn answers(&self, _: AskKind) -> bool {
        true
    }
    fn wants_progress(&self) -> bool {
        true
    }
    fn log_level(&self) -> Option<&str> {
        Some("info")
    }
    async fn cancelled(&self) {
        self.cancel.notified().await;
    }
}

/// The conformance upstream, and a connection to it. The directory holds its journal.
async fn conformance(era: Era) -> (Arc<McpUpstream>, tempfile::TempDir) {
    let directory = tempfile::tempdir().expect("a directory");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let url = format!("http://{}/mcp", listener.local_addr().expect("an address"));
    let journal = directory.path().join("journal");
    tokio::spawn(async move { serve(listener, era, &journal).await });
    (connect(&format!("{{ type: http, url: {url:?} }}"), ""), directory)
}

async fn say(
    upstream: &McpUpstream,
    caller: &Caller,
    operation: &str,
    arguments: &str,
) -> Result<ToolResult, DispatchError> {
    upstream.dispatch(permit(operation, arguments, 10_000), caller).await
}

fn text(result: &Result<ToolResult, DispatchError>) -> String {
    let result = result.as_ref().unwrap_or_else(|e| panic!("{e}"));
    json(&result.raw)["content"][0]["text"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn everything_is_discovered_and_answered_in_both_eras() {
    for era in [Era::Modern, Era::Legacy] {
        let (upstream, _directory) = conformance(era).await;
        let found = upstream.discover().await.expect("everything");
        assert_eq!((found.resources.len(), found.resource_templates.len()), (3, 1));
        assert!(found.tools.len() > 20 && found.prompts.len() > 4 && found.completions && found.subscriptions);
        let caller = Caller::default();
        let read =
            say(&upstream, &caller, "resources/read", r#"{"uri":"test://template/7/data"}"#).await.expect("read");
        assert_eq!(json(&read.raw)["contents"][0]["uri"], "test://template/7/data");
        let arguments = r#"{"arg1":"a","arg2":"b"}"#;
        let prompt = say(&upstream, &caller, "prompts/test_prompt_with_arguments", arguments).await.expect("a prompt");
        assert!(prompt.raw.get().contains("arg1='a', arg2='b'"));
        let reference = r#"{"ref":{"type":"ref/prompt","name":"p"},"argument":{"name":"arg1","value":"par"}}"#;
        let completed = say(&upstream, &caller, "completion/complete", reference).await.expect("values");
        assert_eq!(json(&completed.raw)["completion"]["values"][1], "park");
        let missing = say(&upstream, &caller, "resources/read", r#"{"uri":"test://no"}"#).await.expect_err("none");
        assert!(matches!(&missing, DispatchError::Rpc { code: -32602, raw, .. } if raw.get().contains("test://no")));
        let mirrored = say(&upstream, &caller, "test_header_mirroring", r#"{"region":"東京","note":"x"}"#).await;
        assert_eq!(text(&mirrored), "東京", "{era:?}");
        upstream.shutdown().await;
    }
}

#[tokio::test]
async fn questions_are_relayed_and_answered_within_the_call_in_both_eras() {
    for era in [Era::Modern, Era::Legacy] {
        let (upstream, _directory) = conformance(era).await;
        let caller = Caller::default();
        let multi = say(&upstream, &caller, "test_input_required_result_multi_round", "{}").await;
        assert_eq!(text(&multi), r#""Ada" likes "blue""#);
        assert_eq!(caller.kinds(), [[AskKind::ElicitForm], [AskKind::ElicitForm]]);
        let caller = Caller::default();
        let three = say(&upstream, &caller, "test_input_required_result_multiple_inputs", "{}").await;
        assert!(text(&three).contains("Paris") && text(&three).contains("file:///r"), "{era:?}");
        let mut kinds = caller.kinds().concat();
        kinds.sort_by_key(|kind| format!("{kind:?}"));
        assert_eq!(kinds, [AskKind::ElicitForm, AskKind::ListRoots, AskKind::Sample]);
        if era == Era::Modern {
            assert_eq!(caller.kinds().len(), 1, "asked at one time");
            assert!(caller.keys().contains(&Some("user_name".to_owned())), "under the upstream's own names");
        }
        let caller = Caller::default();
        let prompt =
            say(&upstream, &caller, "prompts/test_input_required_result_prompt", "{}").await.expect("a prompt");
        assert!(prompt.raw.get().contains("messages") && caller.kinds().len() == 1);
        upstream.shutdown().await;
    }
}

#[tokio::test]
async fn what_is_refused_reaches_the_upstream_as_its_era_says_it() {
    let caller = || Caller { refuses: true, ..Caller::default() };
    let (upstream, _directory) = conformance(Era::Legacy).await;
    let refused = say(&upstream, &caller(), "test_elicitation", r#"{"message":"?"}"#).await.expect_err("refused");
    assert!(matches!(&refused, DispatchError::Rpc { message, .. } if message.contains("not today")), "{refused:?}");
    let (upstream, _directory) = conformance(Era::Modern).await;
    let cancelled = say(&upstream, &caller(), "test_elicitation", r#"{"message":"?"}"#).await;
    assert!(text(&cancelled).contains("cancel"), "a person's form is dismissed");
    let sampling = say(&upstream, &caller(), "test_sampling", r#"{"prompt":"?"}"#).await.expect_err("refused");
    assert!(
        matches!(&sampling, DispatchError::Rpc { code: -1, message, .. } if message.contains("sampling/createMessage"))
    );
    // Nothing is declared for a caller that answers nothing.
    let mute =
        upstream.dispatch(permit("test_sampling", r#"{"prompt":"?"}"#, 5_000), &Mute).await.expect_err("needs more");
    assert!(matches!(&mute, DispatchError::Rpc { code: -32021, .. }), "{mute:?}");
}

#[tokio::test]
async fn progress_and_logs_come_through_in_both_eras() {
    for era in [Era::Modern, Era::Legacy] {
        let (upstream, _directory) = conformance(era).await;
        let caller = Caller::default();
        say(&upstream, &caller, "test_tool_with_progress", "{}").await.expect("a result");
        say(&upstream, &caller, "test_tool_with_logging", "{}").await.expect("a result");
        let noticed = caller.noticed.lock().expect("not poisoned");
        let progress = noticed.iter().filter(|n| matches!(n, Notice::Progress(_))).count();
        assert_eq!((progress, noticed.len() - progress), (3, 3), "{era:?}");
    }
}

#[tokio::test]
async fn changes_are_told_in_both_eras() {
    for era in [Era::Modern, Era::Legacy] {
        let (upstream, _directory) = conformance(era).await;
        let caller = Caller::default();
        upstream.discover().await.expect("everything");
        let (mut updates, mut changes) = (upstream.updates(), upstream.changes());
        let watched = r#"{"uri":"test://watched-resource"}"#;
        say(&upstream, &caller, "resources/subscribe", watched).await.expect("subscribed");
        // A GET stream of the session era has no moment at which it is known to be open.
        let told = tokio::time::timeout(Duration::from_secs(10), async {
            loop {
                say(&upstream, &caller, "test_trigger_resource_change", "{}").await.expect("changed");
                if let Ok(Ok(uri)) = tokio::time::timeout(Duration::from_millis(200), updates.recv()).await {
                    return uri;
                }
            }
        });
        assert_eq!(told.await.expect("in time"), Told::Resource("test://watched-resource".into()), "{era:?}");
        say(&upstream, &caller, "test_trigger_prompt_change", "{}").await.expect("changed");
        let changed = tokio::time::timeout(Duration::from_secs(10), changes.changed()).await;
        changed.expect("in time").expect("told");
        upstream.unwatch("test://watched-resource");
        let quiet = tokio::time::timeout(Duration::from_secs(10), async {
            loop {
                while updates.try_recv().is_ok() {}
                say(&upstream, &caller, "test_trigger_resource_change", "{}").await.expect("changed");
                if tokio::time::timeout(Duration::from_millis(500), updates.recv()).await.is_err() {
                    return;
                }
            }
        });
        quiet.await.unwrap_or_else(|_| panic!("{era:?}: it tells of what nobody watches"));
        upstream.shutdown().await;
    }
}

#[tokio::test]
async fn a_cancelled_call_ends_at_once_and_the_upstream_is_told() {
    let server = legacy(|_| Some(HANG.into())).await;
    let upstream = server.upstream("");
    let caller = Caller::default();
    let begun = async {
        eventually("the call is sent", || server.seen("tools/call").len() == 1).await;
        caller.cancel.notify_one();
    };
    let (result, ()) = tokio::join!(upstream.dispatch(permit("x", "{}", 60_000), &caller), begun);
    assert!(matches!(result, Err(DispatchError::Cancelled)), "{result:?}");
    eventually("the upstream is told", || server.seen("notifications/cancelled").len() == 1).await;
}

#[tokio::test]
async fn an_upstream_that_never_stops_asking_is_given_up() {
    let server = modern(|seen| {
        json_result(
            seen,
            r#"{"resultType":"input_required","inputRequests":{"a":{"method":"roots/list"}},"requestState":"s"}"#,
        )
    })
    .await;
    let error = say(&server.upstream(""), &Caller::default(), "x", "{}").await.expect_err("given up");
    assert!(matches!(&error, DispatchError::Protocol(why) if why.contains("more than 8")), "{error:?}");
    let sent = server.seen("tools/call");
    assert_eq!(sent.len(), 9);
    let again = &sent[8].json()["params"];
    assert_eq!(
        (&again["requestState"], &again["inputResponses"]["a"]["roots"][0]["uri"]),
        (&json!("s"), &json!("file:///r"))
    );
}

#[tokio::test]
async fn a_flood_of_questions_and_notices_is_bounded() {
    let server = legacy(|seen| {
        let mut body = String::new();
        for n in 0..200 {
            body += &format!("data: {{\"jsonrpc\":\"2.0\",\"id\":\"q{n}\",\"method\":\"roots/list\"}}\n\n");
        }
        for _ in 0..20_000 {
            body += "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{}}\n\n";
        }
        reply("200 OK", "text/event-stream", "", &format!("{body}data: {}\n\n", result(seen, "{\"content\":[]}")))
    })
    .await;
    let caller = Caller::default();
    say(&server.upstream(""), &caller, "x", "{}").await.expect("a result");
    assert!(caller.kinds().len() <= 32 && caller.noticed.lock().expect("not poisoned").len() <= 10_000);
}

#[tokio::test]
async fn answers_to_questions_that_nobody_asked_and_foreign_progress_are_ignored() {
    let server = modern(|seen| {
        let stray = r#"data: {"jsonrpc":"2.0","id":424242,"result":{"content":["stray"]}}"#;
        let foreign = r#"data: {"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":424242,"progress":1}}"#;
        let asks = r#"data: {"jsonrpc":"2.0","id":"q","method":"roots/list"}"#;
        let answer = result(seen, "{\"content\":[],\"resultType\":\"complete\"}");
        reply("200 OK", "text/event-stream", "", &format!("{stray}\n\n{foreign}\n\n{asks}\n\ndata: {answer}\n\n"))
    })
    .await;
    let caller = Caller::default();
    let answered = say(&server.upstream(""), &caller, "x", "{}").await.expect("a result");
    assert!(!answered.raw.get().contains("stray"));
    assert!(caller.noticed.lock().expect("not poisoned").is_empty());
    assert!(caller.kinds().is_empty(), "a modern upstream does not ask on the stream");
}

#[tokio::test]
async fn a_slow_drip_ends_at_the_deadline() {
    let server = Server::start(|seen| match seen.rpc().as_str() {
        "server/discover" => json_result(seen, r#"{"supportedVersions":["2026-07-28"],"capabilities":{"tools":{}}}"#),
        // Longer than what follows: the rest never comes.
        _ => {
            Some("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 1000\r\n\r\n: drip\n\n".into())
        }
    })
    .await;
    let error = call(&server.upstream(""), "x", "{}", 700).await.expect_err("late");
    assert!(matches!(error, DispatchError::Timeout), "{error:?}");
}

#[tokio::test]
async fn a_stream_that_ends_early_is_gone_on_with_in_the_session_era() {
    let server = Server::start(|seen| match (seen.method.as_str(), seen.rpc().as_str()) {
        ("POST", "server/discover") => reply("400 Bad Request", "text/plain", "", ""),
        ("POST", "initialize") => json_result(seen, r#"{"protocolVersion":"2025-11-25","capabilities":{"tools":{}}}"#),
        ("POST", "tools/call") => reply("200 OK", "text/event-stream", "", "id: e7\nretry: 50\ndata:\n\n"),
        ("GET", _) if seen.header("last-event-id") == "e7" => {
            let answer = r#"{"jsonrpc":"2.0","id":3,"result":{"content":[]}}"#;
            reply("200 OK", "text/event-stream", "", &format!("id: e8\ndata: {answer}\n\n"))
        }
        _ => reply("202 Accepted", "text/plain", "", ""),
    })
    .await;
    call(&server.upstream(""), "x", "{}", 5_000).await.expect("the answer");
    assert_eq!(server.seen("tools/call").len(), 1, "never sent twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_question_on_the_shared_stream_may_come_before_anything_of_the_call_s_own_answer() {
    use std::sync::Mutex;
    use std::sync::mpsc::channel;

    let ((called, is_called), (answered, is_answered)) = (channel(), channel());
    let (is_called, is_answered) = (Mutex::new(is_called), Mutex::new(is_answered));
    let wait = |until: &Mutex<std::sync::mpsc::Receiver<()>>| {
        let until = until.lock().expect("not poisoned");
        tokio::task::block_in_place(|| until.recv_timeout(Duration::from_secs(10))).ok()
    };
    let server = Server::start(move |seen| match (seen.method.as_str(), seen.rpc().as_str()) {
        ("POST", "server/discover") => reply("400 Bad Request", "text/plain", "", ""),
        ("POST", "initialize") => {
            let text = r#"{"protocolVersion":"2025-11-25","capabilities":{"tools":{}}}"#;
            reply("200 OK", "application/json", "mcp-session-id: s\r\n", &result(seen, text))
        }
        ("GET", _) => {
            wait(&is_called)?;
            let asks = r#"data: {"jsonrpc":"2.0","id":"q","method":"roots/list"}"#;
            reply("200 OK", "text/event-stream", "", &format!("{asks}\n\n"))
        }
        // Nothing of its answer is sent before the question is answered.
        ("POST", "tools/call") => {
            called.send(()).ok()?;
            wait(&is_answered)?;
            json_result(seen, r#"{"content":[]}"#)
        }
        _ => {
            if seen.json()["id"] == "q" && seen.json()["result"].is_object() {
                answered.send(()).ok()?;
            }
            reply("202 Accepted", "text/plain", "", "")
        }
    })
    .await;
    let caller = Caller::default();
    say(&server.upstream(""), &caller, "x", "{}").await.expect("a result");
    assert_eq!(caller.kinds(), [[AskKind::ListRoots]]);
}

#[tokio::test]
async fn that_a_page_is_done_with_is_told_to_the_call_that_led_there_and_otherwise_outside_of_calls() {
    let server = legacy(|seen| {
        let asks = r#"data: {"jsonrpc":"2.0","id":"q","method":"elicitation/create","params":{"mode":"url","url":"https://x.example/","message":"go","elicitationId":"ours"}}"#;
        let over = |id: &str| {
            format!(r#"data: {{"jsonrpc":"2.0","method":"notifications/elicitation/complete","params":{{"elicitationId":"{id}"}}}}"#)
        };
        let answer = result(seen, "{\"content\":[]}");
        let body = [asks.to_owned(), over("another's"), over("ours"), over("ours"), format!("data: {answer}")].join("\n\n");
        reply("200 OK", "text/event-stream", "", &format!("{body}\n\n"))
    })
    .await;
    let upstream = server.upstream("");
    let (caller, mut updates) = (Caller::default(), upstream.updates());
    say(&upstream, &caller, "x", "{}").await.expect("a result");
    assert_eq!(caller.kinds(), [[AskKind::ElicitUrl]]);
    let noticed: Vec<String> = caller.noticed.lock().expect("not poisoned").iter().map(|n| format!("{n:?}")).collect();
    assert!(!noticed.is_empty() && noticed.iter().all(|notice| notice.contains("ours")), "{noticed:?}");
    assert!(noticed.iter().all(|notice| !notice.contains("another")), "{noticed:?}");
    assert_eq!(updates.recv().await.expect("told"), Told::Elicited("another's".into()));
}
