//! What lies outside the workspace: teams that are told, packages of public registries.

use serde_json::{Value, json};

use super::super::answer::{concluded, list, members, named, table, texts, with, yes_or_no};
use crate::cli::Global;
use crate::client::Node;
use crate::exit::Exit;
use crate::output::{self, Style};

/// Options of `trust notify`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  countersign trust notify security app:2.1 --subject 'ready for review' --link https://ci.example.org/runs/7")]
pub struct Notify {
    /// Which team, as the node's configuration has it
    team: String,
    /// What about: a file, its digest, or what people call it
    artifact: String,
    /// In a line
    #[arg(long)]
    subject: Option<String>,
    /// In more lines
    #[arg(long)]
    text: Option<String>,
    /// Where to read on
    #[arg(long, value_name = "URL")]
    link: Option<String>,
}

/// Options of `trust package`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  countersign trust package pypi:requests@2.31.0
  countersign trust package npm:@scope/name@1.2.3
  countersign trust package cargo:serde@1.0.0 --list-only")]
pub struct Package {
    /// pypi:NAME@VERSION, npm:NAME@VERSION, cargo:NAME@VERSION, or a package URL
    package: String,
    /// Ask nobody but the workspace's own list
    #[arg(long)]
    list_only: bool,
}

pub(super) async fn notify(global: &Global, args: Notify) -> anyhow::Result<Exit> {
    let body = json!({ "team": args.team, "artifact": named(&args.artifact)? });
    let text = |text: Option<String>| text.map(Value::from);
    let more = [("subject", text(args.subject)), ("text", text(args.text)), ("link", text(args.link))];
    let told = Node::find(global)?.post("/v1/notifications", &with(body, &more)).await?;
    Ok(concluded(global, &told, |told| told["complete"] == true, notify_lines))
}

fn notify_lines(told: &Value) {
    match told["complete"] == true {
        true => output::line(format!("{} {}", output::paint(Style::Good, "told"), output::text(told, "/team"))),
        false => {
            output::line(format!("{} {}", output::paint(Style::Warn, "told in part:"), output::text(told, "/team")))
        }
    }
    for channel in list(told, "/channels") {
        output::line(format!("  {:<8} {}", output::text(channel, "/channel"), outcome(channel)));
        for recipient in list(channel, "/recipients") {
            output::line(format!("    {} {}", output::text(recipient, "/address"), outcome(recipient)));
        }
    }
    members(told, &[("notice", "/notification_id")]);
}

fn outcome(of: &Value) -> String {
    match of["reason"].is_string() {
        true => format!("{}: {}", output::text(of, "/outcome"), output::text(of, "/reason")),
        false => output::text(of, "/outcome"),
    }
}

pub(super) async fn package(global: &Global, args: Package) -> anyhow::Result<Exit> {
    let external = args.list_only.then_some(Value::from(false));
    let body = with(json!({ "package": args.package }), &[("check_external", external)]);
    let found = Node::find(global)?.post("/v1/packages/verify", &body).await?;
    Ok(concluded(global, &found, |found| found["verdict"] == "ok", package_lines))
}

fn package_lines(found: &Value) {
    let verdict = output::text(found, "/verdict").to_uppercase();
    yes_or_no(found["verdict"] == "ok", &verdict, &verdict);
    output::line(format!("  {}", output::text(found, "/purl")));
    texts(found, "/reasons", "  ");
    for warning in list(found, "/warnings") {
        let what = output::paint(Style::Warn, "warning:");
        output::line(format!("  {what} {}", output::text(warning, "/detail")));
    }
    table(["SOURCE", "STATUS", "WHAT"], list(found, "/sources"), ["/source", "/status", "/detail"]);
    if list(found, "/vulnerabilities").next().is_some() {
        table(
            ["VULNERABILITY", "SEVERITY", "SUMMARY"],
            list(found, "/vulnerabilities"),
            ["/id", "/severity", "/summary"],
        );
    }
    texts(found, "/not_checked", "  not checked: ");
}
