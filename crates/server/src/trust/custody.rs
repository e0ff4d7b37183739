//! The node's certificate, SCT and timestamp authorities: made by the first node that starts to sign, sealed in the directory under the node's own key, and
//! the same for all nodes of a database; followed by others on schedule and on demand. What verifiers need of them, and of the log, is published: retired
//! ones, too, each with its time.
//!
//! A row is rewritten only from what it was when it was read, so that no rotation undoes what another node said meanwhile, such as that an authority
//! leaked: whoever finds a row changed reads all of them again.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_domain::{EventDraft, EventType, Millis, Principal, WorkspaceName};
use countersign_gate::keyring::Keyring;
use countersign_ledger::directory::{DirectoryKind, DirectoryRow};
use countersign_ledger::state::{Conflict, StateOp};
use countersign_ledger::{Append, AppendError, Entry, Ledger, Reader, StoreError};
use countersign_proof::digest::Digest;
use countersign_proof::note::VerifierKey;
use countersign_trust::authority::{Authority, LEAF_SECONDS, MAX_ORGANISATION, PublicAuthority};
use countersign_trust::root::{LogInstance, Services, TrustedRoot, Window};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::Mutex;
use uuid::Uuid;

use crate::time::rfc3339;

/// The most authorities that a node has had, unless one leaked. All of them count, expired ones as well: what they signed is verified by the
/// trusted root for as long as anybody asks, and that has room for so many.
const MAX_AUTHORITIES: u32 = 64;
/// The most with those that followed a leak: that one leaked can be said also when there were as many as above. Trusted roots list up to 256.
const MAX_AFTER_LEAKS: u32 = 128;
/// How often a change is tried, if others change the same authorities meanwhile.
const ATTEMPTS: usize = 5;
/// An authority is made a moment before its first signature, and clocks of nodes differ a little.
const HEAD_START: u64 = 60;
/// For how long what a retired authority signed is believed, in seconds: its last certificate may still be used, and clocks differ.
const GRACE: u64 = LEAF_SECONDS + HEAD_START;
/// How often a node looks whether its authority is due.
const LOOKS: Duration = Duration::from_secs(3600);
/// Longest reason, in characters.
const MAX_REASON: usize = 200;

/// Keeps the authorities.
pub(crate) struct Custody {
    ledger: Ledger,
    keyring: Arc<Keyring>,
    /// The organisation in the authorities' names.
    organisation: String,
    /// Who vouches for the node's callers, a URL that does not change with the address on which the node listens.
    issuer: String,
    /// Whether clients of Sigstore's may sign: they are told where then.
    serves_clients: bool,
    clock: fn() -> Millis,
    /// Other people's services that add to the node's signatures.
    others: TrustedRoot,
    loaded: Mutex<Option<Arc<Loaded>>>,
    /// One authority at a time is made.
    making: Mutex<()>,
}

/// The authorities as of a version of the directory.
pub(crate) struct Loaded {
    version: u64,
    /// The one that signs now.
    pub current: Arc<Authority>,
    all: Vec<Known>,
}

struct Known {
    row: DirectoryRow,
    facts: Facts,
    public: PublicAuthority,
}

impl Known {
    /// When what it signs is believed.
    fn window(&self) -> Window {
        let start = (self.facts.created / 1000).saturating_sub(HEAD_START);
        let end = match (&self.facts.leaked, self.facts.retired) {
            (Some(leaked), _) => Some((leaked.since / 1000).max(start)),
            (None, Some(retired)) => Some(retired / 1000 + GRACE),
            (None, None) => None,
        };
        Window { start, end }
    }

    /// What is to be known of it once another takes over; nothing, if nothing changes. Somebody else may have had each that signed, or was
    /// believed, from the leak on: its time ends there. An end is never moved to a later time.
    fn followed(&self, now: Millis, leaked: Option<&Leaked>) -> Option<Facts> {
        let Window { start, end } = self.window();
        let leaked = leaked.filter(|leaked| end.is_none_or(|end| (leaked.since / 1000).max(start) < end));
        if self.facts.retired.is_some() && leaked.is_none() {
            return None;
        }
        let retired = self.facts.retired.or(Some(now));
        let leaked = leaked.or(self.facts.leaked.as_ref()).cloned();
        Some(Facts { retired, leaked, ..self.facts.clone() })
    }

    /// As operators see it.
    fn shown(&self) -> Value {
        let window = self.window();
        let state = match (&self.facts.leaked, self.facts.retired) {
            (Some(_), _) => "leaked",
            (None, Some(_)) => "retired",
            (None, None) => "active",
        };
        let mut shown = json!({
            "authority": self.row.name, "state": state, "created": rfc3339(self.facts.created),
            "believed_from": rfc3339(window.start * 1000), "expires": rfc3339(self.public.not_after * 1000),
        });
        if let Some(retired) = self.facts.retired {
            shown["retired"] = json!(rfc3339(retired));
        }
        if let Some(end) = window.end {
            shown["believed_until"] = json!(rfc3339(end * 1000));
        }
        if let Some(leaked) = &self.facts.leaked {
            shown["reason"] = json!(leaked.reason);
        }
        shown
    }
}

/// What anybody may fetch, in Sigstore's formats.
pub(crate) struct Published {
    /// `trusted_root.json`
    pub trusted_root: TrustedRoot,
    /// `trustconfig.json`
    pub trust_config: Vec<u8>,
}

/// That somebody else may have an authority.
#[derive(Clone, Serialize, Deserialize)]
struct Leaked {
    since: Millis,
    reason: String,
}

/// What is stored of an authority.
#[derive(Clone, Serialize, Deserialize)]
struct Facts {
    /// When it was made.
    created: Millis,
    /// When another took over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retired: Option<Millis>,
    /// Since when somebody else may have had it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    leaked: Option<Leaked>,
    /// Its keys and certificates, sealed and in base64.
    sealed: String,
}

/// Why there is no authority to sign with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CustodyError {
    /// The ledger cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The ledger cannot record a new one.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// There were as many as there may be.
    #[error(
        "the node has had as many authorities as it may: {MAX_AUTHORITIES}, and {MAX_AFTER_LEAKS} where some leaked; nothing was changed"
    )]
    TooMany,
    /// A stored one cannot be used, or a new one not be made.
    #[error("{0}")]
    Unusable(String),
}

fn unusable(why: impl ToString) -> CustodyError {
    CustodyError::Unusable(why.to_string())
}

impl Custody {
    pub fn new(
        ledger: Ledger,
        keyring: Arc<Keyring>,
        log_domain: &str,
        public_url: Option<&str>,
        serves_clients: bool,
        clock: fn() -> Millis,
    ) -> Self {
        let organisation = log_domain.chars().take(MAX_ORGANISATION).collect();
        let issuer =
            public_url.map_or_else(|| format!("https://{log_domain}"), |url| url.trim_end_matches('/').to_owned());
        Self {
            ledger,
            keyring,
            organisation,
            issuer,
            serves_clients,
            clock,
            others: TrustedRoot::default(),
            loaded: Mutex::new(None),
            making: Mutex::default(),
        }
    }

    /// Tells verifiers of these, too.
    pub fn beside(mut self, others: TrustedRoot) -> Self {
        self.others = others;
        self
    }

    /// Who vouches for the node's callers.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Makes the first authority if there is none yet. Called at the start, so that no request makes one.
    ///
    /// # Errors
    /// [`CustodyError`].
    pub async fn open(&self) -> Result<(), CustodyError> {
        if self.load().await?.is_none() {
            self.replaced(&[], &Principal::node(), "the first", None).await?;
        }
        Ok(())
    }

    /// All that there were, oldest first, as operators see them.
    ///
    /// # Errors
    /// [`CustodyError`].
    pub async fn shown(&self) -> Result<Vec<Value>, CustodyError> {
        Ok(self.authorities().await?.all.iter().map(Known::shown).collect())
    }

    /// Makes another authority, which signs from now on, and retires the one before: one append, so that there is never none.
    ///
    /// From `leaked_since` on, nothing is believed of any authority that could sign then, or was still believed: one that was retired long before
    /// this is known, the one that signs now, and those in between. They were all kept in the same place, so whoever had one may have had those
    /// that followed it.
    ///
    /// # Errors
    /// [`CustodyError`]; [`CustodyError::TooMany`] if there were as many as trusted roots hold.
    pub async fn rotate(
        &self,
        by: &Principal,
        reason: &str,
        leaked_since: Option<Millis>,
    ) -> Result<Value, CustodyError> {
        let reason: String = reason.chars().filter(|c| !c.is_control()).take(MAX_REASON).collect();
        let leaked = leaked_since.map(|since| Leaked { since, reason: reason.clone() });
        let name = self.another(by, &reason, leaked.as_ref(), |_| true).await?;
        let all = self.authorities().await?;
        let made = all.all.iter().find(|known| Some(&known.row.name) == name.as_ref()).map(Known::shown);
        made.ok_or_else(|| unusable("the authority that was made is gone"))
    }

    /// Has the authority followed by another when it has signed for so long.
    pub async fn keep_rotating(self: Arc<Self>, after: Duration) {
        let after = Millis::try_from(after.as_millis()).unwrap_or(Millis::MAX);
        loop {
            if let Err(error) = self.rotate_if_due(after).await {
                tracing::error!(%error, "whether the authority is due for another cannot be told, or none be made");
            }
            tokio::time::sleep(LOOKS).await;
        }
    }

    async fn rotate_if_due(&self, after: Millis) -> Result<(), CustodyError> {
        let is_due = |loaded: &Loaded| {
            let active = loaded.all.iter().filter(|known| known.facts.retired.is_none());
            let newest = active.map(|known| known.facts.created).max();
            newest.is_some_and(|created| (self.clock)() >= created.saturating_add(after))
        };
        if let Some(authority) = self.another(&Principal::node(), "on schedule", None, is_due).await? {
            tracing::info!(%authority, "another authority signs from now on");
        }
        Ok(())
    }

    /// Makes another authority if it is wanted beside those that there are; its name.
    async fn another(
        &self,
        by: &Principal,
        reason: &str,
        leaked: Option<&Leaked>,
        is_wanted: impl Fn(&Loaded) -> bool,
    ) -> Result<Option<String>, CustodyError> {
        let _one = self.making.lock().await;
        for _ in 0..ATTEMPTS {
            let loaded = self.authorities().await?;
            if !is_wanted(&loaded) {
                return Ok(None);
            }
            match self.replaced(&loaded.all, by, reason, leaked).await {
                // Another node retired one of them, or said that it leaked.
                Err(CustodyError::Append(AppendError::Conflict(Conflict::NotFound))) => {}
                made => return made.map(Some),
            }
        }
        Err(unusable(format!("other nodes changed the authorities meanwhile, {ATTEMPTS} times in a row")))
    }

    /// The authorities as they are now.
    ///
    /// # Errors
    /// [`CustodyError`].
    pub async fn authorities(&self) -> Result<Arc<Loaded>, CustodyError> {
        let mut loaded = self.loaded.lock().await;
        let version = self.ledger.read(|r: &dyn Reader| r.directory_version()).await?;
        if let Some(known) = loaded.as_ref().filter(|known| known.version == version) {
            return Ok(Arc::clone(known));
        }
        let read = self.load().await?.ok_or_else(|| unusable("there is no authority that signs"))?;
        Ok(Arc::clone(loaded.insert(Arc::new(read))))
    }

    /// What others need to verify what this node signed.
    ///
    /// # Errors
    /// [`CustodyError`].
    pub async fn published(&self) -> Result<Published, CustodyError> {
        let authorities = self.authorities().await?;
        let shards = self.ledger.read(|r: &dyn Reader| r.shards()).await?;
        let mut root = TrustedRoot::default();
        for known in &authorities.all {
            root.add_authority(&known.public, &self.issuer, known.window()).map_err(unusable)?;
        }
        // Nothing was signed before the first authority: no shard's entries need an earlier start.
        let start = authorities.all.iter().map(|known| known.window().start).min().unwrap_or_default();
        let mut log = String::new();
        for shard in &shards {
            let key: VerifierKey = shard.vkey.parse().map_err(unusable)?;
            let instance =
                LogInstance::shard(&shard.origin, key.public_key(), &self.organisation, Window::since(start));
            let instance = instance.map_err(unusable)?;
            log.clone_from(&instance.base_url);
            root.logs.push(instance);
        }
        let services = Services {
            certificate_authority: self.issuer.clone(),
            identity_provider: self.issuer.clone(),
            // Clients write to the node; the log's own name is what checkpoints say.
            log: if self.serves_clients { self.issuer.clone() } else { log },
            timestamp_authority: format!("{}/api/v1/timestamp", self.issuer),
            operator: self.organisation.clone(),
            start,
        };
        // After the node's own, whose newest is the one that is signed with.
        root.logs.extend(self.others.logs.iter().cloned());
        root.timestamp_authorities.extend(self.others.timestamp_authorities.iter().cloned());
        let trust_config = root.to_trust_config(&services);
        Ok(Published { trusted_root: root, trust_config })
    }

    async fn load(&self) -> Result<Option<Loaded>, CustodyError> {
        let directory = self.ledger.read(|r: &dyn Reader| r.directory()).await?;
        let keys = self.keyring.workspace(&WorkspaceName::node()).await.map_err(unusable)?;
        let (mut all, mut current) = (Vec::new(), None);
        let rows = directory.rows.iter().filter(|row| row.kind == DirectoryKind::Authority);
        let rows = rows.map(|row| serde_json::from_str::<Facts>(&row.body).map(|facts| (facts, row)));
        let mut rows = rows.collect::<Result<Vec<_>, _>>().map_err(unusable)?;
        // Two nodes that start at once may each make one: the first is the one. A row's own time is that of its last change.
        rows.sort_by(|(a, one), (b, other)| (a.created, &one.name).cmp(&(b.created, &other.name)));
        for (facts, row) in rows {
            let sealed = STANDARD.decode(&facts.sealed).map_err(unusable)?;
            let plain = zeroize::Zeroizing::new(keys.open(&purpose(&row.name), &sealed).map_err(unusable)?);
            let authority = Authority::from_bytes(&plain).map_err(unusable)?;
            let public = authority.public();
            if facts.retired.is_none() && current.is_none() {
                current = Some(Arc::new(authority));
            }
            all.push(Known { row: row.clone(), facts, public });
        }
        Ok(current.map(|current| Loaded { version: directory.version, current, all }))
    }

    /// A new authority after all these, with the events that say so; its name. If one of them is not as it was read any more, that is a conflict.
    async fn replaced(
        &self,
        known: &[Known],
        by: &Principal,
        reason: &str,
        leaked: Option<&Leaked>,
    ) -> Result<String, CustodyError> {
        let cap = if leaked.is_some() { MAX_AFTER_LEAKS } else { MAX_AUTHORITIES };
        if known.len() >= cap as usize {
            return Err(CustodyError::TooMany);
        }
        let now = (self.clock)();
        let (mut events, mut ops) = (Vec::new(), Vec::new());
        for (row, facts) in known.iter().filter_map(|known| Some((&known.row, known.followed(now, leaked)?))) {
            let draft = drafted(EventType::AuthorityRetired, by, &row.name, now, reason)
                .with("leaked_since", facts.leaked.as_ref().map(|leaked| rfc3339(leaked.since)));
            let body = serde_json::to_string(&facts).map_err(unusable)?;
            let changed = DirectoryRow { body, at: now, event: draft.id, ..row.clone() };
            ops.push(StateOp::DirectorySet { row: changed, from: Some(row.event) });
            events.push(Entry::new(draft.prepare().map_err(unusable)?));
        }
        let authority = Authority::generate(&self.organisation, &*entropy()?, (now / 1000).saturating_sub(HEAD_START));
        let authority = authority.map_err(unusable)?;
        let name = Digest::of(&authority.public().root).hex();
        let keys = self.keyring.workspace(&WorkspaceName::node()).await.map_err(unusable)?;
        let sealed = keys.seal(&purpose(&name), &authority.to_bytes()).map_err(unusable)?;
        let facts = Facts { created: now, retired: None, leaked: None, sealed: STANDARD.encode(sealed) };
        let draft = drafted(EventType::AuthorityCreated, by, &name, now, reason);
        let row = DirectoryRow {
            kind: DirectoryKind::Authority,
            workspace: WorkspaceName::node(),
            name: name.clone(),
            body: serde_json::to_string(&facts).map_err(unusable)?,
            at: now,
            event: draft.id,
            used: None,
        };
        events.push(Entry::new(draft.prepare().map_err(unusable)?));
        ops.push(StateOp::DirectoryAdd { row, cap });
        match self.ledger.append(Append { events, ops, ..Append::default() }).await {
            Ok(_) | Err(AppendError::Conflict(Conflict::Exists)) => Ok(name),
            Err(AppendError::Conflict(Conflict::Full { .. })) => Err(CustodyError::TooMany),
            Err(error) => Err(error.into()),
        }
    }
}

fn drafted(kind: EventType, by: &Principal, authority: &str, now: Millis, reason: &str) -> EventDraft {
    EventDraft::new(Uuid::now_v7(), WorkspaceName::node(), kind, now)
        .by(by)
        .with("authority", authority)
        .with("reason_given", Some(reason).filter(|reason| !reason.is_empty()))
}

fn purpose(name: &str) -> Vec<u8> {
    [b"trust-authority|".as_slice(), name.as_bytes()].concat()
}

/// 32 bytes from the cryptographic source.
pub(crate) fn entropy() -> Result<zeroize::Zeroizing<[u8; 32]>, CustodyError> {
    let mut seed = zeroize::Zeroizing::new([0; 32]);
    aws_lc_rs::rand::fill(&mut seed[..]).map_err(|_| unusable("no randomness is to be had"))?;
    Ok(seed)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use countersign_ledger::LedgerOptions;
    use countersign_store::SqliteStore;

    use super::*;

    const SECOND: Millis = 1000;
    const DAY: Millis = 24 * 3600 * SECOND;
    const YEAR: Millis = 365 * DAY;
    const START: Millis = 1_800_000_000_000;

    fn ledger(dir: &tempfile::TempDir) -> Ledger {
        let store = SqliteStore::open(dir.path().join("countersign.db")).expect("a store");
        let options = LedgerOptions::new("example.org", [7; 32], dir.path().join("head"));
        Ledger::open(store, options).expect("a ledger").0
    }

    /// What a node knows: two of them share nothing but the ledger.
    async fn node(ledger: &Ledger, clock: fn() -> Millis) -> Custody {
        let keyring = Keyring::new(&[9; 32], ledger.clone()).expect("a keyring");
        let custody = Custody::new(ledger.clone(), Arc::new(keyring), "example.org", None, false, clock);
        custody.open().await.expect("an authority");
        custody
    }

    async fn states(custody: &Custody) -> Vec<String> {
        let shown = custody.shown().await.expect("read");
        shown.iter().filter_map(|one| one["state"].as_str()).map(str::to_owned).collect()
    }

    /// The second in which belief in each begins and ends, counted from the start.
    async fn windows(custody: &Custody) -> Vec<(i64, Option<i64>)> {
        let since_start = |seconds: u64| i64::try_from(seconds).expect("small") - 1_800_000_000;
        let window = |known: &Known| (since_start(known.window().start), known.window().end.map(since_start));
        custody.authorities().await.expect("read").all.iter().map(window).collect()
    }

    #[tokio::test]
    async fn an_authority_is_followed_by_one_other_when_it_has_signed_for_long_enough() {
        static NOW: AtomicU64 = AtomicU64::new(START);
        fn clock() -> Millis {
            NOW.load(Ordering::SeqCst)
        }
        let dir = tempfile::tempdir().expect("a directory");
        let ledger = ledger(&dir);
        let (here, there) = (node(&ledger, clock).await, node(&ledger, clock).await);
        let root = async |custody: &Custody| custody.authorities().await.expect("read").current.public().root;
        let first = root(&here).await;
        for (now, expected) in [
            (START + YEAR - 1, vec!["active"]),
            (START + YEAR, vec!["retired", "active"]),
            (START + 2 * YEAR - 1, vec!["retired", "active"]),
            (START + 2 * YEAR, vec!["retired", "retired", "active"]),
        ] {
            NOW.store(now, Ordering::SeqCst);
            // Whichever looks first makes it, and the other leaves it at that.
            let (one, other) = tokio::join!(here.rotate_if_due(YEAR), there.rotate_if_due(YEAR));
            one.and(other).expect("looked");
            assert_eq!(states(&here).await, expected, "{now}");
            let current = root(&here).await;
            assert_eq!(root(&there).await, current, "{now}");
            assert_eq!(current == first, expected.len() == 1, "{now}");
        }
    }

    #[tokio::test]
    async fn a_leak_ends_belief_in_every_authority_that_could_sign_from_then_on() {
        static NOW: AtomicU64 = AtomicU64::new(START);
        fn clock() -> Millis {
            NOW.load(Ordering::SeqCst)
        }
        let days = |many: i64| many * 24 * 3600;
        let (second, third) = (days(365) - 60, days(400) - 60);
        for (name, leaks, expected) in [
            (
                "the first leaked, which was retired long before that is known: who had it may have the second",
                vec![START + 100 * DAY],
                vec![(-60, Some(days(100))), (second, Some(second)), (third, None)],
            ),
            (
                "belief in the first had ended before",
                vec![START + 370 * DAY],
                vec![(-60, Some(days(365) + 660)), (second, Some(days(370))), (third, None)],
            ),
            (
                "the first was believed for some minutes more",
                vec![START + YEAR + 300 * SECOND],
                vec![(-60, Some(days(365) + 300)), (second, Some(days(365) + 300)), (third, None)],
            ),
            ("before all of them", vec![SECOND], vec![(-60, Some(-60)), (second, Some(second)), (third, None)]),
            (
                "it comes out that it was earlier",
                vec![START + 370 * DAY, START + 100 * DAY],
                vec![(-60, Some(days(100))), (second, Some(second)), (third, Some(third)), (third, None)],
            ),
            (
                "a later leak gives no belief back",
                vec![START + 100 * DAY, START + 399 * DAY],
                vec![(-60, Some(days(100))), (second, Some(second)), (third, Some(third)), (third, None)],
            ),
        ] {
            let dir = tempfile::tempdir().expect("a directory");
            NOW.store(START, Ordering::SeqCst);
            let custody = node(&ledger(&dir), clock).await;
            NOW.store(START + YEAR, Ordering::SeqCst);
            custody.rotate_if_due(YEAR).await.expect("another");
            NOW.store(START + 400 * DAY, Ordering::SeqCst);
            for since in leaks {
                let made = custody.rotate(&Principal::node(), "stolen", Some(since)).await.expect("another");
                assert_eq!(made["state"], "active", "{name}");
                // Two that are made within a second are told apart by their order alone.
                NOW.fetch_add(1, Ordering::SeqCst);
            }
            assert_eq!(windows(&custody).await, expected, "{name}");
        }
    }

    #[tokio::test]
    async fn no_rotation_undoes_what_another_node_said_of_a_leak() {
        static NOW: AtomicU64 = AtomicU64::new(START);
        fn clock() -> Millis {
            NOW.fetch_add(1, Ordering::SeqCst)
        }
        let dir = tempfile::tempdir().expect("a directory");
        let ledger = ledger(&dir);
        let (here, there) = (node(&ledger, clock).await, node(&ledger, clock).await);
        let by = Principal::node();
        // What the other node knows when it finds that another is due; it writes only after the leak is recorded here.
        let stale = there.authorities().await.expect("read");
        here.rotate(&by, "stolen", Some(START)).await.expect("another");
        let late = there.replaced(&stale.all, &by, "on schedule", None).await;
        let is_conflict = matches!(late, Err(CustodyError::Append(AppendError::Conflict(Conflict::NotFound))));
        assert!(is_conflict, "{late:?}");
        assert_eq!(states(&there).await, ["leaked", "active"]);
        // It reads again, and finds that another is due no more.
        there.rotate_if_due(DAY).await.expect("looked");
        assert_eq!(states(&there).await, ["leaked", "active"]);
        let (one, other) = tokio::join!(here.rotate(&by, "stolen", Some(START)), there.rotate(&by, "yearly", None));
        assert!(one.is_ok() && other.is_ok(), "{one:?} {other:?}");
        let states = states(&here).await;
        assert_eq!((states.len(), states.iter().filter(|state| *state == "active").count()), (4, 1), "{states:?}");
        assert!(states.iter().filter(|state| *state == "leaked").count() >= 2, "{states:?}");
    }

    #[tokio::test]
    async fn a_leak_can_be_said_when_there_were_as_many_as_there_may_be() {
        fn clock() -> Millis {
            static NOW: AtomicU64 = AtomicU64::new(START + YEAR);
            NOW.fetch_add(1, Ordering::SeqCst)
        }
        let dir = tempfile::tempdir().expect("a directory");
        let ledger = ledger(&dir);
        let (custody, by) = (node(&ledger, clock).await, Principal::node());
        // The same keys under other names, retired a day later: making so many takes long.
        let first = custody.authorities().await.expect("read");
        let first = &first.all[0];
        let keys = custody.keyring.workspace(&WorkspaceName::node()).await.expect("the node's");
        let sealed = STANDARD.decode(&first.facts.sealed).expect("base64");
        let plain = keys.open(&purpose(&first.row.name), &sealed).expect("ours");
        let row = |number: u32| {
            let name = format!("{number:064x}");
            let sealed = STANDARD.encode(keys.seal(&purpose(&name), &plain).expect("sealed"));
            let facts = Facts { created: START, retired: Some(START + DAY), leaked: None, sealed };
            let body = serde_json::to_string(&facts).expect("JSON");
            DirectoryRow { name, body, event: Uuid::now_v7(), ..first.row.clone() }
        };
        let ops = (1..MAX_AUTHORITIES).map(|number| StateOp::DirectoryAdd { row: row(number), cap: MAX_AUTHORITIES });
        ledger.append(Append { ops: ops.collect(), ..Append::default() }).await.expect("added");

        let refused = custody.rotate(&by, "yearly", None).await;
        assert!(matches!(refused, Err(CustodyError::TooMany)), "{refused:?}");
        assert_eq!(states(&custody).await.last().map(String::as_str), Some("active"), "nothing was changed");
        custody.rotate(&by, "stolen", Some(START + DAY / 2)).await.expect("another, all the same");
        let mut states = states(&custody).await;
        assert_eq!(states.pop().as_deref(), Some("active"));
        assert_eq!(states, vec!["leaked"; MAX_AUTHORITIES as usize]);
    }
}
