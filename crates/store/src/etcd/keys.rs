//! Where our keys lie in etcd: all below one prefix.

use bytes::Bytes;

use crate::prefix_end;

/// The prefix of one store within an etcd.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    prefix: Bytes,
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: Bytes::copy_from_slice(prefix.as_bytes()) }
    }

    /// Our key in etcd.
    pub(super) fn outside(&self, key: &[u8]) -> Vec<u8> {
        [&self.prefix[..], key].concat()
    }

    /// An etcd key as ours; `None` if it is not.
    pub(super) fn inside(&self, key: Vec<u8>) -> Option<Bytes> {
        key.starts_with(&self.prefix).then(|| Bytes::from(key).slice(self.prefix.len()..))
    }

    /// Bounds of a range in etcd. Our keys do not begin with a zero byte, so the heartbeat is never in it.
    pub(super) fn range(&self, start: &[u8], end: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let start = if start.first().is_none_or(|b| *b == 0) { &[1][..] } else { start };
        (self.outside(start), if end.is_empty() { self.end() } else { self.outside(end) })
    }

    /// Bounds of everything that is ours, with the heartbeat.
    pub(super) fn all(&self) -> (Vec<u8>, Vec<u8>) {
        (self.outside(&[0]), self.end())
    }

    /// The key that is written to learn how far the watch has come.
    pub(super) fn heartbeat(&self) -> Vec<u8> {
        self.outside(b"\0heartbeat")
    }

    fn end(&self) -> Vec<u8> {
        let end = prefix_end(&self.prefix);
        // In etcd a zero byte as the end stands for the end of the key space.
        if end.is_empty() { vec![0] } else { end.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_go_in_and_out() {
        let keys = Keys::new("/y");
        assert_eq!(keys.outside(b"/a"), b"/y/a");
        assert_eq!(keys.inside(b"/y/a".to_vec()), Some("/a".into()));
        assert_eq!(keys.inside(b"/x/a".to_vec()), None);
        assert_eq!(keys.range(b"", b""), (b"/y\x01".to_vec(), b"/z".to_vec()));
        let (all, user) = (keys.all(), keys.range(b"", b""));
        let beat = keys.heartbeat();
        assert!(all.0 <= beat && beat < all.1 && beat < user.0);
        assert_eq!(Keys::new("").all(), (vec![0], vec![0]));
    }
}
