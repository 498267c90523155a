//! Writes a container's output into its log file. Blocking, for the shim.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::{ROTATE_BYTES, ROTATED_FILES, rotated};
use crate::timestamp;

/// A line longer than this is written in parts.
const LONGEST_ENTRY: usize = 16 * 1024;

/// Which of a container's outputs a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// File descriptor 1.
    Stdout,
    /// File descriptor 2.
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// The log of one container run.
pub struct LogWriter {
    path: PathBuf,
    file: File,
    size: u64,
    rotate_at: u64,
    /// Output that waits for its newline, per stream.
    pending: [Vec<u8>; 2],
}

impl LogWriter {
    /// Opens (or goes on with) the log at `path`.
    ///
    /// # Errors
    /// When the file can't be opened for writing.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        let file = open_append(path)?;
        let size = file.metadata()?.len();
        Ok(Self {
            path: path.to_owned(),
            file,
            size,
            rotate_at: ROTATE_BYTES,
            pending: [Vec::new(), Vec::new()],
        })
    }

    /// Takes what the container wrote. Text without a newline waits for the rest of its line.
    ///
    /// A full disk loses lines rather than stopping the container.
    pub fn write(&mut self, stream: Stream, bytes: &[u8]) {
        let time = timestamp::format(SystemTime::now());
        let mut out = Vec::with_capacity(bytes.len() + 64);
        let pending = &mut self.pending[stream as usize];
        for piece in bytes.split_inclusive(|&b| b == b'\n') {
            pending.extend_from_slice(piece);
            if pending.last() == Some(&b'\n') {
                pending.pop();
                entries(&mut out, &time, stream, pending, true);
                pending.clear();
            } else if pending.len() >= LONGEST_ENTRY {
                entries(&mut out, &time, stream, pending, false);
                pending.clear();
            }
        }
        self.put(&out);
    }

    /// The container closed this output: writes what waits, as a line that lacks its end.
    pub fn finish(&mut self, stream: Stream) {
        let pending = std::mem::take(&mut self.pending[stream as usize]);
        if pending.is_empty() {
            return;
        }
        let mut out = Vec::with_capacity(pending.len() + 64);
        let time = timestamp::format(SystemTime::now());
        entries(&mut out, &time, stream, &pending, false);
        self.put(&out);
    }

    fn put(&mut self, out: &[u8]) {
        if out.is_empty() {
            return;
        }
        if self.size >= self.rotate_at {
            self.rotate();
        }
        if self.file.write_all(out).is_ok() {
            self.size += out.len() as u64;
        }
    }

    fn rotate(&mut self) {
        rotate(&self.path);
        if let Ok(file) = open_append(&self.path) {
            self.file = file;
            self.size = 0;
        }
    }
}

/// Gives a log's files their next names, the oldest to nobody; the newest is to be made anew.
pub fn rotate(path: &Path) {
    for number in (1..ROTATED_FILES).rev() {
        let _ = std::fs::rename(rotated(path, number), rotated(path, number + 1));
    }
    let _ = std::fs::rename(path, rotated(path, 1));
}

/// Undoes [`rotate`], where the newest was not made anew.
pub fn take_back(path: &Path) {
    if path.exists() || std::fs::rename(rotated(path, 1), path).is_err() {
        return;
    }
    for number in 1..ROTATED_FILES {
        let _ = std::fs::rename(rotated(path, number + 1), rotated(path, number));
    }
}

fn open_append(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// Appends `text` as one entry, or several when it is too long for one; only the last may be a whole line.
fn entries(out: &mut Vec<u8>, time: &str, stream: Stream, text: &[u8], whole: bool) {
    let count = text.len().div_ceil(LONGEST_ENTRY).max(1);
    for (index, part) in (0..count).map(|i| {
        let end = text.len().min((i + 1) * LONGEST_ENTRY);
        (i, &text[i * LONGEST_ENTRY..end])
    }) {
        let tag = if whole && index + 1 == count { 'F' } else { 'P' };
        // Writing to a Vec can't fail.
        let _ = write!(out, "{time} {} {tag} ", stream.name());
        out.extend_from_slice(part);
        out.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(path: &Path) -> Vec<(String, String)> {
        std::fs::read_to_string(path)
            .unwrap()
            .lines()
            .map(|line| {
                let mut parts = line.splitn(4, ' ').skip(1);
                let head = format!("{} {}", parts.next().unwrap(), parts.next().unwrap());
                (head, parts.next().unwrap().to_owned())
            })
            .collect()
    }

    #[test]
    fn lines_partial_lines_and_long_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        let mut log = LogWriter::open(&path).unwrap();
        log.write(Stream::Stdout, b"one\ntw");
        log.write(Stream::Stderr, b"err\n");
        log.write(Stream::Stdout, b"o\n\n");
        log.write(Stream::Stdout, b"end");
        log.finish(Stream::Stdout);
        let long = vec![b'x'; LONGEST_ENTRY + 5];
        log.write(Stream::Stderr, &long);
        log.write(Stream::Stderr, b"\n");
        let texts = texts(&path);
        let heads: Vec<&str> = texts.iter().map(|(head, _)| head.as_str()).collect();
        assert_eq!(
            heads,
            ["stdout F", "stderr F", "stdout F", "stdout F", "stdout P", "stderr P", "stderr P", "stderr F"]
        );
        assert_eq!(texts[2].1, "two");
        assert_eq!(texts[3].1, "");
        assert_eq!(texts[5].1.len(), LONGEST_ENTRY);
        assert_eq!(texts[6].1.len(), 5);
    }

    #[test]
    fn rotation_keeps_two() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        let mut log = LogWriter::open(&path).unwrap();
        log.rotate_at = 10;
        for text in ["1\n", "2\n", "3\n", "4\n", "5\n"] {
            log.write(Stream::Stdout, text.as_bytes());
        }
        assert_eq!(texts(&path)[0].1, "5");
        assert_eq!(texts(&rotated(&path, 1))[0].1, "4");
        assert_eq!(texts(&rotated(&path, 2))[0].1, "3");
        assert!(!rotated(&path, 3).exists());
    }
}
