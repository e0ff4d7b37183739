//! When something was signed: timestamps of trusted authorities, and the word of logs of Rekor's first version.

use countersign_proof::canonical::to_canonical;
use serde_json::json;

use super::log::log_of;
use super::work::Work;
use super::{Failure, Outcome, Policy, Run, Subject, chain, fail};
use crate::certificate::Certificate;
use crate::entry::LogEntry;
use crate::keys::{HashAlgorithm, PublicKey};
use crate::report::{CheckName, Code, SignedTime};
use crate::root::{AuthorityInstance, LogInstance, TrustedRoot};
use crate::timestamp::{TimestampError, Token};

/// Checks every timestamp and every promise of a log, and notes the times that hold.
pub(super) fn check(run: &mut Run, subject: &Subject<'_>, root: &TrustedRoot, policy: &Policy) {
    let mut unknown = Vec::new();
    for timestamp in &subject.bundle.timestamps {
        match check_timestamp(timestamp, subject.bundle.content.signature(), root, &mut run.work) {
            Ok(time) => {
                run.record(CheckName::Timestamp, Ok(format!("{} by {}", time.seconds, time.source)));
                run.times.push(time);
            }
            Err(failure @ Failure(Code::TimestampAuthorityUnknown, _)) => unknown.push(failure),
            Err(failure) => run.record(CheckName::Timestamp, Err(failure)),
        }
    }
    for (at, entry) in subject.bundle.entries.iter().enumerate().filter(|(_, entry)| entry.promise.is_some()) {
        check_promise(run, at, entry, root);
    }
    // A time of somebody unknown does no harm beside one that is trusted.
    for Failure(code, detail) in unknown {
        if run.times.is_empty() {
            run.record(CheckName::Timestamp, fail(code, detail));
        } else {
            run.skip(CheckName::Timestamp, Some(code), detail);
        }
    }
    let nobody = run.times.is_empty() && !run.checks.iter().any(|c| c.name == CheckName::Timestamp);
    if nobody && policy.without_time {
        run.not_checked.push("when it was signed: nobody trusted says so".to_owned());
        run.skip(CheckName::Timestamp, Some(Code::NoTrustedTime), "nobody trusted says when it was signed");
    } else if nobody {
        run.record(CheckName::Timestamp, fail(Code::NoTrustedTime, "nobody trusted says when it was signed"));
    }
}

fn check_timestamp(der: &[u8], signature: &[u8], root: &TrustedRoot, work: &mut Work) -> Result<SignedTime, Failure> {
    let token = Token::from_response(der).map_err(named)?;
    token.check_message(signature).map_err(named)?;
    let mut failure = Failure(Code::TimestampAuthorityUnknown, "it is by no trusted authority".to_owned());
    for authority in &root.timestamp_authorities {
        match check_authority(&token, authority, work) {
            Ok(()) => return Ok(time_by(authority, token.seconds())),
            Err(Failure(Code::TimestampAuthorityUnknown, _)) => {}
            Err(spent @ Failure(Code::TooManySignatures, _)) => return Err(spent),
            Err(other) => failure = other,
        }
    }
    Err(failure)
}

/// Whether a stamp is by this very authority, and when that was. What it is over is the caller's to check.
///
/// # Errors
/// The failure's stable name, and words for people.
pub(crate) fn check_stamp(token: &Token, authority: &AuthorityInstance) -> Result<SignedTime, (Code, String)> {
    match check_authority(token, authority, &mut Work::default()) {
        Ok(()) => Ok(time_by(authority, token.seconds())),
        Err(Failure(code, detail)) => Err((code, detail)),
    }
}

/// Whether certificates, the authority's own first, are a chain for timestamps at a time in seconds.
///
/// # Errors
/// As above.
pub(crate) fn check_timestamp_chain(chain: &[Certificate], at: u64) -> Result<(), (Code, String)> {
    let Some((leaf, issuers)) = chain.split_first() else {
        return Err((Code::TimestampProfile, "there is no certificate".to_owned()));
    };
    let held = chain::check(leaf, issuers, at, &chain::TIMESTAMPING, &mut Work::default());
    held.map_err(|Failure(code, detail)| (code, detail))?;
    match leaf.public_key() {
        Ok(PublicKey::P256(_) | PublicKey::P384(_)) => Ok(()),
        Ok(PublicKey::Ed25519(_)) => Err((Code::KeyUnsupported, "timestamps by Ed25519 keys are not read".to_owned())),
        Err(error) => Err((Code::KeyUnsupported, error.to_string())),
    }
}

fn time_by(authority: &AuthorityInstance, seconds: u64) -> SignedTime {
    SignedTime { seconds, source: source(authority), operator: authority.operator.clone() }
}

fn source(authority: &AuthorityInstance) -> String {
    if authority.uri.is_empty() { authority.chain[0].subject().to_string() } else { authority.uri.clone() }
}

/// Whether this authority made the stamp. Its certificate comes from the trusted root; one that came with the stamp only
/// counts where the root's chain begins with the authority that issued it.
fn check_authority(token: &Token, authority: &AuthorityInstance, work: &mut Work) -> Result<(), Failure> {
    let first = &authority.chain[0];
    let (signer, issuers) = if token.is_signer(first) {
        (first, &authority.chain[1..])
    } else {
        let issued = |c: &&Certificate| token.is_signer(c) && c.issuer() == first.subject();
        match token.certificates().iter().find(issued) {
            Some(signer) => (signer, authority.chain.as_slice()),
            None => return fail(Code::TimestampAuthorityUnknown, "it is by another authority"),
        }
    };
    work.spend()?;
    token.check_signature(signer).map_err(named)?;
    chain::check(signer, issuers, token.seconds(), &chain::TIMESTAMPING, work)?;
    if !authority.window.contains(token.seconds()) {
        let detail = format!("the timestamp authority was not trusted at {}", token.seconds());
        return fail(Code::TimestampAuthorityNotValid, detail);
    }
    Ok(())
}

fn named(error: TimestampError) -> Failure {
    let code = match error {
        TimestampError::Malformed(_) | TimestampError::Refused(_) => Code::TimestampMalformed,
        TimestampError::Imprint => Code::TimestampMismatch,
        TimestampError::UnknownAuthority => Code::TimestampAuthorityUnknown,
        TimestampError::Content => Code::TimestampChanged,
        TimestampError::SigningCertificate | TimestampError::Signature => Code::TimestampSignatureWrong,
        TimestampError::Unsupported(_) => Code::KeyUnsupported,
    };
    Failure(code, error.to_string())
}

/// Rekor's first version signs time, index, ID and body as canonical JSON ("signed entry timestamp"). The log is the one by
/// which the entry itself is checked later; `at` is the entry's place in the bundle.
fn check_promise(run: &mut Run, at: usize, entry: &LogEntry, root: &TrustedRoot) {
    let Some(log) = log_of(entry, root) else {
        return run.skip(CheckName::LogPromise, Some(Code::LogUnknown), "it is by no trusted log");
    };
    match promised(entry, log, &mut run.work) {
        Ok(time) => {
            run.record(CheckName::LogPromise, Ok(format!("taken at {}", time.seconds)) as Outcome);
            run.times.push(time);
            run.promised.push(at);
        }
        Err(failure) => run.record(CheckName::LogPromise, Err(failure)),
    }
}

/// When a log says that it took an entry.
pub(super) fn promised(entry: &LogEntry, log: &LogInstance, work: &mut Work) -> Result<SignedTime, Failure> {
    work.spend()?;
    let seconds = promise_time(entry, &log.public_key)?;
    if !log.window.contains(seconds) {
        return fail(Code::LogNotValid, format!("the log was not trusted at {seconds}"));
    }
    Ok(SignedTime { seconds, source: log.base_url.clone(), operator: log.operator.clone() })
}

fn promise_time(entry: &LogEntry, public_key: &[u8]) -> Result<u64, Failure> {
    use base64::Engine as _;
    let (Some(time), Some(promise)) = (entry.integrated_time, &entry.promise) else {
        return fail(Code::PromiseWrong, "it promises no time");
    };
    let log_id: String = entry.log_id.iter().map(|b| format!("{b:02x}")).collect();
    let body = base64::engine::general_purpose::STANDARD.encode(&entry.body);
    let promised = json!({"body": body, "integratedTime": time, "logID": log_id, "logIndex": entry.log_index});
    let message = to_canonical(&promised).or_else(|error| fail(Code::PromiseWrong, error))?;
    let key = PublicKey::from_spki(public_key).or_else(|error| fail(Code::KeyUnsupported, error))?;
    if key.verify(HashAlgorithm::Sha256, &message, promise) {
        return Ok(time);
    }
    fail(Code::PromiseWrong, "the log's word for the time is not signed by it")
}
