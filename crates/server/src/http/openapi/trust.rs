//! Signing and verifying, described.

use serde_json::{Value, json};

use super::{Operation, any_object, item};

pub(super) fn trust() -> Vec<(String, Value)> {
    let operation = |id: &str, summary: &str| Operation::new("trust", id, summary);
    let text = || json!({ "type": "string" });
    let pending = "People have to agree first; the same answer as for any tool.";
    let sign = operation("sign", "Sign an artifact by its digest, and record the signature in the log (trust:sign)")
        .body(json!({
            "type": "object", "required": ["artifact_type"], "additionalProperties": false,
            "properties": {
                "artifact": { "type": "string", "description": "sha256: and 64 hexadecimal digits." },
                "image": { "type": "string", "description": "An image in a configured registry instead." },
                "artifact_type": text(), "subject": text(), "metadata": { "type": "object" },
                "statement": { "type": "object", "description": "An in-toto statement to sign: predicate_type, predicate." },
            },
        }))
        .answers("200", "The signature with its Sigstore bundle.", any_object())
        .answers("202", pending, any_object());
    let verify = operation("verify", "Verify signatures of an artifact (trust:verify)")
        .body(json!({
            "type": "object", "required": ["artifact"], "additionalProperties": false,
            "properties": {
                "artifact": text(), "signature": text(), "bundle": { "type": "object" },
                "trusted_root": { "type": "object" }, "identity": text(), "issuer": text(),
                "certificate": text(), "public_key": text(), "log": text(),
                "scenario": { "type": "string", "description": "Only where the node plays scenarios: the answer is made up." },
            },
        }))
        .answers("200", "What was found; `valid` is the answer.", any_object());
    let provenance = operation("getProvenance", "Everything signed about a scan or artifact (trust:get_provenance)")
        .path("scan_id", "The scan_id or subject that signatures name, or an artifact's digest.")
        .query("include_verification_trail", "boolean", "Whether earlier verifications are listed; true by default.")
        .query("scenario", "string", "For tests and demos, where the node plays scenarios: the answer is made up.")
        .answers("200", "The chain: each signature verified again, each place looked at again.", any_object());
    let scan = operation("getScan", "The document of a scan, byte for byte, once it holds (trust:get_scan)")
        .path("digest", "The document's digest, as addScan gave it.")
        .answers("200", "The document; `Repr-Digest` has its SHA-256.", any_object());
    let transparency =
        ["signer", "artifact_type", "artifact", "start_date", "end_date", "cursor", "log", "verifications"]
            .into_iter()
            .fold(
                operation("queryTransparency", "Find signatures, newest first (trust:query_transparency)"),
                |operation, name| operation.query(name, "string", "As the tool takes it."),
            )
            .query("limit", "integer", "Most entries, 1 to 10000, of which a page has at most 1000; 10 by default.")
            .answers(
                "200",
                "A page; `Link: <…>; rel=\"next\"` leads to the next.",
                json!({ "type": "array", "items": { "type": "object" } }),
            );
    let signature = operation("getSignature", "One signature with its bundle (trust:get_signature)")
        .path("entry_id", "The entry's id.")
        .query("log", "string", "By whose entry the bundle proves that it is logged: own, or outside.")
        .answers("200", "The signature.", any_object());
    let stats = operation("getStats", "How much was signed and verified (trust:get_stats)").answers(
        "200",
        "The figures.",
        any_object(),
    );
    let root = operation("trustedRoot", "Whom to trust for this node's signatures: a Sigstore trusted root")
        .public()
        .answers("200", "trusted_root.json", any_object());
    let config = operation("trustConfig", "The same with the node's services: a Sigstore client trust config")
        .public()
        .answers("200", "trustconfig.json", any_object());
    let administered = |id: &str, summary: &str| Operation::new("administration", id, summary);
    let authorities = administered("listAuthorities", "The authorities that there were and are").answers(
        "200",
        "Each with the time in which it is believed, oldest first.",
        json!({ "type": "array", "items": { "type": "object" } }),
    );
    let rotate = administered("rotateAuthority", "Make another authority, and retire the one before")
        .body(json!({
            "type": "object", "required": ["reason"], "additionalProperties": false,
            "properties": {
                "reason": text(),
                "leaked_since": { "type": "string", "description": "Nothing that any of the authorities signed later is believed: RFC 3339, or a date." },
            },
        }))
        .answers("200", "The new authority.", any_object());
    let asked = |path: &str, id: &str, summary: &str| {
        let operation = operation(id, summary).body(any_object()).answers("200", "What the tool gives.", any_object());
        item(path, vec![("post", operation)])
    };
    vec![
        asked("/v1/scans", "addScan", "Take a scanner's report or a bill of materials (trust:add_scan)"),
        item("/v1/scans/{digest}", vec![("get", scan)]),
        asked("/v1/scans/check", "checkScans", "What scans of an artifact come to (trust:check_scans)"),
        asked("/v1/reviews", "recordReview", "Record a person's decision about an artifact (trust:record_review)"),
        asked("/v1/readiness", "deploymentReadiness", "Whether an artifact is ready (trust:deployment_readiness)"),
        asked("/v1/anomalies", "detectAnomalies", "What is unusual about signatures (trust:detect_anomalies)"),
        asked("/v1/compliance", "complianceReport", "Coverage, exceptions, evidence (trust:compliance_report)"),
        asked("/v1/packages/verify", "verifyPackage", "Whether a package may be used (trust:verify_package)"),
        asked("/v1/notifications", "notifyTeam", "Tell a team about an artifact (trust:notify_team)"),
        item("/v1/sign", vec![("post", sign)]),
        item("/v1/verify", vec![("post", verify)]),
        item("/v1/provenance/{scan_id}", vec![("get", provenance)]),
        item("/v1/transparency", vec![("get", transparency)]),
        item("/v1/signatures/{entry_id}", vec![("get", signature)]),
        item("/v1/stats", vec![("get", stats)]),
        item("/trust/trusted_root.json", vec![("get", root)]),
        item("/trust/trustconfig.json", vec![("get", config)]),
        item("/admin/authorities", vec![("get", authorities)]),
        item("/admin/authorities/rotate", vec![("post", rotate)]),
    ]
}
