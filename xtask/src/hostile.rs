//! `cargo xtask hostile`: what a stranger, a careless client, a dishonest approver or a broken upstream can try.
//!
//! Every case first makes its harmless twin and sees it succeed, then the hostile one and sees it refused: with exactly the
//! named problem, with an event of the named kind where the caller was authenticated (its receipt verifies offline), and
//! counted in an aggregate where not. Whether something was executed is read from the upstream's own journal.

mod approvals;
mod bodies;
mod connections;
mod deputy;
mod flood;
mod foe;
mod issuers;
mod manifests;
mod net;
mod offers;
mod questions;
mod rest;
mod sockets;
mod tokens;
pub mod upstream;
mod upstreams;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use countersign_testkit::node::Launch;
use countersign_testkit::{Claims, Client, Home, Node, Response, receipts};
use serde_json::{Value, json};

/// A case: its name, and what to do. An error means that the gate failed it.
pub type Case = (&'static str, fn(&mut World) -> Result<()>);

/// What every case works with.
pub struct World {
    /// The node.
    pub node: Node,
    /// Where the hostile upstream keeps its journal and reads its orders.
    pub control: PathBuf,
    /// The foe on the network.
    foe: foe::Foe,
    /// The product.
    binary: PathBuf,
    /// How many strangers the flood has.
    flood: usize,
    anchors: receipts::TrustAnchors,
    harmless: usize,
    number: usize,
}

const ACCESS: &str = "@id(\"testers\")\npermit (principal in Role::\"tester\", action, resource);\n\
@id(\"nothing-forbidden\")\nforbid (principal, action == Action::\"evil:write\", resource) when { context.input.text like \"forbidden*\" };\n\
@id(\"questions\")\npermit (principal in Role::\"tester\", \
action in [Action::\"net:elicitation/create\", Action::\"net:sampling/createMessage\"], resource);\n\
@id(\"modest\")\npermit (principal in Role::\"modest\", action == Action::\"net:ask\", resource);\n";

const APPROVAL: &str = "@id(\"guarded-needs-one\")\n@approvals(\"1\")\n@approver_role(\"reviewer\")\n@expires(\"10m\")\n\
permit (principal, action == Action::\"evil:guarded\", resource);\n\
@id(\"brief-expires\")\n@approvals(\"1\")\n@approver_role(\"reviewer\")\n@expires(\"2s\")\n\
permit (principal, action == Action::\"evil:brief\", resource);\n\
@id(\"personal-needs-the-person\")\n@confirm\npermit (principal, action == Action::\"evil:personal\", resource);\n";

const CONFIG: &str = "[limits]\nopen_requests = 50\nheader_timeout = \"3s\"\nbody_timeout = \"3s\"\n[limits.breakers]\nfailures = 20\nof = 20\n[approval]\nwait_seconds = 2\n";

const PARTS: [&[Case]; 13] = [
    bodies::CASES,
    tokens::CASES,
    issuers::CASES,
    approvals::CASES,
    deputy::CASES,
    upstreams::CASES,
    connections::CASES,
    net::CASES,
    questions::CASES,
    offers::CASES,
    rest::CASES,
    sockets::CASES,
    flood::CASES,
];

/// What to run.
pub struct Plan {
    /// Only cases whose name holds this.
    pub only: Option<String>,
    /// How many strangers the flood has.
    pub flood: usize,
}

impl Default for Plan {
    fn default() -> Self {
        Self { only: None, flood: 200_000 }
    }
}

/// Runs the cases and prints each; the answer is whether all were refused.
///
/// # Errors
/// If the test itself cannot be run.
pub fn run(binary: &Path, plan: &Plan) -> Result<bool> {
    let mut world = World::start(binary, plan.flood)?;
    let wanted = |case: &Case| plan.only.as_ref().is_none_or(|only| case.0.contains(only.as_str()));
    let cases: Vec<Case> = PARTS.concat().into_iter().filter(wanted).collect();
    ensure!(!cases.is_empty(), "no case has this in its name");
    let mut refused = 0;
    for (name, case) in &cases {
        let before = world.harmless;
        let start = Instant::now();
        let outcome = case(&mut world).and_then(|()| {
            ensure!(world.harmless > before, "the case has no harmless twin");
            world.still_alive()
        });
        let seconds = start.elapsed().as_secs_f64();
        match outcome {
            Ok(()) => {
                refused += 1;
                println!("  refused  {seconds:>5.1}s  {name}");
            }
            Err(error) => println!("  FAILED   {seconds:>5.1}s  {name}: {error:#}"),
        }
    }
    println!("refused {refused}/{}", cases.len());
    Ok(refused == cases.len())
}

impl World {
    fn start(binary: &Path, flood: usize) -> Result<Self> {
        let directory = crate::paths::run_directory("hostile")?;
        let control = directory.join("control");
        std::fs::create_dir_all(&control)?;
        let foe = foe::Foe::start()?;
        let home = Home::create(&directory.join("home"), &format!("{CONFIG}{}", issuers::configuration(&foe)))?;
        home.manifest("evil", &upstream::manifest(&control)?)?;
        home.manifest("crm", connections::MANIFEST)?;
        // Outside the home, where nothing is looked for.
        let secret = control.join("secret");
        std::fs::write(&secret, foe::SECRET)?;
        for (name, manifest) in manifests::of(&foe, &secret)? {
            home.manifest(name, &manifest)?;
        }
        let node = Launch::new(binary).start(&home)?;
        node.accept_all_tools(&["evil", "net"])?;
        home.access("testers", ACCESS)?;
        home.approval("guarded", APPROVAL)?;
        node.operator().post("/admin/policy/reload", &json!({}))?.expect(200)?;
        let anchors = receipts::anchors(&mut node.anonymous())?;
        Ok(Self { node, control, foe, binary: binary.to_owned(), flood, anchors, harmless: 0, number: 0 })
    }

    /// A client of the usual agent.
    pub fn agent(&self) -> Client {
        self.client("mallory", &["tester"])
    }

    /// A client of another agent.
    pub fn client(&self, agent: &str, roles: &[&str]) -> Client {
        self.node.client(&self.node.home().agent(agent, roles))
    }

    /// A client of a person.
    pub fn person(&self, id: &str, roles: &[&str]) -> Client {
        self.node.client(&self.node.home().person(id, roles))
    }

    /// A client with any claims.
    pub fn bearer_of(&self, claims: &Claims) -> Client {
        self.node.client(&self.node.home().issuer().token(claims))
    }

    /// A text that no other call has.
    pub fn unique(&mut self, start: &str) -> String {
        self.number += 1;
        format!("{start}-{}", self.number)
    }

    /// Invokes a tool of the hostile upstream.
    pub fn invoke(&self, client: &mut Client, tool: &str, arguments: &Value) -> Result<Response> {
        client.post(&format!("/tools/evil:{tool}/invoke"), arguments)
    }

    /// The harmless twin: must be executed, with a valid receipt.
    pub fn harmless(&mut self, response: &Response) -> Result<Value> {
        let body = response.expect(200).context("the harmless twin")?;
        ensure!(body["status"] == "ok", "the harmless twin: {body}");
        let receipt = body["receipt"].as_str().context("the harmless twin has no receipt")?;
        receipts::fetch_valid(&mut self.node.operator(), receipt, &self.anchors).context("the harmless twin")?;
        self.harmless += 1;
        Ok(body)
    }

    /// A harmless twin of another kind than an executed call.
    pub fn harmless_because(&mut self, holds: bool, what: &str) -> Result<()> {
        ensure!(holds, "the harmless twin: {what}");
        self.harmless += 1;
        Ok(())
    }

    /// Refused with exactly this problem, and a verifiable event of this type that names it.
    pub fn refused(&self, response: &Response, status: u16, problem: &str) -> Result<Value> {
        let body = self.refused_without_event(response, status, problem)?;
        let event = body["event"].as_str().with_context(|| format!("the refusal names no event: {body}"))?;
        let receipt = receipts::fetch_valid(&mut self.node.operator(), event, &self.anchors)?;
        let event = receipts::subject_event(&receipt)?;
        ensure!(event["type"] == "call.denied", "the event is a {}", event["type"]);
        ensure!(event["reason"]["kind"] == problem, "the event's reason is {}", event["reason"]);
        Ok(body)
    }

    /// Refused with exactly this problem.
    pub fn refused_without_event(&self, response: &Response, status: u16, problem: &str) -> Result<Value> {
        let slug = response.problem().unwrap_or_default();
        let text = String::from_utf8_lossy(&response.body);
        ensure!(
            response.status == status && slug == problem,
            "HTTP {} {slug:?} instead of {status} {problem:?}: {text}",
            response.status
        );
        let kind = response.header("content-type").unwrap_or_default();
        ensure!(kind.starts_with("application/problem+json"), "the problem is sent as {kind}");
        let body = response.json()?;
        ensure!(body["correlation_id"].is_string(), "the problem has no correlation id");
        Ok(body)
    }

    /// Refused on MCP: a tool result that is an error, or a JSON-RPC error for what cannot be read, that names the problem and
    /// a verifiable event.
    pub fn refused_on_mcp(&self, answer: &Value, problem: &str) -> Result<()> {
        let document = match answer.get("error") {
            Some(error) => &error["data"],
            None => {
                ensure!(answer["result"]["isError"] == true, "not an error: {answer}");
                &answer["result"]["_meta"]["dev.countersign/problem"]
            }
        };
        let kind = document["type"].as_str().unwrap_or_default();
        ensure!(kind.rsplit('/').next() == Some(problem), "the problem is {kind:?}, not {problem:?}: {answer}");
        let event = document["event"].as_str().context("the refusal names no event")?;
        receipts::fetch_valid(&mut self.node.operator(), event, &self.anchors)?;
        Ok(())
    }

    /// How often strangers were refused for this cause, by the node's aggregates.
    pub fn aggregate(&self, cause: &str) -> Result<u64> {
        let status = self.node.operator().get("/admin/status")?.expect(200)?;
        let list = status["refusals"].as_array().context("/admin/status shows no aggregates of refusals")?;
        let of_cause = list.iter().filter(|r| r["name"].as_str().is_some_and(|n| n.ends_with(cause)));
        Ok(of_cause.filter_map(|r| r["count"].as_u64()).sum())
    }

    /// Does it, and sees the aggregate grow; aggregates are written within seconds.
    pub fn counted(&mut self, cause: &str, what: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let before = self.aggregate(cause)?;
        what(self)?;
        let end = Instant::now() + Duration::from_secs(15);
        while self.aggregate(cause)? <= before {
            ensure!(Instant::now() < end, "the aggregate of {cause:?} did not grow");
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }

    /// The keys by which receipts are verified.
    pub fn anchors(&self) -> &receipts::TrustAnchors {
        &self.anchors
    }

    /// The event that a failed call ended in, verified.
    pub fn recorded(&self, problem: &Value, kind: &str) -> Result<Value> {
        let id = problem["event"].as_str().with_context(|| format!("the failure names no event: {problem}"))?;
        let receipt = receipts::fetch_valid(&mut self.node.operator(), id, &self.anchors)?;
        let event = receipts::subject_event(&receipt)?.clone();
        ensure!(event["type"] == kind, "the event is a {}, not a {kind}", event["type"]);
        Ok(event)
    }

    /// The files of the node's home that hold these bytes: its data, its log, its configuration.
    pub fn written_with(&self, bytes: &[u8]) -> Result<Vec<PathBuf>> {
        let (mut found, mut left) = (Vec::new(), vec![self.node.home().directory().to_owned()]);
        while let Some(path) = left.pop() {
            if path.is_dir() {
                for entry in std::fs::read_dir(&path)? {
                    left.push(entry?.path());
                }
            } else if std::fs::read(&path)?.windows(bytes.len()).any(|window| window == bytes) {
                found.push(path);
            }
        }
        Ok(found)
    }

    /// How often the upstream executed a write with this text, by its own journal.
    pub fn executions(&self, text: &str) -> Result<usize> {
        upstream::executions(&self.control, text)
    }

    fn still_alive(&mut self) -> Result<()> {
        ensure!(self.node.is_running(), "the node ended:\n{}", self.node.log_tail());
        let mut http = self.node.anonymous().timeout(Duration::from_secs(5));
        ensure!(http.get("/health")?.status == 200, "the node no longer answers");
        Ok(())
    }
}
