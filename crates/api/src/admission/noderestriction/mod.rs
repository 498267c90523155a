//! What nodes may write: what is theirs, so that who took over one of them has that one alone. (Kubernetes' admission plugin
//! NodeRestriction; that a node makes no Pods but mirrors is in `pods/mirror.rs`, the tokens that it gets are in `door/token.rs`,
//! and the certificates that it asks for in `certificates.rs`.)

mod certificate;
mod ours;

use std::collections::BTreeSet;

use serde_json::{Map, Value};
use yunfan_identity::node as identity;
use yunfan_resources::names::{LEASE_NAMESPACE, ZONE_LABEL};

use super::{Attempt, Operation, Refusal, View};

/// Labels of Kubernetes' own that a node gives itself.
const OWN_LABELS: [&str; 11] = [
    "kubernetes.io/hostname",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
];
/// The prefixes of others.
const OWN_PREFIXES: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];
/// The prefix of labels that only others give to nodes.
const RESTRICTED: &str = "node-restriction.kubernetes.io";
/// What changes of an object when it is told to end.
const END: [&str; 6] = [
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "finalizers",
    "generation",
    "managedFields",
    "resourceVersion",
];
/// What a node says of a claim that it made larger.
const CLAIM_STATUS: [&str; 4] = ["allocatedResourceStatuses", "allocatedResources", "capacity", "conditions"];

/// A rule for one kind: of which node, what it tries, and what else there is.
type Rule = fn(&str, &Attempt<'_>, &View<'_>) -> Result<(), String>;

const RULES: [(&str, &str, Rule); 14] = [
    ("", "pods", pod),
    ("", "nodes", node),
    ("", "persistentvolumeclaims", claim),
    ("certificates.k8s.io", "podcertificaterequests", certificate::of_pod),
    ("coordination.k8s.io", "leases", lease),
    ("storage.k8s.io", "csinodes", csi_node),
    ("resource.k8s.io", "resourceslices", slice),
    ("compute.yunfan.io", "virtualmachines", ours::placed),
    ("storage.yunfan.io", "volumes", ours::placed),
    ("storage.yunfan.io", "volumesnapshots", ours::placed),
    ("network.yunfan.io", "ports", ours::port),
    ("network.yunfan.io", "networks", ours::shared),
    ("network.yunfan.io", "floatingips", ours::shared),
    ("image.yunfan.io", "images", ours::image),
];

pub(super) fn check(view: &View<'_>, attempt: &Attempt<'_>) -> Result<(), Refusal> {
    let Some(node) = identity::of(attempt.user).filter(|_| !attempt.system) else { return Ok(()) };
    let rule = RULES.iter().find(|(group, plural, _)| attempt.is(group, plural));
    let Some((_, _, rule)) = rule else { return Ok(()) };
    let checked = match node {
        "" => Err(format!("could not determine node from user {:?}", attempt.user.name)),
        node => rule(node, attempt, view),
    };
    checked.map_err(|why| attempt.forbidden(&why))
}

fn pod(node: &str, attempt: &Attempt<'_>, _: &View<'_>) -> Result<(), String> {
    let own = |pod: &Value| pod["spec"]["nodeName"] == node;
    match (attempt.subresource, attempt.operation, attempt.old) {
        // See `pods/mirror.rs`.
        ("", Operation::Create, _) => Ok(()),
        ("", _, Some(old)) if ends(attempt) => match own(old) {
            true => Ok(()),
            false => Err(format!("node {node:?} can only delete pods with spec.nodeName set to itself")),
        },
        ("", ..) => Err(format!(
            "unexpected operation \"UPDATE\", node {node:?} can only create and delete mirror pods"
        )),
        ("status", Operation::Update, Some(old)) => {
            pod_status(node, old, attempt.object).and_then(|()| match own(old) {
                true => Ok(()),
                false => Err(format!(
                    "node {node:?} can only update pod status for pods with spec.nodeName set to itself"
                )),
            })
        }
        (other, ..) => {
            Err(format!("unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed"))
        }
    }
}

fn pod_status(node: &str, old: &Value, new: &Value) -> Result<(), String> {
    if labels(old) != labels(new) {
        return Err(format!("node {node:?} cannot update labels through pod status"));
    }
    for (field, what) in [
        ("resourceClaimStatuses", "resource claim statues"),
        ("extendedResourceClaimStatus", "extended resource claim status"),
    ] {
        if old["status"][field] != new["status"][field] {
            return Err(format!("node {node:?} cannot update {what}"));
        }
    }
    Ok(())
}

fn node(node: &str, attempt: &Attempt<'_>, view: &View<'_>) -> Result<(), String> {
    let name = attempt.object["metadata"]["name"].as_str().unwrap_or_default();
    if name != node {
        return Err(format!("node {node:?} is not allowed to modify node {name:?}"));
    }
    let (new, old) = match attempt.operation {
        Operation::Delete => return Ok(()),
        Operation::Create => (&*attempt.object, &Value::Null),
        Operation::Update => (&*attempt.object, attempt.old.unwrap_or(&Value::Null)),
    };
    let aggregates = view.list("compute.yunfan.io", "hostaggregates", "");
    zone(node, new, old, aggregates.iter().map(|entry| &entry.value()["spec"]))?;
    let forbidden = forbidden_labels(new, old);
    let source = |node: &Value| node["spec"]["configSource"].clone();
    if attempt.operation == Operation::Create {
        if !source(new).is_null() {
            return Err("is not allowed to create pods with a non-nil configSource".to_owned());
        }
        return match forbidden.is_empty() {
            true => Ok(()),
            false => Err(format!("node {node:?} is not allowed to set the following labels: {forbidden}")),
        };
    }
    if !source(new).is_null() && source(new) != source(old) {
        return Err(format!(
            "node {node:?} is not allowed to update configSource to a new non-nil configSource"
        ));
    }
    for (what, pointer) in [("taints", "/spec/taints"), ("ownerReferences", "/metadata/ownerReferences")] {
        if items(old, pointer) != items(new, pointer) {
            return Err(format!("node {node:?} is not allowed to modify {what}"));
        }
    }
    match forbidden.is_empty() {
        true => Ok(()),
        false => Err(format!("is not allowed to modify labels: {forbidden}")),
    }
}

/// A node may say once in which zone it is, but not come into one that an operator has made of other nodes: what is placed by zones
/// trusts in that. (Kubernetes lets it say so at any time.)
fn zone<'a>(
    node: &str,
    new: &Value,
    old: &Value,
    aggregates: impl Iterator<Item = &'a Value>,
) -> Result<(), String> {
    let of = |object: &Value| labels(object).get(ZONE_LABEL).cloned();
    let (wanted, had) = (of(new), of(old));
    let Some(zone) = wanted.filter(|zone| had.as_ref() != Some(zone)) else {
        return match had.filter(|_| of(new).is_none()) {
            Some(_) => Err(format!("node {node:?} is not allowed to take the label {ZONE_LABEL} away")),
            None => Ok(()),
        };
    };
    if had.is_some() {
        return Err(format!("node {node:?} is not allowed to change the label {ZONE_LABEL}"));
    }
    let holds = |aggregate: &Value| items(aggregate, "/nodes").iter().any(|own| own == node);
    let mut of_zone =
        aggregates.filter(|aggregate| aggregate["metadata"]["availability_zone"] == zone).peekable();
    if of_zone.peek().is_none() || of_zone.any(holds) {
        return Ok(());
    }
    Err(format!("node {node:?} is not in a host aggregate of the zone {zone}"))
}

fn claim(node: &str, attempt: &Attempt<'_>, _: &View<'_>) -> Result<(), String> {
    let (Some(old), "status", Operation::Update) = (attempt.old, attempt.subresource, attempt.operation)
    else {
        return Err("may only update PVC status".to_owned());
    };
    let rest = |claim: &Value| {
        let mut claim = claim.clone();
        without(&mut claim, "metadata", &["managedFields", "resourceVersion"]);
        without(&mut claim, "status", &CLAIM_STATUS);
        claim
    };
    match rest(old) == rest(attempt.object) {
        true => Ok(()),
        false => Err(format!(
            "node {node:?} is not allowed to update fields other than status.quantity and status.conditions"
        )),
    }
}

fn lease(node: &str, attempt: &Attempt<'_>, _: &View<'_>) -> Result<(), String> {
    if attempt.namespace != LEASE_NAMESPACE {
        return Err(format!("can only access leases in the {LEASE_NAMESPACE:?} system namespace"));
    }
    named(node, attempt, "can only access node lease with the same name as the requesting node")
}

fn csi_node(node: &str, attempt: &Attempt<'_>, _: &View<'_>) -> Result<(), String> {
    named(node, attempt, "can only access CSINode with the same name as the requesting node")
}

fn named(node: &str, attempt: &Attempt<'_>, why: &str) -> Result<(), String> {
    if attempt.object["metadata"]["name"] == node { Ok(()) } else { Err(why.to_owned()) }
}

fn slice(node: &str, attempt: &Attempt<'_>, _: &View<'_>) -> Result<(), String> {
    let own = |slice: &Value| slice["spec"]["nodeName"] == node;
    let verb = match attempt.operation {
        Operation::Create => "create",
        Operation::Update => "update",
        Operation::Delete => "delete",
    };
    match own(attempt.object) && attempt.old.is_none_or(own) {
        true => Ok(()),
        false => Err(format!("can only {verb} ResourceSlice with the same NodeName as the requesting node")),
    }
}

/// Whether the write removes the object, or tells it to end and does nothing else.
fn ends(attempt: &Attempt<'_>) -> bool {
    let Some(old) = attempt.old.filter(|_| attempt.operation == Operation::Update) else {
        return attempt.operation == Operation::Delete;
    };
    let rest = |object: &Value| {
        let mut object = object.clone();
        without(&mut object, "metadata", &END);
        object
    };
    let finalizers = |object| items(object, "/metadata/finalizers");
    let (had, has) = (finalizers(old), finalizers(attempt.object));
    !attempt.object["metadata"]["deletionTimestamp"].is_null()
        && rest(old) == rest(attempt.object)
        && had.iter().all(|each| has.contains(each))
}

fn without(object: &mut Value, part: &str, fields: &[&str]) {
    if let Some(part) = object[part].as_object_mut() {
        part.retain(|key, _| !fields.contains(&key.as_str()));
    }
    // What is empty is as good as absent.
    if object[part].as_object().is_some_and(Map::is_empty) {
        object[part] = Value::Null;
    }
}

fn items<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn labels(object: &Value) -> Map<String, Value> {
    object["metadata"]["labels"].as_object().cloned().unwrap_or_default()
}

/// The labels that differ and are not the node's to give.
fn forbidden_labels(new: &Value, old: &Value) -> String {
    let (new, old) = (labels(new), labels(old));
    let keys: BTreeSet<&String> = new.keys().chain(old.keys()).collect();
    let found = keys.into_iter().filter(|key| new.get(*key) != old.get(*key) && !may_label(key));
    found.map(String::as_str).collect::<Vec<_>>().join(", ")
}

fn may_label(key: &str) -> bool {
    let prefix = key.split_once('/').map(|(prefix, _)| prefix).unwrap_or_default();
    let below =
        |domain: &str| prefix.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    if below(RESTRICTED) {
        return false;
    }
    let theirs = below("kubernetes.io") || below("k8s.io");
    !theirs || OWN_LABELS.contains(&key) || OWN_PREFIXES.into_iter().any(below)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_node_chooses_no_zone_of_others() {
        let node = |zone: Option<&str>| json!({"metadata": {"labels": {ZONE_LABEL: zone}}});
        let none = json!({"metadata": {}});
        let secure = json!({"nodes": ["n1"], "metadata": {"availability_zone": "secure"}});
        let try_on = |name, new: &Value, old: &Value| zone(name, new, old, [&secure].into_iter());
        assert!(try_on("n2", &node(Some("rack")), &Value::Null).is_ok(), "as it registers");
        assert!(try_on("n2", &node(Some("rack")), &node(Some("rack"))).is_ok());
        assert!(try_on("n2", &node(Some("secure")), &Value::Null).is_err());
        assert!(try_on("n2", &node(Some("secure")), &none).is_err());
        assert!(try_on("n1", &node(Some("secure")), &none).is_ok());
        assert!(try_on("n1", &node(Some("rack")), &node(Some("secure"))).is_err());
        assert!(try_on("n1", &none, &node(Some("secure"))).is_err());
    }

    #[test]
    fn labels_that_steer_others_are_not_a_nodes_own() {
        for key in
            ["a", "example.com/a", "kubernetes.io/os", "x.node.kubernetes.io/a", "kubelet.kubernetes.io/a"]
        {
            assert!(may_label(key), "{key}");
        }
        for key in ["kubernetes.io/a", "a.k8s.io/b", "node-role.kubernetes.io/control-plane"] {
            assert!(!may_label(key), "{key}");
        }
        assert!(
            !may_label("node-restriction.kubernetes.io/a")
                && !may_label("x.node-restriction.kubernetes.io/a")
        );
        assert!(may_label("notkubernetes.io/a"), "another domain that ends alike");
    }
}
