//! Images of containers go when the node's disk fills up: those that no container uses, least recently used first (Kubernetes'
//! documentation, "Garbage collection of containers and images").

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Node;
use tokio::sync::Mutex;
use yunfan_client::Severity;
use yunfan_runtime::image::Image;
use yunfan_runtime::{ImageService, RuntimeError};

use crate::Shared;

/// How often the disk is looked at (kubelet's).
const PERIOD: Duration = Duration::from_secs(300);
/// Images go when more of the disk is in use, in percent, until no more than [`LOW`] is (kubelet's defaults).
const HIGH: u64 = 85;
const LOW: u64 = 80;
/// With this many bytes free none goes: fifteen percent of a large disk are more than most nodes' images.
const ENOUGH: u64 = 16 << 30;
/// An image that came later than this stays: the container that it was fetched for is about to be made (kubelet's default).
const YOUNGEST: Duration = Duration::from_secs(120);

/// What is remembered of an image.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// None for those that were there when the agent began.
    first: Option<Instant>,
    /// None for those that no container used since.
    used: Option<Instant>,
}

/// What is remembered of the images.
#[derive(Default)]
struct Known {
    images: HashMap<String, Seen>,
    began: bool,
}

impl Known {
    /// Notes which images there are, and which are in use.
    fn note(&mut self, images: &[Image], used: &HashSet<String>, now: Instant) {
        let first = self.began.then_some(now);
        self.began = true;
        self.images.retain(|id, _| images.iter().any(|image| image.id == *id));
        for image in images {
            let seen = self.images.entry(image.id.clone()).or_insert(Seen { first, used: None });
            if used.contains(&image.id) {
                seen.used = Some(now);
            }
        }
    }

    /// The images that may go, in the order in which they should. Those that were not pulled could not be had again.
    fn candidates<'a>(&self, images: &'a [Image], now: Instant) -> Vec<&'a Image> {
        let seen = |image: &Image| self.images.get(&image.id).copied().unwrap_or_default();
        let mut found: Vec<&Image> = images
            .iter()
            .filter(|image| {
                let Seen { first, used } = seen(image);
                let young = first.is_some_and(|first| now.duration_since(first) < YOUNGEST);
                image.was_pulled() && used != Some(now) && !young
            })
            .collect();
        found.sort_by_key(|image| {
            let Seen { first, used } = seen(image);
            (used, first)
        });
        found
    }
}

/// How many bytes have to go, where `free` of `total` bytes are left.
fn excess(free: u64, total: u64) -> Option<u64> {
    let of = |percent: u64| u64::try_from(u128::from(total) * u128::from(percent) / 100).unwrap_or(u64::MAX);
    let full = free < ENOUGH && total.saturating_sub(free) >= of(HIGH);
    full.then(|| of(100 - LOW).saturating_sub(free)).filter(|bytes| *bytes > 0)
}

/// Removes images that no container uses.
pub(crate) struct Cleaning {
    shared: Shared,
    images: Arc<dyn ImageService>,
    known: Mutex<Known>,
}

impl Cleaning {
    pub(crate) fn new(shared: Shared, images: Arc<dyn ImageService>) -> Arc<Self> {
        Arc::new(Self { shared, images, known: Mutex::default() })
    }

    /// Removes all that may go, because the node is short of disk.
    pub(crate) async fn free_all(&self) {
        match round(&mut *self.known.lock().await, self.images.as_ref(), Some(u64::MAX)).await {
            Ok(()) | Err(Failure::Short { .. }) => {}
            Err(Failure::Other(text)) => tracing::warn!(text, "images could not be cleaned up"),
        }
    }

    /// Looks at the disk now and then, until dropped.
    pub(crate) async fn keep(self: Arc<Self>) {
        let nodes = self.shared.informers.of::<Node>();
        nodes.synced().await;
        let mut failed = false;
        let mut tick = tokio::time::interval(PERIOD);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let say = |reason: &'static str, message: &str| {
                if let Some(node) = nodes.get(None, &self.shared.node) {
                    self.shared.recorder.event(node.as_ref(), Severity::Warning, reason, message);
                }
            };
            let Err(failure) = self.look().await else {
                failed = false;
                continue;
            };
            let text = failure.to_string();
            tracing::warn!(text, "images could not be cleaned up");
            if matches!(failure, Failure::Short { .. }) {
                say("FreeDiskSpaceFailed", &text);
            }
            // One failure alone is not worth an event.
            if failed {
                say("ImageGCFailed", &text);
            }
            failed = true;
        }
    }

    async fn look(&self) -> Result<(), Failure> {
        let (free, total) = space(self.images.as_ref()).await.map_err(Failure::Other)?;
        round(&mut *self.known.lock().await, self.images.as_ref(), excess(free, total)).await
    }
}

/// Free bytes and all of them where the images are.
async fn space(images: &dyn ImageService) -> Result<(u64, u64), String> {
    let place = images.place().await.map_err(|error| error.to_string())?;
    let fs = rustix::fs::statvfs(&place).map_err(|error| format!("{}: {error}", place.display()))?;
    let bytes = |blocks: u64| blocks.saturating_mul(fs.f_frsize);
    Ok((bytes(fs.f_bavail), bytes(fs.f_blocks)))
}

/// Why there is less room than there should be.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(
        "Failed to garbage collect required amount of images. Attempted to free {wanted} bytes, but only found {found} bytes eligible to free."
    )]
    Short { wanted: u64, found: u64 },
    #[error("{0}")]
    Other(String),
}

/// Notes what there is, and removes as much as is wanted.
async fn round(known: &mut Known, store: &dyn ImageService, wanted: Option<u64>) -> Result<(), Failure> {
    let other = |error: RuntimeError| Failure::Other(error.to_string());
    let (images, used) = (store.list().await.map_err(other)?, store.used().await.map_err(other)?);
    let now = Instant::now();
    known.note(&images, &used, now);
    let Some(wanted) = wanted else { return Ok(()) };
    let mut candidates = known.candidates(&images, now).into_iter();
    let mut freed = 0_u64;
    // Those that a container was made from meanwhile stay: further ones go for them.
    while freed < wanted {
        let chosen = enough(&mut candidates, wanted - freed);
        if chosen.is_empty() {
            return Err(Failure::Short { wanted, found: freed });
        }
        let ids = chosen.iter().map(|image| image.id.clone()).collect();
        let gone = store.remove_unused(ids).await.map_err(|error| {
            Failure::Other(format!(
                "wanted to free {wanted} bytes, but freed {freed} bytes space with errors in image deletion: {error}"
            ))
        })?;
        for image in chosen.into_iter().filter(|image| gone.contains(&image.id)) {
            tracing::info!(id = image.id, bytes = image.size_bytes, "an image is removed to free some disk");
            freed = freed.saturating_add(image.size_bytes);
        }
    }
    Ok(())
}

/// As many of the next ones as hold `wanted` bytes together.
fn enough<'a>(candidates: &mut impl Iterator<Item = &'a Image>, wanted: u64) -> Vec<&'a Image> {
    let (mut chosen, mut bytes) = (Vec::new(), 0_u64);
    while bytes < wanted
        && let Some(image) = candidates.next()
    {
        bytes = bytes.saturating_add(image.size_bytes);
        chosen.push(image);
    }
    chosen
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn image(id: &str, pulled: bool) -> Image {
        let access = if pulled { json!({"r.example/a": {"everyone": true}}) } else { json!({}) };
        let config = yunfan_runtime::image::ImageConfig::default();
        serde_json::from_value(json!({"id": id, "names": [], "layers": [], "size_bytes": 5, "config": config,
            "access": access}))
        .unwrap()
    }

    #[test]
    fn a_disk_is_cleaned_when_it_is_nearly_full_and_small_room_is_left() {
        let gib = 1 << 30;
        assert_eq!(excess(15 * gib, 100 * gib), Some(5 * gib));
        assert_eq!(excess(15 * gib + 1, 100 * gib), None);
        assert_eq!(excess(100 * gib, 1000 * gib), None, "that is plenty");
        assert_eq!(excess(0, 0), None);
        assert_eq!(excess(0, 10), Some(2));
    }

    #[test]
    fn as_many_go_as_are_needed() {
        let all: Vec<Image> = ["a", "b", "c"].map(|id| image(id, true)).into();
        let mut left = all.iter();
        assert!(enough(&mut left, 0).is_empty());
        assert_eq!(enough(&mut left, 6).len(), 2);
        assert_eq!(enough(&mut left, 6).len(), 1, "all that there are");
        assert!(enough(&mut left, 6).is_empty());
    }

    #[test]
    fn what_was_used_longest_ago_goes_first_and_what_can_not_be_had_again_stays() {
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        let all: Vec<Image> = ["a", "b", "c", "d"].map(|id| image(id, true)).into();
        let all = [all, vec![image("imported", false)]].concat();
        let used = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<HashSet<_>>();
        let mut known = Known::default();
        let order = |known: &Known, all: &[Image], now| {
            known.candidates(all, now).iter().map(|image| image.id.clone()).collect::<Vec<_>>()
        };
        known.note(&all[..2], &used(&["b"]), at(0));
        known.note(&all, &used(&["a"]), at(300));
        assert_eq!(order(&known, &all, at(300)), ["b"], "one is in use, two have just come");
        known.note(&all, &used(&["c"]), at(600));
        assert_eq!(order(&known, &all, at(600)), ["d", "b", "a"]);
        known.note(&all[..1], &used(&[]), at(900));
        assert_eq!(known.images.len(), 1, "those that are gone are forgotten");
    }
}
