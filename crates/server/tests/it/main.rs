//! A real node on a loopback socket, with the sample upstream as a child process, driven over raw HTTP.

mod artifacts;
mod assess;
mod exchange;
mod forward;
mod http;
mod identity;
mod log;
mod logs;
mod mail;
mod mcp;
mod nodes;
mod operations;
mod outside;
mod page;
mod provenance;
mod redis;
mod rekor;
mod replay;
mod s3;
mod scenarios;
mod sigstore;
mod support;
mod tasks;
mod tls;
mod trust;
mod witness;
