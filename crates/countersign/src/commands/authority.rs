//! `countersign authority`: who issues the certificates of signatures.

use serde_json::{Value, json};

use crate::cli::Global;
use crate::client::Node;
use crate::exit::Exit;
use crate::output;

/// The node's authorities.
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "\
Examples:
  countersign authority list
  countersign authority rotate --reason 'yearly'
  countersign authority rotate --reason 'backup was stolen' --leaked-since 2026-11-20T08:00:00Z")]
pub enum Command {
    /// All that there were, with the time in which each is believed
    List,
    /// Make another authority, which signs from now on, and retire the one before
    Rotate {
        /// Why
        #[arg(long)]
        reason: String,
        /// Somebody else may have had the node's authorities since then: nothing that any of them signed later is believed, also of those that
        /// are retired (RFC 3339, or a date). It can be said again with an earlier time, but not taken back
        #[arg(long, value_name = "WHEN")]
        leaked_since: Option<String>,
    },
}

/// Runs a command of `authority`.
///
/// # Errors
/// If the node refuses or does not answer.
pub async fn run(global: &Global, command: Command) -> anyhow::Result<Exit> {
    let node = Node::find(global)?;
    match command {
        Command::List => show(global, &node.get("/admin/authorities").await?, listed),
        Command::Rotate { reason, leaked_since } => {
            let mut order = json!({ "reason": reason });
            leaked_since.iter().for_each(|since| order["leaked_since"] = since.as_str().into());
            let lines: fn(&Value) = if leaked_since.is_some() { made_after_leak } else { made };
            show(global, &node.post("/admin/authorities/rotate", &order).await?, lines)
        }
    }
}

fn show(global: &Global, value: &Value, lines: fn(&Value)) -> anyhow::Result<Exit> {
    match global.json {
        true => output::json(value),
        false => lines(value),
    }
    Ok(Exit::Ok)
}

fn made(one: &Value) {
    output::line(format!("the authority {} signs from now on", short(one)));
    output::line("Verifiers have to fetch the trusted root again: countersign trust-root export");
}

fn made_after_leak(one: &Value) {
    made(one);
    output::line("Until when each of the others is believed: countersign authority list");
}

fn listed(all: &Value) {
    let row = |one: &Value| {
        let of = |pointer| output::text(one, pointer);
        vec![short(one), of("/state"), of("/created"), of("/believed_until"), of("/expires")]
    };
    let rows = all.as_array().into_iter().flatten().map(row).collect();
    output::table(&["AUTHORITY", "STATE", "MADE", "BELIEVED UNTIL", "EXPIRES"], rows);
}

fn short(one: &Value) -> String {
    output::text(one, "/authority").chars().take(16).collect()
}
