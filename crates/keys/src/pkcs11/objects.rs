//! Signing keys as objects of a token (PKCS #11 2.40 section 4; elliptic curves: current mechanisms 2.40, section 2.3).

use std::fmt;

use countersign_proof::digest::Digest;
use countersign_proof::jwk::Jwk;
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;

use super::sessions::Seat;
use super::trouble::Trouble;
use crate::KeyError;
use crate::signature::verified;

/// Bytes of the identifiers of keys that are made here.
const ID_BYTES: usize = 16;
/// Longest identifier that is taken, in bytes.
const MAX_ID_BYTES: usize = 64;
/// Most keys of one label that are looked at.
const MAX_FOUND: usize = 32;
/// The object identifier 1.2.840.10045.3.1.7 (prime256v1) in DER.
const P256: [u8; 10] = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];

/// A key's `CKA_ID`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct KeyId(Vec<u8>);

impl KeyId {
    /// Reads a reference.
    pub(super) fn parse(reference: &str) -> Result<Self, KeyError> {
        let malformed = || KeyError::Malformed(format!("{reference:.140?} is no reference to a key on a token"));
        let bytes = hex::decode(reference).map_err(|_| malformed())?;
        if bytes.is_empty() || bytes.len() > MAX_ID_BYTES || reference.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(malformed());
        }
        Ok(Self(bytes))
    }

    pub(super) fn of_bytes(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }

    /// One that no other key has.
    pub(super) fn random() -> Result<Self, KeyError> {
        let mut bytes = vec![0; ID_BYTES];
        aws_lc_rs::rand::fill(&mut bytes)
            .map_err(|_| KeyError::Unavailable("the system has no randomness".to_owned()))?;
        Ok(Self(bytes))
    }

    pub(super) fn to_reference(&self) -> String {
        hex::encode(&self.0)
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub(super) fn attribute(&self) -> Attribute {
        Attribute::Id(self.0.clone())
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_reference())
    }
}

/// The pair with the label, made if there is none. Of several, which only nodes that made theirs at the same moment leave behind, it
/// is always the same one. A private key without its public half is passed over: nobody can have used it.
pub(super) fn find_or_make_pair(seat: &mut Seat, label: &str) -> Result<(KeyId, Jwk), Trouble> {
    let mut of_label = private_template();
    of_label.push(Attribute::Label(label.as_bytes().to_vec()));
    for id in ids(seat, &of_label)? {
        match public_key(seat, &id) {
            Err(Trouble::Final(KeyError::NotFound(_))) => {}
            Err(other) => return Err(other),
            Ok(public) => {
                let handle = private_key(seat, &id)?;
                check_kept(&seat.session, handle, label)?;
                check_halves(seat, &id, &public, label)?;
                return Ok((id, public));
            }
        }
    }
    let id = KeyId::random()?;
    make_pair(seat, label, &id)?;
    Ok((id.clone(), public_key(seat, &id)?))
}

fn make_pair(seat: &mut Seat, label: &str, id: &KeyId) -> Result<(), Trouble> {
    let label = Attribute::Label(label.as_bytes().to_vec());
    let public = [
        Attribute::Token(true),
        Attribute::Private(false),
        Attribute::Verify(true),
        Attribute::EcParams(P256.to_vec()),
        id.attribute(),
        label.clone(),
    ];
    let private = [
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Sign(true),
        Attribute::Decrypt(false),
        Attribute::Unwrap(false),
        Attribute::Derive(false),
        id.attribute(),
        label.clone(),
    ];
    // From here on the key is there, whatever happens; the next call finds it by its label.
    let (_, made) = seat.session.generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private)?;
    check_kept(&seat.session, made, &id.to_reference())
}

/// Whether the halves belong together: on many tokens anybody can put a public key there, and it is the one to be published.
fn check_halves(seat: &mut Seat, id: &KeyId, public: &Jwk, name: &str) -> Result<(), Trouble> {
    let digest = Digest::of(b"countersign: do the halves of this key belong together?");
    let signature = sign(seat, id, &digest)?;
    let words = || KeyError::Refused(format!("the public key beside {name} on the token is not its own; remove it"));
    verified(public, &digest, &signature).map(|_| ()).map_err(|_| words().into())
}

/// Whether the token keeps the key to itself, and always has: what [`make_pair`] asks for, some tokens silently do not do, and a
/// key that somebody put there under the label may be known elsewhere.
pub(super) fn check_kept(session: &Session, key: ObjectHandle, name: &str) -> Result<(), Trouble> {
    let asked = [
        AttributeType::Sensitive,
        AttributeType::Extractable,
        AttributeType::AlwaysSensitive,
        AttributeType::NeverExtractable,
    ];
    let (mut sensitive, mut extractable, mut outside) = (false, true, false);
    for attribute in session.get_attributes(key, &asked)? {
        match attribute {
            Attribute::Sensitive(is) => sensitive = is,
            Attribute::Extractable(is) => extractable = is,
            Attribute::AlwaysSensitive(always) => outside |= !always,
            Attribute::NeverExtractable(never) => outside |= !never,
            _ => {}
        }
    }
    if sensitive && !extractable && !outside {
        return Ok(());
    }
    let why = if outside { "it was not made on the token, or could be read once" } else { "the token lets it be read" };
    Err(KeyError::Refused(format!("the key {name} is not used: {why}; give it another label or remove it")).into())
}

/// The public half.
pub(super) fn public_key(seat: &Seat, id: &KeyId) -> Result<Jwk, Trouble> {
    let template = [
        Attribute::Class(ObjectClass::PUBLIC_KEY),
        Attribute::KeyType(KeyType::EC),
        Attribute::Token(true),
        id.attribute(),
    ];
    let handle = only(seat, &template, id)?;
    let attributes = seat.session.get_attributes(handle, &[AttributeType::EcPoint, AttributeType::EcParams])?;
    let (mut point, mut curve) = (None, None);
    for attribute in attributes {
        match attribute {
            Attribute::EcPoint(bytes) => point = Some(bytes),
            Attribute::EcParams(bytes) => curve = Some(bytes),
            _ => {}
        }
    }
    if curve.is_some_and(|curve| curve != P256) {
        return Err(KeyError::Refused(format!("the key {id} is not on the curve P-256")).into());
    }
    let public = point.as_deref().and_then(read_point);
    public.ok_or_else(|| KeyError::Malformed(format!("the token shows no P-256 point of the key {id}")).into())
}

/// `CKA_EC_POINT` is an uncompressed point in a DER OCTET STRING; some tokens leave that out.
fn read_point(bytes: &[u8]) -> Option<Jwk> {
    let point = match bytes {
        [0x04, 0x41, point @ ..] if point.len() == 65 => point,
        point => point,
    };
    Jwk::from_point(point.try_into().ok()?).ok()
}

/// `CKM_ECDSA` over the digest, which gives r and s.
pub(super) fn sign(seat: &mut Seat, id: &KeyId, digest: &Digest) -> Result<[u8; 64], Trouble> {
    let key = private_key(seat, id)?;
    let signature = seat.session.sign(&Mechanism::Ecdsa, key, digest.as_bytes())?;
    let length = signature.len();
    let words = || KeyError::Malformed(format!("the token's signature has {length} bytes; r and s are 64"));
    signature.try_into().map_err(|_| words().into())
}

fn private_key(seat: &mut Seat, id: &KeyId) -> Result<ObjectHandle, Trouble> {
    let mut template = private_template();
    template.push(id.attribute());
    seat.handle(id, |seat| only(seat, &template, id))
}

fn private_template() -> Vec<Attribute> {
    vec![Attribute::Class(ObjectClass::PRIVATE_KEY), Attribute::KeyType(KeyType::EC), Attribute::Token(true)]
}

/// The one object that the template describes.
pub(super) fn only(seat: &Seat, template: &[Attribute], id: &KeyId) -> Result<ObjectHandle, Trouble> {
    match find(&seat.session, template)?.as_slice() {
        [handle] => Ok(*handle),
        [] => {
            seat.still_logged_in()?;
            Err(KeyError::NotFound(format!(
                "the token has no key {id}; was it initialised anew, or is it another one?"
            ))
            .into())
        }
        _ => {
            Err(KeyError::Refused(format!("the token has several keys {id}, and which is meant cannot be told")).into())
        }
    }
}

/// The identifiers of the objects that the template describes; objects without one are not ours.
pub(super) fn ids(seat: &Seat, template: &[Attribute]) -> Result<Vec<KeyId>, Trouble> {
    let mut ids = Vec::new();
    for handle in find(&seat.session, template)? {
        for attribute in seat.session.get_attributes(handle, &[AttributeType::Id])? {
            if let Attribute::Id(id) = attribute
                && (1..=MAX_ID_BYTES).contains(&id.len())
            {
                ids.push(KeyId(id));
            }
        }
    }
    if ids.is_empty() {
        seat.still_logged_in()?;
    }
    ids.sort();
    Ok(ids)
}

fn find(session: &Session, template: &[Attribute]) -> Result<Vec<ObjectHandle>, Trouble> {
    Ok(session.iter_objects(template)?.take(MAX_FOUND).collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_taken_wrapped_and_bare() {
        let secret = p256::ecdsa::SigningKey::from_slice(&[7; 32]).unwrap();
        let point = secret.verifying_key().to_sec1_point(false).as_bytes().to_vec();
        let wrapped = [&[0x04, 0x41], &*point].concat();
        let key = read_point(&point).unwrap();
        assert_eq!((key.point().to_vec(), read_point(&wrapped)), (point.clone(), Some(key)));
        let mut off = point.clone();
        off[64] ^= 1;
        for wrong in [&point[1..], &wrapped[1..], &[0x04, 0x40], &off, &[&*wrapped, &[0]].concat(), &[]] {
            assert_eq!(read_point(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn references_have_one_spelling() {
        let id = KeyId::random().unwrap();
        assert_eq!(KeyId::parse(&id.to_reference()), Ok(id));
        for wrong in ["", "0", "zz", "AB", "0x12", &"00".repeat(MAX_ID_BYTES + 1)] {
            assert!(matches!(KeyId::parse(wrong), Err(KeyError::Malformed(_))), "{wrong}");
        }
    }
}
