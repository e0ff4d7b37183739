//! Keys on a token behind a PKCS#11 module (OASIS PKCS #11 2.40 and later), through `cryptoki`.
//!
//! - Signing keys are made on the token (`CKM_EC_KEY_PAIR_GEN`, P-256): sensitive, not extractable, for signatures alone. A key found
//!   under a label is used only if the token says the same of it. A reference is the key's `CKA_ID` in hexadecimal digits.
//! - The root is wrapped by AES-256-GCM under a key made on the token once, found by its label.
//! - `C_Initialize` counts for the whole process: `module` has one context per module. Calls block, and a token can hang: `sessions`
//!   has a bounded number of sessions on blocking threads, and a deadline for whoever waits for them.
//! - A child of this process that does not at once run another program has no business here (PKCS #11 2.40 section 5.4: it would
//!   have to initialise the module anew). The node forks for no other reason.

mod module;
mod objects;
mod root;
mod sessions;
mod trouble;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use countersign_proof::digest::Digest;
use tokio::sync::OwnedMutexGuard;
use zeroize::Zeroizing;

use crate::signature::{PublicKeys, verified};
use crate::{KeyError, MadeKey, RootKey, SecretSource, SigningKeys, check_label};
use objects::KeyId;
use sessions::{Seat, Sessions};

/// Most sessions of one provider.
const MAX_SESSIONS: usize = 64;

/// Which token of a module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenChoice {
    /// The one with this label.
    Label(String),
    /// The one in this slot. Modules may number slots anew when they start: a label is the better choice.
    Slot(u64),
}

/// A token and how to use it.
#[derive(Debug, Clone)]
pub struct Pkcs11Config {
    /// The module, a shared library, by its absolute path. It runs inside this process.
    pub module: PathBuf,
    /// The token.
    pub token: TokenChoice,
    /// The user's PIN, read once, at [`Pkcs11Keys::open`].
    pub pin: SecretSource,
    /// The label of the AES key that wraps the root; made when it is first needed.
    pub root_label: String,
    /// Sessions that may be open at once, 1 to 64; as many operations run at once.
    pub sessions: usize,
    /// How long an operation may take.
    pub timeout: Duration,
}

impl Pkcs11Config {
    /// Four sessions, 10 s, and a root key with the label `countersign-root`.
    pub fn new(module: PathBuf, token: TokenChoice, pin: SecretSource) -> Self {
        let (root_label, timeout) = ("countersign-root".to_owned(), Duration::from_secs(10));
        Self { module, token, pin, root_label, sessions: 4, timeout }
    }
}

/// The keys on a token.
pub struct Pkcs11Keys {
    sessions: Arc<Sessions>,
    root_label: String,
    public: Arc<PublicKeys>,
    /// Looking for a label and making a key under it are one step within this process.
    making: Arc<tokio::sync::Mutex<()>>,
    timeout: Duration,
}

impl Pkcs11Keys {
    /// Loads the module, finds the token and logs in.
    ///
    /// # Errors
    /// [`KeyError::Config`] for what no waiting mends; [`KeyError::Unavailable`] if the token is not there;
    /// [`KeyError::Refused`] if it does not take the PIN, which is then not tried again.
    pub async fn open(config: Pkcs11Config) -> Result<Self, KeyError> {
        check_label(&config.root_label)?;
        let (root_label, timeout) = (config.root_label.clone(), config.timeout);
        let sessions = Arc::new(Sessions::new(config)?);
        sessions.run(|_| Ok(())).await?;
        Ok(Self { sessions, root_label, public: Arc::default(), making: Arc::default(), timeout })
    }

    /// Kept by the work itself, which may outlast whoever waits for it.
    async fn making(&self) -> Result<OwnedMutexGuard<()>, KeyError> {
        let lock = Arc::clone(&self.making).lock_owned();
        let late = || KeyError::Unavailable("the token is still making another key".to_owned());
        tokio::time::timeout(self.timeout, lock).await.map_err(|_| late())
    }
}

#[async_trait]
impl SigningKeys for Pkcs11Keys {
    fn provider(&self) -> &'static str {
        "pkcs11"
    }

    async fn create(&self, label: &str) -> Result<MadeKey, KeyError> {
        check_label(label)?;
        let label = label.to_owned();
        let making = self.making().await?;
        let work = move |seat: &mut Seat| {
            let _making = &making;
            objects::find_or_make_pair(seat, &label)
        };
        let (id, public) = self.sessions.run(work).await?;
        let reference = id.to_reference();
        self.public.put(&reference, &public);
        Ok(MadeKey { reference, public })
    }

    async fn sign(&self, reference: &str, digest: &Digest) -> Result<[u8; 64], KeyError> {
        let id = KeyId::parse(reference)?;
        let (reference, digest, known) = (reference.to_owned(), *digest, Arc::clone(&self.public));
        let work = move |seat: &mut Seat| {
            let public = match known.get(&reference) {
                Some(public) => public,
                None => {
                    let public = objects::public_key(seat, &id)?;
                    known.put(&reference, &public);
                    public
                }
            };
            let signature = objects::sign(seat, &id, &digest)?;
            Ok(verified(&public, &digest, &signature)?)
        };
        self.sessions.run(work).await
    }
}

#[async_trait]
impl RootKey for Pkcs11Keys {
    async fn wrap(&self, secret: &[u8; 32]) -> Result<Vec<u8>, KeyError> {
        let (label, secret) = (self.root_label.clone(), Zeroizing::new(*secret));
        let making = self.making().await?;
        let work = move |seat: &mut Seat| {
            let _making = &making;
            root::wrap(seat, &label, &secret)
        };
        self.sessions.run(work).await
    }

    async fn unwrap(&self, wrapped: &[u8]) -> Result<Zeroizing<[u8; 32]>, KeyError> {
        let wrapped = root::Wrapped::parse(wrapped)?;
        self.sessions.run(move |seat| root::unwrap(seat, &wrapped)).await
    }
}
