//! Looking at processes from outside, through /proc, and running commands with a bound.

use super::poll;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// What a finished command left behind.
#[derive(Debug, Clone)]
pub struct Output {
    /// `None` if a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    pub elapsed: Duration,
}

impl Output {
    pub fn all(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
    /// Asserts the exit code, and shows everything if it is another.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "exit code; stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }
    #[track_caller]
    pub fn says(self, part: &str) -> Self {
        assert!(self.all().contains(part), "{part:?} is missing; stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }
}

/// Runs a command to its end, or kills it and panics.
pub fn run(command: &mut Command, input: &[u8], within: Duration) -> Output {
    let begun = Instant::now();
    let name = format!("{command:?}");
    let stdin = if input.is_empty() { Stdio::null() } else { Stdio::piped() };
    let mut child =
        command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap_or_else(|error| panic!("{name}: {error}"));
    if let Some(mut stdin) = child.stdin.take() {
        // A command that does not read its input is not an error here.
        let _ = stdin.write_all(input);
    }
    let readers = [gather(child.stdout.take().expect("piped")), gather(child.stderr.take().expect("piped"))];
    let Some(status) = wait(&mut child, within) else {
        let _ = child.kill();
        let _ = child.wait();
        let [stdout, stderr] = readers.map(|reader| reader.recv_timeout(Duration::from_secs(5)).unwrap_or_default());
        panic!("{name} is still there after {within:?}\n{stdout}\n{stderr}");
    };
    let elapsed = begun.elapsed();
    // A child of the command may hold the pipes open: what is there by then is the output.
    let [stdout, stderr] = readers.map(|reader| reader.recv_timeout(Duration::from_secs(10)).unwrap_or_default());
    Output { code: status.code(), stdout, stderr, elapsed }
}

fn gather(mut pipe: impl Read + Send + 'static) -> std::sync::mpsc::Receiver<String> {
    let (sender, receiver) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        let _ = sender.send(String::from_utf8_lossy(&bytes).into_owned());
    });
    receiver
}

/// Waits for the end of a child without blocking on it.
pub fn wait(child: &mut Child, within: Duration) -> Option<ExitStatus> {
    poll::try_for(within, Duration::from_millis(1), || child.try_wait().expect("waiting for a child"))
}

/// One live process.
#[derive(Debug, Clone)]
pub struct Process {
    pub pid: i32,
    pub command: String,
    pub state: char,
}

fn pids() -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").expect("/proc").flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn process(pid: i32) -> Option<Process> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let state = stat[stat.rfind(')')? + 1..].trim_start().chars().next()?;
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    Some(Process { pid, command: String::from_utf8_lossy(&command).replace('\0', " "), state })
}

/// Processes whose command line contains this; zombies do not count.
pub fn with_command(part: &str) -> Vec<Process> {
    let me = i32::try_from(std::process::id()).expect("a pid");
    let found = pids().into_iter().filter(|pid| *pid != me).filter_map(process);
    found.filter(|process| process.command.contains(part) && process.state != 'Z').collect()
}

/// Processes that belong to a scratch directory: by their environment, working directory or command line.
/// None of that depends on what the gateway itself marks its children with.
pub fn of_scratch(scratch: &Path) -> Vec<Process> {
    let mark = scratch.to_str().expect("scratch paths are text");
    let me = i32::try_from(std::process::id()).expect("a pid");
    let belongs = |pid: i32| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let contains = |bytes: &[u8]| bytes.windows(mark.len()).any(|window| window == mark.as_bytes());
        let directory = std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
        contains(&environment) || contains(&command) || directory.starts_with(scratch)
    };
    let found = pids().into_iter().filter(|pid| *pid != me && belongs(*pid));
    found.filter_map(process).filter(|process| process.state != 'Z').collect()
}

/// A duration for `sleep` that no other process on the machine has, to find its processes by.
pub fn mark() -> String {
    format!("{}.{:09}", fastrand::u32(70_000..99_000), fastrand::u32(..1_000_000_000))
}

/// Figures of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footprint {
    pub descriptors: usize,
    pub threads: usize,
    pub rss_kib: u64,
}

pub fn footprint(pid: i32) -> Footprint {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_else(|error| panic!("process {pid}: {error}"));
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|number| number.parse::<u64>().ok()).unwrap_or(0)
    };
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
    let threads = usize::try_from(field("Threads:")).expect("a count");
    Footprint { descriptors, threads, rss_kib: field("VmRSS:") }
}

/// What the descriptors of a process point to, to say which leaked.
pub fn descriptors(pid: i32) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    entries.filter_map(|entry| std::fs::read_link(entry.path()).ok()).collect()
}

/// Voluntary and involuntary context switches of all threads together.
pub fn switches(pid: i32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let statuses = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("status")).ok());
    statuses
        .flat_map(|status| {
            let lines = status.lines().filter(|line| line.starts_with("voluntary_ctxt_switches"));
            lines.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).collect::<Vec<_>>()
        })
        .sum()
}
