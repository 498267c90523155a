//! Reads a container's log for `kubectl logs`: tail, since, follow, timestamps, limit.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::watch::Watch;
use super::{LogOptions, LogStream, files_of, parse_entry};
use crate::timestamp;

/// How often a follower looks for new lines where nothing tells of them.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(100);
/// What is written within so long is read together.
const TOGETHER: Duration = Duration::from_millis(5);
/// Bytes handed out at once; also bounds the memory of one reader.
const CHUNK_BYTES: usize = 64 * 1024;

/// Opens the log at `path`. `ended` is cancelled once the container wrote its last line; a follower ends there. It is cancelled from
/// here when nobody reads any more, so that who waits for the container's end for it does not go on.
/// A log that does not exist is empty.
pub fn open(path: PathBuf, options: LogOptions, ended: CancellationToken) -> LogStream {
    let (sender, receiver) = mpsc::channel::<std::io::Result<Bytes>>(4);
    tokio::spawn(async move {
        let _over = ended.clone().drop_guard();
        if let Err(error) = run(path, options, ended, &sender).await {
            let _ = sender.send(Err(error)).await;
        }
    });
    futures::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|item| (item, receiver))
    })
    .boxed()
}

async fn run(
    path: PathBuf,
    options: LogOptions,
    ended: CancellationToken,
    sender: &mpsc::Sender<std::io::Result<Bytes>>,
) -> std::io::Result<()> {
    let dir = path.parent().map(Path::to_owned).filter(|_| options.follow);
    let mut watch = None;
    let mut cursor = blocking(move || Cursor::open(path, &options)).await?;
    loop {
        // Before it is read, so that nothing comes between. The directory may not be there at first.
        watch = watch.or_else(|| dir.as_deref().and_then(Watch::new));
        watch.iter_mut().for_each(Watch::seen);
        // Read before looking whether it ended: lines written just before the end are then seen.
        let over = ended.is_cancelled();
        loop {
            let (back, chunk) = blocking(move || {
                let chunk = cursor.next_chunk()?;
                Ok((cursor, chunk))
            })
            .await?;
            cursor = back;
            let Some(chunk) = chunk else { break };
            if sender.send(Ok(chunk)).await.is_err() {
                return Ok(());
            }
        }
        if over || !cursor.options.follow || cursor.left == Some(0) {
            return Ok(());
        }
        tokio::select! {
            () = news(watch.as_mut()) => {}
            () = ended.cancelled() => {}
            () = sender.closed() => return Ok(()),
        }
    }
}

/// Waits until there may be new lines.
async fn news(watch: Option<&mut Watch>) {
    match watch {
        Some(watch) => {
            watch.changed().await;
            tokio::time::sleep(TOGETHER).await;
        }
        None => tokio::time::sleep(FOLLOW_INTERVAL).await,
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other)?
}

/// A place in the sequence of a log's files.
struct Cursor {
    path: PathBuf,
    options: LogOptions,
    since: Option<SystemTime>,
    /// Opened files still to read, oldest first; the last may grow.
    files: VecDeque<BufReader<File>>,
    /// Bytes that may still be handed out.
    left: Option<u64>,
    /// Entries that may still be read: the last lines are those that were last when the log was opened, however many come meanwhile.
    entries_left: Option<u64>,
    /// The entry before was partial, so the next one continues its line.
    in_line: bool,
    /// A line of the growing file that has no newline yet.
    torn: Vec<u8>,
}

impl Cursor {
    fn open(path: PathBuf, options: &LogOptions) -> std::io::Result<Self> {
        let ago = options.since.and_then(|d| SystemTime::now().checked_sub(d));
        let mut cursor = Self {
            files: VecDeque::new(),
            since: ago.max(options.since_time),
            left: options.limit_bytes,
            entries_left: None,
            in_line: false,
            torn: Vec::new(),
            options: options.clone(),
            path,
        };
        for file in files_of(&cursor.path) {
            if let Some(file) = open_if_exists(&file)? {
                cursor.files.push_back(BufReader::with_capacity(CHUNK_BYTES, file));
            }
        }
        if let Some(lines) = options.tail_lines {
            cursor.skip_to_tail(lines)?;
        }
        Ok(cursor)
    }

    /// Moves to the start of the last `lines` lines. Reads the files once from the start: they are bounded by
    /// rotation, and a line can only be known as a line from its own start.
    fn skip_to_tail(&mut self, lines: u64) -> std::io::Result<()> {
        let keep = usize::try_from(lines).unwrap_or(usize::MAX);
        // Of each line: in which file it starts, where there, and how many entries are before it.
        let mut starts: VecDeque<(usize, u64, u64)> = VecDeque::new();
        let mut entries = 0;
        let mut line = Vec::new();
        let mut continues = false;
        let mut end = (0, 0, 0);
        for (index, file) in self.files.iter_mut().enumerate() {
            let mut offset = 0;
            loop {
                line.clear();
                let read = file.read_until(b'\n', &mut line)?;
                if line.pop() != Some(b'\n') {
                    break;
                }
                if let Some(entry) = parse_entry(&line) {
                    if !continues && keep > 0 {
                        if starts.len() == keep {
                            starts.pop_front();
                        }
                        starts.push_back((index, offset, entries));
                    }
                    continues = entry.partial;
                    entries += 1;
                }
                offset += read as u64;
            }
            end = (index, offset, entries);
        }
        let (index, offset, before) =
            if keep == 0 { end } else { starts.front().copied().unwrap_or((0, 0, 0)) };
        if !self.options.follow {
            self.entries_left = Some(entries - before);
        }
        self.files.drain(..index.min(self.files.len()));
        for (number, file) in self.files.iter_mut().enumerate() {
            file.seek(SeekFrom::Start(if number == 0 { offset } else { 0 }))?;
        }
        Ok(())
    }

    /// Some of the bytes to show next; `None` when there is nothing more now.
    fn next_chunk(&mut self) -> std::io::Result<Option<Bytes>> {
        let mut out = Vec::new();
        while out.len() < CHUNK_BYTES && self.left != Some(0) && self.entries_left != Some(0) {
            if self.files.is_empty() {
                match open_if_exists(&self.path)? {
                    Some(file) => self.files.push_back(BufReader::with_capacity(CHUNK_BYTES, file)),
                    None => break,
                }
            }
            // Not empty: see above.
            let Some(file) = self.files.front_mut() else { break };
            file.read_until(b'\n', &mut self.torn)?;
            if self.torn.last() == Some(&b'\n') {
                let mut line = std::mem::take(&mut self.torn);
                line.pop();
                self.show(&line, &mut out);
                line.clear();
                self.torn = line;
            } else if !self.at_end_of_file()? {
                break;
            }
        }
        Ok((!out.is_empty()).then(|| Bytes::from(out)))
    }

    /// The first file has no more. Goes to the next one; false when this one is the newest and may grow.
    fn at_end_of_file(&mut self) -> std::io::Result<bool> {
        if self.files.len() == 1 {
            let newest = match std::fs::metadata(&self.path) {
                Ok(found) => found.ino(),
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
                Err(error) => return Err(error),
            };
            if self.files[0].get_ref().metadata()?.ino() == newest {
                return Ok(false);
            }
        }
        self.files.pop_front();
        self.torn.clear();
        Ok(true)
    }

    fn show(&mut self, line: &[u8], out: &mut Vec<u8>) {
        let Some(entry) = parse_entry(line) else { return };
        if let Some(left) = &mut self.entries_left {
            *left = left.saturating_sub(1);
        }
        if self.options.output.is_some_and(|wanted| wanted != entry.output) {
            return;
        }
        if let Some(since) = self.since {
            if timestamp::parse(entry.time).is_some_and(|time| time < since) {
                return;
            }
            self.since = None;
        }
        let start = out.len();
        if self.options.timestamps && !self.in_line {
            out.extend_from_slice(entry.time.as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(entry.text);
        if !entry.partial {
            out.push(b'\n');
        }
        self.in_line = entry.partial;
        if let Some(left) = &mut self.left {
            let shown = ((out.len() - start) as u64).min(*left);
            *left -= shown;
            out.truncate(start + shown as usize);
        }
    }
}

fn open_if_exists(path: &Path) -> std::io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::super::rotated;
    use super::super::writer::{LogWriter, Stream};
    use super::*;

    async fn read(path: &Path, options: LogOptions) -> String {
        let stream = open(path.to_owned(), options, CancellationToken::new());
        let parts: Vec<_> = stream.collect().await;
        let bytes: Vec<u8> = parts.into_iter().flat_map(|p| p.unwrap().to_vec()).collect();
        String::from_utf8(bytes).unwrap()
    }

    #[tokio::test]
    async fn tail_since_limit_and_rotated_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w.log");
        std::fs::write(
            rotated(&path, 1),
            "2026-01-01T00:00:00.0Z stdout F one\n2026-01-01T00:00:01.0Z stdout P tw\n",
        )
        .unwrap();
        std::fs::write(&path, "2026-01-01T00:00:02.0Z stdout F o\n2026-01-01T00:00:03.0Z stderr F three\n")
            .unwrap();
        let all = LogOptions::default();
        assert_eq!(read(&path, all.clone()).await, "one\ntwo\nthree\n");
        let tail = |n| LogOptions { tail_lines: Some(n), ..all.clone() };
        assert_eq!(read(&path, tail(0)).await, "");
        assert_eq!(read(&path, tail(1)).await, "three\n");
        assert_eq!(read(&path, tail(2)).await, "two\nthree\n");
        assert_eq!(read(&path, tail(9)).await, "one\ntwo\nthree\n");
        let since = LogOptions {
            since_time: timestamp::parse("2026-01-01T00:00:03Z"),
            timestamps: true,
            ..all.clone()
        };
        assert_eq!(read(&path, since).await, "2026-01-01T00:00:03.0Z three\n");
        let errors = LogOptions { output: Some(Stream::Stderr), ..all.clone() };
        assert_eq!(read(&path, errors).await, "three\n");
        let limited = LogOptions { limit_bytes: Some(6), ..all };
        assert_eq!(read(&path, limited).await, "one\ntw");
        assert_eq!(read(&dir.path().join("none"), LogOptions::default()).await, "");
    }

    #[test]
    fn the_last_lines_are_those_that_were_there_when_it_was_asked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w.log");
        let mut log = LogWriter::open(&path).unwrap();
        log.write(Stream::Stdout, b"1\n2\n");
        let open = |tail, follow| {
            let options = LogOptions { tail_lines: Some(tail), follow, ..LogOptions::default() };
            Cursor::open(path.clone(), &options).unwrap()
        };
        let (mut none, mut last, mut followed) = (open(0, false), open(1, false), open(1, true));
        log.write(Stream::Stdout, b"3\n");
        assert_eq!(none.next_chunk().unwrap(), None);
        assert_eq!(last.next_chunk().unwrap().unwrap(), "2\n");
        assert_eq!(last.next_chunk().unwrap(), None);
        assert_eq!(followed.next_chunk().unwrap().unwrap(), "2\n3\n");
    }

    #[tokio::test]
    async fn a_follower_that_leaves_is_told_of() {
        let dir = tempfile::tempdir().unwrap();
        let ended = CancellationToken::new();
        let options = LogOptions { follow: true, ..LogOptions::default() };
        let stream = open(dir.path().join("w.log"), options, ended.clone());
        assert!(!ended.is_cancelled());
        drop(stream);
        tokio::time::timeout(Duration::from_secs(30), ended.cancelled()).await.unwrap();
    }

    #[tokio::test]
    async fn follow_sees_new_lines_rotation_and_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w.log");
        let mut log = LogWriter::open(&path).unwrap();
        log.write(Stream::Stdout, b"1\n");
        let ended = CancellationToken::new();
        let options = LogOptions { follow: true, ..LogOptions::default() };
        let mut stream = open(path.clone(), options, ended.clone());
        assert_eq!(stream.next().await.unwrap().unwrap(), "1\n");
        log.write(Stream::Stdout, b"2\n");
        assert_eq!(stream.next().await.unwrap().unwrap(), "2\n");
        log.write(Stream::Stdout, b"3\n");
        std::fs::rename(&path, rotated(&path, 1)).unwrap();
        let mut log = LogWriter::open(&path).unwrap();
        log.write(Stream::Stdout, b"4\n");
        ended.cancel();
        let rest: Vec<_> = stream.map(Result::unwrap).collect().await;
        assert_eq!(rest.concat(), b"3\n4\n");
    }
}
