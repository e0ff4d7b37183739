//! `cargo xtask evidence`: what stays provable when a backup is restored, and what can no longer be learned after an erasure.
//!
//! Restored are the database alone (by the product's own commands) and the whole data directory (by copying it, as an operator
//! in a hurry would). In both cases the head outside of it tells the node that it is behind: it must open a new log that
//! names the old one's head, and never sign another history of the old one.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use countersign_testkit::node::Launch;
use countersign_testkit::{Client, Home, Node, receipts};
use serde_json::{Value, json};

use crate::{crash, paths};

/// Runs the three checks.
///
/// # Errors
/// If the test itself cannot be run.
pub fn run(binary: &Path) -> Result<bool> {
    let mut held = 0;
    let checks: [(&str, Check); 3] = [
        ("restore of the database", |binary| restore(binary, "evidence-database", restore_database)),
        ("restore of the data directory", |binary| restore(binary, "evidence-directory", restore_directory)),
        ("erasure of one event", erase),
    ];
    for (name, check) in checks {
        match check(binary) {
            Ok(()) => {
                held += 1;
                println!("  held     {name}");
            }
            Err(error) => println!("  FAILED   {name}: {error:#}"),
        }
    }
    println!("evidence {held}/{}", checks.len());
    Ok(held == checks.len())
}

type Check = fn(&Path) -> Result<()>;

struct Setting {
    launch: Launch,
    home: Home,
    directory: PathBuf,
    writes: usize,
}

impl Setting {
    fn new(binary: &Path, name: &str) -> Result<Self> {
        let directory = paths::run_directory(name)?;
        let home = Home::create(&directory.join("home"), "")?;
        home.manifest("ads", &crash::ads_manifest(&directory.join("upstream"))?)?;
        Ok(Self { launch: Launch::new(binary), home, directory, writes: 0 })
    }

    fn start(&self) -> Result<Node> {
        let node = self.launch.start(&self.home)?;
        node.accept_all_tools(&["ads"])?;
        crash::allow_writers(&self.home, &node)?;
        Ok(node)
    }

    fn writer(&self, node: &Node) -> Client {
        node.client(&self.home.agent("writer", &["writer"]))
    }

    /// Three writes; their receipts' ids and files.
    fn write(&mut self, node: &Node) -> Result<BTreeMap<String, Vec<u8>>> {
        let mut http = self.writer(node);
        let mut files = BTreeMap::new();
        for _ in 0..3 {
            self.writes += 1;
            let body = json!({"name": format!("evidence-{}", self.writes), "budget": 100, "startDate": "2026-12-01"});
            let answer = http.post("/tools/ads:createCampaign/invoke", &body)?.expect(200)?;
            let id = answer["receipt"].as_str().context("no receipt")?.to_owned();
            files.insert(id.clone(), http.get(&format!("/receipts/{id}"))?.body);
        }
        Ok(files)
    }

    fn command(&self, arguments: &[&str]) -> Result<String> {
        let output =
            Command::new(&self.launch.binary).arg("--home").arg(self.home.directory()).args(arguments).output()?;
        let text = String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned();
        ensure!(output.status.success(), "countersign {}: {}\n{text}", arguments.join(" "), output.status);
        Ok(text)
    }
}

/// How a backup is made, and how it is put back.
type Method = fn(&mut Setting, Step) -> Result<()>;

enum Step<'a> {
    /// The node runs.
    BackUp(&'a Node),
    /// No node runs.
    PutBack,
}

fn restore_database(setting: &mut Setting, step: Step<'_>) -> Result<()> {
    let backup = setting.directory.join("backup").display().to_string();
    match step {
        Step::BackUp(node) => {
            let url = format!("http://{}", node.home().address());
            setting.command(&["--url", &url, "--token", &setting.home.operator(), "backup", &backup]).map(|_| ())
        }
        Step::PutBack => setting.command(&["restore", &backup, "--yes"]).map(|_| ()),
    }
}

fn restore_directory(setting: &mut Setting, step: Step<'_>) -> Result<()> {
    let (data, copy) = (setting.home.directory().join("data"), setting.directory.join("copy"));
    match step {
        // A copy of a directory that is being written is torn; it is made in a pause, see `restore`.
        Step::BackUp(_) => Ok(()),
        Step::PutBack => {
            fs::remove_dir_all(&data)?;
            copy_tree(&copy, &data)
        }
    }
}

fn restore(binary: &Path, name: &str, method: Method) -> Result<()> {
    let mut setting = Setting::new(binary, name)?;
    let node = setting.start()?;
    let before = setting.write(&node)?;
    method(&mut setting, Step::BackUp(&node))?;
    node.stop()?;
    copy_tree(&setting.home.directory().join("data"), &setting.directory.join("copy"))?;

    let node = setting.start()?;
    let lost = setting.write(&node)?;
    let old = logs(&node)?;
    ensure!(old.len() == 1, "{} logs before the restore", old.len());
    let old_head = checkpoint(&node)?;
    node.stop()?;
    method(&mut setting, Step::PutBack)?;

    let node = setting.start().context("after the restore")?;
    let after = setting.write(&node)?;
    let new = logs(&node)?;
    ensure!(new.len() == 2 && new[0]["origin"] == old[0]["origin"], "the logs are {new:?}");
    ensure!(checkpoint(&node)?[0] != old_head[0], "the node goes on signing the old log");
    names_predecessor(&node, &old_head)?;
    no_fork(&node, &old_head)?;
    let anchors = receipts::anchors(&mut node.anonymous())?;
    for (id, file) in before.iter().chain(&lost).chain(&after) {
        let report = receipts::verify(file, &anchors);
        ensure!(report.is_valid(), "the receipt {id} is not valid:\n{report}");
    }
    let mut http = setting.writer(&node);
    for id in before.keys().chain(after.keys()) {
        receipts::fetch_valid(&mut http, id, &anchors)?;
    }
    node.stop()?;
    setting.command(&["log", "fsck"]).map(|_| ())
}

fn logs(node: &Node) -> Result<Vec<Value>> {
    let logs = node.anonymous().get("/logs")?.expect(200)?;
    logs.as_array().cloned().context("/logs is no list")
}

/// The lines of the open log's checkpoint: origin, size, root.
fn checkpoint(node: &Node) -> Result<Vec<String>> {
    let answer = node.anonymous().get("/checkpoint")?;
    ensure!(answer.status == 200, "HTTP {}", answer.status);
    Ok(String::from_utf8_lossy(&answer.body).lines().take(3).map(str::to_owned).collect())
}

/// The new log's first leaf names the old one's newest head, which the restored database does not know.
fn names_predecessor(node: &Node, old_head: &[String]) -> Result<()> {
    let events =
        node.operator().get("/audit/events?workspace=_node&type=log.opened&limit=10&order=desc")?.expect(200)?;
    let text = events.to_string();
    ensure!(text.contains(&old_head[0]), "no log.opened event names {}: {text}", old_head[0]);
    ensure!(text.contains(&old_head[2]), "no log.opened event names the root of size {}: {text}", old_head[1]);
    Ok(())
}

/// Whatever is still signed for the old log has a size and root that it had before.
fn no_fork(node: &Node, old_head: &[String]) -> Result<()> {
    let answer = node.anonymous().get(&format!("/logs/{}/checkpoint", old_head[0]))?;
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    let lines: Vec<&str> = text.lines().take(3).collect();
    ensure!(answer.status == 200 && lines.len() == 3, "the old log's checkpoint: HTTP {}", answer.status);
    let (size, newest): (u64, u64) = (lines[1].parse()?, old_head[1].parse()?);
    ensure!(size <= newest, "the old log grew from {newest} to {size}");
    ensure!(size < newest || lines[2] == old_head[2], "the old log has two roots at size {size}");
    Ok(())
}

fn erase(binary: &Path) -> Result<()> {
    let mut setting = Setting::new(binary, "evidence-erasure")?;
    let node = setting.start()?;
    let files = setting.write(&node)?;
    let anchors = receipts::anchors(&mut node.anonymous())?;
    let (erased, others): (Vec<&String>, Vec<&String>) = files.keys().partition(|id| Some(*id) == files.keys().next());
    let erased = erased.first().context("no event")?;
    let receipt: Value = serde_json::from_slice(&files[*erased])?;
    let body = receipts::subject_event(&receipt)?.clone();

    let answer = node.operator().post("/admin/erase", &json!({"event": erased, "reason": "a person asked for it"}))?;
    ensure!(answer.status < 300, "erasing: HTTP {} {:?}", answer.status, answer.json());
    let mut http = setting.writer(&node);
    let gone = http.get(&format!("/receipts/{erased}"))?;
    ensure!(gone.status == 404 || gone.status == 410, "the erased event's receipt: HTTP {}", gone.status);
    for id in &others {
        receipts::fetch_valid(&mut http, id, &anchors)?;
    }
    // The receipt that was given out stays valid: erasing takes away what the node knows, not what others were given.
    ensure!(
        receipts::verify(&files[*erased], &anchors).is_valid(),
        "the receipt given out before is not valid any more"
    );
    cannot_be_guessed(&node, &body)?;
    node.stop()?;
    setting.command(&["log", "fsck"])?;
    forgotten_on_disk(&setting, erased, &body)
}

/// Whoever guesses the event to the last bit, without its salt, finds nothing in what is public that confirms it.
fn cannot_be_guessed(node: &Node, event: &Value) -> Result<()> {
    let size: u64 = checkpoint(node)?[1].parse()?;
    let mut public = Vec::new();
    for path in [format!("/tile/entries/000.p/{size}"), format!("/tile/0/000.p/{size}"), "/checkpoint".to_owned()] {
        let answer = node.anonymous().get(&path)?;
        ensure!(answer.status == 200, "{path}: HTTP {}", answer.status);
        public.extend(answer.body);
    }
    for guess in receipts::guesses(event)? {
        ensure!(!public.windows(guess.len()).any(|w| w == guess), "a guess is confirmed by what is public");
    }
    let text = String::from_utf8_lossy(&public);
    ensure!(!text.contains("createCampaign") && !text.contains("writer"), "what is public names tools or people");
    Ok(())
}

/// Neither the database nor its log still has the event's bytes.
fn forgotten_on_disk(setting: &Setting, erased: &str, event: &Value) -> Result<()> {
    let bytes = receipts::canonical(event)?;
    for entry in fs::read_dir(setting.home.directory().join("data"))? {
        let path = entry?.path();
        if path.is_file() {
            let content = fs::read(&path)?;
            let found = content.windows(bytes.len()).any(|w| w == bytes);
            ensure!(!found, "{} still has the erased event {erased}", path.display());
        }
    }
    Ok(())
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target)?;
        }
    }
    fs::set_permissions(to, fs::metadata(from)?.permissions())?;
    Ok(())
}
