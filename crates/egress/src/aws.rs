//! What services in AWS's manner share, whoever speaks to them: credentials, signatures, which endpoints may be spoken to.
//!
//! [`sigv4`] is pure. Where credentials are kept is their reader's business.

pub mod sigv4;

use std::fmt;

use url::{Host, Url};
use zeroize::Zeroizing;

/// An access key.
#[derive(Clone)]
pub struct Credentials {
    /// Its identifier, which is no secret.
    pub access_key_id: String,
    /// Its secret.
    pub secret_access_key: Zeroizing<String>,
    /// The token of temporary credentials.
    pub session_token: Option<Zeroizing<String>>,
}

impl Credentials {
    /// Whether a text that came from outside has any of their secrets in it.
    pub fn are_in(&self, text: &str) -> bool {
        let secrets = [Some(&self.secret_access_key), self.session_token.as_ref()];
        secrets.into_iter().flatten().any(|secret| text.contains(secret.as_str()))
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("access_key_id", &self.access_key_id).finish_non_exhaustive()
    }
}

/// An endpoint is an origin; what goes there is secret off this machine.
///
/// # Errors
/// In words that go on after "the endpoint".
pub fn check_endpoint(url: &Url) -> Result<(), &'static str> {
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return Err("must have neither path nor query");
    }
    let local = match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    };
    if url.scheme() != "https" && !(local && url.scheme() == "http") {
        return Err("must be https, unless it is on this machine");
    }
    Ok(())
}

/// A region's name, such as `eu-central-1`.
pub fn is_region(text: &str) -> bool {
    (1..=32).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// What public host names of a region end with.
pub fn domain_of(region: &str) -> &'static str {
    if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_https_or_here() {
        for good in
            ["https://kms.eu-central-1.amazonaws.com", "https://vpce-1.kms.example:8443/", "http://127.0.0.1:1/"]
        {
            assert_eq!(check_endpoint(&good.parse().expect("a URL")), Ok(()), "{good}");
        }
        for bad in ["http://kms.example/", "https://kms.example/a", "https://kms.example/?a", "ftp://127.0.0.1/"] {
            assert!(check_endpoint(&bad.parse().expect("a URL")).is_err(), "{bad}");
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        let token = Some(Zeroizing::new("t0k3n".to_owned()));
        let secret_access_key = Zeroizing::new("s3cr3t".to_owned());
        let credentials = Credentials { access_key_id: "AKIA".to_owned(), secret_access_key, session_token: token };
        assert!(credentials.are_in("you sent s3cr3t") && credentials.are_in("t0k3n") && !credentials.are_in("AKIA"));
        let shown = format!("{credentials:?}");
        assert!(shown.contains("AKIA") && !credentials.are_in(&shown), "{shown}");
    }
}
