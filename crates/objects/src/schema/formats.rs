//! Formats of texts, as custom resources may declare them.

use std::sync::OnceLock;

use regex::Regex;

use crate::meta;

/// Formats that are patterns, and their patterns.
const PATTERNS: [(&str, &str); 13] = [
    (
        "duration",
        "(?i)[0-9]\\s*(?:(?:nano|micro|milli|sec|min|hour|day|week)[a-zµ]*|[nuµm]?s|m|hr?|d|wk?)(?:[^a-zµ]|$)",
    ),
    ("bsonobjectid", "^[0-9a-fA-F]{24}$"),
    ("uuid", "(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}$"),
    ("uuid3", "(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?3[0-9a-f]{3}-?[0-9a-f]{4}-?[0-9a-f]{12}$"),
    ("uuid4", "(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?4[0-9a-f]{3}-?[89ab][0-9a-f]{3}-?[0-9a-f]{12}$"),
    ("uuid5", "(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?5[0-9a-f]{3}-?[89ab][0-9a-f]{3}-?[0-9a-f]{12}$"),
    ("ssn", "^[0-9]{3}[- ]?[0-9]{2}[- ]?[0-9]{4}$"),
    ("hexcolor", "^#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})$"),
    (
        "rgbcolor",
        "^rgb\\( *(0|[1-9][0-9]?|1[0-9][0-9]|2[0-4][0-9]|25[0-5]) *, *(0|[1-9][0-9]?|1[0-9][0-9]|2[0-4][0-9]|25[0-5]) *, *(0|[1-9][0-9]?|1[0-9][0-9]|2[0-4][0-9]|25[0-5]) *\\)$",
    ),
    (
        "mac",
        "^([0-9a-fA-F]{2}([:-][0-9a-fA-F]{2}){5}|[0-9a-fA-F]{4}(\\.[0-9a-fA-F]{4}){2}|[0-9a-fA-F]{2}([:-][0-9a-fA-F]{2}){7})$",
    ),
    ("email", "^[^@ <>()]+@[^@ <>()]+$"),
    (
        "hostname",
        "^[a-zA-Z0-9_]([a-zA-Z0-9_-]{0,61}[a-zA-Z0-9_])?(\\.[a-zA-Z0-9_]([a-zA-Z0-9_-]{0,61}[a-zA-Z0-9_])?)*\\.?$",
    ),
    (
        "creditcard",
        "^(4[0-9]{12}([0-9]{3})?|5[1-5][0-9]{14}|6(011|5[0-9][0-9])[0-9]{12}|3[47][0-9]{13}|3(0[0-5]|[68][0-9])[0-9]{11}|(2131|1800|35[0-9]{3})[0-9]{11})$",
    ),
];

/// Formats that are looked at in other ways.
const OTHERS: [&str; 14] = [
    "byte",
    "cidr",
    "date",
    "datetime",
    "duration",
    "ipv4",
    "ipv6",
    "isbn",
    "isbn10",
    "isbn13",
    "k8slongname",
    "k8sshortname",
    "password",
    "uri",
];

/// Whether a format is known for values of a type; empty is any type. Dashes in the names of formats do not count.
pub(crate) fn is_format_of(kind: &str, format: &str) -> bool {
    let plain = format.replace('-', "");
    match kind {
        "" | "string" => {
            OTHERS.contains(&plain.as_str()) || PATTERNS.iter().any(|(known, _)| *known == plain)
        }
        "integer" => matches!(format, "int32" | "int64"),
        "number" => matches!(format, "float" | "double"),
        _ => false,
    }
}

/// Whether a text has a format; formats that Kubernetes does not know are no rule.
pub(crate) fn has_format(format: &str, text: &str) -> bool {
    match format {
        "date-time" | "datetime" => text.parse::<jiff::Timestamp>().is_ok(),
        "date" => text.parse::<jiff::civil::Date>().is_ok(),
        // As Go writes it, or any number of a unit that people write.
        "duration" => yunfan_cel::parse_duration(text).is_some() || pattern(format, text),
        "ipv4" => text.parse::<std::net::Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<std::net::Ipv6Addr>().is_ok(),
        "cidr" => is_cidr(text),
        "uri" => is_uri(text),
        "isbn" => has_format("isbn10", text) || has_format("isbn13", text),
        "isbn10" => is_isbn(text, 10),
        "isbn13" => is_isbn(text, 13),
        "k8s-short-name" => meta::dns_label(text).is_empty(),
        "k8s-long-name" => meta::dns_subdomain(text).is_empty(),
        "creditcard" => pattern(format, &text.replace(|c: char| !c.is_ascii_digit(), "")),
        "byte" => {
            use base64::Engine;
            base64::engine::general_purpose::STANDARD.decode(text).is_ok()
        }
        other => pattern(other, text),
    }
}

fn pattern(format: &str, text: &str) -> bool {
    static COMPILED: OnceLock<Vec<(&str, Option<Regex>)>> = OnceLock::new();
    let compiled = COMPILED
        .get_or_init(|| PATTERNS.iter().map(|(name, pattern)| (*name, Regex::new(pattern).ok())).collect());
    let known = compiled.iter().find(|(name, _)| *name == format);
    known.is_none_or(|(_, pattern)| pattern.as_ref().is_some_and(|pattern| pattern.is_match(text)))
}

fn is_cidr(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else { return false };
    match (address.parse::<std::net::IpAddr>(), bits.parse::<u8>()) {
        (Ok(address), Ok(bits)) => bits <= if address.is_ipv4() { 32 } else { 128 },
        _ => false,
    }
}

/// Absolute, or a path from the root.
fn is_uri(text: &str) -> bool {
    let clean = !text.is_empty() && !text.chars().any(|c| c.is_control() || c == ' ');
    let scheme = text.split_once(':').is_some_and(|(scheme, rest)| {
        !rest.is_empty()
            && scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
    });
    clean && (scheme || text.starts_with('/'))
}

/// A book's number with its check digit.
fn is_isbn(text: &str, length: usize) -> bool {
    let digits: Vec<char> = text.chars().filter(|c| !matches!(c, '-' | ' ')).collect();
    if digits.len() != length {
        return false;
    }
    let value = |(index, c): (usize, &char)| match c {
        'X' if length == 10 && index == 9 => Some(10),
        c => c.to_digit(10),
    };
    let Some(values) = digits.iter().enumerate().map(value).collect::<Option<Vec<u32>>>() else {
        return false;
    };
    let weight = |index: usize| if length == 10 { 10 - index as u32 } else { 1 + 2 * (index as u32 % 2) };
    let sum: u32 = values.iter().enumerate().map(|(index, value)| value * weight(index)).sum();
    sum.is_multiple_of(if length == 10 { 11 } else { 10 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_tell_right_from_wrong() {
        for (format, right, wrong) in [
            ("uuid4", "3fa85f64-5717-4562-b3fc-2c963f66afa6", "3fa85f64-5717-1562-b3fc-2c963f66afa6"),
            ("isbn", "978-0-321-75104-1", "978-0-321-75104-2"),
            ("isbn10", "0321751043", "0321751044"),
            ("email", "a@b.example", "a.b"),
            ("hostname", "a.example", "a b"),
            ("uri", "https://a/b", "a b"),
            ("mac", "00:1b:44:11:3a:b7", "00:1b:44"),
            ("duration", "1h 5m", "5 lightyears"),
            ("duration", "1 day", "1 dy"),
            ("duration", "1.5h", "h"),
            ("cidr", "10.0.0.0/8", "10.0.0.0/33"),
            ("hexcolor", "#fff", "#ffff"),
            ("rgbcolor", "rgb(1, 2, 255)", "rgb(1, 2, 256)"),
            ("creditcard", "4111 1111 1111 1111", "1234"),
            ("ssn", "111-22-3333", "1"),
            ("date", "2024-02-29", "2023-02-29"),
            ("k8s-short-name", "a-b", "a.b"),
            ("byte", "YQ==", "%"),
        ] {
            assert!(has_format(format, right), "{format} {right}");
            assert!(!has_format(format, wrong), "{format} {wrong}");
        }
        assert!(has_format("unheard-of", "x"));
        assert!(
            is_format_of("", "date-time")
                && is_format_of("string", "ipv4")
                && is_format_of("integer", "int32")
        );
        assert!(
            !is_format_of("string", "int32") && !is_format_of("object", "date") && !is_format_of("", "odd")
        );
        assert!(PATTERNS.iter().all(|(_, pattern)| Regex::new(pattern).is_ok()));
    }
}
