//! Images in registries: `sign` by reference resolves the digest, and pushes the bundle beside the image, where cosign looks for it.

use std::time::{Duration, Instant};

use bytes::Bytes;
use countersign_egress::Egress;
use countersign_proof::digest::Digest;
use countersign_registry::{
    BUNDLE_TYPE, Credentials, Descriptor, Host, Named, Reference, Registries, RegistryError, Repository, Resolved,
    Secret, Settings, bundle_annotations,
};
use serde_json::{Value, json};

use crate::capability::{Failure, clipped};
use crate::config::RegistrySettings;
use crate::keys::read_secret;

/// What cosign states of an image that it signs.
pub(super) const SIGNED_IMAGE: &str = "https://sigstore.dev/cosign/sign/v1";
/// How long a registry may take for all of its part.
const PATIENCE: Duration = Duration::from_secs(20);
/// How many bundles beside an image are looked at for one.
const MAX_BUNDLES: usize = 8;
/// When a bundle was pushed, as its annotation says.
const CREATED: &str = "org.opencontainers.image.created";

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
        let repository = self.repository(&parsed).map_err(|e| refused(&e))?;
        let resolved = repository.resolve(Instant::now() + PATIENCE).await.map_err(|e| refused(&e))?;
        Ok(Image { name: reference.to_owned(), repository, resolved })
    }

    fn repository(&self, reference: &Reference) -> Result<Repository, RegistryError> {
        let host = reference.host().to_string();
        let credential = self.credentials.iter().find(|(known, _)| *known == host).and_then(|(_, known)| known.clone());
        self.registries.open(reference, credential)
    }

    /// What a registry has of an image that was signed, under the name by which it was signed: bundles beside it, those of the signature's
    /// time first.
    ///
    /// # Errors
    /// [`RegistryError::NotFound`] if it does not have the image.
    pub(super) async fn look(
        &self,
        name: &str,
        digest: Digest,
        created: &str,
        deadline: Instant,
    ) -> Result<Look, RegistryError> {
        let reference: Reference = name.parse().map_err(|_| RegistryError::Refused("this is no image".to_owned()))?;
        let image = self.repository(&reference.at(digest))?;
        image.resolve(deadline).await?;
        let moved = match self.repository(&reference)?.resolve(deadline).await {
            Ok(found) if found.digest == digest => None,
            Ok(found) => Some(format!("the name leads to {} by now", found.digest)),
            Err(RegistryError::Mismatch { found, .. }) => Some(format!("the name leads to {found} by now")),
            Err(RegistryError::NotFound { .. }) => Some("the registry does not have the name any more".to_owned()),
            Err(error) => return Err(error),
        };
        let mut beside = image.referrers(&digest, Some(BUNDLE_TYPE), deadline).await?;
        let of_time = |one: &Descriptor| one.annotations.get(CREATED).is_some_and(|at| at == created);
        beside.sort_by_key(|one| !of_time(one));
        let mut unread = (beside.len() > MAX_BUNDLES)
            .then(|| format!("of {} bundles beside it {MAX_BUNDLES} were read", beside.len()));
        let mut bundles = Vec::new();
        for one in beside.iter().take(MAX_BUNDLES) {
            match image.pull_bundle(&digest, &one.digest, deadline).await {
                Ok(bundle) => bundles.push(bundle),
                Err(error @ RegistryError::Unavailable(_)) => return Err(error),
                Err(error) => unread = Some(format!("a bundle beside it could not be read: {error}")),
            }
        }
        Ok(Look { moved, bundles, unread })
    }
}

/// What a registry has of an image that was signed.
pub(super) struct Look {
    /// Where its name leads by now, if elsewhere.
    pub moved: Option<String>,
    pub bundles: Vec<Bytes>,
    /// Why not all bundles were read.
    pub unread: Option<String>,
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
