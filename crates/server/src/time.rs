//! Times on the wire: milliseconds since the epoch for programs, RFC 3339 in UTC for people.

use countersign_domain::Millis;

/// `2026-11-21T02:30:00Z`. Seconds are enough for a person; programs get the milliseconds.
pub(crate) fn rfc3339(millis: Millis) -> String {
    let seconds = millis / 1000;
    let (year, month, day) = civil_from_days(seconds / 86_400);
    let of_day = seconds % 86_400;
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", of_day / 3600, of_day / 60 % 60, of_day % 60)
}

/// Days since 1970-01-01 as a date of the Gregorian calendar, by counting from a 1st of March in eras of 400 years.
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    const DAYS_FROM_0000_03_01: u64 = 719_468;
    const DAYS_IN_ERA: u64 = 146_097;
    let days = days + DAYS_FROM_0000_03_01;
    let (era, of_era) = (days / DAYS_IN_ERA, days % DAYS_IN_ERA);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

/// The milliseconds of an RFC 3339 time from 1970 to 9999, with any offset; a leap second counts as the second before. `None` for
/// anything else.
pub(crate) fn parse_rfc3339(text: &str) -> Option<Millis> {
    let bytes = text.as_bytes();
    let number = |from: usize, to: usize| -> Option<u64> {
        let digits = bytes.get(from..to)?;
        digits
            .iter()
            .all(u8::is_ascii_digit)
            .then(|| digits.iter().fold(0, |n, digit| n * 10 + u64::from(digit - b'0')))
    };
    let is = |at: usize, wanted: &[u8]| bytes.get(at).is_some_and(|byte| wanted.contains(byte));
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let separated = is(4, b"-") && is(7, b"-") && is(10, b"Tt ") && is(13, b":") && is(16, b":");
    let days = days_from_civil(year, month, day)?;
    if !separated || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let digits =
        bytes.get(20..).filter(|_| is(19, b".")).map_or(0, |f| f.iter().take_while(|b| b.is_ascii_digit()).count());
    if is(19, b".") && !(1..=9).contains(&digits) {
        return None;
    }
    let fraction = number(20, 20 + digits).unwrap_or(0);
    let millis =
        if digits > 3 { fraction / 10_u64.pow(digits as u32 - 3) } else { fraction * 10_u64.pow(3 - digits as u32) };
    let zone = if digits > 0 { 20 + digits } else { 19 };
    let offset = if is(zone, b"Zz") && bytes.len() == zone + 1 {
        0
    } else if is(zone, b"+-") && is(zone + 3, b":") && bytes.len() == zone + 6 {
        let (hours, minutes) = (number(zone + 1, zone + 3)?, number(zone + 4, zone + 6)?);
        let seconds = i64::try_from(hours * 3600 + minutes * 60).ok().filter(|_| hours < 24 && minutes < 60)?;
        if is(zone, b"-") { -seconds } else { seconds }
    } else {
        return None;
    };
    let seconds = (days * 86_400 + hour * 3600 + minute * 60 + second.min(59)).checked_add_signed(-offset)?;
    Some(seconds * 1000 + millis)
}

/// Days since 1970-01-01 of a date that is one; the inverse of [`civil_from_days`].
fn days_from_civil(year: u64, month: u64, day: u64) -> Option<u64> {
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let march_year = year - u64::from(month <= 2);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = march_year * 365 + march_year / 4 - march_year / 100 + march_year / 400 + of_year - 719_468;
    // The 30th of February would be some day in March.
    (civil_from_days(days) == (year, month, day)).then_some(days)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_they_are_written() {
        for millis in [0, 951_782_399_000, 951_782_400_000, 1_795_228_200_000, 4_107_542_400_000] {
            assert_eq!(parse_rfc3339(&rfc3339(millis)), Some(millis));
        }
        for (text, millis) in [
            ("2026-11-21T02:30:00.5Z", 1_795_228_200_500),
            ("2026-11-21t03:30:00.123456+01:00", 1_795_228_200_123),
            ("2026-11-20 21:30:00-05:00", 1_795_228_200_000),
            ("1970-01-01T00:00:60Z", 59_000),
        ] {
            assert_eq!(parse_rfc3339(text), Some(millis), "{text}");
        }
        for wrong in [
            "",
            "2026-11-21",
            "2026-02-30T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-11-21T24:00:00Z",
            "2026-11-21T02:30:00",
            "2026-11-21T02:30:00.Z",
            "2026-11-21T02:30:00+0100",
            "2026-11-21T02:30:00Zx",
            "1969-12-31T23:59:59Z",
            "1970-01-01T00:00:00+01:00",
            "２026-11-21T02:30:00Z",
            "2026-11-21T02:30:00.1234567890Z",
        ] {
            assert_eq!(parse_rfc3339(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn dates_agree_with_the_calendar() {
        let cases = [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399_999, "2000-02-28T23:59:59Z"),
            (951_782_400_000, "2000-02-29T00:00:00Z"),
            (1_709_251_199_000, "2024-02-29T23:59:59Z"),
            (1_795_228_200_000, "2026-11-21T02:30:00Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00Z"),
        ];
        for (millis, expected) in cases {
            assert_eq!(rfc3339(millis), expected);
        }
    }
}
