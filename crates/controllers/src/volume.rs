//! Machine → Volumes: a Volume that is deleted with its machine.
//!
//! The machine has a finalizer for it from the start (admission sees to that), so that no Volume is forgotten, whoever is
//! restarted in between.

use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt;
use yunfan_client::{Informer, ObjectKey, Queue, is_not_found, run_loop};
use yunfan_resources::compute::VirtualMachine;
use yunfan_resources::names::VM_VOLUMES_FINALIZER;
use yunfan_resources::storage::Volume;

use crate::Context;

/// When it is looked whether a deletion was taken.
const AGAIN: Duration = Duration::from_millis(200);

/// Runs the loop.
pub async fn run(context: Context) {
    let work = Arc::new(Loop { machines: context.informers.of::<VirtualMachine>(), context });
    work.machines.synced().await;
    let queue = Queue::new();
    queue.feed(&work.machines, |machine| [ObjectKey::of(machine)]);
    run_loop("volume", queue, 4, move |key| {
        let work = work.clone();
        async move { work.reconcile(&key).await }
    })
    .await;
}

struct Loop {
    context: Context,
    machines: Informer<VirtualMachine>,
}

impl Loop {
    async fn reconcile(&self, key: &ObjectKey) -> kube::Result<Option<Duration>> {
        let Some(machine) = self.machines.get_key(key) else { return Ok(None) };
        let held = machine.finalizers().iter().any(|finalizer| finalizer == VM_VOLUMES_FINALIZER);
        if machine.metadata.deletion_timestamp.is_none() || !held {
            return Ok(None);
        }
        let writer = &self.context.writer;
        let mut left = false;
        for wish in machine.spec.volumes.iter().filter(|wish| wish.delete_on_termination) {
            let volume = match writer.get::<Volume>(key.namespace(), &wish.volume).await {
                Err(error) if is_not_found(&error) => continue,
                other => other?,
            };
            if volume.metadata.deletion_timestamp.is_none() {
                // Its data goes when the machine has let go of it.
                writer.delete::<Volume>(key.namespace(), &wish.volume, volume.uid().as_deref()).await?;
                left = true;
            }
        }
        if left {
            // A deletion may have been refused for now; the next look tells.
            return Ok(Some(AGAIN));
        }
        writer.remove_finalizer(&*machine, VM_VOLUMES_FINALIZER).await?;
        Ok(None)
    }
}
