//! A real node on a loopback socket, with the sample upstream as a child process, driven over raw HTTP.

mod artifacts;
mod assess;
mod exchange;
mod http;
mod identity;
mod log;
mod mcp;
mod nodes;
mod operations;
mod page;
mod redis;
mod replay;
mod s3;
mod support;
mod tasks;
mod tls;
mod trust;
mod witness;
