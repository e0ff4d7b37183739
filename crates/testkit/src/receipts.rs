//! Checking receipts as an auditor would: the file, the log's key, `countersign-proof`, and nothing from the node.

use anyhow::{Context as _, Result, ensure};
use countersign_proof::canonical::to_canonical;
use countersign_proof::commitment::commit;
use countersign_proof::digest::Digest;
use countersign_proof::merkle::leaf_hash;
use countersign_proof::note::VerifierKey;
use countersign_proof::verify_file;
pub use countersign_proof::{Report, TrustAnchors};
use serde_json::Value;

use crate::http::Client;

/// Fetches the verifier keys of all of a node's logs: what an auditor would have been given beforehand.
///
/// # Errors
/// If the node does not publish them.
pub fn anchors(client: &mut Client) -> Result<TrustAnchors> {
    let logs = client.get("/logs")?.expect(200)?;
    let mut anchors = TrustAnchors::new();
    for log in logs.as_array().context("/logs is not a list")? {
        let key = log.get("vkey").and_then(Value::as_str).context("a log without a key")?;
        anchors.add(key.parse::<VerifierKey>()?);
    }
    ensure!(!anchors.logs.is_empty(), "no log");
    Ok(anchors)
}

/// Fetches a receipt and verifies it.
///
/// # Errors
/// If there is none, or it does not verify; the message is the report.
pub fn fetch_valid(client: &mut Client, id: &str, anchors: &TrustAnchors) -> Result<Value> {
    let response = client.get(&format!("/receipts/{id}"))?;
    let receipt = response.expect(200).with_context(|| format!("the receipt {id}"))?;
    let report = verify(&response.body, anchors);
    ensure!(report.is_valid(), "the receipt {id} is not valid:\n{report}");
    ensure!(report.subject.as_deref() == Some(id), "the receipt {id} is about {:?}", report.subject);
    Ok(receipt)
}

/// Verifies a receipt file.
pub fn verify(bytes: &[u8], anchors: &TrustAnchors) -> Report {
    verify_file(bytes, anchors)
}

/// The subject's own event in a receipt file.
///
/// # Errors
/// If the file has no such event.
pub fn subject_event(receipt: &Value) -> Result<&Value> {
    let subject = receipt.get("subject").and_then(Value::as_str).context("a receipt without a subject")?;
    let entries = receipt.get("events").and_then(Value::as_array).context("a receipt without events")?;
    let events = entries.iter().filter_map(|entry| entry.get("event"));
    let mut found = events.filter(|event| event.get("id").and_then(Value::as_str) == Some(subject));
    found.next().context("the receipt's own event is not in it")
}

/// An event in the bytes that its commitment covers (RFC 8785).
///
/// # Errors
/// If it has no such form.
pub fn canonical(event: &Value) -> Result<Vec<u8>> {
    Ok(to_canonical(event)?)
}

/// What somebody who knows every bit of an event but its salt could look for in public: its bytes, their plain digest, the
/// commitment with a salt of zeros, and the leaf hashes of these.
///
/// # Errors
/// If the event has no canonical form.
pub fn guesses(event: &Value) -> Result<Vec<Vec<u8>>> {
    let bytes = canonical(event)?;
    let digests = [Digest::of(&bytes).0, commit(&[0; 32], &bytes).0];
    let leaves = digests.map(|digest| leaf_hash(&digest).to_vec());
    Ok(std::iter::once(bytes.clone())
        .chain(digests.map(|d| d.to_vec()))
        .chain(leaves)
        .chain([leaf_hash(&bytes).to_vec()])
        .collect())
}
