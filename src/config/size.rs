//! Sizes as people write them: `"256MB"`, `"1.5 GiB"`. Pure. All units are powers of 1024, as memory is counted.

/// What to show when something is not a size.
pub const EXPECTED: &str = "a size like \"256MB\" or \"1GB\"";

const UNITS: [(&str, u64); 4] = [("G", 1 << 30), ("M", 1 << 20), ("K", 1 << 10), ("", 1)];

/// # Errors
/// A sentence that says what was expected.
pub fn parse(text: &str) -> Result<u64, String> {
    let expected = || format!("expected {EXPECTED}");
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number: u64 = text[..digits].parse().map_err(|_| expected())?;
    let unit = text[digits..].trim().to_ascii_uppercase();
    let short = unit.strip_suffix("IB").or_else(|| unit.strip_suffix('B')).unwrap_or(&unit);
    let (_, bytes) = UNITS.iter().find(|(name, _)| *name == short).ok_or_else(expected)?;
    number.checked_mul(*bytes).ok_or_else(expected)
}

/// The shortest text that [`parse`] reads back as the same number.
#[must_use]
pub fn format(bytes: u64) -> String {
    let (name, unit) = UNITS.iter().find(|(_, unit)| bytes > 0 && bytes.is_multiple_of(*unit)).unwrap_or(&UNITS[3]);
    format!("{}{name}B", bytes / unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let check = |text: &str, expect: Option<u64>| assert_eq!(parse(text).ok(), expect, "{text:?}");
        check("256MB", Some(256 << 20));
        check("1 GiB", Some(1 << 30));
        check("64k", Some(64 << 10));
        check("100", Some(100));
        check("100B", Some(100));
        for wrong in ["", "MB", "1.5GB", "-1MB", "5XB", "5 M B", "99999999999999999999", "99999999999GB"] {
            check(wrong, None);
        }
        for bytes in [0, 1, 1023, 1024, 3 << 20, 7 << 30] {
            assert_eq!(parse(&format(bytes)), Ok(bytes));
        }
        assert_eq!(format(256 << 20), "256MB");
    }
}
