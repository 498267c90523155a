//! How long containers that keep ending stay down. As kubelets do, an agent keeps that in memory: one that has just begun starts each
//! of them again at once.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

/// First wait before a container that keeps ending is run once more; each further one doubles it.
const FIRST: Duration = Duration::from_secs(10);
/// Longest such wait.
const LONGEST: Duration = Duration::from_secs(300);
/// What ends so long after it was last started again begins with the first wait anew.
const FORGIVEN: Duration = Duration::from_secs(600);

/// The waits of a Pod's containers, by their names.
#[derive(Clone, Debug, Default)]
pub(crate) struct Backoffs(HashMap<String, Backoff>);

#[derive(Clone, Copy, Debug)]
struct Backoff {
    wait: Duration,
    /// When the container was last started again.
    since: SystemTime,
}

impl Backoffs {
    /// How long a container stays down whose run ended at this time; the first time it comes up again at once.
    pub(crate) fn wait(&self, name: &str, ended: SystemTime) -> Duration {
        self.counts(name, ended).map_or(Duration::ZERO, |backoff| backoff.wait)
    }

    /// Notes that a container whose run ended at `ended` is started again.
    pub(crate) fn started(&mut self, name: &str, ended: SystemTime, now: SystemTime) {
        let wait = self.counts(name, ended).map_or(FIRST, |backoff| (backoff.wait * 2).min(LONGEST));
        self.0.insert(name.to_owned(), Backoff { wait, since: now });
    }

    fn counts(&self, name: &str, ended: SystemTime) -> Option<&Backoff> {
        let ran = |backoff: &&Backoff| ended.duration_since(backoff.since).unwrap_or_default();
        self.0.get(name).filter(|backoff| ran(backoff) <= FORGIVEN)
    }
}

/// A wait as Go writes it: `10s`, `2m40s`, `5m0s`.
pub(crate) fn text(wait: Duration) -> String {
    match (wait.as_secs() / 60, wait.as_secs() % 60) {
        (0, seconds) => format!("{seconds}s"),
        (minutes, seconds) => format!("{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_and_a_good_run_clears_it() {
        let mut backoffs = Backoffs::default();
        let mut now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let mut next = |ran: u64| {
            let ended = now + Duration::from_secs(ran);
            let wait = backoffs.wait("c", ended);
            now = ended + wait;
            backoffs.started("c", ended, now);
            assert_eq!(backoffs.wait("other", ended), Duration::ZERO);
            wait.as_secs()
        };
        assert_eq!([(); 8].map(|()| next(1)), [0, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(next(600), 300);
        assert_eq!([next(601), next(1), next(1)], [0, 10, 20]);
    }

    #[test]
    fn waits_are_written_as_go_writes_them() {
        let written = [10, 60, 160, 300].map(|seconds| text(Duration::from_secs(seconds)));
        assert_eq!(written, ["10s", "1m0s", "2m40s", "5m0s"]);
    }
}
