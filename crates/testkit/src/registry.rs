//! A container registry of the tests' own: Debian's `docker-registry`, its data in a given directory, on a free loopback port. It ends
//! when it is dropped.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::home::free_address;

const PROGRAM: &str = "docker-registry";
const START: Duration = Duration::from_secs(30);

/// A registry that this process started.
#[derive(Debug)]
pub struct DockerRegistry {
    child: Child,
    address: SocketAddr,
    log: PathBuf,
}

impl DockerRegistry {
    /// Starts one in `directory`. `extra` is YAML for its configuration, such as who may do what.
    ///
    /// # Errors
    /// If it is not installed, with how to install it, or does not start.
    pub fn start(directory: &Path, extra: &str) -> Result<Self> {
        let program = binary()?;
        fs::create_dir_all(directory)?;
        let address = free_address()?;
        let data = directory.join("data");
        let config = format!(
            "version: 0.1\nlog:\n  level: warn\nstorage:\n  filesystem:\n    rootdirectory: {}\n\
             http:\n  addr: {address}\n  secret: for-tests-only\n{extra}",
            data.display()
        );
        let (file, log) = (directory.join("config.yml"), directory.join("registry.log"));
        fs::write(&file, config)?;
        let output = fs::OpenOptions::new().create(true).append(true).open(&log)?;
        let mut command = Command::new(program);
        command.arg("serve").arg(&file).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        // Its own variables would win over the file.
        command.env_clear();
        let child = command.spawn().with_context(|| format!("starting {PROGRAM}"))?;
        let mut registry = Self { child, address, log };
        registry.wait()?;
        Ok(registry)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    fn wait(&mut self) -> Result<()> {
        let end = Instant::now() + START;
        while TcpStream::connect(self.address).is_err() {
            let log = || fs::read_to_string(&self.log).unwrap_or_default();
            if let Some(status) = self.child.try_wait()? {
                bail!("{PROGRAM} ended at its start ({status}): {}", log());
            }
            ensure!(Instant::now() < end, "{PROGRAM} did not answer in {START:?}: {}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        // Nothing can be done about an error here.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn binary() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut candidates = std::env::split_paths(&path).map(|folder| folder.join(PROGRAM));
    candidates.find(|candidate| candidate.is_file()).with_context(|| {
        format!("no {PROGRAM}: install it (Debian: apt-get install {PROGRAM}; `cargo xtask setup` does)")
    })
}
