//! Name resolution that hands out only addresses which the purpose's rule allows.

use std::io;
use std::net::IpAddr;

use async_trait::async_trait;

use crate::error::{EgressError, chain};
use crate::rules::{Rule, not_public};

/// Most addresses of one name that are tried.
const MAX_ADDRESSES: usize = 16;

/// Turns names into addresses.
#[async_trait]
pub trait Lookup: Send + Sync {
    /// The addresses of a host name.
    ///
    /// # Errors
    /// If the name cannot be resolved.
    async fn lookup(&self, host: &str) -> io::Result<Vec<IpAddr>>;
}

/// The operating system's name resolution.
#[derive(Debug, Clone, Copy)]
pub struct SystemLookup;

#[async_trait]
impl Lookup for SystemLookup {
    async fn lookup(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        Ok(tokio::net::lookup_host((host, 0)).await?.map(|a| a.ip()).collect())
    }
}

/// The addresses of a name that may be connected to. What is connected to is what was checked: nobody resolves again in
/// between. Without a rule, all of them.
pub(crate) async fn addresses(
    lookup: &dyn Lookup,
    name: &str,
    rule: Option<&Rule>,
) -> Result<Vec<IpAddr>, EgressError> {
    let host = name.trim_end_matches('.').to_ascii_lowercase();
    let found = lookup.lookup(&host).await.map_err(|e| EgressError::Unreachable(chain(&e)))?;
    let allows = |address| rule.is_none_or(|rule| rule.allows_address(&host, address));
    let (allowed, refused): (Vec<IpAddr>, Vec<IpAddr>) =
        found.into_iter().take(MAX_ADDRESSES).partition(|&address| allows(address));
    match (allowed.is_empty(), refused.first()) {
        (true, Some(&address)) => Err(EgressError::Refused(not_public(&host, address))),
        (true, None) => Err(EgressError::Unreachable(format!("{host} has no address"))),
        (false, _) => Ok(allowed),
    }
}
