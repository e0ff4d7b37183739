//! Work in the background that nodes sharing a log leave to one of them at a time: its rounds, and the rest after trouble.

use std::time::Duration;

use countersign_domain::Millis;
use countersign_ledger::state::StateOp;
use countersign_ledger::{Append, AppendError, Ledger};
use countersign_proof::digest::Digest;

/// After trouble nothing is done for this long, doubling up to the longest.
const FIRST_REST: Duration = Duration::from_secs(2);
const LAST_REST: Duration = Duration::from_secs(300);

/// The rounds of one kind of work.
pub(crate) struct Rounds {
    ledger: Ledger,
    /// Such as `a round of asking witnesses`; the same for all nodes.
    what: String,
    /// How long a round is left to one node, in ms, should it not end it itself.
    lease: Millis,
}

impl Rounds {
    pub fn new(ledger: Ledger, what: String, lease: Millis) -> Self {
        Self { ledger, what, lease }
    }

    /// Whether others may have done rounds meanwhile.
    pub fn are_shared(&self) -> bool {
        self.ledger.is_shared()
    }

    /// Whether the next round is this node's.
    pub async fn begin(&self) -> bool {
        if !self.are_shared() {
            return true;
        }
        let ops = vec![StateOp::CooldownBegin { key: self.key(), pause: self.lease }];
        match self.ledger.append(Append { ops, ..Append::default() }).await {
            Ok(_) => true,
            Err(AppendError::Conflict(_)) => false,
            Err(error) => {
                tracing::debug!(%error, "{} was not begun", self.what);
                false
            }
        }
    }

    /// Ends the round that this node began.
    pub async fn end(&self) {
        if !self.are_shared() {
            return;
        }
        let ops = vec![StateOp::CooldownDrop { key: self.key() }];
        if let Err(error) = self.ledger.append(Append { ops, ..Append::default() }).await {
            tracing::debug!(%error, "{} was not ended; it ends by itself", self.what);
        }
    }

    fn key(&self) -> [u8; 32] {
        Digest::of_parts(&[b"countersign: ", self.what.as_bytes()]).0
    }
}

/// How long to rest after so many failures in a row before this one.
pub(crate) fn rest_after(failures: u32) -> Duration {
    FIRST_REST.saturating_mul(1 << failures.min(16)).min(LAST_REST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests_double_up_to_the_longest() {
        let seconds = [0, 1, 2, 7, 8, u32::MAX].map(|failures| rest_after(failures).as_secs());
        assert_eq!(seconds, [2, 4, 8, 256, 300, 300]);
    }
}
