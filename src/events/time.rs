//! Times: Unix milliseconds inside, RFC 3339 with milliseconds in UTC on the wire.

use chrono::{DateTime, SecondsFormat, Utc};

/// Unix milliseconds.
pub type Millis = i64;

/// Reads RFC 3339; Unix nanoseconds.
pub fn parse_nanos(text: &str) -> Option<i64> {
    match usual(text.as_bytes()) {
        Some((seconds, nanos)) => Some(seconds * 1_000_000_000 + i64::from(nanos)),
        None => DateTime::parse_from_rfc3339(text).ok()?.timestamp_nanos_opt(),
    }
}

/// Reads RFC 3339; Unix milliseconds.
pub fn parse_millis(text: &str) -> Option<Millis> {
    match usual(text.as_bytes()) {
        Some((seconds, nanos)) => Some(seconds * 1_000 + i64::from(nanos / 1_000_000)),
        None => DateTime::parse_from_rfc3339(text).ok().map(|t| t.timestamp_millis()),
    }
}

/// Unix seconds and nanoseconds of a time as nearly all are written: `2026-11-23T17:34:18`, at most nine decimals, `Z` or an offset; of
/// the years from 1970 to 2199. Two such times stand in each fact, and this takes a tenth of the time that chrono does. Whatever is
/// unusual in any way is left to chrono.
fn usual(text: &[u8]) -> Option<(i64, u32)> {
    let (date, rest) = text.split_first_chunk::<19>()?;
    if (date[4], date[7], date[10], date[13], date[16]) != (b'-', b'-', b'T', b':', b':') {
        return None;
    }
    let (year, month, day) = (two(date, 0)? * 100 + two(date, 2)?, two(date, 5)?, two(date, 8)?);
    let (hour, minute, second) = (two(date, 11)?, two(date, 14)?, two(date, 17)?);
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let last = match month {
        2 => 28 + i64::from(is_leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1970..2200).contains(&year) || !(1..=last).contains(&day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let (nanos, zone) = match rest {
        [b'.', rest @ ..] => {
            let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
            if !(1..=9).contains(&digits) {
                return None;
            }
            let number = rest[..digits].iter().fold(0, |n, b| n * 10 + u32::from(b - b'0'));
            (number * 10u32.pow(9 - digits as u32), &rest[digits..])
        }
        _ => (0, rest),
    };
    let offset = match zone {
        b"Z" => 0,
        [sign @ (b'+' | b'-'), _, _, b':', _, _] => {
            let (hours, minutes) = (two(zone, 1)?, two(zone, 4)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            let ahead = (hours * 60 + minutes) * 60;
            if *sign == b'+' { ahead } else { -ahead }
        }
        _ => return None,
    };
    // Days since 1970 in a calendar whose years begin in March, so that a leap day is the last one of its year.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = y * 365 + y / 4 - y / 100 + y / 400 + (m * 153 + 2) / 5 + day - 1 - 719_468;
    Some((days * 86_400 + hour * 3_600 + minute * 60 + second - offset, nanos))
}

/// The number that two digits make.
fn two(text: &[u8], at: usize) -> Option<i64> {
    let digit = |b: &u8| b.is_ascii_digit().then(|| i64::from(b - b'0'));
    Some(digit(text.get(at)?)? * 10 + digit(text.get(at + 1)?)?)
}

pub fn format(ms: Millis) -> String {
    DateTime::<Utc>::from_timestamp_millis(ms).unwrap_or_default().to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// serde of [`Millis`] as text.
pub mod text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use super::Millis;

    pub fn serialize<S: Serializer>(ms: &Millis, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&super::format(*ms))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Millis, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(d)?;
        super::parse_millis(&text).ok_or_else(|| D::Error::custom(format!("\"{text}\" is not an RFC 3339 time")))
    }

    pub mod option {
        use serde::{Deserialize, Deserializer, Serializer, de::Error};

        use super::Millis;

        pub fn serialize<S: Serializer>(ms: &Option<Millis>, s: S) -> Result<S::Ok, S::Error> {
            match ms {
                Some(ms) => s.serialize_str(&crate::events::time::format(*ms)),
                None => s.serialize_none(),
            }
        }

        pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Millis>, D::Error> {
            let text = Option::<std::borrow::Cow<str>>::deserialize(d)?;
            text.map(|t| {
                crate::events::time::parse_millis(&t).ok_or_else(|| D::Error::custom(format!("\"{t}\" is not an RFC 3339 time")))
            })
            .transpose()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by_chrono(text: &str) -> (Option<i64>, Option<Millis>) {
        let time = DateTime::parse_from_rfc3339(text).ok();
        (time.and_then(|t| t.timestamp_nanos_opt()), time.map(|t| t.timestamp_millis()))
    }

    #[test]
    fn every_day_of_two_centuries_is_the_one_that_chrono_says() {
        for day in 0..(230 * 366) {
            let text = format(day * 86_400_000 + 45_296_789);
            assert_eq!((parse_nanos(&text), parse_millis(&text)), by_chrono(&text), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_or_an_unusual_one_is_what_chrono_says() {
        let unusual = [
            "",
            "2026",
            "2026-02-30T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "2024-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-00-10T00:00:00Z",
            "2026-01-00T00:00:00Z",
            "2026-01-31T24:00:00Z",
            "2026-01-01T23:60:00Z",
            "2016-12-31T23:59:60Z",
            "2026-01-01T00:00:00",
            "2026-01-01T00:00:00z",
            "2026-01-01t00:00:00Z",
            "2026-01-01 00:00:00Z",
            "2026-01-01T00:00:00.Z",
            "2026-01-01T00:00:00.1234567891Z",
            "2026-01-01T00:00:00+0100",
            "2026-01-01T00:00:00+24:00",
            "2026-01-01T00:00:00+23:59",
            "2026-01-01T00:00:00-00:00",
            "2026-01-01T00:00:00+01:60",
            "2026-01-01T00:00:00Zx",
            "1969-12-31T23:59:59.9Z",
            "1970-01-01T00:00:00+01:00",
            "9999-01-01T00:00:00Z",
            "+2026-01-01T00:00:00Z",
            "2026-1-01T00:00:00Z",
            "２026-01-01T00:00:00Z",
        ];
        for text in unusual {
            assert_eq!((parse_nanos(text), parse_millis(text)), by_chrono(text), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn a_time_is_what_chrono_says(
            text in "(19[67]|2[012][0-9])[0-9]-(0[0-9]|1[0-3])-[0-3][0-9]T[0-2][0-9]:[0-6][0-9]:[0-6][0-9](\\.[0-9]{0,10})?(Z|[+-][0-2][0-9]:[0-6][0-9])"
        ) {
            proptest::prop_assert_eq!((parse_nanos(&text), parse_millis(&text)), by_chrono(&text));
        }
    }
}
