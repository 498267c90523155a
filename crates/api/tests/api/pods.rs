//! What Pods are given by classes and accounts, and what these refuse.

use serde_json::{Value, json};
use yunfan_identity::UserInfo;

use crate::support::Desk;

const PODS: &str = "/api/v1/namespaces/default/pods";
const PRIORITIES: &str = "/apis/scheduling.k8s.io/v1/priorityclasses";

fn pod(name: &str, mut spec: Value) -> Option<Value> {
    spec["containers"] = json!([{"name": "c", "image": "i:1"}]);
    Some(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_has_the_priority_of_its_class() {
    let desk = Desk::new().await;
    let class = |name: &str, value: i64, global: bool| {
        let metadata = json!({"name": name});
        Some(
            json!({"metadata": metadata, "value": value, "globalDefault": global, "preemptionPolicy": "Never"}),
        )
    };
    let made = desk.call("POST", PODS, pod("a", json!({}))).await.expect(201);
    assert_eq!((&made["spec"]["priority"], &made["spec"]["priorityClassName"]), (&json!(0), &Value::Null));
    assert_eq!(made["spec"]["preemptionPolicy"], "PreemptLowerPriority");
    let refused = desk.call("POST", PODS, pod("b", json!({"priorityClassName": "high"}))).await.refused(403);
    assert_eq!(refused, r#"pods "b" is forbidden: no PriorityClass with name high was found"#);
    desk.call("POST", PRIORITIES, class("high", 1000, false)).await.expect(201);
    let made = desk.call("POST", PODS, pod("b", json!({"priorityClassName": "high"}))).await.expect(201);
    assert_eq!(
        (&made["spec"]["priority"], &made["spec"]["preemptionPolicy"]),
        (&json!(1000), &json!("Never"))
    );
    desk.call("POST", PRIORITIES, class("usual", 10, true)).await.expect(201);
    let refused = desk.call("POST", PRIORITIES, class("other", 20, true)).await.refused(403);
    assert_eq!(
        refused,
        r#"priorityclasses.scheduling.k8s.io "other" is forbidden: PriorityClass usual is already marked as default. Only one default can exist"#
    );
    let body = r#"{"globalDefault":true}"#;
    desk.patch("merge-patch+json", &format!("{PRIORITIES}/usual"), body).await.expect(200);
    desk.patch("merge-patch+json", &format!("{PRIORITIES}/high"), body).await.refused(403);
    let made = desk.call("POST", PODS, pod("c", json!({}))).await.expect(201);
    assert_eq!(
        (&made["spec"]["priority"], &made["spec"]["priorityClassName"]),
        (&json!(10), &json!("usual"))
    );
    let refused = desk.call("POST", PODS, pod("d", json!({"priority": 5}))).await.refused(403);
    assert!(
        refused.contains("the integer value of priority (5) must not be provided in pod spec"),
        "{refused}"
    );
    // Others that a cloud has from its start.
    let critical = json!({"priorityClassName": "system-node-critical"});
    let made = desk.call("POST", PODS, pod("e", critical)).await.expect(201);
    assert_eq!(made["spec"]["priority"], 2_000_001_000);
    // A tenant's Pods have those of others leave for them only where a quota allows it.
    let labels = r#"{"metadata":{"labels":{"iam.yunfan.io/project":"demo","pod-security.kubernetes.io/enforce":"baseline"}}}"#;
    desk.patch("merge-patch+json", "/api/v1/namespaces/default", labels).await.expect(200);
    let critical = || pod("f", json!({"priorityClassName": "system-node-critical"}));
    let refused = desk.call("POST", PODS, critical()).await.refused(403);
    assert_eq!(
        refused,
        r#"pods "f" is forbidden: insufficient quota to match these scopes: [{PriorityClass In [system-node-critical]}]"#
    );
    let scope = json!({"scopeName": "PriorityClass", "operator": "In", "values": ["system-node-critical"]});
    let quota = json!({"metadata": {"name": "critical"}, "spec": {"hard": {"pods": "2"}, "scopeSelector": {"matchExpressions": [scope]}}});
    desk.call("POST", "/api/v1/namespaces/default/resourcequotas", Some(quota)).await.expect(201);
    desk.call("POST", PODS, critical()).await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_has_the_overhead_and_the_nodes_of_its_runtime() {
    let desk = Desk::new().await;
    let named = || json!({"runtimeClassName": "vm"});
    let refused = desk.call("POST", PODS, pod("a", named())).await.refused(403);
    assert_eq!(refused, r#"pods "a" is forbidden: pod rejected: RuntimeClass "vm" not found"#);
    let class = json!({"metadata": {"name": "vm"}, "handler": "vm", "overhead": {"podFixed": {"memory": "64Mi"}},
        "scheduling": {"nodeSelector": {"kvm": "yes"}, "tolerations": [{"key": "kvm", "operator": "Exists"}]}});
    desk.call("POST", "/apis/node.k8s.io/v1/runtimeclasses", Some(class)).await.expect(201);
    let made = desk.call("POST", PODS, pod("a", named())).await.expect(201);
    assert_eq!(made["spec"]["overhead"], json!({"memory": "64Mi"}));
    assert_eq!(made["spec"]["nodeSelector"], json!({"kvm": "yes"}));
    assert_eq!(made["spec"]["tolerations"].as_array().map(Vec::len), Some(3));
    let mut other = named();
    other["overhead"] = json!({"memory": "1Mi"});
    let refused = desk.call("POST", PODS, pod("b", other)).await.refused(403);
    assert!(refused.ends_with("Pod's Overhead doesn't match RuntimeClass's defined Overhead"), "{refused}");
    let refused = desk.call("POST", PODS, pod("b", json!({"overhead": {"cpu": "1"}}))).await.refused(403);
    assert!(
        refused.ends_with("Pod Overhead set without corresponding RuntimeClass defined Overhead"),
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_node_waits_until_it_is_ready() {
    let desk = Desk::new().await;
    let made = desk.call("POST", "/api/v1/nodes", Some(json!({"metadata": {"name": "n"}}))).await.expect(201);
    let taint = json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]);
    assert_eq!(made["spec"]["taints"], taint);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_runs_as_an_account_that_is_there() {
    let desk = Desk::new().await;
    let made = desk.call("POST", PODS, pod("a", json!({}))).await.expect(201);
    let spec = &made["spec"];
    assert_eq!(
        (&spec["serviceAccountName"], &spec["serviceAccount"]),
        (&json!("default"), &json!("default"))
    );
    let mount = &spec["containers"][0]["volumeMounts"][0];
    assert_eq!(mount["mountPath"], "/var/run/secrets/kubernetes.io/serviceaccount");
    assert_eq!((&mount["name"], &mount["readOnly"]), (&spec["volumes"][0]["name"], &json!(true)));
    let sources = &spec["volumes"][0]["projected"]["sources"];
    assert_eq!(sources[0]["serviceAccountToken"], json!({"path": "token", "expirationSeconds": 3607}));
    assert_eq!(sources[1]["configMap"]["name"], "kube-root-ca.crt");

    let robot = json!({"serviceAccountName": "robot"});
    let refused = desk.call("POST", PODS, pod("b", robot.clone())).await.refused(403);
    assert_eq!(
        refused,
        r#"pods "b" is forbidden: error looking up service account default/robot: serviceaccount "robot" not found"#
    );
    let account = json!({"metadata": {"name": "robot"}, "automountServiceAccountToken": false,
        "imagePullSecrets": [{"name": "registry"}]});
    desk.call("POST", "/api/v1/namespaces/default/serviceaccounts", Some(account)).await.expect(201);
    let made = desk.call("POST", PODS, pod("b", robot.clone())).await.expect(201);
    assert_eq!(
        (&made["spec"]["volumes"], &made["spec"]["imagePullSecrets"][0]["name"]),
        (&Value::Null, &json!("registry"))
    );
    // The Pod's own word counts more than the account's.
    let mut asks = robot;
    asks["automountServiceAccountToken"] = json!(true);
    asks["imagePullSecrets"] = json!([{"name": "own"}]);
    let made = desk.call("POST", PODS, pod("c", asks)).await.expect(201);
    assert_eq!(made["spec"]["volumes"].as_array().map(Vec::len), Some(1));
    assert_eq!(made["spec"]["imagePullSecrets"], json!([{"name": "own"}]));
    let mirror = json!({"apiVersion": "v1", "kind": "Pod", "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]},
        "metadata": {"name": "m", "annotations": {"kubernetes.io/config.mirror": "x"}}});
    let made = desk.call("POST", PODS, Some(mirror)).await.expect(201);
    assert_eq!((&made["spec"]["volumes"], &made["spec"]["serviceAccountName"]), (&Value::Null, &Value::Null));
}

#[tokio::test(flavor = "multi_thread")]
async fn bundles_and_certificates_of_volumes_are_kept_and_checked() {
    let desk = Desk::new().await;
    let sources = json!([
        {"clusterTrustBundle": {"name": "x", "path": "p"}},
        {"clusterTrustBundle": {"signerName": "a.b/c", "labelSelector": {"matchLabels": {"l": "v"}}, "path": "q", "optional": true}},
        {"podCertificate": {"signerName": "a.b/c", "keyType": "ED25519", "credentialBundlePath": "b"}}]);
    let volumes = |sources: &Value| json!({"volumes": [{"name": "v", "projected": {"sources": sources}}]});
    let made = desk.call("POST", PODS, pod("a", volumes(&sources))).await.expect(201);
    assert_eq!(made["spec"]["volumes"][0]["projected"]["sources"], sources);
    let both = json!([{"clusterTrustBundle": {"name": "x", "signerName": "a.b/c", "path": "p"}}]);
    let refused = desk.call("POST", PODS, pod("b", volumes(&both))).await.refused(422);
    assert!(refused.contains("only one of name and signerName may be used"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_account_of_a_new_namespace_is_awaited() {
    let desk = Desk::new().await;
    let space = json!({"metadata": {"name": "fresh"}});
    desk.call("POST", "/api/v1/namespaces", Some(space)).await.expect(201);
    let pods = "/api/v1/namespaces/fresh/pods";
    let refused = desk.call("POST", pods, pod("a", json!({}))).await.refused(403);
    assert!(
        refused.ends_with(r#"service account fresh/default: serviceaccount "default" not found"#),
        "{refused}"
    );
    let (answer, ()) =
        tokio::join!(desk.call("POST", pods, pod("a", json!({}))), desk.account("fresh", "default"));
    answer.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_makes_no_pods_but_mirrors_of_its_own() {
    let desk = Desk::new().await;
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}});
    let node = desk.call("POST", "/api/v1/nodes", Some(node)).await.expect(201);
    let mirror = |node: &str, uid: &Value| {
        json!({"apiVersion": "v1", "kind": "Pod", "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]},
            "metadata": {"name": "m", "annotations": {"kubernetes.io/config.mirror": "x"}, "ownerReferences":
                [{"apiVersion": "v1", "kind": "Node", "name": "n", "uid": uid, "controller": true}]}})
        .to_string()
    };
    let send = async |body: String| {
        let user = UserInfo::authenticated("system:node:n", ["system:nodes"]);
        desk.send(Some(user), "POST", PODS, "application/json", &[], body).await
    };
    let uid = &node["metadata"]["uid"];
    let refused = send(pod("p", json!({"nodeName": "n"})).unwrap().to_string()).await.refused(403);
    assert!(refused.ends_with("node \"n\" can only create mirror pods"), "{refused}");
    let refused = send(mirror("other", uid)).await.refused(403);
    assert!(refused.ends_with("can only create pods with spec.nodeName set to itself"), "{refused}");
    let refused = send(mirror("n", &json!("another"))).await.refused(403);
    assert!(refused.contains("node n UID mismatch"), "{refused}");
    send(mirror("n", uid)).await.expect(201);
}
