//! `cargo xtask foreign`: programs of others that need a Go toolchain to be built, unmodified, against a running node.
//!
//! It is not part of `cargo xtask test`, since building them takes minutes and not everybody has Go.

mod cosign;
mod litewitness;
mod rekor;

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::setup;

/// Runs all of them.
///
/// # Errors
/// If a test itself cannot be run.
pub fn run(binary: &Path) -> Result<bool> {
    let usual = || Some(PathBuf::from("/usr/local/go/bin/go")).filter(|path| path.is_file());
    let Some(go) = setup::find("go").or_else(usual) else {
        println!(
            "foreign: Go is missing, and without it nothing here can be built: install it (https://go.dev/dl/) and run this again"
        );
        return Ok(false);
    };
    let (cosign, litewitness) = (cosign::run(binary, &go)?, litewitness::run(binary, &go)?);
    let rekor = rekor::run(binary, &go)?;
    let word = |ok: bool| if ok { "ok" } else { "FAILED" };
    println!("foreign: cosign {}, litewitness {}, rekor-tiles {}", word(cosign), word(litewitness), word(rekor));
    Ok(cosign && litewitness && rekor)
}
