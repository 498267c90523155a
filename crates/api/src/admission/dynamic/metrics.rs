//! What is counted of those who are asked, under upstream's names.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry as Catalog};

/// Limits of the classes of durations, in seconds.
const SECONDS: [f64; 8] = [0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 10.0, 25.0];
/// Webhooks that are told apart. Configurations come and go, and what was counted of them stays; those beyond are
/// counted together.
const NAMES: usize = 1000;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Asked {
    name: String,
    r#type: &'static str,
    operation: &'static str,
    rejected: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    name: String,
    r#type: &'static str,
    operation: &'static str,
    code: u16,
    rejected: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Rejected {
    name: String,
    r#type: &'static str,
    operation: &'static str,
    error_type: &'static str,
    rejection_code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Opened {
    name: String,
    r#type: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Judged {
    name: String,
    kind: &'static str,
    r#type: &'static str,
    operation: &'static str,
}

/// Whom an observation is about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Whom<'a> {
    pub(super) name: &'a str,
    /// `admit`, or `validating`.
    pub(super) step: &'static str,
    pub(super) operation: &'static str,
}

/// How a call of a webhook ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ending {
    /// The code that the client gets, or would.
    pub(super) code: u16,
    /// Why the request is refused, if it is: `no_error` where the hook said so.
    pub(super) refused: Option<&'static str>,
}

/// All that is counted.
pub(super) struct Counts {
    names: Mutex<HashSet<String>>,
    durations: Family<Asked, Histogram, fn() -> Histogram>,
    requests: Family<Answered, Counter>,
    // Upstream's names for these do not end as those of counters must here.
    rejections: Family<Rejected, Gauge>,
    opened: Family<Opened, Gauge>,
    exclusions: Family<Judged, Counter>,
    errors: Family<Judged, Counter>,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            names: Mutex::default(),
            durations: Family::new_with_constructor(|| Histogram::new(SECONDS)),
            requests: Family::default(),
            rejections: Family::default(),
            opened: Family::default(),
            exclusions: Family::default(),
            errors: Family::default(),
        }
    }
}

fn add<M: Metric + Clone>(catalog: &mut Catalog, name: &str, text: &str, metric: &M) {
    catalog.register(format!("apiserver_admission_{name}"), text, metric.clone());
}

impl Counts {
    pub(super) fn register(&self, catalog: &mut Catalog) {
        add(catalog, "webhook_admission_duration_seconds", "Seconds that webhooks took", &self.durations);
        let text = "Calls of webhooks, by code and whether the request was refused";
        add(catalog, "webhook_request", text, &self.requests);
        let text = "Requests that webhooks refused, or that were refused because a webhook failed";
        add(catalog, "webhook_rejection_count", text, &self.rejections);
        let text = "Requests that went on though a webhook failed";
        add(catalog, "webhook_fail_open_count", text, &self.opened);
        let text = "Requests that conditions left out";
        add(catalog, "match_condition_exclusions", text, &self.exclusions);
        let text = "Conditions that could not be computed";
        add(catalog, "match_condition_evaluation_errors", text, &self.errors);
    }

    /// The name as a label.
    fn name(&self, name: &str) -> String {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if !names.contains(name) {
            if names.len() >= NAMES {
                return String::new();
            }
            names.insert(name.to_owned());
        }
        name.to_owned()
    }

    /// A webhook was called.
    pub(super) fn called(&self, whom: Whom<'_>, took: Duration, ending: Ending) {
        let (name, r#type, operation) = (self.name(whom.name), whom.step, whom.operation);
        // Any code may come from outside.
        let code = ending.code.min(600);
        let rejected = if ending.refused.is_some() { "true" } else { "false" };
        let asked = Asked { name: name.clone(), r#type, operation, rejected };
        self.durations.get_or_create(&asked).observe(took.as_secs_f64());
        self.requests
            .get_or_create(&Answered { name: name.clone(), r#type, operation, code, rejected })
            .inc();
        if let Some(error_type) = ending.refused {
            let rejected = Rejected { name, r#type, operation, error_type, rejection_code: code };
            self.rejections.get_or_create(&rejected).inc();
        }
    }

    /// A webhook failed, which does not matter.
    pub(super) fn opened(&self, whom: Whom<'_>) {
        self.opened.get_or_create(&Opened { name: self.name(whom.name), r#type: whom.step }).inc();
    }

    /// A condition was not met, or (with `failed`) could not be computed.
    pub(super) fn judged(&self, whom: Whom<'_>, kind: &'static str, failed: bool) {
        // Of conditions upstream names the step otherwise.
        let r#type = if whom.step == "admit" { "admit" } else { "validate" };
        let judged = Judged { name: self.name(whom.name), kind, r#type, operation: whom.operation };
        let family = if failed { &self.errors } else { &self.exclusions };
        family.get_or_create(&judged).inc();
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;

    #[test]
    fn calls_are_counted_under_the_names_that_dashboards_know() {
        let (counts, mut catalog) = (Counts::default(), Catalog::default());
        counts.register(&mut catalog);
        let whom = Whom { name: "a.b.c", step: "validating", operation: "CREATE" };
        counts.called(whom, Duration::from_millis(20), Ending { code: 700, refused: Some("no_error") });
        counts.opened(whom);
        counts.judged(whom, "webhook", false);
        let mut told = String::new();
        encode(&mut told, &catalog).expect("room");
        for line in [
            "apiserver_admission_webhook_admission_duration_seconds_bucket{le=\"0.025\",name=\"a.b.c\",type=\"validating\",operation=\"CREATE\",rejected=\"true\"} 1\n",
            "apiserver_admission_webhook_request_total{name=\"a.b.c\",type=\"validating\",operation=\"CREATE\",code=\"600\",rejected=\"true\"} 1\n",
            "apiserver_admission_webhook_rejection_count{name=\"a.b.c\",type=\"validating\",operation=\"CREATE\",error_type=\"no_error\",rejection_code=\"600\"} 1\n",
            "apiserver_admission_webhook_fail_open_count{name=\"a.b.c\",type=\"validating\"} 1\n",
            "apiserver_admission_match_condition_exclusions_total{name=\"a.b.c\",kind=\"webhook\",type=\"validate\",operation=\"CREATE\"} 1\n",
        ] {
            assert!(told.contains(line), "{line} is not in {told}");
        }
        for index in 0..2 * NAMES {
            counts.opened(Whom { name: &index.to_string(), ..whom });
        }
        assert!(counts.names.lock().expect("nobody panics").len() <= NAMES);
    }
}
