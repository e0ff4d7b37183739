//! An API's description becomes a manifest, and the manifest's tools reach an API that was built to the description.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::{Home, expect, parsed};

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../catalog/testdata/openapi/pharmacy.yaml");
const POLICY: &str = r#"
@id("clerks") permit (principal in Role::"clerk", action, resource);
@id("no-opioids") forbid (principal, action == Action::"pharmacy:orders_create", resource) when { context.input.drug.code == "N02A" };
"#;

/// The API of the document, as far as the test uses it: (method, path with query, key, body) of each request.
type Log = Arc<Mutex<Vec<(String, String, String, String)>>>;

fn api() -> (String, Log) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let log = Log::default();
    let record = Arc::clone(&log);
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let record = Arc::clone(&record);
            std::thread::spawn(move || serve(socket, &record));
        }
    });
    (address, log)
}

fn serve(socket: TcpStream, log: &Log) -> Option<()> {
    let mut reader = BufReader::new(socket);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
        let mut words = line.split(' ').map(str::to_owned);
        let (method, path) = (words.next()?, words.next()?);
        let (mut length, mut key) = (0, String::new());
        loop {
            let mut header = String::new();
            reader.read_line(&mut header).ok()?;
            let Some((name, value)) = header.trim_end().split_once(": ") else { break };
            match name {
                "content-length" => length = value.parse().ok()?,
                "x-api-key" => value.clone_into(&mut key),
                _ => {}
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        let body = String::from_utf8(body).ok()?;
        let (status, answer) = match (method.as_str(), path.as_str()) {
            ("POST", "/v1/patients/P7/orders") => {
                let mut order: Value = serde_json::from_str(&body).ok()?;
                order["id"] = json!(12);
                ("201 Created", order.to_string())
            }
            ("GET", path) if path.starts_with("/v1/patients/P7/orders") => {
                ("200 OK", json!([{"id": 12, "drug": {"code": "A10"}, "note": null}]).to_string())
            }
            ("DELETE", "/v1/patients/P7/orders/12") => ("503 Service Unavailable", "{}".into()),
            _ => ("404 Not Found", json!({"detail": "no such order"}).to_string()),
        };
        log.lock().unwrap().push((method, path, key, body));
        let head =
            format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", answer.len());
        reader.get_mut().write_all(format!("{head}{answer}").as_bytes()).ok()?;
    }
}

fn called(home: &Home, arguments: &[&str]) -> std::process::Output {
    home.run(&[&["call"], arguments, &["--as", "cleo,clerk", "--json"]].concat())
}

#[test]
fn an_openapi_document_becomes_tools_that_work() {
    let (address, log) = api();
    let mut home = Home::new();
    let server = format!("http://{address}/v1");
    let import = |more: &[&str]| {
        home.run(
            &[
                &[
                    "tools",
                    "import",
                    "openapi",
                    DOCUMENT,
                    "--upstream",
                    "pharmacy",
                    "--tag",
                    "orders",
                    "--server",
                    &server,
                ],
                more,
            ]
            .concat(),
        )
    };
    let shown = import(&[]);
    expect(&shown, 0);
    let listed = import(&["--out", "manifests/pharmacy.yaml", "--json"]);
    expect(&listed, 0);
    assert_eq!(
        parsed(&listed)["manifest"].as_str().unwrap().trim_end(),
        String::from_utf8(shown.stdout).unwrap().trim_end()
    );
    expect(&import(&["--out", "manifests/pharmacy.yaml"]), 1);
    expect(&home.run(&["tools", "import", "openapi", "nowhere.yaml"]), 1);

    // The starter's own upstream is not of interest, nor are the variables that nobody has set.
    std::fs::remove_file(home.path("manifests/ads.yaml")).unwrap();
    std::fs::remove_dir_all(home.path("policies")).unwrap();
    std::fs::create_dir_all(home.path("policies/access")).unwrap();
    std::fs::write(home.path("policies/access/a.cedar"), POLICY).unwrap();
    let manifest = home.path("manifests/pharmacy.yaml");
    let text = std::fs::read_to_string(&manifest).unwrap();
    // A pattern against reversed text holds such a character itself, which the scan rightly keeps for a person to see.
    let text = text.replace("\\U0000202E", "<").replace('\u{202e}', "<");
    let (key, by_variable) = (home.path("key"), "{ env: PHARMACY_APIKEY }");
    std::fs::write(&key, "k-7").unwrap();
    assert!(text.contains(by_variable), "{text}");
    std::fs::write(&manifest, text.replace(by_variable, &json!({ "file": key }).to_string())).unwrap();
    home.start();
    let since = std::time::Instant::now();
    let tools = loop {
        let tools = home.json(&["tools", "list"]);
        if tools.as_array().is_some_and(|t| t.len() == 6) {
            break tools;
        }
        assert!(since.elapsed() < std::time::Duration::from_secs(20), "{tools}");
    };
    // The manifest is the operator's own word: no second review, but an event each.
    assert!(tools.as_array().unwrap().iter().all(|tool| tool["status"] == "accepted"), "{tools}");
    let accepted = home.json(&["audit", "list", "--workspace", "_node"]).to_string();
    assert_eq!(accepted.matches("tool.accepted").count(), 6, "{accepted}");

    let call = |arguments: &[&str]| called(&home, arguments);
    let created =
        call(&["pharmacy:orders_create", "--json-args", r#"{"patientId":"P7","drug":{"code":"A10"},"note":null}"#]);
    expect(&created, 0);
    assert_eq!(parsed(&created)["result"]["structuredContent"]["id"], 12);
    let found = call(&["pharmacy:orders_list", "--json-args", r#"{"patientId":"P7","status":["open","filled"]}"#]);
    expect(&found, 0);
    assert_eq!(parsed(&found)["result"]["structuredContent"]["result"][0]["drug"]["code"], "A10");
    // The policy reads what goes into the body.
    expect(&call(&["pharmacy:orders_create", "--json-args", r#"{"patientId":"P7","drug":{"code":"N02A"}}"#]), 1);
    expect(&call(&["pharmacy:orders_create", "--json-args", r#"{"patientId":"7","drug":{"code":"A10"}}"#]), 1);
    expect(&call(&["pharmacy:orders_list_2", "--json-args", r#"{"patientId":"P8","orderId":9}"#]), 7);
    // A server's error leaves open whether something was cancelled.
    expect(&call(&["pharmacy:orders_cancel", "--json-args", r#"{"patientId":"P7","orderId":12}"#]), 1);
    assert_eq!(home.json(&["unknown", "list"]).as_array().unwrap().len(), 1);
    let seen = log.lock().unwrap().clone();
    let lines: Vec<_> = seen.iter().map(|(method, path, _, _)| format!("{method} {path}")).collect();
    assert_eq!(
        lines,
        [
            "POST /v1/patients/P7/orders",
            "GET /v1/patients/P7/orders?status%5B%5D=open&status%5B%5D=filled",
            "GET /v1/patients/P8/orders/9",
            "DELETE /v1/patients/P7/orders/12",
        ]
    );
    assert!(seen.iter().all(|(_, _, key, _)| key == "k-7"), "{seen:?}");
    assert_eq!(serde_json::from_str::<Value>(&seen[0].3).unwrap(), json!({"drug": {"code": "A10"}, "note": null}));

    // A change of the manifest is a change of the definition.
    home.kill();
    let text = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(&manifest, text.replace("/orders/{orderId}", "/refunds/{orderId}")).unwrap();
    home.start();
    let since = std::time::Instant::now();
    while called(&home, &["pharmacy:orders_list_2", "--json-args", r#"{"patientId":"P8","orderId":9}"#]).status.code()
        == Some(7)
    {
        assert!(since.elapsed() < std::time::Duration::from_secs(20), "still callable");
    }
    let tools = home.json(&["tools", "list"]);
    let changed = tools.as_array().unwrap().iter().filter(|tool| tool["status"] == "changed").count();
    assert_eq!(changed, 3, "{tools}");
    let diff = home.run(&["tools", "diff", "pharmacy:orders_list_2"]);
    assert!(String::from_utf8_lossy(&diff.stdout).contains("refunds"), "{diff:?}");
}
