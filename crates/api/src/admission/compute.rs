//! Virtual machines: the size is copied from the Flavor when the machine is made, so that a changed
//! or deleted Flavor changes nothing about machines that are there.

use serde_json::{Value, json};
use yunfan_objects::FieldError;

use super::{Attempt, Operation, Refusal, View};

pub(super) fn admit(view: &View<'_>, attempt: &mut Attempt<'_>) -> Result<(), Refusal> {
    if !attempt.is("compute.yunfan.io", "virtualmachines") || attempt.operation == Operation::Delete {
        return Ok(());
    }
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
