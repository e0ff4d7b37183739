//! Other people's services that add to signatures, as configured: opened together, and named to verifiers.

use std::sync::Arc;

use countersign_domain::Millis;
use countersign_egress::Egress;
use countersign_ledger::Ledger;
use countersign_trust::root::TrustedRoot;

use super::custody::Custody;
use super::forward::{self, Forwarding};
use super::logs::Logs;
use super::stamping::{self, Stamping};
use crate::config::TrustSettings;

/// The services.
#[derive(Default)]
pub(crate) struct Outside {
    pub(super) stamping: Option<Stamping>,
    pub(super) forwarding: Option<Arc<Forwarding>>,
    pub(super) logs: Logs,
}

impl Outside {
    /// # Errors
    /// In words, if one of them cannot be used as it is configured.
    pub fn open(
        settings: &TrustSettings,
        egress: &Egress,
        (ledger, custody): (&Ledger, &Arc<Custody>),
        clock: fn() -> Millis,
    ) -> Result<Self, String> {
        let stamping = settings.timestamping.as_ref().map(|of| Stamping::open(of, egress, clock)).transpose()?;
        let forward = |of| Forwarding::open(of, egress, ledger.clone(), Arc::clone(custody), clock).map(Arc::new);
        let forwarding = settings.forward.as_ref().map(forward).transpose()?;
        Ok(Self { stamping, forwarding, logs: Logs::open(&settings.logs, egress)? })
    }

    /// What runs in the background.
    pub fn forwarding(&self) -> Option<Arc<Forwarding>> {
        self.forwarding.clone()
    }

    /// Who else is to be trusted by those who verify this node's signatures.
    ///
    /// # Errors
    /// In words.
    pub fn published(settings: &TrustSettings) -> Result<TrustedRoot, String> {
        let mut root = TrustedRoot::default();
        if let Some(of) = &settings.timestamping {
            root.timestamp_authorities = stamping::authorities(of)?;
        }
        if let Some(of) = &settings.forward {
            root.logs.push(forward::log_of(of)?);
        }
        Ok(root)
    }
}
