//! `cargo xtask witness`: two real nodes witness each other, receipts verify with a quorum, and every kind of fork that we can make is
//! refused. The forks are of a log of our own and of one of the nodes' logs, whose key we take from its home.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_proof::checkpoint::Checkpoint;
use countersign_proof::cosignature;
use countersign_proof::merkle::{Hash, HashReader, consistency_proof, leaf_hash, node_hash, root};
use countersign_proof::note::{NoteSigner, SignedNote, VerifierKey};
use countersign_proof::witness::{SIZE_TYPE, request};
use countersign_testkit::http::{Client, Response};
use countersign_testkit::node::Launch;
use countersign_testkit::{Home, Node};
use serde_json::Value;

use crate::paths;

/// How long a checkpoint may wait for its cosignature.
const PATIENCE: Duration = Duration::from_secs(20);
/// The log that we make and fork.
const ORIGIN: &str = "forked.example";

/// How many checks came out as they should.
#[derive(Default)]
struct Count {
    good: usize,
    all: usize,
}

impl Count {
    fn note(&mut self, what: &str, good: bool, instead: impl FnOnce() -> String) {
        self.all += 1;
        self.good += usize::from(good);
        if !good {
            println!("{what}: {}", instead());
        }
    }
}

/// Runs both halves.
///
/// # Errors
/// If the test itself cannot be run.
pub fn run(binary: &Path) -> Result<bool> {
    let directory = paths::run_directory("witness")?;
    let log = Log::new("leaf", 40)?;
    let (mut cosigned, mut refused) = (Count::default(), Count::default());
    let (a, b) = two_witnesses(binary, &directory, &log)?;
    mutual(binary, &directory, [&a, &b], &mut cosigned)?;
    let a = forks(binary, a, &log, (&mut cosigned, &mut refused))?;
    fork_of_a_node(&a, &b, &mut refused)?;
    status(binary, &a)?;
    a.stop()?;
    b.stop()?;
    println!("witness: cosigned {}/{}, forks refused {}/{}", cosigned.good, cosigned.all, refused.good, refused.all);
    Ok([&cosigned, &refused].iter().all(|count| count.good == count.all && count.all > 0))
}

/// Two nodes that have each other's keys. As their operators would: first the keys of the logs, then those of the witnesses.
fn two_witnesses(binary: &Path, directory: &Path, log: &Log) -> Result<(Node, Node)> {
    let home = |name: &str| -> Result<Home> {
        let extra = format!("log_domain = \"{name}.example\"\n[trust]\nenabled = true\n");
        let home = Home::create(&directory.join(name), &extra)?;
        home.access("all", "permit (principal, action, resource);\n")?;
        Ok(home)
    };
    let launch = Launch::new(binary);
    let once = |home: &Home, read: &dyn Fn(&Node) -> Result<String>| -> Result<String> {
        let node = launch.start(home)?;
        let found = read(&node)?;
        node.stop()?;
        Ok(found)
    };
    let (a, b) = (home("a")?, home("b")?);
    let (log_a, log_b) = (once(&a, &log_key)?, once(&b, &log_key)?);
    configure(&a, &format!("[witness_for]\nlogs = [\"{log_b}\", \"{}\"]\n", log.signer.verifier_key()))?;
    configure(&b, &format!("[witness_for]\nname = \"witness.b.example\"\nlogs = [\"{log_a}\"]\n"))?;
    let (witness_a, witness_b) = (once(&a, &witness_key)?, once(&b, &witness_key)?);
    let witness =
        |at: &Home, key: &str| format!("[[witnesses]]\nurl = \"http://{}\"\nvkey = \"{key}\"\n", at.address());
    configure(&a, &witness(&b, &witness_b))?;
    configure(&b, &witness(&a, &witness_a))?;
    Ok((launch.start(&a)?, launch.start(&b)?))
}

/// Adds tables to a home's configuration.
pub fn configure(home: &Home, tables: &str) -> Result<()> {
    let path = home.directory().join("countersign.toml");
    let text = fs::read_to_string(&path)?;
    Ok(fs::write(&path, format!("{text}\n{tables}"))?)
}

/// The verifier key of a node's log.
///
/// # Errors
/// If the node does not say.
pub fn log_key(node: &Node) -> Result<String> {
    let logs = node.anonymous().get("/logs")?.expect(200)?;
    Ok(logs[0]["vkey"].as_str().context("a log's key")?.to_owned())
}

fn witness_key(node: &Node) -> Result<String> {
    let status = node.operator().get("/admin/witness")?.expect(200)?;
    Ok(status["witness"]["vkey"].as_str().with_context(|| format!("no witness: {status}"))?.to_owned())
}

/// Each cosigns the other's log, and receipts of both can show it.
fn mutual(binary: &Path, directory: &Path, nodes: [&Node; 2], count: &mut Count) -> Result<()> {
    let keys = [witness_key(nodes[0])?, witness_key(nodes[1])?];
    for (n, node) in nodes.into_iter().enumerate() {
        let (own, other) = (&keys[n], &keys[1 - n]);
        let log = log_key(node)?;
        let file = directory.join(format!("receipt-{n}.json"));
        let verify = |witnesses: &[&str], quorum: &str| verify(binary, &file, &log, witnesses, quorum);
        let receipt = call(node)?;
        let end = Instant::now() + PATIENCE;
        let mut code = None;
        while code != Some(0) && Instant::now() < end {
            fs::write(&file, node.operator().get(&format!("/receipts/{receipt}"))?.body)?;
            code = verify(&[other.as_str()], "1")?;
            std::thread::sleep(Duration::from_millis(200));
        }
        let name = node.home().directory().file_name().unwrap_or_default().to_string_lossy().into_owned();
        count.note(&format!("{name}: a receipt with --witnesses 1"), code == Some(0), || format!("exit code {code:?}"));
        for (what, witnesses, quorum) in
            [("of somebody else", vec![own.as_str()], "1"), ("of two", vec![own.as_str(), other.as_str()], "2")]
        {
            let code = verify(&witnesses, quorum)?;
            count
                .note(&format!("{name}: a quorum {what} is missed"), code == Some(3), || format!("exit code {code:?}"));
        }
        let head = cosigned_head(node, other)?;
        count.note(&format!("{name}: /checkpoint carries the cosignature"), head, || "it does not".to_owned());
    }
    Ok(())
}

/// A governed call, and the event that its receipt is of.
///
/// # Errors
/// If it is refused.
pub fn call(node: &Node) -> Result<String> {
    let agent = node.home().agent("auditor-bot", &["tester"]);
    let answer = node.client(&agent).get("/v1/stats")?;
    ensure!(answer.status == 200, "a call: {} {:?}", answer.status, answer.json());
    Ok(answer.header("countersign-receipt").context("no receipt")?.to_owned())
}

/// The exit code of `countersign verify`, offline and without a home.
///
/// # Errors
/// If it cannot be run.
pub fn verify(binary: &Path, file: &Path, log: &str, witnesses: &[&str], quorum: &str) -> Result<Option<i32>> {
    let mut command = Command::new(binary);
    command.arg("verify").arg(file).args(["--key", log, "--witnesses", quorum]);
    witnesses.iter().for_each(|key| {
        command.args(["--witness", key]);
    });
    Ok(command.env_clear().stdout(Stdio::null()).stderr(Stdio::null()).status()?.code())
}

/// Whether the newest checkpoint of a log that rests comes to carry a witness's cosignature.
fn cosigned_head(node: &Node, witness: &str) -> Result<bool> {
    let key: VerifierKey = witness.parse()?;
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        let note = SignedNote::parse(node.anonymous().get("/checkpoint")?.body)?;
        if let Some(line) = note.signatures_by(&key).next() {
            return Ok(cosignature::verify(note.text(), line, &key).is_ok());
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(false)
}

/// A log in memory.
struct Log {
    signer: NoteSigner,
    leaves: Vec<Hash>,
}

impl Log {
    fn new(word: &str, leaves: usize) -> Result<Self> {
        let leaves = (0..leaves).map(|n| leaf_hash(format!("{word} {n}").as_bytes())).collect();
        Ok(Self { signer: NoteSigner::from_seed(ORIGIN, [11; 32])?, leaves })
    }

    fn note(&self, size: u64) -> Result<String> {
        self.note_by(&self.signer, size)
    }

    fn note_by(&self, signer: &NoteSigner, size: u64) -> Result<String> {
        Ok(Checkpoint::new(signer.name(), size, root(self, size)?).sign(signer)?)
    }

    fn request(&self, old: u64, size: u64) -> Result<String> {
        Ok(request(old, &consistency_proof(self, old, size)?, &self.note(size)?))
    }
}

impl HashReader for Log {
    type Error = std::convert::Infallible;

    fn hash(&self, level: u8, index: u64) -> Result<Hash, Self::Error> {
        Ok(match level {
            // Never asked beyond the leaves.
            0 => usize::try_from(index).ok().and_then(|n| self.leaves.get(n)).copied().unwrap_or_default(),
            _ => node_hash(&self.hash(level - 1, index * 2)?, &self.hash(level - 1, index * 2 + 1)?),
        })
    }
}

fn send(client: &mut Client, body: &str) -> Result<Response> {
    client.send("POST", "/add-checkpoint", &[("content-type", "text/plain")], Some(body.as_bytes()))
}

/// Whether an answer is a cosignature on the log's checkpoint of that size.
fn is_cosigned(answer: &Response, log: &Log, size: u64, key: &VerifierKey) -> Result<bool> {
    let body = SignedNote::parse(log.note(size)?)?.text().to_owned();
    let line = String::from_utf8(answer.body.clone())?;
    let holds = cosignature::parse_line(&line).is_ok_and(|line| cosignature::verify(&body, &line, key).is_ok());
    Ok(answer.status == 200 && holds)
}

/// Everything that can be tried with a log of our own, with its harmless twins; the node that comes back was started anew.
fn forks(binary: &Path, node: Node, log: &Log, (good, bad): (&mut Count, &mut Count)) -> Result<Node> {
    let key: VerifierKey = witness_key(&node)?.parse()?;
    let mut client = node.anonymous();
    let mut cosign = |what: &str, old: u64, size: u64| -> Result<()> {
        let answer = send(&mut client, &log.request(old, size)?)?;
        good.note(what, is_cosigned(&answer, log, size, &key)?, || format!("{answer:?}"));
        Ok(())
    };
    cosign("the first checkpoint", 0, 5)?;
    cosign("an extension", 5, 9)?;
    cosign("the same again", 9, 9)?;
    refusals(&node, log, bad)?;
    races(&node, log, bad)?;
    let home = node.home().clone();
    node.stop()?;
    let node = Launch::new(binary).start(&home)?;
    let mut client = node.anonymous();
    let answer = send(&mut client, &log.request(0, 30)?)?;
    let size = String::from_utf8_lossy(&answer.body).trim().parse::<u64>().unwrap_or(0);
    bad.note("after a restart, from nothing", answer.status == 409 && size > 9, || format!("{answer:?}"));
    let answer = send(&mut client, &log.request(size, 30)?)?;
    good.note("after a restart, from its size", is_cosigned(&answer, log, 30, &key)?, || format!("{answer:?}"));
    Ok(node)
}

/// What is refused while the witness stands at 9 leaves.
fn refusals(node: &Node, log: &Log, count: &mut Count) -> Result<()> {
    let other = Log::new("other", 40)?;
    let stranger = NoteSigner::from_seed("stranger.example", [12; 32])?;
    let thief = NoteSigner::from_seed(ORIGIN, [13; 32])?;
    let proof = consistency_proof(log, 9, 12)?;
    let mut wrong = proof.clone();
    wrong.first_mut().context("a proof")?[0] ^= 1;
    let before = fork_events(node)?;
    let cases = [
        ("another tree of the same size", other.request(9, 9)?, 409, Some(9)),
        ("the same again", other.request(9, 9)?, 409, Some(9)),
        ("another tree of the same size, by another way", other.request(3, 9)?, 409, Some(9)),
        ("another tree, larger", other.request(9, 12)?, 422, None),
        ("another tree, with the right one's proof", request(9, &proof, &other.note(12)?), 422, None),
        ("a wrong proof", request(9, &wrong, &log.note(12)?), 422, None),
        ("no proof", request(9, &[], &log.note(12)?), 422, None),
        ("an old size that is too small", log.request(5, 12)?, 409, Some(9)),
        ("an old size that is too large", log.request(10, 12)?, 409, Some(9)),
        ("an older checkpoint", log.request(5, 5)?, 409, Some(9)),
        ("an old size beyond the checkpoint", request(9, &[], &log.note(5)?), 400, None),
        ("another key under the log's name", request(9, &proof, &log.note_by(&thief, 12)?), 403, None),
        ("a log that is not known", request(0, &[], &log.note_by(&stranger, 12)?), 404, None),
        ("no request at all", "hello\n".to_owned(), 400, None),
        ("64 hashes", request(9, &[[1; 32]; 64], &log.note(12)?), 400, None),
        ("too large", format!("old 9\n\n{}", "x".repeat(80_000)), 413, None),
    ];
    for (what, body, status, size) in cases {
        let answer = send(&mut node.anonymous(), &body)?;
        let kind = answer.header("content-type").map(str::to_owned);
        let said = size
            .is_none_or(|size| answer.body == format!("{size}\n").into_bytes() && kind.as_deref() == Some(SIZE_TYPE));
        count.note(what, answer.status == status && said, || format!("{answer:?} instead of {status}"));
    }
    let events = fork_events(node)? - before;
    count.note("a fork is one event", events == 1, || format!("{events} events"));
    Ok(())
}

/// Many at once from the same size: one of them is cosigned, whatever they are.
fn races(node: &Node, log: &Log, count: &mut Count) -> Result<()> {
    let bodies = (10..18).map(|size| log.request(9, size)).collect::<Result<Vec<_>>>()?;
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let sent: Vec<_> =
            bodies.iter().map(|body| scope.spawn(|| Ok(send(&mut node.anonymous(), body)?.status))).collect();
        sent.into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| bail!("a thread panicked")))
            .collect::<Result<_>>()
    })?;
    let of = |status| statuses.iter().filter(|found| **found == status).count();
    count.note("eight at once", of(200) == 1 && of(409) == 7, || format!("{statuses:?}"));
    Ok(())
}

/// A fork of a node's own log, signed with its own key: its witness has cosigned the other branch.
fn fork_of_a_node(witness: &Node, victim: &Node, count: &mut Count) -> Result<()> {
    let log: VerifierKey = log_key(victim)?.parse()?;
    let seed = fs::read_to_string(victim.home().directory().join("data/keys/log.seed"))?;
    let seed = STANDARD.decode(seed.split_whitespace().last().context("a seed")?)?;
    let signer = NoteSigner::from_seed(log.name(), seed.try_into().ok().context("32 bytes")?)?;
    let status = witness.operator().get("/admin/witness")?.expect(200)?;
    let known = status["logs"].as_array().into_iter().flatten().find(|row| row["origin"] == log.name());
    let size = known.and_then(|row| row["size"].as_u64()).with_context(|| format!("nothing cosigned: {status}"))?;
    let fork = Log::new("fork", usize::try_from(size)? + 1)?;
    let before = fork_events(witness)?;
    for (what, old, at, expected) in [
        ("a node's log, forked at its size", size, size, 409),
        ("a node's log, forked and larger", size, size + 1, 422),
        ("a node's log, rolled back", 0, size - 1, 409),
    ] {
        let proof = consistency_proof(&fork, old.min(at), at)?;
        let answer = send(&mut witness.anonymous(), &request(old, &proof, &fork.note_by(&signer, at)?))?;
        count.note(what, answer.status == expected, || format!("{answer:?} instead of {expected}"));
    }
    let events = fork_events(witness)? - before;
    count.note("its fork is an event", events == 1, || format!("{events} events"));
    Ok(())
}

/// How many forks a node has recorded; both checkpoints of each are signed by the log that they are of.
fn fork_events(node: &Node) -> Result<usize> {
    let events = node.operator().get("/audit/events?workspace=_node&type=witness.fork&limit=100")?.expect(200)?;
    let events = events.as_array().cloned().unwrap_or_default();
    for event in &events {
        let note = |member: &str| event[member].as_str().with_context(|| format!("no {member} in {event}"));
        let parsed = |member| Ok::<_, anyhow::Error>(Checkpoint::parse(SignedNote::parse(note(member)?)?.text())?);
        let (cosigned, refused) = (parsed("cosigned")?, parsed("refused")?);
        let is_fork =
            cosigned.origin == refused.origin && cosigned.size == refused.size && cosigned.root != refused.root;
        ensure!(is_fork, "not a fork: {event}");
    }
    Ok(events.len())
}

/// What an operator sees.
fn status(binary: &Path, node: &Node) -> Result<()> {
    let output = Command::new(binary)
        .args(["witness", "status", "--url"])
        .arg(format!("http://{}", node.home().address()))
        .env("COUNTERSIGN_TOKEN", node.home().operator())
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    println!("{}", text.trim_end());
    let json: Value = node.operator().get("/admin/witness")?.expect(200)?;
    let forked = json["logs"].as_array().into_iter().flatten().filter(|row| row["forked"].is_u64()).count();
    ensure!(
        output.status.success() && text.matches("FORKED").count() == 2 && forked == 2,
        "countersign witness status: {output:?}"
    );
    Ok(())
}
