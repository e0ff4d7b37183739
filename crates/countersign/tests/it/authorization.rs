//! Authorization servers that upstreams name themselves, over real HTTP: found, registered at, stepped up to; and everything that
//! a stranger could say there to lead the node, or its people, elsewhere.

use serde_json::{Value, json};
use url::Url;

use super::connections::{get, start};
use super::stand_in::{Log, Reply, serve_each};
use super::{Home, expect, parsed};

const POLICY: &str = r#"@id("all") permit (principal in Role::"clerk", action, resource);"#;

/// MCP servers at `/mcp/KIND`, each with an authorization server at `/as/KIND`. A kind is what is wrong with it; `good` and
/// `greedy` have nothing wrong, and the latter is never content.
fn answer(head: &str, body: &str, base: &str) -> Reply {
    let path = head.split(' ').nth(1).unwrap_or_default();
    let url = Url::parse(&format!("{base}{path}")).unwrap();
    let path = url.path().to_owned();
    let kind = path.rsplit('/').next().unwrap().to_owned();
    let fine = |body: Value| ("200 OK", String::new(), body.to_string());
    if path.starts_with("/.well-known/oauth-protected-resource/mcp/") {
        let resource = if kind == "other" { "https://evil.example/mcp".into() } else { format!("{base}/mcp/{kind}") };
        let issuer = match kind.as_str() {
            "inside" => "https://169.254.169.254/as".to_owned(),
            _ => format!("{base}/as/{kind}"),
        };
        return fine(json!({"resource": resource, "authorization_servers": [issuer], "scopes_supported": ["read"]}));
    }
    if path.starts_with("/.well-known/oauth-authorization-server/as/") {
        let mut document = json!({
            "issuer": format!("{base}/as/{kind}"), "authorization_endpoint": format!("{base}/authorize/{kind}"),
            "token_endpoint": format!("{base}/token/{kind}"), "registration_endpoint": format!("{base}/register/{kind}"),
            "code_challenge_methods_supported": ["S256"], "authorization_response_iss_parameter_supported": true,
        });
        match kind.as_str() {
            "issuer" => document["issuer"] = json!("https://evil.example"),
            "pkce" => document["code_challenge_methods_supported"] = json!(["plain"]),
            "endpoint" => document["token_endpoint"] = json!("https://10.0.0.1/token"),
            "long" => document["padding"] = json!("x".repeat(64 << 10)),
            _ => {}
        }
        return fine(document);
    }
    if path.starts_with("/.well-known/") {
        return ("404 Not Found", String::new(), "{}".into());
    }
    let asked =
        |name: &str| url.query_pairs().find(|(n, _)| n == name).map(|(_, v)| v.into_owned()).unwrap_or_default();
    if path.starts_with("/register/") {
        return (
            "201 Created",
            String::new(),
            json!({"client_id": "us", "client_secret": "planted-client-Zk4"}).to_string(),
        );
    }
    if path.starts_with("/authorize/") {
        let mut back = Url::parse(&asked("redirect_uri")).unwrap();
        let issuer = if kind == "mixed" { "https://evil.example".to_owned() } else { format!("{base}/as/{kind}") };
        let code = asked("scope").replace(' ', "+");
        back.query_pairs_mut()
            .append_pair("code", &code)
            .append_pair("state", &asked("state"))
            .append_pair("iss", &issuer);
        return ("302 Found", format!("location: {back}\r\n"), String::new());
    }
    if path.starts_with("/token/") {
        let form: Vec<(String, String)> = url::form_urlencoded::parse(body.as_bytes()).into_owned().collect();
        let field = |name: &str| form.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str()).unwrap_or_default();
        assert!(field("resource").ends_with(&format!("/mcp/{kind}")), "{body}");
        assert!(head.contains("authorization: Basic "), "registered with a secret: {head}");
        return fine(json!({"access_token": field("code"), "token_type": "Bearer", "expires_in": 3600}));
    }
    mcp(head, body, &kind)
}

/// Lists for everybody; calls need an account with the scope `write`.
fn mcp(head: &str, body: &str, kind: &str) -> Reply {
    let message: Value = serde_json::from_str(body).unwrap();
    let result = match message["method"].as_str().unwrap() {
        "server/discover" => {
            json!({"resultType": "complete", "supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}})
        }
        "tools/list" => json!({"resultType": "complete", "tools": [{
            "name": "contacts", "description": "Lists contacts", "inputSchema": {"type": "object"},
        }]}),
        _ => {
            let may = head.lines().any(|line| line.starts_with("authorization: Bearer ") && line.contains("write"));
            if !may || kind == "greedy" {
                let wanted = "www-authenticate: Bearer error=\"insufficient_scope\", scope=\"write\"\r\n";
                return ("403 Forbidden", wanted.to_owned(), "{}".into());
            }
            json!({"resultType": "complete", "content": [{"type": "text", "text": "done"}]})
        }
    };
    ("200 OK", String::new(), json!({"jsonrpc": "2.0", "id": message["id"], "result": result}).to_string())
}

/// A node with an upstream of each of these kinds.
fn home(kinds: &[(&str, Value)]) -> (Home, Log) {
    let (base, log) = serve_each(answer);
    let mut home = Home::new();
    std::fs::remove_file(home.path("manifests/ads.yaml")).unwrap();
    std::fs::remove_dir_all(home.path("policies")).unwrap();
    std::fs::create_dir_all(home.path("policies/access")).unwrap();
    std::fs::write(home.path("policies/access/a.cedar"), POLICY).unwrap();
    for (kind, more) in kinds {
        let mut credential = json!({"type": "user"});
        for (name, value) in more.as_object().into_iter().flatten() {
            credential[name] = value.clone();
        }
        let manifest = json!({
            "version": 1, "upstream": kind,
            "transport": {"type": "http", "url": format!("{base}/mcp/{kind}"), "credential": credential},
            "tools": {"contacts": {"effect": "read"}},
        });
        std::fs::write(home.path(&format!("manifests/{kind}.yaml")), manifest.to_string()).unwrap();
    }
    start(&mut home);
    expect(&home.run(&["tools", "accept", "--all"]), 0);
    (home, log)
}

fn count(log: &Log, start: &str) -> usize {
    log.lock().unwrap().iter().filter(|(head, _)| head.starts_with(start)).count()
}

fn cleo(home: &Home, arguments: &[&str], code: i32) -> String {
    let output = home.run(&[arguments, &["--as", "cleo,clerk", "--json"]].concat());
    expect(&output, code);
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Connects as a person would; the page's address, and what the browser is shown at the end.
fn connect(home: &Home, upstream: &str) -> (Url, String) {
    let output = home.run(&["connections", "connect", upstream, "--as", "cleo,clerk", "--json"]);
    expect(&output, 0);
    let url: Url = parsed(&output)["authorization_url"].as_str().unwrap().parse().unwrap();
    let redirect = get(&url);
    let back = redirect.lines().find_map(|line| line.strip_prefix("location: ")).unwrap();
    let page = get(&back.trim().parse().unwrap());
    if let Some(word) = page.split("<pre>").nth(1) {
        cleo(home, &["connections", "confirm", upstream, word.split("</pre>").next().unwrap()], 0);
    }
    (url, page)
}

fn scope(url: &Url) -> String {
    url.query_pairs().find(|(name, _)| name == "scope").unwrap().1.into_owned()
}

#[test]
fn an_account_is_connected_at_a_server_that_nobody_wrote_down() {
    let (mut home, log) = home(&[("good", json!({})), ("greedy", json!({}))]);
    assert!(cleo(&home, &["call", "good:contacts"], 1).contains("connection-needed"));
    let (url, page) = connect(&home, "good");
    assert_eq!(scope(&url), "read");
    assert!(page.contains("/as/good</b>"), "the person sees where: {page}");
    // The upstream wants more: the person is asked for all of it at once, also by a node that was started anew.
    let refused = cleo(&home, &["call", "good:contacts"], 1);
    assert!(refused.contains("connection-needed") && refused.contains("write"), "{refused}");
    home.kill();
    start(&mut home);
    let (url, _) = connect(&home, "good");
    assert_eq!(scope(&url), "read write");
    assert!(cleo(&home, &["call", "good:contacts"], 0).contains("done"));
    assert_eq!(count(&log, "POST /register/good"), 1, "the registration outlives the process");
    // What was granted and is refused all the same is not asked for again.
    connect(&home, "greedy");
    assert!(cleo(&home, &["call", "greedy:contacts"], 1).contains("connection-needed"));
    assert_eq!(scope(&connect(&home, "greedy").0), "read write");
    assert!(
        cleo(&home, &["call", "greedy:contacts"], 7).contains("answered HTTP 403"),
        "as any refusal of an upstream"
    );
    let output = home.run(&["audit", "list", "--as", "o,operator,auditor", "--limit", "200", "--json"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("/as/good") && !text.contains("planted-client"), "{text}");
    assert_eq!(super::secrets::found_in_files(&home, "planted-client-Zk4"), None, "the client's secret is sealed");
}

#[test]
fn whoever_leads_elsewhere_is_not_followed() {
    let kinds = ["other", "inside", "issuer", "pkce", "endpoint", "long", "mixed"];
    let mut upstreams: Vec<(&str, Value)> = kinds.iter().map(|kind| (*kind, json!({}))).collect();
    upstreams.push(("trusted", json!({"authorization_servers": ["https://idp.bank.example"]})));
    let (home, log) = home(&upstreams);
    for (upstream, why) in [
        ("other", "is about"),
        ("inside", "only this node could reach"),
        ("issuer", "not of"),
        ("pkce", "S256"),
        ("endpoint", "only this node could reach"),
        ("long", "longer than"),
        ("trusted", "none of `authorization_servers`"),
    ] {
        let refused = cleo(&home, &["connections", "connect", upstream], 1);
        assert!(refused.contains(why), "{upstream}: {refused}");
    }
    assert_eq!(count(&log, "POST /register/") + count(&log, "GET /authorize/"), 0, "nobody was told anything");
    let (_, page) = connect(&home, "mixed");
    assert!(page.starts_with("HTTP/1.1 400") && page.contains("does not come from"), "{page}");
    assert_eq!(count(&log, "POST /token/"), 0, "the code goes nowhere");
}
