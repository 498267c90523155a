//! How objects of all kinds are read, and what counts as a change of them.

use serde_json::{Value, json};

use crate::Object;
use crate::builtin::tests::{changed, created, from_yaml, kind};

const DEPLOYMENT: &str = "{apiVersion: apps/v1, kind: Deployment, metadata: {name: x}, spec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: 'i:1'}]}}}}";

#[test]
fn annotations_of_a_deployment_count_as_a_change() {
    let made = created(&kind("Deployment"), from_yaml(DEPLOYMENT)).unwrap();
    let annotated = changed("Deployment", &made, json!({"metadata": {"annotations": {"a": "b"}}})).0;
    assert_eq!(annotated["metadata"]["generation"], 2);
    let both = json!({"metadata": {"annotations": {"a": "c"}}, "spec": {"replicas": 3}});
    assert_eq!(changed("Deployment", &annotated, both).0["metadata"]["generation"], 3);
    let labelled = changed("Deployment", &annotated, json!({"metadata": {"labels": {"a": "b"}}})).0;
    assert_eq!(labelled["metadata"]["generation"], 2);
}

#[test]
fn finalizers_of_a_changed_object_are_known_or_somebodys() {
    let made = created(&kind("Deployment"), from_yaml(DEPLOYMENT)).unwrap();
    let why = "metadata.finalizers[0]: Invalid value: \"odd\": name is neither a standard finalizer name nor is it fully qualified";
    let with =
        |finalizers: Value| changed("Deployment", &made, json!({"metadata": {"finalizers": finalizers}})).1;
    assert!(with(json!(["odd"])).ends_with(why), "{}", with(json!(["odd"])));
    assert_eq!(with(json!(["a.b/odd", "orphan"])), "");
    // What was stored when less was asked stands in nobody's way, and can be taken away.
    let mut held = made.clone();
    held["metadata"]["finalizers"] = json!(["odd", "a.b/c"]);
    let of_held = |change: Value| changed("Deployment", &held, json!({"metadata": change})).1;
    for change in [json!({"labels": {"a": "b"}}), json!({"finalizers": ["odd"]}), json!({"finalizers": []})] {
        assert_eq!(of_held(change.clone()), "", "{change}");
    }
    let added = of_held(json!({"finalizers": ["odd", "a.b/c", "a.b/d"]}));
    assert!(added.ends_with(why), "{added}");
}

#[test]
fn nulls_among_others_are_empty_values() {
    let policy = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "p"},
        "spec": {"podSelector": {}, "policyTypes": [null]}});
    let refused = created(&kind("NetworkPolicy"), policy).unwrap_err();
    assert!(refused.message().contains("spec.policyTypes[0]: Unsupported value: \"\""), "{refused}");
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"},
        "spec": {"hard": {"pods": null}}});
    let made = created(&kind("ResourceQuota"), quota).unwrap();
    assert_eq!(made["spec"]["hard"], json!({"pods": "0"}));
    let class = json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "c"},
        "provisioner": "p", "allowedTopologies": [null]});
    let refused = created(&kind("StorageClass"), class).unwrap_err();
    assert!(
        refused.message().contains("allowedTopologies[0].matchLabelExpressions: Duplicate value"),
        "{refused}"
    );
}

#[test]
fn times_are_written_in_utc_and_as_fine_as_their_type() {
    let shaped = |kind_name: &str, mut object: Object| {
        kind(kind_name).shape(&mut object).unwrap();
        object
    };
    let taint =
        json!({"key": "k", "effect": "NoExecute", "timeAdded": "2024-01-01T02:00:00.987654321+01:00"});
    let node =
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}, "spec": {"taints": [taint]}});
    assert_eq!(shaped("Node", node)["spec"]["taints"][0]["timeAdded"], "2024-01-01T01:00:00Z");
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"},
        "spec": {"renewTime": "2024-01-01T00:00:00.987654Z"}});
    assert_eq!(shaped("Lease", lease)["spec"]["renewTime"], "2024-01-01T00:00:00.987654Z");
}
