//! Whose requests wait for whose: flow schemas and priority levels, as they are stored.

use serde_json::{Value, json};
use yunfan_identity::UserInfo;

use crate::support::{Answer, Desk, admin, nobody};

const GROUP: &str = "/apis/flowcontrol.apiserver.k8s.io/v1";

fn level(name: &str, shares: u32) -> Option<Value> {
    Some(json!({"metadata": {"name": name}, "spec": {"type": "Limited", "limited": {
        "nominalConcurrencyShares": shares, "borrowingLimitPercent": 0, "limitResponse": {"type": "Reject"}}}}))
}

fn schema(name: &str, level: &str, user: &str) -> Option<Value> {
    let rule = json!({"subjects": [{"kind": "User", "user": {"name": user}}], "resourceRules": [
        {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true, "namespaces": ["*"]}]});
    Some(json!({"metadata": {"name": name}, "spec": {"matchingPrecedence": 10,
        "priorityLevelConfiguration": {"name": level}, "rules": [rule]}}))
}

async fn get(desk: &Desk, user: Option<UserInfo>, path: &str) -> Answer {
    desk.send(user, "GET", path, "", &[], String::new()).await
}

/// The condition of a schema, once it has this status.
async fn dangling(desk: &Desk, name: &str, status: &str) -> Value {
    let path = format!("{GROUP}/flowschemas/{name}");
    for _ in 0..500 {
        let object = desk.call("GET", &path, None).await.expect(200);
        let condition = &object["status"]["conditions"][0];
        if condition["status"] == status {
            return condition.clone();
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("{name} is not told whether it dangles ({status})");
}

#[tokio::test]
async fn a_request_is_told_which_flow_it_is_one_of() {
    let desk = Desk::new().await;
    for (user, path, schema, level) in [
        (admin(), "/api/v1/pods", "exempt", "exempt"),
        (nobody(), "/api/v1/pods", "global-default", "global-default"),
        (None, "/healthz", "probes", "exempt"),
        (
            Some(UserInfo::authenticated("n", ["system:nodes"])),
            "/api/v1/nodes/n",
            "system-node-high",
            "node-high",
        ),
    ] {
        let answer = get(&desk, user, path).await;
        let uid = |header: &str| answer.headers.get(header).expect(header).to_str().expect("text").to_owned();
        for (kind, name, header) in [
            ("flowschemas", schema, "x-kubernetes-pf-flowschema-uid"),
            ("prioritylevelconfigurations", level, "x-kubernetes-pf-prioritylevel-uid"),
        ] {
            let object = desk.call("GET", &format!("{GROUP}/{kind}/{name}"), None).await.expect(200);
            assert_eq!(object["metadata"]["uid"], uid(header), "{path}: {name}");
        }
    }
}

#[tokio::test]
async fn a_level_without_seats_refuses_and_tells_when_to_come_back() {
    let desk = Desk::new().await;
    desk.call("POST", &format!("{GROUP}/prioritylevelconfigurations"), level("jail", 0)).await.expect(201);
    desk.call("POST", &format!("{GROUP}/flowschemas"), schema("jail", "jail", "ann")).await.expect(201);
    let ann = || Some(UserInfo::authenticated("ann", ["dev"]));
    let refused = get(&desk, ann(), "/api/v1/pods").await.got(429);
    assert_eq!(refused.headers["retry-after"], "1");
    assert!(refused.headers.contains_key("x-kubernetes-pf-flowschema-uid"));
    let body = refused.refused(429);
    assert_eq!(body, "too many requests, please try again later");
    get(&desk, nobody(), "/api/v1/pods").await.refused(403);
    let told = get(&desk, admin(), "/metrics").await.text;
    let line = "apiserver_flowcontrol_rejected_requests_total{flow_schema=\"jail\",priority_level=\"jail\",reason=\"concurrency-limit\"} 1";
    assert!(told.contains(line), "{told}");
    // What an object says counts from the moment it is stored.
    let seats = r#"{"spec":{"limited":{"nominalConcurrencyShares":30}}}"#;
    desk.patch("merge-patch+json", &format!("{GROUP}/prioritylevelconfigurations/jail"), seats)
        .await
        .expect(200);
    get(&desk, ann(), "/api/v1/pods").await.refused(403);
    // Without its level a schema takes nothing, and with it gone neither does it count.
    desk.call("DELETE", &format!("{GROUP}/flowschemas/jail"), None).await.expect(200);
    get(&desk, ann(), "/api/v1/pods").await.refused(403);
    let told = get(&desk, admin(), "/metrics").await.text;
    assert!(!told.contains("flow_schema=\"jail\""), "{told}");
}

#[tokio::test]
async fn a_schema_says_whether_its_level_is_there() {
    let desk = Desk::new().await;
    desk.call("POST", &format!("{GROUP}/flowschemas"), schema("early", "late", "ann")).await.expect(201);
    let condition = dangling(&desk, "early", "True").await;
    assert_eq!((&condition["type"], &condition["reason"]), (&json!("Dangling"), &json!("NotFound")));
    let ann = Some(UserInfo::authenticated("ann", ["dev"]));
    get(&desk, ann, "/api/v1/pods").await.refused(403);
    desk.call("POST", &format!("{GROUP}/prioritylevelconfigurations"), level("late", 5)).await.expect(201);
    let condition = dangling(&desk, "early", "False").await;
    let message =
        "This FlowSchema references the PriorityLevelConfiguration object named \"late\" and it exists";
    assert_eq!((&condition["reason"], &condition["message"]), (&json!("Found"), &json!(message)));
}

#[tokio::test]
async fn what_every_cluster_has_comes_back() {
    let desk = Desk::new().await;
    for kind in ["flowschemas", "prioritylevelconfigurations"] {
        let path = format!("{GROUP}/{kind}/catch-all");
        let before = desk.call("GET", &path, None).await.expect(200);
        desk.call("DELETE", &path, None).await.expect(200);
        let mut again = None;
        for _ in 0..500 {
            let answer = desk.call("GET", &path, None).await;
            if answer.status == 200 {
                again = Some(answer.body);
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        let again = again.expect("it comes back");
        assert_ne!(again["metadata"]["uid"], before["metadata"]["uid"], "{kind}");
        assert_eq!(again["spec"], before["spec"], "{kind}");
    }
}
