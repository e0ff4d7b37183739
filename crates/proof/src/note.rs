//! Signed notes and their keys, per C2SP signed-note v1.0.0.
//!
//! A note is text, a blank line, and signature lines. Two signature types are understood: Ed25519 (0x01) and the
//! timestamped Ed25519 cosignature (0x04), whose message is made in [`crate::cosignature`]. Signatures by unknown keys
//! are ignored, as the specification demands; they never count for anything.

use std::fmt;
use std::str::FromStr;

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use zeroize::Zeroizing;

use crate::b64;
use crate::digest::Digest;

/// Largest note that is read, in bytes.
pub const MAX_NOTE_BYTES: usize = 256 * 1024;
/// Most signature lines that are read (the specification asks for at least 16).
pub const MAX_SIGNATURES: usize = 64;

/// What a key's signatures mean; the byte is part of the key ID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum KeyKind {
    /// Ed25519 over the note text (0x01).
    Ed25519 = 0x01,
    /// Timestamped Ed25519 witness cosignature, version 1 (0x04).
    CosignatureV1 = 0x04,
}

/// Why a note or a key was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// More than [`MAX_NOTE_BYTES`].
    #[error("the note is larger than {MAX_NOTE_BYTES} bytes")]
    TooLarge,
    /// More than [`MAX_SIGNATURES`] signature lines.
    #[error("the note has more than {MAX_SIGNATURES} signatures")]
    TooManySignatures,
    /// Not UTF-8, or control characters other than newline.
    #[error("the note is not plain UTF-8 text")]
    NotText,
    /// No blank line between text and signatures, no signatures, or no final newline.
    #[error("the note lacks a text, a blank line or signature lines")]
    Layout,
    /// A signature line is not `— name base64`.
    #[error("malformed signature line {0}")]
    SignatureLine(usize),
    /// A key name is empty or contains spaces or a plus sign.
    #[error("a key name must not be empty or contain spaces, control characters or '+'")]
    KeyName,
    /// A verifier key is not `name+id+base64`, or its ID does not fit its name and key.
    #[error("malformed verifier key: {0}")]
    VerifierKey(&'static str),
    /// No signature by the given key.
    #[error("no signature by {0}")]
    NoSignature(String),
    /// A signature that claims to be by the given key is wrong.
    #[error("the signature by {0} is wrong")]
    BadSignature(String),
}

/// A note taken apart. Its text must not be relied on before a signature was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedNote {
    text: String,
    signatures: Vec<NoteSignature>,
}

impl SignedNote {
    /// Takes a note apart, within [`MAX_NOTE_BYTES`] and [`MAX_SIGNATURES`].
    ///
    /// # Errors
    /// [`NoteError`], if the bytes are not a note. Signatures are not verified here.
    pub fn parse(bytes: impl AsRef<[u8]>) -> Result<Self, NoteError> {
        let bytes = bytes.as_ref();
        if bytes.len() > MAX_NOTE_BYTES {
            return Err(NoteError::TooLarge);
        }
        let note = std::str::from_utf8(bytes).map_err(|_| NoteError::NotText)?;
        if !is_note_text(note) {
            return Err(NoteError::NotText);
        }
        // The text may contain blank lines itself: the last one separates it from the signatures.
        let blank = note.rfind("\n\n").ok_or(NoteError::Layout)?;
        let (text, lines) = (&note[..=blank], &note[blank + 2..]);
        let lines = lines.strip_suffix('\n').ok_or(NoteError::Layout)?;
        let mut signatures = Vec::new();
        for (i, line) in lines.split('\n').enumerate() {
            if i == MAX_SIGNATURES {
                return Err(NoteError::TooManySignatures);
            }
            signatures.push(NoteSignature::parse_line(line).ok_or(NoteError::SignatureLine(i + 1))?);
        }
        Ok(Self { text: text.to_owned(), signatures })
    }

    /// Signs `text` with Ed25519 (0x01) by each of the signers.
    ///
    /// # Errors
    /// [`NoteError::NotText`] if the text does not end in a newline, contains control characters, or could be taken for
    /// the message of a cosignature; [`NoteError::TooManySignatures`], [`NoteError::Layout`] without a signer.
    pub fn sign(text: &str, signers: &[&NoteSigner]) -> Result<Self, NoteError> {
        if !text.ends_with('\n') || !is_note_text(text) || text.starts_with(crate::cosignature::HEADER) {
            return Err(NoteError::NotText);
        }
        if signers.is_empty() {
            return Err(NoteError::Layout);
        }
        let mut note = Self { text: text.to_owned(), signatures: Vec::new() };
        for signer in signers {
            note.add(signer.sign(text))?;
        }
        Ok(note)
    }

    /// Adds a signature, for instance a witness's. A signature by the same name and key ID is replaced.
    ///
    /// # Errors
    /// [`NoteError::TooManySignatures`].
    pub fn add(&mut self, signature: NoteSignature) -> Result<(), NoteError> {
        self.signatures.retain(|s| (s.key_id, &s.name) != (signature.key_id, &signature.name));
        if self.signatures.len() == MAX_SIGNATURES {
            return Err(NoteError::TooManySignatures);
        }
        self.signatures.push(signature);
        Ok(())
    }

    /// The signed text, with its final newline.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The signatures in the note's order, by known and unknown keys alike.
    pub fn signatures(&self) -> &[NoteSignature] {
        &self.signatures
    }

    /// The signatures that bear the key's name and ID.
    pub fn signatures_by<'a>(&'a self, key: &'a VerifierKey) -> impl Iterator<Item = &'a NoteSignature> {
        self.signatures.iter().filter(|s| s.key_id == key.id && s.name == key.name)
    }

    /// Verifies the Ed25519 (0x01) signature by `key` over the text. If there are several, all must hold.
    ///
    /// # Errors
    /// [`NoteError::NoSignature`] or [`NoteError::BadSignature`].
    pub fn verify(&self, key: &VerifierKey) -> Result<(), NoteError> {
        let mut found = false;
        for signature in self.signatures_by(key) {
            found = true;
            if key.kind != KeyKind::Ed25519 || !key.verify_raw(self.text.as_bytes(), &signature.bytes) {
                return Err(NoteError::BadSignature(key.name.clone()));
            }
        }
        if found { Ok(()) } else { Err(NoteError::NoSignature(key.name.clone())) }
    }
}

impl fmt::Display for SignedNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text)?;
        self.signatures.iter().try_for_each(|signature| writeln!(f, "{signature}"))
    }
}

/// One signature line: `— name base64(key ID ‖ signature)`. Displayed without the newline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoteSignature {
    /// Name of the key.
    pub name: String,
    /// First four bytes of the hash over name, type and key.
    pub key_id: u32,
    /// What the signature type defines: 64 bytes for Ed25519, 72 for a cosignature.
    pub bytes: Vec<u8>,
}

impl NoteSignature {
    /// Reads one signature line, without its newline.
    pub fn parse_line(line: &str) -> Option<Self> {
        let (name, encoded) = line.strip_prefix("— ")?.split_once(' ')?;
        let decoded = b64::decode(encoded)?;
        let (id, bytes) = decoded.split_first_chunk::<4>()?;
        if !is_key_name(name) || bytes.is_empty() {
            return None;
        }
        Some(Self { name: name.to_owned(), key_id: u32::from_be_bytes(*id), bytes: bytes.to_vec() })
    }
}

impl fmt::Display for NoteSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let payload = [self.key_id.to_be_bytes().as_slice(), &self.bytes].concat();
        write!(f, "— {} {}", self.name, b64::encode(&payload))
    }
}

/// An Ed25519 signing key with its name. The secret is wiped from memory when this is dropped.
#[derive(Clone)]
pub struct NoteSigner {
    name: String,
    key: SigningKey,
}

impl NoteSigner {
    /// A signer from its name and its 32-byte secret seed (RFC 8032 section 5.1.5).
    ///
    /// # Errors
    /// [`NoteError::KeyName`].
    pub fn from_seed(name: impl Into<String>, seed: [u8; 32]) -> Result<Self, NoteError> {
        let seed = Zeroizing::new(seed);
        let name = name.into();
        if !is_key_name(&name) {
            return Err(NoteError::KeyName);
        }
        Ok(Self { name, key: SigningKey::from_bytes(&seed) })
    }

    /// The key's name; for a log, its origin.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// ID of the key for Ed25519 note signatures (0x01).
    pub fn key_id(&self) -> u32 {
        self.verifier_key().id
    }

    /// What others need to verify this signer's notes (0x01).
    pub fn verifier_key(&self) -> VerifierKey {
        VerifierKey::from_public(self.name.clone(), KeyKind::Ed25519, self.key.verifying_key())
    }

    /// What others need to verify this signer's cosignatures (0x04).
    pub fn cosignature_key(&self) -> VerifierKey {
        VerifierKey::from_public(self.name.clone(), KeyKind::CosignatureV1, self.key.verifying_key())
    }

    /// The Ed25519 (0x01) signature over a note's text.
    fn sign(&self, text: &str) -> NoteSignature {
        let bytes = self.sign_raw(text.as_bytes()).to_vec();
        NoteSignature { name: self.name.clone(), key_id: self.key_id(), bytes }
    }

    pub(crate) fn sign_raw(&self, message: &[u8]) -> [u8; 64] {
        self.key.sign(message).to_bytes()
    }
}

impl fmt::Debug for NoteSigner {
    /// Names the key; never shows the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NoteSigner").field("verifier_key", &self.verifier_key().to_string()).finish_non_exhaustive()
    }
}

/// A public key with its name and kind, written `name+id+base64(kind ‖ key)`.
#[derive(Clone, PartialEq, Eq)]
pub struct VerifierKey {
    name: String,
    id: u32,
    kind: KeyKind,
    key: VerifyingKey,
}

impl VerifierKey {
    /// A verifier key from its parts.
    ///
    /// # Errors
    /// [`NoteError::KeyName`], or [`NoteError::VerifierKey`] if the 32 bytes are not an Ed25519 point or a weak one.
    pub fn new(name: impl Into<String>, kind: KeyKind, public_key: &[u8; 32]) -> Result<Self, NoteError> {
        let name = name.into();
        if !is_key_name(&name) {
            return Err(NoteError::KeyName);
        }
        let key = VerifyingKey::from_bytes(public_key).map_err(|_| NoteError::VerifierKey("not an Ed25519 key"))?;
        // For keys of small order, signatures can be made that hold for many messages.
        if key.is_weak() {
            return Err(NoteError::VerifierKey("a weak Ed25519 key"));
        }
        Ok(Self::from_public(name, kind, key))
    }

    fn from_public(name: String, kind: KeyKind, key: VerifyingKey) -> Self {
        let id = key_id(&name, kind as u8, key.as_bytes());
        Self { name, id, kind, key }
    }

    /// The key's name; for a log, its origin.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The key ID: a hint for look-up, not a fingerprint to trust.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// What the key's signatures mean.
    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    /// The 32 bytes of the Ed25519 public key.
    pub fn public_key(&self) -> &[u8; 32] {
        self.key.as_bytes()
    }

    /// Verifies an Ed25519 signature strictly: no weak keys, no alternative encodings.
    pub(crate) fn verify_raw(&self, message: &[u8], signature: &[u8]) -> bool {
        Signature::from_slice(signature).is_ok_and(|signature| self.key.verify_strict(message, &signature).is_ok())
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let payload = [[self.kind as u8].as_slice(), self.public_key()].concat();
        write!(f, "{}+{:08x}+{}", self.name, self.id, b64::encode(&payload))
    }
}

impl fmt::Debug for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for VerifierKey {
    type Err = NoteError;

    fn from_str(text: &str) -> Result<Self, NoteError> {
        // Names have no plus sign, base64 may: the first two separate.
        let mut parts = text.splitn(3, '+');
        let (Some(name), Some(id), Some(payload)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(NoteError::VerifierKey("expected name+id+base64"));
        };
        let payload = b64::decode(payload).ok_or(NoteError::VerifierKey("the key is not base64"))?;
        let (kind, public_key) = payload.split_first().ok_or(NoteError::VerifierKey("the key is empty"))?;
        let kind = match kind {
            0x01 => KeyKind::Ed25519,
            0x04 => KeyKind::CosignatureV1,
            _ => return Err(NoteError::VerifierKey("this signature type is not supported")),
        };
        let public_key = public_key.try_into().map_err(|_| NoteError::VerifierKey("an Ed25519 key has 32 bytes"))?;
        let key = Self::new(name, kind, public_key)?;
        if id != format!("{:08x}", key.id) {
            return Err(NoteError::VerifierKey("the key ID does not fit name and key"));
        }
        Ok(key)
    }
}

/// SHA-256(name ‖ 0x0A ‖ signature type ‖ public key), first four bytes, big-endian.
pub fn key_id(name: &str, signature_type: u8, public_key: &[u8]) -> u32 {
    let Digest([a, b, c, d, ..]) = Digest::of_parts(&[name.as_bytes(), b"\n", &[signature_type], public_key]);
    u32::from_be_bytes([a, b, c, d])
}

/// No ASCII control characters other than newline.
fn is_note_text(text: &str) -> bool {
    text.bytes().all(|byte| byte >= 0x20 || byte == b'\n')
}

fn is_key_name(name: &str) -> bool {
    !name.is_empty() && !name.chars().any(|c| c.is_whitespace() || c.is_control() || c == '+')
}
