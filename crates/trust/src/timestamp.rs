//! Timestamps (RFC 3161 with the certificate identifiers of RFC 5816): requests read, answers made, answers verified.
//!
//! What is signed is CMS (RFC 5652). [`respond`] never fails: a request that is refused gets an answer that says why.

use std::time::Duration;

use der::asn1::{Any, BitString, GeneralizedTime, Int, ObjectIdentifier, OctetString, SetOfVec};
use der::{DateTime, Decode, Encode, Tag, Tagged as _};
use serde::Deserialize;
use spki::AlgorithmIdentifierOwned;

use crate::asn1::{
    Accuracy, Attribute, ContentInfo, EncapsulatedContent, EssCertIdV2, IssuerAndSerialNumber, MessageImprint,
    PkiStatusInfo, SignedData, SignerInfo, SigningCertificateV2, TimeStampReq, TimeStampResp, TstInfo, oid,
};
use crate::authority::{Authority, Holder};
use crate::certificate::{Certificate, ecdsa_sha256, one};
use crate::keys::{HashAlgorithm, PublicKey, named};
use crate::wire::{self, Base64, Int64};

/// The largest request that is read, in bytes.
pub const MAX_REQUEST_BYTES: usize = 4096;
/// The largest answer that is read, in bytes.
pub const MAX_RESPONSE_BYTES: usize = 64 * 1024;
/// The longest nonce that is echoed, in bytes.
pub const MAX_NONCE_BYTES: usize = 64;
/// Most certificates that are read from one answer.
pub const MAX_CERTIFICATES: usize = 16;
/// Within how many seconds the stated time is right: it is cut to the second.
const ACCURACY_SECONDS: u32 = 1;

/// Why a request is refused; RFC 3161 section 2.4.2 numbers these as bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// A hash other than SHA-256, SHA-384 and SHA-512.
    #[error("the hash algorithm is not supported: use SHA-256, SHA-384 or SHA-512")]
    BadAlgorithm,
    /// A version other than 1, or a nonce that is too long.
    #[error("the request is not one of version 1 with a nonce of at most {MAX_NONCE_BYTES} bytes")]
    BadRequest,
    /// Not DER of a request, too large, or a digest that is not as long as its hash makes them.
    #[error("the bytes are not a timestamp request")]
    BadDataFormat,
    /// The authority's certificate is not valid now.
    #[error("the timestamp authority is not valid at this time")]
    TimeNotAvailable,
    /// A policy other than the authority's.
    #[error("the requested policy is not supported")]
    UnacceptedPolicy,
    /// An extension; none is supported.
    #[error("extensions are not supported")]
    UnacceptedExtension,
    /// The answer could not be made.
    #[error("the timestamp could not be made")]
    SystemFailure,
}

impl Rejection {
    /// The bit of PKIFailureInfo.
    pub fn bit(self) -> u8 {
        match self {
            Self::BadAlgorithm => 0,
            Self::BadRequest => 2,
            Self::BadDataFormat => 5,
            Self::TimeNotAvailable => 14,
            Self::UnacceptedPolicy => 15,
            Self::UnacceptedExtension => 16,
            Self::SystemFailure => 25,
        }
    }
}

/// A request that can be granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    hash: HashAlgorithm,
    digest: Vec<u8>,
    nonce: Option<Int>,
    certificates: bool,
}

impl Request {
    /// A request for a stamp over a message, without nonce, that wants the certificate in the answer.
    pub fn over(message: &[u8]) -> Self {
        let hash = HashAlgorithm::Sha256;
        Self { hash, digest: hash.digest(message), nonce: None, certificates: true }
    }

    /// Reads the JSON that Sigstore's timestamp authority takes instead of DER: `artifactHash` in base64, `hashAlgorithm`, and if
    /// wanted `nonce` and `certificates`.
    ///
    /// # Errors
    /// [`Rejection`].
    pub fn parse_json(json: &[u8]) -> Result<Self, Rejection> {
        let wire: RequestWire = wire::parse(json, MAX_REQUEST_BYTES).map_err(|_| Rejection::BadDataFormat)?;
        let named = wire.hash_algorithm.to_ascii_lowercase().replace('-', "");
        let hash = HashAlgorithm::ALL.into_iter().find(|hash| hash.in_toto_name() == named);
        let hash = hash.ok_or(Rejection::BadAlgorithm)?;
        if wire.artifact_hash.0.len() != hash.digest_len() {
            return Err(Rejection::BadDataFormat);
        }
        // DER has no zeros in front, but for the sign's.
        let number = |nonce: Int64| {
            let bytes = nonce.0.to_be_bytes();
            let first = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len() - 1);
            let sign: &[u8] = if bytes[first] > 0x7f { &[0] } else { &[] };
            Int::new(&[sign, &bytes[first..]].concat())
        };
        let nonce = wire.nonce.map(number).transpose().map_err(|_| Rejection::BadRequest)?;
        Ok(Self { hash, digest: wire.artifact_hash.0, nonce, certificates: wire.certificates.unwrap_or(true) })
    }

    /// The same with a nonce, which the answer then has to repeat: big-endian, positive, without leading zeros.
    pub fn with_nonce(self, nonce: &[u8]) -> Self {
        Self { nonce: Int::new(nonce).ok(), ..self }
    }

    /// DER of a TimeStampReq.
    pub fn to_der(&self) -> Vec<u8> {
        let imprint = OctetString::new(self.digest.as_slice())
            .map(|digest| MessageImprint { algorithm: algorithm(self.hash.oid()), digest });
        let request = imprint.and_then(|imprint| {
            let (nonce, certificates) = (self.nonce.clone(), self.certificates);
            TimeStampReq { version: 1, imprint, policy: None, nonce, certificates, extensions: None }.to_der()
        });
        // A digest and a nonce of some bytes always fit; an empty request would be refused by whoever gets it.
        request.unwrap_or_default()
    }

    /// Reads DER of a TimeStampReq.
    ///
    /// # Errors
    /// [`Rejection`].
    pub fn parse(der: &[u8]) -> Result<Self, Rejection> {
        if der.len() > MAX_REQUEST_BYTES {
            return Err(Rejection::BadDataFormat);
        }
        let request = TimeStampReq::from_der(der).map_err(|_| Rejection::BadDataFormat)?;
        if request.version != 1 || request.nonce.as_ref().is_some_and(|n| n.as_bytes().len() > MAX_NONCE_BYTES) {
            return Err(Rejection::BadRequest);
        }
        let hash = HashAlgorithm::from_oid(&request.imprint.algorithm.oid).ok_or(Rejection::BadAlgorithm)?;
        if !has_no_parameters(&request.imprint.algorithm)
            || request.imprint.digest.as_bytes().len() != hash.digest_len()
        {
            return Err(Rejection::BadDataFormat);
        }
        if request.policy.is_some_and(|policy| policy != oid::SIGSTORE_TIMESTAMP_POLICY) {
            return Err(Rejection::UnacceptedPolicy);
        }
        if request.extensions.is_some() {
            return Err(Rejection::UnacceptedExtension);
        }
        let digest = request.imprint.digest.into_bytes().into_vec();
        Ok(Self { hash, digest, nonce: request.nonce, certificates: request.certificates })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RequestWire {
    artifact_hash: Base64,
    hash_algorithm: String,
    nonce: Option<Int64>,
    certificates: Option<bool>,
}

/// Absent parameters and NULL mean the same (RFC 5754 section 2).
fn has_no_parameters(algorithm: &AlgorithmIdentifierOwned) -> bool {
    algorithm.parameters.as_ref().is_none_or(Any::is_null)
}

/// Answers DER of a TimeStampReq with DER of a TimeStampResp. `serial` is entropy for the stamp's number.
pub fn respond(authority: &Authority, request: &[u8], serial: [u8; 16], now_ms: u64) -> Vec<u8> {
    match Request::parse(request).and_then(|request| grant(authority, &request, serial, now_ms)) {
        Ok(granted) => granted,
        Err(rejection) => reject(rejection),
    }
}

/// DER of a TimeStampResp that grants a request.
///
/// # Errors
/// [`Rejection::TimeNotAvailable`], [`Rejection::SystemFailure`].
pub fn grant(authority: &Authority, request: &Request, serial: [u8; 16], now_ms: u64) -> Result<Vec<u8>, Rejection> {
    let seconds = now_ms / 1000;
    if !authority.timestamp.certificate.is_valid_at(seconds) {
        return Err(Rejection::TimeNotAvailable);
    }
    granted(&authority.timestamp, request, serial, seconds).map_err(|_| Rejection::SystemFailure)
}

fn granted(holder: &Holder, request: &Request, mut serial: [u8; 16], seconds: u64) -> der::Result<Vec<u8>> {
    serial[0] = serial[0] & 0x7f | 0x40;
    let info = TstInfo {
        version: 1,
        policy: oid::SIGSTORE_TIMESTAMP_POLICY,
        imprint: MessageImprint {
            algorithm: algorithm(request.hash.oid()),
            digest: OctetString::new(request.digest.as_slice())?,
        },
        serial_number: Int::new(&serial)?,
        time: Any::encode_from(&GeneralizedTime::from_unix_duration(Duration::from_secs(seconds))?)?,
        accuracy: Some(Accuracy { seconds: Some(ACCURACY_SECONDS), millis: None, micros: None }),
        ordering: false,
        nonce: request.nonce.clone(),
        authority: None,
        extensions: None,
    };
    let status = PkiStatusInfo { status: 0, text: None, failure: None };
    let signed = signed_data(holder, &info.to_der()?, request.certificates)?;
    let token = ContentInfo { content_type: oid::SIGNED_DATA, content: Any::encode_from(&signed)? };
    TimeStampResp { status, token: Some(token) }.to_der()
}

fn signed_data(holder: &Holder, info: &[u8], with_certificate: bool) -> der::Result<SignedData> {
    let certificate = &holder.certificate;
    let attributes = signed_attributes(certificate, info)?;
    // What is signed is the set under its own tag, not under the one that it has in SignerInfo (RFC 5652 section 5.4).
    let signature = holder.key.sign(&attributes.to_der()?);
    let sid = IssuerAndSerialNumber {
        issuer: certificate.issuer().clone(),
        serial_number: certificate.serial_number().clone(),
    };
    let signer = SignerInfo {
        version: 1,
        sid: Any::encode_from(&sid)?,
        digest_algorithm: algorithm(oid::SHA256),
        signed_attributes: Some(attributes),
        signature_algorithm: ecdsa_sha256(),
        signature: OctetString::new(signature)?,
        unsigned_attributes: None,
    };
    Ok(SignedData {
        version: 3,
        digest_algorithms: one(algorithm(oid::SHA256))?,
        content: EncapsulatedContent { content_type: oid::TST_INFO, content: OctetString::new(info)? },
        certificates: with_certificate.then(|| one(Any::from_der(certificate.der())?)).transpose()?,
        crls: None,
        signer_infos: one(Any::encode_from(&signer)?)?,
    })
}

fn signed_attributes(certificate: &Certificate, info: &[u8]) -> der::Result<SetOfVec<Any>> {
    let hash = |bytes: &[u8]| OctetString::new(HashAlgorithm::Sha256.digest(bytes));
    let certificates =
        vec![EssCertIdV2 { hash_algorithm: None, certificate_hash: hash(certificate.der())?, issuer_serial: None }];
    let signing_certificate = SigningCertificateV2 { certificates, policies: None };
    let mut attributes = SetOfVec::new();
    for (kind, value) in [
        (oid::CONTENT_TYPE, Any::encode_from(&oid::TST_INFO)?),
        (oid::MESSAGE_DIGEST, Any::encode_from(&hash(info)?)?),
        (oid::SIGNING_CERTIFICATE_V2, Any::encode_from(&signing_certificate)?),
    ] {
        attributes.insert(Any::encode_from(&Attribute { kind, values: one(value)? })?)?;
    }
    Ok(attributes)
}

fn algorithm(id: ObjectIdentifier) -> AlgorithmIdentifierOwned {
    AlgorithmIdentifierOwned { oid: id, parameters: None }
}

/// DER of a TimeStampResp that refuses.
pub fn reject(rejection: Rejection) -> Vec<u8> {
    let bit = usize::from(rejection.bit());
    let mut bits = vec![0_u8; bit / 8 + 1];
    bits[bit / 8] = 0x80 >> (bit % 8);
    // In DER, the last bit of a named list is the last one that is set (X.690 section 11.2.2).
    let failure = BitString::new(7 - (bit % 8) as u8, bits).ok();
    let status = PkiStatusInfo { status: 2, text: Some(vec![rejection.to_string()]), failure };
    TimeStampResp { status, token: None }.to_der().unwrap_or_default()
}

/// The same answer with its certificates in DER's order for a set (X.690 section 11.6), in which alone strict verifiers read
/// them; some authorities send them in the order of the chain. No signature covers that order.
///
/// # Errors
/// As [`Token::from_response`].
pub fn in_der_order(answer: &[u8]) -> Result<Vec<u8>, TimestampError> {
    // Sets are put in order when they are read; what is signed is read as bytes.
    let (status, signed) = signed_data_of(answer)?;
    let again = |signed: &SignedData| {
        let token = ContentInfo { content_type: oid::SIGNED_DATA, content: Any::encode_from(signed)? };
        TimeStampResp { status, token: Some(token) }.to_der()
    };
    again(&signed).map_err(|_| TimestampError::Malformed("the stamp is no DER"))
}

fn signed_data_of(answer: &[u8]) -> Result<(PkiStatusInfo, SignedData), TimestampError> {
    let malformed = TimestampError::Malformed;
    if answer.len() > MAX_RESPONSE_BYTES {
        return Err(malformed("too large"));
    }
    let response = TimeStampResp::from_der(answer).map_err(|_| malformed("not DER of an answer"))?;
    // Granted, or granted with modifications.
    if response.status.status > 1 {
        return Err(TimestampError::Refused(response.status.status));
    }
    let token = response.token.ok_or(malformed("no stamp in it"))?;
    if token.content_type != oid::SIGNED_DATA {
        return Err(malformed("the stamp is not signed data"));
    }
    let signed = token.content.decode_as().map_err(|_| malformed("the signed data is broken"))?;
    Ok((response.status, signed))
}

/// Why a timestamp does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TimestampError {
    /// Not DER of an answer with a stamp, or beyond a bound.
    #[error("malformed timestamp: {0}")]
    Malformed(&'static str),
    /// An answer that refuses.
    #[error("the timestamp authority refused: status {0}")]
    Refused(u8),
    /// It stamps another message.
    #[error("the timestamp is over other bytes")]
    Imprint,
    /// No known authority's certificate is the signer's.
    #[error("the timestamp is by an unknown authority")]
    UnknownAuthority,
    /// The signer's certificate is not the one that the stamp names (RFC 5816).
    #[error("the timestamp names another certificate than its signer's")]
    SigningCertificate,
    /// The signed attributes are not over this content.
    #[error("the timestamp's content was changed")]
    Content,
    /// The signature is wrong.
    #[error("the timestamp's signature is wrong")]
    Signature,
    /// An algorithm that is not supported here.
    #[error("the timestamp uses {0}, which is not supported")]
    Unsupported(String),
}

/// A timestamp taken apart. Nothing about it has been verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    info_bytes: Vec<u8>,
    info: TstInfo,
    signer: SignerInfo,
    certificates: Vec<Certificate>,
    seconds: u64,
}

impl Token {
    /// Reads DER of a TimeStampResp.
    ///
    /// # Errors
    /// [`TimestampError::Malformed`], [`TimestampError::Refused`].
    pub fn from_response(der: &[u8]) -> Result<Self, TimestampError> {
        Self::from_signed_data(signed_data_of(der)?.1)
    }

    fn from_signed_data(signed: SignedData) -> Result<Self, TimestampError> {
        let malformed = TimestampError::Malformed;
        if signed.content.content_type != oid::TST_INFO {
            return Err(malformed("the signed data is not a stamp"));
        }
        let info_bytes = signed.content.content.into_bytes().into_vec();
        let info = TstInfo::from_der(&info_bytes).map_err(|_| malformed("the stamp is broken"))?;
        let [signer] = signed.signer_infos.as_slice() else { return Err(malformed("not exactly one signer")) };
        let signer: SignerInfo = signer.decode_as().map_err(|_| malformed("the signer is broken"))?;
        let certificates = signed.certificates.unwrap_or_default();
        if certificates.len() > MAX_CERTIFICATES {
            return Err(malformed("too many certificates"));
        }
        let certificates = certificates.iter().map(|any| Certificate::from_der(&any.to_der().ok()?).ok());
        let certificates = certificates.collect::<Option<Vec<_>>>().ok_or(malformed("a certificate is broken"))?;
        let seconds = generalized_time(&info.time).ok_or(malformed("the time is broken"))?;
        if info.version != 1 || info.extensions.as_ref().is_some_and(|e| e.iter().any(|e| e.critical)) {
            return Err(malformed("not version 1, or a critical extension"));
        }
        Ok(Self { info_bytes, info, signer, certificates, seconds })
    }

    /// The stated time, in seconds; fractions are cut off.
    pub fn seconds(&self) -> u64 {
        self.seconds
    }

    /// Within how many seconds, rounded up, the authority says that the time is right.
    pub fn accuracy_seconds(&self) -> Option<u32> {
        let accuracy = self.info.accuracy.as_ref()?;
        let fraction = accuracy.millis.is_some_and(|m| m > 0) || accuracy.micros.is_some_and(|m| m > 0);
        Some(accuracy.seconds.unwrap_or(0).saturating_add(u32::from(fraction)))
    }

    /// The nonce's big-endian bytes.
    pub fn nonce(&self) -> Option<&[u8]> {
        self.info.nonce.as_ref().map(Int::as_bytes)
    }

    /// The certificates that came with it. Nothing follows from their being there.
    pub fn certificates(&self) -> &[Certificate] {
        &self.certificates
    }

    /// Whether `certificate` is the one that the stamp says it was signed with.
    pub fn is_signer(&self, certificate: &Certificate) -> bool {
        if let Ok(sid) = self.signer.sid.decode_as::<IssuerAndSerialNumber>() {
            return sid.issuer == *certificate.issuer() && sid.serial_number == *certificate.serial_number();
        }
        let key_id = certificate.subject_key_id().ok().flatten();
        self.signer.sid.tag() == KEY_ID_TAG && key_id.is_some_and(|id| id.as_bytes() == self.signer.sid.value())
    }

    /// Whether it stamps `message`.
    ///
    /// # Errors
    /// [`TimestampError::Imprint`], [`TimestampError::Unsupported`].
    pub fn check_message(&self, message: &[u8]) -> Result<(), TimestampError> {
        let id = self.info.imprint.algorithm.oid;
        let hash = HashAlgorithm::from_oid(&id).ok_or_else(|| TimestampError::Unsupported(id.to_string()))?;
        if hash.digest(message) == self.info.imprint.digest.as_bytes() { Ok(()) } else { Err(TimestampError::Imprint) }
    }

    /// Whether it was signed with `certificate`'s key, and names that certificate. Whether the certificate is to be
    /// trusted is another question.
    ///
    /// # Errors
    /// [`TimestampError`].
    pub fn check_signature(&self, certificate: &Certificate) -> Result<(), TimestampError> {
        let malformed = TimestampError::Malformed;
        let unsupported = |id: ObjectIdentifier| TimestampError::Unsupported(named(&id));
        let digest_id = self.signer.digest_algorithm.oid;
        let digest = HashAlgorithm::from_oid(&digest_id).ok_or_else(|| unsupported(digest_id))?;
        let attributes = self.signer.signed_attributes.as_ref().ok_or(malformed("no signed attributes"))?;
        if self.attribute(oid::CONTENT_TYPE)?.decode_as::<ObjectIdentifier>() != Ok(oid::TST_INFO) {
            return Err(malformed("the signed content type is another"));
        }
        let content = self.attribute(oid::MESSAGE_DIGEST)?.decode_as::<OctetString>();
        if content.map_err(|_| malformed("the signed digest is broken"))?.as_bytes() != digest.digest(&self.info_bytes)
        {
            return Err(TimestampError::Content);
        }
        self.check_names(certificate)?;
        let key = certificate.public_key().map_err(|e| TimestampError::Unsupported(e.to_string()))?;
        let signature_id = self.signer.signature_algorithm.oid;
        let hash = match (&key, HashAlgorithm::of_ecdsa(&signature_id)) {
            (PublicKey::P256(_) | PublicKey::P384(_), Some(hash)) => hash,
            _ => return Err(unsupported(signature_id)),
        };
        let signed = attributes.to_der().map_err(|_| malformed("the signed attributes are broken"))?;
        let good = key.verify(hash, &signed, self.signer.signature.as_bytes());
        if good { Ok(()) } else { Err(TimestampError::Signature) }
    }

    /// RFC 5816 section 2.2: the first certificate that is named must be the signer's.
    fn check_names(&self, certificate: &Certificate) -> Result<(), TimestampError> {
        let named: Result<SigningCertificateV2, _> = self.attribute(oid::SIGNING_CERTIFICATE_V2)?.decode_as();
        let named = named.map_err(|_| TimestampError::Malformed("the signing certificate attribute is broken"))?;
        let first = named.certificates.first().ok_or(TimestampError::SigningCertificate)?;
        let id = first.hash_algorithm.as_ref().map_or(oid::SHA256, |a| a.oid);
        let hash = HashAlgorithm::from_oid(&id).ok_or_else(|| TimestampError::Unsupported(id.to_string()))?;
        if hash.digest(certificate.der()) == first.certificate_hash.as_bytes() {
            return Ok(());
        }
        Err(TimestampError::SigningCertificate)
    }

    /// The only value of a signed attribute that is there once.
    fn attribute(&self, kind: ObjectIdentifier) -> Result<Any, TimestampError> {
        let malformed = TimestampError::Malformed("a signed attribute is missing, broken or there twice");
        let attributes = self.signer.signed_attributes.as_ref().ok_or(malformed.clone())?;
        let mut found = None;
        for attribute in attributes.iter() {
            let attribute: Attribute = attribute.decode_as().map_err(|_| malformed.clone())?;
            if attribute.kind == kind {
                let [value] = attribute.values.as_slice() else { return Err(malformed) };
                if found.replace(value.clone()).is_some() {
                    return Err(malformed);
                }
            }
        }
        found.ok_or(malformed)
    }
}

/// `[0] IMPLICIT OCTET STRING`.
const KEY_ID_TAG: Tag = Tag::ContextSpecific { constructed: false, number: der::TagNumber(0) };

/// RFC 3161 section 2.4.2: `YYYYMMDDhhmmss[.s...]Z`; fractions are cut off.
fn generalized_time(any: &Any) -> Option<u64> {
    if any.tag() != Tag::GeneralizedTime {
        return None;
    }
    let text = std::str::from_utf8(any.value()).ok()?.strip_suffix('Z')?;
    let (whole, fraction) = text.split_once('.').map_or((text, None), |(whole, fraction)| (whole, Some(fraction)));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    // In DER there is no empty fraction, and none that ends in 0.
    let good = fraction.is_none_or(|f| !f.is_empty() && f.len() <= 9 && digits(f) && !f.ends_with('0'));
    if !good || whole.len() != 14 || !digits(whole) {
        return None;
    }
    let part = |range: std::ops::Range<usize>| whole.get(range)?.parse::<u8>().ok();
    let year = whole.get(..4)?.parse().ok()?;
    let time = DateTime::new(year, part(4..6)?, part(6..8)?, part(8..10)?, part(10..12)?, part(12..14)?).ok()?;
    Some(time.unix_duration().as_secs())
}
