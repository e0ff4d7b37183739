//! A gate in a temporary directory, and an upstream that does what a test tells it.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use countersign_catalog::Manifest;
use countersign_domain::{Principal, PrincipalKind, Refusal, ToolRef, UpstreamName, WorkspaceName};
use countersign_gate::api::{Answer, CallOutcome, CallRequest, PendingCall};
use countersign_gate::identity::Authenticator;
use countersign_gate::keyring::Keyring;
use countersign_gate::limits::{Rate, Rates};
use countersign_gate::load::LoadRule;
use countersign_gate::permit::Permit;
use countersign_gate::policies::PolicyStore;
use countersign_gate::registry::Registry;
use countersign_gate::upstream::{
    Answers, Ask, AskError, AskKind, Client, DiscoverError, Discovered, DispatchError, Exchange, Mute, ToolResult,
    Upstream, UpstreamStatus,
};
use countersign_gate::{Gate, Settings};
use countersign_ledger::contract::{EventQuery, EventRow};
use countersign_ledger::{Ledger, LedgerOptions};
use countersign_proof::canonical::Limits;
use countersign_store::SqliteStore;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::watch;

const MANIFEST: &str = "
version: 1
upstream: bank
transport: { type: stdio, command: bank }
timeout: 1s
tools:
  balance: { effect: read }
  pay: { effect: write, cost: { micros: 1000000, argument: /amount } }
  restart: { effect: write, cooldown: { pause: 10m, argument: /service } }
  quote: { effect: read, cost: { micros: 300000 } }
";

const ACCESS: &str = r#"
@id("tellers")
permit (principal in Role::"teller", action, resource);
@id("no-fortunes")
@reason("more than a teller may move")
forbid (principal, action == Action::"bank:pay", resource) when { context.input.amount > 10000 };
"#;

const APPROVAL: &str = r#"
@id("large")
@approvals("1") @approver_role("treasurer") @expires("1h")
@reason("more than 1000")
permit (principal, action == Action::"bank:pay", resource) when { context.input.amount > 1000 };
@id("own-word")
@confirm
permit (principal, action == Action::"bank:pay", resource) when { context.input.to == "abroad" };
"#;

/// What the upstream does with the next calls of a tool.
#[derive(Clone)]
pub enum Act {
    Answer(&'static str),
    Slowly(Duration, &'static str),
    Hang,
    Lose,
    Refuse,
    Unreachable,
    /// Asks these things one after the other, keeps the answers, and is done.
    Ask(Vec<Ask>),
    /// Runs until the caller cancels.
    UntilCancelled,
}

pub struct Bank {
    name: UpstreamName,
    pub acts: Mutex<HashMap<String, Act>>,
    pub executed: Mutex<Vec<(String, String)>>,
    pub definitions: Mutex<Vec<Value>>,
    /// Prompts, resources and resource templates.
    pub offers: Mutex<[Vec<Value>; 3]>,
    pub answers: Mutex<Vec<Result<String, AskError>>>,
    changes: watch::Sender<u64>,
}

impl Bank {
    fn new() -> Arc<Self> {
        let pay = json!({
            "name": "pay", "description": "Moves money",
            "inputSchema": {"type": "object", "required": ["to", "amount"], "additionalProperties": false,
                "properties": {"to": {"type": "string"}, "amount": {"type": "integer"}}},
        });
        let balance = json!({"name": "balance", "inputSchema": {"type": "object", "properties": {"account": {"type": "string"}}}, "x-odd": [1]});
        let restart = json!({"name": "restart", "inputSchema": {"type": "object"}});
        let quote = json!({"name": "quote", "inputSchema": {"type": "object"}});
        Arc::new(Self {
            name: "bank".parse().expect("a name"),
            acts: Mutex::default(),
            executed: Mutex::default(),
            definitions: Mutex::new(vec![pay, balance, restart, quote]),
            offers: Mutex::default(),
            answers: Mutex::default(),
            changes: watch::channel(0).0,
        })
    }

    pub fn act(&self, tool: &str, act: Act) {
        self.acts.lock().expect("lock").insert(tool.into(), act);
    }

    pub fn count(&self, tool: &str) -> usize {
        self.executed.lock().expect("lock").iter().filter(|(t, _)| t == tool).count()
    }

    pub fn change(&self, tool: &str, description: &str) {
        let mut all = self.definitions.lock().expect("lock");
        let found = all.iter_mut().find(|d| d["name"] == tool).expect("the tool");
        found["description"] = json!(description);
    }
}

#[async_trait]
impl Upstream for Bank {
    fn name(&self) -> &UpstreamName {
        &self.name
    }
    async fn dispatch(&self, permit: Permit, exchange: &dyn Exchange) -> Result<ToolResult, DispatchError> {
        let tool = permit.tool().tool.clone();
        let act = self.acts.lock().expect("lock").get(&tool).cloned().unwrap_or(Act::Answer("done"));
        if matches!(act, Act::Unreachable) {
            return Err(DispatchError::NotSent("nobody there".into()));
        }
        self.executed.lock().expect("lock").push((tool, permit.arguments().get().to_owned()));
        let result = |text: &str| {
            let raw = format!(r#"{{"content":[{{"type":"text","text":"{text}"}}],"x-kept":1.50}}"#);
            Ok(ToolResult {
                raw: RawValue::from_string(raw).expect("JSON"),
                is_error: false,
                remarks: serde_json::Map::new(),
            })
        };
        match act {
            Act::Answer(text) => result(text),
            Act::Slowly(pause, text) => {
                tokio::time::sleep(pause).await;
                result(text)
            }
            Act::Hang => {
                tokio::time::sleep_until(tokio::time::Instant::from_std(permit.deadline())).await;
                Err(DispatchError::Timeout)
            }
            Act::Lose => Err(DispatchError::Lost("connection reset".into())),
            Act::Refuse => {
                let raw = RawValue::from_string(r#"{"code":-32000,"message":"closed"}"#.into()).expect("JSON");
                Err(DispatchError::Rpc { code: -32000, message: "closed".into(), raw })
            }
            Act::Ask(asks) => {
                for ask in asks {
                    let answers = exchange.ask(vec![ask]).await;
                    let texts = answers.into_iter().map(|answer| answer.map(|raw| raw.get().to_owned()));
                    self.answers.lock().expect("lock").extend(texts);
                }
                result("asked")
            }
            Act::UntilCancelled => {
                exchange.cancelled().await;
                Err(DispatchError::Cancelled)
            }
            Act::Unreachable => unreachable!("handled above"),
        }
    }
    async fn discover(&self) -> Result<Discovered, DiscoverError> {
        let raw = |all: &Vec<Value>| all.iter().map(|d| RawValue::from_string(d.to_string()).expect("JSON")).collect();
        let tools = raw(&self.definitions.lock().expect("lock"));
        let [prompts, resources, resource_templates] = &*self.offers.lock().expect("lock");
        let (prompts, resources, resource_templates) = (raw(prompts), raw(resources), raw(resource_templates));
        Ok(Discovered { tools, prompts, resources, resource_templates, completions: true, subscriptions: true })
    }
    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
    fn status(&self) -> UpstreamStatus {
        UpstreamStatus { state: "ready".into(), protocol: None, error: None }
    }
    async fn shutdown(&self) {}
}

pub struct World {
    pub gate: Arc<Gate>,
    pub bank: Arc<Bank>,
    pub ledger: Ledger,
    pub dir: TempDir,
}

fn now() -> u64 {
    countersign_ledger::handle::system_clock()
}

/// A gate whose tools are reviewed.
pub async fn world() -> World {
    world_with(|_| {}).await
}

/// The same, with other settings.
pub async fn world_with(change: impl FnOnce(&mut Settings)) -> World {
    let dir = TempDir::new().expect("a directory");
    for (file, text) in [("access/bank.cedar", ACCESS), ("approval/bank.cedar", APPROVAL)] {
        let path = dir.path().join("policies").join(file);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
        std::fs::write(path, text).expect("a file");
    }
    let mut settings = settings();
    change(&mut settings);
    let world = open_with(dir, Bank::new(), settings).await;
    accept_all(&world).await;
    world
}

/// A world with more in its manifest, nothing new reviewed yet.
pub async fn world_of(manifest: &str) -> World {
    let World { gate, bank, ledger, dir } = world().await;
    ledger.shutdown().await;
    drop((gate, ledger));
    open_manifest(dir, bank, settings(), &format!("{MANIFEST}{manifest}")).await
}

pub async fn open_with(dir: TempDir, bank: Arc<Bank>, settings: Settings) -> World {
    open_manifest(dir, bank, settings, MANIFEST).await
}

async fn open_manifest(dir: TempDir, bank: Arc<Bank>, settings: Settings, manifest: &str) -> World {
    let store = SqliteStore::open(dir.path().join("countersign.db")).expect("store");
    let options = LedgerOptions::new("example.org", [7; 32], dir.path().join("head"));
    let (ledger, _) = Ledger::open(store, options).expect("ledger");
    let manifest = Manifest::parse(manifest, "bank.yaml").expect("manifest");
    let upstream: Arc<dyn Upstream> = bank.clone();
    let registry = Registry::open(vec![(manifest, upstream)], ledger.clone(), now).await.expect("registry");
    let gate = Gate::open(
        ledger.clone(),
        Arc::new(registry),
        Arc::new(PolicyStore::new(dir.path().join("policies"))),
        Keyring::new(&[9; 32], ledger.clone()).expect("keyring"),
        Authenticator::new(vec![]),
        settings,
    );
    let gate = gate.await.expect("gate");
    World { gate, bank, ledger, dir }
}

/// Another gate over the same ledger, as another node has one: nothing in memory is shared.
pub async fn another_gate(world: &World) -> Arc<Gate> {
    let manifest = Manifest::parse(MANIFEST, "bank.yaml").expect("manifest");
    let upstream: Arc<dyn Upstream> = world.bank.clone();
    let registry = Registry::open(vec![(manifest, upstream)], world.ledger.clone(), now).await.expect("registry");
    let gate = Gate::open(
        world.ledger.clone(),
        Arc::new(registry),
        Arc::new(PolicyStore::new(world.path().join("policies"))),
        Keyring::new(&[9; 32], world.ledger.clone()).expect("keyring"),
        Authenticator::new(vec![]),
        settings(),
    );
    gate.await.expect("gate")
}

pub fn settings() -> Settings {
    let rate = |calls| Rate { calls: NonZeroU32::new(calls).expect("not zero"), per: Duration::from_secs(3600) };
    Settings {
        connections: None,
        rates: Rates {
            per_principal: rate(200),
            per_tool: rate(1000),
            per_principal_and_tool: None,
            per_workspace: None,
            global: None,
        },
        sharing: None,
        load: LoadRule { node: 100, per_workspace: 50 },
        breakers: None,
        open_requests: 3,
        budgets: Vec::new(),
        arguments: Limits { max_bytes: 10_000, max_depth: 16 },
        idempotency_ttl: Duration::from_secs(3600),
        decisions_kept: Duration::from_secs(3600),
        workspaces: countersign_gate::directory::WorkspaceMode::Open,
        clock: now,
    }
}

/// A caller that hears and answers nothing.
pub fn quiet() -> Arc<Mute> {
    Arc::new(Mute)
}

/// A caller at whose side somebody answers, always the same.
#[derive(Debug)]
pub struct Person {
    pub answer: Result<&'static str, AskError>,
    pub asked: Mutex<Vec<Value>>,
    pub gone: watch::Sender<bool>,
}

impl Person {
    pub fn who(answer: Result<&'static str, AskError>) -> Arc<Self> {
        Arc::new(Self { answer, asked: Mutex::default(), gone: watch::channel(false).0 })
    }
}

#[async_trait]
impl Client for Person {
    async fn ask(&self, asks: Vec<Ask>) -> Answers {
        let shown = asks.iter().map(|ask| serde_json::from_str(ask.params.get()).expect("JSON"));
        self.asked.lock().expect("lock").extend(shown);
        let answer = || self.answer.clone().map(|text| RawValue::from_string(text.to_owned()).expect("JSON"));
        asks.iter().map(|_| answer()).collect()
    }
    fn answers(&self, kind: AskKind) -> bool {
        kind != AskKind::Sample
    }
    async fn cancelled(&self) {
        let _ = self.gone.subscribe().wait_for(|gone| *gone).await;
    }
}

/// Lists the bank's tools and accepts all that wait.
pub async fn accept_all(world: &World) {
    let operator = person("olivia", &["operator"]);
    let upstream: UpstreamName = "bank".parse().expect("a name");
    world.gate.refresh_upstream(&operator, &upstream).await.expect("listed");
    for report in world.gate.tool_reports(&operator).await.expect("reports") {
        if let Some(pin) = report.proposed {
            world.gate.accept_tool(&operator, &tool(&report.name), &pin, &[]).await.expect("accepted");
        }
    }
}

pub fn tool(name: &str) -> ToolRef {
    name.parse().expect("a tool")
}

fn principal(kind: PrincipalKind, id: &str, behalf: Option<&str>, roles: &[&str]) -> Arc<Principal> {
    Arc::new(Principal {
        kind,
        id: id.into(),
        issuer: "https://idp.example".into(),
        on_behalf_of: behalf.map(str::to_owned),
        workspace: WorkspaceName::default_workspace(),
        roles: roles.iter().map(|r| (*r).to_owned()).collect(),
        scopes: Default::default(),
        development: false,
        attributes: Default::default(),
    })
}

/// An agent that acts for nobody.
pub fn robot() -> Arc<Principal> {
    principal(PrincipalKind::Agent, "robot", None, &["teller"])
}

/// An agent that acts for Ada.
pub fn adas_agent() -> Arc<Principal> {
    principal(PrincipalKind::Agent, "helper", Some("ada"), &["teller"])
}

/// The same agent, acting for Bert.
pub fn berts_agent() -> Arc<Principal> {
    principal(PrincipalKind::Agent, "helper", Some("bert"), &["teller"])
}

pub fn person(id: &str, roles: &[&str]) -> Arc<Principal> {
    principal(PrincipalKind::Person, id, None, roles)
}

pub fn request(who: &Arc<Principal>, name: &str, arguments: &Value) -> CallRequest {
    CallRequest {
        principal: Arc::clone(who),
        tool: tool(name),
        arguments: arguments.to_string().into_bytes(),
        idempotency_key: None,
        correlation: "test".into(),
        client: Arc::new(Mute),
        timeout: None,
    }
}

impl World {
    pub async fn call(&self, who: &Arc<Principal>, name: &str, arguments: Value) -> Result<CallOutcome, Refusal> {
        self.gate.call(request(who, name, &arguments)).await
    }

    pub async fn call_with_key(
        &self,
        who: &Arc<Principal>,
        name: &str,
        arguments: Value,
        key: &str,
    ) -> Result<CallOutcome, Refusal> {
        let mut request = request(who, name, &arguments);
        request.idempotency_key = Some(key.into());
        self.gate.call(request).await
    }

    /// All events of the default workspace and the node's, oldest first, as `type`s.
    pub async fn events(&self) -> Vec<EventRow> {
        let page =
            self.ledger.read(|r| r.events(&EventQuery { limit: 1000, ..EventQuery::default() })).await.expect("events");
        page.rows.into_iter().map(|(_, row)| row).collect()
    }

    pub async fn kinds(&self, prefix: &str) -> Vec<String> {
        self.events().await.into_iter().map(|row| row.kind).filter(|kind| kind.starts_with(prefix)).collect()
    }

    /// Stops everything and opens it again over the same files.
    pub async fn restart(self) -> World {
        self.restart_with(settings()).await
    }

    /// The same, with other settings.
    pub async fn restart_with(self, settings: Settings) -> World {
        let World { gate, bank, ledger, dir } = self;
        ledger.shutdown().await;
        drop((gate, ledger));
        open_with(dir, bank, settings).await
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

pub fn done(outcome: Result<CallOutcome, Refusal>) -> Answer {
    match outcome.expect("allowed") {
        CallOutcome::Done(answer) => answer,
        CallOutcome::Pending(pending) => panic!("still pending: {pending:?}"),
    }
}

pub fn pending(outcome: Result<CallOutcome, Refusal>) -> PendingCall {
    match outcome.expect("allowed") {
        CallOutcome::Pending(pending) => pending,
        CallOutcome::Done(answer) => panic!("executed: {answer:?}"),
    }
}

/// The kind of a refusal that must come, and must name a durable event of type `call.denied`.
pub async fn refused(world: &World, outcome: Result<CallOutcome, Refusal>, slug: &str) -> Refusal {
    let refusal = outcome.expect_err("refused");
    assert_eq!(refusal.kind.slug(), slug, "{refusal}");
    let id = refusal.event.expect("a refusal of an authenticated caller has an event");
    let row = world.ledger.read(move |r| r.event(id)).await.expect("read").expect("the event is there");
    let event: Value = serde_json::from_slice(&row.opening.expect("not erased").event).expect("JSON");
    assert_eq!(event["type"], "call.denied");
    assert_eq!(event["reason"]["kind"], slug);
    refusal
}
