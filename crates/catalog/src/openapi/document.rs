//! The document: read, bounded, and its references followed.

use serde_json::Value;

use super::ImportError;

/// Longest document that is read, in bytes.
pub const MAX_DOCUMENT_BYTES: usize = 16 << 20;
/// How many references in a row are followed.
const MAX_HOPS: usize = 16;

/// An OpenAPI document.
pub(super) struct Document {
    pub root: Value,
    /// 3.0, whose schemas are not JSON Schema.
    pub old_schemas: bool,
}

impl Document {
    pub(super) fn parse(text: &str) -> Result<Self, ImportError> {
        let refuse = |message: String| Err(ImportError::Document(message));
        if text.len() > MAX_DOCUMENT_BYTES {
            return refuse(format!("the document is larger than {MAX_DOCUMENT_BYTES} bytes"));
        }
        let root: Value = if text.trim_start().starts_with('{') {
            serde_json::from_str(text).map_err(|e| ImportError::Document(format!("it is not JSON: {e}")))?
        } else {
            serde_saphyr::from_str_with_options(text, options())
                .map_err(|e| ImportError::Document(format!("it is not YAML: {}", e.without_snippet())))?
        };
        if root.get("swagger").is_some() {
            return refuse("this is Swagger 2.0; convert it to OpenAPI 3 first".to_owned());
        }
        let version = root["openapi"].as_str().unwrap_or_default();
        let old_schemas = version.starts_with("3.0.");
        if !old_schemas && !version.starts_with("3.1.") {
            return refuse(format!("{version:?} is not a version of OpenAPI that is understood here (3.0 and 3.1)"));
        }
        Ok(Self { root, old_schemas })
    }

    /// What a reference within the document leads to.
    pub(super) fn at(&self, reference: &str) -> Option<&Value> {
        let pointer = reference.strip_prefix('#')?;
        self.root.pointer(&percent_decoded(pointer))
    }

    /// The thing itself, where it may be a reference to it.
    ///
    /// # Errors
    /// In words: references out of the document, to nothing, or in circles.
    pub(super) fn resolve<'a>(&'a self, value: &'a Value) -> Result<&'a Value, String> {
        let mut at = value;
        for _ in 0..MAX_HOPS {
            let Some(reference) = at.get("$ref").and_then(Value::as_str) else { return Ok(at) };
            at = self.at(reference).ok_or_else(|| lost(reference))?;
        }
        Err("its references go in circles".to_owned())
    }
}

/// Why a reference is not followed.
pub(super) fn lost(reference: &str) -> String {
    if reference.starts_with('#') {
        format!("the reference {reference:?} leads nowhere")
    } else {
        format!("the reference {reference:?} leads out of the document and is not followed")
    }
}

/// Fragments of URLs may be percent-encoded (RFC 6901, 6).
fn percent_decoded(pointer: &str) -> String {
    if !pointer.contains('%') {
        return pointer.to_owned();
    }
    // A fragment in a query is decoded the same way but for '+', which is put out of reach first.
    let query = format!("p={}", pointer.replace('+', "%2B").replace('&', "%26"));
    url::form_urlencoded::parse(query.as_bytes()).next().map_or_else(String::new, |(_, value)| value.into_owned())
}

fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_documents: 1,
            max_depth: 128,
            max_nodes: 4_000_000,
            max_events: 16_000_000,
            max_aliases: 1_000,
            max_anchors: 1_000,
            max_merge_keys: 1_000,
            max_total_scalar_bytes: MAX_DOCUMENT_BYTES,
        },
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::Error,
        strict_booleans: true,
        with_snippet: false,
    }
}
