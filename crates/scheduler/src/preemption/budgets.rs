//! Disruption budgets: which Pods should rather stay.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::ResourceExt as _;
use yunfan_resources::constraint::selects;

use crate::workload::Workload;

/// The disruption budgets, by namespace and name.
#[derive(Debug, Default)]
pub(crate) struct Budgets {
    known: HashMap<String, BTreeMap<String, Arc<PodDisruptionBudget>>>,
}

impl Budgets {
    /// Takes in a budget, or that it is gone.
    pub(crate) fn set(&mut self, budget: &Arc<PodDisruptionBudget>, there: bool) {
        let (namespace, name) = (budget.namespace().unwrap_or_default(), budget.name_any());
        if there {
            self.known.entry(namespace).or_default().insert(name, budget.clone());
        } else if let Some(own) = self.known.get_mut(&namespace) {
            own.remove(&name);
            if own.is_empty() {
                self.known.remove(&namespace);
            }
        }
    }

    /// Those of `pods` whose end would go against a budget if all before them ended too, and the others; both in the order
    /// in which they came.
    pub(crate) fn split(&self, pods: Vec<Arc<Workload>>) -> (Vec<Arc<Workload>>, Vec<Arc<Workload>>) {
        let mut taken: HashMap<(&str, &str), i32> = HashMap::new();
        pods.into_iter().partition(|pod| {
            let Some((namespace, own)) = self.known.get_key_value(pod.namespace()) else { return false };
            let mut violated = false;
            for (name, budget) in own.iter().filter(|(_, budget)| is_about(budget, pod)) {
                let allowed =
                    budget.status.as_ref().and_then(|status| status.disruptions_allowed).unwrap_or(0);
                let taken = taken.entry((namespace, name)).or_default();
                *taken += 1;
                violated |= *taken > allowed;
            }
            violated
        })
    }
}

/// Whether a Pod's end counts for a budget. A budget that selects all is about none here, as in Kubernetes, and one that
/// knows of the Pod's end already has paid for it.
fn is_about(budget: &PodDisruptionBudget, pod: &Workload) -> bool {
    let Some(selector) = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref()) else { return false };
    let all = selector.match_labels.as_ref().is_none_or(BTreeMap::is_empty)
        && selector.match_expressions.as_ref().is_none_or(Vec::is_empty);
    let paid = budget
        .status
        .as_ref()
        .and_then(|status| status.disrupted_pods.as_ref())
        .is_some_and(|pods| pods.contains_key(pod.name()));
    !all && !paid && !pod.labels().is_empty() && selects(selector, Some(pod.labels()))
}
