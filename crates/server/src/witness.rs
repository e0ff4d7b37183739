//! Witnessing, per C2SP tlog-witness: this node as a witness of other logs ([`Witness`]), and asking its own witnesses for
//! cosignatures ([`Asking`]). What is decided is decided in `countersign_proof::witness`; here are the clock, the
//! ledger and the network.

mod ask;
mod serve;

pub(crate) use ask::Asking;
pub(crate) use serve::{Failed, Witness};
