//! Rules on texts: module documentation, panics on outside input, length of files, paths of one machine, links.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::manifests::{Workspace, collect};
use super::source::SourceFile;
use super::{Finding, relative};

const MAX_LINES: usize = 1_200;
/// Crates that read what strangers send. In them a panic is a way to stop the gate, so each `expect` is counted; the
/// number is how many were looked at and rest on something that the code itself established. `unwrap` is never right.
const PANICS: &[(&str, usize)] = &[
    ("countersign-server", 8),
    ("countersign-connect", 8),
    ("countersign-egress", 4),
    ("countersign-gate", 8),
    ("countersign-proof", 4),
    ("countersign-trust", 0),
    ("countersign-registry", 0),
];

/// Every breach of a rule on texts.
///
/// # Errors
/// If a file cannot be read.
pub fn check(workspace: &Workspace) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for package in &workspace.packages {
        if let Some((_, budget)) = PANICS.iter().find(|(name, _)| *name == package.name) {
            findings.extend(panics(&package.files, *budget));
        }
    }
    for file in workspace.files() {
        findings.extend(opening(file));
        findings.extend(length(file));
    }
    let mut documents = Vec::new();
    for extension in ["md", "rs", "toml", "yaml", "cedar", "sh", "py", "mjs"] {
        collect(&workspace.root, extension, &mut documents)?;
    }
    for path in documents {
        let text = fs::read_to_string(&path)?;
        let place = relative(&workspace.root, &path);
        findings.extend(machine_paths(&workspace.root, &place, &text));
        if path.extension().is_some_and(|e| e == "md") {
            findings.extend(links(&path, &place, &text));
        }
    }
    Ok(findings)
}

/// Every module opens by saying what lives there.
fn opening(file: &SourceFile) -> Option<Finding> {
    let first = file.text.lines().find(|l| !l.trim().is_empty() && !l.starts_with("#!"))?;
    let documented = first.starts_with("//!");
    (!documented).then(|| finding("module-docs", &file.path, 1, "open with `//!`: what lives here, what does not"))
}

fn length(file: &SourceFile) -> Option<Finding> {
    let lines = file.text.lines().count();
    (lines > MAX_LINES)
        .then(|| finding("file-length", &file.path, lines, &format!("more than {MAX_LINES} lines: split it")))
}

fn panics(files: &[SourceFile], budget: usize) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut expects = Vec::new();
    for file in files {
        for line in file.lines_with(".unwrap()") {
            findings.push(finding("panic", &file.path, line, "`unwrap` in a crate that reads what strangers send"));
        }
        expects.extend(file.lines_with(".expect(").into_iter().map(|line| (file, line)));
    }
    if expects.len() > budget {
        for (file, line) in &expects {
            let message = format!("`expect` ({} in this crate, {budget} reviewed)", expects.len());
            findings.push(finding("panic", &file.path, *line, &message));
        }
    }
    findings
}

/// A path that exists on one machine only has no place in a text for everyone.
fn machine_paths(root: &Path, place: &Path, text: &str) -> Vec<Finding> {
    let home = std::env::var("HOME").unwrap_or_default();
    let own = [root.display().to_string(), home].into_iter().filter(|p| p.len() > 3);
    let forbidden: Vec<String> = own.map(|p| format!("{p}/")).chain(["/home/", "/Users/"].map(str::to_owned)).collect();
    let mut findings = Vec::new();
    for (i, line) in text.lines().enumerate() {
        let hit = forbidden.iter().find(|path| line.contains(path.as_str()));
        if let Some(path) = hit.filter(|_| !place.starts_with("xtask/src/tidy")) {
            findings.push(finding("machine-path", place, i + 1, &format!("{path} exists on one machine only")));
        }
    }
    findings
}

/// Links between documents lead to files and headings that exist.
fn links(path: &Path, place: &Path, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (line, target) in link_targets(text) {
        let outside = target.contains("://") || target.starts_with("mailto:");
        if outside {
            continue;
        }
        let (file, anchor) = target.split_once('#').unwrap_or((&target, ""));
        let linked: PathBuf =
            if file.is_empty() { path.to_owned() } else { path.parent().unwrap_or(Path::new(".")).join(file) };
        if !linked.exists() {
            findings.push(finding("link", place, line, &format!("{target} leads nowhere")));
        } else if !anchor.is_empty() && linked.extension().is_some_and(|e| e == "md") {
            let there = fs::read_to_string(&linked).unwrap_or_default();
            if !anchors(&there).contains(anchor) {
                findings.push(finding("link", place, line, &format!("{target}: no such heading")));
            }
        }
    }
    findings
}

/// Targets of `[text](target)` outside of code.
fn link_targets(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut fenced = false;
    for (i, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        // Every second piece between back-ticks is code.
        let prose: String = line.split('`').step_by(2).collect::<Vec<_>>().join("·");
        for (at, _) in prose.match_indices("](") {
            let target = prose[at + 2..].split([')', ' ']).next().unwrap_or_default();
            if !target.is_empty() {
                found.push((i + 1, target.to_owned()));
            }
        }
    }
    found
}

/// The anchors that common renderers give to headings.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|l| l.starts_with('#'));
    let slug = |heading: &str| -> String {
        let kept = heading.trim_start_matches('#').trim().chars().filter_map(|c| match c {
            ' ' => Some('-'),
            '-' | '_' => Some(c),
            c if c.is_alphanumeric() => Some(c.to_ascii_lowercase()),
            _ => None,
        });
        kept.collect()
    };
    headings.map(slug).collect()
}

fn finding(rule: &'static str, path: &Path, line: usize, message: &str) -> Finding {
    Finding { rule, place: format!("{}:{line}", path.display()), message: message.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_in_prose_are_found_and_those_in_code_are_not() {
        let text = "See [a](b.md#two-words) and `[x](y)`.\n```\n[c](d.md)\n```\n[e](#here)\n";
        let found: Vec<_> = link_targets(text).into_iter().map(|(_, t)| t).collect();
        assert_eq!(found, ["b.md#two-words", "#here"]);
        assert!(anchors("## Two words!\n").contains("two-words"));
    }

    #[test]
    fn an_expect_beyond_the_budget_is_found() {
        let file = |text: &str| SourceFile::new("x.rs".into(), text.to_owned());
        let one = [file("fn f() { a.expect(\"so\"); }")];
        assert_eq!(panics(&one, 1), vec![]);
        assert_eq!(panics(&one, 0).len(), 1);
        assert_eq!(panics(&[file("fn f() { a.unwrap(); }")], 9).len(), 1);
        assert_eq!(panics(&[file("#[cfg(test)]\nmod t { fn f() { a.unwrap(); } }")], 0), vec![]);
    }
}
