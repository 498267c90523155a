//! Pods that nodes make: no others than mirrors of their own static Pods. Else who took over one node would run what it likes on
//! any, as any account. (Kubernetes' admission plugin NodeRestriction.)

use serde_json::Value;
use yunfan_identity::node;
use yunfan_objects::builtin::api_reference;

use super::super::{Attempt, Refusal, View};
use super::account::MIRROR;

pub(super) fn admit(view: &View<'_>, attempt: &Attempt<'_>) -> Result<(), Refusal> {
    let Some(node) = node::of(attempt.user).filter(|_| attempt.makes_pod()) else { return Ok(()) };
    let found = view.get("", "nodes", "", node);
    let known = found.as_ref().and_then(|entry| entry.value()["metadata"]["uid"].as_str().map(str::to_owned));
    own_mirror(node, known.as_deref(), attempt.object).map_err(|why| attempt.forbidden(&why))
}

fn own_mirror(node: &str, uid: Option<&str>, pod: &Value) -> Result<(), String> {
    let metadata = &pod["metadata"];
    if metadata["annotations"][MIRROR].is_null() {
        return Err(format!(
            "pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"
        ));
    }
    if pod["spec"]["nodeName"] != node {
        return Err(format!("node {node:?} can only create pods with spec.nodeName set to itself"));
    }
    let owners = metadata["ownerReferences"].as_array().map(Vec::as_slice).unwrap_or_default();
    let [owner] = owners else {
        let how = if owners.is_empty() { "an" } else { "a single" };
        return Err(format!("node {node:?} can only create pods with {how} owner reference set to itself"));
    };
    if owner["apiVersion"] != "v1" || owner["kind"] != "Node" || owner["name"] != node {
        return Err(format!("node {node:?} can only create pods with an owner reference set to itself"));
    }
    if owner["controller"] != true {
        return Err(format!(
            "node {node:?} can only create pods with a controller owner reference set to itself"
        ));
    }
    if owner["blockOwnerDeletion"] == true {
        return Err(format!("node {node:?} must not set blockOwnerDeletion on an owner reference"));
    }
    let said = owner["uid"].as_str().unwrap_or_default();
    match uid {
        None => return Err(format!("nodes {node:?} not found")),
        Some(uid) if uid != said => {
            return Err(format!("node {node} UID mismatch: expected {said} got {uid}"));
        }
        Some(_) => {}
    }
    match api_reference(pod) {
        Some(what) => Err(format!("node {node:?} can not create pods that reference {what}")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_node_makes_mirrors_of_its_own_pods_alone() {
        let good = json!({"metadata": {"annotations": {MIRROR: "x"}, "ownerReferences":
                [{"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "u", "controller": true}]},
            "spec": {"nodeName": "n", "containers": []}});
        let of = |path: &str, value: Value| {
            let mut pod = good.clone();
            *pod.pointer_mut(path).unwrap() = value;
            own_mirror("n", Some("u"), &pod).err().unwrap_or_default()
        };
        assert_eq!(of("/spec/nodeName", json!("n")), "");
        assert!(of("/metadata/annotations", json!({})).contains("can only create mirror pods"));
        assert!(of("/spec/nodeName", json!("m")).ends_with("with spec.nodeName set to itself"));
        assert!(
            of("/metadata/ownerReferences", json!([])).ends_with("with an owner reference set to itself")
        );
        assert!(of("/metadata/ownerReferences", json!([{}, {}])).contains("a single owner reference"));
        assert!(
            of("/metadata/ownerReferences/0/name", json!("m")).ends_with("owner reference set to itself")
        );
        assert!(of("/metadata/ownerReferences/0/controller", json!(false)).contains("a controller owner"));
        assert_eq!(
            of("/metadata/ownerReferences/0/uid", json!("v")),
            "node n UID mismatch: expected v got u"
        );
        assert_eq!(
            of("/spec", json!({"nodeName": "n", "serviceAccountName": "a"})),
            "node \"n\" can not create pods that reference serviceaccounts"
        );
        assert!(own_mirror("n", None, &good).is_err());
    }
}
