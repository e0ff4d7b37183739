//! Other people's services for signatures: a timestamp authority, a log to forward to, logs to read.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;
use url::Url;

use super::{ConfigError, Source, parse_duration};

/// How long an authority may take if nothing is said, and the most that can be said: calls wait for it.
const STAMP_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_STAMP_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a log may take for an entry: it answers when the next checkpoint is out.
const FORWARD_TIMEOUT: Duration = Duration::from_secs(20);
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(3600);
const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);

/// A timestamp authority besides the node's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimestampingSettings {
    /// Where it is asked.
    pub url: Url,
    /// Its certificates, PEM.
    pub chain: PathBuf,
    /// Certificates that it had before, a file for each chain.
    pub retired: Vec<PathBuf>,
    /// Who runs it.
    pub operator: String,
    /// Whether nothing is signed without it.
    pub required: bool,
    /// How long it may take.
    pub timeout: Duration,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileTimestamping {
    url: Spanned<String>,
    chain: PathBuf,
    #[serde(default)]
    retired: Vec<PathBuf>,
    operator: Option<String>,
    #[serde(default)]
    required: bool,
    timeout: Option<Spanned<String>>,
}

pub(super) fn timestamping(
    file: FileTimestamping,
    source: &Source,
    base: &Path,
) -> Result<TimestampingSettings, ConfigError> {
    let url = service(&file.url, source)?;
    let timeout = within(file.timeout.as_ref(), STAMP_TIMEOUT, MAX_STAMP_TIMEOUT, source)?;
    Ok(TimestampingSettings {
        operator: file.operator.unwrap_or_else(|| url.host_str().unwrap_or_default().to_owned()),
        url,
        chain: base.join(file.chain),
        retired: file.retired.into_iter().map(|path| base.join(path)).collect(),
        required: file.required,
        timeout,
    })
}

/// A log of Rekor's second version to which entries and checkpoints are forwarded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardSettings {
    /// Its submission prefix, with a trailing slash.
    pub url: Url,
    /// A Sigstore trusted root that names it.
    pub trusted_root: PathBuf,
    /// Its origin.
    pub origin: String,
    /// Whether the public entries of this log are forwarded.
    pub entries: bool,
    /// Whether those are, too, that were made before forwarding was turned on.
    pub backlog: bool,
    /// How often checkpoints of this log are, if they are.
    pub checkpoints: Option<Duration>,
    /// How long the log may take for an entry.
    pub timeout: Duration,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileForward {
    url: Spanned<String>,
    trusted_root: PathBuf,
    origin: Option<String>,
    what: Option<Spanned<Vec<What>>>,
    #[serde(default)]
    backlog: bool,
    checkpoint_interval: Option<Spanned<String>>,
    timeout: Option<Spanned<String>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum What {
    Entries,
    Checkpoints,
}

pub(super) fn forward(file: FileForward, source: &Source, base: &Path) -> Result<ForwardSettings, ConfigError> {
    let url = slashed(service(&file.url, source)?);
    let named = |what: What| file.what.as_ref().is_none_or(|list| list.get_ref().contains(&what));
    if let Some(list) = file.what.as_ref().filter(|list| list.get_ref().is_empty()) {
        return Err(source.complain(list, "write entries, checkpoints, or both".to_owned()));
    }
    let interval = match &file.checkpoint_interval {
        None => CHECKPOINT_INTERVAL,
        Some(text) => {
            let interval = parse_duration(text.get_ref()).map_err(|why| source.complain(text, why))?;
            if interval < SHORTEST_INTERVAL {
                return Err(source.complain(text, "checkpoints are forwarded at most once a second".to_owned()));
            }
            interval
        }
    };
    Ok(ForwardSettings {
        origin: file.origin.clone().unwrap_or_else(|| url.host_str().unwrap_or_default().to_owned()),
        url,
        trusted_root: base.join(&file.trusted_root),
        entries: named(What::Entries),
        backlog: file.backlog,
        checkpoints: named(What::Checkpoints).then_some(interval),
        timeout: within(file.timeout.as_ref(), FORWARD_TIMEOUT, FORWARD_TIMEOUT, source)?,
    })
}

/// A log of Rekor's first version that is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadLogSettings {
    /// What callers name it by.
    pub name: String,
    /// Where it is reached, with a trailing slash.
    pub url: Url,
    /// A Sigstore trusted root with its keys, and the authorities of those who log there.
    pub trusted_root: PathBuf,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileReadLog {
    name: Spanned<String>,
    url: Spanned<String>,
    trusted_root: PathBuf,
}

/// The most logs that are read.
const MAX_LOGS: usize = 16;

pub(super) fn logs(files: Vec<FileReadLog>, source: &Source, base: &Path) -> Result<Vec<ReadLogSettings>, ConfigError> {
    let mut logs: Vec<ReadLogSettings> = Vec::new();
    for file in files {
        let name = file.name.get_ref().clone();
        let is_good = (1..=64).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._".contains(&b));
        if !is_good || ["own", "outside"].contains(&name.as_str()) || logs.iter().any(|log| log.name == name) {
            let words = "a log's name is 1 to 64 of a-z, 0-9, '-', '.', '_', not own or outside, and there once";
            return Err(source.complain(&file.name, words.to_owned()));
        }
        if logs.len() == MAX_LOGS {
            return Err(source.complain(&file.name, format!("at most {MAX_LOGS} logs are read")));
        }
        let url = slashed(service(&file.url, source)?);
        logs.push(ReadLogSettings { name, url, trusted_root: base.join(file.trusted_root) });
    }
    Ok(logs)
}

/// So that paths are joined beneath it.
fn slashed(mut url: Url) -> Url {
    if !url.path().ends_with('/') {
        let path = format!("{}/", url.path());
        url.set_path(&path);
    }
    url
}

/// An `http` or `https` URL of a service, without anything that would be lost when paths are put behind it.
fn service(text: &Spanned<String>, source: &Source) -> Result<Url, ConfigError> {
    let plain = |url: &Url| {
        let bare = url.query().is_none() && url.fragment().is_none();
        matches!(url.scheme(), "http" | "https") && url.has_host() && bare && url.username().is_empty()
    };
    let url = Url::parse(text.get_ref()).ok().filter(|url| plain(url) && url.password().is_none());
    url.ok_or_else(|| {
        source.complain(text, "write an http or https URL without query, fragment and password".to_owned())
    })
}

fn within(
    text: Option<&Spanned<String>>,
    usual: Duration,
    most: Duration,
    source: &Source,
) -> Result<Duration, ConfigError> {
    let Some(text) = text else { return Ok(usual) };
    let duration = parse_duration(text.get_ref()).map_err(|why| source.complain(text, why))?;
    match (Duration::from_millis(100)..=most).contains(&duration) {
        true => Ok(duration),
        false => Err(source.complain(text, format!("write a time from 100ms to {}s", most.as_secs()))),
    }
}
