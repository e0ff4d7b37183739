//! Key files of the data directory: small, versioned, readable by their owner alone.
//!
//! `keys/root.key`, `keys/log.seed` and `keys/witness.seed` hold one line, `countersign-key v1 <kind> <base64 of 32 bytes>`. What each key is for
//! is written down in `docs/keys.md`.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_keys::{KeyError, SecretSource, SecretText};

/// A key file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// It cannot be read or written.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's words.
        error: std::io::Error,
    },
    /// Others may read it.
    #[error("{}: others can read this key (mode {mode:o}); run chmod 600 on it", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It does not hold what it should.
    #[error("{}: {message}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// The cryptographic library refused.
    #[error("the key could not be used: {0}")]
    Crypto(String),
}

/// What a 32-byte key is for; the name stands in the file, so that two files cannot be mixed up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeedKind {
    /// Wraps the workspaces' keys.
    Root,
    /// Seed of the log's Ed25519 key.
    Log,
    /// Seed of the Ed25519 key that cosigns other logs' checkpoints.
    Witness,
}

impl SeedKind {
    fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Log => "log",
            Self::Witness => "witness",
        }
    }
}

/// Reads a key.
///
/// # Errors
/// [`KeyFileError`].
pub fn read_seed(path: &Path, kind: SeedKind) -> Result<[u8; 32], KeyFileError> {
    let text = read_private(path)?;
    let wrong = |message: &str| KeyFileError::Format { path: path.to_owned(), message: message.to_owned() };
    let encoded = text
        .trim_end()
        .strip_prefix("countersign-key v1 ")
        .ok_or_else(|| wrong("not a key file of version 1"))?
        .strip_prefix(kind.name())
        .and_then(|rest| rest.strip_prefix(' '))
        .ok_or_else(|| wrong(&format!("this is not the {} key", kind.name())))?;
    let bytes = STANDARD.decode(encoded).map_err(|_| wrong("the key is not base64"))?;
    bytes.try_into().map_err(|_| wrong("the key is not 32 bytes long"))
}

/// Reads a key, or makes one and writes it. The directory must exist.
///
/// # Errors
/// [`KeyFileError`].
pub fn read_or_create_seed(path: &Path, kind: SeedKind) -> Result<[u8; 32], KeyFileError> {
    match read_seed(path, kind) {
        Err(KeyFileError::Io { error, .. }) if error.kind() == std::io::ErrorKind::NotFound => {
            let mut seed = [0; 32];
            aws_lc_rs::rand::fill(&mut seed).map_err(|e| KeyFileError::Crypto(e.to_string()))?;
            let line = format!("countersign-key v1 {} {}\n", kind.name(), STANDARD.encode(seed));
            write_private(path, line.as_bytes())?;
            Ok(seed)
        }
        other => other,
    }
}

/// Creates a directory that only its owner can enter, with its parents; its name survives the loss of power.
///
/// # Errors
/// The system's.
pub fn create_private_dir(path: &Path) -> Result<(), KeyFileError> {
    countersign_ledger::durable::create_dir_all(path).map_err(|error| KeyFileError::Io { path: path.to_owned(), error })
}

/// Reads a secret of the operator's: the one line of a file that not everybody can read.
///
/// # Errors
/// In words, which name the file and never its content.
pub(crate) fn read_secret(path: &Path) -> Result<SecretText, String> {
    SecretSource::File(path.to_owned()).read().map_err(|error| match error {
        KeyError::Config(why) => why,
        other => other.to_string(),
    })
}

/// Reads a file that others must not be able to read.
pub(crate) fn read_private(path: &Path) -> Result<String, KeyFileError> {
    let failed = |error| KeyFileError::Io { path: path.to_owned(), error };
    let file = File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyFileError::Exposed { path: path.to_owned(), mode });
    }
    std::io::read_to_string(file).map_err(failed)
}

/// Writes a new private file so that it is there whole or not at all, and durable.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> Result<(), KeyFileError> {
    let failed = |error| KeyFileError::Io { path: path.to_owned(), error };
    let temporary = path.with_extension(format!("new-{}", std::process::id()));
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        // Without replacing: of two processes that make the same key at once, the first one's stays.
        let linked = std::fs::hard_link(&temporary, path);
        std::fs::remove_file(&temporary)?;
        linked?;
        File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    };
    write().map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_is_made_once_private_and_for_one_purpose() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("root.key");
        let first = read_or_create_seed(&path, SeedKind::Root).expect("created");
        assert_eq!(read_or_create_seed(&path, SeedKind::Root).expect("read"), first);
        assert!(matches!(read_seed(&path, SeedKind::Log), Err(KeyFileError::Format { .. })));
        assert_eq!(std::fs::metadata(&path).expect("there").mode() & 0o777, 0o600);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("chmod");
        assert!(matches!(read_seed(&path, SeedKind::Root), Err(KeyFileError::Exposed { mode: 0o644, .. })));
    }

    #[test]
    fn yesterdays_file_is_read_today() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("log.seed");
        write_private(&path, b"countersign-key v1 log AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=\n")
            .expect("written");
        assert_eq!(read_seed(&path, SeedKind::Log).expect("version 1"), [1; 32]);
        assert!(write_private(&path, b"other").is_err(), "an existing key is never replaced");
    }
}
