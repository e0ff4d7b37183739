//! The client against Debian's `docker-registry`, and against registries that are out for harm.

mod fake;
mod hostile;
mod real;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use countersign_egress::{Egress, EgressConfig, Lookup, Purpose, Rule};
use countersign_proof::digest::Digest;
use countersign_registry::{Credentials, Named, Reference, Registries, Repository, Secret, Settings};
use serde_json::json;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

/// Every name leads to this machine, but one and those beneath it.
struct Here;

#[async_trait]
impl Lookup for Here {
    async fn lookup(&self, host: &str) -> std::io::Result<Vec<IpAddr>> {
        let inside = host.ends_with("inside.example");
        Ok(vec![if inside { Ipv4Addr::new(10, 0, 0, 1).into() } else { Ipv4Addr::LOCALHOST.into() }])
    }
}

/// The way to registries of which the operator named these; `roots` are certificate authorities.
fn registries(named: &[&str], roots: &str) -> Registries {
    let networks = vec!["127.0.0.0/8".parse().expect("a network")];
    let rule = Rule { networks, ..Rule::default() };
    let rules = [(Purpose::Registry, rule)].into();
    let config = EgressConfig { rules, extra_roots: roots.as_bytes().to_vec(), ..EgressConfig::default() };
    let name = |host: &&str| Named { host: host.parse().expect("a host"), plain_http: false };
    let settings = Settings { named: named.iter().map(name).collect(), any_public: false };
    Registries::new(Egress::with_lookup(config, Arc::new(Here)), settings)
}

fn open(reference: &str, credentials: Option<Credentials>) -> Repository {
    let reference: Reference = reference.parse().expect("a reference");
    registries(&[&reference.host().to_string()], "").open(&reference, credentials).expect("a repository")
}

fn login() -> Option<Credentials> {
    Some(Credentials::Login { username: "anna".to_owned(), password: Secret::new("s3cret".to_owned()) })
}

/// A tiny image under a tag; the digest of its manifest.
async fn push_image(repository: &Repository, tag: Option<&str>, content: &str) -> Digest {
    let config = Bytes::from(json!({ "architecture": "amd64", "os": "linux", "rootfs": {} }).to_string());
    let layer = Bytes::copy_from_slice(content.as_bytes());
    let config = repository.push_blob(config, soon()).await.expect("pushes a configuration");
    let layer = repository.push_blob(layer, soon()).await.expect("pushes a layer");
    let part = |media_type: &str, digest: Digest, size: u64| json!({ "mediaType": media_type, "digest": digest, "size": size });
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": part("application/vnd.oci.image.config.v1+json", config.digest, config.size),
        "layers": [part("application/vnd.oci.image.layer.v1.tar", layer.digest, layer.size)],
    });
    let pushed = repository.push_manifest(tag, MANIFEST, manifest.to_string().into(), soon()).await;
    pushed.expect("pushes a manifest").digest
}

/// What has the shape of a bundle.
fn bundle(content: &str) -> Bytes {
    let signature = json!({ "signature": content });
    json!({ "mediaType": countersign_registry::BUNDLE_TYPE, "messageSignature": signature }).to_string().into()
}
