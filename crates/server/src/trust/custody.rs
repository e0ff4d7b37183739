//! The node's certificate, SCT and timestamp authorities: made by the first node that starts to sign, sealed in the directory under the node's own key, and
//! the same for all nodes of a database; followed by others on schedule and on demand. What verifiers need of them, and of the log, is published: retired
//! ones, too, each with its time.

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

/// The most authorities that a node has had.
const MAX_AUTHORITIES: u32 = 64;
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
    #[error("the node has had {MAX_AUTHORITIES} authorities, the most that it keeps")]
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
            self.replaced(Vec::new(), &Principal::node(), "the first", None).await?;
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

    /// Makes another authority, which signs from now on, and retires the one before: one append, so that there is never none. What
    /// leaked is not believed from a time on.
    ///
    /// # Errors
    /// [`CustodyError`]; [`CustodyError::TooMany`] if there were as many as trusted roots hold.
    pub async fn rotate(
        &self,
        by: &Principal,
        reason: &str,
        leaked_since: Option<Millis>,
    ) -> Result<Value, CustodyError> {
        let _one = self.making.lock().await;
        let loaded = self.authorities().await?;
        if loaded.all.len() >= MAX_AUTHORITIES as usize {
            return Err(CustodyError::TooMany);
        }
        let active = loaded.all.iter().filter(|known| known.facts.retired.is_none());
        let active: Vec<_> = active.map(|known| (known.row.clone(), known.facts.clone())).collect();
        let reason: String = reason.chars().filter(|c| !c.is_control()).take(MAX_REASON).collect();
        let name = self.replaced(active, by, &reason, leaked_since).await?;
        let all = self.authorities().await?;
        let made = all.all.iter().find(|known| known.row.name == name).map(Known::shown);
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
        let loaded = self.authorities().await?;
        let newest = loaded.all.iter().filter(|known| known.facts.retired.is_none()).map(|known| known.facts.created);
        let is_due = newest.max().is_some_and(|created| (self.clock)() >= created.saturating_add(after));
        if is_due {
            let made = self.rotate(&Principal::node(), "on schedule", None).await?;
            tracing::info!(%made, "another authority signs from now on");
        }
        Ok(())
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

    /// A new authority in the place of these, with the events that say so; its name.
    async fn replaced(
        &self,
        active: Vec<(DirectoryRow, Facts)>,
        by: &Principal,
        reason: &str,
        leaked_since: Option<Millis>,
    ) -> Result<String, CustodyError> {
        let now = (self.clock)();
        let (mut events, mut ops) = (Vec::new(), Vec::new());
        for (row, facts) in active {
            let leaked = leaked_since.map(|since| Leaked { since, reason: reason.to_owned() });
            let facts = Facts { retired: Some(now), leaked, ..facts };
            let draft = drafted(EventType::AuthorityRetired, by, &row.name, now, reason)
                .with("leaked_since", leaked_since.map(rfc3339));
            let body = serde_json::to_string(&facts).map_err(unusable)?;
            ops.push(StateOp::DirectorySet { row: DirectoryRow { body, at: now, event: draft.id, ..row } });
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
        ops.push(StateOp::DirectoryAdd { row, cap: MAX_AUTHORITIES });
        match self.ledger.append(Append { events, ops, ..Append::default() }).await {
            Ok(_) | Err(AppendError::Conflict(Conflict::Exists)) => Ok(name),
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
