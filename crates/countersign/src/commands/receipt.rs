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
        /// Also open these salted digests: input, output
        #[arg(long, value_delimiter = ',', value_parser = ["input", "output"])]
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
            let query = if disclose.is_empty() { String::new() } else { format!("?disclose={}", disclose.join(",")) };
            let reply = node.send("GET", &format!("/receipts/{}{query}", escaped(&id)), &[], None).await?;
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
