//! The gate over a real SQLite ledger, with a scripted upstream. What users rely on: typed refusals, calls that happen once,
//! approvals that bind, and an event for everything.

mod approvals;
mod calls;
mod connections;
mod erasure;
mod faults;
mod harness;
mod identity;
mod limits;
mod members;
mod operations;
mod policies;
mod replay;
