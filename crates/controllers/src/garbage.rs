//! Garbage collection: an object goes when all its owners are gone, or wait for it to go (foreground deletion).
//!
//! One metadata watch per served kind keeps a graph of who owns whom. Objects without owners or dependents take
//! a uid each in it, no more.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::core::{ObjectMeta, PartialObjectMeta};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, core::DynamicObject};
use serde_json::json;
use tokio::task::JoinHandle;
use yunfan_client::{Queue, is_conflict, is_not_found, run_loop};

use crate::Context;
use crate::kinds::{Served, ServedKind, served};

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";
/// How often the list of served kinds is read again, beside each change of a CRD.
const KINDS_AGAIN: Duration = Duration::from_secs(60);
/// After what time dependents that are to be left behind, and changed meanwhile, are looked at again.
const ORPHANS_AGAIN: Duration = Duration::from_millis(50);

type Uid = String;

/// Runs the loop.
pub async fn run(context: Context) {
    let queue = Queue::new();
    let graph = Arc::new(Mutex::new(Graph::default()));
    let client = context.writer.client().clone();
    let watch = watch_all_kinds(context, client.clone(), graph.clone(), queue.clone());
    let work = Arc::new(Loop { client, graph, queue: queue.clone() });
    let reconcile = run_loop("garbage", queue, 4, move |uid: Uid| {
        let work = work.clone();
        async move { work.reconcile(&uid).await }
    });
    tokio::join!(watch, reconcile);
}

/// Keeps one metadata watch per kind running, as kinds come and go.
async fn watch_all_kinds(context: Context, client: Client, graph: Arc<Mutex<Graph>>, queue: Queue<Uid>) {
    let crds = context.informers.of::<CustomResourceDefinition>();
    let mut changes = crds.subscribe();
    let mut watches: HashMap<String, JoinHandle<()>> = HashMap::new();
    loop {
        match served(&client).await {
            Ok(Served { kinds, failed }) => {
                let present: HashSet<String> = kinds.iter().map(key_of).collect();
                // Of kinds whose server is away the objects are as they were.
                let is_lost = |key: &str| {
                    key.rsplit_once('/').is_some_and(|(version, _)| failed.iter().any(|f| f == version))
                };
                let gone: Vec<String> =
                    watches.keys().filter(|key| !present.contains(*key) && !is_lost(key)).cloned().collect();
                for key in gone {
                    if let Some(watch) = watches.remove(&key) {
                        watch.abort();
                        // Nothing more is said of its objects from then on.
                        let _ = watch.await;
                    }
                    let touched = lock(&graph).forget_kind(&key);
                    touched.into_iter().for_each(|uid| queue.add(uid));
                }
                for kind in kinds {
                    watches.entry(key_of(&kind)).or_insert_with(|| {
                        tokio::spawn(watch_kind(client.clone(), kind, graph.clone(), queue.clone()))
                    });
                }
            }
            Err(error) => tracing::warn!(%error, "cannot list the served kinds, it is tried again"),
        }
        let _ = tokio::time::timeout(KINDS_AGAIN, changes.next()).await;
        while changes.try_next().is_some() {}
    }
}

fn key_of(kind: &ServedKind) -> String {
    format!("{}/{}", kind.resource.api_version, kind.resource.plural)
}

async fn watch_kind(client: Client, kind: ServedKind, graph: Arc<Mutex<Graph>>, queue: Queue<Uid>) {
    let api: Api<PartialObjectMeta<DynamicObject>> = Api::all_with(client, &kind.resource);
    let kind = Arc::new(kind);
    let mut events = watcher(api, watcher::Config::default().any_semantic()).default_backoff().boxed();
    let mut listed: HashSet<Uid> = HashSet::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(object)) => {
                listed.extend(object.metadata.uid.clone());
                apply(&graph, &kind, object, &queue);
            }
            Ok(Event::Apply(object)) => apply(&graph, &kind, object, &queue),
            Ok(Event::InitDone) => {
                let (gone, owned) = {
                    let graph = lock(&graph);
                    let of_kind = graph.present.iter().filter(|(_, k)| Arc::ptr_eq(k, &kind));
                    let gone: Vec<Uid> = of_kind
                        .filter(|(uid, _)| !listed.contains(*uid))
                        .map(|(uid, _)| uid.clone())
                        .collect();
                    // Owners may have gone while nobody watched, these or those of others.
                    let lost = |node: &Node| {
                        let mut owners = node.meta.owner_references.iter().flatten();
                        owners.any(|owner| is_of(owner, &kind) && !graph.present.contains_key(&owner.uid))
                    };
                    let owned = graph.nodes.iter().filter(|(uid, node)| listed.contains(*uid) || lost(node));
                    let owned: Vec<Uid> = owned.map(|(uid, _)| uid.clone()).collect();
                    (gone, owned)
                };
                gone.iter().for_each(|uid| remove(&graph, uid, &queue));
                owned.into_iter().for_each(|uid| queue.add(uid));
                listed = HashSet::new();
            }
            Ok(Event::Delete(object)) => {
                if let Some(uid) = &object.metadata.uid {
                    remove(&graph, uid, &queue);
                }
            }
            Err(error) => {
                tracing::debug!(%error, kind = kind.resource.plural, "watch failed, it is tried again");
            }
        }
    }
}

fn apply(
    graph: &Mutex<Graph>,
    kind: &Arc<ServedKind>,
    object: PartialObjectMeta<DynamicObject>,
    queue: &Queue<Uid>,
) {
    let touched = lock(graph).apply(kind, object.metadata);
    touched.into_iter().for_each(|uid| queue.add(uid));
}

fn remove(graph: &Mutex<Graph>, uid: &str, queue: &Queue<Uid>) {
    let touched = lock(graph).remove(uid);
    touched.into_iter().for_each(|uid| queue.add(uid));
}

fn lock(graph: &Mutex<Graph>) -> MutexGuard<'_, Graph> {
    // Nothing panics under this lock.
    graph.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Who owns whom.
#[derive(Default)]
struct Graph {
    /// Every object there is, with its kind.
    present: HashMap<Uid, Arc<ServedKind>>,
    /// The objects that have owners, or are being deleted with their dependents.
    nodes: HashMap<Uid, Node>,
    dependents: HashMap<Uid, HashSet<Uid>>,
}

#[derive(Clone)]
struct Node {
    kind: Arc<ServedKind>,
    meta: ObjectMeta,
}

impl Graph {
    /// Takes note of an object; returns the objects that there may be work on.
    fn apply(&mut self, kind: &Arc<ServedKind>, meta: ObjectMeta) -> Vec<Uid> {
        let uid = meta.uid.clone().unwrap_or_default();
        self.present.insert(uid.clone(), kind.clone());
        let before = self.nodes.get(&uid).and_then(|node| node.meta.owner_references.clone());
        self.forget_edges(&uid);
        let owners = meta.owner_references.clone().unwrap_or_default();
        // An owner that waits may have lost a dependent, or need not wait for it any more.
        let mut touched: Vec<Uid> = before.into_iter().flatten().map(|owner| owner.uid).collect();
        touched.extend(owners.iter().map(|owner| owner.uid.clone()));
        touched.retain(|owner| self.is_waiting(owner));
        let waits = waits_for_dependents(&meta);
        if owners.is_empty() && !waits {
            self.nodes.remove(&uid);
            return touched;
        }
        for owner in &owners {
            self.dependents.entry(owner.uid.clone()).or_default().insert(uid.clone());
        }
        let lost =
            owners.iter().any(|owner| !self.present.contains_key(&owner.uid) || self.is_waiting(&owner.uid));
        let meta = ObjectMeta {
            name: meta.name,
            namespace: meta.namespace,
            uid: meta.uid,
            resource_version: meta.resource_version,
            owner_references: meta.owner_references,
            finalizers: meta.finalizers,
            deletion_timestamp: meta.deletion_timestamp,
            ..ObjectMeta::default()
        };
        self.nodes.insert(uid.clone(), Node { kind: kind.clone(), meta });
        if waits || lost {
            touched.push(uid);
        }
        touched
    }

    /// Takes note that a kind is served no more, and its objects with it; returns the objects that this may concern.
    fn forget_kind(&mut self, key: &str) -> Vec<Uid> {
        let of_kind = self.present.iter().filter(|(_, kind)| key_of(kind) == key);
        let gone: Vec<Uid> = of_kind.map(|(uid, _)| uid.clone()).collect();
        gone.iter().flat_map(|uid| self.remove(uid)).collect()
    }

    /// Whether an object is deleted as soon as its dependents are.
    fn is_waiting(&self, uid: &str) -> bool {
        self.nodes.get(uid).is_some_and(|node| is_foreground(&node.meta))
    }

    /// Takes note that an object is gone; returns the objects that this may concern.
    fn remove(&mut self, uid: &str) -> Vec<Uid> {
        self.present.remove(uid);
        self.forget_edges(uid);
        let mut touched: Vec<Uid> = self.dependents.remove(uid).into_iter().flatten().collect();
        // An owner that waits for its dependents may go now.
        if let Some(node) = self.nodes.remove(uid) {
            touched.extend(node.meta.owner_references.into_iter().flatten().map(|owner| owner.uid));
        }
        touched
    }

    fn forget_edges(&mut self, uid: &str) {
        let Some(node) = self.nodes.get(uid) else { return };
        for owner in node.meta.owner_references.iter().flatten() {
            if let Some(set) = self.dependents.get_mut(&owner.uid) {
                set.remove(uid);
                if set.is_empty() {
                    self.dependents.remove(&owner.uid);
                }
            }
        }
    }

    fn dependents_of(&self, uid: &str) -> Vec<Node> {
        let uids = self.dependents.get(uid).into_iter().flatten();
        uids.filter_map(|uid| self.nodes.get(uid)).cloned().collect()
    }
}

fn has_finalizer(meta: &ObjectMeta, finalizer: &str) -> bool {
    meta.finalizers.iter().flatten().any(|f| f == finalizer)
}

fn is_foreground(meta: &ObjectMeta) -> bool {
    meta.deletion_timestamp.is_some() && has_finalizer(meta, FOREGROUND)
}

fn waits_for_dependents(meta: &ObjectMeta) -> bool {
    is_foreground(meta) || (meta.deletion_timestamp.is_some() && has_finalizer(meta, ORPHAN))
}

/// Whether an owner is of a kind, which has one version here, whichever of its versions the owner is named in.
fn is_of(owner: &OwnerReference, kind: &ServedKind) -> bool {
    let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
    (owner.kind.as_str(), group) == (kind.resource.kind.as_str(), kind.resource.group.as_str())
}

/// What has become of an owner.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Owner {
    There,
    /// It goes as soon as its dependents are gone.
    Waiting,
    Gone,
}

struct Loop {
    client: Client,
    graph: Arc<Mutex<Graph>>,
    queue: Queue<Uid>,
}

impl Loop {
    async fn reconcile(&self, uid: &Uid) -> kube::Result<Option<Duration>> {
        let Some(node) = lock(&self.graph).nodes.get(uid).cloned() else { return Ok(None) };
        if waits_for_dependents(&node.meta) {
            let dependents = lock(&self.graph).dependents_of(uid);
            return if has_finalizer(&node.meta, ORPHAN) {
                self.orphan(&node, dependents).await
            } else {
                self.wait_for(&node, dependents).await
            };
        }
        if node.meta.deletion_timestamp.is_some() {
            return Ok(None);
        }
        let owners = node.meta.owner_references.clone().unwrap_or_default();
        let mut states = HashMap::new();
        for owner in &owners {
            states.insert(owner.uid.clone(), self.state_of(&node, owner).await?);
        }
        let any = |wanted: Owner| states.values().any(|state| *state == wanted);
        if any(Owner::There) {
            // One that stays keeps it; the others are nothing to it any more.
            return match any(Owner::Gone) || any(Owner::Waiting) {
                true => {
                    let lost = |owner: &OwnerReference| states[&owner.uid] != Owner::There;
                    self.drop_owners(&node, lost).await.map(|_| None)
                }
                false => Ok(None),
            };
        }
        let dependents = lock(&self.graph).dependents_of(uid);
        if any(Owner::Waiting) && !dependents.is_empty() {
            if dependents.iter().any(|dependent| is_foreground(&dependent.meta)) {
                // A circle, perhaps: here it is broken, or each would wait for the next.
                self.unblock(&node).await?;
            }
            return self.delete(&node, DeleteParams::foreground()).await;
        }
        match owners.is_empty() {
            true => Ok(None),
            false => self.delete(&node, params_of(&node.meta)).await,
        }
    }

    /// What has become of an owner: by the graph, else, since the graph may lag, by the API server.
    async fn state_of(&self, node: &Node, owner: &OwnerReference) -> kube::Result<Owner> {
        let known = {
            let graph = lock(&self.graph);
            if graph.present.contains_key(&owner.uid) {
                return Ok(if graph.is_waiting(&owner.uid) { Owner::Waiting } else { Owner::There });
            }
            graph.present.values().find(|kind| is_of(owner, kind)).cloned()
        };
        let kind = match known {
            Some(kind) => kind,
            None => {
                let found = served(&self.client).await?.kinds.into_iter().find(|kind| is_of(owner, kind));
                // A kind that nobody serves: its objects can't be judged, so its dependents stay.
                let Some(found) = found else { return Ok(Owner::There) };
                Arc::new(found)
            }
        };
        match kind.api(&self.client, node.meta.namespace.as_deref()).get_metadata(&owner.name).await {
            Ok(object) if object.metadata.uid.as_ref() != Some(&owner.uid) => Ok(Owner::Gone),
            Ok(object) if is_foreground(&object.metadata) => Ok(Owner::Waiting),
            Ok(_) => Ok(Owner::There),
            Err(error) if is_not_found(&error) => Ok(Owner::Gone),
            Err(error) => Err(error),
        }
    }

    /// Has the dependents looked at; when none blocks the owner's deletion, lets it go.
    async fn wait_for(&self, owner: &Node, dependents: Vec<Node>) -> kube::Result<Option<Duration>> {
        let owner_uid = owner.meta.uid.clone().unwrap_or_default();
        for dependent in dependents.iter().filter(|dependent| dependent.meta.deletion_timestamp.is_none()) {
            self.queue.add(dependent.meta.uid.clone().unwrap_or_default());
        }
        let blocks = |dependent: &Node| {
            let mut references = dependent.meta.owner_references.iter().flatten();
            references.any(|owner| owner.uid == owner_uid && owner.block_owner_deletion == Some(true))
        };
        match dependents.iter().any(blocks) {
            // Each of them wakes us when it goes.
            true => Ok(None),
            false => self.remove_finalizer(owner, FOREGROUND).await.map(|_| None),
        }
    }

    /// Its owners need not wait for it any more.
    async fn unblock(&self, node: &Node) -> kube::Result<bool> {
        let mut owners = node.meta.owner_references.clone().unwrap_or_default();
        owners.iter_mut().for_each(|owner| owner.block_owner_deletion = Some(false));
        self.patch(node, json!({"ownerReferences": owners})).await
    }

    async fn orphan(&self, owner: &Node, dependents: Vec<Node>) -> kube::Result<Option<Duration>> {
        let owner_uid = owner.meta.uid.clone().unwrap_or_default();
        let mut all_dropped = true;
        for dependent in &dependents {
            all_dropped &= self.drop_owners(dependent, |reference| reference.uid == owner_uid).await?;
        }
        // One that still names the owner would be deleted behind it.
        match all_dropped {
            true => self.remove_finalizer(owner, ORPHAN).await.map(|_| None),
            false => Ok(Some(ORPHANS_AGAIN)),
        }
    }

    /// Deletes the very object that was seen: one that changed since may have other owners now, or none. Then its watch brings us back.
    async fn delete(&self, node: &Node, params: DeleteParams) -> kube::Result<Option<Duration>> {
        let ObjectMeta { uid, resource_version, .. } = node.meta.clone();
        let params = DeleteParams { preconditions: Some(Preconditions { uid, resource_version }), ..params };
        let api = node.kind.api(&self.client, node.meta.namespace.as_deref());
        match api.delete(node.meta.name.as_deref().unwrap_or_default(), &params).await {
            Err(error) if !is_not_found(&error) && !is_conflict(&error) => Err(error),
            _ => Ok(None),
        }
    }

    async fn drop_owners(&self, node: &Node, drop: impl Fn(&OwnerReference) -> bool) -> kube::Result<bool> {
        let owners: Vec<OwnerReference> =
            node.meta.owner_references.iter().flatten().filter(|owner| !drop(owner)).cloned().collect();
        self.patch(node, json!({"ownerReferences": owners})).await
    }

    async fn remove_finalizer(&self, node: &Node, finalizer: &str) -> kube::Result<bool> {
        let left: Vec<&String> = node.meta.finalizers.iter().flatten().filter(|f| *f != finalizer).collect();
        self.patch(node, json!({"finalizers": left})).await
    }

    /// Patches the metadata of the very object that was seen. Returns whether that is done, or the object is gone: where it changed since,
    /// its watch brings us back.
    async fn patch(&self, node: &Node, mut meta: serde_json::Value) -> kube::Result<bool> {
        meta["uid"] = json!(node.meta.uid);
        meta["resourceVersion"] = json!(node.meta.resource_version);
        let patch = json!({"metadata": meta});
        let api = node.kind.api(&self.client, node.meta.namespace.as_deref());
        let name = node.meta.name.as_deref().unwrap_or_default();
        match api.patch_metadata(name, &PatchParams::default(), &Patch::Merge(&patch)).await {
            Err(error) if is_conflict(&error) => Ok(false),
            Err(error) if !is_not_found(&error) => Err(error),
            _ => Ok(true),
        }
    }
}

/// How an object is deleted that nobody asked to delete: as its finalizers say.
fn params_of(meta: &ObjectMeta) -> DeleteParams {
    if has_finalizer(meta, ORPHAN) {
        DeleteParams::orphan()
    } else if has_finalizer(meta, FOREGROUND) {
        DeleteParams::foreground()
    } else {
        DeleteParams::background()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use kube::api::ApiResource;

    fn kind() -> Arc<ServedKind> {
        Arc::new(ServedKind {
            resource: ApiResource::erase::<k8s_openapi::api::core::v1::Pod>(&()),
            namespaced: true,
        })
    }

    fn meta(uid: &str, owner: Option<&str>) -> ObjectMeta {
        ObjectMeta {
            uid: Some(uid.to_owned()),
            owner_references: owner
                .map(|uid| vec![OwnerReference { uid: uid.to_owned(), ..OwnerReference::default() }]),
            ..ObjectMeta::default()
        }
    }

    #[test]
    fn the_end_of_an_owner_touches_its_dependents_and_the_end_of_a_dependent_its_owner() {
        let kind = kind();
        let mut graph = Graph::default();
        assert!(graph.apply(&kind, meta("set", None)).is_empty());
        assert!(graph.apply(&kind, meta("pod", Some("set"))).is_empty());
        assert_eq!(graph.dependents_of("set").len(), 1);
        assert_eq!(graph.remove("pod"), ["set"]);
        assert!(graph.dependents_of("set").is_empty());
        assert!(graph.apply(&kind, meta("pod", Some("set"))).is_empty());
        assert_eq!(graph.remove("set"), ["pod"]);
    }

    #[test]
    fn a_kind_that_is_served_no_more_leaves_nothing() {
        let thing = Arc::new(ServedKind {
            resource: ApiResource::erase::<k8s_openapi::api::core::v1::Secret>(&()),
            namespaced: true,
        });
        let mut graph = Graph::default();
        graph.apply(&thing, meta("thing", None));
        graph.apply(&thing, meta("part", Some("thing")));
        graph.apply(&kind(), meta("pod", Some("thing")));
        let mut touched = graph.forget_kind("v1/secrets");
        touched.sort();
        touched.dedup();
        assert!(touched.contains(&"pod".to_owned()), "{touched:?}");
        assert_eq!(graph.present.keys().collect::<Vec<_>>(), ["pod"]);
        assert!(!graph.nodes.contains_key("part"));
    }

    #[test]
    fn an_owner_is_found_in_any_version_of_its_kind() {
        let kind = ServedKind {
            resource: ApiResource::erase::<k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler>(&()),
            namespaced: true,
        };
        let of = |api_version: &str, name: &str| {
            let (api_version, kind_name) = (api_version.to_owned(), name.to_owned());
            is_of(&OwnerReference { api_version, kind: kind_name, ..OwnerReference::default() }, &kind)
        };
        assert!(
            of("autoscaling/v1", "HorizontalPodAutoscaler")
                && of("autoscaling/v2", "HorizontalPodAutoscaler")
        );
        assert!(!of("v1", "HorizontalPodAutoscaler") && !of("autoscaling/v1", "Scale"));
    }

    #[test]
    fn an_object_whose_owner_is_unknown_wants_work() {
        let mut graph = Graph::default();
        assert_eq!(graph.apply(&kind(), meta("pod", Some("lost"))), ["pod"]);
    }

    #[test]
    fn an_owner_that_waits_is_woken_by_its_dependents_and_wakes_them() {
        let kind = kind();
        let mut graph = Graph::default();
        graph.apply(&kind, meta("set", None));
        graph.apply(&kind, meta("pod", Some("set")));
        let waiting = ObjectMeta {
            deletion_timestamp: Some(Time(k8s_openapi::jiff::Timestamp::UNIX_EPOCH)),
            finalizers: Some(vec![FOREGROUND.to_owned()]),
            ..meta("set", None)
        };
        assert_eq!(graph.apply(&kind, waiting), ["set"]);
        assert!(graph.is_waiting("set"));
        assert_eq!(graph.apply(&kind, meta("pod", Some("set"))), ["set", "set", "pod"]);
        assert_eq!(graph.apply(&kind, meta("pod", None)), ["set"], "it may go now");
    }
}
