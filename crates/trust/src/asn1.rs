//! The ASN.1 that `x509-cert` does not have in a form that can be filled in: a certificate, CMS (RFC 5652) as far as
//! timestamps need it, and RFC 3161.
//!
//! Structures derive both directions, so that what is made here is also read here. `SET OF` is sorted when it is read.

use der::Sequence;
use der::asn1::{Any, BitString, Int, ObjectIdentifier, OctetString, SetOfVec};
use spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};
use x509_cert::Version;
use x509_cert::ext::Extensions;
use x509_cert::name::Name;
use x509_cert::serial_number::SerialNumber;
use x509_cert::time::Validity;

/// Object identifiers, each with the document that assigns it.
pub(crate) mod oid {
    use der::asn1::ObjectIdentifier;

    const fn id(text: &str) -> ObjectIdentifier {
        ObjectIdentifier::new_unwrap(text)
    }

    // RFC 5480 section 2.1.1, RFC 5758 section 3.2, RFC 8410 section 3.
    pub(crate) const EC_PUBLIC_KEY: ObjectIdentifier = id("1.2.840.10045.2.1");
    pub(crate) const P256: ObjectIdentifier = id("1.2.840.10045.3.1.7");
    pub(crate) const P384: ObjectIdentifier = id("1.3.132.0.34");
    pub(crate) const ED25519: ObjectIdentifier = id("1.3.101.112");
    pub(crate) const ECDSA_SHA256: ObjectIdentifier = id("1.2.840.10045.4.3.2");
    pub(crate) const ECDSA_SHA384: ObjectIdentifier = id("1.2.840.10045.4.3.3");
    pub(crate) const ECDSA_SHA512: ObjectIdentifier = id("1.2.840.10045.4.3.4");
    /// RFC 8017 appendix C: under it are RSA keys and signatures.
    pub(crate) const PKCS1: ObjectIdentifier = id("1.2.840.113549.1.1");
    // RFC 5754 section 2.
    pub(crate) const SHA256: ObjectIdentifier = id("2.16.840.1.101.3.4.2.1");
    pub(crate) const SHA384: ObjectIdentifier = id("2.16.840.1.101.3.4.2.2");
    pub(crate) const SHA512: ObjectIdentifier = id("2.16.840.1.101.3.4.2.3");
    // RFC 5280 appendix A, X.520.
    pub(crate) const ORGANISATION: ObjectIdentifier = id("2.5.4.10");
    pub(crate) const COMMON_NAME: ObjectIdentifier = id("2.5.4.3");
    pub(crate) const SUBJECT_KEY_ID: ObjectIdentifier = id("2.5.29.14");
    pub(crate) const KEY_USAGE: ObjectIdentifier = id("2.5.29.15");
    pub(crate) const SUBJECT_ALT_NAME: ObjectIdentifier = id("2.5.29.17");
    pub(crate) const BASIC_CONSTRAINTS: ObjectIdentifier = id("2.5.29.19");
    pub(crate) const AUTHORITY_KEY_ID: ObjectIdentifier = id("2.5.29.35");
    pub(crate) const EXTENDED_KEY_USAGE: ObjectIdentifier = id("2.5.29.37");
    pub(crate) const CODE_SIGNING: ObjectIdentifier = id("1.3.6.1.5.5.7.3.3");
    pub(crate) const TIME_STAMPING: ObjectIdentifier = id("1.3.6.1.5.5.7.3.8");
    // RFC 6962 section 3.3.
    pub(crate) const SCT_LIST: ObjectIdentifier = id("1.3.6.1.4.1.11129.2.4.2");
    // Fulcio's `docs/oid-info.md`.
    pub(crate) const FULCIO_ISSUER: ObjectIdentifier = id("1.3.6.1.4.1.57264.1.1");
    pub(crate) const FULCIO_OTHER_NAME: ObjectIdentifier = id("1.3.6.1.4.1.57264.1.7");
    pub(crate) const FULCIO_ISSUER_V2: ObjectIdentifier = id("1.3.6.1.4.1.57264.1.8");
    pub(crate) const FULCIO_BUILD_SIGNER_URI: ObjectIdentifier = id("1.3.6.1.4.1.57264.1.9");
    pub(crate) const FULCIO_SOURCE_REPOSITORY_URI: ObjectIdentifier = id("1.3.6.1.4.1.57264.1.12");
    pub(crate) const FULCIO_SOURCE_REPOSITORY_DIGEST: ObjectIdentifier = id("1.3.6.1.4.1.57264.1.13");
    pub(crate) const FULCIO_SOURCE_REPOSITORY_REF: ObjectIdentifier = id("1.3.6.1.4.1.57264.1.14");
    pub(crate) const FULCIO_BUILD_CONFIG_URI: ObjectIdentifier = id("1.3.6.1.4.1.57264.1.18");
    /// The policy under which Sigstore's own timestamp authority stamps.
    pub(crate) const SIGSTORE_TIMESTAMP_POLICY: ObjectIdentifier = id("1.3.6.1.4.1.57264.2");
    // RFC 5652 sections 5.1, 11.1 and 11.2, RFC 3161 section 2.4.2, RFC 5035 section 3.
    pub(crate) const SIGNED_DATA: ObjectIdentifier = id("1.2.840.113549.1.7.2");
    pub(crate) const CONTENT_TYPE: ObjectIdentifier = id("1.2.840.113549.1.9.3");
    pub(crate) const MESSAGE_DIGEST: ObjectIdentifier = id("1.2.840.113549.1.9.4");
    pub(crate) const TST_INFO: ObjectIdentifier = id("1.2.840.113549.1.9.16.1.4");
    pub(crate) const SIGNING_CERTIFICATE_V2: ObjectIdentifier = id("1.2.840.113549.1.9.16.2.47");
}

/// RFC 5280 section 4.1. Only version 3, and without the unique identifiers that nobody uses.
#[derive(Clone, Debug, PartialEq, Eq, Sequence)]
pub(crate) struct TbsCertificate {
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT")]
    pub(crate) version: Version,
    pub(crate) serial_number: SerialNumber,
    pub(crate) signature: AlgorithmIdentifierOwned,
    pub(crate) issuer: Name,
    pub(crate) validity: Validity,
    pub(crate) subject: Name,
    pub(crate) public_key: SubjectPublicKeyInfoOwned,
    #[asn1(context_specific = "3", tag_mode = "EXPLICIT")]
    pub(crate) extensions: Extensions,
}

/// RFC 5280 section 4.1. The signed part is kept as it came.
#[derive(Clone, Debug, PartialEq, Eq, Sequence)]
pub(crate) struct SignedCertificate {
    pub(crate) tbs: Any,
    pub(crate) algorithm: AlgorithmIdentifierOwned,
    pub(crate) signature: BitString,
}

/// RFC 5652 section 3.
#[derive(Clone, Debug, PartialEq, Eq, Sequence)]
pub(crate) struct ContentInfo {
    pub(crate) content_type: ObjectIdentifier,
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT")]
    pub(crate) content: Any,
}

/// RFC 5652 section 5.1.
#[derive(Clone, Debug, PartialEq, Eq, Sequence)]
pub(crate) struct SignedData {
    pub(crate) version: u8,
    pub(crate) digest_algorithms: SetOfVec<AlgorithmIdentifierOwned>,
    pub(crate) content: EncapsulatedContent,
    #[asn1(context_specific = "0", tag_mode = "IMPLICIT", optional = "true")]
    pub(crate) certificates: Option<SetOfVec<Any>>,
    #[asn1(context_specific = "1", tag_mode = "IMPLICIT", optional = "true")]
    pub(crate) crls: Option<SetOfVec<Any>>,
    pub(crate) signer_infos: SetOfVec<Any>,
}

/// RFC 5652 section 5.2.
#[derive(Clone, Debug, PartialEq, Eq, Sequence)]
pub(crate) struct EncapsulatedContent {
    pub(crate) content_type: ObjectIdentifier,
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT")]
    pub(crate) content: OctetString,
}

/// RFC 5652 section 5.3. `sid` is an [`IssuerAndSerialNumber`] or a subject key identifier under tag 0.
#[derive(Clone, Debug, PartialEq, Eq, Sequence)]
pub(crate) struct SignerInfo {
    pub(crate) version: u8,
    pub(crate) sid: Any,
    pub(crate) digest_algorithm: AlgorithmIdentifierOwned,
    #[asn1(context_specific = "0", tag_mode = "IMPLICIT", optional = "true")]
    pub(crate) signed_attributes: Option<SetOfVec<Any>>,
    pub(crate) signature_algorithm: AlgorithmIdentifierOwned,
    pub(crate) signature: OctetString,
    #[asn1(context_specific = "1", tag_mode = "IMPLICIT", optional = "true")]
    pub(crate) unsigned_attributes: Option<SetOfVec<Any>>,
}

/// RFC 5652 section 10.2.4.
#[derive(Clone, Debug, PartialEq, Eq, Sequence)]
pub(crate) struct IssuerAndSerialNumber {
    pub(crate) issuer: Name,
    pub(crate) serial_number: SerialNumber,
}

/// RFC 5652 section 5.3.
#[derive(Clone, Debug, PartialEq, Eq, Sequence)]
pub(crate) struct Attribute {
    pub(crate) kind: ObjectIdentifier,
    pub(crate) values: SetOfVec<Any>,
}

/// RFC 5035 section 3.
#[derive(Clone, Debug, PartialEq, Eq, Sequence)]
pub(crate) struct SigningCertificateV2 {
    pub(crate) certificates: Vec<EssCertIdV2>,
    #[asn1(optional = "true")]
    pub(crate) policies: Option<Any>,
}

/// RFC 5035 section 4. An absent algorithm is SHA-256.
#[derive(Clone, Debug, PartialEq, Eq, Sequence)]
pub(crate) struct EssCertIdV2 {
    #[asn1(optional = "true")]
    pub(crate) hash_algorithm: Option<AlgorithmIdentifierOwned>,
    pub(crate) certificate_hash: OctetString,
    #[asn1(optional = "true")]
    pub(crate) issuer_serial: Option<Any>,
}

/// RFC 3161 section 2.4.1.
#[derive(Clone, Debug, PartialEq, Eq, Sequence)]
pub(crate) struct TimeStampReq {
    pub(crate) version: u8,
    pub(crate) imprint: MessageImprint,
    #[asn1(optional = "true")]
    pub(crate) policy: Option<ObjectIdentifier>,
    #[asn1(optional = "true")]
    pub(crate) nonce: Option<Int>,
    #[asn1(default = "Default::default")]
    pub(crate) certificates: bool,
    #[asn1(context_specific = "0", tag_mode = "IMPLICIT", optional = "true")]
    pub(crate) extensions: Option<Extensions>,
}

/// RFC 3161 section 2.4.1.
#[derive(Clone, Debug, PartialEq, Eq, Sequence)]
pub(crate) struct MessageImprint {
    pub(crate) algorithm: AlgorithmIdentifierOwned,
    pub(crate) digest: OctetString,
}

/// RFC 3161 section 2.4.2.
#[derive(Clone, Debug, PartialEq, Eq, Sequence)]
pub(crate) struct TimeStampResp {
    pub(crate) status: PkiStatusInfo,
    #[asn1(optional = "true")]
    pub(crate) token: Option<ContentInfo>,
}

/// RFC 3161 section 2.4.2.
#[derive(Clone, Debug, PartialEq, Eq, Sequence)]
pub(crate) struct PkiStatusInfo {
    pub(crate) status: u8,
    #[asn1(optional = "true")]
    pub(crate) text: Option<Vec<String>>,
    #[asn1(optional = "true")]
    pub(crate) failure: Option<BitString>,
}

/// RFC 3161 section 2.4.2. `time` is a GeneralizedTime, which may have fractions of a second here.
#[derive(Clone, Debug, PartialEq, Eq, Sequence)]
pub(crate) struct TstInfo {
    pub(crate) version: u8,
    pub(crate) policy: ObjectIdentifier,
    pub(crate) imprint: MessageImprint,
    pub(crate) serial_number: Int,
    pub(crate) time: Any,
    #[asn1(optional = "true")]
    pub(crate) accuracy: Option<Accuracy>,
    #[asn1(default = "Default::default")]
    pub(crate) ordering: bool,
    #[asn1(optional = "true")]
    pub(crate) nonce: Option<Int>,
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT", optional = "true")]
    pub(crate) authority: Option<Any>,
    #[asn1(context_specific = "1", tag_mode = "IMPLICIT", optional = "true")]
    pub(crate) extensions: Option<Extensions>,
}

/// RFC 3161 section 2.4.2.
#[derive(Clone, Debug, PartialEq, Eq, Sequence)]
pub(crate) struct Accuracy {
    #[asn1(optional = "true")]
    pub(crate) seconds: Option<u32>,
    #[asn1(context_specific = "0", tag_mode = "IMPLICIT", optional = "true")]
    pub(crate) millis: Option<u16>,
    #[asn1(context_specific = "1", tag_mode = "IMPLICIT", optional = "true")]
    pub(crate) micros: Option<u16>,
}
