//! What is counted of flows and levels, under the names that Kubernetes has for it.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry as Catalog;

use super::queues::Refused;

/// Seconds that a request waited.
const WAITED: [f64; 14] = [0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 25.0, 30.0];

/// Why requests are refused, as it is told.
const REASONS: [&str; 3] = ["concurrency-limit", "queue-full", "time-out"];

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Flow {
    flow_schema: String,
    priority_level: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Rejection {
    flow_schema: String,
    priority_level: String,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Wait {
    execute: &'static str,
    flow_schema: String,
    priority_level: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LevelName {
    priority_level: String,
}

/// The families.
#[derive(Clone)]
pub(super) struct Families(Arc<Inner>);

struct Inner {
    dispatched: Family<Flow, Counter>,
    rejected: Family<Rejection, Counter>,
    waited: Family<Wait, Histogram>,
    executing: Family<Flow, Gauge>,
    inqueue: Family<Flow, Gauge>,
    nominal: Family<LevelName, Gauge>,
    most: Family<LevelName, Gauge>,
}

/// Those of one schema, at hand for each of its requests.
#[derive(Clone, Debug, Default)]
pub(super) struct Counters {
    pub(super) dispatched: Counter,
    pub(super) executing: Gauge,
    pub(super) inqueue: Gauge,
}

impl std::fmt::Debug for Families {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Families").finish_non_exhaustive()
    }
}

impl Families {
    pub(super) fn new() -> Self {
        Self(Arc::new(Inner {
            dispatched: Family::default(),
            rejected: Family::default(),
            waited: Family::new_with_constructor(|| Histogram::new(WAITED)),
            executing: Family::default(),
            inqueue: Family::default(),
            nominal: Family::default(),
            most: Family::default(),
        }))
    }

    /// Adds all to what is told.
    pub(super) fn register(&self, catalog: &mut Catalog) {
        let families = &self.0;
        let name = |name: &str| format!("apiserver_flowcontrol_{name}");
        catalog.register(
            name("dispatched_requests"),
            "Requests that were let in",
            families.dispatched.clone(),
        );
        catalog.register(name("rejected_requests"), "Requests that were refused", families.rejected.clone());
        catalog.register(
            name("request_wait_duration_seconds"),
            "How long requests waited in their queues",
            families.waited.clone(),
        );
        catalog.register(
            name("current_executing_requests"),
            "Requests that are under way",
            families.executing.clone(),
        );
        catalog.register(name("current_inqueue_requests"), "Requests that wait", families.inqueue.clone());
        catalog.register(
            name("nominal_limit_seats"),
            "Seats of each level of its own",
            families.nominal.clone(),
        );
        catalog.register(
            name("upper_limit_seats"),
            "Seats of each level with what it may borrow",
            families.most.clone(),
        );
    }

    /// The counters of a schema.
    pub(super) fn of(&self, schema: &str, level: &str) -> Counters {
        let flow = Flow { flow_schema: schema.to_owned(), priority_level: level.to_owned() };
        Counters {
            dispatched: self.0.dispatched.get_or_create(&flow).clone(),
            executing: self.0.executing.get_or_create(&flow).clone(),
            inqueue: self.0.inqueue.get_or_create(&flow).clone(),
        }
    }

    /// A level has so many seats.
    pub(super) fn level(&self, name: &str, nominal: u32, most: u32) {
        let level = LevelName { priority_level: name.to_owned() };
        self.0.nominal.get_or_create(&level).set(i64::from(nominal));
        self.0.most.get_or_create(&level).set(i64::from(most));
    }

    /// A schema is no more, or names another level: what was counted of it goes.
    pub(super) fn forget(&self, schema: &str, level: &str) {
        let flow = Flow { flow_schema: schema.to_owned(), priority_level: level.to_owned() };
        self.0.dispatched.remove(&flow);
        self.0.executing.remove(&flow);
        self.0.inqueue.remove(&flow);
        for reason in REASONS {
            let Flow { flow_schema, priority_level } = flow.clone();
            self.0.rejected.remove(&Rejection { flow_schema, priority_level, reason });
        }
        for execute in ["true", "false"] {
            let Flow { flow_schema, priority_level } = flow.clone();
            self.0.waited.remove(&Wait { execute, flow_schema, priority_level });
        }
    }

    /// A level is no more.
    pub(super) fn forget_level(&self, name: &str) {
        let level = LevelName { priority_level: name.to_owned() };
        self.0.nominal.remove(&level);
        self.0.most.remove(&level);
    }

    pub(super) fn refused(&self, schema: &str, level: &str, why: Refused) {
        let reason = match why {
            Refused::Concurrency => REASONS[0],
            Refused::Full => REASONS[1],
            Refused::Late => REASONS[2],
        };
        let rejection =
            Rejection { flow_schema: schema.to_owned(), priority_level: level.to_owned(), reason };
        self.0.rejected.get_or_create(&rejection).inc();
    }

    pub(super) fn waited(&self, schema: &str, level: &str, served: bool, seconds: f64) {
        let wait = Wait {
            execute: if served { "true" } else { "false" },
            flow_schema: schema.to_owned(),
            priority_level: level.to_owned(),
        };
        self.0.waited.get_or_create(&wait).observe(seconds);
    }
}
