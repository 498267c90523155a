//! The end of finished Jobs: they go some time after they ended, when they say so.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use kube::ResourceExt;
use kube::api::{DeleteParams, Preconditions};
use yunfan_client::{Informer, ObjectKey, Queue, run_loop};

use crate::Context;
use crate::job::spec::finished;

/// Runs the loop.
pub async fn run(context: Context) {
    let jobs = context.informers.of::<Job>();
    jobs.synced().await;
    let queue = Queue::new();
    queue.feed(&jobs, |job| expiry(job).map(|_| ObjectKey::of(job)));
    let work = Arc::new(Loop { context, jobs });
    run_loop("ttl", queue, 2, move |key| {
        let work = work.clone();
        async move { work.reconcile(&key).await }
    })
    .await;
}

struct Loop {
    context: Context,
    jobs: Informer<Job>,
}

impl Loop {
    async fn reconcile(&self, key: &ObjectKey) -> kube::Result<Option<Duration>> {
        let Some(job) = self.jobs.get_key(key) else { return Ok(None) };
        let Some(left) = expiry(&job).map(|at| remaining(at, Timestamp::now())) else { return Ok(None) };
        if !left.is_zero() {
            return Ok(Some(left));
        }
        let params = DeleteParams {
            // What changed since may have given it more time.
            preconditions: Some(Preconditions { uid: job.uid(), resource_version: job.resource_version() }),
            ..DeleteParams::foreground()
        };
        self.context.writer.delete_with::<Job>(key.namespace(), &key.name, &params).await?;
        Ok(None)
    }
}

/// When the Job is to go; none while it is not over, or stays.
fn expiry(job: &Job) -> Option<Timestamp> {
    let seconds = job.spec.as_ref()?.ttl_seconds_after_finished?;
    if job.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let ended = finished(job)?.last_transition_time.as_ref()?.0;
    Timestamp::from_second(ended.as_second().saturating_add(i64::from(seconds))).ok()
}

fn remaining(at: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(now)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn a_job_goes_its_seconds_after_its_end() {
        let job = |ttl: Value, kind: &str, deleted: Value| -> Job {
            let condition =
                json!({"type": kind, "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"});
            serde_json::from_value(json!({"metadata": {"deletionTimestamp": deleted},
                "spec": {"ttlSecondsAfterFinished": ttl, "template": {}}, "status": {"conditions": [condition]}}))
            .unwrap()
        };
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let none = Value::Null;
        assert_eq!(expiry(&job(json!(90), "Complete", none.clone())), Some(at("2026-01-01T00:01:30Z")));
        assert_eq!(expiry(&job(json!(0), "Failed", none.clone())), Some(at("2026-01-01T00:00:00Z")));
        assert_eq!(expiry(&job(json!(0), "FailureTarget", none.clone())), None);
        assert_eq!(expiry(&job(none.clone(), "Complete", none)), None);
        assert_eq!(expiry(&job(json!(0), "Complete", json!("2026-01-01T00:00:00Z"))), None);
        let seconds = |now: &str| remaining(at("2026-01-01T00:01:30Z"), at(now)).as_secs();
        assert_eq!((seconds("2026-01-01T00:01:00Z"), seconds("2026-01-01T00:02:00Z")), (30, 0));
    }
}
