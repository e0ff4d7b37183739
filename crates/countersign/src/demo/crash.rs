//! The last step: the node is killed in the middle of writes, and nothing that it acknowledged is lost.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context as _, ensure};
use serde_json::json;
use tokio::sync::Notify;

use super::stage::Stage;
use super::story::Cast;
use super::voice::{Voice, Who};
use crate::client::Node;
use crate::output::{self, Style, paint};

/// Writers at a time, and after how many acknowledgements the node dies.
const WRITERS: usize = 4;
const ENOUGH: usize = 12;
/// Most writes of one writer; together they stay under the manifest's limit for the tool.
const MOST: usize = 12;

/// What the writers saw, shared between them.
#[derive(Default)]
struct Tally {
    stop: AtomicBool,
    acknowledged: AtomicUsize,
    enough: Notify,
}

/// What one writer knows: the receipt of each campaign that was acknowledged, and how many got no answer.
#[derive(Default)]
struct Seen {
    receipts: BTreeMap<String, String>,
    unanswered: usize,
}

/// Kills the node mid-work, starts it again, and counts.
///
/// # Errors
/// If anything acknowledged is lost, anything was executed twice, or the log does not hold.
pub async fn power_cut(voice: &Voice, stage: &mut Stage, cast: &Cast) -> anyhow::Result<()> {
    voice.step("The node is killed in the middle of its work").await;
    let before = tree_size(&cast.omar).await?;
    let tally = Arc::new(Tally::default());
    let writers: Vec<_> =
        (0..WRITERS).map(|writer| tokio::spawn(write(cast.bot.clone(), writer, Arc::clone(&tally)))).collect();
    tokio::time::timeout(std::time::Duration::from_secs(20), tally.enough.notified())
        .await
        .context("the writes are too slow")?;
    let pid = stage.pid().context("no node")?;
    stage.kill_node().await?;
    tally.stop.store(true, Ordering::Release);
    let mut seen = Seen::default();
    for writer in writers {
        let one = writer.await??;
        seen.receipts.extend(one.receipts);
        seen.unanswered += one.unanswered;
    }
    let line = format!(
        "{} {pid} while {WRITERS} writers were at work: {} small campaigns acknowledged, {} requests without an answer",
        paint(Style::Bad, "kill -9"),
        seen.receipts.len(),
        seen.unanswered
    );
    voice.says(Who::Operator, line).await;
    let took = stage.start_node().await?;
    voice.says(Who::Node, format!("up again after {} ms", took.as_millis())).await;
    nothing_lost(voice, stage, cast, &seen).await?;
    the_log_holds(voice, stage, cast, before).await
}

async fn write(bot: Node, writer: usize, tally: Arc<Tally>) -> anyhow::Result<Seen> {
    let mut seen = Seen::default();
    for number in 0..MOST {
        if tally.stop.load(Ordering::Acquire) {
            break;
        }
        let name = format!("small-{writer}-{number}");
        let body = json!({ "name": name, "budget": 10, "startDate": "2026-12-01" });
        let headers = [("idempotency-key", name.as_str())];
        match bot.send("POST", "/tools/ads:createCampaign/invoke", &headers, Some(&body)).await {
            Ok(reply) => {
                let answer = reply.into_json()?;
                ensure!(answer["status"] == "ok", "a small campaign was not executed: {answer}");
                let receipt = answer["receipt"].as_str().context("no receipt")?.to_owned();
                seen.receipts.insert(name, receipt);
                if tally.acknowledged.fetch_add(1, Ordering::AcqRel) + 1 == ENOUGH {
                    tally.enough.notify_one();
                }
            }
            Err(_) => {
                // The node is gone; what became of this one, only its journal and its log can say.
                seen.unanswered += 1;
                break;
            }
        }
    }
    Ok(seen)
}

async fn nothing_lost(voice: &Voice, stage: &Stage, cast: &Cast, seen: &Seen) -> anyhow::Result<()> {
    let journal = stage.journal()?;
    let executed = |name: &str| journal.iter().filter(|entry| entry.campaign.name == name).count();
    for name in seen.receipts.keys() {
        ensure!(executed(name) == 1, "{name} was acknowledged and executed {} times", executed(name));
    }
    let small: Vec<&str> =
        journal.iter().map(|e| e.campaign.name.as_str()).filter(|n| n.starts_with("small-")).collect();
    let twice = small.iter().filter(|name| executed(name) > 1).count();
    ensure!(twice == 0, "{twice} campaigns were executed more than once");

    let unknown = cast.omar.get("/admin/unknown").await?;
    let unknown = unknown.as_array().context("no list of unknown calls")?.len();
    ensure!(
        unknown <= seen.unanswered,
        "{unknown} unknown calls, but only {} requests without an answer",
        seen.unanswered
    );
    let desk = stage.home().join("auditor");
    let mut arguments = vec!["verify".to_owned()];
    for (name, receipt) in &seen.receipts {
        let reply = cast.bot.send("GET", &format!("/receipts/{receipt}"), &[], None).await?;
        ensure!(reply.is_success(), "the receipt of {name} is gone: HTTP {}", reply.status);
        std::fs::write(desk.join(format!("{name}.json")), reply.body)?;
        arguments.push(format!("{name}.json"));
    }
    arguments.extend(["--key", "log.vkey", "--json"].map(str::to_owned));
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let reports = stage.run_elsewhere(&desk, &arguments).await?.json()?;
    let valid = reports.as_array().into_iter().flatten().filter(|report| report["verdict"] == "valid").count();
    ensure!(valid == seen.receipts.len(), "{valid} of {} receipts are valid", seen.receipts.len());
    let line = format!(
        "of {} acknowledged, {valid} have their receipt, each valid; executed twice: {twice}",
        seen.receipts.len()
    );
    voice.says(Who::Auditor, paint(Style::Good, &line)).await;
    let line = format!(
        "the upstream executed {} in all; {unknown} wait as \"unknown\" for a person, never retried by the node",
        small.len()
    );
    voice.says(Who::Upstream, line).await;
    Ok(())
}

async fn the_log_holds(voice: &Voice, stage: &Stage, cast: &Cast, before: u64) -> anyhow::Result<()> {
    let after = tree_size(&cast.omar).await?;
    ensure!(after > before, "the log did not grow: {before} to {after}");
    voice.command(Who::Operator, &["log", "fsck"]);
    let report = fsck(stage, cast).await?;
    let line = format!("fsck: {}; the log grew from {before} to {after} entries", paint(Style::Good, "ok"));
    voice.says(Who::Node, line).await;
    voice.quote(&report);
    Ok(())
}

async fn fsck(stage: &Stage, cast: &Cast) -> anyhow::Result<String> {
    let ran = stage.run(Some(cast.omar_token()), &["log", "fsck", "--json"]).await?;
    let report = ran.json()?;
    ensure!(report["ok"] == true, "the log does not hold: {report}");
    let findings = report["findings"].as_array().context("fsck wrote no findings")?.len();
    let count = |name: &str| output::text(&report, &format!("/{name}"));
    let (events, recomputed, shards) = (count("events"), count("recomputed"), count("shards"));
    Ok(format!("{events} entries read in {shards} log, {recomputed} commitments computed again, {findings} findings"))
}

async fn tree_size(node: &Node) -> anyhow::Result<u64> {
    let reply = node.send("GET", "/checkpoint", &[], None).await?;
    ensure!(reply.is_success(), "no checkpoint: HTTP {}", reply.status);
    let text = String::from_utf8(reply.body)?;
    let size = text.lines().nth(1).and_then(|line| line.parse().ok());
    size.with_context(|| format!("not a checkpoint: {}", output::visible(&text)))
}
