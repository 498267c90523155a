//! An image's bytes on their way to the disk. Digests take longer than writing, so what there is to do with the bytes is done side by
//! side: each digest and the writing go through the same pieces, each at its own pace, on
//! threads that block. None may be far behind, so an upload holds a few MiB; and no thread is held while the sender says nothing.

use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use md5::Md5;
use sha2::{Digest, Sha512};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::append::Appender;
use crate::header::HEAD_BYTES;
use crate::place::blocking;
use crate::{Error, Limits};

/// Bytes that are handed over at a time, and the most pieces that they are in.
const BATCH_BYTES: usize = 1 << 20;
const BATCH_PIECES: usize = 256;
/// How many of them the slowest may be behind.
const BEHIND: usize = 8;

type Batch = Arc<Vec<Bytes>>;

/// What is known of bytes that came.
pub(crate) struct Received {
    pub(crate) head: Vec<u8>,
    pub(crate) size_bytes: u64,
    pub(crate) sha512: String,
    pub(crate) md5: String,
}

/// Writes a stream to a new file, and reads its digests on the way. The file's bytes are on the disk when this returns.
pub(crate) async fn receive<S, E>(path: &Path, bytes: S, limits: Limits) -> Result<Received, Error>
where
    S: Stream<Item = Result<Bytes, E>> + Send + Unpin,
    E: Display,
{
    let new = path.to_owned();
    let file = blocking(move || Appender::create(&new)).await?.map_err(Error::io("create", path))?;
    let (to_sha512, sha512) = channel(BEHIND);
    let (to_md5, md5) = channel(BEHIND);
    let (to_file, written) = channel(BEHIND);
    let (read, sha512, md5, file) = tokio::try_join!(
        hand_out(bytes, limits, [to_sha512, to_md5, to_file]),
        digest::<Sha512>(sha512),
        digest::<Md5>(md5),
        write(file, path, written),
    )?;
    blocking(move || file.finish()).await?.map_err(Error::io("flush", path))?;
    let (head, size_bytes) = read;
    Ok(Received { head, size_bytes, sha512, md5 })
}

/// Reads the stream and gives everybody what comes. Returns its beginning and its length.
async fn hand_out<S, E>(
    mut bytes: S,
    limits: Limits,
    takers: [Sender<Batch>; 3],
) -> Result<(Vec<u8>, u64), Error>
where
    S: Stream<Item = Result<Bytes, E>> + Send + Unpin,
    E: Display,
{
    let (mut head, mut size_bytes) = (Vec::with_capacity(HEAD_BYTES), 0_u64);
    let (mut batch, mut waiting) = (Vec::new(), 0);
    loop {
        let piece = bytes
            .next()
            .await
            .transpose()
            .map_err(|error| Error::Interrupted { received_bytes: size_bytes, message: error.to_string() })?;
        let ended = piece.is_none();
        if let Some(piece) = piece {
            size_bytes += piece.len() as u64;
            if size_bytes > limits.max_bytes {
                return Err(Error::TooLarge { limit_bytes: limits.max_bytes });
            }
            let wanted = (HEAD_BYTES - head.len()).min(piece.len());
            head.extend_from_slice(&piece[..wanted]);
            waiting += piece.len();
            batch.push(piece);
        }
        if ended || waiting >= BATCH_BYTES || batch.len() >= BATCH_PIECES {
            let whole = Arc::new(std::mem::take(&mut batch));
            waiting = 0;
            for taker in &takers {
                // One that takes no more has failed, and its own error is what is told.
                let _ = taker.send(whole.clone()).await;
            }
        }
        if ended {
            return Ok((head, size_bytes));
        }
    }
}

/// The digest of all that comes, in hexadecimal digits.
async fn digest<D: Digest + Send + 'static>(mut batches: Receiver<Batch>) -> Result<String, Error> {
    let mut digest = D::new();
    while let Some(batch) = batches.recv().await {
        digest = blocking(move || {
            batch.iter().for_each(|piece| digest.update(piece));
            digest
        })
        .await?;
    }
    Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Writes all that comes. The last of it may not be in the file yet.
async fn write(mut file: Appender, path: &Path, mut batches: Receiver<Batch>) -> Result<Appender, Error> {
    while let Some(batch) = batches.recv().await {
        file = blocking(move || batch.iter().try_for_each(|piece| file.append(piece)).map(|()| file))
            .await?
            .map_err(Error::io("write", path))?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use futures::stream;

    use super::*;

    fn pieces(count: usize, length: usize) -> Vec<Result<Bytes, std::io::Error>> {
        (0..count).map(|number| Ok(Bytes::from(vec![number as u8; length]))).collect()
    }

    #[tokio::test]
    async fn all_of_it_is_written_and_counted_in_its_order() {
        let dir = tempfile::tempdir().unwrap();
        // Many small pieces and a few that are larger than what is handed over at a time; none at all.
        for (count, length) in [(3000, 700), (5, BATCH_BYTES + 17), (0, 0)] {
            let path = dir.path().join(format!("{count}"));
            let sent = pieces(count, length);
            let whole: Vec<u8> = sent.iter().flatten().flatten().copied().collect();
            let received = receive(&path, stream::iter(sent), Limits::default()).await.unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), whole);
            assert_eq!(received.size_bytes, whole.len() as u64);
            assert_eq!(received.head, whole[..HEAD_BYTES.min(whole.len())]);
            let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            assert_eq!(received.sha512, hex(&Sha512::digest(&whole)));
            assert_eq!(received.md5, hex(&Md5::digest(&whole)));
        }
    }

    #[tokio::test]
    async fn too_much_and_what_breaks_off_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let limits = Limits { max_bytes: 1000, ..Limits::default() };
        let refused = receive(&dir.path().join("large"), stream::iter(pieces(2, 501)), limits).await;
        assert!(matches!(refused, Err(Error::TooLarge { limit_bytes: 1000 })));
        let mut broken = pieces(2, 500);
        broken.push(Err(std::io::Error::other("gone")));
        let refused = receive(&dir.path().join("short"), stream::iter(broken), Limits::default()).await;
        assert!(matches!(refused, Err(Error::Interrupted { received_bytes: 1000, .. })));
    }

    #[tokio::test]
    async fn what_cannot_be_written_is_told_and_ends_it() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("missing/image");
        let refused = receive(&missing, stream::iter(pieces(1, 1)), Limits::default()).await;
        assert!(matches!(refused, Err(Error::Io { .. })));

        let path = Path::new("/dev/full");
        let full = Appender::of(File::options().write(true).open(path).unwrap(), None);
        let (to_file, batches) = channel(BEHIND);
        to_file.send(Arc::new(vec![Bytes::from(vec![0; 8 << 20])])).await.unwrap();
        assert!(matches!(write(full, path, batches).await, Err(Error::NoSpace { .. })));
        assert!(to_file.send(Arc::default()).await.is_err());
    }
}
