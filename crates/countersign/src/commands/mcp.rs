//! `countersign mcp`: MCP over standard input and output, for clients that start a command. A proxy to the running node;
//! where none runs, one is started for as long as the client stays.

use std::sync::Arc;

use countersign_server::TokenSource;

use crate::cli::Global;
use crate::client::Node;
use crate::exit::Exit;
use crate::local::{self, Claims};

/// Options of `mcp`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example, for a client that wants a command (Claude Desktop: claude_desktop_config.json):
  {\"mcpServers\": {\"countersign\": {\"command\": \"countersign\", \"args\": [\"mcp\", \"--role\", \"finance-write\"]}}}

Without COUNTERSIGN_TOKEN, the agent `stdio` acts for the operating system's user, with the roles given (development
issuer only).")]
pub struct Args {
    /// Only this upstream's tools, under their own names
    upstream: Option<String>,
    /// A role of the development identity; may be repeated
    #[arg(long = "role", value_name = "ROLE")]
    roles: Vec<String>,
}

/// Speaks until standard input ends.
///
/// # Errors
/// If no node can be reached or started.
pub async fn run(global: &Global, args: Args) -> anyhow::Result<Exit> {
    let own_node = match Node::find_running(global) {
        Ok(Some(_)) => None,
        Ok(None) => Some(super::up::start_quietly(global).await?),
        Err(error) => return Err(error),
    };
    let url = match &own_node {
        Some(node) => node.url(),
        None => {
            global.url.clone().map_or_else(|| local::running_node(global), |url| Ok(Some(url)))?.unwrap_or_default()
        }
    };
    let path = args.upstream.as_ref().map(|upstream| format!("/{upstream}")).unwrap_or_default();
    let input = tokio::io::BufReader::new(tokio::io::stdin());
    let endpoint = format!("{url}/mcp{path}");
    countersign_server::serve_stdio(&endpoint, tokens(global, args.roles), input, tokio::io::stdout()).await?;
    if let Some(node) = own_node {
        node.shutdown().await;
    }
    Ok(Exit::Ok)
}

/// The token given, or development tokens, each made anew: an editor may stay longer than any of them is good for.
fn tokens(global: &Global, roles: Vec<String>) -> TokenSource {
    let global = global.clone();
    Arc::new(move || {
        if global.token.is_some() || global.act_as.is_some() {
            return local::token(&global).map_err(|error| format!("{error:#}"));
        }
        let roles: Vec<&str> = roles.iter().map(String::as_str).collect();
        let claims = Claims { act: Some("stdio".into()), ..Claims::person(&local::user(), &roles) };
        local::mint(&global, &claims).map_err(|error| format!("{error:#}"))
    })
}
