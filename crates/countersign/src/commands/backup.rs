//! `countersign backup` and `restore`. A backup is a directory with a consistent copy of the database and a manifest that
//! says what is in it and what is not: keys, configuration, manifests and policies stay the operator's to keep.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::cli::Global;
use crate::client::Node;
use crate::exit::{Exit, Failure};
use crate::local::{self, data};
use crate::output::{self, Style, paint};

const FORMAT: &str = "countersign-backup/v1";
const DATABASE: &str = "countersign.db";
const MANIFEST: &str = "backup.json";
/// What a reader of the manifest must not expect.
const NOT_INCLUDED: [&str; 5] = [
    "keys/ (root.key unwraps the contents, log.seed signs the log, witness.seed cosigns others'): keep them apart from backups, or a thief has both",
    "countersign.toml, manifests/ and policies/: keep them in version control",
    "the head file: it must outlive the database, so that a restore is noticed",
    "the objects of signed artifacts (objects/, or the bucket): they are never changed, so that a copy made after this one has them all; `countersign artifacts scrub` says what is missing",
    "whatever the upstreams keep",
];

/// Options of `backup`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  countersign backup /backups/countersign-2026-11-21
  countersign restore /backups/countersign-2026-11-21

Not included: keys/, objects/, countersign.toml, manifests/, policies/ and the head file. Without keys/root.key, stored contents
cannot be read; receipts that were given out verify without any of it.")]
pub struct BackupArgs {
    /// A directory that does not exist yet
    path: PathBuf,
}

/// Options of `restore`.
#[derive(Debug, clap::Args)]
pub struct RestoreArgs {
    /// The directory that `backup` wrote
    path: PathBuf,
    /// Don't ask whether you are sure
    #[arg(long, short)]
    yes: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    format: String,
    /// Milliseconds since 1970.
    made_at: i64,
    /// The version that wrote it.
    countersign: String,
    database: FileRecord,
    not_included: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct FileRecord {
    file: String,
    bytes: u64,
    sha256: String,
}

/// Copies the database into a new directory, through the node if one runs.
///
/// # Errors
/// If the directory exists, or the copy fails; then nothing is left behind that looks like a backup.
pub async fn backup(global: &Global, args: BackupArgs) -> anyhow::Result<Exit> {
    if local::config(global)?.database.is_some() {
        return Err(data::no_copies().into());
    }
    let directory = std::path::absolute(&args.path)?;
    let made = std::fs::DirBuilder::new().mode(0o700).create(&directory);
    made.with_context(|| format!("making {}, which must not exist yet", directory.display()))?;
    let database = directory.join(DATABASE);
    match Node::find_running(global)? {
        Some(node) => drop(node.post("/admin/backup", &json!({ "path": database })).await?),
        None => data::backup(global, &database)?,
    }
    let manifest = Manifest {
        format: FORMAT.into(),
        made_at: output::now_ms(),
        countersign: env!("CARGO_PKG_VERSION").into(),
        database: record(&database)?,
        not_included: NOT_INCLUDED.map(str::to_owned).to_vec(),
    };
    // Written last: a directory without a manifest is not a backup.
    let text = format!("{}\n", serde_json::to_string_pretty(&manifest)?);
    durable(&directory.join(MANIFEST), text.as_bytes())?;
    if global.json {
        output::json(&serde_json::to_value(&manifest)?);
    } else {
        let size = manifest.database.bytes;
        output::line(format!("{} {size} bytes in {}", paint(Style::Good, "backed up:"), database.display()));
        output::line(paint(Style::Warn, "Not included:"));
        NOT_INCLUDED.iter().for_each(|what| output::line(format!("  {what}")));
    }
    Ok(Exit::Ok)
}

/// Puts a backup in place and keeps the old database beside it.
///
/// # Errors
/// [`Exit::Busy`] over a running node; [`Exit::Invalid`] if the backup is not what its manifest says.
pub fn restore(global: &Global, args: &RestoreArgs) -> anyhow::Result<Exit> {
    let config = local::config(global)?;
    if config.database.is_some() {
        return Err(data::no_copies().into());
    }
    let source = checked(&args.path)?;
    let _lock = data::hold(&config)?;
    let question = format!("Replace the database in {}?", config.data_dir.display());
    if output::can_ask() && !args.yes && !output::ask(&question) {
        return Err(Failure::new(Exit::Failed, "nothing was restored").into());
    }
    let kept = put_in_place(&source, &config.data_dir)?;
    if global.json {
        output::json(&json!({ "restored": source, "kept": kept }));
        return Ok(Exit::Ok);
    }
    output::line(format!("{} {}", paint(Style::Good, "restored:"), source.display()));
    if let Some(kept) = kept {
        output::line(format!("The old database is kept as {}.", kept.display()));
    }
    output::line(
        "The next start opens a new shard of the log that names the old head, if the backup is behind it. Receipts from",
    );
    output::line("before and after verify, each with its own shard's key: `countersign log keys` prints them all.");
    Ok(Exit::Ok)
}

/// The database file of a backup that is what its manifest says.
fn checked(path: &Path) -> anyhow::Result<PathBuf> {
    let invalid =
        |why: String| Failure::new(Exit::Invalid, format!("{} is not a usable backup: {why}", path.display()));
    let text = std::fs::read_to_string(path.join(MANIFEST)).map_err(|error| invalid(format!("{MANIFEST}: {error}")))?;
    let manifest: Manifest = serde_json::from_str(&text).map_err(|error| invalid(format!("{MANIFEST}: {error}")))?;
    if manifest.format != FORMAT {
        return Err(invalid(format!("its format is {:?}, and this version reads {FORMAT:?}", manifest.format)).into());
    }
    if manifest.database.file != DATABASE {
        return Err(invalid("it names another database file".into()).into());
    }
    let database = path.join(DATABASE);
    let found = record(&database).map_err(|error| invalid(format!("{error:#}")))?;
    if found.sha256 != manifest.database.sha256 {
        return Err(invalid("the database is not the one that was backed up (SHA-256 differs)".into()).into());
    }
    Ok(database)
}

/// The old database moves aside before the new one takes its name. If the process dies in between there is no database,
/// and the next start says so by opening a new shard; the old one is never overwritten.
fn put_in_place(source: &Path, data_dir: &Path) -> anyhow::Result<Option<PathBuf>> {
    let target = data_dir.join(DATABASE);
    let fresh = data_dir.join(format!("{DATABASE}.restoring"));
    std::fs::copy(source, &fresh).with_context(|| format!("copying to {}", fresh.display()))?;
    File::open(&fresh)?.sync_all()?;
    let aside = data_dir.join(format!("{DATABASE}.before-restore-{}", output::now_ms()));
    let existed = target.exists();
    if existed {
        // The write-ahead log belongs to the old file: beside the new one it would be poison.
        for suffix in ["", "-wal", "-shm"] {
            let (from, to) = (with_suffix(&target, suffix), with_suffix(&aside, suffix));
            match std::fs::rename(&from, &to) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("moving {} aside", from.display()));
                }
                _ => {}
            }
        }
    }
    std::fs::rename(&fresh, &target).with_context(|| format!("putting {} in place", target.display()))?;
    File::open(data_dir)?.sync_all()?;
    Ok(existed.then_some(aside))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn record(path: &Path) -> anyhow::Result<FileRecord> {
    let mut file = File::open(path).with_context(|| format!("reading {}", path.display()))?;
    let (mut hash, mut bytes, mut buffer) = (sha2::Sha256::default(), 0_u64, vec![0; 1 << 20]);
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        sha2::Digest::update(&mut hash, &buffer[..read]);
        bytes += read as u64;
    }
    let digest: [u8; 32] = sha2::Digest::finalize(hash).into();
    let sha256 = countersign_proof::digest::Digest(digest).hex();
    Ok(FileRecord { file: DATABASE.into(), bytes, sha256 })
}

fn durable(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    use std::io::Write as _;
    let mut file = File::create_new(path).with_context(|| format!("writing {}", path.display()))?;
    file.write_all(content)?;
    file.sync_all()?;
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all().context("syncing the directory")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn a_backup(dir: &Path) -> PathBuf {
        let path = dir.join("backup");
        std::fs::create_dir(&path).expect("made");
        std::fs::write(path.join(DATABASE), b"new").expect("written");
        let database = record(&path.join(DATABASE)).expect("hashed");
        let manifest =
            Manifest { format: FORMAT.into(), made_at: 0, countersign: "0".into(), database, not_included: Vec::new() };
        std::fs::write(path.join(MANIFEST), serde_json::to_string(&manifest).expect("JSON")).expect("written");
        path
    }

    #[test]
    fn the_old_database_and_its_write_ahead_log_move_aside_together() {
        let dir = tempfile::tempdir().expect("a directory");
        let data = dir.path().join("data");
        std::fs::create_dir(&data).expect("made");
        for (name, content) in [(DATABASE, "old"), ("countersign.db-wal", "old wal")] {
            std::fs::write(data.join(name), content).expect("written");
        }
        let source = checked(&a_backup(dir.path())).expect("a backup");
        let kept = put_in_place(&source, &data).expect("restored").expect("an old one");
        assert_eq!(std::fs::read(data.join(DATABASE)).expect("there"), b"new");
        assert!(!data.join("countersign.db-wal").exists());
        assert_eq!(std::fs::read(&kept).expect("kept"), b"old");
        assert_eq!(std::fs::read(with_suffix(&kept, "-wal")).expect("kept"), b"old wal");
    }

    #[test]
    fn a_damaged_backup_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = a_backup(dir.path());
        std::fs::write(path.join(DATABASE), b"nwe").expect("written");
        let error = checked(&path).expect_err("damaged");
        assert_eq!(crate::exit::code_of(&error), Exit::Invalid);
    }
}
