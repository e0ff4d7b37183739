//! A signature beside its artifact, with the signer's certificate or key: verified offline as far as that goes, or by a node that looks it
//! up in a log of somebody else. And what such a log has.

use std::path::PathBuf;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_proof::digest::Digest;
use countersign_trust::root::TrustedRoot;
use countersign_trust::verify::{Artifact, Expected, Holder, Policy, signature, verify_detached};
use serde_json::{Value, json};

use super::super::answer::{digest_given, digest_of, object, read, verdict, with};
use super::{VERDICT, pattern, told};
use crate::cli::Global;
use crate::client::Node;
use crate::exit::{Exit, Failure};
use crate::output;

/// What was given.
pub(super) struct Given {
    pub artifact: String,
    pub signature: PathBuf,
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
    pub trusted_root: Option<PathBuf>,
    pub identity: Option<String>,
    pub issuer: Option<String>,
    pub log: Option<String>,
}

pub(super) async fn run(global: &Global, given: Given) -> anyhow::Result<Exit> {
    if given.log.is_some() { at_the_node(global, given).await } else { offline(global, &given) }
}

fn offline(global: &Global, given: &Given) -> anyhow::Result<Exit> {
    let signature = signature(&read(&given.signature)?).with_context(|| given.signature.display().to_string())?;
    let (holder, root, expected) = match (&given.certificate, &given.key) {
        (Some(path), _) => {
            let holder = Holder::certificate(&read(path)?).with_context(|| path.display().to_string())?;
            let needed =
                "a certificate is verified offline with --trusted-root, --identity and --issuer; or name a --log";
            let (Some(root), Some(identity), Some(issuer)) = (&given.trusted_root, &given.identity, &given.issuer)
            else {
                return Err(Failure::new(Exit::Usage, needed).into());
            };
            let root = TrustedRoot::parse(&read(root)?).context("the trusted root")?;
            (holder, root, Expected::Certificate { identity: pattern(identity), issuer: pattern(issuer) })
        }
        (None, Some(path)) => {
            let holder = Holder::key(&read(path)?).with_context(|| path.display().to_string())?;
            (holder, TrustedRoot::default(), Expected::Anybody)
        }
        (None, None) => return Err(Failure::new(Exit::Usage, "--signature needs --certificate or --key").into()),
    };
    let policy = Policy { expected, ..Policy::default() };
    let report = match digest_given(&given.artifact) {
        Some(digest) => verify_detached(&signature, &holder, None, &Artifact::Sha256(digest), &root, &policy),
        None => {
            let bytes = std::fs::read(&given.artifact).with_context(|| given.artifact.clone())?;
            verify_detached(&signature, &holder, None, &Artifact::Bytes(&bytes), &root, &policy)
        }
    };
    Ok(verdict(global, &told(&report)?, VERDICT))
}

async fn at_the_node(global: &Global, given: Given) -> anyhow::Result<Exit> {
    let text = |path: &PathBuf| -> anyhow::Result<Value> {
        Ok(String::from_utf8(read(path)?).with_context(|| format!("{} is not text", path.display()))?.into())
    };
    let artifact: Digest = digest_of(&given.artifact)?;
    let root = given.trusted_root.as_ref().map(|path| object(&String::from_utf8(read(path)?)?, "the trusted root"));
    let body = json!({ "artifact": artifact.to_string() });
    let members = [
        ("signature", Some(STANDARD.encode(signature(&read(&given.signature)?)?).into())),
        ("certificate", given.certificate.as_ref().map(text).transpose()?),
        ("public_key", given.key.as_ref().map(text).transpose()?),
        ("trusted_root", root.transpose()?),
        ("identity", given.identity.map(Value::from)),
        ("issuer", given.issuer.map(Value::from)),
        ("log", given.log.map(Value::from)),
    ];
    let told = Node::find(global)?.post("/v1/verify", &with(body, &members)).await?;
    Ok(verdict(global, &told, VERDICT))
}

/// Entries of another log.
pub(super) fn listed(entries: &Value) {
    let entries = entries.as_array().cloned().unwrap_or_default();
    if entries.is_empty() {
        return output::line("The log has nothing that fits.");
    }
    let row = |entry: &Value| {
        ["/index", "/timestamp", "/kind", "/signer", "/artifact", "/verified"].map(|p| output::text(entry, p)).to_vec()
    };
    output::table(&["INDEX", "LOGGED", "KIND", "SIGNER", "ARTIFACT", "VERIFIED"], entries.iter().map(row).collect());
}
