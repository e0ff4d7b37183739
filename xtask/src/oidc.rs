//! `cargo xtask oidc`: a real OpenID provider (npm `oidc-provider`) in front of a real node. Tokens for the right and the wrong
//! resource, keys that rotate in the running provider, and what happens while it is away.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use countersign_testkit::home::free_address;
use countersign_testkit::node::{Launch, Node};
use countersign_testkit::{Client, Home};
use serde_json::Value;

use crate::{paths, setup};

/// The node's name towards the provider. Nothing is ever sent there.
const RESOURCE: &str = "https://gate.example";
/// Short, so that a test does not take an hour: keys are good for 2 s, stale for 4 s more, withdrawn ones for 1 s more.
const TIMES: &str = "key_ttl = \"2s\"\nkey_stale = \"4s\"\nkey_grace = \"1s\"\nkey_pause = \"1s\"\n";

/// The provider's process; dropping it ends it.
struct Provider {
    child: Child,
    client: Client,
}

impl Drop for Provider {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Provider {
    fn start(address: std::net::SocketAddr) -> Result<Self> {
        let module = paths::peers().join("node_modules/oidc-provider/lib/index.js");
        let child = Command::new(setup::node_path())
            .arg(paths::root().join("xtask/peers/issuer.mjs"))
            .arg(module)
            .arg(address.port().to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("starting oidc-provider")?;
        let provider = Self { child, client: Client::new(address) };
        let end = Instant::now() + Duration::from_secs(30);
        while std::net::TcpStream::connect(address).is_err() {
            ensure!(Instant::now() < end, "oidc-provider does not listen");
            sleep(Duration::from_millis(50));
        }
        Ok(provider)
    }

    /// An access token; without a resource it is an opaque one.
    fn token(&mut self, client: &str, resource: Option<&str>) -> Result<String> {
        let resource =
            resource.map(|resource| format!("&resource={}", resource.replace(':', "%3A").replace('/', "%2F")));
        let form = format!(
            "grant_type=client_credentials&client_id={client}&client_secret={client}-secret&scope=tools{}",
            resource.unwrap_or_default()
        );
        let headers = [("content-type", "application/x-www-form-urlencoded")];
        let answer = self.client.send("POST", "/token", &headers, Some(form.as_bytes()))?.expect(200)?;
        Ok(answer["access_token"].as_str().context("no access token")?.to_owned())
    }

    fn control(&mut self, what: &str) -> Result<Value> {
        self.client.get(&format!("/control/{what}"))?.expect(200)
    }
}

/// What was checked, and what of it failed.
#[derive(Default)]
struct Checks {
    all: usize,
    failed: usize,
}

impl Checks {
    fn expect(&mut self, what: &str, found: &str, expected: &str) {
        self.all += 1;
        if found == expected {
            println!("  {what:<72} {found}");
        } else {
            self.failed += 1;
            println!("  {what:<72} FAILED: {found}, not {expected}");
        }
    }
}

/// `200`, or the status with the cause of the refusal.
fn ask(node: &Node, path: &str, token: &str) -> Result<String> {
    let mut client = node.client(token);
    let answer = if path.starts_with("/mcp") {
        let list = serde_json::json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}});
        client.post(path, &list)?
    } else {
        client.get(path)?
    };
    if answer.status == 200 {
        return Ok("200".to_owned());
    }
    let cause = answer.json()?["cause"].as_str().unwrap_or("no cause").to_owned();
    Ok(format!("{} {cause}", answer.status))
}

/// Runs everything; the answer is whether all of it was as it should be.
///
/// # Errors
/// If the test itself cannot be run.
pub fn run(binary: &Path) -> Result<bool> {
    setup::programs(&["node", "npm"])?;
    setup::npm()?;
    let directory = paths::run_directory("oidc")?;
    let address = free_address()?;
    let mut provider = Provider::start(address)?;
    let settings = format!(
        "public_url = \"{RESOURCE}\"\nscopes_supported = [\"tools\"]\n[[issuers]]\nissuer = \"http://{address}\"\n\
         discovery = true\nroles_claim = \"access.roles\"\n{TIMES}"
    );
    let home = Home::create(&directory.join("home"), &settings)?;
    let node = Launch::new(binary).start(&home)?;
    let mut checks = Checks::default();
    tokens(&mut provider, &node, &mut checks)?;
    rotation(&mut provider, &node, &mut checks)?;
    absence(provider, address, &node, &mut checks)?;
    node.stop()?;
    println!("oidc {}/{}", checks.all - checks.failed, checks.all);
    Ok(checks.failed == 0)
}

fn tokens(provider: &mut Provider, node: &Node, checks: &mut Checks) -> Result<()> {
    let catalog = "/tool-catalog";
    let whole = provider.token("agent", Some(RESOURCE))?;
    checks.expect("a token for the node", &ask(node, catalog, &whole)?, "200");
    checks.expect("the same for /mcp, which is a part of it", &ask(node, "/mcp", &whole)?, "200");
    let part = provider.token("agent", Some(&format!("{RESOURCE}/mcp")))?;
    checks.expect("a token for /mcp, there", &ask(node, "/mcp", &part)?, "200");
    checks.expect("a token for /mcp, elsewhere", &ask(node, catalog, &part)?, "401 audience");
    let other = provider.token("agent", Some("https://other.example"))?;
    checks.expect("a token for somebody else", &ask(node, catalog, &other)?, "401 audience");
    let opaque = provider.token("agent", None)?;
    checks.expect("a token that is no JWT", &ask(node, catalog, &opaque)?, "401 malformed");
    let stranger = provider.token("stranger", Some(RESOURCE))?;
    checks.expect("a token for a workspace that is not the issuer's", &ask(node, catalog, &stranger)?, "401 workspace");
    let status = node.client(&whole).get("/admin/status")?.status.to_string();
    checks.expect("the role operator, which is not the issuer's to give", &status, "403");
    let mut broken = whole.clone();
    let place = broken.len() - 10;
    let other = if broken.as_bytes()[place] == b'A' { "B" } else { "A" };
    broken.replace_range(place..=place, other);
    let found = ask(node, catalog, &broken)?;
    checks.expect("a token with another signature", &found, "401 signature");
    Ok(())
}

fn rotation(provider: &mut Provider, node: &Node, checks: &mut Checks) -> Result<()> {
    let old = provider.token("agent", Some(RESOURCE))?;
    checks.expect("before the rotation", &ask(node, "/tool-catalog", &old)?, "200");
    sleep(Duration::from_millis(1100));
    let before = provider.control("fetches")?.as_u64().unwrap_or(0);
    provider.control("rotate")?;
    let new = provider.token("agent", Some(RESOURCE))?;
    ensure!(header(&old) != header(&new), "the provider did not rotate its key");
    checks.expect("a token of the new key, at once", &ask(node, "/tool-catalog", &new)?, "200");
    checks.expect("a token of the old key, still published", &ask(node, "/tool-catalog", &old)?, "200");
    for _ in 0..200 {
        ask(node, "/tool-catalog", &new)?;
    }
    // One for the unknown key; more only where the set came of age meanwhile, at most one a second.
    let asked = provider.control("fetches")?.as_u64().unwrap_or(0) - before;
    checks.expect("questions to the provider for 202 calls (few)", if asked <= 5 { "few" } else { "many" }, "few");
    provider.control("forget")?;
    let until = Instant::now() + Duration::from_secs(20);
    let mut found = String::new();
    while Instant::now() < until {
        found = ask(node, "/tool-catalog", &old)?;
        if found != "200" {
            break;
        }
        sleep(Duration::from_millis(200));
    }
    checks.expect("a token of the withdrawn key, after its grace", &found, "401 key");
    checks.expect("a token of the new key, meanwhile", &ask(node, "/tool-catalog", &new)?, "200");
    Ok(())
}

fn absence(mut provider: Provider, address: std::net::SocketAddr, node: &Node, checks: &mut Checks) -> Result<()> {
    let token = provider.token("agent", Some(RESOURCE))?;
    sleep(Duration::from_millis(2100));
    checks.expect("before the provider goes away", &ask(node, "/tool-catalog", &token)?, "200");
    drop(provider);
    checks.expect("the provider is away, its keys are known", &ask(node, "/tool-catalog", &token)?, "200");
    let until = Instant::now() + Duration::from_secs(30);
    let mut found = String::new();
    while Instant::now() < until {
        found = ask(node, "/tool-catalog", &token)?;
        if found != "200" {
            break;
        }
        sleep(Duration::from_millis(200));
    }
    checks.expect("its keys are too old to be believed", &found, "503 issuer-away");
    let own = node.client(&node.home().agent("bot", &[])).get("/tool-catalog")?.status.to_string();
    checks.expect("another issuer's token, meanwhile", &own, "200");
    let mut again = Provider::start(address)?;
    sleep(Duration::from_millis(1100));
    let fresh = again.token("agent", Some(RESOURCE))?;
    checks.expect("the provider is back, with a new key", &ask(node, "/tool-catalog", &fresh)?, "200");
    checks.expect(
        "a token of before, whose key it does not have any more",
        &ask(node, "/tool-catalog", &token)?,
        "401 key",
    );
    Ok(())
}

fn header(token: &str) -> &str {
    token.split('.').next().unwrap_or_default()
}
