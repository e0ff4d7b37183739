//! Manifests, indexes and descriptors as bytes (OCI image-spec 1.1): reading what is needed of them, and writing a bundle's.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_proof::digest::Digest;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::RegistryError;

/// The media type of a Sigstore bundle, and the artifact type of a referrer that holds one.
pub const BUNDLE_TYPE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
/// What the media types of all versions of bundles begin with.
pub(crate) const BUNDLE_FAMILY: &str = "application/vnd.dev.sigstore.bundle";
pub(crate) const IMAGE_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const IMAGE_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const EMPTY_TYPE: &str = "application/vnd.oci.empty.v1+json";
/// The configuration of what has none.
pub(crate) const EMPTY: &[u8] = b"{}";
/// What an image reference may stand for.
pub(crate) const IMAGES: &[&str] = &[
    IMAGE_INDEX,
    IMAGE_MANIFEST,
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];
/// Referrers of one image that are looked at.
pub(crate) const MAX_REFERRERS: usize = 1_000;

/// What something is, and how to know it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// The media type.
    pub media_type: String,
    /// Of the bytes.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    /// Of a manifest: what kind of artifact it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// What was noted of it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Descriptor {
    /// Of these bytes.
    pub fn of(media_type: &str, bytes: &[u8]) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest: Digest::of(bytes),
            size: bytes.len() as u64,
            artifact_type: None,
            annotations: BTreeMap::new(),
        }
    }
}

/// A descriptor as it comes. Digests may be of other algorithms.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stated {
    media_type: String,
    digest: String,
    size: u64,
    artifact_type: Option<String>,
    annotations: Option<BTreeMap<String, String>>,
}

impl Stated {
    /// None for a digest that is not SHA-256, which nobody here could compare.
    fn known(self) -> Option<Descriptor> {
        Some(Descriptor {
            media_type: self.media_type,
            digest: self.digest.parse().ok()?,
            size: self.size,
            artifact_type: self.artifact_type,
            annotations: self.annotations.unwrap_or_default(),
        })
    }
}

/// The media type of a manifest: what its head says, which must be what it says itself, if it does.
pub(crate) fn media_type(head: Option<&str>, body: &[u8]) -> Result<String, RegistryError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Opening {
        schema_version: u64,
        media_type: Option<String>,
    }
    let opening: Opening = read(body)?;
    let head = head.map(|text| text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase());
    let own = match (head, opening.media_type) {
        (Some(head), Some(own)) if head != own => {
            return Err(RegistryError::malformed("the manifest's own media type is another than its head's"));
        }
        (Some(own), _) | (None, Some(own)) => own,
        (None, None) => return Err(RegistryError::malformed("the manifest has no media type")),
    };
    if opening.schema_version != 2 || !IMAGES.contains(&own.as_str()) {
        return Err(RegistryError::malformed("what is there is neither an image nor an index, or in a format of old"));
    }
    Ok(own)
}

/// The manifest of a bundle that refers to an image, with the parts that it consists of.
pub(crate) fn bundle_manifest(
    subject: &Descriptor,
    bundle: &[u8],
    annotations: &BTreeMap<String, String>,
) -> Result<Vec<u8>, RegistryError> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Manifest<'a> {
        schema_version: u64,
        media_type: &'a str,
        artifact_type: &'a str,
        config: Descriptor,
        layers: [Descriptor; 1],
        subject: &'a Descriptor,
        annotations: &'a BTreeMap<String, String>,
    }
    let manifest = Manifest {
        schema_version: 2,
        media_type: IMAGE_MANIFEST,
        artifact_type: BUNDLE_TYPE,
        config: Descriptor::of(EMPTY_TYPE, EMPTY),
        layers: [Descriptor::of(BUNDLE_TYPE, bundle)],
        subject,
        annotations,
    };
    serde_json::to_vec(&manifest).map_err(|e| RegistryError::malformed(e.to_string()))
}

/// The annotations that cosign writes for a bundle. `created` is RFC 3339.
///
/// # Errors
/// [`RegistryError::Malformed`] if the bytes are no bundle of version 0.3.
pub fn bundle_annotations(bundle: &[u8], created: &str) -> Result<BTreeMap<String, String>, RegistryError> {
    let refuse = || RegistryError::malformed("this is no Sigstore bundle of version 0.3");
    let bundle: Value = serde_json::from_slice(bundle).map_err(|_| refuse())?;
    if bundle["mediaType"] != BUNDLE_TYPE {
        return Err(refuse());
    }
    let mut annotations = BTreeMap::from([("org.opencontainers.image.created".to_owned(), created.to_owned())]);
    let mut note = |name: &str, text: &str| annotations.insert(format!("dev.sigstore.bundle.{name}"), text.to_owned());
    match (bundle["dsseEnvelope"]["payload"].as_str(), bundle.get("messageSignature")) {
        (Some(payload), None) => {
            let payload = STANDARD.decode(payload).map_err(|_| refuse())?;
            let statement: Value = serde_json::from_slice(&payload).map_err(|_| refuse())?;
            note("content", "dsse-envelope");
            note("predicateType", statement["predicateType"].as_str().ok_or_else(refuse)?);
        }
        (None, Some(_)) => {
            note("content", "message-signature");
        }
        (Some(_), Some(_)) | (None, None) => return Err(refuse()),
    }
    Ok(annotations)
}

/// What a manifest that holds a bundle says.
pub(crate) struct Holder {
    /// The image that it is about.
    pub(crate) subject: Option<Descriptor>,
    /// The bundle.
    pub(crate) bundle: Descriptor,
}

/// Reads such a manifest.
pub(crate) fn holder(manifest: &[u8]) -> Result<Holder, RegistryError> {
    #[derive(Deserialize)]
    struct Manifest {
        subject: Option<Stated>,
        layers: Vec<Stated>,
    }
    let manifest: Manifest = read(manifest)?;
    let mut layers = manifest.layers.into_iter();
    let (Some(layer), None) = (layers.next(), layers.next()) else {
        return Err(RegistryError::malformed("a bundle's manifest has exactly one layer"));
    };
    let bundle = layer.known().filter(|layer| layer.media_type.starts_with(BUNDLE_FAMILY));
    let bundle = bundle.ok_or_else(|| RegistryError::malformed("the referrer's layer is no Sigstore bundle"))?;
    Ok(Holder { subject: manifest.subject.and_then(Stated::known), bundle })
}

/// The entries of an index.
pub(crate) fn entries(index: &[u8]) -> Result<Vec<Descriptor>, RegistryError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Index {
        media_type: Option<String>,
        manifests: Option<Vec<Stated>>,
    }
    let index: Index = read(index)?;
    if index.media_type.is_some_and(|own| own != IMAGE_INDEX) {
        return Err(RegistryError::malformed("the list of referrers is no index"));
    }
    let manifests = index.manifests.unwrap_or_default();
    if manifests.len() > MAX_REFERRERS {
        return Err(RegistryError::malformed(format!("an image has more than {MAX_REFERRERS} referrers")));
    }
    Ok(manifests.into_iter().filter_map(Stated::known).collect())
}

/// The index with one entry more; none if the entry is there. Whatever else stands in it stays.
pub(crate) fn with_entry(index: Option<&[u8]>, entry: &Descriptor) -> Result<Option<Vec<u8>>, RegistryError> {
    let there = index.map(entries).transpose()?.unwrap_or_default();
    if there.iter().any(|other| other.digest == entry.digest) {
        return Ok(None);
    }
    if there.len() >= MAX_REFERRERS {
        return Err(RegistryError::malformed(format!("an image has {MAX_REFERRERS} referrers, and no room for more")));
    }
    let mut index: Value = match index {
        Some(bytes) => read(bytes)?,
        None => json!({ "schemaVersion": 2, "mediaType": IMAGE_INDEX, "manifests": [] }),
    };
    let entry = serde_json::to_value(entry).map_err(|e| RegistryError::malformed(e.to_string()))?;
    match index.get_mut("manifests").and_then(Value::as_array_mut) {
        Some(manifests) => manifests.push(entry),
        None => index["manifests"] = json!([entry]),
    }
    Ok(Some(index.to_string().into_bytes()))
}

fn read<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, RegistryError> {
    // What serde says of it may quote it.
    serde_json::from_slice(bytes).map_err(|_| RegistryError::malformed("it is not the JSON that it should be"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_types_of_images_are_taken_and_contradictions_refused() {
        let oci = format!(r#"{{"schemaVersion":2,"mediaType":"{IMAGE_MANIFEST}"}}"#);
        for (head, body, ok) in [
            (Some(IMAGE_MANIFEST), oci.as_str(), true),
            (Some(&*format!("{IMAGE_MANIFEST}; charset=utf-8")), &oci, true),
            (None, &oci, true),
            (Some(IMAGE_INDEX), r#"{"schemaVersion":2,"manifests":[]}"#, true),
            (Some(IMAGE_INDEX), &oci, false),
            (None, r#"{"schemaVersion":2}"#, false),
            (Some("application/vnd.docker.distribution.manifest.v1+prettyjws"), r#"{"schemaVersion":1}"#, false),
            (Some(IMAGE_MANIFEST), r#"{"schemaVersion":1}"#, false),
            (Some("text/html"), "<html>", false),
        ] {
            assert_eq!(media_type(head, body.as_bytes()).is_ok(), ok, "{head:?} {body}");
        }
    }

    #[test]
    fn annotations_say_what_the_bundle_holds() {
        let payload = STANDARD.encode(r#"{"predicateType":"https://sigstore.dev/cosign/sign/v1"}"#);
        let bundle = |rest: Value| {
            let mut bundle = json!({ "mediaType": BUNDLE_TYPE });
            bundle.as_object_mut().expect("an object").extend(rest.as_object().expect("an object").clone());
            bundle_annotations(bundle.to_string().as_bytes(), "2026-01-02T03:04:05Z")
        };
        let of = |annotations: &BTreeMap<String, String>, name: &str| annotations.get(name).cloned();
        let statement = bundle(json!({ "dsseEnvelope": { "payload": payload } })).expect("a bundle");
        assert_eq!(of(&statement, "dev.sigstore.bundle.content").as_deref(), Some("dsse-envelope"));
        let predicate = of(&statement, "dev.sigstore.bundle.predicateType");
        assert_eq!(predicate.as_deref(), Some("https://sigstore.dev/cosign/sign/v1"));
        assert_eq!(of(&statement, "org.opencontainers.image.created").as_deref(), Some("2026-01-02T03:04:05Z"));
        let message = bundle(json!({ "messageSignature": {} })).expect("a bundle");
        assert_eq!(of(&message, "dev.sigstore.bundle.content").as_deref(), Some("message-signature"));
        assert_eq!(of(&message, "dev.sigstore.bundle.predicateType"), None);
        assert!(bundle(json!({})).is_err());
        assert!(bundle(json!({ "dsseEnvelope": { "payload": "!" } })).is_err());
        assert!(bundle_annotations(b"{}", "").is_err() && bundle_annotations(b"x", "").is_err());
    }

    #[test]
    fn an_index_keeps_what_it_has_and_takes_an_entry_once() {
        let entry = Descriptor::of(IMAGE_MANIFEST, b"new");
        let first = with_entry(None, &entry).expect("an index").expect("one entry more");
        assert_eq!(entries(&first).expect("entries"), std::slice::from_ref(&entry));
        assert_eq!(with_entry(Some(&first), &entry), Ok(None));

        let strange = json!({
            "schemaVersion": 2, "x": 1,
            "manifests": [{ "mediaType": "t", "digest": "sha512:00", "size": 1, "y": 2 }],
        });
        let more = with_entry(Some(strange.to_string().as_bytes()), &entry).expect("an index").expect("one more");
        let more: Value = serde_json::from_slice(&more).expect("JSON");
        assert_eq!((&more["x"], &more["manifests"][0]["y"]), (&json!(1), &json!(2)));
        assert_eq!(more["manifests"][1]["digest"], entry.digest.to_string());

        let image = json!({ "schemaVersion": 2, "mediaType": IMAGE_MANIFEST, "layers": [] }).to_string();
        assert!(with_entry(Some(image.as_bytes()), &entry).is_err());
        let many: Vec<_> = (0..MAX_REFERRERS).map(|n| Descriptor::of("t", n.to_string().as_bytes())).collect();
        let full = json!({ "schemaVersion": 2, "manifests": many }).to_string();
        assert!(with_entry(Some(full.as_bytes()), &entry).is_err());
    }
}
