//! Image references: `registry[:port]/repo/name[:tag][@sha256:…]`.
//!
//! The grammar is that of the distribution specification ("Pulling manifests") with the short names that people know from Docker:
//! without a registry it is `docker.io`, and a single name there lies in `library`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use countersign_egress::is_public;
use countersign_proof::digest::Digest;
use url::{Host as UrlHost, Url};

/// The longest text that is looked at.
const MAX_TEXT: usize = 512;
/// Registry and repository together, as registries limit them.
const MAX_NAME: usize = 255;
const MAX_TAG: usize = 128;
const DOCKER_HUB: &str = "docker.io";
/// Where the API of `docker.io` is.
const DOCKER_HUB_API: &str = "registry-1.docker.io";

/// A text is no image reference, or no registry's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} names no image in a registry: {why}")]
pub struct ReferenceError {
    text: String,
    why: &'static str,
}

/// A registry's name and port, in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Host(String);

/// Which image, where.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    host: Host,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// The registry.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The repository's name within the registry.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag, if one is named.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if one is named.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The same repository's image of this digest, without a tag.
    pub fn at(&self, digest: Digest) -> Self {
        let (host, repository) = (self.host.clone(), self.repository.clone());
        Self { host, repository, tag: None, digest: Some(digest) }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        self.digest.iter().try_for_each(|digest| write!(f, "@{digest}"))
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let refuse = |why| ReferenceError { text: text.chars().take(MAX_TEXT).collect(), why };
        if text.len() > MAX_TEXT {
            return Err(refuse("it is too long"));
        }
        if text.contains("://") {
            return Err(refuse("leave the scheme out"));
        }
        let (named, digest) = match text.split_once('@') {
            Some((named, digest)) => {
                let digest = digest.parse().map_err(|_| refuse("a digest is sha256: and 64 hexadecimal digits"))?;
                (named, Some(digest))
            }
            None => (text, None),
        };
        // A colon before the last slash is that of a port.
        let slash = named.rfind('/').map_or(0, |at| at + 1);
        let (name, tag) = match named[slash..].split_once(':') {
            Some((_, tag)) => (&named[..named.len() - tag.len() - 1], Some(tag)),
            None => (named, None),
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(refuse("a tag has 1 to 128 of A-Z, a-z, 0-9, _, ., - and begins with none of the last two"));
        }
        let (host, path) = match name.split_once('/') {
            Some((first, path)) if names_a_registry(first) => (host(first).map_err(refuse)?, path.to_owned()),
            _ => (Host(DOCKER_HUB.to_owned()), name.to_owned()),
        };
        let repository = if host.0 == DOCKER_HUB && !path.contains('/') { format!("library/{path}") } else { path };
        if !repository.split('/').all(is_component) {
            return Err(refuse("a repository has names of a-z, 0-9 and single separators (., _, __, -), joined by /"));
        }
        if host.0.len() + 1 + repository.len() > MAX_NAME {
            return Err(refuse("registry and repository have at most 255 characters together"));
        }
        Ok(Self { host, repository, tag: tag.map(str::to_owned), digest })
    }
}

impl Host {
    /// As in URLs of its API.
    pub(crate) fn api(&self) -> &str {
        if self.0 == DOCKER_HUB { DOCKER_HUB_API } else { &self.0 }
    }

    /// Whether it is this machine by its name.
    pub(crate) fn is_loopback(&self) -> bool {
        let url = Url::parse(&format!("http://{}/", self.0));
        match url.as_ref().ok().and_then(Url::host) {
            Some(UrlHost::Domain(name)) => is_localhost(name),
            Some(UrlHost::Ipv4(address)) => address.is_loopback(),
            Some(UrlHost::Ipv6(address)) => address.to_canonical().is_loopback(),
            None => false,
        }
    }
}

/// Whether a URL says itself that it leads to this machine or into a network that is not public. Names are looked at when they are
/// resolved.
pub(crate) fn leads_inside(url: &Url) -> bool {
    match url.host() {
        Some(UrlHost::Domain(name)) => is_localhost(name),
        Some(UrlHost::Ipv4(address)) => !is_public(IpAddr::V4(address)),
        Some(UrlHost::Ipv6(address)) => !is_public(IpAddr::V6(address)),
        None => true,
    }
}

/// RFC 6761, section 6.3.
fn is_localhost(name: &str) -> bool {
    let name = name.trim_end_matches('.');
    name == "localhost" || name.ends_with(".localhost")
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Host {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        host(text).map_err(|why| ReferenceError { text: text.chars().take(MAX_TEXT).collect(), why })
    }
}

fn host(text: &str) -> Result<Host, &'static str> {
    const WHY: &str = "a registry is a host name or an address, with a port or without";
    let text = text.to_ascii_lowercase();
    // What a URL makes of it is what will be connected to; other spellings (`0x7f.1`) are not taken.
    let url = Url::parse(&format!("https://{text}/")).map_err(|_| WHY)?;
    let (Some(host), "/") = (url.host_str(), url.path()) else { return Err(WHY) };
    let port = match text.strip_prefix(host).ok_or(WHY)? {
        "" => None,
        rest => Some(rest.strip_prefix(':').ok_or(WHY)?),
    };
    let is_port = |port: &str| port.parse::<u16>().is_ok_and(|number| number > 0 && number.to_string() == port);
    let is_label = |label: &str| {
        let bytes = label.as_bytes();
        let ends = [bytes.first(), bytes.last()];
        ends.iter().all(|end| end.is_some_and(u8::is_ascii_alphanumeric))
            && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
    };
    if port.is_some_and(|port| !is_port(port)) || !(host.starts_with('[') || host.split('.').all(is_label)) {
        return Err(WHY);
    }
    Ok(Host(if text == "index.docker.io" { DOCKER_HUB.to_owned() } else { text }))
}

/// What tells `localhost/x` and `example.com/x` from a repository of Docker's. A capital letter alone does not, as it does in Docker's
/// own grammar: the name in lower case would be a repository.
fn names_a_registry(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':'])
}

fn is_component(text: &str) -> bool {
    let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let separators = text.split(is_word).filter(|between| !between.is_empty());
    let single = |between: &str| matches!(between, "." | "_" | "__") || between.bytes().all(|byte| byte == b'-');
    text.starts_with(is_word) && text.ends_with(is_word) && separators.into_iter().all(single)
}

pub(crate) fn is_tag(text: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let mut bytes = text.bytes();
    text.len() <= MAX_TAG
        && bytes.next().is_some_and(is_word)
        && bytes.all(|byte| is_word(byte) || byte == b'.' || byte == b'-')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DIGEST: &str = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";

    #[test]
    fn references_mean_what_people_expect() {
        for (text, expected) in [
            ("ubuntu", "docker.io/library/ubuntu"),
            ("ubuntu:24.04", "docker.io/library/ubuntu:24.04"),
            ("docker.io/ubuntu", "docker.io/library/ubuntu"),
            ("index.docker.io/ubuntu", "docker.io/library/ubuntu"),
            ("grafana/grafana:11.0.0", "docker.io/grafana/grafana:11.0.0"),
            ("localhost:5000", "docker.io/library/localhost:5000"),
            ("localhost/app", "localhost/app"),
            ("localhost:5000/app:v1", "localhost:5000/app:v1"),
            ("127.0.0.1:5000/a/b/c", "127.0.0.1:5000/a/b/c"),
            ("[::1]:5000/app", "[::1]:5000/app"),
            ("Example.COM/app:V1", "example.com/app:V1"),
            ("ghcr.io/a-b/c__d.e---f", "ghcr.io/a-b/c__d.e---f"),
            ("example.com:443/app:_x.y-z", "example.com:443/app:_x.y-z"),
        ] {
            for suffix in [String::new(), format!("@{DIGEST}")] {
                let parsed = format!("{text}{suffix}").parse::<Reference>().map(|r| r.to_string());
                assert_eq!(parsed, Ok(format!("{expected}{suffix}")), "{text}");
            }
        }
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        let long = format!("example.com/{}", "a".repeat(255));
        let tag = format!("a:{}", "t".repeat(129));
        for text in [
            "",
            "/",
            "a/",
            "/a",
            "a//b",
            "a:",
            "a:-x",
            "a:x y",
            "a@",
            "a@sha256:12",
            "a@sha512:00",
            "a b",
            "a/../b",
            "example.com/../x",
            "example.com/%2e%2e/x",
            "example.com/A",
            "Registry/a",
            "LOCALHOST/a",
            "a_-b",
            "a...b",
            "a___b",
            "-a",
            "a-",
            "a/b?x=y",
            "a/b#c",
            "https://example.com/a",
            "example.com:0/a",
            "example.com:65536/a",
            "example.com:05/a",
            "example.com:/a",
            "user@example.com/a",
            "user:pw@example.com/a",
            "-x.example.com/a",
            "example.com./a",
            "0x7f.1/a",
            "2130706433:80/a",
            "127.1/a",
            "[::ffff:127.0.0.1]/a",
            "[::1/a",
            "exämple.com/a",
            &long,
            &tag,
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text}: {:?}", text.parse::<Reference>());
        }
    }

    #[test]
    fn hosts_on_this_machine_are_known() {
        for (text, loopback) in [
            ("localhost", true),
            ("a.localhost:5000", true),
            ("127.0.0.1:5000", true),
            ("127.9.9.9", true),
            ("[::1]:5000", true),
            ("10.0.0.1", false),
            ("localhost.example.com", false),
            ("docker.io", false),
        ] {
            assert_eq!(text.parse::<Host>().expect("a host").is_loopback(), loopback, "{text}");
        }
    }

    proptest! {
        #[test]
        fn the_written_form_means_the_same(text in "[a-zA-Z0-9:@/._\\[\\]-]{0,60}") {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert_eq!(reference.to_string().parse::<Reference>(), Ok(reference));
            }
        }
    }
}
