//! How long a stream and its messages are kept.
//!
//! Job: what the headers say and when that is over. Never: reads a clock.

use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// How long a stream lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lifetime {
    /// Until it is deleted.
    #[default]
    Endless,
    /// So many seconds after it was last used.
    TtlSeconds(u64),
    /// Until a point in time.
    Until(Timestamp),
}

/// How many messages a stream keeps; the oldest go first. What is not named has no bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Keep {
    /// At least the last so many messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub messages_max: Option<u64>,
    /// At least the last so many bytes of messages, whole messages only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_max: Option<u64>,
    /// At least the messages of the last so many seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_max_seconds: Option<u64>,
}

/// Why headers are no lifetime.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LifetimeError {
    /// No plain decimal.
    #[error("{0} is a plain decimal without sign, leading zero, fraction or exponent")]
    Number(&'static str),
    /// No point in time.
    #[error("Stream-Expires-At is a time as RFC 3339 writes it")]
    Time,
    /// Both at once.
    #[error("a stream has Stream-TTL or Stream-Expires-At, not both")]
    Both,
}

impl Lifetime {
    /// Parses `Stream-TTL` and `Stream-Expires-At`.
    ///
    /// # Errors
    /// [`LifetimeError`].
    pub fn parse(ttl: Option<&str>, expires_at: Option<&str>) -> Result<Self, LifetimeError> {
        match (ttl, expires_at) {
            (None, None) => Ok(Self::Endless),
            (Some(ttl), None) => decimal(ttl, "Stream-TTL").map(Self::TtlSeconds),
            (None, Some(at)) => {
                let at: jiff::Timestamp = at.trim().parse().map_err(|_| LifetimeError::Time)?;
                Ok(Self::Until(Timestamp::from_unix_ms(at.as_millisecond())))
            }
            (Some(_), Some(_)) => Err(LifetimeError::Both),
        }
    }

    /// When a stream that was last used then is over; `None` for never.
    pub fn ends(self, used_at: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Endless => None,
            Self::TtlSeconds(seconds) => {
                let ms = i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1_000);
                Some(Timestamp::from_unix_ms(used_at.unix_ms().saturating_add(ms)))
            }
            Self::Until(at) => Some(at),
        }
    }
}

impl Keep {
    /// Parses the values of the three headers: messages, bytes, seconds; each at least 1.
    ///
    /// # Errors
    /// [`LifetimeError::Number`].
    pub fn parse(
        messages_max: Option<&str>,
        bytes_max: Option<&str>,
        age_max: Option<&str>,
    ) -> Result<Self, LifetimeError> {
        let at_least_one = |text: Option<&str>, name| match text.map(|text| decimal(text, name)) {
            Some(Ok(0)) => Err(LifetimeError::Number(name)),
            other => other.transpose(),
        };
        Ok(Self {
            messages_max: at_least_one(messages_max, "Stream-Max-Messages")?,
            bytes_max: at_least_one(bytes_max, "Stream-Max-Bytes")?,
            age_max_seconds: at_least_one(age_max, "Stream-Max-Age")?,
        })
    }

    /// Whether anything ever goes.
    pub fn is_endless(&self) -> bool {
        *self == Self::default()
    }
}

fn decimal(text: &str, name: &'static str) -> Result<u64, LifetimeError> {
    let canonical = text == "0" || (!text.is_empty() && !text.starts_with('0'));
    match text.parse::<u64>() {
        Ok(number) if canonical && text.bytes().all(|b| b.is_ascii_digit()) && i64::try_from(number).is_ok() => {
            Ok(number)
        }
        _ => Err(LifetimeError::Number(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ttl_is_plain_decimal() {
        assert_eq!(Lifetime::parse(Some("3600"), None), Ok(Lifetime::TtlSeconds(3600)));
        assert_eq!(Lifetime::parse(Some("0"), None), Ok(Lifetime::TtlSeconds(0)));
        for bad in ["", "-1", "+5", "05", "3.5", "1e3", "x", " 1", "9223372036854775808"] {
            assert_eq!(Lifetime::parse(Some(bad), None), Err(LifetimeError::Number("Stream-TTL")), "{bad:?}");
        }
        assert_eq!(Lifetime::parse(Some("1"), Some("2026-01-01T00:00:00Z")), Err(LifetimeError::Both));
    }

    #[test]
    fn times_have_any_zone() {
        let at = Lifetime::Until(Timestamp::from_unix_ms(1_795_254_000_000));
        assert_eq!(Lifetime::parse(None, Some("2026-11-21T09:40:00Z")), Ok(at));
        assert_eq!(Lifetime::parse(None, Some("2026-11-21T10:40:00.000+01:00")), Ok(at));
        assert_eq!(Lifetime::parse(None, Some("tomorrow")), Err(LifetimeError::Time));
        assert_eq!(at.ends(Timestamp::default()), Some(Timestamp::from_unix_ms(1_795_254_000_000)));
        let ttl = Lifetime::TtlSeconds(u64::MAX);
        assert_eq!(ttl.ends(Timestamp::from_unix_ms(5)), Some(Timestamp::from_unix_ms(i64::MAX)));
    }

    #[test]
    fn bounds_are_at_least_one() {
        let keep = Keep { messages_max: Some(3), bytes_max: None, age_max_seconds: Some(60) };
        assert_eq!(Keep::parse(Some("3"), None, Some("60")), Ok(keep));
        assert_eq!(Keep::parse(Some("0"), None, None), Err(LifetimeError::Number("Stream-Max-Messages")));
        assert!(Keep::default().is_endless() && !keep.is_endless());
    }
}
