//! A histogram that is counted without a lock: it is written with every request, and read when somebody looks.

use std::fmt::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::{MetricType, TypedMetric};

/// How many values were no larger than which limit; a clone is the same one.
#[derive(Clone, Debug)]
pub(crate) struct Histogram(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    limits: &'static [f64],
    /// By class; the last is of those beyond all limits.
    counts: Box<[AtomicU64]>,
    /// The bits of a float.
    sum: AtomicU64,
}

impl Histogram {
    /// One with these limits of its classes, which rise.
    pub(crate) fn new(limits: &'static [f64]) -> Self {
        let counts = (0..=limits.len()).map(|_| AtomicU64::new(0)).collect();
        Self(Arc::new(Inner { limits, counts, sum: AtomicU64::new(0.0_f64.to_bits()) }))
    }

    /// Counts a value.
    pub(crate) fn observe(&self, value: f64) {
        let Inner { limits, counts, sum } = &*self.0;
        let class = limits.partition_point(|limit| *limit < value);
        // There is one more class than there are limits.
        counts[class].fetch_add(1, Ordering::Relaxed);
        let add = |sum: u64| Some((f64::from_bits(sum) + value).to_bits());
        // It always has a next value.
        let _ = sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }
}

impl TypedMetric for Histogram {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Histogram {
    fn encode(&self, mut encoder: MetricEncoder) -> Result<(), Error> {
        let Inner { limits, counts, sum } = &*self.0;
        let limits = limits.iter().copied().chain([f64::INFINITY]);
        let classes = limits.zip(counts.iter().map(|count| count.load(Ordering::Relaxed)));
        let classes: Vec<(f64, u64)> = classes.collect();
        let count = classes.iter().map(|(_, count)| count).sum();
        let sum = f64::from_bits(sum.load(Ordering::Relaxed));
        encoder.encode_histogram::<NoLabelSet>(sum, count, &classes, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;

    use super::*;

    #[test]
    fn values_are_counted_by_classes() {
        let mut registry = Registry::default();
        let histogram = Histogram::new(&[0.5, 1.0]);
        registry.register("taken", "Seconds", histogram.clone());
        for value in [0.25, 0.5, 0.75, 7.0] {
            histogram.observe(value);
        }
        let mut out = String::new();
        encode(&mut out, &registry).expect("room");
        assert_eq!(
            out,
            "# HELP taken Seconds.\n# TYPE taken histogram\ntaken_sum 8.5\ntaken_count 4\n\
             taken_bucket{le=\"0.5\"} 2\ntaken_bucket{le=\"1.0\"} 3\ntaken_bucket{le=\"+Inf\"} 4\n# EOF\n"
        );
    }
}
