//! A Postgres server of the tests' own: its binaries from PATH or where Debian keeps them, its data in a temporary
//! directory, listening on a free loopback port. It ends with the process that started it.
//!
//! `COUNTERSIGN_TEST_POSTGRES` names a server to use instead, as a superuser's URL with a database.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Gid, Pid, Uid, User, geteuid};

/// The variable that names a server to use.
pub const VARIABLE: &str = "COUNTERSIGN_TEST_POSTGRES";
const USER: &str = "countersign";
const START: Duration = Duration::from_secs(60);

/// The server that all tests of a process share.
///
/// # Errors
/// If there is none and none can be started; the message says what to install.
pub fn shared() -> Result<&'static str> {
    static SERVER: OnceLock<Result<(String, Option<Postgres>), String>> = OnceLock::new();
    let server = SERVER.get_or_init(|| {
        if let Ok(url) = std::env::var(VARIABLE)
            && !url.is_empty()
        {
            return Ok((url, None));
        }
        let server = own_directory().and_then(|directory| Postgres::create(&directory));
        server.map(|server| (server.url(), Some(server))).map_err(|error| format!("{error:#}"))
    });
    server.as_ref().map(|(url, _)| url.as_str()).map_err(|error| anyhow::anyhow!("{error}"))
}

/// The URL of a fresh, empty schema on the shared server.
///
/// # Errors
/// Those of [`shared`], or if the schema cannot be made.
pub fn fresh_schema() -> Result<String> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let url = shared()?;
    let name = format!("test_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    query(url, &format!("CREATE SCHEMA {name}"))?;
    let join = if url.contains('?') { '&' } else { '?' };
    Ok(format!("{url}{join}options=-csearch_path%3D{name}"))
}

/// Runs SQL by `psql` and returns what it prints: values without decoration.
///
/// # Errors
/// If the server refuses it.
pub fn query(url: &str, sql: &str) -> Result<String> {
    let mut command = Command::new(binary("psql")?);
    // Whatever stands in the URL wins over the environment.
    let output = command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql, url]).output()?;
    ensure!(output.status.success(), "psql: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// A server that this process started.
#[derive(Debug)]
pub struct Postgres {
    data: PathBuf,
    port: u16,
    settings: Vec<String>,
    child: Option<Child>,
}

impl Postgres {
    /// Makes a cluster in `directory`, which is emptied, and starts it.
    ///
    /// # Errors
    /// If the binaries are missing or the server does not start.
    pub fn create(directory: &Path) -> Result<Self> {
        if directory.exists() {
            fs::remove_dir_all(directory).with_context(|| format!("emptying {}", directory.display()))?;
        }
        fs::create_dir_all(directory)?;
        let owner = owner()?;
        if let Some((uid, gid, _)) = &owner {
            fs::set_permissions(directory, fs::Permissions::from_mode(0o755))?;
            std::os::unix::fs::chown(directory, Some(uid.as_raw()), Some(gid.as_raw()))?;
        }
        let data = directory.join("data");
        let mut initdb = as_owner(&binary("initdb")?)?;
        initdb
            .args(["--auth=trust", "--encoding=UTF8", "--no-locale", "--no-instructions", "-U", USER, "-D"])
            .arg(&data);
        let output = initdb.current_dir(directory).output().context("running initdb")?;
        ensure!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));
        let port = free_port()?;
        let mut server = Self { data, port, settings: Vec::new(), child: None };
        server.start()?;
        query(&server.url(), "SELECT 1")?;
        Ok(server)
    }

    /// A superuser's URL.
    pub fn url(&self) -> String {
        format!("postgres://{USER}@127.0.0.1:{}/postgres", self.port)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its data directory.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Settings for the next start, such as `fsync=off`.
    pub fn set(&mut self, settings: &[&str]) {
        self.settings = settings.iter().map(|s| (*s).to_owned()).collect();
    }

    /// Puts a file beside its data that nobody but the server can read, and returns where.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn place(&self, name: &str, content: &str) -> Result<PathBuf> {
        let path = self.data.with_file_name(name);
        fs::write(&path, content)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        if let Some((uid, gid, _)) = owner()? {
            std::os::unix::fs::chown(&path, Some(uid.as_raw()), Some(gid.as_raw()))?;
        }
        Ok(path)
    }

    /// Starts it, on the port that it had before.
    ///
    /// # Errors
    /// If it does not answer within a minute.
    pub fn start(&mut self) -> Result<()> {
        let mut command = as_owner(&binary("postgres")?)?;
        command.arg("-D").arg(&self.data).args(["-p", &self.port.to_string()]);
        for setting in ["listen_addresses=127.0.0.1", "unix_socket_directories=", "max_connections=200"] {
            command.args(["-c", setting]);
        }
        for setting in &self.settings {
            command.args(["-c", setting]);
        }
        let directory = self.data.parent().unwrap_or(Path::new("/"));
        let log = fs::OpenOptions::new().create(true).append(true).open(directory.join("server.log"))?;
        command.current_dir(directory).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.child = Some(spawn(command)?);
        let end = Instant::now() + START;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err() || query(&self.url(), "SELECT 1").is_err() {
            let ended = self.child.as_mut().map(Child::try_wait).transpose()?.flatten();
            if let Some(status) = ended {
                bail!("postgres ended at its start ({status}): {}", self.log_tail());
            }
            ensure!(Instant::now() < end, "postgres did not answer in {START:?}: {}", self.log_tail());
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// A standby that follows this server by streaming replication, from a base backup beside its data. It runs, and has
    /// everything that was committed before.
    ///
    /// # Errors
    /// If the backup cannot be taken or the standby does not start.
    pub fn standby(&self, name: &str) -> Result<Self> {
        let data = self.data.with_file_name(name);
        let mut backup = as_owner(&binary("pg_basebackup")?)?;
        backup.args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", USER, "-R", "-X", "stream"]);
        backup.args(["-c", "fast", "-D"]).arg(&data);
        let output = backup.current_dir("/").output().context("running pg_basebackup")?;
        ensure!(output.status.success(), "pg_basebackup: {}", String::from_utf8_lossy(&output.stderr));
        let mut standby = Self { data, port: free_port()?, settings: Vec::new(), child: None };
        standby.start()?;
        let end = Instant::now() + START;
        let streaming = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND replay_lsn >= sent_lsn";
        while query(&self.url(), streaming)? == "0" {
            ensure!(Instant::now() < end, "the standby does not follow: {}", standby.log_tail());
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(standby)
    }

    /// From now on a commit waits for the standby, which must be there.
    ///
    /// # Errors
    /// If the server refuses it.
    pub fn wait_for_standby(&self) -> Result<()> {
        query(&self.url(), "ALTER SYSTEM SET synchronous_standby_names = '*'")?;
        query(&self.url(), "SELECT pg_reload_conf()")?;
        let end = Instant::now() + START;
        while query(&self.url(), "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'")? == "0" {
            ensure!(Instant::now() < end, "the standby does not become synchronous");
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Makes a standby a server of its own.
    ///
    /// # Errors
    /// If it is none.
    pub fn promote(&self) -> Result<()> {
        let promoted = query(&self.url(), "SELECT pg_promote()")?;
        ensure!(promoted == "t", "the standby was not promoted: {}", self.log_tail());
        Ok(())
    }

    /// Ends it at once, without a checkpoint, as the loss of the machine would (but nothing that it wrote is lost).
    ///
    /// # Errors
    /// If it cannot be signalled.
    pub fn stop_at_once(&mut self) -> Result<()> {
        self.stop(Signal::SIGQUIT)
    }

    /// Ends it in order; clients are disconnected.
    ///
    /// # Errors
    /// If it cannot be signalled.
    pub fn stop_in_order(&mut self) -> Result<()> {
        self.stop(Signal::SIGINT)
    }

    /// Copies the data directory of a stopped server, and returns where to.
    ///
    /// # Errors
    /// If it runs, or the copy fails.
    pub fn copy(&self, name: &str) -> Result<PathBuf> {
        ensure!(self.child.is_none(), "stop the server before copying its data");
        let to = self.data.with_file_name(name);
        let status = Command::new("cp").arg("-a").arg(&self.data).arg(&to).status()?;
        ensure!(status.success(), "cp: {status}");
        Ok(to)
    }

    /// Puts another data directory in the place of its own, for the next start.
    pub fn replace_data(&mut self, data: PathBuf) {
        self.data = data;
    }

    fn stop(&mut self, signal: Signal) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            kill(Pid::from_raw(child.id().cast_signed()), signal)?;
            child.wait()?;
        }
        Ok(())
    }

    fn log_tail(&self) -> String {
        let text = fs::read_to_string(self.data.with_file_name("server.log")).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // Nothing can be done about an error here.
        let _ = self.stop(Signal::SIGQUIT);
    }
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// Postgres refuses to run as root: then somebody without rights runs it.
fn owner() -> Result<Option<(Uid, Gid, String)>> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    for name in ["postgres", "nobody"] {
        if let Some(user) = User::from_name(name)? {
            return Ok(Some((user.uid, user.gid, name.to_owned())));
        }
    }
    bail!("Postgres does not run as root, and there is neither a user postgres nor nobody")
}

/// A command of the owner's, which ends when the thread that starts it does.
fn as_owner(program: &Path) -> Result<Command> {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "QUIT"]);
    if let Some((uid, gid, _)) = owner()? {
        command.args([&format!("--reuid={uid}"), &format!("--regid={gid}"), "--clear-groups"]);
    }
    command.arg(program);
    Ok(command)
}

/// Starts a child on a thread that lives as long as the process: the child's life hangs on its parent thread's.
fn spawn(command: Command) -> Result<Child> {
    type Order = (Command, Sender<std::io::Result<Child>>);
    static STARTER: OnceLock<Mutex<Sender<Order>>> = OnceLock::new();
    let starter = STARTER.get_or_init(|| {
        let (orders, received) = channel::<Order>();
        std::thread::spawn(move || {
            while let Ok((mut command, answer)) = received.recv() {
                // Whoever ordered it may have given up.
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(orders)
    });
    let (answer, answered) = channel();
    starter.lock().unwrap_or_else(PoisonError::into_inner).send((command, answer)).context("starting postgres")?;
    answered.recv()?.context("starting postgres (setpriv is of Debian's util-linux)")
}

/// A program of Postgres's server: the newest that Debian has installed, or from PATH.
///
/// # Errors
/// If there is none, with what to install.
pub fn binary(name: &str) -> Result<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = Vec::new();
    for entry in fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten() {
        let version = entry.file_name().to_string_lossy().parse().unwrap_or(0);
        found.push((version, entry.path().join("bin").join(name)));
    }
    found.sort();
    let installed = found.into_iter().rev().map(|(_, path)| path);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path: Vec<PathBuf> = std::env::split_paths(&path).map(|folder| folder.join(name)).collect();
    installed.chain(in_path).find(|candidate| candidate.is_file()).with_context(|| {
        format!("no {name}: install Postgres (Debian: apt-get install postgresql; `cargo xtask setup` does), or name a server in {VARIABLE}")
    })
}

/// A directory for this process; those of processes that are gone are removed.
fn own_directory() -> Result<PathBuf> {
    let base = std::env::temp_dir().join(format!("countersign-postgres-{}", geteuid()));
    fs::create_dir_all(&base)?;
    for entry in fs::read_dir(&base)?.flatten() {
        let dead = entry
            .file_name()
            .to_string_lossy()
            .parse::<u32>()
            .is_ok_and(|pid| !Path::new(&format!("/proc/{pid}")).exists());
        if dead {
            // Another process may be removing it too.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    Ok(base.join(std::process::id().to_string()))
}
