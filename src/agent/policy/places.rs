//! Places in the file system: which of them belong to the system, to disks, or to keys.
//!
//! Pure: texts alone, nothing is looked up.

use super::rules::{Found, found};

/// A path as it will be, as far as the text tells: `~` for the home directory, no `//`, `/./`, `/x/..` or trailing slash.
pub(super) fn place(text: &str) -> String {
    let home = ["$HOME", "${HOME}"].iter().find_map(|name| text.strip_prefix(name)).filter(|rest| rest.is_empty() || rest.starts_with('/'));
    let text = home.map_or_else(|| text.to_owned(), |rest| format!("~{rest}"));
    let absolute = text.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != ".." && *last != "~") => {
                parts.pop();
            }
            ".." if absolute => {}
            _ => parts.push(part),
        }
    }
    format!("{}{}", if absolute { "/" } else { "" }, parts.join("/"))
}

pub(super) fn is_root_or_home(place: &str) -> bool {
    let home = |rest: &str| !rest.contains('/') || rest.ends_with("/*") && !rest[..rest.len() - 2].contains('/');
    matches!(place, "/" | "/*" | "~" | "~/*" | "/root" | "/root/*" | "/home" | "/var" | "/opt" | "/srv")
        || place.strip_prefix("/home/").is_some_and(home)
}

pub(super) fn is_system(place: &str) -> bool {
    const FOLDERS: &[&str] = &["/etc", "/boot", "/usr", "/bin", "/sbin", "/lib", "/lib64", "/sys", "/proc", "/var/lib/dpkg"];
    let within = |folder: &str| place.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    FOLDERS.iter().any(|folder| within(folder)) && !within("/usr/local") && !within("/usr/src") && !within("/proc/self/fd")
}

/// A device whose content is a disk or memory.
pub(super) fn is_device(text: &str) -> bool {
    const DISKS: &[&str] =
        &["sd", "hd", "vd", "xvd", "nvme", "mmcblk", "md", "dm-", "mapper/", "loop", "disk/", "mem", "kmem", "port", "nbd", "sr", "mtd"];
    place(text).strip_prefix("/dev/").is_some_and(|name| DISKS.iter().any(|disk| name.starts_with(disk)))
}

/// A place that must not be written to without asking.
pub(super) fn written_place(text: &str) -> Option<Found> {
    const KEYS: &[&str] = &[".ssh", ".gnupg", ".aws", ".kube", ".docker/config.json", ".netrc", ".pgpass"];
    const ACCOUNTS: &[&str] = &["/etc/sudoers", "/etc/passwd", "/etc/shadow", "/etc/group", "/etc/gshadow", "/etc/ssh", "/etc/pam.d"];
    let place = place(text);
    let below_home = place.strip_prefix("~/").or_else(|| place.strip_prefix("/root/")).or_else(|| {
        let rest = place.strip_prefix("/home/")?;
        rest.split_once('/').map(|(_, rest)| rest)
    });
    let is_key = |rest: &str| KEYS.iter().any(|key| rest.strip_prefix(key).is_some_and(|more| more.is_empty() || more.starts_with('/')));
    let keys = below_home.is_some_and(is_key) || place.contains(".ssh/authorized_keys") || is_key(&place);
    if keys || ACCOUNTS.iter().any(|file| place.starts_with(file)) {
        return found("credentials", format!("writes {text}"));
    }
    if is_device(&place) {
        return found("disk", format!("writes {text}"));
    }
    if is_system(&place) {
        return found("system-files", format!("changes {text}"));
    }
    None
}
