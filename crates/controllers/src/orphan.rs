//! VirtualMachines whose node is gone: nobody there can let them go, so this loop does. ([`crate::podgc`] does so for Pods.)

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use yunfan_client::{Informer, ObjectKey, Queue, run_loop};
use yunfan_resources::compute::VirtualMachine;
use yunfan_resources::names::VM_FINALIZER;

use crate::Context;

/// How long a node may be missing before its workloads are let go: an agent that registers anew keeps them.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs the loop.
pub async fn run(context: Context) {
    let nodes = context.informers.of::<Node>();
    let machines = context.informers.of::<VirtualMachine>();
    let queue = Queue::new();
    tokio::join!(nodes.synced(), machines.synced());
    queue.feed(&machines, |machine| {
        machine.metadata.deletion_timestamp.is_some().then(|| ObjectKey::of(machine))
    });
    let work = Arc::new(Loop { context, nodes, machines });
    run_loop("orphan", queue, 1, move |key| {
        let work = work.clone();
        async move { work.reconcile(&key).await }
    })
    .await;
}

struct Loop {
    context: Context,
    nodes: Informer<Node>,
    machines: Informer<VirtualMachine>,
}

impl Loop {
    async fn reconcile(&self, key: &ObjectKey) -> kube::Result<Option<Duration>> {
        let Some(machine) = self.machines.get_key(key) else { return Ok(None) };
        if self.has_node(machine.spec.node_name.as_deref())
            || !self.waited(machine.metadata.deletion_timestamp.as_ref())
        {
            return Ok(Some(PATIENCE));
        }
        self.context.writer.remove_finalizer(machine.as_ref(), VM_FINALIZER).await?;
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
