//! The bytes on disk, format 1. All integers are big-endian.
//!
//! * keyspace `log`: key = [`Position`] (10 bytes), value = [`Entry`]. One entry per changed key of a transaction; those
//!   of one transaction share the revision.
//! * keyspace `base`: the state at the compacted revision: key = the user's key, value = position, then entry.
//! * keyspace `meta`: `compacted` = the compacted revision (8 bytes).

use bytes::{BufMut, Bytes, BytesMut};

use crate::{KeyValue, Revision};

const PUT: u8 = 1;
const DELETE: u8 = 2;
/// kind, create revision, version, position of the previous entry, length of the key.
const HEADER: usize = 1 + 8 + 8 + Position::LEN + 4;

/// Where an entry lies in the log: its revision and its number within the transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    pub(super) revision: Revision,
    pub(super) sub: u16,
}

impl Position {
    pub(super) const LEN: usize = 10;

    pub(super) fn encode(self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        out[..8].copy_from_slice(&self.revision.to_be_bytes());
        out[8..].copy_from_slice(&self.sub.to_be_bytes());
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let bytes: &[u8; Self::LEN] = bytes
            .try_into()
            .map_err(|_| format!("a log key has {} bytes instead of {}", bytes.len(), Self::LEN))?;
        let [a, b, c, d, e, f, g, h, i, j] = *bytes;
        Ok(Self { revision: u64::from_be_bytes([a, b, c, d, e, f, g, h]), sub: u16::from_be_bytes([i, j]) })
    }
}

/// What happened to one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) put: bool,
    /// 0 for a delete.
    pub(super) create_revision: Revision,
    /// 0 for a delete.
    pub(super) version: u64,
    /// The entry that it replaces, if the key was there.
    pub(super) prev: Option<Position>,
    pub(super) key: Bytes,
    pub(super) value: Bytes,
}

impl Entry {
    /// One buffer with a copy of everything. [`Entry::decode`] of it shares the buffer, so that memory holds a key and
    /// its value once, and never a slice of some larger request.
    pub(super) fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(HEADER + self.key.len() + self.value.len());
        out.put_u8(if self.put { PUT } else { DELETE });
        out.put_u64(self.create_revision);
        out.put_u64(self.version);
        let prev = self.prev.unwrap_or(Position { revision: 0, sub: 0 });
        out.put_slice(&prev.encode());
        // A key is limited by the size of a transaction, far below 4 GiB.
        out.put_u32(self.key.len() as u32);
        out.put_slice(&self.key);
        out.put_slice(&self.value);
        out.freeze()
    }

    /// Takes an entry apart without copying.
    pub(super) fn decode(bytes: &Bytes) -> Result<Self, String> {
        let short = || format!("an entry of {} bytes is cut short", bytes.len());
        let header = bytes.get(..HEADER).ok_or_else(short)?;
        let int =
            |at: usize| u64::from_be_bytes(header[at..at + 8].try_into().expect("eight bytes of the header"));
        let prev = Position::decode(&header[17..17 + Position::LEN])?;
        let key_len =
            u32::from_be_bytes(header[27..31].try_into().expect("four bytes of the header")) as usize;
        let put = match header[0] {
            PUT => true,
            DELETE => false,
            other => return Err(format!("an entry has the unknown kind {other}")),
        };
        if bytes.len() < HEADER + key_len {
            return Err(short());
        }
        Ok(Self {
            put,
            create_revision: int(1),
            version: int(9),
            prev: (prev.revision != 0).then_some(prev),
            key: bytes.slice(HEADER..HEADER + key_len),
            value: bytes.slice(HEADER + key_len..),
        })
    }

    /// The state that a put leaves.
    pub(super) fn into_kv(self, mod_revision: Revision) -> KeyValue {
        KeyValue {
            key: self.key,
            value: self.value,
            create_revision: self.create_revision,
            mod_revision,
            version: self.version,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_survive_and_share_one_buffer() {
        let entry = Entry {
            put: true,
            create_revision: 7,
            version: 3,
            prev: Some(Position { revision: 9, sub: 2 }),
            key: "/a".into(),
            value: "v".into(),
        };
        let bytes = entry.encode();
        assert_eq!(Entry::decode(&bytes), Ok(entry));
    }

    #[test]
    fn damage_is_told_and_does_not_panic() {
        let good = Entry {
            put: false,
            create_revision: 0,
            version: 0,
            prev: None,
            key: "/abc".into(),
            value: Bytes::new(),
        }
        .encode();
        for cut in 0..good.len() {
            assert!(Entry::decode(&good.slice(..cut)).is_err(), "cut at {cut}");
        }
        let mut bad = good.to_vec();
        bad[0] = 9;
        assert!(Entry::decode(&bad.into()).unwrap_err().contains("kind 9"));
    }

    #[test]
    fn log_keys_sort_by_revision_then_number() {
        let at = |revision, sub| Position { revision, sub }.encode();
        assert!(at(1, 9) < at(2, 0) && at(255, 0) < at(256, 0) && at(2, 255) < at(2, 256));
        assert_eq!(Position::decode(&at(3, 4)), Ok(Position { revision: 3, sub: 4 }));
        assert!(Position::decode(b"short").is_err());
    }
}
