//! The ports of nodes that Services have: each once, under many writers too, and free again as soon as they are given up.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::support::Desk;

const SERVICES: &str = "/api/v1/namespaces/default/services";

fn service(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})
}

fn on_nodes(name: &str, node_port: u16) -> Value {
    service(name, json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": node_port}]}))
}

fn node_port(service: &Value) -> u64 {
    service["spec"]["ports"][0]["nodePort"].as_u64().expect("a port of nodes")
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_get_a_port_each() {
    let desk = Arc::new(Desk::new().await);
    let all = (0..40).map(|index| {
        let desk = desk.clone();
        let body = service(&format!("s-{index}"), json!({"type": "NodePort", "ports": [{"port": 80}]}));
        tokio::spawn(async move { desk.call("POST", SERVICES, Some(body)).await.expect(201) })
    });
    let made = futures::future::join_all(all).await;
    let ports: BTreeSet<u64> = made.iter().map(|made| node_port(made.as_ref().expect("no panic"))).collect();
    assert_eq!(ports.len(), 40);
    assert!(ports.iter().all(|port| (30_086..=32_767).contains(port)), "{ports:?}");
    // One of many that ask for the same one has it.
    let all = (0..10).map(|index| {
        let (desk, body) = (desk.clone(), on_nodes(&format!("same-{index}"), 30_001));
        tokio::spawn(async move { desk.call("POST", SERVICES, Some(body)).await.status })
    });
    let statuses = futures::future::join_all(all).await;
    let mut statuses: Vec<u16> =
        statuses.into_iter().map(|status| status.expect("no panic").into()).collect();
    statuses.sort();
    assert_eq!(statuses, [[201].as_slice(), &[422; 9]].concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_are_free_as_soon_as_they_are_given_up() {
    let desk = Desk::new().await;
    let taken = async |port: u16| {
        let dry = format!("{SERVICES}?dryRun=All");
        desk.call("POST", &dry, Some(on_nodes("probe", port))).await.status == 422
    };
    assert!(!taken(31_000).await);
    desk.call("POST", SERVICES, Some(on_nodes("web", 31_000))).await.expect(201);
    assert!(taken(31_000).await);
    // A refused change gives nothing up, nor takes anything.
    let wrong = json!({"type": "NodePort", "ports": [{"port": 0, "nodePort": 31_001}]});
    desk.call("PUT", &format!("{SERVICES}/web"), Some(service("web", wrong))).await.refused(422);
    assert!(taken(31_000).await && !taken(31_001).await);
    let two = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 31_003,
        "ports": [{"name": "a", "port": 80, "nodePort": 31_001}, {"name": "b", "port": 81, "nodePort": 31_002}]});
    desk.call("PUT", &format!("{SERVICES}/web"), Some(service("web", two))).await.expect(200);
    assert!(!taken(31_000).await);
    assert!(taken(31_001).await && taken(31_002).await && taken(31_003).await);
    let plain = json!({"type": "ClusterIP", "ports": [{"port": 80}]});
    desk.call("PUT", &format!("{SERVICES}/web"), Some(service("web", plain))).await.expect(200);
    for port in [31_001, 31_002, 31_003] {
        assert!(!taken(port).await, "{port}");
    }
    desk.call("POST", SERVICES, Some(on_nodes("other", 31_001))).await.expect(201);
    desk.call("DELETE", &format!("{SERVICES}/other"), None).await.expect(200);
    assert!(!taken(31_001).await);
}
