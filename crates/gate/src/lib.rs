//! The gate: every call passes its stages, and each stage either refuses with a typed reason or hands on a stronger type.
//!
//! `identify → resolve → validate → authorise → limit → confirm → [intent] → dispatch → [outcome]`. [`stages`] holds the
//! types, [`flow`] walks them, [`permit`] is the only way to an upstream. What surfaces need is in [`api`] and on [`Gate`].
//!
//! Absent on purpose: sockets (the upstreams are handed in), HTTP or MCP (surfaces translate), SQL (the ledger's store).

pub mod admin;
pub mod api;
pub mod approvals;
pub mod breakers;
pub mod broker;
pub mod budgets;
mod conflicts;
pub mod connections;
mod decisions;
pub mod directory;
pub mod exchange;
pub mod findings;
pub mod flow;
pub mod frozen;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod hearing;
pub mod identity;
pub mod keyring;
pub mod limits;
pub mod load;
pub mod members;
pub mod meter;
pub mod operations;
mod peers;
pub mod permit;
pub mod policies;
pub mod questions;
mod raw;
mod record;
pub mod registry;
pub mod replay;
pub mod stages;
pub mod tasks;
pub mod trace;
pub mod upstream;
pub mod waiters;

mod gate;
pub use gate::{Gate, Settings, Updated};

/// Fresh random bytes from the operating system's generator by way of a thread-local one.
pub(crate) fn entropy<const N: usize>() -> [u8; N] {
    let mut out = [0; N];
    rand::Rng::fill_bytes(&mut rand::rng(), &mut out);
    out
}
