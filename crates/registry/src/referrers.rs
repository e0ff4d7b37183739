//! Bundles beside an image: manifests whose subject it is (distribution-spec 1.1, "Listing Referrers" and "Pushing Manifests with
//! Subject"), in registries with and without the API for it.

use std::collections::BTreeMap;
use std::time::Instant;

use bytes::Bytes;
use countersign_proof::digest::Digest;
use http::header::{ACCEPT, CONTENT_TYPE, LINK};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use url::Url;

use crate::error::RegistryError;
use crate::manifest::{
    self, BUNDLE_TYPE, Descriptor, EMPTY, IMAGE_INDEX, IMAGE_MANIFEST, IMAGES, MAX_REFERRERS, bundle_manifest,
    with_entry,
};
use crate::repository::{Access, MAX_BLOB, MAX_MANIFEST, Repository, Resolved, read};
use crate::wire::{Order, expect};

/// Pages of a list that are read.
const MAX_PAGES: usize = 20;
/// What registries without a list answer, beside pages for people.
const WITHOUT: &[StatusCode] = &[StatusCode::NOT_FOUND, StatusCode::BAD_REQUEST, StatusCode::NOT_ACCEPTABLE];
/// How often the list of a registry without the API is written, if others write it at the same time.
const MAX_WRITES: usize = 4;

/// A bundle that was pushed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// Of the manifest that refers to the image.
    pub digest: Digest,
    /// Whether the registry has no list of referrers, and the tag that stands for it was written instead.
    pub by_tag: bool,
}

impl Repository {
    /// Pushes a bundle as a referrer of an image. Annotations are those of [`bundle_annotations`](crate::bundle_annotations), or others.
    ///
    /// With the same annotations it can be repeated, and then changes nothing. Two writers at once can lose one's entry in a registry
    /// without a list of referrers; it is looked for after writing, and written again.
    ///
    /// # Errors
    /// [`RegistryError`]. What was pushed before an error stays, and is used when this is repeated.
    pub async fn push_bundle(
        &self,
        image: &Resolved,
        bundle: Bytes,
        annotations: &BTreeMap<String, String>,
        deadline: Instant,
    ) -> Result<Pushed, RegistryError> {
        if bundle.len() > MAX_BLOB {
            return Err(RegistryError::TooLarge { what: "the bundle".to_owned(), limit: MAX_BLOB });
        }
        let subject = Descriptor {
            media_type: image.media_type.clone(),
            digest: image.digest,
            size: image.size,
            artifact_type: None,
            annotations: BTreeMap::new(),
        };
        let manifest = bundle_manifest(&subject, &bundle, annotations)?;
        self.push_blob(Bytes::from_static(EMPTY), deadline).await?;
        self.push_blob(bundle, deadline).await?;
        let (pushed, listed) = self.put_manifest(None, IMAGE_MANIFEST, manifest.into(), deadline).await?;
        let digest = pushed.digest;
        if !listed {
            let annotations = annotations.clone();
            let entry = Descriptor { artifact_type: Some(BUNDLE_TYPE.to_owned()), annotations, ..pushed };
            self.list_by_tag(&image.digest, &entry, deadline).await?;
        }
        Ok(Pushed { digest, by_tag: !listed })
    }

    /// What refers to an image, if need be of one type only. At most 1,000 are read.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn referrers(
        &self,
        image: &Digest,
        artifact_type: Option<&str>,
        deadline: Instant,
    ) -> Result<Vec<Descriptor>, RegistryError> {
        let mut found = match self.listed(image, artifact_type, deadline).await? {
            Some(found) => found,
            None => match self.tagged(image, deadline).await? {
                Some(index) => manifest::entries(&index)?,
                None => Vec::new(),
            },
        };
        // Registries need not filter.
        found.retain(|entry| artifact_type.is_none_or(|wanted| entry.artifact_type.as_deref() == Some(wanted)));
        Ok(found)
    }

    /// The bundle that a referrer of an image holds, at most 4 MiB.
    ///
    /// # Errors
    /// [`RegistryError::Malformed`] if the referrer is another image's, or holds no bundle.
    pub async fn pull_bundle(
        &self,
        image: &Digest,
        referrer: &Digest,
        deadline: Instant,
    ) -> Result<Bytes, RegistryError> {
        let name = referrer.to_string();
        let manifest = self.manifest(Access::Pull, &name, &[IMAGE_MANIFEST], deadline).await?;
        let holder = manifest::holder(&manifest.bytes)?;
        if holder.subject.is_none_or(|subject| subject.digest != *image) {
            return Err(RegistryError::malformed("the referrer is about another image"));
        }
        self.blob(&holder.bundle, deadline).await
    }

    /// The registry's own list; none if it keeps none.
    async fn listed(
        &self,
        image: &Digest,
        artifact_type: Option<&str>,
        deadline: Instant,
    ) -> Result<Option<Vec<Descriptor>>, RegistryError> {
        let what = "list of referrers";
        let mut url = self.url(&format!("referrers/{image}"))?;
        if let Some(wanted) = artifact_type {
            url.query_pairs_mut().append_pair("artifactType", wanted);
        }
        let mut found = Vec::new();
        for page in 0..MAX_PAGES {
            let mut order = Order::new(Method::GET, &url, what);
            order.headers.insert(ACCEPT, HeaderValue::from_static(IMAGE_INDEX));
            let response = self.call(Access::Pull, order, deadline).await?;
            let status = response.status();
            let is_list = status == StatusCode::OK && is_index(response.headers());
            if page == 0 && !is_list && (status == StatusCode::OK || WITHOUT.contains(&status)) {
                return Ok(None);
            }
            let response = expect(response, &[StatusCode::OK], what, deadline).await?;
            let next = next_page(&url, response.headers());
            found.extend(manifest::entries(&read(response, MAX_MANIFEST, what, deadline).await?)?);
            if found.len() > MAX_REFERRERS {
                return Err(RegistryError::malformed(format!("an image has more than {MAX_REFERRERS} referrers")));
            }
            match next {
                Some(next) if self.wire().is_of(&next) => url = next,
                Some(_) => return Err(RegistryError::malformed("its list of referrers goes on at another origin")),
                None => return Ok(Some(found)),
            }
        }
        Err(RegistryError::malformed(format!("its list of referrers has more than {MAX_PAGES} pages")))
    }

    /// The index under the tag that stands for a list.
    async fn tagged(&self, image: &Digest, deadline: Instant) -> Result<Option<Bytes>, RegistryError> {
        // Asked for as any image: something else under the tag must be seen, or it would be overwritten.
        let index = match self.manifest(Access::Pull, &fallback_tag(image), IMAGES, deadline).await {
            Ok(index) => index,
            Err(RegistryError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        match manifest::media_type(index.media_type.as_deref(), &index.bytes)?.as_str() {
            IMAGE_INDEX => Ok(Some(index.bytes)),
            _ => Err(RegistryError::malformed("under the tag that stands for a list of referrers is something else")),
        }
    }

    /// Reads that index, adds an entry and writes it, until it is there.
    async fn list_by_tag(&self, image: &Digest, entry: &Descriptor, deadline: Instant) -> Result<(), RegistryError> {
        let tag = fallback_tag(image);
        for _ in 0..MAX_WRITES {
            let index = self.tagged(image, deadline).await?;
            let Some(index) = with_entry(index.as_deref(), entry)? else { return Ok(()) };
            self.put_manifest(Some(&tag), IMAGE_INDEX, index.into(), deadline).await?;
        }
        let index = self.tagged(image, deadline).await?;
        match with_entry(index.as_deref(), entry)? {
            None => Ok(()),
            Some(_) => {
                Err(RegistryError::Unavailable("others write its list of referrers at the same time".to_owned()))
            }
        }
    }
}

/// "Referrers Tag Schema". A digest in hexadecimal is short enough as it is.
fn fallback_tag(image: &Digest) -> String {
    format!("sha256-{}", image.hex())
}

fn is_index(headers: &HeaderMap) -> bool {
    let text = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    text.split(';').next().is_some_and(|own| own.trim().eq_ignore_ascii_case(IMAGE_INDEX))
}

/// RFC 8288, as registries write it: `<…>; rel="next"`.
fn next_page(from: &Url, headers: &HeaderMap) -> Option<Url> {
    let link = headers.get(LINK)?.to_str().ok()?;
    let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
    let is_next = |parameter: &str| matches!(parameter.trim(), "rel=\"next\"" | "rel=next");
    parameters.split(';').any(is_next).then(|| from.join(target).ok())?
}
