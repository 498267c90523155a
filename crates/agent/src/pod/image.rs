//! Images of Pods' containers: whether they are here, and pulling them, with a back-off for those that can't be had.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Container, ImageVolumeSource, Pod};
use kube::ResourceExt;
use yunfan_client::Severity;
use yunfan_runtime::RuntimeError;

use super::parts::Part;
use super::status::Waiting;
use super::{Local, Pods, secrets};

/// First wait after a failed pull; each further one doubles it.
const FIRST_BACKOFF: Duration = Duration::from_secs(10);
/// Longest such wait.
const LONGEST_BACKOFF: Duration = Duration::from_secs(300);
/// How long a Pod whose image can't be had without a change of it sleeps.
const HOPELESS: Duration = Duration::from_secs(60);

/// The pulls that failed, by Pod and image.
#[derive(Default)]
pub(super) struct Pulls {
    failed: Mutex<HashMap<(String, String), Failed>>,
}

#[derive(Clone)]
struct Failed {
    at: Instant,
    wait: Duration,
    error: String,
}

/// The ids of images by the names that a Pod has for them.
pub(super) type Images = HashMap<String, String>;

/// Why an image can't be used now, and when to look again.
pub(super) struct NotHere {
    pub(super) waiting: Waiting,
    pub(super) again: Duration,
}

impl Pulls {
    fn lock(&self) -> MutexGuard<'_, HashMap<(String, String), Failed>> {
        // Nothing panics under this lock.
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How much of a back-off is left, and what the last pull said.
    fn left(&self, key: &(String, String)) -> Option<(Duration, String)> {
        let failed = self.lock().get(key).cloned()?;
        let left = failed.wait.saturating_sub(failed.at.elapsed());
        (!left.is_zero()).then_some((left, failed.error))
    }

    /// Notes a failure; returns how long to wait.
    fn failed(&self, key: (String, String), error: String) -> Duration {
        let mut all = self.lock();
        let wait = all.get(&key).map_or(FIRST_BACKOFF, |before| (before.wait * 2).min(LONGEST_BACKOFF));
        all.insert(key, Failed { at: Instant::now(), wait, error });
        wait
    }

    /// Forgets what is known of a Pod.
    pub(super) fn forget(&self, uid: &str) {
        self.lock().retain(|key, _| key.0 != uid);
    }
}

impl Pods {
    /// Sees to it that the images are here which a container is made from and mounts. Returns the id of each by its name: by the time
    /// the container is made, the name may lead to another one, which this Pod may not use.
    pub(super) async fn images_of(&self, pod: &Pod, part: &Part) -> Result<Images, NotHere> {
        let container = &part.container;
        let mut ids = HashMap::new();
        for source in mounted(pod, container) {
            let (image, policy) =
                (source.reference.clone().unwrap_or_default(), source.pull_policy.as_deref());
            let known = if policy == Some("Always") { None } else { self.usable(pod, &image).await };
            let id = match known {
                Some(id) => id,
                None => self.have_image((pod, part), &image, policy).await?,
            };
            ids.insert(image, id);
        }
        let image = container.image.clone().unwrap_or_default();
        let id = self.have_image((pod, part), &image, container.image_pull_policy.as_deref()).await?;
        ids.insert(image, id);
        Ok(ids)
    }

    /// Makes sure that an image is here, and returns its id.
    async fn have_image(
        &self,
        (pod, part): (&Pod, &Part),
        image: &str,
        policy: Option<&str>,
    ) -> Result<String, NotHere> {
        let event = |severity, reason, message: String| self.say_of((pod, part), severity, reason, message);
        let not_here =
            |reason, message: String, again| NotHere { waiting: Waiting { reason, message }, again };
        if let Err(error) = yunfan_runtime::image::normalize(image) {
            let message = format!(
                "Failed to apply default image tag {image:?}: couldn't parse image name {image:?}: {error}"
            );
            event(Severity::Warning, "InspectFailed", message.clone());
            return Err(not_here("InvalidImageName", message, HOPELESS));
        }
        let usable = self.usable(pod, image).await;
        match policy.unwrap_or("IfNotPresent") {
            policy
                if policy != "Always"
                    && let Some(id) = usable =>
            {
                let message = format!(
                    "Container image {image:?} already present on machine and can be accessed by the pod"
                );
                event(Severity::Normal, "Pulled", message);
                return Ok(id);
            }
            // Also of one that is here: whether it is, is not for those to know to whom its registry would not give it.
            "Never" => {
                let message = format!("Container image {image:?} is not present with pull policy of Never");
                event(Severity::Warning, "ErrImageNeverPull", message.clone());
                return Err(not_here("ErrImageNeverPull", message, HOPELESS));
            }
            _ => {}
        }
        let key = (pod.uid().unwrap_or_default(), image.to_owned());
        if let Some((left, error)) = self.pulls.left(&key) {
            let message = format!("Back-off pulling image {image:?}");
            event(Severity::Normal, "BackOff", message.clone());
            event(Severity::Warning, "Failed", "Error: ImagePullBackOff".to_owned());
            return Err(not_here("ImagePullBackOff", format!("{message}: ErrImagePull: {error}"), left));
        }
        event(Severity::Normal, "Pulling", format!("Pulling image {image:?}"));
        match self.pull(pod, image).await {
            Ok((id, message)) => {
                self.pulls.lock().remove(&key);
                event(Severity::Normal, "Pulled", message);
                self.remember(&key.0, |local| drop(local.images.insert(key.1.clone(), id.clone())));
                Ok(id)
            }
            // Imported images have no registry to ask, and a registry that is down keeps no known image from running. One that does not
            // give it to this Pod does.
            Err(error) => {
                if let (RuntimeError::Pull { .. }, Some(id)) = (&error, usable) {
                    let message =
                        format!("Failed to pull image {image:?}: {error}; the image that is here is used");
                    event(Severity::Warning, "Failed", message);
                    return Ok(id);
                }
                let text = error.to_string();
                event(Severity::Warning, "Failed", format!("Failed to pull image {image:?}: {text}"));
                event(Severity::Warning, "Failed", "Error: ErrImagePull".to_owned());
                // Looked at again soon, to say that it backs off.
                let again = self.pulls.failed(key, text.clone()).min(Duration::from_secs(2));
                Err(not_here("ErrImagePull", text, again))
            }
        }
    }

    /// The id of the image that is here under a name, if the Pod may use it: another one's credential may have fetched it. Who was found
    /// to have one for it needs no API server to be started again.
    async fn usable(&self, pod: &Pod, image: &str) -> Option<String> {
        let found = self.images.resolve(image).await.unwrap_or_else(|error| {
            tracing::warn!(%error, image, "it can't be found out whether an image is here");
            None
        })?;
        let uid = pod.uid().unwrap_or_default();
        let given = |local: &Local| local.images.get(image) == Some(&found.id);
        if found.is_open_to_all(image) || self.lock().get(&uid).is_some_and(given) {
            return Some(found.id);
        }
        let (own, _) = secrets::for_image(&self.shared.writer, pod, image).await;
        if !self.images.is_open_to(&found, image, &own) {
            return None;
        }
        self.remember(&uid, |local| drop(local.images.insert(image.to_owned(), found.id.clone())));
        Some(found.id)
    }

    /// Pulls an image with the first of the Pod's credentials that its registry takes. Returns its id, and what to say of it.
    async fn pull(&self, pod: &Pod, image: &str) -> Result<(String, String), RuntimeError> {
        let began = Instant::now();
        let (found, missing) = secrets::for_image(&self.shared.writer, pod, image).await;
        if !missing.is_empty() {
            let message = format!(
                "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                missing.join(", ")
            );
            self.shared.recorder.event(pod, Severity::Warning, "FailedToRetrieveImagePullSecret", message);
        }
        let mut last = None;
        for auth in found.into_iter().chain([yunfan_runtime::image::RegistryAuth::Anonymous]) {
            match self.images.pull(image, auth).await {
                Ok(pulled) => {
                    let spent = began.elapsed();
                    let bytes = pulled.size_bytes;
                    let message = format!(
                        "Successfully pulled image {image:?} in {spent:.3?} ({spent:.3?} including waiting). Image size: {bytes} bytes."
                    );
                    return Ok((pulled.id, message));
                }
                Err(error @ (RuntimeError::Pull { .. } | RuntimeError::PullDenied { .. })) => {
                    last = Some(error)
                }
                Err(error) => return Err(error),
            }
        }
        // There was at least the try without credentials.
        Err(last.unwrap_or_else(|| RuntimeError::ImageNotFound(image.to_owned())))
    }
}

/// The images that a container mounts.
fn mounted<'a>(pod: &'a Pod, container: &'a Container) -> impl Iterator<Item = &'a ImageVolumeSource> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let used = |name: &str| container.volume_mounts.iter().flatten().any(|mount| mount.name == name);
    volumes.filter(move |volume| used(&volume.name)).filter_map(|volume| volume.image.as_ref())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_container_waits_for_the_images_that_it_mounts_and_no_others() {
        let volume = |name: &str| json!({"name": name, "image": {"reference": format!("r.example/{name}")}});
        let pod: Pod = serde_json::from_value(json!({"spec": {
            "volumes": [volume("a"), volume("b"), {"name": "c", "emptyDir": {}}],
            "containers": [
                {"name": "x", "volumeMounts": [{"name": "b", "mountPath": "/b"}, {"name": "c", "mountPath": "/c"}]},
                {"name": "y"},
            ],
        }}))
        .unwrap();
        let of = |index: usize| -> Vec<_> {
            let containers = &pod.spec.as_ref().unwrap().containers;
            mounted(&pod, &containers[index]).filter_map(|source| source.reference.as_deref()).collect()
        };
        assert_eq!((of(0), of(1)), (vec!["r.example/b"], vec![]));
    }

    #[test]
    fn failed_pulls_back_off_longer_and_longer() {
        let pulls = Pulls::default();
        let key = || ("u".to_owned(), "i".to_owned());
        assert!(pulls.left(&key()).is_none());
        let waits: Vec<u64> = (0..7).map(|_| pulls.failed(key(), "no".to_owned()).as_secs()).collect();
        assert_eq!(waits, [10, 20, 40, 80, 160, 300, 300]);
        let (left, error) = pulls.left(&key()).unwrap();
        assert!(left <= LONGEST_BACKOFF && error == "no");
        pulls.forget("u");
        assert!(pulls.left(&key()).is_none());
    }
}
