//! Signed artifacts (`docs/artifact.md`): a JWS whose payload is a document in its envelope, held against the keys that a
//! verifier brings, what it says of itself, and what the keys' publisher says of them.
//!
//! The envelope is looked at as far as the signature is about it. Its finer rules, and whether a body is one of its type,
//! take the registry of types, which a node has.

use serde_json::{Map, Value};

use crate::canonical::{Limits, parse_strict, to_canonical};
use crate::jwk::Mark;
use crate::jws::{self, Jws, SignatureError};
use crate::report::{ArtifactSummary, Check, CheckName, Code, FileKind, Report, Verdict};
use crate::verify::{Outcome, TrustAnchors};

/// `typ` of a signed artifact.
pub const TYP: &str = "fedmcp-artifact+jws";
/// Largest artifact, in canonical bytes.
pub const MAX_BYTES: usize = 1 << 20;
/// By how much the signer's clock may be ahead, in seconds.
pub const CLOCK_SKEW: u64 = 300;

/// The members of an envelope; the first six are always there.
const ENVELOPE: [&str; 9] =
    ["id", "type", "version", "workspaceId", "createdAt", "jsonBody", "derivedFrom", "evidence", "compliance"];

/// Verifies a JWS: as an artifact, if it says that it is one or one is expected, since a workspace is named; else its
/// signature alone.
pub fn verify(bytes: &[u8], anchors: &TrustAnchors) -> Report {
    let jws = match Jws::parse(bytes) {
        Ok(jws) => jws,
        Err(error) => {
            use CheckName::{Artifact, Claims, KeyState, Parse, Signature, Times, Workspace};
            let names = [Parse, Signature, KeyState, Artifact, Claims, Workspace, Times];
            return Report::unreadable(FileKind::Jws, &names, error.code(), &error.to_string());
        }
    };
    if is_typ(&jws) || anchors.workspace.is_some() {
        return verify_artifact(&jws, anchors);
    }
    let mut report = jws::verify(bytes, &anchors.signers);
    report.statements.push(format!("This is no signed artifact: its typ is not {TYP:?}."));
    report
}

fn verify_artifact(jws: &Jws, anchors: &TrustAnchors) -> Report {
    let signature = jws.verify(&anchors.signers);
    let key_known = !matches!(signature, Err(SignatureError::KeyUnknown(_) | SignatureError::NoKeys));
    let key = signature.as_ref().ok().copied().or_else(|| anchors.signers.get(jws.kid()?));
    let read = envelope(jws.payload());
    let artifact = read.as_ref().ok().map(|(summary, _)| summary);
    let claims = Claims::of(jws);
    let mark = key.filter(|_| key_known).and_then(|key| key.mark());
    let checks: Vec<Check> = vec![
        typ(jws).named(CheckName::Parse),
        jws::signed(signature).named(CheckName::Signature),
        state(key_known, mark, &claims).named(CheckName::KeyState),
        payload(&read).named(CheckName::Artifact),
        artifact.map_or_else(not_read, |artifact| claims.check(artifact)).named(CheckName::Claims),
        artifact
            .map_or_else(not_read, |artifact| workspace(artifact, anchors.workspace.as_deref()))
            .named(CheckName::Workspace),
        claims.check_times(anchors.now).named(CheckName::Times),
    ];
    let mut report = Report::from_checks(FileKind::Jws, checks);
    explain(&mut report, &claims, anchors, mark);
    report.artifact = artifact.cloned();
    report
}

/// RFC 7515 section 4.1.9: a media type, which has no upper and lower case.
fn is_typ(jws: &Jws) -> bool {
    jws.typ().is_some_and(|typ| typ.eq_ignore_ascii_case(TYP))
}

/// Whether a JWS says that it is a signed artifact.
pub fn typ(jws: &Jws) -> Outcome {
    match jws.typ() {
        Some(_) if is_typ(jws) => Outcome::Passed(format!("a JWS by ES256, type {TYP}")),
        Some(typ) => Outcome::Failed(Code::TypMismatch, format!("typ is {typ:?}, not {TYP:?}")),
        None => Outcome::Failed(Code::TypMismatch, format!("it has no typ; {TYP:?} is expected")),
    }
}

/// What an artifact says of itself, and whether its bytes are the canonical ones.
fn envelope(payload: &[u8]) -> Result<(ArtifactSummary, bool), String> {
    let limits = Limits { max_bytes: jws::MAX_BYTES, max_depth: 64 };
    let value = parse_strict(payload, &limits).map_err(|e| e.to_string())?;
    let canonical = to_canonical(&value).map_err(|e| e.to_string())?;
    if canonical.len() > MAX_BYTES {
        return Err(format!("it has {} canonical bytes; an artifact has at most {MAX_BYTES}", canonical.len()));
    }
    let members = value.as_object().ok_or("it is not an object")?;
    if let Some(name) = members.keys().find(|name| !ENVELOPE.contains(&name.as_str())) {
        let name: String = name.chars().take(64).collect();
        return Err(format!("the member {name:?} is not known"));
    }
    if let Some(name) = ENVELOPE[6..].iter().find(|name| members.get(**name).is_some_and(|list| !list.is_array())) {
        return Err(format!("{name} is not a list"));
    }
    let summary =
        summary(members).ok_or("id, type, version, workspaceId, createdAt or jsonBody is not as it must be")?;
    Ok((summary, canonical == payload))
}

fn summary(members: &Map<String, Value>) -> Option<ArtifactSummary> {
    let text = |name: &str| members.get(name)?.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    members.get("jsonBody")?.as_object()?;
    Some(ArtifactSummary {
        id: text("id")?,
        artifact_type: text("type")?,
        version: members.get("version")?.as_u64().filter(|version| *version > 0)?,
        workspace: text("workspaceId")?,
        created_at: text("createdAt")?,
    })
}

fn payload(read: &Result<(ArtifactSummary, bool), String>) -> Outcome {
    match read {
        Ok((artifact, true)) => Outcome::Passed(format!(
            "{} version {}, a {:?} of {:?}, in its canonical bytes",
            artifact.id, artifact.version, artifact.artifact_type, artifact.workspace
        )),
        Ok((_, false)) => Outcome::Failed(
            Code::PayloadNotCanonical,
            "the payload is an artifact, but not in its canonical bytes (RFC 8785)".to_owned(),
        ),
        Err(why) => Outcome::Failed(Code::ArtifactMalformed, format!("the payload is no artifact: {why}")),
    }
}

/// Whether the key was fit to sign when this was signed, as far as the key set and the signer say. The signer's word counts
/// where nobody else may have had the key.
fn state(known: bool, mark: Option<Mark>, claims: &Claims<'_>) -> Outcome {
    if !known {
        return Outcome::Skipped(None, "the key is not known".to_owned());
    }
    match mark {
        None => {
            Outcome::Skipped(Some(Code::KeyStateUnknown), "the key set does not say what state it is in".to_owned())
        }
        Some(Mark::Active) => Outcome::Passed("the key set says that the key is active".to_owned()),
        Some(Mark::Retired { at }) if claims.iat.is_some_and(|iat| iat <= at) => {
            Outcome::Passed(format!("signed before the key was retired at {}, by the signer's word", rfc3339(at)))
        }
        Some(Mark::Retired { at }) => {
            Outcome::Failed(Code::KeyRetired, format!("signed after the key was retired at {}", rfc3339(at)))
        }
        Some(Mark::Revoked { at }) => Outcome::Failed(
            Code::KeyRevoked,
            format!("the key was revoked at {}; only the signer says that this was signed before", rfc3339(at)),
        ),
    }
}

/// Whether an artifact is of the workspace whose keys these are.
pub fn workspace(artifact: &ArtifactSummary, expected: Option<&str>) -> Outcome {
    match expected {
        Some(workspace) if workspace == artifact.workspace => Outcome::Passed(format!("of workspace {workspace:?}")),
        Some(workspace) => Outcome::Failed(
            Code::WorkspaceMismatch,
            format!("the artifact is of workspace {:?}, the keys are of {workspace:?}", artifact.workspace),
        ),
        None => Outcome::Skipped(Some(Code::WorkspaceUnknown), "nobody said whose the keys are".to_owned()),
    }
}

/// Of what is about the artifact, where there is none.
pub fn not_read() -> Outcome {
    Outcome::Skipped(None, "the payload is no artifact".to_owned())
}

/// What the header says beside the key.
#[derive(Debug, Clone, Copy)]
pub struct Claims<'a> {
    iss: Option<&'a str>,
    sub: Option<&'a str>,
    artifact_type: Option<&'a str>,
    artifact_version: Option<u64>,
    /// When it was signed, by the signer's word, in seconds since 1970.
    pub iat: Option<u64>,
    /// Until when the signature is meant to be used, in seconds since 1970.
    pub exp: Option<u64>,
}

impl<'a> Claims<'a> {
    /// Those of a JWS; what has another type is as if it were missing.
    pub fn of(jws: &'a Jws) -> Self {
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

    /// Whether the header says what the artifact says.
    pub fn check(&self, artifact: &ArtifactSummary) -> Outcome {
        let (claimed, stated) =
            (self.artifact_version.map(|version| version.to_string()), artifact.version.to_string());
        for (name, claimed, code, stated) in [
            ("iss", self.iss, Code::IssuerMismatch, artifact.workspace.as_str()),
            ("sub", self.sub, Code::SubjectMismatch, &artifact.id),
            ("artifact_type", self.artifact_type, Code::TypeMismatch, &artifact.artifact_type),
            ("artifact_version", claimed.as_deref(), Code::VersionMismatch, &stated),
        ] {
            match claimed {
                Some(claimed) if claimed == stated => {}
                Some(claimed) => {
                    let detail = format!("the header's {name} is {claimed:?}, the artifact says {stated:?}");
                    return Outcome::Failed(code, detail);
                }
                None => {
                    return Outcome::Failed(Code::ClaimMissing, format!("the header has no {name} of the right type"));
                }
            }
        }
        Outcome::Passed("the header names the artifact's workspace, id, type and version".to_owned())
    }

    /// Whether the times are in order; `now` is in seconds since 1970.
    pub fn check_times(&self, now: Option<u64>) -> Outcome {
        let (Some(iat), Some(exp)) = (self.iat, self.exp) else {
            return Outcome::Failed(Code::ClaimMissing, "the header has no iat and exp in seconds".to_owned());
        };
        if exp <= iat {
            return Outcome::Failed(Code::TimesMismatch, "exp is not after iat".to_owned());
        }
        if now.is_some_and(|now| iat > now.saturating_add(CLOCK_SKEW)) {
            let detail = format!("it claims to be signed at {}, which is later than now", rfc3339(iat));
            return Outcome::Failed(Code::IssuedInFuture, detail);
        }
        let until = if self.is_expired(now) { "expired at" } else { "to be used until" };
        Outcome::Passed(format!("signed at {} by the signer's word, {until} {}", rfc3339(iat), rfc3339(exp)))
    }

    /// Whether the signature's time is over.
    pub fn is_expired(&self, now: Option<u64>) -> bool {
        self.exp.zip(now).is_some_and(|(exp, now)| now >= exp)
    }
}

fn explain(report: &mut Report, claims: &Claims<'_>, anchors: &TrustAnchors, mark: Option<Mark>) {
    match report.verdict {
        Verdict::Valid => {
            report.statements.push("Whoever holds that key has signed exactly this artifact.".to_owned());
        }
        Verdict::Unanchored => {
            report.statements.push("Without the signer's key, anyone could have made this file.".to_owned());
        }
        Verdict::Invalid => {}
    }
    if let (true, Some(exp)) = (claims.is_expired(anchors.now), claims.exp) {
        let exp = rfc3339(exp);
        report
            .statements
            .push(format!("The signature expired at {exp}. What it proves of the artifact it still proves."));
    }
    report.not_checked.push("When it was signed: times in the header are the signer's claims.".to_owned());
    if anchors.workspace.is_none() {
        report.not_checked.push("Whether the keys are those of the artifact's workspace.".to_owned());
    }
    report.not_checked.push(match mark {
        None => "Whether the key was retired or revoked.".to_owned(),
        Some(_) => "Whether the key was retired or revoked since the key set was fetched.".to_owned(),
    });
    if anchors.now.is_none() {
        report.not_checked.push("Whether it has expired, or claims to be of the future.".to_owned());
    }
    report.not_checked.extend(
        [
            "Whether the keys that you gave belong to whom you think.",
            "Whether the body is one of its type, and the envelope's finer rules: `countersign artifacts verify`.",
            "Whether what the artifact says is true, and whether there is a later version of it.",
            "The artifacts that it was derived from, and its sources.",
        ]
        .map(str::to_owned),
    );
}

/// Seconds since 1970 as RFC 3339, for people. The date is that of the proleptic Gregorian calendar, counted in eras of 400 years that
/// begin with March, so that leap days come last.
pub fn rfc3339(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // From 0000-03-01 on.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_utc() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_772_366_400, "2026-03-01T12:00:00Z"),
            (4_102_444_799, "2099-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(seconds), expected);
        }
        // A header may hold any number.
        rfc3339(u64::MAX);
    }
}
