//! Being told that something was written to a directory of logs (inotify(7)): all followers share one watch of it, and one thread that reads
//! for all, since a host has no room for many.

use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use tokio::sync::watch;

/// What is told of a directory as long as somebody has it.
#[derive(Debug)]
struct Told {
    /// What the kernel calls the watch.
    number: i32,
    changed: watch::Sender<()>,
}

/// All directories that are watched.
struct Watches {
    kernel: OwnedFd,
    told: Mutex<HashMap<i32, Weak<Told>>>,
}

/// A follower's sight of a directory.
#[derive(Debug)]
pub(super) struct Watch {
    receiver: watch::Receiver<()>,
    _told: Arc<Told>,
}

impl Watch {
    /// Watches a directory; none where it is not there, or the host has no room for a watch.
    pub(super) fn new(dir: &Path) -> Option<Self> {
        let told = watches()?.add(dir).inspect_err(|error| {
            if *error != Errno::NOENT {
                tracing::debug!(%error, dir = %dir.display(), "logs are followed by looking, it can't be watched");
            }
        });
        let told = told.ok()?;
        Some(Self { receiver: told.changed.subscribe(), _told: told })
    }

    /// What comes from now on is news.
    pub(super) fn seen(&mut self) {
        self.receiver.mark_unchanged();
    }

    /// Waits until something was written since [`Watch::seen`].
    pub(super) async fn changed(&mut self) {
        if self.receiver.changed().await.is_err() {
            // The sender is this one's own.
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        let Some(watches) = watches() else { return };
        let mut all = watches.lock();
        // Another may have come to watch the same meanwhile.
        if all.get(&self.number).is_some_and(|told| told.strong_count() == 0) {
            all.remove(&self.number);
            let _ = inotify::remove_watch(&watches.kernel, self.number);
        }
    }
}

impl Watches {
    fn add(&self, dir: &Path) -> Result<Arc<Told>, Errno> {
        let flags = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::ONLYDIR;
        let mut all = self.lock();
        // A directory that is watched already has the number that it has.
        let number = inotify::add_watch(&self.kernel, dir, flags)?;
        if let Some(told) = all.get(&number).and_then(Weak::upgrade) {
            return Ok(told);
        }
        let told = Arc::new(Told { number, changed: watch::Sender::new(()) });
        all.insert(number, Arc::downgrade(&told));
        Ok(told)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<i32, Weak<Told>>> {
        // Each change of it is one of a single entry.
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) {
        let mut buffer = [MaybeUninit::uninit(); 16 << 10];
        let mut events = inotify::Reader::new(&self.kernel, &mut buffer);
        loop {
            let (number, lost) = match events.next() {
                Ok(event) => (event.wd(), event.events().contains(ReadFlags::QUEUE_OVERFLOW)),
                Err(Errno::INTR) => continue,
                Err(error) => return tracing::error!(%error, "logs are no longer watched"),
            };
            // Taken out of the lock: the last one to have it removes it there.
            let told: Vec<Arc<Told>> = {
                let all = self.lock();
                let of =
                    |(key, told): (&i32, &Weak<Told>)| (lost || *key == number).then(|| told.upgrade())?;
                all.iter().filter_map(of).collect()
            };
            told.iter().for_each(|told| told.changed.send_replace(()));
        }
    }
}

/// The process' own; none where the kernel gives none.
fn watches() -> Option<&'static Watches> {
    static WATCHES: OnceLock<Option<Watches>> = OnceLock::new();
    static READER: OnceLock<bool> = OnceLock::new();
    let watches = WATCHES.get_or_init(|| {
        let kernel = inotify::init(CreateFlags::CLOEXEC);
        let kernel = kernel.inspect_err(|error| tracing::warn!(%error, "logs are followed by looking"));
        Some(Watches { kernel: kernel.ok()?, told: Mutex::default() })
    });
    let watches = watches.as_ref()?;
    let reads = READER.get_or_init(|| {
        let reader = std::thread::Builder::new().name("logs".to_owned());
        reader.spawn(|| watches.read()).is_ok()
    });
    reads.then_some(watches)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn soon(watch: &mut Watch) -> bool {
        tokio::time::timeout(Duration::from_secs(30), watch.changed()).await.is_ok()
    }

    #[tokio::test]
    async fn all_followers_of_a_directory_are_told_and_the_last_one_ends_the_watch() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Watch::new(&dir.path().join("none")).is_none());
        let (mut one, mut other) = (Watch::new(dir.path()).unwrap(), Watch::new(dir.path()).unwrap());
        let number = one._told.number;
        assert_eq!(number, other._told.number);
        std::fs::write(dir.path().join("log"), "x").unwrap();
        assert!(soon(&mut one).await && soon(&mut other).await);
        drop(one);
        assert!(watches().unwrap().lock().contains_key(&number));
        std::fs::write(dir.path().join("log"), "xy").unwrap();
        assert!(soon(&mut other).await);
        drop(other);
        // Who reads may have it still, for as long as it takes to tell.
        let begun = std::time::Instant::now();
        while watches().unwrap().lock().contains_key(&number) {
            assert!(begun.elapsed() < Duration::from_secs(30), "it is still watched");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // The kernel, too, has it no more: a new one is another.
        assert_ne!(Watch::new(dir.path()).unwrap()._told.number, number);
    }
}
