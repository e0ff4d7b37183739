//! Tokens that prove nothing, and identities that may not do what they ask for.

use anyhow::{Result, ensure};
use countersign_testkit::issuer::unix_now;
use countersign_testkit::{Claims, Issuer};
use serde_json::{Value, json};

use super::{Case, World};

pub const CASES: &[Case] = &[
    ("no token", |w| token(w, None, "no-credential")),
    ("a token that is no JWT", |w| token(w, Some("abc".to_owned()), "malformed")),
    ("a token of 20,000 bytes", |w| token(w, Some("a".repeat(20_000)), "malformed")),
    ("a token for another audience", |w| claims(w, |c| c.with("aud", json!("another")), "audience")),
    ("a token without an audience", |w| claims(w, |c| c.with("aud", json!([])), "audience")),
    ("an expired token", |w| claims(w, |c| c.with("exp", json!(unix_now() - 3600)), "expired")),
    ("a token that is not valid yet", |w| claims(w, |c| c.with("nbf", json!(unix_now() + 3600)), "not-yet-valid")),
    ("a token of an unknown issuer", |w| claims(w, |c| c.with("iss", json!("https://elsewhere.test")), "issuer")),
    ("a token without a subject", |w| claims(w, |c| c.without("sub"), "claims")),
    ("a token whose workspace is a path", |w| claims(w, |c| c.with("tenant", json!("../other")), "claims")),
    ("alg: none", alg_none),
    ("HS256 signed with the public key", alg_hs256),
    ("a token signed with another key", other_key),
    ("a token whose claims were changed", changed_claims),
    ("a kid that is a path", |w| headed(w, |h| h["kid"] = json!("../../keys/root.key"), "key")),
    ("a kid that is a URL", |w| headed(w, |h| h["kid"] = json!("http://127.0.0.1:1/key"), "key")),
    ("a kid that is a query", |w| headed(w, |h| h["kid"] = json!("' OR '1'='1"), "key")),
    ("a kid that is no text", |w| headed(w, |h| h["kid"] = json!(["k"]), "malformed")),
    ("a key that comes in the token's header", |w| forged(w, |h, jwk| h["jwk"] = jwk)),
    ("a key behind a URL in the token's header", |w| forged(w, |h, _| h["jku"] = json!("http://127.0.0.1:1/jwks"))),
    ("a critical header that nobody understands", |w| headed(w, |h| h["crit"] = json!(["exp"]), "malformed")),
    ("a logout token", |w| headed(w, |h| h["typ"] = json!("logout+jwt"), "token-type")),
    ("an ID token", |w| claims(w, |c| c.with("nonce", json!("n")), "token-type")),
    ("a token issued in the future", |w| claims(w, |c| c.with("iat", json!(unix_now() + 3600)), "not-yet-valid")),
    ("a token that expires never", |w| claims(w, |c| c.with("exp", json!(1e300)), "claims")),
    ("a stolen token that is bound to a certificate", |w| {
        claims(w, |c| c.with("cnf", json!({"x5t#S256": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"})), "binding")
    }),
    ("a stolen token that is bound to a key", |w| claims(w, |c| c.with("cnf", json!({"jkt": "x"})), "binding")),
    ("a token for the node's own workspace", |w| claims(w, |c| c.with("tenant", json!("_node")), "workspace")),
    ("an actor of another issuer", |w| {
        claims(w, |c| c.with("act", json!({"sub": "bot", "iss": "https://elsewhere.test"})), "claims")
    }),
    ("a chain of six actors", |w| claims(w, |c| c.with("act", chain(6)), "claims")),
    ("an API key that nobody made", |w| {
        token(w, Some(format!("csk_{}_{}", "0".repeat(16), "0".repeat(64))), "api-key")
    }),
    ("an API key of another form", |w| token(w, Some("csk_0_0".to_owned()), "malformed")),
    ("a role for oneself", |w| grant(w, "adam", "default", "reviewer")),
    ("a role in another workspace", |w| grant(w, "tess", "elsewhere", "reviewer")),
    ("the node's own role from a workspace's administrator", |w| grant(w, "tess", "default", "operator")),
    ("a bearer token in the query", token_in_query),
    ("administration by an agent with the role in its own words", not_operator),
    ("another workspace's receipt", other_workspace),
    ("another caller's events", other_caller),
];

fn honest() -> Claims {
    Claims::agent("mallory", &["tester"])
}

fn claims(world: &mut World, change: fn(Claims) -> Claims, cause: &str) -> Result<()> {
    let token_text = world.node.home().issuer().token(&change(honest()));
    token(world, Some(token_text), cause)
}

/// With an honest token the call is executed; with this one it is refused, counted, and no event is written.
fn token(world: &mut World, text: Option<String>, cause: &str) -> Result<()> {
    let mut agent = world.agent();
    let twin = world.invoke(&mut agent, "echo", &json!({"text": "twin"}))?;
    world.harmless(&twin)?;
    world.counted(cause, |world| {
        let before = log_size(world)?;
        for path in
            ["/tools/evil:echo/invoke", "/mcp", "/admin/freeze", "/approvals/0198c0de-0000-7000-8000-000000000000"]
        {
            let mut http = match &text {
                Some(text) => world.node.client(text),
                None => world.node.anonymous(),
            };
            let answer = http.post(path, &json!({"text": "x"}))?;
            let body = world.refused_without_event(&answer, 401, "unauthenticated")?;
            ensure!(body.get("event").is_none(), "a stranger made an event");
            let challenge = answer.header("www-authenticate").unwrap_or_default();
            ensure!(challenge.starts_with("Bearer"), "no challenge: {challenge:?}");
        }
        ensure!(log_size(world)? == before, "strangers made the log grow");
        Ok(())
    })
}

fn log_size(world: &World) -> Result<String> {
    let checkpoint = world.node.anonymous().get("/checkpoint")?;
    let text = String::from_utf8_lossy(&checkpoint.body).into_owned();
    Ok(text.lines().nth(1).unwrap_or_default().to_owned())
}

fn alg_none(world: &mut World) -> Result<()> {
    let issuer = world.node.home().issuer().clone();
    let bare = issuer.signing_input(&json!({"alg": "none", "typ": "JWT"}), &honest());
    token(world, Some(format!("{bare}.")), "algorithm")
}

fn alg_hs256(world: &mut World) -> Result<()> {
    let issuer = world.node.home().issuer().clone();
    let mut header = issuer.header();
    header["alg"] = json!("HS256");
    // Whatever the signature is: the algorithm must be refused before a key is chosen.
    let text = issuer.token_with_header(&header, &honest());
    token(world, Some(text), "algorithm")
}

fn other_key(world: &mut World) -> Result<()> {
    let name = world.node.home().issuer().name().to_owned();
    let forger = Issuer::new(&name, 9);
    let text = forger.token_with_header(&world.node.home().issuer().header(), &honest());
    token(world, Some(text), "signature")
}

fn changed_claims(world: &mut World) -> Result<()> {
    let issuer = world.node.home().issuer().clone();
    let signed = issuer.token(&honest());
    let signature = signed.rsplit('.').next().unwrap_or_default().to_owned();
    let raised = issuer.signing_input(&issuer.header(), &Claims::person("mallory", &["operator"]));
    token(world, Some(format!("{raised}.{signature}")), "signature")
}

/// Honest claims, correctly signed under another header.
fn headed(world: &mut World, change: fn(&mut Value), cause: &str) -> Result<()> {
    let issuer = world.node.home().issuer().clone();
    let mut header = issuer.header();
    change(&mut header);
    token(world, Some(issuer.token_with_header(&header, &honest())), cause)
}

/// Honest claims, signed with a key of the forger's own that the header brings along.
fn forged(world: &mut World, bring: fn(&mut Value, Value)) -> Result<()> {
    let issuer = world.node.home().issuer().clone();
    let forger = Issuer::new(issuer.name(), 9);
    let published: Value = serde_json::from_str(&forger.jwks())?;
    let mut header = issuer.header();
    bring(&mut header, published["keys"][0].clone());
    token(world, Some(forger.token_with_header(&header, &honest())), "signature")
}

fn chain(actors: usize) -> Value {
    (0..actors)
        .fold(json!(null), |act, _| if act.is_null() { json!({"sub": "x"}) } else { json!({"sub": "x", "act": act}) })
}

/// An administrator of the default workspace grants a role; an operator's grant of one to somebody else is the twin.
fn grant(world: &mut World, id: &str, workspace: &str, role: &str) -> Result<()> {
    let issuer = world.node.home().issuer().name().to_owned();
    let somebody = world.unique("somebody");
    let body = |id: &str, workspace: &str, role: &str| json!({"issuer": issuer, "id": id, "role": role, "workspace": workspace});
    let mut admin = world.person("adam", &["admin"]);
    let twin = admin.post("/admin/roles/grant", &body(&somebody, "default", "reviewer"))?;
    world.harmless_because(twin.status == 200, "an administrator grants a role in its own workspace")?;
    let answer = admin.post("/admin/roles/grant", &body(id, workspace, role))?;
    world.refused_without_event(&answer, 403, "forbidden")?;
    let listed = world.node.operator().get(&format!("/admin/roles?workspace={workspace}"))?.expect(200)?;
    let granted = listed.as_array().into_iter().flatten().any(|grant| grant["id"] == id && grant["role"] == role);
    ensure!(!granted, "the role was granted");
    Ok(())
}

fn token_in_query(world: &mut World) -> Result<()> {
    let mut agent = world.agent();
    let twin = world.invoke(&mut agent, "echo", &json!({"text": "twin"}))?;
    world.harmless(&twin)?;
    let token = world.node.home().agent("mallory", &["tester"]);
    let answer =
        world.node.anonymous().post(&format!("/tools/evil:echo/invoke?access_token={token}"), &json!({"text": "x"}))?;
    world.refused_without_event(&answer, 401, "unauthenticated").map(|_| ())
}

fn not_operator(world: &mut World) -> Result<()> {
    let operator = world.node.operator().get("/admin/tools")?;
    world.harmless_because(operator.status == 200, "the operator may see the tools")?;
    let mut agent = world.agent();
    for (path, body) in [
        ("/admin/freeze", json!({"kind": "tool", "name": "evil:echo", "reason": "x"})),
        ("/admin/policy/reload", json!({})),
        ("/admin/erase", json!({"event": "0198c0de-0000-7000-8000-000000000000", "reason": "x"})),
        ("/admin/backup", json!({"path": "/tmp/x.db"})),
    ] {
        let answer = agent.post(path, &body)?;
        ensure!(answer.status == 403, "{path}: HTTP {} {:?}", answer.status, answer.problem());
    }
    let answer = agent.get("/admin/tools")?;
    world.refused_without_event(&answer, 403, "forbidden").map(|_| ())
}

fn other_workspace(world: &mut World) -> Result<()> {
    let mut agent = world.agent();
    let twin = world.invoke(&mut agent, "echo", &json!({"text": "twin"}))?;
    let receipt = world.harmless(&twin)?["receipt"].as_str().unwrap_or_default().to_owned();
    let elsewhere = Claims::person("eve", &["operator", "auditor"]).with("tenant", json!("elsewhere"));
    let answer = world.bearer_of(&elsewhere).get(&format!("/receipts/{receipt}"))?;
    world.refused_without_event(&answer, 404, "not-found")?;
    let events = world.bearer_of(&elsewhere).get("/audit/events?limit=1000")?.expect(200)?;
    ensure!(!events.to_string().contains("mallory"), "events of another workspace are shown");
    Ok(())
}

fn other_caller(world: &mut World) -> Result<()> {
    let mut agent = world.agent();
    let twin = world.invoke(&mut agent, "echo", &json!({"text": "twin"}))?;
    let receipt = world.harmless(&twin)?["receipt"].as_str().unwrap_or_default().to_owned();
    let own = agent.get(&format!("/receipts/{receipt}"))?;
    ensure!(own.status == 200, "the caller cannot read its own receipt: HTTP {}", own.status);
    let answer = world.client("trent", &["tester"]).get(&format!("/receipts/{receipt}"))?;
    world.refused_without_event(&answer, 404, "not-found").map(|_| ())
}
