//! Times and durations.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, Zoned};

use super::{Library, failed, table};
use crate::budget::Budget;
use crate::eval::EvalError;
use crate::value::Value;

const AT: &str = "timestamp.() int | timestamp.(string) int";
const AT_OR_LENGTH: &str = "timestamp.() int | timestamp.(string) int | duration.() int";

/// Units as Go writes them, and their nanoseconds; longer names first.
const UNITS: [(&str, i64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

pub(super) fn library() -> Library {
    table(&[
        ("getFullYear", AT, |v, b| field(v, b, |t| t.year().into(), None)),
        ("getMonth", AT, |v, b| field(v, b, |t| i64::from(t.month()) - 1, None)),
        ("getDayOfYear", AT, |v, b| field(v, b, |t| i64::from(t.day_of_year()) - 1, None)),
        ("getDayOfMonth", AT, |v, b| field(v, b, |t| i64::from(t.day()) - 1, None)),
        ("getDate", AT, |v, b| field(v, b, |t| t.day().into(), None)),
        ("getDayOfWeek", AT, |v, b| field(v, b, |t| t.weekday().to_sunday_zero_offset().into(), None)),
        ("getHours", AT_OR_LENGTH, |v, b| field(v, b, |t| t.hour().into(), Some(3_600_000_000_000))),
        ("getMinutes", AT_OR_LENGTH, |v, b| field(v, b, |t| t.minute().into(), Some(60_000_000_000))),
        ("getSeconds", AT_OR_LENGTH, |v, b| field(v, b, |t| t.second().into(), Some(1_000_000_000))),
        ("getMilliseconds", AT_OR_LENGTH, |v, b| {
            field(v, b, |t| i64::from(t.subsec_nanosecond()) / 1_000_000, Some(1_000_000))
        }),
    ])
}

/// A part of a time in a zone, or a duration in units of so many nanoseconds.
fn field(
    values: &[Value],
    _: &mut Budget,
    part: fn(&Zoned) -> i64,
    unit: Option<i64>,
) -> Result<Value, EvalError> {
    let (at, zone) = match (values, unit) {
        ([Value::Duration(nanos)], Some(unit)) => return Ok(Value::Int(nanos / unit)),
        ([Value::Timestamp(at)], _) => (at, TimeZone::UTC),
        ([Value::Timestamp(at), Value::String(zone)], _) => (at, time_zone(zone)?),
        _ => return Err(EvalError::NoSuchOverload),
    };
    Ok(Value::Int(part(&Timestamp::to_zoned(*at, zone))))
}

/// A zone by its name or by its distance from UTC, as `-08:00`.
fn time_zone(name: &str) -> Result<TimeZone, EvalError> {
    if let Some((hours, minutes)) = name.split_once(':') {
        let (Ok(hours), Ok(minutes)) = (hours.parse::<i32>(), minutes.parse::<i32>()) else {
            return failed(format!("unknown time zone {name}"));
        };
        let sign = if name.starts_with('-') { -1 } else { 1 };
        let seconds = (hours.saturating_abs().saturating_mul(60).saturating_add(minutes)).saturating_mul(60);
        let offset = jiff::tz::Offset::from_seconds(seconds.saturating_mul(sign));
        return offset.map(TimeZone::fixed).or_else(|_| failed(format!("unknown time zone {name}")));
    }
    TimeZone::get(name).or_else(|_| failed(format!("unknown time zone {name}")))
}

/// Nanoseconds of a duration as Go writes it: `1h30m`, `-1.5s`.
pub fn parse_duration(text: &str) -> Option<i64> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    let mut total: i64 = 0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').filter(|end| *end > 0)?;
        let (number, tail) = rest.split_at(end);
        let (name, unit) = UNITS
            .iter()
            // `m` would match the start of `ms`.
            .filter(|(name, _)| tail.starts_with(name))
            .max_by_key(|(name, _)| name.len())?;
        let (whole, part) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && part.is_empty()) || part.contains('.') {
            return None;
        }
        let whole: i64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        let mut nanos = whole.checked_mul(*unit)?;
        let (mut scale, mut fraction) = (1.0_f64, 0.0_f64);
        for digit in part.chars().take(18) {
            scale /= 10.0;
            fraction += f64::from(digit.to_digit(10)?) * scale;
        }
        nanos = nanos.checked_add((fraction * *unit as f64).round() as i64)?;
        total = total.checked_add(nanos)?;
        rest = &tail[name.len()..];
    }
    total.checked_mul(sign)
}

/// A duration as text: seconds.
pub(super) fn duration_text(nanos: i64) -> String {
    let length = SignedDuration::from_nanos(nanos);
    if length.subsec_nanos() == 0 {
        return format!("{}s", length.as_secs());
    }
    let sign = if nanos < 0 { "-" } else { "" };
    let fraction = format!("{:09}", length.subsec_nanos().unsigned_abs());
    format!("{sign}{}.{}s", length.as_secs().unsigned_abs(), fraction.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, nanos) in [
            ("1h30m", Some(5_400_000_000_000)),
            ("1.5s", Some(1_500_000_000)),
            ("-2ms", Some(-2_000_000)),
            ("0", Some(0)),
            ("", None),
            ("1", None),
            ("1x", None),
            ("s", None),
            ("99999999999h", None),
        ] {
            assert_eq!(parse_duration(text), nanos, "{text}");
        }
        assert_eq!(duration_text(1_500_000_000), "1.5s");
        assert_eq!(duration_text(-500_000_000), "-0.5s");
    }
}
