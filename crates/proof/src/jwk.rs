//! Public keys for JWS as JSON Web Keys (RFC 7517): EC P-256 for ES256, and sets of them.
//!
//! A key's name is its `kid`, or, where none is stated, its thumbprint (RFC 7638), which is what a node states. Keys of
//! other kinds in a set are passed over, as RFC 7517 section 5 says, and counted; a set with anything secret in it is
//! refused whole, since whoever published it may have published the rest of its secrets too.

use p256::ecdsa::signature::hazmat::PrehashVerifier as _;
use p256::ecdsa::{Signature, VerifyingKey};
use serde_json::{Map, Value, json};

use crate::b64;
use crate::canonical::{JsonError, Limits, parse_strict, to_canonical};
use crate::digest::Digest;

/// Bounds on the JSON of a key or a set: 256 KiB, 16 levels.
pub const LIMITS: Limits = Limits { max_bytes: 256 << 10, max_depth: 16 };
/// Most keys in a set, usable or not.
pub const MAX_KEYS: usize = 100;
/// Longest `kid` that is read, in bytes.
pub const MAX_KID_BYTES: usize = 256;

/// Members of ours, which others ignore (RFC 7517 section 4): what became of a key, and when, in seconds since 1970.
const STATE: &str = "countersign_state";
const RETIRED_AT: &str = "countersign_retired_at";
const REVOKED_AT: &str = "countersign_revoked_at";

/// Members that only private and symmetric keys have (RFC 7518 section 6).
const SECRET_MEMBERS: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

/// Why a key or a set is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JwkError {
    /// Not JSON, ambiguous JSON, or beyond a bound.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// Not of the shape of a key set.
    #[error("not a JSON Web Key set: {0}")]
    Shape(&'static str),
    /// More keys than are read.
    #[error("the set has {0} keys; at most {MAX_KEYS} are read")]
    TooMany(usize),
    /// A private or symmetric key.
    #[error("key {index} of the set has the secret member {member:?}: none of the set can be believed")]
    Secret {
        /// Zero-based place in the set.
        index: usize,
        /// The member.
        member: &'static str,
    },
    /// Two different keys of one name.
    #[error("two keys of the set have the kid {0:?}")]
    DuplicateKid(String),
    /// The key cannot verify ES256.
    #[error("the key is not usable here: {0}")]
    Unusable(Unusable),
}

/// Why a key is passed over in a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// Not an object.
    #[error("not an object")]
    NotAnObject,
    /// `kty` is not `EC`.
    #[error("its kty is not \"EC\"")]
    Kind,
    /// `crv` is not `P-256`.
    #[error("its crv is not \"P-256\"")]
    Curve,
    /// `alg` is not `ES256`.
    #[error("its alg is not \"ES256\"")]
    Algorithm,
    /// `use` is not `sig`, or `key_ops` does not name `verify`.
    #[error("it is not for verifying signatures")]
    Use,
    /// `kid` is not text, empty or too long.
    #[error("its kid is not text of 1 to {MAX_KID_BYTES} bytes")]
    Kid,
    /// A coordinate is not 32 bytes in base64url, in its one spelling.
    #[error("its coordinates are not base64url of 32 bytes each")]
    Coordinates,
    /// The point is not one of the curve.
    #[error("its point is not on the curve")]
    Point,
    /// `countersign_state` is none that is known, or the time is missing.
    #[error("what became of it is not said in a known way")]
    Mark,
}

/// What became of a key, as whoever published the set says (`countersign_state`). Times are in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// It signs.
    Active,
    /// It signed until then; what it signed stays good.
    Retired {
        /// When.
        at: u64,
    },
    /// From then on somebody else may have had it, who can sign with any date.
    Revoked {
        /// When.
        at: u64,
    },
}

/// A public key that verifies ES256.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Jwk {
    kid: String,
    key: VerifyingKey,
    mark: Option<Mark>,
}

impl Jwk {
    /// A key from its uncompressed point: 0x04, x, y (SEC 1 section 2.3.3). Its `kid` is its thumbprint.
    ///
    /// # Errors
    /// [`JwkError::Unusable`].
    pub fn from_point(point: &[u8; 65]) -> Result<Self, JwkError> {
        VerifyingKey::from_sec1_bytes(point).map(Self::from).map_err(|_| JwkError::Unusable(Unusable::Point))
    }

    /// Reads one key.
    ///
    /// # Errors
    /// [`JwkError`].
    pub fn parse(json: &[u8]) -> Result<Self, JwkError> {
        let value = parse_strict(json, &LIMITS)?;
        refuse_secrets(0, &value)?;
        usable(&value).map_err(JwkError::Unusable)
    }

    /// The name by which signatures refer to the key.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// What became of it, if the set says so.
    pub fn mark(&self) -> Option<Mark> {
        self.mark
    }

    /// The same key, with what became of it.
    #[must_use]
    pub fn marked(self, mark: Mark) -> Self {
        Self { mark: Some(mark), ..self }
    }

    /// The key's thumbprint: SHA-256 over its required members, base64url (RFC 7638).
    pub fn thumbprint(&self) -> String {
        let [x, y] = self.coordinates();
        thumbprint(&json!({ "crv": "P-256", "kty": "EC", "x": x, "y": y }))
    }

    /// The uncompressed point: 0x04, x, y.
    pub fn point(&self) -> [u8; 65] {
        let mut out = [0; 65];
        let point = self.key.to_sec1_point(false);
        // An uncompressed point of this curve has 65 bytes, and so has what it is copied to.
        for (out, byte) in out.iter_mut().zip(point.as_bytes()) {
            *out = *byte;
        }
        out
    }

    /// Whether `signature`, r and s of 32 bytes each (RFC 7518 section 3.4), is this key's over `message`.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        // Other lengths, and r or s that are 0 or not below the order, are no signatures.
        Signature::from_slice(signature)
            .is_ok_and(|signature| self.key.verify_prehash(Digest::of(message).as_bytes(), &signature).is_ok())
    }

    /// The key as it is published.
    pub fn to_value(&self) -> Value {
        let [x, y] = self.coordinates();
        let mut value =
            json!({ "kty": "EC", "crv": "P-256", "x": x, "y": y, "kid": self.kid, "use": "sig", "alg": "ES256" });
        match self.mark {
            None => {}
            Some(Mark::Active) => value[STATE] = json!("active"),
            Some(Mark::Retired { at }) => (value[STATE], value[RETIRED_AT]) = (json!("retired"), json!(at)),
            Some(Mark::Revoked { at }) => (value[STATE], value[REVOKED_AT]) = (json!("revoked"), json!(at)),
        }
        value
    }

    fn coordinates(&self) -> [String; 2] {
        let point = self.point();
        [b64::url_encode(&point[1..33]), b64::url_encode(&point[33..])]
    }
}

impl From<VerifyingKey> for Jwk {
    /// The `kid` is the thumbprint.
    fn from(key: VerifyingKey) -> Self {
        let mut jwk = Self { kid: String::new(), key, mark: None };
        jwk.kid = jwk.thumbprint();
        jwk
    }
}

/// A key of a set that was passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ignored {
    /// Zero-based place in the set.
    pub index: usize,
    /// Why.
    pub why: Unusable,
}

/// Keys that a verifier brings: no two different ones of one name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JwkSet {
    keys: Vec<Jwk>,
    ignored: Vec<Ignored>,
}

impl JwkSet {
    /// Reads a set (RFC 7517 section 5).
    ///
    /// # Errors
    /// [`JwkError`]; a key that is merely of no use here is none.
    pub fn parse(json: &[u8]) -> Result<Self, JwkError> {
        let value = parse_strict(json, &LIMITS)?;
        let keys = value.as_object().ok_or(JwkError::Shape("it is not an object"))?.get("keys");
        let keys = keys.and_then(Value::as_array).ok_or(JwkError::Shape("it has no array \"keys\""))?;
        if keys.len() > MAX_KEYS {
            return Err(JwkError::TooMany(keys.len()));
        }
        let mut set = Self::default();
        for (index, value) in keys.iter().enumerate() {
            refuse_secrets(index, value)?;
            match usable(value) {
                Ok(key) => set.add(key)?,
                Err(why) => set.ignored.push(Ignored { index, why }),
            }
        }
        Ok(set)
    }

    /// Adds a key; one that is there already is not added again.
    ///
    /// # Errors
    /// [`JwkError::DuplicateKid`], [`JwkError::TooMany`].
    pub fn add(&mut self, key: Jwk) -> Result<(), JwkError> {
        match self.get(&key.kid) {
            Some(known) if *known == key => return Ok(()),
            Some(_) => return Err(JwkError::DuplicateKid(key.kid)),
            None => {}
        }
        if self.keys.len() >= MAX_KEYS {
            return Err(JwkError::TooMany(self.keys.len() + 1));
        }
        self.keys.push(key);
        Ok(())
    }

    /// The key of that name.
    pub fn get(&self, kid: &str) -> Option<&Jwk> {
        self.keys.iter().find(|key| key.kid == kid)
    }

    /// The usable keys, in the set's order.
    pub fn keys(&self) -> &[Jwk] {
        &self.keys
    }

    /// The keys that were passed over.
    pub fn ignored(&self) -> &[Ignored] {
        &self.ignored
    }

    /// The set as it is published.
    pub fn to_value(&self) -> Value {
        json!({ "keys": self.keys.iter().map(Jwk::to_value).collect::<Vec<_>>() })
    }
}

fn refuse_secrets(index: usize, key: &Value) -> Result<(), JwkError> {
    let secret = SECRET_MEMBERS.into_iter().find(|member| key.get(member).is_some());
    secret.map_or(Ok(()), |member| Err(JwkError::Secret { index, member }))
}

fn usable(key: &Value) -> Result<Jwk, Unusable> {
    let members = key.as_object().ok_or(Unusable::NotAnObject)?;
    let text = |name: &str| members.get(name).and_then(Value::as_str);
    if text("kty") != Some("EC") {
        return Err(Unusable::Kind);
    }
    if text("crv") != Some("P-256") {
        return Err(Unusable::Curve);
    }
    if members.get("alg").is_some_and(|alg| alg != "ES256") {
        return Err(Unusable::Algorithm);
    }
    if !verifies_signatures(members) {
        return Err(Unusable::Use);
    }
    let coordinate = |name| text(name).and_then(b64::url_decode32).ok_or(Unusable::Coordinates);
    let (x, y) = (coordinate("x")?, coordinate("y")?);
    let mut point = [4; 65];
    point[1..33].copy_from_slice(&x);
    point[33..].copy_from_slice(&y);
    let mut jwk = Jwk::from_point(&point).map_err(|_| Unusable::Point)?;
    if let Some(kid) = members.get("kid") {
        let kid = kid.as_str().filter(|kid| (1..=MAX_KID_BYTES).contains(&kid.len())).ok_or(Unusable::Kid)?;
        kid.clone_into(&mut jwk.kid);
    }
    jwk.mark = mark(members)?;
    Ok(jwk)
}

/// A mark that cannot be read may say that the key is revoked: such a key is not usable.
fn mark(members: &Map<String, Value>) -> Result<Option<Mark>, Unusable> {
    let Some(state) = members.get(STATE) else { return Ok(None) };
    let time = |name: &str| members.get(name).and_then(Value::as_u64).ok_or(Unusable::Mark);
    match state.as_str() {
        Some("active") => Ok(Some(Mark::Active)),
        Some("retired") => Ok(Some(Mark::Retired { at: time(RETIRED_AT)? })),
        Some("revoked") => Ok(Some(Mark::Revoked { at: time(REVOKED_AT)? })),
        _ => Err(Unusable::Mark),
    }
}

/// RFC 7517 sections 4.2 and 4.3.
fn verifies_signatures(members: &Map<String, Value>) -> bool {
    let operations = members.get("key_ops").map(|operations| operations.as_array());
    members.get("use").is_none_or(|wanted| wanted == "sig")
        && operations.is_none_or(|list| list.is_some_and(|list| list.iter().any(|name| name == "verify")))
}

/// RFC 7638 section 3: members ordered by their names, no white space. For names and values in ASCII, which these are,
/// RFC 8785 writes the same.
fn thumbprint(required: &Value) -> String {
    // Text alone always has canonical bytes.
    b64::url_encode(Digest::of(&to_canonical(required).unwrap_or_default()).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7515 appendix A.3.1, the public half.
    const A3: &str = r#"{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#;

    #[test]
    fn thumbprints_are_those_of_rfc_7638() {
        // Section 3.1; the key is RSA, the rule is the same.
        let n = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3\
            oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5\
            hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw";
        let rsa = json!({ "kty": "RSA", "n": n, "e": "AQAB" });
        assert_eq!(thumbprint(&rsa), "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
        let key = Jwk::parse(A3.as_bytes()).unwrap();
        assert_eq!(key.kid(), key.thumbprint());
        // By another implementation: jwcrypto's `JWK.thumbprint()`.
        assert_eq!(key.kid(), "oKIywvGUpTVTyxMQ3bwIIeQUudfr_CkLMjCE19ECD-U");
    }

    #[test]
    fn keys_are_written_as_they_are_read() {
        let key = Jwk::parse(A3.as_bytes()).unwrap();
        let again = Jwk::parse(key.to_value().to_string().as_bytes()).unwrap();
        assert_eq!((&again, again.point()), (&key, key.point()));
        assert_eq!(Jwk::from_point(&key.point()).unwrap(), key);
        for mark in [Mark::Active, Mark::Retired { at: 7 }, Mark::Revoked { at: 8 }] {
            let marked = key.clone().marked(mark);
            assert_eq!(Jwk::parse(marked.to_value().to_string().as_bytes()).unwrap().mark(), Some(mark));
            // The same key, said to be two things.
            let set = json!({ "keys": [key.to_value(), marked.to_value()] }).to_string();
            assert!(matches!(JwkSet::parse(set.as_bytes()), Err(JwkError::DuplicateKid(_))));
        }
    }

    #[test]
    fn what_is_no_key_for_es256_is_passed_over_with_its_reason() {
        for (from, to, why) in [
            ("\"EC\"", "\"OKP\"", Unusable::Kind),
            ("\"P-256\"", "\"P-384\"", Unusable::Curve),
            ("{", "{\"alg\":\"ES384\",", Unusable::Algorithm),
            ("{", "{\"use\":\"enc\",", Unusable::Use),
            ("{", "{\"key_ops\":[\"deriveBits\"],", Unusable::Use),
            ("{", "{\"key_ops\":\"verify\",", Unusable::Use),
            ("{", "{\"kid\":7,", Unusable::Kid),
            ("{", "{\"kid\":\"\",", Unusable::Kid),
            ("RVEU", "RVEV", Unusable::Coordinates), // bits after the last byte
            ("RVEU", "RVE", Unusable::Coordinates),
            ("RVEU", "RVEU=", Unusable::Coordinates),
            ("RVEU", "RVEUAA", Unusable::Coordinates),
            ("\"x\":\"f", "\"x\":\"g", Unusable::Point),
            ("{", "{\"countersign_state\":\"gone\",", Unusable::Mark),
            ("{", "{\"countersign_state\":true,", Unusable::Mark),
            ("{", "{\"countersign_state\":\"retired\",", Unusable::Mark),
            ("{", "{\"countersign_state\":\"revoked\",\"countersign_revoked_at\":\"now\",", Unusable::Mark),
        ] {
            let changed = A3.replacen(from, to, 1);
            assert_eq!(Jwk::parse(changed.as_bytes()), Err(JwkError::Unusable(why)), "{changed}");
            let set = JwkSet::parse(format!("{{\"keys\":[{A3},{changed}]}}").as_bytes()).unwrap();
            assert_eq!((set.keys().len(), set.ignored()), (1, &[Ignored { index: 1, why }][..]));
        }
        let good =
            A3.replacen('{', "{\"key_ops\":[\"sign\",\"verify\"],\"use\":\"sig\",\"alg\":\"ES256\",\"kid\":\"a\",", 1);
        assert_eq!(Jwk::parse(good.as_bytes()).unwrap().kid(), "a");
    }

    #[test]
    fn sets_with_secrets_or_ambiguous_names_are_refused() {
        let set = |keys: &str| JwkSet::parse(format!("{{\"keys\":[{keys}]}}").as_bytes());
        for member in SECRET_MEMBERS {
            let secret = format!("{{\"kty\":\"oct\",\"{member}\":\"AA\"}}");
            assert_eq!(set(&format!("{A3},{secret}")), Err(JwkError::Secret { index: 1, member }));
        }
        let named = |kid: &str, key: &Jwk| {
            let mut value = key.to_value();
            value["kid"] = kid.into();
            value.to_string()
        };
        let key = Jwk::parse(A3.as_bytes()).unwrap();
        let other = p256::ecdsa::SigningKey::from_slice(&[1; 32]).unwrap().verifying_key().to_sec1_point(false);
        let other = Jwk::from_point(&other.as_bytes().try_into().unwrap()).unwrap();
        assert_eq!(set(&[named("a", &key), named("a", &other)].join(",")), Err(JwkError::DuplicateKid("a".to_owned())));
        assert_eq!(set(&[named("a", &key), named("a", &key)].join(",")).unwrap().keys().len(), 1);
        assert_eq!(set(&[named("a", &key), named("b", &other)].join(",")).unwrap().keys().len(), 2);
        assert_eq!(set(&vec!["{}"; 101].join(",")), Err(JwkError::TooMany(101)));
        for wrong in ["[]", "{}", "{\"keys\":{}}", "{\"keys\":[],\"keys\":[]}", ""] {
            assert!(JwkSet::parse(wrong.as_bytes()).is_err(), "{wrong}");
        }
        assert!(JwkSet::parse(&vec![b' '; LIMITS.max_bytes + 1]).is_err());
    }
}
