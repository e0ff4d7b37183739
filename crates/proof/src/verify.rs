//! Verification against given keys: checkpoints, cosignatures, quorum, tlog-proofs, JWS, and the dispatch on a file's kind.
//!
//! Trust comes from [`TrustAnchors`] alone. Nothing inside a file can add to it.

use std::collections::BTreeSet;

use crate::artifact;
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::cosignature;
use crate::jwk::JwkSet;
use crate::jws;
use crate::merkle::{leaf_hash, verify_inclusion};
use crate::note::{KeyKind, NoteError, SignedNote, VerifierKey};
use crate::receipt;
use crate::report::{Check, CheckName, Code, Cosigner, FileKind, Report, Status, Verdict};
use crate::tlog_proof::{self, TlogProof};

/// The keys that a verifier brings, and how many witnesses it demands.
#[derive(Debug, Clone, Default)]
pub struct TrustAnchors {
    /// Keys of logs (Ed25519, 0x01). A key's name must be the log's origin.
    pub logs: Vec<VerifierKey>,
    /// Keys of witnesses (cosignature, 0x04).
    pub witnesses: Vec<VerifierKey>,
    /// Keys of those who sign JWS.
    pub signers: JwkSet,
    /// The workspace whose keys those are. With one named, a JWS has to be an artifact of it.
    pub workspace: Option<String>,
    /// Now, in seconds since 1970, for what a signature says of its time.
    pub now: Option<u64>,
    /// How many different witnesses must have cosigned every checkpoint. 0 demands none.
    pub quorum: usize,
}

impl TrustAnchors {
    /// No keys, no quorum: everything is unanchored.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a key where its kind says: Ed25519 keys are logs', cosignature keys are witnesses'.
    pub fn add(&mut self, key: VerifierKey) {
        match key.kind() {
            KeyKind::Ed25519 => self.logs.push(key),
            KeyKind::CosignatureV1 => self.witnesses.push(key),
        }
    }

    /// As [`Self::add`], for chaining.
    #[must_use]
    pub fn with(mut self, key: VerifierKey) -> Self {
        self.add(key);
        self
    }

    /// Adds the keys of those who sign JWS.
    #[must_use]
    pub fn with_signers(mut self, signers: JwkSet) -> Self {
        self.signers = signers;
        self
    }

    /// Says whose keys the signers' are.
    #[must_use]
    pub fn with_workspace(mut self, workspace: Option<String>) -> Self {
        self.workspace = workspace;
        self
    }

    /// Says what time it is, in seconds since 1970.
    #[must_use]
    pub fn at(mut self, now: u64) -> Self {
        self.now = Some(now);
        self
    }

    /// Demands cosignatures by `quorum` different witnesses on every checkpoint.
    #[must_use]
    pub fn with_quorum(mut self, quorum: usize) -> Self {
        self.quorum = quorum;
        self
    }
}

/// Verifies a file of any kind that this crate knows: a receipt, a checkpoint, a tlog-proof or a JWS.
pub fn verify_file(bytes: &[u8], anchors: &TrustAnchors) -> Report {
    match detect(bytes) {
        FileKind::Receipt => receipt::verify(bytes, anchors),
        FileKind::TlogProof => verify_tlog_proof(bytes, None, anchors),
        FileKind::Checkpoint => verify_checkpoint(bytes, anchors),
        FileKind::Jws => artifact::verify(bytes, anchors),
        FileKind::Unknown => Report::unreadable(
            FileKind::Unknown,
            &[CheckName::Parse],
            Code::UnknownFile,
            "neither a receipt nor a checkpoint nor a tlog-proof nor a JWS",
        ),
    }
}

/// What a file seems to be, from its first bytes or its members' names.
pub fn detect(bytes: &[u8]) -> FileKind {
    let note_mark = "\n\n— ".as_bytes();
    if jws::is_jws(bytes) {
        FileKind::Jws
    } else if bytes.trim_ascii_start().starts_with(b"{") {
        FileKind::Receipt
    } else if bytes.starts_with(tlog_proof::HEADER.as_bytes()) {
        FileKind::TlogProof
    } else if bytes.windows(note_mark.len()).any(|window| window == note_mark) {
        FileKind::Checkpoint
    } else {
        FileKind::Unknown
    }
}

/// Verifies a checkpoint: a signed note.
pub fn verify_checkpoint(bytes: &[u8], anchors: &TrustAnchors) -> Report {
    use CheckName::{CheckpointSignature, Cosignatures, Parse, Quorum};
    let notes =
        SignedNote::parse(bytes).map_err(CheckpointError::from).and_then(|note| CheckedNote::new(&note, anchors));
    let checked = match notes {
        Ok(checked) => checked,
        Err(error) => {
            let names = [Parse, CheckpointSignature, Cosignatures, Quorum];
            return Report::unreadable(FileKind::Checkpoint, &names, Code::CheckpointMalformed, &error.to_string());
        }
    };
    let mut checks = vec![Outcome::Passed("a checkpoint".into()).named(Parse)];
    let checked = [checked];
    checks.extend(note_checks(&checked, anchors));
    let mut report = Report::from_checks(FileKind::Checkpoint, checks);
    report.describe_parties(&checked, anchors);
    report
}

/// Verifies a tlog-proof for `entry`, or, without one, for the entry that the file carries as its extra data.
pub fn verify_tlog_proof(bytes: &[u8], entry: Option<&[u8]>, anchors: &TrustAnchors) -> Report {
    use CheckName::{CheckpointSignature, Cosignatures, Inclusion, Parse, Quorum};
    let parsed = TlogProof::parse(bytes).map_err(|e| e.to_string());
    let parsed = parsed.and_then(|proof| {
        let checked = CheckedNote::new(&proof.checkpoint, anchors).map_err(|e| e.to_string())?;
        Ok((proof, checked))
    });
    let (proof, checked) = match parsed {
        Ok(parsed) => parsed,
        Err(detail) => {
            let names = [Parse, Inclusion, CheckpointSignature, Cosignatures, Quorum];
            return Report::unreadable(FileKind::TlogProof, &names, Code::Shape, &detail);
        }
    };
    let mut checks = vec![Outcome::Passed("a tlog-proof, version 1".into()).named(Parse)];
    checks.push(proof_inclusion(&proof, entry, &checked.checkpoint).named(Inclusion));
    let checked = [checked];
    checks.extend(note_checks(&checked, anchors));
    let mut report = Report::from_checks(FileKind::TlogProof, checks);
    report.describe_parties(&checked, anchors);
    report.not_checked.push("What the entry stands for: a commitment is opened only by a receipt.".into());
    report
}

fn proof_inclusion(proof: &TlogProof, entry: Option<&[u8]>, checkpoint: &Checkpoint) -> Outcome {
    let Some(entry) = entry.or(proof.extra.as_deref()) else {
        return Outcome::Failed(Code::EntryAbsent, "the file does not carry the entry that it is about".into());
    };
    match verify_inclusion(&leaf_hash(entry), proof.index, checkpoint.size, &proof.hashes, &checkpoint.root) {
        Ok(()) => Outcome::Passed(format!("entry {} of {:?}", proof.index, checkpoint.origin)),
        Err(error) => Outcome::Failed(Code::InclusionMismatch, error.to_string()),
    }
}

/// How one check ended, before it has its name; the texts are for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It holds.
    Passed(String),
    /// It does not.
    Failed(Code, String),
    /// It was left out, perhaps for want of something.
    Skipped(Option<Code>, String),
}

impl Outcome {
    pub(crate) fn named(self, name: CheckName) -> Check {
        let (status, code, detail) = match self {
            Self::Passed(detail) => (Status::Passed, None, detail),
            Self::Failed(code, detail) => (Status::Failed, Some(code), detail),
            Self::Skipped(code, detail) => (Status::Skipped, code, detail),
        };
        Check { name, status, code, detail }
    }
}

impl From<Result<String, (Code, String)>> for Outcome {
    fn from(result: Result<String, (Code, String)>) -> Self {
        match result {
            Ok(detail) => Self::Passed(detail),
            Err((code, detail)) => Self::Failed(code, detail),
        }
    }
}

/// A checkpoint with what the anchors say about its signatures.
pub(crate) struct CheckedNote {
    pub(crate) checkpoint: Checkpoint,
    signature: Result<(), (Code, String)>,
    cosigners: Vec<Cosigner>,
    /// Name of a known witness in whose name a wrong cosignature stands.
    wrong_cosignature: Option<String>,
    /// Signature lines that are neither the log's nor a known witness's.
    unknown_signatures: usize,
}

impl CheckedNote {
    pub(crate) fn new(note: &SignedNote, anchors: &TrustAnchors) -> Result<Self, CheckpointError> {
        let checkpoint = Checkpoint::parse(note.text())?;
        let log_keys: Vec<_> = anchors.logs.iter().filter(|key| key.name() == checkpoint.origin).collect();
        let mut checked = Self {
            signature: check_signature(note, &checkpoint.origin, &log_keys),
            checkpoint,
            cosigners: Vec::new(),
            wrong_cosignature: None,
            unknown_signatures: 0,
        };
        // A witness is its public key: neither two names nor two lines make it two. The log is not its own witness.
        let mut parties: BTreeSet<[u8; 32]> = log_keys.iter().map(|key| *key.public_key()).collect();
        for signature in note.signatures() {
            let is_by = |key: &VerifierKey| key.id() == signature.key_id && key.name() == signature.name;
            let Some(key) = anchors.witnesses.iter().find(|key| is_by(key)) else {
                checked.unknown_signatures += usize::from(!log_keys.iter().any(|key| is_by(key)));
                continue;
            };
            match cosignature::verify(note.text(), signature, key) {
                Ok(time) if parties.insert(*key.public_key()) => {
                    let log = checked.checkpoint.origin.clone();
                    checked.cosigners.push(Cosigner { name: key.name().to_owned(), log, time });
                }
                Ok(_) => {}
                Err(_) => checked.wrong_cosignature = Some(key.name().to_owned()),
            }
        }
        Ok(checked)
    }

    fn label(&self) -> String {
        format!("{:?} at size {}", self.checkpoint.origin, self.checkpoint.size)
    }
}

fn check_signature(note: &SignedNote, origin: &str, keys: &[&VerifierKey]) -> Result<(), (Code, String)> {
    if keys.is_empty() {
        return Err((Code::LogUnanchored, format!("no key was given for log {origin:?}")));
    }
    let mut signed = false;
    for key in keys {
        match note.verify(key) {
            Ok(()) => signed = true,
            Err(NoteError::NoSignature(_)) => {}
            Err(error) => return Err((Code::SignatureWrong, error.to_string())),
        }
    }
    let missing = || (Code::SignatureMissing, format!("log {origin:?} has not signed this with the given key"));
    if signed { Ok(()) } else { Err(missing()) }
}

/// The checks on signatures, over all checkpoints of a file.
pub(crate) fn note_checks(notes: &[CheckedNote], anchors: &TrustAnchors) -> [Check; 3] {
    [
        signature_outcome(notes).named(CheckName::CheckpointSignature),
        cosignature_outcome(notes, anchors).named(CheckName::Cosignatures),
        quorum_outcome(notes, anchors).named(CheckName::Quorum),
    ]
}

fn signature_outcome(notes: &[CheckedNote]) -> Outcome {
    let errors = || notes.iter().filter_map(|note| note.signature.as_ref().err());
    // A wrong signature weighs more than a missing key: look for it first.
    if let Some((code, detail)) = errors().find(|(code, _)| *code != Code::LogUnanchored) {
        return Outcome::Failed(*code, detail.clone());
    }
    if let Some((code, detail)) = errors().next() {
        return Outcome::Skipped(Some(*code), detail.clone());
    }
    let labels: Vec<String> = notes.iter().map(CheckedNote::label).collect();
    Outcome::Passed(format!("signed by {}", labels.join(", ")))
}

fn cosignature_outcome(notes: &[CheckedNote], anchors: &TrustAnchors) -> Outcome {
    if let Some(name) = notes.iter().find_map(|note| note.wrong_cosignature.as_ref()) {
        return Outcome::Failed(Code::CosignatureWrong, format!("the cosignature in the name of {name:?} is wrong"));
    }
    let unknown: usize = notes.iter().map(|note| note.unknown_signatures).sum();
    if anchors.witnesses.is_empty() {
        return Outcome::Skipped(None, format!("no witness keys were given; {unknown} unknown signatures ignored"));
    }
    let counts: Vec<String> = notes
        .iter()
        .map(|note| format!("{} independent parties cosigned {}", note.cosigners.len(), note.label()))
        .collect();
    Outcome::Passed(format!("{}; {unknown} unknown signatures ignored", counts.join(", ")))
}

fn quorum_outcome(notes: &[CheckedNote], anchors: &TrustAnchors) -> Outcome {
    let wanted = anchors.quorum;
    if wanted == 0 {
        return Outcome::Skipped(None, "no quorum was asked for".into());
    }
    match notes.iter().min_by_key(|note| note.cosigners.len()) {
        Some(least) if least.cosigners.len() >= wanted => {
            Outcome::Passed(format!("{} of {wanted} demanded witnesses", least.cosigners.len()))
        }
        Some(least) => {
            let detail = format!("{} of {wanted} demanded witnesses cosigned {}", least.cosigners.len(), least.label());
            Outcome::Failed(Code::QuorumMissed, detail)
        }
        None => Outcome::Failed(Code::QuorumMissed, "there is no checkpoint".into()),
    }
}

impl Report {
    /// A report on a file that could not be read: the first check failed, the rest were not made.
    pub(crate) fn unreadable(kind: FileKind, names: &[CheckName], code: Code, detail: &str) -> Self {
        let mut names = names.iter();
        let mut checks = Vec::new();
        checks.extend(names.next().map(|name| Outcome::Failed(code, detail.to_owned()).named(*name)));
        checks.extend(names.map(|name| Outcome::Skipped(None, "the file could not be read".into()).named(*name)));
        Self::from_checks(kind, checks)
    }

    pub(crate) fn from_checks(kind: FileKind, checks: Vec<Check>) -> Self {
        let verdict = if checks.iter().any(|check| check.status == Status::Failed) {
            Verdict::Invalid
        } else if checks.iter().any(|check| matches!(check.code, Some(Code::LogUnanchored | Code::KeyUnknown))) {
            Verdict::Unanchored
        } else {
            Verdict::Valid
        };
        Self {
            kind,
            verdict,
            checks,
            subject: None,
            artifact: None,
            events: Vec::new(),
            cosigners: Vec::new(),
            independent_parties: 0,
            statements: Vec::new(),
            not_checked: Vec::new(),
        }
    }

    /// Says who stands behind the checkpoints, and who could have forged them.
    pub(crate) fn describe_parties(&mut self, notes: &[CheckedNote], anchors: &TrustAnchors) {
        self.independent_parties = notes.iter().map(|note| note.cosigners.len()).min().unwrap_or(0);
        self.cosigners = notes.iter().flat_map(|note| note.cosigners.iter().cloned()).collect();
        for note in notes.iter().filter(|_| self.verdict == Verdict::Valid) {
            let log = &note.checkpoint.origin;
            let names: Vec<&str> = note.cosigners.iter().map(|witness| witness.name.as_str()).collect();
            self.statements.push(match names.as_slice() {
                [] => format!("The operator of {log:?} alone could have forged this: no known witness vouches for it."),
                names => format!(
                    "To have forged this, the operator of {log:?} would have had to collude with each of: {}.",
                    names.join(", ")
                ),
            });
        }
        if self.verdict == Verdict::Valid && anchors.quorum > 0 {
            self.statements.push(format!(
                "A forgery that you would accept takes the operator and any {} of the {} witnesses that you named.",
                anchors.quorum,
                anchors.witnesses.iter().map(VerifierKey::public_key).collect::<BTreeSet<_>>().len()
            ));
        }
        if self.verdict == Verdict::Unanchored {
            self.statements.push("Without the log's key, anyone could have made this file.".into());
        }
        self.not_checked.extend([
            "Whether the log shows the same history to others: compare checkpoints with a witness or another reader."
                .to_owned(),
            "Whether the keys that you gave belong to whom you think, or were revoked.".to_owned(),
        ]);
    }
}
