//! Volumes, and the persistent volumes and claims over them.
//!
//! Of Volumes: what may not change does not, a Volume that a machine has stays, and a machine names only Volumes that it can have.
//!
//! That a Volume is attached to one machine at a time is a claim (see `claims.rs`) in the machine's own transaction; who deletes
//! a Volume compares that claim, so that "does a machine have it?" is exact without a lock. A persistent volume claims its Volume in
//! the same way, so that a machine and Pods never write to one disk.
//!
//! Persistent volumes, claims and classes of attributes get the finalizers that keep them while they are used.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use yunfan_objects::{FieldError, Quantity};
use yunfan_resources::claims::{
    ATTRIBUTES_PROTECTION, BACKS_LABEL, CLAIM_PROTECTION, CLASS, DRIVER, VOLUME_PROTECTION,
};
use yunfan_resources::names::{COMPONENTS_GROUP, VM_VOLUMES_FINALIZER};
use yunfan_resources::storage::{IoLimits, MAX_VOLUMES, VolumeQosSpec, unmet};

use super::claims::attached_volume;
use super::{Attempt, Operation, Refusal, View, WritePlan, copies};
use crate::keys;

const GROUP: &str = "storage.yunfan.io";
const MACHINES: &str = "compute.yunfan.io";
/// Kinds that are kept while they are used, and by what.
const PROTECTED: [(&str, &str, &str); 3] = [
    ("", "persistentvolumeclaims", CLAIM_PROTECTION),
    ("", "persistentvolumes", VOLUME_PROTECTION),
    ("storage.k8s.io", "volumeattributesclasses", ATTRIBUTES_PROTECTION),
];

pub(super) fn admit(view: &View<'_>, attempt: &mut Attempt<'_>, plan: &mut WritePlan) -> Result<(), Refusal> {
    if !attempt.subresource.is_empty() {
        return Ok(());
    }
    let operation = if attempt.is_marked_now() { Operation::Delete } else { attempt.operation };
    if attempt.is(MACHINES, "virtualmachines") && operation != Operation::Delete {
        return machine(view, attempt, plan);
    }
    if let Some((.., finalizer)) = PROTECTED.iter().find(|(group, plural, _)| attempt.is(group, plural)) {
        return match operation {
            Operation::Create => {
                hold(attempt.object, finalizer);
                Ok(())
            }
            Operation::Update => grows(view, attempt),
            Operation::Delete => Ok(()),
        };
    }
    if attempt.is(GROUP, "volumes") {
        whose_label(attempt, operation)?;
        return match operation {
            Operation::Create => {
                copies::volume(view, attempt, plan)?;
                new_type(view, attempt, plan)
            }
            Operation::Update => changes(view, attempt, plan),
            Operation::Delete => unused(view, attempt, plan),
        };
    }
    if attempt.is(GROUP, "volumetypes") && operation != Operation::Delete {
        return type_qos(view, attempt, plan);
    }
    if attempt.is(GROUP, "volumeqoses") {
        return had_qos(view, attempt, operation);
    }
    if attempt.is(GROUP, "volumesnapshots") {
        return copies::snapshot(view, attempt, operation, plan);
    }
    Ok(())
}

/// A claim may ask for more when it is bound, and of a class that allows that (Kubernetes' plugin PersistentVolumeClaimResize).
fn grows(view: &View<'_>, attempt: &Attempt<'_>) -> Result<(), Refusal> {
    let size = |claim: &Value| {
        let size = &claim["spec"]["resources"]["requests"]["storage"];
        Quantity::from_json(size).unwrap_or(Quantity::ZERO)
    };
    let Some(old) = attempt.old.filter(|old| size(attempt.object) > size(old)) else { return Ok(()) };
    if !attempt.is("", "persistentvolumeclaims") {
        return Ok(());
    }
    // Until it is bound nothing of it may change, as its validation says.
    if old["status"]["phase"] != "Bound" {
        return Ok(());
    }
    fn class(claim: &Value) -> &str {
        let annotated = claim["metadata"]["annotations"][CLASS].as_str();
        annotated.or(claim["spec"]["storageClassName"].as_str()).unwrap_or_default()
    }
    let name = class(attempt.object);
    let found = view.get("storage.k8s.io", "storageclasses", "", name);
    if name == class(old) && found.is_some_and(|found| found.value()["allowVolumeExpansion"] == true) {
        return Ok(());
    }
    let why = "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize";
    Err(attempt.forbidden(why))
}

/// The label that ties a Volume to a persistent volume is the provisioner's: what a stranger has written to is never mounted.
fn whose_label(attempt: &Attempt<'_>, operation: Operation) -> Result<(), Refusal> {
    let of = |volume: &Value| volume["metadata"]["labels"][BACKS_LABEL].clone();
    let before = attempt.old.map(of).unwrap_or_default();
    let ours = attempt.system || attempt.user.groups.iter().any(|group| group == COMPONENTS_GROUP);
    // It may be taken away: then it is a Volume like others.
    let after = of(attempt.object);
    if operation == Operation::Delete || ours || after.is_null() || after == before {
        return Ok(());
    }
    Err(attempt.forbidden(&format!("the label {BACKS_LABEL} is written by the cloud alone")))
}

/// The type of a new Volume must be there. Where it demands what the driver has not, no node takes the Volume, which says so; one that
/// has its place already, or backs a claim, is refused.
fn new_type(view: &View<'_>, attempt: &mut Attempt<'_>, plan: &mut WritePlan) -> Result<(), Refusal> {
    if let Some(spec) = attempt.object.get_mut("spec").and_then(Value::as_object_mut) {
        spec.remove("unmet");
    }
    let Some(key) = unmet_type(view, attempt, plan)? else { return Ok(()) };
    let is_placed = attempt.object["spec"]["nodeName"].as_str().is_some_and(|node| !node.is_empty());
    if is_placed || !attempt.object["metadata"]["labels"][BACKS_LABEL].is_null() {
        return Err(unmet_demand(attempt, &key));
    }
    attempt.object["spec"]["unmet"] = Value::String(key);
    Ok(())
}

/// The type that a Volume gets must be there, and demand nothing that the driver has not.
fn known_type(view: &View<'_>, attempt: &Attempt<'_>, plan: &mut WritePlan) -> Result<(), Refusal> {
    match unmet_type(view, attempt, plan)? {
        Some(key) => Err(unmet_demand(attempt, &key)),
        None => Ok(()),
    }
}

fn unmet_demand(attempt: &Attempt<'_>, key: &str) -> Refusal {
    let why = format!("no node's driver has what the type demands with the extra spec {key}");
    attempt.invalid(FieldError::invalid("spec.type", attempt.object["spec"]["type"].clone(), why))
}

/// The extra spec of a Volume's type, which must be there, that the driver does not meet.
fn unmet_type(
    view: &View<'_>,
    attempt: &Attempt<'_>,
    plan: &mut WritePlan,
) -> Result<Option<String>, Refusal> {
    let Some(name) = attempt.object["spec"]["type"].as_str() else { return Ok(None) };
    let Some(entry) = view.get(GROUP, "volumetypes", "", name) else {
        let why = "no such volume type; `kubectl get volumetypes` lists them";
        return Err(attempt.invalid(FieldError::invalid("spec.type", name, why)));
    };
    let kind = entry.decode_stored();
    let specs = kind["spec"]["extraSpecs"].as_object();
    let specs = specs.into_iter().flatten().filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)));
    let unmet = unmet(specs).map(str::to_owned);
    plan.unchanged(entry.key.as_ref(), entry.revision);
    Ok(unmet)
}

/// A Volume grows, gets another type, and is renamed; what its data comes from and where it lies stays.
fn changes(view: &View<'_>, attempt: &Attempt<'_>, plan: &mut WritePlan) -> Result<(), Refusal> {
    let Some(old) = attempt.old.map(|old| &old["spec"]) else { return Ok(()) };
    let new = &attempt.object["spec"];
    copies::stays(attempt, &["snapshot", "sourceVolume", "sourceId", "unmet"])?;
    if old["type"] != new["type"] {
        known_type(view, attempt, plan)?;
    }
    for field in ["image", "nodeName"] {
        let may_be_set = field == "nodeName" && old[field].as_str().is_none_or(str::is_empty);
        if old[field] != new[field] && !may_be_set {
            let why = "field is immutable";
            return Err(attempt.invalid(FieldError::invalid(
                format!("spec.{field}"),
                new[field].clone(),
                why,
            )));
        }
    }
    read_only(view, attempt, plan)?;
    if new["sizeGib"].as_u64() > old["sizeGib"].as_u64() {
        // A copy is as large as what it is made from was when it was asked for.
        copies::not_copied(view, attempt, "volume")?;
    }
    if new["sizeGib"].as_u64() < old["sizeGib"].as_u64() {
        let why = format!("must be at least {}: a volume can't be made smaller", old["sizeGib"]);
        return Err(attempt.invalid(FieldError::invalid("spec.sizeGib", new["sizeGib"].clone(), why)));
    }
    Ok(())
}

/// Whether a Volume is only read is said while nothing has it; until that changes it is as large as it is.
fn read_only(view: &View<'_>, attempt: &Attempt<'_>, plan: &mut WritePlan) -> Result<(), Refusal> {
    let Some(old) = attempt.old.map(|old| &old["spec"]) else { return Ok(()) };
    let new = &attempt.object["spec"];
    let is = |spec: &Value| spec["readOnly"] == true;
    if is(old) && is(new) && old["sizeGib"] != new["sizeGib"] {
        let why = "a volume that is only read can't be made larger";
        return Err(attempt.invalid(FieldError::invalid("spec.sizeGib", new["sizeGib"].clone(), why)));
    }
    if is(old) == is(new) {
        return Ok(());
    }
    let claim = attached_volume(attempt.namespace, attempt.name);
    let claims = view.cache.claims();
    if claims.is_held(&claim) {
        let why = "can't be changed while a machine or a persistent volume has the volume";
        return Err(attempt.invalid(FieldError::invalid("spec.readOnly", new["readOnly"].clone(), why)));
    }
    plan.unchanged(claim.clone(), claims.revision(&claim));
    Ok(())
}

/// A Volume that a machine or a persistent volume has goes only with it.
fn unused(view: &View<'_>, attempt: &Attempt<'_>, plan: &mut WritePlan) -> Result<(), Refusal> {
    copies::not_copied(view, attempt, "volume")?;
    let claim = attached_volume(attempt.namespace, attempt.name);
    let claims = view.cache.claims();
    if claims.is_held(&claim) {
        let holder = view.list(MACHINES, "virtualmachines", attempt.namespace).into_iter().find(|machine| {
            let machine = machine.value();
            machine["metadata"]["deletionTimestamp"].is_null()
                && names_of(machine).any(|name| name == attempt.name)
        });
        if let Some(holder) = holder {
            let name = holder.value()["metadata"]["name"].as_str().unwrap_or_default();
            let why = format!("it is attached to virtual machine {name}; detach it first");
            return Err(attempt.conflict(&why));
        }
        let handle = format!("{}/{}", attempt.namespace, attempt.name);
        let over = view.list("", "persistentvolumes", "").into_iter().find(|volume| {
            let volume = volume.value();
            volume["metadata"]["deletionTimestamp"].is_null()
                && volume["spec"]["csi"]["driver"] == DRIVER
                && volume["spec"]["csi"]["volumeHandle"] == handle.as_str()
        });
        if let Some(over) = over {
            let name = over.value()["metadata"]["name"].as_str().unwrap_or_default();
            let why = format!("it is behind persistent volume {name}; delete its claim first");
            return Err(attempt.conflict(&why));
        }
    }
    plan.unchanged(claim.clone(), claims.revision(&claim));
    Ok(())
}

fn names_of(machine: &Value) -> impl Iterator<Item = &str> {
    machine["spec"]["volumes"].as_array().into_iter().flatten().filter_map(|wish| wish["volume"].as_str())
}

/// A machine boots from one thing, has each Volume once, and only Volumes that are there and on its node.
fn machine(view: &View<'_>, attempt: &mut Attempt<'_>, plan: &mut WritePlan) -> Result<(), Refusal> {
    let spec = &attempt.object["spec"];
    let wishes = || spec["volumes"].as_array().into_iter().flatten();
    let boots = wishes().filter(|wish| wish["boot"] == true).count();
    let has_image = spec["image"].as_str().is_some_and(|image| !image.is_empty());
    if boots + usize::from(has_image) != 1 {
        let why = "a machine boots from one thing: give either an image or one volume with `boot`";
        return Err(attempt.invalid(FieldError::invalid("spec.image", spec["image"].clone(), why)));
    }
    if wishes().count() - boots > MAX_VOLUMES {
        let why = format!("must have at most {MAX_VOLUMES} items beside the one to boot from");
        let count = wishes().count();
        return Err(attempt.invalid(FieldError::invalid("spec.volumes", count, why)));
    }
    if attempt.old.is_some_and(|old| boot_of(old) != boot_of(attempt.object)) {
        let why = "what a machine boots from can't be changed";
        return Err(attempt.invalid(FieldError::invalid("spec.volumes", Value::Null, why)));
    }
    let before: BTreeSet<&str> = attempt.old.into_iter().flat_map(names_of).collect();
    let mut seen = BTreeSet::new();
    for name in names_of(attempt.object) {
        if !seen.insert(name) {
            return Err(attempt.invalid(FieldError::invalid("spec.volumes", name, "must be given once")));
        }
        if !before.contains(name) {
            attachable(view, attempt, name, plan)?;
        }
    }
    if seen.iter().any(|name| !before.contains(name)) {
        one_node(view, attempt)?;
    }
    let limits: Vec<Value> = wishes().map(|wish| limits_of(view, attempt, wish)).collect();
    if wishes().any(|wish| wish["deleteOnTermination"] == true) {
        hold(attempt.object, VM_VOLUMES_FINALIZER);
    }
    let wishes = attempt.object.pointer_mut("/spec/volumes").and_then(Value::as_array_mut);
    for (wish, limits) in wishes.into_iter().flatten().zip(limits) {
        if let Some(wish) = wish.as_object_mut() {
            wish.remove("limits");
            if !limits.is_null() {
                wish.insert("limits".to_owned(), limits);
            }
        }
    }
    Ok(())
}

/// How fast a machine may use a Volume: what the Volume's type says when the machine gets it, whatever the writer says.
fn limits_of(view: &View<'_>, attempt: &Attempt<'_>, wish: &Value) -> Value {
    let had = attempt.old.and_then(|old| {
        let mut all = old["spec"]["volumes"].as_array().into_iter().flatten();
        all.find(|had| had["volume"] == wish["volume"])
    });
    if let Some(had) = had {
        return had["limits"].clone();
    }
    let spec = |plural: &str, namespace: &str, name: &Value| {
        let found = view.get(GROUP, plural, namespace, name.as_str()?)?;
        Some(found.decode_stored()["spec"].clone())
    };
    let qos = spec("volumes", attempt.namespace, &wish["volume"])
        .and_then(|volume| spec("volumetypes", "", &volume["type"]))
        .and_then(|kind| spec("volumeqoses", "", &kind["qos"]));
    let limits = qos.and_then(|qos| limits_in(&qos).ok()).filter(|limits| *limits != IoLimits::default());
    limits.map_or(Value::Null, |limits| json!(limits))
}

fn limits_in(qos: &Value) -> Result<IoLimits, String> {
    serde_json::from_value::<VolumeQosSpec>(qos.clone()).map_err(|error| error.to_string())?.limits()
}

/// A type has only limits that somebody keeps to.
fn type_qos(view: &View<'_>, attempt: &Attempt<'_>, plan: &mut WritePlan) -> Result<(), Refusal> {
    let name = &attempt.object["spec"]["qos"];
    let Some(wanted) = name.as_str() else { return Ok(()) };
    let refused = |why: &str| attempt.invalid(FieldError::invalid("spec.qos", name.clone(), why));
    let Some(entry) = view.get(GROUP, "volumeqoses", "", wanted) else {
        return Err(refused("no such QoS spec; `kubectl get volumeqoses` lists them"));
    };
    limits_in(&entry.decode_stored()["spec"]).map_err(|why| refused(&why))?;
    plan.unchanged(entry.key.as_ref(), entry.revision);
    Ok(())
}

/// A QoS spec that a type has stays, and stays one that somebody acts on.
fn had_qos(view: &View<'_>, attempt: &Attempt<'_>, operation: Operation) -> Result<(), Refusal> {
    let types = view.list(GROUP, "volumetypes", "");
    let Some(kind) =
        types.iter().map(|kind| kind.decode_stored()).find(|kind| kind["spec"]["qos"] == attempt.name)
    else {
        return Ok(());
    };
    if operation == Operation::Delete {
        let name = kind["metadata"]["name"].as_str().unwrap_or_default();
        return Err(attempt.conflict(&format!("volume type {name} has it")));
    }
    let refused = |why: String| attempt.invalid(FieldError::invalid("spec.specs", Value::Null, why));
    limits_in(&attempt.object["spec"]).map(drop).map_err(refused)
}

/// No node could take a machine whose Volumes lie on several.
fn one_node(view: &View<'_>, attempt: &Attempt<'_>) -> Result<(), Refusal> {
    let mut first: Option<(&str, String)> = None;
    for name in names_of(attempt.object) {
        let volume = view.get(GROUP, "volumes", attempt.namespace, name);
        let node = volume.and_then(|entry| entry.value()["spec"]["nodeName"].as_str().map(str::to_owned));
        let Some(node) = node.filter(|node| !node.is_empty()) else { continue };
        match &first {
            Some((other, elsewhere)) if *elsewhere != node => {
                let why = format!(
                    "volume {other} is on node {elsewhere} and volume {name} on node {node}: a machine and its volumes are on one"
                );
                return Err(attempt.conflict(&why));
            }
            Some(_) => {}
            None => first = Some((name, node)),
        }
    }
    Ok(())
}

fn boot_of(machine: &Value) -> Option<&str> {
    let wishes = machine["spec"]["volumes"].as_array().into_iter().flatten();
    wishes.filter(|wish| wish["boot"] == true).find_map(|wish| wish["volume"].as_str())
}

/// A Volume that a machine is to have from now on.
fn attachable(
    view: &View<'_>,
    attempt: &Attempt<'_>,
    name: &str,
    plan: &mut WritePlan,
) -> Result<(), Refusal> {
    let Some(entry) = view.get(GROUP, "volumes", attempt.namespace, name) else {
        let why = "no such volume in this namespace; `kubectl get volumes` lists them";
        return Err(attempt.invalid(FieldError::invalid("spec.volumes", name, why)));
    };
    let volume = entry.value();
    if !volume["metadata"]["deletionTimestamp"].is_null() {
        return Err(attempt.conflict(&format!("volume {name} is being deleted")));
    }
    if volume["spec"]["readOnly"] == true && boot_of(attempt.object) == Some(name) {
        return Err(attempt.conflict(&format!("volume {name} is read-only: no machine boots from it")));
    }
    let (own, other) = (&attempt.object["spec"]["nodeName"], &volume["spec"]["nodeName"]);
    if let (Some(own), Some(other)) = (own.as_str(), other.as_str())
        && own != other
    {
        let why = format!("volume {name} is on node {other}, the machine on node {own}");
        return Err(attempt.conflict(&why));
    }
    let prefix = keys::kind_prefix(GROUP, "volumes");
    plan.unchanged(keys::object_key(&prefix, attempt.namespace, name), entry.revision);
    Ok(())
}

/// The object stays until a loop has taken this finalizer away.
fn hold(object: &mut Value, finalizer: &str) {
    let metadata = &mut object["metadata"];
    if metadata["deletionTimestamp"].is_null() {
        let finalizers = &mut metadata["finalizers"];
        if !finalizers.is_array() {
            *finalizers = json!([]);
        }
        if let Some(all) = finalizers.as_array_mut().filter(|all| !all.contains(&json!(finalizer))) {
            all.push(json!(finalizer));
        }
    }
}
