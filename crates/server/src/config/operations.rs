//! What operators set: what a node tells of itself (logs, metrics, spans), and how it ends.

use std::net::SocketAddr;
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;
use url::Url;

use super::file::FilePolicy;
use super::{ConfigError, Source, is_loopback, parse_duration, parse_listen};

/// How the node logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSettings {
    /// `human` or `json`; `None` chooses by whether standard error is a terminal.
    pub format: Option<LogFormat>,
    /// A filter such as `info` or `info,countersign_gate=debug`.
    pub level: String,
    /// Whether each request is a line.
    pub requests: bool,
}

/// The form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Human,
    /// One JSON object for each line.
    Json,
}

/// Metrics and spans.
#[derive(Debug, Clone)]
pub struct TelemetrySettings {
    /// An address of this machine on which metrics are served without a token.
    pub metrics_listen: Option<SocketAddr>,
    /// The base URL of a collector that takes OTLP over HTTP.
    pub otlp: Option<Url>,
    /// Headers for the collector. From the environment alone: they hold secrets.
    pub otlp_headers: Vec<(String, String)>,
    /// Which share of the requests without a context is recorded, 0 to 1.
    pub sample: f64,
}

/// How the node ends on SIGTERM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrainSettings {
    /// How long it still accepts connections, so that a balancer notices that it is not ready.
    pub delay: Duration,
    /// How long running requests and calls may take after that.
    pub timeout: Duration,
}

/// The longest that an end may be put off.
const LONGEST_DRAIN: Duration = Duration::from_secs(3600);

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileDrain {
    delay: Option<Spanned<String>>,
    timeout: Option<Spanned<String>>,
}

pub(super) fn drain(file: Option<FileDrain>, source: &Source) -> Result<DrainSettings, ConfigError> {
    let file = file.unwrap_or_default();
    let time = |given: Option<Spanned<String>>, default: u64| match given {
        None => Ok(Duration::from_secs(default)),
        Some(text) => match parse_duration(text.get_ref()) {
            Ok(time) if time <= LONGEST_DRAIN => Ok(time),
            Ok(_) => Err(source.complain(&text, "at most 1h".to_owned())),
            Err(message) => Err(source.complain(&text, message)),
        },
    };
    Ok(DrainSettings { delay: time(file.delay, 0)?, timeout: time(file.timeout, 10)? })
}

/// A month of calls, and ten years at most.
const REPLAY_DAYS: u32 = 30;
const MOST_REPLAY_DAYS: u32 = 3660;

pub(super) fn decisions_kept(over: Option<u32>, file: FilePolicy, source: &Source) -> Result<Duration, ConfigError> {
    let message = || format!("replay_days is at most {MOST_REPLAY_DAYS}");
    let days = match (over, &file.replay_days) {
        (Some(days), _) if days > MOST_REPLAY_DAYS => {
            let source_name = "COUNTERSIGN_POLICY_REPLAY_DAYS".to_owned();
            return Err(ConfigError::Value { source_name, message: message() });
        }
        (Some(days), _) => days,
        (None, Some(days)) if *days.get_ref() > MOST_REPLAY_DAYS => return Err(source.complain(days, message())),
        (None, Some(days)) => *days.get_ref(),
        (None, None) => REPLAY_DAYS,
    };
    Ok(Duration::from_secs(u64::from(days) * 86_400))
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileLog {
    format: Option<LogFormat>,
    level: Option<String>,
    requests: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileTelemetry {
    metrics_listen: Option<Spanned<String>>,
    otlp: Option<Spanned<String>>,
    sample: Option<Spanned<f64>>,
}

type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

fn wrong(name: &str, message: String) -> ConfigError {
    ConfigError::Value { source_name: name.to_owned(), message }
}

pub(super) fn log(file: Option<FileLog>, env: Environment<'_>) -> Result<LogSettings, ConfigError> {
    let file = file.unwrap_or_default();
    let format = match env("COUNTERSIGN_LOG_FORMAT").as_deref() {
        None => file.format,
        Some("human") => Some(LogFormat::Human),
        Some("json") => Some(LogFormat::Json),
        Some(other) => return Err(wrong("COUNTERSIGN_LOG_FORMAT", format!("{other:?} is neither human nor json"))),
    };
    let level = env("COUNTERSIGN_LOG").or(file.level).unwrap_or_else(|| "info".to_owned());
    Ok(LogSettings { format, level, requests: file.requests.unwrap_or(true) })
}

pub(super) fn telemetry(
    file: Option<FileTelemetry>,
    source: &Source,
    env: Environment<'_>,
) -> Result<TelemetrySettings, ConfigError> {
    let file = file.unwrap_or_default();
    let metrics_listen = match (env("COUNTERSIGN_METRICS_LISTEN"), &file.metrics_listen) {
        (Some(text), _) => Some(local(&text).map_err(|message| wrong("COUNTERSIGN_METRICS_LISTEN", message))?),
        (None, Some(text)) => Some(local(text.get_ref()).map_err(|message| source.complain(text, message))?),
        (None, None) => None,
    };
    // The second name is the one of OpenTelemetry's own specification.
    let from_env =
        ["COUNTERSIGN_OTLP", "OTEL_EXPORTER_OTLP_ENDPOINT"].iter().find_map(|name| Some((*name, env(name)?)));
    let otlp = match (from_env, &file.otlp) {
        (Some((name, text)), _) => Some(collector(&text).map_err(|message| wrong(name, message))?),
        (None, Some(text)) => Some(collector(text.get_ref()).map_err(|message| source.complain(text, message))?),
        (None, None) => None,
    };
    let sample = match &file.sample {
        None => 1.0,
        Some(share) if (0.0..=1.0).contains(share.get_ref()) => *share.get_ref(),
        Some(share) => return Err(source.complain(share, "sample must be between 0.0 and 1.0".to_owned())),
    };
    let otlp_headers = match env("COUNTERSIGN_OTLP_HEADERS") {
        None => Vec::new(),
        // The value is not repeated in the message: it is a secret.
        Some(text) => headers(&text)
            .ok_or_else(|| wrong("COUNTERSIGN_OTLP_HEADERS", "expected name=value, separated by commas".to_owned()))?,
    };
    Ok(TelemetrySettings { metrics_listen, otlp, otlp_headers, sample })
}

fn local(text: &str) -> Result<SocketAddr, String> {
    let address = parse_listen(text)?;
    if is_loopback(&address) {
        return Ok(address);
    }
    Err(format!(
        "{address} can be reached by others, and metrics_listen asks for no token; scrape /metrics on the node's own address \
         with a token of the role metrics instead"
    ))
}

fn collector(text: &str) -> Result<Url, String> {
    match Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() && url.query().is_none() => Ok(url),
        _ => Err(format!("{text:?} is not the http or https URL of a collector, such as http://127.0.0.1:4318")),
    }
}

fn headers(text: &str) -> Option<Vec<(String, String)>> {
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=')?;
        let (name, value) = (name.trim().to_owned(), value.trim().to_owned());
        let fits = name.parse::<http::HeaderName>().is_ok() && value.parse::<http::HeaderValue>().is_ok();
        fits.then_some((name, value))
    };
    text.split(',').map(pair).collect()
}
