//! What is known of artifacts besides their signatures: scans, reviews, readiness, anomalies, reports.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::super::answer::{
    concluded, digest_of, list, members, named, object, object_in, read, show, table, texts, with, write, yes_or_no,
};
use crate::cli::Global;
use crate::client::Node;
use crate::exit::Exit;
use crate::output::{self, Style};

/// Severities, the worst first, as counts have them.
const SEVERITIES: [&str; 6] = ["critical", "high", "medium", "low", "none", "unknown"];

/// Options of `trust scan`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  countersign trust scan trivy.sarif --artifact app.tar.gz
  syft app.tar.gz -o cyclonedx-json | countersign trust scan - --artifact app.tar.gz --subject app:2.1")]
pub struct Scan {
    /// SARIF 2.1.0, CycloneDX or SPDX, as JSON; - is standard input
    document: PathBuf,
    /// What it is about: a file, or sha256: and 64 hexadecimal digits
    #[arg(long)]
    artifact: String,
    /// What people call the artifact
    #[arg(long)]
    subject: Option<String>,
}

/// Options of `trust scans`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  countersign trust scans app:2.1
  countersign trust scans app.tar.gz --policy limits.yaml
where limits.yaml may say
  max_high: 0
  max_age_seconds: 604800
  ignore: [{ id: CVE-2026-1, reason: not reachable, expires: '2026-12-31T00:00:00Z' }]")]
pub struct Scans {
    /// A file, its digest, or the name under which it was signed
    artifact: String,
    /// Limits on findings, as JSON or YAML; none critical or of unknown severity otherwise
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
}

/// Options of `trust review`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  countersign trust review app:2.1 --team security --approve
  countersign trust review app:2.1 --team security --needs-changes --comment 'update openssl first'")]
pub struct Review {
    /// A file, its digest, or the name under which it was signed
    artifact: String,
    /// For which team; you need its role
    #[arg(long)]
    team: String,
    #[command(flatten)]
    decision: Decision,
    /// Why; needed unless it is approved
    #[arg(long)]
    comment: Option<String>,
}

/// One of the decisions.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Decision {
    /// It may be used (approved)
    #[arg(long)]
    approve: bool,
    /// It may be used once it was changed (needs_changes)
    #[arg(long)]
    needs_changes: bool,
    /// It may not be used (rejected)
    #[arg(long)]
    reject: bool,
}

impl Decision {
    /// As the tool names it.
    fn name(&self) -> &'static str {
        match (self.approve, self.needs_changes) {
            (true, _) => "approved",
            (_, true) => "needs_changes",
            (_, _) => "rejected",
        }
    }
}

/// Items that may be left out of a checklist.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
enum Item {
    Signature,
    TransparencyLog,
    Reviews,
    Scans,
    Provenance,
}

impl Item {
    fn name(self) -> &'static str {
        match self {
            Self::Signature => "signature",
            Self::TransparencyLog => "transparency_log",
            Self::Reviews => "reviews",
            Self::Scans => "scans",
            Self::Provenance => "provenance",
        }
    }
}

/// Options of `trust readiness`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  countersign trust readiness app:2.1 --team security --team operations --rollback
  countersign trust readiness app.tar.gz --without reviews,provenance --policy limits.yaml")]
pub struct Readiness {
    /// A file, its digest, or the name under which it was signed
    artifact: String,
    /// A team that has to have approved; may be repeated
    #[arg(long)]
    team: Vec<String>,
    /// Who has to have signed: one of these; may be repeated
    #[arg(long, value_name = "IDENTITY")]
    signer: Vec<String>,
    /// Limits on findings of scans, as JSON or YAML
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// There has to be something to go back to as well
    #[arg(long)]
    rollback: bool,
    /// What need not pass
    #[arg(long, value_name = "ITEM", value_delimiter = ',')]
    without: Vec<Item>,
}

/// From when to when.
#[derive(Debug, clap::Args)]
struct Period {
    /// From this date or time on (RFC 3339)
    #[arg(long, value_name = "WHEN")]
    since: Option<String>,
    /// Up to this date or time; now by default
    #[arg(long, value_name = "WHEN")]
    until: Option<String>,
}

impl Period {
    fn body(&self) -> Value {
        let text = |text: &Option<String>| text.clone().map(Value::from);
        with(json!({}), &[("since", text(&self.since)), ("until", text(&self.until))])
    }
}

/// Options of `trust anomalies`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  countersign trust anomalies                                 the last 24 hours against the seven days before
  countersign trust anomalies --since 2026-11-01 --until 2026-11-07 --settings usual.yaml
where usual.yaml may say
  known_signers: ['https://node.example.org/workspaces/default/signers/0123456789abcdef']
  business_hours: { from_hour: 8, to_hour: 18, utc_offset_minutes: 60 }")]
pub struct Anomalies {
    #[command(flatten)]
    period: Period,
    /// Known signers, business hours, and from which numbers on something is unusual, as JSON or YAML
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
}

/// Options of `trust report`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  countersign trust report --since 2026-07-01 --until 2026-09-30 -o third-quarter.md
  countersign trust report --json > report.json")]
pub struct Report {
    #[command(flatten)]
    period: Period,
    /// Where the Markdown goes; standard output otherwise
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(super) async fn scan(global: &Global, args: Scan) -> anyhow::Result<Exit> {
    let bytes = read(&args.document)?;
    // Some compilers write a mark at the beginning, which RFC 8259 lets a reader pass over.
    let text = std::str::from_utf8(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes))?;
    let document = object(text, &args.document.display().to_string())?;
    let body = json!({ "artifact": digest_of(&args.artifact)?.to_string(), "document": document });
    let body = with(body, &[("subject", args.subject.map(Value::from))]);
    let taken = Node::find(global)?.post("/v1/scans", &body).await?;
    Ok(show(global, &taken, scan_lines))
}

fn scan_lines(taken: &Value) {
    let scan = &taken["scan"];
    output::line(format!("{} {}", output::paint(Style::Good, "taken"), made_by(scan)));
    members(taken, &[("about", "/artifact"), ("document", "/document"), ("signer", "/signer"), ("entry", "/entry_id")]);
    match scan["assessed"] == true {
        true => output::line(format!("  findings   {}", counted(&scan["findings"]))),
        false => output::line("  findings   it does not report any, which says nothing"),
    }
    if total(&scan["suppressed"]) > 0 {
        output::line(format!("  set aside  {}", counted(&scan["suppressed"])));
    }
    texts(scan, "/incomplete", "  incomplete: ");
}

/// The document's kind, and what made it.
fn made_by(scan: &Value) -> String {
    let tools = list(scan, "/tools").map(|tool| output::text(tool, "/name")).collect::<Vec<_>>();
    let by = if tools.is_empty() { String::new() } else { format!(" by {}", tools.join(", ")) };
    format!("{} {}{by}", output::text(scan, "/format"), output::text(scan, "/version"))
}

fn total(counts: &Value) -> u64 {
    SEVERITIES.iter().filter_map(|severity| counts[severity].as_u64()).sum()
}

/// Those that there are, the worst first.
fn counted(counts: &Value) -> String {
    let of = |severity: &&str| counts[severity].as_u64().filter(|count| *count > 0).map(|n| format!("{n} {severity}"));
    let counted = SEVERITIES.iter().filter_map(of).collect::<Vec<_>>();
    if counted.is_empty() { "none".to_owned() } else { counted.join(", ") }
}

pub(super) async fn scans(global: &Global, args: Scans) -> anyhow::Result<Exit> {
    let policy = args.policy.as_deref().map(object_in).transpose()?;
    let body = with(json!({ "artifact": named(&args.artifact)? }), &[("policy", policy)]);
    let found = Node::find(global)?.post("/v1/scans/check", &body).await?;
    Ok(concluded(global, &found, |found| found["passed"] == true, scans_lines))
}

fn scans_lines(found: &Value) {
    yes_or_no(found["passed"] == true, "PASSED", "NOT PASSED");
    output::line(format!("  {}", output::text(found, "/artifact")));
    output::line(format!("  findings   {}", counted(&found["verdict"]["findings"])));
    texts(found, "/verdict/reasons", "  ");
    texts(found, "/verdict/notes", "  ");
    if list(found, "/scans").next().is_none() {
        return;
    }
    let superseded: Vec<&str> = list(found, "/verdict/superseded").filter_map(Value::as_str).collect();
    let row = |one: &Value| {
        let is_old = one["entry_id"].as_str().is_some_and(|id| superseded.contains(&id));
        let state = if is_old { "superseded" } else { "counted" };
        let what = made_by(&one["scan"]);
        vec![output::text(one, "/received_at"), what, counted(&one["scan"]["findings"]), state.to_owned()]
    };
    output::table(&["RECEIVED", "DOCUMENT", "FINDINGS", ""], list(found, "/scans").map(row).collect());
}

pub(super) async fn review(global: &Global, args: Review) -> anyhow::Result<Exit> {
    let body = json!({
        "artifact": named(&args.artifact)?, "team": args.team, "decision": args.decision.name(),
    });
    let body = with(body, &[("comment", args.comment.map(Value::from))]);
    let recorded = Node::find(global)?.post("/v1/reviews", &body).await?;
    Ok(show(global, &recorded, review_lines))
}

fn review_lines(recorded: &Value) {
    let of = |pointer| output::text(recorded, pointer);
    output::line(format!("{} {} for {}", output::paint(Style::Good, "recorded:"), of("/decision"), of("/team")));
    members(recorded, &[("artifact", "/artifact"), ("by", "/by"), ("at", "/recorded_at"), ("review", "/review_id")]);
    for team in list(recorded, "/standing/teams") {
        output::line(format!("  {}: {}", output::text(team, "/team"), output::text(team, "/detail")));
    }
    // One's own work, for instance: it is recorded, and does not count.
    let own = recorded["review_id"].as_str();
    for aside in list(recorded, "/standing/set_aside").filter(|aside| own.is_some() && aside["id"].as_str() == own) {
        let why = output::text(aside, "/why");
        output::line(format!("  {} {why}", output::paint(Style::Warn, "does not count:")));
    }
}

pub(super) async fn readiness(global: &Global, args: Readiness) -> anyhow::Result<Exit> {
    let mut required = json!({});
    args.without.iter().for_each(|item| required[item.name()] = false.into());
    if args.rollback {
        required["rollback"] = true.into();
    }
    if !args.signer.is_empty() {
        required["signers"] = args.signer.into();
    }
    let teams = (!args.team.is_empty()).then(|| Value::from(args.team));
    let policy = args.policy.as_deref().map(object_in).transpose()?;
    let body = json!({ "artifact": named(&args.artifact)?, "required": required });
    let found = Node::find(global)?.post("/v1/readiness", &with(body, &[("teams", teams), ("policy", policy)])).await?;
    Ok(concluded(global, &found, |found| found["ready"] == true, readiness_lines))
}

fn readiness_lines(found: &Value) {
    yes_or_no(found["ready"] == true, "READY", "NOT READY");
    members(found, &[("artifact", "/artifact"), ("subject", "/subject")]);
    let row = |item: &Value| {
        let of = |pointer| output::text(item, pointer);
        let need = if item["required"] == true { "required" } else { "" };
        vec![of("/name"), of("/status"), need.to_owned(), of("/detail")]
    };
    output::table(&["ITEM", "STATUS", "", "WHY"], list(found, "/checklist").map(row).collect());
    texts(found, "/reasons", "  ");
}

pub(super) async fn anomalies(global: &Global, args: Anomalies) -> anyhow::Result<Exit> {
    let settings = args.settings.as_deref().map(object_in).transpose()?;
    let body = with(args.period.body(), &[("settings", settings)]);
    let found = Node::find(global)?.post("/v1/anomalies", &body).await?;
    Ok(concluded(global, &found, |found| found["status"] == "normal", anomaly_lines))
}

fn anomaly_lines(found: &Value) {
    match found["status"].as_str() {
        Some("normal") => output::line(output::paint(Style::Good, "normal")),
        Some("anomalous") => output::line(output::paint(Style::Bad, "anomalous")),
        _ => output::line(output::paint(Style::Warn, &output::text(found, "/status"))),
    }
    let at = |pointer| found.pointer(pointer).and_then(Value::as_i64).map_or_else(|| "–".to_owned(), output::utc);
    output::line(format!("  {} to {}", at("/window/from_ms"), at("/window/to_ms")));
    let of = |pointer| output::text(found, pointer);
    output::line(format!(
        "  baseline   {} signatures and {} verifications on {} days{}",
        of("/baseline/signatures"),
        of("/baseline/verifications"),
        of("/baseline/active_days"),
        if found["baseline"]["sufficient"] == true { "" } else { ", which is too little to compare with" }
    ));
    table(["CHECK", "STATUS", "WHY"], list(found, "/checks"), ["/name", "/status", "/detail"]);
    for finding in list(found, "/findings") {
        let of = |pointer| output::text(finding, pointer);
        output::line(format!("  {} {}: {}", of("/severity"), of("/kind"), of("/detail")));
    }
    if found["findings_left_out"].as_u64().is_some_and(|left| left > 0) {
        output::line(format!("  and {} more", of("/findings_left_out")));
    }
}

pub(super) async fn report(global: &Global, args: Report) -> anyhow::Result<Exit> {
    let answer = Node::find(global)?.post("/v1/compliance", &args.period.body()).await?;
    if let (Some(path), Some(text)) = (&args.output, answer["markdown"].as_str()) {
        write(path, text.as_bytes())?;
    }
    Ok(show(global, &answer, |answer| match &args.output {
        Some(path) => {
            let status = output::text(answer, "/report/status");
            output::line(format!("{}: the report is {status}", output::visible(&path.display().to_string())));
            texts(answer, "/report/incomplete_because", "  ");
        }
        None => output::line(output::visible(answer["markdown"].as_str().unwrap_or_default())),
    }))
}
