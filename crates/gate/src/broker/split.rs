//! An MCP server that is called in the names of callers, and asked what it offers in the node's own.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use countersign_domain::{Principal, Refusal};

use super::{Credential, CredentialSource};

pub(super) struct Split {
    /// For callers.
    pub callers: Arc<dyn CredentialSource>,
    /// For the node itself; without it, the node's requests carry nothing.
    pub own: Option<Arc<dyn CredentialSource>>,
}

#[async_trait]
impl CredentialSource for Split {
    async fn get(&self, caller: Option<&Principal>, deadline: Instant) -> Result<Arc<Credential>, Refusal> {
        match (caller, &self.own) {
            (Some(_), _) => self.callers.get(caller, deadline).await,
            (None, Some(own)) => own.get(None, deadline).await,
            (None, None) => Ok(Arc::new(Credential::nothing())),
        }
    }

    fn reject(&self, caller: Option<&Principal>, credential: &Arc<Credential>) {
        match (caller, &self.own) {
            (Some(_), _) => self.callers.reject(caller, credential),
            (None, Some(own)) => own.reject(None, credential),
            (None, None) => {}
        }
    }
}
