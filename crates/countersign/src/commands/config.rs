//! `countersign config client`: the entry for this node in a client's own configuration file, printed or merged into it.
//!
//! The file belongs to the person: what stands in it stays as it is, comments included ([`jsonc`]), a copy of it is kept beside
//! it, and where it cannot be read as JSON with comments nothing is written. Tokens are not written into it: clients that can take
//! them from the environment or ask for them do that, the others start `countersign mcp`.

mod jsonc;

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::cli::Global;
use crate::exit::{Exit, Failure};
use crate::local;
use crate::output::{self, Style, paint_err};

/// What to do with configuration.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Print this node's entry for a client's configuration, or write it there
    Client(ClientArgs),
}

/// Options of `config client`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  countersign config client vscode                  print it
  countersign config client cursor --write          merge it into .cursor/mcp.json, keeping what is there
  countersign config client claude-desktop --write --upstream ads
  COUNTERSIGN_TOKEN=$(countersign token mint --sub maya --act editor --role finance-write) cursor .")]
pub struct ClientArgs {
    /// The client
    #[arg(value_enum)]
    client: Client,
    /// Merge the entry into the client's file instead of printing it
    #[arg(long)]
    write: bool,
    /// The file, if it is not where the client looks first
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// The entry's name in the file
    #[arg(long, default_value = "countersign")]
    name: String,
    /// Only this upstream's tools, under their own names
    #[arg(long, value_name = "NAME")]
    upstream: Option<String>,
}

/// The clients whose files are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Client {
    /// .vscode/mcp.json; VS Code asks for the token
    Vscode,
    /// .cursor/mcp.json; the token comes from COUNTERSIGN_TOKEN
    Cursor,
    /// ~/.config/zed/settings.json; starts `countersign mcp`
    Zed,
    /// .mcp.json; the token comes from COUNTERSIGN_TOKEN
    ClaudeCode,
    /// claude_desktop_config.json; starts `countersign mcp`
    ClaudeDesktop,
}

/// The id under which VS Code asks for the token.
const INPUT: &str = "countersign-token";

/// Prints or writes.
///
/// # Errors
/// If the configuration cannot be read, or the client's file cannot be read as JSON with comments or written.
pub fn run(global: &Global, command: Command) -> anyhow::Result<Exit> {
    let Command::Client(args) = command;
    let config = local::config(global)?;
    let base = global.url.clone().unwrap_or_else(|| config.url());
    let entry = entry(args.client, global, base.trim_end_matches('/'), args.upstream.as_deref())?;
    let file = args.file.clone().map_or_else(|| file_of(args.client), Ok)?;
    let parts = parts(args.client, &args.name, entry);
    if !args.write {
        let document = jsonc::merged("", &parts).map_err(|why| Failure::new(Exit::Failed, why))?;
        eprintln!("{}", paint_err(Style::Dim, &format!("for {}; --write merges it there", file.display())));
        output::line(document.trim_end());
        return Ok(Exit::Ok);
    }
    let changed = write(&file, &parts)?;
    if global.json {
        output::json(&json!({ "file": file, "changed": changed }));
    } else if changed {
        output::line(format!("{}: the entry {:?} is in place", file.display(), args.name));
        advice(args.client).into_iter().for_each(output::line);
    } else {
        output::line(format!("{}: the entry {:?} was there already", file.display(), args.name));
    }
    Ok(Exit::Ok)
}

fn entry(client: Client, global: &Global, base: &str, upstream: Option<&str>) -> anyhow::Result<Value> {
    let url = format!("{base}/mcp{}", upstream.map(|name| format!("/{name}")).unwrap_or_default());
    let bearer = |token: &str| json!({ "Authorization": format!("Bearer {token}") });
    Ok(match client {
        Client::Vscode => {
            json!({ "type": "http", "url": url, "headers": bearer(&format!("${{input:{INPUT}}}")) })
        }
        Client::Cursor => json!({ "url": url, "headers": bearer("${env:COUNTERSIGN_TOKEN}") }),
        Client::ClaudeCode => json!({ "type": "http", "url": url, "headers": bearer("${COUNTERSIGN_TOKEN}") }),
        Client::Zed | Client::ClaudeDesktop => {
            let command = std::env::current_exe().context("where is this program?")?;
            let mut arguments = vec!["mcp".to_owned()];
            arguments.extend(upstream.map(str::to_owned));
            if let Some(home) = &global.home {
                arguments.extend(["--home".to_owned(), std::path::absolute(home)?.display().to_string()]);
            }
            if let Some(url) = &global.url {
                arguments.extend(["--url".to_owned(), url.clone()]);
            }
            json!({ "command": command, "args": arguments, "env": {} })
        }
    })
}

/// Where the client looks: in the project (this directory) where it has such a file, else in the home.
fn file_of(client: Client) -> anyhow::Result<PathBuf> {
    let home = || std::env::home_dir().context("HOME is not set; give --file");
    Ok(match client {
        Client::Vscode => PathBuf::from(".vscode/mcp.json"),
        Client::Cursor => PathBuf::from(".cursor/mcp.json"),
        Client::ClaudeCode => PathBuf::from(".mcp.json"),
        Client::Zed => home()?.join(".config/zed/settings.json"),
        Client::ClaudeDesktop if cfg!(target_os = "macos") => {
            home()?.join("Library/Application Support/Claude/claude_desktop_config.json")
        }
        Client::ClaudeDesktop => home()?.join(".config/Claude/claude_desktop_config.json"),
    })
}

/// What has to be in the file.
fn parts(client: Client, name: &str, entry: Value) -> Vec<jsonc::Part> {
    let container = match client {
        Client::Vscode => "servers",
        Client::Cursor | Client::ClaudeCode | Client::ClaudeDesktop => "mcpServers",
        Client::Zed => "context_servers",
    };
    let mut parts = vec![jsonc::Part::Member { container: container.to_owned(), name: name.to_owned(), value: entry }];
    if client == Client::Vscode {
        let input = json!({
            "type": "promptString", "id": INPUT, "description": "Token for Countersign", "password": true,
        });
        parts.push(jsonc::Part::Element { list: "inputs".to_owned(), key: "id".to_owned(), value: input });
    }
    parts
}

fn advice(client: Client) -> Option<&'static str> {
    match client {
        Client::Vscode => Some("VS Code asks for the token once; `countersign token mint` makes one for development."),
        Client::Cursor | Client::ClaudeCode => {
            Some("Start the client with COUNTERSIGN_TOKEN set; `countersign token mint` makes one for development.")
        }
        Client::Zed | Client::ClaudeDesktop => None,
    }
}

/// Merges and writes; a copy of what was there stays beside it. False if everything was in place.
fn write(file: &Path, parts: &[jsonc::Part]) -> anyhow::Result<bool> {
    let failed = || format!("{}", file.display());
    let before = match std::fs::read_to_string(file) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(error).with_context(failed),
    };
    let after = jsonc::merged(before.as_deref().unwrap_or(""), parts).map_err(|why| {
        Failure::new(Exit::Failed, format!("{}: {why}; nothing was written", file.display()))
            .advise("correct the file, or print the entry (without --write) and paste it")
    })?;
    if before.as_deref() == Some(after.as_str()) {
        return Ok(false);
    }
    if let Some(parent) = file.parent() {
        std::fs::create_dir_all(parent).with_context(failed)?;
    }
    if before.is_some() {
        std::fs::copy(file, beside(file, "before-countersign")).with_context(failed)?;
    }
    // A file is replaced whole or not at all: an editor may be reading it.
    let new = beside(file, "new");
    std::fs::write(&new, &after).with_context(failed)?;
    if before.is_some() {
        std::fs::set_permissions(&new, std::fs::metadata(file)?.permissions()).with_context(failed)?;
    }
    std::fs::rename(&new, file).with_context(failed)?;
    Ok(true)
}

fn beside(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{suffix}"));
    file.with_file_name(name)
}
