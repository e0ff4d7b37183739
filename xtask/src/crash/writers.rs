//! The writers, and the clients' own journal of what they were told.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use countersign_testkit::{Client, Response};
use serde_json::{Value, json};

/// How many write at once.
pub const WRITERS: usize = 16;
/// How long one write may take, deaths of the node included.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a client was told is done.
#[derive(Debug, Clone)]
pub struct Acknowledged {
    /// The campaign's name, which no other write has.
    pub name: String,
    /// The receipt's id.
    pub receipt: String,
}

/// Everything that the clients were told.
pub struct Ledger {
    first: usize,
    writes: usize,
    next: AtomicUsize,
    allowed: AtomicUsize,
    ended: AtomicUsize,
    abandoned: AtomicBool,
    acknowledged: Mutex<Vec<Acknowledged>>,
    unknown: Mutex<BTreeSet<String>>,
}

impl Ledger {
    /// For so many writes.
    pub fn new(writes: usize) -> Self {
        Self::starting_at(0, writes)
    }

    /// For so many writes whose numbers begin there.
    pub fn starting_at(first: usize, writes: usize) -> Self {
        Self {
            first,
            writes,
            next: AtomicUsize::new(0),
            allowed: AtomicUsize::new(usize::MAX),
            ended: AtomicUsize::new(0),
            abandoned: AtomicBool::new(false),
            acknowledged: Mutex::default(),
            unknown: Mutex::default(),
        }
    }

    /// How many writes there are.
    pub fn writes(&self) -> usize {
        self.writes
    }

    /// How many writes are acknowledged or known to be unknown.
    pub fn ended(&self) -> usize {
        self.ended.load(Ordering::SeqCst)
    }

    /// Lets only so many writes begin, until it is told another number: what is to happen in the middle of the work must not
    /// find it done.
    pub fn allow(&self, writes: usize) {
        self.allowed.store(writes, Ordering::SeqCst);
    }

    /// Tells the writers to give up: the test itself failed.
    pub fn abandon(&self) {
        self.abandoned.store(true, Ordering::SeqCst);
    }

    /// What was acknowledged.
    pub fn acknowledged(&self) -> Vec<Acknowledged> {
        self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Names of writes whose outcome the node called unknown.
    pub fn unknown(&self) -> BTreeSet<String> {
        self.unknown.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn end(&self, name: String, end: End) {
        match end {
            End::Acknowledged(receipt) => {
                let mut list = self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
                list.push(Acknowledged { name, receipt });
            }
            End::Unknown => {
                self.unknown.lock().unwrap_or_else(PoisonError::into_inner).insert(name);
            }
        }
        self.ended.fetch_add(1, Ordering::SeqCst);
    }
}

enum End {
    Acknowledged(String),
    Unknown,
}

/// Takes one write after the other until there are none left.
///
/// # Errors
/// If the node answers something that it must not, or a write does not end in time.
pub fn write(addresses: &[SocketAddr], token: &str, ledger: &Ledger, in_flight: &AtomicUsize) -> Result<()> {
    let client = |address: &SocketAddr| Client::new(*address).bearer(token).timeout(Duration::from_secs(20));
    let mut nodes: Vec<Client> = addresses.iter().map(client).collect();
    loop {
        let number = ledger.next.fetch_add(1, Ordering::SeqCst);
        if number >= ledger.writes || ledger.abandoned.load(Ordering::SeqCst) {
            return Ok(());
        }
        while number >= ledger.allowed.load(Ordering::SeqCst) && !ledger.abandoned.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(1));
        }
        let name = format!("campaign-{}", ledger.first + number);
        let end = until_it_ends(&mut nodes, &name, ledger, in_flight)?;
        ledger.end(name, end);
    }
}

/// A good client: the same key for the same call until there is an answer, at another node if one does not do.
fn until_it_ends(nodes: &mut [Client], name: &str, ledger: &Ledger, in_flight: &AtomicUsize) -> Result<End> {
    let body = json!({"name": name, "budget": 100, "startDate": "2026-12-01"}).to_string();
    let patience = Instant::now() + PATIENCE;
    loop {
        in_flight.fetch_add(1, Ordering::SeqCst);
        let headers = [("idempotency-key", name)];
        let Some(http) = nodes.first_mut() else { bail!("no node") };
        let answer = http.send("POST", "/tools/ads:createCampaign/invoke", &headers, Some(body.as_bytes()));
        in_flight.fetch_sub(1, Ordering::SeqCst);
        if let Ok(answer) = &answer
            && let Some(end) = judge(answer)?
        {
            return Ok(end);
        }
        ensure!(Instant::now() < patience, "{name} did not end in {PATIENCE:?}; last: {answer:?}");
        ensure!(!ledger.abandoned.load(Ordering::SeqCst), "abandoned");
        nodes.rotate_left(1);
        thread::sleep(Duration::from_millis(5));
    }
}

/// `None`: ask again.
fn judge(answer: &Response) -> Result<Option<End>> {
    if answer.status == 200 {
        let body = answer.json()?;
        ensure!(body["status"] == "ok", "the tool failed: {body}");
        let receipt = body["receipt"].as_str().map(str::to_owned);
        return match receipt {
            Some(receipt) => Ok(Some(End::Acknowledged(receipt))),
            None => bail!("an answer without a receipt: {body}"),
        };
    }
    let problem = answer.problem().unwrap_or_default();
    match problem.as_str() {
        "outcome-unknown" => Ok(Some(End::Unknown)),
        // A new process, or the first attempt is still at work.
        "idempotency-in-flight" | "ledger-unavailable" | "upstream-unavailable" | "rate-limited" => Ok(None),
        _ => bail!("HTTP {}: {}", answer.status, answer.json().unwrap_or(Value::Null)),
    }
}
