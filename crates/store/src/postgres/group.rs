//! One durable transaction: one round trip to begin, one for the checks of a usual group's state, and one for everything else:
//! changes, events, tiles, head and commit go out one behind the other, and the server works on them while the group is
//! still being made.

use std::collections::HashMap;

use countersign_domain::{Millis, WorkspaceName};
use countersign_ledger::EntryRow;
use countersign_ledger::contract::{CommitError, EventRow, Group, Head, News, ShardRow, StoreError, Tail};
use countersign_ledger::leaf::MAX_PUBLIC;
use countersign_ledger::state::{Conflict, DecisionRow, StateOp};
use countersign_proof::merkle::Hash;
use futures_util::future::join4;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::fence;
use super::ops::Applier;
use super::rows::{self, Result, SHARD_BITS, big, get, position, shard_number, time};
use super::sent::Sent;
use super::session::{Session, error};

const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED";
const LOCK: &str =
    "SELECT shard, origin, size, root, frontier, checkpoint, contested FROM head WHERE one = 1 FOR UPDATE";
const NOW: &str = concat!("SELECT ", rows::now_sql!());
/// What others wrote since this session last looked: so that it need not be asked for when it is needed.
const NEWS: &str =
    "SELECT position, workspace, seq, commitment FROM event WHERE position >= $1 ORDER BY position LIMIT 4096";
/// Asked for only where the events that others wrote are fewer than their leaves.
const PUBLIC_NEWS: &str =
    "SELECT position, body FROM public_entry WHERE position >= $1 AND position < $2 ORDER BY position LIMIT 257";
const TAILS: &str = "SELECT w.name, t.seq, t.commitment FROM unnest($1::text[]) w (name), LATERAL \
    (SELECT seq, commitment FROM event WHERE workspace = w.name ORDER BY position DESC LIMIT 1) t";
const INSERT: &str = "INSERT INTO event (position, id, workspace, seq, kind, time, commitment, call, principal, tool, salt, \
    detail_salt, body, subject) SELECT * FROM unnest($1::bigint[], $2::uuid[], $3::text[], $4::bigint[], $5::text[], $6::bigint[], \
    $7::bytea[], $8::uuid[], $9::text[], $10::text[], $11::bytea[], $12::bytea[], $13::bytea[], $14::text[])";
const INSERT_ENTRIES: &str = "INSERT INTO public_entry (position, id, workspace, body) \
    SELECT * FROM unnest($1::bigint[], $2::uuid[], $3::text[], $4::bytea[])";
/// A second one for a call is ignored.
const KEEP: &str =
    "INSERT INTO decision (call, sealed) SELECT * FROM unnest($1::uuid[], $2::bytea[]) ON CONFLICT DO NOTHING";
const TILE: &str = "INSERT INTO tile (shard, level, n, hashes) VALUES ($1, $2, $3, $4)";
const SET_HEAD: &str =
    "UPDATE head SET shard = $1, origin = $2, size = $3, root = $4, frontier = $5, checkpoint = $6 WHERE one = 1";
/// A shard that is closed keeps the last head of its own; a new one is no longer contested.
const OPEN_SHARD: &str = "INSERT INTO shard (shard, origin, vkey, checkpoint, size) VALUES ($1, $2, $3, $4, $5)";
const CLOSE_SHARD: &str =
    "UPDATE shard s SET checkpoint = h.checkpoint, size = h.size FROM head h WHERE s.shard = h.shard";
const CONTEST: &str = "UPDATE head SET contested = $1 WHERE one = 1 AND contested IS NULL";
const ACCEPT: &str = "UPDATE head SET contested = NULL WHERE one = 1";

/// What a session needs before its first group.
pub(super) const STATEMENTS: &[&str] =
    &[LOCK, NOW, NEWS, TAILS, INSERT, INSERT_ENTRIES, KEEP, TILE, SET_HEAD, OPEN_SHARD, CLOSE_SHARD, CONTEST, ACCEPT];

/// So many events are sent at once: enough to share a statement's cost, and few enough that the server has work while the
/// rest of a group is hashed.
const CHUNK: usize = 64;
/// The same for public entries, which may be 64 KiB each.
const ENTRY_CHUNK: usize = 16;

/// A group: rolled back when it is dropped.
pub(super) struct PostgresGroup<'a> {
    session: &'a Session,
    replica: Option<(Uuid, String)>,
    now: Millis,
    head: Option<Head>,
    contested: Option<String>,
    tails: HashMap<WorkspaceName, Option<Tail>>,
    news: Vec<(i64, WorkspaceName, Tail)>,
    events: Vec<EventRow>,
    entries: Vec<EntryRow>,
    sent: Sent<'a>,
    open: bool,
}

impl<'a> PostgresGroup<'a> {
    /// Takes the head's lock: whoever has it is the only writer, and sees everything that was committed before.
    pub(super) fn begin(session: &'a Session, replica: Option<(Uuid, String)>) -> Result<Self> {
        let begun = session.wait(async {
            let (lock, now) = (session.statement(LOCK).await?, session.statement(NOW).await?);
            let news = session.statement(NEWS).await?;
            let client = session.client();
            // The time is asked for in a statement of its own, which runs when the lock is held.
            let seen = session.seen();
            let (begun, head, now, news) = join4(
                client.batch_execute(BEGIN),
                client.query_one(&lock, &[]),
                client.query_one(&now, &[]),
                client.query(&news, &[&seen]),
            )
            .await;
            begun.map_err(error)?;
            let (head, now) = (head.map_err(error)?, now.map_err(error)?);
            let read = |row: &Row| Ok((get(row, 0)?, rows::parsed(row, 1)?, rows::tail(row, 2)?));
            let news = news.map_err(error)?.iter().map(read).collect::<Result<Vec<_>>>()?;
            Ok((rows::head(&head)?, get::<Option<String>>(&head, 6)?, rows::unsigned(&now, 0)?, news))
        });
        let (head, contested, now, news) = match begun {
            Ok(begun) => begun,
            Err(failed) => {
                roll_back(session);
                return Err(failed);
            }
        };
        let next = head.as_ref().map_or(i64::MAX, |head| position(head.shard, head.size));
        session.set_seen(next);
        Ok(Self {
            session,
            replica,
            news,
            now,
            head,
            contested,
            tails: HashMap::new(),
            events: Vec::new(),
            entries: Vec::new(),
            sent: Sent::on(session),
            open: true,
        })
    }

    /// Sends the leaves that were put aside.
    fn flush(&mut self) {
        let events = std::mem::take(&mut self.events);
        if !events.is_empty() {
            self.sent.send(insert(self.session, events));
        }
        let entries = std::mem::take(&mut self.entries);
        if !entries.is_empty() {
            self.sent.send(insert_entries(self.session, entries));
        }
    }

    /// The public entries in a range of positions, if they are not too many.
    fn public_news(&mut self, wanted: &std::ops::Range<i64>) -> Result<Option<Vec<(i64, News)>>> {
        let session = self.session;
        let rows = self.sent.wait(async {
            let statement = session.statement(PUBLIC_NEWS).await?;
            session.client().query(&statement, &[&wanted.start, &wanted.end]).await.map_err(error)
        })?;
        if rows.len() > MAX_PUBLIC {
            return Ok(None);
        }
        rows.iter().map(|row| Ok((get(row, 0)?, News::Public(get(row, 1)?)))).collect::<Result<_>>().map(Some)
    }
}

async fn update_head(session: &Session, head: Head) -> Result<()> {
    let statement = session.statement(SET_HEAD).await?;
    let frontier = head.frontier.as_flattened();
    let (shard, size, root) = (shard_number(head.shard)?, big(head.size), head.root.as_slice());
    let done =
        session.client().execute(&statement, &[&shard, &head.origin, &size, &root, &frontier, &head.checkpoint]).await;
    done.map(drop).map_err(error)
}

async fn insert_tile(session: &Session, shard: u32, level: u8, index: u64, hashes: Vec<u8>) -> Result<()> {
    let statement = session.statement(TILE).await?;
    let (shard, level) = (shard_number(shard)?, i16::from(level));
    session.client().execute(&statement, &[&shard, &level, &big(index), &hashes]).await.map(drop).map_err(error)
}

/// All decisions of a group in one statement.
async fn keep(session: &Session, decisions: Vec<DecisionRow>) -> Result<()> {
    let statement = session.statement(KEEP).await?;
    let calls: Vec<Uuid> = decisions.iter().map(|row| row.call).collect();
    let sealed: Vec<&[u8]> = decisions.iter().map(|row| row.sealed.as_slice()).collect();
    session.client().execute(&statement, &[&calls, &sealed]).await.map(drop).map_err(error)
}

/// Many events in one statement.
async fn insert(session: &Session, events: Vec<EventRow>) -> Result<()> {
    let statement = session.statement(INSERT).await?;
    let positions: Vec<i64> = events.iter().map(|e| position(e.shard, e.index)).collect();
    let ids: Vec<Uuid> = events.iter().map(|e| e.id).collect();
    let workspaces: Vec<&str> = events.iter().map(|e| e.workspace.as_str()).collect();
    let seqs: Vec<i64> = events.iter().map(|e| big(e.seq)).collect();
    let kinds: Vec<&str> = events.iter().map(|e| e.kind.as_str()).collect();
    let times: Vec<i64> = events.iter().map(|e| time(e.time)).collect();
    let commitments: Vec<&[u8]> = events.iter().map(|e| e.commitment.0.as_slice()).collect();
    let calls: Vec<Option<Uuid>> = events.iter().map(|e| e.call).collect();
    let principals: Vec<Option<&str>> = events.iter().map(|e| e.principal.as_deref()).collect();
    let tools: Vec<Option<&str>> = events.iter().map(|e| e.tool.as_deref()).collect();
    let openings = || events.iter().map(|e| e.opening.as_ref());
    let salts: Vec<Option<&[u8]>> = openings().map(|o| o.map(|o| o.salt.as_slice())).collect();
    let details: Vec<Option<&[u8]>> = openings().map(|o| o?.detail_salt.as_ref().map(|s| s.as_slice())).collect();
    let bodies: Vec<Option<&[u8]>> = openings().map(|o| o.map(|o| o.event.as_slice())).collect();
    let subjects: Vec<Option<&str>> = events.iter().map(|e| e.subject.as_deref()).collect();
    let columns: [&(dyn ToSql + Sync); 14] = [
        &positions,
        &ids,
        &workspaces,
        &seqs,
        &kinds,
        &times,
        &commitments,
        &calls,
        &principals,
        &tools,
        &salts,
        &details,
        &bodies,
        &subjects,
    ];
    session.client().execute(&statement, &columns).await.map(drop).map_err(error)
}

/// Many public entries in one statement.
async fn insert_entries(session: &Session, entries: Vec<EntryRow>) -> Result<()> {
    let statement = session.statement(INSERT_ENTRIES).await?;
    let positions: Vec<i64> = entries.iter().map(|e| position(e.shard, e.index)).collect();
    let ids: Vec<Uuid> = entries.iter().map(|e| e.id).collect();
    let workspaces: Vec<&str> = entries.iter().map(|e| e.workspace.as_str()).collect();
    let bodies: Vec<&[u8]> = entries.iter().map(|e| e.body.as_slice()).collect();
    session.client().execute(&statement, &[&positions, &ids, &workspaces, &bodies]).await.map(drop).map_err(error)
}

fn has_room(index: u64) -> Result<()> {
    if index >> SHARD_BITS == 0 { Ok(()) } else { Err(StoreError::Full("a shard has at most 2^40 leaves".into())) }
}

impl Group for PostgresGroup<'_> {
    fn now(&mut self) -> Result<Millis> {
        Ok(self.now)
    }

    fn head(&mut self) -> Result<Option<Head>> {
        Ok(self.head.clone())
    }

    fn expect(&mut self, workspaces: &[&WorkspaceName]) -> Result<()> {
        let unknown: Vec<&str> =
            workspaces.iter().filter(|name| !self.tails.contains_key(**name)).map(|name| name.as_str()).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let session = self.session;
        let found = self.sent.wait(async {
            let statement = session.statement(TAILS).await?;
            session.client().query(&statement, &[&unknown]).await.map_err(error)
        })?;
        self.tails.extend(workspaces.iter().map(|name| ((*name).clone(), None)));
        for row in &found {
            self.tails.insert(rows::parsed(row, 0)?, Some(rows::tail(row, 1)?));
        }
        Ok(())
    }

    fn news(&mut self, shard: u32, from: u64, to: u64) -> Result<Option<Vec<News>>> {
        let wanted = position(shard, from)..position(shard, to);
        let news = std::mem::take(&mut self.news).into_iter().filter(|(at, ..)| wanted.contains(at));
        let mut found: Vec<(i64, News)> =
            news.map(|(at, workspace, tail)| (at, News::Event(workspace, tail))).collect();
        let lacking = usize::try_from(to - from).map_or(usize::MAX, |leaves| leaves.saturating_sub(found.len()));
        // Leaves that are no events are public entries; if it is more than that, the reader has it in pages.
        if (1..=MAX_PUBLIC).contains(&lacking) {
            let Some(public) = self.public_news(&wanted)? else { return Ok(None) };
            found.extend(public);
            found.sort_by_key(|(at, _)| *at);
        }
        let whole = found.iter().map(|(at, _)| *at).eq(wanted);
        Ok(whole.then(|| found.into_iter().map(|(_, news)| news).collect()))
    }

    fn tail(&mut self, workspace: &WorkspaceName) -> Result<Option<Tail>> {
        self.expect(&[workspace])?;
        Ok(self.tails.get(workspace).copied().flatten())
    }

    fn apply(&mut self, ops: &[StateOp]) -> Result<std::result::Result<(), Conflict>> {
        self.apply_all(&[ops]).map(|mut verdicts| verdicts.pop().unwrap_or(Ok(())))
    }

    fn apply_all(&mut self, appends: &[&[StateOp]]) -> Result<Vec<std::result::Result<(), Conflict>>> {
        // What is only kept has nothing to check, and so no round trip of its own.
        let verdicts = if appends.iter().all(|ops| ops.iter().all(|op| kept(op).is_some())) {
            vec![Ok(()); appends.len()]
        } else {
            // An operation may look at an event of this group.
            self.flush();
            let owner = self.replica.as_ref().map(|(id, _)| *id);
            Applier { session: self.session, now: self.now, owner }.apply_all(appends, &mut self.sent)?
        };
        let fit = appends.iter().zip(&verdicts).filter(|(_, verdict)| verdict.is_ok());
        let decisions: Vec<_> = fit.flat_map(|(ops, _)| ops.iter().filter_map(kept)).cloned().collect();
        if !decisions.is_empty() {
            self.sent.send(keep(self.session, decisions));
        }
        Ok(verdicts)
    }

    fn insert(&mut self, row: &EventRow) -> Result<()> {
        has_room(row.index)?;
        self.tails.insert(row.workspace.clone(), Some(Tail { seq: row.seq, commitment: row.commitment }));
        self.events.push(row.clone());
        if self.events.len() >= CHUNK {
            self.flush();
        }
        Ok(())
    }

    fn insert_entry(&mut self, row: &EntryRow) -> Result<()> {
        has_room(row.index)?;
        self.entries.push(row.clone());
        if self.entries.len() >= ENTRY_CHUNK {
            self.flush();
        }
        Ok(())
    }

    fn put_tile(&mut self, shard: u32, level: u8, index: u64, hashes: &[Hash]) -> Result<()> {
        self.sent.send(insert_tile(self.session, shard, level, index, hashes.as_flattened().to_vec()));
        Ok(())
    }

    fn open_shard(&mut self, row: &ShardRow) -> Result<()> {
        let session = self.session;
        self.sent.wait(async {
            let client = session.client();
            let close = session.statement(CLOSE_SHARD).await?;
            client.execute(&close, &[]).await.map_err(error)?;
            let accept = session.statement(ACCEPT).await?;
            client.execute(&accept, &[]).await.map_err(error)?;
            let open = session.statement(OPEN_SHARD).await?;
            let (shard, size) = (shard_number(row.shard)?, big(row.size));
            let done = client.execute(&open, &[&shard, &row.origin, &row.vkey, &row.checkpoint, &size]).await;
            done.map(drop).map_err(error)
        })?;
        self.contested = None;
        Ok(())
    }

    fn set_head(&mut self, head: &Head) -> Result<()> {
        self.flush();
        self.sent.send(update_head(self.session, head.clone()));
        self.session.set_seen(position(head.shard, head.size));
        self.head = Some(head.clone());
        Ok(())
    }

    fn vouch(&mut self) -> Result<()> {
        if let Some(why) = &self.contested {
            return Err(StoreError::Stale(format!("another node has signed more than this database knows: {why}")));
        }
        if self.head.is_none() {
            return Ok(());
        }
        self.sent.wait(fence::vouch(self.session, self.now, self.replica.as_ref()))
    }

    fn contest(&mut self, why: &str) -> Result<()> {
        let session = self.session;
        self.sent.wait(async {
            let statement = session.statement(CONTEST).await?;
            session.client().execute(&statement, &[&why]).await.map(drop).map_err(error)
        })
    }

    fn commit(mut self: Box<Self>) -> std::result::Result<(), CommitError> {
        // Events without a new head are the tests' own.
        self.flush();
        // What could not be sent must not be missing from a group that is stored.
        self.sent.check().map_err(CommitError::Undone)?;
        self.open = false;
        let session = self.session;
        // With `synchronous_commit` on this is answered after the write-ahead log was flushed, here and wherever
        // `synchronous_standby_names` asks for it.
        let committed = self.sent.wait(async { session.client().batch_execute("COMMIT").await.map_err(error) });
        committed.and_then(|()| self.sent.all()).map_err(|error| match error {
            // The server said so of a statement before the commit, which it therefore answered by rolling back.
            StoreError::Corrupt(_) | StoreError::Full(_) => CommitError::Undone(error),
            // A connection that was lost is such an error too: the commit may have got through.
            StoreError::Database(_)
            | StoreError::Unsafe(_)
            | StoreError::Stale(_)
            | StoreError::Unsettled(_)
            | StoreError::Version { .. } => CommitError::Unknown(error),
        })
    }
}

impl Drop for PostgresGroup<'_> {
    fn drop(&mut self) {
        self.sent.clear();
        if self.open {
            roll_back(self.session);
        }
    }
}

fn kept(op: &StateOp) -> Option<&DecisionRow> {
    if let StateOp::KeepDecision { row } = op { Some(row) } else { None }
}

/// Lets go of the lock now. If that fails, the session is of no use, and the server lets go when it ends.
fn roll_back(session: &Session) {
    if session.is_usable()
        && let Err(failed) = session.wait(async { session.client().batch_execute("ROLLBACK").await.map_err(error) })
    {
        tracing::debug!(error = %failed, "a group was not rolled back in order");
    }
}
