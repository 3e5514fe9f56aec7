//! What was seen: times, counts, failures by name, and the figures made of them.
//!
//! Never: forgets a failure. A figure that was made beside failures carries them.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

/// What workers of one row saw.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Times of what went well, in nanoseconds, in no order.
    pub times: Vec<u64>,
    /// What went wrong, by status or name.
    pub errors: BTreeMap<String, u64>,
}

impl Tally {
    /// Notes a time.
    pub fn time(&mut self, time: Duration) {
        self.times.push(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Notes a failure.
    pub fn fail(&mut self, what: impl ToString) {
        self.fail_times(what, 1);
    }

    /// Notes so many failures.
    pub fn fail_times(&mut self, what: impl ToString, count: u64) {
        if count > 0 {
            *self.errors.entry(what.to_string()).or_default() += count;
        }
    }

    /// Both together.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.times.extend(other.times);
        for (what, count) in other.errors {
            self.fail_times(what, count);
        }
        self
    }

    /// The times' percentile, in milliseconds.
    pub fn percentile_ms(&mut self, permille: usize) -> Option<f64> {
        self.times.sort_unstable();
        percentile(&self.times, permille).map(|ns| ns as f64 / 1e6)
    }
}

/// The nearest-rank percentile of a sorted list: the least value that so many in a thousand do not exceed.
pub fn percentile<T: Copy>(sorted: &[T], permille: usize) -> Option<T> {
    let rank = (sorted.len() * permille).div_ceil(1000).max(1);
    sorted.get(rank - 1).or(sorted.last()).copied()
}

/// The median of a list: of an even number the mean of the two in the middle.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        length if length % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

/// What one row gave on one server in one round.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Outcome {
    /// The figures by name, with the unit in the name.
    pub figures: BTreeMap<&'static str, f64>,
    /// What went wrong beside them.
    pub errors: BTreeMap<String, u64>,
}

impl Outcome {
    /// One that only tells what went wrong.
    pub fn failed(what: impl ToString) -> Self {
        Self { figures: BTreeMap::new(), errors: BTreeMap::from([(what.to_string(), 1)]) }
    }

    /// One with a tally's failures.
    pub fn of(tally: &Tally) -> Self {
        Self { figures: BTreeMap::new(), errors: tally.errors.clone() }
    }

    /// Adds a figure if there is one.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: Option<f64>) -> Self {
        if let Some(value) = value.filter(|value| value.is_finite()) {
            self.figures.insert(name, value);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_seen() {
        let hundred: Vec<u64> = (1..=100).collect();
        let seen = |permille| percentile(&hundred, permille).unwrap();
        assert_eq!([seen(0), seen(500), seen(990), seen(999), seen(1000)], [1, 50, 99, 100, 100]);
        assert_eq!(percentile(&[7], 990), Some(7));
        assert_eq!(percentile(&[1, 9], 500), Some(1));
        assert_eq!(percentile::<u64>(&[], 500), None);
    }

    #[test]
    fn medians_are_in_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0]), Some(2.5));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn failures_add_up() {
        let mut one = Tally::default();
        one.time(Duration::from_micros(1500));
        one.fail(503);
        let mut two = one.clone();
        two.fail_times("missing", 0);
        two.fail("closed early");
        let mut both = one.and(two);
        assert_eq!(both.percentile_ms(500), Some(1.5));
        let want = BTreeMap::from([("503".to_owned(), 2), ("closed early".to_owned(), 1)]);
        assert_eq!(both.errors, want);
    }
}
