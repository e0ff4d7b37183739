//! The keys that sign a workspace's artifacts: made on first use, rotated on schedule and on demand, revoked with a reason. Public halves stay,
//! so that what was signed can be verified.
//!
//! A key is a row of the directory, sealed under the workspace's own key; or a token or a KMS keeps it, and the row says under which name. Of two that nodes make at once the first is the one that signs.
//!
//! A row is rewritten only from what it was when it was read: a revocation waits for no rotation that is under way, here or on another node, and no
//! rotation undoes it. Whoever finds a row changed reads all of them again.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_domain::{EventDraft, EventType, Millis, Principal, Refusal, RefusalKind, WorkspaceName};
use countersign_gate::keyring::Keyring;
use countersign_keys::SigningKeys as Keeper;
use countersign_ledger::directory::{DirectoryKind, DirectoryRow};
use countersign_ledger::state::{Conflict, StateOp};
use countersign_ledger::{Append, AppendError, Entry, Ledger, Reader};
use countersign_proof::digest::Digest;
use countersign_proof::jwk::Jwk;
use countersign_proof::jws::{SIGNATURE_BYTES, signature_from_der};
use countersign_trust::artifact::report::KeyState;
use countersign_trust::keys::Signer;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::Mutex;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::capability::Failure;
use crate::time::rfc3339;
use crate::trust::entropy;

/// The most keys of all workspaces.
const MAX_KEYS: u32 = 100_000;
/// The most keys that a workspace has had, which is what a key set holds.
const MAX_OF_WORKSPACE: usize = 100;
/// Longest reason, in characters.
const MAX_REASON: usize = 200;
/// How often a change is tried, if others change the same keys meanwhile.
const ATTEMPTS: usize = 5;

/// Keeps the keys.
pub(crate) struct SigningKeys {
    ledger: Ledger,
    keyring: Arc<Keyring>,
    /// For how long a key signs.
    rotation: Millis,
    /// Who keeps the keys that are made from now on; without, they are sealed here.
    keeper: Option<Arc<dyn Keeper>>,
    clock: fn() -> Millis,
    /// The keys as of a version of the directory.
    known: Mutex<Option<Known>>,
    /// One key at a time is made.
    making: Mutex<()>,
}

struct Known {
    version: u64,
    keys: Arc<Vec<Key>>,
}

/// What is stored of a key.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Facts {
    created: Millis,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retired: Option<Millis>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    revoked: Option<Revoked>,
    /// The public key, as it is published.
    public: Value,
    /// The secret scalar, sealed and in base64; nothing, where somebody else keeps it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sealed: Option<String>,
    /// Who keeps it, and under which name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kept: Option<Kept>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Kept {
    by: String,
    reference: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Revoked {
    at: Millis,
    reason: String,
}

/// A key of a workspace.
#[derive(Debug, Clone)]
pub(crate) struct Key {
    pub workspace: WorkspaceName,
    pub public: Jwk,
    facts: Facts,
    row: DirectoryRow,
}

impl Key {
    /// What may be done with it.
    pub fn state(&self) -> KeyState {
        match (&self.facts.revoked, self.facts.retired) {
            (Some(revoked), _) => KeyState::Revoked { at: revoked.at / 1000 },
            // What was signed within the second in which it was retired is good.
            (None, Some(at)) => KeyState::Retired { at: at / 1000 },
            (None, None) => KeyState::Active,
        }
    }

    fn signs(&self) -> bool {
        self.state() == KeyState::Active
    }

    /// As administrators see it.
    pub fn shown(&self) -> Value {
        let mut shown = json!({
            "kid": self.public.kid(), "workspace": self.workspace, "created": rfc3339(self.facts.created),
            "state": self.word(), "public": self.facts.public,
            "kept_by": self.facts.kept.as_ref().map_or("database", |kept| kept.by.as_str()),
        });
        if let Some(at) = self.facts.retired {
            shown["retired"] = json!(rfc3339(at));
        }
        if let Some(revoked) = &self.facts.revoked {
            shown["revoked"] = json!({ "at": rfc3339(revoked.at), "reason": revoked.reason });
        }
        shown
    }

    fn word(&self) -> &'static str {
        match self.state() {
            KeyState::Active => "active",
            KeyState::Retired { .. } => "retired",
            KeyState::Revoked { .. } => "revoked",
        }
    }

    /// As it is published. The members of ours are ignored by whoever does not know them (RFC 7517, section 4).
    fn published(&self) -> Value {
        let mut key = self.public.to_value();
        key["countersign_state"] = json!(self.word());
        if let Some(at) = self.facts.retired {
            key["countersign_retired_at"] = json!(at / 1000);
        }
        if let Some(revoked) = &self.facts.revoked {
            key["countersign_revoked_at"] = json!(revoked.at / 1000);
            key["countersign_revocation_reason"] = json!(revoked.reason);
        }
        key
    }
}

impl SigningKeys {
    pub fn new(
        ledger: Ledger,
        keyring: Arc<Keyring>,
        rotation: Millis,
        keeper: Option<Arc<dyn Keeper>>,
        clock: fn() -> Millis,
    ) -> Self {
        Self { ledger, keyring, rotation, keeper, clock, known: Mutex::default(), making: Mutex::default() }
    }

    /// All keys of a workspace, oldest first.
    pub async fn of(&self, workspace: &WorkspaceName) -> Result<Vec<Key>, Failure> {
        let all = self.all().await?;
        Ok(all.iter().filter(|key| key.workspace == *workspace).cloned().collect())
    }

    /// The workspace's key set (RFC 7517). Revoked keys are left out unless they are asked for: a library that looks at nothing but the set must not
    /// accept what they sign.
    pub async fn key_set(&self, workspace: &WorkspaceName, with_revoked: bool) -> Result<Value, Failure> {
        let keys = self.of(workspace).await?;
        let wanted = keys.iter().filter(|key| with_revoked || key.facts.revoked.is_none());
        Ok(json!({ "keys": wanted.map(Key::published).collect::<Vec<_>>() }))
    }

    /// The key that signs now; made if there is none, and followed by another if it has signed for long enough.
    pub async fn current(&self, workspace: &WorkspaceName) -> Result<Key, Failure> {
        match self.signing(workspace).await? {
            Some(key) => Ok(key),
            None => self.made(workspace).await,
        }
    }

    /// Signs a digest with a key: r and s of 32 bytes each.
    ///
    /// # Errors
    /// [`Failure::Outside`] if the key's keeper is away or refuses; else [`Failure::Undone`].
    pub async fn sign(&self, key: &Key, digest: &Digest) -> Result<[u8; SIGNATURE_BYTES], Failure> {
        let Some(kept) = &key.facts.kept else {
            let signer = self.open(key).await?;
            let malformed = || Failure::Undone("the signature is malformed".to_owned());
            return signature_from_der(&signer.sign_digest(digest)).ok_or_else(malformed);
        };
        let keeper = self.keeper.as_ref().filter(|keeper| keeper.provider() == kept.by);
        let keeper = keeper.ok_or_else(|| {
            let (kid, by) = (key.public.kid(), &kept.by);
            Failure::Undone(format!(
                "the signing key {kid} is kept by {by}, which is not configured; configure it, or rotate"
            ))
        })?;
        keeper.sign(&kept.reference, digest).await.map_err(|e| Failure::Outside(format!("nothing was signed: {e}")))
    }

    /// A key that signs and is not too old.
    async fn signing(&self, workspace: &WorkspaceName) -> Result<Option<Key>, Failure> {
        let now = (self.clock)();
        let keys = self.of(workspace).await?;
        // Two nodes that start at once may each make one: the first is the one.
        let current = keys.into_iter().find(Key::signs);
        Ok(current.filter(|key| now < key.facts.created.saturating_add(self.rotation)))
    }

    async fn made(&self, workspace: &WorkspaceName) -> Result<Key, Failure> {
        let _one = self.making.lock().await;
        for _ in 0..ATTEMPTS {
            // Somebody else may have made it meanwhile.
            if let Some(key) = self.signing(workspace).await? {
                return Ok(key);
            }
            if self.replaced(&Principal::node(), workspace, "on schedule").await?.is_some() {
                let gone = || Failure::Undone("the signing key that was made is gone".to_owned());
                return self.signing(workspace).await?.ok_or_else(gone);
            }
        }
        Err(unsettled())
    }

    async fn open(&self, key: &Key) -> Result<Signer, Failure> {
        let undone = |why: String| Failure::Undone(format!("the signing key {}: {why}", key.public.kid()));
        let keys = self.keyring.workspace(&key.workspace).await.map_err(|e| undone(e.to_string()))?;
        let sealed = key.facts.sealed.as_ref().ok_or_else(|| undone("its row holds no key".to_owned()))?;
        let sealed = STANDARD.decode(sealed).map_err(|e| undone(e.to_string()))?;
        let plain = keys.open(&purpose(key.public.kid()), &sealed).map_err(|e| undone(e.to_string()))?;
        let secret: Zeroizing<[u8; 32]> = Zeroizing::new(
            Zeroizing::new(plain).as_slice().try_into().map_err(|_| undone("it is malformed".to_owned()))?,
        );
        Signer::from_bytes(&secret).map_err(|e| undone(e.to_string()))
    }

    /// Retires the keys that sign, and makes the next: one append, so that there is never none.
    ///
    /// # Errors
    /// [`Failure::Exists`] if the workspace has had as many keys as a set holds; [`Failure::Outside`] if who keeps keys makes none.
    pub async fn replace(&self, by: &Principal, workspace: &WorkspaceName, reason: &str) -> Result<Key, Failure> {
        let _one = self.making.lock().await;
        let reason = bounded(reason);
        for _ in 0..ATTEMPTS {
            if let Some(key) = self.replaced(by, workspace, &reason).await? {
                return Ok(key);
            }
        }
        Err(unsettled())
    }

    /// As [`Self::replace`], for who holds [`Self::making`]. Nothing, if a key that signed was changed meanwhile: it may be revoked.
    async fn replaced(&self, by: &Principal, workspace: &WorkspaceName, reason: &str) -> Result<Option<Key>, Failure> {
        let keys = self.of(workspace).await?;
        let had = keys.len();
        if had >= MAX_OF_WORKSPACE {
            return Err(Failure::Exists(format!(
                "{workspace} has had {MAX_OF_WORKSPACE} keys, the most that a set holds"
            )));
        }
        let now = (self.clock)();
        let (mut events, mut ops) = (Vec::new(), Vec::new());
        for mut key in keys.into_iter().filter(Key::signs) {
            key.facts.retired = Some(now);
            let draft = drafted(EventType::KeyRetired, by, &key, now, reason);
            ops.push(key.changed(&draft, now)?);
            events.push(Entry::new(draft.prepare().map_err(|e| Failure::Undone(e.to_string()))?));
        }
        let key = self.generated(workspace, had + 1, now).await?;
        let draft = drafted(EventType::KeyCreated, by, &key, now, reason);
        ops.push(StateOp::DirectoryAdd { row: key.rewritten(&draft, now)?, cap: MAX_KEYS });
        events.push(Entry::new(draft.prepare().map_err(|e| Failure::Undone(e.to_string()))?));
        match self.ledger.append(Append { events, ops, ..Append::default() }).await {
            // Another node found the same key in the token, and was faster.
            Ok(_) | Err(AppendError::Conflict(Conflict::Exists)) => Ok(Some(key)),
            Err(AppendError::Conflict(Conflict::NotFound)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The workspace's key of that number.
    async fn generated(&self, workspace: &WorkspaceName, number: usize, now: Millis) -> Result<Key, Failure> {
        let undone = |why: String| Failure::Undone(format!("no signing key was made: {why}"));
        if let Some(keeper) = &self.keeper {
            // Its own for each installation; found again after a crash that left the key made and the row not.
            let keys = self.keyring.workspace(workspace).await.map_err(|e| undone(e.to_string()))?;
            let mark = keys.fingerprint("signing-key-label", &[workspace.as_str().as_bytes()]);
            let mark: String = mark[..8].iter().map(|byte| format!("{byte:02x}")).collect();
            let made = keeper.create(&format!("countersign/{mark}/{number}")).await;
            let made = made.map_err(|e| Failure::Outside(format!("no signing key was made: {e}")))?;
            let kept = Kept { by: keeper.provider().to_owned(), reference: made.reference };
            let facts = Facts {
                created: now,
                retired: None,
                revoked: None,
                public: made.public.to_value(),
                sealed: None,
                kept: Some(kept),
            };
            return Ok(Key::fresh(workspace, made.public, facts, now));
        }
        let signer = Signer::from_seed(&*entropy().map_err(|e| undone(e.to_string()))?, "artifact");
        let public = signer.jwk();
        let keys = self.keyring.workspace(workspace).await.map_err(|e| undone(e.to_string()))?;
        let sealed = keys.seal(&purpose(public.kid()), &*signer.to_bytes()).map_err(|e| undone(e.to_string()))?;
        let facts = Facts {
            created: now,
            retired: None,
            revoked: None,
            public: public.to_value(),
            sealed: Some(STANDARD.encode(sealed)),
            kept: None,
        };
        Ok(Key::fresh(workspace, public, facts, now))
    }

    /// Says that somebody else may have a key, from now on. At once: it waits for no key that is being made.
    ///
    /// # Errors
    /// [`Failure::NotFound`], [`Failure::Exists`] if it is revoked already.
    pub async fn revoke(
        &self,
        by: &Principal,
        workspace: &WorkspaceName,
        kid: &str,
        reason: &str,
    ) -> Result<Uuid, Failure> {
        let reason = bounded(reason);
        for _ in 0..ATTEMPTS {
            if let Some(event) = self.revoked(by, workspace, kid, &reason).await? {
                return Ok(event);
            }
        }
        Err(unsettled())
    }

    /// As [`Self::revoke`]. Nothing, if the key was changed meanwhile: it may be retired.
    async fn revoked(
        &self,
        by: &Principal,
        workspace: &WorkspaceName,
        kid: &str,
        reason: &str,
    ) -> Result<Option<Uuid>, Failure> {
        let mut key = self
            .of(workspace)
            .await?
            .into_iter()
            .find(|key| key.public.kid() == kid)
            .ok_or_else(|| Failure::NotFound(format!("{workspace} has no key of that name")))?;
        if key.facts.revoked.is_some() {
            return Err(Failure::Exists("the key is revoked already".to_owned()));
        }
        let now = (self.clock)();
        key.facts.revoked = Some(Revoked { at: now, reason: reason.to_owned() });
        let draft = drafted(EventType::KeyRevoked, by, &key, now, reason);
        let event = draft.id;
        let ops = vec![key.changed(&draft, now)?];
        let events = vec![Entry::new(draft.prepare().map_err(|e| Failure::Undone(e.to_string()))?)];
        match self.ledger.append(Append { events, ops, ..Append::default() }).await {
            Ok(_) => Ok(Some(event)),
            Err(AppendError::Conflict(Conflict::NotFound)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn all(&self) -> Result<Arc<Vec<Key>>, Failure> {
        let mut known = self.known.lock().await;
        let version = self.ledger.read(|r: &dyn Reader| r.directory_version()).await?;
        if let Some(known) = known.as_ref().filter(|known| known.version == version) {
            return Ok(Arc::clone(&known.keys));
        }
        let directory = self.ledger.read(|r: &dyn Reader| r.directory()).await?;
        let rows = directory.rows.into_iter().filter(|row| row.kind == DirectoryKind::SigningKey);
        let mut keys = rows.map(Key::read).collect::<Result<Vec<_>, _>>()?;
        keys.sort_by(|a, b| (a.facts.created, a.public.kid()).cmp(&(b.facts.created, b.public.kid())));
        let keys = Arc::new(keys);
        *known = Some(Known { version: directory.version, keys: Arc::clone(&keys) });
        Ok(keys)
    }
}

impl Key {
    fn fresh(workspace: &WorkspaceName, public: Jwk, facts: Facts, now: Millis) -> Self {
        let row = DirectoryRow {
            kind: DirectoryKind::SigningKey,
            workspace: workspace.clone(),
            name: public.kid().to_owned(),
            body: String::new(),
            at: now,
            event: Uuid::nil(),
            used: None,
        };
        Self { workspace: workspace.clone(), public, facts, row }
    }

    fn read(row: DirectoryRow) -> Result<Self, Failure> {
        let undone = |why: String| Failure::Undone(format!("the signing key {}: {why}", row.name));
        let facts: Facts = serde_json::from_str(&row.body).map_err(|e| undone(e.to_string()))?;
        let public = Jwk::parse(facts.public.to_string().as_bytes()).map_err(|e| undone(e.to_string()))?;
        Ok(Self { workspace: row.workspace.clone(), public, facts, row })
    }

    /// The change that this event explains, of a key that is as it was read.
    fn changed(&self, draft: &EventDraft, now: Millis) -> Result<StateOp, Failure> {
        Ok(StateOp::DirectorySet { row: self.rewritten(draft, now)?, from: Some(self.row.event) })
    }

    fn rewritten(&self, draft: &EventDraft, now: Millis) -> Result<DirectoryRow, Failure> {
        let body = serde_json::to_string(&self.facts).map_err(|e| Failure::Undone(e.to_string()))?;
        Ok(DirectoryRow { body, at: now, event: draft.id, ..self.row.clone() })
    }
}

fn drafted(kind: EventType, by: &Principal, key: &Key, now: Millis, reason: &str) -> EventDraft {
    EventDraft::new(Uuid::now_v7(), key.workspace.clone(), kind, now)
        .by(by)
        .with("key", key.public.kid())
        .with("reason_given", Some(reason).filter(|reason| !reason.is_empty()))
}

fn unsettled() -> Failure {
    Failure::Undone(format!("others changed the keys meanwhile, {ATTEMPTS} times in a row"))
}

fn bounded(reason: &str) -> String {
    reason.chars().filter(|c| !c.is_control()).take(MAX_REASON).collect()
}

fn purpose(kid: &str) -> Vec<u8> {
    [b"artifact-signing-key|".as_slice(), kid.as_bytes()].concat()
}

/// A failure as administrators are told of it.
pub(crate) fn refusal(failure: Failure) -> Refusal {
    match failure {
        Failure::NotFound(why) => Refusal::new(RefusalKind::NotFound, why),
        Failure::Exists(why) => Refusal::new(RefusalKind::AlreadyExists, why),
        Failure::Input(why) => Refusal::new(RefusalKind::MalformedRequest, why),
        Failure::Outside(why) | Failure::Partly(why) => Refusal::new(RefusalKind::UpstreamUnavailable, why),
        Failure::Undone(why) | Failure::Unknown(why) => {
            tracing::error!(why, "signing keys cannot be used");
            Refusal::new(RefusalKind::LedgerUnavailable, "the signing keys cannot be used right now; try again later")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    use async_trait::async_trait;
    use countersign_keys::{KeyError, MadeKey};
    use countersign_ledger::LedgerOptions;
    use countersign_store::SqliteStore;
    use tokio::sync::Semaphore;

    use super::*;

    const DAY: Millis = 24 * 3600 * 1000;
    const START: Millis = 1_800_000_000_000;

    /// Keeps keys elsewhere, a new one each time; a test can stop it in the middle, or have it away. It never signs.
    struct Elsewhere {
        holds: AtomicBool,
        is_away: AtomicBool,
        begun: Semaphore,
        go_on: Semaphore,
        made: AtomicU64,
    }

    impl Elsewhere {
        fn new() -> Arc<Self> {
            Arc::new(Self {
                holds: AtomicBool::new(false),
                is_away: AtomicBool::new(false),
                begun: Semaphore::new(0),
                go_on: Semaphore::new(0),
                made: AtomicU64::new(0),
            })
        }

        /// From now on, keys are not made until [`Self::release`].
        fn hold(&self) {
            self.holds.store(true, Ordering::SeqCst);
        }

        /// Waits until so many keys are being made.
        async fn until_asked_for(&self, many: u32) {
            self.begun.acquire_many(many).await.expect("open").forget();
        }

        fn release(&self, many: usize) {
            self.holds.store(false, Ordering::SeqCst);
            self.go_on.add_permits(many);
        }
    }

    #[async_trait]
    impl Keeper for Elsewhere {
        fn provider(&self) -> &'static str {
            "elsewhere"
        }

        async fn create(&self, label: &str) -> Result<MadeKey, KeyError> {
            if self.is_away.load(Ordering::SeqCst) {
                return Err(KeyError::Unavailable("elsewhere does not answer".to_owned()));
            }
            if self.holds.load(Ordering::SeqCst) {
                self.begun.add_permits(1);
                self.go_on.acquire().await.expect("open").forget();
            }
            let number = self.made.fetch_add(1, Ordering::SeqCst);
            let public = Signer::from_seed(&Digest::of(&number.to_be_bytes()).0, "kept").jwk();
            Ok(MadeKey { reference: label.to_owned(), public })
        }

        async fn sign(&self, _: &str, _: &Digest) -> Result<[u8; 64], KeyError> {
            Err(KeyError::Unavailable("elsewhere does not answer".to_owned()))
        }
    }

    fn ledger(dir: &tempfile::TempDir) -> Ledger {
        let store = SqliteStore::open(dir.path().join("countersign.db")).expect("a store");
        let options = LedgerOptions::new("example.org", [7; 32], dir.path().join("head"));
        Ledger::open(store, options).expect("a ledger").0
    }

    /// What a node knows: two of them share nothing but the ledger.
    fn node(ledger: &Ledger, keeper: Option<&Arc<Elsewhere>>, clock: fn() -> Millis) -> SigningKeys {
        let keyring = Keyring::new(&[9; 32], ledger.clone()).expect("a keyring");
        let keeper = keeper.map(|keeper| Arc::clone(keeper) as Arc<dyn Keeper>);
        SigningKeys::new(ledger.clone(), Arc::new(keyring), 90 * DAY, keeper, clock)
    }

    fn clinic() -> WorkspaceName {
        "clinic".parse().expect("a name")
    }

    async fn words(keys: &SigningKeys) -> Vec<&'static str> {
        keys.of(&clinic()).await.expect("read").iter().map(Key::word).collect()
    }

    #[tokio::test]
    async fn a_key_that_is_revoked_while_the_next_one_is_made_stays_revoked() {
        fn clock() -> Millis {
            static NOW: AtomicU64 = AtomicU64::new(START);
            NOW.fetch_add(1, Ordering::SeqCst)
        }
        let dir = tempfile::tempdir().expect("a directory");
        let (ledger, keeper, by) = (ledger(&dir), Elsewhere::new(), Principal::node());
        let (here, there) = (node(&ledger, Some(&keeper), clock), node(&ledger, Some(&keeper), clock));
        let (workspace, mut gone) = (clinic(), Vec::new());
        for revoking in [&here, &there] {
            let old = here.current(&clinic()).await.expect("a key").public.kid().to_owned();
            keeper.hold();
            let revocation = async {
                keeper.until_asked_for(1).await;
                // What signs was read, and its row not yet written.
                let event = revoking.revoke(&by, &clinic(), &old, "a backup was stolen").await;
                keeper.release(1);
                event
            };
            let (made, event) = tokio::join!(here.replace(&by, &workspace, "yearly"), revocation);
            let (made, event) = (made.expect("another key"), event.expect("revoked"));
            gone.push(old);
            let keys = there.of(&clinic()).await.expect("read");
            let revoked: Vec<&Key> = keys.iter().filter(|key| key.facts.revoked.is_some()).collect();
            assert_eq!(revoked.iter().map(|key| key.public.kid()).collect::<Vec<_>>(), gone);
            assert_eq!(revoked.last().map(|key| key.row.event), Some(event), "nothing was written over it");
            assert_eq!(there.current(&clinic()).await.expect("a key").public.kid(), made.public.kid());
        }
        assert_eq!(words(&there).await, ["revoked", "revoked", "active"]);
        let set = there.key_set(&clinic(), false).await.expect("a set");
        assert_eq!(set["keys"].as_array().map(Vec::len), Some(1), "{set}");
        let again = here.revoke(&by, &clinic(), &gone[0], "again").await;
        assert!(matches!(again, Err(Failure::Exists(_))), "{again:?}");
    }

    #[tokio::test]
    async fn a_key_is_followed_by_one_other_when_it_has_signed_for_long_enough() {
        static NOW: AtomicU64 = AtomicU64::new(START);
        fn clock() -> Millis {
            NOW.load(Ordering::SeqCst)
        }
        let dir = tempfile::tempdir().expect("a directory");
        let ledger = ledger(&dir);
        let (here, there) = (node(&ledger, None, clock), node(&ledger, None, clock));
        let current = async |keys: &SigningKeys| keys.current(&clinic()).await.expect("a key").public.kid().to_owned();
        let first = current(&here).await;
        NOW.store(START + 90 * DAY - 1, Ordering::SeqCst);
        assert_eq!((current(&here).await, current(&there).await), (first.clone(), first.clone()));
        NOW.store(START + 90 * DAY, Ordering::SeqCst);
        let second = current(&there).await;
        assert_ne!(second, first);
        assert_eq!(current(&here).await, second);
        let keys = here.of(&clinic()).await.expect("read");
        let states: Vec<KeyState> = keys.iter().map(Key::state).collect();
        assert_eq!(states, [KeyState::Retired { at: (START + 90 * DAY) / 1000 }, KeyState::Active]);

        // Both nodes find out at the same moment, and what each makes is another key.
        NOW.store(START + 180 * DAY, Ordering::SeqCst);
        let keeper = Elsewhere::new();
        let (here, there) = (node(&ledger, Some(&keeper), clock), node(&ledger, Some(&keeper), clock));
        keeper.hold();
        let both = async {
            keeper.until_asked_for(2).await;
            keeper.release(2);
        };
        let (one, other, ()) = tokio::join!(current(&here), current(&there), both);
        assert_eq!(one, other);
        assert_eq!(words(&here).await, ["retired", "retired", "active"]);
    }

    #[tokio::test]
    async fn who_administers_is_told_what_a_keeper_says() {
        fn clock() -> Millis {
            START
        }
        let dir = tempfile::tempdir().expect("a directory");
        let (ledger, keeper, by) = (ledger(&dir), Elsewhere::new(), Principal::node());
        let keys = node(&ledger, Some(&keeper), clock);
        let key = keys.current(&clinic()).await.expect("a key");
        keeper.is_away.store(true, Ordering::SeqCst);
        let signed = keys.sign(&key, &Digest::of(b"x")).await.map(drop);
        let made = keys.replace(&by, &clinic(), "yearly").await.map(drop);
        for failure in [signed, made] {
            let refusal = refusal(failure.expect_err("nobody is there"));
            assert_eq!(refusal.kind, RefusalKind::UpstreamUnavailable, "{refusal:?}");
            assert!(refusal.detail.contains("elsewhere does not answer"), "{refusal:?}");
        }
        assert_eq!(words(&keys).await, ["active"], "nothing is half made");
        // That nobody configured the keeper is this node's own affair.
        let failure = node(&ledger, None, clock).sign(&key, &Digest::of(b"x")).await.expect_err("nobody keeps it");
        assert_eq!(refusal(failure).kind, RefusalKind::LedgerUnavailable);
    }
}
