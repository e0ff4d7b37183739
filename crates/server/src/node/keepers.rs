//! Who keeps the node's keys where they must not lie in a file or the database, and the root key that is wrapped there.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_egress::Egress;
use countersign_keys::{AwsKms, Pkcs11Keys, RootKey, SigningKeys};
use countersign_ledger::durable::sync_parent;

use super::StartError;
use crate::config::{Config, KeeperSettings};
use crate::keys::{SeedKind, read_seed};

/// The root key's file where it is wrapped: one line of base64.
const WRAPPED: &str = "root.wrapped";
const PLAIN: &str = "root.key";

/// A keeper in both its parts.
pub(super) struct Keeper {
    pub signing: Arc<dyn SigningKeys>,
    root: Option<Arc<dyn RootKey>>,
}

/// Opens the configured keeper, if there is one.
pub(super) async fn open(config: &Config, egress: &Egress) -> Result<Option<Keeper>, StartError> {
    let Some(settings) = &config.keys else { return Ok(None) };
    let failed = |error: countersign_keys::KeyError| StartError::Setup(format!("[keys]: {error}"));
    let (signing, root): (Arc<dyn SigningKeys>, Arc<dyn RootKey>) = match &settings.keeper {
        KeeperSettings::Pkcs11(config) => {
            let keys = Arc::new(Pkcs11Keys::open(config.clone()).await.map_err(failed)?);
            (Arc::<Pkcs11Keys>::clone(&keys), keys)
        }
        KeeperSettings::AwsKms(config) => {
            let keys = Arc::new(AwsKms::new(config.clone(), egress).map_err(failed)?);
            (Arc::<AwsKms>::clone(&keys), keys)
        }
    };
    Ok(Some(Keeper { signing, root: settings.wrap_root.then_some(root) }))
}

/// The root key that the keeper wraps; nothing, if none does. A root key that lay in the clear is wrapped and its file removed, once what was
/// wrapped has been read back.
pub(super) async fn root(
    keeper: Option<&Keeper>,
    directory: &Path,
    joins: bool,
) -> Result<Option<[u8; 32]>, StartError> {
    let (wrapped, plain) = (directory.join(WRAPPED), directory.join(PLAIN));
    let Some(root) = keeper.and_then(|keeper| keeper.root.as_ref()) else {
        if wrapped.exists() && !plain.exists() {
            let words = "the root key is wrapped, and [keys] does not say by whom (wrap_root)";
            return Err(StartError::Setup(format!("{}: {words}", wrapped.display())));
        }
        return Ok(None);
    };
    let failed = |error: countersign_keys::KeyError| StartError::Setup(format!("{}: {error}", wrapped.display()));
    let io = |error| StartError::Io { path: wrapped.clone(), error };
    if wrapped.exists() {
        let text = fs::read_to_string(&wrapped).map_err(io)?;
        let bytes =
            STANDARD.decode(text.trim()).map_err(|e| StartError::Setup(format!("{}: {e}", wrapped.display())))?;
        let secret = root.unwrap(&bytes).await.map_err(failed)?;
        return Ok(Some(*secret));
    }
    let secret = match (plain.exists(), joins) {
        (true, _) => read_seed(&plain, SeedKind::Root)?,
        (false, true) => {
            let words = "the database has a log already: give this node the wrapped root key of the others";
            return Err(StartError::Setup(format!("{} is missing, and {words}", wrapped.display())));
        }
        (false, false) => {
            let mut fresh = [0; 32];
            aws_lc_rs::rand::fill(&mut fresh)
                .map_err(|_| StartError::Setup("no randomness is to be had".to_owned()))?;
            fresh
        }
    };
    let bytes = root.wrap(&secret).await.map_err(failed)?;
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&wrapped).map_err(io)?;
    file.write_all(format!("{}\n", STANDARD.encode(bytes)).as_bytes()).and_then(|()| file.sync_all()).map_err(io)?;
    sync_parent(&wrapped).map_err(io)?;
    if plain.exists() {
        fs::remove_file(&plain).and_then(|()| sync_parent(&plain)).map_err(io)?;
        tracing::warn!(
            "the root key is wrapped now, and its file in the clear was removed; older backups still have it"
        );
    }
    Ok(Some(secret))
}
