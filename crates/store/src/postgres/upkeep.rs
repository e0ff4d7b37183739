//! What a serving process does in the database beside its groups: it says that it is alive, and forgets rows that have had
//! their time. On its own connection, opened again whenever it is lost.

use std::sync::Arc;
use std::time::Duration;

use countersign_ledger::contract::StoreError;
use uuid::Uuid;

use super::address::Address;
use super::fence::LEASE;
use super::rows::{Result, now_sql};
use super::session::{Io, Session, error};

/// How often a process says that it is alive: several times in a lease.
const BEAT: Duration = Duration::from_secs(2);
/// How often rows are forgotten, in beats; at most so many at a time.
const PURGE: u64 = 30;
/// How long one round may take.
const ROUND: Duration = Duration::from_secs(10);
/// How long a process that ends waits for its last word to be heard.
const FAREWELL: Duration = Duration::from_secs(2);

const BEAT_SQL: &str = concat!(
    "INSERT INTO node (id, replica, seen) VALUES ($1, $2, ",
    now_sql!(),
    ") ON CONFLICT (id) DO UPDATE SET seen = excluded.seen"
);

/// A process that serves.
pub(super) struct Presence {
    /// Its row.
    pub(super) id: Uuid,
    /// What it is called, before and after a restart.
    pub(super) replica: String,
}

impl Presence {
    /// Takes the place of the process of the same name before it, which is dead: its lock was free.
    pub(super) fn enter(replica: String, session: &Session) -> Result<Self> {
        let presence = Self { id: Uuid::now_v7(), replica };
        session.wait(async {
            let client = session.client();
            client.execute("DELETE FROM node WHERE replica = $1", &[&presence.replica]).await.map_err(error)?;
            client.execute(BEAT_SQL, &[&presence.id, &presence.replica]).await.map(drop).map_err(error)
        })?;
        Ok(presence)
    }

    /// The last word of a process that ends in order.
    pub(super) fn leave(&self, session: &Session) -> Result<()> {
        session.wait_for(FAREWELL, async {
            session.client().execute("DELETE FROM node WHERE id = $1", &[&self.id]).await.map(drop).map_err(error)
        })
    }
}

/// Keeps a process's row fresh until the returned task is aborted.
pub(super) fn start(io: &Io, address: Address, presence: Arc<Presence>) -> Result<tokio::task::JoinHandle<()>> {
    io.spawn(async move {
        let mut session = None;
        let mut tick = tokio::time::interval(BEAT);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for n in 0_u64.. {
            tick.tick().await;
            let round = tokio::time::timeout(ROUND, round(&mut session, &address, &presence, n));
            let result = round.await.unwrap_or_else(|_| Err(StoreError::Database("no answer".into())));
            if let Err(error) = result {
                session = None;
                tracing::warn!(%error, "database housekeeping failed; it will be tried again");
            }
        }
    })
}

async fn round(session: &mut Option<Session>, address: &Address, presence: &Presence, n: u64) -> Result<()> {
    let session = match session {
        Some(session) => session,
        None => session.insert(Session::open_async(address).await?),
    };
    let statement = session.statement(BEAT_SQL).await?;
    session.client().execute(&statement, &[&presence.id, &presence.replica]).await.map_err(error)?;
    if n % PURGE == PURGE - 1 {
        purge(session).await?;
    }
    Ok(())
}

/// Forgets what has had its time. None of it is in the log.
async fn purge(session: &Session) -> Result<()> {
    let lease = LEASE.to_string();
    for sql in [
        // 30 days.
        concat!(
            "DELETE FROM refusal WHERE ctid = ANY (ARRAY(SELECT ctid FROM refusal WHERE minute < ",
            now_sql!(),
            " / 60000 - 43200 LIMIT 1000))"
        ),
        concat!(
            "DELETE FROM idempotency WHERE scope IN (SELECT scope FROM idempotency WHERE expires < ",
            now_sql!(),
            " AND state IN ('done', 'pending') LIMIT 1000)"
        ),
        // The sealed arguments of requests that are over; the rest of the row explains what happened.
        concat!(
            "UPDATE request SET arguments = '' WHERE id IN (SELECT id FROM request WHERE status <> 'pending' AND expires < ",
            now_sql!(),
            " AND arguments <> '' LIMIT 1000)"
        ),
        // A refund may come up to a call's deadline after the period's end; a day is plenty.
        concat!("DELETE FROM budget WHERE ends < ", now_sql!(), " - 86400000"),
        concat!("DELETE FROM cooldown WHERE until < ", now_sql!()),
        // People who did not come back from a provider. What is in use has no end.
        concat!("DELETE FROM connection WHERE expires < ", now_sql!()),
        // Every node has seen these, or starts again from everything.
        concat!(
            "DELETE FROM change WHERE n IN (SELECT n FROM change WHERE at < ",
            now_sql!(),
            " - 600000 AND n < (SELECT max(n) FROM change) ORDER BY n LIMIT 10000)"
        ),
    ] {
        session.client().execute(sql, &[]).await.map_err(error)?;
    }
    // Dead processes whose intents are settled.
    let dead = format!(
        "DELETE FROM node n WHERE seen < {} - {lease} * 6 \
         AND NOT EXISTS (SELECT 1 FROM intent i WHERE i.owner = n.id AND i.state = 'open')",
        now_sql!()
    );
    session.client().execute(&dead, &[]).await.map(drop).map_err(error)
}
