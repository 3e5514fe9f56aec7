//! Durations as people write and read them: `90s`, `10m`, `1h30m`.
//!
//! Job: strict parsing, short rendering. Never: guesses a unit: a bare number is refused.

use std::time::Duration;

/// Milliseconds per unit, the longest first.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Parses `500ms`, `90s`, `10m`, `2h`, `1d`, or several in falling order: `1h30m`.
///
/// # Errors
/// A sentence that says what a duration looks like.
pub fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a duration; write for example 90s, 10m or 1h30m");
    let mut rest = text;
    let mut total: u64 = 0;
    let mut units = UNITS.iter();
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
        let letters = rest[digits..].bytes().take_while(u8::is_ascii_lowercase).count();
        let unit = &rest[digits..digits + letters];
        let (_, ms) = units.by_ref().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
        total = number.checked_mul(*ms).and_then(|part| total.checked_add(part)).ok_or_else(wrong)?;
        rest = &rest[digits + letters..];
    }
    if total == 0 { Err(format!("{text:?} is no time at all")) } else { Ok(Duration::from_millis(total)) }
}

/// At most two units: `1d 3h`, `2h 5m`, `1m 12s`, `12s`, `3.4s`, `120ms`.
pub fn show(duration: Duration) -> String {
    let ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let two = |big: u64, small: u64, names: [&str; 2]| {
        let (whole, part) = (ms / big, ms % big / small);
        if part == 0 { format!("{whole}{}", names[0]) } else { format!("{whole}{} {part}{}", names[0], names[1]) }
    };
    match ms {
        0..1_000 => format!("{ms}ms"),
        1_000..10_000 => format!("{}.{}s", ms / 1_000, ms % 1_000 / 100),
        10_000..60_000 => format!("{}s", ms / 1_000),
        60_000..3_600_000 => two(60_000, 1_000, ["m", "s"]),
        3_600_000..86_400_000 => two(3_600_000, 60_000, ["h", "m"]),
        86_400_000.. => two(86_400_000, 3_600_000, ["d", "h"]),
    }
}

/// One unit, for a column: `5s`, `3m`, `2h`, `4d`.
pub fn brief(duration: Duration) -> String {
    let s = duration.as_secs();
    match s {
        0..60 => format!("{s}s"),
        60..3_600 => format!("{}m", s / 60),
        3_600..86_400 => format!("{}h", s / 3_600),
        86_400.. => format!("{}d", s / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read() {
        for (text, ms) in [
            ("500ms", 500),
            ("90s", 90_000),
            ("10m", 600_000),
            ("2h", 7_200_000),
            ("1h30m", 5_400_000),
            ("1d2h3m4s5ms", 93_784_005),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for bad in [
            "",
            "90",
            "s",
            "1.5h",
            "-1s",
            "1m1h",
            "1s1s",
            "10 m",
            "0s",
            "1w",
            "1H",
            "99999999999999999999s",
            "18446744073709551615d",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_are_shown_shortly() {
        for (ms, text, column) in [
            (120, "120ms", "0s"),
            (3_450, "3.4s", "3s"),
            (12_999, "12s", "12s"),
            (72_000, "1m 12s", "1m"),
            (120_000, "2m", "2m"),
            (7_500_000, "2h 5m", "2h"),
            (97_200_000, "1d 3h", "1d"),
        ] {
            let duration = Duration::from_millis(ms);
            assert_eq!((&*show(duration), &*brief(duration)), (text, column));
        }
    }
}
