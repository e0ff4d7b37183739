//! `countersign tools import`: manifests from descriptions of APIs. Needs no node; nothing is fetched.

use std::fs::OpenOptions;
use std::io::{Read as _, Write as _};
use std::path::PathBuf;

use countersign_catalog::openapi::{Imported, MAX_DOCUMENT_BYTES, Options, import};
use serde_json::json;

use crate::cli::Global;
use crate::exit::{Exit, Failure};
use crate::output::{self, Style};

/// What to import.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// A manifest from an OpenAPI document (3.0 or 3.1, JSON or YAML)
    #[command(after_help = "\
Examples:
  countersign tools import openapi pharmacy.yaml                       the manifest on standard output
  countersign tools import openapi pharmacy.yaml --out manifests/pharmacy.yaml
  countersign tools import openapi - --tag orders --server https://api.example/v1 < pharmacy.json

Effects are guessed from HTTP methods and marked for review; what a manifest cannot express is noted in it.")]
    Openapi(Openapi),
}

/// An OpenAPI document, and what to take of it.
#[derive(Debug, clap::Args)]
pub struct Openapi {
    /// The document, or `-` for standard input
    file: PathBuf,
    /// The upstream's name; made from the document's title by default
    #[arg(long, value_name = "NAME")]
    upstream: Option<String>,
    /// The server's URL; the document's first one by default
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// Only operations with this tag (repeatable)
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// Only the operation with this operationId (repeatable)
    #[arg(long = "operation", value_name = "ID")]
    operations: Vec<String>,
    /// Leave out the schemas of responses: an answer that does not fit its schema is reported as an error
    #[arg(long)]
    without_response_schemas: bool,
    /// Write the manifest to this file, which must not exist yet
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Imports.
///
/// # Errors
/// If the document cannot be read or understood, or the file cannot be written.
pub fn run(global: &Global, command: Command) -> anyhow::Result<Exit> {
    let Command::Openapi(args) = command;
    let text = read(&args.file)?;
    let options = Options {
        upstream: args.upstream,
        server: args.server,
        tags: args.tags,
        operations: args.operations,
        without_response_schemas: args.without_response_schemas,
    };
    let imported = import(&text, &options).map_err(|error| {
        let failure = Failure::new(Exit::Failed, format!("{}: {error}", args.file.display()));
        failure.advise("`--upstream`, `--server`, `--tag` and `--operation` state what the document leaves open")
    })?;
    if let Some(path) = &args.out {
        let mut file = OpenOptions::new().write(true).create_new(true).open(path).map_err(|error| {
            Failure::new(Exit::Failed, format!("{}: {error}", path.display()))
                .advise("name a file that does not exist yet")
        })?;
        file.write_all(imported.manifest.as_bytes())?;
    }
    if global.json {
        output::json(&json!({
            "upstream": imported.upstream.as_str(),
            "tools": imported.tools,
            "notes": imported.notes,
            "manifest": imported.manifest,
            "file": args.out,
        }));
    } else if let Some(path) = &args.out {
        show(&imported, path);
    } else {
        output::line(imported.manifest.trim_end());
    }
    Ok(Exit::Ok)
}

fn read(path: &std::path::Path) -> anyhow::Result<String> {
    let unreadable = |error: std::io::Error| Failure::new(Exit::Failed, format!("{}: {error}", path.display()));
    let mut text = String::new();
    let limit = MAX_DOCUMENT_BYTES as u64 + 1;
    if path.as_os_str() == "-" {
        std::io::stdin().take(limit).read_to_string(&mut text).map_err(unreadable)?;
    } else {
        std::fs::File::open(path).map_err(unreadable)?.take(limit).read_to_string(&mut text).map_err(unreadable)?;
    }
    Ok(text)
}

fn show(imported: &Imported, path: &std::path::Path) {
    let rows = imported.tools.iter().map(|tool| {
        vec![
            format!("{}:{}", imported.upstream, tool.name),
            tool.effect.as_str().to_owned(),
            format!("{} {}", tool.method, output::visible(&tool.path)),
        ]
    });
    output::table(&["TOOL", "EFFECT", "REQUEST"], rows.collect());
    if !imported.notes.is_empty() {
        output::line("");
        for note in &imported.notes {
            output::line(format!("  {} {}: {}", output::paint(Style::Warn, "note:"), note.place, note.text));
        }
    }
    output::line(format!(
        "\nWritten to {}. Review effects and descriptions, set the variables that it names, then start the node.",
        path.display()
    ));
}
