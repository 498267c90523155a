//! What is counted, under the names that Kubernetes' dashboards know, and how it is told: as OpenMetrics, or in
//! Prometheus' older text format.
//!
//! Labels come from what is served, never from what a request says, so that nobody can make them grow.

mod desk;
mod health;
mod histogram;
mod objects;
mod process;
mod requests;
mod since;
mod steps;
mod store;
mod text;

use std::sync::{Arc, PoisonError, RwLock};

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry as Catalog;
use yunfan_objects::ApiError;

pub(crate) use desk::Desk;
pub(crate) use health::Health;
pub(crate) use requests::{Requests, UnderWay, Watches};
use since::Since;
pub(crate) use steps::Steps;
pub(crate) use store::{Asked, StoreTimes};

use crate::door;
use crate::registry::Registry;

/// All that is counted.
pub(crate) struct Metrics {
    pub(crate) requests: Arc<Requests>,
    pub(crate) desk: Desk,
    pub(crate) health: Health,
    catalog: RwLock<Catalog>,
    /// What tells of health alone, which is asked for more often.
    levels: Catalog,
    /// Where counting began, of both.
    since: RwLock<Since>,
    levels_since: RwLock<Since>,
}

impl Metrics {
    pub(crate) fn new(registry: &Arc<Registry>) -> Self {
        let mut catalog = Catalog::default();
        let requests = Arc::new(Requests::new(&mut catalog));
        let desk = Desk::new(&mut catalog);
        let build = Family::<[(&str, &str); 1], Gauge>::default();
        build.get_or_create(&[("version", env!("CARGO_PKG_VERSION"))]).set(1);
        catalog.register("yunfan_build_info", "The version that runs", build);
        let build = Family::<[(&str, String); 9], Gauge>::default();
        build.get_or_create(&door::build_labels()).set(1);
        catalog.register("kubernetes_build_info", "The version of Kubernetes whose API this is", build);
        registry.dynamic.register(&mut catalog);
        registry.times.register(&mut catalog);
        registry.steps.register(&mut catalog);
        catalog.register_collector(Box::new(objects::Objects(Arc::downgrade(registry))));
        catalog.register_collector(Box::new(process::Process));
        let mut levels = Catalog::default();
        let health = Health::new(&mut levels);
        let (catalog, since, levels_since) = (RwLock::new(catalog), RwLock::default(), RwLock::default());
        Self { requests, desk, health, catalog, levels, since, levels_since }
    }

    /// Adds what others count.
    pub(crate) fn add(&self, register: impl FnOnce(&mut Catalog)) {
        register(&mut self.catalog.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// Everything, or what tells of health alone, for [`open`] or [`plain`].
    pub(crate) fn told(&self, health: bool) -> Result<String, ApiError> {
        let told = self.all(health)?;
        Ok(self.since(health).read().unwrap_or_else(PoisonError::into_inner).of(told))
    }

    /// Begins to count anew.
    pub(crate) fn reset(&self, health: bool) -> Result<(), ApiError> {
        let now = Since::now(&self.all(health)?);
        *self.since(health).write().unwrap_or_else(PoisonError::into_inner) = now;
        Ok(())
    }

    fn since(&self, health: bool) -> &RwLock<Since> {
        if health { &self.levels_since } else { &self.since }
    }

    fn all(&self, health: bool) -> Result<String, ApiError> {
        match health {
            true => encoded(&self.levels),
            false => encoded(&self.catalog.read().unwrap_or_else(PoisonError::into_inner)),
        }
    }
}

/// What was told, as OpenMetrics has it.
pub(crate) fn open(told: &str) -> String {
    text::distinct(told)
}

/// The same in the older text format.
pub(crate) fn plain(told: &str) -> String {
    text::plain(told)
}

fn encoded(catalog: &Catalog) -> Result<String, ApiError> {
    let mut out = String::new();
    encode(&mut out, catalog).map_err(|error| ApiError::internal(error.to_string()))?;
    Ok(out)
}
