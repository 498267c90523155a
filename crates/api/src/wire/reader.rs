//! The wire format of protobuf: tags, varints, lengths.

/// Why bytes are no message, with the place in the innermost message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    #[error("it ends in the middle of a value")]
    Truncated,
    #[error("a number is longer than 64 bits")]
    TooLong,
    #[error("wire type {0} is not known")]
    WireType(u8),
    #[error("field {0} has the wrong wire type")]
    Mismatch(u32),
    #[error("a text is no UTF-8")]
    Utf8,
    #[error("it nests deeper than {0} levels")]
    Depth(usize),
    #[error("a part that should be JSON is not")]
    Json,
    #[error("the envelope names no kind")]
    Envelope,
}

/// One value as it is on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Raw<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
}

/// Reads the fields of one message.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Result<u64, Fault> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first().ok_or(Fault::Truncated)?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Fault::TooLong)
    }

    fn take(&mut self, count: u64) -> Result<&'a [u8], Fault> {
        let count = usize::try_from(count).map_err(|_| Fault::Truncated)?;
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Fault::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    fn value(&mut self) -> Result<(u32, Raw<'a>), Fault> {
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).map_err(|_| Fault::TooLong)?;
        let raw = match (tag & 7) as u8 {
            0 => Raw::Varint(self.varint()?),
            1 => {
                let bytes = self.take(8)?;
                Raw::Fixed64(bytes.iter().rev().fold(0, |sum, byte| (sum << 8) | u64::from(*byte)))
            }
            2 => {
                let length = self.varint()?;
                Raw::Bytes(self.take(length)?)
            }
            5 => {
                let bytes = self.take(4)?;
                Raw::Fixed32(bytes.iter().rev().fold(0, |sum, byte| (sum << 8) | u32::from(*byte)))
            }
            other => return Err(Fault::WireType(other)),
        };
        Ok((number, raw))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Raw<'a>), Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let item = self.value();
        if item.is_err() {
            // Nothing behind a fault means anything.
            self.0 = &[];
        }
        Some(item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_and_faults_end_it() {
        let bytes = [0x08, 0x96, 0x01, 0x12, 0x02, b'h', b'i'];
        let all: Vec<_> = Fields(&bytes).collect();
        assert_eq!(all, [Ok((1, Raw::Varint(150))), Ok((2, Raw::Bytes(b"hi")))]);
        assert_eq!(Fields(&[0x12, 0x05, b'h']).last(), Some(Err(Fault::Truncated)));
        assert_eq!(Fields(&[0x0b]).last(), Some(Err(Fault::WireType(3))));
        assert_eq!(
            Fields(&[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]).last(),
            Some(Err(Fault::TooLong))
        );
    }
}
