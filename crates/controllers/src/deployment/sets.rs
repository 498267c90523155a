//! A Deployment's ReplicaSets: which there are, how large they may be, and how a new one looks.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet, ReplicaSetSpec, ReplicaSetStatus};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::{Resource, ResourceExt};

use super::{DESIRED, HASH_LABEL, MAX_SIZE, REVISION};
use crate::hash::short_hash;
use crate::share::share;

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
    let mut annotations = deployment.metadata.annotations.clone().unwrap_or_default();
    annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
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
}
