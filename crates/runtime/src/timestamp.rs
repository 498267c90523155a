//! RFC 3339 times in UTC, as log lines carry them. Written out here because the shim writes one per log line
//! and needs no calendar beyond this.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// `2026-11-21T03:37:07.123456789Z`, always with nine fractional digits.
pub(crate) fn format(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = since.as_secs();
    let (year, month, day) = civil_from_days((seconds / 86_400) as i64);
    let of_day = seconds % 86_400;
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:09}Z",
        of_day / 3600,
        of_day / 60 % 60,
        of_day % 60,
        since.subsec_nanos()
    )
}

/// Reads what [`format`] writes, with zero to nine fractional digits, and what others write who tell their local time (`+02:00`). `None`
/// when it is anything else.
pub(crate) fn parse(text: &str) -> Option<SystemTime> {
    let (text, east) = zone(text)?;
    let bytes = text.as_bytes();
    if bytes.len() < 19 {
        return None;
    }
    for (index, expected) in [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')] {
        if bytes[index] != expected {
            return None;
        }
    }
    let number = |range: std::ops::Range<usize>| text[range].parse::<u32>().ok();
    let days = days_from_civil(i64::from(number(0..4)?), i64::from(number(5..7)?), i64::from(number(8..10)?));
    let of_day = number(11..13)? * 3600 + number(14..16)? * 60 + number(17..19)?;
    let fraction = &text[19..];
    let nanos = match fraction.strip_prefix('.') {
        None if fraction.is_empty() => 0,
        Some(digits) if (1..=9).contains(&digits.len()) => {
            digits.parse::<u32>().ok()? * 10u32.pow(9 - digits.len() as u32)
        }
        _ => return None,
    };
    let seconds = u64::try_from(days * 86_400 + i64::from(of_day) - east).ok()?;
    UNIX_EPOCH.checked_add(Duration::new(seconds, nanos))
}

/// Parts a time from its zone, in seconds east of Greenwich.
fn zone(text: &str) -> Option<(&str, i64)> {
    if !text.is_ascii() {
        return None;
    }
    if let Some(time) = text.strip_suffix('Z') {
        return Some((time, 0));
    }
    let (time, zone) = text.split_at_checked(text.len().checked_sub(6)?)?;
    let (hours, minutes) = zone.get(1..)?.split_once(':')?;
    let east = i64::from(hours.parse::<u8>().ok()?) * 3600 + i64::from(minutes.parse::<u8>().ok()?) * 60;
    match zone.as_bytes()[0] {
        b'+' => Some((time, east)),
        b'-' => Some((time, -east)),
        _ => None,
    }
}

/// Gregorian date of a day number counted from 1970-01-01 (which must not lie before 0000-03-01).
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    // Counting years from March puts the leap day at the end, so month lengths follow one line.
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments() {
        let at = |seconds, nanos| UNIX_EPOCH + Duration::new(seconds, nanos);
        assert_eq!(format(at(0, 0)), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(format(at(951_782_400, 5)), "2000-02-29T00:00:00.000000005Z");
        assert_eq!(format(at(1_795_232_227, 1)), "2026-11-21T03:37:07.000000001Z");
        assert_eq!(parse("2026-11-21T03:37:07Z"), Some(at(1_795_232_227, 0)));
        assert_eq!(parse("2026-11-21T03:37:07.25Z"), Some(at(1_795_232_227, 250_000_000)));
        assert_eq!(parse("2026-11-21 03:37:07Z"), None);
        assert_eq!(parse("2026-11-21T04:37:07.25+01:00"), Some(at(1_795_232_227, 250_000_000)));
        assert_eq!(parse("2026-11-20T22:07:07-05:30"), Some(at(1_795_232_227, 0)));
        for wrong in
            ["", "Z", "+01:00", "2026-11-21T03:37:07", "2026-11-21T03:37:07 01:00", "1969-12-31T23:59:59Z"]
        {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn every_day_of_800_years_goes_round() {
        for day in 0..292_194 {
            let (year, month, date) = civil_from_days(day);
            assert_eq!(days_from_civil(year, month, date), day);
        }
    }
}
