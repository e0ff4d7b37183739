//! Requests to a witness, and a witness's answers: whatever parses is neither heard without a key nor cosigned against what was
//! cosigned before, and no answer counts whose signature was never made.
#![no_main]

use countersign_proof::note::NoteSigner;
use countersign_proof::witness::{AddCheckpoint, Answer, Asked, Refusal, TreeHead, decide, read_answer};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let signer = NoteSigner::from_seed("log.example", [1; 32]).expect("a good name");
    if let Ok(request) = AddCheckpoint::parse(data) {
        assert_eq!(request.authenticate(&[]), Err(Refusal::UnknownLog));
        let keys = [signer.verifier_key()];
        if let Ok(authentic) = request.authenticate(&keys) {
            let latest = TreeHead { size: 1 << 40, root: [7; 32] };
            let larger = authentic.checkpoint().size > latest.size;
            assert!(decide(Some(latest), authentic).is_err() || larger);
        }
    }
    let asked = Asked { old: 3, size: 5, body: "log.example\n5\nAAAA\n" };
    let (status, body) = data.split_first().map_or((200, data), |(first, rest)| (200 + u16::from(*first), rest));
    for status in [200, 409, status] {
        let answer = read_answer(status, Some("text/x.tlog.size"), body, asked, &signer.cosignature_key());
        assert!(!matches!(answer, Answer::Cosigned(_)));
    }
});
