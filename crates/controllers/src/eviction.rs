//! Pods that a node's taints drive away: at once, or when the time that they tolerate them is over.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Node, Pod, PodCondition, Taint, Toleration};
use kube::ResourceExt;
use serde_json::json;
use yunfan_client::{Informer, ObjectKey, Queue, Severity, is_not_found, run_loop};
use yunfan_resources::constraint::taint_tolerated;

use crate::Context;
use crate::pods::{is_active, node_of, on_nodes};
use crate::status::now;

const TARGET: &str = "DisruptionTarget";

/// Runs the loop.
pub async fn run(context: Context) {
    let pods = context.informers.of::<Pod>();
    let nodes = context.informers.of::<Node>();
    tokio::join!(pods.synced(), nodes.synced());
    let queue = Queue::new();
    queue.feed(&pods, |pod| [ObjectKey::of(pod)]);
    let all = on_nodes(&pods);
    queue.feed(&nodes, move |node| {
        let name = node.name_any();
        all.get(&name).iter().map(|pod| ObjectKey::of(pod.as_ref())).collect::<Vec<_>>()
    });
    let work = Arc::new(Loop { context, pods, nodes, since: Mutex::default() });
    run_loop("taint-eviction", queue, 4, move |key| {
        let work = work.clone();
        async move { work.reconcile(&key).await }
    })
    .await;
}

struct Loop {
    context: Context,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    /// Since when Pods bear with taints, by our own clock. It begins anew when the process does.
    since: Mutex<HashMap<ObjectKey, (String, Instant)>>,
}

impl Loop {
    async fn reconcile(&self, key: &ObjectKey) -> kube::Result<Option<Duration>> {
        let pod = self.pods.get_key(key).filter(|pod| is_active(pod));
        let node = pod.as_ref().and_then(|pod| self.nodes.get(None, node_of(pod)?));
        let (Some(pod), Some(node)) = (pod, node) else {
            self.lock().remove(key);
            return Ok(None);
        };
        let about = format!("Pod {key}");
        match stay(&pod, &node) {
            Stay::Forever => {
                if self.lock().remove(key).is_some() {
                    self.tell(&pod, format!("Cancelling deletion of {about}"));
                }
                Ok(None)
            }
            Stay::For(whole) => {
                let left = whole.saturating_sub(self.borne(key, &pod));
                if !left.is_zero() {
                    return Ok(Some(left));
                }
                self.tell(&pod, format!("Marking for deletion {about}"));
                self.evict(key, &pod).await?;
                self.lock().remove(key);
                Ok(None)
            }
        }
    }

    /// How long the Pod has borne with its node's taints.
    fn borne(&self, key: &ObjectKey, pod: &Pod) -> Duration {
        let mut since = self.lock();
        let uid = pod.uid().unwrap_or_default();
        let entry = since.entry(key.clone()).or_insert_with(|| (uid.clone(), Instant::now()));
        if entry.0 != uid {
            *entry = (uid, Instant::now());
        }
        entry.1.elapsed()
    }

    /// Says why in the Pod's status, and deletes it.
    async fn evict(&self, key: &ObjectKey, pod: &Pod) -> kube::Result<()> {
        let mut conditions =
            pod.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
        conditions.retain(|condition| condition.type_ != TARGET);
        conditions.push(PodCondition {
            type_: TARGET.to_owned(),
            status: "True".to_owned(),
            reason: Some("DeletionByTaintManager".to_owned()),
            message: Some("Taint manager: deleting due to NoExecute taint".to_owned()),
            last_transition_time: Some(now()),
            ..PodCondition::default()
        });
        let patch = json!({
            "metadata": {"uid": pod.uid(), "resourceVersion": pod.resource_version()},
            "status": {"conditions": conditions},
        });
        let writer = &self.context.writer;
        match writer.merge_status::<Pod>(key.namespace(), &key.name, &patch).await {
            Err(error) if is_not_found(&error) => return Ok(()),
            other => other?,
        };
        writer.delete::<Pod>(key.namespace(), &key.name, pod.uid().as_deref()).await
    }

    fn tell(&self, pod: &Pod, message: String) {
        self.context.recorder.event(pod, Severity::Normal, "TaintManagerEviction", message);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ObjectKey, (String, Instant)>> {
        // Nothing panics under this lock.
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long a Pod may stay on its node.
#[derive(Debug, PartialEq, Eq)]
enum Stay {
    Forever,
    For(Duration),
}

fn stay(pod: &Pod, node: &Node) -> Stay {
    let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    let mut shortest: Option<Duration> = None;
    for taint in taints.filter(|taint| taint.effect == "NoExecute") {
        match tolerated_for(tolerations, taint) {
            None => return Stay::For(Duration::ZERO),
            Some(Stay::Forever) => {}
            Some(Stay::For(time)) => shortest = Some(shortest.map_or(time, |other| other.min(time))),
        }
    }
    shortest.map_or(Stay::Forever, Stay::For)
}

/// How long a taint is tolerated, by the first toleration of it; none where it is not.
fn tolerated_for(tolerations: &[Toleration], taint: &Taint) -> Option<Stay> {
    let fits =
        tolerations.iter().find(|toleration| taint_tolerated(std::slice::from_ref(*toleration), taint))?;
    Some(match fits.toleration_seconds {
        None => Stay::Forever,
        // Less than nothing is nothing.
        Some(seconds) => Stay::For(Duration::from_secs(u64::try_from(seconds).unwrap_or(0))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn pods_stay_as_long_as_they_tolerate_what_drives_them_away() {
        let toleration = |key: &str, seconds: Value| json!({"key": key, "operator": "Exists", "tolerationSeconds": seconds});
        let (seconds, none) = (|seconds| Stay::For(Duration::from_secs(seconds)), Value::Null);
        for (tolerations, taints, expected) in [
            (json!([]), json!([]), Stay::Forever),
            (json!([]), json!([["a", "NoSchedule"]]), Stay::Forever),
            (json!([]), json!([["a", "NoExecute"]]), seconds(0)),
            (json!([toleration("a", none.clone())]), json!([["a", "NoExecute"]]), Stay::Forever),
            (json!([toleration("a", json!(5))]), json!([["a", "NoExecute"]]), seconds(5)),
            (json!([toleration("a", json!(-5))]), json!([["a", "NoExecute"]]), seconds(0)),
            (json!([toleration("a", json!(5))]), json!([["a", "NoExecute"], ["b", "NoExecute"]]), seconds(0)),
            (
                json!([toleration("a", json!(5)), toleration("b", none), toleration("c", json!(3))]),
                json!([["a", "NoExecute"], ["b", "NoExecute"], ["c", "NoExecute"]]),
                seconds(3),
            ),
        ] {
            let taints: Vec<Value> = taints
                .as_array()
                .unwrap()
                .iter()
                .map(|taint| json!({"key": taint[0], "effect": taint[1]}))
                .collect();
            let pod: Pod =
                serde_json::from_value(json!({"spec": {"containers": [], "tolerations": tolerations}}))
                    .unwrap();
            let node: Node = serde_json::from_value(json!({"spec": {"taints": taints}})).unwrap();
            assert_eq!(stay(&pod, &node), expected, "{tolerations} {taints:?}");
        }
    }
}
