//! An MCP server that is called in the names of callers, and asked what it offers in the node's own.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use countersign_catalog::manifest::AccountRef;
use countersign_domain::{Principal, PrincipalKind, Refusal};

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

    async fn insufficient(&self, caller: Option<&Principal>, scopes: &[String]) -> Option<Refusal> {
        match (caller, &self.own) {
            (Some(_), _) => self.callers.insufficient(caller, scopes).await,
            (None, Some(own)) => own.insufficient(None, scopes).await,
            (None, None) => None,
        }
    }
}

/// The account of one person, whom the operator named, for what the node asks in its own name.
pub(super) struct Lent {
    person: Principal,
    callers: Arc<dyn CredentialSource>,
}

impl Lent {
    pub(super) fn new(of: &AccountRef, callers: Arc<dyn CredentialSource>) -> Self {
        let person = Principal {
            kind: PrincipalKind::Person,
            id: of.person.clone(),
            issuer: of.issuer.clone(),
            workspace: of.workspace.clone(),
            ..Principal::node()
        };
        Self { person, callers }
    }
}

#[async_trait]
impl CredentialSource for Lent {
    async fn get(&self, _caller: Option<&Principal>, deadline: Instant) -> Result<Arc<Credential>, Refusal> {
        self.callers.get(Some(&self.person), deadline).await
    }

    fn reject(&self, _caller: Option<&Principal>, credential: &Arc<Credential>) {
        self.callers.reject(Some(&self.person), credential);
    }

    async fn insufficient(&self, _caller: Option<&Principal>, scopes: &[String]) -> Option<Refusal> {
        self.callers.insufficient(Some(&self.person), scopes).await
    }
}
