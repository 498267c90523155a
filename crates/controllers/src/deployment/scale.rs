//! A Deployment that was resized while more than one of its ReplicaSets has Pods: each gets its share of the change, so that an
//! update that is under way stays as far as it is.

use std::cmp::Reverse;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet};
use kube::ResourceExt;

use super::sets::{Sets, available, bounds, is_recreate, replicas, size};
use super::{DESIRED, MAX_SIZE};

fn annotated(set: &ReplicaSet, key: &str) -> Option<i32> {
    set.annotations().get(key)?.parse().ok()
}

/// Whether another number of Pods is asked for than when the sets were last scaled.
pub(super) fn is_resized(spec: &DeploymentSpec, sets: &Sets) -> bool {
    let mut live = sets.all().filter(|set| size(set) > 0);
    live.any(|set| annotated(set, DESIRED).is_some_and(|desired| desired != replicas(spec)))
}

/// The sizes that the sets get.
pub(super) fn sizes(
    deployment: &Deployment,
    spec: &DeploymentSpec,
    sets: &Sets,
) -> Vec<(Arc<ReplicaSet>, i32)> {
    let wanted = replicas(spec);
    let live: Vec<&Arc<ReplicaSet>> = sets.all().filter(|set| size(set) > 0).collect();
    if live.len() <= 1 {
        let only = live.first().copied().or(sets.new.as_ref()).or(sets.old.last());
        return only.map(|set| (set.clone(), wanted)).into_iter().collect();
    }
    let saturated = |new: &Arc<ReplicaSet>| {
        size(new) == wanted && annotated(new, DESIRED) == Some(wanted) && available(new) == wanted
    };
    if sets.new.as_ref().is_some_and(saturated) {
        return sets.old.iter().filter(|set| size(set) > 0).map(|set| (set.clone(), 0)).collect();
    }
    if is_recreate(spec) || !is_resized(spec, sets) {
        // An update that was stopped midway stays as it is.
        return Vec::new();
    }
    in_proportion(deployment, spec, live)
}

fn in_proportion(
    deployment: &Deployment,
    spec: &DeploymentSpec,
    mut live: Vec<&Arc<ReplicaSet>>,
) -> Vec<(Arc<ReplicaSet>, i32)> {
    let (surge, _) = bounds(spec);
    let most = if replicas(spec) > 0 { replicas(spec).saturating_add(surge) } else { 0 };
    let total: i32 = live.iter().map(|set| size(set)).sum();
    let change = most - total;
    // The largest first; of equal ones the newest grows first, and the oldest shrinks first.
    live.sort_by_key(|set| set.creation_timestamp());
    if change > 0 {
        live.reverse();
    }
    live.sort_by_key(|set| Reverse(size(set)));
    let now = deployment.status.as_ref().and_then(|status| status.replicas).unwrap_or(0);
    let mut sizes = Vec::new();
    let mut done = 0;
    for set in live {
        let share = share_of(set, most, now);
        let left = change - done;
        let step = if change > 0 { share.clamp(0, left) } else { share.clamp(left, 0) };
        done += step;
        sizes.push((set.clone(), size(set) + step));
    }
    // What rounding left over is the first one's.
    if let Some((_, first)) = sizes.first_mut() {
        *first = (*first + change - done).max(0);
    }
    sizes
}

/// By how many Pods a set should change, as the greatest number of Pods changes to `most`.
fn share_of(set: &ReplicaSet, most: i32, now: i32) -> i32 {
    if most == 0 {
        return -size(set);
    }
    let before = annotated(set, MAX_SIZE).filter(|before| *before > 0).unwrap_or(now.max(1));
    let scaled = (i64::from(size(set)) * i64::from(most) * 2 + i64::from(before)) / (i64::from(before) * 2);
    i32::try_from(scaled).unwrap_or(i32::MAX) - size(set)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A set of a size, scaled when so many were asked for and so many might be there at most, `born` seconds after the first.
    fn set(size: i32, desired: i32, most: i32, born: i32) -> Arc<ReplicaSet> {
        let annotations = json!({DESIRED: desired.to_string(), MAX_SIZE: most.to_string()});
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"annotations": annotations, "creationTimestamp": format!("2026-01-01T00:00:{born:02}Z")},
                "spec": {"replicas": size, "selector": {}}, "status": {"replicas": size, "availableReplicas": size}}))
            .unwrap(),
        )
    }

    fn after(
        replicas: i32,
        surge: i32,
        new: Option<Arc<ReplicaSet>>,
        old: Vec<Arc<ReplicaSet>>,
    ) -> Vec<(i32, i32)> {
        let update = json!({"maxSurge": surge, "maxUnavailable": 2});
        let spec: DeploymentSpec =
            serde_json::from_value(json!({"replicas": replicas, "selector": {}, "template": {},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": update}}))
            .unwrap();
        let sizes = sizes(&Deployment::default(), &spec, &Sets { new, old });
        sizes.iter().map(|(set, to)| (size(set), *to)).collect()
    }

    #[test]
    fn sets_grow_and_shrink_in_proportion() {
        let midway = || (Some(set(5, 10, 13, 1)), vec![set(8, 10, 13, 0)]);
        let (new, old) = midway();
        assert_eq!(after(30, 3, new, old), [(8, 20), (5, 13)]);
        let (new, old) = midway();
        assert_eq!(after(5, 3, new, old), [(8, 5), (5, 3)]);
        let (new, old) = midway();
        assert_eq!(after(0, 3, new, old), [(8, 0), (5, 0)]);
        // Alone, a set has all.
        assert_eq!(after(7, 3, Some(set(5, 10, 13, 1)), vec![set(0, 10, 13, 0)]), [(5, 7)]);
        assert_eq!(after(7, 3, Some(set(0, 10, 13, 1)), vec![]), [(0, 7)]);
        // When the new one is complete, the old ones go.
        assert_eq!(after(5, 3, Some(set(5, 5, 8, 1)), vec![set(2, 5, 8, 0)]), [(2, 0)]);
    }

    #[test]
    fn only_another_wish_is_a_resize() {
        let spec = |replicas: i32| -> DeploymentSpec {
            serde_json::from_value(json!({"replicas": replicas, "selector": {}, "template": {}})).unwrap()
        };
        let sets = Sets { new: Some(set(5, 10, 13, 1)), old: vec![set(0, 4, 5, 0)] };
        assert!(!is_resized(&spec(10), &sets));
        assert!(is_resized(&spec(11), &sets));
    }
}
