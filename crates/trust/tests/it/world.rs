//! A small world to sign in: an authority, a log in memory, and whom a verifier trusts.

use std::collections::HashMap;
use std::convert::Infallible;

use countersign_proof::checkpoint::Checkpoint;
use countersign_proof::merkle::{Frontier, Hash, HashReader, inclusion_proof, leaf_hash};
use countersign_proof::note::{NoteSigner, VerifierKey};
use countersign_trust::authority::Authority;
use countersign_trust::bundle::Bundle;
use countersign_trust::root::{AuthorityInstance, LogInstance, Services, TrustedRoot, Window};
use countersign_trust::sign::{Logged, Unlogged, log_entry};

pub const ISSUER: &str = "https://gw.example.com";
pub const ORGANISATION: &str = "Example Hospital";
/// Who runs the outside timestamp authority, and where.
pub const ELSEWHERE: &str = "Elsewhere";
pub const OUTSIDE: &str = "https://tsa.elsewhere.example";

/// A log in memory.
pub struct Log {
    pub signer: NoteSigner,
    leaves: Vec<Vec<u8>>,
    frontier: Frontier,
    hashes: HashMap<(u8, u64), Hash>,
}

impl HashReader for Log {
    type Error = Infallible;

    fn hash(&self, level: u8, index: u64) -> Result<Hash, Infallible> {
        Ok(self.hashes[&(level, index)])
    }
}

impl Log {
    pub fn new(origin: &str, seed: u8) -> Self {
        let signer = NoteSigner::from_seed(origin, [seed; 32]).expect("a good name");
        Self { signer, leaves: Vec::new(), frontier: Frontier::new(), hashes: HashMap::new() }
    }

    /// Appends a leaf and gives its index.
    pub fn append(&mut self, leaf: &[u8]) -> u64 {
        let hashes = &mut self.hashes;
        self.frontier.append_with(leaf_hash(leaf), |level, index, hash| {
            hashes.insert((level, index), *hash);
        });
        self.leaves.push(leaf.to_vec());
        self.frontier.size() - 1
    }

    pub fn key(&self) -> VerifierKey {
        self.signer.verifier_key()
    }

    pub fn checkpoint(&self) -> String {
        let head = Checkpoint::new(self.signer.name(), self.frontier.size(), self.frontier.root());
        head.sign(&self.signer).expect("a good checkpoint")
    }

    pub fn proof(&self, index: u64) -> Vec<Hash> {
        inclusion_proof(self, index, self.frontier.size()).expect("within the tree")
    }

    /// Appends what was signed, and some more so that the proof is not trivial.
    pub fn finish(&mut self, unlogged: Unlogged) -> Bundle {
        let index = self.append_between(unlogged.leaf());
        let (proof, checkpoint, log) = (self.proof(index), self.checkpoint(), self.key());
        unlogged.finish(&Logged { index, proof, checkpoint: &checkpoint, log: &log }).expect("it was just logged")
    }

    /// Replaces a bundle's log entry by one whose leaf is `leaf`.
    pub fn log_again(&mut self, bundle: &mut Bundle, leaf: &[u8]) {
        let index = self.append_between(leaf);
        let (proof, checkpoint, log) = (self.proof(index), self.checkpoint(), self.key());
        let logged = Logged { index, proof, checkpoint: &checkpoint, log: &log };
        bundle.entries = vec![log_entry(leaf, &logged).expect("it was just logged")];
    }

    fn append_between(&mut self, leaf: &[u8]) -> u64 {
        let before = self.leaves.len();
        self.append(format!("commitment {before}").as_bytes());
        let index = self.append(leaf);
        for i in 0..3 {
            self.append(format!("commitment {before} {i}").as_bytes());
        }
        index
    }

    pub fn instance(&self, window: Window) -> LogInstance {
        let key = self.key();
        LogInstance::shard(key.name(), key.public_key(), ORGANISATION, window).expect("a good origin")
    }
}

pub struct World {
    pub now_ms: u64,
    pub authority: Authority,
    pub log: Log,
    pub root: TrustedRoot,
    /// Somebody else's, of whom the root names the timestamp authority only.
    pub outside: Authority,
    seeds: u8,
}

impl World {
    /// An authority and a log that began an hour ago, after others that ended then.
    pub fn new(now_ms: u64) -> Self {
        let start = now_ms / 1000 - 3600;
        let authority = Authority::generate(ORGANISATION, &[1; 32], start).expect("a good name");
        let retired = Authority::generate(ORGANISATION, &[2; 32], start - 86_400).expect("a good name");
        let log = Log::new("4f2a.log.example.com", 3);
        let closed = Log::new("0b81.log.example.com", 4);
        let mut root = TrustedRoot::default();
        let before = Window { start: start - 86_400, end: Some(start) };
        root.add_authority(&retired.public(), ISSUER, before).expect("readable");
        root.add_authority(&authority.public(), ISSUER, Window::since(start)).expect("readable");
        root.logs = vec![closed.instance(before), log.instance(Window::since(start))];
        let outside = Authority::generate(ELSEWHERE, &[6; 32], start).expect("a good name");
        let instance = AuthorityInstance::timestamping(&outside.public(), OUTSIDE, Window::since(start));
        root.timestamp_authorities.push(instance.expect("readable"));
        Self { now_ms, authority, log, root, outside, seeds: 100 }
    }

    /// A seed for one signature.
    pub fn seed(&mut self) -> [u8; 32] {
        self.seeds += 1;
        [self.seeds; 32]
    }

    /// Where a client would sign; only the example writes that.
    #[allow(dead_code)]
    pub fn services(&self) -> Services {
        Services {
            certificate_authority: ISSUER.to_owned(),
            identity_provider: ISSUER.to_owned(),
            log: format!("https://{}", self.log.signer.name()),
            timestamp_authority: format!("{ISSUER}/api/v1/timestamp"),
            operator: ORGANISATION.to_owned(),
            start: self.now_ms / 1000 - 3600,
        }
    }
}
