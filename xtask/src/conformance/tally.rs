//! What the gateway says that it forwarded, beside what the upstream says that it was sent.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use countersign_example_conformance::{ASKED, Era, read};
use countersign_testkit::Node;
use serde_json::Value;

/// Calls that the suite abandoned end at their deadline; so long is waited for their events.
const PATIENCE: Duration = Duration::from_secs(45);
/// Methods of which each request is one call.
const FORWARDED: [&str; 5] =
    ["tools/call", "prompts/get", "resources/read", "resources/subscribe", "completion/complete"];

type Counts = BTreeMap<String, usize>;

/// Whether both agree, in number and kind. Calls that the suite abandoned while the upstream waits for input have no outcome
/// yet, and so no event; the upstream says how many they are.
///
/// # Errors
/// If either cannot be read.
pub fn compare(node: &Node, journal: &Path, upstream: Era) -> Result<bool> {
    let end = Instant::now() + PATIENCE;
    loop {
        let (mut sent, mut recorded) = (journaled(journal)?, recorded(node)?);
        if upstream == Era::Modern {
            recorded.remove("resources/subscribe");
        }
        let open = open(journal)?;
        if let Some(calls) = sent.get_mut("tools/call").filter(|_| open > 0) {
            *calls = calls.saturating_sub(open);
        }
        if sent == recorded {
            let calls: usize = sent.values().sum();
            println!(
                "  {calls} requests in the upstream's journal, {calls} in the gateway's events; {open} more wait for input"
            );
            return Ok(true);
        }
        if Instant::now() > end {
            for kind in sent.keys().chain(recorded.keys()).collect::<std::collections::BTreeSet<_>>() {
                let (sent, recorded) = (sent.get(kind).unwrap_or(&0), recorded.get(kind).unwrap_or(&0));
                if sent != recorded {
                    println!("  {kind}: {sent} in the upstream's journal, {recorded} in the gateway's events");
                }
            }
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// Calls that the upstream asked for input and that were not made again.
fn open(journal: &Path) -> Result<usize> {
    let entries = read(journal)?;
    let asked = entries.iter().filter(|entry| entry.method == ASKED).count();
    Ok(asked.saturating_sub(entries.iter().filter(|entry| entry.again).count()))
}

fn journaled(journal: &Path) -> Result<Counts> {
    let mut counts = Counts::new();
    for entry in read(journal)?.into_iter().filter(|entry| !entry.again && FORWARDED.contains(&entry.method.as_str())) {
        *counts.entry(entry.method).or_default() += 1;
    }
    Ok(counts)
}

/// Calls with an outcome: the gateway records one such event for each request that it dispatched.
fn recorded(node: &Node) -> Result<Counts> {
    let mut auditor = node.operator();
    let mut counts = Counts::new();
    let mut path = "/audit/events?type=call.completed".to_owned();
    loop {
        let response = auditor.get(&path)?;
        let next = response.header("link").and_then(next_page).map(str::to_owned);
        let events = response.expect(200)?;
        for event in events.as_array().into_iter().flatten() {
            *counts.entry(method(event)).or_default() += 1;
        }
        match next {
            Some(next) => path = next,
            None => break,
        }
    }
    counts.retain(|method, _| FORWARDED.contains(&method.as_str()));
    Ok(counts)
}

fn method(event: &Value) -> String {
    let event = event.get("event").unwrap_or(event);
    let name = event["tool"].as_str().or(event["tool"]["name"].as_str()).unwrap_or_default();
    let operation = name.split_once(':').map_or(name, |(_, operation)| operation);
    match operation {
        "resources/read" | "resources/subscribe" | "completion/complete" => operation.to_owned(),
        _ if operation.starts_with("prompts/") => "prompts/get".to_owned(),
        "elicitation/create" | "sampling/createMessage" | "roots/list" => operation.to_owned(),
        _ => "tools/call".to_owned(),
    }
}

fn next_page(link: &str) -> Option<&str> {
    let (url, rest) = link.split_once('>')?;
    rest.contains("next").then(|| url.trim_start_matches('<'))
}
