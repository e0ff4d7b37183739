//! Debian's `docker-registry`, which has no list of referrers: open to all, with passwords, with tokens of an issuer of ours.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_proof::digest::Digest;
use countersign_registry::{BUNDLE_TYPE, RegistryError, bundle_annotations};
use countersign_testkit::registry::DockerRegistry;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use super::fake::{Answer, Authority, Fake};
use super::{INDEX, bundle, login, open, push_image, registries, soon};

fn registry(extra: &str) -> (tempfile::TempDir, DockerRegistry) {
    let directory = tempfile::tempdir().expect("a directory");
    let registry = DockerRegistry::start(directory.path(), extra).unwrap_or_else(|e| panic!("{e:#}"));
    (directory, registry)
}

#[tokio::test]
async fn tags_and_digests_are_resolved_to_what_the_bytes_are() {
    let (_directory, registry) = registry("");
    let name = format!("{}/team/app", registry.address());
    let digest = push_image(&open(&name, None), Some("v1"), "one").await;
    let other = push_image(&open(&name, None), Some("latest"), "two").await;
    for (suffix, expected) in [
        (":v1".to_owned(), digest),
        (String::new(), other),
        (format!("@{digest}"), digest),
        (format!(":v1@{digest}"), digest),
    ] {
        let resolved = open(&format!("{name}{suffix}"), None).resolve(soon()).await.expect("resolves");
        assert_eq!((resolved.digest, resolved.media_type.as_str()), (expected, super::MANIFEST), "{suffix}");
        assert!(resolved.size > 100, "{resolved:?}");
    }
    let moved = open(&format!("{name}:v1@{other}"), None).resolve(soon()).await.expect_err("the tag is another's");
    assert!(matches!(&moved, RegistryError::Mismatch { wanted, found, .. } if (*wanted, *found) == (other, digest)));
    for missing in [format!("{name}:v2"), format!("{name}-x:v1"), format!("{name}@{}", Digest::of(b"x"))] {
        let error = open(&missing, None).resolve(soon()).await.expect_err("nothing there");
        assert!(matches!(error, RegistryError::NotFound { .. }), "{error}");
    }
}

#[tokio::test]
async fn an_index_is_taken_as_it_is() {
    let (_directory, registry) = registry("");
    let name = format!("{}/multi", registry.address());
    let repository = open(&name, None);
    let image = push_image(&repository, None, "amd64").await;
    let size = open(&format!("{name}@{image}"), None).resolve(soon()).await.expect("resolves").size;
    let platform = json!({ "architecture": "amd64", "os": "linux" });
    let entry = json!({ "mediaType": super::MANIFEST, "digest": image, "size": size, "platform": platform });
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [entry] }).to_string();
    repository.push_manifest(Some("all"), INDEX, index.clone().into(), soon()).await.expect("pushes an index");
    let resolved = open(&format!("{name}:all"), None).resolve(soon()).await.expect("resolves");
    assert_eq!((resolved.digest, resolved.media_type.as_str()), (Digest::of(index.as_bytes()), INDEX));
}

#[tokio::test]
async fn bundles_are_pushed_listed_and_pulled_again() {
    let (_directory, registry) = registry("");
    let name = format!("{}/app", registry.address());
    let repository = open(&name, None);
    push_image(&repository, Some("latest"), "x").await;
    let image = repository.resolve(soon()).await.expect("resolves");
    assert_eq!(repository.referrers(&image.digest, None, soon()).await, Ok(Vec::new()));

    let mut pushed = Vec::new();
    for content in ["a", "b"] {
        let annotations = bundle_annotations(&bundle(content), "2026-01-02T03:04:05Z").expect("annotations");
        // Twice: it is there once.
        for _ in 0..2 {
            let done = repository.push_bundle(&image, bundle(content), &annotations, soon()).await.expect("pushes");
            assert!(done.by_tag);
            pushed.push(done.digest);
        }
    }
    pushed.dedup();
    let listed = repository.referrers(&image.digest, Some(BUNDLE_TYPE), soon()).await.expect("a list");
    assert_eq!(listed.iter().map(|entry| entry.digest).collect::<Vec<_>>(), pushed);
    assert_eq!(listed[0].annotations["dev.sigstore.bundle.content"], "message-signature");
    assert_eq!(repository.referrers(&image.digest, Some("text/plain"), soon()).await, Ok(Vec::new()));
    for (digest, content) in pushed.iter().zip(["a", "b"]) {
        let pulled = repository.pull_bundle(&image.digest, digest, soon()).await.expect("pulls");
        assert_eq!(pulled, bundle(content));
    }
    // A bundle of one image is none of another's, and an image is no bundle.
    let other = Digest::of(b"another image");
    assert!(repository.pull_bundle(&other, &pushed[0], soon()).await.is_err());
    let error = repository.pull_bundle(&image.digest, &image.digest, soon()).await.expect_err("no bundle");
    assert!(matches!(error, RegistryError::Malformed(_)), "{error}");
}

#[tokio::test]
async fn an_image_under_the_tag_of_the_list_stays() {
    let (_directory, registry) = registry("");
    let name = format!("{}/app", registry.address());
    push_image(&open(&name, None), Some("latest"), "x").await;
    let image = open(&name, None).resolve(soon()).await.expect("resolves");
    let tag = format!("sha256-{}", image.digest.hex());
    let there = push_image(&open(&name, None), Some(&tag), "in the way").await;
    let annotations = bundle_annotations(&bundle("a"), "2026-01-02T03:04:05Z").expect("annotations");
    let error = open(&name, None).push_bundle(&image, bundle("a"), &annotations, soon()).await.expect_err("in the way");
    assert!(matches!(error, RegistryError::Malformed(_)), "{error}");
    assert_eq!(open(&format!("{name}:{tag}"), None).resolve(soon()).await.expect("resolves").digest, there);
}

/// `anna` with the password `s3cret`.
const HTPASSWD: &str = "anna:$2b$05$abcdefghijklmnopqrstuuLK7U1u6pVRmL7L1BBM2aS35PSZnDXlK\n";

#[tokio::test]
async fn a_password_opens_and_nothing_else_does() {
    let directory = tempfile::tempdir().expect("a directory");
    let passwords = directory.path().join("htpasswd");
    std::fs::write(&passwords, HTPASSWD).expect("writes");
    let auth = format!("auth:\n  htpasswd:\n    realm: tests\n    path: {}\n", passwords.display());
    let (_data, registry) = registry(&auth);
    let name = format!("{}/app", registry.address());
    let digest = push_image(&open(&name, login()), Some("latest"), "x").await;
    assert_eq!(open(&name, login()).resolve(soon()).await.expect("resolves").digest, digest);
    let wrong = countersign_registry::Credentials::Login {
        username: "anna".to_owned(),
        password: countersign_registry::Secret::new("another".to_owned()),
    };
    for credentials in [None, Some(wrong)] {
        let error = open(&name, credentials).resolve(soon()).await.expect_err("closed");
        assert_eq!(error, RegistryError::Unauthorised);
    }
}

/// A token endpoint that gives `anna` what she asks for, and everybody else nothing but reading.
fn issue(authority: &Authority, request: &str) -> Answer {
    let target = request.split(' ').nth(1).unwrap_or_default();
    let url = url::Url::parse(&format!("https://auth.example{target}")).expect("a URL");
    let scope = url.query_pairs().find(|(name, _)| name == "scope").map(|(_, value)| value.into_owned());
    let scope = scope.unwrap_or_default();
    let [kind, name, actions] = *scope.split(':').collect::<Vec<_>>() else { return Answer::status(400) };
    let is_anna = request.contains("authorization: Basic YW5uYTpzM2NyZXQ=");
    let granted: Vec<&str> = actions.split(',').filter(|action| is_anna || *action == "pull").collect();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    let claims = json!({
        "iss": "tests", "sub": "x", "aud": "registry.tests", "iat": now - 5, "nbf": now - 5, "exp": now + 300, "jti": "1",
        "access": [{ "type": kind, "name": name, "actions": granted }],
    });
    let mut header = Header::new(Algorithm::ES256);
    header.x5c = Some(vec![STANDARD.encode(authority.certificate())]);
    let key = EncodingKey::from_ec_der(&authority.key());
    let token = jsonwebtoken::encode(&header, &claims, &key).expect("a token");
    Answer::json(200, &json!({ "token": token, "expires_in": 300 }))
}

#[tokio::test]
async fn the_token_flow_opens_what_the_issuer_grants() {
    let authority = Authority::new("auth.example");
    let issuer = authority.clone();
    let endpoint = Fake::over_tls(&authority, move |request| issue(&issuer, request)).await;
    let directory = tempfile::tempdir().expect("a directory");
    let roots = directory.path().join("roots.pem");
    std::fs::write(&roots, authority.pem()).expect("writes");
    let auth = format!(
        "auth:\n  token:\n    realm: https://auth.example:{}/token\n    service: registry.tests\n    issuer: tests\n    rootcertbundle: {}\n",
        endpoint.port(),
        roots.display()
    );
    let (_data, registry) = registry(&auth);
    let host = registry.address().to_string();
    let way = registries(&[&host], &authority.pem());
    let open =
        |credentials| way.open(&format!("{host}/team/app").parse().expect("a reference"), credentials).expect("opens");
    let anna = open(login());
    let digest = push_image(&anna, Some("latest"), "x").await;
    let image = anna.resolve(soon()).await.expect("resolves");
    assert_eq!(image.digest, digest);
    // One token to push and one to pull.
    assert_eq!(endpoint.requests().len(), 2, "{:?}", endpoint.requests());
    assert!(
        endpoint.requests()[0]
            .starts_with("GET /token?service=registry.tests&scope=repository%3Ateam%2Fapp%3Apull%2Cpush HTTP")
    );

    let anybody = open(None);
    assert_eq!(anybody.resolve(soon()).await.expect("may read").digest, digest);
    let annotations = bundle_annotations(&bundle("a"), "2026-01-02T03:04:05Z").expect("annotations");
    let error = anybody.push_bundle(&image, bundle("a"), &annotations, soon()).await.expect_err("may not write");
    assert_eq!(error, RegistryError::Unauthorised);
    assert!(anna.push_bundle(&image, bundle("a"), &annotations, soon()).await.is_ok());
    assert_eq!(Value::from(anybody.referrers(&digest, None, soon()).await.expect("a list").len()), json!(1));
}
