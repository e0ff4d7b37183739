//! Verifying signed artifacts against keys that the verifier brings.
//!
//! Everything is checked that can be, also after something failed, so that a report names all that is wrong. An expired
//! signature is reported and changes nothing else: an artifact is kept for years, and must stay readable and provable.

use std::collections::BTreeMap;

use countersign_proof::artifact::{Claims, not_read, rfc3339, typ, workspace};
use countersign_proof::jwk::JwkSet;
use countersign_proof::jws::{Jws, SignatureError, signed};
use countersign_proof::report::{ArtifactSummary, Code as ProofCode};
use countersign_proof::verify::Outcome;

use super::report::{Check, CheckName, Code, KeyState, Report, Status, Summary, Verdict};
use super::types::{BodyError, Types};
use super::{Artifact, ArtifactError};

/// What a verifier brings. Times are in seconds since 1970.
#[derive(Debug, Clone, Copy)]
pub struct Given<'a> {
    /// The keys that it trusts.
    pub keys: &'a JwkSet,
    /// Whose keys they are. A key of one workspace must not vouch for another's artifacts.
    pub workspace: Option<&'a str>,
    /// What is known of the keys' states, by `kid`.
    pub states: &'a BTreeMap<String, KeyState>,
    /// Now.
    pub now: u64,
    /// By when the signature is known to have existed, by somebody else's word than the signer's: a log's or a timestamp
    /// authority's, verified by the caller.
    pub existed_at: Option<u64>,
    /// The types of artifacts that it knows, if bodies are to be checked.
    pub types: Option<&'a Types>,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Verified {
    /// The findings.
    pub report: Report,
    /// What was signed; not there if anything about it is wrong.
    pub artifact: Option<Artifact>,
}

/// A check of what an auditor checks, too.
fn named(outcome: Outcome, name: CheckName) -> Check {
    let (status, code, detail) = match outcome {
        Outcome::Passed(detail) => (Status::Passed, None, detail),
        Outcome::Failed(code, detail) => (Status::Failed, Some(code), detail),
        Outcome::Skipped(code, detail) => (Status::Skipped, code, detail),
    };
    Check { name, status, code: code.map(Code::Proof), detail }
}

/// Verifies a signed artifact in either form.
pub fn verify(bytes: &[u8], given: &Given<'_>) -> Verified {
    let jws = match Jws::parse(bytes) {
        Ok(jws) => jws,
        Err(error) => {
            return Verified { report: unreadable(error.code(), error.to_string()), artifact: None };
        }
    };
    let parsed = Artifact::parse(jws.payload());
    let artifact = parsed.as_ref().ok();
    let stated = artifact.map(stated);
    let signature = jws.verify(given.keys);
    let key_known = !matches!(signature, Err(SignatureError::KeyUnknown(_) | SignatureError::NoKeys));
    let kid = signature.as_ref().ok().map(|key| key.kid()).or(jws.kid());
    let key_state = kid.filter(|_| key_known).and_then(|kid| given.states.get(kid)).copied();
    let claims = Claims::of(&jws);
    let checks = vec![
        named(typ(&jws), CheckName::Jws),
        named(signed(signature), CheckName::Signature),
        named(state(key_known, key_state, &claims, given), CheckName::KeyState),
        named(payload(&jws, &parsed), CheckName::Artifact),
        named(stated.as_ref().map_or_else(not_read, |stated| claims.check(stated)), CheckName::Claims),
        named(stated.as_ref().map_or_else(not_read, |stated| workspace(stated, given.workspace)), CheckName::Workspace),
        named(claims.check_times(Some(given.now)), CheckName::Times),
        artifact.map_or_else(|| named(not_read(), CheckName::Body), |artifact| body(artifact, given)),
    ];
    let mut report = Report {
        verdict: verdict(&checks),
        checks,
        key_id: kid.map(str::to_owned),
        key_state,
        signed_at: claims.iat,
        expires_at: claims.exp,
        expired: claims.exp.map(|_| claims.is_expired(Some(given.now))),
        artifact: artifact.map(summary),
        statements: Vec::new(),
        not_checked: Vec::new(),
    };
    explain(&mut report, given);
    let artifact = parsed.ok().filter(|_| report.verdict != Verdict::Invalid);
    Verified { report, artifact }
}

fn unreadable(code: ProofCode, detail: String) -> Report {
    use CheckName::{Artifact, Body, Claims, KeyState, Signature, Times, Workspace};
    let mut checks = vec![named(Outcome::Failed(code, detail), CheckName::Jws)];
    let rest = [Signature, KeyState, Artifact, Claims, Workspace, Times, Body];
    checks.extend(rest.map(|name| named(Outcome::Skipped(None, "the file could not be read".to_owned()), name)));
    Report {
        verdict: Verdict::Invalid,
        checks,
        key_id: None,
        key_state: None,
        signed_at: None,
        expires_at: None,
        expired: None,
        artifact: None,
        statements: Vec::new(),
        not_checked: Vec::new(),
    }
}

fn verdict(checks: &[Check]) -> Verdict {
    let unanchored = |check: &Check| check.name == CheckName::Signature && check.status == Status::Skipped;
    if checks.iter().any(|check| check.status == Status::Failed) {
        Verdict::Invalid
    } else if checks.iter().any(unanchored) {
        Verdict::Unanchored
    } else {
        Verdict::Valid
    }
}

/// Whether the key was fit to sign when this was signed, as far as anybody but its holder can say.
fn state(known: bool, state: Option<KeyState>, claims: &Claims<'_>, given: &Given<'_>) -> Outcome {
    if !known {
        return Outcome::Skipped(None, "the key is not known".to_owned());
    }
    // What somebody else saw then existed then; the signer's word counts where nobody else may have had the key.
    let seen_by = |at: u64| given.existed_at.is_some_and(|seen| seen <= at);
    match state {
        None => Outcome::Skipped(Some(ProofCode::KeyStateUnknown), "nobody said what state the key was in".to_owned()),
        Some(KeyState::Active) => Outcome::Passed("the key is active".to_owned()),
        Some(KeyState::Retired { at }) if seen_by(at) || claims.iat.is_some_and(|iat| iat <= at) => {
            Outcome::Passed(format!("signed before the key was retired at {}", rfc3339(at)))
        }
        Some(KeyState::Retired { at }) => {
            Outcome::Failed(ProofCode::KeyRetired, format!("signed after the key was retired at {}", rfc3339(at)))
        }
        Some(KeyState::Revoked { at }) if seen_by(at) => Outcome::Passed(format!(
            "the signature is known to have existed before the key was revoked at {}",
            rfc3339(at)
        )),
        Some(KeyState::Revoked { at }) => Outcome::Failed(
            ProofCode::KeyRevoked,
            format!("the key was revoked at {}; only the signer says that this was signed before", rfc3339(at)),
        ),
    }
}

fn payload(jws: &Jws, parsed: &Result<Artifact, ArtifactError>) -> Outcome {
    match parsed {
        Ok(artifact) if artifact.canonical() == jws.payload() => {
            Outcome::Passed(format!("an artifact of {} canonical bytes", jws.payload().len()))
        }
        Ok(_) => Outcome::Failed(
            ProofCode::PayloadNotCanonical,
            "the payload is an artifact, but not in its canonical bytes (RFC 8785)".to_owned(),
        ),
        Err(error) => Outcome::Failed(ProofCode::ArtifactMalformed, error.to_string()),
    }
}

fn body(artifact: &Artifact, given: &Given<'_>) -> Check {
    let (status, code, detail) = match given.types.map(|types| types.check(artifact)) {
        None => (Status::Skipped, None, "no types were given".to_owned()),
        Some(Ok(found)) => (Status::Passed, None, format!("a body of type {:?}", found.name())),
        Some(Err(error @ BodyError::UnknownType { .. })) => {
            (Status::Skipped, Some(Code::TypeUnknown), error.to_string())
        }
        Some(Err(error @ BodyError::Body { .. })) => (Status::Failed, Some(Code::BodyMismatch), error.to_string()),
    };
    Check { name: CheckName::Body, status, code, detail }
}

/// What an artifact says of itself, as the header has to say it.
fn stated(artifact: &Artifact) -> ArtifactSummary {
    ArtifactSummary {
        id: artifact.id().to_string(),
        artifact_type: artifact.artifact_type().to_owned(),
        version: artifact.version(),
        workspace: artifact.workspace().to_owned(),
        created_at: artifact.created_at().to_owned(),
    }
}

fn summary(artifact: &Artifact) -> Summary {
    Summary {
        id: artifact.id(),
        artifact_type: artifact.artifact_type().to_owned(),
        version: artifact.version(),
        workspace_id: artifact.workspace().to_owned(),
        created_at: artifact.created_at().to_owned(),
    }
}

fn explain(report: &mut Report, given: &Given<'_>) {
    match report.verdict {
        Verdict::Valid => {
            report.statements.push("Whoever holds that key has signed exactly this artifact.".to_owned());
        }
        Verdict::Unanchored => {
            report.statements.push("Without the signer's key, anyone could have made this file.".to_owned());
        }
        Verdict::Invalid => {}
    }
    if let (Some(true), Some(exp)) = (report.expired, report.expires_at) {
        let exp = rfc3339(exp);
        report
            .statements
            .push(format!("The signature expired at {exp}. What it proves of the artifact it still proves."));
    }
    if given.existed_at.is_none() {
        report.not_checked.push("When it was signed: times in the header are the signer's claims.".to_owned());
    }
    if given.workspace.is_none() {
        report.not_checked.push("Whether the keys are those of the artifact's workspace.".to_owned());
    }
    if report.key_state.is_none() {
        report.not_checked.push("Whether the key was retired or revoked.".to_owned());
    }
    if given.types.is_none_or(|types| report.artifact.as_ref().is_none_or(|a| types.get(&a.artifact_type).is_none())) {
        report.not_checked.push("Whether the body is one of its type.".to_owned());
    }
    report.not_checked.extend([
        "Whether what the artifact says is true, and whether there is a later version of it.".to_owned(),
        "The artifacts that it was derived from, and its sources.".to_owned(),
    ]);
}
