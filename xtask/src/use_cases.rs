//! `cargo xtask use-cases`: the pages of `docs/use-cases` and `docs/editors`, executed like the walkthrough. A page counts if all of its
//! steps are as it says.

use std::path::Path;

use anyhow::{Result, ensure};

use crate::walkthrough;

const USE_CASES: &[&str] = &[
    "1-verify-internal-dependency",
    "2-sign-release",
    "3-validate-scan-provenance",
    "4-compliance-evidence",
    "5-publish-verified-release",
    "6-verify-external-dependency",
    "7-detect-anomalies",
    "8-shared-verification",
];
const EDITORS: &[&str] = &["vscode", "cursor", "zed", "claude-code", "claude-desktop", "troubleshooting"];

/// Runs every page, or those whose path has a text in it; the answer is whether all of them held.
///
/// # Errors
/// If there is no such page, a page cannot be read, or bash cannot be run.
pub fn run(binary: &Path, only: Option<&str>) -> Result<bool> {
    let mut all = true;
    let mut found = false;
    for (directory, names) in [("editors", EDITORS), ("use-cases", USE_CASES)] {
        let paths = names.iter().map(|name| format!("docs/{directory}/{name}.md"));
        let paths: Vec<String> = paths.filter(|path| only.is_none_or(|text| path.contains(text))).collect();
        if !paths.is_empty() {
            found = true;
            all &= pages(binary, directory, &paths)?;
        }
    }
    ensure!(found, "no page has {:?} in its path", only.unwrap_or_default());
    Ok(all)
}

fn pages(binary: &Path, directory: &str, paths: &[String]) -> Result<bool> {
    let mut held = 0;
    for path in paths {
        let name = path.trim_start_matches("docs/").trim_end_matches(".md").replace('/', "-");
        held += usize::from(walkthrough::document(binary, path, &name)?);
    }
    println!("{directory}: {held}/{}", paths.len());
    Ok(held == paths.len())
}
