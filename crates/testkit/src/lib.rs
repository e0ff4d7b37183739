//! The harness of the acceptance programs: homes, real nodes as child processes, tokens, a plain HTTP client, receipts.
//!
//! It knows the product from outside only: the binary, its files, its public interfaces and the format of a receipt
//! (`countersign-proof`). It opens its own sockets and starts processes on purpose, and no product crate may depend on it
//! other than for its tests. Everything blocks; a test that wants concurrency uses threads.
#![forbid(unsafe_code)]

pub mod home;
pub mod http;
pub mod issuer;
pub mod mcp;
pub mod node;
pub mod postgres;
pub mod proxy;
pub mod random;
pub mod receipts;
pub mod registry;
pub mod s3;
pub mod service;
pub mod tsa;

pub use home::Home;
pub use http::{Client, Response};
pub use issuer::{Claims, Issuer};
pub use node::Node;
