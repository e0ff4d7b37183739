//! Secrets that the operator provides.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use base64::Engine as _;
use countersign_catalog::manifest::credential::{CredentialPlace, StaticCredential};
use countersign_domain::{Principal, Refusal, RefusalKind};

use super::{Credential, CredentialSource, Placement, Secret, read_secret};

pub(super) struct Fixed {
    stated: StaticCredential,
    environment: fn(&str) -> Option<String>,
    /// `None` after the upstream has refused it: a file may hold a new one by now.
    current: Mutex<Option<Arc<Credential>>>,
}

impl Fixed {
    pub(super) fn new(stated: StaticCredential, environment: fn(&str) -> Option<String>) -> Result<Self, String> {
        let first = placed(&stated, &read_secret(&stated.secret, environment)?);
        Ok(Self { stated, environment, current: Mutex::new(Some(Arc::new(first))) })
    }
}

#[async_trait]
impl CredentialSource for Fixed {
    async fn get(&self, _caller: Option<&Principal>, _deadline: Instant) -> Result<Arc<Credential>, Refusal> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(credential) = &*current {
            return Ok(Arc::clone(credential));
        }
        let secret = read_secret(&self.stated.secret, self.environment).map_err(|why| {
            tracing::error!(why, "a secret can't be read");
            let detail = "the secret for the upstream can't be read; the operator sees why in the node's log";
            Refusal::new(RefusalKind::CredentialUnavailable, detail)
        })?;
        let credential = Arc::new(placed(&self.stated, &secret));
        *current = Some(Arc::clone(&credential));
        Ok(credential)
    }

    fn reject(&self, _caller: Option<&Principal>, credential: &Arc<Credential>) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_some_and(|held| Arc::ptr_eq(held, credential)) {
            *current = None;
        }
    }
}

fn placed(stated: &StaticCredential, secret: &Secret) -> Credential {
    let header = |name: &str| Placement::Header { name: name.to_owned() };
    match stated.place {
        CredentialPlace::Basic => {
            let pair = format!("{}:{}", stated.username.as_deref().unwrap_or_default(), secret.expose());
            let encoded = base64::engine::general_purpose::STANDARD.encode(zeroize::Zeroizing::new(pair).as_bytes());
            let secrets = [secret.expose(), encoded.as_str()];
            Credential::new(header("authorization"), format!("Basic {encoded}"), &secrets)
        }
        CredentialPlace::Query => {
            let name = stated.name.clone().unwrap_or_default();
            Credential::new(Placement::Query { name }, secret.expose().to_owned(), &[secret.expose()])
        }
        CredentialPlace::Header => {
            let name = stated.name.as_deref().unwrap_or("authorization");
            let default = if name.eq_ignore_ascii_case("authorization") { "Bearer " } else { "" };
            let prefix = stated.prefix.as_deref().unwrap_or(default);
            Credential::new(header(name), format!("{prefix}{}", secret.expose()), &[secret.expose()])
        }
    }
}
