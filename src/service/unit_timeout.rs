//! How long systemd lets this unit stop, read from the unit's own files: no bus, no child process, no waiting.

use crate::config::Environment;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Unit files are small; anything else is not one.
const FILE_BYTES_MAX: u64 = 256 * 1024;

/// `TimeoutStopSec` of the unit that this process is the main process of. `None`: there is none, or it does not say
/// and the manager's default applies.
#[must_use]
pub fn stop_timeout() -> Option<Duration> {
    let environment = Environment::of_process();
    if !environment.supervised() {
        return None;
    }
    let unit = unit_of(&std::fs::read_to_string("/proc/self/cgroup").ok()?)?;
    read_timeout(&unit, &directories(&environment))
}

/// The innermost service of a `/proc/PID/cgroup` (cgroups(7)).
fn unit_of(cgroup: &str) -> Option<String> {
    let services = cgroup.lines().filter_map(|line| line.rsplit('/').find(|part| part.ends_with(".service")));
    services.map(str::to_owned).find(|unit| !unit.starts_with("user@"))
}

/// Where systemd looks, the most important first (systemd.unit(5)).
fn directories(environment: &Environment) -> Vec<PathBuf> {
    let mut directories = Vec::new();
    if !environment.root {
        let config = environment.directory("XDG_CONFIG_HOME").or_else(|| environment.home().map(|home| home.join(".config")));
        directories.extend(config.map(|directory| directory.join("systemd/user")));
        directories
            .extend(["/etc/systemd/user", "/run/systemd/user", "/usr/local/lib/systemd/user", "/usr/lib/systemd/user"].map(PathBuf::from));
    }
    let system = ["/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system"];
    directories.extend(system.map(PathBuf::from));
    directories
}

fn read_timeout(unit: &str, directories: &[PathBuf]) -> Option<Duration> {
    let main = directories.iter().map(|directory| directory.join(unit)).find(|path| path.exists())?;
    let mut drop_ins: Vec<PathBuf> = Vec::new();
    for directory in directories.iter().map(|directory| directory.join(format!("{unit}.d"))) {
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
        for path in entries.filter(|path| path.extension().is_some_and(|extension| extension == "conf")) {
            // One of the same name in a more important directory takes its place.
            if !drop_ins.iter().any(|known| known.file_name() == path.file_name()) {
                drop_ins.push(path);
            }
        }
    }
    drop_ins.sort_by(|a, b| a.file_name().cmp(&b.file_name()));
    let texts = std::iter::once(main).chain(drop_ins).filter_map(|path| read(&path));
    texts.fold(None, |timeout, text| timeout_in(&text).unwrap_or(timeout))
}

fn read(path: &Path) -> Option<String> {
    let small = std::fs::metadata(path).is_ok_and(|file| file.is_file() && file.len() <= FILE_BYTES_MAX);
    if small { std::fs::read_to_string(path).ok() } else { None }
}

/// What a file says. `None`: nothing; `Some(None)`: that there is no limit, or back to the default.
fn timeout_in(text: &str) -> Option<Option<Duration>> {
    let mut found = None;
    let mut in_service = false;
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            in_service = line == "[Service]";
        } else if let Some((key, value)) = line.split_once('=').filter(|_| in_service)
            && matches!(key.trim(), "TimeoutStopSec" | "TimeoutSec")
        {
            found = Some(time_span(value.trim()));
        }
    }
    found
}

/// systemd.time(7): `30`, `30s`, `1min 30s`, `1m30s`. Zero and `infinity` are no limit.
fn time_span(text: &str) -> Option<Duration> {
    let mut total_ms: u64 = 0;
    let mut rest = text.trim();
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest[..digits].parse().ok()?;
        rest = rest[digits..].trim_start();
        let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        let unit_ms = match &rest[..letters] {
            "ms" | "msec" => 1,
            "" | "s" | "sec" | "second" | "seconds" => 1000,
            "m" | "min" | "minute" | "minutes" => 60_000,
            "h" | "hr" | "hour" | "hours" => 3_600_000,
            _ => return None,
        };
        rest = rest[letters..].trim_start();
        total_ms = total_ms.checked_add(number.checked_mul(unit_ms)?)?;
    }
    Some(Duration::from_millis(total_ms)).filter(|span| !span.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_of_control_groups() {
        let check = |cgroup: &str, expect: Option<&str>| assert_eq!(unit_of(cgroup).as_deref(), expect, "{cgroup}");
        check("0::/system.slice/hermes-gateway.service\n", Some("hermes-gateway.service"));
        check("0::/user.slice/user-1000.slice/user@1000.service/app.slice/gw.service\n", Some("gw.service"));
        check("0::/system.slice/gw.service/tool-7\n", Some("gw.service"));
        check("0::/user.slice/user-1000.slice/session-2.scope\n", None);
        check("12:pids:/\n1:name=systemd:/system.slice/gw.service\n0::/\n", Some("gw.service"));
        check("", None);
    }

    #[test]
    fn time_spans() {
        let check = |text: &str, expect_ms: Option<u64>| assert_eq!(time_span(text), expect_ms.map(Duration::from_millis), "{text}");
        check("30", Some(30_000));
        check("30s", Some(30_000));
        check("1min 30s", Some(90_000));
        check("1m30s", Some(90_000));
        check("500ms", Some(500));
        check("infinity", None);
        check("0", None);
        check("", None);
        check("99999999999999999999", None);
    }

    #[test]
    fn unit_files_and_their_drop_ins() {
        let scratch = tempfile::tempdir().expect("scratch directory");
        let (etc, usr) = (scratch.path().join("etc"), scratch.path().join("usr"));
        let write = |path: PathBuf, text: &str| {
            std::fs::create_dir_all(path.parent().expect("in a directory")).expect("directory");
            std::fs::write(path, text).expect("written");
        };
        let timeout = || read_timeout("gw.service", &[etc.clone(), usr.clone()]);
        assert_eq!(timeout(), None);
        write(usr.join("gw.service"), "[Unit]\nTimeoutStopSec=1\n[Service]\n# TimeoutStopSec=2\nTimeoutStopSec = 30s\n[Install]\n");
        assert_eq!(timeout(), Some(Duration::from_secs(30)));
        write(usr.join("gw.service.d/50-a.conf"), "[Service]\nTimeoutSec=40\n");
        write(usr.join("gw.service.d/60-b.conf"), "[Service]\nRestart=always\n");
        assert_eq!(timeout(), Some(Duration::from_secs(40)));
        write(etc.join("gw.service.d/50-a.conf"), "[Service]\nTimeoutStopSec=infinity\n");
        assert_eq!(timeout(), None);
        write(etc.join("gw.service"), "[Service]\nTimeoutStopSec=1min\n");
        std::fs::remove_file(etc.join("gw.service.d/50-a.conf")).expect("removed");
        std::fs::remove_file(usr.join("gw.service.d/50-a.conf")).expect("removed");
        assert_eq!(timeout(), Some(Duration::from_secs(60)));
    }
}
