//! Copies of the database while it is in use, by SQLite's online backup (<https://www.sqlite.org/backup.html>).

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use countersign_ledger::contract::StoreError;
use countersign_ledger::durable;
use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};

use super::{BUSY, error};

/// Pages copied at a time, 4 MiB.
const STEP: i32 = 1024;

pub(super) fn copy(source: &Path, target: &Path) -> Result<(), StoreError> {
    let io = |e: std::io::Error| StoreError::Database(format!("{}: {e}", target.display()));
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(target).map_err(io)?;
    let from = Connection::open_with_flags(source, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(error)?;
    from.busy_timeout(BUSY).map_err(error)?;
    // Held to the end: the copy is of this one state, and does not start over whenever somebody writes.
    from.execute_batch("BEGIN; SELECT count(*) FROM head;").map_err(error)?;
    let mut to = Connection::open(target).map_err(error)?;
    {
        let backup = Backup::new(&from, &mut to).map_err(error)?;
        loop {
            match backup.step(STEP).map_err(error)? {
                StepResult::Done => break,
                StepResult::More => {}
                _ => std::thread::sleep(std::time::Duration::from_millis(5)),
            }
        }
    }
    // One file, nothing beside it: whoever carries the copy away needs no `-wal`.
    to.pragma_update(None, "journal_mode", "DELETE").map_err(error)?;
    to.close().map_err(|(_, e)| error(e))?;
    File::open(target).and_then(|file| file.sync_all()).map_err(io)?;
    durable::sync_parent(target).map_err(io)
}
