//! Log lines: formatted by the thread that logs, written by the `log` thread.
//!
//! Between them is a bounded, lossy queue, so that a blocked stderr blocks nobody. What was dropped is counted and
//! said as soon as stderr takes lines again.

use super::{CancelToken, Handle, SpawnError, Threads, wait_for_work};
use crate::clock::{Deadline, zone};
use crate::limits;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use std::io::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

enum Item {
    Line(Vec<u8>),
    /// Answered when everything before it is written.
    Flush(Sender<()>),
}

static QUEUE: OnceLock<Sender<Item>> = OnceLock::new();
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// `10:02:11 info  control   text`, for people and files.
    Plain,
    /// `<6>control: text`, for journald, which has its own time and level.
    Journal,
}

impl Style {
    /// journald if stderr is connected to it (`JOURNAL_STREAM` is set by systemd), plain otherwise.
    #[must_use]
    pub fn detect() -> Self {
        if std::env::var_os("JOURNAL_STREAM").is_some() { Self::Journal } else { Self::Plain }
    }
}

struct QueueWriter;

impl Write for QueueWriter {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        if let Some(queue) = QUEUE.get() {
            let mut kept = line[..line.len().min(limits::LOG_LINE_BYTES_MAX)].to_vec();
            if kept.len() < line.len() {
                kept.extend_from_slice(b" [cut]\n");
            }
            if let Err(TrySendError::Full(_)) = queue.try_send(Item::Line(kept)) {
                DROPPED.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Starts the log thread and makes it the target of the `log` macros. To be called once, before other threads.
///
/// `filter` is in `env_logger`'s syntax (`info`, `info,telegram=debug`).
///
/// # Errors
/// When the thread cannot be started.
pub fn start(threads: &Threads, filter: &str, style: Style) -> Result<Handle, SpawnError> {
    let (sender, lines) = bounded(limits::LOG_QUEUE_MAX);
    let handle = threads.spawn("log", 0, CancelToken::new(), |_| (), move |_| write_lines(&lines))?;
    if QUEUE.set(sender).is_ok() {
        let mut builder = env_logger::Builder::new();
        builder.parse_filters(filter).target(env_logger::Target::Pipe(Box::new(QueueWriter)));
        builder.format(move |out, record| format(out, record, style));
        let _ = builder.try_init();
    }
    Ok(handle)
}

fn format(out: &mut env_logger::fmt::Formatter, record: &log::Record<'_>, style: Style) -> std::io::Result<()> {
    let target = record.target().rsplit("::").next().unwrap_or_default();
    // A line break inside a text must not look like the beginning of another line.
    let text = record.args().to_string().replace('\n', "\n    ");
    match style {
        Style::Journal => {
            let priority = match record.level() {
                log::Level::Error => 3,
                log::Level::Warn => 4,
                log::Level::Info => 6,
                log::Level::Debug | log::Level::Trace => 7,
            };
            writeln!(out, "<{priority}>{target}: {text}")
        }
        Style::Plain => {
            let level = record.level().as_str().to_ascii_lowercase();
            let time = zone::local_now().strftime("%H:%M:%S").to_string();
            writeln!(out, "{time} {level:<5} {target:<9} {text}")
        }
    }
}

fn write_lines(lines: &Receiver<Item>) {
    loop {
        let item = {
            let _waiting = wait_for_work(format_args!("waiting for log lines"));
            #[allow(clippy::disallowed_methods)] // The queue lives as long as the process; there is nothing else to wait for.
            match lines.recv() {
                Ok(item) => item,
                Err(_) => return,
            }
        };
        let _busy = wait_for_work(format_args!("writing to stderr"));
        match item {
            Item::Line(line) => {
                let _ = std::io::stderr().write_all(&line);
            }
            Item::Flush(done) => drop(done),
        }
        let dropped = DROPPED.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            let _ = writeln!(std::io::stderr(), "log: {dropped} lines dropped: stderr did not take them");
        }
    }
}

/// Waits until everything logged so far is written, `wait` at the most. `false`: stderr is blocked.
#[must_use]
pub fn flush(wait: Duration) -> bool {
    let Some(queue) = QUEUE.get() else { return true };
    let deadline = Deadline::after(wait);
    let (sender, done) = bounded::<()>(0);
    if queue.send_deadline(Item::Flush(sender), deadline.instant()).is_err() {
        return false;
    }
    // Nothing is ever sent: the log thread drops its end.
    matches!(done.recv_deadline(deadline.instant()), Err(crossbeam_channel::RecvTimeoutError::Disconnected))
}
