//! What a node's own user may write, and what not.

use http::StatusCode;
use serde_json::{Value, json};
use yunfan_identity::UserInfo;

use crate::support::{Answer, Desk};

const PODS: &str = "/api/v1/namespaces/default/pods";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces";
const SLICES: &str = "/apis/resource.k8s.io/v1/resourceslices";
const MERGE: &str = "application/merge-patch+json";

/// A front desk with the nodes `n` and `m`, and a Pod on each, named as its node.
async fn two_nodes() -> Desk {
    let desk = Desk::new().await;
    for name in ["n", "m"] {
        let node = json!({"metadata": {"name": name, "labels": {"node-restriction.kubernetes.io/a": "b"}}});
        desk.call("POST", "/api/v1/nodes", Some(node)).await.expect(201);
        let pod = json!({"metadata": {"name": name, "labels": {"a": "b"}},
            "spec": {"nodeName": name, "containers": [{"name": "c", "image": "i"}]}});
        desk.call("POST", PODS, Some(pod)).await.expect(201);
    }
    desk
}

async fn as_n(desk: &Desk, method: &str, path: &str, body: Value) -> Answer {
    let user = UserInfo::authenticated("system:node:n", ["system:nodes"]);
    let kind = if method == "PATCH" { MERGE } else { "application/json" };
    desk.send(Some(user), method, path, kind, &[], body.to_string()).await
}

async fn refused(desk: &Desk, method: &str, path: &str, body: Value, why: &str) {
    let said = as_n(desk, method, path, body).await.refused(403);
    assert!(said.ends_with(why), "{method} {path}: {said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_tells_of_its_own_pods_and_ends_them() {
    let desk = two_nodes().await;
    let status = |phase: &str| json!({"status": {"phase": phase}});
    as_n(&desk, "PATCH", &format!("{PODS}/n/status"), status("Running")).await.expect(200);
    let why = "node \"n\" can only update pod status for pods with spec.nodeName set to itself";
    refused(&desk, "PATCH", &format!("{PODS}/m/status"), status("Running"), why).await;
    let claims = json!({"status": {"resourceClaimStatuses": [{"name": "x", "resourceClaimName": "y"}]}});
    let why = "node \"n\" cannot update resource claim statues";
    refused(&desk, "PATCH", &format!("{PODS}/n/status"), claims, why).await;

    let why = "node \"n\" can only create and delete mirror pods";
    let change = json!({"metadata": {"labels": {"a": "c"}}});
    refused(&desk, "PATCH", &format!("{PODS}/n"), change.clone(), why).await;
    refused(&desk, "PATCH", &format!("{PODS}/m"), change, why).await;

    let why = "node \"n\" can only delete pods with spec.nodeName set to itself";
    for grace in [0, 5] {
        let options = json!({"gracePeriodSeconds": grace});
        refused(&desk, "DELETE", &format!("{PODS}/m"), options, why).await;
    }
    // Told to end, then to end sooner, and then gone.
    for grace in [30, 5, 0] {
        as_n(&desk, "DELETE", &format!("{PODS}/n"), json!({"gracePeriodSeconds": grace})).await.expect(200);
    }
    assert_eq!(desk.call("GET", &format!("{PODS}/n"), None).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_evicts_its_own_pods_alone() {
    let desk = two_nodes().await;
    let eviction =
        |pod: &str| json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}});
    let why = "node n can only evict pods with spec.nodeName set to itself";
    refused(&desk, "POST", &format!("{PODS}/m/eviction"), eviction("m"), why).await;
    as_n(&desk, "POST", &format!("{PODS}/n/eviction"), eviction("n")).await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_changes_itself_but_not_what_steers_others_to_it() {
    let desk = two_nodes().await;
    let (own, other) = ("/api/v1/nodes/n", "/api/v1/nodes/m");
    as_n(
        &desk,
        "PATCH",
        own,
        json!({"metadata": {"labels": {"example.com/a": "b", "kubernetes.io/os": "linux"}}}),
    )
    .await
    .expect(200);
    for path in [other.to_owned(), format!("{other}/status")] {
        let change = json!({"metadata": {"annotations": {"a": "b"}}, "status": {"phase": "Running"}});
        refused(&desk, "PATCH", &path, change, "node \"n\" is not allowed to modify node \"m\"").await;
    }
    refused(&desk, "DELETE", other, json!({}), "node \"n\" is not allowed to modify node \"m\"").await;
    refused(
        &desk,
        "PATCH",
        own,
        json!({"spec": {"taints": []}}),
        "node \"n\" is not allowed to modify taints",
    )
    .await;
    let owners = json!([{"apiVersion": "v1", "kind": "Node", "name": "m", "uid": "u"}]);
    let why = "node \"n\" is not allowed to modify ownerReferences";
    refused(&desk, "PATCH", own, json!({"metadata": {"ownerReferences": owners}}), why).await;
    for value in [json!("c"), Value::Null] {
        let labels = json!({"node-restriction.kubernetes.io/a": value, "node-role.kubernetes.io/master": ""});
        let why = "is not allowed to modify labels: node-restriction.kubernetes.io/a, node-role.kubernetes.io/master";
        refused(&desk, "PATCH", own, json!({"metadata": {"labels": labels}}), why).await;
    }
    as_n(&desk, "DELETE", own, json!({})).await.expect(200);
    let labelled = json!({"metadata": {"name": "n", "labels": {"kubernetes.io/a": "b"}}});
    let why = "node \"n\" is not allowed to set the following labels: kubernetes.io/a";
    refused(&desk, "POST", "/api/v1/nodes", labelled, why).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nodes_lease_bears_its_name() {
    let desk = two_nodes().await;
    let lease = |name: &str| json!({"metadata": {"name": name}, "spec": {"leaseDurationSeconds": 40}});
    let why = "can only access leases in the \"kube-node-lease\" system namespace";
    refused(&desk, "POST", &format!("{LEASES}/default/leases"), lease("n"), why).await;
    let why = "can only access node lease with the same name as the requesting node";
    let leases = format!("{LEASES}/kube-node-lease/leases");
    refused(&desk, "POST", &leases, lease("m"), why).await;
    as_n(&desk, "POST", &leases, lease("n")).await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_says_of_a_claim_how_large_it_is() {
    let desk = two_nodes().await;
    let claims = "/api/v1/namespaces/default/persistentvolumeclaims";
    let claim = json!({"metadata": {"name": "c"}, "spec": {"accessModes": ["ReadWriteOnce"],
        "storageClassName": "", "resources": {"requests": {"storage": "1Gi"}}}});
    desk.call("POST", claims, Some(claim)).await.expect(201);
    let path = format!("{claims}/c/status");
    as_n(&desk, "PATCH", &path, json!({"status": {"capacity": {"storage": "1Gi"}}})).await.expect(200);
    let why = "node \"n\" is not allowed to update fields other than status.quantity and status.conditions";
    refused(&desk, "PATCH", &path, json!({"status": {"phase": "Lost"}}), why).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_may_publish_devices_publishes_its_own() {
    let desk = two_nodes().await;
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let rule =
        json!({"apiGroups": ["resource.k8s.io", "storage.k8s.io"], "resources": ["*"], "verbs": ["*"]});
    let role = json!({"metadata": {"name": "devices"}, "rules": [rule]});
    desk.call("POST", &format!("{rbac}/clusterroles"), Some(role)).await.expect(201);
    let binding = json!({"metadata": {"name": "devices"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "devices"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:nodes"}]});
    desk.call("POST", &format!("{rbac}/clusterrolebindings"), Some(binding)).await.expect(201);

    let slice = |name: &str, node: &str| {
        json!({"metadata": {"name": name}, "spec": {"driver": "d.example", "nodeName": node,
            "pool": {"name": node, "generation": 1, "resourceSliceCount": 1}, "devices": []}})
    };
    let why = "can only create ResourceSlice with the same NodeName as the requesting node";
    refused(&desk, "POST", SLICES, slice("a", "m"), why).await;
    as_n(&desk, "POST", SLICES, slice("a", "n")).await.expect(201);
    desk.call("POST", SLICES, Some(slice("b", "m"))).await.expect(201);
    let why = "can only delete ResourceSlice with the same NodeName as the requesting node";
    refused(&desk, "DELETE", &format!("{SLICES}/b"), json!({}), why).await;
    as_n(&desk, "DELETE", &format!("{SLICES}/a"), json!({})).await.expect(200);

    let csi = |name: &str| json!({"metadata": {"name": name}, "spec": {"drivers": []}});
    let nodes = "/apis/storage.k8s.io/v1/csinodes";
    let why = "can only access CSINode with the same name as the requesting node";
    refused(&desk, "POST", nodes, csi("m"), why).await;
    as_n(&desk, "POST", nodes, csi("n")).await.expect(201);
}
