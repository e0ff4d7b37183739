//! Stamps of somebody else: what is asked, which answers are used, and what a report says about whose word stands for the time.

use countersign_trust::authority::Authority;
use countersign_trust::pem::{CERTIFICATE, encode};
use countersign_trust::report::Status;
use countersign_trust::root::AuthorityInstance;
use countersign_trust::stamping::{AnswerError, ChainError, Question, outside_authority};
use countersign_trust::timestamp::{TimestampError, respond};
use countersign_trust::verify::{Artifact, Expected, Pattern, Policy, verify};

use crate::cases::{ARTIFACT, IDENTITY, good};
use crate::signing::NOW_MS;
use crate::world::{ELSEWHERE, ISSUER, OUTSIDE, World};

const NOW: u64 = NOW_MS / 1000;

fn authority(seed: u8) -> Authority {
    Authority::generate(ELSEWHERE, &[seed; 32], NOW - 3600).unwrap()
}

/// Root first: operators publish in any order.
fn chain(authority: &Authority) -> String {
    authority.public().timestamp_chain.iter().rev().map(|der| encode(der, CERTIFICATE)).collect()
}

fn instance(authority: &Authority) -> AuthorityInstance {
    outside_authority(chain(authority).as_bytes(), OUTSIDE, ELSEWHERE).unwrap()
}

#[test]
fn an_answer_counts_for_its_own_question_and_time_only() {
    let (tsa, other) = (authority(1), authority(2));
    let question = Question::over(b"signature", [0xff; 16]);
    let check = |answer: &[u8], by: &Authority| question.check(answer, &instance(by), (NOW, NOW + 1));
    let answer = respond(&tsa, &question.to_der(), [1; 16], NOW_MS);
    let time = check(&answer, &tsa).unwrap();
    assert_eq!((time.seconds, time.source.as_str(), time.operator.as_str()), (NOW, OUTSIDE, ELSEWHERE));
    assert!(matches!(check(&answer, &other), Err(AnswerError::Untrusted { .. })));

    let again = Question::over(b"signature", [0xfe; 16]);
    assert_eq!(again.check(&answer, &instance(&tsa), (NOW, NOW)), Err(AnswerError::Nonce));
    let bytes = Question::over(b"another", [0xff; 16]);
    let imprint = bytes.check(&answer, &instance(&tsa), (NOW, NOW));
    assert_eq!(imprint, Err(AnswerError::Token(TimestampError::Imprint)));
    for (offset, good) in [(-31_i64, false), (-30, true), (31, true), (32, false), (-3000, false)] {
        let at = NOW_MS.checked_add_signed(offset * 1000).unwrap();
        let answer = respond(&tsa, &question.to_der(), [1; 16], at);
        let checked = check(&answer, &tsa);
        assert_eq!(checked.is_ok(), good, "{offset}: {checked:?}");
        assert!(good || matches!(checked, Err(AnswerError::Clock { .. })), "{offset}: {checked:?}");
    }
    let refusal = respond(&tsa, b"no request", [1; 16], NOW_MS);
    assert_eq!(check(&refusal, &tsa), Err(AnswerError::Token(TimestampError::Refused(2))));
    for at in 0..answer.len() {
        let mut changed = answer.clone();
        changed[at] ^= 1 << (at % 8);
        assert!(check(&changed, &tsa).is_ok_and(|t| t == time) || check(&changed, &tsa).is_err(), "byte {at}");
        assert!(check(&answer[..at], &tsa).is_err());
    }
}

#[test]
fn certificates_are_one_chain_for_timestamps() {
    let tsa = authority(1);
    let [leaf, root] = &instance(&tsa).chain[..] else { panic!("two certificates") };
    assert_eq!([leaf.der(), root.der()], tsa.public().timestamp_chain.each_ref().map(Vec::as_slice));
    let read = |text: String| outside_authority(text.as_bytes(), OUTSIDE, ELSEWHERE).map(|_| ());
    assert_eq!(read(chain(&tsa) + &chain(&authority(2))), Err(ChainError::Order));
    let signing = encode(&tsa.public().root, CERTIFICATE);
    assert!(matches!(read(signing), Err(ChainError::Unusable { .. })));
    assert!(matches!(read(encode(b"junk", CERTIFICATE)), Err(ChainError::Certificate(_))));
    assert!(matches!(read(String::new()), Err(ChainError::Pem(_))));
}

#[test]
fn a_report_says_what_the_operator_could_have_made_up() {
    let mut world = World::new(NOW_MS);
    let good = good(&mut world).certificate;
    let question = Question::over(good.content.signature(), [3; 16]);
    let mut stamped = good.clone();
    stamped.timestamps.push(respond(&world.outside, &question.to_der(), [1; 16], NOW_MS));
    let exact = |text: &str| Pattern::Exact(text.to_owned());
    let expected = Expected::Certificate { identity: exact(IDENTITY), issuer: exact(ISSUER) };
    let policy = Policy { expected, ..Policy::default() };
    let check = |world: &World, bundle: &[u8]| verify(bundle, &Artifact::Bytes(ARTIFACT), &world.root, &policy);
    let about = |what: &[String], part: &str| what.iter().any(|text| text.starts_with(part));

    let alone = check(&world, &good.to_json());
    let both = check(&world, &stamped.to_json());
    assert!(alone.is_valid() && both.is_valid(), "{both:#?}");
    assert!(about(&alone.operator_could_forge, "the time") && about(&alone.operator_could_forge, "the log"));
    assert!(!about(&both.operator_could_forge, "the time") && about(&both.operator_could_forge, "the signature"));
    assert_eq!(
        both.times.iter().map(|time| time.operator.as_str()).collect::<Vec<_>>(),
        ["Example Hospital", ELSEWHERE]
    );

    // Whoever does not trust the other authority is no worse off.
    world.root.timestamp_authorities.pop();
    let unknown = check(&world, &stamped.to_json());
    assert!(unknown.is_valid() && unknown.checks.iter().any(|check| check.status == Status::Skipped), "{unknown:#?}");
    assert!(about(&unknown.operator_could_forge, "the time"));
}
