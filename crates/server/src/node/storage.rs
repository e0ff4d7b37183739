//! The database behind the ledger: opened, copied, checked, exported.

use std::path::PathBuf;

use countersign_ledger::fsck::FsckOptions;
use countersign_ledger::{Ledger, LedgerOptions, Opened, StoreError};
use countersign_store::SqliteStore;
use serde_json::{Value, json};

use super::StartError;
use crate::app::App;
use crate::config::Config;

const DATABASE: &str = "countersign.db";

/// Opens the ledger on the data directory's database.
pub(super) async fn open(config: &Config, seed: [u8; 32]) -> Result<(Ledger, Opened), StartError> {
    let database = config.data_dir.join(DATABASE);
    let options = LedgerOptions::new(&config.log_domain, seed, &config.head_file);
    let head_dir = config.head_file.parent().map(PathBuf::from);
    let opened = tokio::task::spawn_blocking(move || {
        if let Some(directory) = head_dir {
            crate::keys::create_private_dir(&directory)?;
        }
        Ok(Ledger::open(SqliteStore::open(database)?, options)?)
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
