//! `cargo xtask …`: what a developer runs around the product. `cargo xtask help` lists it.
//!
//! Nothing here is part of the product. The acceptance programs drive the real binary from outside, see `crates/testkit`.
#![forbid(unsafe_code)]

mod crash;
mod hostile;
mod options;
mod paths;
mod peers;
mod setup;
mod strace;
mod tidy;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use countersign_testkit::random::Random;
use options::Options;

const HELP: &str = "\
cargo xtask COMMAND

  tidy                     walls between crates, module docs, links, licences
  setup                    install what the acceptance programs need (Debian, npm, PyPI)
  hostile                  what strangers, clients, approvers and upstreams can try
  crash --db sqlite [--writes N] [--kills K] [--seed S]
                           writers, kill -9, and what is true afterwards
  strace                   a system-call trace: no answer leaves before its sync
  peers                    other people's servers behind the gateway, other people's clients in front of it

Acceptance programs build the product in the release profile; --binary PATH takes another one.";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether what the command checks is as it should be.
fn run(arguments: &[String]) -> Result<bool> {
    let (command, rest) = match arguments.split_first() {
        Some((command, rest)) => (command.as_str(), rest),
        None => ("help", [].as_slice()),
    };
    let binary = |options: &Options| paths::product(options.text("binary"));
    match command {
        "help" | "--help" | "-h" => {
            println!("{HELP}");
            Ok(true)
        }
        "tidy" => Ok(tidy::run(&paths::root())? == 0),
        "setup" => setup::everything().map(|()| true),
        "peers" => peers::run(&binary(&Options::parse(rest, &["binary"])?)?),
        "crash" => crash(rest),
        "hostile" => hostile::run(&binary(&Options::parse(rest, &["binary"])?)?),
        "hostile-upstream" => {
            let control = rest.first().context("where is the control directory?")?;
            hostile::upstream::serve(Path::new(control)).map(|()| true)
        }
        "strace" => strace::run(&binary(&Options::parse(rest, &["binary"])?)?),
        _ => bail!("no command {command:?}; see `cargo xtask help`"),
    }
}

fn crash(arguments: &[String]) -> Result<bool> {
    let options = Options::parse(arguments, &["db", "writes", "kills", "seed", "binary"])?;
    let database = options.text("db").unwrap_or("sqlite");
    anyhow::ensure!(database == "sqlite", "--db {database}: there is only sqlite so far");
    let plan = crash::Plan {
        writes: options.value("writes", 10_000)?,
        kills: options.value("kills", 20)?,
        seed: options.value("seed", Random::seed_from_clock())?,
        name: "crash",
        power: None,
    };
    anyhow::ensure!(plan.writes > 0, "--writes must not be zero");
    crash::run(&paths::product(options.text("binary"))?, &plan)
}
