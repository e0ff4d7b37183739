//! This node as a witness: a checkpoint is cosigned once its log signed it, it extends what was cosigned before, and that is
//! durable.

use countersign_domain::{EventDraft, EventType, Millis, Principal, WorkspaceName};
use countersign_ledger::state::{Conflict, StateOp};
use countersign_ledger::witness::WitnessedRow;
use countersign_ledger::{Append, AppendError, Entry, Ledger, StoreError};
use countersign_proof::canonical::CanonicalError;
use countersign_proof::cosignature::cosign;
use countersign_proof::digest::Digest;
use countersign_proof::note::{NoteError, NoteSigner, VerifierKey};
use countersign_proof::witness::{AddCheckpoint, Authentic, Refusal, TreeHead, decide};
use serde_json::json;
use tokio::sync::Mutex;
use uuid::Uuid;

use crate::config::WitnessForSettings;

/// How often a request is decided again because another node cosigned something else meanwhile.
const TRIES: u32 = 4;
/// Evidence larger than this is only named by its digest in an event. Checkpoints have some hundred bytes.
const MAX_EVIDENCE: usize = 8 * 1024;

/// The witness of a node.
pub(crate) struct Witness {
    signer: NoteSigner,
    logs: Vec<VerifierKey>,
    ledger: Ledger,
    clock: fn() -> Millis,
    /// Held from reading what was cosigned to persisting what is: requests follow one another, so that the times of
    /// cosignatures do too. Only checkpoints that their logs signed come this far.
    turn: Mutex<()>,
}

/// Why there is no cosignature.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failed {
    /// The witness says no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The node cannot answer now.
    #[error("{0}")]
    Unavailable(String),
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

impl Witness {
    pub(crate) fn new(
        settings: &WitnessForSettings,
        seed: [u8; 32],
        ledger: Ledger,
        clock: fn() -> Millis,
    ) -> Result<Self, NoteError> {
        let signer = NoteSigner::from_seed(&settings.name, seed)?;
        Ok(Self { signer, logs: settings.logs.clone(), ledger, clock, turn: Mutex::default() })
    }

    /// What others verify its cosignatures with.
    pub(crate) fn key(&self) -> VerifierKey {
        self.signer.cosignature_key()
    }

    /// The logs that it knows.
    pub(crate) fn logs(&self) -> &[VerifierKey] {
        &self.logs
    }

    /// Answers an add-checkpoint request: the cosignature's line, with its newline.
    pub(crate) async fn add_checkpoint(&self, body: &[u8]) -> Result<String, Failed> {
        let request = AddCheckpoint::parse(body)?;
        let request = request.authenticate(&self.logs)?;
        let _turn = self.turn.lock().await;
        for _ in 0..TRIES {
            let origin = request.checkpoint().origin.clone();
            let latest = self.ledger.read(move |reader| reader.witnessed(&origin)).await?;
            let head = match decide(latest.as_ref().map(|row| row.head), request) {
                Ok(head) => head,
                Err(refusal) => {
                    self.report(request, latest.as_ref(), &refusal).await;
                    return Err(refusal.into());
                }
            };
            // Taken before: at this time nothing larger had been cosigned.
            let now = (self.clock)();
            if self.persist(request, latest.as_ref(), head, now).await? {
                return cosign(request.body(), &self.signer, now / 1000)
                    .map_err(|error| Failed::Unavailable(error.to_string()));
            }
        }
        Err(Failed::Unavailable("other requests for this log were always faster; try again".to_owned()))
    }

    /// Makes the head the latest one; false if another was made that meanwhile.
    async fn persist(
        &self,
        request: Authentic<'_>,
        latest: Option<&WitnessedRow>,
        head: TreeHead,
        now: Millis,
    ) -> Result<bool, Failed> {
        // Anyone can repeat a request. On a log of our own, whoever has the turn sees the latest state.
        if latest.is_some_and(|row| row.head == head) && !self.ledger.is_shared() {
            return Ok(true);
        }
        let row = WitnessedRow {
            origin: request.checkpoint().origin.clone(),
            head,
            checkpoint: request.signed(),
            at: now,
            forked: None,
        };
        let ops = vec![StateOp::Witness { row: Box::new(row), from: latest.map(|row| row.head) }];
        match self.ledger.append(Append { ops, ..Append::default() }).await {
            Ok(_) => Ok(true),
            Err(AppendError::Conflict(_)) => Ok(false),
            Err(error) => Err(Failed::Unavailable(error.to_string())),
        }
    }

    /// A fork is an event, once for each size of a log: the two checkpoints in it are all that anyone needs who has the log's
    /// key.
    async fn report(&self, request: Authentic<'_>, latest: Option<&WitnessedRow>, refusal: &Refusal) {
        let (Refusal::Fork { .. }, Some(latest)) = (refusal, latest) else {
            // Anyone can repeat what a log signed, so that this must not be loud.
            return tracing::debug!(log = %request.checkpoint().origin, %refusal, "a checkpoint was not cosigned");
        };
        if latest.forked == Some(latest.head.size) {
            return;
        }
        let event = match fork_event(request, latest, (self.clock)()) {
            Ok(event) => event,
            // Only sizes that no log has do not fit into an event.
            Err(error) => {
                return tracing::error!(log = %latest.origin, %error, "FORK, and no event could be made of it");
            }
        };
        match self.ledger.append(event).await {
            Ok(_) => tracing::error!(
                log = %latest.origin, size = latest.head.size,
                "FORK: this log signed two different trees of the same size; the second was not cosigned, and both are in the event"
            ),
            Err(AppendError::Conflict(Conflict::Exists | Conflict::NotFound)) => {}
            Err(error) => tracing::error!(
                log = %latest.origin, size = latest.head.size, %error,
                "FORK: this log signed two different trees of the same size, and the event could not be recorded"
            ),
        }
    }
}

fn fork_event(request: Authentic<'_>, latest: &WitnessedRow, now: Millis) -> Result<Append, CanonicalError> {
    let evidence = |note: &str| match note.len() > MAX_EVIDENCE {
        true => json!({ "digest": Digest::of(note.as_bytes()).to_string() }),
        false => json!(note),
    };
    let (size, origin) = (latest.head.size, latest.origin.clone());
    let draft = EventDraft::new(Uuid::now_v7(), WorkspaceName::node(), EventType::WitnessFork, now)
        .by(&Principal::node())
        .with("origin", origin.as_str())
        .with("size", size)
        .with("cosigned", evidence(&latest.checkpoint))
        .with("refused", evidence(&request.signed()));
    let events = vec![Entry::new(draft.prepare()?)];
    Ok(Append { events, ops: vec![StateOp::WitnessFork { origin, size }], ..Append::default() })
}
