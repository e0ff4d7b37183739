//! The node's certificate, SCT and timestamp authorities: made by the first node that starts to sign, sealed in the directory under the node's own key, and
//! the same for all nodes of a database. What verifiers need of them, and of the log, is published.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_domain::{EventDraft, EventType, Millis, Principal, WorkspaceName};
use countersign_gate::keyring::Keyring;
use countersign_ledger::directory::{DirectoryKind, DirectoryRow};
use countersign_ledger::state::{Conflict, StateOp};
use countersign_ledger::{Append, AppendError, Entry, Ledger, Reader, StoreError};
use countersign_proof::digest::Digest;
use countersign_proof::note::VerifierKey;
use countersign_trust::authority::{Authority, MAX_ORGANISATION, PublicAuthority};
use countersign_trust::root::{LogInstance, Services, TrustedRoot, Window};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use uuid::Uuid;

/// The most authorities that a node has had.
const MAX_AUTHORITIES: u32 = 64;
/// An authority is made a moment before its first signature, and clocks of nodes differ a little.
const HEAD_START: u64 = 60;

/// Keeps the authorities.
pub(crate) struct Custody {
    ledger: Ledger,
    keyring: Arc<Keyring>,
    /// The organisation in the authorities' names.
    organisation: String,
    /// Who vouches for the node's callers, a URL that does not change with the address on which the node listens.
    issuer: String,
    clock: fn() -> Millis,
    loaded: Mutex<Option<Arc<Loaded>>>,
}

/// The authorities as of a version of the directory.
pub(crate) struct Loaded {
    version: u64,
    /// The one that signs now.
    pub current: Arc<Authority>,
    all: Vec<(PublicAuthority, Window)>,
}

/// What anybody may fetch, in Sigstore's formats.
pub(crate) struct Published {
    /// `trusted_root.json`
    pub trusted_root: TrustedRoot,
    /// `trustconfig.json`
    pub trust_config: Vec<u8>,
}

/// What is stored of an authority.
#[derive(Serialize, Deserialize)]
struct Facts {
    /// When it was made.
    created: Millis,
    /// When another took over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retired: Option<Millis>,
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
        clock: fn() -> Millis,
    ) -> Self {
        let organisation = log_domain.chars().take(MAX_ORGANISATION).collect();
        let issuer =
            public_url.map_or_else(|| format!("https://{log_domain}"), |url| url.trim_end_matches('/').to_owned());
        Self { ledger, keyring, organisation, issuer, clock, loaded: Mutex::new(None) }
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
            self.make().await?;
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
        for (authority, window) in &authorities.all {
            root.add_authority(authority, &self.issuer, *window).map_err(unusable)?;
        }
        // Nothing was signed before the first authority: no shard's entries need an earlier start.
        let start = authorities.all.iter().map(|(_, window)| window.start).min().unwrap_or_default();
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
            log,
            timestamp_authority: self.issuer.clone(),
            operator: self.organisation.clone(),
            start,
        };
        let trust_config = root.to_trust_config(&services);
        Ok(Published { trusted_root: root, trust_config })
    }

    async fn load(&self) -> Result<Option<Loaded>, CustodyError> {
        let directory = self.ledger.read(|r: &dyn Reader| r.directory()).await?;
        let keys = self.keyring.workspace(&WorkspaceName::node()).await.map_err(unusable)?;
        let (mut all, mut current) = (Vec::new(), None);
        let mut rows: Vec<_> = directory.rows.iter().filter(|row| row.kind == DirectoryKind::Authority).collect();
        // Two nodes that start at once may each make one: the first is the one.
        rows.sort_by(|a, b| (a.at, &a.name).cmp(&(b.at, &b.name)));
        for row in rows {
            let facts: Facts = serde_json::from_str(&row.body).map_err(unusable)?;
            let sealed = STANDARD.decode(&facts.sealed).map_err(unusable)?;
            let plain = zeroize::Zeroizing::new(keys.open(&purpose(&row.name), &sealed).map_err(unusable)?);
            let authority = Authority::from_bytes(&plain).map_err(unusable)?;
            let end = facts.retired.map(|retired| retired / 1000);
            all.push((authority.public(), Window { start: (facts.created / 1000).saturating_sub(HEAD_START), end }));
            if facts.retired.is_none() && current.is_none() {
                current = Some(Arc::new(authority));
            }
        }
        Ok(current.map(|current| Loaded { version: directory.version, current, all }))
    }

    /// A new authority, with the event that says so.
    async fn make(&self) -> Result<(), CustodyError> {
        let now = (self.clock)();
        let authority = Authority::generate(&self.organisation, &*entropy()?, (now / 1000).saturating_sub(HEAD_START));
        let authority = authority.map_err(unusable)?;
        let name = Digest::of(&authority.public().root).hex();
        let keys = self.keyring.workspace(&WorkspaceName::node()).await.map_err(unusable)?;
        let sealed = keys.seal(&purpose(&name), &authority.to_bytes()).map_err(unusable)?;
        let facts = Facts { created: now, retired: None, sealed: STANDARD.encode(sealed) };
        let event = Uuid::now_v7();
        let draft = EventDraft::new(event, WorkspaceName::node(), EventType::AuthorityCreated, now)
            .by(&Principal::node())
            .with("authority", name.as_str());
        let row = DirectoryRow {
            kind: DirectoryKind::Authority,
            workspace: WorkspaceName::node(),
            name,
            body: serde_json::to_string(&facts).map_err(unusable)?,
            at: now,
            event,
            used: None,
        };
        let events = vec![Entry::new(draft.prepare().map_err(unusable)?)];
        let ops = vec![StateOp::DirectoryAdd { row, cap: MAX_AUTHORITIES }];
        match self.ledger.append(Append { events, ops, ..Append::default() }).await {
            Ok(_) | Err(AppendError::Conflict(Conflict::Exists)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
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
