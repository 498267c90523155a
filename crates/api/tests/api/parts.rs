//! Parts of a Pod that change through subresources.

use serde_json::{Value, json};

use crate::support::Desk;

const POD: &str = "/api/v1/namespaces/default/pods/p";

async fn with_pod() -> (Desk, Value) {
    let desk = Desk::new().await;
    let resources = json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "200m"}});
    let spec = json!({"containers": [{"name": "a", "image": "i:1", "resources": resources}]});
    let pod = json!({"metadata": {"name": "p"}, "spec": spec});
    let made = desk.call("POST", "/api/v1/namespaces/default/pods", Some(pod)).await.expect(201);
    (desk, made)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_debug_container_is_added_as_kubectl_does() {
    let (desk, made) = with_pod().await;
    let path = format!("{POD}/ephemeralcontainers");
    let patch = json!({"spec": {"containers": [{"name": "a", "image": "other"}],
        "ephemeralContainers": [{"name": "debugger", "image": "busybox", "stdin": true, "targetContainerName": "a"}]}});
    let patched = desk.patch("strategic-merge-patch+json", &path, patch.to_string()).await.expect(200);
    let added = &patched["spec"]["ephemeralContainers"][0];
    assert_eq!((&added["name"], &added["imagePullPolicy"]), (&json!("debugger"), &json!("Always")));
    assert_eq!(patched["spec"]["containers"][0]["image"], "i:1", "nothing else changes here");
    assert_eq!(made["metadata"]["generation"], 1);
    assert_eq!(patched["metadata"]["generation"], 2);
    let changed = json!({"spec": {"ephemeralContainers": [{"name": "debugger", "image": "other"}]}});
    let message = desk.patch("strategic-merge-patch+json", &path, changed.to_string()).await.refused(422);
    assert!(message.contains("existing ephemeral containers \"debugger\" may not be changed"), "{message}");
    desk.patch("merge-patch+json", &path, r#"{"spec":{"ephemeralContainers":[]}}"#).await.refused(422);
    let probe = json!({"spec": {"ephemeralContainers": [{"name": "x", "image": "i", "ports": [{"containerPort": 1}]}]}});
    let message = desk.patch("strategic-merge-patch+json", &path, probe.to_string()).await.refused(422);
    assert!(message.contains("cannot be set for an Ephemeral Container"), "{message}");
    // Only there: the Pod itself does not take them.
    let message = desk.patch("strategic-merge-patch+json", POD, probe.to_string()).await.refused(422);
    assert!(message.contains("pod updates may not change fields other than"), "{message}");
    desk.call("GET", &path, None).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn resources_change_where_the_node_can_follow() {
    let (desk, _) = with_pod().await;
    let path = format!("{POD}/resize");
    let patch = |cpu: &str| {
        let resources = json!({"requests": {"cpu": cpu}, "limits": {"cpu": "300m"}});
        json!({"spec": {"containers": [{"name": "a", "image": "other", "resources": resources}]}}).to_string()
    };
    let patched = desk.patch("strategic-merge-patch+json", &path, patch("150m")).await.expect(200);
    let container = &patched["spec"]["containers"][0];
    assert_eq!(container["resources"], json!({"requests": {"cpu": "150m"}, "limits": {"cpu": "300m"}}));
    assert_eq!((&container["image"], &patched["metadata"]["generation"]), (&json!("i:1"), &json!(2)));
    let more = json!({"spec": {"containers": [{"name": "b", "image": "i"}]}}).to_string();
    let message = desk.patch("strategic-merge-patch+json", &path, more).await.refused(422);
    assert!(message.contains("containers may not be added or removed on resize"), "{message}");
    desk.patch("strategic-merge-patch+json", POD, patch("180m")).await.refused(422);
    let running = json!({"status": {"containerStatuses": [{"name": "a", "image": "i:1", "imageID": "", "ready": true,
        "restartCount": 0, "state": {"running": {}}}]}});
    desk.patch("strategic-merge-patch+json", &format!("{POD}/status"), running.to_string()).await.expect(200);
    let message = desk.patch("strategic-merge-patch+json", &path, patch("170m")).await.refused(422);
    assert!(message.contains("Pod running on node without support for resize"), "{message}");
}
