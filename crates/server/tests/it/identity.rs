//! Who calls, on the wire: API keys, challenges, an issuer that is found by its metadata, and credentials that stay here.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
use countersign_server::{Config, Node, Overrides};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::support::World;

/// A plain HTTP server that answers by path, and keeps every byte that it was sent.
struct Recorder {
    url: String,
    answers: Arc<Mutex<BTreeMap<String, Value>>>,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Recorder {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let answers = Arc::new(Mutex::new(BTreeMap::<String, Value>::new()));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (known, kept) = (Arc::clone(&answers), Arc::clone(&seen));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut bytes = vec![0; 65_536];
                let read = stream.read(&mut bytes).await.unwrap_or(0);
                let text = String::from_utf8_lossy(&bytes[..read]).into_owned();
                let path = text.split(' ').nth(1).unwrap_or_default().split('?').next().unwrap_or_default().to_owned();
                let answer = known.lock().expect("lock").get(&path).cloned();
                kept.lock().expect("lock").push(text);
                let (status, body) =
                    answer.map_or(("404 Not Found", String::new()), |body| ("200 OK", body.to_string()));
                let head = format!(
                    "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                    body.len()
                );
                let _ = stream.write_all((head + &body).as_bytes()).await;
            }
        });
        Self { url, answers, seen }
    }

    fn answer(&self, path: &str, body: Value) {
        self.answers.lock().expect("lock").insert(path.to_owned(), body);
    }

    fn asked(&self, path: &str) -> usize {
        let line = format!("GET {path} ");
        self.seen.lock().expect("lock").iter().filter(|text| text.starts_with(&line)).count()
    }
}

/// An issuer's key.
struct Key {
    kid: String,
    pair: EcdsaKeyPair,
}

impl Key {
    fn new(kid: &str) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
        Self { kid: kid.to_owned(), pair }
    }

    fn jwk(&self) -> Value {
        let point = self.pair.public_key().as_ref();
        let (x, y) = (B64.encode(&point[1..33]), B64.encode(&point[33..65]));
        json!({"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": self.kid, "x": x, "y": y})
    }

    fn token(&self, issuer: &str, changes: Value) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs();
        let mut claims = json!({"iss": issuer, "aud": "countersign", "sub": "bot", "exp": now + 600});
        for (name, value) in changes.as_object().expect("an object") {
            claims[name] = value.clone();
        }
        let header = json!({"alg": "ES256", "typ": "at+jwt", "kid": self.kid});
        let input = format!("{}.{}", B64.encode(header.to_string()), B64.encode(claims.to_string()));
        let signature = self.pair.sign(&aws_lc_rs::rand::SystemRandom::new(), input.as_bytes()).expect("signed");
        format!("{input}.{}", B64.encode(signature))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_key_is_made_used_and_revoked() {
    let world = World::start().await;
    let operator = world.person("olga", &["operator"]);
    let made = world.post("/admin/apikeys", &operator, r#"{"principal":"ci","roles":["finance-write"]}"#).await;
    assert_eq!((made.status, made.header("cache-control")), (200, Some("no-store")), "{made:?}");
    let key = made.json()["key"].as_str().expect("a key").to_owned();
    let list = "/tools/ads:listCampaigns/invoke";
    assert_eq!(world.post(list, &key, "{}").await.status, 200, "as a bearer token");
    let by_header = world.send("POST", list, "", &[("x-api-key", &key)], Some("{}")).await;
    assert_eq!(by_header.status, 200, "{by_header:?}");
    let both = world.send("POST", list, &world.agent("bot"), &[("x-api-key", &key)], Some("{}")).await;
    assert_eq!((both.status, both.json()["cause"].as_str()), (401, Some("ambiguous")));
    let token = world.agent("bot");
    let odd = world.send("POST", list, "", &[("x-api-key", &token)], Some("{}")).await;
    assert_eq!(odd.status, 401, "a token is no API key");
    let far = r#"{"principal":"far","roles":["finance-write"],"networks":["10.0.0.0/8"]}"#;
    let far = world.post("/admin/apikeys", &operator, far).await.json();
    let far = world
        .send(
            "POST",
            list,
            "",
            &[("x-api-key", far["key"].as_str().expect("a key")), ("x-forwarded-for", "10.1.1.1")],
            Some("{}"),
        )
        .await;
    assert_eq!((far.status, far.json()["cause"].as_str()), (401, Some("network")), "nobody's header is believed here");

    let path = format!("/admin/apikeys/{}/revoke", made.json()["id"].as_str().expect("an id"));
    assert_eq!(world.post(&path, &world.agent("bot"), "{}").await.status, 404, "not even that there is one");
    assert_eq!(world.post(&path, &operator, r#"{"reason":"left"}"#).await.status, 200);
    assert_eq!(world.post(list, &key, "{}").await.status, 401);
    let secret = key.rsplit('_').next().expect("a secret");
    for file in std::fs::read_dir(&world.config.data_dir).expect("there").flatten().filter(|f| f.path().is_file()) {
        let bytes = std::fs::read(file.path()).expect("readable");
        assert!(!bytes.windows(secret.len()).any(|w| w == secret.as_bytes()), "{:?} holds the key", file.path());
    }
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn accounts_of_others_are_for_operators() {
    let world = World::start().await;
    let (operator, clerk) = (world.person("olga", &["operator"]), world.person("cleo", &["clerk"]));
    let (list, drop) = ("/admin/connections", "/admin/connections/ads/drop");
    let whose = r#"{"issuer":"https://idp.example","id":"cleo","workspace":"default","reason":"left"}"#;
    let listed = world.get(&format!("{list}?workspace=default&limit=1"), &operator).await;
    assert_eq!((listed.status, listed.json(), listed.header("link")), (200, json!([]), None), "{listed:?}");
    assert_eq!(world.get(list, &clerk).await.problem(), "forbidden");
    assert_eq!(world.post(drop, &clerk, whose).await.problem(), "forbidden");
    assert_eq!(world.post(drop, &operator, whose).await.problem(), "not-found");
    for query in ["worksapce=default", "workspace=a/b", "limit=x", "cursor=nowhere"] {
        assert_eq!(world.get(&format!("{list}?{query}"), &operator).await.problem(), "malformed-request", "{query}");
    }
    for body in ["{}", r#"{"id":"cleo"}"#, r#"{"issuer":"i","id":"cleo","who":"x"}"#, r#"{"issuer":"","id":"cleo"}"#] {
        assert_eq!(world.post(drop, &operator, body).await.problem(), "malformed-request", "{body}");
    }
    assert_eq!(world.get("/admin/connections?workspace=_node", &operator).await.status, 403);
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_told_how_to_be_let_in() {
    let settings = "public_url = \"https://gate.example\"\nscopes_supported = [\"tools\", \"admin\"]\nrequired_scopes = [\"tools\"]\n\
        [[issuers]]\nissuer = \"https://idp.example\"\njwks_file = \"jwks.json\"\n";
    let world = World::start_with(settings).await;
    let metadata = world.get("/.well-known/oauth-protected-resource/mcp/ads", "").await.json();
    assert_eq!(metadata["resource"], "https://gate.example/mcp/ads");
    assert_eq!(metadata["authorization_servers"], json!(["https://idp.example"]));
    assert_eq!(
        (&metadata["scopes_supported"], &metadata["bearer_methods_supported"]),
        (&json!(["tools", "admin"]), &json!(["header"]))
    );
    assert_eq!(world.get("/.well-known/oauth-protected-resource", "").await.json()["resource"], "https://gate.example");
    assert_eq!(
        world.get("/.well-known/oauth-protected-resource/mcp", "").await.json()["resource"],
        "https://gate.example/mcp"
    );

    let challenge = |path: &str| {
        format!(
            "Bearer realm=\"countersign\", resource_metadata=\"https://gate.example/.well-known/oauth-protected-resource{path}\", scope=\"tools\""
        )
    };
    let nobody = world.post("/mcp/ads", "", "{}").await;
    assert_eq!((nobody.status, nobody.header("www-authenticate")), (401, Some(challenge("/mcp/ads").as_str())));
    let nobody = world.get("/tool-catalog", "").await;
    assert_eq!(nobody.header("www-authenticate"), Some(challenge("").as_str()));
    let wrong = world.post("/mcp", "x.y.z", "{}").await;
    assert!(
        wrong
            .header("www-authenticate")
            .is_some_and(|text| text.starts_with(&(challenge("/mcp") + ", error=\"invalid_token\"")))
    );

    let operator = world.person("olga", &["operator"]);
    let key = async |scopes: Value| {
        let body = json!({"principal": "ci", "scopes": scopes}).to_string();
        world.post("/admin/apikeys", &operator, &body).await.json()["key"].as_str().expect("a key").to_owned()
    };
    let (with, without) = (key(json!(["tools"])).await, key(json!(["admin"])).await);
    assert_eq!(world.get("/tool-catalog", &with).await.status, 200);
    let refused = world.post("/mcp", &without, "{}").await;
    assert_eq!((refused.status, refused.problem().as_str()), (403, "forbidden"));
    let text = refused.header("www-authenticate").expect("a challenge");
    assert!(text.starts_with(&(challenge("/mcp") + ", error=\"insufficient_scope\"")), "{text}");
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_is_found_by_its_metadata_and_only_by_its_own() {
    let provider = Recorder::start().await;
    let issuer = format!("{}/realm", provider.url);
    let (first, second) = (Key::new("k1"), Key::new("k2"));
    let settings = format!(
        "[[issuers]]\nissuer = \"{issuer}\"\ndiscovery = true\nkey_pause = \"1s\"\nworkspaces = [\"default\"]\nroles_claim = \"access.roles\"\n"
    );
    let world = World::start_with(&settings).await;
    let list = async |token: &str| world.post("/tools/ads:listCampaigns/invoke", token, "{}").await;
    let roles = json!({"access": {"roles": ["finance-write", "operator"]}});
    let away = list(&first.token(&issuer, roles.clone())).await;
    assert_eq!((away.status, away.json()["cause"].as_str()), (503, Some("issuer-away")), "{away:?}");

    // Metadata of somebody else, at the first place; then keys in the network that the node could reach and nobody else.
    provider.answer(
        "/realm/.well-known/openid-configuration",
        json!({"issuer": "https://evil.example", "jwks_uri": format!("{}/evil", provider.url)}),
    );
    provider.answer(
        "/.well-known/oauth-authorization-server/realm",
        json!({"issuer": issuer, "jwks_uri": "http://localhost:9/jwks"}),
    );
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(list(&first.token(&issuer, roles.clone())).await.status, 503);
    assert_eq!(provider.asked("/evil"), 0);

    provider.answer(
        "/.well-known/oauth-authorization-server/realm",
        json!({"issuer": issuer, "jwks_uri": format!("{}/keys", provider.url)}),
    );
    provider.answer("/keys", json!({"keys": [first.jwk()]}));
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let good = list(&first.token(&issuer, roles.clone())).await;
    assert_eq!(good.status, 200, "{good:?}");
    assert_eq!(
        world.get("/admin/status", &first.token(&issuer, roles.clone())).await.status,
        403,
        "not this issuer's to give"
    );
    let elsewhere = list(&first.token(&issuer, json!({"tenant": "ward-7"}))).await;
    assert_eq!((elsewhere.status, elsewhere.json()["cause"].as_str()), (401, Some("workspace")));

    // A new key is found by its first token.
    provider.answer("/keys", json!({"keys": [first.jwk(), second.jwk()]}));
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(list(&second.token(&issuer, roles)).await.status, 200);
    assert_eq!(provider.asked("/keys"), 2, "one question for each change");
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_caller_presents_never_reaches_an_upstream() {
    let api = Recorder::start().await;
    api.answer("/orders", json!({"data": [1, 2]}));
    let home = tempfile::tempdir().expect("a directory");
    let write = |name: &str, text: &str| {
        let path = home.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        std::fs::write(path, text).expect("written");
    };
    write("countersign.toml", "");
    write("policies/access/a.cedar", "@id(\"all\") permit (principal, action, resource);");
    let manifest = json!({
        "version": 1, "upstream": "shop", "workspaces": "all",
        "transport": {"type": "rest", "url": api.url},
        "tools": {"listOrders": {"effect": "read", "description": "Lists orders.", "request": {"method": "GET", "path": "/orders"}}},
    });
    write("manifests/shop.yaml", &manifest.to_string());
    let flags = Overrides { home: Some(home.path().to_owned()), ..Overrides::default() };
    let config = Config::load_with(&flags, &|_| None).expect("valid");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let world = World::around(config, listener, home).await;
    world.accept_all_of("shop").await;
    let operator = world.person("olga", &["operator"]);
    let key = world.post("/admin/apikeys", &operator, r#"{"principal":"ci"}"#).await.json()["key"]
        .as_str()
        .expect("a key")
        .to_owned();
    let token = world.agent("bot");
    let headers =
        [("cookie", "session=planted-cookie"), ("x-custom", "planted-header"), ("content-type", "application/json")];
    for credential in [&token, &key] {
        let done = world.send("POST", "/tools/shop:listOrders/invoke", credential, &headers, Some("{}")).await;
        assert_eq!(done.status, 200, "{done:?}");
    }
    let call = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"listOrders","arguments":{}}}"#;
    let done = world.send("POST", "/mcp/shop", &token, &headers, Some(call)).await;
    assert_eq!(done.status, 200, "{done:?}");
    let seen = api.seen.lock().expect("lock").join("\n");
    assert_eq!(api.asked("/orders"), 3);
    let signature = token.rsplit('.').next().expect("a signature");
    for planted in [signature, &key[21..], "planted-cookie", "planted-header", "uthorization"] {
        assert!(!seen.contains(planted), "{planted} reached the upstream:\n{seen}");
    }
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_log_is_opened_for_others_before_its_name_and_place_are_settled() {
    let idp = "[[issuers]]\nissuer = \"https://idp.example\"\njwks_file = \"jwks.json\"\n";
    let cases = [
        ("", Some("public_url is not set")),
        ("public_url = \"https://gate.example\"\n", Some("neither [tls] nor trusted_proxies")),
        ("public_url = \"https://gate.example\"\ntrusted_proxies = [\"10.0.0.0/8\"]\n", None),
    ];
    for (settings, expected) in cases {
        let home = tempfile::tempdir().expect("a directory");
        let text = format!("listen = \"0.0.0.0:0\"\nlog_domain = \"log.example\"\n{settings}{idp}");
        std::fs::write(home.path().join("countersign.toml"), text).expect("written");
        let flags = Overrides { home: Some(home.path().to_owned()), ..Overrides::default() };
        let config = Config::load_with(&flags, &|_| None).expect("valid");
        match (Node::start(config.clone()).await, expected) {
            (Ok(node), None) => node.shutdown().await,
            (Err(error), Some(expected)) => {
                assert!(error.to_string().contains(expected), "{error}");
                assert!(!config.data_dir.join("countersign.db").exists(), "nothing was written");
            }
            (Ok(_), Some(expected)) => panic!("started, though {expected}"),
            (Err(error), None) => panic!("{error}"),
        }
    }
}
