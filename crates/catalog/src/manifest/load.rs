//! Reading manifests: files, bounds, and errors that say where and what to do.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::path::Path;

use countersign_domain::name::MAX_OPERATION;
use countersign_domain::operation::is_reserved;
use countersign_domain::{Effect, WorkspaceName};
use serde::{Deserialize, Deserializer, de::Error as _};

use super::{MANIFEST_VERSION, MAX_MANIFEST_BYTES, Manifest, RESERVED_UPSTREAMS, ToolEntry, Workspaces};
use crate::names::name_problem;
use crate::visible::{is_hidden, visible_message};

/// Most tools that one manifest may list.
const MAX_TOOLS: usize = 2_000;
/// The largest cost, in millionths.
const MAX_MICROS: u64 = 1_000_000_000_000;

/// Why a manifest is refused: where, what and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ManifestError {
    /// The file, as it was named.
    pub file: String,
    /// One-based line and column, where known.
    pub at: Option<(u64, u64)>,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub help: String,
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some((line, column)) = self.at {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {}\n  help: {}", self.message, self.help)
    }
}

impl Manifest {
    /// Reads a manifest. `file` is the name for error messages.
    ///
    /// # Errors
    /// With line and column, where the text is not YAML, too large, or not a manifest.
    pub fn parse(yaml: &str, file: &str) -> Result<Self, ManifestError> {
        if yaml.len() > MAX_MANIFEST_BYTES {
            return Err(plain(file, "the file is larger than 1 MiB".into(), "split it by upstream"));
        }
        let manifest: Self = serde_saphyr::from_str_with_options(yaml, options()).map_err(|e| yaml_error(file, &e))?;
        check(&manifest).map_err(|(key, message, help)| ManifestError {
            file: file.to_owned(),
            at: key_position(yaml, key),
            message,
            help: help.to_owned(),
        })?;
        Ok(manifest)
    }

    /// Reads a manifest from a file.
    ///
    /// # Errors
    /// As [`Manifest::parse`]; also if the file cannot be read.
    pub fn load(path: &Path) -> Result<Self, ManifestError> {
        let name = path.display().to_string();
        let unreadable =
            |e: std::io::Error| plain(&name, format!("cannot be read: {e}"), "check the path and its rights");
        let file = std::fs::File::open(path).map_err(unreadable)?;
        let mut text = String::new();
        file.take(MAX_MANIFEST_BYTES as u64 + 1).read_to_string(&mut text).map_err(unreadable)?;
        Self::parse(&text, &name)
    }
}

/// Reads every `*.yaml` and `*.yml` of a directory, in the order of their names.
///
/// # Errors
/// Every file's error, so that all can be mended at once; also if two manifests name the same upstream.
pub fn load_dir(dir: &Path) -> Result<Vec<Manifest>, Vec<ManifestError>> {
    let unreadable = |e: std::io::Error| {
        let name = dir.display().to_string();
        vec![plain(&name, format!("cannot be read: {e}"), "create the directory or name another one")]
    };
    let entries: Result<Vec<_>, _> = std::fs::read_dir(dir).map_err(unreadable)?.map(|e| e.map(|e| e.path())).collect();
    let mut paths = entries.map_err(unreadable)?;
    paths.retain(|p| p.extension().is_some_and(|e| e == "yaml" || e == "yml") && p.is_file());
    paths.sort();
    let mut manifests: Vec<Manifest> = Vec::new();
    let mut errors = Vec::new();
    for path in paths {
        match Manifest::load(&path) {
            Ok(new) if manifests.iter().any(|m| m.upstream == new.upstream) => errors.push(plain(
                &path.display().to_string(),
                format!("the upstream {} has a manifest already", new.upstream),
                "give each upstream its own name",
            )),
            Ok(new) => manifests.push(new),
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() { Ok(manifests) } else { Err(errors) }
}

fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_documents: 1,
            max_depth: 64,
            max_nodes: 200_000,
            max_events: 800_000,
            max_aliases: 100,
            max_anchors: 100,
            max_merge_keys: 100,
            max_total_scalar_bytes: MAX_MANIFEST_BYTES,
        },
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::Error,
        strict_booleans: true,
        with_snippet: false,
    }
}

/// What only the whole document shows. The key is where to point.
fn check(manifest: &Manifest) -> Result<(), (&'static str, String, &'static str)> {
    if manifest.version != MANIFEST_VERSION {
        let message = format!("version {} is not known here", manifest.version);
        return Err(("version", message, "write `version: 1`"));
    }
    if RESERVED_UPSTREAMS.contains(&manifest.upstream.as_str()) {
        let message = format!("the upstream name {} is reserved for a built-in capability", manifest.upstream);
        return Err(("upstream", message, "choose another name"));
    }
    super::rest::check(manifest)
        .map_err(|message| ("tools", message, "docs/manifest.md, \"REST APIs\", says what fits"))
}

/// Where a top-level key stands. Good enough for the keys that [`check`] complains about, which are always block keys.
fn key_position(yaml: &str, key: &str) -> Option<(u64, u64)> {
    let line =
        yaml.lines().position(|line| line.strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with(':')))?;
    Some((line as u64 + 1, 1))
}

fn plain(file: &str, message: String, help: &str) -> ManifestError {
    ManifestError { file: file.to_owned(), at: None, message, help: help.to_owned() }
}

fn yaml_error(file: &str, error: &serde_saphyr::Error) -> ManifestError {
    let at = error.location().map(|l| (l.line(), l.column())).filter(|&(line, _)| line > 0);
    let text = error.without_snippet().to_string();
    // The library appends the position in words; it stands before the message already.
    let message = text.split(" at line ").next().unwrap_or(&text);
    let help = if message.contains("unknown field") {
        "remove the key or mend its spelling; docs/manifest.md lists them all"
    } else if message.contains("missing field") {
        "add the key; docs/manifest.md shows an example"
    } else if message.contains("duplicate") {
        "keep one of the two"
    } else {
        "docs/manifest.md describes every key"
    };
    ManifestError { file: file.to_owned(), at, message: visible_message(message).into_owned(), help: help.to_owned() }
}

pub(super) fn concurrency<'de, D: Deserializer<'de>>(input: D) -> Result<u32, D::Error> {
    let number = u32::deserialize(input)?;
    let fits = (1..=4096).contains(&number);
    fits.then_some(number).ok_or_else(|| D::Error::custom(format!("max_concurrency is {number}; it must be 1 to 4096")))
}

pub(super) fn queue<'de, D: Deserializer<'de>>(input: D) -> Result<u32, D::Error> {
    let number = u32::deserialize(input)?;
    let fits = number <= 65_536;
    fits.then_some(number).ok_or_else(|| D::Error::custom(format!("max_queue is {number}; it must be at most 65536")))
}

/// Unlisted tools are never treated as read-only: their calls would go without an intent.
pub(super) fn default_effect<'de, D: Deserializer<'de>>(input: D) -> Result<Effect, D::Error> {
    match Effect::deserialize(input)? {
        Effect::Read => Err(D::Error::custom("the default effect cannot be `read`: state `effect: read` tool by tool")),
        other => Ok(other),
    }
}

/// A JSON pointer into the arguments; the whole of them is not meant.
pub(super) fn pointer<'de, D: Deserializer<'de>>(input: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(input)?;
    let fits = text.starts_with('/') && text.len() <= 256;
    let advice = "an argument is named by a JSON pointer, such as /service, of at most 256 bytes";
    if fits { Ok(Some(text)) } else { Err(D::Error::custom(advice)) }
}

pub(super) fn tools<'de, D: Deserializer<'de>>(input: D) -> Result<BTreeMap<String, ToolEntry>, D::Error> {
    let tools = BTreeMap::<String, ToolEntry>::deserialize(input)?;
    if tools.len() > MAX_TOOLS {
        return Err(D::Error::custom(format!("more than {MAX_TOOLS} tools")));
    }
    for name in tools.keys() {
        // Other operations than tools go by URIs, which are longer.
        let is_operation = is_reserved(name)
            && name.chars().count() <= MAX_OPERATION
            && !name.chars().any(|c| c == ' ' || is_hidden(c));
        if let Some(problem) = name_problem(name).filter(|_| !is_operation) {
            return Err(D::Error::custom(format!("a tool name cannot be used: {problem}")));
        }
    }
    let costs = tools.values().filter_map(|tool| tool.cost.as_ref());
    if costs.into_iter().any(|cost| !(1..=MAX_MICROS).contains(&cost.micros)) {
        return Err(D::Error::custom(format!("micros must be 1 to {MAX_MICROS}")));
    }
    Ok(tools)
}

impl<'de> Deserialize<'de> for Workspaces {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        input.deserialize_any(WorkspacesVisitor)
    }
}

struct WorkspacesVisitor;

impl<'de> serde::de::Visitor<'de> for WorkspacesVisitor {
    type Value = Workspaces;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("`all` or a list of workspace names")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Workspaces, E> {
        if text == "all" { Ok(Workspaces::All) } else { Err(E::invalid_value(serde::de::Unexpected::Str(text), &self)) }
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut items: A) -> Result<Workspaces, A::Error> {
        let mut names: Vec<WorkspaceName> = Vec::new();
        while let Some(name) = items.next_element()? {
            if names.len() == 10_000 {
                return Err(A::Error::custom("more than 10,000 workspaces"));
            }
            names.push(name);
        }
        if names.is_empty() {
            return Err(A::Error::custom("an empty list hides the upstream from everyone; write `all` or name some"));
        }
        Ok(Workspaces::Only(names))
    }
}
