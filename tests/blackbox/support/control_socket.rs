//! A client of the control socket of its own: a line of JSON there, a line back. Costs no process, so tests may ask often.

use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// One question. The error says why there is no answer, or is the gateway's own.
pub fn ask(socket: &Path, request: &Value, within: Duration) -> Result<Value, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", socket.display());
    let mut stream = UnixStream::connect(socket).map_err(failed)?;
    stream.set_read_timeout(Some(within)).map_err(failed)?;
    stream.set_write_timeout(Some(within)).map_err(failed)?;
    stream.write_all(format!("{request}\n").as_bytes()).map_err(failed)?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).map_err(failed)?;
    let mut answer: Value = serde_json::from_str(&line).map_err(|error| format!("{error} in {line:?}"))?;
    match answer.get("error") {
        Some(error) => Err(error.as_str().unwrap_or_default().to_owned()),
        None => Ok(answer["ok"].take()),
    }
}
