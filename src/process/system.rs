//! The system calls below the process trees: pidfds, waiting without reaping, signals to a group.
//!
//! Called by any thread; none of these calls blocks. Nothing here decides whom to signal.

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// A process id as the kernel has it.
pub type ProcessId = i32;

/// How a process ended, as the kernel reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Code(i32),
    /// The number of the signal; may be a real-time signal.
    Signal(i32),
}

/// A descriptor for a process, which can be polled for its end and signalled without hitting a successor of the same number.
/// `None` where the kernel has no pidfds (before Linux 5.3), or the process is gone.
pub(super) fn pidfd_open(pid: ProcessId) -> Option<OwnedFd> {
    // SAFETY: pidfd_open takes two integers and touches no memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0)?;
    // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sends a signal through a pidfd.
pub(super) fn pidfd_send(fd: &OwnedFd, signal: Signal) -> io::Result<()> {
    // SAFETY: the descriptor is open, and a null siginfo is allowed.
    let result = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, fd.as_raw_fd(), signal as libc::c_int, std::ptr::null::<libc::siginfo_t>(), 0)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sends a signal through a pidfd. False if the process is gone or not ours to signal.
pub(super) fn pidfd_signal(fd: &OwnedFd, signal: Signal) -> bool {
    pidfd_send(fd, signal).is_ok()
}

/// Sends a signal to all members of a group. The caller makes sure that the group's number is not free to be reused.
pub(super) fn signal_group(group: ProcessId, signal: Signal) -> bool {
    // Numbers that mean "my own group", "everybody" or init are never meant here.
    if group <= 1 || group == nix::unistd::getpgrp().as_raw() {
        return false;
    }
    nix::sys::signal::killpg(Pid::from_raw(group), signal).is_ok()
}

/// Sends a signal by number. For kernels without pidfds, right after the identity was checked.
pub(super) fn signal_process(pid: ProcessId, signal: Signal) -> bool {
    pid > 1 && pid != own_pid() && nix::sys::signal::kill(Pid::from_raw(pid), signal).is_ok()
}

pub(super) fn own_pid() -> ProcessId {
    nix::unistd::getpid().as_raw()
}

/// The session of this process; zero only if the system cannot tell, which it always can for oneself.
pub(super) fn own_session() -> ProcessId {
    nix::unistd::getsid(None).map_or(0, Pid::as_raw)
}

/// Asks whether a child has ended, and reaps it only if told so. `Ok(None)`: still running.
fn wait_child(pid: ProcessId, flags: libc::c_int) -> io::Result<Option<Status>> {
    let id = libc::id_t::try_from(pid).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    loop {
        // SAFETY: all-zero bytes are a valid siginfo_t.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: `info` is valid for writing for the length of the call; WNOHANG keeps it from blocking.
        let result = unsafe { libc::waitid(libc::P_PID, id, &raw mut info, libc::WEXITED | libc::WNOHANG | flags) };
        if result != 0 {
            let error = io::Error::last_os_error();
            if error.kind() == io::ErrorKind::Interrupted {
                continue;
            }
            return Err(error);
        }
        // SAFETY: waitid has filled the fields for child events, or left them zero.
        let (ended, status) = unsafe { (info.si_pid() != 0, info.si_status()) };
        let exited = info.si_code == libc::CLD_EXITED;
        return Ok(ended.then_some(if exited { Status::Code(status) } else { Status::Signal(status) }));
    }
}

/// Looks whether a child has ended and leaves it a zombie, so that its number and its group's stay reserved.
pub(super) fn peek(pid: ProcessId) -> io::Result<Option<Status>> {
    wait_child(pid, libc::WNOWAIT)
}

/// Reaps a child if it has ended.
pub(super) fn reap(pid: ProcessId) -> io::Result<Option<Status>> {
    wait_child(pid, 0)
}

/// Makes orphans among our descendants come to us instead of to init, so that they are found and reaped.
pub(super) fn become_subreaper() {
    if let Err(error) = nix::sys::prctl::set_child_subreaper(true) {
        log::warn!(target: "process", "cannot become a child subreaper ({error}): a tool's process that detaches itself may outlive its call");
    }
}

/// Keeps other processes of the same user from reading this process's environment and memory, where secrets are.
///
/// Without it a tool's child can read `/proc/PID/environ` of the gateway. It also turns off core dumps, and debuggers
/// of the same user are refused. The setting does not survive an exec, so children are not affected.
pub fn hide_memory() {
    if let Err(error) = nix::sys::prctl::set_dumpable(false) {
        log::warn!(target: "process", "cannot hide this process's environment from its children: {error}");
    }
}
