//! Texts that are never printed, and where an operator keeps them.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use zeroize::Zeroizing;

use crate::KeyError;

/// Longest secret that is read, in bytes. AWS's session tokens have no stated limit; those seen have under 2 KiB.
const MAX_BYTES: usize = 8 << 10;

/// A text that is never printed and is wiped when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretText(Zeroizing<String>);

impl SecretText {
    /// Takes a text over.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text, for the one place that uses it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The text, for whoever keeps it as carefully.
    pub(crate) fn into_inner(self) -> Zeroizing<String> {
        self.0
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText(…)")
    }
}

/// Where a secret is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// A file of one line that only its owner and its group can read.
    File(PathBuf),
    /// An environment variable.
    Env(String),
}

impl fmt::Display for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "the file {}", path.display()),
            Self::Env(name) => write!(f, "the environment variable {name}"),
        }
    }
}

impl SecretSource {
    /// Reads it: 1 to 8192 bytes of printable ASCII; the end of a line at the end is not part of it.
    ///
    /// # Errors
    /// [`KeyError::Config`], which names the source.
    pub fn read(&self) -> Result<SecretText, KeyError> {
        self.read_if_there()?.ok_or_else(|| KeyError::Config(format!("{self} is not there")))
    }

    /// As [`Self::read`]; `None` if there is no such file or variable.
    ///
    /// # Errors
    /// [`KeyError::Config`], which names the source.
    pub fn read_if_there(&self) -> Result<Option<SecretText>, KeyError> {
        let text = match self {
            Self::File(path) => match File::open(path) {
                Ok(file) => self.read_file(file)?,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(KeyError::Config(format!("{self} cannot be read: {error}"))),
            },
            Self::Env(name) => match std::env::var(name) {
                Ok(text) => Zeroizing::new(text),
                Err(std::env::VarError::NotPresent) => return Ok(None),
                Err(std::env::VarError::NotUnicode(_)) => return Err(self.unusable()),
            },
        };
        let line = text.strip_suffix('\n').map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
        if !(1..=MAX_BYTES).contains(&line.len()) || !line.bytes().all(|b| (0x20..0x7f).contains(&b)) {
            return Err(self.unusable());
        }
        Ok(Some(SecretText::new(line.to_owned())))
    }

    fn read_file(&self, file: File) -> Result<Zeroizing<String>, KeyError> {
        let failed = |error| KeyError::Config(format!("{self} cannot be read: {error}"));
        let mode = file.metadata().map_err(failed)?.mode() & 0o777;
        if mode & 0o007 != 0 {
            return Err(KeyError::Config(format!("{self} can be read by everybody (mode {mode:o}); chmod 600 it")));
        }
        // The whole at once, so that no half of the secret stays behind in a buffer that grew.
        let mut text = Zeroizing::new(String::with_capacity(MAX_BYTES + 3));
        file.take(MAX_BYTES as u64 + 3).read_to_string(&mut text).map_err(|_| self.unusable())?;
        Ok(text)
    }

    fn unusable(&self) -> KeyError {
        KeyError::Config(format!("{self} must hold one line of 1 to {MAX_BYTES} printable ASCII characters"))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn secrets_are_read_from_private_files_and_never_shown() {
        let folder = tempfile::tempdir().unwrap();
        let file = |content: &[u8], mode| {
            let path = folder.path().join("pin");
            std::fs::write(&path, content).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            SecretSource::File(path)
        };
        for (content, expected) in [(&b"1234"[..], "1234"), (b"1234\n", "1234"), (b"12 34\r\n", "12 34")] {
            let read = file(content, 0o640).read().unwrap();
            assert_eq!(read.expose(), expected);
            assert!(!format!("{read:?}").contains("34"));
        }
        let long = [b'x'; MAX_BYTES + 1];
        for (content, mode) in [
            (&b"1234"[..], 0o644),
            (b"", 0o600),
            (b"\n", 0o600),
            (b"12\n34", 0o600),
            (b"\xff1234", 0o600),
            (&long, 0o600),
        ] {
            let source = file(content, mode);
            let error = source.read().unwrap_err().to_string();
            assert!(error.contains(&source.to_string()) && !error.contains("1234"), "{error}");
        }
        let absent = SecretSource::File(folder.path().join("absent"));
        assert_eq!(absent.read_if_there(), Ok(None));
        assert!(matches!(absent.read(), Err(KeyError::Config(_))));
        assert_eq!(SecretSource::Env("COUNTERSIGN_NO_SUCH_VARIABLE".to_owned()).read_if_there(), Ok(None));
    }
}
