//! Receipts: the worked example, well-formed forgeries that must fail for the right reason, and flipped bytes.

use countersign_proof::checkpoint::Checkpoint;
use countersign_proof::cosignature::cosign_signature;
use countersign_proof::note::SignedNote;
use countersign_proof::receipt::{Disclosure, Label, Receipt, verify};
use countersign_proof::report::{CheckName, Code, FileKind, Status};
use countersign_proof::tlog_proof::TlogProof;
use countersign_proof::verify::verify_tlog_proof;
use countersign_proof::{Report, TrustAnchors, Verdict, verify_file};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support::*;

fn check(receipt: &Receipt, anchors: &TrustAnchors) -> Report {
    verify(&receipt.to_bytes().unwrap(), anchors)
}

fn assert_fails(receipt: &Receipt, code: Code) {
    let report = check(receipt, &anchors());
    assert_eq!(report.verdict, Verdict::Invalid, "{code}");
    assert_eq!(report.failures().collect::<Vec<_>>(), [code], "\n{report}");
}

#[test]
fn the_worked_example_is_the_checked_in_file() {
    let bytes = example_receipt().to_bytes().unwrap();
    let file = path("tests/data/receipt.json");
    if std::env::var_os("COUNTERSIGN_WRITE_FIXTURES").is_some() {
        std::fs::write(&file, &bytes).unwrap();
    }
    // Compared as values: the order of members depends on how serde_json was built.
    assert_eq!(data("receipt.json"), serde_json::from_slice::<Value>(&bytes).unwrap());
    assert!(verify(&std::fs::read(file).unwrap(), &anchors()).is_valid());
}

#[test]
fn the_worked_example_is_valid_and_says_who_vouches() {
    let report = check(&example_receipt(), &anchors().with_quorum(2));
    assert_eq!(report.verdict, Verdict::Valid, "{report}");
    assert!(report.checks.iter().all(|check| check.status == Status::Passed), "{report}");
    assert_eq!(report.independent_parties, 2);
    assert_eq!(report.cosigners.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), WITNESSES);
    assert_eq!(report.subject.as_deref(), example_events()[3]["id"].as_str());
    let text = report.to_string();
    for expected in
        ["VALID", "collude with each of: witness-one.example, witness-two.example", "Times are the node's claim"]
    {
        assert!(text.contains(expected), "{text}");
    }
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!((&json["verdict"], &json["checks"][3]["name"]), (&json!("valid"), &json!("inclusion")));
    assert_eq!(serde_json::from_value::<Report>(json).unwrap(), report);
}

#[test]
fn without_witnesses_the_operator_alone_could_have_forged_it() {
    let alone = TrustAnchors::new().with(log_key(ORIGIN).verifier_key());
    let report = check(&example_receipt(), &alone);
    assert_eq!((report.verdict, report.independent_parties), (Verdict::Valid, 0));
    assert!(report.to_string().contains("alone could have forged"), "{report}");
    let demanding = check(&example_receipt(), &alone.with_quorum(1));
    assert_eq!(demanding.failures().collect::<Vec<_>>(), [Code::QuorumMissed]);
}

#[test]
fn a_key_in_the_file_never_counts() {
    let receipt = example_receipt();
    assert_eq!(receipt.keys, [log_key(ORIGIN).verifier_key().to_string()]);
    let report = check(&receipt, &TrustAnchors::new());
    assert_eq!(report.verdict, Verdict::Unanchored, "{report}");
    assert_eq!(report.check(CheckName::CheckpointSignature).unwrap().code, Some(Code::LogUnanchored));
    assert!(!report.to_string().contains("alone could have forged"));
}

#[test]
fn a_witness_counts_once_and_the_log_is_not_its_own() {
    let mut receipt = receipt_in(ORIGIN, &example_events(), &["witness-one.example"]).build().unwrap();
    let mut note = SignedNote::parse(&receipt.checkpoints[0]).unwrap();
    // The log cosigns under its own key, and the witness's key appears under a second name.
    let own = log_key(ORIGIN);
    note.add(cosign_signature(note.text(), &own, 5).unwrap()).unwrap();
    let seed = countersign_proof::digest::Digest::of(b"example key witness-one.example").0;
    let alias = countersign_proof::note::NoteSigner::from_seed("alias.example", seed).unwrap();
    note.add(cosign_signature(note.text(), &alias, 6).unwrap()).unwrap();
    receipt.checkpoints[0] = note.to_string();
    let anchors = anchors().with(own.cosignature_key()).with(alias.cosignature_key()).with_quorum(2);
    let report = check(&receipt, &anchors);
    assert_eq!(report.independent_parties, 1, "{report}");
    assert_eq!(report.failures().collect::<Vec<_>>(), [Code::QuorumMissed]);
}

#[test]
fn a_development_identity_is_marked() {
    let mut events = example_events();
    assert!(!check(&receipt_of(&events), &anchors()).to_string().contains("development"));
    events[1]["principal"]["development"] = true.into();
    chain(&mut events);
    let report = check(&receipt_of(&events), &anchors());
    assert!(report.is_valid() && report.to_string().contains("development identity"), "{report}");
    assert!(report.events[1].development);
}

#[test]
fn unknown_members_are_kept_and_change_nothing() {
    let mut file = serde_json::to_value(example_receipt()).unwrap();
    file["later"] = json!({"a": 1});
    file["events"][0]["later"] = json!([2]);
    file["disclosures"][0]["later"] = json!(3);
    let bytes = serde_json::to_vec(&file).unwrap();
    assert!(verify(&bytes, &anchors()).is_valid());
    assert_eq!(serde_json::to_value(Receipt::parse(&bytes).unwrap()).unwrap(), file);
}

#[test]
fn changed_parts_fail_by_name() {
    type Change = fn(&mut Receipt);
    let cases: &[(Code, Change)] = &[
        (Code::CommitmentMismatch, |r| r.events[3].event["outcome"]["status"] = "tool_error".into()),
        (Code::CommitmentMismatch, |r| r.events[1].event["principal"]["id"] = "eve@example.com".into()),
        (Code::CommitmentMismatch, |r| r.events[0].event["new"] = 1.into()),
        (Code::CommitmentMismatch, |r| r.events[2].salt[0] ^= 1),
        (Code::InclusionMismatch, |r| r.events[0].index = 1),
        (Code::InclusionMismatch, |r| r.events[0].proof.hashes[1][5] ^= 1),
        (Code::InclusionMismatch, |r| r.events[3].proof.hashes.truncate(1)),
        (Code::DisclosureMismatch, |r| r.disclosures[0].value["budget_micros"] = 1.into()),
        (Code::DisclosureMismatch, |r| r.disclosures[0].salt[31] ^= 1),
        (Code::DisclosureUnknown, |r| r.disclosures[0].label = Label::Output),
        (Code::DisclosureUnknown, |r| r.disclosures[1].event = "nobody".into()),
        (Code::SubjectMissing, |r| r.subject = "nobody".into()),
        (Code::EventDuplicate, |r| r.events.push(r.events[0].clone())),
        (Code::ParentMissing, |r| drop(r.events.remove(1))),
        (Code::CheckpointUnused, |r| r.checkpoints.push(r.checkpoints[0].clone())),
        (Code::CheckpointMalformed, |r| r.checkpoints[0].push('x')),
        (Code::Format, |r| r.format = "countersign-receipt/v2".into()),
        (Code::Shape, |r| r.events.clear()),
        (Code::Shape, |r| r.events[0].proof.hashes = vec![[0; 32]; 66]),
        (Code::EventShape, |r| r.events[0].event = json!([])),
        (Code::EventShape, |r| r.events[0].event["v"] = 2.into()),
        (Code::EventShape, |r| r.events[0].event["principal"] = json!([true])),
        (Code::EventShape, |r| r.events[0].event["seq"] = "1".into()),
    ];
    for (code, change) in cases {
        let mut receipt = example_receipt();
        change(&mut receipt);
        assert_fails(&receipt, *code);
    }
}

/// Every forgery here is committed to, logged and signed anew: only the named rule stands against it.
#[test]
fn events_that_contradict_one_another_fail_though_all_signatures_hold() {
    type Change = fn(&mut Vec<Value>);
    let cases: &[(Code, Change)] = &[
        (Code::ParentMissing, |e| e[1]["parent"] = "01937b6e-0000-7000-8000-000000000099".into()),
        (Code::ParentOrder, |e| e[0]["parent"] = e[3]["id"].clone()),
        (Code::ParentOrder, |e| e[0]["parent"] = e[0]["id"].clone()),
        (Code::WorkspaceMismatch, |e| e[1]["workspace"] = "other".into()),
        // An approval of another call, placed beside this one.
        (Code::CallMismatch, |e| {
            e[1]["call"] = "01937b6e-0000-7000-8000-0000000000ff".into();
            e[2]["parent"] = e[0]["id"].clone();
        }),
    ];
    for (code, change) in cases {
        let mut events = example_events();
        change(&mut events);
        chain(&mut events);
        assert_fails(&receipt_of(&events), *code);
    }
    // Here the chain itself is wrong, so it is not mended.
    let cases: &[(Code, Change)] = &[
        (Code::SequenceBroken, |e| e[3]["prev"] = e[2]["prev"].clone()),
        (Code::SequenceBroken, |e| e[3]["prev"] = Value::Null),
        (Code::SequenceOrder, |e| e.swap(0, 1)),
        (Code::SequenceOrder, |e| e[3]["seq"] = 3.into()),
    ];
    for (code, change) in cases {
        let mut events = example_events();
        let subject = events[3]["id"].clone();
        change(&mut events);
        let mut receipt = receipt_of(&events);
        receipt.subject = subject.as_str().unwrap().into();
        let report = check(&receipt, &anchors());
        assert_eq!(report.check(CheckName::Sequence).unwrap().code, Some(*code), "{report}");
        assert_eq!(report.verdict, Verdict::Invalid);
    }
}

#[test]
fn an_ancestor_may_be_of_another_call() {
    let mut events = example_events();
    events[3]["call"] = "01937b6e-0000-7000-8000-0000000000ff".into();
    events[3]["type"] = "call.replayed".into();
    chain(&mut events);
    let report = check(&receipt_of(&events), &anchors());
    assert!(report.is_valid(), "{report}");
}

#[test]
fn erasing_a_parent_leaves_the_receipt_valid_and_says_so() {
    let mut receipt = example_receipt();
    let gone = receipt.events.remove(1).event["id"].as_str().unwrap().to_owned();
    assert_fails(&receipt, Code::ParentMissing);
    receipt.erased.push(gone.clone());
    let report = check(&receipt, &anchors());
    assert!(report.is_valid() && report.not_checked.iter().any(|line| line.contains(&gone)), "{report}");
}

#[test]
fn signatures_fail_by_name() {
    let resign = |change: &dyn Fn(&mut SignedNote)| {
        let mut receipt = example_receipt();
        let mut note = SignedNote::parse(&receipt.checkpoints[0]).unwrap();
        change(&mut note);
        receipt.checkpoints[0] = note.to_string();
        receipt
    };
    let flip = |which: usize| {
        resign(&move |note| {
            let mut signature = note.signatures()[which].clone();
            signature.bytes[20] ^= 1;
            note.add(signature).unwrap();
        })
    };
    assert_fails(&flip(0), Code::SignatureWrong);
    assert_fails(&flip(1), Code::CosignatureWrong);

    // Another key with the log's name signs the same tree: the log's key has not.
    let impostor = countersign_proof::note::NoteSigner::from_seed(ORIGIN, [3; 32]).unwrap();
    let forged = resign(&|note| *note = SignedNote::sign(note.text(), &[&impostor]).unwrap());
    assert_fails(&forged, Code::SignatureMissing);

    // A checkpoint of another size does not serve the proofs.
    let mut other = example_receipt();
    let note = SignedNote::parse(&other.checkpoints[0]).unwrap();
    let mut checkpoint = Checkpoint::parse(note.text()).unwrap();
    checkpoint.size += 1;
    other.checkpoints[0] = checkpoint.sign(&log_key(ORIGIN)).unwrap();
    assert_fails(&other, Code::CheckpointUnused);
}

#[test]
fn a_receipt_may_span_two_shards_and_needs_both_keys() {
    let events = example_events();
    let old = receipt_in("old.log.example", &events[..2], &[]).build().unwrap();
    let new = receipt_in(ORIGIN, &events[2..], &[]).build().unwrap();
    let mut receipt = new.clone();
    receipt.events.splice(0..0, old.events);
    receipt.checkpoints.extend(old.checkpoints);
    let one = TrustAnchors::new().with(log_key(ORIGIN).verifier_key());
    assert_eq!(check(&receipt, &one).verdict, Verdict::Unanchored);
    let both = one.with(log_key("old.log.example").verifier_key());
    let report = check(&receipt, &both);
    assert!(report.is_valid(), "{report}");
    receipt.checkpoints.remove(1);
    assert_eq!(check(&receipt, &both).failures().collect::<Vec<_>>(), [Code::CheckpointMissing]);
}

#[test]
fn files_are_told_apart() {
    let receipt = example_receipt();
    let anchors = anchors().with_quorum(2);
    let note = receipt.checkpoints[0].clone();
    let entry = countersign_proof::commitment::event_entry(&receipt.events[3].commitment);
    let proof = |extra| TlogProof {
        extra,
        index: receipt.events[3].index,
        hashes: receipt.events[3].proof.hashes.clone(),
        checkpoint: SignedNote::parse(&note).unwrap(),
    };
    let kind = |bytes: &[u8]| {
        let report = verify_file(bytes, &anchors);
        (report.kind, report.verdict, report.failures().next())
    };
    assert_eq!(kind(&receipt.to_bytes().unwrap()), (FileKind::Receipt, Verdict::Valid, None));
    assert_eq!(kind(note.as_bytes()), (FileKind::Checkpoint, Verdict::Valid, None));
    let carrying = proof(Some(entry.to_vec())).to_string();
    assert_eq!(kind(carrying.as_bytes()), (FileKind::TlogProof, Verdict::Valid, None));
    let bare = proof(None).to_string();
    assert_eq!(kind(bare.as_bytes()), (FileKind::TlogProof, Verdict::Invalid, Some(Code::EntryAbsent)));
    assert!(verify_tlog_proof(bare.as_bytes(), Some(&entry), &anchors).is_valid());
    let wrong = proof(Some(b"another entry".to_vec())).to_string();
    assert_eq!(kind(wrong.as_bytes()), (FileKind::TlogProof, Verdict::Invalid, Some(Code::InclusionMismatch)));
    assert_eq!(kind(b"hello"), (FileKind::Unknown, Verdict::Invalid, Some(Code::UnknownFile)));
    assert_eq!(kind(b"{\"a\":1,\"a\":1}"), (FileKind::Receipt, Verdict::Invalid, Some(Code::Json)));
    assert_eq!(kind(&[b"{".as_slice(), &vec![b' '; 5 << 20]].concat()).2, Some(Code::TooLarge));
    assert_eq!(verify_file(note.as_bytes(), &TrustAnchors::new()).verdict, Verdict::Unanchored);
}

/// Every number of the worked example in the document is that of the checked-in file.
#[test]
fn the_document_quotes_the_worked_example() {
    let document = std::fs::read_to_string(path("../../docs/receipt.md")).unwrap();
    let receipt = example_receipt();
    let note = SignedNote::parse(&receipt.checkpoints[0]).unwrap();
    let mut quotes = vec![
        note.text().trim_end().to_owned(),
        log_key(ORIGIN).verifier_key().to_string(),
        String::from_utf8(countersign_proof::canonical::to_canonical(&receipt.events[1].event).unwrap()).unwrap(),
        receipt.disclosures[0].digest().unwrap().to_string(),
        String::from_utf8(countersign_proof::canonical::to_canonical(&receipt.disclosures[0].value).unwrap()).unwrap(),
    ];
    quotes.extend(WITNESSES.iter().map(|name| witness_key(name).cosignature_key().to_string()));
    quotes.extend(receipt.events.iter().map(|entry| entry.commitment.to_string()));
    quotes.extend(note.signatures().iter().map(ToString::to_string));
    let entry = &receipt.events[1];
    let leaf = countersign_proof::merkle::leaf_hash(&countersign_proof::commitment::event_entry(&entry.commitment));
    quotes.push(countersign_proof::digest::Digest(leaf).hex());
    quotes.push(countersign_proof::digest::Digest(entry.salt).to_base64());
    quotes.extend(entry.proof.hashes.iter().map(|hash| countersign_proof::digest::Digest(*hash).to_base64()));
    for quote in quotes {
        assert!(document.contains(&quote), "docs/receipt.md does not quote:\n{quote}");
    }
}

#[test]
fn failure_names_are_unique_and_stable() {
    let mut names: Vec<_> = Code::ALL.iter().map(|code| code.name()).collect();
    assert!(Code::ALL.iter().all(|code| serde_json::to_value(code).unwrap() == code.name()));
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), Code::ALL.len());
    let documented = std::fs::read_to_string(path("../../docs/receipt.md")).unwrap();
    for name in names {
        assert!(documented.contains(&format!("`{name}`")), "{name} is not in docs/receipt.md");
    }
}

#[test]
fn control_characters_from_a_file_do_not_reach_the_terminal() {
    let mut receipt = example_receipt();
    receipt.subject = "\u{1b}[2J".into();
    let text = check(&receipt, &anchors()).to_string();
    assert!(!text.contains('\u{1b}'), "{text:?}");
}

/// What a valid report claims: which events, in which logs, vouched for by whom. A changed file may claim less (a
/// signature line of a now unknown witness, a member of a now unknown name), never anything else.
fn assert_claims_nothing_else(report: &Report, original: &Report) {
    assert_eq!(report.subject, original.subject);
    assert_eq!(report.events, original.events);
    assert!(report.cosigners.iter().all(|c| original.cosigners.contains(c)));
}

/// Every byte, one flipped bit each; on a small receipt, since each try verifies signatures.
#[test]
fn no_flipped_byte_changes_the_meaning() {
    let mut events = example_events();
    events.drain(1..3);
    (events[1]["seq"], events[1]["parent"]) = (2.into(), events[0]["id"].clone());
    chain(&mut events);
    let receipt = receipt_in(ORIGIN, &events, &WITNESSES[..1]).build().unwrap();
    let file = serde_json::to_vec(&receipt).unwrap();
    let original = verify(&file, &anchors());
    assert!(original.is_valid());
    let mut refused = 0;
    for at in 0..file.len() {
        let mut flipped = file.clone();
        flipped[at] ^= 1 << (at % 8);
        let report = verify(&flipped, &anchors());
        if report.is_valid() {
            assert_claims_nothing_else(&report, &original);
        } else {
            refused += 1;
        }
    }
    // What survives is hints, names of optional members, and signature lines of witnesses that are then unknown.
    assert!(refused * 10 > file.len() * 8, "{refused} of {}", file.len());
}

#[test]
fn a_flipped_byte_in_an_event_is_named() {
    let receipt = example_receipt();
    let file = String::from_utf8(receipt.to_bytes().unwrap()).unwrap();
    let at = file.find("createCampaign").unwrap();
    let mut bytes = file.into_bytes();
    bytes[at] ^= 1;
    let report = verify(&bytes, &anchors());
    assert_eq!(report.failures().collect::<Vec<_>>(), [Code::CommitmentMismatch], "{report}");
}

proptest! {
    #[test]
    fn arbitrary_damage_never_panics_nor_lies(edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..3), 1..6)) {
        let original = verify(&example_receipt().to_bytes().unwrap(), &anchors());
        let mut bytes = example_receipt().to_bytes().unwrap();
        for (index, byte, how) in edits {
            let at = index.index(bytes.len());
            match how {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => drop(bytes.remove(at)),
            }
        }
        let report = verify_file(&bytes, &anchors());
        if report.is_valid() {
            assert_claims_nothing_else(&report, &original);
        }
    }

    #[test]
    fn disclosures_open_only_what_was_digested(value in json_value(), other in json_value()) {
        prop_assume!(value != other);
        let mut events = example_events();
        let digest = countersign_proof::receipt::value_digest(Label::Input, &[5; 32], &value).unwrap();
        events[3]["input_digest"] = digest.to_string().into();
        chain(&mut events);
        let mut receipt = receipt_of(&events);
        let id = receipt.subject.clone();
        receipt.disclosures = vec![Disclosure::new(&id, Label::Input, [5; 32], value.clone())];
        prop_assert!(check(&receipt, &anchors()).is_valid());
        let same = countersign_proof::canonical::to_canonical(&value) == countersign_proof::canonical::to_canonical(&other);
        receipt.disclosures[0].value = other;
        prop_assert_eq!(check(&receipt, &anchors()).is_valid(), same);
    }
}
