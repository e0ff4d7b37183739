//! OpenAPI documents (3.0 and 3.1) into manifests of REST upstreams.
//!
//! What a document cannot say for sure (effects above all) is marked for review, and what a manifest cannot express becomes a
//! note: nothing is left out silently. References are followed inside the document only; nothing here does I/O.

mod body;
mod document;
mod operation;
mod schema;
mod security;
mod yaml;

use countersign_domain::{Effect, UpstreamName};
use serde_json::{Map, Value, json};
use url::Url;

use crate::manifest::RESERVED_UPSTREAMS;
use crate::visible::visible_line;
use crate::{Manifest, ManifestError};
use document::Document;
use operation::Importer;

pub use document::MAX_DOCUMENT_BYTES;

/// Most operations that one import takes.
const MAX_OPERATIONS: usize = 2_000;

/// What to import, and under which name.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The upstream's name; made from the document's title if not stated.
    pub upstream: Option<String>,
    /// The server's URL; the document's first one if not stated.
    pub server: Option<String>,
    /// Only operations with one of these tags; all if there are none.
    pub tags: Vec<String>,
    /// Only operations with one of these ids; all if there are none.
    pub operations: Vec<String>,
    /// Leaves the schemas of responses out: an answer that does not fit its schema is reported as an error.
    pub without_response_schemas: bool,
}

/// A manifest, and what an operator should know about it.
#[derive(Debug, Clone)]
pub struct Imported {
    /// The upstream's name.
    pub upstream: UpstreamName,
    /// The manifest: YAML that [`Manifest::parse`] accepts, with the notes as comments.
    pub manifest: String,
    /// Its tools.
    pub tools: Vec<ImportedTool>,
    /// What was left out or changed.
    pub notes: Vec<Note>,
}

/// One tool of an import.
#[derive(Debug, Clone, serde::Serialize)]
pub struct ImportedTool {
    /// Its name.
    pub name: String,
    /// The HTTP method.
    pub method: String,
    /// The path template.
    pub path: String,
    /// Its effect as guessed from the method.
    pub effect: Effect,
}

/// Something that a document says and the manifest does not, or that is worth a look.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Note {
    /// Where: an operation, a schema, a security scheme.
    pub place: String,
    /// What.
    pub text: String,
}

/// Why a document cannot be imported at all.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// It is not an OpenAPI document that is understood here.
    #[error("{0}")]
    Document(String),
    /// Something has to be stated.
    #[error("{0}")]
    Options(String),
    /// No operation is left.
    #[error("no operation can be imported{0}")]
    Nothing(String),
    /// The result is not a manifest; the importer has missed something.
    #[error("the document leads to a manifest that is refused: {0}")]
    Manifest(ManifestError),
}

/// Makes a manifest from an OpenAPI document, JSON or YAML.
///
/// # Errors
/// [`ImportError`].
pub fn import(text: &str, options: &Options) -> Result<Imported, ImportError> {
    let document = Document::parse(text)?;
    let upstream = upstream_name(&document, options)?;
    let mut notes = Vec::new();
    let url = server(&document, options, &mut notes)?;
    let mut importer = Importer::new(&document, options);
    importer.run();
    if importer.tools.is_empty() {
        let first = importer.notes.first().map(|n| format!("; {}: {}", n.place, n.text)).unwrap_or_default();
        return Err(ImportError::Nothing(first));
    }
    if importer.tools.len() > MAX_OPERATIONS {
        let message = format!("more than {MAX_OPERATIONS} operations; choose some by tag");
        return Err(ImportError::Options(message));
    }
    let security = security::security(&document, &importer.security, &upstream, &mut notes);
    notes.append(&mut importer.notes);
    notes.sort();
    notes.dedup();
    for note in &mut notes {
        note.place = visible_line(&note.place).into_owned();
        note.text = visible_line(&note.text).into_owned();
    }
    let mut transport = json!({"type": "rest", "url": url.as_str()});
    if let Some(credential) = security.credential {
        transport["credential"] = credential;
    }
    if !security.headers.is_empty() {
        transport["headers"] = security.headers.into();
    }
    if !importer.schemas.is_empty() {
        transport["schemas"] = Value::Object(std::mem::take(&mut importer.schemas).into_iter().collect());
    }
    let title = document.root["info"]["title"].as_str();
    let head = head(&upstream, title, transport);
    let manifest = yaml::render(&head, &importer.tools, &notes);
    Manifest::parse(&manifest, "import").map_err(ImportError::Manifest)?;
    let tools = importer.tools.into_iter().map(|tool| tool.summary).collect();
    Ok(Imported { upstream, manifest, tools, notes })
}

fn head(upstream: &UpstreamName, title: Option<&str>, transport: Value) -> Map<String, Value> {
    let mut head = Map::new();
    head.insert("version".into(), 1.into());
    head.insert("upstream".into(), upstream.as_str().into());
    if let Some(title) = title {
        head.insert("title".into(), title.into());
    }
    head.insert("transport".into(), transport);
    head
}

fn upstream_name(document: &Document, options: &Options) -> Result<UpstreamName, ImportError> {
    let stated = options.upstream.clone();
    let name = stated.unwrap_or_else(|| name_from(document.root["info"]["title"].as_str().unwrap_or_default()));
    if RESERVED_UPSTREAMS.contains(&name.as_str()) {
        return Err(ImportError::Options(format!("the upstream name {name} is reserved; choose another one")));
    }
    let parsed = name.parse::<UpstreamName>();
    parsed.map_err(|e| ImportError::Options(format!("{name:?} cannot be the upstream's name ({e}); state one")))
}

fn name_from(title: &str) -> String {
    let lower = title.to_lowercase();
    let words: Vec<&str> = lower.split(|c: char| !c.is_ascii_alphanumeric()).filter(|w| !w.is_empty()).collect();
    let name: String = words.join("-").trim_start_matches(|c: char| !c.is_ascii_lowercase()).chars().take(32).collect();
    name.trim_end_matches('-').to_owned()
}

fn server(document: &Document, options: &Options, notes: &mut Vec<Note>) -> Result<Url, ImportError> {
    let text = match &options.server {
        Some(server) => server.clone(),
        None => {
            let servers = document.root["servers"].as_array();
            let first = servers.and_then(|s| s.first());
            let first =
                first.ok_or_else(|| ImportError::Options("the document names no server; state its URL".into()))?;
            for other in servers.into_iter().flatten().skip(1).filter_map(|s| s["url"].as_str()) {
                notes.push(Note { place: "servers".into(), text: format!("{other} is not used") });
            }
            with_variables(first)
        }
    };
    let url = Url::parse(&text);
    url.ok()
        .filter(|u| matches!(u.scheme(), "http" | "https") && u.query().is_none())
        .ok_or_else(|| ImportError::Options(format!("{text:?} is not the full URL of a server; state it")))
}

/// A server's URL with the defaults of its variables.
fn with_variables(server: &Value) -> String {
    let mut url = server["url"].as_str().unwrap_or_default().to_owned();
    for (name, variable) in server["variables"].as_object().into_iter().flatten() {
        url = url.replace(&format!("{{{name}}}"), variable["default"].as_str().unwrap_or_default());
    }
    url
}

#[cfg(test)]
mod tests;
