//! A log of Rekor's second version for tests: it takes what it should take and nothing else, keeps a real tree, serves its tiles, and
//! answers well or badly.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use countersign_proof::checkpoint::Checkpoint;
use countersign_proof::merkle::{Frontier, Hash, HashReader, inclusion_proof, leaf_hash};
use countersign_proof::note::NoteSigner;
use countersign_proof::tile::{Resource, encode_tile};
use countersign_testkit::service::{Asked, Reply, Service};
use countersign_trust::entry::LogEntry;
use countersign_trust::hashedrekord::HashedRekord;
use countersign_trust::root::{LogInstance, TrustedRoot, Window};
use countersign_trust::sign::{Logged, log_entry};

pub const ORIGIN: &str = "rekor.elsewhere.example";

/// How it answers requests for entries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Behaviour {
    /// As it should.
    #[default]
    Good,
    /// It takes nothing now.
    Away,
    /// It takes the entry, and its answer is lost.
    Lost,
    /// It wants no such entries.
    Refusing,
    /// For longer than anybody waits.
    Slow,
    /// The entry is another.
    OtherEntry,
    /// The proof is of another leaf.
    OtherProof,
    /// The checkpoint is signed by another key.
    OtherKey,
    /// The checkpoint is of another tree.
    OtherTree,
    /// No entry at all.
    Nonsense,
}

/// The tree.
pub struct Tree {
    signer: NoteSigner,
    other: NoteSigner,
    leaves: Vec<Vec<u8>>,
    frontier: Frontier,
    hashes: HashMap<(u8, u64), Hash>,
    pub behaviour: Behaviour,
}

impl HashReader for Tree {
    type Error = Infallible;

    fn hash(&self, level: u8, index: u64) -> Result<Hash, Infallible> {
        Ok(self.hashes[&(level, index)])
    }
}

impl Tree {
    fn new() -> Self {
        let signer = |seed| NoteSigner::from_seed(ORIGIN, [seed; 32]).expect("a good name");
        let mut tree = Self {
            signer: signer(41),
            other: signer(42),
            leaves: Vec::new(),
            frontier: Frontier::new(),
            hashes: HashMap::new(),
            behaviour: Behaviour::Good,
        };
        // Somebody else's entries, so that proofs are not trivial and need more than one tile.
        (0..300).for_each(|n| _ = tree.append(format!("before {n}").as_bytes()));
        tree
    }

    fn append(&mut self, leaf: &[u8]) -> u64 {
        let hashes = &mut self.hashes;
        self.frontier.append_with(leaf_hash(leaf), |level, index, hash| {
            hashes.insert((level, index), *hash);
        });
        self.leaves.push(leaf.to_vec());
        self.frontier.size() - 1
    }

    fn checkpoint(&self, signer: &NoteSigner) -> String {
        Checkpoint::new(ORIGIN, self.frontier.size(), self.frontier.root()).sign(signer).expect("a checkpoint")
    }

    /// How many leaves are entries that it was asked for.
    pub fn taken(&self) -> usize {
        (self.leaves.len() - 300) / 2
    }

    fn entry(&self, index: u64) -> LogEntry {
        let proof = inclusion_proof(self, index, self.frontier.size()).expect("within the tree");
        let (checkpoint, log) = (self.checkpoint(&self.signer), self.signer.verifier_key());
        let logged = Logged { index, proof, checkpoint: &checkpoint, log: &log };
        log_entry(&self.leaves[index as usize], &logged).expect("it is there")
    }

    fn asked(&mut self, body: &[u8]) -> Reply {
        let error = |status, code: u8, message: &str| {
            Reply::json(status, format!(r#"{{"code":{code},"message":"{message}","details":[]}}"#))
        };
        match self.behaviour {
            Behaviour::Away => return error(503, 14, "reached max pushback; retry"),
            Behaviour::Refusing => return error(400, 3, "invalid hashedrekord request"),
            Behaviour::Slow => return Reply::Silence(Duration::from_secs(4)),
            Behaviour::Nonsense => return Reply::json(201, "{\"logIndex\":\"7\"}"),
            _ => {}
        }
        let Ok(record) = HashedRekord::parse_request(body) else {
            return error(400, 3, "invalid hashedrekord request");
        };
        let leaf = record.to_body().expect("small");
        if let Some(index) = self.leaves.iter().position(|known| *known == leaf) {
            let message = format!("an equivalent entry already exists in the transparency log with index {index}");
            let body = format!(r#"{{"code":6,"message":"{message}","details":[]}}"#);
            return Reply::With { status: 409, header: format!("X-Log-Index: {index}"), body: body.into() };
        }
        let index = self.append(&leaf);
        self.append(format!("after {index}").as_bytes());
        let mut entry = self.entry(index);
        let proof = entry.proof.as_mut().expect("it has one");
        match self.behaviour {
            Behaviour::Lost => return Reply::Close,
            Behaviour::OtherEntry => entry = self.entry(3),
            Behaviour::OtherProof => proof.hashes[0][0] ^= 1,
            Behaviour::OtherKey => proof.checkpoint = self.checkpoint(&self.other),
            Behaviour::OtherTree => {
                let mut other = Self::new();
                other.append(b"another");
                proof.checkpoint = other.checkpoint(&self.signer);
            }
            _ => {}
        }
        Reply::json(201, entry.to_json())
    }

    fn read(&self, path: &str) -> Reply {
        let bytes = |body| Reply::Http { status: 200, content_type: "application/octet-stream", body };
        if path == "checkpoint" {
            return bytes(self.checkpoint(&self.signer).into_bytes());
        }
        let Ok(Resource::Hashes(tile)) = Resource::parse_path(path) else { return Reply::json(404, "{}") };
        let range = (0..u64::from(tile.width)).map(|n| tile.index * 256 + n);
        let hashes: Option<Vec<Hash>> = range.map(|n| self.hashes.get(&(tile.level * 8, n)).copied()).collect();
        hashes.map_or_else(|| Reply::json(404, "{}"), |hashes| bytes(encode_tile(&hashes)))
    }
}

/// The log as a service.
pub struct Rekor {
    service: Option<Service>,
    tree: Arc<Mutex<Tree>>,
    address: std::net::SocketAddr,
}

impl Rekor {
    pub fn start() -> Self {
        let tree = Arc::new(Mutex::new(Tree::new()));
        let service = serve(&tree, ([127, 0, 0, 1], 0).into());
        Self { address: service.address(), service: Some(service), tree }
    }

    pub fn tree(&self) -> MutexGuard<'_, Tree> {
        self.tree.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn behave(&self, behaviour: Behaviour) {
        self.tree().behaviour = behaviour;
    }

    /// Nothing listens there any more.
    pub fn stop(&mut self) {
        self.service = None;
    }

    pub fn resume(&mut self) {
        self.service = Some(serve(&self.tree, self.address));
    }

    /// How often it was asked for an entry since it was last started.
    pub fn posts(&self) -> usize {
        let asked = self.service.as_ref().map(Service::asked).unwrap_or_default();
        asked.iter().filter(|asked| asked.method == "POST").count()
    }

    pub fn trusted_root(&self) -> TrustedRoot {
        let key = self.tree().signer.verifier_key();
        let log = LogInstance::shard(ORIGIN, key.public_key(), "Elsewhere", Window::since(0)).expect("a good origin");
        TrustedRoot { logs: vec![log], ..TrustedRoot::default() }
    }

    /// `[trust.forward]` for it; its trusted root goes into this directory.
    pub fn settings(&self, directory: &std::path::Path, more: &str) -> String {
        let file = directory.join("rekor.json");
        std::fs::write(&file, self.trusted_root().to_json()).expect("written");
        format!(
            "[trust]\nenabled = true\n[trust.forward]\nurl = \"http://{}/log\"\ntrusted_root = \"{}\"\norigin = \"{ORIGIN}\"\ntimeout = \"2s\"\n{more}\n",
            self.address,
            file.display()
        )
    }
}

fn serve(tree: &Arc<Mutex<Tree>>, address: std::net::SocketAddr) -> Service {
    let tree = Arc::clone(tree);
    let answer = move |asked: &Asked| {
        let mut tree = tree.lock().unwrap_or_else(PoisonError::into_inner);
        match (asked.method.as_str(), asked.path.strip_prefix("/log/api/v2/")) {
            ("POST", Some("log/entries")) => tree.asked(&asked.body),
            ("GET", Some(path)) => tree.read(path),
            _ => Reply::json(404, "{}"),
        }
    };
    Service::start_on(address, answer).expect("a free port")
}
