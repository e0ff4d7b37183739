//! `connections`: accounts of one's own at the providers behind upstreams. Connected once; agents use them and never see them.
//! Operators see and drop those of others.

use serde_json::{Value, json};

use crate::cli::Global;
use crate::client::{Node, escaped};
use crate::exit::Exit;
use crate::output::{self, Style};

/// Most connections in one page of the node's.
const PAGE: u32 = 1000;

/// What to do with one's connections.
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "\
Examples:
  countersign connections connect crm                   prints the page to open
  countersign connections confirm crm ABCD-EFGH-JKLM    the code that the browser then shows
  countersign connections list
  countersign connections disconnect crm

For operators:
  countersign connections list --all --workspace ward-7
  countersign connections drop crm --of ada --issuer https://idp.example.org --reason 'left the company'")]
pub enum Command {
    /// Your connections, one for each upstream that takes them; with --all everybody's
    List {
        /// Everybody's in a workspace; for operators
        #[arg(long)]
        all: bool,
        /// The workspace; your own by default
        #[arg(long, requires = "all")]
        workspace: Option<String>,
        /// At most this many
        #[arg(long, requires = "all", default_value_t = 1000)]
        limit: u32,
    },
    /// Start to connect an account: prints the provider's page, for your own browser
    Connect {
        /// The upstream
        upstream: String,
    },
    /// Say that it was you who consented: repeat the code that the browser was shown
    Confirm {
        /// The upstream
        upstream: String,
        /// The code
        code: String,
    },
    /// Forget a connection, and have the provider withdraw its tokens
    Disconnect {
        /// The upstream
        upstream: String,
    },
    /// Do the same with somebody else's; for operators
    Drop {
        /// The upstream
        upstream: String,
        /// Whose: the subject of the person's tokens (sub)
        #[arg(long = "of", value_name = "PRINCIPAL")]
        person: String,
        /// The issuer of these tokens, as `list --all` shows it; countersign-dev for development tokens
        #[arg(long)]
        issuer: String,
        /// The workspace; your own by default
        #[arg(long)]
        workspace: Option<String>,
        /// Why; recorded in the event
        #[arg(long, default_value = "")]
        reason: String,
    },
}

/// Runs the command.
///
/// # Errors
/// If the node refuses or does not answer.
pub async fn run(global: &Global, command: Command) -> anyhow::Result<Exit> {
    let node = Node::find(global)?;
    let path = |upstream: &str| format!("/connections/{}", escaped(upstream));
    let (reply, show): (Value, fn(&Value)) = match &command {
        Command::List { all: true, workspace, limit } => {
            return list_all(global, &node, workspace.as_deref(), *limit).await;
        }
        Command::List { .. } => (node.get("/connections").await?, list),
        Command::Connect { upstream } => (node.post(&path(upstream), &json!({})).await?, started),
        Command::Confirm { upstream, code } => {
            (node.post(&format!("{}/confirm", path(upstream)), &json!({ "code": code })).await?, confirmed)
        }
        Command::Disconnect { upstream } => {
            (node.send("DELETE", &path(upstream), &[], None).await?.into_json()?, disconnected)
        }
        Command::Drop { upstream, person, issuer, workspace, reason } => {
            let mut body = json!({ "id": person, "issuer": issuer, "reason": reason });
            if let Some(workspace) = workspace {
                body["workspace"] = workspace.as_str().into();
            }
            (node.post(&format!("/admin{}/drop", path(upstream)), &body).await?, disconnected)
        }
    };
    if global.json {
        output::json(&reply);
    } else {
        show(&reply);
    }
    Ok(Exit::Ok)
}

fn time(value: &Value) -> String {
    value.as_i64().map_or_else(|| "–".into(), output::utc)
}

fn list(connections: &Value) {
    let connections = connections.as_array().cloned().unwrap_or_default();
    if connections.is_empty() {
        return output::line("No upstream here is used with accounts of people.");
    }
    output::table(&COLUMNS, connections.iter().map(row).collect());
}

/// What the node shows of everybody's, page after page.
async fn list_all(global: &Global, node: &Node, workspace: Option<&str>, limit: u32) -> anyhow::Result<Exit> {
    let mut first = format!("/admin/connections?limit={}", limit.clamp(1, PAGE));
    if let Some(workspace) = workspace {
        first.push_str(&format!("&workspace={}", escaped(workspace)));
    }
    let (held, more) = node.pages(first, limit as usize).await?;
    if global.json {
        output::json(&held.into());
        return Ok(Exit::Ok);
    }
    if held.is_empty() {
        output::line("Nobody has connected an account in this workspace.");
        return Ok(Exit::Ok);
    }
    let rows = held.iter().map(|connection| {
        let person = ["/person/id", "/person/issuer"].map(|pointer| output::text(connection, pointer));
        person.into_iter().chain(row(connection)).collect()
    });
    output::table(&[&["PERSON", "ISSUER"], &COLUMNS[..]].concat(), rows.collect());
    if more {
        output::line(output::paint(Style::Warn, &format!("There are more than these {limit}; --limit shows them.")));
    }
    Ok(Exit::Ok)
}

const COLUMNS: [&str; 6] = ["UPSTREAM", "STATE", "SCOPES", "CONNECTED", "ENDS", "PROBLEM"];

fn row(connection: &Value) -> Vec<String> {
    let scopes: Vec<&str> = connection["scopes"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let ends = match &connection["renewable"] {
        Value::Bool(true) => "renewed by itself".to_owned(),
        _ => time(&connection["expires"]),
    };
    vec![
        output::text(connection, "/upstream"),
        output::text(connection, "/state"),
        output::visible(&scopes.join(" ")),
        time(&connection["connected"]),
        ends,
        output::text(connection, "/problem"),
    ]
}

fn started(reply: &Value) {
    let upstream = output::text(reply, "/upstream");
    output::line("Open this page in your own browser, sign in there and consent:");
    output::line(format!("\n  {}\n", output::text(reply, "/authorization_url")));
    if reply["issuer"].is_string() {
        output::line(format!(
            "You sign in at {}. Go on only if that is where your account is.",
            output::text(reply, "/issuer")
        ));
    }
    output::line(format!("The browser then shows a code. Repeat it by {}:", time(&reply["expires"])));
    output::line(format!("\n  countersign connections confirm {upstream} CODE"));
}

fn confirmed(reply: &Value) {
    let done = format!("connected: {}", output::text(reply, "/upstream"));
    output::line(format!("{}  receipt {}", output::paint(Style::Good, &done), output::text(reply, "/event")));
}

fn disconnected(reply: &Value) {
    let withdrawn = match &reply["revoked"] {
        Value::Bool(true) => "the provider withdrew its tokens",
        Value::Bool(false) => "the provider did not withdraw its tokens: do so at the provider",
        _ => "the provider has no way to be told: withdraw the consent there, too",
    };
    let done = output::paint(Style::Good, "disconnected");
    output::line(format!("{done}: {withdrawn}  receipt {}", output::text(reply, "/receipt")));
}
