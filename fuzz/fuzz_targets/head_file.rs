//! The head file: what a slot says is written back as the same bytes. Sums are put right first, or nothing would be reached.
#![no_main]

use countersign_ledger::head_file::fuzz;
use countersign_proof::digest::Digest;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    fuzz(data);
    let mut slot = [b"CSHEAD1\n", data].concat();
    if let Some(length) = slot.get(20..22) {
        let end = 22 + usize::from(u16::from_be_bytes([length[0], length[1]]));
        if end <= slot.len() {
            slot.truncate(end);
            let sum = Digest::of(&slot);
            slot.extend_from_slice(sum.as_bytes());
            fuzz(&slot);
        }
    }
});
