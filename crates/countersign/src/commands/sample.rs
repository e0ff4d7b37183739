//! `countersign sample-upstream`: the sample MCP server of `examples/`, inside this binary so that the demo needs no other.

use crate::exit::{Exit, Failure};

/// Which sample.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Advertising campaigns
    #[command(disable_help_flag = true)]
    Ads {
        /// The sample's own options, see examples/ads-upstream
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

/// Serves until standard input ends.
///
/// # Errors
/// If the arguments are wrong, or standard input or the journal fails.
pub fn run(command: Command) -> anyhow::Result<Exit> {
    let Command::Ads { arguments } = command;
    match countersign_example_ads::run_stdio(arguments) {
        Ok(()) => Ok(Exit::Ok),
        Err(error @ countersign_example_ads::Error::Usage(_)) => {
            Err(Failure::new(Exit::Usage, error.to_string()).into())
        }
        Err(error) => Err(error.into()),
    }
}
