//! Pod Security Standards, and default classes.

use serde_json::{Value, json};

use crate::support::{Answer, Desk};

const PODS: &str = "/api/v1/namespaces/safe/pods";

async fn space(desk: &Desk, labels: Value) {
    let space = json!({"metadata": {"name": "safe", "labels": labels}});
    desk.call("POST", "/api/v1/namespaces", Some(space)).await.expect(201);
    desk.account("safe", "default").await;
}

fn pod(name: &str, security: Value) -> Option<Value> {
    let container = json!({"name": "c", "image": "i:1", "securityContext": security});
    Some(json!({"metadata": {"name": name}, "spec": {"containers": [container]}}))
}

fn warnings(answer: &Answer) -> Vec<String> {
    let all = answer.headers.get_all("warning").iter();
    all.map(|warning| warning.to_str().expect("text").replace("\\\"", "'")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_keep_to_what_their_namespace_says() {
    let desk = Desk::new().await;
    let warn = "pod-security.kubernetes.io/warn";
    let enforce = "pod-security.kubernetes.io/enforce";
    space(&desk, json!({enforce: "baseline", warn: "restricted"})).await;
    let refused = desk.call("POST", PODS, pod("a", json!({"privileged": true}))).await.refused(403);
    assert_eq!(
        refused,
        r#"pods "a" is forbidden: violates PodSecurity "baseline:latest": privileged (container "c" must not set securityContext.privileged=true)"#
    );
    let made = desk.call("POST", PODS, pod("a", json!({}))).await.got(201);
    let told = warnings(&made);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        told[0].contains("would violate PodSecurity 'restricted:latest': allowPrivilegeEscalation != false"),
        "{told:?}"
    );
    // Who makes Pods for others is warned, not refused.
    let labels = json!({"a": "b"});
    let mut template = pod("t", json!({"privileged": true})).expect("a Pod");
    template["metadata"] = json!({"labels": labels});
    let set = json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": labels}, "template": template}});
    let path = "/apis/apps/v1/namespaces/safe/deployments";
    let told = warnings(&desk.call("POST", path, Some(set)).await.got(201));
    assert!(told.iter().any(|text| text.contains("privileged (container 'c'")), "{told:?}");
    // A debug container is looked at too; what is there already may change in other ways.
    let debug = json!({"spec": {"ephemeralContainers": [{"name": "d", "image": "i", "securityContext": {"privileged": true}}]}});
    let path = format!("{PODS}/a/ephemeralcontainers");
    let refused = desk.patch("strategic-merge-patch+json", &path, debug.to_string()).await.refused(403);
    assert!(refused.contains("violates PodSecurity"), "{refused}");
    let label = r#"{"metadata":{"labels":{"a":"b"}}}"#;
    let changed = desk.patch("merge-patch+json", &format!("{PODS}/a"), label).await.got(200);
    assert!(warnings(&changed).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_is_trusted_once_someone_says_so() {
    let desk = Desk::new().await;
    space(&desk, json!({"pod-security.kubernetes.io/enforce": "baseline"})).await;
    let mut abroad = pod("a", json!({})).expect("a Pod");
    abroad["spec"]["hostNetwork"] = json!(true);
    let refused = desk.call("POST", PODS, Some(abroad.clone())).await.refused(403);
    assert!(
        refused.contains(r#"violates PodSecurity "baseline:latest": host namespaces (hostNetwork=true)"#),
        "{refused}"
    );
    let trust =
        json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "privileged"}}}).to_string();
    desk.patch("merge-patch+json", "/api/v1/namespaces/safe", trust).await.expect(200);
    desk.call("POST", PODS, Some(abroad)).await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn stricter_labels_tell_of_the_pods_that_break_them() {
    let desk = Desk::new().await;
    space(&desk, json!({})).await;
    for name in ["b", "a", "c"] {
        desk.call("POST", PODS, pod(name, json!({"privileged": true}))).await.expect(201);
    }
    let label = |value: &str| {
        json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": value}}}).to_string()
    };
    let path = "/api/v1/namespaces/safe";
    let told = warnings(&desk.patch("merge-patch+json", path, label("baseline")).await.got(200));
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(
        told[0].contains(
            "existing pods in namespace 'safe' violate the new PodSecurity enforce level 'baseline:latest'"
        ),
        "{told:?}"
    );
    assert!(told[1].contains("a (and 2 other pods): privileged"), "{told:?}");
    let refused = desk.patch("merge-patch+json", path, label("none")).await.refused(422);
    assert_eq!(
        refused,
        r#"Namespace "safe" is invalid: metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: "none": must be one of privileged, baseline, restricted"#
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_names_no_class_gets_the_default() {
    let desk = Desk::new().await;
    let claims = "/api/v1/namespaces/default/persistentvolumeclaims";
    let claim = |name: &str, class: Value| {
        let spec = json!({"accessModes": ["ReadWriteOnce"], "storageClassName": class, "resources": {"requests": {"storage": "1Gi"}}});
        Some(json!({"metadata": {"name": name}, "spec": spec}))
    };
    let class = |mark: &str| json!({"name": "usual", "annotations": {mark: "true"}});
    // A cloud has one from its start; one that is made later is newer, or first by its name.
    let storage =
        json!({"metadata": class("storageclass.kubernetes.io/is-default-class"), "provisioner": "p"});
    let made = desk.call("POST", claims, claim("a", Value::Null)).await.expect(201);
    assert_eq!(made["spec"]["storageClassName"], "yunfan");
    desk.call("POST", "/apis/storage.k8s.io/v1/storageclasses", Some(storage)).await.expect(201);
    let made = desk.call("POST", claims, claim("b", Value::Null)).await.expect(201);
    assert_eq!(made["spec"]["storageClassName"], "usual");
    let made = desk.call("POST", claims, claim("c", json!(""))).await.expect(201);
    assert_eq!(made["spec"]["storageClassName"], "");
    let ingress = json!({"metadata": {"name": "i"}, "spec": {"defaultBackend": {"service": {"name": "s", "port": {"number": 80}}}}});
    let class = json!({"metadata": class("ingressclass.kubernetes.io/is-default-class"), "spec": {"controller": "a.b/c"}});
    desk.call("POST", "/apis/networking.k8s.io/v1/ingressclasses", Some(class)).await.expect(201);
    let path = "/apis/networking.k8s.io/v1/namespaces/default/ingresses";
    let made = desk.call("POST", path, Some(ingress)).await.expect(201);
    assert_eq!(made["spec"]["ingressClassName"], "usual");
}
