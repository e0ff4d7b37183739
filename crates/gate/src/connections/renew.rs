//! The token for a call on behalf of a person, renewed when it has had its time.
//!
//! A provider may give a new refresh token with every renewal and end all of them when an old one comes back (RFC 9700, 4.14).
//! So one renewal runs at a time, on whichever node: a process has one for each person, and nodes take a pause of the database
//! for as long as it lasts. What comes back is stored before it is used, against the version that was renewed. A renewal
//! goes on when its caller has left.
//!
//! What is true if the process dies: before the provider answers, the old token is still there; between its answer and our
//! commit, the new one is lost, and the provider decides whether the old one is still good. If not, the person connects again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use countersign_domain::{EventDraft, EventType, Millis, Principal, Refusal, RefusalKind};
use countersign_ledger::connections::{ConnectionKey, ConnectionRow};
use countersign_ledger::state::{Conflict, Fingerprint, StateOp};
use countersign_ledger::{Append, AppendError};
use serde_json::json;

use super::client::Newcomer;
use super::{Account, Connections, Provider, Tokens, Way, account, connected};
use crate::broker::oauth::TokenError;
use crate::broker::{Credential, CredentialSource};
use crate::gate::ledger_away;
use crate::record;

/// How long the provider has to answer.
const ANSWER: Duration = Duration::from_secs(15);
/// How long a node keeps others from renewing the same; longer than everything that it does meanwhile.
const LEASE: Millis = 30_000;
/// How long a node waits for another's renewal, and how often it looks.
const WAIT: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(200);
/// How long a failure is remembered: a provider in trouble is not asked again by every call.
const FAILURE: Duration = Duration::from_secs(2);
/// A token that is refused so soon after it was taken over is not renewed: the reason is another one.
const YOUNG: Millis = 10_000;
/// How often a renewed token is tried to be stored before the call is given up; the next call goes on trying.
const STORES: u32 = 3;
/// Most people of one upstream whose tokens are kept opened.
const MAX_SLOTS: usize = 10_000;

/// The accounts of an upstream's people (`type: user`).
pub(super) struct UserTokens(Arc<Inner>);

struct Inner {
    hub: Arc<Connections>,
    provider: Arc<Provider>,
    slots: Mutex<HashMap<String, Arc<Slot>>>,
}

/// One person's.
#[derive(Default)]
struct Slot {
    flight: tokio::sync::Mutex<()>,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    current: Option<Current>,
    failed: Option<(Refusal, Instant)>,
    /// Renewed, but not stored yet: what it follows, and the row.
    unsaved: Option<(Fingerprint, Box<ConnectionRow>)>,
}

struct Current {
    version: Fingerprint,
    credential: Arc<Credential>,
    /// When the provider gave it.
    given: Millis,
    usable: Millis,
    refused: bool,
}

/// What a look at the stored row found.
enum Found {
    Ready(Arc<Credential>),
    Stale(Box<ConnectionRow>),
}

impl Slot {
    fn held(&self) -> std::sync::MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn recent_failure(&self) -> Option<Refusal> {
        let held = self.held();
        held.failed.as_ref().filter(|(_, until)| *until > Instant::now()).map(|(refusal, _)| refusal.clone())
    }

    fn is_idle(&self) -> bool {
        self.flight.try_lock().is_ok() && self.held().unsaved.is_none()
    }
}

impl UserTokens {
    pub(super) fn new(hub: Arc<Connections>, provider: Arc<Provider>) -> Self {
        Self(Arc::new(Inner { hub, provider, slots: Mutex::default() }))
    }
}

#[async_trait]
impl CredentialSource for UserTokens {
    async fn get(&self, caller: Option<&Principal>, deadline: Instant) -> Result<Arc<Credential>, Refusal> {
        let caller = caller.ok_or_else(|| {
            Refusal::new(RefusalKind::CredentialUnavailable, "this upstream is only reached on behalf of a person")
        })?;
        let key = self.0.key(caller).ok_or_else(|| {
            let upstream = &self.0.provider.manifest.upstream;
            self.0.hub.needed(upstream, caller, "no person is behind this call (use a token with sub and act)")
        })?;
        let slot = self.0.slot(&key);
        // A token was refused: that of another authorization server would be, too, and its person has to know.
        if let Way::Found(finder) = &self.0.provider.way
            && finder.is_doubted()
        {
            tokio::time::timeout_at(deadline.into(), finder.find()).await.unwrap_or_else(|_| Err(late()))?;
        }
        if let Found::Ready(credential) = self.0.look(&slot, &key, caller).await? {
            return Ok(credential);
        }
        if let Some(refusal) = slot.recent_failure() {
            return Err(refusal);
        }
        let (inner, caller) = (Arc::clone(&self.0), caller.clone());
        // On its own: a token that was renewed for a caller who left is still the only good one.
        let renewing = tokio::spawn(async move { inner.renew(&slot, &key, &caller).await });
        match tokio::time::timeout_at(deadline.into(), renewing).await {
            Ok(Ok(renewed)) => renewed,
            Ok(Err(error)) => {
                tracing::error!(%error, "a renewal ended early");
                Err(Refusal::new(RefusalKind::Internal, "the renewal of the credential ended early"))
            }
            Err(_) => Err(late()),
        }
    }

    fn reject(&self, caller: Option<&Principal>, credential: &Arc<Credential>) {
        let Some(key) = caller.and_then(|caller| self.0.key(caller)) else { return };
        let slot = self.0.slot(&key);
        let mut held = slot.held();
        if let Some(current) = &mut held.current
            && Arc::ptr_eq(&current.credential, credential)
        {
            current.refused |= self.0.hub.now() >= current.given.saturating_add(YOUNG);
        }
        drop(held);
        if let Way::Found(finder) = &self.0.provider.way {
            finder.doubt();
        }
    }

    async fn insufficient(&self, caller: Option<&Principal>, scopes: &[String]) -> Option<Refusal> {
        let caller = caller.filter(|_| matches!(self.0.provider.way, Way::Found(_)))?;
        self.0.hub.step_up(&self.0.key(caller)?, caller, scopes).await
    }
}

impl Inner {
    fn key(&self, caller: &Principal) -> Option<ConnectionKey> {
        Some(connected(&caller.workspace, &self.provider.manifest.upstream, caller.person_key()?))
    }

    fn slot(&self, key: &ConnectionKey) -> Arc<Slot> {
        let name = format!("{}\n{}", key.workspace, key.person);
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slots.get(&name) {
            return Arc::clone(slot);
        }
        if slots.len() >= MAX_SLOTS {
            // What is dropped is read again from the database.
            slots.retain(|_, slot| Arc::strong_count(slot) > 1 || !slot.is_idle());
        }
        Arc::clone(slots.entry(name).or_default())
    }

    /// What is stored now: other nodes may have renewed it, and its person may have taken it back.
    async fn look(&self, slot: &Slot, key: &ConnectionKey, caller: &Principal) -> Result<Found, Refusal> {
        let needed = |why: &str| self.hub.needed(&key.upstream, caller, why);
        let row = self.hub.row(key).await?.ok_or_else(|| needed("none is connected yet"))?;
        let account = account(&row)?;
        if let Some(why) = &account.broken {
            return Err(needed(&format!("the one that was connected is of no use any more: {why}")));
        }
        if self.provider.is_foreign(&account) {
            return Err(needed(
                "the one that was connected is of another authorization server than the upstream names now",
            ));
        }
        let now = self.hub.now();
        if let Some(current) = slot.held().current.as_ref().filter(|current| current.version == row.version) {
            return Ok(match now < current.usable && !current.refused {
                true => Found::Ready(Arc::clone(&current.credential)),
                false => Found::Stale(Box::new(row)),
            });
        }
        if now >= account.usable {
            return Ok(Found::Stale(Box::new(row)));
        }
        let tokens = self.hub.tokens(&row).await?;
        Ok(Found::Ready(self.hold(slot, row.version, &tokens, &account)))
    }

    fn hold(&self, slot: &Slot, version: Fingerprint, tokens: &Tokens, account: &Account) -> Arc<Credential> {
        let credential = Arc::new(Credential::bearer(&tokens.access));
        let (given, usable) = (account.renewed.unwrap_or(account.connected), account.usable);
        let current = Current { version, credential: Arc::clone(&credential), given, usable, refused: false };
        let mut held = slot.held();
        held.current = Some(current);
        held.failed = None;
        credential
    }

    async fn renew(&self, slot: &Slot, key: &ConnectionKey, caller: &Principal) -> Result<Arc<Credential>, Refusal> {
        let _one_at_a_time = slot.flight.lock().await;
        self.save_what_waits(slot, key).await?;
        if let Found::Ready(credential) = self.look(slot, key, caller).await? {
            return Ok(credential);
        }
        if let Some(refusal) = slot.recent_failure() {
            return Err(refusal);
        }
        let renewed = self.renew_among_nodes(slot, key, caller).await;
        if let Err(refusal) = &renewed {
            slot.held().failed = Some((refusal.clone(), Instant::now() + FAILURE));
        }
        renewed
    }

    /// Takes the lease, or waits until another node has renewed it.
    async fn renew_among_nodes(
        &self,
        slot: &Slot,
        key: &ConnectionKey,
        caller: &Principal,
    ) -> Result<Arc<Credential>, Refusal> {
        let keys = self.hub.keys(&key.workspace).await?;
        let lease = keys.fingerprint("connection-renewal", &[key.upstream.as_str().as_bytes(), key.person.as_bytes()]);
        let until = Instant::now() + WAIT;
        loop {
            let take = StateOp::CooldownBegin { key: lease, pause: LEASE };
            match self.hub.ledger.append(Append { events: vec![], ops: vec![take], ..Append::default() }).await {
                Ok(_) => break,
                Err(AppendError::Conflict(Conflict::CoolingDown { .. })) if Instant::now() < until => {}
                Err(AppendError::Conflict(_)) => return Err(late()),
                Err(error) => return Err(away(&error)),
            }
            tokio::time::sleep(LOOK).await;
            if let Found::Ready(credential) = self.look(slot, key, caller).await? {
                return Ok(credential);
            }
        }
        // The one before may have renewed it just now.
        let renewed = match self.look(slot, key, caller).await {
            Ok(Found::Ready(credential)) => Ok(credential),
            Ok(Found::Stale(row)) => self.renew_alone(slot, *row, caller).await,
            Err(refusal) => Err(refusal),
        };
        let give_back = StateOp::CooldownDrop { key: lease };
        if let Err(error) =
            self.hub.ledger.append(Append { events: vec![], ops: vec![give_back], ..Append::default() }).await
        {
            tracing::warn!(%error, "a lease was not given back; it ends by itself");
        }
        renewed
    }

    async fn renew_alone(
        &self,
        slot: &Slot,
        row: ConnectionRow,
        caller: &Principal,
    ) -> Result<Arc<Credential>, Refusal> {
        let tokens = self.hub.tokens(&row).await?;
        let Some(refresh) = tokens.refresh else {
            let why = "its access token has ended, and the provider gave nothing to renew it with";
            return Err(self.give_up(&row, caller, why).await);
        };
        let mut account = account(&row)?;
        let workspace = &row.key.workspace;
        let known = self.hub.known(&self.provider, workspace, account.issuer.as_deref(), Newcomer::Stays).await?;
        let parameters = [("grant_type", "refresh_token"), ("refresh_token", refresh.expose())];
        match known.client.ask(&parameters, Instant::now() + ANSWER).await {
            Ok(token) => {
                let now = self.hub.now();
                account.take(&token, now);
                account.renewed = Some(now);
                let tokens = Tokens { access: token.access, refresh: token.refresh.or(Some(refresh)) };
                self.store(slot, &row, &tokens, &account).await
            }
            Err(TokenError::Refused { code, .. }) if code == "invalid_grant" => {
                Err(self.give_up(&row, caller, "the provider does not renew it any more (invalid_grant)").await)
            }
            // Registered by the node itself, and forgotten there: nothing but a new start helps.
            Err(TokenError::Refused { code, .. })
                if code == "invalid_client" && matches!(self.provider.way, Way::Found(_)) =>
            {
                self.hub.unregister(&self.provider, workspace, &known).await;
                Err(self.give_up(&row, caller, "the authorization server does not know this node any more").await)
            }
            Err(error) => Err(error.refusal()),
        }
    }

    /// Stores renewed tokens; only then are they handed out.
    async fn store(
        &self,
        slot: &Slot,
        before: &ConnectionRow,
        tokens: &Tokens,
        account: &Account,
    ) -> Result<Arc<Credential>, Refusal> {
        let made = self.hub.sealed(before.key.clone(), crate::entropy::<32>(), account, &tokens.bytes(), None).await?;
        let row = ConnectionRow { event: before.event, ..made };
        slot.held().unsaved = Some((before.version, Box::new(row.clone())));
        for attempt in 1..=STORES {
            match self.save(&before.version, &row).await {
                Ok(true) => {
                    slot.held().unsaved = None;
                    return Ok(self.hold(slot, row.version, tokens, account));
                }
                Ok(false) => {
                    slot.held().unsaved = None;
                    self.hub.withdraw_of(&self.provider, &before.key.workspace, account, tokens).await;
                    let detail = "the connection was taken back or made anew while it was renewed; try again";
                    return Err(Refusal::new(RefusalKind::CredentialUnavailable, detail));
                }
                Err(refusal) if attempt == STORES => return Err(refusal),
                Err(_) => tokio::time::sleep(LOOK * attempt).await,
            }
        }
        Err(ledger_away())
    }

    /// Whether the row is stored now: it was, or what it follows was still there.
    async fn save(&self, from: &Fingerprint, row: &ConnectionRow) -> Result<bool, Refusal> {
        let put = StateOp::ConnectionPut { row: Box::new(row.clone()), from: Some(*from) };
        match self.hub.ledger.append(Append { events: vec![], ops: vec![put], ..Append::default() }).await {
            Ok(_) => Ok(true),
            // After an answer that was lost it may be there already.
            Err(AppendError::Conflict(_)) => {
                Ok(self.hub.row(&row.key).await?.is_some_and(|there| there.version == row.version))
            }
            Err(error) => Err(away(&error)),
        }
    }

    /// What the ledger could not take before.
    async fn save_what_waits(&self, slot: &Slot, key: &ConnectionKey) -> Result<(), Refusal> {
        let waits = slot.held().unsaved.clone();
        let Some((from, row)) = waits.filter(|(_, row)| row.key == *key) else { return Ok(()) };
        let saved = self.save(&from, &row).await?;
        slot.held().unsaved = None;
        if !saved {
            self.hub.withdraw(&row).await;
        }
        Ok(())
    }

    /// Marks a connection as broken, with an event, and forgets its secrets; nobody tries it again.
    async fn give_up(&self, row: &ConnectionRow, caller: &Principal, why: &str) -> Refusal {
        let marked = self.mark_broken(row, why).await;
        match marked {
            Ok(()) => {
                let why = format!("the one that was connected is of no use any more: {why}");
                self.hub.needed(&row.key.upstream, caller, &why)
            }
            Err(refusal) => refusal,
        }
    }

    async fn mark_broken(&self, row: &ConnectionRow, why: &str) -> Result<(), Refusal> {
        let mut account = account(row)?;
        account.broken = Some(why.to_owned());
        tracing::warn!(upstream = %row.key.upstream, why, "a person's connection is broken");
        let of =
            json!({"upstream": row.key.upstream, "person": account.principal.id, "issuer": account.principal.issuer});
        let workspace = row.key.workspace.clone();
        let draft = EventDraft::new(record::event_id(), workspace, EventType::ConnectionBroken, self.hub.now())
            .by(&Principal::node())
            .with("connection", of)
            .with("reason", why);
        let body = serde_json::to_string(&account)
            .map_err(|_| Refusal::new(RefusalKind::Internal, "the connection could not be written"))?;
        let (at, event) = (self.hub.now(), Some(draft.id));
        let (key, version) = (row.key.clone(), crate::entropy::<32>());
        let broken = ConnectionRow { key, version, body, sealed: Vec::new(), expires: None, at, event };
        let entry = record::entry(draft, None, Some(account.principal.id), None)?;
        let put = StateOp::ConnectionPut { row: Box::new(broken), from: Some(row.version) };
        match self.hub.ledger.append(Append { events: vec![entry], ops: vec![put], ..Append::default() }).await {
            // It was taken back or made anew meanwhile.
            Ok(_) | Err(AppendError::Conflict(_)) => Ok(()),
            Err(error) => Err(away(&error)),
        }
    }
}

fn away(error: &AppendError) -> Refusal {
    tracing::error!(%error, "a connection could not be stored");
    ledger_away()
}

fn late() -> Refusal {
    let detail = "no credential for the upstream was to be had in time; nothing was sent to it";
    Refusal::new(RefusalKind::CredentialUnavailable, detail)
}
