//! What a guest wrote to its serial console.
//!
//! QEMU keeps the newest [`RING_BYTES`] in a ring of its own memory. It is read out when somebody asks, when the guest powers
//! off, and before the process is ended, and is appended to a file that is cut to its newer half when it grows too long. So a
//! guest that writes without end costs a fixed amount of memory and disk, also while no cloud process runs (a log file of
//! QEMU's own would grow until the disk is full), and an idle machine costs no polling. While somebody is at the serial port, what it writes
//! comes another way (`ways.rs`). What is lost: the part since the last
//! look when a process is killed from outside, and all but the newest part when much comes between two looks.

use std::io;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;
use tokio::fs::{self, OpenOptions};
use tokio::io::AsyncWriteExt;

use crate::qmp::Qmp;

/// Size of the ring in QEMU, a power of two.
pub(crate) const RING_BYTES: usize = 256 << 10;
/// Name of the ring in QEMU.
pub(crate) const RING_NAME: &str = "console";
/// Longest log file.
const MAX_FILE_BYTES: usize = 1 << 20;
/// What is asked for at once: well below QMP's longest line when in base64.
const PIECE_BYTES: usize = 128 << 10;

/// The log of one machine.
#[derive(Debug)]
pub(crate) struct Console {
    path: PathBuf,
}

impl Console {
    pub(crate) fn new(path: PathBuf) -> Console {
        Console { path }
    }

    /// Where it is kept.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Moves what QEMU holds to the file.
    pub(crate) async fn drain(&mut self, qmp: &Qmp) -> io::Result<()> {
        // The guest may write faster than we read: twice the ring is enough to have all there was at the beginning.
        for _ in 0..(2 * RING_BYTES / PIECE_BYTES) {
            let arguments = json!({"device": RING_NAME, "size": PIECE_BYTES, "format": "base64"});
            let piece = qmp.execute("ringbuf-read", arguments).await.map_err(io::Error::other)?;
            let piece =
                BASE64_STANDARD.decode(piece.as_str().unwrap_or_default()).map_err(io::Error::other)?;
            if piece.is_empty() {
                break;
            }
            self.append(&piece).await?;
        }
        Ok(())
    }

    /// Adds to the log.
    pub(crate) async fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut file = OpenOptions::new().create(true).append(true).mode(0o600).open(&self.path).await?;
        file.write_all(bytes).await?;
        file.flush().await?;
        if file.metadata().await?.len() > MAX_FILE_BYTES as u64 {
            let whole = fs::read(&self.path).await?;
            let kept = newest_lines(&whole[whole.len() - MAX_FILE_BYTES / 2..]);
            let shorter = self.path.with_extension("new");
            fs::write(&shorter, kept).await?;
            fs::rename(&shorter, &self.path).await?;
        }
        Ok(())
    }

    /// The last `lines` lines, or all.
    pub(crate) async fn tail(&self, lines: Option<usize>) -> io::Result<String> {
        let bytes = match fs::read(&self.path).await {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let text = String::from_utf8_lossy(&bytes);
        Ok(lines.map_or(&*text, |lines| last_lines(&text, lines)).to_owned())
    }
}

/// Without the first line, which may have lost its beginning.
fn newest_lines(bytes: &[u8]) -> &[u8] {
    bytes.iter().position(|byte| *byte == b'\n').map_or(bytes, |end| &bytes[end + 1..])
}

fn last_lines(text: &str, lines: usize) -> &str {
    if lines == 0 {
        return "";
    }
    let body = text.strip_suffix('\n').unwrap_or(text);
    let begin = body.rmatch_indices('\n').nth(lines - 1).map_or(0, |(at, _)| at + 1);
    &text[begin..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_lines_are_counted_from_the_end() {
        assert_eq!(last_lines("a\nb\nc\n", 2), "b\nc\n");
        assert_eq!(last_lines("a\nb\nc", 1), "c");
        assert_eq!(last_lines("a\nb\n", 9), "a\nb\n");
        assert_eq!(last_lines("a\nb\n", 0), "");
        assert_eq!(last_lines("", 3), "");
    }

    #[tokio::test]
    async fn a_log_without_end_stays_small_and_keeps_the_newest() {
        let dir = tempfile::tempdir().unwrap();
        let mut console = Console::new(dir.path().join("console.log"));
        assert_eq!(console.tail(None).await.unwrap(), "");
        for number in 0..30 {
            let line = format!("{number:07}\n");
            console.append(line.repeat(10_000).as_bytes()).await.unwrap();
        }
        let kept = console.tail(None).await.unwrap();
        assert!(kept.len() <= MAX_FILE_BYTES && kept.len() >= MAX_FILE_BYTES / 2 - 10, "{}", kept.len());
        assert!(kept.ends_with("0000029\n") && kept.len() % 8 == 0);
        assert_eq!(console.tail(Some(1)).await.unwrap(), "0000029\n");
    }
}
