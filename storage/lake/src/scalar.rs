//! What a JSON value is as a value of a column: only if nothing of it is lost, so that what a column cannot hold goes to the next.

use crate::json::{Kind, Value};

const MICROS_OF_DAY: i64 = 86_400_000_000;
/// Of 0001-01-01 and of the day after 9999-12-31, which is as far as all engines go.
const DAYS: std::ops::Range<i64> = -719_162..2_932_897;
/// Integers up to it are doubles, each another.
const EXACT_IN_DOUBLE: f64 = 9_007_199_254_740_992.0;

/// 64 bits, also as a real that is a whole number (`5.0`).
pub fn long(value: &Value) -> Option<i64> {
    match value.kind() {
        Kind::Integer => value.text().parse().ok(),
        Kind::Real => {
            let real = double(value)?;
            let is_whole = real.fract() == 0.0 && real.abs() < EXACT_IN_DOUBLE;
            (is_whole && !(real == 0.0 && real.is_sign_negative())).then_some(real as i64)
        }
        _ => None,
    }
}

/// The nearest double of a real; an integer only where it is a double. Neither `1e400` nor `1e-400`.
pub fn double(value: &Value) -> Option<f64> {
    let text = value.text();
    match value.kind() {
        Kind::Real => {
            let real: f64 = text.parse().ok()?;
            let is_underflow = real == 0.0
                && text
                    .bytes()
                    .take_while(|byte| !matches!(byte, b'e' | b'E'))
                    .any(|byte| matches!(byte, b'1'..=b'9'));
            (real.is_finite() && !is_underflow).then_some(real)
        }
        Kind::Integer => match text.parse::<i64>() {
            Ok(long) => double_of_long(long),
            // JavaScript writes doubles up to 1e21 as integers.
            Err(_) if text.len() <= 40 => {
                let real: f64 = text.parse().ok()?;
                (format!("{real:.0}") == text).then_some(real)
            }
            Err(_) => None,
        },
        _ => None,
    }
}

pub fn double_of_long(long: i64) -> Option<f64> {
    let real = long as f64;
    // i64::MAX rounds up to 2^63, which the way back would take for i64::MAX.
    (real as i128 == i128::from(long)).then_some(real)
}

/// Days since 1970-01-01 of `YYYY-MM-DD`.
pub fn date(text: &str) -> Option<i32> {
    let bytes = text.as_bytes();
    if bytes.len() != 10 || bytes[4] != b'-' || bytes[7] != b'-' {
        return None;
    }
    let (year, month, day) = (digits(&bytes[..4])?, digits(&bytes[5..7])?, digits(&bytes[8..])?);
    if year == 0 || !(1..=12).contains(&month) || day == 0 || day > days_of_month(year, month) {
        return None;
    }
    Some(days_of(year, month, day) as i32)
}

/// Microseconds since 1970-01-01T00:00:00Z of an RFC 3339 time; none if it says more than microseconds, or a leap second.
pub fn timestamp(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    if bytes.len() < 20 || !matches!(bytes[10], b'T' | b't' | b' ') || bytes[13] != b':' || bytes[16] != b':'
    {
        return None;
    }
    let days = date(text.get(..10)?)?;
    let (hour, minute, second) = (digits(&bytes[11..13])?, digits(&bytes[14..16])?, digits(&bytes[17..19])?);
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let mut rest = &bytes[19..];
    let mut micros = 0;
    if let Some(fraction) = rest.strip_prefix(b".") {
        let len = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if len == 0 || fraction[..len].iter().skip(6).any(|&digit| digit != b'0') {
            return None;
        }
        micros = (0..6).fold(0, |micros, at| {
            micros * 10 + fraction[..len].get(at).map_or(0, |digit| i64::from(digit - b'0'))
        });
        rest = &fraction[len..];
    }
    let offset_minutes = match rest {
        [b'Z' | b'z'] => 0,
        [sign @ (b'+' | b'-'), hours @ .., b':', m1, m2] if hours.len() == 2 => {
            let (hours, minutes) = (digits(hours)?, digits(&[*m1, *m2])?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            (hours * 60 + minutes) * if *sign == b'-' { -1 } else { 1 }
        }
        _ => return None,
    };
    let minutes = hour * 60 + minute - offset_minutes;
    let moment = i64::from(days) * MICROS_OF_DAY + (minutes * 60 + second) * 1_000_000 + micros;
    DAYS.contains(&day_of_micros(moment)).then_some(moment)
}

/// Microseconds of a record's timestamp; none outside of the years 1 to 9999.
pub fn micros_of_millis(millis: i64) -> Option<i64> {
    let micros = millis.checked_mul(1000)?;
    DAYS.contains(&day_of_micros(micros)).then_some(micros)
}

pub fn day_of_micros(micros: i64) -> i64 {
    micros.div_euclid(MICROS_OF_DAY)
}

fn digits(bytes: &[u8]) -> Option<i64> {
    bytes
        .iter()
        .try_fold(0, |number, byte| byte.is_ascii_digit().then(|| number * 10 + i64::from(byte - b'0')))
}

fn days_of_month(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

/// Howard Hinnant's days_from_civil: years begin in March, so that the leap day is the last of one.
fn days_of(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    year.div_euclid(400) * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::Reader;

    fn of<T>(text: &str, read: impl Fn(&Value) -> Option<T>) -> Option<T> {
        read(&Reader::default().read(text.as_bytes()).unwrap())
    }

    #[test]
    fn numbers_without_loss_only() {
        for (text, number) in [
            ("5", Some(5)),
            ("-0", Some(0)),
            ("5.0", Some(5)),
            ("5e2", Some(500)),
            ("5.5", None),
            ("-0.0", None),
            ("9223372036854775807", Some(i64::MAX)),
            ("-9223372036854775808", Some(i64::MIN)),
            ("9223372036854775808", None),
            ("9007199254740993.0", None),
            ("1e400", None),
            ("\"5\"", None),
        ] {
            assert_eq!(of(text, long), number, "{text}");
        }
        for (text, number) in [
            ("5", Some(5.0)),
            ("0.1", Some(0.1)),
            ("-0.0", Some(-0.0)),
            ("0e-400", Some(0.0)),
            ("9007199254740993", None),
            ("9223372036854775807", None),
            ("9223372036854775808", Some(9223372036854775808.0)),
            ("100000000000000000000", Some(1e20)),
            ("100000000000000000001", None),
            ("1e400", None),
            ("-1e400", None),
            ("1e-400", None),
            ("5e-324", Some(5e-324)),
        ] {
            assert_eq!(of(text, double).map(f64::to_bits), number.map(f64::to_bits), "{text}");
        }
        assert_eq!(of(&"9".repeat(100_000), double), None);
    }

    #[test]
    fn dates() {
        for (text, day) in [
            ("1970-01-01", Some(0)),
            ("1969-12-31", Some(-1)),
            ("2000-02-29", Some(11_016)),
            ("2024-02-29", Some(19_782)),
            ("1986-12-31", Some(6_208)),
            ("0001-01-01", Some(-719_162)),
            ("9999-12-31", Some(2_932_896)),
            ("1900-02-29", None),
            ("2023-02-29", None),
            ("2023-04-31", None),
            ("2023-13-01", None),
            ("2023-00-01", None),
            ("2023-01-00", None),
            ("0000-01-01", None),
            ("2023-1-01", None),
            ("+2023-01-1", None),
            ("２０23", None),
        ] {
            assert_eq!(date(text), day, "{text}");
        }
    }

    #[test]
    fn timestamps() {
        for (text, micros) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("1970-01-01t00:00:01.5z", Some(1_500_000)),
            ("1970-01-01 00:00:00.000001+00:00", Some(1)),
            ("1970-01-01T01:00:00+01:00", Some(0)),
            ("1969-12-31T23:30:00-00:30", Some(0)),
            ("1970-01-01T00:00:00.123456000Z", Some(123_456)),
            ("1970-01-01T00:00:00.1234567Z", None),
            ("1970-01-01T00:00:00.Z", None),
            ("1970-01-01T00:00:60Z", None),
            ("1970-01-01T24:00:00Z", None),
            ("1970-01-01T00:00:00", None),
            ("1970-01-01T00:00:00+0100", None),
            ("1970-01-01T00:00:00+24:00", None),
            ("0001-01-01T00:00:00+00:01", None),
            ("9999-12-31T23:59:59.999999Z", Some(253_402_300_799_999_999)),
            ("9999-12-31T23:59:59-00:01", None),
            ("1970-01-0ɏT00:00:00Z", None),
        ] {
            assert_eq!(timestamp(text), micros, "{text}");
        }
        assert_eq!(micros_of_millis(1), Some(1000));
        assert_eq!(micros_of_millis(i64::MAX), None);
        assert_eq!(micros_of_millis(253_402_300_800_000), None);
    }
}
