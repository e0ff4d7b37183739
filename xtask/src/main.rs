//! `cargo xtask …`: what a developer runs around the product. `cargo xtask help` lists it.
//!
//! Nothing here is part of the product. The acceptance programs drive the real binary from outside, see `crates/testkit`.
#![forbid(unsafe_code)]

mod bench;
mod conformance;
mod crash;
mod evidence;
mod foreign;
mod fuzz;
mod hostile;
mod jose;
mod kms;
mod mail;
mod moto;
mod observe;
mod oidc;
mod options;
mod paths;
mod peers;
mod power;
mod s3;
mod setup;
mod sigstore;
mod soak;
mod softhsm;
mod stages;
mod strace;
mod tidy;
mod twins;
mod use_cases;
mod walkthrough;
mod witness;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail, ensure};
use countersign_testkit::random::Random;
use options::Options;

const HELP: &str = "\
cargo xtask COMMAND

  test                     everything below but bench, foreign, soak and fuzz, and every test; installs what is missing
  tidy                     walls between crates, module docs, links, licences
  setup                    install what the acceptance programs need (Debian, npm, PyPI)
  hostile [--only TEXT] [--flood REQUESTS]
                           what strangers, clients, approvers, issuers and upstreams can try
  bench --json FILE [--seconds S] [--connections 1,32] [--ways direct,gateway] [--growth CALLS]
                           what the gate costs, beside the upstream alone and nginx
  conformance [--only upstream|PAIRING|client] [--update]
                           the official MCP conformance suite through the gateway, in each pairing of eras
  evidence                 restored backups fork nothing, erased events cannot be guessed
  crash --db sqlite [--writes N] [--kills K] [--seed S]
                           writers, kill -9, and what is true afterwards
  crash --db postgres [--nodes N] [--writes N] [--kills K] [--seed S]
                           the same on several nodes that share a log, with cut networks and an old database
  crash --artifacts [--writes N] [--kills K] [--seed S]
                           the same while artifacts are signed and kept, with an object store that goes away
  power-cut [--writes N] [--kills K] [--seed S]
                           the same on a layer that forgets what was not synced
  fuzz [--minutes M] [--only TARGET,TARGET] [--jobs J]
                           every fuzz target for that long; installs nightly and cargo-fuzz
  strace                   a system-call trace: no answer leaves before its sync
  oidc                     a real OpenID provider in front of a node: tokens, key rotation, absence
  walkthrough              docs/walkthrough.md, executed
  use-cases [--only TEXT]  docs/use-cases and docs/editors, executed
  twins [--set tuning|held-out]
                           what the scan of definitions catches, and what it lets pass
  witness                  two nodes witness each other; forked logs are refused and reported
  sigstore                 a node's signatures before other people's verifiers, and each of them changed
  foreign                  images signed by a node before cosign, its log before litewitness; needs Go, and is not part of `test`
  jose                     signed artifacts before other people's JOSE libraries, and each of them changed
  mail                     notices to a mail server of others, read by another parser; and servers that must not be trusted
  s3                       signed artifacts in a bucket of somebody else's S3: locks, holds, a store that goes away or is changed
  softhsm                  keys on a PKCS#11 token: sign, rotate, restart, and a token that goes away
  kms                      the same with keys in moto's KMS, behind a network that goes away
  observe                  metrics and spans of a real node, read by other people's parsers
  soak [--minutes N] [--share S] [--csv FILE] [--svg FILE]
                           a share of the peak load, for long; samples and a graph
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
        "test" => stages::run(),
        "tidy" => Ok(tidy::run(&paths::root())? == 0),
        "setup" => setup::everything().map(|()| true),
        "peers" => peers::run(&binary(&Options::parse(rest, &["binary"])?)?),
        "crash" => {
            if rest.first().is_some_and(|word| word == "--artifacts") {
                let (plan, binary) = crash_plan(&rest[1..], "crash-artifacts", 2_000, 10)?;
                return crash::artifacts::run(&binary, &plan);
            }
            let options = Options::parse(rest, &["db", "nodes", "writes", "kills", "seed", "binary"])?;
            match options.text("db").unwrap_or("sqlite") {
                "postgres" => crash::nodes::run(&binary(&options)?, &nodes_plan(&options)?),
                "sqlite" => {
                    let (plan, binary) = crash_plan(rest, "crash", 10_000, 20)?;
                    crash::run(&binary, &plan)
                }
                other => bail!("--db {other}: there are sqlite and postgres"),
            }
        }
        "power-cut" => {
            let (plan, binary) = crash_plan(rest, "power-cut", 1_000, 8)?;
            power::run(&binary, plan)
        }
        "bench" => bench(rest),
        "bench-upstream" => {
            let address = rest.first().context("where to listen?")?;
            bench::upstream::serve(address.parse()?).map(|()| true)
        }
        "conformance" => conformance(rest),
        "conformance-upstream" => {
            let [address, era, journal] = rest else { bail!("where to listen, which era, which journal?") };
            conformance::serve_upstream(address, era, Path::new(journal)).map(|()| true)
        }
        "conformance-client" => {
            let [binary, driver, homes, url] = rest else { bail!("which binary, driver, directory and URL?") };
            conformance::drive_client(Path::new(binary), Path::new(driver), Path::new(homes), url).map(|()| true)
        }
        "evidence" => evidence::run(&binary(&Options::parse(rest, &["binary"])?)?),
        "twins" => twins::run(Options::parse(rest, &["set"])?.text("set")),
        "hostile" => {
            let options = Options::parse(rest, &["binary", "only", "flood"])?;
            let usual = hostile::Plan::default();
            let plan = hostile::Plan {
                only: options.text("only").map(str::to_owned),
                flood: options.value("flood", usual.flood)?,
            };
            hostile::run(&binary(&options)?, &plan)
        }
        "hostile-upstream" => {
            let control = rest.first().context("where is the control directory?")?;
            hostile::upstream::serve(Path::new(control)).map(|()| true)
        }
        "jose" => jose::run(&binary(&Options::parse(rest, &["binary"])?)?),
        "mail" => mail::run(&binary(&Options::parse(rest, &["binary"])?)?),
        "s3" => s3::run(&binary(&Options::parse(rest, &["binary"])?)?),
        "kms" => kms::run(&binary(&Options::parse(rest, &["binary"])?)?),
        "softhsm" => softhsm::run(&binary(&Options::parse(rest, &["binary"])?)?),
        "foreign" => foreign::run(&binary(&Options::parse(rest, &["binary"])?)?),
        "oidc" => oidc::run(&binary(&Options::parse(rest, &["binary"])?)?),
        "sigstore" => sigstore::run(&binary(&Options::parse(rest, &["binary"])?)?),
        "witness" => witness::run(&binary(&Options::parse(rest, &["binary"])?)?),
        "observe" => observe::run(&binary(&Options::parse(rest, &["binary"])?)?),
        "soak" => soak(rest),
        "use-cases" => {
            let options = Options::parse(rest, &["binary", "only"])?;
            use_cases::run(&binary(&options)?, options.text("only"))
        }
        "walkthrough" => walkthrough::run(&binary(&Options::parse(rest, &["binary"])?)?),
        "fuzz" => {
            let options = Options::parse(rest, &["minutes", "only", "jobs"])?;
            fuzz::run(&fuzz::Plan {
                minutes: options.value("minutes", 10.0)?,
                only: options.text("only").map(str::to_owned),
                jobs: options.value("jobs", 2)?,
            })
        }
        "strace" => strace::run(&binary(&Options::parse(rest, &["binary"])?)?),
        _ => bail!("no command {command:?}; see `cargo xtask help`"),
    }
}

/// The options of `crash` and `power-cut`, with their defaults.
fn crash_plan(arguments: &[String], name: &'static str, writes: usize, kills: usize) -> Result<(crash::Plan, PathBuf)> {
    let options = Options::parse(arguments, &["db", "writes", "kills", "seed", "binary"])?;
    let database = options.text("db").unwrap_or("sqlite");
    ensure!(database == "sqlite", "--db {database}: {name} has only sqlite");
    let plan = crash::Plan {
        writes: options.value("writes", writes)?,
        kills: options.value("kills", kills)?,
        seed: options.value("seed", Random::seed_from_clock())?,
        name,
        power: None,
    };
    ensure!(plan.writes > 0, "--writes must not be zero");
    Ok((plan, paths::product(options.text("binary"))?))
}

fn conformance(arguments: &[String]) -> Result<bool> {
    let options = Options::parse(arguments, &["binary", "only", "update"])?;
    let plan =
        conformance::Plan { only: options.text("only").map(str::to_owned), update: options.text("update").is_some() };
    let needs_product = plan.only.as_deref() != Some("upstream");
    let binary = if needs_product { paths::product(options.text("binary"))? } else { PathBuf::new() };
    conformance::run(&binary, &plan)
}

fn nodes_plan(options: &Options) -> Result<crash::nodes::Plan> {
    setup::programs(&[setup::INITDB])?;
    let plan = crash::nodes::Plan {
        writes: options.value("writes", 10_000)?,
        kills: options.value("kills", 20)?,
        nodes: options.value("nodes", 2)?,
        seed: options.value("seed", Random::seed_from_clock())?,
        name: "crash-postgres",
    };
    ensure!(plan.writes > 0, "--writes must not be zero");
    Ok(plan)
}

fn soak(arguments: &[String]) -> Result<bool> {
    let options = Options::parse(arguments, &["minutes", "share", "csv", "svg", "binary"])?;
    let file = |name: &str| -> Result<PathBuf> {
        let given = options.text(name).filter(|path| !path.is_empty());
        Ok(std::env::current_dir()?.join(given.unwrap_or(&format!("soak.{name}"))))
    };
    let plan = soak::Plan {
        minutes: options.value("minutes", 60.0)?,
        share: options.value("share", 0.1)?,
        csv: file("csv")?,
        svg: file("svg")?,
        binary: paths::product(options.text("binary"))?,
    };
    soak::run(&plan)
}

fn bench(arguments: &[String]) -> Result<bool> {
    let options = Options::parse(arguments, &["json", "seconds", "binary", "connections", "ways", "growth"])?;
    let json = options.text("json").filter(|path| !path.is_empty()).context("say where to: --json FILE")?;
    let plan = bench::Plan {
        json: std::env::current_dir()?.join(json),
        seconds: options.value("seconds", 5)?,
        binary: options.text("binary").map(str::to_owned),
        connections: match options.text("connections") {
            Some(list) => list.split(',').map(str::parse).collect::<Result<_, _>>().context("--connections 1,32")?,
            None => bench::CONNECTIONS.to_vec(),
        },
        growth: options.value("growth", 200_000)?,
        ways: options.text("ways").map(|list| list.split(',').map(str::to_owned).collect()),
    };
    bench::run(&plan)
}
