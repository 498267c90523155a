//! Virtual machines: the size is copied from the Flavor when the machine is made, so that a changed
//! or deleted Flavor changes nothing about machines that are there. Key pairs: a user's are the user's own.

use serde_json::{Value, json};
use yunfan_identity::user::MASTERS_GROUP;
use yunfan_objects::FieldError;

use super::{Attempt, Operation, Refusal, View};

/// What a machine's size is made of.
const SIZE: [&str; 3] = ["vcpus", "memoryMib", "diskGib"];

pub(super) fn admit(view: &View<'_>, attempt: &mut Attempt<'_>) -> Result<(), Refusal> {
    key_pair(attempt)?;
    if !attempt.is("compute.yunfan.io", "virtualmachines") || attempt.operation == Operation::Delete {
        return Ok(());
    }
    stays_on_its_node(attempt)?;
    resized_from(attempt)?;
    rebuild_generation(attempt)?;
    disks_there_are(view, attempt)?;
    if attempt.object["spec"]["resources"].is_object() {
        return Ok(());
    }
    if let Some(kept) = attempt.old.map(|old| &old["spec"]["resources"]).filter(|r| r.is_object()) {
        attempt.object["spec"]["resources"] = kept.clone();
        return Ok(());
    }
    let Some(flavor) = attempt.object["spec"]["flavor"].as_str() else {
        // The schema asks for it, with the right words.
        return Ok(());
    };
    let Some(entry) = view.get("compute.yunfan.io", "flavors", "", flavor) else {
        let why = "no such flavor; `kubectl get flavors` lists them";
        return Err(attempt.invalid(FieldError::invalid("spec.flavor", flavor, why)));
    };
    let from = &entry.value()["spec"];
    let size = json!({
        "vcpus": from["vcpus"],
        "memoryMib": from["memoryMib"],
        "diskGib": from.get("diskGib").unwrap_or(&json!(0)),
    });
    if let Some(spec) = attempt.object.get_mut("spec").and_then(Value::as_object_mut) {
        spec.insert("resources".to_owned(), size);
    }
    Ok(())
}

/// Guests have no disks to swap to and none that end with them, nor what some extra specs ask for: a machine does not get a flavor that
/// asks for such.
fn disks_there_are(view: &View<'_>, attempt: &Attempt<'_>) -> Result<(), Refusal> {
    let name = &attempt.object["spec"]["flavor"];
    if attempt.old.is_some_and(|old| old["spec"]["flavor"] == *name) {
        return Ok(());
    }
    let Some(entry) = name.as_str().and_then(|name| view.get("compute.yunfan.io", "flavors", "", name))
    else {
        return Ok(());
    };
    let flavor = entry.decode_stored();
    let asks = |field: &str| flavor["spec"][field].as_u64().unwrap_or_default() > 0;
    if asks("swapMib") || asks("ephemeralGib") {
        let why = "the flavor asks for a swap or an ephemeral disk, which guests do not get";
        return Err(attempt.invalid(FieldError::invalid("spec.flavor", name.clone(), why)));
    }
    let specs = flavor["spec"]["extraSpecs"].as_object();
    let unserved = specs
        .into_iter()
        .flatten()
        .find(|(key, value)| !yunfan_resources::flavor::is_served(key, value.as_str().unwrap_or_default()));
    if let Some((key, value)) = unserved {
        let why = format!("the flavor asks for {key}={value}, on which no part of this cloud acts");
        return Err(attempt.invalid(FieldError::invalid("spec.flavor", name.clone(), why)));
    }
    Ok(())
}

/// A machine's disk is on its node, which keeps nothing of what is not its own: the scheduler says once which node that is. One that
/// is shelved leaves it when the node has nothing of it any more.
fn stays_on_its_node(attempt: &Attempt<'_>) -> Result<(), Refusal> {
    let (old, new) = (attempt.old.map(|old| &old["spec"]["nodeName"]), &attempt.object["spec"]["nodeName"]);
    let leaves = || attempt.old.is_some_and(|old| old["status"]["phase"] == "Offloaded");
    match old {
        Some(_) if new.as_str().is_none_or(str::is_empty) && leaves() => Ok(()),
        Some(old) if old.as_str().is_some_and(|old| !old.is_empty()) && old != new => {
            Err(attempt.invalid(FieldError::invalid("spec.nodeName", new.clone(), "field is immutable")))
        }
        _ => Ok(()),
    }
}

/// The size before a resize is counted for the machine until it is confirmed: it is one that the machine has had, and was charged for.
fn resized_from(attempt: &Attempt<'_>) -> Result<(), Refusal> {
    let from = &attempt.object["spec"]["resizedFrom"];
    let was = attempt.old.map(|old| &old["spec"]);
    let amounts = |size: &Value| SIZE.map(|field| size[field].as_i64().unwrap_or_default());
    let known = |was: &Value| {
        was["resizedFrom"] == *from
            || was["flavor"] == from["flavor"] && amounts(&was["resources"]) == amounts(&from["resources"])
    };
    if from.is_null() || was.is_some_and(known) {
        return Ok(());
    }
    let why = "must be the flavor and the resources that the machine has, or left out";
    Err(attempt.invalid(FieldError::invalid("spec.resizedFrom", from.clone(), why)))
}

/// It names the disk that the machine has: it only rises, and whoever leaves it out means the one that is there.
fn rebuild_generation(attempt: &mut Attempt<'_>) -> Result<(), Refusal> {
    let number = |object: &Value| object["spec"]["rebuildGeneration"].as_i64();
    let Some(was) = attempt.old.and_then(number) else { return Ok(()) };
    // The schema fills in 0 where it is left out.
    let now = number(attempt.object).unwrap_or_default();
    if now != 0 && now < was {
        let why = format!("must not be lowered from {was}");
        return Err(attempt.invalid(FieldError::invalid("spec.rebuildGeneration", now, why)));
    }
    if now < was
        && let Some(spec) = attempt.object.get_mut("spec").and_then(Value::as_object_mut)
    {
        spec.insert("rebuildGeneration".to_owned(), json!(was));
    }
    Ok(())
}

/// A pair that says whose it is opens that user's servers in all projects: nobody else may make one, or change the key in it.
fn key_pair(attempt: &Attempt<'_>) -> Result<(), Refusal> {
    let ours = attempt.is("compute.yunfan.io", "keypairs") && attempt.operation != Operation::Delete;
    let trusted = attempt.system || attempt.user.groups.iter().any(|group| group == MASTERS_GROUP);
    if !ours || trusted || attempt.old.is_some_and(|old| old["spec"] == attempt.object["spec"]) {
        return Ok(());
    }
    let named = [attempt.old, Some(&*attempt.object)].into_iter().flatten();
    match named.filter_map(|pair| pair["spec"]["user"].as_str()).find(|user| *user != attempt.user.name) {
        Some(user) => {
            let why = "only this user can make the key pair or change it";
            Err(attempt.invalid(FieldError::invalid("spec.user", user, why)))
        }
        None => Ok(()),
    }
}
