//! `countersign approvals`: what waits for people, and their answers.

use serde_json::{Value, json};

use crate::cli::Global;
use crate::client::{Node, escaped};
use crate::exit::{Exit, Failure};
use crate::output::{self, Style};

/// What to do with requests for approval.
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "\
Examples:
  countersign approvals list
  countersign approvals show ID
  countersign approvals approve ID --as tess,treasurer
  countersign approvals deny ID --reason 'wrong quarter' --as tess,treasurer")]
pub enum Command {
    /// The requests that you may see, newest first
    List {
        /// Only these: pending, redeemed, denied, expired, revoked, withdrawn
        #[arg(long)]
        status: Option<String>,
        /// At most this many
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
    /// One request with the exact arguments
    Show {
        /// The request
        id: String,
    },
    /// Agree to exactly these arguments
    Approve(Answer),
    /// Refuse; identical requests stay refused until this one expires
    Deny(Answer),
}

/// One person's answer.
#[derive(Debug, clap::Args)]
pub struct Answer {
    /// The request
    id: String,
    /// Why, in your own words
    #[arg(long)]
    reason: Option<String>,
    /// Don't ask whether you are sure
    #[arg(long, short)]
    yes: bool,
}

/// Shows or answers requests.
///
/// # Errors
/// If the node refuses or does not answer.
pub async fn run(global: &Global, command: Command) -> anyhow::Result<Exit> {
    let node = Node::find(global)?;
    match command {
        Command::List { status, limit } => list(global, &node, status, limit).await,
        Command::Show { id } => {
            let view = node.get(&format!("/approvals/{}", escaped(&id))).await?;
            if global.json {
                output::json(&view)
            } else {
                show(&view)
            }
            Ok(Exit::Ok)
        }
        Command::Approve(answer) => decide(global, &node, answer, "approve").await,
        Command::Deny(answer) => decide(global, &node, answer, "deny").await,
    }
}

async fn list(global: &Global, node: &Node, status: Option<String>, limit: u32) -> anyhow::Result<Exit> {
    let status = status.map(|status| format!("&status={}", escaped(&status))).unwrap_or_default();
    let views = node.get(&format!("/approvals?limit={limit}{status}")).await?;
    if global.json {
        output::json(&views);
        return Ok(Exit::Ok);
    }
    let views = views.as_array().cloned().unwrap_or_default();
    if views.is_empty() {
        output::line("Nothing waits for an answer that you may see.");
        return Ok(Exit::Ok);
    }
    let rows = views.iter().map(|view| {
        let left = view["expires_at"].as_i64().map(|at| output::span(at - output::now_ms()));
        let left = if view["status"] == "pending" { left.unwrap_or_default() } else { "–".into() };
        let who = requester(view);
        vec![
            output::text(view, "/id"),
            state(view),
            output::text(view, "/tool"),
            who,
            owed(&view["owed"]),
            left,
            options(view),
        ]
    });
    output::table(&["REQUEST", "STATUS", "TOOL", "ASKED BY", "OWED", "LEFT", "YOU CAN"], rows.collect());
    Ok(Exit::Ok)
}

async fn decide(global: &Global, node: &Node, answer: Answer, decision: &str) -> anyhow::Result<Exit> {
    let path = format!("/approvals/{}", escaped(&answer.id));
    if output::can_ask() && !answer.yes && !global.json {
        show(&node.get(&path).await?);
        if !output::ask(&format!("\n{decision} exactly this?")) {
            return Err(Failure::new(Exit::Failed, "nothing was answered").into());
        }
    }
    let mut body = json!({ "decision": decision });
    if let Some(reason) = answer.reason {
        body["reason"] = reason.into();
    }
    let view = node.post(&path, &body).await?;
    if global.json {
        output::json(&view);
        return Ok(Exit::Ok);
    }
    let given = view["answers"].as_array().and_then(|answers| answers.last()).cloned().unwrap_or_default();
    let receipt = output::text(&given, "/receipt");
    output::line(format!("{} {}  receipt {receipt}", output::paint(Style::Good, "recorded:"), state(&view)));
    Ok(Exit::Ok)
}

fn show(view: &Value) {
    let field = |name: &str, value: String| {
        output::line(format!("{} {value}", output::paint(Style::Dim, &format!("{name:<10}"))))
    };
    field("request", output::text(view, "/id"));
    field("status", state(view));
    field("tool", format!("{}  ({})", output::text(view, "/tool"), output::text(view, "/effect")));
    field("asked by", requester(view));
    field("owed", owed(&view["owed"]));
    for reason in view["owed"]["reasons"].as_array().into_iter().flatten() {
        field("because", output::text(reason, ""));
    }
    field("arguments", String::new());
    for text in view["preview"].as_str().unwrap_or("(no longer kept)").lines() {
        output::line(format!("    {}", output::visible(text)));
    }
    for answer in view["answers"].as_array().into_iter().flatten() {
        let word = if answer["granted"] == true { "agreed" } else { "refused" };
        let reason =
            answer["reason"].as_str().map(|reason| format!(": {}", output::visible(reason))).unwrap_or_default();
        field(word, format!("{} ({}){reason}", output::text(answer, "/principal/id"), output::text(answer, "/kind")));
    }
    if let Some(at) = view["expires_at"].as_i64() {
        field("expires", output::utc(at));
    }
    field("you can", options(view));
}

/// `person via agent`, marked if a development identity.
fn requester(view: &Value) -> String {
    let agent = output::text(view, "/principal/id");
    let who = match view["principal"]["on_behalf_of"].as_str() {
        Some(person) => format!("{agent} for {}", output::visible(person)),
        None => agent,
    };
    if view["principal"]["development"] == true { format!("{who} [development]") } else { who }
}

fn state(view: &Value) -> String {
    let status = output::text(view, "/status");
    let style = match status.as_str() {
        "pending" => Style::Warn,
        "redeemed" => Style::Good,
        _ => Style::Bad,
    };
    output::paint(style, &status)
}

fn options(view: &Value) -> String {
    let kinds: Vec<&str> = view["can_answer"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    match (kinds.is_empty(), view["cannot_answer"].as_str()) {
        (true, Some(why)) => format!("nothing: {}", output::visible(why)),
        (true, None) => "nothing".into(),
        (false, _) => kinds.join(", "),
    }
}

/// What is owed, in words.
pub fn owed(owed: &Value) -> String {
    let mut parts = Vec::new();
    if owed["confirm"] == true {
        parts.push("confirmation by the person behind the agent".to_owned());
    }
    let approvals = owed["approvals"].as_u64().unwrap_or(0);
    if approvals > 0 {
        let sets = owed["approver_roles"].as_array().into_iter().flatten();
        let roles: Vec<String> = sets.map(role_set).filter(|set| !set.is_empty()).collect();
        let by = if roles.is_empty() { String::new() } else { format!(" by {}", roles.join(" and ")) };
        parts.push(format!("{approvals} approval{}{by}", if approvals == 1 { "" } else { "s" }));
    }
    if parts.is_empty() { "nothing".into() } else { parts.join(" and ") }
}

fn role_set(set: &Value) -> String {
    let one = set.as_str().map(|role| vec![role.to_owned()]);
    let many = || set.as_array().into_iter().flatten().filter_map(|role| role.as_str().map(str::to_owned)).collect();
    output::visible(&one.unwrap_or_else(many).join(" or "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn obligations_in_words() {
        for (value, words) in [
            (json!({}), "nothing"),
            (json!({"approvals": 1, "approver_roles": [["treasurer"]]}), "1 approval by treasurer"),
            (
                json!({"confirm": true, "approvals": 2, "approver_roles": [["cfo", "treasurer"], ["legal"], []]}),
                "confirmation by the person behind the agent and 2 approvals by cfo or treasurer and legal",
            ),
        ] {
            assert_eq!(owed(&value), words);
        }
    }
}
