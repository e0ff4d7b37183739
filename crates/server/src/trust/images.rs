//! Images in registries: `sign` by reference resolves the digest, and pushes the bundle beside the image, where cosign looks for it.

use std::time::{Duration, Instant};

use countersign_egress::Egress;
use countersign_registry::{
    Credentials, Host, Named, Reference, Registries, RegistryError, Repository, Resolved, Secret, Settings,
    bundle_annotations,
};
use serde_json::{Value, json};

use crate::capability::{Failure, clipped};
use crate::config::RegistrySettings;
use crate::keys::read_secret;

/// What cosign states of an image that it signs.
pub(super) const SIGNED_IMAGE: &str = "https://sigstore.dev/cosign/sign/v1";
/// How long a registry may take for all of its part.
const PATIENCE: Duration = Duration::from_secs(20);

/// The registries that the operator named, with what lets the node in.
pub(crate) struct Images {
    registries: Registries,
    credentials: Vec<(String, Option<Credentials>)>,
}

impl Images {
    /// # Errors
    /// In words, if a host or a credential cannot be read.
    pub fn open(settings: &[RegistrySettings], egress: &Egress) -> Result<Self, String> {
        let (mut named, mut credentials) = (Vec::new(), Vec::new());
        for registry in settings {
            let host: Host = registry.host.parse().map_err(|e| format!("the registry {}: {e}", registry.host))?;
            let credential = match (&registry.username, &registry.password_file) {
                (None, None) => None,
                (Some(username), Some(path)) => {
                    let password = read_secret(path).map_err(|why| format!("the registry {}: {why}", registry.host))?;
                    let password = Secret::new(password.expose().to_owned());
                    Some(Credentials::Login { username: username.clone(), password })
                }
                (_, _) => {
                    return Err(format!("the registry {}: username and password_file go together", registry.host));
                }
            };
            // By its usual spelling, which is what references have.
            credentials.push((host.to_string(), credential));
            named.push(Named { host, plain_http: registry.plain_http });
        }
        let registries = Registries::new(egress.clone(), Settings { named, any_public: false });
        Ok(Self { registries, credentials })
    }

    /// The image that a reference names, by the digest of what the registry has.
    ///
    /// # Errors
    /// [`Failure::Input`], or [`Failure::Outside`] if the registry does not answer.
    pub(super) async fn resolve(&self, reference: &str) -> Result<Image, Failure> {
        let parsed: Reference =
            reference.parse().map_err(|e| Failure::Input(format!("image: {:?}: {e}", clipped(reference))))?;
        let host = parsed.host().to_string();
        let credential = self.credentials.iter().find(|(known, _)| *known == host).and_then(|(_, known)| known.clone());
        let repository = self.registries.open(&parsed, credential).map_err(|e| refused(&e))?;
        let resolved = repository.resolve(Instant::now() + PATIENCE).await.map_err(|e| refused(&e))?;
        Ok(Image { name: reference.to_owned(), repository, resolved })
    }
}

/// An image that a registry has.
pub(super) struct Image {
    pub name: String,
    repository: Repository,
    pub resolved: Resolved,
}

impl Image {
    /// Pushes the bundle beside it. The signature is made and logged by then: what goes wrong is told, and takes nothing back.
    pub async fn push(&self, bundle: &[u8], created: &str) -> Value {
        let pushed = async {
            let annotations = bundle_annotations(bundle, created)?;
            let deadline = Instant::now() + PATIENCE;
            self.repository.push_bundle(&self.resolved, bundle.to_vec().into(), &annotations, deadline).await
        };
        let mut told = json!({ "reference": self.name, "digest": self.resolved.digest.to_string() });
        match pushed.await {
            Ok(pushed) => {
                told["pushed"] = json!(true);
                told["referrer"] = json!(pushed.digest.to_string());
            }
            Err(error) => {
                told["pushed"] = json!(false);
                told["problem"] = json!(format!("{error}; {}", error.advice()));
            }
        }
        told
    }
}

fn refused(error: &RegistryError) -> Failure {
    Failure::Outside(format!("{error}; {}", error.advice()))
}
