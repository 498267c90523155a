//! Disk images: who may use one of another project, who makes one public, and what keeps one.
//!
//! Machines and Volumes name an image of their own namespace by its name, another as `NAMESPACE/NAME`. Who writes such a name must be
//! allowed to read that image: what is shared is granted in authorization, and nowhere else.

use serde_json::Value;
use yunfan_identity::Attributes;
use yunfan_objects::FieldError;
use yunfan_resources::image::{BACKUP, SHELVED};

use super::{Attempt, Operation, Refusal, View, WritePlan};
use crate::keys;

const GROUP: &str = "image.yunfan.io";
const IMAGES: &str = "images";
/// Kinds that name an image in `spec.image`, and have a part of it then.
const CHILDREN: [(&str, &str); 3] = [
    ("compute.yunfan.io", "virtualmachines"),
    ("storage.yunfan.io", "volumes"),
    ("storage.yunfan.io", "volumesnapshots"),
];

pub(super) fn admit(view: &View<'_>, attempt: &Attempt<'_>, plan: &mut WritePlan) -> Result<(), Refusal> {
    if !attempt.subresource.is_empty() || attempt.system {
        return Ok(());
    }
    if attempt.is(GROUP, IMAGES) {
        return match attempt.operation {
            Operation::Delete => unused(view, attempt),
            _ if attempt.is_marked_now() => unused(view, attempt),
            _ => {
                made_of(view, attempt, plan)?;
                marked(view, attempt)?;
                published(view, attempt)
            }
        };
    }
    if attempt.is("compute.yunfan.io", "virtualmachines") {
        let life = |machine: &Value| machine["spec"]["rebuildGeneration"].as_i64().unwrap_or_default();
        // One that goes takes with it what is still to be made of it.
        if attempt.operation == Operation::Delete || attempt.is_marked_now() {
            return Ok(());
        }
        // A rebuilt machine has another disk: the image would be of that.
        if attempt.old.is_some_and(|old| life(old) < life(attempt.object)) {
            not_imaged(view, attempt)?;
        }
    }
    let names_one = CHILDREN.iter().any(|(group, plural)| attempt.is(group, plural));
    if !names_one || attempt.operation == Operation::Delete {
        return Ok(());
    }
    for field in ["image", "rescueImage"] {
        readable(view, attempt, field)?;
    }
    Ok(())
}

/// Whether the writer may do this to an image; to all of them where no name is given.
fn may(view: &View<'_>, attempt: &Attempt<'_>, verb: &str, namespace: &str, name: &str) -> bool {
    let resource = Attributes::resource(attempt.user, verb, GROUP, IMAGES);
    let asked = Attributes { version: "v1", namespace, name, ..resource };
    view.judge.authorize_here(&asked).is_allowed()
}

/// An image of another namespace is one that the writer may read, and none is deactivated.
fn readable(view: &View<'_>, attempt: &Attempt<'_>, field: &str) -> Result<(), Refusal> {
    let Some(reference) = attempt.object["spec"][field].as_str() else { return Ok(()) };
    // It was looked at when it was written first.
    if attempt.old.is_some_and(|old| old["spec"][field] == reference) {
        return Ok(());
    }
    // A snapshot gets it of its Volume, and a copy of what it is made from, in place of what is written here.
    let names = |field: &str| attempt.object["spec"][field].as_str().is_some_and(|name| !name.is_empty());
    let copied = attempt.is("storage.yunfan.io", "volumes") && (names("snapshot") || names("sourceVolume"));
    if copied || attempt.is("storage.yunfan.io", "volumesnapshots") {
        return Ok(());
    }
    let refused = |why: &str| attempt.invalid(FieldError::invalid(format!("spec.{field}"), reference, why));
    let (namespace, name) = reference.split_once('/').unwrap_or((attempt.namespace, reference));
    let image = view.get(GROUP, IMAGES, namespace, name).map(|entry| entry.decode_stored());
    if namespace != attempt.namespace && (image.is_none() || !may(view, attempt, "get", namespace, name)) {
        return Err(refused("no such image, or none that you may read"));
    }
    if image.is_some_and(|image| image["spec"]["deactivated"] == true) {
        return Err(refused("the image is deactivated"));
    }
    Ok(())
}

/// What an image is made of is there, and stays what it was.
fn made_of(view: &View<'_>, attempt: &Attempt<'_>, plan: &mut WritePlan) -> Result<(), Refusal> {
    made_of_machine(view, attempt, plan)?;
    made_of_snapshot(view, attempt, plan)?;
    let source = &attempt.object["spec"]["sourceVolume"];
    let refused = |why: &str| attempt.invalid(FieldError::invalid("spec.sourceVolume", source.clone(), why));
    if let Some(old) = attempt.old {
        let same = old["spec"]["sourceVolume"] == *source;
        return if same { Ok(()) } else { Err(refused("field is immutable")) };
    }
    let Some(name) = source.as_str() else { return Ok(()) };
    if !matches!(attempt.object["spec"]["diskFormat"].as_str(), None | Some("raw" | "qcow2")) {
        return Err(refused("an image that is made of a volume is raw or qcow2"));
    }
    let volume = view.get("storage.yunfan.io", "volumes", attempt.namespace, name);
    let volume = volume.filter(|volume| {
        let volume = volume.decode_stored();
        let here = matches!(volume["status"]["phase"].as_str(), Some("Available" | "InUse"));
        here && volume["metadata"]["deletionTimestamp"].is_null()
    });
    let Some(volume) = volume else {
        return Err(refused("there is no volume of this name with data in this namespace"));
    };
    plan.unchanged(volume.key.as_ref(), volume.revision);
    Ok(())
}

/// The snapshot that an image is made of is there, and has its data.
fn made_of_snapshot(view: &View<'_>, attempt: &Attempt<'_>, plan: &mut WritePlan) -> Result<(), Refusal> {
    let spec = &attempt.object["spec"];
    let source = &spec["sourceSnapshot"];
    let refused =
        |why: &str| attempt.invalid(FieldError::invalid("spec.sourceSnapshot", source.clone(), why));
    if let Some(old) = attempt.old {
        let same = old["spec"]["sourceSnapshot"] == *source;
        return if same { Ok(()) } else { Err(refused("field is immutable")) };
    }
    let Some(name) = source.as_str() else { return Ok(()) };
    if !spec["sourceVolume"].is_null() {
        return Err(refused("an image is made of a volume, a snapshot or a virtual machine, not of several"));
    }
    if !matches!(spec["diskFormat"].as_str(), None | Some("raw" | "qcow2")) {
        return Err(refused("an image that is made of a snapshot is raw or qcow2"));
    }
    let snapshot = view.get("storage.yunfan.io", "volumesnapshots", attempt.namespace, name);
    let snapshot = snapshot.filter(|snapshot| {
        let snapshot = snapshot.decode_stored();
        snapshot["status"]["phase"] == "Available" && snapshot["metadata"]["deletionTimestamp"].is_null()
    });
    let Some(snapshot) = snapshot else {
        return Err(refused("there is no snapshot of this name with data in this namespace"));
    };
    plan.unchanged(snapshot.key.as_ref(), snapshot.revision);
    Ok(())
}

/// The machine that an image is made of is there and has a root disk of its own, which is on a node.
fn made_of_machine(view: &View<'_>, attempt: &Attempt<'_>, plan: &mut WritePlan) -> Result<(), Refusal> {
    let spec = &attempt.object["spec"];
    let source = &spec["sourceMachine"];
    let refused = |why: &str| attempt.invalid(FieldError::invalid("spec.sourceMachine", source.clone(), why));
    if let Some(old) = attempt.old {
        let same = old["spec"]["sourceMachine"] == *source;
        return if same { Ok(()) } else { Err(refused("field is immutable")) };
    }
    let Some(name) = source.as_str() else { return Ok(()) };
    if ["sourceVolume", "sourceSnapshot"].iter().any(|field| !spec[*field].is_null()) {
        return Err(refused("an image is made of a volume, a snapshot or a virtual machine, not of several"));
    }
    if !matches!(spec["diskFormat"].as_str(), None | Some("raw" | "qcow2")) {
        return Err(refused("an image that is made of a virtual machine is raw or qcow2"));
    }
    let machine = view.get("compute.yunfan.io", "virtualmachines", attempt.namespace, name);
    let machine = machine.map(|machine| machine.decode_stored()).filter(|machine| {
        machine["metadata"]["deletionTimestamp"].is_null() && machine["spec"]["nodeName"].is_string()
    });
    let Some(machine) = machine else {
        return Err(refused("there is no virtual machine of this name on a node in this namespace"));
    };
    if machine["spec"]["image"].as_str().is_none_or(str::is_empty) {
        return Err(refused("it boots from a volume: make the image of that"));
    }
    let machines = keys::kind_prefix("compute.yunfan.io", "virtualmachines");
    plan.exists(keys::object_key(&machines, attempt.namespace, name));
    Ok(())
}

/// A machine's disk stays until the images are there that are to be made of it.
fn not_imaged(view: &View<'_>, attempt: &Attempt<'_>) -> Result<(), Refusal> {
    for image in view.list(GROUP, IMAGES, attempt.namespace) {
        let image = image.decode_stored();
        let waits = matches!(image["status"]["phase"].as_str(), None | Some("Queued" | "Saving"));
        if waits
            && image["spec"]["sourceMachine"] == attempt.name
            && image["metadata"]["deletionTimestamp"].is_null()
        {
            let name = image["metadata"]["name"].as_str().unwrap_or_default();
            let why =
                format!("image {name} is being made of it: wait until it is, or delete the image first");
            return Err(attempt.conflict(&why));
        }
    }
    Ok(())
}

/// A backup of a machine makes older ones go that are marked as it is, and what holds a shelved machine's disk goes itself: whoever marks
/// an image so must be allowed to delete any of them.
fn marked(view: &View<'_>, attempt: &Attempt<'_>) -> Result<(), Refusal> {
    for key in [BACKUP, SHELVED] {
        let mark = |image: &Value| image["metadata"]["annotations"].get(key).cloned();
        let new = mark(attempt.object);
        if new.is_none() || attempt.old.is_some_and(|old| mark(old) == new) {
            continue;
        }
        if !may(view, attempt, "delete", attempt.namespace, "") {
            let why = format!(
                "only who may delete the images of this namespace says with the annotation {key} that one goes by itself"
            );
            return Err(attempt.forbidden(&why));
        }
    }
    Ok(())
}

/// Whoever makes an image public puts it in everybody's lists: that is for who may write all images.
fn published(view: &View<'_>, attempt: &Attempt<'_>) -> Result<(), Refusal> {
    let is_public = |image: &Value| image["spec"]["visibility"] == "public";
    if !is_public(attempt.object)
        || attempt.old.is_some_and(is_public)
        || may(view, attempt, "update", "", "")
    {
        return Ok(());
    }
    Err(attempt.forbidden("only who may update the images of all namespaces makes one public"))
}

/// An image stays as long as something of its own project is made from it, and while it is protected. What others made from it does not
/// keep it, nor is it told: their nodes keep the bytes for them.
fn unused(view: &View<'_>, attempt: &Attempt<'_>) -> Result<(), Refusal> {
    let long = format!("{}/{}", attempt.namespace, attempt.name);
    for (group, plural) in CHILDREN {
        for child in view.list(group, plural, attempt.namespace) {
            let child = child.decode_stored();
            let is_it = |field: &str| {
                let named = &child["spec"][field];
                *named == long.as_str() || *named == attempt.name
            };
            // A machine that runs again has a disk of its own.
            let runs = matches!(child["status"]["phase"].as_str(), Some("Active" | "Paused"));
            if is_it("image") || is_it("rescueImage") || is_it("shelvedImage") && !runs {
                let name = child["metadata"]["name"].as_str().unwrap_or_default();
                let what = plural.trim_end_matches('s');
                return Err(attempt.conflict(&format!("{what} {name} is made from it; delete that first")));
            }
        }
    }
    if attempt.object["spec"]["protected"] == true {
        return Err(attempt.forbidden("it is protected; set spec.protected to false first"));
    }
    Ok(())
}
