//! How others reach the node: proxies, scopes, and what has to be settled before a log is opened off loopback.

use countersign_egress::Network;
use toml::Spanned;

use super::{Config, ConfigError, Source, is_loopback};

/// Which header of trusted proxies says where a request comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForwardedHeader {
    /// `X-Forwarded-For`.
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Forwarded,
}

/// The proxies whose word counts.
#[derive(Debug, Clone)]
pub struct ProxySettings {
    /// Where they are.
    pub networks: Vec<Network>,
    /// What they say it with.
    pub header: ForwardedHeader,
}

pub(super) fn proxies(
    networks: Option<Spanned<Vec<String>>>,
    header: Option<Spanned<String>>,
    source: &Source,
) -> Result<ProxySettings, ConfigError> {
    let networks = match networks {
        None => Vec::new(),
        Some(list) => {
            let all = list.get_ref().iter().map(|text| text.parse::<Network>());
            all.collect::<Result<_, _>>().map_err(|error| source.complain(&list, error.to_string()))?
        }
    };
    let header = match header.as_ref().map(|text| (text, text.get_ref().to_ascii_lowercase())) {
        None => ForwardedHeader::XForwardedFor,
        Some((_, name)) if name == "x-forwarded-for" => ForwardedHeader::XForwardedFor,
        Some((_, name)) if name == "forwarded" => ForwardedHeader::Forwarded,
        Some((text, name)) => {
            let message = format!("forwarded_header is x-forwarded-for or forwarded, not {name:?}");
            return Err(source.complain(text, message));
        }
    };
    Ok(ProxySettings { networks, header })
}

/// Scopes as RFC 6749, section 3.3 has them.
pub(super) fn scopes(given: Option<Spanned<Vec<String>>>, source: &Source) -> Result<Vec<String>, ConfigError> {
    let Some(list) = given else { return Ok(Vec::new()) };
    let good = |scope: &String| {
        (1..=128).contains(&scope.len()) && scope.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\'))
    };
    match list.get_ref().iter().find(|scope| !good(scope)) {
        Some(bad) => Err(source.complain(&list, format!("{bad:?} is not a scope"))),
        None if list.get_ref().len() > 50 => Err(source.complain(&list, "at most 50 scopes".to_owned())),
        None => Ok(list.into_inner()),
    }
}

/// What others will rely on and cannot be changed quietly later: each sentence says what is open and how to settle it. Nothing on
/// loopback.
pub fn unsettled(config: &Config) -> Vec<String> {
    let mut open = Vec::new();
    if is_loopback(&config.listen) {
        return open;
    }
    if config.public_url.is_none() {
        open.push("public_url is not set: tokens, metadata and links name the node by it".to_owned());
    }
    if config.tls.is_none() && config.proxies.networks.is_empty() {
        let what = "neither [tls] nor trusted_proxies is set: tokens would travel in the clear";
        open.push(format!("{what}; give a certificate, or name the proxies that have one"));
    }
    open
}
