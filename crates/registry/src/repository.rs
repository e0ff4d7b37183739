//! One repository of a registry: what its tags stand for, its manifests and blobs (distribution-spec 1.1, "Pull" and "Push").

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use countersign_egress::Response;
use countersign_proof::digest::Digest;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, LOCATION};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use url::Url;

use crate::auth::{self, Credentials, Wanted};
use crate::error::RegistryError;
use crate::manifest::{self, Descriptor, IMAGES};
use crate::reference::{Reference, is_tag};
use crate::wire::{Order, Registries, Wire, expect};

/// The longest manifest that is read; registries need not take longer ones.
pub(crate) const MAX_MANIFEST: usize = 4 << 20;
/// The longest blob that is read: a bundle.
pub(crate) const MAX_BLOB: usize = 4 << 20;
const LATEST: &str = "latest";

/// What an image reference stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// Of the manifest's bytes.
    pub digest: Digest,
    /// An image's or an index's.
    pub media_type: String,
    /// Of the manifest, in bytes.
    pub size: u64,
}

/// A repository.
pub struct Repository {
    registries: Registries,
    reference: Reference,
    /// Ends with the repository's name and a slash.
    base: Url,
    wire: Wire,
    credentials: Option<Credentials>,
    /// What the registry took so far.
    granted: Mutex<BTreeMap<Access, HeaderValue>>,
}

/// What a request needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Access {
    Pull,
    Push,
}

impl fmt::Debug for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Repository").field("reference", &self.reference).finish_non_exhaustive()
    }
}

/// A manifest as it is.
pub(crate) struct Manifest {
    pub(crate) bytes: Bytes,
    pub(crate) digest: Digest,
    /// As the head says.
    pub(crate) media_type: Option<String>,
}

impl Repository {
    pub(crate) fn new(
        registries: Registries,
        reference: Reference,
        base: Url,
        wire: Wire,
        credentials: Option<Credentials>,
    ) -> Self {
        Self { registries, reference, base, wire, credentials, granted: Mutex::default() }
    }

    /// The reference that it was opened by.
    pub fn reference(&self) -> &Reference {
        &self.reference
    }

    /// What the reference stands for: its tag, else its digest, else the tag `latest`.
    ///
    /// # Errors
    /// [`RegistryError::Mismatch`] if the tag is another image's than the digest says, or the registry's words are not those of the bytes.
    pub async fn resolve(&self, deadline: Instant) -> Result<Resolved, RegistryError> {
        let digest = self.reference.digest().map(Digest::to_string);
        let name = self.reference.tag().or(digest.as_deref()).unwrap_or(LATEST);
        let manifest = self.manifest(Access::Pull, name, IMAGES, deadline).await?;
        if let Some(wanted) = self.reference.digest() {
            agree(&format!("the digest of {}", self.reference), wanted, &manifest.digest)?;
        }
        let media_type = manifest::media_type(manifest.media_type.as_deref(), &manifest.bytes)?;
        Ok(Resolved { digest: manifest.digest, media_type, size: manifest.bytes.len() as u64 })
    }

    /// Uploads a blob, unless it is there.
    ///
    /// # Errors
    /// [`RegistryError`]; it can be repeated.
    pub async fn push_blob(&self, bytes: Bytes, deadline: Instant) -> Result<Descriptor, RegistryError> {
        let descriptor = Descriptor::of("application/octet-stream", &bytes);
        let (digest, what) = (descriptor.digest, "place for uploads");
        if self.has_blob(&digest, deadline).await? {
            return Ok(descriptor);
        }
        let start = self.url("blobs/uploads/")?;
        let response = self.call(Access::Push, Order::new(Method::POST, &start, what), deadline).await?;
        let response = expect(response, &[StatusCode::ACCEPTED], what, deadline).await?;
        let mut place = location(&start, response.headers())?;
        if !self.wire.is_of(&place) {
            return Err(RegistryError::malformed("it wants blobs to be uploaded to another origin than its own"));
        }
        place.query_pairs_mut().append_pair("digest", &digest.to_string());
        let mut order = Order { body: bytes, ..Order::new(Method::PUT, &place, "such upload") };
        order.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        let response = self.call(Access::Push, order, deadline).await?;
        expect(response, &[StatusCode::CREATED], "such upload", deadline).await?;
        Ok(descriptor)
    }

    /// Uploads a manifest whose parts are there, under a tag or its digest alone.
    ///
    /// # Errors
    /// [`RegistryError`]; it can be repeated.
    pub async fn push_manifest(
        &self,
        tag: Option<&str>,
        media_type: &str,
        bytes: Bytes,
        deadline: Instant,
    ) -> Result<Descriptor, RegistryError> {
        Ok(self.put_manifest(tag, media_type, bytes, deadline).await?.0)
    }

    /// Also whether the registry took it into its list of referrers.
    pub(crate) async fn put_manifest(
        &self,
        tag: Option<&str>,
        media_type: &str,
        bytes: Bytes,
        deadline: Instant,
    ) -> Result<(Descriptor, bool), RegistryError> {
        let descriptor = Descriptor::of(media_type, &bytes);
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(RegistryError::Refused("this is no tag".to_owned()));
        }
        let url = self.url(&format!("manifests/{}", tag.unwrap_or(&descriptor.digest.to_string())))?;
        let mut order = Order { body: bytes, ..Order::new(Method::PUT, &url, "such repository") };
        let media_type = HeaderValue::from_str(media_type);
        let media_type = media_type.map_err(|_| RegistryError::Refused("this is no media type".to_owned()))?;
        order.headers.insert(CONTENT_TYPE, media_type);
        let response = self.call(Access::Push, order, deadline).await?;
        let response = expect(response, &[StatusCode::CREATED], "such repository", deadline).await?;
        stated(response.headers(), &descriptor.digest, "the pushed manifest's digest")?;
        Ok((descriptor, response.headers().contains_key("oci-subject")))
    }

    /// A manifest, whose digest is that of its name if its name is one.
    pub(crate) async fn manifest(
        &self,
        access: Access,
        name: &str,
        types: &[&str],
        deadline: Instant,
    ) -> Result<Manifest, RegistryError> {
        let (url, what) = (self.url(&format!("manifests/{name}"))?, format!("image {name}"));
        let mut order = Order::new(Method::GET, &url, &what);
        let accept = HeaderValue::from_str(&types.join(", "));
        order
            .headers
            .insert(ACCEPT, accept.map_err(|_| RegistryError::Refused("these are no media types".to_owned()))?);
        let response = self.call(access, order, deadline).await?;
        let response = expect(response, &[StatusCode::OK], &what, deadline).await?;
        let headers = response.headers().clone();
        let media_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let bytes = read(response, MAX_MANIFEST, "the manifest", deadline).await?;
        let digest = Digest::of(&bytes);
        stated(&headers, &digest, "the manifest's digest")?;
        if let Ok(wanted) = name.parse() {
            agree("the manifest's digest", &wanted, &digest)?;
        }
        Ok(Manifest { bytes, digest, media_type })
    }

    /// A blob. Registries may keep it elsewhere: one step on `https` is followed, without credentials.
    pub(crate) async fn blob(&self, blob: &Descriptor, deadline: Instant) -> Result<Bytes, RegistryError> {
        let limit = MAX_BLOB;
        if blob.size > limit as u64 {
            return Err(RegistryError::TooLarge { what: "the blob".to_owned(), limit });
        }
        let (url, what) = (self.url(&format!("blobs/{}", blob.digest))?, "such blob");
        let mut response = self.call(Access::Pull, Order::new(Method::GET, &url, what), deadline).await?;
        if response.status().is_redirection() {
            let place = location(&url, response.headers())?;
            let wire = self.registries.elsewhere(&place, &self.wire)?;
            response = wire.send(Order::new(Method::GET, &place, what), deadline).await?;
        }
        let response = expect(response, &[StatusCode::OK], what, deadline).await?;
        let bytes = read(response, limit, "the blob", deadline).await?;
        agree("the blob's digest", &blob.digest, &Digest::of(&bytes))?;
        Ok(bytes)
    }

    /// A registry that keeps its blobs elsewhere may not say at once; then it is told again.
    async fn has_blob(&self, digest: &Digest, deadline: Instant) -> Result<bool, RegistryError> {
        let (url, what) = (self.url(&format!("blobs/{digest}"))?, "such blob");
        let response = self.call(Access::Push, Order::new(Method::HEAD, &url, what), deadline).await?;
        match response.status() {
            StatusCode::OK => Ok(true),
            status if status == StatusCode::NOT_FOUND || status.is_redirection() => Ok(false),
            _ => expect(response, &[StatusCode::OK], what, deadline).await.map(|_| true),
        }
    }

    pub(crate) fn url(&self, path: &str) -> Result<Url, RegistryError> {
        self.base.join(path).map_err(|e| RegistryError::Refused(e.to_string()))
    }

    pub(crate) fn wire(&self) -> &Wire {
        &self.wire
    }

    /// A request to the registry itself, with what it took before. If it wants a credential, or another one, it is asked once more.
    pub(crate) async fn call(
        &self,
        access: Access,
        order: Order<'_>,
        deadline: Instant,
    ) -> Result<Response, RegistryError> {
        let known = self.granted.lock().unwrap_or_else(PoisonError::into_inner).get(&access).cloned();
        let response = self.wire.send(authorised(order.clone(), known), deadline).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        let wanted = auth::wanted(response.headers()).ok_or(RegistryError::Unauthorised)?;
        // Its body is not read: the connection goes with it.
        drop(response);
        let header = self.authorization(access, wanted, deadline).await?;
        self.granted.lock().unwrap_or_else(PoisonError::into_inner).insert(access, header.clone());
        self.wire.send(authorised(order, Some(header)), deadline).await
    }

    async fn authorization(
        &self,
        access: Access,
        wanted: Wanted,
        deadline: Instant,
    ) -> Result<HeaderValue, RegistryError> {
        match (wanted, &self.credentials) {
            (Wanted::Basic, Some(login @ Credentials::Login { .. })) => login.header(),
            (Wanted::Bearer { .. }, Some(token @ Credentials::Token(_))) => token.header(),
            (Wanted::Basic, Some(Credentials::Token(_)) | None) => Err(RegistryError::Unauthorised),
            (Wanted::Bearer { realm, service }, login @ (Some(Credentials::Login { .. }) | None)) => {
                let login = login.as_ref().map(Credentials::header).transpose()?;
                self.token(access, &realm, service.as_deref(), login, deadline).await
            }
        }
    }

    /// Asks the token endpoint for this repository alone, whatever the registry says that it wants.
    async fn token(
        &self,
        access: Access,
        realm: &str,
        service: Option<&str>,
        login: Option<HeaderValue>,
        deadline: Instant,
    ) -> Result<HeaderValue, RegistryError> {
        let what = "token endpoint where it says";
        let realm = Url::parse(realm).map_err(|_| RegistryError::malformed("its token endpoint is no URL"))?;
        let wire = self.registries.elsewhere(&realm, &self.wire)?;
        let actions = match access {
            Access::Pull => "pull",
            Access::Push => "pull,push",
        };
        let mut url = realm;
        url.set_fragment(None);
        if let Some(service) = service {
            url.query_pairs_mut().append_pair("service", service);
        }
        let scope = format!("repository:{}:{actions}", self.reference.repository());
        url.query_pairs_mut().append_pair("scope", &scope);
        let response = wire.send(authorised(Order::new(Method::GET, &url, what), login), deadline).await?;
        let response = expect(response, &[StatusCode::OK], what, deadline).await?;
        auth::granted(&read(response, auth::MAX_TOKEN_ANSWER, "the token endpoint's answer", deadline).await?)
    }
}

fn authorised<'a>(mut order: Order<'a>, header: Option<HeaderValue>) -> Order<'a> {
    if let Some(header) = header {
        order.headers.insert(AUTHORIZATION, header);
    }
    order
}

pub(crate) async fn read(
    response: Response,
    limit: usize,
    what: &str,
    deadline: Instant,
) -> Result<Bytes, RegistryError> {
    response.bytes(limit, deadline).await.map_err(|e| RegistryError::of_transfer(what, e))
}

/// Where an answer sends to.
fn location(from: &Url, headers: &HeaderMap) -> Result<Url, RegistryError> {
    let text = headers.get(LOCATION).and_then(|value| value.to_str().ok());
    let url = text.and_then(|text| from.join(text).ok());
    url.ok_or_else(|| RegistryError::malformed("it sends elsewhere and does not say where"))
}

/// What a registry says of the digest is held against the bytes, and never taken instead.
fn stated(headers: &HeaderMap, digest: &Digest, what: &str) -> Result<(), RegistryError> {
    let stated = headers.get("docker-content-digest").and_then(|value| value.to_str().ok());
    match stated.and_then(|text| text.parse().ok()) {
        Some(stated) => agree(what, &stated, digest),
        None => Ok(()),
    }
}

fn agree(what: &str, wanted: &Digest, found: &Digest) -> Result<(), RegistryError> {
    if wanted == found {
        return Ok(());
    }
    Err(RegistryError::Mismatch { what: what.to_owned(), wanted: *wanted, found: *found })
}
