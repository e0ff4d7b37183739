//! `cargo xtask strace`: a system-call trace shows that no answer leaves before what it says is on the disk.
//!
//! One client makes one write after the other, so that between reading a request from the client's socket and writing the
//! answer to it everything belongs to that call. In between there must be, in this order and finished: a sync of the
//! database's log after the intent's bytes, the call to the upstream, a sync of the database's log after the outcome's
//! bytes, and a sync of the file that keeps the head outside the database.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use countersign_testkit::Home;
use countersign_testkit::node::Launch;
use serde_json::json;

use crate::{paths, setup};

const CALLS: usize = 50;
const TRACED: &str = "trace=fsync,fdatasync,write,writev,pwrite64,pwritev,sendto,sendmsg,read,readv,recvfrom,recvmsg,rename,renameat,renameat2";

/// Runs the check.
///
/// # Errors
/// If the test itself cannot be run.
pub fn run(binary: &Path) -> Result<bool> {
    setup::programs(&["strace"])?;
    let directory = paths::run_directory("strace")?;
    let trace = directory.join("trace.txt");
    let home = Home::create(&directory.join("home"), "")?;
    home.manifest("ads", &crate::crash::ads_manifest(&directory.join("upstream"))?)?;
    let mut launch = Launch::new(binary);
    let strace = setup::find("strace").context("strace is not installed")?;
    // -y names files and sockets, -s keeps enough of the bytes to tell requests and answers.
    let arguments = ["-f", "-ttt", "-T", "-yy", "-s", "160", "-e", TRACED, "-e", "signal=none", "-o"];
    launch.wrapper.push(strace.display().to_string());
    launch.wrapper.extend(arguments.map(str::to_owned));
    launch.wrapper.push(trace.display().to_string());
    let node = launch.start(&home)?;
    node.accept_all_tools(&["ads"])?;
    crate::crash::allow_writers(&home, &node)?;
    let mut http = node.client(&home.agent("writer", &["writer"]));
    for number in 0..CALLS {
        let body = json!({"name": format!("traced-{number}"), "budget": 100, "startDate": "2026-12-01"});
        http.post("/tools/ads:createCampaign/invoke", &body)?.expect(200)?;
    }
    // In order, so that the tracer ends by itself and writes out what it still holds.
    node.stop()?;
    let events = parse(&fs::read_to_string(&trace)?);
    let verdict = judge(&events)?;
    for problem in verdict.problems.iter().take(10) {
        println!("  {problem}");
    }
    println!(
        "strace: {} answers of {CALLS} writes, early {}; after the request: {:.1} syncs of the log and {:.1} of the head each",
        verdict.answers,
        verdict.problems.len(),
        verdict.log_syncs as f64 / verdict.answers.max(1) as f64,
        verdict.head_syncs as f64 / verdict.answers.max(1) as f64,
    );
    Ok(verdict.answers == CALLS && verdict.problems.is_empty())
}

/// A finished system call.
#[derive(Debug, Clone, PartialEq)]
struct Event {
    start: f64,
    end: f64,
    call: String,
    /// The arguments as strace prints them.
    arguments: String,
}

/// Reads a trace of `strace -f -ttt -T`: calls that were interrupted in print by other threads are put together.
fn parse(trace: &str) -> Vec<Event> {
    let mut unfinished: BTreeMap<&str, (f64, String)> = BTreeMap::new();
    let mut events = Vec::new();
    for line in trace.lines() {
        let Some((thread, rest)) = line.trim_start().split_once(char::is_whitespace) else { continue };
        let Some((time, text)) = rest.trim_start().split_once(' ') else { continue };
        let Ok(time) = time.parse::<f64>() else { continue };
        if let Some(begun) = text.strip_suffix("<unfinished ...>") {
            unfinished.insert(thread, (time, begun.to_owned()));
        } else if let Some(resumed) = text.strip_prefix("<... ") {
            let Some((start, begun)) = unfinished.remove(thread) else { continue };
            let rest = resumed.split_once(" resumed>").map_or("", |(_, rest)| rest);
            events.extend(event(start, Some(time), &format!("{begun}{rest}")));
        } else {
            events.extend(event(time, None, text));
        }
    }
    events.sort_by(|a, b| a.start.total_cmp(&b.start));
    events
}

/// `call(arguments) = result <seconds>`; failed calls say nothing.
fn event(start: f64, resumed: Option<f64>, text: &str) -> Option<Event> {
    let (call, rest) = text.split_once('(')?;
    let (arguments, result) = rest.rsplit_once(") = ").or_else(|| rest.rsplit_once(')'))?;
    let result = result.trim().trim_start_matches('=').trim();
    if result.starts_with('-') || result.starts_with('?') {
        return None;
    }
    let took = result.rsplit_once('<').and_then(|(_, s)| s.trim_end_matches('>').parse::<f64>().ok()).unwrap_or(0.0);
    let end = resumed.unwrap_or(start + took).max(start + took);
    Some(Event { start, end, call: call.to_owned(), arguments: arguments.to_owned() })
}

#[derive(Debug, Default)]
struct Verdict {
    answers: usize,
    log_syncs: usize,
    head_syncs: usize,
    problems: Vec<String>,
}

/// Pairs requests with their answers and looks at what lies between.
fn judge(events: &[Event]) -> Result<Verdict> {
    let mut verdict = Verdict::default();
    let requests: Vec<usize> =
        indices(events, |e| is_read(e) && e.arguments.contains("POST /tools/ads:createCampaign"));
    ensure!(!requests.is_empty(), "the trace shows no request: was the node traced?");
    for index in requests {
        let request = &events[index];
        let socket = socket_of(&request.arguments).context("a request that was not read from a socket")?;
        let answer = events[index..]
            .iter()
            .find(|e| is_write(e) && e.arguments.contains("HTTP/1.1 ") && socket_of(&e.arguments) == Some(socket));
        let Some(answer) = answer else { bail!("a request without an answer") };
        verdict.answers += 1;
        let between: Vec<&Event> =
            events.iter().filter(|e| e.start >= request.start && e.end <= answer.start).collect();
        let synced = |what: &str| between.iter().filter(|e| is_sync(e) && e.arguments.contains(what)).count();
        let (log, head) = (synced("-wal"), synced("/head"));
        verdict.log_syncs += log;
        verdict.head_syncs += head;
        verdict.problems.extend(problems(&between, answer, log, head));
    }
    Ok(verdict)
}

fn problems(between: &[&Event], answer: &Event, log: usize, head: usize) -> Vec<String> {
    let at = format!("the answer at {:.6}", answer.start);
    let mut found = Vec::new();
    if log < 2 {
        found.push(format!(
            "{at} left after {log} finished syncs of the database's log; intent and outcome need one each"
        ));
    }
    let dispatch =
        between.iter().find(|e| is_write(e) && e.arguments.contains("tools/call") && socket_of(&e.arguments).is_none());
    let syncs = || between.iter().filter(|e| is_sync(e) && e.arguments.contains("-wal"));
    match dispatch {
        None => found.push(format!("{at} came without a call to the upstream")),
        Some(call) if !syncs().any(|s| s.end <= call.start) => {
            found.push(format!("{at}: dispatched before the intent was synced"))
        }
        Some(call) if !syncs().any(|s| s.start >= call.end) => {
            found.push(format!("{at} left before the outcome was synced"))
        }
        Some(_) => {}
    }
    if head < 1 {
        found.push(format!("{at} left before the head file was synced"));
    }
    // Nothing may be written to the database's log after its last sync, or that sync did not cover it.
    let last_sync =
        between.iter().filter(|e| is_sync(e) && e.arguments.contains("-wal")).map(|e| e.start).fold(0.0, f64::max);
    let late = between.iter().any(|e| is_write(e) && e.arguments.contains("-wal") && e.start > last_sync);
    if late {
        found.push(format!("{at} left after bytes of the database's log that no sync covered"));
    }
    found
}

fn indices(events: &[Event], is: impl Fn(&Event) -> bool) -> Vec<usize> {
    events.iter().enumerate().filter(|(_, e)| is(e)).map(|(i, _)| i).collect()
}

fn is_read(event: &Event) -> bool {
    matches!(event.call.as_str(), "read" | "readv" | "recvfrom" | "recvmsg")
}

fn is_write(event: &Event) -> bool {
    matches!(event.call.as_str(), "write" | "writev" | "pwrite64" | "pwritev" | "sendto" | "sendmsg")
}

fn is_sync(event: &Event) -> bool {
    matches!(event.call.as_str(), "fsync" | "fdatasync")
}

/// `9<TCP:[127.0.0.1:80->127.0.0.1:5000]>`: the part that names the connection.
fn socket_of(arguments: &str) -> Option<&str> {
    let from = arguments.find("<TCP")?;
    arguments[from..].split(']').next()
}

#[cfg(test)]
mod tests {
    use super::{judge, parse};

    const REQUEST: &str = "7 1.000000 recvfrom(9<TCP:[127.0.0.1:80->127.0.0.1:5000]>, \"POST /tools/ads:createCampaign/i\"..., 8192, 0, NULL, NULL) = 300 <0.000010>\n";
    const ANSWER: &str = "7 1.900000 sendto(9<TCP:[127.0.0.1:80->127.0.0.1:5000]>, \"HTTP/1.1 200 OK\\r\\n\"..., 500, MSG_NOSIGNAL, NULL, 0) = 500 <0.000010>\n";
    const WRITE: &str = "8 1.100000 pwrite64(5</d/countersign.db-wal>, \"x\"..., 24, 0) = 24 <0.000010>\n";
    const SYNC_1: &str = "8 1.200000 fdatasync(5</d/countersign.db-wal>) = 0 <0.001000>\n";
    const DISPATCH: &str =
        "7 1.300000 write(12<pipe:[99]>, \"{\\\"method\\\":\\\"tools/call\\\"\"..., 90) = 90 <0.000010>\n";
    const SYNC_2: &str = "8 1.400000 fdatasync(5</d/countersign.db-wal> <unfinished ...>\n9 1.410000 read(3</x>, \"\", 1) = 0 <0.000001>\n8 1.500000 <... fdatasync resumed>) = 0 <0.100000>\n";
    const HEAD: &str = "8 1.600000 fsync(6</d/state/head.tmp>) = 0 <0.001000>\n";

    fn problems(lines: &[&str]) -> Vec<String> {
        let verdict = judge(&parse(&lines.concat())).unwrap();
        assert_eq!(verdict.answers, 1);
        verdict.problems
    }

    #[test]
    fn an_answer_after_all_syncs_passes() {
        assert_eq!(problems(&[REQUEST, WRITE, SYNC_1, DISPATCH, SYNC_2, HEAD, ANSWER]), Vec::<String>::new());
    }

    #[test]
    fn an_answer_that_leaves_early_is_found() {
        let check = |lines: &[&str], expected: &str| {
            let verdict = judge(&parse(&lines.concat())).unwrap();
            assert!(verdict.problems.iter().any(|p| p.contains(expected)), "{expected}: {:?}", verdict.problems);
        };
        check(&[REQUEST, WRITE, SYNC_1, DISPATCH, HEAD, ANSWER], "before the outcome was synced");
        let hasty = DISPATCH.replace("1.300000", "1.150000");
        check(&[REQUEST, WRITE, &hasty, SYNC_1, SYNC_2, HEAD, ANSWER], "dispatched before the intent");
        check(&[REQUEST, WRITE, SYNC_1, DISPATCH, SYNC_2, ANSWER], "before the head file");
        let unfinished = SYNC_2.replace("1.500000", "1.950000");
        check(&[REQUEST, WRITE, SYNC_1, DISPATCH, &unfinished, HEAD, ANSWER], "before the outcome was synced");
        let late = WRITE.replace("1.100000", "1.700000");
        check(&[REQUEST, SYNC_1, DISPATCH, SYNC_2, HEAD, &late, ANSWER], "no sync covered");
    }
}
