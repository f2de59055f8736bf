//! Starting a process: everything that allocates happens before the fork, nothing that allocates after it.
//!
//! Runs on the children thread, which lives as long as the gateway: the kernel ties `PR_SET_PDEATHSIG` to the thread
//! that forked. It never waits for the new process: whether the exec went well is read from a pipe by the caller, with
//! a deadline, because changing into a directory of a dead file server takes for ever.

use super::environment;
use super::system::{self, ProcessId};
use super::{Program, SpawnError, Spec};
use nix::fcntl::OFlag;
use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;

/// What the child needs, ready to be used between fork and exec.
pub(super) struct Prepared {
    program: CString,
    arguments: Vec<CString>,
    environment: Vec<CString>,
    directory: CString,
    stdin: OwnedFd,
    output: OwnedFd,
    report: OwnedFd,
}

/// The gateway's ends of the pipes. All are non-blocking.
pub(super) struct Ends {
    /// Gone when there is nothing (more) to write.
    pub stdin: Option<OwnedFd>,
    pub output: OwnedFd,
    /// Closed by a successful exec; else a [`Failure`] comes through.
    pub report: OwnedFd,
}

/// What the child was doing when it failed, and the system's error number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Failure {
    pub stage: u8,
    pub errno: i32,
}

const STAGE_STDIO: u8 = 1;
const STAGE_DIRECTORY: u8 = 2;
const STAGE_EXEC: u8 = 3;
/// Stage, three bytes of nothing, error number.
pub(super) const FAILURE_BYTES: usize = 8;

impl Failure {
    pub fn decode(bytes: [u8; FAILURE_BYTES]) -> Self {
        Self { stage: bytes[0], errno: i32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]) }
    }

    pub fn into_error(self, spec: &Spec) -> SpawnError {
        let cause = io::Error::from_raw_os_error(self.errno);
        match self.stage {
            STAGE_DIRECTORY => SpawnError::Directory { directory: spec.directory.clone(), cause },
            STAGE_EXEC => SpawnError::Program { program: spec.program.name(), cause },
            _ => SpawnError::System { doing: "set up the process's input and output", cause },
        }
    }
}

/// The shell that runs command lines: bash if it is there, because models write for it.
pub(super) fn shell() -> &'static str {
    if std::path::Path::new("/bin/bash").exists() { "/bin/bash" } else { "/bin/sh" }
}

fn c_string(text: &OsStr) -> Result<CString, SpawnError> {
    CString::new(text.as_bytes()).map_err(|_| SpawnError::NulByte)
}

fn pipe() -> Result<(OwnedFd, OwnedFd), SpawnError> {
    nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(|cause| SpawnError::System { doing: "make a pipe", cause: cause.into() })
}

fn set_nonblocking(fd: &OwnedFd) -> Result<(), SpawnError> {
    nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK))
        .map_err(|cause| SpawnError::System { doing: "set up a pipe", cause: cause.into() })?;
    Ok(())
}

/// Builds everything that the child will need.
pub(super) fn prepare(spec: &Spec, common: &[(String, String)], mark: &str) -> Result<(Prepared, Ends), SpawnError> {
    let extra = [common, &spec.environment].concat();
    let environment = environment::build(std::env::vars_os(), &spec.environment_names, &extra, mark);
    let words: Vec<OsString> = match &spec.program {
        Program::Shell(command) => vec![shell().into(), "-c".into(), command.into()],
        Program::Arguments(words) => words.clone(),
    };
    let name = words.first().ok_or(SpawnError::NoProgram)?;
    let missing = || SpawnError::Program { program: spec.program.name(), cause: io::Error::from(io::ErrorKind::NotFound) };
    let program = environment::find_program(name, &environment).ok_or_else(missing)?;

    let (output_reader, output) = pipe()?;
    let (report_reader, report) = pipe()?;
    set_nonblocking(&output_reader)?;
    set_nonblocking(&report_reader)?;
    let (stdin, stdin_writer) = if spec.stdin.is_empty() {
        let null = std::fs::File::open("/dev/null").map_err(|cause| SpawnError::System { doing: "open /dev/null", cause })?;
        (OwnedFd::from(null), None)
    } else {
        let (reader, writer) = pipe()?;
        set_nonblocking(&writer)?;
        (reader, Some(writer))
    };
    let pair = |(name, value): (&OsString, &OsString)| {
        let mut entry = name.clone();
        entry.push("=");
        entry.push(value);
        c_string(&entry)
    };
    let prepared = Prepared {
        program: c_string(program.as_os_str())?,
        arguments: words.iter().map(|word| c_string(word)).collect::<Result<_, _>>()?,
        environment: environment.iter().map(pair).collect::<Result<_, _>>()?,
        directory: c_string(spec.directory.as_os_str())?,
        stdin,
        output,
        report,
    };
    Ok((prepared, Ends { stdin: stdin_writer, output: output_reader, report: report_reader }))
}

/// Null-terminated pointers into `texts`, as exec wants them.
fn pointers(texts: &[CString]) -> Vec<*const libc::c_char> {
    texts.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect()
}

/// Forks and lets the child exec. Gives the child's number; whether the exec succeeds comes through the report pipe.
pub(super) fn fork_exec(prepared: &Prepared) -> io::Result<ProcessId> {
    let arguments = pointers(&prepared.arguments);
    let environment = pointers(&prepared.environment);
    let parent = system::own_pid();
    let highest = highest_descriptor();
    // A signal that hit the child before its exec would run the gateway's handler there, and the handler writes into a
    // pipe that the gateway reads: it would take the child's signal for its own. So all are blocked across the fork.
    // SAFETY: both sets are plain data on this stack, filled by the calls below before they are read.
    let (mut all, mut before): (libc::sigset_t, libc::sigset_t) = unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
    // SAFETY: the pointers are valid for the calls; the mask is this thread's own.
    unsafe {
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
    }
    // SAFETY: the child calls nothing but async-signal-safe functions and leaves by exec or _exit.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: this is the child, single-threaded, and all pointers were prepared before the fork.
        unsafe { child(prepared, &arguments, &environment, parent, highest) }
    }
    let error = io::Error::last_os_error();
    // SAFETY: restores the mask saved above.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut()) };
    if pid < 0 { Err(error) } else { Ok(pid) }
}

/// The first descriptor number that cannot be in use, for kernels without `close_range`.
fn highest_descriptor() -> RawFd {
    let limit = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
    RawFd::try_from(limit.min(65_536)).unwrap_or(65_536)
}

/// The child's side.
///
/// # Safety
/// To be called in a fresh fork only. Allocates nothing, takes no lock, never returns.
unsafe fn child(
    prepared: &Prepared,
    arguments: &[*const libc::c_char],
    environment: &[*const libc::c_char],
    parent: ProcessId,
    highest: RawFd,
) -> ! {
    let report = prepared.report.as_raw_fd();
    // SAFETY: all calls below are async-signal-safe (signal-safety(7)) or plain system calls; all pointers are valid.
    unsafe {
        libc::setsid();
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        if libc::getppid() != parent {
            // The gateway died between the fork and the line above: nobody would ever end us.
            libc::_exit(127);
        }
        // Handlers would be reset by the exec, but ignored signals would stay ignored and a tool could not be ended.
        for signal in 1..=64 {
            libc::signal(signal, libc::SIG_DFL);
        }
        for (from, to) in [(&prepared.stdin, 0), (&prepared.output, 1), (&prepared.output, 2)] {
            if libc::dup2(from.as_raw_fd(), to) < 0 {
                fail(report, STAGE_STDIO);
            }
        }
        close_others(highest);
        prefer_for_out_of_memory();
        if libc::chdir(prepared.directory.as_ptr()) < 0 {
            fail(report, STAGE_DIRECTORY);
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
        libc::execve(prepared.program.as_ptr(), arguments.as_ptr(), environment.as_ptr());
        fail(report, STAGE_EXEC)
    }
}

/// Tells the gateway what went wrong, and leaves.
///
/// # Safety
/// In the child only.
unsafe fn fail(report: RawFd, stage: u8) -> ! {
    // SAFETY: `errno` is this thread's; the buffer is valid for its length; _exit does not return.
    unsafe {
        let errno = (*libc::__errno_location()).to_ne_bytes();
        let message: [u8; FAILURE_BYTES] = [stage, 0, 0, 0, errno[0], errno[1], errno[2], errno[3]];
        libc::write(report, message.as_ptr().cast(), message.len());
        libc::_exit(127)
    }
}

/// Marks all descriptors above 2 to be closed by the exec; the report pipe must stay open until then.
///
/// # Safety
/// In the child only.
unsafe fn close_others(highest: RawFd) {
    const CLOSE_RANGE_CLOEXEC: libc::c_uint = 4;
    // SAFETY: these calls take integers only; descriptors that are not open are refused without harm.
    unsafe {
        if libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, CLOSE_RANGE_CLOEXEC) == 0 {
            return;
        }
        for fd in 3..highest {
            libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC);
        }
    }
}

/// When memory runs out, the kernel is to take the tool and not the gateway. Failing that, things stay as they are.
///
/// # Safety
/// In the child only.
unsafe fn prefer_for_out_of_memory() {
    // SAFETY: literals are valid C strings; the calls are async-signal-safe.
    unsafe {
        let file = libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if file >= 0 {
            libc::write(file, b"500".as_ptr().cast(), 3);
            libc::close(file);
        }
    }
}
