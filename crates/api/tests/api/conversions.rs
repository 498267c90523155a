//! Kinds of Kubernetes' own that are served in two versions or two groups: one object, seen through both.

use serde_json::{Value, json};

use crate::support::Desk;

const V1: &str = "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers";
const V2: &str = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers";
const CORE: &str = "/api/v1/namespaces/default/events";
const EVENTS: &str = "/apis/events.k8s.io/v1/namespaces/default/events";
const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";

fn memory(share: u32) -> Value {
    let target = json!({"type": "Utilization", "averageUtilization": share});
    json!({"type": "Resource", "resource": {"name": "memory", "target": target}})
}

#[tokio::test(flavor = "multi_thread")]
async fn an_autoscaler_keeps_what_the_older_version_has_no_fields_for() {
    let desk = Desk::new().await;
    let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"});
    let object = json!({"metadata": {"name": "a"},
        "spec": {"scaleTargetRef": target, "maxReplicas": 4, "metrics": [memory(60)], "behavior": {"scaleDown": {}}}});
    let made = desk.call("POST", V2, Some(object)).await.expect(201);
    assert_eq!(made["apiVersion"], "autoscaling/v2");
    let one = format!("{V1}/a");
    let older = desk.call("GET", &one, None).await.expect(200);
    assert_eq!(older["apiVersion"], "autoscaling/v1");
    assert!(older["metadata"]["annotations"][METRICS].as_str().is_some_and(|text| text.contains("memory")));
    assert_eq!(older["spec"].get("metrics"), None);
    assert_eq!(older["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);

    // A change through the older version is one of the object that both show.
    let patch = r#"{"spec":{"targetCPUUtilizationPercentage":30,"maxReplicas":7}}"#;
    let patched = desk.patch("merge-patch+json", &one, patch).await.expect(200);
    assert_eq!(patched["spec"]["targetCPUUtilizationPercentage"], 30);
    let newer = desk.call("GET", &format!("{V2}/a"), None).await.expect(200);
    assert_eq!(newer["spec"]["maxReplicas"], 7);
    assert_eq!(newer["spec"]["metrics"][0], memory(60));
    assert_eq!(newer["spec"]["metrics"][1]["resource"]["name"], "cpu");
    assert_eq!(newer["spec"]["behavior"], made["spec"]["behavior"]);
    assert_eq!(newer["metadata"].get("annotations"), None);
    // What both already say is no change.
    let again = desk.call("PUT", &one, Some(patched.clone())).await.expect(200);
    assert_eq!(again["metadata"]["resourceVersion"], newer["metadata"]["resourceVersion"]);

    let listed = desk.call("GET", V1, None).await.expect(200);
    assert_eq!(listed["apiVersion"], "autoscaling/v1");
    assert_eq!(listed["items"][0]["spec"]["targetCPUUtilizationPercentage"], 30);
    let status = json!({"status": {"currentReplicas": 2, "desiredReplicas": 3,
        "conditions": [{"type": "AbleToScale", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
    desk.patch("merge-patch+json", &format!("{V2}/a/status"), &status.to_string()).await.expect(200);
    let patch = r#"{"status":{"currentReplicas":5}}"#;
    desk.patch("merge-patch+json", &format!("{one}/status"), patch).await.expect(200);
    let newer = desk.call("GET", &format!("{V2}/a"), None).await.expect(200);
    assert_eq!(newer["status"]["currentReplicas"], 5);
    assert_eq!(newer["status"]["conditions"][0]["type"], "AbleToScale");
    let message = desk.patch("merge-patch+json", &one, r#"{"spec":{"maxReplicas":0}}"#).await.refused(422);
    assert!(
        message.contains("spec.maxReplicas: Required value: must be set and greater than 0"),
        "{message}"
    );
    let gone = desk.call("DELETE", &one, None).await.expect(200);
    assert_eq!(gone["status"], "Success");
    desk.call("GET", &format!("{V2}/a"), None).await.refused(404);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_one_object_in_both_groups() {
    let desk = Desk::new().await;
    let event = |name: &str, about: &str| {
        json!({"metadata": {"name": name}, "eventTime": "2026-01-01T00:00:00.000000Z", "type": "Normal", "reason": "Ran",
            "action": "Run", "reportingController": "c.io/x", "reportingInstance": "x", "note": "it ran",
            "regarding": {"kind": "Pod", "namespace": "default", "name": about}})
    };
    let made = desk.call("POST", EVENTS, Some(event("a", "web"))).await.expect(201);
    assert_eq!((&made["apiVersion"], &made["note"]), (&json!("events.k8s.io/v1"), &json!("it ran")));
    let core = desk.call("GET", &format!("{CORE}/a"), None).await.expect(200);
    assert_eq!(core["apiVersion"], "v1");
    assert_eq!((&core["message"], &core["involvedObject"]["name"]), (&json!("it ran"), &json!("web")));
    assert_eq!(core.get("note"), None);

    let revision = core["metadata"]["resourceVersion"].as_str().expect("a revision");
    let chosen = "fieldSelector=regarding.name%3Dweb";
    let mut watch = desk.watch(&format!("{EVENTS}?watch=true&resourceVersion={revision}&{chosen}")).await;
    desk.call("POST", EVENTS, Some(event("b", "other"))).await.expect(201);
    let old = json!({"metadata": {"name": "c"}, "message": "old words", "source": {"component": "s"}, "count": 3,
        "involvedObject": {"kind": "Pod", "namespace": "default", "name": "web"}});
    desk.call("POST", CORE, Some(old)).await.expect(201);
    let seen = watch.next().await.expect("an event");
    assert_eq!((&seen["type"], &seen["object"]["metadata"]["name"]), (&json!("ADDED"), &json!("c")));
    assert_eq!(seen["object"]["apiVersion"], "events.k8s.io/v1");
    assert_eq!(
        (&seen["object"]["note"], &seen["object"]["deprecatedCount"]),
        (&json!("old words"), &json!(3))
    );

    let names = |list: Value| -> Vec<String> {
        let items = list["items"].as_array().cloned().unwrap_or_default();
        items.iter().map(|item| item["metadata"]["name"].as_str().unwrap_or_default().to_owned()).collect()
    };
    let listed = desk.call("GET", &format!("{EVENTS}?{chosen}"), None).await.expect(200);
    assert_eq!(names(listed), ["a", "c"]);
    let listed = desk.call("GET", &format!("{CORE}?fieldSelector=involvedObject.name%3Dother"), None).await;
    assert_eq!(names(listed.expect(200)), ["b"]);
    desk.call("GET", &format!("{CORE}?{chosen}"), None).await.refused(400);
    let listed = desk.call("GET", &format!("{CORE}?fieldSelector=source%3Dc.io/x"), None).await;
    assert_eq!(names(listed.expect(200)), ["a", "b"], "by who reports, where no source is named");

    // The groups ask for different things of who writes.
    let message =
        desk.patch("merge-patch+json", &format!("{EVENTS}/a"), r#"{"note":"no"}"#).await.refused(422);
    assert!(message.contains("message: Invalid value: \"no\": field is immutable"), "{message}");
    desk.patch("merge-patch+json", &format!("{CORE}/a"), r#"{"message":"yes"}"#).await.expect(200);
    let both = desk.call("GET", &format!("{EVENTS}/a"), None).await.expect(200);
    assert_eq!(both["note"], "yes");
    desk.call("DELETE", EVENTS, None).await.expect(200);
    assert!(names(desk.call("GET", CORE, None).await.expect(200)).is_empty());
}
