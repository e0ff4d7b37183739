//! The vocabulary that every other crate speaks: workspaces, principals, tools, calls, events and refusals.
//!
//! Plain data and the rules that belong to it. Nothing here does I/O, reads a clock or draws randomness.

pub mod event;
pub mod histogram;
pub mod name;
pub mod obligation;
pub mod operation;
pub mod principal;
pub mod refusal;

pub use event::{Event, EventDraft, EventType, PreparedEvent};
pub use name::{Effect, InvalidName, ToolRef, UpstreamName, WorkspaceName};
pub use obligation::{ObligationKind, Obligations};
pub use operation::Operation;
pub use principal::{Principal, PrincipalKind};
pub use refusal::{Refusal, RefusalKind};

/// Milliseconds since the Unix epoch, UTC.
pub type Millis = u64;
