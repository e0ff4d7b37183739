//! The walls between crates, as data where they are data. `ARCHITECTURE.md` says why each one stands.

use super::Finding;
use super::manifests::{Package, Workspace};
use super::source::SourceFile;

/// Crates without I/O, clock and randomness, and everything that they may depend on. Adding here is a decision.
///
/// `proof` has `p256` because an auditor verifies artifacts (JWS ES256) with it alone; it is built without its random source.
/// `trust` has `jsonschema` (built without its retrievers) and `serde-saphyr` for the types of artifacts.
const PURE: &[(&str, &[&str])] = &[
    (
        "countersign-proof",
        &["base64", "ed25519-dalek", "p256", "ryu-js", "serde", "serde_json", "sha2", "thiserror", "zeroize"],
    ),
    ("countersign-domain", &["countersign-proof", "serde", "serde_json", "thiserror", "uuid"]),
    (
        "countersign-policy",
        &[
            "countersign-domain",
            "countersign-proof",
            "cedar-policy",
            "cedar-policy-core",
            "hex",
            "miette",
            "serde",
            "serde_json",
            "sha2",
            "stacker",
            "strsim",
            "thiserror",
        ],
    ),
    (
        "countersign-trust",
        &[
            "countersign-proof",
            "base64",
            "der",
            "ed25519-dalek",
            "hmac",
            "jsonschema",
            "p256",
            "p384",
            "serde",
            "serde-saphyr",
            "serde_json",
            "sha2",
            "spki",
            "thiserror",
            "x509-cert",
            "zeroize",
        ],
    ),
];

/// Crates that stand apart, and everything of ours that they may depend on.
///
/// `keys` has what signs outside the node: whoever reads it need know neither stores nor gates.
const APART: &[(&str, &[&str])] = &[("countersign-keys", &["countersign-proof", "countersign-egress"])];

/// What a pure crate may not name, as a path or as its beginning.
const IMPURE_PATHS: &[&str] = &[
    "std::fs",
    "std::net",
    "std::env",
    "std::process",
    "std::thread",
    "std::os",
    "std::io::stdin",
    "std::io::stdout",
    "std::io::stderr",
    "std::time::SystemTime",
    "std::time::Instant",
    "SystemTime::now",
    "Instant::now",
    "Uuid::now_v7",
    "Uuid::new_v4",
    "tokio",
    "rand",
    "getrandom",
];
const IMPURE_MACROS: &[&str] = &["println!", "eprintln!", "print!", "eprint!", "dbg!"];

const DATABASE_DRIVERS: &[&str] =
    &["rusqlite", "libsqlite3-sys", "sqlx", "postgres", "tokio-postgres", "diesel", "redis", "sled", "rocksdb"];
const NETWORK_CLIENTS: &[&str] =
    &["reqwest", "ureq", "isahc", "curl", "surf", "attohttpc", "hyper-tls", "hyper-rustls", "tungstenite"];
const CONNECTING_PATHS: &[&str] = &[
    "hyper::client",
    "hyper_util::client",
    "TcpStream::connect",
    "TcpStream::connect_timeout",
    "UnixStream::connect",
    "reqwest",
    "TcpSocket::connect",
];
/// Drive the product from outside, over sockets of their own; the example is an upstream, not part of the gateway.
const OUTSIDE: &[&str] = &["countersign-testkit", "xtask", "countersign-example-ads"];
const CAPABILITIES: &[&str] =
    &["countersign-trust", "countersign-runbook", "countersign-exchange", "countersign-comply"];

/// Every breach of a wall.
pub fn check(workspace: &Workspace) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in &workspace.packages {
        findings.extend(purity(package));
        findings.extend(database(package));
        findings.extend(network(package));
        findings.extend(permit(package));
        findings.extend(proof_alone(package));
        findings.extend(apart(package));
        findings.extend(nothing_imports_server(package));
    }
    findings
}

/// Wall 1: `proof`, `domain`, `policy` and `trust` have no I/O, no clock, no randomness.
fn purity(package: &Package) -> Vec<Finding> {
    let Some((_, allowed)) = PURE.iter().find(|(name, _)| *name == package.name) else {
        return Vec::new();
    };
    let mut findings = Vec::new();
    for dependency in package.product_dependencies().filter(|d| !allowed.contains(&d.name.as_str())) {
        findings.push(in_manifest(
            "wall-1-purity",
            package,
            format!("a pure crate may not depend on {}", dependency.name),
        ));
    }
    for file in &package.files {
        findings.extend(forbidden_paths(
            "wall-1-purity",
            file,
            IMPURE_PATHS,
            "I/O, clock and randomness are arguments here",
        ));
        for name in IMPURE_MACROS {
            let lines = file.product.lines().enumerate().filter(|(_, line)| has_macro(line, name));
            findings.extend(lines.map(|(i, _)| at("wall-1-purity", file, i + 1, format!("{name} is output"))));
        }
    }
    findings
}

fn has_macro(line: &str, name: &str) -> bool {
    let mut matches = line.match_indices(name);
    matches.any(|(i, _)| !line[..i].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
}

/// Wall 2, first half: only `store` has a database driver.
fn database(package: &Package) -> Vec<Finding> {
    if package.name == "countersign-store" {
        return Vec::new();
    }
    let drivers = package.dependencies.iter().filter(|d| DATABASE_DRIVERS.contains(&d.name.as_str()));
    drivers
        .map(|d| {
            in_manifest("wall-2-database", package, format!("{}: only countersign-store has a database driver", d.name))
        })
        .collect()
}

/// Wall 2, second half: only `egress` opens connections to the network.
fn network(package: &Package) -> Vec<Finding> {
    if package.name == "countersign-egress" || OUTSIDE.contains(&package.name.as_str()) {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for client in package.product_dependencies().filter(|d| NETWORK_CLIENTS.contains(&d.name.as_str())) {
        findings.push(in_manifest(
            "wall-2-network",
            package,
            format!("{}: only countersign-egress has a network client", client.name),
        ));
    }
    for file in &package.files {
        findings.extend(forbidden_paths(
            "wall-2-network",
            file,
            CONNECTING_PATHS,
            "outgoing connections run on countersign-egress",
        ));
    }
    findings
}

/// Wall 3: only `gate` makes a `Permit`, and `connect` dispatches nothing without one.
fn permit(package: &Package) -> Vec<Finding> {
    let mut findings = Vec::new();
    let gate = package.name == "countersign-gate";
    for dependency in package.product_dependencies().filter(|d| d.name == "countersign-gate") {
        if dependency.features.iter().any(|f| f == "testing") {
            let message =
                "the feature `testing` of countersign-gate makes permits: only for dev-dependencies".to_owned();
            findings.push(in_manifest("wall-3-permit", package, message));
        }
    }
    if package.name == "countersign-connect" && !package.product_dependencies().any(|d| d.name == "countersign-gate") {
        findings.push(in_manifest(
            "wall-3-permit",
            package,
            "countersign-connect must depend on countersign-gate".to_owned(),
        ));
    }
    for file in &package.files {
        if !gate {
            let lines =
                file.lines_with("Permit::grant").into_iter().chain(file.lines_with("Permit {")).collect::<Vec<_>>();
            findings.extend(
                lines
                    .into_iter()
                    .map(|l| at("wall-3-permit", file, l, "only countersign-gate makes a Permit".to_owned())),
            );
        }
        if gate && file.path.ends_with("permit.rs") {
            findings.extend(permit_definition(file));
        }
    }
    findings
}

/// The type itself: no public constructor (but for the feature of tests), no copies.
fn permit_definition(file: &SourceFile) -> Vec<Finding> {
    let mut findings = Vec::new();
    let lines: Vec<&str> = file.product.lines().collect();
    for (i, line) in lines.iter().enumerate() {
        let copies = line.contains("derive(")
            && (line.contains("Clone") || line.contains("Copy") || line.contains("Deserialize"));
        if copies && lines.get(i + 1).is_some_and(|next| next.contains("struct Permit")) {
            findings.push(at(
                "wall-3-permit",
                file,
                i + 1,
                "a Permit cannot be copied or read from outside".to_owned(),
            ));
        }
        let returns_permit = line.contains("-> Self") || line.contains("-> Permit");
        let head = lines[..=i].iter().rev().take(10).find(|l| l.contains("fn ")).unwrap_or(line);
        // The text keeps what the blanked code lost: the feature's name.
        let feature = file.text.lines().take(i + 1).collect::<Vec<_>>();
        let for_tests = feature.iter().rev().take(12).any(|l| l.contains("feature = \"testing\""));
        if returns_permit && head.contains("pub fn ") && !for_tests {
            findings.push(at("wall-3-permit", file, i + 1, "a Permit has no public constructor".to_owned()));
        }
    }
    findings
}

/// Wall 4: what an auditor needs is `proof` alone.
fn proof_alone(package: &Package) -> Vec<Finding> {
    if package.name != "countersign-proof" {
        return Vec::new();
    }
    let ours = package.dependencies.iter().filter(|d| d.name.starts_with("countersign"));
    ours.map(|d| {
        in_manifest(
            "wall-4-proof",
            package,
            format!("countersign-proof depends on nothing else of ours, not on {}", d.name),
        )
    })
    .collect()
}

/// Wall 4, second half: `keys` is built on `proof` and `egress` alone.
fn apart(package: &Package) -> Vec<Finding> {
    let Some((_, allowed)) = APART.iter().find(|(name, _)| *name == package.name) else {
        return Vec::new();
    };
    let ours = package.product_dependencies().filter(|d| d.name.starts_with("countersign"));
    ours.filter(|d| !allowed.contains(&d.name.as_str()))
        .map(|d| in_manifest("wall-4-keys", package, format!("{} may not depend on {}", package.name, d.name)))
        .collect()
}

/// Wall 5: nothing imports `server` but the binary, and capabilities do not import one another.
fn nothing_imports_server(package: &Package) -> Vec<Finding> {
    let capability = CAPABILITIES.contains(&package.name.as_str());
    let mut findings = Vec::new();
    for dependency in &package.dependencies {
        if dependency.name == "countersign-server" && package.name != "countersign" {
            findings.push(in_manifest(
                "wall-5-server",
                package,
                "nothing but the binary depends on countersign-server".to_owned(),
            ));
        }
        if capability && CAPABILITIES.contains(&dependency.name.as_str()) {
            findings.push(in_manifest(
                "wall-5-server",
                package,
                format!("capabilities do not import one another: {}", dependency.name),
            ));
        }
    }
    findings
}

fn forbidden_paths(rule: &'static str, file: &SourceFile, forbidden: &[&str], why: &str) -> Vec<Finding> {
    let named = |path: &str| {
        let hit = |f: &&&str| {
            path == **f
                || path.starts_with(&format!("{f}::"))
                || (!f.starts_with("std") && path.ends_with(&format!("::{f}")))
        };
        forbidden.iter().find(hit).copied()
    };
    let mentions = file.mentions().into_iter().filter(|m| named(&m.path).is_some());
    mentions.map(|m| at(rule, file, m.line, format!("{}: {why}", m.path))).collect()
}

fn in_manifest(rule: &'static str, package: &Package, message: String) -> Finding {
    Finding { rule, place: package.folder.join("Cargo.toml").display().to_string(), message }
}

fn at(rule: &'static str, file: &SourceFile, line: usize, message: String) -> Finding {
    Finding { rule, place: format!("{}:{line}", file.path.display()), message }
}
