//! Volumes that went over to another namespace → they go, once the Volume there has what they held; they stay, with the id that they had,
//! where no Volume there was made of them, or it is gone again.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use serde_json::json;
use yunfan_client::{Informer, ObjectKey, Queue, is_not_found, run_loop};
use yunfan_resources::storage::{MOVED_AT, MOVED_ID, MOVES_TO, Volume, VolumePhase};

use crate::Context;

/// When it is looked again whether a deletion is taken.
const AGAIN: Duration = Duration::from_secs(1);
/// A volume of which nothing is being made for so long stays: whoever accepted it makes the other one at once, and may have been killed before.
const PATIENCE: Duration = Duration::from_secs(120);

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

/// The Volumes there that were made of this one. Its name alone says little: one of the same name may have gone there before.
fn made_of<'a>(volume: &'a Volume, there: &'a [Arc<Volume>]) -> impl Iterator<Item = &'a Volume> {
    let long = format!("{}/{}", volume.namespace().unwrap_or_default(), volume.name_any());
    let made = move |other: &&Arc<Volume>| {
        other.spec.source_volume.as_ref() == Some(&long)
            && other.spec.source_id.is_some()
            && other.spec.source_id == volume.spec.id
    };
    there.iter().filter(made).map(|other| &**other)
}

/// Whether a volume there has what this one held.
fn is_taken(volume: &Volume, there: &[Arc<Volume>]) -> bool {
    made_of(volume, there).any(|other| {
        let phase = other.status.as_ref().map(|status| status.phase).unwrap_or_default();
        matches!(phase, VolumePhase::Available | VolumePhase::InUse)
    })
}

/// When it may be said that nothing is made of it, if it says since when it goes.
fn patience_left(volume: &Volume, now: Timestamp) -> Option<Duration> {
    let since: Timestamp = volume.metadata.annotations.as_ref()?.get(MOVED_AT)?.parse().ok()?;
    let passed = Duration::try_from(now.duration_since(since)).unwrap_or_default();
    Some(PATIENCE.saturating_sub(passed))
}

impl Loop {
    async fn reconcile(&self, key: &ObjectKey) -> kube::Result<Option<Duration>> {
        let Some(volume) = self.volumes.get_key(key) else { return Ok(None) };
        let Some(to) = goes_to(&volume).filter(|_| volume.metadata.deletion_timestamp.is_none()) else {
            return Ok(None);
        };
        let there = self.volumes.in_namespace(to);
        if !is_taken(&volume, &there) {
            let waits = made_of(&volume, &there).next().is_some();
            return if waits { Ok(None) } else { self.stay(key, &volume).await };
        }
        let (name, uid) = (volume.name_any(), volume.uid());
        match self.context.writer.delete::<Volume>(key.namespace(), &name, uid.as_deref()).await {
            Err(error) if is_not_found(&error) => Ok(None),
            // What the API server sees may be a moment behind.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(Some(AGAIN)),
            other => other.map(|_| None),
        }
    }

    /// The volume stays where it is, once nobody can be about to make the other one any more.
    async fn stay(&self, key: &ObjectKey, volume: &Volume) -> kube::Result<Option<Duration>> {
        let id = volume.metadata.annotations.as_ref().and_then(|all| all.get(MOVED_ID));
        let (Some(id), Some(left)) = (id, patience_left(volume, Timestamp::now())) else { return Ok(None) };
        if !left.is_zero() {
            return Ok(Some(left));
        }
        let patch = json!({
            "metadata": {
                "resourceVersion": volume.metadata.resource_version,
                "annotations": {MOVES_TO: null, MOVED_ID: null, MOVED_AT: null},
            },
            "spec": {"id": id},
        });
        match self.context.writer.merge::<Volume>(key.namespace(), &volume.name_any(), &patch).await {
            Err(error) if is_not_found(&error) => Ok(None),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(Some(AGAIN)),
            other => other.map(|_| None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(namespace: &str, id: &str, of: Option<(&str, &str)>, phase: &str) -> Arc<Volume> {
        let (name, source_id) = of.unzip();
        Arc::new(
            serde_json::from_value(json!({
                "apiVersion": "storage.yunfan.io/v1", "kind": "Volume",
                "metadata": {"name": "v", "namespace": namespace, "annotations":
                    {MOVES_TO: "b", MOVED_ID: "old", MOVED_AT: "2026-01-01T00:00:00Z"}},
                "spec": {"sizeGib": 1, "id": id, "sourceVolume": name, "sourceId": source_id},
                "status": {"phase": phase},
            }))
            .unwrap(),
        )
    }

    #[test]
    fn a_volume_goes_when_the_one_that_is_made_of_it_is_there() {
        let old = volume("a", "1", None, "Available");
        assert_eq!(goes_to(&old).map(String::as_str), Some("b"));
        assert!(!is_taken(&old, &[]));
        let being_made = volume("b", "2", Some(("a/v", "1")), "Creating");
        assert_eq!(made_of(&old, std::slice::from_ref(&being_made)).count(), 1);
        assert!(!is_taken(&old, &[being_made]));
        assert!(!is_taken(&old, &[volume("b", "2", Some(("v", "1")), "Available")]));
        // One of the same name that went there before.
        let before = volume("b", "2", Some(("a/v", "0")), "Available");
        assert_eq!(made_of(&old, std::slice::from_ref(&before)).count(), 0);
        assert!(!is_taken(&old, &[before]));
        assert!(is_taken(&old, &[volume("b", "2", Some(("a/v", "1")), "Available")]));
    }

    #[test]
    fn a_volume_of_which_nothing_is_made_stays_after_a_while() {
        let old = volume("a", "1", None, "Available");
        let at = |text: &str| patience_left(&old, text.parse().unwrap());
        assert_eq!(at("2026-01-01T00:00:00Z"), Some(PATIENCE));
        assert_eq!(at("2025-12-31T23:00:00Z"), Some(PATIENCE));
        assert_eq!(at("2026-01-01T00:01:00Z"), Some(Duration::from_secs(60)));
        assert_eq!(at("2026-01-01T01:00:00Z"), Some(Duration::ZERO));
    }
}
