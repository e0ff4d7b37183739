//! `countersign health`: whether the node on this data directory lives, for supervisors that run a command to see.

use serde_json::Value;

use crate::cli::Global;
use crate::client::Node;
use crate::exit::{Exit, Failure};
use crate::output;

/// What to ask.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  countersign health                exit code 0 if the node answers
  countersign health --ready        exit code 0 if it also takes requests

Neither needs a token.")]
pub struct Args {
    /// Also fail while the node can't record or is ending, as `/ready` does
    #[arg(long)]
    ready: bool,
}

/// Asks `/health`, or `/ready`.
///
/// # Errors
/// If no node answers, or it is not ready where that was asked.
pub async fn run(global: &Global, args: &Args) -> anyhow::Result<Exit> {
    let node = Node::find_public(global)?
        .ok_or_else(|| Failure::new(Exit::Unreachable, "no node runs on this data directory"))?;
    let reply = node.send("GET", if args.ready { "/ready" } else { "/health" }, &[], None).await?;
    let (ok, body) = (reply.is_success(), reply.json());
    if global.json {
        output::json(&body);
    } else {
        output::line(output::visible(body["status"].as_str().unwrap_or(if ok { "ok" } else { "not ready" })));
    }
    Ok(if ok && body != Value::Null { Exit::Ok } else { Exit::Failed })
}
