//! Child trees: starting them, reading them, and ending them to the last descendant.
//!
//! Every tool's process starts in a session of its own, marked in its environment, from one long-lived thread
//! (`children`), which also ends trees and reaps what is re-parented to us. Callers wait with their own deadline and
//! cancel token, and never for that thread. All `unsafe` code of the program is here and in `thread/`.
//!
//! Must not: signal a process that it cannot prove to be a descendant or a marked leftover, reap a child of somebody
//! else, pass a secret on, or wait without an end.

mod ending;
mod environment;
mod job;
mod leftovers;
mod other;
mod output;
mod reaper;
mod run;
mod spawn;
mod system;
mod table;
#[cfg(test)]
mod tests;
mod tree;

pub use job::{JobId, JobInfo, JobState};
pub use leftovers::{count_leftovers, instance_mark};
pub use other::{Detached, Pinned, SignalError, become_program, carries_mark_of, command_line, descends_from};
pub use output::LogPiece;
pub use system::{ProcessId, hide_memory};
pub use table::MARK_VARIABLE;

use crate::clock::Deadline;
use crate::thread::Threads;
use reaper::Shared;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// What is to be run.
#[derive(Debug, Clone)]
pub enum Program {
    /// A command line for the shell.
    Shell(String),
    /// A program, looked up in the child's `PATH`, and its arguments.
    Arguments(Vec<OsString>),
}

impl Program {
    fn name(&self) -> String {
        match self {
            Self::Shell(_) => spawn::shell().to_owned(),
            Self::Arguments(words) => words.first().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default(),
        }
    }
}

/// A process to be started.
#[derive(Debug, Clone)]
pub struct Spec {
    pub program: Program,
    pub directory: PathBuf,
    /// Names passed on from our environment besides the built-in list: `[tools.shell] env`.
    pub environment_names: Vec<String>,
    /// Set in the child's environment.
    pub environment: Vec<(String, String)>,
    /// Written to its standard input, which is then closed. Empty: `/dev/null`.
    pub stdin: Vec<u8>,
    /// When it is ended at the latest.
    pub deadline: Deadline,
    /// Output kept in memory, head and tail together. [`crate::limits::TOOL_OUTPUT_BYTES_MAX`] for tools.
    pub output_bytes_max: usize,
    /// For `status`, logs and pulses: "shell: cargo build". No secret may be in it.
    pub what: String,
}

impl Spec {
    /// A command line with nothing on its standard input and the tools' bound on output.
    #[must_use]
    pub fn shell(command: impl Into<String>, directory: impl Into<PathBuf>, deadline: Deadline) -> Self {
        let command = command.into();
        Self {
            what: format!("shell: {}", first_line(&command)),
            program: Program::Shell(command),
            directory: directory.into(),
            environment_names: Vec::new(),
            environment: Vec::new(),
            stdin: Vec::new(),
            deadline,
            output_bytes_max: crate::limits::TOOL_OUTPUT_BYTES_MAX,
        }
    }
}

fn first_line(text: &str) -> String {
    text.trim().lines().next().unwrap_or_default().chars().take(60).collect()
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Code(i32),
    /// The number of the signal.
    Signal(i32),
    /// Its deadline passed; its tree was ended.
    TimedOut,
    /// Its token was cancelled, or the job was killed; the end of its tree is ordered and goes on by itself.
    Cancelled,
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit {code}"),
            Self::Signal(number) => match nix::sys::signal::Signal::try_from(*number) {
                Ok(signal) => write!(f, "killed by {}", signal.as_str()),
                Err(_) => write!(f, "killed by signal {number}"),
            },
            Self::TimedOut => f.write_str("timed out"),
            Self::Cancelled => f.write_str("cancelled"),
        }
    }
}

/// What came of a foreground process.
#[derive(Debug)]
pub struct Finished {
    pub exit: Exit,
    /// Standard output and error in the order in which they were written; head and tail if it was too much.
    pub output: String,
    /// Bytes of output that are not in `output`.
    pub left_out: u64,
    pub elapsed: Duration,
    /// The process had left others running when it ended; they were ended.
    pub leftover: bool,
}

/// Why a process was not started.
#[derive(Debug)]
pub enum SpawnError {
    NoProgram,
    /// A word, name or path has a NUL byte in it.
    NulByte,
    /// The program is not there or cannot be executed.
    Program {
        program: String,
        cause: std::io::Error,
    },
    /// The working directory cannot be entered.
    Directory {
        directory: PathBuf,
        cause: std::io::Error,
    },
    /// The system refused: no memory, no process, no descriptor left.
    System {
        doing: &'static str,
        cause: std::io::Error,
    },
    /// Too many trees, or too many background jobs.
    TooMany {
        what: &'static str,
        limit: usize,
    },
    /// The children thread did not answer in time.
    Stuck,
    /// The gateway is stopping: nothing is started any more.
    Closing,
}

impl std::fmt::Display for SpawnError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoProgram => f.write_str("no program given"),
            Self::NulByte => f.write_str("a NUL byte cannot be passed to a program; remove it"),
            Self::Program { program, cause } => write!(f, "cannot run {program}: {cause}"),
            Self::Directory { directory, cause } => write!(f, "cannot change into {}: {cause}", directory.display()),
            Self::System { doing, cause } => write!(f, "cannot {doing}: {cause}"),
            Self::TooMany { what, limit } => write!(f, "there are {limit} {what} already; end one first"),
            Self::Stuck => f.write_str("the system did not start a process in time; try again"),
            Self::Closing => f.write_str("the gateway is stopping; nothing is started any more"),
        }
    }
}

impl std::error::Error for SpawnError {}

/// What it took to end trees.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EndReport {
    /// Processes that were sent TERM.
    pub term: usize,
    /// Processes that needed KILL.
    pub kill: usize,
    /// Still there at the deadline.
    pub left: usize,
}

/// The process trees of this gateway. Clones are the same; when the last one is dropped, the trees are ended.
#[derive(Clone)]
pub struct Children {
    handle: Arc<Closer>,
}

/// Ends the children thread with the last handle; the thread itself only holds what is inside.
struct Closer {
    shared: Arc<Shared>,
}

impl Drop for Closer {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl Children {
    /// Makes this process the reaper of its orphaned descendants. One a process.
    ///
    /// `instance_mark` comes from [`instance_mark`]; the children thread starts with the first child.
    #[must_use]
    pub fn new(instance_mark: String, threads: &Threads) -> Self {
        system::become_subreaper();
        Self { handle: Arc::new(Closer { shared: Arc::new(Shared::new(instance_mark, threads)) }) }
    }

    /// Sets variables in the environment of every child from now on. To be called once.
    pub fn set_environment(&self, pairs: Vec<(String, String)>) {
        let _ = self.shared().environment.set(pairs);
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.handle.shared
    }

    /// Trees that are not completely gone: tools that run, background jobs, and what is being ended.
    #[must_use]
    pub fn count(&self) -> usize {
        self.shared().trees().len()
    }

    /// What runs, for `status`: the description of each tree and its leader's number.
    #[must_use]
    pub fn running(&self) -> Vec<(String, ProcessId)> {
        self.shared().trees().iter().map(|tree| (tree.what.clone(), tree.leader)).collect()
    }
}
