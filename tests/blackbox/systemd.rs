//! The gateway as a service of a real systemd, of the system and of a user: `systemd.sh` runs inside a throw-away one.
//!
//! Says why when it cannot be done here: not root, no systemd, no overlayfs.

use crate::support::gateway::BINARY;
use crate::support::process;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// What the script tests takes about 100 s, most of it real time-outs of systemd.
const PATIENCE: Duration = Duration::from_secs(420);
/// Exit status of `scripts/boot-systemd`: cannot be done here.
const CANNOT: i32 = 77;

fn in_systemd(scope: &str) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(root.join("scripts/boot-systemd"));
    command.args(["--user", "gateway-user"]);
    command.arg("--copy").arg(format!("{BINARY}:/usr/local/bin/hermes-gateway"));
    command.arg("--copy").arg(format!("{}:/test.sh", root.join("tests/blackbox/systemd.sh").display()));
    let output = process::run(command.args(["--", "/test.sh", scope]), b"", PATIENCE);
    if output.code == Some(CANNOT) {
        let reason = output.stderr.lines().last().unwrap_or("no reason given").to_owned();
        eprintln!("skipped: systemd, service of the {scope}: {reason}");
        return;
    }
    assert_eq!(output.code, Some(0), "as a service of the {scope}:\n{}\n{}", output.stdout, output.stderr);
}

#[test]
fn as_a_service_of_the_system() {
    in_systemd("system");
}

#[test]
fn as_a_service_of_a_user() {
    in_systemd("user");
}
