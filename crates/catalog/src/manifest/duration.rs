//! Durations as people write them: a whole number and one unit.

use std::time::Duration;

use serde::{Deserialize, Deserializer, de::Error as _};

use super::MAX_TIMEOUT;

/// A duration that cannot be read or is out of bounds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a duration from {min} to {max}: write a whole number and ms, s, m or h, like 30s")]
pub struct DurationError {
    text: String,
    min: &'static str,
    max: &'static str,
}

/// Reads `500ms`, `30s`, `5m` or `2h`; `None` for anything else, for zero and on overflow.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let number: u64 = text[..digits].parse().ok().filter(|&n| n > 0)?;
    let millis = match &text[digits..] {
        "ms" => Some(number),
        "s" => number.checked_mul(1_000),
        "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        _ => None,
    };
    millis.map(Duration::from_millis)
}

pub(super) fn call<'de, D: Deserializer<'de>>(input: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(input)?;
    let found = parse_duration(&text).filter(|d| *d <= MAX_TIMEOUT);
    found.ok_or_else(|| D::Error::custom(DurationError { text, min: "1ms", max: "10m" }))
}

pub(super) fn optional_call<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Duration>, D::Error> {
    call(input).map(Some)
}

pub(super) fn refresh<'de, D: Deserializer<'de>>(input: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(input)?;
    let bounds = Duration::from_secs(1)..=Duration::from_secs(86_400);
    let found = parse_duration(&text).filter(|d| bounds.contains(d));
    found.ok_or_else(|| D::Error::custom(DurationError { text, min: "1s", max: "24h" }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_number_and_a_unit() {
        for (text, millis) in [("1ms", Some(1)), ("30s", Some(30_000)), ("10m", Some(600_000)), ("2h", Some(7_200_000))]
        {
            assert_eq!(parse_duration(text), millis.map(Duration::from_millis), "{text}");
        }
        for text in ["", "30", "s", "0s", "-1s", "1.5s", "1 s", "1d", "99999999999999999999s", "18446744073709551615h"]
        {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }
}
