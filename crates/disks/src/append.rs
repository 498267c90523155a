//! A new file that is written from its beginning to its end, past the page cache where its file system can do that (`O_DIRECT`, open(2)):
//! nobody reads an image again soon after it came, and copying it into the cache takes as long as writing it.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

/// What addresses, offsets and lengths of such writes are multiples of: the largest block that disks have.
const BLOCK: usize = 4096;
/// Bytes that are written at a time.
const CHUNK: usize = 2 << 20;

/// Writes a new file.
pub(crate) struct Appender {
    /// Through the page cache: the last bytes, which are no whole chunk, and all of them where there is no other way.
    file: File,
    direct: Option<File>,
    /// Has a block more than a chunk, so that one can begin at an address that is a multiple.
    buffer: Vec<u8>,
    begin: usize,
    filled: usize,
    written: u64,
}

impl Appender {
    /// Creates the file, which only its owner reads.
    ///
    /// # Errors
    /// Those of open(2), where there is such a file among others.
    pub(crate) fn create(path: &Path) -> io::Result<Appender> {
        let file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
        // Some file systems refuse it (tmpfs before Linux 6.6, for one).
        let direct =
            File::options().write(true).custom_flags(OFlags::DIRECT.bits().cast_signed()).open(path).ok();
        Ok(Appender::of(file, direct))
    }

    /// Writes an empty file that is open already, and for direct writes where they are possible.
    pub(crate) fn of(file: File, direct: Option<File>) -> Appender {
        let buffer = vec![0; CHUNK + BLOCK];
        let begin = buffer.as_ptr().align_offset(BLOCK).min(BLOCK);
        Appender { file, direct, buffer, begin, filled: 0, written: 0 }
    }

    /// Appends bytes. They are in the file at the latest when it ends.
    ///
    /// # Errors
    /// Those of write(2).
    pub(crate) fn append(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let taken = bytes.len().min(CHUNK - self.filled);
            let free = self.begin + self.filled;
            self.buffer[free..free + taken].copy_from_slice(&bytes[..taken]);
            self.filled += taken;
            bytes = &bytes[taken..];
            if self.filled == CHUNK {
                self.put()?;
            }
        }
        Ok(())
    }

    /// Writes what is left. All of the file is on the disk when this returns.
    ///
    /// # Errors
    /// Those of write(2) and fsync(2).
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.direct = None;
        self.put()?;
        self.file.sync_all()
    }

    /// Writes what the buffer holds.
    fn put(&mut self) -> io::Result<()> {
        let bytes = &self.buffer[self.begin..self.begin + self.filled];
        let mut done = 0;
        while let Some(direct) = self.direct.as_ref().filter(|_| done < bytes.len()) {
            match direct.write_at(&bytes[done..], self.written + done as u64) {
                Ok(0) => self.direct = None,
                Ok(count) => done += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // What was written so far ends within a block, or blocks are larger here than anywhere known.
                Err(error) if error.kind() == ErrorKind::InvalidInput => self.direct = None,
                Err(error) => return Err(error),
            }
        }
        self.file.write_all_at(&bytes[done..], self.written + done as u64)?;
        self.written += self.filled as u64;
        self.filled = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(path: &Path, pieces: &[usize], direct: bool) -> (Vec<u8>, Vec<u8>) {
        let mut file = Appender::create(path).unwrap();
        if !direct {
            file.direct = None;
        }
        let mut whole = Vec::new();
        for (number, length) in pieces.iter().enumerate() {
            let piece: Vec<u8> = (0..*length).map(|at| (at / 3 + number) as u8).collect();
            file.append(&piece).unwrap();
            whole.extend(piece);
        }
        file.finish().unwrap();
        (std::fs::read(path).unwrap(), whole)
    }

    #[test]
    fn a_file_has_all_bytes_whichever_way_they_go() {
        // Not in memory, where some kernels have one way alone. What is compiled may be kept for another clone: asked when it runs.
        let dir = tempfile::tempdir_in(std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).unwrap();
        let cases: [&[usize]; 5] =
            [&[], &[1], &[CHUNK], &[700, CHUNK, 3 * CHUNK + 17, 1], &[BLOCK; CHUNK / BLOCK + 1]];
        for (number, pieces) in cases.into_iter().enumerate() {
            for direct in [true, false] {
                let (found, whole) = written(&dir.path().join(format!("{number}-{direct}")), pieces, direct);
                assert!(found == whole, "case {number}, direct: {direct}");
            }
        }
    }

    #[test]
    fn a_file_that_is_there_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("old");
        std::fs::write(&path, "old").unwrap();
        assert_eq!(Appender::create(&path).err().unwrap().kind(), ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
    }
}
