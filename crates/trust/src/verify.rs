//! Verification of bundles against a trusted root, ours or another's, offline.
//!
//! It follows Sigstore's client specification ("Verification"). Every check is made that can be made, also after one has
//! failed, so that the report says all that is wrong. Nothing in a bundle adds to what is trusted.

mod chain;
mod detached;
mod log;
mod pattern;
mod rekor1;
mod time;
mod work;

use countersign_proof::digest::Digest;

pub use detached::{DetachedError, Holder, MAX_SIGNATURE_BYTES, signature, verify_detached};
pub(crate) use log::{check_evidence, check_logged};
pub use pattern::Pattern;
pub(crate) use rekor1::{Said, said};
pub(crate) use time::{check_stamp, check_timestamp_chain};
use work::Work;

use crate::bundle::{Bundle, Content, Material};
use crate::certificate::Certificate;
use crate::dsse::Statement;
use crate::keys::{HashAlgorithm, PublicKey};
use crate::report::{Check, CheckName, Code, LogPlace, Report, SignedTime, Status, Verdict};
use crate::root::TrustedRoot;

/// What is to be verified.
#[derive(Debug, Clone, Copy)]
pub enum Artifact<'a> {
    /// All of it.
    Bytes(&'a [u8]),
    /// Its SHA-256. Signatures and statements that use another hash cannot be verified with it.
    Sha256(Digest),
    /// Its SHA-512, which is how npm names what it serves. As above.
    Sha512([u8; 64]),
}

impl Artifact<'_> {
    fn digest(&self, hash: HashAlgorithm) -> Option<Vec<u8>> {
        match self {
            Self::Bytes(bytes) => Some(hash.digest(bytes)),
            Self::Sha256(digest) => (hash == HashAlgorithm::Sha256).then(|| digest.0.to_vec()),
            Self::Sha512(digest) => (hash == HashAlgorithm::Sha512).then(|| digest.to_vec()),
        }
    }
}

/// Who is expected to have signed.
#[derive(Debug, Clone, Default)]
pub enum Expected {
    /// Anybody with a certificate. The report then says who it was, and is never valid.
    #[default]
    Anybody,
    /// Somebody with a certificate.
    Certificate {
        /// Who.
        identity: Pattern,
        /// Who vouched for that.
        issuer: Pattern,
    },
    /// The holder of a key: DER of its `SubjectPublicKeyInfo`.
    Key(Vec<u8>),
}

/// What a verifier demands.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// Who is expected to have signed.
    pub expected: Expected,
    /// For instances without a transparency log: do without an entry.
    pub without_log: bool,
    /// For signatures of which nobody trusted says when they were made: do without a time. With a certificate, the report is
    /// then never valid, since it may have ended before.
    pub without_time: bool,
    /// For instances without a certificate log: do without an SCT.
    pub without_sct: bool,
    /// For bundles of version 0.1, of which some have none: do without an inclusion proof where a log's signed promise to
    /// include the entry holds.
    pub promise_suffices: bool,
}

/// Why a check did not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Failure(Code, String);

/// How a check ended: what was found, or why it failed.
type Outcome = Result<String, Failure>;

fn fail<T>(code: Code, detail: impl ToString) -> Result<T, Failure> {
    Err(Failure(code, detail.to_string()))
}

/// Verifies a bundle.
pub fn verify(bundle: &[u8], artifact: &Artifact<'_>, root: &TrustedRoot, policy: &Policy) -> Report {
    verify_with_chain(bundle, artifact, root, policy).0
}

/// Verifies a bundle, and gives the signer's certificate and those above it, as the root has them: DER, the signer's first. There are
/// none for a signature by a bare key, and the signer's alone where nobody in the root issued it.
pub fn verify_with_chain(
    bundle: &[u8],
    artifact: &Artifact<'_>,
    root: &TrustedRoot,
    policy: &Policy,
) -> (Report, Vec<Vec<u8>>) {
    let mut run = match Bundle::parse(bundle) {
        Ok(bundle) => Run::of(&bundle, artifact, root, policy),
        Err(error) => {
            let mut run = Run::default();
            run.record(CheckName::Bundle, fail(Code::BundleMalformed, error));
            run
        }
    };
    let chain = std::mem::take(&mut run.chain);
    (run.report(), chain)
}

/// Verifies what was read from a bundle, or put together from another format that says the same.
pub fn verify_parsed(bundle: &Bundle, artifact: &Artifact<'_>, root: &TrustedRoot, policy: &Policy) -> Report {
    Run::of(bundle, artifact, root, policy).report()
}

/// What the checks need to know of a bundle.
struct Subject<'a> {
    bundle: &'a Bundle,
    artifact: &'a Artifact<'a>,
    key: Option<PublicKey>,
    certificate: Option<Certificate>,
    /// DER of the certificate, or of the key that was given.
    verifier: Vec<u8>,
    statement: Option<Statement>,
    pae: Option<Vec<u8>>,
}

impl Subject<'_> {
    /// The digest of what was signed.
    fn signed_digest(&self, hash: HashAlgorithm) -> Option<Vec<u8>> {
        match &self.pae {
            Some(pae) => Some(hash.digest(pae)),
            None => self.artifact.digest(hash),
        }
    }
}

/// A report in the making.
#[derive(Default)]
struct Run {
    checks: Vec<Check>,
    signer: Option<String>,
    issuer: Option<String>,
    times: Vec<SignedTime>,
    logs: Vec<LogPlace>,
    predicate_type: Option<String>,
    not_checked: Vec<String>,
    anybody: bool,
    /// A certificate of which is not known whether it was valid when it was used.
    untimed: bool,
    /// Who runs the authority that issued the signer's certificate.
    authority: String,
    /// The signer's certificate and those above it, as far as they were found; DER.
    chain: Vec<Vec<u8>>,
    /// The entries, by their places in the bundle, whose log's promise held.
    promised: Vec<usize>,
    work: Work,
}

impl Run {
    fn of(bundle: &Bundle, artifact: &Artifact<'_>, root: &TrustedRoot, policy: &Policy) -> Self {
        let mut run = Self::default();
        run.record(CheckName::Bundle, Ok("a Sigstore bundle".to_owned()));
        run.all(bundle, artifact, root, policy);
        run
    }

    fn record(&mut self, name: CheckName, outcome: Outcome) {
        let (status, code, detail) = match outcome {
            Ok(detail) => (Status::Passed, None, detail),
            Err(Failure(code, detail)) => (Status::Failed, Some(code), detail),
        };
        self.checks.push(Check { name, status, code, detail });
    }

    fn skip(&mut self, name: CheckName, code: Option<Code>, detail: impl Into<String>) {
        self.checks.push(Check { name, status: Status::Skipped, code, detail: detail.into() });
    }

    fn all(&mut self, bundle: &Bundle, artifact: &Artifact<'_>, root: &TrustedRoot, policy: &Policy) {
        let mut subject = Subject {
            bundle,
            artifact,
            key: None,
            certificate: None,
            verifier: Vec::new(),
            statement: None,
            pae: None,
        };
        let statement = self.envelope(&mut subject);
        time::check(self, &subject, root, policy);
        match &bundle.material {
            Material::Certificate(der) => self.certificate(der, &mut subject, root, policy),
            Material::PublicKeyHint(_) => self.given_key(&mut subject, policy),
        }
        log::check(self, &subject, root, policy);
        self.signature(&subject);
        let outcome = statement.and_then(|()| same_artifact(&subject));
        self.record(CheckName::Artifact, outcome);
        self.remarks();
    }

    fn envelope<'a>(&mut self, subject: &mut Subject<'a>) -> Result<(), Failure> {
        let Content::Dsse(envelope) = &subject.bundle.content else { return Ok(()) };
        subject.pae = Some(envelope.pae());
        match Statement::parse(&envelope.payload_type, &envelope.payload) {
            Ok(statement) => {
                self.predicate_type = Some(statement.predicate_type.clone());
                subject.statement = Some(statement);
                Ok(())
            }
            Err(error) => fail(Code::StatementMalformed, error),
        }
    }

    fn certificate(&mut self, der: &[u8], subject: &mut Subject<'_>, root: &TrustedRoot, policy: &Policy) {
        self.chain.push(der.to_vec());
        let certificate = match Certificate::from_der(der) {
            Ok(certificate) => certificate,
            Err(error) => return self.record(CheckName::Certificate, fail(Code::CertificateMalformed, error)),
        };
        self.untimed = policy.without_time && self.times.is_empty();
        let times: Vec<u64> = match self.untimed {
            // Whether its chain holds at all is worth knowing.
            true => vec![certificate.not_before()],
            false => self.times.iter().map(|t| t.seconds).collect(),
        };
        match chain::find_issuers(&certificate, &root.certificate_authorities, &times, &mut self.work) {
            Ok((authority, issuers)) => {
                self.chain.extend(issuers.iter().map(|issuer| issuer.der().to_vec()));
                self.authority = authority.operator.clone();
                let issued = format!("issued by {}", issuers[0].subject());
                if self.untimed {
                    let detail = format!("{issued}; whether it was valid when it was used is not known");
                    self.skip(CheckName::Certificate, Some(Code::NoTrustedTime), detail);
                } else {
                    self.record(CheckName::Certificate, Ok(issued));
                }
                self.sct(&certificate, &issuers[0], root, policy);
            }
            Err(failure) => {
                self.record(CheckName::Certificate, Err(failure));
                self.skip(CheckName::Sct, None, "an SCT is about a certificate of a known issuer");
            }
        }
        self.identity(&certificate, policy);
        // An unsupported key shows where its signature is verified.
        subject.key = certificate.public_key().ok();
        subject.verifier = der.to_vec();
        subject.certificate = Some(certificate);
    }

    fn sct(&mut self, certificate: &Certificate, issuer: &Certificate, root: &TrustedRoot, policy: &Policy) {
        if policy.without_sct {
            self.not_checked.push("whether the certificate was logged: the policy does without an SCT".to_owned());
            return self.skip(CheckName::Sct, None, "the policy does without");
        }
        let outcome = chain::check_scts(certificate, issuer, &root.ct_logs, &mut self.work);
        self.record(CheckName::Sct, outcome);
    }

    fn identity(&mut self, certificate: &Certificate, policy: &Policy) {
        let signer = certificate.identity().map(|i| i.text().to_owned());
        let issuer = certificate.identity_issuer();
        self.signer = signer.as_ref().ok().cloned();
        self.issuer = issuer.as_ref().ok().cloned();
        let matches = |found: Result<String, _>, pattern: &Pattern, code| match found {
            Ok(found) if pattern.matches(&found) => Ok(found),
            Ok(found) => fail(code, format!("it is {found:?}, not {pattern}")),
            Err(error) => fail(code, error),
        };
        match &policy.expected {
            Expected::Certificate { identity, issuer: expected } => {
                self.record(CheckName::Identity, matches(signer, identity, Code::IdentityMismatch));
                self.record(CheckName::Issuer, matches(issuer, expected, Code::IssuerMismatch));
            }
            Expected::Anybody => {
                self.anybody = true;
                for name in [CheckName::Identity, CheckName::Issuer] {
                    self.skip(name, Some(Code::NobodyExpected), "nobody in particular was expected");
                }
            }
            Expected::Key(_) => {
                let failure = fail(Code::KeyUnexpected, "it is signed with a certificate, and a key was expected");
                self.record(CheckName::Identity, failure);
            }
        }
    }

    fn given_key(&mut self, subject: &mut Subject<'_>, policy: &Policy) {
        let outcome = match &policy.expected {
            Expected::Key(spki) => match PublicKey::from_spki(spki) {
                Ok(key) => {
                    subject.key = Some(key);
                    subject.verifier = spki.clone();
                    Ok("the holder of the given key".to_owned())
                }
                Err(error) => fail(Code::KeyUnsupported, error),
            },
            Expected::Anybody => fail(Code::KeyMissing, "it is signed with a bare key, and none was given"),
            Expected::Certificate { .. } => {
                fail(Code::KeyUnexpected, "it is signed with a bare key, and a certificate was expected")
            }
        };
        self.record(CheckName::Identity, outcome);
    }

    fn signature(&mut self, subject: &Subject<'_>) {
        let Some(key) = &subject.key else {
            let outcome = match &subject.certificate {
                Some(_) => fail(Code::KeyUnsupported, "the certificate's key is of a kind that is not supported"),
                None => return self.skip(CheckName::Signature, None, "there is no key to verify it with"),
            };
            return self.record(CheckName::Signature, outcome);
        };
        let signature = subject.bundle.content.signature();
        let hash = key.registered_hash();
        let good = match (key, &subject.pae, subject.artifact) {
            (PublicKey::Ed25519(_), Some(pae), _) => key.verify(hash, pae, signature),
            (PublicKey::Ed25519(_), None, Artifact::Bytes(bytes)) => key.verify(hash, bytes, signature),
            _ => match subject.signed_digest(hash) {
                Some(digest) => key.verify_digest(&digest, signature),
                None => {
                    let detail = format!("the {} of the artifact is needed", hash.in_toto_name());
                    return self.record(CheckName::Signature, fail(Code::ArtifactDigestUnknown, detail));
                }
            },
        };
        let outcome = if good { Ok(key.details().to_owned()) } else { fail(Code::SignatureWrong, "it does not hold") };
        self.record(CheckName::Signature, outcome);
    }

    fn remarks(&mut self) {
        let mut say = |text: &str| self.not_checked.push(text.to_owned());
        say("whether the certificate authority asked well who the signer was");
        say("whether the log shows everybody the same tree: no cosignature of a witness was looked at");
        if self.predicate_type.is_some() {
            say("whether what the statement says about its artifact is so");
        }
    }

    /// What the operator of the certificate authority could have made up alone. Who that is, is known by the name that the
    /// trusted root gives; services without one count as the operator's own.
    fn operator_could_forge(&self) -> Vec<String> {
        if self.authority.is_empty() {
            return Vec::new();
        }
        let who = &self.authority;
        let is_own = |operator: &str| operator.is_empty() || operator == who;
        let mut alone =
            vec![format!("the signature: {who} issues the certificates, and could sign in the signer's name")];
        if !self.times.is_empty() && self.times.iter().all(|time| is_own(&time.operator)) {
            alone.push(format!("the time: only {who} says when it was signed"));
        }
        if !self.logs.is_empty() && self.logs.iter().all(|place| is_own(&place.operator)) {
            alone.push(format!("the log: {who} keeps it, and could show others another one"));
        }
        alone
    }

    fn report(self) -> Report {
        let operator_could_forge = self.operator_could_forge();
        let failed = self.checks.iter().any(|c| c.status == Status::Failed);
        let verdict = match (failed, self.anybody || self.untimed) {
            (true, _) => Verdict::Invalid,
            (false, true) => Verdict::Unanchored,
            (false, false) => Verdict::Valid,
        };
        Report {
            verdict,
            checks: self.checks,
            signer: self.signer,
            issuer: self.issuer,
            times: self.times,
            logs: self.logs,
            predicate_type: self.predicate_type,
            operator_could_forge,
            not_checked: self.not_checked,
        }
    }
}

fn same_artifact(subject: &Subject<'_>) -> Outcome {
    let Some(statement) = &subject.statement else {
        let Content::MessageSignature { digest: Some((hash, digest)), .. } = &subject.bundle.content else {
            return Ok("the bundle states no digest; the signature is over the artifact".to_owned());
        };
        return match subject.artifact.digest(*hash) {
            Some(actual) if actual == *digest => Ok("it has the stated digest".to_owned()),
            Some(_) => fail(Code::ArtifactMismatch, "it has another digest than the one that was signed"),
            None => fail(Code::ArtifactDigestUnknown, format!("its {} is needed", hash.in_toto_name())),
        };
    };
    let mut known = false;
    for hash in HashAlgorithm::ALL.into_iter().filter(|hash| statement.uses(*hash)) {
        let Some(digest) = subject.artifact.digest(hash) else { continue };
        known = true;
        if statement.is_about(hash, &digest) {
            return Ok(format!("a subject of the statement, by its {}", hash.in_toto_name()));
        }
    }
    if known || statement.subject.iter().all(|s| s.digest.is_empty()) {
        return fail(Code::ArtifactMismatch, "no subject of the statement has its digest");
    }
    fail(Code::ArtifactDigestUnknown, "the statement's subjects have other kinds of digests")
}
