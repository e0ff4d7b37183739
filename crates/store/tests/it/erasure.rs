//! A body and its salt go; everything else stays provable.

use countersign_domain::EventType;
use countersign_ledger::state::{Conflict, StateOp};
use countersign_ledger::{Append, AppendError, Entry, ReceiptError};

use crate::support::{Node, draft, entry, one, verifies, with_ops};

#[test]
fn an_erased_event_leaves_every_other_receipt_valid_and_its_words_are_gone_from_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::at(dir.path().join("data/ledger.db"), dir.path().join("head"));
    let running = node.open();
    let vkey = running.opened.vkey.clone();
    let secret = "Erika Mustermann, 7 March";
    let event = draft("w", EventType::CallCompleted).with("patient", secret).prepare().unwrap();
    let erased = running.append(one(Entry::new(event))).unwrap().events.remove(0);
    let others = running.append_n("w", 20);
    let before = running.receipt(erased.id);
    let note = Entry::new(draft("w", EventType::EventErased).with("erased", erased.id.to_string()).prepare().unwrap());
    let erase = || vec![StateOp::Erase { event: erased.id }];
    running.append(with_ops(note, erase())).unwrap();
    let again = running.append(Append { events: vec![entry("w")], ops: erase(), ..Append::default() });
    assert_eq!(again, Err(AppendError::Conflict(Conflict::NotFound)));
    let gone = running.runtime.block_on(running.ledger.receipt(erased.id, Vec::new()));
    assert!(matches!(gone, Err(ReceiptError::Erased)));
    for other in &others {
        assert!(verifies(&running.receipt(other.id), &vkey));
    }
    assert!(verifies(&before, &vkey), "whoever has the receipt has it for good");
    assert_eq!(running.ledger.reader().event(erased.id).unwrap().unwrap().commitment, erased.commitment);

    // Housekeeping takes the old bytes out of the write-ahead log within a second or two.
    let holds = || {
        std::fs::read_dir(dir.path().join("data"))
            .unwrap()
            .any(|e| std::fs::read(e.unwrap().path()).unwrap().windows(secret.len()).any(|w| w == secret.as_bytes()))
    };
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while holds() && std::time::Instant::now() < deadline {
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    assert!(!holds(), "the erased words are still on the disk");
    drop(running);
    assert_eq!(node.assert_sound().erased, 1);
}
