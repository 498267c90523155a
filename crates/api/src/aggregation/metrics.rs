//! Which APIServices are unavailable, and how often they went away.

use std::collections::BTreeMap;
use std::fmt::{Debug, Error, Formatter};
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::prefix;
use super::services::is_available;
use crate::cache::KindCache;
use crate::keys;

/// What is counted. Of an APIService that is deleted nothing is kept.
pub(super) struct Metrics {
    objects: Arc<KindCache>,
    /// By name and reason.
    went: Mutex<BTreeMap<(String, &'static str), u64>>,
}

impl Metrics {
    pub(super) fn new(objects: Arc<KindCache>) -> Self {
        Self { objects, went: Mutex::default() }
    }

    /// Counts one that was available, and is no more.
    pub(super) fn went_away(&self, name: &str, reason: &'static str) {
        let mut went = self.went.lock().unwrap_or_else(PoisonError::into_inner);
        *went.entry((name.to_owned(), reason)).or_default() += 1;
    }
}

/// Tells it.
pub(crate) struct Told(pub(super) Arc<Metrics>);

impl Debug for Told {
    fn fmt(&self, out: &mut Formatter<'_>) -> Result<(), Error> {
        out.write_str("Told")
    }
}

impl Collector for Told {
    fn encode(&self, mut out: DescriptorEncoder<'_>) -> Result<(), Error> {
        let prefix = prefix();
        let listing = self.0.objects.list(&prefix);
        let names: BTreeMap<&str, bool> = listing
            .entries
            .iter()
            .map(|entry| (keys::split_name(&prefix, &entry.key).1, is_available(entry.value())))
            .collect();
        let text = "Gauge of APIServices which are marked as unavailable broken down by APIService name";
        let mut metric =
            out.encode_descriptor("aggregator_unavailable_apiservice", text, None, MetricType::Gauge)?;
        for (name, available) in &names {
            ConstGauge::new(i64::from(!available)).encode(metric.encode_family(&[("name", *name)])?)?;
        }
        let mut went = self.0.went.lock().unwrap_or_else(PoisonError::into_inner);
        went.retain(|(name, _), _| names.contains_key(name.as_str()));
        let text = "Counter of APIServices which are marked as unavailable broken down by APIService name and reason";
        // The encoder adds the `_total` of a counter, so that this one has the same name: OpenMetrics goes without it.
        let mut metric =
            out.encode_descriptor("aggregator_unavailable_apiservice", text, None, MetricType::Counter)?;
        for ((name, reason), count) in went.iter() {
            let labels = [("name", name.as_str()), ("reason", *reason)];
            ConstCounter::new(*count).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
