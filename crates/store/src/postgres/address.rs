//! The database's URL: what of it is ours to read, and what the driver reads.
//!
//! `sslmode`: `disable` is a plain connection; `require`, `verify-ca` and `verify-full` all mean `verify-full`. Without it,
//! loopback and Unix sockets are plain and everything else is `verify-full`. `sslrootcert` names a PEM file of roots.

use std::path::PathBuf;
use std::time::Duration;

use countersign_ledger::contract::StoreError;
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};
use url::Url;

use super::tls::Tls;

/// How long one attempt to connect may take.
pub(super) const CONNECT: Duration = Duration::from_secs(3);

/// Where the database is and how to talk to it.
#[derive(Clone)]
pub(super) struct Address {
    pub(super) config: Config,
    pub(super) tls: Tls,
}

impl Address {
    pub(super) fn parse(text: &str) -> Result<Self, StoreError> {
        // Never the URL itself in a message: it may hold a password.
        let wrong = |e: &dyn std::fmt::Display| StoreError::Database(format!("the database's URL: {e}"));
        let mut url = Url::parse(text).map_err(|e| wrong(&e))?;
        if !matches!(url.scheme(), "postgres" | "postgresql") {
            return Err(wrong(&"it must begin with postgres://"));
        }
        let (mut mode, mut roots, mut rest) = (None, None, Vec::new());
        for (name, value) in url.query_pairs() {
            match &*name {
                "sslmode" => mode = Some(value.into_owned()),
                "sslrootcert" => roots = Some(PathBuf::from(&*value)),
                _ => rest.push((name.into_owned(), value.into_owned())),
            }
        }
        url.set_query(None);
        let mut driver = url.to_string();
        for (n, (name, value)) in rest.iter().enumerate() {
            // The driver decodes %XX and takes "+" as it stands.
            let value: String = url::form_urlencoded::byte_serialize(value.as_bytes()).collect();
            driver.push_str(&format!("{}{name}={}", if n == 0 { '?' } else { '&' }, value.replace('+', "%20")));
        }
        let mut config: Config = driver.parse().map_err(|e| wrong(&e))?;
        let plain = match mode.as_deref() {
            None => config.get_hosts().iter().all(is_local),
            Some("disable") => true,
            Some("require" | "verify-ca" | "verify-full") => false,
            Some(other) => return Err(wrong(&format!("sslmode={other}: use disable or verify-full"))),
        };
        config
            .ssl_mode(if plain { SslMode::Disable } else { SslMode::Require })
            .connect_timeout(CONNECT)
            .tcp_user_timeout(Duration::from_secs(10))
            .keepalives_idle(Duration::from_secs(10))
            .keepalives_interval(Duration::from_secs(3))
            .keepalives_retries(3)
            // Of several hosts, the one that can be written to: a standby is passed over.
            .target_session_attrs(TargetSessionAttrs::ReadWrite);
        if config.get_application_name().is_none() {
            config.application_name("countersign");
        }
        let tls = if plain { Tls::none() } else { Tls::verifying(roots.as_deref())? };
        Ok(Self { config, tls })
    }
}

fn is_local(host: &Host) -> bool {
    match host {
        Host::Tcp(name) => {
            name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
        }
        Host::Unix(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(url: &str) -> Result<SslMode, String> {
        Address::parse(url).map(|a| a.config.get_ssl_mode()).map_err(|e| e.to_string())
    }

    #[test]
    fn only_loopback_is_plain_unless_it_is_asked_for() {
        for (url, expected) in [
            ("postgres://u:p@127.0.0.1:5/db", SslMode::Disable),
            ("postgres://u@localhost/db?options=-csearch_path%3Da%20b", SslMode::Disable),
            ("postgres://u@db.example/db", SslMode::Require),
            ("postgresql://u@db.example/db?sslmode=disable", SslMode::Disable),
            ("postgres://u@127.0.0.1,db.example/db", SslMode::Require),
            ("postgres://u@localhost/db?sslmode=require", SslMode::Require),
        ] {
            assert_eq!(mode(url), Ok(expected), "{url}");
        }
        let options = Address::parse("postgres://u@localhost/db?options=-csearch_path%3Da").map(|a| a.config);
        assert_eq!(options.expect("parsed").get_options(), Some("-csearch_path=a"));
        for url in ["postgres://u@h/db?sslmode=prefer", "mysql://u@h/db", "postgres://u:secret@h/db?sslrootcert=/none"]
        {
            let error = mode(url).expect_err("refused");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
