//! The crate through its public interface: loading, decisions, the example sets, and Cedar's own validation as an oracle
//! for the conversion of arguments.

mod conversion;
mod decisions;
mod examples;
mod jobs;
mod strictness;
mod support;
