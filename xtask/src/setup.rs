//! Installs what the acceptance programs need and this machine lacks: Debian packages, npm and PyPI packages at the versions
//! that are checked in under `xtask/peers`. Everything but Debian packages goes to `target/peers`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::paths;

/// What tells that a Postgres server is installed.
pub const INITDB: &str = "initdb";
/// A program that must be there, and the Debian package that brings it.
const PROGRAMS: &[(&str, &str)] = &[
    ("strace", "strace"),
    ("nginx", "nginx-light"),
    ("git", "git"),
    ("curl", "curl"),
    ("python3", "python3"),
    ("node", "nodejs"),
    ("npm", "npm"),
    ("redis-server", "redis-server"),
    // Brings the module too, which the tests of crates/keys load.
    ("softhsm2-util", "softhsm2"),
    ("docker-registry", "docker-registry"),
    // A server's program: Debian keeps those out of PATH, and a client alone is not enough.
    (INITDB, "postgresql"),
];
/// The npm clients and the conformance suite need this much.
const NODE_MAJOR: u32 = 22;

/// Installs everything; quick if it is there already.
///
/// # Errors
/// If something cannot be installed.
pub fn everything() -> Result<()> {
    debian(PROGRAMS)?;
    npm()?;
    python()?;
    stand_ins()?;
    verifiers()
}

/// Where other people's verifiers of signatures are.
pub fn verifiers_directory() -> PathBuf {
    paths::target().join("verifiers")
}

/// Installs other people's verifiers of signatures, at the versions that are checked in under `xtask/verifiers`. They have places of
/// their own, since their dependencies and the peers' need not agree.
///
/// # Errors
/// If something cannot be installed.
pub fn verifiers() -> Result<()> {
    programs(&["node", "npm", "python3"])?;
    // Brings a Node.js that is new enough.
    npm()?;
    let (to, from) = (verifiers_directory(), paths::root().join("xtask/verifiers"));
    npm_packages(&to, &from)?;
    python_packages(&to, &from)
}

/// Where other people's implementations of services are.
pub fn stand_ins_directory() -> PathBuf {
    paths::target().join("stand-ins")
}

/// Installs other people's implementations of services, at the versions that are checked in under `xtask/stand-ins`.
///
/// # Errors
/// If something cannot be installed.
pub fn stand_ins() -> Result<()> {
    programs(&["python3"])?;
    python_packages(&stand_ins_directory(), &paths::root().join("xtask/stand-ins"))
}

/// Installs Node.js and the npm packages alone.
///
/// # Errors
/// If something cannot be installed.
pub fn node() -> Result<()> {
    programs(&["node", "npm"])?;
    npm()
}

/// Installs the Debian packages of the programs that are missing.
///
/// # Errors
/// If apt fails.
pub fn programs(names: &[&str]) -> Result<()> {
    let wanted: Vec<_> = PROGRAMS.iter().copied().filter(|(program, _)| names.contains(program)).collect();
    debian(&wanted)
}

/// The Python interpreter that has the peers' packages.
pub fn python_path() -> PathBuf {
    paths::peers().join("venv/bin/python")
}

/// A program of the peers' Python packages.
pub fn python_program(name: &str) -> PathBuf {
    paths::peers().join("venv/bin").join(name)
}

/// The Node.js interpreter: the system's if it is new enough, else npm's.
pub fn node_path() -> PathBuf {
    let own = paths::peers().join("node/node_modules/node/bin/node");
    if own.exists() { own } else { find("node").unwrap_or_else(|| "node".into()) }
}

fn debian(programs: &[(&str, &str)]) -> Result<()> {
    let mut missing: Vec<&str> = programs.iter().filter(|(program, _)| !is_there(program)).map(|(_, p)| *p).collect();
    let has_venv = || quiet(Command::new("python3").args(["-c", "import ensurepip, venv"]));
    if programs.iter().any(|(program, _)| *program == "python3") && !has_venv() {
        missing.push("python3-venv");
    }
    if missing.is_empty() {
        return Ok(());
    }
    println!("installing Debian packages: {}", missing.join(" "));
    // nginx must not start as a service: the acceptance programs start their own.
    let install = |arguments: &[&str]| -> Result<()> {
        let mut command = as_root("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").env("RUNLEVEL", "1").arg("-y").arg("-qq").args(arguments);
        let output = command.output().context("running apt-get")?;
        ensure!(
            output.status.success(),
            "apt-get {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    };
    install(&["update"])?;
    install(&[&["install", "--no-install-recommends"], missing.as_slice()].concat())
}

fn is_there(program: &str) -> bool {
    if program == INITDB { countersign_testkit::postgres::binary(INITDB).is_ok() } else { find(program).is_some() }
}

fn as_root(program: &str) -> Command {
    if nix::unistd::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.args(["--non-interactive", "--preserve-env=DEBIAN_FRONTEND,RUNLEVEL", program]);
    command
}

/// Installs the npm packages, and a newer Node.js if the system's is too old for them.
///
/// # Errors
/// If npm fails.
pub fn npm() -> Result<()> {
    let to = paths::peers();
    let from = paths::root().join("xtask/peers");
    if node_major().is_none_or(|major| major < NODE_MAJOR) && !to.join("node").exists() {
        fs::create_dir_all(to.join("node"))?;
        println!("installing Node.js by npm");
        run(Command::new("npm")
            .args(["install", "--silent", "--no-audit", "--no-fund", "node@22"])
            .current_dir(to.join("node")))?;
    }
    npm_packages(&to, &from)
}

fn npm_packages(to: &Path, from: &Path) -> Result<()> {
    if is_current(to, from, "package-lock.json")? {
        return Ok(());
    }
    fs::create_dir_all(to)?;
    fs::copy(from.join("package.json"), to.join("package.json"))?;
    fs::copy(from.join("package-lock.json"), to.join("package-lock.json"))?;
    println!("installing npm packages");
    run(Command::new("npm").args(["ci", "--silent", "--no-audit", "--no-fund"]).current_dir(to))?;
    mark(to, from, "package-lock.json")
}

/// Installs the PyPI packages.
///
/// # Errors
/// If pip fails.
pub fn python() -> Result<()> {
    python_packages(&paths::peers(), &paths::root().join("xtask/peers"))
}

fn python_packages(to: &Path, from: &Path) -> Result<()> {
    if is_current(to, from, "requirements.txt")? {
        return Ok(());
    }
    println!("installing PyPI packages");
    run(Command::new("python3").args(["-m", "venv"]).arg(to.join("venv")))?;
    let mut pip = Command::new(to.join("venv/bin/python"));
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"])
        .arg(from.join("requirements.txt"));
    run(&mut pip)?;
    mark(to, from, "requirements.txt")
}

/// An installation is current if it was made from exactly this list.
fn is_current(to: &Path, from: &Path, list: &str) -> Result<bool> {
    let wanted = fs::read(from.join(list)).with_context(|| format!("reading {list}"))?;
    Ok(fs::read(to.join(format!("{list}.installed"))).is_ok_and(|done| done == wanted))
}

fn mark(to: &Path, from: &Path, list: &str) -> Result<()> {
    fs::copy(from.join(list), to.join(format!("{list}.installed")))?;
    Ok(())
}

fn node_major() -> Option<u32> {
    let output = Command::new("node").arg("--version").output().ok()?;
    String::from_utf8(output.stdout).ok()?.trim().strip_prefix('v')?.split('.').next()?.parse().ok()
}

/// Looks a program up in PATH and where Debian keeps those of administrators.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders.map(|folder| folder.join(program)).find(|candidate| candidate.is_file())
}

fn quiet(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("running {command:?}"))?;
    let text = || [output.stdout.as_slice(), &output.stderr].concat();
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&text()));
    Ok(())
}
