//! AWS credentials from where an operator keeps them.

use crate::{KeyError, SecretSource, SecretText};

/// Where the credentials are. They are read for every operation, so that whoever renews the files need not restart anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AwsCredentialSources {
    /// The access key's identifier.
    pub access_key_id: SecretSource,
    /// Its secret.
    pub secret_access_key: SecretSource,
    /// The token of temporary credentials; read if it is there.
    pub session_token: SecretSource,
}

impl Default for AwsCredentialSources {
    /// The environment variables that AWS's own tools read.
    fn default() -> Self {
        let variable = |name: &str| SecretSource::Env(name.to_owned());
        Self {
            access_key_id: variable("AWS_ACCESS_KEY_ID"),
            secret_access_key: variable("AWS_SECRET_ACCESS_KEY"),
            session_token: variable("AWS_SESSION_TOKEN"),
        }
    }
}

/// The credentials themselves.
#[derive(Debug, Clone)]
pub(super) struct Credentials {
    pub(super) access_key_id: SecretText,
    pub(super) secret_access_key: SecretText,
    pub(super) session_token: Option<SecretText>,
}

impl AwsCredentialSources {
    /// Reads them; this may block.
    pub(super) fn read(&self) -> Result<Credentials, KeyError> {
        Ok(Credentials {
            access_key_id: self.access_key_id.read()?,
            secret_access_key: self.secret_access_key.read()?,
            session_token: self.session_token.read_if_there()?,
        })
    }
}

impl Credentials {
    /// Whether a text that came from outside has any of them in it.
    pub(super) fn are_in(&self, text: &str) -> bool {
        let secrets = [Some(&self.secret_access_key), self.session_token.as_ref()];
        secrets.into_iter().flatten().any(|secret| text.contains(secret.expose()))
    }
}
