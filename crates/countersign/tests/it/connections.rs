//! A person connects an account over real HTTP: page of the provider, return, code, calls by an agent, renewal, restart,
//! disconnecting. Afterwards everything that was ever written is searched for what it took.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use url::Url;

use super::secrets::found_in_files;
use super::stand_in::{Reply, serve_each};
use super::{Home, expect};

const CODE: &str = "planted-code-Nd1";
const ACCESS: &str = "planted-first-Gw5";
const REFRESH: &str = "planted-refresh-Jf6";
const SECOND: &str = "planted-second-Ys4";
const ROTATED: &str = "planted-rotated-Qe9";
const POLICY: &str = r#"@id("all") permit (principal in Role::"clerk", action, resource);"#;

/// An authorization server with PKCE and rotating refresh tokens, and beside it an API and an MCP server that echo what they
/// are sent.
fn answer(head: &str, body: &str, base: &str) -> Reply {
    let path = head.split(' ').nth(1).unwrap_or_default();
    let url = Url::parse(&format!("{base}{path}")).unwrap();
    let form: Vec<(String, String)> = url::form_urlencoded::parse(body.as_bytes()).into_owned().collect();
    let field = |name: &str| form.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str()).unwrap_or_default();
    let tokens = |access: &str, refresh: &str, life: u64| {
        json!({"access_token": access, "refresh_token": refresh, "expires_in": life, "token_type": "Bearer"})
            .to_string()
    };
    let fine = |body: String| ("200 OK", String::new(), body);
    match url.path() {
        "/authorize" => {
            let asked = |name: &str| url.query_pairs().find(|(n, _)| n == name).unwrap().1.into_owned();
            let mut back = Url::parse(&asked("redirect_uri")).unwrap();
            let mut query = back.query_pairs_mut();
            query.append_pair("code", CODE).append_pair("state", &asked("state")).append_pair("iss", base);
            drop(query);
            ("302 Found", format!("location: {back}\r\n"), String::new())
        }
        "/token" if field("grant_type") == "authorization_code" && field("code") == CODE => {
            // It is over at once, so that the first call has it renewed.
            fine(tokens(ACCESS, REFRESH, 0))
        }
        "/token" if field("refresh_token") == REFRESH => fine(tokens(SECOND, ROTATED, 3600)),
        "/token" => ("400 Bad Request", String::new(), json!({"error": "invalid_grant"}).to_string()),
        "/mcp" => fine(mcp(head, body)),
        _ => fine(json!({"echo": head}).to_string()),
    }
}

/// An MCP server with one tool, which is listed for everybody.
fn mcp(head: &str, body: &str) -> String {
    let message: Value = serde_json::from_str(body).unwrap();
    let result = match message["method"].as_str().unwrap() {
        "server/discover" => {
            json!({"resultType": "complete", "supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}})
        }
        "tools/list" => json!({"resultType": "complete", "tools": [{
            "name": "contacts", "description": "Lists contacts", "inputSchema": {"type": "object"},
        }]}),
        _ => json!({"resultType": "complete", "content": [{"type": "text", "text": head}]}),
    };
    json!({"jsonrpc": "2.0", "id": message["id"], "result": result}).to_string()
}

/// A browser's `GET`: the whole answer.
pub fn get(url: &Url) -> String {
    exchange(url, "GET", "", "")
}

/// A browser's form.
fn post(url: &Url, form: &str, site: &str) -> String {
    let kind = "content-type: application/x-www-form-urlencoded\r\n";
    exchange(url, "POST", &format!("sec-fetch-site: {site}\r\n{kind}content-length: {}\r\n", form.len()), form)
}

fn exchange(url: &Url, method: &str, headers: &str, body: &str) -> String {
    let mut socket = TcpStream::connect((url.host_str().unwrap(), url.port().unwrap())).unwrap();
    let path = &url[url::Position::BeforePath..];
    let host = url.authority();
    let head = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{headers}\r\n");
    socket.write_all(format!("{head}{body}").as_bytes()).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut all = Vec::new();
    let mut part = [0; 4096];
    // The provider keeps the connection: its head is all that is looked at.
    while let Ok(n @ 1..) = socket.read(&mut part) {
        all.extend_from_slice(&part[..n]);
        if all.starts_with(b"HTTP/1.1 302") && all.ends_with(b"\r\n\r\n") {
            break;
        }
    }
    String::from_utf8(all).unwrap()
}

pub fn start(home: &mut Home) {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(home.path("node.log")).unwrap();
    let mut command = home.command(&["up", "--listen", &format!("127.0.0.1:{}", home.port)]);
    command.env("COUNTERSIGN_LOG", "trace").stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    home.node = Some(command.spawn().unwrap());
    let since = Instant::now();
    let url = format!("http://127.0.0.1:{}", home.port);
    while home.run(&["log", "checkpoint", "--url", &url]).status.code() != Some(0) {
        let text = || std::fs::read_to_string(home.path("node.log")).unwrap();
        assert!(since.elapsed() < Duration::from_secs(30), "{}", text());
        std::thread::sleep(Duration::from_millis(30));
    }
    while home.json(&["tools", "list"]).as_array().is_none_or(Vec::is_empty) {
        assert!(since.elapsed() < Duration::from_secs(30), "no tools");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A home whose only upstream is used with accounts.
fn home(base: &str, kind: &str) -> Home {
    let home = Home::new();
    std::fs::remove_file(home.path("manifests/ads.yaml")).unwrap();
    std::fs::remove_dir_all(home.path("policies")).unwrap();
    std::fs::create_dir_all(home.path("policies/access")).unwrap();
    std::fs::write(home.path("policies/access/a.cedar"), POLICY).unwrap();
    let (path, tool) = match kind {
        "rest" => ("api", json!({"effect": "read", "request": {"method": "GET", "path": "/contacts"}})),
        _ => ("mcp", json!({"effect": "read"})),
    };
    let manifest = json!({
        "version": 1, "upstream": "crm",
        "transport": {"type": kind, "url": format!("{base}/{path}"), "credential": {
            "type": "user", "authorization_url": format!("{base}/authorize"), "token_url": format!("{base}/token"),
            "revocation_url": format!("{base}/revoke"), "issuer": base, "client_id": "node", "scopes": ["contacts.read"],
        }},
        "tools": {"contacts": tool},
    });
    std::fs::write(home.path("manifests/crm.yaml"), manifest.to_string()).unwrap();
    home
}

/// The page that agents pass on: it leads to the provider, in the name of whoever signs in there.
fn the_page_leads_to_the_provider(home: &Home, base: &str, refusal: &str, agent: &str) {
    let place = format!("http://127.0.0.1:{}/connections/crm/page", home.port);
    assert!(refusal.contains(&place), "{refusal}");
    let page = get(&place.parse().unwrap());
    assert!(page.contains("form-action 'self'") && page.contains("name=\"token\""), "{page}");
    let token = String::from_utf8(home.run(&["token", "mint", "--sub", "cleo", "--role", "clerk"]).stdout).unwrap();
    let page = post(&place.parse().unwrap(), &format!("token={}&code=", token.trim()), "same-origin");
    assert!(page.starts_with("HTTP/1.1 200") && page.contains(&format!("<a href=\"{base}/authorize?")), "{page}");
    assert!(
        post(&place.parse().unwrap(), &format!("token={agent}"), "none").contains("Not allowed"),
        "an agent's token"
    );
    assert!(post(&place.parse().unwrap(), "token=x", "same-origin").starts_with("HTTP/1.1 401"));
    assert!(
        post(&place.parse().unwrap(), &format!("token={}", token.trim()), "cross-site").starts_with("HTTP/1.1 403")
    );
}

#[test]
fn a_connected_account_is_used_by_agents_and_seen_by_nobody() {
    let (base, log) = serve_each(answer);
    let mut home = home(&base, "rest");
    start(&mut home);
    let token = ["token", "mint", "--sub", "cleo", "--act", "bot", "--role", "clerk"];
    let agent = String::from_utf8(home.run(&token).stdout).unwrap().trim().to_owned();
    let mut written = String::new();
    let mut call = |home: &Home, code: i32| {
        let output = home.run(&["call", "crm:contacts", "--token", &agent, "--json"]);
        expect(&output, code);
        written += &String::from_utf8_lossy(&output.stdout);
        written += &String::from_utf8_lossy(&output.stderr);
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
    };
    let used = |token: &str| {
        let bearer = format!("Bearer {token}");
        log.lock().unwrap().iter().filter(|(head, _)| head.starts_with("GET /api") && head.contains(&bearer)).count()
    };

    let refusal = call(&home, 1);
    assert!(refusal.contains("connection-needed") || refusal.contains("connections connect crm"), "{refusal}");
    let cleo =
        |arguments: &[&str]| home.run(&[&["connections"], arguments, &["--as", "cleo,clerk", "--json"]].concat());
    let asked = |output: std::process::Output| -> Value {
        expect(&output, 0);
        super::parsed(&output)
    };
    the_page_leads_to_the_provider(&home, &base, &refusal, &agent);
    let url: Url = asked(cleo(&["connect", "crm"]))["authorization_url"].as_str().unwrap().parse().unwrap();
    let state = url.query_pairs().find(|(name, _)| name == "state").unwrap().1.into_owned();
    let redirect = get(&url);
    let back = redirect.lines().find_map(|line| line.strip_prefix("location: ")).unwrap();
    let back: Url = back.trim().parse().unwrap();
    assert!(back.as_str().starts_with(&format!("http://127.0.0.1:{}/oauth/callback?", home.port)), "{back}");
    let page = get(&back);
    assert!(page.starts_with("HTTP/1.1 200") && page.contains("content-security-policy: default-src 'none'"), "{page}");
    assert!(page.contains("<b>cleo</b>") && !page.contains("<script"), "{page}");
    let word = page.split("<pre>").nth(1).unwrap().split("</pre>").next().unwrap().to_owned();
    let again = get(&back);
    assert!(again.starts_with("HTTP/1.1 400") && again.contains("used before"), "a state is good once: {again}");
    assert_eq!(asked(cleo(&["list"]))[0]["state"], "consented");
    expect(&home.run(&["connections", "confirm", "crm", &word, "--as", "eve,clerk"]), 1);
    assert_eq!(asked(cleo(&["confirm", "crm", &word]))["state"], "connected");

    // The exchange was the node's, with the verifier of its challenge.
    let seen = log.lock().unwrap().clone();
    let exchange = seen.iter().find(|(_, body)| body.contains("authorization_code")).unwrap().1.clone();
    let form: Vec<(String, String)> = url::form_urlencoded::parse(exchange.as_bytes()).into_owned().collect();
    let verifier = form.iter().find(|(name, _)| name == "code_verifier").unwrap().1.clone();
    let challenge = url.query_pairs().find(|(name, _)| name == "code_challenge").unwrap().1.into_owned();
    assert_eq!(challenge, s256(&verifier));

    let result = call(&home, 0);
    assert_eq!((used(ACCESS), used(SECOND)), (0, 1), "the agent's call carries the person's token, renewed");
    assert!(result.contains("[redacted]"), "{result}");
    home.kill();
    start(&mut home);
    call(&home, 0);
    assert_eq!(used(SECOND), 2, "what was renewed outlives the process");
    let renewals = log.lock().unwrap().iter().filter(|(_, body)| body.contains("grant_type=refresh_token")).count();
    assert_eq!(renewals, 1);

    let output = home.run(&["connections", "disconnect", "crm", "--as", "cleo,clerk", "--json"]);
    assert_eq!(asked(output)["revoked"], true);
    assert!(log.lock().unwrap().iter().any(|(head, body)| head.contains("/revoke") && body.contains(ROTATED)));
    call(&home, 1);
    for arguments in
        [&["audit", "list", "--as", "o,operator,auditor", "--limit", "200", "--json"][..], &["doctor", "--json"]]
    {
        let output = home.run(arguments);
        written += &String::from_utf8_lossy(&output.stdout);
        written += &String::from_utf8_lossy(&output.stderr);
    }
    assert!(written.contains("connection.made") && written.contains("connection.removed"), "{written}");
    expect(&home.run(&["audit", "export", "export"]), 0);
    for planted in [CODE, ACCESS, REFRESH, SECOND, ROTATED, &state, &verifier, &word] {
        assert!(!written.contains(planted), "{planted} was shown: {written}");
        assert_eq!(found_in_files(&home, planted), None, "{planted}");
    }
}

#[test]
fn an_mcp_server_is_asked_in_the_name_of_whoever_calls() {
    let (base, log) = serve_each(answer);
    let mut home = home(&base, "http");
    start(&mut home);
    expect(&home.run(&["tools", "accept", "--all"]), 0);
    let call = |code: i32| {
        let output = home.run(&["call", "crm:contacts", "--as", "cleo,clerk", "--json"]);
        expect(&output, code);
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    };
    assert!(call(1).contains("connection-needed"));
    let cleo = |arguments: &[&str]| {
        let output = home.run(&[&["connections"], arguments, &["--as", "cleo,clerk", "--json"]].concat());
        expect(&output, 0);
        super::parsed(&output)
    };
    let url: Url = cleo(&["connect", "crm"])["authorization_url"].as_str().unwrap().parse().unwrap();
    let resource = url.query_pairs().find(|(name, _)| name == "resource").unwrap().1.into_owned();
    assert_eq!(resource, format!("{base}/mcp"), "the token is asked for this server");
    let redirect = get(&url);
    let back = redirect.lines().find_map(|line| line.strip_prefix("location: ")).unwrap();
    let page = get(&back.trim().parse().unwrap());
    let word = page.split("<pre>").nth(1).unwrap().split("</pre>").next().unwrap();
    assert_eq!(cleo(&["confirm", "crm", word])["state"], "connected");
    let result = call(0);
    assert!(result.contains("[redacted]") && !result.contains(SECOND), "{result}");
    let sent = log.lock().unwrap().clone();
    let carries = |method: &str| -> Vec<Option<&str>> {
        let of = |(head, body): &&(String, String)| head.starts_with("POST /mcp") && body.contains(method);
        sent.iter().filter(of).map(|(head, _)| head.lines().find(|line| line.starts_with("authorization:"))).collect()
    };
    assert_eq!(carries("tools/call"), [Some(format!("authorization: Bearer {SECOND}").as_str())]);
    assert!(carries("tools/list").iter().all(Option::is_none), "the node asks what there is in its own name");

    // An operator sees that it is there, and drops it: the next call has nothing to be made with.
    let as_one = |arguments: &[&str], who: &str, code: i32| {
        let output = home.run(&[&["connections"], arguments, &["--as", who]].concat());
        expect(&output, code);
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let listed = as_one(&["list", "--all", "--workspace", "default"], "olga,operator", 0);
    for shown in ["cleo", "countersign-dev", "crm", "connected"] {
        assert!(listed.contains(shown), "{shown}: {listed}");
    }
    assert!(!listed.contains(SECOND) && !listed.contains(ROTATED), "{listed}");
    let drop = ["drop", "crm", "--of", "cleo", "--issuer", "countersign-dev", "--reason", "left"];
    as_one(&["list", "--all"], "eve,clerk", 1);
    as_one(&drop, "eve,clerk", 1);
    call(0);
    let dropped = as_one(&drop, "olga,operator", 0);
    assert!(dropped.contains("the provider withdrew its tokens") && dropped.contains("receipt"), "{dropped}");
    assert!(log.lock().unwrap().iter().any(|(head, body)| head.contains("/revoke") && body.contains(ROTATED)));
    assert!(call(1).contains("connection-needed"));
    as_one(&drop, "olga,operator", 1);
    assert!(as_one(&["list", "--all"], "olga,operator", 0).contains("Nobody"));
}

/// RFC 7636, 4.2.
fn s256(verifier: &str) -> String {
    let digest = countersign_proof::digest::Digest::of(verifier.as_bytes());
    let letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let bits: String = digest.0.iter().map(|byte| format!("{byte:08b}")).collect();
    let six = bits.as_bytes().chunks(6).map(|part| format!("{:0<6}", String::from_utf8_lossy(part)));
    six.map(|part| char::from(letters[usize::from_str_radix(&part, 2).unwrap()])).collect()
}
