//! PEM: what is wrong with texts that should hold a certificate, its key, or a request for one, worded as Go words it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// A block: its label, and what is in it.
pub(super) struct Block {
    pub(super) label: String,
    pub(super) bytes: Vec<u8>,
    /// Whether there are headers before what is in it.
    pub(super) headers: bool,
}

/// The blocks of a text. What is none is passed over: each part of the text is looked at once, since no block holds what
/// another one begins or ends with.
pub(super) fn blocks(text: &[u8]) -> Vec<Block> {
    let text = String::from_utf8_lossy(text);
    let (mut rest, mut found) = (text.as_ref(), Vec::new());
    while let Some((label, after)) =
        rest.split_once("-----BEGIN ").and_then(|(_, rest)| rest.split_once("-----"))
    {
        let (body, end) = after.split_at(after.find("-----").unwrap_or(after.len()));
        rest = end;
        let Some(after) = end.strip_prefix(&format!("-----END {label}-----")) else { continue };
        // Headers end with an empty line.
        let body = body.trim_start();
        let (headers, body) = match body.split_once("\n\n") {
            Some((headers, body)) if headers.contains(':') => (true, body),
            _ => (false, body),
        };
        let plain: String = body.split_whitespace().collect();
        if let Ok(bytes) = STANDARD.decode(plain) {
            found.push(Block { label: label.to_owned(), bytes, headers });
        }
        rest = after;
    }
    found
}

/// What is plainly wrong with a certificate and its key: a block that is not there.
pub(super) fn wrong_pair(certificate: &[u8], key: &[u8]) -> Option<String> {
    let lacks = |text: &[u8], input: &str, wanted: &str, is_one: &dyn Fn(&str) -> bool| {
        let labels: Vec<String> = blocks(text).into_iter().map(|block| block.label).collect();
        match labels.as_slice() {
            [] => Some(format!("tls: failed to find any PEM data in {input} input")),
            labels if labels.iter().any(|label| is_one(label)) => None,
            labels => {
                let types = labels.join(" ");
                Some(format!(
                    "tls: failed to find {wanted} in {input} input after skipping PEM blocks of the following types: [{types}]"
                ))
            }
        }
    };
    let of_certificate = |label: &str| label == "CERTIFICATE";
    let of_key = |label: &str| label == "PRIVATE KEY" || label.ends_with(" PRIVATE KEY");
    lacks(certificate, "certificate", "\"CERTIFICATE\" PEM block", &of_certificate)
        .or_else(|| lacks(key, "key", "PEM block with type ending in \"PRIVATE KEY\"", &of_key))
}

/// What is wrong with the outline of a DER sequence: it and what is right in it must be there to its end.
pub(super) fn wrong_sequence(bytes: &[u8]) -> Option<&'static str> {
    const CUT: &str = "asn1: syntax error: data truncated";
    let Some((inner, behind)) = element(bytes) else { return Some(CUT) };
    if !behind.is_empty() {
        return Some("asn1: syntax error: trailing data");
    }
    let mut rest = inner;
    while !rest.is_empty() {
        match element(rest) {
            Some((_, behind)) => rest = behind,
            None => return Some(CUT),
        }
    }
    None
}

/// Whether a certificate (RFC 5280, DER) is one of an authority; none where its outline is not that of a certificate.
pub(super) fn is_authority(certificate: &[u8]) -> Option<bool> {
    const SEQUENCE: u8 = 0x30;
    const EXTENSIONS: u8 = 0xa3;
    /// The identifier of the basic constraints, 2.5.29.19.
    const CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
    let [(SEQUENCE, certificate)] = elements(certificate)?[..] else { return None };
    let [(SEQUENCE, told), (SEQUENCE, _), (0x03, _)] = elements(certificate)?[..] else { return None };
    let told = elements(told)?;
    // Serial number, algorithm, issuer, validity, subject and key; a version may be before them.
    let tags: Vec<u8> = told.iter().map(|(tag, _)| *tag).skip_while(|tag| *tag == 0xa0).collect();
    if !tags.starts_with(&[0x02, SEQUENCE, SEQUENCE, SEQUENCE, SEQUENCE, SEQUENCE]) {
        return None;
    }
    let Some((_, extensions)) = told.iter().find(|(tag, _)| *tag == EXTENSIONS) else { return Some(false) };
    let [(SEQUENCE, extensions)] = elements(extensions)?[..] else { return None };
    for (_, extension) in elements(extensions)? {
        let parts = elements(extension)?;
        if let (Some((0x06, CONSTRAINTS)), Some((0x04, value))) = (parts.first(), parts.last()) {
            let [(SEQUENCE, constraints)] = elements(value)?[..] else { return None };
            let first = elements(constraints)?.first().copied();
            return Some(first.is_some_and(|(tag, value)| tag == 0x01 && value == [0xff]));
        }
    }
    Some(false)
}

/// The elements that stand one after another in these bytes: their tags, and what is in them.
fn elements(bytes: &[u8]) -> Option<Vec<(u8, &[u8])>> {
    let (mut rest, mut found) = (bytes, Vec::new());
    while let Some(tag) = rest.first() {
        let (inner, behind) = element(rest)?;
        found.push((*tag, inner));
        rest = behind;
    }
    Some(found)
}

/// What is in the first element, and what is behind it; none where it ends too early.
fn element(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (first, rest) = bytes.get(1..)?.split_first()?;
    let (length, rest) = match first {
        short @ 0..0x80 => (usize::from(*short), rest),
        long => {
            let count = usize::from(long & 0x7f);
            let (digits, rest) = rest.split_at_checked(count).filter(|_| count <= 4)?;
            (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
        }
    };
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_of_a_pair_is_told() {
        let block = |label: &str| format!("-----BEGIN {label}-----\nYQ==\n-----END {label}-----\n");
        let wrong = |certificate: &str, key: &str| {
            wrong_pair(certificate.as_bytes(), key.as_bytes()).unwrap_or_default()
        };
        let (certificate, key) = (block("CERTIFICATE"), block("EC PRIVATE KEY"));
        assert_eq!(wrong(&certificate, &key), "");
        // What does not end is passed over, up to what begins next.
        assert_eq!(wrong(&format!("-----BEGIN A-----\nYQ==\n{certificate}"), &key), "");
        assert_eq!(wrong("x", &key), "tls: failed to find any PEM data in certificate input");
        assert_eq!(wrong(&certificate, ""), "tls: failed to find any PEM data in key input");
        assert_eq!(
            wrong(&key, &key),
            "tls: failed to find \"CERTIFICATE\" PEM block in certificate input after skipping PEM blocks of the following types: [EC PRIVATE KEY]"
        );
    }

    #[test]
    fn a_sequence_ends_where_it_says() {
        assert_eq!(wrong_sequence(&[0x30, 3, 2, 1, 5]), None);
        assert_eq!(wrong_sequence(&[0x30, 0x81, 3, 2, 1, 5]), None);
        assert_eq!(wrong_sequence(&[0x30, 3, 2, 1, 5, 0]), Some("asn1: syntax error: trailing data"));
        for cut in [&[][..], &[0x30], &[0x30, 3, 2, 1], &[0x30, 3, 2, 2, 5], &[0x30, 0x85, 1, 1, 1, 1, 1]] {
            assert_eq!(wrong_sequence(cut), Some("asn1: syntax error: data truncated"), "{cut:?}");
        }
    }
}
