//! What a Pod wants of the Pods near it: affinity, anti-affinity and even spreading, as far as they are conditions. (What
//! Kubernetes only prefers of these is not weighed.)
//!
//! [`Peers`] is the wish, read once. [`Near`] is what the Pods that are placed make of it, worked out once a placement
//! and then asked for each node.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use k8s_openapi::api::core::v1::{Pod, PodAffinityTerm, PodSpec, TopologySpreadConstraint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::{Expression, Selector, SelectorExt as _};

use crate::filters::selects_node;
use crate::snapshot::Snapshot;
use crate::workload::{Object, Workload};
use yunfan_resources::constraint::{Labels, taint_tolerated};

/// Conditions on the Pods near a Pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Peers {
    /// Such Pods must be near.
    pub together: Vec<Term>,
    /// Such Pods must not be near.
    pub apart: Vec<Term>,
    /// Such Pods, this one among them, must be spread evenly.
    pub spread: Vec<Spread>,
}

/// Pods, and what near means.
#[derive(Clone, Debug, PartialEq)]
pub struct Term {
    pods: Option<Selector>,
    namespaces: BTreeSet<String>,
    namespace_selector: Option<Selector>,
    topology_key: String,
}

/// An even spreading: in no value of a node label may there be more than `max_skew` Pods more than in the one with the fewest.
#[derive(Clone, Debug, PartialEq)]
pub struct Spread {
    pods: Option<Selector>,
    topology_key: String,
    max_skew: i64,
    min_domains: usize,
    /// Whether nodes that the Pod's own node affinity excludes count.
    all_nodes: bool,
    /// Whether nodes that the Pod's own tolerations exclude do not count.
    honor_taints: bool,
}

impl Peers {
    /// The conditions of a Pod; none if it has none.
    pub fn of(pod: &Pod, spec: &PodSpec) -> Option<Self> {
        let empty = BTreeMap::new();
        let labels = pod.metadata.labels.as_ref().unwrap_or(&empty);
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let terms = |terms: Option<&Vec<PodAffinityTerm>>| -> Vec<Term> {
            terms.into_iter().flatten().map(|term| Term::new(term, namespace, labels)).collect()
        };
        let affinity = spec.affinity.as_ref();
        let peers = Self {
            together: terms(
                affinity
                    .and_then(|affinity| affinity.pod_affinity.as_ref())
                    .and_then(|own| own.required_during_scheduling_ignored_during_execution.as_ref()),
            ),
            apart: terms(
                affinity
                    .and_then(|affinity| affinity.pod_anti_affinity.as_ref())
                    .and_then(|own| own.required_during_scheduling_ignored_during_execution.as_ref()),
            ),
            spread: spec
                .topology_spread_constraints
                .iter()
                .flatten()
                .filter(|constraint| constraint.when_unsatisfiable == "DoNotSchedule")
                .map(|constraint| Spread::new(constraint, labels))
                .collect(),
        };
        (!(peers.together.is_empty() && peers.apart.is_empty() && peers.spread.is_empty())).then_some(peers)
    }
}

/// A selector with the Pod's own values of some labels added. No selector selects nothing.
fn selector(
    of: Option<&LabelSelector>,
    labels: &Labels,
    same: Option<&Vec<String>>,
    other: Option<&Vec<String>>,
) -> Option<Selector> {
    // One that cannot be read selects nothing either; validation does not let it through.
    let mut selector = Selector::try_from(of?.clone()).ok()?;
    let own = |keys: Option<&Vec<String>>| -> Vec<(String, String)> {
        keys.into_iter().flatten().filter_map(|key| Some((key.clone(), labels.get(key)?.clone()))).collect()
    };
    selector.extend(own(same).into_iter().map(|(key, value)| Expression::In(key, [value].into())));
    selector.extend(own(other).into_iter().map(|(key, value)| Expression::NotIn(key, [value].into())));
    Some(selector)
}

impl Term {
    fn new(term: &PodAffinityTerm, namespace: &str, labels: &Labels) -> Self {
        let mut namespaces: BTreeSet<String> = term.namespaces.iter().flatten().cloned().collect();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.insert(namespace.to_owned());
        }
        Self {
            pods: selector(
                term.label_selector.as_ref(),
                labels,
                term.match_label_keys.as_ref(),
                term.mismatch_label_keys.as_ref(),
            ),
            namespaces,
            namespace_selector: selector(term.namespace_selector.as_ref(), labels, None, None),
            topology_key: term.topology_key.clone(),
        }
    }

    fn selects(&self, snapshot: &Snapshot, pod: &Workload) -> bool {
        let in_namespace = || {
            self.namespaces.contains(pod.namespace())
                || self.namespace_selector.as_ref().is_some_and(|selector| {
                    selector.selects_all()
                        || snapshot.namespace(pod.namespace()).is_some_and(|labels| selector.matches(labels))
                })
        };
        self.pods.as_ref().is_some_and(|selector| selector.matches(pod.labels())) && in_namespace()
    }
}

impl Spread {
    fn new(constraint: &TopologySpreadConstraint, labels: &Labels) -> Self {
        Self {
            pods: selector(
                constraint.label_selector.as_ref(),
                labels,
                constraint.match_label_keys.as_ref(),
                None,
            ),
            topology_key: constraint.topology_key.clone(),
            max_skew: i64::from(constraint.max_skew),
            min_domains: constraint.min_domains.and_then(|n| usize::try_from(n).ok()).unwrap_or(1),
            all_nodes: constraint.node_affinity_policy.as_deref() == Some("Ignore"),
            honor_taints: constraint.node_taints_policy.as_deref() == Some("Honor"),
        }
    }

    fn selects(&self, pod: &Workload) -> bool {
        self.pods.as_ref().is_some_and(|selector| selector.matches(pod.labels()))
    }
}

/// Values of node labels: where Pods are, and how far "near" goes.
#[derive(Debug, Default)]
struct Places(HashMap<String, HashSet<String>>);

impl Places {
    /// Adds where a row is.
    fn add(&mut self, snapshot: &Snapshot, row: usize, key: &str) {
        let Some(value) = snapshot.labels[row].get(key) else { return };
        // Most are there already.
        if !self.0.get(key).is_some_and(|values| values.contains(value)) {
            self.0.entry(key.to_owned()).or_default().insert(value.clone());
        }
    }

    /// Whether a node with these labels is in one of them.
    fn has(&self, labels: &Labels) -> bool {
        self.0.iter().any(|(key, values)| labels.get(key).is_some_and(|own| values.contains(own)))
    }
}

/// What the Pods that are placed mean for one that is not.
#[derive(Debug, Default)]
pub(crate) struct Near {
    /// For each term of `together`: its label, and where such a Pod is.
    together: Vec<(String, Places)>,
    /// There is no such Pod anywhere, and this one is such a Pod: it may be the first.
    first_of_its_kind: bool,
    apart: Places,
    /// Places that Pods keep this one away from.
    repelled: Places,
    spread: Vec<Domains>,
}

#[derive(Debug)]
struct Domains {
    key: String,
    counts: HashMap<String, i64>,
    least: i64,
    max_skew: i64,
    /// 1 if the Pod itself is one of those that are counted.
    own: i64,
}

/// Why a node is not for a Pod because of its peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Conflict {
    Together,
    Apart,
    Repelled,
}

impl Near {
    pub(crate) fn new(snapshot: &Snapshot, workload: &Workload) -> Option<Self> {
        if !matches!(workload.object, Object::Pod(_)) {
            return None;
        }
        let mut near = Self::default();
        for (row, other) in snapshot.repelling_pods() {
            for term in other.peers.iter().flat_map(|peers| &peers.apart) {
                if term.selects(snapshot, workload) {
                    near.repelled.add(snapshot, row, &term.topology_key);
                }
            }
        }
        let Some(peers) = &workload.peers else { return Some(near) };
        near.together =
            peers.together.iter().map(|term| (term.topology_key.clone(), Places::default())).collect();
        near.spread = peers.spread.iter().map(|spread| Domains::new(spread, snapshot, workload)).collect();
        let is_such = |pod: &Workload| peers.together.iter().all(|term| term.selects(snapshot, pod));
        near.first_of_its_kind = is_such(workload);
        for (row, other) in snapshot.pods() {
            // Who is not there yet draws nobody near.
            if !peers.together.is_empty() && is_such(other) && !snapshot.is_expected(&other.uid) {
                near.first_of_its_kind = false;
                for (key, places) in &mut near.together {
                    places.add(snapshot, row, key);
                }
            }
            for term in peers.apart.iter().filter(|term| term.selects(snapshot, other)) {
                near.apart.add(snapshot, row, &term.topology_key);
            }
            let leaving = other.object.metadata().deletion_timestamp.is_some();
            if !leaving && other.namespace() == workload.namespace() {
                for (spread, domains) in peers.spread.iter().zip(&mut near.spread) {
                    if spread.selects(other) {
                        domains.count(snapshot, row);
                    }
                }
            }
        }
        for (spread, domains) in peers.spread.iter().zip(&mut near.spread) {
            let fewest = domains.counts.values().copied().min().unwrap_or(0);
            domains.least = if domains.counts.len() < spread.min_domains { 0 } else { fewest };
        }
        Some(near)
    }

    /// Whether it makes a difference for `workload` that `other` is there.
    pub(crate) fn depends_on(snapshot: &Snapshot, workload: &Workload, other: &Workload) -> bool {
        let mut repelling = other.peers.iter().flat_map(|peers| &peers.apart);
        repelling.any(|term| term.selects(snapshot, workload))
            || workload.peers.as_ref().is_some_and(|peers| {
                let mut terms = peers.together.iter().chain(&peers.apart);
                terms.any(|term| term.selects(snapshot, other))
                    || peers.spread.iter().any(|spread| spread.selects(other))
            })
    }

    /// Whether the Pods near a node with these labels forbid it.
    pub(crate) fn conflict(&self, labels: &Labels) -> Option<Conflict> {
        let together = |(key, places): &(String, Places)| {
            places.has(labels) || (self.first_of_its_kind && labels.contains_key(key))
        };
        if !self.together.iter().all(together) {
            Some(Conflict::Together)
        } else if self.apart.has(labels) {
            Some(Conflict::Apart)
        } else if self.repelled.has(labels) {
            Some(Conflict::Repelled)
        } else {
            None
        }
    }

    /// Whether a node with these labels keeps the spreading even; an error if it lacks a label that it is about.
    pub(crate) fn spreads(&self, labels: &Labels) -> Result<bool, ()> {
        let mut even = true;
        for domains in &self.spread {
            let value = labels.get(&domains.key).ok_or(())?;
            let here = domains.counts.get(value).copied().unwrap_or(0);
            even &= here + domains.own - domains.least <= domains.max_skew;
        }
        Ok(even)
    }
}

impl Domains {
    /// The places that count, without Pods.
    fn new(spread: &Spread, snapshot: &Snapshot, workload: &Workload) -> Self {
        let counts = (0..snapshot.rows())
            .filter(|row| {
                let (name, labels) = (&snapshot.names[*row], &snapshot.labels[*row]);
                let tolerates = || {
                    snapshot.taints[*row].iter().all(|taint| {
                        taint.effect == "PreferNoSchedule" || taint_tolerated(&workload.tolerations, taint)
                    })
                };
                snapshot.present[*row]
                    && (spread.all_nodes || selects_node(workload, name, labels))
                    && (!spread.honor_taints || tolerates())
            })
            .filter_map(|row| Some((snapshot.labels[row].get(&spread.topology_key)?.clone(), 0)))
            .collect();
        Self {
            key: spread.topology_key.clone(),
            counts,
            least: 0,
            max_skew: spread.max_skew,
            own: i64::from(spread.selects(workload)),
        }
    }

    fn count(&mut self, snapshot: &Snapshot, row: usize) {
        if let Some(count) = snapshot.labels[row].get(&self.key).and_then(|value| self.counts.get_mut(value))
        {
            *count += 1;
        }
    }
}

#[cfg(test)]
mod tests;
