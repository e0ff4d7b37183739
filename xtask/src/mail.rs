//! `cargo xtask mail`: a node tells a team by mail, through a mail server of others (aiosmtpd) that demands TLS and a password, and Python's own
//! parser reads what arrived. With a wrong password, a certificate that nobody vouches for, or no TLS, nothing leaves the node.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use countersign_testkit::Home;
use countersign_testkit::home::free_address;
use countersign_testkit::node::Launch;
use serde_json::{Value, json};

use crate::{paths, setup};

const PASSWORD: &str = "correct horse";
/// Text that is easily broken on the way: dots that begin lines, long lines, other scripts, what looks like the protocol or an encoding.
const TEXT: &str = "Fixes CVE-2024-1234.\n.\n..two dots\nQUIT\n=?utf-8?Q?no?= =3D\n日本語 é e\u{301} 😀\n";
const SUBJECT: &str =
    "ready for review — 準備完了 ✓ and a subject that is longer than one line of a header may well be";

/// One node's settings, and how it must end: the words of a refusal, or none.
struct Case {
    name: &'static str,
    password: &'static str,
    /// Whether the node trusts the server's certificate.
    trusts: bool,
    /// Whether the server offers TLS.
    tls: bool,
    refused: Option<&'static str>,
}

const CASES: &[Case] = &[
    Case { name: "good", password: PASSWORD, trusts: true, tls: true, refused: None },
    Case { name: "wrong-password", password: "wrong", trusts: true, tls: true, refused: Some("535 5.7.8") },
    Case { name: "stranger", password: PASSWORD, trusts: false, tls: true, refused: Some("TLS: ") },
    Case { name: "no-tls", password: PASSWORD, trusts: true, tls: false, refused: Some("does not offer TLS") },
];

/// Runs every case.
///
/// # Errors
/// If the test itself cannot be run.
pub fn run(binary: &Path) -> Result<bool> {
    setup::python()?;
    let directory = paths::run_directory("mail")?;
    let (mut held, mut taken) = (0, 0);
    for case in CASES {
        let place = directory.join(case.name);
        fs::create_dir(&place)?;
        match (attempt(binary, case, &place)?, case.refused) {
            (Ok(_), None) => {
                taken += 1;
                held += 1;
            }
            (Err(why), Some(words)) if why.contains(words) && !why.contains(PASSWORD) => held += 1,
            (outcome, _) => println!("{}: {outcome:?}", case.name),
        }
    }
    println!("mail: taken {taken}/1, refused {}/{}", held - taken, CASES.len() - 1);
    Ok(held == CASES.len())
}

/// One mail by a node of its own; what the node said.
fn attempt(binary: &Path, case: &Case, place: &Path) -> Result<Result<Value, String>> {
    let port = free_address()?.port();
    let server = Server::start(place, port, case.tls)?;
    let node = {
        let home = Home::create(&place.join("home"), &settings(port))?;
        home.access("all", "permit (principal, action, resource);\n")?;
        let password = home.directory().join("mail.password");
        fs::write(&password, format!("{}\n", case.password))?;
        fs::set_permissions(&password, fs::Permissions::from_mode(0o600))?;
        let mut launch = Launch::new(binary);
        if case.trusts {
            launch.environment.push(("SSL_CERT_FILE".to_owned(), server.certificate().display().to_string()));
        }
        launch.start(&home)?
    };
    let mut agent = node.client(&node.home().agent("release-bot", &["tester"]));
    let wanted = json!({ "team": "security", "artifact": "api:v1.2.1", "subject": SUBJECT, "text": TEXT });
    let reply = agent.post("/v1/notifications", &wanted)?;
    let said = String::from_utf8_lossy(&reply.body).into_owned();
    let outcome = if reply.status == 200 { Ok(serde_json::from_str::<Value>(&said)?) } else { Err(said) };
    let log = node.log_tail();
    node.stop()?;
    ensure!(!log.contains(case.password) || case.password == "wrong", "the password is in the log");
    let mails = server.mails()?;
    match &outcome {
        Ok(told) => check(told, &mails)?,
        Err(_) => ensure!(mails.is_empty(), "{}: a mail arrived: {mails:?}", case.name),
    }
    Ok(outcome)
}

fn settings(port: u16) -> String {
    format!(
        "[trust]\nenabled = true\n[trust.mail]\nhost = \"localhost\"\nport = {port}\nfrom = \"node@example.com\"\nusername = \"node\"\n\
         password_file = \"mail.password\"\n[[trust.teams]]\nname = \"security\"\nmail = [\"ann@example.com\", \"nobody@example.com\"]\n"
    )
}

/// What the node said, and what the other side read, agree.
fn check(told: &Value, mails: &[Value]) -> Result<()> {
    ensure!(told["notified"] == true && told["complete"] == false, "{told}");
    let outcomes: Vec<&Value> =
        told["channels"][0]["recipients"].as_array().into_iter().flatten().map(|one| &one["outcome"]).collect();
    ensure!(outcomes == ["accepted", "refused"], "{told}");
    let [mail] = mails else { anyhow::bail!("one mail is expected: {mails:?}") };
    let id = told["notification_id"].as_str().context("no id")?;
    for (member, expected) in [
        ("tls", json!(true)),
        ("user", json!("node")),
        ("sender", json!("node@example.com")),
        ("recipients", json!(["ann@example.com"])),
        ("from", json!("node@example.com")),
        ("to", json!(["ann@example.com", "nobody@example.com"])),
        ("subject", json!(format!("api:v1.2.1: {SUBJECT}"))),
        ("auto", json!("auto-generated")),
        ("id", json!(format!("<{id}.security@example.com>"))),
        ("defects", json!([])),
    ] {
        ensure!(mail[member] == expected, "{member} is {}, not {expected}", mail[member]);
    }
    let text = mail["text"].as_str().context("no text")?.replace("\r\n", "\n");
    ensure!(text.contains(TEXT.trim_end()), "the text came out otherwise: {text}");
    ensure!(mail["longest"].as_u64().is_some_and(|longest| longest <= 78), "a line of {} bytes", mail["longest"]);
    Ok(())
}

/// The mail server. Dropped, it is stopped.
struct Server {
    child: Child,
    directory: PathBuf,
}

impl Server {
    /// Starts it and waits until it listens.
    fn start(directory: &Path, port: u16, tls: bool) -> Result<Self> {
        let mut command = Command::new(setup::python_path());
        command.arg(paths::root().join("xtask/peers/mail_server.py")).arg(directory).arg(port.to_string());
        if !tls {
            command.arg("plain");
        }
        let log = fs::File::create(directory.join("mail-server.log"))?;
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn()?;
        let output = child.stdout.take().context("no pipe")?;
        let server = Self { child, directory: directory.to_owned() };
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        ensure!(line.trim() == "listening", "the mail server did not start; see {}", directory.display());
        Ok(server)
    }

    fn certificate(&self) -> PathBuf {
        self.directory.join("certificate.pem")
    }

    /// What it read of the mails that it took.
    fn mails(&self) -> Result<Vec<Value>> {
        let path = self.directory.join("mails.jsonl");
        if !path.exists() {
            return Ok(Vec::new());
        }
        fs::read_to_string(path)?.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
