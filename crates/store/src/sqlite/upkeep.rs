//! Housekeeping on its own thread and connection: WAL checkpoints and rows that have had their time.
//!
//! A passive checkpoint copies what it can without making anyone wait, but the log starts over only when nothing was
//! written meanwhile. Under steady load it would grow for ever, so that beyond a limit it is made to start over, for which
//! the writer waits a few milliseconds. The file keeps its length: a log that is written over in place has no metadata to
//! sync. Only after an erasure, whose old bytes are still in the log, is it truncated.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use countersign_domain::Millis;
use countersign_ledger::contract::StoreError;
use rusqlite::{Connection, params};

use super::{connect, error};

/// The log is looked at this often, asked or not, and moved at most this often.
const TICK: Duration = Duration::from_millis(500);
/// Below this the log is left alone, in bytes.
const WORTH_IT: u64 = 4 << 20;
/// SQLite's page size.
const PAGE: u64 = 4096;
/// Rows are forgotten this often, at most so many at a time.
const PURGE: Duration = Duration::from_secs(60);
const PURGE_ROWS: u32 = 1000;
/// Refusal aggregates are kept this long, in minutes: 30 days.
const REFUSAL_MINUTES: u64 = 30 * 24 * 60;
/// What was used of a budget is kept this long after its period, in ms: a day.
const BUDGET_MS: u64 = 24 * 3600 * 1000;

pub(super) struct Upkeep {
    nudge: Option<SyncSender<()>>,
    erased: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Upkeep {
    pub(super) fn start(path: &Path, wal_limit: u64, clock: fn() -> Millis) -> Result<Self, StoreError> {
        let connection = connect(path)?;
        let mut wal = path.as_os_str().to_owned();
        wal.push("-wal");
        let erased = Arc::new(AtomicBool::new(false));
        let worker = Worker {
            connection,
            wal: wal.into(),
            wal_limit,
            clock,
            erased: Arc::clone(&erased),
            purged: Instant::now(),
            moved: Instant::now(),
        };
        let (nudge, nudged) = sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("ledger-upkeep".into())
            .spawn(move || worker.run(&nudged))
            .map_err(|e| StoreError::Database(format!("the housekeeping thread: {e}")))?;
        Ok(Self { nudge: Some(nudge), erased, thread: Some(thread) })
    }

    /// Asks for a round; one that is waiting already will do.
    pub(super) fn nudge(&self) {
        if let Some(nudge) = &self.nudge {
            let _ = nudge.try_send(());
        }
    }

    /// Set by whoever commits an erasure.
    pub(super) fn erased(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.erased)
    }
}

impl Drop for Upkeep {
    fn drop(&mut self) {
        self.nudge = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Worker {
    connection: Connection,
    wal: PathBuf,
    wal_limit: u64,
    clock: fn() -> Millis,
    erased: Arc<AtomicBool>,
    purged: Instant,
    moved: Instant,
}

impl Worker {
    fn run(mut self, nudged: &Receiver<()>) {
        while !matches!(nudged.recv_timeout(TICK), Err(RecvTimeoutError::Disconnected)) {
            if let Err(error) = self.round() {
                tracing::warn!(%error, "database housekeeping failed; it will be tried again");
            }
        }
        // A database that is not in use is one file, whose copy is whole.
        if let Err(error) = self.checkpoint("TRUNCATE") {
            tracing::warn!(%error, "the write-ahead log was not emptied; the next start reads it");
        }
    }

    fn round(&mut self) -> Result<(), StoreError> {
        if self.purged.elapsed() >= PURGE {
            self.purged = Instant::now();
            self.purge()?;
        }
        let size = std::fs::metadata(&self.wal).map_or(0, |m| m.len());
        let erased = self.erased.swap(false, Ordering::AcqRel);
        if (size < WORTH_IT || self.moved.elapsed() < TICK) && !erased {
            return Ok(());
        }
        // Most is copied while others write, so that the rest has little left to do.
        let pages = self.checkpoint("PASSIVE")?;
        if erased {
            let done = self.checkpoint("TRUNCATE").is_ok_and(|pages| pages == Some(0));
            self.erased.fetch_or(!done, Ordering::AcqRel);
        } else if pages.is_some_and(|pages| pages.saturating_mul(PAGE) > self.wal_limit) {
            self.checkpoint("RESTART")?;
        }
        self.moved = Instant::now();
        Ok(())
    }

    /// Returns the pages in the log, or `None` if others were in the way.
    fn checkpoint(&self, mode: &str) -> Result<Option<u64>, StoreError> {
        let sql = format!("PRAGMA wal_checkpoint({mode})");
        let read = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?));
        let (busy, pages) = self.connection.query_row(&sql, [], read).map_err(error)?;
        Ok(if busy == 0 { u64::try_from(pages).ok() } else { None })
    }

    /// Forgets what has had its time. None of it is in the log.
    fn purge(&self) -> Result<(), StoreError> {
        let now = (self.clock)();
        let run =
            |sql: &str, limit: u64| self.connection.execute(sql, params![limit, PURGE_ROWS]).map(drop).map_err(error);
        run(
            "DELETE FROM refusal WHERE (minute, name) IN (SELECT minute, name FROM refusal WHERE minute < ?1 LIMIT ?2)",
            (now / 60_000).saturating_sub(REFUSAL_MINUTES),
        )?;
        run(
            "DELETE FROM idempotency WHERE scope IN (SELECT scope FROM idempotency
             WHERE expires < ?1 AND state IN ('done', 'pending') LIMIT ?2)",
            now,
        )?;
        // A refund may come up to a call's deadline after the period's end; a day is plenty.
        run(
            "DELETE FROM budget WHERE (budget, workspace, principal, start) IN
             (SELECT budget, workspace, principal, start FROM budget WHERE ends < ?1 LIMIT ?2)",
            now.saturating_sub(BUDGET_MS),
        )?;
        run("DELETE FROM cooldown WHERE key IN (SELECT key FROM cooldown WHERE until < ?1 LIMIT ?2)", now)?;
        // People who did not come back from a provider. What is in use has no end.
        run(
            "DELETE FROM connection WHERE version IN (SELECT version FROM connection WHERE expires < ?1 LIMIT ?2)
             AND expires IS NOT NULL",
            now,
        )?;
        // The sealed arguments of requests that are over; the rest of the row explains what happened.
        run(
            "UPDATE request SET arguments = x'' WHERE id IN (SELECT id FROM request
             WHERE status <> 'pending' AND expires < ?1 AND arguments <> x'' LIMIT ?2)",
            now,
        )
    }
}
