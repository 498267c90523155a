//! CustomResourceDefinitions: names are accepted, and the kind established, in the write itself, so
//! that the kind is served as soon as the definition is there. Those of the cloud itself stay.

use jiff::Timestamp;
use serde_json::{Value, json};
use yunfan_objects::meta;

use super::{Attempt, Operation, Refusal, View};
use crate::kinds::{CRD_GROUP, CRD_PLURAL, is_established, system_definitions};

/// Finalizer of a definition whose objects are still there.
pub(crate) const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

pub(super) fn admit(view: &View<'_>, attempt: &mut Attempt<'_>) -> Result<(), Refusal> {
    if !attempt.is(CRD_GROUP, CRD_PLURAL) {
        return Ok(());
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
    let conflict = conflict(view, attempt);
    let kept =
        attempt.old.map(|old| old["status"].clone()).filter(Value::is_object).unwrap_or_else(|| json!({}));
    let before = attempt.old.is_some_and(is_established);
    attempt.object["status"] = status(&attempt.object["spec"], kept, before, conflict);
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

/// Another kind of the same group that has one of the names.
fn conflict(view: &View<'_>, attempt: &Attempt<'_>) -> Option<String> {
    let spec = &attempt.object["spec"];
    let (group, names) = (spec["group"].as_str()?, &spec["names"]);
    let plural = names["plural"].as_str()?;
    let table = view.kinds.table();
    let others = table.resources().iter().filter(|r| r.storage.group == group && r.storage.plural != plural);
    for other in others {
        let taken = &other.storage;
        if names["kind"] == taken.kind.as_str() || names["listKind"] == taken.list_kind.as_str() {
            return Some(format!("{} is already in use by {}.{group}", taken.kind, taken.plural));
        }
        if names["singular"] == taken.singular.as_str() {
            return Some(format!("{} is already in use by {}.{group}", taken.singular, taken.plural));
        }
    }
    None
}

fn status(spec: &Value, mut status: Value, established: bool, conflict: Option<String>) -> Value {
    let now = meta::time(Timestamp::now());
    let mut stored: Vec<Value> = status["storedVersions"].as_array().cloned().unwrap_or_default();
    for version in spec["versions"].as_array().into_iter().flatten() {
        if version["storage"] == true && !stored.contains(&version["name"]) {
            stored.push(version["name"].clone());
        }
    }
    status["storedVersions"] = Value::Array(stored);
    let accepted = conflict.is_none();
    if accepted || status["acceptedNames"].is_null() {
        status["acceptedNames"] =
            if accepted { spec["names"].clone() } else { json!({"plural": "", "kind": ""}) };
    }
    let (why, message) = match &conflict {
        None => ("NoConflicts", "no conflicts found".to_owned()),
        Some(conflict) => ("NamesConflict", conflict.clone()),
    };
    set(&mut status, &now, "NamesAccepted", accepted, why, &message);
    // What was established once stays so: its objects must stay within reach.
    let (why, message) = if accepted {
        ("InitialNamesAccepted", "the initial names have been accepted")
    } else {
        ("NotAccepted", "not all names are accepted")
    };
    set(&mut status, &now, "Established", accepted || established, why, message);
    status
}

fn set(status: &mut Value, now: &str, kind: &str, yes: bool, reason: &str, message: &str) {
    let word = if yes { "True" } else { "False" };
    let list = &mut status["conditions"];
    if !list.is_array() {
        *list = json!([]);
    }
    let Some(list) = list.as_array_mut() else { return };
    let mut condition = json!({
        "type": kind, "status": word, "reason": reason, "message": message, "lastTransitionTime": now,
    });
    match list.iter_mut().find(|c| c["type"] == kind) {
        Some(old) => {
            if old["status"] == word {
                condition["lastTransitionTime"] = old["lastTransitionTime"].clone();
            }
            *old = condition;
        }
        None => list.push(condition),
    }
}
