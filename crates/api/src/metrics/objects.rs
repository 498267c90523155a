//! How many objects there are, and how far the store has come: looked up when somebody asks.

use std::fmt::{Debug, Error, Formatter};
use std::sync::Weak;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::registry::Registry;

/// Looks at the cache.
pub(super) struct Objects(pub(super) Weak<Registry>);

impl Debug for Objects {
    fn fmt(&self, out: &mut Formatter<'_>) -> Result<(), Error> {
        out.write_str("Objects")
    }
}

impl Collector for Objects {
    fn encode(&self, mut out: DescriptorEncoder<'_>) -> Result<(), Error> {
        let Some(registry) = self.0.upgrade() else { return Ok(()) };
        let table = registry.kinds.table();
        let counts: Vec<(&str, &str, u64)> = table
            .resources()
            .iter()
            .map(|one| (one.storage.group.as_str(), one.storage.plural.as_str(), one.cache.len() as u64))
            .collect();
        let text = "Number of stored objects, by kind";
        let mut metric =
            out.encode_descriptor("apiserver_resource_objects", text, None, MetricType::Gauge)?;
        for (group, resource, count) in &counts {
            ConstGauge::new(*count)
                .encode(metric.encode_family(&[("group", *group), ("resource", *resource)])?)?;
        }
        // The same under the name that it had before.
        let mut metric = out.encode_descriptor("apiserver_storage_objects", text, None, MetricType::Gauge)?;
        for (group, resource, count) in &counts {
            let resource =
                if group.is_empty() { (*resource).to_owned() } else { format!("{resource}.{group}") };
            ConstGauge::new(*count).encode(metric.encode_family(&[("resource", resource.as_str())])?)?;
        }
        let text = "Changes that the watch cache has taken in, by kind";
        let mut metric =
            out.encode_descriptor("apiserver_watch_cache_events_received", text, None, MetricType::Counter)?;
        for one in table.resources() {
            let labels = [("group", one.storage.group.as_str()), ("resource", one.storage.plural.as_str())];
            ConstCounter::new(one.cache.view().next).encode(metric.encode_family(&labels)?)?;
        }
        let text = "The revision of the last change of a kind that the watch cache has taken in";
        let mut metric =
            out.encode_descriptor("apiserver_watch_cache_resource_version", text, None, MetricType::Gauge)?;
        for one in table.resources() {
            let labels = [("group", one.storage.group.as_str()), ("resource", one.storage.plural.as_str())];
            ConstGauge::new(one.cache.view().last).encode(metric.encode_family(&labels)?)?;
        }
        let text = "The revision of the store that the watch cache has reached";
        let metric = out.encode_descriptor("yunfan_cache_revision", text, None, MetricType::Gauge)?;
        ConstGauge::new(registry.cache.revision()).encode(metric)
    }
}
