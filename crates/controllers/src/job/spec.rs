//! What a Job asks for.

use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus};

/// The controller that Jobs name when they mean this one.
const OURSELVES: &str = "kubernetes.io/job-controller";

/// Whether another controller works on the Job.
pub(super) fn is_others(job: &Job) -> bool {
    let by = job.spec.as_ref().and_then(|spec| spec.managed_by.as_deref());
    by.is_some_and(|by| by != OURSELVES)
}

/// The condition of a kind, where it is true.
pub(crate) fn condition<'a>(status: &'a JobStatus, kind: &str) -> Option<&'a JobCondition> {
    status.conditions.iter().flatten().find(|c| c.type_ == kind && c.status == "True")
}

/// The condition that says that the Job is over.
pub(crate) fn finished(job: &Job) -> Option<&JobCondition> {
    let status = job.status.as_ref()?;
    condition(status, "Complete").or_else(|| condition(status, "Failed"))
}

pub(super) fn is_indexed(spec: &JobSpec) -> bool {
    spec.completion_mode.as_deref() == Some("Indexed")
}

/// Whether each index has its own limit of failures.
pub(super) fn per_index(spec: &JobSpec) -> bool {
    spec.backoff_limit_per_index.is_some()
}

pub(super) fn is_suspended(spec: &JobSpec) -> bool {
    spec.suspend.unwrap_or(false)
}

/// Whether a Pod is replaced only when it has ended, rather than when its deletion begins.
pub(super) fn only_replaces_failed(spec: &JobSpec) -> bool {
    spec.pod_replacement_policy.as_deref() == Some("Failed") || spec.pod_failure_policy.is_some()
}

pub(super) fn parallelism(spec: &JobSpec) -> i32 {
    spec.parallelism.unwrap_or(1)
}

/// Failures that are too many.
pub(super) fn backoff_limit(spec: &JobSpec) -> i32 {
    spec.backoff_limit.unwrap_or(6)
}
