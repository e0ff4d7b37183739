//! AWS KMS, against a stand-in that behaves as AWS documents. Nothing here has spoken to AWS.

mod fake;

use std::path::Path;
use std::time::{Duration, Instant};

use countersign_egress::{Egress, EgressConfig};
use countersign_keys::{
    AwsCredentialSources, AwsKms, AwsKmsConfig, KeyError, RootKey as _, SecretSource, SigningKeys as _,
};
use countersign_proof::digest::Digest;
use serde_json::json;

use fake::{ACCESS_KEY, Fake, ROOT, SECRET, Trouble};

/// A fake, and what a node of it is configured with.
struct Scene {
    fake: Fake,
    folder: tempfile::TempDir,
}

impl Scene {
    async fn new() -> Self {
        let scene = Self { fake: Fake::start().await, folder: tempfile::tempdir().unwrap() };
        scene.keep("id", ACCESS_KEY);
        scene.keep("secret", SECRET);
        scene
    }

    fn keep(&self, name: &str, text: &str) {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn config(&self) -> AwsKmsConfig {
        let file = |name: &str| SecretSource::File(Path::new(self.folder.path()).join(name));
        let mut config = AwsKmsConfig::new("eu-central-1".to_owned());
        config.endpoint = Some(format!("http://{}", self.fake.address).parse().unwrap());
        config.root_key = Some(ROOT.to_owned());
        config.tags = vec![("team".to_owned(), "blue".to_owned())];
        config.credentials = AwsCredentialSources {
            access_key_id: file("id"),
            secret_access_key: file("secret"),
            session_token: file("token"),
        };
        config
    }

    fn node(&self) -> AwsKms {
        node(self.config())
    }

    /// A node that waits for half a second at most.
    fn hasty(&self) -> AwsKms {
        node(AwsKmsConfig { timeout: Duration::from_millis(500), ..self.config() })
    }
}

fn node(config: AwsKmsConfig) -> AwsKms {
    AwsKms::new(config, &Egress::new(EgressConfig::default())).unwrap()
}

fn digest() -> Digest {
    Digest::of(b"text")
}

#[tokio::test]
async fn keys_sign_and_are_found_again_by_another_node() {
    let scene = Scene::new().await;
    let keys = scene.node();
    let made = keys.create("acme/1").await.unwrap();
    let signature = keys.sign(&made.reference, &digest()).await.unwrap();
    assert!(made.public.verifies(b"text", &signature));
    assert_eq!(keys.create("acme/1").await.unwrap(), made);
    let other = keys.create("acme/2").await.unwrap();
    assert!(other.public != made.public && !other.public.verifies(b"text", &signature));

    let restarted = scene.node();
    assert!(made.public.verifies(b"text", &restarted.sign(&made.reference, &digest()).await.unwrap()));
    assert_eq!(restarted.create("acme/1").await.unwrap(), made);
    assert_eq!(scene.fake.count("CreateKey"), 2);
    scene.fake.with(|state| {
        assert_eq!(state.aliases["alias/countersign/acme/1"], made.reference);
        let tags =
            json!([{ "TagKey": "countersign-label", "TagValue": "acme/1" }, { "TagKey": "team", "TagValue": "blue" }]);
        assert_eq!(state.keys[&made.reference].tags, tags);
    });
    let unknown = made.reference.replace("key/", "key/0");
    assert!(matches!(keys.sign(&unknown, &digest()).await, Err(KeyError::NotFound(_))));
    for malformed in ["", "alias/countersign/acme/1", "00ff"] {
        assert!(matches!(keys.sign(malformed, &digest()).await, Err(KeyError::Malformed(_))));
    }
}

#[tokio::test]
async fn credentials_are_refused_with_words_and_may_be_renewed() {
    let scene = Scene::new().await;
    let keys = scene.node();
    let made = keys.create("acme/1").await.unwrap();
    let refused = async |said: &str| {
        let error = keys.sign(&made.reference, &digest()).await.unwrap_err();
        let words = error.to_string();
        assert!(matches!(error, KeyError::Refused(_)) && words.contains(said), "{words}");
        assert!(!words.contains("renewed") && !words.contains(SECRET) && !words.contains("t0ken"), "{words}");
    };
    scene.fake.with(|state| state.secret = Some("renewed".to_owned()));
    refused("clock").await;
    scene.keep("secret", "renewed\n");
    keys.sign(&made.reference, &digest()).await.unwrap();
    scene.fake.with(|state| state.session_token = Some("t0ken".to_owned()));
    refused("session token").await;
    scene.keep("token", "t0ken");
    keys.sign(&made.reference, &digest()).await.unwrap();
    scene.keep("id", "AKIAOTHER");
    refused("AWS KMS answered 400").await;
    // Credentials that are not there are noticed at the start.
    std::fs::remove_file(scene.folder.path().join("secret")).unwrap();
    let error = AwsKms::new(scene.config(), &Egress::new(EgressConfig::default())).err();
    assert!(matches!(&error, Some(KeyError::Config(words)) if words.contains("secret")), "{error:?}");
}

#[tokio::test]
async fn what_passes_is_tried_again_and_no_more_than_that() {
    let scene = Scene::new().await;
    let keys = scene.node();
    let made = keys.create("acme/1").await.unwrap();
    let passing = [
        Trouble::Error(400, "ThrottlingException"),
        Trouble::Error(500, "KMSInternalException"),
        Trouble::Cut,
        Trouble::Answer(503, b"<html>".to_vec()),
    ];
    scene.fake.trouble("Sign", passing);
    let signature = keys.sign(&made.reference, &digest()).await.unwrap();
    assert!(made.public.verifies(b"text", &signature));
    assert_eq!(scene.fake.count("Sign"), 5);

    for trouble in
        [Trouble::Error(400, "ThrottlingException"), Trouble::Error(503, "ServiceUnavailableException"), Trouble::Cut]
    {
        scene.fake.trouble("Sign", vec![trouble; 1000]);
        let before = scene.fake.count("Sign");
        let error = keys.sign(&made.reference, &digest()).await.unwrap_err();
        assert!(matches!(error, KeyError::Unavailable(_)), "{error}");
        assert_eq!(scene.fake.count("Sign") - before, 5);
    }
    for kind in ["AccessDeniedException", "KMSInvalidStateException", "ValidationException"] {
        scene.fake.trouble("Sign", [Trouble::Error(400, kind)]);
        let before = scene.fake.count("Sign");
        let error = keys.sign(&made.reference, &digest()).await.unwrap_err();
        assert!(matches!(&error, KeyError::Refused(words) if words.contains(kind)), "{error}");
        assert_eq!(scene.fake.count("Sign") - before, 1);
    }
}

#[tokio::test]
async fn a_service_that_is_away_or_odd_costs_no_more_than_the_deadline() {
    let scene = Scene::new().await;
    let keys = scene.hasty();
    let unavailable: fn(&KeyError) -> bool = |error| matches!(error, KeyError::Unavailable(_));
    let malformed: fn(&KeyError) -> bool = |error| matches!(error, KeyError::Malformed(_));
    for (trouble, is_right) in [
        (Trouble::Silence, unavailable),
        (Trouble::Error(500, "KMSInternalException"), unavailable),
        (Trouble::Cut, unavailable),
        (Trouble::Answer(200, b"not JSON".to_vec()), malformed),
        (Trouble::Answer(200, b"{}".to_vec()), malformed),
        (Trouble::Answer(200, vec![b' '; 1 << 20]), malformed),
        (Trouble::Answer(302, Vec::new()), malformed),
    ] {
        for action in ["DescribeKey", "CreateKey"] {
            scene.fake.trouble(action, vec![trouble.clone(); 1000]);
            let started = Instant::now();
            let error = keys.create("acme/1").await.unwrap_err();
            assert!(is_right(&error), "{action} {trouble:?}: {error}");
            assert!(started.elapsed() < Duration::from_secs(3), "{action} {trouble:?}: {:?}", started.elapsed());
            scene.fake.trouble(action, []);
        }
        assert_eq!(scene.fake.living(), Vec::<String>::new(), "{trouble:?}");
    }
    // Nobody listens there.
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let mut config = scene.config();
    config.endpoint = Some(format!("http://{free}").parse().unwrap());
    config.timeout = Duration::from_millis(500);
    let error = node(config).create("acme/1").await.unwrap_err();
    assert!(matches!(&error, KeyError::Unavailable(words) if words.contains("cannot connect")), "{error}");
    // Back again, the same call makes the key.
    scene.node().create("acme/1").await.unwrap();
    assert_eq!(scene.fake.living().len(), 1);
}

#[tokio::test]
async fn no_key_is_left_half_made_when_that_can_be_helped() {
    let scene = Scene::new().await;
    let keys = scene.node();
    // The alias is refused: the key goes.
    scene.fake.trouble("CreateAlias", [Trouble::Error(400, "AccessDeniedException")]);
    let error = keys.create("acme/1").await.unwrap_err();
    let said = |words: &str| words.contains("policy") && words.contains("scheduled for deletion");
    assert!(matches!(&error, KeyError::Refused(words) if said(words)), "{error}");
    assert_eq!((scene.fake.living().len(), scene.fake.count("CreateKey")), (0, 1));
    // The alias is refused, and so is the deletion: the key is named.
    scene.fake.trouble("CreateAlias", [Trouble::Error(400, "AccessDeniedException")]);
    scene.fake.trouble("ScheduleKeyDeletion", [Trouble::Error(400, "AccessDeniedException")]);
    let error = keys.create("acme/1").await.unwrap_err().to_string();
    let left = scene.fake.living();
    assert!(left.len() == 1 && error.contains(&left[0]) && error.contains("by hand"), "{error}");
    scene.fake.with(|state| state.keys.remove(&left[0]));

    // The alias is made and its answer lost: it is this key.
    for trouble in [Trouble::DoneAndCut, Trouble::DoneAndError] {
        let label = format!("acme/{}", scene.fake.living().len() + 2);
        scene.fake.trouble("CreateAlias", [trouble]);
        let made = keys.create(&label).await.unwrap();
        assert!(scene.fake.living().contains(&made.reference));
        assert_eq!(keys.create(&label).await.unwrap(), made);
    }
    assert_eq!(scene.fake.living().len(), 2);
    // Another node was first: its key counts, and this one's goes.
    scene.fake.trouble("CreateAlias", [Trouble::Overtaken]);
    let made = keys.create("acme/9").await.unwrap();
    assert_eq!(scene.fake.with(|state| state.aliases["alias/countersign/acme/9"].clone()), made.reference);
    assert_eq!(scene.fake.living().len(), 3);
    // The key may have been made when the answer was lost: it is not made twice, and the next call makes a whole one.
    let before = scene.fake.count("CreateKey");
    scene.fake.trouble("CreateKey", [Trouble::DoneAndCut]);
    assert!(matches!(keys.create("acme/10").await, Err(KeyError::Unavailable(_))));
    assert_eq!(scene.fake.count("CreateKey"), before + 1);
    let made = keys.create("acme/10").await.unwrap();
    assert!(made.public.verifies(b"text", &keys.sign(&made.reference, &digest()).await.unwrap()));
}

#[tokio::test]
async fn a_new_key_may_take_a_moment_to_be_known_everywhere() {
    let scene = Scene::new().await;
    let unknown = || vec![Trouble::Error(400, "NotFoundException"); 2];
    scene.fake.trouble("CreateAlias", unknown());
    scene.fake.trouble("GetPublicKey", unknown());
    let made = scene.node().create("acme/1").await.unwrap();
    assert_eq!(scene.fake.living(), [made.reference]);
}

#[tokio::test]
async fn only_a_signature_by_the_key_over_the_digest_is_handed_on() {
    let scene = Scene::new().await;
    let keys = scene.node();
    let made = keys.create("acme/1").await.unwrap();
    for (trouble, refused) in [
        (Trouble::ForeignSignature, true),
        (Trouble::OtherDigest, true),
        (Trouble::NotDer, false),
        (Trouble::Changed("Signature", json!("")), false),
        (Trouble::Changed("Signature", json!("MAYCAQECAQE=x")), false),
        (Trouble::Changed("Signature", json!("MAYCAQACAQA=")), false),
        (Trouble::Changed("Signature", json!("MAYCAQECAQE=")), true),
        (Trouble::Changed("Signature", json!(7)), false),
    ] {
        scene.fake.trouble("Sign", [trouble.clone()]);
        let error = keys.sign(&made.reference, &digest()).await.unwrap_err();
        let right =
            if refused { matches!(error, KeyError::Refused(_)) } else { matches!(error, KeyError::Malformed(_)) };
        assert!(right, "{trouble:?}: {error}");
    }
    for (member, value) in [("PublicKey", json!("AAAA")), ("PublicKey", json!("!")), ("PublicKey", json!(null))] {
        scene.fake.trouble("GetPublicKey", [Trouble::Changed(member, value)]);
        let error = scene.node().sign(&made.reference, &digest()).await.unwrap_err();
        assert!(matches!(error, KeyError::Malformed(_)), "{error}");
    }
    scene.fake.trouble("GetPublicKey", [Trouble::Changed("KeySpec", json!("ECC_NIST_P384"))]);
    let error = scene.node().sign(&made.reference, &digest()).await.unwrap_err();
    assert!(matches!(&error, KeyError::Refused(words) if words.contains("ECC_NIST_P384")), "{error}");
}

#[tokio::test]
async fn keys_that_cannot_be_used_are_refused_with_words() {
    let scene = Scene::new().await;
    let made = scene.node().create("acme/1").await.unwrap();
    let set =
        |change: fn(&mut fake::Key)| scene.fake.with(|state| change(state.keys.get_mut(&made.reference).unwrap()));
    type Change = fn(&mut fake::Key);
    let cases: [(Change, Change, &str); 4] = [
        (|key| key.state = "Disabled", |key| key.state = "Enabled", "enable"),
        (|key| key.state = "PendingDeletion", |key| key.state = "Enabled", "delet"),
        (|key| key.origin = "EXTERNAL", |key| key.origin = "AWS_KMS", "known elsewhere"),
        (|key| key.spec = "RSA_2048", |key| key.spec = "ECC_NIST_P256", "RSA_2048"),
    ];
    for (spoil, mend, said) in cases {
        set(spoil);
        let error = scene.node().create("acme/1").await.unwrap_err();
        assert!(matches!(&error, KeyError::Refused(words) if words.contains(said)), "{error}");
        set(mend);
        assert_eq!(scene.node().create("acme/1").await.unwrap(), made);
    }
    set(|key| key.state = "Disabled");
    let error = scene.node().sign(&made.reference, &digest()).await.unwrap_err();
    assert!(matches!(&error, KeyError::Refused(words) if words.contains("enabled")), "{error}");
    assert_eq!(scene.fake.count("CreateKey"), 1);
}

#[tokio::test]
async fn the_root_comes_back_only_as_it_was_wrapped() {
    const ROOT_SECRET: [u8; 32] = *b"a root secret of thirty-two byte";
    let scene = Scene::new().await;
    let keys = scene.node();
    let (one, two) = (keys.wrap(&ROOT_SECRET).await.unwrap(), keys.wrap(&ROOT_SECRET).await.unwrap());
    assert_ne!(one, two);
    assert_eq!(*scene.node().unwrap(&one).await.unwrap(), ROOT_SECRET);
    assert_eq!(*keys.unwrap(&two).await.unwrap(), ROOT_SECRET);
    for at in 0..one.len() {
        let mut changed = one.clone();
        changed[at] ^= 1;
        let error = keys.unwrap(&changed).await.unwrap_err();
        let right =
            if at == 0 { matches!(error, KeyError::Malformed(_)) } else { matches!(error, KeyError::Refused(_)) };
        assert!(right, "byte {at}: {error}");
    }
    for wrong in [&[][..], &vec![1; 7000]] {
        assert!(matches!(keys.unwrap(wrong).await, Err(KeyError::Malformed(_))));
    }
    let other = node(AwsKmsConfig { root_key: Some("alias/other-root".to_owned()), ..scene.config() });
    assert!(matches!(other.unwrap(&one).await, Err(KeyError::Refused(_))));
    let none = node(AwsKmsConfig { root_key: None, ..scene.config() });
    assert!(matches!(none.unwrap(&one).await, Err(KeyError::Config(_))));
    assert!(matches!(none.wrap(&ROOT_SECRET).await, Err(KeyError::Config(_))));
    // KMS is away.
    scene.fake.trouble("Decrypt", vec![Trouble::Silence; 9]);
    assert!(matches!(scene.hasty().unwrap(&one).await, Err(KeyError::Unavailable(_))));
    // It gives back something else.
    scene.fake.trouble("Decrypt", [Trouble::Changed("Plaintext", json!("AAAA"))]);
    assert!(matches!(keys.unwrap(&one).await, Err(KeyError::Malformed(_))));
    let zeros = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    scene.fake.trouble("Decrypt", [Trouble::Changed("Plaintext", json!(zeros))]);
    assert!(matches!(keys.wrap(&ROOT_SECRET).await, Err(KeyError::Refused(_))));
}
