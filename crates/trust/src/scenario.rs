//! Answers that are fixed by a scenario, for tests and demos: nothing is looked up and nothing is verified.
//!
//! Whoever quotes a part of such an answer quotes that it is simulated: texts say so, addresses lead nowhere (`.invalid`, RFC 2606), times are
//! the beginning of 1970, digests are zeros, and each object has a member that says so. What cannot carry a word, such as an index, is left out.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The time of everything that never happened.
const NEVER: &str = "1970-01-01T00:00:00Z";
const NOTICE: &str =
    "SIMULATED: the answer is fixed by the scenario that was asked for; nothing was verified or recorded";
const SIGNER: &str = "SIMULATED-SIGNER@scenario.invalid";
const NO_DIGEST: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

/// What is played.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scenario {
    /// Everything holds.
    VerifiedPremiumScan,
    /// What was signed is not what is there.
    TamperedScan,
}

impl Scenario {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::VerifiedPremiumScan, Self::TamperedScan];

    /// Its name, as callers give it.
    pub fn name(self) -> &'static str {
        match self {
            Self::VerifiedPremiumScan => "verified_premium_scan",
            Self::TamperedScan => "tampered_scan",
        }
    }

    /// The scenario of a name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scenario| scenario.name() == name)
    }

    fn holds(self) -> bool {
        match self {
            Self::VerifiedPremiumScan => true,
            Self::TamperedScan => false,
        }
    }

    /// The answer of a verification.
    pub fn verification(self) -> Value {
        let detail = match self {
            Self::VerifiedPremiumScan => "SIMULATED: it is played as if the artifact were the one that was signed",
            Self::TamperedScan => {
                "SIMULATED: it is played as if the artifact were another than the one that was signed"
            }
        };
        let status = if self.holds() { "passed" } else { "failed" };
        let mut told = self.marked(json!({
            "valid": self.holds(),
            "verified_at": NEVER,
            "verified_at_origin": "SIMULATED",
            "signer": SIGNER,
            "issuer": address("issuer"),
            "transparency_index": null,
            "rekor_entry_url": address("signatures/none"),
            "certificate_chain": ["SIMULATED: there is no certificate"],
            "signed_at": [NEVER],
            "logs": [],
            "checks": [{ "name": "artifact", "status": status, "detail": detail, "simulated": true }],
            "not_checked": ["SIMULATED: nothing was checked"],
        }));
        if !self.holds() {
            told["reason"] = json!("SIMULATED: artifact_mismatch");
        }
        told
    }

    /// The answer of a provenance about this.
    pub fn provenance(self, about: &str) -> Value {
        let (status, level, reason) = match self {
            Self::VerifiedPremiumScan => ("complete", "high", "SIMULATED: it is played as if everything held"),
            Self::TamperedScan => ("broken", "none", "SIMULATED: it is played as if a scan had been changed"),
        };
        let trail = json!({
            "verified_at": NEVER, "artifact": NO_DIGEST, "signer": SIGNER, "valid": self.holds(), "simulated": true,
        });
        self.marked(json!({
            "scan_id": about,
            "manifest": self.signature("scan_manifest", "SIMULATED manifest", true),
            "scans": [self.signature("scan_result", "SIMULATED scan", self.holds())],
            "verification_trail": [trail],
            "reviews": [],
            "storage_locations": { "simulated": true, "transparency_log": {
                "origin": "SIMULATED.invalid", "size": 0, "simulated": true,
            } },
            "chain_status": status,
            "trust_level": level,
            "reasons": [reason, NOTICE],
            "truncated": false,
        }))
    }

    fn signature(self, kind: &str, subject: &str, holds: bool) -> Value {
        let place = json!({
            "kind": "object", "status": if holds { "intact" } else { "changed" },
            "name": "SIMULATED", "detail": "SIMULATED: there is no object", "simulated": true,
        });
        let mut signature = json!({
            "entry_id": "SIMULATED",
            "artifact": NO_DIGEST,
            "artifact_type": kind,
            "subject": subject,
            "timestamp": NEVER,
            "timestamp_origin": "SIMULATED",
            "signer": SIGNER,
            "signature": "SIMULATED",
            "rekor_url": address("signatures/none"),
            "valid": holds,
            "transparency_index": null,
            "metadata": { "simulated": true },
            "storage_locations": [place],
            "simulated": true,
        });
        if !holds {
            signature["reasons"] = json!(["SIMULATED: artifact_mismatch"]);
        }
        signature
    }

    fn marked(self, mut told: Value) -> Value {
        told["scenario"] = json!(self.name());
        told["simulated"] = json!(true);
        told["notice"] = json!(NOTICE);
        told
    }
}

fn address(of: &str) -> String {
    format!("https://simulated.invalid/{of}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Texts that are names of the interface, not statements of fact.
    const WORDS: [&str; 12] = [
        "tampered_scan",
        "verified_premium_scan",
        "artifact",
        "passed",
        "failed",
        "scan_manifest",
        "scan_result",
        "object",
        "intact",
        "changed",
        "complete",
        "high",
    ];

    fn each(value: &Value, path: &str, seen: &mut dyn FnMut(&str, &Value)) {
        match value {
            Value::Object(members) => {
                seen(path, value);
                members.iter().for_each(|(name, member)| each(member, &format!("{path}/{name}"), seen));
            }
            Value::Array(items) => items.iter().for_each(|item| each(item, path, seen)),
            other => seen(path, other),
        }
    }

    #[test]
    fn whatever_is_quoted_alone_says_that_it_is_simulated() {
        for scenario in Scenario::ALL {
            for told in [scenario.verification(), scenario.provenance("scan-1")] {
                assert_eq!((&told["scenario"], &told["simulated"]), (&json!(scenario.name()), &json!(true)));
                each(&told, "", &mut |path, value| match value {
                    Value::String(text) => {
                        let says =
                            text.to_ascii_uppercase().contains("SIMULATED") || text == NEVER || text == NO_DIGEST;
                        let is_word = WORDS.contains(&text.as_str()) || ["broken", "none"].contains(&text.as_str());
                        assert!(says || is_word || path == "/scan_id", "{path}: {text}");
                    }
                    Value::Number(number) => assert_eq!(number.as_u64(), Some(0), "{path}"),
                    Value::Object(_) => assert_eq!(value["simulated"], true, "{path}: {value}"),
                    Value::Bool(_) | Value::Null | Value::Array(_) => {}
                });
            }
        }
    }

    #[test]
    fn a_scenario_is_known_by_its_name_alone_and_plays_what_it_says() {
        for scenario in Scenario::ALL {
            assert_eq!(Scenario::named(scenario.name()), Some(scenario));
            assert_eq!(serde_json::to_value(scenario).expect("JSON"), scenario.name());
        }
        assert_eq!(Scenario::named("untampered_scan"), None);
        assert_eq!(Scenario::VerifiedPremiumScan.verification()["valid"], true);
        let tampered = Scenario::TamperedScan.provenance("x");
        assert_eq!((&tampered["chain_status"], &tampered["scan_id"]), (&json!("broken"), &json!("x")));
    }
}
