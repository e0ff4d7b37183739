//! DNS rebinding: a web page may make a browser send requests to a name that resolves to this machine.
//!
//! On loopback the `Host` header must be one of ours, and an `Origin` must be too wherever the node listens
//! (MCP 2026-07-28, Streamable HTTP, "Security & Endpoint").

use countersign_domain::{Refusal, RefusalKind};
use http::HeaderMap;
use http::header::{HOST, ORIGIN};

use crate::config::{Config, is_loopback};

/// The host names that requests may carry.
#[derive(Debug)]
pub(crate) struct HostGuard {
    hosts: Vec<String>,
    check_host: bool,
}

impl HostGuard {
    /// The names that this configuration implies: loopback names on loopback, the public URL's host, and those allowed.
    pub fn new(config: &Config) -> Self {
        let loopback = is_loopback(&config.listen);
        let mut hosts: Vec<String> = config.allowed_hosts.iter().map(|h| h.to_ascii_lowercase()).collect();
        if loopback {
            hosts.extend(["127.0.0.1", "localhost", "[::1]"].map(str::to_owned));
            // Any other address of 127.0.0.0/8 that the node may listen on.
            hosts.push(host_of(&config.listen.to_string()).to_owned());
        }
        let public = config.public_url.as_deref().and_then(|text| url::Url::parse(text).ok());
        hosts.extend(public.and_then(|url| url.host_str().map(str::to_owned)));
        // Off loopback, load balancers ask with names of their own; without a list of names there is nothing to compare.
        Self { check_host: loopback || !config.allowed_hosts.is_empty(), hosts }
    }

    /// Whether the request's names are ours.
    ///
    /// # Errors
    /// [`RefusalKind::Forbidden`].
    pub fn check(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        // Of two, this check and whoever else reads them might each believe another one.
        let twice = |name| headers.get_all(name).iter().count() > 1;
        if twice(HOST) || twice(ORIGIN) {
            let advice = "a request has one Host and at most one Origin";
            return Err(Refusal::new(RefusalKind::Forbidden, advice).with("cause", "host"));
        }
        if self.check_host && !headers.get(HOST).is_some_and(|host| self.knows(host.to_str().unwrap_or_default())) {
            let advice = "this Host is not one of the node's names; see allowed_hosts in docs/http.md";
            return Err(Refusal::new(RefusalKind::Forbidden, advice).with("cause", "host"));
        }
        match headers.get(ORIGIN) {
            None => Ok(()),
            Some(origin) if self.knows_origin(origin.to_str().unwrap_or_default()) => Ok(()),
            Some(_) => {
                let advice = "requests from this web origin are not accepted; see allowed_hosts in docs/http.md";
                Err(Refusal::new(RefusalKind::Forbidden, advice).with("cause", "origin"))
            }
        }
    }

    fn knows_origin(&self, origin: &str) -> bool {
        let rest = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        rest.is_some_and(|authority| self.knows(authority))
    }

    fn knows(&self, authority: &str) -> bool {
        let host = host_of(authority);
        !host.is_empty() && self.hosts.iter().any(|known| known.eq_ignore_ascii_case(host))
    }
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<u16>().is_ok()
}

/// The host of `host[:port]`; nothing if the port is not a number.
fn host_of(authority: &str) -> &str {
    let end = authority.rfind(']').map_or_else(|| authority.find(':'), |bracket| Some(bracket + 1));
    let (host, port) = authority.split_at(end.unwrap_or(authority.len()));
    let good = port.is_empty() || port.strip_prefix(':').is_some_and(|p| p.is_empty() || is_port(p));
    if good { host } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(text: &str) -> HostGuard {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("countersign.toml"), text).expect("written");
        let flags = crate::config::Overrides { home: Some(dir.path().to_owned()), ..Default::default() };
        HostGuard::new(&Config::load_with(&flags, &|_| None).expect("valid"))
    }

    fn check(guard: &HostGuard, host: Option<&'static str>, origin: Option<&'static str>) -> bool {
        let mut headers = HeaderMap::new();
        host.map(|h| headers.insert(HOST, http::HeaderValue::from_static(h)));
        origin.map(|o| headers.insert(ORIGIN, http::HeaderValue::from_static(o)));
        guard.check(&headers).is_ok()
    }

    #[test]
    fn on_loopback_only_our_names_pass() {
        let guard = guard("public_url = \"https://gate.example.org\"\n");
        for host in ["127.0.0.1:8000", "localhost", "LOCALHOST:1", "[::1]:8000", "gate.example.org"] {
            assert!(check(&guard, Some(host), None), "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example:80",
            "",
            "localhost:80@evil",
            "[::1",
            "localhost:8003000",
        ] {
            assert!(!check(&guard, Some(host), None), "{host}");
        }
        assert!(!check(&guard, None, None), "a request without Host");
        assert!(check(&guard, Some("localhost"), Some("http://localhost:3000")));
        for origin in ["http://evil.example", "null", "file://localhost", "http://localhost@evil.example"] {
            assert!(!check(&guard, Some("localhost"), Some(origin)), "{origin}");
        }
    }

    #[test]
    fn a_second_name_is_one_too_many() {
        let guard = guard("");
        for (name, first, second) in
            [(HOST, "localhost", "localhost"), (ORIGIN, "http://localhost", "http://evil.example")]
        {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, http::HeaderValue::from_static("localhost"));
            headers.insert(&name, http::HeaderValue::from_static(first));
            assert!(guard.check(&headers).is_ok());
            headers.append(&name, http::HeaderValue::from_static(second));
            assert!(guard.check(&headers).is_err(), "{name} twice");
        }
    }

    #[test]
    fn off_loopback_hosts_are_free_and_origins_are_not() {
        let idp = "[[issuers]]\nissuer = \"https://idp\"\njwks_file = \"j\"\n";
        let guard = guard(&format!(
            "listen = \"0.0.0.0:80\"\nlog_domain = \"l.example\"\npublic_url = \"https://g.example\"\n{idp}"
        ));
        assert!(check(&guard, Some("10.0.0.7"), None));
        assert!(check(&guard, Some("x"), Some("https://g.example")));
        assert!(!check(&guard, Some("x"), Some("https://evil.example")));
    }
}
