//! `cargo xtask tidy`: the rules of the house that the compiler does not check.
//!
//! Walls between crates (from `cargo metadata` and from imports), documentation of modules, panics on outside input, the
//! length of files, links in documents, licences. It reads; it never builds and never changes a file.

mod manifests;
mod source;
mod text;
mod walls;

#[cfg(test)]
mod tests;

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::Result;

pub use manifests::Workspace;
pub use source::SourceFile;

/// One breach of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The rule's stable name.
    pub rule: &'static str,
    /// Where, relative to the workspace.
    pub place: String,
    /// What, and what to do about it.
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.place, self.rule, self.message)
    }
}

/// Checks the workspace at `root` and prints what it finds.
///
/// # Errors
/// If the workspace cannot be read. Findings are not an error; their number is the answer.
pub fn run(root: &Path) -> Result<usize> {
    let workspace = Workspace::read(root)?;
    let mut findings = walls::check(&workspace);
    findings.extend(text::check(&workspace)?);
    findings.extend(manifests::licences(root)?);
    for finding in &findings {
        println!("{finding}");
    }
    let files = workspace.files().count();
    println!("tidy: {} crates, {files} source files, {} findings", workspace.packages.len(), findings.len());
    Ok(findings.len())
}

fn relative(root: &Path, path: &Path) -> PathBuf {
    path.strip_prefix(root).unwrap_or(path).to_owned()
}
