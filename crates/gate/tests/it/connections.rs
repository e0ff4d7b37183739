//! Accounts that people connect: who may, what comes back, what is stored, and that a renewed token is never lost.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use countersign_catalog::Manifest;
use countersign_domain::{Millis, Principal, Refusal, UpstreamName, WorkspaceName};
use countersign_gate::broker::assertion::AssertionKey;
use countersign_gate::broker::oauth::TokenEndpoint;
use countersign_gate::broker::{CredentialSource, Parts, Secret};
use countersign_gate::connections::Connections;
use countersign_gate::connections::flow::{Consent, ReturnError, Returned};
use countersign_gate::connections::operators::Person;
use countersign_gate::identity::Authenticator;
use countersign_gate::keyring::Keyring;
use countersign_gate::policies::PolicyStore;
use countersign_gate::registry::Registry;
use countersign_gate::upstream::Upstream;
use countersign_gate::{Gate, Settings};
use countersign_ledger::Append;
use countersign_ledger::state::{FreezeTarget, StateOp};
use serde_json::{Value, json};
use url::Url;
use zeroize::Zeroizing;

use crate::harness::{World, adas_agent, person, robot, settings, world};

/// The bank with accounts of people; its tools are never called here.
const MANIFEST: &str = "
version: 1
upstream: bank
transport:
  type: rest
  url: https://bank.example
  credential:
    type: user
    authorization_url: https://idp.example/authorize?prompt=consent
    token_url: https://idp.example/token
    revocation_url: https://idp.example/revoke
    issuer: https://idp.example
    client_id: node
    scopes: [accounts, offline_access]
    resource: https://bank.example
tools: {}
";

/// An authorization server that rotates refresh tokens, and ends a family when an old one comes back (RFC 9700, 4.14.2).
#[derive(Default)]
struct Provider {
    /// Codes with the challenge that they were given out for.
    codes: Mutex<Vec<(String, String)>>,
    refresh: Mutex<HashSet<String>>,
    revoked: Mutex<Vec<String>>,
    renewals: AtomicU64,
    minted: AtomicU64,
    /// Seconds that access tokens live.
    life: AtomicU64,
    /// How long a renewal takes, in ms.
    pause: AtomicU64,
    /// The next requests fail with this status.
    failing: AtomicU64,
}

impl Provider {
    /// What the person's browser does: reads the address and brings a code back.
    fn consent(&self, url: &str) -> Returned {
        let url = Url::parse(url).expect("a URL");
        let value = |name: &str| url.query_pairs().find(|(n, _)| n == name).map(|(_, v)| v.into_owned());
        for (name, expected) in [
            ("response_type", "code"),
            ("prompt", "consent"),
            ("code_challenge_method", "S256"),
            ("redirect_uri", "https://node.example/oauth/callback"),
            ("scope", "accounts offline_access"),
            ("resource", "https://bank.example"),
        ] {
            assert_eq!(value(name).as_deref(), Some(expected), "{name}");
        }
        let code = format!("code-{}", self.minted.fetch_add(1, Ordering::SeqCst));
        self.codes.lock().expect("lock").push((code.clone(), value("code_challenge").expect("a challenge")));
        let issuer = Some("https://idp.example".to_owned());
        Returned { state: value("state"), code: Some(Secret::new(code)), issuer, error: None }
    }

    fn tokens(&self) -> (u16, Value) {
        let n = self.minted.fetch_add(1, Ordering::SeqCst);
        self.refresh.lock().expect("lock").insert(format!("refresh-{n}"));
        let life = self.life.load(Ordering::SeqCst);
        (
            200,
            json!({"access_token": format!("access-{n}"), "refresh_token": format!("refresh-{n}"), "expires_in": life, "token_type": "Bearer", "scope": "accounts"}),
        )
    }

    fn answer(&self, url: &str, form: &str) -> (u16, Value) {
        let invalid = || (400, json!({"error": "invalid_grant", "error_description": "secret words"}));
        let pairs: Vec<(String, String)> = url::form_urlencoded::parse(form.as_bytes()).into_owned().collect();
        let value = |name: &str| pairs.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str()).unwrap_or_default();
        if url.ends_with("/revoke") {
            self.revoked.lock().expect("lock").push(value("token").to_owned());
            self.refresh.lock().expect("lock").remove(value("token"));
            return (200, json!({}));
        }
        match value("grant_type") {
            "authorization_code" => {
                use base64::Engine as _;
                let digest = countersign_proof::digest::Digest::of(value("code_verifier").as_bytes());
                let challenge = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(digest.0);
                let mut codes = self.codes.lock().expect("lock");
                let found = codes.iter().position(|(code, of)| code == value("code") && *of == challenge);
                let Some(at) = found else { return invalid() };
                codes.remove(at);
                drop(codes);
                self.tokens()
            }
            "refresh_token" => {
                self.renewals.fetch_add(1, Ordering::SeqCst);
                let known = self.refresh.lock().expect("lock").remove(value("refresh_token"));
                if !known {
                    // Somebody else had it: all of them end.
                    self.refresh.lock().expect("lock").clear();
                    return invalid();
                }
                self.tokens()
            }
            other => panic!("{other}"),
        }
    }
}

#[async_trait]
impl TokenEndpoint for Provider {
    async fn post(
        &self,
        url: &str,
        _authorization: Option<&Secret>,
        form: Secret,
        _deadline: Instant,
    ) -> Result<(u16, Zeroizing<Vec<u8>>), String> {
        if self.failing.load(Ordering::SeqCst) > 0 {
            self.failing.fetch_sub(1, Ordering::SeqCst);
            return Ok((503, Zeroizing::new(b"busy".to_vec())));
        }
        let (status, body) = self.answer(url, form.expose());
        tokio::time::sleep(Duration::from_millis(self.pause.load(Ordering::SeqCst))).await;
        Ok((status, Zeroizing::new(body.to_string().into_bytes())))
    }
}

/// Milliseconds by which the nodes' clock is ahead; one for each test, by thread.
fn now() -> Millis {
    countersign_ledger::handle::system_clock()
}

/// A gate of its own with what a node has: its source of credentials.
struct Node {
    gate: Arc<Gate>,
    source: Arc<dyn CredentialSource>,
}

async fn node(world: &World, provider: &Arc<Provider>) -> Node {
    let keyring = Arc::new(Keyring::new(&[9; 32], world.ledger.clone()).expect("keyring"));
    let connections = Connections::new(world.ledger.clone(), Arc::clone(&keyring), "https://node.example/", now);
    let parts = Parts {
        http: Arc::clone(provider) as Arc<dyn TokenEndpoint>,
        assertion: Arc::new(AssertionKey::from_pkcs8(&AssertionKey::generate().expect("a key")).expect("a key")),
        issuer: "https://node.example".into(),
        clock: now,
        connections: Some(Arc::clone(&connections)),
        web: None,
        environment: |_| None,
    };
    let manifest = Manifest::parse(MANIFEST, "bank.yaml").expect("manifest");
    let source = parts.source(&manifest).expect("usable").expect("a source");
    let upstream: Arc<dyn Upstream> = world.bank.clone();
    let registry = Registry::open(vec![(manifest, upstream)], world.ledger.clone(), now).await.expect("registry");
    let policies = Arc::new(PolicyStore::new(world.path().join("policies")));
    let settings = Settings { connections: Some(connections), ..settings() };
    let authenticator = Authenticator::new(vec![]);
    let gate = Gate::open(world.ledger.clone(), Arc::new(registry), policies, keyring, authenticator, settings);
    Node { gate: gate.await.expect("gate"), source }
}

async fn start() -> (World, Arc<Provider>, Node) {
    let world = world().await;
    // Policies about tools that this bank does not list would not load.
    let text = "@id(\"tellers\") permit (principal in Role::\"teller\", action, resource);\n\
                @id(\"not-eve\") forbid (principal, action == Action::\"bank:account/connect\", resource) \
                when { principal.id == \"eve\" && context.input.scopes.contains(\"accounts\") };";
    std::fs::write(world.path().join("policies/access/bank.cedar"), text).expect("written");
    std::fs::remove_file(world.path().join("policies/approval/bank.cedar")).expect("removed");
    let provider = Arc::new(Provider::default());
    provider.life.store(3600, Ordering::SeqCst);
    let node = node(&world, &provider).await;
    (world, provider, node)
}

fn bank() -> UpstreamName {
    "bank".parse().expect("a name")
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

impl Node {
    async fn begin(&self, who: &Arc<Principal>) -> Result<String, Refusal> {
        self.gate.connect(who, &bank(), "test").await.map(|started| started.authorization_url)
    }

    async fn confirm(&self, who: &Arc<Principal>, consent: &Consent) -> Result<(), Refusal> {
        self.gate.confirm_connection(who, &bank(), &consent.code, "test").await.map(drop)
    }

    async fn connect(&self, who: &Arc<Principal>, provider: &Provider) {
        let url = self.begin(who).await.expect("started");
        let consent = self.gate.returned(provider.consent(&url)).await.expect("consented");
        self.confirm(who, &consent).await.expect("connected");
    }

    async fn token(&self, who: &Principal) -> Result<String, Refusal> {
        self.source.get(Some(who), soon()).await.map(|credential| credential.value().expose().to_owned())
    }

    async fn state(&self, who: &Principal) -> &'static str {
        self.gate.connections(who).await.expect("listed")[0].state
    }
}

fn slug<T: std::fmt::Debug>(outcome: Result<T, Refusal>) -> &'static str {
    outcome.expect_err("refused").kind.slug()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_connects_and_agents_use_it_for_that_person_alone() {
    let (world, provider, node) = start().await;
    let (ada, bert) = (person("ada", &["teller"]), person("bert", &["teller"]));
    assert_eq!(node.state(&ada).await, "none");
    let refusal = node.token(&adas_agent()).await.expect_err("not yet");
    assert_eq!(refusal.kind.slug(), "connection-needed");
    assert_eq!(refusal.extra["connect_url"], "https://node.example/connections/bank/page");
    node.connect(&ada, &provider).await;
    assert_eq!(node.state(&ada).await, "connected");
    let token = node.token(&adas_agent()).await.expect("a token");
    assert!(token.starts_with("Bearer access-"), "{token}");
    assert_eq!(node.token(&ada).await.expect("a token"), token, "by herself, too");
    assert_eq!(slug(node.token(&bert).await), "connection-needed", "nobody else's");
    assert_eq!(slug(node.token(&robot()).await), "connection-needed", "nobody is behind it");
    let elsewhere = Principal { workspace: "other".parse().expect("a name"), ..Principal::clone(&ada) };
    assert_eq!(slug(node.token(&elsewhere).await), "connection-needed", "another workspace is another account");
    assert_eq!(node.gate.connections(&adas_agent()).await.expect("listed")[0].scopes, ["accounts"]);

    // Restart: it is all in the database.
    let again = self::node(&world, &provider).await;
    assert_eq!(again.token(&adas_agent()).await.expect("a token"), token);
    // Disconnecting counts on every node with the next call, and the provider hears of it.
    let done = again.gate.disconnect(&ada, &bank()).await.expect("disconnected");
    assert_eq!(done.revoked, Some(true));
    assert_eq!(provider.revoked.lock().expect("lock").len(), 2);
    assert_eq!(slug(node.token(&adas_agent()).await), "connection-needed");
    assert_eq!(slug(again.gate.disconnect(&ada, &bank()).await), "not-found");
    assert_eq!(world.kinds("connection.").await, ["connection.made", "connection.removed"]);
    let file = std::fs::read(world.path().join("countersign.db-wal")).expect("the log");
    let holds = |secret: &str| file.windows(secret.len()).any(|window| window == secret.as_bytes());
    assert!(holds("connection.made") && !holds("access-") && !holds("refresh-"), "only sealed");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_people_whom_the_policies_let_connect_do() {
    let (world, provider, node) = start().await;
    assert_eq!(slug(node.begin(&adas_agent()).await), "forbidden", "not an agent, whoever is behind it");
    assert_eq!(slug(node.begin(&robot()).await), "forbidden");
    assert_eq!(slug(node.begin(&person("carl", &[])).await), "policy-denied");
    let refusal = node.begin(&person("eve", &["teller"])).await.expect_err("forbidden by its own action");
    assert_eq!(refusal.kind.slug(), "policy-denied");
    assert!(refusal.event.is_some(), "a no is an event");
    let ada = person("ada", &["teller"]);
    let nowhere: UpstreamName = "nowhere".parse().expect("a name");
    assert_eq!(slug(node.gate.connect(&ada, &nowhere, "t").await), "not-found");
    // What was allowed when it began is looked at again when it ends.
    let url = node.begin(&ada).await.expect("started");
    let consent = node.gate.returned(provider.consent(&url)).await.expect("consented");
    let olivia = person("olivia", &["operator"]);
    node.gate.freeze(&olivia, FreezeTarget::Upstream(bank()), "look").await.expect("frozen");
    assert_eq!(slug(node.confirm(&ada, &consent).await), "frozen");
    node.gate.unfreeze(&olivia, FreezeTarget::Upstream(bank()), "fine").await.expect("lifted");
    node.confirm(&ada, &consent).await.expect("connected");
    // The operation is no tool.
    let called = node.gate.call(crate::harness::request(&ada, "bank:account/connect", &json!({}))).await;
    assert_eq!(called.expect_err("refused").kind.slug(), "unknown-tool");
    assert_eq!(world.kinds("connection.").await, ["connection.made"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_back_counts_once_and_for_the_one_who_asked() {
    let (_world, provider, node) = start().await;
    let (ada, mallory) = (person("ada", &["teller"]), person("mallory", &["teller"]));
    // A state is good once, even if its first use fails.
    let url = node.begin(&ada).await.expect("started");
    let given = provider.consent(&url);
    let consent = node.gate.returned(given.clone()).await.expect("consented");
    assert!(matches!(node.gate.returned(given).await, Err(ReturnError::NotOurs)), "replayed");
    // Somebody else's word does not connect it, nor a wrong one.
    assert_eq!(slug(node.confirm(&mallory, &consent).await), "not-found");
    let wrong =
        Consent { upstream: bank(), person: "ada".into(), issuer: None, code: Secret::new("AAAA-AAAA-AAAA".into()) };
    assert_eq!(slug(node.confirm(&ada, &wrong).await), "not-found");
    assert_eq!(node.state(&ada).await, "consented");
    assert_eq!(slug(node.token(&ada).await), "connection-needed", "not before her word");
    let sloppy = Consent { code: Secret::new(consent.code.expose().to_lowercase().replace('-', " ")), ..wrong };
    node.confirm(&ada, &sloppy).await.expect("as people type it");
    assert_eq!(slug(node.confirm(&ada, &consent).await), "not-found", "used up");

    // A code that another flow got is of no use: it is bound to that flow's verifier.
    let stolen = provider.consent(&node.begin(&ada).await.expect("started")).code;
    let mut injected = provider.consent(&node.begin(&mallory).await.expect("started"));
    injected.code = stolen;
    let error = node.gate.returned(injected).await.expect_err("injected");
    assert!(error.to_string().contains("invalid_grant") && !error.to_string().contains("secret words"), "{error}");
    // Starting again forgets what was started before.
    let first = node.begin(&mallory).await.expect("started");
    let second = node.begin(&mallory).await.expect("started");
    assert!(matches!(node.gate.returned(provider.consent(&first)).await, Err(ReturnError::NotOurs)));
    // Another issuer, or none, is refused, and so is a no.
    let other = Returned { issuer: Some("https://evil.example".into()), ..provider.consent(&second) };
    assert!(matches!(node.gate.returned(other).await, Err(ReturnError::Issuer)));
    let url = node.begin(&mallory).await.expect("started");
    let silent = Returned { issuer: None, ..provider.consent(&url) };
    assert!(matches!(node.gate.returned(silent).await, Err(ReturnError::Issuer)));
    let url = node.begin(&mallory).await.expect("started");
    let declined = Returned { code: None, error: Some("access_denied".into()), ..provider.consent(&url) };
    assert!(matches!(node.gate.returned(declined).await, Err(ReturnError::Declined(why)) if why == "access_denied"));
    let made_up = Returned { state: Some("made-up".into()), ..Returned::default() };
    assert!(matches!(node.gate.returned(made_up).await, Err(ReturnError::NotOurs)));
    assert_eq!(node.state(&mallory).await, "none");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_renewed_once_among_all_nodes() {
    let (world, provider, one) = start().await;
    let two = node(&world, &provider).await;
    let (ada, agent) = (person("ada", &["teller"]), adas_agent());
    // Of a life that is over at once, so that every look finds it used up; the next one lives long.
    provider.life.store(0, Ordering::SeqCst);
    one.connect(&ada, &provider).await;
    provider.life.store(3600, Ordering::SeqCst);
    provider.pause.store(300, Ordering::SeqCst);
    let many = (0..8).map(|n| if n % 2 == 0 { one.token(&agent) } else { two.token(&agent) });
    let tokens: HashSet<String> =
        futures_util::future::join_all(many).await.into_iter().map(|token| token.expect("a token")).collect();
    assert_eq!(tokens.len(), 1, "all use the same: {tokens:?}");
    assert_eq!(provider.renewals.load(Ordering::SeqCst), 1, "a rotating token is shown once");
    assert_eq!(one.state(&ada).await, "connected");

    // A caller who leaves does not take the new token with it.
    provider.life.store(0, Ordering::SeqCst);
    one.gate.disconnect(&ada, &bank()).await.expect("disconnected");
    one.connect(&ada, &provider).await;
    provider.life.store(3600, Ordering::SeqCst);
    let hurried = one.source.get(Some(&agent), Instant::now() + Duration::from_millis(50)).await;
    assert_eq!(slug(hurried), "credential-unavailable");
    let token = two.token(&agent).await.expect("a token");
    assert_eq!(one.token(&agent).await.expect("a token"), token);
    assert_eq!(provider.renewals.load(Ordering::SeqCst), 2, "the one that was begun for the first caller");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_not_renewed_any_more_is_broken_and_left_alone() {
    let (world, provider, node) = start().await;
    let (ada, agent) = (person("ada", &["teller"]), adas_agent());
    provider.life.store(0, Ordering::SeqCst);
    node.connect(&ada, &provider).await;
    // Trouble passes: nothing is broken by it.
    provider.failing.store(1, Ordering::SeqCst);
    assert_eq!(slug(node.token(&agent).await), "credential-unavailable");
    assert_eq!(node.state(&ada).await, "connected");
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    // The person withdrew the consent there.
    provider.refresh.lock().expect("lock").clear();
    let refusal = node.token(&agent).await.expect_err("broken");
    assert_eq!(refusal.kind.slug(), "connection-needed");
    assert!(refusal.detail.contains("invalid_grant"), "{}", refusal.detail);
    let renewals = provider.renewals.load(Ordering::SeqCst);
    for _ in 0..5 {
        assert_eq!(slug(node.token(&agent).await), "connection-needed");
    }
    assert_eq!(provider.renewals.load(Ordering::SeqCst), renewals, "asked once");
    assert_eq!(node.state(&ada).await, "broken");
    // Connected anew, it is in use again.
    provider.life.store(3600, Ordering::SeqCst);
    node.connect(&ada, &provider).await;
    node.token(&agent).await.expect("a token");
    assert_eq!(world.kinds("connection.").await, ["connection.made", "connection.broken", "connection.made"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_died_during_a_renewal_keeps_others_waiting_for_a_while_only() {
    let (world, provider, node) = start().await;
    let (ada, agent) = (person("ada", &["teller"]), adas_agent());
    provider.life.store(0, Ordering::SeqCst);
    node.connect(&ada, &provider).await;
    provider.life.store(3600, Ordering::SeqCst);
    // What the dead node left: a lease that nobody gives back.
    let keys = Keyring::new(&[9; 32], world.ledger.clone()).expect("keyring");
    let keys = keys.workspace(&ada.workspace).await.expect("keys");
    let person = ada.person_key().expect("a person");
    let lease = keys.fingerprint("connection-renewal", &[b"bank", person.as_bytes()]);
    let take = StateOp::CooldownBegin { key: lease, pause: 1_000 };
    world.ledger.append(Append { events: vec![], ops: vec![take], ..Append::default() }).await.expect("taken");
    let since = Instant::now();
    node.token(&agent).await.expect("a token");
    assert!(since.elapsed() >= Duration::from_millis(500), "it waited");
    assert_eq!(provider.renewals.load(Ordering::SeqCst), 1);
}

fn named(id: &str) -> Person {
    Person { issuer: "https://idp.example".into(), id: id.into() }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_sees_and_drops_the_accounts_of_others_and_never_their_tokens() {
    let (world, provider, node) = start().await;
    let (ada, bert, olivia) =
        (person("ada", &["teller"]), person("bert", &["teller"]), person("olivia", &["operator"]));
    let elsewhere = Arc::new(Principal {
        workspace: "other".parse().expect("a name"),
        ..Principal::clone(&person("ada", &["teller"]))
    });
    node.connect(&ada, &provider).await;
    node.connect(&elsewhere, &provider).await;
    node.begin(&bert).await.expect("started");
    let seen = async |workspace: &WorkspaceName| {
        let page = node.gate.held_connections(&olivia, workspace, None, 100).await.expect("listed");
        assert!(page.next.is_none());
        let shown = serde_json::to_string(&page.connections).expect("JSON");
        assert!(!shown.contains("access-") && !shown.contains("refresh-"), "{shown}");
        page.connections.into_iter().map(|held| (held.person.id, held.connection.state)).collect::<Vec<_>>()
    };
    let (here, there) = (&ada.workspace, &elsewhere.workspace);
    assert_eq!(seen(here).await, [("ada".to_owned(), "connected"), ("bert".to_owned(), "started")]);
    assert_eq!(seen(there).await, [("ada".to_owned(), "connected")]);

    let token = node.token(&adas_agent()).await.expect("a token");
    let drop = async |workspace, who: &str| {
        node.gate.drop_connection(&olivia, workspace, &bank(), &named(who), "left\nthe bank").await
    };
    let done = drop(here, "ada").await.expect("dropped");
    assert_eq!(done.revoked, Some(true));
    let access = token.strip_prefix("Bearer ").expect("a bearer token").to_owned();
    assert!(provider.revoked.lock().expect("lock").contains(&access), "the provider heard of it");
    assert_eq!(slug(node.token(&adas_agent()).await), "connection-needed", "with the next call");
    node.token(&elsewhere).await.expect("another workspace is another account");
    drop(here, "bert").await.expect("what was only begun, too");
    assert!(seen(here).await.is_empty());
    for nobody in ["ada", "bert", "carl"] {
        assert_eq!(slug(drop(here, nobody).await), "not-found", "{nobody}");
    }
    let other_issuer = Person { issuer: "https://evil.example".into(), id: "ada".into() };
    let outcome = node.gate.drop_connection(&olivia, there, &bank(), &other_issuer, "").await;
    assert_eq!(slug(outcome), "not-found", "a person is of its issuer");
    drop(there, "ada").await.expect("in any workspace");
    assert!(seen(there).await.is_empty());

    // The event says who dropped whose, in the sequence of the workspace where it counted.
    let removed: Vec<_> = world.events().await.into_iter().filter(|row| row.kind == "connection.removed").collect();
    assert_eq!(removed.len(), 3);
    let row = removed.iter().find(|row| row.id == done.event).expect("the event of the answer");
    let event: Value = serde_json::from_slice(&row.opening.as_ref().expect("a body").event).expect("JSON");
    assert_eq!((row.workspace.as_str(), &event["principal"]["id"]), (here.as_str(), &json!("olivia")));
    let person = json!({"issuer": "https://idp.example", "id": "ada"});
    assert_eq!(event["connection"], json!({"upstream": "bank", "person": person}));
    assert_eq!(event["reason_given"], "leftthe bank");
    // Nothing keeps her from connecting again but policies.
    node.connect(&ada, &provider).await;
    assert_eq!(node.state(&ada).await, "connected");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_but_an_operator_sees_or_drops_the_accounts_of_others() {
    let (world, provider, node) = start().await;
    let ada = person("ada", &["teller"]);
    node.connect(&ada, &provider).await;
    let for_olivia = Arc::new(Principal { on_behalf_of: Some("olivia".into()), ..Principal::clone(&robot()) });
    let for_olivia = Arc::new(Principal { roles: ["operator".to_owned()].into(), ..Principal::clone(&for_olivia) });
    let others = [
        person("bert", &["teller"]),
        person("adam", &["admin"]),
        person("augusta", &["auditor"]),
        for_olivia,
        ada.clone(),
    ];
    for other in &others {
        let listed = node.gate.held_connections(other, &ada.workspace, None, 10).await;
        assert_eq!(listed.expect_err("refused").kind.slug(), "forbidden", "{}", other.id);
        let dropped = node.gate.drop_connection(other, &ada.workspace, &bank(), &named("ada"), "").await;
        assert_eq!(slug(dropped), "forbidden", "{}", other.id);
    }
    let olivia = person("olivia", &["operator"]);
    let of_node = WorkspaceName::node();
    let listed = node.gate.held_connections(&olivia, &of_node, None, 10).await;
    assert_eq!(listed.expect_err("refused").kind.slug(), "forbidden");
    let dropped = node.gate.drop_connection(&olivia, &of_node, &bank(), &named("ada"), "").await;
    assert_eq!(slug(dropped), "forbidden");
    let dropped = node.gate.drop_connection(&olivia, &ada.workspace, &bank(), &named(&"a".repeat(257)), "").await;
    assert_eq!(slug(dropped), "malformed-request");
    assert_eq!(node.state(&ada).await, "connected");
    assert_eq!(world.kinds("connection.").await, ["connection.made"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_accounts_of_all_are_read_page_by_page() {
    let (_world, provider, node) = start().await;
    let olivia = person("olivia", &["operator"]);
    let expected: Vec<String> = (0..7).map(|n| format!("teller-{n}")).collect();
    for (n, name) in expected.iter().enumerate() {
        let who = person(name, &["teller"]);
        // Every second one has rows of two stages, which are one connection.
        node.connect(&who, &provider).await;
        if n % 2 == 0 {
            node.begin(&who).await.expect("started");
        }
    }
    for limit in 1..=8 {
        let (mut behind, mut seen, mut pages) = (None, Vec::new(), 0);
        loop {
            let page =
                node.gate.held_connections(&olivia, &olivia.workspace, behind.take(), limit).await.expect("listed");
            assert!(page.connections.iter().all(|held| held.connection.state == "connected"));
            assert!(page.connections.len() <= limit as usize && !page.connections.is_empty());
            seen.extend(page.connections.into_iter().map(|held| held.person.id));
            pages += 1;
            match page.next {
                Some(next) => behind = Some(next),
                None => break,
            }
        }
        assert_eq!((&seen, pages), (&expected, expected.len().div_ceil(limit as usize)), "by {limit}");
    }
}
