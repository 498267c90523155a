//! The schedules of CronJobs: five fields as crontab(5) has them, or a word like `@daily`.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan, Zoned};

/// The lowest and the highest number of a field, and names that stand for numbers from the lowest on.
struct Bounds {
    low: u32,
    high: u32,
    names: &'static [&'static str],
}

const MONTHS: &[&str] = &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
const FIELDS: [Bounds; 5] = [
    Bounds { low: 0, high: 59, names: &[] },
    Bounds { low: 0, high: 23, names: &[] },
    Bounds { low: 1, high: 31, names: &[] },
    Bounds { low: 1, high: 12, names: MONTHS },
    Bounds { low: 0, high: 6, names: DAYS },
];

/// When something is to happen, again and again.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// The zone that the schedule itself names.
    zone: Option<TimeZone>,
    moments: Moments,
}

#[derive(Clone, Debug)]
enum Moments {
    /// Each so often.
    Every(SignedDuration),
    Fields(Fields),
}

/// The numbers that each field allows, as bits.
#[derive(Clone, Debug)]
struct Fields {
    allowed: [u64; 5],
    /// Whether the fields of days, of the month and of the week, leave the choice to each other. When neither does, a day that one
    /// of them allows is good.
    any_day: bool,
}

impl Schedule {
    /// Reads a schedule.
    ///
    /// # Errors
    /// What is wrong with it, as clients are told.
    pub fn parse(schedule: &str) -> Result<Self, String> {
        let (mut zone, mut rest) = (None, schedule);
        let prefixed = ["TZ=", "CRON_TZ="].into_iter().find_map(|prefix| schedule.strip_prefix(prefix));
        if let Some(prefixed) = prefixed {
            let (name, after) = prefixed.split_once(' ').unwrap_or((prefixed, ""));
            let found = TimeZone::get(name);
            zone =
                Some(found.map_err(|_| format!("provided bad location {name}: unknown time zone {name}"))?);
            rest = after.trim();
        }
        if rest.is_empty() {
            return Err("empty spec string".to_owned());
        }
        let moments = if rest.starts_with('@') { descriptor(rest)? } else { Moments::Fields(fields(rest)?) };
        Ok(Self { zone, moments })
    }

    /// The first moment after `after`, by the schedule's own zone or else by `zone`; none in the next five years where there is none.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let whole = Timestamp::from_second(after.as_second()).ok()?;
        match &self.moments {
            Moments::Every(every) => whole.checked_add(*every).ok(),
            Moments::Fields(fields) => fields.next(whole, self.zone.as_ref().unwrap_or(zone)),
        }
    }
}

/// Years that are searched for a moment.
const SEARCHED_YEARS: i16 = 5;

impl Fields {
    fn allows(&self, field: usize, value: i8) -> bool {
        u32::try_from(value).is_ok_and(|value| self.allowed[field] >> value & 1 == 1)
    }

    fn allows_day(&self, at: &Zoned) -> bool {
        let month = self.allows(2, at.day());
        let week = self.allows(4, at.weekday().to_sunday_zero_offset());
        if self.any_day { month && week } else { month || week }
    }

    /// Goes on in real time, so that what a change of the clock leaves out does not happen, and what it repeats does so twice.
    fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let minute = after.as_second().div_euclid(60) + 1;
        let mut at = Timestamp::from_second(minute * 60).ok()?.to_zoned(zone.clone());
        let last = at.year().saturating_add(SEARCHED_YEARS);
        while at.year() <= last {
            at = if !self.allows(3, at.month()) {
                at.first_of_month().ok()?.checked_add(1.month()).ok()?.start_of_day().ok()?
            } else if !self.allows_day(&at) {
                at.tomorrow().ok()?.start_of_day().ok()?
            } else if !self.allows(1, at.hour()) {
                at.checked_add(SignedDuration::from_mins(60 - i64::from(at.minute()))).ok()?
            } else if !self.allows(0, at.minute()) {
                at.checked_add(SignedDuration::from_mins(1)).ok()?
            } else {
                return Some(at.timestamp());
            };
        }
        None
    }
}

fn fields(text: &str) -> Result<Fields, String> {
    let fields: Vec<&str> = text.split_whitespace().collect();
    if fields.len() != FIELDS.len() {
        return Err(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")));
    }
    let mut allowed = [0; 5];
    let mut free = [false; 5];
    for (at, (field, bounds)) in fields.into_iter().zip(&FIELDS).enumerate() {
        for part in field.split(',').filter(|part| !part.is_empty()) {
            let (bits, all) = range(part, bounds)?;
            allowed[at] |= bits;
            free[at] |= all;
        }
    }
    Ok(Fields { allowed, any_day: free[2] || free[4] })
}

fn descriptor(word: &str) -> Result<Moments, String> {
    let plain = match word {
        "@yearly" | "@annually" => "0 0 1 1 *",
        "@monthly" => "0 0 1 * *",
        "@weekly" => "0 0 * * 0",
        "@daily" | "@midnight" => "0 0 * * *",
        "@hourly" => "0 * * * *",
        _ => {
            let Some(text) = word.strip_prefix("@every ") else {
                return Err(format!("unrecognized descriptor: {word}"));
            };
            let nanos = yunfan_cel::parse_duration(text)
                .ok_or_else(|| format!("failed to parse duration {word}: time: invalid duration {text:?}"))?;
            // In whole seconds, and one at least.
            let seconds = SignedDuration::from_nanos(nanos).as_secs();
            return Ok(Moments::Every(SignedDuration::from_secs(seconds.max(1))));
        }
    };
    fields(plain).map(Moments::Fields)
}

/// The numbers that a part of a field allows, as bits, and whether it allows all.
fn range(part: &str, bounds: &Bounds) -> Result<(u64, bool), String> {
    let steps: Vec<&str> = part.split('/').collect();
    let ends: Vec<&str> = steps[0].split('-').collect();
    let single = ends.len() == 1;
    let mut free = false;
    let (start, mut end) = match ends.as_slice() {
        ["*" | "?", ..] => {
            free = true;
            (bounds.low, bounds.high)
        }
        [one] => {
            let number = number_or_name(one, bounds)?;
            (number, number)
        }
        [low, high] => (number_or_name(low, bounds)?, number_or_name(high, bounds)?),
        _ => return Err(format!("too many hyphens: {part}")),
    };
    let step = match steps.as_slice() {
        [_] => 1,
        [_, step] => {
            if single {
                end = bounds.high;
            }
            number(step)?
        }
        _ => return Err(format!("too many slashes: {part}")),
    };
    if start < bounds.low {
        return Err(format!("beginning of range ({start}) below minimum ({}): {part}", bounds.low));
    }
    if end > bounds.high {
        return Err(format!("end of range ({end}) above maximum ({}): {part}", bounds.high));
    }
    if start > end {
        return Err(format!("beginning of range ({start}) beyond end of range ({end}): {part}"));
    }
    if step == 0 {
        return Err(format!("step of range should be a positive number: {part}"));
    }
    let mut bits = 0;
    let mut at = start;
    while at <= end {
        bits |= 1 << at;
        at = at.saturating_add(step);
    }
    Ok((bits, free && step == 1))
}

fn number_or_name(text: &str, bounds: &Bounds) -> Result<u32, String> {
    let named = (bounds.low..).zip(bounds.names).find(|(_, name)| text.eq_ignore_ascii_case(name));
    named.map_or_else(|| number(text), |(number, _)| Ok(number))
}

fn number(text: &str) -> Result<u32, String> {
    if text.strip_prefix('-').is_some_and(|digits| digits.parse::<u32>().is_ok()) {
        return Err(format!("negative number ({text}) not allowed: {text}"));
    }
    text.parse().map_err(|_| {
        format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_schedules_pass() {
        for good in [
            "* * * * ?",
            "*/1 * * * *",
            "0 0 1,15 jan-MAR mon",
            "5-50/5 0-23/2 ? * 0",
            "3/20 * * * *",
            "@daily",
            "@every 1h30m0.5s",
            "TZ=Asia/Tokyo 0 5 * * *",
        ] {
            assert!(Schedule::parse(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn bad_ones_say_why() {
        for (bad, why) in [
            ("", "empty spec string"),
            ("error schedule", "expected exactly 5 fields, found 2: [error schedule]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("5-3 * * * *", "beginning of range (5) beyond end of range (3): 5-3"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("1/2/3 * * * *", "too many slashes: 1/2/3"),
            ("1-2-3 * * * *", "too many hyphens: 1-2-3"),
            ("x * * * *", "failed to parse int from x: strconv.Atoi: parsing \"x\": invalid syntax"),
            (
                "TZ=Nowhere/Such * * * * *",
                "provided bad location Nowhere/Such: unknown time zone Nowhere/Such",
            ),
            ("@never", "unrecognized descriptor: @never"),
            (
                "@every 3000000h",
                "failed to parse duration @every 3000000h: time: invalid duration \"3000000h\"",
            ),
            ("@every soon", "failed to parse duration @every soon: time: invalid duration \"soon\""),
        ] {
            assert_eq!(Schedule::parse(bad).err().as_deref(), Some(why), "{bad}");
        }
    }

    #[test]
    fn moments_follow_one_another() {
        for (schedule, after, next) in [
            ("* * * * *", "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z"),
            ("* * * * *", "2026-01-01T00:00:59.5Z", "2026-01-01T00:01:00Z"),
            ("*/15 8-9 * * *", "2026-01-01T09:45:00Z", "2026-01-02T08:00:00Z"),
            ("0 0 29 2 *", "2026-01-01T00:00:00Z", "2028-02-29T00:00:00Z"),
            ("5/20 * * * *", "2026-01-01T00:05:00Z", "2026-01-01T00:25:00Z"),
            // Days of the month and of the week: either, unless one of them leaves the choice to the other.
            ("0 0 13 * fri", "2026-01-02T00:00:00Z", "2026-01-09T00:00:00Z"),
            ("0 0 13 * *", "2026-01-02T00:00:00Z", "2026-01-13T00:00:00Z"),
            ("0 0 */5 * fri", "2026-01-05T00:00:00Z", "2026-01-06T00:00:00Z"),
            ("@weekly", "2026-01-01T00:00:00Z", "2026-01-04T00:00:00Z"),
            ("@every 90s", "2026-01-01T00:00:10.7Z", "2026-01-01T00:01:40Z"),
            ("TZ=Asia/Tokyo 0 5 * * *", "2026-01-01T00:00:00Z", "2026-01-01T20:00:00Z"),
        ] {
            let schedule = Schedule::parse(schedule).unwrap();
            let found = schedule.next(after.parse().unwrap(), &TimeZone::UTC).unwrap();
            assert_eq!(found.to_string(), next, "{schedule:?} {after}");
        }
        let never = Schedule::parse("0 0 30 2 *").unwrap();
        assert_eq!(never.next("2026-01-01T00:00:00Z".parse().unwrap(), &TimeZone::UTC), None);
    }

    #[test]
    fn what_the_clock_leaves_out_does_not_happen_and_what_it_repeats_does_so_twice() {
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        let schedule = Schedule::parse("30 2 * * *").unwrap();
        let next = |after: &str| schedule.next(after.parse().unwrap(), &zone).unwrap().to_string();
        assert_eq!(next("2026-03-28T12:00:00Z"), "2026-03-30T00:30:00Z");
        assert_eq!(next("2026-10-24T12:00:00Z"), "2026-10-25T00:30:00Z");
        assert_eq!(next("2026-10-25T00:30:00Z"), "2026-10-25T01:30:00Z");
    }
}
