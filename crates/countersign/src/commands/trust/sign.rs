//! `trust sign`: a file, a digest, or an image in a registry; by itself, or what is stated of it. And how a signature is shown.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::{Value, json};

use super::super::answer::{digest_of, members, object, read, show, with, write};
use crate::cli::Global;
use crate::client::Node;
use crate::exit::Exit;
use crate::output::{self, Style};

/// Options of `trust sign`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  countersign trust sign app.tar.gz --type release --subject app:2.1 -o app.sigstore.json
  countersign trust sign --image registry.example.org/app:2.1 --type container_image
  countersign trust sign app.tar.gz --type release --statement provenance.json
where provenance.json may say
  {\"predicate_type\": \"https://slsa.dev/provenance/v1\",
   \"predicate\": {\"buildDefinition\": {…}, \"runDetails\": {…}}}")]
pub struct Sign {
    #[command(flatten)]
    what: What,
    /// What kind of artifact: release, container_image, sbom, …
    #[arg(long = "type", value_name = "TYPE")]
    artifact_type: String,
    /// What people call it
    #[arg(long)]
    subject: Option<String>,
    /// More to be found with the signature: a JSON object
    #[arg(long, value_name = "JSON")]
    metadata: Option<String>,
    /// Sign what is stated of it: a JSON file with predicate_type and predicate; - is standard input
    #[arg(long, value_name = "FILE")]
    statement: Option<PathBuf>,
    /// Where the Sigstore bundle goes
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// An artifact, or an image, or both: then the image has to be that artifact.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = true)]
struct What {
    /// A file, or sha256: and 64 hexadecimal digits
    artifact: Option<String>,
    /// An image in a registry that the node's configuration names: its digest is looked up, and the bundle pushed beside it.
    /// With an ARTIFACT, only if its digest is that
    #[arg(long, value_name = "REFERENCE")]
    image: Option<String>,
}

pub(super) async fn run(global: &Global, args: Sign) -> anyhow::Result<Exit> {
    let text = |text: Option<String>| text.map(Value::from);
    let artifact = args.what.artifact.map(|artifact| digest_of(&artifact)).transpose()?;
    let given = [
        ("artifact", text(artifact.map(|digest| digest.to_string()))),
        ("image", text(args.what.image)),
        ("subject", text(args.subject)),
        ("metadata", args.metadata.map(|metadata| object(&metadata, "--metadata")).transpose()?),
        ("statement", args.statement.as_deref().map(statement).transpose()?),
    ];
    let body = with(json!({ "artifact_type": args.artifact_type }), &given);
    let signed = Node::find(global)?.post("/v1/sign", &body).await?;
    finish(global, &signed, args.output.as_deref())
}

/// What a file states, as the tool takes it.
fn statement(path: &Path) -> anyhow::Result<Value> {
    let name = path.display().to_string();
    checked(&String::from_utf8(read(path)?).with_context(|| name.clone())?, &name)
}

/// Held against the tool's shape here already: the node does not know the file's name, and many have a whole in-toto statement.
fn checked(text: &str, name: &str) -> anyhow::Result<Value> {
    let statement = object(text, name)?;
    let is_known = |member: &str| matches!(member, "predicate_type" | "predicate");
    let mut names = statement.as_object().into_iter().flat_map(|members| members.keys());
    if let Some(other) = names.find(|member| !is_known(member)) {
        anyhow::bail!(
            "{name} has {other:?}, but is to have predicate_type and predicate alone: the node adds the rest"
        );
    }
    let has_type = statement["predicate_type"].as_str().is_some_and(|uri| !uri.is_empty());
    anyhow::ensure!(has_type, "{name} has no predicate_type, a URI such as https://slsa.dev/provenance/v1");
    anyhow::ensure!(statement["predicate"].is_object(), "{name} has no predicate that is a JSON object");
    Ok(statement)
}

/// Writes a signature's bundle, and shows the signature.
///
/// # Errors
/// If the file cannot be written.
pub(super) fn finish(global: &Global, signed: &Value, to: Option<&Path>) -> anyhow::Result<Exit> {
    if let (Some(path), true) = (to, signed["bundle"].is_object()) {
        write(path, signed["bundle"].to_string().as_bytes())?;
    }
    Ok(show(global, signed, signed_lines))
}

fn signed_lines(signed: &Value) {
    output::line(format!("{} {}", output::paint(Style::Good, "signed"), output::text(signed, "/artifact")));
    members(
        signed,
        &[
            ("subject", "/subject"),
            ("signer", "/signer"),
            ("issuer", "/issuer"),
            ("entry", "/entry_id"),
            ("log entry", "/transparency_entry/index"),
            ("log", "/transparency_entry/log"),
            ("found at", "/rekor_url"),
            ("image", "/image/reference"),
            ("pushed as", "/image/referrer"),
        ],
    );
    // The signature is made and logged all the same.
    if signed["image"]["pushed"] == false {
        let why = output::text(signed, "/image/problem");
        output::line(format!("  {} {why}", output::paint(Style::Warn, "the bundle was not pushed beside it:")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(text: &str, expected: &str) {
        let error = checked(text, "stated.json").expect_err(text).to_string();
        assert!(error.starts_with("stated.json ") && error.contains(expected), "{text}: {error}");
    }

    #[test]
    fn a_statement_has_a_type_and_a_predicate_and_nothing_else() {
        let good = r#"{"predicate_type": "https://slsa.dev/provenance/v1", "predicate": {"a": 1}}"#;
        let statement = checked(good, "stated.json").expect("a statement");
        assert_eq!(statement, json!({ "predicate_type": "https://slsa.dev/provenance/v1", "predicate": { "a": 1 } }));
        refused("{", "is not JSON");
        refused("[]", "is not a JSON object");
        refused(r#"{"predicate": {}}"#, "no predicate_type");
        refused(r#"{"predicate_type": "", "predicate": {}}"#, "no predicate_type");
        refused(r#"{"predicate_type": 1, "predicate": {}}"#, "no predicate_type");
        refused(r#"{"predicate_type": "https://example.org/p"}"#, "no predicate that is");
        refused(r#"{"predicate_type": "https://example.org/p", "predicate": "{}"}"#, "no predicate that is");
        let whole =
            r#"{"_type": "https://in-toto.io/Statement/v1", "subject": [], "predicateType": "p", "predicate": {}}"#;
        refused(whole, "has \"_type\"");
        refused(r#"{"predicateType": "https://example.org/p", "predicate": {}}"#, "has \"predicateType\"");
    }
}
