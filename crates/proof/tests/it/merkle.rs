//! The tree against published vectors, a naive recursive tree, and two other implementations.

use countersign_proof::merkle::{
    Frontier, Hash, ProofError, consistency_proof, empty_root, inclusion_proof, leaf_hash, node_hash, root,
    verify_consistency, verify_inclusion,
};
use ct_merkle::mem_backed_tree::MemoryBackedTree;
use proptest::prelude::*;
use sha2::{Digest as _, Sha256};

use crate::support::{Tree, data, unhex};

/// RFC 6962 section 2.1 word for word, over the entries themselves; shares no code with the crate.
mod naive {
    use sha2::{Digest as _, Sha256};

    pub fn mth(entries: &[Vec<u8>]) -> [u8; 32] {
        match entries {
            [] => Sha256::digest([]).into(),
            [one] => Sha256::new().chain_update([0]).chain_update(one).finalize().into(),
            _ => {
                let k = split(entries.len());
                let hash = Sha256::new().chain_update([1]).chain_update(mth(&entries[..k]));
                hash.chain_update(mth(&entries[k..])).finalize().into()
            }
        }
    }

    pub fn path(m: usize, entries: &[Vec<u8>]) -> Vec<[u8; 32]> {
        if entries.len() <= 1 {
            return vec![];
        }
        let k = split(entries.len());
        let (mut path, sibling) = if m < k {
            (path(m, &entries[..k]), mth(&entries[k..]))
        } else {
            (path(m - k, &entries[k..]), mth(&entries[..k]))
        };
        path.push(sibling);
        path
    }

    pub fn subproof(m: usize, entries: &[Vec<u8>], whole: bool) -> Vec<[u8; 32]> {
        if m == entries.len() {
            return if whole { vec![] } else { vec![mth(entries)] };
        }
        let k = split(entries.len());
        let (mut proof, sibling) = if m <= k {
            (subproof(m, &entries[..k], whole), mth(&entries[k..]))
        } else {
            (subproof(m - k, &entries[k..], false), mth(&entries[..k]))
        };
        proof.push(sibling);
        proof
    }

    fn split(n: usize) -> usize {
        let mut k = 1;
        while k * 2 < n {
            k *= 2;
        }
        k
    }
}

fn entries(n: usize) -> Vec<Vec<u8>> {
    (0..n).map(|i| format!("entry {i}").into_bytes()).collect()
}

#[test]
fn published_vectors() {
    let vectors = data("rfc6962.json");
    let hexes = |v: &serde_json::Value| v.as_array().unwrap().iter().map(|h| unhex(h.as_str().unwrap())).collect();
    let (leaves, roots): (Vec<Vec<u8>>, Vec<Vec<u8>>) = (hexes(&vectors["leaves"]), hexes(&vectors["roots"]));
    let mut frontier = Frontier::new();
    let mut nodes = Vec::new();
    for (leaf, expected) in leaves.iter().zip(&roots) {
        assert_eq!(&frontier.root().to_vec(), expected);
        frontier.append_with(leaf_hash(leaf), |level, index, hash| nodes.push((level, index, *hash)));
    }
    assert_eq!(&frontier.root().to_vec(), &roots[8]);
    assert_eq!(nodes.len(), 15);
    for (level, index, hash) in nodes {
        let expected = vectors["nodes"][usize::from(level)][index as usize].as_str().unwrap();
        assert_eq!(hash.to_vec(), unhex(expected), "{level}/{index}");
    }
}

#[test]
fn every_proof_of_small_trees_is_the_naive_one_and_verifies() {
    let all = entries(70);
    let tree = Tree::of(&all);
    assert_eq!(root(&tree, 0).unwrap(), empty_root());
    for size in 1..=all.len() {
        let head = root(&tree, size as u64).unwrap();
        assert_eq!(head, naive::mth(&all[..size]));
        assert_eq!(Frontier::from_reader(&tree, size as u64).unwrap().root(), head);
        for index in 0..size {
            let proof = inclusion_proof(&tree, index as u64, size as u64).unwrap();
            assert_eq!(proof, naive::path(index, &all[..size]), "{index} of {size}");
            verify_inclusion(&leaf_hash(&all[index]), index as u64, size as u64, &proof, &head).unwrap();
        }
        for old in 0..=size {
            let proof = consistency_proof(&tree, old as u64, size as u64).unwrap();
            let expected = if old == 0 { vec![] } else { naive::subproof(old, &all[..size], true) };
            assert_eq!(proof, expected, "{old} to {size}");
            let old_head = naive::mth(&all[..old]);
            verify_consistency(old as u64, size as u64, &old_head, &head, &proof).unwrap();
        }
    }
}

#[test]
fn out_of_range_is_an_error_not_a_panic() {
    let tree = Tree::of(&entries(5));
    assert!(inclusion_proof(&tree, 5, 5).is_err());
    assert!(consistency_proof(&tree, 6, 5).is_err());
    let h = [0; 32];
    assert_eq!(verify_inclusion(&h, 5, 5, &[], &h), Err(ProofError::OutOfRange));
    assert_eq!(verify_inclusion(&h, 0, 0, &[], &h), Err(ProofError::OutOfRange));
    assert_eq!(verify_consistency(6, 5, &h, &h, &[]), Err(ProofError::OutOfRange));
    assert_eq!(verify_consistency(0, 5, &h, &h, &[]), Err(ProofError::Root), "only the empty root stands for size 0");
    assert!(verify_inclusion(&h, u64::MAX - 1, u64::MAX, &[h; 70], &h).is_err());
    assert!(verify_consistency(1 << 63, u64::MAX, &h, &h, &[h; 70]).is_err());
    assert!(verify_consistency(u64::MAX - 1, u64::MAX, &h, &h, &[h; 70]).is_err());
    assert!(Frontier::from_parts(5, vec![h]).is_err());
}

#[test]
fn two_other_implementations_agree() {
    let all = entries(300);
    let tree = Tree::of(&all);
    let mut ct = MemoryBackedTree::<Sha256, Vec<u8>>::new();
    let mut tlog = TlogStore::default();
    for (i, entry) in all.iter().enumerate() {
        ct.push(entry.clone());
        tlog.push(i as u64, entry);
    }
    let size = all.len() as u64;
    let head = root(&tree, size).unwrap();
    assert_eq!(ct.root().as_bytes().as_slice(), head);
    assert_eq!(tlog_tiles::tree_hash(size, &tlog).unwrap().0, head);
    for index in (0..size).step_by(7) {
        let proof = inclusion_proof(&tree, index, size).unwrap();
        assert_eq!(ct.prove_inclusion(index as usize).as_bytes(), proof.concat());
        let theirs: Vec<Hash> =
            tlog_tiles::prove_record(size, index, &tlog).unwrap().into_iter().map(|h| h.0).collect();
        assert_eq!(theirs, proof);
    }
    for old in (1..size).step_by(7) {
        let proof = consistency_proof(&tree, old, size).unwrap();
        assert_eq!(ct.prove_consistency((size - old) as usize).as_bytes(), proof.concat());
        let theirs: Vec<Hash> = tlog_tiles::prove_tree(size, old, &tlog).unwrap().into_iter().map(|h| h.0).collect();
        assert_eq!(theirs, proof);
    }
}

/// The stored hashes of `tlog_tiles`, in its own order.
#[derive(Default)]
struct TlogStore(Vec<tlog_tiles::Hash>);

impl TlogStore {
    fn push(&mut self, index: u64, entry: &[u8]) {
        let hashes = tlog_tiles::stored_hashes(index, entry, self).unwrap();
        self.0.extend(hashes);
    }
}

impl tlog_tiles::HashReader for TlogStore {
    fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<tlog_tiles::Hash>, tlog_tiles::Error> {
        Ok(indexes.iter().map(|i| self.0[*i as usize]).collect())
    }
}

proptest! {
    #[test]
    fn any_change_to_a_proof_is_refused(size in 2u64..400, at in any::<(u64, u64, usize, u8)>()) {
        let all = entries(size as usize);
        let tree = Tree::of(&all);
        let index = at.0 % size;
        let old = 1 + at.1 % (size - 1);
        let (head, leaf) = (root(&tree, size).unwrap(), leaf_hash(&all[index as usize]));
        let old_head = root(&tree, old).unwrap();
        let inclusion = inclusion_proof(&tree, index, size).unwrap();
        let consistency = consistency_proof(&tree, old, size).unwrap();

        let included = |index, proof: &[Hash]| verify_inclusion(&leaf, index, size, proof, &head).is_ok();
        let consistent = |old, proof: &[Hash]| verify_consistency(old, size, &old_head, &head, proof).is_ok();
        prop_assert!(included(index, &inclusion) && consistent(old, &consistency));
        prop_assert!(!included((index + 1) % size, &inclusion));
        prop_assert!(!consistent(old + 1, &consistency));
        for (proof, holds) in [
            (&inclusion, &(|p: &[Hash]| included(index, p)) as &dyn Fn(&[Hash]) -> bool),
            (&consistency, &|p: &[Hash]| consistent(old, p)),
        ] {
            let mut flipped = proof.clone();
            let which = at.2 % flipped.len();
            flipped[which][usize::from(at.3 % 32)] ^= 1 << (at.3 >> 5);
            prop_assert!(!holds(&flipped));
            prop_assert!(!holds(&proof[..proof.len() - 1]));
            prop_assert!(!holds(&proof[1..]));
            prop_assert!(!holds(&[proof.as_slice(), &[[0; 32]]].concat()));
            prop_assert!(!holds(&[&[[0; 32]], proof.as_slice()].concat()));
        }
    }

    #[test]
    fn a_stored_frontier_goes_on_where_it_stopped(first in 0usize..200, more in 1usize..50) {
        let all = entries(first + more);
        let mut frontier = Frontier::from_reader(&Tree::of(&all), first as u64).unwrap();
        frontier = Frontier::from_parts(frontier.size(), frontier.hashes().to_vec()).unwrap();
        for entry in &all[first..] {
            frontier.append(leaf_hash(entry));
        }
        prop_assert_eq!(frontier.root(), naive::mth(&all));
    }
}

#[test]
fn leaves_and_nodes_are_hashed_apart() {
    let (l, r) = (leaf_hash(b"l"), leaf_hash(b"r"));
    let by_hand: Hash = Sha256::new().chain_update([1]).chain_update(l).chain_update(r).finalize().into();
    assert_eq!(node_hash(&l, &r), by_hand);
    assert_ne!(leaf_hash(&[l, r].concat()), node_hash(&l, &r), "a leaf cannot pass for a node");
}
