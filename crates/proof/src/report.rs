//! What a verification found: every check by name, what the findings mean, and what nobody checked.
//!
//! Names of checks and failures are stable: programs may match on them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The overall answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Every check passed or did not apply, against keys that the verifier was given.
    Valid,
    /// At least one check failed.
    Invalid,
    /// Nothing failed, but for at least one log or signer no key was given, so that nothing is proved.
    Unanchored,
}

/// What kind of file was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileKind {
    /// A receipt, see `docs/receipt.md`.
    Receipt,
    /// A checkpoint: a signed note.
    Checkpoint,
    /// A C2SP tlog-proof.
    TlogProof,
    /// A JSON Web Signature.
    Jws,
    /// None of these.
    Unknown,
}

/// The checks, in the order in which they are reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CheckName {
    /// The file is well-formed, within bounds and of a known version.
    Parse,
    /// Every event and disclosed value has RFC 8785 bytes.
    Canonical,
    /// Event and salt hash to the stated commitment.
    Commitment,
    /// The log entry is in the tree of the checkpoint.
    Inclusion,
    /// The checkpoint is signed by the log.
    CheckpointSignature,
    /// Cosignatures by the witnesses that the verifier knows.
    Cosignatures,
    /// As many of them as the verifier demands.
    Quorum,
    /// Every named parent is there, and no event that has nothing to do with the subject.
    Parents,
    /// Neighbours in the workspace's sequence are chained.
    Sequence,
    /// Disclosed values are those whose digests the events hold.
    Disclosures,
    /// A JWS is signed by a key that the verifier knows.
    Signature,
    /// That key was fit to sign when this was signed.
    KeyState,
    /// The payload of a JWS is an artifact in its canonical bytes.
    Artifact,
    /// The header of a JWS says what the artifact says.
    Claims,
    /// The artifact is of the workspace whose keys these are.
    Workspace,
    /// The signature's times are in order.
    Times,
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// It holds.
    Passed,
    /// It does not hold.
    Failed,
    /// It did not apply or could not be made; the detail says why.
    Skipped,
}

macro_rules! failures {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Why a check failed, or why it could not be made. The names are stable.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
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
    /// Neither a receipt nor a note nor a tlog-proof nor a JWS.
    UnknownFile = "unknown_file",
    /// The file exceeds its size bound.
    TooLarge = "too_large",
    /// The JSON is malformed or ambiguous.
    Json = "json",
    /// `format` is not `countersign-receipt/v1`.
    Format = "format",
    /// A member is missing, of the wrong type, or beyond its bound.
    Shape = "shape",
    /// An event lacks a required member, or is of an unknown version.
    EventShape = "event_shape",
    /// Two entries hold the same event.
    EventDuplicate = "event_duplicate",
    /// `subject` names no event of the file.
    SubjectMissing = "subject_missing",
    /// A value has no RFC 8785 form.
    NotCanonical = "not_canonical",
    /// Event and salt do not hash to the stated commitment: one of the three was changed.
    CommitmentMismatch = "commitment_mismatch",
    /// The inclusion proof does not lead to the checkpoint's root.
    InclusionMismatch = "inclusion_mismatch",
    /// A checkpoint is not a well-formed signed note.
    CheckpointMalformed = "checkpoint_malformed",
    /// No checkpoint, or more than one, for the log and size that an entry names.
    CheckpointMissing = "checkpoint_missing",
    /// A checkpoint that no entry uses, or the same one twice.
    CheckpointUnused = "checkpoint_unused",
    /// The verifier has a key for the log, but the checkpoint is not signed by it.
    SignatureMissing = "signature_missing",
    /// The signature in the log's or the key's name is wrong.
    SignatureWrong = "signature_wrong",
    /// No key for this log was given.
    LogUnanchored = "log_unanchored",
    /// A cosignature in a known witness's name is wrong.
    CosignatureWrong = "cosignature_wrong",
    /// Fewer witnesses than demanded.
    QuorumMissed = "quorum_missed",
    /// A named parent is neither in the file nor said to be erased.
    ParentMissing = "parent_missing",
    /// An event is of another workspace than the subject, or an artifact of another than the keys.
    WorkspaceMismatch = "workspace_mismatch",
    /// An event is neither of the subject's call nor an ancestor of the subject.
    CallMismatch = "call_mismatch",
    /// A parent does not come before its child.
    ParentOrder = "parent_order",
    /// Two events have the same sequence number, or sequence and log order contradict one another.
    SequenceOrder = "sequence_order",
    /// `prev` is not the commitment of the preceding event.
    SequenceBroken = "sequence_broken",
    /// A disclosure names no event of the file, or one without such a digest.
    DisclosureUnknown = "disclosure_unknown",
    /// A disclosed value is not the one that the event's digest was made from.
    DisclosureMismatch = "disclosure_mismatch",
    /// A tlog-proof that does not carry its entry.
    EntryAbsent = "entry_absent",
    /// A part of a JWS is not base64url in its one spelling.
    Base64url = "base64url",
    /// The protected header of a JWS is not an unambiguous JSON object, or has a member of the wrong type.
    HeaderMalformed = "header_malformed",
    /// A JWS has headers that are not signed.
    HeaderUnprotected = "header_unprotected",
    /// The header of a JWS asks for an extension.
    HeaderCritical = "header_critical",
    /// `alg` is not `ES256`.
    Algorithm = "algorithm",
    /// The signature of a JWS is not r and s of 32 bytes each.
    SignatureLength = "signature_length",
    /// No key was given by the name that a JWS states.
    KeyUnknown = "key_unknown",
    /// `typ` is not that of a signed artifact.
    TypMismatch = "typ_mismatch",
    /// The payload is no artifact.
    ArtifactMalformed = "artifact_malformed",
    /// The payload is an artifact, but not in its canonical bytes.
    PayloadNotCanonical = "payload_not_canonical",
    /// The header lacks a claim, or has one of the wrong type.
    ClaimMissing = "claim_missing",
    /// `iss` is not the artifact's workspace.
    IssuerMismatch = "issuer_mismatch",
    /// `sub` is not the artifact's id.
    SubjectMismatch = "subject_mismatch",
    /// `artifact_type` is not the artifact's type.
    TypeMismatch = "type_mismatch",
    /// `artifact_version` is not the artifact's version.
    VersionMismatch = "version_mismatch",
    /// Nobody said whose the keys are.
    WorkspaceUnknown = "workspace_unknown",
    /// The signature claims to expire before it was made.
    TimesMismatch = "times_mismatch",
    /// The signature claims to be made later than now.
    IssuedInFuture = "issued_in_future",
    /// It was signed after the key was retired.
    KeyRetired = "key_retired",
    /// The key was revoked, and nothing but the signer's word says that it was signed before.
    KeyRevoked = "key_revoked",
    /// Nobody said what state the key was in.
    KeyStateUnknown = "key_state_unknown",
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// Which.
    pub name: CheckName,
    /// How it ended.
    pub status: Status,
    /// Why it failed, or why it was skipped for want of a key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<Code>,
    /// For people.
    pub detail: String,
}

/// A witness whose cosignature holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cosigner {
    /// Name of the witness's key, as the verifier was given it.
    pub name: String,
    /// Origin of the log that it cosigned.
    pub log: String,
    /// The witness's clock, seconds since 1970.
    pub time: u64,
}

/// The facts of one event that a reader wants to see first. All are the node's claims.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventSummary {
    /// The event's ID.
    pub id: String,
    /// The event's type.
    #[serde(rename = "type")]
    pub event_type: String,
    /// Workspace.
    pub workspace: String,
    /// Number in the workspace's sequence.
    pub seq: u64,
    /// Milliseconds since 1970, by the node's clock.
    pub time: i64,
    /// Origin of the log.
    pub log: String,
    /// Index in the log.
    pub index: u64,
    /// The commitment, `sha256:…`.
    pub commitment: String,
    /// Whether the principal is a development identity.
    pub development: bool,
}

/// The facts of a signed artifact that a reader wants to see first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArtifactSummary {
    /// Its name for all time.
    pub id: String,
    /// Its type.
    #[serde(rename = "type")]
    pub artifact_type: String,
    /// Its version.
    pub version: u64,
    /// Whose it is.
    pub workspace: String,
    /// When it was made, as it says.
    pub created_at: String,
}

/// Everything that a verification found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// What was looked at.
    pub kind: FileKind,
    /// The answer.
    pub verdict: Verdict,
    /// The checks that belong to this kind of file, all of them, in a fixed order.
    pub checks: Vec<Check>,
    /// ID of the receipt's own event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The artifact of a JWS. Rely on it only if the verdict is valid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact: Option<ArtifactSummary>,
    /// The events of a receipt, in the file's order. Rely on them only if the verdict is valid.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<EventSummary>,
    /// Witnesses whose cosignatures hold, each key once for each log.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cosigners: Vec<Cosigner>,
    /// The smallest number of independent witnesses behind any of the file's checkpoints.
    pub independent_parties: usize,
    /// What the findings mean, and who could have forged them.
    pub statements: Vec<String>,
    /// What this verification did not check.
    pub not_checked: Vec<String>,
}

impl Report {
    /// The check of that name, if it belongs to this kind of file.
    pub fn check(&self, name: CheckName) -> Option<&Check> {
        self.checks.iter().find(|check| check.name == name)
    }

    /// The stable names of everything that failed.
    pub fn failures(&self) -> impl Iterator<Item = Code> {
        self.checks.iter().filter(|check| check.status == Status::Failed).filter_map(|check| check.code)
    }

    /// Whether the verdict is [`Verdict::Valid`].
    pub fn is_valid(&self) -> bool {
        self.verdict == Verdict::Valid
    }
}

/// Text from a file may hold control characters, which a terminal would obey: they are shown as escapes.
struct Printable<'a>(&'a str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            if c.is_control() { write!(f, "{}", c.escape_unicode())? } else { write!(f, "{c}")? }
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match self.verdict {
            Verdict::Valid => "VALID",
            Verdict::Invalid => "INVALID",
            Verdict::Unanchored => "UNANCHORED: no key was given for the log or signer, so that nothing is proved",
        };
        writeln!(f, "{verdict}")?;
        for check in &self.checks {
            let mark = match check.status {
                Status::Passed => "ok  ",
                Status::Failed => "FAIL",
                Status::Skipped => "--  ",
            };
            let name = serde_json::to_value(check.name).ok().and_then(|v| v.as_str().map(str::to_owned));
            write!(f, "  {mark} {:<21} {}", name.unwrap_or_default(), Printable(&check.detail))?;
            match check.code {
                Some(code) => writeln!(f, " [{code}]")?,
                None => writeln!(f)?,
            }
        }
        for (title, lines) in [("What this means", &self.statements), ("Not checked", &self.not_checked)] {
            if !lines.is_empty() {
                writeln!(f, "{title}:")?;
            }
            lines.iter().try_for_each(|line| writeln!(f, "  - {}", Printable(line)))?;
        }
        Ok(())
    }
}
