//! The binary `countersign`: the command line, and nothing that decides.
//!
//! Commands translate between a person and the node's public interfaces. Decisions live in `countersign-gate`, the wiring
//! of a node in `countersign-server`, and what an auditor needs in `countersign-proof`. See `docs/cli.md`.
#![forbid(unsafe_code)]

mod cli;
mod client;
mod commands;
mod demo;
mod exit;
mod local;
mod logging;
mod output;

use std::process::ExitCode;

use clap::Parser as _;

/// A call makes many small allocations that another thread frees; `docs/performance.md` has what this allocator saves.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => {
            let outcome = runtime.block_on(cli.run());
            // A blocking read of standard input must not keep a finished command alive.
            runtime.shutdown_background();
            outcome
        }
        Err(error) => Err(error.into()),
    };
    logging::flush();
    match outcome {
        Ok(exit) => exit.into(),
        Err(error) => exit::report(&error),
    }
}
