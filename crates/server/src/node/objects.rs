//! Where artifacts are kept, opened.

use std::sync::Arc;

use countersign_egress::Egress;
use countersign_ledger::objects::Objects;
use countersign_store::objects::{CredentialSource, Directory, S3};

use super::StartError;
use crate::config::{Config, ObjectSettings};

/// What signed artifacts are kept in; nothing, where none are made. With what a person should know about it.
pub(super) async fn open(
    config: &Config,
    egress: &Egress,
) -> Result<(Option<Arc<dyn Objects>>, Option<String>), StartError> {
    let Some(trust) = &config.trust else { return Ok((None, None)) };
    match &trust.objects {
        ObjectSettings::Directory(path) => {
            let objects = Directory::open(path).map_err(|error| StartError::Setup(error.to_string()))?;
            Ok((Some(Arc::new(objects)), None))
        }
        ObjectSettings::S3(settings) => {
            let failed = |why: String| StartError::Setup(format!("[trust.s3]: {why}"));
            let sources = settings.credentials.clone();
            // Now rather than at the first artifact.
            sources.read().map_err(|error| failed(error.to_string()))?;
            let source: CredentialSource = Arc::new(move || sources.read().map_err(|error| error.to_string()));
            let (objects, note) =
                S3::open(settings.store.clone(), source, egress).await.map_err(|error| failed(error.to_string()))?;
            Ok((Some(Arc::new(objects)), note))
        }
    }
}
