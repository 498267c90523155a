//! How long daemons that end on a node are left there before they are made anew: longer each time, so that one that fails at once,
//! or that its node rejects, is not made anew without end.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use yunfan_client::ObjectKey;

/// The first wait and the longest; each is twice the one before.
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(15 * 60);

/// The waits of all sets: by set, generation and node. They begin anew when the process does.
#[derive(Default)]
pub(super) struct Waits(Mutex<HashMap<(ObjectKey, i64, String), Wait>>);

struct Wait {
    since: Instant,
    length: Duration,
}

impl Waits {
    /// How long the daemon that ended is to be left on the node. None when it may be replaced now, which makes the next wait longer.
    pub(super) fn ask(&self, set: &ObjectKey, generation: i64, node: &str, now: Instant) -> Option<Duration> {
        // Nothing panics under this lock.
        let mut waits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever went well for so long begins anew.
        waits.retain(|_, wait| now.duration_since(wait.since) <= LONGEST * 2);
        let key = (set.clone(), generation, node.to_owned());
        let Some(wait) = waits.get_mut(&key) else {
            waits.insert(key, Wait { since: now, length: FIRST });
            return None;
        };
        let left = wait.length.saturating_sub(now.duration_since(wait.since));
        if !left.is_zero() {
            return Some(left);
        }
        *wait = Wait { since: now, length: (wait.length * 2).min(LONGEST) };
        None
    }

    /// Forgets a set that is no more.
    pub(super) fn forget(&self, set: &ObjectKey) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|(own, ..), _| own != set);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_wait_is_longer_and_of_its_own_node() {
        let (waits, set, start) = (Waits::default(), ObjectKey::new("n", "s"), Instant::now());
        let ask = |node: &str, seconds: u64| waits.ask(&set, 1, node, start + Duration::from_secs(seconds));
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(ask("a", 0), None, "the first time at once");
        assert_eq!(ask("a", 0), seconds(1));
        assert_eq!(ask("b", 0), None);
        assert_eq!(ask("a", 1), None);
        assert_eq!(ask("a", 2), seconds(1));
        assert_eq!(ask("a", 3), None);
        assert_eq!(ask("a", 3), seconds(4));
        assert_eq!(waits.ask(&set, 2, "a", start), None, "a new template is another matter");
        assert_eq!(ask("a", 3 + 3600), None);
        assert_eq!(ask("a", 3 + 3600), seconds(1), "it went well for long enough");
        waits.forget(&set);
        assert_eq!(ask("a", 3 + 3600), None);
    }
}
