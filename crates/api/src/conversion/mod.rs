//! Versions of kinds: objects are stored in one of them and shown in any. How one becomes the other is the object
//! model's for Kubernetes' own kinds; for custom ones it is a changed name, or a hook of the definition.
//!
//! An object that was written after the definition's last change, in the version that is asked for, is
//! shown as its stored bytes are: that is nearly every read. Any other is converted, pruned and filled with
//! defaults by the schema of today, once per version and revision: the outcome is remembered with the kind.

mod review;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use yunfan_objects::schema::SchemaRef;
use yunfan_objects::{ApiError, Conversion, Descriptor, Reason, codec};
use yunfan_store::Revision;

use crate::cache::{Change, ChangeType, Entry};
use crate::kinds::{Kind, Resource};
use crate::registry::Registry;
use crate::webhook::{ClientTarget, Webhooks};

/// A hook that has not answered by then has failed.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Objects of one question to a hook.
const BATCH: usize = 500;
/// Remembered outcomes beyond two for each object and version: those of objects that went meanwhile.
const SPARE: usize = 1024;

/// How the objects of one kind change between its versions.
pub(crate) struct Converter {
    /// Revision of the definition: what was written later has the shape of today.
    since: Revision,
    /// How many versions are served.
    versions: usize,
    way: Way,
    done: Mutex<Outcomes>,
}

/// What changes with the version.
enum Way {
    /// The name of the version. `uniform`: all versions have one schema, so nothing else does.
    Name { uniform: bool },
    /// What the hook of the definition says.
    Hook(Hook),
    /// The fields, in a way that the object model knows.
    Known(Known),
}

/// What the object model knows of a kind of Kubernetes' own.
struct Known {
    /// By the `apiVersion` that is not the stored one.
    ways: HashMap<String, Conversion>,
    /// By `apiVersion`.
    schemas: HashMap<String, SchemaRef>,
}

/// What came out, by the key of an object and the version asked for.
type Outcomes = HashMap<(Arc<str>, String), Arc<Entry>>;

struct Hook {
    /// Why there is no target is told to whoever needs one.
    target: Result<ClientTarget, String>,
    accepted: Vec<String>,
}

impl Converter {
    /// Reads a definition that is stored at this revision.
    pub(crate) fn read(definition: &Value, since: Revision) -> Self {
        let spec = &definition["spec"];
        let versions = spec["versions"].as_array().map(Vec::as_slice).unwrap_or_default();
        let webhook = &spec["conversion"]["webhook"];
        let accepted = webhook["conversionReviewVersions"].as_array().into_iter().flatten();
        let hook = (spec["conversion"]["strategy"] == "Webhook").then(|| Hook {
            target: ClientTarget::read(&webhook["clientConfig"]),
            accepted: accepted.filter_map(Value::as_str).map(str::to_owned).collect(),
        });
        let uniform = versions.windows(2).all(|pair| pair[0]["schema"] == pair[1]["schema"]);
        let way = hook.map_or(Way::Name { uniform }, Way::Hook);
        Self { since, versions: versions.len(), way, done: Mutex::default() }
    }

    /// That of a kind of Kubernetes' own; nothing where its versions differ in nothing.
    pub(crate) fn known(versions: &[Arc<Descriptor>]) -> Option<Self> {
        let ways = versions.iter().filter_map(|each| Some((each.api_version(), each.conversion?))).collect();
        let schemas = versions.iter().map(|each| (each.api_version(), each.schema.clone())).collect();
        let way = Way::Known(Known { ways, schemas });
        let some = versions.iter().any(|each| each.conversion.is_some());
        some.then(|| Self { since: 0, versions: versions.len(), way, done: Mutex::default() })
    }

    /// Whether what is written now is shown in this version with the fields that it is stored with.
    pub(crate) fn keeps_fields(&self, kind: &Kind) -> bool {
        matches!(self.way, Way::Name { uniform: true }) || !kind.is_converted()
    }

    /// Whether stored bytes can be shown as they are (but for a changed apiVersion).
    pub(crate) fn is_current(&self, kind: &Kind, entry: &Entry) -> bool {
        entry.revision > self.since && self.keeps_fields(kind)
    }

    /// An object in another version, and that version's schema, where the object model knows the way.
    pub(crate) fn in_version(&self, object: &Value, wanted: &str) -> Option<(Value, SchemaRef)> {
        let Way::Known(known) = &self.way else { return None };
        let schema = known.schemas.get(wanted)?;
        let mut object = object.clone();
        convert_known(&known.ways, &mut object, wanted);
        Some((object, schema.clone()))
    }

    fn remembered(&self, kind: &Kind, entry: &Entry) -> Option<Arc<Entry>> {
        let done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        let found = done.get(&(entry.key.clone(), kind.descriptor.api_version()))?;
        (found.revision == entry.revision).then(|| found.clone())
    }

    fn remember(&self, kind: &Kind, entry: &Arc<Entry>) {
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        if done.len() > 2 * self.versions * kind.resource.cache.len() + SPARE {
            done.clear();
        }
        done.insert((entry.key.clone(), kind.descriptor.api_version()), entry.clone());
    }

    /// Brings objects, of any versions of the kind, into the version and the shape of `to`.
    async fn convert(
        &self,
        hooks: &Webhooks,
        objects: Vec<Value>,
        to: &Descriptor,
    ) -> Result<Vec<Value>, ApiError> {
        let wanted = to.api_version();
        let mut out = objects;
        let other: Vec<usize> = (0..out.len()).filter(|i| out[*i]["apiVersion"] != wanted.as_str()).collect();
        match &self.way {
            Way::Name { .. } => other.iter().for_each(|i| out[*i]["apiVersion"] = json!(wanted)),
            Way::Known(known) => {
                for index in other {
                    convert_known(&known.ways, &mut out[index], &wanted);
                }
            }
            Way::Hook(hook) if !other.is_empty() => {
                let sent: Vec<Value> = other.iter().map(|i| out[*i].clone()).collect();
                let converted = hook.ask(hooks, &sent, &wanted).await;
                let converted = converted.map_err(|why| ApiError::new(500, Reason::InternalError, why))?;
                for (index, object) in other.into_iter().zip(converted) {
                    out[index] = object;
                }
            }
            Way::Hook(_) => {}
        }
        for object in &mut out {
            to.schema.prune(object);
            to.drop_refused_nulls(object);
        }
        Ok(out)
    }
}

/// By way of the stored version, where neither is it.
fn convert_known(known: &HashMap<String, Conversion>, object: &mut Value, wanted: &str) {
    if let Some(from) = object["apiVersion"].as_str().and_then(|version| known.get(version)) {
        (from.to_stored)(object);
    }
    if let Some(to) = known.get(wanted) {
        (to.from_stored)(object);
    }
}

impl Hook {
    async fn ask(&self, hooks: &Webhooks, sent: &[Value], wanted: &str) -> Result<Vec<Value>, String> {
        let about = sent.first().map(review::named).unwrap_or_default();
        let failed = |why: String| format!("conversion webhook for {about} failed: {why}");
        let uid = uuid::Uuid::new_v4().to_string();
        let question = review::question(&self.accepted, &uid, wanted, sent)?;
        let target = self.target.as_ref().map_err(|why| failed(why.clone()))?;
        let answer = hooks.post(target, &question, TIMEOUT).await.map_err(failed)?;
        review::answer(&question, &answer, sent, wanted)
    }
}

/// The states that a change is shown by. A deletion shows the last one, at a revision of its own.
fn states_of(change: &Change) -> impl Iterator<Item = &Arc<Entry>> {
    let last = change.kind == ChangeType::Deleted && change.prev.is_some();
    change.prev.iter().chain((!last).then_some(&change.entry))
}

/// An object on its way to the store.
pub(crate) struct Encoded {
    /// As it is stored.
    pub(crate) stored: bytes::Bytes,
    /// As the client sees it, but for the revision.
    pub(crate) shown: bytes::Bytes,
}

impl Resource {
    /// An object of any of the kind's versions as one of another.
    ///
    /// # Errors
    /// 500 where a conversion hook fails.
    pub(crate) async fn converted(
        &self,
        hooks: &Webhooks,
        mut object: Value,
        to: &Descriptor,
    ) -> Result<Value, ApiError> {
        match &self.converter {
            None => object["apiVersion"] = json!(to.api_version()),
            Some(converter) => {
                let converted = converter.convert(hooks, vec![object], to).await?;
                object = converted.into_iter().next().unwrap_or_default();
                to.default(&mut object);
            }
        }
        Ok(object)
    }
}

impl Registry {
    /// The entries in the version and the shape that this kind shows now.
    ///
    /// # Errors
    /// 500 where a conversion hook fails.
    pub(crate) async fn present(
        &self,
        kind: &Kind,
        mut entries: Vec<Arc<Entry>>,
    ) -> Result<Vec<Arc<Entry>>, ApiError> {
        let Some(converter) = &kind.resource.converter else { return Ok(entries) };
        let mut open = Vec::new();
        for (index, entry) in entries.iter_mut().enumerate() {
            if converter.is_current(kind, entry) {
                continue;
            }
            match converter.remembered(kind, entry) {
                Some(done) => *entry = done,
                None => open.push(index),
            }
        }
        for part in open.chunks(BATCH) {
            let objects = part.iter().map(|index| entries[*index].decode_stored()).collect();
            let shown = converter.convert(&self.webhooks, objects, &kind.descriptor).await?;
            for (index, mut object) in part.iter().zip(shown) {
                kind.descriptor.default(&mut object);
                let slot = &mut entries[*index];
                *slot = Arc::new(Entry::new(slot.key.clone(), codec::encode(&object), slot.revision));
                converter.remember(kind, slot);
            }
        }
        Ok(entries)
    }

    /// One entry, the same way.
    ///
    /// # Errors
    /// As there.
    pub(crate) async fn present_one(&self, kind: &Kind, entry: Arc<Entry>) -> Result<Arc<Entry>, ApiError> {
        let mut entries = self.present(kind, vec![entry]).await?;
        entries.pop().ok_or_else(|| ApiError::internal("an object was lost in conversion"))
    }

    /// Changes of a kind with both their states presented.
    ///
    /// # Errors
    /// As there.
    pub(crate) async fn present_changes(
        &self,
        kind: &Kind,
        changes: Vec<Arc<Change>>,
    ) -> Result<Vec<Arc<Change>>, ApiError> {
        let Some(converter) = &kind.resource.converter else { return Ok(changes) };
        let current = |entry: &Arc<Entry>| converter.is_current(kind, entry);
        if changes.iter().all(|change| current(&change.entry) && change.prev.as_ref().is_none_or(current)) {
            return Ok(changes);
        }
        // One change's new state is mostly the next one's old: each is presented once, and all of them together.
        let mut places = HashMap::new();
        let mut states: Vec<Arc<Entry>> = Vec::new();
        for entry in changes.iter().flat_map(|change| states_of(change)) {
            places.entry((entry.key.clone(), entry.revision)).or_insert_with(|| {
                states.push(entry.clone());
                states.len() - 1
            });
        }
        let shown = self.present(kind, states).await?;
        let find = |entry: &Arc<Entry>| {
            let place = places.get(&(entry.key.clone(), entry.revision));
            place.and_then(|place| shown.get(*place)).unwrap_or(entry).clone()
        };
        let presented = changes.iter().map(|change| {
            let prev = change.prev.as_ref().map(find);
            let entry = match &prev {
                Some(prev) if change.kind == ChangeType::Deleted => Arc::new(prev.at(change.entry.revision)),
                _ => find(&change.entry),
            };
            Arc::new(change.presented(entry, prev))
        });
        Ok(presented.collect())
    }

    /// The entry's object, with its resourceVersion, in the version that is asked for.
    ///
    /// # Errors
    /// As [`present`](Self::present).
    pub(crate) async fn decode(&self, kind: &Kind, entry: &Arc<Entry>) -> Result<Value, ApiError> {
        let entry = self.present_one(kind, entry.clone()).await?;
        let mut object = entry.object();
        if let Some(version) = kind.other_version() {
            object["apiVersion"] = Value::String(version);
        }
        Ok(object)
    }

    /// An object in the kind's version as it is stored, and as it is shown.
    ///
    /// # Errors
    /// As [`present`](Self::present).
    pub(crate) async fn encode(&self, kind: &Kind, object: &Value) -> Result<Encoded, ApiError> {
        let shown = codec::encode(object);
        let Some(version) = kind.other_version().map(|_| &kind.resource.storage_api_version) else {
            return Ok(Encoded { stored: shown.clone(), shown });
        };
        let mut stored = object.clone();
        if kind.resource.converter.is_none() {
            // The storage version may be one that is not served.
            stored["apiVersion"] = json!(version);
        } else {
            if let Some(metadata) = stored["metadata"].as_object_mut() {
                metadata.remove("resourceVersion");
            }
            stored = kind.resource.converted(&self.webhooks, stored, &kind.resource.storage).await?;
        }
        Ok(Encoded { stored: codec::encode(&stored), shown })
    }
}
