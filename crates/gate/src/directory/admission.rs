//! Who makes a request, by what it presents: a token, an API key. Then what the directory adds: whether the workspace
//! is there, and which roles were granted.

use std::sync::Arc;
use std::time::Duration;

use countersign_domain::{Principal, Refusal, RefusalKind};
use countersign_ledger::directory::DirectoryKind;
use countersign_ledger::state::StateOp;

use super::{API_KEY_PREFIX, Known};
use crate::gate::Gate;
use crate::identity::Presented;
use crate::meter::Stage;

/// How often a node looks whether another one changed the directory.
const LOOK: Duration = Duration::from_millis(400);
/// The most keys whose use is remembered between two flushes.
const MAX_USED: usize = 10_000;

impl Gate {
    /// Who makes a request that presents this.
    ///
    /// # Errors
    /// [`RefusalKind::Unauthenticated`], or [`RefusalKind::Forbidden`] if its workspace is not there or archived; the caller of
    /// this counts it with [`Gate::note_refusal`].
    pub async fn authenticate(&self, presented: &Presented<'_>) -> Result<Arc<Principal>, Refusal> {
        let _timed = self.meter.time(Stage::Identify);
        let principal = if presented.bearer.starts_with(API_KEY_PREFIX) {
            self.by_api_key(presented)?
        } else {
            self.authenticator.authenticate(presented, self.now()).await?
        };
        self.admit(principal)
    }

    fn by_api_key(&self, presented: &Presented<'_>) -> Result<Arc<Principal>, Refusal> {
        let known = self.directory.load();
        let (id, principal) = known
            .by_api_key(presented.bearer, presented.client, self.now())
            .map_err(|(cause, why)| Refusal::new(RefusalKind::Unauthenticated, why).with("cause", cause))?;
        if let Ok(mut used) = self.used_keys.lock()
            && (used.len() < MAX_USED || used.contains_key(&id))
        {
            used.insert(id, (principal.workspace.clone(), self.now()));
        }
        Ok(Arc::new(principal))
    }

    /// Somebody whom a connection's certificate named, or a token or key: with what was granted, if its workspace is there.
    ///
    /// # Errors
    /// [`RefusalKind::Forbidden`].
    pub fn admit(&self, principal: Arc<Principal>) -> Result<Arc<Principal>, Refusal> {
        let known = self.directory.load();
        let granted = known.roles_of(&principal);
        let principal = match granted {
            None => principal,
            Some(roles) => {
                let mut more = Principal::clone(&principal);
                more.roles.extend(roles.iter().cloned());
                Arc::new(more)
            }
        };
        // Somebody has to be able to register the first workspace.
        if let Err(why) = known.admits(&principal.workspace, self.settings.workspaces)
            && (self.require_operator(&principal).is_err() || known.is_archived(&principal.workspace))
        {
            return Err(Refusal::new(RefusalKind::Forbidden, why).with("cause", "workspace"));
        }
        Ok(principal)
    }

    pub(crate) async fn reload_directory(&self) -> Result<(), Refusal> {
        let directory = self.read(|r| r.directory()).await?;
        // Two that read at once: the newer one stays, whoever comes last.
        self.directory.rcu(|known| match known.version > directory.version {
            true => Arc::clone(known),
            false => Arc::new(Known::of(&directory)),
        });
        Ok(())
    }

    /// Takes over what other nodes changed. Never ends.
    pub(crate) async fn follow_directory(self: Arc<Self>) {
        let mut tick = tokio::time::interval(LOOK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let behind = match self.read(|r| r.directory_version()).await {
                Ok(version) => version > self.directory.load().version,
                // Already logged; the next look comes soon.
                Err(_) => false,
            };
            if behind && let Err(why) = self.reload_directory().await {
                tracing::warn!(%why, "the directory could not be read again");
            }
        }
    }

    /// When API keys were last used, since the last time that this was asked.
    pub(crate) fn drain_used_keys(&self) -> Vec<StateOp> {
        let used = self.used_keys.lock().map(|mut used| std::mem::take(&mut *used)).unwrap_or_default();
        let op = |(name, (workspace, at))| StateOp::DirectoryUsed { kind: DirectoryKind::ApiKey, workspace, name, at };
        used.into_iter().map(op).collect()
    }
}
