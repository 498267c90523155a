//! How long the two steps of admission take.

use std::time::Instant;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry as Catalog;

use super::histogram::Histogram;
use crate::admission::Operation;

/// Limits of the classes of durations, in seconds.
const SECONDS: [f64; 6] = [0.005, 0.025, 0.1, 0.5, 1.0, 2.5];

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    operation: &'static str,
    rejected: &'static str,
    r#type: &'static str,
}

type Durations = Family<Labels, Histogram, fn() -> Histogram>;

/// What is counted of one sort of writes: by step, of those that passed and those that did not.
type ByStep = [[Histogram; 2]; 2];

/// What is counted of both.
pub(crate) struct Steps {
    family: Durations,
    create: ByStep,
    update: ByStep,
    delete: ByStep,
}

impl Default for Steps {
    fn default() -> Self {
        let family = Durations::new_with_constructor(|| Histogram::new(&SECONDS));
        let of = |operation| {
            ["admit", "validate"].map(|step| {
                ["false", "true"]
                    .map(|rejected| family.get_or_create_owned(&Labels { operation, rejected, r#type: step }))
            })
        };
        Self { create: of("CREATE"), update: of("UPDATE"), delete: of("DELETE"), family }
    }
}

impl Steps {
    pub(super) fn register(&self, catalog: &mut Catalog) {
        let text = "Seconds that the steps of admission took";
        catalog.register("apiserver_admission_step_admission_duration_seconds", text, self.family.clone());
    }

    /// Begins the first step of a write.
    pub(crate) fn begin(&self, operation: Operation) -> Step<'_> {
        let steps = match operation {
            Operation::Create => &self.create,
            Operation::Update => &self.update,
            Operation::Delete => &self.delete,
        };
        Step { steps, at: 0, began: Instant::now() }
    }
}

/// A step under way: what ends without having passed was refused, has to be tried again, or was given up by its client.
pub(crate) struct Step<'a> {
    steps: &'a ByStep,
    at: usize,
    began: Instant,
}

impl Step<'_> {
    /// It was passed: the next one begins, where there is one.
    pub(crate) fn pass(&mut self) {
        self.count(0);
        self.at += 1;
        self.began = Instant::now();
    }

    fn count(&self, rejected: usize) {
        if let Some(step) = self.steps.get(self.at) {
            step[rejected].observe(self.began.elapsed().as_secs_f64());
        }
    }
}

impl Drop for Step<'_> {
    fn drop(&mut self) {
        self.count(1);
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;

    #[test]
    fn a_step_that_does_not_pass_is_a_refusal() {
        let (mut catalog, steps) = (Catalog::default(), Steps::default());
        steps.register(&mut catalog);
        let mut passed = steps.begin(Operation::Create);
        passed.pass();
        passed.pass();
        drop(passed);
        let mut refused = steps.begin(Operation::Update);
        refused.pass();
        drop(refused);
        let mut text = String::new();
        encode(&mut text, &catalog).expect("room");
        let count = |labels: &str| {
            let start = format!("apiserver_admission_step_admission_duration_seconds_count{{{labels}}} ");
            text.lines().find_map(|line| line.strip_prefix(&start).map(str::to_owned))
        };
        for (operation, rejected, step, counted) in [
            ("CREATE", false, "admit", "1"),
            ("CREATE", false, "validate", "1"),
            ("CREATE", true, "validate", "0"),
            ("UPDATE", false, "admit", "1"),
            ("UPDATE", true, "validate", "1"),
            ("DELETE", true, "admit", "0"),
        ] {
            let labels = format!("operation=\"{operation}\",rejected=\"{rejected}\",type=\"{step}\"");
            assert_eq!(count(&labels).as_deref(), Some(counted), "{labels} in {text}");
        }
    }
}
