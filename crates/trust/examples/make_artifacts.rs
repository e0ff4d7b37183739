//! Makes signed artifacts and writes them for the verifiers of others:
//!
//! ```text
//! cargo run --release -p countersign-trust --example make_artifacts -- DIR
//! python3 xtask/verifiers/jose_verify.py < DIR/cases.json
//! ```
//!
//! `DIR/cases/` holds the integration tests' cases, good and bad, and `DIR/cases.json` lists them in the form that the
//! scripts under `xtask/verifiers` read: `refused` is empty for good ones, and `accepted_by` names verifiers that are known
//! to accept a bad one. A good one comes with the `payload` that was signed.
#![allow(clippy::unwrap_used)] // in the tests' cases a panic is the failure report

#[path = "../tests/it/artifact_cases.rs"]
mod artifact_cases;

use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

use serde_json::json;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = PathBuf::from(env::args_os().nth(1).ok_or("usage: make_artifacts DIR")?);
    fs::create_dir_all(folder.join("cases"))?;
    let folder = folder.canonicalize()?;
    let mut listed = Vec::new();
    for case in artifact_cases::all() {
        let path = |extension: &str| folder.join("cases").join(format!("{}.{extension}", case.name));
        fs::write(path("jws"), &case.file)?;
        fs::write(path("jwks.json"), serde_json::to_vec_pretty(&case.published().to_value())?)?;
        let mut entry = json!({
            "name": case.name,
            "jws": path("jws"),
            "jwks": path("jwks.json"),
            "refused": case.refused,
        });
        if let Some((_, accepted_by)) = artifact_cases::LENIENT.iter().find(|(name, _)| *name == case.name) {
            entry["accepted_by"] = json!(accepted_by);
        }
        if let Some(payload) = &case.payload {
            fs::write(path("json"), payload)?;
            entry["payload"] = json!(path("json"));
        }
        listed.push(entry);
    }
    fs::write(folder.join("cases.json"), serde_json::to_vec_pretty(&listed)?)?;
    println!("{} cases in {}", listed.len(), folder.display());
    Ok(())
}
