//! Handing this log's public entries, and its checkpoints, on to a log of Rekor's second version that somebody else runs: in the
//! background, in the order of this log, a few at a time.
//!
//! What is to be done follows from the ledger alone ([`super::forwarded`]), so that nothing is lost when a node stops in between. An entry
//! that was handed on and not yet recorded is handed on again; the log then says that it has it, and its proof is read from the log's
//! tiles. Of several nodes one at a time forwards.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use countersign_domain::{Millis, WorkspaceName};
use countersign_egress::{Egress, EgressError, Purpose, PurposeClient};
use countersign_ledger::leaf::EntryRow;
use countersign_ledger::state::StateOp;
use countersign_ledger::trust::{TrustKind, TrustRow};
use countersign_ledger::{Append, AppendError, Head, Ledger, Reader, StoreError};
use countersign_proof::digest::Digest;
use countersign_proof::note::MAX_NOTE_BYTES;
use countersign_trust::certificate::Identity;
use countersign_trust::forward::{
    Answer, ENTRIES_PATH, FromTiles, INDEX_HEADER, MAX_ANSWER_BYTES, MAX_TILE_BYTES, ProofError, TILES_PATH, pick,
    read_answer,
};
use countersign_trust::hashedrekord::HashedRekord;
use countersign_trust::root::{LogInstance, TrustedRoot};
use countersign_trust::sign::{Payload, Signatory, Unlogged, prepare};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method};
use serde_json::{Value, json};
use url::Url;
use uuid::Uuid;

use super::custody::{Custody, entropy};
use super::file;
use super::forwarded::{
    About, Draft, Kept, MOST_COUNTED, Place, Settled, about_entry, cursor, entry_row, newest, next, row, waiting,
};
use crate::config::ForwardSettings;
use crate::rounds::{Rounds, rest_after};
use crate::time::rfc3339;

/// At most one round in this time.
const PERIOD: Duration = Duration::from_secs(1);
/// Entries of one round, which are handed on at the same time: the log answers all of them with its next checkpoint.
const BATCH: u32 = 16;
/// Batches that are looked through for one with something left to do, in a round.
const MAX_SETTLED: u32 = 64;
/// Answers to one entry that are no good before it is given up, as long as the log takes others.
const MAX_TRIES: u32 = 10;
/// How long nodes that share a log leave a round to one of them, in ms, should it not end it itself.
const LEASE: Millis = 90_000;

/// Forwarding to one log.
pub(crate) struct Forwarding {
    ledger: Ledger,
    rounds: Rounds,
    custody: Arc<Custody>,
    http: PurposeClient,
    settings: ForwardSettings,
    log: Arc<LogInstance>,
    clock: fn() -> Millis,
    state: Mutex<State>,
    /// Since this node started.
    logged: AtomicU64,
    refused: AtomicU64,
    failures: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    cursor: Option<Place>,
    /// Bad answers to entries that are not yet settled.
    tries: HashMap<Uuid, u32>,
    failures: u32,
    not_before: Option<Instant>,
    trouble: Option<String>,
}

/// Why something was not handed on.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("{0}")]
    Network(#[from] EgressError),
    #[error("it cannot take entries now: {0}")]
    Away(String),
    #[error("its answer is not used: {0}")]
    Unusable(String),
    #[error("the ledger: {0}")]
    Ledger(String),
    #[error("{0}")]
    Here(String),
}

impl Trouble {
    /// Whether it is about this entry, and not about the log as a whole.
    fn is_answer(&self) -> bool {
        matches!(self, Self::Unusable(_))
    }
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        Self::Ledger(error.to_string())
    }
}

impl From<AppendError> for Trouble {
    fn from(error: AppendError) -> Self {
        Self::Ledger(error.to_string())
    }
}

impl From<ProofError> for Trouble {
    fn from(error: ProofError) -> Self {
        Self::Unusable(error.to_string())
    }
}

/// The log that the settings name.
///
/// # Errors
/// In words, if the trusted root cannot be read or does not name it.
pub(super) fn log_of(settings: &ForwardSettings) -> Result<LogInstance, String> {
    let path = settings.trusted_root.display();
    let bytes = file(&settings.trusted_root).map_err(|e| format!("[trust.forward]: {path}: {e}"))?;
    let root = TrustedRoot::parse(&bytes).map_err(|e| format!("[trust.forward]: {path}: {e}"))?;
    pick(&root, &settings.origin).cloned().map_err(|e| format!("[trust.forward]: {path}: {e}"))
}

impl Forwarding {
    /// # Errors
    /// In words, if the log is not known well enough or a way out cannot be set up.
    pub fn open(
        settings: &ForwardSettings,
        egress: &Egress,
        ledger: Ledger,
        custody: Arc<Custody>,
        clock: fn() -> Millis,
    ) -> Result<Self, String> {
        let log = Arc::new(log_of(settings)?);
        let http = egress.client_for(Purpose::Log, &settings.url).map_err(|e| format!("[trust.forward]: {e}"))?;
        let what = format!("a round of forwarding to {}", log.origin());
        Ok(Self {
            rounds: Rounds::new(ledger.clone(), what, LEASE),
            ledger,
            custody,
            http,
            settings: settings.clone(),
            log,
            clock,
            state: Mutex::default(),
            logged: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        })
    }

    /// The log's origin.
    pub fn origin(&self) -> &str {
        self.log.origin()
    }

    /// Forwards for as long as it is polled.
    pub async fn run(self: Arc<Self>) {
        let mut tick = tokio::time::interval(PERIOD);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            if self.state().not_before.is_some_and(|at| at > Instant::now()) {
                continue;
            }
            let (progress, result) = self.round().await;
            self.note(progress, result);
        }
    }

    /// Whether something was settled, and what went wrong besides.
    async fn round(&self) -> (bool, Result<(), Trouble>) {
        let mut progress = false;
        let result = async {
            let head = self.ledger.head();
            if !self.is_something_due(&head).await? || !self.rounds.begin().await {
                return Ok(());
            }
            if self.rounds.are_shared() {
                // Another node may have gone on meanwhile.
                self.state().cursor = None;
            }
            let outcome = self.forward(&head, &mut progress).await;
            self.rounds.end().await;
            outcome
        };
        let result = result.await;
        (progress, result)
    }

    async fn forward(&self, head: &Arc<Head>, progress: &mut bool) -> Result<(), Trouble> {
        let entries = match self.settings.entries {
            true => self.entries(head, progress).await,
            false => Ok(()),
        };
        // The checkpoint is as good a sign of life where entries are stuck.
        let checkpoint = self.checkpoint(head, progress).await;
        entries.and(checkpoint)
    }

    async fn is_something_due(&self, head: &Arc<Head>) -> Result<bool, Trouble> {
        if self.checkpoint_is_due(head).await? {
            return Ok(true);
        }
        if !self.settings.entries {
            return Ok(false);
        }
        let Some(from) = self.position().await? else { return Ok(true) };
        let under = Arc::clone(head);
        let (rows, _) = self.ledger.read(move |reader| next(reader, &under, from, 1)).await?;
        Ok(!rows.is_empty())
    }

    /// Up to where everything is settled; nothing where forwarding has yet to begin.
    async fn position(&self) -> Result<Option<Place>, Trouble> {
        if let Some(known) = self.state().cursor {
            return Ok(Some(known));
        }
        let (origin, backlog) = (self.origin().to_owned(), self.settings.backlog);
        let read = move |reader: &dyn Reader| {
            let start = newest(reader, &origin, About::Start)?;
            // Turning the backlog on later begins again with the first entry; what is settled is passed over.
            match start.is_some_and(|(_, kept)| kept.backlog || !backlog) {
                true => cursor(reader, &origin),
                false => Ok(None),
            }
        };
        let found = self.ledger.read(read).await?;
        self.state().cursor = found;
        Ok(found)
    }

    /// Where forwarding begins, recorded.
    async fn started(&self, head: &Head) -> Result<Place, Trouble> {
        if let Some(known) = self.position().await? {
            return Ok(known);
        }
        let backlog = self.settings.backlog;
        let after = if backlog { Place::default() } else { Place::end_of(head) };
        let at = (self.clock)();
        let artifact = Digest::of(head.checkpoint.as_bytes());
        let draft = Draft { log: self.origin(), about: About::Start, of: None, artifact, at };
        let start = row(&draft, None, &Kept { after, backlog, ..Kept::default() });
        // Of nodes that start at the same time, one says where forwarding begins.
        let what: &[u8] = if backlog { b"everything" } else { b"what follows" };
        let once: [&[u8]; 4] =
            [b"countersign: where forwarding begins, with ", what, b", to ", self.origin().as_bytes()];
        let once = Digest::of_parts(&once).0;
        let ops =
            vec![StateOp::CooldownBegin { key: once, pause: LEASE }, StateOp::TrustRecord { row: Box::new(start) }];
        match self.ledger.append(Append { ops, ..Append::default() }).await {
            Ok(_) => {
                self.state().cursor = Some(after);
                Ok(after)
            }
            Err(error @ AppendError::Conflict(_)) => self.position().await?.ok_or_else(|| error.into()),
            Err(error) => Err(error.into()),
        }
    }

    /// Records where forwarding begins, before anything is signed that would have to be forwarded.
    ///
    /// # Errors
    /// In words.
    pub async fn begin_here(&self) -> Result<(), String> {
        if !self.settings.entries {
            return Ok(());
        }
        let started = self.started(&self.ledger.head()).await;
        started.map(drop).map_err(|e| format!("[trust.forward]: {e}"))
    }

    async fn record(&self, rows: Vec<TrustRow>) -> Result<(), Trouble> {
        let ops = rows.into_iter().map(|row| StateOp::TrustRecord { row: Box::new(row) }).collect();
        self.ledger.append(Append { ops, ..Append::default() }).await?;
        Ok(())
    }

    /// A batch of entries.
    async fn entries(&self, head: &Arc<Head>, progress: &mut bool) -> Result<(), Trouble> {
        let mut from = self.started(head).await?;
        for _ in 0..MAX_SETTLED {
            let (under, origin) = (Arc::clone(head), self.origin().to_owned());
            let read = move |reader: &dyn Reader| {
                let (rows, after) = next(reader, &under, from, BATCH)?;
                let settled =
                    |row: &EntryRow| Ok(about_entry(reader, row.id)?.iter().any(|(known, _)| known.signer == origin));
                let rows: Result<Vec<_>, StoreError> =
                    rows.into_iter().map(|row| settled(&row).map(|settled| (row, settled))).collect();
                Ok((rows?, after))
            };
            let (rows, after) = self.ledger.read(read).await?;
            if rows.iter().any(|(_, settled)| !settled) {
                return self.batch(rows, from, progress).await;
            }
            if rows.is_empty() {
                break;
            }
            from = after;
            self.state().cursor = Some(after);
        }
        Ok(())
    }

    async fn batch(&self, rows: Vec<(EntryRow, bool)>, from: Place, progress: &mut bool) -> Result<(), Trouble> {
        let asked = rows.iter().map(|(row, settled)| async move {
            match settled {
                true => None,
                false => Some(self.hand_on(&row.body).await),
            }
        });
        let answers = futures_util::future::join_all(asked).await;
        let taken = answers.iter().flatten().any(Result::is_ok);
        let (mut settled, mut trouble) = (Vec::new(), None);
        let (mut after, mut unbroken) = (from, true);
        for ((row, _), answer) in rows.iter().zip(answers) {
            match answer.map(|answer| answer.or_else(|error| self.given_up(row.id, error, taken))) {
                None => {}
                Some(Ok(how)) => settled.push((row, how)),
                Some(Err(error)) => (unbroken, trouble) = (false, Some(error)),
            }
            if unbroken {
                after = Place::after(row);
            }
        }
        self.count(settled.iter().map(|(_, how)| how));
        let at = (self.clock)();
        let kept: Vec<_> =
            settled.into_iter().map(|(row, how)| entry_row(self.origin(), row, how, after, at)).collect();
        if !kept.is_empty() {
            self.record(kept).await?;
            *progress = true;
        }
        let mut state = self.state();
        state.cursor = Some(after);
        state.tries.retain(|id, _| rows.iter().any(|(row, _)| row.id == *id));
        trouble.map_or(Ok(()), Err)
    }

    fn count<'a>(&self, settled: impl Iterator<Item = &'a Settled>) {
        for how in settled {
            let counter = match how {
                Settled::Logged(_) => &self.logged,
                Settled::Refused(_) => &self.refused,
            };
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What is answered badly again and again is set aside, where the log takes others: it must not hold them up.
    fn given_up(&self, id: Uuid, error: Trouble, others_were_taken: bool) -> Result<Settled, Trouble> {
        if !error.is_answer() && !others_were_taken {
            return Err(error);
        }
        let mut state = self.state();
        let tries = state.tries.entry(id).or_default();
        *tries += 1;
        if *tries < MAX_TRIES {
            return Err(error);
        }
        state.tries.remove(&id);
        Ok(Settled::Refused(format!("given up after {MAX_TRIES} tries: {error}")))
    }

    /// One entry, until the log has it or will not have it.
    async fn hand_on(&self, leaf: &[u8]) -> Result<Settled, Trouble> {
        let request = match HashedRekord::parse_body(leaf) {
            Ok(record) => record.to_request(),
            Err(error) => return Ok(Settled::Refused(format!("it cannot be asked for: {error}"))),
        };
        let deadline = Instant::now() + self.settings.timeout;
        let url = self.settings.url.join(ENTRIES_PATH).map_err(|e| Trouble::Here(e.to_string()))?;
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let response = self.http.send(Method::POST, &url, headers, Bytes::from(request), deadline).await?;
        let status = response.status().as_u16();
        let index = response.headers().get(INDEX_HEADER).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let body = response.bytes(MAX_ANSWER_BYTES, deadline).await?;
        let (log, own) = (Arc::clone(&self.log), leaf.to_vec());
        let answer = blocking(move || read_answer(status, index.as_deref(), &body, &own, &log)).await?;
        match answer {
            Answer::Logged(entry, _) => Ok(Settled::Logged(entry)),
            Answer::Exists(index) => self.in_tiles(index, leaf, deadline).await,
            Answer::Refused(why) => Ok(Settled::Refused(why)),
            Answer::Away(why) => Err(Trouble::Away(why)),
            Answer::Unusable(why) => Err(Trouble::Unusable(why)),
        }
    }

    /// The proof of an entry that the log has already.
    async fn in_tiles(&self, index: u64, leaf: &[u8], deadline: Instant) -> Result<Settled, Trouble> {
        let there = |error: Trouble| Trouble::Unusable(format!("it has the entry at {index} already; {error}"));
        let base = self.settings.url.join(TILES_PATH).map_err(|e| Trouble::Here(e.to_string()))?;
        let note = self.get(&base, "checkpoint", MAX_NOTE_BYTES, deadline).await.map_err(there)?;
        let proof = FromTiles::new(index, &note)?;
        let mut tiles = BTreeMap::new();
        for tile in proof.tiles() {
            tiles.insert(tile, self.get(&base, &tile.path(), MAX_TILE_BYTES, deadline).await.map_err(there)?.to_vec());
        }
        let (log, leaf) = (Arc::clone(&self.log), leaf.to_vec());
        let (entry, _) = blocking(move || proof.finish(&tiles, &leaf, &log)).await?.map_err(Trouble::from)?;
        Ok(Settled::Logged(Box::new(entry)))
    }

    async fn get(&self, base: &Url, path: &str, limit: usize, deadline: Instant) -> Result<Bytes, Trouble> {
        let url = base.join(path).map_err(|e| Trouble::Here(e.to_string()))?;
        let response = self.http.send(Method::GET, &url, HeaderMap::new(), Bytes::new(), deadline).await?;
        match response.status().as_u16() {
            200 => Ok(response.bytes(limit, deadline).await?),
            status => Err(Trouble::Unusable(format!("{path}: status {status}"))),
        }
    }

    async fn checkpoint_is_due(&self, head: &Arc<Head>) -> Result<bool, Trouble> {
        let Some(interval) = self.settings.checkpoints else { return Ok(false) };
        if head.size == 0 {
            return Ok(false);
        }
        let origin = self.origin().to_owned();
        let last = self.ledger.read(move |reader| newest(reader, &origin, About::Checkpoint)).await?;
        let interval = Millis::try_from(interval.as_millis()).unwrap_or(Millis::MAX);
        Ok(last.is_none_or(|(row, kept)| {
            (self.clock)() >= row.at.saturating_add(interval) && Place::end_of(head) > kept.after
        }))
    }

    /// The newest checkpoint, signed under the node's own identity with a key that is certified for that alone.
    async fn checkpoint(&self, head: &Arc<Head>, progress: &mut bool) -> Result<(), Trouble> {
        if !self.checkpoint_is_due(head).await? {
            return Ok(());
        }
        let note = head.checkpoint.clone();
        let signed = self.signed(&note).await?;
        let settled = self.hand_on(signed.leaf()).await?;
        self.count(std::iter::once(&settled));
        let logged = matches!(settled, Settled::Logged(_));
        let bundle = match &settled {
            Settled::Logged(entry) => serde_json::from_slice(&signed.logged_as(*entry.clone()).to_json()).ok(),
            Settled::Refused(why) => {
                tracing::warn!(log = self.origin(), "a checkpoint was not taken: {why}");
                None
            }
        };
        let (_, mut kept) = settled.into_kept(Place::end_of(head));
        kept.bundle = bundle;
        let (artifact, at) = (Digest::of(note.as_bytes()), (self.clock)());
        kept.checkpoint = Some(note);
        let draft = Draft { log: self.origin(), about: About::Checkpoint, of: None, artifact, at };
        self.record(vec![row(&draft, Some(logged), &kept)]).await?;
        *progress = true;
        Ok(())
    }

    async fn signed(&self, note: &str) -> Result<Unlogged, Trouble> {
        let here = |error: &dyn ToString| Trouble::Here(error.to_string());
        let authorities = self.custody.authorities().await.map_err(|e| here(&e))?;
        let issuer = self.custody.issuer().to_owned();
        let identity = Identity::uri(&format!("{issuer}/log")).map_err(|e| here(&e))?;
        let (seed, now, digest) = (entropy().map_err(|e| here(&e))?, (self.clock)(), Digest::of(note.as_bytes()));
        let sign = move || {
            let who = Signatory { identity: &identity, issuer: &issuer };
            prepare(&authorities.current, who, &Payload::Artifact(digest), &seed, now)
        };
        blocking(sign).await?.map_err(|e| here(&e))
    }

    fn note(&self, progress: bool, result: Result<(), Trouble>) {
        let mut state = self.state();
        if progress {
            (state.failures, state.not_before) = (0, None);
        }
        let Err(trouble) = result else {
            if progress && state.trouble.take().is_some() {
                tracing::info!(log = self.origin(), "entries are forwarded again");
            }
            return;
        };
        self.failures.fetch_add(1, Ordering::Relaxed);
        let words = trouble.to_string();
        // The same trouble is written down once.
        if state.trouble.as_ref() != Some(&words) {
            match trouble.is_answer() {
                true => tracing::error!(log = self.origin(), "not forwarded: {words}"),
                false => tracing::warn!(log = self.origin(), "not forwarded: {words}"),
            }
        }
        let rest = rest_after(state.failures);
        state.failures = state.failures.saturating_add(1);
        state.not_before = Some(Instant::now() + rest);
        state.trouble = Some(words);
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many entries wait: what a metric says.
    pub async fn waiting(&self) -> Result<u64, StoreError> {
        if !self.settings.entries {
            return Ok(0);
        }
        let (head, origin) = (self.ledger.head(), self.origin().to_owned());
        self.ledger.read(move |reader| waiting(reader, &head, &origin)).await
    }

    /// What this node did since its start, by result.
    pub fn counts(&self) -> [(&'static str, u64); 3] {
        [("logged", &self.logged), ("refused", &self.refused), ("failed", &self.failures)]
            .map(|(name, counter)| (name, counter.load(Ordering::Relaxed)))
    }

    /// How forwarding stands, over all nodes; the last problem is this node's.
    pub async fn describe(&self) -> Result<Value, StoreError> {
        let origin = self.origin().to_owned();
        let read = move |reader: &dyn Reader| {
            let counts = reader.trust_counts(&WorkspaceName::node())?;
            Ok((counts, newest(reader, &origin, About::Checkpoint)?))
        };
        let (counts, checkpoint) = self.ledger.read(read).await?;
        let sum = |about: About, logged: bool| -> u64 {
            let of = counts.iter().filter(|c| c.kind == TrustKind::Forward && c.signer == self.origin());
            of.filter(|c| c.artifact_type == about.as_str() && c.valid == Some(logged)).map(|c| c.count).sum()
        };
        let waiting = self.waiting().await?;
        Ok(json!({
            "log": self.origin(),
            "forwarded": sum(About::Entry, true),
            "refused": sum(About::Entry, false),
            "waiting": waiting,
            "waiting_is_more": waiting >= MOST_COUNTED,
            "checkpoints": sum(About::Checkpoint, true),
            "last_checkpoint": checkpoint.map(|(row, kept)| json!({
                "entry_id": row.id.to_string(), "at": rfc3339(row.at), "size": kept.after.index,
                "logged": row.valid == Some(true), "reason": kept.reason,
            })),
            "last_problem": self.state().trouble.clone(),
        }))
    }
}

/// Off the threads that serve requests.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Trouble> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Trouble::Here(e.to_string()))
}
