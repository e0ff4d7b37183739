//! `countersign doctor`: looks for what is wrong and says how to fix it. Each check is a function that yields findings; none
//! changes anything, except that the disk check writes and removes one small file in the data directory.

mod around;
mod disk;

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Instant;

use countersign_server::Config;
use countersign_server::config::is_loopback;
use serde::Serialize;
use serde_json::Value;

use crate::cli::Global;
use crate::client::Node;
use crate::exit::Exit;
use crate::local;
use crate::output::{self, Style};

/// Options of `doctor`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// How serious a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Ok,
    Warn,
    Fail,
}

/// What a check found.
#[derive(Debug, Serialize)]
struct Finding {
    check: &'static str,
    level: Level,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
}

fn ok(check: &'static str, found: impl Into<String>) -> Finding {
    Finding { check, level: Level::Ok, found: found.into(), fix: None }
}

fn warn(check: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Finding {
    Finding { check, level: Level::Warn, found: found.into(), fix: Some(fix.into()) }
}

fn fail(check: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Finding {
    Finding { check, level: Level::Fail, found: found.into(), fix: Some(fix.into()) }
}

/// Looks, and shows a table. Fails if a check does; warnings alone don't.
///
/// # Errors
/// None; what cannot be looked at is a finding.
pub async fn run(global: &Global, _: Args) -> anyhow::Result<Exit> {
    let mut findings = vec![clock()];
    match local::config(global) {
        Ok(config) => {
            findings.push(ok("configuration", describe(&config)));
            findings.extend(look(global, &config).await);
        }
        Err(error) => findings.push(fail(
            "configuration",
            format!("{error:#}"),
            "correct the line named, or start with `countersign up --init`",
        )),
    }
    let worst = findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok);
    if global.json {
        output::json(&serde_json::to_value(&findings)?);
    } else {
        output::table(&["", "CHECK", "FOUND", "FIX"], findings.iter().map(row).collect());
    }
    Ok(if worst == Level::Fail { Exit::Failed } else { Exit::Ok })
}

fn row(finding: &Finding) -> Vec<String> {
    let mark = match finding.level {
        Level::Ok => output::paint(Style::Good, "ok"),
        Level::Warn => output::paint(Style::Warn, "warn"),
        Level::Fail => output::paint(Style::Bad, "FAIL"),
    };
    vec![
        mark,
        finding.check.to_owned(),
        output::visible(&finding.found),
        output::visible(finding.fix.as_deref().unwrap_or("")),
    ]
}

async fn look(global: &Global, config: &Config) -> Vec<Finding> {
    let mut findings = vec![identities(config), head_place(config)];
    findings.extend(scenarios(config));
    findings.extend(reach(config));
    findings.extend(permissions(config));
    findings.extend(database(config).await);
    findings.extend(disk::findings(&config.data_dir));
    match Node::find_running(global) {
        Ok(Some(node)) => findings.extend(running(global, &node).await),
        Ok(None) => findings.extend([
            address(config),
            local::data::standing(global).map_or_else(
                |error| {
                    fail(
                        "log head",
                        format!("{error:#}"),
                        "`countersign log fsck` says what is wrong; restore a backup if needed",
                    )
                },
                |found| ok("log head", found),
            ),
        ]),
        Err(error) => findings.push(fail("node", format!("{error:#}"), "start it with `countersign up`")),
    }
    findings.extend(manifests(config));
    findings.extend(around::findings(global, config));
    findings.push(policies(global, config).await);
    findings
}

fn describe(config: &Config) -> String {
    let file = config.config_file.display();
    if config.config_file.is_file() {
        file.to_string()
    } else {
        format!("{file} does not exist; defaults are in force")
    }
}

/// A receipt's times are this clock's claims.
fn clock() -> Finding {
    // 2026-01-01: a clock before this program was written is certainly wrong.
    const EARLIEST: i64 = 1_767_225_600_000;
    let now = output::now_ms();
    if now < EARLIEST {
        return fail("clock", output::utc(now), "set the clock; run chrony or systemd-timesyncd");
    }
    ok("clock", format!("{} (whether it is exact cannot be told from here)", output::utc(now)))
}

fn identities(config: &Config) -> Finding {
    match (config.development_issuer, is_loopback(&config.listen), config.issuers.len()) {
        (true, true, _) => warn(
            "identities",
            "the development issuer is on: whoever can read the data directory can be anybody",
            "fine on your own machine; for others, configure [[issuers]] and set [development] issuer = false",
        ),
        (true, false, _) => {
            fail("identities", "the development issuer is on, off loopback", "set [development] issuer = false")
        }
        (false, _, issuers) => ok("identities", format!("{issuers} issuers")),
    }
}

/// Where answers may be made up, nobody should take one for the truth.
fn scenarios(config: &Config) -> Option<Finding> {
    let found = "scenarios are on ([trust] scenarios): whoever asks this node to verify may be answered something that is made up";
    let on = config.trust.as_ref().is_some_and(|trust| trust.scenarios);
    on.then(|| warn("scenarios", found, "for tests and demos only: take the line out, and start the node anew"))
}

/// What others will rely on, off loopback.
fn reach(config: &Config) -> Vec<Finding> {
    let open = countersign_server::config::unsettled(config);
    let fix = "settle it before the first start: docs/identity.md, \"What is settled before the first leaf\"";
    if open.is_empty() {
        return vec![ok("reach", format!("{} as {}", config.url(), config.log_domain))];
    }
    open.into_iter().map(|what| fail("reach", what, fix)).collect()
}

/// Next to the database, the head would be restored together with it.
fn head_place(config: &Config) -> Finding {
    let found = config.head_file.display().to_string();
    if config.head_file.starts_with(&config.data_dir) {
        return warn(
            "head file",
            found,
            "keep head_file outside the data directory, best on another disk: it notices a restored database",
        );
    }
    ok("head file", found)
}

/// Whether the shared database answers, and keeps what it commits.
async fn database(config: &Config) -> Option<Finding> {
    let url = config.database.clone()?;
    let examined = tokio::task::spawn_blocking(move || countersign_store::PostgresStore::examine(url.reveal())).await;
    Some(match examined {
        Ok(Ok(found)) if found.contains("asynchronous") => {
            warn("database", found, "set synchronous_standby_names, or know what a failover can lose (docs/ledger.md)")
        }
        Ok(Ok(found)) => ok("database", found),
        Ok(Err(error)) => fail("database", error.to_string(), "look at database_url and at the server's own log"),
        Err(error) => fail("database", error.to_string(), "run doctor again"),
    })
}

fn permissions(config: &Config) -> Vec<Finding> {
    let (data_dir, keys_dir) = (&config.data_dir, &config.keys_dir);
    let Ok(entries) = std::fs::read_dir(keys_dir) else {
        return vec![warn(
            "key files",
            format!("none in {}", keys_dir.display()),
            "`countersign up` makes them on the first start",
        )];
    };
    let keys = entries.flatten().map(|entry| entry.path());
    let mut paths: Vec<_> = keys.chain([data_dir.clone(), keys_dir.clone()]).collect();
    paths.sort();
    let exposed: Vec<_> = paths.iter().filter(|path| exposed(path)).collect();
    if exposed.is_empty() {
        return vec![ok("key files", format!("{} paths, for their owner alone", paths.len()))];
    }
    exposed
        .iter()
        .map(|path| {
            fail("key files", format!("others can read {}", path.display()), format!("chmod go= {}", path.display()))
        })
        .collect()
}

fn exposed(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.mode() & 0o077 != 0)
}

fn address(config: &Config) -> Finding {
    let listen = config.listen;
    match std::net::TcpListener::bind(listen) {
        Ok(_) => warn("node", format!("none runs; {listen} is free"), "start it with `countersign up`"),
        Err(error) => fail(
            "node",
            format!("none runs here, and {listen} cannot be used: {error}"),
            "choose another `listen`, or end what uses it",
        ),
    }
}

async fn running(global: &Global, node: &Node) -> Vec<Finding> {
    // Asked twice: the first answer includes setting up the connection.
    let first = node.get("/health").await;
    let since = Instant::now();
    let health = match (first, node.get("/health").await) {
        (Ok(_), Ok(health)) => health,
        (Err(error), _) | (_, Err(error)) => {
            return vec![fail("node", format!("{error:#}"), "look at its log; start it again with `countersign up`")];
        }
    };
    let took = since.elapsed().as_micros();
    let mut findings = vec![if health["status"] == "ok" {
        ok("node", format!("{} answers in {took} µs", node.base()))
    } else {
        fail(
            "node",
            format!("{} says {}", node.base(), output::text(&health, "/status")),
            "look at its log: the ledger may be unable to record",
        )
    }];
    let ours = env!("CARGO_PKG_VERSION");
    if let Ok(Some(file)) = local::node_file(global)
        && file.version != ours
    {
        findings.push(warn(
            "version",
            format!("the node is {}, this command {ours}", file.version),
            "restart the node, or use its own command",
        ));
    }
    findings.extend(upstreams(node).await);
    findings
}

async fn upstreams(node: &Node) -> Vec<Finding> {
    let (status, tools) = (node.get("/admin/status").await, node.get("/admin/tools").await);
    let (status, tools) = match (status, tools) {
        (Ok(status), Ok(tools)) => (status, tools),
        (Err(error), _) | (_, Err(error)) => {
            return vec![warn(
                "upstreams",
                format!("{error:#}"),
                "give a token with the role operator: --token or COUNTERSIGN_TOKEN",
            )];
        }
    };
    let mut findings = Vec::new();
    for upstream in status["upstreams"].as_array().into_iter().flatten() {
        let name = output::text(upstream, "/name");
        let state = output::text(upstream, "/status/state");
        let error = upstream
            .pointer("/status/error")
            .and_then(Value::as_str)
            .map(|error| format!(": {error}"))
            .unwrap_or_default();
        let found = format!("{name} is {state}{error}");
        findings.push(match state.as_str() {
            "ready" | "idle" => ok("upstream", found),
            "failed" => fail("upstream", found, "try its command or URL by hand; the node's log has its words"),
            _ => warn("upstream", found, "wait, then look again; if it stays so, try its command or URL by hand"),
        });
    }
    let waiting = tools
        .as_array()
        .into_iter()
        .flatten()
        .filter(|tool| matches!(tool["status"].as_str(), Some("new" | "changed")));
    match waiting.count() {
        0 => findings.push(ok("tools", "none waits for review")),
        waiting => findings.push(warn(
            "tools",
            format!("{waiting} wait for review and cannot be called"),
            "countersign tools accept --all",
        )),
    }
    findings
}

fn manifests(config: &Config) -> Vec<Finding> {
    match countersign_catalog::manifest::load_dir(&config.manifests) {
        Ok(manifests) if manifests.is_empty() => {
            vec![warn(
                "manifests",
                format!("none in {}", config.manifests.display()),
                "describe an upstream in a YAML file there",
            )]
        }
        Ok(manifests) => vec![ok("manifests", format!("{} upstreams", manifests.len()))],
        Err(errors) => errors.iter().map(|error| fail("manifests", error.to_string(), "correct the file")).collect(),
    }
}

async fn policies(global: &Global, config: &Config) -> Finding {
    match super::policy::problems(global, &config.policies).await {
        Ok((count, problems)) if problems.is_empty() && count.permits == 0 => warn(
            "policies",
            format!("{} in {}, and they permit nothing: every call is denied", count.all, config.policies.display()),
            "write a permit into access/*.cedar; docs/policy.md begins with one",
        ),
        Ok((count, problems)) if problems.is_empty() => {
            ok("policies", format!("{} in {}", count.all, config.policies.display()))
        }
        Ok((_, problems)) => {
            let first = problems.first().cloned().unwrap_or_default();
            fail("policies", format!("{} problems, the first: {first}", problems.len()), "countersign policy check")
        }
        Err(error) => fail("policies", format!("{error:#}"), "countersign policy check"),
    }
}
