//! Durations as programs in Go read them: `1h30m`, `-1.5s`.

const UNITS: [&str; 8] = ["ns", "us", "µs", "μs", "ms", "s", "m", "h"];

/// What is wrong with a text that is no duration.
pub fn duration_error(text: &str) -> String {
    let invalid = || format!("time: invalid duration {}", quoted(text));
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    while !rest.is_empty() {
        let number = rest.len() - rest.trim_start_matches(|letter: char| letter.is_ascii_digit()).len();
        let (whole, behind) = rest.split_at(number);
        let (part, behind) = match behind.strip_prefix('.') {
            Some(behind) => {
                let tail = behind.trim_start_matches(|letter: char| letter.is_ascii_digit());
                (&behind[..behind.len() - tail.len()], tail)
            }
            None => ("", behind),
        };
        if whole.is_empty() && part.is_empty() {
            return invalid();
        }
        let end =
            behind.find(|letter: char| letter.is_ascii_digit() || letter == '.').unwrap_or(behind.len());
        let unit = &behind[..end];
        if unit.is_empty() {
            return format!("time: missing unit in duration {}", quoted(text));
        }
        if !UNITS.contains(&unit) {
            return format!("time: unknown unit {} in duration {}", quoted(unit), quoted(text));
        }
        rest = &behind[end..];
    }
    // There is nothing in it, or it is too long.
    invalid()
}

/// A text as Go's package `time` shows it: what is no plain letter, byte by byte.
fn quoted(text: &str) -> String {
    let shown = text.bytes().map(|byte| match byte {
        b'"' | b'\\' => format!("\\{}", char::from(byte)),
        b' '..=b'~' => char::from(byte).to_string(),
        other => format!("\\x{other:02x}"),
    });
    format!("\"{}\"", shown.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_duration_is_told_as_go_tells_it() {
        for (text, why) in [
            ("", r#"invalid duration """#),
            ("-", r#"invalid duration "-""#),
            ("s", r#"invalid duration "s""#),
            (".s", r#"invalid duration ".s""#),
            ("5", r#"missing unit in duration "5""#),
            ("1m5.5", r#"missing unit in duration "1m5.5""#),
            ("5y", r#"unknown unit "y" in duration "5y""#),
            ("5 ä\"", r#"unknown unit " \xc3\xa4\"" in duration "5 \xc3\xa4\"""#),
            ("9999999999h", r#"invalid duration "9999999999h""#),
        ] {
            assert_eq!(duration_error(text), format!("time: {why}"));
        }
    }
}
