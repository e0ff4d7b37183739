//! Exit codes, and errors that carry one. The codes are stable; `docs/cli.md` explains them.

use std::fmt;
use std::process::ExitCode;

use crate::output::{self, Style};

/// How a command ended. The numbers are part of the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// Failed, or refused by the node.
    Failed = 1,
    /// The command line makes no sense (clap uses the same number).
    Usage = 2,
    /// Something that was checked is not valid: a receipt, an export, the log, a policy set.
    Invalid = 3,
    /// Nothing is wrong with the file, but no key was given that would prove anything.
    Unanchored = 4,
    /// Not executed: people have to agree first.
    Pending = 5,
    /// No node answers.
    Unreachable = 6,
    /// The call was executed and the tool itself reported an error.
    ToolError = 7,
    /// The data directory is in use by another process.
    Busy = 8,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// An error with an exit code and, where there is one, advice.
#[derive(Debug)]
pub struct Failure {
    /// How the process ends.
    pub exit: Exit,
    /// What happened.
    pub message: String,
    /// What to do about it.
    pub advice: Option<String>,
}

impl Failure {
    /// A failure without advice.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), advice: None }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// The exit code that an error carries, wherever in its chain.
pub fn code_of(error: &anyhow::Error) -> Exit {
    failure_in(error).map_or(Exit::Failed, |failure| failure.exit)
}

/// The outermost failure: given as context it is found by the error itself, as a cause by its chain.
fn failure_in(error: &anyhow::Error) -> Option<&Failure> {
    error.downcast_ref().or_else(|| error.chain().find_map(|cause| cause.downcast_ref()))
}

/// Tells the person on standard error and returns the process's exit code.
pub fn report(error: &anyhow::Error) -> ExitCode {
    let chain: Vec<String> = error.chain().map(|cause| output::visible(&cause.to_string())).collect();
    eprintln!("{} {}", output::paint_err(Style::Bad, "error:"), chain.join(": "));
    if let Some(advice) = failure_in(error).and_then(|failure| failure.advice.as_ref()) {
        eprintln!("{} {}", output::paint_err(Style::Dim, "hint:"), output::visible(advice));
    }
    code_of(error).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_survives_added_context() {
        let error = anyhow::Error::new(Failure::new(Exit::Unreachable, "no node")).context("listing tools");
        assert_eq!(code_of(&error), Exit::Unreachable);
        let error = anyhow::anyhow!("no such file").context(Failure::new(Exit::Usage, "not a key"));
        assert_eq!(code_of(&error), Exit::Usage);
        assert_eq!(code_of(&anyhow::anyhow!("anything else")), Exit::Failed);
    }
}
