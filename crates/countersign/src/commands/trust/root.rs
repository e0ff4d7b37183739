//! `trust-root export`: what others need to verify this node's signatures.

use std::path::PathBuf;

use super::super::answer::write;
use crate::cli::Global;
use crate::client::Node;
use crate::exit::{Exit, Failure};
use crate::output;

/// What others need to verify this node's signatures.
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "\
Examples:
  countersign trust-root export -o trusted_root.json
  countersign trust-root export --config -o trustconfig.json
  countersign trust-root export --url https://node.example.org -o trusted_root.json")]
pub enum Command {
    /// Write trusted_root.json, as Sigstore's verifiers take it. No token is needed
    Export(Export),
}

/// Options of `trust-root export`.
#[derive(Debug, clap::Args)]
pub struct Export {
    /// The client trust config instead, as sigstore-python's --trust-config takes it
    #[arg(long)]
    config: bool,
    /// Where it goes; standard output otherwise
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Runs a command of `trust-root`.
///
/// # Errors
/// As [`super::run`].
pub async fn run(global: &Global, command: Command) -> anyhow::Result<Exit> {
    match command {
        Command::Export(args) => export(global, args).await,
    }
}

async fn export(global: &Global, args: Export) -> anyhow::Result<Exit> {
    let node = Node::find_public(global)?;
    let node = node.ok_or_else(|| Failure::new(Exit::Unreachable, "no node runs on this data directory"))?;
    let path = if args.config { "/trust/trustconfig.json" } else { "/trust/trusted_root.json" };
    let reply = node.send("GET", path, &[], None).await?;
    if !reply.is_success() {
        return Err(reply.failure().into());
    }
    match args.output {
        Some(path) => write(&path, &reply.body)?,
        None => output::line(String::from_utf8_lossy(&reply.body)),
    }
    Ok(Exit::Ok)
}
