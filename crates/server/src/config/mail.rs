//! `[trust.mail]`: the server that takes the node's mail.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use countersign_egress::Network;
use countersign_trust::notify::mail::{MAX_RECIPIENTS, is_address};
use serde::Deserialize;
use toml::Spanned;

use super::{ConfigError, Source};

/// Longest username, in bytes: two of them, and a password, fit in one message of AUTH.
const MAX_USERNAME: usize = 255;

/// The server that takes mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MailSettings {
    /// Its name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How the connection is secured.
    pub tls: MailTls,
    /// Who sends.
    pub from: String,
    /// Who the node is there.
    pub login: Option<MailLogin>,
    /// Networks that are not public and into which the server's name may lead.
    pub networks: Vec<Network>,
}

/// How the connection to a mail server is secured. Nothing is sent over one that could not be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MailTls {
    /// By a command, before anything else is said (RFC 3207).
    StartTls,
    /// From the first byte on (RFC 8314, section 3.3).
    Implicit,
    /// Not at all; on this machine alone.
    None,
}

/// A username, and where its password is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MailLogin {
    /// The username.
    pub username: String,
    /// The file with the password, which not everybody can read.
    pub password_file: PathBuf,
}

/// As it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileMail {
    host: Spanned<String>,
    port: Option<Spanned<u16>>,
    tls: Option<Spanned<String>>,
    from: Spanned<String>,
    username: Option<Spanned<String>>,
    password_file: Option<PathBuf>,
    #[serde(default)]
    networks: Vec<Spanned<String>>,
}

pub(super) fn settings(file: FileMail, source: &Source, base: &Path) -> Result<MailSettings, ConfigError> {
    let host = file.host.get_ref().clone();
    if host.parse::<IpAddr>().is_err() && !super::is_hostname(&host) {
        return Err(source.complain(&file.host, format!("{host:?} is neither a host's name nor an address")));
    }
    let tls = tls(file.tls.as_ref(), source)?;
    if let (MailTls::None, Some(text), false) = (tls, &file.tls, is_here(&host)) {
        let message = "mail is sent without TLS to this machine alone (localhost, or an address of the loopback)";
        return Err(source.complain(text, message.to_owned()));
    }
    let port = match &file.port {
        Some(port) if *port.get_ref() == 0 => return Err(source.complain(port, "port 0 is nobody's".to_owned())),
        Some(port) => *port.get_ref(),
        None => usual_port(tls),
    };
    let from = address(&file.from, source)?;
    let networks = file.networks.iter().map(|text| network(text, source)).collect::<Result<_, _>>()?;
    let login = match (file.username, file.password_file) {
        (None, None) => None,
        (Some(username), Some(path)) => {
            let text = username.get_ref();
            if !(1..=MAX_USERNAME).contains(&text.len()) || text.contains(char::is_control) {
                let message = format!("a username is a line of 1 to {MAX_USERNAME} bytes");
                return Err(source.complain(&username, message));
            }
            Some(MailLogin { username: username.into_inner(), password_file: base.join(path) })
        }
        (_, _) => return Err(source.complain(&file.host, "username and password_file go together".to_owned())),
    };
    Ok(MailSettings { host, port, tls, from, login, networks })
}

/// The addresses of a team.
pub(super) fn recipients(given: &[Spanned<String>], source: &Source) -> Result<Vec<String>, ConfigError> {
    let mut addresses: Vec<String> = Vec::with_capacity(given.len());
    for text in given {
        let address = address(text, source)?;
        if addresses.contains(&address) {
            return Err(source.complain(text, format!("{address} is there twice")));
        }
        if addresses.len() == MAX_RECIPIENTS {
            return Err(source.complain(text, format!("a mail goes to at most {MAX_RECIPIENTS} recipients")));
        }
        addresses.push(address);
    }
    Ok(addresses)
}

fn address(text: &Spanned<String>, source: &Source) -> Result<String, ConfigError> {
    let address = text.get_ref();
    let wrong = || format!("{address:?} is not a plain mail address, such as ops@example.com");
    if is_address(address) { Ok(address.clone()) } else { Err(source.complain(text, wrong())) }
}

fn network(text: &Spanned<String>, source: &Source) -> Result<Network, ConfigError> {
    text.get_ref().parse().map_err(|error| source.complain(text, format!("{error}")))
}

fn tls(text: Option<&Spanned<String>>, source: &Source) -> Result<MailTls, ConfigError> {
    let Some(text) = text else { return Ok(MailTls::StartTls) };
    match text.get_ref().as_str() {
        "starttls" => Ok(MailTls::StartTls),
        "implicit" => Ok(MailTls::Implicit),
        "none" => Ok(MailTls::None),
        other => Err(source.complain(text, format!("tls is \"starttls\", \"implicit\" or \"none\", not {other:?}"))),
    }
}

/// RFC 6409, RFC 8314, RFC 5321.
fn usual_port(tls: MailTls) -> u16 {
    match tls {
        MailTls::StartTls => 587,
        MailTls::Implicit => 465,
        MailTls::None => 25,
    }
}

/// Whether it names this machine, whatever a name service says.
fn is_here(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}
