//! Asking this log's witnesses: in rounds, never on a request's way. All witnesses that can be asked are asked for the same
//! checkpoint, the newest, since a quorum needs them on one.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use countersign_domain::Millis;
use countersign_egress::{Egress, EgressError, Purpose, PurposeClient};
use countersign_ledger::state::StateOp;
use countersign_ledger::witness::CosignatureRow;
use countersign_ledger::{Append, Head, Ledger};
use countersign_proof::note::SignedNote;
use countersign_proof::witness::{Answer, Asked, Cosignature, MAX_ANSWER_BYTES, PATH, read_answer, request};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Method};
use serde_json::{Value, json};
use url::Url;

use crate::config::WitnessSettings;
use crate::rounds::{Rounds, rest_after};

/// At most one round in this time: receipts need no more.
const PERIOD: Duration = Duration::from_secs(1);
/// How long one request may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// Requests to one witness in a round: one to learn its size, one with the proof, one for a change in between.
const TRIES: u32 = 3;
/// How long nodes that share a log leave a round to one of them, in ms, should it not end it itself.
const LEASE: Millis = 60_000;

/// The log's side of witnessing.
pub(crate) struct Asking {
    ledger: Ledger,
    rounds: Rounds,
    witnesses: Vec<Cosigner>,
    clock: fn() -> Millis,
}

/// A witness, and how it stands.
struct Cosigner {
    settings: WitnessSettings,
    target: Url,
    client: PurposeClient,
    state: Mutex<State>,
}

#[derive(Debug, Clone, Default)]
struct State {
    /// Shard and size of the latest checkpoint that the witness is known to have cosigned.
    latest: Option<(u32, u64)>,
    failures: u32,
    not_before: Option<Instant>,
    /// What went wrong the last time, since the last success.
    trouble: Option<String>,
}

/// Why a witness did not cosign.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("{0}")]
    Network(#[from] EgressError),
    #[error("the ledger: {0}")]
    Ledger(String),
    #[error("it cosigned {0} leaves already, more than the log shows here")]
    Ahead(u64),
    #[error("FORK: it cosigned another tree of {0} leaves under this log's name")]
    Forked(u64),
    #[error("it does not find the tree consistent with what it cosigned before: {0}")]
    Inconsistent(String),
    #[error("it does not know this log; its operator has to add the log's key")]
    UnknownLog,
    #[error("it does not accept this log's key, or does not know the log")]
    KeyRefused,
    #[error("it cannot answer now (status {0})")]
    Busy(u16),
    #[error("{0}")]
    Unusable(String),
}

impl Trouble {
    /// Whether somebody has to look at it: histories that do not fit.
    fn is_alarming(&self) -> bool {
        matches!(self, Self::Forked(_) | Self::Inconsistent(_) | Self::Ahead(_))
    }
}

impl Asking {
    /// The witnesses of the configuration; `None` if there are none.
    pub(crate) fn new(
        settings: &[WitnessSettings],
        egress: &Egress,
        ledger: Ledger,
        clock: fn() -> Millis,
    ) -> Result<Option<Arc<Self>>, String> {
        let witness = |settings: &WitnessSettings| -> Result<Cosigner, String> {
            let name = settings.key.name();
            let target = settings.url.join(PATH).map_err(|error| format!("witness {name}: {error}"))?;
            let client = egress.client_for(Purpose::Witness, &target);
            let client = client.map_err(|error| format!("witness {name}: {error}"))?;
            Ok(Cosigner { settings: settings.clone(), target, client, state: Mutex::default() })
        };
        let witnesses = settings.iter().map(witness).collect::<Result<Vec<_>, _>>()?;
        let rounds = Rounds::new(ledger.clone(), "a round of asking witnesses".to_owned(), LEASE);
        Ok((!witnesses.is_empty()).then(|| Arc::new(Self { ledger, rounds, witnesses, clock })))
    }

    /// Asks for as long as it is polled.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut tick = tokio::time::interval(PERIOD);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut remembered = false;
        loop {
            tick.tick().await;
            if !remembered {
                remembered = self.remember().await;
            }
            self.round().await;
        }
    }

    /// What witnesses gave before this start.
    async fn remember(&self) -> bool {
        let shard = self.ledger.head().shard;
        let rows = match self.ledger.read(move |reader| reader.newest_cosignatures(shard)).await {
            Ok(rows) => rows,
            Err(error) => {
                tracing::debug!(%error, "what witnesses cosigned could not be read");
                return false;
            }
        };
        for witness in &self.witnesses {
            let own = witness.settings.key.to_string();
            if let Some(row) = rows.iter().find(|row| row.witness == own) {
                witness.state().latest = Some((row.shard, row.size));
            }
        }
        true
    }

    async fn round(&self) {
        let head = self.ledger.head();
        let now = Instant::now();
        let due = || self.witnesses.iter().filter(|witness| witness.is_due(&head, now));
        if due().next().is_none() || !self.rounds.begin().await {
            return;
        }
        if self.rounds.are_shared() && !self.remember().await {
            return;
        }
        // Looked at again: by now it is known what other nodes asked for.
        let head = &head;
        let asked = due().map(|witness| async move { witness.note(head, self.ask(witness, head).await) });
        futures_util::future::join_all(asked).await;
        self.rounds.end().await;
    }

    async fn ask(&self, witness: &Cosigner, head: &Head) -> Result<(), Trouble> {
        let text = SignedNote::parse(&head.checkpoint).map_err(|error| Trouble::Ledger(error.to_string()))?;
        let latest = witness.state().latest;
        let mut old = latest.filter(|(shard, size)| *shard == head.shard && *size <= head.size).map_or(0, |at| at.1);
        for _ in 0..TRIES {
            let asked = Asked { old, size: head.size, body: text.text() };
            match self.exchange(witness, head, asked).await? {
                Answer::Cosigned(cosignature) => return self.keep(witness, head, &cosignature).await,
                Answer::StartFrom(size) => old = size,
                Answer::Ahead(size) => return Err(Trouble::Ahead(size)),
                Answer::Forked => return Err(Trouble::Forked(head.size)),
                Answer::Inconsistent(words) => return Err(Trouble::Inconsistent(words)),
                Answer::UnknownLog => return Err(Trouble::UnknownLog),
                Answer::KeyRefused => return Err(Trouble::KeyRefused),
                Answer::Busy(status) => return Err(Trouble::Busy(status)),
                Answer::Unusable(words) => return Err(Trouble::Unusable(words)),
            }
        }
        Err(Trouble::Unusable("it named another size each time".to_owned()))
    }

    async fn exchange(&self, witness: &Cosigner, head: &Head, asked: Asked<'_>) -> Result<Answer, Trouble> {
        let proof = self.ledger.consistency(head.shard, asked.old, head.size).await;
        let proof = proof.map_err(|error| Trouble::Ledger(error.to_string()))?;
        let proof = proof.ok_or_else(|| Trouble::Ledger(format!("no proof from {} leaves", asked.old)))?;
        let body = Bytes::from(request(asked.old, &proof, &head.checkpoint));
        let deadline = Instant::now() + DEADLINE;
        let sent = witness.client.send(Method::POST, &witness.target, HeaderMap::new(), body, deadline);
        let response = sent.await?;
        let status = response.status().as_u16();
        let kind = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let answer = response.bytes(MAX_ANSWER_BYTES, deadline).await?;
        Ok(read_answer(status, kind.as_deref(), &answer, asked, &witness.settings.key))
    }

    async fn keep(&self, witness: &Cosigner, head: &Head, given: &Cosignature) -> Result<(), Trouble> {
        let row = CosignatureRow {
            shard: head.shard,
            size: head.size,
            witness: witness.settings.key.to_string(),
            line: given.signature.to_string(),
            checkpoint: head.checkpoint.clone(),
            at: (self.clock)(),
        };
        let ops = vec![StateOp::Cosignature { row: Box::new(row) }];
        let kept = self.ledger.append(Append { ops, ..Append::default() }).await;
        kept.map(drop).map_err(|error| Trouble::Ledger(error.to_string()))
    }

    /// How the witnesses stand, for people. `rows` are the newest cosignatures of the open shard.
    pub(crate) fn describe(&self, rows: &[CosignatureRow]) -> Vec<Value> {
        let head = self.ledger.head();
        let describe = |witness: &Cosigner| {
            let key = witness.settings.key.to_string();
            let newest = rows.iter().find(|row| row.witness == key);
            let state = witness.state().clone();
            json!({
                "name": witness.settings.key.name(),
                "url": witness.settings.url.as_str(),
                "vkey": key,
                "size": newest.map(|row| row.size),
                "at": newest.map(|row| row.at),
                "behind": newest.map(|row| head.size.saturating_sub(row.size)),
                "failures": state.failures,
                "trouble": state.trouble,
            })
        };
        self.witnesses.iter().map(describe).collect()
    }
}

impl Cosigner {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_due(&self, head: &Head, now: Instant) -> bool {
        let state = self.state();
        // Another node may have shown it more than this one knows of.
        let has_it = state.latest.is_some_and(|(shard, size)| shard == head.shard && size >= head.size);
        !has_it && state.not_before.is_none_or(|at| at <= now)
    }

    fn note(&self, head: &Head, result: Result<(), Trouble>) {
        let name = self.settings.key.name();
        let mut state = self.state();
        let Err(trouble) = result else {
            if state.failures > 0 {
                tracing::info!(witness = name, size = head.size, "the witness cosigns again");
            }
            *state = State { latest: Some((head.shard, head.size)), ..State::default() };
            return;
        };
        let words = trouble.to_string();
        // The same trouble is written down once.
        if state.trouble.as_ref() != Some(&words) {
            match trouble.is_alarming() {
                true => {
                    tracing::error!(witness = name, log = %head.origin, size = head.size, "a witness did not cosign: {words}")
                }
                false => tracing::warn!(witness = name, size = head.size, "a witness did not cosign: {words}"),
            }
        }
        let rest = rest_after(state.failures);
        state.failures = state.failures.saturating_add(1);
        state.not_before = Some(Instant::now() + rest);
        state.trouble = Some(words);
    }
}
