//! Where a request comes from: the connection's other end, or, behind proxies that are trusted, whom they say.
//!
//! A header about the client's address is believed only as far as trusted proxies wrote it: from the right, up to the first
//! address that is none of theirs. One header is read, the one that is configured, since a proxy that sets one of them may well
//! pass on the other as the client sent it.

use std::net::IpAddr;

use http::HeaderMap;
use http::header::{FORWARDED, HeaderName};

use crate::config::{ForwardedHeader, ProxySettings};
use crate::tls::ClientCertificate;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// The most proxies on the way.
const MAX_HOPS: usize = 20;

/// The other end of a connection.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    /// Its address.
    pub address: IpAddr,
    /// The certificate that it proved.
    pub certificate: Option<ClientCertificate>,
}

impl ProxySettings {
    /// Where the request comes from, as far as it can be believed.
    pub(crate) fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let trusted = |address: IpAddr| self.networks.iter().any(|network| network.contains(address));
        let mut client = peer;
        for hop in self.hops(headers).into_iter().rev().take(MAX_HOPS) {
            // What an untrusted party says about who came before it is worth nothing.
            if !trusted(client) {
                break;
            }
            match hop {
                Some(address) => client = address,
                // What cannot be read says nothing about anyone before it either.
                None => break,
            }
        }
        client.to_canonical()
    }

    /// The addresses that the header names, the client's first.
    fn hops(&self, headers: &HeaderMap) -> Vec<Option<IpAddr>> {
        let name = match self.header {
            ForwardedHeader::XForwardedFor => X_FORWARDED_FOR,
            ForwardedHeader::Forwarded => FORWARDED,
        };
        let lines = headers.get_all(name);
        let texts = lines.iter().flat_map(|line| line.to_str().unwrap_or("?").split(','));
        texts
            .map(|text| match self.header {
                ForwardedHeader::XForwardedFor => address(text),
                ForwardedHeader::Forwarded => text.split(';').find_map(|pair| {
                    let (key, value) = pair.split_once('=')?;
                    key.trim().eq_ignore_ascii_case("for").then(|| address(value))?
                }),
            })
            .collect()
    }
}

/// `192.0.2.7`, `192.0.2.7:80`, `2001:db8::1`, `[2001:db8::1]:80`, in quotes or not.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim().trim_matches('"');
    let bare = text.strip_prefix('[').and_then(|rest| rest.split_once(']')).map(|(inside, _)| inside);
    let without_port = || text.rsplit_once(':').map(|(host, _)| host);
    bare.unwrap_or(text).parse().ok().or_else(|| without_port()?.parse::<std::net::Ipv4Addr>().ok().map(IpAddr::V4))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(header: ForwardedHeader, peer: &str, headers: &[(&'static str, &'static str)]) -> String {
        let networks = vec!["10.0.0.0/8".parse().expect("a network"), "::1".parse().expect("a network")];
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, http::HeaderValue::from_static(value));
        }
        ProxySettings { networks, header }.client(peer.parse().expect("an address"), &map).to_string()
    }

    #[test]
    fn only_trusted_proxies_are_believed_and_only_as_far_as_they_go() {
        let x = |peer, lines: &[&'static str]| {
            let headers: Vec<_> = lines.iter().map(|line| ("x-forwarded-for", *line)).collect();
            client(ForwardedHeader::XForwardedFor, peer, &headers)
        };
        assert_eq!(x("203.0.113.9", &["10.1.1.1"]), "203.0.113.9", "a stranger says anything");
        assert_eq!(x("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(x("10.0.0.1", &["198.51.100.7"]), "198.51.100.7");
        assert_eq!(x("10.0.0.1", &["127.0.0.1, 198.51.100.7, 10.0.0.2"]), "198.51.100.7", "what it says is its own");
        assert_eq!(x("10.0.0.1", &["127.0.0.1", "198.51.100.7"]), "198.51.100.7", "several lines are one list");
        assert_eq!(x("10.0.0.1", &["198.51.100.7, unknown"]), "10.0.0.1", "nobody knows who wrote the rest");
        assert_eq!(x("10.0.0.1", &["10.0.0.3, 10.0.0.2"]), "10.0.0.3");
        assert_eq!(x("::ffff:10.0.0.1", &["[2001:db8::1]:443"]), "2001:db8::1");
        assert_eq!(x("::1", &["198.51.100.7:1234"]), "198.51.100.7");
    }

    #[test]
    fn one_header_is_read_and_not_the_other() {
        let both =
            [("x-forwarded-for", "192.0.2.1"), ("forwarded", "for=192.0.2.2;proto=https, For=\"[2001:db8::2]:1\"")];
        assert_eq!(client(ForwardedHeader::XForwardedFor, "10.0.0.1", &both), "192.0.2.1");
        assert_eq!(client(ForwardedHeader::Forwarded, "10.0.0.1", &both), "2001:db8::2");
        assert_eq!(client(ForwardedHeader::Forwarded, "10.0.0.1", &[("forwarded", "for=_hidden")]), "10.0.0.1");
        assert_eq!(client(ForwardedHeader::Forwarded, "10.0.0.1", &[("forwarded", "proto=https")]), "10.0.0.1");
    }
}
