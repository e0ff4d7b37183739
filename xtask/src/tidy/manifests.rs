//! The workspace as `cargo metadata` and the directories tell it, and the licences of what it is built from.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{Finding, SourceFile, relative};

/// Licences that code of ours may be linked with. All are permissive, or weak copyleft on single files.
const LICENCES: &[&str] = &[
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "MIT",
    "MIT-0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "0BSD",
    "Unlicense",
    "CC0-1.0",
    "Unicode-3.0",
    "Unicode-DFS-2016",
    "BSL-1.0",
    "CDLA-Permissive-2.0",
    "MPL-2.0",
    "OpenSSL",
];

/// A member of the workspace.
#[derive(Debug)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its folder, relative to the workspace.
    pub folder: PathBuf,
    /// What it depends on.
    pub dependencies: Vec<Dependency>,
    /// The sources under `src`.
    pub files: Vec<SourceFile>,
}

/// One line of a manifest.
#[derive(Debug)]
pub struct Dependency {
    /// The package's name.
    pub name: String,
    /// Whether only tests, examples and benches get it.
    pub dev: bool,
    /// The features that are asked for.
    pub features: Vec<String>,
}

/// The workspace.
#[derive(Debug)]
pub struct Workspace {
    /// Where it is.
    pub root: PathBuf,
    /// Its members.
    pub packages: Vec<Package>,
}

impl Workspace {
    /// Reads manifests and sources.
    ///
    /// # Errors
    /// If cargo cannot read the manifests, or a file cannot be read.
    pub fn read(root: &Path) -> Result<Self> {
        let root = root.canonicalize()?;
        let metadata = metadata(&root, &["--no-deps", "--offline"])?;
        let list = metadata["packages"].as_array().context("cargo metadata names no packages")?;
        let mut packages = list.iter().map(|p| Package::read(&root, p)).collect::<Result<Vec<_>>>()?;
        packages.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Self { root, packages })
    }

    /// Every source file under a `src` folder.
    pub fn files(&self) -> impl Iterator<Item = &SourceFile> {
        self.packages.iter().flat_map(|p| &p.files)
    }
}

impl Package {
    fn read(root: &Path, value: &Value) -> Result<Self> {
        let manifest = Path::new(value["manifest_path"].as_str().context("a package without a manifest")?);
        let folder = manifest.parent().context("a manifest without a folder")?;
        let mut paths = Vec::new();
        collect(&folder.join("src"), "rs", &mut paths)?;
        paths.sort();
        let read = |path: &PathBuf| -> Result<SourceFile> {
            Ok(SourceFile::new(relative(root, path), fs::read_to_string(path)?))
        };
        Ok(Self {
            name: value["name"].as_str().unwrap_or_default().to_owned(),
            folder: relative(root, folder),
            dependencies: value["dependencies"].as_array().into_iter().flatten().map(Dependency::read).collect(),
            files: paths.iter().map(read).collect::<Result<_>>()?,
        })
    }

    /// The dependencies of the product itself, without those of tests.
    pub fn product_dependencies(&self) -> impl Iterator<Item = &Dependency> {
        self.dependencies.iter().filter(|d| !d.dev)
    }
}

impl Dependency {
    fn read(value: &Value) -> Self {
        let features = value["features"].as_array().into_iter().flatten();
        Self {
            name: value["name"].as_str().unwrap_or_default().to_owned(),
            dev: value["kind"].as_str() == Some("dev"),
            features: features.filter_map(|f| f.as_str().map(str::to_owned)).collect(),
        }
    }
}

/// Files under a folder with an extension; build output, hidden folders and other people's modules are left out.
///
/// # Errors
/// If a folder cannot be read. A folder that is not there holds no files.
pub fn collect(folder: &Path, extension: &str, found: &mut Vec<PathBuf>) -> Result<()> {
    if !folder.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && !name.starts_with('.') && name != "target" && name != "node_modules" {
            collect(&path, extension, found)?;
        } else if path.extension().is_some_and(|e| e == extension) {
            found.push(path);
        }
    }
    Ok(())
}

/// Checks every package of the lock file that can end up in a binary: its licence is known, and it comes from the registry
/// or from this workspace. Advisories need a network and are `cargo deny`'s part.
///
/// # Errors
/// If cargo cannot resolve the lock file.
pub fn licences(root: &Path) -> Result<Vec<Finding>> {
    let metadata = metadata(root, &["--locked"])?;
    let packages = metadata["packages"].as_array().context("cargo metadata names no packages")?;
    let mut findings = Vec::new();
    for package in packages {
        let name = format!(
            "{} {}",
            package["name"].as_str().unwrap_or_default(),
            package["version"].as_str().unwrap_or_default()
        );
        let licence = package["license"].as_str().unwrap_or_default();
        if !is_allowed(licence) {
            let message =
                format!("licence {licence:?} is not on the list in xtask/src/tidy/manifests.rs and deny.toml");
            findings.push(Finding { rule: "licence", place: name.clone(), message });
        }
        if package["source"].as_str().is_some_and(|s| !s.starts_with("registry+")) {
            let message = "comes neither from the registry nor from this workspace".to_owned();
            findings.push(Finding { rule: "source", place: name, message });
        }
    }
    Ok(findings)
}

/// Whether an SPDX expression (`A OR (B AND C)`, also the old `A/B`) can be met by the list.
fn is_allowed(expression: &str) -> bool {
    let allowed: BTreeSet<_> = LICENCES.iter().copied().collect();
    let text = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ").replace(" WITH ", "~");
    let tokens: Vec<&str> = text.split_whitespace().collect();
    let (met, rest) = any_of(&tokens, &allowed);
    met && rest.is_empty()
}

fn any_of<'a>(tokens: &'a [&'a str], allowed: &BTreeSet<&str>) -> (bool, &'a [&'a str]) {
    let (mut met, mut rest) = all_of(tokens, allowed);
    while let ["OR", more @ ..] = rest {
        let next = all_of(more, allowed);
        (met, rest) = (met | next.0, next.1);
    }
    (met, rest)
}

fn all_of<'a>(tokens: &'a [&'a str], allowed: &BTreeSet<&str>) -> (bool, &'a [&'a str]) {
    let (mut met, mut rest) = one(tokens, allowed);
    while let ["AND", more @ ..] = rest {
        let next = one(more, allowed);
        (met, rest) = (met & next.0, next.1);
    }
    (met, rest)
}

fn one<'a>(tokens: &'a [&'a str], allowed: &BTreeSet<&str>) -> (bool, &'a [&'a str]) {
    match tokens {
        ["(", inner @ ..] => match any_of(inner, allowed) {
            (met, [")", rest @ ..]) => (met, rest),
            (_, rest) => (false, rest),
        },
        [name, rest @ ..] => (allowed.contains(name.replace('~', " WITH ").as_str()), rest),
        [] => (false, tokens),
    }
}

fn metadata(root: &Path, arguments: &[&str]) -> Result<Value> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root).args(["metadata", "--format-version", "1"]).args(arguments);
    let output = command.output().context("running cargo metadata")?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

#[cfg(test)]
mod tests {
    use super::is_allowed;

    #[test]
    fn licence_expressions_are_met_or_not() {
        for (expression, expected) in [
            ("MIT", true),
            ("MIT OR Apache-2.0", true),
            ("GPL-3.0 OR MIT", true),
            ("GPL-3.0 AND MIT", false),
            ("MIT/Apache-2.0", true),
            ("(MIT OR GPL-3.0) AND Unicode-3.0", true),
            ("(MIT AND GPL-3.0) OR AGPL-3.0", false),
            ("Apache-2.0 WITH LLVM-exception OR GPL-2.0", true),
            ("", false),
            ("MIT )", false),
        ] {
            assert_eq!(is_allowed(expression), expected, "{expression}");
        }
    }
}
