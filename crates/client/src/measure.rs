//! What is counted of work queues, under the names that Kubernetes' controllers have made common.

use std::sync::LazyLock;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Name {
    name: &'static str,
}

type Durations = Family<Name, Histogram, fn() -> Histogram>;

struct Measures {
    depth: Family<Name, Gauge>,
    adds: Family<Name, Counter>,
    retries: Family<Name, Counter>,
    waited: Durations,
    worked: Durations,
}

/// Of all queues of this process, by the name of the loop that works on them.
static MEASURES: LazyLock<Measures> = LazyLock::new(|| {
    // From 10 ns to 10 s.
    let durations = || {
        Family::new_with_constructor((|| Histogram::new(exponential_buckets(1e-8, 10.0, 10))) as fn() -> _)
    };
    Measures {
        depth: Family::default(),
        adds: Family::default(),
        retries: Family::default(),
        waited: durations(),
        worked: durations(),
    }
});

/// Adds what is counted of this process's queues to what is told.
pub fn register_metrics(registry: &mut Registry) {
    let all = &*MEASURES;
    registry.register("workqueue_depth", "Keys that wait for work now", all.depth.clone());
    registry.register("workqueue_adds", "Keys added", all.adds.clone());
    registry.register("workqueue_retries", "Keys added again after a failure", all.retries.clone());
    registry.register(
        "workqueue_queue_duration_seconds",
        "Seconds that a key waits before it is worked on",
        all.waited.clone(),
    );
    registry.register(
        "workqueue_work_duration_seconds",
        "Seconds that the work on a key takes",
        all.worked.clone(),
    );
}

/// The measures of one queue.
#[derive(Debug)]
pub(crate) struct Measure {
    depth: Gauge,
    adds: Counter,
    retries: Counter,
    waited: Histogram,
    worked: Histogram,
}

impl Measure {
    pub(crate) fn of(name: &'static str) -> Self {
        let name = Name { name };
        Self {
            depth: MEASURES.depth.get_or_create_owned(&name),
            adds: MEASURES.adds.get_or_create_owned(&name),
            retries: MEASURES.retries.get_or_create_owned(&name),
            waited: MEASURES.waited.get_or_create_owned(&name),
            worked: MEASURES.worked.get_or_create_owned(&name),
        }
    }

    pub(crate) fn added(&self, keys: u32) {
        self.adds.inc_by(keys.into());
        self.depth.inc_by(keys.into());
    }

    pub(crate) fn taken(&self, waited: Duration) {
        self.depth.dec();
        self.waited.observe(waited.as_secs_f64());
    }

    pub(crate) fn done(&self, worked: Duration, failed: bool) {
        self.worked.observe(worked.as_secs_f64());
        if failed {
            self.retries.inc();
        }
    }
}
