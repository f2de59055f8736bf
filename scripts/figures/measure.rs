//! Figures and how they are taken: medians, /proc, the disk.

use std::fmt;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

/// A line of the table.
pub struct Figure {
    pub name: String,
    /// Empty: told for its own sake.
    pub target: String,
    pub measured: String,
    /// Whether the target is met, where there is one.
    pub met: Option<bool>,
}

impl Figure {
    pub fn new(name: &str, target: &str, measured: String, met: bool) -> Self {
        Self { name: name.to_owned(), target: target.to_owned(), measured, met: Some(met) }
    }
    pub fn told(name: &str, measured: String) -> Self {
        Self { name: name.to_owned(), target: String::new(), measured, met: None }
    }
    /// A time that is to be at most `limit`.
    pub fn time(name: &str, limit: Duration, times: &Times) -> Self {
        Self::new(name, &format!("≤ {}", ms(limit)), times.to_string(), times.median() <= limit)
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let met = match self.met {
            Some(true) => "ok",
            Some(false) => "MISSED",
            None => "",
        };
        write!(f, "| {} | {} | {} | {met} |", self.name, self.target, self.measured)
    }
}

/// A number of times of the same thing, sorted.
pub struct Times(Vec<Duration>);

impl Times {
    pub fn new(mut times: Vec<Duration>) -> Self {
        assert!(!times.is_empty(), "nothing was measured");
        times.sort();
        Self(times)
    }
    pub fn median(&self) -> Duration {
        self.at(0.5)
    }
    pub fn at(&self, share: f64) -> Duration {
        let last = self.0.len() - 1;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)] // Small counts.
        self.0[((last as f64) * share).round() as usize]
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (last, share) = if self.0.len() >= 100 { (self.at(0.99), "p99") } else { (self.at(1.0), "worst") };
        write!(f, "median {}, {share} {}, n = {}", ms(self.median()), ms(last), self.0.len())
    }
}

/// In milliseconds, with as many digits as mean something.
pub fn ms(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1000.0;
    match ms {
        _ if ms < 10.0 && ms.fract() != 0.0 => format!("{ms:.2} ms"),
        _ => format!("{ms:.0} ms"),
    }
}

pub fn mib(bytes: u64) -> String {
    #[allow(clippy::cast_precision_loss)] // Far below 2^52.
    let mib = bytes as f64 / f64::from(1 << 20);
    format!("{mib:.2} MiB")
}

/// A field of `/proc/PID/FILE` that looks like `Name:  number [kB]`; `None` if it cannot be read.
pub fn proc_field(pid: i32, file: &str, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/{file}")).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    value.split_whitespace().next()?.parse().ok()
}

/// Resident memory, and how much of it is the binary's own pages, in KiB.
pub fn memory(pid: i32) -> (u64, u64, u64) {
    let field = |name: &str| proc_field(pid, "status", name).unwrap_or(0);
    (field("VmRSS"), field("RssAnon"), field("RssFile"))
}

pub fn memory_text(pid: i32) -> (u64, String) {
    let (rss, anon, file) = memory(pid);
    (rss, format!("{} ({} KiB of its own, {file} KiB of program and libraries)", mib(rss * 1024), anon))
}

/// Time on the processors, user and system, of all threads.
pub fn cpu(pid: i32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: u64 = [11, 12].iter().filter_map(|at| fields.get(*at)?.parse::<u64>().ok()).sum();
    // The kernel's USER_HZ is 100 on every platform there is.
    Duration::from_millis(ticks * 10)
}

/// How long this disk takes to make four kilobytes durable.
pub fn fsync(directory: &Path) -> Times {
    let path = directory.join("fsync-probe");
    let mut file = std::fs::File::create(&path).expect("a file to measure the disk with");
    let times = (0..200).map(|_| {
        file.write_all(&[b'x'; 4096]).expect("writing to the disk");
        let begun = Instant::now();
        file.sync_data().expect("fdatasync");
        begun.elapsed()
    });
    let times = Times::new(times.collect());
    let _ = std::fs::remove_file(&path);
    times
}

/// What all figures depend on.
pub fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map_or("unknown", |(_, name)| name);
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let kernel = read("/proc/sys/kernel/osrelease");
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or("?");
    format!("{cores} × {model}, Linux {}, load before: {load}", kernel.trim())
}
