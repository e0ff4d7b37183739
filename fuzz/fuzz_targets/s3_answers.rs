//! What a store that speaks S3's protocol answers: read or refused, never a panic, and its words are bounded.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| countersign_store::objects::fuzz(data));
