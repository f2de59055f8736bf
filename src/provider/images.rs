//! Images for a request: read from disk when the request is made, bounded, as base64.
//!
//! Runs on a turn thread and reads regular files only. What cannot be sent becomes a note that the model can read.

use crate::limits;
use base64::Engine as _;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

/// An image as both protocols take it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Image {
    pub(super) media_type: &'static str,
    pub(super) base64: String,
}

/// Reads the images of one request against one budget.
pub(super) struct Images {
    bytes_left: usize,
}

impl Images {
    pub(super) fn new() -> Self {
        Self { bytes_left: limits::REQUEST_IMAGE_BYTES_MAX }
    }

    /// The image, or the note that stands in for it. To be called with the newest image first: when the budget is
    /// spent, the older ones are left out.
    pub(super) fn load(&mut self, path: &str) -> Result<Image, String> {
        let name = Path::new(path).file_name().map_or_else(|| "image".into(), |name| name.to_string_lossy());
        let note = |why: &str| format!("[image {name} is not shown: {why}]");
        if self.bytes_left == 0 {
            return Err(note("too many images in this conversation; ask for it to be sent again"));
        }
        let bytes = match read(path) {
            Ok(bytes) if bytes.len() > limits::IMAGE_BYTES_MAX => return Err(note("larger than the model takes")),
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(note("the file is gone")),
            Err(error) => return Err(note(&error.to_string())),
        };
        let Some(media_type) = media_type(&bytes) else { return Err(note("not a JPEG, PNG, GIF or WebP file")) };
        let Some(left) = self.bytes_left.checked_sub(bytes.len()) else {
            // Older images stay out too, even small ones: which ones are seen must not depend on their size.
            self.bytes_left = 0;
            return Err(note("too many images in this conversation; ask for it to be sent again"));
        };
        self.bytes_left = left;
        Ok(Image { media_type, base64: base64::engine::general_purpose::STANDARD.encode(bytes) })
    }
}

/// Reads one byte more than the limit at most. Anything but a regular file could block, and is refused.
fn read(path: &str) -> io::Result<Vec<u8>> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(limits::IMAGE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The type by the file's first bytes. Providers refuse a request whose media type is not what the image is, and
/// platforms are often wrong about it.
fn media_type(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [0xff, 0xd8, 0xff, ..] => Some("image/jpeg"),
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Some("image/png"),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some("image/gif"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some("image/webp"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_read_or_replaced_by_a_note() {
        let folder = tempfile::tempdir().expect("scratch directory");
        let check = |images: &mut Images, name: &str, bytes: Option<&[u8]>, expect: Result<&str, &str>| {
            let path = folder.path().join(name);
            if let Some(bytes) = bytes {
                std::fs::write(&path, bytes).expect("scratch file");
            }
            let found = images.load(path.to_str().expect("UTF-8")).map(|image| format!("{} {}", image.media_type, image.base64));
            assert_eq!(found.as_deref().map_err(String::as_str), expect);
        };
        let mut images = Images::new();
        check(&mut images, "a.jpg", Some(&[0xff, 0xd8, 0xff, 0xe0]), Ok("image/jpeg /9j/4A=="));
        check(&mut images, "b.jpg", Some(b"\x89PNG\r\n\x1a\n"), Ok("image/png iVBORw0KGgo="));
        check(&mut images, "c.gif", Some(b"GIF89a"), Ok("image/gif R0lGODlh"));
        check(&mut images, "d.webp", Some(b"RIFF\0\0\0\0WEBP"), Ok("image/webp UklGRgAAAABXRUJQ"));
        check(&mut images, "e.png", Some(b"text"), Err("[image e.png is not shown: not a JPEG, PNG, GIF or WebP file]"));
        check(&mut images, "f.png", None, Err("[image f.png is not shown: the file is gone]"));
        check(
            &mut images,
            "",
            None,
            Err(&format!("[image {} is not shown: not a regular file]", folder.path().file_name().expect("named").to_string_lossy())),
        );
        let mut large = vec![0xff, 0xd8, 0xff];
        large.resize(limits::IMAGE_BYTES_MAX + 1, 0);
        check(&mut images, "g.jpg", Some(&large), Err("[image g.jpg is not shown: larger than the model takes]"));
    }

    #[test]
    fn the_newest_images_win_when_there_are_too_many() {
        let folder = tempfile::tempdir().expect("scratch directory");
        let path = folder.path().join("x.jpg");
        let mut bytes = vec![0xff, 0xd8, 0xff];
        bytes.resize(limits::IMAGE_BYTES_MAX, 0);
        std::fs::write(&path, bytes).expect("scratch file");
        let mut images = Images::new();
        let fit = (0..20).take_while(|_| images.load(path.to_str().expect("UTF-8")).is_ok()).count();
        assert_eq!(fit, limits::REQUEST_IMAGE_BYTES_MAX / limits::IMAGE_BYTES_MAX);
        assert!(images.load(path.to_str().expect("UTF-8")).is_err_and(|note| note.contains("too many images")));
    }
}
