//! The servers: what they are, how they are started, and what is asked of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use countersign_testkit::home::free_address;
use serde_json::{Value, json};

use crate::{paths, setup};

/// How many packages there are; one of them is reached in two ways.
pub const COUNT: usize = 4;

/// One upstream.
pub struct Server {
    /// Its name in the manifest.
    pub name: &'static str,
    /// The package, for people.
    pub package: &'static str,
    /// The manifest.
    pub manifest: String,
    /// A call that only reads.
    pub read: Use,
    /// A call that needs an approval.
    pub write: Use,
    /// Whether the clients use it too.
    pub approved: bool,
}

/// One use of a tool.
pub struct Use {
    /// The upstream's own name for it.
    pub tool: &'static str,
    /// Its arguments, made from a label that tells calls apart.
    pub arguments: Box<dyn Fn(&str) -> Value + Send + Sync>,
    /// What the result must contain.
    pub expected: String,
}

/// The upstreams, and the one process that the node does not start itself.
pub struct Servers {
    /// All of them.
    pub list: Vec<Server>,
    _http: Process,
}

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Makes the material that they work on, and describes them.
///
/// # Errors
/// If a file or the repository cannot be made.
pub fn prepare(directory: &Path) -> Result<Servers> {
    let files = directory.join("files");
    fs::create_dir_all(&files)?;
    fs::write(files.join("note.txt"), "a note for the reader\n")?;
    let repository = repository(&directory.join("repository"))?;
    let (url, http) = everything_over_http()?;
    let list = vec![everything(), everything_http(&url), filesystem(&files), git(&repository), time()];
    Ok(Servers { list, _http: http })
}

fn everything() -> Server {
    let script = module("server-everything");
    let transport = stdio(&setup::node_path(), &[script.display().to_string(), "stdio".into()]);
    Server {
        name: "everything",
        package: "npm server-everything (stdio)",
        manifest: manifest("everything", &transport, "get-sum"),
        read: sum(),
        write: Use {
            tool: "echo",
            arguments: Box::new(|label| json!({"message": format!("hello {label}")})),
            expected: "hello".into(),
        },
        approved: true,
    }
}

fn everything_http(url: &str) -> Server {
    let transport = format!("transport:\n  type: http\n  url: {url}\n");
    Server {
        name: "everything-http",
        package: "npm server-everything (streamable HTTP)",
        manifest: manifest("everything-http", &transport, "get-sum"),
        read: sum(),
        write: sum(),
        approved: false,
    }
}

fn sum() -> Use {
    Use { tool: "get-sum", arguments: Box::new(|_| json!({"a": 20, "b": 22})), expected: "42".into() }
}

fn filesystem(files: &Path) -> Server {
    let transport =
        stdio(&setup::node_path(), &[module("server-filesystem").display().to_string(), files.display().to_string()]);
    let (read, write) = (files.to_owned(), files.to_owned());
    Server {
        name: "fs",
        package: "npm server-filesystem (stdio)",
        manifest: manifest("fs", &transport, "read_text_file"),
        read: Use {
            tool: "read_text_file",
            arguments: Box::new(move |_| json!({"path": read.join("note.txt")})),
            expected: "a note for the reader".into(),
        },
        write: Use {
            tool: "write_file",
            arguments: Box::new(move |label| json!({"path": write.join(format!("{label}.txt")), "content": label})),
            expected: "Successfully wrote".into(),
        },
        approved: true,
    }
}

fn git(repository: &Path) -> Server {
    let transport =
        stdio(&setup::python_program("mcp-server-git"), &["--repository".into(), repository.display().to_string()]);
    let (read, write) = (repository.to_owned(), repository.to_owned());
    Server {
        name: "git",
        package: "PyPI mcp-server-git (stdio)",
        manifest: manifest("git", &transport, "git_status"),
        read: Use {
            tool: "git_status",
            arguments: Box::new(move |_| json!({"repo_path": read})),
            expected: "On branch".into(),
        },
        write: Use {
            tool: "git_create_branch",
            arguments: Box::new(move |label| json!({"repo_path": write, "branch_name": label})),
            expected: "Created branch".into(),
        },
        approved: true,
    }
}

fn time() -> Server {
    let transport = stdio(&setup::python_program("mcp-server-time"), &["--local-timezone".into(), "UTC".into()]);
    Server {
        name: "time",
        package: "PyPI mcp-server-time (stdio)",
        manifest: manifest("time", &transport, "get_current_time"),
        read: Use {
            tool: "get_current_time",
            arguments: Box::new(|_| json!({"timezone": "Europe/Vienna"})),
            expected: "Europe/Vienna".into(),
        },
        // The hour is the label here: late ones are in the evening.
        write: Use {
            tool: "convert_time",
            arguments: Box::new(|label| {
                let time = if label.starts_with("late") { "21:00" } else { "09:00" };
                json!({"source_timezone": "UTC", "time": time, "target_timezone": "Asia/Tokyo"})
            }),
            expected: "Asia/Tokyo".into(),
        },
        approved: true,
    }
}

fn manifest(name: &str, transport: &str, read: &str) -> String {
    format!("version: 1\nupstream: {name}\n{transport}start_timeout: 60s\ntools:\n  {read}: {{ effect: read }}\n")
}

fn stdio(command: &Path, arguments: &[String]) -> String {
    let arguments = serde_json::to_string(arguments).unwrap_or_default();
    format!("transport:\n  type: stdio\n  command: \"{}\"\n  args: {arguments}\n", command.display())
}

fn module(package: &str) -> PathBuf {
    paths::peers().join("node_modules/@modelcontextprotocol").join(package).join("dist/index.js")
}

fn repository(path: &Path) -> Result<PathBuf> {
    fs::create_dir_all(path)?;
    for arguments in [
        vec!["init", "--quiet", "--initial-branch", "main"],
        vec![
            "-c",
            "user.name=t",
            "-c",
            "user.email=t@example.org",
            "commit",
            "--quiet",
            "--allow-empty",
            "-m",
            "first",
        ],
    ] {
        let status = Command::new("git").args(&arguments).current_dir(path).status().context("running git")?;
        ensure!(status.success(), "git {arguments:?}");
    }
    Ok(path.to_owned())
}

fn everything_over_http() -> Result<(String, Process)> {
    let address = free_address()?;
    let child = Command::new(setup::node_path())
        .arg(module("server-everything"))
        .arg("streamableHttp")
        .env("PORT", address.port().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("starting server-everything over HTTP")?;
    let end = Instant::now() + Duration::from_secs(30);
    while std::net::TcpStream::connect(("127.0.0.1", address.port())).is_err() {
        ensure!(Instant::now() < end, "server-everything over HTTP does not listen");
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok((format!("http://{address}/mcp"), Process(child)))
}
