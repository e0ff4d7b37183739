//! Witnessing: requests, decisions and answers, each bad case beside its harmless twin, and whole histories against a naive
//! comparison of entries.

use countersign_proof::checkpoint::Checkpoint;
use countersign_proof::cosignature::cosign;
use countersign_proof::merkle::{Hash, ProofError, consistency_proof, root};
use countersign_proof::note::{NoteSigner, VerifierKey};
use countersign_proof::witness::{
    AddCheckpoint, Answer, Asked, MAX_PROOF_LINES, Refusal, SIZE_TYPE, TreeHead, decide, read_answer, request,
    size_body,
};
use proptest::prelude::*;

use crate::support::{ORIGIN, Tree};

fn signer(name: &str, seed: u8) -> NoteSigner {
    NoteSigner::from_seed(name, [seed; 32]).unwrap()
}

fn log() -> NoteSigner {
    signer(ORIGIN, 1)
}

fn entries(count: usize, word: &str) -> Vec<String> {
    (0..count).map(|n| format!("{word} {n}")).collect()
}

fn head(tree: &Tree, size: u64) -> TreeHead {
    TreeHead { size, root: root(tree, size).unwrap() }
}

fn note(tree: &Tree, size: u64) -> String {
    tree.checkpoint(ORIGIN, size).sign(&log()).unwrap()
}

fn asked(tree: &Tree, old: u64, size: u64) -> String {
    request(old, &consistency_proof(tree, old.min(size), size).unwrap(), &note(tree, size))
}

fn judge(latest: Option<TreeHead>, text: &str, keys: &[VerifierKey]) -> Result<TreeHead, Refusal> {
    let parsed = AddCheckpoint::parse(text.as_bytes())?;
    decide(latest, parsed.authenticate(keys)?)
}

#[test]
fn a_witness_answers_as_the_specification_says() {
    let (tree, other) = (Tree::of(&entries(40, "leaf")), Tree::of(&entries(40, "other")));
    let keys = [signer("other.example", 7).verifier_key(), log().verifier_key()];
    let at = |size| Some(head(&tree, size));
    let with_proof = |old, proof: &[Hash], size| request(old, proof, &note(&tree, size));
    let fork = |size| Refusal::Fork { latest: head(&tree, size), other: head(&other, size).root };
    type Case<'a> = (&'a str, Option<TreeHead>, String, Result<u64, Refusal>);
    let cases: Vec<Case<'_>> = vec![
        ("the first one", None, asked(&tree, 0, 13), Ok(13)),
        ("the next one", at(13), asked(&tree, 13, 40), Ok(40)),
        ("the same again", at(13), asked(&tree, 13, 13), Ok(13)),
        ("an empty tree", None, asked(&tree, 0, 0), Ok(0)),
        ("an empty tree again", at(0), asked(&tree, 0, 0), Ok(0)),
        ("from an empty tree", at(0), asked(&tree, 0, 5), Ok(5)),
        ("an empty tree after another", at(13), asked(&tree, 0, 0), Err(Refusal::Conflict { latest: 13 })),
        ("from too small a size", at(13), asked(&tree, 12, 40), Err(Refusal::Conflict { latest: 13 })),
        ("from too large a size", at(13), asked(&tree, 14, 40), Err(Refusal::Conflict { latest: 13 })),
        ("to find out the size", at(13), asked(&tree, 0, 40), Err(Refusal::Conflict { latest: 13 })),
        ("a smaller tree", at(13), asked(&tree, 12, 12), Err(Refusal::Conflict { latest: 13 })),
        ("backwards", at(13), asked(&tree, 13, 12), Err(Refusal::Malformed("the old size exceeds the checkpoint's"))),
        ("another tree of the same size", at(13), asked(&other, 13, 13), Err(fork(13))),
        ("another tree of the same size, from another", at(13), asked(&other, 5, 13), Err(fork(13))),
        ("another tree, larger", at(13), asked(&other, 13, 40), Err(Refusal::Inconsistent(ProofError::Root))),
        ("no proof", at(13), with_proof(13, &[], 40), Err(Refusal::Inconsistent(ProofError::Length))),
        (
            "a proof that is not needed",
            None,
            with_proof(0, &[[1; 32]], 13),
            Err(Refusal::Inconsistent(ProofError::Length)),
        ),
        (
            "a proof between equals",
            at(13),
            with_proof(13, &[[1; 32]], 13),
            Err(Refusal::Inconsistent(ProofError::Length)),
        ),
    ];
    for (what, latest, text, expected) in cases {
        let expected = expected.map(|size| head(&tree, size));
        assert_eq!(judge(latest, &text, &keys), expected, "{what}");
    }
}

#[test]
fn only_known_logs_with_their_own_keys_are_heard() {
    let tree = Tree::of(&entries(5, "leaf"));
    let text = asked(&tree, 0, 5);
    let own = log().verifier_key();
    let cases: Vec<(&str, Vec<VerifierKey>, String, Option<Refusal>)> = vec![
        ("known", vec![own.clone()], text.clone(), None),
        ("one of two keys", vec![signer(ORIGIN, 9).verifier_key(), own.clone()], text.clone(), None),
        ("no keys", vec![], text.clone(), Some(Refusal::UnknownLog)),
        ("a key of another log", vec![signer("x.example", 1).verifier_key()], text.clone(), Some(Refusal::UnknownLog)),
        ("a cosigner's key", vec![log().cosignature_key()], text.clone(), Some(Refusal::UnknownLog)),
        ("another key of that name", vec![signer(ORIGIN, 9).verifier_key()], text.clone(), Some(Refusal::Unsigned)),
        (
            "a changed root",
            vec![own],
            text.replace(&tree_line(&tree, 5), &tree_line(&tree, 4)),
            Some(Refusal::Unsigned),
        ),
    ];
    for (what, keys, text, expected) in cases {
        assert_eq!(judge(None, &text, &keys).err(), expected, "{what}");
    }
}

#[test]
fn evidence_is_what_the_log_signed_and_nothing_else() {
    let tree = Tree::of(&entries(5, "leaf"));
    let keys = [log().verifier_key()];
    let plain = asked(&tree, 0, 5);
    let body = tree.checkpoint(ORIGIN, 5).body();
    let cosigned = format!("{plain}{}", cosign(&body, &signer("witness.example", 3), 1).unwrap());
    for text in [plain, cosigned] {
        let parsed = AddCheckpoint::parse(text.as_bytes()).unwrap();
        let evidence = parsed.authenticate(&keys).unwrap().signed();
        assert_eq!(evidence, note(&tree, 5));
        assert_eq!(Checkpoint::open(&evidence, &keys[0]).unwrap(), tree.checkpoint(ORIGIN, 5));
    }
}

fn tree_line(tree: &Tree, size: u64) -> String {
    tree.checkpoint("x", size).body().lines().nth(2).unwrap().to_owned()
}

#[test]
fn requests_have_one_form() {
    let tree = Tree::of(&entries(8, "leaf"));
    let good = asked(&tree, 3, 8);
    assert_eq!(AddCheckpoint::parse(good.as_bytes()).unwrap().origin(), ORIGIN);
    let hash = tree_line(&tree, 3);
    let many = |n: usize| format!("old 3\n{}\n{}", format!("{hash}\n").repeat(n), note(&tree, 8));
    assert!(AddCheckpoint::parse(many(MAX_PROOF_LINES).as_bytes()).is_ok());
    let huge = Checkpoint::new(ORIGIN, 1 << 63, [1; 32]).sign(&log()).unwrap();
    let large = Checkpoint::new(ORIGIN, (1 << 63) - 1, [1; 32]).sign(&log()).unwrap();
    assert!(AddCheckpoint::parse(request(0, &[], &large).as_bytes()).is_ok());
    for bad in [
        String::new(),
        many(MAX_PROOF_LINES + 1),
        request(0, &[], &huge),
        good.replacen("old 3", "old 03", 1),
        good.replacen("old 3", "old +3", 1),
        good.replacen("old 3", "old  3", 1),
        good.replacen("old 3", "Old 3", 1),
        good.replacen("old 3", "old 3\r", 1),
        good.replacen("old 3", "old 18446744073709551616", 1),
        good.replacen("=\n", "\n", 1),
        good.replacen("\n\n", "\n", 1),
        good.replacen("\n\n", "\n\n\n", 1),
        good.trim_end().to_owned(),
        format!("{}{}", good, "— x AAAAAAA=\n".repeat(64)),
        format!("old 3\n\n{}", "x".repeat(70_000)),
    ] {
        let refused = AddCheckpoint::parse(bad.as_bytes()).unwrap_err();
        assert!(matches!(refused, Refusal::Malformed(_)) && refused.status() == 400, "{bad:?}: {refused}");
    }
}

#[test]
fn each_refusal_has_its_status_and_a_conflict_its_size() {
    let latest = TreeHead::empty();
    for (refusal, status, size) in [
        (Refusal::Malformed("x"), 400, None),
        (Refusal::Unsigned, 403, None),
        (Refusal::UnknownLog, 404, None),
        (Refusal::Conflict { latest: 7 }, 409, Some(7)),
        (Refusal::Fork { latest, other: [1; 32] }, 409, Some(0)),
        (Refusal::Inconsistent(ProofError::Root), 422, None),
    ] {
        assert_eq!((refusal.status(), refusal.latest_size()), (status, size), "{refusal}");
    }
}

#[test]
fn a_log_understands_every_answer() {
    let tree = Tree::of(&entries(8, "leaf"));
    let body = tree.checkpoint(ORIGIN, 8).body();
    let (witness, stranger) = (signer("witness.example", 3), signer("stranger.example", 4));
    let line = |signer: &NoteSigner, body: &str| cosign(body, signer, 1_700_000_000).unwrap();
    let (own, foreign) = (line(&witness, &body), line(&stranger, &body));
    let of_another = line(&witness, &tree.checkpoint(ORIGIN, 7).body());
    let size = Some(SIZE_TYPE);
    let good = |status, kind: Option<&str>, text: &str, old| {
        let asked = Asked { old, size: 8, body: &body };
        read_answer(status, kind, text.as_bytes(), asked, &witness.cosignature_key())
    };
    let time = |answer| match answer {
        Answer::Cosigned(cosignature) => Some((cosignature.time, format!("{}\n", cosignature.signature))),
        _ => None,
    };
    let expected = Some((1_700_000_000, own.clone()));
    assert_eq!(time(good(200, None, &own, 3)), expected, "one line");
    assert_eq!(time(good(200, None, &format!("{foreign}{own}"), 3)), expected, "among others");
    for (what, text) in [
        ("nothing", String::new()),
        ("only another's", foreign.clone()),
        ("of another checkpoint", of_another),
        ("no final newline", own.trim_end().to_owned()),
        ("something else", format!("{own}hello\n")),
        ("too many", foreign.repeat(65)),
    ] {
        assert!(matches!(good(200, None, &text, 3), Answer::Unusable(_)), "{what}");
    }
    let unusable = |answer| matches!(answer, Answer::Unusable(_));
    assert_eq!(good(409, size, &size_body(5), 3), Answer::StartFrom(5));
    assert_eq!(good(409, Some("Text/X.Tlog.Size; charset=utf-8"), "5", 3), Answer::StartFrom(5));
    assert_eq!(good(409, size, &size_body(8), 3), Answer::StartFrom(8), "the root is compared by the next request");
    assert_eq!(good(409, size, &size_body(9), 3), Answer::Ahead(9));
    assert_eq!(good(409, size, &size_body(8), 8), Answer::Forked);
    assert_eq!(good(409, Some("text/plain"), "no", 8), Answer::Forked);
    assert!(unusable(good(409, size, &size_body(3), 3)), "the size that was given");
    assert!(unusable(good(409, Some("text/plain"), &size_body(5), 3)), "not said to be a size");
    assert!(unusable(good(409, size, "05\n", 3)));
    assert_eq!(good(403, None, "", 3), Answer::KeyRefused);
    assert_eq!(good(404, None, "", 3), Answer::UnknownLog);
    assert_eq!(good(422, None, "bad\nproof", 3), Answer::Inconsistent("bad proof".to_owned()));
    assert_eq!((good(429, None, "", 3), good(503, None, "", 3)), (Answer::Busy(429), Answer::Busy(503)));
    assert!(unusable(good(400, None, "", 3)) && unusable(good(302, None, "", 3)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Two histories that share a beginning: a witness that follows requests in any order cosigns exactly those that show an
    /// extension of what it cosigned before, by comparing the entries themselves.
    #[test]
    fn what_was_cosigned_is_one_history(
        shared in 0usize..40,
        sizes in prop::collection::vec((any::<bool>(), 0u64..80), 1..12),
    ) {
        let branch = |word: &str| [entries(shared, "shared"), entries(80 - shared, word)].concat();
        let branches = [branch("left"), branch("right")];
        let trees = branches.each_ref().map(|entries| Tree::of(entries));
        let keys = [log().verifier_key()];
        let mut latest: Option<(usize, u64)> = None;
        for (right, size) in sizes {
            let branch = usize::from(right);
            let old = latest.map_or(0, |(_, size)| size);
            let of = |(branch, size): (usize, u64)| &branches[branch][..size as usize];
            let extends = of((branch, size)).starts_with(latest.map_or(&[], of));
            let proof = consistency_proof(&trees[branch], old.min(size), size).unwrap();
            let text = request(old, &proof, &note(&trees[branch], size));
            let known = latest.map(|(branch, size)| head(&trees[branch], size));
            let answer = judge(known, &text, &keys);
            prop_assert_eq!(answer.is_ok(), extends);
            if extends {
                prop_assert_eq!(answer, Ok(head(&trees[branch], size)));
                latest = Some((branch, size));
            } else {
                let expected = if size == old { 409 } else if size < old { 400 } else { 422 };
                prop_assert_eq!(answer.unwrap_err().status(), expected);
            }
        }
    }

    #[test]
    fn any_change_to_a_request_is_refused(at in any::<prop::sample::Index>(), flip in 1u8..=255) {
        let tree = Tree::of(&entries(8, "leaf"));
        let (keys, latest) = ([log().verifier_key()], Some(head(&tree, 3)));
        let mut bytes = asked(&tree, 3, 8).into_bytes();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        let judged = AddCheckpoint::parse(&bytes).and_then(|parsed| decide(latest, parsed.authenticate(&keys)?));
        prop_assert!(judged.is_err());
    }
}
