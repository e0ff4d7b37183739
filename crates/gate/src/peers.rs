//! What other nodes of a shared log change, noticed here: freezes, definitions, and how requests stand.
//!
//! The database keeps a list of changes, which every node reads five times a second on a connection of its own. A node that
//! could not read it for a second no longer knows what is frozen, and refuses calls until it can. A log of one process has no
//! such list, and nothing here runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use countersign_domain::Refusal;
use countersign_ledger::StoreError;
use countersign_ledger::contract::Changes;

use crate::gate::{Gate, ledger_away};

/// How often a node looks.
const LOOK: Duration = Duration::from_millis(200);
/// A node that has not looked for this long is blind.
const BLIND: Duration = Duration::from_secs(1);

/// When this node last knew what the others had changed.
pub(crate) struct Peers {
    shared: bool,
    epoch: Instant,
    /// Milliseconds from `epoch` to the beginning of the last look that was followed through.
    looked: AtomicU64,
}

impl Peers {
    pub(crate) fn new(shared: bool) -> Self {
        Self { shared, epoch: Instant::now(), looked: AtomicU64::new(0) }
    }

    fn note(&self, at: Instant) {
        let millis = at.saturating_duration_since(self.epoch).as_millis();
        self.looked.store(u64::try_from(millis).unwrap_or(u64::MAX), Ordering::Release);
    }

    /// Refuses while the node does not know what is frozen elsewhere.
    pub(crate) fn require_sight(&self) -> Result<(), Refusal> {
        if !self.shared {
            return Ok(());
        }
        let looked = self.epoch + Duration::from_millis(self.looked.load(Ordering::Acquire));
        if looked.elapsed() > BLIND { Err(ledger_away()) } else { Ok(()) }
    }
}

impl Gate {
    /// Follows the other nodes until the task is aborted.
    pub(crate) async fn follow_peers(self: Arc<Self>) {
        let mut since = None;
        let mut away = false;
        let mut tick = tokio::time::interval(LOOK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let started = Instant::now();
            match self.look(since).await {
                Ok(next) => {
                    since = Some(next);
                    away = false;
                    self.peers.note(started);
                }
                Err(error) => {
                    if !std::mem::replace(&mut away, true) {
                        tracing::error!(%error, "the other nodes' changes cannot be read; calls are refused until they can");
                    }
                }
            }
        }
    }

    async fn look(&self, since: Option<u64>) -> Result<u64, String> {
        let reader = self.ledger.reader();
        let read = tokio::task::spawn_blocking(move || reader.changes(since)).await;
        let changes = read.map_err(|e| e.to_string())?.map_err(|e: StoreError| e.to_string())?;
        let next = changes.next;
        self.adopt(changes).await.map_err(|refusal| refusal.detail)?;
        Ok(next)
    }

    async fn adopt(&self, changes: Changes) -> Result<(), Refusal> {
        if changes.everything || changes.freezes {
            self.reload_freezes().await?;
        }
        if changes.everything || changes.pins {
            match self.registry.rebuild().await {
                Ok(()) => drop(self.reload_policies().await),
                Err(error) => tracing::error!(%error, "the tools that another node accepted could not be read"),
            }
        }
        if changes.everything {
            self.waiters.notify_all();
        }
        changes.requests.iter().for_each(|request| self.waiters.notify(*request));
        Ok(())
    }
}
