//! `cargo xtask walkthrough`: `docs/walkthrough.md`, executed; and how any such document is. The shell blocks run in one bash, in an
//! empty directory, as they stand but for the ports; what they write is compared with the text block that follows each of them.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use countersign_testkit::home::free_address;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::paths;

const DOCUMENT: &str = "docs/walkthrough.md";
/// The ports in documents: the node's, and those of what stands around it. A run takes free ones, so that it disturbs nobody.
const PORTS: [&str; 4] = ["8000", "8001", "8002", "8003"];
const LIMIT: Duration = Duration::from_secs(120);

/// A shell block, and what it should write.
#[derive(Debug, PartialEq)]
struct Step {
    /// Where it starts in the document.
    line: usize,
    commands: String,
    /// Lines; `…` stands for anything within a line, and alone on a line for any lines.
    expected: Option<String>,
}

/// Runs the document; the answer is whether everything came out as it says.
///
/// # Errors
/// If the document has no steps, or bash cannot be run.
pub fn run(binary: &Path) -> Result<bool> {
    let held = document(binary, DOCUMENT, "walkthrough")?;
    println!("{}", if held { "ok" } else { "FAILED" });
    Ok(held)
}

/// Runs a document, named by its path from the root, in the run directory of that name.
///
/// # Errors
/// If the document has no steps, or bash cannot be run.
pub fn document(binary: &Path, document: &str, name: &str) -> Result<bool> {
    let text = fs::read_to_string(paths::root().join(document)).with_context(|| document.to_owned())?;
    let steps = steps(document, &free_ports(&text)?)?;
    ensure!(!steps.is_empty(), "{document} has no shell blocks");
    let directory = paths::run_directory(name)?;
    fs::create_dir(directory.join("bin"))?;
    symlink(binary, directory.join("bin/countersign"))?;
    fs::create_dir(directory.join("work"))?;
    fs::write(directory.join("script.sh"), script(&steps))?;
    let done = execute(&directory)?;
    let mut held = 0;
    for (number, step) in steps.iter().enumerate() {
        let output = fs::read_to_string(directory.join(format!("output.{number}"))).unwrap_or_default();
        match &step.expected {
            Some(expected) if !matches(expected, output.trim_end()) => {
                println!("{document}:{}: not as it says. It says:\n{expected}\nand it is:\n{output}", step.line);
            }
            _ if !done.contains(&number) => println!("{document}:{}: did not run to its end:\n{output}", step.line),
            _ => held += 1,
        }
    }
    println!("{name}: {held}/{} steps as {document} says", steps.len());
    Ok(held == steps.len())
}

/// The text with free ports in the place of its own.
fn free_ports(text: &str) -> Result<String> {
    let mut taken: Vec<u16> = Vec::new();
    while taken.len() < PORTS.len() {
        let port = free_address()?.port();
        if !taken.contains(&port) {
            taken.push(port);
        }
    }
    Ok(with_ports(text, &taken))
}

fn with_ports(text: &str, ports: &[u16]) -> String {
    let pairs = PORTS.iter().zip(ports);
    pairs.fold(text.to_owned(), |text, (port, free)| text.replace(&format!(":{port}"), &format!(":{free}")))
}

/// Each step writes to a file of its own and leaves a mark when it is through.
fn script(steps: &[Step]) -> String {
    let mut script = String::from("set -euo pipefail\n");
    for (number, Step { commands, .. }) in steps.iter().enumerate() {
        script.push_str(&format!("exec > ../output.{number} 2>&1\n{commands}\n: > ../done.{number}\n"));
    }
    script
}

/// Which steps ran to their end.
fn execute(directory: &Path) -> Result<Vec<usize>> {
    let path = std::env::var("PATH").unwrap_or_default();
    let log = File::create(directory.join("bash.txt"))?;
    let mut child = Command::new("bash")
        .arg("../script.sh")
        .current_dir(directory.join("work"))
        .env_clear()
        .env("PATH", format!("{}:{path}", directory.join("bin").display()))
        .env("HOME", directory.join("work"))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .spawn()
        .context("running bash")?;
    let group = Pid::from_raw(child.id().cast_signed());
    let end = Instant::now() + LIMIT;
    while child.try_wait()?.is_none() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(50));
    }
    // A step that failed leaves its node behind. The group may be gone already.
    let _ = killpg(group, Signal::SIGKILL);
    child.wait()?;
    let names = fs::read_dir(directory)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.filter_map(|name| name.strip_prefix("done.")?.parse().ok()).collect())
}

/// Takes the steps out of a Markdown text.
fn steps(name: &str, document: &str) -> Result<Vec<Step>> {
    let mut steps: Vec<Step> = Vec::new();
    let mut lines = document.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let Some(kind) = line.strip_prefix("```") else { continue };
        let mut block = Vec::new();
        loop {
            match lines.next() {
                Some((_, "```")) => break,
                Some((_, line)) => block.push(line),
                None => bail!("{name}:{}: the block does not end", number + 1),
            }
        }
        let text = block.join("\n");
        match kind {
            "sh" => steps.push(Step { line: number + 1, commands: text, expected: None }),
            "text" => {
                let step = steps.last_mut().filter(|step| step.expected.is_none());
                step.with_context(|| format!("{name}:{}: the output of nothing", number + 1))?.expected = Some(text);
            }
            _ => bail!("{name}:{}: blocks are sh or text", number + 1),
        }
    }
    Ok(steps)
}

/// Whether a text is as a pattern says.
fn matches(pattern: &str, text: &str) -> bool {
    let pattern: Vec<&str> = pattern.lines().map(str::trim_end).collect();
    let text: Vec<&str> = text.lines().map(str::trim_end).collect();
    lines_match(&pattern, &text)
}

fn lines_match(pattern: &[&str], text: &[&str]) -> bool {
    match (pattern, text) {
        ([], text) => text.is_empty(),
        (["…", rest @ ..], text) => (0..=text.len()).any(|skipped| lines_match(rest, &text[skipped..])),
        ([first, rest @ ..], [line, text @ ..]) => line_matches(first, line) && lines_match(rest, text),
        (_, []) => false,
    }
}

/// The parts between the ellipses must follow one another; the first starts the line and the last ends it.
fn line_matches(pattern: &str, line: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('…') else { return pattern == line };
    let Some(mut line) = line.strip_prefix(start) else { return false };
    let mut parts: Vec<&str> = rest.split('…').collect();
    let end = parts.pop().unwrap_or_default();
    for part in parts {
        let Some(at) = line.find(part) else { return false };
        line = &line[at + part.len()..];
    }
    line.ends_with(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_from_run_to_run_may_be_left_open_and_nothing_else() {
        for (pattern, text, expected) in [
            ("a\nb", "a\nb", true),
            ("a", "a\nb", false),
            ("a\n…", "a\nb\nc", true),
            ("…\nc", "a\nb\nc", true),
            ("…\nc", "a\nb", false),
            ("id …, …}", "id 7, x, y}", true),
            ("id …, …}", "id 7}", false),
            ("ab…b", "ab", false),
            ("", "", true),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern:?} and {text:?}");
        }
    }

    #[test]
    fn a_document_is_commands_and_what_they_write() {
        let found = steps("T", "# T\n\n```sh\na\nb\n```\nsays\n```text\nx\n```\n```sh\nc\n```\n").unwrap();
        assert_eq!(found[0], Step { line: 3, commands: "a\nb".into(), expected: Some("x".into()) });
        assert_eq!(found[1], Step { line: 11, commands: "c".into(), expected: None });
        assert!(steps("T", "```text\nx\n```\n").is_err() && steps("T", "```sh\nx\n").is_err());
        assert!(script(&found).contains("exec > ../output.1"));
    }

    #[test]
    fn ports_give_way_in_commands_and_in_what_they_write() {
        let text = "curl localhost:8000/v1 :8001\n{\"url\":\"http://127.0.0.1:8000/v1\",\"budget\":800}";
        let expected = "curl localhost:9/v1 :10\n{\"url\":\"http://127.0.0.1:9/v1\",\"budget\":800}";
        assert_eq!(with_ports(text, &[9, 10, 11, 12]), expected);
    }
}
