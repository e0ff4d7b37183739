//! Makes bundles in memory and writes them, with what a verifier is told, for the verifiers of others:
//!
//! ```text
//! cargo run --release -p countersign-trust --example make_bundles -- DIR
//! sigstore --trust-config DIR/trustconfig.json verify identity --bundle DIR/cert.sigstore.json \
//!     --cert-identity https://gw.example.com/ws/1/signer --cert-oidc-issuer https://gw.example.com DIR/art
//! ```
//!
//! `DIR/cases/` holds the integration tests' cases, good and bad, and `DIR/cases.json` lists them in the form that the
//! scripts under `xtask/verifiers` read: `refused` is empty for good ones, and `accepted_by` names verifiers that are known
//! to accept a bad one.

#[path = "../tests/it/cases.rs"]
mod cases;
#[path = "../tests/it/world.rs"]
mod world;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};
use std::{env, fs};

use base64::Engine as _;
use serde_json::{Value, json};

use world::World;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = PathBuf::from(env::args_os().nth(1).ok_or("usage: make_bundles DIR")?);
    fs::create_dir_all(folder.join("cases"))?;
    let folder = folder.canonicalize()?;
    let now_ms = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?;
    let listed = write_cases(&folder.join("cases"), now_ms)?;
    fs::write(folder.join("cases.json"), serde_json::to_vec_pretty(&listed)?)?;
    write_good(&folder, now_ms)?;
    println!("{} cases in {}", listed.len(), folder.display());
    Ok(())
}

fn write_good(folder: &Path, now_ms: u64) -> Result<(), Box<dyn Error>> {
    let mut world = World::new(now_ms);
    let good = cases::good(&mut world);
    fs::write(folder.join("art"), cases::ARTIFACT)?;
    fs::write(folder.join("cert.sigstore.json"), good.certificate.to_json())?;
    fs::write(folder.join("mail.sigstore.json"), good.mail.to_json())?;
    fs::write(folder.join("dsse.sigstore.json"), good.statement.to_json())?;
    fs::write(folder.join("key.sigstore.json"), good.key.to_json())?;
    fs::write(folder.join("pub.pem"), pem(&good.public_key))?;
    fs::write(folder.join("trusted_root.json"), world.root.to_json())?;
    fs::write(folder.join("trustconfig.json"), world.root.to_trust_config(&world.services()))?;
    Ok(())
}

fn write_cases(folder: &Path, now_ms: u64) -> Result<Vec<Value>, Box<dyn Error>> {
    let services = World::new(now_ms).services();
    let mut listed = Vec::new();
    for case in cases::all(now_ms) {
        let path = |extension: &str| folder.join(format!("{}.{extension}", case.name));
        fs::write(path("sigstore.json"), case.bundle.to_json())?;
        fs::write(path("trustconfig.json"), case.root.to_trust_config(&services))?;
        fs::write(path("art"), &case.artifact)?;
        let mut entry = json!({
            "name": case.name,
            "bundle": path("sigstore.json"),
            "trust_config": path("trustconfig.json"),
            "artifact": path("art"),
            "identity": case.identity,
            "issuer": case.issuer,
            "refused": case.refused.iter().map(|code| code.name()).collect::<Vec<_>>(),
        });
        if let Some((_, accepted_by)) = cases::LENIENT.iter().find(|(name, _)| *name == case.name) {
            entry["accepted_by"] = json!(accepted_by);
        }
        if let Some(key) = &case.key {
            fs::write(path("pem"), pem(key))?;
            entry["key"] = json!(path("pem"));
        }
        listed.push(entry);
    }
    Ok(listed)
}

fn pem(spki: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(spki);
    format!("-----BEGIN PUBLIC KEY-----\n{}\n{}\n-----END PUBLIC KEY-----\n", &text[..64], &text[64..])
}
