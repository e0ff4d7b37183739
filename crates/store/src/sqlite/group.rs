//! One durable transaction.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use countersign_domain::{Millis, WorkspaceName};
use countersign_ledger::EntryRow;
use countersign_ledger::contract::{CommitError, EventRow, Group, Head, ShardRow, StoreError, Tail};
use countersign_ledger::state::{Conflict, StateOp};
use countersign_proof::merkle::Hash;
use rusqlite::{Transaction, params};

use super::ops::{self, Outcome};
use super::{error, rows};

/// A group: rolled back when it is dropped.
pub(super) struct SqliteGroup<'a> {
    transaction: Transaction<'a>,
    clock: fn() -> Millis,
    erased: Arc<AtomicBool>,
    erases: bool,
}

impl<'a> SqliteGroup<'a> {
    pub(super) fn new(transaction: Transaction<'a>, clock: fn() -> Millis, erased: Arc<AtomicBool>) -> Self {
        Self { transaction, clock, erased, erases: false }
    }

    fn run(&self, sql: &str, params: impl rusqlite::Params) -> Result<usize, StoreError> {
        self.transaction.prepare_cached(sql).and_then(|mut s| s.execute(params)).map_err(error)
    }
}

impl Group for SqliteGroup<'_> {
    fn now(&mut self) -> Result<Millis, StoreError> {
        Ok((self.clock)())
    }

    fn head(&mut self) -> Result<Option<Head>, StoreError> {
        rows::head(&self.transaction).map_err(error)
    }

    fn tail(&mut self, workspace: &WorkspaceName) -> Result<Option<Tail>, StoreError> {
        rows::tail(&self.transaction, workspace).map_err(error)
    }

    fn apply(&mut self, ops: &[StateOp]) -> Result<Result<(), Conflict>, StoreError> {
        // A single operation checks before it changes; only several need a place to go back to.
        let nested = ops.len() > 1;
        if nested {
            self.run("SAVEPOINT append", [])?;
        }
        let now = (self.clock)();
        for op in ops {
            self.erases |= matches!(op, StateOp::Erase { .. });
            match ops::apply(&self.transaction, op, now).map_err(error)? {
                Outcome::Done => {}
                Outcome::Refused(conflict) => {
                    if nested {
                        self.run("ROLLBACK TO append", [])?;
                        self.run("RELEASE append", [])?;
                    }
                    return Ok(Err(*conflict));
                }
            }
        }
        if nested {
            self.run("RELEASE append", [])?;
        }
        Ok(Ok(()))
    }

    fn insert(&mut self, row: &EventRow) -> Result<(), StoreError> {
        has_room(row.index)?;
        let opening = row.opening.as_ref();
        self.run(
            "INSERT INTO event (position, id, workspace, seq, kind, time, commitment, call, principal, tool, salt, \
             detail_salt, body, subject) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
            params![
                rows::position(row.shard, row.index),
                row.id.as_bytes(),
                row.workspace.as_str(),
                row.seq,
                row.kind,
                row.time,
                row.commitment.0,
                row.call.as_ref().map(|call| call.as_bytes()),
                row.principal,
                row.tool,
                opening.map(|o| o.salt),
                opening.and_then(|o| o.detail_salt),
                opening.map(|o| &o.event),
                row.subject,
            ],
        )?;
        Ok(())
    }

    fn insert_entry(&mut self, row: &EntryRow) -> Result<(), StoreError> {
        has_room(row.index)?;
        let sql = "INSERT INTO public_entry (position, id, workspace, body) VALUES (?1, ?2, ?3, ?4)";
        let position = rows::position(row.shard, row.index);
        self.run(sql, params![position, row.id.as_bytes(), row.workspace.as_str(), row.body])?;
        Ok(())
    }

    fn put_tile(&mut self, shard: u32, level: u8, index: u64, hashes: &[Hash]) -> Result<(), StoreError> {
        let sql = "INSERT INTO tile (shard, level, n, hashes) VALUES (?1, ?2, ?3, ?4)";
        self.run(sql, params![shard, level, index, hashes.as_flattened()])?;
        Ok(())
    }

    fn open_shard(&mut self, row: &ShardRow) -> Result<(), StoreError> {
        let sql = "INSERT INTO shard (shard, origin, vkey, checkpoint, size) VALUES (?1, ?2, ?3, ?4, ?5)";
        self.run(sql, params![row.shard, row.origin, row.vkey, row.checkpoint, row.size])?;
        Ok(())
    }

    fn set_head(&mut self, head: &Head) -> Result<(), StoreError> {
        self.run(
            "INSERT INTO head (one, shard, origin, size, root, frontier, checkpoint) VALUES (1, ?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT (one) DO UPDATE SET shard = ?1, origin = ?2, size = ?3, root = ?4, frontier = ?5, checkpoint = ?6",
            params![head.shard, head.origin, head.size, head.root, head.frontier.as_flattened(), head.checkpoint],
        )?;
        let sql = "UPDATE shard SET checkpoint = ?2, size = ?3 WHERE shard = ?1";
        self.run(sql, params![head.shard, head.checkpoint, head.size])?;
        Ok(())
    }

    fn commit(self: Box<Self>) -> Result<(), CommitError> {
        // With `synchronous=FULL` this returns after the write-ahead log was synced.
        self.transaction.commit().map_err(|e| CommitError::Unknown(error(e)))?;
        if self.erases {
            self.erased.store(true, Ordering::Release);
        }
        Ok(())
    }
}

fn has_room(index: u64) -> Result<(), StoreError> {
    if index >> rows::SHARD_BITS == 0 {
        Ok(())
    } else {
        Err(StoreError::Full("a shard has at most 2^40 leaves".into()))
    }
}
