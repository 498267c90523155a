//! Backups of machines → which of them go: once a newer one is there, the oldest beyond what it says stay no longer.
//!
//! That is so only then: a backup that fails, or is not there yet, must not cost one that is.

use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt;
use yunfan_client::{Informer, ObjectKey, Queue, is_not_found, run_loop};
use yunfan_resources::image::{Image, ImagePhase};

use crate::Context;

/// Runs the loop.
pub async fn run(context: Context) {
    let work = Arc::new(Loop { images: context.informers.of(), context });
    work.images.synced().await;
    let queue = Queue::new();
    queue.feed(&work.images, |image: &Image| image.backup().map(|_| ObjectKey::of(image)));
    run_loop("backup", queue, 1, move |key| {
        let work = work.clone();
        async move { work.reconcile(&key).await }
    })
    .await;
}

struct Loop {
    context: Context,
    images: Informer<Image>,
}

impl Loop {
    async fn reconcile(&self, key: &ObjectKey) -> kube::Result<Option<Duration>> {
        let Some(image) = self.images.get_key(key) else { return Ok(None) };
        let all = self.images.in_namespace(&image.namespace().unwrap_or_default());
        for old in surplus(&image, &all) {
            let (name, uid) = (old.name_any(), old.uid());
            match self.context.writer.delete::<Image>(key.namespace(), &name, uid.as_deref()).await {
                // One that is protected, or that servers run from, stays until somebody lets it go.
                Err(kube::Error::Api(status)) if matches!(status.code, 403 | 409 | 422) => {
                    tracing::info!(image = name, message = status.message, "an old backup stays");
                }
                Err(error) if !is_not_found(&error) => return Err(error),
                _ => {}
            }
        }
        Ok(None)
    }
}

/// Whether an image is there, for good.
fn is_there(image: &Image) -> bool {
    image.metadata.deletion_timestamp.is_none()
        && image.status.as_ref().is_some_and(|status| status.phase == ImagePhase::Active)
}

/// The backups beside this one that are beyond the number that the newest of them says. Only those that are there count.
fn surplus(image: &Image, all: &[Arc<Image>]) -> Vec<Arc<Image>> {
    let Some(backup) = image.backup() else { return Vec::new() };
    let mut beside: Vec<Arc<Image>> =
        all.iter().filter(|other| is_there(other) && other.is_backup_beside(&backup)).cloned().collect();
    let age = |image: &Image| {
        let asked = image.backup().map(|backup| backup.at);
        (image.metadata.creation_timestamp.clone().map(|at| at.0), asked, image.uid())
    };
    beside.sort_by_key(|image| std::cmp::Reverse(age(image)));
    let stay = beside.first().and_then(|newest| newest.backup()).map_or(u32::MAX, |newest| newest.rotation);
    beside.split_off(usize::try_from(stay).unwrap_or(usize::MAX).min(beside.len()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use yunfan_resources::image::Backup;

    use super::*;

    fn image(name: &str, day: u8, phase: &str, sort: &str, rotation: u32) -> Arc<Image> {
        let mut image: Image = serde_json::from_value(json!({
            "apiVersion": "image.yunfan.io/v1", "kind": "Image",
            "metadata": {"name": name, "uid": name, "creationTimestamp": format!("2026-01-0{day}T00:00:00Z")},
            "spec": {"diskFormat": "qcow2"}, "status": {"phase": phase},
        }))
        .unwrap();
        image.mark_backup(&Backup { machine: "m".into(), sort: sort.into(), rotation, at: 0 });
        Arc::new(image)
    }

    fn names(images: &[Arc<Image>]) -> Vec<String> {
        images.iter().map(|image| image.name_any()).collect()
    }

    #[test]
    fn the_oldest_go_once_a_newer_one_is_there() {
        let all = [
            image("a", 1, "Active", "daily", 2),
            image("b", 2, "Active", "daily", 2),
            image("w", 1, "Active", "weekly", 1),
            image("c", 3, "Active", "daily", 2),
        ];
        assert_eq!(names(&surplus(&all[3], &all)), ["a"]);
        assert_eq!(names(&surplus(&all[0], &all)), ["a"], "whichever is looked at");
        assert!(surplus(&all[2], &all).is_empty());
    }

    #[test]
    fn of_those_of_one_second_the_one_that_was_asked_for_later_stays() {
        let of = |name: &str, at: i64| {
            let mut image = Arc::unwrap_or_clone(image(name, 1, "Active", "daily", 1));
            image.mark_backup(&Backup { machine: "m".into(), sort: "daily".into(), rotation: 1, at });
            Arc::new(image)
        };
        let all = [of("z", 1), of("a", 2)];
        assert_eq!(names(&surplus(&all[1], &all)), ["z"]);
    }

    #[test]
    fn one_that_is_not_there_costs_none() {
        let all = [image("a", 1, "Active", "daily", 1), image("b", 2, "Saving", "daily", 1)];
        assert!(surplus(&all[1], &all).is_empty());
        let failed = [all[0].clone(), image("b", 2, "Failed", "daily", 1)];
        assert!(surplus(&failed[1], &failed).is_empty());
        let done = [all[0].clone(), image("b", 2, "Active", "daily", 1)];
        assert_eq!(names(&surplus(&done[1], &done)), ["a"]);
    }
}
