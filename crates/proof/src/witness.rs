//! The witness protocol of C2SP tlog-witness: what a log asks of a witness, what the witness answers, and why not.
//!
//! Pure, like its neighbours. The witness's part is three steps, each with a type of its own: [`AddCheckpoint::parse`],
//! [`AddCheckpoint::authenticate`], [`decide`]. Between `decide` and the cosignature the caller persists the new
//! [`TreeHead`], on condition that the latest one is still the one that was decided upon. The log's part is
//! [`request`] and [`read_answer`]. Cosignatures themselves are in [`crate::cosignature`].

use crate::b64;
use crate::checkpoint::{Checkpoint, parse_decimal};
use crate::cosignature;
use crate::merkle::{Hash, ProofError, empty_root, verify_consistency};
use crate::note::{KeyKind, MAX_SIGNATURES, NoteSignature, SignedNote, VerifierKey};

/// Most hashes in a request.
pub const MAX_PROOF_LINES: usize = 63;
/// Largest request that is read: room for a checkpoint with 16 signatures of the largest kind.
pub const MAX_REQUEST_BYTES: usize = 64 * 1024;
/// Largest answer that is read.
pub const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// Largest tree that is witnessed: sizes are kept as signed 64-bit numbers.
pub const MAX_SIZE: u64 = i64::MAX as u64;
/// Media type of an answer that holds the size of the latest cosigned checkpoint.
pub const SIZE_TYPE: &str = "text/x.tlog.size";
/// Path below a witness's submission prefix.
pub const PATH: &str = "add-checkpoint";

/// Size and root of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TreeHead {
    /// Leaves.
    pub size: u64,
    /// RFC 6962 root over them.
    pub root: Hash,
}

impl TreeHead {
    /// What a witness knows of a log of which it cosigned nothing.
    pub fn empty() -> Self {
        Self { size: 0, root: empty_root() }
    }
}

impl From<&Checkpoint> for TreeHead {
    fn from(checkpoint: &Checkpoint) -> Self {
        Self { size: checkpoint.size, root: checkpoint.root }
    }
}

/// Why a witness does not cosign.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The bytes are not a request, or its sizes contradict one another.
    #[error("not an add-checkpoint request: {0}")]
    Malformed(&'static str),
    /// No key is known for the origin.
    #[error("this witness does not know the log")]
    UnknownLog,
    /// No signature by a key that is known for the origin, or a wrong one in its name.
    #[error("the checkpoint is not signed by a key that this witness knows for its origin")]
    Unsigned,
    /// The proof does not start where the witness stands.
    #[error("the latest checkpoint that was cosigned has size {latest}")]
    Conflict {
        /// Size of the latest cosigned checkpoint.
        latest: u64,
    },
    /// The log signed another root for a size that it was cosigned at: proof that it shows different histories.
    #[error("FORK: the log signed two different trees of {} leaves", latest.size)]
    Fork {
        /// What was cosigned.
        latest: TreeHead,
        /// The other root of the same size, signed by the same log.
        other: Hash,
    },
    /// The checkpoint is not shown to extend the latest one.
    #[error("the consistency proof does not hold: {0}")]
    Inconsistent(ProofError),
}

impl Refusal {
    /// The HTTP status that the specification asks for.
    pub fn status(&self) -> u16 {
        match self {
            Self::Malformed(_) => 400,
            Self::Unsigned => 403,
            Self::UnknownLog => 404,
            Self::Conflict { .. } | Self::Fork { .. } => 409,
            Self::Inconsistent(_) => 422,
        }
    }

    /// The size to answer with, in [`SIZE_TYPE`]. A client that offered this very size, and has it back, learns that its
    /// root is not the one that was cosigned.
    pub fn latest_size(&self) -> Option<u64> {
        match self {
            Self::Conflict { latest } => Some(*latest),
            Self::Fork { latest, .. } => Some(latest.size),
            Self::Malformed(_) | Self::Unsigned | Self::UnknownLog | Self::Inconsistent(_) => None,
        }
    }
}

/// A request taken apart. Nothing of it was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddCheckpoint {
    old: u64,
    proof: Vec<Hash>,
    note: SignedNote,
    checkpoint: Checkpoint,
}

/// A request whose checkpoint its log has signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Authentic<'a> {
    request: &'a AddCheckpoint,
    key: &'a VerifierKey,
}

impl AddCheckpoint {
    /// Takes a request apart, within [`MAX_REQUEST_BYTES`] and [`MAX_PROOF_LINES`].
    ///
    /// # Errors
    /// [`Refusal::Malformed`].
    pub fn parse(bytes: &[u8]) -> Result<Self, Refusal> {
        let malformed = Refusal::Malformed;
        if bytes.len() > MAX_REQUEST_BYTES {
            return Err(malformed("too large"));
        }
        let text = std::str::from_utf8(bytes).map_err(|_| malformed("not UTF-8"))?;
        let (head, note) = text.split_once("\n\n").ok_or(malformed("no empty line"))?;
        let mut lines = head.split('\n');
        let old = lines.next().and_then(|line| line.strip_prefix("old ")).and_then(parse_decimal);
        let old = old.ok_or(malformed("the first line is not the old size"))?;
        let mut proof = Vec::new();
        for line in lines {
            if proof.len() == MAX_PROOF_LINES {
                return Err(malformed("more than 63 proof lines"));
            }
            proof.push(b64::decode32(line).ok_or(malformed("a proof line is not the base64 of 32 bytes"))?);
        }
        let note = SignedNote::parse(note).map_err(|_| malformed("the checkpoint is not a signed note"))?;
        let checkpoint = Checkpoint::parse(note.text()).map_err(|_| malformed("the note is not a checkpoint"))?;
        if checkpoint.size > MAX_SIZE {
            return Err(malformed("more than 2^63 - 1 leaves"));
        }
        Ok(Self { old, proof, note, checkpoint })
    }

    /// The log that the checkpoint says it is of.
    pub fn origin(&self) -> &str {
        &self.checkpoint.origin
    }

    /// Verifies the log's signature with the keys that the witness trusts, of whatever logs. Signatures by other keys are
    /// ignored, a wrong one in a trusted key's name is not.
    ///
    /// # Errors
    /// [`Refusal::UnknownLog`], [`Refusal::Unsigned`].
    pub fn authenticate<'a>(&'a self, keys: &'a [VerifierKey]) -> Result<Authentic<'a>, Refusal> {
        let mut own =
            keys.iter().filter(|key| key.kind() == KeyKind::Ed25519 && key.name() == self.origin()).peekable();
        if own.peek().is_none() {
            return Err(Refusal::UnknownLog);
        }
        let key = own.find(|key| self.note.verify(key).is_ok()).ok_or(Refusal::Unsigned)?;
        Ok(Authentic { request: self, key })
    }
}

impl<'a> Authentic<'a> {
    /// The checkpoint.
    pub fn checkpoint(self) -> &'a Checkpoint {
        &self.request.checkpoint
    }

    /// What is cosigned: the note's text.
    pub fn body(self) -> &'a str {
        self.request.note.text()
    }

    /// The checkpoint with the log's signature and no other, for keeping as evidence: whoever sends a request can add
    /// signatures of any kind to it.
    pub fn signed(self) -> String {
        let mut note = format!("{}\n", self.body());
        for signature in self.request.note.signatures_by(self.key) {
            note.push_str(&format!("{signature}\n"));
        }
        note
    }
}

/// Whether to cosign, given the latest checkpoint of the log that was cosigned. Returns the head to persist; it may be cosigned
/// only when that was done, and only if nothing else was persisted in between.
///
/// # Errors
/// [`Refusal`]. [`Refusal::Fork`] is found whatever the request says that it knows: a signed root is evidence by itself.
pub fn decide(latest: Option<TreeHead>, request: Authentic<'_>) -> Result<TreeHead, Refusal> {
    let AddCheckpoint { old, proof, checkpoint, .. } = request.request;
    let latest = latest.unwrap_or_else(TreeHead::empty);
    let new = TreeHead::from(checkpoint);
    if *old > new.size {
        return Err(Refusal::Malformed("the old size exceeds the checkpoint's"));
    }
    if new.size == latest.size && new.root != latest.root {
        return Err(Refusal::Fork { latest, other: new.root });
    }
    if *old != latest.size {
        return Err(Refusal::Conflict { latest: latest.size });
    }
    verify_consistency(latest.size, new.size, &latest.root, &new.root, proof).map_err(Refusal::Inconsistent)?;
    Ok(new)
}

/// A request, as it is sent.
pub fn request(old: u64, proof: &[Hash], checkpoint_note: &str) -> String {
    let mut text = format!("old {old}\n");
    for hash in proof {
        text.push_str(&b64::encode(hash));
        text.push('\n');
    }
    text.push('\n');
    text.push_str(checkpoint_note);
    text
}

/// The body of an answer with a size.
pub fn size_body(size: u64) -> String {
    format!("{size}\n")
}

/// A cosignature that holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cosignature {
    /// The signature, ready for [`SignedNote::add`].
    pub signature: NoteSignature,
    /// The witness's clock, seconds since 1970.
    pub time: u64,
}

/// What a log asked.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The old size that it gave.
    pub old: u64,
    /// Size of its checkpoint.
    pub size: u64,
    /// The checkpoint's note text.
    pub body: &'a str,
}

/// What a witness's answer means to the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It cosigned.
    Cosigned(Cosignature),
    /// It stands elsewhere: ask again with a proof from this size.
    StartFrom(u64),
    /// It cosigned a larger tree than the one that was shown to it. Nothing to ask before the log is as large; and if the log
    /// never will be, it lost leaves.
    Ahead(u64),
    /// It cosigned another root at this size. Either the log forked, or somebody else signs in its name.
    Forked,
    /// It found the proof wrong (422), with what it says.
    Inconsistent(String),
    /// It does not know the log (404).
    UnknownLog,
    /// It does not take the log's key, or does not say that it does not know the log (403).
    KeyRefused,
    /// It answered in no way that the specification knows, or with signatures that do not hold. What it did, in words.
    Unusable(String),
    /// It cannot answer now (429 or 5xx).
    Busy(u16),
}

/// Reads a witness's answer; `key` is the witness's.
pub fn read_answer(
    status: u16,
    content_type: Option<&str>,
    body: &[u8],
    asked: Asked<'_>,
    key: &VerifierKey,
) -> Answer {
    match status {
        200 => cosigned(body, asked.body, key),
        403 => Answer::KeyRefused,
        404 => Answer::UnknownLog,
        409 => conflict(content_type, body, asked),
        422 => Answer::Inconsistent(words(body)),
        429 | 500..=599 => Answer::Busy(status),
        _ => Answer::Unusable(format!("status {status}: {}", words(body))),
    }
}

fn cosigned(body: &[u8], text: &str, key: &VerifierKey) -> Answer {
    let unusable = |why: &str| Answer::Unusable(why.to_owned());
    if body.len() > MAX_ANSWER_BYTES {
        return unusable("the answer is too large");
    }
    let Ok(lines) = std::str::from_utf8(body) else { return unusable("the answer is not UTF-8") };
    let Some(lines) = lines.strip_suffix('\n') else { return unusable("the answer has no signature lines") };
    let mut found = None;
    for (n, line) in lines.split('\n').enumerate() {
        if n == MAX_SIGNATURES {
            return unusable("the answer has too many signatures");
        }
        let Ok(signature) = cosignature::parse_line(line) else {
            return unusable("a line of the answer is not a signature line");
        };
        // Signatures by other keys are ignored; they may be of kinds that are not known here.
        if signature.key_id != key.id() || signature.name != key.name() {
            continue;
        }
        match cosignature::verify(text, &signature, key) {
            Ok(time) => found = Some(Cosignature { signature, time }),
            Err(error) => return Answer::Unusable(error.to_string()),
        }
    }
    found.map_or_else(|| Answer::Unusable(format!("no cosignature by {}", key.name())), Answer::Cosigned)
}

fn conflict(content_type: Option<&str>, body: &[u8], asked: Asked<'_>) -> Answer {
    let essence = content_type.and_then(|value| value.split(';').next()).map(str::trim);
    let is_size = essence.is_some_and(|essence| essence.eq_ignore_ascii_case(SIZE_TYPE));
    let size = std::str::from_utf8(body).ok().filter(|_| is_size).and_then(|text| parse_decimal(text.trim_end()));
    match size {
        Some(size) if size > asked.size => Answer::Ahead(size),
        Some(size) if size != asked.old => Answer::StartFrom(size),
        // The sizes agree, so that it can only be the root.
        Some(_) | None if asked.old == asked.size => Answer::Forked,
        Some(_) | None => Answer::Unusable(format!("status 409 without another size: {}", words(body))),
    }
}

/// The beginning of what a witness says, for people.
fn words(body: &[u8]) -> String {
    const SHOWN: usize = 200;
    let text = String::from_utf8_lossy(body.get(..SHOWN).unwrap_or(body));
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>().trim().to_owned()
}
