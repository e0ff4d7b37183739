//! `budgets` and `breakers`: what was used of what may be used, and what is left alone after failures.

use serde_json::{Value, json};

use crate::cli::Global;
use crate::client::Node;
use crate::exit::Exit;
use crate::output::{self, Style};

/// What to do with circuit breakers.
#[derive(Debug, clap::Subcommand)]
pub enum BreakersCommand {
    /// How the node's breakers stand: one for each upstream and each tool that was called
    #[command(after_help = "Example:\n  countersign breakers list --json")]
    List,
    /// Close a breaker now instead of after its pause
    #[command(after_help = "Example:\n  countersign breakers reset ads --reason 'the server is back'")]
    Reset {
        /// An upstream, or `upstream:tool`
        name: String,
        /// Why; recorded in the event
        #[arg(long)]
        reason: Option<String>,
    },
}

/// Lists or closes breakers.
///
/// # Errors
/// If the node refuses or does not answer.
pub async fn breakers(global: &Global, command: BreakersCommand) -> anyhow::Result<Exit> {
    let node = Node::find(global)?;
    let BreakersCommand::Reset { name, reason } = command else {
        list_breakers(global, &node.get("/admin/breakers").await?);
        return Ok(Exit::Ok);
    };
    let body = json!({ "name": name, "reason": reason.unwrap_or_default() });
    let reply = node.post("/admin/breakers/reset", &body).await?;
    if global.json {
        output::json(&reply);
    } else {
        let done = output::visible(&format!("closed: {name}"));
        output::line(format!("{}  receipt {}", output::paint(Style::Good, &done), output::text(&reply, "/receipt")));
    }
    Ok(Exit::Ok)
}

fn list_breakers(global: &Global, breakers: &Value) {
    if global.json {
        return output::json(breakers);
    }
    let breakers = breakers.as_array().cloned().unwrap_or_default();
    if breakers.is_empty() {
        return output::line("No calls were made yet.");
    }
    let rows = breakers.iter().map(|breaker| {
        let next = breaker["retry_after"].as_u64().map_or_else(|| "–".to_owned(), |seconds| format!("in {seconds} s"));
        vec![
            output::text(breaker, "/name"),
            output::text(breaker, "/state"),
            format!("{} of {}", breaker["failures"], breaker["calls"]),
            next,
            output::text(breaker, "/last_failure"),
        ]
    });
    output::table(&["NAME", "STATE", "FAILED", "NEXT TRY", "LAST FAILURE"], rows.collect());
}

/// Lists what was used of budgets in the periods that run now.
///
/// # Errors
/// If the node refuses or does not answer.
pub async fn budgets(global: &Global) -> anyhow::Result<Exit> {
    let budgets = Node::find(global)?.get("/admin/budgets").await?;
    if global.json {
        output::json(&budgets);
        return Ok(Exit::Ok);
    }
    let budgets = budgets.as_array().cloned().unwrap_or_default();
    if budgets.is_empty() {
        output::line("No budget was used in the current periods.");
        return Ok(Exit::Ok);
    }
    let number = |value: &Value| value.as_u64().map_or_else(|| "–".to_owned(), |n| n.to_string());
    let rows = budgets.iter().map(|budget| {
        let until = budget["end"].as_i64().map_or_else(|| "–".into(), output::utc);
        vec![
            output::text(budget, "/key/budget"),
            output::text(budget, "/key/workspace"),
            output::text(budget, "/key/principal"),
            number(&budget["used"]),
            number(&budget["limit"]),
            until,
        ]
    });
    output::table(&["BUDGET", "WORKSPACE", "PRINCIPAL", "USED", "OF", "UNTIL"], rows.collect());
    Ok(Exit::Ok)
}
