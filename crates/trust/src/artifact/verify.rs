//! Verifying signed artifacts against keys that the verifier brings.
//!
//! Everything is checked that can be, also after something failed, so that a report names all that is wrong. An expired
//! signature is reported and changes nothing else: an artifact is kept for years, and must stay readable and provable.

use std::collections::BTreeMap;

use countersign_proof::jwk::JwkSet;
use countersign_proof::jws::{Jws, SignatureError};
use serde_json::Value;

use super::report::{Check, CheckName, Code, KeyState, Report, Status, Summary, Verdict};
use super::sign::TYP;
use super::types::{BodyError, Types};
use super::{Artifact, ArtifactError};
use crate::time::to_rfc3339;

/// By how much the signer's clock may be ahead, in seconds.
pub const CLOCK_SKEW: u64 = 300;

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

/// How one check ended.
enum Outcome {
    Passed(String),
    Failed(Code, String),
    Skipped(Option<Code>, String),
}

impl Outcome {
    fn named(self, name: CheckName) -> Check {
        let (status, code, detail) = match self {
            Self::Passed(detail) => (Status::Passed, None, detail),
            Self::Failed(code, detail) => (Status::Failed, Some(code), detail),
            Self::Skipped(code, detail) => (Status::Skipped, code, detail),
        };
        Check { name, status, code, detail }
    }
}

/// Verifies a signed artifact in either form.
pub fn verify(bytes: &[u8], given: &Given<'_>) -> Verified {
    let jws = match Jws::parse(bytes) {
        Ok(jws) => jws,
        Err(error) => {
            return Verified { report: unreadable(Code::Jws(error.code()), error.to_string()), artifact: None };
        }
    };
    let parsed = Artifact::parse(jws.payload());
    let artifact = parsed.as_ref().ok();
    let signature = jws.verify(given.keys);
    let key_known = !matches!(signature, Err(SignatureError::KeyUnknown(_) | SignatureError::NoKeys));
    let kid = signature.as_ref().ok().map(|key| key.kid()).or(jws.kid());
    let key_state = kid.filter(|_| key_known).and_then(|kid| given.states.get(kid)).copied();
    let claims = Claims::of(&jws);
    let checks = vec![
        typ(&jws).named(CheckName::Jws),
        signed(signature.as_ref().map(|key| key.kid())).named(CheckName::Signature),
        state(key_known, key_state, &claims, given).named(CheckName::KeyState),
        payload(&jws, &parsed).named(CheckName::Artifact),
        artifact.map_or_else(not_read, |artifact| claims.check(artifact)).named(CheckName::Claims),
        artifact.map_or_else(not_read, |artifact| workspace(artifact, given)).named(CheckName::Workspace),
        claims.check_times(given.now).named(CheckName::Times),
        artifact.map_or_else(not_read, |artifact| body(artifact, given)).named(CheckName::Body),
    ];
    let mut report = Report {
        verdict: verdict(&checks),
        checks,
        key_id: kid.map(str::to_owned),
        key_state,
        signed_at: claims.iat,
        expires_at: claims.exp,
        expired: claims.exp.map(|exp| given.now >= exp),
        artifact: artifact.map(summary),
        statements: Vec::new(),
        not_checked: Vec::new(),
    };
    explain(&mut report, given);
    let artifact = parsed.ok().filter(|_| report.verdict != Verdict::Invalid);
    Verified { report, artifact }
}

fn unreadable(code: Code, detail: String) -> Report {
    use CheckName::{Artifact, Body, Claims, KeyState, Signature, Times, Workspace};
    let mut checks = vec![Outcome::Failed(code, detail).named(CheckName::Jws)];
    let rest = [Signature, KeyState, Artifact, Claims, Workspace, Times, Body];
    checks.extend(rest.map(|name| Outcome::Skipped(None, "the file could not be read".to_owned()).named(name)));
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

fn typ(jws: &Jws) -> Outcome {
    match jws.typ() {
        // RFC 7515 section 4.1.9: a media type, which has no upper and lower case.
        Some(typ) if typ.eq_ignore_ascii_case(TYP) => Outcome::Passed(format!("a JWS by ES256, type {TYP}")),
        Some(typ) => Outcome::Failed(Code::TypMismatch, format!("typ is {typ:?}, not {TYP:?}")),
        None => Outcome::Failed(Code::TypMismatch, format!("it has no typ; {TYP:?} is expected")),
    }
}

fn signed(signature: Result<&str, &SignatureError>) -> Outcome {
    match signature {
        Ok(kid) => Outcome::Passed(format!("by the key {kid:?}")),
        Err(error @ (SignatureError::KeyUnknown(_) | SignatureError::NoKeys)) => {
            Outcome::Skipped(Some(Code::Jws(error.code())), error.to_string())
        }
        Err(error @ (SignatureError::Wrong(_) | SignatureError::WrongForAll(_))) => {
            Outcome::Failed(Code::Jws(error.code()), error.to_string())
        }
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
        None => Outcome::Skipped(Some(Code::KeyStateUnknown), "nobody said what state the key was in".to_owned()),
        Some(KeyState::Active) => Outcome::Passed("the key is active".to_owned()),
        Some(KeyState::Retired { at }) if seen_by(at) || claims.iat.is_some_and(|iat| iat <= at) => {
            Outcome::Passed(format!("signed before the key was retired at {}", to_rfc3339(at)))
        }
        Some(KeyState::Retired { at }) => {
            Outcome::Failed(Code::KeyRetired, format!("signed after the key was retired at {}", to_rfc3339(at)))
        }
        Some(KeyState::Revoked { at }) if seen_by(at) => Outcome::Passed(format!(
            "the signature is known to have existed before the key was revoked at {}",
            to_rfc3339(at)
        )),
        Some(KeyState::Revoked { at }) => Outcome::Failed(
            Code::KeyRevoked,
            format!("the key was revoked at {}; only the signer says that this was signed before", to_rfc3339(at)),
        ),
    }
}

fn payload(jws: &Jws, parsed: &Result<Artifact, ArtifactError>) -> Outcome {
    match parsed {
        Ok(artifact) if artifact.canonical() == jws.payload() => {
            Outcome::Passed(format!("an artifact of {} canonical bytes", jws.payload().len()))
        }
        Ok(_) => Outcome::Failed(
            Code::PayloadNotCanonical,
            "the payload is an artifact, but not in its canonical bytes (RFC 8785)".to_owned(),
        ),
        Err(error) => Outcome::Failed(Code::ArtifactMalformed, error.to_string()),
    }
}

fn not_read() -> Outcome {
    Outcome::Skipped(None, "the payload is no artifact".to_owned())
}

fn workspace(artifact: &Artifact, given: &Given<'_>) -> Outcome {
    match given.workspace {
        Some(workspace) if workspace == artifact.workspace() => Outcome::Passed(format!("of workspace {workspace:?}")),
        Some(workspace) => Outcome::Failed(
            Code::WorkspaceMismatch,
            format!("the artifact is of workspace {:?}, the keys are of {workspace:?}", artifact.workspace()),
        ),
        None => Outcome::Skipped(Some(Code::WorkspaceUnknown), "nobody said whose the keys are".to_owned()),
    }
}

fn body(artifact: &Artifact, given: &Given<'_>) -> Outcome {
    let Some(types) = given.types else { return Outcome::Skipped(None, "no types were given".to_owned()) };
    match types.check(artifact) {
        Ok(found) => Outcome::Passed(format!("a body of type {:?}", found.name())),
        Err(error @ BodyError::UnknownType { .. }) => Outcome::Skipped(Some(Code::TypeUnknown), error.to_string()),
        Err(error @ BodyError::Body { .. }) => Outcome::Failed(Code::BodyMismatch, error.to_string()),
    }
}

/// What the header says beside the key.
struct Claims<'a> {
    iss: Option<&'a str>,
    sub: Option<&'a str>,
    artifact_type: Option<&'a str>,
    artifact_version: Option<u64>,
    iat: Option<u64>,
    exp: Option<u64>,
}

impl<'a> Claims<'a> {
    fn of(jws: &'a Jws) -> Self {
        let text = |name| jws.header().get(name).and_then(Value::as_str);
        let number = |name| jws.header().get(name).and_then(Value::as_u64);
        Self {
            iss: text("iss"),
            sub: text("sub"),
            artifact_type: text("artifact_type"),
            artifact_version: number("artifact_version"),
            iat: number("iat"),
            exp: number("exp"),
        }
    }

    fn check(&self, artifact: &Artifact) -> Outcome {
        let version = self.artifact_version.map(|version| version.to_string());
        let pairs = [
            ("iss", self.iss, Code::IssuerMismatch, artifact.workspace().to_owned()),
            ("sub", self.sub, Code::SubjectMismatch, artifact.id().to_string()),
            ("artifact_type", self.artifact_type, Code::TypeMismatch, artifact.artifact_type().to_owned()),
            ("artifact_version", version.as_deref(), Code::VersionMismatch, artifact.version().to_string()),
        ];
        for (name, claimed, code, actual) in pairs {
            match claimed {
                Some(claimed) if claimed == actual => {}
                Some(claimed) => {
                    let detail = format!("the header's {name} is {claimed:?}, the artifact says {actual:?}");
                    return Outcome::Failed(code, detail);
                }
                None => {
                    return Outcome::Failed(Code::ClaimMissing, format!("the header has no {name} of the right type"));
                }
            }
        }
        Outcome::Passed("the header names the artifact's workspace, id, type and version".to_owned())
    }

    fn check_times(&self, now: u64) -> Outcome {
        let (Some(iat), Some(exp)) = (self.iat, self.exp) else {
            return Outcome::Failed(Code::ClaimMissing, "the header has no iat and exp in seconds".to_owned());
        };
        if exp <= iat {
            return Outcome::Failed(Code::TimesMismatch, "exp is not after iat".to_owned());
        }
        if iat > now.saturating_add(CLOCK_SKEW) {
            let detail = format!("it claims to be signed at {}, which is later than now", to_rfc3339(iat));
            return Outcome::Failed(Code::IssuedInFuture, detail);
        }
        let until = if now >= exp { "expired at" } else { "to be used until" };
        Outcome::Passed(format!("signed at {} by the signer's word, {until} {}", to_rfc3339(iat), to_rfc3339(exp)))
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
        let exp = to_rfc3339(exp);
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
