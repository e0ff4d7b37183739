//! What surrounds the node: the environment that manifests need, the token that commands use, the clock that files were written
//! by, and ways to an upstream that do not lead through the gate.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign_catalog::{Manifest, Transport};
use countersign_server::Config;
use serde_json::Value;

use super::{Finding, fail, ok, warn};
use crate::cli::Global;
use crate::output;

/// Files may be this much younger than the clock says it is.
const SKEW: Duration = Duration::from_secs(60);

/// Everything that is looked at here.
pub fn findings(global: &Global, config: &Config) -> Vec<Finding> {
    // Manifests that do not load are another check's finding.
    let manifests = countersign_catalog::manifest::load_dir(&config.manifests).unwrap_or_default();
    let mut findings = vec![environment(&manifests)];
    findings.extend(written_later(config));
    findings.extend(global.token.as_deref().map(|token| check_token(token, config)));
    findings.extend(manifests.iter().filter_map(way_around));
    findings
}

/// The node reads them when it starts; a service may have others than this shell.
fn environment(manifests: &[Manifest]) -> Finding {
    let mut missing = Vec::new();
    for manifest in manifests {
        let texts = match &manifest.transport {
            Transport::Stdio(stdio) => &stdio.env,
            Transport::Http(http) => &http.headers,
            Transport::Rest(rest) => &rest.headers,
            Transport::BuiltIn => continue,
        };
        let unset = |name: &&str| std::env::var_os(name).is_none();
        let names = texts.values().flat_map(|text| text.variables()).filter(unset);
        missing.extend(names.map(|name| format!("{name} (for {})", manifest.upstream)));
    }
    if missing.is_empty() {
        return ok("environment", "every variable that manifests name is set");
    }
    let found = format!("not set here: {}", missing.join(", "));
    warn("environment", found, "set them where the node starts; without them it does not")
}

/// A receipt's times are the clock's claims: they must not run backwards.
fn written_later(config: &Config) -> Option<Finding> {
    let files = [config.data_dir.join("countersign.db"), config.head_file.clone()];
    let newest = files.iter().filter_map(|file| std::fs::metadata(file).ok()?.modified().ok()).max()?;
    let ahead = newest.duration_since(SystemTime::now()).ok().filter(|ahead| *ahead > SKEW)?;
    let found = format!("the database was written {} s in the future: the clock went back", ahead.as_secs());
    Some(fail("clock", found, "set the clock before the node starts; run chrony or systemd-timesyncd"))
}

/// Looks into a token without verifying it: that is the node's part.
fn check_token(token: &str, config: &Config) -> Finding {
    let mut parts = token.split('.');
    let payload = match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(_), Some(payload), Some(_), None) => URL_SAFE_NO_PAD.decode(payload).ok(),
        _ => return ok("token", "not a JWT: an API key"),
    };
    let claims: Option<Value> = payload.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let Some(claims) = claims else {
        return fail("token", "looks like a JWT and cannot be read", "give the whole token, on one line");
    };
    let expires = claims["exp"].as_i64().unwrap_or(0).saturating_mul(1000);
    if expires <= output::now_ms() {
        let found = format!("expired {}", output::utc(expires));
        return fail("token", found, "get a new one; for development: countersign token mint");
    }
    let audiences: Vec<&str> = match &claims["aud"] {
        Value::String(one) => vec![one],
        many => many.as_array().into_iter().flatten().filter_map(Value::as_str).collect(),
    };
    let issuer = claims["iss"].as_str().unwrap_or_default();
    let own = config.issuers.iter().find(|known| known.issuer == issuer);
    let wanted: Vec<&String> = own.map_or_else(|| vec![&config.audience], |known| known.audiences.iter().collect());
    if !wanted.iter().any(|wanted| audiences.contains(&wanted.as_str())) {
        let found = format!(
            "is for {}, and this node is {}",
            audiences.join(", "),
            wanted.iter().map(|w| w.as_str()).collect::<Vec<_>>().join(", ")
        );
        return fail("token", found, "ask the issuer for this audience, or set `audience` to the one it gives");
    }
    ok("token", format!("for {}, until {}", audiences.join(", "), output::utc(expires)))
}

/// An upstream on this machine that listens where others reach it can be used without the gate.
fn way_around(manifest: &Manifest) -> Option<Finding> {
    let url = match &manifest.transport {
        Transport::Stdio(_) | Transport::BuiltIn => return None,
        Transport::Http(http) => &http.url,
        Transport::Rest(rest) => &rest.url,
    };
    let local = match url.host()? {
        url::Host::Domain(name) => name == "localhost",
        url::Host::Ipv4(address) => address.is_loopback(),
        url::Host::Ipv6(address) => address.is_loopback(),
    };
    let name = &manifest.upstream;
    if !local {
        let found = format!("{name} is at {}; whether others reach it there cannot be told from here", url.host_str()?);
        return Some(ok("way around", found));
    }
    let port = url.port_or_known_default()?;
    let open = listening().into_iter().find(|(address, on)| *on == port && !address.is_loopback());
    Some(match open {
        None => ok("way around", format!("{name} listens on this machine alone")),
        Some((address, _)) => warn(
            "way around",
            format!("{name} listens on {address} port {port}: others can use it without the gate"),
            "let it listen on 127.0.0.1, or close the port to everyone but this node",
        ),
    })
}

/// Addresses and ports that something listens on, as Linux tells it; elsewhere none.
fn listening() -> Vec<(IpAddr, u16)> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let text = read("/proc/net/tcp") + &read("/proc/net/tcp6");
    text.lines().filter_map(listener).collect()
}

/// `  0: 0100007F:1F90 00000000:0000 0A …`: words of four bytes in the machine's order; 0A is LISTEN.
fn listener(line: &str) -> Option<(IpAddr, u16)> {
    const LISTEN: &str = "0A";
    let mut fields = line.split_whitespace().skip(1);
    let (address, port) = fields.next()?.split_once(':')?;
    if fields.nth(1)? != LISTEN {
        return None;
    }
    let word = |at: usize| u32::from_str_radix(address.get(at * 8..at * 8 + 8)?, 16).ok().map(u32::to_ne_bytes);
    let address = match address.len() {
        8 => Ipv4Addr::from(word(0)?).into(),
        32 => {
            let bytes = [word(0)?, word(1)?, word(2)?, word(3)?].concat();
            IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)).to_canonical()
        }
        _ => return None,
    };
    Some((address, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_are_read_as_linux_writes_them() {
        let line = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0";
        if cfg!(target_endian = "little") {
            assert_eq!(listener(line), Some((Ipv4Addr::LOCALHOST.into(), 8080)));
        }
        assert_eq!(listener(&line.replace(" 0A ", " 01 ")), None);
        assert_eq!(listener("  sl  local_address rem_address   st"), None);
        let any = "   1: 00000000000000000000000000000000:0050 00000000000000000000000000000000:0000 0A 0";
        assert_eq!(listener(any), Some((Ipv6Addr::UNSPECIFIED.into(), 80)));
    }
}
