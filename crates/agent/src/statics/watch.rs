//! Being told that a directory changes (inotify(7)). What has changed is found out by looking.

use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::net::unix::pipe::Receiver;

/// What is told of a directory. Where the host has no room for a watch, nothing is.
pub(super) struct Watch {
    directory: PathBuf,
    /// It is read as a pipe is.
    told: Option<Receiver>,
}

impl Watch {
    pub(super) fn new(directory: &Path) -> Self {
        let told = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).map_err(std::io::Error::from);
        let told = told.and_then(Receiver::from_owned_fd_unchecked);
        if let Err(error) = &told {
            tracing::warn!(%error, "changes of manifests are only seen by looking");
        }
        Self { directory: directory.to_owned(), told: told.ok() }
    }

    /// Watches the directory that has the name now: it may be another one than before.
    pub(super) fn arm(&mut self) {
        let flags = WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::DELETE
            | WatchFlags::ONLYDIR;
        if let Some(told) = &self.told
            && let Err(error) = inotify::add_watch(told, &self.directory, flags)
        {
            tracing::warn!(%error, directory = %self.directory.display(), "it can't be watched");
        }
    }

    /// Waits until something is told; forever where nothing can be.
    pub(super) async fn changed(&mut self) {
        let Some(told) = &self.told else { return std::future::pending().await };
        if told.readable().await.is_err() {
            return std::future::pending().await;
        }
        let mut buffer = [0; 4096];
        // All that waits is one change.
        while told.try_read(&mut buffer).is_ok_and(|read| read > 0) {}
    }
}
