//! Time zones: the local one, and others by name, each read from its file when it is needed.
//!
//! The time library would index the system's whole database first, some 600 files: half of the time to start, and a
//! hundred KiB.

use super::wall_ms;
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Where systems keep their database. `TZDIR` comes before.
const DATABASES: [&str; 3] = ["/usr/share/zoneinfo", "/usr/share/lib/zoneinfo", "/etc/zoneinfo"];
/// The largest files of the database have 4 KiB.
const FILE_BYTES_MAX: u64 = 256 * 1024;

/// The system's zone as it was when it was first asked for.
#[must_use]
pub fn local() -> &'static TimeZone {
    static LOCAL: OnceLock<TimeZone> = OnceLock::new();
    LOCAL.get_or_init(|| system(std::env::var("TZ").ok().as_deref(), Path::new("/etc/localtime")))
}

/// Now, on the clock on the wall.
#[must_use]
pub fn local_now() -> Zoned {
    Timestamp::from_millisecond(wall_ms()).unwrap_or(Timestamp::UNIX_EPOCH).to_zoned(local().clone())
}

/// A zone by its name in the database, such as `Europe/Berlin`.
#[must_use]
pub fn named(name: &str) -> Option<TimeZone> {
    // Small systems have no database, but everybody knows this one.
    if name == "UTC" {
        return Some(TimeZone::UTC);
    }
    let fine = |part: &str| part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '+')) && !part.is_empty();
    if !name.split('/').all(fine) {
        return None;
    }
    let own = std::env::var_os("TZDIR").map(PathBuf::from);
    own.into_iter().chain(DATABASES.map(PathBuf::from)).find_map(|database| read(name, &database.join(name)))
}

/// By the rules of POSIX for `TZ`, and by the file that everybody else goes by. UTC if nothing can be read.
fn system(variable: Option<&str>, file: &Path) -> TimeZone {
    let chosen = variable.map(|text| text.strip_prefix(':').unwrap_or(text));
    match chosen {
        Some("") => TimeZone::UTC,
        Some(path) if path.starts_with('/') => read("local", Path::new(path)).unwrap_or(TimeZone::UTC),
        Some(text) => named(text).or_else(|| TimeZone::posix(text).ok()).unwrap_or(TimeZone::UTC),
        None => {
            let target = std::fs::read_link(file).unwrap_or_default();
            let name = target.to_str().and_then(|target| target.split_once("zoneinfo/")).map_or("local", |(_, name)| name);
            read(name, file).unwrap_or(TimeZone::UTC)
        }
    }
}

fn read(name: &str, file: &Path) -> Option<TimeZone> {
    let mut bytes = Vec::new();
    std::fs::File::open(file).ok()?.take(FILE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    TimeZone::tzif(name, &bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::civil::date;

    /// One hour east of Greenwich, for ever: a header without data, and the rule behind it.
    fn tzif() -> Vec<u8> {
        let mut file = Vec::new();
        for _ in 0..2 {
            file.extend_from_slice(b"TZif2");
            file.extend_from_slice(&[0; 15]);
            // isutcnt, isstdcnt, leapcnt, timecnt, typecnt, charcnt
            for count in [0_u32, 0, 0, 0, 1, 4] {
                file.extend_from_slice(&count.to_be_bytes());
            }
            file.extend_from_slice(&3600_i32.to_be_bytes());
            file.extend_from_slice(&[0, 0]);
            file.extend_from_slice(b"ONE\0");
        }
        file.extend_from_slice(b"\nONE-1\n");
        file
    }

    fn hour(zone: &TimeZone) -> i8 {
        zone.to_zoned(date(2026, 1, 1).at(0, 0, 0, 0)).expect("a time").timestamp().to_zoned(TimeZone::UTC).hour()
    }

    #[test]
    fn the_system_s_zone() {
        let scratch = tempfile::tempdir().expect("scratch");
        let database = scratch.path().join("zoneinfo/Test");
        std::fs::create_dir_all(&database).expect("created");
        std::fs::write(database.join("One"), tzif()).expect("written");
        let localtime = scratch.path().join("localtime");
        std::os::unix::fs::symlink(database.join("One"), &localtime).expect("linked");
        let none = scratch.path().join("none");
        let check = |variable: Option<&str>, file: &Path, name: Option<&str>, utc_hour: i8| {
            let zone = system(variable, file);
            assert_eq!((zone.iana_name(), hour(&zone)), (name, utc_hour), "{variable:?} {}", file.display());
        };
        check(None, &localtime, Some("Test/One"), 23);
        check(Some(database.join("One").to_str().expect("text")), &none, Some("local"), 23);
        check(Some("XYZ-3"), &localtime, None, 21);
        check(Some(":XYZ-3"), &localtime, None, 21);
        for (variable, file) in [(None, &none), (Some(""), &localtime), (Some("/none"), &localtime), (Some("no such zone"), &localtime)] {
            assert_eq!(hour(&system(variable, file)), 0, "{variable:?}");
        }
    }

    #[test]
    fn names_do_not_lead_out_of_the_database() {
        for name in ["", "/etc/localtime", "../etc/localtime", "Europe/../UTC", "a b", "Europe/", "posixrules\0"] {
            assert!(named(name).is_none(), "{name:?}");
        }
        assert_eq!(hour(&named("UTC").expect("always there")), 0);
    }
}
