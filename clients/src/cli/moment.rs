//! Points in a topic and in time as people write them on a command line.

use std::fmt;
use std::str::FromStr;

/// Where to start reading, or to set a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    Beginning,
    End,
    Offset(i64),
    /// Milliseconds since 1970.
    Timestamp(i64),
}

pub const POSITION_HELP: &str = "\
beginning, end, an offset (42), a time (2026-11-20, 2026-11-20T08:30:00Z, 2026-11-20T08:30:00.250+01:00), \
milliseconds since 1970 (@1795163400000), or how long ago (90s, 15m, 2h, 7d)";

impl FromStr for Position {
    type Err = String;

    fn from_str(text: &str) -> Result<Position, String> {
        let unreadable = || format!("expected {POSITION_HELP}");
        match text {
            "beginning" | "start" | "earliest" => return Ok(Position::Beginning),
            "end" | "latest" => return Ok(Position::End),
            _ => {}
        }
        if let Some(ms) = text.strip_prefix('@') {
            let ms = ms.parse::<i64>().ok().filter(|ms| *ms >= 0).ok_or_else(unreadable)?;
            return Ok(Position::Timestamp(ms));
        }
        if text.bytes().all(|b| b.is_ascii_digit()) {
            return text.parse().map(Position::Offset).map_err(|_| unreadable());
        }
        if let Some(ago) = parse_age_ms(text) {
            return Ok(Position::Timestamp(now_ms().saturating_sub(ago).max(0)));
        }
        parse_rfc3339_ms(text).filter(|ms| *ms >= 0).map(Position::Timestamp).ok_or_else(unreadable)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Position::Beginning => f.write_str("beginning"),
            Position::End => f.write_str("end"),
            Position::Offset(offset) => offset.fmt(f),
            Position::Timestamp(ms) => f.write_str(&format_ms(*ms)),
        }
    }
}

pub fn now_ms() -> i64 {
    i64::try_from(crate::clock::since_epoch().as_millis()).unwrap_or(i64::MAX)
}

/// `15m` as milliseconds.
fn parse_age_ms(text: &str) -> Option<i64> {
    let unit = text.chars().last()?;
    let each = match unit {
        's' => 1_000,
        'm' => 60_000,
        'h' => 3_600_000,
        'd' => 86_400_000,
        _ => return None,
    };
    let digits = text.strip_suffix(unit)?;
    digits
        .bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| digits.parse::<i64>().ok()?.checked_mul(each))
        .flatten()
}

/// A date, or a date and time with its zone (UTC where none is named), as RFC 3339 has them.
pub fn parse_rfc3339_ms(text: &str) -> Option<i64> {
    let number = |s: &str, digits: usize| -> Option<i64> {
        (s.len() == digits && s.bytes().all(|b| b.is_ascii_digit())).then(|| s.parse().ok()).flatten()
    };
    let (date, time) = match text.split_once(['T', 't', ' ']) {
        Some((date, time)) => (date, Some(time)),
        None => (text, None),
    };
    let mut parts = date.split('-');
    let (year, month, day) =
        (number(parts.next()?, 4)?, number(parts.next()?, 2)?, number(parts.next()?, 2)?);
    if parts.next().is_some()
        || !(1..=12).contains(&month)
        || !(1..=days_in_month(year, month)).contains(&day)
    {
        return None;
    }
    let mut ms = days_from_civil(year, month, day) * 86_400_000;
    let Some(time) = time else {
        return Some(ms);
    };
    let zone_at = time.find(['Z', 'z', '+', '-']).unwrap_or(time.len());
    let (clock, zone) = time.split_at_checked(zone_at)?;
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, ""));
    let mut parts = clock.split(':');
    let (hour, minute) = (number(parts.next()?, 2)?, number(parts.next()?, 2)?);
    let second = parts.next().map_or(Some(0), |s| number(s, 2))?;
    if parts.next().is_some() || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    ms += hour * 3_600_000 + minute * 60_000 + second * 1_000;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    for (at, digit) in fraction.bytes().take(3).enumerate() {
        ms += i64::from(digit - b'0') * [100, 10, 1][at];
    }
    if zone.is_empty() || zone.eq_ignore_ascii_case("z") {
        return Some(ms);
    }
    let (sign, offset) = zone.split_at_checked(1)?;
    let (hours, minutes) = offset.split_once(':')?;
    let (hours, minutes) = (number(hours, 2)?, number(minutes, 2)?);
    if hours > 23 || minutes > 59 {
        return None;
    }
    let offset_ms = (hours * 60 + minutes) * 60_000;
    Some(if sign == "+" { ms - offset_ms } else { ms + offset_ms })
}

/// `2026-11-20T08:30:00.250Z`
pub fn format_ms(ms: i64) -> String {
    let days = ms.div_euclid(86_400_000);
    let rest = ms.rem_euclid(86_400_000);
    let (year, month, day) = civil_from_days(days);
    let (hour, minute, second, milli) =
        (rest / 3_600_000, rest / 60_000 % 60, rest / 1_000 % 60, rest % 1_000);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 in the proleptic Gregorian calendar, counted in eras of 400 years that begin in March.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_read_as_people_write_them() {
        assert_eq!("beginning".parse(), Ok(Position::Beginning));
        assert_eq!("latest".parse(), Ok(Position::End));
        assert_eq!("42".parse(), Ok(Position::Offset(42)));
        assert_eq!("@1700000000000".parse(), Ok(Position::Timestamp(1_700_000_000_000)));
        assert_eq!("2023-11-14T22:13:20Z".parse(), Ok(Position::Timestamp(1_700_000_000_000)));
        assert_eq!("2023-11-14T23:13:20.250+01:00".parse(), Ok(Position::Timestamp(1_700_000_000_250)));
        assert_eq!("2023-11-14 17:13:20-05:00".parse(), Ok(Position::Timestamp(1_700_000_000_000)));
        assert_eq!("1970-01-02".parse(), Ok(Position::Timestamp(86_400_000)));
        assert_eq!("2024-02-29".parse(), Ok(Position::Timestamp(1_709_164_800_000)));
        let Ok(Position::Timestamp(ago)) = "15m".parse() else { panic!("an age is a time") };
        assert!((now_ms() - ago - 900_000).abs() < 5_000);
        for bad in
            ["", "soon", "-5", "@x", "@-1", "2023-02-29", "2023-13-01", "2023-11-14T25:00Z", "9é", "1w"]
        {
            assert!(bad.parse::<Position>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn times_survive_a_round_trip() {
        assert_eq!(format_ms(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(format_ms(1_700_000_000_250), "2023-11-14T22:13:20.250Z");
        for ms in (-4_000_000_000_000..8_000_000_000_000).step_by(86_399_999 * 37) {
            if ms >= 0 {
                assert_eq!(parse_rfc3339_ms(&format_ms(ms)), Some(ms));
            } else {
                let (year, month, day) = civil_from_days(ms.div_euclid(86_400_000));
                assert_eq!(days_from_civil(year, month, day), ms.div_euclid(86_400_000));
            }
        }
    }
}
