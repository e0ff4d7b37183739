//! moto's server, which is AWS's services as somebody else understands them, and a Python program with boto3 that looks at it and changes it.
//! Whoever wants a network in between that can be cut puts one in front of it.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use countersign_testkit::home::free_address;
use serde_json::Value;

use crate::{paths, setup};

const START: Duration = Duration::from_secs(30);

/// The server, ended when it is dropped.
pub struct Moto {
    child: Child,
    url: String,
    port: u16,
    python: PathBuf,
    program: PathBuf,
    key: Vec<(String, String)>,
}

impl Moto {
    /// Starts the server and has the program set it up, which answers with an access key (`id`, `secret`). The server is moto's own program as it is,
    /// unless `server` names another that runs moto. Both it and the program are in `xtask/stand-ins`.
    ///
    /// # Errors
    /// If it does not answer, or cannot be set up.
    pub fn start(directory: &Path, server: Option<&str>, program: &str, set_up: &[&str]) -> Result<Self> {
        let address = free_address()?;
        let bin = setup::stand_ins_directory().join("venv/bin");
        let log = fs::File::create(directory.join("moto.log"))?;
        let ours = |name: &str| paths::root().join("xtask/stand-ins").join(name);
        let mut command = Command::new(bin.join(if server.is_some() { "python" } else { "moto_server" }));
        command.args(server.map(ours));
        command.args(["-H", "127.0.0.1", "-p", &address.port().to_string()]);
        let child =
            command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn().context("starting moto")?;
        let (url, port, python) = (format!("http://{address}"), address.port(), bin.join("python"));
        let mut moto = Self { child, url, port, python, program: ours(program), key: Vec::new() };
        let end = Instant::now() + START;
        while TcpStream::connect(address).is_err() {
            if let Some(status) = moto.child.try_wait()? {
                bail!("moto ended at its start: {status}; see moto.log in {}", directory.display());
            }
            ensure!(Instant::now() < end, "moto did not answer in {START:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
        let made = moto.do_(set_up)?;
        for (name, member) in [("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "secret")] {
            let value = made[member].as_str().with_context(|| format!("moto was set up without {member}"))?;
            moto.key.push((name.to_owned(), value.to_owned()));
        }
        Ok(moto)
    }

    /// Where it listens, on this machine.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The access key that was made for the node, as environment variables.
    pub fn key(&self) -> &[(String, String)] {
        &self.key
    }

    /// Runs the program: a command, then where moto is, then the rest. It prints JSON.
    ///
    /// # Errors
    /// If it fails; what it says is in the message.
    pub fn do_(&self, arguments: &[&str]) -> Result<Value> {
        let (command, rest) = arguments.split_first().context("no command")?;
        let mut python = Command::new(&self.python);
        python.arg(&self.program).arg(command).arg(&self.url).args(rest).envs(self.key.iter().cloned());
        let output = python.output().context("running Python")?;
        ensure!(output.status.success(), "{arguments:?} at moto: {}", String::from_utf8_lossy(&output.stderr));
        Ok(serde_json::from_slice(&output.stdout)?)
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        // Nothing can be done about an error here.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
