//! What upstreams ask people and models, and what is answered. A byte for the kind, the question, a line feed, the answer.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((kind, rest)) = data.split_first() else { return };
    let Ok(text) = std::str::from_utf8(rest) else { return };
    let (question, answer) = text.split_once('\n').unwrap_or((text, "{}"));
    countersign_gate::fuzzing::question(*kind, question, answer);
});
