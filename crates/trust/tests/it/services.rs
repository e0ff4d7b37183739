//! The authority, the timestamps and the log entries, each by itself.

use countersign_trust::authority::{Authority, AuthorityError, Issuance};
use countersign_trust::certificate::{CertificateError, Identity};
use countersign_trust::entry::LogEntry;
use countersign_trust::keys::{HashAlgorithm, Signer};
use countersign_trust::timestamp::{Rejection, Request, TimestampError, Token, grant, respond};

use crate::cases::good;
use crate::signing::NOW_MS;
use crate::world::{ISSUER, World};

fn authority() -> Authority {
    Authority::generate("Example", &[1; 32], NOW_MS / 1000).unwrap()
}

/// A request as `openssl ts -query` writes it: SHA-256 of "abc", with a nonce, and wanting certificates.
fn request(hash: HashAlgorithm, tail: &[u8]) -> Vec<u8> {
    let id: &[u8] = match hash {
        HashAlgorithm::Sha256 => &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01],
        HashAlgorithm::Sha384 => &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02],
        HashAlgorithm::Sha512 => &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x03],
    };
    let algorithm = sequence(&[&tlv(6, id), &[5, 0]]);
    let imprint = sequence(&[&algorithm, &tlv(4, &hash.digest(b"abc"))]);
    sequence(&[&[2, 1, 1], &imprint, tail])
}

fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    tlv(0x30, &parts.concat())
}

fn tlv(tag: u8, value: &[u8]) -> Vec<u8> {
    assert!(value.len() < 128);
    [&[tag, value.len() as u8], value].concat()
}

const NONCE: [u8; 10] = [2, 8, 0x5b, 1, 2, 3, 4, 5, 6, 7];
const CERTIFICATES: [u8; 3] = [1, 1, 0xff];

#[test]
fn a_timestamp_holds_over_what_was_asked_for() {
    let authority = authority();
    let leaf = authority.public().timestamp_chain[0].clone();
    let leaf = countersign_trust::certificate::Certificate::from_der(&leaf).unwrap();
    for hash in HashAlgorithm::ALL {
        let answer = respond(&authority, &request(hash, &[&NONCE[..], &CERTIFICATES].concat()), [7; 16], NOW_MS);
        let token = Token::from_response(&answer).unwrap();
        assert_eq!(token.seconds(), NOW_MS / 1000);
        assert_eq!((token.nonce(), token.accuracy_seconds()), (Some(&NONCE[2..]), Some(1)));
        assert_eq!(token.certificates(), std::slice::from_ref(&leaf));
        assert!(token.is_signer(&leaf));
        assert_eq!((token.check_message(b"abc"), token.check_signature(&leaf)), (Ok(()), Ok(())));
        assert_eq!(token.check_message(b"abd"), Err(TimestampError::Imprint));
    }
    let bare = respond(&authority, &request(HashAlgorithm::Sha256, &[]), [7; 16], NOW_MS);
    let bare = Token::from_response(&bare).unwrap();
    assert_eq!((bare.nonce(), bare.certificates().len()), (None, 0));
    let other = Authority::generate("Example", &[2; 32], NOW_MS / 1000).unwrap().public();
    let other = countersign_trust::certificate::Certificate::from_der(&other.timestamp_chain[0]).unwrap();
    assert!(!bare.is_signer(&other));
    assert_eq!(bare.check_signature(&other), Err(TimestampError::SigningCertificate));
}

#[test]
fn requests_are_refused_with_the_bit_of_the_rfc() {
    let authority = authority();
    let good = request(HashAlgorithm::Sha256, &[]);
    let change = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    // The hash's OID ends at 20; the digest's length stands at 24.
    let md5 =
        sequence(&[&[2, 1, 1], &sequence(&[&sequence(&[&tlv(6, &[0x2a, 0x86, 0x48]), &[5, 0]]), &tlv(4, &[0; 16])])]);
    let short = sequence(&[&[2, 1, 1], &sequence(&[&good[7..22], &tlv(4, &[0; 20])])]);
    let long_nonce = request(HashAlgorithm::Sha256, &tlv(2, &[1; 65]));
    let policy = request(HashAlgorithm::Sha256, &tlv(6, &[0x2a, 3, 4]));
    let extension = request(HashAlgorithm::Sha256, &tlv(0xa0, &sequence(&[&tlv(6, &[0x2a, 3]), &tlv(4, &[])])));
    for (name, request, expected) in [
        ("empty", vec![], Rejection::BadDataFormat),
        ("cut short", good[..good.len() - 1].to_vec(), Rejection::BadDataFormat),
        ("large", vec![0x30; 5000], Rejection::BadDataFormat),
        ("version", change(4, 2), Rejection::BadRequest),
        ("md5", md5, Rejection::BadAlgorithm),
        ("short digest", short, Rejection::BadDataFormat),
        ("long nonce", long_nonce, Rejection::BadRequest),
        ("policy", policy, Rejection::UnacceptedPolicy),
        ("extension", extension, Rejection::UnacceptedExtension),
    ] {
        assert_eq!(Request::parse(&request), Err(expected), "{name}");
        let answer = respond(&authority, &request, [7; 16], NOW_MS);
        assert_eq!(Token::from_response(&answer).map(|_| ()), Err(TimestampError::Refused(2)), "{name}");
    }
    let late = respond(&authority, &good, [7; 16], NOW_MS + 11 * 365 * 86_400_000);
    assert_eq!(Token::from_response(&late).map(|_| ()), Err(TimestampError::Refused(2)));
}

#[test]
fn an_authority_is_saved_and_read_again() {
    let authority = authority();
    let bytes = authority.to_bytes();
    let again = Authority::from_bytes(&bytes).unwrap();
    assert_eq!(again.public(), authority.public());
    assert_eq!(again.to_bytes(), bytes);
    for at in 0..bytes.len() {
        assert!(Authority::from_bytes(&bytes[..at]).is_err(), "{at}");
    }
    assert!(matches!(Authority::from_bytes(&[&bytes[..], &[0]].concat()), Err(AuthorityError::Saved(_))));
    // The last key is the SCTs'; before it and its length, the timestamp authority's ends, and before that its certificate.
    let end = bytes.len() - 34;
    for (at, what) in
        [(end - 1, "a certificate is of another key"), (end - 35, "a certificate is not signed by its issuer")]
    {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        assert_eq!(Authority::from_bytes(&changed).map(|_| ()), Err(AuthorityError::Saved(what)));
    }
    let other = Authority::generate("Example", &[2; 32], NOW_MS / 1000).unwrap();
    assert_ne!(other.public().root, authority.public().root);
}

#[test]
fn only_certificates_of_the_profile_are_issued() {
    let authority = authority();
    let key = Signer::from_seed(&[3; 32], "signer").spki();
    let uri = Identity::uri("https://gw.example.com/ws/1").unwrap();
    let order = Issuance { identity: &uri, issuer: ISSUER, public_key: &key, serial: [0xff; 16], now_ms: NOW_MS };
    let issued = authority.issue(&order).unwrap();
    assert_eq!((issued.identity(), issued.identity_issuer()), (Ok(uri.clone()), Ok(ISSUER.to_owned())));
    assert_eq!(issued.not_after() - issued.not_before(), 600);
    assert_eq!((issued.scts().unwrap().len(), issued.spki()), (1, key.clone()));
    assert_eq!(authority.issue(&order).unwrap(), issued, "the same order gives the same certificate");
    let ed25519 = countersign_trust::keys::ed25519_spki(&[
        0x19, 0xbf, 0x44, 0x09, 0x69, 0x84, 0xcd, 0xfe, 0x85, 0x41, 0xba, 0xc1, 0x67, 0xdc, 0x3b, 0x96, 0xc8, 0x50,
        0x86, 0xaa, 0x30, 0xb6, 0xb6, 0xcb, 0x0c, 0x5c, 0x38, 0xad, 0x70, 0x31, 0x66, 0xe1,
    ]);
    assert!(matches!(authority.issue(&Issuance { public_key: &ed25519, ..order }), Err(AuthorityError::Key(_))));
    assert!(matches!(authority.issue(&Issuance { issuer: "ftp://x", ..order }), Err(AuthorityError::Certificate(_))));
    let spaced = Identity::Uri("https://x y".to_owned());
    assert!(matches!(authority.issue(&Issuance { identity: &spaced, ..order }), Err(AuthorityError::Certificate(_))));
    for now_ms in [0, NOW_MS - 1000, NOW_MS + 10 * 366 * 86_400_000, u64::MAX] {
        assert!(
            matches!(authority.issue(&Issuance { now_ms, ..order }), Err(AuthorityError::NotValid { .. })),
            "{now_ms}"
        );
    }
    for name in ["", "a\nb", &"x".repeat(65)] {
        assert_eq!(Authority::generate(name, &[1; 32], 0).map(|_| ()), Err(AuthorityError::Organisation));
    }
    for wrong in ["no-scheme", "https://a b", "", "1a:b", &format!("a:{}", "b".repeat(2000))] {
        assert!(matches!(Identity::uri(wrong), Err(CertificateError::Identity(_))), "{wrong}");
    }
    for wrong in ["ann", "@example.com", "ann@", "ann @example.com", "änn@example.com"] {
        assert!(matches!(Identity::mail(wrong), Err(CertificateError::Identity(_))), "{wrong}");
    }
}

#[test]
fn a_log_entry_is_answered_as_rekor_answers_it() {
    let mut world = World::new(NOW_MS);
    let good = good(&mut world);
    let entry = &good.certificate.entries[0];
    let json = entry.to_json();
    assert_eq!(&LogEntry::parse(&json).unwrap(), entry);
    let value: serde_json::Value = serde_json::from_slice(&json).unwrap();
    let names: Vec<_> = value.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(names, ["logIndex", "logId", "kindVersion", "inclusionProof", "canonicalizedBody"]);
    assert_eq!((&value["logIndex"], &value["inclusionProof"]["treeSize"]), (&"1".into(), &"5".into()));
    assert_eq!(value["kindVersion"], serde_json::json!({"kind": "hashedrekord", "version": "0.0.2"}));
    let text = String::from_utf8(json).unwrap();
    for (from, to) in [("\"1\"", "\"-1\""), ("\"logId\"", "\"logID\""), ("\"hashes\":[", "\"hashes\":[\"AA==\",")] {
        assert!(LogEntry::parse(text.replacen(from, to, 1).as_bytes()).is_err(), "{from}");
    }
}

#[test]
fn a_request_as_json_is_the_same_request() {
    let authority = authority();
    let leaf = countersign_trust::certificate::Certificate::from_der(&authority.public().timestamp_chain[0]).unwrap();
    let digest =
        base64::Engine::encode(&base64::engine::general_purpose::STANDARD, HashAlgorithm::Sha256.digest(b"abc"));
    let json = |more: &str| format!(r#"{{"artifactHash":"{digest}","hashAlgorithm":"sha256"{more}}}"#);
    for (nonce, expected) in [("0", vec![0]), ("127", vec![127]), ("128", vec![0, 128]), ("65536", vec![1, 0, 0])] {
        let request = Request::parse_json(json(&format!(r#","nonce":{nonce}"#)).as_bytes()).unwrap();
        let token = Token::from_response(&grant(&authority, &request, [7; 16], NOW_MS).unwrap()).unwrap();
        assert_eq!(token.nonce(), Some(expected.as_slice()));
        assert_eq!((token.check_message(b"abc"), token.check_signature(&leaf)), (Ok(()), Ok(())));
    }
    let bare = Request::parse_json(json(r#","certificates":false"#).as_bytes()).unwrap();
    let token = Token::from_response(&grant(&authority, &bare, [7; 16], NOW_MS).unwrap()).unwrap();
    assert_eq!((token.nonce(), token.certificates().len()), (None, 0));
    for (wrong, why) in [
        ("", Rejection::BadDataFormat),
        (r#"{"artifactHash":"AAAA","hashAlgorithm":"sha256"}"#, Rejection::BadDataFormat),
        (r#"{"artifactHash":"AAAA","hashAlgorithm":"md5"}"#, Rejection::BadAlgorithm),
    ] {
        assert_eq!(Request::parse_json(wrong.as_bytes()), Err(why), "{wrong}");
    }
}
