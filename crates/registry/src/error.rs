//! Why a registry gave no answer that can be used. Nothing here quotes what a registry sent, which may be an echo of a credential.

use countersign_egress::EgressError;
use countersign_proof::digest::Digest;

/// Why an operation on a registry failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// It has no such thing, or shows it to others only.
    #[error("the registry has no {what}")]
    NotFound {
        /// What was asked for.
        what: String,
    },
    /// It wants a credential, or another one.
    #[error("the registry wants a credential that it knows")]
    Unauthorised,
    /// It knows who asks, and refuses.
    #[error("the registry does not allow this to whoever asks")]
    Denied,
    /// It cannot be reached, has no time, or is broken.
    #[error("the registry is unavailable: {0}")]
    Unavailable(String),
    /// It may not be reached from here; nothing was sent.
    #[error("not asked: {0}")]
    Refused(String),
    /// It answered what the specification does not allow.
    #[error("the registry's answer cannot be used: {0}")]
    Malformed(String),
    /// What came is not what was named.
    #[error("{what} is {found}, not {wanted}")]
    Mismatch {
        /// Of what.
        what: String,
        /// What was asked for.
        wanted: Digest,
        /// What the bytes are.
        found: Digest,
    },
    /// More than is read.
    #[error("{what} has more than {limit} bytes")]
    TooLarge {
        /// Of what.
        what: String,
        /// Bytes that are read.
        limit: usize,
    },
    /// Another refusal of the registry.
    #[error("the registry refused: {status}{}", code.map(|code| format!(", {code}")).unwrap_or_default())]
    Rejected {
        /// The HTTP status.
        status: u16,
        /// The error code, if it is one of the specification's.
        code: Option<&'static str>,
    },
}

impl RegistryError {
    /// What to do about it, in a sentence for whoever asked.
    pub fn advice(&self) -> &'static str {
        match self {
            RegistryError::NotFound { .. } => {
                "check the spelling and the tag; some registries say so, too, of what a credential is needed for"
            }
            RegistryError::Unauthorised => {
                "configure a credential for this registry, or another one: it may have expired"
            }
            RegistryError::Denied => {
                "give the credential's account the right to pull from, or push to, this repository"
            }
            RegistryError::Unavailable(_) => "try again later; what was pushed in part is completed then",
            RegistryError::Refused(_) => "have the registry listed in the node's configuration if it is meant",
            RegistryError::Malformed(_) => {
                "check that this is an OCI registry and that its own address is configured in it as it is named here"
            }
            RegistryError::Mismatch { .. } => {
                "the tag was moved, or something between here and the registry changes content: name the image by its digest"
            }
            RegistryError::TooLarge { .. } => "nothing of this size is read from a registry",
            RegistryError::Rejected { .. } => "see the registry's own log for the reason",
        }
    }

    pub(crate) fn malformed(why: impl Into<String>) -> Self {
        Self::Malformed(why.into())
    }

    /// Of a transfer of `what`.
    pub(crate) fn of_transfer(what: &str, error: EgressError) -> Self {
        match error {
            EgressError::Refused(why) => Self::Refused(why),
            EgressError::TooLarge { limit } => Self::TooLarge { what: what.to_owned(), limit },
            EgressError::Setup(_)
            | EgressError::Unreachable(_)
            | EgressError::Timeout { .. }
            | EgressError::Lost(_) => Self::Unavailable(error.to_string()),
        }
    }
}

/// Codes of the distribution specification, "Error Codes", and those that registries add.
const CODES: &[&str] = &[
    "BLOB_UNKNOWN",
    "BLOB_UPLOAD_INVALID",
    "BLOB_UPLOAD_UNKNOWN",
    "DIGEST_INVALID",
    "MANIFEST_BLOB_UNKNOWN",
    "MANIFEST_INVALID",
    "MANIFEST_UNKNOWN",
    "NAME_INVALID",
    "NAME_UNKNOWN",
    "SIZE_INVALID",
    "TAG_INVALID",
    "UNAUTHORIZED",
    "DENIED",
    "UNSUPPORTED",
    "TOOMANYREQUESTS",
];

/// The first error's code, if it is a known one.
pub(crate) fn code(body: &[u8]) -> Option<&'static str> {
    let answer: serde_json::Value = serde_json::from_slice(body).ok()?;
    let code = answer.pointer("/errors/0/code")?.as_str()?;
    CODES.iter().copied().find(|known| *known == code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_codes_of_the_specification_are_repeated() {
        for (body, expected) in [
            (r#"{"errors":[{"code":"MANIFEST_INVALID","message":"x"}]}"#, Some("MANIFEST_INVALID")),
            (r#"{"errors":[{"code":"Bearer s3cret"}]}"#, None),
            (r#"{"errors":[]}"#, None),
            ("<html>", None),
            ("", None),
        ] {
            assert_eq!(code(body.as_bytes()), expected, "{body}");
        }
    }
}
