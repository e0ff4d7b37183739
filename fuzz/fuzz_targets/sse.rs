//! Server-sent events of upstreams: cut anywhere, a stream says the same. The first byte is where it is cut.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Some((cut, stream)) = data.split_first() {
        countersign_connect::fuzzing::events(stream, usize::from(*cut));
    }
});
