//! AWS credentials from where an operator keeps them.

use countersign_egress::aws::Credentials;

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

impl AwsCredentialSources {
    /// Reads them; this may block.
    ///
    /// # Errors
    /// [`KeyError::Config`], which names the source.
    pub fn read(&self) -> Result<Credentials, KeyError> {
        Ok(Credentials {
            access_key_id: self.access_key_id.read()?.expose().to_owned(),
            secret_access_key: self.secret_access_key.read()?.into_inner(),
            session_token: self.session_token.read_if_there()?.map(SecretText::into_inner),
        })
    }
}
