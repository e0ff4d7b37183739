//! `litewitness`, a C2SP witness that is not ours, cosigns a node's checkpoints.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use countersign_testkit::node::{Launch, output_file};
use countersign_testkit::{Home, Node};
use serde_json::Value;

use crate::paths;
use crate::witness::{call, configure, log_key, verify};

/// What is installed: the newest version that Go 1.26 builds.
const LITEWITNESS: &str = "filippo.io/torchwood/cmd/litewitness@v0.9.0";
/// Makes a log known to litewitness. Its own `witnessctl` does the same, and needs modules of another project to be built.
const REGISTER: &str = "\
import base64, hashlib, sqlite3, sys
_, database, origin, key = sys.argv
with sqlite3.connect(database, timeout=10) as db:
    empty = base64.b64encode(hashlib.sha256(b'').digest()).decode()
    db.execute('INSERT INTO log (origin, tree_size, tree_hash) VALUES (?, 0, ?)', (origin, empty))
    db.execute('INSERT INTO key (origin, key) VALUES (?, ?)', (origin, key))
";
const NAME: &str = "litewitness.example/w1";
const PATIENCE: Duration = Duration::from_secs(30);

/// A child process that ends with this.
pub(super) struct Running(pub(super) Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Installs a Go program; quick if it is there already.
pub(super) fn install(go: &Path, package: &str) -> Result<PathBuf> {
    let directory = paths::target().join("foreign");
    let name = package.rsplit('/').next().and_then(|last| last.split('@').next()).unwrap_or(package);
    let program = directory.join(name);
    if !program.exists() {
        let status = Command::new(go)
            .args(["install", package])
            .env("GOBIN", &directory)
            .env("GOFLAGS", "-mod=mod -p=1")
            .status()
            .context("running go")?;
        ensure!(status.success(), "go install {package}: {status}");
    }
    Ok(program)
}

/// A witness that is not ours cosigns a node's log, and a receipt shows it.
///
/// # Errors
/// If the test itself cannot be run.
pub(super) fn run(binary: &Path, go: &Path) -> Result<bool> {
    let witness = install(go, LITEWITNESS)?;
    let directory = paths::run_directory("foreign")?;
    let home = Home::create(&directory.join("home"), "log_domain = \"node.example\"\n[trust]\nenabled = true\n")?;
    home.access("all", "permit (principal, action, resource);\n")?;
    let node = Launch::new(binary).start(&home)?;
    let log = log_key(&node)?;
    node.stop()?;

    let (_agent, socket, fingerprint) = agent(&directory)?;
    let database = directory.join("litewitness.db");
    let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
    let output = directory.join("litewitness.log");
    let _witness = Running(
        Command::new(&witness)
            .args(["-name", NAME, "-listen", &address.to_string(), "-key", &fingerprint])
            .arg("-db")
            .arg(&database)
            .arg("-ssh-agent")
            .arg(&socket)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(output_file(&output)?)
            .spawn()
            .context("starting litewitness")?,
    );
    let key = witness_key(&output)?;
    let origin = log.split('+').next().unwrap_or_default();
    succeeds(Command::new("python3").args(["-c", REGISTER]).arg(&database).args([origin, &log]))?;
    wait_for("litewitness", || TcpStream::connect(address).is_ok())?;
    configure(&home, &format!("[[witnesses]]\nurl = \"http://{address}\"\nvkey = \"{key}\"\n"))?;
    let node = Launch::new(binary).start(&home)?;
    let mut ok = true;
    // Growing in between: the second proof is from where the witness stands.
    for n in 1..=3 {
        ok &= is_cosigned(binary, &directory.join(format!("receipt-{n}.json")), &node, &log, &key)?;
    }
    if !ok {
        let status: Value = node.operator().get("/admin/witness")?.expect(200)?;
        println!("litewitness: {status}\n{}", fs::read_to_string(&output)?);
    }
    node.stop()?;
    fs::remove_file(&socket)?;
    Ok(ok)
}

/// Whether a call's receipt comes to verify with the witness's key.
fn is_cosigned(binary: &Path, file: &Path, node: &Node, log: &str, key: &str) -> Result<bool> {
    let receipt = call(node)?;
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        fs::write(file, node.operator().get(&format!("/receipts/{receipt}"))?.body)?;
        if verify(binary, file, log, &[key], "1")? == Some(0) {
            return Ok(true);
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(false)
}

/// An agent of our own with a fresh key, since the witness signs through one: its process, its socket, the key's fingerprint.
fn agent(directory: &Path) -> Result<(Running, PathBuf, String)> {
    let key = directory.join("witness_key");
    succeeds(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", NAME, "-f"]).arg(&key))?;
    let listing = Command::new("ssh-keygen").args(["-l", "-E", "sha256", "-f"]).arg(&key).output()?;
    let listing = String::from_utf8(listing.stdout)?;
    let fingerprint = listing.split_whitespace().find(|word| word.starts_with("SHA256:")).context("a fingerprint")?;
    // A socket's path has at most 107 bytes.
    let socket = std::env::temp_dir().join(format!("countersign-{}.sock", std::process::id()));
    let _ = fs::remove_file(&socket);
    let child = Command::new("ssh-agent").arg("-D").arg("-a").arg(&socket).stdout(Stdio::null()).spawn();
    let agent = Running(child.context("starting ssh-agent")?);
    wait_for("ssh-agent", || socket.exists())?;
    succeeds(Command::new("ssh-add").arg("-q").arg(&key).env("SSH_AUTH_SOCK", &socket))?;
    Ok((agent, socket, fingerprint.to_owned()))
}

/// The key that the witness says at its start.
fn witness_key(output: &Path) -> Result<String> {
    let mut key = None;
    wait_for("litewitness's key", || {
        let text = fs::read_to_string(output).unwrap_or_default();
        let words = text.split_whitespace().map(|word| word.trim_start_matches("vkey=").trim_matches('"'));
        key = words.filter(|word| word.starts_with(NAME) && word.matches('+').count() >= 2).map(str::to_owned).next();
        key.is_some()
    })
    .with_context(|| fs::read_to_string(output).unwrap_or_default())?;
    key.context("no key")
}

pub(super) fn wait_for(what: &str, mut ready: impl FnMut() -> bool) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while !ready() {
        ensure!(Instant::now() < end, "{what} did not come up");
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

pub(super) fn succeeds(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("running {command:?}"))?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}
