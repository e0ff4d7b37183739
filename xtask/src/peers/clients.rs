//! The clients: how they are started, what they say, and the people who approve what they ask for.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use countersign_testkit::Node;
use serde_json::{Map, Value, json};

use super::THINKING;
use super::servers::{Server, Use};
use crate::{paths, setup};

/// How many libraries count: `mcp`, `fastmcp`, and the npm SDK in both of its packages.
pub const COUNT: usize = 3;

/// One library in one era.
pub struct Client {
    library: Library,
    /// Whether it speaks the revision without handshake.
    pub modern: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Library {
    Mcp,
    FastMcp,
    /// `@modelcontextprotocol/sdk`, which knows the handshake era only.
    Sdk,
    /// `@modelcontextprotocol/client`, its successor.
    SdkClient,
}

/// Something that a client said.
#[derive(Debug)]
pub struct Step {
    /// `connected`, `list`, `read`, `while`, `gave-up` or `late`.
    pub kind: String,
    /// The server that it is about.
    pub server: String,
    /// Whether the library took it for a success.
    pub ok: bool,
    /// How long it took.
    pub seconds: f64,
    /// The result's text; of `connected` the revision.
    pub text: String,
    /// The result's `_meta`.
    pub meta: Value,
}

/// Every library in every era that it speaks.
pub fn all() -> Vec<Client> {
    let both = [Library::Mcp, Library::FastMcp, Library::SdkClient];
    let runs = both.into_iter().flat_map(|library| [false, true].map(|modern| Client { library, modern }));
    std::iter::once(Client { library: Library::Sdk, modern: false }).chain(runs).collect()
}

impl Client {
    /// For people.
    pub fn title(&self) -> String {
        let era = if self.modern { "modern" } else { "handshake" };
        let name = match self.library {
            Library::Mcp => "PyPI mcp",
            Library::FastMcp => "PyPI fastmcp",
            Library::Sdk => "npm sdk",
            Library::SdkClient => "npm client",
        };
        format!("{name} ({era})")
    }

    /// The library that this run is part of: both npm packages are the same SDK's.
    pub fn counts_as(&self) -> &'static str {
        match self.library {
            Library::Mcp => "mcp",
            Library::FastMcp => "fastmcp",
            Library::Sdk | Library::SdkClient => "sdk",
        }
    }

    /// The principal, and the label of its calls.
    pub fn id(&self) -> String {
        self.title().replace(' ', "-").replace(['(', ')'], "").to_lowercase()
    }

    /// Runs the client to its end.
    ///
    /// # Errors
    /// If it fails to start, says something unreadable or ends with an error.
    pub fn run(&self, node: &Node, servers: &[&Server], approver: &Approver) -> Result<Vec<Step>> {
        let url = format!("http://{}/mcp", node.home().address());
        let token = node.home().agent(&self.id(), &["tester"]);
        let era = if self.modern { "modern" } else { "legacy" };
        let mut command = self.command();
        command.args([&url, &token, era, &self.plan(servers).to_string()]).current_dir(paths::peers());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("starting the client")?;
        let errors = child.stderr.take().context("no pipe")?;
        let errors = thread::spawn(move || {
            let mut text = String::new();
            let _ = BufReader::new(errors).read_to_string(&mut text);
            text
        });
        let mut steps = Vec::new();
        for line in BufReader::new(child.stdout.take().context("no pipe")?).lines() {
            let line = line?;
            let step = Step::read(&line).with_context(|| format!("the client said {line:?}"))?;
            if let Some(request) = step.meta.pointer("/dev.countersign~1pending/request_id").and_then(Value::as_str) {
                approver.gave_up(request);
            }
            steps.push(step);
        }
        let status = child.wait()?;
        let errors = errors.join().unwrap_or_default();
        let tail: String = errors.chars().rev().take(2_000).collect::<Vec<_>>().into_iter().rev().collect();
        ensure!(status.success(), "the client ended with {status}:\n{tail}");
        Ok(steps)
    }

    fn command(&self) -> Command {
        let scripts = paths::root().join("xtask/peers");
        let (interpreter, script, argument) = match self.library {
            Library::Mcp => (setup::python_path(), "mcp_client.py", None),
            Library::FastMcp => (setup::python_path(), "fastmcp_client.py", None),
            Library::Sdk => (setup::node_path(), "sdk_client.mjs", Some("sdk")),
            Library::SdkClient => (setup::node_path(), "sdk_client.mjs", Some("client")),
        };
        let mut command = Command::new(interpreter);
        // No byte code beside the sources, and no calls home.
        command.env("PYTHONDONTWRITEBYTECODE", "1").env("FASTMCP_CHECK_FOR_UPDATES", "off");
        command.arg(scripts.join(script)).args(argument);
        command
    }

    fn plan(&self, servers: &[&Server]) -> Value {
        let name = |server: &Server, tool: &str| format!("{}_{tool}", server.name);
        let one = |server: &Server, what: &Use, label: &str| json!({"name": name(server, what.tool), "arguments": (what.arguments)(label)});
        let mut plans = Map::new();
        for server in servers {
            let plan = json!({
                "read": one(server, &server.read, "read"),
                "while": one(server, &server.write, &format!("while-{}", self.id())),
                "late": one(server, &server.write, &format!("late-{}", self.id())),
            });
            plans.insert(server.name.to_owned(), plan);
        }
        let expect: Vec<_> = servers.iter().flat_map(|s| [name(s, s.read.tool), name(s, s.write.tool)]).collect();
        json!({"expect": expect, "servers": plans})
    }
}

impl Step {
    fn read(line: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(line)?;
        let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
        let kind = text("step");
        Ok(Self {
            text: if kind == "connected" { text("revision") } else { text("text") },
            kind,
            server: text("server"),
            ok: value["ok"].as_bool().unwrap_or(false),
            seconds: value["seconds"].as_f64().unwrap_or(0.0),
            meta: value["meta"].clone(),
        })
    }
}

/// A reviewer who agrees to `while` requests after thinking, and to `late` ones once their client was told "not executed".
pub struct Approver {
    given_up: Arc<Mutex<BTreeMap<String, Instant>>>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Approver {
    /// Starts to look at requests.
    pub fn start(node: &Node) -> Self {
        let (given_up, stop) = (Arc::<Mutex<BTreeMap<String, Instant>>>::default(), Arc::<AtomicBool>::default());
        let mut http = node.client(&node.home().person("rita", &["reviewer"]));
        let (waiting, ended) = (Arc::clone(&given_up), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            let mut seen: BTreeMap<String, Instant> = BTreeMap::new();
            while !ended.load(Ordering::Relaxed) {
                if let Err(error) = look(&mut http, &waiting, &mut seen) {
                    println!("  the reviewer: {error:#}");
                }
                thread::sleep(Duration::from_millis(200));
            }
        });
        Self { given_up, stop, thread }
    }

    /// A client was told that its request still waits.
    pub fn gave_up(&self, request: &str) {
        let mut map = self.given_up.lock().unwrap_or_else(PoisonError::into_inner);
        map.entry(request.to_owned()).or_insert_with(Instant::now);
    }

    /// No more answers.
    pub fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        // A panic in there has been printed already.
        let _ = self.thread.join();
    }
}

fn look(
    http: &mut countersign_testkit::Client,
    given_up: &Mutex<BTreeMap<String, Instant>>,
    seen: &mut BTreeMap<String, Instant>,
) -> Result<()> {
    let requests = http.get("/approvals?status=pending&limit=200")?.expect(200)?;
    for request in requests.as_array().into_iter().flatten() {
        let id = request["id"].as_str().unwrap_or_default();
        let arguments = request["arguments"].to_string();
        let late = arguments.contains("late-") || arguments.contains("21:00");
        let since = match late {
            true => given_up.lock().unwrap_or_else(PoisonError::into_inner).get(id).copied(),
            false => Some(*seen.entry(id.to_owned()).or_insert_with(Instant::now)),
        };
        let answerable = request["can_answer"].as_array().is_some_and(|kinds| !kinds.is_empty());
        if answerable && since.is_some_and(|since| since.elapsed() >= THINKING) {
            let answer = http.post(&format!("/approvals/{id}"), &json!({"decision": "approve", "reason": "seen"}))?;
            ensure!(answer.status < 300, "approving {id}: HTTP {} {:?}", answer.status, answer.problem());
        }
    }
    Ok(())
}
