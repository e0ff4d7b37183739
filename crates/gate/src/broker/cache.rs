//! Tokens in memory: one for each key, fetched by one caller at a time, handed out until shortly before they expire.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use countersign_domain::{Refusal, RefusalKind};

use super::Credential;
use super::oauth::Token;

/// Most tokens of one upstream that are kept.
const MAX_TOKENS: usize = 10_000;
/// How long before its end a token is not handed out any more, at most; short-lived ones keep three quarters of their life.
const MARGIN: Duration = Duration::from_secs(30);
/// How long a failure is remembered: a server in trouble is not asked again by every call.
const FAILURE: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(super) struct TokenCache {
    slots: Mutex<HashMap<String, Arc<Slot>>>,
}

#[derive(Default)]
struct Slot {
    flight: tokio::sync::Mutex<()>,
    held: Mutex<Held>,
}

#[derive(Default)]
enum Held {
    #[default]
    Nothing,
    Token(Arc<Credential>, Instant),
    Failure(Refusal, Instant),
}

impl Slot {
    fn look(&self) -> Option<Result<Arc<Credential>, Refusal>> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        match &*held {
            Held::Token(credential, until) if *until > Instant::now() => Some(Ok(Arc::clone(credential))),
            Held::Failure(refusal, until) if *until > Instant::now() => Some(Err(refusal.clone())),
            Held::Token(..) | Held::Failure(..) | Held::Nothing => None,
        }
    }

    fn hold(&self, new: Held) {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = new;
    }

    fn is_over(&self) -> bool {
        self.look().is_none() && self.flight.try_lock().is_ok()
    }
}

impl TokenCache {
    /// The token of a key; `fetch` gets one where none is held.
    pub(super) async fn get<F>(&self, key: &str, deadline: Instant, fetch: F) -> Result<Arc<Credential>, Refusal>
    where
        F: Future<Output = Result<Token, Refusal>>,
    {
        let slot = self.slot(key);
        if let Some(held) = slot.look() {
            return held;
        }
        let late = || {
            let detail = "no credential for the upstream was to be had in time; nothing was sent to it";
            Refusal::new(RefusalKind::CredentialUnavailable, detail)
        };
        let Ok(_flight) = tokio::time::timeout_at(deadline.into(), slot.flight.lock()).await else {
            return Err(late());
        };
        // Somebody else may have fetched it while this one waited.
        if let Some(held) = slot.look() {
            return held;
        }
        match tokio::time::timeout_at(deadline.into(), fetch).await.unwrap_or_else(|_| Err(late())) {
            Ok(token) => {
                let credential = Arc::new(Credential::bearer(&token.access));
                let life = token.life.saturating_sub(MARGIN.min(token.life / 4));
                slot.hold(Held::Token(Arc::clone(&credential), Instant::now() + life));
                Ok(credential)
            }
            Err(refusal) => {
                slot.hold(Held::Failure(refusal.clone(), Instant::now() + FAILURE));
                Err(refusal)
            }
        }
    }

    /// Forgets a key's token if it is still this one.
    pub(super) fn reject(&self, key: &str, credential: &Arc<Credential>) {
        let slot = self.slots.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned();
        let Some(slot) = slot else { return };
        let mut held = slot.held.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(&*held, Held::Token(current, _) if Arc::ptr_eq(current, credential)) {
            *held = Held::Nothing;
        }
    }

    fn slot(&self, key: &str) -> Arc<Slot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slots.get(key) {
            return Arc::clone(slot);
        }
        if slots.len() >= MAX_TOKENS {
            slots.retain(|_, slot| !slot.is_over());
        }
        if slots.len() >= MAX_TOKENS {
            // All are in use: one of them is fetched again when it is next needed.
            let any = slots.keys().next().cloned();
            any.and_then(|key| slots.remove(&key));
        }
        Arc::clone(slots.entry(key.to_owned()).or_default())
    }
}
