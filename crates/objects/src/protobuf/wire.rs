//! The bytes of a protobuf message, field by field. Nothing that is read is copied.

use super::fault::Fault;

/// The value of a field as it is on the wire.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Raw<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32,
}

impl<'a> Raw<'a> {
    /// The bytes of a text, of a message or of packed numbers.
    pub(super) fn bytes(self) -> Result<&'a [u8], Fault> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            other => Err(other.unexpected("bytes")),
        }
    }

    /// A text, which must be UTF-8.
    pub(super) fn text(self) -> Result<&'a str, Fault> {
        std::str::from_utf8(self.bytes()?).map_err(|error| Fault::new(format!("no valid UTF-8: {error}")))
    }

    /// A whole number or a truth value; negative numbers are in two's complement.
    pub(super) fn varint(self) -> Result<u64, Fault> {
        match self {
            Self::Varint(number) => Ok(number),
            other => Err(other.unexpected("a varint")),
        }
    }

    /// A floating point number.
    pub(super) fn double(self) -> Result<f64, Fault> {
        match self {
            Self::Fixed64(bits) => Ok(f64::from_bits(bits)),
            other => Err(other.unexpected("8 bytes")),
        }
    }

    fn unexpected(self, wanted: &str) -> Fault {
        let given = match self {
            Self::Varint(_) => "a varint",
            Self::Fixed64(_) => "8 bytes",
            Self::Bytes(_) => "bytes",
            Self::Fixed32 => "4 bytes",
        };
        Fault::new(format!("wrong wire type: {given} in place of {wanted}"))
    }
}

/// Reads the fields of one message in the order of the wire.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The next field with its number; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<(u32, Raw<'a>)>, Fault> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        // 29 bits, as protobuf has it.
        let number = u32::try_from(tag >> 3).ok().filter(|number| (1..1 << 29).contains(number));
        let Some(number) = number else {
            return Err(Fault::new(format!("illegal field number {}", tag >> 3)));
        };
        let raw = match tag & 7 {
            0 => Raw::Varint(self.varint()?),
            1 => Raw::Fixed64(self.fixed64()?),
            2 => {
                let length = self.varint()?;
                Raw::Bytes(self.take(usize::try_from(length).unwrap_or(usize::MAX))?)
            }
            5 => {
                self.take(4)?;
                Raw::Fixed32
            }
            other => return Err(Fault::new(format!("unsupported wire type {other} of field {number}"))),
        };
        Ok(Some((number, raw)))
    }

    /// The next number of a packed list; `None` at the end.
    pub(super) fn packed(&mut self, double: bool) -> Result<Option<Raw<'a>>, Fault> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        Ok(Some(if double { Raw::Fixed64(self.fixed64()?) } else { Raw::Varint(self.varint()?) }))
    }

    fn varint(&mut self) -> Result<u64, Fault> {
        let mut number = 0_u64;
        for at in 0..10 {
            let &[byte] = self.take(1)? else { break };
            // Of the tenth byte only the lowest bit has room.
            if at == 9 && byte > 1 {
                break;
            }
            number |= u64::from(byte & 0x7f) << (7 * at);
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(Fault::new("a varint of more than 64 bits"))
    }

    fn fixed64(&mut self) -> Result<u64, Fault> {
        let bytes = self.take(8)?;
        Ok(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Fault> {
        let Some((taken, rest)) = self.rest.split_at_checked(length) else {
            let left = self.rest.len();
            return Err(Fault::new(format!("it ends too early: {length} bytes wanted, {left} left")));
        };
        self.rest = rest;
        Ok(taken)
    }
}

/// Writes the fields of messages, one behind the other.
#[derive(Debug, Default)]
pub struct Writer {
    out: Vec<u8>,
}

impl Writer {
    /// What was written.
    pub fn into_bytes(self) -> Vec<u8> {
        self.out
    }

    /// Bytes as they are, without a field around them.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// A whole number or a truth value; negative numbers in two's complement.
    pub fn number(&mut self, field: u32, number: u64) {
        self.varint(u64::from(field) << 3);
        self.varint(number);
    }

    /// A floating point number.
    pub fn double(&mut self, field: u32, number: f64) {
        self.varint(u64::from(field) << 3 | 1);
        self.raw(&number.to_le_bytes());
    }

    /// A text, bytes, or a message that is there already.
    pub fn bytes(&mut self, field: u32, bytes: &[u8]) {
        self.head(field, bytes.len());
        self.raw(bytes);
    }

    /// What stands before so many bytes of a field.
    pub fn head(&mut self, field: u32, length: usize) {
        self.varint(u64::from(field) << 3 | 2);
        self.varint(length as u64);
    }

    /// A message, which `write` writes.
    pub fn message<E>(
        &mut self,
        field: u32,
        write: impl FnOnce(&mut Self) -> Result<(), E>,
    ) -> Result<(), E> {
        // Most messages are short: room for one byte of length is made, and more only where it is needed.
        self.head(field, 0);
        let start = self.out.len();
        write(self)?;
        let length = self.out.len() - start;
        if let Ok(short @ 0..0x80) = u8::try_from(length) {
            self.out[start - 1] = short;
        } else {
            let mut head = Self::default();
            head.varint(length as u64);
            self.out.splice(start - 1..start, head.out);
        }
        Ok(())
    }

    fn varint(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.out.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.out.push(number as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(bytes: &[u8]) -> Result<Option<(u32, Raw<'_>)>, String> {
        Reader::new(bytes).next().map_err(|fault| fault.to_string())
    }

    #[test]
    fn each_wire_type_is_read() {
        assert_eq!(one(&[]), Ok(None));
        assert_eq!(one(&[0x08, 0x96, 0x01]), Ok(Some((1, Raw::Varint(150)))));
        assert_eq!(one(&[0x12, 2, b'h', b'i']), Ok(Some((2, Raw::Bytes(b"hi")))));
        assert_eq!(one(&[0x09, 1, 0, 0, 0, 0, 0, 0, 0x80]), Ok(Some((1, Raw::Fixed64(1 << 63 | 1)))));
        assert_eq!(one(&[0x0d, 0, 0, 0, 0]), Ok(Some((1, Raw::Fixed32))));
        let minus_one = [0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        assert_eq!(one(&minus_one), Ok(Some((1, Raw::Varint(u64::MAX)))));
    }

    #[test]
    fn broken_bytes_are_faults() {
        let broken: [&[u8]; 8] = [
            &[0x08],                                                             // no value
            &[0x12, 5, b'h'],                                                    // less than it says
            &[0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], // much less
            &[0x09, 1],                                                          // half a number
            &[0x0b],                                                             // a group
            &[0x00, 0x00],                                                       // field 0
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 0x00],                         // a number that is too high
            &[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02],
        ];
        for bytes in broken {
            assert!(one(bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let mut writer = Writer::default();
        writer.number(1, u64::MAX);
        writer.double(2, 0.5);
        let long = vec![7; 300];
        let written: Result<(), ()> = writer.message(300, |inner| {
            inner.bytes(3, &long);
            inner.message(4, |_| Ok(()))
        });
        assert_eq!(written, Ok(()));
        let bytes = writer.into_bytes();
        let mut reader = Reader::new(&bytes);
        let mut next = || reader.next().expect("well-formed").expect("a field");
        assert_eq!(next(), (1, Raw::Varint(u64::MAX)));
        assert_eq!(next(), (2, Raw::Fixed64(0.5_f64.to_bits())));
        let (300, Raw::Bytes(inner)) = next() else { panic!("no message") };
        let mut reader = Reader::new(inner);
        assert_eq!(reader.next().expect("well-formed"), Some((3, Raw::Bytes(&long))));
        assert_eq!(reader.next().expect("well-formed"), Some((4, Raw::Bytes(&[]))));
        assert_eq!(reader.next().expect("well-formed"), None);
    }
}
