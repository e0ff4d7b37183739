//! Name resolution that hands out only addresses which the purpose's rule allows.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use async_trait::async_trait;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

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

/// A name led only to addresses that are not allowed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct AddressRefused(pub(crate) String);

/// What reqwest resolves with. What is connected to is what was checked: nobody resolves again in between.
pub(crate) struct GuardedResolver {
    pub(crate) rule: Arc<Rule>,
    pub(crate) lookup: Arc<dyn Lookup>,
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (rule, lookup) = (Arc::clone(&self.rule), Arc::clone(&self.lookup));
        Box::pin(async move {
            let host = name.as_str().trim_end_matches('.').to_ascii_lowercase();
            let found = lookup.lookup(&host).await?;
            let (allowed, refused): (Vec<IpAddr>, Vec<IpAddr>) =
                found.into_iter().take(MAX_ADDRESSES).partition(|&address| rule.allows_address(&host, address));
            match (allowed.is_empty(), refused.first()) {
                (true, Some(&address)) => Err(AddressRefused(not_public(&host, address)).into()),
                (true, None) => Err(io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address")).into()),
                (false, _) => Ok(Box::new(allowed.into_iter().map(|ip| SocketAddr::new(ip, 0))) as Addrs),
            }
        })
    }
}
