//! The schema and its migrations. `user_version` counts them; a newer database is refused.

use countersign_ledger::contract::StoreError;
use rusqlite::{Connection, TransactionBehavior};

use super::error;

/// Marks the file as ours ("CSLG").
const APPLICATION_ID: i64 = 0x4353_4c47;
/// One script for each version. Released scripts never change; new ones expand first and contract in a later release.
const MIGRATIONS: &[&str] = &[
    include_str!("v1.sql"),
    include_str!("v2.sql"),
    include_str!("v3.sql"),
    include_str!("v4.sql"),
    include_str!("v5.sql"),
    include_str!("v6.sql"),
    include_str!("v7.sql"),
    include_str!("v8.sql"),
    include_str!("v9.sql"),
];

/// Brings the database to the newest version, each step in its own transaction.
pub(super) fn migrate(connection: &mut Connection) -> Result<(), StoreError> {
    let supported = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    loop {
        // The version is read under the writer's lock: two processes that start together migrate once.
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(error)?;
        let pragma = |name: &str| transaction.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).map_err(error);
        let (found, application) = (pragma("user_version")?, pragma("application_id")?);
        if found > supported {
            return Err(StoreError::Version { found, supported });
        }
        if found > 0 && application != APPLICATION_ID {
            return Err(StoreError::Corrupt("this SQLite file is not a ledger".into()));
        }
        let Some(script) = usize::try_from(found).ok().and_then(|n| MIGRATIONS.get(n)) else { return Ok(()) };
        transaction.execute_batch(script).map_err(error)?;
        transaction.pragma_update(None, "user_version", found + 1).map_err(error)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID).map_err(error)?;
        transaction.commit().map_err(error)?;
    }
}
