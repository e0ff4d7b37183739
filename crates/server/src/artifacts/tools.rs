//! What the tools are called, take and give: one table, from which definitions, effects and pins follow.

use countersign_domain::Effect;
use countersign_trust::artifact::schema;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::capability::tool;

/// The upstream's name.
pub(crate) const NAME: &str = "artifacts";
pub(super) const TITLE: &str = "Signed artifacts";
pub(super) const CREATE: &str = "create";
pub(super) const GET: &str = "get";
pub(super) const VERIFY: &str = "verify";
pub(super) const LIST: &str = "list";
pub(super) const PROVENANCE: &str = "provenance";
pub(super) const HOLD: &str = "hold";
pub(super) const DECLARE: &str = "declare";

/// What is about one stored artifact.
pub(super) const OF_ONE: [&str; 4] = [GET, VERIFY, PROVENANCE, HOLD];

/// Longest reason, in characters.
pub(super) const MAX_REASON: usize = 1000;

/// Most entries of one page.
pub(super) const MAX_PAGE: u32 = 1000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Get {
    pub id: String,
    #[serde(default)]
    pub version: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Verify {
    #[serde(default)]
    pub id: Option<String>,
    #[serde(default)]
    pub version: Option<u64>,
    #[serde(default)]
    pub jws: Option<Value>,
    #[serde(default)]
    pub jwks: Option<Value>,
    #[serde(default)]
    pub workspace: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct List {
    #[serde(default, alias = "workspace_id")]
    pub workspace: Option<String>,
    #[serde(default)]
    pub id: Option<String>,
    #[serde(default, rename = "type")]
    pub artifact_type: Option<String>,
    #[serde(default)]
    pub compliance: Option<Vec<String>>,
    #[serde(default)]
    pub derived_from: Option<String>,
    #[serde(default)]
    pub since: Option<String>,
    #[serde(default)]
    pub until: Option<String>,
    #[serde(default)]
    pub limit: Option<u32>,
    #[serde(default)]
    pub cursor: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Hold {
    pub id: String,
    #[serde(default)]
    pub version: Option<u64>,
    pub hold: bool,
    pub reason: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Declare {
    pub action: String,
    #[serde(default, rename = "artifactId")]
    pub artifact_id: Option<String>,
    #[serde(default)]
    pub actor: Option<String>,
    #[serde(default)]
    pub compliance_flags: Option<Vec<String>>,
    #[serde(default)]
    pub details: Option<Map<String, Value>>,
}

/// Each tool with what it does to the world.
pub(super) fn definitions() -> Vec<(Effect, Value)> {
    let word = |description: &str| json!({ "type": "string", "maxLength": 1024, "description": description });
    let version = json!({ "type": "integer", "minimum": 1, "description": "Which version; the newest if not said" });
    let id = json!({ "type": "string", "format": "uuid", "maxLength": 64, "description": "The artifact's id" });
    vec![
        (Effect::Write, create_tool()),
        (
            Effect::Read,
            tool(
                GET,
                "One signed artifact: its JWS, held against what was stored and against the workspace's keys",
                &json!({ "id": id, "version": version }),
                &["id"],
                &["id", "version", "type", "digest", "kid", "entry_id", "stored_at", "artifact", "jws"],
            ),
        ),
        (Effect::Read, verify_tool(&id, &version)),
        (Effect::Read, list_tool(&id, &word)),
        (
            Effect::Read,
            tool(
                PROVENANCE,
                "What an artifact was made from and what was made from it, each verified again, with its sources of evidence",
                &json!({ "id": id, "version": version }),
                &["id"],
                &["artifact", "sources", "derived", "evidence", "missing", "complete"],
            ),
        ),
        (Effect::Write, hold_tool(&id)),
        (
            Effect::Read,
            tool(
                DECLARE,
                "Records what a client says that it did. It is marked as declared: the node has not seen it",
                &json!({
                    "action": { "type": "string", "minLength": 1, "maxLength": 100, "description": "What was done, such as create or export" },
                    "artifactId": id,
                    "actor": word("Who did it, in the client's words"),
                    "compliance_flags": { "type": "array", "maxItems": 64, "description": "What it touches, such as PHI_ACCESSED",
                        "items": { "type": "string", "pattern": "^[A-Za-z0-9_.:-]{1,64}$" } },
                    "details": { "type": "object", "maxProperties": 32, "description": "More",
                        "additionalProperties": { "type": ["string", "integer", "boolean", "null"], "maxLength": 1024 } }
                }),
                &["action"],
                &["declared"],
            ),
        ),
    ]
}

/// The arguments are the envelope, so that policies can look at it.
fn create_tool() -> Value {
    let envelope = schema::envelope();
    json!({
        "name": CREATE,
        "description": "Signs an artifact with the workspace's key, records the signature in the transparency log and keeps the artifact",
        "inputSchema": {
            "type": "object", "properties": envelope["properties"], "required": envelope["required"],
            "additionalProperties": false
        },
        "outputSchema": { "type": "object", "required": ["id", "version", "digest", "kid", "entry_id", "stored_at", "jws"] },
    })
}

fn hold_tool(id: &Value) -> Value {
    tool(
        HOLD,
        "Puts an artifact under legal hold in the object store, so that nobody can delete it until the hold is off; or takes it off",
        &json!({
            "id": id,
            "version": { "type": "integer", "minimum": 1, "description": "Which version; all if not said, and those that follow" },
            "hold": { "type": "boolean", "description": "true puts it under hold, false takes it off" },
            "reason": { "type": "string", "minLength": 1, "maxLength": MAX_REASON, "pattern": "\\S",
                "description": "Why, for those who ask later; it stands in the event" }
        }),
        &["id", "hold", "reason"],
        &["id", "hold", "versions", "reason"],
    )
}

fn verify_tool(id: &Value, version: &Value) -> Value {
    tool(
        VERIFY,
        "Verifies a stored artifact, or a JWS that the caller brings: signature, key, envelope, log and object",
        &json!({
            "id": id,
            "version": version,
            "jws": { "type": ["object", "string"], "maxLength": 2_097_152,
                "description": "A JWS, flattened or compact, instead of a stored artifact" },
            "jwks": { "type": "object", "description": "The keys to trust for it (RFC 7517); the workspace's own otherwise" },
            "workspace": { "type": "string", "maxLength": 128, "description": "Whose keys they are; needed with jwks" }
        }),
        &[],
        &["valid", "artifact_id", "workspace_id", "created_at", "type", "version", "checks"],
    )
}

fn list_tool(id: &Value, word: &dyn Fn(&str) -> Value) -> Value {
    tool(
        LIST,
        "Finds artifacts of this workspace, every version of them, newest first",
        &json!({
            "workspace": word("The caller's own, as nobody lists another's"),
            "workspace_id": word("The same, by its other name"),
            "id": id,
            "type": word("Only of this type"),
            "compliance": { "type": "array", "maxItems": 16, "items": { "type": "string", "maxLength": 64 },
                "description": "Only with all of these compliance tags" },
            "derived_from": id,
            "since": word("Only stored from this moment on: an RFC 3339 time or a date (UTC)"),
            "until": word("Only stored up to this moment; a date means its end"),
            "limit": { "type": "integer", "minimum": 1, "maximum": MAX_PAGE, "description": "Most entries; 50 if not said" },
            "cursor": word("Goes on where the page with this `next` ended")
        }),
        &[],
        &["entries", "next"],
    )
}
