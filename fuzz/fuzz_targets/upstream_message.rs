//! JSON-RPC from upstreams: answers, errors, questions, notifications, requests for input.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| countersign_connect::fuzzing::message(data));
