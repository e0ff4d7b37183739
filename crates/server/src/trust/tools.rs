//! What the tools are called, take and give: one table, from which definitions, effects and pins follow.

use countersign_domain::Effect;
use countersign_proof::digest::Digest;
use countersign_trust::anomalies::Settings;
use countersign_trust::readiness::Required;
use countersign_trust::review::Decision;
use countersign_trust::scans::policy::ScanPolicy;
use countersign_trust::scenario::Scenario;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::capability::{Failure, clipped, tool};

/// The upstream's name.
pub(crate) const NAME: &str = "trust";
pub(super) const TITLE: &str = "Signing and verifying";
pub(super) const SIGN: &str = "sign";
pub(super) const VERIFY: &str = "verify";
pub(super) const PROVENANCE: &str = "get_provenance";
pub(super) const QUERY: &str = "query_transparency";
pub(super) const SIGNATURE: &str = "get_signature";
pub(super) const STATS: &str = "get_stats";
pub(super) const ADD_SCAN: &str = "add_scan";
pub(super) const GET_SCAN: &str = "get_scan";
pub(super) const CHECK_SCANS: &str = "check_scans";
pub(super) const REVIEW: &str = "record_review";
pub(super) const READINESS: &str = "deployment_readiness";
pub(super) const ANOMALIES: &str = "detect_anomalies";
pub(super) const COMPLIANCE: &str = "compliance_report";
pub(super) const NOTIFY: &str = "notify_team";
pub(super) const PACKAGE: &str = "verify_package";
pub(super) const ISSUE: &str = "issue_certificate";
pub(super) const LOG: &str = "log_entry";

/// What is finished once it was begun: the caller may go away meanwhile.
pub(super) const WRITES: &[&str] = &[SIGN, ADD_SCAN, REVIEW, NOTIFY, ISSUE, LOG];

/// Most entries of one page.
pub(super) const MAX_PAGE: u32 = 1000;
/// Most entries that may be asked for: what does not fit a page is on the next ones.
const MAX_LIMIT: u32 = 10_000;
/// Most bytes of a signature's metadata, as JSON.
pub(super) const MAX_METADATA: usize = 16 << 10;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Sign {
    #[serde(default)]
    pub artifact: Option<String>,
    #[serde(default)]
    pub image: Option<String>,
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
    #[serde(default)]
    pub scenario: Option<Scenario>,
    #[serde(default)]
    pub certificate: Option<String>,
    #[serde(default)]
    pub public_key: Option<String>,
    #[serde(default)]
    pub log: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Provenance {
    #[serde(default)]
    pub scan_id: Option<String>,
    #[serde(default)]
    pub artifact: Option<String>,
    #[serde(default)]
    pub include_verification_trail: Option<bool>,
    #[serde(default)]
    pub scenario: Option<Scenario>,
}

impl Provenance {
    /// What it is about: a scan, or an artifact.
    pub fn about(&self) -> Result<String, Failure> {
        match (&self.scan_id, &self.artifact) {
            (Some(about), None) | (None, Some(about)) => Ok(about.clone()),
            (_, _) => Err(Failure::Input("give a scan_id, or an artifact".to_owned())),
        }
    }
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
    #[serde(default)]
    pub log: Option<String>,
    #[serde(default)]
    pub verifications: Option<Verifications>,
}

/// Which attempts to verify are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verifications {
    Passed,
    Failed,
    All,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OfEntry {
    pub entry_id: String,
    #[serde(default)]
    pub log: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AddScan {
    pub artifact: String,
    pub document: Box<RawValue>,
    #[serde(default)]
    pub subject: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GetScan {
    #[serde(default)]
    pub entry_id: Option<String>,
    #[serde(default)]
    pub document: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CheckScans {
    pub artifact: String,
    #[serde(default)]
    pub policy: Option<ScanPolicy>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RecordReview {
    pub artifact: String,
    pub team: String,
    pub decision: Decision,
    #[serde(default)]
    pub comment: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Readiness {
    pub artifact: String,
    #[serde(default)]
    pub teams: Option<Vec<String>>,
    #[serde(default)]
    pub policy: Option<ScanPolicy>,
    #[serde(default)]
    pub required: Option<Required>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Anomalies {
    #[serde(default)]
    pub since: Option<String>,
    #[serde(default)]
    pub until: Option<String>,
    #[serde(default)]
    pub settings: Option<Settings>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Compliance {
    #[serde(default)]
    pub since: Option<String>,
    #[serde(default)]
    pub until: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Package {
    pub package: String,
    #[serde(default)]
    pub check_external: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Notify {
    pub team: String,
    pub artifact: String,
    #[serde(default)]
    pub subject: Option<String>,
    #[serde(default)]
    pub text: Option<String>,
    #[serde(default)]
    pub link: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Issue {
    #[serde(default)]
    pub certificate_signing_request: Option<String>,
    #[serde(default)]
    pub public_key: Option<String>,
    #[serde(default)]
    pub proof_of_possession: Option<String>,
}

/// `sha256:` and 64 hexadecimal digits.
pub(super) fn digest(text: &str) -> Result<Digest, Failure> {
    let wrong = || Failure::Input(format!("{:?} is not a digest: sha256: and 64 hexadecimal digits", clipped(text)));
    text.to_ascii_lowercase().parse().map_err(|_| wrong())
}

/// Each tool with what it does to the world. Where scenarios are on, some take one more argument; tools for clients of Sigstore's are
/// there where such clients may sign.
pub(super) fn definitions(scenarios: bool, with_clients: bool) -> Vec<(Effect, Value)> {
    let artifact = json!({
        "type": "string", "pattern": "^[sS][hH][aA]256:[0-9a-fA-F]{64}$",
        "description": "The artifact's SHA-256: sha256: and 64 hexadecimal digits"
    });
    let word = |description: &str| json!({ "type": "string", "maxLength": 1024, "description": description });
    let kind = word("What kind of artifact: container_image, sbom, scan_result, …");
    vec![
        (Effect::Write, sign_tool(&artifact, &kind, &word)),
        (Effect::Read, playing(verify_tool(&artifact, &word), scenarios)),
        (Effect::Read, playing(provenance_tool(&word), scenarios)),
        (Effect::Read, query_tool(&artifact, &kind, &word)),
        (
            Effect::Read,
            tool(
                SIGNATURE,
                "One signature with its Sigstore bundle, proved against the log's newest checkpoint",
                &json!({
                    "entry_id": word("The entry's id, as sign and query_transparency give it"),
                    "log": { "type": "string", "enum": ["own", "outside"], "description": "By whose entry the bundle proves that it \
                        is logged: this node's, if not said, or that of the log to which it was forwarded" }
                }),
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
    .into_iter()
    .chain(assessing(&word))
    .chain(with_clients.then(for_clients).into_iter().flatten())
    .collect()
}

/// What clients of Sigstore's need to sign with keys of theirs.
fn for_clients() -> Vec<(Effect, Value)> {
    let text =
        |most: u32, description: &str| json!({ "type": "string", "maxLength": most, "description": description });
    let key = json!({
        "certificate_signing_request": text(16_384, "A PKCS #10 request in PEM, signed with the key; its names are not looked at"),
        "public_key": text(4096, "Instead of it: the key in PEM"),
        "proof_of_possession": text(1024, "With public_key: a signature with it over your subject or mail address, in base64"),
    });
    let issue = tool(
        ISSUE,
        "A certificate in your name for a key of yours, good for ten minutes",
        &key,
        &[],
        &["certificate_chain", "signer", "issuer", "expires_at"],
    );
    let request = json!({ "hashedRekordRequestV002": {
        "type": "object", "required": ["digest", "signature"],
        "description": "The digest that was signed, the signature, and the certificate or key, as Rekor v2 takes them",
    } });
    let log = tool(
        LOG,
        "Puts a signature into the log that you made with a certificate of this node",
        &request,
        &["hashedRekordRequestV002"],
        &["logIndex", "logId", "kindVersion", "inclusionProof", "canonicalizedBody"],
    );
    vec![(Effect::Write, issue), (Effect::Write, log)]
}

/// Scans, reviews and what they come to.
fn assessing(word: &dyn Fn(&str) -> Value) -> Vec<(Effect, Value)> {
    let named = word("The artifact: its SHA-256, or the name under which it was signed, such as api:v1.2.1");
    let policy = json!({ "type": "object", "description": "Limits on findings: max_critical, max_high, max_medium, max_low, \
        max_unknown, ignore, max_age_seconds, require, count_suppressed; none critical or unknown if not said" });
    let since = word("From this moment on: an RFC 3339 time or a date (UTC)");
    let until = word("Up to this moment; a date means its end. Now, if not said");
    vec![
        (
            Effect::Write,
            tool(
                ADD_SCAN,
                "Takes a scanner's report or a bill of materials (SARIF 2.1.0, CycloneDX, SPDX 2.3) about an artifact, signs it and keeps what it says",
                &json!({
                    "artifact": { "type": "string", "pattern": "^[sS][hH][aA]256:[0-9a-fA-F]{64}$",
                        "description": "The artifact's SHA-256: sha256: and 64 hexadecimal digits" },
                    "document": { "type": "object", "description": "The document, as the scanner wrote it" },
                    "subject": word("What people call the artifact")
                }),
                &["artifact", "document"],
                &["entry_id", "artifact", "document", "scan"],
            ),
        ),
        (
            Effect::Read,
            tool(
                GET_SCAN,
                "A scanner's report or a bill of materials as it was handed in, once its digest and its signature hold",
                &json!({
                    "entry_id": word("The entry's id, as add_scan and check_scans give it"),
                    "document": { "type": "string", "pattern": "^[sS][hH][aA]256:[0-9a-fA-F]{64}$",
                        "description": "Or the document's SHA-256" }
                }),
                &[],
                &["entry_id", "artifact", "document", "media_type", "size", "scan", "text"],
            ),
        ),
        (
            Effect::Read,
            tool(
                CHECK_SCANS,
                "What the scans of an artifact found, counted by severity and held against limits",
                &json!({ "artifact": named, "policy": policy }),
                &["artifact"],
                &["artifact", "passed", "verdict", "scans"],
            ),
        ),
        (
            Effect::Write,
            tool(
                REVIEW,
                "Records a person's decision about an artifact, for a team whose role the person has",
                &json!({
                    "artifact": named,
                    "team": { "type": "string", "pattern": "^[a-z0-9][a-z0-9_.-]{0,63}$", "description": "For which team, such as security" },
                    "decision": { "type": "string", "enum": ["approved", "needs_changes", "rejected"], "description": "What was decided" },
                    "comment": { "type": "string", "maxLength": 4000, "description": "Why; needed unless it is approved" }
                }),
                &["artifact", "team", "decision"],
                &["review_id", "artifact", "team", "decision", "by", "recorded_at", "standing"],
            ),
        ),
        (
            Effect::Read,
            tool(
                READINESS,
                "Whether an artifact is ready to be deployed: signed, logged, reviewed, scanned, of stated provenance, with something to go back to",
                &json!({
                    "artifact": named,
                    "teams": { "type": "array", "maxItems": 16, "items": { "type": "string", "maxLength": 64 },
                        "description": "Teams that have to have approved" },
                    "policy": policy,
                    "required": { "type": "object", "description": "Which items have to pass: signature, signers, transparency_log, \
                        reviews, scans, provenance, rollback; all but rollback if not said" }
                }),
                &["artifact"],
                &["artifact", "ready", "checklist", "reasons", "checked_at"],
            ),
        ),
        (
            Effect::Read,
            tool(
                ANOMALIES,
                "What is unusual about the signatures and verifications of a period, by numbers, against the seven days before it",
                &json!({
                    "since": since, "until": until,
                    "settings": { "type": "object", "description": "known_signers, business_hours, and the numbers from which something is unusual" }
                }),
                &[],
                &["status", "window", "baseline", "checks", "findings", "activity"],
            ),
        ),
        (
            Effect::Read,
            tool(
                COMPLIANCE,
                "What was signed, verified, reviewed and scanned in a period, with coverage, exceptions and evidence, as JSON and Markdown",
                &json!({ "since": since, "until": until }),
                &[],
                &["report", "markdown"],
            ),
        ),
        (
            Effect::Read,
            tool(
                PACKAGE,
                "Whether a package of a public registry may be used: the workspace's own list first, then the registry, what it attests, and \
                 what is known against it. A source that does not answer is never taken for a clean one",
                &json!({
                    "package": { "type": "string", "maxLength": 512, "description": "Such as pypi:requests==2.31.0, npm:@scope/name@1.2.3, \
                        cargo:serde@1.0.0, or a package URL" },
                    "check_external": { "type": "boolean", "description": "Whether anybody but the list is asked; true if not said" }
                }),
                &["package"],
                &[
                    "package",
                    "verdict",
                    "reasons",
                    "sources",
                    "vulnerabilities",
                    "attestations",
                    "reputation",
                    "checked_at",
                ],
            ),
        ),
        (
            Effect::Write,
            tool(
                NOTIFY,
                "Tells a team about an artifact, by the webhook and the mail addresses that the operator configured for it",
                &json!({
                    "team": { "type": "string", "maxLength": 64, "description": "Which team" },
                    "artifact": word("The artifact: what people call it, or its digest"),
                    "subject": { "type": "string", "maxLength": 200, "description": "In a line" },
                    "text": { "type": "string", "maxLength": 2500, "description": "In more lines" },
                    "link": { "type": "string", "maxLength": 2000, "description": "Where to read on" }
                }),
                &["team", "artifact"],
                &["notified", "complete", "team", "notification_id", "at", "channels"],
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
            "image": word("An image in a registry instead, such as registry.example/myapp:v2.1.0: its digest is looked up, and the \
                bundle pushed beside it"),
            "artifact_type": kind,
            "subject": word("What people call it, such as myapp:v2.1.0"),
            "metadata": { "type": "object", "description": "More to be found with the signature; not signed" },
            "statement": statement
        }),
        &["artifact_type"],
        &["entry_id", "signature", "certificate", "transparency_entry", "rekor_url", "signer", "issuer", "bundle"],
    )
}

fn provenance_tool(word: &dyn Fn(&str) -> Value) -> Value {
    tool(
        PROVENANCE,
        "Everything that was signed about a scan or artifact: each signature verified again, and each place where something of it is \
         kept looked at again",
        &json!({
            "scan_id": word("The scan_id or subject that its signatures name, or an artifact's digest"),
            "artifact": word("The same, for those who have an artifact: its SHA-256 or the name under which it was signed"),
            "include_verification_trail": { "type": "boolean", "description": "Whether earlier verifications are listed; true if not said" }
        }),
        &[],
        &[
            "scan_id",
            "manifest",
            "scans",
            "verification_trail",
            "reviews",
            "storage_locations",
            "chain_status",
            "trust_level",
            "reasons",
        ],
    )
}

/// The definition with an argument for scenarios, where they are on.
fn playing(mut definition: Value, scenarios: bool) -> Value {
    if scenarios {
        let names = Scenario::ALL.map(Scenario::name);
        definition["inputSchema"]["properties"]["scenario"] = json!({
            "type": "string", "enum": names,
            "description": "For tests and demos: the answer is made up by this scenario, says so, and is recorded nowhere"
        });
    }
    definition
}

fn verify_tool(artifact: &Value, word: &dyn Fn(&str) -> Value) -> Value {
    let text = |description: &str| json!({ "type": "string", "maxLength": 32768, "description": description });
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
            "issuer": word("Who is expected to vouch for that; this node otherwise"),
            "certificate": text("The signer's certificate, PEM, for a signature without a bundle, as cosign writes it"),
            "public_key": text("The signer's public key, PEM, instead of a certificate"),
            "log": word("A log of somebody else that the operator configured, in which such a signature is looked up")
        }),
        &["artifact"],
        &["valid", "verified_at", "signer", "transparency_index", "rekor_entry_url", "certificate_chain", "checks"],
    )
}

fn query_tool(artifact: &Value, kind: &Value, word: &dyn Fn(&str) -> Value) -> Value {
    tool(
        QUERY,
        "Finds signatures in this workspace's part of the transparency log, newest first, or in a log of somebody else",
        &json!({
            "signer": word("Only of this signer, exactly"),
            "artifact_type": kind,
            "artifact": artifact,
            "start_date": word("Only from this moment on: an RFC 3339 time or a date (UTC)"),
            "end_date": word("Only up to this moment; a date means its end"),
            "limit": { "type": "integer", "minimum": 1, "maximum": MAX_LIMIT,
                "description": format!("Most entries; 10 if not said. A page has at most {MAX_PAGE}: `next` leads on") },
            "cursor": word("Goes on where the page with this `next` ended"),
            "log": word("Searches this log of somebody else instead, one that the operator configured: by artifact, or by a signer's \
                mail; at most 10 entries a page, each with what of it was verified"),
            "verifications": { "type": "string", "enum": ["passed", "failed", "all"],
                "description": "Finds, instead of signatures, the attempts to verify one that ended so" }
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
        let (manifest, raw) =
            crate::capability::described(NAME, TITLE, definitions(false, true)).expect("definitions of ours");
        assert_eq!((manifest.tools.len(), raw.len()), (17, 17));
        let pins: std::collections::BTreeSet<_> = manifest.tools.values().map(|tool| tool.pin).collect();
        assert_eq!(pins.len(), 17);
        let writes: Vec<_> = manifest.tools.iter().filter(|(_, tool)| tool.effect != Some(Effect::Read)).collect();
        let mut expected = WRITES.to_vec();
        expected.sort_unstable();
        assert_eq!(writes.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn scenarios_are_an_argument_of_two_tools_where_they_are_on_and_of_none_where_not() {
        let taking = |scenarios: bool| -> Vec<String> {
            let takes = |definition: &Value| definition["inputSchema"]["properties"].get("scenario").is_some();
            let definitions = definitions(scenarios, false).into_iter().map(|(_, definition)| definition);
            definitions.filter(takes).map(|definition| definition["name"].to_string()).collect()
        };
        assert_eq!(taking(true), ["\"verify\"", "\"get_provenance\""]);
        assert!(taking(false).is_empty());
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
