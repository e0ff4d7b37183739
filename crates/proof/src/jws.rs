//! JSON Web Signatures (RFC 7515) by ES256 (RFC 7518 section 3.4): strict parsing, verification, assembly.
//!
//! Of the RFC's freedom little is left, so that two readers cannot disagree: one signature, flattened JSON or compact; all
//! headers protected; no extensions (`crit`, `b64`); base64url in its one spelling; signatures of 64 bytes. Keys come from
//! the verifier alone: what a header says of keys and where to get them (`jwk`, `jku`, `x5c`, `x5u`) is never looked at.
//! Whoever signs, here or in a KMS, signs [`Unsigned::signing_input`].

use p256::ecdsa::Signature;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use crate::b64;
use crate::canonical::{JsonError, Limits, parse_strict, to_canonical};
use crate::jwk::{Jwk, JwkSet};
use crate::report::{CheckName, Code, FileKind, Report, Verdict};
use crate::verify::Outcome;

/// The one signature algorithm: ECDSA over P-256 with SHA-256.
pub const ALGORITHM: &str = "ES256";
/// Largest JWS that is read, in bytes; a payload of 1 MiB fits in, in base64url.
pub const MAX_BYTES: usize = 2 << 20;
/// Largest protected header that is read, in bytes of JSON.
pub const MAX_HEADER_BYTES: usize = 4096;
/// Bytes of a signature: r and s.
pub const SIGNATURE_BYTES: usize = 64;

/// Why bytes are no JWS, or one that is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JwsError {
    /// The whole, or its header, is too long.
    #[error("{part} has {actual} bytes; at most {limit} are read")]
    TooLarge {
        /// Of what.
        part: &'static str,
        /// Bytes given.
        actual: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The flattened form is not JSON, or ambiguous JSON.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// Neither form, or a form with several signatures.
    #[error("not a flattened or compact JWS: {0}")]
    Shape(&'static str),
    /// A part has more than one spelling, or none.
    #[error("the {0} is not base64url without padding")]
    Base64url(&'static str),
    /// The protected header is not a JSON object, is ambiguous, or has a member of the wrong type.
    #[error("the protected header is malformed: {0}")]
    Header(String),
    /// Headers that nobody signed.
    #[error("it has an unprotected header, which nobody signed")]
    Unprotected,
    /// Another algorithm, or none.
    #[error("alg is {0}; only \"ES256\" is accepted")]
    Algorithm(String),
    /// An extension that changes what the signature means.
    #[error("the header member {0:?} asks for an extension that is not accepted")]
    Critical(&'static str),
    /// Not r and s.
    #[error("the signature has {actual} bytes{}; ES256 has r and s of 32 bytes each", der_hint(*.der))]
    SignatureLength {
        /// Bytes given.
        actual: usize,
        /// Whether they begin as ASN.1 DER does.
        der: bool,
    },
    /// A value of the header has no RFC 8785 form.
    #[error("the header cannot be written: {0}")]
    NotCanonical(String),
}

fn der_hint(der: bool) -> &'static str {
    if der { " and is DER" } else { "" }
}

impl JwsError {
    /// The stable code for reports.
    pub fn code(&self) -> Code {
        match self {
            Self::TooLarge { .. } | Self::Json(JsonError::TooLarge { .. }) => Code::TooLarge,
            Self::Json(_) => Code::Json,
            Self::Shape(_) => Code::Shape,
            Self::Base64url(_) => Code::Base64url,
            Self::Header(_) => Code::HeaderMalformed,
            Self::Unprotected => Code::HeaderUnprotected,
            Self::Algorithm(_) => Code::Algorithm,
            Self::Critical(_) => Code::HeaderCritical,
            Self::SignatureLength { .. } => Code::SignatureLength,
            Self::NotCanonical(_) => Code::NotCanonical,
        }
    }
}

/// Why no given key stands behind a signature.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// Nothing is proved: the verifier brought no key of that name.
    #[error("no key was given for kid {0:?}")]
    KeyUnknown(String),
    /// Nothing is proved: the header names no key, and the verifier brought none.
    #[error("no key was given")]
    NoKeys,
    /// The signature is not that key's over these bytes.
    #[error("the signature is not by the key {0:?} over these bytes")]
    Wrong(String),
    /// The header names no key, and none of those given made the signature.
    #[error("the header names no key, and none of the {0} given ones made the signature")]
    WrongForAll(usize),
}

impl SignatureError {
    /// The stable code for reports.
    pub fn code(&self) -> Code {
        match self {
            Self::KeyUnknown(_) | Self::NoKeys => Code::KeyUnknown,
            Self::Wrong(_) | Self::WrongForAll(_) => Code::SignatureWrong,
        }
    }
}

/// Header and payload, before the signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsigned {
    header: Map<String, Value>,
    protected: String,
    payload: Vec<u8>,
}

impl Unsigned {
    /// What is to be signed: `header` must hold `alg`, and is written in canonical form.
    ///
    /// # Errors
    /// [`JwsError`], as for a JWS with this header and payload that is read.
    pub fn new(header: Map<String, Value>, payload: Vec<u8>) -> Result<Self, JwsError> {
        let header = Value::Object(header);
        let bytes = to_canonical(&header).map_err(|e| JwsError::NotCanonical(e.to_string()))?;
        let protected = b64::url_encode(&bytes);
        let unsigned = Self { header: decode_header(&protected)?, protected, payload };
        // Flattened JSON is the longer form.
        let actual = unsigned.with_signature(&[0; SIGNATURE_BYTES]).to_flattened().len();
        if actual > MAX_BYTES {
            return Err(JwsError::TooLarge { part: "the JWS", actual, limit: MAX_BYTES });
        }
        Ok(unsigned)
    }

    /// RFC 7515 section 5.1 step 8: ASCII(BASE64URL(header) || '.' || BASE64URL(payload)).
    pub fn signing_input(&self) -> Vec<u8> {
        [self.protected.as_bytes(), b".", b64::url_encode(&self.payload).as_bytes()].concat()
    }

    /// The whole. Whether the signature holds is [`Jws::verify`]'s question.
    #[must_use]
    pub fn with_signature(&self, signature: &[u8; SIGNATURE_BYTES]) -> Jws {
        Jws { unsigned: self.clone(), signature: *signature }
    }
}

/// A JWS whose form is as it must be. Nothing is said about its signature until [`Self::verify`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Jws {
    unsigned: Unsigned,
    signature: [u8; SIGNATURE_BYTES],
}

impl Jws {
    /// Reads either form: flattened JSON if it begins with `{`, else compact, perhaps with one line feed behind it.
    ///
    /// # Errors
    /// [`JwsError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, JwsError> {
        if bytes.trim_ascii_start().starts_with(b"{") {
            return Self::parse_flattened(bytes);
        }
        Self::parse_compact(bytes.strip_suffix(b"\n").unwrap_or(bytes))
    }

    /// Reads the flattened JSON serialization (RFC 7515 section 7.2.2). Members that the RFC does not name are ignored,
    /// as section 7.2 demands; nobody signed them.
    ///
    /// # Errors
    /// [`JwsError`].
    pub fn parse_flattened(bytes: &[u8]) -> Result<Self, JwsError> {
        bounded("the JWS", bytes.len(), MAX_BYTES)?;
        let value = parse_strict(bytes, &Limits { max_bytes: MAX_BYTES, max_depth: 16 })?;
        let members = value.as_object().ok_or(JwsError::Shape("it is not an object"))?;
        if members.contains_key("signatures") {
            return Err(JwsError::Shape("the general form, with a list of signatures, is not read"));
        }
        if members.contains_key("header") {
            return Err(JwsError::Unprotected);
        }
        let text = |name| members.get(name).and_then(Value::as_str);
        let protected = text("protected").ok_or(JwsError::Shape("it has no text \"protected\""))?;
        let payload = text("payload").ok_or(JwsError::Shape("it has no text \"payload\""))?;
        let signature = text("signature").ok_or(JwsError::Shape("it has no text \"signature\""))?;
        Self::from_parts(protected, payload, signature)
    }

    /// Reads the compact serialization (RFC 7515 section 7.1).
    ///
    /// # Errors
    /// [`JwsError`].
    pub fn parse_compact(bytes: &[u8]) -> Result<Self, JwsError> {
        bounded("the JWS", bytes.len(), MAX_BYTES)?;
        let text = std::str::from_utf8(bytes).map_err(|_| JwsError::Shape("it is not text"))?;
        let mut parts = text.split('.');
        let mut next = || parts.next().ok_or(JwsError::Shape("it does not have three parts with dots between"));
        let (protected, payload, signature) = (next()?, next()?, next()?);
        match parts.next() {
            None => Self::from_parts(protected, payload, signature),
            Some(_) => Err(JwsError::Shape("it has more than three parts")),
        }
    }

    fn from_parts(protected: &str, payload: &str, signature: &str) -> Result<Self, JwsError> {
        // Base64 has four characters for three bytes.
        bounded("the protected header", protected.len() / 4 * 3, MAX_HEADER_BYTES)?;
        // The header goes first: with `b64` the payload is spelt otherwise, and `none` has no signature.
        let header = decode_header(protected)?;
        let payload = b64::url_decode(payload).ok_or(JwsError::Base64url("payload"))?;
        let unsigned = Unsigned { header, protected: protected.to_owned(), payload };
        let signature = b64::url_decode(signature).ok_or(JwsError::Base64url("signature"))?;
        let wrong = || JwsError::SignatureLength { actual: signature.len(), der: signature.starts_with(&[0x30]) };
        let signature = signature.as_slice().try_into().map_err(|_| wrong())?;
        Ok(Self { unsigned, signature })
    }

    /// The protected header.
    pub fn header(&self) -> &Map<String, Value> {
        &self.unsigned.header
    }

    /// The name of the key that the header states.
    pub fn kid(&self) -> Option<&str> {
        self.header().get("kid").and_then(Value::as_str)
    }

    /// The type of the whole that the header states.
    pub fn typ(&self) -> Option<&str> {
        self.header().get("typ").and_then(Value::as_str)
    }

    /// The bytes that were signed, beside the header.
    pub fn payload(&self) -> &[u8] {
        &self.unsigned.payload
    }

    /// r and s.
    pub fn signature(&self) -> &[u8; SIGNATURE_BYTES] {
        &self.signature
    }

    /// What was signed.
    pub fn signing_input(&self) -> Vec<u8> {
        self.unsigned.signing_input()
    }

    /// The flattened JSON serialization.
    pub fn to_flattened(&self) -> Vec<u8> {
        let [protected, payload, signature] = self.parts();
        // Base64url needs no escapes.
        format!("{{\"payload\":\"{payload}\",\"protected\":\"{protected}\",\"signature\":\"{signature}\"}}")
            .into_bytes()
    }

    /// The compact serialization.
    pub fn to_compact(&self) -> String {
        self.parts().join(".")
    }

    fn parts(&self) -> [String; 3] {
        let payload = b64::url_encode(&self.unsigned.payload);
        [self.unsigned.protected.clone(), payload, b64::url_encode(&self.signature)]
    }

    /// The key of the set that made the signature: the one that the header names, or, if it names none, any of them.
    ///
    /// # Errors
    /// [`SignatureError`].
    pub fn verify<'k>(&self, keys: &'k JwkSet) -> Result<&'k Jwk, SignatureError> {
        let message = self.signing_input();
        let Some(kid) = self.kid() else {
            let tried = keys.keys().len();
            let wrong = if tried == 0 { SignatureError::NoKeys } else { SignatureError::WrongForAll(tried) };
            return keys.keys().iter().find(|key| key.verifies(&message, &self.signature)).ok_or(wrong);
        };
        let key = keys.get(kid).ok_or_else(|| SignatureError::KeyUnknown(kid.to_owned()))?;
        if key.verifies(&message, &self.signature) { Ok(key) } else { Err(SignatureError::Wrong(kid.to_owned())) }
    }
}

fn bounded(part: &'static str, actual: usize, limit: usize) -> Result<(), JwsError> {
    if actual > limit { Err(JwsError::TooLarge { part, actual, limit }) } else { Ok(()) }
}

fn decode_header(protected: &str) -> Result<Map<String, Value>, JwsError> {
    let bytes = &b64::url_decode(protected).ok_or(JwsError::Base64url("protected header"))?;
    bounded("the protected header", bytes.len(), MAX_HEADER_BYTES)?;
    let limits = Limits { max_bytes: MAX_HEADER_BYTES, max_depth: 8 };
    let value = parse_strict(bytes, &limits).map_err(|e| JwsError::Header(e.to_string()))?;
    let Value::Object(header) = value else { return Err(JwsError::Header("it is not an object".to_owned())) };
    match header.get("alg") {
        Some(Value::String(alg)) if alg == ALGORITHM => {}
        Some(alg) => return Err(JwsError::Algorithm(alg.to_string().chars().take(40).collect())),
        None => return Err(JwsError::Algorithm("missing".to_owned())),
    }
    // RFC 7515 section 4.1.11: an extension that is marked critical must be understood, and none is. `b64` (RFC 7797)
    // changes what is signed, and readers that do not know it go wrong if it stands there unmarked.
    if let Some(name) = ["crit", "b64"].into_iter().find(|name| header.contains_key(*name)) {
        return Err(JwsError::Critical(name));
    }
    for name in ["kid", "typ", "cty"] {
        if header.get(name).is_some_and(|value| !value.is_string()) {
            return Err(JwsError::Header(format!("{name} is not text")));
        }
    }
    Ok(header)
}

/// Turns an ECDSA signature in DER, as KMSs and OpenSSL give it, into the r and s of a JWS.
pub fn signature_from_der(der: &[u8]) -> Option<[u8; SIGNATURE_BYTES]> {
    Some(Signature::from_der(der).ok()?.to_bytes().into())
}

/// Whether these bytes seem to be a JWS, as opposed to any other file that this crate knows.
pub(crate) fn is_jws(bytes: &[u8]) -> bool {
    /// Names of members alone; what they hold is not kept.
    #[derive(Deserialize)]
    struct Members {
        format: Option<IgnoredAny>,
        payload: Option<IgnoredAny>,
        signature: Option<IgnoredAny>,
        signatures: Option<IgnoredAny>,
    }
    if !bytes.trim_ascii_start().starts_with(b"{") {
        let text = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        // Both alphabets: a JWS in the wrong one is still best reported as one.
        let part = |b: &u8| b.is_ascii_alphanumeric() || b"-_=+/".contains(b);
        // A header's JSON begins with `{"` or `{` and white space: base64url of that begins with `e`.
        return text.starts_with(b"e")
            && text.iter().filter(|b| **b == b'.').count() == 2
            && text.iter().all(|b| *b == b'.' || part(b));
    }
    let members = serde_json::from_slice::<Members>(bytes);
    members
        .is_ok_and(|m| m.format.is_none() && m.payload.is_some() && (m.signature.is_some() || m.signatures.is_some()))
}

/// Verifies a JWS against the keys that the verifier brings.
pub fn verify(bytes: &[u8], keys: &JwkSet) -> Report {
    let jws = match Jws::parse(bytes) {
        Ok(jws) => jws,
        Err(error) => {
            let names = [CheckName::Parse, CheckName::Signature];
            return Report::unreadable(FileKind::Jws, &names, error.code(), &error.to_string());
        }
    };
    let typ = jws.typ().unwrap_or("none stated");
    let checks = vec![
        Outcome::Passed(format!("a JWS by ES256, type {typ:?}, {} bytes of payload", jws.payload().len()))
            .named(CheckName::Parse),
        signed(jws.verify(keys)).named(CheckName::Signature),
    ];
    let mut report = Report::from_checks(FileKind::Jws, checks);
    match report.verdict {
        Verdict::Valid => report.statements.push("Whoever holds that key has signed this header and payload.".into()),
        Verdict::Unanchored => report.statements.push("Without the signer's key, anyone could have made this.".into()),
        Verdict::Invalid => {}
    }
    report.not_checked.extend([
        "What the payload says, and whether the header agrees with it.".to_owned(),
        "When it was signed: times in the header are the signer's claims.".to_owned(),
        "Whether the keys that you gave belong to whom you think, or were revoked.".to_owned(),
    ]);
    report
}

/// How a signature ended. Without its key, nothing is wrong and nothing is proved.
pub fn signed(signature: Result<&Jwk, SignatureError>) -> Outcome {
    match signature {
        Ok(key) => Outcome::Passed(format!("by the key {:?}", key.kid())),
        Err(error @ (SignatureError::KeyUnknown(_) | SignatureError::NoKeys)) => {
            Outcome::Skipped(Some(error.code()), error.to_string())
        }
        Err(error @ (SignatureError::Wrong(_) | SignatureError::WrongForAll(_))) => {
            Outcome::Failed(error.code(), error.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const A3_KEY: &str = r#"{"keys":[{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#;
    const A3: &str = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19y\
        b290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";

    fn keys() -> JwkSet {
        JwkSet::parse(A3_KEY.as_bytes()).unwrap()
    }

    fn flattened(header: &str) -> String {
        let [_, payload, signature] = A3.split('.').collect::<Vec<_>>().try_into().unwrap();
        let protected = b64::url_encode(header.as_bytes());
        json!({ "payload": payload, "protected": protected, "signature": signature }).to_string()
    }

    fn code(bytes: impl AsRef<[u8]>) -> &'static str {
        Jws::parse(bytes.as_ref()).unwrap_err().code().name()
    }

    #[test]
    fn the_example_of_rfc_7515_is_valid_in_both_forms() {
        let jws = Jws::parse(A3.as_bytes()).unwrap();
        assert_eq!(
            jws.payload(),
            b"{\"iss\":\"joe\",\r\n \"exp\":1300819380,\r\n \"http://example.com/is_root\":true}"
        );
        assert_eq!(jws.verify(&keys()), Ok(&keys().keys()[0]));
        assert_eq!(jws.to_compact(), A3);
        assert_eq!(Jws::parse(format!("{A3}\n").as_bytes()).as_ref(), Ok(&jws));
        assert_eq!(Jws::parse(&jws.to_flattened()).as_ref(), Ok(&jws));
        assert_eq!(jws.to_flattened(), flattened("{\"alg\":\"ES256\"}").as_bytes());
        assert_eq!(verify(A3.as_bytes(), &keys()).verdict, Verdict::Valid);
        assert_eq!(verify(A3.as_bytes(), &JwkSet::default()).verdict, Verdict::Unanchored);
    }

    #[test]
    fn a_header_that_asks_for_anything_else_is_refused_by_name() {
        for (header, expected) in [
            (r#"{"alg":"none"}"#, "algorithm"),
            (r#"{"alg":"HS256"}"#, "algorithm"),
            (r#"{"alg":"es256"}"#, "algorithm"),
            (r#"{"alg":["ES256"]}"#, "algorithm"),
            ("{}", "algorithm"),
            (r#"{"alg":"ES256","crit":["exp"],"exp":1}"#, "header_critical"),
            (r#"{"alg":"ES256","b64":false,"crit":["b64"]}"#, "header_critical"),
            (r#"{"alg":"ES256","b64":false}"#, "header_critical"),
            (r#"{"alg":"none","alg":"ES256"}"#, "header_malformed"),
            (r#"{"alg":"ES256","kid":7}"#, "header_malformed"),
            (r#"{"alg":"ES256","typ":null}"#, "header_malformed"),
            (r#"["ES256"]"#, "header_malformed"),
            ("", "header_malformed"),
            (&format!("{{\"alg\":\"ES256\",\"a\":\"{}\"}}", "a".repeat(MAX_HEADER_BYTES)), "too_large"),
        ] {
            assert_eq!(code(flattened(header)), expected, "{header}");
        }
    }

    #[test]
    fn other_forms_and_spellings_are_refused_by_name() {
        let good = flattened("{\"alg\":\"ES256\"}");
        assert!(Jws::parse(good.as_bytes()).is_ok());
        let with = |members: &str| good.replacen('{', &format!("{{{members},"), 1);
        // RFC 7515 section 7.2: members that are not understood are ignored.
        assert!(Jws::parse(with("\"id\":\"a\"").as_bytes()).is_ok());
        let der = b64::url_encode(&[&[0x30; 70][..]].concat());
        for (jws, expected) in [
            (with("\"header\":{}"), "header_unprotected"),
            (with("\"header\":{\"alg\":\"ES256\"}"), "header_unprotected"),
            (with("\"signatures\":[]"), "shape"),
            (with("\"payload\":\"\""), "json"),
            (good.replace("\"payload\"", "\"content\""), "shape"),
            (good.replace("g6NU1Q", "g6NU1R"), "base64url"), // bits after the last byte
            (good.replace("g6NU1Q", "g6NU1Q=="), "base64url"),
            (good.replace("Xx-F4", "Xx+F4"), "base64url"),
            (good.replace("g6NU1Q", "g6NU"), "signature_length"),
            (format!("{}.{der}", A3.rsplit_once('.').unwrap().0), "signature_length"),
            (format!("{A3}.AA"), "shape"),
            (A3.replacen('.', "", 1), "shape"),
            (format!("{A3}\n\n"), "base64url"),
            (format!(" {A3}"), "base64url"),
            ("[]".to_owned(), "shape"),
            (String::new(), "shape"),
            ("a".repeat(MAX_BYTES + 1), "too_large"),
        ] {
            assert_eq!(code(&jws), expected, "{}", jws.chars().take(400).collect::<String>());
        }
        assert!(
            Jws::parse(format!("{}.{der}", A3.rsplit_once('.').unwrap().0).as_bytes())
                .unwrap_err()
                .to_string()
                .contains("DER")
        );
    }

    #[test]
    fn a_key_that_the_file_brings_never_counts() {
        let key = keys().keys()[0].to_value();
        let header =
            json!({ "alg": "ES256", "jwk": key, "jku": "https://example.com/jwks", "x5u": "https://example.com/x" });
        let report = verify(flattened(&header.to_string()).as_bytes(), &JwkSet::default());
        assert_eq!(report.verdict, Verdict::Unanchored);
    }

    #[test]
    fn the_header_names_the_key() {
        let secret = p256::ecdsa::SigningKey::from_slice(&[9; 32]).unwrap();
        let point = secret.verifying_key().to_sec1_point(false);
        let key = Jwk::from_point(&point.as_bytes().try_into().unwrap()).unwrap();
        let sign = |kid: &str| {
            use p256::ecdsa::signature::Signer as _;
            let header = json!({ "alg": "ES256", "kid": kid, "typ": "example" });
            let unsigned = Unsigned::new(header.as_object().unwrap().clone(), b"payload".to_vec()).unwrap();
            let signature: Signature = secret.sign(&unsigned.signing_input());
            assert_eq!(signature_from_der(signature.to_der().as_bytes()), Some(signature.to_bytes().into()));
            unsigned.with_signature(&signature.to_bytes().into())
        };
        let mut both = keys();
        both.add(key.clone()).unwrap();
        let jws = sign(key.kid());
        assert_eq!((jws.typ(), jws.verify(&both)), (Some("example"), Ok(&key)));
        assert_eq!(Jws::parse(&jws.to_flattened()), Jws::parse(jws.to_compact().as_bytes()));
        let other = keys().keys()[0].kid().to_owned();
        assert_eq!(sign(&other).verify(&both), Err(SignatureError::Wrong(other)));
        assert_eq!(sign("x").verify(&both), Err(SignatureError::KeyUnknown("x".to_owned())));
        assert_eq!(jws.verify(&keys()), Err(SignatureError::KeyUnknown(key.kid().to_owned())));
    }

    #[test]
    fn what_is_to_be_signed_is_held_to_the_same_rules() {
        let header = |value: Value| value.as_object().unwrap().clone();
        let error = |value| Unsigned::new(header(value), Vec::new()).unwrap_err().code().name();
        assert_eq!(error(json!({ "alg": "none" })), "algorithm");
        assert_eq!(error(json!({ "alg": "ES256", "n": u64::MAX })), "not_canonical");
        let big = vec![0; MAX_BYTES / 4 * 3];
        assert_eq!(Unsigned::new(header(json!({ "alg": "ES256" })), big).unwrap_err().code().name(), "too_large");
    }
}
