//! Upstreams whose credential depends on who calls: every request carries the token of whom it is for, and nobody's session is
//! another's.

use std::time::Instant;

use async_trait::async_trait;
use base64::Engine as _;
use countersign_connect::connect;
use countersign_domain::PrincipalKind;
use countersign_gate::broker::assertion::AssertionKey;
use countersign_gate::broker::oauth::TokenEndpoint;
use countersign_gate::broker::{Parts, Secret};
use serde_json::json;
use zeroize::Zeroizing;

use super::http::{Seen, Server, json_result, reply, result};
use super::*;

/// An authorization server whose tokens say whom they are for.
struct Idp;

#[async_trait]
impl TokenEndpoint for Idp {
    async fn post(
        &self,
        _: &str,
        _: Option<&Secret>,
        form: Secret,
        _: Instant,
    ) -> Result<(u16, Zeroizing<Vec<u8>>), String> {
        let form: Vec<(String, String)> = url::form_urlencoded::parse(form.expose().as_bytes()).into_owned().collect();
        let assertion = &form.iter().find(|(name, _)| name == "subject_token").expect("an assertion").1;
        let claims = assertion.split('.').nth(1).expect("a JWT");
        let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(claims).expect("base64");
        let claims: Value = serde_json::from_slice(&claims).expect("JSON");
        let token = format!("token-of-{}", claims["sub"].as_str().expect("a subject"));
        let answer = json!({"access_token": token, "token_type": "Bearer", "expires_in": 3600});
        Ok((200, Zeroizing::new(answer.to_string().into_bytes())))
    }
}

fn upstream(url: &str, rest: &str) -> Arc<dyn Upstream> {
    let yaml = format!(
        "version: 1\nupstream: ads\ntransport: {{ type: http, url: {url:?}, credential: {{ type: token_exchange, token_url: \
         'https://idp.example/token', client_id: node, client_secret: {{ env: SECRET }} }}{rest} }}\n"
    );
    let manifest = Manifest::parse(&yaml, "test.yaml").unwrap_or_else(|e| panic!("{e}"));
    let key = AssertionKey::from_pkcs8(&AssertionKey::generate().expect("a key")).expect("a key");
    let parts = Parts {
        http: Arc::new(Idp),
        assertion: Arc::new(key),
        issuer: "https://node.example".into(),
        clock: || 4_000_000_000_000,
        connections: None,
        web: None,
        environment: |_| Some("planted-secret".to_owned()),
    };
    let source = parts.source(&manifest).expect("usable");
    connect(&manifest, &Egress::new(EgressConfig::default()), source).expect("sets up")
}

fn person(name: &str) -> Principal {
    Principal { kind: PrincipalKind::Person, id: name.to_owned(), issuer: "idp".to_owned(), ..Principal::node() }
}

async fn call_as(upstream: &dyn Upstream, name: &str) -> Value {
    let answer = upstream.dispatch(permit_for(person(name), "who", "{}", 5_000), &Mute).await;
    json(&answer.unwrap_or_else(|e| panic!("{e}")).raw)
}

const TOOLS: &str = r#"{"tools":[{"name":"who","inputSchema":{"type":"object"}}],"resultType":"complete"}"#;
const CONTENT: &str = r#"{"content":[],"resultType":"complete"}"#;

fn modern(seen: &Seen) -> Option<String> {
    match seen.rpc().as_str() {
        "server/discover" => json_result(seen, r#"{"supportedVersions":["2026-07-28"],"capabilities":{"tools":{}}}"#),
        "tools/list" => json_result(seen, TOOLS),
        _ => json_result(seen, CONTENT),
    }
}

/// Each session is named after the token that began it.
fn sessions(seen: &Seen) -> Option<String> {
    match (seen.method.as_str(), seen.rpc().as_str()) {
        ("POST", "server/discover") => reply("400 Bad Request", "text/plain", "", ""),
        ("POST", "initialize") => {
            let token = seen.header("authorization").rsplit(' ').next().unwrap_or_default();
            let text = r#"{"protocolVersion":"2025-11-25","capabilities":{"tools":{}}}"#;
            reply("200 OK", "application/json", &format!("mcp-session-id: s-{token}\r\n"), &result(seen, text))
        }
        ("POST", "tools/list") => json_result(seen, TOOLS),
        ("POST", "tools/call") => json_result(seen, CONTENT),
        _ => reply("202 Accepted", "text/plain", "", ""),
    }
}

#[tokio::test]
async fn every_call_carries_its_callers_token_and_the_node_s_requests_its_own() {
    for (rest, own) in [("", ""), (", discovery_credential: { type: static, secret: { env: OWN } }", "planted-secret")]
    {
        let server = Server::start(modern).await;
        let upstream = upstream(&server.url, rest);
        assert_eq!(upstream.discover().await.expect("tools").tools.len(), 1);
        for name in ["ada", "bert", "ada"] {
            call_as(&*upstream, name).await;
        }
        let tokens = |rpc: &str| -> Vec<String> {
            server.seen(rpc).iter().map(|s| s.header("authorization").replace("Bearer ", "")).collect()
        };
        assert_eq!((tokens("server/discover"), tokens("tools/list")), (vec![own.to_owned()], vec![own.to_owned()]));
        assert_eq!(tokens("tools/call"), ["token-of-ada", "token-of-bert", "token-of-ada"]);
    }
}

#[tokio::test]
async fn each_caller_has_a_session_of_their_own_where_there_are_sessions() {
    let server = Server::start(sessions).await;
    let upstream = upstream(&server.url, "");
    assert_eq!(upstream.discover().await.expect("tools").tools.len(), 1);
    for name in ["ada", "bert", "ada"] {
        call_as(&*upstream, name).await;
    }
    let of = |seen: &[Seen]| -> Vec<(String, String)> {
        let pair = |s: &Seen| (s.header("authorization").replace("Bearer ", ""), s.header("mcp-session-id").to_owned());
        seen.iter().map(pair).collect()
    };
    let own = |name: &str| (format!("token-of-{name}"), format!("s-token-of-{name}"));
    assert_eq!(of(&server.seen("tools/call")), [own("ada"), own("bert"), own("ada")]);
    assert_eq!(server.seen("initialize").len(), 3, "the node's, and one for each of both");
    let streams: Vec<Seen> = server.all().into_iter().filter(|s| s.method == "GET").collect();
    assert_eq!(of(&streams), [(String::new(), "s-".to_owned()), own("ada"), own("bert")]);
    upstream.shutdown().await;
    let mut ended = of(&server.all().into_iter().filter(|s| s.method == "DELETE").collect::<Vec<_>>());
    ended.sort();
    assert_eq!(ended, [(String::new(), "s-".to_owned()), own("ada"), own("bert")]);
}

#[tokio::test]
async fn a_callers_session_that_is_over_is_renewed_alone() {
    let over = std::sync::atomic::AtomicBool::new(false);
    let server = Server::start(move |seen| {
        let is_adas = seen.rpc() == "tools/call" && seen.header("authorization").ends_with("ada");
        match is_adas && !over.swap(true, std::sync::atomic::Ordering::SeqCst) {
            true => reply("404 Not Found", "text/plain", "", ""),
            false => sessions(seen),
        }
    })
    .await;
    let upstream = upstream(&server.url, "");
    for name in ["bert", "ada", "bert"] {
        call_as(&*upstream, name).await;
    }
    assert_eq!(server.seen("tools/call").len(), 4, "the one that was not processed is sent again");
    assert_eq!(server.seen("initialize").len(), 4, "the node's, bert's, and ada's two");
}
