//! A Job's Pods: what they say of themselves, and how a new one looks.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{
    Container, ContainerStatus, EnvVar, EnvVarSource, ObjectFieldSelector, Pod, PodSpec,
};
use kube::ResourceExt;

use super::policy::{Action, on_failure};
use super::spec::{only_replaces_failed, per_index};
use crate::pods::{from_template, phase};

/// What a Pod holds until its end is counted.
pub(super) const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
const INDEX: &str = "batch.kubernetes.io/job-completion-index";
const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
const IGNORED: &str = "batch.kubernetes.io/job-index-ignored-failure-count";
const INDEX_VARIABLE: &str = "JOB_COMPLETION_INDEX";
/// Longest beginning of a generated name.
const MAX_PREFIX: usize = 58;

/// Whether its end is still to be counted.
pub(super) fn is_tracked(pod: &Pod) -> bool {
    pod.finalizers().iter().any(|finalizer| finalizer == FINALIZER)
}

/// The completion index, where the Pod has one.
pub(super) fn index_of(pod: &Pod) -> Option<i32> {
    pod.annotations().get(INDEX)?.parse().ok().filter(|index| *index >= 0)
}

/// Whether the Pod counts as failed: also one that is being deleted, unless only those that ended are replaced.
pub(super) fn is_failed(pod: &Pod, spec: &JobSpec) -> bool {
    let deleted = pod.metadata.deletion_timestamp.is_some() && phase(pod) != "Succeeded";
    phase(pod) == "Failed" || (deleted && !only_replaces_failed(spec))
}

fn annotated(pod: &Pod, key: &str) -> i32 {
    pod.annotations().get(key).and_then(|text| text.parse().ok()).filter(|count| *count >= 0).unwrap_or(0)
}

/// Whether this failure is the last one that its index may have.
pub(super) fn fails_index(pod: &Pod, spec: &JobSpec) -> bool {
    let limit = spec.backoff_limit_per_index.unwrap_or(i32::MAX);
    is_failed(pod, spec)
        && match on_failure(spec.pod_failure_policy.as_ref(), pod) {
            Action::FailIndex => true,
            Action::Ignore => false,
            Action::Count | Action::FailJob(_) => annotated(pod, FAILURES) >= limit,
        }
}

/// How many Pods of its index failed before this one, ignored failures included.
pub(super) fn failures_before(pod: &Pod) -> i32 {
    annotated(pod, FAILURES).saturating_add(annotated(pod, IGNORED))
}

/// When the Pod ended.
pub(super) fn finished_at(pod: &Pod) -> Timestamp {
    let meta = &pod.metadata;
    let not_ready = || {
        let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let mut ready = conditions.filter(|condition| condition.type_ == "Ready");
        ready.find(|c| c.status == "False")?.last_transition_time.as_ref().map(|time| time.0)
    };
    let deleted = || {
        let grace = meta.deletion_grace_period_seconds.unwrap_or(0);
        let at = meta.deletion_timestamp.as_ref()?.0;
        Timestamp::from_second(at.as_second().saturating_sub(grace)).ok()
    };
    let created = || meta.creation_timestamp.as_ref().map(|time| time.0);
    last_container_end(pod).or_else(not_ready).or_else(deleted).or_else(created).unwrap_or(Timestamp::MIN)
}

/// When the last container ended; none while one has not. Init containers count when they go on beside the others.
fn last_container_end(pod: &Pod) -> Option<Timestamp> {
    let status = pod.status.as_ref()?;
    let goes_on = |container: &&ContainerStatus| {
        pod.spec
            .iter()
            .flat_map(|spec| spec.init_containers.iter().flatten())
            .any(|init| init.name == container.name && init.restart_policy.as_deref() == Some("Always"))
    };
    let side = status.init_container_statuses.iter().flatten().filter(goes_on);
    let ends: Option<Vec<Timestamp>> = status
        .container_statuses
        .iter()
        .flatten()
        .chain(side)
        .map(|container| Some(container.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref()?.0))
        .collect();
    ends?.into_iter().max()
}

/// A Pod that is to be made.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Slot {
    /// Its index, in an indexed Job.
    pub(super) index: Option<i32>,
    /// Failures of its index so far: those that count, and those that were ignored.
    pub(super) failures: (i32, i32),
}

impl Slot {
    pub(super) const PLAIN: Self = Self { index: None, failures: (0, 0) };

    /// The place of an index, after the Pod that failed in it.
    pub(super) fn of(index: i32, failed: Option<&Pod>, spec: &JobSpec) -> Self {
        let failures = failed.map_or((0, 0), |pod| {
            let ignored = on_failure(spec.pod_failure_policy.as_ref(), pod) == Action::Ignore;
            let more = |key, yes: bool| annotated(pod, key).saturating_add(i32::from(yes));
            (more(FAILURES, !ignored), more(IGNORED, ignored))
        });
        Self { index: Some(index), failures }
    }

    /// The Pod.
    pub(super) fn pod(&self, job: &Job, spec: &JobSpec) -> Pod {
        let mut pod = from_template(job, &spec.template);
        let meta = &mut pod.metadata;
        let finalizers = meta.finalizers.get_or_insert_default();
        if !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
            finalizers.push(FINALIZER.to_owned());
        }
        let Some(index) = self.index else { return pod };
        let suffix = format!("-{index}-");
        let mut prefix = job.name_any();
        prefix.truncate(MAX_PREFIX.saturating_sub(suffix.len()));
        meta.generate_name = Some(prefix + &suffix);
        let mut annotations = BTreeMap::from([(INDEX.to_owned(), index.to_string())]);
        if per_index(spec) {
            annotations.insert(FAILURES.to_owned(), self.failures.0.to_string());
            let ignored = Some(self.failures.1).filter(|count| *count > 0);
            annotations.extend(ignored.map(|count| (IGNORED.to_owned(), count.to_string())));
        }
        meta.annotations.get_or_insert_default().extend(annotations);
        meta.labels.get_or_insert_default().insert(INDEX.to_owned(), index.to_string());
        if let Some(spec) = &mut pod.spec {
            spec.hostname = Some(format!("{}-{index}", job.name_any()));
            tell_index(spec);
        }
        pod
    }
}

/// Gives the containers their index, where they have no variable of this name.
fn tell_index(spec: &mut PodSpec) {
    let tell = |container: &mut Container| {
        let variables = container.env.get_or_insert_default();
        if variables.iter().any(|variable| variable.name == INDEX_VARIABLE) {
            return;
        }
        let field = ObjectFieldSelector {
            field_path: format!("metadata.labels['{INDEX}']"),
            ..ObjectFieldSelector::default()
        };
        let source = EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() };
        variables.push(EnvVar {
            name: INDEX_VARIABLE.to_owned(),
            value_from: Some(source),
            ..EnvVar::default()
        });
    };
    spec.init_containers.iter_mut().flatten().for_each(tell);
    spec.containers.iter_mut().for_each(tell);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn job(spec: Value) -> Job {
        serde_json::from_value(
            json!({"metadata": {"name": "work", "namespace": "n", "uid": "u"}, "spec": spec}),
        )
        .unwrap()
    }

    fn template() -> Value {
        json!({"spec": {"containers": [{"name": "a"}, {"name": "b", "env": [{"name": INDEX_VARIABLE, "value": "own"}]}]}})
    }

    #[test]
    fn an_indexed_pod_knows_its_index() {
        let job =
            job(json!({"completionMode": "Indexed", "backoffLimitPerIndex": 1, "template": template()}));
        let spec = job.spec.clone().unwrap();
        let failed: Pod =
            serde_json::from_value(json!({"metadata": {"annotations": {FAILURES: "2", IGNORED: "x"}}}))
                .unwrap();
        let pod = Slot::of(3, Some(&failed), &spec).pod(&job, &spec);
        let pod = json!(pod);
        assert_eq!(pod["metadata"]["generateName"], "work-3-");
        assert_eq!(pod["metadata"]["annotations"], json!({INDEX: "3", FAILURES: "3"}));
        assert_eq!(pod["metadata"]["labels"], json!({INDEX: "3"}));
        assert_eq!(pod["metadata"]["finalizers"], json!([FINALIZER]));
        assert_eq!(pod["metadata"]["ownerReferences"][0]["name"], "work");
        assert_eq!(pod["spec"]["hostname"], "work-3");
        let path = &pod["spec"]["containers"][0]["env"][0]["valueFrom"]["fieldRef"]["fieldPath"];
        assert_eq!(*path, format!("metadata.labels['{INDEX}']"));
        assert_eq!(pod["spec"]["containers"][1]["env"].as_array().unwrap().len(), 1);
        let plain = json!(Slot::PLAIN.pod(&job, &spec));
        assert_eq!(plain["metadata"]["generateName"], "work-");
        assert!(plain["spec"].get("hostname").is_none());
    }

    #[test]
    fn a_pod_ends_with_its_last_container() {
        let pod = |value: Value| -> Pod { serde_json::from_value(value).unwrap() };
        let container = |name: &str, end: Option<&str>| {
            let state = end.map(|at| json!({"terminated": {"exitCode": 0, "finishedAt": at}}));
            json!({"name": name, "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state})
        };
        let (one, two) = ("2026-01-01T00:00:01Z", "2026-01-01T00:00:02Z");
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let meta = json!({"creationTimestamp": "2026-01-01T00:00:00Z", "deletionTimestamp": "2026-01-01T00:00:40Z", "deletionGracePeriodSeconds": 30});
        let ended = json!({"containerStatuses": [container("a", Some(two)), container("b", Some(one))]});
        assert_eq!(finished_at(&pod(json!({"metadata": meta, "status": ended}))), at(two));
        let running = json!({"containerStatuses": [container("a", Some(two)), container("b", None)]});
        assert_eq!(
            finished_at(&pod(json!({"metadata": meta, "status": running}))),
            at("2026-01-01T00:00:10Z")
        );
        let spec = json!({"containers": [], "initContainers": [{"name": "side", "restartPolicy": "Always"}]});
        let side = json!({"containerStatuses": [container("a", Some(one))], "initContainerStatuses": [container("side", Some(two))]});
        assert_eq!(finished_at(&pod(json!({"metadata": meta, "spec": spec, "status": side}))), at(two));
        assert_eq!(finished_at(&pod(json!({"metadata": {"creationTimestamp": one}}))), at(one));
    }
}
