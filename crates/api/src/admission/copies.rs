//! Snapshots of Volumes, and Volumes that begin as copies: what they are made from is there, has data, and says where they lie.
//!
//! A copy is made on the node that has the data, so the API server writes that node into it, with what else follows from its source;
//! what is being copied stays until it is.

use serde_json::{Map, Value};
use yunfan_objects::FieldError;
use yunfan_resources::storage::MOVES_TO;

use super::{Attempt, Operation, Refusal, View, WritePlan};
use crate::keys;

const GROUP: &str = "storage.yunfan.io";
const VOLUMES: &str = "volumes";
const SNAPSHOTS: &str = "volumesnapshots";
/// What a snapshot takes from its Volume, and never changes.
const OF_VOLUME: [&str; 5] = ["sizeGib", "nodeName", "image", "type", "bootable"];

/// A snapshot that is written.
pub(super) fn snapshot(
    view: &View<'_>,
    attempt: &mut Attempt<'_>,
    operation: Operation,
    plan: &mut WritePlan,
) -> Result<(), Refusal> {
    match operation {
        Operation::Create => taken(view, attempt, plan),
        Operation::Update => stays(attempt, &[&["volume", "volumeId"], OF_VOLUME.as_slice()].concat()),
        Operation::Delete => not_copied(view, attempt, "snapshot"),
    }
}

fn taken(view: &View<'_>, attempt: &mut Attempt<'_>, plan: &mut WritePlan) -> Result<(), Refusal> {
    let name = attempt.object["spec"]["volume"].as_str().unwrap_or_default().to_owned();
    let source = source(view, attempt, VOLUMES, "spec.volume", &name, plan)?;
    let Some(spec) = spec_of(attempt.object) else { return Ok(()) };
    spec.insert("volumeId".to_owned(), source["spec"]["id"].clone());
    for field in OF_VOLUME {
        spec.remove(field);
        if !source["spec"][field].is_null() {
            spec.insert(field.to_owned(), source["spec"][field].clone());
        }
    }
    Ok(())
}

/// A new Volume: one that is a copy lies where its source does, and is of the same image.
pub(super) fn volume(
    view: &View<'_>,
    attempt: &mut Attempt<'_>,
    plan: &mut WritePlan,
) -> Result<(), Refusal> {
    let given = |attempt: &Attempt<'_>, field: &str| {
        attempt.object["spec"][field].as_str().filter(|name| !name.is_empty()).map(str::to_owned)
    };
    // In its own namespace a volume has its short name, by which it is kept while it is copied.
    if let Some(name) = given(attempt, "sourceVolume")
        && let Some(short) = name.strip_prefix(&format!("{}/", attempt.namespace)).map(str::to_owned)
        && let Some(spec) = spec_of(attempt.object)
    {
        spec.insert("sourceVolume".to_owned(), Value::String(short));
    }
    let (plural, field, name) = match (given(attempt, "snapshot"), given(attempt, "sourceVolume")) {
        (None, None) => {
            if let Some(spec) = spec_of(attempt.object) {
                spec.remove("sourceId");
            }
            return Ok(());
        }
        (Some(name), None) => (SNAPSHOTS, "spec.snapshot", name),
        (None, Some(name)) => (VOLUMES, "spec.sourceVolume", name),
        (Some(name), Some(_)) => {
            let why = "a volume is a copy of one thing: give either a snapshot or a volume";
            return Err(attempt.invalid(FieldError::invalid("spec.snapshot", name, why)));
        }
    };
    let source = source(view, attempt, plural, field, &name, plan)?;
    let size = attempt.object["spec"]["sizeGib"].as_u64().unwrap_or(0);
    let least = source["spec"]["sizeGib"].as_u64().unwrap_or(0);
    if size < least {
        let why = format!("must be at least {least}: a copy is not smaller than what it is made from");
        return Err(attempt.invalid(FieldError::invalid("spec.sizeGib", size, why)));
    }
    let Some(spec) = spec_of(attempt.object) else { return Ok(()) };
    spec.insert("sourceId".to_owned(), source["spec"]["id"].clone());
    for field in ["nodeName", "image"] {
        spec.remove(field);
    }
    for field in ["nodeName", "image", "type", "bootable"] {
        let taken = &source["spec"][field];
        if !taken.is_null() && spec.get(field).is_none_or(Value::is_null) {
            spec.insert(field.to_owned(), taken.clone());
        }
    }
    // An image is named as it is seen from here.
    if let (Some((namespace, _)), Some(image)) =
        (name.split_once('/'), spec.get("image").and_then(Value::as_str))
        && !image.is_empty()
        && !image.contains('/')
    {
        let long = format!("{namespace}/{image}");
        spec.insert("image".to_owned(), Value::String(long));
    }
    Ok(())
}

/// The object that is to be copied, if it has data; it must still be as it is seen now.
fn source(
    view: &View<'_>,
    attempt: &Attempt<'_>,
    plural: &str,
    field: &'static str,
    name: &str,
    plan: &mut WritePlan,
) -> Result<Value, Refusal> {
    let elsewhere = if field == "spec.sourceVolume" { name.split_once('/') } else { None };
    let (namespace, short) = elsewhere.unwrap_or((attempt.namespace, name));
    let entry = view.get(GROUP, plural, namespace, short);
    let object = entry.as_ref().map(|entry| entry.decode_stored());
    // What is in another namespace says itself that it goes over to this one.
    let comes = |object: &Value| {
        namespace == attempt.namespace || object["metadata"]["annotations"][MOVES_TO] == attempt.namespace
    };
    let (Some(entry), Some(object)) = (entry, object.filter(comes)) else {
        let why = format!("there is none of this name in this namespace; `kubectl get {plural}` lists them");
        return Err(attempt.invalid(FieldError::invalid(field, name, why)));
    };
    if !object["metadata"]["deletionTimestamp"].is_null() {
        return Err(attempt.conflict(&format!("{name} is being deleted")));
    }
    let phase = object["status"]["phase"].as_str().unwrap_or("Creating");
    if object["spec"]["nodeName"].is_null() || !matches!(phase, "Available" | "InUse") {
        return Err(attempt.conflict(&format!("{name} has no data to copy: its phase is {phase}")));
    }
    let prefix = keys::kind_prefix(GROUP, plural);
    plan.unchanged(keys::object_key(&prefix, namespace, short), entry.revision);
    Ok(object)
}

/// What is being copied stays until it is.
pub(super) fn not_copied(view: &View<'_>, attempt: &Attempt<'_>, what: &str) -> Result<(), Refusal> {
    let field = if what == "snapshot" { "snapshot" } else { "sourceVolume" };
    let fresh = |object: &Value| {
        let phase = object["status"]["phase"].as_str().unwrap_or("Creating");
        phase == "Creating" && object["metadata"]["deletionTimestamp"].is_null()
    };
    let of = |plural: &str, field: &str| {
        let all = view.list(GROUP, plural, attempt.namespace);
        let found = all.iter().map(|entry| entry.decode_stored());
        let mut found = found.filter(|one| one["spec"][field] == attempt.name && fresh(one));
        found.next().map(|one| one["metadata"]["name"].as_str().unwrap_or_default().to_owned())
    };
    let snapshot = || if what == "volume" { of(SNAPSHOTS, "volume") } else { None };
    let beyond = || {
        let to =
            attempt.old.unwrap_or(attempt.object)["metadata"]["annotations"][MOVES_TO].as_str()?.to_owned();
        let long = format!("{}/{}", attempt.namespace, attempt.name);
        let all = view.list(GROUP, VOLUMES, &to);
        let mut found = all.iter().map(|entry| entry.decode_stored());
        let copy = found.find(|one| what == "volume" && one["spec"]["sourceVolume"] == long && fresh(one))?;
        Some(copy["metadata"]["name"].as_str().unwrap_or_default().to_owned())
    };
    match of(VOLUMES, field).or_else(beyond).or_else(snapshot).or_else(|| image(view, attempt, what)) {
        Some(copy) => Err(attempt.conflict(&format!("{copy} is being made from it; wait until it is"))),
        None => Ok(()),
    }
}

/// The image that is to be made of a Volume or a snapshot.
fn image(view: &View<'_>, attempt: &Attempt<'_>, what: &str) -> Option<String> {
    let field = if what == "snapshot" { "sourceSnapshot" } else { "sourceVolume" };
    let all = view.list("image.yunfan.io", "images", attempt.namespace);
    let mut waiting = all.iter().map(|entry| entry.decode_stored()).filter(|image| {
        let phase = image["status"]["phase"].as_str().unwrap_or("Queued");
        image["spec"][field] == attempt.name && matches!(phase, "Queued" | "Saving")
    });
    waiting.next().map(|image| image["metadata"]["name"].as_str().unwrap_or_default().to_owned())
}

/// Fields that stay as they are.
pub(super) fn stays(attempt: &Attempt<'_>, fields: &[&str]) -> Result<(), Refusal> {
    let Some(old) = attempt.old.map(|old| &old["spec"]) else { return Ok(()) };
    let new = &attempt.object["spec"];
    match fields.iter().find(|field| old[**field] != new[**field]) {
        Some(field) => {
            let (path, value) = (format!("spec.{field}"), new[*field].clone());
            Err(attempt.invalid(FieldError::invalid(path, value, "field is immutable")))
        }
        None => Ok(()),
    }
}

/// The spec; `None` for one of another shape, which validation refuses.
fn spec_of(object: &mut Value) -> Option<&mut Map<String, Value>> {
    object.get_mut("spec").and_then(Value::as_object_mut)
}
