//! The JSON Schema of the envelope. It says what [`Artifact::parse`](super::Artifact::parse) accepts, but for what a schema
//! cannot say: the size of the canonical form, and that an artifact is not made from itself.

use serde_json::{Value, json};

use super::members::{TAG_PATTERN, TYPE_NAME_PATTERN, WORKSPACE_PATTERN};
use super::{MAX_COMPLIANCE, MAX_DERIVED_FROM, MAX_EVIDENCE, MAX_SOURCE_CHARS};

/// The schema's own name. It changes with the version of the envelope, and only then.
pub const ID: &str = "https://countersign.dev/schemas/artifact-v1.json";

const UUID_PATTERN: &str = "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$";
const TIME_PATTERN: &str =
    "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-5][0-9](\\.[0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2})$";

/// JSON Schema 2020-12 of the envelope, for editors and other people's validators.
pub fn envelope() -> Value {
    let id = json!({ "type": "string", "format": "uuid", "pattern": UUID_PATTERN });
    let time = json!({ "type": "string", "format": "date-time", "pattern": TIME_PATTERN });
    let short = json!({ "type": "string", "minLength": 1, "maxLength": MAX_SOURCE_CHARS });
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": ID,
        "title": "Countersign artifact",
        "description": "The envelope of a signed artifact. Its RFC 8785 bytes, at most 1 MiB, are what is signed.",
        "type": "object",
        "required": ["id", "type", "version", "workspaceId", "createdAt", "jsonBody"],
        "additionalProperties": false,
        "properties": {
            "id": described(&id, "The artifact's name for all time: a UUID in lower case."),
            "type": { "type": "string", "pattern": TYPE_NAME_PATTERN, "description": "The name of the artifact's type." },
            "version": { "type": "integer", "minimum": 1, "maximum": 9_007_199_254_740_991_u64,
                "description": "The artifact's version, from 1." },
            "workspaceId": { "type": "string", "pattern": WORKSPACE_PATTERN, "description": "Whose it is." },
            "createdAt": described(&time, "When it was made (RFC 3339, with an offset)."),
            "jsonBody": { "type": "object", "description": "What it says. The type's own schema says more." },
            "derivedFrom": { "type": "array", "maxItems": MAX_DERIVED_FROM, "uniqueItems": true, "items": id,
                "description": "The artifacts that it was made from." },
            "evidence": { "type": "array", "maxItems": MAX_EVIDENCE, "description": "What it rests on.", "items": {
                "type": "object",
                "required": ["source"],
                "additionalProperties": false,
                "properties": {
                    "source": described(&short, "A URI or a citation."),
                    "title": described(&short, "A title for people."),
                    "digest": { "type": "string", "pattern": "^sha256:[0-9a-f]{64}$",
                        "description": "The digest of what was read there." },
                    "retrievedAt": described(&time, "When it was read."),
                },
            } },
            "compliance": { "type": "array", "maxItems": MAX_COMPLIANCE, "uniqueItems": true,
                "items": { "type": "string", "pattern": TAG_PATTERN },
                "description": "The rules that it falls under, such as HIPAA." },
        },
    })
}

fn described(schema: &Value, description: &str) -> Value {
    let mut schema = schema.clone();
    schema["description"] = description.into();
    schema
}
