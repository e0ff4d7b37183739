//! The schema and its migrations. The rule stands in `docs/ledger.md`: a migration first expands, so that nodes of the
//! version before go on beside it, and a later release contracts. `oldest` says which builds may still use the database.

use countersign_ledger::contract::StoreError;

use super::rows::{Result, get};
use super::session::{Session, error};

/// One script for each version, and the oldest schema version whose builds can still work with the result. Released
/// scripts never change.
const MIGRATIONS: &[(&str, i64)] = &[
    (include_str!("v1.sql"), 1),
    (include_str!("v2.sql"), 1),
    (include_str!("v3.sql"), 1),
    (include_str!("v4.sql"), 1),
    // Builds before this one take every leaf for an event's, and stop at kinds of directory rows that they don't know.
    (include_str!("v5.sql"), 5),
    (include_str!("v6.sql"), 5),
    (include_str!("v7.sql"), 5),
];
/// "CSLG": nodes that start together migrate one after the other.
const LOCK: &str = "SELECT pg_advisory_xact_lock(1129532487)";
const VERSIONS: &str = "CREATE TABLE IF NOT EXISTS countersign_schema \
    (one smallint PRIMARY KEY CHECK (one = 1), version bigint NOT NULL, oldest bigint NOT NULL)";

/// The schema's version here, and whether a build that knows versions up to `supported` may use it.
fn usable(version: i64, oldest: i64, supported: i64) -> Result<()> {
    if oldest > supported { Err(StoreError::Version { found: version, supported }) } else { Ok(()) }
}

/// Brings the database to the newest version, each step in its own transaction. A newer one is left as it is, and used if
/// it only has more than this build knows of.
pub(super) fn migrate(session: &Session) -> Result<()> {
    let supported = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    for _ in 0..=MIGRATIONS.len() {
        if session.wait(step(session, supported))? {
            return Ok(());
        }
    }
    Err(StoreError::Corrupt("the schema's version does not follow its migrations".into()))
}

/// One migration; true if there is none left to make.
async fn step(session: &Session, supported: i64) -> Result<bool> {
    let client = session.client();
    client.batch_execute("BEGIN").await.map_err(error)?;
    let stepped = locked_step(session, supported).await;
    let end = if matches!(stepped, Ok(false)) { "COMMIT" } else { "ROLLBACK" };
    client.batch_execute(end).await.map_err(error)?;
    stepped
}

async fn locked_step(session: &Session, supported: i64) -> Result<bool> {
    let client = session.client();
    client.batch_execute(LOCK).await.map_err(error)?;
    client.batch_execute(VERSIONS).await.map_err(error)?;
    let row = client.query_opt("SELECT version, oldest FROM countersign_schema", &[]).await.map_err(error)?;
    let (version, oldest) = row.map_or(Ok((0, 0)), |row| Ok((get(&row, 0)?, get(&row, 1)?)))?;
    usable(version, oldest, supported)?;
    let next = usize::try_from(version).ok().and_then(|n| MIGRATIONS.get(n));
    let Some((script, oldest)) = next else { return Ok(true) };
    client.batch_execute(script).await.map_err(error)?;
    let sql = "INSERT INTO countersign_schema (one, version, oldest) VALUES (1, $1, $2) \
               ON CONFLICT (one) DO UPDATE SET version = excluded.version, oldest = excluded.oldest";
    client.execute(sql, &[&(version + 1), oldest]).await.map_err(error)?;
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_schema_is_used_as_long_as_it_has_only_more() {
        assert!(usable(3, 1, 1).is_ok(), "expanded twice");
        assert!(matches!(usable(3, 2, 1), Err(StoreError::Version { found: 3, supported: 1 })), "contracted");
    }
}
