//! Attestations: signed statements of who published or built a release, verified with a given trusted root.
//!
//! That one is there says nothing. It counts once its signature, its place in the log, its signer and what it states have
//! all been compared with what the registry says of the release.

use serde::Serialize;

use super::plain;
use crate::bundle::{Bundle, Content, Material};
use crate::certificate::{Certificate, Claim};
use crate::dsse::Statement;
use crate::report::{Code, LogPlace, Report, Status};
use crate::root::TrustedRoot;
use crate::verify::{Artifact, Expected, Policy, verify_parsed};

pub use super::npm::RegistryKey;

/// What attestations are verified with.
#[derive(Debug, Clone, Copy, Default)]
pub struct Trust<'a> {
    /// Sigstore's public-good instance signs them; its trusted root is supplied as a file.
    pub root: Option<&'a TrustedRoot>,
    /// The keys of npm's registry, for its publish attestations.
    pub npm_keys: &'a [RegistryKey],
}

/// How an attestation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// All of it holds.
    Verified,
    /// Something about it is wrong.
    Failed,
    /// It is there, and there was nothing to verify it with.
    Unverified,
}

/// What is known of one attestation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Attestation {
    /// The file or release that it was offered for.
    pub subject: String,
    /// What kind of statement it is.
    pub predicate_type: String,
    /// How it ended.
    pub state: State,
    /// Who signed, as the certificate says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signer: Option<String>,
    /// Who vouched for that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// The repository that was built.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// When it was signed, in seconds, by a trusted word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signed_at: Option<u64>,
    /// Where it is logged, as far as that was proved.
    pub logs: Vec<LogPlace>,
    /// What is wrong with it, or why it was not verified.
    pub problems: Vec<String>,
}

impl Attestation {
    pub(super) fn failed(subject: &str, predicate_type: String, why: &str) -> Self {
        Self::bare(subject, predicate_type, State::Failed, why)
    }

    pub(super) fn unverified(subject: &str, predicate_type: String, why: &str) -> Self {
        Self::bare(subject, predicate_type, State::Unverified, why)
    }

    fn bare(subject: &str, predicate_type: String, state: State, why: &str) -> Self {
        Self {
            subject: subject.to_owned(),
            predicate_type,
            state,
            signer: None,
            issuer: None,
            repository: None,
            signed_at: None,
            logs: Vec::new(),
            problems: vec![why.to_owned()],
        }
    }

    /// One more thing is wrong. What was not verified stays so.
    pub(super) fn fail(&mut self, why: &str) {
        if self.state == State::Verified {
            self.state = State::Failed;
        }
        self.problems.push(why.to_owned());
    }
}

/// An attestation in the shape that the verifier takes, and what it is held to.
pub(super) struct Checked<'a> {
    pub(super) bundle: Bundle,
    pub(super) artifact: Artifact<'a>,
    /// None where nobody could be named.
    pub(super) expected: Option<Expected>,
    pub(super) promise_suffices: bool,
}

/// Verifies one; `compare` says what is wrong with its statement and its certificate.
pub(super) fn check(
    subject: &str,
    checked: Result<Checked<'_>, String>,
    trust: &Trust<'_>,
    compare: impl FnOnce(&Statement, Option<&Certificate>) -> Vec<String>,
) -> Attestation {
    let checked = match checked {
        Ok(checked) => checked,
        Err(why) => return Attestation::failed(subject, String::new(), &why),
    };
    let Content::Dsse(envelope) = &checked.bundle.content else {
        return Attestation::failed(subject, String::new(), "it is a signature without a statement");
    };
    let statement = match Statement::parse(&envelope.payload_type, &envelope.payload) {
        Ok(statement) => statement,
        Err(error) => return Attestation::failed(subject, String::new(), &error.to_string()),
    };
    let predicate_type = plain(&statement.predicate_type, 200);
    let Some(root) = trust.root else {
        let why = "it is there, and was not verified: the trusted root of Sigstore's public-good instance is to be \
                   supplied as a file";
        return Attestation::unverified(subject, predicate_type, why);
    };
    let certificate = match &checked.bundle.material {
        Material::Certificate(der) => Certificate::from_der(der).ok(),
        Material::PublicKeyHint(_) => None,
    };
    let mut problems = compare(&statement, certificate.as_ref());
    let known = checked.expected.is_some();
    let policy = Policy {
        expected: checked.expected.unwrap_or_default(),
        promise_suffices: checked.promise_suffices,
        ..Policy::default()
    };
    let report = verify_parsed(&checked.bundle, &checked.artifact, root, &policy);
    let state = judge(&report, known, &mut problems);
    let repository = certificate.and_then(|c| c.claim(Claim::SourceRepositoryUri).ok().flatten());
    Attestation {
        subject: subject.to_owned(),
        predicate_type,
        state,
        signer: report.signer.map(|signer| plain(&signer, 512)),
        issuer: report.issuer.map(|issuer| plain(&issuer, 512)),
        repository: repository.map(|repository| plain(&repository, 512)),
        signed_at: report.times.iter().map(|time| time.seconds).min(),
        logs: report.logs,
        problems,
    }
}

/// What a verification and a comparison come to; adds what the verification found to the problems.
fn judge(report: &Report, known: bool, problems: &mut Vec<String>) -> State {
    // What cannot be read is no lie; anything else that fails is.
    let unsupported = |code: Code| matches!(code, Code::LogEntryUnsupported | Code::KeyUnsupported);
    let unread = problems.is_empty() && known && report.failures().all(unsupported);
    for check in report.checks.iter().filter(|check| check.status == Status::Failed) {
        let code = check.code.map_or("failed", Code::name);
        problems.push(format!("{code}: {}", plain(&check.detail, 300)));
    }
    if !known && problems.is_empty() {
        problems.push("nobody is known who could have signed it".to_owned());
    }
    match (report.is_valid() && problems.is_empty(), unread) {
        (true, _) => State::Verified,
        (false, true) => State::Unverified,
        (false, false) => State::Failed,
    }
}
