//! An upstream whose requests carry credentials: asked for before a call is recorded as about to happen, and taken out of
//! whatever comes back.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use countersign_domain::{Principal, Refusal, UpstreamName};
use countersign_gate::broker::redact::Redactor;
use countersign_gate::broker::{Credential, CredentialSource};
use countersign_gate::permit::Permit;
use countersign_gate::upstream::{
    DiscoverError, Discovered, DispatchError, Exchange, Told, ToolResult, Upstream, UpstreamStatus,
};
use tokio::sync::{broadcast, watch};

/// Around an upstream.
pub(crate) struct Guarded {
    pub inner: Arc<dyn Upstream>,
    pub credentials: Option<Arc<dyn CredentialSource>>,
    /// Over the values of the environment variables that the manifest refers to.
    pub variables: Redactor,
    /// Whether a credential is got for each caller, rather than for the node.
    pub personal: bool,
}

impl Guarded {
    async fn credential(&self, caller: &Principal, deadline: Instant) -> Result<Option<Arc<Credential>>, Refusal> {
        let Some(source) = &self.credentials else { return Ok(None) };
        source.get(Some(caller).filter(|_| self.personal), deadline).await.map(Some)
    }
}

#[async_trait]
impl Upstream for Guarded {
    fn name(&self) -> &UpstreamName {
        self.inner.name()
    }

    async fn ready(&self, principal: &Principal, deadline: Instant) -> Result<(), Refusal> {
        self.credential(principal, deadline).await.map(drop)
    }

    async fn dispatch(&self, permit: Permit, exchange: &dyn Exchange) -> Result<ToolResult, DispatchError> {
        let (caller, deadline) = (permit.principal().clone(), permit.deadline());
        let not_sent = |refusal: Refusal| DispatchError::NotSent(refusal.detail);
        let before = self.credential(&caller, deadline).await.map_err(not_sent)?;
        let outcome = self.variables.outcome(self.inner.dispatch(permit, exchange).await);
        // A token may have been replaced during the call; neither may show.
        let after = self.credential(&caller, deadline).await.ok().flatten();
        before.iter().chain(&after).fold(outcome, |outcome, credential| credential.redactor().outcome(outcome))
    }

    async fn discover(&self) -> Result<Discovered, DiscoverError> {
        self.inner.discover().await.map_err(|error| DiscoverError(self.variables.text(&error.0)))
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changes()
    }

    fn updates(&self) -> broadcast::Receiver<Told> {
        self.inner.updates()
    }

    fn unwatch(&self, uri: &str) {
        self.inner.unwatch(uri);
    }

    fn status(&self) -> UpstreamStatus {
        let status = self.inner.status();
        UpstreamStatus { error: status.error.map(|error| self.variables.text(&error)), ..status }
    }

    async fn shutdown(&self) {
        self.inner.shutdown().await;
    }
}
