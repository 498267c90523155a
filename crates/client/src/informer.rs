//! Shared stores of objects, one per kind and process, each fed by one watch.

use std::any::{Any, TypeId};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};

use futures::StreamExt;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use crate::index::{Index, Indexes};

/// What a kind must be able to do to be watched; every `k8s-openapi` kind and every kind of ours can.
pub trait Watched:
    Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static
{
}
impl<K> Watched for K where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static
{
}

/// Names one object of a kind: its namespace (empty for a cluster-scoped kind) and its name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// Namespace; empty for a cluster-scoped kind.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

impl ObjectKey {
    /// A key from its parts.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// The key of an object.
    pub fn of<K: Resource>(object: &K) -> Self {
        let meta = object.meta();
        Self::new(meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
    }

    /// The namespace as the API wants it: none for a cluster-scoped kind.
    pub fn namespace(&self) -> Option<&str> {
        Some(self.namespace.as_str()).filter(|n| !n.is_empty())
    }
}

impl std::fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// One change of the set of objects of a kind.
#[derive(Clone, Debug)]
pub enum Change<K> {
    /// The object is there now, new or changed.
    Applied(Arc<K>),
    /// The object is gone; this was its last known state.
    Deleted(Arc<K>),
}

impl<K> Change<K> {
    /// The object that changed.
    pub fn object(&self) -> &Arc<K> {
        match self {
            Change::Applied(object) | Change::Deleted(object) => object,
        }
    }
}

/// The informers of a process. Cloning it shares them.
#[derive(Clone)]
pub struct Informers {
    client: Client,
    running: Arc<Mutex<HashMap<(TypeId, String), Running>>>,
}

struct Running {
    informer: Box<dyn Any + Send>,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Informers {
    /// Informers that watch through `client`; nothing is watched before the first [`Informers::of`].
    pub fn new(client: Client) -> Self {
        Self { client, running: Arc::default() }
    }

    /// The informer of all objects of a kind. The first call for a kind starts its watch; it ends
    /// when the last clone of these informers is dropped.
    pub fn of<K: Watched>(&self) -> Informer<K> {
        self.of_selected("")
    }

    /// The informer of the objects of a kind that match a field selector, e.g. `spec.nodeName=n1`.
    pub fn of_selected<K: Watched>(&self, field_selector: &str) -> Informer<K> {
        let mut running = lock(&self.running);
        let key = (TypeId::of::<K>(), field_selector.to_owned());
        if let Some(known) = running.get(&key)
            && let Some(informer) = known.informer.downcast_ref::<Informer<K>>()
        {
            return informer.clone();
        }
        let (synced_tx, synced) = watch::channel(false);
        let informer = Informer { shared: Arc::new(Shared::default()), synced };
        let mut config = watcher::Config::default().any_semantic();
        if !field_selector.is_empty() {
            config = config.fields(field_selector);
        }
        let task = tokio::spawn(feed(
            Api::<K>::all(self.client.clone()),
            config,
            informer.shared.clone(),
            synced_tx,
        ));
        running.insert(key, Running { informer: Box::new(informer.clone()), task });
        informer
    }
}

async fn feed<K: Watched>(
    api: Api<K>,
    config: watcher::Config,
    shared: Arc<Shared<K>>,
    synced: watch::Sender<bool>,
) {
    let mut events = watcher(api, config).default_backoff().boxed();
    // Keys seen since the last `Init`: what is in the store and not among them was deleted meanwhile.
    let mut listed = HashSet::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(object)) => {
                listed.insert(ObjectKey::of(&object));
                shared.apply(object);
            }
            Ok(Event::InitDone) => {
                shared.retain(&listed);
                listed = HashSet::new();
                synced.send_replace(true);
            }
            Ok(Event::Apply(object)) => shared.apply(object),
            Ok(Event::Delete(object)) => shared.delete(&object),
            Err(error) => {
                tracing::warn!(kind = %K::kind(&()), %error, "watch failed, it is tried again");
            }
        }
    }
}

/// The objects of one kind, as last seen. Cloning it shares them.
pub struct Informer<K> {
    shared: Arc<Shared<K>>,
    synced: watch::Receiver<bool>,
}

impl<K> Clone for Informer<K> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), synced: self.synced.clone() }
    }
}

impl<K: Watched> Informer<K> {
    /// Waits until all objects that were there at the start have been seen.
    pub async fn synced(&self) {
        // An error means that the watch task ended, which happens only when the process stops.
        let _ = self.synced.clone().wait_for(|synced| *synced).await;
    }

    /// Whether they have been.
    pub fn is_synced(&self) -> bool {
        *self.synced.borrow()
    }

    /// One object; `namespace` is none for a cluster-scoped kind. Objects of informers have no managedFields.
    pub fn get(&self, namespace: Option<&str>, name: &str) -> Option<Arc<K>> {
        self.get_key(&ObjectKey::new(namespace.unwrap_or_default(), name))
    }

    /// One object by its key.
    pub fn get_key(&self, key: &ObjectKey) -> Option<Arc<K>> {
        self.shared.read().get(key).cloned()
    }

    /// All objects, ordered by namespace and name.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.shared.read().values().cloned().collect()
    }

    /// The objects of one namespace, ordered by name.
    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let from = ObjectKey::new(namespace, "");
        self.shared
            .read()
            .range(from..)
            .take_while(|(key, _)| key.namespace == namespace)
            .map(|(_, object)| object.clone())
            .collect()
    }

    /// An index by the words that `words` finds in each object. All who ask for one of the same name share it, and must
    /// ask with the same function.
    pub fn index(&self, name: &'static str, words: fn(&K) -> Vec<String>) -> Index<K> {
        // Under the lock of the objects, so that none is left out.
        let objects = self.shared.read();
        self.shared.indexes().add(name, words, objects.iter());
        Index { shared: self.shared.clone(), name }
    }

    /// The highest revision among all that was seen. What was written at it or before is seen, or was replaced since.
    pub fn revision(&self) -> u64 {
        self.shared.revision.load(Ordering::Acquire)
    }

    /// The changes from now on, after one [`Change::Applied`] for each object that is there.
    ///
    /// Changes of one object that wait to be taken are folded into the last one, so what waits is
    /// never more than one change an object.
    pub fn subscribe(&self) -> Changes<K> {
        let pending = Arc::new(Pending::default());
        // Under the write lock, so that no change falls between the replay and the subscription.
        let objects = self.shared.objects.write().unwrap_or_else(PoisonError::into_inner);
        for (key, object) in objects.iter() {
            pending.push(key.clone(), Change::Applied(object.clone()));
        }
        lock(&self.shared.subscribers).push(Arc::downgrade(&pending));
        drop(objects);
        Changes { pending }
    }
}

pub(crate) struct Shared<K> {
    objects: RwLock<BTreeMap<ObjectKey, Arc<K>>>,
    /// Taken only by who holds the lock of the objects.
    indexes: Mutex<Indexes<K>>,
    subscribers: Mutex<Vec<Weak<Pending<K>>>>,
    revision: AtomicU64,
}

impl<K> Default for Shared<K> {
    fn default() -> Self {
        Self {
            objects: RwLock::default(),
            indexes: Mutex::default(),
            subscribers: Mutex::default(),
            revision: AtomicU64::new(0),
        }
    }
}

impl<K> Shared<K> {
    pub(crate) fn read(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<ObjectKey, Arc<K>>> {
        self.objects.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn indexes(&self) -> MutexGuard<'_, Indexes<K>> {
        lock(&self.indexes)
    }
}

impl<K: Watched> Shared<K> {
    fn apply(&self, mut object: K) {
        // Of no use to whoever reads the store, and often more than half of the object.
        object.meta_mut().managed_fields = None;
        let key = ObjectKey::of(&object);
        let object = Arc::new(object);
        let mut objects = self.objects.write().unwrap_or_else(PoisonError::into_inner);
        let before = objects.insert(key.clone(), object.clone());
        self.indexes().replace(&key, before.as_deref(), Some(&object));
        // A list after a lost watch brings mostly what is known: that is no change.
        let same = before.as_ref().is_some_and(|b| {
            b.resource_version().is_some() && b.resource_version() == object.resource_version()
        });
        if same {
            return;
        }
        self.saw(&object);
        // The uid changed: the old object went and a new one came, and both are told.
        if let Some(before) = before.filter(|b| b.uid() != object.uid()) {
            self.tell(&key, &Change::Deleted(before));
        }
        self.tell(&key, &Change::Applied(object));
    }

    /// Takes note of an object's revision, before anyone is told of it.
    fn saw(&self, object: &K) {
        let revision = object.meta().resource_version.as_deref().and_then(|version| version.parse().ok());
        self.revision.fetch_max(revision.unwrap_or(0), Ordering::AcqRel);
    }

    fn delete(&self, object: &K) {
        let key = ObjectKey::of(object);
        let mut objects = self.objects.write().unwrap_or_else(PoisonError::into_inner);
        let before = objects.remove(&key);
        self.indexes().replace(&key, before.as_deref(), None);
        self.saw(object);
        self.tell(&key, &Change::Deleted(Arc::new(object.clone())));
    }

    fn retain(&self, listed: &HashSet<ObjectKey>) {
        let mut objects = self.objects.write().unwrap_or_else(PoisonError::into_inner);
        let gone: Vec<ObjectKey> = objects.keys().filter(|key| !listed.contains(*key)).cloned().collect();
        for key in gone {
            if let Some(object) = objects.remove(&key) {
                self.indexes().replace(&key, Some(&object), None);
                self.tell(&key, &Change::Deleted(object));
            }
        }
    }

    fn tell(&self, key: &ObjectKey, change: &Change<K>) {
        lock(&self.subscribers).retain(|subscriber| {
            let Some(pending) = subscriber.upgrade() else { return false };
            pending.push(key.clone(), change.clone());
            true
        });
    }
}

/// Changes that wait to be taken, at most one [`Change::Applied`] and one [`Change::Deleted`] an object.
struct Pending<K> {
    waiting: Mutex<Waiting<K>>,
    arrived: Notify,
}

struct Waiting<K> {
    order: VecDeque<ObjectKey>,
    changes: HashMap<ObjectKey, Folded<K>>,
}

struct Folded<K> {
    deleted: Option<Arc<K>>,
    applied: Option<Arc<K>>,
}

impl<K> Default for Pending<K> {
    fn default() -> Self {
        Self {
            waiting: Mutex::new(Waiting { order: VecDeque::new(), changes: HashMap::new() }),
            arrived: Notify::new(),
        }
    }
}

impl<K> Pending<K> {
    fn push(&self, key: ObjectKey, change: Change<K>) {
        let mut waiting = lock(&self.waiting);
        let Waiting { order, changes } = &mut *waiting;
        let folded = changes.entry(key).or_insert_with_key(|key| {
            order.push_back(key.clone());
            Folded { deleted: None, applied: None }
        });
        match change {
            Change::Applied(object) => folded.applied = Some(object),
            Change::Deleted(object) => {
                folded.applied = None;
                folded.deleted = Some(object);
            }
        }
        drop(waiting);
        self.arrived.notify_one();
    }

    fn pop(&self) -> Option<Change<K>> {
        let mut waiting = lock(&self.waiting);
        let key = waiting.order.pop_front()?;
        let mut folded = waiting.changes.remove(&key)?;
        if let Some(deleted) = folded.deleted.take() {
            if folded.applied.is_some() {
                waiting.order.push_front(key.clone());
                waiting.changes.insert(key, folded);
            }
            return Some(Change::Deleted(deleted));
        }
        folded.applied.map(Change::Applied)
    }
}

/// A subscription to an [`Informer`]'s changes.
pub struct Changes<K> {
    pending: Arc<Pending<K>>,
}

impl<K> Changes<K> {
    /// The next change; waits for one.
    pub async fn next(&mut self) -> Change<K> {
        loop {
            if let Some(change) = self.try_next() {
                return change;
            }
            self.pending.arrived.notified().await;
        }
    }

    /// The next change if one waits.
    pub fn try_next(&mut self) -> Option<Change<K>> {
        self.pending.pop()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code panics while it holds one of these locks, and what they guard is whole at any moment.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;

    fn config_map(name: &str, uid: &str, version: &str) -> ConfigMap {
        let mut object = ConfigMap::default();
        object.metadata.name = Some(name.to_owned());
        object.metadata.namespace = Some("demo".to_owned());
        object.metadata.uid = Some(uid.to_owned());
        object.metadata.resource_version = Some(version.to_owned());
        object
    }

    fn informer() -> Informer<ConfigMap> {
        Informer { shared: Arc::new(Shared::default()), synced: watch::channel(true).1 }
    }

    fn told(changes: &mut Changes<ConfigMap>) -> Vec<String> {
        std::iter::from_fn(|| changes.try_next())
            .map(|change| match change {
                Change::Applied(o) => {
                    format!("+{}@{}", o.name_any(), o.resource_version().unwrap_or_default())
                }
                Change::Deleted(o) => {
                    format!("-{}@{}", o.name_any(), o.resource_version().unwrap_or_default())
                }
            })
            .collect()
    }

    #[test]
    fn a_subscription_replays_and_folds() {
        let informer = informer();
        informer.shared.apply(config_map("a", "1", "1"));
        let mut changes = informer.subscribe();
        informer.shared.apply(config_map("a", "1", "2"));
        informer.shared.apply(config_map("b", "2", "3"));
        informer.shared.delete(&config_map("b", "2", "4"));
        assert_eq!(told(&mut changes), ["+a@2", "-b@4"]);
        // The same version again, as a list after a lost watch brings it, is no change.
        informer.shared.apply(config_map("a", "1", "2"));
        assert!(told(&mut changes).is_empty());
    }

    #[test]
    fn a_recreated_object_is_deleted_and_applied() {
        let informer = informer();
        informer.shared.apply(config_map("a", "1", "1"));
        let mut changes = informer.subscribe();
        assert_eq!(told(&mut changes), ["+a@1"]);
        informer.shared.apply(config_map("a", "2", "5"));
        assert_eq!(told(&mut changes), ["-a@1", "+a@5"]);
        assert_eq!(informer.revision(), 5);
        assert_eq!(informer.get(Some("demo"), "a").and_then(|o| o.uid()).as_deref(), Some("2"));
    }

    #[test]
    fn an_index_follows_its_objects() {
        let labelled = |name: &str, version: &str, value: &str| {
            let mut object = config_map(name, name, version);
            object.metadata.labels = Some([("app".to_owned(), value.to_owned())].into());
            object
        };
        let informer = informer();
        informer.shared.apply(labelled("a", "1", "x"));
        let index = informer.index("app", |object| object.labels().values().cloned().collect());
        informer.shared.apply(labelled("b", "2", "x"));
        informer.shared.apply(labelled("c", "3", "xx"));
        let found = |word: &str| index.get(word).iter().map(|o| o.name_any()).collect::<Vec<_>>();
        assert_eq!(
            (found("x"), found("xx"), found("")),
            (vec!["a".into(), "b".into()], vec!["c".into()], vec![])
        );
        informer.shared.apply(labelled("a", "4", "xx"));
        informer.shared.delete(&labelled("b", "5", "x"));
        assert_eq!((found("x"), found("xx")), (vec![], vec!["a".into(), "c".into()]));
        informer.shared.retain(&HashSet::from([ObjectKey::new("demo", "c")]));
        assert_eq!(found("xx"), ["c"]);
    }

    #[test]
    fn a_new_list_drops_what_it_does_not_name() {
        let informer = informer();
        informer.shared.apply(config_map("a", "1", "1"));
        informer.shared.apply(config_map("b", "2", "2"));
        let mut changes = informer.subscribe();
        told(&mut changes);
        informer.shared.retain(&HashSet::from([ObjectKey::new("demo", "b")]));
        assert_eq!(told(&mut changes), ["-a@1"]);
        assert_eq!(informer.in_namespace("demo").len(), 1);
        assert!(informer.in_namespace("dem").is_empty());
    }
}
