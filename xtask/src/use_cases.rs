//! `cargo xtask use-cases`: the pages of `docs/use-cases` and `docs/editors`, executed like the walkthrough. A page counts if all of its
//! steps are as it says.

use std::path::Path;

use anyhow::Result;

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
const EDITORS: &[&str] = &["vscode", "cursor", "zed", "claude-code", "claude-desktop"];

/// Runs every page; the answer is whether all of them held.
///
/// # Errors
/// If a page cannot be read, or bash cannot be run.
pub fn run(binary: &Path, only: Option<&str>) -> Result<bool> {
    let editors = pages(binary, "editors", EDITORS, only)?;
    let use_cases = pages(binary, "use-cases", USE_CASES, only)?;
    Ok(editors && use_cases)
}

fn pages(binary: &Path, directory: &str, names: &[&str], only: Option<&str>) -> Result<bool> {
    let names: Vec<&&str> = names.iter().filter(|name| only.is_none_or(|text| name.contains(text))).collect();
    let mut held = 0;
    for name in &names {
        let page = format!("docs/{directory}/{name}.md");
        held += usize::from(walkthrough::document(binary, &page, &format!("{directory}-{name}"))?);
    }
    println!("{directory}: {held}/{}", names.len());
    Ok(held == names.len())
}
