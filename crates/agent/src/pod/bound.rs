//! A claim that Pods of this node mount and the volume that it is bound to, followed by name as long as a Pod mounts it: a node is told of
//! these, and of nobody else's.

use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::{BoxStream, pending};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{Config, Event, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use yunfan_client::{ObjectKey, Watched, Writer, is_not_found};
use yunfan_resources::claims::volume_name;

use super::read;
use super::references::SETTLE;

/// The two sides, as far as they are there.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Bound {
    pub(super) claim: Option<Arc<PersistentVolumeClaim>>,
    pub(super) volume: Option<Arc<PersistentVolume>>,
}

impl Bound {
    /// Asks the API server for both.
    ///
    /// # Errors
    /// As it says.
    pub(super) async fn read(writer: &Writer, key: &ObjectKey) -> Result<Self, kube::Error> {
        let claim = there(read::get::<PersistentVolumeClaim>(writer, key.namespace(), &key.name).await)?;
        let Some(name) = claim.as_deref().and_then(volume_name) else {
            return Ok(Self { claim, volume: None });
        };
        let volume = there(read::get::<PersistentVolume>(writer, None, name).await)?;
        Ok(Self { volume, claim })
    }
}

fn there<K>(read: Result<K, kube::Error>) -> Result<Option<Arc<K>>, kube::Error> {
    match read {
        Ok(object) => Ok(Some(Arc::new(object))),
        Err(error) if is_not_found(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What is known of both. Cloning shares it.
#[derive(Clone, Default)]
pub(super) struct Sight(Arc<Mutex<Seen>>);

#[derive(Default)]
struct Seen {
    /// `None` until the server has said whether there is one.
    claim: Option<Option<Arc<PersistentVolumeClaim>>>,
    /// The same, of the volume with this name.
    volume: (String, Option<Option<Arc<PersistentVolume>>>),
}

impl Sight {
    /// Both, once it is known what there is.
    pub(super) fn get(&self) -> Option<Bound> {
        let seen = self.lock();
        let claim = seen.claim.clone()?;
        let Some(name) = claim.as_deref().and_then(volume_name) else {
            return Some(Bound { claim, volume: None });
        };
        let volume = seen.volume.1.clone().filter(|_| seen.volume.0 == name)?;
        Some(Bound { volume, claim })
    }

    /// Follows the claim of this name, and the volume that it names; `told` hears how soon a change is to be looked at.
    pub(super) async fn follow(self, client: Client, key: ObjectKey, told: impl Fn(Duration)) {
        let mut claims =
            follow::<PersistentVolumeClaim>(Api::namespaced(client.clone(), &key.namespace), &key.name);
        let mut volumes = pending().boxed();
        loop {
            let after = tokio::select! {
                Some((claim, after)) = claims.next() => {
                    let name = claim.as_deref().and_then(volume_name).unwrap_or_default().to_owned();
                    let mut seen = self.lock();
                    seen.claim = Some(claim);
                    if seen.volume.0 != name {
                        volumes = match name.as_str() {
                            "" => pending().boxed(),
                            name => follow::<PersistentVolume>(Api::all(client.clone()), name),
                        };
                        seen.volume = (name, None);
                    }
                    after
                }
                Some((volume, after)) = volumes.next() => {
                    self.lock().volume.1 = Some(volume);
                    after
                }
                // Watches are tried again for ever.
                else => return,
            };
            told(after);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        // Nothing panics under this lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The object of a name each time that it may have changed, and how soon that is to be looked at.
fn follow<K>(api: Api<K>, name: &str) -> BoxStream<'static, (Option<Arc<K>>, Duration)>
where
    K: Resource<DynamicType = ()> + Watched + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let config = Config::default().any_semantic().fields(&format!("metadata.name={name}"));
    let (name, mut listed) = (name.to_owned(), None);
    let news = watcher(api, config).default_backoff().filter_map(move |event| {
        let news = match event {
            Ok(Event::Init) => {
                listed = None;
                None
            }
            Ok(Event::InitApply(object)) => {
                listed = Some(Arc::new(object));
                None
            }
            Ok(Event::InitDone) => Some((listed.take(), SETTLE)),
            Ok(Event::Apply(object)) => Some((Some(Arc::new(object)), Duration::ZERO)),
            Ok(Event::Delete(_)) => Some((None, Duration::ZERO)),
            Err(error) => {
                tracing::warn!(kind = %K::kind(&()), name, %error, "watch failed, it is tried again");
                None
            }
        };
        std::future::ready(news)
    });
    news.boxed()
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    #[test]
    fn both_sides_are_known_when_all_that_there_is_was_told() {
        let claim = |volume: Option<&str>| -> Option<Arc<PersistentVolumeClaim>> {
            let claim = json!({"metadata": {"name": "c"}, "spec": {"volumeName": volume}});
            Some(Arc::new(from_value(claim).unwrap()))
        };
        let sight = Sight::default();
        assert_eq!(sight.get(), None);
        sight.lock().claim = Some(None);
        assert_eq!(sight.get(), Some(Bound::default()), "there is none");
        sight.lock().claim = Some(claim(None));
        assert_eq!(sight.get(), Some(Bound { claim: claim(None), volume: None }));
        // It was bound, and its volume is not told yet; then to another one.
        sight.lock().claim = Some(claim(Some("v")));
        sight.lock().volume = ("v".to_owned(), None);
        assert_eq!(sight.get(), None);
        let volume = Some(Arc::new(PersistentVolume::default()));
        sight.lock().volume = ("v".to_owned(), Some(volume.clone()));
        assert_eq!(sight.get(), Some(Bound { claim: claim(Some("v")), volume }));
        sight.lock().claim = Some(claim(Some("w")));
        assert_eq!(sight.get(), None);
    }
}
