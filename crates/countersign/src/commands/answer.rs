//! How answers of the node's own tools are shown, and to which exit code they come: JSON for programs, sentences for people, and
//! a call that waits for people as what it is.

use std::io::Read as _;
use std::path::Path;

use anyhow::Context as _;
use countersign_proof::digest::Digest;
use serde_json::Value;

use crate::cli::Global;
use crate::exit::{Exit, Failure};
use crate::output::{self, Style};

/// Largest file that is read.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// Shows an answer to which there is no yes and no.
pub fn show(global: &Global, answer: &Value, lines: impl FnOnce(&Value)) -> Exit {
    concluded(global, answer, |_| true, lines)
}

/// Shows an answer; where it does not hold, the exit code says so.
pub fn concluded(
    global: &Global,
    answer: &Value,
    holds: impl FnOnce(&Value) -> bool,
    lines: impl FnOnce(&Value),
) -> Exit {
    let is_pending = answer["status"] == "pending";
    match (global.json, is_pending) {
        (true, _) => output::json(answer),
        (false, true) => {
            super::call::show_pending(answer);
            output::line("`countersign call TOOL … --wait` waits for them and executes.");
        }
        (false, false) => lines(answer),
    }
    match is_pending {
        true => Exit::Pending,
        false if holds(answer) => Exit::Ok,
        false => Exit::Invalid,
    }
}

/// Shows what a verification found: whether it is valid, these members, the checks, and what was not checked.
pub fn verdict(global: &Global, told: &Value, shown: &[(&str, &str)]) -> Exit {
    concluded(global, told, |told| told["valid"] == true, |told| verdict_lines(told, shown))
}

fn verdict_lines(told: &Value, shown: &[(&str, &str)]) {
    yes_or_no(told["valid"] == true, "VALID", "NOT VALID");
    members(told, shown);
    for check in told["checks"].as_array().into_iter().flatten() {
        let of = |pointer| output::text(check, pointer);
        output::line(format!("  {:<12} {:<8} {}", of("/name"), of("/status"), of("/detail")));
    }
    texts(told, "/statements", "  ");
    texts(told, "/operator_could_forge", "  operator alone could forge: ");
    texts(told, "/not_checked", "  not checked: ");
}

/// A line that says how it is.
pub fn yes_or_no(holds: bool, yes: &str, no: &str) {
    match holds {
        true => output::line(output::paint(Style::Good, yes)),
        false => output::line(output::paint(Style::Bad, no)),
    }
}

/// The members that are there, each on a line with its name.
pub fn members(value: &Value, shown: &[(&str, &str)]) {
    for (what, pointer) in shown {
        if value.pointer(pointer).is_some_and(|value| !value.is_null()) {
            output::line(format!("  {what:<10} {}", output::text(value, pointer)));
        }
    }
}

/// Every text of a list, on a line of its own.
pub fn texts(value: &Value, pointer: &str, before: &str) {
    for text in list(value, pointer).filter_map(Value::as_str) {
        output::line(format!("{before}{}", output::visible(text)));
    }
}

/// The entries of a list; none, where there is no list.
pub fn list<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    value.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

/// A table of some members of each entry.
pub fn table<'a, const N: usize>(header: [&str; N], entries: impl Iterator<Item = &'a Value>, pointers: [&str; N]) {
    let row = |entry: &Value| pointers.iter().map(|pointer| output::text(entry, pointer)).collect();
    output::table(&header, entries.map(row).collect());
}

/// An object with the members that were given besides.
pub fn with(mut body: Value, more: &[(&str, Option<Value>)]) -> Value {
    for (name, value) in more {
        if let Some(value) = value {
            body[*name] = value.clone();
        }
    }
    body
}

/// A file of at most 16 MiB; `-` is standard input.
///
/// # Errors
/// If it cannot be read or is longer.
pub fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let name = path.display();
    let mut bytes = Vec::new();
    if path.as_os_str() == "-" {
        std::io::stdin().take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).context("standard input")?;
    } else {
        let file = std::fs::File::open(path).with_context(|| name.to_string())?;
        file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).with_context(|| name.to_string())?;
    }
    anyhow::ensure!(bytes.len() as u64 <= MAX_FILE_BYTES, "{name} is more than {MAX_FILE_BYTES} bytes long");
    Ok(bytes)
}

/// Writes a file.
///
/// # Errors
/// The system's, with the file's name.
pub fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    std::fs::write(path, bytes).with_context(|| path.display().to_string())
}

/// A JSON object.
///
/// # Errors
/// With its name, if it is none.
pub fn object(text: &str, what: &str) -> anyhow::Result<Value> {
    let value: Value = serde_json::from_str(text).with_context(|| format!("{what} is not JSON"))?;
    anyhow::ensure!(value.is_object(), "{what} is not a JSON object");
    Ok(value)
}

/// A file with an object in it, as JSON or YAML.
///
/// # Errors
/// If it cannot be read, or is none.
pub fn object_in(path: &Path) -> anyhow::Result<Value> {
    let name = path.display().to_string();
    let text = String::from_utf8(read(path)?).with_context(|| name.clone())?;
    // JSON's own complaints are better where it was meant.
    if text.trim_start().starts_with('{') {
        return object(&text, &name);
    }
    let value: Value = serde_saphyr::from_str(&text).with_context(|| format!("{name} is not YAML"))?;
    anyhow::ensure!(value.is_object(), "{name} is not an object");
    Ok(value)
}

/// `sha256:` and 64 hexadecimal digits.
pub fn digest_given(text: &str) -> Option<Digest> {
    text.to_ascii_lowercase().parse().ok()
}

/// A digest as it was given, or that of a file.
///
/// # Errors
/// [`Exit::Usage`] if it is neither.
pub fn digest_of(artifact: &str) -> anyhow::Result<Digest> {
    if let Some(digest) = digest_given(artifact) {
        return Ok(digest);
    }
    let wrong =
        || Failure::new(Exit::Usage, format!("{artifact} is neither a file that can be read nor a sha256: digest"));
    Ok(Digest::of(&std::fs::read(artifact).with_context(wrong)?))
}

/// How the node's tools name an artifact: the digest of a file that is there, or what was given, a digest or a name.
///
/// # Errors
/// If there is such a file and it cannot be read.
pub fn named(artifact: &str) -> anyhow::Result<String> {
    if digest_given(artifact).is_none() && Path::new(artifact).is_file() {
        return Ok(digest_of(artifact)?.to_string());
    }
    Ok(artifact.to_owned())
}
