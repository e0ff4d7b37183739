//! `countersign receipt`: fetch the file that proves an event.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;

use crate::cli::Global;
use crate::client::{Node, escaped};
use crate::exit::Exit;
use crate::local;

/// What to do with receipts.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Fetch one, from the running node or from the data directory
    Get {
        /// The event
        id: String,
        /// Show a value inside the receipt, beside its salted digest: input=FILE or output=FILE, a JSON file each. The node
        /// keeps no values; it takes yours only if the event's digest confirms it
        #[arg(long, value_name = "WHAT=FILE")]
        disclose: Vec<String>,
        /// Write it to this file instead of standard output
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

/// Fetches a receipt.
///
/// # Errors
/// If there is no such event, or neither node nor data directory can be read.
pub async fn run(global: &Global, command: Command) -> anyhow::Result<Exit> {
    let Command::Get { id, disclose, output } = command;
    let bytes = match Node::find_running(global)? {
        Some(node) => {
            let path = format!("/receipts/{}", escaped(&id));
            let reply = match disclosures(&disclose)? {
                values if values.is_empty() => node.send("GET", &path, &[], None).await?,
                values => node.send("POST", &path, &[], Some(&values.into())).await?,
            };
            if !reply.is_success() {
                return Err(reply.failure().into());
            }
            reply.body
        }
        None => local::receipt(global, &id, &disclose).await?,
    };
    match output {
        Some(path) => std::fs::write(&path, &bytes).with_context(|| format!("writing {}", path.display()))?,
        // Byte for byte what the node sent: a receipt is a file, not something to reformat.
        None => std::io::stdout().write_all(&bytes).context("writing to standard output")?,
    }
    Ok(Exit::Ok)
}

/// The values that the node is asked to confirm and show.
fn disclosures(wanted: &[String]) -> anyhow::Result<serde_json::Map<String, serde_json::Value>> {
    let mut values = serde_json::Map::new();
    for one in wanted {
        let (what, file) = one
            .split_once('=')
            .filter(|(what, _)| ["input", "output"].contains(what))
            .with_context(|| format!("--disclose takes input=FILE or output=FILE, not {one:?}"))?;
        let text = std::fs::read(file).with_context(|| format!("reading {file}"))?;
        values.insert(what.to_owned(), serde_json::from_slice(&text).with_context(|| format!("{file} is not JSON"))?);
    }
    Ok(values)
}
