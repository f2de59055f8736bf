//! Restart in place: this process image is replaced by a new one with the same arguments and the same process id.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

/// Replaces this process. All its threads end, and all its descriptors close, the instance lock among them.
/// → why it did not happen.
#[must_use]
pub fn become_new() -> std::io::Error {
    let program = match program() {
        Ok(program) => program,
        Err(cause) => return cause,
    };
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    Command::new(program).args(arguments).exec()
}

/// The file that this process was started from; after an upgrade it is the new one that has taken its name.
///
/// # Errors
/// When `/proc` does not tell.
pub fn program() -> std::io::Result<PathBuf> {
    let path = std::env::current_exe()?;
    let name = path.to_string_lossy();
    Ok(name.strip_suffix(" (deleted)").map_or(path.clone(), PathBuf::from))
}
