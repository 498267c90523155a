//! How long the store takes, under the name that it has where the store is etcd.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry as Catalog;

use super::histogram::Histogram;

/// Limits of the classes of durations, in seconds.
const SECONDS: [f64; 22] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0,
    20.0, 30.0, 60.0,
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Operation {
    operation: &'static str,
}

/// Seconds that each sort of question took.
#[derive(Clone)]
pub(crate) struct StoreTimes {
    /// Transactions that make an object.
    pub(crate) create: Histogram,
    /// Transactions that change one.
    pub(crate) update: Histogram,
    /// Transactions that remove one.
    pub(crate) delete: Histogram,
    /// Reads of what the cache has no more.
    pub(crate) list: Histogram,
    family: Family<Operation, Histogram, fn() -> Histogram>,
}

impl Default for StoreTimes {
    fn default() -> Self {
        let family: Family<Operation, Histogram, fn() -> Histogram> =
            Family::new_with_constructor(|| Histogram::new(&SECONDS));
        let of = |operation| family.get_or_create_owned(&Operation { operation });
        Self { create: of("create"), update: of("update"), delete: of("delete"), list: of("list"), family }
    }
}

impl StoreTimes {
    pub(super) fn register(&self, catalog: &mut Catalog) {
        let text = "Seconds that the store took, by what it was asked for";
        catalog.register("etcd_request_duration_seconds", text, self.family.clone());
    }
}
