//! Registries that lie, never end, send elsewhere, and repeat what they were told. Each case has a harmless twin.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use countersign_egress::{Egress, EgressConfig};
use countersign_proof::digest::Digest;
use countersign_registry::{
    Credentials, Reference, Registries, RegistryError, Repository, Resolved, Secret, Settings, bundle_annotations,
};
use serde_json::json;

use super::fake::{Answer, Authority, Fake};
use super::{INDEX, MANIFEST, bundle, login, open, registries, soon};

fn image() -> String {
    json!({ "schemaVersion": 2, "mediaType": MANIFEST, "layers": [] }).to_string()
}

fn manifest(body: &str) -> Answer {
    Answer::text(body).header("content-type", MANIFEST)
}

fn at(fake: &Fake, suffix: &str) -> Repository {
    open(&format!("{}/app{suffix}", fake.host()), login())
}

#[tokio::test]
async fn digests_are_of_the_bytes_and_not_what_is_said_of_them() {
    let (good, bad) = (Digest::of(image().as_bytes()), Digest::of(b"x"));
    for (suffix, stated, ok) in [
        (":v1".to_owned(), None, true),
        (":v1".to_owned(), Some(good), true),
        (":v1".to_owned(), Some(bad), false),
        (format!("@{good}"), None, true),
        (format!("@{bad}"), None, false),
        (format!("@{bad}"), Some(bad), false),
        (format!(":v1@{bad}"), Some(bad), false),
    ] {
        let fake = Fake::start(move |_| match stated {
            Some(stated) => manifest(&image()).header("docker-content-digest", &stated.to_string()),
            None => manifest(&image()),
        });
        let resolved = at(&fake.await, &suffix).resolve(soon()).await;
        match ok {
            true => assert_eq!(resolved.expect("resolves").digest, good, "{suffix} {stated:?}"),
            false => {
                assert!(matches!(resolved, Err(RegistryError::Mismatch { .. })), "{suffix} {stated:?} {resolved:?}")
            }
        }
    }
}

#[tokio::test]
async fn bodies_without_an_end_are_left_and_silence_is_not_waited_out() {
    let long = " ".repeat(64 << 10);
    let fake = Fake::start(move |_| manifest(&long).endless()).await;
    let error = at(&fake, "").resolve(soon()).await.expect_err("endless");
    assert!(matches!(error, RegistryError::TooLarge { .. }), "{error}");

    let fake = Fake::start(|_| manifest("{").hanging()).await;
    let start = Instant::now();
    let error = at(&fake, "").resolve(start + Duration::from_millis(400)).await.expect_err("late");
    assert!(matches!(error, RegistryError::Unavailable(_)), "{error}");
    assert!(start.elapsed() < Duration::from_secs(5));
}

/// A registry with one referrer, whose blob comes as `blob` says.
async fn with_blob(content: Bytes, blob: impl Fn(&str) -> Answer + Send + Sync + 'static) -> (Fake, Digest, Digest) {
    let (subject, layer) = (Digest::of(b"image"), Digest::of(&content));
    let part = |media_type: &str, digest: Digest, size: usize| json!({ "mediaType": media_type, "digest": digest, "size": size });
    let holder = json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "layers": [part(countersign_registry::BUNDLE_TYPE, layer, content.len())],
        "subject": part(MANIFEST, subject, 5),
    })
    .to_string();
    let digest = Digest::of(holder.as_bytes());
    let fake = Fake::start(move |request| {
        // With a credential, so that a leak would be seen.
        match request.contains("authorization: ") {
            false => Answer::status(401).header("www-authenticate", "Basic realm=\"x\""),
            true if request.contains("/manifests/") => manifest(&holder),
            true => blob(request),
        }
    });
    (fake.await, subject, digest)
}

#[tokio::test]
async fn a_blob_is_followed_once_to_https_without_credentials() {
    let authority = Authority::new("blobs.example");
    let store = Fake::over_tls(&authority, |request| match request.starts_with("GET /again ") {
        true => Answer::status(302).header("location", "/blob"),
        false => Answer::text(std::str::from_utf8(&bundle("x")).expect("text")),
    });
    let store = store.await;
    let plain = Fake::start(|_| Answer::text(std::str::from_utf8(&bundle("x")).expect("text"))).await;
    let port = store.port();
    for (place, expected) in [
        (format!("https://blobs.example:{port}/blob"), None),
        (format!("https://blobs.example:{port}/again"), Some("not followed")),
        (format!("http://{}/blob", plain.host()), Some("not on https or not public")),
        (format!("http://blobs.example:{}/blob", plain.port()), Some("not on https or not public")),
        (format!("https://u:p@blobs.example:{port}/blob"), Some("not on https or not public")),
        ("https://10.0.0.1/blob".to_owned(), Some("not on https or not public")),
        ("https://169.254.169.254/latest/meta-data".to_owned(), Some("not on https or not public")),
        ("https://[::1]/blob".to_owned(), Some("not on https or not public")),
        (format!("https://localhost:{port}/blob"), Some("not on https or not public")),
        ("https://inside.example/blob".to_owned(), Some("not on https or not public")),
        ("file:///etc/passwd".to_owned(), Some("not on https or not public")),
        ("https://ywxpy2u6czncyqjp.inside.example/blob".to_owned(), Some("not on https or not public")),
    ] {
        let there = place.clone();
        let (fake, subject, referrer) =
            with_blob(bundle("x"), move |_| Answer::status(307).header("location", &there)).await;
        let reference: Reference = format!("{}/app", fake.host()).parse().expect("a reference");
        let way = registries(&[&fake.host()], &authority.pem());
        let repository = way.open(&reference, login()).expect("opens");
        let pulled = repository.pull_bundle(&subject, &referrer, soon()).await;
        match expected {
            None => assert_eq!(pulled.expect("pulls"), bundle("x"), "{place}"),
            Some(why) => {
                let error = pulled.expect_err("refused").to_string();
                // The place is the registry's choice, and so could be an echo.
                assert!(error.contains(why) && !error.contains("inside.example"), "{place}: {error}");
            }
        }
    }
    assert!(plain.requests().is_empty());
    assert!(store.requests().iter().all(|request| !request.contains("authorization")), "{:?}", store.requests());
    assert_eq!(store.requests().len(), 2);
}

#[tokio::test]
async fn blobs_are_what_was_named_and_no_longer_than_is_read() {
    for (body, ok) in [(bundle("x"), true), (bundle("y"), false), (Bytes::from(vec![b' '; 5 << 20]), false)] {
        let text = String::from_utf8(body.to_vec()).expect("text");
        let (fake, subject, referrer) = with_blob(bundle("x"), move |_| Answer::text(&text)).await;
        let pulled = at(&fake, "").pull_bundle(&subject, &referrer, soon()).await;
        assert_eq!(pulled.is_ok(), ok, "{pulled:?}");
    }
}

#[tokio::test]
async fn a_referrer_is_what_was_named() {
    let (fake, subject, referrer) =
        with_blob(bundle("x"), |_| Answer::text(std::str::from_utf8(&bundle("x")).expect("text"))).await;
    assert!(at(&fake, "").pull_bundle(&subject, &referrer, soon()).await.is_ok());
    let error = at(&fake, "").pull_bundle(&subject, &Digest::of(b"x"), soon()).await.expect_err("another");
    assert!(matches!(error, RegistryError::Mismatch { .. }), "{error}");
}

/// A registry that takes everything, but says where to upload to by `place` and answers a manifest by `manifest`.
async fn taking(place: String, put: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Fake {
    Fake::start(move |request| match request.split(' ').next().unwrap_or_default() {
        "HEAD" => Answer::status(404),
        "POST" => Answer::status(202).header("location", &place),
        _ => put(request),
    })
    .await
}

fn some_image() -> Resolved {
    Resolved { digest: Digest::of(b"image"), media_type: MANIFEST.to_owned(), size: 5 }
}

async fn push(repository: &Repository, content: &str) -> Result<countersign_registry::Pushed, RegistryError> {
    let annotations = bundle_annotations(&bundle(content), "2026-01-02T03:04:05Z").expect("annotations");
    repository.push_bundle(&some_image(), bundle(content), &annotations, soon()).await
}

#[tokio::test]
async fn nothing_is_uploaded_to_another_origin() {
    let other = Fake::start(|_| Answer::status(201)).await;
    let created = |_: &str| Answer::status(201).header("oci-subject", "sha256:00");
    let fake = taking("/v2/app/blobs/uploads/1?state=a".to_owned(), created).await;
    let pushed = push(&at(&fake, ""), "x").await.expect("pushes");
    assert!(!pushed.by_tag);
    let uploads: Vec<_> =
        fake.requests().into_iter().filter(|request| request.starts_with("PUT /v2/app/blobs")).collect();
    assert_eq!(uploads.len(), 2);
    assert!(uploads[0].starts_with("PUT /v2/app/blobs/uploads/1?state=a&digest=sha256%3A44136fa3"), "{}", uploads[0]);

    let fake = taking(format!("http://{}/take", other.host()), created).await;
    let error = push(&at(&fake, ""), "x").await.expect_err("elsewhere");
    assert!(matches!(error, RegistryError::Malformed(_)), "{error}");
    // Writes follow no redirects, even to themselves.
    for place in [format!("http://{}/take", other.host()), "/v2/app/manifests/x".to_owned()] {
        let fake =
            taking("/v2/app/blobs/uploads/1".to_owned(), move |_| Answer::status(307).header("location", &place));
        let error = push(&at(&fake.await, ""), "x").await.expect_err("elsewhere");
        assert!(matches!(&error, RegistryError::Malformed(why) if why.contains("not followed")), "{error}");
    }
    assert!(other.requests().is_empty());
}

#[tokio::test]
async fn a_token_endpoint_is_on_https_or_the_registry_itself() {
    let authority = Authority::new("auth.example");
    let issuer = Fake::over_tls(&authority, |_| Answer::json(200, &json!({ "token": "good" }))).await;
    let plain = Fake::start(|_| Answer::json(200, &json!({ "token": "good" }))).await;
    for (realm, ok) in [
        (format!("https://auth.example:{}/token?a=b", issuer.port()), true),
        ("OWN/token".to_owned(), true),
        (format!("http://{}/token", plain.host()), false),
        (format!("http://auth.example:{}/token", plain.port()), false),
        (format!("https://localhost:{}/token", issuer.port()), false),
        ("https://169.254.169.254/token".to_owned(), false),
        ("https://inside.example/token".to_owned(), false),
        ("/token".to_owned(), false),
        ("file:///token".to_owned(), false),
    ] {
        let said = realm.clone();
        let fake = Fake::start(move |request| {
            let own = request.lines().find_map(|line| line.strip_prefix("host: ")).unwrap_or_default();
            let realm = said.replace("OWN", &format!("http://{own}"));
            // Its scope would be somebody else's.
            let wanted = format!("Bearer realm=\"{realm}\",service=\"s\",scope=\"repository:secret:pull\"");
            match request {
                request if request.starts_with("GET /token") => Answer::json(200, &json!({ "token": "good" })),
                request if request.contains("authorization: Bearer good\r\n") => manifest(&image()),
                _ => Answer::status(401).header("www-authenticate", &wanted),
            }
        })
        .await;
        let reference: Reference = format!("{}/app", fake.host()).parse().expect("a reference");
        let repository = registries(&[&fake.host()], &authority.pem()).open(&reference, login()).expect("opens");
        let resolved = repository.resolve(soon()).await;
        assert_eq!(resolved.is_ok(), ok, "{realm}: {resolved:?}");
        let asked = fake.requests();
        assert!(!asked[0].contains("authorization"), "not before it was asked for: {}", asked[0]);
        // The password is for the endpoint, the token for the registry.
        let with_password = asked.iter().filter(|request| request.contains("authorization: Basic"));
        assert!(with_password.into_iter().all(|request| request.starts_with("GET /token")), "{asked:?}");
        let all = [asked, issuer.requests()].concat();
        assert!(!all.iter().any(|request| request.contains("secret%3A") || request.contains("repository:secret")));
    }
    assert!(plain.requests().is_empty());
    let asked = issuer.requests();
    assert_eq!(asked.len(), 1);
    assert!(asked[0].starts_with("GET /token?a=b&service=s&scope=repository%3Aapp%3Apull HTTP"), "{}", asked[0]);
    assert!(asked[0].contains("authorization: Basic YW5uYTpzM2NyZXQ="), "{}", asked[0]);
}

#[tokio::test]
async fn what_a_registry_echoes_is_in_no_error() {
    for status in [400, 401, 403, 404, 405, 429, 500, 503, 302, 204] {
        let fake = Fake::start(move |request| {
            let echo = request.lines().find(|line| line.starts_with("authorization")).unwrap_or("s3cret").to_owned();
            if !request.contains("authorization") {
                return Answer::status(401).header("www-authenticate", "Basic realm=\"s3cret\"");
            }
            Answer::json(status, &json!({ "errors": [{ "code": echo, "message": echo, "detail": "s3cret" }] }))
                .header("location", &format!("http://127.0.0.1:1/{}", echo.replace(' ', "")))
        })
        .await;
        let error = at(&fake, "").resolve(soon()).await.expect_err("an error");
        let shown = format!("{error} {error:?} {}", error.advice());
        assert!(!shown.contains("YW5uYTpzM2NyZXQ") && !shown.contains("s3cret"), "{status}: {shown}");
        let kind = match status {
            401 => matches!(error, RegistryError::Unauthorised),
            403 => matches!(error, RegistryError::Denied),
            404 => matches!(error, RegistryError::NotFound { .. }),
            429 | 500 | 503 => matches!(error, RegistryError::Unavailable(_)),
            302 | 204 => matches!(error, RegistryError::Malformed(_)),
            _ => matches!(error, RegistryError::Rejected { .. }),
        };
        assert!(kind, "{status}: {error:?}");
    }
    let fake = Fake::start(|_| manifest(r#"{"schemaVersion":2,"mediaType":"s3cret"}"#)).await;
    let error = at(&fake, "").resolve(soon()).await.expect_err("no image");
    assert!(!format!("{error} {error:?}").contains("s3cret"), "{error:?}");
}

#[tokio::test]
async fn a_registry_that_nobody_named_is_not_asked() {
    let fake = Fake::start(|_| manifest(&image())).await;
    let reference = |host: &str| format!("{host}/app").parse::<Reference>().expect("a reference");
    let here = reference(&fake.host());
    assert!(registries(&[&fake.host()], "").open(&here, None).expect("named").resolve(soon()).await.is_ok());
    let settings = Settings { named: Vec::new(), any_public: true };
    let anywhere = Registries::new(Egress::new(EgressConfig::default()), settings);
    for (way, host) in [
        (&registries(&["127.0.0.1:1"], ""), fake.host()),
        (&registries(&[], ""), "ghcr.io".to_owned()),
        (&anywhere, fake.host()),
        (&anywhere, format!("localhost:{}", fake.port())),
        (&anywhere, "10.0.0.1".to_owned()),
        (&anywhere, "169.254.169.254".to_owned()),
        (&anywhere, "[::1]:5000".to_owned()),
    ] {
        let error = way.open(&reference(&host), None).map(|_| ()).expect_err("refused");
        assert!(matches!(error, RegistryError::Refused(_)), "{host}: {error}");
    }
    assert!(anywhere.open(&reference("ghcr.io"), None).is_ok());
    assert_eq!(fake.requests().len(), 1);
}

#[tokio::test]
async fn a_token_of_the_registry_goes_to_the_registry() {
    let other = Fake::start(|_| Answer::status(200)).await;
    let realm = format!("Bearer realm=\"http://{}/token\"", other.host());
    let fake = Fake::start(move |request| match request.contains("authorization: Bearer t0ken\r\n") {
        true => manifest(&image()),
        false => Answer::status(401).header("www-authenticate", &realm),
    })
    .await;
    for (token, ok) in [("t0ken", true), ("another", false)] {
        let credentials = Some(Credentials::Token(Secret::new(token.to_owned())));
        let resolved = open(&format!("{}/app", fake.host()), credentials).resolve(soon()).await;
        assert_eq!(resolved.is_ok(), ok, "{resolved:?}");
    }
    assert!(other.requests().is_empty());
}

#[tokio::test]
async fn lists_of_referrers_are_read_page_by_page_within_bounds() {
    let entry = |n: usize| {
        let kind = if n.is_multiple_of(2) { "a/b" } else { "c/d" };
        json!({ "mediaType": MANIFEST, "digest": Digest::of(&n.to_be_bytes()), "size": 1, "artifactType": kind })
    };
    let page = move |n: usize, next: Option<String>| {
        let body = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [entry(n)] });
        let answer = Answer::json(200, &body).header("content-type", INDEX);
        match next {
            Some(next) => answer.header("link", &format!("<{next}>; rel=\"next\"")),
            None => answer,
        }
    };
    let image = Digest::of(b"image");
    let three = Fake::start(move |request| match request {
        _ if request.contains("n=2") => page(2, None),
        _ if request.contains("n=1") => page(1, Some("?n=2".to_owned())),
        _ => page(0, Some(format!("/v2/app/referrers/{image}?n=1"))),
    })
    .await;
    assert_eq!(at(&three, "").referrers(&image, None, soon()).await.expect("a list").len(), 3);
    // It did not filter.
    assert_eq!(at(&three, "").referrers(&image, Some("a/b"), soon()).await.expect("a list").len(), 2);

    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let more = Fake::start(move |_| page(counted.fetch_add(1, Ordering::SeqCst), Some("?n=1".to_owned()))).await;
    let error = at(&more, "").referrers(&image, None, soon()).await.expect_err("no end");
    assert!(matches!(error, RegistryError::Malformed(_)), "{error}");
    assert!(count.load(Ordering::SeqCst) <= 20);

    let away = Fake::start(move |_| page(0, Some(format!("http://{}/x", three.host())))).await;
    let error = at(&away, "").referrers(&image, None, soon()).await.expect_err("elsewhere");
    assert!(matches!(error, RegistryError::Malformed(_)), "{error}");
    let broken = Fake::start(|_| Answer::status(500)).await;
    let error = at(&broken, "").referrers(&image, None, soon()).await.expect_err("broken");
    assert!(matches!(error, RegistryError::Unavailable(_)), "{error}");
}

/// A registry without a list of referrers, which forgets the first so many writes of the tag in its place.
async fn forgetful(forgets: usize) -> Fake {
    let index: Arc<Mutex<Option<String>>> = Arc::default();
    let writes = AtomicUsize::new(0);
    taking("/v2/app/blobs/uploads/1".to_owned(), move |request| {
        let mut index = index.lock().expect("not poisoned");
        match (request.contains("/manifests/sha256-"), request.starts_with("GET ")) {
            (true, true) => {
                index.as_ref().map_or(Answer::status(404), |text| Answer::text(text).header("content-type", INDEX))
            }
            (true, false) => {
                if writes.fetch_add(1, Ordering::SeqCst) >= forgets {
                    *index = request.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
                }
                Answer::status(201)
            }
            (false, true) => Answer::status(404),
            (false, false) => Answer::status(201),
        }
    })
    .await
}

#[tokio::test]
async fn an_entry_that_another_writer_overwrote_is_written_again_within_bounds() {
    for (forgets, ok) in [(0, true), (1, true), (3, true), (100, false)] {
        let fake = forgetful(forgets).await;
        let repository = at(&fake, "");
        let pushed = push(&repository, "x").await;
        assert_eq!(pushed.is_ok(), ok, "{forgets}: {pushed:?}");
        let listed = repository.referrers(&some_image().digest, None, soon()).await.expect("a list");
        assert_eq!(listed.len(), usize::from(ok));
        let tag = format!("PUT /v2/app/manifests/{}", some_image().digest.to_string().replace(':', "-"));
        assert!(fake.requests().iter().filter(|request| request.starts_with(&tag)).count() <= 4);
    }
}

#[tokio::test]
async fn an_image_under_the_tag_of_the_list_is_not_overwritten() {
    for body in [image(), json!({ "schemaVersion": 2, "layers": [] }).to_string()] {
        let fake = taking("/v2/app/blobs/uploads/1".to_owned(), move |request| match request.starts_with("GET ") {
            true => manifest(&body),
            false => Answer::status(201),
        })
        .await;
        let error = push(&at(&fake, ""), "x").await.expect_err("an image");
        assert!(matches!(error, RegistryError::Malformed(_)), "{error}");
        assert!(!fake.requests().iter().any(|request| request.starts_with("PUT /v2/app/manifests/sha256-")));
    }
}
