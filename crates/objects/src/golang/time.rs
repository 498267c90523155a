//! Times as RFC 3339 has them.

/// One piece of the layout: how Go writes it, and how many digits it is made of; none for a mark.
type Piece = (&'static str, usize, std::ops::RangeInclusive<u32>);

const PIECES: [Piece; 11] = [
    ("2006", 4, 0..=9999),
    ("-", 0, 0..=0),
    ("01", 2, 1..=12),
    ("-", 0, 0..=0),
    ("02", 2, 1..=31),
    ("T", 0, 0..=0),
    ("15", 2, 0..=23),
    (":", 0, 0..=0),
    ("04", 2, 0..=59),
    (":", 0, 0..=0),
    ("05", 2, 0..=59),
];
const RANGES: [(&str, &str); 5] =
    [("01", "month"), ("02", "day"), ("15", "hour"), ("04", "minute"), ("05", "second")];
const MICROS: &str = ".000000";
const ZONE: &str = "Z07:00";

/// What is wrong with a time, if anything. With `micros` it must have six digits of a second.
pub fn time_error(text: &str, micros: bool) -> Option<String> {
    let layout = if micros { "2006-01-02T15:04:05.000000Z07:00" } else { "2006-01-02T15:04:05Z07:00" };
    let lead = format!("parsing time {text:?} as {layout:?}:");
    let cannot = |rest: &str, piece: &str| Some(format!("{lead} cannot parse {rest:?} as {piece:?}"));
    let range = |what: &str| Some(format!("parsing time {text:?}: {what} out of range"));
    let mut rest = text;
    for (piece, digits, allowed) in PIECES {
        let Some(after) = take(rest, piece, digits) else { return cannot(rest, piece) };
        if let Some((_, what)) = RANGES.iter().find(|(name, _)| *name == piece)
            && !rest[..digits].parse().is_ok_and(|number| allowed.contains(&number))
        {
            return range(what);
        }
        rest = after;
    }
    if micros {
        let Some(after) = rest.strip_prefix('.').and_then(|after| take(after, "", MICROS.len() - 1)) else {
            return cannot(rest, MICROS);
        };
        rest = after;
    } else if let Some(after) = rest.strip_prefix('.') {
        let digits = after.bytes().take_while(u8::is_ascii_digit).count();
        rest = if digits > 0 { &after[digits..] } else { rest };
    }
    let Some(after) = zone(rest) else { return cannot(rest, ZONE) };
    if !after.is_empty() {
        return Some(format!("parsing time {text:?}: extra text: {after:?}"));
    }
    // What is left is a day that its month does not have.
    if text.parse::<jiff::Timestamp>().is_err() { range("day") } else { None }
}

/// What follows a piece, where it is there.
fn take<'a>(rest: &'a str, mark: &str, digits: usize) -> Option<&'a str> {
    if digits == 0 {
        return rest.strip_prefix(mark);
    }
    let found = rest.bytes().take(digits).filter(u8::is_ascii_digit).count();
    (found == digits).then(|| &rest[digits..])
}

fn zone(rest: &str) -> Option<&str> {
    if let Some(after) = rest.strip_prefix('Z') {
        return Some(after);
    }
    let after = rest.strip_prefix(['+', '-'])?;
    take(take(take(after, "", 2)?, ":", 0)?, "", 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_piece_that_does_not_fit_is_named() {
        let of = |text| time_error(text, false).expect("is no time");
        assert_eq!(
            of("soon"),
            "parsing time \"soon\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"soon\" as \"2006\""
        );
        assert!(of("2026-1-01T00:00:00Z").ends_with("cannot parse \"1-01T00:00:00Z\" as \"01\""));
        assert!(of("2026-01-01T00:00:00").ends_with("cannot parse \"\" as \"Z07:00\""));
        assert_eq!(of("2026-13-01T00:00:00Z"), "parsing time \"2026-13-01T00:00:00Z\": month out of range");
        assert_eq!(of("2026-02-30T00:00:00Z"), "parsing time \"2026-02-30T00:00:00Z\": day out of range");
        for good in ["2026-01-01T00:00:00Z", "2026-01-01T00:00:00.5+02:00"] {
            assert_eq!(time_error(good, false), None);
        }
    }

    #[test]
    fn micro_times_have_six_digits() {
        assert_eq!(time_error("2026-01-01T00:00:00.123456Z", true), None);
        assert!(
            time_error("2026-01-01T00:00:00Z", true).unwrap().ends_with("cannot parse \"Z\" as \".000000\"")
        );
        let long = time_error("2026-01-01T00:00:00.1234567+02:00", true).unwrap();
        assert!(long.ends_with("cannot parse \"7+02:00\" as \"Z07:00\""), "{long}");
    }
}
