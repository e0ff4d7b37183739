//! When something was signed: timestamps of trusted authorities, and the word of logs of Rekor's first version.

use countersign_proof::canonical::to_canonical;
use serde_json::json;

use super::{Failure, Outcome, Run, Subject, chain, fail};
use crate::certificate::Certificate;
use crate::entry::LogEntry;
use crate::keys::{HashAlgorithm, PublicKey};
use crate::report::{CheckName, Code, SignedTime};
use crate::root::{AuthorityInstance, TrustedRoot};
use crate::timestamp::{TimestampError, Token};

/// Checks every timestamp and every promise of a log, and notes the times that hold.
pub(super) fn check(run: &mut Run, subject: &Subject<'_>, root: &TrustedRoot) {
    let mut unknown = Vec::new();
    for timestamp in &subject.bundle.timestamps {
        match check_timestamp(timestamp, subject.bundle.content.signature(), root) {
            Ok(time) => {
                run.record(CheckName::Timestamp, Ok(format!("{} by {}", time.seconds, time.source)));
                run.times.push(time);
            }
            Err(failure @ Failure(Code::TimestampAuthorityUnknown, _)) => unknown.push(failure),
            Err(failure) => run.record(CheckName::Timestamp, Err(failure)),
        }
    }
    for entry in subject.bundle.entries.iter().filter(|e| e.promise.is_some()) {
        check_promise(run, entry, root);
    }
    // A time of somebody unknown does no harm beside one that is trusted.
    for Failure(code, detail) in unknown {
        if run.times.is_empty() {
            run.record(CheckName::Timestamp, fail(code, detail));
        } else {
            run.skip(CheckName::Timestamp, Some(code), detail);
        }
    }
    if run.times.is_empty() && !run.checks.iter().any(|c| c.name == CheckName::Timestamp) {
        run.record(CheckName::Timestamp, fail(Code::NoTrustedTime, "nobody trusted says when it was signed"));
    }
}

fn check_timestamp(der: &[u8], signature: &[u8], root: &TrustedRoot) -> Result<SignedTime, Failure> {
    let token = Token::from_response(der).map_err(named)?;
    token.check_message(signature).map_err(named)?;
    let mut failure = Failure(Code::TimestampAuthorityUnknown, "it is by no trusted authority".to_owned());
    for authority in &root.timestamp_authorities {
        match check_authority(&token, authority) {
            Ok(()) => return Ok(SignedTime { seconds: token.seconds(), source: source(authority) }),
            Err(Failure(Code::TimestampAuthorityUnknown, _)) => {}
            Err(other) => failure = other,
        }
    }
    Err(failure)
}

fn source(authority: &AuthorityInstance) -> String {
    if authority.uri.is_empty() { authority.chain[0].subject().to_string() } else { authority.uri.clone() }
}

/// Whether this authority made the stamp. Its certificate comes from the trusted root; one that came with the stamp only
/// counts where the root's chain begins with the authority that issued it.
fn check_authority(token: &Token, authority: &AuthorityInstance) -> Result<(), Failure> {
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
    token.check_signature(signer).map_err(named)?;
    chain::check(signer, issuers, token.seconds(), &chain::TIMESTAMPING)?;
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

/// Rekor's first version signs time, index, ID and body as canonical JSON ("signed entry timestamp").
fn check_promise(run: &mut Run, entry: &LogEntry, root: &TrustedRoot) {
    let Some(log) = root.logs.iter().find(|log| log.log_id == entry.log_id) else {
        return run.skip(CheckName::LogPromise, Some(Code::LogUnknown), "it is by no trusted log");
    };
    let outcome = promise_time(entry, &log.public_key).and_then(|time| match log.window.contains(time) {
        true => Ok(time),
        false => fail(Code::LogNotValid, format!("the log was not trusted at {time}")),
    });
    match outcome {
        Ok(seconds) => {
            run.record(CheckName::LogPromise, Ok(format!("taken at {seconds}")) as Outcome);
            run.times.push(SignedTime { seconds, source: log.base_url.clone() });
        }
        Err(failure) => run.record(CheckName::LogPromise, Err(failure)),
    }
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
