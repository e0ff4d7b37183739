//! The data directory while no node runs: its lock, and what can be read out of it. The lock is held for as long as the
//! data is looked at, so that no node starts meanwhile.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::Context as _;
use countersign_ledger::contract::{Reader, Store};
use countersign_ledger::export::{VerifyOptions, VerifyReport};
use countersign_ledger::fsck::FsckOptions;
use countersign_ledger::head_file::{self, HeadRecord};
use countersign_ledger::state::PinStatus;
use countersign_ledger::{Ledger, LedgerOptions, Opened};
use countersign_server::config::Config;
use countersign_server::keys::{SeedKind, read_seed};
use countersign_store::{PostgresOptions, PostgresStore, SqliteStore};
use serde_json::{Value, json};

use super::{Checked, config};
use crate::cli::Global;
use crate::exit::{Exit, Failure};

/// The data, held.
struct Held {
    store: Kept,
    config: Config,
    /// None where the data is elsewhere and there is no data directory.
    _lock: Option<File>,
}

/// Where the data is.
enum Kept {
    Sqlite(SqliteStore),
    Postgres(Box<PostgresStore>),
}

impl Kept {
    fn store(self) -> Box<dyn Store> {
        match self {
            Self::Sqlite(store) => Box::new(store),
            Self::Postgres(store) => store,
        }
    }
}

impl Held {
    fn open(global: &Global) -> anyhow::Result<Self> {
        let config = config(global)?;
        if let Some(url) = &config.database {
            let lock = if config.data_dir.is_dir() { Some(hold(&config)?) } else { None };
            let store = PostgresStore::open(PostgresOptions::new(url.reveal()))?;
            return Ok(Self { store: Kept::Postgres(Box::new(store)), config, _lock: lock });
        }
        let lock = hold(&config)?;
        let path = config.data_dir.join("countersign.db");
        if !path.is_file() {
            return Err(no_data(&config).into());
        }
        Ok(Self { store: Kept::Sqlite(SqliteStore::open(path)?), config, _lock: Some(lock) })
    }

    fn reader(&self) -> std::sync::Arc<dyn Reader> {
        match &self.store {
            Kept::Sqlite(store) => store.reader(),
            Kept::Postgres(store) => store.reader(),
        }
    }
}

fn no_data(config: &Config) -> Failure {
    Failure::new(Exit::Unreachable, format!("no node runs, and there is no data in {}", config.data_dir.display()))
        .advise("`countersign up` starts a node, or name another home with --home")
}

/// Takes the lock that a running node holds. Keep the file: the lock is gone when it is dropped.
///
/// # Errors
/// [`Exit::Busy`] if somebody else holds it.
pub fn hold(config: &Config) -> anyhow::Result<File> {
    let path = config.data_dir.join("lock");
    if !config.data_dir.is_dir() {
        return Err(no_data(config).into());
    }
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
    let file = file.with_context(|| format!("opening {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            let message = format!("{} is in use by a running node", config.data_dir.display());
            Err(Failure::new(Exit::Busy, message).advise("stop the node first").into())
        }
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("locking {}", path.display())),
    }
}

/// One receipt's bytes. The ledger is opened as a starting node would: a database that was restored opens its new shard.
///
/// # Errors
/// If there is no such event, or contents are to be disclosed, which takes a node with its keys.
pub async fn receipt(global: &Global, id: &str, disclose: &[String]) -> anyhow::Result<Vec<u8>> {
    if !disclose.is_empty() {
        let failure = Failure::new(Exit::Failed, "contents can be disclosed by a running node only");
        return Err(failure.advise("start it with `countersign up`").into());
    }
    let id: uuid::Uuid =
        id.parse().map_err(|_| Failure::new(Exit::Usage, format!("{id:?} is not the id of an event")))?;
    let Held { store, config, _lock } = Held::open(global)?;
    let seed = read_seed(&config.keys_dir.join("log.seed"), SeedKind::Log)?;
    let (ledger, _) = Ledger::open(store.store(), LedgerOptions::new(&config.log_domain, seed, &config.head_file))?;
    let receipt = ledger.receipt(id, Vec::new()).await;
    ledger.shutdown().await;
    let receipt = receipt?.ok_or_else(|| Failure::new(Exit::Failed, format!("there is no event {id}")))?;
    Ok(receipt.to_bytes()?)
}

/// The newest checkpoint.
///
/// # Errors
/// If the database cannot be read.
pub fn checkpoint(global: &Global) -> anyhow::Result<String> {
    let head = Held::open(global)?.reader().head()?;
    Ok(head.context("the log is empty")?.checkpoint)
}

/// The shards with their keys, in the shape of `GET /logs`.
///
/// # Errors
/// If the database cannot be read.
pub fn logs(global: &Global) -> anyhow::Result<Value> {
    let reader = Held::open(global)?.reader();
    let open = reader.head()?;
    let shards = reader.shards()?.into_iter().map(|row| {
        let head = open.as_ref().filter(|head| head.shard == row.shard);
        json!({ "origin": row.origin, "vkey": row.vkey, "size": head.map_or(row.size, |h| h.size), "open": head.is_some() })
    });
    Ok(shards.collect())
}

/// The accepted tools, in the shape of `GET /admin/tools`; effects are the manifests'.
///
/// # Errors
/// If the database or the manifests cannot be read.
pub fn tools(global: &Global) -> anyhow::Result<Value> {
    let held = Held::open(global)?;
    let manifests = countersign_catalog::manifest::load_dir(&held.config.manifests)
        .map_err(|errors| anyhow::anyhow!(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")))?;
    let accepted = held.reader().pins()?.into_iter().filter(|row| row.status == PinStatus::Accepted);
    let reports = accepted.map(|row| {
        let manifest = manifests.iter().find(|manifest| manifest.upstream == row.tool.upstream);
        let effect = manifest.map(|manifest| manifest.tool(&row.tool.tool).effect).unwrap_or_default();
        let definition: Value = serde_json::from_str(&row.definition)?;
        let kind = countersign_catalog::Kind::of(&row.tool.tool);
        let schema = countersign_catalog::Definition::read(kind, &row.definition).ok().map(|read| read.input_schema);
        Ok(json!({
            "name": row.tool, "effect": effect, "accepted": row.pin, "definition": definition, "input_schema": schema,
            "accounts": manifest.is_some_and(countersign_catalog::Manifest::has_accounts),
        }))
    });
    reports.collect::<anyhow::Result<Vec<Value>>>().map(Value::from)
}

/// Checks the database's own structure, and then the log.
///
/// # Errors
/// If the database cannot be opened.
pub fn fsck(global: &Global) -> anyhow::Result<Checked> {
    let held = Held::open(global)?;
    if let Kept::Sqlite(store) = &held.store {
        store.integrity_check().map_err(|error| Failure::new(Exit::Invalid, error.to_string()))?;
    }
    let options = FsckOptions { head_file: Some(held.config.head_file.clone()), ..FsckOptions::default() };
    let report = countersign_ledger::fsck::fsck(&*held.reader(), &options);
    Ok(Checked { ok: report.is_ok(), details: report.to_json() })
}

/// Adds to an export what it lacks.
///
/// # Errors
/// If the database cannot be read or the files cannot be written.
pub fn export(global: &Global, directory: &Path) -> anyhow::Result<Value> {
    let reader = Held::open(global)?.reader();
    let head = reader.head()?.context("the log is empty")?;
    Ok(countersign_ledger::export::export(&*reader, &head, directory)?.to_json())
}

/// Checks an export; needs nothing but its files.
pub fn verify_export(directory: &Path, options: &VerifyOptions) -> Checked {
    let report = countersign_ledger::export::verify(directory, options);
    // A directory without a single line proves nothing, whatever is not wrong with it.
    let ok = report.is_ok() && report.lines > 0;
    Checked { ok, details: export_report(&report, ok) }
}

fn export_report(report: &VerifyReport, ok: bool) -> Value {
    let issue = |issue: &countersign_ledger::export::Issue| {
        let place = issue.at.as_ref().map(|(file, line)| format!("{file}:{line}: ")).unwrap_or_default();
        format!("{place}{}", issue.detail)
    };
    json!({
        "ok": ok,
        "files": report.files,
        "lines": report.lines,
        "entries": report.entries,
        "erased": report.erased,
        "recomputed": report.recomputed,
        "from_the_beginning": report.from_the_beginning,
        "renumbered": report.renumbered,
        "checkpoints": report.checkpoints,
        "last_line": report.last_line,
        "issues": report.issues.iter().map(issue).collect::<Vec<_>>(),
        "more_issues": report.more_issues,
    })
}

/// Copies the database into a new file.
///
/// # Errors
/// If it cannot be read or the file cannot be written.
pub fn backup(global: &Global, path: &Path) -> anyhow::Result<()> {
    match Held::open(global)?.store {
        Kept::Sqlite(store) => store.backup_to(path).context("copying the database"),
        Kept::Postgres(_) => Err(no_copies().into()),
    }
}

/// A database server has backups of its own.
pub fn no_copies() -> Failure {
    Failure::new(Exit::Usage, "the ledger is in Postgres, which this command does not copy")
        .advise("use pg_dump or the server's own backups; docs/ledger.md says what a restored one needs")
}

/// Opens a new shard where the database is behind what this node signed, and says how.
///
/// # Errors
/// If a node runs here, or the keys or the database cannot be used.
pub async fn reopen(global: &Global) -> anyhow::Result<Opened> {
    let Held { store, config, _lock } = Held::open(global)?;
    let seed = read_seed(&config.keys_dir.join("log.seed"), SeedKind::Log)?;
    let mut options = LedgerOptions::new(&config.log_domain, seed, &config.head_file);
    options.reopen = true;
    let (ledger, opened) = Ledger::open(store.store(), options)?;
    ledger.shutdown().await;
    Ok(opened)
}

/// How the database stands to the head that is kept outside it, in words.
///
/// # Errors
/// If they contradict one another, or one cannot be read.
pub fn standing(global: &Global) -> anyhow::Result<String> {
    let held = Held::open(global)?;
    let head = held.reader().head()?.context("the log is empty")?;
    let here = format!("{} at {} entries", head.origin, head.size);
    match head_file::read(&held.config.head_file)? {
        HeadRecord::Known(known) if known.checkpoint.origin != head.origin || known.checkpoint.size > head.size => {
            let outside = format!("{} at {}", known.checkpoint.origin, known.checkpoint.size);
            anyhow::bail!(
                "the database has {here}, the head file {outside}: a backup was restored; the next start opens a new shard"
            )
        }
        HeadRecord::Known(known) => Ok(format!("{here}; head file at {}", known.checkpoint.size)),
        HeadRecord::Missing => {
            anyhow::bail!("the database has {here}, and the head file is gone: the next start opens a new shard")
        }
        HeadRecord::Damaged => {
            anyhow::bail!("the database has {here}, and the head file is damaged: the next start opens a new shard")
        }
    }
}
