//! The program: hands the command line to the library, and its exit code to the system. The one place that exits.

use hermes_gateway::cli::{self, Program, RunOptions};
use hermes_gateway::config::{Config, keys::BuiltIn};
use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(cli::main(&Program { run, platforms: &BuiltIn }))
}

/// Holds the instance until it is told to stop at the control socket.
fn run(_config: Config, _options: RunOptions) -> u8 {
    eprintln!("hermes-gateway: this build has no gateway in it");
    70
}
