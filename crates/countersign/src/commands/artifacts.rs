//! `artifacts` and `keys`: signed documents, and the keys that sign a workspace's. The node does it; each is a call or an event of its own.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::{Value, json};

use super::answer::{concluded, list, members, object, read, show, table, texts, verdict, write};
use crate::cli::Global;
use crate::client::{Node, escaped};
use crate::exit::{Exit, Failure};
use crate::output::{self, Style};

/// What is shown of a verification.
const VERDICT: &[(&str, &str)] = &[
    ("artifact", "/artifact_id"),
    ("version", "/version"),
    ("type", "/type"),
    ("workspace", "/workspace_id"),
    ("key", "/kid"),
    ("why not", "/reason"),
];

/// Signed documents.
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "\
Examples:
  countersign artifacts create recommendation.json -o recommendation.jws
  countersign artifacts list --type clinical_recommendation --compliance HIPAA --since 2026-11-01
  countersign artifacts verify 0197f3a2-5c1e-7d40-9a6b-3f2e1d0c9b8a
  countersign artifacts hold 0197f3a2-5c1e-7d40-9a6b-3f2e1d0c9b8a --reason 'case 4711'
  countersign artifacts hold 0197f3a2-5c1e-7d40-9a6b-3f2e1d0c9b8a --release --reason 'case 4711 is closed'
  countersign artifacts scrub")]
pub enum Command {
    /// Sign an artifact and keep it
    Create {
        /// The artifact: a JSON file with its envelope (docs/artifact.md)
        file: PathBuf,
        /// Where the JWS goes
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// One signed artifact, verified before it is handed out
    Get {
        /// The artifact's id
        id: String,
        /// Which version; the newest by default
        #[arg(long)]
        version: Option<u64>,
        /// Where the JWS goes
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Verify a stored artifact, or a JWS from a file
    Verify {
        /// The artifact's id, or a file with a JWS
        artifact: String,
        /// Which version; the newest by default
        #[arg(long)]
        version: Option<u64>,
    },
    /// Artifacts, newest first
    List {
        /// Only of this type
        #[arg(long = "type", value_name = "TYPE")]
        artifact_type: Option<String>,
        /// Only with this compliance tag; may be repeated
        #[arg(long)]
        compliance: Vec<String>,
        /// Stored from this date or time on (RFC 3339)
        #[arg(long, value_name = "WHEN")]
        since: Option<String>,
        /// Stored up to this date or time
        #[arg(long, value_name = "WHEN")]
        until: Option<String>,
        /// Most entries
        #[arg(long, default_value_t = 20)]
        limit: u32,
    },
    /// What an artifact was made from, and what was made from it
    Provenance {
        /// The artifact's id
        id: String,
    },
    /// Put an artifact under legal hold in the object store, or take it off
    Hold {
        /// The artifact's id
        id: String,
        /// Which version; all by default
        #[arg(long)]
        version: Option<u64>,
        /// Take the hold off
        #[arg(long)]
        release: bool,
        /// Why; it stands in the event
        #[arg(long)]
        reason: String,
    },
    /// Hold every stored artifact against its row, its key and the log
    Scrub,
}

/// Keys that sign artifacts.
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "\
Examples:
  countersign keys list
  countersign keys rotate --reason 'yearly'
  countersign keys revoke dgo1SAJCZ9REjcd-3hYhy_mn2mlfWm8rEZclTegWTLY --reason 'backup was stolen'
  countersign keys export -o jwks.json")]
pub enum KeysCommand {
    /// The keys that signed and sign a workspace's artifacts
    List {
        /// The workspace; your own by default
        #[arg(long)]
        workspace: Option<String>,
    },
    /// Retire the key that signs, and make the next
    Rotate {
        /// The workspace; your own by default
        #[arg(long)]
        workspace: Option<String>,
        /// Why
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Say that somebody else may have a key
    Revoke {
        /// The key's name (kid)
        kid: String,
        /// The workspace; your own by default
        #[arg(long)]
        workspace: Option<String>,
        /// Why
        #[arg(long)]
        reason: String,
    },
    /// The public keys, for verifiers: a JSON Web Key Set. No token is needed
    Export {
        /// The workspace
        #[arg(long, default_value = "default")]
        workspace: String,
        /// With the revoked ones, marked
        #[arg(long)]
        revoked: bool,
        /// Where it goes; standard output otherwise
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

/// Runs a command of `artifacts`.
///
/// # Errors
/// If a file cannot be read or written, or the node refuses or does not answer.
pub async fn run(global: &Global, command: Command) -> anyhow::Result<Exit> {
    match command {
        Command::Create { file, output } => {
            let made = tool(global, "create", &document(&file)?).await?;
            finish(global, &made, output.as_deref())
        }
        Command::Get { id, version, output } => {
            let found = tool(global, "get", &about(&id, version)).await?;
            finish(global, &found, output.as_deref())
        }
        Command::Verify { artifact, version } => {
            let is_file = Path::new(&artifact).is_file();
            let arguments =
                if is_file { json!({ "jws": jws(Path::new(&artifact))? }) } else { about(&artifact, version) };
            Ok(verdict(global, &tool(global, "verify", &arguments).await?, VERDICT))
        }
        Command::List { artifact_type, compliance, since, until, limit } => {
            let mut arguments = json!({ "limit": limit });
            for (name, value) in [("type", artifact_type), ("since", since), ("until", until)] {
                value.into_iter().for_each(|value| arguments[name] = value.into());
            }
            if !compliance.is_empty() {
                arguments["compliance"] = compliance.into();
            }
            let found = tool(global, "list", &arguments).await?;
            Ok(show(global, &found, listed))
        }
        Command::Provenance { id } => {
            Ok(show(global, &tool(global, "provenance", &about(&id, None)).await?, provenance))
        }
        Command::Hold { id, version, release, reason } => {
            let mut arguments = about(&id, version);
            (arguments["hold"], arguments["reason"]) = (json!(!release), json!(reason));
            Ok(show(global, &tool(global, "hold", &arguments).await?, held))
        }
        Command::Scrub => {
            let found = Node::find(global)?.post("/admin/artifacts/scrub", &json!({})).await?;
            Ok(concluded(global, &found, is_intact, scrubbed))
        }
    }
}

/// Runs a command of `keys`.
///
/// # Errors
/// As [`run`].
pub async fn keys(global: &Global, command: KeysCommand) -> anyhow::Result<Exit> {
    match command {
        KeysCommand::List { workspace } => {
            let query = workspace.map(|name| format!("?workspace={}", escaped(&name))).unwrap_or_default();
            Ok(show(global, &Node::find(global)?.get(&format!("/admin/keys{query}")).await?, keys_listed))
        }
        KeysCommand::Rotate { workspace, reason } => {
            let made = Node::find(global)?.post("/admin/keys/rotate", &order(workspace, &reason)).await?;
            Ok(show(global, &made, |made| {
                output::line(format!("the key {} signs from now on", output::text(made, "/kid")))
            }))
        }
        KeysCommand::Revoke { kid, workspace, reason } => {
            let path = format!("/admin/keys/{}/revoke", escaped(&kid));
            let done = Node::find(global)?.post(&path, &order(workspace, &reason)).await?;
            Ok(show(global, &done, |done| output::line(format!("revoked; receipt {}", output::text(done, "/receipt")))))
        }
        KeysCommand::Export { workspace, revoked, output } => {
            let node = Node::find_public(global)?;
            let node = node.ok_or_else(|| Failure::new(Exit::Unreachable, "no node runs on this data directory"))?;
            let path = format!("/jwks/{}?revoked={revoked}", escaped(&workspace));
            let reply = node.send("GET", &path, &[], None).await?;
            if !reply.is_success() {
                return Err(reply.failure().into());
            }
            match output {
                Some(path) => write(&path, &reply.body)?,
                None => output::line(String::from_utf8_lossy(&reply.body)),
            }
            Ok(Exit::Ok)
        }
    }
}

/// What a tool of `artifacts` gives; the `202` of a call that waits for people as it is.
async fn tool(global: &Global, name: &str, arguments: &Value) -> anyhow::Result<Value> {
    let answer = Node::find(global)?.post(&format!("/tools/artifacts:{name}/invoke"), arguments).await?;
    if answer["status"] == "tool_error" {
        let why = output::text(&answer, "/result/content/0/text");
        return Err(Failure::new(Exit::ToolError, why).into());
    }
    Ok(match answer["status"].as_str() {
        Some("ok") => answer["result"]["structuredContent"].clone(),
        _ => answer,
    })
}

fn document(path: &Path) -> anyhow::Result<Value> {
    let name = path.display().to_string();
    object(&String::from_utf8(read(path)?).with_context(|| name.clone())?, &name)
}

fn jws(path: &Path) -> anyhow::Result<Value> {
    let text = String::from_utf8(read(path)?).with_context(|| path.display().to_string())?;
    Ok(serde_json::from_str(&text).unwrap_or_else(|_| Value::from(text.trim())))
}

fn about(id: &str, version: Option<u64>) -> Value {
    let mut arguments = json!({ "id": id });
    version.into_iter().for_each(|version| arguments["version"] = version.into());
    arguments
}

fn order(workspace: Option<String>, reason: &str) -> Value {
    let mut order = json!({ "reason": reason });
    workspace.into_iter().for_each(|name| order["workspace"] = name.into());
    order
}

fn finish(global: &Global, found: &Value, to: Option<&Path>) -> anyhow::Result<Exit> {
    if let (Some(path), true) = (to, found["jws"].is_object()) {
        write(path, found["jws"].to_string().as_bytes())?;
    }
    Ok(show(global, found, |found| {
        let (id, version) = (output::text(found, "/id"), output::text(found, "/version"));
        output::line(format!("{} {id} version {version}", output::paint(Style::Good, "signed")));
        members(
            found,
            &[
                ("type", "/type"),
                ("stored", "/stored_at"),
                ("digest", "/digest"),
                ("key", "/kid"),
                ("entry", "/entry_id"),
                ("at", "/url"),
                ("kept", "/retention/until"),
            ],
        );
        if found["hold"] == true {
            output::line("  under legal hold");
        }
    }))
}

fn held(told: &Value) {
    let state = if told["hold"] == true { "under legal hold" } else { "under no legal hold" };
    let versions = told["versions"].as_array().map_or(0, Vec::len);
    output::line(format!("{}: {versions} versions are {state}", output::text(told, "/id")));
}

/// Everything holds, and nothing lies over it.
fn is_intact(found: &Value) -> bool {
    let bare = ["overlaid", "overlaid_documents"].iter().all(|list| found[list].as_array().is_none_or(Vec::is_empty));
    found["checked"] == found["intact"] && found["documents"] == found["documents_intact"] && bare
}

fn listed(found: &Value) {
    if list(found, "/entries").next().is_none() {
        return output::line("There are no artifacts that fit.");
    }
    table(
        ["ID", "VERSION", "TYPE", "STORED", "DIGEST"],
        list(found, "/entries"),
        ["/id", "/version", "/type", "/stored_at", "/digest"],
    );
}

fn provenance(chain: &Value) {
    let complete = if chain["complete"] == true { "complete" } else { "NOT complete" };
    output::line(format!("{}: the chain is {complete}", output::text(chain, "/artifact/id")));
    let rows = |word: &'static str, list: &str| {
        let entries = chain[list].as_array().cloned().unwrap_or_default();
        entries.into_iter().map(move |entry| {
            let of = |pointer| output::text(&entry, pointer);
            vec![word.to_owned(), of("/id"), of("/version"), of("/type"), of("/valid")]
        })
    };
    output::table(
        &["", "ID", "VERSION", "TYPE", "VALID"],
        rows("made from", "sources").chain(rows("made into", "derived")).collect(),
    );
    for source in list(chain, "/evidence") {
        output::line(format!("  rests on {}", output::text(source, "/source")));
    }
    texts(chain, "/missing", "  missing: ");
}

fn scrubbed(found: &Value) {
    let of = |pointer| output::text(found, pointer);
    output::line(format!(
        "{} artifacts, {} intact; {} documents of scans, {} intact; {} objects that nobody has",
        of("/checked"),
        of("/intact"),
        of("/documents"),
        of("/documents_intact"),
        of("/orphans")
    ));
    for one in list(found, "/damaged") {
        let of = |pointer| output::text(one, pointer);
        let place = format!("{} {} version {}", of("/workspace"), of("/id"), of("/version"));
        output::line(format!("  {} {place}: {}", output::paint(Style::Bad, "damaged"), of("/why")));
    }
    for (name, word) in [("/damaged_documents", "damaged"), ("/overlaid_documents", "overlaid")] {
        for one in list(found, name) {
            let of = |pointer| output::text(one, pointer);
            let place = format!("{} scan {}, document {}", of("/workspace"), of("/entry_id"), of("/document"));
            output::line(format!("  {} {place}: {}", output::paint(Style::Bad, word), of("/why")));
        }
    }
    for one in list(found, "/overlaid") {
        let of = |pointer| output::text(one, pointer);
        let place = format!("{} {} version {}", of("/workspace"), of("/id"), of("/version"));
        output::line(format!("  {} {place}: {}", output::paint(Style::Bad, "overlaid"), of("/why")));
    }
}

fn keys_listed(keys: &Value) {
    if list(keys, "").next().is_none() {
        return output::line("There is no key yet; the first artifact makes one.");
    }
    table(["KEY", "STATE", "MADE", "RETIRED"], list(keys, ""), ["/kid", "/state", "/created", "/retired"]);
}
