//! `countersign verify`: needs the proof crate and the given keys, and nothing else: no node, no configuration, no data.

use std::path::PathBuf;

use anyhow::Context as _;
use countersign_proof::jwk::JwkSet;
use countersign_proof::note::VerifierKey;
use countersign_proof::{Report, TrustAnchors, Verdict, verify_file};

use crate::exit::{Exit, Failure};
use crate::output::{self, Style};

/// Largest file that is read; the parsers' own bounds are smaller.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// Options of `verify`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  countersign log keys > log.vkey                 on the node, once, over a channel that you trust
  countersign verify receipt.json --key log.vkey
  countersign verify receipt.json --key log.vkey --witness one.vkey --witness two.vkey --witnesses 2
  countersign verify *.json --key log.vkey --witness witnesses.txt --quorum 2 --json
  countersign keys export -o jwks.json            on the node, for signed artifacts
  countersign verify artifact.jws --jwks jwks.json --workspace north-clinic

Keys of logs are C2SP verifier keys (name+id+base64), given as text or as a file with one on each line. Without --key, the
file in COUNTERSIGN_ANCHORS or ~/.config/countersign/anchors is used, if there is one. A key inside a file never counts.")]
pub struct Args {
    /// Receipts, checkpoints, tlog-proofs or signed artifacts (JWS, flattened or compact); `-` is standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// A log's key, or a file of keys
    #[arg(long, value_name = "VKEY|FILE")]
    key: Vec<String>,
    /// A witness's key, or a file of keys
    #[arg(long, value_name = "VKEY|FILE")]
    witness: Vec<String>,
    /// How many different witnesses must have cosigned
    #[arg(long, visible_alias = "witnesses", value_name = "M", default_value_t = 0)]
    quorum: usize,
    /// Keys of those who sign artifacts: a JSON Web Key Set, with the marks of retired and revoked keys if it has them
    #[arg(long, value_name = "FILE")]
    jwks: Vec<PathBuf>,
    /// Whose keys those are; artifacts of other workspaces, and what is no artifact, are then not valid
    #[arg(long, value_name = "NAME", requires = "jwks")]
    workspace: Option<String>,
}

/// Checks every file and says what was checked. The exit code is that of the worst.
///
/// # Errors
/// If a file or a key cannot be read.
pub fn run(json: bool, args: &Args) -> anyhow::Result<Exit> {
    let anchors = anchors(args)?;
    let mut worst = Exit::Ok;
    let mut reports = Vec::with_capacity(args.files.len());
    for path in &args.files {
        let report = verify_file(&read(path)?, &anchors);
        worst = worse(worst, exit_of(report.verdict));
        if json {
            let mut value = serde_json::to_value(&report)?;
            value["file"] = path.display().to_string().into();
            reports.push(value);
        } else {
            show(&path.display().to_string(), &report);
        }
    }
    if json {
        // One file, one object; several files, an array.
        output::json(&if reports.len() == 1 { reports.remove(0) } else { reports.into() });
    }
    Ok(worst)
}

fn show(name: &str, report: &Report) {
    let style = match report.verdict {
        Verdict::Valid => Style::Good,
        Verdict::Invalid => Style::Bad,
        Verdict::Unanchored => Style::Warn,
    };
    let text = report.to_string();
    let (verdict, rest) = text.split_once('\n').unwrap_or((&text, ""));
    output::line(format!("{}: {}", output::visible(name), output::paint(style, verdict)));
    output::line(rest.trim_end());
}

fn exit_of(verdict: Verdict) -> Exit {
    match verdict {
        Verdict::Valid => Exit::Ok,
        Verdict::Invalid => Exit::Invalid,
        Verdict::Unanchored => Exit::Unanchored,
    }
}

/// Invalid is worse than unanchored, which is worse than valid.
fn worse(a: Exit, b: Exit) -> Exit {
    let rank = |exit: Exit| match exit {
        Exit::Ok => 0,
        Exit::Unanchored => 1,
        _ => 2,
    };
    if rank(b) > rank(a) { b } else { a }
}

fn anchors(args: &Args) -> anyhow::Result<TrustAnchors> {
    let now = u64::try_from(output::now_ms() / 1000).unwrap_or_default();
    let signers = signers(&args.jwks)?;
    let mut anchors = TrustAnchors::new().with_quorum(args.quorum).with_signers(signers);
    anchors = anchors.with_workspace(args.workspace.clone()).at(now);
    let default = if args.key.is_empty() { default_anchors() } else { None };
    let default = default.map(|path| path.display().to_string());
    for source in args.key.iter().chain(&args.witness).chain(&default) {
        for key in keys(source)? {
            anchors.add(key);
        }
    }
    Ok(anchors)
}

/// The keys of all the sets; a key that is in two of them has to be the same in both.
fn signers(paths: &[PathBuf]) -> anyhow::Result<JwkSet> {
    let mut all = JwkSet::default();
    for path in paths {
        let wrong = || Failure::new(Exit::Usage, format!("{} cannot be used", path.display()));
        let set = JwkSet::parse(&read(path)?).with_context(wrong)?;
        for key in set.keys() {
            all.add(key.clone()).with_context(wrong)?;
        }
    }
    Ok(all)
}

fn default_anchors() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("COUNTERSIGN_ANCHORS") {
        return Some(path.into());
    }
    let config = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from);
    let config = config.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config")))?;
    Some(config.join("countersign/anchors")).filter(|path| path.is_file())
}

/// A verifier key, or a file with one on each line; `#` starts a comment.
///
/// # Errors
/// [`Exit::Usage`] if it is neither.
pub fn keys(source: &str) -> anyhow::Result<Vec<VerifierKey>> {
    if let Ok(key) = source.parse::<VerifierKey>() {
        return Ok(vec![key]);
    }
    let wrong = || {
        Failure::new(Exit::Usage, format!("{source:?} is neither a verifier key nor a readable file of them"))
            .advise("a verifier key looks like name+12345678+base64; `countersign log keys` prints a node's")
    };
    let bytes = read(&PathBuf::from(source)).map_err(|error| error.context(wrong()))?;
    let text = String::from_utf8(bytes).map_err(|_| wrong())?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| line.parse().with_context(|| format!("in {source}")).context(wrong())).collect()
}

fn read(path: &PathBuf) -> anyhow::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    let context = || format!("reading {}", path.display());
    if path.as_os_str() == "-" {
        std::io::stdin().take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).with_context(context)?;
    } else {
        let file = std::fs::File::open(path).with_context(context)?;
        file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).with_context(context)?;
    }
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(Failure::new(
            Exit::Invalid,
            format!("{} is larger than any file that is verified", path.display()),
        )
        .into());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_file_decides() {
        use Exit::{Invalid, Ok, Unanchored};
        assert_eq!([Ok, Unanchored, Ok].into_iter().fold(Ok, worse), Unanchored);
        assert_eq!([Invalid, Unanchored, Ok].into_iter().fold(Ok, worse), Invalid);
    }
}
