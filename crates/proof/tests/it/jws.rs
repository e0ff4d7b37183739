//! Signatures of others: Wycheproof's vectors for ECDSA over P-256 with SHA-256 in the form that ES256 has.

use countersign_proof::jwk::Jwk;
use countersign_proof::jws::Jws;
use countersign_proof::report::{CheckName, Code, FileKind, Verdict};
use countersign_proof::{TrustAnchors, verify_file};
use proptest::prelude::*;

use crate::support::{data, unhex};

/// RFC 7515 appendix A.3.
const A3: &str = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19y\
    b290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
const A3_KEY: &str = r#"{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
    "y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#;

fn anchors() -> TrustAnchors {
    let mut anchors = TrustAnchors::new();
    anchors.signers.add(Jwk::parse(A3_KEY.as_bytes()).unwrap()).unwrap();
    anchors
}

#[test]
fn wycheproof_agrees() {
    let vectors = data("wycheproof/ecdsa_secp256r1_sha256_p1363.json");
    let (mut valid, mut invalid) = (0, 0);
    for group in vectors["testGroups"].as_array().unwrap() {
        let point = unhex(group["publicKey"]["uncompressed"].as_str().unwrap());
        let key = Jwk::from_point(&point.as_slice().try_into().unwrap()).unwrap();
        if let Some(jwk) = group["publicKey"].get("jwk") {
            assert_eq!(Jwk::parse(jwk.to_string().as_bytes()).unwrap().point(), key.point());
        }
        for test in group["tests"].as_array().unwrap() {
            let bytes = |name: &str| unhex(test[name].as_str().unwrap());
            let expected = test["result"] == "valid";
            assert_eq!(key.verifies(&bytes("msg"), &bytes("sig")), expected, "{test}");
            if expected { valid += 1 } else { invalid += 1 }
        }
    }
    assert_eq!((valid, invalid, vectors["numberOfTests"].as_u64()), (173, 89, Some(262)));
}

#[test]
fn files_are_told_apart_and_verified_with_the_signers_key() {
    let flattened = Jws::parse(A3.as_bytes()).unwrap().to_flattened();
    for file in [A3.as_bytes(), &flattened, format!("{A3}\n").as_bytes()] {
        let report = verify_file(file, &anchors());
        assert_eq!((report.kind, report.verdict), (FileKind::Jws, Verdict::Valid), "{report}");
        let report = verify_file(file, &TrustAnchors::new());
        assert_eq!(report.verdict, Verdict::Unanchored);
        assert_eq!(report.check(CheckName::Signature).unwrap().code, Some(Code::KeyUnknown));
    }
    for (file, kind) in [
        ("{\"format\":\"countersign-receipt/v1\",\"payload\":\"\",\"signature\":\"\"}", FileKind::Receipt),
        ("{\"payload\":\"\",\"signatures\":[]}", FileKind::Jws),
        ("{\"payload\":\"\"}", FileKind::Receipt),
        ("eyJ.eyJ", FileKind::Unknown),
        ("v1.2.3", FileKind::Unknown),
    ] {
        assert_eq!(verify_file(file.as_bytes(), &anchors()).kind, kind, "{file}");
    }
}

#[test]
fn every_bit_counts() {
    for at in 0..A3.len() {
        for bit in 0..8 {
            let mut changed = A3.as_bytes().to_vec();
            changed[at] ^= 1 << bit;
            let report = verify_file(&changed, &anchors());
            assert_ne!(report.verdict, Verdict::Valid, "bit {bit} of byte {at}");
        }
    }
}

proptest! {
    #[test]
    fn what_parses_is_written_as_it_was_read(
        header in "\\{\"alg\":\"ES256\"(,\"[a-z]{1,4}\":\"[ -!#-\\[\\]-~]{0,9}\"){0,2}\\}",
        payload in proptest::collection::vec(any::<u8>(), 0..40),
        signature in proptest::collection::vec(any::<u8>(), 63..66),
    ) {
        use base64::Engine as _;
        let url = base64::engine::general_purpose::URL_SAFE_NO_PAD;
        let compact = [header.as_bytes(), &payload, &signature].map(|part| url.encode(part)).join(".");
        if let Ok(jws) = Jws::parse(compact.as_bytes()) {
            prop_assert_eq!(signature.len(), 64);
            prop_assert_eq!(jws.to_compact(), compact);
            prop_assert_eq!(jws.payload(), payload);
            prop_assert_eq!(Jws::parse(&jws.to_flattened()), Ok(jws));
        }
    }
}
