//! Durations as people write them: `"90s"`, `"2m"`, `"1h30m"`, `"500ms"`. Pure.

use std::time::Duration;

/// What to show when something is not a duration.
pub const EXPECTED: &str = "a duration like \"90s\", \"2m\", \"1h30m\" or \"500ms\"";

/// The units, largest first, which is also the order in which they may be combined.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// Parses a duration. `0` needs no unit; everything else does.
///
/// # Errors
/// A sentence that says what was expected.
pub fn parse(text: &str) -> Result<Duration, String> {
    let expected = || format!("expected {EXPECTED}");
    let mut rest = text.trim();
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(expected());
    }
    let mut total_ms: u64 = 0;
    let mut units = UNITS.iter();
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let letters = rest[digits..].bytes().take_while(u8::is_ascii_alphabetic).count();
        let (number, unit) = (&rest[..digits], &rest[digits..digits + letters]);
        rest = &rest[digits + letters..];
        if number.is_empty() || unit.is_empty() {
            return Err(expected());
        }
        // Each unit at most once and in falling order: the iterator does not go back.
        let (_, unit_ms) = units.find(|(name, _)| *name == unit).ok_or_else(expected)?;
        let number: u64 = number.parse().map_err(|_| expected())?;
        let part_ms = number.checked_mul(*unit_ms).ok_or_else(expected)?;
        total_ms = total_ms.checked_add(part_ms).ok_or_else(expected)?;
    }
    Ok(Duration::from_millis(total_ms))
}

/// The shortest text that [`parse`] reads back as the same number of milliseconds.
#[must_use]
pub fn format(duration: Duration) -> String {
    let mut left_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if left_ms == 0 {
        return "0s".to_owned();
    }
    // People write 90s and 180s, not 1m30s: below ten minutes whole seconds stay seconds unless they are whole minutes.
    if left_ms < 600_000 && left_ms.is_multiple_of(1000) && !left_ms.is_multiple_of(60_000) {
        return format!("{}s", left_ms / 1000);
    }
    let mut text = String::new();
    for (name, unit_ms) in UNITS {
        if left_ms >= unit_ms {
            text.push_str(&format!("{}{name}", left_ms / unit_ms));
            left_ms %= unit_ms;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations() {
        let check = |text: &str, expect_ms: Option<u64>| assert_eq!(parse(text).ok(), expect_ms.map(Duration::from_millis), "{text:?}");
        check("90s", Some(90_000));
        check("2m", Some(120_000));
        check("1h30m", Some(5_400_000));
        check("500ms", Some(500));
        check("1d2h3m4s5ms", Some(93_784_005));
        check(" 5s ", Some(5000));
        check("0", Some(0));
        check("0s", Some(0));
        check("1m1ms", Some(60_001));
        for wrong in ["", "5", "s", "5 s", "-5s", "1.5s", "5x", "30m1h", "5s5s", "1hm", "99999999999999999999s", "9999999999999d", "5S"] {
            check(wrong, None);
        }
    }

    #[test]
    fn formatted_as_people_write_them() {
        let check = |ms: u64, expect: &str| assert_eq!(format(Duration::from_millis(ms)), expect);
        check(0, "0s");
        check(25_000, "25s");
        check(180_000, "3m");
        check(90_000, "90s");
        check(1500, "1s500ms");
        check(1_800_000, "30m");
        check(5_400_000, "1h30m");
    }

    proptest! {
        #[test]
        fn what_is_formatted_parses_back(ms in 0u64..10_000_000_000) {
            let duration = Duration::from_millis(ms);
            prop_assert_eq!(parse(&format(duration)), Ok(duration));
        }

        #[test]
        fn never_panics(text in "\\PC{0,20}") {
            let _ = parse(&text);
        }
    }
}
