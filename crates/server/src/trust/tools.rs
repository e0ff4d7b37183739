//! What the tools are called, take and give: one table, from which definitions, effects and pins follow.

use std::collections::BTreeMap;

use countersign_catalog::manifest::ToolEntry;
use countersign_catalog::{Definition, Kind, Manifest};
use countersign_domain::Effect;
use countersign_proof::digest::Digest;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::capability::{Failure, clipped, tool};

/// The upstream's name.
pub(crate) const NAME: &str = "trust";
pub(super) const SIGN: &str = "sign";
pub(super) const VERIFY: &str = "verify";
pub(super) const PROVENANCE: &str = "get_provenance";
pub(super) const QUERY: &str = "query_transparency";
pub(super) const SIGNATURE: &str = "get_signature";
pub(super) const STATS: &str = "get_stats";

/// Most entries of one page.
pub(super) const MAX_PAGE: u32 = 1000;
/// Most bytes of a signature's metadata, as JSON.
pub(super) const MAX_METADATA: usize = 16 << 10;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Sign {
    pub artifact: String,
    pub artifact_type: String,
    #[serde(default)]
    pub subject: Option<String>,
    #[serde(default)]
    pub metadata: Option<Map<String, Value>>,
    #[serde(default)]
    pub statement: Option<Claim>,
}

/// What is stated of an artifact, where more is said than that it was signed.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Claim {
    pub predicate_type: String,
    pub predicate: Value,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Verify {
    pub artifact: String,
    #[serde(default)]
    pub signature: Option<String>,
    #[serde(default)]
    pub bundle: Option<Value>,
    #[serde(default)]
    pub trusted_root: Option<Value>,
    #[serde(default)]
    pub identity: Option<String>,
    #[serde(default)]
    pub issuer: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Provenance {
    pub scan_id: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Query {
    #[serde(default)]
    pub signer: Option<String>,
    #[serde(default)]
    pub artifact_type: Option<String>,
    #[serde(default)]
    pub artifact: Option<String>,
    #[serde(default)]
    pub start_date: Option<String>,
    #[serde(default)]
    pub end_date: Option<String>,
    #[serde(default)]
    pub limit: Option<u32>,
    #[serde(default)]
    pub cursor: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OfEntry {
    pub entry_id: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

/// `sha256:` and 64 hexadecimal digits.
pub(super) fn digest(text: &str) -> Result<Digest, Failure> {
    let wrong = || Failure::Input(format!("{:?} is not a digest: sha256: and 64 hexadecimal digits", clipped(text)));
    text.to_ascii_lowercase().parse().map_err(|_| wrong())
}

/// The manifest, with the pin of each definition, and the definitions.
///
/// # Errors
/// In words, if one of them cannot be pinned.
pub(super) fn described() -> Result<(Manifest, Vec<Box<RawValue>>), String> {
    let (mut entries, mut raw) = (BTreeMap::new(), Vec::new());
    for (effect, definition) in definitions() {
        let text = definition.to_string();
        let read = Definition::read(Kind::Tool, &text).map_err(|why| format!("{}: {why}", definition["name"]))?;
        entries.insert(read.name, ToolEntry { effect: Some(effect), pin: Some(read.pin), ..ToolEntry::default() });
        raw.push(RawValue::from_string(text).map_err(|why| why.to_string())?);
    }
    let name = NAME.parse().map_err(|_| format!("{NAME} is no upstream's name"))?;
    Ok((Manifest::built_in(name, "Signing and verifying", entries), raw))
}

fn definitions() -> Vec<(Effect, Value)> {
    let artifact = json!({
        "type": "string", "pattern": "^[sS][hH][aA]256:[0-9a-fA-F]{64}$",
        "description": "The artifact's SHA-256: sha256: and 64 hexadecimal digits"
    });
    let word = |description: &str| json!({ "type": "string", "maxLength": 1024, "description": description });
    let kind = word("What kind of artifact: container_image, sbom, scan_result, …");
    vec![
        (Effect::Write, sign_tool(&artifact, &kind, &word)),
        (Effect::Read, verify_tool(&artifact, &word)),
        (
            Effect::Read,
            tool(
                PROVENANCE,
                "Everything that was signed about a scan or artifact, each signature verified again",
                &json!({ "scan_id": word("The scan_id or subject that its signatures name, or an artifact's digest") }),
                &["scan_id"],
                &[
                    "scan_id",
                    "manifest",
                    "scans",
                    "verification_trail",
                    "storage_locations",
                    "chain_status",
                    "trust_level",
                ],
            ),
        ),
        (Effect::Read, query_tool(&artifact, &kind, &word)),
        (
            Effect::Read,
            tool(
                SIGNATURE,
                "One signature with its Sigstore bundle, proved against the log's newest checkpoint",
                &json!({ "entry_id": word("The entry's id, as sign and query_transparency give it") }),
                &["entry_id"],
                &["entry_id", "artifact", "artifact_type", "timestamp", "signer", "signature", "rekor_url", "bundle"],
            ),
        ),
        (
            Effect::Read,
            tool(
                STATS,
                "How much was signed and verified in this workspace, and by whom",
                &json!({}),
                &[],
                &["total_signatures", "total_transparency_entries", "verification_stats", "signers", "timestamp"],
            ),
        ),
    ]
}

fn sign_tool(artifact: &Value, kind: &Value, word: &dyn Fn(&str) -> Value) -> Value {
    let statement = json!({
        "type": "object",
        "description": "Signs an in-toto statement about the artifact instead of the artifact alone",
        "properties": {
            "predicate_type": word("URI of the predicate's type, such as https://slsa.dev/provenance/v1"),
            "predicate": { "type": "object", "description": "What is stated" }
        },
        "required": ["predicate_type", "predicate"],
        "additionalProperties": false
    });
    tool(
        SIGN,
        "Signs an artifact by its digest with a certificate for the caller, and records the signature in the transparency log",
        &json!({
            "artifact": artifact,
            "artifact_type": kind,
            "subject": word("What people call it, such as myapp:v2.1.0"),
            "metadata": { "type": "object", "description": "More to be found with the signature; not signed" },
            "statement": statement
        }),
        &["artifact", "artifact_type"],
        &["entry_id", "signature", "certificate", "transparency_entry", "rekor_url", "signer", "issuer", "bundle"],
    )
}

fn verify_tool(artifact: &Value, word: &dyn Fn(&str) -> Value) -> Value {
    tool(
        VERIFY,
        "Verifies signatures of an artifact: certificate, timestamp, transparency log and signer. Without a bundle, those that \
         this node recorded",
        &json!({
            "artifact": artifact,
            "signature": word("The signature to verify, base64, as sign gave it"),
            "bundle": { "type": "object", "description": "A Sigstore bundle, instead of what this node recorded" },
            "trusted_root": { "type": "object", "description": "Whom to trust for the bundle, a Sigstore trusted root; this node otherwise" },
            "identity": word("Who is expected to have signed: exact, or with * within and ** across slashes"),
            "issuer": word("Who is expected to vouch for that; this node otherwise")
        }),
        &["artifact"],
        &["valid", "verified_at", "signer", "transparency_index", "rekor_entry_url", "certificate_chain", "checks"],
    )
}

fn query_tool(artifact: &Value, kind: &Value, word: &dyn Fn(&str) -> Value) -> Value {
    tool(
        QUERY,
        "Finds signatures in this workspace's part of the transparency log, newest first",
        &json!({
            "signer": word("Only of this signer, exactly"),
            "artifact_type": kind,
            "artifact": artifact,
            "start_date": word("Only from this moment on: an RFC 3339 time or a date (UTC)"),
            "end_date": word("Only up to this moment; a date means its end"),
            "limit": { "type": "integer", "minimum": 1, "maximum": MAX_PAGE, "description": "Most entries; 10 if not said" },
            "cursor": word("Goes on where the page with this `next` ended")
        }),
        &[],
        &["entries", "next"],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tool_has_an_effect_and_a_pin_of_its_own() {
        let (manifest, raw) = described().expect("definitions of ours");
        assert_eq!((manifest.tools.len(), raw.len()), (6, 6));
        let pins: std::collections::BTreeSet<_> = manifest.tools.values().map(|tool| tool.pin).collect();
        assert_eq!(pins.len(), 6);
        let writes: Vec<_> = manifest.tools.iter().filter(|(_, tool)| tool.effect != Some(Effect::Read)).collect();
        assert_eq!(writes.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), [SIGN]);
    }

    #[test]
    fn what_is_no_digest_is_refused_in_words() {
        let good = format!("SHA256:{}", "aB".repeat(32));
        assert_eq!(digest(&good).expect("a digest").to_string(), good.to_ascii_lowercase());
        for wrong in ["", "sha256:", "sha512:00", &"a".repeat(64), &format!("{good}0")] {
            assert!(digest(wrong).expect_err(wrong).to_string().contains("64 hexadecimal digits"), "{wrong}");
        }
    }
}
