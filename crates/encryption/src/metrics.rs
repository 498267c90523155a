//! What is counted, under Kubernetes' names.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Operation {
    transformation_type: &'static str,
    transformer_prefix: &'static str,
    status: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reload {
    status: &'static str,
}

/// The counters.
#[derive(Clone, Default)]
pub(crate) struct Metrics {
    operations: Family<Operation, Counter>,
    reloads: Family<Reload, Counter>,
}

impl Metrics {
    pub(crate) fn sealed(&self, form: &'static str, ok: bool) {
        self.count("to_storage", form, if ok { "OK" } else { "Unknown" });
    }

    pub(crate) fn opened(&self, form: &'static str, ok: bool) {
        self.count("from_storage", form, if ok { "OK" } else { "Unknown" });
    }

    fn count(
        &self,
        transformation_type: &'static str,
        transformer_prefix: &'static str,
        status: &'static str,
    ) {
        self.operations.get_or_create(&Operation { transformation_type, transformer_prefix, status }).inc();
    }

    pub(crate) fn reloaded(&self, ok: bool) {
        self.reloads.get_or_create(&Reload { status: if ok { "success" } else { "failure" } }).inc();
    }

    pub(crate) fn register(&self, catalog: &mut Registry) {
        catalog.register(
            "apiserver_storage_transformation_operations",
            "Values that were encrypted for storage or decrypted from it, by how and what became of it",
            self.operations.clone(),
        );
        catalog.register(
            "apiserver_encryption_config_controller_automatic_reloads",
            "Changes of the encryption configuration, by whether they were taken over",
            self.reloads.clone(),
        );
    }
}
