//! The program: hands the command line to the library, and its exit code to the system. The one place that exits.

use hermes_gateway::adapter::table;
use hermes_gateway::cli::{self, Program};
use hermes_gateway::control;

fn main() {
    let code = cli::main(&Program { run: control::run, platforms: &table::Keys });
    // Not through `exit`: a thread that was left behind must not be able to hold up destructors or `atexit` handlers.
    hermes_gateway::thread::leave(i32::from(code));
}
