//! What is counted, under Kubernetes' names.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use crate::Level;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfLevel {
    level: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPlugin {
    plugin: &'static str,
}

/// The counters; a clone is the same.
#[derive(Clone, Default)]
pub(crate) struct Metrics {
    events: Counter,
    levels: Family<OfLevel, Counter>,
    errors: Family<OfPlugin, Counter>,
    rejected: Counter,
}

impl Metrics {
    pub(crate) fn judged(&self, level: Level) {
        self.levels.get_or_create(&OfLevel { level: level.word() }).inc();
    }

    pub(crate) fn recorded(&self) {
        self.events.inc();
    }

    /// Records that were lost.
    pub(crate) fn lost(&self, plugin: &'static str, count: u64) {
        self.errors.get_or_create(&OfPlugin { plugin }).inc_by(count);
    }

    pub(crate) fn rejected(&self) {
        self.rejected.inc();
    }

    pub(crate) fn register(&self, catalog: &mut Registry) {
        let text = "Records of the audit log that were made";
        catalog.register("apiserver_audit_event", text, self.events.clone());
        let text = "Requests, by how much of them the audit policy has recorded";
        catalog.register("apiserver_audit_level", text, self.levels.clone());
        let text = "Records of the audit log that were lost, by where they should have gone";
        catalog.register("apiserver_audit_error", text, self.errors.clone());
        let text = "Requests that were refused because they could not be recorded";
        catalog.register("apiserver_audit_requests_rejected", text, self.rejected.clone());
    }
}
