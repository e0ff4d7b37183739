//! Certificates: taken apart for verification, and made.
//!
//! The profile is Fulcio's: a leaf for code signing that lives for minutes, one subject alternative name that says who
//! signed, an extension that says who vouched for that identity, and an embedded SCT (RFC 6962 section 3.3).

use std::fmt;
use std::time::Duration;

use countersign_proof::digest::Digest;
use der::asn1::{Any, BitString, GeneralizedTime, Ia5String, ObjectIdentifier, OctetString, SetOfVec, UtcTime};
use der::{Decode, Encode, Tag};
use spki::AlgorithmIdentifierOwned;
use x509_cert::Version;
use x509_cert::attr::AttributeTypeAndValue;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAltName};
use x509_cert::ext::{Extension, Extensions};
use x509_cert::name::{Name, RdnSequence, RelativeDistinguishedName};
use x509_cert::serial_number::SerialNumber;
use x509_cert::time::{Time, Validity};

use crate::asn1::{SignedCertificate, TbsCertificate, oid};
use crate::keys::{HashAlgorithm, KeyError, PublicKey, Signer, named};

/// The largest certificate that is read, in bytes.
pub const MAX_CERTIFICATE_BYTES: usize = 16 * 1024;
/// The longest identity and issuer, in bytes.
pub const MAX_IDENTITY_BYTES: usize = 1024;
/// Most SCTs that are read from one certificate.
pub const MAX_SCTS: usize = 16;
/// Extensions that are understood here; a critical one that is not among them is refused (RFC 5280 section 4.2).
const UNDERSTOOD: [ObjectIdentifier; 4] =
    [oid::KEY_USAGE, oid::SUBJECT_ALT_NAME, oid::BASIC_CONSTRAINTS, oid::EXTENDED_KEY_USAGE];

/// Why a certificate cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// More than [`MAX_CERTIFICATE_BYTES`].
    #[error("a certificate of {0} bytes; at most {MAX_CERTIFICATE_BYTES} are accepted")]
    TooLarge(usize),
    /// Not DER of a version 3 certificate, or a part of it is not what it should be.
    #[error("malformed certificate: {0}")]
    Malformed(&'static str),
    /// An identity or issuer that a certificate cannot hold.
    #[error("{0}")]
    Identity(&'static str),
}

/// Who signed, as a subject alternative name has it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Identity {
    /// A URI, such as a workflow's or a pseudonym of ours.
    Uri(String),
    /// A mail address (RFC 5280's rfc822Name).
    Mail(String),
    /// A name of another form, as Fulcio encodes it (its OID 1.3.6.1.4.1.57264.1.7). Read, never issued here.
    Other(String),
}

impl Identity {
    /// A URI that a certificate can hold.
    ///
    /// # Errors
    /// [`CertificateError::Identity`]: not ASCII, without a scheme, with spaces, or too long.
    pub fn uri(text: &str) -> Result<Self, CertificateError> {
        let scheme = text.split_once(':').map_or("", |(scheme, _)| scheme);
        let good = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
        if good && is_plain(text) {
            return Ok(Self::Uri(text.to_owned()));
        }
        Err(CertificateError::Identity("an identity URI needs a scheme and at most 1024 visible ASCII characters"))
    }

    /// A mail address that a certificate can hold.
    ///
    /// # Errors
    /// [`CertificateError::Identity`]: not ASCII, without a local part or domain, with spaces, or too long.
    pub fn mail(text: &str) -> Result<Self, CertificateError> {
        let parts = text.rsplit_once('@').filter(|(local, domain)| !local.is_empty() && !domain.is_empty());
        if parts.is_some() && is_plain(text) {
            return Ok(Self::Mail(text.to_owned()));
        }
        Err(CertificateError::Identity("a mail identity needs an @ and at most 1024 visible ASCII characters"))
    }

    /// The name without its form.
    pub fn text(&self) -> &str {
        match self {
            Self::Uri(text) | Self::Mail(text) | Self::Other(text) => text,
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// What Fulcio takes from the identity token of a workflow (its `docs/oid-info.md`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// The build instructions that ran and signed.
    BuildSignerUri,
    /// The repository that was built.
    SourceRepositoryUri,
    /// The commit.
    SourceRepositoryDigest,
    /// The branch or tag.
    SourceRepositoryRef,
    /// The workflow at the top, which may have called the one that signed.
    BuildConfigUri,
}

/// Checks an issuer's URL: what vouches for an identity.
///
/// # Errors
/// [`CertificateError::Identity`].
pub fn check_issuer(url: &str) -> Result<(), CertificateError> {
    let good = url.starts_with("https://") || url.starts_with("http://");
    if good && is_plain(url) {
        return Ok(());
    }
    Err(CertificateError::Identity("an issuer is an http or https URL of at most 1024 visible ASCII characters"))
}

fn is_plain(text: &str) -> bool {
    text.len() <= MAX_IDENTITY_BYTES && !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic())
}

/// A certificate taken apart. Nothing about it has been verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    der: Vec<u8>,
    tbs_bytes: Vec<u8>,
    tbs: TbsCertificate,
    algorithm: AlgorithmIdentifierOwned,
    signature: Vec<u8>,
}

impl Certificate {
    /// Reads DER.
    ///
    /// # Errors
    /// [`CertificateError`].
    pub fn from_der(der: &[u8]) -> Result<Self, CertificateError> {
        if der.len() > MAX_CERTIFICATE_BYTES {
            return Err(CertificateError::TooLarge(der.len()));
        }
        let malformed = CertificateError::Malformed;
        let signed = SignedCertificate::from_der(der).map_err(|_| malformed("not DER of a certificate"))?;
        let tbs_bytes = signed.tbs.to_der().map_err(|_| malformed("not DER of a certificate"))?;
        let tbs =
            TbsCertificate::from_der(&tbs_bytes).map_err(|_| malformed("not an X.509 certificate of version 3"))?;
        if tbs.version != Version::V3 || tbs.signature != signed.algorithm {
            return Err(malformed("not of version 3, or its two signature algorithms differ"));
        }
        let mut seen: Vec<_> = tbs.extensions.iter().map(|e| e.extn_id).collect();
        seen.sort_unstable();
        if seen.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(malformed("an extension is there twice"));
        }
        let signature = signed.signature.as_bytes().ok_or(malformed("the signature has a broken byte"))?.to_vec();
        Ok(Self { der: der.to_vec(), tbs_bytes, tbs, algorithm: signed.algorithm, signature })
    }

    /// The bytes that were read.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// Who issued it.
    pub fn issuer(&self) -> &Name {
        &self.tbs.issuer
    }

    /// Whose it is; empty for leaves of Sigstore, which name their subject in an extension.
    pub fn subject(&self) -> &Name {
        &self.tbs.subject
    }

    /// The serial number.
    pub fn serial_number(&self) -> &SerialNumber {
        &self.tbs.serial_number
    }

    /// The public key as DER of a `SubjectPublicKeyInfo`.
    pub fn spki(&self) -> Vec<u8> {
        // It was decoded from DER, so that it can be encoded; an empty key would be refused by whoever reads it.
        self.tbs.public_key.to_der().unwrap_or_default()
    }

    /// The public key.
    ///
    /// # Errors
    /// [`KeyError`], if it is none or of an unsupported kind.
    pub fn public_key(&self) -> Result<PublicKey, KeyError> {
        PublicKey::from_spki(&self.spki())
    }

    /// First second of its validity.
    pub fn not_before(&self) -> u64 {
        self.tbs.validity.not_before.to_unix_duration().as_secs()
    }

    /// Last second of its validity.
    pub fn not_after(&self) -> u64 {
        self.tbs.validity.not_after.to_unix_duration().as_secs()
    }

    /// Whether it is valid at a time, in seconds. Both ends belong to the validity (RFC 5280 section 4.1.2.5).
    pub fn is_valid_at(&self, seconds: u64) -> bool {
        (self.not_before()..=self.not_after()).contains(&seconds)
    }

    /// The bytes of an extension's value.
    pub(crate) fn extension(&self, id: ObjectIdentifier) -> Option<&Extension> {
        self.tbs.extensions.iter().find(|e| e.extn_id == id)
    }

    fn decoded<'a, T: Decode<'a>>(&'a self, id: ObjectIdentifier) -> Result<Option<T>, CertificateError> {
        let Some(extension) = self.extension(id) else { return Ok(None) };
        let decoded = T::from_der(extension.extn_value.as_bytes());
        decoded.map(Some).map_err(|_| CertificateError::Malformed("an extension is not what its name says"))
    }

    /// Whether there is a critical extension that is not understood here.
    pub fn has_unknown_critical_extension(&self) -> bool {
        self.tbs.extensions.iter().any(|e| e.critical && !UNDERSTOOD.contains(&e.extn_id))
    }

    pub(crate) fn basic_constraints(&self) -> Result<Option<BasicConstraints>, CertificateError> {
        self.decoded(oid::BASIC_CONSTRAINTS)
    }

    pub(crate) fn key_usage(&self) -> Result<Option<KeyUsage>, CertificateError> {
        self.decoded(oid::KEY_USAGE)
    }

    pub(crate) fn extended_key_usage(&self) -> Result<Option<ExtendedKeyUsage>, CertificateError> {
        self.decoded(oid::EXTENDED_KEY_USAGE)
    }

    pub(crate) fn subject_key_id(&self) -> Result<Option<OctetString>, CertificateError> {
        self.decoded(oid::SUBJECT_KEY_ID)
    }

    /// Whether the key that it names as its issuer's can be `issuer`'s (RFC 5280 section 4.2.1.1). It can where either names
    /// none. This costs next to nothing, and says nothing of who signed.
    pub(crate) fn may_be_signed_by(&self, issuer: &Self) -> bool {
        let named = self.decoded::<AuthorityKeyIdentifier>(oid::AUTHORITY_KEY_ID).ok().flatten();
        let key = issuer.subject_key_id().ok().flatten();
        match (named.and_then(|named| named.key_identifier), key) {
            (Some(named), Some(key)) => named == key,
            (_, _) => true,
        }
    }

    /// Who signs with this certificate: its only subject alternative name.
    ///
    /// # Errors
    /// [`CertificateError::Malformed`], if there is none, more than one, or one of a form that identifies nobody.
    pub fn identity(&self) -> Result<Identity, CertificateError> {
        let malformed = CertificateError::Malformed;
        let names = self.decoded::<SubjectAltName>(oid::SUBJECT_ALT_NAME)?;
        let names = names.ok_or(malformed("it names nobody: no subject alternative name"))?.0;
        let [name] = names.as_slice() else { return Err(malformed("it has more than one subject alternative name")) };
        match name {
            GeneralName::UniformResourceIdentifier(uri) => Ok(Identity::Uri(uri.to_string())),
            GeneralName::Rfc822Name(mail) => Ok(Identity::Mail(mail.to_string())),
            GeneralName::OtherName(other) if other.type_id == oid::FULCIO_OTHER_NAME => {
                let text = other.value.decode_as::<String>();
                text.map(Identity::Other).map_err(|_| malformed("its other name is not text"))
            }
            _ => Err(malformed("its subject alternative name is of a form that identifies nobody")),
        }
    }

    /// Who vouched for the identity: Fulcio's extension 1.8, or 1.1 where there is no 1.8.
    ///
    /// # Errors
    /// [`CertificateError::Malformed`], if there is neither, they differ, or one is not text.
    pub fn identity_issuer(&self) -> Result<String, CertificateError> {
        let malformed = CertificateError::Malformed;
        let new = self.decoded::<String>(oid::FULCIO_ISSUER_V2)?;
        let old = self.extension(oid::FULCIO_ISSUER).map(|e| e.extn_value.as_bytes());
        let old =
            old.map(std::str::from_utf8).transpose().map_err(|_| malformed("its issuer extension is not text"))?;
        match (new, old) {
            (Some(new), Some(old)) if new != old => Err(malformed("its two issuer extensions differ")),
            (Some(new), _) => Ok(new),
            (None, Some(old)) => Ok(old.to_owned()),
            (None, None) => Err(malformed("it does not say who vouched for the identity")),
        }
    }

    /// What the workflow that signed says of itself, as far as it was asked and answers.
    ///
    /// # Errors
    /// [`CertificateError::Malformed`], if the extension is there and not text.
    pub fn claim(&self, claim: Claim) -> Result<Option<String>, CertificateError> {
        self.decoded(match claim {
            Claim::BuildSignerUri => oid::FULCIO_BUILD_SIGNER_URI,
            Claim::SourceRepositoryUri => oid::FULCIO_SOURCE_REPOSITORY_URI,
            Claim::SourceRepositoryDigest => oid::FULCIO_SOURCE_REPOSITORY_DIGEST,
            Claim::SourceRepositoryRef => oid::FULCIO_SOURCE_REPOSITORY_REF,
            Claim::BuildConfigUri => oid::FULCIO_BUILD_CONFIG_URI,
        })
    }

    /// Whether its signature is by `issuer`'s key. Names and validity are not looked at.
    ///
    /// # Errors
    /// [`KeyError`], if the key or the algorithm is not supported.
    pub fn is_signed_by(&self, issuer: &Self) -> Result<bool, KeyError> {
        let hash = HashAlgorithm::of_ecdsa(&self.algorithm.oid);
        let key = issuer.public_key()?;
        let hash = match (&key, hash) {
            (PublicKey::P256(_) | PublicKey::P384(_), Some(hash)) => hash,
            (PublicKey::Ed25519(_), None) if self.algorithm.oid == oid::ED25519 => HashAlgorithm::Sha512,
            _ => return Err(KeyError::Unsupported(named(&self.algorithm.oid))),
        };
        Ok(key.verify(hash, &self.tbs_bytes, &self.signature))
    }

    /// The SCTs that are embedded in it (RFC 6962 section 3.3).
    ///
    /// # Errors
    /// [`CertificateError::Malformed`].
    pub fn scts(&self) -> Result<Vec<Sct>, CertificateError> {
        match self.decoded::<OctetString>(oid::SCT_LIST)? {
            Some(list) => parse_sct_list(list.as_bytes()).ok_or(CertificateError::Malformed("its SCT list is broken")),
            None => Ok(Vec::new()),
        }
    }

    /// What an SCT in it signs (RFC 6962 section 3.2): the certificate without its SCTs, for the issuer's key.
    ///
    /// # Errors
    /// [`CertificateError::Malformed`].
    pub fn sct_message(&self, sct: &Sct, issuer: &Self) -> Result<Vec<u8>, CertificateError> {
        let mut tbs = self.tbs.clone();
        tbs.extensions.retain(|e| e.extn_id != oid::SCT_LIST);
        sct_message(&tbs, &issuer.spki(), sct.timestamp, &sct.extensions)
            .ok_or(CertificateError::Malformed("too large for an SCT"))
    }
}

/// A signed certificate timestamp, version 1 (RFC 6962 section 3.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sct {
    /// SHA-256 of the log's public key.
    pub log_id: [u8; 32],
    /// Milliseconds.
    pub timestamp: u64,
    /// Usually empty.
    pub extensions: Vec<u8>,
    /// Hash and signature algorithm; ECDSA with SHA-256 is 4, 3.
    pub algorithm: [u8; 2],
    /// The signature; DER for ECDSA.
    pub signature: Vec<u8>,
}

/// ECDSA with SHA-256 in TLS (RFC 5246 section 7.4.1.4.1).
pub(crate) const TLS_ECDSA_SHA256: [u8; 2] = [4, 3];

fn parse_sct_list(list: &[u8]) -> Option<Vec<Sct>> {
    let (list, rest) = take_u16(list)?;
    let (mut list, mut scts) = (list, Vec::new());
    while !list.is_empty() {
        let (sct, more) = take_u16(list)?;
        if scts.len() == MAX_SCTS {
            return None;
        }
        scts.push(parse_sct(sct)?);
        list = more;
    }
    rest.is_empty().then_some(scts)
}

fn parse_sct(bytes: &[u8]) -> Option<Sct> {
    let bytes = bytes.strip_prefix(&[0])?;
    let (log_id, bytes) = bytes.split_first_chunk::<32>()?;
    let (timestamp, bytes) = bytes.split_first_chunk::<8>()?;
    let (extensions, bytes) = take_u16(bytes)?;
    let (algorithm, bytes) = bytes.split_first_chunk::<2>()?;
    let (signature, rest) = take_u16(bytes)?;
    rest.is_empty().then(|| Sct {
        log_id: *log_id,
        timestamp: u64::from_be_bytes(*timestamp),
        extensions: extensions.to_vec(),
        algorithm: *algorithm,
        signature: signature.to_vec(),
    })
}

fn take_u16(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

fn sct_message(tbs: &TbsCertificate, issuer_spki: &[u8], timestamp: u64, extensions: &[u8]) -> Option<Vec<u8>> {
    let tbs = tbs.to_der().ok()?;
    // Version 1, a certificate timestamp, of a precertificate.
    let mut out = vec![0, 0];
    out.extend_from_slice(&timestamp.to_be_bytes());
    out.extend_from_slice(&[0, 1]);
    out.extend_from_slice(Digest::of(issuer_spki).as_bytes());
    let [zero, length @ ..] = u32::try_from(tbs.len()).ok()?.to_be_bytes();
    out.extend_from_slice(&length);
    out.extend_from_slice(&tbs);
    out.extend_from_slice(&u16::try_from(extensions.len()).ok()?.to_be_bytes());
    out.extend_from_slice(extensions);
    (zero == 0).then_some(out)
}

/// What a certificate of ours says; the rest is profile.
pub(crate) struct Template<'a> {
    pub(crate) serial: [u8; 16],
    pub(crate) issuer: &'a Name,
    pub(crate) subject: Name,
    pub(crate) spki: &'a [u8],
    /// Seconds.
    pub(crate) not_before: u64,
    /// Seconds.
    pub(crate) not_after: u64,
    pub(crate) extensions: Extensions,
}

impl Template<'_> {
    pub(crate) fn tbs(self) -> der::Result<TbsCertificate> {
        // Positive, and of full length whatever the entropy was (RFC 5280 section 4.1.2.2).
        let mut serial = self.serial;
        serial[0] = serial[0] & 0x7f | 0x40;
        Ok(TbsCertificate {
            version: Version::V3,
            serial_number: SerialNumber::new(&serial)?,
            signature: ecdsa_sha256(),
            issuer: self.issuer.clone(),
            validity: Validity::new(time(self.not_before)?, time(self.not_after)?),
            subject: self.subject,
            public_key: Decode::from_der(self.spki)?,
            extensions: self.extensions,
        })
    }
}

/// Embeds an SCT by `ct` into a certificate that is about to be signed by the holder of `issuer_spki`.
pub(crate) fn embed_sct(tbs: &mut TbsCertificate, issuer_spki: &[u8], ct: &Signer, now_ms: u64) -> der::Result<()> {
    let overlong = || der::Error::from(der::ErrorKind::Overlength);
    let message = sct_message(tbs, issuer_spki, now_ms, &[]).ok_or_else(overlong)?;
    let signature = ct.sign(&message);
    let mut sct = vec![0];
    sct.extend_from_slice(Digest::of(&ct.spki()).as_bytes());
    sct.extend_from_slice(&now_ms.to_be_bytes());
    sct.extend_from_slice(&[0, 0]);
    sct.extend_from_slice(&TLS_ECDSA_SHA256);
    put_u16(&mut sct, &signature).ok_or_else(overlong)?;
    let (mut inner, mut list) = (Vec::new(), Vec::new());
    put_u16(&mut inner, &sct).ok_or_else(overlong)?;
    put_u16(&mut list, &inner).ok_or_else(overlong)?;
    tbs.extensions.push(extension(oid::SCT_LIST, false, &OctetString::new(list)?)?);
    Ok(())
}

fn put_u16(out: &mut Vec<u8>, bytes: &[u8]) -> Option<()> {
    out.extend_from_slice(&u16::try_from(bytes.len()).ok()?.to_be_bytes());
    out.extend_from_slice(bytes);
    Some(())
}

/// Signs, and gives the whole certificate's DER.
pub(crate) fn sign(tbs: &TbsCertificate, key: &Signer) -> der::Result<Vec<u8>> {
    let bytes = tbs.to_der()?;
    let signature = BitString::from_bytes(&key.sign(&bytes))?;
    SignedCertificate { tbs: Any::from_der(&bytes)?, algorithm: tbs.signature.clone(), signature }.to_der()
}

pub(crate) fn ecdsa_sha256() -> AlgorithmIdentifierOwned {
    AlgorithmIdentifierOwned { oid: oid::ECDSA_SHA256, parameters: None }
}

pub(crate) fn extension(id: ObjectIdentifier, critical: bool, value: &impl Encode) -> der::Result<Extension> {
    Ok(Extension { extn_id: id, critical, extn_value: OctetString::new(value.to_der()?)? })
}

/// An extension whose value is not DER, as Fulcio's first issuer extension.
pub(crate) fn raw_extension(id: ObjectIdentifier, value: &[u8]) -> der::Result<Extension> {
    Ok(Extension { extn_id: id, critical: false, extn_value: OctetString::new(value)? })
}

/// Key identifier: the first 160 bits of SHA-256 over the key's bits (RFC 7093 section 2, method 1).
pub(crate) fn key_identifier(spki: &[u8]) -> der::Result<OctetString> {
    let info = spki::SubjectPublicKeyInfoRef::from_der(spki)?;
    OctetString::new(&Digest::of(info.subject_public_key.raw_bytes()).0[..20])
}

/// Organisation and common name, in this order.
pub(crate) fn name(organisation: &str, common_name: &str) -> der::Result<Name> {
    let mut names = RdnSequence::default();
    for (kind, text) in [(oid::ORGANISATION, organisation), (oid::COMMON_NAME, common_name)] {
        let value = Any::new(Tag::Utf8String, text.as_bytes())?;
        let mut part = RelativeDistinguishedName::default();
        part.insert(AttributeTypeAndValue { oid: kind, value })?;
        names.push(part);
    }
    Name::from_der(&names.to_der()?)
}

pub(crate) fn subject_alt_name(identity: &Identity) -> der::Result<SubjectAltName> {
    let name = match identity {
        Identity::Uri(uri) => GeneralName::UniformResourceIdentifier(Ia5String::new(uri)?),
        Identity::Mail(mail) => GeneralName::Rfc822Name(Ia5String::new(mail)?),
        Identity::Other(_) => return Err(der::ErrorKind::Failed.into()),
    };
    Ok(SubjectAltName(vec![name]))
}

/// UTCTime until 2049, GeneralizedTime from then on (RFC 5280 section 4.1.2.5).
fn time(seconds: u64) -> der::Result<Time> {
    let since = Duration::from_secs(seconds);
    match UtcTime::from_unix_duration(since) {
        Ok(time) => Ok(Time::UtcTime(time)),
        Err(_) => GeneralizedTime::from_unix_duration(since).map(Time::GeneralTime),
    }
}

/// One value in a set.
pub(crate) fn one<T: der::DerOrd>(value: T) -> der::Result<SetOfVec<T>> {
    let mut set = SetOfVec::new();
    set.insert(value)?;
    Ok(set)
}
