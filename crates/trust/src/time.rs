//! RFC 3339, read strictly and written in UTC.

/// Milliseconds since 1970 of a text such as `2026-01-31T12:00:00.123Z` or `2026-01-31T13:00:00+01:00`. Upper case only,
/// an offset is required, at most 9 digits of a second's fraction, no leap seconds (clocks that sign have none).
pub fn parse_rfc3339(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    // `get` refuses what is not at a character's boundary.
    let (whole, rest) = (text.get(..19)?, text.get(19..)?);
    let shape = b"0000-00-00T00:00:00";
    let fits = |(c, shape): (&u8, &u8)| if *shape == b'0' { c.is_ascii_digit() } else { c == shape };
    if !bytes.iter().zip(shape).all(fits) {
        return None;
    }
    let number = |at: usize, len: usize| whole.get(at..at + len)?.parse::<i64>().ok();
    let (year, month, day) = (number(0, 4)?, number(5, 2)?, number(8, 2)?);
    let (hour, minute, second) = (number(11, 2)?, number(14, 2)?, number(17, 2)?);
    if !(1..=12).contains(&month) || !(1..=days_in(year, month)).contains(&day) {
        return None;
    }
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let (millis, offset) = fraction(rest)?;
    let minutes = hour * 60 + minute - offset_minutes(offset)?;
    Some(((days_from_civil(year, month, day) * 1440 + minutes) * 60 + second) * 1000 + millis)
}

/// Milliseconds, and what follows the fraction.
fn fraction(rest: &str) -> Option<(i64, &str)> {
    let Some(after) = rest.strip_prefix('.') else { return Some((0, rest)) };
    let digits = after.bytes().take_while(u8::is_ascii_digit).count();
    if !(1..=9).contains(&digits) {
        return None;
    }
    let (fraction, offset) = after.split_at(digits);
    let millis = format!("{fraction:0<3}").get(..3)?.parse().ok()?;
    Some((millis, offset))
}

fn offset_minutes(offset: &str) -> Option<i64> {
    if offset == "Z" {
        return Some(0);
    }
    let sign = match offset.as_bytes() {
        [b'+', rest @ ..] | [b'-', rest @ ..] => {
            let [a, b, b':', c, d] = rest else { return None };
            let digits = [a, b, c, d].into_iter().all(u8::is_ascii_digit);
            digits.then_some(if offset.starts_with('+') { 1 } else { -1 })?
        }
        _ => return None,
    };
    let hours: i64 = offset.get(1..3)?.parse().ok()?;
    let minutes: i64 = offset.get(4..6)?.parse().ok()?;
    (hours <= 23 && minutes <= 59).then_some(sign * (hours * 60 + minutes))
}

fn days_in(year: i64, month: i64) -> i64 {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 in the proleptic Gregorian calendar; years begin in March, so that leap days end them.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// Seconds since 1970 as text in UTC, for people; as a number where the year has more than four digits.
pub(crate) fn to_rfc3339(seconds: u64) -> String {
    let time = der::DateTime::from_unix_duration(std::time::Duration::from_secs(seconds));
    time.map_or_else(|_| format!("{seconds} seconds after 1970"), |time| time.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_strictly() {
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("1969-12-31T23:59:59.999Z", Some(-1)),
            ("2022-10-31T23:59:59.9999999Z", Some(1_667_260_799_999)),
            ("2024-02-29T12:30:00+05:30", Some(1_709_190_000_000)),
            ("2024-02-29T01:00:00-06:00", Some(1_709_190_000_000)),
            ("0000-01-01T00:00:00Z", Some(-62_167_219_200_000)),
            ("9999-12-31T23:59:59Z", Some(253_402_300_799_000)),
            ("2023-02-29T00:00:00Z", None),
            ("2024-13-01T00:00:00Z", None),
            ("2024-04-31T00:00:00Z", None),
            ("2024-01-01T24:00:00Z", None),
            ("2016-12-31T23:59:60Z", None),
            ("2024-01-01T00:00:00", None), // as Python's isoformat() without a time zone
            ("2024-01-01 00:00:00Z", None),
            ("2024-01-01t00:00:00z", None),
            ("2024-01-01T00:00:00.Z", None),
            ("2024-01-01T00:00:00.1234567890Z", None),
            ("2024-01-01T00:00:00+0100", None),
            ("2024-01-01T00:00:00+24:00", None),
            ("2024-01-01T00:00:00ZZ", None),
            ("+024-01-01T00:00:00Z", None),
            ("2024-01-01T00:00:0é", None),
            ("2024-01-01T00:00:00+0é:0", None),
            ("", None),
        ] {
            assert_eq!(parse_rfc3339(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_written_is_read() {
        for seconds in [0, 951_782_400, 1_709_190_000, 4_102_444_800, 253_402_300_799] {
            assert_eq!(parse_rfc3339(&to_rfc3339(seconds)), i64::try_from(seconds * 1000).ok());
        }
        assert_eq!(to_rfc3339(u64::MAX), "18446744073709551615 seconds after 1970");
    }
}
