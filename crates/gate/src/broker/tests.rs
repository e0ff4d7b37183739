//! Sources against token endpoints that answer as the test says, and remember what they were asked.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::Duration;

use countersign_domain::RefusalKind;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::{Value, json};

use super::*;

#[derive(Default)]
struct Endpoint {
    asked: Mutex<Vec<(String, Option<String>, String)>>,
    answers: Mutex<Vec<(u16, Value)>>,
    pause: Duration,
}

#[async_trait]
impl TokenEndpoint for Endpoint {
    async fn post(
        &self,
        url: &str,
        authorization: Option<&Secret>,
        form: Secret,
        _deadline: Instant,
    ) -> Result<(u16, Zeroizing<Vec<u8>>), String> {
        let authorization = authorization.map(|a| a.expose().to_owned());
        self.asked.lock().expect("lock").push((url.to_owned(), authorization, form.expose().to_owned()));
        tokio::time::sleep(self.pause).await;
        let mut answers = self.answers.lock().expect("lock");
        let (status, body) = if answers.len() > 1 { answers.remove(0) } else { answers[0].clone() };
        Ok((status, Zeroizing::new(body.to_string().into_bytes())))
    }
}

fn parts(endpoint: &Arc<Endpoint>) -> Parts {
    let key = AssertionKey::from_pkcs8(&AssertionKey::generate().expect("a key")).expect("a key");
    Parts {
        http: Arc::clone(endpoint) as Arc<dyn TokenEndpoint>,
        assertion: Arc::new(key),
        issuer: "https://node.example".into(),
        clock: || 4_000_000_000_000,
        connections: None,
        web: None,
        environment: |name| (name == "SECRET").then(|| "cl/ient s3cret".to_owned()),
    }
}

fn endpoint(answers: &[(u16, Value)]) -> Arc<Endpoint> {
    Arc::new(Endpoint { answers: Mutex::new(answers.to_vec()), ..Endpoint::default() })
}

fn source(parts: &Parts, credential: &str) -> Arc<dyn CredentialSource> {
    let yaml = format!(
        "version: 1\nupstream: a\ntransport: {{ type: rest, url: 'https://a.example', credential: {credential} }}\n"
    );
    let manifest = Manifest::parse(&yaml, "a.yaml").unwrap_or_else(|e| panic!("{e}"));
    parts.source(&manifest).unwrap_or_else(|e| panic!("{e}")).expect("a source")
}

fn robot(person: Option<&str>, workspace: &str) -> Principal {
    Principal {
        kind: countersign_domain::PrincipalKind::Agent,
        id: "robot".into(),
        issuer: "idp".into(),
        on_behalf_of: person.map(str::to_owned),
        workspace: workspace.parse().expect("a name"),
        roles: BTreeSet::new(),
        ..Principal::node()
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(5)
}

const OWN: &str = "{ type: oauth_client_credentials, token_url: 'https://idp.example/token', client_id: 'c:1', client_secret: { env: SECRET }, scopes: [a, b], resource: 'https://r' }";

#[tokio::test]
async fn secrets_are_placed_and_not_printed() {
    let endpoint = endpoint(&[]);
    let parts = parts(&endpoint);
    for (stated, name, value) in [
        ("{ type: static, secret: { env: SECRET } }", "authorization", "Bearer cl/ient s3cret"),
        ("{ type: static, secret: { env: SECRET }, name: X-Key }", "X-Key", "cl/ient s3cret"),
        (
            "{ type: static, secret: { env: SECRET }, name: Authorization, prefix: 'Token ' }",
            "Authorization",
            "Token cl/ient s3cret",
        ),
        (
            "{ type: static, secret: { env: SECRET }, in: basic, username: u }",
            "authorization",
            "Basic dTpjbC9pZW50IHMzY3JldA==",
        ),
    ] {
        let credential = source(&parts, stated).get(None, soon()).await.expect("a credential");
        assert_eq!(credential.placement(), &Placement::Header { name: name.into() }, "{stated}");
        assert_eq!(credential.value().expose(), value, "{stated}");
        let printed = format!("{credential:?} {:?}", credential.value());
        assert!(!printed.contains("s3cret"), "{printed}");
    }
    let yaml = "version: 1\nupstream: a\ntransport: { type: rest, url: 'https://a.example', credential: { type: static, secret: { env: OTHER } } }\n";
    let missing = parts.source(&Manifest::parse(yaml, "a").expect("valid")).err().expect("refused");
    assert!(missing.contains("OTHER"), "{missing}");
}

#[tokio::test]
async fn a_file_is_read_again_after_a_refusal() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("key");
    std::fs::write(&path, "first\n").expect("written");
    let endpoint = endpoint(&[]);
    let source = source(&parts(&endpoint), &format!("{{ type: static, secret: {{ file: {path:?} }} }}"));
    let first = source.get(None, soon()).await.expect("a credential");
    std::fs::write(&path, "second").expect("written");
    assert_eq!(source.get(None, soon()).await.expect("kept").value().expose(), "Bearer first");
    source.reject(None, &first);
    assert_eq!(source.get(None, soon()).await.expect("read").value().expose(), "Bearer second");
    // What was refused before is no reason to read again.
    std::fs::remove_file(&path).expect("removed");
    source.reject(None, &first);
    assert_eq!(source.get(None, soon()).await.expect("kept").value().expose(), "Bearer second");
}

#[tokio::test]
async fn the_nodes_own_token_is_fetched_once_and_renewed() {
    let endpoint = Arc::new(Endpoint {
        answers: Mutex::new(vec![
            (200, json!({"access_token": "t-1", "token_type": "Bearer", "expires_in": 3600})),
            (200, json!({"access_token": "t-2", "token_type": "bearer", "expires_in": 0})),
            (200, json!({"access_token": "t-3", "expires_in": 3600})),
        ]),
        pause: Duration::from_millis(30),
        ..Endpoint::default()
    });
    let source = source(&parts(&endpoint), OWN);
    let many = (0..20).map(|_| source.get(None, soon()));
    let tokens = futures_util::future::join_all(many).await;
    assert!(tokens.iter().all(|t| t.as_ref().is_ok_and(|c| c.value().expose() == "Bearer t-1")));
    {
        let asked = endpoint.asked.lock().expect("lock");
        assert_eq!(asked.len(), 1, "one flight for all");
        let (url, authorization, form) = &asked[0];
        assert_eq!(url, "https://idp.example/token");
        assert_eq!(form, "grant_type=client_credentials&resource=https%3A%2F%2Fr&scope=a%20b");
        // `c%3A1:cl%2Fient%20s3cret`
        assert_eq!(authorization.as_deref(), Some("Basic YyUzQTE6Y2wlMkZpZW50JTIwczNjcmV0"));
    }
    source.reject(None, tokens[0].as_ref().expect("a token"));
    let second = source.get(None, soon()).await.expect("another");
    assert_eq!(second.value().expose(), "Bearer t-2");
    // It was over as it came; what replaces it is not what a late refusal of the first one is about.
    assert_eq!(source.get(None, soon()).await.expect("another").value().expose(), "Bearer t-3");
    source.reject(None, &second);
    assert_eq!(source.get(None, soon()).await.expect("kept").value().expose(), "Bearer t-3");
}

#[tokio::test]
async fn a_refusal_of_the_server_says_nothing_that_it_said() {
    let echo = json!({"error": "invalid_client", "error_description": "wrong secret cl/ient s3cret"});
    for (status, body, part) in [
        (401, echo, "invalid_client"),
        (400, json!({"error": "cl/ient s3cret"}), "no code"),
        (200, json!({"access_token": "x", "token_type": "mac"}), "no usable"),
        (200, json!({"access_token": "a\nb"}), "no usable"),
        (200, json!("cl/ient s3cret"), "no usable"),
    ] {
        let endpoint = endpoint(&[(status, body)]);
        let source = source(&parts(&endpoint), OWN);
        let refusal = source.get(None, soon()).await.expect_err("refused");
        assert_eq!(refusal.kind, RefusalKind::CredentialUnavailable);
        assert!(refusal.detail.contains(part) && !refusal.detail.contains("s3cret"), "{refusal}");
        // A server in trouble is not asked again at once.
        source.get(None, soon()).await.expect_err("refused");
        assert_eq!(endpoint.asked.lock().expect("lock").len(), 1);
    }
}

/// Each caller gets its own token, for an assertion of the node that names it; nothing of the caller's own is sent.
#[tokio::test]
async fn tokens_are_exchanged_for_the_nodes_word() {
    let endpoint = endpoint(&[(200, json!({"access_token": "t-1", "issued_token_type": "x", "expires_in": 600}))]);
    let parts = parts(&endpoint);
    let source =
        source(&parts, &OWN.replace("oauth_client_credentials", "token_exchange").replace("resource:", "audience:"));
    assert!(source.get(None, soon()).await.is_err(), "nobody to vouch for");
    for caller in [
        robot(Some("ada"), "w"),
        robot(Some("ada"), "w"),
        robot(None, "w"),
        robot(Some("bob"), "w"),
        robot(Some("ada"), "v"),
    ] {
        source.get(Some(&caller), soon()).await.expect("a token");
    }
    let asked = endpoint.asked.lock().expect("lock");
    assert_eq!(asked.len(), 4, "ada's agent asked twice");
    let keys: jsonwebtoken::jwk::JwkSet = serde_json::from_value(parts.assertion.jwks()).expect("a JWKS");
    let key = DecodingKey::from_jwk(&keys.keys[0]).expect("a usable key");
    let mut rules = Validation::new(Algorithm::ES256);
    rules.set_audience(&["https://idp.example/token"]);
    rules.set_issuer(&["https://node.example"]);
    let claims = |form: &str| {
        let token = form.split('&').find_map(|p| p.strip_prefix("subject_token=")).expect("an assertion").to_owned();
        jsonwebtoken::decode::<Value>(&token, &key, &rules).expect("verifies").claims
    };
    let first = claims(&asked[0].2);
    assert_eq!((&first["sub"], &first["act"]["sub"], &first["tenant"]), (&json!("ada"), &json!("robot"), &json!("w")));
    assert_eq!(first["sub_id"], json!({"format": "iss_sub", "iss": "idp", "sub": "ada"}));
    assert_eq!(first["exp"], 4_000_000_060_u64);
    let alone = claims(&asked[1].2);
    assert!(alone["sub"] == "robot" && alone.get("act").is_none(), "{alone}");
    assert!(asked[0].2.contains("grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Atoken-exchange"));
    assert!(asked[0].2.contains("&audience=https%3A%2F%2Fr"));
}
