//! An artifact's digest or a statement in, a bundle out.
//!
//! [`prepare`] makes everything up to the log's leaf. Whoever appends the leaf brings back where it stands, and
//! [`Unlogged::finish`] makes the bundle. In between nothing is secret any more: the signature's key is already gone.

use countersign_proof::checkpoint::{Checkpoint, CheckpointError};
use countersign_proof::digest::Digest;
use countersign_proof::merkle::{Hash, MAX_PROOF_HASHES, ProofError, leaf_hash, verify_inclusion};
use countersign_proof::note::VerifierKey;

use crate::authority::{Authority, AuthorityError, Issuance};
use crate::bundle::{Bundle, Content, Material};
use crate::certificate::Identity;
use crate::dsse::{self, Envelope, Statement, StatementError};
use crate::entry::{InclusionProof, LogEntry};
use crate::hashedrekord::{EntryError, HashedRekord, KIND, VERSION, Verifier};
use crate::keys::{HashAlgorithm, Signer, derive};
use crate::root::log_id;
use crate::stamping::CLOCK_SLACK_SECONDS;
use crate::timestamp::{self, Rejection};

/// What is signed.
#[derive(Debug, Clone)]
pub enum Payload<'a> {
    /// An artifact, by its SHA-256. A digest does not show of what it is: whoever may choose it may also choose that of a
    /// statement's encoding, and gets a signature that holds for the statement too.
    Artifact(Digest),
    /// A statement about artifacts: an in-toto statement's bytes, [`Statement::to_payload`]'s or others.
    Statement(&'a [u8]),
}

/// Who signs.
#[derive(Debug, Clone, Copy)]
pub struct Signatory<'a> {
    /// As it will stand in the certificate.
    pub identity: &'a Identity,
    /// URL of who vouches for that.
    pub issuer: &'a str,
}

/// Why something was not signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// No certificate.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The payload is no statement.
    #[error(transparent)]
    Statement(#[from] StatementError),
    /// No timestamp.
    #[error(transparent)]
    Timestamp(#[from] Rejection),
    /// No leaf.
    #[error(transparent)]
    Entry(#[from] EntryError),
    /// The checkpoint is not one of this log.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The leaf does not stand where it is said to.
    #[error(transparent)]
    Proof(#[from] ProofError),
}

/// A signature with everything but its place in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unlogged {
    material: Material,
    content: Content,
    timestamps: Vec<Vec<u8>>,
    leaf: Vec<u8>,
}

/// Where a leaf stands.
#[derive(Debug, Clone)]
pub struct Logged<'a> {
    /// Its index.
    pub index: u64,
    /// From the leaf's sibling upwards, to the checkpoint's root.
    pub proof: Vec<Hash>,
    /// The signed checkpoint: a note.
    pub checkpoint: &'a str,
    /// The log's key; its name is the log's origin.
    pub log: &'a VerifierKey,
}

/// Signs with a fresh key, which is certified, used once and wiped. `seed` is 32 bytes of entropy for this signature
/// alone; `now_ms` is in milliseconds.
///
/// # Errors
/// [`SignError`].
pub fn prepare(
    authority: &Authority,
    who: Signatory<'_>,
    payload: &Payload<'_>,
    seed: &[u8; 32],
    now_ms: u64,
) -> Result<Unlogged, SignError> {
    let unsigned = unsigned(payload)?;
    let key = Signer::from_seed(seed, "signature");
    let spki = key.spki();
    let serial = entropy(seed, "certificate");
    // Somebody else's clock may be a little behind: the certificate has to be valid at the time that it says, too.
    let earliest = authority.not_before().saturating_mul(1000).min(now_ms);
    let from = now_ms.saturating_sub(CLOCK_SLACK_SECONDS * 1000).max(earliest);
    let order = Issuance { identity: who.identity, issuer: who.issuer, public_key: &spki, serial, now_ms: from };
    let certificate = authority.issue(&order)?;
    let signature = key.sign_digest(&unsigned);
    // From here on nobody can sign with it again.
    drop(key);
    let stamp = stamp(authority, &signature, entropy(seed, "timestamp"), now_ms)?;
    let verifier = Verifier::Certificate(certificate.der().to_vec());
    let material = Material::Certificate(certificate.der().to_vec());
    unlogged(payload, unsigned, signature, verifier, material, stamp)
}

/// Signs with a key that verifiers are given by other means, with a timestamp but without a certificate. The key must sign
/// nothing of another form: digests that callers choose could be those of anything.
///
/// # Errors
/// [`SignError`].
pub fn prepare_with_key(
    authority: &Authority,
    key: &Signer,
    payload: &Payload<'_>,
    seed: &[u8; 32],
    now_ms: u64,
) -> Result<Unlogged, SignError> {
    let unsigned = unsigned(payload)?;
    let signature = key.sign_digest(&unsigned);
    let stamp = stamp(authority, &signature, entropy(seed, "timestamp"), now_ms)?;
    let material = Material::PublicKeyHint(Digest::of(&key.spki()).to_base64());
    unlogged(payload, unsigned, signature, Verifier::PublicKey(key.spki()), material, stamp)
}

/// The digest that is signed.
fn unsigned(payload: &Payload<'_>) -> Result<Digest, SignError> {
    match payload {
        Payload::Artifact(digest) => Ok(*digest),
        Payload::Statement(statement) => {
            Statement::parse(dsse::IN_TOTO_PAYLOAD_TYPE, statement)?;
            Ok(Digest::of(&dsse::pae(dsse::IN_TOTO_PAYLOAD_TYPE, statement)))
        }
    }
}

fn stamp(authority: &Authority, signature: &[u8], serial: [u8; 16], now_ms: u64) -> Result<Vec<u8>, SignError> {
    // The authority's certificate is in every trusted root that names it; verifiers want it in the stamp all the same.
    Ok(timestamp::grant(authority, &timestamp::Request::over(signature), serial, now_ms)?)
}

fn unlogged(
    payload: &Payload<'_>,
    unsigned: Digest,
    signature: Vec<u8>,
    verifier: Verifier,
    material: Material,
    stamp: Vec<u8>,
) -> Result<Unlogged, SignError> {
    // Checks the signature that was just made, so that a fault in this machine does not get into the log.
    let leaf = HashedRekord::new(unsigned.0.to_vec(), signature.clone(), verifier)?.to_body()?;
    let content = match payload {
        Payload::Artifact(digest) => {
            Content::MessageSignature { digest: Some((HashAlgorithm::Sha256, digest.0.to_vec())), signature }
        }
        Payload::Statement(statement) => Content::Dsse(Envelope {
            payload: statement.to_vec(),
            payload_type: dsse::IN_TOTO_PAYLOAD_TYPE.to_owned(),
            signature,
            key_id: String::new(),
        }),
    };
    Ok(Unlogged { material, content, timestamps: vec![stamp], leaf })
}

fn entropy(seed: &[u8; 32], label: &str) -> [u8; 16] {
    let mut out = [0; 16];
    out.copy_from_slice(&derive(seed, label, 0)[..16]);
    out
}

impl Unlogged {
    /// What is to be appended to the log.
    pub fn leaf(&self) -> &[u8] {
        &self.leaf
    }

    /// DER of the signer's certificate, if there is one.
    pub fn certificate(&self) -> Option<&[u8]> {
        match &self.material {
            Material::Certificate(der) => Some(der),
            Material::PublicKeyHint(_) => None,
        }
    }

    /// The signature.
    pub fn signature(&self) -> &[u8] {
        self.content.signature()
    }

    /// DER of the timestamps' answers, the authority's own first.
    pub fn timestamps(&self) -> &[Vec<u8>] {
        &self.timestamps
    }

    /// The same with somebody else's stamp over the signature beside the own one.
    pub fn stamped(mut self, stamp: Vec<u8>) -> Self {
        self.timestamps.push(stamp);
        self
    }

    /// The log entry of a leaf, as a log answers it.
    ///
    /// # Errors
    /// [`SignError::Checkpoint`], [`SignError::Proof`]: what is said about the leaf's place is not so.
    pub fn entry(&self, logged: &Logged<'_>) -> Result<LogEntry, SignError> {
        log_entry(&self.leaf, logged)
    }

    /// The bundle with an entry of somebody else's log, which was verified before.
    pub fn logged_as(self, entry: LogEntry) -> Bundle {
        let entries = vec![entry];
        Bundle { material: self.material, entries, timestamps: self.timestamps, content: self.content }
    }

    /// The finished bundle.
    ///
    /// # Errors
    /// As [`Self::entry`].
    pub fn finish(self, logged: &Logged<'_>) -> Result<Bundle, SignError> {
        let entries = vec![self.entry(logged)?];
        Ok(Bundle { material: self.material, entries, timestamps: self.timestamps, content: self.content })
    }
}

/// The log entry of a `hashedrekord` leaf whose place in the log is proved.
///
/// # Errors
/// [`SignError::Checkpoint`], [`SignError::Proof`].
pub fn log_entry(leaf: &[u8], logged: &Logged<'_>) -> Result<LogEntry, SignError> {
    let checkpoint = Checkpoint::open(logged.checkpoint, logged.log)?;
    if logged.proof.len() > MAX_PROOF_HASHES {
        return Err(ProofError::Length.into());
    }
    verify_inclusion(&leaf_hash(leaf), logged.index, checkpoint.size, &logged.proof, &checkpoint.root)?;
    let proof = InclusionProof {
        index: logged.index,
        root: checkpoint.root,
        size: checkpoint.size,
        hashes: logged.proof.clone(),
        checkpoint: logged.checkpoint.to_owned(),
    };
    Ok(LogEntry {
        log_index: logged.index,
        log_id: log_id(logged.log.name(), logged.log.public_key()),
        kind: KIND.to_owned(),
        version: VERSION.to_owned(),
        integrated_time: None,
        promise: None,
        proof: Some(proof),
        body: leaf.to_vec(),
    })
}
