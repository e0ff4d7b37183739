//! Where things are: the workspace, the build, the peers, and the directories in which runs leave their traces.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// The workspace's root.
pub fn root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    root.canonicalize().unwrap_or(root)
}

/// The build directory of cargo.
pub fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(directory) => root().join(directory),
        None => root().join("target"),
    }
}

/// Where other people's servers and clients are installed.
pub fn peers() -> PathBuf {
    root().join("target/peers")
}

/// The directory of one run, fresh.
///
/// # Errors
/// If it cannot be made.
pub fn run_directory(name: &str) -> Result<PathBuf> {
    let directory = root().join("target/acceptance").join(name);
    if directory.exists() {
        std::fs::remove_dir_all(&directory).with_context(|| format!("emptying {}", directory.display()))?;
    }
    std::fs::create_dir_all(&directory)?;
    Ok(directory)
}

/// The product's binary in the release profile, built now; `--binary` names another one.
///
/// # Errors
/// If it does not build.
pub fn product(binary: Option<&str>) -> Result<PathBuf> {
    if let Some(binary) = binary {
        return Path::new(binary).canonicalize().with_context(|| format!("no such binary: {binary}"));
    }
    build(&["build", "--release", "--quiet", "--package", "countersign"])?;
    Ok(target().join("release/countersign"))
}

/// Runs cargo in the workspace.
///
/// # Errors
/// If cargo reports one.
pub fn build(arguments: &[&str]) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo).current_dir(root()).args(arguments).status().context("running cargo")?;
    ensure!(status.success(), "cargo {}: {status}", arguments.join(" "));
    Ok(())
}
