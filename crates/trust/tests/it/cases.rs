//! Bundles that must be accepted, and bundles that must be refused for one reason. What is changed is changed so that
//! everything around it holds: logged again, stamped again, signed again.
//!
//! The same cases are verified by our own code, and written out for the verifiers of others.

use countersign_proof::digest::Digest;
use countersign_trust::authority::Authority;
use countersign_trust::bundle::{Bundle, Content, Material};
use countersign_trust::certificate::Identity;
use countersign_trust::hashedrekord::{HashedRekord, Verifier};
use countersign_trust::keys::Signer;
use countersign_trust::report::Code;
use countersign_trust::root::{TrustedRoot, Window};
use countersign_trust::sign::{Payload, Signatory, prepare, prepare_with_key};
use countersign_trust::timestamp;
use serde_json::json;

use super::world::{ISSUER, Log, World};

pub const ARTIFACT: &[u8] = b"release 1.2.3\n";
pub const IDENTITY: &str = "https://gw.example.com/ws/1/signer";
pub const MAIL: &str = "ann@example.com";

/// What verifiers of others accept although we refuse it: most do not look at every time in a trusted root.
/// (sigstore-python 4.5.1 looks at those of timestamp authorities only, @sigstore/verify 4.1.3 and the crate sigstore-verify
/// 0.15.1 not at those of logs.)
#[allow(dead_code)]
pub const LENIENT: [(&str, &[&str]); 4] = [
    ("authority-ended", &["sigstore-python"]),
    ("sct-key-ended", &["sigstore-python"]),
    ("log-ended", &["sigstore-python", "@sigstore/verify", "sigstore-verify"]),
    // One good stamp is enough for it.
    ("timestamp-by-another-authority-byte", &["sigstore-python"]),
];

/// One bundle with what a verifier is told, and what it must find.
pub struct Case {
    pub name: &'static str,
    pub bundle: Bundle,
    pub root: TrustedRoot,
    pub artifact: Vec<u8>,
    pub identity: String,
    pub issuer: String,
    /// DER of the key, for bundles without a certificate.
    pub key: Option<Vec<u8>>,
    /// Why it is refused; none if it is accepted.
    pub refused: &'static [Code],
}

/// The bundles that hold, and what was used to make them.
pub struct Good {
    pub certificate: Bundle,
    pub mail: Bundle,
    pub statement: Bundle,
    pub key: Bundle,
    pub public_key: Vec<u8>,
}

pub fn good(world: &mut World) -> Good {
    let digest = Digest::of(ARTIFACT);
    let uri = Identity::uri(IDENTITY).expect("a URI");
    let mail = Identity::mail(MAIL).expect("a mail address");
    let statement = countersign_trust::dsse::Statement::about(
        "release",
        &digest,
        "https://gw.example.com/tool-call/v1",
        json!({"tool": "deploy", "attempt": 1}),
    );
    let statement = statement.to_payload().expect("canonical");
    let sign = |world: &mut World, identity: &Identity, payload: Payload<'_>| {
        let seed = world.seed();
        let who = Signatory { identity, issuer: ISSUER };
        let unlogged = prepare(&world.authority, who, &payload, &seed, world.now_ms).expect("it signs");
        world.log.finish(unlogged)
    };
    let certificate = sign(world, &uri, Payload::Artifact(digest));
    let mail = sign(world, &mail, Payload::Artifact(digest));
    let statement = sign(world, &uri, Payload::Statement(&statement));
    let key = Signer::from_seed(&[9; 32], "workspace");
    let seed = world.seed();
    let unlogged = prepare_with_key(&world.authority, &key, &Payload::Artifact(digest), &seed, world.now_ms);
    let public_key = key.spki();
    let key = world.log.finish(unlogged.expect("it signs"));
    Good { certificate, mail, statement, key, public_key }
}

/// Every case.
pub fn all(now_ms: u64) -> Vec<Case> {
    let mut world = World::new(now_ms);
    let good = good(&mut world);
    let base = |name, bundle: &Bundle, refused| Case {
        name,
        bundle: bundle.clone(),
        root: world.root.clone(),
        artifact: ARTIFACT.to_vec(),
        identity: IDENTITY.to_owned(),
        issuer: ISSUER.to_owned(),
        key: None,
        refused,
    };
    let mut cases = vec![
        base("certificate", &good.certificate, &[]),
        Case { identity: MAIL.to_owned(), ..base("mail", &good.mail, &[]) },
        base("statement", &good.statement, &[]),
        Case { key: Some(good.public_key.clone()), ..base("key", &good.key, &[]) },
    ];
    cases.extend(told_otherwise(&base, &good));
    cases.extend(trusted_otherwise(&base, &good, now_ms));
    let plain = |name, bundle: Bundle, refused| base(name, &bundle, refused);
    let mut changed = changed_signature(&mut World::new(now_ms), &good);
    changed.extend(changed_time(&World::new(now_ms), &good));
    changed.extend(changed_log(&good));
    cases.extend(changed.into_iter().map(|(name, bundle, refused)| plain(name, bundle, refused)));
    cases
}

type Base<'a> = dyn Fn(&'static str, &Bundle, &'static [Code]) -> Case + 'a;

/// The bundle is good, but the verifier expects something else.
fn told_otherwise(base: &Base<'_>, good: &Good) -> Vec<Case> {
    let mut artifact = ARTIFACT.to_vec();
    artifact[3] ^= 1;
    // The log entry has the digest of what was signed, and so has the signature.
    let all_three: &[Code] = &[Code::LogEntryMismatch, Code::SignatureWrong, Code::ArtifactMismatch];
    vec![
        Case { artifact: artifact.clone(), ..base("artifact-byte", &good.certificate, all_three) },
        Case { artifact, ..base("statement-about-another", &good.statement, &[Code::ArtifactMismatch]) },
        Case {
            identity: IDENTITY.replace("/1/", "/2/"),
            ..base("another-identity", &good.certificate, &[Code::IdentityMismatch])
        },
        Case { identity: "bob@example.com".to_owned(), ..base("another-mail", &good.mail, &[Code::IdentityMismatch]) },
        Case {
            issuer: "https://other.example.com".to_owned(),
            ..base("another-issuer", &good.certificate, &[Code::IssuerMismatch])
        },
        Case {
            key: Some(Signer::from_seed(&[10; 32], "workspace").spki()),
            ..base("another-key", &good.key, &[Code::LogEntryMismatch, Code::SignatureWrong])
        },
    ]
}

/// The bundle is good, but the verifier trusts others, or trusts these for another time.
fn trusted_otherwise(base: &Base<'_>, good: &Good, now_ms: u64) -> Vec<Case> {
    let ended = |window: &mut Window| window.end = Some(now_ms / 1000 - 60);
    let strangers = Authority::generate("Strangers", &[77; 32], now_ms / 1000 - 3600).expect("a good name").public();
    let case = |name, refused, change: &dyn Fn(&mut TrustedRoot)| {
        let mut case = base(name, &good.certificate, refused);
        change(&mut case.root);
        case
    };
    vec![
        case("authority-ended", &[Code::AuthorityNotValid], &|r| ended(&mut r.certificate_authorities[1].window)),
        case("timestamp-authority-ended", &[Code::TimestampAuthorityNotValid, Code::NoTrustedTime], &|r| {
            ended(&mut r.timestamp_authorities[1].window);
        }),
        case("sct-key-ended", &[Code::SctLogNotValid], &|r| ended(&mut r.ct_logs[1].window)),
        case("log-ended", &[Code::LogNotValid], &|r| ended(&mut r.logs[1].window)),
        case("authority-unknown", &[Code::AuthorityUnknown], &|r| {
            r.certificate_authorities.clear();
            let authority = countersign_trust::root::AuthorityInstance::signing(&strangers, ISSUER, Window::since(0));
            r.certificate_authorities.push(authority.expect("readable"));
        }),
        case("authority-of-the-same-name", &[Code::CertificateSignatureWrong], &|r| {
            r.certificate_authorities.truncate(1);
        }),
        case("timestamp-authority-unknown", &[Code::TimestampAuthorityUnknown, Code::NoTrustedTime], &|r| {
            r.timestamp_authorities.truncate(1);
        }),
        case("sct-key-unknown", &[Code::SctLogUnknown], &|r| r.ct_logs.truncate(1)),
        case("sct-by-another-key", &[Code::SctSignatureWrong], &|r| {
            r.ct_logs[1].public_key = Signer::from_seed(&[11; 32], "ct").spki();
        }),
        case("log-unknown", &[Code::LogUnknown], &|r| r.logs.truncate(1)),
        case("log-with-another-key", &[Code::CheckpointSignatureWrong], &|r| {
            let other = Log::new("4f2a.log.example.com", 55).instance(Window::since(0));
            r.logs[1].public_key = other.public_key;
        }),
    ]
}

type Changed = (&'static str, Bundle, &'static [Code]);

fn set_signature(bundle: &mut Bundle, new: Vec<u8>) {
    match &mut bundle.content {
        Content::MessageSignature { signature, .. } => *signature = new,
        Content::Dsse(envelope) => envelope.signature = new,
    }
}

/// The leaf that a bundle's content would have, whether it holds or not.
fn leaf(bundle: &Bundle, digest: &[u8]) -> Vec<u8> {
    let Material::Certificate(certificate) = &bundle.material else { panic!("a bundle with a certificate") };
    let entry = HashedRekord {
        hash: countersign_trust::keys::HashAlgorithm::Sha256,
        digest: digest.to_vec(),
        signature: bundle.content.signature().to_vec(),
        verifier: Verifier::Certificate(certificate.clone()),
        key_details: "PKIX_ECDSA_P256_SHA_256".to_owned(),
    };
    entry.to_body().expect("small")
}

fn stamp(world: &World, bundle: &mut Bundle, now_ms: u64) {
    let request = timestamp::Request::over(bundle.content.signature());
    bundle.timestamps = vec![timestamp::grant(&world.authority, &request, [5; 16], now_ms).expect("valid")];
}

fn changed_signature(world: &mut World, good: &Good) -> Vec<Changed> {
    let digest = Digest::of(ARTIFACT);
    // Another signature, in good DER, logged and stamped.
    let mut signature = good.certificate.clone();
    set_signature(&mut signature, flip_last(good.certificate.content.signature()));
    let body = leaf(&signature, digest.as_bytes());
    world.log.log_again(&mut signature, &body);
    stamp(world, &mut signature, world.now_ms);
    // The same, but neither logged nor stamped.
    let mut bare = good.certificate.clone();
    set_signature(&mut bare, flip_last(good.certificate.content.signature()));
    // The issuer's signature on the certificate, logged again.
    let mut certificate = good.certificate.clone();
    let Material::Certificate(der) = &mut certificate.material else { panic!("a bundle with a certificate") };
    *der = flip_last(der);
    let body = leaf(&certificate, digest.as_bytes());
    world.log.log_again(&mut certificate, &body);
    // The identity in the certificate, logged again.
    let mut identity = good.certificate.clone();
    let Material::Certificate(der) = &mut identity.material else { panic!("a bundle with a certificate") };
    replace(der, b"/ws/1/signer", b"/ws/7/signer");
    let body = leaf(&identity, digest.as_bytes());
    world.log.log_again(&mut identity, &body);
    // Another payload under the same signature, logged again.
    let mut payload = good.statement.clone();
    let Content::Dsse(envelope) = &mut payload.content else { panic!("a bundle with a statement") };
    replace(&mut envelope.payload, b"\"attempt\":1", b"\"attempt\":2");
    let pae = Digest::of(&envelope.pae());
    let body = leaf(&payload, pae.as_bytes());
    world.log.log_again(&mut payload, &body);
    vec![
        ("signature-byte", signature, &[Code::SignatureWrong]),
        (
            "signature-byte-alone",
            bare,
            &[Code::TimestampMismatch, Code::NoTrustedTime, Code::LogEntryMismatch, Code::SignatureWrong],
        ),
        ("certificate-byte", certificate, &[Code::CertificateSignatureWrong]),
        ("certificate-identity", identity, &[Code::CertificateSignatureWrong, Code::IdentityMismatch]),
        ("statement-byte", payload, &[Code::SignatureWrong]),
    ]
}

fn changed_time(world: &World, good: &Good) -> Vec<Changed> {
    let change = |change: &dyn Fn(&mut Bundle)| {
        let mut bundle = good.certificate.clone();
        change(&mut bundle);
        bundle
    };
    let seconds = |n: u64| move |b: &mut Bundle| stamp(world, b, world.now_ms + n * 1000);
    let outside = timestamp::Request::over(good.certificate.content.signature());
    let outside = timestamp::grant(&world.outside, &outside, [8; 16], world.now_ms + 1000).expect("valid");
    vec![
        (
            "timestamp-signature-byte",
            change(&|b| b.timestamps[0] = flip_last(&b.timestamps[0])),
            &[Code::TimestampSignatureWrong, Code::NoTrustedTime],
        ),
        (
            "timestamp-time-digit",
            change(&|b| later(&mut b.timestamps[0])),
            &[Code::TimestampChanged, Code::NoTrustedTime],
        ),
        (
            "timestamp-over-another",
            change(&|b| b.timestamps = good.mail.timestamps.clone()),
            &[Code::TimestampMismatch, Code::NoTrustedTime],
        ),
        ("timestamp-missing", change(&|b| b.timestamps.clear()), &[Code::NoTrustedTime, Code::NoTrustedTime]),
        ("timestamp-in-the-last-second", change(&seconds(570)), &[]),
        ("timestamp-after-the-certificate", change(&seconds(571)), &[Code::CertificateNotValid]),
        (
            "one-of-two-timestamps-after-the-certificate",
            change(&|b| {
                let first = b.timestamps.clone();
                seconds(571)(b);
                b.timestamps.splice(0..0, first);
            }),
            &[Code::CertificateNotValid],
        ),
        ("timestamp-by-another-authority-too", change(&|b| b.timestamps.push(outside.clone())), &[]),
        ("timestamp-by-another-authority-alone", change(&|b| b.timestamps = vec![outside.clone()]), &[]),
        (
            "timestamp-by-another-authority-byte",
            change(&|b| b.timestamps.push(flip_last(&outside))),
            &[Code::TimestampSignatureWrong],
        ),
    ]
}

fn changed_log(good: &Good) -> Vec<Changed> {
    let change = |change: &dyn Fn(&mut Bundle)| {
        let mut bundle = good.certificate.clone();
        change(&mut bundle);
        bundle
    };
    fn proof(bundle: &mut Bundle) -> &mut countersign_trust::entry::InclusionProof {
        bundle.entries[0].proof.as_mut().expect("it has one")
    }
    vec![
        ("inclusion-byte", change(&|b| proof(b).hashes[0][7] ^= 1), &[Code::InclusionMismatch]),
        (
            "inclusion-index",
            change(&|b| {
                proof(b).index += 1;
                b.entries[0].log_index += 1;
            }),
            &[Code::InclusionMismatch],
        ),
        (
            "checkpoint-signature-byte",
            change(&|b| sign_byte(&mut proof(b).checkpoint)),
            &[Code::CheckpointSignatureWrong],
        ),
        (
            "checkpoint-of-another-tree",
            change(&|b| {
                let mut other = Log::new("4f2a.log.example.com", 3);
                (0..5).for_each(|i| _ = other.append(&[i]));
                proof(b).checkpoint = other.checkpoint();
            }),
            &[Code::CheckpointMismatch],
        ),
        (
            "checkpoint-by-another-key",
            change(&|b| {
                let signer = Log::new("4f2a.log.example.com", 99).signer;
                let text = countersign_proof::note::SignedNote::parse(&proof(b).checkpoint).expect("a note");
                let note = countersign_proof::note::SignedNote::sign(text.text(), &[&signer]).expect("a note");
                proof(b).checkpoint = note.to_string();
            }),
            &[Code::CheckpointUnsigned],
        ),
        ("entry-of-another", change(&|b| b.entries = good.mail.entries.clone()), &[Code::LogEntryMismatch]),
        ("entry-missing", change(&|b| b.entries.clear()), &[Code::LogEntryMissing]),
        ("entry-without-proof", change(&|b| b.entries[0].proof = None), &[Code::InclusionMissing]),
    ]
}

/// The last byte is in a signature's last number, or is the last of a certificate's: the DER stays good.
fn flip_last(der: &[u8]) -> Vec<u8> {
    let mut out = der.to_vec();
    if let Some(last) = out.last_mut() {
        *last ^= 1;
    }
    out
}

/// Moves the stated time by changing its last digit.
fn later(response: &mut [u8]) {
    // GeneralizedTime, 15 bytes, that ends in Z.
    let at = response.windows(2).position(|w| w == [0x18, 15]).expect("a time");
    let digit = &mut response[at + 15];
    *digit = if *digit == b'9' { b'8' } else { *digit + 1 };
}

fn replace(bytes: &mut [u8], from: &[u8], to: &[u8]) {
    let at = bytes.windows(from.len()).position(|w| w == from).expect("it is there");
    bytes[at..at + to.len()].copy_from_slice(to);
}

/// Changes a character in the middle of the base64 of a note's signature.
fn sign_byte(note: &mut String) {
    let at = note.len() - 20;
    let new = if note.as_bytes()[at] == b'A' { "B" } else { "A" };
    note.replace_range(at..=at, new);
}
