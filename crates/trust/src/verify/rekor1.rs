//! Bodies of log entries of Rekor's first version: `hashedrekord` 0.0.1, `dsse` 0.0.1, `intoto` 0.0.2; and of its second the
//! one that is about statements, `dsse` 0.0.2.
//!
//! Only what ties an entry to a bundle is read: signature, certificate or key, and digest.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_proof::canonical::{Limits, parse_strict};
use serde_json::Value;

use super::{Outcome, Subject, fail};
use crate::bundle::Content;
use crate::entry::LogEntry;
use crate::hashedrekord::{KIND, MAX_BODY_BYTES};
use crate::keys::HashAlgorithm;
use crate::pem;
use crate::report::Code;

/// What an entry says, as far as it matters here.
pub(crate) struct Said {
    pub(crate) signature: Option<Vec<u8>>,
    /// DER of a certificate or key.
    pub(crate) verifier: Option<Vec<u8>>,
    pub(crate) hash: Option<HashAlgorithm>,
    /// In lower-case hexadecimal.
    pub(crate) digest: Option<String>,
}

/// The entry is about this very signature.
pub(super) fn check_body(subject: &Subject<'_>, entry: &LogEntry) -> Outcome {
    // Entries may embed statements, which are larger than hashes.
    let limits = Limits { max_bytes: 64 * MAX_BODY_BYTES, max_depth: 32 };
    let body = parse_strict(&entry.body, &limits).or_else(|error| fail(Code::LogEntryMismatch, error))?;
    let stated = (body["kind"].as_str().unwrap_or_default(), body["apiVersion"].as_str().unwrap_or_default());
    if stated != (entry.kind.as_str(), entry.version.as_str()) {
        return fail(Code::LogEntryMismatch, "the log entry is of another kind than it is said to be");
    }
    let (kind, version) = stated;
    let (said, payload) = match (said(kind, version, &body), &subject.bundle.content) {
        (Some(said), Content::MessageSignature { .. }) if kind == KIND => (said, None),
        (Some(said), Content::Dsse(envelope)) if kind != KIND => (said, Some(&envelope.payload)),
        (_, _) => {
            return fail(Code::LogEntryUnsupported, format!("{kind} {version} is not read for this kind of bundle"));
        }
    };
    let Some(hash) = said.hash else { return fail(Code::LogEntryUnsupported, "the log entry uses another hash") };
    let digest = payload.map_or_else(|| subject.artifact.digest(hash), |payload| Some(hash.digest(payload)));
    let Some(digest) = digest else {
        return fail(Code::ArtifactDigestUnknown, format!("the artifact's {} is needed", hash.in_toto_name()));
    };
    let digest = hex(&digest);
    for (same, what) in [
        (said.signature.as_deref() == Some(subject.bundle.content.signature()), "signature"),
        (said.verifier.is_some_and(|der| der == subject.verifier), "certificate or key"),
        (said.digest.as_deref() == Some(digest.as_str()), "digest"),
    ] {
        if !same {
            return fail(Code::LogEntryMismatch, format!("the log entry has another {what}"));
        }
    }
    Ok(format!("{} {}", entry.kind, entry.version))
}

/// What a body of this kind and version says; nothing, if it is not read here.
pub(crate) fn said(kind: &str, version: &str, body: &Value) -> Option<Said> {
    match (kind, version) {
        (KIND, "0.0.1") => Some(hashedrekord(&body["spec"])),
        ("dsse", "0.0.1") => Some(dsse(&body["spec"])),
        ("dsse", "0.0.2") => Some(dsse2(&body["spec"]["dsseV002"])),
        ("intoto", "0.0.2") => Some(intoto(&body["spec"]["content"])),
        _ => None,
    }
}

fn hashedrekord(spec: &Value) -> Said {
    let (signature, hash) = (&spec["signature"], &spec["data"]["hash"]);
    of_text(signature["content"].as_str().and_then(bytes), &signature["publicKey"]["content"], hash)
}

fn dsse(spec: &Value) -> Said {
    let signature = only(&spec["signatures"]);
    of_text(signature["signature"].as_str().and_then(bytes), &signature["verifier"], &spec["payloadHash"])
}

/// Here, signatures are in base64 twice.
fn intoto(content: &Value) -> Said {
    let signature = only(&content["envelope"]["signatures"]);
    let twice = signature["sig"].as_str().and_then(bytes);
    let once = twice.and_then(|text| bytes(std::str::from_utf8(&text).ok()?));
    of_text(once, &signature["publicKey"], &content["payloadHash"])
}

fn of_text(signature: Option<Vec<u8>>, verifier: &Value, hash: &Value) -> Said {
    let named = |name: &str| HashAlgorithm::ALL.into_iter().find(|h| h.in_toto_name() == name);
    Said {
        signature,
        verifier: verifier.as_str().and_then(bytes).and_then(|bytes| from_pem(&bytes)),
        hash: hash["algorithm"].as_str().and_then(named),
        digest: hash["value"].as_str().map(str::to_owned),
    }
}

/// The second version writes bytes where the first writes text.
fn dsse2(spec: &Value) -> Said {
    let (signature, hash) = (only(&spec["signatures"]), &spec["payloadHash"]);
    let verifier = &signature["verifier"];
    let raw = |kind: &str| verifier[kind]["rawBytes"].as_str().and_then(bytes);
    Said {
        signature: signature["content"].as_str().and_then(bytes),
        verifier: raw("x509Certificate").or_else(|| raw("publicKey")),
        hash: hash["algorithm"].as_str().and_then(HashAlgorithm::from_sigstore_name),
        digest: hash["digest"].as_str().and_then(bytes).map(|digest| hex(&digest)),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn only(list: &Value) -> &Value {
    match list.as_array().map(Vec::as_slice) {
        Some([one]) => one,
        _ => &Value::Null,
    }
}

fn bytes(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

/// A certificate, or a key.
fn from_pem(bytes: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(bytes).ok()?;
    [pem::CERTIFICATE, pem::PUBLIC_KEY].into_iter().find_map(|label| pem::decode(text, label))
}
