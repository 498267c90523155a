//! Unix sockets by paths of any length: the kernel takes at most 107 bytes, and a data directory may be deep.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Listens at `path`, in place of what was there.
pub(crate) fn listen(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    via_directory(path, UnixListener::bind)
}

/// Connects to `path`; the stream does not block.
pub(crate) fn connect(path: &Path) -> io::Result<UnixStream> {
    let stream = via_directory(path, UnixStream::connect)?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

/// Calls `action` with a short name of `path`.
fn via_directory<T>(path: &Path, action: impl FnOnce(PathBuf) -> io::Result<T>) -> io::Result<T> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let directory = File::open(directory)?;
    action(PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_paths_work() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(100)).join("e".repeat(100));
        std::fs::create_dir_all(&deep).unwrap();
        let path = deep.join("qmp.sock");
        let first = listen(&path).unwrap();
        drop(first);
        let _second = listen(&path).unwrap();
        connect(&path).unwrap();
    }
}
