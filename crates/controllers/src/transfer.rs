//! Volumes that went over to another namespace → they go, once the Volume there has what they held.

use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt;
use yunfan_client::{Informer, ObjectKey, Queue, is_not_found, run_loop};
use yunfan_resources::storage::{MOVES_TO, Volume, VolumePhase};

use crate::Context;

/// When it is looked again whether a deletion is taken.
const AGAIN: Duration = Duration::from_secs(1);

/// Runs the loop.
pub async fn run(context: Context) {
    let work = Arc::new(Loop { volumes: context.informers.of(), context });
    work.volumes.synced().await;
    let queue = Queue::new();
    let volumes = work.volumes.clone();
    queue.feed(&work.volumes, move |volume: &Volume| {
        // Of the new one as well: it says when it is there.
        let source = volume.spec.source_volume.as_deref().and_then(|name| name.split_once('/'));
        let old = source.and_then(|(namespace, name)| volumes.get(Some(namespace), name));
        let own = goes_to(volume).map(|_| ObjectKey::of(volume));
        [own, old.map(|old| ObjectKey::of(old.as_ref()))].into_iter().flatten().collect::<Vec<_>>()
    });
    run_loop("transfer", queue, 1, move |key| {
        let work = work.clone();
        async move { work.reconcile(&key).await }
    })
    .await;
}

struct Loop {
    context: Context,
    volumes: Informer<Volume>,
}

/// The namespace that a volume went over to.
fn goes_to(volume: &Volume) -> Option<&String> {
    volume.metadata.annotations.as_ref()?.get(MOVES_TO)
}

/// Whether a volume there has what this one held.
fn is_taken(volume: &Volume, there: &[Arc<Volume>]) -> bool {
    let long = format!("{}/{}", volume.namespace().unwrap_or_default(), volume.name_any());
    there.iter().any(|other| {
        let phase = other.status.as_ref().map(|status| status.phase).unwrap_or_default();
        other.spec.source_volume.as_ref() == Some(&long)
            && matches!(phase, VolumePhase::Available | VolumePhase::InUse)
    })
}

impl Loop {
    async fn reconcile(&self, key: &ObjectKey) -> kube::Result<Option<Duration>> {
        let Some(volume) = self.volumes.get_key(key) else { return Ok(None) };
        let Some(to) = goes_to(&volume).filter(|_| volume.metadata.deletion_timestamp.is_none()) else {
            return Ok(None);
        };
        if !is_taken(&volume, &self.volumes.in_namespace(to)) {
            return Ok(None);
        }
        let (name, uid) = (volume.name_any(), volume.uid());
        match self.context.writer.delete::<Volume>(key.namespace(), &name, uid.as_deref()).await {
            Err(error) if is_not_found(&error) => Ok(None),
            // What the API server sees may be a moment behind.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(Some(AGAIN)),
            other => other.map(|_| None),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_volume_goes_when_the_one_that_is_made_of_it_is_there() {
        let volume = |namespace: &str, name: &str, of: Option<&str>, phase: &str| -> Arc<Volume> {
            Arc::new(
                serde_json::from_value(json!({
                    "apiVersion": "storage.yunfan.io/v1", "kind": "Volume",
                    "metadata": {"name": name, "namespace": namespace, "annotations": {MOVES_TO: "b"}},
                    "spec": {"sizeGib": 1, "sourceVolume": of}, "status": {"phase": phase},
                }))
                .unwrap(),
            )
        };
        let old = volume("a", "v", None, "Available");
        assert_eq!(goes_to(&old).map(String::as_str), Some("b"));
        assert!(!is_taken(&old, &[]));
        assert!(!is_taken(&old, &[volume("b", "v", Some("a/v"), "Creating")]));
        assert!(!is_taken(&old, &[volume("b", "v", Some("v"), "Available")]));
        assert!(is_taken(&old, &[volume("b", "v", Some("a/v"), "Available")]));
    }
}
