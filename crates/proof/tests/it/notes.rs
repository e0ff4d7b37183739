//! Notes, checkpoints, cosignatures and tlog-proofs, against the specifications' examples and `signed_note`.

use countersign_proof::checkpoint::{Checkpoint, CheckpointError};
use countersign_proof::cosignature::{self, CosignatureError, cosign};
use countersign_proof::merkle::{empty_root, inclusion_proof, leaf_hash};
use countersign_proof::note::{KeyKind, MAX_SIGNATURES, NoteError, NoteSigner, SignedNote, VerifierKey};
use countersign_proof::tlog_proof::{TlogProof, TlogProofError};
use proptest::prelude::*;
use signed_note::{Note, StandardVerifier, VerifierList};

use crate::support::{Tree, log_key, witness_key};

/// The example of C2SP tlog-cosignature: a log's signature and a witness's cosignature.
const SOFA: &str = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n\
— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n\
— witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==\n";

/// A published key pair's public half and a note signed with it: the example of golang.org/x/mod/sumdb/note.
const NEUMANN_KEY: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
const NEUMANN_NOTE: &str = "If you think cryptography is the answer to your problem,\n\
then you don't know what your problem is.\n\n\
— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";

#[test]
fn the_specifications_example_reads_back_byte_for_byte() {
    let note = SignedNote::parse(SOFA).unwrap();
    assert_eq!(note.to_string(), SOFA);
    let checkpoint = Checkpoint::parse(note.text()).unwrap();
    assert_eq!((checkpoint.origin.as_str(), checkpoint.size), ("example.com/behind-the-sofa", 20_852_163));
    assert_eq!(checkpoint.body(), note.text());
    let [log, witness] = note.signatures() else { panic!("two signatures") };
    assert_eq!((log.key_id, log.bytes.len()), (0x033d_e0ae, 64));
    // The example's timestamp also stands in the specification's text.
    assert_eq!(u64::from_be_bytes(witness.bytes[..8].try_into().unwrap()), 1_679_315_147);
}

#[test]
fn a_note_signed_elsewhere_verifies_here() {
    let key: VerifierKey = NEUMANN_KEY.parse().unwrap();
    assert_eq!(key.to_string(), NEUMANN_KEY);
    SignedNote::parse(NEUMANN_NOTE).unwrap().verify(&key).unwrap();
    let changed = NEUMANN_NOTE.replace("answer", "Answer");
    assert!(matches!(SignedNote::parse(changed).unwrap().verify(&key), Err(NoteError::BadSignature(_))));
}

#[test]
fn a_note_signed_here_verifies_elsewhere() {
    let signer = log_key("log.example/one");
    let text = Checkpoint::new("log.example/one", 7, [9; 32]).sign(&signer).unwrap();
    let verifier = StandardVerifier::new(&signer.verifier_key().to_string()).unwrap();
    let theirs = Note::from_bytes(text.as_bytes()).unwrap();
    let (verified, unverified) = theirs.verify(&VerifierList::new(vec![Box::new(verifier)])).unwrap();
    assert_eq!((verified.len(), unverified.len()), (1, 0));
    let parsed = tlog_tiles::Checkpoint::from_bytes(theirs.text()).unwrap();
    assert_eq!((parsed.origin(), parsed.size(), parsed.hash().0), ("log.example/one", 7, [9; 32]));
}

#[test]
fn malformed_notes_are_refused() {
    let line = "— a AAAAAAA=\n";
    let good = format!("text\n\n{line}");
    assert!(SignedNote::parse(&good).is_ok());
    for bad in [
        String::new(),
        "text\n".into(),
        "text\n\n".into(),
        format!("text\n{line}"),
        format!("text\n\n{line}\n"),
        good.trim_end().into(),
        "text\n\n- a AAAAAAA=\n".into(),
        "text\n\n—a AAAAAAA=\n".into(),
        "text\n\n— a+b AAAAAAA=\n".into(),
        "text\n\n—  AAAAAAA=\n".into(),
        "text\n\n— a AAAA\n".into(),
        "text\n\n— a AAAAAAA\n".into(),
        "text\n\n— a AAAAAAB=\n".into(),
        format!("te\rxt\n\n{line}"),
        format!("te\0xt\n\n{line}"),
        format!("text\n\n{}", line.repeat(MAX_SIGNATURES + 1)),
        format!("{}\n\n{line}", "x".repeat(300_000)),
    ] {
        assert!(SignedNote::parse(&bad).is_err(), "{:?}", &bad[..bad.len().min(60)]);
    }
    assert!(SignedNote::parse(b"te\xffxt\n\n").is_err());
    assert!(SignedNote::parse(format!("a\n\nb\n\n{line}")).is_ok_and(|note| note.text() == "a\n\nb\n"));
}

#[test]
fn keys_are_refused_unless_everything_fits() {
    let good = log_key("log.example").verifier_key().to_string();
    assert!(good.parse::<VerifierKey>().is_ok());
    let (name, rest) = good.split_once('+').unwrap();
    let (id, key) = rest.split_once('+').unwrap();
    for bad in [
        format!("other+{id}+{key}"),
        format!("{name}+{}+{key}", id.to_uppercase().replace(|c: char| c.is_ascii_digit(), "0")),
        format!("{name}+{id}+{}", &key[..40]),
        format!("{name}+{id}"),
        format!("+{id}+{key}"),
        format!("{name} +{id}+{key}"),
        String::new(),
    ] {
        assert!(bad.parse::<VerifierKey>().is_err(), "{bad}");
    }
    // The all-zero key and the neutral element are of small order.
    let neutral = std::array::from_fn(|i| u8::from(i == 0));
    for weak in [[0; 32], neutral] {
        assert!(VerifierKey::new("weak", KeyKind::Ed25519, &weak).is_err());
    }
    assert!(NoteSigner::from_seed("a b", [1; 32]).is_err());
}

#[test]
fn a_signer_never_shows_its_secret() {
    let shown = format!("{:?}", NoteSigner::from_seed("log.example", [0xAB; 32]).unwrap());
    assert!(shown.contains("log.example") && !shown.contains("171") && !shown.to_lowercase().contains("abab"));
}

#[test]
fn a_checkpoint_opens_only_with_its_own_logs_key() {
    let (signer, other) = (log_key("log.example/one"), log_key("log.example/two"));
    let checkpoint = Checkpoint::new("log.example/one", 3, [1; 32]);
    let note = checkpoint.sign(&signer).unwrap();
    assert_eq!(Checkpoint::open(&note, &signer.verifier_key()), Ok(checkpoint.clone()));
    assert!(matches!(
        Checkpoint::open(&note, &other.verifier_key()),
        Err(CheckpointError::Note(NoteError::NoSignature(_)))
    ));
    assert!(matches!(checkpoint.sign(&other), Err(CheckpointError::Origin { .. })));
    // Even a good signature by the other log's key does not make the checkpoint the other log's.
    let foreign = SignedNote::sign(&checkpoint.body(), &[&other]).unwrap().to_string();
    assert!(matches!(Checkpoint::open(&foreign, &other.verifier_key()), Err(CheckpointError::Origin { .. })));
    let witness = witness_key("w.example");
    assert!(Checkpoint::open(&note, &witness.cosignature_key()).is_err());
}

#[test]
fn malformed_checkpoints_are_refused() {
    let root = "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=";
    assert!(Checkpoint::parse(&format!("o\n1\n{root}\n")).is_ok());
    assert_eq!(Checkpoint::parse(&format!("o\n1\n{root}\next 1\next 2\n")).unwrap().extensions.len(), 2);
    for bad in [
        "".into(),
        "o\n1\n".into(),
        format!("o\n1\n{root}"),
        format!("\n1\n{root}\n"),
        format!("o\n01\n{root}\n"),
        format!("o\n+1\n{root}\n"),
        format!("o\n\n{root}\n"),
        format!("o\n-1\n{root}\n"),
        format!("o\n18446744073709551616\n{root}\n"),
        format!("o\n1\n{}\n", &root[4..]),
        format!("o\n1\n{root}\n\n"),
        format!("o\n1\n{root}\n\nx\n"),
        format!("o\n0\n{root}\n"),
        format!("o\n1 \n{root}\n"),
    ] {
        assert!(Checkpoint::parse(&bad).is_err(), "{bad:?}");
    }
    assert!(Checkpoint::parse(&Checkpoint::new("o", 0, empty_root()).body()).is_ok());
    let mut split = Checkpoint::new("log.example", 1, [0; 32]);
    split.extensions.push("a\n\n— b".into());
    assert!(split.sign(&log_key("log.example")).is_err(), "a field cannot smuggle in lines");
}

#[test]
fn a_cosignature_binds_body_time_and_key() {
    let witness = witness_key("witness.example/w1");
    let key = witness.cosignature_key();
    let body = Checkpoint::new("log.example", 5, [2; 32]).body();
    let line = cosign(&body, &witness, 1_679_315_147).unwrap();
    let mut signature = cosignature::parse_line(&line).unwrap();
    assert_eq!(cosignature::verify(&body, &signature, &key), Ok(1_679_315_147));
    let other = Checkpoint::new("log.example", 6, [2; 32]).body();
    assert!(matches!(cosignature::verify(&other, &signature, &key), Err(CosignatureError::BadSignature(_))));
    assert!(cosignature::verify(&body, &signature, &witness_key("w2").cosignature_key()).is_err());
    assert!(cosignature::verify(&body, &signature, &witness.verifier_key()).is_err(), "a note key is no witness key");
    signature.bytes[7] ^= 1;
    assert!(cosignature::verify(&body, &signature, &key).is_err(), "the time is signed");
    signature.bytes.truncate(7);
    assert!(cosignature::verify(&body, &signature, &key).is_err());
    assert!(cosign(&body, &witness, u64::MAX).is_err());
    assert!(cosign("not a checkpoint\n", &witness, 1).is_err());
}

#[test]
fn a_note_cannot_pass_for_a_cosignatures_message() {
    let text = format!("cosignature/v1\ntime 1\n{}", Checkpoint::new("log.example", 5, [2; 32]).body());
    assert_eq!(SignedNote::sign(&text, &[&log_key("log.example")]), Err(NoteError::NotText));
}

#[test]
fn a_tlog_proof_has_the_specified_layout_and_verifies() {
    let entries: Vec<Vec<u8>> = (0..5u8).map(|i| vec![i]).collect();
    let tree = Tree::of(&entries);
    let log = log_key("log.example");
    let note = tree.checkpoint("log.example", 5).sign(&log).unwrap();
    let hashes = inclusion_proof(&tree, 2, 5).unwrap();
    let proof = TlogProof { extra: None, index: 2, hashes, checkpoint: SignedNote::parse(&note).unwrap() };
    let text = proof.to_string();
    assert!(text.starts_with("c2sp.org/tlog-proof@v1\nindex 2\n"), "{text}");
    assert!(text.ends_with(&format!("\n\n{note}")));
    let parsed = TlogProof::parse(text.as_bytes()).unwrap();
    assert_eq!(parsed, proof);
    assert_eq!(parsed.verify(&[2], &log.verifier_key()).unwrap().size, 5);
    assert!(matches!(parsed.verify(&[3], &log.verifier_key()), Err(TlogProofError::Proof(_))));

    let with_extra = TlogProof { extra: Some(vec![2]), ..proof };
    assert_eq!(TlogProof::parse(with_extra.to_string().as_bytes()), Ok(with_extra));
    for bad in [
        text.replace("@v1", "@v2"),
        text.replace("index 2", "index 02"),
        text.replace("index 2", "extra !\nindex 2"),
        text.replace("index 2\n", ""),
        text.replacen("\n\n", "\n", 1),
        text.replace("index 2\n", "index 2\nAAAA\n"),
    ] {
        assert!(TlogProof::parse(bad.as_bytes()).is_err(), "{bad}");
    }
    assert_eq!(leaf_hash(&[2]), tree.leaf(2));
}

proptest! {
    #[test]
    fn what_parses_is_written_the_same(text in "(\\PC|\n){0,40}\n", names in prop::collection::vec("[a-z./]{1,9}", 1..4)) {
        let signers: Vec<NoteSigner> = names.iter().map(|name| log_key(name)).collect();
        let note = SignedNote::sign(&text, &signers.iter().collect::<Vec<_>>()).unwrap();
        let parsed = SignedNote::parse(note.to_string()).unwrap();
        prop_assert_eq!(&parsed, &note);
        for signer in &signers {
            prop_assert_eq!(parsed.verify(&signer.verifier_key()), Ok(()));
        }
    }

    #[test]
    fn what_signed_note_accepts_and_refuses_so_do_we(note in "(a|\n|\n\n|— x AAAAAAA=|— |\u{7f}|\t| ){0,9}\n") {
        let (ours, theirs) = (SignedNote::parse(&note), Note::from_bytes(note.as_bytes()));
        prop_assert_eq!(ours.is_ok(), theirs.is_ok(), "{:?} {:?}", ours, theirs);
    }
}
