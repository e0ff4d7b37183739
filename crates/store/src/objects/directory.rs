//! Objects as files below a directory: the embedded default.
//!
//! What is true if the process dies in [`put`](Objects::put): before the link, there is a file in `tmp/` that nobody looks at and that a
//! start removes once it is an hour old; after it, the object is there, whole. A link, unlike a rename, never takes the place of another file.

use std::fs::{self, DirEntry, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use countersign_ledger::durable::{create_dir_all, sync_parent};
use countersign_ledger::objects::{
    Answered, Fetched, Listed, Lock, MAX_OBJECT, ObjectError, ObjectRef, Objects, check, check_key,
};
use countersign_proof::digest::Digest;
use uuid::Uuid;

/// Entries of one answer of [`Objects::list`].
const PAGE: usize = 1000;
/// Nodes that share a log share the directory: what is younger may belong to a put of another one.
const LEFT_OVER: Duration = Duration::from_secs(3600);

/// A directory of objects: the files are in `objects/`, under their keys.
pub struct Directory {
    root: Arc<PathBuf>,
}

impl Directory {
    /// Opens the directory, and makes it if there is none. What was left unfinished more than an hour ago is removed.
    ///
    /// # Errors
    /// [`ObjectError::Unavailable`], [`ObjectError::Full`].
    pub fn open(root: &Path) -> Result<Self, ObjectError> {
        let made = create_dir_all(&root.join("objects")).and_then(|()| create_dir_all(&root.join("tmp")));
        made.and_then(|()| sweep(&root.join("tmp"))).map_err(|e| failed(root, &e))?;
        Ok(Self { root: Arc::new(root.to_owned()) })
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Path) -> Result<T, ObjectError> + Send + 'static,
    ) -> Result<T, ObjectError> {
        let root = Arc::clone(&self.root);
        let done = tokio::task::spawn_blocking(move || work(&root)).await;
        done.map_err(|e| ObjectError::Unavailable(e.to_string()))?
    }
}

impl Objects for Directory {
    fn name(&self) -> String {
        format!("directory {}", self.root.display())
    }

    fn put<'a>(&'a self, key: &'a str, bytes: &'a [u8], held: bool) -> Answered<'a, ObjectRef> {
        if held {
            return Box::pin(async { Err(no_hold()) });
        }
        let (key, bytes) = (key.to_owned(), bytes.to_vec());
        Box::pin(self.blocking(move |root| put(root, key, &bytes)))
    }

    fn fetch<'a>(&'a self, object: &'a ObjectRef) -> Answered<'a, Fetched> {
        let object = object.clone();
        let work = move |root: &Path| Ok(Fetched { bytes: get(root, &object)?, lock: Lock::default() });
        Box::pin(self.blocking(work))
    }

    fn list<'a>(&'a self, behind: Option<&'a str>) -> Answered<'a, Vec<Listed>> {
        let behind = behind.unwrap_or_default().to_owned();
        Box::pin(self.blocking(move |root| {
            let mut found = Vec::new();
            let top = root.join("objects");
            list(&top, "", &behind, &mut found).map_err(|e| failed(&top, &e))?;
            Ok(found)
        }))
    }

    fn hold<'a>(&'a self, _: &'a ObjectRef, _: bool) -> Answered<'a, ()> {
        Box::pin(async { Err(no_hold()) })
    }

    fn overlaid<'a>(&'a self, _: &'a ObjectRef) -> Answered<'a, Option<String>> {
        Box::pin(async { Ok(None) })
    }
}

/// Whoever owns the files can delete them: a hold here would be a word without anything behind it.
fn no_hold() -> ObjectError {
    ObjectError::Unsupported(
        "artifacts are kept in a directory here, where nothing can be put under legal hold; a bucket with Object Lock can ([trust.s3])"
            .to_owned(),
    )
}

fn failed(path: &Path, error: &io::Error) -> ObjectError {
    let words = format!("{}: {error}", path.display());
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            ObjectError::Full(words)
        }
        _ => ObjectError::Unavailable(words),
    }
}

/// Removes what was never linked and is too old to be a put that is under way. Another node may remove it, or link it, at the same moment.
fn sweep(tmp: &Path) -> io::Result<()> {
    for entry in fs::read_dir(tmp)? {
        let entry = entry?;
        let swept = match is_left_over(&entry) {
            Ok(true) => fs::remove_file(entry.path()),
            other => other.map(drop),
        };
        swept.or_else(|e| if e.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(e) })?;
    }
    Ok(())
}

/// What is from the future, by another machine's clock, is not old.
fn is_left_over(entry: &DirEntry) -> io::Result<bool> {
    let age = entry.metadata()?.modified()?.elapsed().unwrap_or_default();
    Ok(age > LEFT_OVER)
}

fn put(root: &Path, key: String, bytes: &[u8]) -> Result<ObjectRef, ObjectError> {
    check_key(&key)?;
    if bytes.len() > MAX_OBJECT {
        return Err(ObjectError::Refused(format!("an object has at most {MAX_OBJECT} bytes")));
    }
    let object = ObjectRef {
        key,
        version: None,
        size: bytes.len() as u64,
        digest: Digest::of(bytes),
        retention: None,
        held: false,
    };
    let path = root.join("objects").join(&object.key);
    let tmp = root.join("tmp").join(Uuid::now_v7().to_string());
    let written = write(&tmp, bytes).and_then(|()| {
        path.parent().map_or(Ok(()), create_dir_all)?;
        fs::hard_link(&tmp, &path)
    });
    // A link that exists does not need its first name; one that does not leaves nothing behind.
    let removed = fs::remove_file(&tmp);
    match written {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => match get(root, &object) {
            Err(ObjectError::Changed { .. }) => return Err(ObjectError::Taken(object.key)),
            other => other.map(drop)?,
        },
        Err(e) => return Err(failed(&path, &e)),
    }
    removed.and_then(|()| sync_parent(&path)).map_err(|e| failed(&path, &e))?;
    Ok(object)
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    // Nobody changes it by accident.
    file.set_permissions(Permissions::from_mode(0o400))?;
    file.sync_all()
}

fn get(root: &Path, object: &ObjectRef) -> Result<Vec<u8>, ObjectError> {
    check_key(&object.key)?;
    let path = root.join("objects").join(&object.key);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(ObjectError::Missing(object.key.clone())),
        Err(e) => return Err(failed(&path, &e)),
    };
    let mut bytes = Vec::new();
    // One byte more than there may be shows that it has grown.
    let limit = object.size.min(MAX_OBJECT as u64) + 1;
    file.take(limit).read_to_end(&mut bytes).map_err(|e| failed(&path, &e))?;
    check(object, &bytes)?;
    Ok(bytes)
}

/// Adds what stands below a directory behind a key, in the order of keys, until the page is full.
fn list(dir: &Path, prefix: &str, behind: &str, found: &mut Vec<Listed>) -> io::Result<()> {
    let mut entries: Vec<(String, DirEntry, bool)> = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let is_dir = entry.file_type()?.is_dir();
        // A directory's keys go on with a slash, which counts in their order.
        entries.push((if is_dir { format!("{name}/") } else { name }, entry, is_dir));
    }
    entries.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    for (name, entry, is_dir) in entries {
        if found.len() >= PAGE {
            return Ok(());
        }
        let key = format!("{prefix}{name}");
        if is_dir {
            // Nothing in it comes behind, unless the key stands in it.
            if key.as_str() > behind || behind.starts_with(&key) {
                list(&entry.path(), &key, behind, found)?;
            }
        } else if key.as_str() > behind {
            let at = entry.metadata()?.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
            found.push(Listed { key, at: u64::try_from(at.as_millis()).unwrap_or(u64::MAX) });
        }
    }
    Ok(())
}
