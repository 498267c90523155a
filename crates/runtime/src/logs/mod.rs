//! Container logs in the format that the Container Runtime Interface fixes: each line is
//! `<RFC 3339 time> stdout|stderr F|P <text>`, where `P` says that the line goes on in the next entry.
//!
//! [`writer`] runs in the shim, [`reader`] in the agent; they share nothing but files.

pub mod reader;
mod tail;
mod watch;
pub mod writer;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::Stream;

pub use tail::end_of;

use crate::error::{Result, RuntimeError};
use crate::sys;

/// A log file that grew beyond this is renamed to `<name>.1` (older: `.2`) and started anew.
pub const ROTATE_BYTES: u64 = 10 * 1024 * 1024;
/// How many renamed files are kept.
pub const ROTATED_FILES: u32 = 2;

/// What part of a log to show, and how; the query of `kubectl logs`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Go on with new lines until the container ends.
    pub follow: bool,
    /// Only the last so many lines of what is there.
    pub tail_lines: Option<u64>,
    /// Only lines not older than this.
    pub since: Option<Duration>,
    /// Only lines from this time on (the later one of both counts).
    pub since_time: Option<SystemTime>,
    /// The log of the run before (`attempt - 1`).
    pub previous: bool,
    /// Put each line's time before it.
    pub timestamps: bool,
    /// End after so many bytes.
    pub limit_bytes: Option<u64>,
    /// Only what was written to this output.
    pub output: Option<writer::Stream>,
}

/// A log's bytes. Ends at the end of the log, or with `follow` at the end of the container.
pub type LogStream = Pin<Box<dyn Stream<Item = std::io::Result<Bytes>> + Send>>;

/// The files of one log, oldest first, whether or not they exist.
pub fn files_of(path: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = (1..=ROTATED_FILES).rev().map(|n| rotated(path, n)).collect();
    files.push(path.to_owned());
    files
}

/// `web-0.log` -> `web-0.log.1`.
pub(crate) fn rotated(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

/// Removes all of a pod's directory but the logs of each container's last run.
pub fn keep_last(pod: &Path) -> Result<()> {
    let logs = pod.join("logs");
    for path in entries(pod)?.into_iter().filter(|path| *path != logs) {
        remove(&path)?;
    }
    for container in entries(&logs)? {
        let files = entries(&container)?;
        let last = files.iter().filter_map(|file| attempt_of(file)).max();
        for old in files.iter().filter(|file| attempt_of(file) != last) {
            remove(old)?;
        }
    }
    Ok(())
}

/// Which run a log is of, also one that was renamed.
fn attempt_of(file: &Path) -> Option<u32> {
    file.file_name()?.to_str()?.split('.').next()?.parse().ok()
}

/// What is in a directory; nothing where it is missing.
fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    match std::fs::read_dir(dir) {
        Ok(entries) => Ok(entries.flatten().map(|entry| entry.path()).collect()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(RuntimeError::io("read", dir)(error)),
    }
}

fn remove(path: &Path) -> Result<()> {
    if std::fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir()) {
        return sys::remove_tree(path);
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(RuntimeError::io("remove", path)(error)),
        _ => Ok(()),
    }
}

/// One entry of a log file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry<'a> {
    pub(crate) time: &'a str,
    pub(crate) output: writer::Stream,
    /// The line goes on in the next entry of the same stream.
    pub(crate) partial: bool,
    pub(crate) text: &'a [u8],
}

/// Reads one line without its newline. `None` when it is not in the format (a torn write).
pub(crate) fn parse_entry(line: &[u8]) -> Option<Entry<'_>> {
    let mut parts = line.splitn(4, |&b| b == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let stream = parts.next()?;
    let tag = parts.next()?;
    let text = parts.next()?;
    let output = match stream {
        b"stdout" => writer::Stream::Stdout,
        b"stderr" => writer::Stream::Stderr,
        _ => return None,
    };
    Some(Entry { time, output, partial: tag == b"P", text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries() {
        let entry = parse_entry(b"2026-11-21T03:37:07.1Z stdout F a b ").unwrap();
        assert_eq!(entry.text, b"a b ");
        assert!(!entry.partial);
        assert!(parse_entry(b"x stderr P ").unwrap().partial);
        assert_eq!(parse_entry(b"x stdin F y"), None);
        assert_eq!(parse_entry(b""), None);
    }
}
