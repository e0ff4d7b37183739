//! The demo's processes and its directory: a node as a child, and this binary's own commands as children.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use countersign_example_ads::journal::Entry;
use serde_json::Value;
use tokio::process::{Child, Command};

use crate::client::Node;

/// How long a node may take until it answers.
const START: Duration = Duration::from_secs(20);
/// How long one command may take.
const COMMAND: Duration = Duration::from_secs(30);

/// The directory, the executable and the running node.
pub struct Stage {
    home: PathBuf,
    /// Whether the directory was made by us and may be removed.
    own: bool,
    exe: PathBuf,
    port: u16,
    node: Option<Child>,
}

/// How a command ended.
#[derive(Debug)]
pub struct Ran {
    /// The exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Ran {
    /// Standard output, of a command that must have succeeded.
    ///
    /// # Errors
    /// With the command's own words, if it did not.
    pub fn ok(self) -> anyhow::Result<String> {
        ensure!(self.code == Some(0), "a command ended with {:?}: {}{}", self.code, self.stdout, self.stderr);
        Ok(self.stdout)
    }

    /// As [`Self::ok`], read as JSON.
    ///
    /// # Errors
    /// As [`Self::ok`], or if it is not JSON.
    pub fn json(self) -> anyhow::Result<Value> {
        let text = self.ok()?;
        serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))
    }
}

impl Stage {
    /// An empty directory and a free port. No process yet.
    ///
    /// # Errors
    /// If the directory cannot be made or is not empty.
    pub fn set(dir: Option<&Path>) -> anyhow::Result<Self> {
        let unique = format!("countersign-demo-{}-{}", std::process::id(), crate::output::now_ms());
        let home = std::path::absolute(dir.map_or_else(|| std::env::temp_dir().join(unique), Path::to_owned))?;
        let own = !home.exists();
        if own {
            use std::os::unix::fs::DirBuilderExt as _;
            let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&home);
            made.with_context(|| format!("making {}", home.display()))?;
        }
        ensure!(std::fs::read_dir(&home)?.next().is_none(), "{} is not empty", home.display());
        // The port is free now; a node that finds it taken says so, and the demo ends.
        let port = std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        Ok(Self { home, own, exe: std::env::current_exe()?, port, node: None })
    }

    /// The demo's directory.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// What the node writes on standard error.
    pub fn log_file(&self) -> PathBuf {
        self.home.join("node.log")
    }

    /// Where the sample upstream keeps its own record of what it executed.
    fn upstream_data(&self) -> PathBuf {
        self.home.join("ads-upstream")
    }

    /// Writes the starter home with the product's own command, then points the sample upstream at the demo's directory.
    ///
    /// # Errors
    /// If the command fails, or the starter manifest is not what it was.
    pub async fn furnish(&self) -> anyhow::Result<()> {
        self.run(None, &["up", "--init"]).await?.ok()?;
        let path = self.home.join("manifests/ads.yaml");
        let manifest = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let plain = "args: [sample-upstream, ads]";
        ensure!(manifest.contains(plain), "{} has no line {plain:?}", path.display());
        let data = serde_json::to_string(&self.upstream_data())?;
        let pointed = manifest.replace(plain, &format!("args: [sample-upstream, ads, --data, {data}]"));
        std::fs::write(&path, pointed).with_context(|| format!("writing {}", path.display()))
    }

    /// The node's URL.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The node's process.
    pub fn pid(&self) -> Option<u32> {
        self.node.as_ref().and_then(Child::id)
    }

    /// Starts the node and waits until it answers. Returns how long that took.
    ///
    /// # Errors
    /// If it ends, or does not answer in time.
    pub async fn start_node(&mut self) -> anyhow::Result<Duration> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log_file())?;
        let listen = format!("127.0.0.1:{}", self.port);
        let since = Instant::now();
        let mut command = self.clean_command();
        command.args(["up", "--listen", &listen]).stdout(Stdio::null()).stderr(log).kill_on_drop(true);
        self.node = Some(command.spawn().context("starting a node")?);
        let probe = Node::new(&self.url(), None)?;
        while since.elapsed() < START {
            if let Some(status) = self.node.as_mut().and_then(|node| node.try_wait().ok().flatten()) {
                bail!("the node ended: {status}; its last words: {}", self.last_words());
            }
            if probe.get("/health").await.is_ok_and(|health| health["status"] == "ok") {
                return Ok(since.elapsed());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        bail!("the node did not answer within {} s; its last words: {}", START.as_secs(), self.last_words())
    }

    /// SIGKILL: nothing is flushed, nobody is asked.
    ///
    /// # Errors
    /// If there is no node.
    pub async fn kill_node(&mut self) -> anyhow::Result<()> {
        let mut node = self.node.take().context("no node to kill")?;
        node.start_kill()?;
        node.wait().await?;
        Ok(())
    }

    /// Runs one of this binary's commands on the demo's home, as the holder of `token`.
    ///
    /// # Errors
    /// If it cannot be run or takes too long; a non-zero exit code is not an error here.
    pub async fn run(&self, token: Option<&str>, arguments: &[&str]) -> anyhow::Result<Ran> {
        let mut command = self.clean_command();
        if let Some(token) = token {
            command.env("COUNTERSIGN_TOKEN", token);
        }
        ran(command.args(arguments)).await
    }

    /// Runs a command that knows nothing of the node: no home, no environment, in an empty directory of its own.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub async fn run_elsewhere(&self, directory: &Path, arguments: &[&str]) -> anyhow::Result<Ran> {
        let mut command = Command::new(&self.exe);
        ran(command.env_clear().current_dir(directory).args(arguments)).await
    }

    /// The upstream's own record of what it executed.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn journal(&self) -> anyhow::Result<Vec<Entry>> {
        countersign_example_ads::journal::read(&self.upstream_data()).context("reading the upstream's journal")
    }

    /// Ends the node in order.
    pub async fn strike(&mut self) {
        let Some(mut node) = self.node.take() else { return };
        if let Some(pid) = node.id().and_then(|pid| i32::try_from(pid).ok()) {
            // It may have ended by itself meanwhile; then there is nothing to do.
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM);
        }
        if tokio::time::timeout(Duration::from_secs(5), node.wait()).await.is_err() {
            let _ = node.kill().await;
        }
    }

    /// Removes the directory, if it is ours.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn clear(&self) -> anyhow::Result<()> {
        if self.own {
            std::fs::remove_dir_all(&self.home).with_context(|| format!("removing {}", self.home.display()))?;
        }
        Ok(())
    }

    /// Our executable with the demo's home, and none of the caller's settings for other nodes.
    fn clean_command(&self) -> Command {
        let mut command = Command::new(&self.exe);
        let ours = std::env::vars_os().map(|(name, _)| name);
        for name in ours.filter(|name| name.to_string_lossy().starts_with("COUNTERSIGN_")) {
            command.env_remove(name);
        }
        command.env("COUNTERSIGN_HOME", &self.home).env_remove("CLICOLOR_FORCE").stdin(Stdio::null());
        command
    }

    fn last_words(&self) -> String {
        let text = std::fs::read_to_string(self.log_file()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(5)..].join("\n")
    }
}

async fn ran(command: &mut Command) -> anyhow::Result<Ran> {
    let command = command.stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(COMMAND, command.output()).await.context("a command took too long")??;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(Ran { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) })
}
