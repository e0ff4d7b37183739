//! `cargo xtask conformance`: the official MCP conformance suite against the gateway, in front of an upstream of ours that does all
//! that the suite asks for.
//!
//! First the upstream alone, in each era: that is the baseline. Then the suite against a real node with that upstream behind it,
//! in each pairing of the client's era and the upstream's. What the gateway says that it forwarded is compared with the
//! upstream's own journal. Then the suite's client scenarios against the gateway's upstream side. The table is published in
//! `docs/conformance.md`; a run that differs from it fails, so that what passes once keeps passing.

mod auth;
mod proxy;
mod report;
mod suite;
mod tally;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use countersign_example_conformance::{Era, serve};
use countersign_testkit::Home;
use countersign_testkit::home::free_address;
use countersign_testkit::node::Launch;

use crate::{paths, setup};
use report::{Column, Report};

/// What to run.
pub struct Plan {
    /// `upstream`, `client`, or a pairing such as `modern-legacy`; everything if absent.
    pub only: Option<String>,
    /// Whether the published table is written instead of compared.
    pub update: bool,
}

/// The upstream's name in the gateway.
const UPSTREAM: &str = "conformance";
/// The role of the suite's client.
const ROLE: &str = "tester";
const LIMITS: &str =
    "[limits]\nper_principal = { calls = 100000, per = \"1s\" }\nper_tool = { calls = 100000, per = \"1s\" }\n";
const ERAS: [Era; 2] = [Era::Modern, Era::Legacy];

/// Runs the suite; the answer is whether it passes exactly where the published table says so.
///
/// # Errors
/// If it cannot be run.
pub fn run(binary: &Path, plan: &Plan) -> Result<bool> {
    setup::node()?;
    let directory = paths::run_directory("conformance")?;
    let wanted = |part: &str| plan.only.as_deref().is_none_or(|only| only == part);
    let mut report = Report::default();
    for era in ERAS {
        if wanted("upstream") {
            report.columns.push(alone(&directory, era)?);
        }
    }
    for client in ERAS {
        // Its own era first: that pairing is what conformance means.
        let upstreams = if client == Era::Modern { ERAS } else { [Era::Legacy, Era::Modern] };
        for upstream in upstreams {
            if wanted(&format!("{}-{}", short(client), short(upstream))) {
                report.columns.push(pairing(binary, &directory, client, upstream)?);
            }
        }
    }
    for era in ERAS {
        if wanted("client") {
            report.columns.push(client_side(binary, &directory, era)?);
        }
    }
    report.print();
    if plan.only.is_some() {
        return Ok(true);
    }
    report.settle(plan.update)?;
    Ok(report.columns.iter().all(|column| column.counted))
}

fn short(era: Era) -> &'static str {
    match era {
        Era::Modern => "modern",
        Era::Legacy => "legacy",
    }
}

/// The suite against the upstream itself.
fn alone(directory: &Path, era: Era) -> Result<Column> {
    let upstream = Upstream::start(directory, &format!("alone-{}", short(era)), era)?;
    let url = format!("http://{}/mcp", upstream.address);
    let out = directory.join(format!("alone-{}-results", short(era)));
    let scenarios = suite::server(&url, era.revision(), &out)?;
    Ok(Column {
        title: format!("upstream alone, {}", era.revision()),
        era,
        scenarios,
        counted: true,
        is_gateway: false,
    })
}

/// The suite against the gateway.
fn pairing(binary: &Path, directory: &Path, client: Era, era: Era) -> Result<Column> {
    let name = format!("{}-{}", short(client), short(era));
    let upstream = Upstream::start(directory, &name, era)?;
    let home = Home::create(&directory.join(format!("{name}-home")), LIMITS)?;
    home.manifest(UPSTREAM, &manifest(upstream.address, era))?;
    let node = Launch::new(binary).start(&home)?;
    let accepted = node.accept_all_tools(&[UPSTREAM])?;
    home.access(UPSTREAM, ACCESS)?;
    let answer = node.operator().post("/admin/policy/reload", &serde_json::json!({}))?;
    ensure!(answer.status < 300, "reloading the policies: HTTP {} {:?}", answer.status, answer.json());
    println!("{name}: {} definitions accepted", accepted.len());
    let proxy = proxy::Proxy::start(home.address(), &home.agent("suite", &[ROLE]))?;
    let url = format!("http://{}/mcp/{UPSTREAM}", proxy.address());
    let out = directory.join(format!("{name}-results"));
    let scenarios = suite::server(&url, client.revision(), &out)?;
    let counted = tally::compare(&node, &upstream.journal, era)?;
    node.stop()?;
    let title = format!("client {}, upstream {}", client.revision(), era.revision());
    Ok(Column { title, era: client, scenarios, counted, is_gateway: client == era })
}

/// The suite's client scenarios against the gateway's upstream side.
fn client_side(binary: &Path, directory: &Path, era: Era) -> Result<Column> {
    // In the profile of the product, and with the features of the whole workspace: so it is built already.
    let profile = if binary.parent().is_some_and(|folder| folder.ends_with("debug")) { "dev" } else { "release" };
    let folder = if profile == "dev" { "debug" } else { profile };
    let example = ["--workspace", "--example", "conformance_client"];
    paths::build(&[&["build", "--quiet", "--profile", profile], example.as_slice()].concat())?;
    let driver = paths::target().join(folder).join("examples/conformance_client");
    let out = directory.join(format!("client-{}-results", short(era)));
    let itself = std::env::current_exe()?;
    let homes = directory.join(format!("client-{}-homes", short(era)));
    let parts = [itself.as_path(), Path::new("conformance-client"), binary, &driver, &homes];
    let parts = parts.iter().map(|part| part.to_str().context("a path is not text")).collect::<Result<Vec<_>>>()?;
    let scenarios = suite::client(&parts.join(" "), era.revision(), &out)?;
    Ok(Column { title: format!("client side, {}", era.revision()), era, scenarios, counted: true, is_gateway: false })
}

/// One client scenario, as the suite wants it driven: those of authorization through a whole gateway, since people have a part in
/// them; all others through its upstream side alone.
///
/// # Errors
/// If something comes to nothing on the way, which many scenarios want.
pub fn drive_client(binary: &Path, driver: &Path, homes: &Path, url: &str) -> Result<()> {
    let scenario = std::env::var("MCP_CONFORMANCE_SCENARIO").unwrap_or_default();
    if scenario.starts_with("auth/") {
        return auth::drive(binary, homes, &scenario, url);
    }
    let status = Command::new(driver).arg(url).status().context("starting the driver")?;
    ensure!(status.success(), "the driver: {status}");
    Ok(())
}

/// Everything may be called and asked; that the upstream's questions are allowed has to be said by name.
const ACCESS: &str = r#"@id("suite")
permit (principal in Role::"tester", action, resource);

@id("suite-asks")
permit (principal in Role::"tester", action in Action::"asks", resource);
"#;

fn manifest(address: SocketAddr, era: Era) -> String {
    // Reads: a call that the suite abandons half-way must not leave an outcome that a person has to look at.
    let tools: Vec<String> =
        countersign_example_conformance::tools().iter().map(|tool| format!("  {tool}: {{ effect: read }}\n")).collect();
    format!(
        "version: 1\nupstream: {UPSTREAM}\ntimeout: 20s\nrefresh: 1s\ntransport:\n  type: http\n  url: http://{address}/mcp\n  \
         protocol: \"{}\"\ntools:\n{}",
        era.revision(),
        tools.concat()
    )
}

/// The upstream as a process of its own.
struct Upstream {
    child: Child,
    address: SocketAddr,
    journal: PathBuf,
}

impl Upstream {
    fn start(directory: &Path, name: &str, era: Era) -> Result<Self> {
        let address = free_address()?;
        let journal = directory.join(format!("{name}-journal.jsonl"));
        let child = Command::new(std::env::current_exe()?)
            .args(["conformance-upstream", &address.to_string(), short(era)])
            .arg(&journal)
            .stdin(Stdio::null())
            .spawn()
            .context("starting the upstream")?;
        let upstream = Self { child, address, journal };
        let end = Instant::now() + Duration::from_secs(10);
        while std::net::TcpStream::connect(address).is_err() {
            ensure!(Instant::now() < end, "the upstream does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(upstream)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Serves the conformance upstream in this process.
///
/// # Errors
/// If it cannot listen.
pub fn serve_upstream(address: &str, era: &str, journal: &Path) -> Result<()> {
    let era = match era {
        "modern" => Era::Modern,
        "legacy" => Era::Legacy,
        other => bail!("no era {other:?}"),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(address).await.context("listening")?;
        serve(listener, era, journal).await.context("serving")
    })
}
