//! What is to be done about a DaemonSet's Pods, and what its status says.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;

use super::node::{Fit, fit, node_of};
use crate::history::HASH_LABEL;
use crate::pods::{availability, is_ready, phase, sooner};
use crate::share::share;
use crate::status::{count, number};

/// What is to be done.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Nodes that get a Pod.
    pub(super) create: Vec<String>,
    pub(super) delete: Vec<Arc<Pod>>,
    /// Pods among those to delete that ended, which no daemon should.
    pub(super) ended: Vec<Arc<Pod>>,
    /// When to look again if nothing happens.
    pub(super) again: Option<Duration>,
}

/// A DaemonSet as it is seen.
pub(super) struct View<'a> {
    set: &'a DaemonSet,
    /// The hash of the present template.
    hash: &'a str,
    now: Timestamp,
    fits: BTreeMap<String, Fit>,
    /// Pods by their nodes, the oldest first. Those without a node, or whose node is gone, are under its name all the same.
    on: BTreeMap<String, Vec<Arc<Pod>>>,
    pods: &'a [Arc<Pod>],
}

/// The Pods of a node by their templates; none when there are more than one of a template.
type Pair<'a> = Option<(Option<&'a Arc<Pod>>, Option<&'a Arc<Pod>>)>;

impl<'a> View<'a> {
    pub(super) fn new(
        set: &'a DaemonSet,
        hash: &'a str,
        nodes: &[Arc<Node>],
        pods: &'a [Arc<Pod>],
        now: Timestamp,
    ) -> Self {
        let fits = nodes.iter().map(|node| (node.name_any(), fit(set, node))).collect();
        let mut on: BTreeMap<String, Vec<Arc<Pod>>> = BTreeMap::new();
        for pod in pods {
            on.entry(node_of(pod).unwrap_or_default().to_owned()).or_default().push(pod.clone());
        }
        for pods in on.values_mut() {
            let is_new = |pod: &Pod| pod.labels().get(HASH_LABEL).is_some_and(|own| own == hash);
            pods.sort_by_key(|pod| (pod.creation_timestamp(), is_new(pod), pod.name_any()));
        }
        Self { set, hash, now, fits, on, pods }
    }

    fn on(&self, node: &str) -> &[Arc<Pod>] {
        self.on.get(node).map_or(&[], Vec::as_slice)
    }

    fn is_new(&self, pod: &Pod) -> bool {
        pod.labels().get(HASH_LABEL).is_some_and(|hash| hash == self.hash)
    }

    fn min_ready(&self) -> i32 {
        self.set.spec.min_ready_seconds.unwrap_or(0)
    }

    fn is_available(&self, pod: &Pod) -> bool {
        availability(pod, self.min_ready(), self.now).is_ok()
    }

    /// `maxSurge` and `maxUnavailable` in Pods; none without a rolling update.
    fn bounds(&self) -> Option<(usize, usize)> {
        let strategy = self.set.spec.update_strategy.as_ref();
        if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("OnDelete") {
            return None;
        }
        let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        let desired = number(self.fits.values().filter(|fit| **fit == Fit::Runs).count());
        let surge = rolling
            .and_then(|rolling| rolling.max_surge.as_ref())
            .map_or(0, |most| share(most, desired, true));
        let unavailable = rolling.and_then(|rolling| rolling.max_unavailable.as_ref());
        let unavailable = unavailable.map_or(1, |most| share(most, desired, true));
        // Both zero would never move.
        let unavailable = if surge == 0 { unavailable.max(1) } else { unavailable };
        Some((usize::try_from(surge).unwrap_or(0), usize::try_from(unavailable).unwrap_or(0)))
    }

    /// What is to be done.
    pub(super) fn plan(&self) -> Plan {
        let waits = self.pods.iter().filter_map(|pod| availability(pod, self.min_ready(), self.now).err()?);
        let mut plan = Plan { again: waits.map(Some).fold(None, sooner), ..Plan::default() };
        if self.set.metadata.deletion_timestamp.is_some() {
            return plan;
        }
        let nodes: BTreeSet<&String> = self.fits.keys().chain(self.on.keys()).collect();
        for node in nodes {
            self.place(node, &mut plan);
        }
        // Updates begin where all is in its place.
        if plan.create.is_empty() && plan.delete.is_empty() {
            match self.bounds() {
                Some((0, unavailable)) => self.replace(unavailable, &mut plan),
                Some((surge, _)) => self.surge(surge, &mut plan),
                None => {}
            }
        }
        plan
    }

    /// One Pod where it belongs, and none elsewhere.
    fn place(&self, node: &str, plan: &mut Plan) {
        let pods = self.on(node);
        let fit = self.fits.get(node).copied();
        if fit == Some(Fit::Runs) && pods.is_empty() {
            plan.create.push(node.to_owned());
            return;
        }
        let live = pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
        if matches!(fit, None | Some(Fit::Not)) {
            // Those that are placed on a node that is gone go with it.
            let here = live
                .filter(|pod| fit.is_some() || pod.spec.as_ref().is_none_or(|spec| spec.node_name.is_none()));
            plan.delete.extend(here.cloned());
            return;
        }
        let (ended, running): (Vec<_>, Vec<_>) =
            live.cloned().partition(|pod| matches!(phase(pod), "Failed" | "Succeeded"));
        plan.delete.extend(ended.iter().cloned());
        plan.ended.extend(ended);
        if self.bounds().is_none_or(|(surge, _)| surge == 0) {
            plan.delete.extend(running.into_iter().skip(1));
            return;
        }
        // During an update there may be an old and a new one, until the new one can take over.
        let (new, old): (Vec<_>, Vec<_>) = running.into_iter().partition(|pod| self.is_new(pod));
        if let (Some(first_new), Some(first_old)) = (new.first(), old.first())
            && (!is_ready(first_old) || self.is_available(first_new))
        {
            plan.delete.push(first_old.clone());
        }
        plan.delete.extend(new.into_iter().skip(1).chain(old.into_iter().skip(1)));
    }

    fn pair(&self, node: &str) -> Pair<'_> {
        let (mut new, mut old) = (None, None);
        for pod in self.on(node).iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
            let place = if self.is_new(pod) { &mut new } else { &mut old };
            if place.replace(pod).is_some() {
                return None;
            }
        }
        Some((new, old))
    }

    /// Old Pods go; new ones come to the nodes that have none then.
    fn replace(&self, most: usize, plan: &mut Plan) {
        let mut unavailable = 0;
        let mut candidates = Vec::new();
        for node in self.on.keys() {
            match self.pair(node) {
                Some((Some(new), None)) => unavailable += usize::from(!self.is_available(new)),
                Some((None, Some(old))) if self.is_available(old) => candidates.push(old.clone()),
                Some((None, Some(old))) => {
                    // Nothing is lost by taking it away.
                    unavailable += 1;
                    plan.delete.push(old.clone());
                }
                _ => unavailable += 1,
            }
        }
        plan.delete.extend(candidates.into_iter().take(most.saturating_sub(unavailable)));
    }

    /// New Pods come beside old ones, which go when those are available.
    fn surge(&self, most: usize, plan: &mut Plan) {
        let mut surging = 0;
        let mut candidates = Vec::new();
        for node in self.on.keys().filter(|node| self.fits.get(*node) == Some(&Fit::Runs)) {
            match self.pair(node) {
                None => surging += 1,
                Some((_, None)) => {}
                Some((None, Some(old))) if self.is_available(old) => candidates.push(node.clone()),
                Some((None, Some(_))) => plan.create.push(node.clone()),
                Some((Some(new), Some(old))) if self.is_available(new) => plan.delete.push(old.clone()),
                Some(_) => surging += 1,
            }
        }
        plan.create.extend(candidates.into_iter().take(most.saturating_sub(surging)));
    }

    /// The status.
    pub(super) fn status(&self, collisions: i32) -> DaemonSetStatus {
        let (mut desired, mut current, mut stray) = (0, 0, 0);
        let (mut ready, mut available, mut updated) = (0, 0, 0);
        for (node, fit) in &self.fits {
            let pods = self.on(node);
            if *fit != Fit::Runs {
                stray += i32::from(!pods.is_empty());
                continue;
            }
            desired += 1;
            let Some(pod) = pods.first() else { continue };
            current += 1;
            ready += i32::from(is_ready(pod));
            available += i32::from(self.is_available(pod));
            updated += i32::from(self.is_new(pod));
        }
        DaemonSetStatus {
            observed_generation: self.set.metadata.generation,
            desired_number_scheduled: desired,
            current_number_scheduled: current,
            number_misscheduled: stray,
            number_ready: ready,
            number_available: count(available),
            number_unavailable: count(desired - available),
            updated_number_scheduled: count(updated),
            collision_count: (collisions > 0).then_some(collisions),
            conditions: self.set.status.as_ref().and_then(|status| status.conditions.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const NODES: [&str; 3] = ["a", "b", "c"];

    /// A Pod `NAME@NODE:old|new`, followed by `?` when it is not ready, `!` when it failed and `-` when it is being deleted.
    fn pod(text: &str) -> Arc<Pod> {
        let (name, rest) = text.split_once('@').unwrap();
        let (node, rest) = rest.split_once(':').unwrap();
        let hash = rest.trim_end_matches(['?', '!', '-']);
        let ready = if rest.contains(['?', '!']) { "False" } else { "True" };
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": name, "labels": {HASH_LABEL: hash}, "creationTimestamp": "2026-01-01T00:00:00Z",
                    "deletionTimestamp": rest.contains('-').then_some("2026-01-01T00:00:00Z")},
                "spec": {"nodeName": node, "containers": []},
                "status": {"phase": if rest.contains('!') { "Failed" } else { "Running" },
                    "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": "2026-01-01T00:00:00Z"}]},
            }))
            .unwrap(),
        )
    }

    fn with_view<T>(strategy: Value, taints: Value, pods: &[&str], look: impl Fn(View<'_>) -> T) -> T {
        let set: DaemonSet =
            serde_json::from_value(json!({"metadata": {"name": "d"}, "spec": {"selector": {},
            "template": {"spec": {"containers": []}}, "updateStrategy": strategy}}))
            .unwrap();
        let nodes: Vec<Arc<Node>> = NODES
            .iter()
            .map(|name| {
                let taints = taints.get(name).cloned().unwrap_or_default();
                Arc::new(
                    serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"taints": taints}}))
                        .unwrap(),
                )
            })
            .collect();
        let pods: Vec<_> = pods.iter().map(|text| pod(text)).collect();
        let now = "2026-01-01T00:01:00Z".parse().unwrap();
        look(View::new(&set, "new", &nodes, &pods, now))
    }

    fn planned(strategy: Value, taints: Value, pods: &[&str]) -> String {
        let plan = with_view(strategy, taints, pods, |view| view.plan());
        let create = plan.create.iter().map(|node| format!("+{node}"));
        let delete = plan.delete.iter().map(|pod| format!("-{}", pod.name_any()));
        create.chain(delete).collect::<Vec<_>>().join(" ")
    }

    fn rolling(unavailable: Value, surge: Value) -> Value {
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": unavailable, "maxSurge": surge}})
    }

    #[test]
    fn each_node_that_fits_has_one_pod() {
        let plain = || rolling(json!(1), json!(0));
        let (tainted, evicting) = (
            json!({"c": [{"key": "k", "effect": "NoSchedule"}]}),
            json!({"c": [{"key": "k", "effect": "NoExecute"}]}),
        );
        for (taints, pods, expected) in [
            (json!({}), &[][..], "+a +b +c"),
            (json!({}), &["1@a:new", "2@b:new-"], "+c"),
            (json!({}), &["1@a:new", "2@a:new", "3@b:new", "4@c:new"], "-2"),
            (json!({}), &["1@a:new", "2@b:new!", "3@c:new"], "-2"),
            (json!({}), &["1@a:new", "2@b:new", "3@c:new", "4@gone:new"], ""),
            (tainted.clone(), &["1@a:new", "2@b:new"], ""),
            (tainted, &["1@a:new", "2@b:new", "3@c:new"], ""),
            (evicting, &["1@a:new", "2@b:new", "3@c:new"], "-3"),
        ] {
            assert_eq!(planned(plain(), taints.clone(), pods), expected, "{taints} {pods:?}");
        }
    }

    #[test]
    fn updates_keep_to_their_bounds() {
        let old = ["1@a:old", "2@b:old", "3@c:old"];
        for (strategy, pods, expected) in [
            (rolling(json!(1), json!(0)), &old[..], "-1"),
            (rolling(json!("67%"), json!(0)), &old, "-1 -2 -3"),
            (rolling(json!(1), json!(0)), &["1@a:new?", "2@b:old", "3@c:old"], ""),
            (rolling(json!(1), json!(0)), &["1@a:new", "2@b:old", "3@c:old?"], "-3"),
            (json!({"type": "OnDelete"}), &old, ""),
            (rolling(json!(0), json!(1)), &old, "+a"),
            (rolling(json!(0), json!(1)), &["1@a:old", "4@a:new?", "2@b:old", "3@c:old"], ""),
            (rolling(json!(0), json!(1)), &["1@a:old", "4@a:new", "2@b:old", "3@c:old"], "-1"),
            (rolling(json!(0), json!(2)), &["1@a:old?", "2@b:old", "3@c:old"], "+a +b +c"),
        ] {
            assert_eq!(planned(strategy.clone(), json!({}), pods), expected, "{strategy} {pods:?}");
        }
    }

    #[test]
    fn the_status_counts_nodes() {
        let taints = json!({"c": [{"key": "k", "effect": "NoSchedule"}]});
        let pods = ["1@a:old", "2@b:new?", "3@c:new"];
        let status = with_view(rolling(json!(1), json!(0)), taints, &pods, |view| json!(view.status(0)));
        let expected = json!({"desiredNumberScheduled": 2, "currentNumberScheduled": 2, "numberMisscheduled": 1, "numberReady": 1,
            "numberAvailable": 1, "numberUnavailable": 1, "updatedNumberScheduled": 1});
        assert_eq!(status, expected);
    }
}
