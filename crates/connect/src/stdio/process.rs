//! A child process with a group of its own, which dies with us and takes its group with it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::OnceLock;
use std::sync::mpsc;
use std::time::Duration;

use countersign_domain::UpstreamName;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout};

/// How long a process may take to end after its input was closed.
const CLOSE_GRACE: Duration = Duration::from_millis(500);
/// How long a process may take to end after SIGTERM.
const TERM_GRACE: Duration = Duration::from_secs(2);

/// Variables that are passed on. Everything else, the node's secrets among it, is not.
const PASSED_ON: &[&str] = &[
    "HOME",
    "LANG",
    "LANGUAGE",
    "LC_ALL",
    "LC_CTYPE",
    "LC_MESSAGES",
    "LOGNAME",
    "PATH",
    "SHELL",
    "TMPDIR",
    "TZ",
    "USER",
];

/// What to run.
#[derive(Debug, Clone)]
pub(crate) struct Command {
    pub(crate) upstream: UpstreamName,
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<String>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) cwd: Option<PathBuf>,
}

/// A running child and the streams to it.
pub(crate) struct Running {
    pub(crate) process: Process,
    pub(crate) stdin: ChildStdin,
    pub(crate) stdout: ChildStdout,
    pub(crate) stderr: ChildStderr,
}

/// A child that has not been reaped: as long as it is not, its group's number cannot become another's. Dropping it kills
/// the group.
pub(crate) struct Process {
    child: Option<Child>,
    group: Pid,
}

impl Command {
    /// Starts the program.
    ///
    /// # Errors
    /// In words, if it cannot be started.
    pub(crate) fn spawn(&self) -> Result<Running, String> {
        let failed = |e: std::io::Error| format!("cannot start {}: {e}", self.program.display());
        let mut command = tokio::process::Command::new(&self.program);
        command
            .args(&self.args)
            .env_clear()
            .envs(PASSED_ON.iter().filter_map(|name| Some((*name, std::env::var_os(name)?))))
            .envs(self.env.iter().map(|(name, value)| (name, OsString::from(value))))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        if let Some(cwd) = &self.cwd {
            command.current_dir(cwd);
        }
        die_with_us(&mut command);
        let mut child = on_spawner(move || command.spawn())?.map_err(failed)?;
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).ok_or("it ended at once")?;
        let streams = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let process = Process { child: Some(child), group: Pid::from_raw(pid) };
        let (Some(stdin), Some(stdout), Some(stderr)) = streams else { return Err("it has no streams".to_owned()) };
        Ok(Running { process, stdin, stdout, stderr })
    }
}

impl Process {
    /// Ends the process and its group: patience, SIGTERM, SIGKILL. Its input must have been closed before. Returns how it
    /// ended, in words.
    pub(crate) async fn end(mut self) -> String {
        let Some(mut child) = self.child.take() else { return String::new() };
        let guard = KillGroup(self.group);
        if !exited_within(self.group, CLOSE_GRACE).await {
            let _ = killpg(self.group, Signal::SIGTERM);
            exited_within(self.group, TERM_GRACE).await;
        } else {
            // The leader is gone; what it started gets a chance to end well.
            let _ = killpg(self.group, Signal::SIGTERM);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // Before the leader is reaped, and with it the claim on the group's number.
        drop(guard);
        match child.wait().await {
            Ok(status) => format!("it ended with {status}"),
            Err(error) => format!("it ended: {error}"),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.child.is_some() {
            drop(KillGroup(self.group));
        }
    }
}

/// Kills a group when dropped, so that a task that is dropped in mid-air leaves nothing running.
struct KillGroup(Pid);

impl Drop for KillGroup {
    fn drop(&mut self) {
        let _ = killpg(self.0, Signal::SIGKILL);
    }
}

/// Whether the process ends within this time. It is not reaped.
async fn exited_within(pid: Pid, time: Duration) -> bool {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    let exited = || !matches!(waitid(Id::Pid(pid), flags), Ok(WaitStatus::StillAlive));
    let until = tokio::time::Instant::now() + time;
    while !exited() {
        if tokio::time::Instant::now() >= until {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    true
}

/// Has the kernel kill the child when we are gone, however that happens.
#[cfg(target_os = "linux")]
fn die_with_us(command: &mut tokio::process::Command) {
    let parent = nix::unistd::getpid();
    let prepare = move || {
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
        // We may have died before the request took effect.
        if nix::unistd::getppid() == parent { Ok(()) } else { Err(nix::errno::Errno::ESRCH.into()) }
    };
    // SAFETY: between fork and exec only async-signal-safe calls are allowed: prctl and getppid are plain system calls,
    // and an error made of a number allocates nothing.
    #[allow(unsafe_code, reason = "a parent-death signal can only be set by the child itself, before exec")]
    unsafe {
        command.pre_exec(prepare);
    }
}

#[cfg(not(target_os = "linux"))]
fn die_with_us(_: &mut tokio::process::Command) {}

type Job = Box<dyn FnOnce() + Send>;

/// Runs a job on a thread that lives as long as we do. The kernel ties a child's fate to the *thread* that made it, and a
/// runtime's threads come and go.
fn on_spawner<T: Send + 'static>(job: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    static SPAWNER: OnceLock<mpsc::Sender<Job>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (jobs, inbox) = mpsc::channel::<Job>();
        let run = move || inbox.into_iter().for_each(|job| job());
        // Without the thread the channel is closed, and every start says so.
        let _ = std::thread::Builder::new().name("upstream-spawner".into()).spawn(run);
        jobs
    });
    let runtime = tokio::runtime::Handle::current();
    let (answer, result) = mpsc::sync_channel(1);
    let job: Job = Box::new(move || {
        let _in_runtime = runtime.enter();
        let _ = answer.send(job());
    });
    let gone = || "processes cannot be started any more".to_owned();
    spawner.send(job).map_err(|_| gone())?;
    // A fork and an exec: short enough to wait for without leaving the thread.
    result.recv().map_err(|_| gone())
}
