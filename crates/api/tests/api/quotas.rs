//! ResourceQuotas: what they count, for whom they are, and that they are exact.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::support::Desk;

const QUOTAS: &str = "/api/v1/namespaces/default/resourcequotas";
const PODS: &str = "/api/v1/namespaces/default/pods";

async fn make(desk: &Desk, name: &str, spec: Value) {
    let quota = json!({"metadata": {"name": name}, "spec": spec});
    desk.call("POST", QUOTAS, Some(quota)).await.expect(201);
}

async fn used(desk: &Desk, name: &str) -> Value {
    desk.call("GET", &format!("{QUOTAS}/{name}"), None).await.expect(200)["status"]["used"].take()
}

fn pod(name: &str, mut spec: Value) -> Option<Value> {
    if spec["containers"].is_null() {
        spec["containers"] = json!([{"name": "c", "image": "i:1"}]);
    }
    Some(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}))
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_hundred_at_one_time_a_hundred_are_made() {
    let desk = Arc::new(Desk::new().await);
    make(&desk, "q", json!({"hard": {"count/configmaps": "100"}})).await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let all = (0..200).map(|index| {
        let desk = desk.clone();
        let map = json!({"metadata": {"name": format!("m-{index}")}});
        tokio::spawn(async move { desk.call("POST", maps, Some(map)).await.status.as_u16() })
    });
    let codes = futures::future::join_all(all).await.into_iter().map(|code| code.expect("no panic"));
    let (made, refused): (Vec<u16>, Vec<u16>) = codes.partition(|code| *code == 201);
    assert_eq!((made.len(), refused), (100, vec![403; 100]));
    assert_eq!(used(&desk, "q").await["count/configmaps"], "100");
    let listed = desk.call("GET", maps, None).await.expect(200);
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(100));
    desk.call("DELETE", maps, None).await.expect(200);
    assert_eq!(used(&desk, "q").await["count/configmaps"], "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn quotas_count_quotas() {
    let desk = Desk::new().await;
    make(&desk, "q", json!({"hard": {"resourcequotas": "2"}})).await;
    assert_eq!(used(&desk, "q").await["resourcequotas"], "1");
    make(&desk, "r", json!({"hard": {"pods": "1"}})).await;
    assert_eq!(used(&desk, "q").await["resourcequotas"], "2");
    let refused = desk.call("POST", QUOTAS, Some(json!({"metadata": {"name": "s"}}))).await.refused(403);
    assert!(
        refused.contains("exceeded quota: q, requested: resourcequotas=1, used: resourcequotas=2, limited: resourcequotas=2"),
        "{refused}"
    );
    desk.call("DELETE", &format!("{QUOTAS}/r"), None).await.expect(200);
    assert_eq!(used(&desk, "q").await["resourcequotas"], "1");
    desk.call("DELETE", &format!("{QUOTAS}/q"), None).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn scopes_say_which_pods_count() {
    let desk = Desk::new().await;
    let class = json!({"metadata": {"name": "high"}, "value": 10});
    desk.call("POST", "/apis/scheduling.k8s.io/v1/priorityclasses", Some(class)).await.expect(201);
    make(&desk, "short", json!({"hard": {"pods": "1"}, "scopes": ["Terminating"]})).await;
    make(&desk, "long", json!({"hard": {"pods": "2"}, "scopes": ["NotTerminating"]})).await;
    make(&desk, "poor", json!({"hard": {"pods": "9"}, "scopes": ["BestEffort"]})).await;
    let expression = json!({"scopeName": "PriorityClass", "operator": "In", "values": ["high"]});
    let selector = json!({"matchExpressions": [expression]});
    make(&desk, "high", json!({"hard": {"pods": "1", "count/services": "0"}, "scopeSelector": selector}))
        .await;
    let counts = || async {
        let mut all = Vec::new();
        for name in ["short", "long", "poor", "high"] {
            all.push(used(&desk, name).await["pods"].as_str().unwrap_or_default().to_owned());
        }
        all
    };
    desk.call("POST", PODS, pod("a", json!({}))).await.expect(201);
    assert_eq!(counts().await, ["0", "1", "1", "0"]);
    let rich = json!([{"name": "c", "image": "i", "resources": {"requests": {"cpu": "1m"}}}]);
    let important = json!({"priorityClassName": "high", "containers": rich});
    desk.call("POST", PODS, pod("b", important.clone())).await.expect(201);
    assert_eq!(counts().await, ["0", "2", "1", "1"]);
    let refused = desk.call("POST", PODS, pod("c", json!({}))).await.refused(403);
    assert!(
        refused.contains("exceeded quota: long, requested: pods=1, used: pods=2, limited: pods=2"),
        "{refused}"
    );
    // One that is given an end becomes another's.
    let body = r#"{"spec":{"activeDeadlineSeconds":60}}"#;
    desk.patch("merge-patch+json", &format!("{PODS}/a"), body).await.expect(200);
    assert_eq!(counts().await, ["1", "1", "1", "1"]);
    let refused = desk.call("POST", PODS, pod("c", important)).await.refused(403);
    assert!(refused.contains("exceeded quota: high"), "{refused}");
    // A quota with scopes is for Pods alone.
    let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}});
    desk.call("POST", "/api/v1/namespaces/default/services", Some(service)).await.expect(201);
    desk.call("DELETE", PODS, None).await.expect(200);
    assert_eq!(counts().await, ["0", "0", "0", "0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_limited_must_be_given() {
    let desk = Desk::new().await;
    let hard = json!({"limits.cpu": "2", "requests.example.com/gpu": "1", "gold.storageclass.storage.k8s.io/requests.storage": "1Gi"});
    make(&desk, "q", json!({"hard": hard})).await;
    let refused = desk.call("POST", PODS, pod("a", json!({}))).await.refused(403);
    assert_eq!(refused, r#"pods "a" is forbidden: failed quota: q: must specify limits.cpu for: c"#);
    let with =
        |limits: Value| json!({"containers": [{"name": "c", "image": "i", "resources": {"limits": limits}}]});
    let gpus = |count: &str| with(json!({"cpu": "1", "example.com/gpu": count}));
    desk.call("POST", PODS, pod("a", gpus("1"))).await.expect(201);
    let refused = desk.call("POST", PODS, pod("b", gpus("1"))).await.refused(403);
    assert!(
        refused.ends_with("exceeded quota: q, requested: requests.example.com/gpu=1, used: requests.example.com/gpu=1, limited: requests.example.com/gpu=1"),
        "{refused}"
    );
    let grown = json!({"spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "3"}, "requests": {"cpu": "3"}}}]}});
    let kind = "strategic-merge-patch+json";
    let refused = desk.patch(kind, &format!("{PODS}/a/resize"), grown.to_string()).await.refused(403);
    assert!(
        refused.contains("requested: limits.cpu=2, used: limits.cpu=1, limited: limits.cpu=2"),
        "{refused}"
    );
    let claim = |name: &str, class: &str| {
        let spec = json!({"accessModes": ["ReadWriteOnce"], "storageClassName": class, "resources": {"requests": {"storage": "1Gi"}}});
        Some(json!({"metadata": {"name": name}, "spec": spec}))
    };
    let claims = "/api/v1/namespaces/default/persistentvolumeclaims";
    for (name, class, code) in [("a", "gold", 201), ("b", "gold", 403), ("c", "tin", 201)] {
        desk.call("POST", claims, claim(name, class)).await.expect(code);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_port_and_one_floating_ip_too_many_are_refused() {
    let desk = Desk::new().await;
    const ALL: &str = "/apis/network.yunfan.io/v1";
    let own = format!("{ALL}/namespaces/default");
    let make_one = async |base: &str, plural: &str, name: &str, spec: Value| {
        let object = json!({"metadata": {"name": name}, "spec": spec});
        desk.call("POST", &format!("{base}/{plural}"), Some(object)).await
    };
    let outer = json!({"subnets": [{"id": "s", "cidr": "192.0.2.0/28"}]});
    make_one(ALL, "externalnetworks", "out", outer).await.expect(201);
    make_one(&own, "networks", "n", json!({})).await.expect(201);
    make_one(&own, "subnets", "s", json!({"network": "n", "cidr": "10.10.0.0/28"})).await.expect(201);
    let hard = json!({"count/ports.network.yunfan.io": "2", "count/floatingips.network.yunfan.io": "1"});
    make(&desk, "q", json!({"hard": hard})).await;
    for name in ["a", "b"] {
        make_one(&own, "ports", name, json!({"network": "n"})).await.expect(201);
    }
    make_one(&own, "floatingips", "a", json!({"network": "out"})).await.expect(201);
    for (plural, spec, limit) in
        [("ports", json!({"network": "n"}), 2), ("floatingips", json!({"network": "out"}), 1)]
    {
        let why = make_one(&own, plural, "c", spec.clone()).await.refused(403);
        let key = format!("count/{plural}.network.yunfan.io");
        let wanted =
            format!("exceeded quota: q, requested: {key}=1, used: {key}={limit}, limited: {key}={limit}");
        assert!(why.ends_with(&wanted), "{why}");
        // What goes makes room.
        desk.call("DELETE", &format!("{own}/{plural}/a"), None).await.expect(200);
        make_one(&own, plural, "c", spec).await.expect(201);
    }
}
