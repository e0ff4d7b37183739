//! Tile paths, tiles and entry bundles, against `tlog_tiles`.

use countersign_proof::merkle::{HashReader as _, leaf_hash};
use countersign_proof::tile::{
    Resource, Tile, TileError, decode_bundle, decode_tile, encode_bundle, encode_tile, hash_bundle, subtree_hash,
};
use proptest::prelude::*;

use crate::support::Tree;

#[test]
fn paths_are_those_of_the_specification() {
    let cases = [
        (Tile { level: 0, index: 1234, width: 5 }, "tile/0/x001/234.p/5"),
        (Tile { level: 0, index: 1_234_067, width: 256 }, "tile/0/x001/x234/067"),
        (Tile { level: 63, index: 0, width: 1 }, "tile/63/000.p/1"),
        (Tile { level: 1, index: u64::MAX, width: 255 }, "tile/1/x018/x446/x744/x073/x709/x551/615.p/255"),
    ];
    for (tile, path) in cases {
        assert_eq!(tile.path(), path);
        assert_eq!(Tile::parse_path(path), Ok(tile));
    }
    let entries = Tile { level: 0, index: 1000, width: 7 };
    assert_eq!(entries.entries_path(), "tile/entries/x001/000.p/7");
    assert_eq!(Resource::parse_path("tile/entries/x001/000.p/7"), Ok(Resource::Entries(entries)));
    assert!(Tile::parse_path("tile/entries/000").is_err());
}

#[test]
fn other_spellings_are_refused() {
    for path in [
        "",
        "tile",
        "tile/0",
        "tile/0/",
        "tile/00/000",
        "tile/64/000",
        "tile/0/0",
        "tile/0/0000",
        "tile/0/x000/001",
        "tile/0/000.p/0",
        "tile/0/000.p/256",
        "tile/0/000.p/01",
        "tile/0/000.p/",
        "tile/0/001/000",
        "tile/0/x001",
        "tile/-1/000",
        "/tile/0/000",
        "tile/0/000/",
        "tile/0/..",
        "tile/0/x001/../000",
        "tile/0/x999/x999/x999/x999/x999/x999/999",
        "tile/0/+01",
        "tile/entries",
        "tile/8/000/000.p/1",
    ] {
        assert_eq!(Resource::parse_path(path), Err(TileError::Path), "{path}");
    }
}

#[test]
fn bundles_round_trip_and_refuse_what_they_did_not_promise() {
    let entries: Vec<Vec<u8>> = vec![vec![], vec![1; 33], vec![2; 65_535]];
    let bytes = encode_bundle(&entries).unwrap();
    assert_eq!(decode_bundle(&bytes, 3).unwrap(), entries);
    assert_eq!(hash_bundle(&entries)[1], leaf_hash(&entries[1]));
    for (bytes, width) in
        [(&bytes[..], 2), (&bytes[..], 4), (&bytes[..bytes.len() - 1], 3), (&[][..], 0), (&[0][..], 1)]
    {
        assert_eq!(decode_bundle(bytes, width), Err(TileError::Bundle));
    }
    assert_eq!(encode_bundle(&[vec![0; 65_536]]), Err(TileError::EntryTooLarge));
    assert_eq!(encode_bundle(&vec![vec![0]; 257]), Err(TileError::Bundle));
}

#[test]
fn growth_adds_the_tiles_that_tlog_tiles_adds() {
    for (old, new) in [
        (0, 0),
        (0, 1),
        (0, 256),
        (1, 2),
        (255, 256),
        (256, 257),
        (256, 256),
        (70_000, 70_001),
        (0, 70_000),
        (65_535, 65_537),
        (131_071, 131_073),
    ] {
        let mut theirs: Vec<Tile> = tlog_tiles::Tile::new_tiles(8, old, new)
            .iter()
            .map(|t| Tile { level: t.level(), index: t.level_index(), width: t.width() as u16 })
            .collect();
        let mut ours = Tile::added(old, new);
        theirs.sort();
        ours.sort();
        assert_eq!(ours, theirs, "{old} to {new}");
    }
}

proptest! {
    #[test]
    fn any_path_has_one_spelling(level in 0u8..64, index: u64, width in 1u16..=256) {
        let tile = Tile::new(level, index, width).unwrap();
        prop_assert_eq!(Tile::parse_path(&tile.path()), Ok(tile));
    }

    #[test]
    fn whatever_parses_is_spelt_so(path in r"tile/([0-9]{1,2}|entries)/(x[0-9]{3}/){0,3}[0-9]{3}(\.p/[0-9]{1,3})?") {
        match Resource::parse_path(&path) {
            Ok(Resource::Hashes(tile)) => prop_assert_eq!(tile.path(), path),
            Ok(Resource::Entries(tile)) => prop_assert_eq!(tile.entries_path(), path),
            Err(_) => {}
        }
    }

    #[test]
    fn tiles_yield_every_complete_subtree(size in 1u64..700, level in 0u8..10, index in 0u64..700) {
        let entries: Vec<Vec<u8>> = (0..size).map(|i| i.to_be_bytes().to_vec()).collect();
        let tree = Tree::of(&entries);
        let complete = (index + 1) << level <= size;
        let found = Tile::containing(level, index, size);
        prop_assert_eq!(found.is_some(), complete);
        if let Some((tile, within, offset)) = found {
            let first = tile.index * 256;
            let hashes: Vec<_> =
                (first..first + u64::from(tile.width)).map(|i| tree.hash(8 * tile.level, i).unwrap()).collect();
            let hashes = decode_tile(&encode_tile(&hashes), tile.width).unwrap();
            prop_assert_eq!(subtree_hash(&hashes, within, offset).unwrap(), tree.hash(level, index).unwrap());
            prop_assert!(subtree_hash(&hashes, within, 256).is_err());
        }
    }
}
