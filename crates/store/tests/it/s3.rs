//! Objects in a bucket, against a stand-in that checks signatures and errs when told to.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use countersign_egress::aws::Credentials;
use countersign_egress::{Egress, EgressConfig};
use countersign_ledger::objects::{
    Lock, MAX_OBJECT, ObjectError, ObjectRef, Objects, Retention, RetentionMode, lock_trouble,
};
use countersign_store::objects::{CredentialSource, Encryption, S3, S3Config};
use countersign_testkit::s3::{ACCESS_KEY, BUCKET, Bucket, REGION, SECRET, Trouble};
use zeroize::Zeroizing;

const DAY: u64 = 86_400;
const KEY: &str = "artifacts/w:x@y/1.jws";

fn credentials(secret: &'static str) -> CredentialSource {
    Arc::new(move || {
        let secret_access_key = Zeroizing::new(secret.to_owned());
        Ok(Credentials { access_key_id: ACCESS_KEY.into(), secret_access_key, session_token: None })
    })
}

fn config(bucket: &Bucket) -> S3Config {
    let mut config = S3Config::new(BUCKET.into(), REGION.into());
    config.endpoint = bucket.endpoint().parse().ok();
    config.prefix = "node-1".into();
    config.retention = Some((RetentionMode::Compliance, Duration::from_secs(30 * DAY)));
    config.encryption = Some(Encryption::Kms(Some("alias/kept".into())));
    config.timeout = Duration::from_secs(3);
    config
}

async fn try_open(config: S3Config, secret: &'static str) -> Result<(S3, Option<String>), ObjectError> {
    S3::open(config, credentials(secret), &Egress::new(EgressConfig::default())).await
}

async fn open(config: S3Config) -> S3 {
    let (store, note) = try_open(config, SECRET).await.expect("opens");
    assert_eq!(note, None);
    store
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_millis() as u64
}

fn full(key: &str) -> String {
    format!("node-1/{key}")
}

#[tokio::test]
async fn an_object_is_put_once_locked_encrypted_and_read_back_by_its_version() {
    let bucket = Bucket::start().expect("a bucket");
    let store = open(config(&bucket)).await;
    assert_eq!(store.name(), "s3://kept/node-1");
    let before = now();
    let object = store.put(KEY, b"one", false).await.expect("stored");
    let kept = bucket.with(|state| state.newest(&full(KEY)).cloned()).expect("there");
    assert_eq!((kept.bytes.as_slice(), Some(&kept.id)), (b"one".as_slice(), object.version.as_ref()));
    assert_eq!(kept.encryption, Some(("aws:kms".into(), Some("alias/kept".into()))));
    let Some(Retention { mode: RetentionMode::Compliance, until }) = object.retention else { panic!("{object:?}") };
    assert!((30 * DAY * 1000..30 * DAY * 1000 + 5000).contains(&(until - before)), "{until}");
    assert_eq!(kept.retention.as_ref().map(|(mode, _)| mode.as_str()), Some("COMPLIANCE"));

    let fetched = store.fetch(&object).await.expect("there");
    assert_eq!(
        (fetched.bytes.as_slice(), fetched.lock),
        (b"one".as_slice(), Lock { retention: object.retention, held: false })
    );
    assert_eq!(lock_trouble(&object, &fetched.lock, now()), None);
    // The same again is the same, and is kept for at least as long; something else is refused.
    let again = store.put(KEY, b"one", false).await.expect("the same");
    assert_eq!((&again.version, again.digest), (&object.version, object.digest));
    assert_eq!(store.put(KEY, b"two", false).await, Err(ObjectError::Taken(KEY.into())));
    assert_eq!(bucket.with(|state| state.objects[&full(KEY)].len()), 1, "nothing was overwritten");
    let missing = ObjectRef { key: "artifacts/other".into(), ..object.clone() };
    assert_eq!(store.fetch(&missing).await, Err(ObjectError::Missing("artifacts/other".into())));
    let no_version = ObjectRef { version: Some("v0".into()), ..object.clone() };
    assert_eq!(store.get(&no_version).await, Err(ObjectError::Missing(KEY.into())));
    for key in ["../escape", "/etc", "a//b", "ä"] {
        assert!(matches!(store.put(key, b"x", false).await, Err(ObjectError::Refused(_))), "{key}");
    }
    assert!(matches!(store.put("large", &vec![0; MAX_OBJECT + 1], false).await, Err(ObjectError::Refused(_))));
    let large = store.put("large", &vec![7; MAX_OBJECT], false).await.expect("as large as may be");
    assert_eq!(store.get(&large).await.map(|bytes| bytes.len()), Ok(MAX_OBJECT));
}

#[tokio::test]
async fn what_is_laid_over_an_object_changes_nothing_and_is_named() {
    let bucket = Bucket::start().expect("a bucket");
    let store = open(config(&bucket)).await;
    let object = store.put(KEY, b"one", false).await.expect("stored");
    assert_eq!(store.overlaid(&object).await, Ok(None));
    bucket.with(|state| state.lay_over(&full(KEY), b"two"));
    assert_eq!(store.get(&object).await.as_deref(), Ok(b"one".as_slice()));
    let said = store.overlaid(&object).await.expect("an answer");
    assert!(said.as_ref().is_some_and(|said| said.contains("another version")), "{said:?}");
    bucket.with(|state| state.delete(&full(KEY)));
    assert_eq!(store.get(&object).await.as_deref(), Ok(b"one".as_slice()));
    let said = store.overlaid(&object).await.expect("an answer");
    assert!(said.as_ref().is_some_and(|said| said.contains("deleted")), "{said:?}");
    // Whoever asks for the mark of the deletion, or for no version at all, gets nothing.
    let mark = bucket.with(|state| state.newest(&full(KEY)).map(|version| version.id.clone()));
    for version in [mark, None] {
        let other = ObjectRef { version, ..object.clone() };
        assert_eq!(store.get(&other).await, Err(ObjectError::Missing(KEY.into())));
    }
    // Under a mark of deletion there is room again.
    assert_ne!(store.put(KEY, b"one", false).await.expect("stored").version, object.version);
}

#[tokio::test]
async fn what_was_changed_is_not_handed_out() {
    let bucket = Bucket::start().expect("a bucket");
    let store = open(config(&bucket)).await;
    let object = store.put(KEY, b"hello", false).await.expect("stored");
    let changed = |result: Result<Vec<u8>, ObjectError>| matches!(result, Err(ObjectError::Changed { .. }));
    for damaged in [b"hellO".as_slice(), b"hell", b"hello!", b"", &[b'x'; 100_000]] {
        bucket.with(|state| state.objects.get_mut(&full(KEY)).expect("there")[0].bytes = damaged.to_vec());
        assert!(changed(store.get(&object).await), "{} bytes", damaged.len());
    }
    bucket.with(|state| state.objects.get_mut(&full(KEY)).expect("there")[0].bytes = b"hello".to_vec());
    bucket.trouble("GetObject", [Trouble::Header("x-amz-version-id", Some("v9"))]);
    assert!(changed(store.get(&object).await), "another version is another object");
    bucket.trouble("GetObject", [Trouble::Body(b"hellO".to_vec())]);
    assert!(changed(store.get(&object).await));
    assert_eq!(store.get(&object).await.as_deref(), Ok(b"hello".as_slice()));
}

#[tokio::test]
async fn an_answer_that_is_lost_costs_nothing() {
    let bucket = Bucket::start().expect("a bucket");
    let store = open(config(&bucket)).await;
    for (n, trouble) in [Trouble::DoneAndCut, Trouble::DoneAndError, Trouble::Cut, Trouble::Error(503, "SlowDown")]
        .into_iter()
        .enumerate()
    {
        let key = format!("a/{n}");
        bucket.trouble("PutObject", [trouble.clone()]);
        let object = store.put(&key, b"one", false).await.unwrap_or_else(|error| panic!("{trouble:?}: {error}"));
        let there = bucket.with(|state| state.objects[&full(&key)].iter().map(|v| v.id.clone()).collect::<Vec<_>>());
        assert_eq!(
            (there.as_slice(), there.first()),
            ([there[0].clone()].as_slice(), object.version.as_ref()),
            "{trouble:?}"
        );
        bucket.trouble("GetObject", [trouble]);
        assert_eq!(store.get(&object).await.as_deref(), Ok(b"one".as_slice()));
    }
    // Retries have an end.
    for (operation, most) in [("PutObject", 3), ("GetObject", 2)] {
        bucket.trouble(operation, vec![Trouble::Error(503, "SlowDown"); 100]);
        let before = bucket.count(operation);
        let error = match operation {
            "PutObject" => store.put("b/1", b"one", false).await.map(drop),
            _ => store.get(&ObjectRef { key: "a/0".into(), version: None, ..reference(&store).await }).await.map(drop),
        };
        assert!(matches!(error, Err(ObjectError::Unavailable(_))), "{error:?}");
        assert_eq!(bucket.count(operation) - before, most, "{operation}");
        bucket.trouble(operation, []);
    }
    // What will not do is asked once.
    bucket.trouble("PutObject", [Trouble::Error(403, "AccessDenied")]);
    let before = bucket.count("PutObject");
    let error = store.put("b/2", b"one", false).await;
    assert!(matches!(&error, Err(ObjectError::Refused(words)) if words.contains("policy")), "{error:?}");
    assert_eq!(bucket.count("PutObject") - before, 1);
}

async fn reference(store: &S3) -> ObjectRef {
    store.put("reference", b"one", false).await.expect("stored")
}

#[tokio::test]
async fn a_store_that_is_away_or_odd_costs_no_more_than_the_time_given() {
    let bucket = Bucket::start().expect("a bucket");
    let store = open(S3Config { timeout: Duration::from_millis(800), ..config(&bucket) }).await;
    let object = store.put(KEY, b"one", false).await.expect("stored");
    let late = Trouble::Late(Duration::from_secs(3));
    for (trouble, name) in [
        (late, "late"),
        (Trouble::Cut, "cut"),
        (Trouble::Answer(500, b"<html>".to_vec()), "500"),
        (Trouble::Answer(302, Vec::new()), "a redirect"),
        (Trouble::Answer(404, b"<html>not here</html>".to_vec()), "somebody else's 404"),
        (Trouble::Answer(403, vec![b' '; 1 << 20]), "long words"),
        (Trouble::Answer(400, b"<Error><Code>x</Code".to_vec()), "half an error"),
    ] {
        for operation in ["PutObject", "GetObject", "ListObjectsV2"] {
            bucket.trouble(operation, vec![trouble.clone(); 100]);
            let start = Instant::now();
            let error = match operation {
                "PutObject" => store.put("other", b"two", false).await.map(drop),
                "GetObject" => store.get(&object).await.map(drop),
                _ => store.list(None).await.map(drop),
            };
            assert!(matches!(error, Err(ObjectError::Unavailable(_))), "{name}, {operation}: {error:?}");
            assert!(start.elapsed() < Duration::from_millis(1500), "{name}, {operation}: {:?}", start.elapsed());
            bucket.trouble(operation, []);
        }
    }
    bucket.with(|state| state.is_away = true);
    assert!(matches!(store.put("other", b"two", false).await, Err(ObjectError::Unavailable(_))));
    bucket.with(|state| state.is_away = false);
    store.put("other", b"two", false).await.expect("back again");
}

#[tokio::test]
async fn a_bucket_that_will_not_do_is_refused_before_anything_is_put_there() {
    let bucket = Bucket::start().expect("a bucket");
    let refusal = async |config: S3Config, secret| match try_open(config, secret).await {
        Err(ObjectError::Refused(words)) => words,
        Err(other) => panic!("{other}"),
        Ok((_, note)) => panic!("it opens: {note:?}"),
    };
    bucket.with(|state| state.has_lock = false);
    let words = refusal(config(&bucket), SECRET).await;
    assert!(words.contains("no Object Lock") && words.contains("put-object-lock-configuration"), "{words}");
    let plain = S3Config { retention: None, ..config(&bucket) };
    open(plain.clone()).await;
    bucket.with(|state| (state.has_lock, state.has_versions) = (true, false));
    assert!(refusal(config(&bucket), SECRET).await.contains("Object Lock"), "a lock needs versions");
    let (store, note) = try_open(plain, SECRET).await.expect("opens");
    assert!(note.is_some_and(|note| note.contains("put-bucket-versioning")));
    assert_eq!(store.put(KEY, b"one", false).await.map(|object| object.version), Ok(None));
    bucket.with(|state| state.has_versions = true);
    for (changed, secret, word) in [
        (S3Config { bucket: "other".into(), ..config(&bucket) }, SECRET, "make the bucket"),
        (S3Config { region: "eu-west-1".into(), ..config(&bucket) }, SECRET, "region"),
        (config(&bucket), "another secret", "secret access key"),
        (S3Config { bucket: "No".into(), ..config(&bucket) }, SECRET, "bucket"),
    ] {
        let words = refusal(changed, secret).await;
        assert!(words.contains(word) && !words.contains(SECRET), "{words}");
    }
    // Something else answers there.
    bucket.trouble("GetBucketVersioning", [Trouble::Answer(200, b"<html></html>".to_vec())]);
    assert!(refusal(config(&bucket), SECRET).await.contains("check the endpoint"));
    // While it is away nothing is known: it is asked before the first object.
    bucket.with(|state| (state.is_away, state.has_lock) = (true, false));
    let (store, note) = try_open(config(&bucket), SECRET).await.expect("opens");
    assert!(note.is_some_and(|note| note.contains("cannot be reached")));
    assert!(matches!(store.put("x", b"one", false).await, Err(ObjectError::Unavailable(_))));
    bucket.with(|state| state.is_away = false);
    assert!(matches!(store.put("x", b"one", false).await, Err(ObjectError::Refused(_))), "it has no lock");
    bucket.with(|state| state.has_lock = true);
    store.put("x", b"one", false).await.expect("now it has");
}

#[tokio::test]
async fn holds_are_put_on_and_taken_off_and_retentions_only_extended() {
    let bucket = Bucket::start().expect("a bucket");
    let store = open(config(&bucket)).await;
    let object = store.put(KEY, b"one", true).await.expect("stored");
    let lock = async |object: &ObjectRef| store.fetch(object).await.expect("there").lock;
    assert!(object.held && lock(&object).await.held);
    for held in [false, false, true] {
        store.hold(&object, held).await.expect("done");
        assert_eq!(lock(&object).await.held, held);
    }
    // On the version that was pinned, whatever lies over it.
    bucket.with(|state| state.lay_over(&full(KEY), b"two"));
    store.hold(&object, false).await.expect("done");
    assert_eq!(
        bucket.with(|state| state.objects[&full(KEY)].iter().map(|v| v.held).collect::<Vec<_>>()),
        [false, false]
    );
    let missing = ObjectRef { key: "other".into(), ..object.clone() };
    assert_eq!(store.hold(&missing, true).await, Err(ObjectError::Missing("other".into())));

    // What a longer retention keeps already is left alone; a shorter one is extended; a hold that is wanted is put on.
    let longer = open(S3Config {
        retention: Some((RetentionMode::Compliance, Duration::from_secs(90 * DAY))),
        ..config(&bucket)
    })
    .await;
    let first = longer.put("b", b"one", false).await.expect("stored");
    store.put("b", b"one", false).await.expect("the same");
    assert_eq!(bucket.count("PutObjectRetention"), 0);
    assert_eq!(lock(&first).await.retention, first.retention);
    let first = store.put("c", b"one", false).await.expect("stored");
    let again = longer.put("c", b"one", true).await.expect("the same");
    assert_eq!((bucket.count("PutObjectRetention"), again.version.as_ref()), (1, first.version.as_ref()));
    assert_eq!(lock(&first).await, Lock { retention: again.retention, held: true });

    bucket.with(|state| state.has_lock = false);
    let plain = open(S3Config { retention: None, ..config(&bucket) }).await;
    let object = plain.put("d", b"one", false).await.expect("stored");
    let refused = plain.hold(&object, true).await;
    assert!(
        matches!(&refused, Err(ObjectError::Unsupported(words)) if words.contains("without Object Lock")),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_retention_is_made_longer_and_firmer_and_never_the_other_way() {
    let bucket = Bucket::start().expect("a bucket");
    let keeping = async |mode, days: u64| {
        let retention = Some((mode, Duration::from_secs(days * DAY)));
        open(S3Config { retention, ..config(&bucket) }).await
    };
    let (firm, loose) = (RetentionMode::Compliance, RetentionMode::Governance);
    for (n, (first, then, kept, is_longer)) in [
        // Whose node was set to another mode meanwhile.
        ((firm, 30), (loose, 90), firm, true),
        ((firm, 90), (loose, 30), firm, false),
        ((loose, 90), (firm, 30), firm, false),
        ((loose, 30), (firm, 90), firm, true),
        ((loose, 30), (loose, 90), loose, true),
    ]
    .into_iter()
    .enumerate()
    {
        let key = format!("a/{n}");
        let before = keeping(first.0, first.1).await.put(&key, b"one", false).await.expect("stored");
        let store = keeping(then.0, then.1).await;
        let again = store.put(&key, b"one", false).await.unwrap_or_else(|error| panic!("{first:?} {then:?}: {error}"));
        let longest = if is_longer { again.retention } else { before.retention };
        let longest = longest.expect("a retention");
        let lock = store.fetch(&again).await.expect("there").lock;
        assert_eq!(lock.retention, Some(Retention { mode: kept, ..longest }), "{first:?} {then:?}");
        assert_eq!(lock_trouble(&again, &lock, now()), None);
    }
}

#[tokio::test]
async fn whether_a_hold_was_set_whose_answer_was_lost_is_looked_up() {
    let bucket = Bucket::start().expect("a bucket");
    let store = open(config(&bucket)).await;
    let object = store.put(KEY, b"one", false).await.expect("stored");
    let there = || bucket.with(|state| state.newest(&full(KEY)).expect("there").held);
    let shown = |text| Trouble::Header("x-amz-object-lock-legal-hold", text);
    let (cut, busy) = (Trouble::Cut, Trouble::Error(503, "SlowDown"));
    let refused = Trouble::Error(403, "AccessDenied");
    let done = Trouble::DoneAndCut;
    let thrice = |trouble: &Trouble| vec![trouble.clone(); 3];
    for (troubles, looks, wanted, expected, is_held) in [
        // Each goes on where the one before it ended.
        (thrice(&done), vec![], true, "done", true),
        (thrice(&busy), vec![], false, "undone", true),
        (thrice(&cut), vec![], false, "undone", true),
        (thrice(&done), vec![shown(Some("OFF"))], false, "done", false),
        (thrice(&cut), vec![], true, "undone", false),
        // Done, and then refused for another reason.
        (vec![done.clone(), refused.clone()], vec![], true, "done", true),
        (vec![refused], vec![], false, "refused", true),
        // Not even that can be read; or nothing is shown, which proves nothing.
        (thrice(&done), vec![cut.clone(), busy], false, "unknown", false),
        (thrice(&done), vec![shown(None)], false, "unknown", false),
    ] {
        let case = format!("{troubles:?} {looks:?} {wanted}");
        bucket.trouble("PutObjectLegalHold", troubles);
        bucket.trouble("HeadObject", looks);
        let said = match store.hold(&object, wanted).await {
            Ok(()) => "done",
            Err(ObjectError::Undone(_)) => "undone",
            Err(ObjectError::Refused(_)) => "refused",
            Err(ObjectError::Unavailable(_)) => "unknown",
            Err(other) => panic!("{case}: {other}"),
        };
        assert_eq!((said, there()), (expected, is_held), "{case}");
    }
    bucket.trouble("PutObjectLegalHold", []);
    bucket.trouble("HeadObject", []);

    // Nobody listens there: nothing was sent.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port");
    let nowhere = S3Config { endpoint: format!("http://{nobody}").parse().ok(), ..config(&bucket) };
    let (nowhere, note) = try_open(nowhere, SECRET).await.expect("opens");
    assert!(note.is_some_and(|note| note.contains("cannot be reached")));
    let undone = nowhere.hold(&object, true).await;
    assert!(matches!(undone, Err(ObjectError::Undone(_))), "{undone:?}");

    // A request without an answer may be done after the look.
    let hurried = open(S3Config { timeout: Duration::from_millis(800), ..config(&bucket) }).await;
    bucket.trouble("PutObjectLegalHold", [Trouble::Late(Duration::from_secs(3))]);
    let unknown = hurried.hold(&object, true).await;
    assert!(matches!(unknown, Err(ObjectError::Unavailable(_))) && !there(), "{unknown:?}");
    let until = Instant::now() + Duration::from_secs(20);
    while !there() {
        assert!(Instant::now() < until, "it never arrives");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_store_that_does_not_do_as_asked_is_found_out() {
    let bucket = Bucket::start().expect("a bucket");
    bucket.with(|state| state.ignores = true);
    let store = open(config(&bucket)).await;
    let refused = store.put(KEY, b"one", false).await;
    assert!(matches!(&refused, Err(ObjectError::Refused(words)) if words.contains("encrypt")), "{refused:?}");
    let store = open(S3Config { encryption: None, ..config(&bucket) }).await;
    let object = store.put("b", b"one", true).await.expect("stored");
    let lock = store.fetch(&object).await.expect("there").lock;
    let said = lock_trouble(&object, &lock, now()).expect("a finding");
    assert!(said.contains("retention is gone") && said.contains("hold is gone"), "{said}");
    bucket.trouble("PutObject", [Trouble::Header("x-amz-version-id", None)]);
    let refused = store.put("c", b"one", false).await;
    assert!(matches!(&refused, Err(ObjectError::Unavailable(words)) if words.contains("which version")), "{refused:?}");
    bucket.trouble("GetObject", [Trouble::Header("x-amz-object-lock-mode", Some("NONE"))]);
    assert!(matches!(store.fetch(&object).await, Err(ObjectError::Unavailable(_))));
}

#[tokio::test]
async fn listings_go_on_where_they_ended_and_show_nothing_beside_the_prefix() {
    let bucket = Bucket::start().expect("a bucket");
    let store = open(S3Config { retention: None, ..config(&bucket) }).await;
    assert_eq!(store.list(None).await, Ok(Vec::new()));
    let mut expected = Vec::new();
    for n in 0..25 {
        let key = format!("w{}/{:02}:@", n % 3, n / 2);
        store.put(&key, format!("{n}").as_bytes(), false).await.ok();
        expected.push(key);
    }
    expected.sort();
    expected.dedup();
    bucket.with(|state| {
        state.lay_over("node-1/", b"");
        state.lay_over("node-10/x", b"not ours");
        state.lay_over("other", b"not ours");
        state.lay_over("node-1/deleted", b"gone");
        state.delete("node-1/deleted");
        state.lay_over("node-1/zz +%é", b"foreign");
        state.page = 7;
    });
    expected.push("zz +%é".into());
    let (mut found, mut behind, mut pages) = (Vec::new(), None::<String>, 0);
    loop {
        let page = store.list(behind.as_deref()).await.expect("a page");
        let Some(last) = page.last() else { break };
        behind = Some(last.key.clone());
        assert!(page.iter().all(|listed| now().abs_diff(listed.at) < 60_000), "{page:?}");
        found.extend(page.into_iter().map(|listed| listed.key));
        pages += 1;
    }
    assert_eq!((found, pages > 3), (expected, true));
    bucket.with(|state| state.page = 1);
    assert_eq!(store.list(None).await.map(|page| page.len()), Ok(1), "the folder's mark is not a page's end");
}

#[tokio::test]
async fn credentials_are_read_anew_and_never_shown() {
    let bucket = Bucket::start().expect("a bucket");
    let secrets = Arc::new(std::sync::Mutex::new(SECRET.to_owned()));
    let source: CredentialSource = {
        let secrets = Arc::clone(&secrets);
        Arc::new(move || {
            let secret = secrets.lock().unwrap().clone();
            if secret.is_empty() {
                return Err("the environment variable AWS_SECRET_ACCESS_KEY is not there".into());
            }
            let secret_access_key = Zeroizing::new(secret);
            let session_token = None;
            Ok(Credentials { access_key_id: ACCESS_KEY.into(), secret_access_key, session_token })
        })
    };
    let (store, _) = S3::open(config(&bucket), source, &Egress::new(EgressConfig::default())).await.expect("opens");
    let object = store.put(KEY, b"one", false).await.expect("stored");
    for (secret, word) in [("rotated", "SignatureDoesNotMatch"), ("", "AWS_SECRET_ACCESS_KEY")] {
        secret.clone_into(&mut secrets.lock().unwrap());
        let words = store.get(&object).await.expect_err("refused").to_string();
        assert!(words.contains(word), "{words}");
    }
    SECRET.clone_into(&mut secrets.lock().unwrap());
    store.get(&object).await.expect("right again");
    // A store that echoes them is not quoted.
    let echo = format!("<Error><Code>X</Code><Message>you sent {SECRET}</Message></Error>");
    bucket.trouble("GetObject", [Trouble::Answer(400, echo.into_bytes())]);
    let words = store.get(&object).await.expect_err("refused").to_string();
    assert!(words.contains("400") && !words.contains(SECRET), "{words}");
    let counted: BTreeMap<&str, usize> = bucket.with(|state| {
        let mut counted = BTreeMap::new();
        state.calls.iter().for_each(|call| *counted.entry(*call).or_default() += 1);
        counted
    });
    assert_eq!((counted["GetBucketVersioning"], counted["GetObjectLockConfiguration"]), (1, 1), "looked at once");
}
