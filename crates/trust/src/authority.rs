//! A node's own authority: a root that issues certificates for one signature each, the key that signs their SCTs, and a
//! timestamp authority.
//!
//! One operator holds all of these keys and the log's, so that they say what the operator says; independent witnesses of
//! the log are what a verifier can rely on beyond that. They are kept apart because verifiers of Sigstore's ask for each.

use der::asn1::OctetString;
use x509_cert::ext::Extensions;
use x509_cert::ext::pkix::{AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage, KeyUsages};
use zeroize::{Zeroize as _, Zeroizing};

use crate::asn1::oid;
use crate::certificate::{
    Certificate, CertificateError, Identity, Template, check_issuer, embed_sct, extension, key_identifier, name,
    raw_extension, sign, subject_alt_name,
};
use crate::keys::{KeyError, PublicKey, Signer, derive};

/// How long a signer's certificate is valid, in seconds.
pub const LEAF_SECONDS: u64 = 600;
/// How long an authority's own certificates are valid, in seconds: ten years of 365.25 days.
pub const AUTHORITY_SECONDS: u64 = 315_576_000;
/// The longest name of an organisation, in characters (X.520's upper bound).
pub const MAX_ORGANISATION: usize = 64;
/// First bytes of a saved authority; the number is the format's version.
const SAVED: &[u8] = b"countersign-authority/1\n";
/// A saved authority is never larger, in bytes.
const MAX_SAVED_BYTES: usize = 64 * 1024;

/// Why an authority cannot be made or read, or does not issue.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// The organisation's name is empty, too long, or has control characters.
    #[error("an organisation's name has 1 to {MAX_ORGANISATION} characters and no control characters")]
    Organisation,
    /// An identity or issuer that a certificate cannot hold.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The key to be certified is not a P-256 key.
    #[error("only P-256 keys are certified")]
    Key(#[from] KeyError),
    /// The time lies outside of the authority's validity.
    #[error("the authority is valid from {not_before} to {not_after}, and it is {now}")]
    NotValid {
        /// Seconds.
        not_before: u64,
        /// Seconds.
        not_after: u64,
        /// Seconds.
        now: u64,
    },
    /// The bytes are not a saved authority, or its certificates are not of its keys.
    #[error("not a saved authority: {0}")]
    Saved(&'static str),
    /// Something could not be encoded; values are checked before, so that this shows a time that no certificate can hold.
    #[error("could not be encoded as DER")]
    Encoding,
}

/// Certificate and key of one role.
#[derive(Debug, Clone)]
pub(crate) struct Holder {
    pub(crate) certificate: Certificate,
    pub(crate) key: Signer,
}

/// A node's certificate, SCT and timestamp authority, with its secret keys.
#[derive(Debug, Clone)]
pub struct Authority {
    organisation: String,
    root: Holder,
    ct: Signer,
    timestamp_root: Holder,
    pub(crate) timestamp: Holder,
}

/// What verifiers need of an authority, also of one that was retired: no secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicAuthority {
    /// The organisation in its names.
    pub organisation: String,
    /// DER of the root.
    pub root: Vec<u8>,
    /// DER of the `SubjectPublicKeyInfo` of the key that signs SCTs.
    pub ct_key: Vec<u8>,
    /// DER of the timestamp authority's certificate, then of its root.
    pub timestamp_chain: [Vec<u8>; 2],
    /// First second of its validity.
    pub not_before: u64,
    /// Last second of its validity. Another must have taken over [`LEAF_SECONDS`] before.
    pub not_after: u64,
}

/// A certificate to be issued.
#[derive(Debug, Clone, Copy)]
pub struct Issuance<'a> {
    /// Who will sign.
    pub identity: &'a Identity,
    /// URL of who vouches for that.
    pub issuer: &'a str,
    /// DER of the `SubjectPublicKeyInfo` of a P-256 key.
    pub public_key: &'a [u8],
    /// Entropy for the serial number.
    pub serial: [u8; 16],
    /// Milliseconds.
    pub now_ms: u64,
}

impl Authority {
    /// A new authority, valid for ten years from `now` (seconds). The seed is 32 bytes of entropy, used once.
    ///
    /// # Errors
    /// [`AuthorityError::Organisation`], or [`AuthorityError::Encoding`] for times beyond the year 9999.
    pub fn generate(organisation: &str, seed: &[u8; 32], now: u64) -> Result<Self, AuthorityError> {
        let characters = organisation.chars().count();
        if characters == 0 || characters > MAX_ORGANISATION || organisation.chars().any(char::is_control) {
            return Err(AuthorityError::Organisation);
        }
        Self::make(organisation, seed, now).map_err(|_| AuthorityError::Encoding)
    }

    fn make(organisation: &str, seed: &[u8; 32], now: u64) -> der::Result<Self> {
        let root = self_signed(organisation, "Signing root", seed, "root", now)?;
        let timestamp_root = self_signed(organisation, "Timestamp root", seed, "timestamp root", now)?;
        let timestamp = timestamp_leaf(organisation, &timestamp_root, seed, now)?;
        let ct = Signer::from_seed(seed, "ct");
        Ok(Self { organisation: organisation.to_owned(), root, ct, timestamp_root, timestamp })
    }

    /// Issues a certificate that is valid for [`LEAF_SECONDS`] from now, with an embedded SCT.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub fn issue(&self, order: &Issuance<'_>) -> Result<Certificate, AuthorityError> {
        let now = order.now_ms / 1000;
        self.check_time(now)?;
        check_issuer(order.issuer)?;
        match order.identity {
            Identity::Uri(text) => Identity::uri(text)?,
            Identity::Mail(text) => Identity::mail(text)?,
            Identity::Other(_) => {
                return Err(CertificateError::Identity("only URIs and mail addresses are issued").into());
            }
        };
        let PublicKey::P256(_) = PublicKey::from_spki(order.public_key)? else {
            return Err(KeyError::Unsupported("another curve".to_owned()).into());
        };
        let issued = self.issue_der(order, now).map_err(|_| AuthorityError::Encoding)?;
        Ok(Certificate::from_der(&issued)?)
    }

    fn issue_der(&self, order: &Issuance<'_>, now: u64) -> der::Result<Vec<u8>> {
        let root_spki = self.root.key.spki();
        let template = Template {
            serial: order.serial,
            issuer: self.root.certificate.subject(),
            subject: Default::default(),
            spki: order.public_key,
            not_before: now,
            not_after: now.saturating_add(LEAF_SECONDS),
            extensions: leaf_extensions(order, &root_spki)?,
        };
        let mut tbs = template.tbs()?;
        embed_sct(&mut tbs, &root_spki, &self.ct, order.now_ms)?;
        sign(&tbs, &self.root.key)
    }

    /// First second of its validity.
    pub(crate) fn not_before(&self) -> u64 {
        self.root.certificate.not_before()
    }

    fn check_time(&self, now: u64) -> Result<(), AuthorityError> {
        let (not_before, not_after) = (self.root.certificate.not_before(), self.root.certificate.not_after());
        let end = now.saturating_add(LEAF_SECONDS);
        if now >= not_before && end <= not_after {
            return Ok(());
        }
        Err(AuthorityError::NotValid { not_before, not_after, now })
    }

    /// What verifiers need.
    pub fn public(&self) -> PublicAuthority {
        PublicAuthority {
            organisation: self.organisation.clone(),
            root: self.root.certificate.der().to_vec(),
            ct_key: self.ct.spki(),
            timestamp_chain: [&self.timestamp, &self.timestamp_root].map(|h| h.certificate.der().to_vec()),
            not_before: self.root.certificate.not_before(),
            not_after: self.root.certificate.not_after(),
        }
    }

    /// Everything, secrets included, for the caller to seal.
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        // Allocated once, so that growing leaves no copies of secrets behind.
        let mut out = Zeroizing::new(Vec::with_capacity(MAX_SAVED_BYTES));
        out.extend_from_slice(SAVED);
        put(&mut out, self.organisation.as_bytes());
        for holder in [&self.root, &self.timestamp_root, &self.timestamp] {
            put(&mut out, holder.certificate.der());
            put(&mut out, holder.key.to_bytes().as_slice());
        }
        put(&mut out, self.ct.to_bytes().as_slice());
        out
    }

    /// Reads what [`Self::to_bytes`] wrote.
    ///
    /// # Errors
    /// [`AuthorityError::Saved`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, AuthorityError> {
        let saved = AuthorityError::Saved;
        let body = bytes.strip_prefix(SAVED).ok_or(saved("another format or version"))?;
        let mut rest = Some(body).filter(|_| bytes.len() <= MAX_SAVED_BYTES).ok_or(saved("too large"))?;
        let mut next = || {
            let (part, more) = take(rest).ok_or(saved("it is cut short"))?;
            rest = more;
            Ok::<_, AuthorityError>(part)
        };
        let organisation = std::str::from_utf8(next()?).map_err(|_| saved("the organisation is not text"))?.to_owned();
        let mut holders = Vec::new();
        for _ in 0..3 {
            holders.push(holder(next()?, next()?)?);
        }
        let ct = secret(next()?)?;
        if !rest.is_empty() {
            return Err(saved("bytes follow it"));
        }
        let Ok([root, timestamp_root, timestamp]) = <[Holder; 3]>::try_from(holders) else {
            return Err(saved("it is cut short"));
        };
        for (child, issuer) in [(&root, &root), (&timestamp_root, &timestamp_root), (&timestamp, &timestamp_root)] {
            if child.certificate.is_signed_by(&issuer.certificate) != Ok(true) {
                return Err(saved("a certificate is not signed by its issuer"));
            }
        }
        Ok(Self { organisation, root, ct, timestamp_root, timestamp })
    }
}

fn put(out: &mut Vec<u8>, part: &[u8]) {
    // Parts are names, keys and certificates of ours: all far below 64 KiB.
    out.extend_from_slice(&(part.len() as u16).to_be_bytes());
    out.extend_from_slice(part);
}

fn take(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

fn secret(bytes: &[u8]) -> Result<Signer, AuthorityError> {
    let bytes = bytes.try_into().map(|b: [u8; 32]| Zeroizing::new(b));
    let bytes = bytes.map_err(|_| AuthorityError::Saved("a key is not 32 bytes long"))?;
    Signer::from_bytes(&bytes).map_err(|_| AuthorityError::Saved("a key is not a P-256 key"))
}

fn holder(certificate: &[u8], key: &[u8]) -> Result<Holder, AuthorityError> {
    let certificate = Certificate::from_der(certificate)?;
    let key = secret(key)?;
    if certificate.spki() != key.spki() {
        return Err(AuthorityError::Saved("a certificate is of another key"));
    }
    Ok(Holder { certificate, key })
}

fn self_signed(organisation: &str, role: &str, seed: &[u8; 32], label: &str, now: u64) -> der::Result<Holder> {
    let key = Signer::from_seed(seed, label);
    let spki = key.spki();
    let subject = name(organisation, role)?;
    let template = Template {
        serial: serial(seed, label),
        issuer: &subject.clone(),
        subject,
        spki: &spki,
        not_before: now,
        not_after: now.saturating_add(AUTHORITY_SECONDS),
        extensions: vec![
            extension(oid::BASIC_CONSTRAINTS, true, &BasicConstraints { ca: true, path_len_constraint: Some(0) })?,
            extension(oid::KEY_USAGE, true, &KeyUsage(KeyUsages::KeyCertSign | KeyUsages::CRLSign))?,
            extension(oid::SUBJECT_KEY_ID, false, &key_identifier(&spki)?)?,
            extension(oid::AUTHORITY_KEY_ID, false, &authority_key(&spki)?)?,
        ],
    };
    let der = sign(&template.tbs()?, &key)?;
    made(&der, key)
}

/// RFC 3161 section 2.3: for time stamping only, and critically so.
fn timestamp_leaf(organisation: &str, root: &Holder, seed: &[u8; 32], now: u64) -> der::Result<Holder> {
    let key = Signer::from_seed(seed, "timestamp");
    let spki = key.spki();
    let template = Template {
        serial: serial(seed, "timestamp"),
        issuer: root.certificate.subject(),
        subject: name(organisation, "Timestamp authority")?,
        spki: &spki,
        not_before: now,
        not_after: root.certificate.not_after(),
        extensions: vec![
            extension(oid::BASIC_CONSTRAINTS, true, &BasicConstraints { ca: false, path_len_constraint: None })?,
            extension(oid::KEY_USAGE, true, &KeyUsage(KeyUsages::DigitalSignature.into()))?,
            extension(oid::EXTENDED_KEY_USAGE, true, &ExtendedKeyUsage(vec![oid::TIME_STAMPING]))?,
            extension(oid::SUBJECT_KEY_ID, false, &key_identifier(&spki)?)?,
            extension(oid::AUTHORITY_KEY_ID, false, &authority_key(&root.key.spki())?)?,
        ],
    };
    let der = sign(&template.tbs()?, &root.key)?;
    made(&der, key)
}

fn made(der: &[u8], key: Signer) -> der::Result<Holder> {
    let certificate = Certificate::from_der(der).map_err(|_| der::Error::from(der::ErrorKind::Failed))?;
    Ok(Holder { certificate, key })
}

/// Fulcio's certificate profile (its `docs/certificate-specification.md`), without a subject name.
fn leaf_extensions(order: &Issuance<'_>, root_spki: &[u8]) -> der::Result<Extensions> {
    Ok(vec![
        extension(oid::KEY_USAGE, true, &KeyUsage(KeyUsages::DigitalSignature.into()))?,
        extension(oid::EXTENDED_KEY_USAGE, false, &ExtendedKeyUsage(vec![oid::CODE_SIGNING]))?,
        extension(oid::SUBJECT_KEY_ID, false, &key_identifier(order.public_key)?)?,
        extension(oid::AUTHORITY_KEY_ID, false, &authority_key(root_spki)?)?,
        extension(oid::SUBJECT_ALT_NAME, true, &subject_alt_name(order.identity)?)?,
        raw_extension(oid::FULCIO_ISSUER, order.issuer.as_bytes())?,
        extension(oid::FULCIO_ISSUER_V2, false, &order.issuer.to_owned())?,
    ])
}

fn authority_key(spki: &[u8]) -> der::Result<AuthorityKeyIdentifier> {
    let key_identifier: Option<OctetString> = Some(key_identifier(spki)?);
    Ok(AuthorityKeyIdentifier { key_identifier, authority_cert_issuer: None, authority_cert_serial_number: None })
}

fn serial(seed: &[u8; 32], label: &str) -> [u8; 16] {
    let mut bytes = derive(seed, &format!("serial of {label}"), 0);
    let mut serial = [0; 16];
    serial.copy_from_slice(&bytes[..16]);
    bytes.zeroize();
    serial
}
