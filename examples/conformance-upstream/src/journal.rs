//! What the server was asked: one line of JSON for each request.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};

/// One request that the server was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its method.
    pub method: String,
    /// `params.name` or `params.uri`, where it has one.
    pub name: String,
    /// Whether it is a call made again with what the server asked for.
    pub again: bool,
}

/// The method of an entry that is no request: the server asked for input, and waits for the call to be made again.
pub const ASKED: &str = "asked for input";

pub(crate) struct Journal(Mutex<File>);

impl Journal {
    pub(crate) fn open(path: &Path) -> std::io::Result<Self> {
        Ok(Self(Mutex::new(OpenOptions::new().create(true).append(true).open(path)?)))
    }

    pub(crate) fn note(&self, method: &str, params: &Value) {
        let name = params["name"].as_str().or(params["uri"].as_str()).unwrap_or_default();
        let again = params.get("inputResponses").is_some() || params.get("requestState").is_some();
        let line = json!({ "method": method, "name": name, "again": again });
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = writeln!(file, "{line}") {
            eprintln!("the journal cannot be written: {error}");
        }
    }
}

/// Reads a journal.
///
/// # Errors
/// If the file cannot be read.
pub fn read(path: &Path) -> std::io::Result<Vec<Entry>> {
    let text = std::fs::read_to_string(path)?;
    let entry = |line: &str| {
        let value: Value = serde_json::from_str(line).ok()?;
        let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
        Some(Entry { method: text("method"), name: text("name"), again: value["again"] == true })
    };
    Ok(text.lines().filter_map(entry).collect())
}
