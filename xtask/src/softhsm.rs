//! `cargo xtask softhsm`: a node whose signing keys and root key are on a PKCS#11 token, SoftHSM's: it signs, rotates, restarts and verifies, and
//! while the token is away it says so and makes nothing by halves.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use countersign_testkit::node::Launch;
use countersign_testkit::{Client, Home, Node};
use serde_json::{Value, json};

use crate::{paths, setup};

const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";
const PIN: &str = "4711-node";

/// Runs it; the answer is whether everything held.
///
/// # Errors
/// If something did not, or the test itself cannot be run.
pub fn run(binary: &Path) -> Result<bool> {
    setup::programs(&["softhsm2-util"])?;
    let directory = paths::run_directory("softhsm")?;
    let (tokens, conf) = (directory.join("tokens"), directory.join("softhsm2.conf"));
    fs::create_dir(&tokens)?;
    fs::write(
        &conf,
        format!("directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n", tokens.display()),
    )?;
    let mut command = Command::new("softhsm2-util");
    command.args(["--init-token", "--free", "--label", "countersign", "--pin", PIN, "--so-pin", "so-4711"]);
    let output = command.env("SOFTHSM2_CONF", &conf).output().context("running softhsm2-util")?;
    ensure!(output.status.success(), "softhsm2-util: {}", String::from_utf8_lossy(&output.stderr));

    let pin = directory.join("pin");
    fs::write(&pin, format!("{PIN}\n"))?;
    fs::set_permissions(&pin, fs::Permissions::from_mode(0o600))?;
    let settings = format!(
        "[trust]\nenabled = true\n[keys]\nprovider = \"pkcs11\"\nwrap_root = true\nmodule = \"{MODULE}\"\ntoken = \"countersign\"\npin_file = \"{}\"\n",
        pin.display()
    );
    let home = Home::create(&directory.join("home"), &settings)?;
    home.access("all", "permit (principal, action, resource);\n")?;
    let mut launch = Launch::new(binary);
    launch.environment.push(("SOFTHSM2_CONF".to_owned(), conf.display().to_string()));
    let node = launch.start(&home)?;
    let mut client = node.client(&home.agent("maker", &["tester"]));

    create(&mut client, 1)?.expect(201)?;
    verified(&mut client, 1)?;
    let kept: Vec<Value> = keys(&node)?;
    ensure!(kept.len() == 1 && kept[0]["kept_by"] == "pkcs11", "the key is not on the token: {kept:?}");
    node.operator().post("/admin/keys/rotate", &json!({ "reason": "a test" }))?.expect(200)?;
    create(&mut client, 2)?.expect(201)?;
    away(&tokens, &mut client)?;
    let node = {
        node.stop()?;
        launch.start(&home)?
    };
    let mut client = node.client(&home.agent("maker", &["tester"]));
    // This module does not find a token again that its process has seen go.
    create(&mut client, 3)?.expect(201)?;
    for number in [1, 2, 3] {
        verified(&mut client, number)?;
    }
    let set = node.anonymous().get("/jwks/default")?.expect(200)?;
    ensure!(set["keys"].as_array().is_some_and(|keys| keys.len() == 2), "two keys are expected: {set}");
    node.stop()?;

    let key_files = home.directory().join("data/keys");
    ensure!(!key_files.join("root.key").exists(), "the root key lies in the clear");
    ensure!(key_files.join("root.wrapped").exists(), "there is no wrapped root key");
    without_token(binary, &home)?;
    println!("softhsm: ok");
    Ok(true)
}

/// While the token is away nothing is signed, and nothing is left of the attempt.
fn away(tokens: &Path, client: &mut Client) -> Result<()> {
    let aside = tokens.with_extension("aside");
    fs::rename(tokens, &aside)?;
    let refused = create(client, 3)?;
    let listed = client.get("/artifacts")?.expect(200)?;
    fs::rename(&aside, tokens)?;
    ensure!(refused.status >= 500, "HTTP {}: {}", refused.status, String::from_utf8_lossy(&refused.body));
    let said = String::from_utf8_lossy(&refused.body).into_owned();
    ensure!(said.contains("nothing was signed") || said.contains("token"), "no clear error: {said}");
    ensure!(listed.as_array().map(Vec::len) == Some(2), "something was made by halves: {listed}");
    Ok(())
}

/// A node that cannot reach its token does not start, and says why.
fn without_token(binary: &Path, home: &Home) -> Result<()> {
    let output = Command::new(binary)
        .args(["up", "--home"])
        .arg(home.directory())
        .env("SOFTHSM2_CONF", "/nonexistent")
        .output()
        .context("running the node")?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success() && said.contains("[keys]"), "no clear error: {said}");
    Ok(())
}

fn keys(node: &Node) -> Result<Vec<Value>> {
    let keys = node.operator().get("/admin/keys?workspace=default")?.expect(200)?;
    Ok(keys.as_array().cloned().unwrap_or_default())
}

fn id(number: usize) -> String {
    format!("0197f3a2-5c1e-7d40-9a6b-{number:012x}")
}

fn create(client: &mut Client, number: usize) -> Result<countersign_testkit::Response> {
    let artifact = json!({
        "id": id(number), "type": "baseline_module", "version": 1, "workspaceId": "default",
        "createdAt": "2026-03-01T12:00:00Z",
        "jsonBody": { "name": format!("module {number}"), "module_version": "1", "controls": [{ "id": "AC-2", "statement": "Accounts are reviewed." }] },
    });
    client.post("/artifacts", &artifact)
}

fn verified(client: &mut Client, number: usize) -> Result<()> {
    let report = client.post(&format!("/artifacts/{}/verify", id(number)), &json!({}))?.expect(200)?;
    ensure!(report["valid"] == true, "artifact {number} does not hold: {report}");
    Ok(())
}
