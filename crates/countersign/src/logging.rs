//! The node's log: to standard error, for people or as JSON, with a filter that SIGHUP reads again.

mod writer;

use std::io::IsTerminal as _;
use std::sync::OnceLock;

use countersign_server::config::LogFormat;
use countersign_server::{Config, Overrides};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::reload::Handle;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Registry, fmt, reload};

use crate::exit::{Exit, Failure};

static LINES: OnceLock<writer::Lines> = OnceLock::new();

/// Waits for the last lines; a process ends after this.
pub fn flush() {
    if let Some(lines) = LINES.get() {
        lines.flush();
    }
}

/// Starts logging. With `overrides`, `log.level` is read again on SIGHUP.
///
/// # Errors
/// If the filter makes no sense, or something logs already.
pub fn start(format: Option<LogFormat>, level: &str, overrides: Option<Overrides>) -> anyhow::Result<()> {
    let filter = filter(level).map_err(|why| Failure::new(Exit::Usage, why))?;
    let (filter, handle) = reload::Layer::new(filter);
    let terminal = std::io::stderr().is_terminal();
    let default = if terminal { LogFormat::Human } else { LogFormat::Json };
    let lines = writer::Lines::start(std::io::stderr())?;
    let log = fmt::layer().with_writer(LINES.get_or_init(|| lines).clone());
    let registry = tracing_subscriber::registry().with(filter);
    let set = match format.unwrap_or(default) {
        LogFormat::Human => {
            let colour = terminal && std::env::var_os("NO_COLOR").is_none();
            registry.with(log.with_ansi(colour).with_target(false)).try_init()
        }
        LogFormat::Json => registry.with(log.json().flatten_event(true)).try_init(),
    };
    set.map_err(|error| anyhow::anyhow!("logging: {error}"))?;
    if let Some(overrides) = overrides {
        tokio::spawn(follow(overrides, handle));
    }
    Ok(())
}

fn filter(level: &str) -> Result<EnvFilter, String> {
    EnvFilter::try_new(level).map_err(|error| format!("log.level or COUNTERSIGN_LOG: {level:?}: {error}"))
}

/// Reads the level again on SIGHUP. What cannot be used leaves the one in force.
async fn follow(overrides: Overrides, handle: Handle<EnvFilter, Registry>) {
    let Ok(mut hangup) = signal(SignalKind::hangup()) else { return };
    while hangup.recv().await.is_some() {
        let level = Config::load(&overrides).map(|config| config.log.level).map_err(|error| error.to_string());
        let changed = level.and_then(|level| {
            let filter = filter(&level)?;
            handle.reload(filter).map_err(|error| error.to_string())?;
            Ok(level)
        });
        match changed {
            Ok(level) => tracing::info!(level, "the log's level was read again"),
            Err(why) => tracing::error!(why, "the log's level stays as it is"),
        }
    }
}
