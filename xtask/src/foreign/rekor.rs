//! Rekor's second version, the server that runs on one machine, takes a node's entries and checkpoints, and sigstore-python accepts bundles that
//! are proved by its entries.
//!
//! The server takes entries and writes tiles into a directory; in operation another program serves these. Here a service of the
//! test's own does, and hands requests for entries on.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_proof::digest::Digest;
use countersign_testkit::home::free_address;
use countersign_testkit::http::Client;
use countersign_testkit::node::{Launch, output_file};
use countersign_testkit::service::{Asked, Reply, Service};
use countersign_testkit::{Home, Node};
use serde_json::{Value, json};

use super::litewitness::{Running, install, succeeds, wait_for};
use crate::witness::configure;
use crate::{paths, setup};

/// What is installed: the newest version that Go 1.26 builds.
const REKOR: &str = "github.com/sigstore/rekor-tiles/v2/cmd/rekor-server/posix@v2.3.0";
const ORIGIN: &str = "rekor.example";
const PATIENCE: Duration = Duration::from_secs(60);

/// Signs, forwards, and has everything verified.
///
/// # Errors
/// If the test itself cannot be run.
pub(super) fn run(binary: &Path, go: &Path) -> Result<bool> {
    setup::verifiers()?;
    let server = install(go, REKOR)?;
    let directory = paths::run_directory("rekor")?;
    let (rekor, tiles) = start(&server, &directory)?;
    let front = front(rekor.1, &tiles)?;
    let root = directory.join("rekor.json");
    fs::write(&root, trusted_root(&directory)?.to_string())?;

    let home = Home::create(&directory.join("home"), "log_domain = \"node.example\"\n[trust]\nenabled = true\n")?;
    home.access("all", "permit (principal, action, resource);\n")?;
    let node = Launch::new(binary).start(&home)?;
    // One that the log has already when the node comes to it: its proof is read from the tiles.
    let early = sign(&node, b"early\n")?;
    log_by_hand(&front, &early)?;
    node.stop()?;
    configure(
        &home,
        &format!(
            "[trust.forward]\nurl = \"{}\"\ntrusted_root = \"{}\"\norigin = \"{ORIGIN}\"\nbacklog = true\n",
            front.url(),
            root.display()
        ),
    )?;
    let node = Launch::new(binary).start(&home)?;
    let mut signed = vec![(b"early\n".to_vec(), early)];
    for n in 0..20 {
        let artifact = format!("artifact {n}\n").into_bytes();
        signed.push((artifact.clone(), sign(&node, &artifact)?));
    }
    let wanted = signed.len();
    let Some(stats) = forwarded(&node, wanted)? else { return Ok(false) };
    let ok = verified(&directory, &node, &signed, &stats)?;
    node.stop()?;
    let shown = |member: &str| stats[member].to_string();
    println!(
        "rekor-tiles: {} entries and {} checkpoints taken, {} refused, {} verified by sigstore-python",
        shown("forwarded"),
        shown("checkpoints"),
        shown("refused"),
        if ok { "all" } else { "not all" }
    );
    drop(rekor);
    Ok(ok)
}

/// The server with a fresh key and an empty log: it, where it listens, and where its tiles are.
fn start(server: &Path, directory: &Path) -> Result<((Running, SocketAddr), PathBuf)> {
    let key = directory.join("rekor.key");
    succeeds(Command::new("openssl").args(["genpkey", "-algorithm", "ed25519", "-out"]).arg(&key))?;
    let tiles = directory.join("tiles");
    fs::create_dir_all(&tiles)?;
    let (http, grpc, metrics) = (free_address()?, free_address()?, free_address()?);
    let log = directory.join("rekor.log");
    let child = Command::new(server)
        .args(["serve", "--http-address", "127.0.0.1", "--http-port", &http.port().to_string()])
        .args(["--grpc-address", "127.0.0.1", "--grpc-port", &grpc.port().to_string()])
        .args(["--http-metrics-port", &metrics.port().to_string(), "--hostname", ORIGIN])
        .args(["--checkpoint-interval", "1s", "--batch-max-age", "100ms", "--persistent-antispam", "--storage-dir"])
        .arg(&tiles)
        .arg("--signer-filepath")
        .arg(&key)
        .stdin(Stdio::null())
        .stdout(output_file(&log)?)
        .stderr(output_file(&log)?)
        .spawn()
        .context("starting rekor-server")?;
    let running = Running(child);
    wait_for("rekor-server", || std::net::TcpStream::connect(http).is_ok())
        .with_context(|| fs::read_to_string(&log).unwrap_or_default())?;
    Ok(((running, http), tiles))
}

/// Hands requests for entries on, and serves the rest from the directory.
fn front(rekor: SocketAddr, tiles: &Path) -> Result<Service> {
    let tiles = tiles.to_owned();
    Service::start(move |asked: &Asked| match asked.method.as_str() {
        "POST" => posted(rekor, asked).unwrap_or(Reply::Close),
        _ => {
            let path = asked.path.strip_prefix("/api/v2/").filter(|path| !path.contains("..")).unwrap_or_default();
            match fs::read(tiles.join(path)) {
                Ok(body) => Reply::Http { status: 200, content_type: "application/octet-stream", body },
                Err(_) => Reply::json(404, "{}"),
            }
        }
    })
}

fn posted(rekor: SocketAddr, asked: &Asked) -> Result<Reply> {
    let body: Value = serde_json::from_slice(&asked.body)?;
    let answer = Client::new(rekor).post(&asked.path, &body)?;
    let index = answer.header("x-log-index").unwrap_or_default();
    Ok(Reply::With { status: answer.status, header: format!("X-Log-Index: {index}"), body: answer.body })
}

fn trusted_root(directory: &Path) -> Result<Value> {
    let key = directory.join("rekor.key");
    let output = Command::new("openssl").args(["pkey", "-pubout", "-outform", "DER", "-in"]).arg(&key).output()?;
    let spki = output.stdout;
    ensure!(spki.len() == 44, "not an Ed25519 key");
    // C2SP signed-note: the name, a newline, the type, the key.
    let id = Digest::of_parts(&[ORIGIN.as_bytes(), b"\n\x01", &spki[12..]]);
    Ok(json!({
        "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
        "tlogs": [{
            "baseUrl": format!("https://{ORIGIN}"),
            "hashAlgorithm": "SHA2_256",
            "publicKey": {
                "rawBytes": STANDARD.encode(&spki), "keyDetails": "PKIX_ED25519", "validFor": { "start": "2026-01-01T00:00:00Z" },
            },
            "logId": { "keyId": STANDARD.encode(id.as_bytes()) },
            "operator": "rekor.example",
        }],
    }))
}

fn sign(node: &Node, artifact: &[u8]) -> Result<Value> {
    let body = json!({ "artifact": Digest::of(artifact).to_string(), "artifact_type": "release" });
    node.client(&node.home().agent("release-bot", &["tester"])).post("/v1/sign", &body)?.expect(200)
}

/// What another client of the log would do with the bundle.
fn log_by_hand(front: &Service, signed: &Value) -> Result<()> {
    let entry = &signed["bundle"]["verificationMaterial"]["tlogEntries"][0];
    let body = STANDARD.decode(entry["canonicalizedBody"].as_str().context("a body")?)?;
    let body: Value = serde_json::from_slice(&body)?;
    let spec = &body["spec"]["hashedRekordV002"];
    let request =
        json!({ "hashedRekordRequestV002": { "digest": spec["data"]["digest"], "signature": spec["signature"] } });
    let answer = Client::new(front.address()).post("/api/v2/log/entries", &request)?;
    ensure!(answer.status == 201, "the log did not take the entry: {}", String::from_utf8_lossy(&answer.body));
    let logged: Value = serde_json::from_slice(&answer.body)?;
    ensure!(logged["canonicalizedBody"] == entry["canonicalizedBody"], "the log made another leaf of it: {logged}");
    Ok(())
}

/// How forwarding stands once everything is settled; nothing, if it never is.
fn forwarded(node: &Node, entries: usize) -> Result<Option<Value>> {
    let end = Instant::now() + PATIENCE;
    let mut client = node.client(&node.home().agent("release-bot", &["tester"]));
    loop {
        let stats = client.get("/v1/stats")?.expect(200)?["forwarding"].clone();
        if stats["forwarded"] == entries && stats["waiting"] == 0 && stats["checkpoints"].as_u64() > Some(0) {
            return Ok(Some(stats));
        }
        if Instant::now() > end {
            println!("rekor-tiles: {stats}");
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(250));
    }
}

/// sigstore-python accepts each bundle by the other log's entry, told of no other log.
fn verified(directory: &Path, node: &Node, signed: &[(Vec<u8>, Value)], stats: &Value) -> Result<bool> {
    let mut client = node.client(&node.home().agent("release-bot", &["tester"]));
    let mut config = node.anonymous().get("/trust/trustconfig.json")?.expect(200)?;
    let logs = config["trustedRoot"]["tlogs"].as_array_mut().context("logs")?;
    logs.retain(|log| log["baseUrl"] == format!("https://{ORIGIN}"));
    ensure!(logs.len() == 1, "the node publishes the other log");
    let trust_config = directory.join("trustconfig.json");
    fs::write(&trust_config, config.to_string())?;
    let mut cases = Vec::new();
    let mut add = |name: String, found: &Value, artifact: &[u8]| -> Result<()> {
        let file = |ending: &str, bytes: &[u8]| -> Result<PathBuf> {
            let path = directory.join(format!("{}.{ending}", cases.len()));
            fs::write(&path, bytes)?;
            Ok(path)
        };
        let (bundle, artifact) =
            (file("sigstore.json", found["bundle"].to_string().as_bytes())?, file("art", artifact)?);
        cases.push(json!({
            "name": name, "bundle": bundle, "artifact": artifact, "trust_config": trust_config,
            "identity": found["signer"], "issuer": found["issuer"],
        }));
        Ok(())
    };
    for (number, (artifact, signed)) in signed.iter().enumerate() {
        let id = signed["entry_id"].as_str().context("an id")?;
        let found = client.get(&format!("/v1/signatures/{id}?log=outside"))?.expect(200)?;
        add(format!("signature {number}"), &found, artifact)?;
    }
    let id = stats["last_checkpoint"]["entry_id"].as_str().context("a checkpoint")?;
    let found = client.get(&format!("/v1/signatures/{id}"))?.expect(200)?;
    add("checkpoint".to_owned(), &found, found["checkpoint"].as_str().context("a note")?.as_bytes())?;
    let mut ok = true;
    for (verifier, verdicts) in crate::sigstore::others("sigstore_verify", &Value::Array(cases.clone()))? {
        for case in &cases {
            let name = case["name"].as_str().unwrap_or_default();
            if verdicts.get(name) != Some(&true) {
                println!("{verifier} does not accept {name} by the other log");
                ok = false;
            }
        }
    }
    Ok(ok)
}
