//! `countersign witness`: who cosigned this log, and which logs this node cosigns.

use serde_json::Value;

use crate::cli::Global;
use crate::client::Node;
use crate::exit::Exit;
use crate::output::{self, Style};

/// What to do about witnesses.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Who cosigned this log up to where, and which logs this node cosigns
    #[command(after_help = "\
Examples:
  countersign witness status
  countersign witness status --json

The configuration names both: [[witnesses]] with url and vkey for those that are asked, [witness_for] with logs for those whose
checkpoints this node cosigns. The key that is printed is what others give as vkey, and to `countersign verify --witness`.")]
    Status,
}

/// Shows how witnessing stands.
///
/// # Errors
/// If the node refuses or does not answer.
pub async fn run(global: &Global, command: Command) -> anyhow::Result<Exit> {
    let Command::Status = command;
    let status = Node::find(global)?.get("/admin/witness").await?;
    if global.json {
        output::json(&status);
        return Ok(Exit::Ok);
    }
    let now = output::now_ms();
    let log = output::visible(&output::text(&status, "/log/origin"));
    output::line(format!("This log: {log}, {} leaves", status["log"]["size"]));
    witnesses(&status["witnesses"], now);
    cosigned(&status, now);
    Ok(Exit::Ok)
}

fn witnesses(witnesses: &Value, now: i64) {
    let witnesses = witnesses.as_array().cloned().unwrap_or_default();
    if witnesses.is_empty() {
        return output::line("Nobody is asked to cosign it; see [[witnesses]] in the configuration.");
    }
    let rows = witnesses.iter().map(|witness| {
        let trouble = witness["trouble"].as_str().map_or_else(|| "–".to_owned(), output::visible);
        vec![output::text(witness, "/name"), number(&witness["size"]), ago(&witness["at"], now), trouble]
    });
    output::table(&["WITNESS", "COSIGNED", "WHEN", "TROUBLE"], rows.collect());
}

fn cosigned(status: &Value, now: i64) {
    let logs = status["logs"].as_array().cloned().unwrap_or_default();
    output::line("");
    match status["witness"]["vkey"].as_str() {
        Some(vkey) => output::line(format!("This node is a witness: {}", output::visible(vkey))),
        None => output::line("This node is no witness; see [witness_for] in the configuration."),
    }
    if logs.is_empty() {
        return;
    }
    let rows = logs.iter().map(|log| {
        let standing = match (log["forked"].as_u64(), log["configured"] == true) {
            (Some(size), _) => output::paint(Style::Bad, &format!("FORKED: it signed two trees of {size} leaves")),
            (None, true) => "ok".to_owned(),
            (None, false) => "not configured any more".to_owned(),
        };
        vec![output::text(log, "/origin"), number(&log["size"]), ago(&log["at"], now), standing]
    });
    output::table(&["LOG", "COSIGNED", "WHEN", "STANDING"], rows.collect());
}

fn number(value: &Value) -> String {
    value.as_u64().map_or_else(|| "–".to_owned(), |number| number.to_string())
}

fn ago(value: &Value, now: i64) -> String {
    value.as_i64().map_or_else(|| "never".to_owned(), |at| format!("{} ago", output::span((now - at).max(0))))
}
