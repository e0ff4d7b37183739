//! What a purpose may reach: origins, host names, networks; and which addresses are public.
//!
//! Addresses follow the IANA special-purpose registries (RFC 6890, RFC 8190).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use url::{Host, Url};

/// What a purpose may reach. Empty: nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rule {
    /// Exact origins, `http` or `https`. A literal address or `localhost` in one is thereby allowed.
    pub origins: Vec<Origin>,
    /// Host names, over `https` on port 443 only.
    pub hosts: Vec<HostPattern>,
    /// Networks that are not public and yet may be connected to, wherever an allowed name resolves to them.
    pub networks: Vec<Network>,
}

/// A text in a rule that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {expected}")]
pub struct RuleError {
    text: String,
    expected: &'static str,
}

impl Rule {
    /// Whether a URL may be requested at all, before its name is resolved; if so, its origin.
    ///
    /// # Errors
    /// The reason, in words.
    pub(crate) fn check_url(&self, url: &Url) -> Result<Origin, String> {
        let origin = Origin::of(url).map_err(|e| e.to_string())?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err("the URL holds credentials".to_owned());
        }
        if self.origins.contains(&origin) {
            return Ok(origin);
        }
        let by_name = origin.https && origin.port == 443 && self.hosts.iter().any(|p| p.matches(&origin.host));
        if !by_name {
            return Err(format!("{origin} is not on the allow-list"));
        }
        match origin.host.parse::<IpAddr>() {
            Ok(address) if !self.allows_address(&origin.host, address) => Err(not_public(&origin.host, address)),
            _ => Ok(origin),
        }
    }

    /// Whether a name of an allowed URL may lead to this address.
    pub(crate) fn allows_address(&self, host: &str, address: IpAddr) -> bool {
        is_public(address)
            || self.networks.iter().any(|network| network.contains(address))
            || (address.is_loopback() && is_localhost(host) && self.origins.iter().any(|o| o.host == host))
    }
}

/// Says what to do about it.
pub(crate) fn not_public(host: &str, address: IpAddr) -> String {
    format!(
        "{host} leads to {address}, which is not a public address; list its network for this purpose if that is meant"
    )
}

/// For the fuzz targets: a rule of names without networks leads to public addresses only, however they are written.
#[cfg(fuzzing)]
pub fn fuzz(url: &Url) {
    let Ok(names) = "*.example.com".parse() else { return };
    let rule = Rule { hosts: vec![names], ..Rule::default() };
    if rule.check_url(url).is_ok() {
        assert!(url.scheme() == "https" && url.port_or_known_default() == Some(443) && url.username().is_empty());
        let host = url.host_str().unwrap_or_default().trim_end_matches('.').to_ascii_lowercase();
        assert!(host.ends_with(".example.com") && url.password().is_none());
    }
    if let Ok(origin) = Origin::of(url) {
        assert_eq!(origin.to_string().parse().as_ref(), Ok(&origin));
        assert!(Rule { origins: vec![origin], ..Rule::default() }.check_url(url).is_ok() == has_no_credentials(url));
    }
}

#[cfg(fuzzing)]
fn has_no_credentials(url: &Url) -> bool {
    url.username().is_empty() && url.password().is_none()
}

/// RFC 6761 section 6.3: these names always mean the loopback.
pub(crate) fn is_localhost(host: &str) -> bool {
    host == "localhost" || host.ends_with(".localhost")
}

/// A scheme, a host and a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Origin {
    https: bool,
    /// Lower case; IPv6 without brackets.
    host: String,
    port: u16,
}

impl Origin {
    /// The origin of a URL.
    ///
    /// # Errors
    /// If the URL is not `http` or `https`, or has no host.
    pub fn of(url: &Url) -> Result<Self, RuleError> {
        let refuse = || RuleError { text: url.scheme().to_owned(), expected: "http or https with a host" };
        let https = match url.scheme() {
            "https" => true,
            "http" => false,
            _ => return Err(refuse()),
        };
        // The URL parser has already brought odd spellings of addresses (`0x7f.1`, `2130706433`) into one form.
        let host = match url.host().ok_or_else(refuse)? {
            Host::Domain(name) => name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase(),
            Host::Ipv4(address) => address.to_string(),
            Host::Ipv6(address) => address.to_string(),
        };
        // `http://./` names nothing, and `http://x.6../` what no URL without the dots could.
        if host.is_empty() || host.ends_with('.') {
            return Err(refuse());
        }
        Ok(Self { https, host, port: url.port_or_known_default().ok_or_else(refuse)? })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.https { "https" } else { "http" };
        match self.host.parse::<Ipv6Addr>() {
            Ok(address) => write!(f, "{scheme}://[{address}]:{}", self.port),
            Err(_) => write!(f, "{scheme}://{}:{}", self.host, self.port),
        }
    }
}

impl FromStr for Origin {
    type Err = RuleError;
    fn from_str(text: &str) -> Result<Self, RuleError> {
        let refuse = || RuleError { text: text.to_owned(), expected: "an origin like https://host:port" };
        let url = Url::parse(text).map_err(|_| refuse())?;
        if url.path() != "/" || url.query().is_some() || url.fragment().is_some() || !url.username().is_empty() {
            return Err(refuse());
        }
        Self::of(&url)
    }
}

/// A host name, or every name beneath one (`*.example.com`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPattern {
    name: String,
    beneath: bool,
}

impl HostPattern {
    fn matches(&self, host: &str) -> bool {
        match host.strip_suffix(&self.name) {
            Some("") => !self.beneath,
            Some(rest) => self.beneath && rest.len() > 1 && rest.ends_with('.'),
            None => false,
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.beneath { "*." } else { "" }, self.name)
    }
}

impl FromStr for HostPattern {
    type Err = RuleError;
    fn from_str(text: &str) -> Result<Self, RuleError> {
        let (beneath, name) = match text.strip_prefix("*.") {
            Some(name) => (true, name),
            None => (false, text),
        };
        let refuse = || RuleError { text: text.to_owned(), expected: "a host name like example.com or *.example.com" };
        let labels = |name: &str| {
            name.split('.').all(|l| !l.is_empty() && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'))
        };
        if !labels(name) || (beneath && !name.contains('.')) {
            return Err(refuse());
        }
        Ok(Self { name: name.to_ascii_lowercase(), beneath })
    }
}

/// A range of addresses: `10.0.0.0/8`, `fd00::/8`, or a single address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    /// Whether the address lies in the network. An IPv4 address mapped into IPv6 counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.bits)).unwrap_or(0);
                (a.to_bits() ^ b.to_bits()) & mask == 0
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.bits)).unwrap_or(0);
                (a.to_bits() ^ b.to_bits()) & mask == 0
            }
            _ => false,
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

impl FromStr for Network {
    type Err = RuleError;
    fn from_str(text: &str) -> Result<Self, RuleError> {
        let refuse = || RuleError { text: text.to_owned(), expected: "a network like 10.0.0.0/8" };
        let (address, bits) = text.split_once('/').map_or((text, None), |(a, b)| (a, Some(b)));
        let address: IpAddr = address.parse().map_err(|_| refuse())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(most), |b| b.parse().map_err(|_| refuse()))?;
        if bits > most { Err(refuse()) } else { Ok(Self { address, bits }) }
    }
}

macro_rules! as_text {
    ($($type:ty),*) => {$(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
                out.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
                String::deserialize(input)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}
as_text!(Origin, HostPattern, Network);

/// Whether an address is one of the public Internet's. Everything special is not: private, loopback, link-local (where clouds
/// serve credentials), shared, documentation, multicast, and ranges that embed an IPv4 address.
pub fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    !matches!(
        (a, b, c),
        (0 | 10 | 127 | 224..=255, _, _)
            | (100, 64..=127, _)
            | (169, 254, _)
            | (172, 16..=31, _)
            | (192, 0, 0 | 2)
            | (192, 88, 99)
            | (192, 168, _)
            | (198, 18 | 19, _)
            | (198, 51, 100)
            | (203, 0, 113)
    )
}

/// Global unicast is 2000::/3; within it, 2001::/23 (Teredo and others), 2001:db8::/32, 2002::/16 (6to4) and 3fff::/20 are special.
fn is_public_v6(address: Ipv6Addr) -> bool {
    let [a, b, ..] = address.segments();
    let special = matches!((a, b), (0x2001, 0..=0x01ff | 0x0db8) | (0x2002, _) | (0x3fff, 0..=0x0fff));
    a & 0xe000 == 0x2000 && !special
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn special_addresses_are_not_public() {
        for text in
            ["1.1.1.1", "9.255.255.255", "100.63.0.1", "172.32.0.1", "198.20.0.1", "2606:4700::1", "::ffff:1.1.1.1"]
        {
            assert!(is_public(address(text)), "{text}");
        }
        for text in [
            "0.0.0.0",
            "10.1.2.3",
            "127.0.0.1",
            "100.64.0.1",
            "100.100.100.200",
            "169.254.169.254",
            "172.16.0.1",
            "192.168.1.1",
            "192.0.0.192",
            "198.18.0.1",
            "203.0.113.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "fd00:ec2::254",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "2002:7f00:1::",
            "2001:db8::1",
            "ff02::1",
            "::7f00:1",
        ] {
            assert!(!is_public(address(text)), "{text}");
        }
    }

    #[test]
    fn networks_contain_what_they_should() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
            ("192.168.1.7", "192.168.1.7", "192.168.1.8"),
            ("0.0.0.0/0", "1.2.3.4", "::1"),
            ("fd00::/8", "fdff::1", "fe00::1"),
            ("127.0.0.0/8", "::ffff:127.0.0.1", "::1"),
        ] {
            let network: Network = network.parse().expect("a network");
            assert!(network.contains(address(inside)) && !network.contains(address(outside)), "{network}");
        }
        for wrong in ["10.0.0.0/33", "10.0.0/8", "x", "10.0.0.0/-1"] {
            assert!(wrong.parse::<Network>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn urls_are_held_against_the_rule() {
        let rule: Rule = Rule {
            origins: vec![
                "http://localhost:8080".parse().expect("an origin"),
                "http://127.0.0.1:9".parse().expect("an origin"),
            ],
            hosts: vec!["api.example.com".parse().expect("a name"), "*.example.org".parse().expect("a name")],
            networks: Vec::new(),
        };
        for (url, allowed) in [
            ("http://localhost:8080/mcp", true),
            ("http://LOCALHOST.:8080/mcp", true),
            ("http://localhost:8081/", false),
            ("https://localhost:8080/", false),
            ("https://api.example.com/x", true),
            ("http://api.example.com/x", false),
            ("https://api.example.com:8443/", false),
            ("https://a.b.example.org/", true),
            ("https://example.org/", false),
            ("https://evilexample.org/", false),
            ("https://u:p@api.example.com/", false),
            ("http://0x7f.1:9/", true),
            ("http://2130706433:9/", true),
            ("http://[::ffff:7f00:1]:9/", false),
            ("ftp://api.example.com/", false),
            ("file:///etc/passwd", false),
            ("http://./", false),
            ("http://localhost..:8080/mcp", false),
        ] {
            assert_eq!(rule.check_url(&Url::parse(url).expect("a URL")).is_ok(), allowed, "{url}");
        }
    }
}
