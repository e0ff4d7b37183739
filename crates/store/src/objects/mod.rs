//! Stores of objects. What they must promise stands in `countersign_ledger::objects`.

mod directory;

pub use directory::Directory;
