//! Writing down who has to leave for whom.

use std::sync::Arc;

use futures::{TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use serde_json::json;
use yunfan_client::{Writer, is_conflict, is_not_found};

use super::{Candidate, pod_of};
use crate::SCHEDULER_NAME;
use crate::report::{self, Reporter};
use crate::workload::Workload;

/// How many are told at one time.
const AT_ONCE: usize = 16;

/// Whether a Pod is being deleted for a more important one.
pub(super) fn is_preempted(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    pod.metadata.deletion_timestamp.is_some()
        && conditions.into_iter().flatten().any(|condition| {
            condition.type_ == "DisruptionTarget"
                && condition.status == "True"
                && condition.reason.as_deref() == Some("PreemptionByScheduler")
        })
}

/// Says which node the Pod `preemptor` is to come to, and ends those who have to leave it for that. The node is written first: whoever
/// starts again in between finds the room taken. False where that Pod is gone: nobody leaves then.
///
/// # Errors
/// What could not be written. Some may have been ended.
pub(crate) async fn make_room(
    writer: &Writer,
    reporter: &Reporter,
    preemptor: &Workload,
    candidate: &Candidate,
) -> kube::Result<bool> {
    if !nominate(writer, preemptor, Some(&candidate.node)).await? {
        return Ok(false);
    }
    let scheduler = pod_of(preemptor).and_then(|pod| pod.spec.as_ref()?.scheduler_name.as_deref());
    let scheduler = scheduler.filter(|name| !name.is_empty()).unwrap_or(SCHEDULER_NAME);
    let why = format!("{scheduler}: preempting to accommodate a higher priority pod");
    let victims = candidate.victims.iter().filter_map(|victim| pod_of(victim));
    let stays = victims.filter(|victim| victim.metadata.deletion_timestamp.is_none());
    let told = stream::iter(stays.map(Ok)).try_for_each_concurrent(AT_ONCE, async |victim| {
        report::write_disruption(writer, victim, &why).await?;
        let (namespace, name) = (victim.namespace(), victim.name_any());
        writer.delete::<Pod>(namespace.as_deref(), &name, victim.metadata.uid.as_deref()).await?;
        reporter.preempted(victim, &preemptor.uid, &candidate.node);
        Ok(())
    });
    told.await.map(|()| true)
}

/// Writes which node a Pod is to come to, or that it waits for none. False where the Pod is gone.
async fn nominate(writer: &Writer, workload: &Workload, node: Option<&str>) -> kube::Result<bool> {
    let patch = json!({"metadata": {"uid": workload.uid}, "status": {"nominatedNodeName": node}});
    match writer.merge_status::<Pod>(Some(workload.namespace()), workload.name(), &patch).await {
        // Another of that name is there by now.
        Err(error) if is_not_found(&error) || is_conflict(&error) => Ok(false),
        written => written.map(|_| true),
    }
}

/// As [`nominate`], for Pods that wait for none any more; what can't be written is written when they are looked at again.
pub(crate) async fn clear(writer: Writer, workloads: Vec<Arc<Workload>>) {
    for workload in workloads {
        if let Err(error) = nominate(&writer, &workload, None).await {
            tracing::warn!(
                namespace = workload.namespace(), name = workload.name(), %error,
                "that a Pod waits for no certain node could not be written"
            );
        }
    }
}
