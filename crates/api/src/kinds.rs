//! The kinds that are served, now: Kubernetes' own, and those of the CustomResourceDefinitions that are
//! in the cache. The table is made anew whenever one of those has changed, by whoever asks next.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

pub(crate) use yunfan_objects::crd::version_priority as priority;
use yunfan_objects::{Descriptor, builtin, crd};
use yunfan_store::Revision;

use crate::cache::{Cache, Cursor, Entry, Expired, KindCache, Topic};
use crate::conversion::Converter;
use crate::keys;

/// Group of the CustomResourceDefinitions.
pub(crate) const CRD_GROUP: &str = "apiextensions.k8s.io";
/// Their plural.
pub(crate) const CRD_PLURAL: &str = "customresourcedefinitions";

/// A kind in all its versions.
pub(crate) struct Resource {
    /// Prefix of its keys.
    pub(crate) prefix: Arc<str>,
    /// The version that it is stored in, served or not.
    pub(crate) storage: Arc<Descriptor>,
    /// `apiVersion` of stored objects.
    pub(crate) storage_api_version: String,
    /// Served versions, the preferred one first.
    pub(crate) versions: Vec<Arc<Descriptor>>,
    /// Its objects.
    pub(crate) cache: Arc<KindCache>,
    /// Declared by us: its definition can't be deleted.
    pub(crate) system: bool,
    /// Whether it has `spec.id`.
    pub(crate) has_id: bool,
    /// Where its definition is, if it has one.
    pub(crate) definition: Option<Arc<Entry>>,
    /// How objects change between versions, where there are several.
    pub(crate) converter: Option<Converter>,
}

impl Resource {
    /// Whether this is the other after a change of its definition, not a namesake made later.
    pub(crate) fn has_definition_of(&self, other: &Self) -> bool {
        let uid = |resource: &Self| {
            resource.definition.as_ref().map(|entry| entry.value()["metadata"]["uid"].clone())
        };
        uid(self) == uid(other)
    }
}

/// One version of a kind.
#[derive(Clone)]
pub(crate) struct Kind {
    pub(crate) descriptor: Arc<Descriptor>,
    pub(crate) resource: Arc<Resource>,
}

impl Kind {
    /// The apiVersion to write into what is sent, where it is not the stored one.
    pub(crate) fn other_version(&self) -> Option<String> {
        self.is_converted().then(|| self.descriptor.api_version())
    }

    /// Whether it is one of the cloud's own kinds: those are in groups below its own domain, where nobody else defines any.
    pub(crate) fn is_own(&self) -> bool {
        self.descriptor.group.ends_with(".yunfan.io")
    }

    /// Whether objects are stored in another version than this one.
    pub(crate) fn is_converted(&self) -> bool {
        self.descriptor.api_version() != self.resource.storage_api_version
    }

    /// Key of one object.
    pub(crate) fn key(&self, namespace: &str, name: &str) -> String {
        keys::object_key(&self.resource.prefix, if self.descriptor.namespaced { namespace } else { "" }, name)
    }

    /// Whether it is Kubernetes' own kind of this group and plural.
    pub(crate) fn is(&self, group: &str, plural: &str) -> bool {
        self.descriptor.plural == plural && self.descriptor.group == group
    }
}

/// The kinds at one moment.
pub(crate) struct Table {
    revision: Revision,
    by_path: HashMap<String, HashMap<String, BTreeMap<String, Kind>>>,
    /// Versions of each group, the preferred one first; groups in the order of discovery.
    groups: Vec<(String, Vec<String>)>,
    resources: Vec<Arc<Resource>>,
}

impl Table {
    /// The kind at this path.
    pub(crate) fn get(&self, group: &str, version: &str, plural: &str) -> Option<Kind> {
        self.by_path.get(group)?.get(version)?.get(plural).cloned()
    }

    /// The kinds of one group-version, by plural.
    pub(crate) fn of_version(&self, group: &str, version: &str) -> Option<&BTreeMap<String, Kind>> {
        self.by_path.get(group)?.get(version)
    }

    /// Groups with their versions, the preferred one first.
    pub(crate) fn groups(&self) -> &[(String, Vec<String>)] {
        &self.groups
    }

    /// All kinds.
    pub(crate) fn resources(&self) -> &[Arc<Resource>] {
        &self.resources
    }

    /// A number that changes when the table does.
    pub(crate) fn revision(&self) -> Revision {
        self.revision
    }
}

/// What was made of each definition, and at which revision of it.
type Made = HashMap<Arc<str>, (Revision, Option<Arc<Resource>>)>;

/// The live table of kinds.
pub(crate) struct Kinds {
    cache: Arc<Cache>,
    definitions: Arc<KindCache>,
    builtin: Vec<Arc<Resource>>,
    table: RwLock<Arc<Table>>,
    /// What was made of each definition, by its key: a new table decodes only what changed.
    made: Mutex<Made>,
}

impl Kinds {
    /// The kinds over this cache.
    pub(crate) fn new(cache: Arc<Cache>) -> Self {
        let definitions = cache.kind(&keys::kind_prefix(CRD_GROUP, CRD_PLURAL));
        let builtin = group_versions(builtin::descriptors().into_iter().map(Arc::new))
            .into_iter()
            .filter_map(|versions| resource(&cache, versions, None))
            .collect();
        let empty =
            Table { revision: Revision::MAX, by_path: HashMap::new(), groups: vec![], resources: vec![] };
        Self { cache, definitions, builtin, table: RwLock::new(Arc::new(empty)), made: Mutex::default() }
    }

    /// The table as the cache has it now.
    pub(crate) fn table(&self) -> Arc<Table> {
        let revision = self.definitions.last();
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner).clone();
        if table.revision == revision {
            return table;
        }
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let listing = self.definitions.list(&keys::kind_prefix(CRD_GROUP, CRD_PLURAL));
        let mut next = HashMap::with_capacity(listing.entries.len());
        let mut resources = self.builtin.clone();
        for entry in listing.entries {
            let kept = made.remove(&entry.key).filter(|(revision, _)| *revision == entry.revision);
            let (revision, resource) = kept.unwrap_or_else(|| (entry.revision, self.define(&entry)));
            resources.extend(resource.clone());
            next.insert(entry.key.clone(), (revision, resource));
        }
        *made = next;
        let table = Arc::new(tabulate(listing.last, resources));
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = table.clone();
        table
    }

    /// The changes of a definition since this state of it, which the table has (or had a moment ago).
    pub(crate) fn follow(&self, definition: &Entry) -> Result<Cursor, Expired> {
        let since = definition.revision.max(self.definitions.floor());
        self.definitions.cursor_after(Topic::Key(definition.key.to_string()), since)
    }

    fn define(&self, entry: &Arc<Entry>) -> Option<Arc<Resource>> {
        let definition = entry.decode_stored();
        if !crd::status::is_established(&definition) {
            return None;
        }
        match crd::descriptors(&definition) {
            Ok(versions) => {
                let served = versions.into_iter().map(Arc::new).collect();
                let converter = Converter::read(&definition, entry.revision);
                resource(&self.cache, served, Some((entry.clone(), converter)))
            }
            Err(error) => {
                tracing::warn!(key = %entry.key, ?error, "definition is not served");
                None
            }
        }
    }
}

/// `metadata.name` of the definitions that a cloud brings along.
pub(crate) fn system_definitions() -> &'static HashSet<String> {
    static NAMES: OnceLock<HashSet<String>> = OnceLock::new();
    NAMES.get_or_init(|| {
        yunfan_resources::system_crds()
            .into_iter()
            .filter_map(|definition| definition.metadata.name)
            .collect()
    })
}

fn group_versions(all: impl Iterator<Item = Arc<Descriptor>>) -> Vec<Vec<Arc<Descriptor>>> {
    let mut kinds: Vec<Vec<Arc<Descriptor>>> = Vec::new();
    for descriptor in all {
        let same = |kind: &&mut Vec<Arc<Descriptor>>| {
            stored_group(&kind[0]) == stored_group(&descriptor) && kind[0].plural == descriptor.plural
        };
        match kinds.iter_mut().find(same) {
            Some(kind) => kind.push(descriptor),
            None => kinds.push(vec![descriptor]),
        }
    }
    kinds
}

/// The group whose kind is stored: Events of two groups are the same objects.
fn stored_group(descriptor: &Descriptor) -> &str {
    descriptor.conversion.map_or(&descriptor.group, |conversion| conversion.stored_group)
}

fn resource(
    cache: &Cache,
    mut versions: Vec<Arc<Descriptor>>,
    defined: Option<(Arc<Entry>, Converter)>,
) -> Option<Arc<Resource>> {
    versions.sort_by_key(|version| std::cmp::Reverse(priority(&version.version)));
    let storage = versions.iter().find(|v| v.storage_version).or(versions.first())?.clone();
    versions.retain(|version| version.served);
    let prefix = keys::kind_prefix(&storage.group, &storage.plural);
    let spec = storage.schema.properties.get("spec");
    let (definition, converter) = defined.unzip();
    let converter = converter.or_else(|| Converter::known(&versions));
    Some(Arc::new(Resource {
        cache: cache.kind(&prefix),
        prefix: prefix.into(),
        storage_api_version: storage.api_version(),
        system: definition.is_some()
            && system_definitions().contains(&format!("{}.{}", storage.plural, storage.group)),
        has_id: spec.is_some_and(|spec| spec.properties.contains_key("id")),
        storage,
        versions,
        definition,
        converter,
    }))
}

fn tabulate(revision: Revision, resources: Vec<Arc<Resource>>) -> Table {
    let mut by_path: HashMap<String, HashMap<String, BTreeMap<String, Kind>>> = HashMap::new();
    let mut groups: Vec<(String, Vec<String>)> = Vec::new();
    for resource in &resources {
        for descriptor in &resource.versions {
            let kind = Kind { descriptor: descriptor.clone(), resource: resource.clone() };
            let versions = by_path.entry(descriptor.group.clone()).or_default();
            versions.entry(descriptor.version.clone()).or_default().insert(descriptor.plural.clone(), kind);
            match groups.iter_mut().find(|(group, _)| *group == descriptor.group) {
                Some((_, versions)) if versions.contains(&descriptor.version) => {}
                Some((_, versions)) => versions.push(descriptor.version.clone()),
                None => groups.push((descriptor.group.clone(), vec![descriptor.version.clone()])),
            }
        }
    }
    for (_, versions) in &mut groups {
        versions.sort_by_key(|version| std::cmp::Reverse(priority(version)));
    }
    Table { revision, by_path, groups, resources }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_as_kubernetes_orders_them() {
        let mut versions = vec!["foo", "v1alpha1", "v1", "v2beta1", "v1beta2", "v10"];
        versions.sort_by_key(|version| std::cmp::Reverse(priority(version)));
        assert_eq!(versions, ["v10", "v1", "v2beta1", "v1beta2", "v1alpha1", "foo"]);
    }
}
