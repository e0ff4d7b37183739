//! The commands, one file for each group: what can be typed, one request to the node, and how the answer is shown.

pub mod administer;
pub mod approvals;
pub mod audit;
pub mod backup;
pub mod call;
pub mod config;
pub mod connections;
pub mod doctor;
pub mod health;
pub mod import;
pub mod limits;
pub mod log;
pub mod mcp;
pub mod members;
pub mod policy;
pub mod receipt;
pub mod replay;
pub mod sample;
pub mod scan;
pub mod shell;
pub mod token;
pub mod tools;
pub mod trust;
pub mod up;
pub mod verify;
pub mod witness;
