//! The last words of a log, however long it and its lines are.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::Path;

use super::{files_of, parse_entry};

/// No more than this is read of a log's files together. Beside its text an entry has its time, and one may be of a single byte.
const READ: u64 = 256 * 1024;

/// The text at the end of the log at `path`: at most so many lines and bytes of it. A log that does not exist is empty.
///
/// # Errors
/// When a file can't be read.
pub fn end_of(path: &Path, lines: usize, bytes: usize) -> std::io::Result<Vec<u8>> {
    let mut raw = Vec::new();
    // The newest first.
    for file in files_of(path).iter().rev() {
        let left = READ - raw.len() as u64;
        let mut file = match File::open(file) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            opened => opened?,
        };
        let size = file.metadata()?.len();
        file.seek(SeekFrom::Start(size.saturating_sub(left)))?;
        let mut end = Vec::new();
        file.take(left).read_to_end(&mut end)?;
        end.append(&mut raw);
        raw = end;
        if raw.len() as u64 >= READ {
            break;
        }
    }
    // Where it begins within an entry, that one does not look like one.
    let entries = raw.split(|byte| *byte == b'\n').filter_map(parse_entry);
    let mut text: Vec<u8> = Vec::new();
    for entry in entries {
        text.extend_from_slice(entry.text);
        if !entry.partial {
            text.push(b'\n');
        }
    }
    let ends = text.iter().rev().skip(1).enumerate().filter(|(_, byte)| **byte == b'\n');
    let of_lines = match lines.checked_sub(1) {
        None => 0,
        Some(before) => ends.map(|(at, _)| at + 1).nth(before).unwrap_or(text.len()),
    };
    Ok(text.split_off(text.len() - of_lines.min(bytes).min(text.len())))
}

#[cfg(test)]
mod tests {
    use super::super::writer::{LogWriter, Stream};
    use super::*;

    #[test]
    fn the_end_is_of_so_many_lines_and_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        assert_eq!(end_of(&path, 9, 9).unwrap(), b"");
        let mut log = LogWriter::open(&path).unwrap();
        log.write(Stream::Stdout, b"one\ntwo\n");
        log.write(Stream::Stderr, b"three\nfour");
        let end = |lines, bytes| String::from_utf8(end_of(&path, lines, bytes).unwrap()).unwrap();
        assert_eq!(end(9, 100), "one\ntwo\nthree\n", "what waits for its line's end is not written yet");
        log.finish(Stream::Stderr);
        assert_eq!(end(9, 100), "one\ntwo\nthree\nfour");
        assert_eq!((end(1, 100), end(2, 100)), ("four".to_owned(), "three\nfour".to_owned()));
        assert_eq!((end(2, 6), end(0, 6), end(6, 0)), ("e\nfour".to_owned(), String::new(), String::new()));
        std::fs::rename(&path, super::super::rotated(&path, 1)).unwrap();
        let mut log = LogWriter::open(&path).unwrap();
        log.write(Stream::Stdout, b"five\n");
        assert_eq!((end(1, 100), end(2, 100)), ("fourfive\n".to_owned(), "three\nfourfive\n".to_owned()));
    }

    #[test]
    fn a_log_without_end_is_not_read_as_a_whole() {
        use std::io::Write;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut file = File::create(&path).unwrap();
        // More than there is memory, and nothing of it on the disk.
        file.set_len(1 << 40).unwrap();
        file.seek(SeekFrom::End(0)).unwrap();
        for text in ["\n", "2026-01-01T00:00:00Z stdout P ", &"x".repeat(9000), "\n", "now stderr P end\n"] {
            file.write_all(text.as_bytes()).unwrap();
        }
        let end = end_of(&path, 80, 2048).unwrap();
        assert_eq!((end.len(), &end[2040..]), (2048, &b"xxxxxend"[..]));
    }
}
