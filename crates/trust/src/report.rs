//! What a verification found: every check by name, who signed, when, where it is logged, and what nobody checked.
//!
//! Names of checks and failures are stable: programs may match on them.

use std::fmt;

pub use countersign_proof::report::{Status, Verdict};
use serde::Serialize;

/// The checks, in the order in which they are reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CheckName {
    /// The file is a bundle of a known version, within bounds.
    Bundle,
    /// A timestamp over the signature, by a trusted authority.
    Timestamp,
    /// An older log's signed word for when it took the entry.
    LogPromise,
    /// The signer's certificate: issued by a trusted authority, for signing, valid when it was used.
    Certificate,
    /// The certificate itself was logged: an SCT by a trusted key.
    Sct,
    /// Who signed is who was expected, by certificate or by key.
    Identity,
    /// Who vouched for that is who was expected.
    Issuer,
    /// The log entry is about this very signature, key and artifact.
    LogEntry,
    /// The log's signed head.
    Checkpoint,
    /// The entry is in the tree of that head.
    Inclusion,
    /// The signature, with the certificate's or the given key.
    Signature,
    /// The artifact is the one that was signed, or that the statement is about.
    Artifact,
}

macro_rules! failures {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Why a check failed, or why it could not be made. The names are stable.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
        pub enum Code {
            $($(#[$doc])* #[serde(rename = $name)] $variant,)*
        }

        impl Code {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The stable machine name.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }
        }
    };
}

failures! {
    /// Not a bundle, or one of another version, or beyond a bound.
    BundleMalformed = "bundle_malformed",
    /// A timestamp is not one, or refuses.
    TimestampMalformed = "timestamp_malformed",
    /// A timestamp is over other bytes than this signature.
    TimestampMismatch = "timestamp_mismatch",
    /// A timestamp's content is not what was signed.
    TimestampChanged = "timestamp_changed",
    /// A timestamp's signature is wrong, or names another certificate.
    TimestampSignatureWrong = "timestamp_signature_wrong",
    /// No trusted timestamp authority made it.
    TimestampAuthorityUnknown = "timestamp_authority_unknown",
    /// The timestamp authority was not trusted or not valid at that time.
    TimestampAuthorityNotValid = "timestamp_authority_not_valid",
    /// The timestamp authority's certificate is not one.
    TimestampProfile = "timestamp_profile",
    /// Neither a trusted timestamp nor a trusted log says when it was signed.
    NoTrustedTime = "no_trusted_time",
    /// An older log's word for its time is wrongly signed.
    PromiseWrong = "promise_wrong",
    /// The certificate cannot be read, or names nobody.
    CertificateMalformed = "certificate_malformed",
    /// No trusted authority has the name of its issuer.
    AuthorityUnknown = "authority_unknown",
    /// Its issuer was not trusted or not valid when it was used.
    AuthorityNotValid = "authority_not_valid",
    /// Its signature is not its issuer's.
    CertificateSignatureWrong = "certificate_signature_wrong",
    /// It was not valid when it was used.
    CertificateNotValid = "certificate_not_valid",
    /// It, or an issuer above it, is not for this purpose.
    CertificateProfile = "certificate_profile",
    /// The certificate has no SCT.
    SctMissing = "sct_missing",
    /// No SCT is by a trusted key.
    SctLogUnknown = "sct_log_unknown",
    /// The SCT's key was not trusted at that time.
    SctLogNotValid = "sct_log_not_valid",
    /// An SCT's signature is wrong.
    SctSignatureWrong = "sct_signature_wrong",
    /// Another signer than expected.
    IdentityMismatch = "identity_mismatch",
    /// Another issuer than expected.
    IssuerMismatch = "issuer_mismatch",
    /// A bundle with a bare key, and no key was given.
    KeyMissing = "key_missing",
    /// A bundle with a bare key, but a certificate was expected, or the other way around.
    KeyUnexpected = "key_unexpected",
    /// The key is of a kind that is not supported.
    KeyUnsupported = "key_unsupported",
    /// The bundle has no log entry.
    LogEntryMissing = "log_entry_missing",
    /// The log entry is of a kind that is not read.
    LogEntryUnsupported = "log_entry_unsupported",
    /// The log entry is about another signature, key or artifact.
    LogEntryMismatch = "log_entry_mismatch",
    /// No trusted log has the entry's ID.
    LogUnknown = "log_unknown",
    /// The log was not trusted at that time.
    LogNotValid = "log_not_valid",
    /// The checkpoint is not one, or of another log.
    CheckpointMalformed = "checkpoint_malformed",
    /// The checkpoint is not signed by the log.
    CheckpointUnsigned = "checkpoint_unsigned",
    /// The checkpoint's signature is wrong.
    CheckpointSignatureWrong = "checkpoint_signature_wrong",
    /// The checkpoint has another root or size than the proof.
    CheckpointMismatch = "checkpoint_mismatch",
    /// The entry has no inclusion proof.
    InclusionMissing = "inclusion_missing",
    /// The proof does not lead to the root.
    InclusionMismatch = "inclusion_mismatch",
    /// The signature is wrong.
    SignatureWrong = "signature_wrong",
    /// The artifact has another digest.
    ArtifactMismatch = "artifact_mismatch",
    /// Only a digest of the artifact was given, and another kind of digest is needed.
    ArtifactDigestUnknown = "artifact_digest_unknown",
    /// The envelope holds no in-toto statement.
    StatementMalformed = "statement_malformed",
    /// The policy demanded nobody in particular.
    NobodyExpected = "nobody_expected",
    /// To go on, more signatures would have to be verified than one report may cost.
    TooManySignatures = "too_many_signatures",
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Which.
    pub name: CheckName,
    /// How it ended.
    pub status: Status,
    /// Why it failed, or why it was skipped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<Code>,
    /// For people.
    pub detail: String,
}

/// When something was signed, and who says so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SignedTime {
    /// Seconds.
    pub seconds: u64,
    /// The authority's or log's address.
    pub source: String,
    /// Who runs it, as the trusted root says; empty where it does not.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub operator: String,
}

/// Where a signature is logged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LogPlace {
    /// The log's origin.
    pub log: String,
    /// The leaf's index in the tree.
    pub index: u64,
    /// Leaves in the tree whose head was signed.
    pub size: u64,
    /// Who runs it, as the trusted root says; empty where it does not.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub operator: String,
}

/// The outcome of a verification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The overall answer. Unanchored: nothing failed, but nobody in particular was expected.
    pub verdict: Verdict,
    /// Every check that was made or left out, in order.
    pub checks: Vec<Check>,
    /// Who signed, as the certificate says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signer: Option<String>,
    /// Who vouched for that, as the certificate says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// When, by those whose word was verified.
    pub times: Vec<SignedTime>,
    /// Where it is logged, as far as that was proved.
    pub logs: Vec<LogPlace>,
    /// The type of the statement's predicate, if it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub predicate_type: Option<String>,
    /// What whoever runs the certificate authority could have made up alone, without anybody else's help.
    pub operator_could_forge: Vec<String>,
    /// What the findings do not show.
    pub not_checked: Vec<String>,
}

impl Report {
    /// The first check of a name that failed, or else the first of that name.
    pub fn check(&self, name: CheckName) -> Option<&Check> {
        let mut of_name = self.checks.iter().filter(|c| c.name == name);
        of_name.clone().find(|c| c.status == Status::Failed).or_else(|| of_name.next())
    }

    /// Why checks failed.
    pub fn failures(&self) -> impl Iterator<Item = Code> {
        self.checks.iter().filter(|c| c.status == Status::Failed).filter_map(|c| c.code)
    }

    /// Whether everything holds, and somebody in particular was expected.
    pub fn is_valid(&self) -> bool {
        self.verdict == Verdict::Valid
    }
}
