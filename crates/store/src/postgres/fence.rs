//! Before a node signs on what a database says, it must be sure that the database is not an old one in the place of the
//! newer: a backup, or a standby that had not received everything. Its own head tells it about itself. About what only
//! other nodes have seen, it waits for them: at every start of the database server, each node that served compares its own
//! head with the database's, and vouches for it or contests it. See `docs/ledger.md`, "Failover".

use countersign_domain::Millis;
use countersign_ledger::contract::StoreError;
use uuid::Uuid;

use super::rows::{self, Result, get, time};
use super::session::{Session, error};

/// A node that was not heard of for this long is taken to be dead, in milliseconds of the database's clock.
pub(super) const LEASE: i64 = 10_000;
/// Nodes that a database does not know of, because they started after it was copied, have this long to come back and
/// contest it, in milliseconds. They look every fifth of a second.
const GRACE: Millis = 2_000;

const KNOWN: &str = "SELECT since, settled FROM incarnation WHERE id = $1";
const FIRST: &str = "INSERT INTO incarnation (id, since, settled) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
const VOUCH: &str = "INSERT INTO vouched (incarnation, node) VALUES ($1, $2) ON CONFLICT DO NOTHING";
const MISSING: &str = "SELECT count(*) FROM node n WHERE NOT EXISTS \
    (SELECT 1 FROM vouched v WHERE v.incarnation = $1 AND v.node = n.id) AND n.replica <> $2";
/// The database is met for the first time at all: nobody can know better.
const IS_NEW: &str = "SELECT NOT EXISTS (SELECT 1 FROM incarnation WHERE id <> $1)";
const SETTLE: &str = "UPDATE incarnation SET settled = true WHERE id = $1";
const FORGET: &str = "DELETE FROM incarnation WHERE id <> $1 AND since < $2";

pub(super) const STATEMENTS: &[&str] = &[KNOWN, FIRST, VOUCH, MISSING, IS_NEW, SETTLE, FORGET, PEEK];
/// Where the log stands, without waiting for anybody.
pub(super) const PEEK: &str = "SELECT shard, size FROM head";

/// Says that this node's head does not speak against the database, and whether all have said so who could. Must run in a
/// group, whose commit makes the word known to the others, also if it is not yet settled.
pub(super) async fn vouch(session: &Session, now: Millis, replica: Option<&(Uuid, String)>) -> Result<()> {
    if session.is_settled() {
        return Ok(());
    }
    let client = session.client();
    let incarnation = &session.incarnation;
    let run = async |sql: &'static str, params: &[&(dyn tokio_postgres::types::ToSql + Sync)]| {
        let statement = session.statement(sql).await?;
        client.query(&statement, params).await.map_err(error)
    };
    let read = async || -> Result<Option<(u64, bool)>> {
        let rows = run(KNOWN, &[incarnation]).await?;
        rows.first().map(|row| Ok((rows::unsigned(row, 0)?, get(row, 1)?))).transpose()
    };
    let known = match read().await? {
        Some(known) => known,
        None => {
            let is_new: bool = run(IS_NEW, &[incarnation]).await?.first().map_or(Ok(false), |row| get(row, 0))?;
            run(FIRST, &[incarnation, &time(now), &is_new]).await?;
            (now, is_new)
        }
    };
    let (since, settled) = known;
    if settled {
        session.settle();
        return Ok(());
    }
    let name = match replica {
        Some((id, name)) => {
            run(VOUCH, &[incarnation, id]).await?;
            name.as_str()
        }
        None => "",
    };
    let missing = run(MISSING, &[incarnation, &name]).await?.first().map_or(Ok(0), |row| rows::unsigned(row, 0))?;
    let waited = now.saturating_sub(since);
    if waited < GRACE || missing > 0 && waited < LEASE.unsigned_abs() {
        let words = format!(
            "the database was started anew; {missing} other nodes have not yet compared it with what they signed"
        );
        return Err(StoreError::Unsettled(words));
    }
    run(SETTLE, &[incarnation]).await?;
    run(FORGET, &[incarnation, &time(now.saturating_sub(7 * 24 * 3_600_000))]).await?;
    Ok(())
}
