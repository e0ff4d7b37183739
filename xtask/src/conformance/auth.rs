//! The suite's `auth/…` scenarios through a whole gateway: a node whose only upstream is the suite's server, which names its
//! authorization server itself. The part of the person is played here: begins a connection, goes where the browser would go, repeats
//! the code that it is shown; then an agent of that person calls a tool, and the person connects again as often as the gateway asks.
//!
//! Nothing depends on the scenario: what is different between them, the suite's server says to the gateway.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use countersign_testkit::home::ISSUER;
use countersign_testkit::node::Launch;
use countersign_testkit::{Claims, Client, Home, Node, Response};
use serde_json::{Value, json};
use url::Url;

/// The URL under which the suite knows its client's metadata document is below this one; its browser is here.
const PUBLIC: &str = "https://conformance-test.local";
/// Who connects, and lends the account to the gateway's lists.
const PERSON: &str = "lena";
const UPSTREAM: &str = "suite";
/// How often the person is willing to connect.
const ROUNDS: usize = 4;
/// How long the gateway may take to list tools after a connection.
const LISTED: Duration = Duration::from_secs(10);

/// Drives one scenario against the server at `url`.
///
/// # Errors
/// If something that the person or the agent does comes to nothing: many scenarios want exactly that.
pub fn drive(binary: &Path, directory: &Path, scenario: &str, url: &str) -> Result<()> {
    let revision = std::env::var("MCP_CONFORMANCE_PROTOCOL_VERSION").unwrap_or_else(|_| "auto".to_owned());
    let extra = format!("public_url = \"{PUBLIC}\"\n{}", super::LIMITS);
    let directory = directory.join(format!("{}-{revision}", scenario.replace('/', "-")));
    let home = Home::create(&directory, &extra)?;
    home.manifest(UPSTREAM, &manifest(url, &revision, home.directory())?.to_string())?;
    home.access("suite", "@id(\"all\") permit (principal in Role::\"tester\", action, resource);\n")?;
    let node = Launch::new(binary).start(&home)?;
    let driven = talk(&home, &node);
    node.stop()?;
    driven
}

/// What an operator writes. Where the suite gives a client that was registered by hand, the operator knows with whom.
fn manifest(url: &str, revision: &str, directory: &Path) -> Result<Value> {
    let context = std::env::var("MCP_CONFORMANCE_CONTEXT").unwrap_or_default();
    let context: Value = serde_json::from_str(&context).unwrap_or_default();
    let mut credential = json!({ "type": "user" });
    if let Some(id) = context["client_id"].as_str() {
        let mut about = Url::parse(url)?;
        about.set_path(&format!("/.well-known/oauth-protected-resource{}", Url::parse(url)?.path()));
        let document = browse(&about)?.json()?;
        credential["authorization_servers"] = json!([document["authorization_servers"][0]]);
        credential["client_id"] = json!(id);
        if let Some(secret) = context["client_secret"].as_str() {
            let file = directory.join("client-secret");
            std::fs::write(&file, secret)?;
            credential["client_secret"] = json!({ "file": file });
        }
    }
    Ok(json!({
        "version": 1, "upstream": UPSTREAM, "refresh": "1s", "timeout": "10s",
        "transport": {
            "type": "http", "url": url, "protocol": revision, "credential": credential,
            "discovery_credential": { "type": "account", "workspace": "default", "issuer": ISSUER, "person": PERSON },
        },
        "tools": { "test-tool": { "effect": "read" } },
    }))
}

fn talk(home: &Home, node: &Node) -> Result<()> {
    let mut person = node.client(&home.person(PERSON, &["tester"]));
    let mut rounds = 0;
    let tool = loop {
        rounds += 1;
        ensure!(rounds <= ROUNDS, "the person has connected {ROUNDS} times, and there are still no tools");
        connect(&mut person, home.address())?;
        if let Some(tool) = offered(node)? {
            break tool;
        }
    };
    node.accept_all_tools(&[UPSTREAM])?;
    let answer = node.operator().post("/admin/policy/reload", &json!({}))?;
    ensure!(answer.status < 300, "reloading the policies: HTTP {}", answer.status);
    let acting = Claims::agent(PERSON, &["tester"]).with("act", json!({ "sub": "her-agent" }));
    let mut agent = node.client(&home.issuer().token(&acting));
    loop {
        let answer = agent.post(&format!("/tools/{tool}/invoke"), &json!({ "arguments": {} }))?;
        println!("{tool}: HTTP {} {:?}", answer.status, answer.json());
        match answer.problem().as_deref() {
            Some("connection-needed") if rounds < ROUNDS => {
                rounds += 1;
                connect(&mut person, home.address())?;
            }
            Some(problem) => bail!("the call was refused: {problem}"),
            None => return Ok(()),
        }
    }
}

/// The tool that the upstream offers, once the operator has had it listed; nothing, if somebody has to connect for that.
fn offered(node: &Node) -> Result<Option<String>> {
    let mut operator = node.operator();
    let end = Instant::now() + LISTED;
    loop {
        let refreshed = operator.post(&format!("/admin/upstreams/{UPSTREAM}/refresh"), &json!({}))?;
        let said = format!("HTTP {} {:?}", refreshed.status, refreshed.json());
        let tools = operator.get("/admin/tools")?.expect(200)?;
        let names = tools.as_array().into_iter().flatten().filter_map(|tool| tool["name"].as_str());
        if let Some(name) = names.into_iter().find(|name| name.ends_with(":test-tool")) {
            return Ok(Some(name.to_owned()));
        }
        println!("refresh: {said}");
        let status = operator.get("/admin/status")?.expect(200)?.to_string();
        if said.contains("connects it on") || status.contains("connects it on") {
            return Ok(None);
        }
        ensure!(Instant::now() < end, "no tools are offered: {said}");
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// What a person does to connect an account.
fn connect(person: &mut Client, node: SocketAddr) -> Result<()> {
    let started = person.post(&format!("/connections/{UPSTREAM}"), &json!({}))?;
    println!("connect: HTTP {} {:?}", started.status, started.json());
    let started = started.expect(200)?;
    let page = started["authorization_url"].as_str().context("no page to go to")?;
    let back = browse(&Url::parse(page)?)?;
    let location = back.header("location").with_context(|| format!("the provider answered HTTP {}", back.status))?;
    let there = location.strip_prefix(PUBLIC).context("the provider sends the browser elsewhere")?;
    // The browser's way to the node's public name leads to this machine.
    let shown = Client::new(node).get(there)?;
    let text = String::from_utf8_lossy(&shown.body).into_owned();
    ensure!(shown.status == 200, "the node says no: {text}");
    let code = text.split("<pre>").nth(1).and_then(|rest| rest.split("</pre>").next()).context("no code is shown")?;
    let confirmed = person.post(&format!("/connections/{UPSTREAM}/confirm"), &json!({ "code": code.trim() }))?;
    println!("confirm: HTTP {} {:?}", confirmed.status, confirmed.json());
    confirmed.expect(200).map(drop)
}

/// A browser's `GET`, without following anything.
fn browse(url: &Url) -> Result<Response> {
    let (host, port) = (url.host_str().context("no host")?, url.port_or_known_default().context("no port")?);
    let addresses: Vec<SocketAddr> = (host.trim_matches(['[', ']']), port).to_socket_addrs()?.collect();
    let path = &url[url::Position::BeforePath..url::Position::AfterQuery];
    let mut problem = None;
    for address in addresses {
        match Client::new(address).get(path) {
            Ok(response) => return Ok(response),
            Err(error) => problem = Some(error),
        }
    }
    Err(problem.context("the host has no address")?)
}
