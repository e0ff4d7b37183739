//! `workspace`, `role` and `apikey`: who may act where. Each change is one request, and an event of its own.

use serde_json::{Value, json};

use crate::cli::Global;
use crate::client::{Node, escaped};
use crate::exit::Exit;
use crate::output::{self, Style};

/// What to do with workspaces.
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "\
Examples:
  countersign workspace create ward-7 --title 'Ward 7'
  countersign workspace archive ward-7 --reason 'closed in March'")]
pub enum WorkspaceCommand {
    /// All workspaces
    List,
    /// One workspace
    Show {
        /// Its name
        name: String,
    },
    /// Register a workspace
    Create {
        /// Its name
        name: String,
        /// What people call it
        #[arg(long, default_value = "")]
        title: String,
    },
    /// Let nobody act in a workspace any more; its events stay, and what waits in it is revoked
    Archive {
        /// Its name
        name: String,
        /// Why
        #[arg(long)]
        reason: String,
    },
}

/// What to do with granted roles.
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "\
Examples:
  countersign role grant treasurer tess --issuer https://idp.example.org
  countersign role revoke treasurer tess --issuer https://idp.example.org --reason 'left the department'

Roles that tokens carry are the issuer's to give and to take; these come on top.")]
pub enum RoleCommand {
    /// The roles granted in a workspace
    List {
        /// The workspace; your own by default
        #[arg(long)]
        workspace: Option<String>,
    },
    /// Grant a role
    Grant(GrantArgs),
    /// Take a granted role back
    Revoke(GrantArgs),
}

/// Which role, for whom.
#[derive(Debug, clap::Args)]
pub struct GrantArgs {
    /// The role
    role: String,
    /// The subject of its tokens (sub), or the principal of an API key
    id: String,
    /// The issuer of its tokens; countersign-apikey for API keys, countersign-dev for development tokens
    #[arg(long)]
    issuer: String,
    /// The workspace; your own by default
    #[arg(long)]
    workspace: Option<String>,
    /// Why; recorded in the event
    #[arg(long, default_value = "")]
    reason: String,
}

/// What to do with API keys.
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "\
Examples:
  countersign apikey create ci --role finance-write --ttl 90d --from 10.0.0.0/8
  countersign apikey revoke 5f1c2e9a0b7d4433 --reason 'left the team'
  curl -H \"X-API-Key: $KEY\" http://127.0.0.1:8000/tool-catalog")]
pub enum ApiKeyCommand {
    /// The API keys of a workspace
    List {
        /// The workspace; your own by default
        #[arg(long)]
        workspace: Option<String>,
    },
    /// Make a key; it is shown once
    Create(CreateKey),
    /// Revoke a key, at once
    Revoke {
        /// The key's id: the part between the underscores
        id: String,
        /// Why
        #[arg(long, default_value = "")]
        reason: String,
    },
}

/// What the key is for.
#[derive(Debug, clap::Args)]
pub struct CreateKey {
    /// The name of the principal that the key stands for
    principal: String,
    /// What it is; a key never stands for a person
    #[arg(long, default_value = "service", value_parser = ["service", "agent"])]
    kind: String,
    /// The workspace; your own by default
    #[arg(long)]
    workspace: Option<String>,
    /// A role; may be repeated
    #[arg(long = "role", value_name = "ROLE")]
    roles: Vec<String>,
    /// A scope; may be repeated
    #[arg(long = "scope", value_name = "SCOPE")]
    scopes: Vec<String>,
    /// A network from which alone it works, such as 10.0.0.0/8; may be repeated
    #[arg(long = "from", value_name = "NETWORK")]
    networks: Vec<String>,
    /// How long it is good for: 12h, 90d; without an end if not given
    #[arg(long, value_parser = output::parse_span)]
    ttl: Option<i64>,
    /// What people call it
    #[arg(long, default_value = "")]
    note: String,
}

/// Workspaces.
///
/// # Errors
/// If the node refuses or does not answer.
pub async fn workspace(global: &Global, command: WorkspaceCommand) -> anyhow::Result<Exit> {
    match command {
        WorkspaceCommand::List => {
            let all = Node::find(global)?.get("/admin/workspaces").await?;
            list(global, &all, &["NAME", "STATUS", "SINCE", "TITLE"], "There are no workspaces yet.", |row| {
                vec![text(row, "/name"), text(row, "/status"), since(row, "/created"), text(row, "/title")]
            })
        }
        WorkspaceCommand::Show { name } => {
            let found = Node::find(global)?.get(&format!("/admin/workspaces/{}", escaped(&name))).await?;
            if global.json {
                output::json(&found);
            } else {
                let facts = ["name", "status", "title"].map(|name| (name, text(&found, &format!("/{name}"))));
                let times = ["created", "archived"].map(|name| (name, since(&found, &format!("/{name}"))));
                for (name, value) in facts.into_iter().chain(times) {
                    output::line(format!("{} {value}", output::paint(Style::Dim, &format!("{name:<10}"))));
                }
            }
            Ok(Exit::Ok)
        }
        WorkspaceCommand::Create { name, title } => {
            let body = json!({ "name": name, "title": title });
            post(global, "/admin/workspaces", body, &format!("registered: {name}")).await
        }
        WorkspaceCommand::Archive { name, reason } => {
            let path = format!("/admin/workspaces/{}/archive", escaped(&name));
            post(global, &path, json!({ "reason": reason }), &format!("archived: {name}")).await
        }
    }
}

/// Granted roles.
///
/// # Errors
/// If the node refuses or does not answer.
pub async fn role(global: &Global, command: RoleCommand) -> anyhow::Result<Exit> {
    let (path, args, done) = match command {
        RoleCommand::List { workspace } => {
            let all = Node::find(global)?.get(&of_workspace("/admin/roles", workspace.as_deref())).await?;
            return list(global, &all, &["ROLE", "ID", "ISSUER", "SINCE", "BY"], "No roles are granted.", |row| {
                let parts = ["/role", "/id", "/issuer"].map(|pointer| text(row, pointer));
                parts.into_iter().chain([since(row, "/at"), text(row, "/by/id")]).collect()
            });
        }
        RoleCommand::Grant(args) => ("/admin/roles/grant", args, "granted"),
        RoleCommand::Revoke(args) => ("/admin/roles/revoke", args, "revoked"),
    };
    let done = format!("{done}: {} to {}", args.role, args.id).replace("revoked: ", "taken back: ");
    let mut body = json!({ "issuer": args.issuer, "id": args.id, "role": args.role, "reason": args.reason });
    if let Some(workspace) = args.workspace {
        body["workspace"] = workspace.into();
    }
    post(global, path, body, &done).await
}

/// API keys.
///
/// # Errors
/// If the node refuses or does not answer.
pub async fn api_key(global: &Global, command: ApiKeyCommand) -> anyhow::Result<Exit> {
    match command {
        ApiKeyCommand::List { workspace } => {
            let all = Node::find(global)?.get(&of_workspace("/admin/apikeys", workspace.as_deref())).await?;
            let header = ["ID", "PRINCIPAL", "ROLES", "EXPIRES", "LAST USED", "NOTE"];
            list(global, &all, &header, "There are no API keys.", |row| {
                let roles = row["roles"].as_array().into_iter().flatten().filter_map(Value::as_str);
                vec![
                    text(row, "/id"),
                    text(row, "/principal"),
                    output::visible(&roles.collect::<Vec<_>>().join(", ")),
                    since(row, "/expires"),
                    since(row, "/used"),
                    text(row, "/note"),
                ]
            })
        }
        ApiKeyCommand::Create(args) => create_key(global, args).await,
        ApiKeyCommand::Revoke { id, reason } => {
            let path = format!("/admin/apikeys/{}/revoke", escaped(&id));
            post(global, &path, json!({ "reason": reason }), &format!("revoked: {id}")).await
        }
    }
}

async fn create_key(global: &Global, args: CreateKey) -> anyhow::Result<Exit> {
    let mut body = json!({
        "principal": args.principal, "kind": args.kind, "roles": args.roles, "scopes": args.scopes,
        "networks": args.networks, "note": args.note,
    });
    if let Some(workspace) = args.workspace {
        body["workspace"] = workspace.into();
    }
    if let Some(ttl) = args.ttl {
        body["expires"] = (output::now_ms() + ttl).into();
    }
    let made = Node::find(global)?.post("/admin/apikeys", &body).await?;
    if global.json {
        output::json(&made);
        return Ok(Exit::Ok);
    }
    // In a pipe, the key alone: export KEY=$(countersign apikey create …)
    output::line(text(&made, "/key"));
    if output::on_terminal() {
        output::line(output::paint(Style::Warn, "This is shown once; nobody can show it again."));
        output::line(format!("receipt {}", text(&made, "/receipt")));
    }
    Ok(Exit::Ok)
}

fn of_workspace(path: &str, workspace: Option<&str>) -> String {
    workspace.map_or_else(|| path.to_owned(), |name| format!("{path}?workspace={}", escaped(name)))
}

fn text(value: &Value, pointer: &str) -> String {
    output::text(value, pointer)
}

fn since(value: &Value, pointer: &str) -> String {
    value.pointer(pointer).and_then(Value::as_i64).map_or_else(|| "–".into(), output::utc)
}

fn list(
    global: &Global,
    all: &Value,
    header: &[&str],
    none: &str,
    row: impl Fn(&Value) -> Vec<String>,
) -> anyhow::Result<Exit> {
    let rows: Vec<Vec<String>> = all.as_array().into_iter().flatten().map(row).collect();
    match (global.json, rows.is_empty()) {
        (true, _) => output::json(all),
        (false, true) => output::line(none),
        (false, false) => output::table(header, rows),
    }
    Ok(Exit::Ok)
}

async fn post(global: &Global, path: &str, body: Value, done: &str) -> anyhow::Result<Exit> {
    let reply = Node::find(global)?.post(path, &body).await?;
    if global.json {
        output::json(&reply);
    } else {
        let done = output::paint(Style::Good, &output::visible(done));
        output::line(format!("{done}  receipt {}", text(&reply, "/receipt")));
    }
    Ok(Exit::Ok)
}
