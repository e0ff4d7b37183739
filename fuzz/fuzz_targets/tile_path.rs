//! Tile paths: a path has one spelling.
#![no_main]

use countersign_proof::tile::Resource;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(path) = std::str::from_utf8(data) else { return };
    match Resource::parse_path(path) {
        Ok(Resource::Hashes(tile)) => assert_eq!(tile.path(), path),
        Ok(Resource::Entries(tile)) => assert_eq!(tile.entries_path(), path),
        Err(_) => {}
    }
});
