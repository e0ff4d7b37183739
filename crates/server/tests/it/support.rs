//! A node in a temporary home, and a client that shows every byte.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use countersign_catalog::Manifest;
use countersign_gate::upstream::Upstream;
use countersign_server::{Config, DevIssuer, MintRequest, Node, Overrides};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// A running node with its home.
pub struct World {
    pub node: Node,
    pub config: Config,
    address: String,
    issuer: DevIssuer,
    home: tempfile::TempDir,
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
    pub fn header(&self, name: &str) -> Option<&str> {
        let line = self.head.lines().find(|l| l.to_ascii_lowercase().starts_with(&format!("{name}:")))?;
        Some(line[name.len() + 1..].trim())
    }
    /// The last part of the problem's type.
    pub fn problem(&self) -> String {
        let value = self.json();
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        assert!(value["correlation_id"].is_string() && value["status"] == self.status, "{value}");
        value["type"].as_str().expect("a type").rsplit('/').next().expect("a slug").to_owned()
    }
}

/// The sample upstream's program: an example of this package, built beside the test.
fn upstream_program() -> PathBuf {
    let test = std::env::current_exe().expect("a path");
    test.parent().and_then(|deps| deps.parent()).expect("target/<profile>").join("examples/ads")
}

const APPROVAL: &str = r#"
@id("big") @approvals("1") @approver_role("treasurer") @expires("15m") @reason("More than 1,000 needs a treasurer.")
permit (principal, action == Action::"ads:createCampaign", resource)
when { context.input.budget.greaterThan(decimal("1000.0")) };
"#;
const ACCESS: &str = r#"
@id("finance") permit (principal in Role::"finance-write", action, resource);
@id("ceiling") @reason("No campaign above 50,000.")
forbid (principal, action == Action::"ads:createCampaign", resource)
when { context.input.budget.greaterThan(decimal("50000.0")) };
"#;

impl World {
    pub async fn start() -> Self {
        Self::start_with("[approval]\nwait_seconds = 1\n[limits]\nbody_bytes = 65536\nheader_timeout = \"2s\"\nbody_timeout = \"1s\"\n").await
    }

    pub async fn start_with(settings: &str) -> Self {
        let home = tempfile::tempdir().expect("a directory");
        let write = |name: &str, text: &str| {
            let path = home.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            std::fs::write(path, text).expect("written");
        };
        write("countersign.toml", settings);
        write("policies/access/a.cedar", ACCESS);
        write("policies/approval/a.cedar", APPROVAL);
        let manifest = json!({
            "version": 1, "upstream": "ads", "workspaces": "all",
            "transport": { "type": "stdio", "command": upstream_program(), "args": ["--data", home.path().join("ads")] },
            "tools": {
                "listCampaigns": { "effect": "read" }, "getCampaign": { "effect": "read" },
                "createCampaign": { "effect": "write" }, "deleteCampaign": { "effect": "destructive" },
            },
        });
        // JSON is YAML.
        write("manifests/ads.yaml", &manifest.to_string());
        let flags = Overrides { home: Some(home.path().to_owned()), ..Overrides::default() };
        let config = Config::load_with(&flags, &|_| None).expect("a valid configuration");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let world = Self::around(config, listener, home).await;
        world.accept_all_of("ads").await;
        world
    }

    /// Why a node with these settings does not start.
    pub async fn refused(settings: &str) -> String {
        let home = tempfile::tempdir().expect("a directory");
        std::fs::write(home.path().join("countersign.toml"), settings).expect("written");
        let flags = Overrides { home: Some(home.path().to_owned()), ..Overrides::default() };
        let config = Config::load_with(&flags, &|_| None).expect("a valid configuration");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        match Node::start_on(config, listener).await {
            Ok(_) => panic!("it started"),
            Err(error) => error.to_string(),
        }
    }

    /// A node on a home that is there, with nothing accepted yet.
    pub async fn around(config: Config, listener: TcpListener, home: tempfile::TempDir) -> Self {
        let address = listener.local_addr().expect("an address").to_string();
        let node = Node::start_on(config.clone(), listener).await.unwrap_or_else(|e| panic!("{e}"));
        let issuer = DevIssuer::open(&config.keys_dir).expect("the node made it");
        Self { node, config, address, issuer, home }
    }

    /// The same node, stopped and started again.
    pub async fn restart(self) -> Self {
        self.restart_after(|_| async {}).await
    }

    /// The same node, started again with other settings.
    pub async fn restart_with(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(&mut self.config);
        self.restart().await
    }

    /// The same, with something done while it does not run.
    pub async fn restart_after<F: Future<Output = ()>>(self, meanwhile: impl FnOnce(Config) -> F) -> Self {
        self.node.shutdown().await;
        meanwhile(self.config.clone()).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        Self::around(self.config, listener, self.home).await
    }

    /// A node with these upstreams in its process, everything reviewed; `policy` beside leave to use all tools.
    pub async fn start_among(settings: &str, policy: &str, upstreams: Vec<(String, Arc<dyn Upstream>)>) -> Self {
        let home = tempfile::tempdir().expect("a directory");
        std::fs::create_dir_all(home.path().join("policies/access")).expect("made");
        std::fs::write(home.path().join("countersign.toml"), settings).expect("written");
        let policy = format!("@id(\"all\") permit (principal in Role::\"finance-write\", action, resource);\n{policy}");
        std::fs::write(home.path().join("policies/access/a.cedar"), policy).expect("written");
        let flags = Overrides { home: Some(home.path().to_owned()), ..Overrides::default() };
        let config = Config::load_with(&flags, &|_| None).expect("a valid configuration");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address").to_string();
        let built_in = upstreams.into_iter().map(|(name, upstream)| {
            let yaml = format!("version: 1\nupstream: {name}\ntransport: {{ type: stdio, command: none }}\n");
            (Manifest::parse(&yaml, "built-in").expect("a manifest"), upstream)
        });
        let built_in: Vec<_> = built_in.collect();
        let names: Vec<String> = built_in.iter().map(|(manifest, _)| manifest.upstream.to_string()).collect();
        let node = Node::start_with(config.clone(), listener, built_in).await.unwrap_or_else(|e| panic!("{e}"));
        let issuer = DevIssuer::open(&config.data_dir.join("keys")).expect("the node made it");
        let world = Self { node, config, address, issuer, home };
        for name in names {
            world.accept_all_of(&name).await;
        }
        world
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    pub async fn accept_all_of(&self, upstream: &str) {
        let operator = self.person("olga", &["operator", "auditor"]);
        let refreshed = self.post(&format!("/admin/upstreams/{upstream}/refresh"), &operator, "{}").await;
        assert_eq!(refreshed.status, 200, "{refreshed:?}");
        let tools = self.get("/admin/tools", &operator).await.json();
        for tool in tools.as_array().expect("tools").iter().filter(|tool| !tool["proposed"].is_null()) {
            // Names of resources hold what a path does not.
            let name = tool["name"].as_str().expect("a name").as_bytes();
            let name: String = url::form_urlencoded::byte_serialize(name).collect();
            let path = format!("/admin/tools/{name}/accept");
            let accepted = self.post(&path, &operator, &json!({ "pin": tool["proposed"] }).to_string()).await;
            assert_eq!(accepted.status, 200, "{accepted:?}");
        }
        let reloaded = self.post("/admin/policy/reload", &operator, "").await.json();
        assert_eq!(reloaded["problems"], json!([]), "{reloaded}");
    }

    pub fn token(&self, request: MintRequest) -> String {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock").as_secs();
        self.issuer.mint(&MintRequest { ttl: Duration::from_secs(600), ..request }, now).expect("a token")
    }

    pub fn person(&self, name: &str, roles: &[&str]) -> String {
        let roles = roles.iter().map(|r| (*r).to_owned()).collect();
        self.token(MintRequest { sub: name.into(), kind: Some("person".into()), roles, ..MintRequest::default() })
    }

    pub fn agent(&self, name: &str) -> String {
        let roles = vec!["finance-write".to_owned()];
        self.token(MintRequest { sub: name.into(), kind: Some("agent".into()), roles, ..MintRequest::default() })
    }

    pub async fn get(&self, path: &str, token: &str) -> Reply {
        self.send("GET", path, token, &[], None).await
    }

    pub async fn post(&self, path: &str, token: &str, body: &str) -> Reply {
        self.send("POST", path, token, &[("content-type", "application/json")], Some(body)).await
    }

    pub async fn send(
        &self,
        method: &str,
        path: &str,
        token: &str,
        headers: &[(&str, &str)],
        body: Option<&str>,
    ) -> Reply {
        let mut head = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\n");
        if !headers.iter().any(|(name, _)| *name == "host") {
            head += &format!("host: {}\r\n", self.address);
        }
        if !token.is_empty() {
            head += &format!("authorization: Bearer {token}\r\n");
        }
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        if let Some(body) = body {
            head += &format!("content-length: {}\r\n", body.len());
        }
        self.raw(format!("{head}\r\n{}", body.unwrap_or_default()).as_bytes()).await
    }

    /// Sends bytes and reads until the node closes the connection.
    pub async fn raw(&self, bytes: &[u8]) -> Reply {
        let mut stream = self.connect().await;
        stream.write_all(bytes).await.expect("sent");
        read_reply(&mut stream).await
    }

    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(&self.address).await.expect("connected")
    }

    pub async fn create(&self, token: &str, budget: u64, headers: &[(&str, &str)]) -> Reply {
        let body = json!({ "name": "LaunchX", "budget": budget, "startDate": "2025-10-10" }).to_string();
        self.send("POST", "/tools/ads:createCampaign/invoke", token, headers, Some(&body)).await
    }
}

pub async fn read_reply(stream: &mut TcpStream) -> Reply {
    let mut all = Vec::new();
    let reading = stream.read_to_end(&mut all);
    tokio::time::timeout(Duration::from_secs(70), reading).await.expect("an answer in time").expect("readable");
    let end = all
        .windows(4)
        .position(|w| w == b"\r\n\r\n")
        .unwrap_or_else(|| panic!("no head in {:?}", String::from_utf8_lossy(&all)));
    let head = String::from_utf8_lossy(&all[..end]).into_owned();
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status");
    let mut body = all[end + 4..].to_vec();
    if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        body = unchunk(&body);
    }
    Reply { status, head, body }
}

fn unchunk(mut rest: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some(end) = rest.windows(2).position(|w| w == b"\r\n") {
        let size = usize::from_str_radix(&String::from_utf8_lossy(&rest[..end]), 16).expect("a chunk size");
        let start = end + 2;
        out.extend_from_slice(&rest[start..start + size]);
        rest = &rest[start + size + 2..];
        if size == 0 {
            break;
        }
    }
    out
}
