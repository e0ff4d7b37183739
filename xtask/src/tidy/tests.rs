//! Each wall is broken on purpose in a copy of the workspace, and tidy names it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::{Finding, Workspace, walls};

/// A copy of the manifests and sources, in a directory that goes away.
struct Copy(PathBuf);

impl Copy {
    fn new() -> Self {
        static COPIES: AtomicU32 = AtomicU32::new(0);
        let number = COPIES.fetch_add(1, Ordering::Relaxed);
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let to = std::env::temp_dir().join(format!("tidy-{}-{number}", std::process::id()));
        let _ = fs::remove_dir_all(&to);
        for part in ["Cargo.toml", "Cargo.lock", "crates", "examples", "xtask"] {
            copy(&root.join(part), &to.join(part));
        }
        Self(to)
    }

    fn append(&self, file: &str, text: &str) {
        let path = self.0.join(file);
        let before = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("{before}\n{text}\n")).unwrap();
    }

    fn replace(&self, file: &str, from: &str, to: &str) {
        let path = self.0.join(file);
        let before = fs::read_to_string(&path).unwrap();
        assert!(before.contains(from), "{file} no longer contains {from:?}");
        fs::write(&path, before.replace(from, to)).unwrap();
    }

    fn findings(&self) -> Vec<Finding> {
        walls::check(&Workspace::read(&self.0).unwrap())
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn copy(from: &Path, to: &Path) {
    let name = from.file_name().unwrap_or_default();
    if from.is_dir() && name != "target" && name != "node_modules" {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let path = entry.unwrap().path();
            copy(&path, &to.join(path.file_name().unwrap()));
        }
    } else if from.is_file() {
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(from, to).unwrap();
    }
}

/// Breaks a wall and expects exactly that wall's rule among the findings, and nothing before.
fn check(rule: &str, break_it: impl Fn(&Copy)) {
    let copy = Copy::new();
    let before: Vec<_> = copy.findings().into_iter().filter(|f| f.rule == rule).collect();
    assert_eq!(before, vec![], "the workspace itself must be tidy");
    break_it(&copy);
    let after: Vec<_> = copy.findings().into_iter().filter(|f| f.rule == rule).collect();
    assert_eq!(after.len(), 1, "{rule} must be found once: {after:?}");
}

fn dependency(package: &str, line: &str) -> impl Fn(&Copy) {
    let manifest = format!("crates/{package}/Cargo.toml");
    let lines = format!("[dependencies]\n{line}");
    move |copy| copy.replace(&manifest, "[dependencies]", &lines)
}

#[test]
fn a_clock_in_a_pure_crate_is_found() {
    check("wall-1-purity", |copy| {
        copy.append("crates/domain/src/lib.rs", "fn now() -> u64 { let _ = std::time::Instant::now(); 0 }");
    });
}

#[test]
fn a_grouped_import_of_files_in_a_pure_crate_is_found() {
    check("wall-1-purity", |copy| {
        copy.append("crates/proof/src/lib.rs", "use std::{collections::BTreeMap as M, fs as f};");
    });
}

#[test]
fn an_undeclared_dependency_of_a_pure_crate_is_found() {
    check("wall-1-purity", dependency("policy", "tokio.workspace = true"));
}

#[test]
fn a_capability_in_the_core_of_signing_is_found() {
    check("wall-1-purity", dependency("trust", "countersign-ledger.workspace = true"));
}

#[test]
fn a_database_driver_outside_of_store_is_found() {
    check("wall-2-database", dependency("ledger", "rusqlite.workspace = true"));
}

#[test]
fn a_network_client_outside_of_egress_is_found() {
    check("wall-2-network", |copy| {
        copy.append("crates/connect/src/lib.rs", "fn f() { let _ = hyper::client::conn::http1::Builder::new(); }");
    });
}

#[test]
fn a_socket_opened_outside_of_egress_is_found() {
    check("wall-2-network", |copy| {
        copy.append(
            "crates/server/src/lib.rs",
            "async fn f() { let _ = tokio::net::TcpStream::connect(\"x:1\").await; }",
        );
    });
}

#[test]
fn a_permit_made_outside_of_the_gate_is_found() {
    check("wall-3-permit", |copy| {
        copy.append("crates/connect/src/lib.rs", "fn f() { let _ = countersign_gate::permit::Permit::grant(); }");
    });
}

#[test]
fn the_gates_test_feature_in_the_product_is_found() {
    check("wall-3-permit", |copy| {
        let line = "countersign-gate = { workspace = true, features = [\"testing\"] }";
        copy.replace("crates/server/Cargo.toml", "countersign-gate.workspace = true", line);
    });
}

#[test]
fn a_permit_that_can_be_copied_is_found() {
    check("wall-3-permit", |copy| {
        copy.replace(
            "crates/gate/src/permit.rs",
            "#[derive(Debug)]\npub struct Permit",
            "#[derive(Debug, Clone)]\npub struct Permit",
        );
    });
}

#[test]
fn a_public_constructor_of_permits_is_found() {
    check("wall-3-permit", |copy| copy.replace("crates/gate/src/permit.rs", "pub(crate) fn grant(", "pub fn grant("));
}

#[test]
fn proof_that_depends_on_us_is_found() {
    check("wall-4-proof", dependency("proof", "countersign-catalog.workspace = true"));
}

#[test]
fn keys_that_depend_on_more_than_they_need_are_found() {
    check("wall-4-keys", dependency("keys", "countersign-store.workspace = true"));
}

#[test]
fn an_import_of_the_server_is_found() {
    check("wall-5-server", dependency("egress", "countersign-server.workspace = true"));
}
