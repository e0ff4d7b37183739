//! `countersign token`: tokens of the development issuer. Whoever can read the data directory can be anybody here, which is
//! why every event and `verify` mark these identities.

use serde_json::json;

use crate::cli::Global;
use crate::exit::Exit;
use crate::local::{self, Claims};
use crate::output;

/// What to do with tokens.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make a development token
    Mint(Mint),
}

/// Who the token is for.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  countersign token mint --sub tess --kind person --role treasurer
  countersign token mint --sub maya --act campaign-bot --scope ads.write      an agent on behalf of a person
  export COUNTERSIGN_TOKEN=$(countersign token mint --sub ci --kind service)")]
pub struct Mint {
    /// The subject; with --act, the person behind the agent
    #[arg(long)]
    sub: String,
    /// What the subject is
    #[arg(long, default_value = "person", value_parser = ["person", "agent", "service"])]
    kind: String,
    /// The agent that acts for the subject
    #[arg(long, value_name = "AGENT")]
    act: Option<String>,
    /// The workspace
    #[arg(long, default_value = "default")]
    workspace: String,
    /// A role; may be repeated
    #[arg(long = "role", value_name = "ROLE")]
    roles: Vec<String>,
    /// A scope; may be repeated
    #[arg(long = "scope", value_name = "SCOPE")]
    scopes: Vec<String>,
    /// A mail address, said to be verified
    #[arg(long, value_name = "ADDRESS")]
    mail: Option<String>,
    /// For whom the token is, if not for the node's tools: sigstore, for clients of Sigstore's
    #[arg(long)]
    audience: Option<String>,
    /// How long it is good for: 15m, 12h, 7d
    #[arg(long, default_value = "12h", value_parser = output::parse_span)]
    ttl: i64,
}

/// Makes a token.
///
/// # Errors
/// If the data directory has no development issuer.
pub fn run(global: &Global, command: Command) -> anyhow::Result<Exit> {
    let Command::Mint(mint) = command;
    let claims = Claims {
        sub: mint.sub,
        kind: mint.kind,
        act: mint.act,
        workspace: mint.workspace,
        roles: mint.roles,
        scopes: mint.scopes,
        mail: mint.mail,
        audience: mint.audience,
        ttl_ms: mint.ttl,
    };
    let token = local::mint(global, &claims)?;
    if global.json {
        output::json(&json!({ "token": token, "expires_at": output::now_ms() + claims.ttl_ms, "development": true }));
    } else {
        output::line(token);
    }
    Ok(Exit::Ok)
}
