//! The one network client: every outgoing connection, except a database's, is made here.
//!
//! Who connects names a [`Purpose`]. Each purpose has its own [`Rule`]: which origins, which names, which address ranges.
//! - Host names are resolved here, and addresses that are not public are refused unless the rule names them (server-side
//!   request forgery, DNS rebinding): the address that was checked is the address that is connected to.
//! - No redirects, no cookies, no proxy from the environment, no retries, no decompression; every wait has a deadline, every
//!   body a bound.
//! - Where no HTTP is spoken, an [`Endpoint`] opens a [`Channel`], under the same rules.
//! - [`EgressError::not_sent`] says with certainty that no byte of a request left. What is retried is decided elsewhere.

pub mod aws;
mod channel;
mod client;
mod connection;
mod dial;
mod error;
mod pool;
mod resolve;
mod rules;

use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use dial::Dialer;
use url::{Host, Url};

pub use channel::{Channel, Endpoint};
pub use client::{PurposeClient, Response};
pub use error::EgressError;
pub use resolve::{Lookup, SystemLookup};
#[cfg(fuzzing)]
pub use rules::fuzz;
pub use rules::{HostPattern, Network, Origin, Rule, RuleError, is_public};

/// What a connection is for. Each purpose has an allow-list of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Purpose {
    /// An upstream of a manifest.
    Upstream,
    /// An issuer's keys and metadata.
    Jwks,
    /// Token endpoints of authorization servers that upstreams trust.
    Tokens,
    /// The node's own administration interface, from its command line.
    Admin,
    /// A subscriber's webhook.
    Webhook,
    /// Traces and metrics.
    Telemetry,
    /// Registries of servers and packages.
    Registry,
    /// A key management service.
    Kms,
    /// Witnesses that cosign the log's checkpoints.
    Witness,
    /// A server that takes mail.
    Mail,
    /// Where objects are kept.
    ObjectStore,
    /// Timestamp authorities.
    Timestamp,
    /// Transparency logs of others.
    Log,
}

impl Purpose {
    /// The name in configuration and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Purpose::Upstream => "upstream",
            Purpose::Jwks => "jwks",
            Purpose::Tokens => "tokens",
            Purpose::Admin => "admin",
            Purpose::Webhook => "webhook",
            Purpose::Telemetry => "telemetry",
            Purpose::Registry => "registry",
            Purpose::Kms => "kms",
            Purpose::Witness => "witness",
            Purpose::Mail => "mail",
            Purpose::ObjectStore => "objectstore",
            Purpose::Timestamp => "timestamp",
            Purpose::Log => "log",
        }
    }
}

/// How the node reaches out.
#[derive(Debug, Clone)]
pub struct EgressConfig {
    /// What each purpose may reach. A purpose without a rule reaches nothing that [`Egress::client_for`] was not given.
    pub rules: BTreeMap<Purpose, Rule>,
    /// An HTTP proxy for everything but loopback. It resolves names itself, so addresses are then its to check.
    pub proxy: Option<Url>,
    /// How long name resolution, TCP and TLS may take together.
    pub connect_timeout: Duration,
    /// Further certificate authorities, PEM.
    pub extra_roots: Vec<u8>,
}

impl Default for EgressConfig {
    /// Nothing allowed, no proxy, 10 s to connect, the platform's certificate authorities.
    fn default() -> Self {
        let connect_timeout = Duration::from_secs(10);
        Self { rules: BTreeMap::new(), proxy: None, connect_timeout, extra_roots: Vec::new() }
    }
}

/// The node's way out.
#[derive(Clone)]
pub struct Egress {
    config: Arc<EgressConfig>,
    lookup: Arc<dyn Lookup>,
    /// Shared by all clients: the certificate authorities are read once.
    dialer: Arc<OnceLock<Result<Arc<Dialer>, EgressError>>>,
}

impl Egress {
    /// With the system's name resolution.
    pub fn new(config: EgressConfig) -> Self {
        Self::with_lookup(config, Arc::new(SystemLookup))
    }

    /// With another name resolution. Addresses are checked all the same.
    pub fn with_lookup(config: EgressConfig, lookup: Arc<dyn Lookup>) -> Self {
        Self { config: Arc::new(config), lookup, dialer: Arc::default() }
    }

    /// A client under the purpose's rule. Keep it: it holds the connections.
    ///
    /// # Errors
    /// [`EgressError::Setup`] if TLS or the proxy cannot be set up.
    pub fn client(&self, purpose: Purpose) -> Result<PurposeClient, EgressError> {
        self.under(purpose, self.rule(purpose))
    }

    /// A client for one URL's origin, which an operator configured, and nothing else. Private addresses are still refused
    /// unless the URL itself names one (a literal, `localhost`) or the purpose's rule lists the network.
    ///
    /// # Errors
    /// [`EgressError::Refused`] if the URL has no origin; [`EgressError::Setup`] as for [`Egress::client`].
    pub fn client_for(&self, purpose: Purpose, url: &Url) -> Result<PurposeClient, EgressError> {
        let origin = Origin::of(url).map_err(|e| EgressError::Refused(e.to_string()))?;
        let rule = Rule { origins: vec![origin], hosts: Vec::new(), networks: self.rule(purpose).networks };
        self.under(purpose, rule)
    }

    /// One host and port, which an operator configured, for a protocol that is not HTTP. Private addresses are refused as for
    /// [`Egress::client_for`], unless they are of the purpose's networks or of those given here.
    ///
    /// # Errors
    /// [`EgressError::Refused`] if there can be no such host; [`EgressError::Setup`] as for [`Egress::client`].
    pub fn endpoint(
        &self,
        purpose: Purpose,
        (host, port): (&str, u16),
        networks: &[Network],
    ) -> Result<Endpoint, EgressError> {
        let refused = |why: String| EgressError::Refused(format!("{host:?}: {why}"));
        let bracketed = host.parse::<Ipv6Addr>().map_or_else(|_| host.to_owned(), |address| format!("[{address}]"));
        let named = Host::parse(&bracketed).map_err(|e| refused(e.to_string()))?;
        if port == 0 {
            return Err(refused("port 0 is nobody's".into()));
        }
        // Rules name hosts and ports by URLs; nothing else is made of it.
        let url = Url::parse(&format!("https://{named}:{port}/")).map_err(|e| refused(e.to_string()))?;
        let origin = Origin::of(&url).map_err(|e| refused(e.to_string()))?;
        let networks = self.rule(purpose).networks.into_iter().chain(networks.iter().copied()).collect();
        let rule = Rule { origins: vec![origin], hosts: Vec::new(), networks };
        Ok(Endpoint::new(purpose, url, rule, self.dialer()?))
    }

    fn under(&self, purpose: Purpose, rule: Rule) -> Result<PurposeClient, EgressError> {
        Ok(PurposeClient::new(purpose, rule, self.dialer()?))
    }

    fn dialer(&self) -> Result<Arc<Dialer>, EgressError> {
        let dialer = self.dialer.get_or_init(|| {
            let lookup = Arc::clone(&self.lookup);
            Dialer::new(&self.config, lookup).map(Arc::new)
        });
        dialer.as_ref().map(Arc::clone).map_err(EgressError::clone)
    }

    fn rule(&self, purpose: Purpose) -> Rule {
        self.config.rules.get(&purpose).cloned().unwrap_or_default()
    }
}
