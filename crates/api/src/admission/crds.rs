//! CustomResourceDefinitions: names are accepted, and the kind established, in the write itself, so
//! that the kind is served as soon as the definition is there. Those of the cloud itself stay.

use jiff::Timestamp;
use serde_json::{Value, json};
use yunfan_objects::crd::{CLEANUP, status};
use yunfan_objects::{ApiError, Reason, meta};

use super::{Attempt, Operation, Refusal, View, WritePlan};
use crate::kinds::{CRD_GROUP, CRD_PLURAL, system_definitions};

pub(super) fn admit(view: &View<'_>, attempt: &mut Attempt<'_>, plan: &mut WritePlan) -> Result<(), Refusal> {
    if !attempt.is(CRD_GROUP, CRD_PLURAL) {
        return check_kind(attempt, plan);
    }
    if !attempt.system && system_definitions().contains(attempt.name) {
        if attempt.operation == Operation::Delete || attempt.is_marked_now() {
            return Err(attempt.forbidden("it belongs to the cloud itself and can't be deleted"));
        }
        if attempt.old.is_some_and(|old| old["spec"] != attempt.object["spec"]) {
            return Err(attempt.forbidden("it belongs to the cloud itself and can't be changed"));
        }
    }
    if attempt.operation == Operation::Delete || !attempt.subresource.is_empty() {
        return Ok(());
    }
    finalize(attempt.object);
    let taken = taken(view, attempt.object);
    let before = attempt.old.map(|old| old["status"].clone()).unwrap_or_default();
    let now = meta::time(Timestamp::now());
    attempt.object["status"] = status::compute(attempt.object, &before, &taken, &now);
    Ok(())
}

/// No object is made of a kind that is going: its cleanup would never end. Nor is one written by a definition that has
/// changed since: it would be taken for one of another version.
fn check_kind(attempt: &Attempt<'_>, plan: &mut WritePlan) -> Result<(), Refusal> {
    let Some(definition) = &attempt.kind.resource.definition else { return Ok(()) };
    plan.unchanged(&*definition.key, definition.revision);
    if attempt.operation == Operation::Create && status::is_terminating(definition.value()) {
        let message = "create not allowed while custom resource definition is terminating";
        return Err(ApiError::new(405, Reason::MethodNotAllowed, message).into());
    }
    Ok(())
}

fn finalize(definition: &mut Value) {
    if !definition["metadata"]["deletionTimestamp"].is_null() {
        return;
    }
    let finalizers = &mut definition["metadata"]["finalizers"];
    match finalizers.as_array_mut() {
        Some(list) if list.iter().any(|f| f == CLEANUP) => {}
        Some(list) => list.push(json!(CLEANUP)),
        None => *finalizers = json!([CLEANUP]),
    }
}

/// Names that other definitions and Kubernetes' own kinds of the group have.
fn taken(view: &View<'_>, definition: &Value) -> status::Taken {
    let mut taken = status::Taken::default();
    // A kind that is there without a definition has its names for good.
    for resource in view.kinds.table().resources().iter().filter(|resource| resource.definition.is_none()) {
        let kind = &resource.storage;
        if definition["spec"]["group"] == kind.group.as_str() {
            let names = json!({"plural": kind.plural, "singular": kind.singular, "kind": kind.kind, "listKind": kind.list_kind});
            taken.add(&names);
        }
    }
    for other in view.list(CRD_GROUP, CRD_PLURAL, "") {
        let other = other.value();
        let same = other["metadata"]["name"] == definition["metadata"]["name"];
        if !same && other["spec"]["group"] == definition["spec"]["group"] {
            taken.add(&other["status"]["acceptedNames"]);
        }
    }
    taken
}
