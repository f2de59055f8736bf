//! Where a path leads, and whether a tool may go there.
//!
//! A path is followed to its real place before it is judged, so that no link leads to the gateway's secrets. The shell
//! tool is not held by this: what a command may read is the business of the user that the gateway runs as.

use super::{ToolContext, ToolOutcome};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

/// The real place that the model's path names. It need not exist.
///
/// # Errors
/// The outcome to return: an empty path, or a place that is protected.
pub(super) fn resolve(text: &str, context: &ToolContext<'_>) -> Result<PathBuf, ToolOutcome> {
    if text.is_empty() || text.contains('\0') {
        return Err(ToolOutcome::error("bad input: the field \"path\" must name a file"));
    }
    let home = || std::env::var_os("HOME").map(PathBuf::from);
    let expanded = match text.strip_prefix('~') {
        Some("") => home().unwrap_or_else(|| PathBuf::from(text)),
        Some(rest) if rest.starts_with('/') => home().map_or_else(|| PathBuf::from(text), |home| home.join(rest.trim_start_matches('/'))),
        _ => PathBuf::from(text),
    };
    let place = real(&context.workdir.join(expanded));
    match refusal(&place, context.protected) {
        Some(why) => Err(ToolOutcome::error(format!("{text}: {why}"))),
        None => Ok(place),
    }
}

/// Follows all links of the part that exists; takes the rest as it is written.
fn real(path: &Path) -> PathBuf {
    follow(path, 40)
}

/// `links`: how many dangling links may follow each other, as many as the kernel follows.
fn follow(path: &Path, links: usize) -> PathBuf {
    let mut place = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::RootDir | Component::Prefix(_) | Component::CurDir => {}
            Component::ParentDir => {
                place.pop();
            }
            Component::Normal(name) => {
                place.push(name);
                if let Ok(target) = std::fs::canonicalize(&place) {
                    place = target;
                } else if let Ok(target) = std::fs::read_link(&place)
                    && links > 0
                {
                    // A link to what does not exist yet: writing through it would create its target.
                    place.pop();
                    place = follow(&place.join(target), links - 1);
                }
            }
        }
    }
    place
}

/// Why a real place must not be touched; `None` if it may be.
pub(super) fn refusal(place: &Path, protected: &[PathBuf]) -> Option<&'static str> {
    const SECRET: &str = "refused: it belongs to the gateway itself (its state, configuration or secrets)";
    for guarded in protected {
        let guarded = std::fs::canonicalize(guarded).unwrap_or_else(|_| guarded.clone());
        if place.starts_with(&guarded) {
            return Some(SECRET);
        }
        // Environment files beside the configuration hold its secrets.
        let is_environment_file = place.extension().is_some_and(|it| it == "env") || place.file_name().is_some_and(|it| it == ".env");
        if is_environment_file && guarded.parent().is_some_and(|folder| place.parent() == Some(folder)) {
            return Some(SECRET);
        }
        if let (Ok(one), Ok(other)) = (std::fs::metadata(&guarded), std::fs::metadata(place))
            && (one.dev(), one.ino()) == (other.dev(), other.ino())
        {
            return Some(SECRET);
        }
    }
    let mut parts = place.components().skip(1).map(|part| part.as_os_str().to_string_lossy());
    if parts.next().as_deref() == Some("proc") {
        let own = std::process::id().to_string();
        let process = parts.next();
        let rest: Vec<_> = parts.collect();
        let of_a_process = process.as_deref().is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
        let private =
            rest.iter().any(|part| matches!(part.as_ref(), "environ" | "mem" | "fd" | "fdinfo" | "map_files" | "task" | "auxv" | "maps"));
        if process.as_deref() == Some(own.as_str()) || (of_a_process && private) {
            return Some("refused: it shows the inside of a process, which may hold secrets");
        }
    }
    None
}

/// Opens a regular file for reading. Anything else might block for ever: a pipe, a device.
pub(super) fn open_file(path: &Path, shown: &str) -> Result<(File, std::fs::Metadata), ToolOutcome> {
    let error = |cause: std::io::Error| ToolOutcome::error(format!("cannot read {shown}: {cause}"));
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path).map_err(error)?;
    let metadata = file.metadata().map_err(error)?;
    if metadata.is_dir() {
        return Err(ToolOutcome::error(format!("{shown} is a directory; list it with the shell tool, or search in it with search_files")));
    }
    if !metadata.is_file() {
        return Err(ToolOutcome::error(format!("{shown} is not a regular file")));
    }
    Ok((file, metadata))
}

/// Replaces a file's content in one step: nobody ever sees half of it, and a crash leaves the old one.
pub(super) fn replace_file(path: &Path, content: &[u8]) -> std::io::Result<()> {
    use std::io::Write as _;
    let existing = match std::fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() => return Err(std::io::Error::other("it is not a regular file")),
        Ok(metadata) => Some(metadata),
        Err(_) => None,
    };
    let folder = path.parent().ok_or_else(|| std::io::Error::other("it has no parent directory"))?;
    let name = path.file_name().ok_or_else(|| std::io::Error::other("it has no name"))?;
    // Cut, because the whole must stay within the 255 bytes of a name.
    let stem: String = name.to_string_lossy().chars().take(40).collect();
    let temporary = folder.join(format!(".{stem}.{}-{:08x}.tmp", std::process::id(), fastrand::u32(..)));
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).open(&temporary)?;
        file.write_all(content)?;
        if let Some(metadata) = &existing {
            file.set_permissions(metadata.permissions())?;
        }
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    let result = write();
    if result.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    result
}

/// A file that starts like a binary one: with a NUL byte among its first 8 KiB, as git decides it.
pub(super) fn looks_binary(start: &[u8]) -> bool {
    start.iter().take(8192).any(|byte| *byte == 0)
}
