//! Who keeps the node's keys where they must not lie in a file or the database, and the root key that is wrapped there.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_egress::Egress;
use countersign_keys::{AwsKms, Pkcs11Keys, RootKey, SigningKeys};
use countersign_ledger::durable::sync_parent;

use super::StartError;
use crate::config::{Config, KeeperSettings};
use crate::keys::{SeedKind, read_seed, write_private};

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
    let secret = match wrapped.exists() {
        true => unwrapped(&**root, &wrapped).await?,
        false => wrapped_now(&**root, &wrapped, &plain, joins).await?,
    };
    if plain.exists() {
        remove_plain(&plain, &secret)?;
    }
    Ok(Some(secret))
}

async fn unwrapped(root: &dyn RootKey, wrapped: &Path) -> Result<[u8; 32], StartError> {
    let wrong = |why: String| StartError::Setup(format!("{}: {why}", wrapped.display()));
    let text = fs::read_to_string(wrapped).map_err(|error| StartError::Io { path: wrapped.to_owned(), error })?;
    let bytes = STANDARD.decode(text.trim()).map_err(|e| wrong(e.to_string()))?;
    Ok(*root.unwrap(&bytes).await.map_err(|e| wrong(e.to_string()))?)
}

/// Wraps the root key that is there, or a fresh one.
async fn wrapped_now(root: &dyn RootKey, wrapped: &Path, plain: &Path, joins: bool) -> Result<[u8; 32], StartError> {
    let secret = match (plain.exists(), joins) {
        (true, _) => read_seed(plain, SeedKind::Root)?,
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
    let failed = |error| StartError::Setup(format!("{}: {error}", wrapped.display()));
    let bytes = root.wrap(&secret).await.map_err(failed)?;
    write_private(wrapped, format!("{}\n", STANDARD.encode(bytes)).as_bytes())?;
    Ok(secret)
}

/// The file in the clear, also where a start that was killed left it. Another key than the wrapped one is nobody's to remove.
fn remove_plain(plain: &Path, secret: &[u8; 32]) -> Result<(), StartError> {
    if !read_seed(plain, SeedKind::Root).is_ok_and(|other| other == *secret) {
        tracing::warn!(file = %plain.display(), "this is not the root key that is wrapped; it is not used, and stays");
        return Ok(());
    }
    let io = |error| StartError::Io { path: plain.to_owned(), error };
    fs::remove_file(plain).and_then(|()| sync_parent(plain)).map_err(io)?;
    tracing::warn!("the root key is wrapped now, and its file in the clear was removed; older backups still have it");
    Ok(())
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use countersign_keys::{KeyError, MadeKey};
    use countersign_proof::digest::Digest;
    use zeroize::Zeroizing;

    use super::*;
    use crate::keys::read_or_create_seed;

    /// Wraps by turning every bit over.
    struct Turned;

    #[async_trait]
    impl SigningKeys for Turned {
        fn provider(&self) -> &'static str {
            "turned"
        }

        async fn create(&self, _: &str) -> Result<MadeKey, KeyError> {
            Err(KeyError::Refused("it only wraps".to_owned()))
        }

        async fn sign(&self, _: &str, _: &Digest) -> Result<[u8; 64], KeyError> {
            Err(KeyError::Refused("it only wraps".to_owned()))
        }
    }

    #[async_trait]
    impl RootKey for Turned {
        async fn wrap(&self, secret: &[u8; 32]) -> Result<Vec<u8>, KeyError> {
            Ok(secret.iter().map(|byte| !byte).collect())
        }

        async fn unwrap(&self, wrapped: &[u8]) -> Result<Zeroizing<[u8; 32]>, KeyError> {
            let turned: Vec<u8> = wrapped.iter().map(|byte| !byte).collect();
            turned.try_into().map(Zeroizing::new).map_err(|_| KeyError::Malformed("not 32 bytes".to_owned()))
        }
    }

    fn keeper() -> Keeper {
        Keeper { signing: Arc::new(Turned), root: Some(Arc::new(Turned)) }
    }

    #[tokio::test]
    async fn a_root_key_in_the_clear_is_gone_after_a_start_that_was_killed_too() {
        let directory = tempfile::tempdir().expect("a directory");
        let plain = directory.path().join(PLAIN);
        let secret = read_or_create_seed(&plain, SeedKind::Root).expect("made");
        let copy = fs::read(&plain).expect("read");
        assert_eq!(root(Some(&keeper()), directory.path(), true).await.expect("wraps"), Some(secret));
        assert!(!plain.exists() && directory.path().join(WRAPPED).exists());

        // Killed before the file was removed.
        write_private(&plain, &copy).expect("written");
        assert_eq!(root(Some(&keeper()), directory.path(), true).await.expect("unwraps"), Some(secret));
        assert!(!plain.exists());
    }

    #[tokio::test]
    async fn another_root_key_than_the_wrapped_one_stays_and_is_not_used() {
        let directory = tempfile::tempdir().expect("a directory");
        let secret = root(Some(&keeper()), directory.path(), false).await.expect("a fresh one");
        let plain = directory.path().join(PLAIN);
        let other = read_or_create_seed(&plain, SeedKind::Root).expect("made");
        assert_ne!(Some(other), secret);
        assert_eq!(root(Some(&keeper()), directory.path(), true).await.expect("unwraps"), secret);
        assert_eq!(read_seed(&plain, SeedKind::Root).expect("still there"), other);
    }

    #[tokio::test]
    async fn without_its_keeper_and_without_the_file_a_wrapped_root_key_is_asked_for() {
        let directory = tempfile::tempdir().expect("a directory");
        let words = |error: StartError| error.to_string();
        let missing = root(Some(&keeper()), directory.path(), true).await.map_err(words).expect_err("missing");
        assert!(missing.contains("root.wrapped is missing"), "{missing}");
        root(Some(&keeper()), directory.path(), false).await.expect("a fresh one");
        let closed = root(None, directory.path(), true).await.map_err(words).expect_err("wrapped");
        assert!(closed.contains("wrap_root"), "{closed}");
    }
}
