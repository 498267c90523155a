//! A Deployment's ReplicaSets: which there are, how large they may be, and how a new one looks.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet, ReplicaSetSpec, ReplicaSetStatus};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::{Resource, ResourceExt};

use super::{DESIRED, HASH_LABEL, HISTORY, MAX_SIZE, REVISION};
use crate::hash::short_hash;
use crate::share::share;

/// Most bytes of a set's earlier revisions.
const MAX_HISTORY: usize = 2000;

/// The sets of a Deployment: the one of its present template, and the others, oldest first.
pub(super) struct Sets {
    pub(super) new: Option<Arc<ReplicaSet>>,
    pub(super) old: Vec<Arc<ReplicaSet>>,
}

impl Sets {
    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<ReplicaSet>> {
        self.old.iter().chain(&self.new)
    }
}

pub(super) fn replicas(spec: &DeploymentSpec) -> i32 {
    spec.replicas.unwrap_or(1)
}

pub(super) fn size(set: &ReplicaSet) -> i32 {
    set.spec.replicas.unwrap_or(1)
}

pub(super) fn status_of(set: &ReplicaSet, field: impl Fn(&ReplicaSetStatus) -> Option<i32>) -> i32 {
    set.status.as_ref().and_then(field).unwrap_or(0)
}

pub(super) fn status_size(set: &ReplicaSet) -> i32 {
    status_of(set, |status| Some(status.replicas))
}

pub(super) fn available(set: &ReplicaSet) -> i32 {
    status_of(set, |status| status.available_replicas)
}

pub(super) fn revision(meta: &ObjectMeta) -> i64 {
    meta.annotations.as_ref().and_then(|a| a.get(REVISION)).and_then(|r| r.parse().ok()).unwrap_or(0)
}

/// What a set is told of its Deployment's annotations: all but those that are about one of the two alone.
fn passed_on(deployment: &Deployment) -> BTreeMap<String, String> {
    const OWN: [&str; 6] = [
        "kubectl.kubernetes.io/last-applied-configuration",
        "deprecated.deployment.rollback.to",
        REVISION,
        HISTORY,
        DESIRED,
        MAX_SIZE,
    ];
    let mut all = deployment.metadata.annotations.clone().unwrap_or_default();
    all.retain(|key, _| !OWN.contains(&key.as_str()));
    all
}

/// Annotations that a set of the present template lacks: its Deployment's, and the revision `next` where it has a smaller one.
pub(super) fn changed_annotations(
    deployment: &Deployment,
    set: &ObjectMeta,
    next: i64,
) -> BTreeMap<String, String> {
    let empty = BTreeMap::new();
    let has = set.annotations.as_ref().unwrap_or(&empty);
    let mut changed = passed_on(deployment);
    changed.retain(|key, value| has.get(key) != Some(value));
    if revision(set) < next {
        changed.insert(REVISION.to_owned(), next.to_string());
        if let Some(before) = has.get(REVISION) {
            let mut history: Vec<&str> =
                has.get(HISTORY).into_iter().flat_map(|all| all.split(',')).collect();
            history.push(before);
            while history.len() > 1 && history.join(",").len() > MAX_HISTORY {
                history.remove(0);
            }
            changed.insert(HISTORY.to_owned(), history.join(","));
        }
    }
    changed
}

pub(super) fn is_recreate(spec: &DeploymentSpec) -> bool {
    spec.strategy.as_ref().and_then(|s| s.type_.as_deref()) == Some("Recreate")
}

/// `maxSurge` and `maxUnavailable` in Pods; both zero would never move, so then one may be unavailable.
pub(super) fn bounds(spec: &DeploymentSpec) -> (i32, i32) {
    if is_recreate(spec) {
        return (0, replicas(spec));
    }
    let rolling = spec.strategy.as_ref().and_then(|s| s.rolling_update.as_ref());
    let quarter = IntOrString::String("25%".to_owned());
    let surge = rolling.and_then(|r| r.max_surge.as_ref()).unwrap_or(&quarter);
    let unavailable = rolling.and_then(|r| r.max_unavailable.as_ref()).unwrap_or(&quarter);
    let surge = share(surge, replicas(spec), true);
    let unavailable = share(unavailable, replicas(spec), false).min(replicas(spec));
    if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
}

/// How large the set of a new template starts.
pub(super) fn first_size(spec: &DeploymentSpec, sets: &Sets) -> i32 {
    let total: i32 = sets.old.iter().map(|set| size(set)).sum();
    if total == 0 {
        return replicas(spec);
    }
    if is_recreate(spec) {
        return 0;
    }
    let (surge, _) = bounds(spec);
    (replicas(spec) + surge - total).clamp(0, replicas(spec))
}

pub(super) fn same_template(set: &ReplicaSet, template: &PodTemplateSpec) -> bool {
    let Some(mut have) = set.spec.template.clone() else { return false };
    if let Some(labels) = have.metadata.as_mut().and_then(|meta| meta.labels.as_mut()) {
        labels.remove(HASH_LABEL);
    }
    let plain = |template: &PodTemplateSpec| {
        let labels = template.metadata.as_ref().and_then(|m| m.labels.clone()).filter(|l| !l.is_empty());
        let annotations =
            template.metadata.as_ref().and_then(|m| m.annotations.clone()).filter(|a| !a.is_empty());
        (labels, annotations, template.spec.clone())
    };
    plain(&have) == plain(template)
}

pub(super) fn new_set(
    deployment: &Deployment,
    spec: &DeploymentSpec,
    revision: i64,
    collisions: i32,
    count: i32,
) -> ReplicaSet {
    let hash = short_hash(&spec.template, collisions);
    let mut template = spec.template.clone();
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(HASH_LABEL.to_owned(), hash.clone());
    let labels = labels.clone();
    let mut selector: LabelSelector = spec.selector.clone();
    selector.match_labels.get_or_insert_default().insert(HASH_LABEL.to_owned(), hash.clone());
    let mut annotations = passed_on(deployment);
    annotations.insert(REVISION.to_owned(), revision.to_string());
    annotations.insert(DESIRED.to_owned(), replicas(spec).to_string());
    annotations.insert(MAX_SIZE.to_owned(), replicas(spec).saturating_add(bounds(spec).0).to_string());
    let owner = OwnerReference {
        block_owner_deletion: Some(true),
        ..deployment.controller_owner_ref(&()).unwrap_or_default()
    };
    ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", deployment.name_any())),
            namespace: deployment.namespace(),
            labels: Some(labels),
            annotations: Some(annotations),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: ReplicaSetSpec {
            replicas: Some(count),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        },
        status: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn spec(value: Value) -> DeploymentSpec {
        serde_json::from_value(value).unwrap()
    }

    fn plain(replicas: i32, strategy: Value) -> DeploymentSpec {
        spec(json!({"replicas": replicas, "strategy": strategy, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}},
                         "spec": {"containers": [{"name": "c", "image": "web:1"}]}}}))
    }

    #[test]
    fn surge_rounds_up_and_unavailable_rounds_down() {
        assert_eq!(bounds(&plain(10, json!({}))), (3, 2));
        let strategy = |surge: Value, unavailable: Value| json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}});
        assert_eq!(bounds(&plain(10, strategy(json!(1), json!("0%")))), (1, 0));
        assert_eq!(bounds(&plain(3, strategy(json!(0), json!(0)))), (0, 1));
        assert_eq!(bounds(&plain(4, json!({"type": "Recreate"}))), (0, 4));
    }

    #[test]
    fn a_set_is_known_by_its_template_whatever_hash_it_bears() {
        let spec = plain(3, json!({}));
        let mut deployment = Deployment::default();
        deployment.metadata.name = Some("web".into());
        deployment.metadata.uid = Some("u".into());
        let set = new_set(&deployment, &spec, 1, 0, 3);
        assert!(same_template(&set, &spec.template));
        let mut changed = spec.clone();
        changed.template.spec.as_mut().unwrap().containers[0].image = Some("web:2".into());
        assert!(!same_template(&set, &changed.template));
        assert_ne!(short_hash(&spec.template, 0), short_hash(&spec.template, 1));
        assert!(set.name_any().starts_with("web-"));
    }

    #[test]
    fn a_set_is_told_of_its_deployments_annotations_and_revisions() {
        let mut deployment = Deployment::default();
        let annotations = |all: &[(&str, &str)]| {
            Some(all.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
        };
        deployment.metadata.annotations = annotations(&[
            ("kubernetes.io/change-cause", "new image"),
            (REVISION, "3"),
            ("kubectl.kubernetes.io/last-applied-configuration", "{}"),
        ]);
        let mut set = ObjectMeta { annotations: annotations(&[(REVISION, "1")]), ..ObjectMeta::default() };
        let mut changed = changed_annotations(&deployment, &set, 4);
        assert_eq!(
            Some(changed.clone()),
            annotations(&[("kubernetes.io/change-cause", "new image"), (REVISION, "4"), (HISTORY, "1"),])
        );
        set.annotations = Some(changed.clone());
        assert_eq!(changed_annotations(&deployment, &set, 4), BTreeMap::new());
        changed = changed_annotations(&deployment, &set, 6);
        assert_eq!(Some(changed), annotations(&[(REVISION, "6"), (HISTORY, "1,4")]));
        // One that is ahead already stays.
        assert_eq!(changed_annotations(&deployment, &set, 2), BTreeMap::new());
        set.annotations = annotations(&[(REVISION, "9"), (HISTORY, &"7,".repeat(1100))]);
        let long = changed_annotations(&deployment, &set, 10).remove(HISTORY).unwrap();
        assert!(long.len() <= MAX_HISTORY && long.ends_with("7,,9"), "{long}");
    }
}
