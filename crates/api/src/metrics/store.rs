//! How long the store takes and how often it is asked, under the names that these have where the store is etcd: by what it is asked
//! for, and of which kind.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Instant;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry as Catalog;

use super::histogram::Histogram;
use crate::keys;

/// Limits of the classes of durations, in seconds.
const SECONDS: [f64; 23] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0,
    20.0, 30.0, 45.0, 60.0,
];

/// Kinds that are told apart. Definitions come and go, and what was counted of them stays; beyond this, kinds are
/// counted together.
const KINDS: usize = 2000;

/// What the store is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// A transaction that makes an object.
    Create,
    /// One that changes one.
    Update,
    /// One that removes one.
    Delete,
    /// A read of what the cache has no more.
    List,
}

impl Asked {
    fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Update => "update",
            Self::Delete => "delete",
            Self::List => "list",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    operation: &'static str,
    group: String,
    resource: String,
}

/// What one sort of question is counted by, of one kind.
struct Line {
    seconds: Histogram,
    all: Counter,
    failed: Counter,
}

/// By [`Asked`], once there was such a question.
type Lines = [OnceLock<Line>; 4];

/// What is counted of the store.
#[derive(Clone)]
pub(crate) struct StoreTimes {
    kinds: Arc<RwLock<HashMap<String, Arc<Lines>>>>,
    others: Arc<Lines>,
    seconds: Family<Labels, Histogram, fn() -> Histogram>,
    all: Family<Labels, Counter>,
    failed: Family<Labels, Counter>,
}

impl Default for StoreTimes {
    fn default() -> Self {
        Self {
            kinds: Arc::default(),
            others: Arc::default(),
            seconds: Family::new_with_constructor(|| Histogram::new(&SECONDS)),
            all: Family::default(),
            failed: Family::default(),
        }
    }
}

impl StoreTimes {
    pub(super) fn register(&self, catalog: &mut Catalog) {
        let text = "Seconds that the store took, by what it was asked for and of which kind";
        catalog.register("etcd_request_duration_seconds", text, self.seconds.clone());
        catalog.register("etcd_requests", "Questions to the store", self.all.clone());
        let text = "Questions that the store could not answer";
        catalog.register("etcd_request_errors", text, self.failed.clone());
    }

    /// Counts a question about what is at or below a key, which was asked at this moment, and whether it was answered.
    pub(crate) fn count(&self, asked: Asked, key: &str, began: Instant, answered: bool) {
        let prefix = keys::split_kind(key).unwrap_or_default();
        let lines = self.lines(prefix);
        let line = lines[asked as usize].get_or_init(|| {
            // Those beyond the limit have no names.
            let prefix = if Arc::ptr_eq(&lines, &self.others) { "" } else { prefix };
            let (group, resource) = keys::kind_of(prefix);
            let (group, resource) = (group.to_owned(), resource.to_owned());
            let labels = Labels { operation: asked.name(), group, resource };
            Line {
                seconds: self.seconds.get_or_create_owned(&labels),
                all: self.all.get_or_create_owned(&labels),
                failed: self.failed.get_or_create_owned(&labels),
            }
        });
        line.seconds.observe(began.elapsed().as_secs_f64());
        line.all.inc();
        if !answered {
            line.failed.inc();
        }
    }

    fn lines(&self, prefix: &str) -> Arc<Lines> {
        if let Some(known) = self.kinds.read().unwrap_or_else(PoisonError::into_inner).get(prefix) {
            return known.clone();
        }
        let mut kinds = self.kinds.write().unwrap_or_else(PoisonError::into_inner);
        if prefix.is_empty() || kinds.len() >= KINDS {
            return self.others.clone();
        }
        kinds.entry(prefix.to_owned()).or_default().clone()
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;

    #[test]
    fn kinds_are_counted_each_for_itself_within_a_limit() {
        let (mut catalog, times) = (Catalog::default(), StoreTimes::default());
        times.register(&mut catalog);
        let now = Instant::now();
        times.count(Asked::Create, "/registry/core/pods/demo/web", now, true);
        times.count(Asked::List, "/registry/apps/deployments/", now, false);
        for number in 0..=KINDS {
            times.count(Asked::Update, &format!("/registry/example.org/kind{number}/a"), now, true);
        }
        let mut text = String::new();
        encode(&mut text, &catalog).expect("room");
        let list = "operation=\"list\",group=\"apps\",resource=\"deployments\"";
        for line in [
            "etcd_request_duration_seconds_count{operation=\"create\",group=\"\",resource=\"pods\"} 1\n",
            &*format!("etcd_requests_total{{{list}}} 1\n"),
            &*format!("etcd_request_errors_total{{{list}}} 1\n"),
            "etcd_requests_total{operation=\"update\",group=\"\",resource=\"\"} 3\n",
        ] {
            assert!(text.contains(line), "{line} is missing");
        }
    }
}
