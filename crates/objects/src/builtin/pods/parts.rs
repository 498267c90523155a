//! What may change in a Pod through its subresources: containers for debugging are added, and resources changed, while it runs.

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::Object;
use crate::builtin::pods::qos_class;
use crate::error::FieldError;
use crate::lookup::{at, list, list_mut, map, remove, text};

/// A Pod that its node took from a file, and not from here.
const MIRROR: &str = "kubernetes.io/config.mirror";
/// What upstream calls the whole object here.
const WHOLE: &str = "[]";
/// The resources that may change.
const CHANGEABLE: [&str; 2] = ["cpu", "memory"];

/// What is wrong with a change through `ephemeralcontainers`: they come, and stay as they are.
pub(in crate::builtin) fn ephemeral_change(new: &Object, old: &Object) -> Vec<FieldError> {
    if is_mirror(old) {
        return vec![FieldError::forbidden(WHOLE, "static pods do not support ephemeral containers")];
    }
    let path = ["spec", "ephemeralContainers"];
    let named = |each| text(each, &["name"]);
    let kept: HashMap<&str, &Value> = list(new, &path).iter().rev().map(|each| (named(each), each)).collect();
    let mut errors = Vec::new();
    for before in list(old, &path) {
        let name = named(before);
        let what = match kept.get(name).copied() {
            None => "removed",
            Some(after) if after != before => "changed",
            Some(_) => continue,
        };
        let why = format!("existing ephemeral containers {name:?} may not be {what}\n");
        errors.push(FieldError::forbidden("spec.ephemeralContainers", why));
    }
    errors
}

/// What is wrong with a change through `resize`: of CPU and memory alone, and of nothing that the Pod was placed by.
pub(in crate::builtin) fn resize(new: &Object, old: &Object) -> Vec<FieldError> {
    if is_mirror(old) {
        return vec![FieldError::forbidden(WHOLE, "static pods cannot be resized")];
    }
    if text(old, &["spec", "os", "name"]) == "windows" {
        return vec![FieldError::forbidden(WHOLE, "windows pods cannot be resized")];
    }
    let mut errors = Vec::new();
    if qos_class(new) != qos_class(old) {
        let why = "Pod QOS Class may not change as a result of resizing";
        errors.push(FieldError::invalid("spec", text(new, &["status", "qosClass"]), why));
    }
    if !node_resizes(old) {
        errors.push(FieldError::forbidden("spec", "Pod running on node without support for resize"));
    }
    errors.extend(whole_pod(new, old));
    let moved = moved(new, old);
    if !moved.is_empty() {
        errors.extend(moved);
        return errors;
    }
    for kind in ["initContainers", "containers"] {
        for (index, (after, before)) in pairs(new, old, kind).enumerate() {
            let path = format!("spec.{kind}[{index}].resources");
            errors.extend(removed(
                after,
                before,
                &path,
                ["requests", "limits"].map(|part| (part, format!("resource {part} cannot be removed"))),
            ));
        }
    }
    let mut others = false;
    for (index, (after, before)) in pairs(new, old, "initContainers").enumerate() {
        let path = format!("spec.initContainers[{index}]");
        if apart(after, before) != *before {
            others = true;
            let why = "only cpu and memory resources for init or sidecar containers are mutable";
            errors.push(FieldError::forbidden(path.as_str(), why));
        }
        let restarts = list(after, &["resizePolicy"])
            .iter()
            .any(|policy| text(policy, &["restartPolicy"]) == "RestartContainer");
        if after != before && restarts && text(after, &["restartPolicy"]) != "Always" {
            let why =
                "non-sidecar init containers with a resize policy of RestartContainer cannot be resized";
            errors.push(FieldError::forbidden(path, why));
        }
    }
    let changed = pairs(new, old, "containers").any(|(after, before)| apart(after, before) != *before);
    if changed || (!others && rest(new) != rest(old)) {
        errors.push(FieldError::forbidden("spec", "only cpu and memory resources are mutable"));
    }
    errors
}

fn is_mirror(pod: &Object) -> bool {
    at(pod, &["metadata", "annotations", MIRROR]).is_some()
}

/// A node that can change what a running container has says what it has.
fn node_resizes(pod: &Object) -> bool {
    let mut states = list(pod, &["status", "containerStatuses"]).iter();
    states
        .find(|each| at(each, &["state", "running"]).is_some())
        .is_none_or(|each| each.get("resources").is_some())
}

/// The containers of a kind, after and before.
fn pairs<'a>(
    new: &'a Object,
    old: &'a Object,
    kind: &'a str,
) -> impl Iterator<Item = (&'a Value, &'a Value)> {
    list(new, &["spec", kind]).iter().zip(list(old, &["spec", kind]))
}

/// What is wrong with the resources of the Pod as a whole.
fn whole_pod(new: &Object, old: &Object) -> Vec<FieldError> {
    let (after, before) = (&new["spec"], &old["spec"]);
    let path = "spec.resources";
    if before.get("resources").is_some() && after.get("resources").is_none() {
        return vec![FieldError::forbidden(path, "pod-level resources cannot be removed")];
    }
    let mut errors = removed(
        after,
        before,
        path,
        ["requests", "limits"].map(|part| (part, format!("pod-level resource {part} cannot be removed"))),
    );
    let none = json!({});
    let kept = |spec: &Value| spec.get("resources").unwrap_or(&none).clone();
    let (mut one, mut other) = (kept(after), kept(before));
    for side in [&mut one, &mut other] {
        drop_changeable(side);
    }
    if one != other {
        let why = "only cpu and memory resources are mutable at pod-level";
        errors.push(FieldError::forbidden("spec", why));
    }
    errors
}

/// Containers that came, went or changed places.
fn moved(new: &Object, old: &Object) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for kind in ["containers", "initContainers"] {
        if list(new, &["spec", kind]).len() != list(old, &["spec", kind]).len() {
            let why = format!("{kind} may not be added or removed on resize");
            errors.push(FieldError::forbidden(format!("spec.{kind}"), why));
            continue;
        }
        for (index, (after, before)) in pairs(new, old, kind).enumerate() {
            if after["name"] != before["name"] {
                let why = format!("{kind} may not be renamed or reordered on resize");
                errors.push(FieldError::forbidden(format!("spec.{kind}[{index}].name"), why));
            }
        }
    }
    errors
}

/// Complains of requests or limits that were there and are not any more.
fn removed(after: &Value, before: &Value, path: &str, words: [(&str, String); 2]) -> Vec<FieldError> {
    let gone = |part: &str| {
        let kept = map(after, &["resources", part]);
        let mut names = map(before, &["resources", part]).into_iter().flat_map(|amounts| amounts.keys());
        names.any(|name| kept.is_none_or(|kept| !kept.contains_key(name)))
    };
    words
        .into_iter()
        .filter(|(part, _)| gone(part))
        .map(|(part, why)| FieldError::forbidden(format!("{path}.{part}"), why))
        .collect()
}

/// The container with the CPU and the memory that it had before.
fn apart(after: &Value, before: &Value) -> Value {
    let mut container = after.clone();
    for part in ["limits", "requests"] {
        for name in CHANGEABLE {
            let had = at(before, &["resources", part, name]);
            match (had, container.pointer_mut(&format!("/resources/{part}")).and_then(Value::as_object_mut)) {
                (Some(had), Some(amounts)) => drop(amounts.insert(name.to_owned(), had.clone())),
                (None, Some(amounts)) => drop(amounts.remove(name)),
                (_, None) => {}
            }
        }
        let empty = at(&container, &["resources", part]).is_some_and(|amounts| *amounts == json!({}));
        if empty && at(before, &["resources", part]).is_none() {
            remove(&mut container["resources"], part);
        }
    }
    container
}

fn drop_changeable(resources: &mut Value) {
    for part in ["limits", "requests"] {
        if let Some(amounts) = resources.get_mut(part).and_then(Value::as_object_mut) {
            amounts.retain(|name, _| !CHANGEABLE.contains(&name.as_str()));
            if amounts.is_empty() {
                remove(resources, part);
            }
        }
    }
}

/// The spec without what is looked at by itself.
fn rest(pod: &Object) -> Value {
    let mut spec = pod["spec"].clone();
    for kind in ["containers", "initContainers"] {
        list_mut(&mut spec, &[kind]).iter_mut().for_each(|container| *container = Value::Null);
    }
    remove(&mut spec, "resources");
    spec
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Object {
        json!({"metadata": {"name": "p"}, "status": {}, "spec": {
            "initContainers": [{"name": "i", "image": "x", "resources": {}}],
            "containers": [{"name": "a", "image": "x", "resources": {
                "requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "2", "example.com/gpu": "1"}}}]}})
    }

    #[track_caller]
    fn says(errors: &[FieldError], wanted: &str) {
        let all: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert!(all.iter().any(|error| error.contains(wanted)), "{wanted:?} is not in {all:?}");
    }

    #[test]
    fn cpu_and_memory_change_and_nothing_else() {
        let old = pod();
        let mut new = pod();
        new["spec"]["containers"][0]["resources"]["requests"] = json!({"cpu": "2", "memory": "2Gi"});
        new["spec"]["containers"][0]["resources"]["limits"]["memory"] = json!("3Gi");
        assert_eq!(resize(&new, &old), []);
        for (change, wanted) in [
            (
                ("/containers/0/resources/limits/example.com~1gpu", json!("2")),
                "spec: Forbidden: only cpu and memory",
            ),
            (
                ("/containers/0/resources/limits", json!({"cpu": "2"})),
                "limits: Forbidden: resource limits cannot be",
            ),
            (
                ("/containers/0/resources/requests", json!({})),
                "requests: Forbidden: resource requests cannot be",
            ),
            (
                ("/containers/0/resources", json!({})),
                "spec: Invalid value: \"\": Pod QOS Class may not change",
            ),
            (
                ("/containers/0/name", json!("b")),
                "containers[0].name: Forbidden: containers may not be renamed",
            ),
            (("/initContainers", json!([])), "initContainers: Forbidden: initContainers may not be added"),
            (
                ("/initContainers/0/resources", json!({"limits": {"example.com/gpu": "1"}})),
                "initContainers[0]: Forbidden: only cpu and memory resources for init",
            ),
            (
                ("/containers/0/image", json!("y")),
                "spec: Forbidden: only cpu and memory resources are mutable",
            ),
        ] {
            let mut new = pod();
            *new.pointer_mut(&format!("/spec{}", change.0)).unwrap_or_else(|| panic!("{}", change.0)) =
                change.1;
            says(&resize(&new, &old), wanted);
        }
    }

    #[test]
    fn a_running_pod_is_resized_where_its_node_can() {
        let running = |resources: Value| {
            let mut pod = pod();
            pod["status"]["containerStatuses"] = json!([{"name": "a", "state": {"running": {}}}]);
            if !resources.is_null() {
                pod["status"]["containerStatuses"][0]["resources"] = resources;
            }
            pod
        };
        assert_eq!(resize(&running(json!({})), &running(json!({}))), []);
        let old = running(Value::Null);
        says(&resize(&old, &old), "spec: Forbidden: Pod running on node without support for resize");
    }

    #[test]
    fn debug_containers_come_and_stay_as_they_are() {
        let with = |containers: Value| {
            let mut pod = pod();
            pod["spec"]["ephemeralContainers"] = containers;
            pod
        };
        let old = with(json!([{"name": "d", "image": "x"}]));
        let more = with(json!([{"name": "e", "image": "x"}, {"name": "d", "image": "x"}]));
        assert_eq!(ephemeral_change(&more, &old), []);
        says(&ephemeral_change(&pod(), &old), "existing ephemeral containers \"d\" may not be removed");
        let other = with(json!([{"name": "d", "image": "y"}]));
        says(&ephemeral_change(&other, &old), "existing ephemeral containers \"d\" may not be changed");
        let mut mirror = pod();
        mirror["metadata"]["annotations"] = json!({MIRROR: "x"});
        says(&ephemeral_change(&more, &mirror), "static pods do not support ephemeral containers");
    }
}
