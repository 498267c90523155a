//! How the tries of Pods' probes went since the agent began, which its metrics tell. What is known of a Pod goes with it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kube::ResourceExt;

use super::Pods;
pub(crate) use super::probe::Which;

/// Up to how many seconds good tries took, for each row of a histogram: Prometheus' usual ones.
pub(crate) const ROWS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// The tries of one probe.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Count {
    pub(crate) failed: u64,
    pub(crate) good: u64,
    /// What the good ones took together.
    pub(crate) took: Duration,
    /// Of the good ones, those that took no longer than each of [`ROWS`].
    pub(crate) rows: [u64; ROWS.len()],
}

/// The tries of a Pod's probes, by container.
#[derive(Default)]
pub(crate) struct Tries(Mutex<BTreeMap<(String, Which), Count>>);

impl Tries {
    /// Counts one.
    pub(super) fn note(&self, container: &str, which: Which, good: bool, took: Duration) {
        // Nothing panics under this lock.
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = known.entry((container.to_owned(), which)).or_default();
        if !good {
            count.failed += 1;
            return;
        }
        count.good += 1;
        count.took += took;
        let rows = count.rows.iter_mut().zip(ROWS).filter(|(_, row)| took.as_secs_f64() <= *row);
        rows.for_each(|(known, _)| *known += 1);
    }
}

/// The tries of one probe of a Pod's container.
pub(crate) struct Probed {
    pub(crate) namespace: String,
    pub(crate) pod: String,
    pub(crate) uid: String,
    pub(crate) container: String,
    pub(crate) which: Which,
    pub(crate) count: Count,
}

impl Pods {
    /// Where the tries of a Pod's probes are counted.
    pub(super) fn tries(&self, uid: &str) -> Arc<Tries> {
        // Nothing is to be remembered of a Pod that is gone.
        self.lock().get(uid).map(|local| local.tries.clone()).unwrap_or_default()
    }

    /// How all probes went so far.
    pub(crate) fn probed(&self) -> Vec<Probed> {
        let mut all = Vec::new();
        for pod in self.all() {
            let uid = pod.uid().unwrap_or_default();
            let Some(tries) = self.lock().get(&uid).map(|local| local.tries.clone()) else { continue };
            let known = tries.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
            all.extend(known.into_iter().map(|((container, which), count)| Probed {
                namespace: pod.namespace().unwrap_or_default(),
                pod: pod.name_any(),
                uid: uid.clone(),
                container,
                which,
                count,
            }));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_are_counted_by_their_probe() {
        let tries = Tries::default();
        tries.note("c", Which::Liveness, true, Duration::from_millis(10));
        tries.note("c", Which::Liveness, true, Duration::from_secs(20));
        tries.note("c", Which::Liveness, false, Duration::from_secs(1));
        tries.note("c", Which::Readiness, false, Duration::from_secs(1));
        let known = tries.0.lock().unwrap().clone();
        let live = &known[&("c".to_owned(), Which::Liveness)];
        assert_eq!((live.good, live.failed, live.took), (2, 1, Duration::from_millis(20_010)));
        assert_eq!(live.rows, [0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]);
        assert_eq!(known.len(), 2);
    }
}
