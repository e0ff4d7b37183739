//! The services that Sigstore's own clients sign with, described.

use serde_json::{Value, json};

use super::{Operation, any_object, item};

pub(super) fn sigstore() -> Vec<(String, Value)> {
    let public = |id: &str, summary: &str| Operation::new("trust", id, summary).public();
    let certificate = public("signingCertificate", "A certificate for a key of the client's (Fulcio; trust:issue_certificate)")
        .body(json!({
            "type": "object",
            "properties": {
                "credentials": {
                    "type": "object", "properties": { "oidcIdentityToken": { "type": "string" } },
                    "description": "The identity token; clients may send it as a bearer token, too.",
                },
                "certificateSigningRequest": { "type": "string", "description": "PKCS #10 in PEM, in base64." },
                "publicKeyRequest": { "type": "object", "description": "Instead of it: publicKey.content in PEM, proofOfPossession." },
            },
        }))
        .answers("200", "signedCertificateEmbeddedSct with the chain, leaf first.", any_object())
        .answers("202", "People have to agree first; the same answer as for any tool.", any_object());
    let bundle =
        public("trustBundle", "The issuers' certificates (Fulcio)").answers("200", "Chains in PEM.", any_object());
    let log = public("logEntry", "Log a signature made with a certificate of this node (Rekor v2; trust:log_entry)")
        .body(json!({
            "type": "object", "required": ["hashedRekordRequestV002"],
            "properties": { "hashedRekordRequestV002": { "type": "object" } },
        }))
        .answers("201", "A TransparencyLogEntry with its inclusion proof.", any_object());
    let stamp =
        public("timestamp", "A timestamp (RFC 3161): a request in DER, or as JSON with artifactHash and hashAlgorithm")
            .body(json!({
                "type": "object", "required": ["artifactHash", "hashAlgorithm"],
                "properties": {
                    "artifactHash": { "type": "string" }, "hashAlgorithm": { "type": "string" },
                    "nonce": { "type": "integer" }, "certificates": { "type": "boolean" },
                },
            }))
            .answers_as("200", "A TimeStampResp in DER, which may refuse.", "application/timestamp-reply", json!({}));
    let chain = public("timestampChain", "The certificates of the timestamp authority").answers_as(
        "200",
        "PEM, leaf first.",
        "application/pem-certificate-chain",
        json!({ "type": "string" }),
    );
    vec![
        item("/api/v2/signingCert", vec![("post", certificate)]),
        item("/api/v2/trustBundle", vec![("get", bundle)]),
        item("/api/v2/log/entries", vec![("post", log)]),
        item("/api/v1/timestamp", vec![("post", stamp)]),
        item("/api/v1/timestamp/certchain", vec![("get", chain)]),
    ]
}
