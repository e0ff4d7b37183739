//! Signed artifacts and the keys that sign them, described.

use countersign_trust::artifact::schema;
use serde_json::{Value, json};

use super::{Operation, any_object, item};

const JOSE_JSON: &str = "application/jose+json";

pub(super) fn artifacts() -> Vec<(String, Value)> {
    let operation = |id: &str, summary: &str| Operation::new("artifacts", id, summary);
    let of_one = |id: &str, summary: &str| {
        operation(id, summary).path("id", "The artifact's id.").query(
            "version",
            "integer",
            "Which version; the newest by default.",
        )
    };
    let jws = || {
        json!({
            "type": "object", "required": ["protected", "payload", "signature"],
            "properties": { "protected": { "type": "string" }, "payload": { "type": "string" }, "signature": { "type": "string" } },
        })
    };
    let create = operation("createArtifact", "Sign an artifact and keep it (artifacts:create)")
        .body(schema::envelope())
        .answers_as("201", "The JWS, flattened; compact with Accept: application/jose.", JOSE_JSON, jws())
        .answers("202", "People have to agree first; the same answer as for any tool.", any_object());
    let list =
        ["workspace", "workspace_id", "id", "type", "derived_from", "since", "until", "cursor"].into_iter().fold(
            operation("listArtifacts", "Find artifacts, every version of them, newest first (artifacts:list)"),
            |operation, name| operation.query(name, "string", "As the tool takes it."),
        );
    let list = list
        .query("compliance", "string", "Compliance tags with commas: all of them.")
        .query("limit", "integer", "Most entries, 1 to 1000; 50 by default.")
        .answers(
            "200",
            "A page; `Link: <…>; rel=\"next\"` leads to the next.",
            json!({ "type": "array", "items": { "type": "object" } }),
        );
    let get = of_one("getArtifact", "One signed artifact, verified before it is handed out (artifacts:get)")
        .answers_as("200", "The JWS, flattened; compact with Accept: application/jose.", JOSE_JSON, jws());
    let verify = of_one("verifyArtifact", "Verify a stored artifact (artifacts:verify)").answers(
        "200",
        "What was found; `valid` is the answer.",
        any_object(),
    );
    let provenance = of_one("getArtifactProvenance", "What it was made from, and what from it (artifacts:provenance)")
        .answers("200", "The chain, each artifact verified again.", any_object());
    let hold = operation("holdArtifact", "Put an artifact under legal hold, or take it off (artifacts:hold)")
        .path("id", "The artifact's id.")
        .body(json!({
            "type": "object", "required": ["hold", "reason"], "additionalProperties": false,
            "properties": {
                "hold": { "type": "boolean", "description": "Whether it is to be under hold." },
                "reason": { "type": "string", "minLength": 1, "maxLength": 1000 },
                "version": { "type": "integer", "minimum": 1, "description": "Which version; all by default." },
            },
        }))
        .answers("200", "The versions that are so now.", any_object())
        .answers("202", "People have to agree first; the same answer as for any tool.", any_object());
    vec![
        item("/artifacts", vec![("post", create), ("get", list)]),
        item("/artifacts/{id}", vec![("get", get)]),
        item("/artifacts/{id}/verify", vec![("post", verify)]),
        item("/artifacts/{id}/provenance", vec![("get", provenance)]),
        item("/artifacts/{id}/hold", vec![("post", hold)]),
    ]
    .into_iter()
    .chain(keys())
    .collect()
}

fn keys() -> Vec<(String, Value)> {
    let public = |id: &str, summary: &str| Operation::new("artifacts", id, summary).public();
    let operation = |id: &str, summary: &str| Operation::new("administration", id, summary);
    let set = public("getKeySet", "The keys that sign a workspace's artifacts (RFC 7517); retired ones are marked")
        .path("workspace", "The workspace's name.")
        .query("revoked", "boolean", "Whether revoked keys are in it, marked.")
        .answers_as("200", "The key set.", "application/jwk-set+json", any_object());
    let envelope = public("artifactSchema", "The JSON Schema of the envelope").answers_as(
        "200",
        "JSON Schema 2020-12.",
        "application/schema+json",
        any_object(),
    );
    let types = public("artifactTypes", "The types of artifacts that this node knows").answers_as(
        "200",
        "Each with the JSON Schema of its body.",
        "application/schema+json",
        json!({ "type": "array", "items": { "type": "object" } }),
    );
    let list = operation("listSigningKeys", "The keys that signed and sign a workspace's artifacts")
        .query("workspace", "string", "The caller's own by default.")
        .answers("200", "The keys, oldest first.", json!({ "type": "array", "items": { "type": "object" } }));
    let order = || {
        json!({
            "type": "object", "additionalProperties": false,
            "properties": { "workspace": { "type": "string" }, "reason": { "type": "string" } },
        })
    };
    let rotate = operation("rotateSigningKey", "Retire the key that signs, and make the next").body(order()).answers(
        "200",
        "The new key.",
        any_object(),
    );
    let revoke = operation("revokeSigningKey", "Say that somebody else may have a key")
        .path("kid", "The key's name: its RFC 7638 thumbprint.")
        .body(order())
        .answers("200", "The event.", any_object());
    let scrub = operation("scrubArtifacts", "Hold every stored artifact against what is known of it").answers(
        "200",
        "What was found.",
        any_object(),
    );
    vec![
        item("/jwks/{workspace}", vec![("get", set)]),
        item("/schemas/artifact.json", vec![("get", envelope)]),
        item("/schemas/artifact-types.json", vec![("get", types)]),
        item("/admin/keys", vec![("get", list)]),
        item("/admin/keys/rotate", vec![("post", rotate)]),
        item("/admin/keys/{kid}/revoke", vec![("post", revoke)]),
        item("/admin/artifacts/scrub", vec![("post", scrub)]),
    ]
}
