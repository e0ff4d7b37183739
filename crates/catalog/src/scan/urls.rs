//! Addresses in definitions: metadata services, obfuscated hosts, schemes that reach into the machine.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use url::{Host, Url};

use super::fields::{Field, Role};
use super::text::Text;
use super::{Found, Rule, Severity};

/// How much of an address is looked at; hosts have at most 253 characters.
const MAX_URL: usize = 512;
/// At most this many addresses of one field are looked at.
const MAX_URLS: usize = 2_000;
/// Schemes that no tool over the network has a use for.
const SCHEMES: &[&str] =
    &["gopher", "dict", "ldap", "ldaps", "tftp", "jar", "netdoc", "phar", "expect", "php", "smb", "view-source"];
/// Names of metadata services.
const METADATA: &[&str] =
    &["metadata.google.internal", "metadata.goog", "instance-data", "metadata.azure.internal", "metadata"];
/// Services that answer any address that is written into a name.
const REBINDERS: &[&str] = &[".nip.io", ".sslip.io", ".xip.io", ".localtest.me", ".lvh.me", ".rbndr.us"];

pub(super) fn check(field: &Field<'_>, text: &Text, found: &mut Found) {
    for (mark, separator) in text.folded.match_indices("://").take(MAX_URLS) {
        let from = mark + separator.len();
        let start = text.folded[..mark]
            .rfind(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.')))
            .map_or(0, |i| i + text.folded[i..].chars().next().map_or(1, char::len_utf8));
        let rest = window(&text.folded[from..], MAX_URL);
        let length = rest
            .find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '`' | '<' | '>' | '|' | ','))
            .unwrap_or(rest.len());
        let end = from + length;
        let address = text.folded[start..end].trim_end_matches(['.', ')', ';', ':']);
        let Some((severity, message)) = judge(address, &text.folded[start..mark]) else { continue };
        let at = text.word_at(start);
        let data = matches!(field.role, Role::Default | Role::Value | Role::Uri) && text.words.len() < 40;
        let spoken_of =
            !data && (text.words.get(at).is_some_and(|w| w.quoted) || text.is_denied(at) || text.is_refused(at));
        let severity = if spoken_of { Severity::Info } else { severity };
        found.push(Rule::Url, severity, field, text.original(start..start + address.len()), message);
    }
}

/// The first bytes of a text, at most so many.
pub(super) fn window(text: &str, most: usize) -> &str {
    let mut end = most.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

fn judge(address: &str, scheme: &str) -> Option<(Severity, &'static str)> {
    if SCHEMES.contains(&scheme) {
        return Some((Severity::High, "a scheme that reaches services that speak no HTTP"));
    }
    if scheme == "file" {
        let path = address.strip_prefix("file://").unwrap_or_default();
        let secret = ["/etc/", "/proc/", "/root", "/home", "/users/", "/var/run/", "/c:/", "/~", "~"]
            .iter()
            .any(|p| path.starts_with(p));
        return secret.then_some((Severity::High, "a file of the machine"));
    }
    let authority = address.split_once("://")?.1.split(['/', '?', '#', '\\']).next()?;
    if let Some((user, _)) = authority.rsplit_once('@') {
        let name = user.split(':').next().unwrap_or_default();
        if name.contains('.') && !name.contains(['{', '$']) {
            return Some((
                Severity::High,
                "what looks like the host is only a user name; the host stands behind the @",
            ));
        }
    }
    let written = authority.rsplit('@').next()?.trim_start_matches('[');
    match Url::parse(&format!("http://{authority}/")).ok()?.host()? {
        Host::Ipv4(ip) => {
            // Browsers and clients read decimal, octal and hexadecimal forms, and filters of text do not.
            let plain = written.split(':').next() == Some(&ip.to_string());
            let obfuscated = (!plain).then_some((Severity::High, "an address in a form that hides it"));
            judge_ip(IpAddr::V4(ip)).max_by_severity(obfuscated)
        }
        Host::Ipv6(ip) => judge_ip(IpAddr::V6(ip)),
        Host::Domain(name) => {
            let name = name.trim_end_matches('.');
            if METADATA.contains(&name) {
                Some((Severity::High, "a metadata service of a cloud"))
            } else if REBINDERS.iter().any(|suffix| name.ends_with(suffix)) {
                Some((Severity::Medium, "a name that stands for any address"))
            } else {
                None
            }
        }
    }
}

trait Worse {
    fn max_by_severity(self, other: Self) -> Self;
}

impl Worse for Option<(Severity, &'static str)> {
    fn max_by_severity(self, other: Self) -> Self {
        let severity = |judged: &Self| judged.map(|(s, _)| s);
        if severity(&other) > severity(&self) { other } else { self }
    }
}

fn judge_ip(ip: IpAddr) -> Option<(Severity, &'static str)> {
    let metadata = Some((Severity::High, "a metadata service of a cloud"));
    let near = Some((Severity::Low, "an address in the own machine or network"));
    match ip {
        IpAddr::V4(v4) => {
            if v4.is_link_local() || v4 == Ipv4Addr::new(100, 100, 100, 200) || v4 == Ipv4Addr::new(192, 0, 0, 192) {
                metadata
            } else if v4.is_private() || v4.is_loopback() || v4.is_unspecified() {
                near
            } else {
                None
            }
        }
        IpAddr::V6(v6) => {
            let embedded = v6.to_ipv4_mapped().or_else(|| nat64(v6));
            if let Some(v4) = embedded {
                return judge_ip(IpAddr::V4(v4))
                    .max_by_severity(Some((Severity::Medium, "an IPv4 address inside of an IPv6 one")));
            }
            if v6 == Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254) {
                metadata
            } else if v6.is_loopback() || v6.is_unspecified() || v6.is_unique_local() || v6.is_unicast_link_local() {
                near
            } else {
                None
            }
        }
    }
}

/// 64:ff9b::/96 (RFC 6052).
fn nat64(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let s = ip.segments();
    let bytes = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    (s[..6] == [0x64, 0xff9b, 0, 0, 0, 0]).then(|| bytes(s[6], s[7]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_judged_by_where_they_lead() {
        for (address, expected) in [
            ("http://169.254.169.254/latest", Some(Severity::High)),
            ("http://0xa9fea9fe/", Some(Severity::High)),
            ("http://2852039166/", Some(Severity::High)),
            ("http://0251.0376.0251.0376/", Some(Severity::High)),
            ("http://[::ffff:169.254.169.254]/", Some(Severity::High)),
            ("http://[fd00:ec2::254]/", Some(Severity::High)),
            ("http://metadata.google.internal/", Some(Severity::High)),
            ("http://127.0.0.1.nip.io/", Some(Severity::Medium)),
            ("https://known.example@203.0.113.1/", Some(Severity::High)),
            ("gopher://127.0.0.1:6379/", Some(Severity::High)),
            ("file:///etc/shadow", Some(Severity::High)),
            ("http://localhost:8080/", None),
            ("http://127.0.0.1:8080/", Some(Severity::Low)),
            ("https://example.com/2852039166", None),
            ("https://203.0.113.7/", None),
            ("postgres://user:password@db.example.com/x", None),
            ("https://example.com/@scope/name", None),
            ("file:///srv/docs/a.md", None),
        ] {
            let scheme = address.split("://").next().unwrap_or_default();
            assert_eq!(judge(address, scheme).map(|(severity, _)| severity), expected, "{address}");
        }
    }
}
