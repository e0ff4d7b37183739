//! Administration: `freeze`, `unfreeze`, `freezes`, `unknown`, `erase`. Each is one request, and an event of its own.

use clap::ValueEnum;
use serde_json::json;

use crate::cli::Global;
use crate::client::{Node, escaped};
use crate::exit::{Exit, Failure};
use crate::output::{self, Style};

/// What can be frozen.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Target {
    /// An agent, a person or a service, by its id
    Principal,
    /// One tool, as `upstream:tool`
    Tool,
    /// Every tool of an upstream
    Upstream,
    /// Everything of a workspace
    Workspace,
}

impl Target {
    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

/// Options of `freeze`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  countersign freeze principal campaign-bot --reason 'creates campaigns nobody asked for'
  countersign freeze tool ads:deleteCampaign --reason 'incident 12'")]
pub struct FreezeArgs {
    /// What kind of thing
    target: Target,
    /// Its name
    name: String,
    /// Why; recorded in the event and shown to whoever is refused
    #[arg(long)]
    reason: String,
}

/// Options of `unfreeze`.
#[derive(Debug, clap::Args)]
pub struct UnfreezeArgs {
    /// What kind of thing
    target: Target,
    /// Its name
    name: String,
    /// Why
    #[arg(long)]
    reason: Option<String>,
}

/// What to do with writes of unknown outcome.
#[derive(Debug, clap::Subcommand)]
pub enum UnknownCommand {
    /// The writes whose outcome nobody knows; an identical write is refused until a person has looked
    List,
    /// Settle one after looking at the upstream itself
    Resolve {
        /// The call
        call: String,
        /// What you found
        #[arg(long, value_enum)]
        outcome: Found,
        /// How you found it
        #[arg(long)]
        note: String,
    },
}

/// What a person found in the upstream.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Found {
    /// The change happened
    Executed,
    /// The change did not happen
    NotExecuted,
}

/// Options of `erase`.
#[derive(Debug, clap::Args)]
pub struct EraseArgs {
    /// The event, which is also its receipt's id
    event: String,
    /// Why; recorded in the event of the erasure
    #[arg(long)]
    reason: String,
    /// Don't ask whether you are sure
    #[arg(long, short)]
    yes: bool,
}

/// Freezes something.
///
/// # Errors
/// If the node refuses or does not answer.
pub async fn freeze(global: &Global, args: FreezeArgs) -> anyhow::Result<Exit> {
    let body = json!({ "kind": args.target.name(), "name": args.name, "reason": args.reason });
    post(global, "/admin/freeze", body, &format!("frozen: {} {}", args.target.name(), args.name)).await
}

/// Lifts a freeze.
///
/// # Errors
/// If the node refuses or does not answer.
pub async fn unfreeze(global: &Global, args: UnfreezeArgs) -> anyhow::Result<Exit> {
    let mut body = json!({ "kind": args.target.name(), "name": args.name });
    if let Some(reason) = args.reason {
        body["reason"] = reason.into();
    }
    post(global, "/admin/unfreeze", body, &format!("no longer frozen: {} {}", args.target.name(), args.name)).await
}

/// Lists what is frozen.
///
/// # Errors
/// If the node refuses or does not answer.
pub async fn freezes(global: &Global) -> anyhow::Result<Exit> {
    let freezes = Node::find(global)?.get("/admin/freezes").await?;
    if global.json {
        output::json(&freezes);
        return Ok(Exit::Ok);
    }
    let freezes = freezes.as_array().cloned().unwrap_or_default();
    if freezes.is_empty() {
        output::line("Nothing is frozen.");
        return Ok(Exit::Ok);
    }
    let rows = freezes.iter().map(|freeze| {
        let at = freeze["at"].as_i64().map_or_else(|| "–".into(), output::utc);
        vec![
            output::text(freeze, "/target/kind"),
            output::text(freeze, "/target/name"),
            at,
            output::text(freeze, "/reason"),
        ]
    });
    output::table(&["KIND", "NAME", "SINCE", "REASON"], rows.collect());
    Ok(Exit::Ok)
}

/// Lists or settles writes of unknown outcome.
///
/// # Errors
/// If the node refuses or does not answer.
pub async fn unknown(global: &Global, command: UnknownCommand) -> anyhow::Result<Exit> {
    match command {
        UnknownCommand::List => list_unknown(global).await,
        UnknownCommand::Resolve { call, outcome, note } => {
            let outcome = match outcome {
                Found::Executed => "executed",
                Found::NotExecuted => "not-executed",
            };
            let path = format!("/admin/unknown/{}/resolve", escaped(&call));
            post(global, &path, json!({ "outcome": outcome, "note": note }), &format!("settled as {outcome}: {call}"))
                .await
        }
    }
}

async fn list_unknown(global: &Global) -> anyhow::Result<Exit> {
    let calls = Node::find(global)?.get("/admin/unknown").await?;
    if global.json {
        output::json(&calls);
        return Ok(Exit::Ok);
    }
    let calls = calls.as_array().cloned().unwrap_or_default();
    if calls.is_empty() {
        output::line("The outcome of every write is known.");
        return Ok(Exit::Ok);
    }
    let rows = calls.iter().map(|call| {
        let at = call["at"].as_i64().map_or_else(|| "–".into(), output::utc);
        vec![output::text(call, "/call"), output::text(call, "/tool"), output::text(call, "/principal/id"), at]
    });
    output::table(&["CALL", "TOOL", "BY", "SINCE"], rows.collect());
    output::line(
        "\nLook in the upstream what happened, then: countersign unknown resolve CALL --outcome executed|not-executed --note …",
    );
    Ok(Exit::Ok)
}

/// Erases one event's body and salt.
///
/// # Errors
/// If the node refuses or does not answer.
pub async fn erase(global: &Global, args: EraseArgs) -> anyhow::Result<Exit> {
    let question = format!("Erase the body of event {} for good?", args.event);
    if output::can_ask() && !args.yes && !output::ask(&question) {
        return Err(Failure::new(Exit::Failed, "nothing was erased").into());
    }
    let body = json!({ "event": args.event, "reason": args.reason });
    post(global, "/admin/erase", body, &format!("erased: {}; its commitment stays in the log", args.event)).await
}

async fn post(global: &Global, path: &str, body: serde_json::Value, done: &str) -> anyhow::Result<Exit> {
    let reply = Node::find(global)?.post(path, &body).await?;
    if global.json {
        output::json(&reply);
    } else {
        output::line(format!(
            "{}  receipt {}",
            output::paint(Style::Good, &output::visible(done)),
            output::text(&reply, "/receipt")
        ));
    }
    Ok(Exit::Ok)
}
