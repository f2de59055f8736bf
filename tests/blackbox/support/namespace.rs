//! Tests that need a network and mounts of their own: the test binary runs again in fresh namespaces, that one test only.

use super::process;
use std::process::Command;
use std::time::Duration;

const VARIABLE: &str = "BLACKBOX_NAMESPACE";

/// Whether this is the run within the namespaces.
pub fn inside() -> bool {
    std::env::var_os(VARIABLE).is_some()
}

/// Runs `body` in namespaces where the test is root, has a loopback of its own and may mount. `test` is the test's own
/// name with its modules. Where the kernel or a missing program does not allow it, the test says so and passes.
pub fn within(test: &str, programs: &[&str], body: impl FnOnce()) {
    if inside() {
        body();
        return;
    }
    for program in [&["unshare", "ip", "mount"], programs].concat() {
        if !exists(program) {
            eprintln!("skipped: {test} needs the program `{program}`");
            return;
        }
    }
    if let Err(reason) = can_unshare() {
        eprintln!("skipped: {test} needs namespaces: {reason}");
        return;
    }
    let mut command = unshare();
    command.arg(std::env::current_exe().expect("the test binary")).args(["--exact", test, "--nocapture", "--test-threads", "1"]);
    let output = process::run(command.env(VARIABLE, "1"), b"", Duration::from_secs(180));
    assert!(output.all().contains("1 passed") && output.code == Some(0), "in namespaces, {test}:\n{}", output.all());
    for line in output.all().lines().filter(|line| line.contains("skipped:")) {
        eprintln!("{line}");
    }
}

/// A shell that brings loopback up and becomes its arguments.
fn unshare() -> Command {
    let mut command = Command::new("unshare");
    command.arg(if nix::unistd::geteuid().is_root() { "-nm" } else { "-Urnm" });
    command.args(["sh", "-c", "ip link set lo up && exec \"$@\"", "sh"]);
    command.env("PATH", path());
    command
}

fn can_unshare() -> Result<(), String> {
    let output = process::run(unshare().arg("true"), b"", Duration::from_secs(10));
    if output.code == Some(0) { Ok(()) } else { Err(output.stderr.trim().to_owned()) }
}

/// Administrators' programs are not on everybody's path.
fn path() -> String {
    format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())
}

fn exists(program: &str) -> bool {
    std::env::split_paths(&path()).any(|directory| directory.join(program).is_file())
}

/// Runs a command line of an administrator's; it has to work.
pub fn administer(line: &str) {
    let output = process::run(Command::new("sh").args(["-c", line]).env("PATH", path()), b"", Duration::from_secs(10));
    assert_eq!(output.code, Some(0), "{line}: {}", output.all());
}

/// As [`administer`], for what may not be there.
pub fn try_to_administer(line: &str) {
    let _ = process::run(Command::new("sh").args(["-c", line]).env("PATH", path()), b"", Duration::from_secs(10));
}
