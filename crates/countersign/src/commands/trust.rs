//! `trust`: signing and verifying artifacts in Sigstore's shapes. Signing is the node's; a bundle that comes with a trusted root is
//! verified here, offline, and so is a signature with its certificate or key.
//!
//! - [`sign`]: files, digests and images, and what is stated of them.
//! - [`assess`]: scans, reviews, and what they come to.
//! - [`outside`]: teams and registries.
//! - [`detached`]: signatures without a bundle, and logs of others.
//! - [`root`]: what others need to verify; `trust-root` at the top is the same.

mod assess;
mod detached;
mod outside;
pub mod root;
mod sign;

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::ValueEnum as _;
use countersign_trust::report::Report;
use countersign_trust::root::TrustedRoot;
use countersign_trust::verify::{Artifact, Expected, Pattern, Policy, verify};
use serde_json::{Value, json};

use super::answer::{digest_given, digest_of, list, object, read, show, table, texts, verdict, with};
use crate::cli::Global;
use crate::client::{Node, escaped};
use crate::exit::Exit;
use crate::output;

/// What is shown of a verification.
const VERDICT: &[(&str, &str)] = &[
    ("signer", "/signer"),
    ("issuer", "/issuer"),
    ("signed", "/signed_at/0"),
    ("log entry", "/transparency_index"),
    ("why not", "/reason"),
];

/// How attempts to verify ended.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum Verifications {
    /// What was verified
    Passed,
    /// What was not
    Failed,
    /// Both
    All,
}

/// What to sign, verify or look for.
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "\
Examples:
  countersign trust sign app.tar.gz --type release --subject app:2.1 -o app.sigstore.json
  countersign trust sign --image registry.example.org/app:2.1 --type container_image
  countersign trust verify app.tar.gz                         by what this node recorded
  countersign trust-root export -o trusted_root.json
  countersign trust verify app.tar.gz --bundle app.sigstore.json --trusted-root trusted_root.json \\
      --identity 'https://node.example.org/workspaces/default/signers/*' --issuer https://node.example.org
  countersign trust verify app.tar.gz --signature app.sig --key cosign.pub
  countersign trust list --log public-good --artifact app.tar.gz
  countersign trust list --verifications failed --since 2026-01-31
  countersign trust list --type release --since 2026-11-01
  countersign trust scan report.sarif --artifact app.tar.gz
  countersign trust readiness app:2.1 --team security --rollback
  countersign trust package pypi:requests@2.31.0

An ARTIFACT is a file, or its digest (sha256: and 64 hexadecimal digits). For scans, review, readiness and notify it may
be the name under which it was signed, too.
Commands that answer yes or no end with 0 or 3.")]
pub enum Command {
    /// Sign a file, an artifact by its digest, or an image in a registry
    Sign(sign::Sign),
    /// Verify a file or digest, by a bundle or by what the node recorded
    Verify {
        /// A file, or sha256: and 64 hexadecimal digits
        artifact: String,
        /// A Sigstore bundle
        #[arg(long, value_name = "FILE")]
        bundle: Option<PathBuf>,
        /// Whom to trust for the bundle: a Sigstore trusted_root.json. Everything is then done offline
        #[arg(long, value_name = "FILE", requires_all = ["identity", "issuer"])]
        trusted_root: Option<PathBuf>,
        /// A signature without a bundle, as cosign writes it; with --certificate or --key. Done offline, unless --log is given
        #[arg(long, value_name = "FILE", conflicts_with = "bundle")]
        signature: Option<PathBuf>,
        /// The signer's certificate, PEM
        #[arg(long, value_name = "FILE", requires = "signature", conflicts_with = "key")]
        certificate: Option<PathBuf>,
        /// The signer's public key, PEM
        #[arg(long, value_name = "FILE", requires = "signature", conflicts_with_all = ["identity", "issuer", "trusted_root"])]
        key: Option<PathBuf>,
        /// A log that the node's configuration names, in which the signature is looked up
        #[arg(long, value_name = "NAME", requires = "signature")]
        log: Option<String>,
        /// Who is expected to have signed; * and ** stand for any characters, without and with slashes
        #[arg(long)]
        identity: Option<String>,
        /// Who is expected to vouch for that
        #[arg(long)]
        issuer: Option<String>,
    },
    /// Signatures, newest first
    List {
        /// Only of this type
        #[arg(long = "type", value_name = "TYPE")]
        artifact_type: Option<String>,
        /// Only by this signer
        #[arg(long)]
        signer: Option<String>,
        /// Only of this artifact: a file, or sha256: and 64 hexadecimal digits
        #[arg(long)]
        artifact: Option<String>,
        /// In this log of somebody else, which the node's configuration names, instead: by --artifact, or by --signer MAIL
        #[arg(long, value_name = "NAME")]
        log: Option<String>,
        /// From this date or time on (RFC 3339)
        #[arg(long, value_name = "WHEN")]
        since: Option<String>,
        /// Up to this date or time
        #[arg(long, value_name = "WHEN")]
        until: Option<String>,
        /// Attempts to verify that ended so, instead of signatures
        #[arg(long, value_enum, value_name = "OUTCOME", conflicts_with_all = ["artifact_type", "log"])]
        verifications: Option<Verifications>,
        /// Most entries
        #[arg(long, default_value_t = 20)]
        limit: usize,
    },
    /// One signature; its Sigstore bundle with -o
    Show {
        /// The entry's id
        id: String,
        /// Where the bundle goes
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Everything that was signed about a scan or artifact
    Provenance {
        /// The scan's id, a subject, or a digest
        scan: String,
    },
    /// How much was signed and verified
    Stats,
    /// Hand in a scanner's report or a bill of materials: SARIF, CycloneDX or SPDX, as JSON
    Scan(assess::Scan),
    /// What the scans of an artifact come to; 3 if they do not pass
    Scans(assess::Scans),
    /// Record your decision about an artifact, for a team whose role you have
    Review(assess::Review),
    /// Whether an artifact is ready to be deployed; 3 if it is not
    Readiness(assess::Readiness),
    /// What is unusual about a period; 3 unless everything is normal
    Anomalies(assess::Anomalies),
    /// What was signed, verified, reviewed and scanned in a period: a document for auditors
    Report(assess::Report),
    /// Tell a team about an artifact; 3 if somebody of it was not told
    Notify(outside::Notify),
    /// Whether a package of a public registry may be used; 3 unless it may
    Package(outside::Package),
}

/// Runs the command.
///
/// # Errors
/// If a file cannot be read or written, or the node refuses or does not answer.
pub async fn run(global: &Global, command: Command) -> anyhow::Result<Exit> {
    match command {
        Command::Sign(args) => sign::run(global, args).await,
        Command::Verify {
            artifact,
            signature: Some(signature),
            certificate,
            key,
            trusted_root,
            identity,
            issuer,
            log,
            ..
        } => {
            let given = detached::Given { artifact, signature, certificate, key, trusted_root, identity, issuer, log };
            detached::run(global, given).await
        }
        Command::Verify {
            artifact,
            bundle,
            trusted_root: Some(root),
            identity: Some(identity),
            issuer: Some(issuer),
            ..
        } => {
            let bundle = bundle.context("--trusted-root needs --bundle")?;
            offline(global, &artifact, &bundle, &root, (&identity, &issuer))
        }
        Command::Verify { artifact, bundle, identity, issuer, .. } => {
            let bundle = bundle.map(|path| object(&String::from_utf8(read(&path)?)?, "the bundle")).transpose()?;
            let body = json!({ "artifact": digest_of(&artifact)?.to_string() });
            let given =
                [("bundle", bundle), ("identity", identity.map(Value::from)), ("issuer", issuer.map(Value::from))];
            Ok(verdict(global, &Node::find(global)?.post("/v1/verify", &with(body, &given)).await?, VERDICT))
        }
        Command::List { artifact_type, signer, artifact, log, since, until, verifications, limit } => {
            let artifact = artifact.map(|artifact| digest_of(&artifact)).transpose()?.map(|digest| digest.to_string());
            let lines = match (&log, verifications) {
                (Some(_), _) => detached::listed,
                (None, Some(_)) => attempts,
                (None, None) => listed,
            };
            let outcome = verifications.and_then(|outcome| outcome.to_possible_value());
            let given = [
                ("artifact_type", artifact_type),
                ("signer", signer),
                ("artifact", artifact),
                ("log", log),
                ("start_date", since),
                ("end_date", until),
                ("verifications", outcome.map(|outcome| outcome.get_name().to_owned())),
            ];
            let given = given.into_iter().filter_map(|(name, value)| Some(format!("&{name}={}", escaped(&value?))));
            let path = format!("/v1/transparency?limit={limit}{}", given.collect::<String>());
            let (entries, _) = Node::find(global)?.pages(path, limit).await?;
            Ok(show(global, &Value::Array(entries), lines))
        }
        Command::Show { id, output } => {
            let signed = Node::find(global)?.get(&format!("/v1/signatures/{}", escaped(&id))).await?;
            sign::finish(global, &signed, output.as_deref())
        }
        Command::Provenance { scan } => {
            let chain = Node::find(global)?.get(&format!("/v1/provenance/{}", escaped(&scan))).await?;
            Ok(show(global, &chain, provenance))
        }
        Command::Stats => Ok(show(global, &Node::find(global)?.get("/v1/stats").await?, stats)),
        Command::Scan(args) => assess::scan(global, args).await,
        Command::Scans(args) => assess::scans(global, args).await,
        Command::Review(args) => assess::review(global, args).await,
        Command::Readiness(args) => assess::readiness(global, args).await,
        Command::Anomalies(args) => assess::anomalies(global, args).await,
        Command::Report(args) => assess::report(global, args).await,
        Command::Notify(args) => outside::notify(global, args).await,
        Command::Package(args) => outside::package(global, args).await,
    }
}

fn offline(
    global: &Global,
    artifact: &str,
    bundle: &Path,
    root: &Path,
    (identity, issuer): (&str, &str),
) -> anyhow::Result<Exit> {
    let expected = Expected::Certificate { identity: pattern(identity), issuer: pattern(issuer) };
    let root = TrustedRoot::parse(&read(root)?).context("the trusted root")?;
    let bundle = read(bundle)?;
    let policy = Policy { expected, ..Policy::default() };
    let report = match digest_given(artifact) {
        Some(digest) => verify(&bundle, &Artifact::Sha256(digest), &root, &policy),
        None => verify(
            &bundle,
            &Artifact::Bytes(&std::fs::read(artifact).with_context(|| artifact.to_owned())?),
            &root,
            &policy,
        ),
    };
    Ok(verdict(global, &told(&report)?, VERDICT))
}

fn pattern(text: &str) -> Pattern {
    match text.contains('*') {
        true => Pattern::Glob(text.to_owned()),
        false => Pattern::Exact(text.to_owned()),
    }
}

/// A report in the shape of the node's answer.
fn told(report: &Report) -> anyhow::Result<Value> {
    let mut value = serde_json::to_value(report)?;
    value["valid"] = report.is_valid().into();
    value["signed_at"] = report.times.iter().map(|t| output::utc(t.seconds as i64 * 1000)).collect();
    value["transparency_index"] = report.logs.first().map(|place| place.index).into();
    Ok(value)
}

fn attempts(entries: &Value) {
    if list(entries, "").next().is_none() {
        return output::line("Nobody tried to verify anything that fits.");
    }
    table(
        ["TRIED", "VALID", "ARTIFACT", "SIGNER", "REASON"],
        list(entries, ""),
        ["/verified_at", "/valid", "/artifact", "/signer", "/reason"],
    );
}

fn listed(entries: &Value) {
    if list(entries, "").next().is_none() {
        return output::line("Nothing was signed that fits.");
    }
    table(
        ["ENTRY", "SIGNED", "TYPE", "SUBJECT", "ARTIFACT"],
        list(entries, ""),
        ["/entry_id", "/timestamp", "/artifact_type", "/subject", "/artifact"],
    );
}

fn provenance(chain: &Value) {
    output::line(format!(
        "{}: {}, trust {}",
        output::text(chain, "/scan_id"),
        output::text(chain, "/chain_status"),
        output::text(chain, "/trust_level")
    ));
    texts(chain, "/reasons", "  ");
    let manifest = chain.get("manifest").filter(|manifest| manifest.is_object());
    table(
        ["SIGNED", "TYPE", "SUBJECT", "VALID", "SIGNER"],
        manifest.into_iter().chain(list(chain, "/scans")),
        ["/timestamp", "/artifact_type", "/subject", "/valid", "/signer"],
    );
}

fn stats(stats: &Value) {
    for (what, pointer) in [
        ("signatures", "/total_signatures"),
        ("log entries", "/total_transparency_entries"),
        ("verified", "/verification_stats/total"),
        ("  valid", "/verification_stats/successful"),
        ("  not valid", "/verification_stats/failed"),
    ] {
        output::line(format!("{what:<12} {}", output::text(stats, pointer)));
    }
    for (kind, count) in stats["artifact_types"].as_object().into_iter().flatten() {
        output::line(format!("  of type {}: {count}", output::visible(kind)));
    }
}
