//! Policies in Cedar: the schema made from the tools' JSON Schemas, loading with strict validation, decisions, what is
//! owed, explanations, past decisions against another set, and test cases.
//!
//! Pure: no I/O, no clock, no randomness. The caller reads the files and passes texts and the time. What a decision
//! leads to (refusing, asking people, executing) belongs to the gate. The policy language is Cedar 4
//! (<https://docs.cedarpolicy.com>); `docs/policy.md` is for the people who write policies.

mod annotations;
pub mod cases;
mod convert;
mod decide;
mod explain;
mod intricacy;
mod load;
mod problem;
mod references;
mod replay;
mod schema;
mod shape;

pub use convert::InputError;
pub use decide::{Decision, Facts, PolicyEffect, PolicyRef, Verdict};
pub use explain::{ExplainedPolicy, Explanation, Owing, Unsatisfied};
pub use load::{Policies, SetKind, SourceFile};
pub use problem::{PolicyProblem, Severity};
pub use replay::{Change, RecordedDecision};
pub use schema::{CedarSchema, SchemaError, ToolDescription};
pub use shape::Omission;
