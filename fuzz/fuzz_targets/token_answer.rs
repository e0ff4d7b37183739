//! Answers of token endpoints. The first byte makes the status.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((status, body)) = data.split_first() else { return };
    let status = if status % 2 == 0 { 200 } else { 400 };
    countersign_gate::fuzzing::token_answer(status, body);
});
