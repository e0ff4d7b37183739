//! Objects in a directory.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, SystemTime};

use countersign_ledger::objects::{MAX_OBJECT, ObjectError, ObjectRef, Objects};
use countersign_store::objects::Directory;

async fn keys(store: &Directory, behind: Option<&str>) -> Vec<String> {
    store.list(behind).await.expect("a listing").into_iter().map(|listed| listed.key).collect()
}

#[tokio::test]
async fn objects_are_read_back_as_written_and_never_overwritten() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Directory::open(dir.path()).expect("opens");
    let object = store.put("artifacts/w/1.jws", b"one", false).await.expect("stored");
    assert_eq!(store.get(&object).await.expect("there"), b"one");
    assert_eq!(store.put("artifacts/w/1.jws", b"one", false).await, Ok(object.clone()), "the same again");
    let other = store.put("artifacts/w/1.jws", b"two", false).await;
    assert_eq!(other, Err(ObjectError::Taken("artifacts/w/1.jws".into())));
    assert_eq!(store.get(&object).await.expect("still there"), b"one");
    let gone = ObjectRef { key: "artifacts/w/2.jws".into(), ..object.clone() };
    assert_eq!(store.get(&gone).await, Err(ObjectError::Missing(gone.key.clone())));
    for key in ["../escape", "/etc/passwd", "a//b"] {
        assert!(matches!(store.put(key, b"x", false).await, Err(ObjectError::Refused(_))), "{key}");
        let wrong = ObjectRef { key: key.into(), ..object.clone() };
        assert!(matches!(store.get(&wrong).await, Err(ObjectError::Refused(_))), "{key}");
    }
    assert!(matches!(store.put("large", &vec![0; MAX_OBJECT + 1], false).await, Err(ObjectError::Refused(_))));
    assert!(fs::read_dir(dir.path().join("tmp")).expect("a directory").next().is_none(), "nothing is left over");
}

#[tokio::test]
async fn a_directory_says_that_it_can_hold_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Directory::open(dir.path()).expect("opens");
    let object = store.put("a/b", b"hello", false).await.expect("stored");
    assert!(matches!(store.hold(&object, true).await, Err(ObjectError::Unsupported(_))));
    assert!(matches!(store.put("a/c", b"hello", true).await, Err(ObjectError::Unsupported(_))));
    assert_eq!(keys(&store, None).await, ["a/b"]);
}

#[tokio::test]
async fn what_was_changed_is_not_handed_out() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Directory::open(dir.path()).expect("opens");
    let object = store.put("a/b", b"hello", false).await.expect("stored");
    let path = dir.path().join("objects/a/b");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("ours");
    for damaged in [b"hellO".as_slice(), b"hell", b"hello!", b""] {
        fs::write(&path, damaged).expect("written");
        assert!(matches!(store.get(&object).await, Err(ObjectError::Changed { .. })), "{damaged:?}");
    }
    fs::write(&path, b"hello").expect("written");
    assert_eq!(store.get(&object).await.expect("as it was"), b"hello");
}

#[tokio::test]
async fn what_was_left_unfinished_goes_and_listings_go_on_where_they_ended() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Directory::open(dir.path()).expect("opens");
    let mut expected = Vec::new();
    for n in 0..1100 {
        let key = format!("w{}/{:04}/x-{n}.jws", n % 3, n / 2);
        store.put(&key, &[1], false).await.expect("stored");
        expected.push(key);
    }
    expected.sort();
    let first = keys(&store, None).await;
    assert_eq!((first.len(), &first[..]), (1000, &expected[..1000]));
    assert_eq!(keys(&store, first.last().map(String::as_str)).await, expected[1000..]);
    assert!(keys(&store, expected.last().map(String::as_str)).await.is_empty());
    // What another node is about to put is left alone, by whatever clock it is written; what nobody comes back to goes.
    let hours_ago = |hours: u64| SystemTime::now() - Duration::from_secs(hours * 3600);
    for (name, at) in
        [("old", hours_ago(2)), ("half", SystemTime::now()), ("ahead", SystemTime::now() + Duration::from_secs(7200))]
    {
        let file = fs::File::create(dir.path().join("tmp").join(name)).expect("made");
        file.set_modified(at).expect("ours");
    }
    let again = Directory::open(dir.path()).expect("opens again");
    let left = ["old", "half", "ahead"].map(|name| dir.path().join("tmp").join(name).exists());
    assert_eq!(left, [false, true, true]);
    assert_eq!(keys(&again, None).await, first);
}

#[tokio::test]
async fn a_directory_that_cannot_be_used_says_so() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join("file"), b"").expect("written");
    let refused = Directory::open(&dir.path().join("file/below")).err();
    assert!(matches!(refused, Some(ObjectError::Unavailable(_))), "{refused:?}");
}
