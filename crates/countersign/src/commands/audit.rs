//! `countersign audit`: the events, and their export as a chained JSONL stream that can be checked without a node.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use countersign_ledger::export::VerifyOptions;
use serde_json::{Value, json};

use crate::cli::Global;
use crate::client::{Node, escaped};
use crate::exit::Exit;
use crate::local;
use crate::output::{self, Style};

/// How often `tail` looks for more.
const POLL: Duration = Duration::from_millis(500);
/// Most events in one page of the node's.
const PAGE: u32 = 200;

/// What to do with the audit trail.
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "\
Examples:
  countersign audit list --type call. --since 1h
  countersign audit tail
  countersign audit export ./audit && countersign audit verify ./audit")]
pub enum Command {
    /// Events, newest first
    List(Filter),
    /// Follow new events until interrupted
    Tail(Filter),
    /// Write every event as JSONL, one file a day, each line chained to the one before
    Export {
        /// An empty or new directory
        directory: PathBuf,
    },
    /// Check an export: the chain, the commitments, the workspaces' gapless sequences
    Verify {
        /// The directory of an export
        directory: PathBuf,
        /// A checkpoint that somebody kept: the files must lead to its root
        #[arg(long, value_name = "FILE")]
        checkpoint: Vec<PathBuf>,
        /// The log's key, which must have signed the checkpoints, or a file of keys
        #[arg(long, value_name = "VKEY|FILE")]
        key: Vec<String>,
    },
}

/// Which events.
#[derive(Debug, clap::Args)]
pub struct Filter {
    /// A type such as call.completed, or a prefix that ends in a dot
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// Who acted
    #[arg(long)]
    principal: Option<String>,
    /// Which tool, as `upstream:tool`
    #[arg(long)]
    tool: Option<String>,
    /// Which call
    #[arg(long)]
    call: Option<String>,
    /// Which workspace; an auditor may read `_node`, where the node's own events are
    #[arg(long)]
    workspace: Option<String>,
    /// Not older than this: 90s, 15m, 12h, 7d
    #[arg(long, value_name = "AGO", value_parser = output::parse_span)]
    since: Option<i64>,
    /// At most this many
    #[arg(long, default_value_t = 50)]
    limit: u32,
}

impl Filter {
    fn query(&self, order: &str, limit: u32) -> String {
        let mut query = format!("/audit/events?order={order}&limit={limit}");
        let since = self.since.map(|ago| (output::now_ms() - ago).to_string());
        let parts = [
            ("type", self.kind.as_ref()),
            ("principal", self.principal.as_ref()),
            ("tool", self.tool.as_ref()),
            ("call", self.call.as_ref()),
            ("workspace", self.workspace.as_ref()),
            ("since", since.as_ref()),
        ];
        for (name, value) in parts {
            if let Some(value) = value {
                query.push_str(&format!("&{name}={}", escaped(value)));
            }
        }
        query
    }
}

/// Reads, exports or checks the audit trail.
///
/// # Errors
/// If the node refuses or does not answer, or files cannot be read or written.
pub async fn run(global: &Global, command: Command) -> anyhow::Result<Exit> {
    match command {
        Command::List(filter) => list(global, &filter).await,
        Command::Tail(filter) => tail(global, &filter).await,
        Command::Export { directory } => export(global, &directory).await,
        Command::Verify { directory, checkpoint, key } => {
            let read =
                |path: &PathBuf| std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()));
            let checkpoints = checkpoint.iter().map(read).collect::<Result<_, _>>()?;
            let keys: Result<Vec<_>, _> = key.iter().map(|source| super::verify::keys(source)).collect();
            let options = VerifyOptions { checkpoints, keys: keys?.concat() };
            Ok(show_verified(global, &local::verify_export(&directory, &options)))
        }
    }
}

async fn list(global: &Global, filter: &Filter) -> anyhow::Result<Exit> {
    let node = Node::find(global)?;
    let (events, _) = node.pages(filter.query("desc", filter.limit.min(PAGE)), filter.limit as usize).await?;
    if global.json {
        output::json(&events.into());
    } else {
        output::table(&["TIME", "SEQ", "TYPE", "BY", "TOOL", "WHAT", "RECEIPT"], events.iter().map(row).collect());
    }
    Ok(Exit::Ok)
}

async fn tail(global: &Global, filter: &Filter) -> anyhow::Result<Exit> {
    let node = Node::find(global)?;
    let mut path = filter.query("desc", 1);
    // Start behind the newest event, unless an age was given.
    if filter.since.is_none() {
        let newest = node.get(&path).await?;
        let since = newest.pointer("/0/time").and_then(Value::as_i64).map_or(0, |time| time + 1);
        path = format!("{}&since={since}", filter.query("asc", PAGE));
    } else {
        path = filter.query("asc", PAGE);
    }
    let mut seen: std::collections::VecDeque<String> = std::collections::VecDeque::new();
    loop {
        let reply = node.send("GET", &path, &[], None).await?;
        let next = reply.next_page(node.base());
        let page = reply.into_json()?;
        for event in page.as_array().into_iter().flatten() {
            let id = event["id"].as_str().or(event["receipt"].as_str()).unwrap_or_default().to_owned();
            if seen.contains(&id) {
                continue;
            }
            seen.push_back(id);
            if seen.len() > 2 * PAGE as usize {
                seen.pop_front();
            }
            if global.json { output::line(event.to_string()) } else { output::line(row(event).join("  ")) }
        }
        match next {
            Some(next) => path = next,
            None => tokio::time::sleep(POLL).await,
        }
    }
}

fn row(event: &Value) -> Vec<String> {
    let time = event["time"].as_i64().map_or_else(|| "–".into(), output::utc);
    let tool = match (event.pointer("/tool/upstream"), event.pointer("/tool/name")) {
        (Some(upstream), Some(name)) => format!("{}:{}", output::text(upstream, ""), output::text(name, "")),
        _ => "–".into(),
    };
    let what = if event["erased"] == true { "(erased)".into() } else { summary(event) };
    let receipt = output::text(event, "/receipt");
    vec![
        time,
        output::text(event, "/seq"),
        output::text(event, "/type"),
        output::text(event, "/principal/id"),
        tool,
        what,
        receipt,
    ]
}

/// The member that says most about this kind of event.
fn summary(event: &Value) -> String {
    const POINTERS: [&str; 7] =
        ["/reason/kind", "/outcome/status", "/reason_given", "/reason", "/policy/owed/reasons/0", "/note", "/status"];
    let found = POINTERS.iter().find_map(|pointer| event.pointer(pointer).filter(|value| value.is_string()));
    found.map_or_else(|| "–".into(), |value| output::short(&output::text(value, ""), 60))
}

async fn export(global: &Global, directory: &PathBuf) -> anyhow::Result<Exit> {
    let directory = std::path::absolute(directory)?;
    let report = match Node::find_running(global)? {
        Some(node) => node.post("/admin/export", &json!({ "directory": directory })).await?,
        None => local::export(global, &directory)?,
    };
    if global.json {
        output::json(&report);
    } else {
        output::line(format!("{} {}", output::paint(Style::Good, "exported to"), directory.display()));
        super::log::show_members(&report);
    }
    Ok(Exit::Ok)
}

fn show_verified(global: &Global, report: &local::Checked) -> Exit {
    if global.json {
        output::json(&report.details);
    } else {
        let (style, word) =
            if report.ok { (Style::Good, "the export holds") } else { (Style::Bad, "the export does NOT hold") };
        output::line(output::paint(style, word));
        super::log::show_members(&report.details);
    }
    if report.ok { Exit::Ok } else { Exit::Invalid }
}
