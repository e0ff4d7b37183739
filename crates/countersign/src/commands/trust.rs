//! `trust`: signing and verifying artifacts in Sigstore's shapes. Signing is the node's; a bundle that comes with a trusted root is
//! verified here, offline.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use countersign_proof::digest::Digest;
use countersign_trust::report::Report;
use countersign_trust::root::TrustedRoot;
use countersign_trust::verify::{Artifact, Expected, Pattern, Policy, verify};
use serde_json::{Value, json};

use crate::cli::Global;
use crate::client::{Node, escaped};
use crate::exit::{Exit, Failure};
use crate::output::{self, Style};

/// Largest bundle or trusted root that is read.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// What to sign, verify or look for.
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "\
Examples:
  countersign trust sign app.tar.gz --type release --subject app:2.1 -o app.sigstore.json
  countersign trust verify app.tar.gz                         by what this node recorded
  countersign trust root -o trusted_root.json
  countersign trust verify app.tar.gz --bundle app.sigstore.json --trusted-root trusted_root.json \\
      --identity 'https://node.example.org/workspaces/default/signers/*' --issuer https://node.example.org
  countersign trust list --type release --since 2026-11-01")]
pub enum Command {
    /// Sign a file, or an artifact by its digest
    Sign {
        /// A file, or sha256: and 64 hexadecimal digits
        artifact: String,
        /// What kind of artifact: release, container_image, sbom, …
        #[arg(long = "type", value_name = "TYPE")]
        artifact_type: String,
        /// What people call it
        #[arg(long)]
        subject: Option<String>,
        /// More to be found with the signature: a JSON object
        #[arg(long, value_name = "JSON")]
        metadata: Option<String>,
        /// Where the Sigstore bundle goes
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Verify a file or digest, by a bundle or by what the node recorded
    Verify {
        /// A file, or sha256: and 64 hexadecimal digits
        artifact: String,
        /// A Sigstore bundle
        #[arg(long, value_name = "FILE")]
        bundle: Option<PathBuf>,
        /// Whom to trust for the bundle: a Sigstore trusted_root.json. Everything is then done offline
        #[arg(long, value_name = "FILE", requires_all = ["bundle", "identity", "issuer"])]
        trusted_root: Option<PathBuf>,
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
        /// From this date or time on (RFC 3339)
        #[arg(long, value_name = "WHEN")]
        since: Option<String>,
        /// Up to this date or time
        #[arg(long, value_name = "WHEN")]
        until: Option<String>,
        /// Most entries
        #[arg(long, default_value_t = 20)]
        limit: u32,
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
    /// What others need to verify this node's signatures: trusted_root.json
    Root {
        /// The client trust config instead, as sigstore-python's --trust-config takes it
        #[arg(long)]
        config: bool,
        /// Where it goes; standard output otherwise
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

/// Runs the command.
///
/// # Errors
/// If a file cannot be read or written, or the node refuses or does not answer.
pub async fn run(global: &Global, command: Command) -> anyhow::Result<Exit> {
    match command {
        Command::Sign { artifact, artifact_type, subject, metadata, output } => {
            let metadata = metadata.map(|text| object(&text, "--metadata")).transpose()?;
            let body = json!({ "artifact": digest_of(&artifact)?.to_string(), "artifact_type": artifact_type });
            let body = with(body, &[("subject", subject.map(Value::from)), ("metadata", metadata)]);
            let signed = Node::find(global)?.post("/v1/sign", &body).await?;
            finish(global, &signed, output.as_deref(), signed_lines)
        }
        Command::Verify {
            artifact,
            bundle,
            trusted_root: Some(root),
            identity: Some(identity),
            issuer: Some(issuer),
        } => {
            let bundle = bundle.context("--trusted-root needs --bundle")?;
            offline(global, &artifact, &bundle, &root, (&identity, &issuer))
        }
        Command::Verify { artifact, bundle, identity, issuer, .. } => {
            let bundle = bundle.map(|path| object(&String::from_utf8(read(&path)?)?, "the bundle")).transpose()?;
            let body = json!({ "artifact": digest_of(&artifact)?.to_string() });
            let given =
                [("bundle", bundle), ("identity", identity.map(Value::from)), ("issuer", issuer.map(Value::from))];
            verdict(global, &Node::find(global)?.post("/v1/verify", &with(body, &given)).await?)
        }
        Command::List { artifact_type, signer, since, until, limit } => {
            let given =
                [("artifact_type", artifact_type), ("signer", signer), ("start_date", since), ("end_date", until)];
            let given = given.into_iter().filter_map(|(name, value)| Some(format!("&{name}={}", escaped(&value?))));
            let path = format!("/v1/transparency?limit={limit}{}", given.collect::<String>());
            show(global, &Node::find(global)?.get(&path).await?, listed)
        }
        Command::Show { id, output } => {
            let signed = Node::find(global)?.get(&format!("/v1/signatures/{}", escaped(&id))).await?;
            finish(global, &signed, output.as_deref(), signed_lines)
        }
        Command::Provenance { scan } => {
            let chain = Node::find(global)?.get(&format!("/v1/provenance/{}", escaped(&scan))).await?;
            show(global, &chain, provenance)
        }
        Command::Stats => show(global, &Node::find(global)?.get("/v1/stats").await?, stats),
        Command::Root { config, output } => {
            let node = Node::find_public(global)?;
            let node = node.ok_or_else(|| Failure::new(Exit::Unreachable, "no node runs on this data directory"))?;
            let path = if config { "/trust/trustconfig.json" } else { "/trust/trusted_root.json" };
            let reply = node.send("GET", path, &[], None).await?;
            if !reply.is_success() {
                return Err(reply.failure().into());
            }
            match output {
                Some(path) => write(&path, &reply.body)?,
                None => output::line(String::from_utf8_lossy(&reply.body)),
            }
            Ok(Exit::Ok)
        }
    }
}

fn offline(
    global: &Global,
    artifact: &str,
    bundle: &Path,
    root: &Path,
    (identity, issuer): (&str, &str),
) -> anyhow::Result<Exit> {
    let pattern = |text: &str| match text.contains('*') {
        true => Pattern::Glob(text.to_owned()),
        false => Pattern::Exact(text.to_owned()),
    };
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
    verdict(global, &told(&report)?)
}

/// A report in the shape of the node's answer.
fn told(report: &Report) -> anyhow::Result<Value> {
    let mut value = serde_json::to_value(report)?;
    value["valid"] = report.is_valid().into();
    value["signed_at"] = report.times.iter().map(|t| output::utc(t.seconds as i64 * 1000)).collect();
    value["transparency_index"] = report.logs.first().map(|place| place.index).into();
    Ok(value)
}

fn digest_given(text: &str) -> Option<Digest> {
    text.to_ascii_lowercase().parse().ok()
}

fn digest_of(artifact: &str) -> anyhow::Result<Digest> {
    if let Some(digest) = digest_given(artifact) {
        return Ok(digest);
    }
    let wrong =
        || Failure::new(Exit::Usage, format!("{artifact} is neither a file that can be read nor a sha256: digest"));
    Ok(Digest::of(&std::fs::read(artifact).with_context(wrong)?))
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).with_context(|| path.display().to_string())?;
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).with_context(|| path.display().to_string())?;
    anyhow::ensure!(
        bytes.len() as u64 <= MAX_FILE_BYTES,
        "{} is more than {MAX_FILE_BYTES} bytes long",
        path.display()
    );
    Ok(bytes)
}

fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    std::fs::write(path, bytes).with_context(|| path.display().to_string())
}

fn object(text: &str, what: &str) -> anyhow::Result<Value> {
    let value: Value = serde_json::from_str(text).with_context(|| format!("{what} is not JSON"))?;
    anyhow::ensure!(value.is_object(), "{what} is not a JSON object");
    Ok(value)
}

fn with(mut body: Value, members: &[(&str, Option<Value>)]) -> Value {
    for (name, value) in members {
        if let Some(value) = value {
            body[*name] = value.clone();
        }
    }
    body
}

fn show(global: &Global, value: &Value, lines: fn(&Value)) -> anyhow::Result<Exit> {
    if global.json {
        output::json(value)
    } else {
        lines(value)
    }
    Ok(Exit::Ok)
}

fn finish(global: &Global, signed: &Value, to: Option<&Path>, lines: fn(&Value)) -> anyhow::Result<Exit> {
    if signed["status"] == "pending" {
        output::json(signed);
        return Ok(Exit::Pending);
    }
    if let Some(path) = to {
        write(path, signed["bundle"].to_string().as_bytes())?;
    }
    show(global, signed, lines)
}

fn verdict(global: &Global, told: &Value) -> anyhow::Result<Exit> {
    let valid = told["valid"] == true;
    if global.json {
        output::json(told);
    } else {
        verdict_lines(told, valid);
    }
    Ok(if valid { Exit::Ok } else { Exit::Invalid })
}

fn verdict_lines(told: &Value, valid: bool) {
    match valid {
        true => output::line(output::paint(Style::Good, "VALID")),
        false => output::line(output::paint(Style::Bad, "NOT VALID")),
    }
    for (what, pointer) in [
        ("signer", "/signer"),
        ("issuer", "/issuer"),
        ("signed", "/signed_at/0"),
        ("log entry", "/transparency_index"),
        ("why not", "/reason"),
    ] {
        if told.pointer(pointer).is_some_and(|value| !value.is_null()) {
            output::line(format!("  {what:<10} {}", output::text(told, pointer)));
        }
    }
    for check in told["checks"].as_array().into_iter().flatten() {
        output::line(format!(
            "  {:<12} {:<8} {}",
            output::text(check, "/name"),
            output::text(check, "/status"),
            output::text(check, "/detail")
        ));
    }
    for left in told["not_checked"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        output::line(format!("  not checked: {}", output::visible(left)));
    }
}

fn signed_lines(signed: &Value) {
    output::line(format!("{} {}", output::paint(Style::Good, "signed"), output::text(signed, "/artifact")));
    for (what, pointer) in [
        ("subject", "/subject"),
        ("signer", "/signer"),
        ("issuer", "/issuer"),
        ("entry", "/entry_id"),
        ("log entry", "/transparency_entry/index"),
        ("log", "/transparency_entry/log"),
        ("found at", "/rekor_url"),
    ] {
        if signed.pointer(pointer).is_some_and(|value| !value.is_null()) {
            output::line(format!("  {what:<10} {}", output::text(signed, pointer)));
        }
    }
}

fn listed(entries: &Value) {
    let entries = entries.as_array().cloned().unwrap_or_default();
    if entries.is_empty() {
        return output::line("Nothing was signed that fits.");
    }
    let row = |entry: &Value| {
        ["/entry_id", "/timestamp", "/artifact_type", "/subject", "/artifact"].map(|p| output::text(entry, p)).to_vec()
    };
    output::table(&["ENTRY", "SIGNED", "TYPE", "SUBJECT", "ARTIFACT"], entries.iter().map(row).collect());
}

fn provenance(chain: &Value) {
    output::line(format!(
        "{}: {}, trust {}",
        output::text(chain, "/scan_id"),
        output::text(chain, "/chain_status"),
        output::text(chain, "/trust_level")
    ));
    for reason in chain["reasons"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        output::line(format!("  {}", output::visible(reason)));
    }
    let signed = chain["manifest"]
        .as_object()
        .map(|_| &chain["manifest"])
        .into_iter()
        .chain(chain["scans"].as_array().into_iter().flatten());
    let row = |entry: &Value| {
        ["/timestamp", "/artifact_type", "/subject", "/valid", "/signer"].map(|p| output::text(entry, p)).to_vec()
    };
    output::table(&["SIGNED", "TYPE", "SUBJECT", "VALID", "SIGNER"], signed.map(row).collect());
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
