//! The few forms of DER (X.690) that a certificate is written in.

use time::OffsetDateTime;

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const OBJECT_IDENTIFIER: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;

/// An element with any tag: the parts one after the other are its content.
pub(super) fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut out = vec![tag];
    match u8::try_from(length) {
        Ok(short @ 0..=0x7f) => out.push(short),
        _ => {
            let bytes = length.to_be_bytes();
            let digits = &bytes[(length.leading_zeros() / 8) as usize..];
            // No length has more than the eight bytes of a usize.
            out.push(0x80 | digits.len() as u8);
            out.extend_from_slice(digits);
        }
    }
    for part in parts {
        out.extend_from_slice(part);
    }
    out
}

pub(super) fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    element(SEQUENCE, parts)
}

/// An object identifier, given as its content.
pub(super) fn identifier(content: &[u8]) -> Vec<u8> {
    element(OBJECT_IDENTIFIER, &[content])
}

/// A number, given as big-endian bytes of which the first bit is not set.
pub(super) fn positive(bytes: &[u8]) -> Vec<u8> {
    element(INTEGER, &[bytes])
}

pub(super) fn octets(content: &[u8]) -> Vec<u8> {
    element(OCTET_STRING, &[content])
}

/// Whole bytes as a string of bits.
pub(super) fn bits(content: &[u8]) -> Vec<u8> {
    element(BIT_STRING, &[&[0], content])
}

/// Named bits, of which bit 0 is the first: what is not set at the end is left out, as DER wants it.
pub(super) fn named_bits(set: u16) -> Vec<u8> {
    let reversed = set.reverse_bits().to_be_bytes();
    let used = 16 - set.leading_zeros() as usize;
    let bytes = &reversed[..used.div_ceil(8)];
    let unused = (bytes.len() * 8 - used) as u8;
    element(BIT_STRING, &[&[unused], bytes])
}

/// A time in UTC: with two digits of the year up to 2049, with four from then on (RFC 5280, 4.1.2.5).
pub(super) fn time(at: OffsetDateTime) -> Vec<u8> {
    let at = at.to_offset(time::UtcOffset::UTC);
    let rest = format!(
        "{:02}{:02}{:02}{:02}{:02}Z",
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second()
    );
    if (1950..2050).contains(&at.year()) {
        return element(UTC_TIME, &[format!("{:02}", at.year() % 100).as_bytes(), rest.as_bytes()]);
    }
    element(GENERALIZED_TIME, &[format!("{:04}", at.year()).as_bytes(), rest.as_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_take_as_many_bytes_as_they_need() {
        assert_eq!(octets(&[7; 3]), [4, 3, 7, 7, 7]);
        assert_eq!(octets(&[7; 127])[..3], [4, 127, 7]);
        assert_eq!(octets(&[7; 128])[..4], [4, 0x81, 128, 7]);
        assert_eq!(octets(&[7; 0x102])[..5], [4, 0x82, 1, 2, 7]);
    }

    #[test]
    fn bits_that_are_not_set_at_the_end_are_left_out() {
        assert_eq!(named_bits(0b1), [3, 2, 7, 0b1000_0000]);
        assert_eq!(named_bits(0b101), [3, 2, 5, 0b1010_0000]);
        assert_eq!(named_bits(0b1_0000_0001), [3, 3, 7, 0b1000_0000, 0b1000_0000]);
    }

    #[test]
    fn times_have_four_digits_of_the_year_from_2050_on() {
        let at = |seconds| OffsetDateTime::from_unix_timestamp(seconds).unwrap();
        assert_eq!(time(at(0)), [&[0x17, 13][..], b"700101000000Z"].concat());
        assert_eq!(time(at(2_524_608_000)), [&[0x18, 15][..], b"20500101000000Z"].concat());
    }
}
