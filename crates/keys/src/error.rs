//! Why a provider did not do what it was asked.

/// Why a provider did not do what it was asked. The words are for the operator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not to be reached, not in time, or not there just now. The same call may succeed later.
    #[error("the keys are not available: {0}")]
    Unavailable(String),
    /// The provider, or a check of this crate, says no. It stays so until an operator changes something.
    #[error("refused: {0}")]
    Refused(String),
    /// The provider has no such key.
    #[error("no such key: {0}")]
    NotFound(String),
    /// Bytes that are not what they should be: an answer, or something wrapped.
    #[error("not as it should be: {0}")]
    Malformed(String),
    /// The configuration cannot work: a file, a name, an address.
    #[error("the configuration of the keys: {0}")]
    Config(String),
}

impl KeyError {
    /// Whether the same call may succeed later without anybody's doing.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unavailable(_) => true,
            Self::Refused(_) | Self::NotFound(_) | Self::Malformed(_) | Self::Config(_) => false,
        }
    }
}
