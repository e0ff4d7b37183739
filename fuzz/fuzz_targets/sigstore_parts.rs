//! What reaches a node's authority, timestamps and log from outside, and the parts of bundles: never panics, and what is
//! accepted is written as it was read.
#![no_main]

use std::sync::LazyLock;

use countersign_trust::authority::Authority;
use countersign_trust::certificate::Certificate;
use countersign_trust::entry::LogEntry;
use countersign_trust::hashedrekord::HashedRekord;
use countersign_trust::issuing::{SigningCertificateRequest, Wanted};
use countersign_trust::keys::PublicKey;
use countersign_trust::root::TrustedRoot;
use countersign_trust::timestamp::{Request, Token, grant, respond};
use libfuzzer_sys::fuzz_target;

static AUTHORITY: LazyLock<Authority> =
    LazyLock::new(|| Authority::generate("Example", &[1; 32], 1_772_366_400).expect("a good name"));

fuzz_target!(|data: &[u8]| {
    let Some((kind, data)) = data.split_first() else { return };
    match kind % 8 {
        0 => {
            let answer = respond(&AUTHORITY, data, [7; 16], 1_772_366_400_000);
            // Granted or refused, the answer is one.
            let _ = Token::from_response(&answer);
            assert!(!answer.is_empty());
        }
        1 => {
            if let Ok(token) = Token::from_response(data) {
                let certificates = token.certificates().to_vec();
                for certificate in &certificates {
                    let _ = (token.is_signer(certificate), token.check_signature(certificate));
                }
            }
        }
        2 => {
            if let Ok(certificate) = Certificate::from_der(data) {
                assert_eq!(certificate.der(), data);
                let _ = (certificate.identity(), certificate.identity_issuer(), certificate.public_key());
                let _ = certificate.is_signed_by(&certificate);
                for sct in certificate.scts().unwrap_or_default() {
                    let _ = certificate.sct_message(&sct, &certificate);
                }
            }
        }
        3 => {
            if let Ok(entry) = HashedRekord::parse_body(data) {
                assert_eq!(entry.to_body().as_deref(), Ok(data));
            }
            if let Ok(entry) = HashedRekord::parse_request(data) {
                assert_eq!(HashedRekord::parse_request(&entry.to_request()), Ok(entry));
            }
        }
        4 => {
            if let Ok(entry) = LogEntry::parse(data) {
                assert_eq!(LogEntry::parse(&entry.to_json()), Ok(entry));
            }
        }
        5 => {
            if let Ok(root) = TrustedRoot::parse(data) {
                assert_eq!(TrustedRoot::parse(&root.to_json()), Ok(root));
            }
        }
        6 => {
            if let Ok(asked) = SigningCertificateRequest::parse(data) {
                let key = asked.key.as_ref().map(|(key, proof)| (key.as_str(), proof.as_str()));
                // A key is certified only if it is one.
                if let Ok(spki) = Wanted::new(asked.request.as_deref(), key).and_then(|wanted| wanted.proven(&["ada"])) {
                    assert!(PublicKey::from_spki(&spki).is_ok());
                }
            }
            let _ = Wanted::Request(data.to_vec()).proven(&[]);
        }
        _ => {
            if let Ok(request) = Request::parse_json(data) {
                let granted = grant(&AUTHORITY, &request, [7; 16], 1_772_366_400_000).expect("a valid authority");
                assert!(Token::from_response(&granted).is_ok());
            }
        }
    }
});
