//! `countersign log`: the transparency log's head, keys and health.

use serde_json::{Value, json};

use crate::cli::Global;
use crate::client::Node;
use crate::exit::{Exit, Failure};
use crate::local;
use crate::output::{self, Style};

/// What to do with the log.
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "\
Examples:
  countersign log keys > log.vkey       what `countersign verify --key` needs
  countersign log checkpoint
  countersign log fsck --json")]
pub enum Command {
    /// The newest signed checkpoint of the open shard, as C2SP says
    Checkpoint,
    /// The verifier keys of all shards, one on each line
    Keys,
    /// Rebuild the tree from the stored leaves and check every commitment, sequence and signature
    Fsck,
    /// Open a new shard where a shared database has lost what was signed. Stop every node first
    #[command(after_help = "\
Example:
  countersign log reopen --yes

A node refuses to sign on a database that is behind its own head: a standby that had not received everything, or a restored
backup. Bring the newer database back if it exists. If it is lost, this command opens a new shard, whose first event names the
last head that was signed. Receipts from before and after verify, each with its own shard's key.")]
    Reopen {
        /// Don't ask whether you are sure
        #[arg(long, short)]
        yes: bool,
    },
}

/// Shows or checks the log.
///
/// # Errors
/// If neither the node nor the data directory can be read.
pub async fn run(global: &Global, command: Command) -> anyhow::Result<Exit> {
    match command {
        Command::Checkpoint => {
            let text = match Node::find_public(global)? {
                Some(node) => {
                    let reply = node.send("GET", "/checkpoint", &[], None).await?;
                    if !reply.is_success() {
                        return Err(reply.failure().into());
                    }
                    String::from_utf8(reply.body)?
                }
                None => local::checkpoint(global)?,
            };
            if global.json {
                output::json(&json!({ "checkpoint": text }))
            } else {
                output::line(text.trim_end_matches('\n'))
            }
            Ok(Exit::Ok)
        }
        Command::Keys => keys(global).await,
        Command::Fsck => {
            let report = match Node::find_running(global)? {
                Some(node) => local::Checked::of(node.post("/admin/fsck", &json!({})).await?),
                None => local::fsck(global)?,
            };
            Ok(show_fsck(global, &report))
        }
        Command::Reopen { yes } => reopen(global, yes).await,
    }
}

async fn reopen(global: &Global, yes: bool) -> anyhow::Result<Exit> {
    let question = "Is the newer database lost, and is every other node stopped?";
    if !yes && (!output::can_ask() || !output::ask(question)) {
        return Err(Failure::new(Exit::Failed, "nothing was opened").advise("say --yes if you are sure").into());
    }
    let opened = local::data::reopen(global).await?;
    let reason = opened.reason.map(|reason| reason.as_str());
    if global.json {
        output::json(&json!({ "origin": opened.origin, "vkey": opened.vkey, "shard": opened.shard, "reason": reason }));
    } else {
        match reason {
            Some(reason) => output::line(format!("opened {} ({reason}), key {}", opened.origin, opened.vkey)),
            None => output::line(format!("nothing to do: {} goes on at {} entries", opened.origin, opened.size)),
        }
    }
    Ok(Exit::Ok)
}

async fn keys(global: &Global) -> anyhow::Result<Exit> {
    let logs = match Node::find_public(global)? {
        Some(node) => node.get("/logs").await?,
        None => local::logs(global)?,
    };
    if global.json {
        output::json(&logs);
    } else {
        logs.as_array().into_iter().flatten().for_each(|log| output::line(output::text(log, "/vkey")));
    }
    Ok(Exit::Ok)
}

fn show_fsck(global: &Global, report: &local::Checked) -> Exit {
    if global.json {
        output::json(&report.details);
    } else {
        let (style, word) = if report.ok { (Style::Good, "fsck ok") } else { (Style::Bad, "fsck FAILED") };
        output::line(output::paint(style, word));
        show_members(&report.details);
    }
    if report.ok { Exit::Ok } else { Exit::Invalid }
}

/// The members of a report, one on each line; nested lists indented.
pub fn show_members(report: &Value) {
    for (name, value) in report.as_object().into_iter().flatten() {
        let name = name.replace('_', " ");
        match value {
            Value::Array(items) if items.is_empty() => output::line(format!("  {name:<22} none")),
            Value::Array(items) => {
                output::line(format!("  {name}"));
                items.iter().for_each(|item| output::line(format!("    {}", output::text(item, ""))));
            }
            other => output::line(format!("  {name:<22} {}", output::text(other, ""))),
        }
    }
}
