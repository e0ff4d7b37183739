//! `cargo xtask power-cut`: the crash test on a layer that forgets what was not synced.
//!
//! A killed process keeps the page cache, so `kill -9` never shows a missing sync. The layer of `crates/testkit/forgetful` lies
//! beneath the unmodified binary; after each kill the node's files go back to their last sync. The upstream and the clients
//! are other machines, which keep their power.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::crash::{self, Plan, Power};
use crate::paths;

/// Runs a crash plan with power cuts.
///
/// # Errors
/// If the layer cannot be built or the test cannot be run.
pub fn run(binary: &Path, mut plan: Plan) -> Result<bool> {
    let tools = paths::target().join("forgetful");
    std::fs::create_dir_all(&tools)?;
    let source = paths::root().join("crates/testkit/forgetful/forgetful.c");
    let (layer, rollback) = (tools.join("forgetful.so"), tools.join("forgetful-rollback"));
    compile(&["-O2", "-shared", "-fPIC"], &source, &layer, &["-ldl", "-lpthread"])?;
    compile(&["-O2", "-DROLLBACK"], &source, &rollback, &[])?;

    let run = paths::root().join("target/acceptance");
    let (durable, shadow) = (run.join(plan.name).join("home/durable"), run.join(format!("{}-shadow", plan.name)));
    if shadow.exists() {
        std::fs::remove_dir_all(&shadow)?;
    }
    let variable = |name: &str, path: &Path| (name.to_owned(), path.display().to_string());
    let environment = vec![
        variable("LD_PRELOAD", &layer),
        variable("FORGETFUL_DIR", &durable),
        variable("FORGETFUL_SHADOW", &shadow),
    ];
    let forget = Box::new(move || {
        let output = Command::new(&rollback).arg(&durable).arg(&shadow).output().context("the rollback")?;
        let text = [output.stdout.as_slice(), &output.stderr].concat();
        let text = String::from_utf8_lossy(&text).trim().to_owned();
        ensure!(output.status.success(), "the rollback: {text}");
        Ok(if text.is_empty() { "back to the last sync".to_owned() } else { text })
    });
    plan.power = Some(Power { environment, forget });
    crash::run(binary, &plan)
}

fn compile(flags: &[&str], source: &Path, to: &Path, libraries: &[&str]) -> Result<()> {
    let output =
        Command::new("cc").args(flags).arg("-o").arg(to).arg(source).args(libraries).output().context("running cc")?;
    ensure!(output.status.success(), "cc {}: {}", source.display(), String::from_utf8_lossy(&output.stderr));
    Ok(())
}
