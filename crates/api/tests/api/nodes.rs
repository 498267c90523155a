//! What a node's own user may write, and what not.

use http::StatusCode;
use serde_json::{Value, json};
use yunfan_identity::UserInfo;

use crate::support::{Answer, Desk};

const PODS: &str = "/api/v1/namespaces/default/pods";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces";
const SLICES: &str = "/apis/resource.k8s.io/v1/resourceslices";
const MERGE: &str = "application/merge-patch+json";

/// Two nodes with a Pod each. Somebody gave all nodes all rights: what a node may write holds nevertheless.
async fn two_nodes() -> Desk {
    let desk = bare_nodes().await;
    let binding = json!({"metadata": {"name": "careless"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:nodes"}]});
    let bindings = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
    desk.call("POST", bindings, Some(binding)).await.expect(201);
    desk
}

/// A front desk with the nodes `n` and `m`, and a Pod on each, named as its node.
async fn bare_nodes() -> Desk {
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
    let source = json!({"configMap": {"name": "a", "namespace": "b", "kubeletConfigKey": "c"}});
    let why = "node \"n\" is not allowed to update configSource to a new non-nil configSource";
    refused(&desk, "PATCH", own, json!({"spec": {"configSource": source}}), why).await;
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
    let pod = json!({"metadata": {"name": "user"}, "spec": {"nodeName": "n",
        "containers": [{"name": "c", "image": "i"}],
        "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]}});
    desk.call("POST", PODS, Some(pod)).await.expect(201);
    let path = format!("{claims}/c/status");
    as_n(&desk, "PATCH", &path, json!({"status": {"capacity": {"storage": "1Gi"}}})).await.expect(200);
    let why = "node \"n\" is not allowed to update fields other than status.quantity and status.conditions";
    refused(&desk, "PATCH", &path, json!({"status": {"phase": "Lost"}}), why).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_publishes_its_own_devices_alone() {
    let desk = two_nodes().await;
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

#[tokio::test(flavor = "multi_thread")]
async fn a_node_asks_for_certificates_of_its_own_pods_alone() {
    const ASKED: &str = "/apis/certificates.k8s.io/v1/namespaces/default/podcertificaterequests";
    let desk = bare_nodes().await;
    let uid = async |path: &str| {
        let found = desk.call("GET", path, None).await.expect(200);
        found["metadata"]["uid"].as_str().unwrap_or_default().to_owned()
    };
    let node = uid("/api/v1/nodes/n").await;
    let account = uid("/api/v1/namespaces/default/serviceaccounts/default").await;
    let (own, other) = (uid(&format!("{PODS}/n")).await, uid(&format!("{PODS}/m")).await);
    let stub = request();
    let ask = |pod: &str, uid: &str| {
        json!({"metadata": {"name": pod}, "spec": {"signerName": "example.com/x", "podName": pod, "podUID": uid,
            "serviceAccountName": "default", "serviceAccountUID": account, "nodeName": "n", "nodeUID": node,
            "stubPKCS10Request": stub}})
    };
    for (change, why) in [
        (json!({"nodeName": "m"}), "which is not the requesting node \"n\""),
        (json!({"nodeUID": "1"}), &*format!("inconsistent with the running node ({node:?})")),
        (json!({"podName": "none"}), "pod \"none\" named in the PodCertificateRequest was not found"),
        (json!({"podUID": "1"}), &*format!("which differs from running pod {own:?}")),
        (json!({"serviceAccountName": "a"}), "that differs from running pod (\"default\")"),
        (
            json!({"serviceAccountUID": "1"}),
            &*format!("which differs from the running service account ({account:?})"),
        ),
    ] {
        let mut asked = ask("n", &own);
        for (key, value) in change.as_object().into_iter().flatten() {
            asked["spec"][key] = value.clone();
        }
        refused(&desk, "POST", ASKED, asked, why).await;
    }
    refused(&desk, "POST", ASKED, ask("m", &other), "it is not running on node \"n\"").await;
    as_n(&desk, "POST", ASKED, ask("n", &own)).await.expect(201);
    as_n(&desk, "GET", &format!("{ASKED}/n"), Value::Null).await.expect(200);
    as_n(&desk, "GET", &format!("{ASKED}?fieldSelector=spec.nodeName=n"), Value::Null).await.expect(200);
    let why = "can only list/watch podcertificaterequests with nodeName field selector";
    refused(&desk, "GET", ASKED, Value::Null, why).await;
    as_n(&desk, "GET", "/apis/certificates.k8s.io/v1/clustertrustbundles", Value::Null).await.expect(200);
}

/// An empty PKCS#10 request, as the API has it.
fn request() -> String {
    let key = rcgen::KeyPair::generate().expect("a key");
    let asked = rcgen::CertificateParams::default().serialize_request(&key).and_then(|asked| asked.pem());
    // What stands between the first line of PEM and the last is the request in base64.
    asked.expect("a request").lines().filter(|line| !line.starts_with('-')).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_reads_what_its_pods_name_and_nothing_else() {
    let desk = bare_nodes().await;
    for (plural, name) in [("secrets", "used"), ("secrets", "other"), ("configmaps", "used")] {
        let object = json!({"metadata": {"name": name}});
        desk.call("POST", &format!("/api/v1/namespaces/default/{plural}"), Some(object)).await.expect(201);
    }
    let get = async |path: &str| as_n(&desk, "GET", &format!("/api/v1/{path}"), Value::Null).await;
    let unrelated = "no relationship found between node 'n' and this object";
    // Nothing names them yet; of what is not there, a node does not even learn that.
    for path in ["secrets/used", "configmaps/used", "secrets/absent"] {
        let why = get(&format!("namespaces/default/{path}")).await.refused(403);
        assert!(why.ends_with(unrelated), "{path}: {why}");
    }
    let pod = |name: &str, node: &str, secret: &str| {
        json!({"metadata": {"name": name}, "spec": {"nodeName": node,
            "containers": [{"name": "c", "image": "i", "envFrom": [{"configMapRef": {"name": "used"}}]}],
            "volumes": [{"name": "v", "secret": {"secretName": secret}}]}})
    };
    desk.call("POST", PODS, Some(pod("one", "n", "used"))).await.expect(201);
    desk.call("POST", PODS, Some(pod("two", "m", "other"))).await.expect(201);
    get("namespaces/default/secrets/used").await.expect(200);
    get("namespaces/default/configmaps/used").await.expect(200);
    get("namespaces/default/secrets?fieldSelector=metadata.name=used").await.expect(200);
    for path in [
        "namespaces/default/secrets/other",
        "namespaces/default/secrets",
        "secrets",
        "namespaces/default/pods/two",
    ] {
        get(path).await.refused(403);
    }
    let own = get("pods?fieldSelector=spec.nodeName=n").await.expect(200);
    assert_eq!(own["items"].as_array().map(Vec::len), Some(2));
    get("namespaces/default/pods/one").await.expect(200);
    for path in ["pods", "pods?fieldSelector=spec.nodeName=m", "pods?fieldSelector=spec.nodeName!=m"] {
        get(path).await.refused(403);
    }
    // With the Pod goes what it named.
    desk.call("DELETE", &format!("{PODS}/one"), Some(json!({"gracePeriodSeconds": 0}))).await.expect(200);
    assert!(get("namespaces/default/secrets/used").await.refused(403).ends_with(unrelated));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_reads_the_claims_of_its_pods_and_their_volumes_alone() {
    let desk = bare_nodes().await;
    let (claims, volumes) = ("namespaces/default/persistentvolumeclaims", "persistentvolumes");
    for name in ["used", "other", "p-own"] {
        let size = json!({"storage": "1Gi"});
        let claim = json!({"metadata": {"name": name}, "spec": {"accessModes": ["ReadWriteOnce"],
            "storageClassName": "", "resources": {"requests": size}}});
        desk.call("POST", &format!("/api/v1/{claims}"), Some(claim)).await.expect(201);
        let volume = json!({"metadata": {"name": name}, "spec": {"accessModes": ["ReadWriteOnce"],
            "capacity": size, "hostPath": {"path": "/x"}, "claimRef": {"namespace": "default", "name": name}}});
        desk.call("POST", &format!("/api/v1/{volumes}"), Some(volume)).await.expect(201);
    }
    let get = async |path: &str| as_n(&desk, "GET", &format!("/api/v1/{path}"), Value::Null).await;
    let unrelated = "no relationship found between node 'n' and this object";
    for name in ["used", "other", "p-own", "absent"] {
        for kind in [claims, volumes] {
            let why = get(&format!("{kind}/{name}")).await.refused(403);
            assert!(why.ends_with(unrelated), "{kind}/{name}: {why}");
        }
    }
    let template =
        json!({"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    let pod = |name: &str, node: &str, claim: &str| {
        json!({"metadata": {"name": name}, "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}],
            "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}},
                {"name": "own", "ephemeral": {"volumeClaimTemplate": template}}]}})
    };
    desk.call("POST", PODS, Some(pod("p", "n", "used"))).await.expect(201);
    desk.call("POST", PODS, Some(pod("q", "m", "other"))).await.expect(201);
    for name in ["used", "p-own"] {
        for kind in [claims, volumes] {
            get(&format!("{kind}/{name}")).await.expect(200);
            let found = get(&format!("{kind}?fieldSelector=metadata.name={name}")).await.expect(200);
            assert_eq!(found["items"][0]["metadata"]["name"], name);
        }
    }
    for path in ["other", "", "?fieldSelector=metadata.name=other"] {
        for kind in [claims, volumes] {
            let slash = if path.is_empty() || path.starts_with('?') { "" } else { "/" };
            get(&format!("{kind}{slash}{path}")).await.refused(403);
        }
    }
    get("persistentvolumeclaims").await.refused(403);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_reads_the_machines_and_volumes_that_are_on_it_alone() {
    let desk = bare_nodes().await;
    let groups = ["compute.yunfan.io/v1", "storage.yunfan.io/v1"];
    let [machines, volumes] = groups.map(|group| format!("/apis/{group}/namespaces/default"));
    let (machines, volumes) = (format!("{machines}/virtualmachines"), format!("{volumes}/volumes"));
    let flavor = json!({"metadata": {"name": "f"}, "spec": {"vcpus": 1, "memoryMib": 64}});
    desk.call("POST", "/apis/compute.yunfan.io/v1/flavors", Some(flavor)).await.expect(201);
    for name in ["n", "m"] {
        let volume = json!({"metadata": {"name": name}, "spec": {"sizeGib": 1, "nodeName": name}});
        desk.call("POST", &volumes, Some(volume)).await.expect(201);
        let spec = json!({"flavor": "f", "image": "i", "nodeName": name, "userData": "c2VjcmV0"});
        let machine = json!({"metadata": {"name": name}, "spec": spec});
        desk.call("POST", &machines, Some(machine)).await.expect(201);
    }
    let get = async |path: &str| as_n(&desk, "GET", path, Value::Null).await;
    for (kind, group) in [(&machines, groups[0]), (&volumes, groups[1])] {
        let plural = kind.rsplit('/').next().unwrap_or_default();
        let everywhere = format!("/apis/{group}/{plural}");
        for scope in [kind, &everywhere] {
            let own = get(&format!("{scope}?fieldSelector=spec.nodeName=n")).await.expect(200);
            let names: Vec<_> =
                own["items"].as_array().into_iter().flatten().map(|one| &one["metadata"]["name"]).collect();
            assert_eq!(names, ["n"], "{scope}");
            for all in ["", "?fieldSelector=spec.nodeName=m", "?fieldSelector=spec.nodeName!=m"] {
                let why = get(&format!("{scope}{all}")).await.refused(403);
                let wants = format!("can only list/watch {plural} with spec.nodeName field selector");
                assert!(why.ends_with(&wants), "{scope}{all}: {why}");
            }
        }
        get(&format!("{kind}/n")).await.expect(200);
        get(&format!("{kind}/m")).await.refused(403);
        get(&format!("{kind}/m/status")).await.refused(403);
    }
    // It stays where it is: its disk is there.
    let moved = json!({"spec": {"nodeName": "m"}});
    desk.patch("merge-patch+json", &format!("{machines}/n"), moved.to_string()).await.refused(422);
}

#[tokio::test(flavor = "multi_thread")]
async fn reviews_know_of_nodes_too() {
    let desk = bare_nodes().await;
    let reviews = "/apis/authorization.k8s.io/v1";
    let allowed = async |attributes: Value| {
        let spec =
            json!({"user": "system:node:n", "groups": ["system:nodes"], "resourceAttributes": attributes});
        let path = format!("{reviews}/subjectaccessreviews");
        let answer = desk.call("POST", &path, Some(json!({"spec": spec}))).await.expect(201);
        answer["status"]["allowed"] == true
    };
    let pods = |selector: Value| json!({"verb": "list", "resource": "pods", "fieldSelector": selector});
    assert!(!allowed(json!({"verb": "list", "resource": "pods"})).await);
    assert!(allowed(pods(json!({"rawSelector": "spec.nodeName=n"}))).await);
    let one = |values: Value| json!({"requirements": [{"key": "spec.nodeName", "operator": "In", "values": values}]});
    assert!(allowed(pods(one(json!(["n"])))).await);
    assert!(!allowed(pods(one(json!(["n", "m"])))).await);
    let asked = json!({"spec": {"namespace": "default"}});
    let rules = as_n(&desk, "POST", &format!("{reviews}/selfsubjectrulesreviews"), asked).await.expect(201);
    assert_eq!(rules["status"]["incomplete"], true);
    assert_eq!(rules["status"]["evaluationError"], "node authorizer does not support user rule resolution");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_writes_what_is_on_it_of_our_own_kinds() {
    let desk = two_nodes().await;
    let network = "/apis/network.yunfan.io/v1/namespaces/default";
    let path = format!("{network}/networks");
    desk.call("POST", &path, Some(json!({"metadata": {"name": "lan"}, "spec": {}}))).await.expect(201);
    let lan = format!("{path}/lan");
    let nodes = |nodes: Value| json!({"status": {"nodes": nodes}});
    as_n(&desk, "PATCH", &format!("{lan}/status"), nodes(json!(["n"]))).await.expect(200);
    desk.patch("merge-patch+json", &format!("{lan}/status"), nodes(json!(["n", "m"])).to_string())
        .await
        .expect(200);
    let why = "node \"n\" can only add itself to status.nodes, or take itself away";
    refused(&desk, "PATCH", &format!("{lan}/status"), nodes(json!(["n"])), why).await;
    refused(&desk, "PATCH", &lan, json!({"metadata": {"labels": {"a": "b"}}}), why).await;
    as_n(&desk, "PATCH", &format!("{lan}/status"), nodes(json!(["m"]))).await.expect(200);

    let subnet = json!({"metadata": {"name": "lan"}, "spec": {"network": "lan", "cidr": "10.9.0.0/24"}});
    desk.call("POST", &format!("{network}/subnets"), Some(subnet)).await.expect(201);
    for name in ["n", "m"] {
        let pod = desk.call("GET", &format!("{PODS}/{name}"), None).await.expect(200);
        let holder = json!({"kind": "Pod", "name": name, "uid": pod["metadata"]["uid"]});
        let port = json!({"metadata": {"name": name}, "spec": {"network": "lan", "holder": holder}});
        desk.call("POST", &format!("{network}/ports"), Some(port)).await.expect(201);
    }
    let active = |node: &str| json!({"status": {"phase": "Active", "node": node}});
    let status = |name: &str| format!("{network}/ports/{name}/status");
    let why = "node \"n\" can only update the status of ports that workloads on it hold";
    refused(&desk, "PATCH", &status("n"), active("m"), why).await;
    refused(&desk, "PATCH", &status("m"), active("n"), why).await;
    refused(&desk, "PATCH", &format!("{network}/ports/n"), json!({"spec": {"hostname": "x"}}), why).await;
    as_n(&desk, "PATCH", &status("n"), active("n")).await.expect(200);
    // The Pod is gone before the port is unplugged.
    desk.call("DELETE", &format!("{PODS}/n"), Some(json!({"gracePeriodSeconds": 0}))).await.expect(200);
    as_n(&desk, "PATCH", &status("n"), json!({"status": {"phase": "Down", "node": null}})).await.expect(200);

    let volumes = "/apis/storage.yunfan.io/v1/namespaces/default/volumes";
    for name in ["n", "m"] {
        let volume = json!({"metadata": {"name": name}, "spec": {"sizeGib": 1, "nodeName": name}});
        desk.call("POST", volumes, Some(volume)).await.expect(201);
    }
    let change = json!({"metadata": {"finalizers": ["storage.yunfan.io/volume"]}});
    as_n(&desk, "PATCH", &format!("{volumes}/n"), change.clone()).await.expect(200);
    let why = "node \"n\" can only update volumes with spec.nodeName set to itself";
    refused(&desk, "PATCH", &format!("{volumes}/m"), change, why).await;
    refused(&desk, "PATCH", &format!("{volumes}/m/status"), json!({"status": {"phase": "Available"}}), why)
        .await;
}
