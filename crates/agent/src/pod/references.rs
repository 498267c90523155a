//! The ConfigMaps, Secrets and claims that this node's Pods mount, each followed by a watch of its own, as kubelet does: a node is
//! told of what its Pods use, and of nothing else. Contents of the first two are not kept here: they are read when volumes are made.

use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::certificates::v1::{ClusterTrustBundle, PodCertificateRequest};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Volume};
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{Config, Event, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::task::JoinHandle;
use yunfan_client::{ObjectKey, Queue};
use yunfan_resources::claims::claims_of_pod;

use super::Work;
use super::bound::{Bound, Sight};

/// What was changed between the reading of an object and the start of its watch is looked at this much later. It is not
/// urgent, and the Pod is just being started.
pub(super) const SETTLE: Duration = Duration::from_secs(1);

/// Kinds that volumes are made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    ConfigMap,
    Secret,
    Claim,
    /// A ClusterTrustBundle by its name, or all of the signer that has this name.
    Bundle,
    BundlesOf,
    /// The PodCertificateRequests of the Pod that has this name.
    CertificatesOf,
}

/// An object that a Pod mounts, or several.
type Reference = (Kind, ObjectKey);

/// What Pods mount, and the watches of that.
pub(super) struct References {
    client: Client,
    node: String,
    queue: Queue<Work>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    of_pod: HashMap<ObjectKey, HashSet<Reference>>,
    followed: HashMap<Reference, Followed>,
}

/// A watch, which ends with this.
struct Followed {
    users: Users,
    /// Of a claim.
    sight: Sight,
    task: JoinHandle<()>,
}

/// The Pods that mount an object.
type Users = Arc<Mutex<HashSet<ObjectKey>>>;

impl Drop for Followed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl References {
    /// Nothing is followed yet; changes will wake the Pods of `node` in `queue`.
    pub(super) fn new(client: Client, node: &str, queue: Queue<Work>) -> Self {
        Self { client, node: node.to_owned(), queue, known: Mutex::default() }
    }

    /// Follows what the Pod mounts from now on, and no longer what it does not mount any more. Comes before the objects are read,
    /// so that no change of them is missed.
    pub(super) fn follow(&self, pod: &Pod) {
        self.set(ObjectKey::of(pod), of_pod(pod));
    }

    /// The Pod uses nothing any more.
    pub(super) fn forget(&self, pod: &ObjectKey) {
        self.set(pod.clone(), HashSet::new());
    }

    /// A claim that a Pod mounts and its volume, as last seen; `None` while it is not known what there is.
    pub(super) fn bound(&self, claim: &ObjectKey) -> Option<Bound> {
        lock(&self.known).followed.get(&(Kind::Claim, claim.clone()))?.sight.get()
    }

    fn set(&self, pod: ObjectKey, wanted: HashSet<Reference>) {
        let mut known = lock(&self.known);
        let Known { of_pod, followed } = &mut *known;
        let before = of_pod.get(&pod);
        if before.map_or(wanted.is_empty(), |before| *before == wanted) {
            return;
        }
        for reference in before.into_iter().flatten().filter(|reference| !wanted.contains(reference)) {
            let Some(watch) = followed.get(reference) else { continue };
            let mut users = lock(&watch.users);
            users.remove(&pod);
            if users.is_empty() {
                drop(users);
                followed.remove(reference);
            }
        }
        for reference in &wanted {
            let watch = followed.entry(reference.clone()).or_insert_with(|| self.watch(reference));
            lock(&watch.users).insert(pod.clone());
        }
        match wanted.is_empty() {
            true => of_pod.remove(&pod),
            false => of_pod.insert(pod, wanted),
        };
    }

    fn watch(&self, (kind, key): &Reference) -> Followed {
        let (users, sight) = (Users::default(), Sight::default());
        let (client, queue, told) = (self.client.clone(), self.queue.clone(), users.clone());
        let by_name = format!("metadata.name={}", key.name);
        let task = match kind {
            Kind::ConfigMap => {
                let api = Api::namespaced(client, &key.namespace);
                tokio::spawn(tell::<ConfigMap>(api, by_name, queue, told))
            }
            Kind::Secret => {
                let api = Api::namespaced(client, &key.namespace);
                tokio::spawn(tell::<Secret>(api, by_name, queue, told))
            }
            Kind::Claim => {
                let wake = move |after| wake(&queue, &told, after);
                tokio::spawn(sight.clone().follow(client, key.clone(), wake))
            }
            Kind::Bundle => tokio::spawn(tell::<ClusterTrustBundle>(Api::all(client), by_name, queue, told)),
            Kind::BundlesOf => {
                let fields = format!("spec.signerName={}", key.name);
                tokio::spawn(tell::<ClusterTrustBundle>(Api::all(client), fields, queue, told))
            }
            Kind::CertificatesOf => {
                let api = Api::namespaced(client, &key.namespace);
                // A node may look at its own alone.
                let fields = format!("spec.nodeName={},spec.podName={}", self.node, key.name);
                tokio::spawn(tell::<PodCertificateRequest>(api, fields, queue, told))
            }
        };
        Followed { users, sight, task }
    }
}

/// Wakes the Pods that mount what these fields select whenever that changes.
async fn tell<K>(api: Api<PartialObjectMeta<K>>, fields: String, queue: Queue<Work>, users: Users)
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let config = Config::default().any_semantic().fields(&fields);
    let mut events = watcher(api, config).default_backoff().boxed();
    while let Some(event) = events.next().await {
        let after = match event {
            Ok(Event::Init | Event::InitApply(_)) => continue,
            Ok(Event::InitDone) => SETTLE,
            Ok(Event::Apply(_) | Event::Delete(_)) => Duration::ZERO,
            Err(error) => {
                tracing::warn!(kind = %K::kind(&()), fields, %error, "watch failed, it is tried again");
                continue;
            }
        };
        wake(&queue, &users, after);
    }
}

fn wake(queue: &Queue<Work>, users: &Users, after: Duration) {
    let users: Vec<ObjectKey> = lock(users).iter().cloned().collect();
    for user in users {
        queue.add_after(Work::Pod(user), after);
    }
}

/// What a Pod's volumes are made from.
fn of_pod(pod: &Pod) -> HashSet<Reference> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let objects = volumes.flat_map(of_volume).map(|(kind, name)| {
        let name = if kind == Kind::CertificatesOf { pod.metadata.name.as_deref() } else { Some(name) };
        let of_cluster = matches!(kind, Kind::Bundle | Kind::BundlesOf);
        (kind, ObjectKey::new(if of_cluster { "" } else { namespace }, name.unwrap_or_default()))
    });
    let claims = claims_of_pod(pod).map(|one| (Kind::Claim, ObjectKey::new(namespace, &one.claim)));
    objects.chain(claims).collect()
}

fn of_volume(volume: &Volume) -> Vec<(Kind, &str)> {
    let mut found = Vec::new();
    found.extend(volume.config_map.as_ref().map(|source| (Kind::ConfigMap, source.name.as_str())));
    let secret = volume.secret.as_ref().and_then(|source| source.secret_name.as_deref());
    found.extend(secret.map(|name| (Kind::Secret, name)));
    for source in volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten()) {
        found.extend(source.config_map.as_ref().map(|source| (Kind::ConfigMap, source.name.as_str())));
        found.extend(source.secret.as_ref().map(|source| (Kind::Secret, source.name.as_str())));
        let bundle = source.cluster_trust_bundle.as_ref();
        found.extend(bundle.and_then(|bundle| Some((Kind::Bundle, bundle.name.as_deref()?))));
        found.extend(bundle.and_then(|bundle| Some((Kind::BundlesOf, bundle.signer_name.as_deref()?))));
        let certificate = source.pod_certificate.as_ref();
        found.extend(certificate.map(|source| (Kind::CertificatesOf, source.signer_name.as_str())));
    }
    found.retain(|(_, name)| !name.is_empty());
    found
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics under these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use http::Response;
    use kube::client::Body;
    use serde_json::json;

    use super::*;

    fn pod(name: &str, volumes: serde_json::Value) -> Pod {
        let spec = json!({"containers": [], "volumes": volumes});
        serde_json::from_value(json!({"metadata": {"namespace": "n", "name": name}, "spec": spec})).unwrap()
    }

    fn names(references: &References) -> Vec<String> {
        let known = lock(&references.known);
        let mut names: Vec<_> = known.followed.keys().map(|(kind, key)| format!("{kind:?} {key}")).collect();
        names.sort();
        names
    }

    #[test]
    fn all_that_volumes_are_made_from_is_found() {
        let pod = pod(
            "p",
            json!([
                {"name": "a", "configMap": {"name": "plain"}},
                {"name": "b", "secret": {"secretName": "plain"}},
                {"name": "c", "projected": {"sources": [{"configMap": {"name": "inner"}}, {"secret": {"name": "inner"}}]}},
                {"name": "d", "emptyDir": {}},
                {"name": "e", "persistentVolumeClaim": {"claimName": "data"}},
                {"name": "f", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}},
                {"name": "g", "projected": {"sources": [
                    {"clusterTrustBundle": {"name": "roots", "path": "a"}},
                    {"clusterTrustBundle": {"signerName": "example.com/x", "path": "b"}},
                    {"podCertificate": {"signerName": "example.com/x", "keyType": "ED25519", "credentialBundlePath": "c"}},
                ]}},
            ]),
        );
        let key = |name: &str| ObjectKey::new("n", name);
        let wanted = [
            (Kind::ConfigMap, key("plain")),
            (Kind::Secret, key("plain")),
            (Kind::ConfigMap, key("inner")),
            (Kind::Secret, key("inner")),
            (Kind::Claim, key("data")),
            (Kind::Claim, key("p-f")),
            (Kind::Bundle, ObjectKey::new("", "roots")),
            (Kind::BundlesOf, ObjectKey::new("", "example.com/x")),
            (Kind::CertificatesOf, key("p")),
        ];
        assert_eq!(of_pod(&pod), HashSet::from(wanted));
    }

    #[tokio::test]
    async fn an_object_is_followed_while_a_pod_mounts_it() {
        let silent = tower::service_fn(|_: http::Request<Body>| {
            std::future::pending::<Result<Response<Body>, std::io::Error>>()
        });
        let references = References::new(Client::new(silent, "default"), "n", Queue::new());
        let map = |name: &str| json!([{"name": "v", "configMap": {"name": name}}]);
        references.follow(&pod("a", map("x")));
        references.follow(&pod("b", map("x")));
        references.follow(&pod("b", map("y")));
        assert_eq!(names(&references), ["ConfigMap n/x", "ConfigMap n/y"]);
        references.forget(&ObjectKey::new("n", "a"));
        assert_eq!(names(&references), ["ConfigMap n/y"]);
        references.follow(&pod("b", json!([])));
        assert_eq!(names(&references), [""; 0]);
        assert!(lock(&references.known).of_pod.is_empty());
    }
}
