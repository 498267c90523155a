//! The image that a machine is shelved into: the node takes its disk for kept there, and makes the next one of it. So it is one of the
//! machine's own, and of no earlier time than the disk that the machine has.

use serde_json::Value;
use yunfan_objects::FieldError;
use yunfan_resources::image::SHELVED;

use super::{Attempt, Operation, Refusal, View, WritePlan};
use crate::keys;

const FIELD: &str = "spec.shelvedImage";

pub(super) fn admit(view: &View<'_>, attempt: &mut Attempt<'_>, plan: &mut WritePlan) -> Result<(), Refusal> {
    let ours = attempt.is("compute.yunfan.io", "virtualmachines") && attempt.subresource.is_empty();
    if !ours || attempt.system || attempt.operation == Operation::Delete {
        return Ok(());
    }
    match told(attempt.old, attempt.object) {
        Named::AsBefore => Ok(()),
        Named::New => is_its_own(view, attempt, plan),
        Named::Stale => {
            if let Some(spec) = attempt.object["spec"].as_object_mut() {
                spec.remove("shelvedImage");
            }
            Ok(())
        }
        Named::Needed => {
            let why = "it has not run since it was shelved before, and what spec.shelvedImage names may be the only copy of its \
                disk: let it run first (spec.runState: Running)";
            Err(attempt.conflict(why))
        }
    }
}

/// What a write says of the image.
#[derive(Debug, PartialEq)]
enum Named {
    AsBefore,
    New,
    /// It is of a disk before the one that the machine has.
    Stale,
    /// There may be no other disk.
    Needed,
}

fn told(old: Option<&Value>, new: &Value) -> Named {
    let name = |object: &Value| object["spec"]["shelvedImage"].clone();
    if name(new).is_null() {
        return Named::AsBefore;
    }
    let Some(old) = old.filter(|old| name(old) == name(new)) else { return Named::New };
    let is_shelved = |object: &Value| object["spec"]["runState"] == "Shelved";
    if is_shelved(old) || !is_shelved(new) {
        return Named::AsBefore;
    }
    match old["status"]["phase"].as_str() {
        // No node has begun with it.
        Some("Offloaded") if old["spec"]["nodeName"].as_str().is_none_or(str::is_empty) => Named::AsBefore,
        Some("Active" | "Paused") => Named::Stale,
        _ => Named::Needed,
    }
}

fn is_its_own(view: &View<'_>, attempt: &Attempt<'_>, plan: &mut WritePlan) -> Result<(), Refusal> {
    let name = &attempt.object["spec"]["shelvedImage"];
    let refused = |why: &str| attempt.invalid(FieldError::invalid(FIELD, name.clone(), why));
    let Some(old) = attempt.old else {
        return Err(refused(
            "a machine that is made has no disk yet that could be in an image: leave it out",
        ));
    };
    let name = name.as_str().unwrap_or_default();
    let image = match name.contains('/') {
        true => None,
        false => view.get("image.yunfan.io", "images", attempt.namespace, name),
    };
    let image = image.filter(|image| {
        let image = image.decode_stored();
        let of = image["metadata"]["annotations"].get(SHELVED);
        of.is_some_and(|uid| *uid == old["metadata"]["uid"])
            && image["spec"]["sourceMachine"] == attempt.name
            && image["metadata"]["deletionTimestamp"].is_null()
    });
    if image.is_none() {
        let why = format!(
            "must be an image of this namespace that is made of this machine (spec.sourceMachine) and has its uid in the annotation {SHELVED}"
        );
        return Err(refused(&why));
    }
    let images = keys::kind_prefix("image.yunfan.io", "images");
    plan.exists(keys::object_key(&images, attempt.namespace, name));
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_it_was_shelved_into_before_is_of_an_older_disk_once_it_ran() {
        let machine = |state: &str, image: Value, phase: &str, node: Value| json!({"spec": {"runState": state, "shelvedImage": image, "nodeName": node}, "status": {"phase": phase}});
        let shelved = |image: &str| machine("Shelved", json!(image), "", json!("n"));
        let was = |state: &str, phase: &str, node: Value| machine(state, json!("i"), phase, node);
        let now = |old: Value, new: Value| told(Some(&old), &new);
        assert_eq!(told(None, &shelved("i")), Named::New);
        assert_eq!(now(was("Running", "Active", json!("n")), shelved("j")), Named::New);
        assert_eq!(now(was("Running", "Active", json!("n")), shelved("i")), Named::Stale);
        assert_eq!(now(was("Paused", "Paused", json!("n")), shelved("i")), Named::Stale);
        assert_eq!(now(was("Stopped", "Stopped", json!("n")), shelved("i")), Named::Needed);
        assert_eq!(now(was("Running", "Offloaded", json!("n")), shelved("i")), Named::Needed);
        assert_eq!(now(was("Running", "Offloaded", Value::Null), shelved("i")), Named::AsBefore);
        assert_eq!(now(was("Shelved", "Stopped", json!("n")), shelved("i")), Named::AsBefore);
        let unnamed = machine("Shelved", Value::Null, "", json!("n"));
        assert_eq!(now(was("Running", "Active", json!("n")), unnamed), Named::AsBefore);
    }
}
