//! The root secret, wrapped by a token's AES-256 key in Galois/counter mode (`CKM_AES_GCM`; NIST SP 800-38D).
//!
//! Wrapped: a version byte, the key's `CKA_ID` (16 bytes), the nonce (12), the ciphertext (32), the tag (16). Version and identifier
//! are authenticated too.

use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::object::{Attribute, KeyType, ObjectClass, ObjectHandle};
use zeroize::Zeroizing;

use super::objects::{KeyId, check_kept, ids, only};
use super::sessions::Seat;
use super::trouble::{Trouble, is_short_of_something, words};
use crate::KeyError;

const VERSION: u8 = 1;
const ID_BYTES: usize = 16;
const NONCE_BYTES: usize = 12;
const TAG_BITS: usize = 128;
const HEAD_BYTES: usize = 1 + ID_BYTES;
const WRAPPED_BYTES: usize = HEAD_BYTES + NONCE_BYTES + 32 + 16;
const KEY_BYTES: usize = 32;

/// A wrapped secret, taken apart.
pub(super) struct Wrapped {
    head: [u8; HEAD_BYTES],
    nonce: [u8; NONCE_BYTES],
    sealed: Vec<u8>,
}

impl Wrapped {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, KeyError> {
        let malformed =
            |why: &str| KeyError::Malformed(format!("the wrapped root {why}; it was not wrapped by a token"));
        if bytes.len() != WRAPPED_BYTES {
            return Err(malformed(&format!("has {} bytes, not {WRAPPED_BYTES}", bytes.len())));
        }
        let (head, rest) = bytes.split_at(HEAD_BYTES);
        let (nonce, sealed) = rest.split_at(NONCE_BYTES);
        if head[0] != VERSION {
            return Err(malformed(&format!("is of version {}, not {VERSION}", head[0])));
        }
        let parts = (head.try_into(), nonce.try_into());
        let (Ok(head), Ok(nonce)) = parts else { return Err(malformed("has odd parts")) };
        Ok(Self { head, nonce, sealed: sealed.to_vec() })
    }
}

/// Wraps under the key with the label, which is made if there is none.
pub(super) fn wrap(seat: &mut Seat, label: &str, secret: &[u8; 32]) -> Result<Vec<u8>, Trouble> {
    let id = find_or_make(seat, label)?;
    let key = secret_key(seat, &id)?;
    check_kept(&seat.session, key, label)?;
    let mut head = [VERSION; HEAD_BYTES];
    head[1..].copy_from_slice(id.as_bytes());
    let mut nonce = [0; NONCE_BYTES];
    aws_lc_rs::rand::fill(&mut nonce).map_err(|_| KeyError::Unavailable("the system has no randomness".to_owned()))?;
    let sealed = {
        let mechanism = Mechanism::AesGcm(GcmParams::new(&mut nonce, &head, TAG_BITS.try_into()?)?);
        seat.session.encrypt(&mechanism, key, secret)?
    };
    // Tokens in FIPS mode put a nonce of their own there, so it is looked at after the fact.
    let wrapped = [&head[..], &nonce, &sealed].concat();
    // What cannot be unwrapped must not be kept.
    let again = unwrap(seat, &Wrapped::parse(&wrapped)?)?;
    if *again != *secret {
        return Err(KeyError::Refused("the token unwraps something else than it wrapped".to_owned()).into());
    }
    Ok(wrapped)
}

/// Unwraps under the key that the wrapped bytes name.
pub(super) fn unwrap(seat: &mut Seat, wrapped: &Wrapped) -> Result<Zeroizing<[u8; 32]>, Trouble> {
    let id = KeyId::of_bytes(&wrapped.head[1..]);
    let key = secret_key(seat, &id)?;
    let mut nonce = wrapped.nonce;
    let opened = {
        let mechanism = Mechanism::AesGcm(GcmParams::new(&mut nonce, &wrapped.head, TAG_BITS.try_into()?)?);
        seat.session.decrypt(&mechanism, key, &wrapped.sealed)
    };
    let opened = Zeroizing::new(opened.map_err(|error| changed(error.into()))?);
    let secret: &[u8; 32] = opened
        .as_slice()
        .try_into()
        .map_err(|_| KeyError::Malformed(format!("the token unwrapped {} bytes; the root has 32", opened.len())))?;
    Ok(Zeroizing::new(*secret))
}

/// Modules say in different ways that a tag is wrong, some only that something went wrong.
fn changed(trouble: Trouble) -> Trouble {
    match trouble {
        Trouble::Module(error) if !is_short_of_something(&error) => {
            let said = words(&error);
            let words = format!("the wrapped root was changed, or its key was: the token answered {said}");
            Trouble::Broken(KeyError::Refused(words))
        }
        Trouble::Module(_) | Trouble::Gone(_) | Trouble::Final(_) | Trouble::Broken(_) => trouble,
    }
}

fn find_or_make(seat: &mut Seat, label: &str) -> Result<KeyId, Trouble> {
    let label = Attribute::Label(label.as_bytes().to_vec());
    let mut of_label = template();
    of_label.push(label.clone());
    if let Some(id) = ids(seat, &of_label)?.into_iter().find(|id| id.as_bytes().len() == ID_BYTES) {
        return Ok(id);
    }
    let id = KeyId::random()?;
    let made = [
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Encrypt(true),
        Attribute::Decrypt(true),
        Attribute::Sign(false),
        Attribute::Verify(false),
        Attribute::Wrap(false),
        Attribute::Unwrap(false),
        Attribute::Derive(false),
        Attribute::ValueLen(KEY_BYTES.try_into()?),
        id.attribute(),
        label,
    ];
    seat.session.generate_key(&Mechanism::AesKeyGen, &made)?;
    Ok(id)
}

fn secret_key(seat: &mut Seat, id: &KeyId) -> Result<ObjectHandle, Trouble> {
    let mut template = template();
    template.push(id.attribute());
    seat.handle(id, |seat| only(seat, &template, id))
}

fn template() -> Vec<Attribute> {
    vec![Attribute::Class(ObjectClass::SECRET_KEY), Attribute::KeyType(KeyType::AES), Attribute::Token(true)]
}
