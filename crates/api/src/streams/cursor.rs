//! Cursors of live readers: a number that only grows, so that no cache in between repeats an answer for ever.
//!
//! Source: the Durable Streams protocol, section 10.1.

/// Milliseconds of one interval.
const INTERVAL_MS: i64 = 20_000;

/// 2024-10-09T00:00:00Z, where intervals are counted from, in milliseconds since the Unix epoch.
const EPOCH_MS: i64 = 1_728_432_000_000;

/// Seconds by which a cursor that is not behind the clock is moved on, at most.
const JITTER_S_MAX: u64 = 3_600;

/// The interval of a point in time, given in milliseconds since the Unix epoch.
#[must_use]
pub const fn interval(now_ms: i64) -> u64 {
    if now_ms < EPOCH_MS { 0 } else { ((now_ms - EPOCH_MS) / INTERVAL_MS) as u64 }
}

/// The cursor of an answer: the interval, or one strictly beyond the caller's if that is not behind it. What is no
/// number counts as none; `random` is any number.
#[must_use]
pub fn cursor(now_ms: i64, given: Option<&str>, random: u64) -> u64 {
    let now = interval(now_ms);
    let given = given.filter(|text| text.bytes().all(|b| b.is_ascii_digit())).and_then(|text| text.parse::<u64>().ok());
    match given {
        Some(given) if given >= now => {
            let jitter_s = 1 + random % JITTER_S_MAX;
            given.saturating_add(jitter_s.div_ceil(INTERVAL_MS as u64 / 1_000))
        }
        _ => now,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_counted_from_the_epoch() {
        assert_eq!(interval(EPOCH_MS - 1), 0);
        assert_eq!(interval(EPOCH_MS + INTERVAL_MS - 1), 0);
        assert_eq!(interval(EPOCH_MS + INTERVAL_MS), 1);
    }

    #[test]
    fn a_cursor_never_stands_still_for_who_brings_it_back() {
        let now = EPOCH_MS + 1_000 * INTERVAL_MS;
        assert_eq!(cursor(now, None, 7), 1_000);
        assert_eq!(cursor(now, Some("999"), 7), 1_000);
        for random in [0, 1, 3_599, 3_600, u64::MAX] {
            for given in [1_000, 1_001, 5_000] {
                let next = cursor(now, Some(&given.to_string()), random);
                assert!(next > given && next <= given + 180, "{given} {random}: {next}");
            }
        }
        for junk in ["", "-1", "+1", "x", "1.5", "99999999999999999999999"] {
            assert_eq!(cursor(now, Some(junk), 7), 1_000, "{junk}");
        }
    }
}
