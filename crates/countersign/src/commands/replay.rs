//! `countersign policy replay` and `policy explain --call`: past decisions, made again.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::cli::Global;
use crate::client::{Node, escaped};
use crate::exit::{Exit, Failure};
use crate::output::{self, Style};

const DAY_MS: i64 = 86_400_000;
/// Groups of differences that are told apart, and examples shown of each.
const MAX_GROUPS: usize = 500;
const EXAMPLES: usize = 3;
/// The largest receipt file that is looked into.
const MAX_RECEIPT_BYTES: u64 = 4 << 20;

/// Which calls, and by which policies.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The edited policies: a directory with access/*.cedar and approval/*.cedar
    #[arg(long, value_name = "DIR")]
    set: PathBuf,
    /// How far back, in days
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=3660))]
    days: u32,
    /// The workspace; by default that of the token
    #[arg(long, value_name = "NAME")]
    workspace: Option<String>,
}

/// What came of all pages.
#[derive(Default)]
struct Sum {
    version: Value,
    workspace: Value,
    replayed: u64,
    changes: BTreeMap<String, u64>,
    not_replayed: BTreeMap<String, u64>,
    groups: BTreeMap<GroupKey, Group>,
    /// Differences beyond the groups that are told apart.
    further: u64,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct GroupKey {
    change: String,
    tool: String,
    before: String,
    after: String,
}

struct Group {
    count: u64,
    /// The first difference in full, and the ids of calls like it.
    first: Value,
    calls: Vec<String>,
}

/// Decides the calls of the last days again by an edited set, page by page.
///
/// # Errors
/// If the files can't be read, or the node refuses or does not answer.
pub async fn replay(global: &Global, args: &Args) -> anyhow::Result<Exit> {
    let files: Vec<Value> = super::policy::sources(&args.set)?
        .into_iter()
        .map(|file| json!({ "path": file.path, "kind": file.kind, "text": file.text }))
        .collect();
    let node = Node::find(global)?;
    let since = output::now_ms() - i64::from(args.days) * DAY_MS;
    let mut body = json!({ "files": files, "workspace": args.workspace, "since": since });
    let mut sum = Sum::default();
    let shows_progress = std::io::stderr().is_terminal() && !global.json;
    loop {
        let page = node.post("/admin/policy/replay", &body).await?;
        sum.add(&page);
        if shows_progress {
            eprint!("\r{} calls decided again", sum.replayed);
        }
        if page["next"].is_null() {
            break;
        }
        // The end stays where it was for the first page: a busy node would never be done.
        body["until"] = page["until"].clone();
        body["cursor"] = page["next"].clone();
    }
    if shows_progress {
        eprintln!();
    }
    let differs = sum.changes.values().any(|count| *count > 0);
    if global.json {
        output::json(&sum.as_json(args.days));
    } else {
        sum.show(args.days);
    }
    Ok(if differs { Exit::Invalid } else { Exit::Ok })
}

/// Explains a past call, given by its id, an event's, or a receipt file.
///
/// # Errors
/// If the file is no receipt, or the node refuses or does not answer.
pub async fn explain_past(global: &Global, call: &str) -> anyhow::Result<Exit> {
    let id = if Path::new(call).is_file() { subject_of(Path::new(call))? } else { call.to_owned() };
    let reply = Node::find(global)?.get(&format!("/admin/policy/calls/{}", escaped(&id))).await?;
    match reply["text"].as_str() {
        Some(text) if !global.json => output::line(output::visible(text.trim_end())),
        _ => output::json(&reply),
    }
    Ok(Exit::Ok)
}

/// The event that a receipt is of. Only a hint here: the node says what it knows of that event.
fn subject_of(path: &Path) -> anyhow::Result<String> {
    let size = std::fs::metadata(path).with_context(|| format!("reading {}", path.display()))?.len();
    let no_receipt = || Failure::new(Exit::Usage, format!("{} is not a receipt", path.display()));
    if size > MAX_RECEIPT_BYTES {
        return Err(no_receipt().into());
    }
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let receipt: Value = serde_json::from_str(&text).map_err(|_| no_receipt())?;
    Ok(receipt["subject"].as_str().ok_or_else(no_receipt)?.to_owned())
}

impl Sum {
    fn add(&mut self, page: &Value) {
        self.version = page["version"].clone();
        self.workspace = page["workspace"].clone();
        self.replayed += page["replayed"].as_u64().unwrap_or_default();
        for (why, count) in page["not_replayed"].as_object().into_iter().flatten() {
            *self.not_replayed.entry(why.clone()).or_default() += count.as_u64().unwrap_or_default();
        }
        page["differences"].as_array().into_iter().flatten().for_each(|difference| self.add_difference(difference));
    }

    fn add_difference(&mut self, difference: &Value) {
        let change = output::text(difference, "/change");
        *self.changes.entry(change.clone()).or_default() += 1;
        let key = GroupKey {
            change,
            tool: difference["tool"].as_str().map_or_else(|| difference["tool"].to_string(), str::to_owned),
            before: in_words(&difference["before"]),
            after: in_words(&difference["after"]),
        };
        let call = output::text(difference, "/call");
        if let Some(group) = self.groups.get_mut(&key) {
            group.count += 1;
            if group.calls.len() < EXAMPLES {
                group.calls.push(call);
            }
        } else if self.groups.len() < MAX_GROUPS {
            self.groups.insert(key, Group { count: 1, first: difference.clone(), calls: vec![call] });
        } else {
            self.further += 1;
        }
    }

    fn as_json(&self, days: u32) -> Value {
        let groups = self.groups.iter().map(|(key, group)| {
            json!({
                "change": key.change, "tool": key.tool, "count": group.count, "calls": group.calls,
                "before": group.first["before"], "after": group.first["after"],
            })
        });
        json!({
            "version": self.version, "workspace": self.workspace, "days": days, "replayed": self.replayed,
            "changes": self.changes, "not_replayed": self.not_replayed,
            "groups": groups.collect::<Vec<_>>(), "further": self.further,
        })
    }

    fn show(&self, days: u32) {
        let changed: u64 = self.changes.values().sum();
        output::line(format!(
            "{} calls of the last {days} days in workspace {} decided again by {}",
            self.replayed,
            output::visible(self.workspace.as_str().unwrap_or_default()),
            output::visible(self.version.as_str().unwrap_or_default())
        ));
        output::line(format!("  {:>8}  the same", self.replayed.saturating_sub(changed)));
        for (change, count) in &self.changes {
            output::line(output::paint(Style::Warn, &format!("  {count:>8}  {}", change_in_words(change))));
        }
        for (why, count) in &self.not_replayed {
            output::line(output::paint(Style::Dim, &format!("  {count:>8}  not decided again: {}", missing(why))));
        }
        for (key, group) in &self.groups {
            let head = format!("{} ({} of {})", change_in_words(&key.change), group.count, output::visible(&key.tool));
            output::line(format!("\n{}", output::paint(Style::Head, &head)));
            output::line(format!("  before  {}", output::visible(&key.before)));
            output::line(format!("  after   {}", output::visible(&key.after)));
            output::line(format!("  calls   {}", output::visible(&group.calls.join(", "))));
        }
        if self.further > 0 {
            output::line(format!("\n{} further differences of other kinds are only counted", self.further));
        }
        if changed > 0 {
            let hint = "Why one of them was decided as it was: countersign policy explain --call ID";
            output::line(format!("\n{}", output::paint(Style::Dim, hint)));
        }
    }
}

fn change_in_words(change: &str) -> &str {
    match change {
        "now-denied" => "allowed then, denied by the edited set",
        "now-allowed" => "denied then, allowed by the edited set",
        "newly-owed" => "people would have to agree, nobody had to",
        "no-longer-owed" => "nobody would have to agree, people had to",
        "owed-otherwise" => "other people, more or fewer of them, or another time to answer",
        other => other,
    }
}

fn missing(why: &str) -> &str {
    match why {
        "erased" => "an event of the call was erased",
        "swept" => "older than decisions are kept",
        "not-kept" => "nothing was kept of it",
        "too-large" => "arguments too long to be kept",
        "tool-changed" => "the tool is gone or has changed",
        "unreadable" => "what was kept can't be read",
        other => other,
    }
}

/// A decision with its policies, in a line.
fn in_words(decision: &Value) -> String {
    let names = |pointer: &str| -> Vec<String> {
        let names = decision.pointer(pointer).and_then(Value::as_array).into_iter().flatten();
        names.filter_map(|name| name.as_str().map(str::to_owned)).collect()
    };
    let determining = names("/determining");
    let verdict = decision["decision"].as_str().unwrap_or("?");
    let by = if determining.is_empty() { "no policy permits it".to_owned() } else { determining.join(", ") };
    let owed = names("/owed/policies");
    let owed = if owed.is_empty() { String::new() } else { format!("; owed by {}", owed.join(", ")) };
    format!("{verdict} ({by}{owed})")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(calls: &[(&str, &str)]) -> Value {
        let difference = |(call, policy): &(&str, &str)| {
            json!({
                "call": call, "change": "now-denied", "tool": "a:b",
                "before": {"decision": "allow", "determining": ["access/a.cedar#all"]},
                "after": {"decision": "deny", "determining": [policy]},
            })
        };
        json!({
            "version": "v", "workspace": "default", "replayed": 10, "not_replayed": {"erased": 1},
            "differences": calls.iter().map(difference).collect::<Vec<_>>(),
        })
    }

    #[test]
    fn pages_add_up_and_like_differences_are_one_group() {
        let mut sum = Sum::default();
        sum.add(&page(&[("1", "x"), ("2", "x"), ("3", "y")]));
        sum.add(&page(&[("4", "x"), ("5", "x")]));
        let all = sum.as_json(7);
        assert_eq!((&all["replayed"], &all["not_replayed"]["erased"]), (&json!(20), &json!(2)));
        assert_eq!(all["changes"], json!({"now-denied": 5}));
        let groups = all["groups"].as_array().expect("groups");
        assert_eq!(groups.len(), 2);
        assert_eq!((&groups[0]["count"], &groups[0]["calls"]), (&json!(4), &json!(["1", "2", "4"])));
    }

    #[test]
    fn groups_are_bounded() {
        let mut sum = Sum::default();
        for n in 0..=MAX_GROUPS {
            sum.add(&page(&[("1", &format!("p{n}"))]));
        }
        assert_eq!((sum.groups.len(), sum.further), (MAX_GROUPS, 1));
    }
}
