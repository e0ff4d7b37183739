//! Log entries: about this very signature, in a tree whose head a trusted log signed.

use countersign_proof::checkpoint::Checkpoint;
use countersign_proof::merkle::{leaf_hash, verify_inclusion};
use countersign_proof::note::{NoteError, SignedNote};

use super::work::Work;
use super::{Failure, Outcome, Policy, Run, Subject, fail, rekor1, time};
use crate::entry::{InclusionProof, LogEntry};
use crate::hashedrekord::{HashedRekord, KIND, VERSION, Verifier};
use crate::keys::{HashAlgorithm, PublicKey};
use crate::report::{CheckName, Code, LogPlace, SignedTime};
use crate::root::{LogInstance, TrustedRoot};

/// Checks every log entry.
pub(super) fn check(run: &mut Run, subject: &Subject<'_>, root: &TrustedRoot, policy: &Policy) {
    let entries = &subject.bundle.entries;
    if entries.is_empty() {
        let missing = "there is no log entry of the signature";
        if policy.without_log {
            run.not_checked.push("whether the signature was logged: the policy does without".to_owned());
            return run.skip(CheckName::LogEntry, None, missing);
        }
        return run.record(CheckName::LogEntry, fail(Code::LogEntryMissing, missing));
    }
    let known = entries.iter().any(|entry| log_of(entry, root).is_some());
    for (at, entry) in entries.iter().enumerate() {
        let name = CheckName::LogEntry;
        match log_of(entry, root) {
            Some(log) => {
                let promise_suffices = policy.promise_suffices && run.promised.contains(&at);
                check_entry(run, subject, entry, log, promise_suffices);
            }
            // An entry in somebody else's log does no harm beside one in a trusted log.
            None if known => run.skip(name, Some(Code::LogUnknown), "it is in a log that is not trusted"),
            None => run.record(name, fail(Code::LogUnknown, "it is in no trusted log")),
        }
    }
}

/// The trusted log that an entry names.
pub(super) fn log_of<'a>(entry: &LogEntry, root: &'a TrustedRoot) -> Option<&'a LogInstance> {
    let named = |log: &&LogInstance| log.log_id == entry.log_id || log.checkpoint_id() == entry.log_id;
    root.logs.iter().find(named)
}

/// A failure's stable name, and words for people.
type Named = (Code, String);

/// Whether proof and promise that came with an entry hold; nothing where it has none.
#[expect(clippy::type_complexity, reason = "two of the same, each of which may be missing")]
pub(crate) fn check_evidence(
    entry: &LogEntry,
    root: &TrustedRoot,
) -> (Option<Result<LogPlace, Named>>, Option<Result<SignedTime, Named>>) {
    let Some(log) = log_of(entry, root) else {
        let unknown = || (Code::LogUnknown, "it is by no trusted log".to_owned());
        return (entry.proof.as_ref().map(|_| Err(unknown())), entry.promise.as_ref().map(|_| Err(unknown())));
    };
    let named = |Failure(code, detail)| (code, detail);
    let mut work = Work::default();
    let included = |proof: &InclusionProof, work: &mut Work| {
        check_checkpoint(proof, log, work).map_err(named)?;
        check_inclusion(entry, proof).map_err(named)?;
        let (name, operator) = (log.origin().to_owned(), log.operator.clone());
        Ok(LogPlace { log: name, index: proof.index, size: proof.size, operator })
    };
    let inclusion = entry.proof.as_ref().map(|proof| included(proof, &mut work));
    let promise = entry.promise.as_ref().map(|_| time::promised(entry, log, &mut work).map_err(named));
    (inclusion, promise)
}

/// `promise_suffices`: the policy does with the log's promise, and this very entry's holds.
fn check_entry(run: &mut Run, subject: &Subject<'_>, entry: &LogEntry, log: &LogInstance, promise_suffices: bool) {
    let times: Vec<u64> = run.times.iter().map(|t| t.seconds).collect();
    run.record(CheckName::LogEntry, check_body(subject, entry, log, &times));
    let Some(proof) = &entry.proof else {
        if promise_suffices {
            run.not_checked.push("whether the log kept its promise to include the entry: there is no proof".to_owned());
            return run.skip(CheckName::Inclusion, Some(Code::InclusionMissing), "the log's signed promise is enough");
        }
        return run.record(CheckName::Inclusion, fail(Code::InclusionMissing, "the entry has no inclusion proof"));
    };
    let checkpoint = check_checkpoint(proof, log, &mut run.work);
    let inclusion = check_inclusion(entry, proof);
    if checkpoint.is_ok() && inclusion.is_ok() {
        let (log, operator) = (log.origin().to_owned(), log.operator.clone());
        run.logs.push(LogPlace { log, index: proof.index, size: proof.size, operator });
    }
    run.record(CheckName::Checkpoint, checkpoint);
    run.record(CheckName::Inclusion, inclusion);
}

/// Whether an entry of Rekor's second version is this very leaf, in a tree whose head this log signed.
///
/// # Errors
/// The failure's stable name, and words for people.
pub(crate) fn check_logged(entry: &LogEntry, leaf: &[u8], log: &LogInstance) -> Result<LogPlace, (Code, String)> {
    logged(entry, leaf, log).map_err(|Failure(code, detail)| (code, detail))
}

fn logged(entry: &LogEntry, leaf: &[u8], log: &LogInstance) -> Result<LogPlace, Failure> {
    if entry.log_id != log.log_id && entry.log_id != log.checkpoint_id() {
        return fail(Code::LogUnknown, "the entry names another log");
    }
    if (entry.kind.as_str(), entry.version.as_str()) != (KIND, VERSION) || entry.body != leaf {
        return fail(Code::LogEntryMismatch, "the entry is another than the one that was asked for");
    }
    let Some(proof) = &entry.proof else {
        return fail(Code::InclusionMissing, "the entry has no inclusion proof");
    };
    if proof.index != entry.log_index {
        return fail(Code::LogEntryMismatch, "the entry and its proof have another index");
    }
    check_checkpoint(proof, log, &mut Work::default())?;
    check_inclusion(entry, proof)?;
    let (name, operator) = (log.origin().to_owned(), log.operator.clone());
    Ok(LogPlace { log: name, index: proof.index, size: proof.size, operator })
}

fn check_body(subject: &Subject<'_>, entry: &LogEntry, log: &LogInstance, times: &[u64]) -> Outcome {
    if let Some(time) = times.iter().find(|time| !log.window.contains(**time)) {
        return fail(Code::LogNotValid, format!("the log was not trusted at {time}"));
    }
    if (entry.kind.as_str(), entry.version.as_str()) != (KIND, VERSION) {
        return rekor1::check_body(subject, entry);
    }
    let body = HashedRekord::parse_body(&entry.body);
    let body = body.or_else(|error| fail(Code::LogEntryMismatch, error))?;
    let same_verifier = match &body.verifier {
        Verifier::Certificate(der) => subject.certificate.is_some() && *der == subject.verifier,
        Verifier::PublicKey(spki) => subject.certificate.is_none() && *spki == subject.verifier,
    };
    let Some(digest) = subject.signed_digest(body.hash) else {
        return fail(Code::ArtifactDigestUnknown, format!("the artifact's {} is needed", body.hash.in_toto_name()));
    };
    // Only the older logs count over several trees.
    let same_index = entry.proof.as_ref().is_none_or(|proof| proof.index == entry.log_index);
    for (same, what) in [
        (body.signature == subject.bundle.content.signature(), "signature"),
        (same_verifier, "certificate or key"),
        (body.digest == digest, "digest"),
        (subject.key.as_ref().is_none_or(|key| key.details() == body.key_details), "kind of key"),
        (same_index, "index"),
    ] {
        if !same {
            return fail(Code::LogEntryMismatch, format!("the log entry has another {what}"));
        }
    }
    Ok(format!("{KIND} {VERSION}"))
}

/// The head is signed by the log, and is the one that the proof leads to.
fn check_checkpoint(proof: &InclusionProof, log: &LogInstance, work: &mut Work) -> Outcome {
    let malformed = |error: &dyn ToString| Failure(Code::CheckpointMalformed, error.to_string());
    let note = SignedNote::parse(&proof.checkpoint).map_err(|e: NoteError| malformed(&e))?;
    let key = PublicKey::from_spki(&log.public_key).or_else(|error| fail(Code::KeyUnsupported, error))?;
    let id = log.checkpoint_id().first_chunk::<4>().map(|id| u32::from_be_bytes(*id));
    let mut signed = false;
    for signature in note.signatures().iter().filter(|s| Some(s.key_id) == id && s.name == log.origin()) {
        work.spend()?;
        if !key.verify(HashAlgorithm::Sha256, note.text().as_bytes(), &signature.bytes) {
            return fail(Code::CheckpointSignatureWrong, format!("the signature of {} does not hold", log.origin()));
        }
        signed = true;
    }
    if !signed {
        return fail(Code::CheckpointUnsigned, format!("it is not signed by {}", log.origin()));
    }
    let checkpoint = Checkpoint::parse(note.text()).map_err(|e| malformed(&e))?;
    // Rekor's first version puts the number of its tree behind the name.
    let rest = checkpoint.origin.strip_prefix(log.origin());
    if !rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(" - ")) {
        return fail(Code::CheckpointMalformed, format!("it is of log {:?}", checkpoint.origin));
    }
    if checkpoint.root != proof.root || checkpoint.size != proof.size {
        return fail(Code::CheckpointMismatch, "its tree is another than the proof's");
    }
    Ok(format!("{} leaves, signed by {}", checkpoint.size, log.origin()))
}

fn check_inclusion(entry: &LogEntry, proof: &InclusionProof) -> Outcome {
    match verify_inclusion(&leaf_hash(&entry.body), proof.index, proof.size, &proof.hashes, &proof.root) {
        Ok(()) => Ok(format!("leaf {} of {}", proof.index, proof.size)),
        Err(error) => fail(Code::InclusionMismatch, error),
    }
}
