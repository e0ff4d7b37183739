//! Stores: where the ledger keeps itself, and the bytes of artifacts. The only crate with a database driver.
//!
//! What a store must promise stands in `countersign_ledger::contract`; here is how SQLite and Postgres keep it. No policy, no proofs,
//! no signatures: rows in and out, and transactions.

pub mod objects;
pub mod postgres;
pub mod redis;
pub mod sqlite;

pub use postgres::{PostgresOptions, PostgresStore};
pub use sqlite::{SqliteOptions, SqliteStore};
