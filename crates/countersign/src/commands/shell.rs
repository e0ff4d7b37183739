//! `countersign completions` and `countersign man`: what shells and manuals know of the command line, made from its definition.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::cli::Cli;
use crate::exit::Exit;
use crate::output;

/// Options of `completions`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  countersign completions bash > ~/.local/share/bash-completion/completions/countersign
  countersign completions zsh > ~/.zfunc/_countersign          with fpath+=~/.zfunc in .zshrc
  countersign completions fish > ~/.config/fish/completions/countersign.fish")]
pub struct Completions {
    /// The shell
    shell: Shell,
}

/// Options of `man`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  countersign man --out ~/.local/share/man/man1
  countersign man | man -l -")]
pub struct Man {
    /// Write one page for each command into this directory; without it, the main page goes to standard output
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Writes a completion script to standard output.
///
/// # Errors
/// None.
pub fn completions(args: &Completions) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "countersign", &mut script);
    output::line(String::from_utf8(script)?.trim_end());
    Ok(Exit::Ok)
}

/// Writes manual pages.
///
/// # Errors
/// If the directory cannot be written to.
pub fn man(args: &Man) -> anyhow::Result<Exit> {
    let Some(directory) = &args.out else {
        let mut page = Vec::new();
        clap_mangen::Man::new(Cli::command()).render(&mut page)?;
        output::line(String::from_utf8(page)?.trim_end());
        return Ok(Exit::Ok);
    };
    let failed = || format!("writing to {}", directory.display());
    std::fs::create_dir_all(directory).with_context(failed)?;
    clap_mangen::generate_to(Cli::command(), directory).with_context(failed)?;
    Ok(Exit::Ok)
}
