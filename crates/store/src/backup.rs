//! Backup and restore of all keys, on any engine, while it is in use.
//!
//! The file: `YUNFANBK`, a version (u32) and the revision (u64); then each key with its value, ascending, each of the two
//! behind its length (u32); then a length of zero, the number of keys (u64) and the SHA-256 of all before it. Numbers are
//! big-endian.

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncSeek, AsyncSeekExt, AsyncWrite, AsyncWriteExt};

use crate::limits::{MAX_TXN_BYTES, OP_OVERHEAD};
use crate::{Compare, Op, RangeRequest, Revision, Store, StoreError, Txn, key_after};

const MAGIC: &[u8; 8] = b"YUNFANBK";
const VERSION: u32 = 1;
/// Keys per page while reading.
const PAGE: usize = 500;
/// Operations per transaction while restoring; fewer than the limit, so that other writers get their turn.
const BATCH_OPS: usize = 100;
/// Longest key or value in a file: neither fits into a transaction beyond it.
const MAX_PART: usize = MAX_TXN_BYTES;

/// Why a backup could not be written or restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The file could not be read or written.
    #[error("the backup could not be read or written: {0}")]
    Io(#[from] std::io::Error),
    /// The file is no whole backup. Nothing was changed.
    #[error("this is no whole backup of Yunfan: {0}; nothing was changed")]
    Damaged(String),
    /// The file was written by a newer version. Nothing was changed.
    #[error(
        "the backup has version {found}, and this program knows versions up to {VERSION}: use a newer one; nothing was changed"
    )]
    Newer {
        /// Its version.
        found: u32,
    },
}

/// What was written or restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Keys in the backup.
    pub keys: u64,
    /// The revision whose state it holds.
    pub revision: Revision,
    /// Keys that a restore wrote or deleted; 0 for a backup.
    pub changed: u64,
}

/// Writes all keys as they are at one revision, with values as they are kept: what is sealed stays so.
///
/// # Errors
/// [`BackupError::Store`] when the store can't be read (or compacts the revision away meanwhile: try again), [`BackupError::Io`].
pub async fn export<W>(store: &dyn Store, out: &mut W) -> Result<Summary, BackupError>
where
    W: AsyncWrite + Unpin + Send,
{
    let store = kept(store);
    let revision = store.revision().await?;
    let mut out = Hashing { out, hash: Sha256::new() };
    out.put(MAGIC).await?;
    out.put(&VERSION.to_be_bytes()).await?;
    out.put(&revision.to_be_bytes()).await?;
    let mut keys = 0_u64;
    let mut pages = Pages::new(store, Some(revision));
    while let Some((key, value)) = pages.next().await? {
        keys += 1;
        for part in [&key, &value] {
            // Both are within the store's own limits, which are below 4 GiB.
            out.put(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes()).await?;
            out.put(part).await?;
        }
    }
    out.put(&0_u32.to_be_bytes()).await?;
    out.put(&keys.to_be_bytes()).await?;
    let digest = out.hash.finalize();
    out.out.write_all(&digest).await?;
    out.out.flush().await?;
    Ok(Summary { keys, revision, changed: 0 })
}

/// Makes the store's keys equal to a backup's, by ordinary transactions: watchers see them, and other writers go on.
/// The file is read twice, and all of it is checked before anything is changed.
///
/// # Errors
/// [`BackupError::Damaged`] and [`BackupError::Newer`] before anything was changed; [`BackupError::Store`] when a transaction
/// fails half-way: restore again then.
pub async fn import<R>(store: &dyn Store, file: &mut R) -> Result<Summary, BackupError>
where
    R: AsyncRead + AsyncSeek + Unpin + Send,
{
    let store = kept(store);
    let mut check = Reader::open(file).await?;
    while check.next().await?.is_some() {}
    let (keys, revision) = (check.keys, check.revision);
    file.rewind().await?;
    let mut backup = Reader::open(file).await?;
    let mut live = Pages::new(store, None);
    let mut batch = Batch { store, ops: Vec::new(), bytes: 0, changed: 0 };
    let (mut wanted, mut present) = (backup.next().await?, live.next().await?);
    // Both are ascending: one pass over both finds what differs.
    loop {
        match (wanted.take(), present.take()) {
            (None, None) => break,
            (Some((key, value)), Some(there)) if key == there.0 => {
                if value != there.1 {
                    batch.push(Op::Put { key, value }).await?;
                }
                (wanted, present) = (backup.next().await?, live.next().await?);
            }
            (Some(entry), Some(there)) if entry.0 > there.0 => {
                batch.push(Op::Delete { key: there.0 }).await?;
                (wanted, present) = (Some(entry), live.next().await?);
            }
            (Some((key, value)), there) => {
                batch.push(Op::Put { key, value }).await?;
                (wanted, present) = (backup.next().await?, there);
            }
            (None, Some(there)) => {
                batch.push(Op::Delete { key: there.0 }).await?;
                present = live.next().await?;
            }
        }
    }
    batch.commit().await?;
    Ok(Summary { keys, revision, changed: batch.changed })
}

/// The store whose values are as they are kept.
fn kept(store: &dyn Store) -> &dyn Store {
    store.sealed().map_or(store, |sealed| &**sealed.engine())
}

/// Writes, and hashes what it writes.
struct Hashing<'a, W> {
    out: &'a mut W,
    hash: Sha256,
}

impl<W: AsyncWrite + Unpin> Hashing<'_, W> {
    async fn put(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.hash.update(bytes);
        self.out.write_all(bytes).await
    }
}

/// The keys of a store, page by page: at one revision, or each page as it is when it is read.
struct Pages<'a> {
    store: &'a dyn Store,
    revision: Option<Revision>,
    start: Option<Bytes>,
    page: std::vec::IntoIter<(Bytes, Bytes)>,
}

impl<'a> Pages<'a> {
    fn new(store: &'a dyn Store, revision: Option<Revision>) -> Self {
        Self { store, revision, start: Some(Bytes::from_static(&[1])), page: Vec::new().into_iter() }
    }

    async fn next(&mut self) -> Result<Option<(Bytes, Bytes)>, StoreError> {
        loop {
            if let Some(entry) = self.page.next() {
                return Ok(Some(entry));
            }
            let Some(start) = self.start.take() else { return Ok(None) };
            let request = RangeRequest { start, end: Bytes::new(), limit: PAGE, revision: self.revision };
            let answer = self.store.range(request).await?;
            if answer.more {
                self.start = answer.kvs.last().map(|last| key_after(&last.key));
            }
            let entries: Vec<_> = answer.kvs.into_iter().map(|kv| (kv.key, kv.value)).collect();
            self.page = entries.into_iter();
        }
    }
}

/// Reads a file entry by entry; the end is reached only when the number of keys and the hash are right.
struct Reader<'a, R> {
    file: tokio::io::BufReader<&'a mut R>,
    hash: Sha256,
    revision: Revision,
    keys: u64,
    last: Bytes,
}

impl<'a, R: AsyncRead + Unpin + Send> Reader<'a, R> {
    async fn open(file: &'a mut R) -> Result<Self, BackupError> {
        let file = tokio::io::BufReader::with_capacity(256 * 1024, file);
        let mut reader = Self { file, hash: Sha256::new(), revision: 0, keys: 0, last: Bytes::new() };
        let magic: [u8; 8] = reader.take().await?;
        if &magic != MAGIC {
            return Err(BackupError::Damaged("it does not begin as one".to_owned()));
        }
        let version = u32::from_be_bytes(reader.take().await?);
        if version > VERSION {
            return Err(BackupError::Newer { found: version });
        }
        reader.revision = u64::from_be_bytes(reader.take().await?);
        Ok(reader)
    }

    async fn take<const N: usize>(&mut self) -> Result<[u8; N], BackupError> {
        let mut bytes = [0; N];
        self.file.read_exact(&mut bytes).await.map_err(cut_off)?;
        self.hash.update(bytes);
        Ok(bytes)
    }

    async fn part(&mut self, length: usize) -> Result<Bytes, BackupError> {
        if length > MAX_PART {
            return Err(BackupError::Damaged(format!("entry {} is longer than any may be", self.keys)));
        }
        let mut bytes = vec![0; length];
        self.file.read_exact(&mut bytes).await.map_err(cut_off)?;
        self.hash.update(&bytes);
        Ok(bytes.into())
    }

    async fn next(&mut self) -> Result<Option<(Bytes, Bytes)>, BackupError> {
        let length = u32::from_be_bytes(self.take().await?);
        if length == 0 {
            return self.end().await.map(|()| None);
        }
        let key = self.part(length as usize).await?;
        let length = u32::from_be_bytes(self.take().await?);
        let value = self.part(length as usize).await?;
        // The store would refuse a key with a zero byte in front, but only half-way through the restore.
        if key <= self.last || key.starts_with(&[0]) {
            return Err(BackupError::Damaged(format!(
                "key {} is not valid or not above the one before it",
                self.keys
            )));
        }
        self.keys += 1;
        self.last = key.clone();
        Ok(Some((key, value)))
    }

    async fn end(&mut self) -> Result<(), BackupError> {
        let keys = u64::from_be_bytes(self.take().await?);
        if keys != self.keys {
            return Err(BackupError::Damaged(format!("it should hold {keys} keys and holds {}", self.keys)));
        }
        let digest = self.hash.clone().finalize();
        let mut expected = [0; 32];
        self.file.read_exact(&mut expected).await.map_err(cut_off)?;
        if digest[..] != expected[..] {
            return Err(BackupError::Damaged("its checksum is not that of its content".to_owned()));
        }
        if self.file.read(&mut [0]).await? != 0 {
            return Err(BackupError::Damaged("something follows its end".to_owned()));
        }
        Ok(())
    }
}

fn cut_off(error: std::io::Error) -> BackupError {
    if error.kind() == std::io::ErrorKind::UnexpectedEof {
        BackupError::Damaged("it is cut off".to_owned())
    } else {
        BackupError::Io(error)
    }
}

/// Operations on their way into transactions.
struct Batch<'a> {
    store: &'a dyn Store,
    ops: Vec<Op>,
    bytes: usize,
    changed: u64,
}

impl Batch<'_> {
    async fn push(&mut self, op: Op) -> Result<(), StoreError> {
        let size = OP_OVERHEAD
            + match &op {
                Op::Put { key, value } => key.len() + value.len(),
                Op::Delete { key } | Op::Get { key } => key.len(),
            };
        if self.ops.len() >= BATCH_OPS || self.bytes + size > MAX_TXN_BYTES {
            self.commit().await?;
        }
        self.ops.push(op);
        self.bytes += size;
        self.changed += 1;
        Ok(())
    }

    async fn commit(&mut self) -> Result<(), StoreError> {
        if self.ops.is_empty() {
            return Ok(());
        }
        let success = std::mem::take(&mut self.ops);
        self.bytes = 0;
        self.store.txn(Txn { compares: Vec::<Compare>::new(), success, failure: Vec::new() }).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    async fn put(store: &dyn Store, key: &str, value: &str) {
        store.txn(Txn::put(key.to_owned(), value.to_owned())).await.unwrap();
    }

    async fn content(store: &dyn Store) -> Vec<(Bytes, Bytes)> {
        let all = RangeRequest { start: Bytes::from_static(&[1]), ..RangeRequest::default() };
        store.range(all).await.unwrap().kvs.into_iter().map(|kv| (kv.key, kv.value)).collect()
    }

    #[tokio::test]
    async fn a_restore_brings_back_exactly_what_was_backed_up() {
        let dir = tempfile::tempdir().unwrap();
        let store = crate::open_embedded(dir.path()).unwrap();
        for number in 0..1200 {
            put(store.as_ref(), &format!("/k/{number:04}"), &format!("v{number}")).await;
        }
        let before = content(store.as_ref()).await;
        let mut file = Vec::new();
        let written = export(store.as_ref(), &mut file).await.unwrap();
        assert_eq!(written.keys, 1200);

        store.txn(Txn::delete("/k/0007")).await.unwrap();
        put(store.as_ref(), "/k/0100", "changed").await;
        put(store.as_ref(), "/a", "new, before all").await;
        put(store.as_ref(), "/z", "new, behind all").await;
        let restored = import(store.as_ref(), &mut Cursor::new(&file)).await.unwrap();
        assert_eq!(restored.changed, 4);
        assert_eq!(content(store.as_ref()).await, before);

        let other = tempfile::tempdir().unwrap();
        let fresh = crate::open_embedded(other.path()).unwrap();
        import(fresh.as_ref(), &mut Cursor::new(&file)).await.unwrap();
        assert_eq!(content(fresh.as_ref()).await, before);
    }

    #[tokio::test]
    async fn a_damaged_file_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = crate::open_embedded(dir.path()).unwrap();
        put(store.as_ref(), "/a", "1").await;
        let mut file = Vec::new();
        export(store.as_ref(), &mut file).await.unwrap();
        put(store.as_ref(), "/a", "2").await;
        let revision = store.revision().await.unwrap();
        let mut flipped = file.clone();
        *flipped.last_mut().unwrap() ^= 1;
        let mut newer = file.clone();
        newer[11] = 9;
        for length in 0..file.len() {
            assert!(import(store.as_ref(), &mut Cursor::new(&file[..length])).await.is_err(), "{length}");
        }
        assert!(matches!(
            import(store.as_ref(), &mut Cursor::new(&flipped)).await,
            Err(BackupError::Damaged(_))
        ));
        assert!(matches!(
            import(store.as_ref(), &mut Cursor::new(&newer)).await,
            Err(BackupError::Newer { found: 9 })
        ));
        assert_eq!(store.revision().await.unwrap(), revision);
    }
}
