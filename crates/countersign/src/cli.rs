//! The command line: what can be typed, and which module does it.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::commands::{
    administer, approvals, artifacts, audit, authority, backup, call, config, connections, doctor, health, limits, log,
    mcp, members, policy, receipt, sample, shell, token, tools, trust, up, verify, witness,
};
use crate::demo;
use crate::exit::Exit;

/// Lets AI agents use real tools under policy, with human sign-off, and leaves proof that anyone can check.
#[derive(Debug, Parser)]
#[command(name = "countersign", version, about, propagate_version = true, max_term_width = 110, after_help = AFTER_HELP)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options that every command takes.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Keep configuration and data in this directory instead of the XDG ones
    #[arg(long, global = true, value_name = "DIR", env = "COUNTERSIGN_HOME", help_heading = "Global options")]
    pub home: Option<PathBuf>,
    /// Where the node is; by default the one that runs on the data directory
    #[arg(long, global = true, value_name = "URL", env = "COUNTERSIGN_URL", help_heading = "Global options")]
    pub url: Option<String>,
    /// Bearer token to authenticate with
    #[arg(
        long,
        global = true,
        value_name = "JWT",
        env = "COUNTERSIGN_TOKEN",
        hide_env_values = true,
        help_heading = "Global options"
    )]
    pub token: Option<String>,
    /// With the development issuer: act as this person, with these roles
    #[arg(long = "as", global = true, value_name = "NAME[,ROLE…]", help_heading = "Global options")]
    pub act_as: Option<String>,
    /// Write JSON for programs instead of text for people
    #[arg(long, global = true, help_heading = "Global options")]
    pub json: bool,
}

const AFTER_HELP: &str = "\
Examples:
  countersign demo                                   see all of it happen, in under a minute
  countersign up                                     run a node and print how to connect
  countersign tools accept --all                     review what the upstreams offer
  countersign call ads:listCampaigns                 use a tool
  countersign approvals approve ID --as tess,treasurer
  countersign verify receipt.json --key log.vkey     check a receipt, offline

Exit codes:
  0 done                      5 not executed: waits for people
  1 failed or refused         6 no node answers
  2 wrong usage               7 executed, but the tool reported an error
  3 checked and not valid     8 the data directory is in use
  4 unanchored: no key given that would prove anything";

#[derive(Debug, Subcommand)]
enum Command {
    /// See it work: a node, a tool, people who agree, and a receipt that verifies
    Demo(demo::Args),
    /// Run a node; the first start writes a starter home
    Up(up::Args),
    /// Speak MCP over standard input and output, for clients that start a command
    Mcp(mcp::Args),
    /// Use a tool
    Call(call::Args),
    /// See, review and accept tools
    #[command(subcommand)]
    Tools(tools::Command),
    /// See and answer requests for approval
    #[command(subcommand)]
    Approvals(approvals::Command),
    /// Read, check and export the audit trail
    #[command(subcommand)]
    Audit(audit::Command),
    /// Fetch receipts
    #[command(subcommand)]
    Receipt(receipt::Command),
    /// Check receipts, checkpoints, proofs and signed artifacts offline: no node, no data directory
    Verify(verify::Args),
    /// The transparency log: its head, its keys, its health
    #[command(subcommand)]
    Log(log::Command),
    /// Who cosigned this log, and which logs this node cosigns
    #[command(subcommand)]
    Witness(witness::Command),
    /// Check, test and explain policies
    #[command(subcommand)]
    Policy(policy::Command),
    /// Make development tokens
    #[command(subcommand)]
    Token(token::Command),
    /// Register, list and archive workspaces
    #[command(subcommand)]
    Workspace(members::WorkspaceCommand),
    /// Grant, list and take back roles
    #[command(subcommand)]
    Role(members::RoleCommand),
    /// Make, list and revoke API keys
    #[command(name = "apikey", subcommand)]
    ApiKey(members::ApiKeyCommand),
    /// Connect accounts of your own, for agents to use and never see
    #[command(subcommand)]
    Connections(connections::Command),
    /// Sign and verify artifacts in Sigstore's shapes
    #[command(subcommand)]
    Trust(trust::Command),
    /// What others need to verify this node's signatures
    #[command(subcommand)]
    TrustRoot(trust::root::Command),
    /// Sign documents, keep them and find them again
    #[command(subcommand)]
    Artifacts(artifacts::Command),
    /// The keys that sign artifacts
    #[command(subcommand)]
    Keys(artifacts::KeysCommand),
    /// Who issues the certificates of signatures
    #[command(subcommand)]
    Authority(authority::Command),
    /// Stop a principal, tool, upstream or workspace at once
    Freeze(administer::FreezeArgs),
    /// Let it go on
    Unfreeze(administer::UnfreezeArgs),
    /// Everything that is frozen
    Freezes,
    /// Upstreams and tools that are left alone after failures
    #[command(subcommand)]
    Breakers(limits::BreakersCommand),
    /// What principals used of their budgets in the current periods
    Budgets,
    /// Writes whose outcome nobody knows
    #[command(subcommand)]
    Unknown(administer::UnknownCommand),
    /// Erase one event's body and salt; the log and every other receipt stay valid
    Erase(administer::EraseArgs),
    /// Copy the database while the node runs
    Backup(backup::BackupArgs),
    /// Put a backup in place; the next start opens a new shard that names the old head
    Restore(backup::RestoreArgs),
    /// Look for what is wrong, and say how to fix it
    Doctor(doctor::Args),
    /// Whether the node lives: for supervisors and containers
    Health(health::Args),
    /// Configuration of the programs around the node
    #[command(subcommand)]
    Config(config::Command),
    /// Completions for a shell
    Completions(shell::Completions),
    /// Manual pages
    Man(shell::Man),
    /// A sample upstream: an MCP server over standard input and output
    #[command(hide = true, subcommand)]
    SampleUpstream(sample::Command),
}

impl Cli {
    /// Runs the command.
    ///
    /// # Errors
    /// Whatever went wrong, with its exit code, see [`crate::exit::code_of`].
    pub async fn run(self) -> anyhow::Result<Exit> {
        let global = &self.global;
        match self.command {
            Command::Demo(args) => demo::run(args).await,
            Command::Up(args) => up::run(global, args).await,
            Command::Mcp(args) => mcp::run(global, args).await,
            Command::Call(args) => call::run(global, args).await,
            Command::Tools(command) => tools::run(global, command).await,
            Command::Approvals(command) => approvals::run(global, command).await,
            Command::Audit(command) => audit::run(global, command).await,
            Command::Receipt(command) => receipt::run(global, command).await,
            Command::Verify(args) => verify::run(global.json, &args),
            Command::Log(command) => log::run(global, command).await,
            Command::Witness(command) => witness::run(global, command).await,
            Command::Policy(command) => policy::run(global, command).await,
            Command::Token(command) => token::run(global, command),
            Command::Workspace(command) => members::workspace(global, command).await,
            Command::Role(command) => members::role(global, command).await,
            Command::ApiKey(command) => members::api_key(global, command).await,
            Command::Connections(command) => connections::run(global, command).await,
            Command::Trust(command) => trust::run(global, command).await,
            Command::TrustRoot(command) => trust::root::run(global, command).await,
            Command::Artifacts(command) => artifacts::run(global, command).await,
            Command::Keys(command) => artifacts::keys(global, command).await,
            Command::Authority(command) => authority::run(global, command).await,
            Command::Freeze(args) => administer::freeze(global, args).await,
            Command::Unfreeze(args) => administer::unfreeze(global, args).await,
            Command::Freezes => administer::freezes(global).await,
            Command::Breakers(command) => limits::breakers(global, command).await,
            Command::Budgets => limits::budgets(global).await,
            Command::Unknown(command) => administer::unknown(global, command).await,
            Command::Erase(args) => administer::erase(global, args).await,
            Command::Backup(args) => backup::backup(global, args).await,
            Command::Restore(args) => backup::restore(global, &args),
            Command::Doctor(args) => doctor::run(global, args).await,
            Command::Health(args) => health::run(global, &args).await,
            Command::Config(command) => config::run(global, command),
            Command::Completions(args) => shell::completions(&args),
            Command::Man(args) => shell::man(&args),
            Command::SampleUpstream(command) => sample::run(command),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }
}
