//! Workloads whose node is gone: nobody there can let them go, so this loop does.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;
use yunfan_client::{Informer, ObjectKey, Queue, run_loop};
use yunfan_resources::compute::VirtualMachine;
use yunfan_resources::names::VM_FINALIZER;

use crate::Context;
use crate::pod_writer::only;

/// How long a node may be missing before its workloads are let go: an agent that registers anew keeps them.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Workload {
    Pod(ObjectKey),
    VirtualMachine(ObjectKey),
}

/// Runs the loop.
pub async fn run(context: Context) {
    let nodes = context.informers.of::<Node>();
    let pods = context.informers.of::<Pod>();
    let machines = context.informers.of::<VirtualMachine>();
    let queue = Queue::new();
    tokio::join!(nodes.synced(), pods.synced(), machines.synced());
    let with_pods = context.config.kubernetes;
    queue.feed(&pods, move |pod| {
        let deleted = with_pods && pod.metadata.deletion_timestamp.is_some();
        deleted.then(|| Workload::Pod(ObjectKey::of(pod)))
    });
    queue.feed(&machines, |machine| {
        let deleted = machine.metadata.deletion_timestamp.is_some();
        deleted.then(|| Workload::VirtualMachine(ObjectKey::of(machine)))
    });
    let work = Arc::new(Loop { context, nodes, pods, machines });
    run_loop("orphan", queue, 1, move |key| {
        let work = work.clone();
        async move { work.reconcile(&key).await }
    })
    .await;
}

struct Loop {
    context: Context,
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    machines: Informer<VirtualMachine>,
}

impl Loop {
    async fn reconcile(&self, workload: &Workload) -> kube::Result<Option<Duration>> {
        match workload {
            Workload::Pod(key) => {
                let Some(pod) = self.pods.get_key(key) else { return Ok(None) };
                let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
                if self.has_node(node) || !self.waited(pod.metadata.deletion_timestamp.as_ref()) {
                    return Ok(Some(PATIENCE));
                }
                let params = only(pod.uid()).grace_period(0);
                self.context.writer.delete_with::<Pod>(key.namespace(), &key.name, &params).await?;
            }
            Workload::VirtualMachine(key) => {
                let Some(machine) = self.machines.get_key(key) else { return Ok(None) };
                if self.has_node(machine.spec.node_name.as_deref())
                    || !self.waited(machine.metadata.deletion_timestamp.as_ref())
                {
                    return Ok(Some(PATIENCE));
                }
                self.context.writer.remove_finalizer(machine.as_ref(), VM_FINALIZER).await?;
            }
        }
        Ok(None)
    }

    fn has_node(&self, node: Option<&str>) -> bool {
        // Never placed: nothing holds it.
        node.is_some_and(|node| self.nodes.get(None, node).is_some())
    }

    fn waited(&self, since: Option<&k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>) -> bool {
        since.is_some_and(|since| {
            let waited = jiff::Timestamp::now().as_second() - since.0.as_second();
            u64::try_from(waited).is_ok_and(|waited| waited >= PATIENCE.as_secs())
        })
    }
}
