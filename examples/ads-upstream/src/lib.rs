//! A sample upstream: a small MCP server of the advertising domain on standard input and output.
//!
//! It shares no code with the gateway, so that it can bear witness about it: every execution is numbered and in an fsynced
//! journal ([`journal`]) before its answer leaves. It speaks both eras of MCP: the handshake (2024-11-05 to 2025-11-25) and
//! per-request metadata (2026-07-28). Its faults ([`Options`]) are switches for tests.

pub mod journal;
mod protocol;
mod tools;

use std::io::{self, BufRead, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use journal::Journal;
use protocol::Server;

/// Longest line that is read, in bytes.
const MAX_LINE: u64 = 8 << 20;

/// How to use it, printed on wrong arguments.
pub const USAGE: &str = "\
usage: sample-upstream ads [--data DIR] [--delay-ms N] [--die-on TOOL] [--die-before TOOL] [--hang-on TOOL]
       [--garbage-on TOOL] [--definition-version N] [--definition-file FILE] [--poison] [--confusable]
       [--era legacy|modern|both]";

/// Where the state lives and which faults are wanted.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The directory of the journal. By default `countersign-sample-ads` in `$XDG_DATA_HOME` or `~/.local/share`.
    pub data: PathBuf,
    /// How long every call takes, before it is executed.
    pub delay: Duration,
    /// Dies after this tool was executed and journalled, before it answers.
    pub die_on: Option<String>,
    /// Dies before this tool is executed.
    pub die_before: Option<String>,
    /// Never answers this tool, and does not execute it.
    pub hang_on: Option<String>,
    /// Executes this tool and answers with a line that is not JSON.
    pub garbage_on: Option<String>,
    /// Which version of the definitions to serve: 1 (the default) or 2.
    pub definition_version: u32,
    /// A file that holds the version; it is read for each list, and a change is announced.
    pub definition_file: Option<PathBuf>,
    /// Puts instructions to the model and hidden characters into a description.
    pub poison: bool,
    /// Adds a tool whose name looks like another's.
    pub confusable: bool,
    /// Which protocol eras to speak.
    pub era: Era,
}

/// Which protocol eras to speak.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Era {
    /// Both, as the client opens.
    #[default]
    Both,
    /// The handshake only.
    Legacy,
    /// Per-request metadata only.
    Modern,
}

/// Why the server ended other than by the end of its input.
#[derive(Debug)]
pub enum Error {
    /// The arguments are wrong.
    Usage(String),
    /// The journal or a standard stream failed.
    Io(io::Error),
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::Usage(problem) => write!(f, "{problem}\n{USAGE}"),
            Error::Io(error) => write!(f, "sample upstream: {error}"),
        }
    }
}

impl std::error::Error for Error {}

/// Serves standard input until it ends. `args` are those after the program's (and subcommand's) name.
///
/// # Errors
/// [`Error::Usage`] on unknown arguments; [`Error::Io`] if the journal cannot be opened or written.
pub fn run_stdio(args: impl IntoIterator<Item = String>) -> Result<(), Error> {
    let options = Options::parse(args)?;
    let journal = Journal::open(&options.data).map_err(Error::Io)?;
    let server = Arc::new(Server::new(options, journal, Output::default()));
    server.watch_definitions();
    let mut input = io::stdin().lock();
    loop {
        let mut line = Vec::new();
        let read = io::Read::take(&mut input, MAX_LINE).read_until(b'\n', &mut line).map_err(Error::Io)?;
        if read == 0 {
            return Ok(());
        }
        if !line.trim_ascii().is_empty() {
            server.receive(&line);
        }
    }
}

impl Options {
    /// Reads command-line arguments.
    ///
    /// # Errors
    /// [`Error::Usage`] with the argument that is wrong.
    pub fn parse(args: impl IntoIterator<Item = String>) -> Result<Self, Error> {
        let mut options = Self { definition_version: 1, ..Self::default() };
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or_else(|| Error::Usage(format!("{arg} needs a value")));
            match arg.as_str() {
                "--data" => options.data = value()?.into(),
                "--delay-ms" => options.delay = Duration::from_millis(number(&value()?)?),
                "--die-on" => options.die_on = Some(value()?),
                "--die-before" => options.die_before = Some(value()?),
                "--hang-on" => options.hang_on = Some(value()?),
                "--garbage-on" => options.garbage_on = Some(value()?),
                "--definition-version" => options.definition_version = number(&value()?)? as u32,
                "--definition-file" => options.definition_file = Some(value()?.into()),
                "--poison" => options.poison = true,
                "--confusable" => options.confusable = true,
                "--era" => options.era = era(&value()?)?,
                _ => return Err(Error::Usage(format!("unknown argument {arg:?}"))),
            }
        }
        if options.data.as_os_str().is_empty() {
            options.data = default_data().ok_or_else(|| Error::Usage("name a directory with --data".into()))?;
        }
        Ok(options)
    }
}

fn number(text: &str) -> Result<u64, Error> {
    text.parse().map_err(|_| Error::Usage(format!("{text:?} is not a number")))
}

fn era(text: &str) -> Result<Era, Error> {
    match text {
        "both" => Ok(Era::Both),
        "legacy" => Ok(Era::Legacy),
        "modern" => Ok(Era::Modern),
        _ => Err(Error::Usage(format!("{text:?} is not an era"))),
    }
}

fn default_data() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let base = set("XDG_DATA_HOME").or_else(|| Some(set("HOME")?.join(".local/share")))?;
    Some(base.join("countersign-sample-ads"))
}

/// Standard output, one whole line at a time.
#[derive(Default)]
struct Output(Mutex<()>);

impl Output {
    /// A client that has gone away is no error of ours: the end of input follows.
    fn line(&self, line: &str) {
        let _one_at_a_time = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut out = io::stdout().lock();
        let _ = out.write_all(format!("{line}\n").as_bytes()).and_then(|()| out.flush());
    }
}
