//! `countersign up`: run a node. The first start writes a starter home; every start says where to connect and what to type.

use std::net::SocketAddr;

use countersign_server::config::LogFormat;
use countersign_server::{Config, Ended, Node, Overrides, StartError};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::{Value, json};

use crate::cli::Global;
use crate::exit::{Exit, Failure};
use crate::local::{self, Claims};
use crate::logging;
use crate::output::{self, Style, paint};

/// How long the token in the editor's configuration is good for, milliseconds.
const EDITOR_TOKEN_MS: i64 = 30 * 86_400_000;

/// Most notes that are shown at the start.
const NOTES: usize = 3;

/// Options of `up`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  countersign up
  countersign up --home ./node --listen 127.0.0.1:9000
  countersign up --init                  only write the starter home
  countersign up --log-format json       for a supervisor; COUNTERSIGN_LOG=debug says more

Signals: SIGTERM and SIGINT end the node in order, a second one at once; SIGHUP reloads the policies and log.level.")]
pub struct Args {
    /// Address to listen on
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// Bare hostname that names the log; required off loopback
    #[arg(long, value_name = "HOST")]
    log_domain: Option<String>,
    /// On a shared database, without a head file: take the database's word for what was signed
    #[arg(long)]
    join: bool,
    /// Write the starter home, if there is none, and end
    #[arg(long)]
    init: bool,
    /// How to log on standard error; by default human on a terminal, json otherwise
    #[arg(long, value_enum)]
    log_format: Option<Format>,
}

/// How to log.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Format {
    /// For people
    Human,
    /// One JSON object for each line
    Json,
}

impl From<Format> for LogFormat {
    fn from(format: Format) -> Self {
        match format {
            Format::Human => Self::Human,
            Format::Json => Self::Json,
        }
    }
}

/// Runs a node until a signal ends it.
///
/// # Errors
/// If the configuration cannot be used, or the node cannot start.
pub async fn run(global: &Global, args: Args) -> anyhow::Result<Exit> {
    small_pages();
    many_descriptors();
    let join = args.join.then_some(true);
    let log_domain = args.log_domain.clone();
    let overrides = Overrides { listen: args.listen, log_domain, join, ..local::overrides(global)? };
    let written = starter(&overrides)?;
    if args.init {
        show_starter(global, &overrides, &written)?;
        return Ok(Exit::Ok);
    }
    let config = Config::load(&overrides).map_err(|error| local::unusable(&error))?;
    let format = args.log_format.map(LogFormat::from).or(config.log.format);
    logging::start(format, &config.log.level, Some(overrides.clone()))?;
    let node = Node::start(config.clone()).await.map_err(|error| not_started(&error))?;
    if output::on_terminal() {
        if !written.is_empty() {
            show_starter(global, &overrides, &written)?;
        }
        welcome(global, &config, &node)?;
    } else {
        node.notes().iter().for_each(|note| tracing::info!("{note}"));
    }
    match node.run_until_signal().await? {
        Ended::InOrder => Ok(Exit::Ok),
        Ended::AtOnce => Ok(Exit::Failed),
    }
}

/// Huge pages would hold a third more memory for allocations of a few hundred bytes. Upstreams that are child processes
/// inherit this. A kernel that does not know the setting keeps its own.
fn small_pages() {
    #[cfg(target_os = "linux")]
    if let Err(error) = nix::sys::prctl::set_thp_disable(true) {
        tracing::debug!(%error, "transparent huge pages stay as they are");
    }
}

/// As many files and sockets as the system allows: the usual first limit, 1024, is below the connections that are taken.
fn many_descriptors() {
    let raised =
        getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most));
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

/// Starts a node on this home for a command that needs one, without a word on standard output.
///
/// # Errors
/// As [`run`].
pub async fn start_quietly(global: &Global) -> anyhow::Result<Node> {
    let overrides = local::overrides(global)?;
    starter(&overrides)?;
    let config = Config::load(&overrides).map_err(|error| local::unusable(&error))?;
    logging::start(config.log.format, &config.log.level, None)?;
    Node::start(config).await.map_err(|error| not_started(&error).into())
}

fn not_started(error: &StartError) -> Failure {
    let exit = if error.is_busy() { Exit::Busy } else { Exit::Failed };
    let advice = if error.is_busy() {
        "another node runs on this data directory; stop it, or choose another --home"
    } else {
        "`countersign doctor` looks for the cause"
    };
    Failure::new(exit, format!("the node did not start: {error}")).advise(advice)
}

fn starter(overrides: &Overrides) -> anyhow::Result<Vec<std::path::PathBuf>> {
    countersign_server::config::write_starter(overrides).map_err(|error| local::unusable(&error).into())
}

fn show_starter(global: &Global, overrides: &Overrides, written: &[std::path::PathBuf]) -> anyhow::Result<()> {
    let config = Config::load(overrides).map_err(|error| local::unusable(&error))?;
    if global.json {
        output::json(&json!({ "home": local::home(&config), "written": written }));
        return Ok(());
    }
    if written.is_empty() {
        output::line(format!("{} is there already; nothing was written", config.config_file.display()));
    } else {
        output::line(format!(
            "{} written to {}:",
            paint(Style::Head, "A starter home"),
            local::home(&config).display()
        ));
        written.iter().for_each(|path| output::line(format!("  {}", path.display())));
    }
    Ok(())
}

fn welcome(global: &Global, config: &Config, node: &Node) -> anyhow::Result<()> {
    let url = &node.url();
    let field =
        |name: &str, value: &str| output::line(format!("  {} {value}", paint(Style::Dim, &format!("{name:<6}"))));
    output::line(format!("\n{} is up. {}", paint(Style::Head, "Countersign"), paint(Style::Dim, "Ctrl-C ends it.")));
    field("MCP", &format!("{}   (one upstream: {url}/mcp/NAME)", paint(Style::Code, &format!("{url}/mcp"))));
    field("HTTP", &format!("{url}   (described at {url}/openapi.json)"));
    field("home", &local::home(config).display().to_string());
    field("data", &config.data_dir.display().to_string());
    let notes = node.notes();
    notes.iter().take(NOTES).for_each(|note| field("note", &output::visible(note)));
    if notes.len() > NOTES {
        field("note", &format!("and {} more; `countersign policy check` and `doctor` show all", notes.len() - NOTES));
    }
    if config.development_issuer {
        editor(global, url)?;
    } else {
        output::line("\nClients authenticate with tokens of your identity provider.");
    }
    output::line(paint(Style::Head, "\nNext, in another terminal:"));
    let home = global.home.as_ref().map(|home| format!(" --home {}", home.display())).unwrap_or_default();
    let width = "countersign call ads:listCampaigns".len() + home.chars().count();
    for (command, why) in [
        ("tools list", "what the upstreams offer; nothing can be called before you accept it"),
        ("tools accept --all", "review and accept; policies that name these tools come into force"),
        ("call ads:listCampaigns", "use a tool, get a receipt"),
        ("approvals list", "what waits for people"),
        ("doctor", "look for what is wrong"),
    ] {
        let command = format!("countersign{home} {command}");
        output::line(format!("  {}  {}", paint(Style::Code, &format!("{command:<width$}")), paint(Style::Dim, why)));
    }
    output::line("");
    Ok(())
}

/// The configuration of an editor, with a development token made just now.
fn editor(global: &Global, url: &str) -> anyhow::Result<()> {
    let claims = Claims {
        act: Some("editor".into()),
        ttl_ms: EDITOR_TOKEN_MS,
        ..Claims::person(&local::user(), &["finance-write"])
    };
    let token = local::mint(global, &claims)?;
    let [vs_code, others] = editor_configuration(url, &token);
    output::line(paint(Style::Head, "\nVS Code, .vscode/mcp.json:"));
    output::json(&vs_code);
    output::line(paint(Style::Head, "\nClaude Code, .mcp.json; Cursor, .cursor/mcp.json:"));
    output::json(&others);
    let expires = output::utc(output::now_ms() + EDITOR_TOKEN_MS);
    output::line(paint(
        Style::Dim,
        &format!(
            "The token is a development one: agent \"editor\" for {}, role finance-write, until {expires}.",
            local::user()
        ),
    ));
    Ok(())
}

/// The files of VS Code, and of Claude Code and Cursor.
fn editor_configuration(url: &str, token: &str) -> [Value; 2] {
    let server = json!({ "type": "http", "url": format!("{url}/mcp"), "headers": { "Authorization": format!("Bearer {token}") } });
    [json!({ "servers": { "countersign": server } }), json!({ "mcpServers": { "countersign": server } })]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn editors_get_url_and_token() {
        let [vs_code, others] = editor_configuration("http://127.0.0.1:8000", "t");
        assert_eq!(vs_code.pointer("/servers/countersign/url"), Some(&json!("http://127.0.0.1:8000/mcp")));
        assert_eq!(others.pointer("/mcpServers/countersign/headers/Authorization"), Some(&json!("Bearer t")));
    }
}
