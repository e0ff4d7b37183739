//! `countersign demo`: the whole story, told while it happens.
//!
//! It uses child processes and public interfaces only: a node (`countersign up`), the sample upstream that the node starts,
//! and this binary's own commands. Whatever is printed as a fact was read from an answer, a file or a process, and whatever
//! does not come out as told ends the demo with an error. [`stage`] has the processes, [`voice`] the telling, [`agent`] the
//! agent's side of MCP, and [`story`] and [`crash`] the steps.

mod agent;
mod crash;
mod stage;
mod story;
mod voice;

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use crate::exit::{Exit, Failure};
use crate::output::{self, Style};
use stage::Stage;
use voice::Voice;

/// After this the demo gives up.
const LONGEST: Duration = Duration::from_secs(120);

/// Options of `demo`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Don't pause for the reader
    #[arg(long)]
    fast: bool,
    /// Keep the demo's directory afterwards
    #[arg(long)]
    keep: bool,
    /// Use this directory, which must be empty or absent, instead of a new temporary one
    #[arg(long, value_name = "DIR")]
    dir: Option<std::path::PathBuf>,
}

/// Runs the demo.
///
/// # Errors
/// If anything does not come out as told.
pub async fn run(args: Args) -> anyhow::Result<Exit> {
    let voice = Voice::new(args.fast);
    let mut stage = Stage::set(args.dir.as_deref())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let told = tokio::select! {
        told = story::tell(&voice, &mut stage) => told,
        () = tokio::time::sleep(LONGEST) => Err(anyhow::anyhow!("the demo took more than {} s", LONGEST.as_secs())),
        // However the demo ends, the node that it started ends with it.
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
        _ = terminate.recv() => Err(anyhow::anyhow!("interrupted")),
    };
    stage.strike().await;
    match told {
        Ok(()) => {
            if args.keep {
                output::line(format!("The demo's directory is kept: {}", stage.home().display()));
            } else {
                stage.clear()?;
            }
            Ok(Exit::Ok)
        }
        Err(error) => {
            output::line(output::paint(Style::Bad, "\nThis did not come out as told."));
            let advice = format!(
                "everything is kept in {}; the node's log is {}",
                stage.home().display(),
                stage.log_file().display()
            );
            Err(Failure::new(Exit::Failed, format!("{error:#}")).advise(advice).into())
        }
    }
}
