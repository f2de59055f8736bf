//! The answer, and what callers do with it: look at headers, read the body into memory or a file.

use crate::limits;
use crate::net::error::NetError;
use jiff::fmt::strtime;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The answer to a request. The body is read from the connection on demand; dropping it gives up the rest.
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    /// Its end is the end of the complete body. Errors hold a [`NetError`], see [`NetError::from_io`].
    pub body: Box<dyn Read + Send>,
    /// `host:port` of the server, for messages.
    pub peer: String,
}

/// Why a body was not saved. No file is left behind then.
#[derive(Debug)]
pub enum SaveError {
    Net(NetError),
    /// The body is longer than the caller allowed.
    TooLarge {
        bytes_max: u64,
    },
    File {
        path: PathBuf,
        cause: io::Error,
    },
}

impl std::fmt::Display for SaveError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Net(error) => error.fmt(f),
            Self::TooLarge { bytes_max } => write!(f, "larger than the limit of {bytes_max} bytes"),
            Self::File { path, cause } => write!(f, "cannot write {}: {cause}", path.display()),
        }
    }
}

impl std::error::Error for SaveError {}

impl Response {
    /// The first header of that name, in any case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        find_header(&self.headers, name)
    }

    /// What `Retry-After` asks for, see [`retry_after`].
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        retry_after(&self.headers, crate::clock::wall_ms())
    }

    /// Reads the rest of the body, up to `bytes_max`.
    ///
    /// # Errors
    /// [`NetError`]; [`NetError::Protocol`] if the body is longer.
    pub fn read_to_end(&mut self, bytes_max: usize) -> Result<Vec<u8>, NetError> {
        let mut bytes = Vec::new();
        let read = (&mut self.body).take(bytes_max as u64 + 1).read_to_end(&mut bytes);
        read.map_err(|error| NetError::take_from_io(error, &self.peer))?;
        if bytes.len() > bytes_max {
            return Err(NetError::Protocol { peer: self.peer.clone(), cause: format!("a body of more than {bytes_max} bytes") });
        }
        Ok(bytes)
    }

    /// Writes the rest of the body, up to `bytes_max`, into the new file `path`, readable by its owner alone. → its length.
    /// [`Bounds::body_bytes_max`](crate::net::Bounds) applies as well.
    ///
    /// # Errors
    /// [`SaveError`]; what was written of the file is removed. A file that existed is left alone.
    pub fn save(&mut self, path: &Path, bytes_max: u64) -> Result<u64, SaveError> {
        let failed = |cause| SaveError::File { path: path.to_owned(), cause };
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
        let saved = self.copy(&mut file, path, bytes_max);
        if saved.is_err() {
            let _ = std::fs::remove_file(path);
        }
        saved
    }

    fn copy(&mut self, file: &mut File, path: &Path, bytes_max: u64) -> Result<u64, SaveError> {
        let mut buffer = vec![0; 4 * limits::READ_BYTES];
        let mut written = 0;
        loop {
            let count = match self.body.read(&mut buffer) {
                Ok(0) => return Ok(written),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(SaveError::Net(NetError::take_from_io(error, &self.peer))),
            };
            written += count as u64;
            if written > bytes_max {
                return Err(SaveError::TooLarge { bytes_max });
            }
            file.write_all(&buffer[..count]).map_err(|cause| SaveError::File { path: path.to_owned(), cause })?;
        }
    }
}

/// The first header of that name, in any case.
#[must_use]
pub fn find_header<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

/// How long the server asks to wait: `retry-after-ms` (OpenAI), or `Retry-After` in seconds or as a date, RFC 9110
/// section 10.2.3. `now_ms` is the wall clock, which a date is compared with. Never more than
/// [`limits::RETRY_AFTER_MAX`]; `None` if there is no such header or it makes no sense.
#[must_use]
pub fn retry_after(headers: &[(String, String)], now_ms: i64) -> Option<Duration> {
    let number = |text: &str| text.trim().parse::<f64>().ok().filter(|number| number.is_finite() && *number >= 0.0);
    let ms = find_header(headers, "retry-after-ms").and_then(number);
    let wait = ms.map(|ms| Duration::from_secs_f64((ms / 1000.0).min(limits::RETRY_AFTER_MAX.as_secs_f64())));
    let wait = wait.or_else(|| {
        let text = find_header(headers, "retry-after")?;
        if let Some(seconds) = number(text) {
            return Some(Duration::from_secs_f64(seconds.min(limits::RETRY_AFTER_MAX.as_secs_f64())));
        }
        let ahead_ms = http_date_ms(text)?.saturating_sub(now_ms);
        Some(Duration::from_millis(u64::try_from(ahead_ms).unwrap_or(0)))
    });
    wait.map(|wait| wait.min(limits::RETRY_AFTER_MAX))
}

/// The three forms of RFC 9110 section 5.6.7, as Unix milliseconds.
fn http_date_ms(text: &str) -> Option<i64> {
    const FORMS: [&str; 3] = ["%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y"];
    let parsed = FORMS.iter().find_map(|form| strtime::parse(form, text.trim()).ok())?;
    let moment = parsed.to_datetime().ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
    Some(moment.timestamp().as_millisecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_understood_in_every_form() {
        const NOW_MS: i64 = 784_111_770_000; // Sun, 06 Nov 1994 08:49:30 GMT
        let check = |name: &str, value: &str, expect_ms: Option<u64>| {
            let headers = [(name.to_owned(), value.to_owned())];
            assert_eq!(retry_after(&headers, NOW_MS), expect_ms.map(Duration::from_millis), "{name}: {value}");
        };
        check("Retry-After", "7", Some(7_000));
        check("retry-after", " 1.5 ", Some(1_500));
        check("Retry-After-Ms", "250", Some(250));
        check("Retry-After", "Sun, 06 Nov 1994 08:49:37 GMT", Some(7_000));
        check("Retry-After", "Sunday, 06-Nov-94 08:49:37 GMT", Some(7_000));
        check("Retry-After", "Sun Nov  6 08:49:37 1994", Some(7_000));
        check("Retry-After", "Sun, 06 Nov 1994 08:00:00 GMT", Some(0));
        check("Retry-After", "Fri, 01 Jan 2100 08:00:00 GMT", Some(24 * 3600 * 1000));
        check("Retry-After", "1e300", Some(24 * 3600 * 1000));
        check("Retry-After", "-1", None);
        check("Retry-After", "NaN", None);
        check("Retry-After", "soon", None);
        check("Other", "7", None);
        let both = [("retry-after".to_owned(), "1".to_owned()), ("retry-after-ms".to_owned(), "300".to_owned())];
        assert_eq!(retry_after(&both, NOW_MS), Some(Duration::from_millis(300)));
    }
}
