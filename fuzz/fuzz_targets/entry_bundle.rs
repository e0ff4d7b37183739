//! Entry bundles: whatever decodes is encoded byte for byte. The first byte chooses the width.
#![no_main]

use countersign_proof::tile::{decode_bundle, encode_bundle};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((width, bytes)) = data.split_first() else { return };
    if let Ok(entries) = decode_bundle(bytes, u16::from(*width) + 1) {
        assert_eq!(encode_bundle(&entries).expect("within bounds"), bytes);
    }
});
