//! The sample upstream as a program of its own, for the integration tests.

use std::process::ExitCode;

fn main() -> ExitCode {
    match countersign_example_ads::run_stdio(std::env::args().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
