//! Postgres (15 or newer): one database that several nodes share.
//!
//! Durability: a server with `fsync`, `full_page_writes` or `synchronous_commit` off is refused at every connection, and
//! every session sets `synchronous_commit` itself. Isolation: [`Store::begin`] locks the one row of `head`, so that groups
//! of all nodes follow one another and each sees the one before (`READ COMMITTED`, which looks again after the wait).
//! Connections are made anew when they are lost, with a bounded backoff; nothing that writes is ever repeated by itself.

mod address;
mod artifacts;
mod fence;
mod group;
mod ops;
mod reader;
mod rows;
mod schema;
mod sent;
mod session;
mod tls;
mod trust;
mod upkeep;
mod witness;

use std::sync::Arc;
use std::time::{Duration, Instant};

use countersign_ledger::contract::{Group, Place, Reader, Store, StoreError};

use address::Address;
use group::PostgresGroup;
use reader::ReadPool;
use rows::{Result, get};
use session::{Io, Session, error};
use upkeep::Presence;

/// After a failed attempt to connect the next one is made after this long, doubling up to the longest.
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const LAST_BACKOFF: Duration = Duration::from_secs(2);

/// How a database is opened.
#[derive(Clone)]
pub struct PostgresOptions {
    /// `postgres://user:password@host:port/database`; see `docs/ledger.md` for `sslmode` and `sslrootcert`.
    pub url: String,
    /// Connections for reading.
    pub readers: usize,
    /// What this node is called among those that share the log; it must be the only one of its name. `None` for tools that
    /// only look.
    pub replica: Option<String>,
}

impl PostgresOptions {
    /// The usual values: 4 connections for reading, nobody's name.
    pub fn new(url: impl Into<String>) -> Self {
        Self { url: url.into(), readers: 4, replica: None }
    }
}

impl std::fmt::Debug for PostgresOptions {
    /// Never shows the URL, which may hold a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresOptions").field("readers", &self.readers).finish_non_exhaustive()
    }
}

/// A ledger's store in a Postgres database.
pub struct PostgresStore {
    io: Arc<Io>,
    address: Address,
    writer: Option<Session>,
    retry: Retry,
    readers: Arc<ReadPool>,
    presence: Option<Arc<Presence>>,
    upkeep: Option<tokio::task::JoinHandle<()>>,
}

struct Retry {
    at: Instant,
    pause: Duration,
}

impl PostgresStore {
    /// Connects, brings the schema up to date, and enters the node among those that serve, if it has a name.
    ///
    /// # Errors
    /// [`StoreError`]: it does not answer, would forget commits, or is of a newer version.
    pub fn open(options: PostgresOptions) -> Result<Self> {
        let address = Address::parse(&options.url)?;
        let io = Io::start()?;
        let session = Session::open(&io, &address, false)?;
        schema::migrate(&session)?;
        prepare(&session)?;
        let (mut presence, mut upkeep) = (None, None);
        if let Some(replica) = options.replica {
            let entered = Arc::new(Presence::enter(replica, &session)?);
            upkeep = Some(upkeep::start(&io, address.clone(), Arc::clone(&entered))?);
            presence = Some(entered);
        }
        let own = presence.as_ref().map(|p| p.id);
        let readers = Arc::new(ReadPool::new(Arc::clone(&io), address.clone(), options.readers, own));
        let retry = Retry { at: Instant::now(), pause: FIRST_BACKOFF };
        Ok(Self { io, address, writer: Some(session), retry, readers, presence, upkeep })
    }

    /// Whether the database answers and keeps what it commits, in words for a person.
    ///
    /// # Errors
    /// [`StoreError`], as for [`Self::open`].
    pub fn examine(url: &str) -> Result<String> {
        let address = Address::parse(url)?;
        let io = Io::start()?;
        let session = Session::open(&io, &address, true)?;
        session.wait(async {
            let sql = "SELECT current_setting('server_version'), current_setting('synchronous_standby_names'), \
                       (SELECT count(*) FROM pg_stat_replication)";
            let row = session.client().query_one(sql, &[]).await.map_err(error)?;
            let (version, names, standbys): (String, String, i64) = (get(&row, 0)?, get(&row, 1)?, get(&row, 2)?);
            let replication = match (names.is_empty(), standbys) {
                (false, _) => "standbys are synchronous",
                (true, 0) => "no standby",
                (true, _) => "standbys are asynchronous: a failover can lose what was acknowledged",
            };
            Ok(format!("Postgres {version}, commits are durable, {replication}"))
        })
    }

    /// The connection that writes, opened again if it was lost.
    fn session(&mut self) -> Result<&Session> {
        if self.writer.as_ref().is_none_or(|session| !session.is_usable()) {
            self.writer = None;
            if Instant::now() < self.retry.at {
                return Err(StoreError::Database("the database is away".into()));
            }
            match Session::open(&self.io, &self.address, false).and_then(|s| prepare(&s).map(|()| s)) {
                Ok(session) => {
                    tracing::info!("connected to the database");
                    self.writer = Some(session);
                    self.retry.pause = FIRST_BACKOFF;
                }
                Err(failed) => {
                    self.retry.at = Instant::now() + self.retry.pause;
                    self.retry.pause = (self.retry.pause * 2).min(LAST_BACKOFF);
                    return Err(failed);
                }
            }
        }
        self.writer.as_ref().ok_or_else(|| StoreError::Database("the database is away".into()))
    }
}

fn prepare(session: &Session) -> Result<()> {
    session.wait(async {
        session.prepare_all(group::STATEMENTS).await?;
        session.prepare_all(ops::STATEMENTS).await?;
        session.prepare_all(fence::STATEMENTS).await
    })
}

impl Store for PostgresStore {
    fn begin(&mut self) -> Result<Box<dyn Group + '_>> {
        let presence = self.presence.clone();
        let replica = presence.as_ref().map(|p| p.id);
        let name = self.presence.as_ref().map(|p| p.replica.clone());
        let session = self.session()?;
        Ok(Box::new(PostgresGroup::begin(session, replica.zip(name))?))
    }

    fn reader(&self) -> Arc<dyn Reader> {
        Arc::clone(&self.readers) as Arc<dyn Reader>
    }

    fn maintain(&mut self) -> Result<()> {
        Ok(())
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn peek(&mut self) -> Result<Option<Place>> {
        let session = self.session()?;
        session.wait(async {
            let statement = session.statement(fence::PEEK).await?;
            let row = session.client().query_one(&statement, &[]).await.map_err(error)?;
            let Some(shard) = get::<Option<i32>>(&row, 0)? else { return Ok(None) };
            let shard = u32::try_from(shard).map_err(|e| StoreError::Corrupt(e.to_string()))?;
            Ok(Some(Place { shard, size: rows::unsigned(&row, 1)?, settled: session.is_settled() }))
        })
    }
}

impl Drop for PostgresStore {
    fn drop(&mut self) {
        if let Some(upkeep) = self.upkeep.take() {
            upkeep.abort();
        }
        if let (Some(presence), Some(session)) = (&self.presence, &self.writer)
            && session.is_usable()
            && let Err(error) = presence.leave(session)
        {
            tracing::debug!(%error, "the database was not told that this node has ended");
        }
    }
}
