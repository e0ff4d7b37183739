//! A real node: the product's binary as a child process, started, stopped and killed.

use std::fs::{File, OpenOptions};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::home::Home;
use crate::http::Client;

const START: Duration = Duration::from_secs(30);
const STOP: Duration = Duration::from_secs(15);

/// How to start a node.
#[derive(Debug, Clone)]
pub struct Launch {
    /// The product's binary.
    pub binary: PathBuf,
    /// Environment variables on top of the test's own.
    pub environment: Vec<(String, String)>,
    /// A command that runs the binary, such as a tracer; empty for none.
    pub wrapper: Vec<String>,
}

/// A running node. Dropping it kills it.
#[derive(Debug)]
pub struct Node {
    child: Child,
    home: Home,
    is_wrapped: bool,
}

impl Launch {
    /// The plain binary.
    pub fn new(binary: &Path) -> Self {
        Self { binary: binary.to_owned(), environment: Vec::new(), wrapper: Vec::new() }
    }

    /// Starts a node on the home and waits until it answers.
    ///
    /// # Errors
    /// If it does not answer within 30 s; the end of its log is in the message.
    pub fn start(&self, home: &Home) -> Result<Node> {
        let mut node = self.spawn(home)?;
        node.wait_until_ready()?;
        Ok(node)
    }

    /// Starts a node without waiting for it.
    ///
    /// # Errors
    /// If the process cannot be started.
    pub fn spawn(&self, home: &Home) -> Result<Node> {
        let program: Vec<&str> = self.wrapper.iter().map(String::as_str).collect();
        let mut command = match program.split_first() {
            None => Command::new(&self.binary),
            Some((wrapper, arguments)) => {
                let mut command = Command::new(wrapper);
                command.args(arguments).arg(&self.binary);
                command
            }
        };
        let log = OpenOptions::new().create(true).append(true).open(home.directory().join("node.log"))?;
        command
            .arg("up")
            .arg("--home")
            .arg(home.directory())
            .envs(self.environment.iter().map(|(n, v)| (n, v)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // A group of its own, so that a wrapper and the node end together.
            .process_group(0);
        let child = command.spawn().with_context(|| format!("starting {command:?}"))?;
        Ok(Node { child, home: home.clone(), is_wrapped: !program.is_empty() })
    }
}

impl Node {
    /// The process that was started (the wrapper, if there is one).
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its home.
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// A client without credentials.
    pub fn anonymous(&self) -> Client {
        Client::new(self.home.address())
    }

    /// A client with this token.
    pub fn client(&self, token: &str) -> Client {
        self.anonymous().bearer(token)
    }

    /// A client of the operator.
    pub fn operator(&self) -> Client {
        self.client(&self.home.operator())
    }

    /// Waits until `/health` answers 200.
    ///
    /// # Errors
    /// If the process ends or does not answer within 30 s.
    pub fn wait_until_ready(&mut self) -> Result<()> {
        let end = Instant::now() + START;
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("the node ended at its start ({status}); its log ends:\n{}", self.log_tail());
            }
            let mut client = self.anonymous().timeout(Duration::from_secs(2));
            if client.get("/health").is_ok_and(|r| r.status == 200) {
                return Ok(());
            }
            ensure!(Instant::now() < end, "the node did not answer in {START:?}; its log ends:\n{}", self.log_tail());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Asks it to end (SIGTERM) and waits. What it was started through is asked together with it, and waited for: a tracer
    /// holds such signals back, and ends once it has written down the end of what it traces.
    ///
    /// # Errors
    /// If it does not end within 15 s, or not by itself.
    pub fn stop(mut self) -> Result<ExitStatus> {
        match self.is_wrapped {
            true => killpg(self.raw_pid(), Signal::SIGTERM)?,
            false => self.signal(Signal::SIGTERM)?,
        }
        let end = Instant::now() + STOP;
        loop {
            if let Some(status) = self.child.try_wait()? {
                ensure!(status.signal().is_none(), "the node ended by a signal ({status}):\n{}", self.log_tail());
                return Ok(status);
            }
            ensure!(Instant::now() < end, "the node did not stop in {STOP:?}:\n{}", self.log_tail());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Kills it (SIGKILL), as a power switch would from the point of view of the process.
    ///
    /// # Errors
    /// If the signal cannot be sent.
    pub fn kill(mut self) -> Result<()> {
        self.kill_in_place()
    }

    /// Sends a signal to the process that was started.
    ///
    /// # Errors
    /// If it is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(self.raw_pid(), signal)?)
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        let text = std::fs::read(self.home.directory().join("node.log")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// Accepts every tool that waits for review, once each of the named upstreams has offered at least one.
    ///
    /// # Errors
    /// If an upstream offers nothing within a minute, or accepting is refused.
    pub fn accept_all_tools(&self, upstreams: &[&str]) -> Result<Vec<String>> {
        let mut operator = self.operator();
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let reports = operator.get("/admin/tools")?.expect(200)?;
            let reports = reports.as_array().cloned().unwrap_or_default();
            let offered = |u: &&str| reports.iter().any(|r| text(r, "name").starts_with(&format!("{u}:")));
            if upstreams.iter().all(offered) {
                return accept(&mut operator, &reports);
            }
            let missing: Vec<_> = upstreams.iter().filter(|u| !offered(u)).collect();
            ensure!(Instant::now() < end, "{missing:?} offer no tools:\n{}", self.log_tail());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn kill_in_place(&mut self) -> Result<()> {
        if self.is_running() {
            killpg(self.raw_pid(), Signal::SIGKILL)?;
        }
        self.child.wait()?;
        Ok(())
    }

    fn raw_pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Nothing can be done about an error here, and the process may be gone already.
        let _ = self.kill_in_place();
    }
}

fn accept(operator: &mut Client, reports: &[Value]) -> Result<Vec<String>> {
    let mut accepted = Vec::new();
    for report in reports {
        let (name, Some(pin)) = (text(report, "name"), report.get("proposed").and_then(Value::as_str)) else {
            continue;
        };
        let answer = operator.post(&format!("/admin/tools/{}/accept", escaped(name)), &json!({"pin": pin}))?;
        ensure!(answer.status < 300, "accepting {name}: {:?}", answer.json());
        accepted.push(name.to_owned());
    }
    Ok(accepted)
}

/// A name as one part of a path: prompts and resources have slashes in theirs.
fn escaped(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:".contains(&byte);
    name.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// A file that a child writes its output to, made anew.
///
/// # Errors
/// If it cannot be created.
pub fn output_file(path: &Path) -> Result<File> {
    File::create(path).with_context(|| format!("creating {}", path.display()))
}
