//! Which Pods of the node end to make room for one that it can't do without: as few as can be, the best served ones last.

use std::cmp::Ordering;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use yunfan_resources::requests::Requests;

use super::fit::{Shortage, given};
use super::mirror::MIRROR;
use super::plan::End;
use super::resources::qos_class;
use crate::shutdown::CRITICAL_PRIORITY;

/// Reason of the events and statuses of those that end, and what they say, in the kubelet's words.
pub(super) const REASON: &str = "Preempting";
pub(super) const MESSAGE: &str = "Preempted in order to admit critical pod";
const CONDITION: &str = "Pod was preempted by Kubelet to accommodate a critical pod.";
/// Classes of service, in the order in which their Pods end.
const CLASSES: [&str; 3] = ["BestEffort", "Burstable", "Guaranteed"];

/// How such a Pod ends.
pub(super) fn end() -> End {
    End { disrupted: Some(CONDITION.to_owned()), ..End::failed(REASON, MESSAGE) }
}

/// Whether a Pod is one that the node can't do without: one of its own, or of a critical priority.
pub(super) fn is_critical(pod: &Pod, is_static: bool) -> bool {
    is_static || pod.annotations().contains_key(MIRROR) || priority(pod) >= Some(CRITICAL_PRIORITY)
}

fn priority(pod: &Pod) -> Option<i32> {
    pod.spec.as_ref()?.priority
}

/// A Pod that may end, and what comes free with it.
struct Candidate<'a> {
    pod: &'a Arc<Pod>,
    takes: Requests,
}

/// How much of which resources has to come free yet.
#[derive(Clone)]
struct Needs(Vec<(String, i64)>);

impl Needs {
    fn without<'a>(&self, gone: impl Iterator<Item = &'a Candidate<'a>> + Clone) -> Self {
        let left = self.0.iter().map(|(name, amount)| {
            let freed = gone.clone().map(|one| one.takes.amount(name));
            (name.clone(), freed.fold(*amount, i64::saturating_sub))
        });
        Self(left.filter(|(_, amount)| *amount > 0).collect())
    }

    /// How far a Pod's end is from what is needed: the share of each need that it leaves, squared.
    fn distance(&self, candidate: &Candidate<'_>) -> f64 {
        let left = self.0.iter().map(|(name, amount)| {
            let rest = amount.saturating_sub(candidate.takes.amount(name)).max(0);
            (rest as f64 / *amount as f64).powi(2)
        });
        left.sum()
    }
}

/// Which of `others` end to make room for a critical Pod that there is too little for; none where all of them together do not.
pub(super) fn victims(
    critical: &Pod,
    others: &[Arc<Pod>],
    short: &[Shortage],
    is_static: impl Fn(&Pod) -> bool,
) -> Option<Vec<Arc<Pod>>> {
    let needs = Needs(short.iter().map(|short| (short.resource.clone(), short.missing())).collect());
    let may_end: Vec<Candidate<'_>> = others
        .iter()
        .filter(|other| {
            let more = || Some(priority(critical)? > priority(other)?);
            !is_critical(other, is_static(other)) || more() == Some(true)
        })
        .map(|pod| Candidate { pod, takes: given(pod) })
        .collect();
    let classes: [Vec<&Candidate<'_>>; 3] =
        CLASSES.map(|class| may_end.iter().filter(|one| qos_class(one.pod) == class).collect());
    let mut chosen: Vec<&Candidate<'_>> = Vec::new();
    for (at, class) in classes.iter().enumerate().rev() {
        // If all that are worse served went, so many of these would have to.
        let lower = classes[..at].iter().flatten();
        let rest = needs.without(lower.chain(&chosen).copied());
        chosen.extend(nearest(class.clone(), rest)?);
    }
    Some(chosen.into_iter().map(|one| one.pod.clone()).collect())
}

/// One after another those whose end comes nearest to what is needed; of two that come as near the smaller one.
fn nearest<'a>(pool: Vec<&'a Candidate<'a>>, needs: Needs) -> Option<Vec<&'a Candidate<'a>>> {
    let (mut pool, mut needs, mut chosen) = (pool, needs, Vec::new());
    while !needs.0.is_empty() {
        let size = |one: &Candidate<'_>| (one.takes.memory, one.takes.cpu);
        let nearer = |a: &&Candidate<'_>, b: &&Candidate<'_>| -> Ordering {
            needs.distance(a).total_cmp(&needs.distance(b)).then(size(a).cmp(&size(b)))
        };
        let (at, _) = pool.iter().enumerate().min_by(|(_, a), (_, b)| nearer(a, b))?;
        let next = pool.swap_remove(at);
        needs = needs.without(std::iter::once(next));
        chosen.push(next);
    }
    Some(chosen)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json};

    use super::*;

    fn pod(name: &str, priority: i32, resources: Value) -> Arc<Pod> {
        let pod = json!({"metadata": {"name": name, "uid": name},
            "spec": {"priority": priority, "containers": [{"name": "c", "resources": resources}]}});
        Arc::new(from_value(pod).unwrap())
    }

    fn asks(name: &str, cpu: &str) -> Arc<Pod> {
        pod(name, 0, json!({"requests": {"cpu": cpu}}))
    }

    fn short(cpu: i64) -> Vec<Shortage> {
        vec![Shortage { resource: "cpu".to_owned(), requested: cpu, used: 4000, capacity: 4000 }]
    }

    fn chosen(critical: &Pod, others: &[Arc<Pod>], short: &[Shortage]) -> Option<Vec<String>> {
        let mut names: Vec<String> = victims(critical, others, short, |pod| pod.name_any() == "own")?
            .iter()
            .map(|pod| pod.name_any())
            .collect();
        names.sort();
        Some(names)
    }

    #[test]
    fn as_few_end_as_can_be_and_the_best_served_last() {
        let critical = pod("critical", CRITICAL_PRIORITY, json!({}));
        let guaranteed = pod("sure", 0, json!({"limits": {"cpu": "2", "memory": "1Gi"}}));
        let others = [asks("small", "500m"), asks("large", "2"), asks("middle", "1"), guaranteed];
        let says = |cpu| chosen(&critical, &others, &short(cpu));
        assert_eq!(says(400).unwrap(), ["small"]);
        assert_eq!(says(1000).unwrap(), ["middle"]);
        assert_eq!(says(2500).unwrap(), ["large", "small"]);
        assert_eq!(says(5500).unwrap(), ["large", "middle", "small", "sure"]);
        assert_eq!(says(5600), None, "all of them together are too little");
        let pods = [Shortage { resource: "pods".to_owned(), requested: 1, used: 5, capacity: 5 }];
        let none = [pod("idle", 0, json!({})), asks("busy", "1")];
        assert_eq!(chosen(&critical, &none, &pods).unwrap(), ["idle"], "the worst served first");
    }

    #[test]
    fn nobody_ends_for_who_is_not_more_important() {
        let vital = |name: &str, priority| pod(name, priority, json!({"requests": {"cpu": "4"}}));
        let critical = vital("critical", CRITICAL_PRIORITY);
        assert_eq!(chosen(&critical, &[vital("other", CRITICAL_PRIORITY)], &short(1000)), None);
        assert!(chosen(&vital("more", CRITICAL_PRIORITY + 1), &[critical], &short(1000)).is_some());
        let [own, plain] = ["own", "plain"].map(|name| pod(name, 0, json!({"requests": {"cpu": "4"}})));
        assert_eq!(
            chosen(&vital("other", CRITICAL_PRIORITY), std::slice::from_ref(&own), &short(1000)).unwrap(),
            ["own"]
        );
        assert_eq!(chosen(&own, std::slice::from_ref(&own), &short(1000)), None);
        assert!(chosen(&own, &[plain], &short(1000)).is_some());
    }
}
