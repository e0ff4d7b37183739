//! Child processes: the sample upstream with and without its faults, and programs that are no MCP servers at all.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use countersign_example_ads::journal;
use tempfile::TempDir;

use super::*;

const CAMPAIGN: &str = "{\"name\":\"LaunchX\",\n \"budget\":1200.50,\"startDate\":\"2025-10-10\"}";

fn sample() -> PathBuf {
    let deps = std::env::current_exe().expect("this executable");
    deps.parent().and_then(Path::parent).expect("the target directory").join("examples/sample_ads")
}

/// The sample upstream with these arguments, its journal in `dir`.
fn ads(dir: &TempDir, args: &str, rest: &str) -> Arc<McpUpstream> {
    let transport = format!("{{ type: stdio, command: {:?}, args: [--data, {:?}, {args}] }}", sample(), dir.path());
    connect(&transport, rest)
}

/// A shell command before the sample upstream.
fn shell(dir: &TempDir, before: &str) -> Arc<McpUpstream> {
    let script = format!("{before}; exec {} --data {}", sample().display(), dir.path().display());
    connect(&format!("{{ type: stdio, command: sh, args: [-c, {script:?}] }}"), "")
}

fn dir() -> TempDir {
    tempfile::tempdir().expect("a directory")
}

fn executions(dir: &TempDir) -> usize {
    journal::read(dir.path()).expect("a journal").len()
}

fn is_running(pid: &str) -> bool {
    // Without a number this would be the kernel's own file, which is always there.
    if pid.parse::<u32>().is_err() {
        return false;
    }
    // A zombie is not running: its parent just hasn't looked.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.trim().is_empty() && !rest.trim().starts_with('Z'))
}

fn written(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

#[tokio::test]
async fn both_eras_are_found_out_and_calls_are_executed_once() {
    for (era, revision) in [("modern", "2026-07-28"), ("both", "2026-07-28"), ("legacy", "2025-11-25")] {
        let dir = dir();
        let upstream = ads(&dir, &format!("--era, {era}"), "");
        assert_eq!(upstream.status().state, "idle");
        assert_eq!(upstream.discover().await.expect("tools").tools.len(), 4);
        let result = call(&upstream, "createCampaign", CAMPAIGN, 10_000).await.expect("a result");
        let value = json(&result.raw);
        assert!(!result.is_error);
        assert_eq!(value["structuredContent"]["campaign"]["name"], "LaunchX");
        assert_eq!(value.get("resultType").is_some(), revision == "2026-07-28", "the result is as it was sent");
        assert_eq!(executions(&dir), 1);
        let status = upstream.status();
        assert_eq!((status.state.as_str(), status.protocol.as_deref()), ("ready", Some(revision)));
        let unknown = call(&upstream, "noSuchTool", "{}", 10_000).await.expect_err("no such tool");
        assert!(matches!(unknown, DispatchError::Rpc { code: -32602, .. }), "{unknown:?}");
        let refused = call(&upstream, "getCampaign", "{\"id\":\"cmp-9\"}", 10_000).await.expect("a result");
        assert!(refused.is_error);
        upstream.shutdown().await;
        assert!(matches!(call(&upstream, "listCampaigns", "{}", 1_000).await, Err(DispatchError::NotSent(_))));
    }
}

#[tokio::test]
async fn a_manifest_can_insist_on_a_revision() {
    let dir = dir();
    let transport = |protocol: &str, era: &str| {
        format!(
            "{{ type: stdio, command: {:?}, args: [--data, {:?}, --era, {era}], protocol: {protocol} }}",
            sample(),
            dir.path()
        )
    };
    let old = connect(&transport("2025-11-25", "both"), "");
    old.discover().await.expect("tools");
    assert_eq!(old.status().protocol.as_deref(), Some("2025-11-25"));
    old.shutdown().await;
    let new = connect(&transport("2026-07-28", "legacy"), "");
    let error = new.discover().await.expect_err("too old").to_string();
    assert!(error.contains("does not speak 2026-07-28"), "{error}");
}

#[tokio::test]
async fn a_death_in_mid_call_is_lost_and_the_next_call_starts_it_again() {
    let dir = dir();
    let upstream = ads(&dir, "--die-on, createCampaign", "");
    let changes = upstream.changes();
    let error = call(&upstream, "createCampaign", CAMPAIGN, 10_000).await.expect_err("it died");
    assert!(matches!(&error, DispatchError::Lost(why) if why.contains("exit status: 70")), "{error:?}");
    assert_eq!(executions(&dir), 1, "executed, though never answered");
    assert_eq!(upstream.status().state, "backing-off");
    let result = call(&upstream, "listCampaigns", "{}", 10_000).await.expect("a new process");
    assert_eq!(json(&result.raw)["structuredContent"]["campaigns"].as_array().map(Vec::len), Some(1));
    assert_eq!(*changes.borrow(), 1, "a new process may have other tools");
    assert_eq!(executions(&dir), 1, "nothing was sent again");
    upstream.shutdown().await;
}

#[tokio::test]
async fn a_hanging_call_times_out_at_its_deadline_and_disturbs_nobody() {
    let dir = dir();
    let upstream = ads(&dir, "--hang-on, deleteCampaign", "");
    upstream.discover().await.expect("tools");
    let start = Instant::now();
    let (hung, listed) = tokio::join!(
        call(&upstream, "deleteCampaign", "{\"id\":\"x\"}", 400),
        call(&upstream, "listCampaigns", "{}", 10_000)
    );
    assert!(matches!(hung, Err(DispatchError::Timeout)), "{hung:?}");
    assert!(listed.is_ok());
    assert!((400..2_000).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
    upstream.shutdown().await;
}

#[tokio::test]
async fn garbage_ends_the_calls_in_flight_as_protocol_errors() {
    let dir = dir();
    let upstream = ads(&dir, "--garbage-on, createCampaign", "");
    let error = call(&upstream, "createCampaign", CAMPAIGN, 10_000).await.expect_err("garbage");
    assert!(matches!(error, DispatchError::Protocol(_)), "{error:?}");
    assert_eq!(executions(&dir), 1);
    assert!(call(&upstream, "listCampaigns", "{}", 10_000).await.is_ok(), "the process is kept");
    let changes = upstream.changes();
    for _ in 0..20 {
        let _ = call(&upstream, "createCampaign", CAMPAIGN, 2_000).await;
    }
    assert_eq!(*changes.borrow(), 1, "but not for ever: it was started anew");
    upstream.shutdown().await;
}

/// Answers each call with as many levels as its tool's name says, `slow` after a while.
const DEEP: &str = r#"
while IFS= read -r line; do
  case $line in *'"id":'*) ;; *) continue;; esac
  id=$(printf %s "$line" | sed 's/.*"id":\([0-9]*\).*/\1/')
  answer() { printf '{"jsonrpc":"2.0","id":%s,"result":%s}\n' "$id" "$1"; }
  of() { head -c "$1" /dev/zero | tr '\0' "$2"; }
  case $line in
    *server/discover*)
      answer '{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"tools":{}}}';;
    *'"name":"deep'*)
      n=$(printf %s "$line" | sed 's/.*"name":"deep\([0-9]*\).*/\1/')
      answer "{\"content\":[],\"resultType\":\"complete\",\"x\":$(of $((n - 1)) '[')$(of $((n - 1)) ']')}";;
    *'"name":"slow'*) (sleep 2; answer '{"content":[],"resultType":"complete"}') & ;;
  esac
done"#;

#[tokio::test]
async fn an_answer_deeper_than_128_levels_ends_its_own_call_and_no_other() {
    let upstream = connect(&format!("{{ type: stdio, command: sh, args: [-c, {DEEP:?}] }}"), "");
    let result = call(&upstream, "deep128", "{}", 10_000).await.expect("a result");
    assert_eq!(result.raw.get(), nested(128));
    let deep = async {
        for levels in ["deep129", "deep200000"].into_iter().cycle().take(12) {
            let outcome = call(&upstream, levels, "{}", 10_000).await;
            assert!(is_too_deep(&outcome), "{levels}: {outcome:?}");
        }
    };
    let (slow, ()) = tokio::join!(call(&upstream, "slow", "{}", 20_000), deep);
    slow.expect("it was in flight meanwhile, on the same process");
    upstream.shutdown().await;
}

#[tokio::test]
async fn a_greeting_on_standard_output_is_forgiven() {
    let dir = dir();
    let upstream = shell(&dir, "echo 'Welcome to our server!'");
    assert_eq!(upstream.discover().await.expect("tools").tools.len(), 4);
    upstream.shutdown().await;
}

#[tokio::test]
async fn what_cannot_start_backs_off_and_says_why() {
    let upstream = connect("{ type: stdio, command: sh, args: [-c, 'echo no licence >&2; exit 3'] }", "");
    let first = upstream.discover().await.expect_err("it ends").to_string();
    assert!(first.contains("exit status: 3") && first.contains("no licence"), "{first}");
    assert_eq!(upstream.status().state, "failed");
    // The waits grow until a call that cannot wait that long is refused at once.
    let mut refused = String::new();
    for _ in 0..8 {
        refused = call(&upstream, "x", "{}", 3_000).await.expect_err("it never starts").to_string();
        if refused.contains("started again in") {
            break;
        }
    }
    assert!(refused.contains("started again in") && refused.contains("no licence"), "{refused}");
    let missing = connect("{ type: stdio, command: /no/such/program }", "");
    let error = call(&missing, "x", "{}", 3_000).await.expect_err("nothing to start");
    assert!(matches!(&error, DispatchError::NotSent(why) if why.contains("cannot start")), "{error:?}");
}

#[tokio::test]
async fn a_program_that_says_nothing_is_given_up() {
    let upstream = connect("{ type: stdio, command: sleep, args: ['600'] }", "start_timeout: 300ms\n");
    let error = upstream.discover().await.expect_err("it says nothing").to_string();
    assert!(error.contains("not ready after"), "{error}");
    let impatient = connect("{ type: stdio, command: sleep, args: ['600'] }", "start_timeout: 2s\n");
    let error = call(&impatient, "x", "{}", 200).await.expect_err("it says nothing");
    assert!(matches!(&error, DispatchError::NotSent(why) if why.contains("before the deadline")), "{error:?}");
}

#[tokio::test]
async fn the_whole_group_ends_with_it() {
    let dir = dir();
    let pid_file = dir.path().join("grandchild");
    let upstream = shell(&dir, &format!("sleep 600 & echo $! > {}", pid_file.display()));
    upstream.discover().await.expect("tools");
    let pid = written(&pid_file);
    assert!(is_running(&pid));
    upstream.shutdown().await;
    eventually("the grandchild is gone", || !is_running(&pid)).await;
    upstream.shutdown().await;
}

#[test]
fn dropping_everything_kills_everything() {
    let dir = dir();
    let pid_file = dir.path().join("grandchild");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let upstream = shell(&dir, &format!("trap '' TERM; sleep 600 & echo $! > {}", pid_file.display()));
    runtime.block_on(upstream.discover()).expect("tools");
    let pid = written(&pid_file);
    drop(upstream);
    drop(runtime);
    std::thread::sleep(Duration::from_millis(200));
    assert!(!is_running(&pid));
}

/// Not a test: the node in [`it_dies_with_the_node`].
#[tokio::test]
#[ignore = "started by another test"]
async fn node_that_is_going_to_be_killed() {
    let Some(file) = std::env::var_os("PID_FILE") else { return };
    let dir = dir();
    let upstream = shell(&dir, &format!("echo $$ > {}", Path::new(&file).display()));
    upstream.discover().await.expect("tools");
    tokio::time::sleep(Duration::from_secs(600)).await;
}

#[tokio::test]
async fn it_dies_with_the_node() {
    let dir = dir();
    let pid_file = dir.path().join("child");
    let mut node = std::process::Command::new(std::env::current_exe().expect("this executable"))
        .args(["--ignored", "--exact", "stdio::node_that_is_going_to_be_killed"])
        .env("PID_FILE", &pid_file)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("starts");
    eventually("the upstream runs", || is_running(&written(&pid_file))).await;
    node.kill().and_then(|()| node.wait()).expect("is killed");
    let pid = written(&pid_file);
    eventually("the upstream is gone", || !is_running(&pid)).await;
}

#[tokio::test]
async fn the_environment_is_cleared() {
    let dir = dir();
    let file = dir.path().join("environment");
    let script = format!("env > {}; exec {} --data {}", file.display(), sample().display(), dir.path().display());
    let upstream =
        connect(&format!("{{ type: stdio, command: sh, args: [-c, {script:?}], env: {{ OURS: 'a${{PATH}}' }} }}"), "");
    upstream.discover().await.expect("tools");
    let environment = written(&file);
    let path = std::env::var("PATH").expect("a PATH");
    assert!(environment.contains(&format!("OURS=a{path}")), "{environment}");
    assert!(std::env::var_os("CARGO_PKG_NAME").is_some() && !environment.contains("CARGO_"), "{environment}");
    upstream.shutdown().await;
}

#[tokio::test]
async fn changed_definitions_are_announced_in_both_eras() {
    for era in ["modern", "legacy"] {
        let dir = dir();
        let version = dir.path().join("version");
        std::fs::write(&version, "1").expect("writes");
        let upstream = ads(&dir, &format!("--era, {era}, --definition-file, {version:?}"), "");
        let before = upstream.discover().await.expect("tools").tools;
        let mut changes = upstream.changes();
        std::fs::write(&version, "2").expect("writes");
        let told = tokio::time::timeout(Duration::from_secs(10), changes.changed()).await;
        assert!(told.is_ok_and(|t| t.is_ok()), "{era}");
        let after = upstream.discover().await.expect("tools").tools;
        assert_ne!(before[2].get(), after[2].get());
        upstream.shutdown().await;
    }
}

#[tokio::test]
async fn more_calls_than_allowed_wait_within_their_deadlines() {
    let dir = dir();
    let upstream = ads(&dir, "--delay-ms, '300'", "max_concurrency: 1\n");
    upstream.discover().await.expect("tools");
    let (first, second, third) = tokio::join!(
        call(&upstream, "createCampaign", CAMPAIGN, 5_000),
        call(&upstream, "createCampaign", CAMPAIGN, 5_000),
        call(&upstream, "createCampaign", CAMPAIGN, 200)
    );
    assert!(first.is_ok() && second.is_ok());
    assert!(matches!(third, Err(DispatchError::Busy(_))), "{third:?}");
    assert_eq!(executions(&dir), 2);
    upstream.shutdown().await;
}

#[tokio::test]
async fn many_calls_at_once_each_get_their_own_answer() {
    let dir = dir();
    let upstream = ads(&dir, "--delay-ms, '20'", "");
    let calls = (0..200).map(|n| {
        let upstream = Arc::clone(&upstream);
        tokio::spawn(async move {
            let arguments = format!(r#"{{"name":"c{n}","budget":{},"startDate":"2025-01-01"}}"#, n + 1);
            let result = call(&upstream, "createCampaign", &arguments, 20_000).await.expect("a result");
            assert_eq!(json(&result.raw)["structuredContent"]["campaign"]["name"], format!("c{n}"));
        })
    });
    for task in calls.collect::<Vec<_>>() {
        task.await.expect("its own answer");
    }
    assert_eq!(executions(&dir), 200);
    upstream.shutdown().await;
}
