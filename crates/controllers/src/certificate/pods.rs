//! The end of PodCertificateRequests: what became of one is of interest to its node alone, which looks at once. (Kubernetes'
//! podcertificaterequest-cleaner.)

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::certificates::v1::PodCertificateRequest;
use kube::ResourceExt;
use kube::api::{DeleteParams, Preconditions};
use yunfan_client::{Informer, ObjectKey, Queue, run_loop};

use crate::Context;

/// How old a request becomes, whatever is said of it.
const AGE: SignedDuration = SignedDuration::from_mins(15);

/// Runs the loop.
pub async fn run(context: Context) {
    let requests = context.informers.of::<PodCertificateRequest>();
    requests.synced().await;
    let queue = Queue::new();
    queue.feed(&requests, |request| [ObjectKey::of(request)]);
    let work = Arc::new(Loop { context, requests });
    run_loop("podcertificates", queue, 2, move |key| {
        let work = work.clone();
        async move { work.reconcile(&key).await }
    })
    .await;
}

struct Loop {
    context: Context,
    requests: Informer<PodCertificateRequest>,
}

impl Loop {
    async fn reconcile(&self, key: &ObjectKey) -> kube::Result<Option<Duration>> {
        let Some(request) = self.requests.get_key(key) else { return Ok(None) };
        let Some(left) = left(&request, Timestamp::now()) else { return Ok(None) };
        if !left.is_zero() {
            return Ok(Some(left));
        }
        let params = DeleteParams {
            // One of this name that was made since is another.
            preconditions: Some(Preconditions { uid: request.uid(), resource_version: None }),
            ..DeleteParams::default()
        };
        let writer = &self.context.writer;
        writer.delete_with::<PodCertificateRequest>(key.namespace(), &key.name, &params).await?;
        Ok(None)
    }
}

/// How long the request stays; none where it goes already.
fn left(request: &PodCertificateRequest, now: Timestamp) -> Option<Duration> {
    if request.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let end = request.metadata.creation_timestamp.as_ref()?.0.checked_add(AGE).ok()?;
    // A time that is over is no duration.
    Some(Duration::try_from(end.duration_since(now)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_request_goes_after_a_quarter_of_an_hour_whatever_became_of_it() {
        let condition = |kind: &str| {
            json!({"conditions": [{"type": kind, "status": "True", "reason": "R",
            "message": "m", "lastTransitionTime": "2026-01-01T00:10:00Z"}]})
        };
        let left = |status: Value, deleted: Value, now: &str| {
            let request = json!({
                "metadata": {"creationTimestamp": "2026-01-01T00:00:00Z", "deletionTimestamp": deleted},
                "spec": {"signerName": "a.b/c", "podName": "p", "podUID": "u", "serviceAccountName": "s",
                    "serviceAccountUID": "v", "nodeName": "n", "nodeUID": "w", "stubPKCS10Request": ""},
                "status": status,
            });
            super::left(&serde_json::from_value(request).unwrap(), now.parse().unwrap())
        };
        for status in [Value::Null, condition("Issued"), condition("Denied"), condition("Failed")] {
            let at = |now| left(status.clone(), Value::Null, now);
            assert_eq!(at("2026-01-01T00:05:00Z"), Some(Duration::from_secs(600)));
            assert_eq!(at("2026-01-01T00:15:00Z"), Some(Duration::ZERO));
            assert_eq!(at("2026-01-02T00:00:00Z"), Some(Duration::ZERO));
        }
        assert_eq!(left(Value::Null, json!("2026-01-01T00:01:00Z"), "2026-01-02T00:00:00Z"), None);
    }
}
