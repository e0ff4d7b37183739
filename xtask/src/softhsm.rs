//! `cargo xtask softhsm`: a node whose signing keys and root key are on a PKCS#11 token, SoftHSM's: it signs, rotates, restarts and verifies, and
//! while the token is away it says so and makes nothing by halves. What holds for every keeper of keys is used by `kms` too.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use countersign_testkit::node::Launch;
use countersign_testkit::{Client, Home, Node, Response};
use serde_json::{Value, json};

use crate::{paths, s3, setup};

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
    two_keys(&node, "pkcs11")?;
    let aside = tokens.with_extension("aside");
    let refused = away(&node, 3, || Ok(fs::rename(&tokens, &aside)?), || Ok(fs::rename(&aside, &tokens)?))?;
    let said = words(&refused);
    ensure!(said.contains("nothing was signed") || said.contains("token"), "no clear error: {said}");
    node.stop()?;
    let node = launch.start(&home)?;
    // This module does not find a token again that its process has seen go.
    create(&mut maker(&node), 3)?.expect(201)?;
    all_hold(&node, 3)?;
    node.stop()?;
    root_is_wrapped(&home)?;
    let said = without(binary, &home, &[("SOFTHSM2_CONF".to_owned(), "/nonexistent".to_owned())])?;
    ensure!(said.contains("[keys]"), "no clear error: {said}");
    println!("softhsm: ok");
    Ok(true)
}

/// Signs artifact 1 with the first key and artifact 2 with the next; the keeper has both.
///
/// # Errors
/// If something does not hold.
pub fn two_keys(node: &Node, keeper: &str) -> Result<()> {
    let mut client = maker(node);
    create(&mut client, 1)?.expect(201)?;
    verified(&mut client, 1)?;
    node.operator().post("/admin/keys/rotate", &json!({ "reason": "a test" }))?.expect(200)?;
    create(&mut client, 2)?.expect(201)?;
    let kept = keys(node)?;
    let by_keeper = kept.iter().all(|key| key["kept_by"] == keeper);
    ensure!(kept.len() == 2 && by_keeper, "two keys that {keeper} keeps are expected: {kept:?}");
    Ok(())
}

/// While the keeper is away nothing is signed, nothing is left of the attempt, and what was signed before holds. The answer is what the maker of
/// an artifact is told, whose number is the first that is free.
///
/// # Errors
/// If something does not hold.
pub fn away(
    node: &Node,
    number: usize,
    leave: impl FnOnce() -> Result<()>,
    back: impl FnOnce() -> Result<()>,
) -> Result<Response> {
    let mut client = maker(node);
    leave()?;
    let refused = create(&mut client, number);
    let nothing = nothing_new(node, number - 1);
    back()?;
    let refused = refused?;
    nothing?;
    let is_problem = refused.header("content-type") == Some("application/problem+json");
    ensure!(refused.status >= 500 && is_problem, "HTTP {}: {}", refused.status, words(&refused));
    Ok(refused)
}

/// There are this many artifacts, and the scrub finds nothing.
///
/// # Errors
/// If it is otherwise.
pub fn nothing_new(node: &Node, known: usize) -> Result<()> {
    let listed = maker(node).get("/artifacts")?.expect(200)?;
    ensure!(listed.as_array().map(Vec::len) == Some(known), "something was made by halves: {listed}");
    let scrubbed = node.operator().post("/admin/artifacts/scrub", &json!({}))?.expect(200)?;
    let clean = scrubbed["checked"] == known && scrubbed["intact"] == known;
    ensure!(clean, "the scrub finds something: {scrubbed}");
    Ok(())
}

/// Artifacts from 1 to `last` hold, and the key set, which is the answer, has both keys.
///
/// # Errors
/// If it is otherwise.
pub fn all_hold(node: &Node, last: usize) -> Result<Value> {
    let mut client = maker(node);
    for number in 1..=last {
        verified(&mut client, number)?;
    }
    nothing_new(node, last)?;
    let set = node.anonymous().get("/jwks/default")?.expect(200)?;
    ensure!(set["keys"].as_array().is_some_and(|keys| keys.len() == 2), "two keys are expected: {set}");
    Ok(set)
}

/// The root key lies wrapped, and not in the clear.
///
/// # Errors
/// If it is otherwise.
pub fn root_is_wrapped(home: &Home) -> Result<()> {
    let key_files = home.directory().join("data/keys");
    ensure!(!key_files.join("root.key").exists(), "the root key lies in the clear");
    ensure!(key_files.join("root.wrapped").exists(), "there is no wrapped root key");
    Ok(())
}

/// A node that cannot reach its keeper does not start; what it says is the answer.
///
/// # Errors
/// If it starts.
pub fn without(binary: &Path, home: &Home, environment: &[(String, String)]) -> Result<String> {
    let mut command = Command::new(binary);
    command.args(["up", "--home"]).arg(home.directory()).envs(environment.iter().cloned());
    let (ended, said) = s3::refused(&mut command, home)?;
    ensure!(ended, "the node started without the keeper of its keys: {said}");
    Ok(said)
}

/// Who makes artifacts.
pub fn maker(node: &Node) -> Client {
    node.client(&node.home().agent("maker", &["tester"]))
}

/// The signing keys, as an operator sees them.
///
/// # Errors
/// If they cannot be had.
pub fn keys(node: &Node) -> Result<Vec<Value>> {
    let keys = node.operator().get("/admin/keys?workspace=default")?.expect(200)?;
    Ok(keys.as_array().cloned().unwrap_or_default())
}

/// Asks for an artifact of this number.
///
/// # Errors
/// If the node does not answer.
pub fn create(client: &mut Client, number: usize) -> Result<Response> {
    let artifact = json!({
        "id": id(number), "type": "baseline_module", "version": 1, "workspaceId": "default",
        "createdAt": "2026-03-01T12:00:00Z",
        "jsonBody": { "name": format!("module {number}"), "module_version": "1", "controls": [{ "id": "AC-2", "statement": "Accounts are reviewed." }] },
    });
    client.post("/artifacts", &artifact)
}

/// What a response says.
pub fn words(response: &Response) -> String {
    String::from_utf8_lossy(&response.body).into_owned()
}

fn id(number: usize) -> String {
    format!("0197f3a2-5c1e-7d40-9a6b-{number:012x}")
}

/// The node verifies the artifact of this number.
///
/// # Errors
/// If it does not hold.
pub fn verified(client: &mut Client, number: usize) -> Result<()> {
    let report = client.post(&format!("/artifacts/{}/verify", id(number)), &json!({}))?.expect(200)?;
    ensure!(report["valid"] == true, "artifact {number} does not hold: {report}");
    Ok(())
}
