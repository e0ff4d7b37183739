//! The database behind the ledger: opened, copied, checked, exported.

use std::path::{Path, PathBuf};

use countersign_domain::WorkspaceName;
use countersign_gate::keyring::{KeyError, Keyring};
use countersign_ledger::contract::Store;
use countersign_ledger::fsck::FsckOptions;
use countersign_ledger::{Ledger, LedgerOptions, Opened, StoreError};
use countersign_store::{PostgresOptions, PostgresStore, SqliteStore};
use serde_json::{Value, json};

use super::StartError;
use super::keepers::{self, Keeper};
use crate::app::App;
use crate::config::Config;
use crate::keys::{SeedKind, create_private_dir, read_or_create_seed};

pub(super) const DATABASE: &str = "countersign.db";
const REPLICA: &str = "replica.id";

/// Opens the database: the data directory's, or the one that several nodes share.
pub(super) async fn connect(config: &Config) -> Result<Box<dyn Store>, StartError> {
    let (data_dir, url) = (config.data_dir.clone(), config.database.clone());
    let opened = tokio::task::spawn_blocking(move || -> Result<Box<dyn Store>, StartError> {
        let Some(url) = url else { return Ok(Box::new(SqliteStore::open(data_dir.join(DATABASE))?)) };
        let replica = Some(replica(&data_dir)?);
        Ok(Box::new(PostgresStore::open(PostgresOptions { replica, ..PostgresOptions::new(url.reveal()) })?))
    });
    opened.await.unwrap_or_else(|error| Err(StartError::Setup(format!("opening the database: {error}"))))
}

/// What this node is called among those that share a log: a name that a restart keeps and that a copy of the data directory
/// on another machine does not have.
fn replica(data_dir: &Path) -> Result<String, StartError> {
    let path = data_dir.join(REPLICA);
    let failed = |error| StartError::Io { path: path.clone(), error };
    let id = match std::fs::read_to_string(&path) {
        Ok(id) if !id.trim().is_empty() => id,
        Ok(_) | Err(_) => {
            let id = uuid::Uuid::now_v7().to_string();
            std::fs::write(&path, &id).map_err(failed)?;
            id
        }
    };
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    Ok(format!("{}@{}", id.trim(), host.trim()))
}

/// The root key and the seed of the log's key. Where a log is there already that others write too, they are not made up:
/// a node with keys of its own could neither sign nor read.
pub(super) async fn keys(
    config: &Config,
    store: &dyn Store,
    keeper: Option<&Keeper>,
) -> Result<([u8; 32], [u8; 32]), StartError> {
    let directory = &config.keys_dir;
    create_private_dir(directory)?;
    let reader = store.reader();
    let joins = store.is_shared() && blocking(move || Ok(reader.head()?.is_some())).await?;
    let seed = |name: &str, kind| -> Result<[u8; 32], StartError> {
        let path = directory.join(name);
        if joins && !path.exists() {
            let words = "the database has a log already: give this node the keys of the others (copy their keys directory, or \
                         name a shared one in keys_dir)";
            return Err(StartError::Setup(format!("{} is missing, and {words}", path.display())));
        }
        Ok(read_or_create_seed(&path, kind)?)
    };
    let root = match keepers::root(keeper, directory, joins).await? {
        Some(root) => root,
        None => seed("root.key", SeedKind::Root)?,
    };
    Ok((root, seed("log.seed", SeedKind::Log)?))
}

/// The seed of the key that cosigns other logs' checkpoints, if this node is a witness. Nodes that share a log share their keys
/// directory, or copies of it: whichever makes the key first, the others need the same.
pub(super) fn witness_key(config: &Config) -> Result<Option<[u8; 32]>, StartError> {
    if config.witness_for.is_none() {
        return Ok(None);
    }
    Ok(Some(read_or_create_seed(&config.keys_dir.join("witness.seed"), SeedKind::Witness)?))
}

/// Refuses a root key that does not open what is stored: every call would fail.
pub(super) async fn try_root(ledger: &Ledger, keyring: &Keyring) -> Result<(), StartError> {
    let first = ledger
        .read(|reader| {
            let names = reader.workspaces()?.into_iter().take(100);
            for name in names {
                if reader.workspace_key(&name)?.is_some() {
                    return Ok(Some(name));
                }
            }
            Ok(None)
        })
        .await?;
    // Where nothing is stored yet, the node's own key is, so that the next node has something to try its root key on.
    let opened = keyring.workspace(&first.unwrap_or_else(WorkspaceName::node)).await;
    opened.map(drop).map_err(|error| {
        StartError::Setup(match error {
            KeyError::Ledger(error) => format!("the root key could not be tried: {error}"),
            KeyError::DoesNotOpen | KeyError::Crypto => format!("the root key is not the one of this log: {error}"),
        })
    })
}

/// Opens the ledger on the database.
pub(super) async fn open(
    config: &Config,
    store: Box<dyn Store>,
    seed: [u8; 32],
) -> Result<(Ledger, Opened), StartError> {
    let mut options = LedgerOptions::new(&config.log_domain, seed, &config.head_file);
    options.join = config.join;
    let head_dir = config.head_file.parent().map(PathBuf::from);
    let opened = tokio::task::spawn_blocking(move || {
        if let Some(directory) = head_dir {
            create_private_dir(&directory)?;
        }
        Ok(Ledger::open(store, options)?)
    });
    opened.await.unwrap_or_else(|error| Err(StartError::Setup(format!("opening the ledger: {error}"))))
}

/// What a person should know of how the ledger was opened.
pub(super) fn note_on(opened: &Opened) -> Option<String> {
    let reason = opened.reason.as_ref()?;
    let what = format!("A new log was opened ({}): {}", reason.as_str(), opened.origin);
    Some(match &opened.predecessor {
        Some(before) => format!("{what}, after {} at {} leaves. Its key: {}", before.origin, before.size, opened.vkey),
        None => format!("{what}. Its key, for verifying receipts: {}", opened.vkey),
    })
}

/// Copies the database into a new file while it is in use.
pub(crate) async fn backup(app: &App, path: PathBuf) -> Result<Value, StoreError> {
    if app.config.database.is_some() {
        let words = "the ledger is in Postgres: use pg_dump, or the server's own backups (docs/ledger.md)";
        return Err(StoreError::Database(words.to_owned()));
    }
    let (source, target) = (app.config.data_dir.join(DATABASE), path.clone());
    blocking(move || countersign_store::sqlite::backup(source, target)).await?;
    let bytes = std::fs::metadata(&path).map(|facts| facts.len()).unwrap_or(0);
    Ok(json!({ "path": path, "bytes": bytes }))
}

/// Checks the log against its stored leaves while the node runs.
pub(crate) async fn fsck(app: &App) -> Result<Value, StoreError> {
    let options = FsckOptions { head_file: Some(app.config.head_file.clone()), ..FsckOptions::default() };
    let reader = app.ledger.reader();
    let report = blocking(move || Ok(countersign_ledger::fsck::fsck(&*reader, &options))).await?;
    Ok(report.to_json())
}

/// Adds to an export what it lacks.
pub(crate) async fn export(app: &App, directory: PathBuf) -> Result<Value, String> {
    let (reader, head) = (app.ledger.reader(), app.ledger.head());
    let written = tokio::task::spawn_blocking(move || countersign_ledger::export::export(&*reader, &head, &directory));
    let written = written.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
    Ok(written.to_json())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| StoreError::Database(error.to_string()))?
}
