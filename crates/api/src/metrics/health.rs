//! How the checks of health went (`/metrics/slis`).

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry as Catalog;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Of {
    name: &'static str,
    r#type: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    name: &'static str,
    r#type: String,
    status: &'static str,
}

/// The last outcome of each check at each endpoint, and how often it was which.
#[derive(Clone, Default)]
pub(crate) struct Health {
    last: Family<Of, Gauge>,
    all: Family<Outcome, Counter>,
}

impl Health {
    pub(super) fn new(catalog: &mut Catalog) -> Self {
        let health = Self::default();
        let text = "This metric records the result of a single healthcheck";
        catalog.register("kubernetes_healthcheck", text, health.last.clone());
        let text = "This metric records the results of all healthcheck";
        catalog.register("kubernetes_healthchecks", text, health.all.clone());
        health
    }

    /// Notes how a check went.
    pub(crate) fn note(&self, name: &'static str, endpoint: &str, good: bool) {
        let of = || endpoint.to_owned();
        self.last.get_or_create(&Of { name, r#type: of() }).set(i64::from(good));
        let status = if good { "success" } else { "error" };
        self.all.get_or_create(&Outcome { name, r#type: of(), status }).inc();
    }
}
