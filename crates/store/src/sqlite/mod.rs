//! SQLite (WAL mode), embedded: one file, one writer, a few readers, housekeeping on its own connection.
//!
//! Durability: `synchronous=FULL` in WAL mode syncs the write-ahead log on every commit, so that a commit that returned
//! survives the loss of power (<https://www.sqlite.org/pragma.html#pragma_synchronous>). WAL checkpoints are never made by
//! the writer (`wal_autocheckpoint=0`) but by the housekeeping thread. `secure_delete` overwrites what is erased.

mod artifacts;
mod backup;
mod connections;
mod directory;
mod group;
mod ops;
mod reader;
mod rows;
mod schema;
mod trust;
mod upkeep;
mod witness;

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use countersign_domain::Millis;
use countersign_ledger::contract::{Group, Reader, Store, StoreError};
use countersign_ledger::durable;
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use reader::ReadPool;
use upkeep::Upkeep;

/// How long a connection waits for a lock that another holds.
const BUSY: Duration = Duration::from_secs(5);
/// Prepared statements kept by a connection: more than there are.
const STATEMENTS: usize = 128;

/// How a database is opened.
#[derive(Debug, Clone)]
pub struct SqliteOptions {
    /// Connections for reading.
    pub readers: usize,
    /// The write-ahead log is made to start over when it holds more than this, in bytes, even if writers must wait for it.
    pub wal_limit: u64,
    /// What `Group::now` says; the database's clock is the machine's.
    pub clock: fn() -> Millis,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self { readers: 4, wal_limit: 32 << 20, clock: countersign_ledger::handle::system_clock }
    }
}

/// A ledger's store in one SQLite file.
pub struct SqliteStore {
    path: PathBuf,
    writer: Connection,
    readers: Arc<ReadPool>,
    upkeep: Upkeep,
    clock: fn() -> Millis,
}

impl SqliteStore {
    /// Opens or creates the database with the usual options.
    ///
    /// # Errors
    /// [`StoreError`]: it cannot be opened, is not ours, or is of a newer version.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        Self::open_with(path, SqliteOptions::default())
    }

    /// Opens or creates the database. A new directory gets mode 0700, new files 0600.
    ///
    /// # Errors
    /// [`StoreError`]: it cannot be opened, is not ours, or is of a newer version.
    pub fn open_with(path: impl AsRef<Path>, options: SqliteOptions) -> Result<Self, StoreError> {
        let path = path.as_ref().to_owned();
        create(&path).map_err(|e| StoreError::Database(format!("{}: {e}", path.display())))?;
        let mut writer = connect(&path)?;
        let mode: String = writer.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0)).map_err(error)?;
        if !mode.eq_ignore_ascii_case("wal") {
            return Err(StoreError::Database(format!("WAL mode is not available here (journal_mode is {mode})")));
        }
        schema::migrate(&mut writer)?;
        let readers = Arc::new(ReadPool::open(&path, options.readers.max(1), options.clock)?);
        let upkeep = Upkeep::start(&path, options.wal_limit, options.clock)?;
        Ok(Self { path, writer, readers, upkeep, clock: options.clock })
    }

    /// The database file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Copies the database into a new file while it is in use: one consistent state, with a C2SP head of its own. Restoring
    /// such a copy opens a new shard.
    ///
    /// # Errors
    /// [`StoreError`]; the target must not exist.
    pub fn backup_to(&self, target: impl AsRef<Path>) -> Result<(), StoreError> {
        backup::copy(&self.path, target.as_ref())
    }

    /// Has SQLite check its own file structure. What the log says of itself is `fsck`'s to check.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] with SQLite's findings.
    pub fn integrity_check(&self) -> Result<(), StoreError> {
        self.readers
            .with(|connection| {
                let mut statement = connection.prepare("PRAGMA integrity_check(20)")?;
                let lines = statement.query_map([], |row| row.get(0))?.collect::<Result<Vec<String>, _>>()?;
                Ok(lines)
            })
            .and_then(|lines| if lines == ["ok"] { Ok(()) } else { Err(StoreError::Corrupt(lines.join("; "))) })
    }
}

/// Copies a database that no process has open, or that one has, into a new file.
///
/// # Errors
/// [`StoreError`]; the target must not exist.
pub fn backup(source: impl AsRef<Path>, target: impl AsRef<Path>) -> Result<(), StoreError> {
    backup::copy(source.as_ref(), target.as_ref())
}

impl Store for SqliteStore {
    fn begin(&mut self) -> Result<Box<dyn Group + '_>, StoreError> {
        // IMMEDIATE takes the writer's lock now, so that what is read in the group is what is changed.
        let transaction =
            rusqlite::Transaction::new_unchecked(&self.writer, TransactionBehavior::Immediate).map_err(error)?;
        Ok(Box::new(group::SqliteGroup::new(transaction, self.clock, self.upkeep.erased())))
    }

    fn reader(&self) -> Arc<dyn Reader> {
        Arc::clone(&self.readers) as Arc<dyn Reader>
    }

    fn maintain(&mut self) -> Result<(), StoreError> {
        self.upkeep.nudge();
        Ok(())
    }
}

/// Creates directory and file with modes that keep others out; SQLite gives `-wal` and `-shm` the file's mode.
fn create(path: &Path) -> std::io::Result<()> {
    durable::create_dir_all(durable::parent(path))?;
    if !path.exists() {
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.sync_all()?;
        durable::sync_parent(path)?;
    }
    Ok(())
}

/// A connection for writing.
fn connect(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(error)?;
    connection.busy_timeout(BUSY).map_err(error)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection
        .execute_batch(
            "PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA wal_autocheckpoint = 0;
             PRAGMA secure_delete = ON; PRAGMA trusted_schema = OFF; PRAGMA cache_size = -6144;",
        )
        .map_err(error)?;
    Ok(connection)
}

/// What SQLite's error means to the ledger.
fn error(error: rusqlite::Error) -> StoreError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StoreError::Full(error.to_string()),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::ConstraintViolation) => {
            StoreError::Corrupt(error.to_string())
        }
        Some(_) => StoreError::Database(error.to_string()),
        None => match error {
            // A stored value of the wrong type or length.
            rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::IntegralValueOutOfRange(..)
            | rusqlite::Error::InvalidColumnType(..) => StoreError::Corrupt(error.to_string()),
            other => StoreError::Database(other.to_string()),
        },
    }
}
